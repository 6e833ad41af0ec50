/* Traffic patterns on real cluster files: closed forms, busbw as nccl-tests counts it, routing that matters, refusals.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "core/arena.h"
#include "sim/net.h"

#define CLUSTERS SF_SOURCE_DIR "/scenarios/clusters/"
#define MIB (UINT64_C(1) << 20)

struct toy {
    struct sf_topo *topo;
    double rate; /* of a NIC, bytes per second */
};

static void open_toy(struct toy *t, const char *cluster) {
    struct sf_err err = {0};
    if (sf_topo_load(&sf_io_posix, cluster, SF_CATALOG_DIR, &t->topo, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    t->rate = (double)sf_topo_scale_out(t->topo)->bytes_per_s;
}

static struct sf_net_job job_of(enum sf_net_pattern pattern, uint32_t endpoints, uint64_t bytes) {
    return (struct sf_net_job){.pattern = pattern,
                               .endpoints = endpoints,
                               .bytes = bytes,
                               .channels = 8,
                               .protocol = SF_COLL_SIMPLE,
                               .wire = {.packet_bytes = 4096},
                               .forward_ps = INT64_C(1000000000)};
}

/* What is left of the result is what needs no freeing. */
static struct sf_net_result run(const struct toy *t, struct sf_net_job *job) {
    struct sf_net *n = NULL;
    struct sf_net_result r;
    struct sf_err err = {0};
    if (sf_net_of_job(t->topo, job, &n, &err) != 0 || sf_net_run(n, NULL, &r, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    sf_net_result_free(&r);
    sf_net_free(n);
    return r;
}

static void expect_near(double value, double expected, double tolerance) {
    if (value < expected * (1 - tolerance) || value > expected * (1 + tolerance)) {
        fail_msg("%g, expected %g within %g", value, expected, tolerance);
    }
}

static double latency_of(const struct toy *t, uint32_t src, uint32_t dst) {
    struct sf_route route;
    sf_topo_route(t->topo, src, dst, &route);
    return sf_ps_to_s(route.latency_ps);
}

static void test_incast(void **state) {
    (void)state;
    struct toy t;
    open_toy(&t, CLUSTERS "hgx-h100-2048.yaml");
    struct sf_net_job job = job_of(SF_NET_INCAST, 32, 64 * MIB);
    struct sf_net_result r = run(&t, &job);
    expect_near(sf_ps_to_s(r.time), 31 * 64.0 * MIB / t.rate, 0.001);
    assert_int_equal(job.per_domain, 1);
    assert_int_equal(r.most_flows, 31);
    assert_true(sf_net_busbw(&job, r.time) == 0);
    sf_topo_free(t.topo);
}

/* Every adapter sends one message and receives one: with adaptive routing nothing else can matter. */
static void test_permutation_and_routing(void **state) {
    (void)state;
    struct toy t;
    open_toy(&t, CLUSTERS "hgx-h100-2048.yaml");
    struct sf_net_job job = job_of(SF_NET_PERMUTATION, 512, 64 * MIB);
    job.per_domain = 8;
    assert_int_equal(sf_topo_set_routing(t.topo, SF_ROUTING_ADAPTIVE, 0, NULL), 0);
    struct sf_net_result adaptive = run(&t, &job);
    expect_near(sf_net_busbw(&job, adaptive.time), t.rate, 0.01);
    assert_int_equal(sf_topo_set_routing(t.topo, SF_ROUTING_ECMP, 1, NULL), 0);
    struct sf_net_result ecmp = run(&t, &job);
    assert_true(ecmp.time > 2 * adaptive.time && ecmp.p50 > adaptive.p50); /* hashes collide */
    assert_int_equal(sf_topo_set_routing(t.topo, SF_ROUTING_ECMP, 2, NULL), 0);
    struct sf_net_result other = run(&t, &job);
    assert_int_not_equal(other.p99 + other.p50 + other.time, ecmp.p99 + ecmp.p50 + ecmp.time);
    job.seed = 1;
    struct sf_net_result reseeded = run(&t, &job);
    assert_int_not_equal(reseeded.p99 + reseeded.p50 + reseeded.time, other.p99 + other.p50 + other.time);
    sf_topo_free(t.topo);
}

static void test_all_to_all(void **state) {
    (void)state;
    struct toy t;
    open_toy(&t, CLUSTERS "hgx-h100-2048.yaml");
    struct sf_net_job job = job_of(SF_NET_ALL_TO_ALL, 256, 64 * MIB);
    struct sf_net_result r = run(&t, &job);
    assert_int_equal(job.per_domain, 8); /* one of each rail: 32 members, 31 messages of 1/32 */
    expect_near(sf_ps_to_s(r.time), 62.0 * MIB / t.rate, 0.01);
    expect_near(sf_net_busbw(&job, r.time), t.rate, 0.01);
    assert_int_equal(r.most_flows, 256 * 31);
    job.peers = 4; /* in rounds: as fast while latency is small, with fewer messages under way */
    r = run(&t, &job);
    assert_int_equal(r.most_flows, 256 * 4);
    expect_near(sf_ps_to_s(r.time), 62.0 * MIB / t.rate, 0.05);
    sf_topo_free(t.topo);
}

/* ---- planes and rails in a healthy cluster --------------------------------------------------------------------- */

struct layout {
    uint32_t planes, rails;
};

static int read_layout(void *self, const char *path, size_t max_bytes, char **data, size_t *bytes, struct sf_err *err) {
    const struct layout *l = self;
    if (strcmp(path, "racks.yaml") != 0) {
        return sf_io_posix.read_all(sf_io_posix.self, path, max_bytes, data, bytes, err);
    }
    *data = sf_malloc(1024);
    assert_non_null(*data);
    *bytes = (size_t)snprintf(*data, 1024,
                              "name: racks\ndevice: gb300\ndomains: 4\ndomain: { kind: rack, trays: 18, gpus_per_tray: "
                              "4, cpus_per_tray: 2, nvswitches: 18, link: nvlink5, links_per_gpu: 18 }\nnic: "
                              "connectx8-800g\nplanes: %u\nrails: %u\nfabric: { switch: quantum-x800-q3400, leaf_down: "
                              "72, tiers: 2, oversubscription: 1, cables: { nic_leaf: 3m, leaf_spine: 10m } }\n",
                              l->planes, l->rails);
    return 0;
}

static double us_on(struct layout l, enum sf_net_pattern pattern, uint32_t per_domain, uint64_t bytes) {
    const struct sf_io io = {&l, read_layout, NULL};
    struct sf_err err = {0};
    struct toy t = {0};
    if (sf_topo_load(&io, "racks.yaml", SF_CATALOG_DIR, &t.topo, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    struct sf_net_job job = job_of(pattern, 4 * per_domain, bytes);
    job.per_domain = per_domain;
    struct sf_net_result r = run(&t, &job);
    sf_topo_free(t.topo);
    return sf_ps_to_s(r.time) * 1e6;
}

/* A packet takes one plane, so what is smaller than a packet for each takes longer; what is larger does not notice. */
static void test_planes(void **state) {
    (void)state;
    const struct layout one = {1, 4}, four = {4, 4};
    double small = us_on(one, SF_NET_PERMUTATION, 16, 4096), striped = us_on(four, SF_NET_PERMUTATION, 16, 4096);
    double packet_us = 4096 / 97e3; /* about: of a whole NIC */
    assert_true(striped > small + 2.5 * packet_us && striped < small + 3.5 * packet_us);
    assert_true(us_on(four, SF_NET_PERMUTATION, 16, 16 * 4096) == us_on(one, SF_NET_PERMUTATION, 16, 16 * 4096));
    assert_true(us_on(four, SF_NET_PERMUTATION, 16, 64 * MIB) == us_on(one, SF_NET_PERMUTATION, 16, 64 * MIB));
}

/* The more rails, the more racks meet in one leaf: what stays on its rail then saves a spine and two cables. */
static void test_rails(void **state) {
    (void)state;
    const struct layout one = {1, 1}, nine = {1, 9};
    double spines = us_on(one, SF_NET_RING, 1, MIB), leaves = us_on(nine, SF_NET_RING, 1, MIB);
    assert_true(leaves < 0.95 * spines);
}

/* One node of every leaf group apart: 2 (n - 1) steps of a chunk and a latency each. */
static void test_ring(void **state) {
    (void)state;
    struct toy t;
    open_toy(&t, CLUSTERS "hgx-h100-2048.yaml");
    struct sf_net_job job = job_of(SF_NET_RING, 16, 16 * MIB);
    struct sf_net_result r = run(&t, &job);
    double step = (double)MIB / t.rate + latency_of(&t, 0, 8);
    expect_near(sf_ps_to_s(r.time), 30 * step, 0.001);
    expect_near(sf_net_busbw(&job, r.time), 16.0 * MIB / (30 * step) * 30 / 16, 0.001);
    job.bytes = 4096 * MIB; /* chunks of many slices: the latency hides behind them */
    r = run(&t, &job);
    expect_near(sf_net_busbw(&job, r.time), t.rate, 0.01);
    sf_topo_free(t.topo);
}

/* LL sends 8 bytes for 4 and grants 512 KiB a channel: half the rate of the links, or what a round trip lets through.
 */
static void test_protocols(void **state) {
    (void)state;
    struct toy t;
    open_toy(&t, CLUSTERS "hgx-h100-2048.yaml");
    struct sf_net_job job = job_of(SF_NET_PERMUTATION, 8, 256 * MIB);
    double simple = sf_ps_to_s(run(&t, &job).time);
    job.protocol = SF_COLL_LL128;
    expect_near(sf_ps_to_s(run(&t, &job).time), simple * 128 / 120, 0.001);
    job.protocol = SF_COLL_LL;
    expect_near(sf_ps_to_s(run(&t, &job).time), simple * 2, 0.001);
    sf_topo_free(t.topo);
    open_toy(&t, CLUSTERS "gb300-nvl72-4rack.yaml");
    job.channels = 1;
    job.endpoints = 2;
    double window = (double)(MIB / 2) / (2 * latency_of(&t, 0, 72));
    assert_true(window < t.rate);
    expect_near(sf_ps_to_s(run(&t, &job).time), 512.0 * MIB / window, 0.001);
    sf_topo_free(t.topo);
}

/* With transfers that cost little, 1F1B takes (m + p - 1) forwards and backwards; with slow ones, longer. */
static void test_pipeline(void **state) {
    (void)state;
    struct toy t;
    open_toy(&t, CLUSTERS "hgx-h100-2048.yaml");
    struct sf_net_job job = job_of(SF_NET_PIPELINE, 32, 1024);
    job.stages = 8;
    job.microbatches = 20;
    struct sf_net_result r = run(&t, &job);
    expect_near(sf_ps_to_s(r.time), (20 + 8 - 1) * 3e-3, 0.01);
    assert_int_equal(r.events, 32 * 40 + 2 * 4 * 7 * 2 * 20); /* computes; messages leave and arrive */
    job.bytes = 64 * MIB;
    assert_true(run(&t, &job).time > r.time + INT64_C(14000000000)); /* at least one transfer per stage in and out */
    job = job_of(SF_NET_PIPELINE, 24, 1024);
    run(&t, &job);
    assert_int_equal(job.stages, 12);
    assert_int_equal(job.microbatches, 48);
    sf_topo_free(t.topo);
}

/* LogGOPSim (76451de; L 2.5 us, o 0.5 us, bytes free) prints 423.31 ms for 32 microbatches over 16 stages of
 * 3 ms and 6 ms: 47 of those and 88 messages of L + 2 o = 3.5 us. The same 88 of ours. */
static void test_pipeline_as_loggopsim(void **state) {
    (void)state;
    struct toy t;
    open_toy(&t, CLUSTERS "hgx-h100-2048.yaml");
    struct sf_net_job job = job_of(SF_NET_PIPELINE, 16, 1);
    job.microbatches = 32;
    job.forward_ps = INT64_C(3000000000);
    struct sf_net_result r = run(&t, &job);
    assert_int_equal(r.p50, r.p99); /* one leaf: all messages take the same */
    assert_int_equal(r.time, 47 * INT64_C(9000000000) + 88 * r.p50);
    sf_topo_free(t.topo);
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

static void expect_refused(const struct toy *t, struct sf_net_job job, const char *words) {
    struct sf_net *n = NULL;
    struct sf_err err = {0};
    int rc = sf_net_of_job(t->topo, &job, &n, &err);
    assert_true(rc == SF_E_USAGE || rc == SF_E_INPUT);
    assert_null(n);
    if (strstr(err.msg, words) == NULL) {
        fail_msg("expected \"%s\" in: %s", words, err.msg);
    }
}

static void test_refusals(void **state) {
    (void)state;
    struct toy t;
    open_toy(&t, CLUSTERS "hgx-h100-2048.yaml");
    expect_refused(&t, job_of(SF_NET_INCAST, 1, MIB), "1 endpoints");
    expect_refused(&t, job_of(SF_NET_INCAST, 2049, MIB), "2049 endpoints");
    expect_refused(&t, job_of(SF_NET_INCAST, UINT32_MAX, MIB), "endpoints");
    expect_refused(&t, job_of(SF_NET_INCAST, 16, 0), "0 bytes");
    expect_refused(&t, job_of(SF_NET_RING, 16, UINT64_MAX), "2^50");
    expect_refused(&t, job_of(SF_NET_RING, 2048, SF_NET_BYTES_MAX), "expected fewer bytes");
    expect_refused(&t, job_of(SF_NET_PIPELINE, 17, MIB), "stages");
    struct sf_net_job job = job_of(SF_NET_PIPELINE, 16, MIB);
    job.stages = 3;
    expect_refused(&t, job, "divide");
    job.stages = 4;
    job.microbatches = UINT32_MAX;
    expect_refused(&t, job, "microbatches");
    job = job_of(SF_NET_INCAST, 512, MIB);
    job.per_domain = 1;
    expect_refused(&t, job, "1 per domain");
    job.per_domain = 9;
    expect_refused(&t, job, "9 per domain");
    job = job_of(SF_NET_INCAST, 16, MIB);
    job.channels = 0;
    expect_refused(&t, job, "channels");
    job = job_of(SF_NET_ALL_TO_ALL, 9, MIB); /* one node and one GPU more */
    expect_refused(&t, job, "only one is on rail 1");
    sf_topo_free(t.topo);
}

/* What would take hours is refused before it is built, and what is said to fit does. */
static void test_too_much_work(void **state) {
    (void)state;
    struct toy t;
    open_toy(&t, CLUSTERS "gb300-nvl72-220k.yaml");
    clock_t from = clock();
    expect_refused(&t, job_of(SF_NET_ALL_TO_ALL, 220000, MIB), "expected at most 11587 endpoints");
    expect_refused(&t, job_of(SF_NET_RING, 220000, MIB), "expected at most 4096 endpoints, or fewer bytes");
    struct sf_net_job job = job_of(SF_NET_ALL_TO_ALL, 220000, MIB);
    job.per_domain = 1;
    expect_refused(&t, job, "expected at most 5793 endpoints");
    assert_true(clock() - from < CLOCKS_PER_SEC);
    sf_topo_free(t.topo);
}

static void see_fraction(void *self, double fraction) {
    double *last = self;
    assert_true(fraction >= *last && fraction <= 1.0);
    *last = fraction;
}

/* Rails of unequal numbers: bus bandwidth is that of the fullest, and progress only ever goes on. */
static void test_uneven_rails_and_progress(void **state) {
    (void)state;
    struct toy t;
    struct sf_net_result r;
    struct sf_err err = {0};
    double last = 0;
    open_toy(&t, CLUSTERS "gb300-nvl72-220k.yaml");
    struct sf_net_job job = job_of(SF_NET_ALL_TO_ALL, 201, 64 * MIB);
    struct sf_net *n = NULL;
    job.progress = see_fraction;
    job.progress_self = &last;
    assert_int_equal(sf_net_of_job(t.topo, &job, &n, &err), 0);
    assert_int_equal(job.fullest_rail, 51);
    assert_int_equal(sf_net_run(n, NULL, &r, &err), 0);
    assert_true(last >= 0.3);
    double busbw = sf_net_busbw(&job, r.time);
    assert_true(busbw > 80e9 && busbw < 100e9); /* of a NIC of 94 GB/s */
    sf_net_result_free(&r);
    sf_net_free(n);
    sf_topo_free(t.topo);
}

static void test_memory_runs_out(void **state) {
    (void)state;
    struct toy t;
    open_toy(&t, CLUSTERS "hgx-h100-2048.yaml");
    for (int pattern = 0; pattern < SF_NET_PATTERNS_N; pattern++) {
        for (size_t i = 1; i < 30; i++) {
            struct sf_net_job job = job_of((enum sf_net_pattern)pattern, 64, MIB);
            struct sf_net *n = NULL;
            struct sf_err err = {0};
            sf_alloc_fail_after(i);
            int rc = sf_net_of_job(t.topo, &job, &n, &err);
            sf_alloc_fail_after(0);
            assert_true((rc == 0) == (n != NULL));
            assert_true(rc == 0 || strstr(err.msg, "memory") != NULL);
            assert_true(i > 2 || rc != 0);
            sf_net_free(n);
        }
    }
    sf_topo_free(t.topo);
}

static void test_names(void **state) {
    (void)state;
    for (int i = 0; i < SF_NET_PATTERNS_N; i++) {
        assert_int_equal(sf_net_pattern_parse(sf_net_pattern_name(i)), i);
    }
    assert_int_equal(sf_net_pattern_parse("bisection"), -1);
    assert_string_equal(sf_net_pattern_name(-1), "?");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_incast),
        cmocka_unit_test(test_permutation_and_routing),
        cmocka_unit_test(test_all_to_all),
        cmocka_unit_test(test_planes),
        cmocka_unit_test(test_rails),
        cmocka_unit_test(test_ring),
        cmocka_unit_test(test_protocols),
        cmocka_unit_test(test_pipeline),
        cmocka_unit_test(test_pipeline_as_loggopsim),
        cmocka_unit_test(test_too_much_work),
        cmocka_unit_test(test_uneven_rails_and_progress),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_memory_runs_out),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
