#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/norm.cuh"

enum { THREADS_MAX = 512, BLOCK = 256, BWD_BLOCK = 128 };

/* Threads along a row, and words of 16 bytes that each holds. */
struct shape {
    int words, threads, rows;
};

static int words_per_row(const struct sf_call *call) {
    return (int)ceil_div(call->dims[1], 16 / sf_dtype_bytes(call->dtype));
}

/* Two words per thread keep enough loads in flight; one where two would leave more threads idle. */
static struct shape shape_of(const struct sf_call *call, int block) {
    int words = words_per_row(call);
    int one = (int)ceil_div(words, 32) * 32, two = (int)ceil_div(words, 64) * 32, four = (int)ceil_div(words, 128) * 32;
    struct shape s = {4, four, 1};
    if (one < 2 * two && one <= THREADS_MAX) {
        s = (struct shape){1, one, 1};
    } else if (two <= THREADS_MAX) {
        s = (struct shape){2, two, 1};
    }
    s.rows = s.threads < block ? block / s.threads : 1;
    return s;
}

static bool is_backward(const struct sf_call *call) {
    return call->kind == SF_CALL_RMSNORM_BWD || call->kind == SF_CALL_LAYERNORM_BWD;
}

bool sfi_norm_fits(const struct sf_call *call) {
    int64_t room = THREADS_MAX * 4 * (16 / sf_dtype_bytes(call->dtype));
    return call->dims[1] > 0 && call->dims[1] <= room && call->dims[0] < INT32_MAX;
}

static int64_t partial_rows(const struct sf_call *call, const struct shape *s) {
    return min_of(ceil_div(call->dims[0], s->rows), PARTIAL_ROWS_MAX);
}

size_t sfi_norm_work(const struct sf_call *call) {
    if (!is_backward(call)) {
        return 0;
    }
    struct shape s = shape_of(call, BWD_BLOCK);
    int64_t sums = call->kind == SF_CALL_LAYERNORM_BWD ? 2 : 1;
    return (size_t)(sums * max_of(1, partial_rows(call, &s)) * call->dims[1]) * sizeof(float);
}

#define NORM_FWD(words_n)                                                                                              \
    if (wide) {                                                                                                        \
        LAUNCH((norm_fwd<T, words_n, true, LAYER, ADD>), grid, block, 0, stream, a);                                   \
    } else {                                                                                                           \
        LAUNCH((norm_fwd<T, words_n, false, LAYER, ADD>), grid, block, 0, stream, a);                                  \
    }

template <typename T, bool LAYER, bool ADD>
static void forward(const struct sf_call *call, norm_args<T> a, void *stream) {
    struct shape s = shape_of(call, BLOCK);
    dim3 grid(grid_of(ceil_div(a.rows, s.rows))), block((unsigned)s.threads, (unsigned)s.rows);
    bool wide = a.cols % width<T>::n == 0 && aligned16(a.x) && aligned16(a.r) && aligned16(a.w) && aligned16(a.b) &&
                aligned16(a.s) && aligned16(a.y);
    if (s.words == 1) {
        NORM_FWD(1)
    } else if (s.words == 2) {
        NORM_FWD(2)
    } else {
        NORM_FWD(4)
    }
}

template <typename T>
static void forward_kind(const struct sf_call *call, void *const o[SF_CALL_OPERANDS], void *stream) {
    norm_args<T> a = {};
    bool add = call->kind == SF_CALL_RMSNORM_ADD_FWD || call->kind == SF_CALL_LAYERNORM_ADD_FWD;
    bool layer = call->kind == SF_CALL_LAYERNORM_FWD || call->kind == SF_CALL_LAYERNORM_ADD_FWD;
    int next = 0;
    a.rows = call->dims[0];
    a.cols = (int)call->dims[1];
    a.eps = call->imm[0];
    a.x = (const T *)o[next++];
    a.r = add ? (const T *)o[next++] : NULL;
    a.w = (const T *)o[next++];
    a.b = layer ? (const T *)o[next++] : NULL;
    a.s = add ? (T *)o[next++] : NULL;
    a.y = (T *)o[next++];
    a.mean = layer ? (float *)o[next++] : NULL;
    a.rstd = (float *)o[next];
    if (layer) {
        add ? forward<T, true, true>(call, a, stream) : forward<T, true, false>(call, a, stream);
    } else {
        add ? forward<T, false, true>(call, a, stream) : forward<T, false, false>(call, a, stream);
    }
}

