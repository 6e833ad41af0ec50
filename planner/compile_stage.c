/* One class: the buffers of a rank of the pipeline, then its ops in the order of its row. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "planner/compile_internal.h"

/* ---- buffers ----------------------------------------------------------------------------------------------------- */

static uint32_t buffer(const struct sfi_stage *st, const char *name, uint32_t index, enum sf_buf_kind kind,
                       uint64_t bytes, bool persistent) {
    char text[2 * SF_NAME]; /* the builder cuts what is too long */
    snprintf(text, sizeof text, "%s%u", name, index);
    return sf_build_buffer(st->c->b, text, kind, bytes, persistent);
}

static void some_buffers(const struct sfi_stage *st, struct sfi_pool *pool, const char *name, enum sf_buf_kind kind,
                         uint64_t bytes, bool persistent) {
    for (uint32_t i = 0; i < pool->slots_n; i++) {
        pool->bufs[i] = buffer(st, name, i, kind, bytes, persistent);
    }
}

static void pool_buffers(const struct sfi_stage *st, struct sfi_pool *pool, const char *name, enum sf_buf_kind kind,
                         uint64_t bytes) {
    some_buffers(st, pool, name, kind, bytes, false);
}

static void canonical_buffers(struct sfi_stage *st, struct sfi_chunk *chunk, uint32_t index) {
    for (uint32_t space = 0; space < SFI_SPACES; space++) {
        uint64_t bytes = chunk->vs->params.bytes[space];
        chunk->slots[space][0] = chunk->grad[space];
        for (uint32_t i = 1; i < chunk->sum.slots_n && bytes > 0; i++) {
            char name[SF_NAME];
            snprintf(name, sizeof name, "%sgrad.l%u.c", space == SFI_DENSE ? "" : "expert.", i - 1);
            /* Persistent, so that padding stays zero from the start. */
            chunk->slots[space][i] = buffer(st, name, index, SF_BUF_GRAD, bytes, true);
        }
    }
}

static void whole_buffers(const struct sfi_stage *st, const struct sfi_chunk *chunk, uint32_t index, const char *dense,
                          const char *expert, enum sf_buf_kind kind, uint32_t out[SFI_SPACES]) {
    const uint64_t *bytes = chunk->vs->params.bytes;
    out[SFI_DENSE] = buffer(st, dense, index, kind, bytes[SFI_DENSE], true);
    if (bytes[SFI_EXPERT] > 0) {
        out[SFI_EXPERT] = buffer(st, expert, index, kind, bytes[SFI_EXPERT], true);
    }
}

static void chunk_buffers(struct sfi_stage *st, struct sfi_chunk *chunk, uint32_t index) {
    const struct sfi_params *p = &chunk->vs->params;
    if (st->c->plan->zero < SFI_ZERO_GRADIENTS) {
        whole_buffers(st, chunk, index, "param.c", "expert.param.c", SF_BUF_PARAM, chunk->param);
        whole_buffers(st, chunk, index, "grad.c", "expert.grad.c", SF_BUF_GRAD, chunk->grad);
    } else if (st->c->plan->zero < SFI_ZERO_WEIGHTS) {
        whole_buffers(st, chunk, index, "param.c", "expert.param.c", SF_BUF_PARAM, chunk->param);
    }
    chunk->m = buffer(st, "m.c", index, SF_BUF_OPTIMIZER, p->state_n * sfi_moment_bytes(st->c), true);
    chunk->v = buffer(st, "v.c", index, SF_BUF_OPTIMIZER, p->state_n * sfi_moment_bytes(st->c), true);
    if (st->c->shape.dtype != SF_F32) {
        chunk->master = buffer(st, "master.c", index, SF_BUF_OPTIMIZER, p->state_n * 4, true);
    }
    if (st->c->plan->zero < SFI_ZERO_GRADIENTS) {
        canonical_buffers(st, chunk, index);
    }
    if (st->c->plan->zero < SFI_ZERO_WEIGHTS) {
        sfi_params_tensors(st->c, chunk->vs, chunk->param);
    }
}

/* Shares of sharded buckets, all chunks in one buffer each. The f32 share of the parameters is the truth between steps
 * and stays; in bf16 the master is, and the share is only on its way to the all-gather. */
