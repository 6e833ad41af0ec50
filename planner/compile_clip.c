/* Clipping by the global norm: every rank adds up the squares of what it owns, what others own comes by collectives of
 * a few kilobytes, and the gradient's scale in the hyperparameters is cut.
 *
 * A vector has a slot for the embedding, for every layer, those that predict further too, and for the head, in
 * sections: experts, what tensor-parallel ranks hold parts of, what they hold whole. Each slot is filled on the ranks
 * of one pipeline stage; everybody else adds zeros, and the slots are added up in their order. So the norm has the same
 * bits for every depth of the pipeline. Shared optimizers put what they own of a stage into one slot, because a rank's
 * share begins anywhere in a layer. */
#include "planner/compile_internal.h"

enum section { EXPERTS, PARTS, WHOLES, SECTIONS };

/* Bindings of the op that adds up the squares of a chunk: its slots of every section, its shares, its gradients. */
enum { SHARES = SECTIONS, GRADIENTS, FORMALS = GRADIENTS + SFI_SPACES };

struct squares {
    const struct sfi_stage *st;
    uint32_t chunk;
    struct sf_arg args[FORMALS];
    uint32_t formal[FORMALS], formals_n; /* in the order of first use */
    uint64_t next_layer;                 /* slot behind that of the layer whose bucket came last */
    bool emits;                          /* false: only count the formals */
};

static uint32_t layers_of(const struct sfi_compile *c) {
    return c->s->model.layers + c->s->model.mtp;
}

static uint64_t slots_n(const struct sfi_compile *c) {
    return layers_of(c) + 2;
}

/* Without experts their section is left out. */
static uint64_t section_at(const struct sfi_compile *c, enum section section) {
    return (c->s->model.experts > 0 ? section : section - 1) * slots_n(c) * sizeof(float);
}

uint64_t sfi_squares_bytes(const struct sfi_compile *c) {
    return c->s->job.clip_norm > 0 ? section_at(c, SECTIONS) : 0;
}

/* ---- a chunk's squares ------------------------------------------------------------------------------------------- */

static uint32_t first_slot(const struct sfi_vstage *vs) {
    return vs->is_first ? 0 : 1 + vs->first_layer;
}

static uint64_t chunk_slots(const struct sfi_vstage *vs) {
    return sfi_blocks(vs) + (uint64_t)vs->is_first + (uint64_t)vs->is_last;
}

static struct sf_call new_call(enum sf_call_kind kind, int dtype, uint64_t n) {
    struct sf_call call = {
        .kind = (uint8_t)kind, .dtype = (uint8_t)dtype, .comm = SF_NONE, .imm = {0, 1}, .dims = {(int64_t)n}};
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        call.operand[i] = SF_REF_NONE;
    }
    return call;
}

static uint32_t formal_of(struct squares *q, uint32_t what) {
    for (uint32_t i = 0; i < q->formals_n; i++) {
        if (q->formal[i] == what) {
            return i;
        }
    }
    q->formal[q->formals_n] = what;
    return q->formals_n++;
}

/* Two uses of one slot are added up: norms and routers of a layer, experts in one space. */
static void add_squares(struct squares *q, enum section section, uint64_t slot, uint32_t from, uint64_t offset,
                        uint64_t bytes) {
    const struct sfi_shape *shape = &q->st->c->shape;
    struct sf_call call = new_call(SF_CALL_SUMSQ, shape->dtype, bytes / shape->elem);
    call.flags = SF_CALL_ACC_FLAG;
    call.operand[0] = SF_REF(formal_of(q, from), offset);
    call.operand[1] = SF_REF(formal_of(q, section), slot * sizeof(float));
    if (q->emits && bytes > 0) {
        sf_build_call(q->st->c->b, &call);
    }
}

static uint64_t first_layer_slot(const struct sfi_vstage *vs) {
    return vs->is_first;
}

/* Equal pieces, a layer each. */
static void add_layers(struct squares *q, enum section section, uint64_t at, uint64_t stride) {
    const struct sfi_vstage *vs = q->st->chunks[q->chunk].vs;
    for (uint32_t i = 0; i < sfi_blocks(vs) && stride > 0; i++) {
        add_squares(q, section, first_layer_slot(vs) + i, GRADIENTS + SFI_DENSE, at + i * stride, stride);
    }
}

