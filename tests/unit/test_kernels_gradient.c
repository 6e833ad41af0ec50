/* The backward references against finite differences of the forward references. */
#include "test_kernels_util.h"

#include <math.h>

enum { SHAPES = 4 };

/* A forward call, which operands hold its result and inputs, and the same for its backward call. */
struct pair {
    uint8_t forward, backward;
    int y, dy; /* the result in the forward call, its gradient in the backward call */
    int inputs_n;
    int input[3], gradient[3];
    int shared[4][2], shared_n; /* {backward operand, forward operand} that hold the same values */
};

static const struct pair pairs[] = {
    {SF_CALL_RMSNORM_FWD, SF_CALL_RMSNORM_BWD, 2, 0, 2, {0, 1}, {4, 5}, {{1, 0}, {2, 1}, {3, 3}}, 3},
    {SF_CALL_LAYERNORM_FWD, SF_CALL_LAYERNORM_BWD, 3, 0, 3, {0, 1, 2}, {5, 6, 7}, {{1, 0}, {2, 1}, {3, 4}, {4, 5}}, 4},
    {SF_CALL_BIAS_FWD, SF_CALL_BIAS_BWD, 3, 0, 1, {1}, {1}, {{0, 0}}, 0},
    {SF_CALL_GLU_FWD, SF_CALL_GLU_BWD, 1, 0, 1, {0}, {2}, {{1, 0}}, 1},
    {SF_CALL_EMBED_FWD, SF_CALL_EMBED_BWD, 2, 1, 1, {1}, {2}, {{0, 0}}, 1},
    {SF_CALL_ATTN_FWD, SF_CALL_ATTN_BWD, 3, 5, 3, {0, 1, 2}, {6, 7, 8}, {{0, 0}, {1, 1}, {2, 2}}, 3},
};

static double weighted_result(const struct sf_call *call, struct operands *ops, int y, const float *weight) {
    double sum = 0;
    assert_int_equal(sfi_kern_reference.kern[call->kind](call, ops->at, NULL), 0);
    for (size_t i = 0; i < ops->count[y]; i++) {
        sum += (double)((float *)ops->at[y])[i] * (double)weight[i];
    }
    return sum;
}

/* d(weighted result)/dx with four points, so that steps can be large enough for f32 results. */
static double slope(const struct sf_call *call, struct operands *ops, int y, const float *weight, float *x) {
    const float saved = *x, h = 0x1p-6f;
    double f[4];
    for (int i = 0; i < 4; i++) {
        *x = saved + (float)((int[]){-2, -1, 1, 2}[i]) * h;
        f[i] = weighted_result(call, ops, y, weight);
    }
    *x = saved;
    return (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * (double)h);
}

static void check_input(const struct sf_call *call, struct operands *ops, const struct pair *pair, int input,
                        const struct operands *back) {
    const float *gradient = back->at[pair->gradient[input]];
    float *x = ops->at[pair->input[input]];
    for (size_t i = 0; i < ops->count[pair->input[input]]; i += 1 + i % 3) {
        double want = slope(call, ops, pair->y, back->at[pair->dy], x + i);
        assert_true(fabs(want - (double)gradient[i]) <= 2e-4 * (1 + fabs(want)));
    }
}

static void check_pair(const struct pair *pair, struct sf_call call) {
    uint64_t state = 7;
    struct operands ops = operands_create(&call, 0);
    operands_fill(&call, &ops, &state);
    assert_int_equal(sfi_kern_reference.kern[pair->forward](&call, ops.at, NULL), 0);
    struct sf_call backward = call;
    backward.kind = pair->backward;
    struct operands back = operands_create(&backward, 0);
    operands_fill(&backward, &back, &state);
    for (int i = 0; i < pair->shared_n; i++) {
        memcpy(back.at[pair->shared[i][0]], ops.at[pair->shared[i][1]], ops.count[pair->shared[i][1]] * sizeof(float));
    }
    if (pair->forward == SF_CALL_ATTN_FWD) {
        memcpy(back.at[3], ops.at[3], ops.count[3] * sizeof(float));
        memcpy(back.at[4], ops.at[4], ops.count[4] * sizeof(float));
    }
    for (int i = 0; i < pair->inputs_n; i++) {
        memset(back.at[pair->gradient[i]], 0, back.count[pair->gradient[i]] * sizeof(float));
    }
    assert_int_equal(sfi_kern_reference.kern[pair->backward](&backward, back.at, NULL), 0);
    for (int i = 0; i < pair->inputs_n; i++) {
        check_input(&call, &ops, pair, i, &back);
    }
    operands_destroy(&ops);
    operands_destroy(&back);
}

static void test_finite_differences(void **unused) {
    (void)unused;
    uint64_t state = 5;
    for (size_t p = 0; p < sizeof(pairs) / sizeof(*pairs); p++) {
        for (int s = 0; s < SHAPES; s++) {
            struct sf_call call = random_call(pairs[p].forward, &state);
            call.dims[0] = random_int(&state, 1, 3);
            call.dims[1] = random_int(&state, 2, 7);
            if (pairs[p].forward == SF_CALL_ATTN_FWD) {
                call.dims[4] = random_int(&state, 2, 6);
                call.dims[5] = call.dims[2] * call.dims[4] + s;
            }
            check_pair(&pairs[p], call);
        }
    }
}

