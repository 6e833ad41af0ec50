/* Visiting the space, one choice per level, so that a rule cuts off everything below it at once. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "core/rng.h"
#include "planner/compile.h"
#include "planner/schedule.h"
#include "planner/search_internal.h"
#include "sim/seats.h"

#define FIRST_GROUPS 256
#define MOST_GROUPS ((size_t)1 << 23)
#define GROUP_CALLS 4 /* that bounding a group takes as long as */
#define MOST_CHUNKS 8 /* told apart in bounds */
#define AUTO_CHUNKS 4 /* of the synthesiser, per rank */

double sfi_device_bytes(const struct sfi_search *s) {
    return (double)sf_scenario_memory(s->scenario);
}

/* What does not fit is refused when it is compiled. */
double sfi_reach_bytes(const struct sfi_search *s) {
    return sfi_device_bytes(s) + (s->plan.offload > 0 ? (double)sf_seats_host_memory(s->scenario->topo) : 0);
}

static bool is_power_of_two(uint32_t v) {
    return (v & (v - 1)) == 0;
}

static int compare_u32(uint32_t a, uint32_t b) {
    return a < b ? -1 : a > b;
}

static int compare_f64(double a, double b) {
    return a < b ? -1 : a > b;
}

/* Equal guesses are ordered by degrees, so that the result never depends on the order of visits. */
int sfi_group_compare(const void *left, const void *right) {
    const struct sfi_group *a = left, *b = right;
    const uint32_t x[] = {a->tp,         a->cp,       a->ep,     a->pp,     a->vpp,    a->micro_batch,
                          a->recompute,  a->schedule, a->etp,    a->slices, a->gather, a->whole_rows,
                          a->split_head, a->offload,  a->partly, a->rest,   a->draw,   a->number};
    const uint32_t y[] = {b->tp,         b->cp,       b->ep,     b->pp,     b->vpp,    b->micro_batch,
                          b->recompute,  b->schedule, b->etp,    b->slices, b->gather, b->whole_rows,
                          b->split_head, b->offload,  b->partly, b->rest,   b->draw,   b->number};
    int order = compare_f64(a->guess_s, b->guess_s);
    for (size_t i = 0; i < sizeof x / sizeof x[0] && order == 0; i++) {
        order = compare_u32(x[i], y[i]);
    }
    return order;
}

int sfi_candidate_compare(const struct sfi_candidate *a, const struct sfi_candidate *b) {
    int order = compare_f64(a->estimate_s, b->estimate_s);
    order = order != 0 ? order : compare_f64(a->memory_bytes, b->memory_bytes);
    order = order != 0 ? order : sfi_group_compare(&a->group, &b->group);
    order = order != 0 ? order : compare_u32(a->cut, b->cut);
    order = order != 0 ? order : compare_u32(a->zero, b->zero);
    order = order != 0 ? order : compare_u32(a->zero_group, b->zero_group);
    return order != 0 ? order : compare_u32(a->offload, b->offload);
}

uint32_t sfi_zero_groups(const struct sfi_search *s, const struct sfi_layout *l, uint32_t out[SFI_MOST_GROUPS]) {
    uint32_t n = 0, inner = sfi_shared(l->cp, l->experts);
    for (uint32_t i = 0; i < s->space->zero_group.n && n < SFI_MOST_GROUPS; i++) {
        uint32_t g = s->space->zero_group.value[i];
        bool inside = g > inner && g < l->sharers && l->sharers % g == 0 && g % inner == 0 &&
                      l->ranks_per_domain % ((uint64_t)g * l->tp) == 0;
        if (g == 0 || inside) {
            out[n++] = g;
        }
    }
    return n;
}

/* ---- levels ------------------------------------------------------------------------------------------------------ */

