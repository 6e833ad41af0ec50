#include "kernels/cuda/random.h"

#include "kernels/cuda/launch.cuh"

template <typename T> static __global__ void fill_random(T *to, int64_t count) {
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (int64_t)gridDim.x * blockDim.x) {
        uint32_t x = (uint32_t)i * 0x9e3779b9u;
        x = (x ^ (x >> 16)) * 0x85ebca6bu;
        x = (x ^ (x >> 13)) * 0xc2b2ae35u;
        to[i] = from_f32<T>((float)(int32_t)(x ^ (x >> 16)) * 0x1p-31f);
    }
}

void sfi_cuda_fill_random(void *to, size_t count, int dtype, void *stream) {
    if (dtype == SF_BF16) {
        LAUNCH(fill_random<bf16>, dim3(1024), 256, 0, stream, (bf16 *)to, (int64_t)count);
    } else {
        LAUNCH(fill_random<float>, dim3(1024), 256, 0, stream, (float *)to, (int64_t)count);
    }
}
