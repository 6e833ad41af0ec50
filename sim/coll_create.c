/* A collective model for one topology: constants, link classes, channel searches done once. */
#include "sim/coll_internal.h"

#include <stdio.h>
#include <string.h>

#include "core/arena.h"
#include "sim/cost_internal.h"

enum { DOMAIN_MAX = 1024 }; /* channels no longer change beyond */

/* What the tiers add to the network hop in the constants, which is one leaf away. Of a tier's routes the fastest
 * counts: others end in another kind of GPU, or are not what they were built for. */
static void see_tiers(struct sf_coll *c, const struct sf_topo *topo, const struct sf_stock *stock) {
    uint32_t gpus = sf_topo_gpus(topo), domain = sf_topo_domain_gpus(topo);
    const struct sf_link_class *out = stock->out;
    uint64_t best[SF_ROUTE_CORE + 1] = {0};
    for (int k = 0; k <= SF_ROUTE_CORE && out; k++) {
        c->tier_rate[k] = c->tier_alone[k] = c->out;
    }
    for (uint64_t g = 0; out && g < gpus; g += domain) {
        struct sf_route r;
        if (g == stock->first_gpu) {
            continue;
        }
        sf_topo_route(topo, stock->first_gpu, (uint32_t)g, &r);
        if (r.bytes_per_s > best[r.kind]) {
            double extra = sf_ps_to_s(r.latency_ps - out->latency_ps);
            best[r.kind] = r.bytes_per_s;
            c->tier_rate[r.kind] = (double)r.bytes_per_s;
            c->tier_alone[r.kind] = (double)r.alone_bytes_per_s;
            c->tier_latency[r.kind] = extra > 0 ? extra : 0;
        }
    }
}

static int see_links(struct sf_coll *c, const struct sf_topo *topo, const struct sf_stock *stock, struct sf_err *err) {
    struct sf_topo_counts counts;
    struct sf_topo *planned = NULL;
    sf_topo_count(topo, &counts);
    c->domain_gpus = sf_topo_domain_gpus(topo) < DOMAIN_MAX ? sf_topo_domain_gpus(topo) : DOMAIN_MAX;
    c->switches = counts.nvswitches > 0;
    c->up = (double)stock->up->bytes_per_s;
    c->out = stock->out ? (double)stock->out->bytes_per_s : 0;
    c->out_peak = stock->out ? (double)stock->out->peak_bytes_per_s : 0;
    c->rails_meet = counts.spines > 0 || sf_topo_rails(topo) == 1;
    const struct sf_switch_class *sw = sf_topo_switch(topo);
    c->incast_share = sw ? sw->incast_share : 1;
    if (sfi_is_hurt(&counts)) { /* what is broken is counted where it is, against the plan */
        SF_TRY(sf_topo_planned(topo, &planned, err));
        see_tiers(c, planned, stock);
        sf_topo_free(planned);
    } else {
        see_tiers(c, topo, stock);
    }
    return SF_OK;
}

/* Of the rate of a link class. Its latency, which a class's own grade covers too, is not asked here. */
static enum sf_grade rate_grade(const struct sf_topo *topo, const struct sf_link_class *link) {
    const struct sf_source *source;
    size_t n = sf_topo_sources(topo, &source);
    char item[sizeof source->item];
    snprintf(item, sizeof item, "%s.usable", link ? link->name : "");
    for (size_t i = 0; i < n; i++) {
        if (strcmp(source[i].item, item) == 0) {
            return source[i].grade;
        }
    }
    return SF_GRADE_EXTRAPOLATED;
}

static void see_grades(struct sf_coll *c, const struct sf_topo *topo, const struct sf_stock *stock) {
    const struct sf_link_class *link[] = {stock->up, stock->out};
    for (int i = 0; i < 2; i++) {
        enum sf_grade rate = rate_grade(topo, link[i]);
        c->grade[i] = c->k.compared_grade[i] > rate ? c->k.compared_grade[i] : rate;
    }
    double measured = c->k.nvls_link_peak * stock->up->links_share;
    if (c->k.nvls_rate > 0 && measured != (double)stock->up->peak_bytes_per_s) {
        c->grade[0] = SF_GRADE_EXTRAPOLATED; /* no point was measured on such links */
    }
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
    c->nccl_times = w->nccl_times;
    c->algorithm = w->algorithm[0] ? sf_coll_algorithm_parse(w->algorithm) : -1;
    c->protocol = w->protocol[0] ? sf_coll_protocol_parse(w->protocol) : -1;
}

static struct sf_hash hash_of(const struct sf_coll *c) {
    const struct sf_hash parts[] = {sf_hash_bytes(&c->tuning, sizeof c->tuning), sf_hash_bytes(&c->k, sizeof c->k)};
    const uint64_t words[] = {parts[0].hi,           parts[0].lo, parts[1].hi,  parts[1].lo, (uint64_t)c->algorithm,
                              (uint64_t)c->protocol, c->sharp,    c->nccl_times};
    return sf_hash_bytes(words, sizeof words);
}

int sf_coll_create(const struct sf_topo *topo, const struct sf_io *io, struct sf_coll **out, struct sf_err *err) {
    struct sf_stock stock;
    sf_topo_stock(topo, 0, &stock);
    return sfi_coll_create_of(topo, &stock, io, out, err);
}

int sfi_coll_create_of(const struct sf_topo *topo, const struct sf_stock *stock, const struct sf_io *io,
                       struct sf_coll **out, struct sf_err *err) {
    *out = NULL;
    if (stock->coll_model[0] == '\0') {
        return SF_OK;
    }
    struct sf_coll *c = sf_calloc(1, sizeof *c);
    if (!c) {
        return sf_fail_memory(err, "collective model");
    }
    int rc;
    SF_TRY_GOTO(rc, see_links(c, topo, stock, err), out);
    wishes(c, sf_topo_collectives(topo));
    SF_TRY_GOTO(rc, sfi_coll_load(c, io, stock->coll_model, err), out);
    c->k.nvlink_gbps *= stock->up->links_share; /* the file speaks of GPUs with all their links */
    if (c->k.nvls_rate > 0) {
        c->k.nvls_rate *= (double)stock->up->peak_bytes_per_s / c->k.nvls_link_peak;
    }
    see_grades(c, topo, stock);
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

enum sf_grade sf_coll_grade(const struct sf_coll *c, enum sf_coll_op op, const struct sf_span *span) {
    bool tuned = op != SF_COLL_ALL_TO_ALL;
    return c->nccl_times && tuned ? SF_GRADE_EXTRAPOLATED : c->grade[span->domains > 1];
}

bool sf_coll_by_nccl(const struct sf_coll *c) {
    return c->nccl_times;
}

struct sf_hash sf_coll_hash(const struct sf_coll *c) {
    return c->hash;
}
