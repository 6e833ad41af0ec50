/* Schedules of plans, written out by hand for small cases, and the rules they refuse. Properties: tests/prop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "planner/schedule.h"

static const uint64_t equal[64] = {
    [0 ... 63] = 1,
};

static struct sf_plan plan_of(int kind, uint32_t pp, uint32_t vpp, uint32_t m) {
    return (struct sf_plan){.schedule = kind, .pp = pp, .vpp = vpp, .microbatches = m};
}

/* "0F1" is the forward of stage 0, microbatch 1; B is both gradients, I of inputs, W of weights. */
static void expect(int kind, uint32_t pp, uint32_t vpp, uint32_t m, uint32_t rank, const char *text) {
    const struct sf_pass_weights weights = {equal, equal, equal};
    struct sf_plan plan = plan_of(kind, pp, vpp, m);
    struct sf_pipe *table;
    struct sf_err err = {0};
    char found[1024] = "";
    size_t used = 0;
    assert_int_equal(sf_schedule_make(&plan, &weights, &table, &err), 0);
    for (uint32_t i = 0; i < table->passes_n[rank]; i++) {
        const struct sf_pass *x = &table->passes[rank][i];
        used += (size_t)snprintf(found + used, sizeof found - used, "%s%u%s%u", i == 0 ? "" : " ", x->stage,
                                 sf_pass_letter(x->kind), x->microbatch);
    }
    assert_string_equal(found, text);
    sf_pipe_free(table);
}

static void written_out(void **state) {
    (void)state;
    expect(SF_SCHEDULE_GPIPE, 2, 1, 3, 0, "0F0 0F1 0F2 0B0 0B1 0B2");
    expect(SF_SCHEDULE_GPIPE, 2, 1, 3, 1, "1F0 1F1 1F2 1B0 1B1 1B2");
    expect(SF_SCHEDULE_1F1B, 3, 1, 4, 0, "0F0 0F1 0F2 0B0 0F3 0B1 0B2 0B3");
    expect(SF_SCHEDULE_1F1B, 3, 1, 4, 2, "2F0 2B0 2F1 2B1 2F2 2B2 2F3 2B3");
    expect(SF_SCHEDULE_1F1B, 5, 1, 2, 0, "0F0 0F1 0B0 0B1");
    expect(SF_SCHEDULE_INTERLEAVED, 2, 2, 4, 1, "1F0 1F1 3F0 3B0 3F1 3B1 1F2 1B0 1F3 1B1 3F2 3B2 3F3 3B3 1B2 1B3");
    expect(SF_SCHEDULE_BREADTH_FIRST, 2, 2, 2, 0, "0F0 0F1 2F0 2F1 2B0 2B1 0B0 0B1");
    expect(SF_SCHEDULE_ZB_H1, 2, 1, 3, 0, "0F0 0F1 0I0 0W0 0F2 0I1 0W1 0I2 0W2");
    expect(SF_SCHEDULE_ZB_H1, 2, 1, 3, 1, "1F0 1I0 1F1 1I1 1W0 1F2 1I2 1W1 1W2");
}

/* Pairs of DualPipe are parted: one compute stream runs one pass at a time. */
static void pairs_are_parted(void **state) {
    const struct sf_pass_weights weights = {equal, equal, equal};
    struct sf_plan plan = plan_of(SF_SCHEDULE_DUALPIPE, 4, 1, 8);
    struct sf_pipe *table;
    (void)state;
    assert_int_equal(sf_schedule_make(&plan, &weights, &table, NULL), 0);
    assert_int_equal(sf_schedule_copies(&plan), 2);
    assert_int_equal(sf_schedule_chunks(&plan), 2);
    assert_int_equal(table->stages, 8);
    for (uint32_t d = 0; d < table->devices; d++) {
        for (uint32_t i = 0; i < table->passes_n[d]; i++) {
            assert_int_not_equal(table->passes[d][i].kind, SF_PASS_F_PAIR);
        }
    }
    sf_pipe_free(table);
}

