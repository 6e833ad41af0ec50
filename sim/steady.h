/* Steady state: periods that a proof shows to be like the last one are not simulated but copied.
 *
 * A pipeline with many microbatches does the same over and over. When all that decides what a cell does next is as it
 * was at an earlier moment, but for a shift - every time later by one period, every stream further by so many ops - and
 * the ops to come repeat with the same shifts, then by induction over events the periods to come are the last one, each
 * shifted once more. The state compared is that of every instance (ports, cores, memory, what is in flight and how much
 * of it is left) and of every collective that members wait in; the ops compared are all that those periods look at,
 * with prices, partners, loads and what they wait for. What differs anywhere ends the periods before it, or there are
 * none.
 *
 * What happens at one moment commutes, so states are compared when a moment is over. Which earlier moment is kept moves
 * along with the run, a third behind it at least, so that a period is found without knowing its length.
 *
 * Cells that meet others in collectives are copied as long as they come to none: after that their state is not all that
 * counts. */
#ifndef SF_SIM_STEADY_H
#define SF_SIM_STEADY_H

#include "sim/crew.h"

/* Room for the state of a worker's cells; NULL without memory. */
struct sfi_steady *sfi_steady_create(const struct sfi_table *t, struct sf_arena *arena);
/* An event of the worker's cell has happened: see whether periods can be copied, and do. */
void sfi_steady_look(struct sfi_worker *w);
/* What was seen so far depends on which cells this worker came to: look anew. NULL is legal. */
void sfi_steady_forget(struct sfi_steady *s);

#endif
