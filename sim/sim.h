/* Virtual time: the interpreter driven by an event queue. Transfers and collectives share ports, and contended links,
 * max-min fairly; kernels run slower while communication on their GPU takes cores and memory.
 *
 * One engine, two instance tables. Unfolded: an instance is a rank. Folded: an instance is a colour of the coarsest
 * equitable partition of ranks (same class, same routes, peers and group members of the same colours), and simulating
 * one instance per colour gives every rank's times exactly, because equal colours see equal events. */
#ifndef SF_SIM_SIM_H
#define SF_SIM_SIM_H

#include <stdbool.h>

#include "core/prog.h"
#include "core/trace.h"
#include "sim/cost.h"

/* X(NAME, "name") - how the kernel times of one op spread; the mean factor is 1 either way. */
#define SF_JITTERS(X)                                                                                                  \
    X(LOGNORMAL, "lognormal")                                                                                          \
    X(NORMAL, "normal") /* cut off at a tenth of the mean */

enum sf_jitter {
#define X(NAME, name) SF_JITTER_##NAME,
    SF_JITTERS(X)
#undef X
        SF_JITTERS_N
};
int sf_jitter_parse(const char *name); /* -1 when unknown */
const char *sf_jitter_name(int kind);

/* X(NAME, "one", "many") - what can be slower than the rest of its kind. */
#define SF_SLOWS(X)                                                                                                    \
    X(GPU, "gpu", "gpus")                                                                                              \
    X(NIC, "nic", "nics")          /* of that GPU: all that leaves or enters its domain there */                       \
    X(NVLINK, "nvlink", "nvlinks") /* the scale-up port of that GPU */

enum sf_slow_kind {
#define X(NAME, one, many) SF_SLOW_##NAME,
    SF_SLOWS(X)
#undef X
        SF_SLOWS_N
};

struct sf_slow {
    enum sf_slow_kind kind;
    uint32_t gpu; /* seat in the cluster, numbered from 0 */
    double share; /* above 0: instead of `gpu`, this share of the GPUs in use, drawn by the seed */
    double pace;  /* what is left of the speed: 0.5 is half */
};
#define SF_SLOW_MAX 64
/* "gpu:1234=0.9,nic:77=0.5,gpus:0.1%=0.95" */
int sf_slow_parse(const char *text, struct sf_slow out[SF_SLOW_MAX], uint32_t *n, struct sf_err *err);

struct sf_sim_options {
    bool unfolded;
    bool no_skip;  /* simulate every period of a steady state, where the proof that they are alike would do */
    uint64_t seed; /* of all randomness */
    /* Relative standard deviation of kernel times, 0 for none: every compute op of every rank has a factor of its own,
     * drawn from (seed, rank, op). Ranks that meet in collectives inside recipes keep step: their op lasts as long as
     * the slowest of them needs. */
    double jitter;
    enum sf_jitter jitter_kind;
    const struct sf_slow *slow; /* parts that are slow, each named once; a share and a single part may meet */
    uint32_t slow_n;
    struct sf_trace *trace; /* NULL: none. Folded: one rank per colour. Unfolded: ranks below trace_ranks */
    uint32_t trace_ranks;
    uint32_t threads; /* 0: one per core, at most 64. Results do not depend on it */
    /* Take compute times from this measured trace (mean of busy over its iterations) instead of the cost model. Folded:
     * every colour takes those of its lowest rank. A compute op without a record is an error. */
    const struct sf_trace *replay;
    /* Simulate every link inside the fabric that can be contended, by the routes that messages take; transfers are then
     * priced as if alone. Else a route's rate is that of a busy network, oversubscription and collisions averaged in.
     * Where there are such links every rank is simulated. */
    bool links;
    /* Run the collectives between ops chunk by chunk, from the arrivals of their members, who then end one by one: by
     * algorithm and protocol (sim/expand.h), so the devices need collective models. A member's place in its ring
     * counts, so every rank is simulated. Those inside recipes, whose members keep step, stay whole. */
    bool expand;
    /* Check while running that bytes are conserved, nothing starts before its causes and no port carries more than it
     * can; the result counts. */
    bool audit;
    void (*progress)(void *self, double fraction); /* may be NULL */
    void *progress_self;
};

/* Where the time of the slowest rank goes; adds up to step_time. Ops of the compute stream count as what they are. A
 * gap between them is walked backwards along what the rank waited for: a transfer or collective that ran, or, before it
 * started, partners that were not there yet (bubble). Of equally slow ranks the lowest counts. */
struct sf_breakdown {
    sf_time_ps compute; /* kernels of model work */
    sf_time_ps recompute;
    sf_time_ps tp_comm, ep_comm; /* collectives inside recipes */
    sf_time_ps p2p;              /* compute stream waiting for a transfer that is under way */
    sf_time_ps dp_comm;          /* gradient and parameter collectives not hidden */
    sf_time_ps offload;          /* waiting for activations on their way to the host or back */
    sf_time_ps optimizer;
    sf_time_ps bubble; /* waiting for other stages */
    sf_time_ps other;  /* dispatch, loads, accumulation */
};

struct sf_sim_result {
    sf_time_ps step_time;
    struct sf_breakdown breakdown; /* of the rank that finishes last */
    double bubble_span; /* 1 - busy / (last end - first start) of the compute stream, worst stage: the papers' rate */
    double bubble_makespan;     /* idle share of the compute stream over the whole step, mean over stages */
    uint64_t peak_memory_bytes; /* largest arena */
    uint64_t host_memory_bytes; /* most that a rank has on its host; 0 without offload */
    double busy_s;              /* compute-stream busy time, summed over all ranks */
    double slowed_s;            /* of it, what communication on the same GPU cost kernels */
    uint64_t events;            /* op completions */
    uint64_t skipped;           /* of them, copied from the period before instead of simulated: sim/steady.h */
    uint64_t instances;         /* ranks or colours simulated */
    double wall_s;              /* how long simulating took */
    double fold_s, run_s;       /* of that: sorting and folding ranks; the events */
    struct sf_hash digest; /* of (class, op, start, end) over all ranks, each rank counted: equal folded and unfolded */
    enum sf_grade grade;   /* the worst grade that carries at least 1 % of the compute time */
    double extrapolated_share;    /* of compute time priced without a table or catalog measurement */
    bool unfolded;                /* every rank was simulated by itself */
    bool links_certified;         /* the topology alone shows that no link inside the fabric is ever contended */
    uint32_t contended_links;     /* that took part; 0 without sf_sim_options.links */
    uint64_t chunks;              /* transfers of expanded collectives; 0 without sf_sim_options.expand */
    uint64_t audited, violations; /* checks made and failed; 0 without sf_sim_options.audit */
    char violation[160];          /* the first */
};

/* Step times over several seeds. */
struct sf_spread {
    uint32_t seeds_n;
    sf_time_ps p50, p95, p99;
};

int sf_sim_run(const struct sf_prog *prog, const struct sf_cost *cost, const struct sf_sim_options *options,
               struct sf_sim_result *out, struct sf_err *err);
/* The seeds options->seed, +1, ... ; `out` is of the first, the only one that is traced. */
int sf_sim_spread(const struct sf_prog *prog, const struct sf_cost *cost, const struct sf_sim_options *options,
                  uint32_t seeds_n, struct sf_sim_result *out, struct sf_spread *spread, struct sf_err *err);

#endif
