/* Reading YAML and JSON: positions, refusals, typed getters, memory running out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/arena.h"
#include "core/doc.h"

static struct sf_doc *parse(const char *text) {
    struct sf_doc *doc = NULL;
    struct sf_err err = {0};
    if (sf_doc_parse(text, strlen(text), "test.yaml", &doc, &err) != 0) {
        fail_msg("%s: %s", text, err.msg);
    }
    return doc;
}

static void refuses_as(const char *name, const char *text, uint32_t line, uint32_t column, const char *because) {
    struct sf_doc *doc = NULL;
    struct sf_err err = {0};
    assert_int_equal(sf_doc_parse(text, strlen(text), name, &doc, &err), SF_E_INPUT);
    assert_null(doc);
    if (err.line != line || err.column != column || strstr(err.msg, because) == NULL || strcmp(err.file, name) != 0) {
        fail_msg("%s\n%s:%u:%u: %s, expected %u:%u: %s", text, err.file, err.line, err.column, err.msg, line, column,
                 because);
    }
}

static void refuses(const char *text, uint32_t line, uint32_t column, const char *because) {
    refuses_as("test.yaml", text, line, column, because);
}

static void test_refused_documents(void **state) {
    (void)state;
    refuses("a: 1\nb: &x 2", 2, 4, "anchors are not supported");
    refuses("a: *x", 1, 4, "aliases are not supported");
    refuses("a: !!str 8", 1, 4, "tags are not supported");
    refuses("a: !mine {b: 1}", 1, 4, "tags are not supported");
    refuses("a: &l [1]", 1, 4, "anchors are not supported");
    refuses("a: 1\nb: 2\na: 3", 3, 1, "duplicate key \"a\", first seen in line 1");
    refuses("{a: 1, 'a': 2}", 1, 8, "duplicate key");
    refuses("? [a]\n: b", 1, 3, "expected a word as the key");
    refuses("a: 1\n---\nb: 2", 2, 1, "expected one document");
    refuses("a: \"x", 1, 5, "closing quote");
    refuses("a: b: c", 1, 5, "");
    refuses("a:\n\t- b", 2, 1, "tab");
    refuses("a: \"x\\0y\"", 1, 4, "NUL");
    refuses("a: \xff", 1, 4, "expected UTF-8 text, found the byte 0xff");
    refuses("a: 1\nb: \xc3\xa9\xed\xa0\x80", 2, 5, "0xed"); /* a surrogate */
    refuses("a: \xc0\xaf", 1, 4, "0xc0");                   /* overlong */
    refuses("a: \xf4\x90\x80\x80", 1, 4, "0xf4");           /* beyond Unicode */
    refuses("a: \x01", 1, 4, "0x01");
    refuses_as("c.json", "{\"a\": 1, b: 2}", 1, 10, "JSON");
    refuses_as("c.json", "{\"a\": 1,}", 1, 8, "JSON");
    refuses_as("c.json", "{\"a\": 1, \"a\": 2}", 1, 10, "duplicate key");
    char deep[200];
    memset(deep, '[', sizeof deep);
    deep[199] = '\0';
    refuses(deep, 1, 65, "at most 64 levels");
}

static void test_limits(void **state) {
    (void)state;
    struct sf_doc *doc = NULL;
    struct sf_err err = {0};
    size_t bytes = SF_DOC_MAX_BYTES + 1;
    char *text = sf_malloc(bytes);
    memset(text, ' ', bytes);
    assert_int_equal(sf_doc_parse(text, bytes, "large.yaml", &doc, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "too large"));
    memset(text, 'x', 70000);
    assert_int_equal(sf_doc_parse(text, 70000, "wide.yaml", &doc, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "lines of at most 65536 bytes"));
    assert_int_equal(sf_doc_parse("a: 1\0b: 2", 9, "nul.yaml", &doc, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "0x00"));
    assert_int_equal(sf_doc_parse("a: 1#", 4, "cut.yaml", &doc, &err), 0); /* no terminator needed */
    assert_int_equal(sf_map_size(sf_doc_root(doc)), 1);
    sf_doc_free(doc);
    sf_doc_free(NULL);
    sf_free(text);
}

