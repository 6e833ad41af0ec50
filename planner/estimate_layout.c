/* What the degrees of a plan imply before anything is scheduled: placement, spans of groups, sizes, collective prices.
 */
#include "planner/estimate.h"

#include "sim/seats.h"

uint32_t sfi_ranks_per_domain(const struct sf_topo *topo, uint32_t gpus, uint32_t tp, uint32_t ep) {
    uint32_t domain = sf_topo_domain_gpus(topo), fallback = 0;
    uint64_t group = (uint64_t)tp * ep;
    bool plain = sf_seats_plain(topo);
    for (uint32_t used = domain - domain % tp; used >= tp && used > 0; used -= tp) {
        if (!sf_seats_fit(topo, gpus, used)) {
            if (plain) {
                break;
            }
            continue; /* fewer to a domain may fit more domains */
        }
        if (used % group == 0) {
            return used;
        }
        fallback = fallback == 0 ? used : fallback;
    }
    return fallback;
}

/* The first seat in use from here on: what stands near a dead one has routes like those it had. */
static uint32_t live_seat(const struct sf_topo *topo, uint32_t seat) {
    uint32_t live = seat, gpus = sf_topo_gpus(topo);
    while (live < gpus && sf_topo_gpu_state(topo, live) != SF_GPU_IN_USE) {
        live++;
    }
    return live < gpus ? live : seat;
}

/* Adds one group's runs of members per domain to the worst span seen. */
static void see_group(const struct sf_topo *topo, uint32_t ranks_per_domain, uint32_t first, uint32_t stride,
                      struct sf_span *worst) {
    uint32_t domain_gpus = sf_topo_domain_gpus(topo), domains = 0, previous = 0;
    for (uint32_t i = 0; i < worst->members;) {
        uint64_t rank = first + (uint64_t)i * stride;
        uint32_t slot = (uint32_t)(rank % ranks_per_domain);
        uint32_t seat = (uint32_t)(rank / ranks_per_domain) * domain_gpus + slot;
        uint32_t run = (ranks_per_domain - 1 - slot) / stride + 1;
        run = run < worst->members - i ? run : worst->members - i;
        if (domains > 0 && worst->kind < SF_ROUTE_CORE) {
            struct sf_route route;
            sf_topo_route(topo, live_seat(topo, previous), live_seat(topo, seat), &route);
            worst->kind = (uint32_t)route.kind > worst->kind ? (uint32_t)route.kind : worst->kind;
        }
        worst->min_per_domain = run < worst->min_per_domain ? run : worst->min_per_domain;
        previous = seat + (run - 1) * stride;
        domains++;
        i += run;
    }
    worst->domains = domains > worst->domains ? domains : worst->domains;
}

void sfi_span(const struct sf_topo *topo, uint32_t ranks_per_domain, const struct sfi_groups *g, struct sf_span *out) {
    *out = (struct sf_span){.members = g->members, .domains = 1, .min_per_domain = g->members, .kind = SF_ROUTE_DOMAIN};
    for (uint32_t i = 0; i < g->groups; i++) {
        see_group(topo, ranks_per_domain, g->first + i * g->repeat, g->stride, out);
    }
}

static struct sfi_line line_through(double at_small, double at_large, double small, double large) {
    double slope = (at_large - at_small) / (large - small);
    double fixed = at_small - slope * small;
    return (struct sfi_line){.fixed_s = fixed > 0 ? fixed : 0, .s_per_unit = slope};
}

static struct sfi_line collective_line(const struct sf_cost *cost, int kind, const struct sf_span *span) {
    const uint64_t small = UINT64_C(1) << 20, large = UINT64_C(1) << 30;
    double at_small = sf_ps_to_s(sf_cost_collective(cost, kind, small, span));
    double at_large = sf_ps_to_s(sf_cost_collective(cost, kind, large, span));
    return line_through(at_small, at_large, (double)small, (double)large);
}

