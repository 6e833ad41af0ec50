/* The synthesiser: placements, bounds, search, and the table of the winner checked by replay. */
#include "planner/synth.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "planner/synth_internal.h"

#define DEFAULT_BUDGET UINT64_C(45000000)
#define DEFAULT_CHUNKS 4
/* Of the budget, for policies; the rest is for tables. Few microbatches have less that repeats. */
#define SEARCH_PERCENT 88
#define SEARCH_PERCENT_FEW 75
/* Small problems are begun several times, by other chances each time, and as much again is for searching them to the
 * end. */
#define SMALL_STARTS 4
#define SMALL_BUDGET (2 * SMALL_STARTS * DEFAULT_BUDGET)
#define FIRST_LOOK 16 /* one part of it, after the first start */
#define MAX_SHAPES 4096
#define MAX_CONTENDERS 64

/* ---- input ------------------------------------------------------------------------------------------------------- */

static int check_cost(const struct sf_synth_problem *p, uint32_t i, sf_time_ps *sum, struct sf_err *err) {
    if (p->f[i] <= 0 || p->b[i] < 0 || p->w[i] < 0 || __builtin_add_overflow(*sum, p->f[i], sum) ||
        __builtin_add_overflow(*sum, p->b[i], sum) || __builtin_add_overflow(*sum, p->w[i], sum)) {
        return sf_fail(err, SF_E_INPUT, "stage %u: f must be positive, b and w not negative, found %lld, %lld, %lld ps",
                       i, (long long)p->f[i], (long long)p->b[i], (long long)p->w[i]);
    }
    double f = p->mem_f[i], b = p->mem_b[i], w = p->mem_w[i];
    if (!(f > 0) || !(b >= 0) || !(w >= 0) || !isfinite(f) || fabs(f - b - w) > 1e-9 * f) {
        return sf_fail(err, SF_E_INPUT, "stage %u: mem_f must be positive and mem_b + mem_w, found %g, %g, %g", i, f, b,
                       w);
    }
    return 0;
}

static int check_problem(const struct sf_synth_problem *p, struct sf_err *err) {
    if (p->devices == 0 || p->devices > SF_PIPE_MAX_DEVICES || p->microbatches == 0 ||
        p->microbatches > SF_PIPE_MAX_PASSES) {
        return sf_fail(err, SF_E_INPUT, "expected 1 to %d devices and 1 to %u microbatches, found %u and %u",
                       SF_PIPE_MAX_DEVICES, SF_PIPE_MAX_PASSES, p->devices, p->microbatches);
    }
    if (p->stages % p->devices != 0 || p->stages / p->devices > SF_SYNTH_MAX_CHUNKS) {
        return sf_fail(err, SF_E_INPUT, "expected 1 to %d stages on each of %u devices, found %u stages",
                       SF_SYNTH_MAX_CHUNKS, p->devices, p->stages);
    }
    if (p->device_of != NULL && p->stages == 0) {
        return sf_fail(err, SF_E_INPUT, "a placement to keep needs the number of its stages");
    }
    for (uint32_t i = 0; i < p->stages && p->device_of != NULL; i++) {
        if (p->device_of[i] >= p->devices) {
            return sf_fail(err, SF_E_INPUT, "stage %u is on device %u, but there are only %u devices", i,
                           p->device_of[i], p->devices);
        }
    }
    if (!(p->memory_limit > 0) || !isfinite(p->memory_limit)) {
        return sf_fail(err, SF_E_INPUT, "the memory limit must be positive, found %g", p->memory_limit);
    }
    sf_time_ps sum = p->comm;
    uint32_t costs_n = p->stages > 0 ? p->stages : 1;
    if (p->comm < 0 || __builtin_mul_overflow(sum, 2 * SF_SYNTH_MAX_CHUNKS * (sf_time_ps)p->devices, &sum)) {
        return sf_fail(err, SF_E_INPUT, "comm must not be negative, and far below 106 days");
    }
    for (uint32_t i = 0; i < costs_n; i++) {
        SF_TRY(check_cost(p, i, &sum, err));
    }
    if (__builtin_mul_overflow(sum, (sf_time_ps)p->microbatches * (p->stages > 0 ? 8 : 8 * p->devices), &sum)) {
        return sf_fail(err, SF_E_INPUT, "a whole schedule must be far shorter than 106 days; check f, b, w and comm");
    }
    return 0;
}

