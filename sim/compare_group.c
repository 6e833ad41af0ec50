/* Statistics over a join: per op kind, per recipe, the largest gaps. */
#include <gsl/gsl_sort.h>
#include <gsl/gsl_statistics_double.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "sim/compare_join.h"

/* Groups are addressed by a dense id: op kinds first, recipes behind them. */
struct grouping {
    uint32_t (*of)(const struct sf_prog *prog, const struct sfi_cell *cell);
    uint32_t n;
};

static uint32_t group_all(const struct sf_prog *prog, const struct sfi_cell *cell) {
    (void)prog;
    (void)cell;
    return 0;
}

static uint32_t group_kind(const struct sf_prog *prog, const struct sfi_cell *cell) {
    return sfi_op(prog, cell->rank, cell->op)->kind;
}

static uint32_t group_recipe(const struct sf_prog *prog, const struct sfi_cell *cell) {
    const struct sf_op *op = sfi_op(prog, cell->rank, cell->op);
    return op->recipe < prog->recipes_n ? SF_OP_KINDS + op->recipe : op->kind;
}

static int sums_add(struct sf_compare_group *g, const struct sfi_cell *cell, struct sf_err *err) {
    if (__builtin_add_overflow(g->predicted, cell->predicted, &g->predicted) ||
        __builtin_add_overflow(g->measured, cell->measured, &g->measured)) {
        return sf_fail(err, SF_E_INPUT, "the busy times of a trace add up to more than 106 days: it is damaged");
    }
    g->count += cell->covers;
    g->timed += cell->measured > 0;
    return 0;
}

static double relative_error(sf_time_ps predicted, sf_time_ps measured) {
    return measured > 0 ? ((double)predicted - (double)measured) / (double)measured : 0.0;
}

/* The smallest error such that ops with at most that error took `share` of the time. Sorted by error. */
static double weighted_quantile(const double *errors, const double *times, size_t n, double share) {
    double total = 0, sum = 0;
    for (size_t i = 0; i < n; i++) {
        total += times[i];
    }
    for (size_t i = 0; i < n; i++) {
        sum += times[i];
        if (sum >= share * total) {
            return errors[i];
        }
    }
    return errors[n - 1];
}

static void group_quantiles(double *errors, double *times, size_t n, struct sf_compare_group *g) {
    if (n == 0) {
        return;
    }
    gsl_sort2(errors, 1, times, 1, n);
    g->p50 = gsl_stats_quantile_from_sorted_data(errors, 1, n, 0.5);
    g->p90 = gsl_stats_quantile_from_sorted_data(errors, 1, n, 0.9);
    g->time_p50 = weighted_quantile(errors, times, n, 0.5);
    g->time_p90 = weighted_quantile(errors, times, n, 0.9);
}

/* One run of cells per group, so that quantiles need one pass over the join. */
struct runs {
    double *errors, *times; /* [cells] */
    size_t *end;            /* [groups] */
};

static void runs_fill(const struct sf_prog *prog, const struct sfi_join *join, const struct grouping *by,
                      const struct sf_compare_group *groups, struct runs *r) {
    size_t first = 0;
    for (uint32_t g = 0; g < by->n; g++) {
        r->end[g] = first;
        first += groups[g].timed;
    }
    for (size_t i = 0; i < join->n; i++) {
        const struct sfi_cell *c = &join->cells[i];
        if (c->measured > 0) {
            size_t at = r->end[by->of(prog, c)]++;
            r->errors[at] = fabs(relative_error(c->predicted, c->measured));
            r->times[at] = (double)c->measured;
        }
    }
}

static int quantiles(const struct sf_prog *prog, const struct sfi_join *join, const struct grouping *by,
                     struct sf_compare_group *groups, struct sf_err *err) {
    struct runs r = {.errors = sf_calloc(join->n, sizeof *r.errors),
                     .times = sf_calloc(join->n, sizeof *r.times),
                     .end = sf_calloc(by->n, sizeof *r.end)};
    int rc = r.errors == NULL || r.times == NULL || r.end == NULL ? sf_fail_memory(err, "error quantiles") : 0;
    if (rc == 0) {
        runs_fill(prog, join, by, groups, &r);
    }
    for (uint32_t g = 0; rc == 0 && g < by->n; g++) {
        size_t first = r.end[g] - groups[g].timed;
        group_quantiles(r.errors + first, r.times + first, groups[g].timed, &groups[g]);
    }
    sf_free(r.errors);
    sf_free(r.times);
    sf_free(r.end);
    return rc;
}

