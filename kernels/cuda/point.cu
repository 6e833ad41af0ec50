#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/point.cuh"

enum { THREADS = 256, BLOCKS_PER_SM = 32 };

/* Blocks for `words` words: a few rounds of all that are resident at once, so that no round is much shorter. */
static dim3 blocks_for(const struct sf_cuda *ctx, int64_t words) {
    return dim3(grid_of(min_of(ceil_div(words, THREADS), (int64_t)ctx->sms_n * BLOCKS_PER_SM)));
}

template <typename T>
static void run_add(const struct sf_cuda *ctx, const struct sf_call *call, void *const o[SF_CALL_OPERANDS],
                    void *stream) {
    int64_t count = call->dims[0];
    dim3 grid = blocks_for(ctx, ceil_div(count, width<T>::n));
    const T *a = (const T *)o[0], *b = (const T *)o[1];
    T *y = (T *)o[2];
    if (count % width<T>::n == 0 && aligned16(a) && aligned16(b) && aligned16(y)) {
        LAUNCH((add_kernel<T, true>), grid, THREADS, 0, stream, a, b, y, count);
    } else {
        LAUNCH((add_kernel<T, false>), grid, THREADS, 0, stream, a, b, y, count);
    }
}

SFI_CUDA(add) {
    BY_DTYPE(call, run_add, ctx, call, operand, stream);
    return sfi_cuda_launched(call, err);
}

template <typename X, typename Y>
static void run_copy(const struct sf_cuda *ctx, int64_t count, const void *from, void *to, void *stream) {
    constexpr int n = width<X>::n > width<Y>::n ? width<X>::n : width<Y>::n;
    dim3 grid = blocks_for(ctx, ceil_div(count, n));
    const X *x = (const X *)from;
    Y *y = (Y *)to;
    if (count % n == 0 && aligned16(x) && aligned16(y)) {
        LAUNCH((copy_kernel<X, Y, true>), grid, THREADS, 0, stream, x, y, count);
    } else {
        LAUNCH((copy_kernel<X, Y, false>), grid, THREADS, 0, stream, x, y, count);
    }
}

static void copy_same(const struct sf_cuda *ctx, const struct sf_call *call, const void *x, void *y, void *stream) {
    if (call->dtype == SF_BF16) {
        run_copy<bf16, bf16>(ctx, call->dims[0], x, y, stream);
    } else {
        run_copy<float, float>(ctx, call->dims[0], x, y, stream);
    }
}

SFI_CUDA(copy) {
    copy_same(ctx, call, operand[0], operand[1], stream);
    return sfi_cuda_launched(call, err);
}

SFI_CUDA(zero) {
    copy_same(ctx, call, NULL, operand[0], stream);
    return sfi_cuda_launched(call, err);
}

SFI_CUDA(cast_down) {
    if (call->dtype == SF_BF16) {
        run_copy<float, bf16>(ctx, call->dims[0], operand[0], operand[1], stream);
    } else {
        copy_same(ctx, call, operand[0], operand[1], stream);
    }
    return sfi_cuda_launched(call, err);
}

SFI_CUDA(cast_up) {
    if (call->dtype == SF_BF16) {
        run_copy<bf16, float>(ctx, call->dims[0], operand[0], operand[1], stream);
    } else {
        copy_same(ctx, call, operand[0], operand[1], stream);
    }
    return sfi_cuda_launched(call, err);
}

/* ---- gated linear units ------------------------------------------------------------------------------------------ */

#define GLU(kernel, GELU, PLAIN)                                                                                       \
    if (wide) {                                                                                                        \
        LAUNCH((kernel<T, true, GELU, PLAIN>), grid, THREADS, 0, stream, a);                                           \
    } else {                                                                                                           \
        LAUNCH((kernel<T, false, GELU, PLAIN>), grid, THREADS, 0, stream, a);                                          \
    }

#define GLU_FLAGS(kernel)                                                                                              \
    switch (call->flags & (SF_CALL_GELU_FLAG | SF_CALL_PLAIN_FLAG)) {                                                  \
    case 0:                                                                                                            \
        GLU(kernel, false, false)                                                                                      \
        break;                                                                                                         \
    case SF_CALL_GELU_FLAG:                                                                                            \
        GLU(kernel, true, false)                                                                                       \
        break;                                                                                                         \
    case SF_CALL_PLAIN_FLAG:                                                                                           \
        GLU(kernel, false, true)                                                                                       \
        break;                                                                                                         \
    default:                                                                                                           \
        GLU(kernel, true, true)                                                                                        \
        break;                                                                                                         \
    }

