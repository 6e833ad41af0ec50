/* Heads split by vocabulary over a pipeline: programs are sound, every rank has its part and no more, exchanges are
 * collectives and no transfers, no more microbatches are under way than there is room for, and the pipeline beats one
 * with a whole head. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/arena.h"
#include "core/rng.h"
#include "planner/schedule.h"
#include "tests/unit/test_planner_compiled.h"

static struct sf_plan plan_for(struct sf_scenario *s, uint32_t dp, uint32_t pp, uint32_t microbatches) {
    return even_plan(
        s, (struct sf_plan){
               .dp = dp, .pp = pp, .microbatches = microbatches, .schedule = SF_SCHEDULE_1F1B, .split_head = true});
}

static const struct sf_tensor *find(const struct sf_class *c, const char *name) {
    for (uint32_t i = 0; i < c->tensors_n; i++) {
        if (strcmp(c->tensors[i].name, name) == 0) {
            return &c->tensors[i];
        }
    }
    return NULL;
}

static uint32_t count(const struct sf_class *c, const char *name) {
    uint32_t n = 0;
    size_t length = strlen(name);
    for (uint32_t i = 0; i < c->bufs_n; i++) {
        n += strncmp(c->bufs[i].name, name, length) == 0 && strspn(c->bufs[i].name + length, "0123456789") > 0;
    }
    return n;
}

static uint32_t count_ops(const struct sf_prog *prog, const struct sf_class *c, int kind, const char *comm) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->ops_n; i++) {
        n += c->ops[i].kind == kind && strcmp(prog->comms[c->ops[i].comm].name, comm) == 0;
    }
    return n;
}

/* Outputs and gradients by one all-reduce each, statistics by one gathering; only layers have transfers. */
static void expect_exchanges(const struct sf_prog *prog, uint32_t stage, uint32_t pp, uint32_t microbatches) {
    const struct sf_class *c = &prog->classes[stage];
    assert_int_equal(count_ops(prog, c, SF_OP_ALL_REDUCE, "pp.head"), 2 * microbatches);
    assert_int_equal(count_ops(prog, c, SF_OP_ALL_GATHER, "pp.vocab"), microbatches);
    assert_int_equal(count_ops(prog, c, SF_OP_SEND, "pp.fwd"), stage + 1 < pp ? microbatches : 0);
    assert_int_equal(count_ops(prog, c, SF_OP_SEND, "pp.bwd"), stage > 0 ? microbatches : 0);
}

static void test_parts(void **state) {
    (void)state;
    for (uint32_t k = 0; k < 3 * 2 * 3; k++) {
        uint32_t pp = 2u << k % 3, dp = k / 3 % 2 + 1, microbatches = (k / 6 + 1) * 4;
        struct sf_scenario s = shaped_scenario(cluster, &tiny_shape);
        struct sf_plan p = plan_for(&s, dp, pp, microbatches);
        if (dp * pp > 8) {
            continue;
        }
        p.zero = dp > 1;
        struct sf_prog *prog = compiled(&s, &p);
        for (uint32_t i = 0; i < prog->classes_n; i++) {
            const struct sf_class *c = &prog->classes[i];
            const struct sf_tensor *head = find(c, "lm_head.weight");
            assert_non_null(head);
            assert_int_equal(head->rows, s.model.vocab / pp);
            assert_int_equal(head->whole_rows, s.model.vocab);
            assert_int_equal(sf_prog_comm_size(prog, head->comm), pp);
            assert_int_equal(find(c, "model.norm.weight") != NULL, i + 1 == pp);
            uint32_t most = pp - i + 2;
            assert_true(count(c, "stash") <= (most < microbatches ? most : microbatches));
            expect_exchanges(prog, i, pp, microbatches);
        }
        sf_prog_free(prog);
    }
}

static void test_table(void **state) {
    (void)state;
    for (uint32_t devices = 1; devices <= 16; devices++) {
        struct sf_pipe *table;
        struct sf_pipe_costs costs;
        struct sf_pipe_timing timing;
        const struct sf_pipe_spec spec = {.devices = devices, .f = 1000, .b = 1000, .w = 1000};
        assert_int_equal(sf_pipe_split_head(devices, 3 * devices, &table, NULL), 0);
        assert_int_equal(sf_pipe_costs_create(table, &spec, &costs, NULL), 0);
        assert_int_equal(sf_pipe_replay(table, &costs, &timing, NULL, NULL, NULL), 0);
        sf_pipe_costs_clear(&costs);
        sf_pipe_free(table);
    }
    struct sf_pipe *none;
    assert_int_equal(sf_pipe_split_head(SF_PIPE_MAX_STAGES, 4, &none, NULL), SF_E_INPUT);
}

