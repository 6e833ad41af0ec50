/* 10,000 plans with wrong turns in them: each is refused with a reason, or trains exactly what the plan it came from
 * trains. The loss of the second step shows it: it depends on every gradient and every updated weight. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/rng.h"

enum { MUTANTS = 10000, STEPS = 2, RANKS = 4, BATCH = 8, SEEN = 4096 };

#include "tests/diff/train.h"

static int setup(void **state) {
    (void)state;
    int rc = load_job();
    job.job.gpus = RANKS;
    return rc;
}

static void spread(struct sf_plan *p) {
    uint32_t n = p->pp * p->vpp;
    for (uint32_t i = 0; i < n && n <= SF_MAX_STAGES; i++) {
        p->layers[i] = (i + 1) * job.model.layers / n - i * job.model.layers / n;
    }
}

static uint32_t pick(struct sf_rng *rng, uint32_t n) {
    return (uint32_t)(sf_rng_u64(rng) % n);
}

static struct sf_plan sound_plan(struct sf_rng *rng) {
    static const uint32_t degrees[][3] = {{1, 1, 4}, {1, 2, 2}, {1, 4, 1}, {2, 1, 2}, {2, 2, 1}}; /* tp dp pp */
    const uint32_t *d = degrees[pick(rng, sizeof degrees / sizeof *degrees)];
    struct sf_plan p = {.tp = d[0], .ep = 1, .cp = 1, .dp = d[1], .pp = d[2], .vpp = 1, .micro_batch = 1};
    p.microbatches = BATCH / p.dp;
    p.schedule = SF_SCHEDULE_1F1B;
    p.ranks_per_domain = sf_topo_domain_gpus(cluster);
    spread(&p);
    return p;
}

/* A small number, one next to what is there, or something absurd. */
static uint32_t other_number(struct sf_rng *rng, uint32_t now) {
    static const uint32_t absurd[] = {0, UINT32_MAX, 1u << 31, 65536, 1025};
    switch (pick(rng, 4)) {
    case 0:
        return now + 1;
    case 1:
        return absurd[pick(rng, 5)];
    default:
        return 1u << pick(rng, 4);
    }
}

static void move_a_layer(struct sf_rng *rng, struct sf_plan *p) {
    uint32_t n = p->pp * p->vpp, from = pick(rng, 8), to = pick(rng, 8);
    if (from < n && p->layers[from] > 0) {
        p->layers[from]--;
        p->layers[to]++; /* perhaps one that is not there */
    }
}

static void some_again(struct sf_rng *rng, struct sf_plan *p) {
    for (uint32_t v = 0; v < SF_MAX_STAGES; v++) {
        p->recompute_layers[v] = pick(rng, p->layers[v] + (v % 4 == 3 ? 2 : 1));
    }
}

static void mutate(struct sf_rng *rng, struct sf_plan *p) {
    uint32_t *numbers[] = {&p->tp, &p->ep,          &p->cp,           &p->dp,
                           &p->pp, &p->micro_batch, &p->microbatches, &p->ranks_per_domain};
    switch (pick(rng, 11)) {
    case 0: {
        uint32_t *number = numbers[pick(rng, sizeof numbers / sizeof *numbers)];
        *number = other_number(rng, *number);
        break;
    }
    case 1:
        p->schedule = (int)pick(rng, SF_SCHEDULES_N + 1);
        break;
    case 2:
        p->recompute = (int)pick(rng, SF_RECOMPUTES_N + 1);
        break;
    case 3:
        p->zero = pick(rng, 5);
        break;
    case 4:
        p->vpp = 1u << pick(rng, 3);
        spread(p);
        break;
    case 5:
        move_a_layer(rng, p);
        break;
    case 6:
        p->whole_rows = !p->whole_rows;
        break;
    case 7:
        p->offload = pick(rng, 4);
        break;
    case 8:
        p->zero_group = pick(rng, 5);
        p->zero = 1 + pick(rng, 2);
        break;
    case 9:
        p->recompute = (int)pick(rng, SF_RECOMPUTES_N);
        p->recompute_rest = pick(rng, 3) > 0 ? SF_RECOMPUTE_NONE : (int)pick(rng, SF_RECOMPUTES_N + 1);
        p->partly = true;
        some_again(rng, p);
        break;
    default:
        p->micro_batch *= 2;
        p->microbatches /= 2;
        break;
    }
}

