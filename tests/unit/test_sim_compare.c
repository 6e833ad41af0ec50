/* Comparing traces: what is joined, counted and refused. */
#include <jansson.h>

#include "sim/compare.h"
#include "tests/unit/test_sim_fixture.h"

#define ITERATIONS 5

/* Two pipeline stages, two microbatches, and the trace that the simulator predicts for them. */
struct world {
    struct toy toy;
    struct sf_prog *prog;
    struct sf_trace predicted, measured;
    struct sf_sim_result result;
};

/* Measured = predicted, `ITERATIONS` times over. */
static void world_open(struct world *w) {
    struct sf_err err = {0};
    struct pipe p = {.tp = 1,
                     .ep = 1,
                     .dp = 1,
                     .pp = 2,
                     .microbatches = 2,
                     .per_domain = 2,
                     .domain_gpus = 2,
                     .f_ns = {1000, 3000},
                     .b_ns = {2000, 2000},
                     .act_bytes = 512};
    toy_open(&w->toy, 1, 2, 1, NULL);
    w->prog = pipe_build(&p);
    sf_trace_init(&w->predicted);
    sf_trace_init(&w->measured);
    struct sf_sim_options options = {.unfolded = true, .trace = &w->predicted, .trace_ranks = 2};
    must_run(w->prog, &w->toy, &options, &w->result);
    sf_trace_sort(&w->predicted);
    w->measured.meta = w->predicted.meta;
    w->measured.meta.iterations = ITERATIONS;
    for (uint32_t iter = 0; iter < ITERATIONS; iter++) {
        for (size_t i = 0; i < w->predicted.recs_n; i++) {
            struct sf_trace_rec rec = w->predicted.recs[i];
            rec.iter = iter;
            rec.source = SF_TIME_HOST;
            must(sf_trace_add(&w->measured, &rec, &err), &err);
        }
    }
}

static void world_close(struct world *w) {
    sf_trace_clear(&w->predicted);
    sf_trace_clear(&w->measured);
    sf_prog_free(w->prog);
    toy_close(&w->toy);
}

static int kind_of(const struct world *w, const struct sf_trace_rec *r) {
    return w->prog->classes[sf_prog_class(w->prog, r->rank)].ops[r->op].kind;
}

static struct sf_compare_options plain(void) {
    return (struct sf_compare_options){.skip = 2, .tolerance = 0.10, .gaps = 3};
}

static void must_compare(const struct world *w, const struct sf_compare_options *o, struct sf_compare *out) {
    struct sf_err err = {0};
    must(sf_compare_run(w->prog, &w->predicted, &w->measured, o, out, &err), &err);
}

static void must_refuse(const struct world *w, const char *why) {
    struct sf_err err = {0};
    struct sf_compare c;
    struct sf_compare_options o = plain();
    assert_int_equal(sf_compare_run(w->prog, &w->predicted, &w->measured, &o, &c, &err), SF_E_INPUT);
    if (strstr(err.msg, why) == NULL) {
        fail_msg("expected \"%s\" in \"%s\"", why, err.msg);
    }
}

static const struct sf_compare_group *kind_group(const struct sf_compare *c, int kind) {
    for (size_t i = 0; i < c->kinds_n; i++) {
        if (c->kinds[i].kind == kind) {
            return &c->kinds[i];
        }
    }
    fail_msg("no group of kind %s", sf_op_name(kind));
    return NULL;
}

static void test_equal_traces_agree(void **state) {
    (void)state;
    struct world w;
    struct sf_compare c;
    world_open(&w);
    struct sf_compare_options o = plain();
    o.cost = w.toy.cost;
    must_compare(&w, &o, &c);
    assert_true(c.within);
    assert_true(c.step.error == 0.0 && c.step.p90 == 0.0);
    assert_int_equal(c.step.count, w.predicted.recs_n);
    assert_int_equal(kind_group(&c, SF_OP_FORWARD)->count, 4);
    assert_int_equal(kind_group(&c, SF_OP_FORWARD)->predicted, 2 * (1000 + 3000) * NS);
    assert_int_equal(kind_group(&c, SF_OP_BACKWARD)->measured, 4 * 2000 * NS);
    assert_int_equal(c.predicted_makespan, w.result.step_time);
    assert_int_equal(c.replayed_makespan, w.result.step_time);
    assert_int_equal(c.wall, w.result.step_time);
    assert_int_equal(c.order_violations_n, 0);
    assert_int_equal(c.missing_ops, 0);
    assert_true(c.order_checked > 0);
    assert_int_equal(c.unpredicted + c.unmeasured, 0);
    sf_compare_clear(&c);
    world_close(&w);
}

