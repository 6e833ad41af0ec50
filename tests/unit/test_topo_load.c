/* Loading: every shipped cluster, located errors, the hash, sources, hostile bytes, memory running out. */
#include "test_topo_fixture.h"

#include <dirent.h>
#include <stdlib.h>

#include "core/rng.h"

static const char good[] = "name: four\n"
                           "device: gb300\n"
                           "domains: 4\n"
                           "gpus_in_use: 280\n"
                           "domain: { kind: nvl72, trays: 18, gpus_per_tray: 4, cpus_per_tray: 2, nvswitches: 18, "
                           "link: nvlink5, links_per_gpu: 18, cpu_link: nvlink-c2c }\n"
                           "nic: connectx8-800g\n"
                           "rails: 4\n"
                           "fabric:\n"
                           "  switch: quantum-x800-q3400\n"
                           "  leaf_down: 72\n"
                           "  tiers: 2\n"
                           "  oversubscription: 1\n"
                           "  cables: { nic_leaf: 3m, leaf_spine: 10m }\n";

static void replace(const char *text, const char *from, const char *to, char *out, size_t size) {
    const char *at = strstr(text, from);
    assert_non_null(at);
    int n = snprintf(out, size, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    assert_true(n > 0 && (size_t)n < size);
}

static void test_every_cluster_file(void **state) {
    (void)state;
    DIR *dir = opendir(SF_SOURCE_DIR "/scenarios/clusters");
    int n = 0;
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        char *dot = strstr(e->d_name, ".yaml");
        if (dot == NULL || dot[5] != '\0') {
            continue;
        }
        *dot = '\0';
        struct sf_topo *t = must_load_cluster(e->d_name);
        assert_string_equal(sf_topo_name(t), e->d_name);
        must_check(t);
        sf_topo_free(t);
        n++;
    }
    closedir(dir);
    assert_true(n >= 8);
}

static void test_accessors(void **state) {
    (void)state;
    struct sf_topo *t = must_load_text(good);
    assert_int_equal(sf_topo_gpus(t), 288);
    assert_int_equal(sf_topo_gpus_in_use(t), 280);
    assert_int_equal(sf_topo_domain_gpus(t), 72);
    assert_int_equal(sf_topo_domain(t, 71), 0);
    assert_int_equal(sf_topo_domain(t, 287), 3);
    assert_int_equal(sf_topo_rails(t), 4);
    assert_string_equal(sf_topo_scale_up(t)->name, "nvlink5");
    assert_int_equal(sf_topo_scale_up(t)->peak_bytes_per_s, UINT64_C(900000000000));
    assert_int_equal(sf_topo_scale_up(t)->reduce_bytes_per_s, UINT64_C(835000000000));
    assert_int_equal(sf_topo_scale_out(t)->peak_bytes_per_s, UINT64_C(100000000000));
    assert_int_equal(sf_topo_scale_out(t)->reduce_bytes_per_s, sf_topo_scale_out(t)->bytes_per_s);
    assert_int_equal(sf_topo_scale_out(t)->grade, SF_GRADE_EXTRAPOLATED);
    assert_int_equal(sf_topo_device(t)->gemm_grade[SF_F32], SF_GRADE_EXTRAPOLATED);
    assert_int_equal(sf_topo_device(t)->gemm_grade[SF_BF16], SF_GRADE_DATASHEET);
    sf_topo_free(t);
    t = must_load_cluster("cpu-8");
    assert_null(sf_topo_scale_out(t));
    assert_int_equal(sf_topo_rails(t), 1);
    sf_topo_free(t);
    sf_topo_free(NULL);
}

static void test_sources(void **state) {
    (void)state;
    struct sf_topo *t = must_load_text(good);
    const struct sf_source *s;
    size_t n = sf_topo_sources(t, &s), found = 0;
    for (size_t i = 0; i < n; i++) {
        assert_true(s[i].item[0] != '\0' && s[i].value[0] != '\0' && s[i].source[0] != '\0');
        if (strcmp(s[i].item, "gb300.peak.bf16") == 0) {
            assert_string_equal(s[i].value, "2450TFLOP/s");
            assert_int_equal(s[i].grade, SF_GRADE_DATASHEET);
            found++;
        }
    }
    assert_int_equal(found, 1);
    assert_in_range(n, 13 + 4 + 3 + 3 + 4, 64); /* device, links, switch, fabric; kernel efficiencies come on top */
    assert_string_equal(sf_grade_name(SF_GRADE_MEASURED), "published measurement");
    assert_string_equal(sf_grade_name(99), "?");
    sf_topo_free(t);
}

