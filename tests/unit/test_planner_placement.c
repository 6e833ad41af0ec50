/* Where ranks sit: the order of the axes and the tiling of domains reach program, simulator and plan file, change what
 * is simulated and nothing that is computed; and a loss is answered with fewer replicas of the same plan. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "planner/placement.h"
#include "planner/search.h"
#include "sim/sim.h"
#include "tests/unit/test_planner_fixture.h"

static const struct shape shape = {8, 1024, 8, 8, 4096, 8, 4096, 1024, SF_BF16};

static struct sf_scenario scenario(uint32_t gpus) {
    struct sf_scenario s = shaped_scenario(load_cluster("gb300-nvl72-4rack"), &shape);
    assert_non_null(s.topo);
    s.job.gpus = s.job.gpus_asked = gpus;
    s.job.global_batch_sequences = 128;
    return s;
}

static struct sf_plan plan(void) {
    struct sf_plan p = {.tp = 2, .ep = 4, .cp = 1, .dp = 32, .pp = 4, .vpp = 1, .micro_batch = 1, .microbatches = 4};
    p.schedule = SF_SCHEDULE_1F1B;
    p.zero = 1;
    p.ranks_per_domain = 64;
    for (uint32_t i = 0; i < p.pp; i++) {
        p.layers[i] = 2;
    }
    return p;
}

static struct sf_prog *compile(const struct sf_scenario *s, const struct sf_plan *p) {
    struct sf_prog *prog;
    struct sf_err err = {0};
    if (sf_compile(s, p, &prog, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    return prog;
}

static sf_time_ps step(const struct sf_scenario *s, const struct sf_plan *p) {
    struct sf_prog *prog = compile(s, p);
    struct sf_sim_result folded, whole;
    struct sf_cost *cost;
    struct sf_err err = {0};
    assert_int_equal(sf_cost_create(s->topo, &sf_io_posix, NULL, &cost, &err), 0);
    assert_int_equal(sf_sim_run(prog, cost, &(struct sf_sim_options){.threads = 1}, &folded, &err), 0);
    assert_int_equal(sf_sim_run(prog, cost, &(struct sf_sim_options){.threads = 1, .unfolded = true}, &whole, &err), 0);
    assert_int_equal(folded.step_time, whole.step_time);
    assert_true(sf_hash_equal(folded.digest, whole.digest));
    sf_cost_free(cost);
    sf_prog_free(prog);
    return folded.step_time;
}

static uint32_t comm_named(const struct sf_prog *prog, const char *name) {
    uint32_t c = 0;
    while (c < prog->comms_n && strcmp(prog->comms[c].name, name) != 0) {
        c++;
    }
    assert_true(c < prog->comms_n);
    return c;
}

static void the_order_changes_the_step(void **state) {
    struct sf_scenario s = scenario(256);
    struct sf_plan p = plan();
    sf_time_ps steps[SF_ORDERS_N];
    (void)state;
    for (p.order = 0; p.order < SF_ORDERS_N; p.order++) {
        steps[p.order] = step(&s, &p);
    }
    assert_true(steps[0] != steps[1] && steps[1] != steps[2] && steps[0] != steps[2]);
    sf_scenario_clear(&s);
}

/* Groups of tp never leave a domain; stages side by side do not, and then replicas do. */
static void spreads_follow_the_order(void **state) {
    struct sf_scenario s = scenario(256);
    struct sf_plan p = plan();
    (void)state;
    for (p.order = 0; p.order < SF_ORDERS_N; p.order++) {
        struct sf_prog *prog = compile(&s, &p);
        struct sf_spread_of tp, dp, pp;
        sf_spread_of(prog, s.topo, comm_named(prog, "tp"), &tp);
        sf_spread_of(prog, s.topo, comm_named(prog, "dp"), &dp);
        sf_spread_of(prog, s.topo, comm_named(prog, "pp.fwd"), &pp);
        bool last = p.order == SF_ORDER_PP_LAST;
        assert_int_equal(tp.domains_most, 1);
        assert_int_equal(pp.domains_most, last ? 4 : 1);
        assert_int_equal(dp.domains_most, last ? 1 : 4);
        assert_int_equal(dp.members, 32);
        assert_int_equal(dp.groups, 8);
        assert_true(dp.bound == 1 && dp.bound <= dp.domains_least);
        assert_int_equal(
            sf_prog_coord(prog, sf_plan_stage_stride(&p), last ? prog->axes_n - 1 : (uint32_t)(3 - p.order)), 1);
        sf_prog_free(prog);
    }
    sf_scenario_clear(&s);
}