static void test_tree(void **state) {
    (void)state;
    struct sf_doc *doc = parse("# cluster\nname: \"x\"\nsizes: [1, 2, {deep: yes}]\nempty:\nlast: |\n  two\n  lines\n");
    const struct sf_node *root = sf_doc_root(doc), *n = NULL;
    const char *text = NULL;
    assert_string_equal(sf_doc_name(doc), "test.yaml");
    assert_true(sf_node_is_map(root));
    assert_int_equal(sf_map_size(root), 4);
    assert_string_equal(sf_map_key(root, 1, &n), "sizes");
    assert_true(sf_node_is_seq(n));
    assert_int_equal(sf_seq_size(n), 3);
    assert_int_equal(sf_node_str(sf_map_find(sf_seq_at(n, 2), "deep"), &text, NULL), 0);
    assert_string_equal(text, "yes");
    assert_true(sf_node_is_null(sf_map_find(root, "empty")));
    assert_int_equal(sf_node_str(sf_map_find(root, "last"), &text, NULL), 0);
    assert_string_equal(text, "two\nlines\n");
    assert_null(sf_map_find(root, "absent"));
    assert_null(sf_map_find(n, "not a mapping"));
    struct sf_err err = {0};
    assert_int_equal(sf_map_need(root, "absent", &n, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "\"absent\" is missing"));
    assert_int_equal(sf_node_fail(sf_map_find(root, "empty"), &err, "no %s", "good"), SF_E_INPUT);
    assert_string_equal(err.msg, "no good");
    assert_int_equal(err.line, 4);
    sf_doc_free(doc);
    doc = parse("");
    assert_true(sf_node_is_null(sf_doc_root(doc)));
    assert_int_equal(sf_map_need(sf_doc_root(doc), "k", &n, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "expected a mapping"));
    sf_doc_free(doc);
}

static void test_unknown_keys(void **state) {
    (void)state;
    static const char *const keys[] = {"cluster", "model", "global_batch", NULL};
    struct sf_err err = {0};
    struct sf_doc *doc = parse("model: a\n  \nglobal_bacth: 3\n");
    assert_int_equal(sf_map_only(sf_doc_root(doc), keys, &err), SF_E_INPUT);
    assert_string_equal(err.msg, "unknown key \"global_bacth\", did you mean \"global_batch\"?");
    assert_int_equal(err.line, 3);
    assert_int_equal(err.column, 1);
    sf_doc_free(doc);
    doc = parse("zebra: 1");
    assert_int_equal(sf_map_only(sf_doc_root(doc), keys, &err), SF_E_INPUT);
    assert_string_equal(err.msg, "unknown key \"zebra\", expected one of: cluster, model, global_batch");
    sf_doc_free(doc);
    doc = parse("[model]");
    assert_int_equal(sf_map_only(sf_doc_root(doc), keys, &err), SF_E_INPUT);
    assert_string_equal(err.msg, "expected a mapping, found a list");
    sf_doc_free(doc);
    doc = parse("{model: a, cluster: b}");
    assert_int_equal(sf_map_only(sf_doc_root(doc), keys, &err), 0);
    sf_doc_free(doc);
}

static const char *integer(const char *text, int64_t lo, int64_t hi, int64_t *out) {
    static struct sf_err err;
    struct sf_doc *doc = parse(text);
    err = (struct sf_err){0};
    sf_node_i64(sf_doc_root(doc), lo, hi, out, &err);
    sf_doc_free(doc);
    return err.msg;
}

static void test_integers(void **state) {
    (void)state;
    int64_t v = 0;
    assert_string_equal(integer("-9223372036854775808", INT64_MIN, INT64_MAX, &v), "");
    assert_true(v == INT64_MIN);
    assert_string_equal(integer("9223372036854775807", INT64_MIN, INT64_MAX, &v), "");
    assert_true(v == INT64_MAX);
    assert_string_equal(integer("17", 1, 16, &v), "expected a whole number from 1 to 16, found \"17\"");
    assert_string_equal(integer("\"8\"", 1, 16, &v),
                        "expected a whole number from 1 to 16, found the quoted text \"8\"");
    assert_string_equal(integer("[8]", 1, 16, &v), "expected a whole number from 1 to 16, found a list");
    assert_string_equal(integer("~", 1, 16, &v), "expected a whole number from 1 to 16, found nothing");
    const char *const others[] = {
        "9223372036854775808", "08", "0x8", "0o7", "8.0", "1e3", "+8", "8 8", "1_000", "-", "--8"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        assert_non_null(strstr(integer(others[i], INT64_MIN, INT64_MAX, &v), "expected a whole number from -922"));
    }
}

