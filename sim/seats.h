/* Which seat of the cluster each rank of a program takes.
 *
 * Ranks come in blocks of `ranks_per_domain`. A block sits in one scale-up domain, on its first GPUs in use, and blocks
 * take the domains in order, passing over those that have too few: dead and spare GPUs move a rank inside its domain,
 * a lost rack moves the blocks behind it. Where domains large enough run out, those that were never meant to hold a
 * whole block take a smaller one, as many whole teams as they have seats for: racks of 72 and of 40 serve one plan.
 * Only where all seats in use run out do spare ones count as well. */
#ifndef SF_SIM_SEATS_H
#define SF_SIM_SEATS_H

#include <stdbool.h>

#include "core/prog.h"
#include "topo/topo.h"

struct sf_blocks {
    uint32_t ranks, most;                /* of the program; of a block */
    uint32_t team[SF_MAX_AXES], teams_n; /* ascending: ranks that talk inside recipes, so that none may be cut off. A
                                            smaller block is of whole teams, of the largest that its domain holds */
};
void sf_blocks_of(const struct sf_prog *prog, struct sf_blocks *out);
/* From the sizes of such groups, each over the one before; those that do not divide a block are not kept together. */
void sf_blocks_init(struct sf_blocks *out, uint32_t ranks, uint32_t most, const uint32_t *sizes, uint32_t n);

/* Every seat up to the last one in use is in use: block b sits in domain b, without gaps. O(1). */
bool sf_seats_plain(const struct sf_topo *topo);

/* Rank r sits in domain r / ranks_per_domain, slot r % ranks_per_domain, and all those seats are in use. O(1). */
bool sf_seats_in_order(const struct sf_topo *topo, uint32_t ranks, uint32_t ranks_per_domain);
static inline uint32_t sf_seats_ordered(const struct sf_topo *topo, uint32_t ranks_per_domain, uint32_t rank) {
    return rank / ranks_per_domain * sf_topo_domain_gpus(topo) + rank % ranks_per_domain;
}

/* Whether the blocks find seats among those in use; where seats are plain, spare ones behind them count too. */
bool sf_seats_fit(const struct sf_topo *topo, const struct sf_blocks *blocks);

/* Seat of one rank when no spare seats are needed before it; SF_NONE when they are. O(gaps). */
uint32_t sf_seats_of(const struct sf_topo *topo, const struct sf_blocks *blocks, uint32_t rank);

struct sf_seats_report {
    uint32_t moved;       /* ranks on another seat than if nothing was dead or spare */
    uint32_t on_spares;   /* ranks on seats that are not in use */
    uint32_t lost;        /* ranks whose seat is not in use any more */
    uint32_t first_lost;  /* the lowest of them */
    uint32_t lost_domain; /* where it was */
};

/* Seats of all ranks. SF_E_INPUT names the ranks that find none. `report` may be NULL. */
int sf_seats_fill(const struct sf_topo *topo, const struct sf_blocks *blocks, uint32_t *gpu,
                  struct sf_seats_report *report, struct sf_err *err);

/* Memory of the smallest device. */
uint64_t sf_seats_memory(const struct sf_topo *topo);
/* The least share of its host's memory that a GPU has, where that is known; else 0. */
uint64_t sf_seats_host_memory(const struct sf_topo *topo);
/* Mean peak of the devices that a program's ranks sit on. */
double sf_seats_peak(const struct sf_topo *topo, const struct sf_prog *prog, int precision);

#endif
