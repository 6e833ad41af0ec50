/* References of the elementwise kernels and the embedding. */
#include <math.h>
#include <string.h>

#include "kernels/ref.h"

#define GELU_LINEAR 0.7978845608028654 /* sqrt(2/pi) */
#define GELU_CUBIC 0.044715

static double act(double g, bool gelu) {
    if (gelu) {
        return 0.5 * g * (1 + tanh(GELU_LINEAR * (g + GELU_CUBIC * g * g * g)));
    }
    return g / (1 + exp(-g));
}

static double act_slope(double g, bool gelu) {
    if (gelu) {
        double t = tanh(GELU_LINEAR * (g + GELU_CUBIC * g * g * g));
        return 0.5 * (1 + t) + 0.5 * g * (1 - t * t) * GELU_LINEAR * (1 + 3 * GELU_CUBIC * g * g);
    }
    double s = 1 / (1 + exp(-g));
    return s * (1 + g * (1 - s));
}

/* Row r of the gate; `*up` is the other half, NULL where the unit has none. */
static float *gate_row(const struct sf_call *call, void *x, size_t r, float **up) {
    size_t cols = (size_t)call->dims[1];
    bool plain = call->flags & SF_CALL_PLAIN_FLAG;
    float *gate = (float *)x + (plain ? 1 : 2) * r * cols;
    *up = plain ? NULL : gate + cols;
    return gate;
}

SFI_REF(glu_fwd) {
    (void)err;
    size_t rows = (size_t)call->dims[0], cols = (size_t)call->dims[1];
    for (size_t r = 0; r < rows; r++) {
        float *up, *gate = gate_row(call, operand[0], r, &up), *y = (float *)operand[1] + r * cols;
        for (size_t c = 0; c < cols; c++) {
            double a = act((double)gate[c], call->flags & SF_CALL_GELU_FLAG);
            y[c] = (float)(up ? a * (double)up[c] : a);
        }
    }
    return 0;
}

SFI_REF(glu_bwd) {
    (void)err;
    size_t rows = (size_t)call->dims[0], cols = (size_t)call->dims[1];
    bool gelu = call->flags & SF_CALL_GELU_FLAG;
    for (size_t r = 0; r < rows; r++) {
        const float *dy = (const float *)operand[0] + r * cols;
        float *up, *dup, *gate = gate_row(call, operand[1], r, &up), *dgate = gate_row(call, operand[2], r, &dup);
        for (size_t c = 0; c < cols; c++) {
            double d = (double)dy[c], g = (double)gate[c], u = up ? (double)up[c] : 1;
            dgate[c] = (float)(d * u * act_slope(g, gelu));
            if (dup) {
                dup[c] = (float)(d * act(g, gelu));
            }
        }
    }
    return 0;
}

SFI_REF(bias_fwd) {
    (void)err;
    size_t cols = (size_t)call->dims[1];
    const float *x = operand[0], *b = operand[1], *r = operand[2];
    float *y = operand[3];
    for (size_t i = 0; i < (size_t)call->dims[0] * cols; i++) {
        y[i] = (float)((double)x[i] + (double)b[i % cols] + (r ? (double)r[i] : 0));
    }
    return 0;
}

SFI_REF(bias_bwd) {
    (void)err;
    size_t rows = (size_t)call->dims[0], cols = (size_t)call->dims[1];
    const float *dy = operand[0];
    float *db = operand[1];
    for (size_t c = 0; c < cols; c++) {
        double sum = call->flags & SF_CALL_ACC_FLAG ? (double)db[c] : 0;
        for (size_t r = 0; r < rows; r++) {
            sum += (double)dy[r * cols + c];
        }
        db[c] = (float)sum;
    }
    return 0;
}

SFI_REF(add) {
    (void)err;
    const float *a = operand[0], *b = operand[1];
    float *y = operand[2];
    for (size_t i = 0; i < (size_t)call->dims[0]; i++) {
        y[i] = a[i] + b[i];
    }
    return 0;
}

SFI_REF(copy) {
    (void)err;
    memcpy(operand[1], operand[0], (size_t)call->dims[0] * sizeof(float));
    return 0;
}

SFI_REF(zero) {
    (void)err;
    memset(operand[0], 0, (size_t)call->dims[0] * sizeof(float));
    return 0;
}

SFI_REF(embed_fwd) {
    size_t rows = (size_t)call->dims[0], cols = (size_t)call->dims[1];
    const int32_t *tokens = operand[0];
    const float *table = operand[1];
    float *y = operand[2];
    SF_TRY(sfi_check_ids("token", tokens, rows, call->dims[2], err));
    for (size_t i = 0; i < rows * cols; i++) {
        y[i] = table[(size_t)tokens[i / cols] * cols + i % cols];
    }
    return 0;
}

SFI_REF(embed_bwd) {
    size_t rows = (size_t)call->dims[0], cols = (size_t)call->dims[1];
    const int32_t *tokens = operand[0];
    const float *dy = operand[1];
    float *dtable = operand[2];
    SF_TRY(sfi_check_ids("token", tokens, rows, call->dims[2], err));
    for (size_t i = 0; i < rows * cols; i++) {
        dtable[(size_t)tokens[i / cols] * cols + i % cols] += dy[i];
    }
    return 0;
}
