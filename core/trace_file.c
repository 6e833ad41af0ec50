/* The trace file, see trace.h. Layout:
 *   magic[8] version:u32 meta clocks_n:u32 clocks[clocks_n]
 *   blocks: records:u32 packed_bytes:u32 XXH3-64 of the packed bytes:u64 packed[packed_bytes]
 *   footer: magic[8] records:u64 XXH3-64 of everything before this digest:u64 */
#include <string.h>
#include <xxhash.h>
#include <zstd.h>

#include "core/codec.h"
#include "core/trace.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "records are stored as they are in memory");
_Static_assert(sizeof(struct sf_trace_clock) == 24, "clocks are stored as they are in memory");

#define BLOCK_RECS 4096u
#define ZSTD_LEVEL 3
#define FOOTER_BYTES ((size_t)24)
#define MAX_RANKS (1u << 24)
#define MAX_FILE_BYTES ((size_t)4 << 30)

static const char header_magic[8] = "SFTRACE";
static const char footer_magic[8] = "SFTREND";

static void visit_meta(struct sfi_codec *c, struct sf_trace_meta *m) {
    sfi_code_hash(c, &m->prog);
    sfi_code_hash(c, &m->topo);
    sfi_code_hash(c, &m->cost);
    sfi_code_u64(c, &m->seed);
    sfi_code_u32(c, &m->ranks);
    sfi_code_u32(c, &m->iterations);
    sfi_code_text(c, m->origin, sizeof m->origin);
    sfi_code_text(c, m->note, sizeof m->note);
}

static int check_meta(struct sfi_codec *c, const struct sf_trace_meta *m) {
    if (c->rc == 0 && m->ranks > MAX_RANKS) {
        sfi_codec_fail(c, "trace of %u ranks, expected at most %u", m->ranks, MAX_RANKS);
    }
    return c->rc;
}

static int check_clock(struct sfi_codec *c, const struct sf_trace_meta *m, const struct sf_trace_clock *k) {
    if (k->rank >= m->ranks || k->reserved != 0 || k->uncertainty < 0) {
        return sfi_codec_fail(c, "clock of rank %u is out of range (the trace has %u ranks)", k->rank, m->ranks);
    }
    return 0;
}

static int check_rec(struct sfi_codec *c, const struct sf_trace_meta *m, const struct sf_trace_rec *r) {
    if (r->rank >= m->ranks || r->iter >= m->iterations) {
        return sfi_codec_fail(c, "record of rank %u, iteration %u: the trace has %u ranks and %u iterations", r->rank,
                              r->iter, m->ranks, m->iterations);
    }
    if (r->covers == 0 || r->source > SF_TIME_DEVICE || r->end < r->start || r->busy < 0) {
        return sfi_codec_fail(c,
                              "record of rank %u op %u is not sound: covers %u, time source %u, from %lld to %lld ps",
                              r->rank, r->op, r->covers, r->source, (long long)r->start, (long long)r->end);
    }
    return 0;
}

/* ---- writing ---- */

static int encode_header(struct sfi_codec *c, const struct sf_trace *t) {
    struct sf_trace_meta meta = t->meta;
    uint32_t version = SF_TRACE_VERSION, clocks_n = (uint32_t)t->clocks_n;
    if (t->clocks_n > MAX_RANKS || t->recs_n > SF_TRACE_MAX_RECS) {
        return sfi_codec_fail(c, "trace is too large for a file: %zu records, expected at most %llu", t->recs_n,
                              (unsigned long long)SF_TRACE_MAX_RECS);
    }
    c->sink(c->self, header_magic, sizeof header_magic);
    sfi_code_u32(c, &version);
    visit_meta(c, &meta);
    check_meta(c, &meta);
    sfi_code_u32(c, &clocks_n);
    for (size_t i = 0; i < t->clocks_n; i++) {
        SF_TRY(check_clock(c, &t->meta, &t->clocks[i]));
        c->sink(c->self, &t->clocks[i], sizeof t->clocks[i]);
    }
    return c->rc;
}

static int encode_block(struct sfi_codec *c, const struct sf_trace_rec *recs, uint32_t n, void *packed, size_t room) {
    size_t bytes = ZSTD_compress(packed, room, recs, n * sizeof *recs, ZSTD_LEVEL);
    if (ZSTD_isError(bytes)) {
        return sf_fail(c->err, SF_E_INTERNAL, "cannot compress trace records: %s", ZSTD_getErrorName(bytes));
    }
    uint32_t packed_bytes = (uint32_t)bytes;
    uint64_t digest = XXH3_64bits(packed, bytes);
    sfi_code_u32(c, &n);
    sfi_code_u32(c, &packed_bytes);
    sfi_code_u64(c, &digest);
    c->sink(c->self, packed, bytes);
    return c->rc;
}

