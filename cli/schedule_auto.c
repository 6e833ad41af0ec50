#include "cli/schedule_auto.h"

#include <stdio.h>

#include "planner/synth.h"

int cli_schedule_auto(const struct sf_pipe_spec *spec, double limit, struct cli_schedule *out, struct sf_err *err) {
    double mem_f = 1, mem_w = spec->weight_share, mem_b = 1 - spec->weight_share;
    struct sf_synth_problem problem = {.devices = spec->devices,
                                       .microbatches = spec->microbatches,
                                       .f = &spec->f,
                                       .b = &spec->b,
                                       .w = &spec->w,
                                       .comm = spec->comm,
                                       .mem_f = &mem_f,
                                       .mem_b = &mem_b,
                                       .mem_w = &mem_w,
                                       .memory_limit = limit * spec->devices};
    struct sf_synth_options options = {.chunks_min = spec->chunks, .chunks_max = spec->chunks};
    struct sf_synth_result r;
    SF_TRY(sf_synth(&problem, &options, &r, err));
    *out = (struct cli_schedule){
        .pipe = r.pipe, .costs = r.costs, .lower_bound = r.lower_bound_span, .search_time_s = r.search_time_s};
    snprintf(out->placement, sizeof out->placement, "%s", r.placement);
    return 0;
}
