/* The event engine's data, shared by the files that build, run and read it.
 *
 * classes   facts per program class: p2p ways, collective lanes, which stream computes
 * variants  a class under one set of conditions (link per p2p way, span per communicator): every duration is a number
 * table     the instances: ranks, or colours of ranks, with their peers and groups; hot state in one 128-byte record
 * cells     instances that transfers join; what a cell needs fits in the first caches
 * engine    the loop over the events of one cell, and what happens where cells meet
 * crew      the rounds over all cells, on several threads
 *
 * Why folding is exact. Completions at one time commute: they only raise counts. What does not commute is who gets a
 * port first, so transfers and collectives that became ready at time t are settled after every completion at t, in the
 * order of (class, op) of the sender or lowest member. Two requests with equal (class, op) share no port: the same p2p
 * op of two ranks has two senders and two receivers, and the same collective op has disjoint groups. So the order rests
 * on nothing that folding changes.
 *
 * Why cells are exact. Ports belong to instances and transfers stay inside a cell, so a cell depends on others only
 * through collectives: when each is ready (its last arrival), and when it starts (the last of its members' ports). A
 * cell runs ahead until the earliest moment at which a collective that one of its members waits in could start, and
 * stops there until the others have come as far. Nothing is guessed and nothing is undone, and the events of each cell
 * happen in one order, whatever the other cells and threads do. */
#ifndef SF_SIM_ENGINE_H
#define SF_SIM_ENGINE_H

#include "core/interp.h"
#include "sim/ids.h"
#include "sim/meet.h"
#include "sim/mesh.h"
#include "sim/queue.h"
#include "sim/sim.h"

/* ---- classes ---- */

struct sfi_way {          /* one (communicator, offset, direction) of point-to-point traffic */
    uint32_t comm, delta; /* delta in 1 .. size-1 */
    bool send;
    uint32_t *ops; /* in program order: the k-th here meets the k-th of the partner's way */
    uint32_t ops_n;
};

struct sfi_lane { /* collectives of one communicator on one stream: they start one after the other */
    uint32_t comm, stream;
};

struct sfi_class {
    struct sf_iclass *code;
    struct sfi_way *ways;
    uint32_t *lanes;      /* indices into the plan's lanes */
    uint32_t *lane_ops;   /* how many ops on each */
    uint32_t *way_of;     /* [ops_n] p2p: index of its way; collective: ways_n + index into lanes; else SF_NONE */
    uint32_t *turn;       /* [ops_n] p2p: which one on its way */
    uint32_t *record;     /* [ops_n] communication: its number among the class's; else SF_NONE */
    uint32_t *kernel_ops; /* the ops with kernels, in program order */
    uint32_t ways_n, lanes_n, records_n, kernels_n;
    uint32_t together;       /* bit set of the axes along which ranks meet in collectives inside recipes */
    uint32_t spans;          /* bit set of the communicators whose span decides a duration */
    uint32_t meets;          /* bit set of the communicators whose members wait for each other */
    uint32_t streams_n;      /* streams with ops: ops in flight at once */
    uint32_t compute_stream; /* SF_NONE without kernels */
};

struct sfi_classes {
    struct sfi_class *cls;
    uint32_t n;
    struct sfi_lane *lanes;
    uint32_t lanes_n;
    uint32_t spans, meets; /* unions over classes */
};

int sfi_classes_create(const struct sf_prog *prog, struct sf_arena *arena, struct sfi_classes **out,
                       struct sf_err *err);
static inline uint32_t sfi_way_peer(const struct sfi_mesh *m, const struct sfi_way *way, uint32_t rank) {
    return sfi_mesh_peer(&m->comms[way->comm], rank, way->delta);
}
/* The way of class `c` that answers `way` of another class, or SF_NONE. */
uint32_t sfi_way_answer(const struct sf_prog *prog, const struct sfi_class *c, const struct sfi_way *way);

/* ---- prices ---- */

/* No simulated time goes beyond this (26 days), so that sums of a few times never overflow. */
#define SFI_TIME_MAX (INT64_MAX / 4)

