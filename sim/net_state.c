/* Memory of a run. */
#include "core/arena.h"
#include "core/call.h"
#include "sim/net_internal.h"

#define SLOTS_FIRST 256 /* a power of two, for the hash */

/* The array with room for n; without memory, itself, and the run is marked. */
static void *resized(struct sfi_net_run *r, void *array, size_t n, size_t size) {
    void *p = sf_realloc(array, n, size);
    r->failed |= p == NULL;
    return p != NULL ? p : array;
}

int sfi_net_run_grow(struct sfi_net_run *r, struct sf_err *err) {
    uint32_t n = r->slots_n ? r->slots_n * 2 : SLOTS_FIRST;
    while (r->slots_n == 0 && n < r->ready_n) {
        n *= 2;
    }
    r->slots = resized(r, r->slots, n, sizeof *r->slots);
    r->moments = resized(r, r->moments, n, sizeof *r->moments);
    r->heap = resized(r, r->heap, n, sizeof *r->heap);
    r->chains = resized(r, r->chains, n, sizeof *r->chains);
    r->free_slots = resized(r, r->free_slots, n, sizeof *r->free_slots);
    r->dirty = resized(r, r->dirty, n, sizeof *r->dirty);
    r->flows = resized(r, r->flows, n, sizeof *r->flows);
    r->members = resized(r, r->members, n, sizeof *r->members);
    r->rates = resized(r, r->rates, n, sizeof *r->rates);
    r->scratch = resized(r, r->scratch, 1, sf_fair_scratch_bytes(n, (uint32_t)r->net->links_n));
    if (r->failed) {
        return sf_fail_memory(err, "messages under way");
    }
    for (uint32_t slot = n; slot-- > r->slots_n;) {
        r->slots[slot] = (struct sfi_net_slot){.phase = SFI_NET_FREE, .moment = SF_NONE};
        r->free_slots[r->free_n++] = slot;
    }
    uint32_t before = r->slots_n;
    r->slots_n = n;
    sfi_net_queue_grown(r, before);
    return 0;
}

/* What waits for each item, in the order in which it was added. */
static void index_waits(struct sfi_net_run *r) {
    const struct sf_net *n = r->net;
    for (size_t i = 0; i < n->waits_n; i++) {
        r->first[n->waits[i].on + 1]++;
    }
    for (size_t i = 1; i <= n->items_n; i++) {
        r->first[i] += r->first[i - 1];
    }
    for (size_t i = 0; i < n->waits_n; i++) {
        r->after[r->first[n->waits[i].on]++] = n->waits[i].item;
    }
    for (size_t i = n->items_n; i > 0; i--) { /* filling moved every start to its end */
        r->first[i] = r->first[i - 1];
    }
    r->first[0] = 0;
    for (size_t i = 0; i < n->items_n; i++) {
        r->waits_left[i] = n->items[i].waits_n;
        r->ready_n += n->items[i].waits_n == 0;
    }
}

int sfi_net_run_create(const struct sf_net *n, struct sf_net_result *out, struct sfi_net_run *r, struct sf_err *err) {
    *r = (struct sfi_net_run){.net = n, .out = out, .free_moment = SF_NONE};
    r->memo.bytes = r->memo.work = UINT64_MAX;
    r->recent = SF_NONE;
    *out = (struct sf_net_result){.bytes = n->bytes};
    if (n->waits_n > UINT32_MAX) {
        return sf_fail(err, SF_E_INPUT, "%zu dependencies between messages, at most 2^32 - 1", n->waits_n);
    }
    r->links = sf_calloc(n->links_n, sizeof *r->links);
    r->capacity = sf_calloc(n->links_n, sizeof *r->capacity);
    r->dirty_links = sf_calloc(n->links_n, sizeof *r->dirty_links);
    r->waits_left = sf_calloc(n->items_n, sizeof *r->waits_left);
    r->first = sf_calloc(n->items_n + 1, sizeof *r->first);
    r->after = sf_calloc(n->waits_n, sizeof *r->after);
    r->ready = sf_calloc(n->items_n, sizeof *r->ready);
    out->use = sf_calloc(n->links_n, sizeof *out->use);
    out->end = sf_calloc(n->items_n, sizeof *out->end);
    if (!r->links || !r->capacity || !r->dirty_links || !r->waits_left || !r->first || !r->after || !r->ready ||
        !out->use || !out->end) {
        return sf_fail_memory(err, "a network run");
    }
    for (size_t l = 0; l < n->links_n; l++) {
        r->links[l].first = SF_NONE;
        r->links[l].alone = n->links[l].bytes_per_s;
        r->links[l].crowded = n->links[l].shared_bytes_per_s;
    }
    index_waits(r);
    return sfi_net_run_grow(r, err);
}

void sfi_net_run_clear(struct sfi_net_run *r) {
    void *const owned[] = {r->links, r->capacity, r->dirty_links, r->waits_left, r->first,  r->after,
                           r->ready, r->slots,    r->moments,     r->heap,       r->chains, r->free_slots,
                           r->dirty, r->flows,    r->members,     r->rates,      r->scratch};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) {
        sf_free(owned[i]);
    }
}
