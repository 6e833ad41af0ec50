/* Device code of the runtime itself: pages, sums between virtual ranks, the clock, initial weights. Launchers return
 * cudaError_t as int and only enqueue. */
#ifndef SF_RUNTIME_CUDA_MODULE_KERNELS_H
#define SF_RUNTIME_CUDA_MODULE_KERNELS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SFI_MODULE_SOURCES 64

/* Between memory and page (*counter & 1) of `pages`. */
int sfi_module_move(char *memory, char *pages, uint64_t stride, const uint32_t *counter, uint64_t bytes, int to_page,
                    void *stream);
/* to[i] = sum of from[0..n-1][i] along the canonical tree, in f32; bf16 = 0: f32. */
int sfi_module_sum(void *to, const void *const from[], uint32_t n, uint64_t count, int bf16, void *stream);
int sfi_module_stamp(uint64_t *ns, void *stream);
int sfi_module_mark(uint32_t *word, uint32_t value, void *stream);
int sfi_module_advance(uint32_t *counter, uint32_t *done, void *stream);
int sfi_module_normal(void *to, int bf16, uint64_t key, uint64_t first_row, uint64_t first_col, uint64_t rows,
                      uint64_t cols, float std, void *stream);
int sfi_module_constant(void *to, int bf16, uint64_t n, float value, void *stream);
int sfi_module_widen(float *to, const void *from, int bf16, uint64_t n, void *stream);

#ifdef __cplusplus
}
#endif

#endif
