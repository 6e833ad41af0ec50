/* Links by number, their ends, and routes. Everything is arithmetic on the fabric's geometry. */
#include <assert.h>
#include <stdio.h>

#include "topo/topo_state.h"

struct sfi_seat sfi_seat_of(const struct sf_topo *t, uint32_t gpu) {
    const struct sfi_fabric *f = &t->fabric;
    uint32_t domain = gpu / t->domain.gpus, slot = gpu % t->domain.gpus;
    struct sfi_seat s = {.rail = slot % f->rails, .group = domain / f->group_domains};
    s.pod = s.group / f->groups_per_pod;
    s.leaf = s.group * f->rails + s.rail;
    s.leaf_in_pod = s.group % f->groups_per_pod * f->rails + s.rail;
    s.port = domain % f->group_domains * f->rail_nics + slot / f->rails;
    return s;
}

uint64_t sf_topo_link_count(const struct sf_topo *t, enum sf_link_kind kind) {
    struct sf_topo_counts n;
    sf_topo_count(t, &n);
    switch (kind) {
    case SF_LINK_NVLINK_UP:
    case SF_LINK_NVLINK_DOWN:
        return n.links_nvlink;
    case SF_LINK_C2C_UP:
    case SF_LINK_C2C_DOWN:
        return n.links_c2c;
    case SF_LINK_NIC_UP:
    case SF_LINK_NIC_DOWN:
        return n.links_nic;
    case SF_LINK_LEAF_UP:
    case SF_LINK_LEAF_DOWN:
        return n.links_leaf_spine;
    case SF_LINK_SPINE_UP:
    case SF_LINK_SPINE_DOWN:
        return n.links_spine_core;
    case SF_LINK_KINDS_N:
        break;
    }
    return 0;
}

static bool known(const struct sf_topo *t, sf_link link) {
    int kind = SF_LINK_KIND(link);
    return kind < SF_LINK_KINDS_N && SF_LINK_INDEX(link) < sf_topo_link_count(t, (enum sf_link_kind)kind);
}

static bool goes_down(int kind) {
    return kind == SF_LINK_NVLINK_DOWN || kind == SF_LINK_C2C_DOWN || kind == SF_LINK_NIC_DOWN ||
           kind == SF_LINK_LEAF_DOWN || kind == SF_LINK_SPINE_DOWN;
}

static void nvlink_ends(const struct sfi_domain *d, uint64_t index, struct sfi_end *low, struct sfi_end *high) {
    uint64_t gpu = index / d->lanes, lane = index % d->lanes, domain = gpu / d->gpus;
    *low = (struct sfi_end){SFI_NODE_GPU, gpu};
    *high = d->nvswitches > 0 ? (struct sfi_end){SFI_NODE_NVSWITCH, domain * d->nvswitches + lane % d->nvswitches}
                              : (struct sfi_end){SFI_NODE_MEMORY, domain};
}

static void c2c_ends(const struct sfi_domain *d, uint64_t gpu, struct sfi_end *low, struct sfi_end *high) {
    uint64_t tray = gpu / d->gpus_per_tray, slot = gpu % d->gpus_per_tray;
    *low = (struct sfi_end){SFI_NODE_GPU, gpu};
    *high = (struct sfi_end){SFI_NODE_CPU, tray * d->cpus_per_tray + slot * d->cpus_per_tray / d->gpus_per_tray};
}

static void leaf_ends(const struct sfi_fabric *f, uint64_t index, struct sfi_end *low, struct sfi_end *high) {
    uint64_t leaf = index / f->leaf_up, port = index % f->leaf_up, pod = leaf / f->rails / f->groups_per_pod;
    *low = (struct sfi_end){SFI_NODE_LEAF, leaf};
    *high = (struct sfi_end){SFI_NODE_SPINE, pod * f->pod_spines + port % f->pod_spines};
}

static void spine_ends(const struct sfi_fabric *f, uint64_t index, struct sfi_end *low, struct sfi_end *high) {
    uint64_t spine = index / f->spine_up, port = index % f->spine_up, plane = spine % f->pod_spines;
    *low = (struct sfi_end){SFI_NODE_SPINE, spine};
    *high = (struct sfi_end){SFI_NODE_CORE, plane * f->plane_cores + port % f->plane_cores};
}

