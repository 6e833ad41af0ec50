/* Whether a smaller tp on the stages between the ends would do better than the best plan found. */
#include "core/arena.h"
#include "planner/search_internal.h"

static void narrow(const struct sf_plan *best, uint32_t tp, struct sf_plan *out) {
    *out = *best; /* shares its table */
    for (uint32_t rank = 0; rank < best->pp; rank++) {
        out->stage_tp[rank] = rank == 0 || rank == best->pp - 1 ? best->tp : tp;
    }
}

int sf_search_stages(const struct sf_scenario *s, const struct sf_cost *cost, const struct sf_plan_result *best,
                     uint32_t *tp, double *step_s, struct sf_err *err) {
    struct sf_plan_result *r = sf_malloc(sizeof *r);
    struct sf_plan *plan = sf_malloc(sizeof *plan);
    double least = sf_ps_to_s(best->sim.step_time);
    struct sf_scenario used;
    int rc = r == NULL || plan == NULL ? sf_fail_memory(err, "other degrees") : 0;
    *tp = 0;
    sf_scenario_narrow(s, &best->plan, &used);
    for (uint32_t k = 2; rc == 0 && best->plan.pp > 2 && k <= best->plan.tp && k <= best->plan.micro_batch; k *= 2) {
        struct sf_err why = {0};
        narrow(&best->plan, best->plan.tp / k, plan);
        int one = best->plan.tp % k == 0 ? sfi_evaluate(&used, cost, plan, r, &why) : SF_E_INPUT;
        if (one == 0 && sf_ps_to_s(r->sim.step_time) < least) {
            least = *step_s = sf_ps_to_s(r->sim.step_time);
            *tp = best->plan.tp / k;
        }
        rc = one == 0 || one == SF_E_INPUT || one == SF_E_NOPLAN ? 0 : sfi_pass_on(&why, one, err);
    }
    sf_free(r);
    sf_free(plan);
    return rc;
}
