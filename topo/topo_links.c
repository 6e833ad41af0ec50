/* Links by number: how many, their ends, their names both ways, their rates. Arithmetic on the geometry. */
#include <stdio.h>
#include <string.h>

#include "topo/topo_state.h"

static const char *const kind_names[] = {
#define X(NAME, name) name,
    SF_LINK_KINDS(X)
#undef X
};

const char *sfi_link_kind_name(int kind) {
    return kind >= 0 && kind < SF_LINK_KINDS_N ? kind_names[kind] : "of no kind";
}

bool sfi_link_goes_down(int kind) {
    return kind == SF_LINK_NVLINK_DOWN || kind == SF_LINK_C2C_DOWN || kind == SF_LINK_NIC_DOWN ||
           kind == SF_LINK_LEAF_DOWN || kind == SF_LINK_SPINE_DOWN;
}

static uint64_t count_lanes(const struct sf_topo *t) {
    const struct sfi_stock *last = &t->stock[t->stocks_n - 1];
    return last->first_lane + (uint64_t)last->domains * last->domain.gpus * last->domain.lanes;
}

bool sfi_c2c_index(const struct sf_topo *t, uint64_t gpu, uint64_t *out) {
    const struct sfi_stock *own = sfi_stock_of_gpu(t, gpu);
    *out = gpu;
    for (const struct sfi_stock *s = t->stock; s < own; s++) {
        *out -= s->cpu.name[0] == '\0' ? (uint64_t)s->domains * s->domain.gpus : 0;
    }
    return own->cpu.name[0] != '\0';
}

static uint64_t count_c2c(const struct sf_topo *t) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < t->stocks_n; i++) {
        const struct sfi_stock *s = &t->stock[i];
        n += s->cpu.name[0] != '\0' ? (uint64_t)s->domains * s->domain.gpus : 0;
    }
    return n;
}

uint64_t sf_topo_link_count(const struct sf_topo *t, enum sf_link_kind kind) {
    const struct sfi_fabric *f = &t->fabric;
    switch (kind) {
    case SF_LINK_NVLINK_UP:
    case SF_LINK_NVLINK_DOWN:
        return count_lanes(t);
    case SF_LINK_C2C_UP:
    case SF_LINK_C2C_DOWN:
        return count_c2c(t);
    case SF_LINK_NIC_UP:
    case SF_LINK_NIC_DOWN:
        return (uint64_t)t->seats * f->planes;
    case SF_LINK_LEAF_UP:
    case SF_LINK_LEAF_DOWN:
        return (uint64_t)f->planes * f->leaves * f->leaf_up;
    case SF_LINK_SPINE_UP:
    case SF_LINK_SPINE_DOWN:
        return f->planes * sfi_plane_spines(f) * f->spine_up;
    case SF_LINK_KINDS_N:
        break;
    }
    return 0;
}

static bool known(const struct sf_topo *t, sf_link link) {
    int kind = SF_LINK_KIND(link);
    return kind < SF_LINK_KINDS_N && SF_LINK_INDEX(link) < sf_topo_link_count(t, (enum sf_link_kind)kind);
}

static void nvlink_ends(const struct sf_topo *t, uint64_t index, struct sfi_end *low, struct sfi_end *high) {
    uint32_t i = t->stocks_n - 1;
    while (i > 0 && t->stock[i].first_lane > index) {
        i--;
    }
    const struct sfi_stock *s = &t->stock[i];
    const struct sfi_domain *d = &s->domain;
    uint64_t gpu = (index - s->first_lane) / d->lanes, lane = (index - s->first_lane) % d->lanes;
    uint64_t domain = gpu / d->gpus;
    *low = (struct sfi_end){SFI_NODE_GPU, (uint64_t)s->first_domain * d->gpus + gpu};
    *high = d->nvswitches > 0
                ? (struct sfi_end){SFI_NODE_NVSWITCH, s->first_nvswitch + domain * d->nvswitches + lane % d->nvswitches}
                : (struct sfi_end){SFI_NODE_MEMORY, s->first_domain + domain};
}

