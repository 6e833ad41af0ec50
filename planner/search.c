/* The search: closed forms choose whom to simulate, the simulator chooses the plan. */
#include "planner/search.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "planner/placement.h"
#include "planner/search_internal.h"
#include "sim/seats.h"

#define DEFAULT_SIMULATE 200
#define MOST_REPLAYS 1500
#define MOST_TABLES 8 /* synthesised */
#define MOST_PASSES UINT64_C(25000000)
#define MOST_EVENTS UINT64_C(40000000)  /* simulated */
#define MOST_PLACING UINT64_C(10000000) /* events of plans that are simulated on other seats */
#define QUICK_SIMULATIONS 3
#define QUICK_EVENTS UINT64_C(1000000)
#define FINALISTS 16 /* of p95 */
#define SPARE 4      /* candidates kept for each one to simulate, in case compile finds some too large */

static int explain_memory(const struct sfi_search *s, struct sf_err *err) {
    char need[32], have[32], over[32];
    const struct sfi_candidate *c = &s->least;
    const struct sfi_group *g = &c->group;
    const struct sf_plan *p = &s->least_mini;
    if (!(c->memory_bytes > 0)) {
        return sf_fail(err, SF_E_NOPLAN,
                       "no plan fits: not even two layers fit a device with tp %u, cp %u, ep %u, micro_batch %u, "
                       "recompute %s: %s",
                       p->tp, p->cp, p->ep, p->micro_batch, sf_recompute_name(p->recompute), s->mini_err.msg);
    }
    double device = sfi_device_bytes(s);
    sf_format_bytes((uint64_t)c->memory_bytes, need, sizeof need);
    sf_format_bytes((uint64_t)device, have, sizeof have);
    sf_format_bytes((uint64_t)(c->memory_bytes > device ? c->memory_bytes - device : 0), over, sizeof over);
    return sf_fail(
        err, SF_E_NOPLAN,
        "no plan fits: all %llu plans that the rules allow need more memory than the device's %s; the "
        "nearest (tp %u, cp %u, ep %u, pp %u, vpp %u, micro_batch %u, %s, recompute %s, zero %u) needs %s: %s over",
        (unsigned long long)s->refused[SFI_RULE_MEMORY], have, g->tp, g->cp, g->ep, g->pp, g->vpp, g->micro_batch,
        sf_schedule_name(g->schedule), sf_recompute_name(g->recompute), c->zero, need, over);
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
    if (last == SFI_RULE_PROGRAM) {
        return sf_fail(err, SF_E_NOPLAN, "no plan fits: no program passed its check; the first: %s",
                       s->program_err.msg);
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
    if (a->merit.worth_s < b->merit.worth_s || a->merit.worth_s > b->merit.worth_s) {
        return a->merit.worth_s < b->merit.worth_s;
    }
    if (a->sim.step_time != b->sim.step_time) {
        return a->sim.step_time < b->sim.step_time;
    }
    return a->sim.peak_memory_bytes < b->sim.peak_memory_bytes;
}

/* But for its seats. */
static bool same_plan(const struct sf_plan *a, const struct sf_plan *b) {
    return a->tp == b->tp && sf_plan_cp(a) == sf_plan_cp(b) && a->ep == b->ep && a->pp == b->pp && a->vpp == b->vpp &&
           a->micro_batch == b->micro_batch && a->schedule == b->schedule && a->recompute == b->recompute &&
           a->zero == b->zero && sf_plan_sharers(a) == sf_plan_sharers(b) && sf_plan_etp(a) == sf_plan_etp(b) &&
           sf_plan_slices(a) == sf_plan_slices(b) && a->cp_gather == b->cp_gather && a->whole_rows == b->whole_rows &&
           a->split_head == b->split_head && a->offload == b->offload && a->table == b->table &&
           memcmp(a->layers, b->layers, sizeof a->layers) == 0;
}

/* Results arrive in the order of their estimates; equals keep it. Every plan is there once, on its best seats; the
 * quick start's comes again. */
static void insert_result(const struct sf_plan_result *r, struct sf_plan_result *results, uint32_t room, uint32_t *n) {
    for (uint32_t i = 0; i < *n; i++) {
        if (same_plan(&r->plan, &results[i].plan)) {
            if (!better(r, &results[i])) {
                return;
            }
            memmove(&results[i], &results[i + 1], (--*n - i) * sizeof *results);
        }
    }
    if (*n == room && !better(r, &results[*n - 1])) {
        return;
    }
    uint32_t at = *n < room ? (*n)++ : *n - 1;
    for (; at > 0 && better(r, &results[at - 1]); at--) {
        results[at] = results[at - 1];
    }
    results[at] = *r;
}

static void set_worth(const struct sfi_search *s, struct sf_plan_result *r) {
    r->merit.worth_s = sfi_worth_s(s->scenario, s->options->objective, &r->merit, sf_ps_to_s(r->sim.step_time));
}

static int evaluate_candidate(struct sfi_search *s, const struct sfi_candidate *c, struct sf_plan_result *out,
                              struct sf_err *err) {
    struct sf_plan plan;
    SF_TRY(sfi_candidate_plan(s, c, &plan, err));
    snprintf(plan.scenario, sizeof plan.scenario, "%s", s->scenario->path);
    if (c->group.schedule == SF_SCHEDULE_TABLE) {
        snprintf(plan.schedule_file, sizeof plan.schedule_file, "%s", s->scenario->pins.schedule_file);
    }
    int rc = sfi_evaluate(s->scenario, s->base.cost, &plan, out, err);
    if (rc != 0 && rc != SF_E_NOPLAN) {
        return sf_err_wrap(err, "tp %u, cp %u, ep %u, pp %u, vpp %u, micro_batch %u, %s", plan.tp, plan.cp, plan.ep,
                           plan.pp, plan.vpp, plan.micro_batch, sf_schedule_name(c->group.schedule));
    }
    out->estimate_s = c->estimate_s;
    set_worth(s, out);
    return rc;
}

/* Cannot get among the results any more. */
static bool beaten(const struct sfi_search *s, const struct sfi_candidate *c, const struct sf_plan_result *results,
                   uint32_t results_n) {
    return results_n == s->room && c->least_s >= results[s->room - 1].merit.worth_s;
}

/* Large programs get fewer simulations, but as many as there are answers wanted. */
static bool spent(const struct sfi_search *s, uint32_t results_n) {
    return s->effort.simulations == 0 || (s->effort.events == 0 && results_n >= s->effort.answers);
}

/* The same plan on other seats. What nobody has time for is left open. */
static int try_placements(struct sfi_search *s, const struct sfi_candidate *c, struct sf_plan_result *scratch,
                          struct sf_plan_result *results, uint32_t *results_n, struct sf_err *err) {
    struct sf_plan plan = scratch->plan;
    struct sf_placement at[SF_PLACEMENTS_MOST];
    uint32_t n = sf_placements(s->scenario, &plan, at);
    for (uint32_t i = 1; i < n; i++) {
        if (s->effort.placing == 0 || s->stats->stopped || beaten(s, c, results, *results_n)) {
            sfi_leave_out(s, c->least_s);
            return 0;
        }
        plan.order = at[i].order;
        plan.ranks_per_domain = at[i].ranks_per_domain;
        int rc = sfi_evaluate(s->scenario, s->base.cost, &plan, scratch, err);
        if (rc != 0 && rc != SF_E_INPUT && rc != SF_E_NOPLAN) {
            return rc;
        }
        if (rc == 0) {
            scratch->estimate_s = c->estimate_s;
            set_worth(s, scratch);
            s->stats->placements++;
            s->effort.placing -= scratch->sim.events < s->effort.placing ? scratch->sim.events : s->effort.placing;
            insert_result(scratch, results, s->room, results_n);
        }
        s->stats->stopped = s->options->stop != NULL && s->options->stop(s->options->self);
    }
    return 0;
}

static int simulate_one(struct sfi_search *s, const struct sfi_candidate *c, struct sf_plan_result *scratch,
                        struct sf_plan_result *results, uint32_t *results_n, struct sf_err *err) {
    int rc = evaluate_candidate(s, c, scratch, err);
    if (rc == 0) {
        s->stats->simulated++;
        s->effort.events -= scratch->sim.events < s->effort.events ? scratch->sim.events : s->effort.events;
        insert_result(scratch, results, s->room, results_n);
        rc = try_placements(s, c, scratch, results, results_n, err);
    } else if (rc == SF_E_NOPLAN) {
        s->stats->too_large++;
        sfi_refuse(s, SFI_RULE_MEMORY);
        rc = 0;
    } else if (rc == SF_E_INPUT) {
        s->program_err = s->refused[SFI_RULE_PROGRAM] == 0 && err != NULL ? *err : s->program_err;
        sfi_refuse(s, SFI_RULE_PROGRAM);
        rc = 0;
    }
    return rc;
}

static int simulate_best(struct sfi_search *s, struct sf_plan_result *results, uint32_t *results_n,
                         struct sf_err *err) {
    const struct sf_search_options *o = s->options;
    struct sf_plan_result *scratch = sf_malloc(sizeof *scratch);
    int rc = scratch == NULL ? sf_fail_memory(err, "search result") : 0;
    for (size_t i = 0; i < s->best_n && rc == 0; i++) {
        const struct sfi_candidate *c = &s->best[i];
        if (spent(s, *results_n) || s->stats->stopped || beaten(s, c, results, *results_n)) {
            sfi_leave_out(s, c->least_s);
            continue;
        }
        s->effort.simulations -= s->effort.simulations > 0 ? 1 : 0;
        rc = simulate_one(s, c, scratch, results, results_n, err);
        if (s->stats->simulated == 1 && s->stats->first_plan_s <= 0) {
            s->stats->first_plan_s = sf_ps_to_s(sf_clock_host.now(sf_clock_host.self) - s->start);
        }
        if (o->progress != NULL) {
            o->progress(o->self, (double)(i + 1) / (double)s->best_n);
        }
        s->stats->stopped = o->stop != NULL && o->stop(o->self);
    }
    sf_free(scratch);
    return rc;
}

/* Tables of results are theirs, whoever made them. */
static int own_tables(struct sf_plan_result *results, uint32_t n, struct sf_err *err) {
    for (uint32_t i = 0; i < n; i++) {
        struct sf_pipe *own = NULL;
        int rc = results[i].plan.table == NULL ? 0 : sf_pipe_copy(results[i].plan.table, &own, err);
        results[i].plan.table = own;
        if (rc != 0) {
            for (uint32_t k = i + 1; k < n; k++) {
                results[k].plan.table = NULL;
            }
            return rc;
        }
    }
    return 0;
}

static void prove_gaps(struct sfi_search *s, struct sf_plan_result *results, uint32_t n) {
    double best = n > 0 ? results[0].merit.worth_s : INFINITY;
    if (s->unseen && n > 0) { /* stopped on the way: all that is known of the rest is what its arithmetic takes */
        sfi_leave_out(s, results[0].mfu <= 1 ? results[0].mfu * sf_ps_to_s(results[0].sim.step_time) : 0);
    }
    s->stats->bound_s = fmin(s->open_s, best);
    for (uint32_t i = 0; i < n; i++) {
        results[i].gap = results[i].merit.worth_s / s->stats->bound_s - 1;
    }
}

static int look(struct sfi_search *s, struct sf_plan_result *results, uint32_t *results_n, struct sf_err *err) {
    s->groups_n = s->best_n = 0;
    s->open_s = INFINITY;
    memset(s->refused, 0, sizeof s->refused);
    s->stats->too_large = s->stats->evaluated = s->stats->replayed = 0;
    s->unseen = true;
    SF_TRY(sfi_search_visit(s, err));
    s->unseen = s->stats->stopped;
    s->stats->bounded = s->groups_n * s->space.zero.n * SFI_CUTS_N;
    SF_TRY(sfi_search_refine(s, err));
    return simulate_best(s, results, results_n, err);
}

static void at_most(struct sfi_values *values, uint32_t most) {
    for (; values->n > 1 && values->value[values->n - 1] > most; values->n--) {
    }
}

/* A first plan soon: of the plainest kinds, whose prices are needed later anyway. */
static int start_quickly(struct sfi_search *s, struct sf_plan_result *results, uint32_t *results_n,
                         struct sf_err *err) {
    struct sfi_space *whole = sf_malloc(sizeof *whole);
    if (whole == NULL) {
        return sf_fail_memory(err, "search");
    }
    *whole = s->space;
    at_most(&s->space.cp, 1);
    at_most(&s->space.recompute, SF_RECOMPUTE_FULL);
    at_most(&s->space.schedule, SF_SCHEDULE_INTERLEAVED);
    at_most(&s->space.zero, 1);
    at_most(&s->space.micro_batch, 2);
    struct sfi_values *variants[] = {&s->space.etp,        &s->space.slices,     &s->space.gather, &s->space.whole_rows,
                                     &s->space.split_head, &s->space.zero_group, &s->space.offload};
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        variants[i]->n = 1; /* values ascend from the plainest */
    }
    s->effort =
        (struct sfi_effort){.replays = 40, .tables = 1, .simulations = 1, .answers = 1, .events = 1, .passes = 2000000};
    int rc = look(s, results, results_n, err);
    s->unseen = true;
    s->space = *whole;
    sf_free(whole);
    return rc;
}

