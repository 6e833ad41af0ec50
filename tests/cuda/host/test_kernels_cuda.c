/* The device code of kernels/cuda, run by the emulation. */
#include "tests/cuda/compare.h"

#include "kernels/cuda/cuda_internal.h"
#include "tests/cuda/host/emul.h"

enum { SMS = 3 };

SFI_CUDA(gemm) { /* cuBLASLt has no place here */
    (void)ctx, (void)operand, (void)stream;
    return sf_fail(err, SF_E_INTERNAL, "%s: no library in the emulation", sf_call_name(call->kind));
}

size_t sfi_gemm_work(const struct sf_call *call) {
    (void)call;
    return 0;
}

bool sfi_gemm_fits(const struct sf_call *call) {
    (void)call;
    return false;
}

int sfi_cuda_launched(const struct sf_call *call, struct sf_err *err) {
    (void)call, (void)err;
    return 0;
}

static int run(const struct sf_call *call, struct device *d, uint64_t seed) {
    struct sf_cuda ctx = {.arch = 90, .sms_n = SMS};
    sf_emul_seed(seed);
    sf_cuda_set_work(&ctx, d->work, d->work_bytes, &d->fault);
    sf_kern_cuda kern = sf_kern_cuda_find(call, 90);
    assert_non_null(kern);
    return kern(&ctx, call, (void *const *)d->at, NULL, NULL);
}

/* The gradient may take the place of the input. */
static void check_glu_in_place(uint8_t dtype, uint16_t flags, int64_t cols) {
    const struct sf_call call = {.kind = SF_CALL_GLU_BWD, .dtype = dtype, .flags = flags, .dims = {37, cols}};
    struct operands ops = operands_create(&call, 0);
    uint64_t state = 24;
    operands_fill(&call, &ops, &state);
    struct device apart = device_create(&call, &ops, 0), within = device_create(&call, &ops, 0);
    unsigned char *unused = within.at[2];
    within.at[2] = within.at[1];
    assert_int_equal(run(&call, &apart, 4), 0);
    assert_int_equal(run(&call, &within, 5), 0);
    assert_memory_equal(within.at[1], apart.at[2], apart.bytes[2]);
    within.at[2] = unused;
    check_device_guards(&within, 0);
    operands_destroy(&ops);
    device_destroy(&apart);
    device_destroy(&within);
}

static void test_glu_in_place(void **unused) {
    (void)unused;
    const uint16_t flags[] = {0, SF_CALL_GELU_FLAG, SF_CALL_PLAIN_FLAG, SF_CALL_GELU_FLAG | SF_CALL_PLAIN_FLAG};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        for (uint8_t dtype = SF_F32; dtype <= SF_BF16; dtype++) {
            check_glu_in_place(dtype, flags[i], 64);
            check_glu_in_place(dtype, flags[i], 61);
        }
    }
}

/* Positions far along a sequence: a product in f32 would be off by whole radians. */
static void test_rope_far_positions(void **unused) {
    (void)unused;
    enum { SEQ = 1 << 20, ROWS = 3 };
    struct sf_call call = {.kind = SF_CALL_ROPE_FWD, .imm = {10000}, .dims = {SEQ, 1, 2, SEQ, 2}};
    float *x = malloc(2 * SEQ * sizeof(float));
    assert_non_null(x);
    for (size_t i = 0; i < SEQ; i++) {
        x[2 * i] = 1;
        x[2 * i + 1] = 0;
    }
    struct device d = {.at = {(unsigned char *)x}, .work_bytes = 0};
    assert_int_equal(run(&call, &d, 4), 0);
    for (size_t r = SEQ - ROWS; r < SEQ; r++) {
        assert_true(fabs((double)x[2 * r] - cos((double)r)) < 1e-6);
        assert_true(fabs((double)x[2 * r + 1] - sin((double)r)) < 1e-6);
    }
    free(x);
}

