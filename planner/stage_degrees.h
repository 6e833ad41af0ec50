/* Stages of one pipeline with tp or ep of their own. All stages have as many ranks.
 *
 * One with tp / k uses those of tp as k sub-replicas, each with its k-th of every microbatch's sequences. Rows lie
 * sequence by sequence, so rank r of tp has the same rows in every stage and transfers stay what they are. For the
 * stage itself it is a plan of tp / k, dp * k and micro_batch / k, which is how it is compiled. Experts that tp cuts
 * are cut by tp / k too; whole ones stay on the ranks that have them in every stage.
 *
 * One with ep / k has its experts on every k-th part of the ranks of ep: rows travel inside the parts, and gradients of
 * experts are summed over k times as many ranks. It is compiled as a plan of ep / k. */
#ifndef SF_PLANNER_STAGE_DEGREES_H
#define SF_PLANNER_STAGE_DEGREES_H

#include "planner/job.h"
#include "planner/plan.h"

#define SFI_MOST_DEGREES 3u /* each takes an axis of the mesh and three communicators */

/* Whether stages differ in ep; else they differ in tp, if at all. */
bool sfi_stages_differ_in_ep(const struct sf_plan *plan);

/* That degree of a rank of the pipeline. */
uint32_t sfi_stage_degree(const struct sf_plan *plan, uint32_t rank);

/* The plan's different degrees in ascending order, each dividing the next; the last is that of the plan. At most
 * SFI_MOST_DEGREES of a checked plan; returns how many there are, SFI_MOST_DEGREES + 1 for more. */
uint32_t sfi_stage_degrees(const struct sf_plan *plan, uint32_t out[SFI_MOST_DEGREES + 1]);

/* The plan as a stage of this degree sees it. */
void sfi_stage_plan(const struct sf_plan *plan, uint32_t degree, struct sf_plan *out);

/* Everything but where the first and the last virtual stage are. */
int sfi_stage_degrees_check(const struct sf_plan *plan, struct sf_err *err);

/* Tokens, targets and losses come by whole microbatches: the ranks with the embedding and the loss have all of tp. */
int sfi_stage_ends_check(const struct sf_plan *plan, uint32_t first, uint32_t last, struct sf_err *err);

#endif
