/* The part of a cluster that a job uses: endpoints on GPUs, the links of their routes, one path per pair. */
#include <string.h>

#include "core/arena.h"
#include "core/call.h"
#include "sim/net_pattern.h"
#include "sim/fair.h"

/* Buffers of one NCCL channel (src/init.cc, DEFAULT_*_BUFFSIZE): a receiver grants no more than this unacknowledged. */
static const uint64_t window_bytes[SF_COLL_PROTOCOLS_N] = {
    [SF_COLL_LL] = 8 * 512 * 8 * 16, [SF_COLL_LL128] = 120 * 640 * 8 * 8, [SF_COLL_SIMPLE] = 1 << 22};

struct entry { /* of a hash table: key + 1, so that 0 is free */
    uint64_t key;
    uint32_t value;
};

struct table {
    struct entry *entry;
    size_t used, room; /* room is a power of two, at least twice `used` */
};

struct sfi_net_places {
    struct sf_net *net;
    const struct sf_topo *topo;
    uint64_t window_bytes;
    uint32_t *gpu;             /* by endpoint */
    struct table links, paths; /* by dense number of the topology; by src << 32 | dst */
};

static struct entry *find(const struct table *t, uint64_t key) {
    uint64_t at = (key + 1) * UINT64_C(0x9e3779b97f4a7c15) >> 20;
    for (;; at++) {
        struct entry *e = &t->entry[at & (t->room - 1)];
        if (e->key == 0 || e->key == key + 1) {
            return e;
        }
    }
}

static bool make_room(struct table *t) {
    if (t->used * 2 < t->room) {
        return true;
    }
    struct table bigger = {sf_calloc(t->room ? t->room * 2 : 256, sizeof *bigger.entry), t->used,
                           t->room ? t->room * 2 : 256};
    if (bigger.entry == NULL) {
        return false;
    }
    for (size_t i = 0; i < t->room; i++) {
        if (t->entry[i].key != 0) {
            *find(&bigger, t->entry[i].key - 1) = t->entry[i];
        }
    }
    sf_free(t->entry);
    *t = bigger;
    return true;
}

uint32_t sfi_net_places_rail(const struct sfi_net_places *p, uint32_t endpoint) {
    return p->gpu[endpoint] % sf_topo_domain_gpus(p->topo) % sf_topo_rails(p->topo);
}

/* Takes the first `per_domain` GPUs in use of each domain, up to `wanted`; how many that were. gpu may be NULL. */
static uint32_t take_gpus(const struct sf_topo *t, uint32_t per_domain, uint32_t wanted, uint32_t *gpu) {
    uint32_t all = sf_topo_gpus_in_use(t), taken = 0, domain = 0, here = 0;
    for (uint32_t i = 0; i < all && taken < wanted; i++) {
        uint32_t seat = sf_topo_seat(t, i), d = sf_topo_domain(t, seat);
        here = i > 0 && d == domain ? here + 1 : 0;
        domain = d;
        if (here < per_domain) {
            if (gpu != NULL) {
                gpu[taken] = seat;
            }
            taken++;
        }
    }
    return taken;
}

/* As thinly as the cluster allows, unless the job says how thickly. */
static int place(const struct sf_topo *t, struct sf_net_job *job, uint32_t *gpu, struct sf_err *err) {
    uint32_t domain = sf_topo_domain_gpus(t), least = job->pattern == SF_NET_ALL_TO_ALL ? sf_topo_rails(t) : 1;
    if (job->per_domain == 0) {
        job->per_domain = least < domain ? least : domain;
        while (job->per_domain < domain && take_gpus(t, job->per_domain, job->endpoints, NULL) < job->endpoints) {
            job->per_domain++;
        }
    }
    if (job->per_domain > domain || take_gpus(t, job->per_domain, job->endpoints, gpu) < job->endpoints) {
        return sf_fail(err, SF_E_USAGE, "%u endpoints, %u per domain, do not fit %u GPUs in use in domains of %u",
                       job->endpoints, job->per_domain, sf_topo_gpus_in_use(t), domain);
    }
    return 0;
}

int sfi_net_places_create(struct sf_net *n, const struct sf_topo *t, struct sf_net_job *job,
                          struct sfi_net_places **out, struct sf_err *err) {
    if (job->endpoints < 2 || job->endpoints > sf_topo_gpus_in_use(t)) {
        return sf_fail(err, SF_E_USAGE, "%u endpoints: expected 2 to %u, the GPUs in use of %s", job->endpoints,
                       sf_topo_gpus_in_use(t), sf_topo_name(t));
    }
    struct sfi_net_places *p = sf_calloc(1, sizeof *p);
    int rc = p == NULL ? sf_fail_memory(err, "endpoints") : 0;
    if (rc == 0) {
        *p = (struct sfi_net_places){n, t, window_bytes[job->protocol] * job->channels, NULL, {0}, {0}};
        p->gpu = sf_calloc(job->endpoints, sizeof *p->gpu);
        bool made = p->gpu != NULL && make_room(&p->links) && make_room(&p->paths);
        rc = made ? place(t, job, p->gpu, err) : sf_fail_memory(err, "endpoints");
    }
    if (rc != 0) {
        sfi_net_places_free(p);
        p = NULL;
    }
    *out = p;
    return rc;
}

