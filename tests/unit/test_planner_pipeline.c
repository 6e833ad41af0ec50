/* Tables of passes: replay of small ones worked out by hand, what is refused and how, text forms, drawings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "core/arena.h"
#include "planner/pipeline.h"

static const struct sf_pipe_spec unit = {.devices = 2, .microbatches = 2, .f = 10, .b = 20, .w = 6, .comm = 1};

static struct sf_pipe *read_table(const char *text, struct sf_err *err) {
    struct sf_pipe *p;
    *err = (struct sf_err){0};
    sf_pipe_read_csv(text, strlen(text), "t.csv", &p, err);
    return p;
}

static int replay(const char *text, const struct sf_pipe_spec *spec, struct sf_pipe_timing *t, struct sf_err *err) {
    struct sf_pipe_costs costs;
    struct sf_pipe *p = read_table(text, err);
    if (p == NULL) {
        return err->code;
    }
    assert_int_equal(sf_pipe_costs_create(p, spec, &costs, err), 0);
    int rc = sf_pipe_replay(p, &costs, t, NULL, NULL, err);
    sf_pipe_costs_clear(&costs);
    sf_pipe_free(p);
    return rc;
}

static void by_hand(void **state) {
    struct sf_pipe_timing t;
    struct sf_err err;
    (void)state;
    /* device 0: F 0-10 10-20, B 52-72 84-104, W 72-78 104-110; device 1: F 11-21, B 21-41, W 41-47, F 47-57 ... */
    assert_int_equal(replay("0F0,0F1,0I0,0W0,0I1,0W1\n1F0,1I0,1W0,1F1,1I1,1W1\n", &unit, &t, &err), 0);
    assert_int_equal(t.makespan, 104);
    assert_int_equal(t.span, 104);
    assert_int_equal(t.busiest, 72);
    assert_true(t.peak_memory > 1.999 && t.peak_memory < 2.001);
    assert_true(t.bubble_span > 0.3076 && t.bubble_span < 0.3077);
    /* W first or both gradients at once: the other device waits for it. */
    assert_int_equal(replay("0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n", &unit, &t, &err), 0);
    assert_int_equal(t.makespan, 110);
}

static void pair_by_hand(void **state) {
    struct sf_pipe_timing t;
    struct sf_err err;
    (void)state;
    /* device 1: F0 11-21, then F1 and B0 together 21-57, B1 57-83; device 0: B0 58-84, B1 84-110 */
    assert_int_equal(replay("0F0,0F1,0B0,0B1\n1F0,(1F1;1B0)OVERLAP_F_B,1B1\n", &unit, &t, &err), 0);
    assert_int_equal(t.makespan, 110);
    assert_int_equal(replay("0F0,0F1,0B0,0B1\n1F0,(1F1;1F0)OVERLAP_F_B,1B0,1B1\n", &unit, &t, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "overlaps with the next pass"));
}

static void refuse_table(const char *text, const char *says) {
    struct sf_pipe_timing t;
    struct sf_err err;
    assert_int_equal(replay(text, &unit, &t, &err), SF_E_INPUT);
    if (strstr(err.msg, says) == NULL) {
        fail_msg("expected \"%s\" in \"%s\"", says, err.msg);
    }
}

static void wrong_orders(void **state) {
    (void)state;
    refuse_table("0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1F1\n",
                 "device 1, pass 3: 1F1.0 (stage, action, microbatch.slice) runs");
    refuse_table("0F0,0B0,0F1,0B1\n1F1,1B1,1F0,1B0\n", "waits for the backward of stage 1, microbatch 0");
    refuse_table("0F0,0F1,0B1,0B0\n1F0,1B0,1F1\n", "waits for the backward of stage 1, microbatch 1");
    refuse_table("0F0,0F1,0B0,0B1\n1F0,1F1,1B0,1I1\n", "passes are missing");
    refuse_table("0B0,0F0,0F1,0B1\n1F0,1B0,1F1,1B1\n", "device 0, pass 0: 0B0.0");
    refuse_table("0F0,0W0,0I0,0F1,0B1\n1F0,1B0,1F1,1B1\n", "waits for the backward of stage 0, microbatch 0");
}

