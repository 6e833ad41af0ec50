/* Calibration: fits find what made the times, whatever the outliers; a deleted row changes grade and interval; the same
 * input gives the same bytes; every reader says where hostile input is wrong. */
#include <math.h>

#include "core/rng.h"
#include "sim/calib_internal.h"
#include "sim/interval.h"
#include "test_sim_fixture.h"

/* ---- fits -------------------------------------------------------------------------------------------------------- */

static const double truth[SF_CALIB_PARAMS] = {2e-6, 50e9, 8.0, 30.0, 8e9, 1.1, 1.25};

/* Products of a machine with those numbers, in two sources, times off by up to 2 % one way or the other. */
static void products(struct sf_calib_data *d, double outlier) {
    static const int64_t sizes[] = {32, 96, 256, 768, 2048};
    static const uint16_t layouts[] = {0, SF_CALL_TA_FLAG, SF_CALL_TB_FLAG};
    struct sf_err err = {0};
    uint32_t n = 0;
    for (int s = 0; s < 2; s++) {
        must(sf_calib_source(d, s ? "b.yaml" : "/somewhere/a.yaml", "kernels", (struct sf_hash){1, (uint64_t)s}, &err),
             &err);
        for (int m = 0; m < 5; m++) {
            for (int k = 0; k < 5; k++) {
                struct sf_calib_row row = {.kind = SF_CALL_GEMM, .flags = layouts[n % 3], .dims = {0, 256, 0, 1}};
                row.dims[0] = sizes[m] + s * 16;
                row.dims[2] = sizes[k];
                const struct sf_call call = sfi_calib_call(&row);
                double noise = 0.02 * sin(12.9898 * ++n);
                row.time_s = sfi_calib_s(SF_CALIB_PRODUCT, truth, &call) * (1.0 + noise) * (n % 9 ? 1.0 : outlier);
                must(sf_calib_add_row(d, &row, &err), &err);
            }
        }
    }
}

static void test_fit_finds_the_machine(void **state) {
    (void)state;
    for (int robust = 0; robust < 2; robust++) {
        struct sf_calib_data d = {0};
        struct sf_calib c;
        struct sf_err err = {0};
        products(&d, robust ? 4.0 : 1.0);
        must(sf_calib_fit(&d, &c, &err), &err);
        assert_int_equal(c.models_n, 1);
        const struct sf_calib_param *p = c.models[0].param;
        assert_true(fabs(p[1].value / truth[1] - 1.0) < 0.05);
        assert_true(fabs(p[6].value / truth[6] - 1.0) < 0.05);
        assert_true(c.models[0].held_out && c.models[0].median < 0.04);
        for (int i = 0; i < SF_CALIB_PARAMS; i++) {
            assert_true(p[i].low < p[i].value && p[i].value < p[i].high);
        }
        for (int i = 0; i < SF_CALIB_PARAMS && !robust; i++) { /* intervals of 90 %, doubled: none may miss */
            double reach = 2.0 * log(p[i].high / p[i].value);
            assert_true(fabs(log(p[i].value / truth[i])) < reach + 0.01);
        }
        sf_calib_clear(&c);
        sf_calib_data_clear(&d);
    }
}

static void test_links(void **state) {
    (void)state;
    struct sf_calib_data d = {0};
    struct sf_calib c;
    struct sf_err err = {0};
    const double link[] = {5e-6, 100e9};
    must(sf_calib_source(&d, "x.txt", "nccl-tests", (struct sf_hash){0, 1}, &err), &err);
    for (double bytes = 1024; bytes < 1e10; bytes *= 4) {
        struct sf_calib_point p = {.op = SF_CALL_ALL_REDUCE, .ranks = 8, .bytes = bytes};
        p.time_s = sfi_calib_link_s(link, &p);
        must(sf_calib_add_point(&d, &p, &err), &err);
    }
    must(sf_calib_fit(&d, &c, &err), &err);
    assert_true(fabs(c.collective_s.value / link[0] - 1.0) < 1e-3);
    assert_true(fabs(c.collective_rate.value / link[1] - 1.0) < 1e-3);
    sf_calib_clear(&c);
    sf_calib_data_clear(&d);
}

/* ---- the file ---------------------------------------------------------------------------------------------------- */

static struct sf_buf file_of(double outlier) {
    struct sf_calib_data d = {0};
    struct sf_calib c;
    struct sf_err err = {0};
    struct sf_buf out = {0};
    products(&d, outlier);
    must(sf_calib_fit(&d, &c, &err), &err);
    sf_calib_print(&d, &c, &out);
    sf_buf_write(&out, "", 1);
    assert_false(out.failed);
    sf_calib_clear(&c);
    sf_calib_data_clear(&d);
    return out;
}

static void test_file_is_reproducible(void **state) {
    (void)state;
    struct sf_buf a = file_of(1.0), b = file_of(1.0);
    struct sf_calib_data again = {0};
    struct sf_err err = {0};
    assert_string_equal(a.data, b.data);
    assert_null(strstr(a.data, "/somewhere"));
    must(sf_calib_read_kernels(&again, a.data, a.bytes - 1, "calib.yaml", &err),
         &err); /* its rows can be fitted again */
    assert_int_equal(again.rows_n, 50);
    sf_calib_data_clear(&again);
    sf_buf_free(&a);
    sf_buf_free(&b);
}

