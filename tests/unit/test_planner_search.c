/* The search: results are sound, ordered, repeatable and explained; what cannot fit is refused with a reason. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "core/arena.h"
#include "planner/search_internal.h"

#define TOP 8

struct world {
    struct sf_scenario s;
    struct sf_cost *cost;
    struct sf_plan_result results[TOP];
    struct sf_search_stats stats;
    uint32_t n, threads;
};

static int set_up_with(void **state, const char *scenario, const char *cluster) {
    static struct world w;
    struct sf_err err = {0};
    char path[512], override[512];
    memset(&w, 0, sizeof w);
    *state = &w;
    snprintf(path, sizeof path, SF_SOURCE_DIR "/scenarios/%s/scenario.yaml", scenario);
    snprintf(override, sizeof override, SF_SOURCE_DIR "/scenarios/clusters/%s.yaml", cluster);
    if (sf_scenario_load(&sf_io_posix, path, SF_CATALOG_DIR, override, &w.s, &err) != 0 ||
        sf_cost_create(w.s.topo, &sf_io_posix, NULL, &w.cost, &err) != 0) {
        print_error("%s: %s\n", err.file, err.msg);
        return 1;
    }
    return 0;
}

static int tiny(void **state) {
    return set_up_with(state, "tiny-llama-cpu", "cpu-8");
}

static int grok(void **state) {
    return set_up_with(state, "grok1-gb300-220k", "gb300-nvl72-220k");
}

static void clear_results(struct world *w) {
    sf_plan_results_clear(w->results, w->n);
    w->n = 0;
}

static int tear_down(void **state) {
    struct world *w = *state;
    clear_results(w);
    sf_cost_free(w->cost);
    sf_scenario_clear(&w->s);
    return 0;
}

static int search(struct world *w, uint32_t simulate, struct sf_err *err) {
    const struct sf_search_options options = {.top = TOP, .simulate = simulate, .threads = w->threads};
    memset(err, 0, sizeof *err);
    clear_results(w);
    return sf_search(&w->s, w->cost, &options, w->results, &w->n, &w->stats, err);
}

static void search_well(struct world *w, uint32_t simulate) {
    struct sf_err err;
    if (search(w, simulate, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    assert_true(w->n > 0);
}

/* What must hold for every result, whatever the scenario. */
static void check_results(const struct world *w) {
    uint64_t memory = sf_topo_device(w->s.topo)->memory_bytes;
    for (uint32_t i = 0; i < w->n; i++) {
        const struct sf_plan_result *r = &w->results[i];
        struct sf_err err = {0};
        double step_s = sf_ps_to_s(r->sim.step_time);
        assert_int_equal(sf_plan_check(&w->s, &r->plan, &err), 0);
        assert_true(r->lower_bound_s > 0 && r->lower_bound_s <= step_s * (1 + 1e-9));
        assert_true(r->mfu > 0 && r->mfu < 1);
        assert_true(fabs(r->estimate_s / step_s - 1) < 0.25);
        for (uint32_t stage = 0; stage < r->plan.pp; stage++) {
            assert_true(r->memory_bytes[stage] > 0 && r->memory_bytes[stage] <= memory);
        }
        assert_true(i == 0 || r->sim.step_time >= w->results[i - 1].sim.step_time);
        assert_int_equal(i == 0, r->lost[0] == '\0');
    }
}

static void tiny_llama_is_planned(void **state) {
    struct world *w = *state;
    search_well(w, 24);
    check_results(w);
    assert_int_equal(w->n, TOP);
    assert_int_equal(w->results[0].plan.pp, 2);
    assert_true(w->results[0].plan.canonical);
    assert_non_null(strstr(w->results[1].lost, "% step"));
    assert_true(w->stats.evaluated > 20 && w->stats.points > w->stats.evaluated);
}

/* Twice with one thread, then with more of them. */
static void searching_again_gives_the_same(void **state) {
    static struct world first;
    struct world *w = *state;
    w->threads = 1;
    search_well(w, 12);
    first = *w;
    for (uint32_t threads = 1; threads <= 3; threads++) {
        w->n = 0; /* what they own is the copy's now */
        w->threads = threads;
        search_well(w, 12);
        assert_int_equal(w->n, first.n);
        assert_int_equal(w->stats.evaluated, first.stats.evaluated);
        assert_int_equal(w->stats.simulated, first.stats.simulated);
        assert_int_equal(w->stats.placements, first.stats.placements);
        for (uint32_t i = 0; i < w->n; i++) {
            struct sf_plan a = first.results[i].plan, b = w->results[i].plan;
            a.table = b.table = NULL;
            assert_memory_equal(&a, &b, sizeof a);
            assert_true(first.results[i].gap <= w->results[i].gap && first.results[i].gap >= w->results[i].gap);
            assert_int_equal(first.results[i].sim.step_time, w->results[i].sim.step_time);
        }
        sf_plan_results_clear(w->results, w->n);
    }
    w->n = 0;
    sf_plan_results_clear(first.results, first.n);
}

