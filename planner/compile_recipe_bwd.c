/* Backward recipes: the forward in reverse, making gradients of inputs, of weights, or both. The gradient of the
 * residual stream, g, runs through one buffer: norms add into it, everything else reads it. Row-parallel inputs (dY)
 * and column-parallel inputs (X) are gathered over tp again rather than kept.
 *
 * Halves. The input half leaves copies of g and of the gradients of qkv and gate_up for the weight half (see sfi_acts)
 * and the gradients of the norms' weights, which fall off while it is at their inputs. The weight half is the GEMMs
 * that are left, the embedding, and adding up the norms. Each makes the very calls of the whole backward, so with
 * canonical sums the bits are the same. */
#include <stdio.h>

#include "planner/compile_internal.h"

static unsigned add_flag(const struct sfi_recipe *r) {
    return r->add ? SF_CALL_ACC_FLAG : 0;
}

static bool is_half(const struct sfi_recipe *r) {
    return !r->inputs || !r->weights;
}

/* dW[out, in] (+)= dY^T X. */
static void weight_gradient(struct sfi_recipe *r, int dtype, uint64_t out, uint64_t in, sf_ref dy, sf_ref x,
                            sf_ref dw) {
    if (r->weights) {
        sfi_call_gemm(r, dtype, SF_CALL_TA_FLAG | add_flag(r), (const uint64_t[]){out, in, r->shape->tokens}, dy, x,
                      dw);
    }
}

/* dX = dY W with W stored [out, in]. */
static void input_gradient(struct sfi_recipe *r, int dtype, uint64_t out, uint64_t in, sf_ref dy, sf_ref w, sf_ref dx) {
    if (r->inputs) {
        sfi_call_gemm(r, dtype, 0, (const uint64_t[]){r->shape->tokens, in, out}, dy, w, dx);
    }
}

/* Working memory of the input half. */
static sf_ref take(struct sfi_recipe *r, uint64_t rows, uint64_t cols) {
    return r->inputs ? sfi_take(&r->work, sfi_mul(sfi_mul(rows, cols), r->shape->elem)) : SF_REF_NONE;
}

static sf_ref partial_of(struct sfi_recipe *r, sf_ref dn) {
    return r->inputs ? sfi_partial(r, r->shape->hidden, dn) : SF_REF_NONE;
}

static void reduce_inputs(struct sfi_recipe *r, sf_ref partial, sf_ref dn) {
    if (r->inputs) {
        sfi_reduce(r, r->shape->hidden, partial, dn);
    }
}

/* What only weight gradients read. */
static sf_ref gather_for_weights(struct sfi_recipe *r, sf_ref x) {
    return r->weights ? sfi_gather(r, r->shape->hidden, x) : SF_REF_NONE;
}

static void add_vector(struct sfi_recipe *r, sf_ref from, sf_ref to) {
    const uint64_t n[3] = {r->shape->hidden};
    if (r->add) {
        sfi_call_simple(r, SF_CALL_ADD, n, (const sf_ref[]){to, from, to}, 3);
    } else {
        sfi_call_simple(r, SF_CALL_COPY, n, (const sf_ref[]){from, to}, 2);
    }
}

/* operand: dy x w rstd dx dw. The input half leaves dw in `kept`, and the weight half adds it. A canonical whole does
 * the same within itself: the kernel would add row by row, which rounds differently. */
static void norm_backward(struct sfi_recipe *r, bool add_dx, const sf_ref operand[6], sf_ref kept) {
    bool apart = !is_half(r) && r->add && r->c->plan->canonical;
    uint64_t mark = r->work.at;
    sf_ref dw = is_half(r) ? kept : apart ? take(r, 1, r->shape->hidden) : operand[5];
    if (r->inputs) {
        const sf_ref all[] = {operand[0], operand[1], operand[2], operand[3], operand[4], dw};
        sfi_call_norm_bwd(r, add_dx, r->add && !is_half(r) && !apart, all);
    }
    if (!r->inputs || apart) {
        add_vector(r, dw, operand[5]);
    }
    r->work.at = mark;
}

/* The input half copies what the weight half needs. */
static void keep(struct sfi_recipe *r, uint64_t elements, sf_ref from, sf_ref to) {
    if (is_half(r) && r->inputs) {
        sfi_call_simple(r, SF_CALL_COPY, (const uint64_t[3]){elements}, (const sf_ref[]){from, to}, 2);
    }
}

