/* One class: the buffers of a pipeline stage, then its ops in schedule order. */
#include <stdio.h>
#include <string.h>

#include "core/arena.h"
#include "planner/compile_internal.h"
#include "planner/schedule.h"

/* ---- pools ------------------------------------------------------------------------------------------------------- */

static uint32_t unit_of(const struct sfi_stage *st, const struct sf_step *step) {
    return step->chunk * st->c->plan->microbatches + step->microbatch;
}

/* Freed slots wait in a queue, oldest first. A slot may be written `lag` steps after the backward that freed it,
 * because that is what the op that writes it waits for. */
static int pool_init(const struct sfi_stage *st, struct sfi_pool *pool, uint32_t lag,
                     bool (*uses)(const struct sfi_vstage *vs), struct sf_err *err) {
    uint32_t units = st->steps_n / 2, head = 0, tail = 0;
    pool->slot = sf_calloc(units, sizeof *pool->slot);
    uint32_t *freed = sf_calloc(units, sizeof *freed), *freed_at = sf_calloc(units, sizeof *freed_at);
    if (!pool->slot || !freed || !freed_at) {
        sf_free(freed);
        sf_free(freed_at);
        return sf_fail_memory(err, "activation slots");
    }
    for (uint32_t j = 0; j < st->steps_n; j++) {
        const struct sf_step *step = &st->steps[j];
        if (!uses(st->chunks[step->chunk].vs)) {
            continue;
        }
        uint32_t unit = unit_of(st, step);
        if (step->kind == SF_STEP_B) {
            freed[tail] = pool->slot[unit];
            freed_at[tail++] = j;
        } else if (head < tail && freed_at[head] + lag <= j) {
            pool->slot[unit] = freed[head++];
        } else {
            pool->slot[unit] = pool->slots_n++;
        }
    }
    sf_free(freed);
    sf_free(freed_at);
    pool->bufs = sf_calloc(pool->slots_n, sizeof *pool->bufs);
    return pool->bufs ? 0 : sf_fail_memory(err, "activation slots");
}

static void pool_clear(struct sfi_pool *pool) {
    sf_free(pool->slot);
    sf_free(pool->bufs);
}

uint32_t sfi_pool_buffer(const struct sfi_stage *st, const struct sfi_pool *pool, const struct sf_step *step) {
    return pool->bufs[pool->slot[unit_of(st, step)]];
}

static bool uses_x(const struct sfi_vstage *vs) {
    (void)vs;
    return true;
}

static bool uses_stash(const struct sfi_vstage *vs) {
    return vs->stash_bytes > 0;
}

static bool uses_head(const struct sfi_vstage *vs) {
    return vs->is_last;
}

static bool uses_tokens(const struct sfi_vstage *vs) {
    return vs->is_first;
}

static int assign_slots(struct sfi_stage *st, struct sf_err *err) {
    SF_TRY(pool_init(st, &st->x, 2, uses_x, err)); /* written by transfers, see compile_ops.c */
    SF_TRY(pool_init(st, &st->tokens, 2, uses_tokens, err));
    SF_TRY(pool_init(st, &st->stash, 1, uses_stash, err));
    return pool_init(st, &st->head, 1, uses_head, err);
}

/* ---- buffers ----------------------------------------------------------------------------------------------------- */

static uint32_t buffer(const struct sfi_stage *st, const char *name, uint32_t index, enum sf_buf_kind kind,
                       uint64_t bytes, bool persistent) {
    char text[2 * SF_NAME]; /* the builder cuts what is too long */
    snprintf(text, sizeof text, "%s%u", name, index);
    return sf_build_buffer(st->c->b, text, kind, bytes, persistent);
}

static void pool_buffers(const struct sfi_stage *st, struct sfi_pool *pool, const char *name, enum sf_buf_kind kind,
                         uint64_t bytes) {
    for (uint32_t i = 0; i < pool->slots_n; i++) {
        pool->bufs[i] = buffer(st, name, i, kind, bytes, false);
    }
}

static void canonical_buffers(struct sfi_stage *st, struct sfi_chunk *chunk, uint32_t index) {
    uint32_t levels = (uint32_t)__builtin_ctz(st->c->plan->microbatches);
    for (uint32_t space = 0; space < SFI_SPACES; space++) {
        uint64_t bytes = chunk->vs->params.bytes[space];
        for (uint32_t l = 0; l < levels && bytes > 0; l++) {
            char name[SF_NAME];
            snprintf(name, sizeof name, "%sgrad.l%u.c", space == SFI_DENSE ? "" : "expert.", l);
            /* Persistent, so that padding stays zero from the start. */
            chunk->partial[space][l] = buffer(st, name, index, SF_BUF_GRAD, bytes, true);
        }
    }
}

