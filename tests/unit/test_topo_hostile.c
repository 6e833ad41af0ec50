/* Topologies that cannot be: every key of every file in turn with values that no reader may swallow, files that name
 * each other, ports used twice over, anchors that multiply. Each ends within a second, with the place in the file. */
#include "test_topo_fixture.h"

#include <ctype.h>
#include <stdlib.h>
#include <time.h>

#define CATALOG SF_CATALOG_DIR "/"
#define TEXT_MAX 32768

static const char cluster_text[] =
    "name: victim\n"
    "groups:\n"
    "  - device: gb200\n"
    "    domains: 4\n"
    "    domain: { kind: old, trays: 2, gpus_per_tray: 4, cpus_per_tray: 2, nvswitches: 18, link: nvlink5, "
    "links_per_gpu: 18, cpu_link: nvlink-c2c }\n"
    "    nic: connectx7-400g\n"
    "  - device: gb300\n"
    "    domains: 4\n"
    "    starts: group\n"
    "    domain: { kind: new, trays: 2, gpus_per_tray: 4, cpus_per_tray: 2, nvswitches: 18, link: nvlink5, "
    "links_per_gpu: 18, cpu_link: nvlink-c2c, gpus_in_use: 6 }\n"
    "    nic: connectx8-800g\n"
    "gpus_in_use: 40\n"
    "rails: 4\n"
    "planes: 2\n"
    "collectives: { algorithm: ring, protocol: simple, sharp: false }\n"
    "fabric:\n"
    "  switch: quantum-x800-q3400\n"
    "  leaf_down: 4\n"
    "  tiers: 3\n"
    "  oversubscription: 2\n"
    "  cables: { nic_leaf: 5m, leaf_spine: 30m, spine_core: 50m }\n"
    "overlay:\n"
    "  spare: { gpus: [\"9\"], domains: [\"3\"] }\n"
    "  dead: { gpus: [\"1\"], nics: [\"5:1\"], links: [\"leaf-up 0:1\"], switches: [\"nvswitch 3\"] }\n"
    "  degraded: [{ links: [\"leaf-down 1:0\"], rate: 0.5 }]\n";

static const char *const files[] = {
    "dir/cluster.yaml",
    CATALOG "devices/gb300.yaml",
    CATALOG "kernels/gb300.yaml",
    CATALOG "links/nvlink5.yaml",
    CATALOG "links/connectx8-800g.yaml",
    CATALOG "links/nvlink-c2c.yaml",
    CATALOG "switches/quantum-x800-q3400.yaml",
};

static void read_file(const char *path, char out[TEXT_MAX]) {
    char *text = NULL;
    size_t bytes = 0;
    struct sf_err err = {0};
    if (strcmp(path, files[0]) == 0) {
        snprintf(out, TEXT_MAX, "%s", cluster_text);
        return;
    }
    assert_int_equal(sf_io_posix.read_all(NULL, path, TEXT_MAX - 1, &text, &bytes, &err), 0);
    memcpy(out, text, bytes + 1);
    sf_free(text);
}

struct outcome {
    int rc;
    double seconds;
    struct sf_err err;
};

/* Loads the victim with one file replaced, and proves it when it loads. */
static struct outcome attempt(const char *path, const char *text) {
    const struct memory_file memory[] = {{path, text}, {files[0], cluster_text}};
    struct memory_io m = {memory, 2};
    const struct sf_io io = {&m, memory_read_all, NULL};
    struct outcome o = {0};
    struct sf_topo *t = NULL;
    clock_t from = clock();
    o.rc = sf_topo_load(&io, files[0], SF_CATALOG_DIR, &t, &o.err);
    o.rc = o.rc == 0 ? sf_topo_check(t, &o.err) : o.rc;
    o.seconds = (double)(clock() - from) / CLOCKS_PER_SEC;
    sf_topo_free(t);
    return o;
}

static void expect_place(const struct outcome *o, const char *path, const char *what) {
    if (o->seconds > 1.0 || (o->rc != 0 && (o->rc != SF_E_INPUT || o->err.file[0] == '\0' || o->err.line == 0))) {
        fail_msg("%s with %s: code %d after %.1f s, %s:%u:%u: %s", path, what, o->rc, o->seconds, o->err.file,
                 o->err.line, o->err.column, o->err.msg);
    }
}

