#include "cli/schedule_auto.h"

#include <stdio.h>

#include "cli/interrupt.h"

static int search(const struct sf_synth_problem *problem, const struct sf_synth_options *options,
                  struct sf_synth_result *r, struct sf_err *err) {
    const struct cli_listening before = cli_listen();
    int rc = sf_synth(problem, options, r, err);
    cli_listen_no_more(&before);
    if (rc == 0 && r->stopped) {
        fprintf(stderr, "staticfire: interrupted, this is the best schedule so far\n");
    }
    return rc;
}

static void keep(struct sf_synth_result *r, struct cli_schedule *out) {
    *out = (struct cli_schedule){.pipe = r->pipe,
                                 .costs = r->costs,
                                 .lower_bound = r->lower_bound_span,
                                 .search_time_s = r->search_time_s,
                                 .stopped = r->stopped,
                                 .proof = sf_bound_reason_text(r->bound.reason),
                                 .placements_bound = r->problem_bound_span};
    snprintf(out->placement, sizeof out->placement, "%s%s%s", r->placement, r->family >= 0 ? ", as " : "",
             r->family >= 0 ? sf_pipe_family_name(r->family) : "");
}

int cli_schedule_auto(const struct sf_pipe_spec *spec, uint32_t stages, const struct sf_pipe_costs *costs,
                      struct cli_schedule *out, struct sf_err *err) {
    double mem_f = 1, mem_w = spec->weight_share, mem_b = 1 - spec->weight_share;
    struct sf_synth_problem problem = {.devices = spec->devices,
                                       .microbatches = spec->microbatches,
                                       .stages = stages,
                                       .f = stages > 0 ? costs->f : &spec->f,
                                       .b = stages > 0 ? costs->b : &spec->b,
                                       .w = stages > 0 ? costs->w : &spec->w,
                                       .comm = spec->comm,
                                       .mem_f = stages > 0 ? costs->mem_f : &mem_f,
                                       .mem_b = stages > 0 ? costs->mem_b : &mem_b,
                                       .mem_w = stages > 0 ? costs->mem_w : &mem_w,
                                       .memory_limit = spec->memory_limit};
    struct sf_synth_options options = {.chunks_min = spec->chunks, .chunks_max = spec->chunks, .stop = cli_interrupted};
    struct sf_synth_result r;
    SF_TRY(search(&problem, &options, &r, err));
    keep(&r, out);
    return 0;
}
