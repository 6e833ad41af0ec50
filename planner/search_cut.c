/* The layers of a plan's virtual stages, by three rules. */
#include <math.h>
#include <string.h>

#include "core/arena.h"
#include "planner/cuts.h"
#include "planner/search_internal.h"

void sfi_group_plan(const struct sfi_search *s, const struct sfi_group *g, struct sf_plan *out) {
    const struct sf_scenario *scenario = s->scenario;
    *out = (struct sf_plan){
        .tp = g->tp,
        .cp = g->cp,
        .ep = g->ep,
        .dp = scenario->job.gpus / g->tp / g->cp / g->pp,
        .pp = g->pp,
        .vpp = g->vpp,
        .micro_batch = g->micro_batch,
        .schedule = g->schedule,
        .recompute = g->recompute,
        .partly = g->partly,
        .recompute_rest = g->rest,
        .etp = g->etp > 0 ? 1 : 0,
        .slices = g->slices > 1 ? g->slices : 0,
        .cp_gather = g->gather,
        .whole_rows = g->whole_rows,
        .split_head = g->split_head,
        .offload = g->offload && scenario->pins.offload == 0 ? 1 : scenario->pins.offload,
        .canonical = scenario->job.canonical,
        .order = scenario->pins.order.n > 0 ? (int)scenario->pins.order.value[0] : SF_ORDER_PP_LAST,
    };
    out->ranks_per_domain =
        sfi_ranks_per_domain(scenario->topo, scenario->job.gpus, g->tp, sfi_shared(g->cp, sf_plan_ep_beside_tp(out)));
    out->microbatches = (uint32_t)(scenario->job.global_batch_sequences / out->dp / g->micro_batch);
    out->table = g->schedule == SF_SCHEDULE_TABLE ? scenario->pins.table : NULL;
    out->gpus = s->whole != NULL && scenario->job.gpus < s->whole->job.gpus ? scenario->job.gpus : 0;
}

static void cut_evenly(struct sf_plan *plan, uint32_t layers) {
    uint32_t stages = plan->pp * plan->vpp;
    for (uint32_t v = 0; v < stages; v++) {
        plan->layers[v] = (uint32_t)((uint64_t)layers * (v + 1) / stages - (uint64_t)layers * v / stages);
    }
}

/* Most microbatches that a virtual stage keeps at once, where its schedule says so. */
uint32_t sfi_cut_in_flight(const struct sf_plan *p, uint32_t v) {
    uint32_t stage = v % p->pp, chunk = v / p->pp, most = p->microbatches;
    switch (p->schedule) {
    case SF_SCHEDULE_GPIPE:
    case SF_SCHEDULE_BREADTH_FIRST:
        return most;
    case SF_SCHEDULE_INTERLEAVED:
        most = chunk == 0 ? 2 * p->pp - stage : p->pp;
        break;
    case SF_SCHEDULE_ZB_H2:
    case SF_SCHEDULE_ZB_2P:
        most = 2 * (p->pp - stage);
        break;
    default:
        most = p->vpp > 1 ? p->pp : p->pp - stage;
        break;
    }
    return most < p->microbatches ? most : p->microbatches;
}

static double unit_bytes(const struct sfi_search *s, const struct sfi_layout *l, const struct sf_plan *p, double layers,
                         double tables) {
    double dense = layers * l->layer_dense + tables * l->table, expert = layers * l->layer_expert;
    double owned = p->zero >= 1 ? (dense + expert * l->experts) / l->group : dense + expert;
    double held = p->zero >= 3 ? 2 * owned : p->zero == 2 ? dense + expert + owned : 2 * (dense + expert);
    return held * s->base.weight_bytes + owned * s->base.optimizer_bytes;
}

double sfi_layer_state_bytes(const struct sfi_search *s, const struct sfi_layout *l, const struct sf_plan *p,
                             bool first, bool head) {
    return unit_bytes(s, l, p, 1.0 + (head ? l->further : 0), (first ? 1 : 0) + (head ? l->head_tables : 0));
}

/* Embedding and head, with what predicts further, go with the layer next to them: every stage has a layer. */
static void fill_units(const struct sfi_search *s, const struct sfi_price *price, const struct sfi_layout *l,
                       const struct sf_plan *plan, struct sf_cut_unit *units, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        bool first = i == 0, last = i + 1 == n;
        bool routed = sf_model_routes(&s->scenario->model, i);
        double layer = price->time[SFI_TIMED_F].of[routed] + price->time[SFI_TIMED_BW].of[routed];
        bool head = last && !plan->split_head;
        double ends = (first ? sfi_price_first(price) : 0) + (head ? sfi_price_last(price) : 0);
        memset(&units[i], 0, sizeof units[i]);
        units[i].time[0] = (sf_time_ps)(fmin(layer + ends, 1e4) * 1e12);
        units[i].fixed_bytes[0] = (uint64_t)sfi_layer_state_bytes(s, l, plan, first, head);
        units[i].activation_bytes[0] = (uint64_t)(price->kept_again[routed] + (head ? price->kept_last : 0));
    }
}

