/* Causal attention in tiles that stay in cache, probabilities never stored whole.
 *
 * Queries lie along the lanes: a tile of QT queries is transposed once, then scores S^T[key][query] = K Q^T need only
 * broadcasts of K, the running maximum and sum need no horizontal step, and O^T += V^T P^T has the same form. The
 * backward pass recomputes P from the saved log-sum-exp. Along the diagonal keys come in segments of LANES, and the
 * vectors of queries before the segment are left out, so nearly all arithmetic is on visible pairs. */
#ifndef SF_KERNELS_FAST_ATTN_H
#define SF_KERNELS_FAST_ATTN_H

#include "kernels/fast_attn_tile.h"
#include "kernels/ref.h"

struct attn {
    size_t batch, seq, heads, kv_heads, head_dim, row_stride;
    size_t before, keys, kv_stride; /* queries are the last `seq` of `keys` positions: before + seq */
    size_t width;                   /* head_dim rounded up to whole vectors */
    float scale;
};

/* Keys [key, key + keys_n) as seen by a tile of queries: all vectors from `first` on see them. `diagonal`: in vector
 * `first`, lane i sees key j only for j <= i. */
struct segment {
    size_t key, keys_n; /* keys_n is a multiple of MR and may reach past the sequence (zeros) */
    size_t first;
    bool diagonal;
};

FN struct attn attn_of(const struct sf_call *call) {
    struct attn at = {
        .batch = (size_t)call->dims[0],
        .seq = (size_t)call->dims[1],
        .heads = (size_t)call->dims[2],
        .kv_heads = (size_t)call->dims[3],
        .head_dim = (size_t)call->dims[4],
        .row_stride = (size_t)call->dims[5],
        .keys = (size_t)call->dims[1],
        .kv_stride = (size_t)call->dims[5],
    };
    at.width = (at.head_dim + LANES - 1) / LANES * LANES;
    at.scale = 1.0f / sqrtf((float)at.head_dim);
    return at;
}

FN size_t tile_vectors(size_t rows) {
    return (rows + LANES - 1) / LANES;
}

/* The segment after `key` for queries [query, query + QT). False when there is none. */
FN bool segment_at(const struct attn *at, size_t query, size_t key, struct segment *out) {
    size_t from = at->before + query, end = from + QT < at->keys ? from + QT : at->keys;
    if (key >= end) {
        return false;
    }
    *out = (struct segment){.key = key, .keys_n = from - key < KT ? from - key : KT};
    if (key >= from) {
        *out = (struct segment){.key = key, .keys_n = LANES, .first = (key - from) / LANES, .diagonal = true};
    }
    return true;
}

/* Rows of one head, of which there are `all`: packed, zero beyond them. */
FN void pack_head(const struct attn *at, const float *head, size_t stride, size_t all, size_t row, size_t rows,
                  float *dst) {
    size_t left = all > row ? all - row : 0;
    pack_rows(head + row * stride, stride, left < rows ? left : rows, at->head_dim, rows, at->width, dst);
}

FN void pack_queries(const struct attn *at, const float *head, size_t stride, size_t row, size_t rows, float *dst) {
    pack_head(at, head, stride, at->seq, row, rows, dst);
}

FN void pack_keys(const struct attn *at, const float *head, const struct segment *seg, float *dst) {
    pack_head(at, head, at->kv_stride, at->keys, seg->key, seg->keys_n, dst);
}

/* All ones in the lanes of a diagonal segment's first vector that see key j of the segment. */
INLINE vu visible(size_t j) {
    vu lane;
    for (uint32_t i = 0; i < LANES; i++) {
        lane[i] = i;
    }
    return (vu)(lane >= (vu){0} + (uint32_t)j);
}

struct fwd_tile {
    float q[QT * HD]; /* rows; later the output's rows */
    float qt[HD * QT], ot[HD * QT];
    float k[KT * HD], v[KT * HD];
    float s[KT * QT];
    vf max[QV], sum[QV];
} __attribute__((aligned(64)));

/* Turns the scores of one vector of queries into probabilities relative to the new maximum; returns the factor that
 * brings earlier sums to it. */
FN vf softmax_vector(struct fwd_tile *t, const struct segment *seg, size_t v) {
    float *s = t->s + v * LANES;
    bool masked = seg->diagonal && v == seg->first;
    const vf hidden = splat(-INFINITY);
    vf max = t->max[v], sum = splat(0);
    for (size_t j = 0; j < seg->keys_n; j++) {
        vf x = load(s + j * QT);
        if (masked) {
            vu see = visible(j);
            x = keep(see, x) + keep(~see, hidden);
            store(s + j * QT, x);
        }
        max = vmax(x, max);
    }
    for (size_t j = 0; j < seg->keys_n; j++) {
        vf p = vexp(load(s + j * QT) - max);
        store(s + j * QT, p);
        sum += p;
    }
    vf rescale = vexp(t->max[v] - max);
    t->sum[v] = t->sum[v] * rescale + sum;
    t->max[v] = max;
    return rescale;
}