/* Forwards took twice as long as predicted: -50 %, and all the blame. */
static void test_errors_are_signed_and_attributed(void **state) {
    (void)state;
    struct world w;
    struct sf_compare c;
    world_open(&w);
    for (size_t i = 0; i < w.measured.recs_n; i++) {
        w.measured.recs[i].busy *= kind_of(&w, &w.measured.recs[i]) == SF_OP_FORWARD ? 2 : 1;
    }
    struct sf_compare_options o = plain();
    o.cost = w.toy.cost;
    must_compare(&w, &o, &c);
    assert_false(c.within);
    const struct sf_compare_group *f = kind_group(&c, SF_OP_FORWARD);
    assert_true(f->error == -0.5 && f->p50 == 0.5 && f->p90 == 0.5 && f->share == 1.0);
    assert_true(kind_group(&c, SF_OP_BACKWARD)->error == 0.0);
    assert_int_equal(c.step.measured - c.step.predicted, 2 * (1000 + 3000) * NS);
    assert_string_equal(c.recipes[0].name, "f1.0");
    assert_true(c.recipes[0].share == 0.75 && c.recipes[1].share == 0.25);
    assert_int_equal(c.gaps_n, 3);
    assert_int_equal(c.gaps[0].measured - c.gaps[0].predicted, 3000 * NS);
    assert_int_equal(c.gaps[0].rank, 1);
    assert_string_equal(c.gaps[0].label, "forward c0 m0");
    assert_true(c.replayed_makespan > c.predicted_makespan);
    sf_compare_clear(&c);
    world_close(&w);
}

static void test_tolerance_is_inclusive(void **state) {
    (void)state;
    struct world w;
    struct sf_compare c;
    world_open(&w);
    for (size_t i = 0; i < w.measured.recs_n; i++) {
        w.measured.recs[i].busy *= 2;
    }
    struct sf_compare_options o = plain();
    o.tolerance = 0.5;
    must_compare(&w, &o, &c);
    assert_true(c.within);
    sf_compare_clear(&c);
    o.tolerance = 0.4999;
    must_compare(&w, &o, &c);
    assert_false(c.within);
    sf_compare_clear(&c);
    world_close(&w);
}

/* A slow start does not count, and neither does one odd iteration among the others. */
static void test_warm_up_and_outliers_do_not_count(void **state) {
    (void)state;
    struct world w;
    struct sf_compare c;
    world_open(&w);
    for (size_t i = 0; i < w.measured.recs_n; i++) {
        uint32_t iter = w.measured.recs[i].iter;
        w.measured.recs[i].busy *= iter < 2 ? 100 : iter == 3 ? 7 : 1;
    }
    struct sf_compare_options o = plain();
    must_compare(&w, &o, &c);
    assert_true(c.step.error == 0.0);
    sf_compare_clear(&c);
    o.skip = 0;
    must_compare(&w, &o, &c); /* busy times 1, 1, 7, 100, 100: the median is 7 */
    assert_int_equal(c.step.measured, 7 * c.step.predicted);
    sf_compare_clear(&c);
    o.skip = ITERATIONS;
    struct sf_err err = {0};
    assert_int_equal(sf_compare_run(w.prog, &w.predicted, &w.measured, &o, &c, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "has 5 iterations and the first 5 are left out"));
    world_close(&w);
}