/* Whatever was measured, the file that comes of it can be read: no more digits than a reader takes, no rate of nothing.
 */
static void test_extreme_numbers_can_be_read(void **state) {
    static const struct {
        int64_t dim;
        double time_s;
    } extremes[] = {{1000000000, 1e-6}, {8, 9e5}};
    (void)state;
    for (size_t i = 0; i < sizeof extremes / sizeof extremes[0]; i++) {
        struct sf_calib_data d = {0}, again = {0};
        struct sf_calib c;
        struct sf_buf text = {0};
        struct sf_err err = {0};
        must(sf_calib_source(&d, "x.csv", "gemm", (struct sf_hash){1, 1}, &err), &err);
        for (int64_t k = 1; k <= 3; k++) {
            int64_t n = extremes[i].dim;
            const struct sf_calib_row row = {.kind = SF_CALL_GEMM,
                                             .dims = {n, n, n * k, 1},
                                             .time_s = extremes[i].time_s * (1.0 + 0.01 * (double)k)};
            must(sf_calib_add_row(&d, &row, &err), &err);
        }
        must(sf_calib_fit(&d, &c, &err), &err);
        sf_calib_print(&d, &c, &text);
        must(sf_calib_read_kernels(&again, text.data, text.bytes, "calib.yaml", &err), &err);
        assert_int_equal(again.rows_n, 3);
        sf_calib_data_clear(&again);
        sf_calib_data_clear(&d);
        sf_calib_clear(&c);
        sf_buf_free(&text);
    }
}

static double price(const char *kernels, const struct sf_call *call, enum sf_grade *grade, double *half) {
    struct toy toy;
    toy_open(&toy, 1, 2, 1, kernels);
    double t = sf_ps_to_s(sf_cost_call(toy.cost, call, grade));
    *half = sf_interval_call(toy.cost, call);
    toy_close(&toy);
    return t;
}

static void test_deleted_row(void **state) {
    (void)state;
    struct sf_buf file = file_of(1.0);
    struct sf_calib_row row = {.kind = SF_CALL_GEMM, .dims = {32, 256, 32, 1}};
    const struct sf_call call = sfi_calib_call(&row);
    enum sf_grade with, without;
    double with_half, without_half;
    double listed = price(file.data, &call, &with, &with_half);
    char *at = strstr(file.data, "flags: [], dims: [32, 256, 32, 1]");
    assert_non_null(at);
    while (*at != '\n') {
        at--;
    }
    char *end = strchr(at + 1, '\n');
    memmove(at, end, strlen(end) + 1);
    double modelled = price(file.data, &call, &without, &without_half);
    assert_int_equal(with, SF_GRADE_CALIBRATED);
    assert_int_equal(without, SF_GRADE_EXTRAPOLATED);
    assert_true(listed != modelled && fabs(modelled / listed - 1.0) < 0.1);
    assert_true(with_half != without_half && without_half > 0.0);
    sf_buf_free(&file);
}

static void test_outside_is_wider(void **state) {
    (void)state;
    struct sf_buf file = file_of(1.0);
    struct sf_calib_row inside = {.kind = SF_CALL_GEMM, .dims = {500, 256, 500, 1}}, outside = inside;
    outside.dims[0] = 1 << 20;
    const struct sf_call a = sfi_calib_call(&inside), b = sfi_calib_call(&outside);
    enum sf_grade grade;
    double half_a, half_b;
    price(file.data, &a, &grade, &half_a);
    price(file.data, &b, &grade, &half_b);
    assert_true(half_b > 1.9 * half_a);
    sf_buf_free(&file);
}

/* ---- hostile input ----------------------------------------------------------------------------------------------- */

static const char good_nccl[] = "# Collective test starting: all_reduce_perf\n"
                                "#  Rank  0 Group  0 Pid 1 on a\n#  Rank  1 Group  0 Pid 1 on a\n"
                                "#  size  count  type  redop  root  time  algbw\n"
                                "a:1 NCCL INFO hello\n  1024  256  float  sum  -1  10.5  0.1\n"
                                "  4096  1024  float  sum  -1  11.5  0.1\n";

static int read_nccl(const char *text, struct sf_err *err) {
    struct sf_calib_data d = {0};
    *err = (struct sf_err){0};
    int rc = sf_calib_read_nccl(&d, text, strlen(text), "f.txt", -1, 0, err);
    if (rc == SF_OK) {
        assert_int_equal(d.points_n, 2);
        assert_int_equal(d.points[0].ranks, 2);
        assert_true(fabs(d.points[1].time_s - 11.5e-6) < 1e-12);
    }
    sf_calib_data_clear(&d);
    return rc;
}

