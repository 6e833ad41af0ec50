/* Ranks as MPI processes. Everything is non-blocking and polled; waiting ranks give their core away, because there may
 * be more ranks than cores. */
#include "runtime/transport.h"

#include <limits.h>
#include <mpi.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "kernels/kern.h"
#include "runtime/clock.h"

#define EMPTY_POLL_NS 1000 /* a test that found nothing to move takes less */
#define YIELDS 16          /* before a waiting rank sleeps */
#define SLEEP_MIN_NS 10000
#define SLEEP_MAX_NS 100000
#define CHUNK_BYTES (1u << 30) /* counts are ints */
#define CLOCK_ROUNDS 32

/* What is in flight on one stream. */
struct slot {
    MPI_Request *requests;
    int requests_n;
    char *scratch; /* others' slices of a reduction, in member order without the own one */
};

struct sfi_mpi {
    struct sf_arena *arena;
    MPI_Comm comm;
    uint32_t rank, ranks;
    struct slot slots[SF_MAX_STREAMS];
    const float **src;
    char *board;
    int64_t waiting_since_ns; /* 0: not waiting */
    uint32_t idle_n;
    int64_t clock_offset_ns, clock_uncertainty_ns;
};

static int fail_mpi(int code, const char *what, struct sf_err *err) {
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    MPI_Error_string(code, text, &length);
    return sf_fail(err, SF_E_FAULT, "MPI could not %s: %.*s", what, length, text);
}

#define MPI_TRY(call, what)                                                                                            \
    do {                                                                                                               \
        int mpi_try_code_ = (call);                                                                                    \
        if (mpi_try_code_ != MPI_SUCCESS) {                                                                            \
            return fail_mpi(mpi_try_code_, what, err);                                                                 \
        }                                                                                                              \
    } while (0)

/* Both sides number their transfers in program order, so a tag names one transfer of a pair and step. */
static int tag_of(const struct sfi_xfer *x) {
    bool collective = sf_op_group(x->kind) == SF_OP_IS_COLL;
    return (int)((x->seq << 6 | x->comm << 1 | (collective ? 1u : 0u)) & INT_MAX);
}

static int post_send(struct sfi_mpi *m, const struct sfi_xfer *x, const char *data, uint64_t bytes, uint32_t to,
                     struct sf_err *err) {
    struct slot *s = &m->slots[x->stream];
    MPI_TRY(MPI_Isend(data, (int)bytes, MPI_BYTE, (int)to, tag_of(x), m->comm, &s->requests[s->requests_n++]), "send");
    return SF_OK;
}

static int post_recv(struct sfi_mpi *m, const struct sfi_xfer *x, char *data, uint64_t bytes, uint32_t from,
                     struct sf_err *err) {
    struct slot *s = &m->slots[x->stream];
    MPI_TRY(MPI_Irecv(data, (int)bytes, MPI_BYTE, (int)from, tag_of(x), m->comm, &s->requests[s->requests_n++]),
            "receive");
    return SF_OK;
}

struct range {
    uint64_t first, bytes; /* in bytes of argument 0 */
};

static struct range slice_of(const struct sfi_xfer *x, uint32_t i) {
    uint64_t count = x->bytes / sizeof(float), first = sfi_slice(count, i, x->n);
    return (struct range){first * sizeof(float), (sfi_slice(count, i + 1, x->n) - first) * sizeof(float)};
}

/* Everybody's copy of the own slice comes here; the own copies of others' slices go there. */
static int post_reduce(struct sfi_mpi *m, const struct sfi_xfer *x, struct sf_err *err) {
    struct range own = slice_of(x, x->index);
    char *scratch = m->slots[x->stream].scratch;
    for (uint32_t i = 0; i < x->n; i++) {
        if (i != x->index) {
            SF_TRY(post_recv(m, x, scratch, own.bytes, x->members[i], err));
            scratch += own.bytes;
        }
    }
    for (uint32_t i = 0; i < x->n; i++) {
        struct range other = slice_of(x, i);
        if (i != x->index) {
            SF_TRY(post_send(m, x, x->x + other.first, other.bytes, x->members[i], err));
        }
    }
    return SF_OK;
}

