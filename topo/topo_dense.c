/* Links that flows contend for, without gaps: the lanes of a GPU, the planes of a cable and, unless a hash picks the
 * path, the ways up or down of a whole leaf or pod are one. */
#include <assert.h>

#include "topo/topo_state.h"

static bool by_cable(const struct sf_topo *t) {
    return t->routing == SF_ROUTING_ECMP;
}

/* How many of a kind there are. */
static uint64_t dense_count(const struct sf_topo *t, int kind) {
    const struct sfi_fabric *f = &t->fabric;
    switch (kind) {
    case SF_LINK_NVLINK_UP:
    case SF_LINK_NVLINK_DOWN:
        return t->seats;
    case SF_LINK_NIC_UP:
    case SF_LINK_NIC_DOWN:
        return f->tiers > 0 ? t->seats : 0;
    case SF_LINK_LEAF_UP:
    case SF_LINK_LEAF_DOWN:
        return f->tiers < 2 ? 0 : by_cable(t) ? (uint64_t)f->leaves * f->leaf_up : f->leaves;
    case SF_LINK_SPINE_UP:
    case SF_LINK_SPINE_DOWN:
        return f->tiers < 3 ? 0 : by_cable(t) ? sfi_plane_spines(f) * f->spine_up : f->pods;
    default:
        return 0;
    }
}

uint64_t sf_topo_links_total(const struct sf_topo *t) {
    uint64_t n = 0;
    for (int kind = 0; kind < SF_LINK_KINDS_N; kind++) {
        n += dense_count(t, kind);
    }
    return n;
}

static uint64_t first_of(const struct sf_topo *t, int kind) {
    uint64_t n = 0;
    for (int k = 0; k < kind; k++) {
        n += dense_count(t, k);
    }
    return n;
}

static uint64_t gpu_of_lane(const struct sf_topo *t, uint64_t lane) {
    uint32_t i = t->stocks_n - 1;
    while (i > 0 && t->stock[i].first_lane > lane) {
        i--;
    }
    const struct sfi_stock *s = &t->stock[i];
    return (uint64_t)s->first_domain * s->domain.gpus + (lane - s->first_lane) / s->domain.lanes;
}

/* Number of a link within its kind. */
static uint64_t within(const struct sf_topo *t, int kind, uint64_t index) {
    const struct sfi_fabric *f = &t->fabric;
    switch (kind) {
    case SF_LINK_NVLINK_UP:
    case SF_LINK_NVLINK_DOWN:
        return gpu_of_lane(t, index);
    case SF_LINK_NIC_UP:
    case SF_LINK_NIC_DOWN:
        return index / f->planes;
    case SF_LINK_LEAF_UP:
    case SF_LINK_LEAF_DOWN:
        index %= (uint64_t)f->leaves * f->leaf_up;
        return by_cable(t) ? index : index / f->leaf_up;
    default:
        index %= sfi_plane_spines(f) * f->spine_up;
        return by_cable(t) ? index : index / f->spine_up / f->pod_spines;
    }
}

uint64_t sf_topo_link_dense(const struct sf_topo *t, sf_link link) {
    int kind = SF_LINK_KIND(link);
    if (kind >= SF_LINK_KINDS_N || SF_LINK_INDEX(link) >= sf_topo_link_count(t, (enum sf_link_kind)kind) ||
        dense_count(t, kind) == 0) {
        return SF_NO_DENSE;
    }
    return first_of(t, kind) + within(t, kind, SF_LINK_INDEX(link));
}

static int kind_of(const struct sf_topo *t, uint64_t dense, uint64_t *rest) {
    int kind = 0;
    assert(dense < sf_topo_links_total(t));
    for (; dense >= dense_count(t, kind); kind++) {
        dense -= dense_count(t, kind);
    }
    *rest = dense;
    return kind;
}

sf_link sf_topo_dense_link(const struct sf_topo *t, uint64_t dense) {
    const struct sfi_fabric *f = &t->fabric;
    uint64_t n;
    int kind = kind_of(t, dense, &n);
    const struct sfi_stock *s = sfi_stock_of_gpu(t, n);
    switch (kind) {
    case SF_LINK_NVLINK_UP:
    case SF_LINK_NVLINK_DOWN:
        return SF_LINK(kind, s->first_lane + (n - (uint64_t)s->first_domain * s->domain.gpus) * s->domain.lanes);
    case SF_LINK_NIC_UP:
    case SF_LINK_NIC_DOWN:
        return SF_LINK(kind, n * f->planes);
    case SF_LINK_LEAF_UP:
    case SF_LINK_LEAF_DOWN:
        return SF_LINK(kind, by_cable(t) ? n : n * f->leaf_up);
    default:
        return SF_LINK(kind, by_cable(t) ? n : n * f->pod_spines * f->spine_up);
    }
}

uint32_t sf_topo_dense_cables(const struct sf_topo *t, uint64_t dense) {
    const struct sfi_fabric *f = &t->fabric;
    uint64_t n;
    switch (kind_of(t, dense, &n)) {
    case SF_LINK_NVLINK_UP:
    case SF_LINK_NVLINK_DOWN:
        return sfi_stock_of_gpu(t, n)->domain.lanes;
    case SF_LINK_NIC_UP:
    case SF_LINK_NIC_DOWN:
        return f->planes;
    case SF_LINK_LEAF_UP:
    case SF_LINK_LEAF_DOWN:
        return by_cable(t) ? f->planes : f->planes * f->leaf_up;
    default:
        return by_cable(t) ? f->planes : f->planes * f->pod_spines * f->spine_up;
    }
}

static uint64_t plane_rate(const struct sf_topo *t, int kind, uint64_t n, uint32_t plane) {
    const struct sfi_fabric *f = &t->fabric;
    bool leaf = kind == SF_LINK_LEAF_UP || kind == SF_LINK_LEAF_DOWN, down = sfi_link_goes_down(kind);
    if (kind == SF_LINK_NIC_UP || kind == SF_LINK_NIC_DOWN) {
        return sfi_nic_rate(t, (uint32_t)n, plane, down);
    }
    uint64_t ppm;
    if (by_cable(t)) {
        uint64_t cables = leaf ? (uint64_t)f->leaves * f->leaf_up : sfi_plane_spines(f) * f->spine_up;
        ppm = sfi_link_ppm(t, SF_LINK(kind, plane * cables + n));
    } else {
        ppm = leaf ? sfi_leaf_ppm(t, (uint32_t)n, plane, down) : sfi_pod_ppm(t, (uint32_t)n, plane, down);
    }
    return sfi_scale(sfi_interior_rate(t), ppm);
}

uint64_t sf_topo_dense_rate(const struct sf_topo *t, uint64_t dense) {
    uint64_t n, sum = 0;
    int kind = kind_of(t, dense, &n);
    if (kind == SF_LINK_NVLINK_UP || kind == SF_LINK_NVLINK_DOWN) {
        return sfi_up_rate(t, (uint32_t)n, kind == SF_LINK_NVLINK_DOWN);
    }
    for (uint32_t plane = 0; plane < t->fabric.planes; plane++) {
        sum += plane_rate(t, kind, n, plane);
    }
    return sum;
}

bool sf_topo_nonblocking(const struct sf_topo *t) {
    const struct sfi_fabric *f = &t->fabric;
    return f->tiers < 2 || (!by_cable(t) && f->leaf_up >= f->leaf_down && !t->overlay.interior);
}
