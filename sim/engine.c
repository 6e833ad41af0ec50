/* The events of one cell, and its side of what happens where cells meet. */
#include "sim/engine.h"

#include "sim/expander.h"
#include "sim/flow.h"
#include "sim/solo.h"
#include "sim/steady.h"

enum { SOON = 4 }; /* events of a cell that will probably happen in its next visit */

/* When an op ran is settled: put it on record. */
static void settle_op(const struct sfi_worker *w, struct sfi_inst *in, uint32_t class_i, uint32_t op,
                      sf_time_ps start) {
    uint32_t order = class_i << SFI_OP_BITS | op;
    in->digest += sfi_digest_of(order, start, w->now);
    *sfi_end_at(w->table, in, op) = w->now;
}

static sf_time_ps later(sf_time_ps a, sf_time_ps b) {
    return a > b ? a : b;
}

/* Nothing behind this moment may happen in this visit. */
static void stop_at(struct sfi_worker *w, sf_time_ps time) {
    w->limit = time < w->limit ? time : w->limit;
}

/* Nothing is completed before, in this cell or by members of others that have not seen it yet. */
static void promise(struct sfi_worker *w, sf_time_ps time) {
    w->next = time < w->next ? time : w->next;
}

static void owe(struct sfi_worker *w, sf_time_ps time) {
    promise(w, time);
    w->owed = time < w->owed ? time : w->owed;
}

/* ---- issuing ---- */

static void issue_local(struct sfi_worker *w, uint32_t i, uint32_t op, const struct sfi_vop *f) {
    struct sfi_inst *in = &w->inst[i];
    struct sfi_act *a = sfi_act_at(w, i, f->stream);
    const struct sfi_load *l = &w->loads[f->load];
    sf_time_ps start = w->now + w->run->dispatch, time = sfi_local_time(in, f), end = start + time;
    uint32_t order = sfi_order_of(sfi_variant_of(w, in), op);
    if (l->lanes) {
        a->began = start;
        sfi_queue_act(w, a, start, sfi_key(SFI_START, SFI_LOCAL_ENDS, order, i, f->stream));
        return;
    }
    sfi_act_begin(a, f->load, SFI_FULL, start, time);
    a->began = start;
    in->stretched -= time;
    if (l->cores | l->memory) {
        in->kernels |= (uint8_t)(1u << f->stream);
        if (in->cores | in->memory) {
            a->rate = sfi_kernel_rate(l, in->cores, in->memory);
            end = sfi_act_end(a);
        }
    }
    if (w->audit) {
        sfi_audit_begin(w, a);
    }
    sfi_queue_act(w, a, end, sfi_key(0, SFI_LOCAL_ENDS, order, i, f->stream));
}

/* Rendezvous: the second side to arrive begins. Whether the partner is there shows in its stream state. */
static void issue_p2p(struct sfi_worker *w, uint32_t i, uint32_t op, const struct sfi_vop *f) {
    uint32_t peer = sfi_peer_of(w->inst, w->ways, i, f->way);
    const struct sf_rank_state *other = &w->inst[peer].st;
    if (f->partner == SF_NONE || !(other->busy >> f->partner_stream & 1) ||
        other->done[f->partner_stream] != f->partner_at) {
        return;
    }
    uint32_t src = f->kind == SFI_SEND ? i : peer, send = f->kind == SFI_SEND ? op : f->partner;
    const struct sfi_variant *v = sfi_variant_of(w, &w->inst[src]);
    const struct sfi_vop sending = src == i ? *f : sfi_vop_of(v, sfi_slim_at(v, f->partner_stream, f->partner_at));
    struct sfi_act *a = sfi_act_at(w, src, sending.stream);
    a->began = w->now + w->run->dispatch;
    sfi_queue_act(w, a, a->began + sending.latency,
                  sfi_key(SFI_START, SFI_TRANSFER_ENDS, sfi_order_of(v, send), src, sending.stream));
}

