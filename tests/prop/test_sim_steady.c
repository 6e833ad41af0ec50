/* Copied periods are the periods that would have been simulated: with many microbatches every figure, and every time of
 * every rank, is the same to the picosecond whether periods are skipped, simulated, or simulated rank by rank; also
 * where something in the middle of a step breaks the period. */
#include "../unit/test_sim_random.h"

struct sums {
    uint64_t events, skipped, runs;
};

/* Pipelines long enough to come to rest in a rhythm, and such as barely do. */
static void random_long(struct sf_rng *rng, struct pipe *p) {
    random_pipe(rng, p);
    p->microbatches = pick(rng, 8, 64);
    p->dp = pick(rng, 1, 2);
    p->ep = pick(rng, 1, 2);
    p->tp = pick(rng, 1, 2);
    p->cross = p->cross && p->tp == 2 ? 1 : 0;
    p->ring = p->ring && p->dp == 2 ? 1 : 0;
    p->tp_slower = p->tp == 2 ? p->tp_slower : 0;
    p->grad_bytes = p->grad_bytes ? (uint64_t)p->ep * p->dp * 64 * pick(rng, 1, 60) : 0;
}

static void expect_same(const struct pipe *p, const struct sf_sim_result *a, const struct sf_sim_result *b) {
    char text[256];
    describe(p, text, sizeof text);
    bool same = sf_hash_equal(a->digest, b->digest) && a->step_time == b->step_time && a->grade == b->grade &&
                a->bubble_span == b->bubble_span && memcmp(&a->breakdown, &b->breakdown, sizeof a->breakdown) == 0;
    if (!same) {
        fail_msg("%s: %lld ps with %llu of %llu ops skipped, %lld ps without", text, (long long)a->step_time,
                 (unsigned long long)a->skipped, (unsigned long long)a->events, (long long)b->step_time);
    }
}

static void run_all(const struct pipe *p, const struct toy *t, const struct sf_prog *prog, bool ranks_too,
                    struct sums *sum) {
    struct sf_sim_result quick, slow, unfolded;
    must_run(prog, t, &(struct sf_sim_options){.threads = 1}, &quick);
    must_run(prog, t, &(struct sf_sim_options){.threads = 1, .no_skip = true}, &slow);
    expect_same(p, &quick, &slow);
    assert_int_equal(quick.events, slow.events);
    assert_true(quick.busy_s == slow.busy_s && quick.slowed_s == slow.slowed_s);
    assert_true(quick.bubble_makespan == slow.bubble_makespan);
    assert_int_equal(slow.skipped, 0);
    if (ranks_too) {
        must_run(prog, t, &(struct sf_sim_options){.unfolded = true}, &unfolded);
        expect_same(p, &quick, &unfolded);
        assert_int_equal(unfolded.skipped, 0);
    }
    sum->events += quick.events;
    sum->skipped += quick.skipped;
    sum->runs++;
}

static struct sf_op *op_of(const struct sf_class *c, uint32_t op) {
    return (struct sf_op *)(uintptr_t)&c->ops[op]; /* built here, so ours to change */
}

/* A kernel that is another one, or a message of another size, once: between the first and the last of its kind. */
static void break_period(struct sf_rng *rng, struct sf_prog *prog) {
    const struct sf_class *c = &prog->classes[pick(rng, 0, prog->classes_n - 1)];
    uint32_t i = pick(rng, c->ops_n / 4, c->ops_n - 1 - c->ops_n / 4);
    struct sf_op *op = op_of(c, i);
    if (sf_op_group(op->kind) == SF_OP_IS_COMPUTE) {
        op->recipe = pick(rng, 0, prog->recipes_n - 1);
    } else if (op->kind == SF_OP_SEND) {
        op->bytes += pick(rng, 1, 5000);
    }
}

/* One dependency more, on an op that is long over or has just ended. */
static void add_wait(struct sf_rng *rng, struct sf_prog *prog) {
    const struct sf_class *c = &prog->classes[pick(rng, 0, prog->classes_n - 1)];
    for (uint32_t i = pick(rng, c->ops_n / 4, c->ops_n - 1); i < c->ops_n; i++) {
        if (c->ops[i].dep_n > 0) {
            uint32_t *dep = (uint32_t *)(uintptr_t)&c->deps[c->ops[i].dep_first];
            *dep = i - 1 - pick(rng, 0, i - 1 - *dep);
            return;
        }
    }
}

static void test_skipped_is_simulated(void **state) {
    (void)state;
    struct sf_rng rng = sf_rng_seed(64);
    struct sums sum = {0}, broken = {0};
    for (int i = 0; i < 700; i++) {
        struct pipe p;
        struct toy t = {0};
        random_long(&rng, &p);
        open_for(&t, &p, chance(&rng, 50) ? "transport: { dispatch: 130ns }\n" : NULL);
        struct sf_prog *prog = pipe_build(&p);
        run_all(&p, &t, prog, i % 4 == 0, &sum);
        for (uint32_t k = pick(&rng, 1, 3); k > 0; k--) {
            break_period(&rng, prog);
        }
        run_all(&p, &t, prog, i % 4 == 1, &broken);
        sf_prog_free(prog);
        toy_close(&t);
    }
    assert_true(sum.runs == broken.runs && sum.skipped * 4 > sum.events); /* it is worth it */
    assert_true(broken.skipped > 0 && broken.skipped < sum.skipped);
}

