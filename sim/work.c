/* Work of one kernel call: arithmetic that has to happen and bytes that have to cross the memory bus. */
#include "sim/cost.h"

/* Arithmetic per element of the cheap kernels. An exponential counts as one operation; memory traffic decides their
 * time, so these only need the right size. */
enum {
    RMS_FWD = 4,
    RMS_BWD = 8,
    LAYER_FWD = 7,
    LAYER_BWD = 11,
    ROPE = 3,
    SILU = 5,
    GELU = 10,
    XENT = 5,
    XENT_STATS = 3,
    ADAMW = 12
};

/* Bytes per parameter of one Adam update. f32: read weight, gradient and both moments, write all but the gradient.
 * bf16 and fp8 come to the same: gradient 2, f32 master 8, f32 moments 16, bf16 weight 2. */
enum { ADAMW_BYTES = 28, ADAMW_LEAN_BYTES = 20 /* moments in bf16 */ };

static double dim(const struct sf_call *call, int i) {
    return (double)call->dims[i];
}

static double flag(const struct sf_call *call, unsigned bit) {
    return call->flags & bit ? 1.0 : 0.0;
}

static struct sf_work gemm(const struct sf_call *call, double e) {
    double m = dim(call, 0), n = dim(call, 1), k = dim(call, 2), groups = dim(call, 3);
    double c = m * n * (1.0 + flag(call, SF_CALL_ACC_FLAG));
    return (struct sf_work){2.0 * m * n * k * groups, e * groups * (m * k + k * n + c)};
}

static struct sf_work norm(const struct sf_call *call, double e, bool backward) {
    double rows = dim(call, 0), cols = dim(call, 1), n = rows * cols;
    if (!backward) {
        return (struct sf_work){RMS_FWD * n, e * (2.0 * n + cols) + 4.0 * rows};
    }
    double dx = n * (1.0 + flag(call, SF_CALL_ACC_FLAG)), dw = cols * (1.0 + flag(call, SF_CALL_ACC2_FLAG));
    return (struct sf_work){RMS_BWD * n, e * (2.0 * n + cols + dx + dw) + 4.0 * rows};
}

/* Two statistics and a bias more than RMS norm; adding the residual in the same pass reads and writes it once. */
static struct sf_work wide_norm(const struct sf_call *call, double e) {
    double rows = dim(call, 0), cols = dim(call, 1), n = rows * cols;
    bool layer = call->kind != SF_CALL_RMSNORM_ADD_FWD, adds = layer ? call->kind == SF_CALL_LAYERNORM_ADD_FWD : true;
    double statistics = layer ? 8.0 * rows : 4.0 * rows, weights = layer ? 2.0 * cols : cols;
    if (call->kind == SF_CALL_LAYERNORM_BWD) {
        double dx = n * (1.0 + flag(call, SF_CALL_ACC_FLAG)), dw = weights * (1.0 + flag(call, SF_CALL_ACC2_FLAG));
        return (struct sf_work){LAYER_BWD * n, e * (2.0 * n + cols + dx + dw) + statistics};
    }
    double flops = (layer ? LAYER_FWD : RMS_FWD) + (adds ? 1.0 : 0.0);
    return (struct sf_work){flops * n, e * ((adds ? 4.0 : 2.0) * n + weights) + statistics};
}

static struct sf_work bias(const struct sf_call *call, double e) {
    double cols = dim(call, 1), n = dim(call, 0) * cols;
    if (call->kind == SF_CALL_BIAS_BWD) {
        return (struct sf_work){n, e * (n + cols * (1.0 + flag(call, SF_CALL_ACC_FLAG)))};
    }
    double adds = call->operand[2] == SF_REF_NONE ? 1.0 : 2.0;
    return (struct sf_work){adds * n, e * ((1.0 + adds) * n + cols)};
}

/* The causal mask leaves half of the score matrix; the backward pass does five matrix products for the forward's two.
 */