static struct sfi_group group_of(const struct sf_plan *p, double guess_s, double bound_s) {
    return (struct sfi_group){.guess_s = guess_s,
                              .bound_s = bound_s,
                              .tp = p->tp,
                              .cp = p->cp,
                              .ep = p->ep,
                              .pp = p->pp,
                              .vpp = p->vpp,
                              .micro_batch = p->micro_batch,
                              .schedule = (uint8_t)p->schedule,
                              .recompute = (uint8_t)p->recompute,
                              .etp = sf_plan_etp(p) < p->tp,
                              .slices = (uint8_t)sf_plan_slices(p),
                              .gather = p->cp_gather,
                              .whole_rows = p->whole_rows,
                              .split_head = p->split_head,
                              .offload = p->offload > 0,
                              .partly = p->partly,
                              .rest = (uint8_t)p->recompute_rest};
}

int sfi_add_groups(struct sfi_search *s, const struct sfi_group *groups, size_t n, struct sf_err *err) {
    if (s->groups_n + n > s->groups_room) {
        size_t room = s->groups_room == 0 ? FIRST_GROUPS : 2 * s->groups_room;
        room = room < s->groups_n + n ? s->groups_n + n : room;
        struct sfi_group *bigger = room > MOST_GROUPS ? NULL : sf_realloc(s->groups, room, sizeof *bigger);
        if (bigger == NULL) {
            return sf_fail_memory(err, "the groups of a search");
        }
        s->groups = bigger;
        s->groups_room = room;
    }
    if (n > 0) {
        memcpy(s->groups + s->groups_n, groups, n * sizeof *groups);
        s->groups_n += n;
    }
    return 0;
}

static int keep_group(struct sfi_search *s, const struct sfi_guess *guess, double bound_s, struct sf_err *err) {
    sfi_work(s, GROUP_CALLS);
    double guess_s = sfi_scaled(s, s->number, guess->step_s);
    struct sfi_candidate c = {.group = group_of(&s->plan, guess_s, sfi_scaled(s, s->number, bound_s)),
                              .memory_bytes = guess->least_bytes};
    c.group.number = (uint8_t)s->number;
    if (s->enough_s > 0 && c.group.bound_s >= s->enough_s) {
        s->beaten++;
        sfi_leave_out(s, c.group.bound_s);
        return 0;
    }
    if (guess->least_bytes > sfi_reach_bytes(s)) {
        c.zero = (uint8_t)s->space->zero.value[s->space->zero.n - 1];
        sfi_too_large(s, &c);
        return 0;
    }
    return sfi_add_groups(s, &c.group, 1, err);
}

static bool variant_fits(const struct sf_plan *p) {
    bool alone = sf_plan_cp(p) == 1 && sf_plan_slices(p) == 1 && p->offload == 0;
    return !p->split_head || (p->schedule == SF_SCHEDULE_1F1B && alone && p->pp > 1 && p->pp <= SF_MAX_STAGES / 2);
}

static bool schedule_fits(const struct sf_plan *p) {
    if (!variant_fits(p) || (sf_plan_slices(p) > 1 && p->schedule == SF_SCHEDULE_AUTO)) {
        return false;
    }
    bool whole = !sfi_freedom_of((uint32_t)p->schedule, p->vpp).split;
    bool halves = sfi_can_split(p->recompute) && sfi_can_split(p->recompute_rest);
    if (!halves && !whole && p->schedule != SF_SCHEDULE_TABLE) {
        return false;
    }
    if (p->schedule == SF_SCHEDULE_AUTO) {
        return p->pp > 1 && p->vpp <= AUTO_CHUNKS;
    }
    return sf_schedule_check(p, NULL) == 0;
}

/* Where one rank does everything, or there is one microbatch, orders differ in what they keep alone. */
static bool same_as_1f1b(const struct sf_plan *p) {
    bool none = p->schedule == SF_SCHEDULE_GPIPE ? p->pp == 1 || p->microbatches == 1 : p->pp == 1;
    return none && p->schedule != SF_SCHEDULE_1F1B && p->schedule != SF_SCHEDULE_TABLE;
}

