/* From groups to candidates: the most promising groups are cut and priced by replaying their tables, once for all
 * values of zero. */
#include <math.h>
#include <string.h>

#include "core/arena.h"
#include "planner/compile.h"
#include "planner/search_internal.h"

/* The estimate of memory is not exact: what misses by less is left for compile to decide. */
#define MEMORY_SLACK 1.02
/* What misses by more than this cannot fit: rounding, buffers and the order of passes change less. */
#define MEMORY_PROOF 1.25

void sfi_leave_out(struct sfi_search *s, double bound_s) {
    s->open_s = fmin(s->open_s, bound_s);
}

static void keep(struct sfi_search *s, const struct sfi_candidate *c) {
    if (s->best_n == s->best_room && sfi_candidate_compare(c, &s->best[s->best_n - 1]) >= 0) {
        sfi_leave_out(s, c->least_s);
        return;
    }
    if (s->best_n == s->best_room) {
        sfi_leave_out(s, s->best[s->best_n - 1].least_s);
    }
    size_t at = s->best_n < s->best_room ? s->best_n++ : s->best_n - 1;
    for (; at > 0 && sfi_candidate_compare(c, &s->best[at - 1]) < 0; at--) {
        s->best[at] = s->best[at - 1];
    }
    s->best[at] = *c;
}

void sfi_too_large(struct sfi_search *s, const struct sfi_candidate *c) {
    sfi_refuse(s, SFI_RULE_MEMORY);
    s->stats->too_large++;
    if (!(s->least.memory_bytes > 0) || c->memory_bytes < s->least.memory_bytes) {
        s->least = *c;
    }
    bool plain = c->table == 0 && c->group.schedule < SF_SCHEDULE_TABLE && c->estimate_s > 0;
    if (plain && (!(s->large.estimate_s > 0) || c->estimate_s < s->large.estimate_s)) {
        s->large = *c;
    }
}

/* With a rank alone there is nothing to share: the same plan as zero 0. */
static bool pointless_zero(const struct sfi_search *s, const struct sfi_at *at) {
    return s->plan.zero >= 1 && at->layout->sharers == 1 && s->space.zero.n > 1 && s->space.zero.value[0] == 0;
}

/* That of the group holds for any zero; with this one the plan can be worse. */
static double bound_of(const struct sfi_search *s, const struct sfi_at *at, const struct sfi_candidate *c) {
    const struct sfi_freedom freedom = sfi_freedom_of(c->group.schedule, c->group.vpp);
    struct sfi_bounded b = sfi_bounded_of(s, at, s->plan.zero);
    b.units = sfi_plan_units(&s->plan);
    return sfi_bound_s(&b, &freedom);
}

/* Every virtual stage has another layer that can go. */
static bool can_offload_more(const struct sfi_search *s) {
    const struct sf_plan *p = &s->plan;
    uint32_t least = p->layers[0];
    for (uint32_t v = 1; v < p->pp * p->vpp; v++) {
        least = p->layers[v] < least ? p->layers[v] : least;
    }
    return s->scenario->pins.offload == 0 && p->offload < least;
}

static void price_zero(struct sfi_search *s, struct sfi_candidate *c, const struct sfi_at *at,
                       const struct sfi_replayed *r) {
    const double device = sfi_device_bytes(s);
    struct sfi_estimate e = sfi_estimate_of(&s->base, at->layout, at->price, &s->plan, r);
    while (c->group.offload && e.memory_bytes > device && can_offload_more(s)) {
        s->plan.offload++;
        e = sfi_estimate_of(&s->base, at->layout, at->price, &s->plan, r);
    }
    c->zero = (uint8_t)s->plan.zero;
    c->zero_group = s->plan.zero_group;
    c->offload = s->plan.offload;
    c->estimate_s = e.step_s;
    c->least_s = fmax(e.least_s, bound_of(s, at, c));
    c->memory_bytes = e.memory_bytes;
    s->stats->evaluated++;
    if (e.memory_bytes > device * MEMORY_SLACK) {
        sfi_too_large(s, c);
        if (e.memory_bytes < device * MEMORY_PROOF) {
            sfi_leave_out(s, c->least_s);
        }
    } else {
        keep(s, c);
    }
    s->plan.offload = c->group.offload && s->scenario->pins.offload == 0 ? 1 : s->scenario->pins.offload;
}

static bool zero_fits(const struct sfi_search *s) {
    const struct sf_plan *p = &s->plan;
    return (p->zero < 2 || (sf_plan_slices(p) == 1 && !p->split_head)) && sf_zero_check(s->scenario, p, NULL) == 0;
}

/* One value of zero in all groups that share it. */
static int price_groups(struct sfi_search *s, struct sfi_candidate *c, const struct sfi_at *at,
                        const struct sfi_replayed *r, struct sf_err *err) {
    uint32_t groups[SFI_MOST_GROUPS], n = s->plan.zero > 0 ? sfi_zero_groups(s, at->layout, groups) : 1;
    int rc = 0;
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        struct sfi_at in = *at;
        s->plan.zero_group = s->plan.zero > 0 ? groups[i] : 0;
        rc = sfi_find_layout(s, &in.layout, err);
        if (rc == 0 && zero_fits(s)) {
            price_zero(s, c, &in, r);
        } else {
            sfi_refuse(s, SFI_RULE_ZERO);
        }
    }
    s->plan.zero_group = 0;
    return rc;
}