static void add_slices(struct sfi_mpi *m, const struct sfi_xfer *x) {
    struct range own = slice_of(x, x->index);
    const char *scratch = m->slots[x->stream].scratch;
    for (uint32_t i = 0; i < x->n; i++) {
        m->src[i] = (const float *)(i == x->index ? x->x + own.first : scratch);
        scratch += i == x->index ? 0 : own.bytes;
    }
    if (own.bytes > 0) {
        char *dst = x->kind == SF_OP_ALL_REDUCE ? x->x + own.first : x->y;
        sf_kern_tree_sum((float *)dst, m->src, x->n, own.bytes / sizeof(float));
    }
}

static int post_slices(struct sfi_mpi *m, const struct sfi_xfer *x, struct sf_err *err) {
    struct range own = slice_of(x, x->index);
    for (uint32_t i = 0; i < x->n; i++) {
        struct range other = slice_of(x, i);
        if (i != x->index) {
            SF_TRY(post_recv(m, x, x->x + other.first, other.bytes, x->members[i], err));
            SF_TRY(post_send(m, x, x->x + own.first, own.bytes, x->members[i], err));
        }
    }
    return SF_OK;
}

static int post_shares(struct sfi_mpi *m, const struct sfi_xfer *x, struct sf_err *err) {
    uint64_t share = x->bytes / x->n;
    for (uint32_t i = 0; i < x->n; i++) {
        char *place = x->y + i * share;
        if (i != x->index) {
            SF_TRY(post_recv(m, x, place, share, x->members[i], err));
            SF_TRY(post_send(m, x, x->x, share, x->members[i], err));
        } else if (place != x->x) {
            memcpy(place, x->x, share);
        }
    }
    return SF_OK;
}

static int post(struct sfi_mpi *m, const struct sfi_xfer *x, struct sf_err *err) {
    switch (x->kind) {
    case SF_OP_SEND:
        return post_send(m, x, x->x, x->bytes, x->peer, err);
    case SF_OP_RECV:
        return post_recv(m, x, x->x, x->bytes, x->peer, err);
    case SF_OP_ALL_GATHER:
        return post_shares(m, x, err);
    default:
        return post_reduce(m, x, err);
    }
}

/* What an all-reduce or reduce-scatter does once all slices are here; *done when nothing is left to do. */
static int go_on(struct sfi_mpi *m, struct sfi_xfer *x, bool *done, struct sf_err *err) {
    bool reducing = (x->kind == SF_OP_ALL_REDUCE || x->kind == SF_OP_REDUCE_SCATTER) && x->phase == 0;
    *done = true;
    if (reducing) {
        add_slices(m, x);
        x->phase = 1;
        if (x->kind == SF_OP_ALL_REDUCE && x->n > 1) {
            *done = false;
            return post_slices(m, x, err);
        }
    }
    return SF_OK;
}

static enum sf_issue poll(struct sfi_mpi *m, struct sfi_xfer *x, struct sf_err *err) {
    struct slot *s = &m->slots[x->stream];
    int all = 0;
    int rc = MPI_Testall(s->requests_n, s->requests, &all, MPI_STATUSES_IGNORE);
    if (rc != MPI_SUCCESS) {
        fail_mpi(rc, "complete a transfer", err);
        return SF_ISSUE_FAILED;
    }
    if (!all) {
        return SF_ISSUE_PENDING;
    }
    bool done;
    m->waiting_since_ns = 0;
    s->requests_n = 0;
    if (go_on(m, x, &done, err) != SF_OK) {
        return SF_ISSUE_FAILED;
    }
    return done ? SF_ISSUE_DONE : SF_ISSUE_PENDING;
}

static enum sf_issue mpi_start(void *self, uint32_t rank, struct sfi_xfer *x, struct sf_err *err) {
    (void)rank;
    struct sfi_mpi *m = self;
    x->phase = 0;
    x->round++;
    x->start_ns = sfi_now_ns();
    int64_t cpu = sfi_cpu_ns();
    enum sf_issue state = post(m, x, err) == SF_OK ? poll(m, x, err) : SF_ISSUE_FAILED;
    x->busy_ns = sfi_cpu_ns() - cpu;
    return state;
}

