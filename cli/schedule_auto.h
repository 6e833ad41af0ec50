/* A schedule under construction by the verb, and the synthesised kind of it. */
#ifndef SF_CLI_SCHEDULE_AUTO_H
#define SF_CLI_SCHEDULE_AUTO_H

#include "planner/synth.h"

struct cli_schedule {
    struct sf_pipe *pipe;
    struct sf_pipe_costs costs;
    struct sf_pipe_timing timing;
    sf_time_ps lower_bound; /* of the span; 0: not known yet */
    double search_time_s;
    bool stopped;                       /* by Ctrl-C */
    const char *proof;                  /* what enforces the bound; NULL: not said */
    sf_time_ps placements_bound;        /* of the span on any placement that was tried; 0: not known */
    char placement[SF_SYNTH_NAME + 32]; /* "" where the family says it all */
};

/* Search for the shortest span under spec->memory_limit, in M. `stages` virtual stages with costs of their own, where
 * not 0. The first Ctrl-C ends the search with the best so far. */
int cli_schedule_auto(const struct sf_pipe_spec *spec, uint32_t stages, const struct sf_pipe_costs *costs,
                      struct cli_schedule *out, struct sf_err *err);

#endif