/* All values of zero for one table and cut. */
static int price_cut(struct sfi_search *s, struct sfi_candidate *c, const struct sfi_at *at, struct sf_err *err) {
    struct sfi_replayed r;
    s->stats->replayed++;
    if (!sfi_replay_plan(&s->base, at->layout, at->price, &s->plan, &r)) {
        sfi_refuse(s, SFI_RULE_SCHEDULE);
        return 0;
    }
    for (uint32_t i = 0; i < s->space.zero.n; i++) {
        s->plan.zero = s->space.zero.value[i];
        if (!pointless_zero(s, at) && (s->plan.zero <= sfi_cut_zero(s, (enum sfi_cut_rule)c->cut))) {
            SF_TRY(price_groups(s, c, at, &r, err));
        }
    }
    return 0;
}

int sfi_refine_plan(struct sfi_search *s, const struct sfi_group *g, const struct sfi_at *at, uint32_t table,
                    struct sf_err *err) {
    uint64_t before = s->stats->too_large;
    for (int rule = 0; rule < SFI_CUTS_N; rule++) {
        struct sfi_candidate c = {.group = *g, .cut = (uint8_t)rule, .table = (uint16_t)table};
        if (rule == SFI_CUT_MEMORY && s->stats->too_large == before) {
            continue;
        }
        if (table > 0 && rule != SFI_CUT_TIME) {
            continue; /* the table was made for that cut */
        }
        s->plan.zero = sfi_cut_zero(s, (enum sfi_cut_rule)rule);
        if (sfi_cut_layers(s, at, (enum sfi_cut_rule)rule, &s->plan)) {
            SF_TRY(price_cut(s, &c, at, err));
        }
    }
    return 0;
}

static int stand_at(struct sfi_search *s, const struct sfi_group *g, struct sfi_at *at, struct sf_err *err) {
    sfi_group_plan(s, g, &s->plan);
    SF_TRY(sfi_find_price(s, &at->price, err));
    return sfi_find_layout(s, &at->layout, err);
}

static int refine(struct sfi_search *s, const struct sfi_group *g, struct sf_err *err) {
    struct sfi_at at;
    SF_TRY(stand_at(s, g, &at, err));
    if (g->schedule == SF_SCHEDULE_AUTO) {
        return sfi_refine_auto(s, g, &at, err);
    }
    return sfi_refine_plan(s, g, &at, 0, err);
}

/* Families that try many orders before they settle for one. */
static uint64_t tries_of(uint32_t schedule) {
    switch (schedule) {
    case SF_SCHEDULE_V_HALF:
    case SF_SCHEDULE_V_MIN:
    case SF_SCHEDULE_1F1B_V:
        return 400;
    case SF_SCHEDULE_ZB_1P:
    case SF_SCHEDULE_ZB_2P:
    case SF_SCHEDULE_ZB_V:
        return 8;
    default:
        return 1;
    }
}

static uint64_t passes_of(const struct sfi_search *s, const struct sfi_group *g) {
    uint64_t microbatches =
        s->scenario->job.global_batch_sequences * g->tp * g->cp * g->pp / s->scenario->job.gpus / g->micro_batch;
    microbatches *= g->slices;
    return microbatches * g->pp * g->vpp * 3 * SFI_CUTS_N * tries_of(g->schedule);
}

/* Nothing behind a full list of better estimates can be simulated, so it need not be priced. */
static bool hopeless(const struct sfi_search *s, const struct sfi_group *g) {
    return s->best_n == s->best_room && g->bound_s >= s->best[s->best_n - 1].estimate_s;
}

/* Groups that cost more than is left are passed over, for later ones may cost less. */
static bool take(struct sfi_search *s, const struct sfi_group *g) {
    uint64_t passes = passes_of(s, g);
    bool made = g->schedule == SF_SCHEDULE_AUTO;
    if (s->stats->stopped || hopeless(s, g) || passes > s->effort.passes ||
        (made ? s->effort.tables : s->effort.replays) == 0) {
        return false;
    }
    s->effort.passes -= passes;
    s->effort.tables -= made ? 1 : 0;
    s->effort.replays -= made ? 0 : 1;
    return true;
}

int sfi_search_refine(struct sfi_search *s, struct sf_err *err) {
    for (size_t i = 0; i < s->groups_n; i++) {
        const struct sfi_group *g = &s->groups[i];
        if (!take(s, g)) {
            sfi_leave_out(s, g->bound_s);
            continue;
        }
        SF_TRY(refine(s, g, err));
        s->stats->stopped = s->options->stop != NULL && s->options->stop(s->options->self);
    }
    return 0;
}

int sfi_candidate_plan(struct sfi_search *s, const struct sfi_candidate *c, struct sf_plan *out, struct sf_err *err) {
    struct sfi_at at;
    SF_TRY(stand_at(s, &c->group, &at, err));
    if (c->table > 0) {
        s->plan.schedule = SF_SCHEDULE_TABLE;
        s->plan.table = s->tables[c->table - 1];
    }
    s->plan.zero = sfi_cut_zero(s, (enum sfi_cut_rule)c->cut);
    sfi_cut_layers(s, &at, (enum sfi_cut_rule)c->cut, &s->plan);
    *out = s->plan;
    out->zero = c->zero;
    out->zero_group = c->zero_group;
    out->offload = c->offload;
    return 0;
}
