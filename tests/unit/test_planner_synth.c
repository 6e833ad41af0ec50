/* The synthesiser against replay, published schedules and its own bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "core/arena.h"
#include "core/rng.h"
#include "planner/synth.h"

enum { MAX_STAGES = 64 };

struct costs {
    sf_time_ps f[MAX_STAGES], b[MAX_STAGES], w[MAX_STAGES];
    double mem_f[MAX_STAGES], mem_b[MAX_STAGES], mem_w[MAX_STAGES];
};

static struct sf_synth_problem problem_of(const struct costs *c, uint32_t devices, uint32_t microbatches,
                                          uint32_t stages) {
    return (struct sf_synth_problem){.devices = devices,
                                     .microbatches = microbatches,
                                     .stages = stages,
                                     .f = c->f,
                                     .b = c->b,
                                     .w = c->w,
                                     .mem_f = c->mem_f,
                                     .mem_b = c->mem_b,
                                     .mem_w = c->mem_w};
}

static void random_costs(struct sf_rng *r, struct costs *c, uint32_t n, bool equal) {
    for (uint32_t i = 0; i < n; i++) {
        bool again = equal && i > 0;
        c->f[i] = again ? c->f[0] : 1 + (sf_time_ps)(sf_rng_u64(r) % 9);
        c->b[i] = again ? c->b[0] : 1 + (sf_time_ps)(sf_rng_u64(r) % 9);
        c->w[i] = again ? c->w[0] : 1 + (sf_time_ps)(sf_rng_u64(r) % 9);
        c->mem_f[i] = again ? c->mem_f[0] : 1 + (double)(sf_rng_u64(r) % 4);
        c->mem_w[i] = c->mem_f[i] * (again ? c->mem_w[0] / c->mem_f[0] : 0.25 * (double)(sf_rng_u64(r) % 4));
        c->mem_b[i] = c->mem_f[i] - c->mem_w[i];
    }
}

static struct sf_synth_result synth(const struct sf_synth_problem *p, uint64_t budget, uint64_t seed) {
    struct sf_synth_options o = {.budget = budget, .seed = seed};
    struct sf_synth_result r;
    struct sf_err err = {.code = 0};
    if (sf_synth(p, &o, &r, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    return r;
}

/* ---- properties -------------------------------------------------------------------------------------------------- */

static void limit_holds_and_bound_is_below(void **state) {
    (void)state;
    struct sf_rng r = sf_rng_seed(11);
    for (int i = 0; i < 120; i++) {
        struct costs c;
        uint32_t devices = 1 + (uint32_t)(sf_rng_u64(&r) % 6), chunks = 1 + (uint32_t)(sf_rng_u64(&r) % 3);
        uint32_t m = 1 + (uint32_t)(sf_rng_u64(&r) % 12);
        bool own = sf_rng_u64(&r) % 2;
        random_costs(&r, &c, own ? devices * chunks : 1, false);
        struct sf_synth_problem p = problem_of(&c, devices, m, own ? devices * chunks : 0);
        p.comm = (sf_time_ps)(sf_rng_u64(&r) % 5);
        p.memory_limit = 4.0 * (own ? chunks : 1) * (0.6 + sf_rng_unit(&r) * devices);
        struct sf_synth_options o = {.budget = 30000, .seed = (uint64_t)i};
        struct sf_synth_result s;
        struct sf_err err;
        int rc = sf_synth(&p, &o, &s, &err);
        assert_true(rc == 0 || rc == SF_E_NOPLAN);
        if (rc == 0) {
            struct sf_pipe_timing t;
            assert_int_equal(sf_pipe_replay(s.pipe, &s.costs, &t, NULL, NULL, &err), 0);
            assert_true(t.peak_memory <= p.memory_limit * (1 + 1e-9));
            assert_int_equal(t.span, s.timing.span);
            assert_true(s.lower_bound_span <= t.span && s.problem_bound_span <= t.span);
            assert_true(s.lower_bound_span >= t.busiest);
            assert_true(s.gap >= 0 && s.gap < 1);
            sf_synth_result_clear(&s);
        }
    }
}