static bool is_new(struct sf_hash *seen, uint32_t *seen_n, struct sf_hash hash) {
    for (uint32_t i = 0; i < *seen_n; i++) {
        if (sf_hash_equal(seen[i], hash)) {
            return false;
        }
    }
    if (*seen_n < SEEN) {
        seen[(*seen_n)++] = hash;
    }
    return true;
}

static void trains_the_same(struct sf_prog *prog, const double expected[STEPS]) {
    double loss[STEPS] = {0};
    struct sf_err err = {0};
    if (run_program(prog, loss, &err) != 0) {
        fail_msg("%s was accepted and does not run: %s", prog->title, err.msg);
    }
    for (int i = 0; i < STEPS; i++) {
        if (!(fabs(loss[i] - expected[i]) <= 1e-5 * expected[i])) {
            fail_msg("%s: loss %d is %.9g, expected %.9g", prog->title, i, loss[i], expected[i]);
        }
    }
}

static void learn_expected(double out[STEPS]) {
    struct sf_rng rng = sf_rng_seed(0);
    struct sf_plan p = sound_plan(&rng);
    struct sf_err err = {0};
    if (train_plan(&p, out, &err) != 0) {
        fail_msg("%s", err.msg);
    }
}

static void test_mutants_are_refused_or_equivalent(void **state) {
    (void)state;
    static struct sf_hash seen[SEEN];
    uint32_t seen_n = 0, accepted = 0, refused = 0;
    double expected[STEPS];
    struct sf_rng rng = sf_rng_seed(2026);
    learn_expected(expected);
    for (int i = 0; i < MUTANTS; i++) {
        struct sf_plan p = sound_plan(&rng);
        for (uint32_t n = 1 + pick(&rng, 3); n > 0; n--) {
            mutate(&rng, &p);
        }
        struct sf_prog *prog = NULL;
        struct sf_err err = {0};
        int rc = sf_compile(&job, &p, &prog, &err);
        if (rc != 0) {
            assert_true((rc == SF_E_INPUT || rc == SF_E_NOPLAN) && err.msg[0] != '\0' && prog == NULL);
            refused++;
            continue;
        }
        accepted++;
        if (is_new(seen, &seen_n, sf_prog_hash(prog))) {
            trains_the_same(prog, expected);
        }
        sf_prog_free(prog);
    }
    print_message("%u refused, %u accepted, %u different programs trained\n", refused, accepted, seen_n);
    assert_true(refused > MUTANTS / 5 && accepted > MUTANTS / 5 && seen_n > 100);
}

/* Where sums have one order, what waits on the host, who shares the optimizer and where ranks sit changes no bit. */
static void test_canonical_bits(void **state) {
    (void)state;
    static const uint32_t cases[][5] = {/* zero zero_group offload pp order */
                                        {0, 0, 0, 1, 0},
                                        {1, 0, 0, 1, 0},
                                        {1, 2, 0, 1, 0},
                                        {0, 0, 8, 1, 0},
                                        {1, 2, 5, 1, 0},
                                        {0, 0, 3, 2, 0},
                                        {0, 0, 4, 4, 0},
                                        {0, 0, 0, 2, SF_ORDER_PP_MIDDLE},
                                        {1, 0, 0, 2, SF_ORDER_PP_FIRST}};
    double expected[STEPS] = {0};
    job.job.canonical = true;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct sf_plan p = {.tp = 1, .ep = 1, .pp = cases[i][3], .dp = RANKS / cases[i][3], .vpp = 1, .micro_batch = 1};
        p.microbatches = BATCH / p.dp;
        p.canonical = true;
        p.order = (int)cases[i][4];
        p.zero = cases[i][0];
        p.zero_group = cases[i][1];
        p.schedule = SF_SCHEDULE_1F1B;
        p.ranks_per_domain = sf_topo_domain_gpus(cluster);
        spread(&p);
        p.offload = cases[i][2] < p.layers[0] ? cases[i][2] : p.layers[0];
        double loss[STEPS] = {0};
        struct sf_err err = {0};
        if (train_plan(&p, loss, &err) != 0) {
            fail_msg("case %zu: %s", i, err.msg);
        }
        for (int k = 0; k < STEPS; k++) {
            expected[k] = i == 0 ? loss[k] : expected[k];
            assert_true(loss[k] == expected[k]);
        }
    }
    job.job.canonical = false;
}

