/* Measured durations instead of modelled ones. */
#include <string.h>

#include "sim/engine.h"

struct sums {
    sf_time_ps *busy; /* per op of one rank, all iterations together */
    uint32_t *times;
    uint32_t ops_n;
};

static int check_origin(const struct sf_prog *prog, const struct sf_trace *measured, struct sf_err *err) {
    struct sf_hash have = sf_prog_hash(prog), none = {0, 0};
    if (!sf_hash_equal(measured->meta.prog, none) && !sf_hash_equal(measured->meta.prog, have)) {
        char a[SF_HASH_TEXT], b[SF_HASH_TEXT];
        return sf_fail(err, SF_E_INPUT, "the measured trace is of program %s, this one is %s: compare equal programs",
                       sf_hash_format(measured->meta.prog, a), sf_hash_format(have, b));
    }
    return SF_OK;
}

static int add_record(struct sums *s, const struct sf_trace_rec *rec, struct sf_err *err) {
    uint32_t covers = rec->covers > 1 ? rec->covers : 1;
    if (rec->op >= s->ops_n || covers > s->ops_n - rec->op) {
        return sf_fail(err, SF_E_INPUT, "the measured trace has op %u for rank %u, whose class has %u ops", rec->op,
                       rec->rank, s->ops_n);
    }
    if (rec->busy < 0 || rec->busy >= SFI_TIME_MAX) {
        return sf_fail(err, SF_E_INPUT, "the measured trace says op %u of rank %u was busy for %lld ps", rec->op,
                       rec->rank, (long long)rec->busy);
    }
    s->busy[rec->op] = sfi_time_add(s->busy[rec->op], rec->busy);
    for (uint32_t i = 0; i < covers; i++) {
        s->times[rec->op + i]++; /* ops executed as one: the first carries the time */
    }
    return SF_OK;
}

/* The means of what was measured, by kernel. */
static int own_times(const struct sfi_variant *v, const struct sums *s, uint32_t rank, sf_time_ps *out,
                     struct sf_err *err) {
    for (uint32_t i = 0; i < v->cls->kernels_n; i++) {
        uint32_t op = v->cls->kernel_ops[i];
        if (s->times[op] == 0) {
            return sf_fail(err, SF_E_INPUT, "the measured trace has no record of op %u of rank %u (%s)", op, rank,
                           v->cls->code->cls->name);
        }
        out[i] = s->busy[op] / s->times[op];
    }
    return SF_OK;
}

/* Records of each rank in the order of the trace: first[rank] .. first[rank + 1] of the result. */
static uint32_t *index_by_rank(const struct sf_trace *t, uint32_t ranks_n, uint32_t **first, struct sf_arena *arena) {
    uint32_t *at = sf_arena_alloc(arena, (size_t)ranks_n + 2, sizeof *at);
    uint32_t *order = sf_arena_alloc(arena, t->recs_n, sizeof *order);
    if (!at || !order) {
        return NULL;
    }
    for (size_t i = 0; i < t->recs_n; i++) {
        if (t->recs[i].rank < ranks_n) {
            at[t->recs[i].rank + 2]++;
        }
    }
    for (uint32_t r = 0; r < ranks_n; r++) {
        at[r + 2] += at[r + 1];
    }
    for (size_t i = 0; i < t->recs_n; i++) {
        if (t->recs[i].rank < ranks_n) {
            order[at[t->recs[i].rank + 1]++] = (uint32_t)i;
        }
    }
    *first = at;
    return order;
}

static int replay_instance(const struct sf_trace *measured, const uint32_t *order, const uint32_t *first,
                           const struct sfi_variant *v, uint32_t rank, struct sums *s, sf_time_ps *out,
                           struct sf_err *err) {
    memset(s->times, 0, s->ops_n * sizeof *s->times);
    memset(s->busy, 0, s->ops_n * sizeof *s->busy);
    for (uint32_t i = first[rank]; i < first[rank + 1]; i++) {
        SF_TRY(add_record(s, &measured->recs[order[i]], err));
    }
    return own_times(v, s, rank, out, err);
}

static uint32_t most_ops(const struct sf_prog *prog) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < prog->classes_n; i++) {
        most = prog->classes[i].ops_n > most ? prog->classes[i].ops_n : most;
    }
    return most;
}

int sfi_replay_apply(const struct sf_prog *prog, const struct sf_trace *measured, const struct sfi_variants *variants,
                     struct sfi_table *table, struct sf_arena *arena, struct sf_err *err) {
    uint32_t *first = NULL;
    SF_TRY(check_origin(prog, measured, err));
    if (measured->recs_n >= SF_NONE) {
        return sf_fail(err, SF_E_INPUT, "a measured trace of more than %u records cannot be replayed", SF_NONE - 1);
    }
    uint32_t *order = index_by_rank(measured, sf_prog_ranks(prog), &first, arena);
    struct sums s = {.times = sf_arena_alloc(arena, most_ops(prog), sizeof *s.times),
                     .busy = sf_arena_alloc(arena, most_ops(prog), sizeof *s.busy)};
    if (!order || !s.times || !s.busy) {
        return sf_fail_memory(err, "measured durations");
    }
    for (uint32_t i = 0; i < table->n; i++) {
        const struct sfi_variant *v = &variants->v[table->inst[i].variant];
        s.ops_n = v->cls->code->ops_n;
        sf_time_ps *own = sf_arena_alloc(arena, v->cls->kernels_n, sizeof *own);
        if (!own) {
            return sf_fail_memory(err, "measured durations");
        }
        SF_TRY(replay_instance(measured, order, first, v, table->rank[i], &s, own, err));
        table->inst[i].own = own;
    }
    return SF_OK;
}
