/* Collectives chunk by chunk inside the engine: every member's end is what the expansion says for the arrivals on
 * record, for any number of threads, and nothing that the checkers know is broken. */
#include "../unit/test_sim_random.h"

#include "sim/cost_internal.h"
#include "sim/expand.h"
#include "sim/mesh.h"

enum { MEMBERS = 256 }; /* of the largest random group, and more */

struct world {
    struct pipe p;
    struct toy t;
    struct sf_prog *prog;
    struct sf_trace trace;
    struct sfi_mesh *mesh;
    struct sf_arena *arena;
    struct sfi_expand *expand;
    uint64_t members, late; /* seen; later than by themselves, since others used their ports */
};

static const struct sf_trace_rec *record_of(const struct world *x, uint32_t rank, uint32_t op) {
    for (size_t i = 0; i < x->trace.recs_n; i++) {
        if (x->trace.recs[i].rank == rank && x->trace.recs[i].op == op) {
            return &x->trace.recs[i];
        }
    }
    fail_msg("rank %u has no record of op %u", rank, op);
    return NULL;
}

/* The k-th collective of a communicator on a stream, of one rank; SF_NONE behind the last. */
static uint32_t collective_of(const struct world *x, uint32_t rank, uint32_t comm, uint32_t stream, uint32_t k) {
    const struct sf_class *c = &x->prog->classes[x->mesh->class_of[rank]];
    for (uint32_t op = 0; op < c->ops_n; op++) {
        bool is =
            sf_op_group(c->ops[op].kind) == SF_OP_IS_COLL && c->ops[op].comm == comm && c->ops[op].stream == stream;
        if (is && k-- == 0) {
            return op;
        }
    }
    return SF_NONE;
}

static enum sf_coll_op kind_of(const struct sf_op *op) {
    return op->kind == SF_OP_ALL_REDUCE       ? SF_COLL_ALL_REDUCE
           : op->kind == SF_OP_REDUCE_SCATTER ? SF_COLL_REDUCE_SCATTER
                                              : SF_COLL_ALL_GATHER;
}

static void check_group(struct world *x, uint32_t comm, uint32_t group, uint32_t stream, uint32_t k) {
    const struct sfi_comm *c = &x->mesh->comms[comm];
    const struct sf_trace_rec *rec[MEMBERS];
    sf_time_ps arrive[MEMBERS], end[MEMBERS], last = 0, dispatch = sf_cost_dispatch(x->t.cost);
    uint32_t domain[MEMBERS], n = c->members_n, first = c->base[group];
    struct sf_err err = {0};
    struct sf_coll_choice chosen;
    const struct sf_op *op = NULL;
    assert_true(n <= MEMBERS);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t rank = first + c->offset[i], at = collective_of(x, rank, comm, stream, k);
        rec[i] = record_of(x, rank, at);
        op = &x->prog->classes[x->mesh->class_of[rank]].ops[at];
        arrive[i] = rec[i]->issue + dispatch;
        last = arrive[i] > last ? arrive[i] : last;
        domain[i] = x->mesh->domain[rank];
    }
    struct sfi_expand_ask ask = {.coll = x->t.cost->coll, .domain = domain, .arrive = arrive};
    ask.query = (struct sf_coll_query){.op = kind_of(op), .bytes = op->bytes};
    sfi_mesh_span(x->mesh, c, group, &ask.query.span);
    sf_coll_choose(ask.coll, &ask.query, &chosen);
    ask.algorithm = chosen.algorithm;
    ask.protocol = chosen.protocol;
    must(sfi_expand_run(x->expand, &ask, UINT64_MAX, end, &err), &err);
    for (uint32_t i = 0; i < n; i++) {
        sf_time_ps alone = end[i] > last ? end[i] : last + 1;
        x->members++;
        x->late += rec[i]->end > alone;
        assert_int_equal(rec[i]->start, last);
        assert_true(rec[i]->end >= alone);
    }
}

static void check_all(struct world *x) {
    struct sf_err err = {0};
    for (uint32_t comm = 0; comm < x->prog->comms_n; comm++) {
        must(sfi_mesh_comm(x->mesh, comm, x->arena, &err), &err);
        const struct sfi_comm *c = &x->mesh->comms[comm];
        for (uint32_t g = 0; g < c->groups_n && c->members_n > 1; g++) {
            for (uint32_t stream = 0; stream < x->prog->streams_n; stream++) {
                for (uint32_t k = 0; collective_of(x, c->base[g], comm, stream, k) != SF_NONE; k++) {
                    check_group(x, comm, g, stream, k);
                }
            }
        }
    }
}

