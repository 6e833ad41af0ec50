/* The event engine's data, shared by the files that build, run and read it.
 *
 * classes   facts per program class: p2p ways, collective lanes, which stream computes
 * variants  a class under one set of conditions (link per p2p way, span per communicator): every duration is a number
 * table     the instances: ranks, or colours of ranks, with their peers and groups; hot state in one 128-byte record
 * cells     instances that transfers join; what a cell needs fits in the first caches
 * engine    the loop over the events of one cell, and what happens where cells meet
 * crew      the rounds over all cells, on several threads
 * solo      instances behind their last transfer leave their cell
 * follow    cells that run alike until they come to a collective
 * steady    periods like the last one
 * expander  collectives chunk by chunk, an end for every member
 * pack      variants as the loop reads them; flow_pack.c
 * flow      speeds: who shares a port with whom, and what communication leaves to kernels
 *
 * Why folding is exact. What happens at one moment commutes: completions raise counts, arrivals raise maxima, and rates
 * are a function of the set of flows and kernels in flight, sums over whole numbers. So nothing depends on the order of
 * events at one moment, and equal surroundings see equal times.
 *
 * Why cells are exact. Ports belong to instances and transfers stay inside a cell, so a cell depends on others only
 * through collectives: when each is ready (its last arrival), and when it ends (the last of its members to have moved
 * its part). A cell runs ahead until the earliest moment at which a collective that one of its members waits in could
 * start or end, and stops there until the others have come as far. Nothing is guessed and nothing is undone.
 */
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

struct sfi_contend; /* contend.h */

struct sfi_classes {
    struct sfi_class *cls;
    uint32_t n;
    struct sfi_lane *lanes;
    uint32_t lanes_n;
    uint32_t spans, meets; /* unions over classes */
    bool alone;            /* transfers are priced as if nobody else was on the way: contended links are simulated */
    const struct sfi_contend *contend; /* NULL: no link inside the fabric takes part */
};

int sfi_classes_create(const struct sf_prog *prog, struct sf_arena *arena, struct sfi_classes **out,
                       struct sf_err *err);
static inline uint32_t sfi_way_peer(const struct sfi_mesh *m, const struct sfi_way *way, uint32_t rank) {
    return sfi_mesh_peer(&m->comms[way->comm], rank, way->delta);
}
/* The way of class `c` that answers `way` of another class, or SF_NONE. */
uint32_t sfi_way_answer(const struct sf_prog *prog, const struct sfi_class *c, const struct sfi_way *way);

/* Strips of ranks that nothing tells apart while every rank has the same times and speeds: how many ranks they have
 * along each axis. All 1 where there are none. */
void sfi_strips_find(const struct sf_prog *prog, const struct sf_topo *topo, const struct sfi_classes *classes,
                     uint32_t along[SF_MAX_AXES]);

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
    uint32_t kinds;            /* of GPUs that keep step with it, as a bit set: the slowest counts; 0: all there are */
};
/* Price of a recipe. NULL when out of memory. */
const struct sfi_price *sfi_price_recipe(struct sfi_prices *p, uint32_t recipe, const struct sfi_around *around);
/* A collective whose narrowest member has this share of its bandwidth left. */
sf_time_ps sfi_price_collective(const struct sf_cost *cost, int kind, uint64_t bytes, const struct sf_span *span,
                                double rate);

/* ---- variants ---- */

enum sfi_kind { SFI_LOCAL, SFI_SEND, SFI_RECV, SFI_COLL }; /* LOCAL: kernels, loads, collectives of one member */
enum sfi_tier_of_port { SFI_PORT_UP, SFI_PORT_OUT, SFI_PORT_NONE };
enum { SFI_TIERS_N = 2 };
enum { SFI_TO_HOST = 1, SFI_FROM_HOST = 2 }; /* lanes of a device's copy engines */

/* What an op asks of its surroundings. Shares are in 2^-16. */
struct sfi_load {
    uint64_t cap;        /* flows: bytes per second at most, on every port of theirs */
    uint32_t cores;      /* flows: share of the cores taken; kernels: share of their time that cores bound */
    uint32_t memory;     /* flows: share of the memory's rate taken at the full rate; kernels: bound by the memory */
    uint32_t memory_far; /* transfers: taken at the receiver */
    uint32_t lanes;      /* copies from and to the host: bit set of the copy engines that may move it; else 0 */
};

