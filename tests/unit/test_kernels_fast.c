/* Each fast kernel, in every instruction set of this CPU, against its reference on random shapes. */
#include "test_kernels_util.h"

#include <math.h>
#include <stdio.h>

#include "core/call.h"

enum { SHAPES = 24 };

static double largest(const float *x, size_t n) {
    double max = 0;
    for (size_t i = 0; i < n; i++) {
        max = fmax(max, fabs((double)x[i]));
    }
    return max;
}

static bool is_ids(const struct sf_call *call, int operand) {
    return (operand == 0 && (call->kind == SF_CALL_EMBED_FWD || call->kind == SF_CALL_EMBED_BWD)) ||
           (operand == 1 && (call->kind == SF_CALL_XENT || call->kind == SF_CALL_XENT_STATS ||
                             call->kind == SF_CALL_XENT_PART || call->kind == SF_CALL_XENT_PADDED));
}

/* Largest difference relative to the largest value of the operand; NaN counts as infinite. */
static double difference(const float *want, const float *got, size_t n) {
    double worst = 0, scale = largest(want, n);
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)want[i] - (double)got[i]);
        worst = isnan(d) ? INFINITY : fmax(worst, d);
    }
    return worst / (scale > 0 ? scale : 1);
}

static void check_guards(const struct operands *ops, size_t shift) {
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        const unsigned char *end = (const unsigned char *)ops->at[i] + ops->count[i] * sizeof(float);
        for (size_t b = 0; ops->count[i] > 0 && b < GUARD * sizeof(float); b++) {
            assert_int_equal(end[b], 0x5a);
        }
        for (size_t b = 0; ops->count[i] > 0 && b < shift * sizeof(float); b++) {
            assert_int_equal(((unsigned char *)ops->base[i])[b], 0x5a);
        }
    }
}

static void check_shape(const struct sfi_kern_table *table, const struct sf_call *call, uint64_t *state) {
    size_t shift = (size_t)random_int(state, 0, 3);
    struct operands want = operands_create(call, 0), got = operands_create(call, shift);
    operands_fill(call, &want, state);
    operands_copy(&want, &got);
    assert_int_equal(sfi_kern_reference.kern[call->kind](call, want.at, NULL), 0);
    assert_int_equal(table->kern[call->kind](call, got.at, NULL), 0);
    check_guards(&got, shift);
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        if (want.count[i] == 0 || (i == 9 && call->kind == SF_CALL_ATTN_BWD) ||
            (i == 7 && call->kind == SF_CALL_ATTN_SLICE_BWD)) {
            continue;
        }
        if (is_ids(call, i)) {
            assert_memory_equal(want.at[i], got.at[i], want.count[i] * 4);
            continue;
        }
        double worst = difference(want.at[i], got.at[i], want.count[i]);
        if (worst > 5e-6) {
            print_error("%s %s operand %d: %g (dims %d %d %d %d %d %d, flags %d)\n", table->name,
                        sf_call_name(call->kind), i, worst, (int)call->dims[0], (int)call->dims[1], (int)call->dims[2],
                        (int)call->dims[3], (int)call->dims[4], (int)call->dims[5], call->flags);
        }
        assert_true(worst <= 5e-6);
    }
    operands_destroy(&want);
    operands_destroy(&got);
}

static void test_against_reference(void **unused) {
    (void)unused;
    uint64_t state = 1;
    const struct sfi_kern_table *table;
    for (size_t t = 0; (table = sfi_kern_fast(t)) != NULL; t++) {
        for (uint8_t kind = 0; kind < SF_CALL_KINDS; kind++) {
            for (int s = 0; table->kern[kind] != NULL && s < SHAPES; s++) {
                const struct sf_call call = random_call(kind, &state);
                check_shape(table, &call, &state);
            }
        }
    }
}

