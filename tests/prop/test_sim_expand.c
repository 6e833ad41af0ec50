/* Collectives chunk by chunk against their closed forms, over random shapes, sizes, algorithms and protocols: equal
 * members agree within 1 %, late members and slow links stay between bounds, and nothing gets faster by waiting. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/rng.h"
#include "sim/expand.h"

enum { MEMBERS = 400, SHAPES = 120 };

static const char *const clusters[] = {"gb300-nvl72-220k", "hgx-h100-64-sharp", "hgx-a100-3072"};
enum { CLUSTERS_N = sizeof clusters / sizeof *clusters };

struct world {
    struct sf_topo *topo[CLUSTERS_N];
    struct sf_coll *coll[CLUSTERS_N];
    struct sfi_expand *x;
    struct sf_rng rng;
    uint32_t domain[MEMBERS];
    sf_time_ps arrive[MEMBERS], end[MEMBERS], other[MEMBERS];
    double up[MEMBERS], out[MEMBERS];
};

struct trial { /* a shape, what runs on it, and its closed form */
    struct sfi_expand_ask ask;
    double closed_s;
};

static int open_world(void **state) {
    struct world *w = calloc(1, sizeof *w);
    struct sf_err err = {0};
    char path[512];
    assert_non_null(w);
    for (int i = 0; i < CLUSTERS_N; i++) {
        snprintf(path, sizeof path, SF_SOURCE_DIR "/scenarios/clusters/%s.yaml", clusters[i]);
        if (sf_topo_load(&sf_io_posix, path, SF_CATALOG_DIR, &w->topo[i], &err) ||
            sf_coll_create(w->topo[i], &sf_io_posix, &w->coll[i], &err)) {
            fail_msg("%s: %s", err.file, err.msg);
        }
    }
    w->x = sfi_expand_create();
    w->rng = sf_rng_seed(11);
    *state = w;
    return w->x ? 0 : -1;
}

static int close_world(void **state) {
    struct world *w = *state;
    for (int i = 0; i < CLUSTERS_N; i++) {
        sf_coll_free(w->coll[i]);
        sf_topo_free(w->topo[i]);
    }
    sfi_expand_free(w->x);
    free(w);
    return 0;
}

static uint32_t below(struct world *w, uint32_t n) {
    return (uint32_t)(sf_rng_u64(&w->rng) % n);
}

/* Even domains, so that the closed form's emptiest domain is every domain. */
static bool draw(struct world *w, struct trial *t) {
    uint32_t at = below(w, CLUSTERS_N), gpus = sf_topo_domain_gpus(w->topo[at]);
    uint32_t local = 1 + below(w, below(w, 2) ? gpus
                                  : gpus < 4  ? gpus
                                              : 4),
             domains = 1 + below(w, below(w, 2) ? 3 : 40);
    while (domains > 1 && (local * domains > MEMBERS || local * domains > sf_topo_gpus(w->topo[at]))) {
        domains /= 2;
    }
    uint32_t n = local * domains, kind = domains > 1 ? SF_ROUTE_LEAF + below(w, 2) : SF_ROUTE_DOMAIN;
    struct sf_coll_query q = {(enum sf_coll_op)below(w, SF_COLL_BROADCAST),
                              0,
                              {.members = n, .domains = domains, .min_per_domain = local, .kind = kind}};
    q.bytes = (UINT64_C(1) << (9 + below(w, 22))) + below(w, 500);
    struct sf_coll_choice can[SF_COLL_CANDIDATES];
    size_t can_n = n > 1 ? sf_coll_candidates(w->coll[at], &q, can) : 0;
    if (can_n == 0) {
        return false;
    }
    const struct sf_coll_choice *c = &can[below(w, (uint32_t)can_n)];
    for (uint32_t i = 0; i < n; i++) {
        w->domain[i] = i / local;
        w->arrive[i] = 12345;
        w->up[i] = w->out[i] = 1;
    }
    *t = (struct trial){{w->coll[at], q, c->algorithm, c->protocol, w->domain, w->arrive, NULL, NULL}, c->time_s};
    return true;
}

static void run(struct world *w, const struct trial *t, sf_time_ps *end) {
    struct sf_err err = {0};
    if (sfi_expand_run(w->x, &t->ask, UINT64_MAX, end, &err)) {
        fail_msg("%s", err.msg);
    }
}

static sf_time_ps last_of(const struct trial *t, const sf_time_ps *end) {
    sf_time_ps last = 0;
    for (uint32_t i = 0; i < t->ask.query.span.members; i++) {
        last = end[i] > last ? end[i] : last;
    }
    return last;
}

static void explain(const struct trial *t, const char *what, double found, double from, double to) {
    const struct sf_coll_query *q = &t->ask.query;
    fail_msg("%s: %s %s/%s over %u in %u domains, %llu bytes: %.9g, expected %.9g to %.9g", what,
             sf_coll_op_name((int)q->op), sf_coll_algorithm_name((int)t->ask.algorithm),
             sf_coll_protocol_name((int)t->ask.protocol), q->span.members, q->span.domains,
             (unsigned long long)q->bytes, found, from, to);
}