static struct sf_work attention(const struct sf_call *call, double e, bool backward) {
    double tokens = dim(call, 0) * dim(call, 1), seq = dim(call, 1), d = dim(call, 4);
    double q = tokens * dim(call, 2) * d, kv = tokens * dim(call, 3) * d, lse = 4.0 * tokens * dim(call, 2);
    if (call->flags & SF_CALL_APART_FLAG) {
        double v = tokens * dim(call, 2) * dim(call, 3), moved = 2.0 * e * (q + v);
        double scores = q * seq, sums = v * seq; /* backward: three products as wide as keys, two as values */
        return backward ? (struct sf_work){3.0 * scores + 2.0 * sums, 2.0 * moved + lse}
                        : (struct sf_work){scores + sums, moved + lse};
    }
    double forward = 2.0 * q * seq;
    return backward ? (struct sf_work){2.5 * forward, e * (4.0 * q + 4.0 * kv) + lse}
                    : (struct sf_work){forward, e * (2.0 * q + 2.0 * kv) + lse};
}

/* Every query sees all keys before the slice and, on average, half of the slice's own. The sums that later slices left
 * are read and written in f32. */
static struct sf_work attention_slice(const struct sf_call *call, double e, bool backward) {
    double keys = dim(call, 0), rows = dim(call, 1), d = dim(call, 4), lse = 4.0 * rows * dim(call, 2);
    double q = rows * dim(call, 2) * d, own = 2.0 * rows * dim(call, 3) * d, all = 2.0 * keys * dim(call, 3) * d;
    double forward = 4.0 * q * (keys - rows / 2.0);
    if (!backward) {
        return (struct sf_work){forward, e * (2.0 * q + 2.0 * own + all) + lse};
    }
    double sums = 4.0 * (all - own) + flag(call, SF_CALL_ACC_FLAG) * 4.0 * all;
    return (struct sf_work){2.5 * forward, e * (4.0 * q + all + own) + sums + lse};
}

static struct sf_work glu(const struct sf_call *call, double e, bool backward) {
    double n = dim(call, 0) * dim(call, 1), act = call->flags & SF_CALL_GELU_FLAG ? GELU : SILU;
    if (call->flags & SF_CALL_PLAIN_FLAG) {
        return backward ? (struct sf_work){2.0 * act * n, e * 3.0 * n} : (struct sf_work){act * n, e * 2.0 * n};
    }
    return backward ? (struct sf_work){(2.0 * act + 2.0) * n, e * 5.0 * n} : (struct sf_work){act * n, e * 3.0 * n};
}

static struct sf_work moe(const struct sf_call *call, double e) {
    double rows = dim(call, 0), width = dim(call, 1), picks = rows * dim(call, 2);
    switch (call->kind) {
    case SF_CALL_MOE_ROUTE_FWD:
        return (struct sf_work){rows * width * (dim(call, 2) + 4.0), e * rows * width + 8.0 * picks};
    case SF_CALL_MOE_ROUTE_BWD:
        return (struct sf_work){4.0 * rows * width, 2.0 * e * rows * width + 8.0 * picks};
    case SF_CALL_MOE_PERMUTE:
        return (struct sf_work){0.0, e * (rows + picks) * width + 4.0 * picks};
    default:
        return (struct sf_work){2.0 * picks * width, e * (rows + picks) * width + 8.0 * picks};
    }
}