/* Exactly. Every chunk of a rank gets an equal part of its memory, or all that it wants. */
static bool cut_exactly(const struct sfi_search *s, const struct sfi_at *at, bool limited, struct sf_plan *plan) {
    const struct sfi_price *price = at->price;
    static const uint32_t one_device = 1;
    uint32_t n = s->scenario->model.layers, stages = plan->pp * plan->vpp, alive[SF_MAX_STAGES];
    uint64_t limit[SF_MAX_STAGES];
    struct sf_cut_unit *units = sf_calloc(n, sizeof *units);
    struct sf_cut *cut = sf_calloc(1, sizeof *cut);
    double room = sfi_device_bytes(s) - price->work - 6 * price->p2p_bytes;
    bool found = false;
    if (units != NULL && cut != NULL && (room > 0 || !limited) && n <= SF_CUT_UNITS) {
        fill_units(s, price, at->layout, plan, units, n);
        for (uint32_t v = 0; v < stages; v++) {
            double chunk = sfi_cut_in_flight(plan, v) * price->kept_chunk;
            alive[v] = sfi_cut_in_flight(plan, v);
            limit[v] = !limited ? UINT64_MAX : room / plan->vpp > chunk ? (uint64_t)(room / plan->vpp - chunk) : 0;
        }
        const struct sf_cut_problem problem = {units, n, stages, 1, &one_device, stages, alive, limit};
        found = sf_cut(&problem, cut, NULL) == 0;
        for (uint32_t v = 0; v < stages && found; v++) {
            plan->layers[v] = cut->first[v + 1] - cut->first[v];
        }
    }
    sf_free(cut);
    sf_free(units);
    return found;
}

static bool cut_by_rule(const struct sfi_search *s, const struct sfi_at *at, enum sfi_cut_rule rule,
                        struct sf_plan *plan) {
    const struct sfi_price *price = at->price;
    struct sf_plan by_time = *plan;
    uint32_t layers = s->scenario->model.layers;
    uint32_t routed = sf_model_routed(&s->scenario->model, layers);
    bool mixed = routed > 0 && routed < layers;
    if (!mixed || !cut_exactly(s, at, false, &by_time)) {
        sfi_plan_layers(&by_time, layers, sfi_price_layer(price), sfi_price_first(price),
                        plan->split_head ? 0 : sfi_price_last(price));
    }
    if (plan->partly && s->scenario->pins.recompute_layers == 0) {
        sfi_cut_again(s, at, &by_time);
    }
    switch (rule) {
    case SFI_CUT_TIME:
        *plan = by_time;
        return true;
    case SFI_CUT_EVEN:
        cut_evenly(plan, layers);
        break;
    default:
        if (!cut_exactly(s, at, true, plan)) {
            return false;
        }
        break;
    }
    return memcmp(plan->layers, by_time.layers, sizeof plan->layers) != 0;
}

uint32_t sfi_cut_zero(const struct sfi_search *s, enum sfi_cut_rule rule) {
    const struct sfi_values *zero = &s->space->zero;
    uint32_t most = zero->value[zero->n - 1];
    return rule == SFI_CUT_MEMORY && zero->value[0] <= 1 && most > 1 ? 1 : most;
}

static uint32_t fewest(const uint32_t *layers, uint32_t n) {
    uint32_t least = layers[0];
    for (uint32_t i = 1; i < n; i++) {
        least = layers[i] < least ? layers[i] : least;
    }
    return least;
}

/* The rules for layers that are alike, with chunks shared out rank by rank or one by one. */
uint32_t sfi_least_units(const struct sfi_search *s, const struct sfi_price *price) {
    const struct sf_model *m = &s->scenario->model;
    const struct sfi_values *zero = &s->space->zero;
    uint32_t pp = s->plan.pp, vpp = s->plan.vpp, stages = pp * vpp, routed = sf_model_routed(m, m->layers);
    uint32_t cut[SF_MAX_STAGES], least = m->layers / stages;
    bool alike = routed == 0 || routed == m->layers;
    if (s->scenario->pins.layout.stages > 0) {
        return fewest(s->scenario->pins.layout.layers, s->scenario->pins.layout.stages);
    }
    if (!alike || zero->value[0] > 1) {
        return 1; /* the rule of memory cuts for them too */
    }
    for (int apart = 0; apart < 2; apart++) {
        sfi_partition(m->layers, apart ? stages : pp, apart ? 1 : vpp, sfi_price_layer(price), sfi_price_first(price),
                      sfi_price_last(price), cut);
        uint32_t found = fewest(cut, stages);
        least = found < least ? found : least;
    }
    return least;
}

/* Every stage has the layers whose activations are to leave it. */
static bool can_offload(const struct sf_plan *plan) {
    for (uint32_t v = 0; v < plan->pp * plan->vpp && plan->offload > 0; v++) {
        if (plan->layers[v] < plan->offload) {
            return false;
        }
    }
    return true;
}

bool sfi_cut_layers(const struct sfi_search *s, const struct sfi_at *at, enum sfi_cut_rule rule, struct sf_plan *plan) {
    const struct sf_layout *pinned = &s->scenario->pins.layout;
    if (pinned->stages > 0) {
        memcpy(plan->layers, pinned->layers, pinned->stages * sizeof *plan->layers);
        return rule == SFI_CUT_TIME && can_offload(plan);
    }
    return cut_by_rule(s, at, rule, plan) && can_offload(plan);
}
