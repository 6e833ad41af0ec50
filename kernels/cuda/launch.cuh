/* Host side of a launch, the same for the device and for the emulation. */
#ifndef SF_KERNELS_CUDA_LAUNCH_CUH
#define SF_KERNELS_CUDA_LAUNCH_CUH

#include "kernels/cuda/cuda_internal.h"
#include "kernels/cuda/dev.cuh"

#ifdef SF_EMULATE
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                                         \
    ((void)(stream), sfi_emul_run(grid, block, shared_bytes, [=]() { kernel(__VA_ARGS__); }))
#define ALLOW_SHARED(kernel, bytes) ((void)(bytes))
#else
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                                         \
    kernel<<<grid, block, shared_bytes, (cudaStream_t)(stream)>>>(__VA_ARGS__)
/* More than 48 KiB of shared memory has to be asked for; idempotent, touches no stream. */
#define ALLOW_SHARED(kernel, bytes)                                                                                    \
    ((void)cudaFuncSetAttribute((const void *)(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(bytes)))
#endif

static inline int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

static inline int64_t min_of(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static inline int64_t max_of(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static inline bool aligned16(const void *p) {
    return ((uintptr_t)p & 15) == 0; /* NULL is */
}

static inline unsigned grid_of(int64_t blocks) {
    return (unsigned)max_of(1, min_of(blocks, INT32_MAX));
}

/* fn<float>(...) or fn<bf16>(...) by the call's dtype. */
#define BY_DTYPE(call, fn, ...) ((call)->dtype == SF_BF16 ? fn<bf16>(__VA_ARGS__) : fn<float>(__VA_ARGS__))

#endif
