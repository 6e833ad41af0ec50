#include "core/arena.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNMENT ((size_t)64)
#define FIRST_BLOCK ((size_t)16 << 10)
#define LARGEST_BLOCK ((size_t)4 << 20)

/* 0: off; n > 1: n - 1 more allocations succeed; 1: every one fails. */
static atomic_size_t fail_countdown;

void sf_alloc_fail_after(size_t n) {
    atomic_store(&fail_countdown, n);
}

static bool must_fail(void) {
    size_t n = atomic_load_explicit(&fail_countdown, memory_order_relaxed);
    while (n > 1) {
        if (atomic_compare_exchange_weak(&fail_countdown, &n, n - 1)) {
            return false;
        }
    }
    return n == 1;
}

void *sf_malloc(size_t bytes) {
    return must_fail() ? NULL : malloc(bytes > 0 ? bytes : 1);
}

void *sf_calloc(size_t n, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || must_fail()) {
        return NULL;
    }
    return calloc(1, bytes > 0 ? bytes : 1);
}

void *sf_realloc(void *p, size_t n, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || must_fail()) {
        return NULL;
    }
    return realloc(p, bytes > 0 ? bytes : 1);
}

void sf_free(void *p) {
    free(p);
}

int sf_fail_memory(struct sf_err *err, const char *what) {
    return sf_fail(err, SF_E_INTERNAL, "out of memory for %s", what);
}

struct block {
    struct block *next;
    unsigned char *base; /* aligned */
    size_t used, capacity;
};

struct sf_arena {
    struct block *blocks; /* the first one is being filled */
    size_t next_capacity;
};

struct sf_arena *sf_arena_create(void) {
    struct sf_arena *a = sf_calloc(1, sizeof *a);
    if (a != NULL) {
        a->next_capacity = FIRST_BLOCK;
    }
    return a;
}

void sf_arena_free(struct sf_arena *a) {
    if (a == NULL) {
        return;
    }
    for (struct block *b = a->blocks; b != NULL;) {
        struct block *next = b->next;
        sf_free(b);
        b = next;
    }
    sf_free(a);
}

static struct block *block_create(size_t capacity) {
    size_t bytes;
    if (__builtin_add_overflow(capacity, sizeof(struct block) + ALIGNMENT, &bytes)) {
        return NULL;
    }
    struct block *b = sf_calloc(1, bytes); /* zeroed once: memory is never handed out twice */
    if (b == NULL) {
        return NULL;
    }
    uintptr_t end_of_header = (uintptr_t)(b + 1);
    size_t padding = (ALIGNMENT - end_of_header % ALIGNMENT) % ALIGNMENT;
    b->base = (unsigned char *)(b + 1) + padding;
    b->capacity = capacity;
    return b;
}

/* A block with room for `bytes`. One of its own goes behind the block being filled, so that no rest is wasted. */
static struct block *block_with_room(struct sf_arena *a, size_t bytes) {
    struct block *first = a->blocks;
    if (first != NULL && bytes <= first->capacity - first->used) {
        return first;
    }
    bool own_block = bytes > a->next_capacity / 4;
    struct block *b = block_create(own_block ? bytes : a->next_capacity);
    if (b == NULL) {
        return NULL;
    }
    if (own_block && first != NULL) {
        b->next = first->next;
        first->next = b;
    } else {
        b->next = first;
        a->blocks = b;
    }
    if (!own_block && a->next_capacity < LARGEST_BLOCK) {
        a->next_capacity *= 2;
    }
    return b;
}

void *sf_arena_alloc(struct sf_arena *a, size_t n, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX - ALIGNMENT) {
        return NULL;
    }
    bytes = bytes == 0 ? ALIGNMENT : (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    struct block *b = block_with_room(a, bytes);
    if (b == NULL) {
        return NULL;
    }
    void *p = b->base + b->used;
    b->used += bytes;
    return p;
}

char *sf_arena_strdup(struct sf_arena *a, const char *s) {
    size_t bytes = strlen(s) + 1;
    char *copy = sf_arena_alloc(a, bytes, 1);
    return copy != NULL ? memcpy(copy, s, bytes) : NULL;
}