static enum sf_issue mpi_test(void *self, uint32_t rank, struct sfi_xfer *x, struct sf_err *err) {
    (void)rank;
    uint32_t phase = x->phase;
    int64_t cpu = sfi_cpu_ns();
    enum sf_issue state = poll(self, x, err);
    int64_t took = sfi_cpu_ns() - cpu;
    if (state != SF_ISSUE_PENDING || x->phase != phase || took > EMPTY_POLL_NS) {
        x->busy_ns += took; /* looking in vain is waiting, not work */
    }
    return state;
}

static void wait_a_moment(struct sfi_mpi *m) {
    int64_t now = sfi_now_ns();
    if (m->waiting_since_ns == 0) {
        m->waiting_since_ns = now;
        m->idle_n = 0;
    }
    if (m->idle_n++ < YIELDS) {
        sched_yield();
        return;
    }
    int64_t sleep = (now - m->waiting_since_ns) / 16;
    sleep = sleep < SLEEP_MIN_NS ? SLEEP_MIN_NS : sleep > SLEEP_MAX_NS ? SLEEP_MAX_NS : sleep;
    const struct timespec time = {.tv_nsec = sleep};
    nanosleep(&time, NULL);
}

static void mpi_idle(void *self, uint32_t rank) {
    (void)rank;
    wait_a_moment(self);
}

static void mpi_abort(void *self, uint32_t rank, const struct sf_err *why) {
    (void)rank;
    struct sfi_mpi *m = self;
    sf_err_print(why);
    MPI_Abort(m->comm, SF_E_FAULT);
    _exit(SF_E_FAULT);
}

static int mpi_exchange(void *self, uint32_t rank, const void *mine, size_t bytes, int64_t stall_ns, const void **all,
                        struct sf_err *err) {
    struct sfi_mpi *m = self;
    MPI_Request request;
    int done = 0;
    int64_t begin = sfi_now_ns();
    MPI_TRY(MPI_Iallgather(mine, (int)bytes, MPI_BYTE, m->board, (int)bytes, MPI_BYTE, m->comm, &request), "exchange");
    m->waiting_since_ns = 0;
    for (;;) {
        MPI_TRY(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "exchange");
        if (done) {
            break;
        }
        if (stall_ns > 0 && sfi_now_ns() - begin > stall_ns) {
            return sf_fail(err, SF_E_FAULT, "rank %u waited %.3g s between steps for the other ranks", rank,
                           (double)stall_ns * 1e-9);
        }
        wait_a_moment(m);
    }
    m->waiting_since_ns = 0;
    *all = m->board;
    return SF_OK;
}

struct sfi_transport sfi_mpi_transport(struct sfi_mpi *m) {
    return (struct sfi_transport){.self = m,
                                  .start = mpi_start,
                                  .test = mpi_test,
                                  .exchange = mpi_exchange,
                                  .abort = mpi_abort,
                                  .idle = mpi_idle};
}

void sfi_mpi_clock(const struct sfi_mpi *m, int64_t *offset_ns, int64_t *uncertainty_ns) {
    *offset_ns = m->clock_offset_ns;
    *uncertainty_ns = m->clock_uncertainty_ns;
}

/* Rank 0 answers with its time; the shortest round trip says most. */
static int measure_offset(struct sfi_mpi *m, struct sf_err *err) {
    int64_t best = INT64_MAX, offset = 0, remote = 0;
    for (int i = 0; i < CLOCK_ROUNDS; i++) {
        int64_t sent = sfi_now_ns();
        MPI_TRY(MPI_Send(&sent, 1, MPI_INT64_T, 0, 0, m->comm), "compare clocks");
        MPI_TRY(MPI_Recv(&remote, 1, MPI_INT64_T, 0, 0, m->comm, MPI_STATUS_IGNORE), "compare clocks");
        int64_t back = sfi_now_ns();
        if (back - sent < best) {
            best = back - sent;
            offset = sent + (back - sent) / 2 - remote;
        }
    }
    m->clock_offset_ns = offset;
    m->clock_uncertainty_ns = best / 2;
    return SF_OK;
}

