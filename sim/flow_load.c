#include "sim/flow_load.h"

#include <math.h>

#include "sim/coll_internal.h"
#include "sim/cost_internal.h"

static uint32_t share_of(double part, double whole) {
    double share = whole > 0.0 ? part / whole * 65536.0 : 0.0;
    return share < 65536.0 ? (uint32_t)share : 65536u;
}

static bool make_room(struct sfi_loader *l, uint32_t id) {
    if (id < l->size) {
        return true;
    }
    uint32_t size = l->size ? 2 * l->size : 64;
    struct sfi_load *bigger = sf_arena_alloc(l->arena, size, sizeof *bigger);
    if (!bigger) {
        return false;
    }
    for (uint32_t i = 0; i < l->size; i++) {
        bigger[i] = l->loads[i];
    }
    l->loads = bigger;
    l->size = size;
    return true;
}

static uint32_t id_of(struct sfi_loader *l, struct sfi_load load) {
    uint64_t key = sf_mix64(sf_mix64(UINT64_C(0x6c6f6164), load.cap), load.cores);
    key = sf_mix64(sf_mix64(sf_mix64(key, load.memory), load.memory_far), load.lanes);
    uint32_t id = sfi_ids_get(&l->ids, l->arena, key);
    if (id == SF_NONE || !make_room(l, id)) {
        return SF_NONE;
    }
    l->loads[id] = load;
    return id;
}

int sfi_loader_init(struct sfi_loader *l, const struct sf_prog *prog, const struct sf_cost *cost,
                    struct sf_arena *arena, struct sf_err *err) {
    size_t bounds_n = 2 * (size_t)prog->recipes_n * sf_cost_kinds(cost);
    *l = (struct sfi_loader){.prog = prog, .arena = arena};
    l->bounds = sf_arena_alloc(arena, bounds_n, sizeof *l->bounds);
    if (!l->bounds || !sfi_ids_init(&l->ids, arena) || id_of(l, (struct sfi_load){0}) == SF_NONE) {
        return sf_fail_memory(err, "loads of ops");
    }
    for (size_t i = 0; i < bounds_n; i++) {
        l->bounds[i] = -1.0;
    }
    sfi_loader_use(l, cost, 0);
    return SF_OK;
}

void sfi_loader_use(struct sfi_loader *l, const struct sf_cost *cost, uint32_t kind) {
    const struct sf_cost *own = sf_cost_of(cost, kind);
    const struct sf_kernel_model *k = &own->device->kernels;
    l->cost = own;
    l->competes = own->coll && k->cores > 0 && !own->messages_measured && !own->collectives_measured;
    l->memory_rate = (double)own->device->memory_bytes_per_s * k->memory_share;
    l->bound_cores = l->bounds + 2 * (size_t)l->prog->recipes_n * kind;
    l->bound_memory = l->bound_cores + l->prog->recipes_n;
}

uint64_t sfi_port_rate(const struct sf_cost *cost, uint32_t tier) {
    const struct sf_link_class *out = cost->stock.out;
    if (tier == SFI_PORT_OUT) {
        return out ? out->bytes_per_s : 0;
    }
    return cost->messages_measured ? cost->message.bytes_per_s : cost->tier[SF_ROUTE_DOMAIN].bytes_per_s;
}

/* ---- kernels ---- */

/* Seconds that the arithmetic alone would take at the rate of long kernels; 0 for those that only stream. */
static double arithmetic_s(const struct sf_device_class *d, const struct sf_call *call) {
    bool forward = sf_call_is_attention_fwd(call->kind);
    if (sf_call_is_attention(call->kind)) {
        double rate = d->flops_per_s[SF_BF16] * (forward ? d->attn_fwd_efficiency : d->attn_bwd_efficiency);
        return rate > 0.0 ? sf_call_work(call).flops / rate : 0.0;
    }
    double rate = d->flops_per_s[call->dtype] * d->gemm_efficiency[call->dtype];
    return call->kind == SF_CALL_GEMM && rate > 0.0 ? sf_call_work(call).flops / rate : 0.0;
}

/* A kernel is bound by whichever takes longer. Attention that is not fused is products, then kernels that stream. */
static void see_call(const struct sfi_loader *l, const struct sf_call *call, double *cores, double *memory) {
    double t = sf_ps_to_s(sf_cost_call(l->cost, call, NULL)), arithmetic = arithmetic_s(l->cost->device, call);
    bool attention = sf_call_is_attention(call->kind);
    if (attention && l->cost->framework.unfused_attention) {
        double products = fmin(arithmetic, t);
        *cores += products;
        *memory += t - products;
    } else if (arithmetic >= sf_call_work(call).bytes / l->memory_rate) {
        *cores += t;
    } else {
        *memory += t;
    }
}

static void see_recipe(struct sfi_loader *l, uint32_t recipe) {
    const struct sf_recipe *r = &l->prog->recipes[recipe];
    double cores = 0.0, memory = 0.0;
    for (uint32_t i = 0; i < r->calls_n; i++) {
        if (!sf_call_is_collective(r->calls[i].kind)) {
            see_call(l, &r->calls[i], &cores, &memory);
        }
    }
    double all = cores + memory;
    l->bound_cores[recipe] = all > 0.0 ? cores / all : 0.0;
    l->bound_memory[recipe] = all > 0.0 ? memory / all : 0.0;
}

