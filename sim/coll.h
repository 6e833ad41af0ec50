/* The time of a collective by algorithm and protocol.
 *
 * Two models side by side, both fed with constants from topo/catalog/nccl:
 *   - what NCCL itself expects (its tuning model: latency + bytes / bandwidth), which decides what a job would run, and
 *     is the time too where the cluster asks for that;
 *   - what the algorithm takes, from its steps: bytes that the busiest link carries, hops that nothing hides, chunks in
 *     the pipeline.
 * Everything depends on the span and on class-level facts alone. docs/collectives.md compares both with measurements.
 */
#ifndef SF_SIM_COLL_H
#define SF_SIM_COLL_H

#include <stdbool.h>

#include "core/collective.h"
#include "core/hash.h"
#include "core/io.h"
#include "sim/cost.h"
#include "topo/topo.h"

struct sf_coll; /* immutable after creation */

/* *out is NULL when the device of the topology names no collective model. */
int sf_coll_create(const struct sf_topo *topo, const struct sf_io *io, struct sf_coll **out, struct sf_err *err);
void sf_coll_free(struct sf_coll *c); /* NULL is legal */
struct sf_hash sf_coll_hash(const struct sf_coll *c);

/* `bytes`: all_reduce and broadcast, the vector; the others, the whole buffer of one rank, as nccl-tests counts. */
struct sf_coll_query {
    enum sf_coll_op op;
    uint64_t bytes;
    struct sf_span span;
};

struct sf_coll_choice {
    enum sf_coll_algorithm algorithm;
    enum sf_coll_protocol protocol;
    double time_s;  /* that of the cluster's choice: steps_s, or nccl_s where it asks for that and NCCL has one */
    double steps_s; /* what the steps take */
    double nccl_s;  /* what NCCL expects; negative where it has no estimate */
    bool by_nccl;   /* time_s is nccl_s */
};

/* False when the algorithm cannot do this: wrong collective, no switch that adds, ... */
bool sf_coll_price(const struct sf_coll *c, const struct sf_coll_query *q, enum sf_coll_algorithm algorithm,
                   enum sf_coll_protocol protocol, struct sf_coll_choice *out);
/* Every pair that can do it, in the order of the enums. */
#define SF_COLL_CANDIDATES (SF_COLL_ALGORITHMS_N * SF_COLL_PROTOCOLS_N)
size_t sf_coll_candidates(const struct sf_coll *c, const struct sf_coll_query *q,
                          struct sf_coll_choice out[SF_COLL_CANDIDATES]);
/* NCCL runs what it is told where it has an estimate of its own; all_to_all is made of messages, in whatever way. */
static inline bool sf_coll_can_be_told(enum sf_coll_op op, const struct sf_coll_choice *c) {
    return op == SF_COLL_ALL_TO_ALL || c->nccl_s >= 0;
}
/* What the job would run: the span's pick where that can be done, or the quickest where the span asks for it; else the
 * cluster's `collectives:` where it can, among the rest what NCCL expects to be fastest; all_to_all, which NCCL does
 * not tune, by time_s. One member takes no time. */
void sf_coll_choose(const struct sf_coll *c, const struct sf_coll_query *q, struct sf_coll_choice *out);

/* What a time rests on: the links it crosses, and whether this device's times were held against published ones there.
 * NCCL's own times are made to choose by, and extrapolated. */
enum sf_grade sf_coll_grade(const struct sf_coll *c, enum sf_coll_op op, const struct sf_span *span);
/* Whether collectives that NCCL tunes are priced by what NCCL expects: `collectives: { times: nccl }`. */
bool sf_coll_by_nccl(const struct sf_coll *c);

/* Bus bandwidth of nccl-tests: what makes a ring on full links show their rate whatever the number of ranks. */
double sf_coll_busbw(enum sf_coll_op op, uint32_t members, uint64_t bytes, double time_s);

#endif
