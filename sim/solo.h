/* Instances behind their last transfer: nothing but collectives joins them to others any more.
 *
 * In a cell they would hold back those that still transfer, and be held back by them: every collective that one of them
 * waits in stops the cell. So each leaves its cell and goes on as one by itself. Solos that meet in collectives,
 * directly or through others, form a band; most often all replicas of one pipeline stage. When all of a band have left
 * their cells it has nothing to do with the rest of the island, and one thread sees it through while it is in the
 * caches. */
#ifndef SF_SIM_SOLO_H
#define SF_SIM_SOLO_H

#include "sim/crew.h"

struct sfi_band {
    uint32_t first, n; /* of the solos */
    _Atomic uint32_t gone;
};

struct sfi_solos {
    struct sfi_cell *cells; /* band by band */
    uint32_t *place;        /* by instance */
    uint32_t *band_of;      /* by instance */
    struct sfi_band *bands; /* island by island */
    uint32_t *island_first; /* [islands_n + 1] into bands */
    struct sfi_last *last;  /* by class */
    uint32_t bands_n;
};

/* NULL where nobody has anything to gain. */
int sfi_solos_create(const struct sfi_run *run, struct sf_arena *arena, struct sfi_solos **out, struct sf_err *err);

/* It has no transfer before it any more. */
bool sfi_solo_ready(const struct sfi_worker *w, const struct sfi_inst *in);
/* Move it from the worker's cell to one of its own, which becomes the worker's. */
void sfi_solo_leave(struct sfi_worker *w, uint32_t instance);

static inline bool sfi_band_open(const struct sfi_band *b) { /* some have left, others not */
    uint32_t gone = atomic_load_explicit(&b->gone, memory_order_acquire);
    return gone > 0 && gone < b->n;
}

#endif
