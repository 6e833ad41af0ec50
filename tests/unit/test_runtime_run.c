/* Whole runs as threads: numbers against a model written out by hand, faults, interruption, traces. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "core/rng.h"
#include "runtime/data.h"
#include "tests/unit/test_runtime_fixture.h"

static struct sf_prog *build(struct bigram shape) {
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    if (bigram_build(&shape, &prog, &err) != SF_OK) {
        fail_msg("%s", err.msg);
    }
    return prog;
}

static void run_ok(const struct sf_prog *prog, const struct sf_rt_options *options) {
    struct sf_err err = {0};
    if (sf_rt_run_threads(prog, options, &err) != SF_OK) {
        fail_msg("%s", err.msg);
    }
}

/* The weights that (seed, name, row) give. */
static void initial_table(uint64_t seed, float *w) {
    struct sf_rng root = sf_rng_seed(seed), tensor = sf_rng_split_text(&root, "table");
    for (uint64_t row = 0; row < BIGRAM_VOCAB; row++) {
        struct sf_rng r = sf_rng_split(&tensor, row);
        for (int col = 0; col < BIGRAM_VOCAB; col++) {
            *w++ = (float)(sf_rng_normal(&r) * 0.5);
        }
    }
}

/* Loss and gradient of one step in doubles. */
static double by_hand(const struct sf_prog *prog, const char *text_path, const float *w, double *grad) {
    struct sfi_data *data;
    int32_t x[BIGRAM_SEQ], y[BIGRAM_SEQ];
    double loss = 0.0, scale = 1.0 / (BIGRAM_SEQ * BIGRAM_BATCH);
    assert_int_equal(sfi_data_load(&prog->job, 0, text_path, &data, NULL), 0);
    for (uint32_t s = 0; s < BIGRAM_BATCH; s++) {
        sfi_data_fill(data, 0, s, 1, 0, x);
        sfi_data_fill(data, 0, s, 1, 1, y);
        for (int i = 0; i < BIGRAM_SEQ; i++) {
            const float *row = w + x[i] * BIGRAM_VOCAB;
            double sum = 0.0;
            for (int v = 0; v < BIGRAM_VOCAB; v++) {
                sum += exp((double)row[v]);
            }
            loss += scale * (log(sum) - (double)row[y[i]]);
            for (int v = 0; v < BIGRAM_VOCAB; v++) {
                grad[x[i] * BIGRAM_VOCAB + v] += scale * (exp((double)row[v]) / sum - (v == y[i]));
            }
        }
    }
    sfi_data_free(data);
    return loss;
}

static void test_one_step_by_hand(void **state) {
    (void)state;
    enum { N = BIGRAM_VOCAB * BIGRAM_VOCAB };
    static float w[N];
    static double grad[N];
    struct sf_prog *prog = build((struct bigram){.dp = 2});
    char dump[128], text[128];
    snprintf(text, sizeof text, "%s", make_text(4096));
    snprintf(dump, sizeof dump, "%s", temp_path("dump"));
    const struct sf_rt_options options = {.steps = 1, .data_path = text, .dump_path = dump};
    run_ok(prog, &options);
    initial_table(prog->job.seed, w);
    memset(grad, 0, sizeof grad);
    double loss = by_hand(prog, text, w, grad);
    size_t n = 0;
    float *got_loss = read_tensor(dump, "loss", &n);
    assert_int_equal(n, 1);
    assert_true(fabs((double)got_loss[0] - loss) < 1e-5);
    float *got_grad = read_tensor(dump, "grad/table", &n);
    assert_int_equal(n, N);
    float *got_param = read_tensor(dump, "param/table", &n);
    for (size_t i = 0; i < N; i++) {
        assert_true(fabs((double)got_grad[i] - grad[i]) < 1e-6);
        /* First AdamW step: both moments are one gradient, so the step is lr * g / (|g| + eps); lr is warming up. */
        double step = 0.5 * 0.125 * (double)got_grad[i] / (fabs((double)got_grad[i]) + 1e-8);
        assert_true(fabs((double)got_param[i] - ((double)w[i] - step)) < 1e-5);
    }
    free(got_loss);
    free(got_grad);
    free(got_param);
    unlink(dump);
    sf_prog_free(prog);
}

