/* Latent attention, as it is trained: rows go down to short vectors (queries; keys with values) and one rotary key, the
 * vectors are normalised, and up from them every head gets its queries, keys and values. Keys are the part made here
 * and the rotary key beside it, the same for all heads.
 *
 * The way down is on this rank's rows, by matrices that every rank of tp holds whole; the way up is column parallel,
 * from the vectors of whole sequences. For pricing: no kernel has keys that are wider than values. */
#include "planner/compile_internal.h"

void sfi_shape_latent(const struct sf_model *m, uint32_t tp, struct sfi_shape *out) {
    if (m->kv_rank == 0) {
        return;
    }
    out->q_rank = m->q_rank;
    out->kv_rank = m->kv_rank;
    out->rope_dim = m->rope_dim;
    out->v_dim = m->v_dim;
    out->latent = (uint64_t)m->q_rank + m->kv_rank + m->rope_dim;
    out->heads_local = m->heads / tp;
    out->qkv_local = sfi_mul(out->heads_local, m->head_dim);
    out->attn_local = sfi_mul(out->heads_local, m->v_dim);
    out->kv_up = sfi_mul(out->heads_local, m->head_dim - m->rope_dim + m->v_dim);
}

static uint64_t matrix(const struct sfi_shape *s, uint64_t rows, uint64_t cols) {
    return sfi_mul(sfi_mul(rows, cols), s->elem);
}

uint64_t sfi_latent_norm_bytes(const struct sfi_shape *s) {
    return (s->q_rank > 0 ? sfi_vector_bytes(s, s->q_rank) : 0) + sfi_vector_bytes(s, s->kv_rank);
}

/* The normalised vector of keys and values and, beside it, the rotary key: what every rank of tp needs whole. */
static uint64_t shared_width(const struct sfi_shape *s) {
    return s->kv_rank + s->rope_dim;
}

void sfi_latent_acts(const struct sfi_shape *s, struct sfi_bump *b, struct sfi_bump *up, struct sfi_acts *a) {
    a->latent = sfi_take(b, matrix(s, s->rows, s->latent));
    a->q_rstd = sfi_take(b, s->q_rank > 0 ? sfi_mul(s->rows, 4) : 0);
    a->q_latent = sfi_take(b, matrix(s, s->rows, s->q_rank));
    a->kv_rstd = sfi_take(b, sfi_mul(s->rows, 4));
    a->kv_latent = sfi_take(b, matrix(s, s->rows, shared_width(s)));
    a->qkv = sfi_take(up, matrix(s, s->tokens, s->qkv_local));
    a->kv_up = sfi_take(up, matrix(s, s->tokens, s->kv_up));
    a->k = sfi_take(up, matrix(s, s->tokens, s->qkv_local));
    a->d_latent_norms = sfi_take(b, s->split ? sfi_latent_norm_bytes(s) : 0);
}

/* ---- places inside the latent row and behind the keys ------------------------------------------------------------ */

static sf_ref kv_part(const struct sfi_shape *s, sf_ref latent) {
    return latent + s->q_rank * s->elem;
}

static sf_ref rotary_part(const struct sfi_shape *s, sf_ref latent) {
    return kv_part(s, latent) + s->kv_rank * s->elem;
}

static sf_ref values_of(const struct sfi_shape *s, sf_ref kv_up) {
    return kv_up + (s->kv_up - s->attn_local) * s->elem;
}

/* Heads and width of the rotary parts of queries. */
static void rotate_queries(struct sfi_recipe *r, int kind, sf_ref q) {
    const struct sfi_shape *s = r->shape;
    sfi_call_rope_of(r, kind, s->tokens, (const uint64_t[]){s->heads_local, s->rope_dim, s->qkv_local}, q);
}

static void rotate_key(struct sfi_recipe *r, int kind, sf_ref latent) {
    const struct sfi_shape *s = r->shape;
    sfi_call_rope_of(r, kind, s->rows, (const uint64_t[]){1, s->rope_dim, s->latent}, rotary_part(s, latent));
}

static void copy_key(struct sfi_recipe *r, sf_ref from, sf_ref to) {
    const uint64_t n[3] = {sfi_mul(r->shape->rows, r->shape->rope_dim)};
    sfi_call_simple(r, SF_CALL_COPY, n, (const sf_ref[]){from, to}, 2);
}

/* Keys from their own part and the rotary one, or the gradients of both from theirs: one pass over the keys. */
static void join_keys(struct sfi_recipe *r, sf_ref from, sf_ref to) {
    const uint64_t n[3] = {sfi_mul(r->shape->tokens, r->shape->qkv_local)};
    sfi_call_simple(r, SF_CALL_COPY, n, (const sf_ref[]){from, to}, 2);
}

/* ---- forward ----------------------------------------------------------------------------------------------------- */

static void linear(struct sfi_recipe *r, uint64_t rows, uint64_t out, uint64_t in, sf_ref x, sf_ref w, sf_ref y) {
    sfi_call_gemm(r, r->shape->gemm_dtype, SF_CALL_TB_FLAG, (const uint64_t[]){rows, out, in}, x, w, y);
}

