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

/* A norm's vectors, the gaps behind them left alone. */
static void add_vectors(struct sfi_recipe *r, sf_ref from, sf_ref to) {
    const uint64_t n[3] = {r->shape->hidden};
    uint64_t step = sfi_vector_bytes(r->shape, r->shape->hidden);
    for (uint64_t at = 0; at < sfi_norm_bytes(r->shape); at += step) {
        if (r->add) {
            sfi_call_simple(r, SF_CALL_ADD, n, (const sf_ref[]){to + at, from + at, to + at}, 3);
        } else {
            sfi_call_simple(r, SF_CALL_COPY, n, (const sf_ref[]){from + at, to + at}, 2);
        }
    }
}

/* The input half leaves dw in `kept`, and the weight half adds it. A canonical whole does the same within itself: the
 * kernel would add row by row, which rounds differently. */
void sfi_norm_backward(struct sfi_recipe *r, bool add_dx, const sf_ref operand[6], sf_ref kept) {
    bool half = sfi_is_half(r), apart = !half && r->add && r->c->plan->canonical;
    uint64_t mark = r->work.at;
    sf_ref dw = half ? kept : apart ? sfi_take(&r->work, sfi_norm_bytes(r->shape)) : operand[5];
    if (r->inputs) {
        const sf_ref all[] = {operand[0], operand[1], operand[2], operand[3], operand[4], dw};
        sfi_call_norm_bwd(r, add_dx, r->add && !half && !apart, all);
    }
    if (!r->inputs || apart) {
        add_vectors(r, dw, operand[5]);
    }
    r->work.at = mark;
}

/* The input half copies what the weight half needs. */
static void keep(struct sfi_recipe *r, uint64_t elements, sf_ref from, sf_ref to) {
    if (sfi_is_half(r) && r->inputs) {
        sfi_call_simple(r, SF_CALL_COPY, (const uint64_t[3]){elements}, (const sf_ref[]){from, to}, 2);
    }
}

void sfi_ffn_backward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w,
                      const struct sfi_refs *dw, sf_ref g, sf_ref dn) {
    const struct sfi_shape *s = r->shape;
    uint64_t mark = r->work.at;
    sf_ref partial = partial_of(r, dn);
    sf_ref d_act = take(r, s->tokens, s->ffn_local);
    sf_ref d_gate_up = sfi_is_half(r) ? a->gate_up : take(r, s->tokens, s->up_local);
    uint64_t gathered = r->work.at;
    sf_ref dy = sfi_gather(r, s->hidden, g);
    weight_gradient(r, s->gemm_dtype, s->hidden, s->ffn_local, dy, a->act, dw->down);
    sfi_bias_gradient(r, s->rows, s->hidden, g, dw->down_bias);
    input_gradient(r, s->gemm_dtype, s->hidden, s->ffn_local, dy, w->down, d_act);
    if (r->inputs) {
        sfi_call_glu(r, SF_CALL_GLU_BWD, s->tokens, (const sf_ref[]){d_act, a->gate_up, d_gate_up}, 3);
    }
    r->work.at = gathered;
    sf_ref n = gather_for_weights(r, a->n2);
    weight_gradient(r, s->gemm_dtype, s->up_local, s->hidden, d_gate_up, n, dw->gate_up);
    sfi_bias_gradient(r, s->tokens, s->up_local, d_gate_up, dw->up_bias);
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
    if (s->slices > 1) {
        sfi_slice_backward(r, a, d_o, d_qkv, sfi_take(&r->work, attention_scratch(s)));
        sfi_call_rope(r, SF_CALL_ROPE_BWD, d_qkv);
        r->work.at = mark;
        return;
    }
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
    bool latent = s->kv_rank > 0;
    sf_ref partial = latent ? SF_REF_NONE : partial_of(r, dn);
    sf_ref d_o = take(r, s->tokens, s->attn_local);
    sf_ref d_qkv = latent ? SF_REF_NONE : r->inputs ? take(r, s->tokens, s->qkv_local) : a->qkv;
    uint64_t gathered = r->work.at;
    sf_ref dy = sfi_gather(r, s->hidden, g);
    weight_gradient(r, s->gemm_dtype, s->hidden, s->attn_local, dy, a->o, dw->o);
    sfi_bias_gradient(r, s->rows, s->hidden, g, dw->o_bias);
    input_gradient(r, s->gemm_dtype, s->hidden, s->attn_local, dy, w->o, d_o);
    r->work.at = gathered;
    if (latent) {
        sfi_latent_backward(r, a, w, dw, d_o, dn);
        r->work.at = mark;
        return;
    }
    if (r->inputs) {
        attention_core_backward(r, a, d_o, d_qkv);
    }
    keep(r, sfi_mul(s->tokens, s->qkv_local), d_qkv, a->qkv);
    sf_ref n = gather_for_weights(r, a->n1);
    weight_gradient(r, s->gemm_dtype, s->qkv_local, s->hidden, d_qkv, n, dw->qkv);
    sfi_bias_gradient(r, s->tokens, s->qkv_local, d_qkv, dw->qkv_bias);
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
        sfi_shared_backward(r, a, w, dw, g_out, dn);
    } else {
        sfi_ffn_backward(r, a, w, dw, g_out, dn);
    }
    sfi_norm_backward(r, true, (const sf_ref[]){dn, a->xm, w->norm2, a->rstd2, g, dw->norm2}, a->d_norm2);
    keep(r, row, g, a->xm);
    attention_backward(r, a, w, dw, g_mid, dn);
    sfi_norm_backward(r, true, (const sf_ref[]){dn, a->x, w->norm1, a->rstd1, g, dw->norm1}, a->d_norm1);
    r->work.at = mark;
}

