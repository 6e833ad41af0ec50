/* Whether degrees of single stages would do better than the best plan found, which has the same for all. */
#include <string.h>

#include "core/arena.h"
#include "planner/search_internal.h"

#define WORTH 1e-3 /* of the step; less is not said */

struct trying {
    const struct sf_scenario *s;
    const struct sf_cost *cost;
    const struct sf_plan *best;
    struct sf_plan *plan; /* shares the table of the best */
    struct sf_plan_result *result;
    double least_s;
};

/* *quicker: the plan beats all before it. One that is refused is none. */
static int try_plan(struct trying *t, bool *quicker, struct sf_err *err) {
    struct sf_err why = {0};
    int rc = sfi_evaluate(t->s, t->cost, t->plan, t->result, &why);
    *quicker = rc == 0 && sf_ps_to_s(t->result->sim.step_time) < t->least_s;
    t->least_s = *quicker ? sf_ps_to_s(t->result->sim.step_time) : t->least_s;
    return rc == 0 || rc == SF_E_INPUT || rc == SF_E_NOPLAN ? 0 : sfi_pass_on(&why, rc, err);
}

/* The ranks from `first` up to `end` get the degree, the others the whole one. */
static void set_degrees(uint32_t *of, uint32_t pp, uint32_t whole, uint32_t degree, uint32_t first, uint32_t end) {
    for (uint32_t rank = 0; rank < pp; rank++) {
        of[rank] = rank >= first && rank < end ? degree : whole;
    }
}

static int try_tp(struct trying *t, struct sf_stage_advice *out, struct sf_err *err) {
    uint32_t tp = t->best->tp, pp = t->best->pp;
    for (uint32_t k = 2; pp > 2 && k <= tp && k <= t->best->micro_batch; k *= 2) {
        bool quicker = false;
        *t->plan = *t->best;
        set_degrees(t->plan->stage_tp, pp, tp, tp / k, 1, pp - 1);
        SF_TRY(tp % k == 0 ? try_plan(t, &quicker, err) : 0);
        if (quicker) {
            *out = (struct sf_stage_advice){.tp = tp / k, .first = 1, .end = pp - 1, .step_s = t->least_s};
        }
    }
    return 0;
}

/* More experts on a rank take memory, of which later stages have more to spare than earlier ones; the last, with the
 * head, is often the slowest. */
static int try_ep(struct trying *t, struct sf_stage_advice *out, struct sf_err *err) {
    uint32_t ep = t->best->ep, pp = t->best->pp, most = sf_plan_cp(t->best) > 1 ? 1 : ep < 4 ? ep : 4;
    const uint32_t firsts[] = {0, pp / 4, pp / 2, pp - pp / 4, pp - 1}; /* all stages: the search has been there */
    for (uint32_t k = 2; k <= most; k *= 2) {
        for (size_t i = 1; i < sizeof firsts / sizeof *firsts; i++) {
            bool again = firsts[i] == 0 || firsts[i] == firsts[i - 1] || ep % k != 0, quicker = false;
            *t->plan = *t->best;
            set_degrees(t->plan->stage_ep, pp, ep, ep / k, firsts[i], pp);
            SF_TRY(again ? 0 : try_plan(t, &quicker, err));
            if (quicker) {
                *out = (struct sf_stage_advice){.ep = ep / k, .first = firsts[i], .end = pp, .step_s = t->least_s};
            }
        }
    }
    return 0;
}

int sf_search_stages(const struct sf_scenario *s, const struct sf_cost *cost, const struct sf_plan_result *best,
                     struct sf_stage_advice *out, struct sf_err *err) {
    struct sf_scenario used;
    struct trying t = {.s = &used, .cost = cost, .best = &best->plan};
    memset(out, 0, sizeof *out);
    t.least_s = (1 - WORTH) * sf_ps_to_s(best->sim.step_time);
    t.result = sf_malloc(sizeof *t.result);
    t.plan = sf_malloc(sizeof *t.plan);
    int rc = t.result == NULL || t.plan == NULL ? sf_fail_memory(err, "other degrees") : 0;
    sf_scenario_narrow(s, &best->plan, &used);
    rc = rc == 0 ? try_tp(&t, out, err) : rc;
    rc = rc == 0 ? try_ep(&t, out, err) : rc;
    sf_free(t.result);
    sf_free(t.plan);
    return rc;
}
