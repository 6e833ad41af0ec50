/* Shared weights and gradients: programs of every shape are sound, move what a hand works out, and keep no more than
 * two units whole. */
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
    return shaped_scenario(cluster, &(struct shape){8, 64, 4, 2, 96, experts, 128, 32, SF_BF16});
}

static struct sf_plan plan_for(struct sf_scenario *s, uint32_t tp, uint32_t dp, uint32_t pp, uint32_t microbatches,
                               uint32_t zero) {
    return even_plan(
        s, (struct sf_plan){
               .tp = tp, .dp = dp, .pp = pp, .microbatches = microbatches, .schedule = SF_SCHEDULE_1F1B, .zero = zero});
}

static uint64_t buffer_bytes(const struct sf_class *c, const char *name) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < c->bufs_n; i++) {
        bytes += strcmp(c->bufs[i].name, name) == 0 ? c->bufs[i].bytes : 0;
    }
    return bytes;
}

/* Weights are gathered for both passes of every microbatch, gradients scattered after each. */
static void test_volumes(void **state) {
    (void)state;
    for (uint32_t m = 1; m <= 3; m++) {
        uint32_t gathers, scatters;
        struct sf_scenario s = scenario(0);
        struct sf_plan p = plan_for(&s, 1, 8, 1, m, 3);
        struct sf_prog *prog = compiled(&s, &p);
        const struct sf_class *c = &prog->classes[0];
        uint64_t gathered = bytes_moved(c, SF_OP_ALL_GATHER, &gathers);
        uint64_t scattered = bytes_moved(c, SF_OP_REDUCE_SCATTER, &scatters);
        uint64_t weights = sf_model_params(&s.model) * 2, share = buffer_bytes(c, "param.share");
        assert_int_equal(gathers, 2 * 8 * m);
        assert_int_equal(scatters, 8 * m);
        assert_int_equal(gathered, 2 * scattered);
        assert_int_equal(share * 8 * m, scattered);
        assert_true(share * 8 >= weights && share * 8 < weights + weights / 50); /* padding alone */
        sf_prog_free(prog);
    }
}

/* Whole gradients and weights of two units share memory with those of all others. */
static void test_memory(void **state) {
    struct sf_scenario s = scenario(0);
    struct sf_plan p = plan_for(&s, 1, 8, 1, 2, 1);
    uint64_t arena[4];
    (void)state;
    s.model.hidden = 1024;
    s.model.ffn = 4096;
    s.model.layers = p.layers[0] = 16;
    for (uint32_t zero = 1; zero <= 3; zero++) {
        p.zero = zero;
        struct sf_prog *prog = compiled(&s, &p);
        arena[zero] = prog->classes[0].arena_bytes;
        sf_prog_free(prog);
    }
    uint64_t weights = sf_model_params(&s.model) * 2, unit = weights / 16;
    assert_true(arena[1] - arena[2] > weights - weights / 8 - 4 * unit);
    assert_true(arena[2] - arena[3] > weights - weights / 8 - 4 * unit);
}

/* What a pass needs is issued before the pass ahead of it, and waits only for the one before that. */
static void test_prefetch_is_one_deep(void **state) {
    struct sf_scenario s = scenario(0);
    struct sf_plan p = plan_for(&s, 1, 8, 1, 1, 3);
    struct sf_prog *prog = compiled(&s, &p);
    const struct sf_class *c = &prog->classes[0];
    uint32_t pass = SF_NONE;
    (void)state;
    for (uint32_t i = 0; i < c->ops_n; i++) {
        const struct sf_op *op = &c->ops[i];
        if (op->kind == SF_OP_FORWARD || op->kind == SF_OP_BACKWARD) {
            pass = i;
        } else if (op->kind == SF_OP_ALL_GATHER) {
            assert_int_equal(op->dep_n, pass != SF_NONE);
            assert_true(op->dep_n == 0 || c->deps[op->dep_first] == pass);
        }
    }
    sf_prog_free(prog);
}

