/* Numbers in [-1, 1) to measure on. */
#ifndef SF_KERNELS_CUDA_RANDOM_H
#define SF_KERNELS_CUDA_RANDOM_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

void sfi_cuda_fill_random(void *to, size_t count, int dtype, void *stream);

#ifdef __cplusplus
}
#endif

#endif
