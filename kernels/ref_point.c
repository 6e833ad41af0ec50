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

SFI_REF(glu_fwd) {
    (void)err;
    size_t rows = (size_t)call->dims[0], cols = (size_t)call->dims[1];
    for (size_t r = 0; r < rows; r++) {
        const float *gate = (const float *)operand[0] + 2 * r * cols, *up = gate + cols;
        float *y = (float *)operand[1] + r * cols;
        for (size_t c = 0; c < cols; c++) {
            y[c] = (float)(act((double)gate[c], call->flags & SF_CALL_GELU_FLAG) * (double)up[c]);
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
        const float *gate = (const float *)operand[1] + 2 * r * cols, *up = gate + cols;
        float *dgate = (float *)operand[2] + 2 * r * cols, *dup = dgate + cols;
        for (size_t c = 0; c < cols; c++) {
            double d = (double)dy[c], g = (double)gate[c], u = (double)up[c];
            dgate[c] = (float)(d * u * act_slope(g, gelu));
            dup[c] = (float)(d * act(g, gelu));
        }
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
