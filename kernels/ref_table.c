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
            [SF_CALL_LAYERNORM_FWD] = sfi_ref_layernorm_fwd,
            [SF_CALL_LAYERNORM_BWD] = sfi_ref_layernorm_bwd,
            [SF_CALL_RMSNORM_ADD_FWD] = sfi_ref_rmsnorm_add_fwd,
            [SF_CALL_LAYERNORM_ADD_FWD] = sfi_ref_layernorm_add_fwd,
            [SF_CALL_BIAS_FWD] = sfi_ref_bias_fwd,
            [SF_CALL_BIAS_BWD] = sfi_ref_bias_bwd,
            [SF_CALL_SUMSQ] = sfi_ref_sumsq,
            [SF_CALL_CLIP] = sfi_ref_clip,
            [SF_CALL_CAST_DOWN] = sfi_ref_copy, /* in f32 */
            [SF_CALL_CAST_UP] = sfi_ref_copy,
            [SF_CALL_XENT_STATS] = sfi_ref_xent_stats,
            [SF_CALL_XENT_PART] = sfi_ref_xent_part,
        },
    .embed_part_fwd = sfi_ref_embed_part_fwd,
    .embed_part_bwd = sfi_ref_embed_part_bwd,
};
