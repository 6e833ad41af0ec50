#include "planner/placement.h"

#include "planner/estimate.h"
#include "planner/search_internal.h"
#include "sim/seats.h"

static uint32_t multiple_below(uint32_t most, uint64_t of) {
    return of == 0 || of > most ? 0 : most - most % (uint32_t)of;
}

/* The most seats, in whole tp groups, after so many of which a stage ends too. */
static uint32_t aligned(uint32_t most, uint32_t tp, uint32_t stage) {
    for (uint32_t used = most - most % tp; used > most / 2; used -= tp) {
        if (stage % used == 0) {
            return used;
        }
    }
    return 0;
}

struct tilings {
    uint32_t n, used[5];
};

static void add_tiling(const struct sf_scenario *s, struct tilings *t, uint32_t used) {
    for (uint32_t i = 0; i < t->n; i++) {
        if (t->used[i] == used) {
            return;
        }
    }
    const struct sf_blocks equal = {.ranks = s->job.gpus, .most = used};
    if (used > 0 && sf_seats_fit(s->topo, &equal)) {
        t->used[t->n++] = used;
    }
}

/* Groups that no domain holds are left as they are: which tiling cuts them best is a matter of their size alone. */
static struct tilings tilings_of(const struct sf_scenario *s, const struct sf_plan *p) {
    uint32_t domain = sf_topo_domain_gpus(s->topo);
    uint64_t group = (uint64_t)p->tp * sfi_shared(sf_plan_cp(p), sf_plan_ep_beside_tp(p));
    struct tilings t = {1, {p->ranks_per_domain}};
    if (group <= domain) {
        add_tiling(s, &t, multiple_below(domain, p->tp));
        add_tiling(s, &t, multiple_below(domain, group));
        add_tiling(s, &t, multiple_below(domain, group * p->pp));
        add_tiling(s, &t, aligned(domain, p->tp, sf_plan_stage_stride(p)));
    }
    return t;
}

/* Two orders are the same where the axes that they swap have one place. */
static bool differs(const struct sf_plan *p, int order) {
    uint32_t inner = sfi_shared(sf_plan_cp(p), sf_plan_ep_beside_tp(p));
    bool replicas = (uint64_t)p->dp * sf_plan_cp(p) > inner;
    if (p->pp == 1 || order == SF_ORDER_PP_LAST) {
        return p->pp > 1;
    }
    return order == SF_ORDER_PP_MIDDLE ? replicas : inner > 1;
}

uint32_t sf_placements(const struct sf_scenario *s, const struct sf_plan *plan,
                       struct sf_placement out[SF_PLACEMENTS_MOST]) {
    uint32_t n = 0;
    out[n++] = (struct sf_placement){plan->order, plan->ranks_per_domain};
    for (int order = 0; order < SF_ORDERS_N; order++) {
        bool own = order == plan->order;
        if (!own && (!differs(plan, order) || !sfi_pin_allows(&s->pins.order, (uint32_t)order))) {
            continue;
        }
        struct sf_plan p = *plan;
        p.order = order;
        const struct tilings t = tilings_of(s, &p);
        for (uint32_t i = own ? 1 : 0; i < t.n && n < SF_PLACEMENTS_MOST; i++) {
            out[n++] = (struct sf_placement){order, t.used[i]};
        }
    }
    return n;
}

void sf_spread_of(const struct sf_prog *prog, const struct sf_topo *topo, uint32_t comm, struct sf_spread_of *out) {
    uint32_t n = sf_prog_ranks(prog), size = sf_prog_comm_size(prog, comm), domain = sf_topo_domain_gpus(topo);
    *out = (struct sf_spread_of){.members = size, .domains_least = UINT32_MAX, .bound = (size - 1) / domain + 1};
    for (uint32_t r = 0; r < n; r++) {
        struct sf_span span;
        if (sf_prog_comm_index(prog, r, comm) != 0) {
            continue;
        }
        sf_span_of(prog, topo, comm, r, &span);
        out->groups++;
        out->domains_most = span.domains > out->domains_most ? span.domains : out->domains_most;
        out->domains_least = span.domains < out->domains_least ? span.domains : out->domains_least;
    }
}