static int chunks_range(const struct sf_synth_problem *p, const struct sf_synth_options *o, uint32_t *lo, uint32_t *hi,
                        struct sf_err *err) {
    *lo = o->chunks_min > 0 ? o->chunks_min : 1;
    *hi = o->chunks_max > 0 ? o->chunks_max : *lo > DEFAULT_CHUNKS ? *lo : DEFAULT_CHUNKS;
    if (p->stages > 0) {
        *lo = *hi = p->stages / p->devices;
    }
    if (*lo > *hi || *hi > SF_SYNTH_MAX_CHUNKS) {
        return sf_fail(err, SF_E_INPUT, "expected 1 to %d chunks on each device, found %u to %u", SF_SYNTH_MAX_CHUNKS,
                       *lo, *hi);
    }
    uint64_t passes = (uint64_t)3 * *hi * p->devices * p->microbatches;
    if (passes > SF_PIPE_MAX_PASSES) {
        return sf_fail(err, SF_E_INPUT,
                       "a schedule may have %u passes; %u chunks on %u devices for %u microbatches "
                       "have %llu",
                       SF_PIPE_MAX_PASSES, *hi, p->devices, p->microbatches, (unsigned long long)passes);
    }
    return 0;
}

/* ---- contenders -------------------------------------------------------------------------------------------------- */

struct entry {
    struct sfi_shape shape;
    sf_time_ps bound;
    uint32_t index;
};

static int compare_entries(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    if (x->bound != y->bound) {
        return x->bound < y->bound ? -1 : 1;
    }
    return x->index < y->index ? -1 : x->index > y->index;
}

/* Every device must hold one microbatch of all its chunks: its first B comes after F of its highest stage. */
static bool holds_one(const struct sfi_synth *s) {
    for (uint32_t d = 0; d < s->devices; d++) {
        double memory = 0;
        for (uint32_t j = 0; j < s->chunks; j++) {
            memory += s->mem_f[s->held[d * s->chunks + j]];
        }
        if (memory > s->limit * (1 + 1e-9)) {
            return false;
        }
    }
    return true;
}

static int add_entry(const struct sf_synth_problem *p, const struct sfi_shape *shape, struct entry *out, uint32_t *n,
                     struct sf_err *err) {
    struct sfi_synth s;
    struct sf_bound_why why;
    SF_TRY(sfi_synth_init(p, shape, &s, err));
    if (holds_one(&s)) {
        out[*n] = (struct entry){.shape = *shape, .bound = sfi_bound(&s, &why), .index = *n};
        ++*n;
    }
    sfi_synth_clear(&s);
    return 0;
}

/* Chunks that are not alike pay where there is a long way through the pipeline and a steady state. */
static bool takes_uneven(const struct sf_synth_problem *p, const struct sf_synth_options *o) {
    bool free = p->stages == 0 && p->device_of == NULL && o->chunks_min == 0 && o->chunks_max == 0;
    return free && p->devices >= SFI_UNEVEN_DEVICES && p->microbatches >= 4 * p->devices &&
           (uint64_t)3 * SFI_UNEVEN_CHUNKS * p->devices * p->microbatches <= SF_PIPE_MAX_PASSES;
}

/* All shapes with their bounds, best first. */
static int list_entries(const struct sf_synth_problem *p, const struct sf_synth_options *o, uint32_t lo, uint32_t hi,
                        struct entry *out, uint32_t *n, struct sf_err *err) {
    struct sfi_shape *shapes = sf_calloc(MAX_SHAPES, sizeof *shapes);
    if (shapes == NULL) {
        return sf_fail_memory(err, "schedule search");
    }
    int rc = 0;
    *n = 0;
    for (uint32_t chunks = lo; chunks <= hi && rc == 0; chunks++) {
        uint32_t shapes_n = p->device_of != NULL ? 1 : sfi_shapes(chunks, shapes, MAX_SHAPES);
        shapes[0].chunks = chunks;
        for (uint32_t i = 0; i < shapes_n && *n < MAX_SHAPES && rc == 0; i++) {
            rc = add_entry(p, &shapes[i], out, n, err);
        }
    }
    uint32_t uneven_n = takes_uneven(p, o) ? sfi_shapes_uneven(shapes, MAX_SHAPES) : 0;
    for (uint32_t i = 0; i < uneven_n && *n < MAX_SHAPES && rc == 0; i++) {
        rc = add_entry(p, &shapes[i], out, n, err);
    }
    sf_free(shapes);
    qsort(out, *n, sizeof *out, compare_entries);
    return rc;
}