static void refuse_text(const char *text, uint32_t line, uint32_t column, const char *says) {
    struct sf_err err;
    assert_null(read_table(text, &err));
    assert_int_equal(err.code, SF_E_INPUT);
    if (err.line != line || err.column != column || strstr(err.msg, says) == NULL) {
        fail_msg("expected %u:%u \"%s\", found %u:%u \"%s\"", line, column, says, err.line, err.column, err.msg);
    }
    assert_string_equal(err.file, "t.csv");
}

static void wrong_text(void **state) {
    (void)state;
    refuse_text("", 1, 1, "found none");
    refuse_text("0F0,0X0\n", 1, 5, "action F, I (input gradient)");
    refuse_text("0F0,0SEND_F0\n", 1, 5, "sends");
    refuse_text("0F0,\n\n 1F\n", 3, 2, "found \"1F\"");
    refuse_text("0F0 0B0\n", 1, 5, "comma");
    refuse_text("99999F0\n", 1, 1, "stage");
    refuse_text("0F99999999999999999999\n", 1, 1, "found");
    refuse_text("0F0.256\n", 1, 1, "slice below 256");
    refuse_text("0F0,0B0,1F1,1B1\n1F0,1B0,0F1,0B1\n", 2, 1, "stage 1 is on device 0 and on device 1");
    refuse_text("(0F0,0B0)\n", 1, 1, "pair");
    refuse_text("(0F0;0B0)\n", 1, 1, "pair");
    refuse_text("0F0,0B0\n1F5000,1B0\n", 1, 1, "more than the 4 passes");
    refuse_text("0F0,0B0,0F0,0F0\n1F0\n", 1, 13, "more than 3 passes");
    refuse_text("0F0,0B0,3F0,3B0\n2F0,2B0\n", 1, 1, "stage 1 has no passes");
}

static void stages_spread_unevenly(void **state) {
    struct sf_err err;
    (void)state;
    assert_null(read_table("0F0,0B0,1F0,1B0\n2F0,2B0\n", &err));
    assert_non_null(strstr(err.msg, "the same number on each device"));
}

static void assert_same(const struct sf_pipe *a, const struct sf_pipe *b) {
    assert_int_equal(a->devices, b->devices);
    assert_int_equal(a->stages, b->stages);
    assert_int_equal(a->microbatches, b->microbatches);
    assert_int_equal(a->slices, b->slices);
    assert_int_equal(a->ways, b->ways);
    assert_memory_equal(a->device_of, b->device_of, a->stages * sizeof *a->device_of);
    for (uint32_t d = 0; d < a->devices; d++) {
        assert_int_equal(a->passes_n[d], b->passes_n[d]);
        assert_memory_equal(a->passes[d], b->passes[d], a->passes_n[d] * sizeof **a->passes);
    }
}

static struct sf_pipe_spec spec_of(int family) {
    struct sf_pipe_spec s = {.family = family, .devices = 4, .microbatches = 8, .f = 12, .b = 12, .w = 12, .comm = 1};
    s.slices = family == SF_PIPE_1F1B ? 3 : 0;
    return s;
}

static void text_round_trips(void **state) {
    (void)state;
    for (int family = 0; family < SF_PIPE_FAMILIES_N; family++) {
        struct sf_pipe_spec s = spec_of(family);
        struct sf_err err = {0};
        struct sf_buf csv = {0};
        struct sf_pipe *p, *again;
        assert_int_equal(sf_pipe_generate(&s, &p, &err), 0);
        sf_pipe_print_csv(p, &csv);
        assert_int_equal(sf_pipe_read_csv(csv.data, csv.bytes, "t.csv", &again, &err), 0);
        assert_same(p, again);
        sf_pipe_free(again);
        assert_int_equal(sf_pipe_copy(p, &again, &err), 0);
        assert_same(p, again);
        sf_pipe_free(again);
        sf_pipe_free(p);
        sf_buf_free(&csv);
    }
}

