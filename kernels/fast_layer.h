/* Layer normalisation, norms that add the residual first, and biases. */
#ifndef SF_KERNELS_FAST_LAYER_H
#define SF_KERNELS_FAST_LAYER_H

#include "kernels/fast_norm.h"
#include "kernels/fast_point.h"

FN float sum_values(const float *x, size_t n) {
    vf sum[SUMS] = {{0}};
    size_t i = 0;
    for (; i + SUMS * LANES <= n; i += SUMS * LANES) {
        UNROLL
        for (size_t u = 0; u < SUMS; u++) {
            sum[u] += load(x + i + u * LANES);
        }
    }
    for (; i < n; i += LANES) {
        sum[0] += load_n(x + i, n - i);
    }
    return sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

/* Sum of (x - mean)^2; lanes behind the end must not count, so they are not those of load_n. */
FN float sum_deviations(const float *x, size_t n, float mean) {
    vf sum = splat(0), middle = splat(mean);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vf d = load(x + i) - middle;
        sum += d * d;
    }
    float rest = sum_lanes(sum);
    for (; i < n; i++) {
        rest += (x[i] - mean) * (x[i] - mean);
    }
    return rest;
}

struct layer_row {
    const float *w, *b;
    float eps;
    size_t cols;
};

FN void layer_row(const struct layer_row *l, const float *x, float *y, float *mean, float *rstd) {
    *mean = sum_values(x, l->cols) / (float)l->cols;
    *rstd = 1.0f / sqrtf(sum_deviations(x, l->cols, *mean) / (float)l->cols + l->eps);
    vf middle = splat(*mean), scale = splat(*rstd);
    for (size_t c = 0; c < l->cols; c += LANES) {
        size_t n = l->cols - c;
        store_n(y + c, (load_n(x + c, n) - middle) * scale * load_n(l->w + c, n) + load_n(l->b + c, n), n);
    }
}

FN int layernorm_fwd(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    (void)err;
    size_t rows = (size_t)call->dims[0], cols = (size_t)call->dims[1];
    const struct layer_row l = {operand[1], operand[2], call->imm[0], cols};
    const float *x = operand[0];
    float *y = operand[3], *mean = operand[4], *rstd = operand[5];
    for (size_t r = 0; r < rows; r++) {
        layer_row(&l, x + r * cols, y + r * cols, mean + r, rstd + r);
    }
    return 0;
}

FN int layernorm_add_fwd(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    (void)err;
    size_t rows = (size_t)call->dims[0], cols = (size_t)call->dims[1];
    const struct layer_row l = {operand[2], operand[3], call->imm[0], cols};
    const float *x = operand[0], *residual = operand[1];
    float *s = operand[4], *y = operand[5], *mean = operand[6], *rstd = operand[7];
    for (size_t r = 0; r < rows; r++) {
        add_row(x + r * cols, residual + r * cols, s + r * cols, cols);
        layer_row(&l, s + r * cols, y + r * cols, mean + r, rstd + r);
    }
    return 0;
}

FN int rmsnorm_add_fwd(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    (void)err;
    size_t rows = (size_t)call->dims[0], cols = (size_t)call->dims[1];
    const float *x = operand[0], *residual = operand[1], *w = operand[2];
    float *s = operand[3], *y = operand[4], *rstd = operand[5];
    for (size_t r = 0; r < rows; r++) {
        add_row(x + r * cols, residual + r * cols, s + r * cols, cols);
        rms_row(s + r * cols, w, call->imm[0], y + r * cols, rstd + r, cols);
    }
    return 0;
}

struct layer_bwd {
    const float *w;
    float *dw, *db;
    size_t cols;
    bool add;
};

/* With h = (x - mean) rstd: dx = rstd (dy w - (sum(dy w) + h sum(dy w h)) / cols); dw += dy h; db += dy. */
FN void layer_bwd_row(const struct layer_bwd *l, const float *dy, const float *x, float mean, float rstd, float *dx) {
    vf middle = splat(mean), scale = splat(rstd), sum = splat(0), pull = splat(0);
    for (size_t c = 0; c < l->cols; c += LANES) {
        size_t n = l->cols - c;
        vf g = load_n(dy + c, n), h = (load_n(x + c, n) - middle) * scale, gw = g * load_n(l->w + c, n);
        sum += gw;
        pull += gw * h; /* gw is 0 behind the end */
        store_n(l->dw + c, load_n(l->dw + c, n) + g * h, n);
        store_n(l->db + c, load_n(l->db + c, n) + g, n);
    }
    vf all = splat(sum_lanes(sum) / (float)l->cols), along = splat(sum_lanes(pull) / (float)l->cols);
    for (size_t c = 0; c < l->cols; c += LANES) {
        size_t n = l->cols - c;
        vf h = (load_n(x + c, n) - middle) * scale;
        vf d = scale * (load_n(dy + c, n) * load_n(l->w + c, n) - (all + h * along));
        store_n(dx + c, l->add ? load_n(dx + c, n) + d : d, n);
    }
}

FN int layernorm_bwd(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    (void)err;
    size_t rows = (size_t)call->dims[0], cols = (size_t)call->dims[1];
    const float *dy = operand[0], *x = operand[1], *mean = operand[3], *rstd = operand[4];
    const struct layer_bwd l = {operand[2], operand[6], operand[7], cols, (call->flags & SF_CALL_ACC_FLAG) != 0};
    float *dx = operand[5];
    if (!(call->flags & SF_CALL_ACC2_FLAG)) {
        memset(l.dw, 0, cols * sizeof(float));
        memset(l.db, 0, cols * sizeof(float));
    }
    for (size_t r = 0; r < rows; r++) {
        layer_bwd_row(&l, dy + r * cols, x + r * cols, mean[r], rstd[r], dx + r * cols);
    }
    return 0;
}

FN int bias_fwd(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    (void)err;
    size_t rows = (size_t)call->dims[0], cols = (size_t)call->dims[1];
    const float *b = operand[1];
    for (size_t r = 0; r < rows; r++) {
        const float *x = (const float *)operand[0] + r * cols;
        const float *residual = operand[2] ? (const float *)operand[2] + r * cols : NULL;
        float *y = (float *)operand[3] + r * cols;
        for (size_t c = 0; c < cols; c += LANES) {
            size_t n = cols - c;
            vf sum = load_n(x + c, n) + load_n(b + c, n);
            store_n(y + c, residual ? sum + load_n(residual + c, n) : sum, n);
        }
    }
    return 0;
}

FN int bias_bwd(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    (void)err;
    size_t rows = (size_t)call->dims[0], cols = (size_t)call->dims[1];
    const float *dy = operand[0];
    float *db = operand[1];
    if (!(call->flags & SF_CALL_ACC_FLAG)) {
        memset(db, 0, cols * sizeof(float));
    }
    for (size_t r = 0; r < rows; r++) {
        add_row(db, dy + r * cols, db, cols);
    }
    return 0;
}

#endif