static bool trains(const struct sf_plan *p, double loss[STEPS]) {
    struct sf_err err = {0};
    int rc = train_plan(p, loss, &err);
    if (rc != 0 && rc != SF_E_INPUT) {
        fail_msg("%s, %u of %u and %u of %u again: %s", sf_schedule_name(p->schedule), p->recompute_layers[0],
                 p->layers[0], p->recompute_layers[1], p->layers[1], err.msg);
    }
    return rc == 0;
}

/* Whatever is made again, in any order of passes, whole or split, on the host or shared: no bit changes. */
static void test_recompute_keeps_every_bit(void **state) {
    (void)state;
    struct sf_rng rng = sf_rng_seed(7);
    uint32_t trained = 0, split = 0;
    for (int schedule = 0; schedule < SF_SCHEDULE_TABLE; schedule++) {
        for (int i = 0; i < 12; i++) {
            struct sf_plan p = {.tp = i % 3 == 2 ? 2 : 1, .ep = 1, .pp = 2, .vpp = 1, .micro_batch = 1};
            double expected[STEPS] = {0}, loss[STEPS] = {0};
            p.vpp = schedule == SF_SCHEDULE_INTERLEAVED || schedule >= SF_SCHEDULE_ZB_V ? 2 : 1;
            p.dp = RANKS / p.tp / p.pp;
            p.microbatches = BATCH / p.dp;
            p.schedule = schedule;
            p.ranks_per_domain = sf_topo_domain_gpus(cluster);
            p.zero = pick(&rng, 3);
            p.slices = i % 4 == 1 ? 2 : 1;
            spread(&p);
            p.offload = i % 4 == 2 ? pick(&rng, p.layers[0] + 1) : 0;
            if (!trains(&p, expected)) {
                continue;
            }
            p.recompute = pick(&rng, 3) > 0 ? SF_RECOMPUTE_FULL : SF_RECOMPUTE_SELECTIVE;
            p.recompute_rest = p.recompute == SF_RECOMPUTE_FULL && i % 3 == 0 ? SF_RECOMPUTE_SELECTIVE : 0;
            p.partly = true;
            for (uint32_t v = 0; v < p.pp * p.vpp; v++) {
                p.recompute_layers[v] = pick(&rng, p.layers[v] + 1);
            }
            if (trains(&p, loss)) {
                trained++;
                split += schedule == SF_SCHEDULE_ZB_H1 || schedule == SF_SCHEDULE_ZB_H2;
                for (int k = 0; k < STEPS; k++) {
                    if (!(loss[k] == expected[k])) {
                        fail_msg("%s: loss %.17g, expected %.17g: %u of %u and %u of %u again",
                                 sf_schedule_name(schedule), loss[k], expected[k], p.recompute_layers[0], p.layers[0],
                                 p.recompute_layers[1], p.layers[1]);
                    }
                }
            }
        }
    }
    print_message("%u programs that make some layers again, %u of them with split backwards\n", trained, split);
    assert_true(trained > 40 && split > 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_canonical_bits),
                                       cmocka_unit_test(test_recompute_keeps_every_bit),
                                       cmocka_unit_test(test_mutants_are_refused_or_equivalent)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
