/* One vector of f32 in the instruction set that the includer names, and the arithmetic that kernels share.
 *
 * The includer defines SFI_LANES (f32 lanes of one register) and SFI_TARGET (the target attribute, or nothing); every
 * function carries that attribute, so one binary holds all variants and picks at run time. Included once per variant.
 */
#ifndef SF_KERNELS_FAST_VEC_H
#define SF_KERNELS_FAST_VEC_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define FN static SFI_TARGET
#define INLINE static inline __attribute__((always_inline)) SFI_TARGET

/* Before a loop over a small array of registers: unroll it whole, or the array would live in memory. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

enum { LANES = SFI_LANES };

typedef float vf __attribute__((vector_size(4 * SFI_LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * SFI_LANES)));
typedef float vf_mem __attribute__((vector_size(4 * SFI_LANES), aligned(4), may_alias));

INLINE vf load(const float *p) {
    return *(const vf_mem *)p;
}

INLINE void store(float *p, vf x) {
    *(vf_mem *)p = x;
}

/* The first n lanes (n <= LANES); the rest read as 0 and are not written. */
INLINE vf load_n(const float *p, size_t n) {
    if (__builtin_expect(n >= LANES, 1)) {
        return load(p);
    }
    float t[LANES] = {0};
    memcpy(t, p, n * sizeof(float));
    return load(t);
}

INLINE void store_n(float *p, vf x, size_t n) {
    if (__builtin_expect(n >= LANES, 1)) {
        store(p, x);
        return;
    }
    float t[LANES];
    store(t, x);
    memcpy(p, t, n * sizeof(float));
}

INLINE vf splat(float x) {
    return x - (vf){0};
}

#if SFI_LANES == 16
#define VEC_OP(op, ...) _mm512_##op(__VA_ARGS__)
#elif SFI_LANES == 8
#define VEC_OP(op, ...) _mm256_##op(__VA_ARGS__)
#elif defined(__x86_64__)
#define VEC_OP(op, ...) _mm_##op(__VA_ARGS__)
#endif

/* max and min return b where a or b is NaN. */
#if defined(VEC_OP)
INLINE vf vmax(vf a, vf b) {
    return (vf)VEC_OP(max_ps, a, b);
}

INLINE vf vmin(vf a, vf b) {
    return (vf)VEC_OP(min_ps, a, b);
}

INLINE vf vsqrt(vf a) {
    return (vf)VEC_OP(sqrt_ps, a);
}
#else
INLINE vf vmax(vf a, vf b) {
    for (int i = 0; i < LANES; i++) {
        b[i] = a[i] > b[i] ? a[i] : b[i];
    }
    return b;
}

INLINE vf vmin(vf a, vf b) {
    for (int i = 0; i < LANES; i++) {
        b[i] = a[i] < b[i] ? a[i] : b[i];
    }
    return b;
}

INLINE vf vsqrt(vf a) {
    for (int i = 0; i < LANES; i++) {
        a[i] = sqrtf(a[i]);
    }
    return a;
}
#endif

/* x where the mask is all ones, 0 where it is all zeros. */
INLINE vf keep(vu mask, vf x) {
    return (vf)((vu)x & mask);
}

INLINE float sum_lanes(vf x) {
    float t[LANES];
    store(t, x);
    for (int width = LANES / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; i++) {
            t[i] += t[i + width];
        }
    }
    return t[0];
}

INLINE float max_lanes(vf x) {
    float t[LANES];
    store(t, x);
    for (int i = 1; i < LANES; i++) {
        t[0] = t[i] > t[0] ? t[i] : t[0];
    }
    return t[0];
}

/* e^x: relative error below 1.2e-7 (about 1 ulp) on [-86.6, 88.7]. Below -86.6 the result is 0, which also keeps
 * denormals out of the products that follow; above 88.73 it is infinity; NaN stays NaN.
 * x = n ln2 + r with |r| <= ln2/2, and e^r = 1 + r + r^2 q(r), q the minimax polynomial of degree 4 (relative error
 * 3.1e-9, found with the Remez exchange). Adding 1.5 * 2^23 rounds to an integer and leaves n in the low bits. */
INLINE vf vexp(vf x) {
    const vf shift = splat(12582912.0f);
    x = vmin(splat(89.0f), x);
    vf t = x * splat(1.44269504f) + shift;
    vf n = t - shift;
    vf r = x - n * splat(0.693359375f);
    r = r + n * splat(2.12194440e-4f);
    vf q = splat(0.00138145371f);
    q = q * r + splat(0.00836874545f);
    q = q * r + splat(0.041668389f);
    q = q * r + splat(0.166665211f);
    q = q * r + splat(0.49999994f);
    q = (q * r) * r + r + splat(1.0f);
    vu scale = ((vu)t + 126u) << 23; /* 2^(n-1): n may be 128 */
    return keep(~(vu)(x < splat(-86.6f)), (q + q) * (vf)scale);
}

/* ln x for normal positive x: relative error below 2.4e-7. x = 2^e m with m in [sqrt(1/2), sqrt(2)), s = (m-1)/(m+1)
 * and ln m = 2 s + s^3 t(s^2), t of degree 2 (relative error 8.1e-10). */
INLINE vf vlog(vf x) {
    vu bits = (vu)x - 0x3f3504f3u;
    vf e = __builtin_convertvector((int32_t __attribute__((vector_size(4 * SFI_LANES)))) bits >> 23, vf);
    vf m = (vf)((bits & 0x007fffffu) + 0x3f3504f3u);
    vf s = (m - splat(1.0f)) / (m + splat(1.0f));
    vf z = s * s;
    vf t = (splat(0.298722804f) * z + splat(0.399775267f)) * z + splat(0.666667759f);
    vf ln_m = s * z * t + (s + s);
    return e * splat(0.693359375f) + (ln_m - e * splat(2.12194440e-4f));
}

INLINE vf vsigmoid(vf x) {
    return splat(1.0f) / (splat(1.0f) + vexp(-x));
}

#endif
