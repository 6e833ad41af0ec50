/* The event loop: items become ready, messages join and leave links, arrivals release what waits for them. All events
 * of one moment are handled before rates are looked at, so their order cannot matter. */
#include "core/arena.h"
#include "core/call.h"
#include "sim/net_internal.h"

static sf_time_ps later(sf_time_ps t, sf_time_ps by) {
    return t < SFI_NET_NEVER - by ? t + by : SFI_NET_NEVER;
}

/* Its rate, and with it the end, is known when all that starts at this moment has joined. */
static void start_sending(struct sfi_net_run *r, uint32_t slot, const struct sfi_net_item *message) {
    const struct sfi_net_path *p = &r->net->paths[message->path];
    struct sfi_net_slot *s = &r->slots[slot];
    s->phase = SFI_NET_SENDING;
    if (r->memo.bytes != message->amount) {
        r->memo.bytes = message->amount;
        r->memo.wire_bytes = sfi_net_wire_bytes(r->net, message->amount);
    }
    s->wire_bytes = r->memo.wire_bytes;
    s->left = (sfi_net_left)s->wire_bytes * (uint64_t)SF_PS_PER_S;
    s->rate = 0;
    s->rated = false;
    s->since = r->now;
    s->bound = p->path.stripes > 1 ? sfi_net_bound(r->net, message) : p->bound;
    s->links_n = (uint8_t)p->path.links_n;
    for (uint32_t i = 0; i < s->links_n; i++) {
        s->links[i] = p->path.links[i];
    }
    sfi_net_join(r, slot);
    r->sending_n++;
    r->out->most_flows = r->sending_n > r->out->most_flows ? r->sending_n : r->out->most_flows;
}

static int begin(struct sfi_net_run *r, uint32_t item, struct sf_err *err) {
    const struct sfi_net_item *what = &r->net->items[item];
    if (r->free_n == 0) {
        SF_TRY(sfi_net_run_grow(r, err));
    }
    uint32_t slot = r->free_slots[--r->free_n];
    r->slots[slot].item = item;
    r->ready[item] = r->now;
    if (what->path == SF_NONE) {
        r->slots[slot].phase = SFI_NET_DELAY;
        sfi_net_queue_put(r, slot, later(r->now, (sf_time_ps)what->amount));
    } else {
        start_sending(r, slot, what);
    }
    return 0;
}

/* Those that wait for this end of the item; every wait is released by one of the two. */
static int release(struct sfi_net_run *r, uint32_t item, enum sf_net_edge edge, struct sf_err *err) {
    for (uint32_t k = r->first[item]; k < r->first[item + 1]; k++) {
        if ((r->after[k] & 1) == (uint32_t)edge && --r->waits_left[r->after[k] >> 1] == 0) {
            SF_TRY(begin(r, r->after[k] >> 1, err));
        }
    }
    return 0;
}

static int finish_sending(struct sfi_net_run *r, uint32_t slot, struct sf_err *err) {
    struct sfi_net_slot *s = &r->slots[slot];
    const struct sfi_net_item *what = &r->net->items[s->item];
    sfi_net_leave(r, slot);
    r->sending_n--;
    s->phase = SFI_NET_FLYING;
    sfi_net_queue_put(r, slot, later(r->now, sfi_net_flight(r->net, what)));
    return release(r, s->item, SF_NET_SENT, err);
}

static int finish(struct sfi_net_run *r, uint32_t slot, struct sf_err *err) {
    uint32_t item = r->slots[slot].item;
    bool is_delay = r->slots[slot].phase == SFI_NET_DELAY;
    r->slots[slot].phase = SFI_NET_FREE;
    r->free_slots[r->free_n++] = slot;
    r->out->end[item] = r->now;
    SF_TRY(is_delay ? release(r, item, SF_NET_SENT, err) : 0);
    return release(r, item, SF_NET_DELIVERED, err);
}

static int handle(struct sfi_net_run *r, uint32_t slot, struct sf_err *err) {
    r->out->events++;
    return r->slots[slot].phase == SFI_NET_SENDING ? finish_sending(r, slot, err) : finish(r, slot, err);
}

/* Whoever is handled may be put into the queue again, so who comes next is asked before. */
static int handle_moment(struct sfi_net_run *r, struct sf_err *err) {
    for (uint32_t next, slot = sfi_net_queue_pop(r); slot != SF_NONE; slot = next) {
        next = r->slots[slot].later;
        SF_TRY(handle(r, slot, err));
    }
    return 0;
}

static uint32_t first_slot(const struct sfi_net_run *r) {
    return r->moments[r->heap[0].moment].first;
}

