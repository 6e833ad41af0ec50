#include "sim/steady.h"

#include <string.h>

#include "sim/flow.h"

enum {
    FIRST_LOOKS = 4, /* before that many, hardly a pipeline is filled */
    WORTH = 4        /* the share of what is left that is copied at least */
};

struct meeting { /* a collective's group */
    uint64_t arrived, reported;
    uint32_t parked;
};

struct sfi_steady {
    const struct sfi_cell *cell; /* that is being looked at */
    struct sfi_inst *inst;       /* the state kept: of its instances, */
    struct sfi_act *acts;        /* of their streams, */
    struct meeting *meetings;    /* by lane, */
    uint32_t *parked_next;       /* and of who waits behind whom */
    sf_time_ps now;
    uint64_t events;
    uint32_t anchor, stream; /* a look is worth it when this instance's stream has got on; no stream: never */
    uint32_t seen;
    uint32_t looks, kept_at;
    bool kept;
};

struct sfi_steady *sfi_steady_create(const struct sfi_table *t, struct sf_arena *arena) {
    struct sfi_steady *s = sf_arena_alloc(arena, 1, sizeof *s);
    size_t places = (size_t)t->cell_n * t->streams_n, lanes = t->cells_n == 1 ? t->cells[0].lanes_n : 0;
    if (!s) {
        return NULL;
    }
    *s = (struct sfi_steady){0};
    s->inst = sf_arena_alloc(arena, t->cell_n, sizeof *s->inst);
    s->acts = sf_arena_alloc(arena, places, sizeof *s->acts);
    s->meetings = sf_arena_alloc(arena, lanes, sizeof *s->meetings);
    s->parked_next = sf_arena_alloc(arena, lanes > 0 ? places : 0, sizeof *s->parked_next);
    return s->inst && s->acts && s->meetings && s->parked_next ? s : NULL;
}

/* ---- the state that is kept ---- */

static const struct sfi_group *group_of_lane(const struct sfi_worker *w, uint32_t lane) {
    return &w->table->groups[w->table->lanes[lane] & ~SFI_QUIET];
}

static struct meeting meeting_of(const struct sfi_worker *w, uint32_t lane) {
    uint32_t group = w->table->lanes[lane] & ~SFI_QUIET;
    const struct sfi_group *g = &w->table->groups[group];
    return (struct meeting){.arrived = atomic_load_explicit(&g->arrived, memory_order_relaxed),
                            .reported = atomic_load_explicit(&g->reported, memory_order_relaxed),
                            .parked = w->parked[group]};
}

static void keep(struct sfi_worker *w) {
    struct sfi_steady *s = w->steady;
    const struct sfi_cell *c = w->cell;
    size_t places = (size_t)c->n * w->streams_n;
    memcpy(s->inst, &w->inst[c->first], c->n * sizeof *s->inst);
    memcpy(s->acts, sfi_act_at(w, c->first, 0), places * sizeof *s->acts);
    for (uint32_t l = 0; w->parks && l < c->lanes_n; l++) {
        s->meetings[l] = meeting_of(w, c->lanes + l);
    }
    if (w->parks && c->lanes_n > 0) {
        memcpy(s->parked_next, &w->parked_next[(size_t)c->first * w->streams_n], places * sizeof *s->parked_next);
    }
    s->now = w->now;
    s->events = w->events;
    s->kept_at = s->looks;
    s->kept = true;
}

/* Ops that a stream has completed since. */
static uint32_t moved(const struct sfi_worker *w, uint32_t i, uint32_t stream) {
    return w->inst[i].st.done[stream] - w->steady->inst[i - w->cell->first].st.done[stream];
}

/* Collectives that a lane's group has completed since. */
static uint64_t rounds(const struct sfi_worker *w, uint32_t lane) {
    const struct meeting *before = &w->steady->meetings[lane - w->cell->lanes];
    return (meeting_of(w, lane).arrived - before->arrived) / group_of_lane(w, lane)->members_n;
}