static void chunk_buffers(struct sfi_stage *st, struct sfi_chunk *chunk, uint32_t index) {
    const struct sfi_params *p = &chunk->vs->params;
    bool experts = p->bytes[SFI_EXPERT] > 0;
    chunk->param[SFI_DENSE] = buffer(st, "param.c", index, SF_BUF_PARAM, p->bytes[SFI_DENSE], true);
    chunk->grad[SFI_DENSE] = buffer(st, "grad.c", index, SF_BUF_GRAD, p->bytes[SFI_DENSE], true);
    if (experts) {
        chunk->param[SFI_EXPERT] = buffer(st, "expert.param.c", index, SF_BUF_PARAM, p->bytes[SFI_EXPERT], true);
        chunk->grad[SFI_EXPERT] = buffer(st, "expert.grad.c", index, SF_BUF_GRAD, p->bytes[SFI_EXPERT], true);
    }
    chunk->m = buffer(st, "m.c", index, SF_BUF_OPTIMIZER, p->state_n * 4, true);
    chunk->v = buffer(st, "v.c", index, SF_BUF_OPTIMIZER, p->state_n * 4, true);
    if (st->c->shape.dtype != SF_F32) {
        chunk->master = buffer(st, "master.c", index, SF_BUF_OPTIMIZER, p->state_n * 4, true);
    }
    if (st->c->plan->canonical) {
        canonical_buffers(st, chunk, index);
    }
    sfi_params_tensors(st->c, chunk->vs, chunk->param);
}

/* Shares of sharded buckets, all chunks in one buffer each. The f32 share of the parameters is the truth between steps
 * and stays; in bf16 the master is, and the share is only on its way to the all-gather. */
static void shard_buffers(struct sfi_stage *st) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < st->c->plan->vpp; i++) {
        const struct sfi_params *p = &st->chunks[i].vs->params;
        st->chunks[i].shard = bytes;
        for (uint32_t b = 0; b < p->buckets_n; b++) {
            bytes += p->buckets[b].sharded ? p->buckets[b].owned : 0;
        }
    }
    bool f32 = st->c->shape.dtype == SF_F32;
    if (bytes > 0) {
        st->grad_shard = sf_build_buffer(st->c->b, "grad.share", SF_BUF_GRAD, bytes, false);
        st->param_shard = sf_build_buffer(st->c->b, "param.share", f32 ? SF_BUF_OPTIMIZER : SF_BUF_COMM, bytes, f32);
    }
}

/* Only what some chunk uses: the first virtual stage sends no gradients, the last one no activations. */
static void transfer_buffers(struct sfi_stage *st) {
    uint32_t units = st->steps_n / 2, slots = units < SFI_SLOTS ? units : SFI_SLOTS;
    uint32_t vpp = st->c->plan->vpp;
    bool has_first = st->chunks[0].vs->is_first, has_last = st->chunks[vpp - 1].vs->is_last;
    for (uint32_t i = 0; i < slots; i++) {
        if (!has_last || vpp > 1) {
            st->out[SFI_FWD][i] = buffer(st, "fwd.out", i, SF_BUF_COMM, st->c->shape.row_bytes, false);
            st->landing[i] = buffer(st, "bwd.in", i, SF_BUF_COMM, st->c->shape.row_bytes, false);
        }
        if (!has_first || vpp > 1) {
            st->out[SFI_BWD][i] = buffer(st, "bwd.out", i, SF_BUF_COMM, st->c->shape.row_bytes, false);
        }
        if (has_last) {
            st->targets[i] = buffer(st, "targets", i, SF_BUF_TOKENS, st->c->shape.tokens * 4, false);
        }
    }
}

