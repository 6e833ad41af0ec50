/* What the parts of a split head exchange. The normalised output of the last layer goes to all parts at once, and the
 * gradients that they make of it come back as their sum: one all-reduce each over the ranks of the pipeline. To the
 * outputs all ranks but the one that made them add zeros, which changes no number and takes as long as a scatter and a
 * gather: whatever the size of the group, twice what a rank needs. A part clears its input when it is done with it.
 *
 * All exchanges are on one stream and in one order on every rank, that of the replay: they come behind all passes that
 * began there before their inputs were complete and ahead of all that began later. So whatever waits for what, the
 * first of them that is left can go. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "planner/compile_internal.h"

static uint32_t step_of(const struct sfi_stage *st, enum sfi_pass pass, uint32_t stage, uint32_t microbatch) {
    const struct sfi_table *t = &st->c->table;
    return t->step[pass][sfi_pass_index(t->pipe, stage, microbatch, 0)];
}

static uint32_t last_layers(const struct sfi_stage *st) {
    return st->c->plan->pp - 1;
}

/* The outputs are made here, and the gradients come back to here. */
static bool is_owner(const struct sfi_stage *st) {
    return st->c->table.pipe->device_of[last_layers(st)] == st->stage;
}

/* ---- when -------------------------------------------------------------------------------------------------------- */

static sf_time_ps end_of(const struct sfi_stage *st, enum sfi_pass pass, uint32_t stage, uint32_t microbatch) {
    const struct sfi_table *t = &st->c->table;
    return t->end[t->pipe->device_of[stage]][step_of(st, pass, stage, microbatch)];
}

static sf_time_ps end_of_parts(const struct sfi_stage *st, enum sfi_pass pass, uint32_t microbatch) {
    sf_time_ps end = 0;
    for (uint32_t part = st->c->plan->pp; part < st->c->vs_n; part++) {
        sf_time_ps own = end_of(st, pass, part, microbatch);
        end = own > end ? own : end;
    }
    return end;
}

static int compare(const void *a, const void *b) {
    const struct sfi_exchange *x = a, *y = b;
    if (x->at != y->at) {
        return x->at < y->at ? -1 : 1;
    }
    if (x->microbatch != y->microbatch) {
        return x->microbatch < y->microbatch ? -1 : 1;
    }
    return (x->kind > y->kind) - (x->kind < y->kind);
}

static void list_all(struct sfi_stage *st) {
    struct sfi_exchanges *x = &st->exchanges;
    for (uint32_t m = 0; m < st->c->plan->microbatches; m++) {
        x->all[x->n++] = (struct sfi_exchange){end_of(st, SFI_PASS_F, last_layers(st), m), m, SFI_OUTPUTS};
        x->all[x->n++] = (struct sfi_exchange){end_of_parts(st, SFI_PASS_F, m), m, SFI_STATS};
        x->all[x->n++] = (struct sfi_exchange){end_of_parts(st, SFI_PASS_B, m), m, SFI_RETURNS};
    }
    qsort(x->all, x->n, sizeof *x->all, compare);
}

/* How many gradients are on their way at a time, in the replay and with one to spare. */
static uint32_t count_returns(const struct sfi_stage *st) {
    uint32_t microbatches = st->c->plan->microbatches, most = 0;
    for (uint32_t m = 0, gone = 0; m < microbatches; m++) {
        sf_time_ps start = st->c->table.start[st->stage][step_of(st, SFI_PASS_B, st->exchanges.part, m)];
        while (gone < m && end_of_parts(st, SFI_PASS_B, gone) <= start) {
            gone++;
        }
        most = m + 1 - gone > most ? m + 1 - gone : most;
    }
    return most < microbatches ? most + 1 : microbatches;
}

int sfi_exchanges_init(struct sfi_stage *st, struct sf_err *err) {
    struct sfi_exchanges *x = &st->exchanges;
    if (!st->c->plan->split_head) {
        return 0;
    }
    for (uint32_t i = 0; i < st->chunks_n; i++) {
        x->part = sfi_is_part(st->c, st->chunks[i].vs) ? st->chunks[i].stage : x->part;
    }
    x->all = sf_calloc(3 * (size_t)st->c->plan->microbatches, sizeof *x->all);
    if (!x->all) {
        return sf_fail_memory(err, "parts of the head");
    }
    list_all(st);
    x->returns_n = is_owner(st) ? 0 : count_returns(st);
    x->returns = sf_calloc(x->returns_n, sizeof *x->returns);
    x->last_returns = sf_calloc(x->returns_n, sizeof *x->last_returns);
    if (!x->returns || !x->last_returns) {
        return sf_fail_memory(err, "parts of the head");
    }
    memset(x->last_returns, 0xff, x->returns_n * sizeof *x->last_returns);
    return 0;
}