/* Kernels that communication slows down, ports that are fought for. */
static void test_skipped_on_gpus(void **state) {
    (void)state;
    struct sf_rng rng = sf_rng_seed(65);
    struct sums sum = {0};
    uint64_t slowed = 0;
    for (int i = 0; i < 250; i++) {
        struct pipe p;
        struct toy t = {0};
        struct sf_sim_result r;
        random_long(&rng, &p);
        enlarge(&p);
        open_gpus(&t, &p);
        struct sf_prog *prog = pipe_build(&p);
        run_all(&p, &t, prog, i % 4 == 0, &sum);
        must_run(prog, &t, &(struct sf_sim_options){.threads = 2}, &r);
        slowed += r.slowed_s > 0.0 && r.skipped > 0;
        sf_prog_free(prog);
        toy_close(&t);
    }
    assert_true(sum.skipped * 12 > sum.events && slowed > 40);
}

/* What is reduced at the end is reduced in the middle: a stream that was at rest wakes up between two periods. */
static void reduce_early(struct sf_rng *rng, struct sf_prog *prog) {
    const struct sf_class *c = &prog->classes[pick(rng, 0, prog->classes_n - 1)];
    for (uint32_t i = 0; i < c->ops_n; i++) {
        if (c->ops[i].stream == GRAD && c->ops[i].dep_n > 0) {
            uint32_t *dep = (uint32_t *)(uintptr_t)&c->deps[c->ops[i].dep_first];
            *dep = pick(rng, *dep / 4, *dep);
            return;
        }
    }
}

/* Dependencies count, wherever they point. A program that deadlocks does so either way. */
static void test_other_waits(void **state) {
    (void)state;
    struct sf_rng rng = sf_rng_seed(66);
    uint64_t skipped = 0, ran = 0;
    for (int i = 0; i < 300; i++) {
        struct pipe p;
        struct toy t = {0};
        struct sf_sim_result quick, slow;
        random_long(&rng, &p);
        p.ep = p.dp = i % 4 == 0 ? 1 : p.dp;
        p.ring = p.dp > 1 ? p.ring : 0;
        open_for(&t, &p, NULL);
        struct sf_prog *prog = pipe_build(&p);
        for (uint32_t k = i % 4 == 0 ? 0 : pick(&rng, 1, 4); k > 0; k--) {
            add_wait(&rng, prog);
        }
        if (i % 2 == 0) {
            reduce_early(&rng, prog);
        }
        struct sf_err err = {0}, same = {0};
        int rc = sf_sim_run(prog, t.cost, &(struct sf_sim_options){0}, &quick, &err);
        assert_int_equal(rc, sf_sim_run(prog, t.cost, &(struct sf_sim_options){.no_skip = true}, &slow, &same));
        if (rc == SF_OK) {
            expect_same(&p, &quick, &slow);
            skipped += quick.skipped > 0;
            ran++;
        } else {
            assert_string_equal(err.msg, same.msg);
        }
        sf_prog_free(prog);
        toy_close(&t);
    }
    assert_true(ran > 150 && skipped > 60);
}

/* Pipelines that differ in routes meet in the middle of their rhythm: who waits for the others does not go on. */
static void test_waits_for_others(void **state) {
    (void)state;
    struct sf_rng rng = sf_rng_seed(68);
    uint64_t skipped = 0;
    for (int i = 0; i < 150; i++) {
        struct pipe p;
        struct toy t = {0};
        struct sums sum = {0};
        random_long(&rng, &p);
        p.tp_bytes = p.ep_bytes = 0;
        p.ring = p.cross = 0;
        p.ep = pick(&rng, 1, 3);
        p.dp = pick(&rng, 4, 9);
        p.pp = pick(&rng, 2, 3);
        p.edp = true;
        p.grad_bytes = (uint64_t)p.ep * p.dp * 64 * pick(&rng, 1, 60);
        open_for(&t, &p, NULL);
        struct sf_prog *prog = pipe_build(&p);
        reduce_early(&rng, prog);
        run_all(&p, &t, prog, i % 8 == 0, &sum);
        skipped += sum.skipped > 0;
        sf_prog_free(prog);
        toy_close(&t);
    }
    assert_true(skipped > 30);
}

/* The records, not only their digest. */
static void test_traces_agree(void **state) {
    (void)state;
    struct sf_rng rng = sf_rng_seed(67);
    uint64_t skipped = 0;
    for (int i = 0; i < 40; i++) {
        struct pipe p;
        struct toy t = {0};
        struct sf_sim_result r;
        struct sf_trace quick, slow;
        sf_trace_init(&quick);
        sf_trace_init(&slow);
        random_long(&rng, &p);
        open_for(&t, &p, NULL);
        struct sf_prog *prog = pipe_build(&p);
        must_run(prog, &t, &(struct sf_sim_options){.trace = &slow, .no_skip = true}, &r);
        must_run(prog, &t, &(struct sf_sim_options){.trace = &quick}, &r);
        skipped += r.skipped;
        assert_int_equal(quick.recs_n, slow.recs_n);
        assert_memory_equal(quick.recs, slow.recs, slow.recs_n * sizeof *slow.recs);
        sf_trace_clear(&quick);
        sf_trace_clear(&slow);
        sf_prog_free(prog);
        toy_close(&t);
    }
    assert_true(skipped > 1000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_skipped_is_simulated), cmocka_unit_test(test_skipped_on_gpus),
        cmocka_unit_test(test_other_waits),          cmocka_unit_test(test_waits_for_others),
        cmocka_unit_test(test_traces_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
