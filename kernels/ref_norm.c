/* References of normalisation and rotary embedding. */
#include <math.h>

#include "kernels/ref.h"

SFI_REF(rmsnorm_fwd) {
    (void)err;
    size_t rows = (size_t)call->dims[0], cols = (size_t)call->dims[1];
    const float *x = operand[0], *w = operand[1];
    float *y = operand[2], *rstd = operand[3];
    for (size_t r = 0; r < rows; r++) {
        double squares = 0;
        for (size_t c = 0; c < cols; c++) {
            squares += (double)x[r * cols + c] * (double)x[r * cols + c];
        }
        double scale = 1 / sqrt(squares / (double)cols + (double)call->imm[0]);
        for (size_t c = 0; c < cols; c++) {
            y[r * cols + c] = (float)((double)x[r * cols + c] * scale * (double)w[c]);
        }
        rstd[r] = (float)scale;
    }
    return 0;
}

static void norm_dx_row(const float *dy, const float *x, const float *w, double rstd, float *dx, size_t cols,
                        bool add) {
    double dot = 0;
    for (size_t c = 0; c < cols; c++) {
        dot += (double)dy[c] * (double)w[c] * (double)x[c];
    }
    double pull = dot / (double)cols * rstd * rstd;
    for (size_t c = 0; c < cols; c++) {
        double d = rstd * ((double)dy[c] * (double)w[c] - (double)x[c] * pull);
        dx[c] = (float)(add ? (double)dx[c] + d : d);
    }
}

SFI_REF(rmsnorm_bwd) {
    (void)err;
    size_t rows = (size_t)call->dims[0], cols = (size_t)call->dims[1];
    const float *dy = operand[0], *x = operand[1], *w = operand[2], *rstd = operand[3];
    float *dx = operand[4], *dw = operand[5];
    for (size_t c = 0; c < cols; c++) {
        double sum = call->flags & SF_CALL_ACC2_FLAG ? (double)dw[c] : 0;
        for (size_t r = 0; r < rows; r++) {
            sum += (double)dy[r * cols + c] * (double)x[r * cols + c] * (double)rstd[r];
        }
        dw[c] = (float)sum;
    }
    for (size_t r = 0; r < rows; r++) {
        size_t at = r * cols;
        norm_dx_row(dy + at, x + at, w, (double)rstd[r], dx + at, cols, call->flags & SF_CALL_ACC_FLAG);
    }
    return 0;
}

/* ---- layer normalisation, and norms that add the residual first -------------------------------------------------- */

static void layer_row(const float *x, const float *w, const float *b, double eps, float *y, size_t cols, float *mean,
                      float *rstd) {
    double sum = 0, squares = 0;
    for (size_t c = 0; c < cols; c++) {
        sum += (double)x[c];
    }
    double middle = sum / (double)cols;
    for (size_t c = 0; c < cols; c++) {
        squares += ((double)x[c] - middle) * ((double)x[c] - middle);
    }
    double scale = 1 / sqrt(squares / (double)cols + eps);
    for (size_t c = 0; c < cols; c++) {
        y[c] = (float)(((double)x[c] - middle) * scale * (double)w[c] + (double)b[c]);
    }
    *mean = (float)middle;
    *rstd = (float)scale;
}

SFI_REF(layernorm_fwd) {
    (void)err;
    size_t rows = (size_t)call->dims[0], cols = (size_t)call->dims[1];
    for (size_t r = 0; r < rows; r++) {
        layer_row((const float *)operand[0] + r * cols, operand[1], operand[2], (double)call->imm[0],
                  (float *)operand[3] + r * cols, cols, (float *)operand[4] + r, (float *)operand[5] + r);
    }
    return 0;
}

static void layer_dx_row(const float *dy, const float *x, const float *w, const double stats[2], float *dx, size_t cols,
                         bool add) {
    double pull = 0, middle = 0;
    for (size_t c = 0; c < cols; c++) {
        double g = (double)dy[c] * (double)w[c];
        pull += g * ((double)x[c] - stats[0]) * stats[1];
        middle += g;
    }
    for (size_t c = 0; c < cols; c++) {
        double g = (double)dy[c] * (double)w[c], hat = ((double)x[c] - stats[0]) * stats[1];
        double d = stats[1] * (g - (middle + hat * pull) / (double)cols);
        dx[c] = (float)(add ? (double)dx[c] + d : d);
    }
}

SFI_REF(layernorm_bwd) {
    (void)err;
    size_t rows = (size_t)call->dims[0], cols = (size_t)call->dims[1];
    const float *dy = operand[0], *x = operand[1], *mean = operand[3], *rstd = operand[4];
    float *dx = operand[5], *dw = operand[6], *db = operand[7];
    bool add = call->flags & SF_CALL_ACC2_FLAG;
    for (size_t c = 0; c < cols; c++) {
        double w_sum = add ? (double)dw[c] : 0, b_sum = add ? (double)db[c] : 0;
        for (size_t r = 0; r < rows; r++) {
            w_sum += (double)dy[r * cols + c] * ((double)x[r * cols + c] - (double)mean[r]) * (double)rstd[r];
            b_sum += (double)dy[r * cols + c];
        }
        dw[c] = (float)w_sum;
        db[c] = (float)b_sum;
    }
    for (size_t r = 0; r < rows; r++) {
        const double stats[2] = {(double)mean[r], (double)rstd[r]};
        layer_dx_row(dy + r * cols, x + r * cols, operand[2], stats, dx + r * cols, cols,
                     call->flags & SF_CALL_ACC_FLAG);
    }
    return 0;
}

static void add_rows(const struct sf_call *call, const float *x, const float *r, float *s) {
    for (size_t i = 0; i < (size_t)(call->dims[0] * call->dims[1]); i++) {
        s[i] = x[i] + r[i];
    }
}

SFI_REF(rmsnorm_add_fwd) {
    void *const norm[SF_CALL_OPERANDS] = {operand[3], operand[2], operand[4], operand[5]};
    add_rows(call, operand[0], operand[1], operand[3]);
    return sfi_ref_rmsnorm_fwd(call, norm, err);
}

SFI_REF(layernorm_add_fwd) {
    void *const norm[SF_CALL_OPERANDS] = {operand[4], operand[2], operand[3], operand[5], operand[6], operand[7]};
    add_rows(call, operand[0], operand[1], operand[4]);
    return sfi_ref_layernorm_fwd(call, norm, err);
}

/* ---- rotary embedding -------------------------------------------------------------------------------------------- */

static void rope(const struct sf_call *call, float *x, double sign) {
    size_t rows = (size_t)call->dims[0], heads = (size_t)call->dims[1], head_dim = (size_t)call->dims[2];
    size_t seq = (size_t)call->dims[3], row_stride = (size_t)call->dims[4], first = (size_t)call->dims[5];
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = 0; i < head_dim / 2; i++) {
            double angle = (double)(first + r % seq) * pow((double)call->imm[0], -2 * (double)i / (double)head_dim);
            double c = cos(angle), s = sign * sin(angle);
            for (size_t h = 0; h < heads; h++) {
                float *low = x + r * row_stride + h * head_dim + i, *high = low + head_dim / 2;
                double a = (double)*low, b = (double)*high;
                *low = (float)(a * c - b * s);
                *high = (float)(b * c + a * s);
            }
        }
    }
}

SFI_REF(rope_fwd) {
    (void)err;
    rope(call, operand[0], 1);
    return 0;
}

SFI_REF(rope_bwd) {
    (void)err;
    rope(call, operand[0], -1);
    return 0;
}
