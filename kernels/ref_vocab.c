/* References of what a vocabulary in parts needs: tokens of other parts, and a softmax whose rows lie in several
 * places.
 */
#include <math.h>

#include "kernels/ref.h"

static bool is_here(int32_t token, int64_t vocab) {
    return token >= 0 && token < vocab;
}

SFI_REF(embed_part_fwd) {
    (void)err;
    size_t rows = (size_t)call->dims[0], cols = (size_t)call->dims[1];
    const int32_t *tokens = operand[0];
    const float *table = operand[1];
    float *y = operand[2];
    for (size_t r = 0; r < rows; r++) {
        for (size_t c = 0; c < cols; c++) {
            y[r * cols + c] = is_here(tokens[r], call->dims[2]) ? table[(size_t)tokens[r] * cols + c] : 0.0f;
        }
    }
    return 0;
}

SFI_REF(embed_part_bwd) {
    (void)err;
    size_t rows = (size_t)call->dims[0], cols = (size_t)call->dims[1];
    const int32_t *tokens = operand[0];
    const float *dy = operand[1];
    float *dtable = operand[2];
    for (size_t r = 0; r < rows; r++) {
        for (size_t c = 0; c < cols && is_here(tokens[r], call->dims[2]); c++) {
            dtable[(size_t)tokens[r] * cols + c] += dy[r * cols + c];
        }
    }
    return 0;
}

SFI_REF(xent_stats) {
    (void)err;
    size_t rows = (size_t)call->dims[0], vocab = (size_t)call->dims[1];
    const float *x = operand[0];
    const int32_t *targets = operand[1];
    float *stats = operand[2];
    for (size_t r = 0; r < rows; r++, x += vocab) {
        double max = -INFINITY, sum = 0;
        for (size_t c = 0; c < vocab; c++) {
            max = fmax(max, (double)x[c]);
        }
        for (size_t c = 0; c < vocab; c++) {
            sum += exp((double)x[c] - max);
        }
        stats[r] = (float)(log(sum) + max);
        stats[rows + r] = is_here(targets[r], call->dims[1]) ? x[targets[r]] : 0.0f;
    }
    return 0;
}

double sfi_xent_join(const float *stats, size_t row, size_t rows, size_t parts, double *target) {
    double max = -INFINITY, sum = 0;
    *target = 0;
    for (size_t p = 0; p < parts; p++) {
        max = fmax(max, (double)stats[2 * p * rows + row]);
        *target += (double)stats[(2 * p + 1) * rows + row];
    }
    for (size_t p = 0; p < parts; p++) {
        sum += exp((double)stats[2 * p * rows + row] - max);
    }
    return log(sum) + max;
}

SFI_REF(xent_part) {
    (void)err;
    size_t rows = (size_t)call->dims[0], vocab = (size_t)call->dims[1], parts = (size_t)call->dims[2];
    float *x = operand[0], *loss = operand[3];
    const int32_t *targets = operand[1];
    double total = 0, scale = (double)call->imm[0];
    for (size_t r = 0; r < rows; r++, x += vocab) {
        double target, lse = sfi_xent_join(operand[2], r, rows, parts, &target);
        total += lse - target;
        for (size_t c = 0; c < vocab; c++) {
            double p = exp((double)x[c] - lse);
            x[c] = (float)(scale * (targets[r] >= 0 && c == (size_t)targets[r] ? p - 1 : p));
        }
    }
    *loss = (float)(scale * total + (call->flags & SF_CALL_ACC2_FLAG ? (double)*loss : 0));
    return 0;
}
