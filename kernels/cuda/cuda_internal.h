/* What the files of this folder share: the context, the table's rows, launching. */
#ifndef SF_KERNELS_CUDA_CUDA_INTERNAL_H
#define SF_KERNELS_CUDA_CUDA_INTERNAL_H

#include <stdbool.h>

#include "kernels/cuda/kern_cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

struct sfi_gemm;      /* gemm.c: cuBLASLt handle and algorithms */
struct sfi_cuda_attn; /* attention plans */

struct sf_cuda {
    int device, arch, sms_n;
    char name[256], note[512];
    char *work;
    size_t work_bytes;
    struct sf_cuda_fault *fault;
    struct sfi_gemm *gemm;
    struct sfi_cuda_attn *attn;
};

#define SFI_CUDA(name)                                                                                                 \
    int sfi_cuda_##name(struct sf_cuda *ctx, const struct sf_call *call, void *const operand[SF_CALL_OPERANDS],        \
                        void *stream, struct sf_err *err)

SFI_CUDA(gemm);
SFI_CUDA(rmsnorm_fwd);
SFI_CUDA(rmsnorm_bwd);
SFI_CUDA(layernorm_fwd);
SFI_CUDA(layernorm_bwd);
SFI_CUDA(rmsnorm_add_fwd);
SFI_CUDA(layernorm_add_fwd);
SFI_CUDA(rope_fwd);
SFI_CUDA(rope_bwd);
SFI_CUDA(attn_fwd);
SFI_CUDA(attn_bwd);
SFI_CUDA(attn_slice_fwd);
SFI_CUDA(attn_slice_bwd);
SFI_CUDA(glu_fwd);
SFI_CUDA(glu_bwd);
SFI_CUDA(add);
SFI_CUDA(copy);
SFI_CUDA(zero);
SFI_CUDA(bias_fwd);
SFI_CUDA(bias_bwd);
SFI_CUDA(embed_fwd);
SFI_CUDA(embed_bwd);
SFI_CUDA(xent);
SFI_CUDA(xent_stats);
SFI_CUDA(xent_part);
SFI_CUDA(adamw);
SFI_CUDA(sumsq);
SFI_CUDA(clip);
SFI_CUDA(cast_down);
SFI_CUDA(cast_up);

/* Bytes of work area; 0 for kinds that are not named. */
size_t sfi_norm_work(const struct sf_call *call);
size_t sfi_bias_work(const struct sf_call *call);
size_t sfi_embed_work(const struct sf_call *call);
size_t sfi_xent_work(const struct sf_call *call);
size_t sfi_sumsq_work(const struct sf_call *call);
size_t sfi_gemm_work(const struct sf_call *call);

/* Whether a shape is inside what the kernel was written for. */
bool sfi_gemm_fits(const struct sf_call *call);
bool sfi_norm_fits(const struct sf_call *call);
bool sfi_rope_fits(const struct sf_call *call);
bool sfi_attn_fits(const struct sf_call *call);
bool sfi_slice_fits(const struct sf_call *call);
bool sfi_embed_fits(const struct sf_call *call);

int sfi_gemm_create(const char *cache_dir, struct sf_cuda *ctx, struct sf_err *err);
void sfi_gemm_destroy(struct sf_cuda *ctx);
void sfi_gemm_set_deterministic(struct sf_cuda *ctx, bool on);
int sfi_gemm_prepare(struct sf_cuda *ctx, const struct sf_call *call, struct sf_err *err);
int sfi_gemm_save(struct sf_cuda *ctx, struct sf_err *err);

/* SF_E_INTERNAL when the context's work area is smaller than the call needs. */
int sfi_cuda_need(const struct sf_cuda *ctx, const struct sf_call *call, struct sf_err *err);

/* After a launch: SF_E_FAULT when it was refused. */
int sfi_cuda_launched(const struct sf_call *call, struct sf_err *err);

#ifdef __cplusplus
}
#endif

#endif
