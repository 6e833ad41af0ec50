/* Ops of the schedule's steps. What a step needs is on its way before: a transfer is posted when the replay makes it, a
 * load one step ahead, each as soon as the slot that it fills is free. */
#include "planner/compile_internal.h"

static struct sf_op pass_op(const struct sfi_stage *st, const struct sf_pass *step, enum sf_op_kind kind,
                            enum sfi_stream stream) {
    return (struct sf_op){.kind = (uint8_t)kind,
                          .stream = (uint8_t)stream,
                          .recipe = SF_NONE,
                          .comm = SF_NONE,
                          .microbatch = (uint16_t)step->microbatch,
                          .slice = step->slice,
                          .chunk = (uint16_t)st->c->table.chunk_of[step->stage]};
}

static struct sf_arg whole(uint32_t buf, uint64_t bytes, enum sf_access access) {
    return (struct sf_arg){.buf = buf, .access = access, .bytes = bytes};
}

static uint32_t own_unit(const struct sfi_stage *st, const struct sf_pass *step) {
    return sfi_unit_of(st, step->stage, step->microbatch, step->slice);
}

/* ---- routes ------------------------------------------------------------------------------------------------------ */

struct sfi_route sfi_route_of(const struct sfi_table *t, uint32_t from_stage, uint32_t to_stage) {
    uint32_t ranks = t->pipe->devices, from = t->pipe->device_of[from_stage], to = t->pipe->device_of[to_stage];
    uint32_t ahead = (to + ranks - from) % ranks;
    bool next = 2 * ahead == ranks ? to_stage > from_stage : 2 * ahead < ranks; /* opposite: by kind */
    return (struct sfi_route){.side = next ? SFI_NEXT : SFI_PREV,
                              .delta = next ? (int32_t)ahead : (int32_t)ahead - (int32_t)ranks};
}

static struct sf_op transfer_op(const struct sfi_stage *st, const struct sf_pass *step, bool send, uint32_t from_stage,
                                uint32_t to_stage) {
    static const enum sfi_stream streams[SFI_SIDES][2] = {
        [SFI_NEXT] = {SFI_FWD_RECV, SFI_FWD_SEND}, [SFI_PREV] = {SFI_BWD_RECV, SFI_BWD_SEND}};
    struct sfi_route route = sfi_route_of(&st->c->table, from_stage, to_stage);
    struct sf_op op = pass_op(st, step, send ? SF_OP_SEND : SF_OP_RECV, streams[route.side][send]);
    op.comm = to_stage > from_stage ? st->c->comms.fwd : st->c->comms.bwd;
    op.peer_delta = send ? route.delta : -route.delta;
    op.bytes = sfi_input_bytes(st->c, &st->c->vs[(to_stage > from_stage ? to_stage : from_stage) % st->c->vs_n]);
    return op;
}

/* The stage that makes a step's input, or SF_NONE. */
static uint32_t source_of(const struct sfi_stage *st, const struct sf_pass *step) {
    return step->kind == SF_PASS_F ? sfi_stage_before(st->c, step->stage) : sfi_stage_behind(st->c, step->stage);
}

/* The stage that a step's result goes to, or SF_NONE. */
static uint32_t target_of(const struct sfi_stage *st, const struct sf_pass *step) {
    return step->kind == SF_PASS_F ? sfi_stage_behind(st->c, step->stage) : sfi_stage_before(st->c, step->stage);
}

/* ---- what arrives ------------------------------------------------------------------------------------------------ */

static uint32_t emit_load(struct sfi_stage *st, uint32_t j, uint32_t buf, uint16_t flags) {
    struct sf_op op = pass_op(st, &st->steps[j], SF_OP_LOAD, SFI_LOAD);
    const struct sfi_vstage *vs = sfi_chunk_of(st, &st->steps[j])->vs;
    op.comm = sfi_is_part(st->c, vs) ? st->c->comms.vocab : st->c->comms.tp; /* the tables are split over it */
    uint64_t depths = flags & SF_OP_TARGETS ? sfi_depths(st->c, vs) : 1;
    struct sf_arg arg = whole(buf, sfi_mul(depths, st->c->shape.tokens * 4), SF_WRITE);
    op.flags = flags;
    return sf_build_op(st->c->b, &op, &arg, 1, j >= 2 ? &st->step_op[j - 2] : NULL, j >= 2);
}

