/* What a communicator's collectives may run on: the words of NCCL's algorithms and protocols, and a program's picks
 * among them. */
#ifndef SF_CORE_COLLECTIVE_H
#define SF_CORE_COLLECTIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* X(NAME, "name") */
#define SF_COLL_OPS(X)                                                                                                 \
    X(ALL_REDUCE, "all_reduce")                                                                                        \
    X(ALL_GATHER, "all_gather")                                                                                        \
    X(REDUCE_SCATTER, "reduce_scatter")                                                                                \
    X(ALL_TO_ALL, "all_to_all")                                                                                        \
    X(BROADCAST, "broadcast")
/* X(NAME, "name") - the first six are NCCL's, with its own estimate of their time. */
#define SF_COLL_ALGORITHMS(X)                                                                                          \
    X(TREE, "tree") /* chain inside a domain, double binary tree across */                                             \
    X(RING, "ring")                                                                                                    \
    X(COLLNET, "collnet")           /* the network's switches add up (SHARP), NVLink point to point */                 \
    X(NVLS, "nvls")                 /* NVSwitch adds up; across domains only with SHARP */                             \
    X(NVLS_TREE, "nvls_tree")       /* NVSwitch inside, double binary tree across */                                   \
    X(PAT, "pat")                   /* binomial, one GPU per domain */                                                 \
    X(DIRECT, "direct")             /* all_to_all: one message per peer */                                             \
    X(RAIL, "rail")                 /* all_to_all: over NVLink to the peer's rail, then one message per domain */      \
    X(HIERARCHICAL, "hierarchical") /* all_to_all: the same in two phases, one after the other */
/* X(NAME, "name") */
#define SF_COLL_PROTOCOLS(X)                                                                                           \
    X(LL, "ll")         /* a flag with every 4 bytes */                                                                \
    X(LL128, "ll128")   /* a flag with every 120 bytes */                                                              \
    X(SIMPLE, "simple") /* a flag per slice */

#define X(NAME, name) SF_COLL_##NAME,
enum sf_coll_op { SF_COLL_OPS(X) SF_COLL_OPS_N };
enum sf_coll_algorithm { SF_COLL_ALGORITHMS(X) SF_COLL_ALGORITHMS_N };
enum sf_coll_protocol { SF_COLL_PROTOCOLS(X) SF_COLL_PROTOCOLS_N };
#undef X

const char *sf_coll_op_name(int op);
const char *sf_coll_algorithm_name(int algorithm);
const char *sf_coll_protocol_name(int protocol);
int sf_coll_op_parse(const char *name); /* -1 when unknown; so do the next two */
int sf_coll_algorithm_parse(const char *name);
int sf_coll_protocol_parse(const char *name);

/* Of one communicator, by operation: 0 is what NCCL picks by size, else SF_COLL_PICK of a pair. */
struct sf_coll_picks {
    uint8_t of[SF_COLL_OPS_N];
};
#define SF_COLL_PICK(algorithm, protocol) (1 + (algorithm)*SF_COLL_PROTOCOLS_N + (protocol))
#define SF_COLL_PICKS_N SF_COLL_PICK(SF_COLL_ALGORITHMS_N - 1, SF_COLL_PROTOCOLS_N)

static inline int sf_coll_pick_algorithm(uint8_t pick) {
    return (pick - 1) / SF_COLL_PROTOCOLS_N;
}
static inline int sf_coll_pick_protocol(uint8_t pick) {
    return (pick - 1) % SF_COLL_PROTOCOLS_N;
}
bool sf_coll_picks_any(const struct sf_coll_picks *picks);

/* "ring/ll128"; 0 is "nccl". Parsing gives -1 when unknown. */
#define SF_COLL_PICK_TEXT 32
const char *sf_coll_pick_text(uint8_t pick, char out[SF_COLL_PICK_TEXT]);
int sf_coll_pick_parse(const char *text);

#endif
