/* What a plan is chosen for, and what a step is worth beyond its time: what failures and checkpoints leave of a day,
 * and what has to be paid for. */
#ifndef SF_PLANNER_OBJECTIVE_H
#define SF_PLANNER_OBJECTIVE_H

#include "core/prog.h"
#include "planner/job.h"
#include "planner/plan.h"

/* X(NAME, "name") */
#define SF_OBJECTIVES(X)                                                                                               \
    X(TIME, "time")       /* of one step */                                                                            \
    X(P95, "p95")         /* the step's time that 95 of 100 steps keep when kernel times vary */                       \
    X(GOODPUT, "goodput") /* tokens per day that training keeps, failures and checkpoints counted */                   \
    X(COST, "cost")       /* of a token that training keeps, every GPU of an occupied domain paid for */
enum sf_objective {
#define X(NAME, name) SF_OBJECTIVE_##NAME,
    SF_OBJECTIVES(X)
#undef X
        SF_OBJECTIVES_N
};
const char *sf_objective_name(int objective);
int sf_objective_parse(const char *name); /* -1 when unknown */

struct sf_merit {
    double worth_s; /* what is compared, less is better: the step's time, drawn out by what the objective adds to it */
    double p95_s;   /* 0: not simulated */
    uint32_t paid_gpus;        /* of all domains that ranks sit in */
    double mtbf_s;             /* of the whole job; 0: nothing fails */
    double save_s, restart_s;  /* one checkpoint; from a failure to the first step after it */
    double interval_s;         /* from checkpoint to checkpoint, a whole number of steps; 0: none are needed */
    double kept;               /* share of the time that ends up as training */
    double tokens_per_day;     /* that count */
    double cost_per_megatoken; /* in the unit of the job's price */
};

/* Share of the time that is kept when every `interval_s` of work ends with a checkpoint of save_s and failures come
 * mtbf_s apart on average, exponentially, each costing restart_s and what was done since the last checkpoint: J. T.
 * Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", FGCS 22 (2006), equation 13. */
double sf_kept_share(double interval_s, double save_s, double restart_s, double mtbf_s);
/* The whole number of steps of step_s that keeps most, near Daly's optimum. */
double sf_best_interval_s(double step_s, double save_s, double restart_s, double mtbf_s);

/* All but worth_s and p95_s. */
void sfi_merit_init(const struct sf_scenario *s, const struct sf_plan *plan, const struct sf_prog *prog, double step_s,
                    struct sf_merit *out);
/* At least the step's time, and equal to it where nothing but what no plan on all of the job's GPUs escapes is lost. */
double sfi_worth_s(const struct sf_scenario *s, int objective, const struct sf_merit *m, double step_s);
/* What a step on `gpus` of the job's GPUs is worth at the least, for each second that it takes. */
double sfi_worth_scale(const struct sf_scenario *s, int objective, uint32_t gpus);
/* GPUs of the domains that so many ranks occupy. */
uint32_t sfi_paid_gpus(const struct sf_topo *topo, uint32_t gpus, uint32_t ranks_per_domain);

#endif
