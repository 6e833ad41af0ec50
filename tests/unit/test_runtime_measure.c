/* What --measure writes: every kernel of the program once, in the format that forecasts read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/doc.h"
#include "runtime/measure.h"
#include "tests/unit/test_runtime_fixture.h"

static const struct sf_node *need(const struct sf_node *map, const char *key) {
    const struct sf_node *n = NULL;
    assert_int_equal(sf_map_need(map, key, &n, NULL), SF_OK);
    return n;
}

static void check_kernel(const struct sf_node *k, bool seen[SF_CALL_KINDS]) {
    const char *word;
    int64_t n;
    sf_time_ps time;
    assert_int_equal(sf_node_str(need(k, "kind"), &word, NULL), SF_OK);
    int kind = sf_call_parse(word);
    assert_true(kind >= 0);
    assert_false(seen[kind]); /* this program uses every kind with one shape */
    seen[kind] = true;
    assert_int_equal(sf_seq_size(need(k, "dims")), sf_call_dims_n(kind));
    assert_true(sf_node_is_seq(need(k, "flags")));
    assert_int_equal(sf_node_i64(need(k, "n"), 7, 1 << 20, &n, NULL), SF_OK);
    assert_int_equal(sf_node_time(need(k, "time"), &time, NULL), SF_OK);
    assert_true(time > 0 && time < SF_PS_PER_S / 10);
}

static void check_transport(const struct sf_node *t) {
    static const char *const times[] = {"message_latency", "collective_latency", "dispatch"};
    static const char *const rates[] = {"message_rate", "collective_rate"};
    for (size_t i = 0; i < 3; i++) {
        sf_time_ps time;
        assert_int_equal(sf_node_time(need(t, times[i]), &time, NULL), SF_OK);
        assert_true(time > 0 && time < SF_PS_PER_S / 10);
    }
    for (size_t i = 0; i < 2; i++) {
        uint64_t rate;
        assert_int_equal(sf_node_rate(need(t, rates[i]), &rate, NULL), SF_OK);
        assert_true(rate > 1000000);
    }
}

static void test_every_kernel_once(void **state) {
    (void)state;
    struct sf_prog *prog = NULL;
    struct sf_buf text = {0};
    struct sf_doc *doc = NULL;
    struct sf_err err = {0};
    bool seen[SF_CALL_KINDS] = {false};
    const struct bigram shape = {.dp = 2};
    const struct sf_rt_measure_options options = {.seconds = 0.2};
    assert_int_equal(bigram_build(&shape, &prog, &err), SF_OK);
    if (sf_rt_measure(prog, &options, &text, &err) != SF_OK) {
        fail_msg("%s", err.msg);
    }
    if (sf_doc_parse(text.data, text.bytes, "kernels.yaml", &doc, &err) != SF_OK) {
        fail_msg("%s", err.msg);
    }
    const struct sf_node *root = sf_doc_root(doc), *kernels = need(root, "kernels");
    for (size_t i = 0; i < sf_seq_size(kernels); i++) {
        check_kernel(sf_seq_at(kernels, i), seen);
    }
    assert_int_equal(sf_seq_size(kernels), 6);
    assert_true(seen[SF_CALL_EMBED_FWD] && seen[SF_CALL_XENT] && seen[SF_CALL_ADAMW] && seen[SF_CALL_ADD]);
    check_transport(need(root, "transport"));
    need(need(root, "host"), "cpu");
    sf_doc_free(doc);
    sf_buf_free(&text);
    sf_prog_free(prog);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_kernel_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