/* Bounds of one set of degrees, by what they depend on, and its layouts: of all ranks and of groups that share. */
struct bounds {
    double of[2][2][2][2][MOST_CHUNKS + 1]; /* offload, split head, ways, split, chunks; 0: not known yet */
    const struct sfi_layout *layouts[SFI_MOST_GROUPS];
    uint32_t layouts_n;
};

static int find_layouts(struct sfi_search *s, const struct sfi_layout *all, struct bounds *out, struct sf_err *err) {
    uint32_t groups[SFI_MOST_GROUPS], n = sfi_zero_groups(s, all, groups);
    for (uint32_t i = 0; i < n; i++) {
        s->plan.zero_group = groups[i];
        SF_TRY(sfi_find_layout(s, &out->layouts[i], err));
    }
    s->plan.zero_group = 0;
    out->layouts_n = n;
    return 0;
}

/* The best that any value of zero allows, in any groups. */
static double group_bound(const struct sfi_search *s, const struct sfi_at *at, const struct bounds *known,
                          const struct sfi_freedom *freedom) {
    double least = INFINITY;
    uint32_t units = s->plan.vpp < MOST_CHUNKS ? sfi_least_units(s, at->price) : 1;
    for (uint32_t i = 0; i < s->space->zero.n; i++) {
        uint32_t zero = s->space->zero.value[i];
        for (uint32_t k = 0; k < (zero > 0 ? known->layouts_n : 1); k++) {
            const struct sfi_at in = {at->price, known->layouts[k]};
            struct sfi_bounded b = sfi_bounded_of(s, &in, zero);
            b.units = units;
            if (zero < 2 || freedom->ways == 1) {
                least = sfi_bound_within_s(&b, freedom, least);
            }
        }
    }
    return least;
}

static double bound_of(const struct sfi_search *s, const struct sfi_at *at, struct bounds *bounds) {
    struct sfi_freedom f = sfi_freedom_of((uint32_t)s->plan.schedule, s->plan.vpp);
    f.chunks = f.chunks < MOST_CHUNKS ? f.chunks : 1u << 20; /* the more the less is proven */
    f.chunks_least = f.chunks_least < MOST_CHUNKS ? f.chunks_least : MOST_CHUNKS;
    double *known = &bounds->of[s->plan.offload > 0][s->plan.split_head][f.ways - 1][f.split]
                               [f.chunks < MOST_CHUNKS ? f.chunks : MOST_CHUNKS];
    *known = *known > 0 ? *known : group_bound(s, at, bounds, &f);
    return *known;
}

static bool pins_fit(const struct sfi_search *s, const struct sf_plan *p) {
    const struct sf_pins *pins = &s->scenario->pins;
    uint64_t stages = (uint64_t)p->pp * p->vpp;
    return (pins->layout.stages == 0 || pins->layout.stages == stages) &&
           stages * pins->offload <= s->scenario->model.layers;
}

/* Copies to the host can only cost time, so they are for what is not sure to fit without: a rough guess is more than
 * half of what there is. */
static bool may_need_offload(const struct sfi_search *s, const struct sfi_guess *without) {
    const struct sf_plan *p = &s->plan;
    return s->space->offload.n > 1 && sf_schedule_copies(p) == 1 && p->schedule <= SF_SCHEDULE_TABLE &&
           !p->split_head && without->bytes > sfi_device_bytes(s) / 2;
}

/* Plans of this kind of recomputation for the first layers of every virtual stage and another for the others. */
struct mix {
    int recompute, rest;
    struct sfi_at at;
    struct bounds bounds;
};

struct mixes {
    uint32_t n;
    struct mix of[SF_RECOMPUTES_N * SF_RECOMPUTES_N];
};

/* What recomputes more keeps less, and takes longer. */
static bool is_mix(int recompute, int rest) {
    return recompute != rest && (rest == SF_RECOMPUTE_NONE || recompute == SF_RECOMPUTE_FULL);
}