/* Parts of the head by 16ths of a stage's work: hardly more idle than 1F1B, which is so for 7 of 135 turns and for 1 of
 * 129, and room for two microbatches more. */
static void expect_idle(uint32_t devices, double quarter, double any) {
    sf_time_ps times[3][16];
    double held[3][16] = {{0}};
    struct sf_pipe *table;
    assert_int_equal(sf_pipe_split_head(devices, 128, &table, NULL), 0);
    for (sf_time_ps part = 1; part <= 16; part++) {
        const struct sf_pipe_costs costs = {
            .f = times[0], .b = times[1], .w = times[2], .mem_f = held[0], .mem_b = held[1], .mem_w = held[2]};
        struct sf_pipe_timing t;
        for (uint32_t s = 0; s < 2 * devices; s++) {
            times[0][s] = times[1][s] = times[2][s] = s < devices ? 160 : 10 * part;
            held[0][s] = held[2][s] = s < devices;
        }
        assert_int_equal(sf_pipe_replay(table, &costs, &t, NULL, NULL, NULL), 0);
        assert_true(t.bubble_makespan < (part == 4 ? quarter : any));
        assert_true(fabs(t.peak_memory - devices - 2) < 0.1);
    }
    sf_pipe_free(table);
}

static void test_idle(void **state) {
    (void)state;
    expect_idle(8, 0.0465, 0.0575);
    expect_idle(2, 0.0065, 0.008);
}

/* ---- tables with parts ------------------------------------------------------------------------------------------- */

static struct sf_pipe *read_table(const char *text, struct sf_err *err) {
    struct sf_pipe *p = NULL;
    *err = (struct sf_err){0};
    sf_pipe_read_csv(text, strlen(text), "t.csv", &p, err);
    return p;
}

static int replay_text(const char *text, struct sf_pipe_timing *t, struct sf_err *err) {
    const struct sf_pipe_spec spec = {.devices = 2, .f = 10, .b = 16, .w = 10, .comm = 1}; /* of two stages each */
    struct sf_pipe_costs costs;
    struct sf_pipe *p = read_table(text, err);
    assert_non_null(p);
    assert_int_equal(sf_pipe_costs_create(p, &spec, &costs, err), 0);
    int rc = sf_pipe_replay(p, &costs, t, NULL, NULL, err);
    sf_pipe_costs_clear(&costs);
    sf_pipe_free(p);
    return rc;
}

/* F 0-5, 6-11, of both parts 12-17; BW 17-30 of both parts, 31-44, 45-58. */
static void test_parts_by_hand(void **state) {
    (void)state;
    struct sf_pipe_timing t;
    struct sf_err err;
    assert_int_equal(replay_text("parts 2\n0F0,3F0,3B0,0B0\n1F0,2F0,2B0,1B0\n", &t, &err), 0);
    assert_int_equal(t.makespan, 58);
    assert_int_equal(replay_text("parts 2\n0F0,3F0,3B0,0B0\n1F0,1B0,2F0,2B0\n", &t, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "waits for the forwards of all parts of the head, microbatch 0"));
    assert_int_equal(replay_text("parts 2\n0F0,3F0,0B0,3B0\n1F0,2F0,2B0,1B0\n", &t, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "waits for the backward of stage 1"));
}

static void refused_table(const char *text, const char *why) {
    struct sf_err err;
    assert_null(read_table(text, &err));
    if (strstr(err.msg, why) == NULL) {
        fail_msg("expected \"%s\" in: %s", why, err.msg);
    }
}

static void test_text(void **state) {
    (void)state;
    struct sf_buf text[2] = {{0}};
    struct sf_err err;
    struct sf_pipe *table, *again;
    assert_int_equal(sf_pipe_split_head(4, 6, &table, &err), 0);
    sf_pipe_print_csv(table, &text[0]);
    again = read_table(text[0].data, &err);
    assert_non_null(again);
    assert_int_equal(again->parts, 4);
    sf_pipe_print_csv(again, &text[1]);
    assert_string_equal(text[0].data, text[1].data);
    sf_pipe_free(table);
    sf_pipe_free(again);
    sf_buf_free(&text[0]);
    sf_buf_free(&text[1]);
    refused_table("parts 2\n0F0,0B0\n1F0,1B0\n", "expected stages before the 2 parts");
    refused_table("parts 0\n0F0,0B0\n", "how many of the last stages");
    refused_table("parts 1 x\n0F0,0B0\n", "how many of the last stages");
    refused_table("0F0,0B0\nparts 1\n1F0,1B0\n", "before all rows");
    refused_table("parts 1\nparts 1\n0F0,0B0\n1F0,1B0\n", "expected a pass");
}

