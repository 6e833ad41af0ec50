/* Copied periods over compiled plans: every family of schedules, sharded weights, shared sequences, recomputation and
 * slices. Whatever is skipped, the step is the one that is simulated in full. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/rng.h"
#include "sim/sim.h"
#include "tests/unit/test_planner_compiled.h"

static uint32_t pick(struct sf_rng *r, uint32_t lo, uint32_t hi) {
    return lo + (uint32_t)(sf_rng_u64(r) % (hi - lo + 1));
}

static struct sf_plan random_plan(struct sf_rng *rng, struct sf_scenario *s, int family) {
    static const uint32_t stages[] = {1, 2, 2, 4};
    struct sf_plan p = {
        .schedule = family, .pp = stages[pick(rng, 0, 3)], .tp = pick(rng, 1, 2), .cp = pick(rng, 1, 2)};
    p.vpp = sf_pipe_family_chunks(family) > 0 ? sf_pipe_family_chunks(family) : 2;
    p.cp = p.pp * p.tp * p.cp > 8 ? 1 : p.cp;
    p.vpp = family == SF_SCHEDULE_DUALPIPE ? 1 : p.vpp; /* its second chunk is of the other copy */
    p.dp = pick(rng, 1, 8 / (p.pp * p.tp * p.cp));
    p.dp = p.dp == 3 ? 2 : p.dp;
    p.microbatches = 8 * pick(rng, 2, 8);
    p.zero = pick(rng, 0, 3);
    p.recompute = pick(rng, 0, 3) == 0 ? SF_RECOMPUTE_FULL : SF_RECOMPUTE_NONE;
    p.split_head = pick(rng, 0, 3) == 0;
    p.cp_gather = pick(rng, 0, 1) == 0;
    return even_plan(s, p);
}

static void expect_same(const struct sf_prog *prog, const struct sf_sim_result *a, const struct sf_sim_result *b) {
    bool same = sf_hash_equal(a->digest, b->digest) && a->step_time == b->step_time &&
                a->bubble_span == b->bubble_span && memcmp(&a->breakdown, &b->breakdown, sizeof a->breakdown) == 0;
    if (!same) {
        fail_msg("%s: %lld ps with %llu of %llu ops skipped, %lld ps without", prog->title, (long long)a->step_time,
                 (unsigned long long)a->skipped, (unsigned long long)a->events, (long long)b->step_time);
    }
}

static void run_plan(const struct sf_cost *cost, const struct sf_prog *prog, bool ranks_too, uint64_t *events,
                     uint64_t *skipped) {
    struct sf_sim_result quick, slow;
    struct sf_err err = {0};
    assert_int_equal(sf_sim_run(prog, cost, NULL, &quick, &err), SF_OK);
    assert_int_equal(sf_sim_run(prog, cost, &(struct sf_sim_options){.no_skip = true}, &slow, &err), SF_OK);
    expect_same(prog, &quick, &slow);
    assert_int_equal(quick.events, slow.events);
    if (ranks_too) {
        assert_int_equal(sf_sim_run(prog, cost, &(struct sf_sim_options){.unfolded = true}, &slow, &err), SF_OK);
        expect_same(prog, &quick, &slow);
    }
    *events += quick.events;
    *skipped += quick.skipped;
}

static void test_families(void **state) {
    (void)state;
    struct sf_rng rng = sf_rng_seed(4096);
    struct sf_cost *cost = NULL;
    struct sf_err err = {0};
    assert_int_equal(sf_cost_create(cluster, &sf_io_posix, NULL, &cost, &err), SF_OK);
    uint64_t runs[SF_SCHEDULE_TABLE] = {0}, events[SF_SCHEDULE_TABLE] = {0}, skipped[SF_SCHEDULE_TABLE] = {0};
    for (int i = 0; i < 80 * SF_SCHEDULE_TABLE; i++) {
        int family = i % SF_SCHEDULE_TABLE;
        struct sf_scenario s = shaped_scenario(cluster, &tiny_shape);
        s.job.precision = SF_BF16;
        struct sf_plan p = random_plan(&rng, &s, family);
        struct sf_prog *prog = NULL;
        if (sf_compile(&s, &p, &prog, NULL) != SF_OK) { /* not every choice goes with every other */
            continue;
        }
        run_plan(cost, prog, i % 3 == 0, &events[family], &skipped[family]);
        runs[family]++;
        sf_prog_free(prog);
    }
    sf_cost_free(cost);
    uint64_t all = 0, saved = 0;
    for (int f = 0; f < SF_SCHEDULE_TABLE; f++) {
        assert_true(runs[f] > 10);
        all += events[f];
        saved += skipped[f];
    }
    assert_true(saved * 3 > all); /* it is worth it */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
