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

#define REFINE_BATCH 32
#define PASSES_PER_CALL 4 /* as far as time goes */
#define DRAWS 6           /* tables made for one group: which is best, only the whole step says */

void sfi_leave_out(struct sfi_search *s, double bound_s) {
    s->open_s = fmin(s->open_s, bound_s);
}

/* Behind those that a first impression has taken already. */
static void rank(struct sfi_search *s, const struct sfi_candidate *c) {
    struct sfi_ranked *best = &s->best[sfi_ranking(c)];
    struct sfi_candidate *of = best->of;
    if (best->n == s->best_room && sfi_candidate_compare(c, &of[best->n - 1]) >= 0) {
        sfi_leave_out(s, c->least_s);
        return;
    }
    if (best->n == s->best_room) {
        sfi_leave_out(s, of[best->n - 1].least_s);
    }
    size_t at = best->n < s->best_room ? best->n++ : best->n - 1;
    for (; at > best->next && sfi_candidate_compare(c, &of[at - 1]) < 0; at--) {
        of[at] = of[at - 1];
    }
    of[at] = *c;
}

static int keep(struct sfi_search *s, const struct sfi_candidate *c, struct sf_err *err) {
    if (s->found_n == s->found_room) {
        size_t room = s->found_room == 0 ? 16 : 2 * s->found_room;
        struct sfi_candidate *bigger = sf_realloc(s->found, room, sizeof *bigger);
        if (bigger == NULL) {
            return sf_fail_memory(err, "candidates");
        }
        s->found = bigger;
        s->found_room = room;
    }
    s->found[s->found_n++] = *c;
    return 0;
}

static int keep_table(struct sfi_search *s, struct sf_pipe *pipe, struct sf_err *err) {
    struct sf_pipe **bigger = sf_realloc(s->tables, (size_t)s->tables_n + 1, sizeof *bigger);
    if (bigger == NULL) {
        return sf_fail_memory(err, "tables");
    }
    s->tables = bigger;
    s->tables[s->tables_n++] = pipe;
    return 0;
}

int sfi_take_found(struct sfi_search *s, struct sfi_search *from, struct sf_err *err) {
    if (from->made != NULL && from->found_n > 0) {
        SF_TRY(keep_table(s, from->made, err));
        from->made = NULL;
    }
    for (size_t i = 0; i < from->found_n; i++) {
        struct sfi_candidate *c = &from->found[i];
        c->table = c->table > 0 ? (uint16_t)s->tables_n : 0;
        rank(s, c);
    }
    return 0;
}

void sfi_too_large(struct sfi_search *s, const struct sfi_candidate *c) {
    sfi_refuse(s, SFI_RULE_MEMORY);
    s->stats->too_large++;
    if (!(s->least.memory_bytes > 0) || c->memory_bytes < s->least.memory_bytes) {
        s->least = *c;
    }
    bool plain = c->table == 0 && !c->group.partly && c->group.schedule < SF_SCHEDULE_TABLE && c->estimate_s > 0;
    if (plain && (!(s->large.estimate_s > 0) || c->estimate_s < s->large.estimate_s)) {
        s->large = *c;
    }
}

/* With a rank alone there is nothing to share: the same plan as zero 0. */
static bool pointless_zero(const struct sfi_search *s, const struct sfi_at *at) {
    return s->plan.zero >= 1 && at->layout->sharers == 1 && s->space->zero.n > 1 && s->space->zero.value[0] == 0;
}

/* That of the group holds for any zero; with this one the plan can be worse. */
static double bound_of(const struct sfi_search *s, const struct sfi_at *at, const struct sfi_candidate *c) {
    const struct sfi_freedom freedom = sfi_freedom_of(c->group.schedule, c->group.vpp);
    struct sfi_bounded b = sfi_bounded_of(s, at, s->plan.zero);
    b.units = sfi_plan_units(&s->plan);
    return sfi_bound_s(&b, &freedom);
}

/* Layers of every virtual stage that can go to the host. */
static uint32_t most_offload(const struct sfi_search *s) {
    const struct sf_plan *p = &s->plan;
    uint32_t least = p->layers[0];
    for (uint32_t v = 1; v < p->pp * p->vpp; v++) {
        least = p->layers[v] < least ? p->layers[v] : least;
    }
    return s->scenario->pins.offload == 0 ? least : p->offload;
}

