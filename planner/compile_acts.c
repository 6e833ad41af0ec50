/* Where activations lie: a layer's block in the stash, or in working memory when it is computed again; computed again
 * for a split backward, in a buffer that is held for its weight half. */
#include "planner/compile_internal.h"

static uint64_t matrix(const struct sfi_shape *s, uint64_t rows, uint64_t cols) {
    return sfi_mul(sfi_mul(rows, cols), s->elem);
}

/* What is kept only as the input of a product: as narrow as the product takes it. */
static uint64_t product_input(const struct sfi_shape *s, uint64_t rows, uint64_t cols) {
    uint64_t bytes = (uint64_t)sf_dtype_bytes(s->gemm_dtype);
    return sfi_mul(sfi_mul(rows, cols), bytes < s->elem ? bytes : s->elem);
}

/* The copy of what others read at full width too. */
static uint64_t copied_input(const struct sfi_shape *s, uint64_t rows, uint64_t cols) {
    return (uint64_t)sf_dtype_bytes(s->gemm_dtype) < s->elem ? product_input(s, rows, cols) : 0;
}

static uint64_t floats(uint64_t n) {
    return sfi_mul(n, 4);
}

/* A router works at full width, so it has its rows beside those of the products. */
static uint64_t router_input(const struct sfi_shape *s) {
    bool narrow = (uint64_t)sf_dtype_bytes(s->gemm_dtype) < s->elem;
    return s->experts && narrow ? s->row_bytes : 0;
}

/* Statistics of a norm. */
static uint64_t statistics(const struct sfi_shape *s) {
    return sfi_round_up(floats(s->rows), SFI_ALIGN) * (s->layernorm ? 2 : 1);
}

/* Where a layer's activations go: what is kept, what is cheap to make again, and what latent vectors are enough for. */
struct places {
    struct sfi_bump *kept, *light, *up;
};

/* Everything but the layer's input and output. Split backwards keep the
 * gradients of the norms' weights, which their input half makes in passing, until the weight half may add them. */
static void place_acts(const struct sfi_shape *s, const struct places *to, struct sfi_acts *a) {
    struct sfi_bump *b = to->kept, *light = to->light;
    uint64_t ffn_rows = s->experts ? s->expert_room : s->tokens;
    *a = (struct sfi_acts){.scores = SF_REF_NONE,
                           .ids = SF_REF_NONE,
                           .weights = SF_REF_NONE,
                           .dispatched = SF_REF_NONE,
                           .d_norm1 = SF_REF_NONE,
                           .d_norm2 = SF_REF_NONE,
                           .d_rows = SF_REF_NONE};
    a->rstd1 = sfi_take(light, statistics(s));
    a->n1 = sfi_take(light, product_input(s, s->rows, s->hidden));
    if (s->kv_rank > 0) {
        sfi_latent_acts(s, b, to->up, a);
    } else {
        a->qkv = sfi_take(b, matrix(s, s->tokens, s->qkv_local));
    }
    a->o = sfi_take(b, matrix(s, s->tokens, s->attn_local) + copied_input(s, s->tokens, s->attn_local));
    a->lse = sfi_take(b, floats(sfi_mul(s->tokens, s->heads_local)));
    a->xm = sfi_take(b, s->row_bytes);
    a->rstd2 = sfi_take(light, statistics(s));
    a->n2 = sfi_take(light, product_input(s, s->rows, s->hidden) + router_input(s));
    a->gate_up = sfi_take(b, matrix(s, ffn_rows, s->up_local));
    a->act = sfi_take(light, product_input(s, ffn_rows, s->ffn_local));
    if (s->experts) {
        a->scores = sfi_take(b, matrix(s, s->rows, s->experts + s->shared_gate));
        a->ids = sfi_take(b, floats(s->picks));
        a->weights = sfi_take(b, floats(s->picks));
        a->dispatched = sfi_take(b, product_input(s, sfi_dispatch_room(s) / (s->hidden * s->elem), s->hidden));
        a->shared_up = sfi_take(b, matrix(s, s->tokens, s->shared_up));
        a->shared_act = sfi_take(light, product_input(s, s->tokens, s->shared_local));
    }
    if (s->split) {
        a->d_norm1 = sfi_take(b, sfi_norm_bytes(s));
        a->d_norm2 = sfi_take(b, sfi_norm_bytes(s));
        a->d_rows = sfi_take(b, s->experts ? sfi_dispatch_room(s) : 0);
    }
}

static struct places places_of(const struct sfi_shape *s, struct sfi_bump *kept, struct sfi_bump *work) {
    return (struct places){.kept = kept, .light = s->selective ? work : kept, .up = s->redo_up ? work : kept};
}