static void test_errors_say_where_and_what(void **state) {
    (void)state;
    static const struct {
        const char *from, *to;
        uint32_t line;
        const char *message;
    } rows[] = {
        {"gpus_in_use: 280", "gpus_in_use: 289", 4, "4 domains of 72 GPUs have 288 seats"},
        {"gpus_in_use: 280", "gpus_in_use: 0", 4, "whole number from 1"},
        {"gpus_in_use: 280", "gpu_in_use: 280", 4, "did you mean \"gpus_in_use\""},
        {"domains: 4", "domains: 0", 3, "whole number from 1"},
        {"domains: 4", "domains: 233017", 3, "the limit is 16777216"},
        {"domains: 4", "domains: 99999999999999999999", 3, "whole number"},
        {"domains: 4\ngpus_in_use: 280", "domains: 1", 5, "a single domain has no fabric"},
        {"trays: 18, gpus_per_tray: 4", "trays: 16777216, gpus_per_tray: 16777216", 5, "over the limit"},
        {"links_per_gpu: 18", "links_per_gpu: 17", 5, "17 links cannot reach all 18 switch chips"},
        {"cpus_per_tray: 2", "cpus_per_tray: 0", 5, "a tray without CPUs"},
        {"link: nvlink5", "link: nvlink9", 5, "cannot read"},
        {"link: nvlink5", "link: ../links/nvlink5", 5, "expected a name from the catalog's links"},
        {"device: gb300", "device: .hidden", 2, "expected a name from the catalog's devices"},
        {"device: gb300", "device: here.yaml", 2, "cannot read dir/here.yaml"},
        {"rails: 4", "rails: 5", 7, "5 rails do not divide the 72 GPUs"},
        {"rails: 4\n", "", 1, "\"rails\" is missing"},
        {"leaf_down: 72", "leaf_down: 20", 10, "multiple of 18"},
        {"leaf_down: 72", "leaf_down: 90", 10,
         "a leaf needs 180 ports (90 down, 90 up), but quantum-x800-q3400 has 144"},
        {"tiers: 2", "tiers: 4", 11, "whole number from 1 to 3"},
        {"tiers: 2", "tiers: 1", 12, "no uplinks to oversubscribe"},
        {"tiers: 2", "tiers: 3", 13, "\"spine_core\" is missing"},
        {"oversubscription: 1", "oversubscription: 0.5", 12, "a number from 1"},
        {"oversubscription: 1", "oversubscription: 1.7", 12, "not a whole number of uplinks"},
        {"leaf_spine: 10m", "leaf_spine: 10", 13, "length in metres"},
        {"leaf_spine: 10m", "leaf_spine: 10km", 13, "length in metres"},
        {"leaf_spine: 10m", "leaf_spine: 1.2.3m", 13, "length in metres"},
        {"leaf_spine: 10m", "leaf_spine: 1001m", 13, "length in metres"},
        {"leaf_spine: 10m", "leaf_spine: 10m, spine_core: 1m", 13, "a fabric of 2 tiers has no such cables"},
        {"quantum-x800-q3400", "quantum2-qm9700", 9, "slower than the NIC, connectx8-800g"},
        {"name: four", "name: [four]", 1, "expected text"},
        {"name: four", "name: \"\"", 1, "a name of 1 to 63 bytes"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[2048];
        struct sf_err err = {0};
        struct sf_topo *t = NULL;
        replace(good, rows[i].from, rows[i].to, text, sizeof text);
        assert_int_equal(load_text(text, &t, &err), SF_E_INPUT);
        assert_null(t);
        if (strstr(err.msg, rows[i].message) == NULL || err.line != rows[i].line || err.column == 0) {
            fail_msg("row %zu: %s:%u:%u: %s", i, err.file, err.line, err.column, err.msg);
        }
        assert_string_equal(err.file, "dir/cluster.yaml");
    }
}

static void test_tiers_that_are_too_small(void **state) {
    (void)state;
    struct shape s = {145, 18, 4, 4, 72, 2, 1, "quantum-x800-q3400"};
    char text[1024];
    struct sf_err err = {0};
    struct sf_topo *t = NULL;
    shape_text(&s, text, sizeof text);
    assert_int_equal(load_text(text, &t, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "join at most 144 leaves, found 148: set tiers to 3"));
    s.domains = 5;
    s.tiers = 1;
    shape_text(&s, text, sizeof text);
    assert_int_equal(load_text(text, &t, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "joins at most 4 domains, found 5: set tiers to 2"));
    s = (struct shape){10369, 18, 4, 4, 72, 3, 1, "quantum-x800-q3400"};
    shape_text(&s, text, sizeof text);
    assert_int_equal(load_text(text, &t, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "join at most 144 pods of 72 domains"));
}

#define NUMBER(key, value) key ": { value: " value ", source: \"test\", grade: measured }\n"
static const char device_text[] = "name: box\n" NUMBER("memory", "1GB") NUMBER("memory_rate", "10GB/s") NUMBER(
    "memory_efficiency", "0.5") "peak:\n" NUMBER("  f32", "50GFLOP/s") "gemm_efficiency:\n" NUMBER("  f32", "0.5")
    NUMBER("attention_forward", "0.5") NUMBER("attention_backward", "0.5") NUMBER("launch", "100ns");
static const char host_text[] = "name: host\ndevice: box.yaml\ndomains: 1\ndomain: { kind: host, trays: 1, "
                                "gpus_per_tray: 2, cpus_per_tray: 1, nvswitches: 0, link: shm, links_per_gpu: 1 }\n";

static int load_with_device(const char *device, struct sf_topo **t, struct sf_err *err) {
    const struct memory_file files[] = {{"dir/host.yaml", host_text}, {"dir/box.yaml", device}};
    return load_files(files, 2, t, err);
}

static void test_device_by_path(void **state) {
    (void)state;
    struct sf_err err = {0};
    struct sf_topo *t = NULL;
    assert_int_equal(load_with_device(device_text, &t, &err), 0);
    assert_string_equal(sf_topo_device(t)->name, "box");
    assert_int_equal(sf_topo_device(t)->launch_ps, 100000);
    assert_true(sf_topo_device(t)->flops_per_s[SF_BF16] <= 0);
    assert_int_equal(sf_topo_device(t)->grade, SF_GRADE_MEASURED);
    sf_topo_free(t);
}

static void test_catalog_numbers_are_strict(void **state) {
    (void)state;
    static const struct {
        const char *from, *to, *message;
    } rows[] = {
        {"value: 1GB", "value: 1", "unit"},
        {"value: 1GB", "value: 0GB", "more than zero"},
        {"value: 10GB/s", "value: 10GB", "10GB"},
        {"value: 0.5", "value: 1.5", "a number from 0.001 to 1"},
        {"value: 0.5", "value: 0", "a number from 0.001 to 1"},
        {"value: 50GFLOP/s", "value: 0GFLOP/s", "more than zero"},
        {"grade: measured", "grade: sure", "unknown word \"sure\""},
        {", source: \"test\"", "", "\"source\" is missing"},
        {"source: \"test\"", "source: \"\"", "text of 1 to"},
        {"source: \"test\"", "sauce: \"test\"", "did you mean \"source\""},
        {"{ value: 1GB, source: \"test\", grade: measured }", "1GB", "expected a mapping"},
        {"  f32: { value: 50GFLOP/s, source: \"test\", grade: measured }\n",
         "  fp8: { value: 50GFLOP/s, source: \"test\", grade: measured }\n", "expected a peak for bf16 or f32"},
        {"gemm_efficiency:\n  f32", "gemm_efficiency:\n  bf16", "\"f32\" is missing"},
        {"launch", "lunch", "did you mean \"launch\""},
        {"name: box", "name: a-name-that-is-longer-than-thirty-one", "text of 1 to 31 bytes"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[2048];
        struct sf_err err = {0};
        struct sf_topo *t = NULL;
        replace(device_text, rows[i].from, rows[i].to, text, sizeof text);
        assert_int_equal(load_with_device(text, &t, &err), SF_E_INPUT);
        assert_string_equal(err.file, "dir/box.yaml");
        if (strstr(err.msg, rows[i].message) == NULL || err.line == 0) {
            fail_msg("row %zu: %u:%u: %s", i, err.line, err.column, err.msg);
        }
    }
}

static struct sf_hash hash_of_device(const char *from, const char *to) {
    char text[2048];
    struct sf_err err = {0};
    struct sf_topo *t = NULL;
    replace(device_text, from, to, text, sizeof text);
    assert_int_equal(load_with_device(text, &t, &err), 0);
    struct sf_hash h = sf_topo_hash(t);
    sf_topo_free(t);
    return h;
}

static void test_hash_follows_meaning(void **state) {
    (void)state;
    struct sf_hash base = hash_of_device("box", "box");
    assert_true(sf_hash_equal(base, hash_of_device("name: box", "# a remark\nname: crate")));
    assert_true(sf_hash_equal(base, hash_of_device("\"test\"", "\"another wording\"")));
    assert_true(sf_hash_equal(base, hash_of_device("10GB/s", "10000MB/s")));
    assert_false(sf_hash_equal(base, hash_of_device("10GB/s", "10.1GB/s")));
    assert_false(sf_hash_equal(base, hash_of_device("grade: measured", "grade: datasheet")));
    assert_false(sf_hash_equal(base, hash_of_device("value: 100ns", "value: 101ns")));
    static const char *const edits[][2] = {
        {"domains: 4", "domains: 5"},           {"gpus_in_use: 280", "gpus_in_use: 281"},
        {"connectx8-800g", "connectx7-400g"},   {"oversubscription: 1", "oversubscription: 2"},
        {"leaf_spine: 10m", "leaf_spine: 11m"}, {"device: gb300", "device: gb200"},
    };
    struct sf_topo *t = must_load_text(good);
    struct sf_hash whole = sf_topo_hash(t);
    sf_topo_free(t);
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        char text[2048];
        replace(good, edits[i][0], edits[i][1], text, sizeof text);
        t = must_load_text(text);
        assert_false(sf_hash_equal(whole, sf_topo_hash(t)));
        sf_topo_free(t);
    }
}

/* Damaged files load or fail with a reason; a topology that loads proves itself. */
static void test_damaged_files(void **state) {
    (void)state;
    struct sf_rng r = sf_rng_seed(7);
    size_t length = strlen(good);
    for (int i = 0; i < 1500; i++) {
        char text[sizeof good];
        struct sf_err err = {0};
        struct sf_topo *t = NULL;
        memcpy(text, good, sizeof good);
        for (uint64_t edits = 1 + sf_rng_u64(&r) % 3; edits > 0; edits--) {
            static const char bytes[] = "0123456789-.:{}[] \n#m\"x";
            text[sf_rng_u64(&r) % length] = bytes[sf_rng_u64(&r) % (sizeof bytes - 1)];
        }
        int rc = load_text(text, &t, &err);
        if (rc == 0) {
            struct sf_topo_counts n;
            sf_topo_count(t, &n);
            if (n.gpus < 10000 && sf_topo_check(t, &err) != 0) {
                fail_msg("%s\n%s", err.msg, text);
            }
            sf_topo_free(t);
        } else {
            assert_int_equal(err.code, rc);
            assert_true(err.msg[0] != '\0');
        }
    }
}

static void test_memory_runs_out_anywhere(void **state) {
    (void)state;
    struct sf_topo *t = NULL;
    int rc = 1;
    for (size_t n = 1; rc != 0; n++) {
        struct sf_err err = {0};
        assert_true(n < 10000);
        sf_alloc_fail_after(n);
        rc = load_text(good, &t, &err);
        sf_alloc_fail_after(0);
        assert_true(rc == 0 || (t == NULL && err.msg[0] != '\0'));
    }
    struct sf_err err = {0};
    sf_alloc_fail_after(1);
    rc = sf_topo_check(t, &err);
    sf_alloc_fail_after(0);
    assert_int_not_equal(rc, 0);
    assert_int_equal(rc, err.code);
    sf_topo_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_cluster_file),
        cmocka_unit_test(test_accessors),
        cmocka_unit_test(test_sources),
        cmocka_unit_test(test_errors_say_where_and_what),
        cmocka_unit_test(test_tiers_that_are_too_small),
        cmocka_unit_test(test_device_by_path),
        cmocka_unit_test(test_catalog_numbers_are_strict),
        cmocka_unit_test(test_hash_follows_meaning),
        cmocka_unit_test(test_damaged_files),
        cmocka_unit_test(test_memory_runs_out_anywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
