/* Elementwise kernels: each reads its inputs once and writes its outputs once, in words of 16 bytes. */
#ifndef SF_KERNELS_CUDA_POINT_CUH
#define SF_KERNELS_CUDA_POINT_CUH

#include "kernels/cuda/dev.cuh"

#define GELU_LINEAR 0.7978845608028654f /* sqrt(2/pi) */
#define GELU_CUBIC 0.044715f

/* First element of this thread, and how far the next one of it is away. */
FN int64_t point_first(int n) {
    return ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * n;
}

FN int64_t point_step(int n) {
    return (int64_t)gridDim.x * blockDim.x * n;
}

/* y = a + b. */
template <typename T, bool WIDE> __global__ void add_kernel(const T *a, const T *b, T *y, int64_t count) {
    constexpr int n = width<T>::n;
    for (int64_t i = point_first(n); i < count; i += point_step(n)) {
        raw<T, n> va = load<WIDE, ONCE, n>(a + i, count - i), vb = load<WIDE, ONCE, n>(b + i, count - i);
        float sum[n];
#pragma unroll
        for (int e = 0; e < n; e++) {
            sum[e] = at(va, e) + at(vb, e);
        }
        pack<n>(sum, &va);
        store<WIDE, n>(y + i, va, count - i);
    }
}

/* y = x in another type, or the same one; without x, y = 0. N elements at a time suit the narrower type. */
template <typename X, typename Y, bool WIDE> __global__ void copy_kernel(const X *x, Y *y, int64_t count) {
    constexpr int n = width<X>::n > width<Y>::n ? width<X>::n : width<Y>::n;
    for (int64_t i = point_first(n); i < count; i += point_step(n)) {
        raw<Y, n> out;
        clear(&out);
        if (x != NULL) {
            raw<X, n> in = load<WIDE, ONCE, n>(x + i, count - i);
            float v[n];
#pragma unroll
            for (int e = 0; e < n; e++) {
                v[e] = at(in, e);
            }
            pack<n>(v, &out);
        }
        store<WIDE, n>(y + i, out, count - i);
    }
}

/* ---- gated linear units ------------------------------------------------------------------------------------------ */

/* The logistic function. tanh-GELU(g) = g * logistic(2u), which loses nothing where tanh nears -1. */
template <typename T> FN float logistic(float z) {
    return div_of<T>(1.0f, 1.0f + exp_of<T>(-z));
}

template <typename T, bool GELU> FN float gate_share(float g) {
    return GELU ? logistic<T>(2 * GELU_LINEAR * (g + GELU_CUBIC * g * g * g)) : logistic<T>(g);
}

/* d(g * share)/dg. */
template <bool GELU> FN float gate_slope(float g, float share) {
    float inner = GELU ? 2 * GELU_LINEAR * (1 + 3 * GELU_CUBIC * g * g) : 1;
    return share + g * share * (1 - share) * inner;
}

/* `words` of N elements per row; word i of all rows. x is [rows, 2*cols], or [rows, cols] when PLAIN. */
template <typename T> struct glu_args {
    const T *dy, *x;
    T *out; /* y, or dx */
    uint32_t rows, words;
    int cols;
};

template <typename T, bool WIDE, bool GELU, bool PLAIN> __global__ void glu_fwd(glu_args<T> a) {
    constexpr int n = width<T>::n;
    uint32_t total = a.rows * a.words, step = gridDim.x * blockDim.x;
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < total; i += step) {
        uint32_t row = i / a.words;
        int c = (int)(i - row * a.words) * n, left = a.cols - c;
        const T *x = a.x + (int64_t)row * (PLAIN ? 1 : 2) * a.cols + c;
        raw<T, n> g = load<WIDE, ONCE, n>(x, left), u;
        if (!PLAIN) {
            u = load<WIDE, ONCE, n>(x + a.cols, left);
        }
        float y[n];
#pragma unroll
        for (int e = 0; e < n; e++) {
            float act = at(g, e) * gate_share<T, GELU>(at(g, e));
            y[e] = PLAIN ? act : act * at(u, e);
        }
        pack<n>(y, &g);
        store<WIDE, n>(a.out + (int64_t)row * a.cols + c, g, left);
    }
}