/* A pipeline of `pp` stages that hands a vector on, each adding its own weights: the last stage stores the sum. */
static struct sf_prog *build_relay(uint32_t pp, uint32_t n) {
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    struct sf_build *b = sf_build_create();
    uint32_t *class_of = calloc(pp, sizeof *class_of);
    uint32_t axis = sf_build_axis(b, "pp", pp), comm = sf_build_comm(b, "pp.fwd", 1u << axis);
    sf_build_stream(b, "compute");
    sf_build_stream(b, "recv");
    sf_build_stream(b, "send");
    sf_build_prog(b)->class_axes = 1u << axis;
    sf_build_prog(b)->ranks_per_domain = sf_build_prog(b)->domain_gpus = pp;
    uint32_t add = one_call(b, "add", call_of(SF_CALL_ADD, SF_F32, n, 0, 0), 3);
    uint64_t bytes = n * sizeof(float);
    for (uint32_t s = 0; s < pp; s++) {
        class_of[s] = s;
        sf_build_class_begin(b, "stage", s);
        uint32_t w = sf_build_buffer(b, "w", SF_BUF_PARAM, bytes, true);
        uint32_t sum = sf_build_buffer(b, "sum", SF_BUF_PARAM, bytes, true);
        uint32_t in = sf_build_buffer(b, "in", SF_BUF_COMM, bytes, true);
        struct sf_tensor t = {.buf = w, .init = SF_INIT_NORMAL, .rows = 1, .cols = n, .init_std = 1.0f};
        snprintf(t.name, sizeof t.name, "w%u", s);
        sf_build_tensor(b, &t);
        t = (struct sf_tensor){.buf = sum, .init = SF_INIT_ZERO, .rows = 1, .cols = n};
        snprintf(t.name, sizeof t.name, "sum%u", s);
        sf_build_tensor(b, &t);
        struct sf_op op = {.recipe = SF_NONE, .comm = comm, .bytes = bytes};
        uint32_t last = 0;
        if (s > 0) {
            op.kind = SF_OP_RECV;
            op.stream = 1;
            op.peer_delta = -1;
            struct sf_arg arg = whole(in, bytes, SF_WRITE);
            last = sf_build_op(b, &op, &arg, 1, NULL, 0);
        }
        struct sf_op compute = {.kind = SF_OP_ACCUMULATE, .recipe = add, .comm = SF_NONE};
        const struct sf_arg args[] = {whole(in, bytes, SF_READ), whole(w, bytes, SF_READ), whole(sum, bytes, SF_WRITE)};
        last = sf_build_op(b, &compute, args, 3, &last, s > 0);
        if (s + 1 < pp) {
            op.kind = SF_OP_SEND;
            op.stream = 2;
            op.peer_delta = 1;
            struct sf_arg arg = whole(sum, bytes, SF_READ);
            sf_build_op(b, &op, &arg, 1, &last, 1);
        }
        sf_build_class_end(b);
    }
    if (sf_build_finish(b, class_of, pp, &prog, &err) != SF_OK) {
        fail_msg("%s", err.msg);
    }
    sf_build_free(b);
    free(class_of);
    return prog;
}

/* Far more ranks than this machine has cores: waiting ones must sleep and be woken. */
static void test_relay_over_many_ranks(void **state) {
    (void)state;
    enum { RANKS = 24, N = 1000 };
    struct sf_prog *prog = build_relay(RANKS, N);
    char dump[128], name[16];
    snprintf(dump, sizeof dump, "%s", temp_path("relay"));
    const struct sf_rt_options options = {.steps = 3, .dump_path = dump, .stall_limit = 20 * SF_PS_PER_S};
    run_ok(prog, &options);
    static float want[N];
    for (int s = 0; s < RANKS; s++) {
        size_t n;
        snprintf(name, sizeof name, "param/w%d", s);
        float *w = read_tensor(dump, name, &n);
        snprintf(name, sizeof name, "param/sum%d", s);
        float *sum = read_tensor(dump, name, &n);
        for (size_t i = 0; i < N; i++) {
            want[i] += w[i];
        }
        assert_memory_equal(sum, want, sizeof want);
        free(w);
        free(sum);
    }
    unlink(dump);
    sf_prog_free(prog);
}