struct sfi_vop {         /* one op of a variant, all the loop needs to know */
    sf_time_ps time;     /* local: busy time; send: on the wire; collective: whole; each when nothing is in its way */
    sf_time_ps latency;  /* send: before its bytes move */
    uint32_t partner;    /* p2p: op index in the peer's class, SF_NONE when nothing answers; kernels, collectives: their
                            number */
    uint32_t partner_at; /* its place on its stream; collective: how many its group runs before it */
    uint32_t load;       /* index into the variants' loads */
    uint16_t way;        /* index into the instance's ways */
    uint8_t kind : 2, port : 2;
    uint8_t stream : 4, partner_stream : 4;
};
_Static_assert(sizeof(struct sfi_vop) == 32, "two ops of a variant share a cache line");

enum { SFI_SLIM_NEEDS = 2, SFI_NEED_STREAM_BITS = 3 };

/* What an op does, as the loop reads it: one for all variants of a class that do the same. Stream by stream, so that
 * what comes next lies next to it; behind the last op of a stream one that can never start. */
struct sfi_slim {
    uint32_t op;
    uint32_t partner, partner_at;
    uint32_t price;                /* index into the variant's tolls */
    uint32_t need[SFI_SLIM_NEEDS]; /* of its class's needs, when there are no more: count and stream */
    uint16_t way;
    uint8_t kind : 2, needs_n : 2; /* needs_n above SFI_SLIM_NEEDS: ask the interpreter */
    uint8_t stream : 4, partner_stream : 4;
    uint8_t wakes; /* as the interpreter has it */
    bool last;     /* the last transfer on its stream */
    uint8_t reserved[2];
};
_Static_assert(sizeof(struct sfi_slim) == 32, "two ops of a class share a cache line");
_Static_assert(SF_MAX_CLASS_OPS < 1 << (32 - SFI_NEED_STREAM_BITS) && SF_MAX_STREAMS <= 1 << SFI_NEED_STREAM_BITS,
               "needs have room");

struct sfi_toll { /* what it takes: of the ops of a variant, only a few differ */
    sf_time_ps time, latency;
    uint32_t load;
    uint32_t port;
};

struct sfi_variant {
    _Alignas(64) const struct sfi_slim *slim; /* the same as `ops`, as the loop reads them: flow_pack.c */
    const struct sfi_toll *tolls;
    uint32_t first[SF_MAX_STREAMS]; /* of each stream's among them */
    uint64_t capacity[SFI_TIERS_N]; /* bytes per second of a port, either way */
    const struct sf_iclass *code;   /* of its class */
    const struct sfi_class *cls;
    struct sfi_vop *ops;
    const struct sfi_price **price; /* [ops_n] NULL unless the op has a recipe */
    uint32_t class_i;
    uint32_t rank;                 /* lowest rank of this kind */
    sf_time_ps busy;               /* of the compute stream, when nothing is in its way */
    sf_time_ps grade[SF_GRADES_N]; /* kernel time by what it rests on */
};

struct sfi_variants {
    struct sfi_variant *v;
    struct sfi_load *loads; /* different ones; the first asks for nothing */
    uint32_t n, loads_n;
    uint32_t *of_rank;
};

/* `leader` (by rank) says whose slowest GPU decides kernel times; NULL: kernel times are for the caller to stretch. */
int sfi_variants_create(struct sfi_mesh *mesh, const struct sf_cost *cost, const struct sfi_classes *classes,
                        const uint32_t *leader, struct sf_arena *arena, struct sfi_variants **out, struct sf_err *err);

/* Give every variant its `slim` and `tolls`. */
int sfi_pack(const struct sfi_variants *all, struct sf_arena *arena, struct sf_err *err);

/* The op at a place on a stream. */
static inline const struct sfi_slim *sfi_slim_at(const struct sfi_variant *v, uint32_t stream, uint32_t place) {
    return &v->slim[v->first[stream] + place];
}

/* The op that a stream has come to. */
static inline const struct sfi_slim *sfi_slim_now(const struct sfi_variant *v, const struct sf_rank_state *st,
                                                  uint32_t stream) {
    return sfi_slim_at(v, stream, st->done[stream]);
}

static inline struct sfi_vop sfi_vop_of(const struct sfi_variant *v, const struct sfi_slim *s) {
    const struct sfi_toll *t = &v->tolls[s->price];
    return (struct sfi_vop){.time = t->time,
                            .latency = t->latency,
                            .partner = s->partner,
                            .partner_at = s->partner_at,
                            .load = t->load,
                            .way = s->way,
                            .kind = s->kind & 3u,
                            .port = t->port & 3u,
                            .stream = s->stream & 15u,
                            .partner_stream = s->partner_stream & 15u};
}