/* Numbers of GPUs in one search are as good as the best of their searches. */
static void fewer_is_one_more_choice(void **state) {
    struct world *w = *state;
    struct sf_search_number numbers[SF_SEARCH_NUMBERS];
    struct sf_err err;
    sf_time_ps alone = INT64_MAX;
    uint32_t best = 0, n;
    w->s.job.gpus = w->s.job.gpus_asked = 8;
    w->s.job.fewer = true;
    search_well(w, 200);
    check_results(w);
    n = w->stats.numbers_n;
    memcpy(numbers, w->stats.numbers, sizeof numbers);
    sf_time_ps together = w->results[0].sim.step_time;
    uint32_t used = sf_plan_gpus(&w->results[0].plan);
    double bound_s = w->stats.bound_s;
    assert_true(n > 1 && numbers[0].gpus == 8);
    w->s.job.fewer = false;
    for (uint32_t i = 0; i < n; i++) {
        w->s.job.gpus = numbers[i].gpus;
        assert_true(numbers[i].gpus >= 6 && numbers[i].gpus <= 8);
        if (search(w, 200, &err) == 0 && w->results[0].sim.step_time < alone) {
            alone = w->results[0].sim.step_time;
            best = w->s.job.gpus;
        }
    }
    assert_int_equal(together, alone);
    assert_int_equal(used, best);
    assert_true(bound_s <= sf_ps_to_s(alone) * (1 + 1e-9));
}

static void pins_bind(void **state) {
    struct world *w = *state;
    w->s.pins.schedule = (struct sf_pin){.n = 1, .value = {SF_SCHEDULE_1F1B}};
    w->s.pins.micro_batch = (struct sf_pin){.n = 1, .value = {2}};
    search_well(w, 4);
    check_results(w);
    for (uint32_t i = 0; i < w->n; i++) {
        assert_int_equal(w->results[i].plan.schedule, SF_SCHEDULE_1F1B);
        assert_int_equal(w->results[i].plan.micro_batch, 2);
    }
}

static void expect_no_plan(struct world *w, const char *says) {
    struct sf_err err;
    assert_int_equal(search(w, 4, &err), SF_E_NOPLAN);
    if (strstr(err.msg, says) == NULL) {
        fail_msg("\"%s\" should say \"%s\"", err.msg, says);
    }
}

static void impossible_pins_are_explained(void **state) {
    struct world *w = *state;
    w->s.pins.pp = (struct sf_pin){.n = 1, .value = {3}};
    expect_no_plan(w, "pp is a divisor of the GPUs 2");
    w->s.pins.pp = (struct sf_pin){.n = 1, .value = {2}};
    w->s.pins.dp = (struct sf_pin){.n = 1, .value = {2}};
    expect_no_plan(w, "cp * dp a multiple of ep");
    w->s.pins.dp.n = 0;
    w->s.pins.micro_batch = (struct sf_pin){.n = 1, .value = {2}};
    w->s.job.global_batch_sequences = 3;
    expect_no_plan(w, "none of the allowed values of micro_batch is a divisor");
}

static struct sf_pin one(uint32_t value) {
    return (struct sf_pin){.n = 1, .value = {value}};
}

/* Alone and in pairs, with how much is missing. */
static void pins_at_fault_are_named(void **state) {
    struct world *w = *state;
    struct sf_pins *p = &w->s.pins;
    p->tp = one(3);
    expect_no_plan(w, "tp 3 alone fails: 3 is 1 over the 2 GPUs");
    p->tp = one(1);
    p->micro_batch = one(5);
    expect_no_plan(w, "micro_batch 5 alone fails: 16 sequences of a step leave 1 over when divided by 5");
    p->micro_batch.n = 0;
    p->pp = one(2);
    p->vpp = one(5);
    expect_no_plan(w, "pinned pp 2 with vpp 5 fails: 10 is 2 over the 8 layers");
    p->pp = one(1);
    p->vpp = one(4);
    expect_no_plan(w, "pinned pp 1 with vpp 4 (each alone can be met) fails: the same");
    p->pp = one(2);
    p->vpp = one(1);
    p->schedule = one(SF_SCHEDULE_ZB_V);
    expect_no_plan(w, "pinned vpp 1 with schedule zb-v (each alone can be met) fails: the same");
    p->schedule.n = 0;
    p->dp = one(2);
    expect_no_plan(w, "pinned pp 2 with dp 2 fails: 4 is 2 over the 2 GPUs");
    p->tp = p->cp = p->pp = p->dp = one(1);
    p->vpp.n = 0;
    expect_no_plan(w, "together fail: tp * cp * pp * dp is 1, of 2 GPUs");
    *p = (struct sf_pins){.pp = one(1), .vpp = one(9)};
    expect_no_plan(w, "9 is 1 over the 8 layers");
}