static void expect_between(const struct trial *t, const char *what, double found, double from, double to) {
    if (!(found >= from && found <= to)) {
        explain(t, what, found, from, to);
    }
}

static void test_equal_members_take_the_closed_form(void **state) {
    struct world *w = *state;
    uint32_t seen[SF_COLL_ALGORITHMS_N] = {0};
    for (int i = 0; i < 10 * SHAPES; i++) {
        struct trial t;
        if (draw(w, &t)) {
            run(w, &t, w->end);
            double s = sf_ps_to_s(last_of(&t, w->end) - 12345);
            expect_between(&t, "equal members", s, 0.99 * t.closed_s, 1.01 * t.closed_s);
            seen[t.ask.algorithm]++;
        }
    }
    for (int a = 0; a < SF_COLL_ALGORITHMS_N; a++) {
        assert_true(seen[a] > 0);
    }
}

/* Nobody is done before the late member has come; the rest must not take longer than all of it from then on. */
static void test_late_member(void **state) {
    struct world *w = *state;
    for (int i = 0; i < 3 * SHAPES; i++) {
        struct trial t;
        if (draw(w, &t)) {
            uint32_t n = t.ask.query.span.members, who = below(w, n);
            double late_s = t.closed_s * 3 * sf_rng_unit(&w->rng);
            w->arrive[who] += sf_s_to_ps(late_s);
            run(w, &t, w->end);
            double s = sf_ps_to_s(last_of(&t, w->end) - 12345);
            double least = late_s > t.closed_s ? late_s : t.closed_s;
            double room = t.ask.algorithm == SF_COLL_DIRECT ? 1.1 : 1.01; /* messages get in each other's way */
            expect_between(&t, "late member", s, 0.99 * least, room * (late_s + t.closed_s));
            for (uint32_t m = 0; m < n && t.ask.query.op != SF_COLL_ALL_TO_ALL; m++) {
                assert_true(w->end[m] > w->arrive[who]);
            }
        }
    }
}

/* One NIC and its GPU's link at half rate: no faster than without, no slower than with all of them like that. */
static void test_slow_member(void **state) {
    struct world *w = *state;
    uint32_t felt = 0;
    for (int i = 0; i < 3 * SHAPES; i++) {
        struct trial t;
        if (draw(w, &t)) {
            uint32_t n = t.ask.query.span.members, who = below(w, n);
            w->up[who] = w->out[who] = 0.5;
            t.ask.up = w->up;
            t.ask.out = w->out;
            run(w, &t, w->end);
            double s = sf_ps_to_s(last_of(&t, w->end) - 12345);
            expect_between(&t, "slow member", s, 0.99 * t.closed_s, 2.02 * t.closed_s);
            felt += s > 1.3 * t.closed_s;
        }
    }
    assert_true(felt > SHAPES / 4);
}

/* Who comes later or has a slower link helps nobody. Ports of an all_to_all are taken in order of arrival, so there it
 * may help somebody else. */
static void test_monotone(void **state) {
    struct world *w = *state;
    for (int i = 0; i < 2 * SHAPES; i++) {
        struct trial t;
        if (draw(w, &t) && t.ask.query.op != SF_COLL_ALL_TO_ALL) {
            uint32_t n = t.ask.query.span.members, who = below(w, n);
            t.ask.up = w->up;
            t.ask.out = w->out;
            for (uint32_t m = 0; m < n; m++) {
                w->arrive[m] += sf_s_to_ps(t.closed_s * sf_rng_unit(&w->rng));
                w->up[m] = 0.5 + 0.5 * sf_rng_unit(&w->rng);
                w->out[m] = 0.5 + 0.5 * sf_rng_unit(&w->rng);
            }
            run(w, &t, w->end);
            w->arrive[who] += sf_s_to_ps(t.closed_s * sf_rng_unit(&w->rng));
            w->up[below(w, n)] *= 0.9;
            w->out[below(w, n)] *= 0.9;
            run(w, &t, w->other);
            for (uint32_t m = 0; m < n; m++) {
                expect_between(&t, "monotone", (double)w->other[m], (double)w->end[m], HUGE_VAL);
            }
        }
    }
}

/* Only differences of arrivals matter, and asking again gives the same. */
static void test_shift(void **state) {
    struct world *w = *state;
    const sf_time_ps day = 86400 * SF_PS_PER_S;
    for (int i = 0; i < SHAPES; i++) {
        struct trial t;
        if (draw(w, &t)) {
            uint32_t n = t.ask.query.span.members;
            for (uint32_t m = 0; m < n; m++) {
                w->arrive[m] += sf_s_to_ps(t.closed_s * sf_rng_unit(&w->rng));
            }
            run(w, &t, w->end);
            for (uint32_t m = 0; m < n; m++) {
                w->arrive[m] += day;
            }
            run(w, &t, w->other);
            for (uint32_t m = 0; m < n; m++) {
                assert_true(w->other[m] == w->end[m] + day);
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_members_take_the_closed_form),
        cmocka_unit_test(test_late_member),
        cmocka_unit_test(test_slow_member),
        cmocka_unit_test(test_monotone),
        cmocka_unit_test(test_shift),
    };
    return cmocka_run_group_tests(tests, open_world, close_world);
}