void sfi_net_places_free(struct sfi_net_places *p) {
    if (p != NULL) {
        sf_free(p->gpu);
        sf_free(p->links.entry);
        sf_free(p->paths.entry);
        sf_free(p);
    }
}

/* Several messages into one NIC lose what the switch class loses to incast. What hashing loses is not taken from any
 * rate: its collisions are simulated link by link. */
static struct sf_net_link link_at(const struct sf_topo *t, uint64_t dense, sf_time_ps latency_ps) {
    uint64_t rate = sf_topo_dense_rate(t, dense), shared = rate;
    sf_link link = sf_topo_dense_link(t, dense);
    const struct sf_switch_class *sw = sf_topo_switch(t);
    if (SF_LINK_KIND(link) == SF_LINK_NIC_DOWN && sw != NULL && sw->incast_share < 1) {
        shared = (uint64_t)((double)rate * sw->incast_share);
    }
    return (struct sf_net_link){rate, shared, latency_ps, link, sf_topo_dense_cables(t, dense)};
}

static int link_of(struct sfi_net_places *p, sf_link link, sf_time_ps latency_ps, uint32_t *out, struct sf_err *err) {
    uint64_t dense = sf_topo_link_dense(p->topo, link);
    if (dense == SF_NO_DENSE) {
        return sf_fail(err, SF_E_INTERNAL, "a route uses a link without a number");
    }
    if (!make_room(&p->links)) {
        return sf_fail_memory(err, "links");
    }
    struct entry *e = find(&p->links, dense);
    if (e->key == 0) {
        const struct sf_net_link l = link_at(p->topo, dense, latency_ps);
        *e = (struct entry){dense + 1, sf_net_add_link(p->net, &l)};
        p->links.used++;
    }
    *out = e->value;
    return 0;
}

/* What a window of `bytes` lets through: one window per round trip. */
static uint64_t window_cap(uint64_t bytes, sf_time_ps round_trip) {
    int64_t cap = round_trip > 0 ? sf_muldiv_up((int64_t)bytes, SF_PS_PER_S, round_trip) : INT64_MAX;
    return (uint64_t)cap < SF_NET_RATE_MAX ? (uint64_t)cap : SF_NET_RATE_MAX;
}

/* Software of both ends: what a route counts with its first NIC link beyond a cable and a switch. */
static sf_time_ps software_of(const struct sfi_net_places *p, sf_link link, sf_time_ps hop_ps) {
    const struct sf_switch_class *sw = sf_topo_switch(p->topo);
    const struct sf_link_class *out = sf_topo_scale_out(p->topo);
    if (SF_LINK_KIND(link) != SF_LINK_NIC_UP || sw == NULL || out == NULL || out->latency_ps <= sw->hop_ps) {
        return 0;
    }
    sf_time_ps software = out->latency_ps - sw->hop_ps;
    return software < hop_ps ? software : hop_ps;
}

static int add_path(struct sfi_net_places *p, uint32_t src, uint32_t dst, uint32_t *out, struct sf_err *err) {
    const struct sf_route_ask ask = {.routing = -1, .plane = SF_ALL_PLANES};
    struct sf_net_path path = {.src = src, .dst = dst};
    struct sf_route route;
    sf_time_ps links_ps = 0;
    SF_TRY(sf_topo_route_with(p->topo, p->gpu[src], p->gpu[dst], &ask, &route, err));
    path.links_n = route.links_n;
    for (uint32_t i = 0; i < route.links_n; i++) {
        sf_time_ps hop_ps = route.hop_ps[i] - software_of(p, route.links[i], route.hop_ps[i]);
        SF_TRY(link_of(p, route.links[i], hop_ps, &path.links[i], err));
        SF_TRY(sf_net_check(p->net, err));
        links_ps += sf_net_link(p->net, path.links[i])->latency_ps;
    }
    path.software_ps = route.latency_ps > links_ps ? route.latency_ps - links_ps : 0;
    path.cap_bytes_per_s = window_cap(p->window_bytes, 2 * route.latency_ps);
    if (route.alone_bytes_per_s < path.cap_bytes_per_s) { /* not all planes may be left to it */
        path.cap_bytes_per_s = route.alone_bytes_per_s;
    }
    path.stripes = (uint32_t)__builtin_popcount(route.planes);
    *out = sf_net_add_path(p->net, &path);
    return sf_net_check(p->net, err);
}

int sfi_net_places_path(struct sfi_net_places *p, uint32_t src, uint32_t dst, uint32_t *path, struct sf_err *err) {
    if (!make_room(&p->paths)) {
        return sf_fail_memory(err, "paths");
    }
    struct entry *e = find(&p->paths, (uint64_t)src << 32 | dst);
    if (e->key == 0) {
        uint32_t made;
        SF_TRY(add_path(p, src, dst, &made, err));
        *e = (struct entry){((uint64_t)src << 32 | dst) + 1, made};
        p->paths.used++;
    }
    *path = e->value;
    return 0;
}
