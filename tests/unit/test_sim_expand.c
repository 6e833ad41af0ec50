/* Collectives chunk by chunk: trees, counts by hand, limits, late members one step at a time, what is refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/arena.h"
#include "sim/expand_internal.h"

enum { MEMBERS = 64 };

struct world {
    struct sf_topo *topo;
    struct sf_coll *coll;
    struct sfi_expand *x;
    uint32_t domain[MEMBERS];
    sf_time_ps arrive[MEMBERS], end[MEMBERS];
};

static int open_world(void **state) {
    struct world *w = calloc(1, sizeof *w);
    struct sf_err err = {0};
    assert_non_null(w);
    if (sf_topo_load(&sf_io_posix, SF_SOURCE_DIR "/scenarios/clusters/gb200-nvl72-64rack.yaml", SF_CATALOG_DIR,
                     &w->topo, &err) ||
        sf_coll_create(w->topo, &sf_io_posix, &w->coll, &err)) {
        fail_msg("%s: %s", err.file, err.msg);
    }
    w->x = sfi_expand_create();
    assert_non_null(w->x);
    *state = w;
    return 0;
}

static int close_world(void **state) {
    struct world *w = *state;
    sfi_expand_free(w->x);
    sfi_expand_free(NULL);
    sf_coll_free(w->coll);
    sf_topo_free(w->topo);
    free(w);
    return 0;
}

static struct sfi_expand_ask ask(struct world *w, enum sf_coll_op op, enum sf_coll_algorithm algorithm, uint64_t bytes,
                                 uint32_t domains, uint32_t local) {
    for (uint32_t i = 0; i < domains * local; i++) {
        w->domain[i] = i / local;
        w->arrive[i] = 0;
    }
    uint32_t kind = domains > 1 ? SF_ROUTE_LEAF : SF_ROUTE_DOMAIN;
    return (struct sfi_expand_ask){
        .coll = w->coll,
        .query = {op, bytes, {.members = domains * local, .domains = domains, .min_per_domain = local, .kind = kind}},
        .algorithm = algorithm,
        .protocol = SF_COLL_SIMPLE,
        .domain = w->domain,
        .arrive = w->arrive};
}

static void run(struct world *w, const struct sfi_expand_ask *a) {
    struct sf_err err = {0};
    if (sfi_expand_run(w->x, a, UINT64_MAX, w->end, &err)) {
        fail_msg("%s", err.msg);
    }
}

static void expect_refusal(struct world *w, const struct sfi_expand_ask *a, uint64_t limit, const char *text) {
    struct sf_err err = {0};
    assert_int_equal(sfi_expand_run(w->x, a, limit, w->end, &err), SF_E_INPUT);
    if (!strstr(err.msg, text)) {
        fail_msg("expected \"%s\" in: %s", text, err.msg);
    }
}

/* Both are trees, at most two children each; whoever has children in one has none in the other, but for one domain. */
static void test_binary_trees(void **state) {
    (void)state;
    uint32_t parent[2][100], order[100], children[2][100];
    for (uint32_t n = 1; n <= 100; n++) {
        uint32_t both = 0;
        for (uint32_t tree = 0; tree < 2; tree++) {
            bool seen[100] = {false};
            memset(children[tree], 0, sizeof children[tree]);
            sfi_expand_binary(n, tree, parent[tree], order);
            for (uint32_t i = n; i-- > 0;) {
                uint32_t up = parent[tree][order[i]];
                assert_false(seen[order[i]]);
                assert_true(i + 1 == n ? up == SF_NONE : up < n && seen[up]);
                seen[order[i]] = true;
                children[tree][i + 1 == n ? order[i] : up] += i + 1 < n;
            }
        }
        for (uint32_t d = 0; d < n; d++) {
            assert_true(children[0][d] <= 2 && children[1][d] <= 2);
            both += children[0][d] > 0 && children[1][d] > 0;
        }
        assert_true(both <= 1);
    }
}

static void test_counts(void **state) {
    struct world *w = *state;
    struct sfi_expand_ask a = ask(w, SF_COLL_ALL_GATHER, SF_COLL_RING, 1 << 20, 1, 8);
    uint32_t channels = sfi_channels(&(struct sfi_ask){.c = w->coll, .domains = 1, .local = 8}, SF_COLL_RING);
    assert_true(channels > 1);
    assert_int_equal(sfi_expand_chunks(&a), 7 * 8 * channels);
    a.query.op = SF_COLL_ALL_REDUCE;
    assert_int_equal(sfi_expand_chunks(&a), 14 * 8 * channels);
    a.query.bytes = UINT64_C(8) * channels * (2 << 20) * 3; /* chunks of 2 MiB: three loops */
    assert_int_equal(sfi_expand_chunks(&a), 3 * 14 * 8 * channels);
    a = ask(w, SF_COLL_ALL_TO_ALL, SF_COLL_DIRECT, 4 << 20, 1, 4);
    assert_int_equal(sfi_expand_chunks(&a), 4 * 3 * 2); /* messages of a megabyte, chunks of half of that */
}

