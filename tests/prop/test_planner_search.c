/* Searches of small spaces against all plans there are, each simulated: the best is found, and no bound, of a set of
 * degrees, of a table or of the whole space, is above what it bounds. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "../unit/test_planner_fixture.h"
#include "core/rng.h"
#include "planner/placement.h"
#include "planner/search_internal.h"

#define TOP 3
#define CASES 10000

struct world {
    struct sf_topo *topo[2];
    struct sf_cost *cost[2];
};

enum variant { ETP, SLICES, GATHER, WHOLE_ROWS, SPLIT_HEAD, GROUP, VARIANTS };

struct tally {
    uint64_t plans, tight, partly, variant[VARIANTS];
    double best_s;
};

static uint32_t pick(struct sf_rng *rng, uint32_t n) {
    return (uint32_t)(sf_rng_u64(rng) % n);
}

static struct sf_scenario random_scenario(const struct world *w, struct sf_rng *rng, uint32_t *which) {
    static const uint32_t batches[] = {4, 8, 12, 6};
    static const int precisions[] = {SF_BF16, SF_BF16, SF_F32};
    struct shape shape = {.layers = 2 + pick(rng, 5),
                          .hidden = 64u << pick(rng, 3),
                          .heads = 4,
                          .kv_heads = 2,
                          .ffn = 128u << pick(rng, 4),
                          .experts = pick(rng, 3) == 0 ? 4 : 0,
                          .vocab = 256u << pick(rng, 6),
                          .seq_len_tokens = 64u << pick(rng, 4),
                          .precision = precisions[pick(rng, 3)]};
    *which = pick(rng, 2);
    struct sf_scenario s = shaped_scenario(w->topo[*which], &shape);
    s.job.gpus = s.job.gpus_asked = (uint32_t[]){2, 4, 8, 16}[pick(rng, 4)];
    s.job.global_batch_sequences = batches[pick(rng, 4)];
    s.job.canonical = shape.precision == SF_F32 && pick(rng, 2) == 0;
    for (uint32_t k = 0; k < SF_SCHEDULE_TABLE; k++) {
        s.pins.schedule.value[s.pins.schedule.n++] = k;
    }
    s.pins.recompute = (struct sf_pin){.n = 1, .value = {pick(rng, SF_RECOMPUTES_N)}};
    s.pins.micro_batch = (struct sf_pin){.n = 1, .value = {1 + pick(rng, 2)}};
    s.pins.tp = (struct sf_pin){.n = 2, .value = {1, 2}};
    s.pins.cp = (struct sf_pin){.n = 2, .value = {1, 2}};
    s.pins.ep = (struct sf_pin){.n = 2, .value = {1, 1 + pick(rng, 2)}};
    s.pins.ep.n = s.pins.ep.value[1] == 1 ? 1 : 2;
    s.pins.collectives = (struct sf_pin){.n = pick(rng, 2) * 2, .value = {0, 1}};
    return s;
}

/* One plan: simulated, and held against its bounds. */
static void try_plan(const struct sf_scenario *s, struct sfi_search *search, struct sfi_at *at,
                     const struct sf_plan *plan, struct tally *t) {
    static struct sf_plan_result r;
    struct sfi_replayed replayed;
    struct sf_err err = {0};
    if (sf_plan_check(s, plan, NULL) != 0) {
        return;
    }
    int rc = sfi_evaluate(s, search->base.cost, plan, &r, &err);
    if (rc != 0) {
        return;
    }
    double step_s = sf_ps_to_s(r.sim.step_time) * (1 + 1e-9);
    assert_int_equal(sfi_evaluate_tuned(search, s, plan, &r, &err), 0);
    step_s = fmin(step_s, sf_ps_to_s(r.sim.step_time) * (1 + 1e-9));
    const struct sfi_freedom freedom = sfi_freedom_of((uint32_t)plan->schedule, plan->vpp);
    search->plan = *plan;
    assert_int_equal(sfi_find_layout(search, &at->layout, NULL), 0); /* of its group that shares */
    struct sfi_bounded b = sfi_bounded_of(search, at, plan->zero);
    b.units = sfi_least_units(search, at->price);
    double bound_s = sfi_bound_s(&b, &freedom);
    b.units = sfi_plan_units(plan);
    double cut_s = plan->partly ? bound_s : sfi_bound_cut_s(&b, &freedom, &s->model, plan, INFINITY);
    assert_true(sfi_replay_plan(&search->base, at->layout, at->price, plan, &replayed));
    struct sfi_estimate e = sfi_estimate_of(&search->base, at->layout, at->price, plan, &replayed);
    if (bound_s > step_s || cut_s > step_s || e.least_s > step_s) {
        fail_msg("%s: bound %.9f, of its cut %.9f, least %.9f, simulated %.9f: layers %u zero %u recompute %d gpus %u "
                 "tp %u cp %u ep %u "
                 "pp %u vpp %u m %u etp %u slices %u gather %d whole_rows %d split_head %d group %u offload %u",
                 sf_schedule_name(plan->schedule), bound_s, cut_s, e.least_s, step_s, s->model.layers, plan->zero,
                 plan->recompute, s->job.gpus, plan->tp, sf_plan_cp(plan), plan->ep, plan->pp, plan->vpp,
                 plan->microbatches, sf_plan_etp(plan), sf_plan_slices(plan), plan->cp_gather, plan->whole_rows,
                 plan->split_head, plan->zero_group, plan->offload);
    }
    t->plans++;
    t->variant[ETP] += sf_plan_etp(plan) < plan->tp;
    t->variant[SLICES] += sf_plan_slices(plan) > 1;
    t->variant[GATHER] += plan->cp_gather;
    t->variant[WHOLE_ROWS] += plan->whole_rows;
    t->variant[SPLIT_HEAD] += plan->split_head;
    t->variant[GROUP] += plan->zero_group > 0;
    t->tight += e.least_s > 0.7 * step_s;
    t->best_s = fmin(t->best_s, step_s);
}

