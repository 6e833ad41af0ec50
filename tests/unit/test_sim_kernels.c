/* The fitted kernel model against arithmetic by hand, and inside and outside its measured range. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "sim/cost_internal.h"

/* 100 cores of 1 TFLOP/s, 1 TB/s: no losses, whole waves. */
static struct sf_device_class device(void) {
    struct sf_device_class d = {.memory_bytes_per_s = 1000000000000,
                                .flops_per_s = {[SF_BF16] = 1e14, [SF_FP8] = 2e14}};
    d.kernels.cores = 100;
    d.kernels.memory_share = 0.5;
    d.kernels.memory_launch_ps = 1000000;
    d.kernels.gemm[SF_BF16] = (struct sf_gemm_model){.peak_share = 1,
                                                     .wave = 1,
                                                     .memory_share = 1,
                                                     .m = {256, 8192},
                                                     .n = {256, 8192},
                                                     .k = {256, 8192},
                                                     .grade = SF_GRADE_MEASURED};
    d.kernels.gemm[SF_FP8] = d.kernels.gemm[SF_BF16];
    d.kernels.gemm[SF_FP8].cast_share = 0.5;
    d.kernels.attn_fwd = (struct sf_attn_model){.peak_share = 0.5,
                                                .softmax_dim = 64,
                                                .seq_prologue = 512,
                                                .seq = {1024, 8192},
                                                .head_dim = {64, 128},
                                                .grade = SF_GRADE_MEASURED};
    return d;
}

static void expect_near(double found, double expected) {
    if (!(fabs(found - expected) <= 1e-9 * expected)) {
        fail_msg("expected %.12g, found %.12g", expected, found);
    }
}

static double gemm(const struct sf_device_class *d, int dtype, double m, double n, double k, enum sf_grade *grade) {
    const struct sfi_gemm g = {dtype, m, n, k, 1, 0};
    return sfi_gemm_s(d, &g, grade);
}

static void test_waves(void **state) {
    struct sf_device_class d = device();
    enum sf_grade grade;
    (void)state;
    /* 2560 x 2560 of C is 200 tiles of 256 x 128: two waves of 2 * 256 * 128 * 4096 at 1 TFLOP/s a core. */
    double two = 2 * 2.0 * 256 * 128 * 4096 / 1e12;
    expect_near(gemm(&d, SF_BF16, 2560, 2560, 4096, &grade), two);
    assert_int_equal(grade, SF_GRADE_MEASURED);
    /* One row of tiles more, and half of the third wave idles: smaller tiles waste less. */
    double more = gemm(&d, SF_BF16, 2816, 2560, 4096, &grade);
    assert_true(more > 1.1 * two && more < 1.5 * two);
    /* Without wave quantisation time follows the tiles. */
    d.kernels.gemm[SF_BF16].wave = 0;
    expect_near(gemm(&d, SF_BF16, 2816, 2560, 4096, &grade), two * 1.1);
    /* A prologue of as many steps as k doubles the time of long enough products. */
    d.kernels.gemm[SF_BF16].k_prologue = 4096;
    expect_near(gemm(&d, SF_BF16, 2560, 2560, 4096, &grade), 2 * two);
    d.kernels.gemm[SF_BF16].launch_ps = 5000000;
    expect_near(gemm(&d, SF_BF16, 2560, 2560, 4096, &grade), 2 * two + 5e-6);
}

static void test_parts_of_k(void **state) {
    struct sf_device_class d = device();
    enum sf_grade grade;
    (void)state;
    /* One tile in flight on 100 cores: cutting k into eight pays for the sums it leaves. */
    double whole = 2.0 * 128 * 128 * 8192 / 1e12, sums = 4.0 * 128 * 128 * 8 / 1e12;
    double cut = gemm(&d, SF_BF16, 128, 128, 8192, &grade);
    assert_true(cut <= whole / 8 + sums);
    assert_int_equal(grade, SF_GRADE_EXTRAPOLATED); /* m is below what was measured */
}

static void test_memory_and_casts(void **state) {
    struct sf_device_class d = device();
    enum sf_grade grade;
    const struct sfi_gemm thin = {SF_BF16, 256, 256, 256, 1, 1e9};
    (void)state;
    expect_near(sfi_gemm_s(&d, &thin, &grade), 1e-3);               /* a gigabyte at 1 TB/s */
    double plain = gemm(&d, SF_BF16, 2560, 2560, 4096, &grade) / 2; /* fp8 has twice the peak */
    expect_near(gemm(&d, SF_FP8, 2560, 2560, 4096, &grade), plain + 3.0 * 2560 * 4096 / 0.5e12);
}

static void test_attention(void **state) {
    struct sf_device_class d = device();
    enum sf_grade grade;
    struct sf_call c = {.kind = SF_CALL_ATTN_FWD, .dtype = SF_BF16, .dims = {2, 1024, 8, 8, 64, 192}};
    (void)state;
    double flops = 2.0 * 2 * 8 * 1024.0 * 1024 * 64; /* half of two products */
    expect_near(sfi_attention_s(&d, &c, &grade), flops / 0.5e14 * 2 * 2 + 1e-6);
    assert_int_equal(grade, SF_GRADE_MEASURED);
    double fused = sfi_attention_s(&d, &c, &grade);
    assert_true(sfi_attention_unfused_s(&d, &c, &grade) > 2.0 * 8 * 1024 * 1024 * 9 / 0.5e12);
    assert_true(sfi_attention_unfused_s(&d, &c, &grade) > fused);
    c.dims[1] = 512;
    sfi_attention_s(&d, &c, &grade);
    assert_int_equal(grade, SF_GRADE_EXTRAPOLATED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_waves),
        cmocka_unit_test(test_parts_of_k),
        cmocka_unit_test(test_memory_and_casts),
        cmocka_unit_test(test_attention),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
