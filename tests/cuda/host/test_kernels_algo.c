/* Algorithm files: what is written is read back, and nothing else is. Shapes as cuBLASLt is told them. */
#include "tests/unit/test_kernels_util.h"

#include "core/arena.h"
#include "kernels/cuda/algo.h"

static const struct sfi_algo_device device = {"NVIDIA H200", 90, 132, 130100};

static struct sfi_algo random_algo(uint64_t *state) {
    struct sfi_algo a = {.dtype = (uint8_t)random_int(state, 0, 1), .flags = (uint16_t)random_int(state, 0, 7)};
    for (int i = 0; i < 4; i++) {
        a.dims[i] = random_int(state, 0, 100000);
    }
    for (int i = 0; i < SFI_ALGO_CONFIG_N; i++) {
        a.config[i] = (uint32_t)next_random(state);
    }
    a.workspace_bytes = (uint64_t)random_int(state, 0, 1 << 25);
    a.time_ns = (uint64_t)random_int(state, 1, 1 << 30);
    return a;
}

static struct sf_buf written(size_t n) {
    struct sfi_algos a = {0};
    struct sf_buf text = {0};
    uint64_t state = 31;
    for (size_t i = 0; i < n; i++) {
        const struct sfi_algo algo = random_algo(&state);
        assert_int_equal(sfi_algos_add(&a, &algo, NULL), 0);
    }
    sfi_algos_print(&a, &device, &text);
    assert_false(text.failed);
    sfi_algos_clear(&a);
    return text;
}

static void test_round_trip(void **unused) {
    (void)unused;
    for (size_t n = 0; n < 80; n += 13) {
        struct sf_buf text = written(n), again = {0};
        struct sfi_algos a;
        assert_int_equal(sfi_algos_parse(text.data, text.bytes, "file", &device, &a, NULL), 0);
        assert_int_equal(a.n, n);
        sfi_algos_print(&a, &device, &again);
        assert_int_equal(text.bytes, again.bytes);
        assert_memory_equal(text.data, again.data, text.bytes);
        sfi_algos_clear(&a);
        sf_buf_free(&text);
        sf_buf_free(&again);
    }
}

static void expect_refused(const char *text, size_t bytes, const char *what) {
    struct sfi_algos a;
    struct sf_err err = {0};
    assert_int_equal(sfi_algos_parse(text, bytes, "file", &device, &a, &err), SF_E_INPUT);
    assert_true(err.line > 0);
    if (what) {
        assert_non_null(strstr(err.msg, what));
    }
    assert_true(a.at == NULL && a.n == 0);
}

/* Cut anywhere but behind the last number, which may lose its line end. */
static void test_cut_off(void **unused) {
    (void)unused;
    struct sf_buf text = written(3);
    for (size_t bytes = 0; bytes + 1 < text.bytes; bytes++) {
        expect_refused(text.data, bytes, NULL);
    }
    sf_buf_free(&text);
}

/* Any byte replaced: refused, or read as other numbers that are inside their limits; never a crash. */
static void test_damaged(void **unused) {
    (void)unused;
    struct sf_buf text = written(2);
    uint64_t state = 32;
    for (size_t at = 0; at < text.bytes; at++) {
        for (int i = 0; i < 8; i++) {
            char saved = text.data[at];
            struct sfi_algos a;
            text.data[at] = (char)next_random(&state);
            (void)sfi_algos_parse(text.data, text.bytes, "file", &device, &a, NULL);
            sfi_algos_clear(&a);
            text.data[at] = saved;
        }
    }
    sf_buf_free(&text);
}

#define HEAD "staticfire gemm algorithms 1\ndevice \"NVIDIA H200\" arch=90 sms=132 cublaslt=130100\n"
#define SHAPE(m)                                                                                                       \
    "gemm bf16 flags=2 m=" m " n=2 k=3 groups=1 id=1 tile=2 splitk=1 reduction=0 swizzle=0 custom=0 stages=3 inner=0 " \
    "cluster=1 workspace=0 ns=5\n"

static void refuse(const char *text, const char *what) {
    expect_refused(text, strlen(text), what);
}

static void test_refused(void **unused) {
    (void)unused;
    struct sfi_algos a;
    assert_int_equal(
        sfi_algos_parse(HEAD SHAPE("1") "end 1\n", strlen(HEAD SHAPE("1") "end 1\n"), "f", &device, &a, NULL), 0);
    sfi_algos_clear(&a);
    refuse("staticfire gemm algorithms 2\n", NULL);
    refuse("staticfire gemm algorithms 1\ndevice \"NVIDIA H100\" arch=90 sms=132 cublaslt=130100\nend 0\n",
           "NVIDIA H100");
    refuse("staticfire gemm algorithms 1\ndevice \"NVIDIA H200\" arch=90 sms=132 cublaslt=130000\nend 0\n", "130000");
    refuse(HEAD SHAPE("1") SHAPE("1") "end 2\n", "once");
    refuse(HEAD SHAPE("1") "end 2\n", "2 shapes announced");
    refuse(HEAD SHAPE("-1") "end 1\n", NULL);
    refuse(HEAD SHAPE("99999999999999999999") "end 1\n", NULL);
    refuse(HEAD "end 0\nmore\n", "end of the file");
    refuse(HEAD "gemm int8 flags=0\nend 1\n", "int8");
    refuse(HEAD "gemm bf16 flags=64\nend 1\n", NULL);
}

