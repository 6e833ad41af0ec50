/* Reference of causal attention, straight from the definition. Sums run in f64 over CHUNK columns at a time, so that
 * any head size needs no workspace; probabilities are computed anew wherever they are needed. Queries are the last
 * `seq` of `before + seq` positions; of whole sequences there is nothing before. */
#include <math.h>
#include <string.h>

#include "kernels/ref.h"

enum { CHUNK = 256 };

struct attn {
    size_t seq, before, head_dim, row_stride, kv_stride, o_stride, group;
    double scale;
    bool add; /* to sums that later slices left */
};

struct head {
    const float *q, *k, *v, *o, *lse, *d_o;
    float *dq, *dk, *dv;  /* of the own rows */
    float *sum_k, *sum_v; /* of all keys of a slice; else NULL */
};

static struct attn attn_of(const struct sf_call *call) {
    return (struct attn){
        .seq = (size_t)call->dims[1],
        .head_dim = (size_t)call->dims[4],
        .row_stride = (size_t)call->dims[5],
        .kv_stride = (size_t)call->dims[5],
        .o_stride = (size_t)(call->dims[2] * call->dims[4]),
        .group = (size_t)(call->dims[2] / call->dims[3]),
        .scale = 1 / sqrt((double)call->dims[4]),
    };
}

static double dot(const float *a, const float *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)a[i] * (double)b[i];
    }
    return sum;
}

static double score(const struct attn *at, const struct head *h, size_t i, size_t j) {
    return at->scale * dot(h->q + i * at->row_stride, h->k + j * at->kv_stride, at->head_dim);
}

static size_t chunk_at(const struct attn *at, size_t first) {
    return at->head_dim - first < CHUNK ? at->head_dim - first : CHUNK;
}

/* ln of the sum of e^score over the keys that query i sees. */
static double log_sum(const struct attn *at, const struct head *h, size_t i) {
    double max = -INFINITY, sum = 0;
    for (size_t j = 0; j <= at->before + i; j++) {
        double s = score(at, h, i, j);
        sum = s > max ? sum * exp(max - s) + 1 : sum + exp(s - max);
        max = s > max ? s : max;
    }
    return max + log(sum);
}

static void fwd_row(const struct attn *at, const struct head *h, size_t i, float *o, float *lse) {
    double total = log_sum(at, h, i);
    for (size_t first = 0; first < at->head_dim; first += CHUNK) {
        double sum[CHUNK] = {0};
        size_t n = chunk_at(at, first);
        for (size_t j = 0; j <= at->before + i; j++) {
            double p = exp(score(at, h, i, j) - total);
            for (size_t c = 0; c < n; c++) {
                sum[c] += p * (double)h->v[j * at->kv_stride + first + c];
            }
        }
        for (size_t c = 0; c < n; c++) {
            o[first + c] = (float)sum[c];
        }
    }
    *lse = (float)total;
}

static struct head head_of(const struct attn *at, void *const operand[SF_CALL_OPERANDS], size_t b, size_t head,
                           bool backward) {
    size_t row = b * at->seq * at->row_stride, heads = at->o_stride / at->head_dim;
    size_t q = row + head * at->head_dim, kv = row + head / at->group * at->head_dim;
    size_t o = (b * at->seq * heads + head) * at->head_dim;
    struct head h = {
        .q = (const float *)operand[0] + q, .k = (const float *)operand[1] + kv, .v = (const float *)operand[2] + kv};
    if (backward) {
        h.o = (const float *)operand[3] + o;
        h.lse = (const float *)operand[4] + (b * heads + head) * at->seq;
        h.d_o = (const float *)operand[5] + o;
        h.dq = (float *)operand[6] + q;
        h.dk = (float *)operand[7] + kv;
        h.dv = (float *)operand[8] + kv;
    }
    return h;
}

SFI_REF(attn_fwd) {
    (void)err;
    const struct attn at = attn_of(call);
    size_t heads = (size_t)call->dims[2];
    for (size_t bh = 0; bh < (size_t)call->dims[0] * heads; bh++) {
        struct head h = head_of(&at, operand, bh / heads, bh % heads, false);
        float *o = (float *)operand[3] + (bh / heads * at.seq * heads + bh % heads) * at.head_dim;
        for (size_t i = 0; i < at.seq; i++) {
            fwd_row(&at, &h, i, o + i * at.o_stride, (float *)operand[4] + bh * at.seq + i);
        }
    }
    return 0;
}

static double probability(const struct attn *at, const struct head *h, size_t i, size_t j) {
    return exp(score(at, h, i, j) - (double)h->lse[i]);
}

/* d(loss)/d(score before scaling), times the scale. */
static double score_gradient(const struct attn *at, const struct head *h, size_t i, size_t j) {
    const float *d_o = h->d_o + i * at->o_stride;
    double dp = dot(d_o, h->v + j * at->kv_stride, at->head_dim);
    double mean = dot(d_o, h->o + i * at->o_stride, at->head_dim);
    return at->scale * probability(at, h, i, j) * (dp - mean);
}

static void dq_row(const struct attn *at, const struct head *h, size_t i) {
    for (size_t first = 0; first < at->head_dim; first += CHUNK) {
        double sum[CHUNK] = {0};
        size_t n = chunk_at(at, first);
        for (size_t j = 0; j <= at->before + i; j++) {
            double ds = score_gradient(at, h, i, j);
            for (size_t c = 0; c < n; c++) {
                sum[c] += ds * (double)h->k[j * at->kv_stride + first + c];
            }
        }
        for (size_t c = 0; c < n; c++) {
            h->dq[i * at->row_stride + first + c] = (float)sum[c];
        }
    }
}