/* What is not faster with more layers that recompute: the least time stays that of none. */
static void recompute_some(struct sfi_search *s, const struct sfi_at *at, const struct sfi_replayed *none,
                           struct sfi_estimate *e) {
    struct sfi_replayed r = *none;
    double least_s = e->least_s;
    sfi_again_fit(s, at, &r, e);
    e->least_s = least_s;
    memset(s->plan.recompute_layers, 0, sizeof s->plan.recompute_layers);
}

/* s->plan, which is estimated to take that. */
static int judge(struct sfi_search *s, struct sfi_candidate *c, const struct sfi_at *at, const struct sfi_estimate *e,
                 struct sf_err *err) {
    const double device = sfi_device_bytes(s);
    c->zero = (uint8_t)s->plan.zero;
    c->zero_group = s->plan.zero_group;
    c->offload = s->plan.offload;
    c->estimate_s = sfi_scaled(s, s->number, e->step_s);
    c->least_s = sfi_scaled(s, s->number, fmax(e->least_s, bound_of(s, at, c)));
    c->memory_bytes = e->memory_bytes;
    s->stats->evaluated++;
    if (!(e->memory_bytes > device * MEMORY_SLACK)) {
        return keep(s, c, err);
    }
    sfi_too_large(s, c);
    if (e->memory_bytes < device * MEMORY_PROOF) {
        sfi_leave_out(s, c->least_s);
    }
    return 0;
}

#define MORE_OFFLOADS 2
#define OFFLOADS 8 /* numbers of layers on the host that are tried with others that recompute */

/* Layers that recompute, for several numbers of those that wait on the host: the more there, the fewer recompute, and
 * what copies cost only the whole step says. */
static int price_partly(struct sfi_search *s, struct sfi_candidate *c, const struct sfi_at *at,
                        const struct sfi_replayed *r, struct sf_err *err) {
    uint32_t most = c->group.offload ? most_offload(s) : s->plan.offload, step = most / OFFLOADS + 1;
    int rc = 0;
    for (; s->plan.offload <= most && rc == 0; s->plan.offload += step) {
        struct sfi_estimate e = sfi_estimate_of(&s->base, at->layout, at->price, &s->plan, r);
        bool enough = e.memory_bytes * MEMORY_SLACK < sfi_device_bytes(s);
        if (enough && s->plan.offload == 0) {
            return 0; /* nothing needs to: there is a group of the others' kind alone */
        }
        recompute_some(s, at, r, &e);
        rc = judge(s, c, at, &e, err);
        if (enough) {
            return rc; /* nor with more there; but of this one estimates are less sure */
        }
    }
    return rc;
}

/* As few layers on the host as seem to fit, and some more for what the program may need beside. */
static int price_whole(struct sfi_search *s, struct sfi_candidate *c, const struct sfi_at *at,
                       const struct sfi_replayed *r, struct sf_err *err) {
    struct sfi_estimate e = sfi_estimate_of(&s->base, at->layout, at->price, &s->plan, r);
    uint32_t most = c->group.offload ? most_offload(s) : s->plan.offload;
    while (e.memory_bytes > sfi_device_bytes(s) && s->plan.offload < most) {
        s->plan.offload++;
        e = sfi_estimate_of(&s->base, at->layout, at->price, &s->plan, r);
    }
    int rc = judge(s, c, at, &e, err);
    for (int more = 0; more < MORE_OFFLOADS && s->plan.offload < most && rc == 0; more++) {
        s->plan.offload++;
        e = sfi_estimate_of(&s->base, at->layout, at->price, &s->plan, r);
        rc = judge(s, c, at, &e, err);
    }
    return rc;
}

static int price_zero(struct sfi_search *s, struct sfi_candidate *c, const struct sfi_at *at,
                      const struct sfi_replayed *r, struct sf_err *err) {
    uint32_t before = s->plan.offload;
    bool free_choice = s->plan.partly && s->scenario->pins.recompute_layers == 0;
    int rc = (free_choice ? price_partly : price_whole)(s, c, at, r, err);
    s->plan.offload = before;
    return rc;
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
            rc = price_zero(s, c, &in, r, err);
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
    if (s->scenario->pins.recompute_layers > 0) {
        sfi_again_pinned(s->scenario, &s->plan);
    }
    s->stats->replayed++;
    if (!sfi_replay_plan(&s->base, at->layout, at->price, &s->plan, &r)) {
        sfi_refuse(s, SFI_RULE_SCHEDULE);
        return 0;
    }
    for (uint32_t i = 0; i < s->space->zero.n; i++) {
        s->plan.zero = s->space->zero.value[i];
        if (!pointless_zero(s, at) && (s->plan.zero <= sfi_cut_zero(s, (enum sfi_cut_rule)c->cut))) {
            SF_TRY(price_groups(s, c, at, &r, err));
        }
    }
    return 0;
}