template <typename T>
static void run_glu(const struct sf_cuda *ctx, const struct sf_call *call, void *const o[SF_CALL_OPERANDS],
                    void *stream) {
    bool backward = call->kind == SF_CALL_GLU_BWD;
    glu_args<T> a = {};
    a.dy = backward ? (const T *)o[0] : NULL;
    a.x = (const T *)o[backward];
    a.out = (T *)o[1 + backward];
    a.rows = (uint32_t)call->dims[0];
    a.cols = (int)call->dims[1];
    a.words = (uint32_t)ceil_div(a.cols, width<T>::n);
    bool wide = a.cols % width<T>::n == 0 && aligned16(a.dy) && aligned16(a.x) && aligned16(a.out);
    dim3 grid = blocks_for(ctx, (int64_t)a.rows * a.words);
    if (backward) {
        GLU_FLAGS(glu_bwd)
    } else {
        GLU_FLAGS(glu_fwd)
    }
}

SFI_CUDA(glu_fwd) {
    BY_DTYPE(call, run_glu, ctx, call, operand, stream);
    return sfi_cuda_launched(call, err);
}

SFI_CUDA(glu_bwd) {
    BY_DTYPE(call, run_glu, ctx, call, operand, stream);
    return sfi_cuda_launched(call, err);
}

/* ---- biases ------------------------------------------------------------------------------------------------------ */

template <typename T>
static void run_bias_fwd(const struct sf_cuda *ctx, const struct sf_call *call, void *const o[SF_CALL_OPERANDS],
                         void *stream) {
    bias_args<T> a = {};
    a.x = (const T *)o[0];
    a.b = (const T *)o[1];
    a.r = (const T *)o[2];
    a.y = (T *)o[3];
    a.rows = (uint32_t)call->dims[0];
    a.cols = (int)call->dims[1];
    a.words = (uint32_t)ceil_div(a.cols, width<T>::n);
    dim3 grid = blocks_for(ctx, (int64_t)a.rows * a.words);
    if (a.cols % width<T>::n == 0 && aligned16(a.x) && aligned16(a.b) && aligned16(a.r) && aligned16(a.y)) {
        LAUNCH((bias_fwd<T, true>), grid, THREADS, 0, stream, a);
    } else {
        LAUNCH((bias_fwd<T, false>), grid, THREADS, 0, stream, a);
    }
}

SFI_CUDA(bias_fwd) {
    BY_DTYPE(call, run_bias_fwd, ctx, call, operand, stream);
    return sfi_cuda_launched(call, err);
}

/* Rows per block: enough blocks for every multiprocessor, whatever the device, so that sums do not depend on it. */
static int64_t stripe_of(const struct sf_call *call) {
    return max_of(32, ceil_div(call->dims[0], PARTIAL_ROWS_MAX / 4));
}

static int64_t stripes_of(const struct sf_call *call) {
    return max_of(1, ceil_div(call->dims[0], stripe_of(call)));
}

size_t sfi_bias_work(const struct sf_call *call) {
    return call->kind == SF_CALL_BIAS_BWD ? (size_t)(stripes_of(call) * call->dims[1]) * sizeof(float) : 0;
}

template <typename T>
static void run_bias_bwd(const struct sf_cuda *ctx, const struct sf_call *call, void *const o[SF_CALL_OPERANDS],
                         void *stream) {
    int64_t rows = call->dims[0], stripe = stripe_of(call);
    int cols = (int)call->dims[1], stripes = (int)stripes_of(call);
    const T *dy = (const T *)o[0];
    float *partial = (float *)ctx->work;
    dim3 grid((unsigned)ceil_div(cols, 32 * width<T>::n), (unsigned)stripes), block(32, 8);
    if (cols % width<T>::n == 0 && aligned16(dy)) {
        LAUNCH((bias_bwd<T, true>), grid, block, 0, stream, dy, rows, cols, stripe, partial);
    } else {
        LAUNCH((bias_bwd<T, false>), grid, block, 0, stream, dy, rows, cols, stripe, partial);
    }
    dim3 sum_grid((unsigned)ceil_div(cols, 32)), sum_block(32, COLUMN_LANES);
    bool acc = (call->flags & SF_CALL_ACC_FLAG) != 0;
    LAUNCH(add_partials<T>, sum_grid, sum_block, 0, stream, partial, stripes, cols, (T *)o[1], acc);
}

SFI_CUDA(bias_bwd) {
    SF_TRY(sfi_cuda_need(ctx, call, err));
    BY_DTYPE(call, run_bias_bwd, ctx, call, operand, stream);
    return sfi_cuda_launched(call, err);
}
