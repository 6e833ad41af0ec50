/* What a program's collectives run on, where it says so. */
#ifndef SF_SIM_PICKS_H
#define SF_SIM_PICKS_H

#include "sim/coll.h"

/* SF_E_INPUT where this cluster cannot: no collective model, measured collectives that know no algorithms, or a pair
 * that the span of the communicator's first group rules out; says what there is. */
int sf_picks_check(const struct sf_prog *prog, const struct sf_cost *cost, struct sf_err *err);

/* Collectives of the program and what they run on, alike ones once. */
struct sf_pick_use {
    uint32_t comm;
    enum sf_coll_op op;
    uint64_t bytes;       /* of the largest call */
    double now_s, best_s; /* of all calls of one rank of every class together, as NCCL picks and on `best` */
    uint8_t best;         /* 0: what NCCL picks is as quick as anything, within the margin */
    uint8_t nccl;         /* what it picks for the largest */
};
#define SF_PICK_USES (SF_MAX_COMMS * SF_COLL_OPS_N)

/* For every communicator and operation the pair that makes all its calls together quickest, by the model's times. Only
 * where that gains more than SF_PICK_MARGIN. Returns how many uses there are; 0 without a collective model. */
#define SF_PICK_MARGIN 0.08
size_t sf_picks_find(const struct sf_prog *prog, const struct sf_cost *cost, struct sf_pick_use out[SF_PICK_USES]);

#endif
