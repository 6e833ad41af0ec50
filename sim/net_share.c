/* Who shares what with whom, and the rates that follow.
 *
 * A link is *shared* while its messages could together ask for more than it carries; only shared links couple messages.
 * When a message joins or leaves, the component around it over shared links is collected and solved. */
#include "core/call.h"
#include "sim/net_internal.h"

static uint64_t capacity_of(const struct sfi_net_state *l) {
    return l->flows_n > 1 ? l->crowded : l->alone;
}

static void mark(struct sfi_net_run *r, uint32_t slot) {
    if (!r->slots[slot].dirty) {
        r->slots[slot].dirty = true;
        r->dirty[r->dirty_n++] = slot;
    }
}

static void mark_link(struct sfi_net_run *r, uint32_t link) {
    if (!r->links[link].dirty) {
        r->links[link].dirty = true;
        r->dirty_links[r->dirty_links_n++] = link;
    }
}

/* Whether a link is shared follows from its demand; the time it was is kept. */
static void judge(const struct sfi_net_run *r, struct sfi_net_state *l) {
    bool shared = l->demand > capacity_of(l);
    if (shared == l->shared) {
        return;
    }
    if (shared) {
        l->shared_since = r->now;
    } else {
        l->shared_ps += r->now - l->shared_since;
    }
    l->shared = shared;
}

/* Of what was not begun yet, often asked for. */
static sf_time_ps time_of_all(struct sfi_net_run *r, const struct sfi_net_slot *s, uint64_t rate) {
    struct sfi_net_memo *m = &r->memo;
    if (m->work != s->wire_bytes || m->rate != rate) {
        sfi_net_left time = (s->left - 1) / rate + 1;
        m->time = time < (uint64_t)SFI_NET_NEVER ? (sf_time_ps)time : SFI_NET_NEVER;
        m->work = s->wire_bytes;
        m->rate = rate;
    }
    return m->time;
}

/* Counts what was sent at the old rate, and says when the rest will have been at the new one. */
static void set_rate(struct sfi_net_run *r, uint32_t slot, uint64_t rate) {
    struct sfi_net_slot *s = &r->slots[slot];
    if (s->rate == rate && s->rated) {
        return;
    }
    sfi_net_left sent = (sfi_net_left)s->rate * (uint64_t)(r->now - s->since);
    s->left -= sent < s->left ? sent : s->left;
    bool whole = !s->rated;
    s->rate = rate;
    s->rated = true;
    s->since = r->now;
    sf_time_ps end = SFI_NET_NEVER;
    if (s->left == 0) {
        end = r->now;
    } else if (rate > 0 && whole) {
        sf_time_ps rest = time_of_all(r, s, rate);
        end = rest < SFI_NET_NEVER - r->now ? r->now + rest : SFI_NET_NEVER;
    } else if (rate > 0) {
        sfi_net_left rest = (s->left - 1) / rate + 1;
        end = rest < (uint64_t)(SFI_NET_NEVER - r->now) ? r->now + (sf_time_ps)rest : SFI_NET_NEVER;
    }
    sfi_net_queue_put(r, slot, end);
}

/* What no shared link couples has its rate at once; who joins later in this moment may take it away again. */
void sfi_net_join(struct sfi_net_run *r, uint32_t slot) {
    struct sfi_net_slot *s = &r->slots[slot];
    bool coupled = false;
    for (uint32_t i = 0; i < s->links_n; i++) {
        struct sfi_net_state *l = &r->links[s->links[i]];
        s->at[i] = (struct sfi_net_around){l->first, SF_NONE};
        if (l->first != SF_NONE) {
            r->slots[l->first / SF_NET_HOPS].at[l->first % SF_NET_HOPS].prev = SFI_NET_PLACE(slot, i);
        }
        l->first = SFI_NET_PLACE(slot, i);
        l->flows_n++;
        l->demand += s->bound;
        l->bytes += s->wire_bytes;
        l->messages++;
        l->most = l->flows_n > l->most ? l->flows_n : l->most;
        judge(r, l);
        coupled |= l->shared;
    }
    if (coupled) {
        mark(r, slot);
    } else {
        set_rate(r, slot, s->bound);
    }
}