static void test_other_programs_are_refused(void **state) {
    (void)state;
    struct world w;
    world_open(&w);
    char own[SF_HASH_TEXT];
    sf_hash_format(w.predicted.meta.prog, own);
    w.measured.meta.prog = (struct sf_hash){1, 2};
    must_refuse(&w, own);
    must_refuse(&w, "00000000000000010000000000000002");
    w.predicted.meta.prog = w.measured.meta.prog; /* both traces agree, but not with the program at hand */
    must_refuse(&w, own);
    world_close(&w);
}

/* The record of the n-th op of a kind on a rank in one iteration. */
static struct sf_trace_rec *find_rec(struct world *w, uint32_t iter, uint32_t rank, int kind) {
    for (size_t i = 0; i < w->measured.recs_n; i++) {
        struct sf_trace_rec *r = &w->measured.recs[i];
        if (r->iter == iter && r->rank == rank && kind_of(w, r) == kind) {
            return r;
        }
    }
    fail_msg("no record of kind %s", sf_op_name(kind));
    return NULL;
}

static void test_early_starts_break_the_order(void **state) {
    (void)state;
    struct world w;
    struct sf_compare c;
    struct sf_compare_options o = plain();
    world_open(&w);
    /* A send that starts before the forward whose output it carries: 3 us earlier than that forward ends. */
    struct sf_trace_rec *send = find_rec(&w, 4, 0, SF_OP_SEND);
    struct sf_trace_rec *forward = find_rec(&w, 4, 0, SF_OP_FORWARD);
    sf_time_ps start = send->start;
    send->start = forward->end - NS;
    must_compare(&w, &o, &c);
    assert_int_equal(c.order_violations_n, 1);
    assert_int_equal(c.order_violations[0].rule, SF_ORDER_DEPENDENCY);
    assert_int_equal(c.order_violations[0].by, NS);
    assert_int_equal(c.order_violations[0].iter, 4);
    sf_compare_clear(&c);
    send->start = start;
    /* The optimizer, last on the compute stream, starts first of all. */
    find_rec(&w, 0, 1, SF_OP_OPTIMIZER)->start = 0;
    must_compare(&w, &o, &c);
    assert_int_equal(c.order_violations[0].rule, SF_ORDER_STREAM);
    assert_int_equal(c.order_violations[0].iter, 0);
    sf_compare_clear(&c);
    world_close(&w);
}

/* Remove one record by moving the others up. */
static void drop(struct sf_trace *t, const struct sf_trace_rec *rec) {
    size_t at = (size_t)(rec - t->recs);
    memmove(&t->recs[at], &t->recs[at + 1], (t->recs_n - at - 1) * sizeof *t->recs);
    t->recs_n--;
}

/* Ops 0 and 1 of rank 0 run as one in every iteration: their predictions add up. */
static void test_fused_records_are_summed(void **state) {
    (void)state;
    struct world w;
    struct sf_compare c;
    struct sf_compare_options o = plain();
    world_open(&w);
    for (size_t i = 0; i + 1 < w.measured.recs_n; i++) {
        struct sf_trace_rec *r = &w.measured.recs[i];
        if (r->rank == 0 && r->op == 0) {
            r->covers = 2;
            r->busy += r[1].busy;
            r->end = r[1].end;
            drop(&w.measured, r + 1);
        }
    }
    must_compare(&w, &o, &c);
    assert_true(c.step.error == 0.0 && c.step.p90 == 0.0);
    assert_int_equal(c.step.count, w.predicted.recs_n);
    assert_int_equal(c.missing_ops, 0);
    assert_int_equal(c.unpredicted + c.unmeasured, 0);
    sf_compare_clear(&c);
    world_close(&w);
}

static void test_missing_records_are_counted(void **state) {
    (void)state;
    struct world w;
    struct sf_compare c;
    struct sf_compare_options o = plain();
    world_open(&w);
    for (uint32_t iter = 0; iter < ITERATIONS; iter++) {
        drop(&w.measured, find_rec(&w, iter, 0, SF_OP_OPTIMIZER));
    }
    must_compare(&w, &o, &c);
    assert_int_equal(c.missing_ops, ITERATIONS);
    assert_int_equal(c.unmeasured, 1);
    assert_int_equal(c.step.count, w.predicted.recs_n - 1);
    sf_compare_clear(&c);
    world_close(&w);
}