/* Moments in bf16 must follow small changes on average: a hundred steps that each shrink v by 0.1 %. */
static void test_lean_moments_decay(void **unused) {
    (void)unused;
    enum { N = 4096, STEPS = 100 };
    const struct sf_call call = {
        .kind = SF_CALL_ADAMW, .dtype = SF_BF16, .flags = SF_CALL_LEAN_FLAG, .imm = {0}, .dims = {N}};
    static uint16_t param[N], grad[N], m[N], v[N];
    static float master[N];
    float hyper[8] = {0, 0.9f, 0.999f, 1e-8f, 0, 1, 1, 1};
    double sum = 0;
    for (size_t i = 0; i < N; i++) {
        v[i] = to_bf16(1);
        grad[i] = m[i] = 0;
    }
    struct device d = {.at = {(void *)param, (void *)grad, (void *)m, (void *)v, (void *)hyper, (void *)master}};
    for (int s = 0; s < STEPS; s++) {
        hyper[6] = 1 - powf(0.999f, (float)(s + 1));
        assert_int_equal(run(&call, &d, 5), 0);
    }
    for (size_t i = 0; i < N; i++) {
        sum += (double)of_bf16(v[i]);
    }
    assert_true(fabs(sum / N - pow(0.999, STEPS)) < 2e-3);
}

static void test_bias_without_residual(void **unused) {
    (void)unused;
    float x[6] = {1, 2, 3, 4, 5, 6}, b[3] = {10, 20, 30}, y[6];
    struct sf_call call = {.kind = SF_CALL_BIAS_FWD, .dims = {2, 3}};
    struct device d = {.at = {(void *)x, (void *)b, NULL, (void *)y}};
    assert_int_equal(run(&call, &d, 6), 0);
    const float want[6] = {11, 22, 33, 14, 25, 36};
    assert_memory_equal(y, want, sizeof want);
}

/* Losses and gradients that are not finite must stay visible. */
static void test_xent_extremes(void **unused) {
    (void)unused;
    const struct sf_call call = {.kind = SF_CALL_XENT, .imm = {1}, .dims = {1, 5}};
    float logits[][5] = {{1e30f, -1e30f, 0, 1, 2}, {-INFINITY, -INFINITY, 0, 0, -INFINITY}, {NAN, 1, 2, 3, 4}};
    _Alignas(256) unsigned char work[256];
    for (int i = 0; i < 3; i++) {
        int32_t target = i == 1 ? 2 : 0;
        float loss = -1;
        struct device d = {.at = {(void *)logits[i], (void *)&target, (void *)&loss}, .work = work, .work_bytes = 256};
        assert_int_equal(run(&call, &d, 7), 0);
        assert_true(i == 2 ? isnan(loss) && isnan(logits[i][1]) : fabsf(loss - (i == 1 ? logf(2) : 0)) < 1e-6f);
    }
}

static void test_find(void **unused) {
    (void)unused;
    struct sf_call call = {.kind = SF_CALL_ADD, .dtype = SF_BF16, .dims = {8}};
    assert_non_null(sf_kern_cuda_find(&call, 90));
    assert_ptr_equal(sf_kern_cuda_find(&call, 90), sf_kern_cuda_find(&call, 103));
    assert_null(sf_kern_cuda_find(&call, 80));
    call.flags = SF_CALL_RECOMPUTE_FLAG;
    assert_non_null(sf_kern_cuda_find(&call, 100));
    call.flags = SF_CALL_ACC_FLAG;
    assert_null(sf_kern_cuda_find(&call, 90));
    call.flags = 0;
    call.dtype = SF_FP8;
    assert_null(sf_kern_cuda_find(&call, 90));
    call.dtype = SF_BF16;
    call.dims[0] = -1;
    assert_null(sf_kern_cuda_find(&call, 90));
    call.kind = SF_CALL_KINDS;
    assert_null(sf_kern_cuda_find(&call, 90));
    for (uint8_t kind = SF_CALL_MOE_ROUTE_FWD; kind <= SF_CALL_ALL_TO_ALL; kind++) {
        call = (struct sf_call){.kind = kind, .dims = {1, 1, 1, 1}};
        assert_null(sf_kern_cuda_find(&call, 90));
        assert_int_equal(sf_cuda_work_bytes(&call, false), 0);
    }
    call = (struct sf_call){.kind = SF_CALL_RMSNORM_BWD, .dtype = SF_F32, .dims = {4, 8192}};
    assert_non_null(sf_kern_cuda_find(&call, 90));
    call.dims[1] = 8193;
    assert_null(sf_kern_cuda_find(&call, 90));
}

