/* Ops of the schedule's steps. Every step's input is on its way one step ahead: the op that delivers it waits for the
 * step before the last one, so it can run while the step before computes, and no buffer is written while an earlier
 * step may still read it. */
#include "planner/compile_internal.h"
#include "planner/schedule.h"

static struct sf_op step_op(const struct sf_step *step, enum sf_op_kind kind, enum sfi_stream stream) {
    return (struct sf_op){.kind = (uint8_t)kind,
                          .stream = (uint8_t)stream,
                          .recipe = SF_NONE,
                          .comm = SF_NONE,
                          .microbatch = (uint16_t)step->microbatch,
                          .chunk = step->chunk};
}

static struct sf_arg whole(uint32_t buf, uint64_t bytes, enum sf_access access) {
    return (struct sf_arg){.buf = buf, .access = access, .bytes = bytes};
}

/* ---- what arrives ------------------------------------------------------------------------------------------------ */

static uint32_t emit_load(struct sfi_stage *st, uint32_t j, uint32_t buf, uint16_t flags) {
    struct sf_op op = step_op(&st->steps[j], SF_OP_LOAD, SFI_LOAD);
    struct sf_arg arg = whole(buf, st->c->shape.tokens * 4, SF_WRITE);
    op.flags = flags;
    return sf_build_op(st->c->b, &op, &arg, 1, j >= 2 ? &st->step_op[j - 2] : NULL, j >= 2);
}

static uint32_t emit_recv(struct sfi_stage *st, uint32_t j, uint32_t buf, enum sfi_direction dir) {
    struct sf_op op = step_op(&st->steps[j], SF_OP_RECV, dir == SFI_FWD ? SFI_FWD_RECV : SFI_BWD_RECV);
    struct sf_arg arg = whole(buf, st->c->shape.row_bytes, SF_WRITE);
    op.comm = dir == SFI_FWD ? st->c->comms.fwd : st->c->comms.bwd;
    op.peer_delta = dir == SFI_FWD ? -1 : 1;
    op.bytes = arg.bytes;
    return sf_build_op(st->c->b, &op, &arg, 1, j >= 2 ? &st->step_op[j - 2] : NULL, j >= 2);
}

static void emit_arrivals(struct sfi_stage *st, uint32_t j) {
    const struct sf_step *step = &st->steps[j];
    const struct sfi_vstage *vs = st->chunks[step->chunk].vs;
    st->arrival[0][j] = st->arrival[1][j] = SF_NONE;
    if (step->kind == SF_STEP_B) {
        if (!vs->is_last) {
            st->arrival[0][j] = emit_recv(st, j, st->landing[st->landed_early++ % SFI_SLOTS], SFI_BWD);
        }
        return;
    }
    if (vs->is_first) {
        st->arrival[0][j] = emit_load(st, j, sfi_pool_buffer(st, &st->tokens, step), 0);
    } else {
        st->arrival[0][j] = emit_recv(st, j, sfi_pool_buffer(st, &st->x, step), SFI_FWD);
    }
    if (vs->is_last) {
        st->arrival[1][j] = emit_load(st, j, st->targets[st->targeted_early++ % SFI_SLOTS], SF_OP_TARGETS);
    }
}

/* ---- compute ----------------------------------------------------------------------------------------------------- */

static void bind(struct sf_arg *args, uint32_t formal, uint32_t buf, uint64_t bytes, enum sf_access access) {
    if (formal != SF_NONE) {
        args[formal] = whole(buf, bytes, access);
    }
}

/* What forward and backward bind alike. */
static void bind_common(struct sfi_stage *st, const struct sf_step *step, const struct sfi_formals *f,
                        struct sf_arg *args, enum sf_access stash) {
    const struct sfi_chunk *chunk = &st->chunks[step->chunk];
    const struct sfi_vstage *vs = chunk->vs;
    bind(args, f->param, chunk->param[SFI_DENSE], vs->params.bytes[SFI_DENSE], SF_READ);
    bind(args, f->expert, chunk->param[SFI_EXPERT], vs->params.bytes[SFI_EXPERT], SF_READ);
    bind(args, f->work, st->work, vs->work_bytes, SF_READ_WRITE);
    if (f->stash != SF_NONE) {
        bind(args, f->stash, sfi_pool_buffer(st, &st->stash, step), vs->stash_bytes, stash);
    }
    if (f->head != SF_NONE) {
        bind(args, f->head, sfi_pool_buffer(st, &st->head, step), vs->head_bytes, stash);
    }
    if (f->tokens != SF_NONE) {
        bind(args, f->tokens, sfi_pool_buffer(st, &st->tokens, step), st->c->shape.tokens * 4, SF_READ);
    }
    bind(args, f->x, sfi_pool_buffer(st, &st->x, step), st->c->shape.row_bytes,
         stash == SF_WRITE && vs->is_first ? SF_WRITE : SF_READ);
}

/* The slot for this step's result, and the op that must have read it before. */
static uint32_t take_out(struct sfi_stage *st, enum sfi_direction dir, uint32_t *dep) {
    uint32_t slot = st->sent[dir] % SFI_SLOTS;
    *dep = st->last_send[dir][slot];
    return st->out[dir][slot];
}