static inline sf_time_ps sfi_time_add(sf_time_ps a, sf_time_ps b) {
    sf_time_ps sum;
    return __builtin_add_overflow(a, b, &sum) || sum > SFI_TIME_MAX ? SFI_TIME_MAX : sum;
}

enum sfi_part { SFI_PART_COMPUTE, SFI_PART_RECOMPUTE, SFI_PART_TP, SFI_PART_EP, SFI_PART_HOST, SFI_PARTS_N };

struct sfi_price {
    sf_time_ps part[SFI_PARTS_N];
    sf_time_ps total;
    sf_time_ps grade[SF_GRADES_N]; /* of total, by what it rests on */
};

struct sfi_prices; /* every recipe under every set of spans met so far */
struct sfi_prices *sfi_prices_create(const struct sf_prog *prog, const struct sf_cost *cost, struct sf_arena *arena);
uint64_t sfi_pace_bits(double pace); /* for keys */
struct sfi_around {                  /* the conditions a rank works under */
    const struct sf_span *span[SF_MAX_COMMS];
    double rate[SF_MAX_COMMS]; /* what is left of the bandwidth its group has */
    double gpu;                /* and of the speed of its kernels */
};
/* Price of a recipe. NULL when out of memory. */
const struct sfi_price *sfi_price_recipe(struct sfi_prices *p, uint32_t recipe, const struct sfi_around *around);
/* A collective whose narrowest member has this share of its bandwidth left. */
sf_time_ps sfi_price_collective(const struct sf_cost *cost, int kind, uint64_t bytes, const struct sf_span *span,
                                double rate);

/* ---- variants ---- */

enum sfi_kind { SFI_LOCAL, SFI_SEND, SFI_RECV, SFI_COLL }; /* LOCAL: kernels, loads, collectives of one member */
enum sfi_tier_of_port { SFI_PORT_UP, SFI_PORT_OUT, SFI_PORT_NONE };

struct sfi_vop {         /* one op of a variant, all the loop needs to know */
    sf_time_ps time;     /* local: busy time; send: how long it holds its ports; collective: whole */
    sf_time_ps latency;  /* send: from leaving the ports to arrival */
    uint32_t partner;    /* p2p: op index in the peer's class, SF_NONE when nothing answers; kernels: their number */
    uint32_t partner_at; /* its place on its stream; collective: how many its group runs before it */
    uint32_t record;     /* communication: index of its start time among the instance's; else SF_NONE */
    uint16_t way;        /* index into the instance's ways */
    uint8_t kind : 2, port : 2, first : 1, last : 1; /* first, last: of the compute stream */
    uint8_t stream : 4, partner_stream : 4;
};
_Static_assert(sizeof(struct sfi_vop) == 32, "two ops of a variant share a cache line");

struct sfi_variant {
    struct sfi_vop *ops;
    const struct sfi_price **price; /* [ops_n] NULL unless the op has a recipe */
    const struct sfi_class *cls;
    uint32_t class_i;
    uint32_t rank;                 /* lowest rank of this kind */
    sf_time_ps busy;               /* of the compute stream */
    sf_time_ps grade[SF_GRADES_N]; /* kernel time by what it rests on */
};

struct sfi_variants {
    struct sfi_variant *v;
    uint32_t n;
    uint32_t *of_rank;
};

/* `leader` (by rank) says whose slowest GPU decides kernel times; NULL: kernel times are for the caller to stretch. */
int sfi_variants_create(struct sfi_mesh *mesh, const struct sf_cost *cost, const struct sfi_classes *classes,
                        const uint32_t *leader, struct sf_arena *arena, struct sfi_variants **out, struct sf_err *err);

/* ---- folding ---- */

/* Coarsest equitable partition of the ranks that is at least as fine as `kind_of` (dense, numbered by lowest rank).
 * colour_of[rank] is dense, numbered by lowest rank. */
int sfi_fold(struct sfi_mesh *mesh, const struct sfi_classes *classes, const uint32_t *kind_of, uint32_t kinds_n,
             struct sf_arena *arena, uint32_t **colour_of, uint32_t *colours_n, struct sf_err *err);

