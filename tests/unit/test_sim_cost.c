/* Work, prices and spans against arithmetic done by hand; the kernel table and everything it must refuse. */
#include "test_sim_fixture.h"

static struct sf_call call(int kind, int dtype, unsigned flags, const int64_t dims[4]) {
    struct sf_call c = {.kind = (uint8_t)kind, .dtype = (uint8_t)dtype, .flags = (uint16_t)flags, .comm = SF_NONE};
    memcpy(c.dims, dims, 4 * sizeof *dims);
    return c;
}

static void expect_work(struct sf_call c, double flops, double bytes) {
    struct sf_work w = sf_call_work(&c);
    if (w.flops != flops || w.bytes != bytes) {
        fail_msg("%s: expected %g flops %g bytes, found %g and %g", sf_call_name(c.kind), flops, bytes, w.flops,
                 w.bytes);
    }
}

static void test_work_of_matrices(void **state) {
    (void)state;
    const int64_t gemm[4] = {3, 5, 7, 2};
    expect_work(call(SF_CALL_GEMM, SF_F32, 0, gemm), 2 * 3 * 5 * 7 * 2, 4 * 2 * (3 * 7 + 7 * 5 + 3 * 5));
    expect_work(call(SF_CALL_GEMM, SF_BF16, SF_CALL_ACC_FLAG, gemm), 420, 2 * 2 * (21 + 35 + 30));
    expect_work(call(SF_CALL_GEMM, SF_FP8, SF_CALL_RECOMPUTE_FLAG, gemm), 420, 2 * (21 + 35 + 15));
    struct sf_call half = call(SF_CALL_GEMM, SF_F32, 0, gemm);
    half.imm[1] = 0.5f;
    expect_work(half, 210, 284);
    /* batch 2, seq 16, 4 query heads, 2 kv heads, head dim 8: two products of 16 x 16 x 8, half of them masked */
    struct sf_call attn = call(SF_CALL_ATTN_FWD, SF_BF16, 0, (const int64_t[]){2, 16, 4, 2});
    attn.dims[4] = 8;
    attn.dims[5] = 64;
    double q = 2 * 16 * 4 * 8, kv = q / 2, lse = 4 * 2 * 16 * 4;
    expect_work(attn, 2 * 4 * (2 * 2 * 16 * 16 * 8) / 2, 2 * (2 * q + 2 * kv) + lse);
    attn.kind = SF_CALL_ATTN_BWD;
    expect_work(attn, 2.5 * 2 * 4 * (2 * 2 * 16 * 16 * 8) / 2, 2 * (4 * q + 4 * kv) + lse);
}

