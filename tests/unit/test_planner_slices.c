/* Sequences in slices: programs of every shape are sound, keep what a hand works out, cost what whole sequences cost,
 * and a program whose slices come in a wrong order is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/arena.h"
#include "sim/cost.h"
#include "tests/unit/test_planner_compiled.h"

static struct sf_scenario scenario(int precision) {
    return shaped_scenario(cluster, &(struct shape){8, 64, 4, 2, 96, 0, 128, 64, precision});
}

static struct sf_plan plan_for(struct sf_scenario *s, uint32_t tp, uint32_t dp, uint32_t pp, uint32_t slices) {
    return even_plan(
        s, (struct sf_plan){
               .tp = tp, .dp = dp, .pp = pp, .microbatches = 4, .slices = slices, .schedule = SF_SCHEDULE_1F1B});
}

static void test_all_shapes(void **state) {
    (void)state;
    for (uint32_t k = 0; k < 2 * 3 * 2 * 2 * 2 * 2; k++) {
        struct sf_scenario s = scenario(k % 2 ? SF_F32 : SF_BF16);
        uint32_t pp = 1u << k / 2 % 3, tp = 1u << k / 6 % 2;
        struct sf_plan p = plan_for(&s, tp, k / 12 % 2 + 1, pp, k / 24 % 2 ? 4 : 16);
        p.recompute = k / 48 ? SF_RECOMPUTE_FULL : SF_RECOMPUTE_NONE;
        p.zero = p.dp > 1;
        p.schedule = k / 12 % 2 ? SF_SCHEDULE_GPIPE : SF_SCHEDULE_1F1B;
        p.canonical = s.job.canonical = k % 2;
        if (s.job.gpus > 8) {
            continue;
        }
        struct sf_prog *prog = compiled(&s, &p);
        assert_int_equal(prog->job.slices, p.slices);
        sf_prog_free(prog);
    }
}

static uint32_t count(const struct sf_prog *prog, const char *name, uint64_t *bytes) {
    uint32_t n = 0;
    size_t length = strlen(name);
    const struct sf_class *c = &prog->classes[0];
    for (uint32_t i = 0; i < c->bufs_n; i++) {
        bool same = strncmp(c->bufs[i].name, name, length) == 0 && strspn(c->bufs[i].name + length, "0123456789") > 0;
        n += same;
        *bytes = same ? c->bufs[i].bytes : *bytes;
    }
    return n;
}

/* The first of four stages: 1F1B keeps p microbatches of activations, slices keep (n + p - 1) / n; keys and values of
 * every microbatch that is under way, and one set of sums. */
static void test_memory(void **state) {
    (void)state;
    struct sf_scenario s = scenario(SF_BF16);
    uint64_t bytes = 0, whole = 0;
    struct sf_plan p = plan_for(&s, 1, 1, 4, 0);
    struct sf_prog *prog = compiled(&s, &p);
    assert_int_equal(count(prog, "stash", &whole), 4);
    sf_prog_free(prog);
    p.slices = 4;
    prog = compiled(&s, &p);
    assert_int_equal(count(prog, "stash", &bytes), 4 + 4 - 1);
    assert_int_equal(bytes, whole / 4);
    assert_int_equal(count(prog, "keys", &bytes), 3); /* 7 slices under way: a microbatch, and parts of two */
    assert_int_equal(bytes, 2 * 64 * 2 * 2 * 16 * 2); /* layers, positions, k and v, heads, width, bf16 */
    assert_int_equal(count(prog, "keys.grad", &bytes), 1);
    assert_int_equal(bytes, 2 * 48 * 2 * 2 * 16 * 4); /* all but the last slice, f32 */
    sf_prog_free(prog);
}

/* Arithmetic of all calls of a kind in one class, over a step. */
static double flops_of(const struct sf_prog *prog, bool attention) {
    double all = 0;
    for (uint32_t i = 0; i < prog->classes[0].ops_n; i++) {
        uint32_t recipe = prog->classes[0].ops[i].recipe;
        for (uint32_t k = 0; recipe != SF_NONE && k < prog->recipes[recipe].calls_n; k++) {
            const struct sf_call *call = &prog->recipes[recipe].calls[k];
            bool counts = attention ? sf_call_is_attention(call->kind) : call->kind == SF_CALL_GEMM;
            all += counts ? sf_call_work(call).flops : 0;
        }
    }
    return all;
}

static void test_work(void **state) {
    (void)state;
    struct sf_scenario s = scenario(SF_BF16);
    struct sf_plan p = plan_for(&s, 1, 1, 2, 0);
    struct sf_prog *whole = compiled(&s, &p);
    p.slices = 8;
    struct sf_prog *sliced = compiled(&s, &p);
    assert_true(flops_of(whole, true) == flops_of(sliced, true));
    assert_true(flops_of(whole, false) == flops_of(sliced, false));
    sf_prog_free(whole);
    sf_prog_free(sliced);
}