static int add_contenders(const struct sf_synth_problem *p, const struct sf_synth_options *o, struct entry *entries,
                          uint32_t n, struct sfi_search_run *run, struct sf_err *err) {
    struct sf_rng seed = sf_rng_seed(o->seed);
    run->rest_bound = n > MAX_CONTENDERS ? entries[MAX_CONTENDERS].bound : SFI_NEVER;
    for (uint32_t i = 0; i < n && i < MAX_CONTENDERS; i++) {
        struct sfi_contender *c = sf_calloc(1, sizeof *c);
        if (c == NULL) {
            return sf_fail_memory(err, "schedule search");
        }
        run->all[run->n++] = c;
        SF_TRY(sfi_synth_init(p, &entries[i].shape, &c->s, err));
        SF_TRY(sfi_placer_create(&c->s, &c->placer, err));
        c->bound = sfi_bound(&c->s, &c->why);
        SF_TRY(sfi_bound_machines(&c->s, &c->bound, &c->why, err));
        c->rng = sf_rng_split(&seed, entries[i].index);
        c->whole = (struct sfi_try){.excess = SFI_NEVER, .score = 1e300};
    }
    return 0;
}

static int prepare(const struct sf_synth_problem *p, const struct sf_synth_options *o, struct sfi_search_run *run,
                   struct sf_err *err) {
    uint32_t lo, hi, n = 0;
    SF_TRY(chunks_range(p, o, &lo, &hi, err));
    struct entry *entries = sf_calloc(MAX_SHAPES, sizeof *entries);
    run->all = sf_calloc(MAX_CONTENDERS, sizeof(struct sfi_contender *));
    if (entries == NULL || run->all == NULL) {
        sf_free(entries);
        return sf_fail_memory(err, "schedule search");
    }
    int rc = list_entries(p, o, lo, hi, entries, &n, err);
    if (rc == 0 && n == 0) {
        rc = sf_fail(err, SF_E_NOPLAN, "a device cannot hold even one microbatch within the memory limit of %g",
                     p->memory_limit);
    }
    if (rc == 0) {
        rc = add_contenders(p, o, entries, n, run, err);
    }
    sf_free(entries);
    return rc;
}

/* ---- result ------------------------------------------------------------------------------------------------------ */

static int copy_costs(const struct sfi_synth *s, struct sf_pipe_costs *out, struct sf_err *err) {
    size_t n = s->stages;
    sf_time_ps *times = sf_calloc(3 * n, sizeof *times);
    double *memory = sf_calloc(3 * n, sizeof *memory);
    if (times == NULL || memory == NULL) {
        sf_free(times);
        sf_free(memory);
        return sf_fail_memory(err, "schedule costs");
    }
    memcpy(times, s->f, n * sizeof *times);
    memcpy(times + n, s->b, n * sizeof *times);
    memcpy(times + 2 * n, s->w, n * sizeof *times);
    memcpy(memory, s->mem_f, n * sizeof *memory);
    memcpy(memory + n, s->mem_b, n * sizeof *memory);
    memcpy(memory + 2 * n, s->mem_w, n * sizeof *memory);
    *out = (struct sf_pipe_costs){.f = times,
                                  .b = times + n,
                                  .w = times + 2 * n,
                                  .comm = s->comm,
                                  .mem_f = memory,
                                  .mem_b = memory + n,
                                  .mem_w = memory + 2 * n};
    return 0;
}

static sf_time_ps span_of(const struct sfi_contender *c) {
    return c->s.period * c->s.microbatches + c->whole.excess;
}

/* The best table of a contender: a published one, or placed once more by its policy. The contender has it no more. */
static int move_table(struct sfi_contender *c, struct sf_pipe **out, struct sf_err *err) {
    const struct sfi_synth *s = &c->s;
    struct sfi_try t;
    if (c->given != NULL) {
        *out = c->given;
        c->given = NULL;
        return 0;
    }
    SF_TRY(sf_pipe_create(s->devices, s->stages, s->microbatches, 1, out, err));
    memcpy((*out)->device_of, s->device_of, s->stages * sizeof *s->device_of);
    sfi_place(c->placer, &c->policy, s->microbatches, SFI_DRAIN, SFI_NEVER / 4, *out, &t);
    return 0;
}