static sf_ref query_input(struct sfi_recipe *r, const struct sfi_acts *a) {
    const struct sfi_shape *s = r->shape;
    return s->q_rank > 0 ? sfi_gather(r, s->q_rank, a->q_latent) : sfi_gather(r, s->hidden, a->n1);
}

static uint64_t query_width(const struct sfi_shape *s) {
    return s->q_rank > 0 ? s->q_rank : s->hidden;
}

void sfi_latent_up(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w) {
    const struct sfi_shape *s = r->shape;
    uint64_t mark = r->work.at;
    linear(r, s->tokens, s->qkv_local, query_width(s), query_input(r, a), w->qkv, a->qkv);
    rotate_queries(r, SF_CALL_ROPE_FWD, a->qkv);
    linear(r, s->tokens, s->kv_up, s->kv_rank, sfi_gather(r, shared_width(s), a->kv_latent), w->kv_up, a->kv_up);
    join_keys(r, a->kv_up, a->k);
    r->work.at = mark;
}

void sfi_latent_forward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w) {
    const struct sfi_shape *s = r->shape;
    linear(r, s->rows, s->latent, s->hidden, a->n1, w->latent, a->latent);
    if (s->q_rank > 0) {
        const sf_ref q[] = {a->latent, w->q_norm, a->q_latent, a->q_rstd};
        sfi_call_norm_of(r, SF_CALL_RMSNORM_FWD, 0, s->q_rank, q, 4);
    }
    const sf_ref kv[] = {kv_part(s, a->latent), w->kv_norm, a->kv_latent, a->kv_rstd};
    sfi_call_norm_of(r, SF_CALL_RMSNORM_FWD, 0, s->kv_rank, kv, 4);
    rotate_key(r, SF_CALL_ROPE_FWD, a->latent);
    copy_key(r, rotary_part(s, a->latent), a->kv_latent + s->kv_rank * s->elem);
    sfi_latent_up(r, a, w);
    uint64_t mark = r->work.at;
    struct sfi_kv kv_all = sfi_all_latent_keys(r, a->k, values_of(s, a->kv_up));
    const sf_ref all[] = {a->qkv, kv_all.k, kv_all.v, a->o, a->lse};
    sfi_call_latent_attention(r, SF_CALL_ATTN_FWD, all, 5);
    r->work.at = mark;
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

static sf_ref take(struct sfi_recipe *r, uint64_t rows, uint64_t cols) {
    return r->inputs ? sfi_take(&r->work, matrix(r->shape, rows, cols)) : SF_REF_NONE;
}

/* Gradients that a weight half finds where the activations were. */
struct latent_gradients {
    sf_ref q, kv_up, latent;
};

static struct latent_gradients take_gradients(struct sfi_recipe *r, const struct sfi_acts *a) {
    const struct sfi_shape *s = r->shape;
    if (!r->inputs) {
        return (struct latent_gradients){a->qkv, a->kv_up, a->latent};
    }
    return (struct latent_gradients){take(r, s->tokens, s->qkv_local), take(r, s->tokens, s->kv_up),
                                     take(r, s->rows, s->latent)};
}

static void keep(struct sfi_recipe *r, uint64_t elements, sf_ref from, sf_ref to) {
    if (sfi_is_half(r) && r->inputs) {
        sfi_call_simple(r, SF_CALL_COPY, (const uint64_t[3]){elements}, (const sf_ref[]){from, to}, 2);
    }
}

static void core_backward(struct sfi_recipe *r, const struct sfi_acts *a, sf_ref d_o,
                          const struct latent_gradients *d) {
    const struct sfi_shape *s = r->shape;
    uint64_t mark = r->work.at, floats = sfi_mul(sfi_mul(s->tokens, s->heads_local), 4);
    sf_ref dk = take(r, s->tokens, s->qkv_local), dv = values_of(s, d->kv_up);
    struct sfi_kv kv = sfi_all_latent_keys(r, a->k, values_of(s, a->kv_up));
    struct sfi_kv d_kv = sfi_latent_keys_gradients(r, dk, dv);
    const sf_ref all[] = {a->qkv, kv.k, kv.v, a->o, a->lse, d_o, d->q, d_kv.k, d_kv.v, sfi_take(&r->work, floats)};
    sfi_call_latent_attention(r, SF_CALL_ATTN_BWD, all, 10);
    sfi_return_latent_keys(r, &d_kv, dk, dv);
    rotate_queries(r, SF_CALL_ROPE_BWD, d->q);
    join_keys(r, dk, d->kv_up);
    r->work.at = mark;
}

/* Up from a latent vector, in rows of what is beside it too: its gradient, summed over tp to this rank's rows, and that
 * of the matrix. */
static void up_backward(struct sfi_recipe *r, const uint64_t out_in_row[3], const sf_ref x_w_dw[3], sf_ref dy,
                        sf_ref dx) {
    const struct sfi_shape *s = r->shape;
    uint64_t mark = r->work.at, out = out_in_row[0], in = out_in_row[1], row = out_in_row[2];
    sf_ref partial = r->inputs ? sfi_partial(r, row, dx) : SF_REF_NONE;
    if (r->weights) {
        sfi_call_gemm(r, s->gemm_dtype, SF_CALL_TA_FLAG | (r->add ? SF_CALL_ACC_FLAG : 0),
                      (const uint64_t[]){out, in, s->tokens}, dy, sfi_gather(r, row, x_w_dw[0]), x_w_dw[2]);
    }
    if (r->inputs) {
        sfi_call_gemm(r, s->gemm_dtype, 0, (const uint64_t[]){s->tokens, in, out}, dy, x_w_dw[1], partial);
        sfi_reduce(r, row, partial, dx);
    }
    r->work.at = mark;
}

/* operand: dy x w rstd dx dw; the input half leaves dw in `kept` for the weight half. */
static void norm_backward(struct sfi_recipe *r, uint64_t cols, const sf_ref operand[6], sf_ref kept) {
    bool half = sfi_is_half(r);
    if (r->inputs) {
        const sf_ref all[] = {operand[0], operand[1], operand[2], operand[3], operand[4], half ? kept : operand[5]};
        sfi_call_norm_of(r, SF_CALL_RMSNORM_BWD, r->add && !half ? SF_CALL_ACC2_FLAG : 0, cols, all, 6);
    } else if (r->add) {
        const sf_ref sum[] = {operand[5], kept, operand[5]};
        sfi_call_simple(r, SF_CALL_ADD, (const uint64_t[3]){cols}, sum, 3);
    } else {
        sfi_call_simple(r, SF_CALL_COPY, (const uint64_t[3]){cols}, (const sf_ref[]){kept, operand[5]}, 2);
    }
}

static void norms_backward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w,
                           const struct sfi_refs *dw, const sf_ref dn[2], sf_ref d_latent) {
    const struct sfi_shape *s = r->shape;
    uint64_t behind = s->q_rank > 0 ? sfi_vector_bytes(s, s->q_rank) : 0;
    if (s->q_rank > 0) {
        const sf_ref q[] = {dn[0], a->latent, w->q_norm, a->q_rstd, d_latent, dw->q_norm};
        norm_backward(r, s->q_rank, q, a->d_latent_norms);
    }
    const sf_ref kv[] = {dn[1], kv_part(s, a->latent), w->kv_norm, a->kv_rstd, kv_part(s, d_latent), dw->kv_norm};
    norm_backward(r, s->kv_rank, kv, a->d_latent_norms + behind);
}