/* Every order of the axes, and every tiling that the search may take. */
static void try_seats(const struct sf_scenario *s, struct sfi_search *search, struct sfi_at *at,
                      const struct sf_plan *plan, struct tally *t) {
    struct sf_placement seats[SF_PLACEMENTS_MOST];
    struct sf_plan p = *plan;
    uint32_t n = sf_placements(s, plan, seats);
    for (uint32_t i = 0; i < n; i++) {
        p.order = seats[i].order;
        p.ranks_per_domain = seats[i].ranks_per_domain;
        try_plan(s, search, at, &p, t);
    }
}

/* Some layers of every virtual stage recompute, and the others do not, or less: its bounds hold, too. */
static void try_partly(const struct sf_scenario *s, struct sfi_search *search, const struct sf_plan *of,
                       struct tally *t) {
    struct sf_plan plan = *of;
    struct tally own = *t;
    struct sfi_at at;
    plan.recompute = SF_RECOMPUTE_FULL;
    plan.recompute_rest = of->recompute == SF_RECOMPUTE_SELECTIVE ? SF_RECOMPUTE_SELECTIVE : SF_RECOMPUTE_NONE;
    plan.partly = true;
    for (uint32_t v = 0; v < plan.pp * plan.vpp; v++) {
        plan.recompute_layers[v] = (uint32_t)((t->plans + 3 * v) % (plan.layers[v] + 1));
    }
    search->plan = plan;
    assert_int_equal(sfi_find_price(search, &at.price, NULL), 0);
    if (at.price != NULL && (of->recompute == SF_RECOMPUTE_NONE || of->recompute == SF_RECOMPUTE_SELECTIVE)) {
        try_plan(s, search, &at, &plan, &own);
        t->partly += own.plans - t->plans;
    }
}

/* In all groups that can share. */
static void try_groups(const struct sf_scenario *s, struct sfi_search *search, struct sfi_at at,
                       const struct sf_plan *of, struct tally *t) {
    uint32_t groups[SFI_MOST_GROUPS], n = sfi_zero_groups(search, at.layout, groups);
    for (uint32_t i = 0; i < n; i++) {
        struct sf_plan plan = *of;
        plan.zero_group = groups[i];
        try_partly(s, search, &plan, t);
        try_seats(s, search, &at, &plan, t);
    }
}

static void try_group(const struct sf_scenario *s, struct sfi_search *search, const struct sfi_group *g,
                      struct tally *t) {
    struct sfi_at at;
    struct sf_plan plan;
    sfi_group_plan(search, g, &search->plan);
    assert_int_equal(sfi_find_price(search, &at.price, NULL), 0);
    assert_int_equal(sfi_find_layout(search, &at.layout, NULL), 0);
    for (int rule = SFI_CUT_TIME; rule <= SFI_CUT_EVEN; rule++) {
        sfi_group_plan(search, g, &plan);
        if (!sfi_cut_layers(search, &at, (enum sfi_cut_rule)rule, &plan)) {
            continue;
        }
        for (plan.zero = 0; plan.zero <= 3; plan.zero++) {
            try_groups(s, search, at, &plan, t);
        }
    }
}

