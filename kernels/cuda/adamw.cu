#include "kernels/cuda/adamw.cuh"

#include "kernels/cuda/launch.cuh"

enum { THREADS = 256, SUMSQ_BLOCKS = 1024 };

template <typename T, typename M>
static void run_adamw(const struct sf_cuda *ctx, const struct sf_call *call, void *const o[SF_CALL_OPERANDS],
                      void *stream) {
    adamw_args<T, M> a = {};
    a.param = (T *)o[0];
    a.grad = (const T *)o[1];
    a.m = (M *)o[2];
    a.v = (M *)o[3];
    a.hyper = (const float *)o[4];
    a.master = call->dtype == SF_BF16 ? (float *)o[5] : NULL;
    a.count = call->dims[0];
    a.decays = call->imm[0];
    int64_t words = ceil_div(a.count, width<T>::n);
    dim3 grid(grid_of(min_of(ceil_div(words, THREADS), (int64_t)ctx->sms_n * 32)));
    if (a.count % width<T>::n == 0 && aligned16(o[0]) && aligned16(o[1]) && aligned16(o[2]) && aligned16(o[3]) &&
        aligned16(a.master)) {
        LAUNCH((adamw_kernel<T, M, true>), grid, THREADS, 0, stream, a);
    } else {
        LAUNCH((adamw_kernel<T, M, false>), grid, THREADS, 0, stream, a);
    }
}

SFI_CUDA(adamw) {
    if (call->dtype == SF_F32) {
        run_adamw<float, float>(ctx, call, operand, stream);
    } else if (call->flags & SF_CALL_LEAN_FLAG) {
        run_adamw<bf16, bf16>(ctx, call, operand, stream);
    } else {
        run_adamw<bf16, float>(ctx, call, operand, stream);
    }
    return sfi_cuda_launched(call, err);
}

/* The same number on every device, so that the sum is too. */
static int64_t sumsq_blocks(const struct sf_call *call) {
    int64_t words = ceil_div(call->dims[0], 16 / sf_dtype_bytes(call->dtype));
    return max_of(1, min_of(ceil_div(words, THREADS), SUMSQ_BLOCKS));
}

size_t sfi_sumsq_work(const struct sf_call *call) {
    return call->kind == SF_CALL_SUMSQ ? (size_t)sumsq_blocks(call) * sizeof(float) : 0;
}

template <typename T>
static void run_sumsq(const struct sf_cuda *ctx, const struct sf_call *call, const void *from, void *stream) {
    const T *x = (const T *)from;
    float *partial = (float *)ctx->work;
    int64_t count = call->dims[0];
    dim3 grid((unsigned)sumsq_blocks(call));
    if (count % width<T>::n == 0 && aligned16(x)) {
        LAUNCH((sumsq_kernel<T, true>), grid, THREADS, 0, stream, x, count, partial);
    } else {
        LAUNCH((sumsq_kernel<T, false>), grid, THREADS, 0, stream, x, count, partial);
    }
}

SFI_CUDA(sumsq) {
    SF_TRY(sfi_cuda_need(ctx, call, err));
    BY_DTYPE(call, run_sumsq, ctx, call, operand[0], stream);
    bool acc = (call->flags & SF_CALL_ACC_FLAG) != 0;
    LAUNCH(add_up, dim3(1), 1024, 0, stream, (const float *)ctx->work, sumsq_blocks(call), 1.0f, (float *)operand[1],
           acc);
    return sfi_cuda_launched(call, err);
}

SFI_CUDA(clip) {
    (void)ctx;
    LAUNCH(clip_kernel, dim3(1), 256, 0, stream, (const float *)operand[0], call->dims[0], call->imm[0],
           (float *)operand[1], (float *)operand[2]);
    return sfi_cuda_launched(call, err);
}
