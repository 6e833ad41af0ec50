/* Pipeline schedules as generators of abstract steps: the order in which one stage computes. */
#ifndef SF_PLANNER_SCHEDULE_H
#define SF_PLANNER_SCHEDULE_H

#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "planner/plan.h"

enum sf_step_kind { SF_STEP_F, SF_STEP_B };

struct sf_step {
    uint8_t kind;
    uint8_t reserved;
    uint16_t chunk; /* local chunk, 0 .. vpp-1; virtual stage = chunk * pp + stage */
    uint32_t microbatch;
};

/* Steps of one stage, always 2 * microbatches * vpp of them, backward microbatches of a chunk in ascending order.
 *   gpipe        all forwards, then all backwards
 *   1f1b         PipeDream-Flush: min(pp - 1 - stage, m) warm-up forwards (Narayanan et al., SC'21)
 *   interleaved  Megatron's virtual pipeline: warm-up 2(pp-1-stage) + (vpp-1)pp chunk forwards (all when m = pp);
 *                needs microbatches % pp == 0
 * vpp must be 1 for the first two. Errors: SF_E_INPUT with the rule broken. */
int sf_schedule_steps(int kind, uint32_t pp, uint32_t vpp, uint32_t microbatches, uint32_t stage, struct sf_step *out,
                      size_t out_n, struct sf_err *err);

/* Most chunk activations alive at once on a stage under the schedule. */
uint32_t sf_schedule_peak(const struct sf_step *steps, size_t n);

#endif