static int take_table(struct sfi_contender *c, struct sf_synth_result *out, struct sf_err *err) {
    const struct sfi_synth *s = &c->s;
    out->chunks = s->chunks;
    out->family = c->given != NULL ? c->family : -1;
    memcpy(out->placement, s->name, sizeof out->placement);
    SF_TRY(copy_costs(s, &out->costs, err));
    return move_table(c, &out->pipe, err);
}

static int finish(struct sfi_contender *c, struct sf_synth_result *out, struct sf_err *err) {
    sf_time_ps span = span_of(c);
    out->lower_bound_span = c->bound;
    out->bound = c->why;
    SF_TRY(take_table(c, out, err));
    SF_TRY(sf_pipe_replay(out->pipe, &out->costs, &out->timing, NULL, NULL, err));
    if (out->timing.span != span || out->timing.span < out->lower_bound_span ||
        out->timing.peak_memory > c->s.limit * (1 + 1e-6)) {
        return sf_fail(err, SF_E_INTERNAL,
                       "synthesised schedule: replay says span %lld ps and peak %g, the search said "
                       "%lld ps, bound %lld ps, limit %g",
                       (long long)out->timing.span, out->timing.peak_memory, (long long)span,
                       (long long)out->lower_bound_span, c->s.limit);
    }
    out->gap = (double)(span - out->lower_bound_span) / (double)span;
    out->optimal = span == out->lower_bound_span;
    return 0;
}

/* ---- starts ------------------------------------------------------------------------------------------------------ */

/* The best table of all starts, between them. */
struct kept {
    struct sfi_contender *c;
    struct sf_pipe *table;
    int family;
    struct sfi_try whole;
};

static sf_time_ps span_of_kept(const struct kept *k) {
    return k->c->s.period * k->c->s.microbatches + k->whole.excess;
}

static int keep(struct sfi_contender *winner, struct kept *k, struct sf_err *err) {
    if (k->c != NULL && span_of(winner) >= span_of_kept(k)) {
        return 0;
    }
    sf_pipe_free(k->table);
    *k = (struct kept){.c = winner, .family = winner->given != NULL ? winner->family : -1, .whole = winner->whole};
    return move_table(winner, &k->table, err);
}

static struct sfi_contender *give_back(struct kept *k) {
    struct sfi_contender *c = k->c;
    sf_pipe_free(c->given);
    c->given = k->table;
    c->family = k->family;
    c->whole = k->whole;
    *k = (struct kept){.c = NULL};
    return c;
}

static void begin_again(const struct sf_synth_options *o, uint32_t start, struct sfi_search_run *run) {
    struct sf_rng seed = sf_rng_seed(o->seed);
    for (uint32_t i = 0; i < run->n; i++) {
        struct sfi_contender *c = run->all[i];
        c->rng = sf_rng_split(&seed, MAX_SHAPES * start + i);
        c->elites_n = c->known_n = 0;
        c->whole = (struct sfi_try){.excess = SFI_NEVER, .score = 1e300};
        sf_pipe_free(c->given);
        c->given = NULL;
    }
}

struct effort {
    uint32_t starts;
    uint64_t start, small; /* passes of each, and for searching to the end */
};

static struct effort effort_of(const struct sf_synth_options *o, const struct sfi_search_run *run) {
    bool small = false;
    for (uint32_t i = 0; i < run->n; i++) {
        small = small || sfi_exact_fits(&run->all[i]->s);
    }
    uint64_t budget = o->budget > 0 ? o->budget : small ? SMALL_BUDGET : DEFAULT_BUDGET;
    uint64_t starts = budget / (2 * DEFAULT_BUDGET);
    if (!small || starts < 2) {
        return (struct effort){.starts = 1, .start = budget, .small = budget / 2};
    }
    starts = starts < SMALL_STARTS ? starts : SMALL_STARTS;
    return (struct effort){(uint32_t)starts, DEFAULT_BUDGET, budget - starts * DEFAULT_BUDGET};
}

/* Policies, then their tables. */
static int search_once(const struct sf_synth_problem *p, const struct sf_synth_options *o, uint64_t budget,
                       struct sfi_search_run *run, struct kept *best, struct sf_err *err) {
    uint64_t percent = p->microbatches >= 4 * p->devices ? SEARCH_PERCENT : SEARCH_PERCENT_FEW;
    run->passes = 0;
    run->budget = o->as_found ? budget : budget / 100 * percent;
    struct sfi_contender *winner = sfi_synth_search(run);
    run->budget = budget;
    SF_TRY(winner == NULL || o->as_found ? 0 : sfi_synth_polish(run, &winner, err));
    return winner == NULL ? 0 : keep(winner, best, err);
}

