/* Programs: mesh arithmetic, placement, and everything sf_prog_check must refuse. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/prog_build.h"

enum { COMPUTE, FRECV, FSEND, BRECV, BSEND, GRAD };

/* What to break in the program of build_pipe; 0 = nothing. */
enum fault {
    SOUND,
    NO_RECV,         /* stage 1 never receives activation 1 */
    OTHER_SIZE,      /* its receive is larger than the send */
    NO_DEP_FORWARD,  /* a forward does not wait for its receive: a race on the landing buffer */
    EARLY_OPTIMIZER, /* the optimizer does not wait for the reduction */
    MISSING_BACKWARD,
    TOO_LARGE,       /* more memory than the device has */
    CROSSED_ORDER,   /* stage 1 sends its gradients before it takes the activations that make them possible */
    OTHER_COLLECTIVE /* stage 1 reduces with a different size on a communicator that spans the stages */
};

struct pipe {
    struct sf_build *b;
    enum fault fault;
    uint32_t recipe, recipe2, fwd, bwd, dp, all;
};

static uint32_t op(struct pipe *p, struct sf_op o, const struct sf_arg *args, uint32_t args_n, const uint32_t *deps,
                   uint32_t deps_n) {
    return sf_build_op(p->b, &o, args, args_n, deps, deps_n);
}

static struct sf_arg arg(uint32_t buf, uint32_t access, uint64_t bytes) {
    return (struct sf_arg){.buf = buf, .access = access, .bytes = bytes};
}

static uint32_t compute(struct pipe *p, int kind, uint32_t m, struct sf_arg a, struct sf_arg b, const uint32_t *deps,
                        uint32_t deps_n) {
    struct sf_arg args[] = {a, b};
    struct sf_op o = {
        .kind = (uint8_t)kind, .stream = COMPUTE, .recipe = p->recipe, .comm = SF_NONE, .microbatch = (uint16_t)m};
    return op(p, o, args, 2, deps, deps_n);
}

static uint32_t transfer(struct pipe *p, int kind, uint8_t stream, uint32_t comm, int32_t delta, uint32_t m,
                         uint32_t buf, uint64_t bytes, uint32_t dep) {
    struct sf_arg a = arg(buf, kind == SF_OP_SEND ? SF_READ : SF_WRITE, bytes);
    struct sf_op o = {.kind = (uint8_t)kind,
                      .stream = stream,
                      .recipe = SF_NONE,
                      .comm = comm,
                      .peer_delta = delta,
                      .microbatch = (uint16_t)m,
                      .bytes = bytes};
    return op(p, o, &a, 1, &dep, dep == SF_NONE ? 0 : 1);
}

static void finish_stage(struct pipe *p, uint32_t stage, uint32_t grad, uint32_t param, uint32_t last) {
    struct sf_arg g = arg(grad, SF_READ_WRITE, 256);
    struct sf_op reduce = {.kind = SF_OP_ALL_REDUCE, .stream = GRAD, .recipe = SF_NONE, .comm = p->dp, .bytes = 256};
    uint32_t red = op(p, reduce, &g, 1, &last, 1);
    struct sf_arg span = arg(grad, SF_READ_WRITE, p->fault == OTHER_COLLECTIVE && stage == 1 ? 128 : 64);
    struct sf_op everyone = {
        .kind = SF_OP_ALL_REDUCE, .stream = GRAD, .recipe = SF_NONE, .comm = p->all, .bytes = span.bytes};
    uint32_t sum = op(p, everyone, &span, 1, &red, 1);
    compute(p, SF_OP_OPTIMIZER, 0, arg(grad, SF_READ, 256), arg(param, SF_READ_WRITE, 256), &sum,
            p->fault == EARLY_OPTIMIZER ? 0 : 1);
}

