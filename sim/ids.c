#include "sim/ids.h"

#include <string.h>

#include "core/call.h"
#include "core/hash.h"

enum { FIRST_SIZE = 256 };

bool sfi_ids_init(struct sfi_ids *ids, struct sf_arena *arena) {
    *ids = (struct sfi_ids){.size = FIRST_SIZE};
    ids->slot = sf_arena_alloc(arena, ids->size, sizeof *ids->slot);
    return ids->slot != NULL;
}

void sfi_ids_reset(struct sfi_ids *ids) {
    memset(ids->slot, 0, ids->size * sizeof *ids->slot);
    ids->n = 0;
}

static struct sfi_id *find(struct sfi_id *slot, uint32_t size, uint64_t key) {
    uint32_t i = (uint32_t)key & (size - 1);
    while (slot[i].number != 0 && slot[i].key != key) {
        i = (i + 1) & (size - 1);
    }
    return &slot[i];
}

static bool grow(struct sfi_ids *ids, struct sf_arena *arena) {
    uint32_t size = ids->size * 2;
    struct sfi_id *slot = sf_arena_alloc(arena, size, sizeof *slot);
    if (!slot) {
        return false;
    }
    for (uint32_t i = 0; i < ids->size; i++) {
        if (ids->slot[i].number != 0) {
            *find(slot, size, ids->slot[i].key) = ids->slot[i];
        }
    }
    ids->slot = slot;
    ids->size = size;
    return true;
}

uint32_t sfi_ids_get(struct sfi_ids *ids, struct sf_arena *arena, uint64_t key) {
    struct sfi_id *s = find(ids->slot, ids->size, key);
    if (s->number == 0) {
        if (2 * ids->n >= ids->size) {
            if (!grow(ids, arena)) {
                return SF_NONE;
            }
            s = find(ids->slot, ids->size, key);
        }
        *s = (struct sfi_id){key, ++ids->n};
    }
    return (uint32_t)(s->number - 1);
}

uint64_t *sfi_factors(uint32_t n, struct sf_arena *arena) {
    uint64_t *factor = sf_arena_alloc(arena, n, sizeof *factor);
    for (uint32_t i = 0; factor && i < n; i++) {
        factor[i] = sf_mix64(UINT64_C(0x666163746f72), i) | 1;
    }
    return factor;
}