/* Every group that the rules of the search let pass; which those are is checked plan by plan. */
static struct tally try_all(const struct sf_scenario *s, const struct sf_cost *cost) {
    struct tally t = {.best_s = INFINITY};
    struct sf_search_stats stats = {0};
    const struct sf_search_options options = {.top = 1};
    static struct sfi_search search;
    static struct sfi_space space;
    struct sf_err err = {0};
    memset(&search, 0, sizeof search);
    search = (struct sfi_search){.scenario = s, .options = &options, .stats = &stats, .space = &space};
    sfi_base_init(s, cost, &search.base);
    search.base.tuned = s->pins.collectives.n > 0;
    if (sfi_space_init(s, &space, &err) == 0) {
        assert_int_equal(sfi_search_visit(&search, &err), 0);
    }
    for (size_t i = 0; i < search.groups_n; i++) {
        try_group(s, &search, &search.groups[i], &t);
    }
    sfi_search_clear(&search);
    return t;
}

static void search_again(const struct sf_scenario *s, const struct sf_cost *cost, uint32_t simulate, double best_s,
                         bool all) {
    static struct sf_plan_result results[TOP];
    const struct sf_search_options options = {.top = all ? TOP : 1, .simulate = simulate};
    struct sf_search_stats stats;
    struct sf_err err = {0};
    uint32_t n;
    int rc = sf_search(s, cost, &options, results, &n, &stats, &err);
    assert_int_equal(rc, isfinite(best_s) ? 0 : SF_E_NOPLAN);
    if (rc != 0) {
        return;
    }
    double found_s = sf_ps_to_s(results[0].sim.step_time);
    assert_true(found_s * (1 + 1e-9) >= best_s && stats.bound_s <= best_s);
    assert_true(results[0].gap >= 0 && found_s / (1 + results[0].gap) <= best_s);
    if (all && found_s * (1 - 1e-9) > best_s) {
        fail_msg("found %.9f, but %.9f is possible", found_s, best_s);
    }
    sf_plan_results_clear(results, n);
}

static void finds_the_best_and_proves_it(void **state) {
    const struct world *w = *state;
    struct sf_rng rng = sf_rng_seed(7);
    uint64_t plans = 0, tight = 0, partly = 0, spaces = 0, variant[VARIANTS] = {0};
    while (plans < CASES) {
        uint32_t which;
        struct sf_scenario s = random_scenario(w, &rng, &which);
        struct tally t = try_all(&s, w->cost[which]);
        search_again(&s, w->cost[which], 1000000, t.best_s, true);
        search_again(&s, w->cost[which], 1, t.best_s, false);
        plans += t.plans;
        partly += t.partly;
        tight += t.tight;
        for (int i = 0; i < VARIANTS; i++) {
            variant[i] += t.variant[i];
        }
        spaces++;
    }
    print_message("%llu plans in %llu spaces, %llu of them within 1 / 0.7 of their bounds\n", (unsigned long long)plans,
                  (unsigned long long)spaces, (unsigned long long)tight);
    print_message("%llu plans that recompute some layers\n", (unsigned long long)partly);
    assert_true(spaces > 20 && tight > plans / 20 && partly > plans / 20);
    for (int i = 0; i < VARIANTS; i++) {
        print_message("variant %d: %llu plans\n", i, (unsigned long long)variant[i]);
        assert_true(variant[i] > 0);
    }
}

static int set_up(void **state) {
    static struct world w;
    static const char *const names[2] = {"hgx-h100-2048", "gb300-nvl72-1rack"};
    *state = &w;
    for (int i = 0; i < 2; i++) {
        w.topo[i] = load_cluster(names[i]);
        if (w.topo[i] == NULL || sf_cost_create(w.topo[i], &sf_io_posix, NULL, &w.cost[i], NULL) != 0) {
            return 1;
        }
    }
    return 0;
}

static int tear_down(void **state) {
    struct world *w = *state;
    for (int i = 0; i < 2; i++) {
        sf_cost_free(w->cost[i]);
        sf_topo_free(w->topo[i]);
    }
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(finds_the_best_and_proves_it, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
