/* Backward recipes: the forward in reverse. The gradient of the residual stream, g, runs through one buffer: norms add
 * into it, everything else reads it. Row-parallel inputs (dY) and column-parallel inputs (X) are gathered over tp again
 * rather than kept. */
#include <stdio.h>

#include "planner/compile_internal.h"

static unsigned add_flag(const struct sfi_recipe *r) {
    return r->add ? SF_CALL_ACC_FLAG : 0;
}

/* dW[out, in] (+)= dY^T X. */
static void weight_gradient(struct sfi_recipe *r, int dtype, uint64_t out, uint64_t in, sf_ref dy, sf_ref x,
                            sf_ref dw) {
    sfi_call_gemm(r, dtype, SF_CALL_TA_FLAG | add_flag(r), (const uint64_t[]){out, in, r->shape->tokens}, dy, x, dw);
}

/* dX = dY W with W stored [out, in]. */
static void input_gradient(struct sfi_recipe *r, int dtype, uint64_t out, uint64_t in, sf_ref dy, sf_ref w, sf_ref dx) {
    sfi_call_gemm(r, dtype, 0, (const uint64_t[]){r->shape->tokens, in, out}, dy, w, dx);
}

static sf_ref take(struct sfi_recipe *r, uint64_t rows, uint64_t cols) {
    return sfi_take(&r->work, sfi_mul(sfi_mul(rows, cols), r->shape->elem));
}

static void ffn_backward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w,
                         const struct sfi_refs *dw, sf_ref g, sf_ref dn) {
    const struct sfi_shape *s = r->shape;
    uint64_t mark = r->work.at;
    sf_ref partial = sfi_partial(r, s->hidden, dn);
    sf_ref d_act = take(r, s->tokens, s->ffn_local), d_gate_up = take(r, s->tokens, s->up_local);
    uint64_t gathered = r->work.at;
    sf_ref dy = sfi_gather(r, s->hidden, g);
    weight_gradient(r, s->gemm_dtype, s->hidden, s->ffn_local, dy, a->act, dw->down);
    input_gradient(r, s->gemm_dtype, s->hidden, s->ffn_local, dy, w->down, d_act);
    sfi_call_glu(r, SF_CALL_GLU_BWD, s->tokens, (const sf_ref[]){d_act, a->gate_up, d_gate_up}, 3);
    r->work.at = gathered;
    sf_ref n = sfi_gather(r, s->hidden, a->n2);
    weight_gradient(r, s->gemm_dtype, s->up_local, s->hidden, d_gate_up, n, dw->gate_up);
    input_gradient(r, s->gemm_dtype, s->up_local, s->hidden, d_gate_up, w->gate_up, partial);
    sfi_reduce(r, s->hidden, partial, dn);
    r->work.at = mark;
}

/* Scratch of the attention kernel: key and value gradients of one head group, rows and head padded to 64, and one float
 * per row and head. The kernels' own figure (kernels/kern.h) is never larger. */
static uint64_t attention_scratch(const struct sfi_shape *s) {
    uint64_t group = sfi_mul(sfi_round_up(s->seq, 64), sfi_round_up(s->head_dim, 64));
    return sfi_mul(group, 2 * 4) + sfi_mul(sfi_mul(s->tokens, s->heads_local), 4);
}

static void attention_core_backward(struct sfi_recipe *r, const struct sfi_acts *a, sf_ref d_o, sf_ref d_qkv) {
    const struct sfi_shape *s = r->shape;
    uint64_t k = s->heads_local * s->head_dim * s->elem, v = k + s->kv_heads_local * s->head_dim * s->elem;
    uint64_t mark = r->work.at;
    const sf_ref operand[] = {a->qkv, a->qkv + k, a->qkv + v, a->o,      a->lse,
                              d_o,    d_qkv,      d_qkv + k,  d_qkv + v, sfi_take(&r->work, attention_scratch(s))};
    sfi_call_attention(r, SF_CALL_ATTN_BWD, operand, 10);
    sfi_call_rope(r, SF_CALL_ROPE_BWD, d_qkv);
    r->work.at = mark;
}

static void attention_backward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w,
                               const struct sfi_refs *dw, sf_ref g, sf_ref dn) {
    const struct sfi_shape *s = r->shape;
    uint64_t mark = r->work.at;
    sf_ref partial = sfi_partial(r, s->hidden, dn);
    sf_ref d_o = take(r, s->tokens, s->attn_local), d_qkv = take(r, s->tokens, s->qkv_local);
    uint64_t gathered = r->work.at;
    sf_ref dy = sfi_gather(r, s->hidden, g);
    weight_gradient(r, s->gemm_dtype, s->hidden, s->attn_local, dy, a->o, dw->o);
    input_gradient(r, s->gemm_dtype, s->hidden, s->attn_local, dy, w->o, d_o);
    r->work.at = gathered;
    attention_core_backward(r, a, d_o, d_qkv);
    sf_ref n = sfi_gather(r, s->hidden, a->n1);
    weight_gradient(r, s->gemm_dtype, s->qkv_local, s->hidden, d_qkv, n, dw->qkv);
    input_gradient(r, s->gemm_dtype, s->qkv_local, s->hidden, d_qkv, w->qkv, partial);
    sfi_reduce(r, s->hidden, partial, dn);
    r->work.at = mark;
}

void sfi_layer_backward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w,
                        const struct sfi_refs *dw, sf_ref g) {
    uint64_t mark = r->work.at;
    sf_ref dn = sfi_take(&r->work, r->shape->row_bytes);
    if (r->shape->experts) {
        sfi_experts_backward(r, a, w, dw, g, dn);
    } else {
        ffn_backward(r, a, w, dw, g, dn);
    }
    sfi_call_norm_bwd(r, true, (const sf_ref[]){dn, a->xm, w->norm2, a->rstd2, g, dw->norm2});
    attention_backward(r, a, w, dw, g, dn);
    sfi_call_norm_bwd(r, true, (const sf_ref[]){dn, a->x, w->norm1, a->rstd1, g, dw->norm1});
    r->work.at = mark;
}

