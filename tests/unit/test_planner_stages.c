/* Tp and ep of single stages: bytes, ranks and memory are those of equal stages with that degree, and what a search
 * says of a smaller one is what the plan then takes. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <unistd.h>

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
    struct sf_stage_advice a;
    s.job.gpus_asked = s.job.gpus;
    assert_int_equal(sf_cost_create(cluster, &sf_io_posix, NULL, &cost, &err), 0);
    double before_s = step_of(&s, cost, &p, &best);
    assert_int_equal(sf_search_stages(&s, cost, &best, &a, &err), 0);
    assert_int_equal(a.tp, 2); /* 1 would take a microbatch of 4 sequences */
    assert_true(a.ep == 0 && a.first == 1 && a.end == 3 && a.step_s < before_s);
    p.stage_tp[0] = p.stage_tp[3] = 4;
    p.stage_tp[1] = p.stage_tp[2] = a.tp;
    assert_true(step_of(&s, cost, &p, &other) == a.step_s);
    best.plan.micro_batch = 1; /* nothing to share */
    assert_int_equal(sf_search_stages(&s, cost, &best, &a, &err), 0);
    assert_int_equal(a.tp, 0);
    sf_cost_free(cost);
}

/* ---- experts ----------------------------------------------------------------------------------------------------- */

static const struct shape routed_shape = {8, 1024, 8, 8, 2048, 8, 32768, 1024, SF_BF16};

static struct sf_plan routed_plan(struct sf_scenario *s, uint32_t tp, int schedule, uint32_t zero) {
    bool two = schedule == SF_SCHEDULE_INTERLEAVED || schedule == SF_SCHEDULE_ZB_V;
    return even_plan(s, (struct sf_plan){.tp = tp,
                                         .ep = 4,
                                         .dp = 8,
                                         .pp = 4,
                                         .vpp = two ? 2 : 1,
                                         .micro_batch = 2,
                                         .microbatches = 8,
                                         .schedule = schedule,
                                         .zero = zero,
                                         .ranks_per_domain = 64});
}

static uint64_t exchanged_bytes(const struct sf_prog *prog, const struct sf_class *c, uint32_t members) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < c->ops_n; i++) {
        uint32_t n = c->ops[i].recipe == SF_NONE ? 0 : prog->recipes[c->ops[i].recipe].calls_n;
        for (uint32_t k = 0; k < n; k++) {
            const struct sf_call *call = &prog->recipes[c->ops[i].recipe].calls[k];
            bool found = call->kind == SF_CALL_ALL_TO_ALL && sf_prog_comm_size(prog, call->comm) == members;
            bytes += found ? (uint64_t)call->dims[0] : 0;
        }
    }
    return bytes;
}

static uint64_t held_bytes(const struct sf_class *c, uint32_t kind) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < c->bufs_n; i++) {
        bytes += c->bufs[i].kind == kind ? c->bufs[i].bytes : 0;
    }
    return bytes;
}

/* Experts' gradients that are summed over that many replicas of them. */
static uint64_t summed_bytes(const struct sf_prog *prog, const struct sf_class *c, uint32_t members) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < c->ops_n; i++) {
        const struct sf_op *op = &c->ops[i];
        bool sums = op->kind == SF_OP_ALL_REDUCE || op->kind == SF_OP_REDUCE_SCATTER;
        bool experts = sums && strncmp(prog->comms[op->comm].name, "edp", 3) == 0;
        bytes += experts && sf_prog_comm_size(prog, op->comm) == members ? op->bytes : 0;
    }
    return bytes;
}

/* A stage whose ep is a k-th has k times the experts, moves rows among a k-th of the ranks and sums experts' gradients
 * over k times as many; the others are as they were. */