/* Slots of a pool are equal, so that any chunk can use any of them. */
static void activation_buffers(struct sfi_stage *st) {
    const struct sfi_shape *s = &st->c->shape;
    uint64_t work = 0, stash = 0, head = 0;
    for (uint32_t i = 0; i < st->c->plan->vpp; i++) {
        const struct sfi_vstage *vs = st->chunks[i].vs;
        work = vs->work_bytes > work ? vs->work_bytes : work;
        stash = vs->stash_bytes > stash ? vs->stash_bytes : stash;
        head = vs->head_bytes > head ? vs->head_bytes : head;
    }
    st->work = sf_build_buffer(st->c->b, "work", SF_BUF_WORK, work, false);
    pool_buffers(st, &st->stash, "stash", SF_BUF_ACTIVATION, stash);
    pool_buffers(st, &st->head, "head", SF_BUF_ACTIVATION, head);
    pool_buffers(st, &st->x, "x", SF_BUF_ACTIVATION, s->row_bytes);
    pool_buffers(st, &st->tokens, "tokens", SF_BUF_TOKENS, s->tokens * 4);
}

static void stage_buffers(struct sfi_stage *st) {
    for (uint32_t i = 0; i < st->c->plan->vpp; i++) {
        chunk_buffers(st, &st->chunks[i], i);
    }
    shard_buffers(st);
    st->hyper = sf_build_buffer(st->c->b, "hyper", SF_BUF_HYPER, 8 * sizeof(float), true);
    if (st->chunks[st->c->plan->vpp - 1].vs->is_last) {
        st->loss = sf_build_buffer(st->c->b, "loss", SF_BUF_LOSS, st->c->plan->microbatches * sizeof(float), true);
    }
    activation_buffers(st);
    transfer_buffers(st);
}

/* ---- the class --------------------------------------------------------------------------------------------------- */

static int allocate(struct sfi_stage *st, struct sf_err *err) {
    const struct sf_plan *p = st->c->plan;
    uint64_t steps = 2 * (uint64_t)p->microbatches * p->vpp;
    if (steps > SF_MAX_CLASS_OPS) {
        return sf_fail(err, SF_E_INPUT, "plan: %u microbatches of %u chunks are more than %u steps", p->microbatches,
                       p->vpp, SF_MAX_CLASS_OPS);
    }
    st->steps_n = (uint32_t)steps;
    st->steps = sf_calloc(steps, sizeof *st->steps);
    st->step_op = sf_calloc(steps, sizeof *st->step_op);
    st->arrival[0] = sf_calloc(steps, sizeof **st->arrival);
    st->arrival[1] = sf_calloc(steps, sizeof **st->arrival);
    st->chunks = sf_calloc(p->vpp, sizeof *st->chunks);
    if (!st->steps || !st->step_op || !st->arrival[0] || !st->arrival[1] || !st->chunks) {
        return sf_fail_memory(err, "stage");
    }
    for (uint32_t i = 0; i < p->vpp; i++) {
        st->chunks[i].vs = sfi_vstage_of(st->c, st->stage, i);
        st->chunks[i].ready = sf_calloc(st->chunks[i].vs->params.buckets_n, sizeof *st->chunks[i].ready);
        if (!st->chunks[i].ready) {
            return sf_fail_memory(err, "stage");
        }
    }
    memset(st->last_send, 0xff, sizeof st->last_send);
    return 0;
}

static void clear(struct sfi_stage *st) {
    for (uint32_t i = 0; st->chunks && i < st->c->plan->vpp; i++) {
        sf_free(st->chunks[i].ready);
    }
    pool_clear(&st->x);
    pool_clear(&st->stash);
    pool_clear(&st->head);
    pool_clear(&st->tokens);
    sf_free(st->chunks);
    sf_free(st->arrival[0]);
    sf_free(st->arrival[1]);
    sf_free(st->step_op);
    sf_free(st->steps);
}

static int compile_class(struct sfi_stage *st, struct sf_err *err) {
    const struct sf_plan *p = st->c->plan;
    char name[SF_NAME];
    SF_TRY(allocate(st, err));
    SF_TRY(sf_schedule_steps(p->schedule, p->pp, p->vpp, p->microbatches, st->stage, st->steps, st->steps_n, err));
    SF_TRY(assign_slots(st, err));
    snprintf(name, sizeof name, "stage %u", st->stage);
    sf_build_class_begin(st->c->b, name, st->stage);
    stage_buffers(st);
    for (uint32_t j = 0; j < st->steps_n; j++) {
        sfi_emit_step(st, j);
    }
    sfi_emit_update(st);
    sf_build_class_end(st->c->b);
    return 0;
}

int sfi_stage_compile(const struct sfi_compile *c, uint32_t stage, struct sf_err *err) {
    struct sfi_stage st = {.c = c, .stage = stage};
    int rc = compile_class(&st, err);
    clear(&st);
    return rc;
}