/* GPUs without a link to a CPU have no number here. */
static void c2c_ends(const struct sf_topo *t, uint64_t index, struct sfi_end *low, struct sfi_end *high) {
    const struct sfi_stock *s = t->stock;
    for (uint64_t seats = 0;; index -= seats, s++) {
        seats = s->cpu.name[0] != '\0' ? (uint64_t)s->domains * s->domain.gpus : 0;
        if (index < seats) {
            break;
        }
    }
    const struct sfi_domain *d = &s->domain;
    uint64_t tray = index / d->gpus_per_tray, slot = index % d->gpus_per_tray;
    *low = (struct sfi_end){SFI_NODE_GPU, (uint64_t)s->first_domain * d->gpus + index};
    *high = (struct sfi_end){SFI_NODE_CPU,
                             s->first_cpu + tray * d->cpus_per_tray + slot * d->cpus_per_tray / d->gpus_per_tray};
}

static void nic_ends(const struct sf_topo *t, uint64_t index, struct sfi_end *low, struct sfi_end *high) {
    const struct sfi_fabric *f = &t->fabric;
    uint64_t gpu = index / f->planes, plane = index % f->planes;
    *low = (struct sfi_end){SFI_NODE_GPU, gpu};
    *high = (struct sfi_end){SFI_NODE_LEAF, plane * f->leaves + sfi_seat_of(t, (uint32_t)gpu).leaf};
}

static void leaf_ends(const struct sfi_fabric *f, uint64_t index, struct sfi_end *low, struct sfi_end *high) {
    uint64_t leaf = index / f->leaf_up, port = index % f->leaf_up, plane = leaf / f->leaves;
    uint64_t pod = sfi_pod_of_group(f, (uint32_t)(leaf % f->leaves) / f->rails);
    *low = (struct sfi_end){SFI_NODE_LEAF, leaf};
    *high = (struct sfi_end){SFI_NODE_SPINE, plane * sfi_plane_spines(f) + pod * f->pod_spines + port % f->pod_spines};
}

static void spine_ends(const struct sfi_fabric *f, uint64_t index, struct sfi_end *low, struct sfi_end *high) {
    uint64_t spine = index / f->spine_up, port = index % f->spine_up, plane = spine / sfi_plane_spines(f);
    uint64_t slice = spine % f->pod_spines;
    *low = (struct sfi_end){SFI_NODE_SPINE, spine};
    *high =
        (struct sfi_end){SFI_NODE_CORE, plane * sfi_plane_cores(f) + slice * f->slice_cores + port % f->slice_cores};
}