template <typename T, bool WIDE, bool GELU, bool PLAIN> __global__ void glu_bwd(glu_args<T> a) {
    constexpr int n = width<T>::n;
    uint32_t total = a.rows * a.words, step = gridDim.x * blockDim.x;
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < total; i += step) {
        uint32_t row = i / a.words;
        int c = (int)(i - row * a.words) * n, left = a.cols - c;
        int64_t x_at = (int64_t)row * (PLAIN ? 1 : 2) * a.cols + c;
        raw<T, n> dy = load<WIDE, ONCE, n>(a.dy + (int64_t)row * a.cols + c, left);
        raw<T, n> g = load<WIDE, ONCE, n>(a.x + x_at, left), u;
        if (!PLAIN) {
            u = load<WIDE, ONCE, n>(a.x + x_at + a.cols, left);
        }
        float dgate[n], dup[n];
#pragma unroll
        for (int e = 0; e < n; e++) {
            float gate = at(g, e), share = gate_share<T, GELU>(gate);
            dgate[e] = at(dy, e) * gate_slope<GELU>(gate, share) * (PLAIN ? 1 : at(u, e));
            dup[e] = at(dy, e) * gate * share;
        }
        pack<n>(dgate, &g);
        store<WIDE, n>(a.out + x_at, g, left);
        if (!PLAIN) {
            pack<n>(dup, &u);
            store<WIDE, n>(a.out + x_at + a.cols, u, left);
        }
    }
}

/* ---- biases ------------------------------------------------------------------------------------------------------ */

template <typename T> struct bias_args {
    const T *x, *b, *r; /* r may be NULL */
    T *y;
    uint32_t rows, words;
    int cols;
};

template <typename T, bool WIDE> __global__ void bias_fwd(bias_args<T> a) {
    constexpr int n = width<T>::n;
    uint32_t total = a.rows * a.words, step = gridDim.x * blockDim.x;
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < total; i += step) {
        uint32_t row = i / a.words;
        int c = (int)(i - row * a.words) * n, left = a.cols - c;
        int64_t place = (int64_t)row * a.cols + c;
        raw<T, n> x = load<WIDE, ONCE, n>(a.x + place, left), b = load<WIDE, CONSTANT, n>(a.b + c, left), r;
        clear(&r);
        if (a.r != NULL) {
            r = load<WIDE, ONCE, n>(a.r + place, left);
        }
        float y[n];
#pragma unroll
        for (int e = 0; e < n; e++) {
            y[e] = at(x, e) + at(b, e) + at(r, e);
        }
        pack<n>(y, &x);
        store<WIDE, n>(a.y + place, x, left);
    }
}

/* Sums of rows threadIdx.y + blockDim.y * k of this block's stripe, into row blockIdx.y of `partial`; see columns.cuh.
 */
template <typename T, bool WIDE>
__global__ void bias_bwd(const T *dy, int64_t rows, int cols, int64_t stripe, float *partial) {
    constexpr int n = width<T>::n;
    __shared__ float shared[8][32 * n + 1];
    int tile = (int)blockIdx.x * 32 * n, c = tile + (int)threadIdx.x * n, left = cols - c;
    int64_t end = (int64_t)(blockIdx.y + 1) * stripe < rows ? (int64_t)(blockIdx.y + 1) * stripe : rows;
    float sum[n] = {0};
    for (int64_t r = (int64_t)blockIdx.y * stripe + threadIdx.y; left > 0 && r < end; r += blockDim.y) {
        raw<T, n> v = load<WIDE, ONCE, n>(dy + r * cols + c, left);
#pragma unroll
        for (int e = 0; e < n; e++) {
            sum[e] += at(v, e);
        }
    }
#pragma unroll
    for (int e = 0; e < n; e++) {
        shared[threadIdx.y][(int)threadIdx.x * n + e] = sum[e];
    }
    __syncthreads();
    for (int i = (int)(threadIdx.y * 32 + threadIdx.x); i < 32 * n && tile + i < cols; i += (int)blockDim.y * 32) {
        float total = 0;
        for (int y = 0; y < (int)blockDim.y; y++) {
            total += shared[y][i];
        }
        partial[(int64_t)blockIdx.y * cols + tile + i] = total;
    }
}

#endif