static struct sfi_line message_line(const struct sf_cost *cost, const struct sfi_layout *l) {
    const struct sf_topo *topo = sf_cost_topo(cost);
    const uint64_t small = UINT64_C(1) << 10, large = UINT64_C(1) << 30;
    uint32_t stage = l->tp * l->dp;
    uint32_t seat = stage / l->ranks_per_domain * sf_topo_domain_gpus(topo) + stage % l->ranks_per_domain;
    struct sf_route route;
    sf_topo_route(topo, live_seat(topo, 0), live_seat(topo, seat), &route);
    return line_through(sf_ps_to_s(sf_cost_message(cost, small, &route)),
                        sf_ps_to_s(sf_cost_message(cost, large, &route)), (double)small, (double)large);
}

static void price_group(const struct sfi_base *base, const struct sfi_layout *l, uint32_t stage, uint32_t ep,
                        struct sfi_group_price *out) {
    const struct sfi_groups g = {
        .members = l->dp / ep, .stride = l->tp * ep, .first = stage * l->tp * l->dp, .groups = 1};
    struct sf_span span;
    sfi_span(base->scenario->topo, l->ranks_per_domain, &g, &span);
    out->scatter = collective_line(base->cost, SF_CALL_REDUCE_SCATTER, &span);
    out->all_reduce = collective_line(base->cost, SF_CALL_ALL_REDUCE, &span);
}

void sfi_layout_init(const struct sfi_base *base, uint32_t tp, uint32_t ep, uint32_t pp, struct sfi_layout *out) {
    const struct sf_model *m = &base->scenario->model;
    uint32_t gpus = base->scenario->job.gpus;
    out->tp = tp;
    out->ep = ep;
    out->pp = pp;
    out->dp = gpus / tp / pp;
    out->ranks_per_domain = sfi_ranks_per_domain(base->scenario->topo, gpus, tp, ep);
    if (out->ranks_per_domain == 0) {
        return;
    }
    double expert = (double)sf_model_params_expert(m) / tp;
    double whole = 2.0 * m->hidden + (double)m->hidden * m->experts; /* norms and router, on every tp rank */
    out->layer_dense = ((double)sf_model_params_attention(m) - whole) / tp + whole + (m->experts == 0 ? expert : 0);
    out->layer_expert = m->experts == 0 ? 0 : expert * m->experts / ep;
    out->table = (double)m->vocab * m->hidden / tp;
    out->head_tables = m->tied && pp == 1 && !base->scenario->job.canonical ? 0 : 1;
    out->p2p = pp > 1 ? message_line(base->cost, out) : (struct sfi_line){0, 0};
    for (uint32_t stage = 0; stage < pp; stage++) {
        price_group(base, out, stage, 1, &out->dense[stage]);
        out->expert[stage] = out->dense[stage];
        if (ep > 1) {
            price_group(base, out, stage, ep, &out->expert[stage]);
        }
    }
}

void sfi_base_init(const struct sf_scenario *s, const struct sf_cost *cost, struct sfi_base *out) {
    const int64_t small = 1 << 16, large = 1 << 28;
    struct sf_call call = {.kind = SF_CALL_ADAMW, .comm = SF_NONE, .imm = {1, 1}};
    enum sf_grade grade;
    bool f32 = s->job.precision == SF_F32;
    call.dtype = (uint8_t)(f32 ? SF_F32 : SF_BF16);
    *out = (struct sfi_base){.scenario = s, .cost = cost, .weight_bytes = f32 ? 4 : 2, .optimizer_bytes = f32 ? 8 : 12};
    call.dims[0] = small;
    double at_small = sf_ps_to_s(sf_cost_call(cost, &call, &grade));
    call.dims[0] = large;
    double at_large = sf_ps_to_s(sf_cost_call(cost, &call, &grade));
    out->adamw = line_through(at_small, at_large, (double)small, (double)large);
    out->dispatch_s = sf_ps_to_s(sf_cost_dispatch(cost));
}