/* ---- the same state, later ---- */

/* An event of it is to come. */
static bool is_alive(const struct sfi_act *a, sf_time_ps now) {
    return a->queued > now;
}

static uint64_t key_without_op(uint64_t key) {
    return key & (SFI_START | (uint64_t)((1u << SFI_WHAT_BITS) - 1) << SFI_MEMBER_BITS);
}

/* What waits for a partner has no event. Of a part that has moved, when it began still counts. */
static bool same_act(const struct sfi_worker *w, const struct sfi_act *a, const struct sfi_act *b, bool is_part) {
    sf_time_ps before = w->steady->now, now = w->now;
    if (!is_alive(a, before) || !is_alive(b, now)) {
        return is_alive(a, before) == is_alive(b, now) && (!is_part || a->began - before == b->began - now);
    }
    return a->queued - before == b->queued - now && a->since - before == b->since - now &&
           a->began - before == b->began - now && a->left == b->left && a->rate == b->rate && a->load == b->load &&
           key_without_op(a->key) == key_without_op(b->key);
}

/* What its ports carry and what communication takes from its kernels are sums over what is in flight, here and at those
 * who send to it, so that they need no look of their own. */
static bool same_instance(const struct sfi_worker *w, uint32_t i) {
    const struct sfi_steady *s = w->steady;
    const struct sfi_inst *a = &s->inst[i - w->cell->first], *b = &w->inst[i];
    const struct sfi_act *acts = &s->acts[(size_t)(i - w->cell->first) * w->streams_n];
    const struct sfi_variant *v = sfi_variant_of(w, b);
    bool same = a->st.busy == b->st.busy;
    for (uint32_t left = b->st.busy; same && left; left &= left - 1) {
        uint32_t stream = (uint32_t)__builtin_ctz(left);
        bool is_part = v->ops[sf_interp_in_flight(v->cls->code, &b->st, stream)].kind == SFI_COLL;
        same = same_act(w, &acts[stream], sfi_act_at(w, i, stream), is_part);
    }
    return same;
}

static bool same_meetings(const struct sfi_worker *w) {
    const struct sfi_steady *s = w->steady;
    const struct sfi_cell *c = w->cell;
    for (uint32_t l = 0; l < c->lanes_n; l++) {
        const struct meeting *a = &s->meetings[l], b = meeting_of(w, c->lanes + l);
        uint64_t arrived = b.arrived - a->arrived;
        if (a->parked != b.parked || arrived != b.reported - a->reported ||
            arrived % group_of_lane(w, c->lanes + l)->members_n != 0) {
            return false;
        }
    }
    size_t places = (size_t)c->n * w->streams_n;
    return c->lanes_n == 0 ||
           memcmp(s->parked_next, &w->parked_next[(size_t)c->first * w->streams_n], places * sizeof(uint32_t)) == 0;
}

static bool same_state(const struct sfi_worker *w) {
    const struct sfi_steady *s = w->steady;
    const struct sfi_cell *c = w->cell;
    bool same = same_instance(w, s->anchor);
    for (uint32_t i = c->first; same && i < c->first + c->n; i++) {
        same = same_instance(w, i);
    }
    return same && (!w->parks || same_meetings(w));
}

/* ---- the same ops, further on ---- */

/* Needs count completions of streams: those of the later op are further on by as much as the streams are. Needs that
 * were met in the state kept are met for ever, so they need no counterpart. */
static bool same_needs(const struct sfi_worker *w, uint32_t i, const struct sf_iclass *code, uint32_t before,
                       uint32_t op) {
    const struct sf_rank_state *st = &w->steady->inst[i - w->cell->first].st;
    uint32_t old[SF_MAX_STREAMS] = {0}, new[SF_MAX_STREAMS] = {0};
    for (uint32_t n = code->need_first[before]; n < code->need_first[before + 1]; n++) {
        old[code->needs[n].stream] = code->needs[n].count;
    }
    for (uint32_t n = code->need_first[op]; n < code->need_first[op + 1]; n++) {
        new[code->needs[n].stream] = code->needs[n].count;
    }
    for (uint32_t s = 0; s < code->streams_n; s++) {
        bool past = old[s] <= st->done[s] && new[s] <= st->done[s];
        if (!past && new[s] - old[s] != moved(w, i, s)) {
            return false;
        }
    }
    return true;
}

