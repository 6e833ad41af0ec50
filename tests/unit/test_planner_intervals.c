/* Intervals of a table's rows come from its calibration rows alone; memory of attention that keeps its scores. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/arena.h"
#include "planner/score_memory.h"
#include "planner/validate_internal.h"

enum { ROWS = 120 };

/* A row that took 1 s, predicted with `error`. */
static void set_row(struct sf_validation *v, const char *framework, const char *device, const char *model,
                    bool calibration, double error, double bare_s) {
    memset(v, 0, sizeof *v);
    snprintf(v->framework, sizeof v->framework, "%s", framework);
    snprintf(v->device, sizeof v->device, "%s", device);
    snprintf(v->row.model, sizeof v->row.model, "%s", model);
    snprintf(v->row.source_file, sizeof v->row.source_file, "t.csv");
    v->row.step_time_s = 1.0;
    v->predicted_s = 1.0 + error;
    v->error = error;
    v->calibration = calibration;
    v->bare_s = calibration ? bare_s : 0.0;
    v->interval.kernels = 0.03;
}

static void summarise(struct sf_validate *v) {
    struct sf_err err = {0};
    if (sfi_validate_summarise(v, &err)) {
        fail_msg("%s", err.msg);
    }
}

static void test_many_rows(void **state) {
    (void)state;
    struct sf_validation rows[ROWS];
    struct sf_validate v = {.rows = rows, .rows_n = ROWS};
    for (int i = 0; i < ROWS; i++) { /* errors of 0 to 20 %, in calibration and test alike */
        set_row(&rows[i], "many", "toy", "m", i < ROWS / 2, 0.20 * (i % (ROWS / 2)) / (ROWS / 2.0), 0.5);
    }
    summarise(&v);
    const struct sf_validation_summary *all = &v.summaries[v.summaries_n - 1];
    assert_int_equal(all->n, ROWS / 2);
    assert_in_range(all->covered, 0.85 * ROWS / 2, ROWS / 2 - 1);
    assert_true(fabs(rows[ROWS - 1].interval.release - 0.17) < 0.02);
    sf_free(v.summaries);
}

static void test_test_rows_do_not_count(void **state) {
    (void)state;
    struct sf_validation rows[ROWS];
    struct sf_validate v = {.rows = rows, .rows_n = ROWS};
    for (int i = 0; i < ROWS; i++) {
        set_row(&rows[i], "many", "toy", "m", i < ROWS / 2, i < ROWS / 2 ? 0.01 : 5.0, 0.5);
    }
    summarise(&v);
    assert_true(rows[ROWS - 1].interval.release < 0.011);
    assert_int_equal(v.summaries[v.summaries_n - 1].covered, 0);
    sf_free(v.summaries);
}

/* Two models in the calibration of one release: each is predicted with what the release did to the other. */
static void test_few_rows_leave_a_model_out(void **state) {
    (void)state;
    struct sf_validation rows[4];
    struct sf_validate v = {.rows = rows, .rows_n = 4};
    set_row(&rows[0], "few", "toy", "a", true, 0.0, 0.80); /* the release costs a 25 %, b 60 % */
    set_row(&rows[1], "few", "toy", "b", true, 0.0, 0.625);
    set_row(&rows[2], "few", "toy", "c", false, 0.1, 0.0);
    set_row(&rows[3], "", "toy", "c", false, 0.1, 0.0); /* no framework: off by all that the release does */
    summarise(&v);
    assert_true(fabs(rows[2].interval.release - (0.80 / 0.625 - 1.0)) < 1e-9);
    assert_true(fabs(rows[3].interval.release - (1.0 / 0.625 - 1.0)) < 1e-9);
    sf_free(v.summaries);
}

static void test_nothing_known(void **state) {
    (void)state;
    struct sf_validation row;
    struct sf_validate v = {.rows = &row, .rows_n = 1};
    set_row(&row, "", "toy", "a", false, 0.1, 0.0);
    summarise(&v);
    assert_true(fabs(row.interval.release - 0.30) < 1e-12);
    assert_true(row.low_s < row.predicted_s && row.predicted_s < row.high_s);
    sf_free(v.summaries);
}

/* Two forwards, then two backwards: the scores of both are kept at once. */
static void test_scores(void **state) {
    (void)state;
    struct sf_call forward = {.kind = SF_CALL_ATTN_FWD, .dims = {2, 10, 3, 3, 8, 72}}, backward = forward;
    backward.kind = SF_CALL_ATTN_BWD;
    struct sf_recipe recipes[2] = {{.calls = &forward, .calls_n = 1}, {.calls = &backward, .calls_n = 1}};
    const struct sf_op ops[4] = {{.recipe = 0}, {.recipe = 0}, {.recipe = 1}, {.recipe = 1}};
    struct sf_class cls = {.ops = ops, .ops_n = 4, .arena_bytes = 1000};
    const struct sf_prog prog = {.recipes = recipes, .recipes_n = 2, .classes = &cls, .classes_n = 1};
    const uint64_t pairs = 2 * 3 * 10 * 10;
    assert_int_equal(sfi_unfused_peak_bytes(&prog), 1000 + 2 * 5 * pairs + 4 * pairs);
    struct sf_call both[2] = {forward, backward};
    both[0].flags = SF_CALL_RECOMPUTE_FLAG;
    recipes[1].calls = both;
    recipes[1].calls_n = 2;
    assert_int_equal(sfi_unfused_peak_bytes(&prog), 1000 + 5 * pairs + 4 * pairs);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many_rows),
        cmocka_unit_test(test_test_rows_do_not_count),
        cmocka_unit_test(test_few_rows_leave_a_model_out),
        cmocka_unit_test(test_nothing_known),
        cmocka_unit_test(test_scores),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