static void stage0(struct pipe *p, uint32_t m_n) {
    uint32_t param = sf_build_buffer(p->b, "param", SF_BUF_PARAM, 256, true);
    uint32_t grad = sf_build_buffer(p->b, "grad", SF_BUF_GRAD, 256, true);
    uint32_t last = 0, out[8], in[8];
    for (uint32_t m = 0; m < m_n; m++) {
        out[m] = sf_build_buffer(p->b, "out", SF_BUF_ACTIVATION, 1024, false);
        uint32_t f = compute(p, SF_OP_FORWARD, m, arg(param, SF_READ, 256), arg(out[m], SF_WRITE, 1024), NULL, 0);
        transfer(p, SF_OP_SEND, FSEND, p->fwd, 1, m, out[m], 1024, f);
    }
    for (uint32_t m = 0; m < m_n; m++) {
        in[m] = sf_build_buffer(p->b, "in", SF_BUF_COMM, 1024, false);
        uint32_t r = transfer(p, SF_OP_RECV, BRECV, p->bwd, 1, m, in[m], 1024, SF_NONE);
        if (!(p->fault == MISSING_BACKWARD && m == 1)) {
            last = compute(p, SF_OP_BACKWARD, m, arg(in[m], SF_READ, 1024), arg(grad, SF_READ_WRITE, 256), &r, 1);
        }
    }
    finish_stage(p, 0, grad, param, last);
}

static void stage1(struct pipe *p, uint32_t m_n) {
    uint32_t param = sf_build_buffer(p->b, "param", SF_BUF_PARAM, 256, true);
    uint32_t grad = sf_build_buffer(p->b, "grad", SF_BUF_GRAD, 256, true);
    uint32_t last = 0;
    for (uint32_t m = 0; m < m_n; m++) {
        uint32_t in = sf_build_buffer(p->b, "in", SF_BUF_COMM, 2048, false);
        uint32_t out = sf_build_buffer(p->b, "out", SF_BUF_ACTIVATION, 1024, false);
        uint32_t r = SF_NONE;
        if (!(p->fault == NO_RECV && m == 1)) {
            r = transfer(p, SF_OP_RECV, FRECV, p->fwd, -1, m, in, p->fault == OTHER_SIZE && m == 1 ? 2048 : 1024,
                         p->fault == CROSSED_ORDER && m == 0  ? SF_NONE
                         : m > 0 && p->fault == CROSSED_ORDER ? last
                                                              : SF_NONE);
        }
        uint32_t deps_n = r == SF_NONE || (p->fault == NO_DEP_FORWARD && m == 1) ? 0 : 1;
        compute(p, SF_OP_FORWARD, m, arg(in, SF_READ, 1024), arg(out, SF_WRITE, 1024), &r, deps_n);
        uint32_t b =
            compute(p, SF_OP_BACKWARD, m, arg(out, SF_READ_WRITE, 1024), arg(grad, SF_READ_WRITE, 256), NULL, 0);
        last = transfer(p, SF_OP_SEND, BSEND, p->bwd, -1, m, out, 1024, b);
        if (p->fault == CROSSED_ORDER) {
            continue;
        }
        last = b;
    }
    finish_stage(p, 1, grad, param, last);
}

/* Reads argument 0 and writes argument 1. */
static void make_recipe(struct pipe *p) {
    struct sf_call call = {.kind = SF_CALL_COPY, .comm = SF_NONE, .dims = {64}};
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        call.operand[i] = i < 2 ? SF_REF(i, 0) : SF_REF_NONE;
    }
    sf_build_recipe_begin(p->b, "step", 2);
    sf_build_call(p->b, &call);
    p->recipe = sf_build_recipe_end(p->b);
}

