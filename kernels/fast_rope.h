/* Rotary position embedding. Angles advance by a rotation per position in f64: its error grows by about 1e-16 per
 * position, far below f32, and no sine is computed per row. */
#ifndef SF_KERNELS_FAST_ROPE_H
#define SF_KERNELS_FAST_ROPE_H

#include "kernels/fast_vec.h"
#include "kernels/table.h"

enum { PAIRS = 64 }; /* pairs handled together; wider heads take several passes */

struct angles {
    double cos[PAIRS], sin[PAIRS], step_cos[PAIRS], step_sin[PAIRS];
    float c[PAIRS], s[PAIRS];
    size_t n;
};

FN void angles_of(double base, size_t head_dim, size_t first, double sign, struct angles *a) {
    a->n = head_dim / 2 - first < PAIRS ? head_dim / 2 - first : PAIRS;
    for (size_t i = 0; i < PAIRS; i++) {
        double angle = i < a->n ? pow(base, -2.0 * (double)(first + i) / (double)head_dim) : 0;
        a->step_cos[i] = cos(angle);
        a->step_sin[i] = sign * sin(angle);
    }
}

FN void angles_next(struct angles *a) {
    for (size_t i = 0; i < PAIRS; i++) {
        double c = a->cos[i], s = a->sin[i];
        a->c[i] = (float)c;
        a->s[i] = (float)s;
        a->cos[i] = c * a->step_cos[i] - s * a->step_sin[i];
        a->sin[i] = s * a->step_cos[i] + c * a->step_sin[i];
    }
}

/* A slice gets there by the steps that the whole sequence takes, hence the same bits. */
FN void angles_start(struct angles *a, size_t position) {
    for (size_t i = 0; i < PAIRS; i++) {
        a->cos[i] = 1;
        a->sin[i] = 0;
    }
    for (size_t p = 0; p < position; p++) {
        angles_next(a);
    }
}

/* low, high: the first and the second half's elements of one head. */
FN void rotate_head(const struct angles *a, float *low, float *high) {
    for (size_t i = 0; i < a->n; i += LANES) {
        size_t n = a->n - i;
        vf x = load_n(low + i, n), y = load_n(high + i, n), c = load(a->c + i), s = load(a->s + i);
        store_n(low + i, x * c - y * s, n);
        store_n(high + i, y * c + x * s, n);
    }
}

FN void rope(const struct sf_call *call, float *x, double sign) {
    size_t rows = (size_t)call->dims[0], heads = (size_t)call->dims[1], head_dim = (size_t)call->dims[2];
    size_t seq = (size_t)call->dims[3], row_stride = (size_t)call->dims[4], position = (size_t)call->dims[5];
    struct angles a;
    for (size_t first = 0; first < head_dim / 2; first += PAIRS) {
        angles_of((double)call->imm[0], head_dim, first, sign, &a);
        for (size_t r = 0; r < rows; r++) {
            if (r % seq == 0) {
                angles_start(&a, position);
            }
            angles_next(&a);
            for (size_t h = 0; h < heads; h++) {
                float *head = x + r * row_stride + h * head_dim + first;
                rotate_head(&a, head, head + head_dim / 2);
            }
        }
    }
}

FN int rope_fwd(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    (void)err;
    rope(call, operand[0], 1);
    return 0;
}

FN int rope_bwd(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    (void)err;
    rope(call, operand[0], -1);
    return 0;
}

#endif