/* The rule that is broken, not its neighbours; factors; limits that are not memory's. */
static void broken_rules_are_named(void **state) {
    struct world *w = *state;
    w->s.pins = (struct sf_pins){.whole_rows = one(1), .tp = one(1)};
    expect_no_plan(w, "this one: whole_rows needs tp above 1");
    w->s.pins = (struct sf_pins){.dp = one(2)};
    w->s.job.global_batch_sequences = 15;
    expect_no_plan(w, "2 GPUs (2), the batch is 15 (3 x 5); --fewer");
    w->s.pins = (struct sf_pins){.micro_batch = one(1)};
    w->s.job.global_batch_sequences = UINT64_C(1) << 30;
    expect_no_plan(w, "at most 65,535 microbatches in a step");
    w->s.pins = (struct sf_pins){.pp = one(2)};
    expect_no_plan(w, "smaller values of micro_batch are left out");
}

struct patience {
    uint64_t asked, most;
};

static bool has_none_left(void *self) {
    struct patience *p = self;
    return ++p->asked > p->most;
}

static int diagnose(struct world *w, struct patience *patience, struct sf_err *err) {
    const struct sf_search_options options = {.top = 1, .threads = 1, .stop = has_none_left, .self = patience};
    *err = (struct sf_err){0};
    return sf_search(&w->s, w->cost, &options, w->results, &w->n, &w->stats, err);
}

/* Pins that take long to tell apart are left open, and said so, the same each time. Interrupted is no conclusion. */
static void diagnosis_of_pins_ends(void **state) {
    struct world *w = *state;
    struct patience all = {.most = UINT64_MAX}, again = all;
    struct sf_err err, same;
    w->s.job.seq_len_tokens = 1u << 22;
    w->s.job.gpus = 72;
    w->s.pins = (struct sf_pins){.tp = one(8), .cp = one(1), .ep = one(1), .pp = one(9), .micro_batch = one(5)};
    assert_int_equal(diagnose(w, &all, &err), SF_E_NOPLAN);
    assert_non_null(strstr(err.msg, "kernel calls, a limit of programs"));
    assert_non_null(strstr(err.msg, "not settled within the effort of a diagnosis: tp, cp, ep, pp, micro_batch alone"));
    assert_null(strstr(err.msg, "together"));
    assert_int_equal(diagnose(w, &again, &same), SF_E_NOPLAN);
    assert_string_equal(same.msg, err.msg);
    struct patience half = {.most = all.asked / 2};
    assert_int_equal(diagnose(w, &half, &err), SF_E_INTERRUPTED);
    assert_non_null(strstr(err.msg, "interrupted while working out which of the pins do not fit"));
    assert_null(strstr(err.msg, "not settled"));
}

/* Eight layers of 150 MB, four times over for gradients and moments, on two ranks of 2 GB. */
static void too_large_a_model_is_explained(void **state) {
    struct world *w = *state;
    w->s.model.hidden = 1024;
    w->s.model.ffn = 12288;
    w->s.model.head_dim = 128;
    expect_no_plan(w, "nearest (tp 1, cp 1, ep 1, pp 2");
    assert_true(w->stats.least_bytes > sf_topo_device(w->s.topo)->memory_bytes);
    assert_int_equal(w->n, 0);
    w->s.model.hidden = 8192;
    expect_no_plan(w, "need more memory than the device");
}

static bool at_once(void *self) {
    (void)self;
    return true;
}

static void stopping_keeps_what_was_found(void **state) {
    struct world *w = *state;
    const struct sf_search_options options = {.top = TOP, .simulate = 4, .stop = at_once};
    struct sf_err err = {0};
    assert_int_equal(sf_search(&w->s, w->cost, &options, w->results, &w->n, &w->stats, &err), SF_E_INTERRUPTED);
    assert_true(w->stats.stopped);
}

static bool after_one(void *self) {
    return ((const struct sf_search_stats *)self)->simulated > 0;
}

