/* Copies between a device and its host: which of them share an engine or a direction of the link, by hand; what they
 * take from kernels; folded equals unfolded; conservation. */
#include <math.h>

#include "test_sim_random.h"

enum { BYTES = 4000 }; /* at the 4 GB/s that half of the toy's memory rate is: a microsecond */

static const char *engines; /* of the toy, as its file has them */

static int read_with_engines(void *self, const char *path, size_t max_bytes, char **data, size_t *bytes,
                             struct sf_err *err) {
    if (strcmp(path, "cat/devices/toy.yaml") != 0) {
        return toy_read(self, path, max_bytes, data, bytes, err);
    }
    size_t room = sizeof toy_device + 128;
    *data = sf_malloc(room);
    assert_non_null(*data);
    *bytes = (size_t)snprintf(*data, room, "%scopy_engines: { value: %s, source: test, grade: measured }\n", toy_device,
                              engines);
    return SF_OK;
}

static int open_with(struct toy *t, const char *n, struct sf_err *err) {
    toy_open(t, 1, 4, 1, NULL); /* writes the cluster */
    toy_close(t);
    t->topo = NULL;
    t->cost = NULL;
    engines = n;
    t->io = (struct sf_io){&t->files, read_with_engines, NULL};
    SF_TRY(sf_topo_load(&t->io, "cluster.yaml", "cat", &t->topo, err));
    return sf_cost_create(t->topo, &t->io, NULL, &t->cost, err);
}

/* The rings' transfers become copies: FSEND and BSEND to the host, FRECV and BRECV from it, or all one way. */
static void take_to_host(struct sf_prog *prog, uint64_t bytes, bool one_way) {
    for (uint32_t c = 0; c < prog->classes_n; c++) {
        for (uint32_t i = 0; i < prog->classes[c].ops_n; i++) {
            struct sf_op *op = (struct sf_op *)(uintptr_t)&prog->classes[c].ops[i];
            if (op->kind == SF_OP_SEND || op->kind == SF_OP_RECV) {
                op->kind = op->kind == SF_OP_SEND || one_way ? SF_OP_OFFLOAD : SF_OP_FETCH;
                op->comm = SF_NONE;
                op->bytes = bytes;
            }
        }
    }
}

/* Two copies (four with `cross`) that all begin with the step. */
static struct sf_prog *copies(bool cross, bool one_way) {
    struct pipe p = {.tp = 2, .ep = 1, .dp = 2, .pp = 1, .microbatches = 1, .domain_gpus = 4, .per_domain = 4};
    p.f_ns[0] = p.b_ns[0] = 10;
    p.act_bytes = 64;
    p.ring = 1;
    p.cross = cross ? 1 : 0;
    struct sf_prog *prog = pipe_build(&p);
    take_to_host(prog, BYTES, one_way);
    return prog;
}

static sf_time_ps last_end(const char *n, bool cross, bool one_way) {
    struct toy t = {0};
    struct sf_err err = {0};
    struct sf_trace trace = {0};
    struct sf_sim_result r;
    must(open_with(&t, n, &err), &err);
    struct sf_prog *prog = copies(cross, one_way);
    must_run(prog, &t, &(struct sf_sim_options){.unfolded = true, .audit = true, .trace = &trace, .trace_ranks = 1},
             &r);
    assert_string_equal(r.violation, "");
    sf_time_ps last = 0;
    for (size_t i = 0; i < trace.recs_n; i++) {
        uint8_t kind = prog->classes[0].ops[trace.recs[i].op].kind;
        bool copy = kind == SF_OP_OFFLOAD || kind == SF_OP_FETCH;
        assert_true(!copy || trace.recs[i].start == 0);
        last = copy && trace.recs[i].end > last ? trace.recs[i].end : last;
    }
    sf_trace_clear(&trace);
    sf_prog_free(prog);
    toy_close(&t);
    return last;
}

static void test_engines_and_directions(void **state) {
    (void)state;
    static const struct {
        const char *engines;
        bool cross, one_way;
        sf_time_ps us;
    } rows[] = {
        {"1", false, false, 2}, /* one engine takes turns between the directions */
        {"2", false, false, 1}, /* a second one makes the difference, */
        {"3", false, false, 1}, /* a third none */
        {"1", false, true, 2},  /* what goes the same way shares the link: */
        {"2", false, true, 2},  /* a second engine is no help */
        {"1", true, false, 4},  {"2", true, false, 2}, {"3", true, true, 4},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        sf_time_ps end = last_end(rows[i].engines, rows[i].cross, rows[i].one_way);
        if (end != rows[i].us * US) {
            fail_msg("row %zu: expected %lld us, found %lld ps", i, (long long)rows[i].us, (long long)end);
        }
    }
}

