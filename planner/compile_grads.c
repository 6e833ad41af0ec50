/* What happens to gradients: canonical sums over microbatches, reduction over ranks, the exchange of a tied table, the
 * optimizer, and the gathering of what it updated. */
#include <stdio.h>

#include "planner/compile_internal.h"
#include "planner/schedule.h"

static uint64_t elements(const struct sfi_stage *st, uint64_t bytes) {
    return bytes / st->c->shape.elem;
}

static struct sf_op chunk_op(uint32_t chunk, enum sf_op_kind kind, enum sfi_stream stream) {
    return (struct sf_op){
        .kind = (uint8_t)kind, .stream = (uint8_t)stream, .recipe = SF_NONE, .comm = SF_NONE, .chunk = (uint16_t)chunk};
}

/* ---- canonical sums ---------------------------------------------------------------------------------------------- */

/* A binary counter. The gradients of a run of microbatches, added in order, are a leaf; a run is the odd part of the
 * number of microbatches, so leaves are a power of two. A sum that completes the first half of its pair waits in
 * partial[level], one that completes the second half is added to it and goes one level up. The gradient buffer itself
 * holds the sum under construction, and in the end the whole one. */
void sfi_leaf_buffers(const struct sfi_stage *st, const struct sf_step *step, uint32_t out[SFI_SPACES]) {
    const struct sfi_chunk *chunk = &st->chunks[step->chunk];
    uint32_t run = sfi_canonical_run(st->c->plan), leaves = st->c->plan->microbatches / run;
    bool waits = st->c->plan->canonical && leaves > 1 && step->microbatch / run % 2 == 0;
    for (int space = 0; space < SFI_SPACES; space++) {
        out[space] = waits ? chunk->partial[space][0] : chunk->grad[space];
    }
}

uint32_t sfi_canonical_run(const struct sf_plan *plan) {
    return plan->canonical ? plan->microbatches >> __builtin_ctz(plan->microbatches) : plan->microbatches;
}

/* Formals: the sum under construction, then partial[0 ..]. */
static uint32_t tree_recipe(const struct sfi_stage *st, uint64_t n, uint32_t adds, bool top) {
    struct sfi_recipe r = {.c = st->c, .shape = &st->c->shape};
    char name[SF_NAME];
    snprintf(name, sizeof name, "tree %u%s", adds, top ? " top" : "");
    sf_build_recipe_begin(st->c->b, name, adds + (top ? 1 : 2));
    for (uint32_t l = 0; l < adds; l++) {
        sf_ref y = l + 1 == adds && !top ? SF_REF(adds + 1, 0) : SF_REF(0, 0);
        sfi_call_simple(&r, SF_CALL_ADD, (const uint64_t[3]){n}, (const sf_ref[]){SF_REF(l + 1, 0), SF_REF(0, 0), y},
                        3);
    }
    return sf_build_recipe_end(st->c->b);
}

static uint32_t emit_sums(struct sfi_stage *st, const struct sf_step *step, enum sfi_space space, uint32_t adds,
                          bool top, uint32_t leaf_op) {
    const struct sfi_chunk *chunk = &st->chunks[step->chunk];
    uint64_t bytes = chunk->vs->params.bytes[space];
    struct sf_op op = chunk_op(step->chunk, SF_OP_ACCUMULATE, SFI_COMPUTE);
    struct sf_arg args[18] = {{.buf = chunk->grad[space], .access = SF_READ_WRITE, .bytes = bytes}};
    uint32_t n = 1;
    for (uint32_t l = 0; l < adds; l++) {
        args[n++] = (struct sf_arg){.buf = chunk->partial[space][l], .access = SF_READ, .bytes = bytes};
    }
    if (!top) {
        args[n++] = (struct sf_arg){.buf = chunk->partial[space][adds], .access = SF_WRITE, .bytes = bytes};
    }
    op.microbatch = (uint16_t)step->microbatch;
    op.recipe = tree_recipe(st, elements(st, bytes), adds, top);
    return sf_build_op(st->c->b, &op, args, n, &leaf_op, 1);
}

