/* Jitter and slow parts: what they stretch, by how much, and what they leave alone. */
#include "test_sim_fixture.h"

#include <math.h>

enum { DP = 64, F = 10000, B = 20000 };

static struct pipe mesh(uint32_t tp, uint32_t dp, uint32_t pp, uint32_t domain) {
    struct pipe p = {.tp = tp, .ep = 1, .dp = dp, .pp = pp, .microbatches = 4, .act_bytes = 500};
    p.per_domain = p.domain_gpus = domain;
    for (uint32_t s = 0; s < pp; s++) {
        p.f_ns[s] = F;
        p.b_ns[s] = B;
    }
    return p;
}

static struct sf_sim_result run_on(struct pipe *p, uint32_t domains, const struct sf_sim_options *options) {
    struct toy t = {0};
    struct sf_sim_result r;
    toy_open(&t, domains, p->domain_gpus, 1, NULL);
    struct sf_prog *prog = pipe_build(p);
    must_run(prog, &t, options, &r);
    assert_int_equal(breakdown_sum(&r.breakdown), r.step_time);
    sf_prog_free(prog);
    toy_close(&t);
    return r;
}

/* The mean factor is 1 and the spread what was asked for, to what 64 ranks of 9 ops can show. */
static void test_moments(void **state) {
    (void)state;
    struct pipe p = mesh(1, DP, 1, DP);
    double plain = run_on(&p, 1, NULL).busy_s;
    for (int kind = 0; kind < SF_JITTERS_N; kind++) {
        double sum = 0.0, squares = 0.0;
        enum { SEEDS = 40 };
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
            struct sf_sim_options o = {.seed = seed, .jitter = 0.1, .jitter_kind = (enum sf_jitter)kind};
            double x = run_on(&p, 1, &o).busy_s / plain;
            sum += x;
            squares += x * x;
        }
        double mean = sum / SEEDS, sigma = sqrt(squares / SEEDS - mean * mean);
        /* 4 forwards of a third and 4 backwards of two thirds of the time, 64 times */
        double expected = 0.1 * sqrt((1.0 + 4.0) / 9.0 / 4.0 / DP);
        assert_true(fabs(mean - 1.0) < 4.0 * expected / sqrt(SEEDS));
        assert_true(sigma > 0.6 * expected && sigma < 1.5 * expected);
    }
}

static void test_seeds(void **state) {
    (void)state;
    struct pipe p = mesh(2, 3, 3, 6);
    struct sf_sim_options o = {.seed = 1, .jitter = 0.02};
    struct sf_hash plain = run_on(&p, 3, NULL).digest, one = run_on(&p, 3, &o).digest;
    assert_false(sf_hash_equal(plain, one));
    assert_true(sf_hash_equal(one, run_on(&p, 3, &o).digest));
    o.jitter_kind = SF_JITTER_NORMAL;
    assert_false(sf_hash_equal(one, run_on(&p, 3, &o).digest));
    o.jitter_kind = SF_JITTER_LOGNORMAL;
    o.seed = 2;
    assert_false(sf_hash_equal(one, run_on(&p, 3, &o).digest));
}

/* Ranks that meet inside recipes wait for the slowest of them, so a step of four in a team is slower than of one. */
static void test_teams_wait(void **state) {
    (void)state;
    struct pipe p = mesh(4, 1, 1, 4);
    struct sf_sim_options o = {.seed = 5, .jitter = 0.1};
    sf_time_ps apart = run_on(&p, 1, &o).step_time;
    double alone = run_on(&p, 1, &o).busy_s / 4;
    p.tp_bytes = 1;
    struct sf_sim_result r = run_on(&p, 1, &o);
    assert_true(r.step_time > apart);
    assert_int_equal(r.instances, 1);         /* and all four have the same times */
    assert_true(r.busy_s / 4 > 1.05 * alone); /* the largest of four is one standard deviation up */
}

static void test_a_slow_gpu(void **state) {
    (void)state;
    struct pipe p = mesh(1, 2, 1, 2);
    const struct sf_slow slow = {.kind = SF_SLOW_GPU, .gpu = 1, .pace = 0.5};
    sf_time_ps plain = run_on(&p, 1, NULL).step_time;
    assert_int_equal(run_on(&p, 1, &(struct sf_sim_options){.slow = &slow, .slow_n = 1}).step_time, 2 * plain);
}