/* The bound must hold for schedules that others make: whatever keeps the limit may not be faster. */
static void no_published_schedule_beats_the_bound(void **state) {
    (void)state;
    struct sf_rng r = sf_rng_seed(3);
    static const int families[] = {SF_PIPE_1F1B, SF_PIPE_ZB_H1, SF_PIPE_ZB_H2, SF_PIPE_ZB_V, SF_PIPE_V_HALF};
    for (int i = 0; i < 60; i++) {
        struct sf_pipe_spec spec = {.family = families[i % 5], .devices = 2 + (uint32_t)(sf_rng_u64(&r) % 6)};
        spec.microbatches = 2 * spec.devices + (uint32_t)(sf_rng_u64(&r) % 8);
        spec.f = 20 + (sf_time_ps)(sf_rng_u64(&r) % 20);
        spec.b = 20 + (sf_time_ps)(sf_rng_u64(&r) % 20);
        spec.w = 20 + (sf_time_ps)(sf_rng_u64(&r) % 20);
        spec.comm = (sf_time_ps)(sf_rng_u64(&r) % 8);
        spec.weight_share = 0.4;
        struct sf_pipe *pipe;
        struct sf_pipe_costs costs;
        struct sf_pipe_timing t;
        struct sf_err err;
        assert_int_equal(sf_pipe_generate(&spec, &pipe, &err), 0);
        assert_int_equal(sf_pipe_costs_create(pipe, &spec, &costs, &err), 0);
        assert_int_equal(sf_pipe_replay(pipe, &costs, &t, NULL, NULL, &err), 0);
        struct sf_synth_problem p = {.devices = spec.devices, .microbatches = spec.microbatches};
        p.stages = pipe->stages;
        p.f = costs.f;
        p.b = costs.b;
        p.w = costs.w;
        p.mem_f = costs.mem_f;
        p.mem_b = costs.mem_b;
        p.mem_w = costs.mem_w;
        p.comm = spec.comm;
        p.device_of = pipe->device_of;
        p.memory_limit = t.peak_memory;
        struct sf_synth_result s = synth(&p, 100000, 0);
        assert_true(s.lower_bound_span <= t.span);
        sf_synth_result_clear(&s);
        sf_pipe_costs_clear(&costs);
        sf_pipe_free(pipe);
    }
}

static void same_input_same_table(void **state) {
    (void)state;
    struct sf_rng r = sf_rng_seed(5);
    struct costs c;
    random_costs(&r, &c, 1, true);
    struct sf_synth_problem p = problem_of(&c, 5, 14, 0);
    p.comm = 1;
    p.memory_limit = 5 * c.mem_f[0];
    struct sf_synth_result a = synth(&p, 400000, 9), b = synth(&p, 400000, 9);
    assert_string_equal(a.placement, b.placement);
    assert_int_equal(a.evaluated, b.evaluated);
    for (uint32_t d = 0; d < 5; d++) {
        assert_int_equal(a.pipe->passes_n[d], b.pipe->passes_n[d]);
        assert_memory_equal(a.pipe->passes[d], b.pipe->passes[d], a.pipe->passes_n[d] * sizeof(struct sf_pass));
    }
    sf_synth_result_clear(&a);
    sf_synth_result_clear(&b);
}

/* ZB-V has no span bubble when F = B = W and nothing is sent (Zero Bubble, section 6); so must ours. */
static void equal_passes_have_no_bubble(void **state) {
    (void)state;
    sf_time_ps t = 2000;
    double one = 1, half = 0.5;
    struct sf_synth_problem p = {.devices = 8, .microbatches = 16, .f = &t, .b = &t, .w = &t};
    p.mem_f = &one;
    p.mem_b = &half;
    p.mem_w = &half;
    p.memory_limit = 8;
    struct sf_synth_result s = synth(&p, 0, 0);
    assert_int_equal(s.timing.span, s.timing.busiest);
    assert_true(s.optimal);
    sf_synth_result_clear(&s);
}

/* One chunk: the start bound is the one of Zero Bubble's appendix B, (p - 1)(B + 2c) + (p - k) F. */
static void start_bound_is_the_published_one(void **state) {
    (void)state;
    sf_time_ps f = 100, b = 90, w = 60;
    double one = 1, part = 0.5;
    struct sf_synth_problem p = {.devices = 6, .microbatches = 18, .f = &f, .b = &b, .w = &w, .comm = 5};
    p.mem_f = &one;
    p.mem_b = p.mem_w = &part;
    p.memory_limit = 7;
    struct sf_synth_options o = {.chunks_max = 1, .budget = 1000000};
    struct sf_synth_result s;
    assert_int_equal(sf_synth(&p, &o, &s, NULL), 0);
    assert_true(s.lower_bound_span >= 18 * 250 + 5 * (90 + 2 * 5) + (6 - 7) * 100);
    assert_true(s.gap < 0.05);
    sf_synth_result_clear(&s);
}

