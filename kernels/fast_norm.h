/* RMS normalisation. */
#ifndef SF_KERNELS_FAST_NORM_H
#define SF_KERNELS_FAST_NORM_H

#include "kernels/fast_vec.h"
#include "kernels/table.h"

enum { SUMS = 4 }; /* independent sums, to hide the latency of an addition */

/* sum of a b c over n values. */
FN float dot3(const float *a, const float *b, const float *c, size_t n) {
    vf sum[SUMS] = {{0}};
    size_t i = 0;
    for (; i + SUMS * LANES <= n; i += SUMS * LANES) {
        UNROLL
        for (size_t u = 0; u < SUMS; u++) {
            size_t j = i + u * LANES;
            sum[u] += load(a + j) * load(b + j) * load(c + j);
        }
    }
    for (; i < n; i += LANES) {
        sum[0] += load_n(a + i, n - i) * load_n(b + i, n - i) * load_n(c + i, n - i);
    }
    return sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

FN float sum_squares(const float *x, size_t n) {
    vf sum[SUMS] = {{0}};
    size_t i = 0;
    for (; i + SUMS * LANES <= n; i += SUMS * LANES) {
        UNROLL
        for (size_t u = 0; u < SUMS; u++) {
            vf v = load(x + i + u * LANES);
            sum[u] += v * v;
        }
    }
    for (; i < n; i += LANES) {
        vf v = load_n(x + i, n - i);
        sum[0] += v * v;
    }
    return sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

FN void rms_row(const float *x, const float *w, float eps, float *y, float *rstd, size_t cols) {
    *rstd = 1.0f / sqrtf(sum_squares(x, cols) / (float)cols + eps);
    vf scale = splat(*rstd);
    for (size_t c = 0; c < cols; c += LANES) {
        size_t n = cols - c;
        store_n(y + c, load_n(x + c, n) * scale * load_n(w + c, n), n);
    }
}

FN int rmsnorm_fwd(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    (void)err;
    size_t rows = (size_t)call->dims[0], cols = (size_t)call->dims[1];
    const float *x = operand[0], *w = operand[1];
    float *y = operand[2], *rstd = operand[3];
    for (size_t r = 0; r < rows; r++) {
        rms_row(x + r * cols, w, call->imm[0], y + r * cols, rstd + r, cols);
    }
    return 0;
}

/* dx = rstd (dy w - x rstd^2 mean(dy w x)); dw += dy x rstd. */
INLINE void rmsnorm_bwd_row(const float *dy, const float *x, const float *w, float rstd, float *dx, float *dw,
                            size_t cols, const bool add) {
    vf pull = splat(dot3(dy, w, x, cols) / (float)cols * rstd * rstd);
    vf scale = splat(rstd);
    for (size_t c = 0; c < cols; c += LANES) {
        size_t n = cols - c;
        vf g = load_n(dy + c, n), v = load_n(x + c, n);
        vf d = scale * (g * load_n(w + c, n) - v * pull);
        store_n(dw + c, load_n(dw + c, n) + g * (v * scale), n);
        store_n(dx + c, add ? load_n(dx + c, n) + d : d, n);
    }
}

FN int rmsnorm_bwd(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    (void)err;
    size_t rows = (size_t)call->dims[0], cols = (size_t)call->dims[1];
    const float *dy = operand[0], *x = operand[1], *w = operand[2], *rstd = operand[3];
    float *dx = operand[4], *dw = operand[5];
    if (!(call->flags & SF_CALL_ACC2_FLAG)) {
        memset(dw, 0, cols * sizeof(float));
    }
    for (size_t r = 0; r < rows; r++) {
        size_t at = r * cols;
        if (call->flags & SF_CALL_ACC_FLAG) {
            rmsnorm_bwd_row(dy + at, x + at, w, rstd[r], dx + at, dw, cols, true);
        } else {
            rmsnorm_bwd_row(dy + at, x + at, w, rstd[r], dx + at, dw, cols, false);
        }
    }
    return 0;
}

#endif
