#include "kernels/ref.h"

const struct sfi_kern_table sfi_kern_reference = {
    .name = "reference",
    .kern =
        {
            [SF_CALL_GEMM] = sfi_ref_gemm,
            [SF_CALL_RMSNORM_FWD] = sfi_ref_rmsnorm_fwd,
            [SF_CALL_RMSNORM_BWD] = sfi_ref_rmsnorm_bwd,
            [SF_CALL_ROPE_FWD] = sfi_ref_rope_fwd,
            [SF_CALL_ROPE_BWD] = sfi_ref_rope_bwd,
            [SF_CALL_ATTN_FWD] = sfi_ref_attn_fwd,
            [SF_CALL_ATTN_BWD] = sfi_ref_attn_bwd,
            [SF_CALL_GLU_FWD] = sfi_ref_glu_fwd,
            [SF_CALL_GLU_BWD] = sfi_ref_glu_bwd,
            [SF_CALL_ADD] = sfi_ref_add,
            [SF_CALL_COPY] = sfi_ref_copy,
            [SF_CALL_ZERO] = sfi_ref_zero,
            [SF_CALL_EMBED_FWD] = sfi_ref_embed_fwd,
            [SF_CALL_EMBED_BWD] = sfi_ref_embed_bwd,
            [SF_CALL_XENT] = sfi_ref_xent,
            [SF_CALL_ADAMW] = sfi_ref_adamw,
        },
};
