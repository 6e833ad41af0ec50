/* How many GPUs a job had better use when a cluster has lost some. Degrees must divide what they divide, so the most
 * that can be used is often much slower than fewer in a better shape. Shapes are compared by how many layers the last
 * stage has waited for when it is done: coarse, but the search that follows stays within the one number found here. */
#include <math.h>

#include "planner/estimate.h"
#include "planner/search_internal.h"
#include "sim/seats.h"

static bool is_tp(const struct sf_scenario *s, uint32_t tp) {
    const struct sf_model *m = &s->model;
    return sfi_pin_allows(&s->pins.tp, tp) && tp <= sf_topo_domain_gpus(s->topo) && sf_model_splits(m, tp);
}

/* Ranks that share a sequence, in the domain that their group of tp is in unless somebody wants it otherwise. */
static bool is_cp(const struct sf_scenario *s, uint32_t tp, uint32_t cp) {
    bool near = (uint64_t)tp * cp <= sf_topo_domain_gpus(s->topo) || s->pins.cp.n > 0;
    return sfi_pin_allows(&s->pins.cp, cp) &&
           (cp == 1 || (near && s->job.precision != SF_F32 && s->job.seq_len_tokens % (2 * (uint64_t)cp) == 0));
}

static bool has_ep(const struct sf_scenario *s, uint64_t sharers) {
    uint32_t experts = s->model.experts > 0 ? s->model.experts : 1;
    for (uint32_t ep = 1; ep <= experts; ep++) {
        if (experts % ep == 0 && sharers % ep == 0 && sfi_pin_allows(&s->pins.ep, ep)) {
            return true;
        }
    }
    return false;
}

static bool is_dp(const struct sf_scenario *s, uint64_t dp, uint64_t cp) {
    return dp <= SF_MAX_RANKS && sfi_pin_allows(&s->pins.dp, (uint32_t)dp) && has_ep(s, dp * cp) &&
           (!s->job.canonical || (dp & (dp - 1)) == 0);
}

/* What finds seats with fewer does so with less still. */
static uint32_t seats_for(const struct sf_topo *topo, uint32_t limit, uint32_t tp) {
    uint32_t good = 0, bad = limit + 1;
    while (bad - good > 1) {
        uint32_t middle = bad == limit + 1 && good == 0 ? limit : good + (bad - good) / 2;
        if (sfi_ranks_per_domain(topo, middle, tp, 1) > 0) {
            good = middle;
        } else {
            bad = middle;
        }
    }
    return good;
}

/* Layers of one rank's work from the first microbatch to the last, waiting for other stages included. */
static double step_layers(const struct sf_scenario *s, uint64_t share, uint64_t dp, uint64_t pp) {
    uint64_t microbatches = s->job.global_batch_sequences / dp, layers = s->model.layers;
    uint64_t chunks_most = pp > 1 && microbatches % pp == 0 ? layers / pp : 1;
    double least = INFINITY;
    for (uint64_t v = 1; v <= chunks_most; v++) {
        uint64_t chunk = (layers + pp * v - 1) / (pp * v);
        least = fmin(least, (double)((microbatches * v + pp - 1) * chunk) / (double)share);
    }
    return least;
}

/* Weights and gradients in two bytes each, experts spread as far as they can be, must leave half of the memory. */
static bool is_small(const struct sf_scenario *s, uint64_t tp, uint64_t sharers, uint64_t pp) {
    const struct sf_model *m = &s->model;
    uint64_t experts = m->experts > 0 ? m->experts : 1, ep = experts;
    while (ep > 1 && (experts % ep != 0 || sharers % ep != 0 || !sfi_pin_allows(&s->pins.ep, (uint32_t)ep))) {
        ep--;
    }
    double expert = (double)sf_model_params_expert(m) * (double)(experts / ep);
    double stage = ((double)sf_model_params_attention(m) + expert) * ceil((double)m->layers / (double)pp);
    return 4.0 * stage / (double)tp < 0.5 * (double)sf_scenario_memory(s);
}

struct best {
    double layers;
    uint64_t gpus;
};

static void try_stages(const struct sf_scenario *s, uint64_t tp, uint64_t cp, uint64_t dp, uint64_t limit,
                       struct best *best) {
    uint64_t most = s->model.layers < SF_MAX_STAGES ? s->model.layers : SF_MAX_STAGES;
    uint64_t ranks = tp * cp * dp;
    for (uint64_t pp = 1; pp <= most && ranks * pp <= limit; pp++) {
        if (!sfi_pin_allows(&s->pins.pp, (uint32_t)pp) || !is_small(s, tp, cp * dp, pp)) {
            continue;
        }
        double layers = step_layers(s, tp * cp, dp, pp);
        if (layers < best->layers || (layers <= best->layers && ranks * pp > best->gpus)) {
            *best = (struct best){layers, ranks * pp};
        }
    }
}

static void try_groups(const struct sf_scenario *s, uint32_t tp, uint32_t cp, uint64_t gpus, struct best *best) {
    uint64_t batch = s->job.global_batch_sequences;
    for (uint64_t dp = 1; dp <= batch && (uint64_t)tp * cp * dp <= gpus; dp++) {
        if (batch % dp == 0 && is_dp(s, dp, cp)) {
            try_stages(s, tp, cp, dp, gpus, best);
        }
    }
}

uint32_t sf_scenario_best_gpus(const struct sf_scenario *s, uint32_t limit) {
    uint32_t domain = sf_topo_domain_gpus(s->topo);
    struct best best = {INFINITY, 0};
    for (uint32_t tp = 1; tp <= domain; tp++) {
        for (uint32_t cp = 1; is_tp(s, tp) && cp <= SF_MAX_STAGES && (uint64_t)tp * cp <= limit; cp++) {
            if (is_cp(s, tp, cp)) {
                try_groups(s, tp, cp, seats_for(s->topo, limit, tp * cp <= domain ? tp * cp : tp), &best);
            }
        }
    }
    return (uint32_t)best.gpus;
}
