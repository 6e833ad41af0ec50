/* Layers that predict further tokens (DeepSeek-V3, arXiv 2412.19437, section 2.2). The layer of depth k is given the
 * rows of the depth before and the embedding of the token k places on, each behind a norm of its own and projected; it
 * ends in the model's own norm and head and is trained on the token behind. Norm, head and embedding are shared, so
 * their gradients are added up over the depths, from the deepest on.
 *
 * All that a depth keeps lies behind what the head keeps. Nothing of it is made again in backward: the last stage holds
 * it for a moment only. Both halves of the projection are products of their own, which spares the concatenation. */
#include "planner/compile_internal.h"

/* One depth: what joins the rows, the layer, its head. */
struct depth {
    sf_ref before; /* rows of the depth before */
    sf_ref n[2], rstd[2], embedded;
    sf_ref d_rows, d_embedded, d_norm[2]; /* split: for the weight half */
    struct sfi_acts a;
    struct sfi_head head;
};

static sf_ref take_rows(const struct sfi_shape *s, struct sfi_bump *b, bool wanted) {
    return wanted ? sfi_take(b, s->row_bytes) : SF_REF_NONE;
}

/* The layer's input is read for the last time where the gradient that the weight half needs is made. */
static void place_depth(const struct sfi_compile *c, const struct sfi_vstage *vs, struct sfi_bump *b,
                        struct depth *out) {
    const struct sfi_shape *s = &c->mtp;
    out->embedded = take_rows(s, b, true);
    for (int i = 0; i < 2; i++) {
        out->n[i] = take_rows(s, b, true);
        out->rstd[i] = sfi_take(b, sfi_mul(s->rows, 2 * sizeof(float)));
        out->d_norm[i] = s->split ? sfi_take(b, sfi_norm_bytes(s)) : SF_REF_NONE;
    }
    sf_ref x = take_rows(s, b, true);
    out->d_rows = s->split ? x : SF_REF_NONE;
    out->d_embedded = take_rows(s, b, s->split);
    sfi_place_block(s, b, &out->a);
    sfi_place_head(&c->shape, vs, b, &out->head);
    out->a.x = x;
    out->a.out = out->head.x;
}

uint64_t sfi_mtp_bytes(const struct sfi_compile *c, const struct sfi_vstage *vs, uint64_t behind) {
    struct sfi_bump b = {.at = behind, .peak = behind};
    struct depth d;
    for (uint32_t k = 0; k < vs->mtp; k++) {
        place_depth(c, vs, &b, &d);
    }
    return b.peak;
}

uint64_t sfi_end_bytes(const struct sf_scenario *s, const struct sf_plan *plan) {
    const struct sfi_vstage vs = {.ends = true, .head = true, .mtp = s->model.mtp};
    struct sfi_compile c = {.s = s, .plan = plan};
    sfi_shape_init(s, plan, &c.shape);
    sfi_shape_further(s, plan, &c.mtp);
    return sfi_mtp_bytes(&c, &vs, sfi_head_bytes(&c.shape, &vs));
}

/* Of depth k, from 1 on. */
static void depth_of(const struct sfi_recipe *r, uint32_t k, struct depth *out) {
    struct sfi_bump b = {.formal = r->f.head, .at = sfi_head_bytes(&r->c->shape, r->vs)};
    struct sfi_head head;
    sfi_head_of(r, &head);
    for (uint32_t i = 0; i < k; i++) {
        out->before = i == 0 ? head.x : out->head.x;
        sf_ref before = out->before;
        place_depth(r->c, r->vs, &b, out);
        out->before = before;
    }
    out->a.layer = r->vs->layers + k - 1;
}

void sfi_mtp_head(const struct sfi_recipe *r, struct sfi_head *out) {
    struct depth d = {0};
    depth_of(r, r->depth, &d);
    *out = d.head;
}

static sf_ref norm_weight(const struct sfi_recipe *r, uint32_t k, uint32_t i, bool gradient) {
    return SF_REF(gradient ? r->f.grad : r->f.param, sfi_mtp_norm(r->vs, 2 * (k - 1) + i));
}

static sf_ref joint_weight(const struct sfi_recipe *r, uint32_t k, uint32_t i, bool gradient) {
    return SF_REF(gradient ? r->f.grad : r->f.param, sfi_mtp_joint(r->shape, r->vs, 2 * (k - 1) + i));
}

/* The tokens that depth k is given are those that the depth before was to predict. */
static sf_ref tokens_of(const struct sfi_recipe *r, uint32_t k) {
    return SF_REF(r->f.targets, (k - 1) * r->shape->tokens * 4);
}

/* ---- forward ----------------------------------------------------------------------------------------------------- */

static void embed(struct sfi_recipe *r, uint32_t k, sf_ref y) {
    uint64_t mark = r->work.at;
    sf_ref partial = sfi_partial(r, r->shape->hidden, y);
    sfi_call_embed(r, SF_CALL_EMBED_FWD,
                   (const sf_ref[]){tokens_of(r, k), SF_REF(r->f.param, r->vs->params.further), partial});
    sfi_reduce(r, r->shape->hidden, partial, y);
    r->work.at = mark;
}

