/* The search: closed forms choose whom to simulate, the simulator chooses the plan. */
#include "planner/search.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "planner/search_internal.h"
#include "sim/seats.h"

#define DEFAULT_SIMULATE 24
#define SPARE 4 /* candidates kept for each one to simulate, in case compile finds some too large */

void sfi_candidate_plan(const struct sf_scenario *s, const struct sfi_candidate *c, struct sf_plan *out) {
    *out = (struct sf_plan){
        .tp = c->tp,
        .ep = c->ep,
        .dp = s->job.gpus / c->tp / c->pp,
        .pp = c->pp,
        .vpp = c->vpp,
        .micro_batch = c->micro_batch,
        .schedule = (int)c->schedule,
        .recompute = (int)c->recompute,
        .zero = c->zero,
        .canonical = s->job.canonical,
        .ranks_per_domain = sfi_ranks_per_domain(s->topo, s->job.gpus, c->tp, c->ep),
    };
    out->microbatches = (uint32_t)(s->job.global_batch_sequences / out->dp / c->micro_batch);
    snprintf(out->scenario, sizeof out->scenario, "%s", s->path);
    if (out->schedule == SF_SCHEDULE_TABLE) {
        snprintf(out->schedule_file, sizeof out->schedule_file, "%s", s->pins.schedule_file);
        out->table = s->pins.table;
    }
    sfi_plan_layers(out, s->model.layers, c->layer, c->first, c->last);
}

static int explain_memory(const struct sfi_search *s, struct sf_err *err) {
    char need[32], have[32];
    const struct sfi_candidate *c = &s->least;
    const struct sf_plan *p = &s->least_mini;
    if (!(c->memory_bytes > 0)) {
        return sf_fail(err, SF_E_NOPLAN,
                       "no plan fits: not even two layers fit a device with tp %u, ep %u, micro_batch %u, recompute "
                       "%s: %s",
                       p->tp, p->ep, p->micro_batch, sf_recompute_name(p->recompute), s->mini_err.msg);
    }
    sf_format_bytes((uint64_t)c->memory_bytes, need, sizeof need);
    sf_format_bytes(sf_seats_memory(s->scenario->topo), have, sizeof have);
    return sf_fail(err, SF_E_NOPLAN,
                   "no plan fits: all %llu plans that the rules allow need more memory than the device's %s; the "
                   "nearest (tp %u, ep %u, pp %u, vpp %u, micro_batch %u, %s, recompute %s) needs %s",
                   (unsigned long long)s->refused[SFI_RULE_MEMORY], have, c->tp, c->ep, c->pp, c->vpp, c->micro_batch,
                   sf_schedule_name((int)c->schedule), sf_recompute_name((int)c->recompute), need);
}

int sfi_search_explain(const struct sfi_search *s, struct sf_err *err) {
    static const char *const rules[] = {
#define X(NAME, text) text,
        SFI_RULES(X)
#undef X
    };
    int last = SFI_RULES_N - 1;
    while (last > 0 && s->refused[last] == 0) {
        last--;
    }
    if (last == SFI_RULE_MEMORY) {
        return explain_memory(s, err);
    }
    return sf_fail(err, SF_E_NOPLAN,
                   "no plan fits %u GPUs and a batch of %llu sequences: every combination fails a rule, %llu of them "
                   "at last this one: %s",
                   s->scenario->job.gpus, (unsigned long long)s->scenario->job.global_batch_sequences,
                   (unsigned long long)s->refused[last], rules[last]);
}

static bool better(const struct sf_plan_result *a, const struct sf_plan_result *b) {
    if (a->sim.step_time != b->sim.step_time) {
        return a->sim.step_time < b->sim.step_time;
    }
    return a->sim.peak_memory_bytes < b->sim.peak_memory_bytes;
}

/* Results arrive in the order of their estimates; equals keep it. */
static void insert_result(const struct sf_plan_result *r, struct sf_plan_result *results, uint32_t room, uint32_t *n) {
    if (*n == room && !better(r, &results[*n - 1])) {
        return;
    }
    uint32_t at = *n < room ? (*n)++ : *n - 1;
    for (; at > 0 && better(r, &results[at - 1]); at--) {
        results[at] = results[at - 1];
    }
    results[at] = *r;
}

