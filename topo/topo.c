#include "topo/topo_state.h"

#include <assert.h>
#include <string.h>

#include "core/arena.h"

const char *sf_grade_name(int grade) {
    static const char *const names[] = {
#define X(NAME, name) name,
        SF_GRADES(X)
#undef X
    };
    return grade >= 0 && grade < SF_GRADES_N ? names[grade] : "?";
}

void sf_topo_free(struct sf_topo *t) {
    if (t != NULL) {
        sfi_overlay_free(&t->overlay);
        sf_free(t->sources);
        sf_free(t);
    }
}

int sf_topo_planned(const struct sf_topo *t, struct sf_topo **out, struct sf_err *err) {
    struct sf_topo *copy = sf_malloc(sizeof *copy);
    struct sf_source *sources = sf_calloc(t->sources_n + 1, sizeof *sources);
    *out = NULL;
    if (copy == NULL || sources == NULL) {
        sf_free(copy);
        sf_free(sources);
        return sf_fail_memory(err, "the cluster as planned");
    }
    *copy = *t;
    if (t->sources_n > 0) {
        memcpy(sources, t->sources, t->sources_n * sizeof *sources);
    }
    copy->sources = sources;
    copy->overlay = (struct sfi_overlay){0};
    uint64_t seats = sfi_seats_before(copy, copy->seats);
    copy->in_use = copy->wanted > 0 && copy->wanted < seats ? copy->wanted : (uint32_t)seats;
    *out = copy;
    return 0;
}

uint64_t sf_topo_up_left(const struct sf_topo *t, uint32_t gpu) {
    uint64_t up = sfi_up_rate(t, gpu, false), down = sfi_up_rate(t, gpu, true);
    return up < down ? up : down;
}

void sf_topo_least_up(const struct sf_topo *t, struct sf_topo_least *out) {
    *out = (struct sf_topo_least){0, t->stock[0].up.bytes_per_s, t->stock[0].up.bytes_per_s};
    for (uint32_t i = 0; t->overlay.nvlink && i < t->in_use; i++) {
        uint32_t gpu = sf_topo_seat(t, i);
        uint64_t least = sf_topo_up_left(t, gpu);
        uint64_t whole = sfi_stock_of_gpu(t, gpu)->up.bytes_per_s;
        if ((double)least / (double)whole < (double)out->bytes_per_s / (double)out->whole_bytes_per_s) {
            *out = (struct sf_topo_least){gpu, least, whole};
        }
    }
}

const char *sf_topo_name(const struct sf_topo *t) {
    return t->name;
}

uint32_t sf_topo_gpus(const struct sf_topo *t) {
    return t->seats;
}

uint32_t sf_topo_gpus_in_use(const struct sf_topo *t) {
    return t->in_use;
}

uint32_t sf_topo_domain_gpus(const struct sf_topo *t) {
    return t->stock[0].domain.gpus;
}

uint32_t sf_topo_domain(const struct sf_topo *t, uint32_t gpu) {
    assert(gpu < t->seats);
    return gpu / t->stock[0].domain.gpus;
}

uint32_t sf_topo_rails(const struct sf_topo *t) {
    return t->fabric.tiers > 0 ? t->fabric.rails : 1;
}

uint32_t sf_topo_planes(const struct sf_topo *t) {
    return t->fabric.tiers > 0 ? t->fabric.planes : 1;
}

const struct sf_topo_coll *sf_topo_collectives(const struct sf_topo *t) {
    return &t->coll;
}

const struct sf_switch_class *sf_topo_switch(const struct sf_topo *t) {
    return t->fabric.tiers > 0 ? &t->fabric_switch : NULL;
}

size_t sf_topo_sources(const struct sf_topo *t, const struct sf_source **out) {
    *out = t->sources;
    return t->sources_n;
}