FN void fwd_segment(const struct attn *at, struct fwd_tile *t, const struct segment *seg, size_t vectors) {
    size_t nv = vectors - seg->first, skip = seg->first * LANES;
    vf rescale[QV];
    mul_set(&(struct mul){.a = t->k,
                          .a_row = at->width,
                          .a_k = 1,
                          .b = t->qt + skip,
                          .b_row = QT,
                          .c = t->s + skip,
                          .c_row = QT,
                          .rows = seg->keys_n,
                          .k_n = at->head_dim},
            nv);
    for (size_t v = seg->first; v < vectors; v++) {
        rescale[v] = softmax_vector(t, seg, v);
    }
    mul_rescale(&(struct mul){.a = t->v,
                              .a_row = 1,
                              .a_k = at->width,
                              .b = t->s + skip,
                              .b_row = QT,
                              .c = t->ot + skip,
                              .c_row = QT,
                              .rows = at->width,
                              .k_n = seg->keys_n},
                nv, rescale + seg->first);
}

FN void fwd_finish(const struct attn *at, struct fwd_tile *t, size_t rows, float *o, float *lse) {
    size_t vectors = tile_vectors(rows);
    for (size_t v = 0; v < vectors; v++) {
        vf inverse = splat(1.0f) / t->sum[v];
        for (size_t c = 0; c < at->width; c++) {
            store(t->ot + c * QT + v * LANES, load(t->ot + c * QT + v * LANES) * inverse);
        }
        size_t n = rows - v * LANES;
        store_n(lse + v * LANES, t->max[v] + vlog(t->sum[v]), n);
    }
    transpose(t->ot, QT, at->width, vectors * LANES, t->q, at->width);
    for (size_t r = 0; r < rows; r++) {
        memcpy(o + r * at->heads * at->head_dim, t->q + r * at->width, at->head_dim * sizeof(float));
    }
}

/* q, k, v: the head's first row; o: the tile's first row. */
FN void fwd_queries(const struct attn *at, const float *const qkv[3], size_t query, struct fwd_tile *t, float *o,
                    float *lse) {
    size_t rows = at->seq - query < QT ? at->seq - query : QT;
    size_t vectors = tile_vectors(rows);
    pack_queries(at, qkv[0], at->row_stride, query, vectors * LANES, t->q);
    transpose(t->q, at->width, vectors * LANES, at->width, t->qt, QT);
    for (size_t i = 0; i < at->width * QT; i += LANES) {
        store(t->qt + i, load(t->qt + i) * splat(at->scale));
    }
    memset(t->ot, 0, at->width * QT * sizeof(float));
    for (size_t v = 0; v < QV; v++) {
        t->max[v] = splat(-INFINITY);
        t->sum[v] = splat(0);
    }
    struct segment seg;
    for (size_t key = 0; segment_at(at, query, key, &seg); key += seg.keys_n) {
        pack_keys(at, qkv[1], &seg, t->k);
        pack_keys(at, qkv[2], &seg, t->v);
        fwd_segment(at, t, &seg, vectors);
    }
    fwd_finish(at, t, rows, o, lse);
}

FN struct attn slice_of(const struct sf_call *call) {
    struct attn at = {
        .batch = 1,
        .seq = (size_t)call->dims[1],
        .heads = (size_t)call->dims[2],
        .kv_heads = (size_t)call->dims[3],
        .head_dim = (size_t)call->dims[4],
        .row_stride = (size_t)((call->dims[2] + 2 * call->dims[3]) * call->dims[4]),
        .before = (size_t)(call->dims[0] - call->dims[1]),
        .keys = (size_t)call->dims[0],
        .kv_stride = (size_t)(2 * call->dims[3] * call->dims[4]),
    };
    at.width = (at.head_dim + LANES - 1) / LANES * LANES;
    at.scale = 1.0f / sqrtf((float)at.head_dim);
    return at;
}

FN int attn_slice_fwd(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    (void)err;
    const struct attn at = slice_of(call);
    struct fwd_tile tile;
    sfi_slice_append(call, operand);
    for (size_t h = 0; h < at.heads; h++) {
        const float *keys = (const float *)operand[1] + h / (at.heads / at.kv_heads) * at.head_dim;
        const float *const qkv[3] = {(const float *)operand[0] + h * at.head_dim, keys, keys + at.kv_stride / 2};
        float *o = (float *)operand[2] + h * at.head_dim, *lse = (float *)operand[3] + h * at.seq;
        for (size_t i = 0; i < at.seq; i += QT) {
            fwd_queries(&at, qkv, i, &tile, o + i * at.heads * at.head_dim, lse + i);
        }
    }
    return 0;
}

FN int attn_fwd(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err) {
    (void)err;
    const struct attn at = attn_of(call);
    struct fwd_tile tile;
    for (size_t b = 0; b < at.batch; b++) {
        for (size_t h = 0; h < at.heads; h++) {
            size_t kv = h / (at.heads / at.kv_heads), row = b * at.seq * at.row_stride;
            const float *const qkv[3] = {
                (const float *)operand[0] + row + h * at.head_dim,
                (const float *)operand[1] + row + kv * at.head_dim,
                (const float *)operand[2] + row + kv * at.head_dim,
            };
            float *o = (float *)operand[3] + (b * at.seq * at.heads + h) * at.head_dim;
            float *lse = (float *)operand[4] + (b * at.heads + h) * at.seq;
            for (size_t i = 0; i < at.seq; i += QT) {
                fwd_queries(&at, qkv, i, &tile, o + i * at.heads * at.head_dim, lse + i);
            }
        }
    }
    return 0;
}

#endif
