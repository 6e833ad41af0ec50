/* A collective model for one topology: constants, link classes, channel searches done once. */
#include "sim/coll_internal.h"

#include "core/arena.h"

enum { DOMAIN_MAX = 1024 }; /* channels no longer change beyond */

/* What the tiers add to the network hop in the constants, which is one leaf away. */
static void see_tiers(struct sf_coll *c, const struct sf_topo *topo) {
    uint32_t gpus = sf_topo_gpus(topo), domain = sf_topo_domain_gpus(topo);
    const struct sf_link_class *out = sf_topo_scale_out(topo);
    for (int k = 0; k <= SF_ROUTE_CORE && out; k++) {
        c->tier_rate[k] = c->out;
    }
    for (uint64_t g = domain; out && g < gpus; g += domain) {
        struct sf_route r;
        sf_topo_route(topo, 0, (uint32_t)g, &r);
        double extra = sf_ps_to_s(r.latency_ps - out->latency_ps);
        c->tier_rate[r.kind] = (double)r.bytes_per_s;
        c->tier_latency[r.kind] = extra > 0 ? extra : 0;
    }
}

static void see_links(struct sf_coll *c, const struct sf_topo *topo) {
    const struct sf_link_class *up = sf_topo_scale_up(topo), *out = sf_topo_scale_out(topo);
    struct sf_topo_counts counts;
    sf_topo_count(topo, &counts);
    c->domain_gpus = sf_topo_domain_gpus(topo) < DOMAIN_MAX ? sf_topo_domain_gpus(topo) : DOMAIN_MAX;
    c->switches = counts.nvswitches > 0;
    c->up = (double)up->bytes_per_s;
    c->out = out ? (double)out->bytes_per_s : 0;
    c->out_peak = out ? (double)out->peak_bytes_per_s : 0;
    c->rails_meet = counts.spines > 0 || sf_topo_rails(topo) == 1;
    see_tiers(c, topo);
}

static int search(struct sf_coll *c, struct sf_err *err) {
    size_t n = (size_t)c->domain_gpus + 1;
    c->inside = sf_calloc(n, sizeof *c->inside);
    c->across = sf_calloc(n, sizeof *c->across);
    if (!c->inside || !c->across) {
        return sf_fail_memory(err, "collective model");
    }
    for (uint32_t local = 0; local < n; local++) {
        sfi_graph_search(c, local, false, &c->inside[local]);
        if (c->out_peak > 0) {
            sfi_graph_search(c, local, true, &c->across[local]);
        }
    }
    return SF_OK;
}

static void wishes(struct sf_coll *c, const struct sf_topo_coll *w) {
    c->sharp = w->sharp;
    c->algorithm = w->algorithm[0] ? sf_coll_algorithm_parse(w->algorithm) : -1;
    c->protocol = w->protocol[0] ? sf_coll_protocol_parse(w->protocol) : -1;
}

static struct sf_hash hash_of(const struct sf_coll *c) {
    const struct sf_hash parts[] = {sf_hash_bytes(&c->tuning, sizeof c->tuning), sf_hash_bytes(&c->k, sizeof c->k)};
    const uint64_t words[] = {parts[0].hi,           parts[0].lo, parts[1].hi, parts[1].lo, (uint64_t)c->algorithm,
                              (uint64_t)c->protocol, c->sharp};
    return sf_hash_bytes(words, sizeof words);
}

int sf_coll_create(const struct sf_topo *topo, const struct sf_io *io, struct sf_coll **out, struct sf_err *err) {
    const struct sf_topo_coll *w = sf_topo_collectives(topo);
    *out = NULL;
    if (w->model[0] == '\0') {
        return SF_OK;
    }
    struct sf_coll *c = sf_calloc(1, sizeof *c);
    if (!c) {
        return sf_fail_memory(err, "collective model");
    }
    int rc;
    see_links(c, topo);
    wishes(c, w);
    SF_TRY_GOTO(rc, sfi_coll_load(c, io, w->model, err), out);
    SF_TRY_GOTO(rc, search(c, err), out);
    c->hash = hash_of(c);
    *out = c;
    return SF_OK;
out:
    sf_coll_free(c);
    return rc;
}

void sf_coll_free(struct sf_coll *c) {
    if (c) {
        sf_free(c->inside);
        sf_free(c->across);
        sf_free(c);
    }
}

struct sf_hash sf_coll_hash(const struct sf_coll *c) {
    return c->hash;
}
