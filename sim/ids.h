/* Dense numbers for 64-bit hashes, in order of first appearance. Two different keys that collide would share a number;
 * with a million keys that happens once in 40 million runs. */
#ifndef SF_SIM_IDS_H
#define SF_SIM_IDS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/arena.h"

struct sfi_id {
    uint64_t key;
    uint64_t number; /* id + 1; 0 = free */
};

struct sfi_ids {
    struct sfi_id *slot;
    uint32_t n;
    uint32_t size; /* power of two */
};

bool sfi_ids_init(struct sfi_ids *ids, struct sf_arena *arena); /* false when out of memory */
void sfi_ids_reset(struct sfi_ids *ids);
/* The number of `key`, new keys get ids->n; SF_NONE when out of memory. */
uint32_t sfi_ids_get(struct sfi_ids *ids, struct sf_arena *arena, uint64_t key);

/* Odd numbers without structure: the sum of scrambled words, each times its own factor, identifies their sequence. NULL
 * when out of memory. */
uint64_t *sfi_factors(uint32_t n, struct sf_arena *arena);

#endif