/* The synthesiser may not lose to any family that keeps the limit on a placement that it may choose. */
static void no_published_schedule_is_better(void **state) {
    (void)state;
    struct sf_rng r = sf_rng_seed(13);
    for (int i = 0; i < 12; i++) {
        struct costs c;
        random_costs(&r, &c, 1, false);
        c.mem_w[0] = 0.5 * c.mem_f[0];
        c.mem_b[0] = 0.5 * c.mem_f[0];
        struct sf_synth_problem p = problem_of(&c, 2 + (uint32_t)(sf_rng_u64(&r) % 4), 4 + (uint32_t)(i % 8), 0);
        c.f[0] *= 4; /* chunks take whole shares */
        c.b[0] *= 4;
        c.w[0] *= 4;
        p.comm = (sf_time_ps)(sf_rng_u64(&r) % 4);
        p.memory_limit = c.mem_f[0] * p.devices * (1 + 0.25 * (i % 5));
        struct sf_synth_result s = synth(&p, 20000, 1);
        for (int family = 0; family < SF_PIPE_DUALPIPE; family++) {
            struct sf_pipe_spec spec = {.family = family, .devices = p.devices, .microbatches = p.microbatches};
            spec.f = c.f[0];
            spec.b = c.b[0];
            spec.w = c.w[0];
            spec.comm = p.comm;
            spec.weight_share = 0.5;
            spec.memory_limit = p.memory_limit / c.mem_f[0];
            struct sf_pipe *pipe = NULL;
            struct sf_pipe_costs costs;
            struct sf_pipe_timing t;
            struct sf_err err;
            if (sf_pipe_generate(&spec, &pipe, &err) == 0) {
                assert_int_equal(sf_pipe_costs_create(pipe, &spec, &costs, &err), 0);
                assert_int_equal(sf_pipe_replay(pipe, &costs, &t, NULL, NULL, &err), 0);
                assert_true(t.peak_memory > spec.memory_limit + 1e-9 || t.span >= s.timing.span);
                sf_pipe_costs_clear(&costs);
            }
            sf_pipe_free(pipe);
        }
        sf_synth_result_clear(&s);
    }
}

/* Costs of a stage as tables of arXiv 2401.10241 have them, and its share of the activations until B and until W. */
struct published {
    sf_time_ps f, b, w, comm;
    double mem_f, mem_b, mem_w;
};

/* Under the memory of 1F1B. */
static struct sf_synth_problem published_problem(const struct published *c, uint32_t devices, uint32_t microbatches) {
    return (struct sf_synth_problem){.devices = devices,
                                     .microbatches = microbatches,
                                     .f = &c->f,
                                     .b = &c->b,
                                     .w = &c->w,
                                     .comm = c->comm,
                                     .mem_f = &c->mem_f,
                                     .mem_b = &c->mem_b,
                                     .mem_w = &c->mem_w,
                                     .memory_limit = devices};
}

/* Zero Bubble, arXiv 2401.10241, table 8, 6.2B: under p M no order of two chunks on a V beats the published ZB-V. */
static void zb_v_is_proven_optimal(void **state) {
    (void)state;
    const struct published c = {28824000000, 28786000000, 19376000000, 1621000000, 1, 1 - 32.0 / 74, 32.0 / 74};
    struct sf_synth_problem p = published_problem(&c, 16, 64);
    struct sf_synth_options o = {.chunks_min = 2, .chunks_max = 2, .budget = 100000};
    struct sf_synth_result s;
    struct sf_err err;
    assert_int_equal(sf_synth(&p, &o, &s, &err), 0);
    assert_true(fabs(s.timing.bubble_span - 0.0533) < 5e-5);
    assert_true(s.optimal);
    assert_int_equal(s.bound.reason, SF_BOUND_DRAIN);
    assert_int_equal(s.lower_bound_span, s.timing.span);
    assert_int_equal(s.problem_bound_span, s.timing.span); /* nor on a loop, nor with neighbours together */
    sf_synth_result_clear(&s);
}

/* Fewer microbatches than devices: the ways through the pipeline prove what is found (costs of 1.5B, table 9). */
static void few_microbatches_are_solved(void **state) {
    (void)state;
    const struct published c = {18522000000, 18086000000, 9337000000, 601000000, 1, 1 - 48.0 / 131, 48.0 / 131};
    struct sf_synth_problem p = published_problem(&c, 8, 2);
    struct sf_synth_result s = synth(&p, 3000000, 1);
    assert_true(s.optimal);
    assert_int_equal(s.bound.reason, SF_BOUND_MACHINE);
    sf_synth_result_clear(&s);
}

