/* Where activations lie: a layer's block in the stash, or in working memory when it is computed again. */
#include "planner/compile_internal.h"

static uint64_t matrix(const struct sfi_shape *s, uint64_t rows, uint64_t cols) {
    return sfi_mul(sfi_mul(rows, cols), s->elem);
}

static uint64_t floats(uint64_t n) {
    return sfi_mul(n, 4);
}

/* Everything but the layer's input and output. */
static void place_acts(const struct sfi_shape *s, struct sfi_bump *b, struct sfi_acts *a) {
    uint64_t ffn_rows = s->experts ? s->expert_room : s->tokens;
    *a =
        (struct sfi_acts){.scores = SF_REF_NONE, .ids = SF_REF_NONE, .weights = SF_REF_NONE, .dispatched = SF_REF_NONE};
    a->rstd1 = sfi_take(b, floats(s->rows));
    a->n1 = sfi_take(b, s->row_bytes);
    a->qkv = sfi_take(b, matrix(s, s->tokens, s->qkv_local));
    a->o = sfi_take(b, matrix(s, s->tokens, s->attn_local));
    a->lse = sfi_take(b, floats(sfi_mul(s->tokens, s->heads_local)));
    a->xm = sfi_take(b, s->row_bytes);
    a->rstd2 = sfi_take(b, floats(s->rows));
    a->n2 = sfi_take(b, s->row_bytes);
    a->gate_up = sfi_take(b, matrix(s, ffn_rows, s->up_local));
    a->act = sfi_take(b, matrix(s, ffn_rows, s->ffn_local));
    if (s->experts) {
        a->scores = sfi_take(b, matrix(s, s->rows, s->experts));
        a->ids = sfi_take(b, floats(s->picks));
        a->weights = sfi_take(b, floats(s->picks));
        a->dispatched = sfi_take(b, sfi_dispatch_room(s));
    }
}

static uint64_t acts_bytes(const struct sfi_shape *s) {
    struct sfi_bump b = {0};
    struct sfi_acts a;
    place_acts(s, &b, &a);
    return b.peak;
}

/* A layer's block: its activations unless they are computed again, then its output, which the next layer reads. */
static uint64_t block_bytes(const struct sfi_shape *s) {
    return (s->recompute ? 0 : acts_bytes(s)) + sfi_round_up(s->row_bytes, SFI_ALIGN);
}

uint64_t sfi_stash_bytes(const struct sfi_shape *s, uint32_t layers) {
    return sfi_mul(layers, block_bytes(s)) - sfi_round_up(s->row_bytes, SFI_ALIGN);
}

sf_ref sfi_layer_output(const struct sfi_recipe *r, uint32_t layer) {
    uint64_t end = sfi_mul(layer + 1, block_bytes(r->shape));
    return SF_REF(r->f.stash, end - sfi_round_up(r->shape->row_bytes, SFI_ALIGN));
}

void sfi_acts_of(struct sfi_recipe *r, uint32_t layer, struct sfi_acts *out) {
    if (r->shape->recompute) {
        place_acts(r->shape, &r->work, out);
    } else {
        struct sfi_bump b = {.formal = r->f.stash, .at = sfi_mul(layer, block_bytes(r->shape))};
        place_acts(r->shape, &b, out);
    }
    out->x = layer == 0 ? SF_REF(r->f.x, 0) : sfi_layer_output(r, layer - 1);
}

static void place_head(const struct sfi_shape *s, struct sfi_bump *b, struct sfi_head *h) {
    h->x = sfi_take(b, s->row_bytes);
    h->rstd = sfi_take(b, floats(s->rows));
    h->n = sfi_take(b, s->row_bytes);
    h->logits = sfi_take(b, matrix(s, s->tokens, s->vocab_local));
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