struct fault {
    uint32_t rank, op;
    int sleep_ms; /* 0: fail */
    atomic_int hits;
};

static int strike(void *self, uint32_t rank, uint32_t op, struct sf_err *err) {
    struct fault *f = self;
    if (rank != f->rank || op != f->op) {
        return SF_OK;
    }
    atomic_fetch_add(&f->hits, 1);
    if (f->sleep_ms == 0) {
        return sf_fail(err, SF_E_IO, "the test says so");
    }
    const struct timespec t = {.tv_sec = f->sleep_ms / 1000, .tv_nsec = f->sleep_ms % 1000 * 1000000L};
    nanosleep(&t, NULL);
    return SF_OK;
}

/* Whatever op of whatever rank fails, all ranks end, and the message names the culprit. */
static void test_any_fault_ends_all(void **state) {
    (void)state;
    struct sf_prog *prog = build((struct bigram){.dp = 4, .zero = true});
    const char *text = make_text(4096);
    char where[32];
    for (uint32_t rank = 0; rank < 4; rank++) {
        for (uint32_t op = 0; op < prog->classes[0].ops_n; op++) {
            struct fault f = {.rank = rank, .op = op};
            const struct sf_hooks hooks = {.self = &f, .before = strike};
            const struct sf_rt_options options = {.steps = 2, .data_path = text, .hooks = &hooks};
            struct sf_err err = {0};
            assert_int_equal(sf_rt_run_threads(prog, &options, &err), SF_E_FAULT);
            assert_int_equal(err.code, SF_E_FAULT);
            snprintf(where, sizeof where, "rank %u op %u (", rank, op);
            assert_non_null(strstr(err.msg, where));
            assert_non_null(strstr(err.msg, "the test says so"));
            assert_int_equal(atomic_load(&f.hits), 1);
        }
    }
    sf_prog_free(prog);
}

/* Rank 0 never gets to its send: rank 1 must say that its receive hangs. */
static void test_stuck_rank_is_named(void **state) {
    (void)state;
    struct sf_prog *prog = build_relay(2, 16);
    struct fault f = {.rank = 0, .op = 1, .sleep_ms = 700};
    const struct sf_hooks hooks = {.self = &f, .before = strike};
    const struct sf_rt_options options = {.steps = 1, .hooks = &hooks, .stall_limit = SF_PS_PER_S / 5};
    struct sf_err err = {0};
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    assert_int_equal(sf_rt_run_threads(prog, &options, &err), SF_E_FAULT);
    clock_gettime(CLOCK_MONOTONIC, &end);
    assert_non_null(strstr(err.msg, "rank 1 made no progress"));
    assert_non_null(strstr(err.msg, "op 0 (recv"));
    assert_true((end.tv_sec - begin.tv_sec) * 1000 + (end.tv_nsec - begin.tv_nsec) / 1000000 < 3000);
    sf_prog_free(prog);
}

/* A rank that hangs outside of any transfer keeps the others at the end of the step. */
static void test_missing_rank_between_steps(void **state) {
    (void)state;
    struct sf_prog *prog = build_relay(2, 16);
    struct fault f = {.rank = 1, .op = 1, .sleep_ms = 700};
    const struct sf_hooks hooks = {.self = &f, .before = strike};
    const struct sf_rt_options options = {.steps = 1, .hooks = &hooks, .stall_limit = SF_PS_PER_S / 5};
    struct sf_err err = {0};
    assert_int_equal(sf_rt_run_threads(prog, &options, &err), SF_E_FAULT);
    assert_non_null(strstr(err.msg, "rank 0 waited 0.2 s between steps: only 1 of 2 ranks came"));
    sf_prog_free(prog);
}

static void stop_after_second(void *self, const struct sf_rt_step *step) {
    uint32_t *steps = self;
    *steps = step->step + 1;
    assert_true(isfinite(step->loss) && step->wall_s > 0.0 && step->cpu_s > 0.0);
    assert_true(isnan(step->norm) && isnan(step->launch_s));
    if (step->step == 1) {
        sf_rt_request_stop();
    }
}