static void run_all(struct world *x, uint64_t seed) {
    struct sf_sim_result one;
    struct sf_err err = {0};
    struct sf_sim_options o = {.seed = seed, .jitter = 0.3, .expand = true, .audit = true, .threads = 1};
    o.trace = &x->trace;
    o.trace_ranks = sf_prog_ranks(x->prog);
    must_run(x->prog, &x->t, &o, &one);
    assert_string_equal(one.violation, "");
    assert_true(one.unfolded && one.chunks > 0);
    assert_int_equal(breakdown_sum(&one.breakdown), one.step_time);
    x->arena = sf_arena_create();
    assert_non_null(x->arena);
    must(sfi_mesh_create(x->prog, x->t.topo, x->arena, &x->mesh, &err), &err);
    check_all(x);
    sf_arena_free(x->arena);
}

static void test_ends_are_those_of_the_expansion(void **state) {
    (void)state;
    struct sf_rng rng = sf_rng_seed(77);
    struct world x = {.expand = sfi_expand_create()};
    uint32_t runs = 0;
    for (uint64_t seed = 0; runs < 300; seed++) {
        random_pipe(&rng, &x.p);
        if (x.p.dp < 2 || x.p.grad_bytes == 0) {
            continue;
        }
        enlarge(&x.p);
        open_gpus(&x.t, &x.p);
        sf_trace_init(&x.trace);
        x.prog = pipe_build(&x.p);
        run_all(&x, seed);
        sf_prog_free(x.prog);
        sf_trace_clear(&x.trace);
        toy_close(&x.t);
        runs++;
    }
    sfi_expand_free(x.expand);
    assert_true(x.members > 1000 && x.late > 0 && x.late < x.members / 2);
}

static struct pipe replicas(void) {
    struct pipe p = {.tp = 1, .ep = 1, .dp = 4, .pp = 2, .microbatches = 4, .per_domain = 2, .domain_gpus = 2};
    p.act_bytes = 600;
    p.grad_bytes = 64 << 20;
    p.f_ns[0] = p.f_ns[1] = 20000;
    p.b_ns[0] = p.b_ns[1] = 40000;
    return p;
}

/* Arrivals at one moment: as the whole collective within a hundredth. A slow NIC holds up all of its ring. */
static void test_equal_arrivals_and_slow_parts(void **state) {
    (void)state;
    struct pipe p = replicas();
    struct toy t = {0};
    struct sf_sim_result whole, expanded, slow;
    struct sf_slow nic = {.kind = SF_SLOW_NIC, .gpu = 2, .pace = 0.5};
    open_gpus(&t, &p);
    struct sf_prog *prog = pipe_build(&p);
    must_run(prog, &t, &(struct sf_sim_options){.unfolded = true}, &whole);
    must_run(prog, &t, &(struct sf_sim_options){.expand = true}, &expanded);
    must_run(prog, &t, &(struct sf_sim_options){.expand = true, .slow = &nic, .slow_n = 1}, &slow);
    double gap = (double)(expanded.step_time - whole.step_time) / (double)whole.breakdown.dp_comm;
    assert_true(gap < 0.01 && gap > -0.01 && gap != 0.0);
    assert_true((double)slow.breakdown.dp_comm > 1.8 * (double)expanded.breakdown.dp_comm);
    sf_prog_free(prog);
    toy_close(&t);
}

/* Enough cells for several threads: each with islands of its own, then all in one. */
static void test_threads_make_no_difference(void **state) {
    (void)state;
    struct pipe p = replicas();
    struct toy t = {0};
    struct sf_sim_result one, more;
    p.tp = 2;
    p.dp = 192;
    p.grad_bytes = 192 * 64 * 300;
    open_gpus(&t, &p);
    struct sf_prog *prog = pipe_build(&p);
    struct sf_sim_options o = {.seed = 3, .jitter = 0.2, .expand = true, .threads = 1};
    must_run(prog, &t, &o, &one);
    for (o.threads = 2; o.threads <= 4; o.threads++) {
        must_run(prog, &t, &o, &more);
        assert_true(sf_hash_equal(one.digest, more.digest) && one.chunks == more.chunks);
    }
    sf_prog_free(prog);
    toy_close(&t);
}

static void expect_refused(const struct pipe *p, bool gpus, const char *why) {
    struct pipe own = *p;
    struct toy t = {0};
    struct sf_err err = {0};
    struct sf_sim_result r;
    if (gpus) {
        open_gpus(&t, &own);
    } else {
        open_for(&t, &own, NULL);
    }
    struct sf_prog *prog = pipe_build(&own);
    assert_int_equal(sf_sim_run(prog, t.cost, &(struct sf_sim_options){.expand = true}, &r, &err), SF_E_USAGE);
    assert_non_null(strstr(err.msg, why));
    sf_prog_free(prog);
    toy_close(&t);
}

static void test_what_cannot_be_expanded_is_refused(void **state) {
    (void)state;
    struct pipe p = replicas();
    expect_refused(&p, false, "no collective model");
    p.grad_bytes = 0;
    expect_refused(&p, true, "changes nothing");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ends_are_those_of_the_expansion),
        cmocka_unit_test(test_equal_arrivals_and_slow_parts),
        cmocka_unit_test(test_threads_make_no_difference),
        cmocka_unit_test(test_what_cannot_be_expanded_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
