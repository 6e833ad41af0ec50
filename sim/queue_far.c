/* The later events of a long queue, in buckets of time. Only those of the bucket that time has come to are kept in
 * order, in a heap that fits the nearest caches; a heap of all of them, one in flight for every stream of 220,000
 * ranks, misses those caches on every level. */
#include <assert.h>
#include <string.h>

#include "sim/queue.h"

enum { BUCKETS = 256, HELD = 15 };

struct chunk { /* of a bucket; four cache lines */
    struct sfi_event event[HELD];
    struct chunk *next;
    uint32_t n, reserved;
};
_Static_assert(sizeof(struct chunk) % sizeof(struct sfi_event) == 0, "chunks lie in the room for events");

struct sfi_far {
    struct chunk *bucket[BUCKETS + 1]; /* the last: whatever is later */
    struct chunk *unused;
    sf_time_ps from, width; /* of the first bucket */
    uint32_t at;            /* those below it are empty */
    uint32_t n;
};

uint32_t sfi_far_room(uint32_t size) {
    size_t bytes = sizeof(struct sfi_far) + (size / HELD + 2 * BUCKETS + 2) * sizeof(struct chunk);
    return (uint32_t)((bytes + sizeof(struct sfi_event) - 1) / sizeof(struct sfi_event));
}

static struct sfi_far *far_of(const struct sfi_queue *q) {
    return (struct sfi_far *)(void *)&q->event[q->size + SFI_QUEUE_FRONT];
}

void sfi_far_init(struct sfi_queue *q) {
    struct sfi_far *f = far_of(q);
    struct chunk *chunks = (struct chunk *)(void *)(f + 1);
    *f = (struct sfi_far){.at = BUCKETS};
    for (uint32_t i = 0; i < q->size / HELD + 2 * BUCKETS + 2; i++) {
        chunks[i].next = f->unused;
        f->unused = &chunks[i];
    }
}

static void put(struct sfi_far *f, uint32_t bucket, struct sfi_event event) {
    struct chunk *c = f->bucket[bucket];
    if (c == NULL || c->n == HELD) {
        c = f->unused;
        assert(c != NULL);
        f->unused = c->next;
        c->next = f->bucket[bucket];
        c->n = 0;
        f->bucket[bucket] = c;
    }
    c->event[c->n++] = event;
}

static uint32_t bucket_of(const struct sfi_far *f, sf_time_ps time) {
    sf_time_ps place = f->width > 0 ? (time - f->from) / f->width : BUCKETS;
    return place < BUCKETS ? (uint32_t)place : BUCKETS;
}

bool sfi_far_add(struct sfi_queue *q, struct sfi_event event) {
    struct sfi_far *f = far_of(q);
    if (event.time < f->from) {
        return false;
    }
    uint32_t bucket = bucket_of(f, event.time);
    if (bucket < f->at) {
        return false;
    }
    put(f, bucket, event);
    f->n++;
    return true;
}

/* Gives its chunks back one by one; each is read before the next event is put anywhere. */
static void spread(struct sfi_far *f, struct chunk *c) {
    for (struct chunk *next; c != NULL; c = next) {
        next = c->next;
        for (uint32_t i = 0; i < c->n; i++) {
            put(f, bucket_of(f, c->event[i].time), c->event[i]);
        }
        c->next = f->unused;
        f->unused = c;
    }
}

/* All buckets but the last are empty: cut the times of what is in that one into buckets. */
static void cut(struct sfi_far *f) {
    struct chunk *all = f->bucket[BUCKETS];
    sf_time_ps first = all->event[0].time, last = first;
    for (const struct chunk *c = all; c != NULL; c = c->next) {
        for (uint32_t i = 0; i < c->n; i++) {
            first = c->event[i].time < first ? c->event[i].time : first;
            last = c->event[i].time > last ? c->event[i].time : last;
        }
    }
    f->bucket[BUCKETS] = NULL;
    f->from = first;
    f->width = (last - first) / BUCKETS + 1;
    f->at = 0;
    spread(f, all);
}

/* Gives its chunks back. */
static uint32_t take_bucket(struct sfi_far *f, uint32_t bucket, struct sfi_event *to) {
    uint32_t n = 0;
    for (struct chunk *c = f->bucket[bucket], *next; c != NULL; c = next) {
        next = c->next;
        memcpy(&to[n], c->event, c->n * sizeof *to);
        n += c->n;
        c->next = f->unused;
        f->unused = c;
    }
    f->bucket[bucket] = NULL;
    f->n -= n;
    return n;
}

uint32_t sfi_far_next(struct sfi_queue *q) {
    struct sfi_far *f = far_of(q);
    if (q->size <= SFI_QUEUE_HEAP || f->n == 0) {
        return 0;
    }
    for (;; f->at++) {
        if (f->at == BUCKETS) {
            cut(f);
        }
        if (f->bucket[f->at] != NULL) {
            return take_bucket(f, f->at++, q->event);
        }
    }
}

uint32_t sfi_far_empty(struct sfi_queue *q, struct sfi_event *to) {
    struct sfi_far *f = far_of(q);
    uint32_t n = 0;
    for (uint32_t i = 0; i <= BUCKETS; i++) {
        n += take_bucket(f, i, &to[n]);
    }
    return n;
}
