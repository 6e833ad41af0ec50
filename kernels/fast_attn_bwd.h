/* Backward of fast_attn.h: probabilities again from the log-sum-exp, five products per pair of tiles. Gradients of keys
 * and values add up over query tiles and over the heads of a group in `work`, dense and in a fixed order. */
#ifndef SF_KERNELS_FAST_ATTN_BWD_H
#define SF_KERNELS_FAST_ATTN_BWD_H

#include "kernels/fast_attn.h"

struct bwd_tile {
    float q[QT * HD], d_o[QT * HD];   /* rows of this tile; q is scaled */
    float qt[HD * QT], d_ot[HD * QT]; /* transposed; d_ot later holds dq's rows */
    float dqt[HD * QT];
    float k[KT * HD], v[KT * HD];
    float p[KT * QT], ds[KT * QT];
    vf lse[QV], dot[QV]; /* dot: sum over the head of do * o */
} __attribute__((aligned(64)));

/* What one head reads and writes; pointers at the head's first row. */
struct bwd_head {
    const float *q, *k, *v, *o, *lse, *d_o;
    float *dq;
    float *dk, *dv; /* in work: [seq rounded up to LANES][width] */
};

/* p = exp(s - lse) where visible; ds = p * (dp - dot), written over dp. */
FN void bwd_scores(struct bwd_tile *t, const struct segment *seg, size_t v) {
    bool masked = seg->diagonal && v == seg->first;
    for (size_t j = 0; j < seg->keys_n; j++) {
        size_t at = j * QT + v * LANES;
        vf p = vexp(load(t->p + at) - t->lse[v]);
        if (masked) {
            p = keep(visible(j), p);
        }
        store(t->p + at, p);
        store(t->ds + at, p * (load(t->ds + at) - t->dot[v]));
    }
}

/* c[key][head_dim] += sum over queries of a[key][query] * b[query][head_dim]. */
FN void bwd_keys(const struct attn *at, const struct segment *seg, size_t vectors, const float *a, const float *b,
                 float *c) {
    size_t skip = seg->first * LANES;
    mul_add(&(struct mul){.a = a + skip,
                          .a_row = QT,
                          .a_k = 1,
                          .b = b + skip * at->width,
                          .b_row = at->width,
                          .c = c + seg->key * at->width,
                          .c_row = at->width,
                          .rows = seg->keys_n,
                          .k_n = vectors * LANES - skip},
            at->width / LANES);
}

FN void bwd_segment(const struct attn *at, const struct bwd_head *head, struct bwd_tile *t, const struct segment *seg,
                    size_t vectors) {
    size_t nv = vectors - seg->first, skip = seg->first * LANES, w = at->width;
    struct mul m = {.a = t->k,
                    .a_row = w,
                    .a_k = 1,
                    .b = t->qt + skip,
                    .b_row = QT,
                    .c = t->p + skip,
                    .c_row = QT,
                    .rows = seg->keys_n,
                    .k_n = at->head_dim};
    mul_set(&m, nv);
    m.a = t->v;
    m.b = t->d_ot + skip;
    m.c = t->ds + skip;
    mul_set(&m, nv);
    for (size_t v = seg->first; v < vectors; v++) {
        bwd_scores(t, seg, v);
    }
    mul_add(&(struct mul){.a = t->k,
                          .a_row = 1,
                          .a_k = w,
                          .b = t->ds + skip,
                          .b_row = QT,
                          .c = t->dqt + skip,
                          .c_row = QT,
                          .rows = w,
                          .k_n = seg->keys_n},
            nv);
    bwd_keys(at, seg, vectors, t->p, t->d_o, head->dv);
    bwd_keys(at, seg, vectors, t->ds, t->q, head->dk);
}

/* Loads a tile's queries, output gradients and the statistics per query. */
FN void bwd_load(const struct attn *at, const struct bwd_head *head, size_t query, size_t rows, struct bwd_tile *t) {
    size_t padded = tile_vectors(rows) * LANES, o_stride = at->heads * at->head_dim;
    float lse[QT] = {0}, dot[QT] = {0};
    pack_queries(at, head->q, at->row_stride, query, padded, t->q);
    pack_queries(at, head->d_o, o_stride, query, padded, t->d_o);
    for (size_t i = 0; i < padded * at->width; i += LANES) {
        store(t->q + i, load(t->q + i) * splat(at->scale));
    }
    for (size_t r = 0; r < rows; r++) {
        const float *o = head->o + (query + r) * o_stride;
        vf sum = splat(0);
        for (size_t c = 0; c < at->head_dim; c += LANES) {
            sum += load_n(o + c, at->head_dim - c) * load(t->d_o + r * at->width + c);
        }
        dot[r] = sum_lanes(sum);
        lse[r] = head->lse[query + r];
    }
    memcpy(t->lse, lse, sizeof(lse));
    memcpy(t->dot, dot, sizeof(dot));
    transpose(t->q, at->width, padded, at->width, t->qt, QT);
    transpose(t->d_o, at->width, padded, at->width, t->d_ot, QT);
    memset(t->dqt, 0, at->width * QT * sizeof(float));
}