/* Two stages, two replicas, three microbatches. */
static int build_pipe(enum fault fault, struct sf_prog **out, struct sf_err *err) {
    struct pipe p = {.b = sf_build_create(), .fault = fault};
    static const char *const streams[] = {"compute", "fwd.recv", "fwd.send", "bwd.recv", "bwd.send", "grad"};
    assert_non_null(p.b);
    uint32_t dp = sf_build_axis(p.b, "dp", 2), pp = sf_build_axis(p.b, "pp", 2);
    p.fwd = sf_build_comm(p.b, "pp.fwd", 1u << pp);
    p.bwd = sf_build_comm(p.b, "pp.bwd", 1u << pp);
    p.dp = sf_build_comm(p.b, "dp", 1u << dp);
    p.all = sf_build_comm(p.b, "all", 1u << pp | 1u << dp);
    for (int s = 0; s < 6; s++) {
        sf_build_stream(p.b, streams[s]);
    }
    struct sf_prog *prog = sf_build_prog(p.b);
    prog->class_axes = 1u << pp;
    prog->job = (struct sf_prog_job){.microbatches = 3, .chunks = 1};
    prog->device_memory_bytes = fault == TOO_LARGE ? 2048 : 1 << 20;
    make_recipe(&p);
    sf_build_class_begin(p.b, "first", 0);
    stage0(&p, 3);
    sf_build_class_end(p.b);
    sf_build_class_begin(p.b, "last", 1);
    stage1(&p, 3);
    sf_build_class_end(p.b);
    uint32_t class_of[] = {0, 1};
    int rc = sf_build_finish(p.b, class_of, 2, out, err);
    sf_build_free(p.b);
    return rc;
}

static void test_mesh(void **state) {
    (void)state;
    struct sf_prog *prog;
    struct sf_err err = {0};
    assert_int_equal(build_pipe(SOUND, &prog, &err), SF_OK);
    assert_int_equal(sf_prog_ranks(prog), 4);
    assert_int_equal(sf_prog_class(prog, 1), 0);
    assert_int_equal(sf_prog_class(prog, 2), 1);
    assert_int_equal(sf_prog_peer(prog, 1, 0, 1), 3);
    assert_int_equal(sf_prog_peer(prog, 3, 0, 1), 1); /* wraps */
    assert_int_equal(sf_prog_comm_size(prog, 2), 2);
    assert_int_equal(sf_prog_comm_groups(prog, 2), 2);
    assert_int_equal(sf_prog_comm_group(prog, 3, 2), 1);
    assert_int_equal(sf_prog_comm_index(prog, 3, 2), 1);
    for (uint32_t r = 0; r < 4; r++) {
        for (uint32_t c = 0; c < prog->comms_n; c++) {
            uint32_t i = sf_prog_comm_index(prog, r, c);
            assert_int_equal(sf_prog_comm_member(prog, r, c, i), r);
        }
    }
    prog->ranks_per_domain = 3;
    prog->domain_gpus = 4;
    assert_int_equal(sf_prog_gpu(prog, 3), 4); /* one spare seat in the first domain */
    sf_prog_free(prog);
}

static void test_placement_reuses_memory(void **state) {
    (void)state;
    struct sf_prog *prog;
    struct sf_err err = {0};
    assert_int_equal(build_pipe(SOUND, &prog, &err), SF_OK);
    uint64_t sum = 0;
    const struct sf_class *c = &prog->classes[1];
    for (uint32_t i = 0; i < c->bufs_n; i++) {
        sum += c->bufs[i].bytes;
    }
    assert_true(c->arena_bytes <= sum);
    /* Sharing bytes between two buffers that are alive together must be noticed. */
    struct sf_buffer *bufs = (struct sf_buffer *)(uintptr_t)c->bufs;
    bufs[1].offset = bufs[0].offset;
    assert_int_equal(sf_prog_check(prog, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "share memory"));
    sf_prog_free(prog);
}

static void refuse(enum fault fault, int code, const char *what) {
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    assert_int_equal(build_pipe(fault, &prog, &err), code);
    assert_null(prog);
    if (!strstr(err.msg, what)) {
        fail_msg("expected \"%s\" in: %s", what, err.msg);
    }
}