static struct sf_trace trace_of(struct pipe *p, uint32_t domains, const struct sf_slow *slow) {
    struct sf_trace t;
    sf_trace_init(&t);
    run_on(p, domains,
           &(struct sf_sim_options){
               .unfolded = true, .trace = &t, .trace_ranks = UINT32_MAX, .slow = slow, .slow_n = slow ? 1 : 0});
    return t;
}

static sf_time_ps length(const struct sf_trace_rec *r) {
    return r->end - r->start;
}

/* Two replicas of two stages; each stage is a domain, so every transfer crosses. A NIC at half speed doubles the wire
 * time of what its GPU sends and receives and of nothing else. */
static void test_a_slow_nic(void **state) {
    (void)state;
    struct pipe p = mesh(1, 2, 2, 2);
    p.grad_bytes = 4096; /* inside the domain */
    const struct sf_slow slow = {.kind = SF_SLOW_NIC, .gpu = 1, .pace = 0.5};
    struct sf_trace plain = trace_of(&p, 2, NULL), with = trace_of(&p, 2, &slow);
    uint32_t slower = 0;
    assert_int_equal(plain.recs_n, with.recs_n);
    for (size_t i = 0; i < plain.recs_n; i++) {
        const struct sf_trace_rec *a = &plain.recs[i], *b = &with.recs[i];
        bool transfer = a->bytes == p.act_bytes, through = a->rank == 1 || a->rank == 3; /* the pair 1 - 3 */
        sf_time_ps wire = (sf_time_ps)p.act_bytes * 2 * BYTE_PS;
        assert_int_equal(length(b) - length(a), transfer && through ? wire : 0);
        slower += transfer && through;
    }
    assert_int_equal(slower, 2 * 2 * p.microbatches);
    sf_trace_clear(&plain);
    sf_trace_clear(&with);
}

/* A collective across domains shares its bandwidth with the slow NIC. */
static void test_a_slow_nic_in_a_collective(void **state) {
    (void)state;
    const struct sf_slow slow = {.kind = SF_SLOW_NIC, .gpu = 0, .pace = 0.5};
    const struct sf_sim_options o = {.slow = &slow, .slow_n = 1};
    struct pipe across = mesh(1, 4, 1, 2);
    across.grad_bytes = 1 << 20;
    assert_true(run_on(&across, 2, &o).step_time > run_on(&across, 2, NULL).step_time);
}