static int add_mix(struct sfi_search *s, int recompute, int rest, struct mixes *out, struct sf_err *err) {
    struct mix *m = &out->of[out->n];
    *m = (struct mix){.recompute = recompute, .rest = rest};
    s->plan.recompute = recompute;
    s->plan.recompute_rest = rest;
    s->plan.partly = true;
    int rc = sfi_find_price(s, &m->at.price, err);
    rc = rc == 0 ? sfi_find_layout(s, &m->at.layout, err) : rc;
    rc = rc == 0 ? find_layouts(s, m->at.layout, &m->bounds, err) : rc;
    s->plan.partly = false;
    s->plan.recompute_rest = SF_RECOMPUTE_NONE;
    out->n += rc == 0 && m->at.price != NULL;
    return rc;
}

/* With all activations on the device, and with some on the host. */
static int keep_mix(struct sfi_search *s, struct mix *m, struct sf_err *err) {
    const struct sfi_guess guess = sfi_guess(s, &m->at);
    int rc = keep_group(s, &guess, bound_of(s, &m->at, &m->bounds), err);
    if (rc == 0 && may_need_offload(s, &guess)) {
        s->plan.offload = 1;
        const struct sfi_guess with = sfi_guess(s, &m->at);
        rc = keep_group(s, &with, bound_of(s, &m->at, &m->bounds), err);
        s->plan.offload = 0;
    }
    return rc;
}

/* Recomputing can only cost time, so it is for layers of plans that are not sure to fit without, as the host is. */
static int keep_mixes(struct sfi_search *s, struct mixes *mixes, const struct sfi_guess *without, struct sf_err *err) {
    int kind = s->plan.recompute, rc = 0;
    bool needed = without->bytes > sfi_device_bytes(s) / 2 || s->scenario->pins.recompute_layers > 0;
    for (uint32_t i = 0; i < mixes->n && rc == 0 && needed; i++) {
        struct mix *m = &mixes->of[i];
        s->plan.recompute = m->recompute;
        s->plan.recompute_rest = m->rest;
        s->plan.partly = true;
        if ((m->rest == kind || s->scenario->pins.recompute_layers > 0) && schedule_fits(&s->plan)) {
            rc = keep_mix(s, m, err);
        }
    }
    s->plan.recompute = kind;
    s->plan.recompute_rest = SF_RECOMPUTE_NONE;
    s->plan.partly = false;
    return rc;
}

static int keep_groups(struct sfi_search *s, const struct sfi_at *at, struct bounds *bounds, struct mixes *mixes,
                       struct sf_err *err) {
    const struct sfi_guess guess = sfi_guess(s, at);
    if (s->scenario->pins.recompute_layers == 0) {
        SF_TRY(keep_group(s, &guess, bound_of(s, at, bounds), err));
    }
    SF_TRY(keep_mixes(s, mixes, &guess, err));
    if (s->scenario->pins.recompute_layers == 0 && may_need_offload(s, &guess)) {
        s->plan.offload = 1;
        struct sfi_guess with = sfi_guess(s, at);
        int rc = keep_group(s, &with, bound_of(s, at, bounds), err);
        s->plan.offload = 0;
        return rc;
    }
    return 0;
}

static int visit_vpp(struct sfi_search *s, const struct sfi_at *at, struct bounds *bounds, struct mixes *mixes,
                     struct sf_err *err) {
    struct sf_plan *p = &s->plan;
    if (same_as_1f1b(p) && sfi_pin_allows(&s->scenario->pins.schedule, SF_SCHEDULE_1F1B)) {
        return 0;
    }
    for (uint32_t i = 0; i < s->space->vpp.n; i++) {
        p->vpp = s->space->vpp.value[i];
        if ((uint64_t)p->pp * p->vpp > s->scenario->model.layers || p->pp * p->vpp > SF_MAX_STAGES) {
            sfi_refuse(s, SFI_RULE_SCHEDULE);
            break; /* larger ones even more so */
        }
        if (!pins_fit(s, p) || !schedule_fits(p)) {
            sfi_refuse(s, SFI_RULE_SCHEDULE);
            continue;
        }
        SF_TRY(keep_groups(s, at, bounds, mixes, err));
    }
    return 0;
}