static void ffn_backward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w,
                         const struct sfi_refs *dw, sf_ref g, sf_ref dn) {
    const struct sfi_shape *s = r->shape;
    uint64_t mark = r->work.at;
    sf_ref partial = partial_of(r, dn);
    sf_ref d_act = take(r, s->tokens, s->ffn_local);
    sf_ref d_gate_up = is_half(r) ? a->gate_up : take(r, s->tokens, s->up_local);
    uint64_t gathered = r->work.at;
    sf_ref dy = sfi_gather(r, s->hidden, g);
    weight_gradient(r, s->gemm_dtype, s->hidden, s->ffn_local, dy, a->act, dw->down);
    input_gradient(r, s->gemm_dtype, s->hidden, s->ffn_local, dy, w->down, d_act);
    if (r->inputs) {
        sfi_call_glu(r, SF_CALL_GLU_BWD, s->tokens, (const sf_ref[]){d_act, a->gate_up, d_gate_up}, 3);
    }
    r->work.at = gathered;
    sf_ref n = gather_for_weights(r, a->n2);
    weight_gradient(r, s->gemm_dtype, s->up_local, s->hidden, d_gate_up, n, dw->gate_up);
    input_gradient(r, s->gemm_dtype, s->up_local, s->hidden, d_gate_up, w->gate_up, partial);
    reduce_inputs(r, partial, dn);
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
    uint64_t mark = r->work.at;
    struct sfi_kv kv = sfi_all_keys(r, a->qkv), d = sfi_keys_gradients(r, d_qkv);
    const sf_ref operand[] = {a->qkv, kv.k,  kv.v, a->o, a->lse,
                              d_o,    d_qkv, d.k,  d.v,  sfi_take(&r->work, attention_scratch(s))};
    sfi_call_attention(r, SF_CALL_ATTN_BWD, operand, 10);
    sfi_return_keys(r, &d, d_qkv);
    sfi_call_rope(r, SF_CALL_ROPE_BWD, d_qkv);
    r->work.at = mark;
}

static void attention_backward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w,
                               const struct sfi_refs *dw, sf_ref g, sf_ref dn) {
    const struct sfi_shape *s = r->shape;
    uint64_t mark = r->work.at;
    sf_ref partial = partial_of(r, dn);
    sf_ref d_o = take(r, s->tokens, s->attn_local);
    sf_ref d_qkv = r->inputs ? take(r, s->tokens, s->qkv_local) : a->qkv;
    uint64_t gathered = r->work.at;
    sf_ref dy = sfi_gather(r, s->hidden, g);
    weight_gradient(r, s->gemm_dtype, s->hidden, s->attn_local, dy, a->o, dw->o);
    input_gradient(r, s->gemm_dtype, s->hidden, s->attn_local, dy, w->o, d_o);
    r->work.at = gathered;
    if (r->inputs) {
        attention_core_backward(r, a, d_o, d_qkv);
    }
    keep(r, sfi_mul(s->tokens, s->qkv_local), d_qkv, a->qkv);
    sf_ref n = gather_for_weights(r, a->n1);
    weight_gradient(r, s->gemm_dtype, s->qkv_local, s->hidden, d_qkv, n, dw->qkv);
    input_gradient(r, s->gemm_dtype, s->qkv_local, s->hidden, d_qkv, w->qkv, partial);
    reduce_inputs(r, partial, dn);
    r->work.at = mark;
}