/* The next scalar behind "key: " from `at` on; its length, 0 at the end. Comments and quoted text are no scalars. */
static size_t next_scalar(const char *text, size_t *at) {
    for (; text[*at] != '\0'; ++*at) {
        if (text[*at] == '#' || text[*at] == '"') {
            const char *end = strchr(&text[*at + 1], text[*at] == '#' ? '\n' : '"');
            *at = end != NULL ? (size_t)(end - text) : strlen(text) - 1;
        } else if (*at >= 2 && text[*at - 2] == ':' && text[*at - 1] == ' ') {
            size_t n = strcspn(&text[*at], ",}]#\n\"{[");
            while (n > 0 && text[*at + n - 1] == ' ') {
                n--;
            }
            if (n > 0) {
                return n;
            }
        }
    }
    return 0;
}

static void replace(const char *text, size_t at, size_t n, const char *by, char out[TEXT_MAX]) {
    int length = snprintf(out, TEXT_MAX, "%.*s%s%s", (int)at, text, by, text + at + n);
    assert_true(length > 0 && length < TEXT_MAX);
}

/* Everything of the number but its digits: "GB/s". */
static const char *unit_of(const char *scalar, size_t n, char unit[32]) {
    size_t digits = strspn(scalar, "0123456789.");
    snprintf(unit, 32, "%.*s", (int)(n - digits < 31 ? n - digits : 31), scalar + digits);
    return unit;
}

/* Numbers that are no number of anything are always refused; others may mean something. */
static void try_all(const char *path, const char *text, size_t at, size_t n) {
    static const char *const never[] = {"-1", "9223372036854775808", "18446744073709551616", "1e400", "nan", "0x10"};
    static const char *const any[] = {"0",    "*gone", "&here 1",         "[]",        "{}",
                                      "\"\"", "~",     "nothing-like-it", "../../../x"};
    char unit[32], value[96], changed[TEXT_MAX];
    bool number = isdigit((unsigned char)text[at]) != 0;
    for (size_t i = 0; i < sizeof never / sizeof *never && number; i++) {
        snprintf(value, sizeof value, "%s%s", never[i], unit_of(&text[at], n, unit));
        replace(text, at, n, value, changed);
        struct outcome o = attempt(path, changed);
        expect_place(&o, path, value);
        if (o.rc == 0) {
            fail_msg("%s takes %s for %.*s", path, value, (int)n, &text[at]);
        }
    }
    for (size_t i = 0; i < sizeof any / sizeof *any; i++) {
        snprintf(value, sizeof value, "%s%s", any[i], number && any[i][0] == '0' ? unit_of(&text[at], n, unit) : "");
        replace(text, at, n, value, changed);
        struct outcome o = attempt(path, changed);
        expect_place(&o, path, value);
    }
}

static void test_every_key_with_every_value(void **state) {
    (void)state;
    static char text[TEXT_MAX];
    size_t scalars = 0;
    for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
        read_file(files[f], text);
        struct outcome o = attempt(files[f], text);
        expect_place(&o, files[f], "nothing changed");
        assert_int_equal(o.rc, 0);
        size_t n;
        for (size_t at = 0; (n = next_scalar(text, &at)) > 0; at += n, scalars++) {
            try_all(files[f], text, at, n);
        }
    }
    assert_true(scalars > 150);
}

/* A key that is not there, twice there, or unknown. */
static void test_every_line_gone_or_doubled(void **state) {
    (void)state;
    static char text[TEXT_MAX], changed[TEXT_MAX];
    for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
        read_file(files[f], text);
        for (size_t at = 0; text[at] != '\0';) {
            size_t n = strcspn(&text[at], "\n") + 1;
            snprintf(changed, sizeof changed, "%.*s%s", (int)at, text, text + at + n);
            struct outcome gone = attempt(files[f], changed);
            expect_place(&gone, files[f], "a line less");
            snprintf(changed, sizeof changed, "%.*s%.*s%s", (int)(at + n), text, (int)n, &text[at], text + at + n);
            struct outcome doubled = attempt(files[f], changed);
            expect_place(&doubled, files[f], "a line twice");
            at += n;
        }
    }
}