static void join_forward(struct sfi_recipe *r, uint32_t k, const struct depth *d) {
    const struct sfi_shape *s = r->shape;
    const sf_ref from[] = {d->before, d->embedded};
    embed(r, k, d->embedded);
    for (uint32_t i = 0; i < 2; i++) {
        sfi_call_norm_fwd(r, from[i], &(struct sfi_norm){norm_weight(r, k, i, false), d->n[i], d->rstd[i]});
        sfi_call_gemm(r, s->dtype, SF_CALL_TB_FLAG | (i > 0 ? SF_CALL_ACC_FLAG : 0u),
                      (const uint64_t[]){s->rows, s->hidden, s->hidden}, d->n[i], joint_weight(r, k, i, false), d->a.x);
    }
}

static void depth_forward(struct sfi_recipe *r, uint32_t k) {
    const struct sfi_params *p = &r->vs->params;
    struct depth d = {0};
    struct sfi_refs w;
    depth_of(r, k, &d);
    r->shape = &r->c->mtp;
    sfi_refs_of(r, d.a.layer, false, &w);
    join_forward(r, k, &d);
    sfi_call_norm_fwd(r, d.a.x, &(struct sfi_norm){w.norm1, d.a.n1, d.a.rstd1});
    const struct sfi_norm last = {SF_REF(r->f.param, sfi_params_norm(p, p->norms_n - 1)),
                                  r->vs->head ? d.head.n : SF_REF(r->f.y, k * r->c->shape.row_bytes), d.head.rstd};
    sfi_layer_forward(r, &d.a, &w, d.head.x, &last);
    r->shape = &r->c->shape;
}

void sfi_mtp_forward(struct sfi_recipe *r) {
    for (r->depth = 1; r->depth <= r->vs->mtp; r->depth++) {
        depth_forward(r, r->depth);
        if (r->vs->head) {
            sfi_head_forward(r);
        }
    }
    r->depth = 0;
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

/* Only adds, so a table that starts afresh is cleared first, unless the head's gradient lies there. */
static void embed_backward(struct sfi_recipe *r, uint32_t k, sf_ref d_embedded) {
    const struct sfi_shape *s = r->shape;
    const struct sfi_params *p = &r->vs->params;
    uint64_t mark = r->work.at;
    sf_ref table = SF_REF(r->f.grad, p->further);
    if (!r->add && k == r->vs->mtp && p->further != p->head) {
        const uint64_t n[3] = {sfi_mul(s->vocab_local, s->hidden)};
        sfi_call_simple(r, SF_CALL_ZERO, n, &table, 1);
    }
    sf_ref dy = sfi_gather(r, s->hidden, d_embedded);
    sfi_call_embed(r, SF_CALL_EMBED_BWD, (const sf_ref[]){tokens_of(r, k), dy, table});
    r->work.at = mark;
}

/* From the gradient of a projection's rows, g, to that of what its norm read. */
static void half_backward(struct sfi_recipe *r, uint32_t k, uint32_t i, const struct depth *d, sf_ref g, sf_ref dx) {
    const struct sfi_shape *s = r->shape;
    uint64_t mark = r->work.at;
    const sf_ref from[] = {d->before, d->embedded};
    sf_ref dn = r->inputs ? sfi_take(&r->work, s->row_bytes) : SF_REF_NONE;
    if (r->weights) {
        sfi_call_gemm(r, s->dtype, SF_CALL_TA_FLAG | (r->add ? SF_CALL_ACC_FLAG : 0u),
                      (const uint64_t[]){s->hidden, s->hidden, s->rows}, g, d->n[i], joint_weight(r, k, i, true));
    }
    if (r->inputs) {
        sfi_call_gemm(r, s->dtype, 0, (const uint64_t[]){s->rows, s->hidden, s->hidden}, g,
                      joint_weight(r, k, i, false), dn);
    }
    const sf_ref all[] = {dn, from[i], norm_weight(r, k, i, false), d->rstd[i], dx, norm_weight(r, k, i, true)};
    sfi_norm_backward(r, false, all, d->d_norm[i]);
    r->work.at = mark;
}

/* The gradient of the layer's input becomes that of the rows of the depth before, the last thing that reads it. */
static void join_backward(struct sfi_recipe *r, uint32_t k, const struct depth *d, sf_ref g) {
    const struct sfi_shape *s = r->shape;
    uint64_t mark = r->work.at;
    bool half = sfi_is_half(r);
    sf_ref d_embedded = half ? d->d_embedded : sfi_take(&r->work, s->row_bytes);
    if (half && r->inputs) {
        sfi_call_copy(r, g, d->d_rows);
    }
    sf_ref from = half ? d->d_rows : g;
    half_backward(r, k, 1, d, from, d_embedded);
    if (r->weights) {
        embed_backward(r, k, d_embedded);
    }
    half_backward(r, k, 0, d, from, g);
    r->work.at = mark;
}

void sfi_mtp_backward(struct sfi_recipe *r, sf_ref g) {
    for (r->depth = r->vs->mtp; r->depth > 0; r->depth--) {
        struct depth d = {0};
        struct sfi_refs w, dw;
        sfi_head_backward(r, g);
        depth_of(r, r->depth, &d);
        r->shape = &r->c->mtp;
        sfi_refs_of(r, d.a.layer, false, &w);
        sfi_refs_of(r, d.a.layer, true, &dw);
        sfi_layer_backward(r, &d.a, &w, &dw, g);
        join_backward(r, r->depth, &d, g);
        r->shape = &r->c->shape;
    }
}
