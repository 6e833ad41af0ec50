/* The events of one cell, and its side of what happens where cells meet. */
#include "sim/engine.h"

#include <stdio.h>

#include "sim/crew.h"

/* An event's key. Its value orders the events of one moment: completions first, then requests for ports by the order of
 * (class, op). `member` is an instance and a stream; only collectives, which are known by them, use the stream. */
enum what { LOCAL, TRANSFER, COLLECTIVE };
enum { STREAM_BITS = 3, MEMBER_BITS = 27, WHAT_BITS = 2, OP_BITS = 20, CLASS_BITS = 12 };
enum { ORDER_AT = MEMBER_BITS + WHAT_BITS };
#define REQUEST (UINT64_C(1) << 63)
_Static_assert(SF_MAX_CLASSES <= 1 << CLASS_BITS && SF_MAX_CLASS_OPS <= 1 << OP_BITS, "keys have room");
_Static_assert(SF_MAX_RANKS <= 1 << (MEMBER_BITS - STREAM_BITS) && SF_MAX_STREAMS <= 1 << STREAM_BITS, "for members");

static uint64_t key_of(uint64_t request, enum what what, uint32_t order, uint32_t instance, uint32_t stream) {
    return request | (uint64_t)order << ORDER_AT | (uint64_t)what << MEMBER_BITS |
           (uint64_t)(instance << STREAM_BITS | stream);
}

static enum what key_what(uint64_t key) {
    return (enum what)(key >> MEMBER_BITS & ((1u << WHAT_BITS) - 1));
}

static uint32_t key_order(uint64_t key) {
    return (uint32_t)(key >> ORDER_AT);
}

static uint32_t key_op(uint64_t key) {
    return key_order(key) & ((1u << OP_BITS) - 1);
}

static uint32_t key_member(uint64_t key) {
    return (uint32_t)key & ((1u << MEMBER_BITS) - 1);
}

static uint32_t key_instance(uint64_t key) {
    return key_member(key) >> STREAM_BITS;
}

static uint32_t order_of(const struct sfi_variant *v, uint32_t op) {
    return v->class_i << OP_BITS | op;
}

static void schedule(struct sfi_worker *w, sf_time_ps time, uint64_t key) {
    sfi_queue_add(&w->cell->queue, time < SFI_TIME_MAX ? time : SFI_TIME_MAX, key);
}

static const struct sfi_variant *variant_of(const struct sfi_worker *w, const struct sfi_inst *in) {
    return &w->variant[in->variant];
}

/* When an op runs is settled: put it on record. */
static void settle_op(const struct sfi_worker *w, struct sfi_inst *in, const struct sfi_vop *f, uint32_t order,
                      sf_time_ps start, sf_time_ps end) {
    in->digest += sf_mix64(sf_mix64(order, (uint64_t)start), (uint64_t)end);
    if (f->record != SF_NONE) {
        w->table->starts[in->records + f->record] = start;
    }
    in->compute_from = f->first ? start : in->compute_from;
    in->compute_to = f->last ? end : in->compute_to;
}

/* Nothing at or behind `time` and `key` may happen in this visit. */
static void stop_before(struct sfi_worker *w, sf_time_ps time, uint64_t key) {
    struct sfi_event e = {time, key};
    w->limit = sfi_event_before(e, w->limit) ? e : w->limit;
}

/* ---- issuing ---- */

static void issue_local(struct sfi_worker *w, uint32_t i, uint32_t op, const struct sfi_vop *f) {
    struct sfi_inst *in = &w->inst[i];
    uint32_t order = order_of(variant_of(w, in), op);
    sf_time_ps start = w->now + w->run->dispatch;
    sf_time_ps end = start + sfi_local_time(in, f);
    settle_op(w, in, f, order, start, end);
    schedule(w, end, key_of(0, LOCAL, order, i, 0));
}

/* Rendezvous: the second side to arrive asks for the ports. Whether the partner is there shows in its stream state. */
static void issue_p2p(struct sfi_worker *w, uint32_t i, uint32_t op, const struct sfi_vop *f) {
    uint32_t peer = w->ways[w->inst[i].ways + f->way];
    const struct sf_rank_state *other = &w->inst[peer].st;
    if (f->partner == SF_NONE || !(other->busy >> f->partner_stream & 1) ||
        other->done[f->partner_stream] != f->partner_at) {
        return;
    }
    uint32_t src = f->kind == SFI_SEND ? i : peer, send = f->kind == SFI_SEND ? op : f->partner;
    uint32_t order = order_of(variant_of(w, &w->inst[src]), send);
    schedule(w, w->now + w->run->dispatch, key_of(REQUEST, TRANSFER, order, src, 0));
}