/* A copy that ends leaves its share to those that go on: 4000 B beside 12000 B one way. */
static void test_what_goes_on_gets_faster(void **state) {
    (void)state;
    struct toy t = {0};
    struct sf_err err = {0};
    struct sf_trace trace = {0};
    struct sf_sim_result r;
    must(open_with(&t, "2", &err), &err);
    struct sf_prog *prog = copies(false, true);
    ((struct sf_op *)(uintptr_t)&prog->classes[0].ops[1])->bytes = (uint64_t)3 * BYTES;
    must_run(prog, &t, &(struct sf_sim_options){.audit = true, .trace = &trace, .trace_ranks = 1}, &r);
    assert_string_equal(r.violation, "");
    for (size_t i = 0; i < trace.recs_n; i++) {
        if (trace.recs[i].op < 2) {
            assert_int_equal(trace.recs[i].end, (trace.recs[i].op == 0 ? 2 : 4) * US);
        }
    }
    sf_trace_clear(&trace);
    sf_prog_free(prog);
    toy_close(&t);
}

static void test_engines_are_counted(void **state) {
    (void)state;
    struct toy t = {0}, more = {0};
    struct sf_err err = {0};
    must(open_with(&t, "2", &err), &err);
    must(open_with(&more, "3", &err), &err);
    assert_int_equal(sf_topo_device(t.topo)->copy_engines, 2);
    assert_false(sf_hash_equal(sf_topo_hash(t.topo), sf_topo_hash(more.topo)));
    toy_close(&more);
    toy_close(&t);
    t = (struct toy){0};
    assert_int_equal(open_with(&t, "0", &err), SF_E_INPUT);
    assert_true(err.line > 0);
    toy_close(&t);
}

/* H100s on a PCI Express link: a kernel that streams is slowed down by what a copy takes from the memory, no more. */
static void test_kernels_share_the_memory(void **state) {
    (void)state;
    struct pipe p = {.tp = 2, .ep = 1, .dp = 2, .pp = 1, .microbatches = 1, .domain_gpus = 4, .per_domain = 4};
    struct toy t = {0};
    struct sf_sim_result alone, beside;
    p.f_ns[0] = p.b_ns[0] = 400000000;
    p.act_bytes = 64;
    p.cross = 1; /* nothing waits for these */
    open_gpus(&t, &p);
    struct sf_prog *prog = pipe_build(&p);
    take_to_host(prog, 64, false);
    must_run(prog, &t, &(struct sf_sim_options){.audit = true}, &alone);
    take_to_host(prog, 0, false);
    for (uint32_t i = 0; i < 2; i++) {
        struct sf_op *op = (struct sf_op *)(uintptr_t)&prog->classes[0].ops[i];
        assert_true(op->kind == SF_OP_OFFLOAD || op->kind == SF_OP_FETCH);
        op->bytes = op->kind == SF_OP_OFFLOAD ? UINT64_C(1) << 31 : 64;
    }
    must_run(prog, &t, &(struct sf_sim_options){.audit = true}, &beside);
    assert_string_equal(beside.violation, "");
    const struct sf_device_class *d = sf_topo_device(t.topo);
    /* Without a link to a host a copy moves at half of what the memory can do, while it lasts. */
    double rate = (double)d->memory_bytes_per_s * d->memory_efficiency / 2;
    double share = rate / ((double)d->memory_bytes_per_s * d->kernels.memory_share), lasts = 2147483648.0 / rate;
    double slower = sf_ps_to_s(beside.step_time - alone.step_time);
    assert_true(fabs(slower - share * lasts) < 0.01 * share * lasts);
    sf_prog_free(prog);
    toy_close(&t);
}

static void test_folded_equals_unfolded(void **state) {
    (void)state;
    struct sf_rng rng = sf_rng_seed(41);
    uint64_t saved = 0, slowed = 0;
    for (int i = 0; i < 200; i++) {
        struct pipe p;
        struct toy t = {0};
        struct sf_err err = {0};
        struct sf_sim_result folded, unfolded;
        random_pipe(&rng, &p);
        enlarge(&p);
        if (i % 2) {
            open_gpus(&t, &p);
        } else {
            p.dp = p.tp = 2;
            p.ep = p.pp = 1;
            p.ring = p.cross = 1;
            p.domain_gpus = p.per_domain = 4;
            p.tp_slower = 0;
            must(open_with(&t, i % 4 ? "1" : "2", &err), &err);
        }
        struct sf_prog *prog = pipe_build(&p);
        take_to_host(prog, p.act_bytes, chance(&rng, 30));
        must_run(prog, &t, &(struct sf_sim_options){.audit = true}, &folded);
        must_run(prog, &t, &(struct sf_sim_options){.unfolded = true, .audit = true, .threads = 2}, &unfolded);
        if (!sf_hash_equal(folded.digest, unfolded.digest) || folded.violations + unfolded.violations > 0) {
            fail_msg("%d: %s%s", i, folded.violation, unfolded.violation);
        }
        saved += folded.instances < unfolded.instances;
        slowed += unfolded.slowed_s > 0.0;
        sf_prog_free(prog);
        toy_close(&t);
    }
    assert_true(saved > 50 && slowed > 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_engines_and_directions), cmocka_unit_test(test_what_goes_on_gets_faster),
        cmocka_unit_test(test_engines_are_counted),    cmocka_unit_test(test_kernels_share_the_memory),
        cmocka_unit_test(test_folded_equals_unfolded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
