/* Context parallelism: programs of every mix of cp, ep, tp and zero are sound, and what is shared is shared. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/arena.h"
#include "planner/search_internal.h"
#define TEST_CLUSTER "gb300-nvl72-1rack" /* 64 GPUs in one domain */
#include "tests/unit/test_planner_compiled.h"

static struct sf_scenario scenario(uint32_t experts) {
    return shaped_scenario(cluster, &(struct shape){4, 2048, 16, 8, 4096, experts, 32000, 8192, SF_BF16});
}

static struct sf_plan plan_for(struct sf_scenario *s, uint32_t tp, uint32_t cp, uint32_t ep, uint32_t dp, uint32_t pp) {
    return even_plan(s, (struct sf_plan){.tp = tp,
                                         .cp = cp,
                                         .ep = ep,
                                         .dp = dp,
                                         .pp = pp,
                                         .microbatches = 4,
                                         .schedule = SF_SCHEDULE_1F1B,
                                         .zero = 1,
                                         .ranks_per_domain = 64});
}

static uint32_t comm_size(const struct sf_prog *prog, const char *name) {
    for (uint32_t i = 0; i < prog->comms_n; i++) {
        if (strcmp(prog->comms[i].name, name) == 0) {
            return sf_prog_comm_size(prog, i);
        }
    }
    return 1;
}

static void test_all_shapes(void **state) {
    (void)state;
    for (uint32_t k = 0; k < 4 * 4 * 2 * 2 * 2; k++) {
        uint32_t cp = 1u << k % 4, ep = 1u << k / 4 % 4, tp = 1u << k / 16 % 2, pp = 1u << k / 32 % 2;
        struct sf_scenario s = scenario(ep > 1 ? 8 : 0);
        struct sf_plan p = plan_for(&s, tp, cp, ep, 64 / tp / cp / pp, pp);
        p.zero = k / 64 * 2 + 1;
        p.recompute = (int)(k % 2);
        struct sf_prog *prog = compiled(&s, &p);
        assert_int_equal(comm_size(prog, "cp"), cp);
        assert_int_equal(comm_size(prog, "ep"), ep);
        assert_int_equal(comm_size(prog, "dp"), cp * p.dp);
        assert_int_equal(ep > 1 ? comm_size(prog, "edp") : 1, ep > 1 ? cp * p.dp / ep : 1);
        sf_prog_free(prog);
    }
}

static struct sf_plan_result run(const struct sf_scenario *s, const struct sf_plan *p, const struct sf_framework *f) {
    struct sf_plan_result result;
    struct sf_cost *cost = NULL;
    struct sf_err err = {0};
    assert_int_equal(sf_cost_create(s->topo, &sf_io_posix, NULL, &cost, &err), 0);
    if (f != NULL) {
        sf_cost_set_framework(cost, f);
    }
    assert_int_equal(sfi_evaluate(s, cost, p, &result, &err), 0);
    sf_cost_free(cost);
    return result;
}

static double step_s(const struct sf_scenario *s, const struct sf_plan *p, uint64_t *memory) {
    struct sf_plan_result result = run(s, p, NULL);
    *memory = result.sim.peak_memory_bytes;
    return sf_ps_to_s(result.sim.step_time);
}

/* Twice the ranks for each sequence: half the work and half the activations each, whatever the exchange costs. Passing
 * keys around beside attention is never slower than gathering them before it. */
static void test_work_is_shared(void **state) {
    struct sf_scenario s = scenario(0);
    struct sf_plan p = plan_for(&s, 1, 1, 1, 8, 1);
    uint64_t memory[3];
    (void)state;
    double alone = step_s(&s, &p, &memory[0]);
    p = plan_for(&s, 1, 2, 1, 8, 1);
    double ring = step_s(&s, &p, &memory[1]);
    p.cp_gather = true;
    double gathered = step_s(&s, &p, &memory[2]);
    assert_true(ring > 0.48 * alone && ring < 0.6 * alone);
    assert_true(gathered > ring);
    assert_true(memory[1] < memory[0] && memory[2] == memory[1]);
}

