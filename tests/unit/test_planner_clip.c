/* Clipping by the global norm: every weight counts once in every layout, what cuts waits for all of it, and moments in
 * bf16 take half the room. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/arena.h"
#include "planner/schedule.h"
#include "tests/unit/test_planner_compiled.h"

static struct sf_scenario scenario(uint32_t experts) {
    struct sf_scenario s = shaped_scenario(cluster, &(struct shape){8, 64, 4, 4, 96, experts, 128, 32, SF_BF16});
    s.job.clip_norm = 1.0;
    return s;
}

struct layout {
    uint32_t tp, dp, pp, vpp, ep, zero, experts;
    int schedule;
    bool tied;
};

static struct sf_plan plan_for(struct sf_scenario *s, const struct layout *l) {
    s->model.tied = l->tied;
    return even_plan(s, (struct sf_plan){.tp = l->tp,
                                         .ep = l->ep,
                                         .dp = l->dp,
                                         .pp = l->pp,
                                         .vpp = l->vpp,
                                         .microbatches = 8,
                                         .schedule = l->schedule,
                                         .zero = l->zero});
}

static const struct sf_call *call_of(const struct sf_prog *prog, const struct sf_op *op, int kind, uint32_t nth) {
    const struct sf_recipe *r = op->recipe == SF_NONE ? NULL : &prog->recipes[op->recipe];
    for (uint32_t i = 0; r && i < r->calls_n; i++) {
        if (r->calls[i].kind == kind && nth-- == 0) {
            return &r->calls[i];
        }
    }
    return NULL;
}

/* Elements whose squares are added up by one rank of each class; `vector` marks the slots that are used. */
static uint64_t squared(const struct sf_prog *prog, uint32_t class_i, uint8_t *vector) {
    const struct sf_class *c = &prog->classes[class_i];
    const struct sf_call *call;
    uint64_t n = 0;
    for (uint32_t i = 0; i < c->ops_n; i++) {
        for (uint32_t k = 0; (call = call_of(prog, &c->ops[i], SF_CALL_SUMSQ, k)) != NULL; k++) {
            const struct sf_arg *sums = &c->args[c->ops[i].arg_first + SF_REF_FORMAL(call->operand[1])];
            vector[(sums->offset + SF_REF_OFFSET(call->operand[1])) / sizeof(float)] = 1;
            n += (uint64_t)call->dims[0];
        }
    }
    return n;
}

static uint64_t updated(const struct sf_prog *prog, uint32_t class_i) {
    const struct sf_class *c = &prog->classes[class_i];
    const struct sf_call *call;
    uint64_t n = 0;
    for (uint32_t i = 0; i < c->ops_n; i++) {
        for (uint32_t k = 0; (call = call_of(prog, &c->ops[i], SF_CALL_ADAMW, k)) != NULL; k++) {
            n += (uint64_t)call->dims[0];
        }
    }
    return n;
}

static void count(const struct layout *l, uint64_t left_out) {
    struct sf_scenario s = scenario(l->experts);
    struct sf_plan p = plan_for(&s, l);
    struct sf_prog *prog = compiled(&s, &p);
    uint8_t vector[512] = {0};
    uint64_t sum = 0, weights = 0;
    for (uint32_t c = 0; c < prog->classes_n; c++) {
        sum += squared(prog, c, vector);
        weights += updated(prog, c);
    }
    assert_int_equal(sum + left_out, weights);
    sf_prog_free(prog);
}

static void test_every_weight_counts_once(void **state) {
    (void)state;
    const uint64_t table = 128 * 64;
    count(&(struct layout){1, 1, 1, 1, 1, 0, 0, SF_SCHEDULE_1F1B, false}, 0);
    count(&(struct layout){2, 1, 4, 1, 1, 0, 0, SF_SCHEDULE_1F1B, false}, 0);
    count(&(struct layout){1, 2, 2, 2, 1, 1, 0, SF_SCHEDULE_INTERLEAVED, false}, 0);
    count(&(struct layout){1, 2, 2, 1, 1, 2, 0, SF_SCHEDULE_1F1B, false}, 0);
    count(&(struct layout){1, 2, 2, 1, 1, 3, 0, SF_SCHEDULE_1F1B, false}, 0);
    count(&(struct layout){1, 4, 2, 1, 2, 0, 4, SF_SCHEDULE_1F1B, false}, 0);
    count(&(struct layout){1, 4, 2, 1, 4, 1, 4, SF_SCHEDULE_1F1B, false}, 0);
    count(&(struct layout){1, 1, 4, 1, 1, 0, 0, SF_SCHEDULE_1F1B, true}, table);
    count(&(struct layout){2, 2, 2, 1, 1, 1, 0, SF_SCHEDULE_1F1B, true}, table / 4); /* a share of half of it */
    count(&(struct layout){1, 2, 2, 1, 1, 3, 0, SF_SCHEDULE_1F1B, true}, table / 2);
}