uint32_t sfi_emit_tree(struct sfi_stage *st, const struct sf_step *step, uint32_t leaf_op) {
    uint32_t run = sfi_canonical_run(st->c->plan), leaf = step->microbatch / run;
    uint32_t adds = (uint32_t)__builtin_ctz(~leaf);
    bool top = step->microbatch + 1 == st->c->plan->microbatches;
    if ((step->microbatch + 1) % run != 0 || adds == 0) {
        return leaf_op;
    }
    uint32_t done = leaf_op;
    for (uint32_t space = 0; space < SFI_SPACES; space++) {
        if (st->chunks[step->chunk].vs->params.bytes[space] > 0) {
            done = emit_sums(st, step, space, adds, top, leaf_op);
        }
    }
    return done;
}

/* ---- reduction over ranks ---------------------------------------------------------------------------------------- */

static uint32_t bucket_comm(const struct sfi_stage *st, const struct sfi_bucket *b) {
    return b->space == SFI_DENSE ? st->c->comms.dp : st->c->comms.edp;
}

/* Norms and routers see only this rank's rows, so their gradients are sums over tp too. On the compute stream, where
 * all collectives of this communicator are. */
static uint32_t reduce_replicated(struct sfi_stage *st, uint32_t chunk, uint32_t last_op) {
    const struct sfi_params *p = &st->chunks[chunk].vs->params;
    if (st->c->shape.tp == 1 || st->c->shape.whole_rows) { /* whole rows leave every rank the same gradient */
        return last_op;
    }
    struct sfi_recipe r = {.c = st->c, .shape = &st->c->shape};
    struct sf_op op = chunk_op(chunk, SF_OP_ACCUMULATE, SFI_COMPUTE);
    struct sf_arg arg = {.buf = st->chunks[chunk].grad[SFI_DENSE],
                         .access = SF_READ_WRITE,
                         .offset = p->norms,
                         .bytes = p->replicated_bytes};
    sf_build_recipe_begin(st->c->b, "reduce norms", 1);
    sfi_call_comm(&r, SF_CALL_ALL_REDUCE, st->c->comms.tp, arg.bytes, SF_REF(0, 0), SF_REF(0, 0));
    op.recipe = sf_build_recipe_end(st->c->b);
    return sf_build_op(st->c->b, &op, &arg, 1, &last_op, 1);
}

/* This rank's part of a bucket's gradient: a share in the shard buffer, or the bucket itself. */
static struct sf_arg owned_gradient(const struct sfi_stage *st, uint32_t chunk, uint32_t bucket,
                                    enum sf_access access) {
    const struct sfi_chunk *ch = &st->chunks[chunk];
    const struct sfi_bucket *b = &ch->vs->params.buckets[bucket];
    if (!b->sharded) {
        return (struct sf_arg){.buf = ch->grad[b->space], .access = access, .offset = b->offset, .bytes = b->bytes};
    }
    uint64_t at = ch->shard;
    for (uint32_t i = 0; i < bucket; i++) {
        at += ch->vs->params.buckets[i].sharded ? ch->vs->params.buckets[i].owned : 0;
    }
    return (struct sf_arg){.buf = st->grad_shard, .access = access, .offset = at, .bytes = b->owned};
}

static uint32_t reduce_bucket(struct sfi_stage *st, uint32_t chunk, uint32_t bucket, uint32_t after) {
    const struct sfi_chunk *ch = &st->chunks[chunk];
    const struct sfi_bucket *b = &ch->vs->params.buckets[bucket];
    struct sf_op op = chunk_op(chunk, b->sharded ? SF_OP_REDUCE_SCATTER : SF_OP_ALL_REDUCE, SFI_GRAD);
    struct sf_arg args[2] = {{.buf = ch->grad[b->space],
                              .access = b->sharded ? SF_READ : SF_READ_WRITE,
                              .offset = b->offset,
                              .bytes = b->bytes}};
    op.comm = bucket_comm(st, b);
    op.bytes = b->bytes;
    op.flags = st->c->shape.dtype == SF_F32 ? SF_OP_SUM_F32 : 0;
    if (op.comm == SF_NONE) {
        return after;
    }
    if (b->sharded) {
        args[1] = owned_gradient(st, chunk, bucket, SF_WRITE);
    }
    return sf_build_op(st->c->b, &op, args, b->sharded ? 2 : 1, &after, 1);
}

