#include "core/hash.h"

#include <stdio.h>
#include <xxhash.h>

struct sf_hash sf_hash_bytes(const void *data, size_t bytes) {
    XXH128_hash_t h = XXH3_128bits(data, bytes);
    return (struct sf_hash){.hi = h.high64, .lo = h.low64};
}

bool sf_hash_equal(struct sf_hash a, struct sf_hash b) {
    return a.hi == b.hi && a.lo == b.lo;
}

char *sf_hash_format(struct sf_hash h, char buf[SF_HASH_TEXT]) {
    snprintf(buf, SF_HASH_TEXT, "%016llx%016llx", (unsigned long long)h.hi, (unsigned long long)h.lo);
    return buf;
}

uint64_t sf_mix64(uint64_t digest, uint64_t value) {
    /* splitmix64's finaliser, one-to-one in each argument. */
    uint64_t x = digest + UINT64_C(0x9e3779b97f4a7c15) * value + UINT64_C(0x632be59bd9b4e019);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}