/* Both copies of the model have all gradients in the end; one of them counts. */
static void test_copies_count_once(void **state) {
    (void)state;
    const struct layout l = {1, 1, 2, 1, 1, 0, 0, SF_SCHEDULE_DUALPIPE, false};
    struct sf_scenario s = scenario(0);
    struct sf_plan p = plan_for(&s, &l);
    struct sf_prog *prog = compiled(&s, &p);
    uint8_t vector[512] = {0};
    uint64_t sum = squared(prog, 0, vector) + squared(prog, 1, vector);
    assert_int_equal(2 * sum, updated(prog, 0) + updated(prog, 1));
    sf_prog_free(prog);
}

/* The same slots for every depth, so that they are added up in the same order. */
static void test_slots_do_not_depend_on_the_depth(void **state) {
    (void)state;
    uint8_t first[512] = {0};
    for (uint32_t pp = 1; pp <= 8; pp *= 2) {
        struct sf_scenario s = scenario(0);
        struct sf_plan p = plan_for(&s, &(struct layout){1, 1, pp, 1, 1, 0, 0, SF_SCHEDULE_1F1B, false});
        struct sf_prog *prog = compiled(&s, &p);
        uint8_t vector[512] = {0};
        for (uint32_t c = 0; c < prog->classes_n; c++) {
            squared(prog, c, vector);
        }
        memcpy(first, pp == 1 ? vector : first, sizeof first);
        assert_memory_equal(first, vector, sizeof first);
        sf_prog_free(prog);
    }
}

static void test_without_a_bound_nothing_changes(void **state) {
    (void)state;
    struct sf_scenario s = scenario(0);
    struct sf_plan p = plan_for(&s, &(struct layout){1, 1, 2, 1, 1, 0, 0, SF_SCHEDULE_1F1B, false});
    s.job.clip_norm = 0;
    struct sf_prog *prog = compiled(&s, &p);
    for (uint32_t r = 0; r < prog->recipes_n; r++) {
        for (uint32_t c = 0; c < prog->recipes[r].calls_n; c++) {
            int kind = prog->recipes[r].calls[c].kind;
            assert_true(kind != SF_CALL_SUMSQ && kind != SF_CALL_CLIP);
        }
    }
    sf_prog_free(prog);
}

static void refused(struct sf_scenario *s, const struct layout *l, bool canonical, const char *why) {
    struct sf_plan p = plan_for(s, l);
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    p.canonical = s->job.canonical = canonical;
    s->job.precision = canonical ? SF_F32 : SF_BF16;
    assert_int_equal(sf_compile(s, &p, &prog, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, why));
}

/* Both copies of a tied table get the whole gradient; one of them counts, whatever is shared. */
static void test_tied_with_shared_gradients(void **state) {
    (void)state;
    struct sf_scenario s = scenario(0);
    struct sf_plan p = plan_for(&s, &(struct layout){1, 2, 2, 1, 1, 2, 0, SF_SCHEDULE_1F1B, true});
    sf_prog_free(compiled(&s, &p));
}

static void test_what_cannot_count_once_is_refused(void **state) {
    (void)state;
    struct sf_scenario s = scenario(0);
    refused(&s, &(struct layout){2, 2, 2, 1, 1, 2, 0, SF_SCHEDULE_1F1B, false}, false, "tp above 1");
    refused(&s, &(struct layout){1, 2, 2, 1, 1, 1, 0, SF_SCHEDULE_1F1B, false}, true, "zero 0");
}

/* ---- proofs ------------------------------------------------------------------------------------------------------ */

static struct sf_op *op_with(const struct sf_prog *prog, uint32_t class_i, int kind) {
    const struct sf_class *c = &prog->classes[class_i];
    for (uint32_t i = 0; i < c->ops_n; i++) {
        if (call_of(prog, &c->ops[i], kind, 0) && prog->recipes[c->ops[i].recipe].calls_n == 1) {
            return (struct sf_op *)(uintptr_t)&c->ops[i];
        }
    }
    fail_msg("no op with %s", sf_call_name(kind));
    return NULL;
}

static const struct sf_op *op_with_kind(const struct sf_prog *prog, uint32_t class_i, int kind) {
    const struct sf_op *op = prog->classes[class_i].ops;
    while (op->kind != kind) {
        op++;
    }
    return op;
}