static void test_refusals(void **state) {
    (void)state;
    refuse(NO_RECV, SF_E_INPUT, "no receive matches");
    refuse(OTHER_SIZE, SF_E_INPUT, "another size");
    refuse(NO_DEP_FORWARD, SF_E_INPUT, "at the same time");
    refuse(EARLY_OPTIMIZER, SF_E_INPUT, "at the same time");
    refuse(MISSING_BACKWARD, SF_E_INPUT, "no backward");
    refuse(TOO_LARGE, SF_E_NOPLAN, "too much");
    refuse(OTHER_COLLECTIVE, SF_E_INPUT, "disagree");
}

static void test_sends_that_wait_for_later_receives_are_sound(void **state) {
    (void)state;
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    /* Stage 1 takes activation m only after its gradient m-1 has left, while stage 0 sends all activations first: fine
     * with one queue per direction. */
    if (build_pipe(CROSSED_ORDER, &prog, &err) != SF_OK) {
        fail_msg("%s", err.msg);
    }
    /* Forcing both directions of stage 0 into one queue makes it a rendezvous deadlock. */
    struct sf_op *ops = (struct sf_op *)(uintptr_t)prog->classes[0].ops;
    for (uint32_t i = 0; i < prog->classes[0].ops_n; i++) {
        if (ops[i].stream == BRECV) {
            ops[i].stream = FSEND;
        }
    }
    int rc = sf_prog_check(prog, &err);
    assert_int_equal(rc, SF_E_INPUT);
    if (!strstr(err.msg, "deadlock")) {
        fail_msg("expected a deadlock: %s", err.msg);
    }
    sf_prog_free(prog);
}

static void test_structure(void **state) {
    (void)state;
    struct sf_prog *prog;
    struct sf_err err = {0};
    assert_int_equal(build_pipe(SOUND, &prog, &err), SF_OK);
    struct sf_op *o = (struct sf_op *)(uintptr_t)&prog->classes[0].ops[1];
    struct sf_op keep = *o;
    uint32_t *dep = (uint32_t *)(uintptr_t)&prog->classes[0].deps[o->dep_first];
    *dep = 5;
    assert_int_equal(sf_prog_check(prog, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "backwards"));
    *dep = 0;
    assert_int_equal(sf_prog_check(prog, &err), SF_OK);
    o->comm = 77;
    assert_int_equal(sf_prog_check(prog, &err), SF_E_INPUT);
    *o = keep;
    o->bytes = 1;
    assert_int_equal(sf_prog_check(prog, &err), SF_E_INPUT);
    *o = keep;
    prog->class_of[1] = 9;
    assert_int_equal(sf_prog_check(prog, &err), SF_E_INPUT);
    sf_prog_free(prog);
}

/* ---- split backwards and copies of the model --------------------------------------------------------------------- */

struct pass {
    int kind;
    uint16_t chunk, microbatch;
};

/* One rank, two microbatches of one chunk; passes in the order given, weight gradients added into one buffer. */
static int build_passes(const struct pass *passes, uint32_t n, struct sf_err *err) {
    struct pipe p = {.b = sf_build_create()};
    struct sf_prog *prog = NULL;
    uint32_t class_of[] = {0}, last = 0;
    sf_build_axis(p.b, "dp", 1);
    sf_build_stream(p.b, "compute");
    sf_build_prog(p.b)->job = (struct sf_prog_job){.microbatches = 2, .chunks = 1};
    make_recipe(&p);
    sf_build_class_begin(p.b, "only", 0);
    uint32_t param = sf_build_buffer(p.b, "param", SF_BUF_PARAM, 256, true);
    uint32_t grad = sf_build_buffer(p.b, "grad", SF_BUF_GRAD, 256, true);
    uint32_t acts = sf_build_buffer(p.b, "acts", SF_BUF_ACTIVATION, 1024, true);
    for (uint32_t i = 0; i < n; i++) {
        bool adds = passes[i].kind == SF_OP_BACKWARD || passes[i].kind == SF_OP_BACKWARD_WEIGHT;
        last = compute(&p, passes[i].kind, passes[i].microbatch, arg(param, SF_READ, 256),
                       adds ? arg(grad, SF_READ_WRITE, 256) : arg(acts, SF_READ_WRITE, 1024), NULL, 0);
    }
    compute(&p, SF_OP_OPTIMIZER, 0, arg(grad, SF_READ, 256), arg(param, SF_READ_WRITE, 256), &last, 1);
    sf_build_class_end(p.b);
    int rc = sf_build_finish(p.b, class_of, 1, &prog, err);
    sf_build_free(p.b);
    sf_prog_free(prog);
    return rc;
}

