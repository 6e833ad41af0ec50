/* The program: what every rank of a training job does in one step, compiled once and executed by the simulator and by
 * every runtime from the same bytes.
 *
 * Scale. Ops are stored once per rank *class* (pipeline stage x role). A binding maps a rank to its class through its
 * coordinates on the mesh, and peers are offsets on mesh axes, so 220,000 ranks cost one class each plus this header.
 *
 * Time. There are no durations here. A cost model prices (call kind, shape, dtype, device), so recalibrating changes no
 * program hash.
 *
 * Order. Each rank has up to SF_MAX_STREAMS in-order streams with one op in flight each. An op starts when the op
 * before it on its stream and every op it depends on have completed. Dependencies point to lower indices of the same
 * class, so a rank's graph is acyclic by construction. Ops on different streams without a dependency path may run in
 * any order.
 *
 * Two levels. A compute op points to a recipe: kernel calls (call.h) over formal parameters. The op's args bind formals
 * to ranges of buffers. Communication ops move one range.
 *
 * Memory. Buffers have a place in one arena per rank (offset, bytes) and a lifetime [first_op, last_op]; the arena size
 * is the peak memory, known before anything runs. What OFFLOAD takes to the host lies in a second one.
 *
 * Communicators are sets of mesh axes: the members are the ranks that agree on all other coordinates, in rank order. */
#ifndef SF_CORE_PROG_H
#define SF_CORE_PROG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/arena.h"
#include "core/call.h"
#include "core/collective.h"
#include "core/err.h"
#include "core/hash.h"

#define SF_PROG_VERSION 3
#define SF_MAX_AXES 8
#define SF_MAX_STREAMS 8
#define SF_MAX_COMMS 32
#define SF_MAX_CLASSES 4096
#define SF_MAX_RECIPES 65536
#define SF_MAX_CLASS_OPS (1u << 20)
#define SF_MAX_RECIPE_CALLS (1u << 16)
#define SF_MAX_BUFFER_USES (1u << 15) /* checking them is quadratic */
#define SF_MAX_RANKS (1u << 24)
#define SF_MAX_SLICES 256u
#define SF_NAME 32

/* X(NAME, "name", group) */
#define SF_OPS(X)                                                                                                      \
    X(LOAD, "load", SF_OP_IS_DATA) /* fill arg 0 with this microbatch's tokens (flag TARGETS: its targets) */          \
    X(FORWARD, "forward", SF_OP_IS_COMPUTE)                                                                            \
    X(BACKWARD, "backward", SF_OP_IS_COMPUTE) /* gradients of inputs and weights; or one op for each: */               \
    X(BACKWARD_INPUT, "backward_input", SF_OP_IS_COMPUTE)                                                              \
    X(BACKWARD_WEIGHT, "backward_weight", SF_OP_IS_COMPUTE)                                                            \
    X(ACCUMULATE, "accumulate", SF_OP_IS_COMPUTE) /* canonical gradient sums, see planner/compile.h */                 \
    X(OPTIMIZER, "optimizer", SF_OP_IS_COMPUTE)                                                                        \
    X(SEND, "send", SF_OP_IS_P2P)                      /* arg 0 to the peer */                                         \
    X(RECV, "recv", SF_OP_IS_P2P)                      /* arg 0 from the peer */                                       \
    X(ALL_REDUCE, "all_reduce", SF_OP_IS_COLL)         /* arg 0 in place; bytes = its size */                          \
    X(REDUCE_SCATTER, "reduce_scatter", SF_OP_IS_COLL) /* arg 0 whole, arg 1 own share; bytes = size of arg 0 */       \
    X(ALL_GATHER, "all_gather", SF_OP_IS_COLL)         /* arg 0 own share, arg 1 whole; bytes = size of arg 1 */       \
    X(OFFLOAD, "offload", SF_OP_IS_DATA)               /* arg 0 to arg 1, a HOST buffer; bytes = size of each */       \
    X(FETCH, "fetch", SF_OP_IS_DATA)                   /* arg 0, in a HOST buffer, to arg 1; bytes = size of each */