static void test_find_and_replace(void **unused) {
    (void)unused;
    struct sfi_algos a = {0};
    struct sfi_algo algo = {.dtype = SF_BF16, .flags = SF_CALL_TB_FLAG, .dims = {1, 2, 3, 1}, .time_ns = 7};
    struct sf_call call = {.kind = SF_CALL_GEMM, .dtype = SF_BF16, .dims = {1, 2, 3, 1}};
    call.flags = SF_CALL_TB_FLAG | SF_CALL_RECOMPUTE_FLAG;
    assert_int_equal(sfi_algos_add(&a, &algo, NULL), 0);
    algo.time_ns = 6;
    assert_int_equal(sfi_algos_add(&a, &algo, NULL), 0);
    assert_int_equal(a.n, 1);
    assert_int_equal(sfi_algos_find(&a, &call)->time_ns, 6);
    call.flags = 0;
    assert_null(sfi_algos_find(&a, &call));
    sfi_algos_clear(&a);
}

static void test_out_of_memory(void **unused) {
    (void)unused;
    struct sf_buf text = written(40);
    struct sf_err err = {0};
    struct sfi_algos a;
    sf_alloc_fail_after(2);
    int rc = sfi_algos_parse(text.data, text.bytes, "file", &device, &a, &err);
    sf_alloc_fail_after(0);
    assert_int_equal(rc, SF_E_INTERNAL);
    assert_null(a.at);
    sf_buf_free(&text);
}

static void test_path(void **unused) {
    (void)unused;
    char path[64];
    const struct sfi_algo_device odd = {"../../x /y\n", 90, 1, 5};
    assert_int_equal(sfi_algo_path("/c", &device, path, sizeof path, NULL), 0);
    assert_string_equal(path, "/c/gemm-nvidiah200-130100.txt");
    assert_int_equal(sfi_algo_path("/c", &odd, path, sizeof path, NULL), 0);
    assert_string_equal(path, "/c/gemm-xy-5.txt");
    assert_int_equal(sfi_algo_path("/c", &device, path, 10, NULL), SF_E_USAGE);
}

/* Element (row, col) of op(matrix) in column-major memory. */
static double entry(const float *at, const struct sfi_gemm_matrix *m, bool transpose, uint64_t row, uint64_t col) {
    uint64_t r = transpose ? col : row, c = transpose ? row : col;
    assert_true(r < m->rows && c < m->cols && m->ld >= m->rows);
    return (double)at[c * m->ld + r];
}

/* What cuBLASLt is documented to compute, done by hand, against the reference. */
static void test_layouts(void **unused) {
    (void)unused;
    uint64_t state = 33;
    for (unsigned flags = 0; flags < 4; flags++) {
        struct sf_call call = {.kind = SF_CALL_GEMM, .flags = (uint16_t)flags, .dims = {5, 7, 3, 2}};
        struct operands ops = operands_create(&call, 0);
        operands_fill(&call, &ops, &state);
        assert_int_equal(sfi_kern_reference.kern[SF_CALL_GEMM](&call, ops.at, NULL), 0);
        const struct sfi_gemm_layout l = sfi_gemm_layout_of(&call);
        for (uint64_t g = 0; g < 2; g++) {
            const float *first = (float *)ops.at[1] + g * l.first.stride;
            const float *second = (float *)ops.at[0] + g * l.second.stride;
            const float *result = (float *)ops.at[2] + g * l.result.stride;
            for (uint64_t e = 0; e < l.result.rows * l.result.cols; e++) {
                uint64_t row = e % l.result.rows, col = e / l.result.rows;
                double sum = 0;
                for (uint64_t k = 0; k < 3; k++) {
                    sum += entry(first, &l.first, l.transpose_first, row, k) *
                           entry(second, &l.second, l.transpose_second, k, col);
                }
                assert_true(fabs(sum - entry(result, &l.result, false, row, col)) < 1e-6);
            }
        }
        operands_destroy(&ops);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),       cmocka_unit_test(test_cut_off),       cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_refused),          cmocka_unit_test(test_path),          cmocka_unit_test(test_layouts),
        cmocka_unit_test(test_find_and_replace), cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
