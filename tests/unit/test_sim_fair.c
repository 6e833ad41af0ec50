/* Max-min rates of cases that can be done by hand, and the edges: nothing, zero capacity, caps, remainders, size. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "sim/fair.h"

static uint64_t scratch[SF_FAIR_SMALL_SCRATCH / 8];

static void test_one_link_is_split_evenly(void **state) {
    (void)state;
    const struct sf_fair_flow flows[] = {{SF_FAIR_NO_CAP, 1, {0}}, {SF_FAIR_NO_CAP, 1, {0}}, {SF_FAIR_NO_CAP, 1, {0}}};
    uint64_t rate[3];
    sf_fair_rates(flows, 3, (uint64_t[]){100}, 1, scratch, rate);
    assert_int_equal(rate[0], 33); /* the remainder stays unused rather than going to whoever came first */
    assert_int_equal(rate[1], 33);
    assert_int_equal(rate[2], 33);
}

/* Two links in a row, one flow over both: the long one gets the share of the narrow link, the short ones the rest. */
static void test_parking_lot(void **state) {
    (void)state;
    const struct sf_fair_flow flows[] = {
        {SF_FAIR_NO_CAP, 2, {0, 1}}, {SF_FAIR_NO_CAP, 1, {0}}, {SF_FAIR_NO_CAP, 1, {1}}};
    uint64_t rate[3];
    sf_fair_rates(flows, 3, (uint64_t[]){100, 60}, 2, scratch, rate);
    assert_int_equal(rate[0], 30);
    assert_int_equal(rate[1], 70);
    assert_int_equal(rate[2], 30);
}

static void test_caps_free_room(void **state) {
    (void)state;
    const struct sf_fair_flow flows[] = {{10, 1, {0}}, {SF_FAIR_NO_CAP, 1, {0}}, {200, 1, {0}}, {7, 0, {0}}};
    uint64_t rate[4];
    sf_fair_rates(flows, 4, (uint64_t[]){100}, 1, scratch, rate);
    assert_int_equal(rate[0], 10);
    assert_int_equal(rate[1], 45);
    assert_int_equal(rate[2], 45);
    assert_int_equal(rate[3], 7); /* on no link at all */
}

/* Both links are tied at 2 although 8 / 3 leaves a remainder: all freeze together, whichever is looked at first. */
static void test_ties_freeze_together(void **state) {
    (void)state;
    const struct sf_fair_flow flows[] = {{SF_FAIR_NO_CAP, 1, {0}},
                                         {SF_FAIR_NO_CAP, 1, {0}},
                                         {SF_FAIR_NO_CAP, 2, {0, 1}},
                                         {SF_FAIR_NO_CAP, 1, {1}},
                                         {SF_FAIR_NO_CAP, 1, {1}}};
    uint64_t rate[5];
    sf_fair_rates(flows, 5, (uint64_t[]){6, 8}, 2, scratch, rate);
    for (int f = 0; f < 5; f++) {
        assert_int_equal(rate[f], 2);
    }
}

static void test_nothing_and_dead_links(void **state) {
    (void)state;
    const struct sf_fair_flow flows[] = {{SF_FAIR_NO_CAP, 2, {0, 1}}, {SF_FAIR_NO_CAP, 1, {1}}};
    uint64_t rate[2];
    sf_fair_rates(NULL, 0, NULL, 0, scratch, NULL);
    sf_fair_rates(flows, 2, (uint64_t[]){0, 50}, 2, scratch, rate);
    assert_int_equal(rate[0], 0);
    assert_int_equal(rate[1], 50);
}

/* A hundred thousand flows, 100 per source and 50 per sink: every sink splits in 50, sources keep what is left. */
static void test_many_flows(void **state) {
    (void)state;
    enum { N = 100000, SOURCES = 1000, SINKS = 2000 };
    struct sf_fair_flow *flows = calloc(N, sizeof *flows);
    uint64_t *capacity = calloc(SOURCES + SINKS, sizeof *capacity), *rate = calloc(N, sizeof *rate);
    void *space = malloc(sf_fair_scratch_bytes(N, SOURCES + SINKS));
    assert_true(flows && capacity && rate && space);
    for (uint32_t l = 0; l < SOURCES + SINKS; l++) {
        capacity[l] = l < SOURCES ? 100000 + l : 5000 + l % 7;
    }
    for (uint32_t f = 0; f < N; f++) {
        flows[f] =
            (struct sf_fair_flow){SF_FAIR_NO_CAP, 2, {f % SOURCES, SOURCES + (f / SOURCES * 20 + f % 20) % SINKS}};
    }
    sf_fair_rates(flows, N, capacity, SOURCES + SINKS, space, rate);
    for (uint32_t f = 0; f < N; f++) {
        assert_int_equal(rate[f], capacity[flows[f].links[1]] / 50);
    }
    free(flows);
    free(capacity);
    free(rate);
    free(space);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_link_is_split_evenly), cmocka_unit_test(test_parking_lot),
        cmocka_unit_test(test_caps_free_room),           cmocka_unit_test(test_ties_freeze_together),
        cmocka_unit_test(test_nothing_and_dead_links),   cmocka_unit_test(test_many_flows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