static void names(void **state) {
    (void)state;
    for (int family = 0; family < SF_PIPE_FAMILIES_N; family++) {
        assert_int_equal(sf_pipe_family_parse(sf_pipe_family_name(family)), family);
        assert_true(strlen(sf_pipe_family_text(family)) > 10);
    }
    assert_int_equal(sf_pipe_family_parse("zb"), -1);
    assert_string_equal(sf_pipe_family_name(SF_PIPE_FAMILIES_N), "?");
    assert_string_equal(sf_pipe_family_text(-1), "?");
    assert_string_equal(sf_pass_letter(SF_PASS_B), "I");
    assert_string_equal(sf_pass_letter(99), "?");
}

static void refuse_spec(struct sf_pipe_spec s, int code, const char *says) {
    struct sf_err err = {0};
    struct sf_pipe *p;
    assert_int_equal(sf_pipe_generate(&s, &p, &err), code);
    assert_null(p);
    if (strstr(err.msg, says) == NULL) {
        fail_msg("expected \"%s\" in \"%s\"", says, err.msg);
    }
}

static void refuse_shape(int family, uint32_t p, uint32_t m, uint32_t v, uint32_t n, const char *says) {
    struct sf_pipe_spec s = {
        .family = family, .devices = p, .microbatches = m, .chunks = v, .slices = n, .f = 9, .b = 9, .w = 9};
    refuse_spec(s, SF_E_INPUT, says);
}

static void wrong_shapes(void **state) {
    (void)state;
    refuse_shape(77, 4, 8, 0, 0, "family 77");
    refuse_shape(SF_PIPE_GPIPE, 0, 8, 0, 0, "devices");
    refuse_shape(SF_PIPE_GPIPE, 4096, 8, 0, 0, "1 to 1024 devices");
    refuse_shape(SF_PIPE_GPIPE, 4, 0, 0, 0, "microbatches");
    refuse_shape(SF_PIPE_GPIPE, 4, UINT32_MAX, 0, 0, "microbatches");
    refuse_shape(SF_PIPE_GPIPE, 4, 8, 2, 0, "gpipe has 1 chunk per device, found 2");
    refuse_shape(SF_PIPE_ZB_V, 4, 8, 0, 2, "cannot be sliced");
    refuse_shape(SF_PIPE_GPIPE, 4, 8, 0, 257, "257");
    refuse_shape(SF_PIPE_INTERLEAVED, 4, 8, 1, 0, "at least 2 chunks");
    refuse_shape(SF_PIPE_INTERLEAVED, 4, 8, UINT32_MAX, 0, "16384");
    refuse_shape(SF_PIPE_INTERLEAVED, 4, 6, 2, 0, "next multiple is 8");
    refuse_shape(SF_PIPE_DUALPIPE, 4, 6, 0, 0, "at least twice");
    refuse_shape(SF_PIPE_DUALPIPEV, 4, 7, 0, 0, "at least twice");
}

static void wrong_costs(void **state) {
    struct sf_pipe_spec s = spec_of(SF_PIPE_GPIPE);
    (void)state;
    s.f = -1;
    refuse_spec(s, SF_E_INPUT, "negative");
    s.f = INT64_MAX;
    refuse_spec(s, SF_E_INPUT, "106 days");
    s.f = 1;
    s.weight_share = 1.5;
    refuse_spec(s, SF_E_INPUT, "weight share");
    s.weight_share = 1;
    s.memory_limit = -1;
    refuse_spec(s, SF_E_INPUT, "memory limit");
    s.memory_limit = 7;
    refuse_spec(s, SF_E_NOPLAN, "gpipe needs 8.000 M");
    s.memory_limit = 0.5;
    s.family = SF_PIPE_ZB_1P;
    refuse_spec(s, SF_E_NOPLAN, "zb-1p");
    s.family = SF_PIPE_V_MIN;
    refuse_spec(s, SF_E_NOPLAN, "v-min");
}