static void tilings_of_72_are_tried(void **state) {
    struct sf_scenario s = scenario(256);
    struct sf_plan p = plan();
    struct sf_placement at[SF_PLACEMENTS_MOST];
    uint32_t n = sf_placements(&s, &p, at), with_64 = 0, with_72 = 0;
    (void)state;
    for (uint32_t i = 0; i < n; i++) {
        with_64 += at[i].ranks_per_domain == 64;
        with_72 += at[i].ranks_per_domain == 72;
        for (uint32_t k = 0; k < i; k++) {
            assert_true(at[i].order != at[k].order || at[i].ranks_per_domain != at[k].ranks_per_domain);
        }
        p.order = at[i].order;
        p.ranks_per_domain = at[i].ranks_per_domain;
        assert_int_equal(sf_plan_check(&s, &p, NULL), 0);
    }
    assert_true(at[0].order == SF_ORDER_PP_LAST && at[0].ranks_per_domain == 64);
    assert_int_equal(with_64, SF_ORDERS_N);
    assert_int_equal(with_72, SF_ORDERS_N);
    s.pins.order = (struct sf_pin){.n = 1, .value = {SF_ORDER_PP_LAST}};
    p = plan();
    assert_int_equal(sf_placements(&s, &p, at), 2);
    sf_scenario_clear(&s);
}

static void the_plan_file_carries_it(void **state) {
    struct sf_scenario s = scenario(256);
    struct sf_plan p = plan(), back;
    struct sf_buf text = {0};
    struct sf_hash hash;
    struct sf_err err = {0};
    char path[64];
    (void)state;
    p.order = SF_ORDER_PP_MIDDLE;
    snprintf(p.scenario, sizeof p.scenario, "x.yaml");
    snprintf(path, sizeof path, "/tmp/sf-placement-%d.yaml", (int)getpid());
    assert_int_equal(sf_plan_print(&p, sf_scenario_hash(&s), &text), 0);
    assert_non_null(strstr(text.data, "order: tp-cp-ep-pp-dp"));
    assert_int_equal(sf_io_posix.write_all(sf_io_posix.self, path, text.data, text.bytes, &err), 0);
    assert_int_equal(sf_plan_load(&sf_io_posix, path, &back, &hash, &err), 0);
    unlink(path);
    assert_int_equal(back.order, SF_ORDER_PP_MIDDLE);
    sf_buf_free(&text);
    sf_scenario_clear(&s);
}