static void test_experts_of_a_stage(void **state) {
    (void)state;
    static const int schedules[] = {SF_SCHEDULE_1F1B, SF_SCHEDULE_GPIPE, SF_SCHEDULE_INTERLEAVED, SF_SCHEDULE_ZB_H1,
                                    SF_SCHEDULE_ZB_V};
    for (uint32_t k = 0; k < 2 * 2 * 4 * sizeof schedules / sizeof *schedules; k++) {
        uint32_t tp = 1 + k % 2, zero = k / 2 % 4;
        struct sf_scenario s = shaped_scenario(cluster, &routed_shape);
        struct sf_plan p = routed_plan(&s, tp, schedules[k / 16], zero);
        p.etp = k / 8 % 2; /* whole experts among the ranks of tp, or parts of them */
        const uint32_t eps[] = {4, 2, p.etp == 1 ? tp : 1, 4}, beside = p.etp == 1 ? tp : 1;
        s.job.clip_norm = k % 3 == 0 && (tp == 1 || zero <= 1) ? 1 : 0;
        struct sf_prog *even = compiled(&s, &p);
        memcpy(p.stage_ep, eps, sizeof eps);
        struct sf_prog *varied = compiled(&s, &p);
        uint64_t experts = (uint64_t)p.vpp * p.layers[0] * routed_shape.experts * 3 * routed_shape.hidden *
                           routed_shape.ffn / (p.etp == 1 ? 1 : tp) * 2;
        for (uint32_t c = 0; c < p.pp; c++) {
            const struct sf_class *a = &even->classes[c], *b = &varied->classes[c];
            uint64_t rows = exchanged_bytes(even, a, 4);
            assert_true(rows > 0);
            assert_int_equal(exchanged_bytes(varied, b, eps[c]), eps[c] > 1 ? rows : 0);
            assert_int_equal(exchanged_bytes(varied, b, 4), eps[c] == 4 ? rows : 0);
            uint64_t summed = summed_bytes(even, a, p.dp * beside / 4);
            assert_true(summed > 0);
            assert_int_equal(summed_bytes(varied, b, p.dp * beside / eps[c]), summed * 4 / eps[c]);
            if (zero <= 2) {
                assert_int_equal(held_bytes(b, SF_BUF_PARAM) - held_bytes(a, SF_BUF_PARAM),
                                 experts / eps[c] - experts / 4);
            }
        }
        sf_prog_free(even);
        sf_prog_free(varied);
    }
}

/* Sums that leave out replicas which only the narrower stage has are found. */
static void test_short_sums_refused(void **state) {
    (void)state;
    struct sf_scenario s = shaped_scenario(cluster, &routed_shape);
    struct sf_plan p = routed_plan(&s, 1, SF_SCHEDULE_1F1B, 0);
    struct sf_err err = {0};
    memcpy(p.stage_ep, (const uint32_t[]){4, 2, 2, 4}, 4 * sizeof(uint32_t));
    struct sf_prog *prog = compiled(&s, &p);
    uint32_t edp = 0, changed = 0;
    while (strcmp(prog->comms[edp].name, "edp") != 0) {
        edp++;
    }
    for (uint32_t i = 0; i < prog->classes[1].ops_n; i++) {
        struct sf_op *op = (struct sf_op *)(uintptr_t)&prog->classes[1].ops[i];
        bool narrow = op->kind == SF_OP_ALL_REDUCE && strcmp(prog->comms[op->comm].name, "edp.2") == 0;
        op->comm = narrow ? edp : op->comm;
        changed += narrow;
    }
    assert_true(changed > 0);
    assert_int_not_equal(sf_prog_check(prog, &err), 0);
    if (strstr(err.msg, "ep.4") == NULL) {
        fail_msg("\"%s\" should name the axis ep.4", err.msg);
    }
    sf_prog_free(prog);
}

/* A stage of a smaller tp is the same stage of a plan that has this tp throughout, with as many more replicas. */
static void test_tp_beside_experts(void **state) {
    (void)state;
    static const int schedules[] = {SF_SCHEDULE_1F1B, SF_SCHEDULE_INTERLEAVED, SF_SCHEDULE_ZB_H1};
    static const uint32_t kinds[] = {SF_BUF_PARAM, SF_BUF_GRAD, SF_BUF_OPTIMIZER};
    for (uint32_t k = 0; k < 2 * 2 * 2 * 2 * sizeof schedules / sizeof *schedules; k++) {
        uint32_t zero = k % 2, parts = k / 2 % 2 == 0 ? 2 : 4;
        struct sf_scenario s = shaped_scenario(cluster, &routed_shape);
        struct sf_plan p = routed_plan(&s, 4, schedules[k / 16], zero), q;
        p.dp = 2;
        p.ep = k / 4 % 2 == 0 ? 2 : 8; /* experts in parts; whole ones, among the ranks of tp too */
        p.etp = p.ep == 8 ? 1 : 0;
        p.micro_batch = 4;
        p.microbatches = 8;
        p = even_plan(&s, p);
        q = p;
        q.tp = p.tp / parts;
        q.dp = p.dp * parts;
        q.micro_batch = p.micro_batch / parts;
        s.job.clip_norm = k / 8 % 2;
        memcpy(p.stage_tp, (const uint32_t[]){4, 4 / parts, 4 / parts, 4}, 4 * sizeof(uint32_t));
        struct sf_prog *varied = compiled(&s, &p), *even = compiled(&s, &q);
        for (uint32_t c = 1; c < 3; c++) {
            const struct sf_class *a = &even->classes[c], *b = &varied->classes[c];
            for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
                assert_int_equal(held_bytes(b, kinds[i]), held_bytes(a, kinds[i]));
            }
            assert_int_equal(b->arena_bytes, a->arena_bytes);
            assert_true(exchanged_bytes(even, a, p.ep) > 0);
            assert_int_equal(exchanged_bytes(varied, b, p.ep), exchanged_bytes(even, a, p.ep));
            uint32_t replicas = p.ep == 8 ? 1 : parts;
            assert_true(replicas == 1 || summed_bytes(even, a, replicas) > 0);
            assert_int_equal(summed_bytes(varied, b, replicas), summed_bytes(even, a, replicas));
        }
        sf_prog_free(even);
        sf_prog_free(varied);
    }
}

