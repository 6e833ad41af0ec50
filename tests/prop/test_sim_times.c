/* Times of collectives by NCCL's own model: folded equals unfolded, nothing that the checkers know is broken, and what
 * would mean nothing with them is refused. */
#include "../unit/test_sim_random.h"

static void take_times(struct toy *t, const char *word) {
    struct sf_err err = {0};
    sf_cost_free(t->cost);
    t->cost = NULL;
    must(sf_topo_set_times(t->topo, word, &err), &err);
    must(sf_cost_create(t->topo, &t->io, NULL, &t->cost, &err), &err);
}

static void test_folded_equals_unfolded(void **state) {
    (void)state;
    struct sf_rng rng = sf_rng_seed(230);
    uint64_t saved = 0, moved = 0;
    for (int i = 0; i < 150; i++) {
        struct pipe p;
        struct toy t = {0};
        struct sf_sim_result steps, folded, unfolded;
        char what[256];
        random_pipe(&rng, &p);
        enlarge(&p);
        open_gpus(&t, &p);
        struct sf_prog *prog = pipe_build(&p);
        must_run(prog, &t, &(struct sf_sim_options){.unfolded = false}, &steps);
        struct sf_hash before = sf_cost_hash(t.cost);
        take_times(&t, "nccl");
        assert_false(sf_hash_equal(before, sf_cost_hash(t.cost)));
        must_run(prog, &t, &(struct sf_sim_options){.audit = true}, &folded);
        must_run(prog, &t, &(struct sf_sim_options){.unfolded = true, .audit = true, .threads = 2}, &unfolded);
        describe(&p, what, sizeof what);
        if (!sf_hash_equal(folded.digest, unfolded.digest) || folded.violations + unfolded.violations > 0) {
            fail_msg("%s: folded %lld, unfolded %lld %s%s", what, (long long)folded.step_time,
                     (long long)unfolded.step_time, folded.violation, unfolded.violation);
        }
        saved += folded.instances < unfolded.instances;
        moved += folded.step_time != steps.step_time;
        sf_prog_free(prog);
        toy_close(&t);
    }
    assert_true(saved > 30 && moved > 50);
}

static void test_what_has_no_steps_is_not_expanded(void **state) {
    (void)state;
    struct pipe p = {.tp = 1, .ep = 1, .dp = 4, .pp = 1, .microbatches = 1, .domain_gpus = 4, .per_domain = 4};
    struct toy t = {0};
    struct sf_sim_result r;
    struct sf_err err = {0};
    p.f_ns[0] = p.b_ns[0] = 1000;
    p.act_bytes = 64;
    p.grad_bytes = 4096;
    open_gpus(&t, &p);
    struct sf_prog *prog = pipe_build(&p);
    take_times(&t, "nccl");
    assert_int_equal(sf_sim_run(prog, t.cost, &(struct sf_sim_options){.expand = true}, &r, &err), SF_E_USAGE);
    assert_non_null(strstr(err.msg, "have no steps"));
    take_times(&t, "steps");
    must_run(prog, &t, &(struct sf_sim_options){.expand = true}, &r);
    sf_prog_free(prog);
    toy_close(&t);
}

static void test_devices_without_a_model_refuse(void **state) {
    (void)state;
    struct toy t = {0};
    struct sf_err err = {0};
    toy_open(&t, 1, 4, 1, NULL);
    assert_int_equal(sf_topo_set_times(t.topo, "nccl", &err), SF_E_USAGE);
    assert_non_null(strstr(err.msg, "no collective model"));
    toy_close(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_folded_equals_unfolded),
        cmocka_unit_test(test_what_has_no_steps_is_not_expanded),
        cmocka_unit_test(test_devices_without_a_model_refuse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
