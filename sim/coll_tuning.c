/* NCCL's tuning model: what it expects every algorithm and protocol to take. Its own units: microseconds, GB/s; nodes
 * are scale-up domains. */
#include "sim/coll_internal.h"

struct estimate {
    const struct sfi_ask *a;
    const struct sfi_tuning *t;
    struct sfi_graph g;
    int algorithm, protocol;
    uint32_t column; /* of tables by number of nodes */
    uint32_t steps;
    double local; /* ranks per node, as a mean */
};

static double least(double a, double b) {
    return a < b ? a : b;
}

static bool gathers(enum sf_coll_op op) {
    return op == SF_COLL_ALL_GATHER || op == SF_COLL_REDUCE_SCATTER;
}

static bool considers(const struct sfi_ask *a, int algorithm, int protocol) {
    bool simple = protocol == SF_COLL_SIMPLE, reduces = a->op == SF_COLL_ALL_REDUCE, one = a->domains == 1;
    switch (algorithm) {
    case SF_COLL_RING:
        return a->op != SF_COLL_ALL_TO_ALL;
    case SF_COLL_TREE:
        return reduces;
    case SF_COLL_COLLNET:
        return simple && reduces && a->c->sharp && !one;
    case SF_COLL_NVLS:
        return simple && (reduces ? one || a->c->sharp : one && gathers(a->op));
    case SF_COLL_NVLS_TREE:
        return simple && reduces && !one;
    case SF_COLL_PAT:
        return simple && gathers(a->op) && a->local == 1 && a->n == a->domains;
    default:
        return false;
    }
}

static double nvls_channel(const struct estimate *e) {
    double n = e->g.channels, intra = e->g.intra * e->t->nvls_share * (n - 1) / n;
    bool tree = e->algorithm == SF_COLL_NVLS_TREE;
    intra *= gathers(e->a->op) ? (e->local - 1) / e->local : 2.0; /* all_reduce runs both ways at once */
    if (e->a->domains == 1) {
        return intra;
    }
    double bw = least(intra, e->g.inter * (e->a->domains <= 2 && tree ? 2 : 1));
    return tree ? least(bw, e->t->nvls_tree_channel[e->column]) : bw;
}

static double ring_bus(const struct estimate *e, double bus) {
    const double *ll = e->column == 0 ? e->t->ll_max : e->t->host_ll_max;
    if (e->protocol == SF_COLL_LL) {
        return least(ll[e->column], bus * e->t->ring_ll_share);
    }
    if (e->protocol == SF_COLL_LL128) {
        return least(bus * e->t->ring_ll128_share, e->g.channels * e->t->ring_ll128_channel[e->column]);
    }
    return bus;
}

static double tree_bus(const struct estimate *e, double bus) {
    const double *ll = e->column == 0 ? e->t->ll_max : e->t->host_ll_max;
    bus = least(bus * e->t->tree_share, e->g.channels * e->t->tree_channel[e->column]);
    if (e->protocol == SF_COLL_LL) {
        return least(bus / e->t->tree_ll_divisor, ll[e->column]);
    }
    if (e->protocol == SF_COLL_LL128) {
        return least(bus * e->t->tree_ll128_share[e->column], e->g.channels * e->t->tree_ll128_channel[e->column]);
    }
    return bus;
}

static double collnet_bus(const struct estimate *e, double bus) {
    double crowd = e->local / e->g.channels; /* GPUs per NIC */
    return bus / (crowd - (crowd - 1) / 2) * e->t->collnet_share;
}

/* Bytes of the collective per second, not of the bus. */
static double bandwidth(const struct estimate *e) {
    bool collnet = e->algorithm == SF_COLL_COLLNET;
    double bus = e->g.channels * (e->a->domains <= 2 || collnet ? e->g.intra : e->g.inter);
    double share = (double)e->a->n / e->steps;
    switch (e->algorithm) {
    case SF_COLL_RING:
        return ring_bus(e, bus) * share;
    case SF_COLL_TREE:
        return tree_bus(e, bus) * 0.5;
    case SF_COLL_COLLNET:
        return collnet_bus(e, bus) * 0.5;
    case SF_COLL_PAT:
        return bus * e->t->pat_share;
    default:
        bus = e->g.channels < 2 ? 0 : e->g.channels * nvls_channel(e);
        return gathers(e->a->op) ? bus : bus * share;
    }
}