static void test_hostile_records_are_refused(void **state) {
    (void)state;
    struct world w;
    world_open(&w);
    struct sf_trace_rec *last = &w.measured.recs[w.measured.recs_n - 1], good = *last;
    last->rank = 2;
    must_refuse(&w, "rank 2");
    *last = good;
    last->op = UINT32_MAX;
    must_refuse(&w, "op 4294967295");
    *last = good;
    last->covers = 2;
    must_refuse(&w, "covering 2 ops");
    *last = good;
    last->covers = 0;
    must_refuse(&w, "covering 0 ops");
    *last = good;
    last->busy = -1;
    must_refuse(&w, "impossible times");
    *last = good;
    last->end = last->start - 1;
    must_refuse(&w, "impossible times");
    *last = last[-1];
    must_refuse(&w, "repeated or out of order");
    *last = good;
    for (size_t i = 0; i < w.measured.recs_n; i++) {
        w.measured.recs[i].busy = INT64_MAX / 2;
    }
    must_refuse(&w, "more than 106 days");
    w.measured.recs_n = 0;
    must_refuse(&w, "no records");
    world_close(&w);
}

static void test_nothing_measured_is_no_agreement(void **state) {
    (void)state;
    struct world w;
    struct sf_compare c;
    struct sf_compare_options o = plain();
    world_open(&w);
    for (size_t i = 0; i < w.measured.recs_n; i++) {
        w.measured.recs[i].busy = 0;
    }
    must_compare(&w, &o, &c);
    assert_false(c.within);
    assert_int_equal(c.step.timed, 0);
    json_t *doc = sf_compare_json(&c);
    assert_true(json_is_null(json_object_get(doc, "step_error")));
    json_decref(doc);
    sf_compare_clear(&c);
    world_close(&w);
}

static void test_json_has_what_scripts_read(void **state) {
    (void)state;
    static const char *const keys[] = {
        "verdict", "step_error",          "per_kind",      "attribution", "order_violations",
        "gaps",    "makespan_replayed_s", "wall_median_s", "tolerance",   "program"};
    struct world w;
    struct sf_compare c;
    struct sf_compare_options o = plain();
    world_open(&w);
    must_compare(&w, &o, &c);
    json_t *doc = sf_compare_json(&c);
    assert_non_null(doc);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        assert_non_null(json_object_get(doc, keys[i]));
    }
    assert_true(json_is_null(json_object_get(doc, "makespan_replayed_s"))); /* no cost model was given */
    json_t *forward = json_object_get(json_object_get(doc, "per_kind"), "forward");
    assert_int_equal(json_integer_value(json_object_get(forward, "count")), 4);
    assert_string_equal(json_string_value(json_object_get(doc, "verdict")), "within tolerance");
    json_decref(doc);
    sf_compare_clear(&c);
    world_close(&w);
}

static void test_memory_running_out(void **state) {
    (void)state;
    struct world w;
    struct sf_compare_options o = plain();
    world_open(&w);
    o.cost = w.toy.cost;
    int rc = SF_E_INTERNAL;
    size_t n = 1;
    for (; rc != SF_OK; n++) {
        struct sf_err err = {0};
        struct sf_compare c;
        sf_alloc_fail_after(n);
        rc = sf_compare_run(w.prog, &w.predicted, &w.measured, &o, &c, &err);
        sf_alloc_fail_after(0);
        assert_true(rc == SF_OK || rc == SF_E_INTERNAL);
        sf_compare_clear(&c);
    }
    assert_true(n > 8);
    world_close(&w);
}

/* One file in memory. */
struct one_file {
    const char *text;
};

static int read_one(void *self, const char *path, size_t max_bytes, char **data, size_t *bytes, struct sf_err *err) {
    const struct one_file *f = self;
    (void)path;
    (void)max_bytes;
    (void)err;
    *bytes = strlen(f->text);
    *data = sf_malloc(*bytes + 1);
    assert_non_null(*data);
    memcpy(*data, f->text, *bytes + 1);
    return SF_OK;
}

