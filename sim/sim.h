/* Virtual time: the interpreter driven by an event queue, with transfers that occupy the links of their route.
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

struct sf_sim_options {
    bool unfolded;
    uint64_t seed;              /* recorded in the trace; no randomness yet */
    struct sf_trace *trace;     /* NULL: none. Folded: one rank per colour. Unfolded: ranks below trace_ranks */
    uint32_t trace_ranks;
    const struct sf_trace *replay; /* take compute times from this measured trace (busy) instead of the cost model */
    void (*progress)(void *self, double fraction); /* may be NULL */
    void *progress_self;
};

/* Where the time of the slowest rank goes; adds up to step_time. */
struct sf_breakdown {
    sf_time_ps compute;      /* kernels of model work */
    sf_time_ps recompute;
    sf_time_ps tp_comm, ep_comm; /* collectives inside recipes */
    sf_time_ps p2p;          /* compute stream waiting for a transfer that is under way */
    sf_time_ps dp_comm;      /* gradient and parameter collectives not hidden */
    sf_time_ps optimizer;
    sf_time_ps bubble;       /* waiting for other stages */
    sf_time_ps other;        /* dispatch, loads, accumulation */
};

struct sf_sim_result {
    sf_time_ps step_time;
    struct sf_breakdown breakdown; /* of the rank that finishes last */
    double bubble_span;     /* 1 - busy / (last end - first start) of the compute stream, worst stage: the papers' rate */
    double bubble_makespan; /* idle share of the compute stream over the whole step, mean over stages */
    uint64_t peak_memory_bytes; /* largest arena */
    double busy_s;          /* compute-stream busy time, summed over all ranks */
    uint64_t events;        /* op completions processed */
    uint64_t instances;     /* ranks or colours simulated */
    double wall_s;          /* how long simulating took */
    struct sf_hash digest;  /* of (class, op, start, end) over all ranks, each rank counted: equal folded and unfolded */
    enum sf_grade grade;    /* the worst grade that carries at least 1 % of the compute time */
    double extrapolated_share; /* of compute time priced without a table or catalog measurement */
};

int sf_sim_run(const struct sf_prog *prog, const struct sf_cost *cost, const struct sf_sim_options *options,
               struct sf_sim_result *out, struct sf_err *err);

#endif
