/* Where a lower bound on the span of a schedule comes from. */
#ifndef SF_PLANNER_PIPE_BOUND_H
#define SF_PLANNER_PIPE_BOUND_H

#include "planner/pipeline.h"

enum sf_bound_reason {
    SF_BOUND_WORK,     /* the work of one device */
    SF_BOUND_START,    /* memory is full before the first backward can arrive */
    SF_BOUND_DRAIN,    /* memory limits what is left to do after the last forward, which still has a long way to go */
    SF_BOUND_BACKWARD, /* the way to a device, its backwards, and the way back */
    SF_BOUND_MEMORY,   /* activations live too long for the limit */
    SF_BOUND_MACHINE,  /* heads and tails of the passes of one device */
    SF_BOUND_SEARCH    /* every order was looked at */
};

struct sf_bound_why {
    int reason;               /* enum sf_bound_reason */
    uint32_t device, through; /* the device whose span it is, and the one that enforces it */
};

const char *sf_bound_reason_text(int reason); /* one line */

/* sf_pipe_lower_bound, and what enforces it. Rows of `p` are not looked at and may be NULL. */
sf_time_ps sf_pipe_lower_bound_why(const struct sf_pipe *p, const struct sf_pipe_costs *c, double memory_limit,
                                   struct sf_bound_why *why);

#endif