enum sf_op_group { SF_OP_IS_DATA, SF_OP_IS_COMPUTE, SF_OP_IS_P2P, SF_OP_IS_COLL };

enum sf_op_kind {
#define X(NAME, name, group) SF_OP_##NAME,
    SF_OPS(X)
#undef X
        SF_OP_KINDS
};

enum sf_op_flag {
    SF_OP_TARGETS = 1u, /* LOAD: targets, not inputs; arg 0 takes whole rows of them: of the next token, of the one
                         * behind it and so on, as many in every such load of a program */
    SF_OP_SUM_F32 = 2u, /* reductions: elements are f32 (otherwise bf16) */
};

struct sf_op {
    uint64_t bytes;     /* payload of communication; 0 for compute */
    uint32_t recipe;    /* compute: index of the recipe; else SF_NONE */
    uint32_t comm;      /* communication: index of the communicator; else SF_NONE. LOAD: the vocabulary is split
                         * over its members in equal parts, and tokens count from the own part's first one */
    int32_t peer_delta; /* p2p: offset on the communicator's only axis, wrapping around it */
    uint32_t arg_first; /* into the class's args */
    uint32_t dep_first; /* into the class's deps */
    uint16_t arg_n, dep_n;
    uint16_t microbatch, chunk; /* what it works on; chunk is local to the rank (0 .. vpp-1) */
    uint16_t group;       /* p2p ops of one non-zero group are adjacent, on different streams, independent: a backend
                           * with a single transfer queue issues them as one (ncclGroupStart) */
    uint8_t kind, stream; /* enum sf_op_kind; index into the program's streams */
    uint16_t flags;       /* enum sf_op_flag */
    uint16_t slice;       /* of the microbatch's sequences, where the job has them cut */
};
_Static_assert(sizeof(struct sf_op) == 48, "sf_op must stay small: a class has thousands");

enum sf_access { SF_READ = 1, SF_WRITE = 2, SF_READ_WRITE = 3 };

struct sf_arg {
    uint32_t buf;    /* index into the class's buffers */
    uint32_t access; /* enum sf_access */
    uint64_t offset; /* range inside the buffer, bytes */
    uint64_t bytes;
};

/* X(NAME, "name") - what a buffer holds; the memory report adds up by this. */
#define SF_BUFS(X)                                                                                                     \
    X(PARAM, "param")                                                                                                  \
    X(GRAD, "grad")                                                                                                    \
    X(OPTIMIZER, "optimizer") /* moments and master weights */                                                         \
    X(ACTIVATION, "activation")                                                                                        \
    X(COMM, "comm") /* landing zones of receives */                                                                    \
    X(WORK, "work")                                                                                                    \
    X(TOKENS, "tokens")                                                                                                \
    X(LOSS, "loss")   /* f32, one per microbatch */                                                                    \
    X(HYPER, "hyper") /* f32[8], see ADAMW in call.h; filled by the runtime before each step */                        \
    X(NORM, "norm")   /* f32: the gradient's norm before it was clipped, for whoever reports it */                     \
    X(HOST, "host")   /* activations that are away: in the host's memory, which only OFFLOAD and FETCH touch */

enum sf_buf_kind {
#define X(NAME, name) SF_BUF_##NAME,
    SF_BUFS(X)
#undef X
        SF_BUF_KINDS
};

struct sf_buffer {
    char name[SF_NAME];
    uint64_t bytes;
    uint64_t offset;            /* in the rank's arena, or in its host memory; multiple of 64 */
    uint32_t first_op, last_op; /* lifetime by op index; persistent buffers live from 0 to SF_NONE */
    uint32_t kind;              /* enum sf_buf_kind */
    uint32_t reserved;
};

enum sf_init { SF_INIT_ZERO, SF_INIT_ONE, SF_INIT_NORMAL };

/* A named weight: where it lies and how it starts. Initial values depend only on (seed, name, element), so every layout
 * of the same model starts from the same numbers.
 *
 * Split over the members of `comm`, it is a block of a larger weight of that name: member i holds rows first_row +
 * i * rows and following of whole_rows, or columns i * cols and following of whole_cols. A rank may have several blocks
 * of one weight. */