void sfi_emit_reductions(struct sfi_stage *st, uint32_t chunk, uint32_t last_op) {
    uint32_t after = reduce_replicated(st, chunk, last_op);
    for (uint32_t b = 0; b < st->chunks[chunk].vs->params.buckets_n; b++) {
        st->chunks[chunk].ready[b] = reduce_bucket(st, chunk, b, after);
    }
}

/* ---- tied table -------------------------------------------------------------------------------------------------- */

/* The bucket of a copied table: the first one of its virtual stage, or the second where both ends share a stage. */
static uint32_t tied_bucket(const struct sfi_vstage *vs, bool head) {
    return head && vs->is_first ? 1 : 0;
}

static uint32_t sum_recipe(const struct sfi_stage *st, uint64_t n, bool copy_back) {
    struct sfi_recipe r = {.c = st->c, .shape = &st->c->shape};
    sf_build_recipe_begin(st->c->b, "tied sum", 2);
    sfi_call_simple(&r, SF_CALL_ADD, (const uint64_t[3]){n}, (const sf_ref[]){SF_REF(0, 0), SF_REF(1, 0), SF_REF(0, 0)},
                    3);
    if (copy_back) {
        sfi_call_simple(&r, SF_CALL_COPY, (const uint64_t[3]){n}, (const sf_ref[]){SF_REF(0, 0), SF_REF(1, 0)}, 2);
    }
    return sf_build_recipe_end(st->c->b);
}

static void tied_on_one_stage(struct sfi_stage *st) {
    struct sf_op op = chunk_op(0, SF_OP_ACCUMULATE, SFI_COMPUTE);
    const struct sf_arg args[] = {owned_gradient(st, 0, 0, SF_READ_WRITE), owned_gradient(st, 0, 1, SF_READ_WRITE)};
    op.recipe = sum_recipe(st, elements(st, args[0].bytes), true);
    uint32_t done = sf_build_op(st->c->b, &op, args, 2, st->chunks[0].ready, 2);
    st->chunks[0].ready[0] = st->chunks[0].ready[1] = done;
}

static uint32_t tied_transfer(struct sfi_stage *st, uint32_t chunk, bool send, bool forward, struct sf_arg arg,
                              uint32_t after) {
    int32_t reach = (int32_t)st->c->plan->pp - 1;
    enum sfi_stream streams[2][2] = {{SFI_BWD_RECV, SFI_FWD_RECV}, {SFI_BWD_SEND, SFI_FWD_SEND}};
    struct sf_op op = chunk_op(chunk, send ? SF_OP_SEND : SF_OP_RECV, streams[send][forward]);
    op.comm = forward ? st->c->comms.fwd : st->c->comms.bwd;
    op.peer_delta = send == forward ? reach : -reach;
    op.bytes = arg.bytes;
    return sf_build_op(st->c->b, &op, &arg, 1, &after, 1);
}

/* The first and the last stage swap their sums and both add the other's: addition commutes, so the copies stay equal to
 * the bit. After the reduction over ranks, which keeps canonical sums independent of the layout and moves less. */
static void tied_across_stages(struct sfi_stage *st, uint32_t chunk, bool head) {
    uint32_t bucket = tied_bucket(st->chunks[chunk].vs, head);
    uint32_t *ready = &st->chunks[chunk].ready[bucket], last_step = st->step_op[st->steps_n - 1];
    struct sf_arg own = owned_gradient(st, chunk, bucket, SF_READ);
    struct sf_arg other = {.access = SF_WRITE, .bytes = own.bytes};
    other.buf = sf_build_buffer(st->c->b, "tied.in", SF_BUF_COMM, own.bytes, false);
    uint32_t sent = tied_transfer(st, chunk, true, !head, own, *ready);
    uint32_t received = tied_transfer(st, chunk, false, head, other, last_step);
    struct sf_op op = chunk_op(chunk, SF_OP_ACCUMULATE, SFI_COMPUTE);
    own.access = SF_READ_WRITE;
    other.access = SF_READ;
    op.recipe = sum_recipe(st, elements(st, own.bytes), false);
    *ready = sf_build_op(st->c->b, &op, (const struct sf_arg[]){own, other}, 2,
                         (const uint32_t[]){*ready, sent, received}, 3);
}

