/* What more memory would be good for: the most promising plan that was refused for want of it, simulated with enough.
 */
#include "core/arena.h"
#include "planner/search_internal.h"

#define PLENTY 64 /* times the memory there is */

static int evaluate_large(struct sfi_search *s, struct sf_plan_result *out, struct sf_err *err) {
    static const struct sf_topo_scale more = {1, 1, PLENTY};
    struct sf_scenario other = *sfi_number_scenario(s, s->large.group.number);
    struct sf_plan plan;
    SF_TRY(sfi_candidate_plan(s, &s->large, &plan, err));
    SF_TRY(sf_topo_scaled(s->scenario->topo, &more, &other.topo, err));
    int rc = sfi_evaluate_tuned(s, &other, &plan, out, err);
    sf_topo_scaled_free(other.topo);
    out->estimate_s = s->large.estimate_s;
    if (rc == 0) {
        out->merit.worth_s =
            sfi_worth_s(s->scenario, s->options->objective, &out->merit, sf_ps_to_s(out->sim.step_time));
    }
    return rc;
}

int sfi_search_large(struct sfi_search *s, const struct sf_plan_result *best, struct sf_err *err) {
    bool asked = s->options->explain && s->large.estimate_s > 0 && !s->stats->stopped;
    if (!asked) {
        return 0;
    }
    struct sf_plan_result *large = sf_calloc(1, sizeof *large);
    int rc = large == NULL ? sf_fail_memory(err, "a plan with more memory") : evaluate_large(s, large, err);
    if (rc == 0 && large->merit.worth_s < best->merit.worth_s && (double)large->device_bytes > sfi_device_bytes(s)) {
        s->stats->large = large;
        return 0;
    }
    sf_free(large);
    return rc == SF_E_INPUT || rc == SF_E_NOPLAN ? 0 : rc; /* then it is none */
}

void sf_search_stats_clear(struct sf_search_stats *stats) {
    sf_free(stats->large);
    stats->large = NULL;
}
