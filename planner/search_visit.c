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

#define MOST_PRICES (1u << 15)
#define MOST_GROUPS ((size_t)1 << 22)
#define MOST_CHUNKS 8 /* told apart in bounds */
#define AUTO_CHUNKS 4 /* of the synthesiser, per rank */

double sfi_device_bytes(const struct sfi_search *s) {
    return (double)sf_seats_memory(s->scenario->topo);
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
    const uint32_t x[] = {a->tp,       a->cp,  a->ep,     a->pp,     a->vpp,        a->micro_batch, a->recompute,
                          a->schedule, a->etp, a->slices, a->gather, a->whole_rows, a->split_head,  a->offload};
    const uint32_t y[] = {b->tp,       b->cp,  b->ep,     b->pp,     b->vpp,        b->micro_batch, b->recompute,
                          b->schedule, b->etp, b->slices, b->gather, b->whole_rows, b->split_head,  b->offload};
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

/* ---- prices ------------------------------------------------------------------------------------------------------ */

/* A microbatch whose residual stream alone exceeds the device needs no miniature to be refused. */
static bool hopeless(const struct sfi_search *s, struct sf_err *why) {
    const struct sf_job *job = &s->scenario->job;
    double memory = sfi_reach_bytes(s);
    double bytes = (double)s->plan.micro_batch * job->seq_len_tokens * s->scenario->model.hidden *
                   s->base.weight_bytes / s->plan.tp / sf_plan_cp(&s->plan);
    if (bytes > memory) {
        sf_fail(why, SF_E_NOPLAN, "one layer's input needs %.3f GB but its device has %.3f GB", bytes / 1e9,
                memory / 1e9);
    }
    return bytes > memory;
}

/* Of all miniatures that do not fit, the one that most nearly would explains best. */
static void remember_mini(struct sfi_search *s, const struct sf_err *why) {
    const struct sf_plan *p = &s->plan, *best = &s->least_mini;
    uint64_t share = (uint64_t)p->tp * sfi_shared(sf_plan_cp(p), p->ep);
    uint64_t best_share = (uint64_t)best->tp * sfi_shared(sf_plan_cp(best), best->ep);
    bool smaller =
        p->micro_batch < best->micro_batch || (p->micro_batch == best->micro_batch && p->recompute > best->recompute);
    if (share > best_share || (share == best_share && smaller)) {
        s->least_mini = *p;
        s->mini_err = *why;
    }
}

static uint64_t degrees_hash(const struct sfi_degrees *d) {
    uint64_t h = sf_mix64(sf_mix64(UINT64_C(0x646567), d->tp), d->cp);
    h = sf_mix64(sf_mix64(h, d->ep), d->micro_batch);
    h = sf_mix64(sf_mix64(h, d->etp), d->slices);
    return sf_mix64(h, (uint64_t)(uint32_t)d->recompute * 4 + d->gather * 2u + d->whole_rows);
}

static bool same_degrees(const struct sfi_degrees *a, const struct sfi_degrees *b) {
    return a->tp == b->tp && a->cp == b->cp && a->ep == b->ep && a->micro_batch == b->micro_batch &&
           a->recompute == b->recompute && a->etp == b->etp && a->slices == b->slices && a->gather == b->gather &&
           a->whole_rows == b->whole_rows;
}

static int add_price(struct sfi_search *s, const struct sfi_degrees *d, struct sf_err *err) {
    struct sf_err why = {0};
    if (s->priced_n == s->priced_room) {
        size_t room = s->priced_room == 0 ? 64 : 2 * s->priced_room;
        struct sfi_priced *bigger = sf_realloc(s->priced, room, sizeof *bigger);
        if (bigger == NULL || room > MOST_PRICES) {
            s->priced = bigger != NULL ? bigger : s->priced;
            return sf_fail_memory(err, "prices of layers");
        }
        s->priced = bigger;
        s->priced_room = room;
    }
    struct sfi_priced *entry = &s->priced[s->priced_n];
    *entry = (struct sfi_priced){.degrees = *d};
    int rc = hopeless(s, &why) ? SF_E_NOPLAN : sfi_price_init(&s->base, d, &entry->price, &why);
    if (rc != 0 && rc != SF_E_NOPLAN && rc != SF_E_INPUT) {
        return sf_fail(err, rc, "pricing tp %u, cp %u, ep %u, micro_batch %u: %s", d->tp, d->cp, d->ep, d->micro_batch,
                       why.msg);
    }
    if (rc != 0) {
        remember_mini(s, &why);
    }
    entry->too_large = rc != 0; /* for a device, or for a program: a million sequences in a microbatch */
    s->priced_n++;
    return 0;
}

int sfi_find_price(struct sfi_search *s, const struct sfi_price **out, struct sf_err *err) {
    const struct sfi_degrees d = sfi_degrees_of(&s->plan);
    uint32_t at = (uint32_t)degrees_hash(&d) % (2 * MOST_PRICES);
    while (s->priced_at[at] != 0 && !same_degrees(&s->priced[s->priced_at[at] - 1].degrees, &d)) {
        at = (at + 1) % (2 * MOST_PRICES);
    }
    if (s->priced_at[at] == 0) {
        SF_TRY(add_price(s, &d, err));
        s->priced_at[at] = (uint32_t)s->priced_n;
    }
    const struct sfi_priced *entry = &s->priced[s->priced_at[at] - 1];
    *out = entry->too_large ? NULL : &entry->price;
    return 0;
}

static bool is_layout_of(const struct sfi_layout *l, const struct sf_plan *p) {
    return l->tp == p->tp && l->cp == sf_plan_cp(p) && l->ep == p->ep && l->pp == p->pp && l->etp == sf_plan_etp(p) &&
           l->zero_group == p->zero_group;
}

static uint64_t layout_hash(const struct sf_plan *p) {
    uint64_t h = sf_mix64(sf_mix64(sf_mix64(UINT64_C(0x6c6179), p->tp), sf_plan_cp(p)), p->ep);
    return sf_mix64(sf_mix64(sf_mix64(h, p->pp), sf_plan_etp(p)), p->zero_group);
}

int sfi_find_layout(struct sfi_search *s, const struct sfi_layout **out, struct sf_err *err) {
    const struct sf_plan *p = &s->plan;
    uint32_t at = (uint32_t)layout_hash(p) % SFI_LAYOUTS;
    while (s->layouts[at] != NULL && !is_layout_of(s->layouts[at], p)) {
        at = (at + 1) % SFI_LAYOUTS;
    }
    if (s->layouts[at] == NULL) {
        struct sfi_layout *l = s->layouts_n < SFI_LAYOUTS / 2 ? sf_calloc(1, sizeof *l) : NULL;
        if (l == NULL) {
            return sf_fail_memory(err, "layouts");
        }
        s->layouts_n++;
        s->layouts[at] = l;
        sfi_layout_init(&s->base, p, l);
    }
    *out = s->layouts[at];
    return 0;
}

uint32_t sfi_zero_groups(const struct sfi_search *s, const struct sfi_layout *l, uint32_t out[SFI_MOST_GROUPS]) {
    uint32_t n = 0, inner = sfi_shared(l->cp, l->experts);
    for (uint32_t i = 0; i < s->space.zero_group.n && n < SFI_MOST_GROUPS; i++) {
        uint32_t g = s->space.zero_group.value[i];
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
                              .offload = p->offload > 0};
}

static int keep_group(struct sfi_search *s, const struct sfi_guess *guess, double bound_s, struct sf_err *err) {
    struct sfi_candidate c = {.group = group_of(&s->plan, guess->step_s, bound_s), .memory_bytes = guess->least_bytes};
    if (guess->least_bytes > sfi_reach_bytes(s)) {
        c.zero = (uint8_t)s->space.zero.value[s->space.zero.n - 1];
        sfi_too_large(s, &c);
        return 0;
    }
    if (s->groups_n == s->groups_room) {
        size_t room = s->groups_room == 0 ? 4096 : 2 * s->groups_room;
        struct sfi_group *bigger = room > MOST_GROUPS ? NULL : sf_realloc(s->groups, room, sizeof *bigger);
        if (bigger == NULL) {
            return sf_fail_memory(err, "the groups of a search");
        }
        s->groups = bigger;
        s->groups_room = room;
    }
    s->groups[s->groups_n++] = c.group;
    return 0;
}

static bool variant_fits(const struct sf_plan *p) {
    bool alone = p->tp == 1 && sf_plan_cp(p) == 1 && sf_plan_slices(p) == 1 && p->offload == 0;
    return !p->split_head || (p->schedule == SF_SCHEDULE_1F1B && alone && p->pp > 1 && p->pp <= SF_MAX_STAGES / 2);
}

static bool schedule_fits(const struct sf_plan *p) {
    if (!variant_fits(p) || (sf_plan_slices(p) > 1 && p->schedule == SF_SCHEDULE_AUTO)) {
        return false;
    }
    bool whole = !sfi_freedom_of((uint32_t)p->schedule, p->vpp).split;
    if (!sfi_can_split(p->recompute) && !whole && p->schedule != SF_SCHEDULE_TABLE) {
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
    for (uint32_t i = 0; i < s->space.zero.n; i++) {
        uint32_t zero = s->space.zero.value[i];
        for (uint32_t k = 0; k < (zero > 0 ? known->layouts_n : 1); k++) {
            const struct sfi_at in = {at->price, known->layouts[k]};
            struct sfi_bounded b = sfi_bounded_of(s, &in, zero);
            b.units = units;
            if (zero < 2 || freedom->ways == 1) {
                least = fmin(least, sfi_bound_s(&b, freedom));
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
    return s->space.offload.n > 1 && sf_schedule_copies(p) == 1 && p->schedule <= SF_SCHEDULE_TABLE && !p->split_head &&
           without->bytes > sfi_device_bytes(s) / 2;
}

static int keep_groups(struct sfi_search *s, const struct sfi_at *at, struct bounds *bounds, struct sf_err *err) {
    const struct sfi_guess guess = sfi_guess(s, at);
    SF_TRY(keep_group(s, &guess, bound_of(s, at, bounds), err));
    if (may_need_offload(s, &guess)) {
        s->plan.offload = 1;
        struct sfi_guess with = sfi_guess(s, at);
        int rc = keep_group(s, &with, bound_of(s, at, bounds), err);
        s->plan.offload = 0;
        return rc;
    }
    return 0;
}

static int visit_vpp(struct sfi_search *s, const struct sfi_at *at, struct bounds *bounds, struct sf_err *err) {
    struct sf_plan *p = &s->plan;
    if (same_as_1f1b(p) && sfi_pin_allows(&s->scenario->pins.schedule, SF_SCHEDULE_1F1B)) {
        return 0;
    }
    for (uint32_t i = 0; i < s->space.vpp.n; i++) {
        p->vpp = s->space.vpp.value[i];
        if ((uint64_t)p->pp * p->vpp > s->scenario->model.layers || p->pp * p->vpp > SF_MAX_STAGES) {
            sfi_refuse(s, SFI_RULE_SCHEDULE);
            break; /* larger ones even more so */
        }
        if (!pins_fit(s, p) || !schedule_fits(p)) {
            sfi_refuse(s, SFI_RULE_SCHEDULE);
            continue;
        }
        SF_TRY(keep_groups(s, at, bounds, err));
    }
    return 0;
}

static int visit_schedules(struct sfi_search *s, const struct sfi_at *at, struct bounds *bounds, struct sf_err *err) {
    struct sf_plan *p = &s->plan;
    for (uint32_t k = 0; k < s->space.schedule.n; k++) {
        p->schedule = (int)s->space.schedule.value[k];
        p->table = p->schedule == SF_SCHEDULE_TABLE ? s->scenario->pins.table : NULL;
        for (uint32_t i = 0; i < s->space.split_head.n; i++) {
            p->split_head = s->space.split_head.value[i] > 0;
            if (!p->split_head || (variant_fits(p) && s->scenario->model.vocab % p->pp == 0)) {
                SF_TRY(visit_vpp(s, at, bounds, err));
            } else {
                sfi_refuse(s, SFI_RULE_VARIANT);
            }
        }
        p->split_head = false;
    }
    return 0;
}

static int visit_recompute(struct sfi_search *s, struct sf_err *err) {
    for (uint32_t i = 0; i < s->space.recompute.n; i++) {
        struct sfi_at at;
        struct bounds bounds = {.layouts_n = 0};
        s->plan.recompute = (int)s->space.recompute.value[i];
        SF_TRY(sfi_find_price(s, &at.price, err));
        SF_TRY(sfi_find_layout(s, &at.layout, err));
        SF_TRY(find_layouts(s, at.layout, &bounds, err));
        if (at.price == NULL) {
            sfi_refuse(s, SFI_RULE_MEMORY);
            s->stats->too_large++;
        } else {
            SF_TRY(visit_schedules(s, &at, &bounds, err));
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
    const struct sfi_space *space = &s->space;
    struct sf_plan *p = &s->plan;
    for (uint32_t i = 0; i < space->slices.n; i++) {
        p->slices = space->slices.value[i];
        if (!slices_fit(s, p->slices)) {
            sfi_refuse(s, SFI_RULE_VARIANT);
            continue;
        }
        for (uint32_t k = 0; k < space->gather.n * space->whole_rows.n; k++) {
            p->cp_gather = space->gather.value[k % space->gather.n] > 0;
            p->whole_rows = space->whole_rows.value[k / space->gather.n] > 0;
            bool idle = (p->cp_gather && p->cp == 1) || (p->whole_rows && p->tp == 1);
            bool odd = s->scenario->model.positions > 0 && !p->whole_rows && p->micro_batch % p->tp != 0;
            if (odd) {
                sfi_refuse(s, SFI_RULE_BATCH);
            } else if (idle) {
                sfi_refuse(s, SFI_RULE_VARIANT);
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
    for (uint32_t i = 0; i < s->space.micro_batch.n; i++) {
        uint32_t micro_batch = s->space.micro_batch.value[i];
        uint64_t microbatches = per_rank / micro_batch;
        if (per_rank % micro_batch != 0 || microbatches > UINT16_MAX ||
            (uint64_t)micro_batch * job->seq_len_tokens / s->plan.cp % s->plan.tp != 0) {
            sfi_refuse(s, SFI_RULE_BATCH);
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
    for (uint32_t i = 0; i < s->space.pp.n && !s->stats->stopped; i++) {
        p->pp = s->space.pp.value[i];
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
        s->stats->stopped = s->options->stop != NULL && s->options->stop(s->options->self);
    }
    return 0;
}

/* Experts in parts on the ranks of tp, or whole ones among them. */
static int visit_etp(struct sfi_search *s, struct sf_err *err) {
    struct sf_plan *p = &s->plan;
    for (uint32_t i = 0; i < s->space.etp.n; i++) {
        bool whole = s->space.etp.value[i] > 0;
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

static int visit_ep(struct sfi_search *s, struct sf_err *err) {
    uint32_t experts = s->scenario->model.experts;
    for (uint32_t i = 0; i < s->space.ep.n && !s->stats->stopped; i++) {
        uint32_t ep = s->plan.ep = s->space.ep.value[i];
        if (experts == 0 ? ep != 1 : experts % ep != 0) {
            sfi_refuse(s, SFI_RULE_EP);
            continue;
        }
        SF_TRY(visit_etp(s, err));
    }
    return 0;
}

static int visit_cp(struct sfi_search *s, struct sf_err *err) {
    const struct sf_job *job = &s->scenario->job;
    for (uint32_t i = 0; i < s->space.cp.n && !s->stats->stopped; i++) {
        uint32_t cp = s->plan.cp = s->space.cp.value[i];
        if (cp > 1 && (job->seq_len_tokens % (2 * (uint64_t)cp) != 0 || job->precision == SF_F32)) {
            sfi_refuse(s, SFI_RULE_CP);
            continue;
        }
        SF_TRY(visit_ep(s, err));
    }
    return 0;
}

int sfi_search_visit(struct sfi_search *s, struct sf_err *err) {
    const struct sf_model *m = &s->scenario->model;
    s->priced_at = s->priced_at != NULL ? s->priced_at : sf_calloc((size_t)2 * MOST_PRICES, sizeof *s->priced_at);
    s->layouts = s->layouts != NULL ? s->layouts : sf_calloc(SFI_LAYOUTS, sizeof *s->layouts);
    if (s->priced_at == NULL || s->layouts == NULL) {
        return sf_fail_memory(err, "search");
    }
    s->plan = (struct sf_plan){.canonical = s->scenario->job.canonical, .offload = s->scenario->pins.offload};
    for (uint32_t i = 0; i < s->space.tp.n && !s->stats->stopped; i++) {
        uint32_t tp = s->plan.tp = s->space.tp.value[i];
        if (!sf_model_splits(m, tp)) {
            sfi_refuse(s, SFI_RULE_TP);
            continue;
        }
        SF_TRY(visit_cp(s, err));
    }
    if (s->groups_n > 0) {
        qsort(s->groups, s->groups_n, sizeof *s->groups, sfi_group_compare);
    }
    return 0;
}
