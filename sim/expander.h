/* Collectives between ops, chunk by chunk (sim/expand.h): where the last member arrives, the arrivals of all are known,
 * and each gets an end of its own.
 *
 * Every member needs something of every other, so nobody is done before all are there: that is when a member's part
 * begins, with what it has left to do. Other traffic on its ports makes it later for this member; slow links, which all
 * feel, are in the expansion. */
#ifndef SF_SIM_EXPANDER_H
#define SF_SIM_EXPANDER_H

#include "sim/crew.h"

struct sfi_expansions; /* of all groups */

/* Give the groups of `t`, whose instances are ranks, what their members' ends are found from. */
int sfi_expansions_create(const struct sfi_mesh *mesh, const struct sfi_classes *classes, const struct sf_cost *cost,
                          struct sfi_table *t, struct sf_arena *arena, struct sf_err *err);

/* A member arrives; its part could begin at `begin`. Before sfi_meet_arrive. */
void sfi_expansion_arrive(const struct sfi_worker *w, const struct sfi_group *g, uint32_t instance, sf_time_ps begin);
/* All have, the last at `begin`: find out when each is done, then tell the others. False: w->rc and w->err say why. */
bool sfi_expansion_run(struct sfi_worker *w, struct sfi_group *g, uint32_t instance, uint32_t op, uint32_t round,
                       sf_time_ps begin);
/* For a member that has been told and has not arrived again. */
sf_time_ps sfi_expansion_begin(const struct sfi_group *g);
sf_time_ps sfi_expansion_end(const struct sfi_worker *w, const struct sfi_group *g, uint32_t instance);
/* The first to be done. */
sf_time_ps sfi_expansion_first(const struct sfi_group *g);

#endif