bool sfi_link_ends(const struct sf_topo *t, sf_link link, struct sfi_end *from, struct sfi_end *to) {
    if (!known(t, link)) {
        return false;
    }
    int kind = SF_LINK_KIND(link);
    uint64_t index = SF_LINK_INDEX(link);
    struct sfi_end *low = sfi_link_goes_down(kind) ? to : from, *high = sfi_link_goes_down(kind) ? from : to;
    switch (kind) {
    case SF_LINK_NVLINK_UP:
    case SF_LINK_NVLINK_DOWN:
        nvlink_ends(t, index, low, high);
        break;
    case SF_LINK_C2C_UP:
    case SF_LINK_C2C_DOWN:
        c2c_ends(t, index, low, high);
        break;
    case SF_LINK_NIC_UP:
    case SF_LINK_NIC_DOWN:
        nic_ends(t, index, low, high);
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

/* The class of a link whose lower end is `low`, and over how many cables of this kind one GPU's rate is spread. */
static const struct sf_link_class *class_of(const struct sf_topo *t, int kind, const struct sfi_end *low,
                                            uint32_t *spread) {
    const struct sfi_stock *s = low->kind == SFI_NODE_GPU ? sfi_stock_of_gpu(t, low->index) : NULL;
    *spread = 1;
    switch (kind) {
    case SF_LINK_NVLINK_UP:
    case SF_LINK_NVLINK_DOWN:
        *spread = s->domain.lanes;
        return &s->up;
    case SF_LINK_C2C_UP:
    case SF_LINK_C2C_DOWN:
        return &s->cpu;
    default:
        *spread = t->fabric.planes;
        return s != NULL ? &s->out : &t->stock[t->fabric.wide].out;
    }
}

uint64_t sf_topo_link_rate(const struct sf_topo *t, sf_link link) {
    struct sfi_end from, to;
    uint32_t spread;
    int kind = SF_LINK_KIND(link);
    if (!sfi_link_ends(t, link, &from, &to)) {
        return 0;
    }
    const struct sfi_end *low = sfi_link_goes_down(kind) ? &to : &from;
    if (kind == SF_LINK_NVLINK_UP || kind == SF_LINK_NVLINK_DOWN) {
        return sfi_up_rate(t, (uint32_t)low->index, kind == SF_LINK_NVLINK_DOWN);
    }
    const struct sf_link_class *class = class_of(t, kind, low, &spread);
    return sfi_scale(class->bytes_per_s / spread, sfi_link_ppm(t, link));
}

uint32_t sfi_link_ports(const struct sf_topo *t, int kind) {
    switch (kind) {
    case SF_LINK_NVLINK_UP:
    case SF_LINK_NVLINK_DOWN:
        return t->stock[0].domain.lanes;
    case SF_LINK_NIC_UP:
    case SF_LINK_NIC_DOWN:
        return t->fabric.planes;
    case SF_LINK_LEAF_UP:
    case SF_LINK_LEAF_DOWN:
        return t->fabric.leaf_up;
    case SF_LINK_SPINE_UP:
    case SF_LINK_SPINE_DOWN:
        return t->fabric.spine_up;
    default:
        return 1;
    }
}

/* "17:3" where links of a node share a number space, "17" where a GPU has one. Lanes are told by their own GPU, because
 * stocks may differ in how many there are. */
static void index_text(const struct sf_topo *t, sf_link link, const struct sfi_end *low, char *buf, size_t size) {
    int kind = SF_LINK_KIND(link);
    uint64_t index = SF_LINK_INDEX(link), ports = sfi_link_ports(t, kind), port;
    if (kind == SF_LINK_NVLINK_UP || kind == SF_LINK_NVLINK_DOWN) {
        const struct sfi_stock *s = sfi_stock_of_gpu(t, low->index);
        port = (index - s->first_lane) % s->domain.lanes;
    } else if (ports > 1 || (kind != SF_LINK_NIC_UP && kind != SF_LINK_NIC_DOWN && low->kind != SFI_NODE_GPU)) {
        port = index % ports;
    } else {
        snprintf(buf, size, "%llu", (unsigned long long)low->index);
        return;
    }
    snprintf(buf, size, "%llu:%llu", (unsigned long long)low->index, (unsigned long long)port);
}

char *sf_topo_link_text(const struct sf_topo *t, sf_link link, char *buf, size_t size) {
    static const char *const nodes[] = {
#define X(NAME, name) name,
        SFI_NODES(X)
#undef X
    };
    struct sfi_end from, to;
    char index[48];
    uint32_t spread;
    int kind = SF_LINK_KIND(link);
    if (!sfi_link_ends(t, link, &from, &to)) {
        snprintf(buf, size, "unknown link %s %llu", sfi_link_kind_name(kind), (unsigned long long)SF_LINK_INDEX(link));
        return buf;
    }
    const struct sfi_end *low = sfi_link_goes_down(kind) ? &to : &from;
    index_text(t, link, low, index, sizeof index);
    const struct sf_link_class *l = class_of(t, kind, low, &spread);
    double bits = 8e-9 * (double)l->peak_bytes_per_s / spread;
    uint32_t ppm = sfi_link_ppm(t, link);
    int n = snprintf(buf, size, "%s %s (%s %llu to %s %llu), %g Gb/s", kind_names[kind], index, nodes[from.kind],
                     (unsigned long long)from.index, nodes[to.kind], (unsigned long long)to.index, bits);
    if (ppm < SFI_WELL && n > 0 && (size_t)n < size) {
        snprintf(buf + n, size - (size_t)n, ppm == 0 ? ", dead" : ", at %g %%", ppm * 1e-4);
    }
    return buf;
}

uint64_t sfi_node_count(const struct sf_topo *t, enum sfi_node_kind kind) {
    const struct sfi_stock *last = &t->stock[t->stocks_n - 1];
    const struct sfi_fabric *f = &t->fabric;
    switch (kind) {
    case SFI_NODE_GPU:
        return t->seats;
    case SFI_NODE_CPU:
        return last->first_cpu + (uint64_t)last->domains * last->domain.trays * last->domain.cpus_per_tray;
    case SFI_NODE_NVSWITCH:
        return last->first_nvswitch + (uint64_t)last->domains * last->domain.nvswitches;
    case SFI_NODE_MEMORY:
        return t->domains;
    case SFI_NODE_LEAF:
        return (uint64_t)f->planes * f->leaves;
    case SFI_NODE_SPINE:
        return f->planes * sfi_plane_spines(f);
    case SFI_NODE_CORE:
        return f->planes * sfi_plane_cores(f);
    case SFI_NODES_N:
        break;
    }
    return 0;
}