void sfi_layer_backward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w,
                        const struct sfi_refs *dw, sf_ref g) {
    uint64_t mark = r->work.at, row = sfi_mul(r->shape->rows, r->shape->hidden);
    sf_ref dn = take(r, r->shape->rows, r->shape->hidden);
    sf_ref g_out = r->inputs ? g : a->out, g_mid = r->inputs ? g : a->xm;
    keep(r, row, g, a->out);
    if (r->shape->experts) {
        sfi_experts_backward(r, a, w, dw, g_out, dn);
    } else {
        ffn_backward(r, a, w, dw, g_out, dn);
    }
    norm_backward(r, true, (const sf_ref[]){dn, a->xm, w->norm2, a->rstd2, g, dw->norm2}, a->d_norm2);
    keep(r, row, g, a->xm);
    attention_backward(r, a, w, dw, g_mid, dn);
    norm_backward(r, true, (const sf_ref[]){dn, a->x, w->norm1, a->rstd1, g, dw->norm1}, a->d_norm1);
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

/* What a selective forward did not keep. */
static void redo_light(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w) {
    const struct sfi_shape *s = r->shape;
    r->flags = SF_CALL_RECOMPUTE_FLAG;
    sfi_call_norm_fwd(r, a->x, w->norm1, a->n1, a->rstd1);
    sfi_call_norm_fwd(r, a->xm, w->norm2, a->n2, a->rstd2);
    sfi_call_glu(r, SF_CALL_GLU_FWD, s->experts ? s->all_picks : s->tokens, (const sf_ref[]){a->gate_up, a->act}, 2);
    r->flags = 0;
}

static void layers_backward(struct sfi_recipe *r, sf_ref g) {
    for (uint32_t i = r->vs->layers; i-- > 0;) {
        struct sfi_acts a;
        struct sfi_refs w, dw;
        uint64_t mark = r->work.at;
        sfi_acts_of(r, i, &a);
        sfi_refs_of(r, i, false, &w);
        sfi_refs_of(r, i, true, &dw);
        if (r->shape->recompute && r->inputs) {
            recompute_layer(r, &a, &w);
        }
        if (r->shape->selective) {
            redo_light(r, &a, &w);
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
    sf_ref dn = take(r, s->rows, s->hidden), partial = partial_of(r, dn);
    sf_ref n = gather_for_weights(r, h.n);
    weight_gradient(r, s->dtype, s->vocab_local, s->hidden, h.logits, n, SF_REF(r->f.grad, p->head));
    input_gradient(r, s->dtype, s->vocab_local, s->hidden, h.logits, SF_REF(r->f.param, p->head), partial);
    reduce_inputs(r, partial, dn);
    norm_backward(r, false, (const sf_ref[]){dn, h.x, SF_REF(r->f.param, norm), h.rstd, g, SF_REF(r->f.grad, norm)},
                  h.d_norm);
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
    sfi_call_embed(r, SF_CALL_EMBED_BWD, (const sf_ref[]){SF_REF(r->f.tokens, 0), dy, table});
}

static void backward_formals(const struct sfi_compile *c, struct sfi_vstage *vs) {
    struct sfi_formals f = {.held = SF_NONE, .targets = SF_NONE, .loss = SF_NONE};
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

static void half_formals(const struct sfi_compile *c, struct sfi_vstage *vs) {
    struct sfi_formals in = {.grad = SF_NONE, .expert_grad = SF_NONE, .targets = SF_NONE, .loss = SF_NONE};
    in.param = sfi_formal(&in, true);
    in.expert = sfi_formal(&in, c->shape.experts > 0);
    in.stash = sfi_formal(&in, vs->stash_bytes > 0);
    in.held = sfi_formal(&in, vs->held_bytes > 0);
    in.head = sfi_formal(&in, vs->is_last);
    in.x = sfi_formal(&in, true);
    in.y = sfi_formal(&in, !vs->is_last);
    in.dx = sfi_formal(&in, !vs->is_first);
    in.tokens = SF_NONE;
    in.work = sfi_formal(&in, true);
    vs->bwd_input = in;
    struct sfi_formals w = {.param = SF_NONE, .expert = SF_NONE, .x = SF_NONE, .y = SF_NONE, .dx = SF_NONE};
    w.targets = w.loss = SF_NONE;
    w.grad = sfi_formal(&w, true);
    w.expert_grad = sfi_formal(&w, c->shape.experts > 0);
    w.stash = sfi_formal(&w, vs->held_bytes == 0);
    w.held = sfi_formal(&w, vs->held_bytes > 0);
    w.head = sfi_formal(&w, vs->is_last);
    w.tokens = sfi_formal(&w, vs->is_first);
    w.work = sfi_formal(&w, true);
    vs->bwd_weight = w;
}

/* The gradient of the chunk's output. */
static void begin_backward(struct sfi_recipe *r, sf_ref g) {
    if (r->vs->is_last) {
        head_backward(r, g);
    } else if (r->inputs) {
        sfi_call_copy(r, SF_REF(r->f.y, 0), g);
    }
}

static void end_backward(struct sfi_recipe *r, sf_ref g) {
    sf_ref kept = is_half(r) ? sfi_embedded_gradient(r) : g;
    if (!r->vs->is_first) {
        return;
    }
    keep(r, sfi_mul(r->shape->rows, r->shape->hidden), g, kept);
    if (r->weights) {
        embed_backward(r, kept);
    }
}

static uint32_t backward_recipe(struct sfi_recipe *r, struct sfi_vstage *vs, const char *half) {
    char name[SF_NAME];
    uint32_t layers = vs->layers;
    r->work.formal = r->f.work;
    snprintf(name, sizeof name, "backward%s%s%s %u%s", half, r->add ? " add" : "", vs->is_first ? " embed" : "", layers,
             vs->is_last ? " head" : "");
    sf_build_recipe_begin(r->c->b, name, r->f.n);
    sf_ref g = vs->is_first ? take(r, r->shape->rows, r->shape->hidden) : SF_REF(r->f.dx, 0);
    begin_backward(r, g);
    layers_backward(r, g);
    end_backward(r, g);
    vs->work_bytes = r->work.peak > vs->work_bytes ? r->work.peak : vs->work_bytes;
    return sf_build_recipe_end(r->c->b);
}

/* [0] overwrites weight gradients, [1] adds to them. */
static void weight_recipes(const struct sfi_compile *c, struct sfi_vstage *vs, bool whole, uint32_t out[2]) {
    for (uint32_t add = 0; add < 2; add++) {
        struct sfi_recipe r = {.c = c, .vs = vs, .shape = &c->shape, .inputs = whole, .weights = true, .add = add > 0};
        r.f = whole ? vs->bwd : vs->bwd_weight;
        out[add] =
            add == 0 || sfi_canonical_run(c->plan) > 1 ? backward_recipe(&r, vs, whole ? "" : " weight") : out[0];
    }
}

void sfi_backward_recipes(const struct sfi_compile *c, struct sfi_vstage *vs) {
    if (c->table.whole) {
        backward_formals(c, vs);
        weight_recipes(c, vs, true, vs->recipe_bwd);
    }
    if (c->table.split) {
        struct sfi_recipe r = {.c = c, .vs = vs, .shape = &c->shape, .inputs = true};
        half_formals(c, vs);
        r.f = vs->bwd_input;
        vs->recipe_input = backward_recipe(&r, vs, " input");
        weight_recipes(c, vs, false, vs->recipe_weight);
    }
}
