/* What the overlay leaves of links: single cables, and the bundles that adaptive routing takes as one. */
#include "core/arena.h"
#include "topo/topo_state.h"

/* The first range that ends at or behind `index`; s->n when none does. */
static uint32_t first_behind(const struct sfi_ranges *s, uint64_t index) {
    uint32_t low = 0, high = s->n;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (s->r[middle].hi < index) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

const struct sfi_range *sfi_range_at(const struct sfi_ranges *s, uint64_t index) {
    uint32_t i = first_behind(s, index);
    return i < s->n && s->r[i].lo <= index ? &s->r[i] : NULL;
}

uint32_t sfi_ppm(const struct sfi_ranges *s, uint64_t index) {
    const struct sfi_range *r = s->n > 0 ? sfi_range_at(s, index) : NULL;
    return r != NULL ? r->ppm : SFI_WELL;
}

uint64_t sfi_missing(const struct sfi_ranges *s, uint64_t lo, uint64_t hi) {
    uint64_t sum = 0;
    for (uint32_t i = first_behind(s, lo); i < s->n && s->r[i].lo <= hi; i++) {
        uint64_t from = s->r[i].lo > lo ? s->r[i].lo : lo, to = s->r[i].hi < hi ? s->r[i].hi : hi;
        sum += (to - from + 1) * (SFI_WELL - s->r[i].ppm);
    }
    return sum;
}

uint64_t sfi_scale(uint64_t rate, uint64_t ppm) {
    return (uint64_t)((unsigned __int128)rate * ppm / SFI_WELL);
}

static uint32_t end_ppm(const struct sf_topo *t, const struct sfi_end *e) {
    const struct sfi_overlay *o = &t->overlay;
    switch (e->kind) {
    case SFI_NODE_GPU:
        return sfi_ppm(&o->set[SFI_SET_DEAD_GPU], e->index);
    case SFI_NODE_NVSWITCH:
        return sfi_ppm(&o->set[SFI_SET_NVSWITCH], e->index);
    case SFI_NODE_LEAF:
        return sfi_ppm(&o->set[SFI_SET_LEAF], e->index);
    case SFI_NODE_SPINE:
        return sfi_ppm(&o->set[SFI_SET_SPINE], e->index);
    case SFI_NODE_CORE:
        return sfi_ppm(&o->set[SFI_SET_CORE], e->index);
    default:
        return SFI_WELL;
    }
}

uint32_t sfi_link_ppm(const struct sf_topo *t, sf_link link) {
    struct sfi_end from, to;
    if (!t->overlay.any) {
        return SFI_WELL;
    }
    if (!sfi_link_ends(t, link, &from, &to) || end_ppm(t, &from) == 0 || end_ppm(t, &to) == 0) {
        return 0;
    }
    return sfi_ppm(&t->overlay.set[SF_LINK_KIND(link)], SF_LINK_INDEX(link));
}

uint64_t sfi_interior_rate(const struct sf_topo *t) {
    return t->stock[t->fabric.wide].out.bytes_per_s / t->fabric.planes;
}

uint64_t sfi_first_lane(const struct sf_topo *t, uint32_t gpu) {
    const struct sfi_stock *s = sfi_stock_of_gpu(t, gpu);
    return s->first_lane + (gpu - (uint64_t)s->first_domain * s->domain.gpus) * s->domain.lanes;
}

/* Nothing is named among a GPU's lanes, itself and the switch chips of its domain. */
static bool lanes_well(const struct sf_topo *t, uint32_t gpu, int kind) {
    const struct sfi_ranges *set = t->overlay.set;
    const struct sfi_stock *s = sfi_stock_of_gpu(t, gpu);
    const struct sfi_domain *d = &s->domain;
    uint64_t lane = sfi_first_lane(t, gpu), domain = gpu / d->gpus - s->first_domain;
    uint64_t chip = s->first_nvswitch + domain * d->nvswitches;
    return !t->overlay.nvlink ||
           (sfi_missing(&set[kind], lane, lane + d->lanes - 1) == 0 && sfi_ppm(&set[SFI_SET_DEAD_GPU], gpu) > 0 &&
            (d->nvswitches == 0 || sfi_missing(&set[SFI_SET_NVSWITCH], chip, chip + d->nvswitches - 1) == 0));
}

/* Into [chip]: parts per million of a GPU's lanes at each; without chips all lanes meet in one memory. The first lane
 * that is alive at each goes into `lane`. */
struct at_chip {
    uint64_t ppm;
    uint32_t lane;
};

static void see_lanes(const struct sf_topo *t, uint32_t gpu, int kind, struct at_chip at[SFI_MAX_LANES]) {
    const struct sfi_domain *d = &sfi_stock_of_gpu(t, gpu)->domain;
    uint64_t first = sfi_first_lane(t, gpu);
    for (uint32_t lane = 0; lane < d->lanes; lane++) {
        struct at_chip *c = &at[d->nvswitches > 0 ? lane % d->nvswitches : 0];
        uint32_t ppm = sfi_link_ppm(t, SF_LINK(kind, first + lane));
        c->lane = c->ppm == 0 ? lane : c->lane;
        c->ppm += ppm;
    }
}

/* `sum` over all lanes of one GPU. */
static uint64_t of_lanes(const struct sfi_stock *s, uint64_t sum) {
    return (uint64_t)((unsigned __int128)s->up.bytes_per_s * sum / ((uint64_t)SFI_WELL * s->domain.lanes));
}

uint64_t sfi_up_rate(const struct sf_topo *t, uint32_t gpu, bool down) {
    const struct sfi_stock *s = sfi_stock_of_gpu(t, gpu);
    int kind = down ? SF_LINK_NVLINK_DOWN : SF_LINK_NVLINK_UP;
    if (lanes_well(t, gpu, kind)) {
        return s->up.bytes_per_s;
    }
    uint64_t first = sfi_first_lane(t, gpu), sum = 0;
    for (uint32_t lane = 0; lane < s->domain.lanes; lane++) {
        sum += sfi_link_ppm(t, SF_LINK(kind, first + lane));
    }
    return of_lanes(s, sum);
}

uint64_t sfi_pair_rate(const struct sf_topo *t, uint32_t a, uint32_t b, uint32_t lane[2]) {
    const struct sfi_stock *s = sfi_stock_of_gpu(t, a);
    struct at_chip up[SFI_MAX_LANES] = {0}, down[SFI_MAX_LANES] = {0};
    uint64_t sum = 0;
    lane[0] = lane[1] = 0;
    if (lanes_well(t, a, SF_LINK_NVLINK_UP) && lanes_well(t, b, SF_LINK_NVLINK_DOWN)) {
        return s->up.bytes_per_s;
    }
    see_lanes(t, a, SF_LINK_NVLINK_UP, up);
    see_lanes(t, b, SF_LINK_NVLINK_DOWN, down);
    for (uint32_t i = 0; i < s->domain.lanes; i++) {
        uint64_t both = up[i].ppm < down[i].ppm ? up[i].ppm : down[i].ppm;
        if (sum == 0 && both > 0) {
            lane[0] = up[i].lane;
            lane[1] = down[i].lane;
        }
        sum += both;
    }
    return of_lanes(s, sum);
}

uint64_t sfi_nic_rate(const struct sf_topo *t, uint32_t gpu, uint32_t plane, bool down) {
    uint64_t rate = sfi_stock_of_gpu(t, gpu)->out.bytes_per_s / t->fabric.planes;
    if (!t->overlay.any) {
        return rate;
    }
    int kind = down ? SF_LINK_NIC_DOWN : SF_LINK_NIC_UP;
    return sfi_scale(rate, sfi_link_ppm(t, SF_LINK(kind, (uint64_t)gpu * t->fabric.planes + plane)));
}

static uint64_t sum_of_links(const struct sf_topo *t, int kind, uint64_t first, uint64_t n) {
    uint64_t sum = 0;
    for (uint64_t i = 0; i < n; i++) {
        sum += sfi_link_ppm(t, SF_LINK(kind, first + i));
    }
    return sum;
}

static uint64_t leaf_ppm(const struct sf_topo *t, uint64_t number, bool down) {
    const struct sfi_fabric *f = &t->fabric;
    const struct sfi_ranges *set = t->overlay.set;
    int kind = down ? SF_LINK_LEAF_DOWN : SF_LINK_LEAF_UP;
    uint64_t first = number * f->leaf_up, plane = number / f->leaves;
    uint64_t pod = sfi_pod_of_group(f, (uint32_t)(number % f->leaves) / f->rails);
    uint64_t spine = plane * sfi_plane_spines(f) + pod * f->pod_spines;
    if (sfi_ppm(&set[SFI_SET_LEAF], number) == 0) {
        return 0;
    }
    if (sfi_missing(&set[SFI_SET_SPINE], spine, spine + f->pod_spines - 1) > 0) {
        return sum_of_links(t, kind, first, f->leaf_up);
    }
    return (uint64_t)f->leaf_up * SFI_WELL - sfi_missing(&set[kind], first, first + f->leaf_up - 1);
}

static uint64_t spine_ppm(const struct sf_topo *t, uint64_t number, bool down) {
    const struct sfi_fabric *f = &t->fabric;
    const struct sfi_ranges *set = t->overlay.set;
    int kind = down ? SF_LINK_SPINE_DOWN : SF_LINK_SPINE_UP;
    uint64_t first = number * f->spine_up, plane = number / sfi_plane_spines(f);
    uint64_t core = plane * sfi_plane_cores(f) + number % f->pod_spines * f->slice_cores;
    if (sfi_ppm(&set[SFI_SET_SPINE], number) == 0) {
        return 0;
    }
    if (sfi_missing(&set[SFI_SET_CORE], core, core + f->slice_cores - 1) > 0) {
        return sum_of_links(t, kind, first, f->spine_up);
    }
    return (uint64_t)f->spine_up * SFI_WELL - sfi_missing(&set[kind], first, first + f->spine_up - 1);
}

int sfi_health_sums(const struct sf_topo *t, struct sfi_overlay *o, struct sf_err *err) {
    const struct sfi_fabric *f = &t->fabric;
    uint64_t leaves = sfi_node_count(t, SFI_NODE_LEAF), spines = sfi_node_count(t, SFI_NODE_SPINE);
    if (!o->interior || f->tiers < 2) {
        return 0;
    }
    o->leaf_ppm = sf_calloc(leaves, 2 * sizeof *o->leaf_ppm);
    o->pod_ppm = sf_calloc((size_t)f->planes * f->pods, 2 * sizeof *o->pod_ppm);
    if (o->leaf_ppm == NULL || o->pod_ppm == NULL) {
        return sf_fail_memory(err, "the health of the fabric");
    }
    for (uint64_t i = 0; i < 2 * leaves; i++) {
        o->leaf_ppm[i] = (uint32_t)leaf_ppm(t, i / 2, i % 2 != 0);
    }
    for (uint64_t i = 0; i < 2 * spines && f->spine_up > 0; i++) {
        o->pod_ppm[i / 2 / f->pod_spines * 2 + i % 2] += spine_ppm(t, i / 2, i % 2 != 0);
    }
    sfi_crossing(t, o->crossing_ppm);
    return 0;
}

uint64_t sfi_leaf_ppm(const struct sf_topo *t, uint32_t leaf, uint32_t plane, bool down) {
    const struct sfi_fabric *f = &t->fabric;
    const uint32_t *sums = t->overlay.leaf_ppm;
    return sums != NULL ? sums[2 * ((uint64_t)plane * f->leaves + leaf) + down] : (uint64_t)f->leaf_up * SFI_WELL;
}

uint64_t sfi_pod_ppm(const struct sf_topo *t, uint32_t pod, uint32_t plane, bool down) {
    const struct sfi_fabric *f = &t->fabric;
    const uint64_t *sums = t->overlay.pod_ppm;
    return sums != NULL ? sums[2 * ((uint64_t)plane * f->pods + pod) + down]
                        : (uint64_t)f->pod_spines * f->spine_up * SFI_WELL;
}
