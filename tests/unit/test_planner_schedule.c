/* Schedules, written out by hand for small cases, and the rules they refuse. Properties: tests/prop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "planner/schedule.h"

/* "F0.1" is the forward of chunk 0, microbatch 1. */
static void expect(int kind, uint32_t pp, uint32_t vpp, uint32_t m, uint32_t stage, const char *text) {
    struct sf_step steps[64];
    char found[1024] = "";
    size_t n = (size_t)2 * m * vpp, used = 0;
    struct sf_err err = {0};
    assert_int_equal(sf_schedule_steps(kind, pp, vpp, m, stage, steps, n, &err), 0);
    for (size_t i = 0; i < n; i++) {
        used += (size_t)snprintf(found + used, sizeof found - used, "%s%c%u.%u", i == 0 ? "" : " ",
                                 steps[i].kind == SF_STEP_F ? 'F' : 'B', steps[i].chunk, steps[i].microbatch);
    }
    assert_string_equal(found, text);
}

static void written_out(void **state) {
    (void)state;
    expect(SF_SCHEDULE_GPIPE, 2, 1, 3, 0, "F0.0 F0.1 F0.2 B0.0 B0.1 B0.2");
    expect(SF_SCHEDULE_GPIPE, 2, 1, 3, 1, "F0.0 F0.1 F0.2 B0.0 B0.1 B0.2");
    expect(SF_SCHEDULE_1F1B, 3, 1, 4, 0, "F0.0 F0.1 F0.2 B0.0 F0.3 B0.1 B0.2 B0.3");
    expect(SF_SCHEDULE_1F1B, 3, 1, 4, 2, "F0.0 B0.0 F0.1 B0.1 F0.2 B0.2 F0.3 B0.3");
    expect(SF_SCHEDULE_1F1B, 5, 1, 2, 0, "F0.0 F0.1 B0.0 B0.1");
    expect(SF_SCHEDULE_INTERLEAVED, 2, 2, 4, 1,
           "F0.0 F0.1 F1.0 B1.0 F1.1 B1.1 F0.2 B0.0 F0.3 B0.1 F1.2 B1.2 F1.3 B1.3 B0.2 B0.3");
    /* m = pp: everything forward first. */
    expect(SF_SCHEDULE_INTERLEAVED, 2, 2, 2, 1, "F0.0 F0.1 F1.0 F1.1 B1.0 B1.1 B0.0 B0.1");
}

static void refused(int kind, uint32_t pp, uint32_t vpp, uint32_t m, uint32_t stage, const char *says) {
    struct sf_step steps[64];
    struct sf_err err = {0};
    assert_int_equal(sf_schedule_steps(kind, pp, vpp, m, stage, steps, 64, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, says));
}

static void rules(void **state) {
    (void)state;
    refused(SF_SCHEDULE_INTERLEAVED, 4, 2, 6, 0, "multiple of pp");
    refused(SF_SCHEDULE_INTERLEAVED, 4, 1, 8, 0, "vpp of at least 2");
    refused(SF_SCHEDULE_1F1B, 4, 2, 8, 0, "one chunk");
    refused(SF_SCHEDULE_GPIPE, 4, 1, 8, 4, "stage");
    refused(SF_SCHEDULE_GPIPE, 4, 1, 0, 0, "microbatches");
    refused(SF_SCHEDULE_INTERLEAVED, 1024, 2, 1024, 0, "1024");
    refused(7, 4, 1, 8, 0, "unknown");
}

static void array_must_fit(void **state) {
    struct sf_step steps[4];
    struct sf_err err = {0};
    (void)state;
    assert_int_equal(sf_schedule_steps(SF_SCHEDULE_GPIPE, 1, 1, 4, 0, steps, 4, &err), SF_E_INTERNAL);
}

static void names(void **state) {
    (void)state;
    assert_string_equal(sf_schedule_name(SF_SCHEDULE_1F1B), "1f1b");
    assert_string_equal(sf_schedule_name(-1), "?");
    assert_string_equal(sf_schedule_name(SF_SCHEDULES_N), "?");
    assert_string_equal(sf_recompute_name(SF_RECOMPUTE_FULL), "full");
    assert_string_equal(sf_recompute_name(9), "?");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(written_out),
        cmocka_unit_test(rules),
        cmocka_unit_test(array_must_fit),
        cmocka_unit_test(names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
