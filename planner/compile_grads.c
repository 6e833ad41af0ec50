/* What happens to gradients once a chunk has them all: the sum over copies of the model, reduction over ranks, the
 * exchange of a tied table, the optimizer, and the gathering of what it updated. */
#include "planner/compile_internal.h"

static uint64_t elements(const struct sfi_stage *st, uint64_t bytes) {
    return bytes / st->c->shape.elem;
}

static struct sf_op chunk_op(uint32_t chunk, enum sf_op_kind kind, enum sfi_stream stream) {
    return (struct sf_op){
        .kind = (uint8_t)kind, .stream = (uint8_t)stream, .recipe = SF_NONE, .comm = SF_NONE, .chunk = (uint16_t)chunk};
}

/* ---- reduction over ranks ---------------------------------------------------------------------------------------- */

static uint32_t bucket_comm(const struct sfi_stage *st, const struct sfi_bucket *b) {
    const struct sfi_comms *k = &st->c->comms;
    return b->sharded ? k->share[b->space] : b->space == SFI_DENSE ? k->dp : k->edp;
}

/* Whole rows leave every rank the same gradient. */
static bool splits_rows(const struct sfi_stage *st) {
    return st->c->shape.tp > 1 && !st->c->shape.whole_rows;
}

static uint32_t sum_over_tp(struct sfi_stage *st, uint32_t chunk, struct sf_arg arg, uint32_t after) {
    struct sfi_recipe r = {.c = st->c, .shape = &st->c->shape};
    struct sf_op op = chunk_op(chunk, SF_OP_ACCUMULATE, SFI_COMPUTE);
    sf_build_recipe_begin(st->c->b, "reduce norms", 1);
    sfi_call_comm(&r, SF_CALL_ALL_REDUCE, st->c->comms.tp, arg.bytes, SF_REF(0, 0), SF_REF(0, 0));
    op.recipe = sf_build_recipe_end(st->c->b);
    return sf_build_op(st->c->b, &op, &arg, 1, &after, 1);
}

/* Norms and routers see only this rank's rows, so their gradients are sums over tp too. On the compute stream, where
 * all collectives of this communicator are. */
uint32_t sfi_reduce_replicated(struct sfi_stage *st, uint32_t chunk, uint32_t grad, uint32_t last_op) {
    const struct sfi_params *p = &st->chunks[chunk].vs->params;
    const struct sf_arg arg = {.buf = grad, .access = SF_READ_WRITE, .offset = p->norms, .bytes = p->replicated_bytes};
    bool later = st->c->plan->canonical && st->c->plan->zero <= 1; /* see finish_replicated */
    return splits_rows(st) && !later && arg.bytes > 0 ? sum_over_tp(st, chunk, arg, last_op) : last_op;
}

struct sf_arg sfi_owned_gradient(const struct sfi_stage *st, uint32_t chunk, uint32_t bucket, enum sf_access access) {
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

uint32_t sfi_reduce_across(struct sfi_stage *st, uint32_t chunk, uint32_t bucket, uint32_t after) {
    const struct sf_arg share = sfi_owned_gradient(st, chunk, bucket, SF_READ_WRITE);
    struct sf_op op = chunk_op(chunk, SF_OP_ALL_REDUCE, SFI_GRAD);
    op.comm = st->c->comms.across;
    op.bytes = share.bytes;
    op.flags = st->c->shape.dtype == SF_F32 ? SF_OP_SUM_F32 : 0;
    return op.comm == SF_NONE ? after : sf_build_op(st->c->b, &op, &share, 1, &after, 1);
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
        args[1] = sfi_owned_gradient(st, chunk, bucket, SF_WRITE);
    }
    uint32_t reduced = sf_build_op(st->c->b, &op, args, b->sharded ? 2 : 1, &after, 1);
    return b->sharded ? sfi_reduce_across(st, chunk, bucket, reduced) : reduced;
}

