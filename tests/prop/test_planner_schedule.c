/* 100,000 random pipelines: each schedule is complete, deadlock-free, as fast as its closed form and as large. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "core/rng.h"
#include "planner/schedule.h"

#define CASES 100000
#define MAX_PP 8
#define MAX_VPP 4
#define MAX_M 24
#define MAX_STEPS (2 * MAX_M * MAX_VPP)

struct pipeline {
    int kind;
    uint32_t pp, vpp, m, steps_n;
    struct sf_step steps[MAX_PP][MAX_STEPS];
};

static uint32_t pick(struct sf_rng *r, uint32_t lo, uint32_t hi) {
    return lo + (uint32_t)(sf_rng_u64(r) % (hi - lo + 1));
}

static void draw(struct sf_rng *r, struct pipeline *p) {
    p->kind = (int)pick(r, 0, SF_SCHEDULES_N - 1);
    p->pp = pick(r, 1, MAX_PP);
    p->vpp = 1;
    p->m = pick(r, 1, MAX_M);
    if (p->kind == SF_SCHEDULE_INTERLEAVED) {
        p->pp = pick(r, 2, MAX_PP);
        p->vpp = pick(r, 2, MAX_VPP);
        p->m = p->pp * pick(r, 1, MAX_M / p->pp);
    }
    p->steps_n = 2 * p->m * p->vpp;
    for (uint32_t stage = 0; stage < p->pp; stage++) {
        struct sf_err err = {0};
        assert_int_equal(sf_schedule_steps(p->kind, p->pp, p->vpp, p->m, stage, p->steps[stage], p->steps_n, &err), 0);
    }
}

/* Every (chunk, microbatch) once forward, then once backward, backwards of a chunk in ascending order. */
static void check_complete(const struct pipeline *p, uint32_t stage) {
    bool forward[MAX_VPP][MAX_M] = {{false}};
    uint32_t backward_n[MAX_VPP] = {0};
    for (uint32_t i = 0; i < p->steps_n; i++) {
        const struct sf_step *s = &p->steps[stage][i];
        assert_true(s->chunk < p->vpp && s->microbatch < p->m);
        if (s->kind == SF_STEP_F) {
            assert_false(forward[s->chunk][s->microbatch]);
            forward[s->chunk][s->microbatch] = true;
        } else {
            assert_true(forward[s->chunk][s->microbatch]);
            assert_int_equal(s->microbatch, backward_n[s->chunk]);
            backward_n[s->chunk]++;
        }
    }
    for (uint32_t c = 0; c < p->vpp; c++) {
        assert_int_equal(backward_n[c], p->m);
    }
}

struct clock {
    uint32_t done[2][MAX_PP * MAX_VPP][MAX_M]; /* finish time + 1; 0 = not yet */
    uint32_t next[MAX_PP], free_at[MAX_PP];
};

/* When a step's inputs are there, or UINT32_MAX. Virtual stage v feeds v + 1 forward, v - 1 backward. */
static uint32_t ready_at(const struct pipeline *p, const struct clock *k, uint32_t stage, const struct sf_step *s) {
    uint32_t v = s->chunk * p->pp + stage, last = p->pp * p->vpp - 1, m = s->microbatch, done;
    if (s->kind == SF_STEP_F) {
        done = v == 0 ? 1 : k->done[SF_STEP_F][v - 1][m];
    } else {
        done = v == last ? k->done[SF_STEP_F][v][m] : k->done[SF_STEP_B][v + 1][m];
    }
    return done == 0 ? UINT32_MAX : done - 1;
}

/* Run all stages with F = B = 1 per chunk and free communication; returns the makespan, UINT32_MAX on deadlock. */
static uint32_t replay(const struct pipeline *p) {
    struct clock k = {0};
    uint32_t left = p->pp * p->steps_n, makespan = 0;
    for (bool moved = true; left > 0 && moved;) {
        moved = false;
        for (uint32_t stage = 0; stage < p->pp; stage++) {
            while (k.next[stage] < p->steps_n) {
                const struct sf_step *s = &p->steps[stage][k.next[stage]];
                uint32_t start = ready_at(p, &k, stage, s);
                if (start == UINT32_MAX) {
                    break;
                }
                start = start > k.free_at[stage] ? start : k.free_at[stage];
                k.free_at[stage] = start + 1;
                k.done[s->kind][s->chunk * p->pp + stage][s->microbatch] = start + 2;
                makespan = start + 1 > makespan ? start + 1 : makespan;
                k.next[stage]++;
                left--;
                moved = true;
            }
        }
    }
    return left == 0 ? makespan : UINT32_MAX;
}

static uint32_t min_u32(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

static uint32_t closed_peak(const struct pipeline *p, uint32_t stage) {
    switch (p->kind) {
    case SF_SCHEDULE_GPIPE:
        return p->m;
    case SF_SCHEDULE_1F1B:
        return min_u32(p->pp - stage, p->m);
    default:
        if (p->m == p->pp) {
            return p->m * p->vpp;
        }
        return min_u32(2 * (p->pp - 1 - stage) + (p->vpp - 1) * p->pp + 1, p->m * p->vpp);
    }
}

static void check_case(const struct pipeline *p) {
    for (uint32_t stage = 0; stage < p->pp; stage++) {
        check_complete(p, stage);
        assert_int_equal(sf_schedule_peak(p->steps[stage], p->steps_n), closed_peak(p, stage));
    }
    /* Work 2 m v and bubble 2 (p - 1), in units of one chunk: (p - 1)(F + B) / v of a whole stage. */
    uint32_t makespan = 2 * p->m * p->vpp + 2 * (p->pp - 1);
    if (replay(p) != makespan) {
        fail_msg("%s pp %u vpp %u m %u: makespan %u, expected %u", sf_schedule_name(p->kind), p->pp, p->vpp, p->m,
                 replay(p), makespan);
    }
}

static void random_pipelines(void **state) {
    struct sf_rng r = sf_rng_seed(20260501);
    (void)state;
    for (uint32_t i = 0; i < CASES; i++) {
        static struct pipeline p;
        draw(&r, &p);
        check_case(&p);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_pipelines)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
