/* Selective recomputation: norms and activation functions run again, nothing else, and what they make is not kept. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/test_planner_compiled.h"

static struct sf_scenario scenario(uint32_t experts, uint32_t tp) {
    const struct shape shape = {4, 1024, 8, 8, 4096, experts, 32000, 4096, SF_BF16};
    struct sf_scenario s = shaped_scenario(cluster, &shape);
    s.job.gpus = 2 * tp;
    s.job.global_batch_sequences = 4;
    return s;
}

static struct sf_plan plan_for(uint32_t tp, int recompute) {
    return (struct sf_plan){.tp = tp,
                            .ep = 1,
                            .dp = 1,
                            .pp = 2,
                            .vpp = 1,
                            .micro_batch = 1,
                            .microbatches = 4,
                            .schedule = SF_SCHEDULE_1F1B,
                            .recompute = recompute,
                            .ranks_per_domain = 8,
                            .layers = {2, 2}};
}

static uint32_t count(const struct sf_prog *prog, bool (*wanted)(const struct sf_call *call)) {
    uint32_t n = 0;
    for (uint32_t r = 0; r < prog->recipes_n; r++) {
        for (uint32_t i = 0; i < prog->recipes[r].calls_n; i++) {
            n += wanted(&prog->recipes[r].calls[i]);
        }
    }
    return n;
}

static bool is_again(const struct sf_call *call) {
    return (call->flags & SF_CALL_RECOMPUTE_FLAG) != 0;
}

static bool is_heavy_again(const struct sf_call *call) {
    return is_again(call) && call->kind != SF_CALL_RMSNORM_FWD && call->kind != SF_CALL_GLU_FWD;
}

static void test_only_light_calls_run_again(void **state) {
    (void)state;
    for (uint32_t k = 0; k < 4; k++) {
        uint32_t tp = 1 + k % 2;
        struct sf_scenario s = scenario(k / 2 * 4, tp);
        struct sf_plan p = plan_for(tp, SF_RECOMPUTE_SELECTIVE);
        struct sf_prog *prog = compiled(&s, &p);
        assert_int_equal(count(prog, is_again), 2 * 2 * 2 * 3); /* stages, whole and adding, layers, three calls */
        assert_int_equal(count(prog, is_heavy_again), 0);
        sf_prog_free(prog);
    }
}

/* Per microbatch in flight two norms and the activation are gone: on the first stage two of them, two layers each. */
static void test_memory(void **state) {
    struct sf_scenario s = scenario(0, 1);
    uint64_t arena[SF_RECOMPUTES_N];
    (void)state;
    for (int recompute = 0; recompute <= SF_RECOMPUTE_SELECTIVE; recompute++) {
        struct sf_plan p = plan_for(1, recompute);
        struct sf_prog *prog = compiled(&s, &p);
        arena[recompute] = prog->classes[0].arena_bytes;
        sf_prog_free(prog);
    }
    uint64_t layer = UINT64_C(2) * 4096 * (2 * 1024 + 4096);
    uint64_t saved = arena[SF_RECOMPUTE_NONE] - arena[SF_RECOMPUTE_SELECTIVE];
    assert_true(arena[SF_RECOMPUTE_FULL] < arena[SF_RECOMPUTE_SELECTIVE]);
    assert_true(saved > 4 * layer - 2 * layer && saved < 4 * layer + layer / 10); /* one layer's is in working memory */
}

static void test_split_backwards_are_refused(void **state) {
    struct sf_scenario s = scenario(0, 1);
    struct sf_plan p = plan_for(1, SF_RECOMPUTE_SELECTIVE);
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    (void)state;
    p.schedule = SF_SCHEDULE_ZB_H1;
    assert_int_equal(sf_compile(&s, &p, &prog, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "whole backwards"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_only_light_calls_run_again),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_split_backwards_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
