/* Folding is exact: on random meshes, placements and programs the folded run gives every rank the times that the
 * unfolded run gives it, and both agree on everything else they report. */
#include "../unit/test_sim_random.h"

#include "sim/cost_internal.h"
#include "sim/crew.h"

/* Ranks to a strip, and whether its last axis is cut into parts. */
static uint32_t strip_of(const struct sf_prog *prog, const struct sf_topo *topo, bool *cut) {
    struct sf_arena *arena = sf_arena_create();
    struct sfi_classes *classes = NULL;
    uint32_t along[SF_MAX_AXES], strip = 1;
    assert_non_null(arena);
    assert_int_equal(sfi_classes_create(prog, arena, &classes, NULL), SF_OK);
    sfi_strips_find(prog, topo, classes, along);
    *cut = false;
    for (uint32_t a = 0; a < prog->axes_n; a++) {
        strip *= along[a];
        *cut |= along[a] > 1 && along[a] < prog->axes[a].size;
    }
    assert_int_equal(prog->ranks_per_domain % strip, 0);
    sf_arena_free(arena);
    return strip;
}

/* Cells that another one leads at the beginning. */
static uint32_t led_of(const struct sf_prog *prog, const struct toy *t) {
    struct sf_arena *arena = sf_arena_create();
    struct sf_err err = {0};
    struct sfi_mesh *mesh;
    struct sfi_classes *classes;
    struct sfi_variants *variants;
    struct sfi_table *table;
    uint32_t *colour_of, colours_n, led = 0;
    assert_non_null(arena);
    must(sfi_mesh_create(prog, t->topo, arena, &mesh, &err), &err);
    must(sfi_classes_create(prog, arena, &classes, &err), &err);
    must(sfi_variants_create(mesh, t->cost, classes, NULL, arena, &variants, &err), &err);
    must(sfi_fold(mesh, classes, variants->of_rank, variants->n, arena, &colour_of, &colours_n, &err), &err);
    must(sfi_table_create(mesh, classes, variants, colour_of, colours_n, arena, &table, &err), &err);
    must(sfi_follow_find(table, variants, arena, &err), &err);
    for (uint32_t i = 0; i < table->cells_n; i++) {
        led += table->cells[i].led;
    }
    sf_arena_free(arena);
    return led;
}

static int call_of(int op_kind) {
    return op_kind == SF_OP_ALL_REDUCE       ? SF_CALL_ALL_REDUCE
           : op_kind == SF_OP_REDUCE_SCATTER ? SF_CALL_REDUCE_SCATTER
                                             : SF_CALL_ALL_GATHER;
}

/* Against the route and the group of this very rank. */
static void expect_price(const struct sf_prog *prog, const struct toy *t, const struct sfi_mesh *mesh, uint32_t rank,
                         uint32_t op_i, const struct sfi_vop *f) {
    const struct sf_op *op = &prog->classes[sf_prog_class(prog, rank)].ops[op_i];
    if (f->kind == SFI_SEND) {
        struct sf_route route;
        uint32_t peer = sf_prog_peer(prog, rank, op->comm, op->peer_delta);
        sf_topo_route(t->topo, mesh->gpu[rank], mesh->gpu[peer], &route);
        struct sfi_tier link = sfi_cost_link(t->cost, &route);
        sf_time_ps time = link.bytes_per_s > 0 ? sf_transfer_ps(op->bytes, link.bytes_per_s) : 0;
        assert_int_equal(f->time, time > 1 ? time : 1);
        assert_int_equal(f->latency, link.latency_ps);
    } else if (f->kind == SFI_COLL) {
        struct sf_span span;
        sf_span_of(prog, t->topo, op->comm, rank, &span);
        sf_time_ps time = sf_cost_collective(t->cost, call_of(op->kind), op->bytes, &span);
        assert_int_equal(f->time, time > 1 ? time : 1);
    }
}

