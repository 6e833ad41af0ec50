/* Traces: files with any content under a right digest, and files with any records. */
#include <string.h>
#include <xxhash.h>

#include "core/trace.h"
#include "tests/fuzz/fuzz.h"

static void fill(struct sf_trace *t, uint32_t recs_n) {
    sf_trace_init(t);
    t->meta = (struct sf_trace_meta){.seed = 1, .ranks = 4, .iterations = 8, .origin = "sim", .note = "fuzz"};
    for (uint32_t i = 0; i < recs_n; i++) {
        struct sf_trace_rec rec = {.rank = i % 4, .iter = i / 4 % 8, .op = i, .covers = 1, .start = i, .end = i + 1};
        sf_trace_add(t, &rec, NULL);
    }
}

bool fuzz_seed(size_t i, struct sf_buf *out) {
    static const uint32_t sizes[] = {0, 3, 100, 5000};
    struct sf_trace t;
    if (i >= sizeof sizes / sizeof *sizes) {
        return false;
    }
    fill(&t, sizes[i]);
    int rc = sf_trace_encode(&t, out, NULL);
    sf_trace_clear(&t);
    return rc == 0;
}

static void decode(const char *data, size_t bytes) {
    struct sf_trace t;
    struct sf_err err = {0};
    struct sf_buf back = {0};
    int rc = sf_trace_decode(data, bytes, "input.sftrace", &t, &err);
    fuzz_check_result(rc, &err, rc == 0);
    if (rc == 0 && sf_trace_encode(&t, &back, &err) != 0) {
        fuzz_fail("accepted, but it cannot be written: %s", err.msg);
    }
    sf_buf_free(&back);
    sf_trace_clear(&t);
}

/* The last eight bytes are the digest of those before. */
static void decode_sealed(const uint8_t *data, size_t bytes) {
    struct sf_buf copy = {0};
    sf_buf_write(&copy, data, bytes);
    uint64_t digest = XXH3_64bits(copy.data, bytes - sizeof digest);
    memcpy(copy.data + bytes - sizeof digest, &digest, sizeof digest);
    decode(copy.data, copy.bytes);
    sf_buf_free(&copy);
}

/* The input as records: what the writer accepts, the reader accepts. */
static void encode_records(const uint8_t *data, size_t bytes) {
    struct sf_trace t;
    struct sf_buf file = {0};
    struct sf_err err = {0};
    fill(&t, 2);
    for (size_t at = 0; at + sizeof *t.recs <= bytes; at += sizeof *t.recs) {
        struct sf_trace_rec rec;
        memcpy(&rec, data + at, sizeof rec);
        rec.rank %= 4;
        rec.iter %= 8;
        rec.source %= 3;
        sf_trace_add(&t, &rec, NULL);
    }
    int rc = sf_trace_encode(&t, &file, &err);
    fuzz_check_result(rc, &err, rc == 0);
    if (rc == 0) {
        decode(file.data, file.bytes);
    }
    sf_buf_free(&file);
    sf_trace_clear(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    decode((const char *)data, bytes);
    encode_records(data, bytes);
    if (bytes > sizeof(uint64_t)) {
        decode_sealed(data, bytes);
    }
    return 0;
}