static void reduce_chunk(struct sfi_stage *st, uint32_t chunk, uint32_t last_op) {
    uint32_t after = sfi_reduce_replicated(st, chunk, st->chunks[chunk].grad[SFI_DENSE], last_op);
    for (uint32_t b = 0; b < st->chunks[chunk].vs->params.buckets_n; b++) {
        st->chunks[chunk].ready[b] = reduce_bucket(st, chunk, b, after);
    }
}

void sfi_emit_reductions(struct sfi_stage *st, uint32_t chunk, uint32_t last_op) {
    if (st->c->table.pipe->ways == 1) {
        reduce_chunk(st, chunk, last_op);
    }
}

/* ---- swaps ------------------------------------------------------------------------------------------------------- */

uint32_t sfi_sum_recipe(const struct sfi_stage *st, uint64_t n, bool copy_back) {
    struct sfi_recipe r = {.c = st->c, .shape = &st->c->shape};
    sf_build_recipe_begin(st->c->b, "sum", 2);
    sfi_call_simple(&r, SF_CALL_ADD, (const uint64_t[3]){n}, (const sf_ref[]){SF_REF(0, 0), SF_REF(1, 0), SF_REF(0, 0)},
                    3);
    if (copy_back) {
        sfi_call_simple(&r, SF_CALL_COPY, (const uint64_t[3]){n}, (const sf_ref[]){SF_REF(0, 0), SF_REF(1, 0)}, 2);
    }
    return sf_build_recipe_end(st->c->b);
}

/* Swaps come after all passes, on one send and one receive stream, and every rank has them in the same order. */
static uint32_t swap_op(struct sfi_stage *st, uint32_t chunk, uint32_t peer, bool send, struct sf_arg arg,
                        uint32_t after) {
    struct sf_op op = chunk_op(chunk, send ? SF_OP_SEND : SF_OP_RECV, send ? SFI_FWD_SEND : SFI_FWD_RECV);
    op.comm = st->c->comms.swap;
    op.peer_delta = (int32_t)peer - (int32_t)st->stage;
    op.bytes = arg.bytes;
    arg.access = send ? SF_READ : SF_WRITE;
    return sf_build_op(st->c->b, &op, &arg, 1, &after, 1);
}

/* Two ranks give each other their part of a sum and both add the other's: addition commutes, so both have the same
 * bits. Returns the op after which `own` holds the sum. */
static uint32_t swap_and_add(struct sfi_stage *st, uint32_t chunk, uint32_t peer, struct sf_arg own, uint32_t ready) {
    uint32_t last_step = st->step_op[st->steps_n - 1];
    struct sf_arg other = {.access = SF_READ, .bytes = own.bytes};
    other.buf = sf_build_buffer(st->c->b, "swap.in", SF_BUF_COMM, own.bytes, false);
    uint32_t sent = swap_op(st, chunk, peer, true, own, ready);
    uint32_t received = swap_op(st, chunk, peer, false, other, last_step);
    struct sf_op op = chunk_op(chunk, SF_OP_ACCUMULATE, SFI_COMPUTE);
    own.access = SF_READ_WRITE;
    op.recipe = sfi_sum_recipe(st, elements(st, own.bytes), false);
    return sf_build_op(st->c->b, &op, (const struct sf_arg[]){own, other}, 2, (const uint32_t[]){ready, sent, received},
                       3);
}

/* ---- copies of the model ----------------------------------------------------------------------------------------- */

/* The same virtual stage in the other copy. */
static uint32_t twin_of(const struct sfi_stage *st, uint32_t stage) {
    return (stage + st->c->vs_n) % st->c->table.pipe->stages;
}

static void add_copies(struct sfi_stage *st, uint32_t chunk) {
    const struct sfi_chunk *ch = &st->chunks[chunk];
    uint32_t peer = st->c->table.pipe->device_of[twin_of(st, ch->stage)], ready = ch->complete;
    for (int space = 0; space < SFI_SPACES; space++) {
        struct sf_arg own = {.buf = ch->grad[space], .bytes = ch->vs->params.bytes[space]};
        ready = own.bytes > 0 ? swap_and_add(st, chunk, peer, own, ready) : ready;
    }
    reduce_chunk(st, chunk, ready);
}