/* Two devices, four microbatches: every order on every placement of up to four chunks that could be better. */
static void small_problems_are_searched_to_the_end(void **state) {
    (void)state;
    const struct published c = {18522000000, 18086000000, 9337000000, 601000000, 1, 1 - 48.0 / 131, 48.0 / 131};
    struct sf_synth_problem p = published_problem(&c, 2, 4);
    struct sf_synth_result s = synth(&p, 8000000, 1);
    assert_true(s.optimal);
    assert_int_equal(s.bound.reason, SF_BOUND_SEARCH);
    assert_int_equal(s.problem_bound_span, s.timing.span);
    assert_true(fabs(s.timing.bubble_span - 0.0131) < 5e-5);
    sf_synth_result_clear(&s);
}

/* Costs of Zero Bubble, table 8, 14.6B, on fewer devices under p M: a cut into five chunks that are not alike beats all
 * equal ones. */
static void chunks_need_not_be_alike(void **state) {
    (void)state;
    const struct published c = {13566000000, 13968000000, 10518000000, 758000000, 1, 1 - 32.0 / 74, 32.0 / 74};
    struct sf_synth_problem p = published_problem(&c, 12, 48);
    struct sf_synth_options equal = {.chunks_min = 1, .chunks_max = 4, .budget = 4000000};
    struct sf_synth_result s = synth(&p, 4000000, 0), t;
    struct sf_err err;
    assert_int_equal(sf_synth(&p, &equal, &t, &err), 0);
    assert_int_equal(s.chunks, 5);
    assert_true(s.timing.bubble_span <= 0.0225);
    assert_true(t.timing.bubble_span > s.timing.bubble_span + 0.003);
    assert_true(s.timing.peak_memory <= 12 * (1 + 1e-6));
    for (uint32_t d = 0; d < 12; d++) { /* every device still has its whole share of a microbatch */
        sf_time_ps f = 0;
        double memory = 0;
        for (uint32_t i = 0; i < 5 * 12; i++) {
            f += s.pipe->device_of[i] == d ? s.costs.f[i] : 0;
            memory += s.pipe->device_of[i] == d ? s.costs.mem_f[i] : 0;
        }
        assert_int_equal(f, c.f);
        assert_true(fabs(memory - 1) < 1e-9);
    }
    sf_synth_result_clear(&s);
    sf_synth_result_clear(&t);
}

/* 1.5B, table 9, four devices and eight microbatches: .0390 is what an unlucky search stays at. */
static void few_devices_are_not_left_to_luck(void **state) {
    (void)state;
    const struct published c = {18522000000, 18086000000, 9337000000, 601000000, 1, 1 - 48.0 / 131, 48.0 / 131};
    struct sf_synth_problem p = published_problem(&c, 4, 8);
    for (uint64_t seed = 0; seed < 2; seed++) {
        struct sf_synth_result s = synth(&p, 2000000, seed);
        assert_true(s.timing.bubble_span <= 0.0350);
        sf_synth_result_clear(&s);
    }
}

/* Zero Bubble, table 8, 14.6B, four chunks: once a device has begun to run backwards it hardly ever idles again, so
 * little is left above what memory and the first microbatch's way force before that. */
static void ramp_and_steady_state_hardly_idle(void **state) {
    (void)state;
    enum { DEVICES = 24, STAGES = 4 * DEVICES };
    sf_time_ps f[STAGES], b[STAGES], w[STAGES];
    double mem_f[STAGES], mem_b[STAGES], mem_w[STAGES];
    uint16_t device_of[STAGES];
    for (uint32_t i = 0; i < STAGES; i++) {
        f[i] = 13566000000 / 4;
        b[i] = 13968000000 / 4;
        w[i] = 10518000000 / 4;
        mem_f[i] = 74;
        mem_w[i] = 32;
        mem_b[i] = 42;
        device_of[i] = (uint16_t)(i < 3 * DEVICES ? i % DEVICES : STAGES - 1 - i); /* up up up down */
    }
    struct sf_synth_problem p = {.devices = DEVICES, .microbatches = 96, .stages = STAGES, .f = f, .b = b, .w = w};
    p.comm = 758000000;
    p.mem_f = mem_f;
    p.mem_b = mem_b;
    p.mem_w = mem_w;
    p.memory_limit = 4.0 * 74 * DEVICES;
    p.device_of = device_of;
    struct sf_synth_result s = synth(&p, 2000000, 1);
    assert_true(s.timing.bubble_span < 0.0300); /* ZB-V: .0479 */
    sf_synth_result_clear(&s);
}

static bool at_once(void) {
    return true;
}

