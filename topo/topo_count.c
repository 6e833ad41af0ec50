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

static uint64_t least(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static uint64_t domain_supply(const struct sf_topo *t, uint32_t domain, uint32_t rail, uint32_t plane, bool down) {
    uint32_t gpus = t->stock[0].domain.gpus;
    uint64_t sum = 0;
    for (uint32_t slot = rail; slot < gpus; slot += t->fabric.rails) {
        sum += sfi_nic_rate(t, domain * gpus + slot, plane, down);
    }
    return sum;
}

/* What one leaf's NICs can send or take in, and no more than its uplinks carry. */
static uint64_t leaf_supply(const struct sf_topo *t, uint32_t group, uint32_t rail, uint32_t plane, bool down) {
    struct sfi_run domains = sfi_group_domains(t, group);
    uint64_t nics = 0, up = UINT64_MAX;
    for (uint32_t i = 0; i < domains.n; i++) {
        nics += domain_supply(t, domains.first + i, rail, plane, down);
    }
    if (t->fabric.tiers > 1) {
        up = sfi_scale(sfi_interior_rate(t), sfi_leaf_ppm(t, group * t->fabric.rails + rail, plane, down));
    }
    return least(nics, up);
}

static uint64_t groups_supply(const struct sf_topo *t, uint32_t first, uint32_t end, bool down) {
    uint64_t sum = 0;
    for (uint32_t plane = 0; plane < t->fabric.planes; plane++) {
        for (uint32_t i = first * t->fabric.rails; i < end * t->fabric.rails; i++) {
            sum += leaf_supply(t, i / t->fabric.rails, i % t->fabric.rails, plane, down);
        }
    }
    return sum;
}

static uint64_t domains_supply(const struct sf_topo *t, uint32_t first, uint32_t end, bool down) {
    uint64_t sum = 0;
    for (uint32_t i = first * t->fabric.rails; i < end * t->fabric.rails; i++) {
        for (uint32_t plane = 0; plane < t->fabric.planes; plane++) {
            sum += domain_supply(t, i / t->fabric.rails, i % t->fabric.rails, plane, down);
        }
    }
    return sum;
}

/* One way over the cut: what one side sends, the other takes in, and the spines between carry. */
static uint64_t one_way(const struct sf_topo *t, bool back) {
    const struct sfi_fabric *f = &t->fabric;
    if (f->groups == 1) {
        uint32_t half = t->domains / 2;
        return least(domains_supply(t, 0, half, back), domains_supply(t, half, t->domains, !back));
    }
    uint32_t cut = f->groups / 2;
    uint64_t sides = least(groups_supply(t, 0, cut, back), groups_supply(t, cut, f->groups, !back));
    return t->overlay.interior ? least(sides, sfi_scale(sfi_interior_rate(t), t->overlay.crossing_ppm[back])) : sides;
}

uint64_t sfi_bisection_rate(const struct sf_topo *t) {
    uint64_t rate;
    if (t->fabric.tiers == 0) {
        return 0;
    }
    if (t->stocks_n == 1 && !t->overlay.any) {
        return __builtin_mul_overflow(sfi_bisection_links(t), sfi_interior_rate(t), &rate) ? UINT64_MAX : rate;
    }
    return least(one_way(t, false), one_way(t, true));
}

/* ---- what spines carry from the groups below the middle to the rest ---------------------------------------------- */

/* Cables between a leaf's node and one spine, or a spine and its cores: their parts per million. */
static uint64_t cables_ppm(const struct sf_topo *t, int kind, uint64_t node, uint32_t ports, uint32_t from,
                           uint32_t step) {
    uint64_t sum = 0;
    for (uint32_t port = from; port < ports; port += step) {
        sum += sfi_link_ppm(t, SF_LINK(kind, node * ports + port));
    }
    return sum;
}

/* Into brought: what the leaves of both sides have to spine `slice` of a pod. `kinds`: of the side below, above. */
static void bring(const struct sf_topo *t, uint32_t plane, uint32_t pod, uint32_t slice, const int kinds[2],
                  uint64_t brought[2]) {
    const struct sfi_fabric *f = &t->fabric;
    struct sfi_run groups = sfi_pod_groups(f, pod);
    brought[0] = brought[1] = 0;
    for (uint64_t i = (uint64_t)groups.first * f->rails; i < ((uint64_t)groups.first + groups.n) * f->rails; i++) {
        bool above = i / f->rails >= f->groups / 2;
        uint64_t leaf = (uint64_t)plane * f->leaves + i;
        brought[above] += cables_ppm(t, kinds[above], leaf, f->leaf_up, slice, f->pod_spines);
    }
}

/* The spines of one slice, over all pods: what does not turn in a pod's own spine climbs to the slice's cores. */
static uint64_t slice_crossing(const struct sf_topo *t, uint32_t plane, uint32_t slice, bool back) {
    static const int leaf[2] = {SF_LINK_LEAF_UP, SF_LINK_LEAF_DOWN}, spine[2] = {SF_LINK_SPINE_UP, SF_LINK_SPINE_DOWN};
    const struct sfi_fabric *f = &t->fabric;
    const int kinds[2] = {leaf[back], leaf[!back]};
    uint64_t turned = 0, climb[2] = {0, 0}, brought[2];
    for (uint32_t pod = 0; pod < f->pods; pod++) {
        uint64_t node = plane * sfi_plane_spines(f) + (uint64_t)pod * f->pod_spines + slice;
        bring(t, plane, pod, slice, kinds, brought);
        uint64_t here = least(brought[0], brought[1]);
        turned += here;
        for (int side = 0; side < 2 && f->spine_up > 0; side++) {
            int kind = spine[(side != 0) != back];
            climb[side] += least(brought[side] - here, cables_ppm(t, kind, node, f->spine_up, 0, 1));
        }
    }
    return turned + least(climb[0], climb[1]);
}

void sfi_crossing(const struct sf_topo *t, uint64_t ppm[2]) {
    const struct sfi_fabric *f = &t->fabric;
    ppm[0] = ppm[1] = 0;
    for (uint32_t plane = 0; plane < f->planes; plane++) {
        for (uint32_t slice = 0; slice < f->pod_spines; slice++) {
            ppm[0] += slice_crossing(t, plane, slice, false);
            ppm[1] += slice_crossing(t, plane, slice, true);
        }
    }
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
