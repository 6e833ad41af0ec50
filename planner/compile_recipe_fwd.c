/* Forward recipes. */
#include <stdio.h>

#include "planner/compile_internal.h"

/* y[rows, out] = x W^T with W stored [out, in]. */
static void linear(struct sfi_recipe *r, int dtype, uint64_t out, uint64_t in, sf_ref x, sf_ref w, sf_ref y) {
    sfi_call_gemm(r, dtype, SF_CALL_TB_FLAG, (const uint64_t[]){r->shape->tokens, out, in}, x, w, y);
}

/* The q, k and v slices of a fused row, as the attention calls take them. */
static void attention_forward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w) {
    const struct sfi_shape *s = r->shape;
    uint64_t mark = r->work.at;
    sfi_call_norm_fwd(r, a->x, w->norm1, a->n1, a->rstd1);
    sf_ref n = sfi_gather(r, s->hidden, a->n1);
    linear(r, s->gemm_dtype, s->qkv_local, s->hidden, n, w->qkv, a->qkv);
    sfi_call_rope(r, SF_CALL_ROPE_FWD, a->qkv);
    struct sfi_kv kv = sfi_all_keys(r, a->qkv);
    sfi_call_attention(r, SF_CALL_ATTN_FWD, (const sf_ref[]){a->qkv, kv.k, kv.v, a->o, a->lse}, 5);
    sf_ref y = sfi_partial(r, s->hidden, a->xm);
    linear(r, s->gemm_dtype, s->hidden, s->attn_local, a->o, w->o, y);
    sfi_reduce(r, s->hidden, y, a->xm);
    sfi_call_add(r, a->xm, a->x, a->xm);
    r->work.at = mark;
}

static void ffn_forward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w, sf_ref out) {
    const struct sfi_shape *s = r->shape;
    sf_ref n = sfi_gather(r, s->hidden, a->n2);
    linear(r, s->gemm_dtype, s->up_local, s->hidden, n, w->gate_up, a->gate_up);
    sfi_call_glu(r, SF_CALL_GLU_FWD, s->tokens, (const sf_ref[]){a->gate_up, a->act}, 2);
    sf_ref y = sfi_partial(r, s->hidden, out);
    linear(r, s->gemm_dtype, s->hidden, s->ffn_local, a->act, w->down, y);
    sfi_reduce(r, s->hidden, y, out);
}

void sfi_layer_forward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w, sf_ref out) {
    uint64_t mark = r->work.at;
    attention_forward(r, a, w);
    sfi_call_norm_fwd(r, a->xm, w->norm2, a->n2, a->rstd2);
    if (r->shape->experts) {
        sfi_experts_forward(r, a, w, out);
    } else {
        ffn_forward(r, a, w, out);
    }
    sfi_call_add(r, out, a->xm, out);
    r->work.at = mark;
}

static void embed_forward(struct sfi_recipe *r, sf_ref x) {
    const struct sfi_shape *s = r->shape;
    uint64_t mark = r->work.at;
    sf_ref y = sfi_partial(r, s->hidden, x);
    const sf_ref operand[] = {SF_REF(r->f.tokens, 0), SF_REF(r->f.param, r->vs->params.embed), y};
    sfi_call_embed(r, SF_CALL_EMBED_FWD, operand);
    sfi_reduce(r, s->hidden, y, x);
    r->work.at = mark;
}

static void head_forward(struct sfi_recipe *r) {
    const struct sfi_shape *s = r->shape;
    const struct sfi_params *p = &r->vs->params;
    uint64_t mark = r->work.at;
    struct sfi_head h;
    sfi_head_of(r, &h);
    sfi_call_norm_fwd(r, h.x, SF_REF(r->f.param, sfi_params_norm(p, p->norms_n - 1)), h.n, h.rstd);
    sf_ref n = sfi_gather(r, s->hidden, h.n);
    linear(r, s->dtype, s->vocab_local, s->hidden, n, SF_REF(r->f.param, p->head), h.logits);
    sfi_call_xent(r, h.logits, SF_REF(r->f.targets, 0), SF_REF(r->f.loss, 0));
    r->work.at = mark;
}

static void forward_formals(const struct sfi_compile *c, struct sfi_vstage *vs) {
    struct sfi_formals f = {.grad = SF_NONE, .expert_grad = SF_NONE, .held = SF_NONE, .dx = SF_NONE};
    f.param = sfi_formal(&f, true);
    f.expert = sfi_formal(&f, c->shape.experts > 0);
    f.stash = sfi_formal(&f, vs->stash_bytes > 0);
    f.head = sfi_formal(&f, vs->is_last);
    f.x = sfi_formal(&f, true);
    f.y = sfi_formal(&f, !vs->is_last);
    f.tokens = sfi_formal(&f, vs->is_first);
    f.targets = sfi_formal(&f, vs->is_last);
    f.loss = sfi_formal(&f, vs->is_last);
    f.work = sfi_formal(&f, true);
    vs->fwd = f;
}

static sf_ref forward_output(const struct sfi_recipe *r, uint32_t layer) {
    struct sfi_head h;
    if (layer + 1 < r->vs->layers) {
        return sfi_layer_output(r, layer);
    }
    if (!r->vs->is_last) {
        return SF_REF(r->f.y, 0);
    }
    sfi_head_of(r, &h);
    return h.x;
}

void sfi_forward_recipe(const struct sfi_compile *c, struct sfi_vstage *vs) {
    char name[SF_NAME];
    vs->stash_bytes = sfi_stash_bytes(&c->shape, vs->layers);
    vs->held_bytes = sfi_held_bytes(&c->shape, vs->layers);
    vs->head_bytes = vs->is_last ? sfi_head_bytes(&c->shape) : 0;
    forward_formals(c, vs);
    struct sfi_recipe r = {.c = c, .vs = vs, .shape = &c->shape, .f = vs->fwd, .work = {.formal = vs->fwd.work}};
    snprintf(name, sizeof name, "forward%s %u%s", vs->is_first ? " embed" : "", vs->layers, vs->is_last ? " head" : "");
    sf_build_recipe_begin(c->b, name, r.f.n);
    if (vs->is_first) {
        embed_forward(&r, SF_REF(r.f.x, 0));
    }
    for (uint32_t i = 0; i < vs->layers; i++) {
        struct sfi_acts a;
        struct sfi_refs w;
        uint64_t mark = r.work.at;
        sfi_acts_of(&r, i, &a);
        sfi_refs_of(&r, i, false, &w);
        sfi_layer_forward(&r, &a, &w, forward_output(&r, i));
        r.work.at = mark;
    }
    if (vs->is_last) {
        head_forward(&r);
    }
    vs->recipe_fwd = sf_build_recipe_end(c->b);
    vs->work_bytes = r.work.peak;
}
