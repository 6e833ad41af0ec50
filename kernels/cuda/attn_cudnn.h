/* Attention by cuDNN where it has a plan, by the kernels of attn.cu where it has none. */
#ifndef SF_KERNELS_CUDA_ATTN_CUDNN_H
#define SF_KERNELS_CUDA_ATTN_CUDNN_H

#include "kernels/cuda/attn_cudnn_graph.h"
#include "kernels/cuda/cuda_internal.h"

/* `cache_dir`: where plans are kept, one file each; NULL: not kept. cuDNN itself is loaded by the first plan. */
int sfi_attn_create(const char *cache_dir, struct sf_cuda *ctx, struct sf_err *err);
void sfi_attn_destroy(struct sf_cuda *ctx); /* legal without sfi_attn_create */

/* Same bits every time, for calls prepared from now on; needs sfi_attn_work(call, true). The usual backward pass adds
 * dq up in the order in which blocks happen to finish. */
void sfi_attn_set_deterministic(struct sf_cuda *ctx, bool on); /* what sf_cuda_set_deterministic does */

/* Load or build the call's plan. A call that cuDNN refuses is no error: the first is noted (sf_cuda_note, stderr). */
int sfi_attn_prepare(struct sf_cuda *ctx, const struct sf_call *call, struct sf_err *err);

/* Whether cuDNN runs the call, alignment permitting. */
bool sfi_attn_has_plan(const struct sf_cuda *ctx, const struct sf_call *call);

/* The table's kernel for both directions. */
int sfi_attn_run(struct sf_cuda *ctx, const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], void *stream,
                 struct sf_err *err);

#endif
