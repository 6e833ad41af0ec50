#include "kernels/cuda/attn.cuh"

#include "kernels/cuda/launch.cuh"

bool sfi_attn_fits(const struct sf_call *call) {
    return call->dims[4] <= ATTN_HEAD_MAX && call->dims[1] <= INT32_MAX - TILE && call->dims[2] < 65536 &&
           call->dims[0] < 65536;
}

size_t sf_cuda_attn_bwd_work(const struct sf_call *call) {
    return (size_t)(call->dims[0] * call->dims[1] * call->dims[2]) * sizeof(float);
}

static size_t shared_of(int head_dim) {
    return (size_t)(4 * TILE * (head_dim + 1) + 2 * TILE * (TILE + 1)) * sizeof(float);
}

template <typename T> static attn_args<T> attn_of(const struct sf_call *call, void *const o[SF_CALL_OPERANDS]) {
    attn_args<T> a = {};
    a.q = (const T *)o[0];
    a.k = (const T *)o[1];
    a.v = (const T *)o[2];
    a.seq = (int)call->dims[1];
    a.heads = (int)call->dims[2];
    a.kv_heads = (int)call->dims[3];
    a.head_dim = (int)call->dims[4];
    a.row_stride = call->dims[5];
    a.o_stride = call->dims[2] * call->dims[4];
    a.scale = 1 / sqrtf((float)call->dims[4]);
    a.lse = (float *)o[4];
    return a;
}

#define ATTN_LAUNCH(kernel, C)                                                                                         \
    do {                                                                                                               \
        ALLOW_SHARED((kernel<T, C>), shared);                                                                          \
        LAUNCH((kernel<T, C>), grid, ATTN_THREADS, shared, stream, a);                                                 \
    } while (0)

/* Columns of a row that one lane holds. */
#define ATTN_BY_HEAD(kernel)                                                                                           \
    do {                                                                                                               \
        if (a.head_dim <= 8 * LANES) {                                                                                 \
            ATTN_LAUNCH(kernel, 8);                                                                                    \
        } else if (a.head_dim <= 16 * LANES) {                                                                         \
            ATTN_LAUNCH(kernel, 16);                                                                                   \
        } else {                                                                                                       \
            ATTN_LAUNCH(kernel, 32);                                                                                   \
        }                                                                                                              \
    } while (0)

template <typename T> static void run_fwd(const struct sf_call *call, void *const o[SF_CALL_OPERANDS], void *stream) {
    attn_args<T> a = attn_of<T>(call, o);
    a.out = (T *)o[3];
    size_t shared = shared_of(a.head_dim);
    dim3 grid((unsigned)ceil_div(a.seq, TILE), (unsigned)a.heads, (unsigned)call->dims[0]);
    ATTN_BY_HEAD(attn_fwd);
}

SFI_CUDA(attn_fwd) {
    (void)ctx;
    if (call->dims[0] > 0 && call->dims[1] > 0 && call->dims[2] > 0) {
        BY_DTYPE(call, run_fwd, call, operand, stream);
    }
    return sfi_cuda_launched(call, err);
}

template <typename T> static void run_bwd(const struct sf_call *call, void *const o[SF_CALL_OPERANDS], void *stream) {
    attn_args<T> a = attn_of<T>(call, o);
    a.o = (const T *)o[3];
    a.d_o = (const T *)o[5];
    a.dq = (T *)o[6];
    a.dk = (T *)o[7];
    a.dv = (T *)o[8];
    a.delta = (float *)o[9];
    int64_t rows = call->dims[0] * a.heads * a.seq;
    size_t shared = shared_of(a.head_dim);
    LAUNCH(attn_delta<T>, dim3(grid_of(ceil_div(rows, TILE))), ATTN_THREADS, 0, stream, a, rows);
    dim3 grid((unsigned)ceil_div(a.seq, TILE), (unsigned)a.heads, (unsigned)call->dims[0]);
    ATTN_BY_HEAD(attn_bwd_q);
    grid.y = (unsigned)a.kv_heads;
    ATTN_BY_HEAD(attn_bwd_kv);
}

SFI_CUDA(attn_bwd) {
    (void)ctx;
    if (call->dims[0] > 0 && call->dims[1] > 0 && call->dims[2] > 0) {
        BY_DTYPE(call, run_bwd, call, operand, stream);
    }
    return sfi_cuda_launched(call, err);
}