#define F(m)                                                                                                           \
    { SF_OP_FORWARD, 0, m }
#define B(m)                                                                                                           \
    { SF_OP_BACKWARD, 0, m }
#define I(m)                                                                                                           \
    { SF_OP_BACKWARD_INPUT, 0, m }
#define W(m)                                                                                                           \
    { SF_OP_BACKWARD_WEIGHT, 0, m }

static void passes_are(const char *says, const struct pass *passes, uint32_t n) {
    struct sf_err err = {0};
    int rc = build_passes(passes, n, &err);
    if ((rc == SF_OK) != (says[0] == '\0') || !strstr(err.msg, says)) {
        fail_msg("expected \"%s\", found %d: %s", says, rc, err.msg);
    }
}
#define PASSES(says, ...)                                                                                              \
    passes_are(says, (const struct pass[]){__VA_ARGS__},                                                               \
               sizeof((const struct pass[]){__VA_ARGS__}) / sizeof(struct pass))

static void test_split_backwards(void **state) {
    (void)state;
    PASSES("", F(0), F(1), B(0), B(1));
    PASSES("", F(0), F(1), I(0), I(1), W(1), W(0));
    PASSES("", F(0), I(0), F(1), B(1), W(0));
    PASSES("1 of 2 passes", F(0), I(0), W(0), F(1), I(1));
    PASSES("after its backward_input", F(0), F(1), I(0), W(1), I(1), W(0));
    PASSES("after its backward_input", F(0), F(1), B(0), I(1), W(1), W(0));
    PASSES("second backward", F(0), F(1), B(0), I(1), W(1), I(0));
    PASSES("second backward", F(0), F(1), I(0), B(0), B(1));
    PASSES("after its forward", F(0), I(1), F(1), W(1), B(0));
    PASSES("was there already", F(0), F(1), I(0), F(0), W(0), B(1));
}

enum copies_fault { BOTH_ADDED, NOT_ADDED, ADDED_TOO_LATE, PART_ADDED, OTHER_SHARE, ODD_SHARE };

