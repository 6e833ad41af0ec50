/* Ranks as threads: every pair and every group that communicates has a link with counters of who has come, and whoever
 * needs bytes reads them from the others' arenas once they are there. Waiting ranks sleep on a doorbell. */
#include "runtime/transport_match.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/kern.h"
#include "runtime/clock.h"

#define SPIN_NS 20000     /* below the cost of going to sleep and being woken */
#define SLEEP_NS 20000000 /* longest sleep: watchdogs look at the time after it */
#define CACHE_LINE 64

struct part {
    uint32_t rank;
    const char *x; /* what others read */
    _Atomic int64_t posted_ns;
};

/* Counters only grow: in round r a stage is over when its counter reaches r times the number of parts. */
struct link {
    _Atomic uint64_t arrived, reduced, finished;
    struct part *parts;
    uint32_t n;
};

struct endpoint {
    _Alignas(CACHE_LINE) _Atomic uint32_t bell;
    _Atomic uint32_t asleep;
    uint32_t seen;     /* bell when this rank last looked at its transfers */
    const float **src; /* room for the sources of one sum */
};

struct sfi_threads {
    struct sf_arena *arena;
    struct endpoint *endpoints;
    uint32_t ranks;
    bool spin; /* a core for each rank */
    atomic_bool failed;
    struct sf_err failure;
    uint32_t failed_rank;
    pthread_mutex_t lock; /* of everything below, and of `failure` */
    pthread_cond_t round_over;
    char *board[2]; /* exchanges alternate: a rank can be one round ahead of the slowest reader, never two */
    size_t board_bytes;
    uint64_t round;
    uint32_t there;
};