static struct sf_work small(const struct sf_call *call, double e) {
    double a = dim(call, 0), b = dim(call, 1);
    switch (call->kind) {
    case SF_CALL_ROPE_FWD:
    case SF_CALL_ROPE_BWD:
        return (struct sf_work){ROPE * a * b * dim(call, 2), 2.0 * e * a * b * dim(call, 2)};
    case SF_CALL_ADD:
        return (struct sf_work){a, 3.0 * e * a};
    case SF_CALL_COPY:
        return (struct sf_work){0.0, 2.0 * e * a};
    case SF_CALL_ZERO:
        return (struct sf_work){0.0, e * a};
    case SF_CALL_EMBED_FWD:
        return (struct sf_work){0.0, 2.0 * e * a * b + 4.0 * a};
    case SF_CALL_EMBED_BWD:
        return (struct sf_work){a * b, 3.0 * e * a * b + 4.0 * a};
    case SF_CALL_XENT:
    case SF_CALL_XENT_PADDED:
        return (struct sf_work){XENT * a * b, 2.0 * e * a * b + 4.0 * a + 4.0};
    case SF_CALL_XENT_STATS:
        return (struct sf_work){XENT_STATS * a * b, e * a * b + 12.0 * a};
    case SF_CALL_XENT_PART:
        return (struct sf_work){(XENT - XENT_STATS) * a * b, 2.0 * e * a * b + 4.0 * a * (1.0 + 2.0 * dim(call, 2))};
    case SF_CALL_ADAMW:
        return (struct sf_work){ADAMW * a, (call->flags & SF_CALL_LEAN_FLAG ? ADAMW_LEAN_BYTES : ADAMW_BYTES) * a};
    case SF_CALL_SUMSQ:
        return (struct sf_work){2.0 * a, e * a + 4.0};
    case SF_CALL_CLIP:
        return (struct sf_work){a, 4.0 * a + 12.0};
    case SF_CALL_CAST_DOWN:
    case SF_CALL_CAST_UP:
        return (struct sf_work){0.0, (4.0 + e) * a};
    case SF_CALL_ALL_REDUCE:
    case SF_CALL_ALL_TO_ALL:
        return (struct sf_work){0.0, 2.0 * a};
    default: /* all_gather, reduce_scatter: the other side is a share of it */
        return (struct sf_work){0.0, a};
    }
}

static struct sf_work full_work(const struct sf_call *call) {
    double e = sf_dtype_bytes(call->dtype);
    switch (call->kind) {
    case SF_CALL_GEMM:
        return gemm(call, e);
    case SF_CALL_RMSNORM_FWD:
    case SF_CALL_RMSNORM_BWD:
        return norm(call, e, call->kind == SF_CALL_RMSNORM_BWD);
    case SF_CALL_LAYERNORM_FWD:
    case SF_CALL_LAYERNORM_BWD:
    case SF_CALL_RMSNORM_ADD_FWD:
    case SF_CALL_LAYERNORM_ADD_FWD:
        return wide_norm(call, e);
    case SF_CALL_BIAS_FWD:
    case SF_CALL_BIAS_BWD:
        return bias(call, e);
    case SF_CALL_ATTN_FWD:
    case SF_CALL_ATTN_BWD:
        return attention(call, e, call->kind == SF_CALL_ATTN_BWD);
    case SF_CALL_ATTN_SLICE_FWD:
    case SF_CALL_ATTN_SLICE_BWD:
        return attention_slice(call, e, call->kind == SF_CALL_ATTN_SLICE_BWD);
    case SF_CALL_GLU_FWD:
    case SF_CALL_GLU_BWD:
        return glu(call, e, call->kind == SF_CALL_GLU_BWD);
    case SF_CALL_MOE_ROUTE_FWD:
    case SF_CALL_MOE_ROUTE_BWD:
    case SF_CALL_MOE_PERMUTE:
    case SF_CALL_MOE_UNPERMUTE:
        return moe(call, e);
    default:
        return small(call, e);
    }
}

double sfi_call_fill(const struct sf_call *call) {
    return call->imm[1] > 0.0f && call->imm[1] < 1.0f ? (double)call->imm[1] : 1.0;
}

struct sf_work sf_call_work(const struct sf_call *call) {
    struct sf_work w = full_work(call);
    double fill = sfi_call_fill(call);
    w.flops *= fill;
    w.bytes *= fill;
    return w;
}