static void drawings(void **state) {
    struct sf_err err = {0};
    struct sf_pipe_timing t;
    struct sf_pipe_costs costs;
    struct sf_buf text = {0}, svg = {0};
    struct sf_pipe *p = read_table("0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n", &err);
    struct sf_pipe_spec s = {.f = 10, .b = 10, .w = 10};
    (void)state;
    assert_non_null(p);
    assert_int_equal(sf_pipe_costs_create(p, &s, &costs, &err), 0);
    sf_time_ps **start = sf_pipe_times_create(p), **end = sf_pipe_times_create(p);
    assert_int_equal(sf_pipe_replay(p, &costs, &t, start, end, &err), 0);
    assert_int_equal(start[1][0], 10);
    assert_int_equal(end[0][3], 90);
    sf_pipe_chart(p, start, end, 9, &text);
    sf_buf_write(&text, "", 1);
    assert_string_equal(text.data, "   0 FF..BB.BB\n   1 .FBBFBB..\n");
    sf_pipe_svg(p, start, end, "a <b> & c", "", &svg);
    sf_buf_write(&svg, "", 1);
    assert_non_null(strstr(svg.data, "a &lt;b&gt; &amp; c"));
    assert_non_null(strstr(svg.data, "</svg>"));
    sf_pipe_times_free(start);
    sf_pipe_times_free(end);
    sf_pipe_costs_clear(&costs);
    sf_pipe_free(p);
    sf_buf_free(&text);
    sf_buf_free(&svg);
}

static void scratch_is_reused(void **state) {
    struct sf_pipe_scratch *scratch = sf_pipe_scratch_create();
    (void)state;
    for (uint32_t i = 0; i < 6; i++) {
        struct sf_pipe_spec s = spec_of(SF_PIPE_1F1B);
        struct sf_pipe_timing t;
        struct sf_pipe_costs costs;
        struct sf_pipe *p;
        struct sf_err err = {0};
        s.devices = 1 + i * 5 % 7;
        s.slices = 1 + i % 2;
        assert_int_equal(sf_pipe_generate(&s, &p, &err), 0);
        assert_int_equal(sf_pipe_costs_create(p, &s, &costs, &err), 0);
        assert_int_equal(sf_pipe_replay_with(scratch, p, &costs, &t, NULL, NULL, &err), 0);
        sf_pipe_costs_clear(&costs);
        sf_pipe_free(p);
    }
    sf_pipe_scratch_free(scratch);
    sf_pipe_scratch_free(NULL);
    sf_pipe_free(NULL);
    sf_pipe_times_free(NULL);
}

static void expect_layout(const char *text, const char *expected) {
    struct sf_pipe_layout layout;
    struct sf_err err = {0};
    struct sf_buf found = {0};
    if (sf_pipe_layout_parse(text, &layout, &err) != 0) {
        fail_msg("%s: %s", text, err.msg);
    }
    for (uint32_t s = 0; s < layout.stages_n; s++) {
        const struct sf_pipe_contents *c = &layout.stages[s];
        sf_buf_printf(&found, "%s%s%u%s%s", s > 0 ? " " : "", c->embedding ? "E" : "", c->layers, c->mtp > 0 ? "m" : "",
                      c->loss ? "L" : "");
    }
    assert_string_equal(found.data, expected);
    sf_buf_free(&found);
    sf_pipe_layout_clear(&layout);
}

static void refuse_layout(const char *text, uint32_t column, const char *says) {
    struct sf_pipe_layout layout;
    struct sf_err err = {0};
    assert_int_equal(sf_pipe_layout_parse(text, &layout, &err), SF_E_INPUT);
    if (err.column != column || strstr(err.msg, says) == NULL) {
        fail_msg("%s: expected column %u \"%s\", found %u \"%s\"", text, column, says, err.column, err.msg);
    }
}

static void layouts(void **state) {
    (void)state;
    expect_layout("Ett|tt|tL", "E2 2 1L");
    expect_layout("Et*3|(tt|)*3,m|L", "E3 2 2 2 0m 0L");
    expect_layout("E|(t|)*3,m|m||L", "E0 1 1 1 0m 0m 0 0L");
    expect_layout("Et|(t*2|)*2L", "E1 2 2 0L");
    refuse_layout("", 1, "one E");
    refuse_layout("Ett|tx|L", 6, "E, t, m, L");
    refuse_layout("E(t|*2L", 2, "closed");
    refuse_layout("E((t|))L", 3, "inside");
    refuse_layout("E()*3L", 2, "empty");
    refuse_layout("Et*|L", 4, "count");
    refuse_layout("Et*99999999999|L", 4, "count");
    refuse_layout("E(t*60000|)*60000L", 2, "too long");
    refuse_layout("EtE|L", 3, "one E");
    refuse_layout("tt|L", 1, "one E");
    refuse_layout("E|Lt", 4, "one L");
    refuse_layout("E|tL|", 5, "one L");
}

