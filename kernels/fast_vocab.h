/* A vocabulary in parts: embedding rows and cross entropy of one of them. */
#ifndef SF_KERNELS_FAST_VOCAB_H
#define SF_KERNELS_FAST_VOCAB_H

#include "kernels/fast_loss.h"
#include "kernels/fast_point.h"
#include "kernels/ref.h"

FN int embed_part_fwd(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    (void)err;
    size_t rows = (size_t)call->dims[0], cols = (size_t)call->dims[1];
    const int32_t *tokens = operand[0];
    const float *table = operand[1];
    float *y = operand[2];
    for (size_t r = 0; r < rows; r++, y += cols) {
        if (tokens[r] >= 0 && tokens[r] < call->dims[2]) {
            memcpy(y, table + (size_t)tokens[r] * cols, cols * sizeof(float));
        } else {
            memset(y, 0, cols * sizeof(float));
        }
    }
    return 0;
}

FN int embed_part_bwd(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    (void)err;
    size_t rows = (size_t)call->dims[0], cols = (size_t)call->dims[1];
    const int32_t *tokens = operand[0];
    const float *dy = operand[1];
    float *dtable = operand[2];
    for (size_t r = 0; r < rows; r++) {
        if (tokens[r] >= 0 && tokens[r] < call->dims[2]) {
            float *row = dtable + (size_t)tokens[r] * cols;
            add_row(row, dy + r * cols, row, cols);
        }
    }
    return 0;
}

/* Sum of exp(x - max). */
FN float row_exp_sum(const float *x, size_t n, float max) {
    vf sum = splat(0);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        sum += vexp(load(x + i) - splat(max));
    }
    if (i < n) {
        float t[LANES];
        store(t, splat(-INFINITY));
        memcpy(t, x + i, (n - i) * sizeof(float));
        sum += vexp(load(t) - splat(max));
    }
    return sum_lanes(sum);
}

FN int xent_stats(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    (void)err;
    size_t rows = (size_t)call->dims[0], vocab = (size_t)call->dims[1];
    const float *x = operand[0];
    const int32_t *targets = operand[1];
    float *stats = operand[2];
    for (size_t r = 0; r < rows; r++, x += vocab) {
        float max = row_max(x, vocab);
        stats[r] = (float)(log((double)row_exp_sum(x, vocab, max)) + (double)max);
        stats[rows + r] = targets[r] >= 0 && (size_t)targets[r] < vocab ? x[targets[r]] : 0.0f;
    }
    return 0;
}

FN int xent_part(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    (void)err;
    size_t rows = (size_t)call->dims[0], vocab = (size_t)call->dims[1], parts = (size_t)call->dims[2];
    float *x = operand[0], *loss = operand[3];
    const int32_t *targets = operand[1];
    double total = 0;
    for (size_t r = 0; r < rows; r++, x += vocab) {
        double target, lse = sfi_xent_join(operand[2], r, rows, parts, &target);
        vf scale = splat(call->imm[0]), shift = splat((float)lse);
        total += lse - target;
        for (size_t c = 0; c < vocab; c += LANES) {
            store_n(x + c, vexp(load_n(x + c, vocab - c) - shift) * scale, vocab - c);
        }
        if (targets[r] >= 0 && (size_t)targets[r] < vocab) {
            x[targets[r]] -= call->imm[0];
        }
    }
    *loss = (float)((double)call->imm[0] * total + (call->flags & SF_CALL_ACC2_FLAG ? (double)*loss : 0));
    return 0;
}

#endif