/* The checker has the last word on each of them. */
static void test_all_shapes(void **state) {
    static const int schedules[] = {SF_SCHEDULE_GPIPE, SF_SCHEDULE_1F1B, SF_SCHEDULE_INTERLEAVED, SF_SCHEDULE_ZB_H1,
                                    SF_SCHEDULE_ZB_V};
    (void)state;
    for (uint32_t k = 0; k < 3 * 2 * 2 * 2 * 5; k++) {
        uint32_t pp = 1u << k % 2, tp = 1u << k / 2 % 2, zero = 2 + k / 4 % 2;
        struct sf_scenario s = scenario(k / 8 % 3 == 0 ? 0 : 4);
        struct sf_plan p = plan_for(&s, tp, 8 / tp / pp, pp, 4, zero);
        p.schedule = schedules[k / 24];
        p.recompute = (int)(k / 3 % 2);
        p.ep = k / 8 % 3 == 2 && p.dp > 2 ? 2 : 1;
        if (p.schedule == SF_SCHEDULE_INTERLEAVED || p.schedule == SF_SCHEDULE_ZB_V) {
            p.vpp = 2;
            for (uint32_t i = 0; i < 2 * pp; i++) {
                p.layers[i] = 8 / (2 * pp);
            }
        }
        if (pp == 1 && p.schedule > SF_SCHEDULE_1F1B) {
            continue;
        }
        sf_prog_free(compiled(&s, &p));
    }
}

/* Stages that are no multiple of the smallest are cut into units of unequal size. */
static void test_uneven_stages(void **state) {
    struct sf_scenario s = scenario(0);
    struct sf_plan p = plan_for(&s, 1, 4, 2, 4, 3);
    (void)state;
    p.layers[0] = 3;
    p.layers[1] = 5;
    struct sf_prog *prog = compiled(&s, &p);
    assert_int_equal(prog->job.chunks, 3);
    sf_prog_free(prog);
}

static uint64_t swapped_bytes(const struct sf_prog *prog, uint32_t class_i, int kind) {
    const struct sf_class *c = &prog->classes[class_i];
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < c->ops_n; i++) {
        const struct sf_op *op = &c->ops[i];
        bool swap = op->comm != SF_NONE && strcmp(prog->comms[op->comm].name, "pp.swap") == 0;
        bytes += swap && op->kind == kind ? op->bytes : 0;
    }
    return bytes;
}

/* Both ends swap their shares of the table alone, whatever the layers beside it. */
static void test_tied_tables_are_shared_alike(void **state) {
    static const uint32_t cuts[3][4] = {{2, 2, 2, 2}, {3, 2, 2, 1}, {1, 2, 2, 3}};
    static const int schedules[] = {SF_SCHEDULE_1F1B, SF_SCHEDULE_ZB_H1};
    (void)state;
    for (uint32_t k = 0; k < 12; k++) {
        struct sf_scenario s = scenario(k / 6 % 2 > 0 ? 4 : 0);
        struct sf_plan p = plan_for(&s, 1, 2, 4, 6, 3);
        s.model.tied = true;
        p.schedule = schedules[k / 3 % 2];
        memcpy(p.layers, cuts[k % 3], sizeof cuts[0]);
        struct sf_prog *prog = compiled(&s, &p);
        uint64_t share = s.model.vocab * s.model.hidden * 2 / 2; /* of two ranks, in bf16 */
        for (uint32_t c = 0; c < prog->classes_n; c++) {
            bool end = c == 0 || c + 1 == prog->classes_n;
            assert_int_equal(swapped_bytes(prog, c, SF_OP_SEND), end ? share : 0);
            assert_int_equal(swapped_bytes(prog, c, SF_OP_RECV), end ? share : 0);
        }
        sf_prog_free(prog);
    }
}