static void test_larger_shapes(void **unused) {
    (void)unused;
    uint64_t state = 2;
    const struct sf_call calls[] = {
        {.kind = SF_CALL_GEMM, .dims = {130, 257, 1000, 1}},
        {.kind = SF_CALL_GEMM, .flags = SF_CALL_TA_FLAG | SF_CALL_ACC_FLAG, .dims = {257, 130, 1000, 1}},
        {.kind = SF_CALL_GEMM, .flags = SF_CALL_TB_FLAG, .dims = {300, 7, 513, 2}},
        {.kind = SF_CALL_RMSNORM_BWD, .dims = {100, 1031}},
        {.kind = SF_CALL_ROPE_FWD, .imm = {500000}, .dims = {4096, 1, 64, 4096, 64}},
        {.kind = SF_CALL_ATTN_FWD, .dims = {1, 300, 2, 1, 128, 256}},
        {.kind = SF_CALL_ATTN_BWD, .dims = {1, 200, 2, 1, 128, 256}},
        {.kind = SF_CALL_ATTN_BWD, .dims = {1, 70, 1, 1, SFI_ATTN_HEAD_DIM_MAX, SFI_ATTN_HEAD_DIM_MAX}},
        {.kind = SF_CALL_XENT, .imm = {0.125f}, .dims = {8, 50257}},
        {.kind = SF_CALL_XENT_PADDED, .imm = {0.125f}, .dims = {8, 50304, 47}},
        {.kind = SF_CALL_LAYERNORM_BWD, .flags = SF_CALL_ACC_FLAG, .dims = {60, 1031}},
        {.kind = SF_CALL_EMBED_BWD, .dims = {1000, 33, 3}},
    };
    const struct sfi_kern_table *table;
    for (size_t t = 0; (table = sfi_kern_fast(t)) != NULL; t++) {
        for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++) {
            check_shape(table, &calls[i], &state);
        }
    }
}

/* Every kind of the reference has a fast twin and the other way round. */
static void test_tables_agree(void **unused) {
    (void)unused;
    const struct sfi_kern_table *table;
    for (size_t t = 0; (table = sfi_kern_fast(t)) != NULL; t++) {
        for (int kind = 0; kind < SF_CALL_KINDS; kind++) {
            assert_int_equal(table->kern[kind] != NULL, sfi_kern_reference.kern[kind] != NULL);
        }
    }
}

static void check_finite(const struct operands *ops) {
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        for (size_t e = 0; e < ops->count[i]; e++) {
            assert_true(isfinite(((float *)ops->at[i])[e]));
        }
    }
}

/* Inputs of up to 2 * factor. */
static void check_extreme(const struct sfi_kern_table *table, uint8_t kind, float factor, int scaled) {
    uint64_t state = 3;
    for (int s = 0; s < 6; s++) {
        const struct sf_call call = random_call(kind, &state);
        struct operands ops = operands_create(&call, 0);
        operands_fill(&call, &ops, &state);
        for (int i = 0; i < scaled; i++) {
            for (size_t e = 0; e < ops.count[i] && !is_ids(&call, i); e++) {
                ((float *)ops.at[i])[e] *= factor;
            }
        }
        if (kind == SF_CALL_ATTN_BWD) {
            struct sf_call forward = call;
            forward.kind = SF_CALL_ATTN_FWD;
            assert_int_equal(table->kern[SF_CALL_ATTN_FWD](&forward, ops.at, NULL), 0);
        }
        assert_int_equal(table->kern[kind](&call, ops.at, NULL), 0);
        check_finite(&ops);
        operands_destroy(&ops);
    }
}

static void test_extreme_inputs(void **unused) {
    (void)unused;
    const struct sfi_kern_table *table;
    for (size_t t = 0; (table = sfi_kern_fast(t)) != NULL; t++) {
        check_extreme(table, SF_CALL_XENT, 1e30f, 1);
        check_extreme(table, SF_CALL_ATTN_FWD, 1e6f, 2);
        check_extreme(table, SF_CALL_ATTN_BWD, 1e6f, 2);
        check_extreme(table, SF_CALL_GLU_FWD, 1e15f, 1);
        check_extreme(table, SF_CALL_GLU_BWD, 1e15f, 2);
        check_extreme(table, SF_CALL_RMSNORM_FWD, 1e15f, 1);
    }
}

/* A NaN must reach the loss: training that diverged has to show it. */
static void test_nan_shows(void **unused) {
    (void)unused;
    const struct sfi_kern_table *table;
    for (size_t t = 0; (table = sfi_kern_fast(t)) != NULL; t++) {
        for (int at = 0; at < 37; at++) {
            const struct sf_call call = {.kind = SF_CALL_XENT, .imm = {1}, .dims = {1, 37}};
            float logits[37] = {0}, loss = 0;
            int32_t target = 5;
            void *operand[SF_CALL_OPERANDS] = {logits, &target, &loss};
            logits[at] = NAN;
            assert_int_equal(table->kern[SF_CALL_XENT](&call, operand, NULL), 0);
            assert_true(isnan(loss));
        }
    }
}

int main(void) {
    sf_kern_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_reference), cmocka_unit_test(test_larger_shapes),
        cmocka_unit_test(test_tables_agree),      cmocka_unit_test(test_extreme_inputs),
        cmocka_unit_test(test_nan_shows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
