/* What ops ask of ports, cores and memory: rate caps of flows, shares that communication takes from kernels, and how
 * sensitive kernels are to that. Derived from the collective model (channels are cores), the routes and the kernels'
 * work; nothing here is a knob.
 *
 * Only GPUs with a collective model compete with their communication. Ranks on cores of a host whose transport was
 * measured do not: what they lose is in the measurement. */
#ifndef SF_SIM_FLOW_LOAD_H
#define SF_SIM_FLOW_LOAD_H

#include "sim/engine.h"

struct sfi_loader {
    const struct sf_prog *prog;
    const struct sf_cost *cost;
    struct sf_arena *arena;
    struct sfi_ids ids; /* of loads by content */
    struct sfi_load *loads;
    uint32_t size;
    bool competes;       /* kernels and communication are on one device */
    double memory_rate;  /* bytes per second that streaming kernels reach */
    double *bound_cores; /* [recipes_n] share of the kernels' own time; below 0: not known yet */
    double *bound_memory;
    double *bounds; /* both, of every kind of GPU */
};

int sfi_loader_init(struct sfi_loader *l, const struct sf_prog *prog, const struct sf_cost *cost,
                    struct sf_arena *arena, struct sf_err *err);

/* From now on everything is asked for GPUs of this kind. */
void sfi_loader_use(struct sfi_loader *l, const struct sf_cost *cost, uint32_t kind);

/* Bytes per second of an instance's port. */
uint64_t sfi_port_rate(const struct sf_cost *cost, uint32_t tier);

/* Each gives an index into l->loads, SF_NONE without memory. */
uint32_t sfi_load_kernel(struct sfi_loader *l, uint32_t recipe, const struct sfi_price *price);
uint32_t sfi_load_transfer(struct sfi_loader *l, uint32_t tier, uint64_t cap);
/* Bytes from or to the host. */
uint32_t sfi_load_copy(struct sfi_loader *l, bool to_host);
/* A member's part of a collective that takes `time` undisturbed, over a port of `capacity`. */
uint32_t sfi_load_collective(struct sfi_loader *l, int call_kind, uint64_t bytes, const struct sf_span *span,
                             sf_time_ps time, uint64_t capacity);

#endif
