/* Forward recipes. */
#include <stdio.h>

#include "planner/compile_internal.h"

/* y[rows, out] = x W^T with W stored [out, in]. */
static void linear(struct sfi_recipe *r, int dtype, uint64_t out, uint64_t in, sf_ref x, sf_ref w, sf_ref y) {
    sfi_call_gemm(r, dtype, SF_CALL_TB_FLAG, (const uint64_t[]){r->shape->tokens, out, in}, x, w, y);
}

/* The q, k and v slices of a fused row, as the attention calls take them. */
static void plain_attention(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w) {
    const struct sfi_shape *s = r->shape;
    sf_ref n = sfi_gather(r, s->hidden, a->n1);
    linear(r, s->gemm_dtype, s->qkv_local, s->hidden, n, w->qkv, a->qkv);
    sfi_add_bias(r, s->qkv_local, w->qkv_bias, a->qkv);
    sfi_call_rope(r, SF_CALL_ROPE_FWD, a->qkv);
    if (s->slices > 1) {
        sfi_slice_forward(r, a);
        return;
    }
    struct sfi_kv kv = sfi_all_keys(r, a->qkv);
    sfi_call_attention(r, SF_CALL_ATTN_FWD, (const sf_ref[]){a->qkv, kv.k, kv.v, a->o, a->lse}, 5);
}

static void attention_forward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w) {
    const struct sfi_shape *s = r->shape;
    uint64_t mark = r->work.at;
    (s->kv_rank > 0 ? sfi_latent_forward : plain_attention)(r, a, w);
    sf_ref y = sfi_partial(r, s->hidden, a->xm);
    linear(r, s->gemm_dtype, s->hidden, s->attn_local, a->o, w->o, y);
    sfi_reduce(r, s->hidden, y, a->xm);
    sfi_join(r, a->xm, w->o_bias, a->x, a->xm, &(struct sfi_norm){w->norm2, a->n2, a->rstd2});
    r->work.at = mark;
}

void sfi_ffn_forward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w, sf_ref out) {
    const struct sfi_shape *s = r->shape;
    sf_ref n = sfi_gather(r, s->hidden, a->n2);
    linear(r, s->gemm_dtype, s->up_local, s->hidden, n, w->gate_up, a->gate_up);
    sfi_add_bias(r, s->up_local, w->up_bias, a->gate_up);
    sfi_call_glu(r, SF_CALL_GLU_FWD, s->tokens, (const sf_ref[]){a->gate_up, a->act}, 2);
    sf_ref y = sfi_partial(r, s->hidden, out);
    linear(r, s->gemm_dtype, s->hidden, s->ffn_local, a->act, w->down, y);
    sfi_reduce(r, s->hidden, y, out);
}

void sfi_layer_forward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w, sf_ref out,
                       const struct sfi_norm *next) {
    uint64_t mark = r->work.at;
    attention_forward(r, a, w);
    if (r->shape->experts) {
        sfi_experts_forward(r, a, w, out);
        sfi_shared_forward(r, a, w, out);
    } else {
        sfi_ffn_forward(r, a, w, out);
    }
    sfi_join(r, out, w->down_bias, a->xm, out, next);
    r->work.at = mark;
}

static void embed_forward(struct sfi_recipe *r, sf_ref x) {
    const struct sfi_shape *s = r->shape;
    uint64_t mark = r->work.at;
    sf_ref y = sfi_partial(r, s->hidden, x);
    const sf_ref operand[] = {SF_REF(r->f.tokens, 0), SF_REF(r->f.param, r->vs->params.embed), y};
    sfi_call_embed(r, SF_CALL_EMBED_FWD, operand);
    sfi_reduce(r, s->hidden, y, x);
    sfi_add_positions(r, x);
    r->work.at = mark;
}

static void forward_formals(const struct sfi_compile *c, struct sfi_vstage *vs) {
    struct sfi_formals f = {.grad = SF_NONE, .expert_grad = SF_NONE, .held = SF_NONE, .dx = SF_NONE, .sums = SF_NONE};
    f.param = sfi_formal(&f, true);
    f.expert = sfi_formal(&f, vs->params.bytes[SFI_EXPERT] > 0);
    f.stash = sfi_formal(&f, vs->stash_bytes > 0);
    f.keys = sfi_formal(&f, vs->keys_bytes > 0);
    f.head = sfi_formal(&f, vs->ends || vs->head);
    f.x = sfi_formal(&f, true);
    f.y = sfi_formal(&f, !vs->is_last && !sfi_is_part(c, vs));
    f.tokens = sfi_formal(&f, vs->is_first);
    f.targets = sfi_formal(&f, (vs->head && c->shape.loss_rows == 0) || vs->mtp > 0);
    f.loss = sfi_formal(&f, vs->head && !sfi_is_part(c, vs) && c->shape.loss_rows == 0);
    f.work = sfi_formal(&f, true);
    vs->fwd = f;
}

