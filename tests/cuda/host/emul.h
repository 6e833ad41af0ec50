/* CUDA's execution model on one CPU thread, so that the device code of kernels/cuda runs where there is no GPU.
 *
 * Every thread of a block is a fiber that runs until it waits: at a barrier for its block, at a shuffle or __syncwarp
 * for its warp. Blocks and fibers take turns in an order that a seed picks, so a missing barrier shows as a result that
 * changes with the seed. Waiting for somebody who has already left, misaligned words and an atomic on anything but
 * integers end the program with a message: hardware would not. */
#ifndef SF_TESTS_CUDA_HOST_EMUL_H
#define SF_TESTS_CUDA_HOST_EMUL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
#include <math.h>

#include <functional>

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {
    }
};

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return uint4{x, y, z, w};
}

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

#define __global__ __attribute__((unused))
#define __device__
#define __forceinline__ inline __attribute__((unused))
#define __shared__ static
#define __launch_bounds__(...)

void sfi_emul_run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()> &kernel);
void sfi_emul_wait_block(void);
void sfi_emul_wait_warp(void);
uint32_t sfi_emul_exchange(uint32_t value, unsigned from_lane);
void *sfi_emul_dynamic_shared(void);
const void *sfi_emul_aligned(const void *p, size_t bytes);

static inline void *sfi_emul_aligned(void *p, size_t bytes) {
    return const_cast<void *>(sfi_emul_aligned((const void *)p, bytes));
}

static inline float sfi_emul_float(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t sfi_emul_bits(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* Round to nearest even, as cvt.rn.bf16x2.f32 does. */
static inline uint16_t sfi_emul_bf16(float f) {
    uint32_t bits = sfi_emul_bits(f);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return 0x7fff;
    }
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

static inline void __syncthreads(void) {
    sfi_emul_wait_block();
}

static inline void __syncwarp(void) {
    sfi_emul_wait_warp();
}

static inline float __shfl_xor_sync(unsigned mask, float v, int step) {
    (void)mask;
    return sfi_emul_float(sfi_emul_exchange(sfi_emul_bits(v), threadIdx.x ^ (unsigned)step));
}

static inline int32_t atomicAdd(int32_t *at, int32_t v) {
    int32_t old = *at;
    *at = old + v;
    return old;
}

static inline int32_t atomicCAS(int32_t *at, int32_t expected, int32_t v) {
    int32_t old = *at;
    *at = old == expected ? v : old;
    return old;
}

static inline int min(int a, int b) {
    return a < b ? a : b;
}

static inline void sincospif(float x, float *s, float *c) {
    *s = (float)__builtin_sin(M_PI * (double)x);
    *c = (float)__builtin_cos(M_PI * (double)x);
}

extern "C" {
#endif

void sf_emul_seed(uint64_t seed);

#ifdef __cplusplus
}
#endif

#endif
