/* Slow parts by rank, and kernel times that differ from rank to rank. */
#ifndef SF_SIM_SLOW_H
#define SF_SIM_SLOW_H

#include "sim/engine.h"

/* What is left of the speed of each rank's parts; NULL when the list is empty. Refuses seats without a rank. */
int sfi_slow_apply(const struct sfi_mesh *mesh, const struct sf_slow *slow, uint32_t slow_n, uint64_t seed,
                   struct sf_arena *arena, const struct sfi_pace **out, struct sf_err *err);

/* Teams: the ranks of one class that meet in collectives inside recipes. leader[rank] is the lowest of its team. */
int sfi_teams(const struct sfi_mesh *mesh, const struct sfi_classes *classes, struct sf_arena *arena, uint32_t **leader,
              struct sf_err *err);

/* Kernel times under jitter, one table for all ranks of one team and variant. */
struct sfi_noise {
    uint32_t *table_of; /* by rank; dense, in the order of lowest ranks */
    sf_time_ps **times; /* by table: of its first kernel; those of the class's others follow */
    uint32_t tables_n;
};
#define SFI_NOISE_SHARE 0.3 /* of the whole work, for the progress that is told */
int sfi_noise_create(const struct sfi_mesh *mesh, const struct sfi_classes *classes,
                     const struct sfi_variants *variants, const struct sf_sim_options *options, uint32_t threads,
                     struct sf_arena *arena, struct sfi_noise **out, struct sf_err *err);

#endif