/* Checkpointing: the layer runs forward once more, then backward from what that left in working memory. */
static void recompute_layer(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w) {
    uint64_t mark = r->work.at;
    r->flags = SF_CALL_RECOMPUTE_FLAG;
    sfi_layer_forward(r, a, w, sfi_take(&r->work, r->shape->row_bytes));
    r->flags = 0;
    r->work.at = mark;
}

static void layers_backward(struct sfi_recipe *r, sf_ref g) {
    for (uint32_t i = r->vs->layers; i-- > 0;) {
        struct sfi_acts a;
        struct sfi_refs w, dw;
        uint64_t mark = r->work.at;
        sfi_acts_of(r, i, &a);
        sfi_refs_of(r, i, false, &w);
        sfi_refs_of(r, i, true, &dw);
        if (r->shape->recompute) {
            recompute_layer(r, &a, &w);
        }
        sfi_layer_backward(r, &a, &w, &dw, g);
        r->work.at = mark;
    }
}

static void head_backward(struct sfi_recipe *r, sf_ref g) {
    const struct sfi_shape *s = r->shape;
    const struct sfi_params *p = &r->vs->params;
    uint64_t mark = r->work.at, norm = sfi_params_norm(p, p->norms_n - 1);
    struct sfi_head h;
    sfi_head_of(r, &h);
    sf_ref dn = sfi_take(&r->work, s->row_bytes), partial = sfi_partial(r, s->hidden, dn);
    sf_ref n = sfi_gather(r, s->hidden, h.n);
    weight_gradient(r, s->dtype, s->vocab_local, s->hidden, h.logits, n, SF_REF(r->f.grad, p->head));
    input_gradient(r, s->dtype, s->vocab_local, s->hidden, h.logits, SF_REF(r->f.param, p->head), partial);
    sfi_reduce(r, s->hidden, partial, dn);
    sfi_call_norm_bwd(r, false,
                      (const sf_ref[]){dn, h.x, SF_REF(r->f.param, norm), h.rstd, g, SF_REF(r->f.grad, norm)});
    r->work.at = mark;
}

/* Only adds, so a table that starts afresh is cleared first, unless the head's gradient already lies there. */
static void embed_backward(struct sfi_recipe *r, sf_ref g) {
    const struct sfi_shape *s = r->shape;
    const struct sfi_params *p = &r->vs->params;
    sf_ref table = SF_REF(r->f.grad, p->embed);
    if (!r->add && p->embed != p->head) {
        const uint64_t n[3] = {sfi_mul(s->vocab_local, s->hidden)};
        sfi_call_simple(r, SF_CALL_ZERO, n, &table, 1);
    }
    sf_ref dy = sfi_gather(r, s->hidden, g);
    sfi_call_simple(r, SF_CALL_EMBED_BWD, (const uint64_t[]){s->tokens, s->hidden, s->vocab_local},
                    (const sf_ref[]){SF_REF(r->f.tokens, 0), dy, table}, 3);
}

static void backward_formals(const struct sfi_compile *c, struct sfi_vstage *vs) {
    struct sfi_formals f = {.targets = SF_NONE, .loss = SF_NONE};
    f.param = sfi_formal(&f, true);
    f.expert = sfi_formal(&f, c->shape.experts > 0);
    f.grad = sfi_formal(&f, true);
    f.expert_grad = sfi_formal(&f, c->shape.experts > 0);
    f.stash = sfi_formal(&f, vs->stash_bytes > 0);
    f.head = sfi_formal(&f, vs->is_last);
    f.x = sfi_formal(&f, true);
    f.y = sfi_formal(&f, !vs->is_last);
    f.dx = sfi_formal(&f, !vs->is_first);
    f.tokens = sfi_formal(&f, vs->is_first);
    f.work = sfi_formal(&f, true);
    vs->bwd = f;
}

static uint32_t backward_recipe(const struct sfi_compile *c, struct sfi_vstage *vs, bool add) {
    char name[SF_NAME];
    struct sfi_recipe r = {
        .c = c, .vs = vs, .shape = &c->shape, .f = vs->bwd, .work = {.formal = vs->bwd.work}, .add = add};
    snprintf(name, sizeof name, "backward%s%s %u%s", add ? " add" : "", vs->is_first ? " embed" : "", vs->layers,
             vs->is_last ? " head" : "");
    sf_build_recipe_begin(c->b, name, r.f.n);
    sf_ref g = vs->is_first ? sfi_take(&r.work, r.shape->row_bytes) : SF_REF(r.f.dx, 0);
    if (vs->is_last) {
        head_backward(&r, g);
    } else {
        sfi_call_copy(&r, SF_REF(r.f.y, 0), g);
    }
    layers_backward(&r, g);
    if (vs->is_first) {
        embed_backward(&r, g);
    }
    vs->work_bytes = r.work.peak > vs->work_bytes ? r.work.peak : vs->work_bytes;
    return sf_build_recipe_end(c->b);
}

void sfi_backward_recipes(const struct sfi_compile *c, struct sfi_vstage *vs) {
    backward_formals(c, vs);
    vs->recipe_bwd[0] = backward_recipe(c, vs, false);
    vs->recipe_bwd[1] = vs->recipe_bwd[0];
    if (sfi_canonical_run(c->plan) > 1) {
        vs->recipe_bwd[1] = backward_recipe(c, vs, true);
    }
}