static int encode_blocks(struct sfi_codec *c, const struct sf_trace *t) {
    size_t room = ZSTD_compressBound(BLOCK_RECS * sizeof *t->recs);
    void *packed = sf_malloc(room);
    if (packed == NULL) {
        return sf_fail_memory(c->err, "compressing a trace");
    }
    int rc = 0;
    for (size_t at = 0; at < t->recs_n && rc == 0;) {
        size_t left = t->recs_n - at;
        uint32_t n = left < BLOCK_RECS ? (uint32_t)left : BLOCK_RECS;
        for (uint32_t i = 0; i < n && rc == 0; i++) {
            rc = check_rec(c, &t->meta, &t->recs[at + i]);
        }
        if (rc == 0) {
            rc = encode_block(c, t->recs + at, n, packed, room);
        }
        at += n;
    }
    sf_free(packed);
    return rc;
}

static int encode_sorted(const struct sf_trace *t, struct sf_buf *out, struct sf_err *err) {
    struct sfi_codec c = {.sink = sfi_sink_buf, .self = out, .err = err};
    size_t start = out->bytes;
    SF_TRY(encode_header(&c, t));
    SF_TRY(encode_blocks(&c, t));
    uint64_t recs_n = t->recs_n;
    c.sink(c.self, footer_magic, sizeof footer_magic);
    sfi_code_u64(&c, &recs_n);
    if (out->failed) {
        return sf_fail_memory(err, "an encoded trace");
    }
    uint64_t digest = XXH3_64bits(out->data + start, out->bytes - start);
    sfi_code_u64(&c, &digest);
    return out->failed ? sf_fail_memory(err, "an encoded trace") : 0;
}

int sf_trace_encode(const struct sf_trace *t, struct sf_buf *out, struct sf_err *err) {
    struct sf_trace sorted = *t;
    sorted.recs = sf_malloc(t->recs_n * sizeof *t->recs);
    if (sorted.recs == NULL) {
        return sf_fail_memory(err, "sorting a trace");
    }
    if (t->recs_n > 0) {
        memcpy(sorted.recs, t->recs, t->recs_n * sizeof *t->recs);
    }
    sf_trace_sort(&sorted);
    int rc = encode_sorted(&sorted, out, err);
    sf_free(sorted.recs);
    return rc;
}

int sf_trace_write(const struct sf_io *io, const char *path, const struct sf_trace *t, struct sf_err *err) {
    struct sf_buf b = {0};
    int rc = sf_trace_encode(t, &b, err);
    if (rc == 0) {
        rc = io->write_all(io->self, path, b.data, b.bytes, err);
    }
    sf_buf_free(&b);
    return rc;
}

/* ---- reading ---- */

/* The footer first: it proves that the file is whole before anything in it is believed. */
static int decode_footer(struct sfi_codec *c, uint64_t *recs_n) {
    char magic[8];
    uint64_t digest = 0;
    size_t whole = c->bytes;
    if (whole < sizeof header_magic || memcmp(c->data, header_magic, sizeof header_magic) != 0) {
        return sfi_codec_fail(c, "expected a trace file, found something else");
    }
    c->at = whole < FOOTER_BYTES ? 0 : whole - FOOTER_BYTES;
    sfi_code_raw(c, magic, sizeof magic);
    sfi_code_u64(c, recs_n);
    sfi_code_u64(c, &digest);
    if (c->rc != 0 || memcmp(magic, footer_magic, sizeof magic) != 0) {
        c->rc = 0;
        c->at = whole;
        return sfi_codec_fail(c,
                              "the trace file ends without its footer: it was cut off while being written or copied");
    }
    c->at = whole - sizeof digest;
    if (digest != XXH3_64bits(c->data, whole - sizeof digest)) {
        return sfi_codec_fail(c, "the trace file is damaged: its digest does not match its content");
    }
    c->at = sizeof header_magic;
    c->bytes = whole - FOOTER_BYTES;
    return 0;
}