/* Of layers that predict further: two equal pieces each, which lie one behind the other. */
static void add_further(struct squares *q, const struct sfi_vstage *vs, uint64_t at, uint64_t bytes) {
    for (uint32_t i = 0; i < vs->mtp; i++) {
        add_squares(q, WHOLES, first_layer_slot(vs) + vs->layers + i, GRADIENTS + SFI_DENSE, at + i * bytes, bytes);
    }
}

/* Two norms per layer; the final one has the head's slot. Biases lie behind them. */
static void add_norms(struct squares *q, const struct sfi_vstage *vs) {
    const struct sfi_params *p = &vs->params;
    add_layers(q, WHOLES, p->norms, 2 * p->norm_stride);
    add_further(q, vs, sfi_params_norm(p, 2 * (uint64_t)sfi_blocks(vs)), 2 * p->norm_stride);
    if (vs->is_last) {
        add_squares(q, WHOLES, first_layer_slot(vs) + sfi_blocks(vs), GRADIENTS + SFI_DENSE,
                    sfi_params_norm(p, p->norms_n - 1), p->norm_stride);
    }
    add_layers(q, WHOLES, p->biases, p->bias_stride);
}

/* Of layers that have one. */
static void add_routers(struct squares *q, const struct sfi_vstage *vs) {
    const struct sfi_params *p = &vs->params;
    for (uint32_t i = 0; i < sfi_blocks(vs); i++) {
        if (sf_model_routes(&q->st->c->s->model, vs->first_layer + i)) {
            add_squares(q, WHOLES, first_layer_slot(vs) + i, GRADIENTS + SFI_DENSE, p->at[i].router, p->router_stride);
        }
    }
}

/* Behind the matrices, what tensor-parallel ranks have whole. */
static void add_replicated(struct squares *q, const struct sfi_vstage *vs, const struct sfi_bucket *b) {
    const struct sfi_params *p = &vs->params;
    if (p->norms_n > 0 && b->offset == p->norms) {
        add_norms(q, vs);
    } else if (vs->is_first && q->st->c->shape.positions > 0 && b->offset == p->positions) {
        add_squares(q, WHOLES, 0, GRADIENTS + SFI_DENSE, b->offset, b->bytes);
    } else if (p->router_stride > 0 && b->offset == p->routers) {
        add_routers(q, vs);
    } else if (vs->mtp > 0 && b->offset == p->joints) {
        add_further(q, vs, p->joints, b->bytes / vs->mtp);
    } else { /* latent projections and their norms */
        add_layers(q, WHOLES, b->offset, b->bytes / sfi_blocks(vs));
    }
}

/* A bucket that this rank has whole. Those of layers come in their order, experts behind the rest of their layer. */
static void add_whole_bucket(struct squares *q, const struct sfi_vstage *vs, const struct sfi_bucket *b) {
    const struct sfi_params *p = &vs->params;
    uint64_t head = first_layer_slot(vs) + sfi_blocks(vs);
    if (b->space == SFI_EXPERT) {
        add_squares(q, EXPERTS, q->next_layer - 1, GRADIENTS + SFI_EXPERT, b->offset, b->bytes);
    } else if (b->offset == p->embed || b->offset == p->head) {
        add_squares(q, PARTS, b->offset == p->embed ? 0 : head, GRADIENTS + SFI_DENSE, b->offset, b->bytes);
    } else if (p->local_stride > 0 && b->offset == p->local_biases) {
        add_layers(q, PARTS, p->local_biases, p->local_stride);
    } else if (b->offset >= p->norms) {
        add_replicated(q, vs, b);
    } else {
        add_squares(q, PARTS, q->next_layer - 1, GRADIENTS + SFI_DENSE, b->offset, b->bytes);
    }
}

static void add_share(struct squares *q, const struct sfi_vstage *vs, const struct sfi_bucket *b, uint64_t offset) {
    bool whole = b->space == SFI_DENSE && b->offset >= vs->params.norms && q->st->c->plan->zero < SFI_ZERO_GRADIENTS;
    enum section section = b->space == SFI_EXPERT ? EXPERTS : whole ? WHOLES : PARTS;
    add_squares(q, section, sfi_blocks(vs) > 0 ? first_layer_slot(vs) : 0, SHARES, offset, b->owned);
}