bool sfi_link_ends(const struct sf_topo *t, sf_link link, struct sfi_end *from, struct sfi_end *to) {
    if (!known(t, link)) {
        return false;
    }
    int kind = SF_LINK_KIND(link);
    uint64_t index = SF_LINK_INDEX(link);
    struct sfi_end *low = goes_down(kind) ? to : from, *high = goes_down(kind) ? from : to;
    switch (kind) {
    case SF_LINK_NVLINK_UP:
    case SF_LINK_NVLINK_DOWN:
        nvlink_ends(&t->domain, index, low, high);
        break;
    case SF_LINK_C2C_UP:
    case SF_LINK_C2C_DOWN:
        c2c_ends(&t->domain, index, low, high);
        break;
    case SF_LINK_NIC_UP:
    case SF_LINK_NIC_DOWN:
        *low = (struct sfi_end){SFI_NODE_GPU, index};
        *high = (struct sfi_end){SFI_NODE_LEAF, sfi_seat_of(t, (uint32_t)index).leaf};
        break;
    case SF_LINK_LEAF_UP:
    case SF_LINK_LEAF_DOWN:
        leaf_ends(&t->fabric, index, low, high);
        break;
    default:
        spine_ends(&t->fabric, index, low, high);
        break;
    }
    return true;
}

static const struct sf_link_class *class_of(const struct sf_topo *t, int kind) {
    switch (kind) {
    case SF_LINK_NVLINK_UP:
    case SF_LINK_NVLINK_DOWN:
        return &t->up;
    case SF_LINK_C2C_UP:
    case SF_LINK_C2C_DOWN:
        return &t->cpu;
    default:
        return &t->out;
    }
}

uint64_t sf_topo_link_rate(const struct sf_topo *t, sf_link link) {
    return known(t, link) ? class_of(t, SF_LINK_KIND(link))->bytes_per_s : 0;
}

/* "17:3" where links of a node share a number space, "17" where a GPU has one. */
static void index_text(const struct sf_topo *t, sf_link link, char *buf, size_t size) {
    uint64_t index = SF_LINK_INDEX(link), ports = 0;
    switch (SF_LINK_KIND(link)) {
    case SF_LINK_NVLINK_UP:
    case SF_LINK_NVLINK_DOWN:
        ports = t->domain.lanes;
        break;
    case SF_LINK_LEAF_UP:
    case SF_LINK_LEAF_DOWN:
        ports = t->fabric.leaf_up;
        break;
    case SF_LINK_SPINE_UP:
    case SF_LINK_SPINE_DOWN:
        ports = t->fabric.spine_up;
        break;
    default:
        snprintf(buf, size, "%llu", (unsigned long long)index);
        return;
    }
    snprintf(buf, size, "%llu:%llu", (unsigned long long)(index / ports), (unsigned long long)(index % ports));
}

char *sf_topo_link_text(const struct sf_topo *t, sf_link link, char *buf, size_t size) {
    static const char *const kinds[] = {
#define X(NAME, name) name,
        SF_LINK_KINDS(X)
#undef X
    };
    static const char *const nodes[] = {
#define X(NAME, name) name,
        SFI_NODES(X)
#undef X
    };
    struct sfi_end from, to;
    char index[48];
    int kind = SF_LINK_KIND(link);
    if (!sfi_link_ends(t, link, &from, &to)) {
        snprintf(buf, size, "unknown link %s %llu", kind < SF_LINK_KINDS_N ? kinds[kind] : "of no kind",
                 (unsigned long long)SF_LINK_INDEX(link));
        return buf;
    }
    index_text(t, link, index, sizeof index);
    uint64_t lanes = kind == SF_LINK_NVLINK_UP || kind == SF_LINK_NVLINK_DOWN ? t->domain.lanes : 1;
    double bits = 8e-9 * (double)class_of(t, kind)->peak_bytes_per_s / (double)lanes;
    snprintf(buf, size, "%s %s (%s %llu to %s %llu), %g Gb/s", kinds[kind], index, nodes[from.kind],
             (unsigned long long)from.index, nodes[to.kind], (unsigned long long)to.index, bits);
    return buf;
}

