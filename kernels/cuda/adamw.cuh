/* The optimizer step, and clipping by the global norm before it.
 *
 * Bytes per parameter: f32 28; bf16 with f32 moments 28; bf16 with bf16 moments 20. */
#ifndef SF_KERNELS_CUDA_ADAMW_CUH
#define SF_KERNELS_CUDA_ADAMW_CUH

#include "kernels/cuda/columns.cuh"

/* T: parameters and gradients. M: moments. */
template <typename T, typename M> struct adamw_args {
    T *param;
    const T *grad;
    M *m, *v;
    const float *hyper;
    float *master; /* NULL when param itself is f32 */
    int64_t count;
    float decays;
};

FN uint32_t scramble(uint32_t x) { /* murmur3's finaliser */
    x = (x ^ (x >> 16)) * 0x85ebca6bu;
    x = (x ^ (x >> 13)) * 0xc2b2ae35u;
    return x ^ (x >> 16);
}

/* Rounded up with the probability that keeps the mean: a moment that shrinks by less than half a step of bf16 would
 * otherwise never shrink. The draw comes from the values and the step's hyperparameters, so it repeats for the same
 * step and needs no state. */
template <int N> FN void pack_moment(const float *x, uint32_t salt, raw<bf16, N> *out) {
#pragma unroll
    for (int e = 0; e < N; e++) {
        uint32_t bits = as_bits(x[e]), draw = scramble(bits ^ (salt + (uint32_t)e)) & 0xffffu;
        bool finite = (bits & 0x7f800000u) != 0x7f800000u;
        uint32_t rounded = finite ? bits + draw : bits;
        out->w[e / 2] = e % 2 == 0 ? rounded >> 16 : out->w[e / 2] | (rounded & 0xffff0000u);
    }
}

template <int N> FN void pack_moment(const float *x, uint32_t salt, raw<float, N> *out) {
    (void)salt;
    pack<N>(x, out);
}

/* New values of one word in place of p, m, v. */
template <int N, typename T, typename M>
FN void adamw_word(const adamw_args<T, M> &a, const raw<T, N> &grad, float *p, float *m, float *v) {
    float lr = a.hyper[0], beta1 = a.hyper[1], beta2 = a.hyper[2], eps = a.hyper[3];
    float shrink = lr * a.hyper[4] * a.decays, scale = a.hyper[7];
    float fix1 = 1 / a.hyper[5], fix2 = 1 / a.hyper[6];
#pragma unroll
    for (int e = 0; e < N; e++) {
        float g = at(grad, e) * scale;
        m[e] = beta1 * m[e] + (1 - beta1) * g;
        v[e] = beta2 * v[e] + (1 - beta2) * g * g;
        float step = m[e] * fix1 / (sqrtf(v[e] * fix2) + eps);
        p[e] -= lr * step + shrink * p[e];
    }
}

template <int N, typename T> FN void unpack(const raw<T, N> &v, float *x) {
#pragma unroll
    for (int e = 0; e < N; e++) {
        x[e] = at(v, e);
    }
}

template <typename T, typename M, bool WIDE> __global__ void __launch_bounds__(256) adamw_kernel(adamw_args<T, M> a) {
    constexpr int n = width<T>::n;
    int64_t step = (int64_t)gridDim.x * blockDim.x * n;
    uint32_t step_salt = 0;
    for (int h = 0; sizeof(M) == 2 && h < 8; h++) {
        step_salt = scramble(step_salt ^ as_bits(a.hyper[h]));
    }
    for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * n; i < a.count; i += step) {
        int64_t left = a.count - i;
        raw<T, n> grad = load<WIDE, ONCE, n>(a.grad + i, left), param;
        raw<M, n> rm = load<WIDE, ONCE, n>(a.m + i, left), rv = load<WIDE, ONCE, n>(a.v + i, left);
        raw<float, n> master;
        float p[n], m[n], v[n];
        if (a.master != NULL) {
            master = load<WIDE, ONCE, n>(a.master + i, left);
            unpack<n>(master, p);
        } else {
            param = load<WIDE, ONCE, n>(a.param + i, left);
            unpack<n>(param, p);
        }
        unpack<n>(rm, m);
        unpack<n>(rv, v);
        adamw_word<n>(a, grad, p, m, v);
        uint32_t salt = scramble((uint32_t)i ^ step_salt);
        pack_moment<n>(m, salt, &rm);
        pack_moment<n>(v, ~salt, &rv);
        store<WIDE, n>(a.m + i, rm, left);
        store<WIDE, n>(a.v + i, rv, left);
        if (a.master != NULL) {
            pack<n>(p, &master);
            store<WIDE, n>(a.master + i, master, left);
        }
        pack<n>(p, &param);
        store<WIDE, n>(a.param + i, param, left);
    }
}

/* ---- clipping ---------------------------------------------------------------------------------------------------- */

template <typename T, bool WIDE> __global__ void sumsq_kernel(const T *x, int64_t count, float *partial) {
    constexpr int n = width<T>::n;
    int64_t step = (int64_t)gridDim.x * blockDim.x * n;
    float sum = 0;
    for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * n; i < count; i += step) {
        raw<T, n> v = load<WIDE, ONCE, n>(x + i, count - i);
        float squares = 0;
#pragma unroll
        for (int e = 0; e < n; e++) {
            squares += at(v, e) * at(v, e);
        }
        sum += squares;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = sum;
    }
}

static __global__ void clip_kernel(const float *sums, int64_t count, float limit, float *norm, float *hyper) {
    float sum = 0;
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) {
        sum += sums[i];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        float whole = fabsf(hyper[7]) * sqrtf(sum);
        *norm = whole;
        hyper[7] = whole > limit ? hyper[7] * (limit / whole) : hyper[7];
    }
}

#endif