/* 256 GPUs, of which 216 are left: 27 replicas would find seats, but 16 divide the batch. */
static void a_loss_takes_replicas(void **state) {
    struct sf_scenario s = scenario(256);
    struct sf_plan p = plan();
    struct sf_err err = {0};
    char path[64];
    (void)state;
    snprintf(path, sizeof path, "/tmp/sf-lost-%d.yaml", (int)getpid());
    const char lost[] = "dead: { domains: [\"1\"] }\n";
    assert_int_equal(sf_io_posix.write_all(sf_io_posix.self, path, lost, sizeof lost - 1, &err), 0);
    if (sf_topo_load_overlay(&sf_io_posix, path, s.topo, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    unlink(path);
    uint32_t replicas = UINT32_MAX;
    assert_int_equal(sf_replan(&s, &p, &replicas, &err), 0);
    assert_int_equal(s.job.gpus, 16 * 2 * 4);
    assert_int_equal(replicas, 16);
    struct sf_search_options options = {.top = 2, .quick = true};
    struct sf_plan_result results[2];
    struct sf_search_stats stats;
    struct sf_cost *cost;
    uint32_t n;
    assert_int_equal(sf_cost_create(s.topo, &sf_io_posix, NULL, &cost, &err), 0);
    if (sf_search(&s, cost, &options, results, &n, &stats, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    assert_true(n > 0 && stats.simulated <= 3);
    assert_true(results[0].plan.dp == 16 && results[0].plan.tp == 2 && results[0].plan.pp == 4);
    replicas = 15;
    assert_int_equal(sf_replan(&s, &p, &replicas, &err), 0);
    assert_int_equal(replicas, 8);
    p.ep = 64;
    assert_int_equal(sf_replan(&s, &p, &replicas, &err), SF_E_NOPLAN);
    sf_cost_free(cost);
    sf_plan_results_clear(results, n);
    sf_scenario_clear(&s);
}

/* Of the 216, 192 are used by 3 stages, of which the fullest has 3 of the 8 layers, 160 by 5 and 192 by 6 of 2. */
static void a_loss_can_take_other_stages(void **state) {
    struct sf_scenario s = scenario(256);
    struct sf_plan p = plan();
    struct sf_replan_way ways[SF_REPLAN_WAYS];
    struct sf_err err = {0};
    const char lost[] = "dead: { domains: [\"1\"] }\n";
    char path[64];
    (void)state;
    snprintf(path, sizeof path, "/tmp/sf-stages-%d.yaml", (int)getpid());
    assert_int_equal(sf_io_posix.write_all(sf_io_posix.self, path, lost, sizeof lost - 1, &err), 0);
    assert_int_equal(sf_topo_load_overlay(&sf_io_posix, path, s.topo, &err), 0);
    unlink(path);
    s.job.gpus_asked = 256;
    assert_int_equal(sf_replan_ways(&s, &p, 128, ways), 3);
    assert_true(ways[0].pp == 3 && ways[0].dp == 32);
    assert_true(ways[1].pp == 5 && ways[1].dp == 16);
    assert_true(ways[2].pp == 6 && ways[2].dp == 16);
    assert_int_equal(sf_replan_ways(&s, &p, 191, ways), 2);
    assert_int_equal(sf_replan_ways(&s, &p, 192, ways), 0);
    assert_int_equal(sf_replan_as(&s, &p, &ways[0], false, &err), 0);
    assert_true(s.job.gpus == 192 && s.pins.pp.value[0] == 3);
    for (uint32_t i = 0; i < s.pins.schedule.n; i++) {
        assert_int_not_equal(s.pins.schedule.value[i], SF_SCHEDULE_AUTO);
    }
    sf_scenario_clear(&s);
}

/* 288 ranks with experts over groups of 16, which lie over two racks of 72; and 256 of them, where none does. */
static void fewer_gpus_can_do_better(void **state) {
    struct sf_plan p = plan();
    (void)state;
    p.tp = p.ep = 4;
    p.pp = 1;
    p.layers[0] = 8;
    for (uint32_t all = 72; all >= 64; all -= 8) {
        struct sf_scenario s = scenario(4 * all);
        struct sf_plan_result best, out;
        struct sf_search_options options = {.top = 1};
        struct sf_cost *cost;
        struct sf_err err = {0};
        bool found;
        s.job.global_batch_sequences = 576;
        p.dp = p.ranks_per_domain = all;
        p.microbatches = 576 / all;
        assert_int_equal(sf_cost_create(s.topo, &sf_io_posix, NULL, &cost, &err), 0);
        if (sf_plan_evaluate(&s, cost, &p, &best, &err) != 0) {
            fail_msg("%s", err.msg);
        }
        best.merit.worth_s = sf_ps_to_s(best.sim.step_time);
        assert_int_equal(sf_search_fewer(&s, cost, &options, &best, &out, &found, &err), 0);
        assert_int_equal(found, all == 72);
        if (found) {
            assert_true(out.plan.dp == 64 && out.plan.tp == 4 && out.plan.pp == 1);
            assert_true(out.sim.step_time < best.sim.step_time);
            sf_plan_results_clear(&out, 1);
        }
        sf_cost_free(cost);
        sf_scenario_clear(&s);
    }
}

/* Of 288 seats: what pipelines of groups that fill racks of 64 divide comes first, and nothing that the job has. */
static void smaller_numbers_divide_well(void **state) {
    struct sf_scenario s = scenario(288);
    uint32_t counts[3], n;
    (void)state;
    s.job.global_batch_sequences = 640;
    n = sf_search_counts(&s, 3, counts);
    assert_int_equal(n, 3);
    assert_int_equal(counts[0], 256);
    for (uint32_t i = 0; i < n; i++) {
        assert_true(counts[i] >= 216 && counts[i] < 288);
    }
    s.job.global_batch_sequences = 1; /* one replica, as many microbatches as stages: never two stages */
    assert_int_equal(sf_search_counts(&s, 3, counts), 0);
    sf_scenario_clear(&s);
}

/* With effort enough one search over several numbers is no worse than that of the job's alone, says which it used, and
 * its gap holds. */
static void numbers_compete_in_one_search(void **state) {
    struct sf_scenario s = scenario(288);
    struct sf_search_options options = {.top = 1};
    struct sf_plan_result whole, any;
    struct sf_search_stats stats;
    struct sf_cost *cost;
    struct sf_err err = {0};
    uint32_t n;
    (void)state;
    s.job.global_batch_sequences = 576;
    s.pins.tp = (struct sf_pin){1, {4}};
    s.pins.schedule = (struct sf_pin){1, {SF_SCHEDULE_1F1B}};
    s.pins.micro_batch = (struct sf_pin){1, {1}};
    assert_int_equal(sf_cost_create(s.topo, &sf_io_posix, NULL, &cost, &err), 0);
    assert_int_equal(sf_search(&s, cost, &options, &whole, &n, &stats, &err), 0);
    assert_true(n == 1 && stats.numbers_n == 1 && whole.plan.gpus == 0);
    s.job.fewer = true;
    assert_int_equal(sf_search(&s, cost, &options, &any, &n, &stats, &err), 0);
    assert_true(n == 1 && stats.numbers_n > 1 && any.merit.worth_s <= whole.merit.worth_s);
    assert_true(any.plan.gpus == 0 || any.plan.gpus == sf_plan_gpus(&any.plan));
    assert_true(any.gap >= 0 && stats.numbers[0].gpus == 288 && stats.numbers[0].simulated > 0);
    sf_plan_results_clear(&whole, 1);
    sf_plan_results_clear(&any, 1);
    sf_cost_free(cost);
    sf_scenario_clear(&s);
}

/* A plan that says so may use fewer GPUs than the job; another may not, and none other than its degrees. */
static void a_plan_may_use_fewer(void **state) {
    struct sf_plan p = plan();
    struct sf_err err = {0};
    (void)state;
    struct sf_scenario s = scenario(288);
    s.job.gpus = 256;
    assert_int_equal(sf_plan_check(&s, &p, &err), 0);
    p.gpus = 256;
    assert_int_equal(sf_plan_check(&s, &p, &err), 0);
    p.gpus = 128;
    assert_int_equal(sf_plan_check(&s, &p, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "gpus is what the degrees multiply to, 256"));
    p.gpus = 256;
    s.job.gpus_asked = 128;
    assert_int_equal(sf_plan_check(&s, &p, &err), SF_E_INPUT);
    sf_scenario_clear(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_order_changes_the_step), cmocka_unit_test(spreads_follow_the_order),
        cmocka_unit_test(tilings_of_72_are_tried),    cmocka_unit_test(the_plan_file_carries_it),
        cmocka_unit_test(a_loss_takes_replicas),      cmocka_unit_test(a_loss_can_take_other_stages),
        cmocka_unit_test(fewer_gpus_can_do_better),   cmocka_unit_test(smaller_numbers_divide_well),
        cmocka_unit_test(a_plan_may_use_fewer),       cmocka_unit_test(numbers_compete_in_one_search),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
