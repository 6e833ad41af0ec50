/* What the degrees of a plan imply before anything is scheduled: placement, spans of groups, sizes, collective prices.
 */
#include "planner/estimate.h"

#include <math.h>

#include "sim/seats.h"

uint32_t sfi_ranks_per_domain(const struct sf_topo *topo, uint32_t gpus, uint32_t tp, uint32_t shared) {
    uint32_t domain = sf_topo_domain_gpus(topo), fallback = 0;
    uint64_t group = (uint64_t)tp * shared;
    bool plain = sf_seats_plain(topo);
    for (uint32_t used = domain - domain % tp; used >= tp && used > 0; used -= tp) {
        if (!sf_seats_fit(topo, &(struct sf_blocks){.ranks = gpus, .most = used})) { /* equal blocks only */
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

static bool same_span(const struct sf_span *a, const struct sf_span *b) {
    return a->members == b->members && a->domains == b->domains && a->min_per_domain == b->min_per_domain &&
           a->kind == b->kind;
}

void sfi_add_span(struct sf_span *spans, uint32_t *n, const struct sf_span *span) {
    for (uint32_t i = 0; i < *n; i++) {
        if (same_span(&spans[i], span)) {
            return;
        }
    }
    spans[*n < SFI_MOST_SPANS ? (*n)++ : *n - 1] = *span;
}

static struct sfi_line line_through(double at_small, double at_large, double small, double large) {
    double slope = (at_large - at_small) / (large - small);
    double fixed = at_small - slope * small;
    return (struct sfi_line){.fixed_s = fixed > 0 ? fixed : 0, .s_per_unit = slope};
}

static struct sfi_line collective_line(const struct sfi_base *base, int kind, const struct sf_span *span) {
    const uint64_t small = UINT64_C(1) << 20, large = UINT64_C(1) << 30;
    double at_small = sfi_collective_s(base->cost, base->tuned, kind, small, span);
    double at_large = sfi_collective_s(base->cost, base->tuned, kind, large, span);
    return line_through(at_small, at_large, (double)small, (double)large);
}

static struct sfi_line message_line(const struct sf_cost *cost, const struct sfi_layout *l) {
    const struct sf_topo *topo = sf_cost_topo(cost);
    const uint64_t small = UINT64_C(1) << 10, large = UINT64_C(1) << 30;
    uint32_t stage = l->tp * l->sharers;
    uint32_t seat = stage / l->ranks_per_domain * sf_topo_domain_gpus(topo) + stage % l->ranks_per_domain;
    struct sf_route route;
    sf_topo_route(topo, live_seat(topo, 0), live_seat(topo, seat), &route);
    return line_through(sf_ps_to_s(sf_cost_message(cost, small, &route)),
                        sf_ps_to_s(sf_cost_message(cost, large, &route)), (double)small, (double)large);
}

static void price_group(const struct sfi_base *base, const struct sfi_layout *l, uint32_t stage, uint32_t ep,
                        struct sfi_group_price *out) {
    uint32_t groups = l->sharers / l->group, most = l->ranks_per_domain;
    const struct sfi_groups g = {.members = l->group / ep,
                                 .stride = l->tp * ep,
                                 .first = stage * l->tp * l->sharers,
                                 .repeat = l->tp * l->group,
                                 .groups = groups < most ? groups : most};
    struct sf_span span;
    sfi_span(base->scenario->topo, l->ranks_per_domain, &g, &span);
    out->scatter = collective_line(base, SF_CALL_REDUCE_SCATTER, &span);
    out->all_reduce = collective_line(base, SF_CALL_ALL_REDUCE, &span);
}

static struct sfi_line price_across(const struct sfi_base *base, const struct sfi_layout *l, uint32_t stage) {
    const struct sfi_groups g = {
        .members = l->sharers / l->group, .stride = l->tp * l->group, .first = stage * l->tp * l->sharers, .groups = 1};
    struct sf_span span;
    sfi_span(base->scenario->topo, l->ranks_per_domain, &g, &span);
    return collective_line(base, SF_CALL_ALL_REDUCE, &span);
}

/* Weights of the mean layer on one rank. */
static void mean_layer(const struct sf_model *m, struct sfi_layout *out) {
    uint32_t tp = out->tp, ep = out->ep, etp = out->etp;
    double routed = m->experts > 0 ? (double)sf_model_routed(m, m->layers) / m->layers : 0;
    double router = (double)m->hidden * m->experts; /* like norms and ways down to latent vectors, on every tp rank */
    double latents = m->kv_rank > 0 ? (double)m->hidden * (m->q_rank + m->kv_rank + m->rope_dim) : 0;
    double whole = 2.0 * m->hidden + latents;
    double attention = ((double)sf_model_params_attention(m) - router - whole) / tp + whole;
    double dense = attention + (3.0 - m->plain) * m->hidden * sf_model_width(m, false) / tp;
    double beside = attention + router + (double)sf_model_params_shared(m) / tp;
    out->layer_dense = routed * beside + (1 - routed) * (m->experts > 0 && m->dense_ffn == 0 ? 0 : dense);
    out->layer_expert = routed * (double)sf_model_params_expert(m) / etp * m->experts / ep;
}

/* The same collective over the groups of all stages, in the best case. */
struct reduction {
    const struct sfi_base *base;
    struct sf_span span[3][SFI_MOST_SPANS]; /* dense, expert; across groups */
    uint32_t spans_n[3];
    double bytes[3]; /* one layer's matrices */
};

static double least_collective(const struct reduction *r, int space, int kind, double layers) {
    double least = INFINITY, bytes = r->bytes[space] * layers;
    for (uint32_t k = 0; k < sf_cost_kinds(r->base->cost); k++) {
        for (uint32_t i = 0; i < r->spans_n[space]; i++) {
            const struct sf_cost *cost = sf_cost_of(r->base->cost, k);
            least = fmin(least, sfi_collective_s(cost, r->base->tuned, kind, (uint64_t)bytes, &r->span[space][i]));
        }
    }
    return bytes > 0 ? least / layers : 0;
}

static double least_of(const struct reduction *r, int kind, double layers) {
    return least_collective(r, 0, kind, layers) + least_collective(r, 1, kind, layers);
}

/* At least those of a layer that are reduced in buckets of their own, with norms, biases and routers. */
static double small_weights(const struct sf_model *m) {
    double latents = m->kv_rank > 0 ? (double)m->hidden * (m->q_rank + m->kv_rank + m->rope_dim) : 0;
    double widths = 16.0 * m->hidden + 2.0 * (m->ffn + m->dense_ffn + m->shared_ffn) + (double)sf_model_qkv_width(m);
    return widths + (double)m->hidden * m->experts + latents;
}

static void see_span(const struct sfi_base *base, const struct sfi_layout *l, int space, const struct sfi_groups *one,
                     struct reduction *out) {
    struct sfi_groups g = *one;
    struct sf_span span;
    g.groups = 1;
    sfi_span(base->scenario->topo, l->ranks_per_domain, &g, &span);
    span.kind = span.domains > 1 ? SF_ROUTE_LEAF : SF_ROUTE_DOMAIN;
    sfi_add_span(out->span[space], &out->spans_n[space], &span);
}

/* What no placement improves on: as few domains as can be, equally many members in each. */
static struct sf_span most_even(const struct sf_topo *topo, uint32_t members) {
    uint32_t domains = (members - 1) / sf_topo_domain_gpus(topo) + 1;
    return (struct sf_span){.members = members,
                            .domains = domains,
                            .min_per_domain = members / domains,
                            .kind = domains > 1 ? SF_ROUTE_LEAF : SF_ROUTE_DOMAIN};
}

static void find_reduction(const struct sfi_base *base, const struct sfi_layout *l, struct reduction *out) {
    const struct sf_model *m = &base->scenario->model;
    *out = (struct reduction){.base = base,
                              .bytes = {fmax(l->layer_dense - small_weights(m), 0) * base->weight_bytes,
                                        l->layer_expert * base->weight_bytes}};
    out->bytes[2] = l->group < l->sharers ? (out->bytes[0] + out->bytes[1] * l->experts) / l->group : 0;
    for (uint32_t stage = 0; stage < l->pp; stage++) {
        uint32_t first = stage * l->tp * l->sharers, groups = l->sharers / l->group, most = l->ranks_per_domain;
        for (uint32_t i = 0; i < groups && i < most; i++) {
            see_span(base, l, 0, &(struct sfi_groups){.members = l->group, .stride = l->tp, .first = first}, out);
            see_span(
                base, l, 1,
                &(struct sfi_groups){.members = l->group / l->experts, .stride = l->tp * l->experts, .first = first},
                out);
            first += l->tp * l->group;
        }
        see_span(
            base, l, 2,
            &(struct sfi_groups){.members = groups, .stride = l->tp * l->group, .first = stage * l->tp * l->sharers},
            out);
    }
    const uint32_t members[] = {l->group, l->group / l->experts, l->sharers / l->group};
    for (int space = 0; space < 3; space++) {
        const struct sf_span even = most_even(base->scenario->topo, members[space]);
        sfi_add_span(out->span[space], &out->spans_n[space], &even);
    }
}

/* No other order of the axes is allowed. */
static bool stages_last(const struct sf_pins *pins) {
    return pins->order.n == 1 && pins->order.value[0] == SF_ORDER_PP_LAST;
}

/* The fastest NIC there is, where stages are so large that neighbours are never in one domain. */
static double least_s_per_byte(const struct sfi_base *base, const struct sfi_layout *l) {
    bool apart = l->tp * l->sharers >= sf_topo_domain_gpus(base->scenario->topo) && stages_last(&base->scenario->pins);
    uint64_t most = 0;
    for (uint32_t i = 0; i < sf_topo_stocks(base->scenario->topo); i++) {
        struct sf_stock stock;
        sf_topo_stock(base->scenario->topo, i, &stock);
        most = stock.out != NULL && stock.out->peak_bytes_per_s > most ? stock.out->peak_bytes_per_s : most;
    }
    return apart && most > 0 ? 1 / (double)most : 0;
}

/* Times rise ever more slowly with the bytes, so that between one layer and all they are above the straight line; a
 * tenth of what is fixed is left out where they are not quite so. */
static struct sfi_line line_of_layers(double one, double all, uint32_t layers) {
    double slope = layers > 1 ? fmax(all - one, 0) / (layers - 1) : 0;
    return (struct sfi_line){.fixed_s = 0.9 * fmax(one - slope, 0), .s_per_unit = slope};
}

static void find_least(const struct sfi_base *base, struct sfi_layout *l) {
    struct reduction r;
    find_reduction(base, l, &r);
    uint32_t layers = base->scenario->model.layers, routed = sf_model_routed(&base->scenario->model, layers);
    l->least_s_per_byte = least_s_per_byte(base, l);
    if (routed > 0 && routed < layers) {
        return; /* no layer is like the mean one */
    }
    l->least_scatter = least_of(&r, SF_CALL_REDUCE_SCATTER, 1);
    l->least_gather = least_of(&r, SF_CALL_ALL_GATHER, 1);
    l->least_all_reduce = least_of(&r, SF_CALL_ALL_REDUCE, 1);
    l->least_across = least_collective(&r, 2, SF_CALL_ALL_REDUCE, 1);
    l->least_scatter_flow = least_of(&r, SF_CALL_REDUCE_SCATTER, layers);
    l->least_gather_flow = least_of(&r, SF_CALL_ALL_GATHER, layers);
    l->scatter_line = line_of_layers(l->least_scatter, layers * l->least_scatter_flow, layers);
    l->gather_line = line_of_layers(l->least_gather, layers * l->least_gather_flow, layers);
}

static double head_tables(const struct sf_scenario *s, const struct sfi_layout *l) {
    const struct sf_model *m = &s->model;
    bool copies = l->pp > 1 || s->job.canonical; /* of a table that both ends read */
    double joints = 2.0 * m->mtp * m->hidden * m->hidden;
    return (m->tied ? 0 : 1) + ((m->tied || m->mtp > 0) && copies ? 1 : 0) + joints / l->table;
}

void sfi_layout_init(const struct sfi_base *base, const struct sf_plan *degrees, struct sfi_layout *out) {
    uint32_t gpus = base->scenario->job.gpus, cp = sf_plan_cp(degrees);
    out->tp = degrees->tp;
    out->cp = cp;
    out->ep = degrees->ep;
    out->etp = sf_plan_etp(degrees);
    out->experts = sf_plan_ep_beside_tp(degrees);
    out->pp = degrees->pp;
    out->sharers = gpus / out->tp / out->pp;
    out->dp = out->sharers / cp;
    out->zero_group = degrees->zero_group;
    out->group = degrees->zero_group > 0 && degrees->zero_group < out->sharers ? degrees->zero_group : out->sharers;
    out->ranks_per_domain = sfi_ranks_per_domain(base->scenario->topo, gpus, out->tp, sfi_shared(cp, out->experts));
    if (out->ranks_per_domain == 0) {
        return;
    }
    mean_layer(&base->scenario->model, out);
    out->table = (double)sf_model_rows(&base->scenario->model) * base->scenario->model.hidden / out->tp;
    out->head_tables = head_tables(base->scenario, out);
    out->further = base->scenario->model.mtp;
    find_least(base, out);
    out->p2p = out->pp > 1 ? message_line(base->cost, out) : (struct sfi_line){0, 0};
    for (uint32_t stage = 0; stage < out->pp; stage++) {
        price_group(base, out, stage, 1, &out->dense[stage]);
        out->expert[stage] = out->dense[stage];
        if (out->experts > 1) {
            price_group(base, out, stage, out->experts, &out->expert[stage]);
        }
        out->across[stage] = out->group < out->sharers ? price_across(base, out, stage) : (struct sfi_line){0, 0};
    }
}

/* Of n weights, with the squares of their gradients where these are clipped. */
static double update_s(const struct sf_scenario *s, const struct sf_cost *cost, int64_t n) {
    enum sf_grade grade;
    struct sf_call call = {.kind = SF_CALL_ADAMW, .comm = SF_NONE, .imm = {1, 1}, .dims = {n}};
    call.dtype = (uint8_t)(s->job.precision == SF_F32 ? SF_F32 : SF_BF16);
    call.flags = s->job.lean_moments ? SF_CALL_LEAN_FLAG : 0;
    double seconds = sf_ps_to_s(sf_cost_call(cost, &call, &grade));
    call.kind = SF_CALL_SUMSQ;
    call.flags = 0;
    return seconds + (s->job.clip_norm > 0 ? sf_ps_to_s(sf_cost_call(cost, &call, &grade)) : 0);
}

void sfi_base_init(const struct sf_scenario *s, const struct sf_cost *cost, struct sfi_base *out) {
    const int64_t small = 1 << 16, large = 1 << 28;
    bool f32 = s->job.precision == SF_F32;
    *out = (struct sfi_base){.scenario = s,
                             .cost = cost,
                             .weight_bytes = f32 ? 4 : 2,
                             .optimizer_bytes = (f32 ? 8 : 12) - (s->job.lean_moments ? 4 : 0)};
    double at_small = update_s(s, cost, small), at_large = update_s(s, cost, large);
    out->adamw = line_through(at_small, at_large, (double)small, (double)large);
    out->dispatch_s = sf_ps_to_s(sf_cost_dispatch(cost));
}
