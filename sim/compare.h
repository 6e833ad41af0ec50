/* Forecast against measurement: a join of two traces of one program on (rank, iteration, op).
 *
 * Times compared are `busy`: what the device worked on the op. Per (rank, op) the median over iterations counts, the
 * first `skip` iterations (caches, page faults, frequency) left out. Signed errors are (predicted - measured) /
 * measured, as fractions. Where a measured record covers several ops, the prediction is their sum. */
#ifndef SF_SIM_COMPARE_H
#define SF_SIM_COMPARE_H

#include <stdbool.h>

#include "core/io.h"
#include "core/prog.h"
#include "core/trace.h"
#include "sim/cost.h"

struct json_t; /* jansson */

struct sf_compare_options {
    uint32_t skip;                        /* iterations of the measured trace left out at its start */
    double tolerance;                     /* of the step's CPU time, as a fraction */
    uint32_t gaps;                        /* largest gaps wanted */
    const struct sf_cost *cost;           /* to replay the measured times; NULL: no replayed makespan */
    const struct sf_estimates *estimates; /* of a third party; NULL: none */
    bool order_only; /* the measured trace is of a device that keeps no time: only its order is looked at */
};
#define SF_COMPARE_SKIP 2
#define SF_COMPARE_TOLERANCE 0.10
#define SF_COMPARE_GAPS 20

/* Ops of one kind, of one recipe, or all of them. */
struct sf_compare_group {
    char name[SF_NAME];             /* op kind or recipe */
    int kind;                       /* enum sf_op_kind; -1 for all */
    uint32_t recipe;                /* SF_NONE unless grouped by recipe */
    uint64_t count;                 /* joined ops over all ranks, per iteration */
    uint64_t timed;                 /* of these, with a measured time above zero */
    sf_time_ps predicted, measured; /* busy, summed */
    double error;                   /* signed; 0 when nothing was measured, see `timed` */
    double p50, p90;                /* of the absolute errors of single ops */
    double time_p50, time_p90;      /* the same with every op weighted by its measured time */
    double share;                   /* of the sum of absolute group errors: who is to blame */
    uint64_t estimated_n;           /* ops that the library has estimated; then these sums are of them alone: */
    sf_time_ps estimated, estimated_predicted, estimated_measured;
};

struct sf_compare_gap {
    uint32_t rank, op;
    int kind;
    char label[64];
    sf_time_ps predicted, measured;
};

enum sf_order_rule { SF_ORDER_STREAM, SF_ORDER_DEPENDENCY };

/* `op` started before `before` on its stream had started, or before `before`, which it depends on, had ended. */
struct sf_order_violation {
    uint32_t rank, iter, op, before;
    int rule; /* enum sf_order_rule */
    sf_time_ps by;
    char label[64], before_label[64];
};
#define SF_COMPARE_VIOLATIONS 16 /* kept; all are counted */

struct sf_compare {
    struct sf_hash prog;
    double tolerance;
    uint32_t ranks, iterations, skip; /* of the measured trace */
    struct sf_compare_group step;     /* all ops of all ranks: the step's CPU time */
    struct sf_compare_group *kinds;   /* only kinds that occur, in program order of enum sf_op_kind */
    struct sf_compare_group *recipes; /* by share, largest first; communication grouped by kind */
    struct sf_compare_gap *gaps;      /* by absolute difference, largest first */
    size_t kinds_n, recipes_n, gaps_n;
    uint64_t unpredicted, unmeasured; /* ops found in only one of the traces */
    sf_time_ps predicted_makespan;
    sf_time_ps replayed_makespan; /* the program with the measured busy times, unthrottled; -1 without a cost model */
    sf_time_ps wall;              /* median over iterations */
    uint32_t typical_iter;        /* the iteration whose wall time is nearest to the median */
    uint64_t order_checked;       /* orderings looked at in the measured trace */
    uint64_t order_violations_n;
    struct sf_order_violation order_violations[SF_COMPARE_VIOLATIONS];
    uint64_t missing_ops; /* ops of a traced (rank, iteration) without a record */
    bool order_only;      /* nothing but the order_* fields and missing_ops is known */
    bool whole;           /* every op joined, and executed in the program's order */
    bool within;          /* whole, and |step.error| <= tolerance */
};

/* Both traces must be in sf_trace_sort order. SF_E_INPUT: traces of another program (both hashes are named), records
 * that do not fit the program, nothing to join, too few iterations. */
int sf_compare_run(const struct sf_prog *prog, const struct sf_trace *predicted, const struct sf_trace *measured,
                   const struct sf_compare_options *options, struct sf_compare *out, struct sf_err *err);
void sf_compare_clear(struct sf_compare *c);                /* NULL is legal */
struct json_t *sf_compare_json(const struct sf_compare *c); /* a new reference; NULL when out of memory */
const char *sf_order_rule_name(int rule);

/* What a communication library itself thinks that its collectives take; written by staticfire-run --estimates. */
struct sf_estimate {
    uint32_t rank, op;
    sf_time_ps time; /* -1: it did not say */
};
struct sf_estimates {
    struct sf_hash prog;
    char source[128];         /* versions of device and libraries */
    struct sf_estimate *list; /* by rank and op */
    size_t n;
};
/* Every entry must be a collective of the program, with its kind, communicator and bytes. SF_E_INPUT names the place.
 */
int sf_estimates_load(const struct sf_io *io, const char *path, const struct sf_prog *prog, struct sf_estimates *out,
                      struct sf_err *err);
void sf_estimates_clear(struct sf_estimates *e); /* legal on a zeroed one */

/* A forecast that cannot be bent afterwards: one JSON object with the hashes of everything the prediction rests on, the
 * predicted numbers, and a seal, the hash of all that. It holds no date, so the same inputs give the same seal. */
struct sf_forecast {
    struct sf_hash prog, topo, cost;
    struct sf_hash trace; /* of the trace file's bytes */
    uint64_t seed;
    sf_time_ps step_cpu;  /* busy of all ops of all ranks */
    sf_time_ps step_time; /* makespan */
    char trace_file[512], prog_file[512], cluster_file[512],
        kernels_file[512]; /* relative to the forecast; "" = none */
    struct sf_hash seal;
};

/* Computes the seal and prints the file. */
int sf_forecast_print(struct sf_forecast *f, struct sf_buf *out, struct sf_err *err);
/* SF_E_INPUT when the content does not match its seal: both are named. */
int sf_forecast_load(const struct sf_io *io, const char *path, struct sf_forecast *out, struct sf_err *err);
/* Is `trace` (whose file has the hash `file`) the prediction that was sealed? */
int sf_forecast_check(const struct sf_forecast *f, const struct sf_trace *trace, struct sf_hash file,
                      struct sf_err *err);

/* Busy time of all records of iteration 0. */
int sf_trace_busy(const struct sf_trace *t, sf_time_ps *out, struct sf_err *err);

#endif