/* Each copy knows the losses of its own microbatches; afterwards both know all. */
static void swap_losses(struct sfi_stage *st, uint32_t chunk) {
    const struct sfi_chunk *ch = &st->chunks[chunk];
    uint64_t bytes = ch->mbs * sizeof(float), first = ch->first_mb * sizeof(float);
    uint32_t peer = st->c->table.pipe->device_of[twin_of(st, ch->stage)], after = st->step_op[st->steps_n - 1];
    struct sf_arg own = {.buf = st->loss, .offset = first, .bytes = bytes};
    struct sf_arg other = {.buf = st->loss, .offset = first > 0 ? 0 : bytes, .bytes = bytes};
    swap_op(st, chunk, peer, true, own, after);
    swap_op(st, chunk, peer, false, other, after);
}

/* In the order of virtual stages, which is the same for both ranks of every pair. */
static void emit_copies(struct sfi_stage *st) {
    for (uint32_t vs = 0; vs < st->c->vs_n && st->c->table.pipe->ways > 1; vs++) {
        for (uint32_t i = 0; i < st->chunks_n; i++) {
            if (st->chunks[i].vs->index == vs) {
                add_copies(st, i);
            }
            if (st->chunks[i].vs->index == vs && st->chunks[i].vs->is_last) {
                swap_losses(st, i);
            }
        }
    }
}

/* ---- shared table ------------------------------------------------------------------------------------------------ */

/* The bucket of a copied table: the first one of its virtual stage, or the second where both ends share a stage. */
static uint32_t tied_bucket(const struct sfi_vstage *vs, bool head) {
    return head && vs->is_first ? 1 : 0;
}

static void tied_on_one_rank(struct sfi_stage *st, uint32_t first, uint32_t last) {
    uint32_t *ready[] = {&st->chunks[first].ready[tied_bucket(st->chunks[first].vs, false)],
                         &st->chunks[last].ready[tied_bucket(st->chunks[last].vs, true)]};
    struct sf_op op = chunk_op(first, SF_OP_ACCUMULATE, SFI_COMPUTE);
    const struct sf_arg args[] = {
        sfi_owned_gradient(st, first, tied_bucket(st->chunks[first].vs, false), SF_READ_WRITE),
        sfi_owned_gradient(st, last, tied_bucket(st->chunks[last].vs, true), SF_READ_WRITE),
    };
    op.recipe = sfi_sum_recipe(st, elements(st, args[0].bytes), true);
    *ready[0] = *ready[1] = sf_build_op(st->c->b, &op, args, 2, (const uint32_t[]){*ready[0], *ready[1]}, 2);
}

/* After the reduction over ranks, which keeps canonical sums independent of the layout and moves less. */
static void tied_across_ranks(struct sfi_stage *st, uint32_t stage, uint32_t other, bool head) {
    const uint16_t *device_of = st->c->table.pipe->device_of;
    if (device_of[stage] == st->stage) {
        uint32_t chunk = st->c->table.chunk_of[stage], bucket = tied_bucket(st->chunks[chunk].vs, head);
        uint32_t *ready = &st->chunks[chunk].ready[bucket];
        *ready = swap_and_add(st, chunk, device_of[other], sfi_owned_gradient(st, chunk, bucket, SF_READ), *ready);
    }
}

static void emit_tied(struct sfi_stage *st) {
    const struct sfi_table *t = &st->c->table;
    const struct sfi_vstage *copying = sfi_copying(st->c);
    if (copying->params.copy == UINT64_MAX) {
        return;
    }
    for (uint32_t way = 0; way < t->pipe->ways; way++) {
        uint32_t first = way * st->c->vs_n, last = first + copying->index;
        if (t->pipe->device_of[first] != t->pipe->device_of[last]) {
            tied_across_ranks(st, first, last, false);
            tied_across_ranks(st, last, first, true);
        } else if (t->pipe->device_of[first] == st->stage) {
            tied_on_one_rank(st, t->chunk_of[first], t->chunk_of[last]);
        }
    }
}

