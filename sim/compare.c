/* Comparing a forecast with a measurement: the run of the parts, walls and the replay. */
#include "sim/compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "sim/compare_join.h"
#include "sim/sim.h"

static int hashes_check(const struct sf_prog *prog, const struct sf_trace *t, const char *role, struct sf_err *err) {
    struct sf_hash want = sf_prog_hash(prog);
    if (sf_hash_equal(want, t->meta.prog)) {
        return 0;
    }
    char a[SF_HASH_TEXT], b[SF_HASH_TEXT];
    return sf_fail(err, SF_E_INPUT,
                   "the %s trace is of program %s, but the program given is %s; give the program it was made from",
                   role, sf_hash_format(t->meta.prog, a), sf_hash_format(want, b));
}

/* The recording device counts nodes of its graph: an order, but no time. */
static int times_check(const struct sf_trace *t, const char *role, struct sf_err *err) {
    return strcmp(t->meta.origin, "record") != 0
               ? 0
               : sf_fail(err, SF_E_INPUT,
                         "the %s trace is of the recording device, which has an order but no times: give the trace of "
                         "a real run, or compare the order alone (--order-only)",
                         role);
}

static int inputs_check(const struct sf_prog *prog, const struct sf_trace *predicted, const struct sf_trace *measured,
                        struct sf_err *err) {
    if (!sf_hash_equal(predicted->meta.prog, measured->meta.prog)) {
        char a[SF_HASH_TEXT], b[SF_HASH_TEXT];
        return sf_fail(err, SF_E_INPUT,
                       "the traces are of different programs: predicted %s, measured %s; simulate the program that ran",
                       sf_hash_format(predicted->meta.prog, a), sf_hash_format(measured->meta.prog, b));
    }
    SF_TRY(hashes_check(prog, predicted, "predicted", err));
    SF_TRY(sfi_trace_check(prog, predicted, "predicted", err));
    return sfi_trace_check(prog, measured, "measured", err);
}

static uint32_t last_iter(const struct sf_trace *t) {
    return t->recs[t->recs_n - 1].iter;
}

static int skip_check(const struct sf_trace *measured, uint32_t skip, struct sf_err *err) {
    uint32_t have = last_iter(measured) + 1;
    if (skip < have) {
        return 0;
    }
    return sf_fail(err, SF_E_INPUT,
                   "the measured trace has %u iteration%s and the first %u are left out; run more steps or skip fewer",
                   have, have == 1 ? "" : "s", skip);
}

/* Wall time of the records first .. *next-1, which are one iteration. */
static sf_time_ps iteration_wall(const struct sf_trace *t, size_t first, size_t *next) {
    sf_time_ps start = t->recs[first].start, end = t->recs[first].end;
    size_t i = first;
    for (; i < t->recs_n && t->recs[i].iter == t->recs[first].iter; i++) {
        start = t->recs[i].start < start ? t->recs[i].start : start;
        end = t->recs[i].end > end ? t->recs[i].end : end;
    }
    *next = i;
    return end - start;
}

struct wall {
    uint32_t iter;
    sf_time_ps time;
};

static int wall_order(const void *pa, const void *pb) {
    const struct wall *a = pa, *b = pb;
    if (a->time != b->time) {
        return a->time < b->time ? -1 : 1;
    }
    return a->iter < b->iter ? -1 : a->iter > b->iter;
}

/* Median wall time over the iterations not skipped, and the iteration in the middle. */
static int wall_median(const struct sf_trace *t, uint32_t skip, sf_time_ps *time, uint32_t *iter, struct sf_err *err) {
    struct wall *walls = sf_calloc(t->recs_n, sizeof *walls);
    if (walls == NULL) {
        return sf_fail_memory(err, "wall times");
    }
    size_t n = 0;
    for (size_t first = 0; first < t->recs_n;) {
        uint32_t at = t->recs[first].iter;
        sf_time_ps wall = iteration_wall(t, first, &first);
        if (at >= skip) {
            walls[n++] = (struct wall){at, wall};
        }
    }
    qsort(walls, n, sizeof *walls, wall_order);
    const struct wall *low = &walls[(n - 1) / 2], *high = &walls[n / 2];
    *time = low->time + (high->time - low->time) / 2;
    *iter = low->iter;
    sf_free(walls);
    return 0;
}

/* One iteration that holds the median busy time of every op. */
static int replay_trace(const struct sf_trace *measured, const struct sfi_medians *medians, struct sf_trace *out,
                        struct sf_err *err) {
    out->meta = measured->meta;
    out->meta.iterations = 1;
    SF_TRY(sf_trace_reserve(out, medians->n, err));
    for (size_t i = 0; i < medians->n; i++) {
        const struct sfi_median *m = &medians->at[i];
        struct sf_trace_rec rec = {.rank = m->rank,
                                   .op = m->op,
                                   .covers = (uint16_t)m->covers,
                                   .source = measured->recs[0].source,
                                   .end = m->busy,
                                   .busy = m->busy};
        SF_TRY(sf_trace_add(out, &rec, err));
    }
    return 0;
}