static int run(struct sfi_search *s, struct sf_plan_result *results, uint32_t *results_n, struct sf_err *err) {
    uint32_t simulate = s->options->simulate == 0 ? DEFAULT_SIMULATE : s->options->simulate;
    simulate = simulate < s->options->top ? s->options->top : simulate;
    s->best_room = (size_t)simulate * SPARE;
    s->best = sf_calloc(s->best_room, sizeof *s->best);
    if (s->best == NULL) {
        return sf_fail_memory(err, "search");
    }
    SF_TRY(s->options->quick ? 0 : start_quickly(s, results, results_n, err));
    s->effort = (struct sfi_effort){.replays = MOST_REPLAYS,
                                    .tables = MOST_TABLES,
                                    .simulations = simulate,
                                    .answers = s->options->top,
                                    .events = MOST_EVENTS,
                                    .placing = MOST_PLACING,
                                    .passes = MOST_PASSES};
    if (s->options->quick) {
        s->effort.simulations = QUICK_SIMULATIONS;
        s->effort.events = QUICK_EVENTS;
        s->effort.answers = 1;
        s->effort.placing = 0;
        s->effort.tables = 0;
    }
    SF_TRY(s->stats->stopped ? 0 : look(s, results, results_n, err));
    s->stats->least_bytes = (uint64_t)s->least.memory_bytes;
    if (*results_n == 0 && s->stats->stopped) {
        return sf_fail(err, SF_E_INTERRUPTED, "the search was stopped before it had simulated a plan");
    }
    SF_TRY(*results_n == 0 ? sfi_search_explain(s, err) : 0);
    SF_TRY(s->options->objective == SF_OBJECTIVE_P95 ? sfi_search_robust(s, results, results_n, err) : 0);
    return sfi_search_large(s, &results[0], err);
}