/* Ring attention is priced, not computed. */
static void test_no_share_of_queries(void **unused) {
    (void)unused;
    const float shares[] = {0.5f, 0, NAN};
    for (uint8_t kind = SF_CALL_ATTN_FWD; kind <= SF_CALL_ATTN_BWD; kind++) {
        struct sf_call call = {.kind = kind, .imm = {0, 1}, .dims = {1, 8, 2, 1, 16, 64}};
        assert_non_null(sf_kern_cuda_find(&call, 90));
        for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
            call.imm[1] = shares[i];
            assert_null(sf_kern_cuda_find(&call, 90));
        }
    }
}

/* Parts of one row give what the whole gives. */
static void test_parts_make_a_whole(void **unused) {
    (void)unused;
    enum { ROWS = 5, PART = 33, PARTS = 3 };
    static float whole[ROWS][PARTS * PART], part[PARTS][ROWS][PART], stats[PARTS][2][ROWS];
    _Alignas(256) unsigned char work[256];
    int32_t targets[ROWS] = {0, 32, 33, 98, 70}, own[ROWS];
    float loss, part_loss;
    uint64_t state = 25;
    for (size_t i = 0; i < (size_t)ROWS * PARTS * PART; i++) {
        size_t r = i / (PARTS * PART), c = i % (PARTS * PART);
        whole[r][c] = part[c / PART][r][c % PART] = 20 * random_float(&state);
    }
    const struct sf_call one = {.kind = SF_CALL_XENT, .imm = {0.2f}, .dims = {ROWS, PARTS * PART}};
    struct device d = {.at = {(void *)whole, (void *)targets, (void *)&loss}, .work = work, .work_bytes = 256};
    assert_int_equal(run(&one, &d, 8), 0);
    for (int way = 0; way < 2; way++) {
        for (int p = 0; p < PARTS; p++) {
            const struct sf_call call = {.kind = way ? SF_CALL_XENT_PART : SF_CALL_XENT_STATS,
                                         .imm = {0.2f},
                                         .dims = {ROWS, PART, way ? PARTS : 0}};
            for (int r = 0; r < ROWS; r++) {
                own[r] = targets[r] - p * PART;
            }
            d.at[0] = (void *)part[p];
            d.at[1] = (void *)own;
            d.at[2] = way ? (void *)stats : (void *)stats[p];
            d.at[3] = (void *)&part_loss;
            assert_int_equal(run(&call, &d, 9), 0);
            assert_true(!way || fabsf(part_loss - loss) < 1e-5f * loss);
        }
    }
    assert_int_equal(d.fault.kind, 0);
    for (size_t i = 0; i < (size_t)ROWS * PARTS * PART; i++) {
        size_t r = i / (PARTS * PART), c = i % (PARTS * PART);
        assert_true(fabsf(whole[r][c] - part[c / PART][r][c % PART]) < 1e-6f);
    }
}

static void test_small_work_area(void **unused) {
    (void)unused;
    const struct sf_call call = {.kind = SF_CALL_SUMSQ, .dims = {100}};
    struct sf_cuda ctx = {.sms_n = SMS};
    struct sf_err err = {0};
    void *operand[SF_CALL_OPERANDS] = {NULL};
    char work[16];
    sf_cuda_set_work(&ctx, work, sizeof work, NULL);
    assert_int_equal(sf_kern_cuda_find(&call, 90)(&ctx, &call, operand, NULL, &err), SF_E_INTERNAL);
    assert_non_null(strstr(err.msg, "256"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_reference),   cmocka_unit_test(test_chosen_shapes),
        cmocka_unit_test(test_unknown_ids),         cmocka_unit_test(test_rope_far_positions),
        cmocka_unit_test(test_lean_moments_decay),  cmocka_unit_test(test_bias_without_residual),
        cmocka_unit_test(test_xent_extremes),       cmocka_unit_test(test_find),
        cmocka_unit_test(test_small_work_area),     cmocka_unit_test(test_glu_in_place),
        cmocka_unit_test(test_no_share_of_queries), cmocka_unit_test(test_parts_make_a_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
