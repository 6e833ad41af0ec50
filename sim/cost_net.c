/* Pricing messages and collectives. */
#include "sim/cost_internal.h"

#include <math.h>

static void see_route(struct sf_cost *c, uint32_t src, uint32_t dst) {
    struct sf_route r;
    sf_topo_route(c->topo, src, dst, &r);
    if (r.bytes_per_s > 0 && c->tier[r.kind].bytes_per_s == 0) {
        c->tier[r.kind] = (struct sfi_tier){r.bytes_per_s, r.latency_ps};
    }
}

/* The routes of the first GPU to one seat of every domain show every tier there is. Tiers this cluster lacks take the
 * numbers of the nearest lower one, so that no caller has to ask. */
void sfi_cost_tiers(struct sf_cost *c) {
    uint32_t gpus = sf_topo_gpus(c->topo), domain = sf_topo_domain_gpus(c->topo);
    see_route(c, 0, 0);
    for (uint32_t g = 1; g < gpus && g < domain; g++) {
        see_route(c, 0, g);
    }
    for (uint64_t g = domain; domain > 0 && g < gpus; g += domain) {
        see_route(c, 0, (uint32_t)g);
        if (g + 1 < gpus) {
            see_route(c, 0, (uint32_t)g + 1);
        }
    }
    const struct sf_link_class *up = sf_topo_scale_up(c->topo), *out = sf_topo_scale_out(c->topo);
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
        }
    }
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
};

static struct ring ring_of(const struct sf_cost *c, const struct sf_span *span) {
    const struct sfi_tier *up = &c->tier[SF_ROUTE_DOMAIN], *out = &c->tier[span->kind];
    struct ring r = {.members = span->members, .local = span->min_per_domain};
    double fullest = ceil(r.members / span->domains);
    r.up = (double)up->bytes_per_s;
    r.out = (double)out->bytes_per_s;
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
    double out_s = outside > 0.0 && r->out > 0.0 ? outside / r->out : 0.0;
    double in_s = inside > 0.0 && r->up > 0.0 ? inside / r->up : 0.0;
    return fmax(out_s, in_s) + fmax(r->up_latency, r->out_latency);
}

static enum sf_coll_op op_of(int kind) {
    switch (kind) {
    case SF_CALL_ALL_REDUCE:
        return SF_COLL_ALL_REDUCE;
    case SF_CALL_REDUCE_SCATTER:
        return SF_COLL_REDUCE_SCATTER;
    case SF_CALL_ALL_TO_ALL:
        return SF_COLL_ALL_TO_ALL;
    default:
        return SF_COLL_ALL_GATHER;
    }
}

sf_time_ps sf_cost_collective(const struct sf_cost *c, int kind, uint64_t bytes, const struct sf_span *span) {
    if (span->members <= 1) {
        return 0;
    }
    if (c->coll && !c->collectives_measured) {
        const struct sf_coll_query q = {op_of(kind), bytes, *span};
        struct sf_coll_choice chosen;
        sf_coll_choose(c->coll, &q, &chosen);
        return sf_s_to_ps(chosen.time_s);
    }
    struct ring r = ring_of(c, span);
    bool leaves = span->domains > 1;
    switch (kind) {
    case SF_CALL_ALL_REDUCE:
        r.up = leaves ? r.up : (double)c->reduce_bytes_per_s;
        return sf_s_to_ps(2.0 * gather_s(&r, (double)bytes, leaves));
    case SF_CALL_ALL_TO_ALL:
        return sf_s_to_ps(exchange_s(&r, (double)bytes, leaves));
    default:
        return sf_s_to_ps(gather_s(&r, (double)bytes, leaves));
    }
}
