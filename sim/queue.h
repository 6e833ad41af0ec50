/* A cell's events, earliest first: a sorted run while they are few, as in a pipeline. Beyond that a heap with a short
 * sorted run in front of it, so that one knows some events ahead what will be touched, and where there are very many,
 * buckets of time behind it (queue_far.c). The order is total - time, then key - so all give the same sequence. */
#ifndef SF_SIM_QUEUE_H
#define SF_SIM_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/units.h"

struct sfi_event {
    sf_time_ps time;
    uint64_t key;
};

/* Up to this size: latest first, so that taking is free, with room on both sides: an early event moves few others, and
 * so does a late one. */
#define SFI_QUEUE_SORTED 640
/* Beyond it: behind the room for `size` events lies the front, the earliest ones, latest first. */
#define SFI_QUEUE_FRONT 96
#define SFI_QUEUE_AHEAD 16 /* fewer than these are never in front while more are behind */
/* Beyond this: behind the front lie the buckets. */
#define SFI_QUEUE_HEAP 16384

struct sfi_queue {
    struct sfi_event *event; /* room for sfi_queue_room(size) */
    uint32_t n, size;
    uint32_t before;          /* in a short queue: room before event[0], which moves */
    uint32_t front_n, heap_n; /* of the n; in a short queue 0. The front is empty only when all is */
};

uint32_t sfi_queue_room(uint32_t size);
/* Of zeroed room for so many. */
void sfi_queue_init(struct sfi_queue *q, struct sfi_event *room, uint32_t size);

/* One comparison, without a branch that nobody could predict; times are not negative. */
static inline bool sfi_event_before(struct sfi_event a, struct sfi_event b) {
    unsigned __int128 x = (unsigned __int128)(uint64_t)a.time << 64 | a.key;
    unsigned __int128 y = (unsigned __int128)(uint64_t)b.time << 64 | b.key;
    return x < y;
}

void sfi_queue_add_long(struct sfi_queue *q, struct sfi_event event);
/* The front is short, and more events are there. */
void sfi_queue_refill(struct sfi_queue *q);
/* Puts all events side by side from event[0] on, in no order, and returns how many; the queue is then empty. They may
 * be added anew one by one. */
uint32_t sfi_queue_empty(struct sfi_queue *q);

/* The buckets. */
uint32_t sfi_far_room(uint32_t size);
void sfi_far_init(struct sfi_queue *q);
bool sfi_far_add(struct sfi_queue *q, struct sfi_event event); /* false: it is too early for them */
/* The next ones, to event[0] on; how many. Heap and front are empty. */
uint32_t sfi_far_next(struct sfi_queue *q);
uint32_t sfi_far_empty(struct sfi_queue *q, struct sfi_event *to);

/* Of a short queue: have so much room before its events. */
void sfi_queue_centre(struct sfi_queue *q, uint32_t before);

/* To a short queue, of which half is earlier. */
static inline void sfi_queue_add_late(struct sfi_queue *q, struct sfi_event event) {
    if (q->before == 0) {
        sfi_queue_centre(q, (q->size - q->n + 1) / 2);
    }
    struct sfi_event *at = --q->event;
    uint32_t i = 0;
    q->before--;
    for (; i < q->n && sfi_event_before(event, at[i + 1]); i++) {
        at[i] = at[i + 1];
    }
    at[i] = event;
    q->n++;
}

static inline void sfi_queue_add(struct sfi_queue *q, sf_time_ps time, uint64_t key) {
    struct sfi_event event = {time, key};
    if (q->size > SFI_QUEUE_SORTED) {
        sfi_queue_add_long(q, event);
        return;
    }
    if (q->n > 0 && sfi_event_before(q->event[q->n / 2], event)) {
        sfi_queue_add_late(q, event);
        return;
    }
    if (q->before + q->n == q->size) {
        sfi_queue_centre(q, (q->size - q->n) / 2);
    }
    uint32_t i = q->n++;
    for (; i > 0 && sfi_event_before(q->event[i - 1], event); i--) {
        q->event[i] = q->event[i - 1];
    }
    q->event[i] = event;
}

/* The one that comes `ahead` events after the earliest; the latest known where fewer are. Not of an empty queue. */
static inline struct sfi_event sfi_queue_ahead(const struct sfi_queue *q, uint32_t ahead) {
    uint32_t n = q->size > SFI_QUEUE_SORTED ? q->front_n : q->n;
    const struct sfi_event *run = q->size > SFI_QUEUE_SORTED ? &q->event[q->size] : q->event;
    return run[ahead < n ? n - 1 - ahead : 0];
}

/* The earliest event of a queue that is not empty. */
static inline struct sfi_event sfi_queue_first(const struct sfi_queue *q) {
    return q->size > SFI_QUEUE_SORTED ? q->event[q->size + q->front_n - 1] : q->event[q->n - 1];
}

static inline void sfi_queue_take(struct sfi_queue *q) {
    q->n--;
    if (q->size > SFI_QUEUE_SORTED && --q->front_n < SFI_QUEUE_AHEAD && q->front_n < q->n) {
        sfi_queue_refill(q);
    }
}

#endif
