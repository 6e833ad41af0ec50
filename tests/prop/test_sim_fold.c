/* Folding is exact: on random meshes, placements and programs the folded run gives every rank the times that the
 * unfolded run gives it, and both agree on everything else they report. */
#include "../unit/test_sim_random.h"

static void expect_same(const struct pipe *p, const struct sf_sim_result *a, const struct sf_sim_result *b) {
    char text[256];
    describe(p, text, sizeof text);
    bool same = sf_hash_equal(a->digest, b->digest) && a->step_time == b->step_time && a->grade == b->grade &&
                a->peak_memory_bytes == b->peak_memory_bytes && a->bubble_span == b->bubble_span &&
                memcmp(&a->breakdown, &b->breakdown, sizeof a->breakdown) == 0;
    if (!same || a->instances > b->instances) {
        fail_msg("%s: folded %lld ps in %llu instances, unfolded %lld ps in %llu", text, (long long)a->step_time,
                 (unsigned long long)a->instances, (long long)b->step_time, (unsigned long long)b->instances);
    }
    double gap = a->busy_s - b->busy_s;
    assert_true(gap < 1e-9 * b->busy_s + 1e-15 && gap > -1e-9 * b->busy_s - 1e-15);
    assert_int_equal(breakdown_sum(&a->breakdown), a->step_time);
}

static void test_folded_equals_unfolded_on_gpus(void **state) {
    (void)state;
    struct sf_rng rng = sf_rng_seed(5);
    uint64_t saved = 0, slowed = 0;
    for (int i = 0; i < 400; i++) {
        struct pipe p;
        struct toy t = {0};
        struct sf_sim_result folded, unfolded;
        random_pipe(&rng, &p);
        enlarge(&p);
        open_gpus(&t, &p);
        struct sf_prog *prog = pipe_build(&p);
        must_run(prog, &t, &(struct sf_sim_options){.audit = true}, &folded);
        must_run(prog, &t, &(struct sf_sim_options){.unfolded = true, .audit = true, .threads = i % 2 ? 1 : 2},
                 &unfolded);
        expect_same(&p, &folded, &unfolded);
        if (unfolded.violations > 0 || folded.violations > 0) {
            fail_msg("%s%s", folded.violation, unfolded.violation);
        }
        saved += folded.instances < unfolded.instances;
        slowed += unfolded.slowed_s > 0.0;
        sf_prog_free(prog);
        toy_close(&t);
    }
    assert_true(saved > 100 && slowed > 100);
}

static void test_folded_equals_unfolded(void **state) {
    (void)state;
    struct sf_rng rng = sf_rng_seed(20240607);
    uint64_t saved = 0, straddling = 0, contended = 0;
    for (int i = 0; i < 600; i++) {
        struct pipe p;
        struct toy t = {0};
        struct sf_sim_result folded, unfolded;
        random_pipe(&rng, &p);
        open_for(&t, &p, chance(&rng, 50) ? "transport: { dispatch: 130ns }\n" : NULL);
        struct sf_prog *prog = pipe_build(&p);
        must_run(prog, &t, &(struct sf_sim_options){.unfolded = false}, &folded);
        must_run(prog, &t, &(struct sf_sim_options){.unfolded = true}, &unfolded);
        expect_same(&p, &folded, &unfolded);
        assert_int_equal(unfolded.instances, p.tp * p.ep * p.dp * p.pp);
        saved += folded.instances < unfolded.instances;
        straddling += p.per_domain % p.tp != 0 && p.tp > 1;
        contended += p.ring != 0 && p.cross != 0;
        sf_prog_free(prog);
        toy_close(&t);
    }
    assert_true(saved > 200 && straddling > 100 && contended > 30); /* the programs were worth running */
}

/* Jitter and slow parts split ranks, and what still folds has the times it has unfolded, on any number of threads. */
static void test_folded_equals_unfolded_with_noise(void **state) {
    (void)state;
    struct sf_rng rng = sf_rng_seed(8);
    uint64_t saved = 0;
    for (uint32_t i = 0; i < 200; i++) {
        struct pipe p;
        struct toy t = {0};
        struct sf_sim_result folded, unfolded;
        random_pipe(&rng, &p);
        open_for(&t, &p, chance(&rng, 50) ? "transport: { dispatch: 130ns }\n" : NULL);
        struct sf_prog *prog = pipe_build(&p);
        const struct sf_slow slow[] = {{.kind = SF_SLOW_GPU, .share = 0.2, .pace = 0.7},
                                       {.kind = SF_SLOW_NIC, .gpu = 0, .pace = 0.5},
                                       {.kind = SF_SLOW_NVLINK, .share = 0.1, .pace = 0.4}};
        struct sf_sim_options o = {.seed = i, .slow = slow, .slow_n = i % 4, .threads = 1 + i % 3};
        o.jitter = i % 3 ? 0.05 : 0.0;
        o.jitter_kind = i % 2 ? SF_JITTER_NORMAL : SF_JITTER_LOGNORMAL;
        must_run(prog, &t, &o, &folded);
        o.unfolded = true;
        o.threads = 1;
        must_run(prog, &t, &o, &unfolded);
        expect_same(&p, &folded, &unfolded);
        saved += folded.instances < unfolded.instances;
        sf_prog_free(prog);
        toy_close(&t);
    }
    assert_true(saved > 50);
}

/* Every rank's ops, not only their digest: each rank has the times of the colour it folded into. */
static void test_traces_agree(void **state) {
    (void)state;
    struct sf_rng rng = sf_rng_seed(99);
    for (int i = 0; i < 30; i++) {
        struct pipe p;
        struct toy t = {0};
        struct sf_sim_result r;
        struct sf_trace folded, unfolded;
        size_t f = 0;
        sf_trace_init(&folded);
        sf_trace_init(&unfolded);
        random_pipe(&rng, &p);
        open_for(&t, &p, NULL);
        struct sf_prog *prog = pipe_build(&p);
        must_run(prog, &t, &(struct sf_sim_options){.trace = &folded}, &r);
        must_run(prog, &t, &(struct sf_sim_options){.unfolded = true, .trace = &unfolded, .trace_ranks = UINT32_MAX},
                 &r);
        for (size_t u = 0; u < unfolded.recs_n && f < folded.recs_n; u++) {
            if (unfolded.recs[u].rank == folded.recs[f].rank) {
                assert_memory_equal(&unfolded.recs[u], &folded.recs[f], sizeof folded.recs[f]);
                f++;
            }
        }
        assert_int_equal(f, folded.recs_n);
        assert_int_equal(unfolded.recs_n, r.events);
        sf_trace_clear(&folded);
        sf_trace_clear(&unfolded);
        sf_prog_free(prog);
        toy_close(&t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_folded_equals_unfolded),
        cmocka_unit_test(test_folded_equals_unfolded_on_gpus),
        cmocka_unit_test(test_folded_equals_unfolded_with_noise),
        cmocka_unit_test(test_traces_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