static void test_refusals(void **state) {
    struct world *w = *state;
    struct sfi_expand_ask a = ask(w, SF_COLL_ALL_GATHER, SF_COLL_RING, 1 << 20, 1, 8);
    uint64_t chunks = sfi_expand_chunks(&a);
    struct sf_err err = {0};
    assert_int_equal(sfi_expand_run(w->x, &a, chunks, w->end, &err), SF_OK);
    expect_refusal(w, &a, chunks - 1, "over 8 members");
    a.query.op = SF_COLL_BROADCAST;
    expect_refusal(w, &a, UINT64_MAX, "broadcast cannot be expanded");
    a = ask(w, SF_COLL_ALL_GATHER, SF_COLL_TREE, 1 << 20, 1, 8);
    expect_refusal(w, &a, UINT64_MAX, "all_gather cannot be expanded to chunks by tree");
    a = ask(w, SF_COLL_ALL_REDUCE, SF_COLL_NVLS, 1 << 20, 1, 8);
    a.protocol = SF_COLL_LL;
    expect_refusal(w, &a, UINT64_MAX, "protocol ll");
    for (int op = 0; op < SF_COLL_BROADCAST; op++) {
        for (int algorithm = 0; algorithm < SF_COLL_ALGORITHMS_N; algorithm++) {
            a = ask(w, (enum sf_coll_op)op, (enum sf_coll_algorithm)algorithm, UINT64_MAX, 2, 4);
            struct sf_coll_choice c;
            bool can = sf_coll_price(w->coll, &a.query, a.algorithm, a.protocol, &c);
            expect_refusal(w, &a, UINT64_MAX, can ? "more than two hours" : "cannot be expanded");
        }
    }
}

static void test_no_memory(void **state) {
    struct world *w = *state;
    struct sfi_expand_ask a = ask(w, SF_COLL_ALL_REDUCE, SF_COLL_RING, 1 << 20, 8, 8);
    struct sf_err err = {0};
    sf_alloc_fail_after(1);
    struct sfi_expand *none = sfi_expand_create();
    sf_alloc_fail_after(0);
    assert_null(none);
    for (size_t k = 1; k <= 2; k++) {
        struct sfi_expand *x = sfi_expand_create();
        sf_alloc_fail_after(k);
        int rc = sfi_expand_run(x, &a, UINT64_MAX, w->end, &err);
        sf_alloc_fail_after(0);
        assert_int_equal(rc, SF_E_INTERNAL);
        assert_int_equal(sfi_expand_run(x, &a, UINT64_MAX, w->end, &err), SF_OK);
        sfi_expand_free(x);
    }
}

static void test_edges(void **state) {
    struct world *w = *state;
    struct sfi_expand_ask a = ask(w, SF_COLL_ALL_REDUCE, SF_COLL_RING, 1 << 20, 1, 1);
    w->arrive[0] = 77;
    run(w, &a);
    assert_true(w->end[0] == 77);
    for (int op = 0; op < SF_COLL_BROADCAST; op++) { /* nothing to send still takes the start and the hops */
        a = ask(w, (enum sf_coll_op)op, op == SF_COLL_ALL_TO_ALL ? SF_COLL_DIRECT : SF_COLL_RING, 0, 2, 2);
        run(w, &a);
        assert_true(w->end[0] > 1000000 && w->end[0] < 200000000);
    }
}

/* All gather over a ring of eight: when the late member comes, its buffer holds two of the seven shares that it must
 * pass on; the other five follow two by two, a hop's latency each time. Further members are done in the order of the
 * ring. */
static void test_late_member_finds_a_full_buffer(void **state) {
    struct world *w = *state;
    struct sfi_expand_ask a = ask(w, SF_COLL_ALL_GATHER, SF_COLL_RING, 8 << 10, 1, 8);
    const uint32_t late = 3;
    w->arrive[late] = SF_PS_PER_S; /* everything else has long come to rest */
    run(w, &a);
    double hop = w->coll->k.step[SF_COLL_SIMPLE], base = w->coll->k.base[SF_COLL_SIMPLE];
    double own = sf_ps_to_s(w->end[late] - w->arrive[late]) - base;
    assert_true(own > 3 * hop && own < 4 * hop);
    for (uint32_t hops = 1; hops < 8; hops++) {
        sf_time_ps gain = w->end[(late + hops) % 8] - w->end[(late + hops - 1) % 8];
        assert_true(gain > 0 && sf_ps_to_s(gain) < hop);
    }
}

