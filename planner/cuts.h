/* Cutting a model into pipeline stages, exactly: which consecutive units (embedding, layers, heads) each stage gets,
 * and how many devices side by side work on it.
 *
 * A stage may choose among ways to run its units (degrees of tp x ep); a way has its own times and bytes per unit and
 * takes its number of devices. Among the cuts whose stages fit their memory and whose devices fit the budget, the one
 * whose slowest stage is fastest wins; then the one with fewest devices; then the most even one (least sum of squared
 * times); then the one whose later stages hold more, because they keep fewer microbatches alive.
 *
 * Method: the slowest stage's time is one of the at most units^2 / 2 * ways times that stages can have. A binary search
 * over them asks a dynamic programme for the fewest devices that stay within a time: O(stages * units^2 * ways) per
 * question, O(log(units * ways)) questions. */
#ifndef SF_PLANNER_CUTS_H
#define SF_PLANNER_CUTS_H

#include <stdint.h>

#include "core/err.h"
#include "core/units.h"

#define SF_CUT_UNITS 4096
#define SF_CUT_STAGES 1024
#define SF_CUT_WAYS 8

struct sf_cut_unit {                        /* one piece that is never cut, on one device of each way */
    sf_time_ps time[SF_CUT_WAYS];           /* forward and backward of one microbatch */
    uint64_t fixed_bytes[SF_CUT_WAYS];      /* weights, gradients, optimizer state */
    uint64_t activation_bytes[SF_CUT_WAYS]; /* of one microbatch, from forward to backward */
};

struct sf_cut_problem {
    const struct sf_cut_unit *units;
    uint32_t units_n, stages_n, ways_n; /* every stage gets one unit at least */
    const uint32_t *way_devices;        /* [ways_n] */
    uint32_t devices;                   /* of all stages together */
    const uint32_t *in_flight;          /* [stages_n] microbatches whose activations a stage holds at once */
    const uint64_t *limit_bytes;        /* [stages_n] memory of one device; UINT64_MAX: no limit */
};

struct sf_cut {
    uint32_t first[SF_CUT_STAGES + 1]; /* stage s has units first[s] .. first[s + 1] - 1 */
    uint8_t way[SF_CUT_STAGES];
    sf_time_ps slowest;
    uint32_t devices;
};

/* SF_E_INPUT when the numbers make no sense; SF_E_NOPLAN when no cut fits: says which stage lacks how much memory in
 * the cut that comes closest, or how many devices are missing; SF_E_INTERNAL without memory. */
int sf_cut(const struct sf_cut_problem *problem, struct sf_cut *out, struct sf_err *err);

#endif