static int evaluate_candidate(struct sfi_search *s, const struct sfi_candidate *c, struct sf_plan_result *out,
                              struct sf_err *err) {
    sfi_candidate_plan(s->scenario, c, &s->plan);
    int rc = sfi_evaluate(s->scenario, s->base.cost, &s->plan, out, err);
    if (rc != 0 && rc != SF_E_NOPLAN) {
        return sf_err_wrap(err, "tp %u, ep %u, pp %u, vpp %u, micro_batch %u, %s", c->tp, c->ep, c->pp, c->vpp,
                           c->micro_batch, sf_schedule_name((int)c->schedule));
    }
    out->estimate_s = c->estimate_s;
    return rc;
}

static int simulate_best(struct sfi_search *s, uint32_t simulate, struct sf_plan_result *results, uint32_t *results_n,
                         struct sf_err *err) {
    const struct sf_search_options *o = s->options;
    struct sf_plan_result *r = sf_malloc(sizeof *r);
    int rc = 0;
    if (r == NULL) {
        return sf_fail_memory(err, "search result");
    }
    for (size_t i = 0; i < s->best_n && s->stats->simulated < simulate && !s->stats->stopped; i++) {
        rc = evaluate_candidate(s, &s->best[i], r, err);
        if (rc == 0) {
            s->stats->simulated++;
            insert_result(r, results, o->top, results_n);
        } else if (rc == SF_E_NOPLAN) {
            s->stats->too_large++;
            s->refused[SFI_RULE_MEMORY]++;
            rc = 0;
        } else {
            break;
        }
        if (o->progress != NULL) {
            o->progress(o->self, (double)(i + 1) / (double)s->best_n);
        }
        s->stats->stopped = o->stop != NULL && o->stop(o->self);
    }
    sf_free(r);
    return rc;
}

static int run(struct sfi_search *s, struct sf_plan_result *results, uint32_t *results_n, struct sf_err *err) {
    uint32_t simulate = s->options->simulate == 0 ? DEFAULT_SIMULATE : s->options->simulate;
    simulate = simulate < s->options->top ? s->options->top : simulate;
    s->best_room = (size_t)simulate * SPARE;
    s->best = sf_calloc(s->best_room, sizeof *s->best);
    s->priced = sf_calloc((size_t)s->space.micro_batch.n * SF_RECOMPUTES_N, sizeof *s->priced);
    if (s->best == NULL || s->priced == NULL) {
        return sf_fail_memory(err, "search");
    }
    SF_TRY(sfi_search_visit(s, err));
    SF_TRY(simulate_best(s, simulate, results, results_n, err));
    s->stats->least_bytes = (uint64_t)s->least.memory_bytes;
    if (*results_n == 0 && s->stats->stopped) {
        return sf_fail(err, SF_E_INTERRUPTED, "the search was stopped before it had simulated a plan");
    }
    return *results_n == 0 ? sfi_search_explain(s, err) : 0;
}

int sf_search(const struct sf_scenario *s, const struct sf_cost *cost, const struct sf_search_options *options,
              struct sf_plan_result *results, uint32_t *results_n, struct sf_search_stats *stats, struct sf_err *err) {
    sf_time_ps start = sf_clock_host.now(sf_clock_host.self);
    struct sfi_search *search = sf_calloc(1, sizeof *search);
    *results_n = 0;
    memset(stats, 0, sizeof *stats);
    if (search == NULL) {
        return sf_fail_memory(err, "search");
    }
    search->scenario = s;
    search->options = options;
    search->stats = stats;
    sfi_base_init(s, cost, &search->base);
    int rc = options->top == 0 ? sf_fail(err, SF_E_USAGE, "a search must be asked for at least one plan")
                               : sfi_space_init(s, &search->space, err);
    if (rc == 0) {
        stats->points = sfi_space_points(&search->space);
        rc = run(search, results, results_n, err);
    }
    for (uint32_t i = 1; i < *results_n; i++) {
        sfi_lost(&results[i], &results[i - 1], results[i].lost, sizeof results[i].lost);
    }
    sf_free(search->best);
    sf_free(search->priced);
    sf_free(search);
    stats->search_time_s = sf_ps_to_s(sf_clock_host.now(sf_clock_host.self) - start);
    return rc;
}