/* A collective of which members are still to come starts after this. */
static sf_time_ps not_before(const struct sfi_worker *w, const struct sfi_group *g) {
    sf_time_ps t = atomic_load_explicit(&g->bound, memory_order_relaxed);
    sf_time_ps arrived = atomic_load_explicit(&g->ready, memory_order_relaxed);
    t = arrived > t ? arrived : t;
    return sfi_time_add(w->floor > t ? w->floor : t, w->run->dispatch);
}

static void await(struct sfi_worker *w, const struct sfi_wait *wait) {
    w->cell->waits[w->cell->waits_n++] = *wait;
    if (wait->reported) {
        stop_before(w, wait->ready, key_of(REQUEST, 0, wait->order, 0, 0) + (UINT64_C(1) << ORDER_AT));
    } else {
        stop_before(w, not_before(w, &w->table->groups[wait->group]), REQUEST);
    }
}

/* Everybody has arrived: this member's request for its ports. */
static void request_collective(struct sfi_worker *w, const struct sfi_group *g, uint32_t member) {
    sf_time_ps ready = sfi_time_add(atomic_load_explicit(&g->ready, memory_order_relaxed), w->run->dispatch);
    schedule(w, ready, key_of(REQUEST, COLLECTIVE, sfi_meet_order(g), 0, 0) | member);
}

static void issue_collective(struct sfi_worker *w, uint32_t i, uint32_t op, const struct sfi_vop *f) {
    uint32_t group = w->ways[w->inst[i].ways + f->way], member = i << STREAM_BITS | f->stream;
    struct sfi_group *g = &w->table->groups[group];
    if (sfi_meet_arrive(g, f->partner_at, w->now, order_of(variant_of(w, &w->inst[i]), op))) {
        request_collective(w, g, member);
    } else {
        struct sfi_wait wait = {.time = f->time, .member = member, .group = group};
        wait.round = f->partner_at & (UINT32_MAX >> 1);
        await(w, &wait);
    }
}

static void issue(struct sfi_worker *w, uint32_t i, uint32_t op) {
    const struct sfi_vop *f = &variant_of(w, &w->inst[i])->ops[op];
    switch ((enum sfi_kind)f->kind) {
    case SFI_LOCAL:
        issue_local(w, i, op, f);
        break;
    case SFI_SEND:
    case SFI_RECV:
        issue_p2p(w, i, op, f);
        break;
    case SFI_COLL:
        issue_collective(w, i, op, f);
        break;
    }
}

/* Issue what may start on a set of streams. */
static void advance(struct sfi_worker *w, uint32_t i, uint32_t streams) {
    struct sfi_inst *in = &w->inst[i];
    const struct sf_iclass *code = variant_of(w, in)->cls->code;
    for (; streams; streams &= streams - 1) {
        uint32_t op = sf_interp_begin(code, &in->st, (uint32_t)__builtin_ctz(streams));
        if (op != SF_NONE) {
            issue(w, i, op);
        }
    }
}

/* ---- completing ---- */

static void complete(struct sfi_worker *w, uint32_t i, uint32_t op, uint32_t stream) {
    struct sfi_inst *in = &w->inst[i];
    sf_interp_complete(&in->st, stream);
    w->events++;
    if (in->st.left == 0) {
        in->end = w->now;
        w->cell->left--;
        return;
    }
    advance(w, i, variant_of(w, in)->cls->code->wakes[op]);
}

static void complete_op(struct sfi_worker *w, uint64_t key) {
    uint32_t i = key_instance(key);
    const struct sfi_vop *f = &variant_of(w, &w->inst[i])->ops[key_op(key)];
    uint32_t dst = key_what(key) == TRANSFER ? w->ways[w->inst[i].ways + f->way] : SF_NONE;
    complete(w, i, key_op(key), f->stream);
    if (dst != SF_NONE) {
        complete(w, dst, f->partner, f->partner_stream);
    }
}

/* ---- ports ---- */