static int fail_stuck(const struct sfi_net_run *r, struct sf_err *err) {
    const struct sfi_net_slot *s = &r->slots[first_slot(r)];
    if (s->phase != SFI_NET_SENDING || s->rate > 0) {
        return sf_fail(err, SF_E_INPUT, "item %u ends more than 106 days after the start: nothing here takes that long",
                       s->item);
    }
    uint32_t narrow = s->links[0];
    for (uint32_t i = 1; i < s->links_n; i++) {
        narrow = r->net->links[s->links[i]].bytes_per_s < r->net->links[narrow].bytes_per_s ? s->links[i] : narrow;
    }
    return sf_fail(err, SF_E_INPUT,
                   "message %u can never end: link %u of its path carries %llu bytes per second for %u "
                   "messages",
                   s->item, narrow, (unsigned long long)r->net->links[narrow].bytes_per_s, r->links[narrow].flows_n);
}

/* By the items that are over: now and then, as asking for the time is not free. */
static void tell(const struct sfi_net_run *r, uint64_t turn) {
    const struct sf_net *n = r->net;
    if (n->progress && turn % 1024 == 0) {
        double done = (double)r->out->events / (3.0 * (double)n->items_n);
        n->progress(n->progress_self, SFI_NET_BUILT + (1.0 - SFI_NET_BUILT) * (done < 1.0 ? done : 1.0));
    }
}

static int run_events(struct sfi_net_run *r, struct sf_err *err) {
    for (uint32_t i = 0; i < r->net->items_n; i++) {
        if (r->net->items[i].waits_n == 0) {
            SF_TRY(begin(r, i, err));
        }
    }
    sfi_net_share(r);
    for (uint64_t turn = 0; r->heap_n > 0; turn++) {
        tell(r, turn);
        if (r->heap[0].time == SFI_NET_NEVER) {
            return fail_stuck(r, err);
        }
        r->now = r->heap[0].time;
        while (r->heap_n > 0 && r->heap[0].time == r->now) {
            SF_TRY(handle_moment(r, err));
        }
        sfi_net_share(r);
    }
    r->out->time = r->now;
    for (size_t l = 0; l < r->net->links_n; l++) {
        const struct sfi_net_state *s = &r->links[l];
        r->out->use[l] = (struct sf_net_use){s->bytes, s->messages, s->most, s->shared_ps};
    }
    return 0;
}

/* ---- percentiles ------------------------------------------------------------------------------------------------- */

/* The value at `rank` of the sorted array: quickselect with the middle as pivot, which needs no random numbers. */
static sf_time_ps select_rank(sf_time_ps *t, int64_t n, int64_t rank) {
    int64_t lo = 0, hi = n - 1;
    while (lo < hi) {
        sf_time_ps pivot = t[lo + (hi - lo) / 2];
        int64_t i = lo, k = hi;
        while (i <= k) {
            while (t[i] < pivot) {
                i++;
            }
            while (t[k] > pivot) {
                k--;
            }
            if (i <= k) {
                sf_time_ps swap = t[i];
                t[i++] = t[k];
                t[k--] = swap;
            }
        }
        if (rank > k && rank < i) {
            break;
        }
        hi = rank <= k ? k : hi;
        lo = rank >= i ? i : lo;
    }
    return t[rank];
}

static void percentiles(struct sfi_net_run *r) {
    int64_t n = 0;
    for (size_t i = 0; i < r->net->items_n; i++) {
        if (r->net->items[i].path != SF_NONE) {
            r->ready[n++] = r->out->end[i] - r->ready[i];
        }
    }
    if (n > 0) {
        r->out->p50 = select_rank(r->ready, n, (n - 1) / 2);
        r->out->p99 = select_rank(r->ready, n, (n - 1) - (n - 1) / 100);
    }
}

int sf_net_run(const struct sf_net *n, const struct sf_clock *clock, struct sf_net_result *out, struct sf_err *err) {
    struct sfi_net_run r;
    *out = (struct sf_net_result){0};
    SF_TRY(sf_net_check(n, err));
    sf_time_ps from = clock != NULL ? clock->now(clock->self) : 0;
    sf_time_ps cpu_from = clock != NULL && clock->thread_cpu != NULL ? clock->thread_cpu(clock->self) : 0;
    int rc = sfi_net_run_create(n, out, &r, err);
    rc = rc ? rc : run_events(&r, err);
    if (rc == 0) {
        percentiles(&r);
        out->wall_s = clock != NULL ? sf_ps_to_s(clock->now(clock->self) - from) : 0;
        bool counts = clock != NULL && clock->thread_cpu != NULL;
        out->cpu_s = counts ? sf_ps_to_s(clock->thread_cpu(clock->self) - cpu_from) : 0;
    } else {
        sf_net_result_free(out);
    }
    sfi_net_run_clear(&r);
    return rc;
}

void sf_net_result_free(struct sf_net_result *r) {
    sf_free(r->use);
    sf_free(r->end);
    r->use = NULL;
    r->end = NULL;
}
