/* Reference GEMM: one dot product in f64 per element. */
#include "kernels/ref.h"

static void product(const struct sf_call *call, const float *a, const float *b, float *c) {
    size_t m = (size_t)call->dims[0], n = (size_t)call->dims[1], k = (size_t)call->dims[2];
    size_t a_row = call->flags & SF_CALL_TA_FLAG ? 1 : k, a_col = call->flags & SF_CALL_TA_FLAG ? m : 1;
    size_t b_row = call->flags & SF_CALL_TB_FLAG ? 1 : n, b_col = call->flags & SF_CALL_TB_FLAG ? k : 1;
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++) {
            double sum = call->flags & SF_CALL_ACC_FLAG ? (double)c[i * n + j] : 0;
            for (size_t l = 0; l < k; l++) {
                sum += (double)a[i * a_row + l * a_col] * (double)b[l * b_row + j * b_col];
            }
            c[i * n + j] = (float)sum;
        }
    }
}

SFI_REF(gemm) {
    (void)err;
    size_t m = (size_t)call->dims[0], n = (size_t)call->dims[1], k = (size_t)call->dims[2];
    for (size_t g = 0; g < (size_t)call->dims[3]; g++) {
        product(call, (const float *)operand[0] + g * m * k, (const float *)operand[1] + g * k * n,
                (float *)operand[2] + g * m * n);
    }
    return 0;
}