/* Where logits are made, whole in forward or in parts in every kind of backward; they are the tokens of layers that
 * predict further, too. */
static bool uses_targets(const struct sfi_stage *st, const struct sf_pass *step) {
    const struct sfi_vstage *vs = sfi_chunk_of(st, step)->vs;
    if (vs->mtp > 0) {
        return step->kind != SF_PASS_B || st->c->shape.loss_rows > 0;
    }
    return sfi_is_part(st->c, vs) || (vs->head && (step->kind == SF_PASS_F) == (st->c->shape.loss_rows == 0));
}

static void emit_loads(struct sfi_stage *st, uint32_t j) {
    const struct sf_pass *step = &st->steps[j];
    const struct sfi_vstage *vs = sfi_chunk_of(st, step)->vs;
    if (step->kind == SF_PASS_F && vs->is_first) {
        st->arrival[0][j] = emit_load(st, j, sfi_pool_buffer(&st->tokens, own_unit(st, step)), 0);
    }
    if (uses_targets(st, step)) {
        st->arrival[1][j] = emit_load(st, j, st->targets[st->targeted_early++ % SFI_SLOTS], SF_OP_TARGETS);
    }
}

static void emit_recv(struct sfi_stage *st, uint32_t j) {
    const struct sf_pass *step = &st->steps[j];
    const struct sfi_pool *pool = step->kind == SF_PASS_F ? sfi_inputs(st, step->stage) : &st->landing;
    struct sf_op op = transfer_op(st, step, false, source_of(st, step), step->stage);
    struct sf_arg arg = whole(sfi_pool_buffer(pool, own_unit(st, step)), op.bytes, SF_WRITE);
    uint32_t after = sfi_freed_by(st, pool->after[own_unit(st, step)]);
    st->arrival[0][j] = sf_build_op(st->c->b, &op, &arg, 1, &after, after != SF_NONE);
}

/* Transfers made while step j runs. */
static void emit_arrivals(struct sfi_stage *st, uint32_t j) {
    sf_time_ps until = st->c->table.end[st->stage][j];
    while (st->arrived < st->arrivals_n && st->arrivals[st->arrived].at <= until) {
        emit_recv(st, st->arrivals[st->arrived++].step);
    }
}

/* ---- compute ----------------------------------------------------------------------------------------------------- */

static void bind(struct sf_arg *args, uint32_t formal, uint32_t buf, uint64_t bytes, enum sf_access access) {
    if (formal != SF_NONE) {
        args[formal] = whole(buf, bytes, access);
    }
}

static const struct sfi_recipes *recipes_of(const struct sfi_stage *st, const struct sf_pass *step) {
    return &sfi_chunk_of(st, step)->vs->recipes[step->slice];
}

static void bind_pooled(struct sf_arg *args, uint32_t formal, const struct sfi_pool *pool, uint32_t unit,
                        uint64_t bytes, enum sf_access access) {
    if (formal != SF_NONE) {
        args[formal] = whole(sfi_pool_buffer(pool, unit), bytes, access);
    }
}

/* What the slices of a microbatch share. A forward, run again too, leaves the slice's keys and values; a backward
 * collects gradients for the slices before it. */