static void test_experts_simulated(void **state) {
    (void)state;
    static struct sf_plan_result even, one, same;
    struct sf_scenario s = shaped_scenario(cluster, &routed_shape);
    struct sf_plan p = routed_plan(&s, 1, SF_SCHEDULE_1F1B, 1);
    struct sf_cost *cost;
    assert_int_equal(sf_cost_create(cluster, &sf_io_posix, NULL, &cost, NULL), 0);
    double even_s = step_of(&s, cost, &p, &even);
    memcpy(p.stage_ep, (const uint32_t[]){4, 4, 4, 4}, 4 * sizeof(uint32_t));
    assert_true(step_of(&s, cost, &p, &same) == even_s);
    memcpy(p.stage_ep, (const uint32_t[]){1, 1, 1, 1}, 4 * sizeof(uint32_t));
    double one_s = step_of(&s, cost, &p, &one);
    assert_true(one.sim.breakdown.ep_comm == 0 && even.sim.breakdown.ep_comm > 0);
    struct sf_plan whole = routed_plan(&s, 1, SF_SCHEDULE_1F1B, 1);
    whole.ep = 1;
    assert_true(fabs(step_of(&s, cost, &whole, &same) / one_s - 1) < 1e-9);
    for (uint32_t i = 0; i < p.pp; i++) {
        assert_int_equal(same.memory_bytes[i], one.memory_bytes[i]);
    }
    sf_cost_free(cost);
}

static void refuse(const struct sf_scenario *s, const struct sf_plan *p, const char *says) {
    struct sf_err err = {0};
    int rc = sf_plan_check(s, p, &err);
    if (rc != SF_E_INPUT || strstr(err.msg, says) == NULL) {
        fail_msg("code %d, \"%s\" should say \"%s\"", rc, err.msg, says);
    }
}

static void test_experts_printed(void **state) {
    (void)state;
    struct sf_scenario s = shaped_scenario(cluster, &routed_shape);
    struct sf_plan p = routed_plan(&s, 1, SF_SCHEDULE_1F1B, 1), again;
    struct sf_buf text = {0};
    struct sf_hash hash;
    char path[64];
    memcpy(p.stage_ep, (const uint32_t[]){4, 2, 1, 4}, 4 * sizeof(uint32_t));
    snprintf(p.scenario, sizeof p.scenario, "scenario.yaml");
    snprintf(path, sizeof path, "/tmp/sf_stages_%ld.yaml", (long)getpid());
    assert_int_equal(sf_plan_print(&p, sf_scenario_hash(&s), &text), 0);
    assert_int_equal(sf_io_posix.write_all(NULL, path, text.data, text.bytes, NULL), 0);
    assert_int_equal(sf_plan_load(&sf_io_posix, path, &again, &hash, NULL), 0);
    assert_memory_equal(again.stage_ep, p.stage_ep, sizeof p.stage_ep);
    unlink(path);
    sf_plan_clear(&again);
    sf_buf_free(&text);
}

static void test_experts_refused(void **state) {
    (void)state;
    struct sf_scenario s = shaped_scenario(cluster, &routed_shape);
    struct sf_plan p = routed_plan(&s, 2, SF_SCHEDULE_1F1B, 1), q;
    memcpy(p.stage_ep, (const uint32_t[]){4, 2, 2, 4}, 4 * sizeof(uint32_t));
    q = p;
    q.stage_ep[1] = 3;
    refuse(&s, &q, "stage_ep[1] must divide ep 4, found 3");
    q = p;
    q.etp = 1;
    q.stage_ep[1] = 1;
    refuse(&s, &q, "with etp 1, stage_ep[1] must be a multiple of tp 2, found 1");
    q = p;
    q.zero_group = 4;
    refuse(&s, &q, "stage_ep need no zero_group");
    q = p;
    memcpy(q.stage_tp, (const uint32_t[]){2, 1, 1, 2}, 4 * sizeof(uint32_t));
    refuse(&s, &q, "no stage_tp");
    q = routed_plan(&s, 1, SF_SCHEDULE_DUALPIPE, 1);
    memcpy(q.stage_ep, p.stage_ep, 4 * sizeof(uint32_t));
    refuse(&s, &q, "one copy");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_smaller_between_the_ends), cmocka_unit_test(test_experts_of_a_stage),
        cmocka_unit_test(test_short_sums_refused),       cmocka_unit_test(test_tp_beside_experts),
        cmocka_unit_test(test_experts_simulated),        cmocka_unit_test(test_experts_printed),
        cmocka_unit_test(test_experts_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
