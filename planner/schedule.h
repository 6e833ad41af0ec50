/* From a plan to its pipeline table: which pass runs where and in which order. There is no second generator: every
 * schedule is a table of pipeline.h, and compile turns its rows into ops. */
#ifndef SF_PLANNER_SCHEDULE_H
#define SF_PLANNER_SCHEDULE_H

#include "planner/plan.h"

/* How long passes take next to each other, per virtual stage of one copy of the model (pp * vpp of them): the order of
 * the greedy families follows from it, and in which order transfers are posted. */
struct sf_pass_weights {
    const uint64_t *f, *b, *w; /* at least 1 each */
};

/* Copies of the model that one pipeline holds (DualPipe: 2), and chunks of layers on each rank, all copies counted. */
uint32_t sf_schedule_copies(const struct sf_plan *plan);
uint32_t sf_schedule_chunks(const struct sf_plan *plan);

/* Do pp, vpp and microbatches fit the schedule? SF_E_INPUT begins with "plan: " and names rule and numbers. */
int sf_schedule_check(const struct sf_plan *plan, struct sf_err *err);

/* The table, without pairs (each runs as its two passes). Stages count in data order, copy after
 * copy: stage s is virtual stage s mod (pp * vpp). */
int sf_schedule_make(const struct sf_plan *plan, const struct sf_pass_weights *weights, struct sf_pipe **out,
                     struct sf_err *err);

/* What it follows from where the schedule is a family's and the head is whole. */
void sf_schedule_spec(const struct sf_plan *plan, const struct sf_pass_weights *weights, struct sf_pipe_spec *out);

/* Costs for replaying such a table by weights: times scaled so that no sum overflows. Free with sf_pipe_costs_clear. */
int sf_schedule_costs(const struct sf_pipe *table, const struct sf_pass_weights *weights, struct sf_pipe_costs *out,
                      struct sf_err *err);

#endif