static uint64_t acts_bytes(const struct sfi_shape *s) {
    struct sfi_bump b = {0}, work = {0};
    struct sfi_acts a;
    const struct places to = places_of(s, &b, &work);
    place_acts(s, &to, &a);
    return b.peak;
}

void sfi_place_block(const struct sfi_shape *s, struct sfi_bump *b, struct sfi_acts *out) {
    const struct places all = {.kept = b, .light = b, .up = b};
    place_acts(s, &all, out);
}

uint64_t sfi_row_room(const struct sfi_shape *s) {
    return sfi_round_up(s->row_bytes, SFI_ALIGN);
}

/* A layer's block: its activations unless they are computed again, then its output, which the next layer reads. */
uint64_t sfi_block_bytes(const struct sfi_shape *s) {
    return (s->recompute ? 0 : acts_bytes(s)) + sfi_row_room(s);
}

/* A block that a weight half reads. */
static uint64_t kept_bytes(const struct sfi_shape *s) {
    return acts_bytes(s) + sfi_row_room(s);
}

/* Of `layers` layers from `first` on: those with experts have the size of the first shape. */
static uint64_t blocks_of(const struct sf_model *m, uint32_t first, uint32_t layers,
                          const struct sfi_shape *const of[2], uint64_t bytes_of(const struct sfi_shape *)) {
    uint64_t routed = sf_model_routed(m, first + layers) - sf_model_routed(m, first);
    return sfi_mul(routed, bytes_of(of[0])) + sfi_mul(layers - routed, bytes_of(of[1]));
}

/* Bytes of the blocks of a virtual stage's first layers. */
static uint64_t first_blocks(const struct sfi_compile *c, const struct sfi_vstage *vs, uint32_t layers,
                             uint64_t bytes_of(const struct sfi_shape *)) {
    const struct sfi_shape *const again[] = {&c->shape, &c->dense}, *const rest[] = {&c->rest, &c->rest_dense};
    uint32_t before = layers < vs->again ? layers : vs->again;
    uint64_t bytes = blocks_of(&c->s->model, vs->first_layer, before, again, bytes_of);
    return bytes + blocks_of(&c->s->model, vs->first_layer + before, layers - before, rest, bytes_of);
}

/* What splits make again is held for their weight half. */
static bool holds(const struct sfi_compile *c, const struct sfi_vstage *vs) {
    return c->shape.split && c->shape.recompute && (vs->again > 0 || vs->layers == 0);
}

/* Nobody reads the last layer's output from its block. But what is kept for the weight half has a place there, and one
 * for the embedding's gradient behind. */
uint64_t sfi_stash_bytes(const struct sfi_compile *c, const struct sfi_vstage *vs) {
    uint64_t blocks = first_blocks(c, vs, vs->layers, sfi_block_bytes), room = sfi_row_room(&c->shape);
    if (c->shape.split && !sfi_all_again(c, vs)) {
        return blocks + (holds(c, vs) ? 0 : room);
    }
    return vs->layers > 0 ? blocks - room : 0;
}

uint64_t sfi_held_bytes(const struct sfi_compile *c, const struct sfi_vstage *vs) {
    return holds(c, vs) ? first_blocks(c, vs, vs->again, kept_bytes) + sfi_row_room(&c->shape) : 0;
}

sf_ref sfi_embedded_gradient(const struct sfi_recipe *r) {
    bool held = r->f.held != SF_NONE;
    uint64_t at = held ? first_blocks(r->c, r->vs, r->vs->again, kept_bytes)
                       : first_blocks(r->c, r->vs, r->vs->layers, sfi_block_bytes);
    return SF_REF(held ? r->f.held : r->f.stash, at);
}

sf_ref sfi_layer_output(const struct sfi_recipe *r, uint32_t layer) {
    return SF_REF(r->f.stash, first_blocks(r->c, r->vs, layer + 1, sfi_block_bytes) - sfi_row_room(r->shape));
}

void sfi_acts_of(struct sfi_recipe *r, uint32_t layer, struct sfi_acts *out) {
    const struct sfi_shape *s = sfi_layer_shape(r->c, r->vs->first_layer + layer);
    bool held = s->recompute && r->f.held != SF_NONE, again = s->recompute && !held;
    struct sfi_bump kept = {.formal = held ? r->f.held : r->f.stash,
                            .at = first_blocks(r->c, r->vs, layer, held ? kept_bytes : sfi_block_bytes)};
    const struct places to = places_of(s, again ? &r->work : &kept, &r->work);
    place_acts(s, &to, out);
    out->out = again ? SF_REF_NONE : sfi_take(&kept, s->row_bytes);
    out->layer = layer;
    out->x = layer == 0 ? SF_REF(r->f.x, 0) : sfi_layer_output(r, layer - 1);
}

