/* The references: plain C, sums in f64, no library but libm. */
#ifndef SF_KERNELS_REF_H
#define SF_KERNELS_REF_H

#include <stdbool.h>

#include "kernels/table.h"

#define SFI_REF(name)                                                                                                  \
    int sfi_ref_##name(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err)

SFI_REF(gemm);
SFI_REF(rmsnorm_fwd);
SFI_REF(rmsnorm_bwd);
SFI_REF(rope_fwd);
SFI_REF(rope_bwd);
SFI_REF(attn_fwd);
SFI_REF(attn_bwd);
SFI_REF(glu_fwd);
SFI_REF(glu_bwd);
SFI_REF(add);
SFI_REF(copy);
SFI_REF(zero);
SFI_REF(embed_fwd);
SFI_REF(embed_bwd);
SFI_REF(xent);
SFI_REF(adamw);
SFI_REF(layernorm_fwd);
SFI_REF(layernorm_bwd);
SFI_REF(rmsnorm_add_fwd);
SFI_REF(layernorm_add_fwd);
SFI_REF(bias_fwd);
SFI_REF(bias_bwd);
SFI_REF(sumsq);
SFI_REF(clip);
SFI_REF(embed_part_fwd);
SFI_REF(embed_part_bwd);
SFI_REF(xent_stats);
SFI_REF(xent_part);
SFI_REF(xent_padded);
SFI_REF(attn_slice_fwd);
SFI_REF(attn_slice_bwd);

/* A slice's own keys and values behind those of the slices before it. */
void sfi_slice_append(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS]);

/* Log of the sum of exp over all parts of one row, and the target's logit, which one of them has. */
double sfi_xent_join(const float *stats, size_t row, size_t rows, size_t parts, double *target);

#endif