static bool same_partner(const struct sfi_worker *w, uint32_t i, const struct sfi_vop *a, const struct sfi_vop *b) {
    if (b->kind == SFI_COLL) {
        return w->parks && b->partner_at - a->partner_at == rounds(w, w->inst[i].lanes + b->way);
    }
    if (a->partner == SF_NONE || b->partner == SF_NONE) {
        return a->partner == b->partner;
    }
    uint32_t peer = sfi_peer_of(w->inst, w->ways, i, b->way);
    return a->partner_stream == b->partner_stream && b->partner_at - a->partner_at == moved(w, peer, b->partner_stream);
}

static sf_time_ps time_of(const struct sfi_worker *w, uint32_t i, const struct sfi_vop *f) {
    return f->kind == SFI_LOCAL ? sfi_local_time(&w->inst[i], f) : f->time;
}

static bool same_op(const struct sfi_worker *w, uint32_t i, uint32_t before, uint32_t op) {
    const struct sfi_variant *v = sfi_variant_of(w, &w->inst[i]);
    const struct sfi_vop *a = &v->ops[before], *b = &v->ops[op];
    bool same = a->kind == b->kind && a->way == b->way && a->port == b->port && a->load == b->load &&
                a->latency == b->latency && time_of(w, i, a) == time_of(w, i, b);
    return same && (b->kind == SFI_LOCAL || same_partner(w, i, a, b)) && same_needs(w, i, v->cls->code, before, op);
}

/* Periods that a stream's ops repeat for, up to and with the one behind them: that it waits for something, or is in
 * flight, is part of the state at the end. At most so many are asked for. */
static uint64_t periods_of_ops(const struct sfi_worker *w, uint32_t i, uint32_t stream, uint64_t most) {
    const struct sf_iclass *code = sfi_variant_of(w, &w->inst[i])->cls->code;
    const uint32_t *ops = code->stream_ops[stream];
    uint32_t period = moved(w, i, stream), done = w->inst[i].st.done[stream], at = done;
    uint64_t end = done + most * period;
    while (at < code->stream_n[stream] && at <= end && same_op(w, i, ops[at - period], ops[at])) {
        at++;
    }
    return at > done ? (at - 1 - done) / period : 0;
}

/* Periods that a stream stands still for, when it did in the last one. */
static uint64_t periods_of_rest(const struct sfi_worker *w, uint32_t i, uint32_t stream, uint64_t most) {
    const struct sfi_inst *in = &w->inst[i];
    const struct sf_iclass *code = sfi_variant_of(w, in)->cls->code;
    if (in->st.done[stream] == code->stream_n[stream]) {
        return most;
    }
    if (in->st.busy >> stream & 1) {
        return is_alive(sfi_act_at(w, i, stream), w->now) ? 0 : most;
    }
    uint32_t op = code->stream_ops[stream][in->st.done[stream]];
    uint64_t best = 0;
    for (uint32_t n = code->need_first[op]; n < code->need_first[op + 1]; n++) {
        const struct sf_need *need = &code->needs[n];
        uint32_t period = moved(w, i, need->stream), done = in->st.done[need->stream];
        uint64_t hold = done >= need->count ? 0 : period > 0 ? (need->count - 1 - done) / period : most;
        best = hold > best ? hold : best;
    }
    return best < most ? best : most;
}