/* Checkpointing: the layer runs forward once more, then backward from what that left in working memory. */
static void recompute_layer(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w) {
    uint64_t mark = r->work.at;
    r->flags = SF_CALL_RECOMPUTE_FLAG;
    sf_ref out = sfi_take(&r->work, r->shape->row_bytes);
    sfi_call_norm_fwd(r, a->x, &(struct sfi_norm){w->norm1, a->n1, a->rstd1});
    sfi_layer_forward(r, a, w, out, &(struct sfi_norm){.w = SF_REF_NONE});
    r->flags = 0;
    r->work.at = mark;
}

/* What a selective forward did not keep. */
static void redo_light(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w) {
    const struct sfi_shape *s = r->shape;
    r->flags = SF_CALL_RECOMPUTE_FLAG;
    if (s->selective) {
        sfi_call_norm_fwd(r, a->x, &(struct sfi_norm){w->norm1, a->n1, a->rstd1});
        sfi_call_norm_fwd(r, a->xm, &(struct sfi_norm){w->norm2, a->n2, a->rstd2});
        sfi_call_glu(r, SF_CALL_GLU_FWD, s->experts ? s->all_picks : s->tokens, (const sf_ref[]){a->gate_up, a->act},
                     2);
        sfi_shared_redo(r, a);
    }
    if (s->redo_up) {
        sfi_latent_up(r, a, w);
    }
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
        r->shape = sfi_layer_shape(r->c, r->vs->first_layer + i);
        if (r->shape->recompute && r->inputs) {
            recompute_layer(r, &a, &w);
        }
        if (r->shape->selective || r->shape->redo_up) {
            redo_light(r, &a, &w);
        }
        sfi_layer_backward(r, &a, &w, &dw, g);
        r->work.at = mark;
    }
    r->shape = &r->c->shape;
}

/* Only adds, so a table that starts afresh is cleared first, unless a gradient of the head, or of a layer that predicts
 * further, already lies there. */
static void embed_backward(struct sfi_recipe *r, sf_ref g) {
    const struct sfi_shape *s = r->shape;
    const struct sfi_params *p = &r->vs->params;
    sf_ref table = SF_REF(r->f.grad, p->embed);
    if (!r->add && p->embed != p->head && p->embed != p->further) {
        const uint64_t n[3] = {sfi_mul(s->vocab_local, s->hidden)};
        sfi_call_simple(r, SF_CALL_ZERO, n, &table, 1);
    }
    sfi_positions_gradient(r, g);
    sf_ref dy = sfi_gather(r, s->hidden, g);
    sfi_call_embed(r, SF_CALL_EMBED_BWD, (const sf_ref[]){SF_REF(r->f.tokens, 0), dy, table});
}

static bool makes_logits(const struct sfi_compile *c, const struct sfi_vstage *vs) {
    return vs->head && c->shape.loss_rows > 0;
}

static void backward_formals(const struct sfi_compile *c, struct sfi_vstage *vs) {
    struct sfi_formals f = {.held = SF_NONE};
    f.param = sfi_formal(&f, true);
    f.expert = sfi_formal(&f, vs->params.bytes[SFI_EXPERT] > 0);
    f.grad = sfi_formal(&f, true);
    f.expert_grad = sfi_formal(&f, vs->params.bytes[SFI_EXPERT] > 0);
    f.stash = sfi_formal(&f, vs->stash_bytes > 0);
    f.keys = sfi_formal(&f, vs->keys_bytes > 0);
    f.sums = sfi_formal(&f, vs->sums_bytes > 0);
    f.head = sfi_formal(&f, vs->ends || vs->head);
    f.x = sfi_formal(&f, true);
    f.y = sfi_formal(&f, !vs->is_last && !sfi_is_part(c, vs));
    f.dx = sfi_formal(&f, !vs->is_first);
    f.tokens = sfi_formal(&f, vs->is_first);
    f.targets = sfi_formal(&f, makes_logits(c, vs) || sfi_is_part(c, vs) || vs->mtp > 0);
    f.loss = sfi_formal(&f, makes_logits(c, vs) || (sfi_is_part(c, vs) && vs->is_last));
    f.work = sfi_formal(&f, true);
    vs->bwd = f;
}