/* With room for those that are looked at once more before the best are taken. */
static int run_with_room(struct sfi_search *s, struct sf_plan_result *results, uint32_t *results_n,
                         struct sf_err *err) {
    uint32_t top = s->options->top;
    s->room = s->options->objective == SF_OBJECTIVE_P95 && top < FINALISTS ? FINALISTS : top;
    struct sf_plan_result *found = sf_calloc(s->room, sizeof *found);
    if (found == NULL) {
        return sf_fail_memory(err, "finalists");
    }
    int rc = run(s, found, results_n, err);
    *results_n = rc != 0 ? 0 : *results_n < top ? *results_n : top; /* until here, tables are the search's */
    memcpy(results, found, *results_n * sizeof *found);
    sf_free(found);
    SF_TRY(rc);
    SF_TRY(own_tables(results, *results_n, err));
    prove_gaps(s, results, *results_n);
    return 0;
}

void sfi_search_clear(struct sfi_search *s) {
    for (uint32_t i = 0; i < s->tables_n; i++) {
        sf_pipe_free(s->tables[i]);
    }
    for (size_t i = 0; i < SFI_LAYOUTS && s->layouts != NULL; i++) {
        sf_free(s->layouts[i]);
    }
    sf_free(s->layouts);
    sf_free(s->tables);
    sf_free(s->groups);
    sf_free(s->best);
    sf_free(s->priced);
    sf_free(s->priced_at);
    sfi_memo_free(s->base.memo);
}

void sf_plan_results_clear(struct sf_plan_result *results, uint32_t results_n) {
    for (uint32_t i = 0; i < results_n; i++) {
        sf_plan_clear(&results[i].plan);
    }
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
    search->start = start;
    sfi_base_init(s, cost, &search->base);
    int rc = sfi_memo_create(&search->base.memo, err);
    rc = rc != 0             ? rc
         : options->top == 0 ? sf_fail(err, SF_E_USAGE, "a search must be asked for at least one plan")
                             : sfi_space_init(s, &search->space, err);
    if (rc == 0) {
        stats->points = sfi_space_points(&search->space);
        rc = run_with_room(search, results, results_n, err);
    }
    rc = rc == SF_E_NOPLAN && !options->no_advice && err != NULL ? sfi_search_pins(search, err) : rc;
    for (uint32_t i = 1; i < *results_n; i++) {
        sfi_lost(&results[i], &results[0], results[i].lost, sizeof results[i].lost);
    }
    sfi_search_clear(search);
    sf_free(search);
    stats->search_time_s = sf_ps_to_s(sf_clock_host.now(sf_clock_host.self) - start);
    return rc;
}
