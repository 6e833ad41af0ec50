/* What NCCL's tuner answers: the picks of the communicator that was made, in tables made up as NCCL makes them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "runtime/cuda/tuner.h"

#define ROWS 7
#define COLUMNS SF_COLL_PROTOCOLS_N

typedef float nccl_table[ROWS][COLUMNS];

static struct sf_coll_picks picks_of(int op, int algorithm, int protocol) {
    struct sf_coll_picks picks = {{0}};
    picks.of[op] = (uint8_t)SF_COLL_PICK(algorithm, protocol);
    return picks;
}

static void *made(const struct sf_coll_picks *picks) {
    void *context = NULL;
    sfi_tuner_next(picks);
    assert_int_equal(ncclTunerPlugin_v4.init(16, 2, NULL, &context), 0);
    assert_non_null(context);
    return context;
}

/* All pairs take some time; ring/ll is the quickest. */
static void fill(nccl_table table) {
    for (int a = 0; a < ROWS; a++) {
        for (int p = 0; p < COLUMNS; p++) {
            table[a][p] = (float)(100 + 10 * a + p);
        }
    }
    table[SFI_NCCL_RING][SF_COLL_LL] = 1;
}

/* Row and column that NCCL would take then. */
static int asked(void *context, int func, nccl_table table) {
    int channels = 17, best = -1;
    float least = 1e30f;
    assert_int_equal(
        ncclTunerPlugin_v4.ask(context, func, 1 << 20, 1, (float **)(void *)table, ROWS, COLUMNS, 0, &channels), 0);
    assert_int_equal(channels, 17); /* how many is NCCL's own business */
    for (int i = 0; i < ROWS * COLUMNS; i++) {
        float t = table[i / COLUMNS][i % COLUMNS];
        if (t >= 0 && t < least) {
            least = t;
            best = i;
        }
    }
    return best;
}

static void test_every_pick(void **state) {
    static const int funcs[][2] = {{SF_COLL_ALL_REDUCE, SFI_NCCL_ALL_REDUCE},
                                   {SF_COLL_ALL_GATHER, SFI_NCCL_ALL_GATHER},
                                   {SF_COLL_REDUCE_SCATTER, SFI_NCCL_REDUCE_SCATTER},
                                   {SF_COLL_BROADCAST, SFI_NCCL_BROADCAST}};
    static const int rows[] = {[SF_COLL_TREE] = 0, [SF_COLL_RING] = 1,      [SF_COLL_COLLNET] = 2,
                               [SF_COLL_NVLS] = 4, [SF_COLL_NVLS_TREE] = 5, [SF_COLL_PAT] = 6};
    (void)state;
    for (size_t f = 0; f < sizeof funcs / sizeof *funcs; f++) {
        for (int i = 0; i < (int)(sizeof rows / sizeof *rows) * COLUMNS; i++) {
            struct sf_coll_picks picks = picks_of(funcs[f][0], i / COLUMNS, i % COLUMNS);
            void *context = made(&picks);
            for (size_t other = 0; other < sizeof funcs / sizeof *funcs; other++) {
                nccl_table table;
                fill(table);
                int expected = other == f ? rows[i / COLUMNS] * COLUMNS + i % COLUMNS : 1 * COLUMNS;
                assert_int_equal(asked(context, funcs[other][1], table), expected);
            }
            assert_int_equal(sfi_tuner_check(NULL), 0);
            assert_int_equal(ncclTunerPlugin_v4.destroy(context), 0);
        }
    }
}

/* Each communicator keeps what was said when it was made; without picks NCCL's own table is left alone. */
static void test_each_has_its_own(void **state) {
    struct sf_coll_picks first = picks_of(SF_COLL_ALL_GATHER, SF_COLL_NVLS, SF_COLL_SIMPLE), none = {{0}};
    nccl_table table, before;
    (void)state;
    void *a = made(&first), *b = made(&none);
    fill(table);
    assert_int_equal(asked(a, SFI_NCCL_ALL_GATHER, table), 4 * COLUMNS + SF_COLL_SIMPLE);
    fill(table);
    memcpy(before, table, sizeof before);
    assert_int_equal(asked(b, SFI_NCCL_ALL_GATHER, table), COLUMNS);
    assert_memory_equal(before, table, sizeof before);
    ncclTunerPlugin_v4.destroy(a);
    ncclTunerPlugin_v4.destroy(b);
}

