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
    bool is_ep[SF_MAX_COMMS], is_tp[SF_MAX_COMMS];
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
        p->is_ep[c] = strncmp(prog->comms[c].name, "ep", 2) == 0; /* "ep.2": of stages with two ranks; so is tp */
        p->is_tp[c] = strncmp(prog->comms[c].name, "tp", 2) == 0;
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
    key = sf_mix64(key, around->kinds);
    for (uint32_t left = p->comms[recipe]; left; left &= left - 1) {
        const struct sf_span *s = around->span[__builtin_ctz(left)];
        key = sf_mix64(sf_mix64(key, s->members), s->domains);
        key = sf_mix64(sf_mix64(sf_mix64(key, s->min_per_domain), s->kind), s->kinds);
        key = sf_mix64(key, sfi_pace_bits(around->rate[__builtin_ctz(left)]));
    }
    return key;
}

static enum sf_grade collective_grade(const struct sf_cost *cost, int kind, const struct sf_span *span) {
    if (cost->coll && !cost->collectives_measured) {
        return sf_coll_grade(cost->coll, (enum sf_coll_op)sf_call_collective(kind), span);
    }
    const struct sf_topo *topo = cost->topo;
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

/* Collectives beside attention: time that they still need, and time of the attention before that none has taken. */
struct beside {
    sf_time_ps owed, slack;
    enum sf_grade grade;
};

static void add_time(struct sfi_price *out, enum sfi_part part, enum sf_grade grade, sf_time_ps t) {
    out->part[part] = sfi_time_add(out->part[part], t);
    out->grade[grade] = sfi_time_add(out->grade[grade], t);
    out->total = sfi_time_add(out->total, t);
}

/* Runs beside what is left of the attention before it, and then beside the next. */
static void run_beside(struct beside *b, enum sf_grade grade, sf_time_ps t) {
    sf_time_ps hidden = t < b->slack ? t : b->slack;
    b->slack -= hidden;
    b->owed = sfi_time_add(b->owed, t - hidden);
    b->grade = grade;
}

/* Whatever attention of t does not hide holds up what comes after it. */
static void end_beside(struct beside *b, sf_time_ps t, struct sfi_price *out) {
    sf_time_ps hidden = b->owed < t ? b->owed : t;
    add_time(out, SFI_PART_TP, b->grade, b->owed - hidden);
    *b = (struct beside){.slack = t - hidden};
}

static bool is_attention(const struct sf_call *call) {
    return sf_call_is_attention(call->kind);
}

static void price_call(const struct sfi_prices *p, const struct sf_cost *own, const struct sf_call *call,
                       const struct sfi_around *around, struct beside *beside, struct sfi_price *out) {
    enum sf_grade grade = SF_GRADE_CALIBRATED;
    enum sfi_part part;
    sf_time_ps t;
    if (sf_call_is_collective(call->kind)) {
        part = p->is_ep[call->comm] ? SFI_PART_EP : SFI_PART_TP;
        const struct sf_span *span = around->span[call->comm];
        t = sfi_price_collective(p->cost, call->kind, (uint64_t)call->dims[0], span, around->rate[call->comm]);
        double shown = p->is_tp[call->comm] ? sf_cost_tp_share(p->cost) : 1.0;
        t = sf_s_to_ps(sf_ps_to_s(t) * sfi_call_fill(call) * shown);
        grade = collective_grade(p->cost, call->kind, span);
        if (call->flags & SF_CALL_BESIDE_FLAG) {
            run_beside(beside, grade, t);
            return;
        }
    } else {
        part = call->flags & SF_CALL_RECOMPUTE_FLAG ? SFI_PART_RECOMPUTE : SFI_PART_COMPUTE;
        t = sf_cost_call(own, call, &grade);
        t = around->gpu < 1.0 ? sf_s_to_ps(sf_ps_to_s(t) / around->gpu) : t;
    }
    end_beside(beside, is_attention(call) ? t : 0, out);
    add_time(out, part, grade, t);
}

/* A kernel starts when the one before it has ended and the host has issued it. `issued` is the host's clock within the
 * recipe. Frameworks, which alone need such time, issue a sum and its norm one after the other. */
static void wait_for_host(const struct sfi_prices *p, uint8_t kind, sf_time_ps *issued, struct sfi_price *out) {
    bool two = kind == SF_CALL_RMSNORM_ADD_FWD || kind == SF_CALL_LAYERNORM_ADD_FWD;
    for (int i = 0; i < (two ? 2 : 1); i++) {
        *issued = sfi_time_add(*issued, sf_cost_host(p->cost));
    }
    sf_time_ps late = *issued - out->total;
    if (late > 0) {
        out->part[SFI_PART_HOST] = sfi_time_add(out->part[SFI_PART_HOST], late);
        out->total = sfi_time_add(out->total, late);
    }
}

static struct sfi_price price_on(const struct sfi_prices *p, const struct sf_cost *cost, uint32_t recipe,
                                 const struct sfi_around *around) {
    const struct sf_recipe *r = &p->prog->recipes[recipe];
    struct sfi_price price = {0};
    struct beside beside = {0};
    bool update = r->calls_n > 0 && r->calls[0].kind == SF_CALL_ADAMW; /* behind no transfer */
    sf_time_ps issued = update ? 0 : sf_cost_resume(p->cost);
    for (uint32_t i = 0; i < r->calls_n; i++) {
        wait_for_host(p, r->calls[i].kind, &issued, &price);
        price_call(p, cost, &r->calls[i], around, &beside, &price);
    }
    end_beside(&beside, 0, &price);
    return price;
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
    for (uint32_t kind = 0; kind < sf_cost_kinds(p->cost); kind++) {
        if (around->kinds == 0 || (around->kinds >> kind & 1) != 0) {
            struct sfi_price own = price_on(p, sf_cost_of(p->cost, kind), recipe, around);
            *price = own.total > price->total ? own : *price;
        }
    }
    p->price[id] = price;
    return price;
}
