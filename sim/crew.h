/* The rounds over all cells: in each, every cell runs as far as it safely can. */
#ifndef SF_SIM_CREW_H
#define SF_SIM_CREW_H

#include "sim/engine.h"

struct sfi_worker { /* one thread's view */
    struct sfi_run *run;
    struct sfi_table *table;
    struct sfi_inst *inst;
    const struct sfi_variant *variant;
    const uint32_t *ways;
    struct sfi_cell *cell;  /* being visited */
    struct sfi_event limit; /* the first event that has to wait */
    sf_time_ps now;
    sf_time_ps floor; /* in no cell anything is left to complete before */
    sf_time_ps next;  /* the same for the next round, over this worker's cells */
    uint64_t events;
    bool tell;      /* raise the bounds of groups, because waiting for `floor` alone gets few cells on */
    uint32_t moved; /* cells that got on in this round */
    int rc;
    struct sf_err err;
    uint32_t err_cell;
};

/* Run a cell until it has to wait for others. `first`: nothing of it has started yet. */
int sfi_visit(struct sfi_worker *w, struct sfi_cell *cell, bool first);
/* Have what a visit will touch loaded: the cell's lists, then the members that can go on. */
void sfi_prepare_lists(const struct sfi_cell *cell);
void sfi_prepare_members(const struct sfi_worker *w, const struct sfi_cell *cell);

#endif