void sfi_place_head(const struct sfi_shape *s, const struct sfi_vstage *vs, struct sfi_bump *b, struct sfi_head *h) {
    uint64_t vocab = s->vocab_part > 0 ? s->vocab_part : s->vocab_local;
    uint64_t stats = s->vocab_part > 0 ? 2 * floats(s->tokens) : 0;
    h->x = vs->ends ? sfi_take(b, s->row_bytes) : SF_REF_NONE;
    h->rstd = vs->ends ? sfi_take(b, statistics(s)) : SF_REF_NONE;
    h->n = vs->ends && vs->head ? sfi_take(b, s->row_bytes) : SF_REF_NONE;
    h->logits = s->loss_rows > 0 || !vs->head ? SF_REF_NONE : sfi_take(b, matrix(s, s->tokens, vocab));
    h->d_norm = s->split ? sfi_take(b, sfi_norm_bytes(s)) : SF_REF_NONE;
    h->own_stats = sfi_take(b, vs->head ? stats : 0);
    h->all_stats = sfi_take(b, vs->head && stats > 0 ? sfi_mul(stats, s->vocab_parts) : 0);
}

uint64_t sfi_head_bytes(const struct sfi_shape *s, const struct sfi_vstage *vs) {
    struct sfi_bump b = {0};
    struct sfi_head h;
    sfi_place_head(s, vs, &b, &h);
    return vs->ends || vs->head ? b.peak : 0;
}

void sfi_head_of(const struct sfi_recipe *r, struct sfi_head *out) {
    struct sfi_bump b = {.formal = r->f.head};
    uint32_t before = sfi_is_part(r->c, r->vs) ? r->depth : 0;
    for (uint32_t i = 0; i <= before; i++) {
        sfi_place_head(r->shape, r->vs, &b, out);
    }
}

static void biases_of(const struct sfi_recipe *r, uint32_t layer, uint32_t formal, struct sfi_refs *out) {
    const struct sfi_shape *s = r->shape;
    const struct sfi_params *p = &r->vs->params;
    uint64_t local = p->local_biases + layer * p->local_stride, whole = p->biases + layer * p->bias_stride;
    uint64_t behind_qkv = s->qkv_bias ? sfi_vector_bytes(s, s->qkv_local) : 0;
    uint64_t behind_o = s->out_bias ? sfi_vector_bytes(s, s->hidden) : 0;
    out->qkv_bias = s->qkv_bias ? SF_REF(formal, local) : SF_REF_NONE;
    out->up_bias = s->ffn_bias ? SF_REF(formal, local + behind_qkv) : SF_REF_NONE;
    out->o_bias = s->out_bias ? SF_REF(formal, whole) : SF_REF_NONE;
    out->down_bias = s->ffn_bias ? SF_REF(formal, whole + behind_o) : SF_REF_NONE;
}

static void latents_of(const struct sfi_shape *s, const struct sfi_place *at, uint32_t dense, struct sfi_refs *out) {
    uint64_t behind_q = s->q_rank > 0 ? sfi_vector_bytes(s, s->q_rank) : 0;
    out->kv_up = SF_REF(dense, at->kv_up);
    out->latent = SF_REF(dense, at->latent);
    out->q_norm = SF_REF(dense, at->latent_norms);
    out->kv_norm = SF_REF(dense, at->latent_norms + behind_q);
}

void sfi_refs_of(const struct sfi_recipe *r, uint32_t layer, bool gradients, struct sfi_refs *out) {
    const struct sfi_params *p = &r->vs->params;
    const struct sfi_place *at = &p->at[layer];
    const struct sfi_shape *s = sfi_layer_shape(r->c, r->vs->first_layer + layer);
    uint32_t dense = gradients ? r->f.grad : r->f.param;
    uint32_t ffn = !s->experts ? dense : gradients ? r->f.expert_grad : r->f.expert;
    out->norm1 = SF_REF(dense, sfi_params_norm(p, 2 * (uint64_t)layer));
    out->norm2 = SF_REF(dense, sfi_params_norm(p, 2 * (uint64_t)layer + 1));
    out->qkv = SF_REF(dense, at->qkv);
    out->o = SF_REF(dense, at->o);
    out->router = SF_REF(dense, at->router);
    out->gate_up = SF_REF(ffn, at->gate_up);
    out->down = SF_REF(ffn, at->down);
    out->shared_up = SF_REF(dense, at->shared_up);
    out->shared_down = SF_REF(dense, at->shared_down);
    latents_of(s, at, dense, out);
    biases_of(r, layer, dense, out);
}
