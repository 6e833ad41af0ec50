/* Weights and gradients of which every rank holds a share: zero 2 shares gradients, zero 3 weights too. Stages are cut
 * into units of as few layers as all stages allow, so that only a unit's weights are whole at a time: they are gathered
 * while the pass before runs, and a unit's gradients are scattered while the passes behind run, two of each alive. Both
 * are on one stream in the order in which they are issued, as collectives of one communicator are. */
#include "core/arena.h"
#include "planner/compile_internal.h"

/* ---- units ------------------------------------------------------------------------------------------------------- */

uint32_t sfi_units_of(const struct sf_plan *plan) {
    uint32_t units = plan->layers[0];
    for (uint32_t s = 0; s < plan->pp * plan->vpp; s++) {
        units = plan->layers[s] < units ? plan->layers[s] : units;
    }
    return sfi_cuts_stages(plan) ? units : 1;
}

uint32_t sfi_unit_layers(const struct sf_plan *plan, uint32_t units, uint32_t unit) {
    uint32_t layers = plan->layers[unit / units], u = unit % units;
    return (uint32_t)((uint64_t)layers * (u + 1) / units - (uint64_t)layers * u / units);
}

/* Forwards run through a stage's units from the first, backwards from the last. */
static void push_units(struct sf_pipe *to, uint32_t device, const struct sf_pass *pass, uint32_t units) {
    for (uint32_t i = 0; i < units; i++) {
        uint32_t unit = pass->kind == SF_PASS_F ? i : units - 1 - i;
        sf_pipe_push(to, device, (enum sf_pass_kind)pass->kind, pass->stage * units + unit, pass->microbatch,
                     pass->slice);
    }
}

int sfi_cut_stages(struct sf_pipe **table, uint32_t units, struct sf_err *err) {
    const struct sf_pipe *p = *table;
    struct sf_pipe *cut;
    SF_TRY(sf_pipe_create(p->devices, p->stages * units, p->microbatches, p->slices, &cut, err));
    cut->ways = p->ways;
    for (uint32_t s = 0; s < cut->stages; s++) {
        cut->device_of[s] = p->device_of[s / units];
    }
    for (uint32_t d = 0; d < p->devices; d++) {
        for (uint32_t i = 0; i < p->passes_n[d]; i++) {
            push_units(cut, d, &p->passes[d][i], units);
        }
    }
    sf_pipe_free(*table);
    *table = cut;
    return 0;
}

/* ---- weights ----------------------------------------------------------------------------------------------------- */

static struct sf_op pass_op(const struct sfi_stage *st, const struct sf_pass *step, enum sf_op_kind kind,
                            enum sfi_stream stream) {
    return (struct sf_op){.kind = (uint8_t)kind,
                          .stream = (uint8_t)stream,
                          .recipe = SF_NONE,
                          .comm = SF_NONE,
                          .microbatch = (uint16_t)step->microbatch,
                          .chunk = (uint16_t)st->c->table.chunk_of[step->stage]};
}

static struct sf_arg part_of(uint32_t buf, uint64_t bytes, enum sf_access access) {
    return (struct sf_arg){.buf = buf, .access = access, .bytes = bytes};
}

static void gather(struct sfi_stage *st, uint32_t j, uint32_t bucket) {
    const struct sf_pass *step = &st->steps[j];
    const struct sfi_bucket *b = &sfi_chunk_of(st, step)->vs->params.buckets[bucket];
    struct sf_op op = pass_op(st, step, SF_OP_ALL_GATHER, SFI_GRAD);
    struct sf_arg args[] = {sfi_owned_gradient(st, op.chunk, bucket, SF_READ),
                            part_of(st->shards.whole[b->space][j], b->bytes, SF_WRITE)};
    args[0].buf = st->param_shard; /* laid out as the gradients' */
    args[1].offset = b->offset;
    op.comm = st->c->comms.share[b->space];
    op.bytes = b->bytes;
    st->shards.gathered[b->space][j] = sf_build_op(st->c->b, &op, args, 2, j >= 2 ? &st->step_op[j - 2] : NULL, j >= 2);
}

