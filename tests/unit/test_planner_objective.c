/* What a plan is chosen for: failures, checkpoints, noise and what is paid change which plan wins, by the amounts that
 * they should. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "planner/search_internal.h"
#include "tests/unit/test_planner_fixture.h"

#define TOP 4

struct found {
    struct sf_plan_result results[TOP];
    uint32_t n;
    struct sf_search_stats stats;
};

static struct sf_scenario small(const char *cluster, const struct shape *shape, uint32_t gpus, uint64_t batch) {
    struct sf_scenario s = shaped_scenario(load_cluster(cluster), shape);
    assert_non_null(s.topo);
    s.job.gpus = s.job.gpus_asked = gpus;
    s.job.global_batch_sequences = batch;
    return s;
}

static struct sf_pin pin(uint32_t a, uint32_t b) {
    return a == b ? (struct sf_pin){.n = 1, .value = {a}} : (struct sf_pin){.n = 2, .value = {a, b}};
}

static void find(const struct sf_scenario *s, int objective, double jitter, struct found *f) {
    const struct sf_search_options options = {.top = TOP, .objective = objective, .jitter = jitter, .seeds = 4};
    struct sf_err err = {0};
    struct sf_cost *cost;
    assert_int_equal(sf_cost_create(s->topo, &sf_io_posix, NULL, &cost, &err), 0);
    if (sf_search(s, cost, &options, f->results, &f->n, &f->stats, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    for (uint32_t i = 0; i < f->n; i++) {
        assert_true(f->results[i].gap >= 0);
        assert_true(i == 0 || f->results[i].merit.worth_s >= f->results[i - 1].merit.worth_s);
    }
    assert_true(f->results[0].merit.worth_s >= f->stats.bound_s * (1 - 1e-12));
    sf_cost_free(cost);
    sf_plan_results_clear(f->results, f->n);
}

static double at(double x, double save, double restart, double mtbf) {
    return sf_kept_share(x, save, restart, mtbf);
}

/* Against the textbook: simulated lives of a job, drawn failure by failure, keep the share that the formula says. */
static void kept_share_is_what_happens(void **state) {
    const double mtbf = 800, save = 20, restart = 60, interval = 150;
    uint64_t x = 88172645463325252u;
    double clock = 0, done = 0;
    (void)state;
    for (double left = 0, run = 0; done < 3e7;) {
        if (left <= 0) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            left = -mtbf * log((double)((x >> 11) + 1) * 0x1p-53);
        }
        double need = interval + save + run;
        if (left >= need) {
            left -= need;
            clock += need;
            done += interval;
            run = 0;
        } else {
            clock += left; /* lost, restart included: it may fail too */
            left = 0;
            run = restart;
        }
    }
    assert_true(fabs(done / clock / at(interval, save, restart, mtbf) - 1) < 0.01);
}

static void best_interval_is_the_best(void **state) {
    (void)state;
    for (double mtbf = 100; mtbf < 1e6; mtbf *= 3) {
        for (double save = 0.1; save < 300; save *= 4) {
            double step = 2.5, best = sf_best_interval_s(step, save, 60, mtbf), share = at(best, save, 60, mtbf);
            assert_true(fabs(best / step - round(best / step)) < 1e-9 && best >= step);
            for (double n = 1; n < 4 * best / step + 8; n++) {
                assert_true(at(n * step, save, 60, mtbf) <= share * (1 + 1e-4));
            }
        }
    }
    assert_true(sf_best_interval_s(2.5, 1, 60, 0) <= 0 && at(0, 1, 60, 0) >= 1);
}

/* Whole groups of twenty ranks that share a sequence leave twelve seats of a rack empty: quicker, but a rack more to
 * pay. */