/* Groups of ranks share, and the groups add up their shares: once per step, whatever the microbatches. */
static void test_groups(void **state) {
    (void)state;
    for (uint32_t k = 0; k < 3 * 2 * 2 * 2; k++) {
        uint32_t zero = 1 + k % 3, group = 2u << k / 3 % 2, ep = 1 + k / 6 % 2, m = 1 + k / 12, ops;
        struct sf_scenario s = scenario(ep > 1 ? 4 : 0);
        struct sf_plan p = plan_for(&s, 1, 8, 1, m, zero);
        p.ep = ep;
        p.zero_group = group;
        if (zero > 1 && ep == group) {
            continue; /* nobody to share the experts with */
        }
        struct sf_prog *prog = compiled(&s, &p);
        const struct sf_class *c = &prog->classes[0];
        uint64_t share = buffer_bytes(c, "param.share"), across = bytes_moved(c, SF_OP_ALL_REDUCE, &ops);
        uint64_t scattered = bytes_moved(c, SF_OP_REDUCE_SCATTER, &ops);
        assert_true(ep == group || across == share); /* else experts are whole on every rank of a group */
        assert_true(zero == 1 || scattered >= m * (share * group / ep));
        assert_true(zero == 1 || ep > 1 || scattered == m * share * group);
        sf_prog_free(prog);
    }
}

static void test_groups_are_added_up(void **state) {
    struct sf_scenario s = scenario(0);
    struct sf_plan p = plan_for(&s, 1, 8, 1, 2, 2);
    struct sf_err err = {0};
    (void)state;
    p.zero_group = 4;
    struct sf_prog *prog = compiled(&s, &p);
    const struct sf_class *c = &prog->classes[0];
    for (uint32_t i = 0; i < c->ops_n; i++) {
        struct sf_op *op = (struct sf_op *)(uintptr_t)&c->ops[i];
        if (op->kind == SF_OP_ALL_REDUCE) { /* twice inside the group */
            for (uint32_t k = 0; k < prog->comms_n; k++) {
                op->comm = strcmp(prog->comms[k].name, "shard") == 0 ? k : op->comm;
            }
        }
    }
    assert_int_equal(sf_prog_check(prog, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "no reduction over the replicas (axis \"dp\")"));
    sf_prog_free(prog);
}

static void refused(const struct sf_scenario *s, const struct sf_plan *p, const char *words) {
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    assert_int_equal(sf_compile(s, p, &prog, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, words));
}

static void test_refusals(void **state) {
    struct sf_scenario s = scenario(4);
    struct sf_plan p = plan_for(&s, 1, 8, 1, 2, 3);
    (void)state;
    p.zero = 4;
    refused(&s, &p, "zero must be from 0 to 3");
    p.zero_group = 4;
    p.zero = 0;
    refused(&s, &p, "zero 0 shares nothing");
    p.zero = 1;
    p.zero_group = 3;
    refused(&s, &p, "zero_group must divide dp = 8");
    p.zero_group = 0;
    p.zero = 3;
    p.microbatches = 2000;
    s.job.global_batch_sequences = 16000;
    refused(&s, &p, "at most 8192");
    p.microbatches = 2;
    p.ep = 4;
    p.dp = 4;
    s.job.gpus = 4;
    s.job.global_batch_sequences = 8;
    refused(&s, &p, "nobody to share the experts' gradients");
    p.ep = 1;
    s.job.precision = SF_F32;
    refused(&s, &p, "precision bf16");
    s.job.canonical = p.canonical = true;
    refused(&s, &p, "canonical");
}

static void test_out_of_memory_everywhere(void **state) {
    struct sf_scenario s = scenario(0);
    struct sf_plan p = plan_for(&s, 1, 8, 1, 2, 3);
    (void)state;
    for (uint64_t n = 1;; n += 3) {
        struct sf_prog *prog = NULL;
        struct sf_err err = {0};
        sf_alloc_fail_after(n);
        int rc = sf_compile(&s, &p, &prog, &err);
        sf_alloc_fail_after(0);
        if (rc == 0) {
            sf_prog_free(prog);
            break;
        }
        assert_int_equal(rc, SF_E_INTERNAL);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_volumes),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_all_shapes),
        cmocka_unit_test(test_prefetch_is_one_deep),
        cmocka_unit_test(test_uneven_stages),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_groups_are_added_up),
        cmocka_unit_test(test_tied_tables_are_shared_alike),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_out_of_memory_everywhere),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
