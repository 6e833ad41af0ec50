/* Tables of units and stages: read as written, summed as defined, refused where they are wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "core/arena.h"
#include "planner/cut_units.h"

static int text_read(void *self, const char *path, size_t max_bytes, char **data, size_t *bytes, struct sf_err *err) {
    const char *text = self;
    (void)path, (void)max_bytes, (void)err;
    *bytes = strlen(text);
    *data = sf_malloc(*bytes + 1);
    assert_non_null(*data);
    memcpy(*data, text, *bytes + 1);
    return 0;
}

static struct sf_io io_of(const char *text) {
    return (struct sf_io){(void *)(uintptr_t)text, text_read, NULL};
}

#define HEAD "unit,count,devices,f,b,w,state,activation\n"
#define MODEL                                                                                                          \
    HEAD "encoder,4,1,1ms,1ms,1ms,10MB,1MB\n"                                                                          \
         "embedding,1,1,1ms,0ms,1ms,90MB,0B\n"                                                                         \
         "layer,12,1,4ms,4ms,4ms,50MB,8MB\n"                                                                           \
         "head,1,1,12ms,12ms,12ms,90MB,2MB\n"
#define MS (SF_PS_PER_S / 1000)

static void load(const char *text, struct sf_cut_units *u) {
    struct sf_io io = io_of(text);
    struct sf_err err = {0};
    if (sf_cut_units_load(&io, "units.csv", u, &err) != 0) {
        fail_msg("%s", err.msg);
    }
}

static void sums_up(void **state) {
    (void)state;
    struct sf_cut_units u;
    load(MODEL, &u);
    assert_int_equal(u.units_n, 18);
    struct sf_cut_stage all = sf_cut_stage_of(&u, 0, 18, 0), some = sf_cut_stage_of(&u, 3, 7, 0);
    assert_int_equal(all.f, 65 * MS);
    assert_int_equal(all.b, 64 * MS);
    assert_int_equal(all.state_bytes, 820000000);
    assert_int_equal(some.w, 10 * MS);
    assert_int_equal(some.activation_bytes, 17000000);
    sf_cut_units_clear(&u);
}

static struct sf_cut cut(const struct sf_cut_units *u, uint32_t stages, uint32_t devices) {
    struct sf_cut out;
    struct sf_err err = {0};
    uint32_t in_flight[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    uint64_t limits[8];
    memset(limits, 0xff, sizeof limits);
    const struct sf_cut_problem p = {.units = u->units,
                                     .units_n = u->units_n,
                                     .stages_n = stages,
                                     .ways_n = u->ways_n,
                                     .way_devices = u->way_devices,
                                     .devices = devices,
                                     .in_flight = in_flight,
                                     .limit_bytes = limits};
    assert_int_equal(sf_cut(&p, &out, &err), 0);
    return out;
}

/* Encoder and embedding weigh 14 ms, the head 36: equal numbers of layers put 72 ms on the last stage. */
static void beats_equal_numbers(void **state) {
    (void)state;
    struct sf_cut_units u;
    struct sf_cut even, best;
    load(MODEL, &u);
    assert_true(sf_cut_even(&u, 4, &even));
    assert_int_equal(even.slowest, 72 * MS);
    assert_int_equal(even.first[1], 8);
    assert_int_equal(even.first[3], 14);
    best = cut(&u, 4, 4);
    assert_int_equal(best.slowest, 50 * MS);
    assert_false(sf_cut_even(&u, 13, &even));
    sf_cut_units_clear(&u);
}

/* Two ways: the stage with the head takes two devices when there is one to spare. */
static void takes_ways(void **state) {
    (void)state;
    struct sf_cut_units u;
    load("unit,devices,count,f,b,w,state,activation\n"
         "layer,1,4,1ms,1ms,1ms,1B,1B\nlayer,2,4,600us,600us,600us,1B,1B\n"
         "head,1,1,4ms,4ms,4ms,1B,1B\nhead,2,1,2ms,2ms,2ms,1B,1B\n",
         &u);
    assert_int_equal(u.ways_n, 2);
    assert_int_equal(cut(&u, 2, 2).slowest, 12 * MS);
    struct sf_cut three = cut(&u, 2, 3);
    assert_int_equal(three.devices, 3);
    assert_int_equal(three.way[1], 1);
    assert_true(three.slowest < 10 * MS);
    sf_cut_units_clear(&u);
}

static void stages_round_trip(void **state) {
    (void)state;
    struct sf_cut_units u;
    struct sf_buf csv = {0};
    struct sf_stage_costs c;
    struct sf_err err = {0};
    load(MODEL, &u);
    struct sf_cut best = cut(&u, 4, 4);
    sf_stage_costs_print(&u, &best, 4, &csv);
    struct sf_io io = io_of(csv.data);
    assert_int_equal(sf_stage_costs_load(&io, "stages.csv", &c, &err), 0);
    assert_int_equal(c.stages_n, 4);
    double share = 0;
    for (uint32_t s = 0; s < 4; s++) {
        struct sf_cut_stage one = sf_cut_stage_of(&u, best.first[s], best.first[s + 1], 0);
        assert_int_equal(c.f[s], one.f);
        assert_int_equal(c.b[s], one.b);
        assert_int_equal(c.w[s], one.w);
        share += c.activation[s];
    }
    assert_true(share > 3.999999 && share < 4.000001);
    sf_stage_costs_clear(&c);
    sf_buf_free(&csv);
    sf_cut_units_clear(&u);
}

