/* What a plan's collectives run on: `collectives:` in its file, in its program, and chosen for it.
 *
 *   collectives:
 *     tp: { all_gather: ring/ll128, reduce_scatter: ring/ll128 }
 *     dp: { reduce_scatter: pat/simple }
 *
 * Communicator, operation, algorithm and protocol (core/collective.h); what is not named is left to NCCL, which picks
 * by size. */
#ifndef SF_PLANNER_PICKS_H
#define SF_PLANNER_PICKS_H

#include "core/doc.h"
#include "planner/plan.h"
#include "sim/picks.h"

int sfi_picks_read(const struct sf_node *map, struct sf_plan *out, struct sf_err *err);
void sfi_picks_print(const struct sf_plan *plan, struct sf_buf *out);

/* Into the communicators of its program. SF_E_INPUT where there is no such communicator, or it never does that. */
int sfi_picks_apply(const struct sf_plan *plan, struct sf_prog *prog, struct sf_err *err);

/* The quickest for every operation of every communicator (sf_picks_find), into the plan and its program alike; what
 * the plan said before is forgotten. */
int sfi_picks_tune(struct sf_prog *prog, const struct sf_cost *cost, struct sf_plan *plan, struct sf_err *err);

#endif
