/* Pipeline schedules made to measure: the order of passes with the smallest span bubble under a memory limit, and a
 * proven bound on how much smaller any other could be.
 *
 * Span bubble (Zero Bubble, arXiv 2401.10241): of every device the time from its first start to its last end counts,
 * so starting later is free. Memory: F takes mem_f, B gives back mem_b, W gives back mem_w; no device may ever hold
 * more than the limit. */
#ifndef SF_PLANNER_SYNTH_H
#define SF_PLANNER_SYNTH_H

#include "planner/pipe_bound.h"

#define SF_SYNTH_MAX_CHUNKS 8
#define SF_SYNTH_NAME 48

struct sf_synth_problem {
    uint32_t devices, microbatches;
    uint32_t stages;             /* virtual stages, a multiple of devices. 0: the devices are equal, and their share of
                                  * the layers may be cut into chunks as the search sees fit */
    const sf_time_ps *f, *b, *w; /* [stages]; with stages 0 one number each: a device's whole share of a microbatch */
    sf_time_ps comm;             /* one hop between devices */
    const double *mem_f, *mem_b, *mem_w; /* as f, b, w; mem_b + mem_w = mem_f */
    double memory_limit;                 /* of each device, in the units of mem_f */
    const uint16_t *device_of;           /* [stages] a placement to keep; NULL: the search chooses */
};

/* 0 everywhere means the default. */
struct sf_synth_options {
    uint32_t chunks_min, chunks_max; /* per device, when stages is 0, all of them alike; default: 1 to 4, and with 8 or
                                      * more devices some cuts into five that are not alike */
    uint64_t budget; /* passes placed in all tries together; default 45 million, and 360 million for small problems,
                      * half of it for searching them to the end */
    uint64_t seed;
    bool as_found;  /* all of the budget for the search over policies, none to improve their table pass by pass: spans
                     * are  longer, but not every step, which waits for more than spans */
    double gap;     /* stop once the best is proven this close to the best of all; default: use the whole budget */
    double limit_s; /* stop after this much host time; then `stopped` is set, and a rerun may differ */
    bool (*stop)(void); /* asked now and then, may be NULL: true stops in the same way */
    /* sf_pipe_generate, or what makes the same of it, perhaps made before: several seeds share the published kinds. May
     * be NULL. */
    int (*generate)(void *self, const struct sf_pipe_spec *spec, struct sf_pipe **out, struct sf_err *err);
    void *self;
};

struct sf_synth_result {
    struct sf_pipe *pipe;
    struct sf_pipe_costs costs; /* of `pipe`; arrays owned */
    struct sf_pipe_timing timing;
    sf_time_ps lower_bound_span;   /* of every schedule on this placement */
    sf_time_ps problem_bound_span; /* of every schedule on any placement that the search may choose */
    struct sf_bound_why bound;     /* of lower_bound_span */
    double gap;                    /* (span - lower_bound_span) / span */
    uint32_t chunks;
    int family;                    /* of the published schedule that nothing found here beats; -1: ours */
    char placement[SF_SYNTH_NAME]; /* sweeps over the devices: "up down" is the V; in "2up" each holds neighbours;
                                    * chunks of "down*1.5" are half as large again as those of the first sweep */
    uint64_t evaluated;            /* schedules tried */
    uint64_t passes;               /* of the budget */
    double search_time_s;
    bool optimal; /* on this placement: span = lower_bound_span */
    bool stopped; /* by limit_s or stop */
};

/* SF_E_NOPLAN when no schedule was found that keeps the limit. Equal inputs give equal results, unless `stopped`. */
int sf_synth(const struct sf_synth_problem *problem, const struct sf_synth_options *options,
             struct sf_synth_result *out, struct sf_err *err);
void sf_synth_result_clear(struct sf_synth_result *r);

#endif
