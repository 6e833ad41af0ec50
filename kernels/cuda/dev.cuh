/* What device code is written with. Compiled by nvcc, or for the host with SF_EMULATE, where tests/cuda/host supplies
 * threads, barriers and shuffles; nothing below this file knows the difference. */
#ifndef SF_KERNELS_CUDA_DEV_CUH
#define SF_KERNELS_CUDA_DEV_CUH

#include <math.h>
#include <stdint.h>

#include "kernels/cuda/kern_cuda.h"

#define FN static __device__ __forceinline__
#define ALL_LANES 0xffffffffu

struct bf16 {
    uint16_t bits;
};

/* N elements as they lie in memory: whole 16-byte words, so that registers hold them packed. */
template <typename T, int N> struct raw { uint32_t w[N * (int)sizeof(T) / 4]; };

/* Elements in 16 bytes. */
template <typename T> struct width { static constexpr int n = 16 / (int)sizeof(T); };

/* ---- the few primitives that differ between device and host ------------------------------------------------------ */

/* One array per kernel whose size the launch gives. */
#ifdef SF_EMULATE
#define SF_DYNAMIC_SHARED(type, name) type *const name = (type *)sfi_emul_dynamic_shared()
#else
#define SF_DYNAMIC_SHARED(type, name)                                                                                  \
    extern __shared__ __align__(16) char sf_dynamic_shared[];                                                          \
    type *const name = (type *)sf_dynamic_shared
#endif

enum how { ONCE, AGAIN, CONSTANT }; /* read once; read or written again soon; never written while this kernel runs */

#ifdef SF_EMULATE

FN float as_float(uint32_t bits) {
    return sfi_emul_float(bits);
}

FN uint32_t as_bits(float f) {
    return sfi_emul_bits(f);
}

FN uint32_t round_pair(float low, float high) {
    return sfi_emul_bf16(low) | (uint32_t)sfi_emul_bf16(high) << 16;
}

FN float fast_exp(float x) {
    return expf(x);
}

FN float fast_div(float a, float b) {
    return a / b;
}

template <enum how H> FN uint4 load16(const void *p) {
    return *(const uint4 *)sfi_emul_aligned(p, 16);
}

FN void store16(void *p, uint4 v) {
    *(uint4 *)sfi_emul_aligned(p, 16) = v;
}

#else

FN float as_float(uint32_t bits) {
    return __uint_as_float(bits);
}

FN uint32_t as_bits(float f) {
    return __float_as_uint(f);
}

/* Round to nearest even; NaN becomes 0x7fff. */
FN uint32_t round_pair(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

FN float fast_exp(float x) {
    return __expf(x);
}

FN float fast_div(float a, float b) {
    return __fdividef(a, b);
}

template <enum how H> FN uint4 load16(const void *p) {
    if (H == CONSTANT) {
        return __ldg((const uint4 *)p);
    }
    return H == ONCE ? __ldcs((const uint4 *)p) : *(const uint4 *)p;
}

FN void store16(void *p, uint4 v) {
    *(uint4 *)p = v;
}

#endif

/* ---- elements ---------------------------------------------------------------------------------------------------- */

FN float to_f32(float x) {
    return x;
}

FN float to_f32(bf16 x) {
    return as_float((uint32_t)x.bits << 16);
}

template <typename T> FN T from_f32(float x);

template <> __device__ __forceinline__ float from_f32<float>(float x) {
    return x;
}

template <> __device__ __forceinline__ bf16 from_f32<bf16>(float x) {
    return bf16{(uint16_t)round_pair(x, 0)};
}

/* Element e; indices are constants once loops are unrolled. */
template <int N> FN float at(const raw<float, N> &v, int e) {
    return as_float(v.w[e]);
}

template <int N> FN float at(const raw<bf16, N> &v, int e) {
    return as_float(e % 2 == 0 ? v.w[e / 2] << 16 : v.w[e / 2] & 0xffff0000u);
}

template <int N> FN void pack(const float *x, raw<float, N> *out) {
#pragma unroll
    for (int e = 0; e < N; e++) {
        out->w[e] = as_bits(x[e]);
    }
}

template <int N> FN void pack(const float *x, raw<bf16, N> *out) {
#pragma unroll
    for (int e = 0; e < N; e += 2) {
        out->w[e / 2] = round_pair(x[e], x[e + 1]);
    }
}

template <typename T, int N> FN void clear(raw<T, N> *v) {
#pragma unroll
    for (int i = 0; i < N * (int)sizeof(T) / 4; i++) {
        v->w[i] = 0;
    }
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* WIDE: p is 16-byte aligned and all N elements exist. Otherwise the first `left` do, and the rest reads as 0. */
template <bool WIDE, enum how H, int N, typename T> FN raw<T, N> load(const T *p, int64_t left) {
    raw<T, N> v;
    if constexpr (WIDE) {
        (void)left;
#pragma unroll
        for (int i = 0; i < N * (int)sizeof(T) / 16; i++) {
            uint4 q = load16<H>((const char *)p + 16 * i);
            v.w[4 * i] = q.x;
            v.w[4 * i + 1] = q.y;
            v.w[4 * i + 2] = q.z;
            v.w[4 * i + 3] = q.w;
        }
    } else {
        float x[N];
#pragma unroll
        for (int e = 0; e < N; e++) {
            x[e] = e < left ? to_f32(p[e]) : 0;
        }
        pack<N>(x, &v);
    }
    return v;
}

template <bool WIDE, int N, typename T> FN void store(T *p, const raw<T, N> &v, int64_t left) {
    if constexpr (WIDE) {
        (void)left;
#pragma unroll
        for (int i = 0; i < N * (int)sizeof(T) / 16; i++) {
            store16((char *)p + 16 * i, make_uint4(v.w[4 * i], v.w[4 * i + 1], v.w[4 * i + 2], v.w[4 * i + 3]));
        }
    } else {
#pragma unroll
        for (int e = 0; e < N; e++) {
            if (e < left) {
                p[e] = from_f32<T>(at(v, e));
            }
        }
    }
}

/* ---- sums in a fixed order --------------------------------------------------------------------------------------- */

FN float warp_sum(float v) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        v += __shfl_xor_sync(ALL_LANES, v, step); /* a + b == b + a: all lanes end with the same bits */
    }
    return v;
}

/* Sum over the threads of one y of a block whose x is a multiple of 32. Every thread of the block must call it, with
 * `shared` (32 floats) alternating between two arrays from call to call. */
FN float group_sum(float v, float *shared) {
    int warps = (int)blockDim.x / 32, first = (int)threadIdx.y * warps;
    v = warp_sum(v);
    if (warps == 1) {
        return v;
    }
    if (threadIdx.x % 32 == 0) {
        shared[first + (int)threadIdx.x / 32] = v;
    }
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < warps; i++) {
        sum += shared[first + i];
    }
    return sum;
}

/* ---- arithmetic that costs less where the result is rounded to bf16 ---------------------------------------------- */

template <typename T> FN float exp_of(float x) {
    return sizeof(T) == 2 ? fast_exp(x) : expf(x);
}

template <typename T> FN float div_of(float a, float b) {
    return sizeof(T) == 2 ? fast_div(a, b) : a / b;
}

/* The first one stays. */
FN void report_fault(struct sf_cuda_fault *fault, int kind, int64_t row, int32_t id, int64_t vocab) {
    if (fault != NULL && atomicCAS(&fault->kind, 0, 1 + kind) == 0) {
        fault->row = (int32_t)row;
        fault->id = id;
        fault->vocab = (int32_t)vocab;
    }
}

#endif
