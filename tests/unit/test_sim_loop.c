/* What the event loop must not do, and what it must not let show. */
#include "test_sim_fixture.h"

#include "core/arena.h"

enum { STAGES = 4, REPLICAS = 160 };

/* A cell for each replica; they meet in the reductions of every stage, and perhaps once all together. Later stages have
 * seen their last transfer long before earlier ones. */
static struct sf_prog *replicas(bool everyone, struct toy *t) {
    struct pipe p = {.tp = 1, .ep = 1, .dp = REPLICAS, .pp = STAGES, .microbatches = 8, .act_bytes = 1200};
    p.per_domain = p.domain_gpus = STAGES * REPLICAS;
    p.grad_bytes = REPLICAS * 64;
    p.everyone = everyone;
    for (uint32_t s = 0; s < STAGES; s++) {
        p.f_ns[s] = 900 + 100 * s;
        p.b_ns[s] = 2000;
    }
    toy_open(t, 1, STAGES * REPLICAS, 1, NULL);
    return pipe_build(&p);
}

struct guard {
    bool armed;
    double from; /* how far it had got when it was armed */
};

/* From the first word of the loop to its last, whoever allocates fails. */
static void watch(void *self, double fraction) {
    struct guard *g = self;
    if (!g->armed) {
        g->armed = true;
        g->from = fraction;
        sf_alloc_fail_after(1);
    }
    if (fraction >= 1.0) {
        sf_alloc_fail_after(0);
    }
}

static void run_guarded(const struct toy *t, const struct sf_prog *prog, bool unfolded, bool audit) {
    struct guard g = {0};
    struct sf_err err = {0};
    struct sf_sim_result r;
    const struct sf_sim_options o = {
        .seed = 5, .unfolded = unfolded, .audit = audit, .threads = 1, .progress = watch, .progress_self = &g};
    int rc = sf_sim_run(prog, t->cost, &o, &r, &err);
    sf_alloc_fail_after(0);
    assert_string_equal(err.msg, "");
    assert_int_equal(rc, SF_OK);
    assert_true(g.armed);
    assert_true(!unfolded || g.from < 0.5);
    assert_true(r.violations == 0);
}

static void test_the_loop_allocates_nothing(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        struct toy t = {0};
        struct sf_prog *prog = replicas(i == 1, &t);
        run_guarded(&t, prog, true, false);
        run_guarded(&t, prog, true, true);
        run_guarded(&t, prog, false, false);
        sf_prog_free(prog);
        toy_close(&t);
    }
}

static struct sf_sim_result run(const struct toy *t, const struct sf_prog *prog, const struct sf_sim_options *o) {
    struct sf_err err = {0};
    struct sf_sim_result r;
    int rc = sf_sim_run(prog, t->cost, o, &r, &err);
    assert_string_equal(err.msg, "");
    assert_int_equal(rc, SF_OK);
    return r;
}

/* Ranks leave their cells one by one, whoever visits them; nothing of that shows. */
static void test_who_leaves_when_does_not_show(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 4; i++) {
        struct toy t = {0};
        struct sf_prog *prog = replicas(i % 2, &t);
        struct sf_sim_options o = {.seed = 3 + i, .unfolded = true, .threads = 1, .jitter = i < 2 ? 0.3 : 0.0};
        const struct sf_sim_result one = run(&t, prog, &o);
        for (o.threads = 2; o.threads <= 4; o.threads++) {
            const struct sf_sim_result more = run(&t, prog, &o);
            assert_memory_equal(&more.digest, &one.digest, sizeof one.digest);
        }
        o.audit = true;
        const struct sf_sim_result audited = run(&t, prog, &o);
        o.audit = o.unfolded = false;
        const struct sf_sim_result folded = run(&t, prog, &o);
        assert_memory_equal(&audited.digest, &one.digest, sizeof one.digest);
        assert_memory_equal(&folded.digest, &one.digest, sizeof one.digest);
        assert_true(audited.audited > 0 && audited.violations == 0);
        sf_prog_free(prog);
        toy_close(&t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_loop_allocates_nothing),
        cmocka_unit_test(test_who_leaves_when_does_not_show),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
