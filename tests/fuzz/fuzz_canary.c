/* Fails for an input one bit away from its good one: a driver that does not find it finds nothing. */
#include "tests/fuzz/fuzz.h"

bool fuzz_seed(size_t i, struct sf_buf *out) {
    sf_buf_write(out, "canary", i == 0 ? 6 : 0);
    return i == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    if (bytes > 0 && data[0] == 'C') {
        fuzz_fail("the canary was found");
    }
    return 0;
}
