/* Cross entropy and the optimizer step. */
#ifndef SF_KERNELS_FAST_LOSS_H
#define SF_KERNELS_FAST_LOSS_H

#include "kernels/fast_vec.h"
#include "kernels/table.h"

FN float row_max(const float *x, size_t n) {
    vf max = splat(-INFINITY);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        max = vmax(load(x + i), max);
    }
    float best = max_lanes(max);
    for (; i < n; i++) {
        best = x[i] > best ? x[i] : best;
    }
    return best;
}

/* x = exp(x - max); returns the sum. */
FN float row_exp(float *x, size_t n, float max) {
    vf sum = splat(0);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vf p = vexp(load(x + i) - splat(max));
        store(x + i, p);
        sum += p;
    }
    if (i < n) {
        float t[LANES];
        store(t, splat(-INFINITY));
        memcpy(t, x + i, (n - i) * sizeof(float));
        vf p = vexp(load(t) - splat(max));
        store_n(x + i, p, n - i);
        sum += p;
    }
    return sum_lanes(sum);
}

/* The first `vocab` columns of rows that are `width` wide; the gradient of the others is 0. */
FN int xent_columns(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], size_t vocab,
                    struct sf_err *err) {
    size_t rows = (size_t)call->dims[0], width = (size_t)call->dims[1];
    float *x = operand[0], *loss = operand[2];
    const int32_t *targets = operand[1];
    SF_TRY(sfi_check_ids("target", targets, rows, (int64_t)vocab, err));
    double total = 0;
    for (size_t r = 0; r < rows; r++, x += width) {
        size_t target = (size_t)targets[r];
        float max = row_max(x, vocab), hit = x[target];
        float sum = row_exp(x, vocab, max);
        vf scale = splat(call->imm[0] / sum);
        total += log((double)sum) + ((double)max - (double)hit);
        for (size_t c = 0; c < vocab; c += LANES) {
            store_n(x + c, load_n(x + c, vocab - c) * scale, vocab - c);
        }
        x[target] -= call->imm[0];
        memset(x + vocab, 0, (width - vocab) * sizeof(float));
    }
    *loss = (float)((double)call->imm[0] * total + (call->flags & SF_CALL_ACC2_FLAG ? (double)*loss : 0));
    return 0;
}

FN int xent(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    return xent_columns(call, operand, (size_t)call->dims[1], err);
}

FN int xent_padded(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    return xent_columns(call, operand, (size_t)(call->dims[1] - call->dims[2]), err);
}

FN int adamw(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    (void)err;
    size_t n = (size_t)call->dims[0];
    float *param = operand[0], *m = operand[2], *v = operand[3];
    const float *grad = operand[1], *hyper = operand[4];
    vf beta1 = splat(hyper[1]), rest1 = splat(1.0f - hyper[1]), beta2 = splat(hyper[2]), rest2 = splat(1.0f - hyper[2]);
    vf rate = splat(hyper[0] / hyper[5]), unbias2 = splat(1.0f / hyper[6]), eps = splat(hyper[3]);
    vf decay = splat(hyper[0] * hyper[4] * call->imm[0]), scale = splat(hyper[7]);
    for (size_t i = 0; i < n; i += LANES) {
        size_t k = n - i;
        vf g = load_n(grad + i, k) * scale, p = load_n(param + i, k);
        vf m1 = beta1 * load_n(m + i, k) + rest1 * g;
        vf v1 = beta2 * load_n(v + i, k) + rest2 * (g * g);
        store_n(m + i, m1, k);
        store_n(v + i, v1, k);
        store_n(param + i, p - (rate * m1 / (vsqrt(v1 * unbias2) + eps) + decay * p), k);
    }
    return 0;
}

#endif