/* Rotations are orthogonal: backward undoes forward, and forward keeps lengths. */
static void test_rope_is_undone(void **unused) {
    (void)unused;
    uint64_t state = 6;
    for (int s = 0; s < SHAPES; s++) {
        struct sf_call call = random_call(SF_CALL_ROPE_FWD, &state);
        struct operands ops = operands_create(&call, 0), before = operands_create(&call, 0);
        operands_fill(&call, &ops, &state);
        operands_copy(&ops, &before);
        assert_int_equal(sfi_kern_reference.kern[SF_CALL_ROPE_FWD](&call, ops.at, NULL), 0);
        if (call.dims[0] > 1 && call.dims[3] > 1) {
            assert_memory_not_equal(ops.at[0], before.at[0], ops.count[0] * sizeof(float));
        }
        assert_int_equal(sfi_kern_reference.kern[SF_CALL_ROPE_BWD](&call, ops.at, NULL), 0);
        for (size_t i = 0; i < ops.count[0]; i++) {
            assert_true(fabsf(((float *)ops.at[0])[i] - ((float *)before.at[0])[i]) < 1e-6f);
        }
        operands_destroy(&ops);
        operands_destroy(&before);
    }
}

/* Position 1 of a head of two: a plain rotation by one radian. */
static void test_rope_known_angle(void **unused) {
    (void)unused;
    const struct sf_call call = {.kind = SF_CALL_ROPE_FWD, .imm = {10000}, .dims = {2, 1, 2, 2, 2}};
    float x[4] = {1, 0, 1, 0};
    void *operand[SF_CALL_OPERANDS] = {x};
    assert_int_equal(sfi_kern_reference.kern[SF_CALL_ROPE_FWD](&call, operand, NULL), 0);
    assert_true(fabsf(x[0] - 1) < 1e-7f && fabsf(x[1]) < 1e-7f);
    assert_true(fabsf(x[2] - cosf(1)) < 1e-6f && fabsf(x[3] - sinf(1)) < 1e-6f);
}

static double xent_loss(const struct sf_call *call, const float *logits, const int32_t *targets) {
    float copy[64], loss = 0;
    memcpy(copy, logits, sizeof(copy));
    void *operand[SF_CALL_OPERANDS] = {copy, (void *)(uintptr_t)targets, &loss};
    assert_int_equal(sfi_kern_reference.kern[SF_CALL_XENT](call, operand, NULL), 0);
    return (double)loss;
}

static void test_xent_gradient(void **unused) {
    (void)unused;
    const struct sf_call call = {.kind = SF_CALL_XENT, .imm = {0.25f}, .dims = {4, 16}};
    uint64_t state = 8;
    float logits[64], gradient[64], loss;
    int32_t targets[4] = {0, 15, 7, 7};
    for (int i = 0; i < 64; i++) {
        gradient[i] = logits[i] = 3 * random_float(&state);
    }
    void *operand[SF_CALL_OPERANDS] = {gradient, targets, &loss};
    assert_int_equal(sfi_kern_reference.kern[SF_CALL_XENT](&call, operand, NULL), 0);
    for (int i = 0; i < 64; i++) {
        const float saved = logits[i], h = 0x1p-5f;
        logits[i] = saved + h;
        double up = xent_loss(&call, logits, targets);
        logits[i] = saved - h;
        double down = xent_loss(&call, logits, targets);
        logits[i] = saved;
        assert_true(fabs((up - down) / (2 * (double)h) - (double)gradient[i]) < 1e-4);
    }
}

/* One step by hand: at t = 1 the bias corrections cancel the betas, so the step is lr * sign(grad) plus the decay. */
static void test_adamw_first_step(void **unused) {
    (void)unused;
    const struct sf_call call = {.kind = SF_CALL_ADAMW, .imm = {0.5f}, .dims = {2}};
    float param[2] = {1, 2}, grad[2] = {3, -5}, m[2] = {0}, v[2] = {0};
    float hyper[8] = {0.01f, 0.9f, 0.99f, 0, 0.2f, 0.1f, 0.01f, 0.5f};
    void *operand[SF_CALL_OPERANDS] = {param, grad, m, v, hyper};
    assert_int_equal(sfi_kern_reference.kern[SF_CALL_ADAMW](&call, operand, NULL), 0);
    assert_true(fabsf(param[0] - (1 - 0.01f * (1 + 0.1f * 1))) < 1e-6f);
    assert_true(fabsf(param[1] - (2 - 0.01f * (-1 + 0.1f * 2))) < 1e-6f);
    assert_true(fabsf(m[0] - 0.15f) < 1e-6f && fabsf(v[0] - 0.0225f) < 1e-6f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finite_differences), cmocka_unit_test(test_rope_is_undone),
        cmocka_unit_test(test_rope_known_angle),   cmocka_unit_test(test_xent_gradient),
        cmocka_unit_test(test_adamw_first_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
