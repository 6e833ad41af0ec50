/* The search: closed forms choose whom to simulate, the simulator chooses the plan. */
#include "planner/search.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "planner/search_internal.h"

#define DEFAULT_SIMULATE 200
#define MOST_REPLAYS 1500
#define MOST_REFUSALS 400
#define MOST_COMPILING UINT64_C(8000000)
#define MOST_TABLES 8 /* synthesised */
#define MOST_PASSES UINT64_C(25000000)
#define MOST_PROOF_PASSES UINT64_C(30000000)
#define MOST_EVENTS UINT64_C(200000000) /* simulated */
#define MOST_PLACING UINT64_C(20000000) /* events of plans that are simulated on other seats */
#define QUICK_SIMULATIONS 3
#define QUICK_EVENTS UINT64_C(1000000)
#define QUICK_TABLES 1
#define FINALISTS 16 /* of p95 */
#define SPARE 4      /* candidates kept for each one to simulate, in case compile finds some too large */

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
        sfi_leave_out(s, results[0].mfu <= 1 ? sfi_arithmetic_s(s, &results[0]) : 0);
    }
    s->stats->bound_s = fmin(s->open_s, best);
    for (uint32_t i = 0; i < n; i++) {
        results[i].gap = results[i].merit.worth_s / s->stats->bound_s - 1;
    }
}

static int look(struct sfi_search *s, struct sf_plan_result *results, uint32_t *results_n, struct sf_err *err) {
    s->groups_n = 0;
    for (int i = 0; i < SFI_RANKINGS; i++) {
        s->best[i].n = s->best[i].next = 0;
    }
    s->open_s = INFINITY;
    memset(s->refused, 0, sizeof s->refused);
    s->stats->too_large = s->stats->evaluated = s->stats->replayed = s->stats->passed_over = 0;
    s->unseen = true;
    s->beaten = 0;
    s->enough_s = s->numbers_n > 1 && *results_n > 0 ? results[0].merit.worth_s : 0;
    sf_time_ps begin = sf_clock_host.now(sf_clock_host.self);
    SF_TRY(sfi_search_visit(s, err));
    s->stats->bounding_time_s = sf_ps_to_s(sf_clock_host.now(sf_clock_host.self) - begin);
    s->unseen = s->stats->stopped;
    s->stats->bounded = (s->groups_n + s->beaten) * s->space->zero.n * SFI_CUTS_N;
    s->done = SFI_DONE_VISITED;
    SF_TRY(sfi_probe_numbers(s, results, results_n, err));
    s->done = SFI_DONE_VISITED;
    SF_TRY(sfi_search_refine(s, err));
    for (size_t i = 0; i < s->groups_n; i++) {
        s->stats->passed_over += !s->groups[i].looked;
    }
    s->done = SFI_DONE_TIGHTENED;
    return sfi_simulate_best(s, results, results_n, err);
}

static void at_most(struct sfi_values *values, uint32_t most) {
    for (; values->n > 1 && values->value[values->n - 1] > most; values->n--) {
    }
}

/* A first plan soon: of the plainest kinds, whose prices are needed later anyway. */
static int start_quickly(struct sfi_search *s, struct sf_plan_result *results, uint32_t *results_n,
                         struct sf_err *err) {
    struct sfi_space *plain = sf_malloc(sizeof *plain);
    if (plain == NULL) {
        return sf_fail_memory(err, "search");
    }
    *plain = *s->space;
    at_most(&plain->cp, 1);
    at_most(&plain->recompute, SF_RECOMPUTE_FULL);
    at_most(&plain->schedule, SF_SCHEDULE_INTERLEAVED);
    at_most(&plain->zero, 1);
    at_most(&plain->micro_batch, 2);
    struct sfi_values *variants[] = {&plain->etp,        &plain->slices,     &plain->gather,  &plain->whole_rows,
                                     &plain->split_head, &plain->zero_group, &plain->offload, &plain->again};
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        variants[i]->n = 1; /* values ascend from the plainest */
    }
    uint32_t numbers_n = sfi_numbers_narrow(s, plain);
    s->effort =
        (struct sfi_effort){.replays = 40, .tables = 1, .simulations = 1, .answers = 1, .events = 1, .passes = 2000000};
    int rc = look(s, results, results_n, err);
    s->unseen = true;
    s->done = 0;
    sfi_numbers_widen(s, numbers_n);
    sf_free(plain);
    return rc;
}

static int run(struct sfi_search *s, struct sf_plan_result *results, uint32_t *results_n, struct sf_err *err) {
    uint32_t simulate = s->options->simulate == 0 ? DEFAULT_SIMULATE : s->options->simulate;
    simulate = simulate < s->options->top ? s->options->top : simulate;
    s->best_room = (size_t)simulate * SPARE;
    for (uint32_t i = 0; i < SFI_SHARINGS * s->numbers_n; i++) {
        s->best[i].of = sf_calloc(s->best_room, sizeof *s->best[i].of);
        if (s->best[i].of == NULL) {
            return sf_fail_memory(err, "search");
        }
    }
    SF_TRY(s->options->quick ? 0 : start_quickly(s, results, results_n, err));
    s->effort = (struct sfi_effort){.replays = MOST_REPLAYS,
                                    .tables = MOST_TABLES,
                                    .simulations = simulate,
                                    .refusals = MOST_REFUSALS,
                                    .answers = s->options->top,
                                    .events = MOST_EVENTS,
                                    .compiling = MOST_COMPILING,
                                    .placing = MOST_PLACING,
                                    .passes = MOST_PASSES,
                                    .proof_passes = MOST_PROOF_PASSES};
    if (s->options->most_work > 0) {
        s->effort.proof_passes = 0;
        s->effort.tables = QUICK_TABLES;
    }
    if (s->options->quick) {
        s->effort.simulations = QUICK_SIMULATIONS;
        s->effort.events = QUICK_EVENTS;
        s->effort.answers = 1;
        s->effort.proof_passes = 0;
        s->effort.placing = 0;
        s->effort.tables = QUICK_TABLES;
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
    SF_TRY(sfi_search_plain(s, results, *results_n, err));
    SF_TRY(own_tables(results, *results_n, err));
    prove_gaps(s, results, *results_n);
    return 0;
}

void sfi_search_clear(struct sfi_search *s) {
    for (uint32_t i = 0; i < s->tables_n; i++) {
        sf_pipe_free(s->tables[i]);
    }
    sfi_known_free(s->known);
    sf_free(s->tables);
    sf_free(s->groups);
    for (int i = 0; i < SFI_RANKINGS; i++) {
        sf_free(s->best[i].of);
    }
    sfi_memo_free(s->base.memo);
    sfi_numbers_free(s);
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
    search->scenario = search->whole = s;
    search->options = options;
    search->stats = stats;
    search->start = start;
    sfi_base_init(s, cost, &search->base);
    search->base.tuned = s->pins.collectives.n > 0 && sfi_pin_allows(&s->pins.collectives, 1);
    int rc = sfi_memo_create(&search->base.memo, err);
    rc = rc != 0             ? rc
         : options->top == 0 ? sf_fail(err, SF_E_USAGE, "a search must be asked for at least one plan")
                             : sfi_numbers_create(search, err);
    if (rc == 0) {
        stats->points = sfi_numbers_points(search);
        rc = run_with_room(search, results, results_n, err);
    }
    if (search->known != NULL) {
        sfi_work(search, 0); /* that of all parts */
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