static void test_scalars(void **state) {
    (void)state;
    struct sf_doc *doc = parse("{f: 3e-4, t: 1.5us, b: true, w: fp8, r: 800, q: \"5 GB\", n: -0.5, i: .inf, y: yes}");
    const struct sf_node *r = sf_doc_root(doc);
    static const char *const words[] = {"f32", "bf16", "fp8", NULL};
    struct sf_err err = {0};
    double x = 0;
    bool b = false;
    int word = -1;
    sf_time_ps t = 0;
    uint64_t n = 0;
    assert_int_equal(sf_node_f64(sf_map_find(r, "f"), 0, 1, &x, &err), 0);
    assert_true(x == 3e-4);
    assert_int_equal(sf_node_f64(sf_map_find(r, "n"), 0, 1, &x, &err), SF_E_INPUT);
    assert_string_equal(err.msg, "expected a number from 0 to 1, found \"-0.5\"");
    assert_int_equal(sf_node_f64(sf_map_find(r, "i"), 0, 1, &x, &err), SF_E_INPUT);
    assert_int_equal(sf_node_time(sf_map_find(r, "t"), &t, &err), 0);
    assert_int_equal(t, 1500000);
    assert_int_equal(sf_node_bool(sf_map_find(r, "b"), &b, &err), 0);
    assert_true(b);
    assert_int_equal(sf_node_bool(sf_map_find(r, "y"), &b, &err), SF_E_INPUT);
    assert_string_equal(err.msg, "expected true or false, found \"yes\"");
    assert_int_equal(sf_node_word(sf_map_find(r, "w"), words, &word, &err), 0);
    assert_int_equal(word, 2);
    assert_int_equal(sf_node_word(sf_map_find(r, "y"), words, &word, &err), SF_E_INPUT);
    assert_string_equal(err.msg, "unknown word \"yes\", expected one of: f32, bf16, fp8");
    assert_int_equal(sf_node_bytes(sf_map_find(r, "q"), &n, &err), 0);
    assert_true(n == UINT64_C(5000000000));
    assert_int_equal(sf_node_rate(sf_map_find(r, "r"), &n, &err), SF_E_INPUT);
    assert_string_equal(err.msg, "expected a rate with its unit (for example 800Gb/s), found \"800\"");
    assert_int_equal(err.line, 1);
    assert_int_equal(err.column, 41);
    assert_int_equal(sf_node_power(r, &x, &err), SF_E_INPUT);
    assert_string_equal(err.msg, "expected a power with its unit, found a mapping");
    sf_doc_free(doc);
}

static void test_out_of_memory(void **state) {
    (void)state;
    const char text[] = "a: [1, 2, {b: c}]\nd: {e: f, g: h}\n";
    for (size_t n = 1;; n++) {
        struct sf_doc *doc = NULL;
        struct sf_err err = {0};
        sf_alloc_fail_after(n);
        int rc = sf_doc_parse(text, sizeof text - 1, "test.yaml", &doc, &err);
        sf_alloc_fail_after(0);
        if (rc == 0) {
            assert_true(n > 1);
            sf_doc_free(doc);
            return;
        }
        assert_null(doc);
        assert_int_equal(rc, SF_E_INTERNAL);
        assert_true(n < 1000);
    }
}

/* Any bytes: a document or a located complaint, never a crash. */
static void test_mutations(void **state) {
    (void)state;
    static const char seed[] = "name: \"x\"\nlist: [1, 2.5, {a: b}]\nblock:\n  - c\n  - |\n    d\n# end\nf: 'g'\n";
    uint32_t r = 1;
    for (int i = 0; i < 3000; i++) {
        char text[sizeof seed];
        memcpy(text, seed, sizeof seed);
        for (int k = 0; k < 1 + i % 4; k++) {
            r = r * 1664525u + 1013904223u;
            text[(r >> 8) % (sizeof seed - 1)] = "[]{}:,-|>'\"#&*!%@`? \n\tx\x80"[(r >> 24) % 25];
        }
        struct sf_doc *doc = NULL;
        struct sf_err err = {0};
        int rc = sf_doc_parse(text, sizeof seed - 1, i % 2 ? "m.yaml" : "m.json", &doc, &err);
        assert_true((rc == 0) == (doc != NULL));
        assert_true(rc == 0 || (rc == SF_E_INPUT && err.msg[0] != '\0'));
        sf_doc_free(doc);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused_documents), cmocka_unit_test(test_limits),    cmocka_unit_test(test_tree),
        cmocka_unit_test(test_unknown_keys),      cmocka_unit_test(test_integers),  cmocka_unit_test(test_scalars),
        cmocka_unit_test(test_out_of_memory),     cmocka_unit_test(test_mutations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
