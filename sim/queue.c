#include "sim/queue.h"

#include <assert.h>
#include <string.h>

/* Of a heap's node: those of one node share a cache line, and a heap of 200,000 is nine levels deep. */
enum { CHILDREN = 4 };

static void push(struct sfi_event *heap, uint32_t n, struct sfi_event event) {
    uint32_t i = n;
    while (i > 0 && sfi_event_before(event, heap[(i - 1) / CHILDREN])) {
        heap[i] = heap[(i - 1) / CHILDREN];
        i = (i - 1) / CHILDREN;
    }
    heap[i] = event;
}

static uint32_t earlier(const struct sfi_event *heap, uint32_t a, uint32_t b) {
    return sfi_event_before(heap[b], heap[a]) ? b : a;
}

static uint32_t earliest_child(const struct sfi_event *heap, uint32_t n, uint32_t i) {
    uint32_t first = CHILDREN * i + 1, child = first;
    if (first + CHILDREN <= n) {
        return earlier(heap, earlier(heap, first, first + 1), earlier(heap, first + 2, first + 3));
    }
    for (uint32_t k = first + 1; k < n; k++) {
        child = earlier(heap, child, k);
    }
    return child;
}

/* Takes the first of n. */
static struct sfi_event pop(struct sfi_event *heap, uint32_t n) {
    struct sfi_event first = heap[0], last = heap[--n];
    uint32_t i = 0;
    while (CHILDREN * i + 1 < n) {
        uint32_t child = earliest_child(heap, n, i);
        if (!sfi_event_before(heap[child], last)) {
            break;
        }
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return first;
}

uint32_t sfi_queue_room(uint32_t size) {
    uint32_t front = size > SFI_QUEUE_SORTED ? SFI_QUEUE_FRONT : 0;
    return size + front + (size > SFI_QUEUE_HEAP ? sfi_far_room(size) : 0);
}

void sfi_queue_init(struct sfi_queue *q, struct sfi_event *room, uint32_t size) {
    *q = (struct sfi_queue){.event = room, .size = size};
    if (size > SFI_QUEUE_HEAP) {
        sfi_far_init(q);
    }
}

void sfi_queue_centre(struct sfi_queue *q, uint32_t before) {
    struct sfi_event *room = q->event - q->before;
    assert(q->n < q->size);
    memmove(&room[before], q->event, q->n * sizeof *room);
    q->event = &room[before];
    q->before = before;
}

static void add_to_front(struct sfi_queue *q, struct sfi_event event) {
    struct sfi_event *front = &q->event[q->size];
    uint32_t i = q->front_n++;
    for (; i > 0 && sfi_event_before(front[i - 1], event); i--) {
        front[i] = front[i - 1];
    }
    front[i] = event;
}

static void add_behind(struct sfi_queue *q, struct sfi_event event) {
    if (q->size <= SFI_QUEUE_HEAP || !sfi_far_add(q, event)) {
        push(q->event, q->heap_n++, event);
    }
}

void sfi_queue_add_long(struct sfi_queue *q, struct sfi_event event) {
    struct sfi_event *front = &q->event[q->size];
    assert(q->n < q->size);
    bool early = q->n++ == 0 || sfi_event_before(event, front[0]);
    if (early && q->front_n == SFI_QUEUE_FRONT) {
        add_behind(q, front[0]);
        memmove(front, front + 1, (SFI_QUEUE_FRONT - 1) * sizeof *front);
        q->front_n--;
    }
    if (early) {
        add_to_front(q, event);
    } else {
        add_behind(q, event);
    }
}

static void fill_heap(struct sfi_queue *q) {
    uint32_t n = sfi_far_next(q);
    while (q->heap_n < n) {
        push(q->event, q->heap_n, q->event[q->heap_n]);
        q->heap_n++;
    }
}

/* Some room is left for early events. */
void sfi_queue_refill(struct sfi_queue *q) {
    struct sfi_event *front = &q->event[q->size], next[SFI_QUEUE_FRONT / 2];
    uint32_t n = 0;
    for (; n < SFI_QUEUE_FRONT / 2 && q->front_n + n < q->n; n++) {
        if (q->heap_n == 0) {
            fill_heap(q);
        }
        next[n] = pop(q->event, q->heap_n--);
    }
    memmove(&front[n], front, q->front_n * sizeof *front);
    q->front_n += n;
    for (uint32_t i = 0; i < n; i++) {
        front[n - 1 - i] = next[i];
    }
}

uint32_t sfi_queue_empty(struct sfi_queue *q) {
    uint32_t n = q->n;
    if (q->size > SFI_QUEUE_SORTED) {
        memcpy(&q->event[q->heap_n], &q->event[q->size], q->front_n * sizeof *q->event);
    }
    if (q->size > SFI_QUEUE_HEAP) {
        sfi_far_empty(q, &q->event[q->heap_n + q->front_n]);
    }
    q->n = q->front_n = q->heap_n = 0;
    return n;
}