/* Keys of earlier slices go on collecting; the own ones are complete. */
static void store_kv(const struct attn *at, const struct head *h, size_t j, size_t c, double dk, double dv) {
    size_t kept = j * at->kv_stride + c;
    double k = h->sum_k && at->add ? dk + (double)h->sum_k[kept] : dk;
    double v = h->sum_v && at->add ? dv + (double)h->sum_v[kept] : dv;
    float *to_k = j < at->before ? h->sum_k + kept : h->dk + (j - at->before) * at->row_stride + c;
    float *to_v = j < at->before ? h->sum_v + kept : h->dv + (j - at->before) * at->row_stride + c;
    *to_k = (float)k;
    *to_v = (float)v;
}

/* Columns from `first` on of row j; first_head is the first of the `group` query heads that share this key head. */
static void dkv_row(const struct attn *at, const struct head *first_head, size_t j, size_t first) {
    double dk[CHUNK] = {0}, dv[CHUNK] = {0};
    size_t n = chunk_at(at, first);
    for (size_t g = 0; g < at->group; g++) {
        struct head h = *first_head;
        h.q += g * at->head_dim;
        h.o += g * at->head_dim;
        h.d_o += g * at->head_dim;
        h.lse += g * at->seq;
        for (size_t i = j > at->before ? j - at->before : 0; i < at->seq; i++) {
            double p = probability(at, &h, i, j), ds = score_gradient(at, &h, i, j);
            for (size_t c = 0; c < n; c++) {
                dk[c] += ds * (double)h.q[i * at->row_stride + first + c];
                dv[c] += p * (double)h.d_o[i * at->o_stride + first + c];
            }
        }
    }
    for (size_t c = 0; c < n; c++) {
        store_kv(at, first_head, j, first + c, dk[c], dv[c]);
    }
}

SFI_REF(attn_bwd) {
    (void)err;
    const struct attn at = attn_of(call);
    size_t heads = (size_t)call->dims[2];
    for (size_t bh = 0; bh < (size_t)call->dims[0] * heads; bh++) {
        struct head h = head_of(&at, operand, bh / heads, bh % heads, true);
        for (size_t i = 0; i < at.seq; i++) {
            dq_row(&at, &h, i);
            for (size_t c = 0; bh % at.group == 0 && c < at.head_dim; c += CHUNK) {
                dkv_row(&at, &h, i, c);
            }
        }
    }
    return 0;
}

/* ---- slices ------------------------------------------------------------------------------------------------------ */

static struct attn slice_of(const struct sf_call *call) {
    return (struct attn){
        .seq = (size_t)call->dims[1],
        .before = (size_t)(call->dims[0] - call->dims[1]),
        .head_dim = (size_t)call->dims[4],
        .row_stride = (size_t)((call->dims[2] + 2 * call->dims[3]) * call->dims[4]),
        .kv_stride = (size_t)(2 * call->dims[3] * call->dims[4]),
        .o_stride = (size_t)(call->dims[2] * call->dims[4]),
        .group = (size_t)(call->dims[2] / call->dims[3]),
        .scale = 1 / sqrt((double)call->dims[4]),
        .add = (call->flags & SF_CALL_ACC_FLAG) != 0,
    };
}

static struct head slice_head(const struct attn *at, void *const operand[SF_CALL_OPERANDS], size_t head) {
    size_t kv = head / at->group * at->head_dim;
    const float *keys = (const float *)operand[1] + kv;
    return (struct head){
        .q = (const float *)operand[0] + head * at->head_dim, .k = keys, .v = keys + at->kv_stride / 2};
}

void sfi_slice_append(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS]) {
    const struct attn at = slice_of(call);
    const float *qkv = operand[0];
    float *kv = (float *)operand[1] + at.before * at.kv_stride;
    for (size_t i = 0; i < at.seq; i++) {
        memcpy(kv + i * at.kv_stride, qkv + i * at.row_stride + at.o_stride, at.kv_stride * sizeof(float));
    }
}

SFI_REF(attn_slice_fwd) {
    (void)err;
    const struct attn at = slice_of(call);
    sfi_slice_append(call, operand);
    for (size_t n = 0; n < (size_t)call->dims[2]; n++) {
        struct head h = slice_head(&at, operand, n);
        float *o = (float *)operand[2] + n * at.head_dim, *lse = (float *)operand[3] + n * at.seq;
        for (size_t i = 0; i < at.seq; i++) {
            fwd_row(&at, &h, i, o + i * at.o_stride, lse + i);
        }
    }
    return 0;
}

SFI_REF(attn_slice_bwd) {
    (void)err;
    const struct attn at = slice_of(call);
    for (size_t n = 0; n < (size_t)call->dims[2]; n++) {
        struct head h = slice_head(&at, operand, n);
        size_t kv = n / at.group * at.head_dim;
        h.o = (const float *)operand[2] + n * at.head_dim;
        h.lse = (const float *)operand[3] + n * at.seq;
        h.d_o = (const float *)operand[4] + n * at.head_dim;
        h.dq = (float *)operand[5] + n * at.head_dim;
        h.dk = (float *)operand[5] + at.o_stride + kv;
        h.dv = h.dk + at.kv_stride / 2;
        h.sum_k = (float *)operand[6] + kv;
        h.sum_v = h.sum_k + at.kv_stride / 2;
        for (size_t i = 0; i < at.seq; i++) {
            dq_row(&at, &h, i);
        }
        for (size_t j = 0; n % at.group == 0 && j < at.before + at.seq; j++) {
            for (size_t c = 0; c < at.head_dim; c += CHUNK) {
                dkv_row(&at, &h, j, c);
            }
        }
    }
    return 0;
}
