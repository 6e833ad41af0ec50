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
