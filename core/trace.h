/* The trace: what happened, op by op, in the same form for simulated and for real runs, so that comparing them is a
 * join on (program hash, rank, iteration, op).
 *
 * File: header, then blocks of records (zstd, each with its XXH3 digest), then a footer with the record count and the
 * digest of everything before it. A file without its footer is refused as cut off. Little-endian, versioned. */
#ifndef SF_CORE_TRACE_H
#define SF_CORE_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "core/hash.h"
#include "core/io.h"
#include "core/units.h"

#define SF_TRACE_VERSION 1
#define SF_TRACE_MAX_RECS (UINT64_C(1) << 27) /* in a file */

/* X(NAME, "name") - where the times come from; sources are never mixed silently. */
#define SF_TIME_SOURCES(X)                                                                                             \
    X(VIRTUAL, "virtual")                                                                                              \
    X(HOST, "host")                                                                                                    \
    X(DEVICE, "device")

enum sf_time_source {
#define X(NAME, name) SF_TIME_##NAME,
    SF_TIME_SOURCES(X)
#undef X
};

struct sf_trace_rec {
    uint32_t rank, iter, op;
    uint16_t covers; /* ops op .. op+covers-1 were executed as one */
    uint8_t source;  /* enum sf_time_source */
    uint8_t stream;
    sf_time_ps issue, start, end; /* since the start of the step */
    sf_time_ps busy;              /* time its device really worked on it: CPU time of the thread, or end - start */
    uint64_t bytes;               /* moved, as executed */
};
_Static_assert(sizeof(struct sf_trace_rec) == 56, "trace records are written as they are");

struct sf_trace_meta {
    struct sf_hash prog, topo, cost; /* what the times rest on; zero where it does not apply */
    uint64_t seed;
    uint32_t ranks; /* ranks of the program */
    uint32_t iterations;
    char origin[SF_HASH_TEXT]; /* "sim", "sim-unfolded", "threads", "mpi", "cuda" */
    char note[256];            /* host, versions; never needed to read the file */
};

/* Per-rank clock: add `offset` to compare ranks; claims below `uncertainty` are unknown. */
struct sf_trace_clock {
    uint32_t rank, reserved;
    sf_time_ps offset, uncertainty;
};

struct sf_trace { /* in memory; arrays owned */
    struct sf_trace_meta meta;
    struct sf_trace_clock *clocks;
    struct sf_trace_rec *recs;
    size_t clocks_n, recs_n, recs_capacity;
};

void sf_trace_init(struct sf_trace *t);
void sf_trace_clear(struct sf_trace *t); /* frees what it owns */
int sf_trace_add(struct sf_trace *t, const struct sf_trace_rec *rec, struct sf_err *err);
int sf_trace_reserve(struct sf_trace *t, size_t recs_n, struct sf_err *err);
/* Order records by (iter, rank, op): the order in which files are written and compared. */
void sf_trace_sort(struct sf_trace *t);
int sf_trace_append(struct sf_trace *dst, const struct sf_trace *src, struct sf_err *err); /* records and clocks */

int sf_trace_encode(const struct sf_trace *t, struct sf_buf *out, struct sf_err *err);
int sf_trace_decode(const void *data, size_t bytes, const char *name, struct sf_trace *out, struct sf_err *err);
int sf_trace_write(const struct sf_io *io, const char *path, const struct sf_trace *t, struct sf_err *err);
int sf_trace_read(const struct sf_io *io, const char *path, struct sf_trace *out, struct sf_err *err);
/* One line per record, for people and diffs. */
int sf_trace_print(const struct sf_trace *t, struct sf_buf *out, struct sf_err *err);
const char *sf_time_source_name(int source);

#endif