/* What was never visited counts for the gap, too. */
static void a_stopped_search_promises_nothing_false(void **state) {
    struct world *w = *state;
    struct sf_err err = {0};
    search_well(w, 1000);
    double best_s = sf_ps_to_s(w->results[0].sim.step_time);
    const struct sf_search_options options = {.top = TOP, .stop = after_one, .self = &w->stats};
    clear_results(w);
    assert_int_equal(sf_search(&w->s, w->cost, &options, w->results, &w->n, &w->stats, &err), 0);
    assert_true(w->stats.stopped && w->n == 1 && w->stats.simulated == 1);
    assert_true(w->stats.bound_s <= best_s && w->stats.bound_s > 0);
    assert_true(sf_ps_to_s(w->results[0].sim.step_time) / (1 + w->results[0].gap) <= best_s);
}

static void survives_out_of_memory(void **state) {
    struct world *w = *state;
    struct sf_err err;
    w->s.pins.micro_batch = (struct sf_pin){.n = 1, .value = {4}};
    w->s.pins.schedule = (struct sf_pin){.n = 1, .value = {SF_SCHEDULE_1F1B}};
    for (size_t n = 1; n < 100000; n += 1 + n / 16) {
        sf_alloc_fail_after(n);
        int rc = search(w, 1, &err);
        sf_alloc_fail_after(0);
        if (rc == 0) {
            assert_true(n > 10);
            return;
        }
        assert_int_equal(rc, SF_E_INTERNAL);
    }
    fail_msg("the search never succeeded");
}

/* Closed-form prices follow compile: the estimate of a plain pipeline is close to its simulation. */
static void estimate_is_close(void **state) {
    struct world *w = *state;
    struct sf_plan plan = {.tp = 1, .ep = 1, .dp = 1, .pp = 2, .vpp = 1, .micro_batch = 1, .microbatches = 16};
    struct sf_err err = {0};
    plan.schedule = SF_SCHEDULE_1F1B;
    plan.canonical = true;
    plan.ranks_per_domain = 2;
    plan.layers[0] = plan.layers[1] = 4;
    if (sf_plan_evaluate(&w->s, w->cost, &plan, &w->results[0], &err) != 0) {
        fail_msg("%s", err.msg);
    }
    double step_s = sf_ps_to_s(w->results[0].sim.step_time);
    assert_true(fabs(w->results[0].estimate_s / step_s - 1) < 0.05);
    assert_true(w->results[0].lower_bound_s > 0.8 * step_s);
}

static void grok_fills_220000_gpus(void **state) {
    struct world *w = *state;
    search_well(w, 6 * TOP); /* tables are made six times for each group that gets one */
    check_results(w);
    for (uint32_t i = 0; i < w->n; i++) {
        const struct sf_plan *p = &w->results[i].plan;
        assert_int_equal((uint64_t)p->tp * sf_plan_cp(p) * p->dp * p->pp, 220000);
        assert_true(w->results[i].gap > 0 && w->results[i].gap < 1.5);
        assert_true(w->results[i].mfu > 0.3);
    }
    assert_true(w->stats.points > 1000000000);
}

static void placement_of_groups(void **state) {
    struct world *w = *state;
    const struct sf_topo *topo = w->s.topo;
    struct sf_span span;
    /* 220,000 ranks need every seat of a rack; groups of 64 cannot all stay inside one. */
    assert_int_equal(sfi_ranks_per_domain(topo, 220000, 8, 1), 72);
    assert_int_equal(sfi_ranks_per_domain(topo, 220000, 8, 8), 72);
    assert_int_equal(sfi_ranks_per_domain(topo, 100000, 8, 8), 64);
    assert_int_equal(sfi_ranks_per_domain(topo, 230000, 8, 8), 0);
    /* Two groups of eight ranks eight apart: the first ends and the second begins inside the first rack. */
    const struct sfi_groups g = {.members = 8, .stride = 8, .repeat = 64, .groups = 2};
    sfi_span(topo, 72, &g, &span);
    assert_int_equal(span.domains, 2);
    assert_int_equal(span.min_per_domain, 1);
    assert_true(span.kind > SF_ROUTE_DOMAIN);
}

#define WITH(world, test) cmocka_unit_test_setup_teardown(test, world, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH(tiny, tiny_llama_is_planned),
        WITH(tiny, searching_again_gives_the_same),
        WITH(tiny, fewer_is_one_more_choice),
        WITH(tiny, pins_bind),
        WITH(tiny, impossible_pins_are_explained),
        WITH(tiny, pins_at_fault_are_named),
        WITH(tiny, broken_rules_are_named),
        WITH(grok, diagnosis_of_pins_ends),
        WITH(tiny, too_large_a_model_is_explained),
        WITH(tiny, stopping_keeps_what_was_found),
        WITH(tiny, a_stopped_search_promises_nothing_false),
        WITH(tiny, survives_out_of_memory),
        WITH(tiny, estimate_is_close),
        WITH(grok, grok_fills_220000_gpus),
        WITH(grok, placement_of_groups),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