/* Costs that are those of equal devices replay as equal devices do. */
static void equal_stages_are_equal_devices(void **state) {
    (void)state;
    struct sf_io io = io_of("f,b,w\n3ms,4ms,5ms\n3ms,4ms,5ms\n3ms,4ms,5ms\n");
    const struct sf_pipe_spec spec = {
        .family = SF_PIPE_ZB_H1, .devices = 3, .microbatches = 7, .f = 3 * MS, .b = 4 * MS, .w = 5 * MS, .comm = MS};
    struct sf_pipe *pipe;
    struct sf_stage_costs c;
    struct sf_pipe_costs ours, plain;
    struct sf_pipe_timing a, b;
    struct sf_err err = {0};
    assert_int_equal(sf_pipe_generate(&spec, &pipe, &err), 0);
    assert_int_equal(sf_stage_costs_load(&io, "stages.csv", &c, &err), 0);
    assert_int_equal(sf_stage_costs_set(&c, pipe, &spec, &ours, &err), 0);
    assert_int_equal(sf_pipe_costs_create(pipe, &spec, &plain, &err), 0);
    assert_int_equal(sf_pipe_replay(pipe, &ours, &a, NULL, NULL, &err), 0);
    assert_int_equal(sf_pipe_replay(pipe, &plain, &b, NULL, NULL, &err), 0);
    assert_int_equal(a.span, b.span);
    assert_int_equal(a.makespan, b.makespan);
    assert_true(a.peak_memory == b.peak_memory);
    sf_pipe_costs_clear(&ours);
    sf_pipe_costs_clear(&plain);
    sf_stage_costs_clear(&c);
    sf_pipe_free(pipe);
}

struct wrong {
    const char *text, *says;
    uint32_t line;
};

static void expect_wrong(int rc, const struct sf_err *err, const struct wrong *w) {
    if (rc != SF_E_INPUT || strstr(err->msg, w->says) == NULL || err->line != w->line) {
        fail_msg("expected \"%s\" in line %d, found %d in line %d: %s", w->says, w->line, rc, (int)err->line, err->msg);
    }
}

static void refuses_units(void **state) {
    (void)state;
    static const struct wrong all[] = {
        {HEAD, "expected rows of units", 1},
        {"unit,f,b,w,state\nx,1s,1s,1s,1B\n", "column \"activation\" is missing", 1},
        {"unit,f,b,w,state,activation,size\n", "unknown column \"size\"", 1},
        {"unit,unit,f,b,w,state,activation\n", "column \"unit\" appears twice", 1},
        {HEAD "x,1,1,4,1s,1s,1B,1B\n", "f \"4\": expected a time", 2},
        {HEAD "x,1,1,.6ms,1s,1s,1B,1B\n", "a digit is missing before the point", 2},
        {HEAD "x,1,1,0s,0s,0s,1B,1B\n", "all times are 0", 0},
        {HEAD "x,1,1,101s,1s,1s,1B,1B\n", "at most 100 s", 2},
        {HEAD "x,1,1,1s,-1s,1s,1B,1B\n", "b \"-1s\"", 2},
        {HEAD "x,1,1,1s,1s,1s,65TiB,1B\n", "at most 64 TiB", 2},
        {HEAD "x,0,1,1s,1s,1s,1B,1B\n", "count \"0\": expected a whole number from 1 to 4096", 2},
        {HEAD "x,4097,1,1s,1s,1s,1B,1B\n", "expected a whole number from 1 to 4096", 2},
        {HEAD "x,4096,1,1s,1s,1s,1B,1B\ny,1,1,1s,1s,1s,1B,1B\n", "more than 4,096 units", 3},
        {HEAD ",1,1,1s,1s,1s,1B,1B\n", "expected a name", 2},
        {HEAD "x,1,1,1s,1s,1s,1B,1B\nx,1,1,1s,1s,1s,1B,1B\n", "as many devices came before", 3},
        {HEAD "x,1,1,1s,1s,1s,1B,1B\nx,2,2,1s,1s,1s,1B,1B\n", "same count", 3},
        {HEAD "x,1,1,1s,1s,1s,1B,1B\ny,1,2,1s,1s,1s,1B,1B\n", "same numbers", 3},
        {HEAD "x,1,1,1s,1s,1s,1B,1B\nx,1,2,1s,1s,1s,1B,1B\ny,1,1,1s,1s,1s,1B,1B\n", "lacks ways", 4},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct sf_io io = io_of(all[i].text);
        struct sf_cut_units u;
        struct sf_err err = {0};
        expect_wrong(sf_cut_units_load(&io, "units.csv", &u, &err), &err, &all[i]);
        assert_null(u.rows);
    }
}

static void refuses_stages(void **state) {
    (void)state;
    static const struct wrong all[] = {
        {"f,b,w\n", "expected 1 to 16384 stages", 1},
        {"f,b\n1s,1s\n", "column \"w\" is missing", 1},
        {"stage,f,b,w\n0,1s,1s,1s\n2,1s,1s,1s\n", "stage \"2\": expected stages 0, 1, 2", 3},
        {"f,b,w\n0s,0s,0s\n", "expected a stage that takes time", 2},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct sf_io io = io_of(all[i].text);
        struct sf_stage_costs c;
        struct sf_err err = {0};
        expect_wrong(sf_stage_costs_load(&io, "stages.csv", &c, &err), &err, &all[i]);
        assert_null(c.f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_up),
        cmocka_unit_test(beats_equal_numbers),
        cmocka_unit_test(takes_ways),
        cmocka_unit_test(stages_round_trip),
        cmocka_unit_test(refuses_units),
        cmocka_unit_test(refuses_stages),
        cmocka_unit_test(equal_stages_are_equal_devices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
