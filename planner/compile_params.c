/* Where the weights of a virtual stage lie: embedding, head, the layers' matrices, then all vectors and routers, which
 * every tensor-parallel rank holds whole. Buckets cover the space without gaps. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "core/arena.h"
#include "planner/compile_internal.h"

struct layout {
    const struct sfi_compile *c;
    struct sfi_params *p;
    bool sharded[SFI_SPACES];
    uint32_t group[SFI_SPACES];
};

static uint64_t matrix_bytes(const struct sfi_shape *s, uint64_t rows, uint64_t cols) {
    return sfi_round_up(sfi_mul(sfi_mul(rows, cols), s->elem), SFI_ALIGN);
}

/* Append a bucket of at least `bytes` bytes; returns where it begins. A sharded one divides evenly into aligned shares.
 */
static uint64_t add_bucket(struct layout *l, enum sfi_space space, uint64_t bytes, bool decays) {
    struct sfi_params *p = l->p;
    struct sfi_bucket *b = &p->buckets[p->buckets_n++];
    uint64_t unit = l->sharded[space] ? SFI_ALIGN * l->group[space] : SFI_ALIGN;
    *b = (struct sfi_bucket){.offset = p->bytes[space],
                             .bytes = sfi_round_up(bytes, unit),
                             .space = space,
                             .sharded = l->sharded[space],
                             .decays = decays,
                             .state = p->state_n};
    b->owned = b->sharded ? b->bytes / l->group[space] : b->bytes;
    p->state_n += b->owned / l->c->shape.elem;
    p->bytes[space] += b->bytes;
    return b->offset;
}

/* Sizes of a layer's dense matrices, each behind the other from `at` on; returns their end. */
static uint64_t place_dense(const struct sfi_shape *s, uint64_t at, struct sfi_place *p) {
    bool latent = s->kv_rank > 0;
    p->qkv = at;
    p->kv_up = p->qkv + matrix_bytes(s, s->qkv_local, s->q_rank > 0 ? s->q_rank : s->hidden);
    p->o = p->kv_up + (latent ? matrix_bytes(s, s->kv_up, s->kv_rank) : 0);
    p->gate_up = p->shared_up = p->o + matrix_bytes(s, s->hidden, s->attn_local);
    uint64_t up = s->experts ? s->shared_up : s->up_local, down = s->experts ? s->shared_local : s->ffn_local;
    p->down = p->shared_down = p->gate_up + matrix_bytes(s, up, s->hidden);
    return p->down + matrix_bytes(s, s->hidden, down);
}

static uint64_t place_experts(const struct sfi_shape *s, uint64_t at, struct sfi_place *p) {
    p->gate_up = at;
    p->down = at + matrix_bytes(s, sfi_mul(s->experts_local, s->up_local), s->hidden);
    return p->down + matrix_bytes(s, sfi_mul(s->experts_local, s->hidden), s->ffn_local);
}

static void add_layers(struct layout *l, const struct sfi_vstage *vs) {
    struct sfi_params *p = l->p;
    for (uint32_t i = 0; i < sfi_blocks(vs); i++) {
        const struct sfi_shape *s = sfi_layer_shape(l->c, vs->first_layer + i);
        uint64_t dense = p->bytes[SFI_DENSE], expert = p->bytes[SFI_EXPERT];
        add_bucket(l, SFI_DENSE, place_dense(s, dense, &p->at[i]) - dense, true);
        if (s->experts) {
            add_bucket(l, SFI_EXPERT, place_experts(s, expert, &p->at[i]) - expert, true);
        }
    }
}

/* One after the other in a bucket of their own: a gate of shared experts is one more row of the router. */
static void add_routers(struct layout *l, const struct sfi_vstage *vs) {
    const struct sfi_shape *s = &l->c->shape;
    struct sfi_params *p = l->p;
    uint64_t routed = 0;
    p->routers = p->bytes[SFI_DENSE];
    p->router_stride = s->experts ? matrix_bytes(s, s->experts + s->shared_gate, s->hidden) : 0;
    for (uint32_t i = 0; i < sfi_blocks(vs); i++) {
        p->at[i].router = p->routers + routed * p->router_stride;
        routed += sf_model_routes(&l->c->s->model, vs->first_layer + i);
    }
    if (routed > 0) {
        add_bucket(l, SFI_DENSE, sfi_mul(routed, p->router_stride), true);
    }
}