/* A collective of which members are still to come starts after this. Like the next, to be asked before one looks
 * whether they have come: from then on others may say when the next one starts. */
static sf_time_ps not_before(const struct sfi_worker *w, const struct sfi_group *g) {
    sf_time_ps t = atomic_load_explicit(&g->bound, memory_order_acquire);
    sf_time_ps arrived = atomic_load_explicit(&g->ready, memory_order_acquire);
    t = arrived > t ? arrived : t;
    return sfi_time_add(w->floor > t ? w->floor : t, w->run->dispatch);
}

/* One of which members still move their part ends after this. */
static sf_time_ps not_done_before(const struct sfi_worker *w, const struct sfi_group *g) {
    sf_time_ps t = atomic_load_explicit(&g->bound, memory_order_acquire);
    sf_time_ps until = atomic_load_explicit(&g->until, memory_order_relaxed);
    t = until > t ? until : t;
    return w->floor > t ? w->floor : t;
}

/* Where no other cell takes part, whoever comes last has the others go on, and nobody looks around for them: a cell of
 * many members would look at all of them for every collective. */
static void park(struct sfi_worker *w, const struct sfi_wait *wait) {
    uint32_t place = wait->instance * w->streams_n + w->table->groups[wait->group].stream;
    w->parked_next[place] = w->parked[wait->group];
    w->parked[wait->group] = place + 1;
}

static void await(struct sfi_worker *w, const struct sfi_wait *wait, sf_time_ps limit) {
    if (w->parks) {
        park(w, wait);
        return;
    }
    w->cell->waits[w->cell->waits_n++] = *wait;
    w->table->lanes[wait->lane] |= SFI_QUIET;
    stop_at(w, limit);
}

/* Everybody has arrived: this member's part begins. */
static void begin_part(struct sfi_worker *w, const struct sfi_wait *wait) {
    w->table->lanes[wait->lane] &= ~SFI_QUIET;
    const struct sfi_group *g = &w->table->groups[wait->group];
    const struct sfi_variant *v = sfi_variant_of(w, &w->inst[wait->instance]);
    struct sfi_act *a = sfi_act_at(w, wait->instance, g->stream);
    a->began = g->expansion ? sfi_expansion_begin(g)
                            : sfi_time_add(atomic_load_explicit(&g->ready, memory_order_relaxed), w->run->dispatch);
    sfi_queue_act(w, a, a->began,
                  sfi_key(SFI_START, SFI_PART_ENDS, sfi_order_of(v, wait->op), wait->instance, g->stream));
}

/* Everybody has moved its part: the collective is over. */
static void end_collective(struct sfi_worker *w, const struct sfi_wait *wait) {
    w->table->lanes[wait->lane] &= ~SFI_QUIET;
    const struct sfi_group *g = &w->table->groups[wait->group];
    const struct sfi_variant *v = sfi_variant_of(w, &w->inst[wait->instance]);
    struct sfi_act *a = sfi_act_at(w, wait->instance, g->stream);
    sfi_queue_act(w, a, atomic_load_explicit(&g->until, memory_order_relaxed),
                  sfi_key(0, SFI_COLLECTIVE_ENDS, sfi_order_of(v, wait->op), wait->instance, g->stream));
}

/* Expanded, all that is certain of a member's part is that it takes time. */
static struct sfi_wait wait_of(const struct sfi_worker *w, uint32_t i, uint32_t op, const struct sfi_vop *f) {
    uint32_t group = w->ways[w->inst[i].ways + f->way];
    return (struct sfi_wait){.time = w->table->groups[group].expansion ? 1 : f->time,
                             .instance = i,
                             .op = op,
                             .group = group,
                             .round = f->partner_at & (UINT32_MAX >> 1),
                             .lane = w->inst[i].lanes + f->way};
}