static sf_time_ps later(sf_time_ps a, sf_time_ps b) {
    return a > b ? a : b;
}

static void start_transfer(struct sfi_worker *w, uint32_t src, uint32_t op) {
    struct sfi_inst *from = &w->inst[src];
    const struct sfi_variant *v = variant_of(w, from);
    const struct sfi_vop *f = &v->ops[op];
    struct sfi_inst *to = &w->inst[w->ways[from->ways + f->way]];
    const struct sfi_variant *other = variant_of(w, to);
    sf_time_ps start = w->now;
    if (f->port != SFI_PORT_NONE) {
        start = later(start, later(from->sends_free[f->port], to->receives_free[f->port]));
        from->sends_free[f->port] = to->receives_free[f->port] = sfi_time_add(start, f->time);
    }
    sf_time_ps end = sfi_time_add(start, f->time + f->latency);
    settle_op(w, from, f, order_of(v, op), start, end);
    settle_op(w, to, &other->ops[f->partner], order_of(other, f->partner), start, end);
    schedule(w, end, key_of(0, TRANSFER, order_of(v, op), src, 0));
}

/* Every member's ports of the tier are taken for as long as the collective runs. */
static void start_collective(struct sfi_worker *w, const struct sfi_wait *wait) {
    uint32_t i = wait->member >> STREAM_BITS, stream = wait->member & ((1u << STREAM_BITS) - 1);
    const struct sfi_group *g = &w->table->groups[wait->group];
    struct sfi_inst *in = &w->inst[i];
    const struct sfi_variant *v = variant_of(w, in);
    uint32_t op = sf_interp_in_flight(v->cls->code, &in->st, stream);
    const struct sfi_vop *f = &v->ops[op];
    sf_time_ps start = later(wait->ready, atomic_load_explicit(&g->free, memory_order_relaxed));
    sf_time_ps time = atomic_load_explicit(&g->until, memory_order_relaxed) - wait->ready;
    sf_time_ps end = sfi_time_add(start, time);
    if (f->port != SFI_PORT_NONE) {
        in->sends_free[f->port] = in->receives_free[f->port] = end;
    }
    settle_op(w, in, f, order_of(v, op), start, end);
    schedule(w, end, key_of(0, COLLECTIVE, order_of(v, op), i, stream));
}

/* The collective is ready and everything before it has its ports: say how long they are taken. */
static void report_ports(struct sfi_worker *w, uint64_t key) {
    uint32_t member = key_member(key), stream = member & ((1u << STREAM_BITS) - 1);
    const struct sfi_inst *in = &w->inst[member >> STREAM_BITS];
    const struct sfi_variant *v = variant_of(w, in);
    const struct sfi_vop *f = &v->ops[sf_interp_in_flight(v->cls->code, &in->st, stream)];
    struct sfi_wait wait = {.ready = w->now,
                            .time = f->time,
                            .member = member,
                            .group = w->ways[in->ways + f->way],
                            .order = key_order(key),
                            .round = f->partner_at & (UINT32_MAX >> 1),
                            .reported = 1};
    struct sfi_group *g = &w->table->groups[wait.group];
    sf_time_ps ports = f->port != SFI_PORT_NONE ? later(in->sends_free[f->port], in->receives_free[f->port]) : 0;
    if (sfi_meet_report(g, f->partner_at, ports, sfi_time_add(w->now, f->time))) {
        start_collective(w, &wait);
    } else {
        await(w, &wait);
    }
}

/* ---- one visit ---- */

/* See whether the others have come; what still waits sets the limit. */
static bool look_around(struct sfi_worker *w) {
    struct sfi_cell *cell = w->cell;
    uint32_t n = cell->waits_n;
    bool news = false;
    cell->waits_n = 0;
    w->limit = (struct sfi_event){INT64_MAX, 0};
    for (uint32_t k = 0; k < n; k++) {
        const struct sfi_wait wait = cell->waits[k];
        const struct sfi_group *g = &w->table->groups[wait.group];
        if (wait.reported && sfi_meet_is_reported(g, wait.round)) {
            start_collective(w, &wait);
            news = true;
        } else if (!wait.reported && sfi_meet_is_ready(g, wait.round)) {
            request_collective(w, g, wait.member);
            news = true;
        } else {
            await(w, &wait);
        }
    }
    return news;
}

