/* Inside compare: medians per (rank, op), their join, statistics over it, and the order check. */
#ifndef SF_SIM_COMPARE_JOIN_H
#define SF_SIM_COMPARE_JOIN_H

#include "sim/compare.h"

/* Median busy time of ops op .. op+covers-1 of a rank. */
struct sfi_median {
    uint32_t rank, op, covers;
    sf_time_ps busy;
};

struct sfi_medians {
    struct sfi_median *at; /* by (rank, op) */
    size_t n;
};

/* The smallest runs of ops that both traces have as whole records. */
struct sfi_cell {
    uint32_t rank, op, covers;
    sf_time_ps predicted, measured;
};

struct sfi_join {
    struct sfi_cell *cells; /* by (rank, op) */
    size_t n;
    uint64_t unpredicted, unmeasured; /* records without a partner */
};

/* Do the records belong to the program, and are they in file order? `role` names the trace in messages. */
int sfi_trace_check(const struct sf_prog *prog, const struct sf_trace *t, const char *role, struct sf_err *err);
int sfi_medians_of(const struct sf_trace *t, uint32_t skip, struct sfi_medians *out, struct sf_err *err);
int sfi_join_medians(const struct sfi_medians *predicted, const struct sfi_medians *measured, struct sfi_join *out,
                     struct sf_err *err);

/* Fills step, kinds, recipes and gaps of `out`. Estimates may be NULL. */
int sfi_compare_groups(const struct sf_prog *prog, const struct sfi_join *join,
                       const struct sf_compare_options *options, struct sf_compare *out, struct sf_err *err);
/* Fills the order_* fields and missing_ops. */
int sfi_compare_order(const struct sf_prog *prog, const struct sf_trace *measured, struct sf_compare *out,
                      struct sf_err *err);

/* The op kind that a cell, gap or record belongs to: that of its first op. */
const struct sf_op *sfi_op(const struct sf_prog *prog, uint32_t rank, uint32_t op);

#endif