/* Lists that could mean two things, or nothing. */
static void test_slow_lists_refused(void **state) {
    (void)state;
    static const struct {
        const char *list;
        uint32_t domains;
        const char *message;
    } rows[] = {
        {"gpu:1=0.5,gpu:1=0.5", 1, "gpu:1 is named twice"},
        {"nvlink:1=0.5,gpu:0=0.5,nvlink:1=0.9", 1, "nvlink:1 is named twice"},
        {"gpus:50%=0.5,gpus:50%=0.9", 1, "gpus is named twice"},
        {"gpus:24.9%=0.5", 1, "expected at least 25%"},
        {"nic:1=0.5", 1, "one domain and no NICs"},
        {"nics:50%=0.5", 1, "one domain and no NICs"},
        {"gpu:7=0.5", 1, "no rank runs there"},
        {"gpus:25%=0.5,gpu:0=0.5", 1, NULL},
        {"nic:1=0.5,nvlink:1=0.5", 2, NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct pipe p = mesh(1, 4, 1, 4 / rows[i].domains);
        struct toy t = {0};
        struct sf_err err = {0};
        struct sf_sim_result r;
        struct sf_slow slow[SF_SLOW_MAX];
        struct sf_sim_options o = {.slow = slow};
        must(sf_slow_parse(rows[i].list, slow, &o.slow_n, &err), &err);
        toy_open(&t, rows[i].domains, 4 / rows[i].domains, 1, NULL);
        struct sf_prog *prog = pipe_build(&p);
        int rc = sf_sim_run(prog, t.cost, &o, &r, &err);
        assert_int_equal(rc, rows[i].message ? SF_E_INPUT : SF_OK);
        if (rc && strstr(err.msg, rows[i].message) == NULL) {
            fail_msg("%s: %s", rows[i].list, err.msg);
        }
        sf_prog_free(prog);
        toy_close(&t);
    }
}

static void test_spread(void **state) {
    (void)state;
    struct toy t = {0};
    struct sf_err err = {0};
    struct sf_sim_result r, first;
    struct sf_spread s;
    struct pipe p = mesh(1, 4, 2, 8);
    toy_open(&t, 1, 8, 1, NULL);
    struct sf_prog *prog = pipe_build(&p);
    struct sf_sim_options o = {.seed = 3, .jitter = 0.2};
    must(sf_sim_spread(prog, t.cost, &o, 21, &r, &s, &err), &err);
    must_run(prog, &t, &o, &first);
    assert_int_equal(r.step_time, first.step_time);
    assert_true(s.p50 < s.p95 && s.p95 < s.p99);
    must(sf_sim_spread(prog, t.cost, &o, 1, &r, &s, &err), &err);
    assert_int_equal(s.p50, first.step_time);
    assert_int_equal(s.p99, first.step_time);
    sf_prog_free(prog);
    toy_close(&t);
}

static void test_the_list(void **state) {
    (void)state;
    static const char *const wrong[] = {
        "",           "gpu",         "gpu:",       "cpu:1=0.5",   "gpu:x=0.5",
        "gpu:1=",     "gpu:1=0",     "gpu:1=1",    "gpu:1=nan",   "gpu:1=0.5,",
        "gpus:5=0.5", "gpus:0%=0.5", "nic:1=0.5x", "gpus:1e9%=1", "gpu:99999999999=0.5"};
    struct sf_slow slow[SF_SLOW_MAX];
    struct sf_err err = {0};
    uint32_t n = 0;
    must(sf_slow_parse("gpu:1234=0.9,nic:77=0.5,gpus:0.1%=0.95,nvlink:3=0.25", slow, &n, &err), &err);
    assert_int_equal(n, 4);
    assert_int_equal(slow[0].gpu, 1234);
    assert_true(slow[1].kind == SF_SLOW_NIC && slow[1].pace == 0.5 && slow[1].share == 0.0);
    assert_true(fabs(slow[2].share - 0.001) < 1e-12 && slow[3].kind == SF_SLOW_NVLINK);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(sf_slow_parse(wrong[i], slow, &n, &err), SF_E_INPUT);
    }
    char many[SF_SLOW_MAX * 12 + 16] = "gpu:1=0.5";
    for (int i = 0; i < SF_SLOW_MAX; i++) {
        strncat(many, ",gpu:1=0.5", sizeof many - strlen(many) - 1);
    }
    assert_int_equal(sf_slow_parse(many, slow, &n, &err), SF_E_INPUT);
}

static void test_what_is_refused(void **state) {
    (void)state;
    struct toy t = {0};
    struct sf_err err = {0};
    struct sf_sim_result r;
    struct sf_trace trace;
    struct pipe p = mesh(1, 2, 1, 4);
    const struct sf_slow nobody = {.kind = SF_SLOW_GPU, .gpu = 3, .pace = 0.5};
    sf_trace_init(&trace);
    p.per_domain = 2;
    toy_open(&t, 1, 4, 1, NULL);
    struct sf_prog *prog = pipe_build(&p);
    assert_int_equal(sf_sim_run(prog, t.cost, &(struct sf_sim_options){.slow = &nobody, .slow_n = 1}, &r, &err),
                     SF_E_INPUT);
    assert_non_null(strstr(err.msg, "no rank runs there"));
    assert_int_equal(sf_sim_run(prog, t.cost, &(struct sf_sim_options){.jitter = -1}, &r, &err), SF_E_USAGE);
    assert_int_equal(sf_sim_run(prog, t.cost, &(struct sf_sim_options){.jitter = 0.1, .replay = &trace}, &r, &err),
                     SF_E_USAGE);
    sf_prog_free(prog);
    toy_close(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_moments),
        cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_teams_wait),
        cmocka_unit_test(test_a_slow_gpu),
        cmocka_unit_test(test_a_slow_nic),
        cmocka_unit_test(test_a_slow_nic_in_a_collective),
        cmocka_unit_test(test_slow_lists_refused),
        cmocka_unit_test(test_spread),
        cmocka_unit_test(test_the_list),
        cmocka_unit_test(test_what_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