/* Every family makes a complete table whatever the stages weigh. */
static void unequal_weights(void **state) {
    (void)state;
    for (int kind = 0; kind < SF_PIPE_FAMILIES_N; kind++) {
        uint64_t f[16], b[16], w[16];
        const struct sf_pass_weights weights = {f, b, w};
        uint32_t chunks = sf_pipe_family_chunks(kind);
        struct sf_plan plan = plan_of(kind, 4, chunks == 0 ? 2 : chunks, 8);
        plan.vpp = kind == SF_SCHEDULE_DUALPIPE ? 1 : plan.vpp;
        for (uint64_t s = 0; s < 16; s++) {
            f[s] = 1 + s * s * s * 1000000007;
            b[s] = 1 + (15 - s) * 1000000;
            w[s] = 1;
        }
        struct sf_pipe *table;
        struct sf_pipe_costs costs;
        struct sf_pipe_timing timing;
        assert_int_equal(sf_schedule_make(&plan, &weights, &table, NULL), 0);
        assert_int_equal(sf_schedule_costs(table, &weights, &costs, NULL), 0);
        assert_int_equal(sf_pipe_replay(table, &costs, &timing, NULL, NULL, NULL), 0);
        assert_true(costs.w[0] >= 1);
        sf_pipe_costs_clear(&costs);
        sf_pipe_free(table);
    }
}

static void refused(struct sf_plan plan, const char *says) {
    struct sf_err err = {0};
    assert_int_equal(sf_schedule_check(&plan, &err), SF_E_INPUT);
    if (strstr(err.msg, says) == NULL || strncmp(err.msg, "plan: schedule ", 15) != 0) {
        fail_msg("\"%s\" should say \"%s\"", err.msg, says);
    }
}

static void rules(void **state) {
    struct sf_pipe *table;
    (void)state;
    refused(plan_of(SF_SCHEDULE_INTERLEAVED, 4, 2, 6), "multiple of pp, found 6 and 4");
    refused(plan_of(SF_SCHEDULE_INTERLEAVED, 4, 1, 8), "vpp and pp of at least 2");
    refused(plan_of(SF_SCHEDULE_BREADTH_FIRST, 1, 4, 8), "vpp and pp of at least 2");
    refused(plan_of(SF_SCHEDULE_1F1B, 4, 2, 8), "vpp 1, found 2");
    refused(plan_of(SF_SCHEDULE_ZB_V, 4, 1, 8), "vpp 2, found 1");
    refused(plan_of(SF_SCHEDULE_DUALPIPE, 4, 2, 8), "vpp 1, found 2");
    refused(plan_of(SF_SCHEDULE_DUALPIPE, 3, 1, 8), "even, found 3 and 8");
    refused(plan_of(SF_SCHEDULE_DUALPIPE, 4, 1, 6), "2 * pp = 8 microbatches, found 6");
    refused(plan_of(SF_SCHEDULE_DUALPIPEV, 4, 2, 7), "2 * pp = 8 microbatches, found 7");
    refused(plan_of(SF_SCHEDULES_N, 4, 1, 8), "unknown");
    struct sf_plan sliced = plan_of(SF_SCHEDULE_ZB_H1, 4, 1, 8);
    sliced.slices = 2;
    refused(sliced, "zb-h1 takes whole sequences, found 2 slices");
    refused(plan_of(SF_SCHEDULE_TABLE, 4, 1, 8), "names no file");
    assert_int_equal(sf_pipe_create(2, 2, 3, 1, &table, NULL), 0);
    struct sf_plan plan = plan_of(SF_SCHEDULE_TABLE, 2, 1, 4);
    snprintf(plan.schedule_file, sizeof plan.schedule_file, "my.csv");
    plan.table = table;
    refused(plan, "my.csv has 2 rows (pp), 1 stages per row and copy (vpp) and 3 microbatches, but the plan has pp 2");
    plan.microbatches = 3;
    plan.slices = 2;
    refused(plan, "1 slices, but the plan has 2");
    sf_pipe_free(table);
}

static void names(void **state) {
    (void)state;
    assert_string_equal(sf_schedule_name(SF_SCHEDULE_1F1B), "1f1b");
    assert_string_equal(sf_schedule_name(SF_SCHEDULE_TABLE), "table");
    assert_string_equal(sf_schedule_name(-1), "?");
    assert_string_equal(sf_schedule_name(SF_SCHEDULE_AUTO + 1), "?");
    assert_int_equal(sf_schedule_parse("zb-2p"), SF_SCHEDULE_ZB_2P);
    assert_int_equal(sf_schedule_parse("tables/zb.csv"), SF_SCHEDULE_TABLE);
    assert_int_equal(sf_schedule_parse("zigzag"), -1);
    assert_string_equal(sf_recompute_name(SF_RECOMPUTE_FULL), "full");
    assert_string_equal(sf_recompute_name(9), "?");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(written_out),     cmocka_unit_test(pairs_are_parted),
        cmocka_unit_test(unequal_weights), cmocka_unit_test(rules),
        cmocka_unit_test(names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