void sfi_exchanges_clear(struct sfi_exchanges *x) {
    sf_free(x->all);
    sf_free(x->returns);
    sf_free(x->last_returns);
}

/* ---- what -------------------------------------------------------------------------------------------------------- */

static uint64_t bytes_of(const struct sfi_stage *st) {
    return sfi_input_bytes(st->c, &st->c->vs[st->exchanges.part]);
}

void sfi_exchanges_buffers(struct sfi_stage *st) {
    for (uint32_t i = 0; i < st->exchanges.returns_n; i++) {
        char name[SF_NAME];
        snprintf(name, sizeof name, "part.dx%u", i);
        st->exchanges.returns[i] = sf_build_buffer(st->c->b, name, SF_BUF_COMM, bytes_of(st), false);
    }
}

uint32_t sfi_return_buffer(const struct sfi_stage *st, uint32_t microbatch, uint32_t *freed) {
    uint32_t slot = microbatch % st->exchanges.returns_n;
    *freed = st->exchanges.last_returns[slot];
    return st->exchanges.returns[slot];
}

static uint32_t reduce(const struct sfi_stage *st, const struct sfi_exchange *x, uint32_t buf, uint32_t after) {
    const struct sf_arg arg = {.buf = buf, .access = SF_READ_WRITE, .bytes = bytes_of(st)};
    const struct sf_op op = {.kind = SF_OP_ALL_REDUCE,
                             .stream = SFI_HEAD,
                             .recipe = SF_NONE,
                             .comm = st->c->comms.parts,
                             .bytes = arg.bytes,
                             .microbatch = (uint16_t)x->microbatch,
                             .chunk = (uint16_t)st->c->table.chunk_of[st->exchanges.part],
                             .flags = st->c->shape.dtype == SF_F32 ? SF_OP_SUM_F32 : 0};
    return sf_build_op(st->c->b, &op, &arg, 1, &after, after != SF_NONE);
}

static void emit_outputs(struct sfi_stage *st, const struct sfi_exchange *x) {
    uint32_t unit = sfi_unit_of(st, st->exchanges.part, x->microbatch, 0);
    uint32_t after = is_owner(st) ? st->step_op[step_of(st, SFI_PASS_F, last_layers(st), x->microbatch)]
                                  : sfi_freed_by(st, st->part_x.after[unit]);
    st->arrival[0][step_of(st, SFI_PASS_F, st->exchanges.part, x->microbatch)] =
        reduce(st, x, sfi_pool_buffer(&st->part_x, unit), after);
}

/* On one stream: with the last set all are there. */
static void emit_stats(struct sfi_stage *st, const struct sfi_exchange *x) {
    uint32_t part = st->exchanges.part, forward = step_of(st, SFI_PASS_F, part, x->microbatch);
    uint32_t *gathered = &st->stats[step_of(st, SFI_PASS_B, part, x->microbatch)];
    for (uint32_t depth = 0; depth < sfi_depths(st->c, &st->c->vs[part]); depth++) {
        *gathered = sfi_gather_stats(st, &st->steps[forward], depth, st->step_op[forward]);
    }
}

static void emit_returns(struct sfi_stage *st, const struct sfi_exchange *x) {
    uint32_t after = st->step_op[step_of(st, SFI_PASS_B, st->exchanges.part, x->microbatch)];
    if (is_owner(st)) {
        uint32_t unit = sfi_unit_of(st, last_layers(st), x->microbatch, 0);
        st->arrival[0][step_of(st, SFI_PASS_B, last_layers(st), x->microbatch)] =
            reduce(st, x, sfi_pool_buffer(&st->landing, unit), after);
    } else {
        uint32_t slot = x->microbatch % st->exchanges.returns_n;
        st->exchanges.last_returns[slot] = reduce(st, x, st->exchanges.returns[slot], after);
    }
}

void sfi_emit_exchanges(struct sfi_stage *st, uint32_t step) {
    struct sfi_exchanges *x = &st->exchanges;
    bool all = step == st->steps_n;
    for (; x->done < x->n && (all || x->all[x->done].at <= st->c->table.start[st->stage][step]); x->done++) {
        const struct sfi_exchange *next = &x->all[x->done];
        if (next->kind == SFI_OUTPUTS) {
            emit_outputs(st, next);
        } else if (next->kind == SFI_STATS) {
            emit_stats(st, next);
        } else {
            emit_returns(st, next);
        }
    }
}