static void test_work_of_the_rest(void **state) {
    (void)state;
    const int64_t rc[4] = {10, 6}, n[4] = {100}, moe[4] = {10, 6, 2};
    expect_work(call(SF_CALL_RMSNORM_FWD, SF_BF16, 0, rc), 240, 2 * (60 + 60 + 6) + 40);
    expect_work(call(SF_CALL_RMSNORM_BWD, SF_F32, 0, rc), 480, 4 * (180 + 12) + 40);
    expect_work(call(SF_CALL_RMSNORM_BWD, SF_F32, SF_CALL_ACC_FLAG | SF_CALL_ACC2_FLAG, rc), 480, 4 * (240 + 18) + 40);
    expect_work(call(SF_CALL_ROPE_FWD, SF_F32, 0, (const int64_t[]){10, 2, 4, 0}), 240, 4 * 2 * 80);
    expect_work(call(SF_CALL_GLU_FWD, SF_F32, 0, rc), 300, 4 * 180);
    expect_work(call(SF_CALL_GLU_FWD, SF_F32, SF_CALL_GELU_FLAG, rc), 600, 4 * 180);
    expect_work(call(SF_CALL_GLU_BWD, SF_BF16, 0, rc), 720, 2 * 300);
    expect_work(call(SF_CALL_ADD, SF_BF16, 0, n), 100, 600);
    expect_work(call(SF_CALL_COPY, SF_F32, 0, n), 0, 800);
    expect_work(call(SF_CALL_ZERO, SF_F32, 0, n), 0, 400);
    expect_work(call(SF_CALL_EMBED_FWD, SF_F32, 0, rc), 0, 4 * 120 + 40);
    expect_work(call(SF_CALL_EMBED_BWD, SF_F32, 0, rc), 60, 4 * 180 + 40);
    expect_work(call(SF_CALL_XENT, SF_BF16, 0, rc), 300, 2 * 120 + 44);
    expect_work(call(SF_CALL_XENT_PADDED, SF_BF16, 0, rc), 300, 2 * 120 + 44);
    expect_work(call(SF_CALL_ADAMW, SF_F32, 0, n), 1200, 2800);
    expect_work(call(SF_CALL_ADAMW, SF_BF16, 0, n), 1200, 2800);
    expect_work(call(SF_CALL_ADAMW, SF_BF16, SF_CALL_LEAN_FLAG, n), 1200, 2000);
    expect_work(call(SF_CALL_LAYERNORM_FWD, SF_BF16, 0, rc), 420, 2 * (120 + 12) + 80);
    expect_work(call(SF_CALL_LAYERNORM_BWD, SF_BF16, SF_CALL_ACC_FLAG, rc), 660, 2 * (240 + 6 + 12) + 80);
    expect_work(call(SF_CALL_RMSNORM_ADD_FWD, SF_BF16, 0, rc), 300, 2 * (240 + 6) + 40);
    expect_work(call(SF_CALL_LAYERNORM_ADD_FWD, SF_BF16, 0, rc), 480, 2 * (240 + 12) + 80);
    expect_work(call(SF_CALL_BIAS_BWD, SF_F32, SF_CALL_ACC_FLAG, rc), 60, 4 * (60 + 12));
    expect_work(call(SF_CALL_SUMSQ, SF_BF16, 0, n), 200, 204);
    expect_work(call(SF_CALL_CAST_DOWN, SF_BF16, 0, n), 0, 600);
    expect_work(call(SF_CALL_MOE_ROUTE_FWD, SF_F32, 0, moe), 360, 4 * 60 + 8 * 20);
    expect_work(call(SF_CALL_MOE_PERMUTE, SF_BF16, 0, moe), 0, 2 * (60 + 120) + 80);
    expect_work(call(SF_CALL_MOE_UNPERMUTE, SF_BF16, 0, moe), 240, 2 * (60 + 120) + 160);
}

static void expect_price(const struct toy *t, struct sf_call c, sf_time_ps time, enum sf_grade grade) {
    enum sf_grade found;
    sf_time_ps got = sf_cost_call(t->cost, &c, &found);
    if (got != time || found != grade) {
        fail_msg("%s: expected %lld ps %s, found %lld ps %s", sf_call_name(c.kind), (long long)time,
                 sf_grade_name((int)grade), (long long)got, sf_grade_name((int)found));
    }
}

/* The toy: 10 TFLOP/s f32 and 100 bf16 at half efficiency, attention at 0.25 and 0.2, 8 GB/s. */
static void test_the_roofline(void **state) {
    (void)state;
    struct toy t = {0};
    toy_open(&t, 1, 4, 1, NULL);
    const int64_t wide[4] = {1000, 1000, 1000, 1}, thin[4] = {1, 1000, 1000, 1};
    /* 2e9 / 5e12 = 0.4 ms; but 12 MB take 1.5 ms: memory decides */
    expect_price(&t, call(SF_CALL_GEMM, SF_F32, 0, wide), 1500 * US, SF_GRADE_MEASURED);
    expect_price(&t, call(SF_CALL_GEMM, SF_BF16, 0, thin), 250500 * NS, SF_GRADE_MEASURED);
    const int64_t huge[4] = {100000, 100000, 100000, 1};
    expect_price(&t, call(SF_CALL_GEMM, SF_F32, 0, huge), 400 * SF_PS_PER_S, SF_GRADE_MEASURED);
    expect_price(&t, call(SF_CALL_GEMM, SF_BF16, 0, huge), 40 * SF_PS_PER_S, SF_GRADE_MEASURED);
    expect_price(&t, call(SF_CALL_GEMM, SF_FP8, 0, huge), 400 * SF_PS_PER_S, SF_GRADE_EXTRAPOLATED); /* no fp8 here */
    struct sf_call attn = call(SF_CALL_ATTN_FWD, SF_BF16, 0, (const int64_t[]){1, 1 << 20, 1, 1});
    attn.dims[4] = 100; /* 2 * 2^40 * 100 flops at 25 TFLOP/s */
    expect_price(&t, attn, INT64_C(8796093022208), SF_GRADE_EXTRAPOLATED);
    attn.kind = SF_CALL_ATTN_BWD;
    expect_price(&t, attn, INT64_C(27487790694400), SF_GRADE_EXTRAPOLATED);
    assert_int_equal(sf_cost_dispatch(t.cost), 0);
    toy_close(&t);
}