static void shares(struct sf_compare_group *groups, size_t n) {
    double total = 0;
    for (size_t i = 0; i < n; i++) {
        total += fabs((double)groups[i].predicted - (double)groups[i].measured);
    }
    for (size_t i = 0; i < n; i++) {
        double own = fabs((double)groups[i].predicted - (double)groups[i].measured);
        groups[i].share = total > 0 ? own / total : 0.0;
    }
}

/* Drop groups without ops, finish the others. */
static size_t groups_finish(struct sf_compare_group *groups, size_t n) {
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (groups[i].count > 0) {
            groups[i].error = relative_error(groups[i].predicted, groups[i].measured);
            groups[kept++] = groups[i];
        }
    }
    shares(groups, kept);
    return kept;
}

static int groups_fill(const struct sf_prog *prog, const struct sfi_join *join, const struct grouping *by,
                       struct sf_compare_group *groups, struct sf_err *err) {
    for (size_t i = 0; i < join->n; i++) {
        SF_TRY(sums_add(&groups[by->of(prog, &join->cells[i])], &join->cells[i], err));
    }
    return quantiles(prog, join, by, groups, err);
}

static int make_step(const struct sf_prog *prog, const struct sfi_join *join, struct sf_compare *out,
                     struct sf_err *err) {
    out->step = (struct sf_compare_group){.name = "step", .kind = -1, .recipe = SF_NONE};
    SF_TRY(groups_fill(prog, join, &(struct grouping){group_all, 1}, &out->step, err));
    groups_finish(&out->step, 1);
    return 0;
}

/* Only what all three say something about is added up. */
static int estimates_add(const struct sf_prog *prog, const struct sfi_join *join, const struct sf_estimates *estimates,
                         struct sf_compare_group *kinds, struct sf_err *err) {
    size_t at = 0;
    for (size_t i = 0; i < estimates->n; i++) {
        const struct sf_estimate *e = &estimates->list[i];
        while (at < join->n &&
               (join->cells[at].rank < e->rank || (join->cells[at].rank == e->rank && join->cells[at].op < e->op))) {
            at++;
        }
        const struct sfi_cell *cell = at < join->n ? &join->cells[at] : NULL;
        if (cell == NULL || cell->rank != e->rank || cell->op != e->op || cell->covers != 1 || e->time < 0) {
            continue;
        }
        struct sf_compare_group *g = &kinds[group_kind(prog, cell)];
        g->estimated_n++;
        if (__builtin_add_overflow(g->estimated, e->time, &g->estimated) ||
            __builtin_add_overflow(g->estimated_predicted, cell->predicted, &g->estimated_predicted) ||
            __builtin_add_overflow(g->estimated_measured, cell->measured, &g->estimated_measured)) {
            return sf_fail(err, SF_E_INPUT, "the estimates add up to more than 106 days: they are damaged");
        }
    }
    return 0;
}

static int make_kinds(const struct sf_prog *prog, const struct sfi_join *join, const struct sf_estimates *estimates,
                      struct sf_compare *out, struct sf_err *err) {
    out->kinds = sf_calloc(SF_OP_KINDS, sizeof *out->kinds);
    if (out->kinds == NULL) {
        return sf_fail_memory(err, "comparison by kind");
    }
    for (int k = 0; k < SF_OP_KINDS; k++) {
        out->kinds[k].kind = k;
        out->kinds[k].recipe = SF_NONE;
        snprintf(out->kinds[k].name, sizeof out->kinds[k].name, "%s", sf_op_name(k));
    }
    SF_TRY(groups_fill(prog, join, &(struct grouping){group_kind, SF_OP_KINDS}, out->kinds, err));
    SF_TRY(estimates != NULL ? estimates_add(prog, join, estimates, out->kinds, err) : 0);
    out->kinds_n = groups_finish(out->kinds, SF_OP_KINDS);
    return 0;
}

