/* Activations of a stage's first layers wait for their backward in the memory of the host. Stages are cut into units of
 * as few layers as all stages allow, as they are for shared weights. What a unit keeps, and its input, are copied away
 * while the pass behind its forward runs, and come back while the pass before its backward does: two units have room on
 * the device for either way. A unit whose backward comes sooner than that stays. */
#include "planner/compile_internal.h"

/* A pass to copy away in, and one to come back. */
#define LEAST_STEPS 3

/* Are all of its layers among those of its stage that are offloaded? */
static bool is_chosen(const struct sfi_compile *c, const struct sfi_vstage *vs) {
    uint64_t stage = vs->index / c->units, unit = vs->index % c->units;
    return (uint64_t)c->plan->layers[stage] * (unit + 1) / c->units <= c->plan->offload;
}

bool sfi_is_away(const struct sfi_stage *st, uint32_t stage, uint32_t microbatch, uint32_t slice) {
    const struct sfi_table *t = &st->c->table;
    size_t at = sfi_pass_index(t->pipe, stage, microbatch, slice);
    return st->c->plan->offload > 0 && is_chosen(st->c, &st->c->vs[stage % st->c->vs_n]) &&
           t->step[SFI_PASS_B][at] - t->step[SFI_PASS_F][at] >= LEAST_STEPS;
}

uint32_t sfi_freed_by(const struct sfi_stage *st, uint32_t step) {
    if (step == SF_NONE) {
        return SF_NONE;
    }
    return st->copied[step] != SF_NONE ? st->copied[step] : st->step_op[step];
}

static uint64_t input_at(const struct sfi_vstage *vs) {
    return sfi_round_up(vs->stash_bytes, SFI_ALIGN);
}

uint64_t sfi_away_bytes(const struct sfi_stage *st, const struct sfi_vstage *vs) {
    return input_at(vs) + st->c->shape.row_bytes;
}

struct copy {
    uint32_t device, host;
    uint64_t host_at, bytes;
};

/* After `wait`; returns the op. */
static uint32_t emit_copy(struct sfi_stage *st, const struct sf_pass *step, bool away, const struct copy *copy,
                          const uint32_t wait[2]) {
    struct sf_arg device = {.buf = copy->device, .access = away ? SF_READ : SF_WRITE, .bytes = copy->bytes};
    struct sf_arg host = {.buf = copy->host, .access = away ? SF_WRITE : SF_READ, .bytes = copy->bytes};
    host.offset = copy->host_at;
    const struct sf_arg args[] = {away ? device : host, away ? host : device};
    struct sf_op op = {.kind = away ? SF_OP_OFFLOAD : SF_OP_FETCH,
                       .stream = away ? SFI_OFFLOAD : SFI_LOAD,
                       .recipe = SF_NONE,
                       .comm = SF_NONE,
                       .bytes = copy->bytes,
                       .microbatch = (uint16_t)step->microbatch,
                       .slice = step->slice,
                       .chunk = (uint16_t)st->c->table.chunk_of[step->stage]};
    uint32_t deps[2], n = 0;
    for (int i = 0; i < 2; i++) {
        if (wait[i] != SF_NONE) {
            deps[n++] = wait[i];
        }
    }
    return sf_build_op(st->c->b, &op, args, 2, deps, n);
}

void sfi_emit_offload(struct sfi_stage *st, uint32_t j) {
    const struct sf_pass *step = &st->steps[j];
    const struct sfi_vstage *vs = sfi_chunk_of(st, step)->vs;
    uint32_t unit = sfi_unit_of(st, step->stage, step->microbatch, step->slice);
    const uint32_t wait[] = {st->step_op[j], SF_NONE};
    if (!sfi_is_away(st, step->stage, step->microbatch, step->slice)) {
        return;
    }
    struct copy copy = {.host = sfi_pool_buffer(&st->away, unit), .bytes = vs->stash_bytes};
    if (copy.bytes > 0) {
        copy.device = sfi_pool_buffer(&st->stash, unit);
        emit_copy(st, step, true, &copy, wait);
    }
    copy = (struct copy){sfi_pool_buffer(&st->x, unit), copy.host, input_at(vs), st->c->shape.row_bytes};
    st->copied[j] = emit_copy(st, step, true, &copy, wait);
}

/* Before the first half of a backward; where there is a second one, it finds what it needs. */
void sfi_emit_fetch(struct sfi_stage *st, uint32_t j) {
    const struct sf_pass *step = &st->steps[j];
    const struct sfi_vstage *vs = sfi_chunk_of(st, step)->vs;
    uint32_t unit = sfi_unit_of(st, step->stage, step->microbatch, step->slice);
    if (step->kind == SF_PASS_F || step->kind == SF_PASS_W ||
        !sfi_is_away(st, step->stage, step->microbatch, step->slice)) {
        return;
    }
    const struct sfi_table *t = &st->c->table;
    uint32_t made = t->step[SFI_PASS_F][sfi_pass_index(t->pipe, step->stage, step->microbatch, step->slice)];
    uint32_t back = sfi_unit_back(st, unit);
    struct copy copy = {.host = sfi_pool_buffer(&st->away, unit), .bytes = vs->stash_bytes};
    if (copy.bytes > 0) {
        copy.device = sfi_pool_buffer(&st->stash, back);
        emit_copy(st, step, false, &copy,
                  (const uint32_t[]){st->copied[made], sfi_freed_by(st, st->stash.after[back])});
    }
    copy = (struct copy){sfi_pool_buffer(&st->x, back), copy.host, input_at(vs), st->c->shape.row_bytes};
    st->fetched[j] =
        emit_copy(st, step, false, &copy, (const uint32_t[]){st->copied[made], sfi_freed_by(st, st->x.after[back])});
}
