#include "sim/queue.h"

#include <assert.h>

void sfi_queue_add_heap(struct sfi_queue *q, struct sfi_event event) {
    assert(q->n < q->size);
    uint32_t i = q->n++;
    while (i > 0 && sfi_event_before(event, q->event[(i - 1) / 2])) {
        q->event[i] = q->event[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    q->event[i] = event;
}

void sfi_queue_take_heap(struct sfi_queue *q) {
    struct sfi_event last = q->event[--q->n];
    uint32_t i = 0;
    while (2 * i + 1 < q->n) {
        uint32_t child = 2 * i + 1;
        child += child + 1 < q->n && sfi_event_before(q->event[child + 1], q->event[child]);
        if (!sfi_event_before(q->event[child], last)) {
            break;
        }
        q->event[i] = q->event[child];
        i = child;
    }
    q->event[i] = last;
}