static int norm_forward(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], void *stream,
                        struct sf_err *err) {
    if (call->dims[0] > 0) {
        BY_DTYPE(call, forward_kind, call, operand, stream);
    }
    return sfi_cuda_launched(call, err);
}

SFI_CUDA(rmsnorm_fwd) {
    (void)ctx;
    return norm_forward(call, operand, stream, err);
}

SFI_CUDA(layernorm_fwd) {
    (void)ctx;
    return norm_forward(call, operand, stream, err);
}

SFI_CUDA(rmsnorm_add_fwd) {
    (void)ctx;
    return norm_forward(call, operand, stream, err);
}

SFI_CUDA(layernorm_add_fwd) {
    (void)ctx;
    return norm_forward(call, operand, stream, err);
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

#define NORM_BWD(words_n)                                                                                              \
    if (wide) {                                                                                                        \
        LAUNCH((norm_bwd<T, words_n, true, LAYER>), grid, block, shared, stream, a);                                   \
    } else {                                                                                                           \
        LAUNCH((norm_bwd<T, words_n, false, LAYER>), grid, block, shared, stream, a);                                  \
    }

/* As many blocks as are resident at once: about 1024 threads per multiprocessor. */
template <typename T, bool LAYER>
static int64_t backward(const struct sf_cuda *ctx, const struct sf_call *call, norm_bwd_args<T> a, void *stream) {
    struct shape s = shape_of(call, BWD_BLOCK);
    int64_t resident = (int64_t)ctx->sms_n * max_of(1, 1024 / (s.threads * s.rows));
    int64_t blocks = max_of(1, min_of(resident, partial_rows(call, &s)));
    dim3 grid((unsigned)blocks), block((unsigned)s.threads, (unsigned)s.rows);
    size_t shared = s.rows > 1 ? (size_t)a.cols * sizeof(float) : 0;
    bool wide = a.cols % width<T>::n == 0 && aligned16(a.dy) && aligned16(a.x) && aligned16(a.w) && aligned16(a.dx);
    a.db = a.dw + blocks * a.cols;
    if (s.words == 1) {
        NORM_BWD(1)
    } else if (s.words == 2) {
        NORM_BWD(2)
    } else {
        NORM_BWD(4)
    }
    return blocks;
}

template <typename T>
static void backward_kind(const struct sf_cuda *ctx, const struct sf_call *call, void *const o[SF_CALL_OPERANDS],
                          void *stream) {
    bool layer = call->kind == SF_CALL_LAYERNORM_BWD, acc = (call->flags & SF_CALL_ACC2_FLAG) != 0;
    int rstd = layer ? 4 : 3, cols = (int)call->dims[1];
    norm_bwd_args<T> a = {};
    a.dy = (const T *)o[0];
    a.x = (const T *)o[1];
    a.w = (const T *)o[2];
    a.mean = layer ? (const float *)o[3] : NULL;
    a.rstd = (const float *)o[rstd];
    a.dx = (T *)o[rstd + 1];
    a.dw = (float *)ctx->work;
    a.rows = call->dims[0];
    a.cols = cols;
    a.acc = (call->flags & SF_CALL_ACC_FLAG) != 0;
    int64_t blocks = layer ? backward<T, true>(ctx, call, a, stream) : backward<T, false>(ctx, call, a, stream);
    dim3 grid((unsigned)ceil_div(cols, 32)), block(32, COLUMN_LANES);
    LAUNCH(add_partials<T>, grid, block, 0, stream, a.dw, (int)blocks, cols, (T *)o[rstd + 2], acc);
    if (layer) {
        LAUNCH(add_partials<T>, grid, block, 0, stream, a.dw + blocks * cols, (int)blocks, cols, (T *)o[rstd + 3], acc);
    }
}

static int norm_backward(struct sf_cuda *ctx, const struct sf_call *call, void *const operand[SF_CALL_OPERANDS],
                         void *stream, struct sf_err *err) {
    SF_TRY(sfi_cuda_need(ctx, call, err));
    BY_DTYPE(call, backward_kind, ctx, call, operand, stream);
    return sfi_cuda_launched(call, err);
}

SFI_CUDA(rmsnorm_bwd) {
    return norm_backward(ctx, call, operand, stream, err);
}

SFI_CUDA(layernorm_bwd) {
    return norm_backward(ctx, call, operand, stream, err);
}