static void a_stopped_search_says_so(void **state) {
    (void)state;
    struct costs c = {.f = {8}, .b = {8}, .w = {4}, .mem_f = {2}, .mem_b = {1}, .mem_w = {1}};
    struct sf_synth_options o = {.stop = at_once};
    struct sf_synth_problem p = problem_of(&c, 4, 8, 0);
    p.memory_limit = 8;
    struct sf_synth_result r;
    struct sf_err err;
    assert_int_equal(sf_synth(&p, &o, &r, &err), 0); /* a published schedule, at least */
    assert_true(r.stopped && r.family >= 0);
    assert_true(r.lower_bound_span <= r.timing.span);
    sf_synth_result_clear(&r);
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

static void bad_input_is_refused(void **state) {
    (void)state;
    struct costs c = {.f = {5}, .b = {5}, .w = {5}, .mem_f = {2}, .mem_b = {1}, .mem_w = {1}};
    struct sf_synth_options o = {.budget = 1000};
    struct sf_synth_result r;
    struct sf_err err;
    struct sf_synth_problem ok = problem_of(&c, 2, 2, 0), p = ok;
    ok.memory_limit = 4;
    assert_int_equal(sf_synth(&p, &o, &r, &err), SF_E_INPUT); /* no limit */
    p = ok;
    p.devices = 0;
    assert_int_equal(sf_synth(&p, &o, &r, &err), SF_E_INPUT);
    p = ok;
    p.microbatches = UINT32_MAX;
    assert_int_equal(sf_synth(&p, &o, &r, &err), SF_E_INPUT);
    p = ok;
    p.stages = 3;
    assert_int_equal(sf_synth(&p, &o, &r, &err), SF_E_INPUT);
    p = ok;
    p.comm = INT64_MAX / 2;
    assert_int_equal(sf_synth(&p, &o, &r, &err), SF_E_INPUT);
    p = ok;
    p.memory_limit = NAN;
    assert_int_equal(sf_synth(&p, &o, &r, &err), SF_E_INPUT);
    p = ok;
    uint16_t both_on_one[2] = {1, 1}, outside[2] = {0, 7};
    p.stages = 2;
    p.device_of = both_on_one;
    assert_int_equal(sf_synth(&p, &o, &r, &err), SF_E_INPUT);
    p.device_of = outside;
    assert_int_equal(sf_synth(&p, &o, &r, &err), SF_E_INPUT);
    p = ok;
    p.memory_limit = 0.1; /* not one pass fits */
    assert_int_equal(sf_synth(&p, &o, &r, &err), SF_E_NOPLAN);
    assert_null(r.pipe);
    struct sf_synth_options wrong = {.chunks_min = 3, .chunks_max = 2};
    assert_int_equal(sf_synth(&ok, &wrong, &r, &err), SF_E_INPUT);
}

static void memory_running_out_is_reported(void **state) {
    (void)state;
    struct costs c = {.f = {5}, .b = {5}, .w = {5}, .mem_f = {2}, .mem_b = {1}, .mem_w = {1}};
    struct sf_synth_options o = {.budget = 1000};
    struct sf_synth_problem p = problem_of(&c, 2, 2, 0);
    p.memory_limit = 4;
    for (size_t n = 1; n < 400; n += 3) {
        struct sf_synth_result r;
        struct sf_err err = {.code = 0};
        sf_alloc_fail_after(n);
        int rc = sf_synth(&p, &o, &r, &err);
        sf_alloc_fail_after(0);
        assert_true(rc == 0 || rc == SF_E_INTERNAL || rc == SF_E_NOPLAN);
        sf_synth_result_clear(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(limit_holds_and_bound_is_below),
        cmocka_unit_test(no_published_schedule_beats_the_bound),
        cmocka_unit_test(same_input_same_table),
        cmocka_unit_test(equal_passes_have_no_bubble),
        cmocka_unit_test(start_bound_is_the_published_one),
        cmocka_unit_test(no_published_schedule_is_better),
        cmocka_unit_test(zb_v_is_proven_optimal),
        cmocka_unit_test(few_microbatches_are_solved),
        cmocka_unit_test(small_problems_are_searched_to_the_end),
        cmocka_unit_test(chunks_need_not_be_alike),
        cmocka_unit_test(few_devices_are_not_left_to_luck),
        cmocka_unit_test(ramp_and_steady_state_hardly_idle),
        cmocka_unit_test(a_stopped_search_says_so),
        cmocka_unit_test(bad_input_is_refused),
        cmocka_unit_test(memory_running_out_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