static sf_ref forward_output(const struct sfi_recipe *r, uint32_t layer) {
    struct sfi_head h;
    if (layer + 1 < r->vs->layers) {
        return sfi_layer_output(r, layer);
    }
    if (!r->vs->ends) {
        return SF_REF(r->f.y, 0);
    }
    sfi_head_of(r, &h);
    return h.x;
}

/* The norm of what layer `layer` of the chunk puts out: the next layer's first, or the head's. Every layer's
 * activations begin at the same place in working memory. */
static struct sfi_norm norm_behind(struct sfi_recipe *r, uint32_t layer) {
    const struct sfi_params *p = &r->vs->params;
    uint64_t mark = r->work.at;
    struct sfi_acts a;
    struct sfi_refs w;
    struct sfi_head h;
    if (layer < r->vs->layers) {
        sfi_acts_of(r, layer, &a);
        sfi_refs_of(r, layer, false, &w);
        r->work.at = mark;
        return (struct sfi_norm){w.norm1, a.n1, a.rstd1};
    }
    if (!r->vs->ends) {
        return (struct sfi_norm){.w = SF_REF_NONE};
    }
    sfi_head_of(r, &h);
    return (struct sfi_norm){SF_REF(r->f.param, sfi_params_norm(p, p->norms_n - 1)),
                             r->vs->head ? h.n : SF_REF(r->f.y, 0), h.rstd};
}

static void layers_forward(struct sfi_recipe *r) {
    const struct sfi_norm first = norm_behind(r, 0);
    if (r->vs->layers == 0 && (r->vs->ends || r->f.y != SF_NONE)) {
        const uint64_t n[3] = {sfi_input_bytes(r->c, r->vs) / r->shape->elem};
        sfi_call_simple(r, SF_CALL_COPY, n, (const sf_ref[]){SF_REF(r->f.x, 0), forward_output(r, 0)}, 2);
    }
    if (first.w != SF_REF_NONE) {
        sfi_call_norm_fwd(r, SF_REF(r->f.x, 0), &first);
    }
    for (uint32_t i = 0; i < r->vs->layers; i++) {
        struct sfi_acts a;
        struct sfi_refs w;
        uint64_t mark = r->work.at;
        const struct sfi_norm next = norm_behind(r, i + 1);
        sfi_acts_of(r, i, &a);
        sfi_refs_of(r, i, false, &w);
        r->shape = sfi_layer_shape(r->c, r->vs->first_layer + i);
        sfi_layer_forward(r, &a, &w, forward_output(r, i), &next);
        r->work.at = mark;
    }
    r->shape = &r->c->shape;
}

static void forward_recipe(struct sfi_recipe *r, struct sfi_vstage *vs) {
    char name[SF_NAME];
    snprintf(name, sizeof name, "forward%s %u%s", vs->is_first ? " embed" : "", vs->layers, vs->head ? " head" : "");
    sf_build_recipe_begin(r->c->b, name, r->f.n);
    if (vs->is_first) {
        embed_forward(r, SF_REF(r->f.x, 0));
    }
    layers_forward(r);
    if (vs->head) {
        (sfi_is_part(r->c, vs) ? sfi_part_forward : sfi_head_forward)(r);
    }
    sfi_mtp_forward(r);
    vs->recipes[r->slice].fwd = sf_build_recipe_end(r->c->b);
    vs->work_bytes = r->work.peak > vs->work_bytes ? r->work.peak : vs->work_bytes;
}

void sfi_forward_recipes(const struct sfi_compile *c, struct sfi_vstage *vs) {
    vs->stash_bytes = sfi_stash_bytes(c, vs);
    vs->held_bytes = sfi_held_bytes(c, vs);
    vs->head_bytes = sfi_is_part(c, vs) ? sfi_parts_bytes(c, vs) : sfi_mtp_bytes(c, vs, sfi_head_bytes(&c->shape, vs));
    vs->keys_bytes = sfi_keys_bytes(c, vs);
    vs->sums_bytes = sfi_sums_bytes(c, vs);
    vs->work_bytes = 0;
    forward_formals(c, vs);
    for (uint32_t slice = 0; slice < c->shape.slices; slice++) {
        struct sfi_recipe r = {.c = c, .vs = vs, .shape = &c->shape, .f = vs->fwd, .slice = slice};
        r.work.formal = vs->fwd.work;
        forward_recipe(&r, vs);
    }
}