/* A table that both ends read has a copy at the last one, with the same gradient. */
static bool is_copy(const struct sfi_params *p, const struct sfi_bucket *b) {
    return p->copy != UINT64_MAX && b->space == SFI_DENSE && b->offset == p->copy;
}

static bool is_layer(const struct sfi_params *p, const struct sfi_bucket *b) {
    bool local = p->local_stride > 0 && b->offset == p->local_biases;
    bool table = b->offset == p->embed || b->offset == p->head || b->offset == p->copy;
    return b->space == SFI_DENSE && !table && b->offset < p->norms && !local;
}

static uint64_t add_buckets(struct squares *q, const struct sfi_vstage *vs) {
    uint64_t shares = 0;
    q->next_layer = first_layer_slot(vs);
    for (uint32_t i = 0; i < vs->params.buckets_n; i++) {
        const struct sfi_bucket *b = &vs->params.buckets[i];
        q->next_layer += is_layer(&vs->params, b);
        if (is_copy(&vs->params, b)) {
            shares += b->sharded ? b->owned : 0;
        } else if (b->sharded) {
            add_share(q, vs, b, shares);
            shares += b->owned;
        } else {
            add_whole_bucket(q, vs, b);
        }
    }
    return shares;
}

static struct sf_arg binding(const struct squares *q, uint32_t what, uint64_t shares) {
    const struct sfi_stage *st = q->st;
    const struct sfi_chunk *ch = &st->chunks[q->chunk];
    if (what >= GRADIENTS) {
        uint32_t space = what - GRADIENTS;
        return (struct sf_arg){.buf = ch->grad[space], .access = SF_READ, .bytes = ch->vs->params.bytes[space]};
    }
    if (what == SHARES) {
        return (struct sf_arg){.buf = st->grad_shard, .access = SF_READ, .offset = ch->shard, .bytes = shares};
    }
    return (struct sf_arg){.buf = st->sums,
                           .access = SF_READ_WRITE,
                           .offset = section_at(st->c, (enum section)what) + first_slot(ch->vs) * sizeof(float),
                           .bytes = chunk_slots(ch->vs) * sizeof(float)};
}

static struct sf_op norm_op(enum sf_op_kind kind, enum sfi_stream stream) {
    return (struct sf_op){.kind = (uint8_t)kind, .stream = (uint8_t)stream, .recipe = SF_NONE, .comm = SF_NONE};
}

static uint32_t emit_squares(struct sfi_stage *st, uint32_t chunk) {
    struct squares q = {.st = st, .chunk = chunk};
    const struct sfi_chunk *ch = &st->chunks[chunk];
    struct sf_op op = norm_op(SF_OP_OPTIMIZER, SFI_COMPUTE);
    uint64_t shares = add_buckets(&q, ch->vs);
    sf_build_recipe_begin(st->c->b, "squares", q.formals_n);
    q.emits = true;
    add_buckets(&q, ch->vs);
    op.recipe = sf_build_recipe_end(st->c->b);
    op.chunk = (uint16_t)chunk;
    for (uint32_t i = 0; i < q.formals_n; i++) {
        q.args[i] = binding(&q, q.formal[i], shares);
    }
    return sf_build_op(st->c->b, &op, q.args, q.formals_n, ch->ready, ch->vs->params.buckets_n);
}

/* ---- the norm ---------------------------------------------------------------------------------------------------- */

/* Of the vector, which is formal 0. */
static struct sf_call sums_call(enum sf_call_kind kind, uint64_t n) {
    struct sf_call call = new_call(kind, SF_F32, n);
    call.operand[0] = SF_REF(0, 0);
    return call;
}

static struct sf_arg all_sums(const struct sfi_stage *st, enum sf_access access) {
    return (struct sf_arg){.buf = st->sums, .access = access, .bytes = sfi_squares_bytes(st->c)};
}

static uint32_t emit_zeros(struct sfi_stage *st) {
    struct sf_op op = norm_op(SF_OP_OPTIMIZER, SFI_COMPUTE);
    const struct sf_call zero = sums_call(SF_CALL_ZERO, sfi_squares_bytes(st->c) / sizeof(float));
    const struct sf_arg arg = all_sums(st, SF_WRITE);
    sf_build_recipe_begin(st->c->b, "no squares", 1);
    sf_build_call(st->c->b, &zero);
    op.recipe = sf_build_recipe_end(st->c->b);
    return sf_build_op(st->c->b, &op, &arg, 1, NULL, 0);
}

