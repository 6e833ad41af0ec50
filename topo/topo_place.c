/* Where things are: seats in domains of stocks, domains in groups, groups in pods, and which seats are in use. */
#include <assert.h>

#include "topo/topo_state.h"

const struct sfi_stock *sfi_stock_of_domain(const struct sf_topo *t, uint64_t domain) {
    uint32_t i = t->stocks_n - 1;
    while (i > 0 && t->stock[i].first_domain > domain) {
        i--;
    }
    return &t->stock[i];
}

const struct sfi_stock *sfi_stock_of_gpu(const struct sf_topo *t, uint64_t gpu) {
    return t->stocks_n == 1 ? t->stock : sfi_stock_of_domain(t, gpu / t->stock[0].domain.gpus);
}

uint64_t sfi_slots_before(const struct sf_topo *t, uint64_t gpu) {
    const struct sfi_stock *s = sfi_stock_of_gpu(t, gpu);
    uint64_t from = gpu - (uint64_t)s->first_domain * s->domain.gpus, slot = from % s->domain.gpus;
    uint64_t used = slot < s->domain.in_use ? slot : s->domain.in_use;
    return s->slots_before + from / s->domain.gpus * s->domain.in_use + used;
}

/* The last range that begins below `gpu`; out_n when none does. */
static uint32_t last_out(const struct sfi_overlay *o, uint64_t gpu) {
    uint32_t low = 0, high = o->out_n;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (o->out[middle].lo < gpu) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low > 0 ? low - 1 : o->out_n;
}

uint64_t sfi_seats_before(const struct sf_topo *t, uint64_t gpu) {
    const struct sfi_overlay *o = &t->overlay;
    uint64_t slots = sfi_slots_before(t, gpu);
    uint32_t i = last_out(o, gpu);
    if (i == o->out_n) {
        return slots;
    }
    /* Inside the range, what it holds from here on is not gone yet. */
    uint64_t ahead = gpu <= o->out[i].hi ? sfi_slots_before(t, o->out[i].hi + 1) - slots : 0;
    return slots - (o->out[i].slots_gone - ahead);
}

static bool is_seat(const struct sf_topo *t, uint32_t gpu) {
    return sfi_seats_before(t, (uint64_t)gpu + 1) > sfi_seats_before(t, gpu);
}

enum sf_gpu_state sf_topo_gpu_state(const struct sf_topo *t, uint32_t gpu) {
    assert(gpu < t->seats);
    if (sfi_ppm(&t->overlay.set[SFI_SET_DEAD_GPU], gpu) == 0) {
        return SF_GPU_DEAD;
    }
    return is_seat(t, gpu) && sfi_seats_before(t, gpu) < t->in_use ? SF_GPU_IN_USE : SF_GPU_SPARE;
}

uint32_t sf_topo_seat(const struct sf_topo *t, uint32_t n) {
    assert(n < t->in_use);
    if (sfi_seats_before(t, (uint64_t)n + 1) == (uint64_t)n + 1) {
        return n;
    }
    uint32_t low = n, high = t->seats - 1;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (sfi_seats_before(t, (uint64_t)middle + 1) > n) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

static const struct sfi_block *block_of_domain(const struct sfi_fabric *f, uint32_t domain) {
    uint32_t i = f->blocks_n - 1;
    while (i > 0 && f->blocks[i].first_domain > domain) {
        i--;
    }
    return &f->blocks[i];
}

static const struct sfi_block *block_of_group(const struct sfi_fabric *f, uint32_t group) {
    uint32_t i = f->blocks_n - 1;
    while (i > 0 && f->blocks[i].first_group > group) {
        i--;
    }
    return &f->blocks[i];
}

uint32_t sfi_pod_of_group(const struct sfi_fabric *f, uint32_t group) {
    const struct sfi_block *b = block_of_group(f, group);
    return b->first_pod + (group - b->pod_group) / f->groups_per_pod;
}

struct sfi_run sfi_pod_groups(const struct sfi_fabric *f, uint32_t pod) {
    uint32_t i = f->blocks_n - 1, end = f->groups;
    while (i > 0 && f->blocks[i].first_pod > pod) {
        end = f->blocks[i].pod_group;
        i--;
    }
    uint32_t first = f->blocks[i].pod_group + (pod - f->blocks[i].first_pod) * f->groups_per_pod;
    return (struct sfi_run){first, end - first < f->groups_per_pod ? end - first : f->groups_per_pod};
}

struct sfi_run sfi_group_domains(const struct sf_topo *t, uint32_t group) {
    const struct sfi_fabric *f = &t->fabric;
    const struct sfi_block *b = block_of_group(f, group);
    uint32_t end = b + 1 < f->blocks + f->blocks_n ? b[1].first_domain : t->domains;
    uint32_t first = b->first_domain + (group - b->first_group) * f->group_domains;
    return (struct sfi_run){first, end - first < f->group_domains ? end - first : f->group_domains};
}

struct sfi_seat sfi_seat_of(const struct sf_topo *t, uint32_t gpu) {
    const struct sfi_fabric *f = &t->fabric;
    uint32_t gpus = t->stock[0].domain.gpus, domain = gpu / gpus, slot = gpu % gpus;
    const struct sfi_block *b = block_of_domain(f, domain);
    uint32_t from = domain - b->first_domain, group = b->first_group + from / f->group_domains;
    uint32_t in_pods = group - b->pod_group;
    return (struct sfi_seat){
        .rail = slot % f->rails,
        .group = group,
        .pod = b->first_pod + in_pods / f->groups_per_pod,
        .leaf = group * f->rails + slot % f->rails,
        .leaf_in_pod = in_pods % f->groups_per_pod * f->rails + slot % f->rails,
        .port = from % f->group_domains * f->rail_nics + slot / f->rails,
    };
}

uint64_t sfi_plane_spines(const struct sfi_fabric *f) {
    return (uint64_t)f->pods * f->pod_spines;
}

uint64_t sfi_plane_cores(const struct sfi_fabric *f) {
    return (uint64_t)f->pod_spines * f->slice_cores;
}