/* A framework whose attention is twice as slow, or that hides its tensor parallel collectives, differs in that alone.
 */
static void test_framework_shares(void **state) {
    struct sf_framework f = {.name = "same", .pointwise = 1, .loss = 1, .gemm_share = 1};
    struct sf_scenario s = scenario(0);
    struct sf_plan p = plan_for(&s, 2, 1, 1, 4, 1);
    (void)state;
    struct sf_breakdown same = run(&s, &p, &f).sim.breakdown;
    f.tp_hidden = 1;
    struct sf_breakdown hidden = run(&s, &p, &f).sim.breakdown;
    assert_true(same.tp_comm > 0 && hidden.tp_comm == 0);
    assert_int_equal(same.compute, hidden.compute);
    f = (struct sf_framework){.name = "slow", .pointwise = 1, .loss = 1, .gemm_share = 1, .attention_share = 0.5};
    struct sf_breakdown slow = run(&s, &p, &f).sim.breakdown;
    assert_true(slow.compute > same.compute && slow.compute < 2 * same.compute);
    assert_int_equal(slow.tp_comm, same.tp_comm);
}

/* The same attention in all: the shares of it add up. */
static void test_flops_are_shared(void **state) {
    double flops[2] = {0, 0};
    (void)state;
    for (uint32_t cp = 1; cp <= 2; cp++) {
        struct sf_scenario s = scenario(0);
        struct sf_plan p = plan_for(&s, 1, cp, 1, 8 / cp, 1);
        struct sf_prog *prog = compiled(&s, &p);
        for (uint32_t r = 0; r < prog->recipes_n; r++) {
            for (uint32_t i = 0; i < prog->recipes[r].calls_n; i++) {
                const struct sf_call *call = &prog->recipes[r].calls[i];
                bool attention = call->kind == SF_CALL_ATTN_FWD || call->kind == SF_CALL_ATTN_BWD;
                flops[cp - 1] += attention ? sf_call_work(call).flops : 0;
            }
        }
        sf_prog_free(prog);
    }
    assert_true(flops[0] > 0);
    assert_true(flops[1] == flops[0] / 2);
}

static void refused(const struct sf_scenario *s, const struct sf_plan *p, const char *words) {
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    assert_int_equal(sf_compile(s, p, &prog, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, words));
}

static void test_refusals(void **state) {
    struct sf_scenario s = scenario(0);
    struct sf_plan p = plan_for(&s, 1, 2, 1, 4, 1);
    (void)state;
    s.job.seq_len_tokens = 8194;
    refused(&s, &p, "2 * cp must divide the sequence");
    s.job.seq_len_tokens = 8192;
    s.job.precision = SF_F32;
    refused(&s, &p, "precision bf16");
    s.job.precision = SF_BF16;
    p.dp = 8;
    refused(&s, &p, "tp * dp * pp * cp must equal");
    s = scenario(6);
    p = plan_for(&s, 1, 2, 3, 3, 1);
    refused(&s, &p, "one must divide the other");
}

static void test_file_round_trip(void **state) {
    struct sf_scenario s = scenario(0);
    struct sf_plan p = plan_for(&s, 1, 4, 1, 4, 1);
    struct sf_buf text = {0};
    (void)state;
    p.cp_gather = true;
    assert_int_equal(sf_plan_print(&p, sf_scenario_hash(&s), &text), 0);
    assert_non_null(strstr(text.data, "\ncp: 4 "));
    assert_non_null(strstr(text.data, "\ncp_exchange: gather\n"));
    sf_buf_free(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_shapes),       cmocka_unit_test(test_work_is_shared),
        cmocka_unit_test(test_flops_are_shared), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_file_round_trip),  cmocka_unit_test(test_framework_shares),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