static void refused(const struct sf_scenario *s, const struct sf_plan *p, const char *why) {
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    assert_int_equal(sf_compile(s, p, &prog, &err), SF_E_INPUT);
    if (strstr(err.msg, why) == NULL) {
        fail_msg("expected \"%s\" in: %s", why, err.msg);
    }
}

static void test_refusals(void **state) {
    (void)state;
    struct sf_scenario s = scenario(SF_BF16);
    struct sf_plan p = plan_for(&s, 2, 2, 2, 3);
    refused(&s, &p, "slices * tp must divide the sequence: 64 tokens are no multiple of 3 * 2");
    p.slices = 4;
    p.zero = 2;
    refused(&s, &p, "slices need zero 0 or 1");
    p.zero = 0;
    p.micro_batch = 2;
    s.job.global_batch_sequences *= 2;
    refused(&s, &p, "slices need micro_batch 1");
    p = plan_for(&s, 1, 1, 4, 4);
    p.schedule = SF_SCHEDULE_ZB_H1;
    refused(&s, &p, "takes whole sequences");
}

/* Numbers of two slices exchanged on two ops: the program is what it was, but for what they say. */
static void exchange(struct sf_prog *prog, uint32_t class_i, int kind, const char *why) {
    struct sf_op *ops = (struct sf_op *)(uintptr_t)prog->classes[class_i].ops, *first = NULL, *second = NULL;
    for (uint32_t i = 0; i < prog->classes[class_i].ops_n && second == NULL; i++) {
        if (ops[i].kind == kind && first != NULL) {
            second = &ops[i];
        } else if (ops[i].kind == kind) {
            first = &ops[i];
        }
    }
    uint16_t slice = first->slice;
    struct sf_err err = {0};
    first->slice = second->slice;
    second->slice = slice;
    assert_int_equal(sf_prog_check(prog, &err), SF_E_INPUT);
    if (strstr(err.msg, why) == NULL) {
        fail_msg("expected \"%s\" in: %s", why, err.msg);
    }
    second->slice = first->slice;
    first->slice = slice;
    assert_int_equal(sf_prog_check(prog, &err), 0);
}

static void test_checker(void **state) {
    (void)state;
    struct sf_scenario s = scenario(SF_BF16);
    struct sf_plan p = plan_for(&s, 1, 1, 2, 4);
    struct sf_prog *prog = compiled(&s, &p);
    struct sf_err err = {0};
    exchange(prog, 1, SF_OP_BACKWARD, "is not ordered after the backward of slice");
    exchange(prog, 0, SF_OP_LOAD, "reads the tokens of microbatch");
    prog->job.slices = 2;
    assert_int_equal(sf_prog_check(prog, &err), SF_E_INPUT);
    prog->job.slices = UINT32_MAX;
    assert_int_equal(sf_prog_check(prog, &err), SF_E_INPUT);
    sf_prog_free(prog);
    p = plan_for(&s, 1, 1, 1, 4);
    p.schedule = SF_SCHEDULE_GPIPE;
    prog = compiled(&s, &p);
    struct sf_class *c = &prog->classes[0];
    struct sf_op *ops = (struct sf_op *)(uintptr_t)c->ops;
    for (uint32_t i = 0; i < c->ops_n; i++) { /* from the last to the first */
        bool moved = sf_op_group(ops[i].kind) != SF_OP_IS_COLL && ops[i].microbatch == 0;
        ops[i].slice = moved && ops[i].kind != SF_OP_OPTIMIZER ? (uint16_t)(3 - ops[i].slice) : ops[i].slice;
    }
    assert_int_equal(sf_prog_check(prog, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "is not ordered after the forward of slice 2"));
    sf_prog_free(prog);
}

static void test_table(void **state) {
    (void)state;
    struct sf_scenario s = scenario(SF_F32);
    struct sf_plan p = plan_for(&s, 1, 1, 1, 0);
    struct sf_err err = {0};
    /* Weight gradients at the end, in an order of their own. */
    static const char text[] = "0F0.0,0F0.1,0I0.1,0F1.0,0F1.1,0I0.0,0I1.1,0I1.0,0W1.0,0W0.1,0W0.0,0W1.1\n";
    s.job.global_batch_sequences = p.microbatches = 2;
    p.schedule = SF_SCHEDULE_TABLE;
    assert_int_equal(sf_pipe_read_csv(text, sizeof text - 1, "own.csv", &p.table, &err), 0);
    struct sf_prog *prog = compiled(&s, &p);
    assert_int_equal(prog->job.slices, 2);
    sf_prog_free(prog);
    s.job.canonical = p.canonical = true;
    refused(&s, &p, "reorder the table");
    sf_plan_clear(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_shapes), cmocka_unit_test(test_memory),  cmocka_unit_test(test_work),
        cmocka_unit_test(test_refusals),   cmocka_unit_test(test_checker), cmocka_unit_test(test_table),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
