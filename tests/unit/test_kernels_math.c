/* The vector exponential and logarithm against libm, in the portable variant. */
#include "test_kernels_util.h"

#define SFI_LANES 4
#define SFI_TARGET
#include "kernels/fast_vec.h"

static double vector_exp(float x) {
    return (double)vexp(splat(x))[0];
}

static void test_exp(void **unused) {
    (void)unused;
    double worst = 0;
    for (float x = -86.5f; x < 88.7f; x += 0.00137f) {
        double want = exp((double)x);
        worst = fmax(worst, fabs(vector_exp(x) - want) / want);
    }
    assert_true(worst < 1.2e-7);
}

static void test_exp_edges(void **unused) {
    (void)unused;
    assert_true(vector_exp(0) == 1 && vector_exp(-0.0f) == 1);
    assert_true(vector_exp(-87) == 0 && vector_exp(-INFINITY) == 0 && vector_exp(-3e38f) == 0);
    assert_true(isinf(vector_exp(89)) && isinf(vector_exp(INFINITY)) && isinf(vector_exp(3e38f)));
    assert_true(isnan(vector_exp(NAN)));
}

static void test_log(void **unused) {
    (void)unused;
    double worst = 0;
    for (float x = 1e-37f; x < 1e38f; x *= 1.00037f) {
        double want = log((double)x), got = (double)vlog(splat(x))[0];
        worst = fmax(worst, fabs(got - want) / fmax(fabs(want), 1e-3));
    }
    assert_true(worst < 2.4e-7);
    assert_true(vlog(splat(1))[0] == 0);
}

static void test_partial_vectors(void **unused) {
    (void)unused;
    float x[4] = {1, 2, 3, 4}, y[4] = {9, 9, 9, 9};
    for (size_t n = 0; n <= 4; n++) {
        assert_true(sum_lanes(load_n(x, n)) == (float)(n * (n + 1) / 2));
        store_n(y, splat(7), n);
        for (size_t i = 0; i < 4; i++) {
            assert_true(y[i] == (i < n ? 7 : 9));
        }
    }
    assert_true(max_lanes(load(x)) == 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp),
        cmocka_unit_test(test_exp_edges),
        cmocka_unit_test(test_log),
        cmocka_unit_test(test_partial_vectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
