/* Heads split by vocabulary over a pipeline: programs are sound, every rank has its part and no more, no more
 * microbatches are under way than there is room for, and the pipeline beats one with a whole head. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/arena.h"
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
            uint32_t most = 2 * pp - i + 2;
            assert_true(count(c, "stash") <= (most < microbatches ? most : microbatches));
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
        cmocka_unit_test(test_costs),    cmocka_unit_test(test_beats_a_whole_head),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
