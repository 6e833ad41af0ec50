/* Rotary position embedding, in place; 4 bytes per element below f32.
 *
 * Angles are exact: the fraction of a turn per position is a 64-bit fixed-point number, and multiplying it by the
 * position modulo 2^64 drops whole turns without rounding. So no position is too large, and no f64 is needed. */
#ifndef SF_KERNELS_CUDA_ROPE_CUH
#define SF_KERNELS_CUDA_ROPE_CUH

#include "kernels/cuda/dev.cuh"

enum { ROPE_PAIRS_MAX = 256, ROPE_HEADS = 8 }; /* pairs per head; heads that share a thread's sines */

template <typename T> struct rope_args {
    T *x;
    int64_t rows, seq, row_stride, first;
    int heads, half; /* half a head */
    float sign;
    uint64_t turn[ROPE_PAIRS_MAX]; /* 2^64 * turns per position, modulo 2^64 */
};

/* One thread: N pairs of ROPE_HEADS heads of a row. x: words of half a head, y: rows of the block; blockIdx.y: heads.
 */
template <typename T, bool WIDE> __global__ void __launch_bounds__(256) rope_kernel(rope_args<T> a) {
    constexpr int n = width<T>::n;
    int first = (int)threadIdx.x * n, left = a.half - first;
    int head_end = min(((int)blockIdx.y + 1) * ROPE_HEADS, a.heads);
    uint64_t turn[n];
#pragma unroll
    for (int e = 0; e < n; e++) {
        turn[e] = a.turn[e < left ? first + e : 0];
    }
    for (int64_t row = (int64_t)blockIdx.x * blockDim.y + threadIdx.y; row < a.rows;
         row += (int64_t)gridDim.x * blockDim.y) {
        float c[n], s[n];
#pragma unroll
        for (int e = 0; e < n; e++) { /* the top 32 bits: half turns in [-1, 1) */
            uint64_t fraction = turn[e] * (uint64_t)(a.first + row % a.seq);
            sincospif((float)(int32_t)(fraction >> 32) * 0x1p-31f, &s[e], &c[e]);
            s[e] *= a.sign;
        }
        for (int h = (int)blockIdx.y * ROPE_HEADS; h < head_end; h++) {
            T *low = a.x + row * a.row_stride + (int64_t)h * 2 * a.half + first;
            raw<T, n> vl = load<WIDE, AGAIN, n>(low, left), vh = load<WIDE, AGAIN, n>(low + a.half, left);
            float l[n], u[n];
#pragma unroll
            for (int e = 0; e < n; e++) {
                l[e] = at(vl, e) * c[e] - at(vh, e) * s[e];
                u[e] = at(vh, e) * c[e] + at(vl, e) * s[e];
            }
            pack<n>(l, &vl);
            pack<n>(u, &vh);
            store<WIDE, n>(low, vl, left);
            store<WIDE, n>(low + a.half, vh, left);
        }
    }
}

#endif