static int visit_schedules(struct sfi_search *s, const struct sfi_at *at, struct bounds *bounds, struct mixes *mixes,
                           struct sf_err *err) {
    struct sf_plan *p = &s->plan;
    for (uint32_t k = 0; k < s->space->schedule.n; k++) {
        p->schedule = (int)s->space->schedule.value[k];
        p->table = p->schedule == SF_SCHEDULE_TABLE ? s->scenario->pins.table : NULL;
        for (uint32_t i = 0; i < s->space->split_head.n; i++) {
            p->split_head = s->space->split_head.value[i] > 0;
            if (!p->split_head || (variant_fits(p) && s->scenario->model.vocab % ((uint64_t)p->pp * p->tp) == 0)) {
                SF_TRY(visit_vpp(s, at, bounds, mixes, err));
            } else {
                sfi_refuse(s, SFI_RULE_SPLIT_HEAD);
            }
        }
        p->split_head = false;
    }
    return 0;
}

static int find_mixes(struct sfi_search *s, struct mixes *out, struct sf_err *err) {
    const struct sfi_values *kinds = &s->space->recompute;
    const struct sf_pins *pins = &s->scenario->pins;
    uint32_t n = s->space->again.n > 1 ? kinds->n : 0;
    out->n = 0;
    for (uint32_t i = 0; i < n; i++) { /* mixtures are made of these */
        const struct sfi_price *price;
        s->plan.recompute = (int)kinds->value[i];
        SF_TRY(sfi_find_price(s, &price, err));
    }
    for (uint32_t i = 0; i < n * n; i++) {
        int recompute = (int)kinds->value[i / n], rest = (int)kinds->value[i % n];
        SF_TRY(is_mix(recompute, rest) ? add_mix(s, recompute, rest, out, err) : 0);
    }
    return pins->recompute_layers > 0 ? add_mix(s, (int)kinds->value[0], pins->recompute_rest, out, err) : 0;
}

static int visit_recompute(struct sfi_search *s, struct sf_err *err) {
    struct mixes mixes;
    SF_TRY(find_mixes(s, &mixes, err));
    for (uint32_t i = 0; i < s->space->recompute.n; i++) {
        struct sfi_at at;
        struct bounds bounds = {.layouts_n = 0};
        s->plan.recompute = (int)s->space->recompute.value[i];
        SF_TRY(sfi_find_price(s, &at.price, err));
        SF_TRY(sfi_find_layout(s, &at.layout, err));
        SF_TRY(find_layouts(s, at.layout, &bounds, err));
        if (at.price == NULL) {
            sfi_refuse(s, s->unpriced == SF_E_INPUT ? SFI_RULE_MINI : SFI_RULE_MEMORY);
            s->stats->too_large += s->unpriced != SF_E_INPUT;
        } else if (!sfi_stopped(s)) {
            SF_TRY(visit_schedules(s, &at, &bounds, &mixes, err));
        }
    }
    return 0;
}

/* Slices are of one whole sequence; they and recomputed halves do not mix with what else changes a layer's calls. */
static bool slices_fit(const struct sfi_search *s, uint32_t slices) {
    const struct sf_plan *p = &s->plan;
    return slices == 1 ||
           (p->micro_batch == 1 && p->cp == 1 && (p->pp > 1 || s->scenario->pins.slices.n > 0) &&
            s->scenario->model.positions == 0 && s->scenario->job.seq_len_tokens % ((uint64_t)slices * p->tp) == 0 &&
            (uint64_t)slices * p->microbatches <= UINT16_MAX);
}