static int happen(struct sfi_worker *w, struct sfi_event e) {
    w->now = e.time;
    if (e.time >= SFI_TIME_MAX) {
        return sf_fail(&w->err, SF_E_INPUT, "the step takes more than 26 days of virtual time: check sizes and rates");
    }
    if (!(e.key & REQUEST)) {
        complete_op(w, e.key);
    } else if (key_what(e.key) == TRANSFER) {
        start_transfer(w, key_instance(e.key), key_op(e.key));
    } else {
        report_ports(w, e.key);
    }
    return SF_OK;
}

/* No completion of this cell comes before; `all`: none of those that wait for others either. */
static sf_time_ps next_completion(const struct sfi_worker *w, bool all) {
    const struct sfi_cell *cell = w->cell;
    sf_time_ps t = INT64_MAX;
    if (cell->queue.n > 0) {
        struct sfi_event e = sfi_queue_first(&cell->queue);
        t = e.time + (e.key & REQUEST ? 1 : 0);
    }
    for (uint32_t k = 0; k < cell->waits_n; k++) {
        const struct sfi_wait *wait = &cell->waits[k];
        if (all || wait->reported) {
            sf_time_ps from = wait->reported ? wait->ready : not_before(w, &w->table->groups[wait->group]);
            from = sfi_time_add(from, wait->time);
            t = from < t ? from : t;
        }
    }
    return t;
}

/* Tell those who wait for members of this cell how long that takes at least. */
static void raise_bounds(struct sfi_worker *w) {
    sf_time_ps t = next_completion(w, true);
    for (uint32_t i = w->cell->first; i < w->cell->first + w->cell->n; i++) {
        const struct sfi_inst *in = &w->inst[i];
        const struct sfi_variant *v = variant_of(w, in);
        const struct sfi_class *c = v->cls;
        for (uint32_t l = 0; l < c->lanes_n && in->st.left > 0; l++) {
            struct sfi_group *g = &w->table->groups[w->ways[in->ways + c->ways_n + l]];
            uint32_t op = sf_interp_in_flight(c->code, &in->st, g->stream);
            if (op == SF_NONE || v->ops[op].way != c->ways_n + l) {
                sfi_raise(&g->bound, t);
            }
        }
    }
}

static void start(struct sfi_worker *w) {
    w->now = 0;
    w->limit = (struct sfi_event){INT64_MAX, 0};
    for (uint32_t i = w->cell->first; i < w->cell->first + w->cell->n; i++) {
        advance(w, i, (1u << variant_of(w, &w->inst[i])->cls->code->streams_n) - 1);
    }
}

void sfi_prepare_lists(const struct sfi_cell *cell) {
    __builtin_prefetch(cell->waits);
    __builtin_prefetch(&cell->waits[2]);
    __builtin_prefetch(&cell->waits[4]);
    __builtin_prefetch(&cell->queue.event[cell->queue.n]);
    if (cell->queue.n > 4) {
        __builtin_prefetch(&cell->queue.event[cell->queue.n - 4]);
    }
}

void sfi_prepare_members(const struct sfi_worker *w, const struct sfi_cell *cell) {
    for (uint32_t k = 0; k < cell->waits_n; k++) {
        const struct sfi_wait *wait = &cell->waits[k];
        const struct sfi_group *g = &w->table->groups[wait->group];
        if (wait->reported ? sfi_meet_is_reported(g, wait->round) : sfi_meet_is_ready(g, wait->round)) {
            const struct sfi_inst *in = &w->inst[wait->member >> STREAM_BITS];
            __builtin_prefetch(in);
            __builtin_prefetch(&in->digest);
        }
    }
}

int sfi_visit(struct sfi_worker *w, struct sfi_cell *cell, bool first) {
    bool news = first, any = first;
    w->cell = cell;
    if (first) {
        start(w);
    }
    do {
        news = look_around(w);
        while (cell->queue.n > 0 && sfi_event_before(sfi_queue_first(&cell->queue), w->limit)) {
            struct sfi_event e = sfi_queue_first(&cell->queue);
            sfi_queue_take(&cell->queue);
            SF_TRY(happen(w, e));
            news = true;
        }
        any |= news;
    } while (news);
    if (w->tell) {
        raise_bounds(w);
    }
    w->moved += any;
    sf_time_ps next = next_completion(w, false);
    w->next = next < w->next ? next : w->next;
    return SF_OK;
}