struct sf_tensor {
    char name[80];       /* "model.layers.3.mlp.down_proj.weight" */
    uint32_t buf;        /* a PARAM buffer of the class */
    uint32_t init;       /* enum sf_init */
    uint64_t offset;     /* bytes inside the buffer */
    uint64_t rows, cols; /* cols = 1 for vectors */
    float init_std;
    uint32_t dtype;
    uint32_t comm;       /* where split */
    uint64_t first_row;  /* of member 0's block */
    uint64_t whole_rows; /* 0: rows are not split */
    uint64_t whole_cols; /* 0: columns are not split */
};

struct sf_class {
    char name[SF_NAME];
    const struct sf_op *ops;
    const struct sf_arg *args;
    const uint32_t *deps; /* op indices of this class */
    const struct sf_buffer *bufs;
    const struct sf_tensor *tensors;
    const uint32_t *op_line; /* where each op stands in the text it was read from; NULL: from elsewhere */
    uint32_t ops_n, args_n, deps_n, bufs_n, tensors_n;
    uint32_t stage; /* pipeline stage, for people and colours */
    uint64_t arena_bytes;
    uint64_t host_bytes; /* of HOST buffers, which have places of their own */
};

struct sf_recipe {
    char name[SF_NAME];
    const struct sf_call *calls;
    uint32_t calls_n;
    uint32_t formals_n; /* at most 32 */
};

struct sf_axis {
    char name[SF_NAME]; /* "tp", "ep", "dp", "pp" */
    uint32_t size;
};

struct sf_comm {
    char name[SF_NAME];
    uint32_t axes;              /* bit i = axis i */
    struct sf_coll_picks picks; /* what its collectives run on, where that is not left to NCCL */
};

/* Facts about the job that executors need and that hash with the program. */
struct sf_prog_job {
    uint32_t microbatches; /* per rank and step */
    uint32_t micro_batch_sequences;
    uint32_t seq_len_tokens;
    uint32_t chunks;       /* of layers on a rank: vpp, times the copies of the model */
    uint32_t extra_copies; /* of the model in one pipeline, beyond the first (DualPipe: 1). The c-th chunk of a rank
                            * works on share c mod copies of the microbatches; the copies' gradients are added */
    uint32_t slices;       /* that every sequence is cut into, each with passes of its own; 0: it is whole */
    uint64_t global_batch_sequences;
    double model_flops_per_step; /* forward and backward, whole job, recompute not counted */
    uint64_t vocab;
    float lr, beta1, beta2, eps, weight_decay;
    uint32_t warmup_steps;
    uint64_t seed; /* initial weights and data order */
};

struct sf_prog {
    struct sf_arena *arena; /* owns everything below */
    char title[128];        /* model, cluster, plan in a few words */
    struct sf_hash source;  /* identity of the plan it was compiled from */
    struct sf_prog_job job;
    struct sf_axis axes[SF_MAX_AXES]; /* innermost first: rank = sum of coordinate * product of the sizes before it */
    struct sf_comm comms[SF_MAX_COMMS];
    char streams[SF_MAX_STREAMS][SF_NAME];
    uint32_t axes_n, comms_n, streams_n;
    uint32_t class_axes;       /* bit set of the axes that choose the class */
    uint32_t *class_of;        /* [product of class axes' sizes], mixed radix, innermost first */
    uint32_t ranks_per_domain; /* placement: rank r sits in domain r / ranks_per_domain, slot r % ranks_per_domain */
    uint32_t domain_gpus;      /* seats of a scale-up domain; >= ranks_per_domain, the rest are spares */
    uint64_t device_memory_bytes;
    uint64_t host_memory_bytes; /* of one rank's share of its host; 0: not known */
    struct sf_recipe *recipes;
    struct sf_class *classes;
    uint32_t recipes_n, classes_n;
};

void sf_prog_free(struct sf_prog *prog); /* NULL is legal */

