/* Pricing messages and collectives. */
#include "sim/cost_internal.h"

#include <math.h>

/* The best of each kind: other routes end in another kind of GPU. */
static void see_route(struct sf_cost *c, const struct sf_topo *planned, uint32_t src, uint32_t dst) {
    struct sf_route r;
    sf_topo_route(planned, src, dst, &r);
    if (r.alone_bytes_per_s > c->alone[r.kind]) {
        c->alone[r.kind] = r.alone_bytes_per_s;
    }
    if (r.bytes_per_s > c->tier[r.kind].bytes_per_s) {
        c->tier[r.kind] = (struct sfi_tier){r.bytes_per_s, r.latency_ps};
    }
}

/* The routes of one GPU to one seat of every domain show every tier there is. */
static void see_routes(struct sf_cost *c, const struct sf_topo *planned, uint32_t src) {
    uint32_t gpus = sf_topo_gpus(c->topo), domain = sf_topo_domain_gpus(c->topo), own = src / domain * domain;
    see_route(c, planned, src, src);
    for (uint32_t g = own; g < own + domain && g < gpus; g++) {
        if (g != src) {
            see_route(c, planned, src, g);
        }
    }
    for (uint64_t g = 0; g < gpus; g += domain) {
        if (g != own) {
            see_route(c, planned, src, (uint32_t)g + src % domain);
            see_route(c, planned, src, (uint32_t)g + (src + 1) % domain);
        }
    }
}

/* As planned: what an overlay hurts is counted where it is, against this. */
static int see_planned(struct sf_cost *c, struct sf_err *err) {
    struct sf_topo_counts n;
    struct sf_topo *planned = NULL;
    sf_topo_count(c->topo, &n);
    if (!sfi_is_hurt(&n)) {
        see_routes(c, c->topo, c->stock.first_gpu);
        return SF_OK;
    }
    SF_TRY(sf_topo_planned(c->topo, &planned, err));
    see_routes(c, planned, c->stock.first_gpu);
    sf_topo_free(planned);
    return SF_OK;
}

/* Tiers this cluster lacks take the numbers of the nearest lower one, so that no caller has to ask. */
int sfi_cost_tiers(struct sf_cost *c, struct sf_err *err) {
    SF_TRY(see_planned(c, err));
    const struct sf_link_class *up = c->stock.up, *out = c->stock.out;
    const struct sf_switch_class *sw = sf_topo_switch(c->topo);
    c->incast_share = sw ? sw->incast_share : 1.0;
    if (c->tier[SF_ROUTE_DOMAIN].bytes_per_s == 0 && up) {
        c->tier[SF_ROUTE_DOMAIN] = (struct sfi_tier){up->bytes_per_s, up->latency_ps};
    }
    if (c->tier[SF_ROUTE_LEAF].bytes_per_s == 0 && out) {
        c->tier[SF_ROUTE_LEAF] = (struct sfi_tier){out->bytes_per_s, out->latency_ps};
    }
    uint64_t own = c->tier[SF_ROUTE_DOMAIN].bytes_per_s;
    c->reduce_bytes_per_s = up && up->reduce_bytes_per_s > own ? up->reduce_bytes_per_s : own;
    for (int k = SF_ROUTE_DOMAIN; k <= SF_ROUTE_CORE; k++) {
        if (c->tier[k].bytes_per_s == 0) {
            c->tier[k] = c->tier[k - 1];
            c->alone[k] = c->alone[k - 1];
        }
    }
    return SF_OK;
}

static uint64_t tier_of(const struct sf_cost *c, uint32_t gpu, uint32_t route_kind) {
    uint8_t kind_of_stock[SF_KINDS_MAX] = {0};
    if (c->kinds_n > 0) {
        sf_kinds_of(c->topo, kind_of_stock);
        c = c->kind[kind_of_stock[sf_topo_stock_of(c->topo, gpu)]];
    }
    return c->tier[route_kind].bytes_per_s;
}

int sf_cost_way_left(const struct sf_cost *c, uint32_t src, uint32_t dst, double *left, struct sf_err *err) {
    static const struct sf_route_ask ask = {.routing = -1, .plane = SF_ALL_PLANES};
    struct sf_route r;
    sf_topo_route(c->topo, src, dst, &r);
    if (r.bytes_per_s == 0) {
        SF_TRY(sf_topo_route_with(c->topo, src, dst, &ask, &r, err));
        return sf_fail(err, SF_E_INPUT, "the way from gpu %u to gpu %u carries nothing", src, dst);
    }
    uint64_t a = tier_of(c, src, r.kind), b = tier_of(c, dst, r.kind), whole = a < b ? a : b;
    double share = (double)r.bytes_per_s / (double)whole;
    *left = share < *left ? share : *left;
    return SF_OK;
}

struct sfi_tier sfi_cost_link(const struct sf_cost *c, const struct sf_route *route) {
    struct sfi_tier link = {route->bytes_per_s, route->latency_ps};
    if (route->kind == SF_ROUTE_DOMAIN && c->messages_measured) {
        link = c->message;
    }
    return link;
}

