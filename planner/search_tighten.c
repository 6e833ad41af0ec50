/* The gap is set by the weakest bound of what was not looked at. So the groups that were passed over are taken up once
 * more, weakest bounds first: each is bounded anew for the cuts that the rules make of it, and those that are still
 * weak have their tables replayed, until what is next is no weaker than what is settled, or effort has run out. Nothing
 * is simulated for it, and no answer changes. */
#include <math.h>
#include <stdlib.h>

#include "core/arena.h"
#include "planner/search_internal.h"

#define CUT_BATCH 64
#define REPLAY_BATCH 32
#define MOST_CUTS 20000 /* groups that are bounded anew */

struct queue {
    struct sfi_group *of;
    size_t n;
};

/* Weakest first; equal ones by degrees. */
static int by_bound(const void *left, const void *right) {
    const struct sfi_group *a = left, *b = right;
    return a->bound_s < b->bound_s ? -1 : a->bound_s > b->bound_s ? 1 : sfi_group_compare(left, right);
}

static int stand_at(struct sfi_search *s, const struct sfi_group *g, struct sfi_at *at, struct sf_err *err) {
    sfi_stand_on(s, g->number);
    sfi_group_plan(s, g, &s->plan);
    SF_TRY(sfi_find_price(s, &at->price, err));
    return sfi_find_layout(s, &at->layout, err);
}

/* Of s->plan, or with `cut` of its layers: the weakest of all values of zero up to its own, in all groups that can
 * share. */
static int bound_zeros(struct sfi_search *s, const struct sfi_at *at, const struct sfi_freedom *freedom, bool cut,
                       double *least_s, struct sf_err *err) {
    uint32_t groups[SFI_MOST_GROUPS], n = sfi_zero_groups(s, at->layout, groups);
    for (uint32_t i = 0; i < s->space->zero.n * n; i++) {
        uint32_t zero = s->space->zero.value[i / n];
        struct sfi_at in = *at;
        if ((zero == 0 && i % n > 0) || zero > s->plan.zero) {
            continue;
        }
        s->plan.zero_group = zero > 0 ? groups[i % n] : 0;
        SF_TRY(sfi_find_layout(s, &in.layout, err));
        struct sfi_bounded b = sfi_bounded_of(s, &in, zero);
        b.units = cut ? sfi_plan_units(&s->plan) : 1;
        *least_s = cut ? sfi_bound_cut_s(&b, freedom, &s->scenario->model, &s->plan, *least_s)
                       : sfi_bound_within_s(&b, freedom, *least_s);
    }
    s->plan.zero_group = 0;
    return 0;
}

/* Tables are made for the cut by time alone. That for memory takes long to find, so for its values of zero any cut is
 * bounded. Where some layers recompute, the cut follows from more than the group. */
static int tighten(struct sfi_search *s, struct sfi_group *g, struct sf_err *err) {
    const struct sfi_freedom freedom = sfi_freedom_of(g->schedule, g->vpp);
    bool made = g->schedule == SF_SCHEDULE_AUTO;
    double least_s = INFINITY;
    struct sfi_at at;
    if (g->schedule == SF_SCHEDULE_TABLE || g->partly) {
        return 0;
    }
    SF_TRY(stand_at(s, g, &at, err));
    if (!made) {
        s->plan.zero = sfi_cut_zero(s, SFI_CUT_MEMORY);
        SF_TRY(bound_zeros(s, &at, &freedom, false, &least_s, err));
    }
    for (int rule = 0; rule <= (made ? SFI_CUT_TIME : SFI_CUT_EVEN); rule++) {
        sfi_group_plan(s, g, &s->plan);
        s->plan.schedule = made ? SF_SCHEDULE_TABLE : s->plan.schedule;
        s->plan.zero = sfi_cut_zero(s, (enum sfi_cut_rule)rule);
        if (sfi_cut_layers(s, &at, (enum sfi_cut_rule)rule, &s->plan)) {
            SF_TRY(bound_zeros(s, &at, &freedom, true, &least_s, err));
        }
    }
    g->bound_s = fmax(g->bound_s, sfi_scaled(s, g->number, least_s));
    return 0;
}

