/* The interpreter: the one place that decides which op a rank may start. The simulator, the threads, MPI and CUDA
 * runtimes all use it; they differ in how long an op takes, never in what may follow what.
 *
 * A rank's state is one completion count per stream (streams are in order), so 220,000 ranks take a few megabytes and
 * "is this dependency done" is one comparison.
 *
 * Two ways to drive it. Event driven (simulator): sf_interp_begin on every stream to start, then for every completion
 * that the event queue delivers sf_interp_complete, and sf_interp_begin on the streams it wakes. Polling (runtimes):
 * sf_interp_run does both and calls test. */
#ifndef SF_CORE_INTERP_H
#define SF_CORE_INTERP_H

#include <assert.h>

#include "core/io.h"
#include "core/prog.h"
#include "core/trace.h"
#include "core/units.h"

struct sf_need { /* "stream has completed at least count ops" */
    uint32_t count;
    uint32_t stream;
};

/* What the interpreter precomputes per class, shared by all its ranks. */
struct sf_iclass {
    uint32_t *stream_ops[SF_MAX_STREAMS]; /* op indices in stream order */
    uint32_t stream_n[SF_MAX_STREAMS];
    uint32_t *need_first;  /* [ops_n + 1] into needs */
    struct sf_need *needs; /* the strongest need per stream and op; the op's own stream left out */
    uint32_t *position;    /* [ops_n] place on its stream */
    uint8_t *wakes;        /* [ops_n] streams on which its completion may let an op start; bit s: stream s */
    uint32_t ops_n, streams_n;
    uint32_t compute_streams; /* bit s: the stream carries kernels */
    const struct sf_class *cls;
};

int sf_iclass_create(const struct sf_prog *prog, uint32_t class_i, struct sf_arena *arena, struct sf_iclass **out,
                     struct sf_err *err);

struct sf_rank_state {
    uint32_t done[SF_MAX_STREAMS]; /* ops completed per stream */
    uint32_t busy;                 /* bit s: the op at done[s] is in flight */
    uint32_t left;                 /* ops not yet completed */
};

void sf_rank_state_start(const struct sf_iclass *c, struct sf_rank_state *st);

enum sf_issue { SF_ISSUE_PENDING, SF_ISSUE_DONE, SF_ISSUE_FAILED };

/* A backend. `rank` is whatever the driver passed (the simulator passes instances). */
struct sf_backend {
    void *self;
    /* Start an op whose turn it is. DONE: it completed already (synchronous kernels). FAILED: *err is filled. */
    enum sf_issue (*issue)(void *self, uint32_t rank, uint32_t op, struct sf_err *err);
    /* Has an op in flight completed? Same results as issue. Never called by event-driven drivers. */
    enum sf_issue (*test)(void *self, uint32_t rank, uint32_t op, struct sf_err *err);
    sf_time_ps (*now)(void *self);
    /* Unblock everything this rank waits for, so that other ranks learn of a fault instead of hanging. */
    void (*abort)(void *self, uint32_t rank, const struct sf_err *why);
    /* Nothing can start and nothing has finished: wait or yield for a moment. May be NULL (spin). */
    void (*idle)(void *self, uint32_t rank);
};

/* Fault hooks for tests and chaos runs: called before an op is issued; returning non-zero makes that op fail. */
struct sf_hooks {
    void *self;
    int (*before)(void *self, uint32_t rank, uint32_t op, struct sf_err *err);
};

/* The op whose turn it is on a stream if it may start now, else SF_NONE. */
static inline uint32_t sf_interp_startable(const struct sf_iclass *c, const struct sf_rank_state *st, uint32_t stream) {
    if (st->busy >> stream & 1 || st->done[stream] >= c->stream_n[stream]) {
        return SF_NONE;
    }
    uint32_t op = c->stream_ops[stream][st->done[stream]];
    for (uint32_t n = c->need_first[op]; n < c->need_first[op + 1]; n++) {
        if (st->done[c->needs[n].stream] < c->needs[n].count) {
            return SF_NONE;
        }
    }
    return op;
}

/* The same, and from here on that op is in flight. For drivers whose ops never complete at once: after a completion
 * they ask for the streams that it wakes. */
static inline uint32_t sf_interp_begin(const struct sf_iclass *c, struct sf_rank_state *st, uint32_t stream) {
    uint32_t op = sf_interp_startable(c, st, stream);
    st->busy |= op != SF_NONE ? 1u << stream : 0;
    return op;
}

/* Issue every op that may start now, repeatedly while ops complete at once. Returns 0, or the code of a failed op. */
int sf_interp_advance(const struct sf_iclass *c, struct sf_rank_state *st, uint32_t rank, const struct sf_backend *be,
                      const struct sf_hooks *hooks, struct sf_err *err);

/* The op in flight on `stream` has completed. */
static inline void sf_interp_complete(struct sf_rank_state *st, uint32_t stream) {
    assert(st->busy >> stream & 1);
    assert(st->left > 0);
    st->busy &= ~(1u << stream);
    st->done[stream]++;
    st->left--;
}

/* The op in flight on a stream, or SF_NONE. */
static inline uint32_t sf_interp_in_flight(const struct sf_iclass *c, const struct sf_rank_state *st, uint32_t stream) {
    return st->busy >> stream & 1 ? c->stream_ops[stream][st->done[stream]] : SF_NONE;
}

/* Run one rank through one step by polling. The watchdog: when no op completes for `stall_limit` (0 = never), the
 * backend is aborted and SF_E_FAULT names the rank and every op it is stuck in. */
struct sf_run_options {
    sf_time_ps stall_limit;
    const struct sf_hooks *hooks;
    const struct sf_prog *prog; /* for op names in messages; may be NULL */
};
int sf_interp_run(const struct sf_iclass *c, uint32_t rank, const struct sf_backend *be,
                  const struct sf_run_options *options, struct sf_err *err);

#endif
