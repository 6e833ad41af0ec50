/* Schedules in the order in which a published measurement puts them. For 14.6 billion parameters on 16 A100 (arXiv
 * 2401.10241, Tables 4 and 9) ZB-1p is quicker than interleaved 1F1B, although its bubble is larger: interleaving waits
 * for three times as many transfers. Whole steps tell; bubbles do not. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "planner/pipeline.h"
#include "planner/validate.h"

static const uint32_t microbatches[] = {48, 64, 128};
#define SIZES (sizeof microbatches / sizeof microbatches[0])
enum { INTERLEAVED, ZB_1P, SCHEDULES };

struct times {
    double measured_s[SCHEDULES][SIZES], simulated_s[SCHEDULES][SIZES];
};

/* Both tables hold rows of other models too, which are dear: only those wanted are copied, with the head. */
static void copy_rows(FILE *to, const char *from, bool head) {
    static char line[4096];
    FILE *f = fopen(from, "r");
    assert_non_null(f);
    for (uint32_t n = 0; fgets(line, sizeof line, f) != NULL; n++) {
        bool wanted = strncmp(line, "zb-14.6B-1F1B-I-", 16) == 0 || strncmp(line, "zb-14.6B-ZB-1p-", 15) == 0;
        if (wanted || (head && n == 0)) {
            fputs(line, to);
        }
    }
    fclose(f);
}

static void take_row(const struct sf_validation *v, struct times *out) {
    assert_string_equal(v->refused, "");
    assert_false(v->calibration);
    for (uint32_t k = 0; k < SCHEDULES * SIZES; k++) {
        char name[64];
        snprintf(name, sizeof name, k / SIZES == INTERLEAVED ? "zb-14.6B-1F1B-I-m%u" : "zb-14.6B-ZB-1p-m%u",
                 microbatches[k % SIZES]);
        if (strcmp(v->row.case_id, name) == 0) {
            out->measured_s[k / SIZES][k % SIZES] = v->row.step_time_s;
            out->simulated_s[k / SIZES][k % SIZES] = v->predicted_s;
        }
    }
}

static struct times simulate(void) {
    static const char path[] = SF_BINARY_DIR "/test_planner_ranking.csv";
    const char *const paths[] = {path};
    const struct sf_validate_options options = {.catalog = SF_CATALOG_DIR};
    struct sf_validate v = {0};
    struct sf_err err = {0};
    struct times out = {{{0}}, {{0}}};
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    copy_rows(f, SF_SOURCE_DIR "/tests/data/published/validation_cases.csv", true);
    copy_rows(f, SF_SOURCE_DIR "/tests/data/published/more_cases.csv", false);
    fclose(f);
    if (sf_validate_run(&sf_io_posix, paths, 1, &options, &v, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    assert_int_equal(v.rows_n, SCHEDULES * SIZES);
    for (size_t i = 0; i < v.rows_n; i++) {
        take_row(&v.rows[i], &out);
    }
    sf_validate_clear(&v);
    remove(path);
    return out;
}

static void whole_steps_rank_as_measured(void **state) {
    const struct times t = simulate();
    (void)state;
    for (uint32_t i = 0; i < SIZES; i++) {
        assert_true(t.measured_s[ZB_1P][i] > 0 && t.measured_s[ZB_1P][i] < t.measured_s[INTERLEAVED][i]);
        if (!(t.simulated_s[ZB_1P][i] > 0 && t.simulated_s[ZB_1P][i] < t.simulated_s[INTERLEAVED][i])) {
            fail_msg("m %u: zb-1p %.4f s, interleaved %.4f s", microbatches[i], t.simulated_s[ZB_1P][i],
                     t.simulated_s[INTERLEAVED][i]);
        }
    }
}

/* Times that the paper profiled, in picoseconds. */
static double bubble(int family, uint32_t chunks, uint32_t m) {
    const struct sf_pipe_spec spec = {.family = family,
                                      .devices = 16,
                                      .microbatches = m,
                                      .chunks = chunks,
                                      .f = INT64_C(11347000000),
                                      .b = INT64_C(11248000000),
                                      .w = INT64_C(8132000000),
                                      .comm = INT64_C(377000000)};
    struct sf_pipe_timing timing;
    struct sf_pipe_costs costs;
    struct sf_pipe *p;
    assert_int_equal(sf_pipe_generate(&spec, &p, NULL), 0);
    assert_int_equal(sf_pipe_costs_create(p, &spec, &costs, NULL), 0);
    assert_int_equal(sf_pipe_replay(p, &costs, &timing, NULL, NULL, NULL), 0);
    sf_pipe_costs_clear(&costs);
    sf_pipe_free(p);
    return timing.bubble_span;
}

static void bubbles_rank_the_other_way(void **state) {
    (void)state;
    for (uint32_t i = 0; i < SIZES; i++) {
        assert_true(bubble(SF_PIPE_INTERLEAVED, 3, microbatches[i]) < bubble(SF_PIPE_ZB_1P, 1, microbatches[i]));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_steps_rank_as_measured),
        cmocka_unit_test(bubbles_rank_the_other_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
