/* What would have to change for a plan to beat another: both are simulated again with other links or batches. */
#ifndef SF_PLANNER_WHAT_IF_H
#define SF_PLANNER_WHAT_IF_H

#include "planner/search.h"

#define SF_WHAT_IF_MOST 64 /* times as fast or as slow */

struct sf_turn {
    double factor;  /* the one nearest to 1, within 2 %, at which it wins; 0: none was found */
    double nearest; /* the smallest ratio of its worth to the other's that was seen on the way */
};

struct sf_what_if {
    struct sf_turn network, nvlink; /* rate of all scale-out, and of all scale-up links */
    struct sf_turn batch;           /* sequences of a step, and so microbatches */
    bool batch_fixed;               /* a table is made for its number of microbatches: not asked */
    uint32_t microbatches;          /* of `plan` where the batch has turned it */
};

/* `kernels` is the table that the cost model was made with, or NULL. Noise is left out: p95 is asked as time. */
int sf_what_if(const struct sf_scenario *s, const char *kernels, int objective, const struct sf_plan *plan,
               const struct sf_plan *winner, struct sf_what_if *out, struct sf_err *err);

/* Worth of a plan on the scenario's cluster scaled by `by`, its memory aside, with `batch` times the sequences. */
struct sf_asked {
    struct sf_topo_scale by;
    double batch;
};
int sf_asked_worth_s(const struct sf_scenario *s, const char *kernels, int objective, const struct sf_plan *plan,
                     const struct sf_asked *asked, double *out, struct sf_err *err);

#endif