static void what_is_paid_decides(void **state) {
    static const struct shape shape = {8, 2048, 16, 8, 7168, 0, 32000, 32000, SF_BF16};
    struct found by_time = {0}, by_cost = {0};
    (void)state;
    struct sf_scenario s = small("gb300-nvl72-4rack", &shape, 200, 10);
    s.pins.cp = pin(10, 20);
    s.pins.tp = pin(1, 1);
    s.pins.vpp = pin(1, 1);
    s.job.upkeep.gpu_hour_price = 2;
    find(&s, SF_OBJECTIVE_TIME, 0, &by_time);
    find(&s, SF_OBJECTIVE_COST, 0, &by_cost);
    const struct sf_plan_result *quick = &by_time.results[0], *cheap = &by_cost.results[0];
    assert_int_equal(quick->plan.cp, 20);
    assert_int_equal(quick->merit.paid_gpus, 288);
    assert_true(cheap->plan.ranks_per_domain > quick->plan.ranks_per_domain);
    assert_int_equal(cheap->merit.paid_gpus, 216);
    assert_true(cheap->sim.step_time > quick->sim.step_time);
    assert_true(cheap->merit.cost_per_megatoken < quick->merit.cost_per_megatoken);
    double hours = sf_ps_to_s(cheap->sim.step_time) / 3600, megatokens = 10 * 32000 / 1e6;
    assert_true(fabs(cheap->merit.cost_per_megatoken / (2 * 216 * hours / megatokens) - 1) < 1e-9);
    sf_scenario_clear(&s);
}

/* Experts apart are the quicker; but then every rank has a part of the checkpoint to itself, dense layers included. */
static void failures_decide(void **state) {
    static const struct shape shape = {4, 2048, 16, 16, 2048, 8, 2048, 1024, SF_BF16};
    struct found by_time = {0}, by_day = {0};
    (void)state;
    struct sf_scenario s = small("gb300-nvl72-1rack", &shape, 8, 64);
    s.pins.zero = pin(0, 0);
    s.pins.ep = pin(1, 8);
    s.pins.tp = s.pins.cp = s.pins.pp = s.pins.vpp = pin(1, 1);
    s.job.upkeep = (struct sf_upkeep){86400e3 / 8 / 60, 5, 100000000, 2};
    find(&s, SF_OBJECTIVE_TIME, 0, &by_time);
    find(&s, SF_OBJECTIVE_GOODPUT, 0, &by_day);
    const struct sf_merit *m = &by_day.results[0].merit;
    assert_int_equal(by_time.results[0].plan.ep, 8);
    assert_int_equal(by_day.results[0].plan.ep, 1);
    assert_true(m->tokens_per_day > by_time.results[0].merit.tokens_per_day * 1.001);
    assert_true(fabs(m->mtbf_s - 60) < 1e-6 && m->restart_s > 5 && m->save_s > 0 && m->interval_s > 0);
    assert_true(by_time.results[0].sim.step_time < by_day.results[0].sim.step_time);
    sf_scenario_clear(&s);
}

/* One stage is the quickest; two let fewer replicas wait for the slowest of them. */
static void noise_decides(void **state) {
    static const struct shape shape = {8, 4096, 32, 8, 14336, 0, 32000, 4096, SF_BF16};
    struct found by_time = {0}, by_p95 = {0};
    (void)state;
    struct sf_scenario s = small("gb300-nvl72-1rack", &shape, 64, 64);
    s.pins.vpp = s.pins.cp = s.pins.tp = s.pins.micro_batch = s.pins.zero = pin(1, 1);
    s.pins.pp = pin(1, 2);
    s.pins.recompute = pin(SF_RECOMPUTE_NONE, SF_RECOMPUTE_NONE);
    find(&s, SF_OBJECTIVE_TIME, 0, &by_time);
    find(&s, SF_OBJECTIVE_P95, 0.5, &by_p95);
    assert_int_equal(by_time.results[0].plan.pp, 1);
    assert_int_equal(by_p95.results[0].plan.pp, 2);
    assert_true(by_p95.results[0].merit.p95_s > sf_ps_to_s(by_p95.results[0].sim.step_time));
    sf_scenario_clear(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kept_share_is_what_happens),
        cmocka_unit_test(best_interval_is_the_best),
        cmocka_unit_test(what_is_paid_decides),
        cmocka_unit_test(failures_decide),
        cmocka_unit_test(noise_decides),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