/* Two ranks with a copy of the same layer each, a microbatch each; they swap gradients and add them. */
static int build_copies(enum copies_fault fault, struct sf_err *err) {
    struct pipe p = {.b = sf_build_create()};
    struct sf_prog *prog = NULL;
    uint32_t class_of[] = {0};
    static const char *const streams[] = {"compute", "send", "recv"};
    enum { MAIN, OUT, IN };
    uint32_t pp = sf_build_axis(p.b, "pp", 2), swap = sf_build_comm(p.b, "pp.swap", 1u << pp);
    for (int s = 0; s < 3; s++) {
        sf_build_stream(p.b, streams[s]);
    }
    sf_build_prog(p.b)->job = (struct sf_prog_job){.microbatches = fault == ODD_SHARE ? 3 : 2, .chunks = 2};
    sf_build_prog(p.b)->job.extra_copies = 1;
    make_recipe(&p);
    sf_build_class_begin(p.b, "twin", 0);
    uint32_t param = sf_build_buffer(p.b, "param", SF_BUF_PARAM, 256, true), last = 0;
    uint32_t grad = sf_build_buffer(p.b, "grad", SF_BUF_GRAD, 256, true);
    uint32_t other = sf_build_buffer(p.b, "other", SF_BUF_COMM, 256, true);
    uint32_t acts = sf_build_buffer(p.b, "acts", SF_BUF_ACTIVATION, 256, true);
    for (uint16_t chunk = 0; chunk < 2; chunk++) {
        for (int k = 0; k < 2; k++) {
            struct sf_op o = {.kind = k == 0 ? SF_OP_FORWARD : SF_OP_BACKWARD, .recipe = 0, .comm = SF_NONE};
            struct sf_arg args[] = {arg(param, SF_READ, 256), arg(k == 0 ? acts : grad, SF_READ_WRITE, 256)};
            o.chunk = chunk;
            o.microbatch = fault == OTHER_SHARE ? 0 : chunk;
            last = sf_build_op(p.b, &o, args, 2, NULL, 0);
        }
    }
    uint32_t sent = transfer(&p, SF_OP_SEND, OUT, swap, 1, 0, grad, 256, last);
    uint32_t deps[] = {sent, transfer(&p, SF_OP_RECV, IN, swap, -1, 0, other, 256, last)};
    if (fault == ADDED_TOO_LATE) {
        compute(&p, SF_OP_OPTIMIZER, 0, arg(grad, SF_READ, 256), arg(param, SF_READ_WRITE, 256), NULL, 0);
    }
    uint64_t part = fault == PART_ADDED ? 128 : 256;
    if (fault != NOT_ADDED) {
        compute(&p, SF_OP_ACCUMULATE, 0, arg(other, SF_READ, part), arg(grad, SF_READ_WRITE, part), deps, 2);
    }
    compute(&p, SF_OP_OPTIMIZER, 0, arg(grad, SF_READ, 256), arg(param, SF_READ_WRITE, 256), deps, 2);
    sf_build_class_end(p.b);
    int rc = sf_build_finish(p.b, class_of, 1, &prog, err);
    sf_build_free(p.b);
    sf_prog_free(prog);
    return rc;
}

static void copies_are(enum copies_fault fault, const char *says) {
    struct sf_err err = {0};
    int rc = build_copies(fault, &err);
    if ((rc == SF_OK) != (says[0] == '\0') || !strstr(err.msg, says)) {
        fail_msg("expected \"%s\", found %d: %s", says, rc, err.msg);
    }
}

static void test_copies_of_the_model(void **state) {
    (void)state;
    copies_are(BOTH_ADDED, "");
    copies_are(NOT_ADDED, "before those of the other copy");
    copies_are(ADDED_TOO_LATE, "add a dependency");
    copies_are(PART_ADDED, "before those of the other copy");
    copies_are(OTHER_SHARE, "another of the 2 copies");
    copies_are(ODD_SHARE, "do not divide 3 microbatches");
}

static void test_out_of_memory(void **state) {
    (void)state;
    int rc = SF_E_INTERNAL;
    for (size_t n = 1; n < 400 && rc != SF_OK; n++) {
        struct sf_prog *prog = NULL;
        struct sf_err err = {0};
        struct sf_build *b;
        sf_alloc_fail_after(n);
        b = sf_build_create();
        sf_alloc_fail_after(0);
        if (!b) {
            continue;
        }
        sf_build_free(b);
        rc = build_pipe(SOUND, &prog, &err);
        assert_int_equal(rc, SF_OK);
        sf_alloc_fail_after(n);
        int check = sf_prog_check(prog, &err);
        sf_alloc_fail_after(0);
        sf_prog_free(prog);
        rc = check;
    }
    assert_int_equal(rc, SF_OK); /* with enough memory it passes at last */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mesh),
        cmocka_unit_test(test_placement_reuses_memory),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_sends_that_wait_for_later_receives_are_sound),
        cmocka_unit_test(test_structure),
        cmocka_unit_test(test_split_backwards),
        cmocka_unit_test(test_copies_of_the_model),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