/* sf_interp_begin, for variants that are packed; NULL when nothing may start. */
static inline const struct sfi_slim *sfi_begin(const struct sfi_variant *v, struct sf_rank_state *st, uint32_t stream) {
    if (st->busy >> stream & 1) {
        return NULL;
    }
    const struct sfi_slim *s = sfi_slim_now(v, st, stream);
    bool met = s->needs_n <= SFI_SLIM_NEEDS || sf_interp_startable(v->code, st, stream) != SF_NONE;
    for (uint32_t n = 0; n < SFI_SLIM_NEEDS; n++) { /* those that there are not are always met */
        met &= st->done[s->need[n] & ((1u << SFI_NEED_STREAM_BITS) - 1)] >= s->need[n] >> SFI_NEED_STREAM_BITS;
    }
    assert(met == (sf_interp_startable(v->code, st, stream) != SF_NONE));
    st->busy |= met ? 1u << stream : 0;
    return met ? s : NULL;
}

/* ---- folding ---- */

/* Coarsest equitable partition of the ranks that is at least as fine as `kind_of` (dense, numbered by lowest rank).
 * colour_of[rank] is dense, numbered by lowest rank. */
int sfi_fold(struct sfi_mesh *mesh, const struct sfi_classes *classes, const uint32_t *kind_of, uint32_t kinds_n,
             struct sf_arena *arena, uint32_t **colour_of, uint32_t *colours_n, struct sf_err *err);

/* ---- instances ---- */

struct sfi_inst { /* hot: one per rank or colour */
    struct sf_rank_state st;
    uint32_t variant;
    uint32_t ways;           /* first of its peers and groups in the table's ways */
    uint32_t lanes;          /* first of its lanes in the table's lanes, less the ways in front of them */
    uint32_t cores, memory;  /* shares that communication takes */
    uint8_t moving, kernels; /* bit s: a flow, a kernel that can be slowed down, is in flight on stream s */
    uint8_t copies;          /* likewise, a copy between the device and its host */
    uint8_t reserved[1];
    uint64_t demand[SFI_TIERS_N][2]; /* caps of the flows on each port, added up: sending, receiving */
    uint64_t digest;                 /* sum over ops, so that their order does not matter */
    uint64_t ends;                   /* first of its times in the table's ends */
    const sf_time_ps *own;           /* kernel times of its own; NULL: the variant's */
    sf_time_ps stretched;            /* how much longer local ops took than undisturbed */
};
_Static_assert(sizeof(struct sfi_inst) == 128, "hot state is two cache lines");

struct sfi_act {            /* what is in flight on one stream of an instance; flow.h */
    unsigned __int128 left; /* of the work, at `since` */
    sf_time_ps began;       /* as the records say */
    sf_time_ps since;       /* not before this it moves at `rate` */
    sf_time_ps queued;      /* time of its event that counts; below 0: none */
    uint64_t rate;
    uint64_t key; /* of that event */
    uint32_t load;
    uint32_t mark; /* while rates are found: place among the flows, counted from 1 */
};
_Static_assert(sizeof(struct sfi_act) == 64, "one cache line");

struct sfi_wait {    /* a member of a collective that cannot go on without the others */
    sf_time_ps time; /* it takes at least this long */
    uint32_t instance, op;
    uint32_t group;
    uint32_t round : 31, reported : 1;
    uint32_t lane; /* of the table's lanes */
};

/* Instances that point-to-point traffic joins, directly or through others. Cells meet in collectives alone. */
struct sfi_cell {
    _Alignas(64) struct sfi_queue queue;
    struct sfi_wait *waits;
    uint32_t waits_n;
    uint32_t first, n; /* instances */
    uint32_t left;     /* of them not at their end yet */
    uint32_t lanes, lanes_n;
    uint32_t next_led; /* the next cell, plus one, that does the same as its leader; 0: none. follow.c */
    uint32_t gone;     /* lanes with one of these bits are not this cell's to speak for */
    bool led;          /* its leader is simulated in its stead */
    bool started;      /* with the state that its leader had */
};

/* Cells that meet, directly or through others. Islands have nothing to do with each other. */
struct sfi_island {
    uint32_t first, cells_n;
};

/* Of an instance's lane: nothing that it does brings a collective of the group nearer; it waits there for others, or it
 * is at its end. */
#define SFI_QUIET (UINT32_C(1) << 31)
/* The instance has left its cell: solo.h. */
#define SFI_GONE (UINT32_C(1) << 30)

struct sfi_link_user {
    uint32_t instance, way;
};

/* Contended links inside the fabric, as the instances use them. Each lies in one cell. */
struct sfi_fabric_links {
    uint64_t *capacity, *demand; /* by link: bytes per second; caps of the flows on it, added up */
    uint32_t *user_first;        /* [links_n + 1] into users */
    struct sfi_link_user *users;
    uint32_t *list_first; /* by place in the table's ways, and one more: into list */
    uint32_t *list;       /* links */
    uint32_t links_n;
};