/* The weight half of a split backward reads no weights, but for a head that makes its logits again. */
void sfi_emit_gathers(struct sfi_stage *st, uint32_t j) {
    const struct sfi_params *p = &sfi_chunk_of(st, &st->steps[j])->vs->params;
    bool weights_only =
        st->steps[j].kind == SF_PASS_W && sfi_chunk_of(st, &st->steps[j])->vs->bwd_weight.param == SF_NONE;
    if (st->c->plan->zero < SFI_ZERO_WEIGHTS || weights_only) {
        return;
    }
    for (uint32_t space = 0; space < SFI_SPACES; space++) {
        if (p->bytes[space] > 0) {
            st->shards.whole[space][j] =
                sf_build_buffer(st->c->b, space == SFI_DENSE ? "param.whole" : "expert.param.whole", SF_BUF_COMM,
                                p->bytes[space], false);
        }
    }
    for (uint32_t bucket = 0; bucket < p->buckets_n; bucket++) {
        gather(st, j, bucket); /* on one stream: with the last of a space all are there */
    }
}

void sfi_bind_whole(const struct sfi_stage *st, uint32_t j, uint32_t param[SFI_SPACES]) {
    for (uint32_t space = 0; space < SFI_SPACES && st->c->plan->zero >= SFI_ZERO_WEIGHTS; space++) {
        param[space] = st->shards.whole[space][j];
    }
}

/* ---- gradients --------------------------------------------------------------------------------------------------- */

bool sfi_take_whole(struct sfi_stage *st, const struct sf_pass *step, uint32_t out[SFI_SPACES]) {
    const struct sfi_params *p = &sfi_chunk_of(st, step)->vs->params;
    for (uint32_t space = 0; space < SFI_SPACES; space++) {
        out[space] = st->shards.made[space] = sf_build_buffer(
            st->c->b, space == SFI_DENSE ? "grad.whole" : "expert.grad.whole", SF_BUF_GRAD, p->bytes[space], false);
    }
    return false;
}

/* A later microbatch's share joins those before it, once the compute stream may wait for it without loss. */
static void add_part(struct sfi_stage *st, const struct sfi_part *part) {
    struct sfi_chunk *ch = &st->chunks[part->chunk];
    const struct sf_arg args[] = {sfi_owned_gradient(st, part->chunk, part->bucket, SF_READ_WRITE),
                                  part_of(part->buf, ch->vs->params.buckets[part->bucket].owned, SF_READ)};
    struct sf_op op = {.kind = SF_OP_ACCUMULATE,
                       .stream = SFI_COMPUTE,
                       .comm = SF_NONE,
                       .microbatch = part->microbatch,
                       .chunk = (uint16_t)part->chunk,
                       .recipe = sfi_sum_recipe(st, args[0].bytes / st->c->shape.elem, false)};
    ch->ready[part->bucket] = sf_build_op(st->c->b, &op, args, 2, (const uint32_t[]){part->scattered}, 1);
}

static void drain(struct sfi_stage *st, uint32_t left) {
    struct sfi_shards *s = &st->shards;
    for (; s->parts_n - s->added > left; s->added++) {
        const struct sfi_part *part = &s->parts[s->added % SFI_PARTS];
        if (part->buf != SF_NONE) {
            add_part(st, part);
        }
        uint32_t *ready = &st->chunks[part->chunk].ready[part->bucket];
        *ready = part->last ? sfi_reduce_across(st, part->chunk, part->bucket, *ready) : *ready;
    }
}

/* All matrices and vectors end where the next one may begin. */
static bool is_tight(const struct sfi_shape *s) {
    return s->kv_rank == 0 && (s->hidden * s->elem | s->qkv_local * s->elem | s->up_local * s->elem) % SFI_ALIGN == 0;
}

/* Gradients do not cover the whole of their buffers, and what was there before must not count in their norm. Padding is
 * at the end alone where all vectors are aligned. Returns what the pass waits for. */
static uint32_t clear_padding(struct sfi_stage *st, const struct sf_pass *step, uint32_t after) {
    const struct sfi_params *p = &sfi_chunk_of(st, step)->vs->params;
    struct sfi_recipe r = {.c = st->c, .shape = &st->c->shape};
    for (uint32_t space = 0; space < SFI_SPACES; space++) {
        uint64_t from = is_tight(&st->c->shape) ? p->used[space] : 0, n = (p->bytes[space] - from) / st->c->shape.elem;
        struct sf_op op = pass_op(st, step, SF_OP_ACCUMULATE, SFI_COMPUTE);
        const struct sf_arg arg = {
            .buf = st->shards.made[space], .access = SF_WRITE, .offset = from, .bytes = p->bytes[space] - from};
        if (n > 0) {
            sf_build_recipe_begin(st->c->b, "no gradient", 1);
            sfi_call_simple(&r, SF_CALL_ZERO, (const uint64_t[3]){n}, &(sf_ref){SF_REF(0, 0)}, 1);
            op.recipe = sf_build_recipe_end(st->c->b);
            sf_build_op(st->c->b, &op, &arg, 1, &after, after != SF_NONE);
        }
    }
    return after;
}

