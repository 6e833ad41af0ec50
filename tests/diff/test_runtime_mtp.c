/* Layers that predict further tokens: whatever the layout, canonical losses have the same bits, and the arena holds
 * what the model's parts need. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

enum { STEPS = 3, BATCH = 8 };

#include "tests/diff/train.h"

static int setup(void **state) {
    (void)state;
    int rc = load_job();
    job.model.layers = 4;
    job.model.mtp = 2;
    job.model.mtp_weight = 0.3;
    job.job.canonical = true;
    return rc;
}

static struct sf_plan plan_of(uint32_t tp, uint32_t pp, uint32_t dp, int schedule) {
    struct sf_plan p = {.tp = tp, .ep = 1, .pp = pp, .dp = dp, .vpp = 1, .micro_batch = 1, .schedule = schedule};
    p.vpp = schedule == SF_SCHEDULE_INTERLEAVED || schedule == SF_SCHEDULE_ZB_V ? 2 : 1;
    p.microbatches = BATCH / dp;
    p.canonical = job.job.canonical;
    p.ranks_per_domain = sf_topo_domain_gpus(cluster);
    job.job.gpus = tp * pp * dp;
    for (uint32_t i = 0; i < p.pp * p.vpp; i++) {
        p.layers[i] = job.model.layers / (p.pp * p.vpp);
    }
    return p;
}

static void train(const struct sf_plan *p, double loss[STEPS]) {
    struct sf_err err = {0};
    if (train_plan(p, loss, &err) != 0) {
        fail_msg("%s pp %u: %s", sf_schedule_name(p->schedule), p->pp, err.msg);
    }
}

static void expect_same(const struct sf_plan *p, const double expected[STEPS]) {
    double loss[STEPS] = {0};
    train(p, loss);
    for (int i = 0; i < STEPS; i++) {
        if (!(loss[i] == expected[i])) {
            fail_msg("%s tp %u pp %u dp %u zero %u tied %d, step %d: loss %.17g, expected %.17g",
                     sf_schedule_name(p->schedule), p->tp, p->pp, p->dp, p->zero, job.model.tied, i, loss[i],
                     expected[i]);
        }
    }
}

static void every_layout(uint32_t tp) {
    static const struct {
        uint32_t pp, dp, zero;
        int schedule, recompute;
    } cases[] = {
        {1, 2, 0, SF_SCHEDULE_1F1B, SF_RECOMPUTE_NONE},        {1, 4, 1, SF_SCHEDULE_1F1B, SF_RECOMPUTE_FULL},
        {2, 1, 0, SF_SCHEDULE_1F1B, SF_RECOMPUTE_SELECTIVE},   {4, 1, 0, SF_SCHEDULE_GPIPE, SF_RECOMPUTE_NONE},
        {2, 2, 1, SF_SCHEDULE_ZB_H1, SF_RECOMPUTE_NONE},       {2, 1, 0, SF_SCHEDULE_ZB_H1, SF_RECOMPUTE_FULL},
        {2, 1, 0, SF_SCHEDULE_ZB_V, SF_RECOMPUTE_NONE},        {2, 1, 0, SF_SCHEDULE_DUALPIPE, SF_RECOMPUTE_NONE},
        {2, 2, 0, SF_SCHEDULE_INTERLEAVED, SF_RECOMPUTE_NONE},
    };
    struct sf_plan first = plan_of(tp, 1, 1, SF_SCHEDULE_1F1B);
    double expected[STEPS] = {0};
    train(&first, expected);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (tp * cases[i].pp * cases[i].dp <= 8 && (cases[i].zero == 0 || job.job.clip_norm == 0)) {
            struct sf_plan p = plan_of(tp, cases[i].pp, cases[i].dp, cases[i].schedule);
            p.zero = cases[i].zero;
            p.recompute = cases[i].recompute;
            expect_same(&p, expected);
        }
    }
}

static void test_every_layout_has_the_same_bits(void **state) {
    (void)state;
    for (int tied = 0; tied < 2; tied++) {
        job.model.tied = tied > 0;
        every_layout(1);
        every_layout(2);
    }
    job.model.tied = false;
}

static void test_logits_in_parts_and_clipping(void **state) {
    (void)state;
    job.job.loss_rows = 12;
    job.job.clip_norm = 0.5;
    every_layout(1);
    every_layout(2);
    job.job.loss_rows = 0;
    job.job.clip_norm = 0;
}

/* A last stage with the loss and what predicts further alone; one table in place where sums need no order. */
static void test_ends(void **state) {
    (void)state;
    double expected[STEPS] = {0}, loss[STEPS] = {0};
    struct sf_plan first = plan_of(1, 1, 1, SF_SCHEDULE_1F1B), p = plan_of(1, 2, 1, SF_SCHEDULE_ZB_H1);
    job.job.gpus = 1;
    train(&first, expected);
    job.job.gpus = 2;
    p.layers[0] = job.model.layers;
    p.layers[1] = 0;
    expect_same(&p, expected);
    for (int tied = 0; tied < 2; tied++) {
        job.model.tied = tied > 0;
        job.job.canonical = true;
        first = plan_of(1, 1, 1, SF_SCHEDULE_1F1B);
        train(&first, expected);
        job.job.canonical = false;
        for (int split = 0; split < 2; split++) {
            first = plan_of(1, 1, 1, split ? SF_SCHEDULE_ZB_H1 : SF_SCHEDULE_1F1B);
            train(&first, loss);
            for (int i = 0; i < STEPS; i++) {
                assert_true(fabs(loss[i] - expected[i]) < 1e-5 * expected[i]);
            }
        }
    }
    job.model.tied = false;
    job.job.canonical = true;
}