static int search_to_the_end(struct sfi_search_run *run, uint64_t budget, struct kept *best, struct sf_err *err) {
    struct sfi_contender *winner = give_back(best);
    run->small_budget = budget;
    SF_TRY(sfi_synth_small(run, &winner, err));
    return keep(winner, best, err);
}

static bool is_settled(const struct sfi_search_run *run, const struct kept *best) {
    bool settled = true;
    for (uint32_t i = 0; i < run->n; i++) {
        settled = settled && run->all[i]->bound >= span_of_kept(best);
    }
    return settled;
}

static int search_often(const struct sf_synth_problem *p, const struct sf_synth_options *o, const struct effort *e,
                        struct sfi_search_run *run, struct kept *best, struct sf_err *err) {
    uint64_t passes = 0;
    bool over = false;
    sfi_synth_families(p, o, run);
    for (uint32_t i = 0; i < e->starts && !over; i++) {
        if (i > 0) {
            begin_again(o, i, run);
        }
        SF_TRY(search_once(p, o, e->start, run, best, err));
        if (i == 0 && e->starts > 1 && best->c != NULL && !run->stopped) {
            SF_TRY(search_to_the_end(run, e->small / FIRST_LOOK, best, err));
        }
        passes += run->passes;
        over = run->stopped || best->c == NULL || is_settled(run, best);
    }
    run->passes = 0;
    SF_TRY(best->c == NULL || run->stopped ? 0 : search_to_the_end(run, e->small, best, err));
    run->passes += passes;
    return 0;
}

static int no_schedule(const struct sf_synth_problem *p, const struct sfi_search_run *run, struct sf_err *err) {
    if (run->stopped) {
        return sf_fail(err, SF_E_INTERRUPTED, "the search was stopped before it had found a schedule");
    }
    return sf_fail(err, SF_E_NOPLAN,
                   "no schedule keeps the memory limit of %g in %llu tries; raise the limit or allow more chunks",
                   p->memory_limit, (unsigned long long)run->evaluated);
}

static int run_search(const struct sf_synth_problem *p, const struct sf_synth_options *o, struct sfi_search_run *run,
                      struct kept *best, struct sf_synth_result *out, struct sf_err *err) {
    SF_TRY(prepare(p, o, run, err));
    const struct effort effort = effort_of(o, run);
    SF_TRY(search_often(p, o, &effort, run, best, err));
    if (best->c == NULL) {
        return no_schedule(p, run, err);
    }
    out->problem_bound_span = run->rest_bound;
    for (uint32_t i = 0; i < run->n; i++) {
        sf_time_ps bound = run->all[i]->bound;
        out->problem_bound_span = bound < out->problem_bound_span ? bound : out->problem_bound_span;
    }
    return finish(give_back(best), out, err);
}

int sf_synth(const struct sf_synth_problem *problem, const struct sf_synth_options *options,
             struct sf_synth_result *out, struct sf_err *err) {
    *out = (struct sf_synth_result){.pipe = NULL};
    SF_TRY(check_problem(problem, err));
    struct sfi_search_run run = {.limit_s = options->limit_s,
                                 .gap = options->gap,
                                 .stop = options->stop,
                                 .host_start = sf_clock_host.now(sf_clock_host.self)};
    struct kept best = {.c = NULL};
    int rc = run_search(problem, options, &run, &best, out, err);
    sf_pipe_free(best.table);
    out->evaluated = run.evaluated;
    out->passes = run.passes;
    out->stopped = run.stopped;
    out->search_time_s = sf_ps_to_s(sf_clock_host.now(sf_clock_host.self) - run.host_start);
    for (uint32_t i = 0; i < run.n; i++) {
        sf_pipe_free(run.all[i]->given);
        sfi_placer_free(run.all[i]->placer);
        sfi_synth_clear(&run.all[i]->s);
        sf_free(run.all[i]);
    }
    sf_free(run.all);
    if (rc != 0) {
        sf_synth_result_clear(out);
    }
    return rc;
}

void sf_synth_result_clear(struct sf_synth_result *r) {
    sf_pipe_free(r->pipe);
    sf_free((void *)(uintptr_t)r->costs.f);
    sf_free((void *)(uintptr_t)r->costs.mem_f);
    *r = (struct sf_synth_result){.pipe = NULL};
}