void sfi_net_leave(struct sfi_net_run *r, uint32_t slot) {
    struct sfi_net_slot *s = &r->slots[slot];
    for (uint32_t i = 0; i < s->links_n; i++) {
        struct sfi_net_state *l = &r->links[s->links[i]];
        uint32_t next = s->at[i].next, prev = s->at[i].prev;
        if (next != SF_NONE) {
            r->slots[next / SF_NET_HOPS].at[next % SF_NET_HOPS].prev = prev;
        }
        *(prev != SF_NONE ? &r->slots[prev / SF_NET_HOPS].at[prev % SF_NET_HOPS].next : &l->first) = next;
        l->flows_n--;
        l->demand -= s->bound;
        if (l->shared) {
            mark_link(r, s->links[i]);
        }
        judge(r, l);
    }
}

/* ---- components -------------------------------------------------------------------------------------------------- */

struct component {
    uint32_t flows_n, links_n;
};

static void take_flow(struct sfi_net_run *r, struct component *c, uint32_t slot) {
    if (r->slots[slot].seen != r->epoch) {
        r->slots[slot].seen = r->epoch;
        r->members[c->flows_n++] = slot;
    }
}

static uint32_t take_link(struct sfi_net_run *r, struct component *c, uint32_t link) {
    struct sfi_net_state *l = &r->links[link];
    if (l->seen != r->epoch) {
        l->seen = r->epoch;
        l->local = c->links_n;
        r->capacity[c->links_n++] = capacity_of(l);
        for (uint32_t place = l->first; place != SF_NONE;) {
            uint32_t slot = place / SF_NET_HOPS;
            take_flow(r, c, slot);
            place = r->slots[slot].at[place % SF_NET_HOPS].next;
        }
    }
    return l->local;
}

/* The messages that `slot` is coupled to, found breadth first: `members` is list and queue in one. */
static struct component collect(struct sfi_net_run *r, uint32_t slot) {
    struct component c = {0};
    take_flow(r, &c, slot);
    for (uint32_t i = 0; i < c.flows_n; i++) {
        const struct sfi_net_slot *s = &r->slots[r->members[i]];
        struct sf_fair_flow *f = &r->flows[i];
        f->cap_bytes_per_s = s->bound;
        f->links_n = 0;
        for (uint32_t k = 0; k < s->links_n; k++) {
            if (r->links[s->links[k]].shared) {
                f->links[f->links_n++] = take_link(r, &c, s->links[k]);
            }
        }
    }
    return c;
}

static void solve(struct sfi_net_run *r, uint32_t slot) {
    struct component c = collect(r, slot);
    if (c.flows_n == 1) {
        set_rate(r, slot, r->slots[slot].bound); /* alone, it cannot ask for more than a link has */
        return;
    }
    sf_fair_rates(r->flows, c.flows_n, r->capacity, c.links_n, r->scratch, r->rates);
    for (uint32_t i = 0; i < c.flows_n; i++) {
        set_rate(r, r->members[i], r->rates[i]);
    }
    r->out->solves++;
    r->out->solved_flows += c.flows_n;
}

static void solve_around(struct sfi_net_run *r, uint32_t slot) {
    if (r->slots[slot].phase == SFI_NET_SENDING && r->slots[slot].seen != r->epoch) {
        solve(r, slot);
    }
}

/* The messages beside one that left are one component while the link is shared; else each has its own. */
static void solve_on(struct sfi_net_run *r, const struct sfi_net_state *l) {
    for (uint32_t place = l->first; place != SF_NONE;) {
        solve_around(r, place / SF_NET_HOPS);
        place = l->shared ? SF_NONE : r->slots[place / SF_NET_HOPS].at[place % SF_NET_HOPS].next;
    }
}

void sfi_net_share(struct sfi_net_run *r) {
    r->epoch++;
    for (uint32_t i = 0; i < r->dirty_n; i++) {
        r->slots[r->dirty[i]].dirty = false;
        solve_around(r, r->dirty[i]);
    }
    for (uint32_t i = 0; i < r->dirty_links_n; i++) {
        r->links[r->dirty_links[i]].dirty = false;
        solve_on(r, &r->links[r->dirty_links[i]]);
    }
    r->dirty_n = r->dirty_links_n = 0;
}