/* Down, on this rank's rows. Queries that have no latent vector have put their share of dn there before. */
static void down_backward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w,
                          const struct sfi_refs *dw, sf_ref d_latent, sf_ref dn) {
    const struct sfi_shape *s = r->shape;
    if (r->weights) {
        sfi_call_gemm(r, s->gemm_dtype, SF_CALL_TA_FLAG | (r->add ? SF_CALL_ACC_FLAG : 0),
                      (const uint64_t[]){s->latent, s->hidden, s->rows}, d_latent, a->n1, dw->latent);
    }
    if (r->inputs) {
        sfi_call_gemm(r, s->gemm_dtype, s->q_rank > 0 ? 0 : SF_CALL_ACC_FLAG,
                      (const uint64_t[]){s->rows, s->hidden, s->latent}, d_latent, w->latent, dn);
    }
}

void sfi_latent_backward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w,
                         const struct sfi_refs *dw, sf_ref d_o, sf_ref dn) {
    const struct sfi_shape *s = r->shape;
    uint64_t mark = r->work.at;
    struct latent_gradients d = take_gradients(r, a);
    sf_ref dq_latent = s->q_rank > 0 ? take(r, s->rows, s->q_rank) : dn, dkv_latent = take(r, s->rows, shared_width(s));
    const sf_ref q[] = {s->q_rank > 0 ? a->q_latent : a->n1, w->qkv, dw->qkv};
    const sf_ref kv[] = {a->kv_latent, w->kv_up, dw->kv_up};
    if (r->inputs) {
        core_backward(r, a, d_o, &d);
    }
    keep(r, sfi_mul(s->tokens, s->qkv_local), d.q, a->qkv);
    keep(r, sfi_mul(s->tokens, s->kv_up), d.kv_up, a->kv_up);
    up_backward(r, (const uint64_t[]){s->qkv_local, query_width(s), query_width(s)}, q, d.q, dq_latent);
    up_backward(r, (const uint64_t[]){s->kv_up, s->kv_rank, shared_width(s)}, kv, d.kv_up, dkv_latent);
    norms_backward(r, a, w, dw, (const sf_ref[]){dq_latent, dkv_latent}, d.latent);
    if (r->inputs) {
        copy_key(r, dkv_latent + s->kv_rank * s->elem, rotary_part(s, d.latent));
        rotate_key(r, SF_CALL_ROPE_BWD, d.latent);
    }
    keep(r, sfi_mul(s->rows, s->latent), d.latent, a->latent);
    down_backward(r, a, w, dw, d.latent, dn);
    r->work.at = mark;
}