struct sfi_table {
    struct sfi_inst *inst; /* cell by cell */
    uint32_t *rank;        /* lowest rank of each instance; ascending inside a cell */
    uint32_t *count;       /* ranks that each instance stands for */
    uint32_t *ways;        /* peers, as what to add to an instance, then groups; instances with equal ones share them */
    uint32_t *lanes;       /* of every instance, cell by cell: group, and SFI_QUIET */
    struct sfi_group *groups;
    struct sfi_cell *cells; /* island by island */
    struct sfi_island *islands;
    struct sfi_fabric_links *fabric; /* NULL: none takes part */
    struct sfi_act *acts;            /* [n * streams_n] */
    sf_time_ps *ends; /* of every op of an instance in the order of its class, then the starts of its collectives */
    uint32_t n, groups_n, cells_n, islands_n;
    uint32_t streams_n;  /* of the program */
    uint32_t cell_slots; /* ops in flight at once in the largest cell */
    uint32_t cell_n;     /* instances of the largest cell */
    uint64_t ends_n;
    uint64_t ops_n; /* of all instances */
};

/* An instance's peer on a way of its class. */
static inline uint32_t sfi_peer_of(const struct sfi_inst *inst, const uint32_t *ways, uint32_t i, uint32_t way) {
    return i + ways[inst[i].ways + way];
}

/* How long an op's kernels keep an instance busy. */
static inline sf_time_ps sfi_local_time(const struct sfi_inst *in, const struct sfi_vop *f) {
    return in->own && f->partner != SF_NONE ? in->own[f->partner] : f->time;
}

/* When an op of an instance ended, or, behind its ops, a collective began. */
static inline sf_time_ps *sfi_end_at(const struct sfi_table *t, const struct sfi_inst *in, uint32_t op) {
    return &t->ends[in->ends + op];
}

int sfi_table_create(struct sfi_mesh *mesh, const struct sfi_classes *classes, struct sfi_variants *variants,
                     const uint32_t *colour_of, uint32_t colours_n, struct sf_arena *arena, struct sfi_table **out,
                     struct sf_err *err);

/* Give every instance kernel times of its own, measured ones. */
int sfi_replay_apply(const struct sf_prog *prog, const struct sf_trace *measured, const struct sfi_variants *variants,
                     struct sfi_table *table, struct sf_arena *arena, struct sf_err *err);

/* ---- running ---- */

struct sfi_audit_count {
    uint64_t checks, violations;
    char first[160]; /* what the first violation was, of the first cell with one */
};

struct sfi_run {
    const struct sf_prog *prog;
    const struct sfi_variants *variants;
    struct sfi_table *table;
    sf_time_ps dispatch;
    bool replayed;    /* busy times were measured: the parts of a recipe share them in proportion */
    bool audit;       /* check while running: sf_sim_options.audit */
    bool expand;      /* groups have expansions: expander.h */
    bool follow;      /* cells that run alike are simulated once until they part: follow.c */
    bool skip;        /* periods of a steady state are simulated once: steady.h */
    uint32_t threads; /* at least 1 */
    uint64_t events, chunks;
    uint64_t skipped; /* of the events: copied, not simulated */
    struct sfi_audit_count audited;
    void (*progress)(void *self, double fraction);
    void *progress_self;
};

int sfi_run(struct sfi_run *run, struct sf_arena *arena, struct sf_err *err);

/* ---- reading ---- */

struct sfi_ends { /* of one instance */
    const sf_time_ps *at;
};

static inline struct sfi_ends sfi_ends(const struct sfi_run *run, uint32_t instance) {
    const struct sfi_table *t = run->table;
    return (struct sfi_ends){sfi_end_at(t, &t->inst[instance], 0)};
}
static inline sf_time_ps sfi_end_of(struct sfi_ends ends, uint32_t op) {
    return ends.at[op];
}
/* When an op was issued: when the last thing it waited for ended. */
sf_time_ps sfi_issue_time(const struct sf_iclass *code, struct sfi_ends ends, uint32_t op);
/* When an op of an instance started; it has ended. */
sf_time_ps sfi_start_time(const struct sfi_run *run, uint32_t instance, uint32_t op);
/* When the last op of an instance ended. */
sf_time_ps sfi_last_end(const struct sf_iclass *code, struct sfi_ends ends);

struct sfi_times {
    sf_time_ps issue, start, end;
};
/* When every op of an instance was issued, started and ended; `out` has room for its class's ops. */
void sfi_timeline(const struct sfi_run *run, uint32_t instance, struct sfi_times *out);
void sfi_breakdown(const struct sfi_run *run, uint32_t instance, const struct sfi_times *times,
                   struct sf_breakdown *out);

#endif