static void test_no_table_of_a_plan(void **state) {
    (void)state;
    struct sf_err err;
    struct sf_pipe *table = read_table("parts 2\n0F0,3F0,3B0,0B0\n1F0,2F0,2B0,1B0\n", &err);
    struct sf_plan p = {.pp = 2, .vpp = 2, .microbatches = 1, .schedule = SF_SCHEDULE_TABLE, .table = table};
    assert_int_equal(sf_schedule_check(&p, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "split_head true"));
    sf_pipe_free(table);
}

/* ---- bounds ------------------------------------------------------------------------------------------------------ */

static uint32_t below(struct sf_rng *rng, uint32_t n) {
    return (uint32_t)(sf_rng_u64(rng) % n);
}

static bool has_inputs(const struct sf_pipe *p, bool done[2][8][8], bool backward, uint32_t s, uint32_t m) {
    uint32_t layers = p->stages - p->parts;
    bool all[2] = {true, true};
    for (uint32_t part = layers; part < p->stages; part++) {
        all[0] &= done[0][part][m];
        all[1] &= done[1][part][m];
    }
    if (!backward) {
        return s == 0 || done[0][s < layers ? s - 1 : layers - 1][m];
    }
    return done[0][s][m] && (s >= layers ? all[0] : s + 1 == layers ? all[1] : done[1][s + 1][m]);
}

/* Any order in which passes find their inputs. */
static void fill_at_random(struct sf_pipe *p, struct sf_rng *rng) {
    bool done[2][8][8] = {{{false}}};
    for (uint32_t left = 2 * p->stages * p->microbatches; left > 0;) {
        bool backward = below(rng, 2) > 0;
        uint32_t s = below(rng, p->stages), m = below(rng, p->microbatches);
        if (!done[backward][s][m] && has_inputs(p, done, backward, s, m)) {
            done[backward][s][m] = true;
            sf_pipe_push(p, p->device_of[s], backward ? SF_PASS_BW : SF_PASS_F, s, m, 0);
            left--;
        }
    }
}

/* No table is quicker than the bound, whatever passes cost, and with the memory that it takes. */
static void test_bound(void **state) {
    (void)state;
    struct sf_rng rng = sf_rng_seed(7);
    for (uint32_t k = 0; k < 4000; k++) {
        uint32_t devices = 1 + below(&rng, 4), microbatches = 1 + below(&rng, 7);
        sf_time_ps times[3][8], comm = below(&rng, 30);
        double held[3][8] = {{0}};
        struct sf_pipe *table;
        struct sf_pipe_timing t;
        assert_int_equal(sf_pipe_split_head(devices, microbatches, &table, NULL), 0);
        if (k % 4 > 0) {
            memset(table->passes_n, 0, devices * sizeof *table->passes_n);
            fill_at_random(table, &rng);
        }
        for (uint32_t s = 0; s < 8; s++) {
            for (int pass = 0; pass < 3; pass++) {
                times[pass][s] = below(&rng, s < devices ? 100 : 60);
            }
            held[1][s] = held[0][s] = below(&rng, 5);
        }
        const struct sf_pipe_costs costs = {.f = times[0],
                                            .b = times[1],
                                            .w = times[2],
                                            .comm = comm,
                                            .comm_parts = comm / 2,
                                            .mem_f = held[0],
                                            .mem_b = held[1],
                                            .mem_w = held[2]};
        assert_int_equal(sf_pipe_replay(table, &costs, &t, NULL, NULL, NULL), 0);
        assert_true(sf_pipe_lower_bound(table, &costs, 0) <= t.span);
        assert_true(sf_pipe_lower_bound(table, &costs, t.peak_memory) <= t.span);
        sf_pipe_free(table);
    }
}

static sf_time_ps makespan(const struct sf_pipe *table, const struct sf_pipe_costs *costs) {
    struct sf_pipe_timing timing;
    assert_int_equal(sf_pipe_replay(table, costs, &timing, NULL, NULL, NULL), 0);
    return timing.makespan;
}