static uint32_t emit_compute(struct sfi_stage *st, uint32_t j, struct sf_op *op, const struct sf_arg *args,
                             uint32_t args_n, uint32_t freed) {
    const uint32_t all[] = {st->arrival[0][j], st->arrival[1][j], freed};
    uint32_t deps[3], n = 0;
    for (uint32_t i = 0; i < 3; i++) {
        if (all[i] != SF_NONE) {
            deps[n++] = all[i];
        }
    }
    st->step_op[j] = sf_build_op(st->c->b, op, args, args_n, deps, n);
    return st->step_op[j];
}

static void emit_send(struct sfi_stage *st, const struct sf_step *step, enum sfi_direction dir, uint32_t after) {
    struct sf_op op = step_op(step, SF_OP_SEND, dir == SFI_FWD ? SFI_FWD_SEND : SFI_BWD_SEND);
    uint32_t slot = st->sent[dir]++ % SFI_SLOTS;
    struct sf_arg arg = whole(st->out[dir][slot], st->c->shape.row_bytes, SF_READ);
    op.comm = dir == SFI_FWD ? st->c->comms.fwd : st->c->comms.bwd;
    op.peer_delta = dir == SFI_FWD ? 1 : -1;
    op.bytes = arg.bytes;
    st->last_send[dir][slot] = sf_build_op(st->c->b, &op, &arg, 1, &after, 1);
}

static void emit_forward(struct sfi_stage *st, uint32_t j) {
    const struct sf_step *step = &st->steps[j];
    const struct sfi_vstage *vs = st->chunks[step->chunk].vs;
    struct sf_op op = step_op(step, SF_OP_FORWARD, SFI_COMPUTE);
    struct sf_arg args[32];
    uint32_t freed = SF_NONE;
    op.recipe = vs->recipe_fwd;
    bind_common(st, step, &vs->fwd, args, SF_WRITE);
    if (vs->is_last) {
        bind(args, vs->fwd.targets, st->targets[st->targeted++ % SFI_SLOTS], st->c->shape.tokens * 4, SF_READ);
        bind(args, vs->fwd.loss, st->loss, sizeof(float), SF_WRITE);
        args[vs->fwd.loss].offset = step->microbatch * sizeof(float);
    } else {
        bind(args, vs->fwd.y, take_out(st, SFI_FWD, &freed), st->c->shape.row_bytes, SF_WRITE);
    }
    uint32_t done = emit_compute(st, j, &op, args, vs->fwd.n, freed);
    if (!vs->is_last) {
        emit_send(st, step, SFI_FWD, done);
    }
}

static void bind_gradients(struct sfi_stage *st, const struct sf_step *step, struct sf_arg *args, bool add) {
    const struct sfi_vstage *vs = st->chunks[step->chunk].vs;
    enum sf_access access = add ? SF_READ_WRITE : SF_WRITE;
    uint32_t leaf[SFI_SPACES];
    sfi_leaf_buffers(st, step, leaf);
    bind(args, vs->bwd.grad, leaf[SFI_DENSE], vs->params.bytes[SFI_DENSE], access);
    bind(args, vs->bwd.expert_grad, leaf[SFI_EXPERT], vs->params.bytes[SFI_EXPERT], access);
}

static void emit_backward(struct sfi_stage *st, uint32_t j) {
    const struct sf_step *step = &st->steps[j];
    const struct sfi_vstage *vs = st->chunks[step->chunk].vs;
    struct sf_op op = step_op(step, SF_OP_BACKWARD, SFI_COMPUTE);
    struct sf_arg args[32];
    uint32_t freed = SF_NONE;
    bool add = step->microbatch % sfi_canonical_run(st->c->plan) > 0;
    op.recipe = vs->recipe_bwd[add];
    bind_common(st, step, &vs->bwd, args, SF_READ);
    bind_gradients(st, step, args, add);
    if (!vs->is_last) {
        bind(args, vs->bwd.y, st->landing[st->landed++ % SFI_SLOTS], st->c->shape.row_bytes, SF_READ);
    }
    if (!vs->is_first) {
        bind(args, vs->bwd.dx, take_out(st, SFI_BWD, &freed), st->c->shape.row_bytes, SF_WRITE);
    }
    uint32_t done = emit_compute(st, j, &op, args, vs->bwd.n, freed);
    if (!vs->is_first) {
        emit_send(st, step, SFI_BWD, done);
    }
    if (st->c->plan->canonical) {
        done = sfi_emit_tree(st, step, done);
    }
    if (step->microbatch + 1 == st->c->plan->microbatches) {
        sfi_emit_reductions(st, step->chunk, done);
    }
}

void sfi_emit_step(struct sfi_stage *st, uint32_t j) {
    if (j == 0) {
        emit_arrivals(st, 0);
    }
    if (j + 1 < st->steps_n) {
        emit_arrivals(st, j + 1);
    }
    if (st->steps[j].kind == SF_STEP_F) {
        emit_forward(st, j);
    } else {
        emit_backward(st, j);
    }
}