uint32_t sfi_load_kernel(struct sfi_loader *l, uint32_t recipe, const struct sfi_price *price) {
    struct sfi_load load = {0};
    if (l->competes && price->total > 0) {
        if (l->bound_cores[recipe] < 0.0) {
            see_recipe(l, recipe);
        }
        double own = (double)(price->part[SFI_PART_COMPUTE] + price->part[SFI_PART_RECOMPUTE]);
        load.cores = share_of(l->bound_cores[recipe] * own, (double)price->total);
        load.memory = share_of(l->bound_memory[recipe] * own, (double)price->total);
    }
    return id_of(l, load);
}

/* ---- communication ---- */

/* NCCL gives a peer so many channels per NVLink, and over the network one per so much of its rate and at least two;
 * powers of two (graph/paths.cc). Copy engines take none. */
static double transfer_channels(const struct sfi_loader *l, uint32_t tier) {
    const struct sf_device_class *d = l->cost->device;
    const struct sf_link_class *up = l->cost->stock.up;
    double n = 2.0, wanted;
    if (tier == SFI_PORT_UP) { /* of this kind of GPU: another kind in the cluster may have fewer */
        wanted = d->p2p_channels_per_link * (up->links > 0 ? up->links * up->links_share : 1.0);
    } else {
        wanted = (double)l->cost->stock.out->peak_bytes_per_s / (double)d->p2p_channel_bytes_per_s;
    }
    if (tier == SFI_PORT_UP && d->p2p_copy_engines) {
        return 0.0;
    }
    while (n < wanted) {
        n *= 2.0;
    }
    return fmin(n, l->cost->coll->k.channels_max);
}

/* Over the network a message goes through a buffer on the device at both ends: one read and one write more than its
 * own. Over NVLink the sender writes into the receiver's buffer. */
uint32_t sfi_load_transfer(struct sfi_loader *l, uint32_t tier, uint64_t cap) {
    struct sfi_load load = {.cap = cap};
    if (l->competes && tier != SFI_PORT_NONE) {
        load.cores = share_of(transfer_channels(l, tier), l->cost->device->kernels.cores);
        load.memory = share_of((double)cap * (tier == SFI_PORT_UP ? 1.0 : 3.0), l->memory_rate);
        load.memory_far = share_of((double)cap * 3.0, l->memory_rate);
    }
    return id_of(l, load);
}

/* A copy reads or writes the device's memory once. With a single engine the two directions take turns. */
uint32_t sfi_load_copy(struct sfi_loader *l, bool to_host) {
    uint64_t rate = sfi_cost_host_rate(l->cost);
    struct sfi_load load = {.cap = rate > 0 ? rate : 1, .lanes = to_host ? SFI_TO_HOST : SFI_FROM_HOST};
    if (l->cost->device->copy_engines < 2) {
        load.lanes = SFI_TO_HOST | SFI_FROM_HOST;
    }
    if (l->competes) {
        load.memory = share_of((double)load.cap, l->memory_rate);
    }
    return id_of(l, load);
}

/* What one member moves, all told. Where switches add, each value leaves once and comes back once. */
static double moved(int call_kind, double bytes, double members, bool switches_add) {
    double others = (members - 1.0) / members * bytes;
    return call_kind != SF_CALL_ALL_REDUCE ? others : switches_add ? bytes : 2.0 * others;
}

/* How much of it passes the port of the tier that the group spans. */
static double on_port(int call_kind, double bytes, double all, const struct sf_span *span) {
    if (span->domains < 2) {
        return all;
    }
    double local = span->min_per_domain;
    return call_kind == SF_CALL_ALL_TO_ALL ? bytes * (span->members - local) / span->members : all / local;
}

uint32_t sfi_load_collective(struct sfi_loader *l, int call_kind, uint64_t bytes, const struct sf_span *span,
                             sf_time_ps time, uint64_t capacity) {
    struct sfi_load load = {0};
    bool switches_add = false;
    if (l->competes) {
        const struct sf_coll_query q = {(enum sf_coll_op)sf_call_collective(call_kind), bytes, *span};
        const struct sfi_ask ask = sfi_ask_of(l->cost->coll, &q);
        struct sf_coll_choice chosen;
        sf_coll_choose(l->cost->coll, &q, &chosen);
        load.cores = share_of(sfi_channels(&ask, (int)chosen.algorithm), l->cost->device->kernels.cores);
        switches_add = chosen.algorithm == SF_COLL_NVLS || chosen.algorithm == SF_COLL_NVLS_TREE;
    }
    double all = moved(call_kind, (double)bytes, span->members, switches_add), t = sf_ps_to_s(time);
    double rate = on_port(call_kind, (double)bytes, all, span) / t;
    load.cap = rate >= (double)capacity ? capacity : (uint64_t)rate;
    load.cap = load.cap > 0 ? load.cap : 1;
    if (l->competes) { /* a ring reads its own and what came in, and writes what comes in; switches read and write */
        load.memory = share_of(all / t * (switches_add ? 2.0 : 3.0), l->memory_rate);
    }
    return id_of(l, load);
}