static void emit_tied(struct sfi_stage *st) {
    uint32_t last = st->c->plan->vpp - 1;
    const struct sfi_vstage *first_vs = st->chunks[0].vs, *last_vs = st->chunks[last].vs;
    if (!sfi_vstage_of(st->c, st->c->plan->pp - 1, last)->params.copied_head) {
        return;
    }
    if (first_vs->is_first && last_vs->is_last) {
        tied_on_one_stage(st);
    } else if (first_vs->is_first) {
        tied_across_stages(st, 0, false);
    } else if (last_vs->is_last) {
        tied_across_stages(st, last, true);
    }
}

/* ---- optimizer --------------------------------------------------------------------------------------------------- */

/* Formals: param, grad, m, v, hyper and, below f32, master. */
static uint32_t adamw_recipe(const struct sfi_stage *st, uint64_t n, bool decays) {
    bool master = st->c->shape.dtype != SF_F32;
    struct sf_call call = {.kind = SF_CALL_ADAMW,
                           .dtype = (uint8_t)st->c->shape.dtype,
                           .comm = SF_NONE,
                           .imm = {decays ? 1 : 0, 1},
                           .dims = {(int64_t)n}};
    for (uint32_t i = 0; i < SF_CALL_OPERANDS; i++) {
        call.operand[i] = i < 5 || (i == 5 && master) ? SF_REF(i, 0) : SF_REF_NONE;
    }
    sf_build_recipe_begin(st->c->b, decays ? "adamw" : "adamw no decay", master ? 6 : 5);
    sf_build_call(st->c->b, &call);
    return sf_build_recipe_end(st->c->b);
}

static struct sf_arg owned_param(const struct sfi_stage *st, uint32_t chunk, uint32_t bucket) {
    const struct sfi_chunk *ch = &st->chunks[chunk];
    const struct sfi_bucket *b = &ch->vs->params.buckets[bucket];
    struct sf_arg arg = owned_gradient(st, chunk, bucket, SF_READ_WRITE); /* same offsets */
    arg.buf = b->sharded ? st->param_shard : ch->param[b->space];
    return arg;
}

static struct sf_arg state_arg(uint32_t buf, const struct sfi_bucket *b, uint64_t n) {
    return (struct sf_arg){.buf = buf, .access = SF_READ_WRITE, .offset = b->state * 4, .bytes = n * 4};
}

static void emit_bucket_update(struct sfi_stage *st, uint32_t chunk, uint32_t bucket) {
    const struct sfi_chunk *ch = &st->chunks[chunk];
    const struct sfi_bucket *b = &ch->vs->params.buckets[bucket];
    uint64_t n = elements(st, b->owned);
    bool master = st->c->shape.dtype != SF_F32;
    struct sf_op op = chunk_op(chunk, SF_OP_OPTIMIZER, SFI_COMPUTE);
    const struct sf_arg args[] = {
        owned_param(st, chunk, bucket),
        owned_gradient(st, chunk, bucket, SF_READ),
        state_arg(ch->m, b, n),
        state_arg(ch->v, b, n),
        {.buf = st->hyper, .access = SF_READ, .bytes = 8 * sizeof(float)},
        state_arg(ch->master, b, n),
    };
    op.recipe = adamw_recipe(st, n, b->decays);
    uint32_t updated = sf_build_op(st->c->b, &op, args, master ? 6 : 5, &ch->ready[bucket], 1);
    if (!b->sharded) {
        return;
    }
    op = chunk_op(chunk, SF_OP_ALL_GATHER, SFI_GRAD);
    op.comm = bucket_comm(st, b);
    op.bytes = b->bytes;
    struct sf_arg gather[] = {args[0],
                              {.buf = ch->param[b->space], .access = SF_WRITE, .offset = b->offset, .bytes = b->bytes}};
    gather[0].access = SF_READ;
    sf_build_op(st->c->b, &op, gather, 2, &updated, 1);
}

/* The last chunk's gradients are complete first. */
void sfi_emit_update(struct sfi_stage *st) {
    emit_tied(st);
    for (uint32_t chunk = st->c->plan->vpp; chunk-- > 0;) {
        for (uint32_t b = 0; b < st->chunks[chunk].vs->params.buckets_n; b++) {
            emit_bucket_update(st, chunk, b);
        }
    }
}