sf_time_ps sf_cost_message(const struct sf_cost *c, uint64_t bytes, const struct sf_route *route) {
    struct sfi_tier link = sfi_cost_link(c, route);
    return link.bytes_per_s > 0 ? link.latency_ps + sf_transfer_ps(bytes, link.bytes_per_s) : link.latency_ps;
}

struct ring {              /* what the two levels of a group come to */
    double members, local; /* local: members in the emptiest domain */
    double up, out;        /* bytes per second of one member: scale-up link; share of the way out of the domain */
    double up_latency, out_latency, steps_latency;
    double incast; /* share of `out` that is left where all send to all */
};

static struct ring ring_of(const struct sf_cost *c, const struct sf_span *span) {
    const struct sfi_tier *up = &c->tier[SF_ROUTE_DOMAIN], *out = &c->tier[span->kind];
    struct ring r = {.members = span->members, .local = span->min_per_domain};
    double fullest = ceil(r.members / span->domains);
    r.up = (double)up->bytes_per_s;
    r.out = (double)(span->alone && c->alone[span->kind] > 0 ? c->alone[span->kind] : out->bytes_per_s);
    r.incast = r.members - r.local > 1.0 ? c->incast_share : 1.0;
    r.up_latency = sf_ps_to_s(up->latency_ps);
    r.out_latency = span->domains > 1 ? sf_ps_to_s(out->latency_ps) : 0.0;
    r.steps_latency = (fullest - 1.0) * r.up_latency + (span->domains - 1.0) * r.out_latency;
    return r;
}

/* Once around the ring. */
static double gather_s(const struct ring *r, double bytes, bool leaves) {
    double rate = leaves ? fmin(r->up, r->local * r->out) : r->up;
    return rate > 0.0 ? (r->members - 1.0) / r->members * bytes / rate + r->steps_latency : r->steps_latency;
}

/* Everybody sends its own slice to everybody: the way out and the way inside run side by side. */
static double exchange_s(const struct ring *r, double bytes, bool leaves) {
    double outside = leaves ? bytes * (r->members - r->local) / r->members : 0.0;
    double inside = bytes * (r->members - 1.0) / r->members - outside;
    double out_s = outside > 0.0 && r->out > 0.0 ? outside / (r->out * r->incast) : 0.0;
    double in_s = inside > 0.0 && r->up > 0.0 ? inside / r->up : 0.0;
    return fmax(out_s, in_s) + fmax(r->up_latency, r->out_latency);
}

static sf_time_ps collective_of_kind(const struct sf_cost *c, int kind, uint64_t bytes, const struct sf_span *span) {
    if (c->coll && !c->collectives_measured) {
        const struct sf_coll_query q = {(enum sf_coll_op)sf_call_collective(kind), bytes, *span};
        struct sf_coll_choice chosen;
        sf_coll_choose(c->coll, &q, &chosen);
        return sf_s_to_ps(chosen.time_s);
    }
    struct ring r = ring_of(c, span);
    bool leaves = span->domains > 1;
    double found = leaves ? 1.0 : sfi_points_factor(c, kind, (double)bytes, span->members);
    switch (kind) {
    case SF_CALL_ALL_REDUCE:
        r.up = leaves ? r.up : (double)c->reduce_bytes_per_s;
        return sf_s_to_ps(2.0 * found * gather_s(&r, (double)bytes, leaves));
    case SF_CALL_ALL_TO_ALL:
        return sf_s_to_ps(exchange_s(&r, (double)bytes, leaves));
    default:
        return sf_s_to_ps(found * gather_s(&r, (double)bytes, leaves));
    }
}

/* Everybody waits for the slowest member. */
sf_time_ps sf_cost_collective(const struct sf_cost *c, int kind, uint64_t bytes, const struct sf_span *span) {
    sf_time_ps most = 0;
    if (span->members <= 1) {
        return 0;
    }
    if (c->kinds_n == 0) {
        return collective_of_kind(c, kind, bytes, span);
    }
    for (uint32_t i = 0; i < c->kinds_n; i++) {
        bool member = span->kinds == 0 || (span->kinds >> i & 1) != 0;
        sf_time_ps t = member ? collective_of_kind(c->kind[i], kind, bytes, span) : 0;
        most = t > most ? t : most;
    }
    return most;
}

uint64_t sfi_cost_host_rate(const struct sf_cost *c) {
    const struct sf_link_class *l = c->stock.cpu;
    double rate = l ? (double)l->bytes_per_s / l->sharers
                    : (double)c->device->memory_bytes_per_s * c->device->memory_efficiency / 2;
    return (uint64_t)rate;
}

sf_time_ps sf_cost_host_copy(const struct sf_cost *c, uint64_t bytes) {
    sf_time_ps slowest = 0;
    for (uint32_t kind = 0; kind < sf_cost_kinds(c); kind++) {
        const struct sf_cost *own = sf_cost_of(c, kind);
        const struct sf_link_class *l = own->stock.cpu;
        double rate = (double)sfi_cost_host_rate(own);
        sf_time_ps t = sf_s_to_ps((l ? sf_ps_to_s(l->latency_ps) : 0) + (double)bytes / rate);
        slowest = t > slowest ? t : slowest;
    }
    return slowest;
}