/* The matrices down, then their norms. */
static void add_latents(struct layout *l, const struct sfi_vstage *vs) {
    const struct sfi_shape *s = &l->c->shape;
    uint64_t down = matrix_bytes(s, s->latent, s->hidden), norms = sfi_latent_norm_bytes(s);
    uint32_t blocks = sfi_blocks(vs);
    if (s->kv_rank == 0 || blocks == 0) {
        return;
    }
    uint64_t downs = add_bucket(l, SFI_DENSE, sfi_mul(blocks, down), true);
    uint64_t all_norms = add_bucket(l, SFI_DENSE, sfi_mul(blocks, norms), false);
    for (uint32_t i = 0; i < blocks; i++) {
        l->p->at[i].latent = downs + i * down;
        l->p->at[i].latent_norms = all_norms + i * norms;
    }
}

/* What joins the rows of two depths, rather than twice as wide rows of both: of those before, then of the embedding. */
static void add_joints(struct layout *l, const struct sfi_vstage *vs) {
    const struct sfi_shape *s = &l->c->shape;
    if (vs->mtp > 0) {
        l->p->joints =
            add_bucket(l, SFI_DENSE, sfi_mul(2 * (uint64_t)vs->mtp, matrix_bytes(s, s->hidden, s->hidden)), true);
    }
}

static void add_replicated(struct layout *l, const struct sfi_vstage *vs) {
    const struct sfi_shape *s = &l->c->shape;
    struct sfi_params *p = l->p;
    uint64_t blocks = sfi_blocks(vs);
    p->norms_n = 2 * (blocks + vs->mtp) + vs->ends;
    p->norm_stride = sfi_norm_bytes(s);
    p->bias_stride = sfi_bias_bytes(s);
    p->local_stride = sfi_local_bias_bytes(s);
    uint64_t norms = sfi_mul(p->norms_n, p->norm_stride);
    if (p->local_stride > 0 && blocks > 0) {
        p->local_biases = add_bucket(l, SFI_DENSE, sfi_mul(blocks, p->local_stride), false);
    }
    p->norms = p->bytes[SFI_DENSE]; /* an embedding alone has none */
    if (norms > 0) {
        add_bucket(l, SFI_DENSE, norms + sfi_mul(blocks, p->bias_stride), false);
    }
    p->biases = p->norms + norms;
    if (vs->is_first && s->positions > 0) {
        p->positions = add_bucket(l, SFI_DENSE, matrix_bytes(s, s->positions, s->hidden), false);
    }
    add_routers(l, vs);
    add_latents(l, vs);
    add_joints(l, vs);
    p->replicated_bytes = p->bytes[SFI_DENSE] - p->norms;
}

/* One bucket per space: what is gathered and scattered unit by unit goes in one piece each, behind the first `apart`
 * bytes and buckets of the dense space. */
static void join_buckets(struct layout *l, uint64_t apart, uint32_t apart_n) {
    struct sfi_params *p = l->p;
    uint64_t bytes[SFI_SPACES] = {p->bytes[SFI_DENSE] - apart, p->bytes[SFI_EXPERT]};
    bool padded = p->used[SFI_DENSE] < apart;
    p->buckets_n = apart_n;
    p->state_n = apart_n > 0 ? p->buckets[0].owned / l->c->shape.elem : 0;
    for (uint32_t space = 0; space < SFI_SPACES; space++) {
        p->used[space] = padded && space == SFI_DENSE ? p->used[space] : p->bytes[space];
        p->bytes[space] = space == SFI_DENSE ? apart : 0;
        l->sharded[space] = true;
        if (bytes[space] > 0) {
            add_bucket(l, (enum sfi_space)space, bytes[space], true);
        }
    }
}

/* A table of which another stage has a copy: where units are shared, in shares of its own, so that those of both copies
 * are alike. */
static uint64_t add_copied_table(struct layout *l, uint64_t table, bool decays) {
    bool before = l->sharded[SFI_DENSE];
    l->sharded[SFI_DENSE] |= l->c->plan->zero >= SFI_ZERO_GRADIENTS;
    uint64_t at = add_bucket(l, SFI_DENSE, table, decays);
    l->sharded[SFI_DENSE] = before;
    l->p->used[SFI_DENSE] = table;
    return at;
}

