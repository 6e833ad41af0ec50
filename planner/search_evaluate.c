/* One plan, compiled and simulated, with the figures people compare. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/arena.h"
#include "core/scratch.h"
#include "planner/picks.h"
#include "planner/score_memory.h"
#include "planner/search_internal.h"
#include "sim/seats.h"

/* Work of one rank's compute stream. Nothing it does can overlap, so no schedule of this work is faster. */
static double compute_s(const struct sf_prog *prog, const struct sf_cost *cost, uint32_t rank, double *recipe_s) {
    struct sfi_seated seated = {.prog = prog, .topo = sf_cost_topo(cost), .rank = rank};
    const struct sf_class *cls = &prog->classes[sf_prog_class(prog, rank)];
    double sum = 0;
    for (uint32_t i = 0; i < prog->recipes_n; i++) {
        recipe_s[i] = -1;
    }
    for (uint32_t i = 0; i < cls->ops_n; i++) {
        uint32_t recipe = cls->ops[i].recipe;
        if (recipe == SF_NONE) {
            continue;
        }
        if (recipe_s[recipe] < 0) {
            recipe_s[recipe] = sfi_seated_recipe_s(&seated, cost, recipe);
        }
        sum += recipe_s[recipe];
    }
    return sum;
}

static int lower_bound(const struct sf_prog *prog, const struct sf_cost *cost, const struct sf_plan *plan, double *out,
                       struct sf_err *err) {
    double *recipe_s = sf_calloc((size_t)prog->recipes_n + 1, sizeof *recipe_s);
    if (recipe_s == NULL) {
        return sf_fail_memory(err, "lower bound");
    }
    *out = 0;
    for (uint32_t stage = 0; stage < plan->pp; stage++) {
        *out = fmax(*out, compute_s(prog, cost, stage * sf_plan_stage_stride(plan), recipe_s));
    }
    sf_free(recipe_s);
    return 0;
}

static void fill_figures(const struct sf_scenario *s, const struct sf_prog *prog, struct sf_plan_result *out) {
    const struct sf_job *job = &s->job;
    double step_s = sf_ps_to_s(out->sim.step_time);
    double tokens = (double)job->global_batch_sequences * job->seq_len_tokens;
    double peak = sf_seats_peak(s->topo, prog, job->precision);
    if (step_s > 0) {
        out->tokens_per_s_per_gpu = tokens / step_s / job->gpus;
        out->model_tflops_per_gpu = prog->job.model_flops_per_step / step_s / job->gpus / 1e12;
        out->mfu = out->model_tflops_per_gpu * 1e12 / peak;
    }
    out->device_bytes = sf_prog_device_bytes(prog);
    for (uint32_t i = 0; i < prog->classes_n; i++) {
        const struct sf_class *cls = &prog->classes[i];
        uint64_t *memory = &out->memory_bytes[cls->stage];
        *memory = cls->arena_bytes > *memory ? cls->arena_bytes : *memory;
    }
}

static int evaluate(const struct sf_scenario *s, const struct sf_cost *cost, const struct sf_plan *plan, bool tuned,
                    struct sf_plan_result *out, struct sf_err *err) {
    const struct sf_sim_options options = {.seed = s->job.seed, .threads = 1};
    struct sf_prog *prog;
    int rc;
    memset(out, 0, sizeof *out);
    out->plan = *plan;
    SF_TRY(sf_compile(s, plan, &prog, err));
    SF_TRY_GOTO(rc, tuned ? sfi_picks_tune(prog, cost, &out->plan, err) : 0, done);
    SF_TRY_GOTO(rc, sf_sim_run(prog, cost, &options, &out->sim, err), done);
    sf_interval_of(prog, cost, &out->sim, 0.0, &out->interval);
    out->unfused_memory_bytes = sfi_unfused_peak_bytes(prog);
    SF_TRY_GOTO(rc, lower_bound(prog, cost, plan, &out->lower_bound_s, err), done);
    fill_figures(s, prog, out);
    sfi_merit_init(s, plan, prog, sf_ps_to_s(out->sim.step_time), &out->merit);
    out->merit.worth_s = sf_ps_to_s(out->sim.step_time);
done:
    sf_prog_free(prog);
    return rc;
}

int sfi_evaluate(const struct sf_scenario *s, const struct sf_cost *cost, const struct sf_plan *plan,
                 struct sf_plan_result *out, struct sf_err *err) {
    return evaluate(s, cost, plan, false, out, err);
}

int sfi_evaluate_tuned(const struct sfi_search *s, const struct sf_scenario *scenario, const struct sf_plan *plan,
                       struct sf_plan_result *out, struct sf_err *err) {
    return evaluate(scenario, s->base.cost, plan, s->base.tuned, out, err);
}

int sf_plan_evaluate(const struct sf_scenario *s, const struct sf_cost *cost, const struct sf_plan *plan,
                     struct sf_plan_result *out, struct sf_err *err) {
    struct sfi_base base;
    struct sfi_layout layout;
    struct sfi_price price;
    SF_TRY(sfi_evaluate(s, cost, plan, out, err));
    sfi_base_init(s, cost, &base);
    sfi_layout_init(&base, plan, &layout);
    const struct sfi_degrees degrees = sfi_degrees_of(plan);
    SF_TRY(sfi_price_init(&base, &degrees, &price, err));
    out->estimate_s = sfi_estimate_plan(&base, &layout, &price, plan).step_s;
    return 0;
}