static int load_text(const char *text, struct sf_forecast *out, struct sf_err *err) {
    struct one_file f = {text};
    struct sf_io io = {&f, read_one, NULL};
    return sf_forecast_load(&io, "forecast.json", out, err);
}

static struct sf_forecast example(void) {
    return (struct sf_forecast){.prog = {1, 2},
                                .topo = {3, 4},
                                .cost = {5, 6},
                                .trace = {7, 8},
                                .seed = UINT64_MAX,
                                .step_cpu = 123456789012345,
                                .step_time = 98765,
                                .trace_file = "a \"b\"/\xc3\xa9.sftrace",
                                .prog_file = "p.sfprog",
                                .cluster_file = "../c.yaml"};
}

static void test_forecasts_round_trip(void **state) {
    (void)state;
    struct sf_forecast f = example(), g;
    struct sf_buf text = {0};
    struct sf_err err = {0};
    must(sf_forecast_print(&f, &text, &err), &err);
    sf_buf_write(&text, "", 1);
    must(load_text(text.data, &g, &err), &err);
    assert_memory_equal(&f, &g, sizeof f);
    sf_buf_free(&text);
}

/* Whichever digit of a number or hash is changed, the seal notices. */
static void test_changed_forecasts_are_refused(void **state) {
    (void)state;
    struct sf_forecast f = example(), g;
    struct sf_buf text = {0};
    struct sf_err err = {0};
    must(sf_forecast_print(&f, &text, &err), &err);
    sf_buf_write(&text, "", 1);
    size_t changed = 0;
    for (size_t i = 0; i + 1 < text.bytes; i++) {
        char c = text.data[i];
        if (c >= '0' && c <= '9') {
            text.data[i] = c == '9' ? '8' : (char)(c + 1);
            assert_int_equal(load_text(text.data, &g, &err), SF_E_INPUT);
            text.data[i] = c;
            changed++;
        }
    }
    assert_true(changed > 100);
    assert_int_equal(load_text("{}", &g, &err), SF_E_INPUT);
    assert_int_equal(load_text("[1, 2", &g, &err), SF_E_INPUT);
    assert_int_equal(err.line, 1);
    assert_int_equal(load_text("{\"format\": \"staticfire-forecast\", \"version\": 2}", &g, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "version 2"));
    sf_buf_free(&text);
}

static void test_forecasts_belong_to_one_trace(void **state) {
    (void)state;
    struct sf_forecast f = example();
    struct sf_trace t;
    struct sf_err err = {0};
    sf_trace_init(&t);
    t.meta.prog = f.prog;
    t.meta.topo = f.topo;
    t.meta.cost = f.cost;
    f.step_cpu = f.step_time = 0; /* of a trace without records */
    must(sf_forecast_check(&f, &t, f.trace, &err), &err);
    f.step_cpu = 1;
    assert_int_equal(sf_forecast_check(&f, &t, f.trace, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "bent"));
    f.step_cpu = 0;
    assert_int_equal(sf_forecast_check(&f, &t, (struct sf_hash){9, 9}, &err), SF_E_INPUT);
    t.meta.cost = (struct sf_hash){9, 9};
    assert_int_equal(sf_forecast_check(&f, &t, f.trace, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "cost model"));
    sf_trace_clear(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_traces_agree),
        cmocka_unit_test(test_errors_are_signed_and_attributed),
        cmocka_unit_test(test_tolerance_is_inclusive),
        cmocka_unit_test(test_warm_up_and_outliers_do_not_count),
        cmocka_unit_test(test_other_programs_are_refused),
        cmocka_unit_test(test_early_starts_break_the_order),
        cmocka_unit_test(test_fused_records_are_summed),
        cmocka_unit_test(test_missing_records_are_counted),
        cmocka_unit_test(test_hostile_records_are_refused),
        cmocka_unit_test(test_nothing_measured_is_no_agreement),
        cmocka_unit_test(test_json_has_what_scripts_read),
        cmocka_unit_test(test_memory_running_out),
        cmocka_unit_test(test_forecasts_round_trip),
        cmocka_unit_test(test_changed_forecasts_are_refused),
        cmocka_unit_test(test_forecasts_belong_to_one_trace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