/* How often the ops since the state kept come again. */
static uint64_t periods_to_come(const struct sfi_worker *w) {
    const struct sfi_cell *c = w->cell;
    sf_time_ps period = w->now - w->steady->now;
    sf_time_ps room = w->now < SFI_TIME_MAX / 2 ? (SFI_TIME_MAX / 2 - w->now) / period : 0;
    uint64_t n = room < SF_MAX_CLASS_OPS ? (uint64_t)room : SF_MAX_CLASS_OPS;
    for (uint32_t i = c->first; i < c->first + c->n && n > 0; i++) {
        uint32_t streams_n = sfi_variant_of(w, &w->inst[i])->cls->code->streams_n;
        for (uint32_t s = 0; s < streams_n && n > 0; s++) {
            n = moved(w, i, s) > 0 ? periods_of_ops(w, i, s, n) : periods_of_rest(w, i, s, n);
        }
    }
    return n;
}

/* ---- copying ---- */

/* One op of the last period, as it comes again. */
static void copy_op(const struct sfi_worker *w, uint32_t i, const uint32_t *ops, uint32_t period, uint64_t n) {
    struct sfi_inst *in = &w->inst[i];
    const struct sfi_variant *v = sfi_variant_of(w, in);
    sf_time_ps later = w->now - w->steady->now, end = *sfi_end_at(w->table, in, ops[0]);
    sf_time_ps start = sfi_start_time(w->run, i, ops[0]);
    for (uint64_t k = 1; k <= n; k++) {
        uint32_t op = ops[k * period];
        start += later;
        end += later;
        in->digest += sfi_digest_of(sfi_order_of(v, op), start, end);
        *sfi_end_at(w->table, in, op) = end;
        if (v->ops[op].kind == SFI_COLL) {
            *sfi_end_at(w->table, in, v->cls->code->ops_n + v->ops[op].partner) = start;
        }
    }
}

static void copy_ops(const struct sfi_worker *w, uint32_t i, uint64_t n) {
    const struct sf_iclass *code = sfi_variant_of(w, &w->inst[i])->cls->code;
    for (uint32_t s = 0; s < code->streams_n; s++) {
        uint32_t period = moved(w, i, s), done = w->inst[i].st.done[s];
        for (uint32_t at = done - period; at < done; at++) {
            copy_op(w, i, &code->stream_ops[s][at], period, n);
        }
    }
}

static void shift_instance(struct sfi_worker *w, uint32_t i, uint64_t n) {
    struct sfi_inst *in = &w->inst[i];
    const struct sfi_inst *before = &w->steady->inst[i - w->cell->first];
    const struct sfi_variant *v = sfi_variant_of(w, in);
    sf_time_ps later = (w->now - w->steady->now) * (sf_time_ps)n;
    in->stretched += (in->stretched - before->stretched) * (sf_time_ps)n;
    in->st.left -= (before->st.left - in->st.left) * (uint32_t)n;
    for (uint32_t s = 0; s < v->cls->code->streams_n; s++) {
        struct sfi_act *a = sfi_act_at(w, i, s);
        in->st.done[s] += moved(w, i, s) * (uint32_t)n;
        a->began += later;
        if (is_alive(a, w->now)) {
            uint32_t op = sf_interp_in_flight(v->cls->code, &in->st, s);
            a->since += later;
            a->key = sfi_key(a->key & SFI_START, sfi_key_what(a->key), sfi_order_of(v, op), i, s);
            sfi_queue_act(w, a, a->queued + later, a->key);
        }
    }
}

/* Lanes of several members lead to one group: what it comes to is found for all of them before it is changed. */
static void shift_meetings(struct sfi_worker *w, uint64_t n) {
    const struct sfi_cell *c = w->cell;
    struct meeting *m = w->steady->meetings;
    for (uint32_t l = 0; l < c->lanes_n; l++) {
        struct meeting now = meeting_of(w, c->lanes + l);
        m[l].arrived = now.arrived + n * (now.arrived - m[l].arrived);
        m[l].reported = now.reported + n * (now.reported - m[l].reported);
    }
    for (uint32_t l = 0; l < c->lanes_n; l++) {
        struct sfi_group *g = &w->table->groups[w->table->lanes[c->lanes + l] & ~SFI_QUIET];
        atomic_store_explicit(&g->arrived, m[l].arrived, memory_order_relaxed);
        atomic_store_explicit(&g->reported, m[l].reported, memory_order_relaxed);
    }
}

