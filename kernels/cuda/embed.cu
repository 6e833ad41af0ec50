#include "kernels/cuda/embed.cuh"

#include "kernels/cuda/launch.cuh"

/* Where the table is split, ids outside it are no fault: other ranks have them. */
static struct sf_cuda_fault *fault_of(const struct sf_cuda *ctx, const struct sf_call *call) {
    return call->flags & SF_CALL_PART_FLAG ? NULL : ctx->fault;
}

template <typename T>
static void run_fwd(const struct sf_cuda *ctx, const struct sf_call *call, void *const o[SF_CALL_OPERANDS],
                    void *stream) {
    const int32_t *tokens = (const int32_t *)o[0];
    const T *table = (const T *)o[1];
    T *y = (T *)o[2];
    struct sf_cuda_fault *fault = fault_of(ctx, call);
    int64_t rows = call->dims[0], vocab = call->dims[2];
    int cols = (int)call->dims[1], words = (int)ceil_div(cols, width<T>::n);
    unsigned x = (unsigned)min_of(256, max_of(1, words)), rows_n = 256 / x;
    dim3 grid(grid_of(ceil_div(rows, rows_n))), block(x, rows_n);
    if (cols % width<T>::n == 0 && aligned16(table) && aligned16(y)) {
        LAUNCH((embed_fwd<T, true>), grid, block, 0, stream, tokens, table, y, cols, rows, vocab, fault);
    } else {
        LAUNCH((embed_fwd<T, false>), grid, block, 0, stream, tokens, table, y, cols, rows, vocab, fault);
    }
}

SFI_CUDA(embed_fwd) {
    BY_DTYPE(call, run_fwd, ctx, call, operand, stream);
    return sfi_cuda_launched(call, err);
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

/* The work area, in this order. */
struct layout {
    int64_t blocks, windows;
    size_t second, counts, parts, bytes; /* offsets of what follows the first array of places */
};

static size_t round_up(size_t bytes) {
    return (bytes + 255) / 256 * 256;
}

static struct layout layout_of(const struct sf_call *call) {
    struct layout l = {};
    int64_t rows = max_of(1, call->dims[0]);
    size_t places = round_up((size_t)rows * sizeof(struct place));
    l.blocks = ceil_div(rows, SORT_BLOCK);
    l.windows = ceil_div(rows, WINDOW);
    l.second = places;
    l.counts = 2 * places;
    l.parts = l.counts + round_up((size_t)(l.blocks * DIGITS) * sizeof(int32_t));
    l.bytes = l.parts + (size_t)(l.windows * 2 * call->dims[1]) * sizeof(float);
    return l;
}

size_t sfi_embed_work(const struct sf_call *call) {
    return call->kind == SF_CALL_EMBED_BWD ? layout_of(call).bytes : 0;
}

bool sfi_embed_fits(const struct sf_call *call) {
    return call->dims[0] <= 1 << 22 && call->dims[1] < 1 << 30 && call->dims[2] < 1 << 30;
}

/* Positions sorted by token, in the first or the second array of places. Digits above the vocabulary's hold only the
 * mark of unknown tokens, which every pass moves behind the others. */
static const struct place *sort_places(const struct sf_cuda *ctx, const struct sf_call *call,
                                       void *const o[SF_CALL_OPERANDS], void *stream) {
    struct layout l = layout_of(call);
    struct place *side[2] = {(struct place *)ctx->work, (struct place *)(ctx->work + l.second)};
    sort_args a = {};
    a.tokens = (const int32_t *)o[0];
    a.counts = (int32_t *)(ctx->work + l.counts);
    a.vocab = call->dims[2];
    a.rows = (int)call->dims[0];
    a.fault = fault_of(ctx, call);
    dim3 grid((unsigned)l.blocks);
    for (int pass = 0; pass == 0 || call->dims[2] >> a.shift > 0; pass++) {
        a.out = side[pass % 2];
        LAUNCH(sort_count, grid, SORT_BLOCK, 0, stream, a);
        LAUNCH(sort_scan, dim3(1), 1024, 0, stream, a.counts, (int)l.blocks * DIGITS);
        LAUNCH(sort_move, grid, SORT_BLOCK, 0, stream, a);
        a.in = a.out;
        a.shift += DIGIT_BITS;
    }
    return a.in;
}

#define ADD_AND_JOIN(WIDE)                                                                                             \
    do {                                                                                                               \
        LAUNCH((embed_add<T, WIDE>), grid, EMBED_THREADS, 0, stream, a);                                               \
        LAUNCH((embed_join<T, WIDE>), grid, EMBED_THREADS, 0, stream, a);                                              \
    } while (0)

template <typename T>
static void run_bwd(const struct sf_cuda *ctx, const struct sf_call *call, void *const o[SF_CALL_OPERANDS],
                    void *stream) {
    struct layout l = layout_of(call);
    embed_bwd_args<T> a = {};
    a.sorted = sort_places(ctx, call, o, stream);
    a.dy = (const T *)o[1];
    a.dtable = (T *)o[2];
    a.parts = (float *)(ctx->work + l.parts);
    a.rows = (int)call->dims[0];
    a.cols = (int)call->dims[1];
    a.vocab = call->dims[2];
    dim3 grid((unsigned)l.windows, (unsigned)ceil_div(a.cols, EMBED_THREADS * width<T>::n));
    if (a.cols % width<T>::n == 0 && aligned16(a.dy) && aligned16(a.dtable)) {
        ADD_AND_JOIN(true);
    } else {
        ADD_AND_JOIN(false);
    }
}

SFI_CUDA(embed_bwd) {
    SF_TRY(sfi_cuda_need(ctx, call, err));
    if (call->dims[0] > 0) {
        BY_DTYPE(call, run_bwd, ctx, call, operand, stream);
    }
    return sfi_cuda_launched(call, err);
}
