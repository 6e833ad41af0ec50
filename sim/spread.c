/* The same step under several seeds. */
#include <gsl/gsl_sort.h>
#include <gsl/gsl_statistics_double.h>

#include "sim/sim.h"

static sf_time_ps quantile(const double *sorted, uint32_t n, double q) {
    return sf_s_to_ps(gsl_stats_quantile_from_sorted_data(sorted, 1, n, q));
}

static int run_seeds(const struct sf_prog *prog, const struct sf_cost *cost, const struct sf_sim_options *options,
                     uint32_t seeds_n, double *step_s, struct sf_sim_result *out, struct sf_err *err) {
    struct sf_sim_options each = *options;
    for (uint32_t i = 0; i < seeds_n; i++) {
        struct sf_sim_result r;
        each.seed = options->seed + i;
        each.trace = i == 0 ? options->trace : NULL;
        SF_TRY(sf_sim_run(prog, cost, &each, i == 0 ? out : &r, err));
        step_s[i] = sf_ps_to_s(i == 0 ? out->step_time : r.step_time);
    }
    return SF_OK;
}

int sf_sim_spread(const struct sf_prog *prog, const struct sf_cost *cost, const struct sf_sim_options *options,
                  uint32_t seeds_n, struct sf_sim_result *out, struct sf_spread *spread, struct sf_err *err) {
    double *step_s = sf_calloc(seeds_n, sizeof *step_s);
    if (!step_s) {
        return sf_fail_memory(err, "step times");
    }
    int rc = run_seeds(prog, cost, options, seeds_n, step_s, out, err);
    if (rc == SF_OK) {
        gsl_sort(step_s, 1, seeds_n);
        *spread = (struct sf_spread){.seeds_n = seeds_n,
                                     .p50 = quantile(step_s, seeds_n, 0.50),
                                     .p95 = quantile(step_s, seeds_n, 0.95),
                                     .p99 = quantile(step_s, seeds_n, 0.99)};
    }
    sf_free(step_s);
    return rc;
}