static void test_switches_have_two_ways(void **state) {
    struct sf_coll_picks picks = picks_of(SF_COLL_ALL_REDUCE, SF_COLL_COLLNET, SF_COLL_SIMPLE);
    nccl_table table;
    (void)state;
    void *context = made(&picks);
    fill(table);
    table[SFI_NCCL_COLLNET_DIRECT][SF_COLL_SIMPLE] = -1;
    assert_int_equal(asked(context, SFI_NCCL_ALL_REDUCE, table), 3 * COLUMNS + SF_COLL_SIMPLE);
    assert_int_equal(sfi_tuner_check(NULL), 0);
    ncclTunerPlugin_v4.destroy(context);
}

/* Sends and receives, and operations that NCCL may add, are not ours to answer for. */
static void test_other_functions(void **state) {
    struct sf_coll_picks picks = {{0}};
    nccl_table table, before;
    (void)state;
    memset(picks.of, SF_COLL_PICK(SF_COLL_TREE, SF_COLL_LL), sizeof picks.of);
    void *context = made(&picks);
    static const int others[] = {1, 5, 6, 7, 8, 99, -1};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        fill(table);
        memcpy(before, table, sizeof before);
        assert_int_equal(asked(context, others[i], table), COLUMNS);
        assert_memory_equal(before, table, sizeof before);
    }
    ncclTunerPlugin_v4.destroy(context);
}

static void test_a_communicator_that_nobody_asked_for(void **state) {
    struct sf_coll_picks picks = picks_of(SF_COLL_ALL_REDUCE, SF_COLL_TREE, SF_COLL_LL128), none = {{0}};
    struct sf_err err = {0};
    (void)state;
    sfi_tuner_next(&none);
    assert_int_equal(sfi_tuner_check(&err), 0);
    sfi_tuner_next(&picks);
    assert_int_equal(sfi_tuner_check(&err), SF_E_FAULT);
    assert_non_null(strstr(err.msg, "asks for no tuner"));
    ncclTunerPlugin_v4.destroy(made(&picks));
    assert_int_equal(sfi_tuner_check(&err), 0);
}

static void test_what_nccl_rules_out(void **state) {
    struct sf_coll_picks picks = picks_of(SF_COLL_REDUCE_SCATTER, SF_COLL_PAT, SF_COLL_SIMPLE);
    struct sf_err err = {0};
    nccl_table table;
    (void)state;
    void *context = made(&picks);
    fill(table);
    table[SFI_NCCL_PAT][SF_COLL_SIMPLE] = -1;
    assert_int_equal(asked(context, SFI_NCCL_REDUCE_SCATTER, table), COLUMNS);
    assert_int_equal(sfi_tuner_check(&err), SF_E_FAULT);
    assert_non_null(strstr(err.msg, "reduce_scatter on pat/simple, which NCCL has ruled out"));
    assert_int_equal(sfi_tuner_check(&err), 0);
    ncclTunerPlugin_v4.destroy(context);
}

/* A table of another shape than this NCCL's has no place for the pick. */
static void test_smaller_tables(void **state) {
    struct sf_coll_picks picks = picks_of(SF_COLL_ALL_REDUCE, SF_COLL_RING, SF_COLL_SIMPLE);
    float table[2][COLUMNS] = {{1, 1, 1}, {1, 1, 1}};
    int channels = 0;
    (void)state;
    void *context = made(&picks);
    assert_int_equal(
        ncclTunerPlugin_v4.ask(context, SFI_NCCL_ALL_REDUCE, 1, 1, (float **)(void *)table, 2, COLUMNS, 0, &channels),
        0);
    assert_true(table[1][SF_COLL_SIMPLE] > 0.5f);
    assert_int_equal(sfi_tuner_check(NULL), SF_E_FAULT);
    ncclTunerPlugin_v4.destroy(context);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_pick),
        cmocka_unit_test(test_each_has_its_own),
        cmocka_unit_test(test_switches_have_two_ways),
        cmocka_unit_test(test_other_functions),
        cmocka_unit_test(test_a_communicator_that_nobody_asked_for),
        cmocka_unit_test(test_what_nccl_rules_out),
        cmocka_unit_test(test_smaller_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