static void layout_costs(void **state) {
    struct sf_pipe_layout layout;
    struct sf_pipe_costs costs;
    struct sf_pipe *p;
    struct sf_err err = {0};
    struct sf_pipe_spec s = spec_of(SF_PIPE_1F1B);
    s.slices = 1;
    s.f = 600;
    (void)state;
    assert_int_equal(sf_pipe_layout_parse("Et|tt|tt|tL", &layout, &err), 0);
    assert_int_equal(sf_pipe_generate(&s, &p, &err), 0);
    assert_int_equal(sf_pipe_layout_costs(&layout, p, &s, 2, &costs, &err), 0);
    /* Eight parts, two of them the loss; four devices with 600 each have 2400 together. */
    assert_int_equal(costs.f[0], 300);
    assert_int_equal(costs.f[1], 600);
    assert_int_equal(costs.f[3], 900);
    sf_pipe_costs_clear(&costs);
    sf_pipe_layout_clear(&layout);
    assert_int_equal(sf_pipe_layout_parse("Et|tL", &layout, &err), 0);
    assert_int_equal(sf_pipe_layout_costs(&layout, p, &s, 0, &costs, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "2 stages"));
    sf_pipe_layout_clear(&layout);
    sf_pipe_free(p);
}

static int everything(int family) {
    struct sf_pipe_spec s = spec_of(family);
    struct sf_pipe_timing t;
    struct sf_pipe_costs costs = {0};
    struct sf_pipe *p;
    struct sf_err err = {0};
    int rc = sf_pipe_generate(&s, &p, &err);
    rc = rc == 0 ? sf_pipe_costs_create(p, &s, &costs, &err) : rc;
    rc = rc == 0 ? sf_pipe_replay(p, &costs, &t, NULL, NULL, &err) : rc;
    sf_pipe_costs_clear(&costs);
    sf_pipe_free(p);
    return rc;
}

static void memory_runs_out(void **state) {
    static const int families[] = {SF_PIPE_1F1B, SF_PIPE_ZB_2P, SF_PIPE_ZB_V, SF_PIPE_V_HALF, SF_PIPE_DUALPIPE};
    (void)state;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        int rc = SF_E_INTERNAL;
        for (size_t n = 1; rc != 0; n++) {
            sf_alloc_fail_after(n);
            rc = everything(families[i]);
            sf_alloc_fail_after(0);
            assert_true(rc == 0 || rc == SF_E_INTERNAL);
            assert_true(n < 400);
        }
    }
}

static void bound_of_a_single_microbatch(void **state) {
    struct sf_pipe_spec s = {
        .family = SF_PIPE_ZB_1P, .devices = 4, .microbatches = 1, .f = 10, .b = 10, .w = 10, .comm = 1};
    struct sf_pipe_costs costs;
    struct sf_pipe *p;
    struct sf_err err = {0};
    (void)state;
    assert_int_equal(sf_pipe_generate(&s, &p, &err), 0);
    assert_int_equal(sf_pipe_costs_create(p, &s, &costs, &err), 0);
    /* Down and back up: 4 F, 4 B, 6 hops, and the first device's own W. */
    assert_int_equal(sf_pipe_lower_bound(p, &costs, 0), 4 * 10 + 4 * 10 + 6 + 10);
    sf_pipe_costs_clear(&costs);
    sf_pipe_free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_hand),
        cmocka_unit_test(pair_by_hand),
        cmocka_unit_test(wrong_orders),
        cmocka_unit_test(wrong_text),
        cmocka_unit_test(stages_spread_unevenly),
        cmocka_unit_test(text_round_trips),
        cmocka_unit_test(names),
        cmocka_unit_test(wrong_shapes),
        cmocka_unit_test(wrong_costs),
        cmocka_unit_test(drawings),
        cmocka_unit_test(scratch_is_reused),
        cmocka_unit_test(layouts),
        cmocka_unit_test(layout_costs),
        cmocka_unit_test(memory_runs_out),
        cmocka_unit_test(bound_of_a_single_microbatch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