/* ---- instances ---- */

struct sfi_inst { /* hot: one per rank or colour */
    struct sf_rank_state st;
    sf_time_ps sends_free[2], receives_free[2]; /* by enum sfi_tier_of_port */
    uint64_t digest;                            /* sum over ops, so that their order does not matter */
    uint32_t variant;
    uint32_t ways;                       /* first of its peers and groups in the table's ways */
    uint64_t records;                    /* first of its start times in the table's starts */
    sf_time_ps compute_from, compute_to; /* first start and last end on the compute stream */
    sf_time_ps end;                      /* when its last op completed */
    const sf_time_ps *own;               /* kernel times of its own, by kernel; NULL: the variant's */
};
_Static_assert(sizeof(struct sfi_inst) == 128, "hot state is two cache lines");

/* How long an op's kernels keep this instance busy. */
static inline sf_time_ps sfi_local_time(const struct sfi_inst *in, const struct sfi_vop *f) {
    return in->own && f->partner != SF_NONE ? in->own[f->partner] : f->time;
}

struct sfi_wait {     /* a member of a collective that cannot go on without the others */
    sf_time_ps ready; /* once reported: when the collective was ready */
    sf_time_ps time;  /* it takes at least this long */
    uint32_t member;  /* instance and stream, as in the keys of engine.c */
    uint32_t group;
    uint32_t order; /* once reported: the collective's */
    uint32_t round : 31, reported : 1;
};

/* Instances that point-to-point traffic joins, directly or through others. Cells meet in collectives alone. */
struct sfi_cell {
    struct sfi_queue queue;
    struct sfi_wait *waits;
    uint32_t waits_n;
    uint32_t first, n; /* instances */
    uint32_t left;     /* of them not at their end yet */
};

/* Cells that meet, directly or through others. Islands have nothing to do with each other. */
struct sfi_island {
    uint32_t first, cells_n;
};

struct sfi_table {
    struct sfi_inst *inst; /* cell by cell */
    uint32_t *rank;        /* lowest rank of each instance; ascending inside a cell */
    uint32_t *count;       /* ranks that each instance stands for */
    uint32_t *ways;        /* peers (instances), then groups */
    struct sfi_group *groups;
    struct sfi_cell *cells; /* island by island */
    struct sfi_island *islands;
    sf_time_ps *starts; /* start time of every communication op */
    uint32_t n, groups_n, cells_n, islands_n;
    uint64_t starts_n;
    uint64_t ops_n; /* of all instances */
};

int sfi_table_create(struct sfi_mesh *mesh, const struct sfi_classes *classes, struct sfi_variants *variants,
                     const uint32_t *colour_of, uint32_t colours_n, struct sf_arena *arena, struct sfi_table **out,
                     struct sf_err *err);

/* Give every instance kernel times of its own, measured ones. */
int sfi_replay_apply(const struct sf_prog *prog, const struct sf_trace *measured, const struct sfi_variants *variants,
                     struct sfi_table *table, struct sf_arena *arena, struct sf_err *err);

/* ---- running ---- */

struct sfi_run {
    const struct sf_prog *prog;
    const struct sfi_variants *variants;
    struct sfi_table *table;
    sf_time_ps dispatch;
    bool jittered;    /* kernels are stretched, collectives inside recipes are not */
    uint32_t threads; /* at least 1 */
    uint64_t events;
    void (*progress)(void *self, double fraction);
    void *progress_self;
};

int sfi_run(struct sfi_run *run, struct sf_arena *arena, struct sf_err *err);

/* ---- reading ---- */

struct sfi_times {
    sf_time_ps issue, start, end;
};
/* When every op of an instance was issued, started and ended; `out` has room for its class's ops. */
void sfi_timeline(const struct sfi_run *run, uint32_t instance, struct sfi_times *out);
void sfi_breakdown(const struct sfi_run *run, uint32_t instance, const struct sfi_times *times,
                   struct sf_breakdown *out);

#endif