static int recipe_order(const void *pa, const void *pb) {
    const struct sf_compare_group *a = pa, *b = pb;
    if (a->share > b->share || a->share < b->share) {
        return a->share > b->share ? -1 : 1;
    }
    if (a->recipe != b->recipe) {
        return a->recipe < b->recipe ? -1 : 1;
    }
    return a->kind < b->kind ? -1 : a->kind > b->kind;
}

static int make_recipes(const struct sf_prog *prog, const struct sfi_join *join, struct sf_compare *out,
                        struct sf_err *err) {
    uint32_t n = SF_OP_KINDS + prog->recipes_n;
    out->recipes = sf_calloc(n, sizeof *out->recipes);
    if (out->recipes == NULL) {
        return sf_fail_memory(err, "comparison by recipe");
    }
    for (uint32_t i = 0; i < n; i++) {
        struct sf_compare_group *g = &out->recipes[i];
        bool is_recipe = i >= SF_OP_KINDS;
        g->kind = is_recipe ? -1 : (int)i;
        g->recipe = is_recipe ? i - SF_OP_KINDS : SF_NONE;
        snprintf(g->name, sizeof g->name, "%s", is_recipe ? prog->recipes[g->recipe].name : sf_op_name((int)i));
    }
    SF_TRY(groups_fill(prog, join, &(struct grouping){group_recipe, n}, out->recipes, err));
    out->recipes_n = groups_finish(out->recipes, n);
    qsort(out->recipes, out->recipes_n, sizeof *out->recipes, recipe_order);
    return 0;
}

static uint64_t distance(sf_time_ps a, sf_time_ps b) {
    return a > b ? (uint64_t)a - (uint64_t)b : (uint64_t)b - (uint64_t)a;
}

static bool gap_before(const struct sf_compare_gap *a, const struct sf_compare_gap *b) {
    uint64_t da = distance(a->predicted, a->measured), db = distance(b->predicted, b->measured);
    if (da != db) {
        return da > db;
    }
    return a->rank != b->rank ? a->rank < b->rank : a->op < b->op;
}

/* Keep the list sorted while it is short: an insertion per candidate that beats the last one. */
static void gap_insert(struct sf_compare *out, uint32_t room, const struct sf_compare_gap *gap) {
    if (gap->predicted == gap->measured) {
        return;
    }
    if (out->gaps_n == room && !gap_before(gap, &out->gaps[room - 1])) {
        return;
    }
    size_t i = out->gaps_n < room ? out->gaps_n++ : room - 1;
    for (; i > 0 && gap_before(gap, &out->gaps[i - 1]); i--) {
        out->gaps[i] = out->gaps[i - 1];
    }
    out->gaps[i] = *gap;
}

static int make_gaps(const struct sf_prog *prog, const struct sfi_join *join, uint32_t room, struct sf_compare *out,
                     struct sf_err *err) {
    if (room == 0) {
        return 0;
    }
    out->gaps = sf_calloc(room, sizeof *out->gaps);
    if (out->gaps == NULL) {
        return sf_fail_memory(err, "largest gaps");
    }
    for (size_t i = 0; i < join->n; i++) {
        const struct sfi_cell *c = &join->cells[i];
        struct sf_compare_gap gap = {.rank = c->rank, .op = c->op, .predicted = c->predicted, .measured = c->measured};
        gap.kind = sfi_op(prog, c->rank, c->op)->kind;
        gap_insert(out, room, &gap);
    }
    for (size_t i = 0; i < out->gaps_n; i++) {
        struct sf_compare_gap *g = &out->gaps[i];
        sf_op_label(prog, sf_prog_class(prog, g->rank), g->op, g->label, sizeof g->label);
    }
    return 0;
}

int sfi_compare_groups(const struct sf_prog *prog, const struct sfi_join *join,
                       const struct sf_compare_options *options, struct sf_compare *out, struct sf_err *err) {
    SF_TRY(make_step(prog, join, out, err));
    SF_TRY(make_kinds(prog, join, options->estimates, out, err));
    SF_TRY(make_recipes(prog, join, out, err));
    return make_gaps(prog, join, options->gaps, out, err);
}