/* The request comes while the others may already be in the next step: that one is finished, too, and then all stop. */
static void test_interruption_finishes_the_step(void **state) {
    (void)state;
    struct sf_prog *prog = build((struct bigram){.dp = 2});
    struct sf_trace trace;
    uint32_t steps = 0;
    sf_trace_init(&trace);
    struct sf_rt_options options = {
        .steps = 50, .data_path = make_text(4096), .trace = &trace, .on_step = stop_after_second, .self = &steps};
    struct sf_err err = {0};
    assert_int_equal(sf_rt_run_threads(prog, &options, &err), SF_E_INTERRUPTED);
    assert_in_range(steps, 2, 3);
    assert_int_equal(trace.meta.iterations, steps);
    assert_int_equal(trace.recs_n, (size_t)steps * 2 * prog->classes[0].ops_n);
    sf_trace_clear(&trace);
    options.trace = NULL;
    options.on_step = NULL;
    options.steps = 2;
    run_ok(prog, &options); /* the request is forgotten */
    sf_prog_free(prog);
}

static void forbid_memory(void *self, const struct sf_rt_step *step) {
    sf_alloc_fail_after(step->step + 1 < *(uint32_t *)self ? 1 : 0);
}

static void test_nothing_is_allocated_after_the_first_step(void **state) {
    (void)state;
    struct sf_prog *prog = build((struct bigram){.dp = 2, .zero = true});
    struct sf_trace trace;
    uint32_t steps = 6;
    char dump[128];
    snprintf(dump, sizeof dump, "%s", temp_path("alloc"));
    sf_trace_init(&trace);
    const struct sf_rt_options options = {.steps = steps,
                                          .data_path = make_text(4096),
                                          .trace = &trace,
                                          .dump_path = dump,
                                          .on_step = forbid_memory,
                                          .self = &steps};
    run_ok(prog, &options);
    assert_int_equal(trace.meta.iterations, steps);
    sf_trace_clear(&trace);
    unlink(dump);
    sf_prog_free(prog);
}

/* Every op once per step; on a stream in program order; after everything it depends on; no CPU time beyond the clock.
 */
static void check_rank_trace(const struct sf_prog *prog, const struct sf_trace_rec *recs) {
    const struct sf_class *c = &prog->classes[0];
    sf_time_ps stream_end[SF_MAX_STREAMS] = {0};
    for (uint32_t i = 0; i < c->ops_n; i++) {
        const struct sf_trace_rec *r = &recs[i];
        assert_int_equal(r->op, i);
        assert_int_equal(r->stream, c->ops[i].stream);
        assert_int_equal(r->source, SF_TIME_HOST);
        assert_int_equal(r->bytes, c->ops[i].bytes);
        assert_true(r->issue >= stream_end[r->stream] && r->start >= r->issue && r->end >= r->start);
        for (uint32_t d = 0; d < c->ops[i].dep_n; d++) {
            assert_true(r->issue >= recs[c->deps[c->ops[i].dep_first + d]].end);
        }
        assert_true(r->busy >= 0 && r->busy <= r->end - r->issue + SF_PS_PER_S / 100);
        if (sf_op_group(c->ops[i].kind) == SF_OP_IS_COMPUTE) {
            assert_true(r->busy > 0);
        }
        stream_end[r->stream] = r->end;
    }
}

