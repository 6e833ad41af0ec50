/* Content identity: XXH3-128 of the bytes (libxxhash). It identifies; it does not protect against forgery. */
#ifndef SF_CORE_HASH_H
#define SF_CORE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sf_hash {
    uint64_t hi, lo;
};

struct sf_hash sf_hash_bytes(const void *data, size_t bytes);
bool sf_hash_equal(struct sf_hash a, struct sf_hash b);

/* 32 hex digits and a terminator; returns `buf`. */
#define SF_HASH_TEXT 33
char *sf_hash_format(struct sf_hash h, char buf[SF_HASH_TEXT]);

/* 64-bit mix of one value into a running digest; order matters. */
static inline uint64_t sf_mix64(uint64_t digest, uint64_t value) {
    /* splitmix64's finaliser, one-to-one in each argument. */
    uint64_t x = digest + UINT64_C(0x9e3779b97f4a7c15) * value + UINT64_C(0x632be59bd9b4e019);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

#endif
