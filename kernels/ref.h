/* The references: plain C, sums in f64, no library but libm. */
#ifndef SF_KERNELS_REF_H
#define SF_KERNELS_REF_H

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

#endif
