/* A training step as one graph: one rank of a process with communicators, or all ranks of a program on one device
 * ("virtual ranks"), each with its own streams and buffers.
 *
 *   sfi_session_create    memory, streams, events, communicators, weights; kernels prepared
 *   sfi_session_capture   the whole step, once
 *   sfi_session_launch    fill this step's page, start the graph; never waits for the device
 *   sfi_session_conclude  the results of a step; waits until it is over
 *
 * The graph of one step:  hyperparameters -> fork -> ops on their streams -> join -> losses and stamps -> advance.
 *
 * Pages. Tokens, targets and hyperparameters of step n lie in page n & 1 of pinned memory before step n starts, and are
 * not touched before it is over; losses, stamps and wishes to stop come back the same way. So step n + 1 is launched
 * while step n runs, and results are read one step late. */
#ifndef SF_RUNTIME_CUDA_SESSION_H
#define SF_RUNTIME_CUDA_SESSION_H

#include "runtime/cuda/gpu.h"
#include "runtime/dump.h"
#include "runtime/rank.h"

/* What every rank tells the others in every step; `loss` has an f32 for every microbatch. */
struct sfi_gpu_report {
    uint32_t stop, reserved;
    int64_t shift_ns;  /* device clock + this = rank 0's host clock */
    uint64_t begin_ns; /* of the step, device clock */
    float norm;        /* of the gradient, where it is clipped */
    float loss[];
};

struct sfi_meeting;

/* One local rank. */
struct sfi_gpu_rank {
    struct sfi_rank *host; /* class, transfers, records; its arena is never touched */
    char *mem;             /* the arena on the device */
    void *streams[SF_MAX_STREAMS];
    void *contexts[SF_MAX_STREAMS]; /* where the stream carries kernels */
    void **events;                  /* [ops_n] the op is over; NULL where no other stream waits for it */
    uint64_t *stamps;               /* device, [2 * ops_n] begin and end; NULL: not traced */
    uint64_t stamps_at;             /* in the out page */
    uint64_t *call_stamps;          /* device: when each call of each op began; NULL: nobody asks */
    uint64_t call_stamps_at;        /* in the out page */
    uint32_t *call_first;           /* [ops_n + 1] of an op's calls */
    uint32_t *progress;             /* pinned, as the device sees it: [SF_MAX_STREAMS] 1 + the op begun last; or NULL */
    const volatile uint32_t *progress_host;
    uint64_t *load_at; /* [ops_n] in the in page */
    char **grads;      /* dump: [blocks] pinned copies, as the device sees them */
    char *grads_host;

    /* Virtual ranks, while capturing. */
    struct sf_rank_state state;
    struct sfi_meeting **meetings; /* [ops_n] of communication ops */
    uint32_t next_call[SF_MAX_STREAMS];
    struct sfi_meeting *inside[SF_MAX_STREAMS]; /* the collective that a recipe waits in */
    uint32_t inner_n[SF_MAX_COMMS];             /* collectives in recipes so far */
};

/* A communicator of the program, for one rank. A communicator finishes its transfers in the order in which they were
 * started, so a receive that waits would hold up a send behind it. Therefore messages go through as many communicators
 * as it takes that no rank sends and receives on the same one: two along a chain or an even ring, three along an odd
 * ring. `sender_color` says which, by position of the sender. */
#define SFI_GPU_COLORS 4
struct sfi_gpu_comm {
    void *comm[SFI_GPU_COLORS], *registered[SFI_GPU_COLORS];
    uint8_t *sender_color; /* [members]; NULL: no messages */
    uint32_t colors_n;
};

struct sfi_session {
    const struct sfi_gpu_api *api;
    const struct sfi_run *run;
    struct sf_arena *arena;
    struct sfi_gpu_rank *ranks; /* [ranks_n] */
    uint32_t ranks_n;
    bool is_virtual, traced;
    void *stream;                /* where graphs are launched and captured from */
    void *fork;                  /* event */
    void *joins[SF_MAX_STREAMS]; /* events, reused from rank to rank */
    void *graphs[2];             /* [1]: with copies of gradients, for the last step of a run that dumps; or with a
                                  * stamp before every call, for steps in which calls are timed */
    uint64_t nodes_n;
    void **world;
    struct sfi_gpu_comm comms[SF_MAX_COMMS];
    void **virtual_events; /* of meetings */
    uint32_t virtual_events_n;
    struct sfi_meeting *inner[SF_MAX_COMMS]; /* [2 * groups] collectives in recipes */

    struct sfi_gpu_pages in, out;
    uint64_t head_at;  /* in page: the first 16 bytes of a report */
    uint64_t begin_at; /* out page: device clock at the begin and end of the step */
    uint64_t *clock;   /* device: two words */
    char *reports;     /* device: [ranks of the program] reports */
    uint64_t report_bytes, reports_at;
    uint32_t *counter; /* device */
    uint32_t *done;    /* pinned, as the device sees it */
    volatile uint32_t *done_host;
    bool copies_gradients; /* what is being captured */
    bool stamps_calls;     /* likewise */

    uint32_t launched, concluded;
    int64_t first_launch_ns;
    uint64_t last_end_ns; /* device clock at the end of the step before */
    int64_t shift_ns, clock_uncertainty_ns;
    bool clock_is_own; /* no moment of another rank can be told on it */
    bool stop, gave_up;
    float *losses;          /* [steps] */
    const float **loss_src; /* [data-parallel ranks * microbatches] */
    double wall_s;          /* of the step concluded last */
    double norm;            /* the same; NaN where gradients are not clipped */
    double host_s[2];       /* of the host for an even or an odd step, waiting apart */
    double launch_s[2];     /* in the call that started an even or an odd step */
};

