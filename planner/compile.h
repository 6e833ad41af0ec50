/* From a plan to a program: recipes for every chunk, ops in schedule order, buffers, communicators, binding.
 *
 * Mesh axes, innermost first: tp, ep, dp (= plan dp / ep), pp. Communicators: "tp", "ep", "dp" (ep x dp: dense weights),
 * "edp" (dp axis only: expert weights), "pp.fwd" and "pp.bwd".
 * Streams: compute, load, fwd.recv, fwd.send, bwd.recv, bwd.send, grad (collectives of gradients and parameters).
 *
 * Canonical mode: gradients of single microbatches are added along a fixed binary tree over the global microbatch
 * index (leaf, then pairs, then pairs of pairs), which a power-of-two count per rank and the reduction over dp continue.
 * So the sums are the same for every pp, dp, schedule and transport. Needs a power of two microbatches per rank. */
#ifndef SF_PLANNER_COMPILE_H
#define SF_PLANNER_COMPILE_H

#include "core/prog.h"
#include "planner/job.h"
#include "planner/plan.h"

/* Checks the plan against scenario (degrees divide heads, experts, batch; layers add up; see sf_plan_check) and
 * compiles. The program is checked (sf_prog_check) before it is returned; memory that does not fit is SF_E_NOPLAN. */
int sf_compile(const struct sf_scenario *s, const struct sf_plan *plan, struct sf_prog **out, struct sf_err *err);

/* Refuse an impossible plan, naming the field, the rule and the numbers. */
int sf_plan_check(const struct sf_scenario *s, const struct sf_plan *plan, struct sf_err *err);

#endif