static void bind_shared(struct sfi_stage *st, const struct sf_pass *step, const struct sfi_formals *f,
                        struct sf_arg *args) {
    const struct sfi_vstage *vs = sfi_chunk_of(st, step)->vs;
    uint32_t unit = sfi_unit_of(st, step->stage, step->microbatch, 0);
    bool writes = step->kind == SF_PASS_F || (st->c->shape.recompute && vs->again > 0);
    bool first = step->kind == SF_PASS_F ? step->slice == 0 : step->slice + 1u == st->c->shape.slices;
    bind_pooled(args, f->keys, &st->keys, unit, vs->keys_bytes,
                !writes                            ? SF_READ
                : first && step->kind == SF_PASS_F ? SF_WRITE
                                                   : SF_READ_WRITE);
    bind_pooled(args, f->sums, &st->key_sums, unit, vs->sums_bytes, first ? SF_WRITE : SF_READ_WRITE);
}

/* A part of a split head writes over its input when it is done with it. */
static enum sf_access input_access(const struct sfi_stage *st, const struct sf_pass *step) {
    const struct sfi_vstage *vs = sfi_chunk_of(st, step)->vs;
    if (step->kind != SF_PASS_F) {
        return sfi_is_part(st->c, vs) ? SF_READ_WRITE : SF_READ;
    }
    return vs->is_first ? SF_WRITE : SF_READ;
}

/* What all passes bind alike; `stash` and `head` say what the pass does to activations. */
static void bind_common(struct sfi_stage *st, const struct sf_pass *step, const struct sfi_formals *f,
                        struct sf_arg *args, enum sf_access stash, enum sf_access head) {
    const struct sfi_chunk *chunk = sfi_chunk_of(st, step);
    const struct sfi_vstage *vs = chunk->vs;
    uint32_t unit = own_unit(st, step);
    enum sf_access held = step->kind == SF_PASS_B ? SF_READ_WRITE : SF_READ;
    bool was_away = step->kind != SF_PASS_F && sfi_is_away(st, step->stage, step->microbatch, step->slice);
    uint32_t back = was_away ? sfi_unit_back(st, unit) : unit;
    uint32_t param[SFI_SPACES] = {chunk->param[SFI_DENSE], chunk->param[SFI_EXPERT]};
    sfi_bind_whole(st, (uint32_t)(step - st->steps), param);
    bind(args, f->param, param[SFI_DENSE], vs->params.bytes[SFI_DENSE], SF_READ);
    bind(args, f->expert, param[SFI_EXPERT], vs->params.bytes[SFI_EXPERT], SF_READ);
    bind(args, f->work, st->work, vs->work_bytes, SF_READ_WRITE);
    bind_pooled(args, f->stash, &st->stash, back, vs->stash_bytes, stash);
    bind_pooled(args, f->held, &st->held, unit, vs->held_bytes, held);
    bind_pooled(args, f->head, &st->head, unit, vs->head_bytes, head);
    bind_shared(st, step, f, args);
    bind_pooled(args, f->tokens, &st->tokens, unit, st->c->shape.tokens * 4, SF_READ);
    bind_pooled(args, f->x, sfi_inputs(st, step->stage), back, sfi_input_bytes(st->c, vs), input_access(st, step));
}

/* Where a step's result goes: straight to where the next stage on this rank reads it, or to the slot of a transfer;
 * *freed is the op that must have read that before. */
static uint32_t result_buffer(struct sfi_stage *st, const struct sf_pass *step, uint32_t *freed) {
    uint32_t to = target_of(st, step);
    const struct sfi_table *t = &st->c->table;
    if (t->pipe->device_of[to] == st->stage) {
        const struct sfi_pool *pool = step->kind == SF_PASS_F ? sfi_inputs(st, to) : &st->landing;
        uint32_t unit = sfi_unit_of(st, to, step->microbatch, step->slice);
        *freed = sfi_freed_by(st, pool->after[unit]);
        return sfi_pool_buffer(pool, unit);
    }
    if (sfi_is_part(st->c, sfi_chunk_of(st, step)->vs)) {
        return sfi_return_buffer(st, step->microbatch, freed);
    }
    enum sfi_side side = sfi_route_of(t, step->stage, to).side;
    uint32_t slot = st->sent[side] % SFI_SLOTS;
    *freed = st->last_send[side][slot];
    return st->out[side][slot];
}