/* All to all: what the late member has to do with the others takes as long as an exchange, no matter how late. */
static void test_late_member_costs_one_exchange(void **state) {
    struct world *w = *state;
    struct sfi_expand_ask a = ask(w, SF_COLL_ALL_TO_ALL, SF_COLL_DIRECT, 64 << 20, 1, 8);
    run(w, &a);
    sf_time_ps together = w->end[0];
    w->arrive[5] = 10 * together;
    run(w, &a);
    for (uint32_t m = 0; m < 8; m++) {
        if (w->end[m] <= 10 * together || w->end[m] >= 11 * together + together / 20) {
            fail_msg("member %u: %.3f", m, (double)w->end[m] / (double)together);
        }
    }
}

/* A group that leaves its last domain half empty. */
static void test_uneven_domains(void **state) {
    struct world *w = *state;
    struct sfi_expand_ask a = ask(w, SF_COLL_REDUCE_SCATTER, SF_COLL_RING, 256 << 20, 4, 4);
    run(w, &a);
    sf_time_ps even = w->end[0];
    a.query.span = (struct sf_span){.members = 14, .domains = 4, .min_per_domain = 2, .kind = SF_ROUTE_LEAF};
    run(w, &a);
    struct sf_coll_choice c;
    assert_true(sf_coll_price(w->coll, &a.query, a.algorithm, a.protocol, &c));
    assert_true(w->end[0] > even); /* two NICs instead of four */
    assert_true(fabs(sf_ps_to_s(w->end[0]) / c.time_s - 1) < 0.02);
}

/* One rail of four at half rate: its channels carry a quarter of the vector and need twice the time. */
static void test_slow_rail(void **state) {
    struct world *w = *state;
    struct sfi_expand_ask a = ask(w, SF_COLL_ALL_GATHER, SF_COLL_RING, UINT64_C(1) << 30, 4, 4);
    double out[16];
    run(w, &a);
    sf_time_ps full = w->end[0];
    for (uint32_t i = 0; i < 16; i++) {
        out[i] = i == 6 ? 0.5 : 1;
    }
    a.out = out;
    run(w, &a);
    sf_time_ps last = 0;
    for (uint32_t i = 0; i < 16; i++) {
        last = w->end[i] > last ? w->end[i] : last;
    }
    assert_true(fabs((double)last / (double)full - 2) < 0.05);
}

static void test_grades(void **state) {
    struct world *w = *state;
    struct sf_span inside = {.members = 4, .domains = 1, .min_per_domain = 4, .kind = SF_ROUTE_DOMAIN},
                   across = {.members = 8, .domains = 2, .min_per_domain = 4, .kind = SF_ROUTE_LEAF};
    assert_int_equal(sf_coll_grade(w->coll, SF_COLL_ALL_REDUCE, &inside), SF_GRADE_MEASURED);
    assert_int_equal(sf_coll_grade(w->coll, SF_COLL_ALL_REDUCE, &across), SF_GRADE_MEASURED);
    struct sf_err err = {0};
    struct sf_topo *topo;
    struct sf_coll *coll;
    const char *path = SF_SOURCE_DIR "/scenarios/clusters/gb300-nvl72-220k.yaml";
    assert_int_equal(sf_topo_load(&sf_io_posix, path, SF_CATALOG_DIR, &topo, &err), SF_OK);
    assert_int_equal(sf_coll_create(topo, &sf_io_posix, &coll, &err), SF_OK);
    assert_int_equal(sf_coll_grade(coll, SF_COLL_ALL_REDUCE, &inside), SF_GRADE_MEASURED);
    assert_int_equal(sf_coll_grade(coll, SF_COLL_ALL_REDUCE, &across),
                     SF_GRADE_EXTRAPOLATED); /* nobody has published 800G */
    sf_coll_free(coll);
    sf_topo_free(topo);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_binary_trees),
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_late_member_finds_a_full_buffer),
        cmocka_unit_test(test_late_member_costs_one_exchange),
        cmocka_unit_test(test_uneven_domains),
        cmocka_unit_test(test_slow_rail),
        cmocka_unit_test(test_grades),
    };
    return cmocka_run_group_tests(tests, open_world, close_world);
}