/* Shared gradients, activations on the host, slices: sums in another order, or shared by unit, and else the same. */
static void expect_close(const struct sf_plan *p, const double expected[STEPS]) {
    double loss[STEPS] = {0};
    train(p, loss);
    for (int i = 0; i < STEPS; i++) {
        if (!(fabs(loss[i] - expected[i]) < 1e-5 * expected[i])) {
            fail_msg("%s tp %u pp %u dp %u zero %u offload %u slices %u tied %d, step %d: loss %.9g, expected %.9g",
                     sf_schedule_name(p->schedule), p->tp, p->pp, p->dp, p->zero, p->offload, p->slices, job.model.tied,
                     i, loss[i], expected[i]);
        }
    }
}

static const struct variant {
    uint32_t tp, pp, dp, zero, group, offload, slices;
    int schedule, recompute;
} variants[] = {
    {1, 1, 2, 2, 0, 0, 1, SF_SCHEDULE_1F1B, SF_RECOMPUTE_NONE},
    {1, 2, 2, 2, 0, 0, 1, SF_SCHEDULE_1F1B, SF_RECOMPUTE_FULL},
    {1, 2, 4, 2, 2, 0, 1, SF_SCHEDULE_ZB_H1, SF_RECOMPUTE_NONE},
    {2, 2, 2, 2, 0, 0, 1, SF_SCHEDULE_1F1B, SF_RECOMPUTE_SELECTIVE},
    {1, 2, 2, 2, 0, 0, 1, SF_SCHEDULE_INTERLEAVED, SF_RECOMPUTE_NONE},
    {1, 2, 2, 2, 0, 0, 1, SF_SCHEDULE_ZB_V, SF_RECOMPUTE_NONE},
    {1, 1, 1, 0, 0, 3, 1, SF_SCHEDULE_1F1B, SF_RECOMPUTE_NONE},
    {1, 2, 2, 1, 0, 2, 1, SF_SCHEDULE_1F1B, SF_RECOMPUTE_NONE},
    {2, 2, 1, 0, 0, 1, 1, SF_SCHEDULE_ZB_H1, SF_RECOMPUTE_FULL},
    {1, 2, 2, 2, 0, 2, 1, SF_SCHEDULE_GPIPE, SF_RECOMPUTE_SELECTIVE},
    {1, 1, 1, 0, 0, 0, 2, SF_SCHEDULE_1F1B, SF_RECOMPUTE_NONE},
    {1, 2, 2, 1, 0, 0, 4, SF_SCHEDULE_1F1B, SF_RECOMPUTE_FULL},
    {2, 2, 1, 0, 0, 0, 2, SF_SCHEDULE_GPIPE, SF_RECOMPUTE_SELECTIVE},
    {1, 2, 2, 0, 0, 2, 2, SF_SCHEDULE_1F1B, SF_RECOMPUTE_NONE},
};

/* tp pp dp zero; with the head in parts. */
static const uint32_t parts[][4] = {{1, 2, 1, 0}, {1, 4, 2, 1}, {2, 2, 1, 0}, {2, 2, 2, 1}, {2, 4, 1, 0}};