static void add_tables(struct layout *l, const struct sfi_vstage *vs, bool copies) {
    const struct sfi_shape *s = &l->c->shape;
    bool tied = l->c->s->model.tied;
    uint64_t table = matrix_bytes(s, s->vocab_local, s->hidden);
    if (vs->is_first) {
        l->p->embed = copies ? add_copied_table(l, table, false) : add_bucket(l, SFI_DENSE, table, false);
    }
    if (sfi_is_part(l->c, vs)) {
        l->p->head = add_bucket(l, SFI_DENSE, matrix_bytes(s, s->vocab_part, s->hidden), true);
    } else if (vs->head || vs->mtp > 0) {
        l->p->copy = copies ? add_copied_table(l, table, false) : UINT64_MAX;
        uint64_t embed = copies ? l->p->copy : l->p->embed;
        l->p->head = tied ? embed : vs->head ? add_bucket(l, SFI_DENSE, table, true) : UINT64_MAX;
        l->p->further = vs->mtp > 0 ? embed : UINT64_MAX;
    }
}

int sfi_params_init(const struct sfi_compile *c, const struct sfi_vstage *vs, struct sfi_params *out,
                    struct sf_err *err) {
    const struct sf_model *m = &c->s->model;
    bool shard = c->plan->zero == 1;
    struct layout l = {.c = c, .p = out, .group = {c->comms.share_n[SFI_DENSE], c->comms.share_n[SFI_EXPERT]}};
    l.sharded[SFI_DENSE] = shard && l.group[SFI_DENSE] > 1;
    l.sharded[SFI_EXPERT] = shard && l.group[SFI_EXPERT] > 1;
    *out = (struct sfi_params){.embed = UINT64_MAX, .head = UINT64_MAX, .further = UINT64_MAX, .copy = UINT64_MAX};
    out->buckets = sf_calloc(2 * (size_t)sfi_blocks(vs) + 10, sizeof *out->buckets);
    out->at = sf_calloc(sfi_blocks(vs) + 1, sizeof *out->at); /* an end may have none */
    if (!out->buckets || !out->at) {
        return sf_fail_memory(err, "parameter layout");
    }
    /* Canonical sums keep both uses of a shared table apart on one stage too, because pipelines must. */
    bool copies = (m->tied || m->mtp > 0) && (c->vs_n > 1 || c->plan->canonical);
    add_tables(&l, vs, copies);
    uint32_t tables_n = copies && out->buckets_n > 0 ? 1 : 0; /* more than one only where nothing is joined */
    uint64_t tables = tables_n > 0 ? out->buckets[0].bytes : 0;
    add_layers(&l, vs);
    add_replicated(&l, vs);
    if (c->plan->zero >= SFI_ZERO_GRADIENTS) {
        join_buckets(&l, tables, tables_n);
    }
    if (out->bytes[SFI_DENSE] >= SFI_TOO_MANY_BYTES || out->bytes[SFI_EXPERT] >= SFI_TOO_MANY_BYTES) {
        return sf_fail(err, SF_E_NOPLAN, "virtual stage %u has more than %llu bytes of weights", vs->index,
                       (unsigned long long)SFI_TOO_MANY_BYTES);
    }
    return 0;
}

/* ---- names ------------------------------------------------------------------------------------------------------- */

struct naming {
    const struct sfi_compile *c;
    const struct sfi_shape *shape; /* of the layer */
    uint32_t buf;
};

/* What every rank of tp holds whole. */
static struct sf_tensor whole(uint64_t offset, uint64_t rows, uint64_t cols) {
    return (struct sf_tensor){.offset = offset, .rows = rows, .cols = cols};
}

/* `rows` of the whole_rows; over all ranks of tp they follow each other from first_row on. */
static struct sf_tensor rows_of(const struct naming *n, uint64_t offset, uint64_t rows, uint64_t cols,
                                uint64_t first_row, uint64_t whole_rows) {
    struct sf_tensor t = whole(offset, rows, cols);
    if (n->shape->tp > 1) {
        t.comm = n->c->comms.tp;
        t.first_row = first_row;
        t.whole_rows = whole_rows;
    }
    return t;
}

static struct sf_tensor cols_of(const struct naming *n, uint64_t offset, uint64_t rows, uint64_t cols) {
    struct sf_tensor t = whole(offset, rows, cols);
    if (n->shape->tp > 1) {
        t.comm = n->c->comms.tp;
        t.whole_cols = cols * n->shape->tp;
    }
    return t;
}