static int tighten_batch(struct sfi_search *s, size_t i, void *items, struct sf_err *err) {
    const struct queue *q = items;
    size_t to = (i + 1) * CUT_BATCH < q->n ? (i + 1) * CUT_BATCH : q->n;
    int rc = 0;
    for (size_t k = i * CUT_BATCH; k < to && rc == 0 && !sfi_stopped(s); k++) {
        rc = tighten(s, &q->of[k], err);
    }
    sfi_stand_back(s);
    return rc;
}

/* The candidates that its tables give are not ranked: they were passed over for their guesses. */
static int settle(struct sfi_search *s, size_t i, void *items, struct sf_err *err) {
    struct queue *q = items;
    struct sfi_at at;
    if (sfi_stopped(s)) {
        sfi_leave_out(s, q->of[i].bound_s);
        return 0;
    }
    SF_TRY(stand_at(s, &q->of[i], &at, err));
    SF_TRY(sfi_refine_plan(s, &q->of[i], &at, false, err));
    for (size_t k = 0; k < s->found_n; k++) {
        sfi_leave_out(s, fmax(s->found[k].least_s, q->of[i].bound_s));
    }
    s->found_n = 0;
    return 0;
}

/* The best step that is expected: what is slower has no say in the gap. */
static double expected_s(const struct sfi_search *s) {
    double best = INFINITY;
    for (uint32_t i = 0; i < SFI_RANKINGS; i++) {
        best = s->best[i].n > 0 ? fmin(best, s->best[i].of[0].estimate_s) : best;
    }
    return best;
}

static bool can_replay(struct sfi_search *s, const struct sfi_group *g) {
    uint64_t passes = sfi_passes_of(s, g);
    if (g->schedule == SF_SCHEDULE_AUTO || g->schedule == SF_SCHEDULE_TABLE || passes > s->effort.proof_passes) {
        return false;
    }
    s->effort.proof_passes -= passes;
    return true;
}

/* Settles those that are weaker than all that is known, weakest first. */
static int settle_weakest(struct sfi_search *s, struct queue *q, struct sf_err *err) {
    struct queue batch = {.of = q->of};
    for (size_t i = 0; i < q->n; i += batch.n) {
        batch.of = q->of + i;
        batch.n = 0;
        while (i + batch.n < q->n && batch.n < REPLAY_BATCH && batch.of[batch.n].bound_s < s->open_s &&
               can_replay(s, &batch.of[batch.n])) {
            batch.n++;
        }
        if (batch.n == 0) {
            sfi_leave_out(s, q->of[i].bound_s); /* the weakest of all that remain */
            return 0;
        }
        SF_TRY(sfi_search_share(s, batch.n, settle, &batch, err));
        sfi_stopped(s);
    }
    return 0;
}

static int tighten_all(struct sfi_search *s, struct queue *q, struct sf_err *err) {
    size_t all = q->n;
    qsort(q->of, all, sizeof *q->of, by_bound);
    q->n = all < MOST_CUTS ? all : MOST_CUTS;
    size_t batches = (q->n + CUT_BATCH - 1) / CUT_BATCH;
    if (q->n < all) {
        sfi_leave_out(s, q->of[q->n].bound_s);
    }
    SF_TRY(sfi_search_share(s, batches, tighten_batch, q, err));
    qsort(q->of, q->n, sizeof *q->of, by_bound);
    return settle_weakest(s, q, err);
}

int sfi_search_tighten(struct sfi_search *s, struct sf_err *err) {
    double most_s = expected_s(s);
    struct queue q = {.of = sf_calloc(s->groups_n > 0 ? s->groups_n : 1, sizeof *q.of)};
    if (q.of == NULL) {
        return sf_fail_memory(err, "the groups of a search");
    }
    for (size_t i = 0; i < s->groups_n; i++) {
        const struct sfi_group *g = &s->groups[i];
        if (!g->looked && s->effort.proof_passes > 0 && g->bound_s < most_s) {
            q.of[q.n++] = *g;
        } else if (!g->looked) {
            sfi_leave_out(s, g->bound_s);
        }
    }
    int rc = q.n > 0 ? tighten_all(s, &q, err) : 0;
    sf_free(q.of);
    return rc;
}