static void call_all_reduce(struct sfi_stage *st, uint32_t comm, enum section from, enum section to) {
    struct sf_call call = sums_call(SF_CALL_ALL_REDUCE, section_at(st->c, to) - section_at(st->c, from));
    call.comm = comm;
    call.operand[0] = call.operand[1] = SF_REF(0, section_at(st->c, from));
    sf_build_call(st->c->b, &call);
}

/* Over ranks that hold other parts of the same layers: on the compute stream, where all collectives of these
 * communicators are. Experts that are shared out belong to the last sum; those that are whole on every tensor-parallel
 * rank are divided over all of ep, which takes in tp. */
static uint32_t emit_inner_sums(struct sfi_stage *st, uint32_t after) {
    const struct sfi_compile *c = st->c;
    bool routed = c->s->model.experts > 0, outer = c->plan->zero > 0;
    uint32_t experts = routed && !outer ? c->comms.ep : SF_NONE;
    bool apart = !routed || (experts != SF_NONE && sf_plan_etp(c->plan) < c->plan->tp);
    struct sf_op op = norm_op(SF_OP_OPTIMIZER, SFI_COMPUTE);
    const struct sf_arg arg = all_sums(st, SF_READ_WRITE);
    uint32_t parts = outer ? c->comms.outer : SF_NONE; /* sub-replicas of the stage share its optimizer */
    if (c->comms.tp == SF_NONE && experts == SF_NONE && parts == SF_NONE) {
        return after;
    }
    sf_build_recipe_begin(c->b, "add squares", 1);
    if (c->comms.tp != SF_NONE) {
        call_all_reduce(st, c->comms.tp, apart ? PARTS : EXPERTS, WHOLES);
    }
    if (experts != SF_NONE) {
        call_all_reduce(st, experts, EXPERTS, PARTS);
    }
    if (parts != SF_NONE) {
        call_all_reduce(st, parts, routed ? EXPERTS : PARTS, SECTIONS);
    }
    op.recipe = sf_build_recipe_end(c->b);
    return sf_build_op(c->b, &op, &arg, 1, &after, 1);
}

/* Over the pipeline, and over ranks that share optimizers. */
static uint32_t emit_outer_sum(struct sfi_stage *st, uint32_t after) {
    struct sf_op op = norm_op(SF_OP_ALL_REDUCE, SFI_GRAD);
    const struct sf_arg arg = all_sums(st, SF_READ_WRITE);
    op.comm = st->c->comms.norm;
    op.bytes = arg.bytes;
    op.flags = SF_OP_SUM_F32;
    return op.comm == SF_NONE ? after : sf_build_op(st->c->b, &op, &arg, 1, &after, 1);
}

static void emit_cut(struct sfi_stage *st, uint32_t after) {
    struct sf_op op = norm_op(SF_OP_OPTIMIZER, SFI_COMPUTE);
    struct sf_call call = sums_call(SF_CALL_CLIP, sfi_squares_bytes(st->c) / sizeof(float));
    const struct sf_arg args[] = {
        all_sums(st, SF_READ),
        {.buf = st->norm, .access = SF_WRITE, .bytes = sizeof(float)},
        {.buf = st->hyper, .access = SF_READ_WRITE, .bytes = 8 * sizeof(float)},
    };
    call.imm[0] = (float)st->c->s->job.clip_norm;
    call.operand[1] = SF_REF(1, 0);
    call.operand[2] = SF_REF(2, 0);
    sf_build_recipe_begin(st->c->b, "clip", 3);
    sf_build_call(st->c->b, &call);
    op.recipe = sf_build_recipe_end(st->c->b);
    sf_build_op(st->c->b, &op, args, 3, &after, 1);
}

/* Of copies of the model, which have the same gradients by now, the first one counts. */
void sfi_emit_clip(struct sfi_stage *st) {
    if (sfi_squares_bytes(st->c) == 0) {
        return;
    }
    uint32_t last = emit_zeros(st);
    for (uint32_t chunk = st->chunks_n; chunk-- > 0;) {
        last = st->chunks[chunk].stage < st->c->vs_n ? emit_squares(st, chunk) : last;
    }
    emit_cut(st, emit_outer_sum(st, emit_inner_sums(st, last)));
}