static void every_split_head(void) {
    double expected[STEPS] = {0};
    struct sf_plan first = plan_of(1, 1, 1, SF_SCHEDULE_1F1B);
    train(&first, expected);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        struct sf_plan p = plan_of(parts[i][0], parts[i][1], parts[i][2], SF_SCHEDULE_1F1B);
        p.zero = parts[i][3];
        p.split_head = true;
        p.recompute = i % 2 > 0 ? SF_RECOMPUTE_FULL : SF_RECOMPUTE_NONE;
        p.whole_rows = i == 4;
        expect_close(&p, expected);
    }
}

static void test_heads_in_parts_train_the_same(void **state) {
    (void)state;
    job.job.canonical = false;
    every_split_head();
    job.model.mtp = 0;
    every_split_head();
    job.model.mtp = 2;
    job.job.canonical = true;
}

static void every_variant(void) {
    double expected[STEPS] = {0};
    struct sf_plan first = plan_of(1, 1, 1, SF_SCHEDULE_1F1B);
    train(&first, expected);
    for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++) {
        const struct variant *v = &variants[i];
        struct sf_plan p = plan_of(v->tp, v->pp, v->dp, v->schedule);
        p.zero = v->zero;
        p.zero_group = v->group;
        p.offload = v->offload;
        p.slices = v->slices;
        p.recompute = v->recompute;
        if (v->tp == 1 || v->zero != 2 || job.job.clip_norm == 0) {
            expect_close(&p, expected);
        }
    }
}

static void test_every_variant_trains_the_same(void **state) {
    (void)state;
    job.job.canonical = false;
    for (int tied = 0; tied < 2; tied++) {
        job.model.tied = tied > 0;
        every_variant();
    }
    job.model.tied = false;
    job.job.loss_rows = 12;
    job.job.clip_norm = 0.5;
    every_variant();
    job.job.loss_rows = 0;
    job.job.clip_norm = 0;
    job.job.canonical = true;
}

/* The weight of what lies further enters the loss, and nothing else does. */
static void test_weight(void **state) {
    (void)state;
    struct sf_plan p = plan_of(1, 1, 1, SF_SCHEDULE_1F1B);
    double none[STEPS], third[STEPS], whole[STEPS];
    train(&p, third);
    job.model.mtp_weight = 0;
    train(&p, none);
    job.model.mtp_weight = 1;
    train(&p, whole);
    job.model.mtp_weight = 0.3;
    assert_true(fabs(none[0] + 0.3 * (whole[0] - none[0]) - third[0]) < 1e-6 * whole[0]);
    assert_true(fabs(whole[0] - 2 * none[0]) < 0.02 * whole[0]); /* weights are random still */
    assert_true(whole[2] < whole[0] && third[2] != third[0]);
}

/* A load of targets has a whole number of rows, as many as any other. */
static void test_other_loads_are_refused(void **state) {
    (void)state;
    struct sf_plan p = plan_of(1, 1, 1, SF_SCHEDULE_1F1B);
    uint64_t row = job.job.seq_len_tokens * sizeof(int32_t);
    double loss[STEPS];
    for (uint64_t less = 4; less <= 2 * row; less += 2 * row - 4) {
        struct sf_prog *prog = NULL;
        struct sf_err err = {0};
        assert_int_equal(sf_compile(&job, &p, &prog, &err), 0);
        const struct sf_class *c = &prog->classes[0];
        uint32_t i = 0;
        while (c->ops[i].kind != SF_OP_LOAD || !(c->ops[i].flags & SF_OP_TARGETS)) {
            i++;
        }
        ((struct sf_arg *)(uintptr_t)&c->args[c->ops[i].arg_first])->bytes -= less;
        assert_int_equal(run_program(prog, loss, &err), SF_E_INPUT);
        assert_non_null(strstr(err.msg, "sequences of 16 tokens of 4 bytes, by 1 slices, 3 times"));
        sf_prog_free(prog);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_layout_has_the_same_bits),
                                       cmocka_unit_test(test_logits_in_parts_and_clipping),
                                       cmocka_unit_test(test_ends),
                                       cmocka_unit_test(test_every_variant_trains_the_same),
                                       cmocka_unit_test(test_heads_in_parts_train_the_same),
                                       cmocka_unit_test(test_weight),
                                       cmocka_unit_test(test_other_loads_are_refused)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
