/* Where activations lie: a layer's block in the stash, or in working memory when it is computed again; computed again
 * for a split backward, in a buffer that is held for its weight half. */
#include "planner/compile_internal.h"

static uint64_t matrix(const struct sfi_shape *s, uint64_t rows, uint64_t cols) {
    return sfi_mul(sfi_mul(rows, cols), s->elem);
}

static uint64_t floats(uint64_t n) {
    return sfi_mul(n, 4);
}

/* Everything but the layer's input and output; in `light` what is cheap to make again. Split backwards keep the
 * gradients of the norms' weights, which their input half makes in passing, until the weight half may add them. */
static void place_acts(const struct sfi_shape *s, struct sfi_bump *b, struct sfi_bump *light, struct sfi_acts *a) {
    uint64_t ffn_rows = s->experts ? s->expert_room : s->tokens;
    *a = (struct sfi_acts){.scores = SF_REF_NONE,
                           .ids = SF_REF_NONE,
                           .weights = SF_REF_NONE,
                           .dispatched = SF_REF_NONE,
                           .d_norm1 = SF_REF_NONE,
                           .d_norm2 = SF_REF_NONE,
                           .d_rows = SF_REF_NONE};
    a->rstd1 = sfi_take(light, floats(s->rows));
    a->n1 = sfi_take(light, s->row_bytes);
    a->qkv = sfi_take(b, matrix(s, s->tokens, s->qkv_local));
    a->o = sfi_take(b, matrix(s, s->tokens, s->attn_local));
    a->lse = sfi_take(b, floats(sfi_mul(s->tokens, s->heads_local)));
    a->xm = sfi_take(b, s->row_bytes);
    a->rstd2 = sfi_take(light, floats(s->rows));
    a->n2 = sfi_take(light, s->row_bytes);
    a->gate_up = sfi_take(b, matrix(s, ffn_rows, s->up_local));
    a->act = sfi_take(light, matrix(s, ffn_rows, s->ffn_local));
    if (s->experts) {
        a->scores = sfi_take(b, matrix(s, s->rows, s->experts));
        a->ids = sfi_take(b, floats(s->picks));
        a->weights = sfi_take(b, floats(s->picks));
        a->dispatched = sfi_take(b, sfi_dispatch_room(s));
    }
    if (s->split) {
        a->d_norm1 = sfi_take(b, sfi_mul(s->hidden, s->elem));
        a->d_norm2 = sfi_take(b, sfi_mul(s->hidden, s->elem));
        a->d_rows = sfi_take(b, s->experts ? sfi_dispatch_room(s) : 0);
    }
}

static uint64_t acts_bytes(const struct sfi_shape *s) {
    struct sfi_bump b = {0}, light = {0};
    struct sfi_acts a;
    place_acts(s, &b, s->selective ? &light : &b, &a);
    return b.peak;
}

static uint64_t row_room(const struct sfi_shape *s) {
    return sfi_round_up(s->row_bytes, SFI_ALIGN);
}

/* A layer's block: its activations unless they are computed again, then its output, which the next layer reads. */
static uint64_t block_bytes(const struct sfi_shape *s) {
    return (s->recompute ? 0 : acts_bytes(s)) + row_room(s);
}

/* A block that a weight half reads. */
static uint64_t kept_bytes(const struct sfi_shape *s) {
    return acts_bytes(s) + row_room(s);
}

/* Nobody reads the last layer's output from its block. But what is kept for the weight half has a place there, and one
 * for the embedding's gradient behind. */
uint64_t sfi_stash_bytes(const struct sfi_shape *s, uint32_t layers) {
    uint64_t blocks = sfi_mul(layers, block_bytes(s));
    return s->split && !s->recompute ? blocks + row_room(s) : blocks - row_room(s);
}

uint64_t sfi_held_bytes(const struct sfi_shape *s, uint32_t layers) {
    return s->split && s->recompute ? sfi_mul(layers, kept_bytes(s)) + row_room(s) : 0;
}

static uint32_t kept_formal(const struct sfi_recipe *r) {
    return r->f.held != SF_NONE ? r->f.held : r->f.stash;
}

sf_ref sfi_embedded_gradient(const struct sfi_recipe *r) {
    return SF_REF(kept_formal(r), sfi_mul(r->vs->layers, kept_bytes(r->shape)));
}

sf_ref sfi_layer_output(const struct sfi_recipe *r, uint32_t layer) {
    uint64_t end = sfi_mul(layer + 1, block_bytes(r->shape));
    return SF_REF(r->f.stash, end - row_room(r->shape));
}

void sfi_acts_of(struct sfi_recipe *r, uint32_t layer, struct sfi_acts *out) {
    bool again = r->shape->recompute && r->f.held == SF_NONE;
    struct sfi_bump kept = {.formal = kept_formal(r), .at = sfi_mul(layer, kept_bytes(r->shape))};
    struct sfi_bump *at = again ? &r->work : &kept;
    place_acts(r->shape, at, r->shape->selective ? &r->work : at, out);
    out->out = again ? SF_REF_NONE : sfi_take(&kept, r->shape->row_bytes);
    out->x = layer == 0 ? SF_REF(r->f.x, 0) : sfi_layer_output(r, layer - 1);
}

static void place_head(const struct sfi_shape *s, struct sfi_bump *b, struct sfi_head *h) {
    h->x = sfi_take(b, s->row_bytes);
    h->rstd = sfi_take(b, floats(s->rows));
    h->n = sfi_take(b, s->row_bytes);
    h->logits = sfi_take(b, matrix(s, s->tokens, s->vocab_local));
    h->d_norm = s->split ? sfi_take(b, sfi_mul(s->hidden, s->elem)) : SF_REF_NONE;
}

uint64_t sfi_head_bytes(const struct sfi_shape *s) {
    struct sfi_bump b = {0};
    struct sfi_head h;
    place_head(s, &b, &h);
    return b.peak;
}

void sfi_head_of(const struct sfi_recipe *r, struct sfi_head *out) {
    struct sfi_bump b = {.formal = r->f.head};
    place_head(r->shape, &b, out);
}

void sfi_refs_of(const struct sfi_recipe *r, uint32_t layer, bool gradients, struct sfi_refs *out) {
    const struct sfi_params *p = &r->vs->params;
    uint32_t dense = gradients ? r->f.grad : r->f.param;
    uint32_t ffn = !r->shape->experts ? dense : gradients ? r->f.expert_grad : r->f.expert;
    uint64_t at = p->layer0 + layer * p->layer_stride;
    uint64_t ffn_at = r->shape->experts ? p->expert0 + layer * p->expert_stride : at;
    out->norm1 = SF_REF(dense, sfi_params_norm(p, 2 * (uint64_t)layer));
    out->norm2 = SF_REF(dense, sfi_params_norm(p, 2 * (uint64_t)layer + 1));
    out->qkv = SF_REF(dense, at + p->qkv);
    out->o = SF_REF(dense, at + p->o);
    out->router = SF_REF(dense, p->routers + layer * p->router_stride);
    out->gate_up = SF_REF(ffn, ffn_at + p->gate_up);
    out->down = SF_REF(ffn, ffn_at + p->down);
}
