/* What staticfire calibrate makes of a GPU's name, and which models it measures on how many of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cli/calibrate_gpu.c"

static void expect_class(const char *name, const char *wanted) {
    const char *found = cli_calibrate_class(name);
    if (strcmp(found ? found : "none", wanted) != 0) {
        fail_msg("%s: expected %s, found %s", name, wanted, found ? found : "none");
    }
}

static void test_names(void **state) {
    (void)state;
    expect_class("NVIDIA H200", "h200");
    expect_class("NVIDIA H100 80GB HBM3", "h100");
    expect_class("NVIDIA GB200", "gb200");
    expect_class("NVIDIA B200", "b200");
    expect_class("NVIDIA GB300", "gb300");
    expect_class("NVIDIA B300 SXM6 AC", "b300");
    expect_class("NVIDIA A100-SXM4-80GB", "a100");
    expect_class("NVIDIA A100-SXM4-40GB", "a100-40g");
    expect_class("NVIDIA H100 PCIe", "none"); /* fewer multiprocessors, less memory bandwidth */
    expect_class("NVIDIA H200 NVL", "none");
    expect_class("NVIDIA GH200 480GB", "none");
    expect_class("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "none");
    expect_class("the recording device", "none");
    expect_class("", "none");
}

static uint32_t number(const char *text, const char *key) {
    unsigned n = 0;
    const char *at = strstr(text, key);
    assert_non_null(at);
    assert_int_equal(sscanf(at + strlen(key), "%u", &n), 1);
    return n;
}

static void test_jobs_fill_their_gpus(void **state) {
    (void)state;
    for (uint32_t ranks = 1; ranks <= 16; ranks++) {
        bool split = false;
        for (uint32_t i = 0; i < CLI_CALIBRATE_MODELS; i++) {
            struct sf_buf model = {0}, job = {0};
            cli_calibrate_job(i, ranks, &model, &job);
            uint32_t tp = number(job.data, "\"tp\": ");
            assert_int_equal(tp * number(job.data, "\"pp\": ") * number(job.data, "\"dp\": "), ranks);
            split |= tp > 1;
            sf_buf_free(&model);
            sf_buf_free(&job);
        }
        assert_true(split || ranks == 1 || ranks > 4 || ranks == 3); /* heads allow these */
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_names), cmocka_unit_test(test_jobs_fill_their_gpus)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
