#include "kernels/cuda/xent.cuh"

#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/launch.cuh"

/* Shared memory for kept words: two blocks share a multiprocessor where a row fits in half of it, else one has it all.
 */
enum { HALF_SHARED = 104 * 1024, ALL_SHARED = 216 * 1024 };

size_t sfi_xent_work(const struct sf_call *call) {
    return (size_t)max_of(1, call->dims[0]) * sizeof(float);
}

template <typename T>
static void run_xent(const struct sf_cuda *ctx, const struct sf_call *call, void *const o[SF_CALL_OPERANDS],
                     void *stream) {
    xent_args<T> a = {};
    a.logits = (T *)o[0];
    a.targets = (const int32_t *)o[1];
    a.losses = (float *)ctx->work;
    a.fault = ctx->fault;
    a.rows = call->dims[0];
    a.padding = call->kind == SF_CALL_XENT_PADDED ? (int)call->dims[2] : 0;
    a.vocab = (int)call->dims[1] - a.padding;
    a.scale = call->imm[0];
    int64_t bytes = (ceil_div(a.vocab, width<T>::n) + 1) * 16;
    bool two = bytes <= HALF_SHARED;
    bytes = min_of(bytes, two ? HALF_SHARED : ALL_SHARED);
    a.kept = (int)(bytes / 16);
    unsigned threads = two ? 512 : 1024;
    dim3 grid(grid_of(min_of(a.rows, (int64_t)ctx->sms_n * (two ? 2 : 1))));
    ALLOW_SHARED(xent_kernel<T>, bytes);
    LAUNCH((xent_kernel<T>), grid, threads, (size_t)bytes, stream, a);
}

/* Without shared memory for kept words and without faults: targets outside the part are in another one. */
template <typename T>
static xent_args<T> part_args(const struct sf_cuda *ctx, const struct sf_call *call, void *const o[SF_CALL_OPERANDS]) {
    xent_args<T> a = {};
    a.logits = (T *)o[0];
    a.targets = (const int32_t *)o[1];
    a.losses = (float *)ctx->work;
    a.rows = call->dims[0];
    a.vocab = (int)call->dims[1];
    a.scale = call->imm[0];
    return a;
}

static dim3 part_grid(const struct sf_cuda *ctx, const struct sf_call *call) {
    return dim3(grid_of(min_of(call->dims[0], (int64_t)ctx->sms_n * 4)));
}

template <typename T>
static void run_stats(const struct sf_cuda *ctx, const struct sf_call *call, void *const o[SF_CALL_OPERANDS],
                      void *stream) {
    xent_args<T> a = part_args<T>(ctx, call, o);
    LAUNCH((xent_stats_kernel<T>), part_grid(ctx, call), PART_THREADS, 0, stream, a, (float *)o[2]);
}

template <typename T>
static void run_part(const struct sf_cuda *ctx, const struct sf_call *call, void *const o[SF_CALL_OPERANDS],
                     void *stream) {
    xent_args<T> a = part_args<T>(ctx, call, o);
    LAUNCH((xent_part_kernel<T>), part_grid(ctx, call), PART_THREADS, 0, stream, a, (const float *)o[2], call->dims[2]);
}

SFI_CUDA(xent) {
    SF_TRY(sfi_cuda_need(ctx, call, err));
    BY_DTYPE(call, run_xent, ctx, call, operand, stream);
    bool acc = (call->flags & SF_CALL_ACC2_FLAG) != 0;
    LAUNCH(add_up, dim3(1), 1024, 0, stream, (const float *)ctx->work, call->dims[0], call->imm[0], (float *)operand[2],
           acc);
    return sfi_cuda_launched(call, err);
}

SFI_CUDA(xent_stats) {
    BY_DTYPE(call, run_stats, ctx, call, operand, stream);
    return sfi_cuda_launched(call, err);
}

SFI_CUDA(xent_part) {
    SF_TRY(sfi_cuda_need(ctx, call, err));
    BY_DTYPE(call, run_part, ctx, call, operand, stream);
    bool acc = (call->flags & SF_CALL_ACC2_FLAG) != 0;
    LAUNCH(add_up, dim3(1), 1024, 0, stream, (const float *)ctx->work, call->dims[0], call->imm[0], (float *)operand[3],
           acc);
    return sfi_cuda_launched(call, err);
}
