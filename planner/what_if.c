#include "planner/what_if.h"

#include <math.h>

#include "planner/search_internal.h"

#define CLOSE 1.02

/* INFINITY where the plan does not fit such a batch. */
static int worth_on(const struct sf_scenario *s, const struct sf_scenario *whole, const struct sf_cost *cost,
                    int objective, const struct sf_plan *plan, double *out, struct sf_err *err) {
    const struct sf_sim_options options = {.seed = s->job.seed, .threads = 1};
    struct sf_sim_result r;
    struct sf_merit merit;
    struct sf_prog *prog;
    *out = INFINITY;
    int rc = sf_compile(s, plan, &prog, err);
    if (rc != 0) {
        return rc == SF_E_NOPLAN || rc == SF_E_INPUT ? 0 : rc;
    }
    rc = sf_sim_run(prog, cost, &options, &r, err);
    if (rc == 0) {
        sfi_merit_init(s, plan, prog, sf_ps_to_s(r.step_time), &merit);
        *out = sfi_worth_s(whole, objective, &merit, sf_ps_to_s(r.step_time));
    }
    sf_prog_free(prog);
    return rc;
}

int sf_asked_worth_s(const struct sf_scenario *s, const char *kernels, int objective, const struct sf_plan *plan,
                     const struct sf_asked *asked, double *out, struct sf_err *err) {
    struct sf_scenario other;
    struct sf_plan same = *plan;
    struct sf_cost *cost = NULL;
    double microbatches = plan->microbatches * asked->batch;
    *out = INFINITY;
    if (microbatches < 1 || microbatches > UINT16_MAX || fabs(microbatches - round(microbatches)) > 1e-9) {
        return 0;
    }
    same.microbatches = (uint32_t)round(microbatches);
    sf_scenario_narrow(s, plan, &other);
    other.job.global_batch_sequences = (uint64_t)plan->dp * plan->micro_batch * same.microbatches;
    SF_TRY(sf_topo_scaled(s->topo, &asked->by, &other.topo, err));
    int rc = sf_cost_create(other.topo, &sf_io_posix, kernels, &cost, err);
    rc = rc == 0 ? worth_on(&other, s, cost, objective, &same, out, err) : rc;
    sf_cost_free(cost);
    sf_topo_scaled_free(other.topo);
    return rc;
}

enum knob { NETWORK, NVLINK, BATCH };

struct question {
    const struct sf_scenario *s;
    const char *kernels;
    int objective;
    enum knob knob;
    const struct sf_plan *plan, *winner;
};

/* Below 1 the plan wins. */
static int ratio_at(const struct question *q, double factor, struct sf_turn *turn, double *out, struct sf_err *err) {
    struct sf_asked asked = {{1, 1, 1}, 1};
    double mine, other;
    *(q->knob == NETWORK ? &asked.by.out : q->knob == NVLINK ? &asked.by.up : &asked.batch) = factor;
    SF_TRY(sf_asked_worth_s(q->s, q->kernels, q->objective, q->plan, &asked, &mine, err));
    *out = mine;
    if (isfinite(mine)) {
        SF_TRY(sf_asked_worth_s(q->s, q->kernels, q->objective, q->winner, &asked, &other, err));
        *out = mine / other; /* a winner that does not fit any more has lost */
        turn->nearest = fmin(turn->nearest, *out);
    }
    return 0;
}

/* `loses` and `wins` are factors on one side of 1. */
static int close_in(const struct question *q, double loses, double wins, struct sf_turn *turn, struct sf_err *err) {
    while (fmax(wins / loses, loses / wins) > CLOSE) {
        double middle = sqrt(wins * loses), ratio;
        SF_TRY(ratio_at(q, middle, turn, &ratio, err));
        *(ratio < 1 ? &wins : &loses) = middle;
    }
    turn->factor = wins;
    return 0;
}

static int ask_rate(const struct question *q, struct sf_turn *turn, struct sf_err *err) {
    static const double steps[] = {4, SF_WHAT_IF_MOST};
    double loses[2] = {1, 1};
    *turn = (struct sf_turn){0, INFINITY};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        for (int slower = 0; slower < 2; slower++) {
            double factor = slower ? 1 / steps[i] : steps[i], ratio;
            SF_TRY(ratio_at(q, factor, turn, &ratio, err));
            if (ratio < 1) {
                return close_in(q, loses[slower], factor, turn, err);
            }
            loses[slower] = factor;
        }
    }
    return 0;
}

/* Whole multiples, and halves. */
static int ask_batch(const struct question *q, struct sf_what_if *out, struct sf_err *err) {
    static const double tries[] = {2, 0.5, 3, 4, 0.25, 6, 8};
    out->batch = (struct sf_turn){0, INFINITY};
    out->batch_fixed = q->plan->schedule == SF_SCHEDULE_TABLE || q->winner->schedule == SF_SCHEDULE_TABLE;
    for (size_t i = 0; i < sizeof tries / sizeof *tries && !out->batch_fixed && !(out->batch.factor > 0); i++) {
        double ratio;
        SF_TRY(ratio_at(q, tries[i], &out->batch, &ratio, err));
        if (ratio < 1) {
            out->batch.factor = tries[i];
            out->microbatches = (uint32_t)round(q->plan->microbatches * tries[i]);
        }
    }
    return 0;
}

int sf_what_if(const struct sf_scenario *s, const char *kernels, int objective, const struct sf_plan *plan,
               const struct sf_plan *winner, struct sf_what_if *out, struct sf_err *err) {
    struct question q = {s,       kernels, objective == SF_OBJECTIVE_P95 ? SF_OBJECTIVE_TIME : objective,
                         NETWORK, plan,    winner};
    *out = (struct sf_what_if){.microbatches = plan->microbatches};
    SF_TRY(ask_rate(&q, &out->network, err));
    q.knob = NVLINK;
    SF_TRY(ask_rate(&q, &out->nvlink, err));
    q.knob = BATCH;
    return ask_batch(&q, out, err);
}
