/* Seeded, splittable random streams: the same seed and labels give the same numbers on every machine and in any order
 * of use. Counter based (splitmix64 finaliser over key and counter), so a stream is 16 bytes and a split is free. */
#ifndef SF_CORE_RNG_H
#define SF_CORE_RNG_H

#include <stdint.h>

struct sf_rng {
    uint64_t key, counter;
};

struct sf_rng sf_rng_seed(uint64_t seed);

/* An independent stream for `label`; does not advance the parent. */
struct sf_rng sf_rng_split(const struct sf_rng *parent, uint64_t label);
struct sf_rng sf_rng_split_text(const struct sf_rng *parent, const char *label);

uint64_t sf_rng_u64(struct sf_rng *r);
double sf_rng_unit(struct sf_rng *r);   /* uniform in [0, 1), 53 bits */
double sf_rng_normal(struct sf_rng *r); /* mean 0, variance 1; sum of twelve uniforms is not enough: Box-Muller */

#endif