/* Those that wait for the group's last arrival, or its last report: only ever one of both. */
static void unpark(struct sfi_worker *w, uint32_t group, void (*go_on)(struct sfi_worker *, const struct sfi_wait *)) {
    uint32_t place = w->parks ? w->parked[group] : 0;
    for (uint32_t next; place > 0; place = next) {
        uint32_t i = (place - 1) / w->streams_n, stream = (place - 1) % w->streams_n;
        const struct sfi_variant *v = sfi_variant_of(w, &w->inst[i]);
        const struct sfi_slim *s = sfi_slim_now(v, &w->inst[i].st, stream);
        const struct sfi_vop f = sfi_vop_of(v, s);
        const struct sfi_wait wait = wait_of(w, i, s->op, &f);
        next = w->parked_next[place - 1];
        go_on(w, &wait);
    }
    if (w->parks) {
        w->parked[group] = 0;
    }
}

static void last_arrives(struct sfi_worker *w, const struct sfi_wait *wait, const struct sfi_vop *f) {
    struct sfi_group *g = &w->table->groups[wait->group];
    sf_time_ps begin = sfi_time_add(atomic_load_explicit(&g->ready, memory_order_relaxed), w->run->dispatch);
    if (g->expansion && !sfi_expansion_run(w, g, wait->instance, wait->op, wait->round, begin)) {
        return;
    }
    w->closed = true;
    owe(w, g->expansion ? sfi_expansion_first(g) : sfi_time_add(begin, f->time));
    begin_part(w, wait);
    unpark(w, wait->group, begin_part);
}

static void issue_collective(struct sfi_worker *w, uint32_t i, uint32_t op, const struct sfi_vop *f) {
    const struct sfi_wait wait = wait_of(w, i, op, f);
    struct sfi_group *g = &w->table->groups[wait.group];
    sf_time_ps limit = not_before(w, g);
    if (w->cell->next_led > 0) {
        w->cell->waits[w->cell->waits_n++] = wait;
        return;
    }
    if (g->expansion) {
        sfi_expansion_arrive(w, g, i, w->now + w->run->dispatch);
    }
    if (sfi_meet_arrive(g, f->partner_at, w->now)) {
        last_arrives(w, &wait, f);
    } else {
        await(w, &wait, later(limit, w->now + w->run->dispatch));
    }
}

