/* Random pipelines against the closed forms of the literature, against their memory limits, and against a slow replay
 * that is written differently. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "core/rng.h"
#include "planner/pipeline.h"

#define FIXED_CASES 110000
#define GREEDY_CASES 2500
#define UNIT INT64_C(27720) /* divisible by every count of chunks and slices that is drawn */

static uint32_t pick(struct sf_rng *r, uint32_t lo, uint32_t hi) {
    return lo + (uint32_t)(sf_rng_u64(r) % (hi - lo + 1));
}

static uint32_t min_u32(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

struct drawn {
    struct sf_pipe_spec spec;
    struct sf_pipe *pipe;
    struct sf_pipe_costs costs;
    struct sf_pipe_timing t;
};

static const char *describe(const struct drawn *x) {
    static char text[256];
    const struct sf_pipe_spec *s = &x->spec;
    snprintf(text, sizeof text, "%s p %u m %u v %u n %u f %lld b %lld w %lld c %lld", sf_pipe_family_name(s->family),
             s->devices, s->microbatches, s->chunks, s->slices, (long long)s->f, (long long)s->b, (long long)s->w,
             (long long)s->comm);
    return text;
}

static void make(struct drawn *x, struct sf_pipe_scratch *scratch) {
    struct sf_err err = {0};
    if (sf_pipe_generate(&x->spec, &x->pipe, &err) != 0 ||
        sf_pipe_costs_create(x->pipe, &x->spec, &x->costs, &err) != 0 ||
        sf_pipe_replay_with(scratch, x->pipe, &x->costs, &x->t, NULL, NULL, &err) != 0) {
        fail_msg("%s: %s", describe(x), err.msg);
    }
}

static void drop(struct drawn *x) {
    sf_pipe_free(x->pipe);
    sf_pipe_costs_clear(&x->costs);
}

static uint32_t times_checked[SF_PIPE_FAMILIES_N];

static void expect_time(const struct drawn *x, const char *what, sf_time_ps found, sf_time_ps expected) {
    times_checked[x->spec.family]++;
    if (found != expected) {
        fail_msg("%s: %s %lld, expected %lld", describe(x), what, (long long)found, (long long)expected);
    }
}

static void expect_peak(const struct drawn *x, double expected) {
    double off = x->t.peak_memory - expected;
    if (off > 1e-9 || off < -1e-9) {
        fail_msg("%s: peak %.6f M, expected %.6f", describe(x), x->t.peak_memory, expected);
    }
}

/* ---- closed forms ------------------------------------------------------------------------------------------------ */

static void draw_fixed(struct sf_rng *r, struct drawn *x) {
    static const int families[] = {SF_PIPE_GPIPE,       SF_PIPE_1F1B,          SF_PIPE_1F1B,  SF_PIPE_INTERLEAVED,
                                   SF_PIPE_INTERLEAVED, SF_PIPE_BREADTH_FIRST, SF_PIPE_ZB_H1, SF_PIPE_ZB_H2};
    struct sf_pipe_spec *s = &x->spec;
    *x = (struct drawn){0};
    s->family = families[pick(r, 0, 7)];
    s->devices = pick(r, 1, 8);
    s->microbatches = pick(r, 1, 20);
    s->f = UNIT * pick(r, 1, 12);
    s->b = UNIT * pick(r, 1, 12);
    s->w = UNIT * pick(r, 1, 12);
    s->comm = pick(r, 0, 3) == 0 ? UNIT * pick(r, 1, 6) / 12 : 0;
    s->slices = s->family == SF_PIPE_1F1B || s->family == SF_PIPE_GPIPE ? pick(r, 1, 2) * pick(r, 1, 2) : 0;
    if (s->family == SF_PIPE_INTERLEAVED || s->family == SF_PIPE_BREADTH_FIRST) {
        s->chunks = pick(r, 2, 4);
        s->microbatches = s->devices * pick(r, 1, s->family == SF_PIPE_INTERLEAVED ? 3 : 2);
    }
}

/* Idle time of the first device, (p - 1)(F + B + W) over the parts that a device's share is cut into. */
static sf_time_ps fill_and_drain(const struct sf_pipe_spec *s, uint32_t parts) {
    return (s->devices - 1) * (s->f + s->b + s->w) / parts;
}

static uint32_t slices(const struct sf_pipe_spec *s) {
    return s->slices > 0 ? s->slices : 1;
}

static void check_1f1b(const struct drawn *x) {
    const struct sf_pipe_spec *s = &x->spec;
    uint32_t p = s->devices, m = s->microbatches, n = slices(s);
    expect_peak(x, (double)min_u32(n + p - 1, n * m) / n);
    if (s->comm == 0) {
        expect_time(x, "idle", x->t.span - x->t.busiest, fill_and_drain(s, n));
        expect_time(x, "makespan", x->t.makespan, x->t.span);
    } else if (n == 1 && m % p == 0 && p > 1 && s->comm * 2 <= s->f && s->comm * 2 <= s->b + s->w) {
        expect_time(x, "idle with latency", x->t.span - x->t.busiest,
                    fill_and_drain(s, 1) + 2 * s->comm * (p - 1) * m / p + 2 * s->comm * (p - 2));
    }
}

static void check_interleaved(const struct drawn *x) {
    const struct sf_pipe_spec *s = &x->spec;
    uint32_t p = s->devices, m = s->microbatches, v = s->chunks;
    expect_peak(x, (double)min_u32(p * v + p - 1, m * v) / v);
    /* Latency shows once, on the way down and back of the first and the last round, not in every round. */
    bool hidden = s->comm == 0 || (m >= 2 * p && 2 * s->comm * v <= s->f && 2 * s->comm * v <= s->b + s->w);
    if (hidden) {
        expect_time(x, "idle", x->t.span - x->t.busiest,
                    fill_and_drain(s, v) + (p > 1 ? (2 * p * v - 2) * s->comm : 0));
    }
}

static void check_zb_h(const struct drawn *x) {
    const struct sf_pipe_spec *s = &x->spec;
    uint32_t p = s->devices, m = s->microbatches, times = s->family == SF_PIPE_ZB_H1 ? 1 : 2;
    expect_peak(x, min_u32(times * (p - 1) + 1, m));
    if (times == 1 && m >= 2 * p && s->w <= s->f && s->w <= s->b) {
        expect_time(x, "idle", x->t.span - x->t.busiest, (p - 1) * (s->f + s->b - s->w + 4 * s->comm));
    }
    if (times == 2 && m >= 2 * p && s->w <= s->f && s->w <= s->b) {
        expect_time(x, "idle", x->t.span - x->t.busiest, (p - 1) * (s->f + s->b + 2 * s->comm - 2 * s->w));
    }
}

static void check_fixed(const struct drawn *x) {
    const struct sf_pipe_spec *s = &x->spec;
    switch (s->family) {
    case SF_PIPE_GPIPE:
        expect_peak(x, s->microbatches);
        expect_time(x, "idle", x->t.span - x->t.busiest, fill_and_drain(s, slices(s)) + 2 * (s->devices - 1) * s->comm);
        break;
    case SF_PIPE_1F1B:
        check_1f1b(x);
        break;
    case SF_PIPE_INTERLEAVED:
        check_interleaved(x);
        break;
    case SF_PIPE_BREADTH_FIRST:
        expect_peak(x, s->microbatches);
        if (s->comm == 0) {
            expect_time(x, "idle", x->t.span - x->t.busiest, fill_and_drain(s, s->chunks));
        }
        break;
    default:
        check_zb_h(x);
    }
}

static void check_bound(const struct drawn *x) {
    sf_time_ps bound = sf_pipe_lower_bound(x->pipe, &x->costs, x->t.peak_memory);
    if (bound > x->t.span || bound < x->t.busiest) {
        fail_msg("%s: bound %lld, span %lld", describe(x), (long long)bound, (long long)x->t.span);
    }
}

static void closed_forms(void **state) {
    struct sf_rng r = sf_rng_seed(20260502);
    struct sf_pipe_scratch *scratch = sf_pipe_scratch_create();
    (void)state;
    for (uint32_t i = 0; i < FIXED_CASES; i++) {
        struct drawn x;
        draw_fixed(&r, &x);
        make(&x, scratch);
        check_fixed(&x);
        check_bound(&x);
        drop(&x);
    }
    sf_pipe_scratch_free(scratch);
    for (int family = 0; family <= SF_PIPE_ZB_H2; family++) {
        assert_true(times_checked[family] > 2500);
    }
}

/* ---- greedy families --------------------------------------------------------------------------------------------- */

static void draw_greedy(struct sf_rng *r, struct drawn *x) {
    struct sf_pipe_spec *s = &x->spec;
    *x = (struct drawn){0};
    s->family = (int)pick(r, SF_PIPE_ZB_1P, SF_PIPE_DUALPIPEV);
    s->devices = pick(r, 1, 6);
    s->microbatches = pick(r, 1, 14);
    if (s->family >= SF_PIPE_DUALPIPE) {
        s->devices += s->devices % 2;
        s->microbatches = 2 * (s->devices + pick(r, 0, 6));
    }
    s->f = UNIT * pick(r, 4, 12);
    s->b = UNIT * pick(r, 4, 12);
    s->w = UNIT * pick(r, 1, 12);
    s->comm = pick(r, 0, 1) * UNIT * pick(r, 1, 3);
    s->weight_share = pick(r, 1, 4) / 4.0;
    if (pick(r, 0, 2) == 0) {
        s->b = s->w = s->f;
        s->comm = 0;
    }
}

/* The most that a family may hold, in M; fewer microbatches hold less. */
static double allowed(const struct sf_pipe_spec *s) {
    uint32_t p = s->devices, most[SF_PIPE_FAMILIES_N] = {
                                 [SF_PIPE_ZB_1P] = p,
                                 [SF_PIPE_ZB_2P] = 2 * p,
                                 [SF_PIPE_ZB_V] = p,
                                 [SF_PIPE_V_HALF] = (p + 2) / 2,
                                 [SF_PIPE_V_MIN] = (p + 4) / 3,
                                 [SF_PIPE_1F1B_V] = (2 * p + 2) / 3 + 1,
                                 [SF_PIPE_DUALPIPE] = p + 1,
                                 [SF_PIPE_DUALPIPEV] = p + 1,
                             };
    return most[s->family];
}

static bool equal_costs(const struct sf_pipe_spec *s) {
    return s->f == s->b && s->b == s->w && s->comm == 0;
}

static void check_greedy(const struct drawn *x) {
    const struct sf_pipe_spec *s = &x->spec;
    if (x->t.peak_memory > allowed(s) + 1e-9) {
        fail_msg("%s: peak %.6f M, allowed %.6f", describe(x), x->t.peak_memory, allowed(s));
    }
    if (s->family >= SF_PIPE_DUALPIPE && equal_costs(s)) {
        /* (p / 2 - 1)(F&BW + BW - 3W) of chunks, p counted in stages of one direction */
        uint32_t p = s->family == SF_PIPE_DUALPIPE ? s->devices : 2 * s->devices;
        sf_time_ps chunk = s->family == SF_PIPE_DUALPIPE ? s->f : s->f / 2;
        expect_time(x, "idle", x->t.makespan - x->t.busiest, (p - 2) * chunk);
    }
    if (s->family == SF_PIPE_ZB_1P && equal_costs(s) && s->microbatches <= s->devices) {
        expect_time(x, "makespan", x->t.makespan, 2 * (s->microbatches + s->devices - 1) * s->f + s->w);
    }
    if (s->family == SF_PIPE_ZB_V && equal_costs(s) && s->microbatches >= 2 * s->devices) {
        expect_time(x, "idle", x->t.span - x->t.busiest, 0);
    }
}

static void limits_hold(void **state) {
    struct sf_rng r = sf_rng_seed(20260503);
    struct sf_pipe_scratch *scratch = sf_pipe_scratch_create();
    (void)state;
    for (uint32_t i = 0; i < GREEDY_CASES; i++) {
        struct drawn x;
        draw_greedy(&r, &x);
        make(&x, scratch);
        check_greedy(&x);
        check_bound(&x);
        drop(&x);
    }
    sf_pipe_scratch_free(scratch);
}

/* ---- replay ------------------------------------------------------------------------------------------------------ */

#define SLOW_STAGES 32
#define SLOW_UNITS 64 /* microbatches * slices */

/* Ends of passes by [F, B][stage][microbatch * slices + slice]; 0: not yet, else 1 + time. */
struct slow {
    sf_time_ps done[2][SLOW_STAGES][SLOW_UNITS];
};

static bool slow_inputs(const struct sf_pipe *p, const struct sf_pipe_costs *c, const struct slow *k,
                        const struct sf_pass *x, sf_time_ps *at) {
    uint32_t u = x->microbatch * p->slices + x->slice, chain = p->stages / p->ways;
    sf_time_ps needs[3];
    int n = 0;
    *at = 0;
    if (x->kind == SF_PASS_F || x->kind == SF_PASS_F_PAIR) {
        if (x->stage % chain > 0) {
            needs[n++] = k->done[0][x->stage - 1][u];
            *at = p->device_of[x->stage - 1] == p->device_of[x->stage] ? 0 : c->comm;
        }
        if (x->slice > 0 && k->done[0][x->stage][u - 1] == 0) {
            return false;
        }
    } else if (x->kind == SF_PASS_W) {
        needs[n++] = k->done[1][x->stage][u];
    } else {
        bool last = x->stage % chain == chain - 1;
        if (k->done[0][x->stage][u] == 0 || (x->slice + 1u < p->slices && k->done[1][x->stage][u + 1] == 0)) {
            return false;
        }
        needs[n++] = last ? k->done[0][x->stage][u] : k->done[1][x->stage + 1][u];
        *at = last || p->device_of[x->stage + 1] == p->device_of[x->stage] ? 0 : c->comm;
    }
    if (n == 1 && needs[0] == 0) {
        return false;
    }
    *at = n == 1 ? *at + needs[0] - 1 : 0;
    return true;
}

static sf_time_ps slow_cost(const struct sf_pipe_costs *c, const struct sf_pass *x) {
    const sf_time_ps cost[SF_PASS_KINDS] = {c->f[x->stage], c->b[x->stage], c->w[x->stage],
                                            c->b[x->stage] + c->w[x->stage], c->f[x->stage]};
    return cost[x->kind];
}

/* Sweeps over the devices until nothing moves; the makespan, or -1 when something is stuck. */
static sf_time_ps slow_replay(const struct sf_pipe *p, const struct sf_pipe_costs *c) {
    static struct slow k;
    uint32_t at[8] = {0}, left = 0;
    sf_time_ps free[8] = {0}, last = 0;
    memset(&k, 0, sizeof k);
    for (uint32_t d = 0; d < p->devices; d++) {
        left += p->passes_n[d];
    }
    for (bool moved = true; moved;) {
        moved = false;
        for (uint32_t d = 0; d < p->devices; d++) {
            const struct sf_pass *x = &p->passes[d][at[d]];
            sf_time_ps begin, begin_next = 0, cost = 0;
            bool pair = at[d] < p->passes_n[d] && x->kind == SF_PASS_F_PAIR;
            if (at[d] >= p->passes_n[d] || !slow_inputs(p, c, &k, x, &begin) ||
                (pair && !slow_inputs(p, c, &k, x + 1, &begin_next))) {
                continue;
            }
            begin = begin_next > begin ? begin_next : begin;
            begin = free[d] > begin ? free[d] : begin;
            for (uint32_t i = 0; i <= pair; i++) {
                cost += slow_cost(c, x + i);
            }
            free[d] = begin + cost;
            for (uint32_t i = 0; i <= pair; i++, at[d]++, left--) {
                uint32_t u = x[i].microbatch * p->slices + x[i].slice;
                if (x[i].kind != SF_PASS_W) {
                    k.done[x[i].kind == SF_PASS_B || x[i].kind == SF_PASS_BW][x[i].stage][u] = 1 + free[d];
                }
            }
            last = free[d] > last ? free[d] : last;
            moved = true;
        }
    }
    return left == 0 ? last : -1;
}

/* A pair stays together. */
static void swap_some(struct sf_rng *r, struct sf_pipe *p) {
    for (uint32_t n = pick(r, 0, 6); n > 0; n--) {
        uint32_t d = pick(r, 0, p->devices - 1), i = pick(r, 1, p->passes_n[d] - 1);
        struct sf_pass *row = p->passes[d], x = row[i];
        bool paired = row[i].kind == SF_PASS_F_PAIR || row[i - 1].kind == SF_PASS_F_PAIR ||
                      (i >= 2 && row[i - 2].kind == SF_PASS_F_PAIR);
        if (!paired) {
            row[i] = row[i - 1];
            row[i - 1] = x;
        }
    }
}

static void replays_agree(void **state) {
    struct sf_rng r = sf_rng_seed(20260504);
    struct sf_pipe_scratch *scratch = sf_pipe_scratch_create();
    uint32_t stuck = 0, fine = 0;
    (void)state;
    for (uint32_t i = 0; i < 6000; i++) {
        struct drawn x;
        struct sf_err err = {0};
        do {
            pick(&r, 0, 3) == 0 ? draw_greedy(&r, &x) : draw_fixed(&r, &x);
        } while (x.spec.microbatches * slices(&x.spec) > SLOW_UNITS ||
                 (x.spec.family >= SF_PIPE_ZB_V && x.spec.family <= SF_PIPE_1F1B_V));
        make(&x, scratch);
        swap_some(&r, x.pipe);
        sf_time_ps expected = slow_replay(x.pipe, &x.costs);
        int rc = sf_pipe_replay_with(scratch, x.pipe, &x.costs, &x.t, NULL, NULL, &err);
        assert_int_equal(rc, expected < 0 ? SF_E_INPUT : 0);
        if (rc == 0) {
            expect_time(&x, "makespan", x.t.makespan, expected);
        }
        fine += rc == 0;
        stuck += rc != 0;
        drop(&x);
    }
    assert_true(fine > 1000 && stuck > 1000);
    sf_pipe_scratch_free(scratch);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(closed_forms),
        cmocka_unit_test(limits_hold),
        cmocka_unit_test(replays_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
