/* References of cross entropy, the optimizer step and clipping by the global norm. */
#include <math.h>

#include "kernels/ref.h"

/* Overwrites one row of logits; returns the token's loss. */
static double xent_row(float *x, size_t vocab, size_t target, double scale) {
    double max = -INFINITY, sum = 0;
    for (size_t c = 0; c < vocab; c++) {
        max = fmax(max, (double)x[c]);
    }
    for (size_t c = 0; c < vocab; c++) {
        sum += exp((double)x[c] - max);
    }
    double loss = log(sum) + max - (double)x[target];
    for (size_t c = 0; c < vocab; c++) {
        double p = exp((double)x[c] - max) / sum;
        x[c] = (float)(scale * (c == target ? p - 1 : p));
    }
    return loss;
}

/* The first `vocab` columns of rows that are `width` wide; the gradient of the others is 0. */
static int xent_columns(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], size_t vocab,
                        struct sf_err *err) {
    size_t rows = (size_t)call->dims[0], width = (size_t)call->dims[1];
    const int32_t *targets = operand[1];
    double total = 0;
    SF_TRY(sfi_check_ids("target", targets, rows, (int64_t)vocab, err));
    for (size_t r = 0; r < rows; r++) {
        float *x = (float *)operand[0] + r * width;
        total += xent_row(x, vocab, (size_t)targets[r], (double)call->imm[0]);
        for (size_t c = vocab; c < width; c++) {
            x[c] = 0;
        }
    }
    float *loss = operand[2];
    *loss = (float)((double)call->imm[0] * total + (call->flags & SF_CALL_ACC2_FLAG ? (double)*loss : 0));
    return 0;
}

SFI_REF(xent) {
    return xent_columns(call, operand, (size_t)call->dims[1], err);
}

SFI_REF(xent_padded) {
    return xent_columns(call, operand, (size_t)(call->dims[1] - call->dims[2]), err);
}

SFI_REF(adamw) {
    (void)err;
    float *param = operand[0], *m = operand[2], *v = operand[3];
    const float *grad = operand[1], *hyper = operand[4];
    double lr = (double)hyper[0], beta1 = (double)hyper[1], beta2 = (double)hyper[2], eps = (double)hyper[3];
    double decay = (double)hyper[4] * (double)call->imm[0];
    for (size_t i = 0; i < (size_t)call->dims[0]; i++) {
        double g = (double)grad[i] * (double)hyper[7], p = (double)param[i];
        double m1 = beta1 * (double)m[i] + (1 - beta1) * g;
        double v1 = beta2 * (double)v[i] + (1 - beta2) * g * g;
        double step = m1 / (double)hyper[5] / (sqrt(v1 / (double)hyper[6]) + eps);
        m[i] = (float)m1;
        v[i] = (float)v1;
        param[i] = (float)(p - lr * (step + decay * p));
    }
    return 0;
}

SFI_REF(sumsq) {
    (void)err;
    const float *x = operand[0];
    float *y = operand[1];
    double sum = call->flags & SF_CALL_ACC_FLAG ? (double)*y : 0;
    for (size_t i = 0; i < (size_t)call->dims[0]; i++) {
        sum += (double)x[i] * (double)x[i];
    }
    *y = (float)sum;
    return 0;
}

SFI_REF(clip) {
    (void)err;
    const float *sums = operand[0];
    float *norm = operand[1], *hyper = operand[2];
    double sum = 0, limit = (double)call->imm[0];
    for (size_t i = 0; i < (size_t)call->dims[0]; i++) {
        sum += (double)sums[i];
    }
    double whole = fabs((double)hyper[7]) * sqrt(sum);
    *norm = (float)whole;
    if (whole > limit) {
        hyper[7] = (float)((double)hyper[7] * (limit / whole));
    }
    return 0;
}