/* Sorting looks at whole rows and strips; what it finds holds for each of their ranks. */
static void expect_prices(const struct sf_prog *prog, const struct toy *t, bool by_strips) {
    struct sf_arena *arena = sf_arena_create();
    struct sf_err err = {0};
    struct sfi_mesh *ranks, *mesh;
    struct sfi_classes *classes;
    struct sfi_variants *variants;
    uint32_t along[SF_MAX_AXES];
    assert_non_null(arena);
    must(sfi_classes_create(prog, arena, &classes, &err), &err);
    sfi_strips_find(prog, t->topo, classes, along);
    must(sfi_mesh_create(prog, t->topo, arena, &ranks, &err), &err);
    must(sfi_mesh_create_strips(prog, t->topo, by_strips ? along : NULL, arena, &mesh, &err), &err);
    must(sfi_variants_create(mesh, t->cost, classes, NULL, arena, &variants, &err), &err);
    for (uint32_t r = 0; r < ranks->ranks_n; r++) {
        const struct sfi_variant *v = &variants->v[variants->of_rank[r / mesh->strip]];
        for (uint32_t op = 0; op < v->cls->code->ops_n; op++) {
            expect_price(prog, t, ranks, r, op, &v->ops[op]);
        }
    }
    sf_arena_free(arena);
}

static void test_ranks_have_their_own_prices(void **state) {
    (void)state;
    struct sf_rng rng = sf_rng_seed(31);
    for (int i = 0; i < 300; i++) {
        struct pipe p;
        struct toy t = {0};
        random_pipe(&rng, &p);
        open_for(&t, &p, NULL);
        struct sf_prog *prog = pipe_build(&p);
        expect_prices(prog, &t, i % 2 == 0);
        sf_prog_free(prog);
        toy_close(&t);
    }
}

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
    uint64_t saved = 0, straddling = 0, contended = 0, strips = 0, cuts = 0;
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
        bool cut;
        strips += strip_of(prog, t.topo, &cut) > 1;
        cuts += cut;
        sf_prog_free(prog);
        toy_close(&t);
    }
    assert_true(saved > 200 && straddling > 100 && contended > 30); /* the programs were worth running */
    assert_true(strips > 100 && cuts > 20);
}

/* Pipelines that differ in nothing but how their gradients are reduced run as one until then. */
static void test_those_that_follow(void **state) {
    (void)state;
    struct sf_rng rng = sf_rng_seed(77);
    uint64_t led = 0;
    for (int i = 0; i < 400; i++) {
        struct pipe p;
        struct toy t = {0};
        struct sf_sim_result folded, unfolded, alone;
        random_pipe(&rng, &p);
        p.tp_bytes = p.ep_bytes = 0;
        p.ring = p.cross = 0;
        p.ep = pick(&rng, 1, 3);
        p.dp = pick(&rng, 4, 9);
        p.pp = pick(&rng, 1, 3);
        p.edp = true;
        p.grad_bytes = (uint64_t)p.ep * p.dp * 64 * pick(&rng, 1, 60);
        p.microbatches = i % 8 < 2 ? 64 : p.microbatches; /* enough to do for several threads */
        if (i % 2) {
            enlarge(&p);
            open_gpus(&t, &p);
        } else {
            open_for(&t, &p, NULL);
        }
        struct sf_prog *prog = pipe_build(&p);
        must_run(prog, &t, &(struct sf_sim_options){.threads = 2 + (uint32_t)i % 2}, &folded);
        must_run(prog, &t, &(struct sf_sim_options){.threads = 1}, &alone);
        must_run(prog, &t, &(struct sf_sim_options){.unfolded = true}, &unfolded);
        expect_same(&p, &folded, &unfolded);
        expect_same(&p, &folded, &alone);
        assert_true(folded.skipped == alone.skipped && folded.events == alone.events);
        led += led_of(prog, &t) > 0;
        sf_prog_free(prog);
        toy_close(&t);
    }
    assert_true(led > 30);
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
        double one = 1.0 / sf_prog_ranks(prog);
        enum sf_slow_kind port = sf_topo_scale_out(t.topo) ? SF_SLOW_NIC : SF_SLOW_NVLINK;
        const struct sf_slow slow[] = {{.kind = SF_SLOW_GPU, .share = one > 0.2 ? one : 0.2, .pace = 0.7},
                                       {.kind = port, .gpu = 0, .pace = 0.5},
                                       {.kind = SF_SLOW_NVLINK, .share = one > 0.1 ? one : 0.1, .pace = 0.4}};
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
        cmocka_unit_test(test_ranks_have_their_own_prices),
        cmocka_unit_test(test_those_that_follow),
        cmocka_unit_test(test_folded_equals_unfolded_with_noise),
        cmocka_unit_test(test_traces_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
