/* How far a program folds, where the number of colours can be counted by hand. */
#include "test_sim_fixture.h"

static uint64_t colours(struct pipe *p, uint32_t domains, uint32_t rails) {
    struct toy t = {0};
    struct sf_sim_result r;
    toy_open(&t, domains, p->domain_gpus, rails, NULL);
    struct sf_prog *prog = pipe_build(p);
    must_run(prog, &t, NULL, &r);
    sf_prog_free(prog);
    toy_close(&t);
    return r.instances;
}

static struct pipe mesh(uint32_t tp, uint32_t dp, uint32_t pp, uint32_t domain) {
    struct pipe p = {.tp = tp, .ep = 1, .dp = dp, .pp = pp, .microbatches = 2, .act_bytes = 640};
    p.per_domain = p.domain_gpus = domain;
    for (uint32_t s = 0; s < pp; s++) {
        p.f_ns[s] = 100;
        p.b_ns[s] = 200;
    }
    return p;
}

/* Replicas that lie the same way are one colour per stage. */
static void test_a_regular_placement(void **state) {
    (void)state;
    struct pipe p = mesh(4, 8, 3, 8);
    p.tp_bytes = 64;
    p.grad_bytes = 640;
    assert_int_equal(colours(&p, 12, 2), 3);
}

/* Stages of two ranks on domains of three: 01|2 3|45: stage 1 lies across, so every rank has a route of its own kind:
 * 0->2 inside, 1->3 across, 2->4 across, 3->5 inside. */
static void test_stages_across_domains(void **state) {
    (void)state;
    struct pipe p = mesh(2, 1, 3, 3);
    assert_int_equal(colours(&p, 2, 3), 6);
    p.per_domain = 2; /* one seat of each domain left empty: every hop is across */
    assert_int_equal(colours(&p, 3, 3), 3);
}

/* tp groups of four on domains of six: inside, across, inside, again and again; the reduction over dp joins all three,
 * but only where groups lie matters: those inside and those across. */
static void test_groups_across_domains(void **state) {
    (void)state;
    struct pipe p = mesh(4, 6, 1, 6);
    p.tp_bytes = 64;
    assert_int_equal(colours(&p, 4, 3), 2);
}

/* What a rank never uses does not split it: without tensor-parallel collectives the same ranks are one colour. */
static void test_unused_groups_do_not_split(void **state) {
    (void)state;
    struct pipe p = mesh(4, 6, 1, 6);
    assert_int_equal(colours(&p, 4, 3), 1);
}

/* One slow tp coordinate splits its own stage, and through the last all_reduce nobody else. */
static void test_classes_split(void **state) {
    (void)state;
    struct pipe p = mesh(2, 4, 2, 16);
    p.tp_slower = 10;
    p.grad_bytes = 64;
    p.everyone = true;
    assert_int_equal(colours(&p, 1, 1), 4);
}

/* Two replicas, 0 2 4 and 1 3 5, on domains of five: only the hop 3->5 is across. Stage 0 sees nothing of it but its
 * consequences, and splits too. */
static void test_differences_travel(void **state) {
    (void)state;
    struct pipe p = mesh(1, 2, 3, 6);
    p.per_domain = 5;
    assert_int_equal(colours(&p, 2, 3), 6);
    p.per_domain = 4; /* 2->4 and 3->5 both across */
    assert_int_equal(colours(&p, 2, 3), 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_regular_placement),   cmocka_unit_test(test_stages_across_domains),
        cmocka_unit_test(test_groups_across_domains), cmocka_unit_test(test_unused_groups_do_not_split),
        cmocka_unit_test(test_classes_split),         cmocka_unit_test(test_differences_travel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