static void issue(struct sfi_worker *w, uint32_t i, const struct sfi_slim *s) {
    const struct sfi_vop vop = sfi_vop_of(sfi_variant_of(w, &w->inst[i]), s), *f = &vop;
    uint32_t op = s->op;
    if (w->audit) {
        sfi_audit_issue(w, i, op);
    }
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

void sfi_issue(struct sfi_worker *w, uint32_t i, uint32_t op) {
    const struct sfi_variant *v = sfi_variant_of(w, &w->inst[i]);
    issue(w, i, sfi_slim_at(v, v->ops[op].stream, v->code->position[op]));
}

/* What an op's end will touch, and the next op on its stream: much else happens before that, so they come in time. */
static void prepare_end(const struct sfi_worker *w, const struct sfi_inst *in, const struct sfi_slim *s) {
    __builtin_prefetch(s + 1);
    __builtin_prefetch(sfi_end_at(w->table, in, s->op), 1);
    if (in->own && s->kind == SFI_LOCAL) {
        __builtin_prefetch(&in->own[s->partner + 1]);
    }
}

/* Issue what may start on a set of streams. */
static void advance(struct sfi_worker *w, uint32_t i, uint32_t streams) {
    struct sfi_inst *in = &w->inst[i];
    const struct sfi_variant *v = sfi_variant_of(w, in);
    for (; streams; streams &= streams - 1) {
        const struct sfi_slim *s = sfi_begin(v, &in->st, (uint32_t)__builtin_ctz(streams));
        if (s) {
            prepare_end(w, in, s);
            issue(w, i, s);
        }
    }
}

/* ---- ending ---- */

static void come_to_rest(struct sfi_worker *w, const struct sfi_inst *in, const struct sfi_class *c) {
    w->cell->left--;
    for (uint32_t l = 0; l < c->lanes_n; l++) {
        w->table->lanes[in->lanes + c->ways_n + l] |= SFI_QUIET;
    }
}

static void go_on(struct sfi_worker *w, uint32_t i, uint32_t streams) {
    struct sfi_inst *in = &w->inst[i];
    if (in->st.left == 0) {
        come_to_rest(w, in, sfi_variant_of(w, in)->cls);
        return;
    }
    advance(w, i, streams);
}

static sf_time_ps next_event(const struct sfi_worker *w) {
    const struct sfi_queue *q = &w->cell->queue;
    return q->n > 0 ? sfi_queue_first(q).time : INT64_MAX;
}

/* Behind its last transfer an instance holds its cell back no longer; what it does next is for a visit of its own. */
static void go_alone(struct sfi_worker *w, uint32_t i, uint32_t streams) {
    struct sfi_cell *cell = w->cell;
    sf_time_ps limit = w->limit;
    sfi_solo_leave(w, i);
    go_on(w, i, streams);
    owe(w, next_event(w));
    w->cell = cell;
    w->limit = limit;
    w->closed = true; /* the limit may have been its own */
}

static void complete(struct sfi_worker *w, uint32_t i, uint32_t op, uint32_t stream, sf_time_ps start) {
    struct sfi_inst *in = &w->inst[i];
    const struct sfi_variant *v = sfi_variant_of(w, in);
    const struct sfi_slim *s = sfi_slim_now(v, &in->st, stream);
    settle_op(w, in, v->class_i, op, start);
    sf_interp_complete(&in->st, stream);
    w->events++;
    if (s->last && w->solos && sfi_solo_ready(w, in)) {
        go_alone(w, i, s->wakes);
        return;
    }
    go_on(w, i, s->wakes);
}

static void end_local(struct sfi_worker *w, uint32_t i, uint32_t op, const struct sfi_vop *f, struct sfi_act *a) {
    struct sfi_inst *in = &w->inst[i];
    if (w->audit) {
        sfi_audit_end(w, a);
    }
    if (in->copies >> f->stream & 1) {
        sfi_copy_end(w, i, f);
    } else {
        in->kernels &= (uint8_t) ~(1u << f->stream);
        in->stretched += w->now - a->began;
    }
    complete(w, i, op, f->stream, a->began);
}

static void end_transfer(struct sfi_worker *w, uint32_t src, uint32_t op, const struct sfi_vop *f) {
    const struct sfi_flow flow = sfi_flow_of(w, src, f);
    sf_time_ps began = flow.act->began;
    sfi_flow_end(w, &flow, false);
    complete(w, src, op, f->stream, began);
    complete(w, flow.dst, f->partner, f->partner_stream, began);
}

static void end_collective_op(struct sfi_worker *w, uint32_t i, uint32_t op, const struct sfi_vop *f,
                              sf_time_ps began) {
    struct sfi_inst *in = &w->inst[i];
    *sfi_end_at(w->table, in, sfi_variant_of(w, in)->cls->code->ops_n + f->partner) = began;
    complete(w, i, op, f->stream, began);
}

/* This member's part has moved: say so, and wait for the others; or, expanded, go on. */
static void end_part(struct sfi_worker *w, uint32_t i, uint32_t op, const struct sfi_vop *f) {
    const struct sfi_flow flow = sfi_flow_of(w, i, f);
    struct sfi_wait wait = wait_of(w, i, op, f);
    struct sfi_group *g = &w->table->groups[wait.group];
    sfi_flow_end(w, &flow, !g->expansion);
    if (g->expansion) {
        end_collective_op(w, i, op, f, flow.act->began);
        return;
    }
    wait.reported = 1;
    sf_time_ps limit = not_done_before(w, g);
    if (sfi_meet_report(g, f->partner_at, w->now)) {
        w->closed = true;
        end_collective(w, &wait);
        unpark(w, wait.group, end_collective);
        owe(w, flow.act->queued);
    } else {
        await(w, &wait, later(limit, w->now));
    }
}

static void release_part(struct sfi_worker *w, uint32_t i, uint32_t op, const struct sfi_vop *f) {
    const struct sfi_flow flow = sfi_flow_of(w, i, f);
    sf_time_ps began = flow.act->began;
    sfi_flow_release(w, &flow);
    end_collective_op(w, i, op, f, began);
}

/* What got slower since its event was queued is not over yet. */
static bool is_over(struct sfi_worker *w, struct sfi_act *a, uint64_t key) {
    sfi_act_settle(a, w->now);
    if (a->left > 0) {
        sfi_queue_act(w, a, sfi_act_end(a), key);
        return false;
    }
    a->queued = -1;
    return true;
}

/* ---- one visit ---- */

static void end(struct sfi_worker *w, uint64_t key, uint32_t i, const struct sfi_vop *f, struct sfi_act *a) {
    uint32_t op = sfi_key_op(key);
    switch (sfi_key_what(key)) {
    case SFI_LOCAL_ENDS:
        end_local(w, i, op, f, a);
        break;
    case SFI_TRANSFER_ENDS:
        end_transfer(w, i, op, f);
        break;
    case SFI_PART_ENDS:
        end_part(w, i, op, f);
        break;
    case SFI_COLLECTIVE_ENDS:
        release_part(w, i, op, f);
        break;
    }
}

/* What is to be moved takes this long undisturbed. */
static sf_time_ps time_of_flow(const struct sfi_worker *w, uint32_t i, const struct sfi_vop *f) {
    const struct sfi_group *g = f->kind == SFI_COLL ? &w->table->groups[w->ways[w->inst[i].ways + f->way]] : NULL;
    return g && g->expansion ? sfi_expansion_end(w, g, i) - w->now : f->time;
}

static int happen(struct sfi_worker *w, struct sfi_event e) {
    uint32_t i = sfi_key_instance(e.key);
    struct sfi_act *a = sfi_act_of_key(w, e.key);
    if (a->queued != e.time || a->key != e.key) {
        return SF_OK;
    }
    const struct sfi_variant *v = sfi_variant_of(w, &w->inst[i]);
    const struct sfi_vop vop = sfi_vop_of(v, sfi_slim_now(v, &w->inst[i].st, sfi_key_stream(e.key))), *f = &vop;
    w->now = e.time;
    if (e.time >= SFI_TIME_MAX) {
        return sf_fail(&w->err, SF_E_INPUT, "the step takes more than 26 days of virtual time: check sizes and rates");
    }
    if (w->audit) {
        sfi_audit_event(w, e.time);
    }
    if (e.key & SFI_START && f->kind == SFI_LOCAL) {
        sfi_copy_begin(w, i, f, e.key & ~SFI_START);
    } else if (e.key & SFI_START) {
        const struct sfi_flow flow = sfi_flow_of(w, i, f);
        sfi_flow_begin(w, &flow, time_of_flow(w, i, f), e.key & ~SFI_START);
    } else if (is_over(w, a, e.key)) {
        end(w, e.key, i, f, a);
    }
    return w->rc;
}

/* See whether the others have come; what still waits sets the limit. */
static bool look_around(struct sfi_worker *w) {
    struct sfi_cell *cell = w->cell;
    uint32_t n = cell->waits_n;
    bool news = false;
    cell->waits_n = 0;
    w->limit = INT64_MAX;
    for (uint32_t k = 0; k < n; k++) {
        const struct sfi_wait wait = cell->waits[k];
        const struct sfi_group *g = &w->table->groups[wait.group];
        sf_time_ps limit = wait.reported ? not_done_before(w, g) : not_before(w, g);
        if (wait.reported && sfi_meet_is_reported(g, wait.round)) {
            end_collective(w, &wait);
            news = true;
        } else if (!wait.reported && sfi_meet_is_ready(g, wait.round)) {
            begin_part(w, &wait);
            news = true;
        } else {
            cell->waits[cell->waits_n++] = wait;
            stop_at(w, limit);
        }
    }
    return news;
}

/* No completion of this cell comes before, those that wait for others included. */
static sf_time_ps next_completion(const struct sfi_worker *w) {
    sf_time_ps t = next_event(w);
    for (uint32_t k = 0; k < w->cell->waits_n; k++) {
        const struct sfi_wait *wait = &w->cell->waits[k];
        const struct sfi_group *g = &w->table->groups[wait->group];
        sf_time_ps from = wait->reported ? not_done_before(w, g) : sfi_time_add(not_before(w, g), wait->time);
        t = from < t ? from : t;
    }
    return t;
}

/* Tell those who wait for members of this cell how long that takes at least: members that have not arrived, or still
 * have events of their part before them. */
static void raise_bounds(struct sfi_worker *w) {
    sf_time_ps t = next_completion(w);
    const uint32_t *lane = &w->table->lanes[w->cell->lanes];
    for (uint32_t k = 0; k < w->cell->lanes_n; k++) {
        if (!(lane[k] & w->cell->gone)) {
            sfi_raise(&w->table->groups[lane[k] & ~SFI_GONE].bound, t);
        }
    }
}

static void start(struct sfi_worker *w) {
    w->now = 0;
    w->limit = INT64_MAX;
    for (uint32_t i = w->cell->first; i < w->cell->first + w->cell->n; i++) {
        advance(w, i, (1u << sfi_variant_of(w, &w->inst[i])->cls->code->streams_n) - 1);
    }
}

void sfi_prepare_lists(const struct sfi_cell *cell) {
    const struct sfi_queue *q = &cell->queue;
    __builtin_prefetch(cell->waits);
    __builtin_prefetch(&cell->waits[2]);
    __builtin_prefetch(&cell->waits[4]);
    __builtin_prefetch(&q->event[q->n]);
    for (uint32_t k = 1; k <= 3; k++) {
        __builtin_prefetch(&q->event[q->n > k * SOON ? q->n - k * SOON : 0]);
    }
}

static void prepare_member(const struct sfi_worker *w, uint32_t instance, uint32_t stream) {
    const struct sfi_inst *in = &w->inst[instance];
    __builtin_prefetch(in);
    __builtin_prefetch(&in->digest);
    __builtin_prefetch(sfi_act_at(w, instance, stream));
}

void sfi_prepare_members(const struct sfi_worker *w, const struct sfi_cell *cell) {
    for (uint32_t k = 0; k < cell->waits_n; k++) {
        const struct sfi_wait *wait = &cell->waits[k];
        const struct sfi_group *g = &w->table->groups[wait->group];
        if (wait->reported ? sfi_meet_is_reported(g, wait->round) : sfi_meet_is_ready(g, wait->round)) {
            prepare_member(w, wait->instance, g->stream);
        }
    }
    for (uint32_t k = 0; k < SOON && k < cell->queue.n; k++) {
        uint64_t key = sfi_queue_ahead(&cell->queue, k).key;
        prepare_member(w, sfi_key_instance(key), sfi_key_stream(key));
    }
}

/* A cell larger than the caches: step by step what an event leads to, each step loaded by the one before. */
enum { FIRST_STEP = 12, SECOND_STEP = 8, THIRD_STEP = 4, LAST_STEP = 2 };

static void prepare_ways(const struct sfi_worker *w, uint64_t key) {
    uint32_t i = sfi_key_instance(key), op = sfi_key_op(key);
    const struct sfi_inst *in = &w->inst[i];
    const struct sfi_slim *f = sfi_slim_now(sfi_variant_of(w, in), &in->st, sfi_key_stream(key));
    const struct sfi_fabric_links *l = w->table->fabric;
    __builtin_prefetch(sfi_end_at(w->table, in, op), 1);
    __builtin_prefetch(&w->ways[in->ways]);
    if (f->kind == SFI_SEND && l) {
        __builtin_prefetch(&l->list_first[in->ways + f->way]);
    }
}

static void prepare_peers(const struct sfi_worker *w, uint64_t key) {
    uint32_t i = sfi_key_instance(key);
    const struct sfi_inst *in = &w->inst[i];
    const struct sfi_variant *v = sfi_variant_of(w, in);
    const struct sfi_slim *f = sfi_slim_now(v, &in->st, sfi_key_stream(key));
    const struct sfi_fabric_links *l = w->table->fabric;
    if (f->kind == SFI_LOCAL) { /* what it wakes may send or receive */
        for (uint32_t k = 0; k < v->cls->ways_n; k++) {
            __builtin_prefetch(&w->inst[sfi_peer_of(w->inst, w->ways, i, k)]);
        }
    } else if (f->kind == SFI_SEND) {
        uint32_t peer = sfi_peer_of(w->inst, w->ways, i, f->way);
        prepare_member(w, peer, f->partner_stream);
        if (l) {
            __builtin_prefetch(&l->list[l->list_first[in->ways + f->way]]);
        }
    }
}

static void prepare_links(const struct sfi_worker *w, uint64_t key) {
    const struct sfi_inst *in = &w->inst[sfi_key_instance(key)];
    const struct sfi_slim *f = sfi_slim_now(sfi_variant_of(w, in), &in->st, sfi_key_stream(key));
    const struct sfi_fabric_links *l = w->table->fabric;
    uint32_t way = in->ways + f->way;
    for (uint32_t k = l->list_first[way]; k < l->list_first[way + 1]; k++) {
        __builtin_prefetch(&l->demand[l->list[k]], 1);
        __builtin_prefetch(&l->capacity[l->list[k]]);
        __builtin_prefetch(&l->user_first[l->list[k]]);
    }
}

static void prepare_far(const struct sfi_worker *w, const struct sfi_queue *q) {
    if (q->size <= SFI_QUEUE_HEAP || q->n < 2) {
        return;
    }
    uint64_t key = sfi_queue_ahead(q, FIRST_STEP).key, last = sfi_queue_ahead(q, LAST_STEP).key;
    prepare_member(w, sfi_key_instance(key), sfi_key_stream(key));
    prepare_ways(w, sfi_queue_ahead(q, SECOND_STEP).key);
    prepare_peers(w, sfi_queue_ahead(q, THIRD_STEP).key);
    enum sfi_what what = sfi_key_what(last);
    if (w->table->fabric && (what == SFI_TRANSFER_ENDS || what == SFI_PART_ENDS)) {
        prepare_links(w, last);
    }
}

/* Collectives that the leader of others has come to. */
static inline void look_back(struct sfi_worker *w) {
    if (w->cell->next_led > 0 && w->cell->waits_n > 0) {
        sfi_follow_part(w);
    }
}

int sfi_visit(struct sfi_worker *w, struct sfi_cell *cell, bool first) {
    bool any = first;
    w->cell = cell;
    if (first && !cell->started) {
        start(w);
        look_back(w);
    }
    do {
        w->closed = false;
        any |= look_around(w);
        while (cell->queue.n > 0 && sfi_queue_first(&cell->queue).time <= w->limit) {
            struct sfi_event e = sfi_queue_first(&cell->queue);
            sfi_queue_take(&cell->queue);
            prepare_far(w, &cell->queue);
            SF_TRY(happen(w, e));
            look_back(w);
            if (w->steady) {
                sfi_steady_look(w);
            }
            any = true;
        }
    } while (w->closed);
    if (!w->parks) {
        raise_bounds(w);
    }
    w->moved += any;
    promise(w, next_event(w));
    return w->rc;
}