bool sf_topo_mixed(const struct sf_topo *t) {
    for (uint32_t i = 1; i < t->stocks_n; i++) {
        if (t->stock[i].alike != 0) {
            return true;
        }
    }
    return false;
}

const struct sf_device_class *sf_topo_device(const struct sf_topo *t) {
    return &t->stock[0].device;
}

const struct sf_device_class *sf_topo_device_of(const struct sf_topo *t, uint32_t gpu) {
    assert(gpu < t->seats);
    return &sfi_stock_of_gpu(t, gpu)->device;
}

const struct sf_link_class *sf_topo_scale_up(const struct sf_topo *t) {
    return &t->stock[0].up;
}

const struct sf_link_class *sf_topo_scale_up_of(const struct sf_topo *t, uint32_t gpu) {
    assert(gpu < t->seats);
    return &sfi_stock_of_gpu(t, gpu)->up;
}

const struct sf_link_class *sf_topo_scale_out(const struct sf_topo *t) {
    return t->fabric.tiers > 0 ? &t->stock[0].out : NULL;
}

const struct sf_link_class *sf_topo_scale_out_of(const struct sf_topo *t, uint32_t gpu) {
    assert(gpu < t->seats);
    return t->fabric.tiers > 0 ? &sfi_stock_of_gpu(t, gpu)->out : NULL;
}

uint32_t sf_topo_stocks(const struct sf_topo *t) {
    return t->stocks_n;
}

uint32_t sf_topo_stock_of(const struct sf_topo *t, uint32_t gpu) {
    assert(gpu < t->seats);
    return (uint32_t)(sfi_stock_of_gpu(t, gpu) - t->stock);
}

void sf_topo_stock(const struct sf_topo *t, uint32_t stock, struct sf_stock *out) {
    assert(stock < t->stocks_n);
    const struct sfi_stock *s = &t->stock[stock];
    *out = (struct sf_stock){
        .first_gpu = s->first_domain * s->domain.gpus,
        .gpus = s->domains * s->domain.gpus,
        .first_domain = s->first_domain,
        .domains = s->domains,
        .domain_in_use = s->domain.in_use,
        .device = &s->device,
        .up = &s->up,
        .cpu = s->cpu.name[0] != '\0' ? &s->cpu : NULL,
        .out = t->fabric.tiers > 0 ? &s->out : NULL,
        .coll_model = s->coll_model,
        .alike = s->alike,
        .host_bytes =
            (uint64_t)((unsigned __int128)s->cpu.memory_bytes * s->domain.cpus_per_tray / s->domain.gpus_per_tray),
    };
    __builtin_memcpy(out->kind, s->kind, sizeof out->kind);
}

enum sf_routing sf_topo_routing(const struct sf_topo *t) {
    return t->routing;
}

int sf_topo_set_routing(struct sf_topo *t, enum sf_routing routing, uint64_t seed, struct sf_err *err) {
    bool by_rail = routing == SF_ROUTING_PXN || routing == SF_ROUTING_RAIL_LOCAL;
    if (t->fabric.tiers == 0) {
        return sf_fail(err, SF_E_USAGE, "%s has one domain and no fabric to route through", t->name);
    }
    if (by_rail && t->fabric.rails == 1) {
        return sf_fail(err, SF_E_USAGE, "%s has one rail, so %s would be the same as adaptive", t->name,
                       sf_routing_name((int)routing));
    }
    if (t->fabric.tiers == 1 && (routing == SF_ROUTING_PXN || routing == SF_ROUTING_ECMP)) {
        return sf_fail(err, SF_E_USAGE,
                       "one tier of leaves leaves no choice of paths: %s would be the same as adaptive",
                       sf_routing_name((int)routing));
    }
    if (seed != 0 && routing != SF_ROUTING_ECMP) {
        return sf_fail(err, SF_E_USAGE, "a seed belongs to ecmp: %s hashes nothing", sf_routing_name((int)routing));
    }
    t->routing = routing;
    t->seed = seed;
    return 0;
}