static void add(struct sf_route *r, enum sf_link_kind kind, uint64_t index) {
    assert(r->links_n < sizeof r->links / sizeof *r->links);
    r->links[r->links_n++] = SF_LINK(kind, index);
}

static void route_domain(const struct sf_topo *t, uint32_t src, uint32_t dst, struct sf_route *out) {
    out->kind = SF_ROUTE_DOMAIN;
    out->bytes_per_s = t->up.bytes_per_s;
    out->latency_ps = t->up.latency_ps;
    add(out, SF_LINK_NVLINK_UP, (uint64_t)src * t->domain.lanes);
    add(out, SF_LINK_NVLINK_DOWN, (uint64_t)dst * t->domain.lanes);
}

/* Climb from leaf to spine, to the core if the pods differ, and down again. The destination picks each port: its
 * position on its leaf the spine, its leaf's position in the pod the core, so that no two destinations of a pod share a
 * way down. */
static void route_climb(const struct sfi_fabric *f, const struct sfi_seat *a, const struct sfi_seat *b,
                        struct sf_route *out) {
    uint32_t up = b->port % f->leaf_up, plane = up % f->pod_spines;
    add(out, SF_LINK_LEAF_UP, (uint64_t)a->leaf * f->leaf_up + up);
    if (a->pod != b->pod) {
        uint32_t port = b->leaf_in_pod % f->spine_up;
        add(out, SF_LINK_SPINE_UP, ((uint64_t)a->pod * f->pod_spines + plane) * f->spine_up + port);
        add(out, SF_LINK_SPINE_DOWN, ((uint64_t)b->pod * f->pod_spines + plane) * f->spine_up + port);
    }
    add(out, SF_LINK_LEAF_DOWN, (uint64_t)b->leaf * f->leaf_up + up);
}

static void route_fabric(const struct sf_topo *t, uint32_t src, uint32_t dst, struct sf_route *out) {
    const struct sfi_fabric *f = &t->fabric;
    struct sfi_seat a = sfi_seat_of(t, src), b = sfi_seat_of(t, dst);
    out->kind = SF_ROUTE_LEAF;
    out->bytes_per_s = t->out.bytes_per_s;
    out->latency_ps = t->out.latency_ps + 2 * f->cable_ps[0];
    add(out, SF_LINK_NIC_UP, src);
    if (a.leaf != b.leaf) {
        out->kind = a.pod == b.pod ? SF_ROUTE_SPINE : SF_ROUTE_CORE;
        out->bytes_per_s = (uint64_t)((unsigned __int128)out->bytes_per_s * f->leaf_up / f->leaf_down);
        out->latency_ps += 2 * (t->fabric_switch.hop_ps + f->cable_ps[1]);
        route_climb(f, &a, &b, out);
    }
    if (out->kind == SF_ROUTE_CORE) {
        out->latency_ps += 2 * (t->fabric_switch.hop_ps + f->cable_ps[2]);
    }
    add(out, SF_LINK_NIC_DOWN, dst);
}

/* Leaves of different rails do not meet in a fabric of one tier: change rail inside the sender's domain. */
static void route_change_rail(const struct sf_topo *t, uint32_t src, uint32_t dst, struct sf_route *out) {
    uint32_t mate = src / t->domain.gpus * t->domain.gpus + dst % t->domain.gpus;
    route_domain(t, src, mate, out);
    sf_time_ps inside = out->latency_ps;
    route_fabric(t, mate, dst, out);
    out->latency_ps += inside;
    if (t->up.bytes_per_s < out->bytes_per_s) {
        out->bytes_per_s = t->up.bytes_per_s;
    }
}

void sf_topo_route(const struct sf_topo *t, uint32_t src, uint32_t dst, struct sf_route *out) {
    assert(src < t->seats && dst < t->seats);
    *out = (struct sf_route){.kind = SF_ROUTE_SELF, .bytes_per_s = t->device.memory_bytes_per_s};
    const struct sfi_fabric *f = &t->fabric;
    if (src == dst) {
        return;
    }
    if (src / t->domain.gpus == dst / t->domain.gpus) {
        route_domain(t, src, dst, out);
    } else if (f->tiers == 1 && src % t->domain.gpus % f->rails != dst % t->domain.gpus % f->rails) {
        route_change_rail(t, src, dst, out);
    } else {
        route_fabric(t, src, dst, out);
    }
}