static uint32_t log2_floor(uint64_t n) {
    return n == 0 ? 0 : 63u - (uint32_t)__builtin_clzll(n);
}

static double ring_latency(const struct estimate *e, double intra, double inter) {
    uint32_t domains = e->a->domains;
    if (e->a->op == SF_COLL_BROADCAST) {
        return domains > 1 ? inter : intra;
    }
    if (domains > 1) {
        double posts = e->t->network_post * (e->protocol == SF_COLL_SIMPLE ? e->t->simple_posts : 1);
        intra = intra > posts ? intra : posts;
    }
    uint32_t across = domains == 1 ? 0 : e->a->op == SF_COLL_ALL_REDUCE ? 2 * (domains - 1) : domains - 1;
    return (e->steps - across) * intra + across * inter;
}

static double latency(const struct estimate *e) {
    const struct sfi_tuning *t = e->t;
    int a = e->algorithm, p = e->protocol;
    uint32_t domains = e->a->domains;
    double intra = t->nvlink_hop[a][p], chain = (double)(uint32_t)e->local - 1;
    double inter = t->network_hop[e->local == 1.0 ? SF_COLL_TREE : a][p], levels = log2_floor(domains);
    switch (a) {
    case SF_COLL_RING:
        return t->base[a][p] + ring_latency(e, intra, inter);
    case SF_COLL_TREE:
        return t->base[a][p] + 2 * (chain * intra + levels * inter);
    case SF_COLL_COLLNET:
        return t->base[a][p] + 2 * (least(1, chain) * intra + chain * t->collnet_arity) + inter;
    case SF_COLL_NVLS:
        return intra + (domains > 1 ? inter : 0);
    case SF_COLL_NVLS_TREE:
        return t->base[a][p] + intra + 2 * levels * inter;
    default:
        return t->base[a][p] + levels * inter / t->pat_hop_divisor + e->a->n * t->pat_rank;
    }
}

static double corrected(const struct estimate *e, double bw) {
    uint32_t size = log2_floor((uint64_t)e->a->bytes >> 6);
    bool tree = e->algorithm == SF_COLL_TREE && size < SFI_CORRECTION - 1;
    return tree ? bw * e->t->tree_correction[e->protocol][size] : bw;
}

double sfi_tuning_s(const struct sfi_ask *a, int algorithm, int protocol) {
    const double micro = 1e-6, giga = 1e9;
    const uint32_t plateau_bytes = 64;
    const struct sfi_graphs *graphs = a->domains > 1 ? a->c->across : a->c->inside;
    if (a->n < 2 || algorithm >= (int)SFI_TUNED || !considers(a, algorithm, protocol)) {
        return -1;
    }
    struct estimate e = {a, &a->c->tuning, graphs[a->local].of[algorithm], algorithm, protocol, 0, a->n, 0};
    e.column = a->domains <= 2 ? a->domains - 1 : 2;
    e.steps = a->op == SF_COLL_ALL_REDUCE ? 2 * (a->n - 1) : gathers(a->op) ? a->n - 1 : a->n;
    e.local = (double)a->n / a->domains;
    double bw = e.g.channels == 0 ? 0 : corrected(&e, bandwidth(&e)), us = latency(&e);
    if (bw <= 0) {
        return -1;
    }
    if (algorithm == SF_COLL_RING && protocol == SF_COLL_SIMPLE && a->domains > 1 && a->op == SF_COLL_ALL_REDUCE &&
        a->bytes / ((double)sfi_channels(a, algorithm) * a->n) >= plateau_bytes) {
        us *= e.t->ring_plateau;
    }
    return us * micro + a->bytes / (giga * bw);
}
