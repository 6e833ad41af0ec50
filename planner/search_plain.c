/* Tuned collectives are the quickest call by call, by themselves; whether whole steps are quicker only simulating both
 * ways says. */
#include <string.h>

#include "core/arena.h"
#include "planner/search_internal.h"

/* One result, without its picks; kept where that is worth more. */
static int try_plain(struct sfi_search *part, size_t i, void *items, struct sf_err *err) {
    struct sf_plan_result *r = &((struct sf_plan_result *)items)[i];
    if (r->plan.picks_n == 0) {
        return 0;
    }
    struct sf_plan_result *other = sf_malloc(sizeof *other);
    if (other == NULL) {
        return sf_fail_memory(err, "a plan");
    }
    struct sf_plan plan = r->plan;
    plan.picks_n = 0;
    int rc = sfi_evaluate(sfi_scenario_of(part, &plan), part->base.cost, &plan, other, err);
    if (rc == 0 && other->sim.step_time < r->sim.step_time) {
        other->estimate_s = r->estimate_s;
        other->merit.worth_s =
            sfi_worth_s(part->whole, part->options->objective, &other->merit, sf_ps_to_s(other->sim.step_time));
        other->merit.p95_s = r->merit.p95_s;
        *r = *other;
    }
    sf_free(other);
    return rc;
}

int sfi_search_plain(struct sfi_search *s, struct sf_plan_result *results, uint32_t n, struct sf_err *err) {
    bool choice = s->base.tuned && sfi_pin_allows(&s->whole->pins.collectives, 0);
    if (!choice || s->options->quick || s->options->objective == SF_OBJECTIVE_P95 || s->stats->stopped) {
        return 0;
    }
    SF_TRY(sfi_search_share(s, n, try_plain, results, err));
    for (uint32_t i = 1; i < n; i++) {
        struct sf_plan_result r = results[i];
        uint32_t at = i;
        for (; at > 0 && r.merit.worth_s < results[at - 1].merit.worth_s; at--) {
            results[at] = results[at - 1];
        }
        results[at] = r;
    }
    return 0;
}
