/* Everything compiled for one instruction set: included once by each fast_<isa>.c, which defines SFI_ISA (the name),
 * SFI_LANES and SFI_TARGET. */
#include "kernels/fast_attn_bwd.h"
#include "kernels/fast_layer.h"
#include "kernels/fast_loss.h"
#include "kernels/fast_norm.h"
#include "kernels/fast_point.h"
#include "kernels/fast_rope.h"
#include "kernels/fast_sum.h"
#include "kernels/fast_vocab.h"
#include "kernels/ref.h"

#define SFI_STRING_(x) #x
#define SFI_STRING(x) SFI_STRING_(x)
#define SFI_JOIN_(a, b) a##b
#define SFI_JOIN(a, b) SFI_JOIN_(a, b)

const struct sfi_kern_table SFI_JOIN(sfi_kern_, SFI_ISA) = {
    .name = SFI_STRING(SFI_ISA),
    .kern =
        {
            [SF_CALL_GEMM] = sfi_fast_gemm,
            [SF_CALL_RMSNORM_FWD] = rmsnorm_fwd,
            [SF_CALL_RMSNORM_BWD] = rmsnorm_bwd,
            [SF_CALL_ROPE_FWD] = rope_fwd,
            [SF_CALL_ROPE_BWD] = rope_bwd,
            [SF_CALL_ATTN_FWD] = attn_fwd,
            [SF_CALL_ATTN_BWD] = attn_bwd,
            [SF_CALL_GLU_FWD] = glu_fwd,
            [SF_CALL_GLU_BWD] = glu_bwd,
            [SF_CALL_ADD] = add,
            [SF_CALL_COPY] = copy,
            [SF_CALL_ZERO] = zero,
            [SF_CALL_EMBED_FWD] = embed_fwd,
            [SF_CALL_EMBED_BWD] = embed_bwd,
            [SF_CALL_XENT] = xent,
            [SF_CALL_ADAMW] = adamw,
            [SF_CALL_LAYERNORM_FWD] = layernorm_fwd,
            [SF_CALL_LAYERNORM_BWD] = layernorm_bwd,
            [SF_CALL_RMSNORM_ADD_FWD] = rmsnorm_add_fwd,
            [SF_CALL_LAYERNORM_ADD_FWD] = layernorm_add_fwd,
            [SF_CALL_BIAS_FWD] = bias_fwd,
            [SF_CALL_BIAS_BWD] = bias_bwd,
            /* A few calls a step: the references serve. */
            [SF_CALL_SUMSQ] = sfi_ref_sumsq,
            [SF_CALL_CLIP] = sfi_ref_clip,
            [SF_CALL_CAST_DOWN] = copy, /* in f32 */
            [SF_CALL_CAST_UP] = copy,
            [SF_CALL_XENT_STATS] = xent_stats,
            [SF_CALL_XENT_PART] = xent_part,
            [SF_CALL_XENT_PADDED] = xent_padded,
            [SF_CALL_ATTN_SLICE_FWD] = attn_slice_fwd,
            [SF_CALL_ATTN_SLICE_BWD] = attn_slice_bwd,
        },
    .embed_part_fwd = embed_part_fwd,
    .embed_part_bwd = embed_part_bwd,
    .tree_sum = tree_sum,
};
