/* Collectives inside recipes, and weights of which a rank has a block: as values, by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <time.h>

#include "test_runtime_fixture.h"

enum { ROWS = 6, COLS = 5, BLOCK = 2 }; /* the whole has ROWS x COLS elements; tall blocks are BLOCK rows */

static struct sf_call collective(int kind, int64_t bytes, sf_ref x, sf_ref y) {
    struct sf_call c = call_of(kind, SF_F32, bytes, 0, 0);
    c.comm = 0;
    c.operand[0] = x;
    c.operand[1] = y;
    return c;
}

static struct sf_call copy(int64_t n, sf_ref x, sf_ref y) {
    struct sf_call c = call_of(SF_CALL_COPY, SF_F32, n, 0, 0);
    c.operand[0] = x;
    c.operand[1] = y;
    return c;
}

/* Formals: own block, the gathered whole, the sum of all wholes, own share of that. */
struct plan {
    uint32_t tp, dp;
    struct sf_call odd; /* put in front where its kind is a collective: something to be refused */
};

static uint32_t build_recipe(struct sf_build *b, const struct plan *p) {
    int64_t n = ROWS * COLS, bytes = n * (int64_t)sizeof(float);
    const struct sf_call gather = collective(SF_CALL_ALL_GATHER, bytes, SF_REF(0, 0), SF_REF(1, 0));
    const struct sf_call keep = copy(n, SF_REF(1, 0), SF_REF(2, 0));
    const struct sf_call reduce = collective(SF_CALL_ALL_REDUCE, bytes, SF_REF(2, 0), SF_REF(2, 0));
    const struct sf_call scatter = collective(SF_CALL_REDUCE_SCATTER, bytes, SF_REF(1, 0), SF_REF(3, 0));
    sf_build_recipe_begin(b, "talk", 4);
    if (sf_call_is_collective(p->odd.kind)) {
        sf_build_call(b, &p->odd);
    }
    sf_build_call(b, &gather);
    sf_build_call(b, &keep);
    sf_build_call(b, &reduce);
    sf_build_call(b, &scatter);
    return sf_build_recipe_end(b);
}

/* A block of rows, or with `wide` of columns. */
static void name_block(struct sf_build *b, const char *name, uint32_t buf, uint32_t tp, bool wide, uint32_t init) {
    struct sf_tensor t = {.buf = buf, .init = init, .rows = ROWS, .cols = COLS, .init_std = 1.0f};
    snprintf(t.name, sizeof t.name, "%s", name);
    if (tp > 1 && wide) {
        t.whole_cols = (uint64_t)COLS * tp;
    } else if (tp > 1) {
        t.rows = ROWS / tp;
        t.whole_rows = ROWS;
    } else {
        t.cols *= wide ? ROWS / BLOCK : 1;
    }
    sf_build_tensor(b, &t);
}

static struct sf_prog *build(const struct plan *p) {
    static const uint32_t class_of[] = {0};
    uint64_t bytes = ROWS * COLS * sizeof(float), part = bytes / p->tp;
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    struct sf_build *b = sf_build_create();
    uint32_t tp = sf_build_axis(b, "tp", p->tp), dp = sf_build_axis(b, "dp", p->dp);
    sf_build_comm(b, "tp", 1u << tp);
    uint32_t replicas = sf_build_comm(b, "dp", 1u << dp);
    sf_build_stream(b, "compute");
    sf_build_stream(b, "grad");
    sf_build_prog(b)->ranks_per_domain = sf_build_prog(b)->domain_gpus = p->tp * p->dp;
    uint32_t recipe = build_recipe(b, p);
    sf_build_class_begin(b, "all", 0);
    uint32_t own = sf_build_buffer(b, "own", SF_BUF_PARAM, part, true);
    uint32_t wide = sf_build_buffer(b, "wide", SF_BUF_PARAM, p->tp > 1 ? bytes : ROWS / BLOCK * bytes, true);
    uint32_t sum = sf_build_buffer(b, "sum", SF_BUF_PARAM, bytes, true);
    uint32_t share = sf_build_buffer(b, "share", SF_BUF_PARAM, part, true);
    uint32_t all = sf_build_buffer(b, "all", SF_BUF_WORK, bytes, true);
    uint32_t other = sf_build_buffer(b, "other", SF_BUF_WORK, bytes, true);
    name_block(b, "own", own, p->tp, false, SF_INIT_NORMAL);
    name_block(b, "wide", wide, p->tp, true, SF_INIT_NORMAL);
    name_block(b, "sum", sum, 1, false, SF_INIT_ZERO);
    name_block(b, "share", share, p->tp, false, SF_INIT_ZERO);
    struct sf_op reduce = {.kind = SF_OP_ALL_REDUCE, .stream = 1, .recipe = SF_NONE, .comm = replicas, .bytes = bytes};
    reduce.flags = SF_OP_SUM_F32;
    const struct sf_arg arg = whole(other, bytes, SF_READ_WRITE);
    sf_build_op(b, &reduce, &arg, 1, NULL, 0);
    struct sf_op op = {.kind = SF_OP_ACCUMULATE, .recipe = recipe, .comm = SF_NONE};
    const struct sf_arg args[] = {whole(own, part, SF_READ_WRITE), whole(all, bytes, SF_READ_WRITE),
                                  whole(sum, bytes, SF_READ_WRITE), whole(share, part, SF_READ_WRITE)};
    sf_build_op(b, &op, args, 4, NULL, 0);
    sf_build_op(b, &op, args, 4, (const uint32_t[]){0}, 1);
    sf_build_class_end(b);
    if (sf_build_finish(b, class_of, 1, &prog, &err) != SF_OK) {
        fail_msg("%s", err.msg);
    }
    sf_build_free(b);
    return prog;
}

