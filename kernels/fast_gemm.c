/* GEMM through oneDNN, one core per calling thread. dnnl_sgemm is stateless, safe from any thread, and on the shapes of
 * a transformer layer as fast as the matmul primitive, which would need a cache of primitives per shape and thread. */
#include <dlfcn.h>
#include <oneapi/dnnl/dnnl.h>
#include <string.h>

#include "kernels/table.h"

/* oneDNN may be built on OpenMP, whose thread count is a setting of each calling thread; through the dynamic symbol
 * because it may as well be built on something else, and then there is nothing to set. */
static void use_one_core(void) {
    static _Thread_local bool done;
    if (done) {
        return;
    }
    void *symbol = dlsym(RTLD_DEFAULT, "omp_set_num_threads");
    if (symbol != NULL) {
        void (*set)(int);
        memcpy(&set, &symbol, sizeof(set)); /* ISO C has no cast from object to function pointer */
        set(1);
    }
    done = true;
}

int sfi_fast_gemm(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    int64_t m = call->dims[0], n = call->dims[1], k = call->dims[2];
    bool ta = call->flags & SF_CALL_TA_FLAG, tb = call->flags & SF_CALL_TB_FLAG, acc = call->flags & SF_CALL_ACC_FLAG;
    const float *a = operand[0], *b = operand[1];
    float *c = operand[2];
    if (m == 0 || n == 0) {
        return 0;
    }
    if (k == 0) {
        memset(c, 0, acc ? 0 : (size_t)(call->dims[3] * m * n) * sizeof(float));
        return 0;
    }
    use_one_core();
    for (int64_t g = 0; g < call->dims[3]; g++) {
        dnnl_status_t status = dnnl_sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', m, n, k, 1.0f, a + g * m * k, ta ? m : k,
                                          b + g * k * n, tb ? k : n, acc ? 1.0f : 0.0f, c + g * m * n, n);
        if (status != dnnl_success) {
            return sf_fail(err, SF_E_INTERNAL, "oneDNN refused a %lld x %lld x %lld product with status %d",
                           (long long)m, (long long)n, (long long)k, (int)status);
        }
    }
    return 0;
}