static void expect_fault(const struct sf_prog *prog, const char *what) {
    struct sf_err err = {0};
    assert_int_equal(sf_prog_check(prog, &err), SF_E_INPUT);
    if (!strstr(err.msg, what)) {
        fail_msg("expected \"%s\", found \"%s\"", what, err.msg);
    }
}

static struct sf_prog *two_stages(struct sf_scenario *s) {
    struct sf_plan p = plan_for(s, &(struct layout){1, 1, 2, 1, 1, 0, 0, SF_SCHEDULE_1F1B, false});
    return compiled(s, &p);
}

static void test_an_update_before_the_cut_is_refused(void **state) {
    (void)state;
    struct sf_scenario s = scenario(0);
    struct sf_prog *prog = two_stages(&s);
    struct sf_op *clip = op_with(prog, 0, SF_CALL_CLIP);
    clip->stream = op_with_kind(prog, 0, SF_OP_ALL_REDUCE)->stream; /* updates follow on another one */
    expect_fault(prog, "\"hyper\"");
    sf_prog_free(prog);
}

static void test_a_norm_of_one_stage_alone_is_refused(void **state) {
    (void)state;
    struct sf_scenario s = scenario(0);
    struct sf_prog *prog = two_stages(&s);
    for (uint32_t i = 0; i < prog->classes[0].ops_n; i++) {
        struct sf_op *op = (struct sf_op *)(uintptr_t)&prog->classes[0].ops[i];
        if (op->kind == SF_OP_ALL_REDUCE) { /* of the squares: dp is 1 */
            *op = (struct sf_op){.kind = SF_OP_OPTIMIZER,
                                 .stream = op->stream,
                                 .recipe = op_with(prog, 0, SF_CALL_ZERO)->recipe,
                                 .comm = SF_NONE,
                                 .arg_first = op->arg_first,
                                 .arg_n = op->arg_n,
                                 .dep_first = op->dep_first,
                                 .dep_n = op->dep_n};
        }
    }
    expect_fault(prog, "lacks the squares");
    sf_prog_free(prog);
}

static void test_two_bounds_are_refused(void **state) {
    (void)state;
    struct sf_scenario s = scenario(0);
    struct sf_prog *prog = two_stages(&s);
    const struct sf_op *clip = op_with(prog, 1, SF_CALL_CLIP);
    struct sf_recipe *copy = sf_arena_alloc(prog->arena, prog->recipes_n + 1, sizeof *copy);
    struct sf_call *call = sf_arena_alloc(prog->arena, 1, sizeof *call);
    memcpy(copy, prog->recipes, prog->recipes_n * sizeof *copy);
    copy[prog->recipes_n] = copy[clip->recipe];
    *call = copy[clip->recipe].calls[0];
    call->imm[0] = 2.0f;
    copy[prog->recipes_n].calls = call;
    ((struct sf_op *)(uintptr_t)clip)->recipe = prog->recipes_n;
    prog->recipes = copy;
    prog->recipes_n++;
    expect_fault(prog, "one norm for all");
    sf_prog_free(prog);
}

/* ---- moments ----------------------------------------------------------------------------------------------------- */

static void test_moments_in_bf16_take_half(void **state) {
    (void)state;
    uint64_t bytes[2] = {0}, weights = 0;
    for (int lean = 0; lean < 2; lean++) {
        struct sf_scenario s = scenario(0);
        s.job.lean_moments = lean == 1;
        struct sf_prog *prog = two_stages(&s);
        for (uint32_t i = 0; i < prog->classes[0].bufs_n; i++) {
            const struct sf_buffer *b = &prog->classes[0].bufs[i];
            bytes[lean] += b->kind == SF_BUF_OPTIMIZER ? b->bytes : 0;
        }
        weights = updated(prog, 0);
        assert_int_equal(call_of(prog, op_with(prog, 0, SF_CALL_ADAMW), SF_CALL_ADAMW, 0)->flags,
                         lean ? SF_CALL_LEAN_FLAG : 0);
        sf_prog_free(prog);
    }
    assert_int_equal(bytes[0], 12 * weights);
    assert_int_equal(bytes[1], 8 * weights);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_weight_counts_once),
        cmocka_unit_test(test_copies_count_once),
        cmocka_unit_test(test_slots_do_not_depend_on_the_depth),
        cmocka_unit_test(test_without_a_bound_nothing_changes),
        cmocka_unit_test(test_tied_with_shared_gradients),
        cmocka_unit_test(test_what_cannot_count_once_is_refused),
        cmocka_unit_test(test_an_update_before_the_cut_is_refused),
        cmocka_unit_test(test_a_norm_of_one_stage_alone_is_refused),
        cmocka_unit_test(test_two_bounds_are_refused),
        cmocka_unit_test(test_moments_in_bf16_take_half),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
