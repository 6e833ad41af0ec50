/* Pricing recipes, each once per set of spans. */
#include <string.h>

#include "sim/cost_internal.h"
#include "sim/engine.h"

struct sfi_prices {
    const struct sf_prog *prog;
    const struct sf_cost *cost;
    struct sf_arena *arena;
    uint32_t *comms;          /* [recipes_n] bit set of communicators it uses */
    struct sfi_ids ids;       /* of (recipe, spans) */
    struct sfi_price **price; /* by id */
    uint32_t price_size;
    bool is_ep[SF_MAX_COMMS];
};

struct sfi_prices *sfi_prices_create(const struct sf_prog *prog, const struct sf_cost *cost, struct sf_arena *arena) {
    struct sfi_prices *p = sf_arena_alloc(arena, 1, sizeof *p);
    uint32_t *comms = sf_arena_alloc(arena, prog->recipes_n, sizeof *comms);
    if (!p || !comms) {
        return NULL;
    }
    *p = (struct sfi_prices){.prog = prog, .cost = cost, .arena = arena, .comms = comms};
    if (!sfi_ids_init(&p->ids, arena)) {
        return NULL;
    }
    for (uint32_t r = 0; r < prog->recipes_n; r++) {
        for (uint32_t i = 0; i < prog->recipes[r].calls_n; i++) {
            const struct sf_call *call = &prog->recipes[r].calls[i];
            comms[r] |= sf_call_is_collective(call->kind) ? 1u << call->comm : 0;
        }
    }
    for (uint32_t c = 0; c < prog->comms_n; c++) {
        p->is_ep[c] = strcmp(prog->comms[c].name, "ep") == 0;
    }
    return p;
}

uint64_t sfi_pace_bits(double pace) {
    uint64_t bits;
    memcpy(&bits, &pace, sizeof bits);
    return bits;
}

static uint64_t key_of(const struct sfi_prices *p, uint32_t recipe, const struct sfi_around *around) {
    uint64_t key = sf_mix64(sf_mix64(UINT64_C(0x7072696365), recipe), sfi_pace_bits(around->gpu));
    for (uint32_t left = p->comms[recipe]; left; left &= left - 1) {
        const struct sf_span *s = around->span[__builtin_ctz(left)];
        key = sf_mix64(sf_mix64(key, s->members), s->domains);
        key = sf_mix64(sf_mix64(key, s->min_per_domain), s->kind);
        key = sf_mix64(key, sfi_pace_bits(around->rate[__builtin_ctz(left)]));
    }
    return key;
}

/* A collective rests on the link's grade, which a topology states per class. */
static enum sf_grade link_grade(const struct sf_topo *topo, const struct sf_span *span) {
    const struct sf_link_class *l = span->domains > 1 ? sf_topo_scale_out(topo) : sf_topo_scale_up(topo);
    return l ? l->grade : SF_GRADE_EXTRAPOLATED;
}

/* Slower by the share that bandwidth has in it; latency stays. */
sf_time_ps sfi_price_collective(const struct sf_cost *cost, int kind, uint64_t bytes, const struct sf_span *span,
                                double rate) {
    sf_time_ps t = sf_cost_collective(cost, kind, bytes, span);
    if (rate < 1.0) {
        sf_time_ps latency = sf_cost_collective(cost, kind, 0, span);
        t = sfi_time_add(latency, sf_s_to_ps(sf_ps_to_s(t - latency) / rate));
    }
    return t;
}

static void price_call(const struct sfi_prices *p, const struct sf_call *call, const struct sfi_around *around,
                       struct sfi_price *out) {
    enum sf_grade grade = SF_GRADE_CALIBRATED;
    enum sfi_part part;
    sf_time_ps t;
    if (sf_call_is_collective(call->kind)) {
        part = p->is_ep[call->comm] ? SFI_PART_EP : SFI_PART_TP;
        const struct sf_span *span = around->span[call->comm];
        t = sfi_price_collective(p->cost, call->kind, (uint64_t)call->dims[0], span, around->rate[call->comm]);
        t = sf_s_to_ps(sf_ps_to_s(t) * sfi_call_fill(call));
        grade = link_grade(sf_cost_topo(p->cost), span);
    } else {
        part = call->flags & SF_CALL_RECOMPUTE_FLAG ? SFI_PART_RECOMPUTE : SFI_PART_COMPUTE;
        t = sf_cost_call(p->cost, call, &grade);
        t = around->gpu < 1.0 ? sf_s_to_ps(sf_ps_to_s(t) / around->gpu) : t;
    }
    out->part[part] = sfi_time_add(out->part[part], t);
    out->grade[grade] = sfi_time_add(out->grade[grade], t);
    out->total = sfi_time_add(out->total, t);
}

/* A kernel starts when the one before it has ended and the host has issued it. `issued` is the host's clock within the
 * recipe. */
static void wait_for_host(const struct sfi_prices *p, sf_time_ps *issued, struct sfi_price *out) {
    *issued = sfi_time_add(*issued, sf_cost_host(p->cost));
    sf_time_ps late = *issued - out->total;
    if (late > 0) {
        out->part[SFI_PART_HOST] = sfi_time_add(out->part[SFI_PART_HOST], late);
        out->total = sfi_time_add(out->total, late);
    }
}

static bool make_room(struct sfi_prices *p, uint32_t id) {
    if (id < p->price_size) {
        return true;
    }
    uint32_t size = p->price_size ? 2 * p->price_size : 64;
    struct sfi_price **bigger = sf_arena_alloc(p->arena, size, sizeof *bigger);
    if (!bigger) {
        return false;
    }
    for (uint32_t i = 0; i < p->price_size; i++) {
        bigger[i] = p->price[i];
    }
    p->price = bigger;
    p->price_size = size;
    return true;
}

const struct sfi_price *sfi_price_recipe(struct sfi_prices *p, uint32_t recipe, const struct sfi_around *around) {
    uint32_t id = sfi_ids_get(&p->ids, p->arena, key_of(p, recipe, around));
    if (id == SF_NONE || !make_room(p, id)) {
        return NULL;
    }
    if (p->price[id]) {
        return p->price[id];
    }
    struct sfi_price *price = sf_arena_alloc(p->arena, 1, sizeof *price);
    if (!price) {
        return NULL;
    }
    const struct sf_recipe *r = &p->prog->recipes[recipe];
    sf_time_ps issued = 0;
    for (uint32_t i = 0; i < r->calls_n; i++) {
        wait_for_host(p, &issued, price);
        price_call(p, &r->calls[i], around, price);
    }
    p->price[id] = price;
    return price;
}
