/* Element by element: gated activations, addition, embedding rows. */
#ifndef SF_KERNELS_FAST_POINT_H
#define SF_KERNELS_FAST_POINT_H

#include "kernels/fast_vec.h"
#include "kernels/table.h"

/* act(g) = g sigmoid(u(g)) with u = g for SiLU. The tanh form of GELU is the same with
 * u = 2 sqrt(2/pi) (g + 0.044715 g^3), since (1 + tanh z) / 2 = sigmoid(2 z). */
struct act {
    vf sigmoid;
    vf slope; /* du/dg */
};

INLINE struct act act_of(vf g, const bool gelu) {
    if (!gelu) {
        return (struct act){vsigmoid(g), splat(1)};
    }
    /* Beyond 32 the sigmoid is exactly 0 or 1, and the cube must not overflow. */
    vf t = vmin(splat(32), vmax(splat(-32), g));
    vf linear = splat(1.59576912f), cubic = splat(0.0713548163f);
    return (struct act){vsigmoid(t * (linear + cubic * t * t)), linear + splat(3) * cubic * t * t};
}

INLINE void glu_fwd_row(const float *x, float *y, size_t cols, const bool gelu) {
    for (size_t c = 0; c < cols; c += LANES) {
        size_t n = cols - c;
        vf g = load_n(x + c, n);
        store_n(y + c, g * act_of(g, gelu).sigmoid * load_n(x + cols + c, n), n);
    }
}

INLINE void glu_bwd_row(const float *dy, const float *x, float *dx, size_t cols, const bool gelu) {
    for (size_t c = 0; c < cols; c += LANES) {
        size_t n = cols - c;
        vf d = load_n(dy + c, n), g = load_n(x + c, n), up = load_n(x + cols + c, n);
        struct act a = act_of(g, gelu);
        vf value = g * a.sigmoid;
        vf slope = a.sigmoid + value * ((splat(1) - a.sigmoid) * a.slope);
        store_n(dx + c, d * up * slope, n);
        store_n(dx + cols + c, d * value, n);
    }
}

FN int glu_fwd(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    (void)err;
    size_t rows = (size_t)call->dims[0], cols = (size_t)call->dims[1];
    const float *x = operand[0];
    float *y = operand[1];
    for (size_t r = 0; r < rows; r++) {
        if (call->flags & SF_CALL_GELU_FLAG) {
            glu_fwd_row(x + 2 * r * cols, y + r * cols, cols, true);
        } else {
            glu_fwd_row(x + 2 * r * cols, y + r * cols, cols, false);
        }
    }
    return 0;
}

FN int glu_bwd(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    (void)err;
    size_t rows = (size_t)call->dims[0], cols = (size_t)call->dims[1];
    const float *dy = operand[0], *x = operand[1];
    float *dx = operand[2];
    for (size_t r = 0; r < rows; r++) {
        if (call->flags & SF_CALL_GELU_FLAG) {
            glu_bwd_row(dy + r * cols, x + 2 * r * cols, dx + 2 * r * cols, cols, true);
        } else {
            glu_bwd_row(dy + r * cols, x + 2 * r * cols, dx + 2 * r * cols, cols, false);
        }
    }
    return 0;
}

FN void add_row(const float *a, const float *b, float *y, size_t n) {
    for (size_t i = 0; i < n; i += LANES) {
        store_n(y + i, load_n(a + i, n - i) + load_n(b + i, n - i), n - i);
    }
}

FN int add(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    (void)err;
    add_row(operand[0], operand[1], operand[2], (size_t)call->dims[0]);
    return 0;
}

FN int copy(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    (void)err;
    memcpy(operand[1], operand[0], (size_t)call->dims[0] * sizeof(float));
    return 0;
}

FN int zero(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    (void)err;
    memset(operand[0], 0, (size_t)call->dims[0] * sizeof(float));
    return 0;
}

FN int embed_fwd(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    size_t rows = (size_t)call->dims[0], cols = (size_t)call->dims[1];
    const int32_t *tokens = operand[0];
    const float *table = operand[1];
    float *y = operand[2];
    SF_TRY(sfi_check_ids("token", tokens, rows, call->dims[2], err));
    for (size_t r = 0; r < rows; r++) {
        memcpy(y + r * cols, table + (size_t)tokens[r] * cols, cols * sizeof(float));
    }
    return 0;
}

FN int embed_bwd(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    size_t rows = (size_t)call->dims[0], cols = (size_t)call->dims[1];
    const int32_t *tokens = operand[0];
    const float *dy = operand[1];
    float *dtable = operand[2];
    SF_TRY(sfi_check_ids("token", tokens, rows, call->dims[2], err));
    for (size_t r = 0; r < rows; r++) {
        float *row = dtable + (size_t)tokens[r] * cols;
        add_row(row, dy + r * cols, row, cols);
    }
    return 0;
}

#endif