static float *param(const struct plan *p, const char *name) {
    struct sf_prog *prog = build(p);
    struct sf_err err = {0};
    char dump[128], key[64];
    size_t n;
    snprintf(dump, sizeof dump, "%s", temp_path("recipe"));
    const struct sf_rt_options options = {.steps = 2, .dump_path = dump, .stall_limit = 20 * SF_PS_PER_S};
    if (sf_rt_run_threads(prog, &options, &err) != SF_OK) {
        fail_msg("%s", err.msg);
    }
    snprintf(key, sizeof key, "param/%s", name);
    float *values = read_tensor(dump, key, &n);
    assert_int_equal(n, strcmp(name, "wide") == 0 ? ROWS / BLOCK * ROWS * COLS : ROWS * COLS);
    unlink(dump);
    sf_prog_free(prog);
    return values;
}

/* However a weight is split, it starts from the same numbers and comes back whole. */
static void test_blocks_of_weights(void **state) {
    (void)state;
    const struct plan one = {.tp = 1, .dp = 1}, split = {.tp = ROWS / BLOCK, .dp = 2};
    static const char *const names[] = {"own", "wide"};
    for (int i = 0; i < 2; i++) {
        float *want = param(&one, names[i]), *got = param(&split, names[i]);
        size_t n = (i == 0 ? 1 : ROWS / BLOCK) * ROWS * COLS;
        assert_memory_equal(got, want, n * sizeof(float));
        free(want);
        free(got);
    }
}

static void test_sums_by_hand(void **state) {
    (void)state;
    const struct plan split = {.tp = ROWS / BLOCK, .dp = 2};
    float *own = param(&split, "own"), *sum = param(&split, "sum"), *share = param(&split, "share");
    for (int i = 0; i < ROWS * COLS; i++) {
        float three = (own[i] + own[i]) + own[i]; /* the gathered whole of every member, in member order */
        assert_memory_equal(&sum[i], &three, sizeof three);
        assert_memory_equal(&share[i], &three, sizeof three);
    }
    free(own);
    free(sum);
    free(share);
}

struct fault {
    uint32_t rank, op;
    int sleep_ms; /* 0: fail */
};

static int strike(void *self, uint32_t rank, uint32_t op, struct sf_err *err) {
    const struct fault *f = self;
    if (rank != f->rank || op != f->op) {
        return SF_OK;
    }
    const struct timespec t = {.tv_nsec = f->sleep_ms * 1000000L};
    nanosleep(&t, NULL);
    return f->sleep_ms > 0 ? SF_OK : sf_fail(err, SF_E_IO, "the test says so");
}

/* A rank that waits inside a recipe learns that its partner failed, and says itself when nothing comes. */
static void test_partner_that_does_not_come(void **state) {
    (void)state;
    const struct plan p = {.tp = 2, .dp = 1};
    struct fault f = {.rank = 1, .op = 1};
    const struct sf_hooks hooks = {.self = &f, .before = strike};
    struct sf_rt_options options = {.steps = 1, .hooks = &hooks, .stall_limit = SF_PS_PER_S / 5};
    struct sf_prog *prog = build(&p);
    struct sf_err err = {0};
    assert_int_equal(sf_rt_run_threads(prog, &options, &err), SF_E_FAULT);
    assert_non_null(strstr(err.msg, "rank 1 op 1 ("));
    assert_non_null(strstr(err.msg, "the test says so"));
    f.sleep_ms = 700;
    assert_int_equal(sf_rt_run_threads(prog, &options, &err), SF_E_FAULT);
    assert_non_null(strstr(err.msg, "rank 0 made no progress"));
    assert_non_null(strstr(err.msg, "op 1 ("));
    sf_prog_free(prog);
}

static void refuse(struct sf_call odd, const char *expected) {
    const struct plan p = {.tp = 3, .dp = 1, .odd = odd};
    struct sf_prog *prog = build(&p);
    const struct sf_rt_options options = {.steps = 1};
    struct sf_err err = {0};
    int rc = sf_rt_run_threads(prog, &options, &err);
    if (rc != SF_E_INPUT || !strstr(err.msg, expected)) {
        fail_msg("expected \"%s\", found %d and \"%s\"", expected, rc, err.msg);
    }
    sf_prog_free(prog);
}

static void test_refusals(void **state) {
    (void)state;
    const sf_ref own = SF_REF(0, 0), all = SF_REF(1, 0), sum = SF_REF(2, 0);
    int64_t bytes = ROWS * COLS * (int64_t)sizeof(float);
    refuse(collective(SF_CALL_ALL_TO_ALL, bytes, all, sum), "no CPU kernel for all_to_all f32");
    refuse(collective(SF_CALL_ALL_REDUCE, bytes, all, sum), "all_reduce: expected one operand, in place");
    refuse(collective(SF_CALL_ALL_GATHER, bytes, all, all), "all_gather: expected a share apart from the whole");
    refuse(collective(SF_CALL_ALL_GATHER, 8, own, all), "8 bytes are not f32 elements in 3 equal shares");
    refuse(collective(SF_CALL_ALL_REDUCE, bytes + 4, all, all), "operand 0 touches 124 bytes");
    refuse(collective(SF_CALL_REDUCE_SCATTER, 2 * bytes, all, sum), "operand 0 touches 240 bytes");
    refuse(collective(SF_CALL_ALL_REDUCE, bytes, SF_REF_NONE, all), "operand 0 is missing");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks_of_weights),
        cmocka_unit_test(test_sums_by_hand),
        cmocka_unit_test(test_partner_that_does_not_come),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
