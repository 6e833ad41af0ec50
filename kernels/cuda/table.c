/* The table: which kernel computes a call, on which dtypes, and what it needs. */
#include "kernels/cuda/attn_cudnn.h"
#include "kernels/cuda/cuda_internal.h"

/* Architectures that this build has code for. */
enum { ARCH_90 = 1, ARCH_100 = 2, ARCH_103 = 4, ARCH_ALL = ARCH_90 | ARCH_100 | ARCH_103 };

struct row {
    sf_kern_cuda kern;
    size_t (*work)(const struct sf_call *call); /* NULL: none */
    bool (*fits)(const struct sf_call *call);   /* NULL: any shape that kern.h allows */
    unsigned flags, archs;
};

#define NORM_FLAGS (SF_CALL_ACC_FLAG | SF_CALL_ACC2_FLAG)
#define GEMM_FLAGS (SF_CALL_TA_FLAG | SF_CALL_TB_FLAG | SF_CALL_ACC_FLAG)
#define GLU_FLAGS (SF_CALL_GELU_FLAG | SF_CALL_PLAIN_FLAG)

/* Rows and words of a row are counted in 32 bits. */
static bool rowwise_fits(const struct sf_call *call) {
    int64_t words;
    return call->dims[1] < INT32_MAX && !__builtin_mul_overflow(call->dims[0], call->dims[1] / 4 + 1, &words) &&
           words < INT32_MAX;
}

static bool xent_fits(const struct sf_call *call) {
    return call->dims[1] > 0 && call->dims[1] < INT32_MAX / 2;
}

/* The host has no cuDNN: there the simple kernels are what is tested. */
#ifdef SF_EMULATE
#define ATTN(simple) BOTH(simple, NULL, sfi_attn_fits, 0)

static size_t deterministic_work(const struct sf_call *call) {
    (void)call;
    return 0;
}
#else
#define ATTN(simple) BOTH(sfi_attn_run, attn_work, sfi_attn_fits, 0)

static size_t attn_work(const struct sf_call *call) {
    return sfi_attn_work(call, false);
}

static size_t deterministic_work(const struct sf_call *call) {
    return sfi_attn_work(call, true);
}
#endif

/* Rows that serve every dtype, then those of one. */
#define BOTH(KERN, WORK, FITS, FLAGS)                                                                                  \
    {                                                                                                                  \
        {KERN, WORK, FITS, FLAGS, ARCH_ALL}, {KERN, WORK, FITS, FLAGS, ARCH_ALL}, {                                    \
            NULL, NULL, NULL, 0, 0                                                                                     \
        }                                                                                                              \
    }

