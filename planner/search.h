/* Choosing a plan: enumerate, bound, price, then let the simulator decide among the best. What is neither simulated nor
 * refused has a bound, so that every answer says how far from the best of the space it can be. */
#ifndef SF_PLANNER_SEARCH_H
#define SF_PLANNER_SEARCH_H

#include <stdbool.h>

#include "planner/compile.h"
#include "planner/job.h"
#include "planner/objective.h"
#include "planner/plan.h"
#include "sim/interval.h"
#include "sim/sim.h"

struct sf_plan_result {
    struct sf_plan plan;
    struct sf_sim_result sim; /* folded simulation of the compiled program */
    struct sf_interval interval;
    struct sf_merit merit;
    uint64_t unfused_memory_bytes; /* peak where the framework's attention keeps its scores */
    double estimate_s;             /* closed form that ranked it before simulation */
    double mfu, tokens_per_s_per_gpu, model_tflops_per_gpu;
    double lower_bound_s; /* no schedule of this plan's work can be faster: busiest stage + exposed optimizer */
    double gap; /* a search's: no plan in its space is worth more by more than this share of that plan's worth */
    uint64_t memory_bytes[SF_MAX_STAGES]; /* arena per pipeline stage, pp of them */
    uint64_t device_bytes;                /* the most that a device must have: arena and work areas of kernels */
    char lost[256];                       /* one line: why it lost to the plan above; "" for the first */
};

struct sf_search_options {
    uint32_t top;                    /* results wanted */
    bool explain;                    /* look at what would win with more memory, too */
    int objective;                   /* enum sf_objective; p95 with: */
    double jitter;                   /* of kernel times, as in sf_sim_options; 0: 5 % */
    uint32_t seeds;                  /* simulated for each finalist; 0: 8 */
    uint32_t simulate;               /* how many of the best estimates are simulated; 0: 200 */
    uint32_t threads;                /* 0: one per core. Results do not depend on it */
    bool quick;                      /* a few simulations, on the seats that come first */
    bool no_advice;                  /* where nothing fits, do not look into why the pins are at fault */
    uint64_t most_work;              /* of stats; stops there, with one thread at the same place each time; 0: never */
    uint64_t auto_seed, auto_budget; /* of each table that is synthesised; budget in passes placed, 0: the default */
    bool (*stop)(void *self);        /* polled; true = return the best so far (Ctrl-C). May be NULL */
    void (*progress)(void *self, double fraction);
    void *self;
};

/* The job's number of GPUs, and where it may use fewer (sf_job.fewer) those that are searched with it, as one space. */
#define SF_SEARCH_NUMBERS 4
struct sf_search_number {
    uint32_t gpus;
    uint64_t simulated;
    double worth_s; /* of the best, if any was simulated */
    sf_time_ps step;
};

struct sf_search_stats {
    uint32_t numbers_n;
    struct sf_search_number numbers[SF_SEARCH_NUMBERS];
    uint64_t points;    /* combinations of all degrees and choices, before any rule */
    uint64_t bounded;   /* of them keep the rules: each has a lower bound on its time */
    uint64_t replayed;  /* tables made and timed */
    uint64_t evaluated; /* priced, with every value of zero */
    uint64_t simulated;
    uint64_t placements;  /* of those simulated again on other seats */
    double bound_s;       /* no plan in the space takes a shorter step, or is worth more than one of that time */
    double first_plan_s;  /* when the first plan had been simulated */
    uint64_t too_large;   /* refused for memory */
    uint64_t passed_over; /* groups that keep the rules and that nobody had effort for: a plan may be among them */
    uint64_t work;        /* roughly in calls of kernels that were compiled and priced */
    uint64_t least_bytes; /* smallest peak memory seen among those: how far the nearest misses */
    double search_time_s;
    double bounding_time_s; /* of it, to find and bound those that keep the rules */
    bool stopped;
    struct sf_plan_result *large; /* the most promising of those; with memory enough for it, and its peak says how much.
                                     Only where asked for, and NULL when none would win; sf_search_stats_clear */
};
void sf_search_stats_clear(struct sf_search_stats *stats);

/* results has room for options->top; *results_n is how many plans were found; free what they own with
 * sf_plan_results_clear. SF_E_NOPLAN says which constraint excluded everything, and by how much. */
int sf_search(const struct sf_scenario *s, const struct sf_cost *cost, const struct sf_search_options *options,
              struct sf_plan_result *results, uint32_t *results_n, struct sf_search_stats *stats, struct sf_err *err);

/* Narrows the scenario, whose cluster has lost something, to what is left of `old`: as many replicas as still find
 * seats and divide the batch, at most *replicas, which is set to their number; everything else but schedule and vpp
 * kept. For a search with `quick`. SF_E_NOPLAN when not one is left. */
int sf_replan(struct sf_scenario *s, const struct sf_plan *old, uint32_t *replicas, struct sf_err *err);

#define SF_REPLAN_WAYS 3

struct sf_replan_way {
    uint32_t pp, dp;
    double busy_gpus; /* less those that wait where stages have unlike numbers of layers */
};

/* Other numbers of stages, half to twice as many, with which `old` uses more than so many GPUs of what is left: those
 * that keep most GPUs busy, best first; of large steps only that. Room for SF_REPLAN_WAYS; returns how many there are.
 */
uint32_t sf_replan_ways(const struct sf_scenario *s, const struct sf_plan *old, uint32_t gpus_found,
                        struct sf_replan_way *ways);

/* Like sf_replan, on one of these. `tables`: one is made to measure where a step has few passes. */
int sf_replan_as(struct sf_scenario *s, const struct sf_plan *old, const struct sf_replan_way *way, bool tables,
                 struct sf_err *err);

/* With more GPUs a step can be longer: where the job's number leaves no whole groups to a scale-up domain, their
 * traffic crosses racks. The degrees of `best` with up to a quarter fewer replicas, the nearest three that divide the
 * batch, each with its own schedule and seats. *found: one of them is worth more than `best`, and `out` is the best of
 * them, to be cleared. Nothing is proved about all smaller numbers. */
int sf_search_fewer(const struct sf_scenario *s, const struct sf_cost *cost, const struct sf_search_options *options,
                    const struct sf_plan_result *best, struct sf_plan_result *out, bool *found, struct sf_err *err);

/* Smaller numbers of GPUs, three quarters of the job's at least, that are worth a search of their own, the most
 * promising first: what many degrees divide, with whole groups of tp and cp in every scale-up domain and as many
 * microbatches as stages. Returns how many, at most `most`; none where memory is short, for it is advice. */
uint32_t sf_search_counts(const struct sf_scenario *s, uint32_t most, uint32_t *out);

/* Whether `best` would do better with a smaller tp on all stages but the first and the last, as far as the microbatch
 * can be shared, or with a half or a quarter of ep on the last three quarters, half or quarter of them, or on the last
 * alone (stage_tp and stage_ep of a plan), each simulated. */
struct sf_stage_advice {
    uint32_t tp, ep;     /* that degree; both 0: none is quicker by a thousandth */
    uint32_t first, end; /* ranks of the pipeline that should have it */
    double step_s;
};
int sf_search_stages(const struct sf_scenario *s, const struct sf_cost *cost, const struct sf_plan_result *best,
                     struct sf_stage_advice *out, struct sf_err *err);

void sf_plan_results_clear(struct sf_plan_result *results, uint32_t results_n);

/* Simulate one given plan and fill everything but `lost`. */
int sf_plan_evaluate(const struct sf_scenario *s, const struct sf_cost *cost, const struct sf_plan *plan,
                     struct sf_plan_result *out, struct sf_err *err);

#endif