static void tensor(const struct naming *n, struct sf_tensor t, double std, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#define BIAS (-1.0)

/* std 0 is a norm's weight: ones; a bias: zeros. */
static void tensor(const struct naming *n, struct sf_tensor t, double std, const char *fmt, ...) {
    t.buf = n->buf;
    t.init_std = std > 0 ? (float)std : 0.0f;
    t.init = std > 0 ? SF_INIT_NORMAL : std < 0 ? SF_INIT_ZERO : SF_INIT_ONE;
    t.dtype = (uint32_t)n->shape->dtype;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(t.name, sizeof t.name, fmt, ap);
    va_end(ap);
    sf_build_tensor(n->c->b, &t);
}

/* Query, key and value rows of all heads follow each other in the whole, and those of a rank's heads on a rank. */
static void name_rows(const struct naming *n, uint64_t at, const uint64_t *rows, uint32_t parts, uint64_t cols,
                      double std, const char *name, uint32_t layer) {
    const struct sfi_shape *s = n->shape;
    uint64_t first = 0, all = 0;
    for (uint32_t i = 0; i < parts; i++) {
        all += rows[i];
    }
    if (s->tp == 1) {
        tensor(n, whole(at, all, cols), std, name, layer);
        return;
    }
    for (uint32_t i = 0; i < parts; i++) {
        tensor(n, rows_of(n, at + first * cols * s->elem, rows[i], cols, first * s->tp, all * s->tp), std, name, layer);
        first += rows[i];
    }
}

static void name_qkv(const struct naming *n, const struct sfi_params *p, uint32_t i, uint32_t layer) {
    const struct sfi_shape *s = n->shape;
    const uint64_t rows[] = {s->attn_local, s->kv_heads_local * s->head_dim, s->kv_heads_local * s->head_dim};
    name_rows(n, p->at[i].qkv, rows, 3, s->hidden, n->c->s->model.init_std, "model.layers.%u.self_attn.qkv_proj.weight",
              layer);
    if (s->qkv_bias) {
        name_rows(n, p->local_biases + i * p->local_stride, rows, 3, 1, BIAS, "model.layers.%u.self_attn.qkv_proj.bias",
                  layer);
    }
}

/* Up from the latent vectors: rows of all heads follow each other in the whole, and those of a rank's heads on a rank;
 * of keys and values the keys' come first. Down to them: queries, keys and values, the rotary key. */
static void name_latent(const struct naming *n, const struct sfi_params *p, uint32_t i, uint32_t layer) {
    const struct sfi_shape *s = n->shape;
    double std = n->c->s->model.init_std;
    const uint64_t up[] = {s->kv_up - s->attn_local, s->attn_local};
    const struct sfi_place *at = &p->at[i];
    uint64_t kv_norm = at->latent_norms + (s->q_rank > 0 ? sfi_vector_bytes(s, s->q_rank) : 0);
    name_rows(n, at->qkv, &s->qkv_local, 1, s->q_rank > 0 ? s->q_rank : s->hidden, std,
              "model.layers.%u.self_attn.q_b_proj.weight", layer);
    name_rows(n, at->kv_up, up, 2, s->kv_rank, std, "model.layers.%u.self_attn.kv_b_proj.weight", layer);
    tensor(n, whole(at->latent, s->latent, s->hidden), std, "model.layers.%u.self_attn.qkv_a_proj.weight", layer);
    tensor(n, whole(kv_norm, s->kv_rank, 1), 0, "model.layers.%u.self_attn.kv_a_layernorm.weight", layer);
    if (s->q_rank > 0) {
        tensor(n, whole(at->latent_norms, s->q_rank, 1), 0, "model.layers.%u.self_attn.q_a_layernorm.weight", layer);
    }
}

static void vector(const struct naming *n, uint64_t at, double std, const char *name, uint32_t layer) {
    tensor(n, whole(at, n->shape->hidden, 1), std, name, layer);
}

static void name_norms(const struct naming *n, const struct sfi_params *p, uint32_t i, uint32_t layer) {
    const struct sfi_shape *s = n->shape;
    uint64_t one = sfi_params_norm(p, 2 * (uint64_t)i), two = one + p->norm_stride;
    vector(n, one, 0, "model.layers.%u.input_layernorm.weight", layer);
    vector(n, two, 0, "model.layers.%u.post_attention_layernorm.weight", layer);
    if (s->layernorm) {
        vector(n, one + p->norm_stride / 2, BIAS, "model.layers.%u.input_layernorm.bias", layer);
        vector(n, two + p->norm_stride / 2, BIAS, "model.layers.%u.post_attention_layernorm.bias", layer);
    }
}

/* Of projections into the residual stream, which every tp rank holds whole. */
static void name_biases(const struct naming *n, const struct sfi_params *p, uint32_t i, uint32_t layer) {
    const struct sfi_shape *s = n->shape;
    uint64_t at = p->biases + i * p->bias_stride;
    if (s->out_bias) {
        vector(n, at, BIAS, "model.layers.%u.self_attn.o_proj.bias", layer);
        at += sfi_vector_bytes(s, s->hidden);
    }
    if (s->ffn_bias) {
        vector(n, at, BIAS, "model.layers.%u.mlp.down_proj.bias", layer);
    }
}

static void name_attention(const struct naming *n, const struct sfi_params *p, uint32_t i, uint32_t layer) {
    const struct sfi_shape *s = n->shape;
    const struct sf_model *m = &n->c->s->model;
    double deep = m->init_std / sqrt(2.0 * m->layers); /* projections into the residual stream, as GPT-2 does */
    (s->kv_rank > 0 ? name_latent : name_qkv)(n, p, i, layer);
    tensor(n, cols_of(n, p->at[i].o, s->hidden, s->attn_local), deep, "model.layers.%u.self_attn.o_proj.weight", layer);
    name_norms(n, p, i, layer);
    name_biases(n, p, i, layer);
    if (s->experts) {
        tensor(n, whole(p->at[i].router, s->experts + s->shared_gate, s->hidden), m->init_std,
               "model.layers.%u.block_sparse_moe.gate.weight", layer);
    }
}

/* Of experts every rank has others; their parts are named as if they were whole. */
static void name_experts(const struct naming *n, const struct sfi_params *p, uint32_t i, uint32_t layer) {
    const struct sfi_shape *s = n->shape;
    const struct sf_model *m = &n->c->s->model;
    uint64_t copies = s->experts_local;
    tensor(n, whole(p->at[i].gate_up, copies * s->up_local, s->hidden), m->init_std,
           "model.layers.%u.block_sparse_moe.experts.gate_up_proj.weight", layer);
    tensor(n, whole(p->at[i].down, copies * s->hidden, s->ffn_local), m->init_std / sqrt(2.0 * m->layers),
           "model.layers.%u.block_sparse_moe.experts.down_proj.weight", layer);
}

/* Gate rows, then up rows, in the whole and on a rank. */
static void name_ffn(const struct naming *n, const struct sfi_params *p, uint32_t i, uint32_t layer) {
    const struct sfi_shape *s = n->shape;
    const struct sf_model *m = &n->c->s->model;
    const uint64_t rows[] = {s->ffn_local, s->ffn_local};
    uint32_t parts = (uint32_t)(s->up_local / s->ffn_local);
    name_rows(n, p->at[i].gate_up, rows, parts, s->hidden, m->init_std, "model.layers.%u.mlp.gate_up_proj.weight",
              layer);
    if (s->ffn_bias) {
        uint64_t bias = p->local_biases + i * p->local_stride;
        bias += s->qkv_bias ? sfi_vector_bytes(s, s->qkv_local) : 0;
        name_rows(n, bias, rows, parts, 1, BIAS, "model.layers.%u.mlp.gate_up_proj.bias", layer);
    }
    tensor(n, cols_of(n, p->at[i].down, s->hidden, s->ffn_local), m->init_std / sqrt(2.0 * m->layers),
           "model.layers.%u.mlp.down_proj.weight", layer);
}

static void name_shared(const struct naming *n, const struct sfi_params *p, uint32_t i, uint32_t layer) {
    const struct sfi_shape *s = n->shape;
    const struct sf_model *m = &n->c->s->model;
    const uint64_t rows[] = {s->shared_local, s->shared_local};
    if (s->shared_local == 0) {
        return;
    }
    name_rows(n, p->at[i].shared_up, rows, (uint32_t)(s->shared_up / s->shared_local), s->hidden, m->init_std,
              "model.layers.%u.mlp.shared_experts.gate_up_proj.weight", layer);
    tensor(n, cols_of(n, p->at[i].shared_down, s->hidden, s->shared_local), m->init_std / sqrt(2.0 * m->layers),
           "model.layers.%u.mlp.shared_experts.down_proj.weight", layer);
}

/* Of a layer that predicts further: the rows before it, the embedding of the token it is given. */
static void name_joints(const struct naming *n, const struct sfi_vstage *vs) {
    static const char *const norms[] = {"model.layers.%u.hnorm.weight", "model.layers.%u.enorm.weight"};
    static const char *const joints[] = {"model.layers.%u.h_proj.weight", "model.layers.%u.e_proj.weight"};
    const struct sfi_shape *s = n->shape;
    for (uint32_t i = 0; i < 2 * vs->mtp; i++) {
        uint32_t layer = vs->first_layer + vs->layers + i / 2;
        vector(n, sfi_mtp_norm(vs, i), 0, norms[i % 2], layer);
        tensor(n, whole(sfi_mtp_joint(s, vs, i), s->hidden, s->hidden), n->c->s->model.init_std, joints[i % 2], layer);
    }
}

static void name_final_norm(const struct naming *n, const struct sfi_params *p) {
    const struct sfi_shape *s = n->shape;
    uint64_t norm = sfi_params_norm(p, p->norms_n - 1);
    tensor(n, whole(norm, s->hidden, 1), 0, "model.norm.weight");
    if (s->layernorm) {
        tensor(n, whole(norm + p->norm_stride / 2, s->hidden, 1), BIAS, "model.norm.bias");
    }
}

static void name_head(const struct naming *n, const struct sfi_params *p) {
    const struct sfi_shape *s = n->shape;
    const struct sf_model *m = &n->c->s->model;
    if (s->vocab_part > 0 && p->head != UINT64_MAX) {
        struct sf_tensor part = whole(p->head, s->vocab_part, s->hidden);
        part.comm = n->c->comms.vocab;
        part.whole_rows = sf_model_rows(m);
        tensor(n, part, m->init_std, "lm_head.weight");
        return;
    }
    const uint64_t at[] = {m->tied ? UINT64_MAX : p->head, p->copy}; /* of a stage that only predicts further: none */
    for (int i = 0; i < 2; i++) { /* a copy has the table's name, so it starts from the same values */
        if (at[i] != UINT64_MAX) {
            tensor(n, rows_of(n, at[i], s->vocab_local, s->hidden, 0, sf_model_rows(m)), m->init_std, "%s",
                   i > 0 ? "model.embed_tokens.weight" : "lm_head.weight");
        }
    }
}

static void name_embedding(const struct naming *n, const struct sfi_params *p) {
    const struct sfi_shape *s = n->shape;
    const struct sf_model *m = &n->c->s->model;
    tensor(n, rows_of(n, p->embed, s->vocab_local, s->hidden, 0, sf_model_rows(m)), m->init_std,
           "model.embed_tokens.weight");
    if (s->positions > 0) {
        tensor(n, whole(p->positions, s->positions, s->hidden), m->init_std, "model.embed_positions.weight");
    }
}

void sfi_params_tensors(const struct sfi_compile *c, const struct sfi_vstage *vs, const uint32_t bufs[SFI_SPACES]) {
    const struct sfi_params *p = &vs->params;
    struct naming dense = {c, &c->shape, bufs[SFI_DENSE]}, expert = {c, &c->shape, bufs[SFI_EXPERT]};
    if (vs->is_first) {
        name_embedding(&dense, p);
    }
    for (uint32_t i = 0; i < sfi_blocks(vs); i++) {
        uint32_t layer = vs->first_layer + i;
        dense.shape = sfi_layer_shape(c, layer);
        name_attention(&dense, p, i, layer);
        if (dense.shape->experts) {
            name_experts(&expert, p, i, layer);
            name_shared(&dense, p, i, layer);
        } else {
            name_ffn(&dense, p, i, layer);
        }
    }
    dense.shape = &c->shape;
    name_joints(&dense, vs);
    if (vs->ends) {
        name_final_norm(&dense, p);
    }
    if (vs->head || vs->mtp > 0) {
        name_head(&dense, p);
    }
}