static void test_nccl_text(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
        uint32_t line;
    } bad[] = {
        {"", "no result", 0},
        {"1024 256 float sum -1 10\n", "# size count", 1},
        {"# size count type redop root time\n1024 1 float sum -1 10\n", "--op", 2},
        {"# all_gather_perf\n# size count time\n1024 1 10\n", "--ranks", 3},
        {"# all_gather_perf\n# Rank 0 x\n# Rank 1 x\n# size count time\n1024 1\n", "columns", 5},
        {"# all_gather_perf\n# Rank 0 x\n# Rank 1 x\n# size count time\n1024 1 nan\n", "time in us", 5},
        {"# all_gather_perf\n# Rank 0 x\n# Rank 1 x\n# size count time\n1024 1 -5\n", "time in us", 5},
        {"# all_gather_perf\n# Rank 0 x\n# Rank 1 x\n# size count time\n1x4 1 5\n", "size in bytes", 5},
        {"# all_gather_perf\n# Rank 0 x\n# Rank 1 x\n# size count time\n1e99 1 5\n", "size in bytes", 5},
    };
    struct sf_err err;
    must(read_nccl(good_nccl, &err), &err);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(read_nccl(bad[i].text, &err), SF_E_INPUT);
        assert_non_null(strstr(err.msg, bad[i].says));
        assert_int_equal(err.line, bad[i].line);
        assert_string_equal(err.file, "f.txt");
    }
}

/* Bytes changed at random: read or refused, never anything else. */
static void test_damaged_files(void **state) {
    (void)state;
    struct sf_buf file = file_of(1.0);
    struct sf_rng r = sf_rng_seed(1);
    for (int round = 0; round < 600; round++) {
        struct sf_calib_data d = {0};
        struct sf_err err = {0};
        char nccl[sizeof good_nccl];
        memcpy(nccl, good_nccl, sizeof nccl);
        nccl[sf_rng_u64(&r) % (sizeof nccl - 1)] = (char)sf_rng_u64(&r);
        int rc = sf_calib_read_nccl(&d, nccl, sizeof nccl - 1, "f.txt", -1, 0, &err);
        assert_true(rc == SF_OK || (rc == SF_E_INPUT && err.msg[0] != '\0'));
        size_t at = sf_rng_u64(&r) % (round % 3 == 0 ? 1200 : file.bytes - 1);
        char before = file.data[at];
        file.data[at] = (char)(' ' + sf_rng_u64(&r) % 95);
        rc = sf_calib_read_kernels(&d, file.data, file.bytes - 1, "k.yaml", &err);
        assert_true(rc == SF_OK || (rc == SF_E_INPUT && err.msg[0] != '\0'));
        file.data[at] = before;
        sf_calib_data_clear(&d);
    }
    sf_buf_free(&file);
}

static void test_kernel_files(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"kernels:\n  - { kind: gemm, dtype: f32, dims: [1, 1, 1, 1], time: 0us }\n", "above 0"},
        {"models: []\n", "1 to"},
        {"models:\n  - { kind: add, form: product, dtype: f32 }\n", "no kind of call"},
        {"models:\n  - { kind: add, form: stream, dtype: f32, launch: 1us, memory_rate: 0MB/s, p90: 1 }\n", "above"},
        {"models:\n  - { kind: add, form: stream, dtype: f32, launch: 1us, memory_rate: 1MB/s, p90: 1 }\n", "work"},
        {"models:\n  - { kind: add, form: stream, dtype: f32, launch: 1, memory_rate: 1MB/s, p90: 1 }\n", "unit"},
        {"calibration: { version: 2, repeat: 0 }\n", "1"},
        {"calibration: { version: 1, repeat: -1 }\n", "0"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct sf_calib_data d = {0};
        struct sf_err err = {0};
        assert_int_equal(sf_calib_read_kernels(&d, bad[i].text, strlen(bad[i].text), "k.yaml", &err), SF_E_INPUT);
        if (!strstr(err.msg, bad[i].says) || err.line == 0) {
            fail_msg("%s:%u: %s: expected \"%s\"", err.file, err.line, err.msg, bad[i].says);
        }
        sf_calib_data_clear(&d);
    }
}

static void test_nothing_and_no_memory(void **state) {
    (void)state;
    struct sf_calib_data d = {0};
    struct sf_calib c;
    struct sf_err err = {0};
    assert_int_equal(sf_calib_fit(&d, &c, &err), SF_E_INPUT);
    products(&d, 1.0);
    int rc = SF_E_INTERNAL;
    for (size_t n = 1; rc != SF_OK && n < 200; n++) {
        sf_alloc_fail_after(n);
        rc = sf_calib_fit(&d, &c, &err);
        sf_alloc_fail_after(0);
    }
    must(rc, &err);
    sf_calib_clear(&c);
    sf_calib_data_clear(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fit_finds_the_machine), cmocka_unit_test(test_links),
        cmocka_unit_test(test_file_is_reproducible),  cmocka_unit_test(test_deleted_row),
        cmocka_unit_test(test_outside_is_wider),      cmocka_unit_test(test_nccl_text),
        cmocka_unit_test(test_kernel_files),          cmocka_unit_test(test_damaged_files),
        cmocka_unit_test(test_nothing_and_no_memory), cmocka_unit_test(test_extreme_numbers_can_be_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
