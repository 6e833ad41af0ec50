/* Stages of one pipeline with tp of their own. All stages have as many ranks; one with tp / k uses those of tp as k
 * sub-replicas, each with its k-th of every microbatch's sequences. Rows lie sequence by sequence, so rank r of tp has
 * the same rows in every stage and transfers stay what they are. For the stage itself it is a plan of tp / k, dp * k
 * and micro_batch / k, which is how it is compiled. */
#ifndef SF_PLANNER_STAGE_DEGREES_H
#define SF_PLANNER_STAGE_DEGREES_H

#include "planner/job.h"
#include "planner/plan.h"

#define SFI_MOST_DEGREES 3u /* each takes an axis of the mesh and three communicators */

/* The plan's different degrees in ascending order, each dividing the next; the last is plan->tp. At most
 * SFI_MOST_DEGREES of a checked plan; returns how many there are, SFI_MOST_DEGREES + 1 for more. */
uint32_t sfi_stage_degrees(const struct sf_plan *plan, uint32_t out[SFI_MOST_DEGREES + 1]);

/* The plan as a stage of this degree sees it. */
void sfi_stage_plan(const struct sf_plan *plan, uint32_t tp, struct sf_plan *out);

/* Everything but where the first and the last virtual stage are. */
int sfi_stage_degrees_check(const struct sf_scenario *s, const struct sf_plan *plan, struct sf_err *err);

/* Tokens, targets and losses come by whole microbatches: the ranks with the embedding and the loss have all of tp. */
int sfi_stage_ends_check(const struct sf_plan *plan, uint32_t first, uint32_t last, struct sf_err *err);

#endif