static uint64_t ops_of_period(const struct sfi_worker *w) {
    const struct sfi_cell *c = w->cell;
    uint64_t sum = 0;
    for (uint32_t i = c->first; i < c->first + c->n; i++) {
        sum += w->steady->inst[i - c->first].st.left - w->inst[i].st.left;
    }
    return sum;
}

static void copy_periods(struct sfi_worker *w, uint64_t n) {
    const struct sfi_cell *c = w->cell;
    sf_time_ps later = (w->now - w->steady->now) * (sf_time_ps)n;
    uint64_t ops = n * ops_of_period(w);
    for (uint32_t i = c->first; i < c->first + c->n; i++) {
        copy_ops(w, i, n);
    }
    sfi_queue_empty(&w->cell->queue);
    for (uint32_t i = c->first; i < c->first + c->n; i++) {
        shift_instance(w, i, n);
    }
    if (w->parks) {
        shift_meetings(w, n);
    }
    w->now += later;
    w->events += ops;
    w->skipped += ops;
}

/* ---- looking ---- */

static void use_cell(struct sfi_worker *w) {
    struct sfi_steady *s = w->steady;
    const struct sfi_cell *c = w->cell;
    s->cell = c;
    s->stream = SF_NONE;
    s->looks = s->kept_at = 0;
    s->kept = false;
    for (uint32_t i = c->first; i < c->first + c->n && s->stream == SF_NONE; i++) {
        s->anchor = i;
        s->stream = sfi_variant_of(w, &w->inst[i])->cls->compute_stream;
    }
}

static bool is_over_now(const struct sfi_worker *w) {
    const struct sfi_queue *q = &w->cell->queue;
    return q->n == 0 || sfi_queue_first(q).time > w->now;
}

/* A short rhythm inside a long one, as of a chunk's microbatches inside all chunks', would hide it. */
static bool is_worth_it(const struct sfi_worker *w, uint64_t n) {
    const struct sfi_steady *s = w->steady;
    const struct sf_iclass *code = sfi_variant_of(w, &w->inst[s->anchor])->cls->code;
    uint32_t left = code->stream_n[s->stream] - w->inst[s->anchor].st.done[s->stream];
    return n * moved(w, s->anchor, s->stream) >= left / WORTH;
}

static __attribute__((noinline)) void look_closer(struct sfi_worker *w) {
    struct sfi_steady *s = w->steady;
    if (s->cell != w->cell) {
        use_cell(w);
    }
    const struct sf_rank_state *st = &w->inst[s->anchor].st;
    if (s->stream == SF_NONE || !is_over_now(w)) {
        return;
    }
    s->seen = st->done[s->stream];
    s->looks++;
    if (s->kept && same_state(w)) {
        uint64_t n = periods_to_come(w);
        if (n > 0 && is_worth_it(w, n)) {
            copy_periods(w, n);
            s->seen = st->done[s->stream];
            s->kept = false;
        }
    }
    if (s->looks >= FIRST_LOOKS && (!s->kept || s->looks - s->kept_at > s->kept_at / 2)) {
        keep(w);
    }
}

void sfi_steady_forget(struct sfi_steady *s) {
    if (s) {
        s->cell = NULL;
    }
}

/* Nearly always there is nothing to see. */
void sfi_steady_look(struct sfi_worker *w) {
    const struct sfi_steady *s = w->steady;
    bool known = s->cell == w->cell;
    bool rests = known && (s->stream == SF_NONE || w->inst[s->anchor].st.done[s->stream] == s->seen);
    if (!rests && w->cell->waits_n == 0) {
        look_closer(w);
    }
}
