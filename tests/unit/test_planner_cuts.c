/* Cuts against all cuts there are, and the cases that made even cuts look bad. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "core/rng.h"
#include "planner/cuts.h"
#include "planner/search.h"
#include "test_planner_fixture.h"

struct all { /* every cut into stages and every choice of ways, one after the other */
    const struct sf_cut_problem *p;
    uint32_t first[16];
    uint8_t way[16];
    sf_time_ps best;
    uint32_t devices;
};

static uint64_t bytes_of(const struct sf_cut_problem *p, uint32_t stage, uint32_t from, uint32_t to, uint32_t way) {
    uint64_t bytes = 0;
    for (uint32_t i = from; i < to; i++) {
        bytes += p->units[i].fixed_bytes[way] + p->in_flight[stage] * p->units[i].activation_bytes[way];
    }
    return bytes;
}

static void weigh(struct all *a) {
    sf_time_ps slowest = 0;
    uint32_t devices = 0;
    for (uint32_t s = 0; s < a->p->stages_n; s++) {
        sf_time_ps time = 0;
        for (uint32_t i = a->first[s]; i < a->first[s + 1]; i++) {
            time += a->p->units[i].time[a->way[s]];
        }
        if (bytes_of(a->p, s, a->first[s], a->first[s + 1], a->way[s]) > a->p->limit_bytes[s]) {
            return;
        }
        slowest = time > slowest ? time : slowest;
        devices += a->p->way_devices[a->way[s]];
    }
    if (devices <= a->p->devices && (slowest < a->best || (slowest == a->best && devices < a->devices))) {
        a->best = slowest;
        a->devices = devices;
    }
}

static void walk(struct all *a, uint32_t stage) {
    if (stage == a->p->stages_n) {
        weigh(a);
        return;
    }
    uint32_t left = a->p->stages_n - stage - 1;
    uint32_t last = left == 0 ? a->p->units_n : a->p->units_n - left;
    for (uint32_t to = left == 0 ? a->p->units_n : a->first[stage] + 1; to <= last; to++) {
        for (uint8_t way = 0; way < a->p->ways_n; way++) {
            a->first[stage + 1] = to;
            a->way[stage] = way;
            walk(a, stage + 1);
        }
    }
}

static void equals_all_cuts(void **state) {
    (void)state;
    struct sf_rng rng = sf_rng_seed(7);
    uint32_t fits = 0, refused = 0;
    for (int round = 0; round < 3000; round++) {
        struct sf_cut_unit units[12] = {0};
        uint32_t in_flight[5], devices[3] = {1, 2, 4};
        uint64_t limit[5];
        uint32_t stages = 1 + (uint32_t)(sf_rng_u64(&rng) % 5);
        struct sf_cut_problem p = {
            .units = units, .stages_n = stages, .way_devices = devices, .in_flight = in_flight, .limit_bytes = limit};
        p.units_n = stages + (uint32_t)(sf_rng_u64(&rng) % (13 - stages));
        p.ways_n = 1 + (uint32_t)(sf_rng_u64(&rng) % (p.units_n > 8 ? 2 : 3));
        p.devices = p.stages_n + (uint32_t)(sf_rng_u64(&rng) % (3 * p.stages_n));
        for (uint32_t s = 0; s < p.stages_n; s++) {
            in_flight[s] = p.stages_n - s;
            limit[s] = 15 + sf_rng_u64(&rng) % 90;
        }
        for (uint32_t i = 0; i < p.units_n; i++) {
            sf_time_ps time = 1 + (sf_time_ps)(sf_rng_u64(&rng) % 40);
            for (uint32_t w = 0; w < p.ways_n; w++) {
                units[i].time[w] = time / (1 << w) + (sf_time_ps)w;
                units[i].fixed_bytes[w] = (1 + sf_rng_u64(&rng) % 20) >> w;
                units[i].activation_bytes[w] = (1 + sf_rng_u64(&rng) % 8) >> w;
            }
        }
        struct all a = {.p = &p, .best = INT64_MAX};
        walk(&a, 0);
        struct sf_cut cut;
        struct sf_err err = {0};
        int rc = sf_cut(&p, &cut, &err);
        fits += rc == SF_OK;
        refused += rc == SF_E_NOPLAN;
        assert_int_equal(rc, a.best == INT64_MAX ? SF_E_NOPLAN : SF_OK);
        if (rc == SF_OK) {
            assert_int_equal(cut.slowest, a.best);
            assert_int_equal(cut.devices, a.devices);
        } else {
            assert_non_null(strstr(err.msg, "no cut into"));
        }
    }
    assert_true(fits > 500 && refused > 500);
}

/* dim 4096, 12 layers, 4 stages, 256k vocabulary: a layer is 12 d^2 weights, the head 256k d, so 5.2 layers. */
static void large_vocabulary(void **state) {
    (void)state;
    struct sf_cut_unit units[13] = {0};
    uint32_t in_flight[4] = {4, 3, 2, 1}, devices[1] = {1};
    uint64_t limit[4] = {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX};
    sf_time_ps layer = 12LL * 4096 * 4096, head = 256000LL * 4096, even = 3 * layer + head;
    for (int i = 0; i < 13; i++) {
        units[i].time[0] = i < 12 ? layer : head;
    }
    struct sf_cut_problem p = {units, 13, 4, 1, devices, 4, in_flight, limit};
    struct sf_cut cut;
    assert_int_equal(sf_cut(&p, &cut, NULL), SF_OK);
    assert_true((double)even >= 1.2 * (double)cut.slowest);
    assert_int_equal(cut.first[1], 4);
    assert_int_equal(cut.first[2], 8);
    assert_int_equal(cut.first[3], 12);
}