static uint32_t emit_compute(struct sfi_stage *st, uint32_t j, struct sf_op *op, const struct sf_arg *args,
                             uint32_t args_n, uint32_t freed) {
    const uint32_t *const *gathered = (const uint32_t *const *)st->shards.gathered;
    uint32_t unit = own_unit(st, &st->steps[j]);
    bool forward = st->steps[j].kind == SF_PASS_F;
    const uint32_t all[] = {st->arrival[0][j],
                            st->arrival[1][j],
                            st->stats[j],
                            freed,
                            st->fetched[j],
                            forward ? sfi_freed_by(st, st->stash.after[unit]) : SF_NONE,
                            forward ? sfi_freed_by(st, sfi_inputs(st, st->steps[j].stage)->after[unit]) : SF_NONE,
                            gathered[SFI_DENSE][j],
                            gathered[SFI_EXPERT][j],
                            op->kind == SF_OP_BACKWARD || op->kind == SF_OP_BACKWARD_WEIGHT
                                ? sfi_await_scatters(st, &st->steps[j])
                                : SF_NONE};
    uint32_t deps[sizeof all / sizeof *all], n = 0;
    for (uint32_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (all[i] != SF_NONE) {
            deps[n++] = all[i];
        }
    }
    st->step_op[j] = sf_build_op(st->c->b, op, args, args_n, deps, n);
    return st->step_op[j];
}

static void emit_send(struct sfi_stage *st, const struct sf_pass *step, uint32_t after) {
    const struct sfi_table *t = &st->c->table;
    uint32_t to = target_of(st, step);
    if (to == SF_NONE || t->pipe->device_of[to] == st->stage || sfi_is_part(st->c, sfi_chunk_of(st, step)->vs)) {
        return;
    }
    enum sfi_side side = sfi_route_of(t, step->stage, to).side;
    uint32_t slot = st->sent[side]++ % SFI_SLOTS;
    struct sf_op op = transfer_op(st, step, true, step->stage, to);
    struct sf_arg arg = whole(st->out[side][slot], op.bytes, SF_READ);
    st->last_send[side][slot] = sf_build_op(st->c->b, &op, &arg, 1, &after, 1);
}

static void bind_loss(struct sfi_stage *st, const struct sf_pass *step, const struct sfi_formals *f,
                      struct sf_arg *args) {
    if (f->targets != SF_NONE) {
        uint64_t bytes = sfi_mul(sfi_depths(st->c, sfi_chunk_of(st, step)->vs), st->c->shape.tokens * 4);
        bind(args, f->targets, st->targets[st->targeted++ % SFI_SLOTS], bytes, SF_READ);
    }
    if (f->loss != SF_NONE) {
        bool first = step->kind == SF_PASS_F ? step->slice == 0 : step->slice + 1u == st->c->shape.slices;
        bind(args, f->loss, st->loss, sizeof(float), first ? SF_WRITE : SF_READ_WRITE);
        args[f->loss].offset = step->microbatch * sizeof(float);
    }
}

static void emit_forward(struct sfi_stage *st, uint32_t j) {
    const struct sf_pass *step = &st->steps[j];
    const struct sfi_vstage *vs = sfi_chunk_of(st, step)->vs;
    struct sf_op op = pass_op(st, step, SF_OP_FORWARD, SFI_COMPUTE);
    struct sf_arg args[32];
    uint32_t freed = SF_NONE;
    op.recipe = recipes_of(st, step)->fwd;
    bind_common(st, step, &vs->fwd, args, SF_WRITE, SF_WRITE);
    bind_loss(st, step, &vs->fwd, args);
    if (vs->fwd.y != SF_NONE) {
        bind(args, vs->fwd.y, result_buffer(st, step, &freed), sfi_output_bytes(st->c, vs), SF_WRITE);
    }
    uint32_t done = emit_compute(st, j, &op, args, vs->fwd.n, freed);
    sfi_emit_offload(st, j);
    emit_send(st, step, done);
}

