/* Every published figure of a schedule in tests/data/published/schedules.csv, to the last digit it was printed with. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/arena.h"
#include "planner/pipeline.h"

#define COLUMNS 16

struct cell {
    struct sf_pipe_spec spec;
    const char *source, *measure;
    bool at_most;
    double value;
    int decimals;
};

static sf_time_ps ms(const char *text) {
    return (sf_time_ps)llround(strtod(text, NULL) * 1e9);
}

static uint32_t whole(const char *text) {
    return (uint32_t)strtoul(text, NULL, 10);
}

static void read_cell(char *line, struct cell *out) {
    char *column[COLUMNS];
    for (int i = 0; i < COLUMNS; i++) {
        column[i] = strsep(&line, ",");
        assert_non_null(column[i]);
    }
    *out = (struct cell){
        .spec = {.family = sf_pipe_family_parse(column[1]),
                 .devices = whole(column[2]),
                 .microbatches = whole(column[3]),
                 .chunks = whole(column[4]),
                 .slices = whole(column[5]),
                 .f = ms(column[6]),
                 .b = ms(column[7]),
                 .w = ms(column[8]),
                 .comm = ms(column[9]),
                 .weight_share = strtod(column[10], NULL),
                 .wrap_first = strcmp(column[11], "first") == 0},
        .source = column[0],
        .measure = column[12],
        .at_most = strcmp(column[13], "at_most") == 0,
        .value = strtod(column[14], NULL),
        .decimals = (int)whole(column[15]),
    };
    out->spec.published = !out->at_most;
}

static double measured(const struct cell *c, const struct sf_pipe *p, const struct sf_pipe_timing *t) {
    if (strcmp(c->measure, "span_bubble") == 0) {
        return t->bubble_span;
    }
    if (strcmp(c->measure, "length_ms") == 0) {
        return (double)t->makespan / 1e9;
    }
    if (strcmp(c->measure, "idle_ms") == 0) {
        return (double)(t->makespan - t->busiest) / 1e9;
    }
    if (strcmp(c->measure, "peak_chunks") == 0) {
        return t->peak_memory * p->stages / p->devices / p->ways;
    }
    assert_string_equal(c->measure, "peak_m");
    return t->peak_memory;
}

static double reproduce(const struct cell *c) {
    struct sf_err err = {0};
    struct sf_pipe *p;
    struct sf_pipe_costs costs;
    struct sf_pipe_timing t;
    if (sf_pipe_generate(&c->spec, &p, &err) != 0) {
        printf("  %s\n", err.msg);
        return NAN;
    }
    assert_int_equal(sf_pipe_costs_create(p, &c->spec, &costs, &err), 0);
    if (sf_pipe_replay(p, &costs, &t, NULL, NULL, &err) != 0) {
        printf("  %s\n", err.msg);
        t = (struct sf_pipe_timing){.bubble_span = NAN, .peak_memory = NAN};
    }
    double value = measured(c, p, &t);
    sf_pipe_costs_clear(&costs);
    sf_pipe_free(p);
    return value;
}

static bool agrees(const struct cell *c, double value) {
    double unit = pow(10, -c->decimals);
    return c->at_most ? value <= c->value + 0.5 * unit : fabs(value - c->value) <= 0.5 * unit + 1e-9;
}

static void every_cell(void **state) {
    char *text, *line, *rest;
    size_t bytes, n = 0, good = 0;
    struct sf_err err = {0};
    (void)state;
    assert_int_equal(
        sf_io_posix.read_all(NULL, SF_SOURCE_DIR "/tests/data/published/schedules.csv", 1u << 20, &text, &bytes, &err),
        0);
    rest = text;
    strsep(&rest, "\n");
    while ((line = strsep(&rest, "\n")) != NULL && *line != '\0') {
        struct cell c;
        read_cell(line, &c);
        double value = reproduce(&c);
        bool ok = agrees(&c, value);
        if (!ok || c.at_most) {
            printf("  %s %s p %u m %u (%s): %s %s %.*f, found %.*f\n", ok ? "ok    " : "DIFFERS",
                   sf_pipe_family_name(c.spec.family), c.spec.devices, c.spec.microbatches, c.source, c.measure,
                   c.at_most ? "<=" : "=", c.decimals, c.value, c.decimals, value);
        }
        n++;
        good += ok;
    }
    sf_free(text);
    printf("%zu of %zu cells\n", good, n);
    assert_int_equal(good, n);
    assert_true(n >= 194);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_cell)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