static int answer_offsets(struct sfi_mpi *m, struct sf_err *err) {
    for (int rank = 1; rank < (int)m->ranks; rank++) {
        for (int i = 0; i < CLOCK_ROUNDS; i++) {
            int64_t theirs;
            MPI_TRY(MPI_Recv(&theirs, 1, MPI_INT64_T, rank, 0, m->comm, MPI_STATUS_IGNORE), "compare clocks");
            int64_t now = sfi_now_ns();
            MPI_TRY(MPI_Send(&now, 1, MPI_INT64_T, rank, 0, m->comm), "compare clocks");
        }
    }
    return SF_OK;
}

/* On one machine all processes read one clock. */
static int compare_clocks(struct sfi_mpi *m, struct sf_err *err) {
    MPI_Comm node;
    int local = 0, smallest = 0;
    MPI_TRY(MPI_Comm_split_type(m->comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node), "find this machine's ranks");
    MPI_TRY(MPI_Comm_size(node, &local), "find this machine's ranks");
    MPI_TRY(MPI_Comm_free(&node), "find this machine's ranks");
    MPI_TRY(MPI_Allreduce(&local, &smallest, 1, MPI_INT, MPI_MIN, m->comm), "find this machine's ranks");
    if (smallest == (int)m->ranks) {
        return SF_OK;
    }
    return m->rank == 0 ? answer_offsets(m, err) : measure_offset(m, err);
}

static int check_limits(const struct sfi_mpi *m, const struct sfi_xfer *x, struct sf_err *err) {
    void *bound = NULL;
    int found = 0;
    MPI_TRY(MPI_Comm_get_attr(m->comm, MPI_TAG_UB, &bound, &found), "tell its largest tag");
    bool collective = sf_op_group(x->kind) == SF_OP_IS_COLL;
    if ((collective ? x->bytes / x->n : x->bytes) > CHUNK_BYTES) {
        return sf_fail(err, SF_E_INPUT, "a %s of %llu bytes is too large for one MPI message of %u bytes",
                       sf_op_name(x->kind), (unsigned long long)x->bytes, CHUNK_BYTES);
    }
    if (!found || tag_of(x) > *(int *)bound) {
        return sf_fail(err, SF_E_INPUT, "this MPI has too few tags for %u transfers per step", x->seq);
    }
    return SF_OK;
}

static int create_slots(struct sfi_mpi *m, const struct sfi_xfer *xfers, uint32_t xfers_n, struct sf_err *err) {
    size_t requests[SF_MAX_STREAMS] = {0}, scratch[SF_MAX_STREAMS] = {0}, sources = 1;
    for (uint32_t i = 0; i < xfers_n; i++) {
        const struct sfi_xfer *x = &xfers[i];
        if (x->n == 0) {
            continue; /* not a transfer */
        }
        SF_TRY(check_limits(m, x, err));
        size_t slice = slice_of(x, x->index < x->n ? x->index : 0).bytes;
        size_t want = 2 * (size_t)x->n, room = slice * x->n;
        requests[x->stream] = want > requests[x->stream] ? want : requests[x->stream];
        sources = x->n > sources ? x->n : sources;
        bool reduces = x->kind == SF_OP_ALL_REDUCE || x->kind == SF_OP_REDUCE_SCATTER;
        scratch[x->stream] = reduces && room > scratch[x->stream] ? room : scratch[x->stream];
    }
    m->src = sf_arena_alloc(m->arena, sources, sizeof *m->src);
    for (int s = 0; s < SF_MAX_STREAMS; s++) {
        m->slots[s].requests = sf_arena_alloc(m->arena, requests[s], sizeof(MPI_Request));
        m->slots[s].scratch = sf_arena_alloc(m->arena, scratch[s], 1);
        if (!m->src || !m->slots[s].requests || !m->slots[s].scratch) {
            return sf_fail_memory(err, "MPI transport");
        }
    }
    return SF_OK;
}

