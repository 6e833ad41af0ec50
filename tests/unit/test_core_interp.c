/* The interpreter: streams in order, dependencies kept, watchdog and fault hooks. The programs are random, the backend
 * finishes ops after random waits, and the executed order is checked against the program. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/interp.h"
#include "core/prog_build.h"
#include "core/rng.h"

enum { OPS = 60, STREAMS = 5 };

/* A class of LOAD ops (they need nothing but a buffer each) with random streams and dependencies. */
static struct sf_prog *random_program(struct sf_rng *r) {
    struct sf_build *b = sf_build_create();
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    char name[SF_NAME] = "s0";
    sf_build_axis(b, "dp", 1);
    for (; name[1] < '0' + STREAMS; name[1]++) {
        sf_build_stream(b, name);
    }
    sf_build_prog(b)->job.chunks = 1;
    sf_build_class_begin(b, "all", 0);
    for (uint32_t i = 0; i < OPS; i++) {
        struct sf_arg arg = {
            .buf = sf_build_buffer(b, "tokens", SF_BUF_TOKENS, 64, true), .access = SF_WRITE, .bytes = 64};
        uint32_t deps[3], deps_n = 0;
        while (i > 0 && deps_n < sf_rng_u64(r) % 4) {
            deps[deps_n++] = (uint32_t)(sf_rng_u64(r) % i);
        }
        struct sf_op op = {
            .kind = SF_OP_LOAD, .stream = (uint8_t)(sf_rng_u64(r) % STREAMS), .recipe = SF_NONE, .comm = SF_NONE};
        sf_build_op(b, &op, &arg, 1, deps, deps_n);
    }
    sf_build_class_end(b);
    uint32_t class_of = 0;
    if (sf_build_finish(b, &class_of, 1, &prog, &err) != SF_OK) {
        fail_msg("%s", err.msg);
    }
    sf_build_free(b);
    return prog;
}

struct fake {
    struct sf_rng rng;
    sf_time_ps clock;
    uint32_t wait[OPS]; /* polls until done */
    uint32_t order[OPS], order_n;
    bool done[OPS];
    uint32_t stuck; /* op that never finishes, or SF_NONE */
    const struct sf_class *cls;
    char aborted[256];
};

static enum sf_issue finish(struct fake *f, uint32_t op) {
    f->done[op] = true;
    return SF_ISSUE_DONE;
}

static enum sf_issue fake_issue(void *self, uint32_t rank, uint32_t op, struct sf_err *err) {
    struct fake *f = self;
    (void)rank;
    (void)err;
    for (uint32_t d = 0; d < f->cls->ops[op].dep_n; d++) {
        assert_true(f->done[f->cls->deps[f->cls->ops[op].dep_first + d]]);
    }
    for (uint32_t i = 0; i < op; i++) {
        assert_true(f->done[i] || f->cls->ops[i].stream != f->cls->ops[op].stream);
    }
    assert_false(f->done[op]);
    f->order[f->order_n++] = op;
    f->wait[op] = (uint32_t)(sf_rng_u64(&f->rng) % 4);
    return f->wait[op] == 0 && op != f->stuck ? finish(f, op) : SF_ISSUE_PENDING;
}

static enum sf_issue fake_test(void *self, uint32_t rank, uint32_t op, struct sf_err *err) {
    struct fake *f = self;
    (void)rank;
    (void)err;
    if (op == f->stuck || f->wait[op]-- > 1) {
        return SF_ISSUE_PENDING;
    }
    return finish(f, op);
}

static sf_time_ps fake_now(void *self) {
    struct fake *f = self;
    return f->clock += SF_PS_PER_S / 1000;
}

static void fake_abort(void *self, uint32_t rank, const struct sf_err *why) {
    struct fake *f = self;
    (void)rank;
    memcpy(f->aborted, why->msg, sizeof f->aborted - 1);
}

static int run(struct fake *f, const struct sf_prog *prog, const struct sf_run_options *options, struct sf_err *err) {
    struct sf_arena *arena = sf_arena_create();
    struct sf_iclass *c = NULL;
    struct sf_backend be = {f, fake_issue, fake_test, fake_now, fake_abort, NULL};
    f->cls = &prog->classes[0];
    assert_int_equal(sf_iclass_create(prog, 0, arena, &c, err), SF_OK);
    int rc = sf_interp_run(c, 0, &be, options, err);
    sf_arena_free(arena);
    return rc;
}

static void test_order(void **state) {
    (void)state;
    struct sf_rng r = sf_rng_seed(7);
    for (int i = 0; i < 200; i++) {
        struct sf_prog *prog = random_program(&r);
        struct fake f = {.rng = sf_rng_split(&r, (uint64_t)i), .stuck = SF_NONE};
        struct sf_err err = {0};
        assert_int_equal(run(&f, prog, &(struct sf_run_options){0}, &err), SF_OK);
        assert_int_equal(f.order_n, OPS);
        sf_prog_free(prog);
    }
}

static void test_watchdog_names_the_op(void **state) {
    (void)state;
    struct sf_rng r = sf_rng_seed(8);
    struct sf_prog *prog = random_program(&r);
    struct fake f = {.rng = r, .stuck = 31};
    struct sf_err err = {0};
    struct sf_run_options options = {.stall_limit = SF_PS_PER_S / 10, .prog = prog};
    assert_int_equal(run(&f, prog, &options, &err), SF_E_FAULT);
    assert_non_null(strstr(err.msg, "rank 0"));
    assert_non_null(strstr(err.msg, "op 31 (load"));
    assert_string_equal(f.aborted, err.msg);
    sf_prog_free(prog);
}

static int refuse_op(void *self, uint32_t rank, uint32_t op, struct sf_err *err) {
    return op == *(uint32_t *)self ? sf_fail(err, SF_E_FAULT, "injected on rank %u", rank) : SF_OK;
}

static void test_hook_fails_one_op(void **state) {
    (void)state;
    struct sf_rng r = sf_rng_seed(9);
    struct sf_prog *prog = random_program(&r);
    struct fake f = {.rng = r, .stuck = SF_NONE};
    struct sf_err err = {0};
    uint32_t victim = 20;
    struct sf_hooks hooks = {&victim, refuse_op};
    assert_int_equal(run(&f, prog, &(struct sf_run_options){.hooks = &hooks}, &err), SF_E_FAULT);
    assert_string_equal(err.msg, "injected on rank 0");
    assert_false(f.done[20]);
    assert_string_equal(f.aborted, err.msg);
    sf_prog_free(prog);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_watchdog_names_the_op),
        cmocka_unit_test(test_hook_fails_one_op),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
