/* Where ranks sit: the order of the mesh axes and how many seats of every scale-up domain are used. A search tries both
 * on the plans that it simulates. */
#ifndef SF_PLANNER_PLACEMENT_H
#define SF_PLANNER_PLACEMENT_H

#include "core/prog.h"
#include "planner/job.h"
#include "planner/plan.h"

struct sf_placement {
    int order; /* enum sf_order */
    uint32_t ranks_per_domain;
};
#define SF_PLACEMENTS_MOST 16

/* The plan's own first, then all others that are worth trying: orders that differ, times tilings of a domain (all its
 * seats; whole groups that share experts or sequences; whole pipelines; so that stages begin at the same seat of their
 * domains and transfers stay on their rails). tp never leaves a domain. */
uint32_t sf_placements(const struct sf_scenario *s, const struct sf_plan *plan,
                       struct sf_placement out[SF_PLACEMENTS_MOST]);

/* How far a communicator's groups are spread. */
struct sf_spread_of {
    uint32_t members, groups;
    uint32_t domains_most, domains_least; /* that a group touches */
    uint32_t bound;                       /* no placement has a group of that size touch fewer */
};
void sf_spread_of(const struct sf_prog *prog, const struct sf_topo *topo, uint32_t comm, struct sf_spread_of *out);

#endif
