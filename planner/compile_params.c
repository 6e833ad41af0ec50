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

static uint64_t padded(const struct layout *l, enum sfi_space space, uint64_t bytes) {
    return sfi_round_up(bytes, l->sharded[space] ? SFI_ALIGN * l->group[space] : SFI_ALIGN);
}

/* Offsets inside a layer; returns its bytes per space. */
static void place_layer(const struct sfi_shape *s, struct sfi_params *p, uint64_t bytes[SFI_SPACES]) {
    uint64_t qkv = matrix_bytes(s, s->qkv_local, s->hidden), o = matrix_bytes(s, s->hidden, s->attn_local);
    uint64_t copies = s->experts ? s->experts_local : 1;
    uint64_t gate_up = matrix_bytes(s, sfi_mul(copies, s->up_local), s->hidden);
    uint64_t down = matrix_bytes(s, sfi_mul(copies, s->hidden), s->ffn_local);
    p->qkv = 0;
    p->o = qkv;
    p->gate_up = s->experts ? 0 : qkv + o;
    p->down = p->gate_up + gate_up;
    bytes[SFI_DENSE] = s->experts ? qkv + o : qkv + o + gate_up + down;
    bytes[SFI_EXPERT] = s->experts ? gate_up + down : 0;
}

static void add_layers(struct layout *l, uint32_t layers) {
    struct sfi_params *p = l->p;
    uint64_t bytes[SFI_SPACES];
    place_layer(&l->c->shape, p, bytes);
    p->layer0 = p->bytes[SFI_DENSE];
    p->expert0 = p->bytes[SFI_EXPERT];
    p->layer_stride = padded(l, SFI_DENSE, bytes[SFI_DENSE]);
    p->expert_stride = padded(l, SFI_EXPERT, bytes[SFI_EXPERT]);
    for (uint32_t i = 0; i < layers; i++) {
        add_bucket(l, SFI_DENSE, bytes[SFI_DENSE], true);
        if (bytes[SFI_EXPERT] > 0) {
            add_bucket(l, SFI_EXPERT, bytes[SFI_EXPERT], true);
        }
    }
}

static void add_replicated(struct layout *l, const struct sfi_vstage *vs) {
    const struct sfi_shape *s = &l->c->shape;
    struct sfi_params *p = l->p;
    p->norms_n = 2 * (uint64_t)vs->layers + vs->is_last;
    p->norm_stride = matrix_bytes(s, s->hidden, 1);
    p->norms = add_bucket(l, SFI_DENSE, sfi_mul(p->norms_n, p->norm_stride), false);
    if (s->experts) {
        p->router_stride = matrix_bytes(s, s->experts, s->hidden);
        p->routers = add_bucket(l, SFI_DENSE, sfi_mul(vs->layers, p->router_stride), true);
    }
    p->replicated_bytes = p->bytes[SFI_DENSE] - p->norms;
}

/* One bucket per space: what is gathered and scattered unit by unit goes in one piece each. */
static void join_buckets(struct layout *l) {
    struct sfi_params *p = l->p;
    p->buckets_n = 0;
    p->state_n = 0;
    for (uint32_t space = 0; space < SFI_SPACES; space++) {
        uint64_t bytes = p->bytes[space];
        p->bytes[space] = 0;
        l->sharded[space] = true;
        if (bytes > 0) {
            add_bucket(l, (enum sfi_space)space, bytes, true);
        }
    }
}