static void two_hundred_layers_on_64_stages(void **state) {
    (void)state;
    static struct sf_cut_unit units[202];
    uint32_t in_flight[64], devices[1] = {1};
    uint64_t limit[64];
    struct sf_rng rng = sf_rng_seed(9);
    for (int i = 0; i < 202; i++) {
        units[i].time[0] = 1000000 + (sf_time_ps)(sf_rng_u64(&rng) % 1000000);
        units[i].fixed_bytes[0] = 10;
        units[i].activation_bytes[0] = 1;
    }
    for (uint32_t s = 0; s < 64; s++) {
        in_flight[s] = 64 - s;
        limit[s] = 400;
    }
    struct sf_cut_problem p = {units, 202, 64, 1, devices, 64, in_flight, limit};
    struct sf_cut cut;
    assert_int_equal(sf_cut(&p, &cut, NULL), SF_OK);
    assert_int_equal(cut.first[64], 202);
    sf_time_ps total = 0;
    for (int i = 0; i < 202; i++) {
        total += units[i].time[0];
    }
    assert_true(cut.slowest >= total / 64 && cut.slowest < total / 64 * 3 / 2);
}

/* The same in the simulator: what the search finds against the same plan cut evenly. */
static void uneven_cuts_pay(void **state) {
    (void)state;
    static const struct shape shape = {12, 4096, 32, 32, 11008, 0, 262144, 4096, SF_BF16};
    static struct sf_plan_result results[1], even;
    struct sf_topo *topo = load_cluster("gb300-nvl72-1rack");
    struct sf_scenario s = shaped_scenario(topo, &shape);
    struct sf_cost *cost = NULL;
    struct sf_search_stats stats;
    struct sf_err err = {0};
    uint32_t n;
    s.job.gpus = s.job.gpus_asked = 4;
    s.job.global_batch_sequences = 64;
    s.pins.pp = (struct sf_pin){1, {4}};
    s.pins.micro_batch = s.pins.vpp = (struct sf_pin){1, {1}};
    s.pins.schedule = (struct sf_pin){1, {SF_SCHEDULE_1F1B}};
    s.pins.recompute = (struct sf_pin){1, {SF_RECOMPUTE_NONE}};
    s.pins.split_head = (struct sf_pin){1, {0}};
    assert_int_equal(sf_cost_create(topo, &sf_io_posix, NULL, &cost, &err), 0);
    int rc = sf_search(&s, cost, &(struct sf_search_options){.top = 1}, results, &n, &stats, &err);
    if (rc != 0) {
        fail_msg("%s", err.msg);
    }
    struct sf_plan plan = results[0].plan;
    for (uint32_t v = 0; v < 4; v++) {
        plan.layers[v] = 3;
    }
    assert_int_equal(sf_plan_evaluate(&s, cost, &plan, &even, &err), 0);
    double gain = (double)even.sim.step_time / (double)results[0].sim.step_time;
    print_message("layers %u %u %u %u: %.3f times as fast as 3 3 3 3\n", results[0].plan.layers[0],
                  results[0].plan.layers[1], results[0].plan.layers[2], results[0].plan.layers[3], gain);
    assert_true(gain >= 1.2 && results[0].plan.layers[3] < 3);
    sf_plan_results_clear(results, n);
    sf_cost_free(cost);
    sf_topo_free(topo);
}

static void nonsense_is_refused(void **state) {
    (void)state;
    struct sf_cut_unit units[2] = {{.time = {INT64_MAX}}, {.time = {INT64_MAX}}};
    uint32_t in_flight[2] = {1, 1}, devices[1] = {1};
    uint64_t limit[2] = {5, 5};
    struct sf_cut_problem p = {units, 2, 2, 1, devices, 2, in_flight, limit};
    struct sf_cut cut;
    struct sf_err err = {0};
    assert_int_equal(sf_cut(&p, &cut, &err), SF_E_INPUT);
    units[0].time[0] = units[1].time[0] = 1;
    units[1].fixed_bytes[0] = 12;
    assert_int_equal(sf_cut(&p, &cut, &err), SF_E_NOPLAN);
    assert_non_null(strstr(err.msg, "stage 1 lacks 7 bytes"));
    p.devices = 1;
    units[1].fixed_bytes[0] = 0;
    assert_int_equal(sf_cut(&p, &cut, &err), SF_E_NOPLAN);
    assert_non_null(strstr(err.msg, "it takes 2"));
    p.units_n = 1;
    assert_int_equal(sf_cut(&p, &cut, &err), SF_E_INPUT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_all_cuts),
        cmocka_unit_test(large_vocabulary),
        cmocka_unit_test(two_hundred_layers_on_64_stages),
        cmocka_unit_test(uneven_cuts_pay),
        cmocka_unit_test(nonsense_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