static void half_formals(const struct sfi_compile *c, struct sfi_vstage *vs) {
    struct sfi_formals in = {.grad = SF_NONE, .expert_grad = SF_NONE};
    in.param = sfi_formal(&in, true);
    in.expert = sfi_formal(&in, vs->params.bytes[SFI_EXPERT] > 0);
    in.stash = sfi_formal(&in, vs->stash_bytes > 0);
    in.keys = sfi_formal(&in, vs->keys_bytes > 0);
    in.sums = sfi_formal(&in, vs->sums_bytes > 0);
    in.held = sfi_formal(&in, vs->held_bytes > 0);
    in.head = sfi_formal(&in, vs->ends || vs->head);
    in.x = sfi_formal(&in, true);
    in.y = sfi_formal(&in, !vs->is_last && !sfi_is_part(c, vs));
    in.dx = sfi_formal(&in, !vs->is_first);
    in.tokens = SF_NONE;
    in.targets = sfi_formal(&in, makes_logits(c, vs));
    in.loss = sfi_formal(&in, makes_logits(c, vs));
    in.work = sfi_formal(&in, true);
    vs->bwd_input = in;
    struct sfi_formals w = {.expert = SF_NONE, .x = SF_NONE, .y = SF_NONE, .dx = SF_NONE, .loss = SF_NONE};
    w.keys = w.sums = SF_NONE;
    w.param = sfi_formal(&w, makes_logits(c, vs));
    w.grad = sfi_formal(&w, true);
    w.expert_grad = sfi_formal(&w, vs->params.bytes[SFI_EXPERT] > 0);
    w.stash = sfi_formal(&w, sfi_needs_stash(vs));
    w.held = sfi_formal(&w, vs->held_bytes > 0);
    w.head = sfi_formal(&w, vs->ends || vs->head);
    w.tokens = sfi_formal(&w, vs->is_first);
    w.targets = sfi_formal(&w, makes_logits(c, vs) || vs->mtp > 0);
    w.work = sfi_formal(&w, true);
    vs->bwd_weight = w;
}

/* The gradient of the chunk's output. */
static void begin_backward(struct sfi_recipe *r, sf_ref g) {
    if (sfi_is_part(r->c, r->vs)) {
        sfi_part_backward(r, g);
    } else if (r->vs->ends) {
        sfi_mtp_backward(r, g);
        sfi_head_backward(r, g);
    } else if (r->inputs) {
        sfi_call_copy(r, SF_REF(r->f.y, 0), g);
    }
}

static void end_backward(struct sfi_recipe *r, sf_ref g) {
    sf_ref kept = sfi_is_half(r) ? sfi_embedded_gradient(r) : g;
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
             vs->head ? " head" : "");
    sf_build_recipe_begin(r->c->b, name, r->f.n);
    sf_ref g = vs->is_first ? take(r, r->shape->rows, r->shape->hidden) : SF_REF(r->f.dx, 0);
    begin_backward(r, g);
    layers_backward(r, g);
    end_backward(r, g);
    vs->work_bytes = r->work.peak > vs->work_bytes ? r->work.peak : vs->work_bytes;
    return sf_build_recipe_end(r->c->b);
}

/* Does anybody add to what another pass made? */
static bool adds(const struct sfi_compile *c) {
    return sfi_canonical_run(c->plan) > 1 || c->shape.slices > 1;
}

/* [0] overwrites weight gradients, [1] adds to them. */
static void weight_recipes(const struct sfi_compile *c, struct sfi_vstage *vs, uint32_t slice, bool whole,
                           uint32_t out[2]) {
    for (uint32_t add = 0; add < 2; add++) {
        struct sfi_recipe r = {.c = c, .vs = vs, .shape = &c->shape, .inputs = whole, .weights = true, .add = add > 0};
        r.f = whole ? vs->bwd : vs->bwd_weight;
        r.slice = slice;
        out[add] = add == 0 || adds(c) ? backward_recipe(&r, vs, whole ? "" : " weight") : out[0];
    }
}

void sfi_backward_recipes(const struct sfi_compile *c, struct sfi_vstage *vs) {
    backward_formals(c, vs);
    half_formals(c, vs);
    for (uint32_t slice = 0; slice < c->shape.slices; slice++) {
        struct sfi_recipes *to = &vs->recipes[slice];
        if (c->table.whole) {
            weight_recipes(c, vs, slice, true, to->bwd);
        }
        if (c->table.split) {
            struct sfi_recipe r = {.c = c, .vs = vs, .shape = &c->shape, .inputs = true, .slice = slice};
            r.f = vs->bwd_input;
            to->input = backward_recipe(&r, vs, " input");
            weight_recipes(c, vs, slice, false, to->weight);
        }
    }
}