static void shard_buffers(struct sfi_stage *st) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < st->chunks_n; i++) {
        const struct sfi_params *p = &st->chunks[i].vs->params;
        st->chunks[i].shard = bytes;
        for (uint32_t b = 0; b < p->buckets_n; b++) {
            bytes += p->buckets[b].sharded ? p->buckets[b].owned : 0;
        }
    }
    bool f32 = st->c->shape.dtype == SF_F32;
    if (bytes > 0) {
        st->grad_shard = sf_build_buffer(st->c->b, "grad.share", SF_BUF_GRAD, bytes, false);
        bool weights = st->c->plan->zero >= SFI_ZERO_WEIGHTS; /* they are nowhere else */
        enum sf_buf_kind kind = f32 ? SF_BUF_OPTIMIZER : weights ? SF_BUF_PARAM : SF_BUF_COMM;
        st->param_shard = sf_build_buffer(st->c->b, "param.share", kind, bytes, f32 || weights);
    }
}

static bool makes_logits(const struct sfi_stage *st) {
    for (uint32_t i = 0; i < st->chunks_n; i++) {
        if (st->chunks[i].vs->head) {
            return true;
        }
    }
    return false;
}

static bool has_chunk(const struct sfi_stage *st, bool first) {
    for (uint32_t i = 0; i < st->chunks_n; i++) {
        if (first ? st->chunks[i].vs->is_first : st->chunks[i].vs->is_last) {
            return true;
        }
    }
    return false;
}

