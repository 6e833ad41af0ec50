/* Where cells meet: the rendezvous of a collective, reached from several threads.
 *
 * Members arrive; the last arrival fixes when the collective is ready. Members report when their part of the bytes has
 * moved; the last report fixes when it ends. Everything is a maximum or a count, so the order in which threads get here
 * changes nothing. The collectives of a group run one after the other, so later ones only raise what earlier ones left:
 * nothing is ever reset. `round` counts them from 0. */
#ifndef SF_SIM_MEET_H
#define SF_SIM_MEET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/units.h"

struct sfi_expansion_group; /* expander.c */

struct sfi_group {
    _Atomic uint64_t arrived, reported; /* of all rounds; expanded: reported counts rounds */
    _Atomic sf_time_ps ready;           /* last arrival so far */
    _Atomic sf_time_ps until;           /* the last of the members' parts to end, and no less than undisturbed */
    _Atomic sf_time_ps bound;           /* the last of those still to come arrives, or reports, no earlier */
    uint32_t members_n, stream;
    struct sfi_expansion_group *expansion; /* NULL: collectives as a whole */
    uint32_t lane, number;                 /* whose it is, and which of its groups of ranks */
};
_Static_assert(sizeof(struct sfi_group) == 64, "one cache line");

static inline void sfi_raise(_Atomic sf_time_ps *at, sf_time_ps value) {
    sf_time_ps old = atomic_load_explicit(at, memory_order_relaxed);
    while (old < value &&
           !atomic_compare_exchange_weak_explicit(at, &old, value, memory_order_release, memory_order_relaxed)) {
    }
}

static inline bool sfi_meet_last(_Atomic uint64_t *count, uint32_t members_n, uint32_t round) {
    return atomic_fetch_add_explicit(count, 1, memory_order_acq_rel) + 1 == (uint64_t)members_n * (round + UINT64_C(1));
}

/* True for the last to arrive. */
static inline bool sfi_meet_arrive(struct sfi_group *g, uint32_t round, sf_time_ps now) {
    sfi_raise(&g->ready, now);
    return sfi_meet_last(&g->arrived, g->members_n, round);
}

/* True for the last to report. */
static inline bool sfi_meet_report(struct sfi_group *g, uint32_t round, sf_time_ps until) {
    sfi_raise(&g->until, until);
    return sfi_meet_last(&g->reported, g->members_n, round);
}

static inline bool sfi_meet_done(const _Atomic uint64_t *count, uint32_t members_n, uint32_t round) {
    return atomic_load_explicit(count, memory_order_acquire) >= (uint64_t)members_n * (round + UINT64_C(1));
}

/* Expanded: it is known when each member is done. */
static inline void sfi_meet_tell(struct sfi_group *g, uint32_t round) {
    atomic_store_explicit(&g->reported, round + UINT64_C(1), memory_order_release);
}

static inline bool sfi_meet_is_ready(const struct sfi_group *g, uint32_t round) {
    return g->expansion ? sfi_meet_done(&g->reported, 1, round) : sfi_meet_done(&g->arrived, g->members_n, round);
}

static inline bool sfi_meet_is_reported(const struct sfi_group *g, uint32_t round) {
    return sfi_meet_done(&g->reported, g->members_n, round);
}

#endif