static const char table[] = "host: { cpu: toy }\n"
                            "note: by hand\n"
                            "kernels:\n"
                            "  - { kind: gemm, dtype: f32, flags: [tb], dims: [8, 8, 8, 1], time: 3us, n: 30 }\n"
                            "  - { kind: gemm, dtype: f32, dims: [8, 8, 8, 1], time: 2us }\n"
                            "  - { kind: add, dtype: bf16, dims: [77], time: 999ps }\n"
                            "transport: { message_latency: 1us, message_rate: 2GB/s, collective_latency: 3us,\n"
                            "             collective_rate: 4GB/s, dispatch: 200ns }\n";

static void test_the_table_comes_first(void **state) {
    (void)state;
    struct toy t = {0}, plain = {0};
    struct sf_route route;
    const int64_t eight[4] = {8, 8, 8, 1};
    toy_open(&t, 1, 4, 1, table);
    toy_open(&plain, 1, 4, 1, NULL);
    expect_price(&t, call(SF_CALL_GEMM, SF_F32, SF_CALL_TB_FLAG, eight), 3 * US, SF_GRADE_CALIBRATED);
    expect_price(&t, call(SF_CALL_GEMM, SF_F32, SF_CALL_TB_FLAG | SF_CALL_RECOMPUTE_FLAG, eight), 3 * US,
                 SF_GRADE_CALIBRATED);
    expect_price(&t, call(SF_CALL_GEMM, SF_F32, 0, eight), 2 * US, SF_GRADE_CALIBRATED);
    expect_price(&t, call(SF_CALL_ADD, SF_BF16, 0, (const int64_t[]){77, 0, 0, 0}), 999, SF_GRADE_CALIBRATED);
    expect_price(&t, call(SF_CALL_GEMM, SF_F32, SF_CALL_TA_FLAG, eight), 96 * NS, SF_GRADE_MEASURED);
    struct sf_call part = call(SF_CALL_GEMM, SF_F32, 0, eight);
    part.imm[1] = 0.25f;
    expect_price(&t, part, 500 * NS, SF_GRADE_CALIBRATED);
    assert_int_equal(sf_cost_dispatch(t.cost), 200 * NS);
    sf_topo_route(t.topo, 0, 1, &route);
    assert_int_equal(sf_cost_message(t.cost, 1000, &route), 1 * US + 500 * NS);
    assert_int_equal(sf_cost_message(plain.cost, 1000, &route), 2 * US + 1000 * NS);
    struct sf_span four = {.members = 4, .domains = 1, .min_per_domain = 4, .kind = SF_ROUTE_DOMAIN};
    assert_int_equal(sf_cost_collective(t.cost, SF_CALL_ALL_GATHER, 4000, &four), 750 * NS + 3 * 3 * US);
    assert_false(sf_hash_equal(sf_cost_hash(t.cost), sf_cost_hash(plain.cost)));
    toy_close(&plain);
    toy_close(&t);
}

static void test_collectives_inside_a_domain(void **state) {
    (void)state;
    struct toy t = {0};
    toy_open(&t, 1, 8, 1, NULL);
    struct sf_span one = {.members = 1, .domains = 1, .min_per_domain = 1, .kind = SF_ROUTE_SELF},
                   all = {.members = 8, .domains = 1, .min_per_domain = 8, .kind = SF_ROUTE_DOMAIN};
    assert_int_equal(sf_cost_collective(t.cost, SF_CALL_ALL_REDUCE, 1 << 20, &one), 0);
    assert_int_equal(sf_cost_collective(t.cost, SF_CALL_ALL_GATHER, 8000, &all), 7000 * BYTE_PS + 7 * 2 * US);
    assert_int_equal(sf_cost_collective(t.cost, SF_CALL_REDUCE_SCATTER, 8000, &all), 7000 * BYTE_PS + 7 * 2 * US);
    assert_int_equal(sf_cost_collective(t.cost, SF_CALL_ALL_REDUCE, 8000, &all), 2 * (7000 * BYTE_PS + 7 * 2 * US));
    assert_int_equal(sf_cost_collective(t.cost, SF_CALL_ALL_TO_ALL, 8000, &all), 7000 * BYTE_PS + 2 * US);
    toy_close(&t);
}

