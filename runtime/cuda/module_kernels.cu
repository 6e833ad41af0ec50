#include "runtime/cuda/module_kernels.h"

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#define THREADS 256
#define BLOCKS_MAX 2048

static unsigned blocks_for(uint64_t n) {
    uint64_t blocks = (n + THREADS - 1) / THREADS;
    return (unsigned)(blocks < 1 ? 1 : blocks > BLOCKS_MAX ? BLOCKS_MAX : blocks);
}

static __device__ uint64_t first_index(void) {
    return (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

static __device__ uint64_t index_step(void) {
    return (uint64_t)gridDim.x * blockDim.x;
}

static __device__ void put(void *to, int bf16, uint64_t i, float value) {
    if (bf16) {
        ((__nv_bfloat16 *)to)[i] = __float2bfloat16_rn(value);
    } else {
        ((float *)to)[i] = value;
    }
}

static __device__ float get(const void *from, int bf16, uint64_t i) {
    return bf16 ? __bfloat162float(((const __nv_bfloat16 *)from)[i]) : ((const float *)from)[i];
}

static __global__ void move_kernel(char *memory, char *pages, uint64_t stride, const uint32_t *counter, uint64_t bytes,
                                   int to_page) {
    char *page = pages + (uint64_t)(*counter & 1) * stride;
    char *to = to_page ? page : memory;
    const char *from = to_page ? memory : page;
    uint64_t words = ((uintptr_t)to | (uintptr_t)from) % 4 == 0 ? bytes / 4 : 0;
    for (uint64_t i = first_index(); i < words; i += index_step()) {
        ((uint32_t *)(void *)to)[i] = ((const volatile uint32_t *)(const void *)from)[i];
    }
    for (uint64_t i = words * 4 + first_index(); i < bytes; i += index_step()) {
        to[i] = ((const volatile char *)from)[i];
    }
}

int sfi_module_move(char *memory, char *pages, uint64_t stride, const uint32_t *counter, uint64_t bytes, int to_page,
                    void *stream) {
    move_kernel<<<blocks_for(bytes / 4), THREADS, 0, (cudaStream_t)stream>>>(memory, pages, stride, counter, bytes,
                                                                            to_page);
    return (int)cudaGetLastError();
}

struct sources {
    const void *at[SFI_MODULE_SOURCES];
};

/* Pairs of neighbours, then pairs of pairs: the sum of 2^k sources waits at level k for its other half. */
static __global__ void sum_kernel(void *to, const struct sources from, uint32_t n, uint64_t count, int bf16) {
    for (uint64_t i = first_index(); i < count; i += index_step()) {
        float waiting[7];
        float sum = 0.0f;
        for (uint32_t s = 0; s < n; s++) {
            float x = get(from.at[s], bf16, i);
            uint32_t level = 0;
            for (uint32_t k = s; k & 1; k >>= 1) {
                x = __fadd_rn(waiting[level++], x);
            }
            waiting[level] = x;
        }
        for (uint32_t level = 0, any = 0; level < 7; level++) {
            if (n >> level & 1) {
                sum = any ? __fadd_rn(waiting[level], sum) : waiting[level];
                any = 1;
            }
        }
        put(to, bf16, i, sum);
    }
}

int sfi_module_sum(void *to, const void *const from[], uint32_t n, uint64_t count, int bf16, void *stream) {
    struct sources s = {};
    for (uint32_t i = 0; i < n && i < SFI_MODULE_SOURCES; i++) {
        s.at[i] = from[i];
    }
    sum_kernel<<<blocks_for(count), THREADS, 0, (cudaStream_t)stream>>>(to, s, n, count, bf16);
    return (int)cudaGetLastError();
}

static __global__ void stamp_kernel(uint64_t *ns) {
    uint64_t now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    *(volatile uint64_t *)ns = now;
}

int sfi_module_stamp(uint64_t *ns, void *stream) {
    stamp_kernel<<<1, 1, 0, (cudaStream_t)stream>>>(ns);
    return (int)cudaGetLastError();
}

static __global__ void mark_kernel(uint32_t *word, uint32_t value) {
    *(volatile uint32_t *)word = value;
    __threadfence_system();
}

int sfi_module_mark(uint32_t *word, uint32_t value, void *stream) {
    mark_kernel<<<1, 1, 0, (cudaStream_t)stream>>>(word, value);
    return (int)cudaGetLastError();
}

static __global__ void advance_kernel(uint32_t *counter, uint32_t *done) {
    uint32_t next = *counter + 1;
    *counter = next;
    __threadfence_system(); /* what earlier nodes wrote for the host comes first */
    *(volatile uint32_t *)done = next;
    __threadfence_system();
}

int sfi_module_advance(uint32_t *counter, uint32_t *done, void *stream) {
    advance_kernel<<<1, 1, 0, (cudaStream_t)stream>>>(counter, done);
    return (int)cudaGetLastError();
}

/* ---- weights: the streams of core/rng.c ------------------------------------------------------------------------- */

enum purpose { DRAW = 1, SPLIT = 3 };

static __device__ uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static __device__ uint64_t keyed(uint64_t key, uint64_t value, enum purpose purpose) {
    return mix(mix(key + (value + 1) * UINT64_C(0x9e3779b97f4a7c15)) ^
               (key + (uint64_t)purpose * UINT64_C(0xd1342543de82ef95)));
}

static __device__ double unit(uint64_t key, uint64_t draw) {
    return (double)(keyed(key, draw, DRAW) >> 11) * 0x1p-53;
}

static __global__ void normal_kernel(void *to, int bf16, uint64_t key, uint64_t first_row, uint64_t first_col,
                                     uint64_t rows, uint64_t cols, float std) {
    for (uint64_t i = first_index(); i < rows * cols; i += index_step()) {
        uint64_t row_key = keyed(key, first_row + i / cols, SPLIT), draw = 2 * (first_col + i % cols);
        double radius = sqrt(-2.0 * log(1.0 - unit(row_key, draw)));
        put(to, bf16, i, (float)(radius * cos(6.283185307179586 * unit(row_key, draw + 1)) * (double)std));
    }
}

int sfi_module_normal(void *to, int bf16, uint64_t key, uint64_t first_row, uint64_t first_col, uint64_t rows,
                      uint64_t cols, float std, void *stream) {
    normal_kernel<<<blocks_for(rows * cols), THREADS, 0, (cudaStream_t)stream>>>(to, bf16, key, first_row, first_col,
                                                                                rows, cols, std);
    return (int)cudaGetLastError();
}

static __global__ void constant_kernel(void *to, int bf16, uint64_t n, float value) {
    for (uint64_t i = first_index(); i < n; i += index_step()) {
        put(to, bf16, i, value);
    }
}

int sfi_module_constant(void *to, int bf16, uint64_t n, float value, void *stream) {
    constant_kernel<<<blocks_for(n), THREADS, 0, (cudaStream_t)stream>>>(to, bf16, n, value);
    return (int)cudaGetLastError();
}

static __global__ void widen_kernel(float *to, const void *from, int bf16, uint64_t n) {
    for (uint64_t i = first_index(); i < n; i += index_step()) {
        to[i] = get(from, bf16, i);
    }
}

int sfi_module_widen(float *to, const void *from, int bf16, uint64_t n, void *stream) {
    widen_kernel<<<blocks_for(n), THREADS, 0, (cudaStream_t)stream>>>(to, from, bf16, n);
    return (int)cudaGetLastError();
}