static int decode_clocks(struct sfi_codec *c, struct sf_trace *t) {
    uint32_t n = 0;
    sfi_code_count(c, &n, MAX_RANKS, sizeof *t->clocks, "clocks");
    if (c->rc != 0 || n == 0) {
        return c->rc;
    }
    t->clocks = sf_calloc(n, sizeof *t->clocks);
    if (t->clocks == NULL) {
        return sf_fail_memory(c->err, "trace clocks");
    }
    t->clocks_n = n;
    sfi_code_raw(c, t->clocks, n * sizeof *t->clocks);
    for (uint32_t i = 0; i < n && c->rc == 0; i++) {
        check_clock(c, &t->meta, &t->clocks[i]);
    }
    return c->rc;
}

static int decode_header(struct sfi_codec *c, struct sf_trace *t) {
    uint32_t version = 0;
    sfi_code_u32(c, &version);
    if (c->rc == 0 && version != SF_TRACE_VERSION) {
        return sfi_codec_fail(c, "trace version %u, expected %d: write it again with this release", version,
                              SF_TRACE_VERSION);
    }
    visit_meta(c, &t->meta);
    SF_TRY(check_meta(c, &t->meta));
    return decode_clocks(c, t);
}

static int unpack_block(struct sfi_codec *c, struct sf_trace *t, uint32_t n, uint32_t packed_bytes) {
    const void *packed = c->data + c->at;
    size_t expected = n * sizeof *t->recs;
    if (ZSTD_getFrameContentSize(packed, packed_bytes) != expected) {
        return sfi_codec_fail(c, "the block does not hold the %u records it announces", n);
    }
    if (t->recs_n + n > t->recs_capacity) {
        SF_TRY(sf_trace_reserve(t, t->recs_n + n + t->recs_n / 2, c->err));
    }
    struct sf_trace_rec *recs = t->recs + t->recs_n;
    size_t bytes = ZSTD_decompress(recs, expected, packed, packed_bytes);
    if (bytes != expected) {
        return sfi_codec_fail(c, "the block cannot be unpacked: %s",
                              ZSTD_isError(bytes) ? ZSTD_getErrorName(bytes) : "wrong size");
    }
    for (uint32_t i = 0; i < n; i++) {
        SF_TRY(check_rec(c, &t->meta, &recs[i]));
    }
    t->recs_n += n;
    c->at += packed_bytes;
    return 0;
}

static int decode_block(struct sfi_codec *c, struct sf_trace *t) {
    uint32_t n = 0, packed_bytes = 0;
    uint64_t digest = 0;
    sfi_code_u32(c, &n);
    sfi_code_u32(c, &packed_bytes);
    sfi_code_u64(c, &digest);
    if (c->rc != 0) {
        return c->rc;
    }
    if (n == 0 || n > BLOCK_RECS || packed_bytes > c->bytes - c->at || t->recs_n + n > SF_TRACE_MAX_RECS) {
        return sfi_codec_fail(c, "a block of %u records in %u bytes, expected at most %u records and %zu bytes", n,
                              packed_bytes, BLOCK_RECS, c->bytes - c->at);
    }
    if (digest != XXH3_64bits(c->data + c->at, packed_bytes)) {
        return sfi_codec_fail(c, "the block is damaged: its digest does not match its content");
    }
    return unpack_block(c, t, n, packed_bytes);
}

static int decode(struct sfi_codec *c, struct sf_trace *t) {
    uint64_t recs_n = 0;
    SF_TRY(decode_footer(c, &recs_n));
    SF_TRY(decode_header(c, t));
    while (c->at < c->bytes) {
        SF_TRY(decode_block(c, t));
    }
    if (t->recs_n != recs_n) {
        return sfi_codec_fail(c, "the footer announces %llu records, found %zu", (unsigned long long)recs_n, t->recs_n);
    }
    return 0;
}

int sf_trace_decode(const void *data, size_t bytes, const char *name, struct sf_trace *out, struct sf_err *err) {
    struct sfi_codec c = {.data = data, .bytes = bytes, .name = name, .err = err};
    sf_trace_init(out);
    int rc = decode(&c, out);
    if (rc != 0) {
        sf_trace_clear(out);
    }
    return rc;
}

int sf_trace_read(const struct sf_io *io, const char *path, struct sf_trace *out, struct sf_err *err) {
    char *data = NULL;
    size_t bytes = 0;
    sf_trace_init(out);
    SF_TRY(io->read_all(io->self, path, MAX_FILE_BYTES, &data, &bytes, err));
    int rc = sf_trace_decode(data, bytes, path, out, err);
    sf_free(data);
    return rc;
}
