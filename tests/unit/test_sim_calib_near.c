/* Times that no smooth form has: rows beside a call correct it, collectives are priced by what was measured at their
 * size, and kinds that nobody measured by their kin. */
#include <math.h>

#include "sim/calib_internal.h"
#include "sim/interval.h"
#include "test_sim_fixture.h"

static double price(const char *kernels, struct sf_calib_row row, enum sf_grade *grade, double *half) {
    struct toy toy;
    toy_open(&toy, 1, 2, 1, kernels);
    const struct sf_call call = sfi_calib_call(&row);
    double t = sf_ps_to_s(sf_cost_call(toy.cost, &call, grade));
    *half = sf_interval_call(toy.cost, &call);
    toy_close(&toy);
    return t;
}

static double factor(int64_t dim, int64_t row_dim, double residual) {
    const int64_t a[SF_CALL_DIMS] = {dim, 7}, b[SF_CALL_DIMS] = {row_dim, 7};
    struct sfi_near near = {0};
    sfi_near_add(&near, a, b, residual);
    return log(sfi_near_factor(&near, SFI_NEAR_DOUBT)) / residual;
}

static void test_nearer_rows_say_more(void **state) {
    (void)state;
    double same = factor(256, 256, 0.3), beside = factor(256, 300, 0.3), twice = factor(256, 512, 0.3);
    assert_true(same > 0.6 && same < 0.8);
    assert_true(beside < same && twice < beside && twice > 0.3);
    assert_true(factor(256, 1 << 14, 0.3) == 0.0);
    assert_true(factor(256, 0, 0.3) == 0.0); /* another kind of call altogether */
    const struct sfi_near nothing = {0};
    assert_true(sfi_near_factor(&nothing, SFI_NEAR_DOUBT) == 1.0);
}

#define ADD_MODEL                                                                                                      \
    "models:\n  - { kind: add, form: stream, dtype: f32, launch: 1us, memory_rate: 12GB/s, work: [1, 1e9], rows: 4, "  \
    "p90: 0.2 }\n"

static void test_rows_correct_the_form(void **state) {
    (void)state;
    static const char rows[] = ADD_MODEL "kernels:\n  - { kind: add, dtype: f32, flags: [], dims: [1000], time: 4us }\n"
                                         "  - { kind: add, dtype: f32, flags: [], dims: [1010], time: 4us }\n"
                                         "  - { kind: add, dtype: bf16, flags: [], dims: [1005], time: 90us }\n";
    const struct sf_calib_row listed = {.kind = SF_CALL_ADD, .dims = {1000}},
                              between = {.kind = SF_CALL_ADD, .dims = {1005}},
                              far = {.kind = SF_CALL_ADD, .dims = {1000000}};
    enum sf_grade grade;
    double half, form = 1e-6 + 12.0 * 1005 / 12e9;
    assert_true(fabs(price(rows, listed, &grade, &half) - 4e-6) < 1e-12);
    double t = price(rows, between, &grade, &half);
    assert_true(t > 1.5 * form && t < 4e-6); /* most of the way from 2 us to 4, not all of it */
    assert_int_equal(grade, SF_GRADE_EXTRAPOLATED);
    assert_true(fabs(price(ADD_MODEL, between, &grade, &half) / form - 1.0) < 1e-3);
    assert_true(fabs(price(rows, far, &grade, &half) / (1e-6 + 12.0 * 1e6 / 12e9) - 1.0) < 1e-3);
}

static void test_kin_stand_in(void **state) {
    (void)state;
    const struct sf_calib_row own = {.kind = SF_CALL_ADD, .dims = {4096}},
                              kin = {.kind = SF_CALL_BIAS_BWD, .dims = {64, 64}};
    enum sf_grade grade;
    double half_own, half_kin, t = price(ADD_MODEL, kin, &grade, &half_kin);
    price(ADD_MODEL, own, &grade, &half_own);
    const struct sf_call call = sfi_calib_call(&kin);
    assert_true(fabs(t / (1e-6 + sf_call_work(&call).bytes / 12e9) - 1.0) < 1e-3);
    assert_true(half_kin > 1.9 * half_own);
}

/* ---- collectives ------------------------------------------------------------------------------------------------- */