int sfi_refine_plan(struct sfi_search *s, const struct sfi_group *g, const struct sfi_at *at, bool made,
                    struct sf_err *err) {
    uint64_t before = s->stats->too_large;
    for (int rule = 0; rule < SFI_CUTS_N; rule++) {
        struct sfi_candidate c = {.group = *g, .cut = (uint8_t)rule, .table = made};
        if (rule == SFI_CUT_MEMORY && s->stats->too_large == before) {
            continue;
        }
        if (made && rule != SFI_CUT_TIME) {
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
    sfi_stand_on(s, g->number);
    sfi_group_plan(s, g, &s->plan);
    SF_TRY(sfi_find_price(s, &at->price, err));
    return sfi_find_layout(s, &at->layout, err);
}

static int refine(struct sfi_search *s, size_t i, void *items, struct sf_err *err) {
    const struct sfi_group *g = (const struct sfi_group *)items + i;
    struct sfi_at at;
    if (sfi_stopped(s)) {
        sfi_leave_out(s, g->bound_s);
        return 0;
    }
    SF_TRY(stand_at(s, g, &at, err));
    if (g->schedule == SF_SCHEDULE_AUTO) {
        return sfi_refine_auto(s, g, &at, err);
    }
    return sfi_refine_plan(s, g, &at, false, err);
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

uint64_t sfi_passes_of(const struct sfi_search *s, const struct sfi_group *g) {
    const struct sf_job *job = &sfi_number_scenario(s, g->number)->job;
    uint64_t microbatches = job->global_batch_sequences * g->tp * g->cp * g->pp / job->gpus / g->micro_batch;
    microbatches *= g->slices * (g->partly ? 3u : 1u); /* tables for what recomputes, too */
    return microbatches * g->pp * g->vpp * 3 * SFI_CUTS_N * tries_of(g->schedule);
}

/* Nothing behind full lists of better estimates can be simulated, so it need not be priced. */
static bool hopeless(const struct sfi_search *s, const struct sfi_group *g) {
    for (uint32_t i = 0; i < s->space->zero.n; i++) {
        const struct sfi_candidate of = {.zero = (uint8_t)s->space->zero.value[i], .group = *g};
        const struct sfi_ranked *best = &s->best[sfi_ranking(&of)];
        if (best->n < s->best_room || g->bound_s < best->of[best->n - 1].estimate_s) {
            return false;
        }
    }
    return true;
}

/* Groups that cost more than is left are passed over, for later ones may cost less. */
static bool take(struct sfi_search *s, const struct sfi_group *g) {
    uint64_t passes = sfi_passes_of(s, g);
    bool made = g->schedule == SF_SCHEDULE_AUTO;
    if (s->stats->stopped || hopeless(s, g) || passes > s->effort.passes ||
        (made ? s->effort.tables : s->effort.replays) == 0) {
        return false;
    }
    s->effort.passes -= passes;
    sfi_work(s, passes / PASSES_PER_CALL);
    s->effort.tables -= made ? 1 : 0;
    s->effort.replays -= made ? 0 : 1;
    return true;
}

/* Whom to take is decided for a batch of groups at a time, however many threads there are. */
int sfi_search_refine(struct sfi_search *s, struct sf_err *err) {
    struct sfi_group batch[REFINE_BATCH];
    double all = s->effort.replays;
    for (size_t i = 0; i < s->groups_n;) {
        size_t n = 0;
        for (; i < s->groups_n && n + DRAWS <= REFINE_BATCH; i++) {
            struct sfi_group *g = &s->groups[i];
            if (g->looked || (s->probing && g->number != s->number)) {
                continue;
            }
            g->looked = take(s, g);
            if (!g->looked) {
                continue;
            }
            uint8_t draws = s->groups[i].schedule == SF_SCHEDULE_AUTO && !s->options->quick ? DRAWS : 1;
            for (uint8_t draw = 0; draw < draws; draw++) {
                batch[n] = s->groups[i];
                batch[n++].draw = draw;
            }
        }
        SF_TRY(sfi_search_share(s, n, refine, batch, err));
        s->done = fmax(s->done, SFI_DONE_REFINED - (SFI_DONE_REFINED - SFI_DONE_VISITED) * s->effort.replays / all);
        sfi_stopped(s);
    }
    return s->probing ? 0 : sfi_search_tighten(s, err);
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
    sfi_stand_back(s);
    return 0;
}