static const struct row table[SF_CALL_KINDS][SF_DTYPES_N] = {
    [SF_CALL_GEMM] = BOTH(sfi_cuda_gemm, sfi_gemm_work, sfi_gemm_fits, GEMM_FLAGS),
    [SF_CALL_RMSNORM_FWD] = BOTH(sfi_cuda_rmsnorm_fwd, NULL, sfi_norm_fits, 0),
    [SF_CALL_RMSNORM_BWD] = BOTH(sfi_cuda_rmsnorm_bwd, sfi_norm_work, sfi_norm_fits, NORM_FLAGS),
    [SF_CALL_LAYERNORM_FWD] = BOTH(sfi_cuda_layernorm_fwd, NULL, sfi_norm_fits, 0),
    [SF_CALL_LAYERNORM_BWD] = BOTH(sfi_cuda_layernorm_bwd, sfi_norm_work, sfi_norm_fits, NORM_FLAGS),
    [SF_CALL_RMSNORM_ADD_FWD] = BOTH(sfi_cuda_rmsnorm_add_fwd, NULL, sfi_norm_fits, 0),
    [SF_CALL_LAYERNORM_ADD_FWD] = BOTH(sfi_cuda_layernorm_add_fwd, NULL, sfi_norm_fits, 0),
    [SF_CALL_ROPE_FWD] = BOTH(sfi_cuda_rope_fwd, NULL, sfi_rope_fits, 0),
    [SF_CALL_ROPE_BWD] = BOTH(sfi_cuda_rope_bwd, NULL, sfi_rope_fits, 0),
    [SF_CALL_ATTN_FWD] = ATTN(sfi_cuda_attn_fwd),
    [SF_CALL_ATTN_BWD] = ATTN(sfi_cuda_attn_bwd),
    [SF_CALL_ATTN_SLICE_FWD] = BOTH(sfi_cuda_attn_slice_fwd, NULL, sfi_slice_fits, 0),
    [SF_CALL_ATTN_SLICE_BWD] = BOTH(sfi_cuda_attn_slice_bwd, NULL, sfi_slice_fits, SF_CALL_ACC_FLAG),
    [SF_CALL_GLU_FWD] = BOTH(sfi_cuda_glu_fwd, NULL, rowwise_fits, GLU_FLAGS),
    [SF_CALL_GLU_BWD] = BOTH(sfi_cuda_glu_bwd, NULL, rowwise_fits, GLU_FLAGS),
    [SF_CALL_ADD] = BOTH(sfi_cuda_add, NULL, NULL, 0),
    [SF_CALL_COPY] = BOTH(sfi_cuda_copy, NULL, NULL, 0),
    [SF_CALL_ZERO] = BOTH(sfi_cuda_zero, NULL, NULL, 0),
    [SF_CALL_BIAS_FWD] = BOTH(sfi_cuda_bias_fwd, NULL, rowwise_fits, 0),
    [SF_CALL_BIAS_BWD] = BOTH(sfi_cuda_bias_bwd, sfi_bias_work, rowwise_fits, SF_CALL_ACC_FLAG),
    [SF_CALL_EMBED_FWD] = BOTH(sfi_cuda_embed_fwd, NULL, sfi_embed_fits, SF_CALL_PART_FLAG),
    [SF_CALL_EMBED_BWD] =
        BOTH(sfi_cuda_embed_bwd, sfi_embed_work, sfi_embed_fits, SF_CALL_ACC_FLAG | SF_CALL_PART_FLAG),
    [SF_CALL_XENT] = BOTH(sfi_cuda_xent, sfi_xent_work, xent_fits, SF_CALL_ACC2_FLAG),
    [SF_CALL_XENT_STATS] = BOTH(sfi_cuda_xent_stats, NULL, xent_fits, 0),
    [SF_CALL_XENT_PART] = BOTH(sfi_cuda_xent_part, sfi_xent_work, xent_fits, SF_CALL_ACC2_FLAG),
    [SF_CALL_XENT_PADDED] = BOTH(sfi_cuda_xent, sfi_xent_work, xent_fits, SF_CALL_ACC2_FLAG),
    [SF_CALL_ADAMW] = {[SF_F32] = {sfi_cuda_adamw, NULL, NULL, 0, ARCH_ALL},
                       [SF_BF16] = {sfi_cuda_adamw, NULL, NULL, SF_CALL_LEAN_FLAG, ARCH_ALL}},
    [SF_CALL_SUMSQ] = BOTH(sfi_cuda_sumsq, sfi_sumsq_work, NULL, SF_CALL_ACC_FLAG),
    [SF_CALL_CLIP] = BOTH(sfi_cuda_clip, NULL, NULL, 0),
    [SF_CALL_CAST_DOWN] = BOTH(sfi_cuda_cast_down, NULL, NULL, 0),
    [SF_CALL_CAST_UP] = BOTH(sfi_cuda_cast_up, NULL, NULL, 0),
};

static bool dims_ok(const struct sf_call *call) {
    bool attention = call->kind == SF_CALL_ATTN_FWD || call->kind == SF_CALL_ATTN_BWD;
    return sf_call_dims_ok(call) && (!attention || call->imm[1] >= 1.0f); /* a part of the keys: no kernel yet */
}

static unsigned arch_bit(int arch) {
    return arch == 90 ? ARCH_90 : arch == 100 ? ARCH_100 : arch == 103 ? ARCH_103 : 0;
}

static const struct row *row_of(const struct sf_call *call) {
    if (call->kind >= SF_CALL_KINDS || call->dtype >= SF_DTYPES_N) {
        return NULL;
    }
    const struct row *row = &table[call->kind][call->dtype];
    unsigned flags = row->flags | SF_CALL_RECOMPUTE_FLAG;
    bool fits =
        row->kern != NULL && (call->flags & ~flags) == 0 && dims_ok(call) && (row->fits == NULL || row->fits(call));
    return fits ? row : NULL;
}

sf_kern_cuda sf_kern_cuda_find(const struct sf_call *call, int arch) {
    const struct row *row = row_of(call);
    return row != NULL && (row->archs & arch_bit(arch)) != 0 ? row->kern : NULL;
}

size_t sf_cuda_work_bytes(const struct sf_call *call, bool deterministic) {
    const struct row *row = row_of(call);
    size_t bytes = row != NULL && row->work != NULL ? row->work(call) : 0;
    bool attention = call->kind == SF_CALL_ATTN_FWD || call->kind == SF_CALL_ATTN_BWD;
    if (deterministic && attention && bytes > 0) {
        bytes = deterministic_work(call);
    }
    return (bytes + 255) / 256 * 256;
}

int sfi_cuda_need(const struct sf_cuda *ctx, const struct sf_call *call, struct sf_err *err) {
    size_t bytes = sf_cuda_work_bytes(call, false);
    if (ctx->work == NULL || bytes > ctx->work_bytes) {
        return sf_fail(err, SF_E_INTERNAL, "%s needs %zu bytes of work area, found %zu", sf_call_name(call->kind),
                       bytes, ctx->work == NULL ? (size_t)0 : ctx->work_bytes);
    }
    return 0;
}

void sf_cuda_set_work(struct sf_cuda *ctx, void *work, size_t bytes, struct sf_cuda_fault *fault) {
    ctx->work = work;
    ctx->work_bytes = bytes;
    ctx->fault = fault;
}