int sfi_params_init(const struct sfi_compile *c, const struct sfi_vstage *vs, struct sfi_params *out,
                    struct sf_err *err) {
    const struct sf_model *m = &c->s->model;
    bool shard = c->plan->zero == 1;
    struct layout l = {.c = c, .p = out, .group = {c->comms.dp_n, c->comms.edp_n}};
    l.sharded[SFI_DENSE] = shard && c->comms.dp_n > 1;
    l.sharded[SFI_EXPERT] = shard && c->comms.edp_n > 1;
    *out = (struct sfi_params){.embed = UINT64_MAX, .head = UINT64_MAX};
    out->buckets = sf_calloc(2 * (size_t)vs->layers + 4, sizeof *out->buckets);
    if (!out->buckets) {
        return sf_fail_memory(err, "parameter layout");
    }
    uint64_t table = matrix_bytes(&c->shape, c->shape.vocab_local, c->shape.hidden);
    /* Canonical sums keep both uses of a tied table apart on one stage too, because pipelines must. */
    bool copies = m->tied && (c->vs_n > 1 || c->plan->canonical);
    if (vs->is_first) {
        out->embed = add_bucket(&l, SFI_DENSE, table, false);
    }
    if (vs->is_last) {
        out->copied_head = copies;
        out->head = m->tied && !copies ? out->embed : add_bucket(&l, SFI_DENSE, table, !m->tied);
    }
    add_layers(&l, vs->layers);
    add_replicated(&l, vs);
    if (c->plan->zero >= SFI_ZERO_GRADIENTS) {
        join_buckets(&l);
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
    if (n->c->shape.tp > 1) {
        t.comm = n->c->comms.tp;
        t.first_row = first_row;
        t.whole_rows = whole_rows;
    }
    return t;
}

static struct sf_tensor cols_of(const struct naming *n, uint64_t offset, uint64_t rows, uint64_t cols) {
    struct sf_tensor t = whole(offset, rows, cols);
    if (n->c->shape.tp > 1) {
        t.comm = n->c->comms.tp;
        t.whole_cols = cols * n->c->shape.tp;
    }
    return t;
}

static void tensor(const struct naming *n, struct sf_tensor t, double std, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* std 0 is a norm: ones. */
static void tensor(const struct naming *n, struct sf_tensor t, double std, const char *fmt, ...) {
    t.buf = n->buf;
    t.init_std = (float)std;
    t.init = std > 0 ? SF_INIT_NORMAL : SF_INIT_ONE;
    t.dtype = (uint32_t)n->c->shape.dtype;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(t.name, sizeof t.name, fmt, ap);
    va_end(ap);
    sf_build_tensor(n->c->b, &t);
}

/* Query, key and value rows of all heads follow each other in the whole, and those of a rank's heads on a rank. */
static void name_qkv(const struct naming *n, uint64_t at, uint32_t layer) {
    static const char name[] = "model.layers.%u.self_attn.qkv_proj.weight";
    const struct sfi_shape *s = &n->c->shape;
    const uint64_t rows[] = {s->attn_local, s->kv_heads_local * s->head_dim, s->kv_heads_local * s->head_dim};
    uint64_t first = 0;
    if (s->tp == 1) {
        tensor(n, whole(at, s->qkv_local, s->hidden), n->c->s->model.init_std, name, layer);
        return;
    }
    for (int i = 0; i < 3; i++) {
        tensor(n, rows_of(n, at + first * s->hidden * s->elem, rows[i], s->hidden, first * s->tp, s->qkv_local * s->tp),
               n->c->s->model.init_std, name, layer);
        first += rows[i];
    }
}

static void name_attention(const struct naming *n, const struct sfi_params *p, uint32_t i, uint32_t layer) {
    const struct sfi_shape *s = &n->c->shape;
    const struct sf_model *m = &n->c->s->model;
    uint64_t at = p->layer0 + i * p->layer_stride;
    double deep = m->init_std / sqrt(2.0 * m->layers); /* projections into the residual stream, as GPT-2 does */
    name_qkv(n, at + p->qkv, layer);
    tensor(n, cols_of(n, at + p->o, s->hidden, s->attn_local), deep, "model.layers.%u.self_attn.o_proj.weight", layer);
    tensor(n, whole(sfi_params_norm(p, 2 * (uint64_t)i), s->hidden, 1), 0, "model.layers.%u.input_layernorm.weight",
           layer);
    tensor(n, whole(sfi_params_norm(p, 2 * (uint64_t)i + 1), s->hidden, 1), 0,
           "model.layers.%u.post_attention_layernorm.weight", layer);
    if (s->experts) {
        tensor(n, whole(p->routers + i * p->router_stride, s->experts, s->hidden), m->init_std,
               "model.layers.%u.block_sparse_moe.gate.weight", layer);
    }
}

/* Of experts every rank has others; their parts are named as if they were whole. */
static void name_experts(const struct naming *n, const struct sfi_params *p, uint32_t i, uint32_t layer) {
    const struct sfi_shape *s = &n->c->shape;
    const struct sf_model *m = &n->c->s->model;
    uint64_t at = p->expert0 + i * p->expert_stride, copies = s->experts_local;
    tensor(n, whole(at + p->gate_up, copies * s->up_local, s->hidden), m->init_std,
           "model.layers.%u.block_sparse_moe.experts.gate_up_proj.weight", layer);
    tensor(n, whole(at + p->down, copies * s->hidden, s->ffn_local), m->init_std / sqrt(2.0 * m->layers),
           "model.layers.%u.block_sparse_moe.experts.down_proj.weight", layer);
}

/* Gate rows, then up rows, in the whole and on a rank. */
static void name_ffn(const struct naming *n, const struct sfi_params *p, uint32_t i, uint32_t layer) {
    const struct sfi_shape *s = &n->c->shape;
    const struct sf_model *m = &n->c->s->model;
    uint64_t at = p->layer0 + i * p->layer_stride, blocks = s->tp > 1 ? s->up_local / s->ffn_local : 1;
    uint64_t rows = s->up_local / blocks;
    for (uint64_t b = 0; b < blocks; b++) {
        tensor(n,
               rows_of(n, at + p->gate_up + b * rows * s->hidden * s->elem, rows, s->hidden, b * rows * s->tp,
                       s->up_local * s->tp),
               m->init_std, "model.layers.%u.mlp.gate_up_proj.weight", layer);
    }
    tensor(n, cols_of(n, at + p->down, s->hidden, s->ffn_local), m->init_std / sqrt(2.0 * m->layers),
           "model.layers.%u.mlp.down_proj.weight", layer);
}

void sfi_params_tensors(const struct sfi_compile *c, const struct sfi_vstage *vs, const uint32_t bufs[SFI_SPACES]) {
    const struct sfi_params *p = &vs->params;
    const struct sfi_shape *s = &c->shape;
    const struct naming dense = {c, bufs[SFI_DENSE]}, ffn = {c, bufs[s->experts ? SFI_EXPERT : SFI_DENSE]};
    double std = c->s->model.init_std;
    if (vs->is_first) {
        tensor(&dense, rows_of(&dense, p->embed, s->vocab_local, s->hidden, 0, c->s->model.vocab), std,
               "model.embed_tokens.weight");
    }
    for (uint32_t i = 0; i < vs->layers; i++) {
        name_attention(&dense, p, i, vs->first_layer + i);
        (s->experts ? name_experts : name_ffn)(&ffn, p, i, vs->first_layer + i);
    }
    if (vs->is_last) {
        tensor(&dense, whole(sfi_params_norm(p, p->norms_n - 1), s->hidden, 1), 0, "model.norm.weight");
        if (p->copied_head || !c->s->model.tied) { /* a copy has the table's name, so it starts from the same values */
            tensor(&dense, rows_of(&dense, p->head, s->vocab_local, s->hidden, 0, c->s->model.vocab), std, "%s",
                   p->copied_head ? "model.embed_tokens.weight" : "lm_head.weight");
        }
    }
}