static void test_trace_follows_the_program(void **state) {
    (void)state;
    enum { STEPS = 4 };
    struct sf_prog *prog = build((struct bigram){.dp = 2});
    struct sf_trace trace;
    sf_trace_init(&trace);
    const struct sf_rt_options options = {.steps = STEPS, .data_path = make_text(4096), .trace = &trace};
    run_ok(prog, &options);
    uint32_t ops = prog->classes[0].ops_n;
    assert_int_equal(trace.recs_n, STEPS * 2 * ops);
    assert_true(sf_hash_equal(trace.meta.prog, sf_prog_hash(prog)));
    assert_string_equal(trace.meta.origin, "threads");
    assert_int_equal(trace.meta.ranks, 2);
    for (uint32_t i = 0; i < STEPS * 2; i++) {
        assert_int_equal(trace.recs[i * ops].iter, i / 2);
        assert_int_equal(trace.recs[i * ops].rank, i % 2);
        check_rank_trace(prog, &trace.recs[i * ops]);
    }
    /* An all-reduce is over nowhere before it has begun everywhere. */
    const struct sf_trace_rec *a = &trace.recs[ops - 2], *b = &trace.recs[2 * ops - 2];
    assert_int_equal(prog->classes[0].ops[ops - 2].kind, SF_OP_ALL_REDUCE);
    assert_true(a->end >= b->issue && b->end >= a->issue);
    sf_trace_clear(&trace);
    sf_prog_free(prog);
}

static void refuse(struct bigram shape, const char *text, int code, const char *expected) {
    struct sf_prog *prog = build(shape);
    const struct sf_rt_options options = {.steps = 1, .data_path = text};
    struct sf_err err = {0};
    int rc = sf_rt_run_threads(prog, &options, &err);
    if (rc != code || !strstr(err.msg, expected)) {
        fail_msg("expected code %d and \"%s\", found %d and \"%s\"", code, expected, rc, err.msg);
    }
    sf_prog_free(prog);
}

static void test_refusals(void **state) {
    (void)state;
    const char *text = make_text(4096);
    refuse((struct bigram){.dp = 2, .dtype = SF_BF16}, text, SF_E_INPUT,
           "no CPU kernel for embed_fwd bf16: train dense f32 models here");
    refuse((struct bigram){.dp = 2, .skip_sum_flag = true}, text, SF_E_INPUT, "reductions add f32 on CPU");
    refuse((struct bigram){.dp = 2, .table_rows = 300}, text, SF_E_INPUT, "operand 1 touches 307200 bytes");
    refuse((struct bigram){.dp = 2, .table_rows = 100}, text, SF_E_INPUT, "works on 100 tokens");
    refuse((struct bigram){.dp = 2}, NULL, SF_E_USAGE, "--data");
    refuse((struct bigram){.dp = 2}, "/nowhere/text", SF_E_IO, "cannot open");
    refuse((struct bigram){.dp = 2}, make_text(BIGRAM_SEQ), SF_E_INPUT, "expected at least 33");
}

static void test_wrong_batch_is_refused(void **state) {
    (void)state;
    struct sf_prog *prog = build((struct bigram){.dp = 2});
    prog->job.global_batch_sequences = 6;
    const struct sf_rt_options options = {.steps = 1, .data_path = make_text(4096)};
    struct sf_err err = {0};
    assert_int_equal(sf_rt_run_threads(prog, &options, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "do not make the global batch of 6"));
    sf_prog_free(prog);
}

static void test_shared_sequences_are_refused(void **state) {
    (void)state;
    struct sf_prog *prog = build((struct bigram){.dp = 2});
    for (uint32_t a = 0; a < prog->axes_n; a++) {
        if (prog->axes[a].size == 2) {
            snprintf(prog->axes[a].name, sizeof prog->axes[a].name, "cp");
        }
    }
    const struct sf_rt_options options = {.steps = 1, .data_path = make_text(4096)};
    struct sf_err err = {0};
    assert_int_equal(sf_rt_run_threads(prog, &options, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "no backend runs cp, found cp 2"));
    sf_prog_free(prog);
}

static int clean_up(void **state) {
    (void)state;
    unlink(temp_path("text"));
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_step_by_hand),
        cmocka_unit_test(test_relay_over_many_ranks),
        cmocka_unit_test(test_any_fault_ends_all),
        cmocka_unit_test(test_stuck_rank_is_named),
        cmocka_unit_test(test_missing_rank_between_steps),
        cmocka_unit_test(test_interruption_finishes_the_step),
        cmocka_unit_test(test_nothing_is_allocated_after_the_first_step),
        cmocka_unit_test(test_trace_follows_the_program),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_wrong_batch_is_refused),
        cmocka_unit_test(test_shared_sequences_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, clean_up);
}