/* Before the gradients of one more pass are made, those of the pass before the last have left. */
uint32_t sfi_await_scatters(struct sfi_stage *st, const struct sf_pass *step) {
    struct sfi_shards *s = &st->shards;
    if (st->c->plan->zero < SFI_ZERO_GRADIENTS) {
        return SF_NONE;
    }
    uint32_t behind = s->passes_n++ % 2, before_last = s->scattered[behind];
    drain(st, s->parts_of_last);
    return sfi_squares_bytes(st->c) > 0 ? clear_padding(st, step, before_last) : before_last;
}

static void scatter(struct sfi_stage *st, const struct sf_pass *step, uint32_t bucket, uint32_t after) {
    struct sfi_shards *s = &st->shards;
    struct sfi_chunk *ch = sfi_chunk_of(st, step);
    const struct sfi_bucket *b = &ch->vs->params.buckets[bucket];
    struct sf_op op = pass_op(st, step, SF_OP_REDUCE_SCATTER, SFI_GRAD);
    struct sf_arg args[] = {part_of(s->made[b->space], b->bytes, SF_READ),
                            sfi_owned_gradient(st, op.chunk, bucket, SF_WRITE)};
    struct sfi_part part = {.chunk = op.chunk, .bucket = bucket, .microbatch = op.microbatch, .buf = SF_NONE};
    part.last = ch->weights_done + 1 == ch->mbs * st->c->shape.slices;
    if (ch->weights_done > 0) {
        part.buf = sf_build_buffer(st->c->b, "grad.part", SF_BUF_GRAD, b->owned, false);
        args[1] = part_of(part.buf, b->owned, SF_WRITE);
    }
    args[0].offset = b->offset;
    op.comm = st->c->comms.share[b->space];
    op.bytes = b->bytes;
    op.flags = st->c->shape.dtype == SF_F32 ? SF_OP_SUM_F32 : 0;
    part.scattered = sf_build_op(st->c->b, &op, args, 2, &after, 1);
    ch->ready[bucket] = part.scattered;
    s->parts[s->parts_n++ % SFI_PARTS] = part;
    s->scattered[(s->passes_n - 1) % 2] = part.scattered;
}

void sfi_emit_scatters(struct sfi_stage *st, const struct sf_pass *step, uint32_t after) {
    struct sfi_chunk *ch = sfi_chunk_of(st, step);
    struct sfi_shards *s = &st->shards;
    uint32_t before = s->parts_n;
    after = sfi_reduce_replicated(st, st->c->table.chunk_of[step->stage], s->made[SFI_DENSE], after);
    for (uint32_t bucket = 0; bucket < ch->vs->params.buckets_n; bucket++) {
        scatter(st, step, bucket, after);
    }
    s->parts_of_last = s->parts_n - before;
    ch->weights_done++;
}

void sfi_end_scatters(struct sfi_stage *st) {
    drain(st, 0);
}

int sfi_shards_init(struct sfi_stage *st, struct sf_err *err) {
    struct sfi_shards *s = &st->shards;
    s->scattered[0] = s->scattered[1] = SF_NONE;
    for (uint32_t space = 0; space < SFI_SPACES; space++) {
        s->gathered[space] = sf_calloc(st->steps_n, sizeof *s->gathered[space]);
        s->whole[space] = sf_calloc(st->steps_n, sizeof *s->whole[space]);
        if (!s->gathered[space] || !s->whole[space]) {
            return sf_fail_memory(err, "stage");
        }
        for (uint32_t j = 0; j < st->steps_n; j++) {
            s->gathered[space][j] = SF_NONE;
        }
    }
    return 0;
}

void sfi_shards_clear(struct sfi_shards *s) {
    for (uint32_t space = 0; space < SFI_SPACES; space++) {
        sf_free(s->gathered[space]);
        sf_free(s->whole[space]);
    }
}
