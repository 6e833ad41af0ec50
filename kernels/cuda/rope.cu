#include "kernels/cuda/rope.cuh"

#include "kernels/cuda/launch.cuh"

bool sfi_rope_fits(const struct sf_call *call) {
    return call->dims[2] <= 2 * ROPE_PAIRS_MAX && call->dims[1] < 65535 * ROPE_HEADS;
}

/* base^(-2i/head_dim) radians as a share of 2^64, rounded once in long double. */
static uint64_t turn_of(double base, int64_t i, int64_t head_dim) {
    long double turns = powl((long double)base, -2.0L * (long double)i / (long double)head_dim) / (2 * M_PIl);
    return (uint64_t)((turns - floorl(turns)) * 0x1p64L);
}

template <typename T> static void run_rope(const struct sf_call *call, void *x, void *stream) {
    const int64_t *d = call->dims;
    rope_args<T> a = {};
    a.x = (T *)x;
    a.rows = d[0];
    a.heads = (int)d[1];
    a.half = (int)(d[2] / 2);
    a.seq = d[3];
    a.row_stride = d[4];
    a.first = d[5];
    a.sign = call->kind == SF_CALL_ROPE_FWD ? 1.0f : -1.0f;
    for (int i = 0; i < a.half; i++) {
        a.turn[i] = turn_of((double)call->imm[0], i, d[2]);
    }
    constexpr int n = width<T>::n;
    int words = (int)ceil_div(a.half, n), rows = (int)max_of(1, 256 / words);
    dim3 grid(grid_of(ceil_div(a.rows, rows)), (unsigned)ceil_div(a.heads, ROPE_HEADS));
    dim3 block((unsigned)words, (unsigned)rows);
    if (a.half % n == 0 && a.row_stride % n == 0 && aligned16(x)) {
        LAUNCH((rope_kernel<T, true>), grid, block, 0, stream, a);
    } else {
        LAUNCH((rope_kernel<T, false>), grid, block, 0, stream, a);
    }
}

static int rope(const struct sf_call *call, void *x, void *stream, struct sf_err *err) {
    if (call->dims[0] > 0 && call->dims[1] > 0 && call->dims[2] > 0) {
        BY_DTYPE(call, run_rope, call, x, stream);
    }
    return sfi_cuda_launched(call, err);
}

SFI_CUDA(rope_fwd) {
    (void)ctx;
    return rope(call, operand[0], stream, err);
}

SFI_CUDA(rope_bwd) {
    (void)ctx;
    return rope(call, operand[0], stream, err);
}
