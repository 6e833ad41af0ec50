/* The queue of a run: slots by the moment at which something happens to them.
 *
 * Regular traffic keeps step, so many slots share few moments. The heap holds moments, each once, with a list of its
 * slots; a hash table finds the moment of a time. Slots of one moment come in the order in which they were put there.
 */
#include "core/call.h"
#include "sim/net_internal.h"

/* ---- heap of moments --------------------------------------------------------------------------------------------- */

static void put(struct sfi_net_run *r, uint32_t at, struct sfi_net_event e) {
    r->heap[at] = e;
    r->moments[e.moment].heap_at = at;
}

static void sift_up(struct sfi_net_run *r, uint32_t at, struct sfi_net_event e) {
    while (at > 0 && e.time < r->heap[(at - 1) / 4].time) {
        put(r, at, r->heap[(at - 1) / 4]);
        at = (at - 1) / 4;
    }
    put(r, at, e);
}

static void sift_down(struct sfi_net_run *r, uint32_t at, struct sfi_net_event e) {
    for (uint32_t child; (child = 4 * at + 1) < r->heap_n;) {
        uint32_t end = child + 4 < r->heap_n ? child + 4 : r->heap_n, best = child;
        while (++child < end) {
            best = r->heap[child].time < r->heap[best].time ? child : best;
        }
        if (r->heap[best].time >= e.time) {
            break;
        }
        put(r, at, r->heap[best]);
        at = best;
    }
    put(r, at, e);
}

static void heap_remove(struct sfi_net_run *r, uint32_t at) {
    struct sfi_net_event last = r->heap[--r->heap_n];
    if (at == r->heap_n) {
        return;
    }
    if (at > 0 && last.time < r->heap[(at - 1) / 4].time) {
        sift_up(r, at, last);
    } else {
        sift_down(r, at, last);
    }
}

/* ---- moments by time --------------------------------------------------------------------------------------------- */

static uint32_t *chain_of(struct sfi_net_run *r, sf_time_ps time) {
    const uint64_t golden = UINT64_C(0x9e3779b97f4a7c15);
    return &r->chains[((uint64_t)time * golden) >> 32 & (r->slots_n - 1)];
}

static uint32_t moment_of(struct sfi_net_run *r, sf_time_ps time) {
    if (r->recent != SF_NONE && r->moments[r->recent].time == time) {
        return r->recent;
    }
    uint32_t *chain = chain_of(r, time), m = *chain;
    while (m != SF_NONE && r->moments[m].time != time) {
        m = r->moments[m].next;
    }
    if (m == SF_NONE) {
        m = r->free_moment;
        r->free_moment = r->moments[m].next;
        r->moments[m] = (struct sfi_net_moment){.time = time, .first = SF_NONE, .last = SF_NONE, .next = *chain};
        *chain = m;
        sift_up(r, r->heap_n++, (struct sfi_net_event){time, m});
    }
    r->recent = m;
    return m;
}

static void forget(struct sfi_net_run *r, uint32_t m) {
    uint32_t *link = chain_of(r, r->moments[m].time);
    while (*link != m) {
        link = &r->moments[*link].next;
    }
    *link = r->moments[m].next;
    heap_remove(r, r->moments[m].heap_at);
    r->moments[m].next = r->free_moment;
    r->free_moment = m;
    r->recent = r->recent == m ? SF_NONE : r->recent;
}

/* ---- slots of a moment ------------------------------------------------------------------------------------------- */

void sfi_net_queue_take(struct sfi_net_run *r, uint32_t slot) {
    struct sfi_net_slot *s = &r->slots[slot];
    struct sfi_net_moment *m = &r->moments[s->moment];
    *(s->sooner != SF_NONE ? &r->slots[s->sooner].later : &m->first) = s->later;
    *(s->later != SF_NONE ? &r->slots[s->later].sooner : &m->last) = s->sooner;
    if (m->first == SF_NONE) {
        forget(r, s->moment);
    }
    s->moment = SF_NONE;
}

uint32_t sfi_net_queue_pop(struct sfi_net_run *r) {
    uint32_t m = r->heap[0].moment, first = r->moments[m].first;
    forget(r, m);
    for (uint32_t slot = first; slot != SF_NONE; slot = r->slots[slot].later) {
        r->slots[slot].moment = SF_NONE;
    }
    return first;
}

void sfi_net_queue_put(struct sfi_net_run *r, uint32_t slot, sf_time_ps time) {
    struct sfi_net_slot *s = &r->slots[slot];
    if (s->moment != SF_NONE) {
        if (r->moments[s->moment].time == time) {
            return;
        }
        sfi_net_queue_take(r, slot);
    }
    s->moment = moment_of(r, time);
    struct sfi_net_moment *m = &r->moments[s->moment];
    s->later = SF_NONE;
    s->sooner = m->last;
    *(m->last != SF_NONE ? &r->slots[m->last].later : &m->first) = slot;
    m->last = slot;
}

/* With more slots there are more moments, and longer chains would be slow: all are hashed anew. */
void sfi_net_queue_grown(struct sfi_net_run *r, uint32_t moments_n) {
    for (uint32_t m = r->slots_n; m-- > moments_n;) {
        r->moments[m].next = r->free_moment;
        r->free_moment = m;
    }
    for (uint32_t i = 0; i < r->slots_n; i++) {
        r->chains[i] = SF_NONE;
    }
    for (uint32_t i = 0; i < r->heap_n; i++) {
        uint32_t *chain = chain_of(r, r->heap[i].time);
        r->moments[r->heap[i].moment].next = *chain;
        *chain = r->heap[i].moment;
    }
}
