/* A schedule under construction by the verb, and the synthesised kind of it. */
#ifndef SF_CLI_SCHEDULE_AUTO_H
#define SF_CLI_SCHEDULE_AUTO_H

#include "planner/pipeline.h"

struct cli_schedule {
    struct sf_pipe *pipe;
    struct sf_pipe_costs costs;
    struct sf_pipe_timing timing;
    sf_time_ps lower_bound; /* of the span; 0: not known yet */
    double search_time_s;
    char placement[64]; /* "" where the family says it all */
};

/* Search for the shortest schedule whose devices hold at most `limit` p M. */
int cli_schedule_auto(const struct sf_pipe_spec *spec, double limit, struct cli_schedule *out, struct sf_err *err);

#endif