/* Four domains of four: the NICs carry 0.5 GB/s each; a spine hop is 5 us + 2 * 5 ns + 2 * (100 + 10) ns. */
static void test_collectives_across_domains(void **state) {
    (void)state;
    struct toy t = {0};
    struct sf_route route;
    toy_open(&t, 4, 4, 2, NULL);
    sf_topo_route(t.topo, 0, 4, &route);
    assert_int_equal(route.kind, SF_ROUTE_SPINE);
    assert_int_equal(route.latency_ps, 5 * US + 230 * NS);
    assert_int_equal(sf_cost_message(t.cost, 1000, &route), 2000 * BYTE_PS + 5 * US + 230 * NS);
    sf_time_ps out = route.latency_ps;
    /* one member per domain: its own NIC; two or more: their NICs together, never more than the scale-up link */
    struct sf_span rail = {.members = 4, .domains = 4, .min_per_domain = 1, .kind = SF_ROUTE_SPINE},
                   half = {.members = 8, .domains = 4, .min_per_domain = 2, .kind = SF_ROUTE_SPINE},
                   all = {.members = 16, .domains = 4, .min_per_domain = 4, .kind = SF_ROUTE_SPINE};
    assert_int_equal(sf_cost_collective(t.cost, SF_CALL_ALL_GATHER, 4000, &rail), 3000 * 2 * BYTE_PS + 3 * out);
    assert_int_equal(sf_cost_collective(t.cost, SF_CALL_ALL_GATHER, 8000, &half), 7000 * BYTE_PS + 3 * out + 2 * US);
    assert_int_equal(sf_cost_collective(t.cost, SF_CALL_ALL_REDUCE, 16000, &all),
                     2 * (15000 * BYTE_PS + 3 * out + 3 * 2 * US));
    /* of 16 kB, 12 leave at 0.5 GB/s while 3 go round inside at 1 */
    assert_int_equal(sf_cost_collective(t.cost, SF_CALL_ALL_TO_ALL, 16000, &all), 12000 * 2 * BYTE_PS + out);
    toy_close(&t);
}

static void expect_span(const struct sf_prog *prog, const struct toy *t, uint32_t comm, uint32_t rank,
                        struct sf_span want) {
    struct sf_span got;
    sf_span_of(prog, t->topo, comm, rank, &got);
    bool same = want.members == got.members && want.domains == got.domains && want.kind == got.kind &&
                want.min_per_domain == got.min_per_domain && want.kinds == got.kinds && want.alone == got.alone;
    if (!same) {
        fail_msg("rank %u: expected %u members in %u domains, least %u, kind %u; found %u in %u, %u, %u", rank,
                 want.members, want.domains, want.min_per_domain, want.kind, got.members, got.domains,
                 got.min_per_domain, got.kind);
    }
}

/* tp 4 on domains of six: groups 0-3 inside, 4-7 across, 8-11 inside. */
static void test_spans(void **state) {
    (void)state;
    struct toy t = {0};
    struct pipe p = {.tp = 4, .ep = 1, .dp = 3, .pp = 1, .microbatches = 1, .act_bytes = 64, .f_ns = {1}, .b_ns = {1}};
    p.per_domain = p.domain_gpus = 6;
    toy_open(&t, 2, 6, 3, NULL);
    struct sf_prog *prog = pipe_build(&p);
    expect_span(prog, &t, p.comm_tp, 2,
                (struct sf_span){.members = 4, .domains = 1, .min_per_domain = 4, .kind = SF_ROUTE_DOMAIN});
    expect_span(prog, &t, p.comm_tp, 7,
                (struct sf_span){.members = 4, .domains = 2, .min_per_domain = 2, .kind = SF_ROUTE_SPINE});
    expect_span(prog, &t, p.comm_tp, 8,
                (struct sf_span){.members = 4, .domains = 1, .min_per_domain = 4, .kind = SF_ROUTE_DOMAIN});
    expect_span(prog, &t, p.comm_dp, 0,
                (struct sf_span){.members = 3, .domains = 2, .min_per_domain = 1, .kind = SF_ROUTE_SPINE});
    expect_span(prog, &t, p.comm_ep, 5,
                (struct sf_span){.members = 1, .domains = 1, .min_per_domain = 1, .kind = SF_ROUTE_SELF});
    expect_span(prog, &t, p.comm_all, 11,
                (struct sf_span){.members = 12, .domains = 2, .min_per_domain = 6, .kind = SF_ROUTE_SPINE});
    sf_prog_free(prog);
    toy_close(&t);
}