/* *world is a communicator over all ranks of the program, or NULL for virtual ranks; it stays the caller's, and is NULL
 * once a fault has aborted it. */
/* The clock's shift belongs to `shift_ns` before the first launch; 0 where all ranks share a device. */
int sfi_session_create(const struct sfi_gpu_api *api, const struct sfi_run *run, uint32_t first_rank, uint32_t ranks_n,
                       void **world, struct sfi_session **out, struct sf_err *err);
void sfi_session_destroy(struct sfi_session *s); /* NULL is legal */
/* Tell the other processes why, then abort every communicator, the world included. The first time only. */
void sfi_session_give_up(struct sfi_session *s, const struct sf_err *why);
int sfi_session_capture(struct sfi_session *s, struct sf_err *err);
int sfi_session_launch(struct sfi_session *s, struct sf_err *err);
int sfi_session_conclude(struct sfi_session *s, struct sf_err *err);
bool sfi_session_over(const struct sfi_session *s, uint32_t step); /* has this step ended? Never waits */

/* NCCL's own estimate of every collective of this rank, as JSON. */
int sfi_session_estimates(struct sfi_session *s, const char *path, struct sf_err *err);

/* ---- parts ------------------------------------------------------------------------------------------------------ */

static inline char *sfi_gpu_at(const struct sfi_gpu_rank *r, uint32_t buf, uint64_t offset) {
    return r->mem + r->host->cls->bufs[buf].offset + offset;
}

static inline char *sfi_gpu_arg(const struct sfi_gpu_rank *r, const struct sf_op *op, uint32_t arg) {
    const struct sf_arg *a = &r->host->cls->args[op->arg_first + arg];
    return sfi_gpu_at(r, a->buf, a->offset);
}

/* "rank 3 op 17 (send c0 m2 +1 pp.fwd): ..." */
int sfi_gpu_fail_op(const struct sfi_gpu_rank *r, uint32_t op, struct sf_err *err);

/* capture.c: around the work of an op: waits, range, stamps, progress; then the event. */
int sfi_gpu_op_begin(struct sfi_session *s, struct sfi_gpu_rank *r, uint32_t op, struct sf_err *err);
int sfi_gpu_op_end(struct sfi_session *s, struct sfi_gpu_rank *r, uint32_t op, struct sf_err *err);
/* Calls of a recipe from *next on, up to the end or to the first collective, which *next then names. */
int sfi_gpu_calls(struct sfi_session *s, struct sfi_gpu_rank *r, uint32_t op, uint32_t *next, struct sf_err *err);
int sfi_gpu_load(struct sfi_session *s, struct sfi_gpu_rank *r, uint32_t op, struct sf_err *err);
/* The collective call of a recipe, or a communication op, as a message. */
struct sfi_gpu_message sfi_gpu_message_of_op(const struct sfi_gpu_rank *r, const struct sf_op *op);
struct sfi_gpu_message sfi_gpu_message_of_call(const struct sfi_gpu_rank *r, const struct sf_op *op,
                                               const struct sf_call *call);

/* walk_nccl.c: one rank, in the order of its program. */
int sfi_gpu_walk_rank(struct sfi_session *s, struct sf_err *err);
bool sfi_gpu_picks(const struct sf_prog *prog); /* it says what some collectives run on */
int sfi_gpu_comms_create(struct sfi_session *s, struct sf_err *err);
void sfi_gpu_comms_destroy(struct sfi_session *s);

/* walk_virtual.c: all ranks, as the interpreter lets them. */
int sfi_gpu_walk_virtual(struct sfi_session *s, struct sf_err *err);
int sfi_gpu_meetings_create(struct sfi_session *s, struct sf_err *err);

/* weights.c */
int sfi_gpu_init_weights(struct sfi_session *s, struct sfi_gpu_rank *r, struct sf_err *err);

/* results.c: records of a step's stamps; gradients and weights for a dump. */
void sfi_gpu_take_stamps(struct sfi_gpu_rank *r, uint32_t step, uint64_t origin_ns, const char *page);

/* probe.c: times of calls and of the gaps between ops, where a run is measured (rank.h). */
int sfi_gpu_probe_create(struct sfi_session *s, struct sfi_gpu_rank *r, struct sf_err *err);
uint64_t sfi_gpu_probe_bytes(const struct sfi_gpu_rank *r);
int sfi_gpu_probe_call(struct sfi_session *s, const struct sfi_gpu_rank *r, uint32_t op, uint32_t call,
                       struct sf_err *err);
void sfi_gpu_probe_take(const struct sfi_session *s, const struct sfi_gpu_rank *r, const char *page);
bool sfi_gpu_probe_over(const struct sfi_session *s); /* the time for measuring is up */

/* After the last step: gradients into the rank's capture, and how its weights are read from the device. */
void sfi_gpu_take_gradients(struct sfi_gpu_rank *r);
int sfi_gpu_read_tensor(void *self, const struct sfi_rank *r, const struct sf_tensor *t, float *out,
                        struct sf_err *err);
void sfi_gpu_floats(float *to, const void *from, int dtype, uint64_t n);

#endif
