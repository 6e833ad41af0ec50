/* Sums in a fixed order: blocks leave partial sums, then these are added up. */
#ifndef SF_KERNELS_CUDA_COLUMNS_CUH
#define SF_KERNELS_CUDA_COLUMNS_CUH

#include "kernels/cuda/dev.cuh"

enum { COLUMN_LANES = 16, PARTIAL_ROWS_MAX = 1024 };

/* y[c] (+)= sum of partial[0..rows-1][c]. Blocks of 32 columns by COLUMN_LANES. */
template <typename T> __global__ void add_partials(const float *partial, int rows, int cols, T *y, bool acc) {
    __shared__ float sums[COLUMN_LANES][33];
    int c = (int)blockIdx.x * 32 + (int)threadIdx.x;
    float sum = 0;
    for (int r = (int)threadIdx.y; c < cols && r < rows; r += COLUMN_LANES) {
        sum += partial[(int64_t)r * cols + c];
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && c < cols) {
        float total = acc ? to_f32(y[c]) : 0;
        for (int i = 0; i < COLUMN_LANES; i++) {
            total += sums[i][threadIdx.x];
        }
        y[c] = from_f32<T>(total);
    }
}

/* Sum over a block of one-dimensional threads, in a fixed order; for all of them. */
FN float block_sum(float v) {
    __shared__ float shared[32];
    return group_sum(v, shared);
}

/* *y (+)= scale * sum of x[0..count-1]; one block. */
static __global__ void add_up(const float *x, int64_t count, float scale, float *y, bool acc) {
    float sum = 0;
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) {
        sum += x[i];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        *y = scale * sum + (acc ? *y : 0);
    }
}

#endif
