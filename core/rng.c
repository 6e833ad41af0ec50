#include "core/rng.h"

#include <math.h>
#include <string.h>
#include <xxhash.h>

#define GOLDEN UINT64_C(0x9e3779b97f4a7c15)

static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* What a key is used for goes into the mix, so that numbers drawn from a stream never equal the keys of its children.
 */
enum purpose { DRAW = 1, SEED, SPLIT, SPLIT_TEXT };

/* Two rounds with the key in both: with one round, streams whose keys differ by a multiple of GOLDEN would be shifted
 * copies of each other. */
static uint64_t keyed(uint64_t key, uint64_t value, enum purpose purpose) {
    return mix(mix(key + (value + 1) * GOLDEN) ^ (key + (uint64_t)purpose * UINT64_C(0xd1342543de82ef95)));
}

struct sf_rng sf_rng_seed(uint64_t seed) {
    return (struct sf_rng){.key = keyed(0, seed, SEED), .counter = 0};
}

struct sf_rng sf_rng_split(const struct sf_rng *parent, uint64_t label) {
    return (struct sf_rng){.key = keyed(parent->key, label, SPLIT), .counter = 0};
}

struct sf_rng sf_rng_split_text(const struct sf_rng *parent, const char *label) {
    uint64_t digest = XXH3_64bits(label, strlen(label));
    return (struct sf_rng){.key = keyed(parent->key, digest, SPLIT_TEXT), .counter = 0};
}

uint64_t sf_rng_u64(struct sf_rng *r) {
    return keyed(r->key, r->counter++, DRAW);
}

double sf_rng_unit(struct sf_rng *r) {
    return (double)(sf_rng_u64(r) >> 11) * 0x1p-53;
}

double sf_rng_normal(struct sf_rng *r) {
    double radius = sqrt(-2.0 * log(1.0 - sf_rng_unit(r))); /* 1 - u is never zero */
    return radius * cos(6.283185307179586 * sf_rng_unit(r));
}