static uint64_t most(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* Results that leave this rank. */
static void out_buffers(struct sfi_stage *st) {
    static const char *const names[SFI_SIDES] = {"fwd.out", "bwd.out"};
    const struct sfi_table *t = &st->c->table;
    uint64_t bytes[SFI_SIDES] = {0, 0};
    for (uint32_t i = 0; i < st->chunks_n; i++) {
        const struct sfi_vstage *vs = st->chunks[i].vs;
        uint32_t stage = st->chunks[i].stage;
        const uint32_t to[] = {sfi_stage_behind(st->c, stage), sfi_stage_before(st->c, stage)};
        for (int k = 0; k < 2 && !sfi_is_part(st->c, vs); k++) {
            if (to[k] != SF_NONE && t->pipe->device_of[to[k]] != st->stage) {
                uint64_t *room = &bytes[sfi_route_of(t, stage, to[k]).side];
                *room = most(*room, k == 0 ? sfi_output_bytes(st->c, vs) : sfi_input_bytes(st->c, vs));
            }
        }
    }
    for (uint32_t side = 0; side < SFI_SIDES; side++) {
        for (uint32_t i = 0; i < SFI_SLOTS && bytes[side] > 0; i++) {
            st->out[side][i] = buffer(st, names[side], i, SF_BUF_COMM, bytes[side], false);
        }
    }
}

/* Slots of a pool are equal, so that any chunk can use any of them. */
static void activation_buffers(struct sfi_stage *st) {
    const struct sfi_shape *s = &st->c->shape;
    uint64_t work = 0, stash = 0, held = 0, head = 0, keys = 0, sums = 0, away = 0, depths = 1, landing = 0, part = 0;
    for (uint32_t i = 0; i < st->chunks_n; i++) {
        const struct sfi_vstage *vs = st->chunks[i].vs;
        work = most(work, vs->work_bytes);
        stash = most(stash, vs->stash_bytes);
        held = most(held, vs->held_bytes);
        head = most(head, vs->head_bytes);
        depths = most(depths, sfi_depths(st->c, vs));
        landing = most(landing, sfi_output_bytes(st->c, vs));
        part = most(part, sfi_input_bytes(st->c, vs));
        away = most(away, sfi_away_bytes(st, vs));
        keys = most(keys, vs->keys_bytes);
        sums = most(sums, vs->sums_bytes);
    }
    st->work = sf_build_buffer(st->c->b, "work", SF_BUF_WORK, work, false);
    pool_buffers(st, &st->stash, "stash", SF_BUF_ACTIVATION, stash);
    pool_buffers(st, &st->held, "held", SF_BUF_ACTIVATION, held);
    pool_buffers(st, &st->head, "head", SF_BUF_ACTIVATION, head);
    pool_buffers(st, &st->keys, "keys", SF_BUF_ACTIVATION, keys);
    pool_buffers(st, &st->key_sums, "keys.grad", SF_BUF_ACTIVATION, sums);
    pool_buffers(st, &st->x, "x", SF_BUF_ACTIVATION, s->row_bytes);
    pool_buffers(st, &st->tokens, "tokens", SF_BUF_TOKENS, s->tokens * 4);
    some_buffers(st, &st->part_x, "part.x", SF_BUF_ACTIVATION, part, true); /* zero from the start */
    pool_buffers(st, &st->landing, "bwd.in", SF_BUF_COMM, landing);
    pool_buffers(st, &st->away, "away", SF_BUF_HOST, away);
    for (uint32_t i = 0; i < SFI_SLOTS && makes_logits(st); i++) {
        st->targets[i] = buffer(st, "targets", i, SF_BUF_TOKENS, sfi_mul(depths, s->tokens * 4), false);
    }
}

static void stage_buffers(struct sfi_stage *st) {
    for (uint32_t i = 0; i < st->chunks_n; i++) {
        chunk_buffers(st, &st->chunks[i], i);
    }
    shard_buffers(st);
    st->hyper = sf_build_buffer(st->c->b, "hyper", SF_BUF_HYPER, 8 * sizeof(float), true);
    if (sfi_squares_bytes(st->c) > 0) {
        st->sums = sf_build_buffer(st->c->b, "squares", SF_BUF_WORK, sfi_squares_bytes(st->c), false);
        st->norm = sf_build_buffer(st->c->b, "norm", SF_BUF_NORM, sizeof(float), true);
    }
    if (has_chunk(st, false)) {
        st->loss = sf_build_buffer(st->c->b, "loss", SF_BUF_LOSS, st->c->plan->microbatches * sizeof(float), true);
    }
    activation_buffers(st);
    out_buffers(st);
    sfi_exchanges_buffers(st);
}

/* ---- arrivals ---------------------------------------------------------------------------------------------------- */

static void add_arrival(struct sfi_stage *st, enum sfi_pass pass, uint32_t from_stage, uint32_t step) {
    const struct sfi_table *t = &st->c->table;
    uint32_t from = t->pipe->device_of[from_stage];
    if (from != st->stage) {
        const struct sf_pass *x = &st->steps[step];
        uint32_t made = t->step[pass][sfi_pass_index(t->pipe, from_stage, x->microbatch, x->slice)];
        st->arrivals[st->arrivals_n++] =
            (struct sfi_arrival){.at = t->end[from][made], .from = from, .pass = made, .step = step};
    }
}

static int compare_arrival(const void *a, const void *b) {
    const struct sfi_arrival *x = a, *y = b;
    if (x->at != y->at) {
        return x->at < y->at ? -1 : 1;
    }
    if (x->from != y->from) {
        return x->from < y->from ? -1 : 1;
    }
    return x->pass < y->pass ? -1 : x->pass > y->pass;
}

static void list_arrivals(struct sfi_stage *st) {
    for (uint32_t j = 0; j < st->steps_n; j++) {
        const struct sf_pass *step = &st->steps[j];
        uint32_t before = sfi_stage_before(st->c, step->stage), behind = sfi_stage_behind(st->c, step->stage);
        if (sfi_is_part(st->c, sfi_chunk_of(st, step)->vs)) {
            continue; /* theirs come by collectives */
        }
        if (step->kind == SF_PASS_F && before != SF_NONE) {
            add_arrival(st, SFI_PASS_F, before, j);
        } else if ((step->kind == SF_PASS_B || step->kind == SF_PASS_BW) && behind != SF_NONE) {
            add_arrival(st, SFI_PASS_B, behind, j);
        }
    }
    qsort(st->arrivals, st->arrivals_n, sizeof *st->arrivals, compare_arrival);
}

/* ---- the class --------------------------------------------------------------------------------------------------- */

static int prepare_chunk(struct sfi_stage *st, uint32_t i, struct sf_err *err) {
    const struct sfi_compile *c = st->c;
    struct sfi_chunk *chunk = &st->chunks[i];
    chunk->stage = c->table.stage_at[st->stage * st->chunks_n + i];
    chunk->vs = &c->vs[chunk->stage % c->vs_n];
    chunk->mbs = c->plan->microbatches / c->table.pipe->ways;
    chunk->first_mb = chunk->stage / c->vs_n * chunk->mbs;
    chunk->ready = sf_calloc(chunk->vs->params.buckets_n, sizeof *chunk->ready);
    return chunk->ready ? sfi_sum_init(st, chunk, err) : sf_fail_memory(err, "stage");
}

static int allocate(struct sfi_stage *st, struct sf_err *err) {
    st->step_op = sf_calloc(st->steps_n, sizeof *st->step_op);
    st->stats = sf_calloc(st->steps_n, sizeof *st->stats);
    st->arrival[0] = sf_calloc(st->steps_n, sizeof **st->arrival);
    st->arrival[1] = sf_calloc(st->steps_n, sizeof **st->arrival);
    st->arrivals = sf_calloc(st->steps_n, sizeof *st->arrivals);
    st->copied = sf_calloc(st->steps_n, sizeof *st->copied);
    st->fetched = sf_calloc(st->steps_n, sizeof *st->fetched);
    st->chunks = sf_calloc(st->chunks_n, sizeof *st->chunks);
    if (!st->stats || !st->step_op || !st->arrival[0] || !st->arrival[1] || !st->arrivals || !st->chunks ||
        !st->copied || !st->fetched) {
        return sf_fail_memory(err, "stage");
    }
    memset(st->last_send, 0xff, sizeof st->last_send);
    memset(st->stats, 0xff, st->steps_n * sizeof *st->stats);
    memset(st->arrival[0], 0xff, st->steps_n * sizeof **st->arrival);
    memset(st->arrival[1], 0xff, st->steps_n * sizeof **st->arrival);
    memset(st->copied, 0xff, st->steps_n * sizeof *st->copied);
    memset(st->fetched, 0xff, st->steps_n * sizeof *st->fetched);
    for (uint32_t i = 0; i < st->chunks_n; i++) {
        SF_TRY(prepare_chunk(st, i, err));
    }
    SF_TRY(sfi_exchanges_init(st, err));
    return sfi_shards_init(st, err);
}

static void clear(struct sfi_stage *st) {
    for (uint32_t i = 0; st->chunks && i < st->chunks_n; i++) {
        sf_free(st->chunks[i].ready);
        sfi_sum_clear(&st->chunks[i].sum);
    }
    sfi_pools_clear(st);
    sfi_shards_clear(&st->shards);
    sfi_exchanges_clear(&st->exchanges);
    sf_free(st->chunks);
    sf_free(st->arrivals);
    sf_free(st->copied);
    sf_free(st->fetched);
    sf_free(st->stats);
    sf_free(st->arrival[0]);
    sf_free(st->arrival[1]);
    sf_free(st->step_op);
}

static int compile_class(struct sfi_stage *st, struct sf_err *err) {
    char name[SF_NAME];
    SF_TRY(allocate(st, err));
    SF_TRY(sfi_assign_slots(st, err));
    list_arrivals(st);
    snprintf(name, sizeof name, "stage %u", st->stage);
    sf_build_class_begin(st->c->b, name, st->stage);
    stage_buffers(st);
    for (uint32_t j = 0; j < st->steps_n; j++) {
        sfi_emit_step(st, j);
    }
    sfi_emit_exchanges(st, st->steps_n);
    sfi_emit_update(st);
    sf_build_class_end(st->c->b);
    return 0;
}

int sfi_stage_compile(const struct sfi_compile *c, uint32_t stage, struct sf_err *err) {
    const struct sf_pipe *p = c->table.pipe;
    struct sfi_stage st = {.c = c,
                           .stage = stage,
                           .steps = p->passes[stage],
                           .steps_n = p->passes_n[stage],
                           .chunks_n = c->table.chunks_n,
                           .units_n = (uint32_t)sfi_pass_index(p, c->table.chunks_n, 0, 0)};
    int rc = compile_class(&st, err);
    clear(&st);
    return rc;
}
