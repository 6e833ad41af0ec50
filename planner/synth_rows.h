/* Placing passes by the order of keys, each into the earliest room that is free on its device: between passes that were
 * placed before it, or behind them. The same code runs a pipeline forward and backward in time.
 *
 * Passes of a stage and kind are a *class*; microbatches are alike, so a class runs them in order. Memory: a class
 * takes some at its start or gives some back at its end; placing between passes never lets the device hold more than
 * the limit at any time. */
#ifndef SF_PLANNER_SYNTH_ROWS_H
#define SF_PLANNER_SYNTH_ROWS_H

#include "planner/synth_internal.h"

struct sfi_class {
    uint16_t device;
    uint8_t needs_n, feeds_n;
    uint16_t needs[2], feeds[2]; /* classes */
    sf_time_ps lag[2];           /* of needs: from their end to here */
    sf_time_ps time;
    double take; /* memory; negative: gives back */
};

struct sfi_rows;
int sfi_rows_create(uint32_t devices, uint32_t classes, uint32_t microbatches, double limit, struct sfi_rows **out,
                    struct sf_err *err);
void sfi_rows_free(struct sfi_rows *r); /* NULL is legal */

/* Starts of all passes, [class][microbatch] as keys are; `release` (may be NULL) [devices] is when a device begins.
 * False: memory ran into a deadlock. Passes placed are added to *placed. */
bool sfi_rows_place(struct sfi_rows *r, const struct sfi_class *classes, const sf_time_ps *key,
                    const sf_time_ps *release, sf_time_ps *start, uint64_t *placed);

#endif
