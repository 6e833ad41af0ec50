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

static bool is_slice(const struct sf_call *call) {
    return call->kind == SF_CALL_ATTN_SLICE_FWD || call->kind == SF_CALL_ATTN_SLICE_BWD;
}

/* Queries of a sequence, the keys there are for them, and how many of these a query sees on average. */
static double queries(const struct sf_call *call) {
    return (double)call->dims[1];
}

static double keys_of(const struct sf_call *call) {
    return (double)call->dims[is_slice(call) ? 0 : 1];
}

static double seen(const struct sf_call *call) {
    return keys_of(call) - queries(call) / 2.0;
}

static double batch_of(const struct sf_call *call) {
    return is_slice(call) ? 1.0 : (double)call->dims[0];
}

/* Of queries and keys, and of values. */
static double key_width(const struct sf_call *call) {
    return (double)call->dims[4];
}

static double value_width(const struct sf_call *call) {
    return (double)(call->flags & SF_CALL_APART_FLAG ? call->dims[3] : call->dims[4]);
}

double sfi_attention_s(const struct sf_device_class *d, const struct sf_call *call, enum sf_grade *grade) {
    const struct sf_attn_model *a = sf_call_is_attention_fwd(call->kind) ? &d->kernels.attn_fwd : &d->kernels.attn_bwd;
    double dim = (key_width(call) + value_width(call)) / 2.0;
    double peak = d->flops_per_s[SF_BF16];
    double busy = sf_call_work(call).flops / (peak * a->peak_share);
    bool measured = is_inside(&a->seq, keys_of(call)) && !is_slice(call) && is_inside(&a->head_dim, dim);
    *grade = measured ? a->grade : SF_GRADE_EXTRAPOLATED;
    return busy * (1.0 + a->softmax_dim / dim) * (1.0 + a->seq_prologue / seen(call)) +
           sf_ps_to_s(d->kernels.memory_launch_ps);
}

/* Products with the head's width as k or n, one per head: Q K' and P V; backward two of each. */
static double products_s(const struct sf_device_class *d, const struct sf_call *call, enum sf_grade *grade) {
    double heads = batch_of(call) * (double)call->dims[2], rows = queries(call), all = keys_of(call);
    double keys = key_width(call), value = value_width(call), square = 2.0 * heads * rows * all;
    double ends = 2.0 * heads * (rows + all);
    const struct sfi_gemm scores = {SF_BF16, rows, all, keys, heads, square + ends * keys},
                          values = {SF_BF16, rows, value, all, heads, square + ends * value};
    double pair = sfi_gemm_s(d, &scores, grade) + sfi_gemm_s(d, &values, grade);
    return sf_call_is_attention_fwd(call->kind) ? pair : 2.0 * pair;
}

double sfi_attention_unfused_s(const struct sf_device_class *d, const struct sf_call *call, enum sf_grade *grade) {
    double scores = batch_of(call) * (double)call->dims[2] * queries(call) * keys_of(call);
    double rate = (double)d->memory_bytes_per_s * d->kernels.memory_share;
    double softmax = 4.0 * scores, dropout = 5.0 * scores;
    double between = (softmax + dropout) / rate + 2.0 * sf_ps_to_s(d->kernels.memory_launch_ps);
    double t =
        products_s(d, call, grade) + (sf_call_is_attention_fwd(call->kind) ? between : between + 2.0 * scores / rate);
    *grade = SF_GRADE_EXTRAPOLATED;
    return t;
}
