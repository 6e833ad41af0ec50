/* The rounds over all cells: in each, every cell runs as far as it safely can. */
#ifndef SF_SIM_CREW_H
#define SF_SIM_CREW_H

#include "sim/engine.h"

struct sfi_sharing; /* scratch of flow_share.c */
struct sfi_audit;   /* flow_audit.c; NULL: nobody looks */
struct sfi_steady;  /* steady.h; NULL: every period is simulated */
struct sfi_expand;  /* expand.h; NULL: collectives as a whole */
struct sfi_solos;   /* solo.h; NULL: nobody leaves a cell */

struct sfi_worker { /* one thread's view */
    struct sfi_run *run;
    struct sfi_table *table;
    struct sfi_inst *inst;
    struct sfi_act *acts;
    const struct sfi_variant *variant;
    const struct sfi_load *loads;
    const uint32_t *ways;
    struct sfi_cell *cell; /* being visited */
    struct sfi_sharing *sharing;
    struct sfi_audit *audit;
    struct sfi_expand *expand;
    struct sfi_steady *steady;
    struct sfi_solos *solos;
    sf_time_ps limit; /* what comes later has to wait */
    sf_time_ps now;
    sf_time_ps floor; /* in no cell anything is left to complete before */
    sf_time_ps next;  /* the same for the next round, over this worker's cells */
    sf_time_ps owed;  /* the same, of what this worker's cells have others complete */
    uint64_t events;
    uint64_t chunks;  /* transfers of expanded collectives */
    uint64_t skipped; /* of the events */
    uint32_t streams_n;
    bool closed;    /* in this visit a collective got ready, or came to its end, here */
    uint32_t moved; /* cells that got on in this round */
    int rc;
    struct sf_err err;
    uint32_t err_cell;
    /* Of a cell that meets no other: who waits, by group and then from one to the next, as place among `acts` + 1. */
    uint32_t *parked, *parked_next; /* NULL: this worker visits no such cell */
    bool parks;                     /* the cell being visited is one */
};

static inline const struct sfi_variant *sfi_variant_of(const struct sfi_worker *w, const struct sfi_inst *in) {
    return &w->variant[in->variant];
}

static inline struct sfi_act *sfi_act_at(const struct sfi_worker *w, uint32_t instance, uint32_t stream) {
    return &w->acts[(size_t)instance * w->streams_n + stream];
}

/* Run a cell until it has to wait for others. `first`: nothing of it has started yet. */
int sfi_visit(struct sfi_worker *w, struct sfi_cell *cell, bool first);
/* A member's op has come to its turn. */
void sfi_issue(struct sfi_worker *w, uint32_t instance, uint32_t op);
/* Find the cells that do the same as the first of their kind until they come to a collective; follow.c. They are given
 * its state by the first visit to that one. */
int sfi_follow_find(struct sfi_table *t, const struct sfi_variants *variants, struct sf_arena *arena,
                    struct sf_err *err);
/* Visit every cell that is not led for the first time, on as many threads as there are workers. */
int sfi_follow_begin(struct sfi_worker *workers, uint32_t workers_n, struct sf_arena *arena, struct sf_err *err);
/* A leading cell holds collectives back: from now on those it leads go on by themselves. */
void sfi_follow_part(struct sfi_worker *w);
/* Have what a visit will touch loaded: the cell's lists, then the members that can go on. */
void sfi_prepare_lists(const struct sfi_cell *cell);
void sfi_prepare_members(const struct sfi_worker *w, const struct sfi_cell *cell);

#endif
