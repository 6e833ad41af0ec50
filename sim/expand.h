/* A collective chunk by chunk, for members that arrive when they arrive and links that differ.
 *
 * sim/coll.h says how long a collective takes when all members arrive together over equal links. Here every transfer of
 * a chunk is a step of its own: it starts once the chunk is there, the link has sent the one before, and the receiver
 * has a buffer slot free. With equal arrivals and links the two agree within 1 %.
 *
 * What a transfer takes rests on the same numbers as the closed form (coll_internal.h). Times are whole picoseconds, so
 * the result depends on neither compiler nor vector width nor thread. */
#ifndef SF_SIM_EXPAND_H
#define SF_SIM_EXPAND_H

#include "sim/coll.h"

struct sfi_expand_ask {
    const struct sf_coll *coll;
    struct sf_coll_query query;       /* span.members is the number of members */
    enum sf_coll_algorithm algorithm; /* as sf_coll_choose picked */
    enum sf_coll_protocol protocol;
    const uint32_t *domain;   /* by member, in rank order: members of a domain are side by side */
    const sf_time_ps *arrive; /* by member */
    const double *up, *out;   /* by member: what is left of its scale-up link and of its NIC, 0 < share <= 1; or NULL */
};

/* Working memory of one thread; grows to what the largest question needs. */
struct sfi_expand;
struct sfi_expand *sfi_expand_create(void); /* NULL when out of memory */
void sfi_expand_free(struct sfi_expand *x); /* NULL is legal */

/* Transfers (member, channel, chunk, step) that the collective consists of; UINT64_MAX when more. Channels whose rings
 * or trees are the same rank for rank are worked out once, so the work is less. */
uint64_t sfi_expand_chunks(const struct sfi_expand_ask *ask);

/* When every member is done. Refuses a broadcast, what the algorithm cannot do, more than `chunks_max` transfers, and
 * times beyond two hours. */
int sfi_expand_run(struct sfi_expand *x, const struct sfi_expand_ask *ask, uint64_t chunks_max, sf_time_ps *end,
                   struct sf_err *err);

#endif