#define TRANSPORT "transport: { collective_latency: 1us, collective_rate: 10GB/s }\n"
#define POINTS                                                                                                         \
    TRANSPORT "collectives:\n  - { op: all_gather, ranks: 2, bytes: 20000, time: 2us }\n"                              \
              "  - { op: all_gather, ranks: 2, bytes: 20000000, time: 4ms }\n"

static double collective(const char *kernels, int kind, uint64_t bytes) {
    struct toy toy;
    toy_open(&toy, 1, 2, 1, kernels);
    const struct sf_span span = {.members = 2, .domains = 1, .min_per_domain = 2, .kind = SF_ROUTE_DOMAIN};
    double t = sf_ps_to_s(sf_cost_collective(toy.cost, kind, bytes, &span));
    toy_close(&toy);
    return t;
}

static void test_collectives_by_size(void **state) {
    (void)state;
    const int gather = SF_CALL_ALL_GATHER;
    double small = collective(POINTS, gather, 20000), large = collective(POINTS, gather, 20000000);
    assert_true(fabs(small / 2e-6 - 1.0) < 0.05); /* as the ring says */
    assert_true(fabs(large / 4e-3 - 1.0) < 0.3);  /* the ring alone: 1 ms */
    assert_true(fabs(collective(TRANSPORT, gather, 20000000) / 1.001e-3 - 1.0) < 0.01);
    double beyond = collective(POINTS, gather, 80000000); /* beyond the largest, as at the largest */
    assert_true(fabs(beyond / large / 4.0 - 1.0) < 0.01);
    double other = collective(POINTS, SF_CALL_REDUCE_SCATTER, 20000000);
    assert_true(other > 1.5e-3 && other < large);
    assert_true(collective(POINTS, gather, 0) == collective(TRANSPORT, gather, 0));
}

static void test_hostile_collectives(void **state) {
    (void)state;
    static const char *const bad[][2] = {
        {"collectives: 3\n", "a list"},
        {"collectives:\n  - 7\n", "expected {"},
        {"collectives:\n  - { op: gemm, ranks: 2, bytes: 8, time: 1us }\n", "all_reduce"},
        {"collectives:\n  - { op: all_reduce, ranks: 1, bytes: 8, time: 1us }\n", "2"},
        {"collectives:\n  - { op: all_reduce, ranks: 2, bytes: 0, time: 1us }\n", "1"},
        {"collectives:\n  - { op: all_reduce, ranks: 2, bytes: 8, time: 0us }\n", "above 0"},
        {"collectives:\n  - { op: all_reduce, ranks: 2, bytes: 8, time: 1us, n: 3 }\n", "n"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct sf_calib_data d = {0};
        struct sf_err err = {0};
        assert_int_equal(sf_calib_read_kernels(&d, bad[i][0], strlen(bad[i][0]), "k.yaml", &err), SF_E_INPUT);
        if (!strstr(err.msg, bad[i][1]) || err.line == 0) {
            fail_msg("%s:%u: %s: expected \"%s\"", err.file, err.line, err.msg, bad[i][1]);
        }
        sf_calib_data_clear(&d);
    }
}

/* What a table says of collectives is in the calibration made of it, and in one made of that. */
static void test_collectives_go_through_the_file(void **state) {
    (void)state;
    struct sf_calib_data d = {0}, again = {0};
    struct sf_calib c;
    struct sf_buf text = {0};
    struct sf_err err = {0};
    must(sf_calib_read_kernels(&d, POINTS, strlen(POINTS), "k.yaml", &err), &err);
    must(sf_calib_fit(&d, &c, &err), &err);
    sf_calib_print(&d, &c, &text);
    must(sf_calib_read_kernels(&again, text.data, text.bytes, "calib.yaml", &err), &err);
    assert_int_equal(again.points_n, 2);
    assert_true(again.points[1].bytes == 2e7 && fabs(again.points[1].time_s - 4e-3) < 1e-9);
    assert_true(fabs(c.collective_rate.value / 10e9 - 1.0) < 1e-6); /* the table's own, not a fit of two points */
    sf_buf_free(&text);
    sf_calib_clear(&c);
    sf_calib_data_clear(&again);
    sf_calib_data_clear(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nearer_rows_say_more), cmocka_unit_test(test_rows_correct_the_form),
        cmocka_unit_test(test_kin_stand_in),         cmocka_unit_test(test_collectives_by_size),
        cmocka_unit_test(test_hostile_collectives),  cmocka_unit_test(test_collectives_go_through_the_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