/* Mesh arithmetic. Ranks and coordinates must be in range (sf_prog_check has seen to the tables). */
uint32_t sf_prog_ranks(const struct sf_prog *prog);
uint32_t sf_prog_coord(const struct sf_prog *prog, uint32_t rank, uint32_t axis);
uint32_t sf_prog_class(const struct sf_prog *prog, uint32_t rank);
uint32_t sf_prog_gpu(const struct sf_prog *prog, uint32_t rank); /* seat in the cluster */
uint32_t sf_prog_peer(const struct sf_prog *prog, uint32_t rank, uint32_t comm, int32_t delta);
uint32_t sf_prog_comm_size(const struct sf_prog *prog, uint32_t comm);
uint32_t sf_prog_comm_index(const struct sf_prog *prog, uint32_t rank, uint32_t comm); /* position among members */
uint32_t sf_prog_comm_member(const struct sf_prog *prog, uint32_t rank, uint32_t comm, uint32_t index);
/* Number of disjoint groups of a communicator, and which one a rank is in (0-based, dense). */
uint32_t sf_prog_comm_groups(const struct sf_prog *prog, uint32_t comm);
uint32_t sf_prog_comm_group(const struct sf_prog *prog, uint32_t rank, uint32_t comm);

const char *sf_op_name(int kind);
int sf_op_parse(const char *name); /* -1 when unknown */
/* Of every sequence; at least 1. */
static inline uint32_t sf_prog_slices(const struct sf_prog_job *job) {
    return job->slices > 1 ? job->slices : 1;
}
enum sf_op_group sf_op_group(int kind);
int sf_op_call(int kind); /* of a collective the call that does the same inside a recipe; else -1 */
const char *sf_buf_kind_name(int kind);
/* "F c0 m3", "send m3 +1 pp.fwd" - short label of an op for traces and messages; returns `buf`. */
char *sf_op_label(const struct sf_prog *prog, uint32_t class_i, uint32_t op, char *buf, size_t size);

/* Prove a program sound. Refuses, with class and op named:
 *   - any index, range or count out of bounds; dependencies that do not point backwards
 *   - buffers outside the arena; arenas over the device's memory (says by how much)
 *   - buffers that share memory while both are alive, and unordered conflicting accesses to one buffer (data races),
 *     both under the happens-before order of streams and dependencies
 *   - sends without a matching receive: per ordered pair and communicator, count, order and bytes must agree
 *   - collectives whose members disagree on order, kind or bytes
 *   - deadlock when every transfer blocks until its partner arrives (rendezvous), and when collectives of all
 *     communicators share one device queue (a global order must exist)
 *   - microbatches whose backward (whole, or both halves of it) is missing, and optimizer steps not ordered after every
 *     gradient, its sum over the copies of the model in one pipeline, and its reduction
 * Cost is linear in the stored classes, not in ranks. Returns SF_E_INPUT with the first fault. */
int sf_prog_check(const struct sf_prog *prog, struct sf_err *err);

/* Files. Binary: versioned, little-endian, hashed; reading checks limits before it allocates, then runs
 * sf_prog_check. Text: one line per object, the same content; text -> program -> text is the identity.
 * Encoders append to `out`. Decoders own nothing of `data` after they return. */
struct sf_buf;
int sf_prog_encode(const struct sf_prog *prog, struct sf_buf *out, struct sf_err *err);
int sf_prog_decode(const void *data, size_t bytes, const char *name, struct sf_prog **out, struct sf_err *err);
int sf_prog_print(const struct sf_prog *prog, struct sf_buf *out, struct sf_err *err);
int sf_prog_parse(const char *text, size_t bytes, const char *name, struct sf_prog **out, struct sf_err *err);
/* A file in either form: one that begins like the binary form, or has a NUL near its beginning, is read as that. */
struct sf_io;
#define SF_PROG_MAX_BYTES ((size_t)1 << 30)
int sf_prog_read(const struct sf_io *io, const char *path, struct sf_prog **out, struct sf_err *err);
bool sf_prog_is_binary(const char *data, size_t bytes);
bool sf_prog_is_text(const char *data, size_t bytes);    /* "staticfire program" comes first */
struct sf_hash sf_prog_hash(const struct sf_prog *prog); /* of the binary form; joins forecasts to measurements */

#endif
