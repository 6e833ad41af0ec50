/* Attention.
 *
 * Fused: the scores stay on the chip. Per score the matrix units do work in proportion to the head's width, the softmax
 * costs as much as softmax_dim columns more, and every row of queries costs as much as seq_prologue keys more:
 *   flops / (peak_share * peak) * (1 + softmax_dim / head_dim) * (1 + seq_prologue / keys)
 * with seq / 2 keys per query under the causal mask.
 *
 * Unfused, as frameworks did before 2022: batched products over the whole square of scores and, between them, kernels
 * that read and write it: softmax (2 passes) and dropout (2 and a mask of one byte) forward, the same backward. */
#include <math.h>

#include "sim/cost_internal.h"

static bool is_inside(const struct sf_measured_range *r, double v) {
    return v >= (double)r->lo && v <= (double)r->hi;
}

double sfi_attention_s(const struct sf_device_class *d, const struct sf_call *call, enum sf_grade *grade) {
    const struct sf_attn_model *a = call->kind == SF_CALL_ATTN_FWD ? &d->kernels.attn_fwd : &d->kernels.attn_bwd;
    double seq = (double)call->dims[1], dim = (double)call->dims[4], peak = d->flops_per_s[SF_BF16];
    double busy = sf_call_work(call).flops / (peak * a->peak_share);
    bool measured = is_inside(&a->seq, seq) && is_inside(&a->head_dim, dim);
    *grade = measured ? a->grade : SF_GRADE_EXTRAPOLATED;
    return busy * (1.0 + a->softmax_dim / dim) * (1.0 + a->seq_prologue / (seq / 2.0)) +
           sf_ps_to_s(d->kernels.memory_launch_ps);
}

/* Products with the head's width as k or n, one per head: Q K' and P V; backward two of each. */
static double products_s(const struct sf_device_class *d, const struct sf_call *call, enum sf_grade *grade) {
    double heads = (double)call->dims[0] * (double)call->dims[2], seq = (double)call->dims[1];
    double dim = (double)call->dims[4], bytes = 2.0 * heads * (2.0 * seq * dim + seq * seq);
    const struct sfi_gemm scores = {SF_BF16, seq, seq, dim, heads, bytes},
                          values = {SF_BF16, seq, dim, seq, heads, bytes};
    double pair = sfi_gemm_s(d, &scores, grade) + sfi_gemm_s(d, &values, grade);
    return call->kind == SF_CALL_ATTN_FWD ? pair : 2.0 * pair;
}

double sfi_attention_unfused_s(const struct sf_device_class *d, const struct sf_call *call, enum sf_grade *grade) {
    double seq = (double)call->dims[1];
    double scores = (double)call->dims[0] * (double)call->dims[2] * seq * seq;
    double rate = (double)d->memory_bytes_per_s * d->kernels.memory_share;
    double softmax = 4.0 * scores, dropout = 5.0 * scores;
    double between = (softmax + dropout) / rate + 2.0 * sf_ps_to_s(d->kernels.memory_launch_ps);
    double t = products_s(d, call, grade) + (call->kind == SF_CALL_ATTN_FWD ? between : between + 2.0 * scores / rate);
    *grade = SF_GRADE_EXTRAPOLATED;
    return t;
}
