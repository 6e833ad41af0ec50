/* A cell's events, earliest first: a sorted run while they are few, as in a pipeline, and a heap beyond. The order is
 * total - time, then key - so both give the same sequence. */
#ifndef SF_SIM_QUEUE_H
#define SF_SIM_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/units.h"

struct sfi_event {
    sf_time_ps time;
    uint64_t key;
};

struct sfi_queue {
    struct sfi_event *event;
    uint32_t n, size;
};

/* Up to this size: latest first, so that taking is free and an early event moves few others. */
#define SFI_QUEUE_SORTED 256

static inline bool sfi_event_before(struct sfi_event a, struct sfi_event b) {
    return a.time < b.time || (a.time == b.time && a.key < b.key);
}

void sfi_queue_add_heap(struct sfi_queue *q, struct sfi_event event);
void sfi_queue_take_heap(struct sfi_queue *q);

static inline void sfi_queue_add(struct sfi_queue *q, sf_time_ps time, uint64_t key) {
    struct sfi_event event = {time, key};
    if (q->size > SFI_QUEUE_SORTED) {
        sfi_queue_add_heap(q, event);
        return;
    }
    uint32_t i = q->n++;
    for (; i > 0 && sfi_event_before(q->event[i - 1], event); i--) {
        q->event[i] = q->event[i - 1];
    }
    q->event[i] = event;
}

/* The earliest event of a queue that is not empty. */
static inline struct sfi_event sfi_queue_first(const struct sfi_queue *q) {
    return q->event[q->size > SFI_QUEUE_SORTED ? 0 : q->n - 1];
}

static inline void sfi_queue_take(struct sfi_queue *q) {
    if (q->size > SFI_QUEUE_SORTED) {
        sfi_queue_take_heap(q);
    } else {
        q->n--;
    }
}

#endif
