#include "kernels/cuda/attn.cuh"

#include "kernels/cuda/launch.cuh"

bool sfi_slice_fits(const struct sf_call *call) {
    return call->dims[4] <= ATTN_HEAD_MAX && call->dims[0] <= INT32_MAX - TILE && call->dims[2] < 65536;
}

bool sfi_attn_fits(const struct sf_call *call) {
    return call->dims[4] <= ATTN_HEAD_MAX && call->dims[1] <= INT32_MAX - TILE && call->dims[2] < 65536 &&
           call->dims[0] < 65536;
}

size_t sf_cuda_attn_bwd_work(const struct sf_call *call) {
    int64_t batch = call->kind == SF_CALL_ATTN_SLICE_BWD ? 1 : call->dims[0];
    return (size_t)(batch * call->dims[1] * call->dims[2]) * sizeof(float);
}

static size_t shared_of(int head_dim) {
    return (size_t)(4 * TILE * (head_dim + 1) + 2 * TILE * (TILE + 1)) * sizeof(float);
}

template <typename T> static attn_args<T> attn_of(const struct sf_call *call, void *const o[SF_CALL_OPERANDS]) {
    attn_args<T> a = {};
    a.q = (const T *)o[0];
    a.k = (const T *)o[1];
    a.v = (const T *)o[2];
    a.seq = a.keys = (int)call->dims[1];
    a.heads = (int)call->dims[2];
    a.kv_heads = (int)call->dims[3];
    a.head_dim = (int)call->dims[4];
    a.row_stride = a.kv_stride = call->dims[5];
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

template <typename T> static void launch_bwd(attn_args<T> a, unsigned batch, void *stream) {
    int64_t rows = (int64_t)batch * a.heads * a.seq;
    size_t shared = shared_of(a.head_dim);
    LAUNCH(attn_delta<T>, dim3(grid_of(ceil_div(rows, TILE))), ATTN_THREADS, 0, stream, a, rows);
    dim3 grid((unsigned)ceil_div(a.seq, TILE), (unsigned)a.heads, batch);
    ATTN_BY_HEAD(attn_bwd_q);
    grid.x = (unsigned)ceil_div(a.keys, TILE);
    grid.y = (unsigned)a.kv_heads;
    ATTN_BY_HEAD(attn_bwd_kv);
}

template <typename T> static void run_bwd(const struct sf_call *call, void *const o[SF_CALL_OPERANDS], void *stream) {
    attn_args<T> a = attn_of<T>(call, o);
    a.o = (const T *)o[3];
    a.d_o = (const T *)o[5];
    a.dq = (T *)o[6];
    a.dk = (T *)o[7];
    a.dv = (T *)o[8];
    a.delta = (float *)o[9];
    launch_bwd<T>(a, (unsigned)call->dims[0], stream);
}

SFI_CUDA(attn_bwd) {
    (void)ctx;
    if (call->dims[0] > 0 && call->dims[1] > 0 && call->dims[2] > 0) {
        BY_DTYPE(call, run_bwd, call, operand, stream);
    }
    return sfi_cuda_launched(call, err);
}

/* ---- slices ------------------------------------------------------------------------------------------------------ */

template <typename T> static attn_args<T> slice_of(const struct sf_call *call, void *const o[SF_CALL_OPERANDS]) {
    const int64_t *d = call->dims;
    attn_args<T> a = {};
    a.keys = (int)d[0];
    a.seq = (int)d[1];
    a.before = a.keys - a.seq;
    a.heads = (int)d[2];
    a.kv_heads = (int)d[3];
    a.head_dim = (int)d[4];
    a.row_stride = (d[2] + 2 * d[3]) * d[4];
    a.kv_stride = 2 * d[3] * d[4];
    a.o_stride = d[2] * d[4];
    a.scale = 1 / sqrtf((float)d[4]);
    a.q = (const T *)o[0];
    a.k = (const T *)o[1];
    a.v = a.k + a.kv_stride / 2;
    a.lse = (float *)o[3];
    return a;
}

template <typename T>
static void run_slice_fwd(const struct sf_call *call, void *const o[SF_CALL_OPERANDS], void *stream) {
    attn_args<T> a = slice_of<T>(call, o);
    int64_t n = a.seq * a.kv_stride;
    LAUNCH(slice_append<T>, dim3(grid_of(ceil_div(n, 256))), 256, 0, stream, a.q, (T *)o[1] + a.before * a.kv_stride, n,
           a.kv_stride, a.row_stride);
    a.out = (T *)o[2];
    size_t shared = shared_of(a.head_dim);
    dim3 grid((unsigned)ceil_div(a.seq, TILE), (unsigned)a.heads, 1);
    ATTN_BY_HEAD(attn_fwd);
}

SFI_CUDA(attn_slice_fwd) {
    (void)ctx;
    if (call->dims[1] > 0 && call->dims[2] > 0) {
        BY_DTYPE(call, run_slice_fwd, call, operand, stream);
    }
    return sfi_cuda_launched(call, err);
}

template <typename T>
static void run_slice_bwd(const struct sf_call *call, void *const o[SF_CALL_OPERANDS], void *stream) {
    attn_args<T> a = slice_of<T>(call, o);
    a.o = (const T *)o[2];
    a.d_o = (const T *)o[4];
    a.dq = (T *)o[5];
    a.dk = a.dq + a.o_stride;
    a.dv = a.dk + a.kv_stride / 2;
    a.sum = (float *)o[6];
    a.delta = (float *)o[7];
    a.add = (call->flags & SF_CALL_ACC_FLAG) != 0;
    launch_bwd<T>(a, 1, stream);
}

SFI_CUDA(attn_slice_bwd) {
    (void)ctx;
    if (call->dims[1] > 0 && call->dims[2] > 0) {
        BY_DTYPE(call, run_slice_bwd, call, operand, stream);
    }
    return sfi_cuda_launched(call, err);
}