static void ring(struct sfi_threads *t, uint32_t rank) {
    struct endpoint *e = &t->endpoints[rank];
    atomic_fetch_add(&e->bell, 1);
    if (atomic_load(&e->asleep)) {
        syscall(SYS_futex, &e->bell, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }
}

/* One more part has passed a stage; the last one tells all. */
static void pass(struct sfi_threads *t, struct link *l, _Atomic uint64_t *stage, uint64_t round) {
    if (atomic_fetch_add(stage, 1) + 1 == round * l->n) {
        for (uint32_t i = 0; i < l->n; i++) {
            ring(t, l->parts[i].rank);
        }
    }
}

static int fail_stopped(struct sfi_threads *t, struct sf_err *err) {
    return sf_fail(err, SF_E_FAULT, "stopped because rank %u failed", t->failed_rank);
}

static int64_t all_there_ns(const struct link *l) {
    int64_t last = 0;
    for (uint32_t i = 0; i < l->n; i++) {
        int64_t posted = atomic_load_explicit(&l->parts[i].posted_ns, memory_order_relaxed);
        last = posted > last ? posted : last;
    }
    return last;
}

static void copy_other(char *to, const char *from, uint64_t bytes) {
    if (to != from && bytes > 0) {
        memcpy(to, from, bytes);
    }
}

/* Add all members' copies of this rank's slice, in member order. */
static void reduce_slice(struct endpoint *e, const struct sfi_xfer *x) {
    const struct link *l = x->link;
    uint64_t count = x->bytes / sizeof(float);
    uint64_t first = sfi_slice(count, x->index, x->n), end = sfi_slice(count, x->index + 1, x->n);
    for (uint32_t i = 0; i < x->n; i++) {
        e->src[i] = (const float *)l->parts[i].x + first;
    }
    float *dst = x->kind == SF_OP_ALL_REDUCE ? (float *)x->x + first : (float *)x->y;
    if (end > first) {
        sf_kern_tree_sum(dst, e->src, x->n, end - first);
    }
}

static void fetch_slices(const struct sfi_xfer *x) {
    const struct link *l = x->link;
    uint64_t count = x->bytes / sizeof(float);
    for (uint32_t i = 0; i < x->n; i++) {
        uint64_t first = sfi_slice(count, i, x->n) * sizeof(float), end = sfi_slice(count, i + 1, x->n) * sizeof(float);
        copy_other(x->x + first, l->parts[i].x + first, end - first);
    }
}

static void gather_shares(const struct sfi_xfer *x) {
    const struct link *l = x->link;
    uint64_t share = x->bytes / x->n;
    for (uint32_t i = 0; i < x->n; i++) {
        copy_other(x->y + i * share, l->parts[i].x, share);
    }
}

enum phase { ARRIVING, REDUCING, FINISHING };

static bool stage_over(_Atomic uint64_t *stage, const struct sfi_xfer *x) {
    return atomic_load_explicit(stage, memory_order_acquire) >= x->round * x->n;
}

/* The work that becomes possible when everybody has arrived. */
static void first_half(struct sfi_threads *t, uint32_t rank, struct sfi_xfer *x) {
    struct link *l = x->link;
    x->start_ns = all_there_ns(l);
    int64_t cpu = sfi_cpu_ns();
    if (x->kind == SF_OP_ALL_GATHER) {
        gather_shares(x);
    } else {
        reduce_slice(&t->endpoints[rank], x);
    }
    x->busy_ns += sfi_cpu_ns() - cpu;
    bool reduce_only = x->kind != SF_OP_ALL_REDUCE;
    x->phase = reduce_only ? FINISHING : REDUCING;
    pass(t, l, reduce_only ? &l->finished : &l->reduced, x->round);
}

static void second_half(struct sfi_threads *t, struct sfi_xfer *x) {
    struct link *l = x->link;
    int64_t cpu = sfi_cpu_ns();
    fetch_slices(x);
    x->busy_ns += sfi_cpu_ns() - cpu;
    x->phase = FINISHING;
    pass(t, l, &l->finished, x->round);
}

static enum sf_issue advance_collective(struct sfi_threads *t, uint32_t rank, struct sfi_xfer *x) {
    struct link *l = x->link;
    if (x->phase == ARRIVING && stage_over(&l->arrived, x)) {
        first_half(t, rank, x);
    }
    if (x->phase == REDUCING && stage_over(&l->reduced, x)) {
        second_half(t, x);
    }
    /* A member's buffers are its own again only when nobody reads them any more. */
    return x->phase == FINISHING && stage_over(&l->finished, x) ? SF_ISSUE_DONE : SF_ISSUE_PENDING;
}

/* The receiver copies; `finished` counts messages, not parts. */
static enum sf_issue advance_p2p(struct sfi_threads *t, struct sfi_xfer *x) {
    struct link *l = x->link;
    if (x->kind == SF_OP_SEND) {
        if (atomic_load_explicit(&l->finished, memory_order_acquire) < x->round) {
            return SF_ISSUE_PENDING;
        }
        x->start_ns = all_there_ns(l);
        return SF_ISSUE_DONE;
    }
    if (!stage_over(&l->arrived, x)) {
        return SF_ISSUE_PENDING;
    }
    x->start_ns = all_there_ns(l);
    int64_t cpu = sfi_cpu_ns();
    memcpy(x->x, l->parts[0].x, x->bytes);
    x->busy_ns = sfi_cpu_ns() - cpu;
    atomic_fetch_add(&l->finished, 1);
    ring(t, l->parts[0].rank);
    return SF_ISSUE_DONE;
}

static enum sf_issue threads_test(void *self, uint32_t rank, struct sfi_xfer *x, struct sf_err *err) {
    struct sfi_threads *t = self;
    if (atomic_load_explicit(&t->failed, memory_order_acquire)) {
        fail_stopped(t, err);
        return SF_ISSUE_FAILED;
    }
    bool p2p = x->kind == SF_OP_SEND || x->kind == SF_OP_RECV;
    return p2p ? advance_p2p(t, x) : advance_collective(t, rank, x);
}

static enum sf_issue threads_start(void *self, uint32_t rank, struct sfi_xfer *x, struct sf_err *err) {
    struct link *l = x->link;
    x->phase = ARRIVING;
    x->busy_ns = 0;
    x->round++;
    atomic_store_explicit(&l->parts[x->index].posted_ns, sfi_now_ns(), memory_order_relaxed);
    pass(self, l, &l->arrived, x->round);
    return threads_test(self, rank, x, err);
}

static void threads_abort(void *self, uint32_t rank, const struct sf_err *why) {
    struct sfi_threads *t = self;
    pthread_mutex_lock(&t->lock);
    if (!atomic_load(&t->failed)) {
        t->failure = *why;
        t->failed_rank = rank;
        atomic_store_explicit(&t->failed, true, memory_order_release);
    }
    pthread_cond_broadcast(&t->round_over);
    pthread_mutex_unlock(&t->lock);
    for (uint32_t r = 0; r < t->ranks; r++) {
        ring(t, r);
    }
}

static bool bell_rang(struct endpoint *e) {
    uint32_t bell = atomic_load(&e->bell);
    bool rang = bell != e->seen;
    e->seen = bell;
    return rang;
}

static void threads_idle(void *self, uint32_t rank) {
    struct sfi_threads *t = self;
    struct endpoint *e = &t->endpoints[rank];
    if (bell_rang(e)) {
        return; /* something happened since the last look: look again before sleeping */
    }
    for (int64_t until = t->spin ? sfi_now_ns() + SPIN_NS : 0; t->spin && sfi_now_ns() < until;) {
        if (bell_rang(e)) {
            return;
        }
    }
    struct timespec timeout = {.tv_nsec = SLEEP_NS};
    atomic_store(&e->asleep, 1);
    if (atomic_load(&e->bell) == e->seen) {
        syscall(SYS_futex, &e->bell, FUTEX_WAIT_PRIVATE, e->seen, &timeout, NULL, 0);
    }
    atomic_store(&e->asleep, 0);
    e->seen = atomic_load(&e->bell);
}

static struct timespec deadline_after(int64_t ns) {
    int64_t at = sfi_now_ns() + ns;
    return (struct timespec){.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000};
}

/* With the lock held: wait until the round is over. */
static int wait_round(struct sfi_threads *t, uint32_t rank, uint64_t round, int64_t stall_ns, struct sf_err *err) {
    struct timespec deadline = deadline_after(stall_ns);
    while (t->round == round && !atomic_load(&t->failed)) {
        int rc = stall_ns > 0 ? pthread_cond_timedwait(&t->round_over, &t->lock, &deadline)
                              : pthread_cond_wait(&t->round_over, &t->lock);
        if (rc == ETIMEDOUT && t->round == round && !atomic_load(&t->failed)) {
            return sf_fail(err, SF_E_FAULT, "rank %u waited %.3g s between steps: only %u of %u ranks came", rank,
                           (double)stall_ns * 1e-9, t->there, t->ranks);
        }
    }
    return t->round == round ? fail_stopped(t, err) : SF_OK;
}

static int threads_exchange(void *self, uint32_t rank, const void *mine, size_t bytes, int64_t stall_ns,
                            const void **all, struct sf_err *err) {
    struct sfi_threads *t = self;
    int rc = SF_OK;
    pthread_mutex_lock(&t->lock);
    uint64_t round = t->round;
    char *board = t->board[round & 1];
    memcpy(board + (size_t)rank * bytes, mine, bytes);
    if (++t->there == t->ranks) {
        t->there = 0;
        t->round++;
        pthread_cond_broadcast(&t->round_over);
    } else {
        rc = wait_round(t, rank, round, stall_ns, err);
    }
    pthread_mutex_unlock(&t->lock);
    *all = board;
    return rc;
}

/* Give the ends of a transfer one link. */
static int join(void *self, const struct sfi_end *ends, uint32_t n, struct sf_err *err) {
    struct sfi_threads *t = self;
    struct link *l = sf_arena_alloc(t->arena, 1, sizeof *l);
    struct part *parts = sf_arena_alloc(t->arena, n, sizeof *parts);
    if (!l || !parts) {
        return sf_fail_memory(err, "links between ranks");
    }
    l->n = n;
    l->parts = parts;
    for (uint32_t i = 0; i < n; i++) {
        parts[i].rank = ends[i].rank;
        parts[i].x = ends[i].x->x;
        ends[i].x->link = l;
    }
    return SF_OK;
}

static uint32_t largest_group(const struct sf_prog *prog) {
    uint32_t n = 1;
    for (uint32_t c = 0; c < prog->comms_n; c++) {
        uint32_t size = sf_prog_comm_size(prog, c);
        n = size > n ? size : n;
    }
    return n;
}

static int create_endpoints(struct sfi_threads *t, uint32_t sources, size_t exchange_bytes, struct sf_err *err) {
    t->endpoints = sf_arena_alloc(t->arena, t->ranks, sizeof *t->endpoints);
    t->board[0] = sf_arena_alloc(t->arena, t->ranks, exchange_bytes);
    t->board[1] = sf_arena_alloc(t->arena, t->ranks, exchange_bytes);
    if (!t->endpoints || !t->board[0] || !t->board[1]) {
        return sf_fail_memory(err, "transport between threads");
    }
    for (uint32_t r = 0; r < t->ranks; r++) {
        t->endpoints[r].src = sf_arena_alloc(t->arena, sources, sizeof *t->endpoints[r].src);
        if (!t->endpoints[r].src) {
            return sf_fail_memory(err, "transport between threads");
        }
    }
    return SF_OK;
}

static void init_locks(struct sfi_threads *t) {
    pthread_condattr_t attr;
    pthread_mutex_init(&t->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&t->round_over, &attr);
    pthread_condattr_destroy(&attr);
}

int sfi_threads_create(const struct sf_prog *prog, struct sfi_xfer *const xfers[], const uint32_t xfers_n[],
                       size_t exchange_bytes, struct sfi_threads **out, struct sf_err *err) {
    struct sfi_threads *t = sf_calloc(1, sizeof *t);
    if (!t) {
        return sf_fail_memory(err, "transport between threads");
    }
    init_locks(t);
    t->ranks = sf_prog_ranks(prog);
    cpu_set_t cores;
    t->spin = sched_getaffinity(0, sizeof cores, &cores) == 0 && t->ranks <= (uint32_t)CPU_COUNT(&cores);
    t->arena = sf_arena_create();
    int rc = t->arena ? SF_OK : sf_fail_memory(err, "transport between threads");
    if (rc == SF_OK) {
        rc = create_endpoints(t, largest_group(prog), exchange_bytes, err);
    }
    if (rc == SF_OK) {
        rc = sfi_match_transfers(prog, xfers, xfers_n, t->ranks, join, t, err);
    }
    if (rc != SF_OK) {
        sfi_threads_destroy(t);
        return rc;
    }
    *out = t;
    return SF_OK;
}

void sfi_threads_destroy(struct sfi_threads *t) {
    if (t) {
        pthread_cond_destroy(&t->round_over);
        pthread_mutex_destroy(&t->lock);
        sf_arena_free(t->arena);
        sf_free(t);
    }
}

struct sfi_transport sfi_threads_transport(struct sfi_threads *t) {
    return (struct sfi_transport){.self = t,
                                  .start = threads_start,
                                  .test = threads_test,
                                  .exchange = threads_exchange,
                                  .abort = threads_abort,
                                  .idle = threads_idle};
}

const struct sf_err *sfi_threads_failure(const struct sfi_threads *t) {
    return &t->failure;
}
