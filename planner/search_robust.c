/* The 95th percentile of finalists under noise. Noise has mean 1 and a step ends with the last of many, so on average
 * no step gets shorter by it: what bounds the undisturbed step bounds these too. */
#include <stdlib.h>

#include "planner/search_internal.h"

#define USUAL_JITTER 0.05
#define USUAL_SEEDS 8
#define MOST_NOISY_EVENTS UINT64_C(400000000) /* simulated beyond the answers that are wanted */

static int by_worth(const void *left, const void *right) {
    const struct sf_plan_result *a = left, *b = right;
    if (a->merit.worth_s < b->merit.worth_s || a->merit.worth_s > b->merit.worth_s) {
        return a->merit.worth_s < b->merit.worth_s ? -1 : 1;
    }
    return (a->sim.step_time > b->sim.step_time) - (a->sim.step_time < b->sim.step_time);
}

static int find_p95(struct sfi_search *s, struct sf_plan_result *r, uint64_t *events, struct sf_err *err) {
    const struct sf_search_options *o = s->options;
    const struct sf_sim_options noisy = {.seed = s->scenario->job.seed,
                                         .jitter = o->jitter > 0 ? o->jitter : USUAL_JITTER,
                                         .jitter_kind = SF_JITTER_LOGNORMAL,
                                         .threads = sfi_threads(s)};
    uint32_t seeds = o->seeds > 0 ? o->seeds : USUAL_SEEDS;
    struct sf_sim_result first;
    struct sf_spread spread;
    struct sf_prog *prog;
    SF_TRY(sf_compile(sfi_scenario_of(s, &r->plan), &r->plan, &prog, err));
    int rc = sf_sim_spread(prog, s->base.cost, &noisy, seeds, &first, &spread, err);
    sf_prog_free(prog);
    if (rc == 0) {
        *events += first.events * seeds;
        r->merit.p95_s = sf_ps_to_s(spread.p95);
        r->merit.worth_s = sfi_worth_s(s->scenario, SF_OBJECTIVE_P95, &r->merit, sf_ps_to_s(r->sim.step_time));
    }
    return rc;
}

int sfi_search_robust(struct sfi_search *s, struct sf_plan_result *results, uint32_t *results_n, struct sf_err *err) {
    uint64_t events = 0;
    uint32_t n = 0;
    for (; n < *results_n && (n < s->options->top || events < MOST_NOISY_EVENTS); n++) {
        bool stop = s->options->stop != NULL && s->options->stop(s->options->self);
        s->stats->stopped |= stop;
        if (n > 0 && stop) {
            break;
        }
        SF_TRY(find_p95(s, &results[n], &events, err));
    }
    for (uint32_t i = n; i < *results_n; i++) {
        sfi_leave_out(s, sf_ps_to_s(results[i].sim.step_time));
    }
    *results_n = n;
    if (n > 0) { /* they may all be none */
        qsort(results, n, sizeof *results, by_worth);
    }
    return 0;
}