static void test_impossible_clusters(void **state) {
    (void)state;
    static const struct {
        const char *was, *is, *message;
    } rows[] = {
        {"device: gb300", "device: cluster.yaml", "unknown key \"groups\""}, /* files in a circle */
        {"nic: connectx8-800g", "nic: cluster.yaml", "unknown key \"groups\""},
        {"  switch: quantum-x800-q3400", "  switch: cluster.yaml", "unknown key \"groups\""},
        {"device: gb300", "device: gb301", "cannot read"},
        {"leaf_down: 4", "leaf_down: 500", "ports"},
        {"tiers: 3", "tiers: 4", "expected"},
        {"rails: 4", "rails: 3", "rails"},
        {"planes: 2", "planes: 3", "planes"},
        {"links_per_gpu: 18, cpu_link: nvlink-c2c }", "links_per_gpu: 19, cpu_link: nvlink-c2c }",
         "at most the 18 links"},
        {"nic: connectx7-400g", "nic: nvlink5", "belongs to a scale-up link"},
        {"trays: 2", "trays: 16777216", "over the limit"},
        {"trays: 2", "trays: 3", "domains of"},
        {"domains: 4", "domains: 16777216", "the limit is"},
        {"gpus_in_use: 40", "gpus_in_use: 47", "neither empty nor dead nor spare"},
        {"gpus: [\"1\"]", "gpus: [\"0..63\"]", "neither empty nor dead nor spare"},
        {"gpus: [\"1\"]", "gpus: [\"1\", \"1\"]", "named twice"},
        {"gpus: [\"1\"]", "gpus: [\"64\"]", "out of range"},
        {"gpus: [\"1\"]", "gpus: [\"9223372036854775808\"]", "range"},
        {"gpus: [\"1\"]", "gpus: [\"5..4\"]", ""},
        {"leaf-up 0:1", "leaf-up 0:9999", "range"},
        {"nvswitch 3", "nvswitch 144", "range"},
        {"rate: 0.5", "rate: 1.5", "expected"},
        {"overlay:\n", "overlay: cluster.yaml\nx:\n", "unknown key"},
    };
    static char changed[TEXT_MAX];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *at = strstr(cluster_text, rows[i].was);
        assert_non_null(at);
        replace(cluster_text, (size_t)(at - cluster_text), strlen(rows[i].was), rows[i].is, changed);
        struct outcome o = attempt(files[0], changed);
        expect_place(&o, files[0], rows[i].is);
        if (o.rc != SF_E_INPUT || strstr(o.err.msg, rows[i].message) == NULL) {
            fail_msg("%s: code %d, %s:%u: %s", rows[i].is, o.rc, o.err.file, o.err.line, o.err.msg);
        }
    }
}

/* Nine anchors, each ten times the one before: a thousand million groups for whoever follows them. */
static void test_anchors_that_multiply(void **state) {
    (void)state;
    static char text[TEXT_MAX];
    size_t used = (size_t)snprintf(text, sizeof text, "a0: &a0 [gpu]\n");
    for (int i = 1; i < 10; i++) {
        used += (size_t)snprintf(text + used, sizeof text - used, "a%d: &a%d [", i, i);
        for (int k = 0; k < 10; k++) {
            used += (size_t)snprintf(text + used, sizeof text - used, "%s*a%d", k > 0 ? ", " : "", i - 1);
        }
        used += (size_t)snprintf(text + used, sizeof text - used, "]\n");
    }
    snprintf(text + used, sizeof text - used, "groups: *a9\n");
    for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
        struct outcome o = attempt(files[f], text);
        expect_place(&o, files[f], "anchors");
        assert_int_equal(o.rc, SF_E_INPUT);
    }
}

/* Deeper than any topology is. */
static void test_endless_nesting(void **state) {
    (void)state;
    static char text[TEXT_MAX];
    memset(text, '[', sizeof text - 1);
    memcpy(text, "name: ", 6);
    text[sizeof text - 1] = '\0';
    for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
        struct outcome o = attempt(files[f], text);
        expect_place(&o, files[f], "brackets");
        assert_int_equal(o.rc, SF_E_INPUT);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_key_with_every_value),
        cmocka_unit_test(test_every_line_gone_or_doubled),
        cmocka_unit_test(test_impossible_clusters),
        cmocka_unit_test(test_anchors_that_multiply),
        cmocka_unit_test(test_endless_nesting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
