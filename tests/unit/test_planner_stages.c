/* Whether a smaller tp between the ends is quicker: what is said is what the plan then takes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define TEST_CLUSTER "gb300-nvl72-1rack"
#include "planner/search.h"
#include "tests/unit/test_planner_compiled.h"

static const struct shape wide_shape = {16, 4096, 32, 8, 14336, 0, 128256, 8192, SF_BF16};

static double step_of(const struct sf_scenario *s, const struct sf_cost *cost, const struct sf_plan *plan,
                      struct sf_plan_result *r) {
    struct sf_err err = {0};
    if (sf_plan_evaluate(s, cost, plan, r, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    return sf_ps_to_s(r->sim.step_time);
}

static void test_smaller_between_the_ends(void **state) {
    (void)state;
    static struct sf_plan_result best, other;
    struct sf_scenario s = shaped_scenario(cluster, &wide_shape);
    struct sf_plan p = even_plan(&s, (struct sf_plan){.tp = 4,
                                                      .pp = 4,
                                                      .micro_batch = 2,
                                                      .microbatches = 16,
                                                      .schedule = SF_SCHEDULE_1F1B,
                                                      .zero = 1,
                                                      .ranks_per_domain = 16});
    struct sf_cost *cost;
    struct sf_err err = {0};
    uint32_t tp;
    double step_s;
    s.job.gpus_asked = s.job.gpus;
    assert_int_equal(sf_cost_create(cluster, &sf_io_posix, NULL, &cost, &err), 0);
    double before_s = step_of(&s, cost, &p, &best);
    assert_int_equal(sf_search_stages(&s, cost, &best, &tp, &step_s, &err), 0);
    assert_int_equal(tp, 2); /* 1 would take a microbatch of 4 sequences */
    assert_true(step_s < before_s);
    p.stage_tp[0] = p.stage_tp[3] = 4;
    p.stage_tp[1] = p.stage_tp[2] = tp;
    assert_true(step_of(&s, cost, &p, &other) == step_s);
    best.plan.micro_batch = 1; /* nothing to share */
    assert_int_equal(sf_search_stages(&s, cost, &best, &tp, &step_s, &err), 0);
    assert_int_equal(tp, 0);
    sf_cost_free(cost);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_smaller_between_the_ends)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