/* How a layer's collectives are made, where that makes a difference. */
static int visit_variants(struct sfi_search *s, struct sf_err *err) {
    const struct sfi_space *space = s->space;
    struct sf_plan *p = &s->plan;
    for (uint32_t i = 0; i < space->slices.n; i++) {
        p->slices = space->slices.value[i];
        if (!slices_fit(s, p->slices)) {
            sfi_refuse(s, SFI_RULE_SLICES);
            continue;
        }
        for (uint32_t k = 0; k < space->gather.n * space->whole_rows.n; k++) {
            p->cp_gather = space->gather.value[k % space->gather.n] > 0;
            p->whole_rows = space->whole_rows.value[k / space->gather.n] > 0;
            bool odd = s->scenario->model.positions > 0 && !p->whole_rows && p->micro_batch % p->tp != 0;
            if (odd) {
                sfi_refuse(s, SFI_RULE_ROWS);
            } else if (p->cp_gather && p->cp == 1) {
                sfi_refuse(s, SFI_RULE_GATHER);
            } else if (p->whole_rows && p->tp == 1) {
                sfi_refuse(s, SFI_RULE_WHOLE_ROWS);
            } else {
                SF_TRY(visit_recompute(s, err));
            }
        }
    }
    p->slices = 1;
    p->cp_gather = p->whole_rows = false;
    return 0;
}

static int visit_micro_batch(struct sfi_search *s, struct sf_err *err) {
    const struct sf_job *job = &s->scenario->job;
    uint64_t per_rank = job->global_batch_sequences / s->plan.dp;
    if (job->global_batch_sequences % s->plan.dp != 0) {
        sfi_refuse(s, SFI_RULE_BATCH);
        return 0;
    }
    for (uint32_t i = 0; i < s->space->micro_batch.n && !s->stats->stopped; i++) {
        uint32_t micro_batch = s->space->micro_batch.value[i];
        uint64_t microbatches = per_rank / micro_batch;
        bool rows = (uint64_t)micro_batch * job->seq_len_tokens / s->plan.cp % s->plan.tp == 0;
        if (per_rank % micro_batch != 0 || microbatches > UINT16_MAX || !rows) {
            sfi_refuse(s, per_rank % micro_batch != 0 ? SFI_RULE_BATCH : rows ? SFI_RULE_LONG : SFI_RULE_ROWS);
            continue;
        }
        s->plan.micro_batch = micro_batch;
        s->plan.microbatches = (uint32_t)microbatches;
        SF_TRY(visit_variants(s, err));
    }
    return 0;
}

static int visit_pp(struct sfi_search *s, struct sf_err *err) {
    uint32_t gpus = s->scenario->job.gpus;
    struct sf_plan *p = &s->plan;
    for (uint32_t i = 0; i < s->space->pp.n && !s->stats->stopped; i++) {
        p->pp = s->space->pp.value[i];
        uint64_t inner = (uint64_t)p->tp * p->cp * p->pp;
        if (inner > gpus || gpus % inner != 0 || p->pp > s->scenario->model.layers) {
            sfi_refuse(s, SFI_RULE_PP);
            continue;
        }
        p->dp = gpus / (uint32_t)inner;
        if (p->dp * p->cp % sf_plan_ep_beside_tp(p) != 0 || !sfi_pin_allows(&s->scenario->pins.dp, p->dp) ||
            (s->scenario->job.canonical && !is_power_of_two(p->dp))) {
            sfi_refuse(s, SFI_RULE_DP);
            continue;
        }
        SF_TRY(visit_micro_batch(s, err));
        sfi_stopped(s);
    }
    return 0;
}

/* Experts in parts on the ranks of tp, or whole ones among them. */
static int visit_etp(struct sfi_search *s, struct sf_err *err) {
    struct sf_plan *p = &s->plan;
    for (uint32_t i = 0; i < s->space->etp.n; i++) {
        bool whole = s->space->etp.value[i] > 0;
        p->etp = whole ? 1 : p->tp;
        uint32_t beside = sf_plan_ep_beside_tp(p);
        if (whole && p->tp == 1) {
            continue;
        }
        if ((whole && p->ep % p->tp != 0) || (beside % p->cp != 0 && p->cp % beside != 0)) {
            sfi_refuse(s, SFI_RULE_EP);
            continue;
        }
        p->ranks_per_domain =
            sfi_ranks_per_domain(s->scenario->topo, s->scenario->job.gpus, p->tp, sfi_shared(p->cp, beside));
        if (p->ranks_per_domain == 0) {
            sfi_refuse(s, SFI_RULE_SEATS);
            continue;
        }
        SF_TRY(visit_pp(s, err));
    }
    return 0;
}