static void test_bad_tables(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
        uint32_t line;
    } bad[] = {
        {"- 1\n", "expected a map with kernels", 1},
        {"kernel: []\n", "kernel", 1},
        {"kernels: 5\n", "expected a list", 1},
        {"kernels:\n  - 5\n", "expected { kind", 2},
        {"kernels:\n  - { kind: gem, dtype: f32, dims: [1, 1, 1, 1], time: 1us }\n", "'gem'", 2},
        {"kernels:\n  - { kind: all_reduce, dtype: f32, dims: [1], time: 1us }\n", "'all_reduce'", 2},
        {"kernels:\n  - { kind: add, dtype: f64, dims: [1], time: 1us }\n", "'f64'", 2},
        {"kernels:\n  - { kind: add, dtype: f32, dims: [1, 2], time: 1us }\n", "list of 1 dims for add, found 2", 2},
        {"kernels:\n  - { kind: add, dtype: f32, dims: [-1], time: 1us }\n", "-1", 2},
        {"kernels:\n  - { kind: add, dtype: f32, dims: [1], time: 1 }\n", "1", 2},
        {"kernels:\n  - { kind: add, dtype: f32, dims: [1] }\n", "time", 2},
        {"kernels:\n  - { kind: add, dtype: f32, dims: [1], time: 1us, flags: [xx] }\n", "'xx'", 2},
        {"kernels:\n  - { kind: add, dtype: f32, dims: [1], time: 1us }\n"
         "  - { kind: add, dtype: f32, dims: [1], time: 2us, flags: [recompute] }\n",
         "measured twice (entry 1", 3},
        {"transport: []\n", "message_latency", 1},
        {"transport: { message_rate: 0GB/s }\n", "above zero", 1},
        {"transport: { speed: 1GB/s }\n", "speed", 1},
    };
    struct toy t = {0};
    toy_open(&t, 1, 2, 1, NULL);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct sf_err err = {0};
        struct sf_cost *cost = NULL;
        t.files.kernels = bad[i].text;
        assert_int_equal(sf_cost_create(t.topo, &t.io, "kernels.yaml", &cost, &err), SF_E_INPUT);
        if (!strstr(err.msg, bad[i].says) || err.line != bad[i].line || strcmp(err.file, "kernels.yaml") != 0) {
            fail_msg("%s -> %s:%u: %s", bad[i].text, err.file, err.line, err.msg);
        }
    }
    struct sf_err err = {0};
    struct sf_cost *cost = NULL;
    assert_int_equal(sf_cost_create(t.topo, &t.io, "missing.yaml", &cost, &err), SF_E_IO);
    sf_cost_free(NULL);
    toy_close(&t);
}

static void test_memory_running_out(void **state) {
    (void)state;
    struct toy t = {0};
    toy_open(&t, 1, 2, 1, NULL);
    t.files.kernels = table;
    int rc = SF_E_INTERNAL;
    for (size_t n = 1; rc != SF_OK; n++) {
        struct sf_err err = {0};
        struct sf_cost *cost = NULL;
        assert_true(n < 10000);
        sf_alloc_fail_after(n);
        rc = sf_cost_create(t.topo, &t.io, "kernels.yaml", &cost, &err);
        sf_alloc_fail_after(0);
        sf_cost_free(rc == SF_OK ? cost : NULL);
    }
    toy_close(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_work_of_matrices),
        cmocka_unit_test(test_work_of_the_rest),
        cmocka_unit_test(test_the_roofline),
        cmocka_unit_test(test_the_table_comes_first),
        cmocka_unit_test(test_collectives_inside_a_domain),
        cmocka_unit_test(test_collectives_across_domains),
        cmocka_unit_test(test_spans),
        cmocka_unit_test(test_bad_tables),
        cmocka_unit_test(test_memory_running_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