int sfi_mpi_create(const struct sf_prog *prog, uint32_t rank, struct sfi_xfer *xfers, uint32_t xfers_n,
                   size_t exchange_bytes, struct sfi_mpi **out, struct sf_err *err) {
    struct sf_arena *arena = sf_arena_create();
    struct sfi_mpi *m = arena ? sf_arena_alloc(arena, 1, sizeof *m) : NULL;
    if (!m) {
        sf_arena_free(arena);
        return sf_fail_memory(err, "MPI transport");
    }
    m->arena = arena;
    m->rank = rank;
    m->ranks = sf_prog_ranks(prog);
    m->comm = MPI_COMM_WORLD;
    m->board = sf_arena_alloc(arena, m->ranks, exchange_bytes);
    int rc = m->board ? create_slots(m, xfers, xfers_n, err) : sf_fail_memory(err, "MPI transport");
    if (rc != SF_OK) {
        sfi_mpi_destroy(m);
        return rc;
    }
    *out = m;
    return SF_OK;
}

/* Collective: a communicator of our own, so that errors come back and tags are ours. */
int sfi_mpi_connect(struct sfi_mpi *m, struct sf_err *err) {
    prctl(PR_SET_TIMERSLACK, 1000UL); /* short sleeps should be short */
    MPI_TRY(MPI_Comm_dup(MPI_COMM_WORLD, &m->comm), "make a communicator");
    MPI_TRY(MPI_Comm_set_errhandler(m->comm, MPI_ERRORS_RETURN), "make a communicator");
    return compare_clocks(m, err);
}

void sfi_mpi_destroy(struct sfi_mpi *m) {
    if (m) {
        if (m->comm != MPI_COMM_WORLD) {
            MPI_Comm_free(&m->comm);
        }
        sf_arena_free(m->arena); /* the transport itself lives in it */
    }
}

static int give(struct sfi_mpi *m, const char *data, uint64_t bytes, struct sf_err *err) {
    MPI_TRY(MPI_Send(&bytes, 1, MPI_UINT64_T, 0, 0, m->comm), "send results");
    for (uint64_t at = 0; at < bytes; at += CHUNK_BYTES) {
        uint64_t n = bytes - at < CHUNK_BYTES ? bytes - at : CHUNK_BYTES;
        MPI_TRY(MPI_Send(data + at, (int)n, MPI_BYTE, 0, 0, m->comm), "send results");
    }
    return SF_OK;
}

static int receive(struct sfi_mpi *m, uint32_t rank, char **out, uint64_t *bytes, struct sf_err *err) {
    MPI_TRY(MPI_Recv(bytes, 1, MPI_UINT64_T, (int)rank, 0, m->comm, MPI_STATUS_IGNORE), "receive results");
    *out = sf_malloc(*bytes);
    if (!*out) {
        return sf_fail_memory(err, "results of a rank");
    }
    for (uint64_t at = 0; at < *bytes; at += CHUNK_BYTES) {
        uint64_t n = *bytes - at < CHUNK_BYTES ? *bytes - at : CHUNK_BYTES;
        MPI_TRY(MPI_Recv(*out + at, (int)n, MPI_BYTE, (int)rank, 0, m->comm, MPI_STATUS_IGNORE), "receive results");
    }
    return SF_OK;
}

int sfi_mpi_gather(struct sfi_mpi *m, const void *mine, uint64_t bytes,
                   int (*take)(void *self, uint32_t rank, const void *data, uint64_t bytes, struct sf_err *err),
                   void *self, struct sf_err *err) {
    if (m->rank != 0) {
        return give(m, mine, bytes, err);
    }
    int taken = take(self, 0, mine, bytes, err);
    for (uint32_t rank = 1; rank < m->ranks; rank++) {
        char *data = NULL;
        uint64_t data_bytes = 0;
        int rc = receive(m, rank, &data, &data_bytes, err); /* also after a failure: senders wait for it */
        if (rc == SF_OK && taken == SF_OK) {
            taken = take(self, rank, data, data_bytes, err);
        }
        sf_free(data);
        SF_TRY(rc);
    }
    return taken;
}