/* Degrees whose prices and layouts nothing else shares: one thread's business. */
struct corner {
    uint32_t tp, cp, ep, number;
};

static int visit_corner(struct sfi_search *s, size_t i, void *items, struct sf_err *err) {
    const struct corner *at = (const struct corner *)items + i;
    sfi_stand_on(s, at->number);
    const struct sf_scenario *scenario = s->scenario;
    s->plan = (struct sf_plan){.tp = at->tp,
                               .cp = at->cp,
                               .ep = at->ep,
                               .canonical = scenario->job.canonical,
                               .offload = scenario->pins.offload};
    s->base.calls = sfi_calls_create();
    int rc = sfi_stopped(s) ? 0 : visit_etp(s, err);
    sfi_calls_free(s->base.calls);
    s->base.calls = NULL;
    return rc;
}

static void add_corners(struct sfi_search *s, uint32_t tp, uint32_t cp, struct corner *out, size_t *n) {
    uint32_t experts = s->scenario->model.experts;
    for (uint32_t i = 0; i < s->space->ep.n; i++) {
        uint32_t ep = s->space->ep.value[i];
        if (experts == 0 ? ep != 1 : experts % ep != 0) {
            sfi_refuse(s, SFI_RULE_EP);
            continue;
        }
        if (out != NULL) {
            out[*n] = (struct corner){tp, cp, ep, s->number};
        }
        ++*n;
    }
}

static void find_corners_of(struct sfi_search *s, struct corner *out, size_t *n) {
    const struct sf_job *job = &s->scenario->job;
    for (uint32_t i = 0; i < s->space->tp.n; i++) {
        uint32_t tp = s->space->tp.value[i];
        if (!sf_model_splits(&s->scenario->model, tp)) {
            sfi_refuse(s, SFI_RULE_TP);
            continue;
        }
        for (uint32_t k = 0; k < s->space->cp.n; k++) {
            uint32_t cp = s->space->cp.value[k];
            if (cp > 1 && (job->seq_len_tokens % (2 * (uint64_t)cp) != 0 || job->precision == SF_F32)) {
                sfi_refuse(s, SFI_RULE_CP);
                continue;
            }
            add_corners(s, tp, cp, out, n);
        }
    }
}

/* Of all numbers of GPUs; `out` NULL: only counts them. */
static size_t find_corners(struct sfi_search *s, struct corner *out) {
    size_t n = 0;
    for (uint32_t number = 0; number < s->numbers_n || number == 0; number++) {
        sfi_stand_on(s, number);
        find_corners_of(s, out, &n);
    }
    sfi_stand_back(s);
    return n;
}

int sfi_search_visit(struct sfi_search *s, struct sf_err *err) {
    SF_TRY(s->known != NULL ? 0 : sfi_known_create(&s->known, err));
    uint64_t refused[SFI_RULES_N];
    memcpy(refused, s->refused, sizeof refused);
    size_t n = find_corners(s, NULL);
    struct corner *corners = sf_calloc(n, sizeof *corners);
    if (corners == NULL) {
        return sf_fail_memory(err, "search");
    }
    memcpy(s->refused, refused, sizeof refused); /* counted once */
    find_corners(s, corners);
    int rc = sfi_search_share(s, n, visit_corner, corners, err);
    sf_free(corners);
    if (s->groups_n > 0) {
        qsort(s->groups, s->groups_n, sizeof *s->groups, sfi_group_compare);
    }
    return rc;
}