/* Four layers on every device, a head like four more: parts take less time than the whole. */
static void test_beats_a_whole_head(void **state) {
    (void)state;
    for (uint32_t devices = 2; devices <= 16; devices *= 2) {
        const struct sf_pipe_spec spec = {
            .family = SF_PIPE_1F1B, .devices = devices, .microbatches = 64, .f = 4000, .b = 4000, .w = 4000};
        struct sf_pipe_costs whole, parts;
        struct sf_pipe_layout layout;
        struct sf_pipe *table, *plain;
        struct sf_buf text = {0};
        for (uint32_t d = 0; d < devices; d++) {
            sf_buf_printf(&text, "%s%st*4%s", d > 0 ? "|" : "", d == 0 ? "E" : "", d + 1 == devices ? "L" : "");
        }
        assert_int_equal(sf_pipe_layout_parse(text.data, &layout, NULL), 0);
        assert_int_equal(sf_pipe_split_head(devices, 64, &table, NULL), 0);
        assert_int_equal(sf_pipe_generate(&spec, &plain, NULL), 0);
        assert_int_equal(sf_pipe_split_head_costs(&layout, table, &spec, 4, &parts, NULL), 0);
        assert_int_equal(sf_pipe_layout_costs(&layout, plain, &spec, 4, &whole, NULL), 0);
        assert_true(makespan(table, &parts) * 10 < makespan(plain, &whole) * 9);
        sf_pipe_costs_clear(&whole);
        sf_pipe_costs_clear(&parts);
        sf_pipe_layout_clear(&layout);
        sf_pipe_free(plain);
        sf_pipe_free(table);
        sf_buf_free(&text);
    }
}

/* Four layers per stage and a head like four of them: a third of all work, half of it on each device. */
static void test_costs(void **state) {
    (void)state;
    const char text[] = "Et*4|t*4L";
    const struct sf_pipe_spec spec = {.devices = 2, .f = 1200, .b = 2400, .w = 600};
    struct sf_pipe_layout layout;
    struct sf_pipe_costs costs;
    struct sf_pipe *table;
    struct sf_err err;
    assert_int_equal(sf_pipe_layout_parse(text, &layout, &err), 0);
    assert_int_equal(sf_pipe_split_head(2, 4, &table, &err), 0);
    assert_int_equal(sf_pipe_split_head_costs(&layout, table, &spec, 4, &costs, &err), 0);
    for (uint32_t s = 0; s < 2; s++) {
        assert_int_equal(costs.f[s], 800); /* 4 of 12 layers' worth, of two devices */
        assert_int_equal(costs.b[s], 1600);
        assert_int_equal(costs.w[s], 400);
        assert_int_equal(costs.f[2 + s], 400);
        assert_true(costs.mem_f[s] > 0.999 && costs.mem_f[s] < 1.001);
        assert_true(costs.mem_f[2 + s] <= 0);
    }
    sf_pipe_costs_clear(&costs);
    sf_pipe_free(table);
    assert_int_equal(sf_pipe_create(2, 2, 4, 1, &table, &err), 0); /* no parts of a head */
    assert_int_equal(sf_pipe_split_head_costs(&layout, table, &spec, 4, &costs, &err), SF_E_INPUT);
    sf_pipe_free(table);
    sf_pipe_layout_clear(&layout);
}

static void refused(const struct sf_scenario *s, const struct sf_plan *p, const char *why) {
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    assert_int_equal(sf_compile(s, p, &prog, &err), SF_E_INPUT);
    if (strstr(err.msg, why) == NULL) {
        fail_msg("expected \"%s\" in: %s", why, err.msg);
    }
}

static void test_refusals(void **state) {
    (void)state;
    struct sf_scenario s = shaped_scenario(cluster, &tiny_shape);
    struct sf_plan p = plan_for(&s, 1, 1, 4);
    refused(&s, &p, "pp from 2");
    p = plan_for(&s, 1, 2, 4);
    p.schedule = SF_SCHEDULE_GPIPE;
    refused(&s, &p, "needs schedule 1f1b");
    p.schedule = SF_SCHEDULE_1F1B;
    s.model.vocab -= 2;
    p = even_plan(
        &s, (struct sf_plan){.tp = 2, .pp = 2, .microbatches = 4, .schedule = SF_SCHEDULE_1F1B, .split_head = true});
    refused(&s, &p, "pp * tp to divide its 254 tokens");
    s.model.vocab += 2;
    s.model.tied = true;
    refused(&s, &p, "a head of its own");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),    cmocka_unit_test(test_table),
        cmocka_unit_test(test_idle),     cmocka_unit_test(test_parts_by_hand),
        cmocka_unit_test(test_text),     cmocka_unit_test(test_no_table_of_a_plan),
        cmocka_unit_test(test_bound),    cmocka_unit_test(test_costs),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_beats_a_whole_head),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
