/* What would turn the order of two plans: simulated again at the factor found the runner-up wins, and a little nearer
 * to how things are it does not. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "planner/what_if.h"
#include "tests/unit/test_planner_fixture.h"

static const struct shape shape = {8, 4096, 32, 8, 14336, 0, 32000, 4096, SF_BF16};

static struct sf_scenario scenario(void) {
    struct sf_scenario s = shaped_scenario(load_cluster("gb300-nvl72-4rack"), &shape);
    assert_non_null(s.topo);
    s.job.gpus = s.job.gpus_asked = 256;
    s.job.global_batch_sequences = 512;
    return s;
}

static struct sf_plan plan(uint32_t tp, uint32_t pp, uint32_t micro_batch) {
    struct sf_plan p = {
        .tp = tp, .ep = 1, .cp = 1, .dp = 256 / tp / pp, .pp = pp, .vpp = 1, .micro_batch = micro_batch};
    p.schedule = SF_SCHEDULE_1F1B;
    p.zero = 1;
    p.microbatches = 512 / p.dp / micro_batch;
    p.ranks_per_domain = 64;
    for (uint32_t i = 0; i < pp; i++) {
        p.layers[i] = 8 / pp;
    }
    return p;
}

static double ratio(const struct sf_scenario *s, const struct sf_plan *a, const struct sf_plan *b, double up,
                    double out, double batch) {
    const struct sf_asked asked = {{up, out, 1}, batch};
    struct sf_err err = {0};
    double x, y;
    assert_int_equal(sf_asked_worth_s(s, NULL, SF_OBJECTIVE_TIME, a, &asked, &x, &err), 0);
    assert_int_equal(sf_asked_worth_s(s, NULL, SF_OBJECTIVE_TIME, b, &asked, &y, &err), 0);
    return x / y;
}

static double nearer(double factor) {
    return factor > 1 ? factor / 1.04 : factor * 1.04;
}

static void the_turn_is_where_it_is_said_to_be(void **state) {
    const struct sf_plan plans[] = {plan(1, 1, 1), plan(1, 2, 1), plan(2, 1, 1), plan(8, 1, 2), plan(4, 2, 1)};
    struct sf_scenario s = scenario();
    uint32_t networks = 0, nvlinks = 0, batches = 0;
    (void)state;
    for (size_t i = 0; i < sizeof plans / sizeof *plans; i++) {
        for (size_t k = 0; k < sizeof plans / sizeof *plans; k++) {
            const struct sf_plan *a = &plans[i], *b = &plans[k];
            struct sf_what_if w;
            struct sf_err err = {0};
            if (i == k || ratio(&s, a, b, 1, 1, 1) <= 1.002) {
                continue;
            }
            assert_int_equal(sf_what_if(&s, NULL, SF_OBJECTIVE_TIME, a, b, &w, &err), 0);
            if (w.network.factor > 0) {
                networks++;
                assert_true(ratio(&s, a, b, 1, w.network.factor, 1) < 1);
                assert_true(ratio(&s, a, b, 1, nearer(w.network.factor), 1) >= 1);
            }
            if (w.nvlink.factor > 0) {
                nvlinks++;
                assert_true(ratio(&s, a, b, w.nvlink.factor, 1, 1) < 1);
                assert_true(ratio(&s, a, b, nearer(w.nvlink.factor), 1, 1) >= 1);
            }
            if (w.batch.factor > 0) {
                batches++;
                assert_int_equal(w.microbatches, (uint32_t)(a->microbatches * w.batch.factor));
                assert_true(ratio(&s, a, b, 1, 1, w.batch.factor) < 1);
            }
        }
    }
    assert_true(networks > 0 && nvlinks > 0 && batches > 0);
    sf_scenario_clear(&s);
}

static void links_scale_exactly(void **state) {
    struct sf_topo *topo = load_cluster("gb300-nvl72-4rack"), *other;
    const struct sf_topo_scale by = {2, 0.5, 3};
    struct sf_route a, b;
    struct sf_err err = {0};
    (void)state;
    assert_non_null(topo);
    assert_int_equal(sf_topo_scaled(topo, &by, &other, &err), 0);
    sf_topo_route(topo, 0, 1, &a);
    sf_topo_route(other, 0, 1, &b);
    assert_int_equal(b.bytes_per_s, 2 * a.bytes_per_s);
    sf_topo_route(topo, 0, 100, &a);
    sf_topo_route(other, 0, 100, &b);
    assert_true(fabs((double)b.bytes_per_s / (double)a.bytes_per_s - 0.5) < 1e-6);
    assert_int_equal(a.latency_ps, b.latency_ps);
    assert_int_equal(sf_topo_device(other)->memory_bytes, 3 * sf_topo_device(topo)->memory_bytes);
    sf_topo_scaled_free(other);
    sf_topo_free(topo);
}

static struct sf_pin one(uint32_t value) {
    return (struct sf_pin){.n = 1, .value = {value}};
}

static void compiles_with(const struct sf_scenario *s, const struct sf_plan *plan, double memory, int expected) {
    const struct sf_topo_scale by = {1, 1, memory / (double)sf_topo_device(s->topo)->memory_bytes};
    struct sf_scenario more = *s;
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    assert_int_equal(sf_topo_scaled(s->topo, &by, &more.topo, &err), 0);
    assert_int_equal(sf_compile(&more, plan, &prog, &err), expected);
    assert_true(expected == 0 || strstr(err.msg, "its kernels"));
    sf_prog_free(prog);
    sf_topo_scaled_free(more.topo);
}

/* A plan that memory forbids: with what it is said to lack it compiles, with a little less it does not; nor with memory
 * for its arena alone, because kernels have work areas. */
static void memory_that_is_missed(void **state) {
    static const struct shape big = {32, 4096, 32, 8, 14336, 0, 32000, 16384, SF_BF16};
    struct sf_scenario s = shaped_scenario(load_cluster("hgx-h100-1node"), &big);
    const struct sf_search_options options = {.top = 1, .explain = true};
    static struct sf_plan_result result;
    struct sf_search_stats stats;
    struct sf_cost *cost;
    struct sf_err err = {0};
    uint32_t n;
    (void)state;
    s.job.gpus = s.job.gpus_asked = 8;
    s.job.global_batch_sequences = 64;
    s.pins.tp = s.pins.cp = s.pins.zero = s.pins.micro_batch = one(1);
    s.pins.schedule = one(SF_SCHEDULE_INTERLEAVED);
    assert_int_equal(sf_cost_create(s.topo, &sf_io_posix, NULL, &cost, &err), 0);
    if (sf_search(&s, cost, &options, &result, &n, &stats, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    assert_non_null(stats.large);
    assert_true(stats.large->sim.step_time < result.sim.step_time);
    uint64_t have = sf_topo_device(s.topo)->memory_bytes;
    double arena = (double)stats.large->sim.peak_memory_bytes, need = (double)stats.large->device_bytes;
    assert_true(stats.large->device_bytes > have && result.device_bytes <= have);
    assert_true(need > 1.001 * arena);
    compiles_with(&s, &stats.large->plan, need * 1.0001, 0);
    compiles_with(&s, &stats.large->plan, need * 0.9999, SF_E_NOPLAN);
    compiles_with(&s, &stats.large->plan, arena * 1.0001, SF_E_NOPLAN);
    sf_search_stats_clear(&stats);
    sf_plan_results_clear(&result, n);
    sf_cost_free(cost);
    sf_scenario_clear(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(links_scale_exactly),
        cmocka_unit_test(memory_that_is_missed),
        cmocka_unit_test(the_turn_is_where_it_is_said_to_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