FN void bwd_queries(const struct attn *at, const struct bwd_head *head, size_t query, struct bwd_tile *t) {
    size_t rows = at->seq - query < QT ? at->seq - query : QT;
    size_t vectors = tile_vectors(rows);
    bwd_load(at, head, query, rows, t);
    struct segment seg;
    for (size_t key = 0; segment_at(at, query, key, &seg); key += seg.keys_n) {
        pack_keys(at, head->k, &seg, t->k);
        pack_keys(at, head->v, &seg, t->v);
        bwd_segment(at, head, t, &seg, vectors);
    }
    for (size_t i = 0; i < at->width * QT; i += LANES) {
        store(t->dqt + i, load(t->dqt + i) * splat(at->scale));
    }
    transpose(t->dqt, QT, at->width, vectors * LANES, t->d_ot, at->width);
    for (size_t r = 0; r < rows; r++) {
        memcpy(head->dq + (query + r) * at->row_stride, t->d_ot + r * at->width, at->head_dim * sizeof(float));
    }
}

/* Key and value gradients of a group in work: [keys rounded up to LANES][width] each. */
FN size_t part_of(const struct attn *at) {
    return (at->keys + LANES - 1) / LANES * LANES * at->width;
}

/* All query heads of one group, of which `first` is the first; its dk is work. */
FN void bwd_group(const struct attn *at, const struct bwd_head *first, struct bwd_tile *t) {
    struct bwd_head head = *first;
    memset(head.dk, 0, 2 * part_of(at) * sizeof(float));
    head.dv = head.dk + part_of(at);
    for (size_t g = 0; g < at->heads / at->kv_heads; g++) {
        for (size_t i = 0; i < at->seq; i += QT) {
            bwd_queries(at, &head, i, t);
        }
        head.q += at->head_dim;
        head.dq += at->head_dim;
        head.o += at->head_dim;
        head.d_o += at->head_dim;
        head.lse += at->seq;
    }
}

FN void whole_group(const struct attn *at, void *const operand[SF_CALL_OPERANDS], size_t b, size_t kv,
                    struct bwd_tile *t) {
    size_t row = b * at->seq * at->row_stride, kv_at = row + kv * at->head_dim, h = kv * (at->heads / at->kv_heads);
    size_t o_at = (b * at->seq * at->heads + h) * at->head_dim;
    const struct bwd_head head = {
        .q = (const float *)operand[0] + row + h * at->head_dim,
        .k = (const float *)operand[1] + kv_at,
        .v = (const float *)operand[2] + kv_at,
        .o = (const float *)operand[3] + o_at,
        .lse = (const float *)operand[4] + (b * at->heads + h) * at->seq,
        .d_o = (const float *)operand[5] + o_at,
        .dq = (float *)operand[6] + row + h * at->head_dim,
        .dk = operand[9],
    };
    bwd_group(at, &head, t);
    for (size_t r = 0; r < at->seq; r++) {
        size_t to = kv_at + r * at->row_stride, bytes = at->head_dim * sizeof(float);
        memcpy((float *)operand[7] + to, head.dk + r * at->width, bytes);
        memcpy((float *)operand[8] + to, head.dk + part_of(at) + r * at->width, bytes);
    }
}

/* y = x, + r where there is one. */
FN void put_row(const float *x, const float *r, size_t n, float *y) {
    for (size_t c = 0; c < n; c++) {
        y[c] = x[c] + (r ? r[c] : 0.0f);
    }
}

/* Keys of earlier slices go on collecting in `sum`; the own ones are complete. sum, d_own: of the first key. */
FN void slice_rows(const struct attn *at, const float *made, bool add, float *sum, float *d_own) {
    for (size_t r = 0; r < at->keys; r++) {
        float *kept = sum + r * at->kv_stride;
        float *to = r < at->before ? kept : d_own + (r - at->before) * at->row_stride;
        put_row(made + r * at->width, add ? kept : NULL, at->head_dim, to);
    }
}

FN void slice_group(const struct sf_call *call, const struct attn *at, void *const operand[SF_CALL_OPERANDS], size_t kv,
                    struct bwd_tile *t) {
    size_t h = kv * (at->heads / at->kv_heads) * at->head_dim, values = at->kv_stride / 2, kv_at = kv * at->head_dim;
    bool add = (call->flags & SF_CALL_ACC_FLAG) != 0;
    const struct bwd_head head = {
        .q = (const float *)operand[0] + h,
        .k = (const float *)operand[1] + kv_at,
        .v = (const float *)operand[1] + values + kv_at,
        .o = (const float *)operand[2] + h,
        .lse = (const float *)operand[3] + h / at->head_dim * at->seq,
        .d_o = (const float *)operand[4] + h,
        .dq = (float *)operand[5] + h,
        .dk = operand[7],
    };
    float *sum = (float *)operand[6] + kv_at, *own = (float *)operand[5] + at->heads * at->head_dim + kv_at;
    bwd_group(at, &head, t);
    slice_rows(at, head.dk, add, sum, own);
    slice_rows(at, head.dk + part_of(at), add, sum + values, own + values);
}

FN int attn_slice_bwd(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    (void)err;
    const struct attn at = slice_of(call);
    struct bwd_tile tile;
    for (size_t kv = 0; kv < at.kv_heads; kv++) {
        slice_group(call, &at, operand, kv, &tile);
    }
    return 0;
}

FN int attn_bwd(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    (void)err;
    const struct attn at = attn_of(call);
    struct bwd_tile tile;
    for (size_t b = 0; b < at.batch; b++) {
        for (size_t kv = 0; kv < at.kv_heads; kv++) {
            whole_group(&at, operand, b, kv, &tile);
        }
    }
    return 0;
}

#endif
