/* Programs in binary form: what is accepted is written back byte by byte, and runs through the other readers. */
#include <string.h>

#include "core/arena.h"
#include "core/prog.h"
#include "tests/fuzz/fuzz.h"

#define HEADER_BYTES 40 /* magic, version, zero, payload bytes, digest */

bool fuzz_seed(size_t i, struct sf_buf *out) {
    return i == 0 && sf_prog_encode(fuzz_program(), out, NULL) == 0;
}

static void decode(const char *data, size_t bytes) {
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    struct sf_buf back = {0};
    int rc = sf_prog_decode(data, bytes, "input.sfprog", &prog, &err);
    fuzz_check_result(rc, &err, prog != NULL);
    if (rc == 0) {
        rc = sf_prog_encode(prog, &back, &err);
        if (rc != 0 || back.bytes != bytes || memcmp(back.data, data, bytes) != 0) {
            fuzz_fail("accepted, but written back it is another file");
        }
    }
    sf_buf_free(&back);
    sf_prog_free(prog);
}

/* With the right length and digest in its header, or no change would ever get beyond it. */
static void decode_sealed(const uint8_t *data, size_t bytes) {
    struct sf_buf copy = {0};
    sf_buf_write(&copy, data, bytes);
    uint64_t payload = bytes - HEADER_BYTES;
    struct sf_hash digest = sf_hash_bytes(copy.data + HEADER_BYTES, payload);
    memcpy(copy.data + 16, &payload, sizeof payload);
    memcpy(copy.data + 24, &digest.hi, sizeof digest.hi);
    memcpy(copy.data + 32, &digest.lo, sizeof digest.lo);
    decode(copy.data, copy.bytes);
    sf_buf_free(&copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    decode((const char *)data, bytes);
    if (bytes > HEADER_BYTES) {
        decode_sealed(data, bytes);
    }
    return 0;
}
