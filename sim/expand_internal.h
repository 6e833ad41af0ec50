/* What the files of the expansion share. Times are doubles that hold whole picoseconds: sums and maxima of them are
 * exact below 2^53, and vectors of them are fast on every machine. */
#ifndef SF_SIM_EXPAND_INTERNAL_H
#define SF_SIM_EXPAND_INTERNAL_H

#include "sim/coll_internal.h"
#include "sim/expand.h"

/* One question, ready to be worked on. All arrays are by member unless they say otherwise. */
struct sfi_expansion {
    const struct sfi_expand_ask *ask;
    struct sfi_ask a;
    uint32_t n, domains_n;
    uint32_t most;     /* members of the fullest domain */
    uint32_t channels; /* that differ: rotations inside a domain */
    uint32_t *first;   /* [domains_n + 1] first member of each domain */
    uint32_t *domain;  /* index of its domain, 0 .. domains_n - 1 */
    double *arrive;    /* since the earliest */
    double *end;
    double *room;      /* for whoever runs: as many numbers as its sfi_*_room says */
    uint32_t *numbers; /* likewise */
};

struct sfi_room {
    size_t doubles, numbers;
};

/* Whole picoseconds. */
double sfi_expand_ps(double seconds);
/* The member at position i of a domain in the order of channel c, which comes in and goes out by that rail. */
static inline uint32_t sfi_expand_member(const struct sfi_expansion *x, uint32_t domain, uint32_t i, uint32_t channel) {
    uint32_t local = x->first[domain + 1] - x->first[domain];
    return x->first[domain] + (i + channel) % local;
}
static inline double sfi_expand_up(const struct sfi_expansion *x, uint32_t member) {
    return x->ask->up ? x->ask->up[member] : 1.0;
}
static inline double sfi_expand_out(const struct sfi_expansion *x, uint32_t member) {
    return x->ask->out ? x->ask->out[member] : 1.0;
}
static inline double sfi_later(double a, double b) {
    return a > b ? a : b;
}
static inline double sfi_lesser(double a, double b) {
    return a < b ? a : b;
}

/* Per algorithm: how many transfers (as a double, since it may be absurd), how much room, and when everybody is done.
 * False: it cannot do this. */
double sfi_expand_ring_chunks(const struct sfi_expansion *x);
struct sfi_room sfi_expand_ring_room(const struct sfi_expansion *x);
bool sfi_expand_ring(struct sfi_expansion *x);

double sfi_expand_tree_chunks(const struct sfi_expansion *x);
struct sfi_room sfi_expand_tree_room(const struct sfi_expansion *x);
bool sfi_expand_tree(struct sfi_expansion *x);

double sfi_expand_pump_chunks(const struct sfi_expansion *x);
struct sfi_room sfi_expand_pump_room(const struct sfi_expansion *x);
bool sfi_expand_pump(struct sfi_expansion *x);

double sfi_expand_pat_chunks(const struct sfi_expansion *x);
struct sfi_room sfi_expand_pat_room(const struct sfi_expansion *x);
bool sfi_expand_pat(struct sfi_expansion *x);

double sfi_expand_exchange_chunks(const struct sfi_expansion *x);
struct sfi_room sfi_expand_exchange_room(const struct sfi_expansion *x);
bool sfi_expand_exchange(struct sfi_expansion *x);

/* A double binary tree over `n` domains, tree 0 or 1: the parent of each, SF_NONE for the root, and an order in which
 * children come before their parents. */
void sfi_expand_binary(uint32_t n, uint32_t tree, uint32_t *parent, uint32_t *order);

#endif