static int replay(const struct sf_prog *prog, const struct sf_trace *measured, const struct sfi_medians *medians,
                  const struct sf_cost *cost, sf_time_ps *out, struct sf_err *err) {
    *out = -1;
    if (cost == NULL) {
        return 0;
    }
    struct sf_trace once;
    sf_trace_init(&once);
    int rc = replay_trace(measured, medians, &once, err);
    if (rc == 0) {
        struct sf_sim_options options = {.unfolded = true, .seed = measured->meta.seed, .replay = &once};
        struct sf_sim_result result;
        rc = sf_sim_run(prog, cost, &options, &result, err);
        *out = rc == 0 ? result.step_time : -1;
    }
    sf_trace_clear(&once);
    return rc == 0 ? 0 : sf_err_wrap(err, "replaying the measured times");
}

static int joined(const struct sf_prog *prog, const struct sfi_medians *predicted, const struct sfi_medians *measured,
                  const struct sf_compare_options *options, struct sf_compare *out, struct sf_err *err) {
    struct sfi_join join;
    SF_TRY(sfi_join_medians(predicted, measured, &join, err));
    int rc = 0;
    if (join.n == 0) {
        rc = sf_fail(err, SF_E_INPUT,
                     "the traces have no (rank, op) in common; simulate with a trace of the ranks that were measured");
    } else {
        rc = sfi_compare_groups(prog, &join, options, out, err);
    }
    out->unpredicted = join.unpredicted;
    out->unmeasured = join.unmeasured;
    sf_free(join.cells);
    return rc;
}

static int compare_into(const struct sf_prog *prog, const struct sf_trace *predicted, const struct sf_trace *measured,
                        const struct sf_compare_options *options, struct sf_compare *out, struct sf_err *err) {
    struct sfi_medians p = {0}, m = {0};
    /* A simulated trace has one iteration; a measured one on this side loses its warm-up as well. */
    uint32_t p_skip = last_iter(predicted) >= options->skip ? options->skip : 0;
    uint32_t p_iter;
    int rc;
    SF_TRY_GOTO(rc, sfi_medians_of(predicted, p_skip, &p, err), done);
    SF_TRY_GOTO(rc, sfi_medians_of(measured, options->skip, &m, err), done);
    SF_TRY_GOTO(rc, joined(prog, &p, &m, options, out, err), done);
    SF_TRY_GOTO(rc, sfi_compare_order(prog, measured, out, err), done);
    SF_TRY_GOTO(rc, wall_median(predicted, p_skip, &out->predicted_makespan, &p_iter, err), done);
    SF_TRY_GOTO(rc, wall_median(measured, options->skip, &out->wall, &out->typical_iter, err), done);
    rc = replay(prog, measured, &m, options->cost, &out->replayed_makespan, err);
done:
    sf_free(p.at);
    sf_free(m.at);
    return rc;
}

/* Of a device without times, or where nobody asks for them. */
static int compare_order(const struct sf_prog *prog, const struct sf_trace *measured, struct sf_compare *out,
                         struct sf_err *err) {
    out->skip = 0;
    out->predicted_makespan = out->wall = out->step.predicted = out->step.measured = -1;
    SF_TRY(sfi_compare_order(prog, measured, out, err));
    out->whole = out->within = out->missing_ops == 0 && out->order_violations_n == 0;
    return 0;
}

int sf_compare_run(const struct sf_prog *prog, const struct sf_trace *predicted, const struct sf_trace *measured,
                   const struct sf_compare_options *options, struct sf_compare *out, struct sf_err *err) {
    *out = (struct sf_compare){.tolerance = options->tolerance, .skip = options->skip, .replayed_makespan = -1};
    SF_TRY(inputs_check(prog, predicted, measured, err));
    out->prog = sf_prog_hash(prog);
    out->ranks = sf_prog_ranks(prog);
    out->iterations = last_iter(measured) + 1;
    out->order_only = options->order_only;
    if (options->order_only) {
        return compare_order(prog, measured, out, err);
    }
    SF_TRY(times_check(predicted, "predicted", err));
    SF_TRY(times_check(measured, "measured", err));
    SF_TRY(skip_check(measured, options->skip, err));
    int rc = compare_into(prog, predicted, measured, options, out, err);
    if (rc != 0) {
        sf_compare_clear(out);
        return rc;
    }
    /* Nothing measured is no agreement, nor is a part of the ops, nor another order than the program's. */
    out->whole = out->missing_ops == 0 && out->unpredicted == 0 && out->unmeasured == 0 && out->order_violations_n == 0;
    out->within = out->whole && out->step.measured > 0 && fabs(out->step.error) <= options->tolerance;
    return 0;
}

void sf_compare_clear(struct sf_compare *c) {
    if (c == NULL) {
        return;
    }
    sf_free(c->kinds);
    sf_free(c->recipes);
    sf_free(c->gaps);
    *c = (struct sf_compare){0};
}

int sf_trace_busy(const struct sf_trace *t, sf_time_ps *out, struct sf_err *err) {
    *out = 0;
    for (size_t i = 0; i < t->recs_n; i++) {
        if (t->recs[i].iter == 0 && __builtin_add_overflow(*out, t->recs[i].busy, out)) {
            return sf_fail(err, SF_E_INPUT, "the busy times of a trace add up to more than 106 days: it is damaged");
        }
    }
    return 0;
}