static bool bind_gradients(struct sfi_stage *st, const struct sf_pass *step, const struct sfi_formals *f,
                           struct sf_arg *args) {
    const struct sfi_vstage *vs = sfi_chunk_of(st, step)->vs;
    uint32_t leaf[SFI_SPACES];
    bool add = sfi_take_leaf(st, step, leaf);
    enum sf_access access = add ? SF_READ_WRITE : SF_WRITE;
    bind(args, f->grad, leaf[SFI_DENSE], vs->params.bytes[SFI_DENSE], access);
    bind(args, f->expert_grad, leaf[SFI_EXPERT], vs->params.bytes[SFI_EXPERT], access);
    return add;
}

/* A whole backward, or its input half. */
static void emit_backward(struct sfi_stage *st, uint32_t j) {
    const struct sf_pass *step = &st->steps[j];
    const struct sfi_vstage *vs = sfi_chunk_of(st, step)->vs;
    bool split = step->kind == SF_PASS_B;
    const struct sfi_formals *f = split ? &vs->bwd_input : &vs->bwd;
    struct sf_op op = pass_op(st, step, split ? SF_OP_BACKWARD_INPUT : SF_OP_BACKWARD, SFI_COMPUTE);
    enum sf_access keeps = split ? SF_READ_WRITE : SF_READ; /* gradients where activations were */
    struct sf_arg args[32];
    uint32_t freed = SF_NONE;
    bind_common(st, step, f, args, sfi_all_again(st->c, vs) ? SF_READ : keeps,
                sfi_is_part(st->c, vs) ? SF_READ_WRITE : keeps);
    op.recipe = recipes_of(st, step)->input;
    if (!split) {
        op.recipe = recipes_of(st, step)->bwd[bind_gradients(st, step, f, args)];
    }
    bind_loss(st, step, f, args);
    bind_pooled(args, f->y, &st->landing, own_unit(st, step), sfi_output_bytes(st->c, vs), SF_READ);
    if (f->dx != SF_NONE) {
        bind(args, f->dx, result_buffer(st, step, &freed), sfi_input_bytes(st->c, vs), SF_WRITE);
    }
    uint32_t done = emit_compute(st, j, &op, args, f->n, freed);
    emit_send(st, step, done);
    if (!split) {
        sfi_emit_leaf(st, step, done);
    }
}

static void emit_weights(struct sfi_stage *st, uint32_t j) {
    const struct sf_pass *step = &st->steps[j];
    const struct sfi_vstage *vs = sfi_chunk_of(st, step)->vs;
    struct sf_op op = pass_op(st, step, SF_OP_BACKWARD_WEIGHT, SFI_COMPUTE);
    struct sf_arg args[32];
    bind_common(st, step, &vs->bwd_weight, args, SF_READ, SF_READ);
    bind_loss(st, step, &vs->bwd_weight, args);
    op.recipe = recipes_of(st, step)->weight[bind_gradients(st, step, &vs->bwd_weight, args)];
    sfi_emit_leaf(st, step, emit_compute(st, j, &op, args, vs->bwd_weight.n, SF_NONE));
}

void sfi_emit_step(struct sfi_stage *st, uint32_t j) {
    sfi_emit_exchanges(st, j);
    if (j == 0) {
        emit_loads(st, 0);
        sfi_emit_gathers(st, 0);
    }
    if (j + 1 < st->steps_n) {
        emit_loads(st, j + 1);
        sfi_emit_gathers(st, j + 1);
        sfi_emit_fetch(st, j + 1);
    }
    emit_arrivals(st, j);
    if (st->steps[j].kind == SF_PASS_F) {
        emit_forward(st, j);
    } else if (st->steps[j].kind == SF_PASS_W) {
        emit_weights(st, j);
    } else {
        emit_backward(st, j);
    }
}
