/* Closed forms: how many of everything, and the bisection. */
#include "topo/topo_state.h"

/* The most even cut along groups, or along domains when one set of leaves serves them all. Each side can send what its
 * NICs and its leaves' uplinks both carry; only the last group may be partly filled. */
uint64_t sfi_bisection_links(const struct sf_topo *t) {
    const struct sfi_fabric *f = &t->fabric;
    if (f->tiers == 0) {
        return 0;
    }
    if (f->groups == 1) {
        return (uint64_t)f->planes * (t->domains / 2) * t->stock[0].domain.gpus;
    }
    uint64_t lower = f->groups / 2, full = t->domains / f->group_domains;
    uint64_t rest_nics = (uint64_t)(t->domains % f->group_domains) * f->rail_nics;
    uint64_t rest = rest_nics < f->leaf_up ? rest_nics : f->leaf_up;
    uint64_t low = lower * f->rails * f->leaf_up;
    uint64_t high = f->rails * ((full - lower) * f->leaf_up + rest);
    return f->planes * (low < high ? low : high);
}

static uint64_t domain_supply(const struct sf_topo *t, uint32_t domain, uint32_t rail, uint32_t plane) {
    uint32_t gpus = t->stock[0].domain.gpus;
    uint64_t sum = 0;
    for (uint32_t slot = rail; slot < gpus; slot += t->fabric.rails) {
        sum += sfi_nic_rate(t, domain * gpus + slot, plane, false);
    }
    return sum;
}

/* What one leaf's NICs can send, and no more than its uplinks carry. */
static uint64_t leaf_supply(const struct sf_topo *t, uint32_t group, uint32_t rail, uint32_t plane) {
    struct sfi_run domains = sfi_group_domains(t, group);
    uint64_t nics = 0, up = UINT64_MAX;
    for (uint32_t i = 0; i < domains.n; i++) {
        nics += domain_supply(t, domains.first + i, rail, plane);
    }
    if (t->fabric.tiers > 1) {
        up = sfi_scale(sfi_interior_rate(t), sfi_leaf_ppm(t, group * t->fabric.rails + rail, plane, false));
    }
    return nics < up ? nics : up;
}

static uint64_t groups_supply(const struct sf_topo *t, uint32_t first, uint32_t end) {
    uint64_t sum = 0;
    for (uint32_t plane = 0; plane < t->fabric.planes; plane++) {
        for (uint32_t i = first * t->fabric.rails; i < end * t->fabric.rails; i++) {
            sum += leaf_supply(t, i / t->fabric.rails, i % t->fabric.rails, plane);
        }
    }
    return sum;
}

static uint64_t domains_supply(const struct sf_topo *t, uint32_t first, uint32_t end) {
    uint64_t sum = 0;
    for (uint32_t i = first * t->fabric.rails; i < end * t->fabric.rails; i++) {
        for (uint32_t plane = 0; plane < t->fabric.planes; plane++) {
            sum += domain_supply(t, i / t->fabric.rails, i % t->fabric.rails, plane);
        }
    }
    return sum;
}

/* Pods whole on one side of the cut cannot send more than their spines have upwards. */
static uint64_t pods_supply(const struct sf_topo *t, uint32_t first, uint32_t end) {
    uint64_t sum = 0;
    for (uint32_t plane = 0; plane < t->fabric.planes; plane++) {
        for (uint32_t pod = first; pod < end; pod++) {
            sum += sfi_scale(sfi_interior_rate(t), sfi_pod_ppm(t, pod, plane, false));
        }
    }
    return sum;
}

static uint64_t least(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

uint64_t sfi_bisection_rate(const struct sf_topo *t) {
    const struct sfi_fabric *f = &t->fabric;
    uint64_t rate;
    if (f->tiers == 0) {
        return 0;
    }
    if (t->stocks_n == 1 && !t->overlay.any) {
        return __builtin_mul_overflow(sfi_bisection_links(t), sfi_interior_rate(t), &rate) ? UINT64_MAX : rate;
    }
    if (f->groups == 1) {
        uint32_t half = t->domains / 2;
        return least(domains_supply(t, 0, half), domains_supply(t, half, t->domains));
    }
    uint32_t cut = f->groups / 2;
    rate = least(groups_supply(t, 0, cut), groups_supply(t, cut, f->groups));
    uint32_t pod = sfi_pod_of_group(f, cut);
    if (f->tiers > 2 && sfi_pod_groups(f, pod).first == cut) {
        rate = least(rate, least(pods_supply(t, 0, pod), pods_supply(t, pod, f->pods)));
    }
    return rate;
}

static uint64_t ranges_sum(const struct sfi_ranges *s, bool dead) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        n += (s->r[i].ppm == 0) == dead ? s->r[i].hi - s->r[i].lo + 1 : 0;
    }
    return n;
}

/* What the overlay names, as it names it: a dead switch does not count its cables. */
static void count_overlay(const struct sf_topo *t, struct sf_topo_counts *out) {
    const struct sfi_ranges *set = t->overlay.set;
    for (int kind = 0; kind < SF_LINK_KINDS_N; kind++) {
        out->degraded_links += ranges_sum(&set[kind], false);
        out->dead_cables += sfi_link_goes_down(kind) ? 0 : ranges_sum(&set[kind], true);
    }
    out->dead_gpus = ranges_sum(&set[SFI_SET_DEAD_GPU], true);
    for (int s = SFI_SET_NVSWITCH; s < SFI_SETS_N; s++) {
        out->dead_switches += ranges_sum(&set[s], true);
    }
    out->spare_domains = t->overlay.spare_domains;
    const struct sfi_ranges *nics = &set[SF_LINK_NIC_UP];
    uint32_t planes = t->fabric.planes;
    for (uint32_t i = 0; i < nics->n && planes > 0; i++) {
        uint64_t first = (nics->r[i].lo + planes - 1) / planes, end = (nics->r[i].hi + 1) / planes;
        out->dead_nics += nics->r[i].ppm == 0 && end > first ? end - first : 0;
    }
}

void sf_topo_count(const struct sf_topo *t, struct sf_topo_counts *out) {
    *out = (struct sf_topo_counts){
        .gpus = t->seats,
        .gpus_in_use = t->in_use,
        .domains = t->domains,
        .cpus = sfi_node_count(t, SFI_NODE_CPU),
        .nvswitches = sfi_node_count(t, SFI_NODE_NVSWITCH),
        .nics = t->fabric.tiers > 0 ? t->seats : 0,
        .leaves = sfi_node_count(t, SFI_NODE_LEAF),
        .spines = sfi_node_count(t, SFI_NODE_SPINE),
        .cores = sfi_node_count(t, SFI_NODE_CORE),
        .links_nvlink = sf_topo_link_count(t, SF_LINK_NVLINK_UP),
        .links_c2c = sf_topo_link_count(t, SF_LINK_C2C_UP),
        .links_nic = sf_topo_link_count(t, SF_LINK_NIC_UP),
        .links_leaf_spine = sf_topo_link_count(t, SF_LINK_LEAF_UP),
        .links_spine_core = sf_topo_link_count(t, SF_LINK_SPINE_UP),
        .bisection_bytes_per_s = sfi_bisection_rate(t),
        .planes = sf_topo_planes(t),
        .stocks = t->stocks_n,
    };
    for (uint32_t i = 0; i < t->stocks_n; i++) {
        out->trays += (uint64_t)t->stock[i].domains * t->stock[i].domain.trays;
    }
    count_overlay(t, out);
    out->spare_gpus = t->seats - t->in_use - out->dead_gpus;
}