/* ---- optimizer --------------------------------------------------------------------------------------------------- */

/* Formals: param, grad, m, v, hyper and, below f32, master. */
static uint32_t adamw_recipe(const struct sfi_stage *st, uint64_t n, bool decays) {
    bool master = st->c->shape.dtype != SF_F32;
    struct sf_call call = {.kind = SF_CALL_ADAMW,
                           .dtype = (uint8_t)st->c->shape.dtype,
                           .flags = st->c->s->job.lean_moments ? SF_CALL_LEAN_FLAG : 0,
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
    struct sf_arg arg = sfi_owned_gradient(st, chunk, bucket, SF_READ_WRITE); /* same offsets */
    arg.buf = b->sharded ? st->param_shard : ch->param[b->space];
    return arg;
}

static struct sf_arg state_arg(uint32_t buf, const struct sfi_bucket *b, uint64_t n, uint64_t elem) {
    return (struct sf_arg){.buf = buf, .access = SF_READ_WRITE, .offset = b->state * elem, .bytes = n * elem};
}

static void emit_bucket_update(struct sfi_stage *st, uint32_t chunk, uint32_t bucket) {
    const struct sfi_chunk *ch = &st->chunks[chunk];
    const struct sfi_bucket *b = &ch->vs->params.buckets[bucket];
    uint64_t n = elements(st, b->owned), moment = sfi_moment_bytes(st->c);
    bool master = st->c->shape.dtype != SF_F32;
    struct sf_op op = chunk_op(chunk, SF_OP_OPTIMIZER, SFI_COMPUTE);
    const struct sf_arg args[] = {
        owned_param(st, chunk, bucket),
        sfi_owned_gradient(st, chunk, bucket, SF_READ),
        state_arg(ch->m, b, n, moment),
        state_arg(ch->v, b, n, moment),
        {.buf = st->hyper, .access = SF_READ, .bytes = 8 * sizeof(float)},
        state_arg(ch->master, b, n, sizeof(float)),
    };
    op.recipe = adamw_recipe(st, n, b->decays);
    uint32_t updated = sf_build_op(st->c->b, &op, args, master ? 6 : 5, &ch->ready[bucket], 1);
    if (!b->sharded || st->c->plan->zero >= SFI_ZERO_WEIGHTS) {
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

/* A canonical sum over microbatches goes on over replicas, so the sum over tp, which no layout shares out differently,
 * comes behind both. */
static void finish_replicated(struct sfi_stage *st, uint32_t chunk) {
    struct sfi_chunk *ch = &st->chunks[chunk];
    bool due = splits_rows(st) && st->c->plan->canonical && st->c->plan->zero <= 1;
    for (uint32_t b = 0; due && b < ch->vs->params.buckets_n; b++) {
        const struct sfi_bucket *bucket = &ch->vs->params.buckets[b];
        if (bucket->space == SFI_DENSE && bucket->offset >= ch->vs->params.norms) {
            ch->ready[b] = sum_over_tp(st, chunk, sfi_owned_gradient(st, chunk, b, SF_READ_WRITE), ch->ready[b]);
        }
    }
}

/* The last chunk's gradients are complete first. */
void sfi_emit_update(struct sfi_stage *st) {
    bool clips = sfi_squares_bytes(st->c) > 0;
    sfi_end_scatters(st);
    emit_copies(st);
    emit_tied(st);
    for (uint32_t chunk = st->chunks_n; chunk-- > 0 && clips;) {
        finish_replicated(st, chunk);
    }
    sfi_emit_clip(st);
    for (uint32_t chunk = st->chunks_n; chunk-- > 0;) {
        if (!clips) { /* nothing waits for the gradients of all chunks */
            finish_replicated(st, chunk);
        }
        for (uint32_t b = 0; b < st->chunks[chunk].vs->params.buckets_n; b++) {
            emit_bucket_update(st, chunk, b);
        }
    }
}
