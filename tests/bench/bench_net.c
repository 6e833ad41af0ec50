/* How fast the flow network is: patterns at 16 to 1,024 endpoints, and max-min solves from 2 to 100,000 flows.
 *
 *     bench_net [CLUSTER.yaml]        default: the 220,000 GPU cluster, adaptive and ECMP
 *
 * Times are wall times of one thread, the best of three. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "core/rng.h"
#include "sim/fair.h"
#include "sim/net.h"

static void check(int rc, const struct sf_err *err) {
    if (rc) {
        sf_err_print(err);
        exit(rc);
    }
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- rates ------------------------------------------------------------------------------------------------------- */

/* Flows between random ports, as a permutation with collisions makes them: up to ten share a link. */
static void bench_fair(uint32_t flows_n) {
    uint32_t links_n = flows_n < 4 ? 2 : flows_n / 2, runs = flows_n < 1000 ? 100000 : 3;
    struct sf_fair_flow *flows = calloc(flows_n, sizeof *flows);
    uint64_t *capacity = calloc(links_n, sizeof *capacity), *rate = calloc(flows_n, sizeof *rate);
    void *scratch = malloc(sf_fair_scratch_bytes(flows_n, links_n));
    struct sf_rng rng = sf_rng_seed(1);
    if (!flows || !capacity || !rate || !scratch) {
        exit(1);
    }
    for (uint32_t l = 0; l < links_n; l++) {
        capacity[l] = UINT64_C(50000000000) + sf_rng_u64(&rng) % 1000;
    }
    for (uint32_t f = 0; f < flows_n; f++) {
        uint32_t a = (uint32_t)(sf_rng_u64(&rng) % links_n);
        flows[f] = (struct sf_fair_flow){UINT64_C(48000000000), 2, {a, (a + 1) % links_n}};
    }
    double from = now();
    for (uint32_t i = 0; i < runs; i++) {
        capacity[0] ^= 1;
        sf_fair_rates(flows, flows_n, capacity, links_n, scratch, rate);
    }
    printf("rates of %6u flows over %6u links: %12.0f ns\n", flows_n, links_n, (now() - from) / runs * 1e9);
    free(flows);
    free(capacity);
    free(rate);
    free(scratch);
}

/* ---- patterns ---------------------------------------------------------------------------------------------------- */

static void bench_pattern(const struct sf_topo *t, enum sf_net_pattern pattern, uint32_t endpoints) {
    struct sf_net_job job = {.pattern = pattern,
                             .endpoints = endpoints,
                             .bytes = UINT64_C(16) << 20,
                             .channels = 2,
                             .protocol = SF_COLL_SIMPLE,
                             .wire = {.packet_bytes = 4096},
                             .forward_ps = INT64_C(1000000000)};
    struct sf_net *n = NULL;
    struct sf_net_result r;
    struct sf_err err = {0};
    double build = now(), best = 1e9;
    check(sf_net_of_job(t, &job, &n, &err), &err);
    build = now() - build;
    for (int i = 0; i < 3; i++) {
        check(sf_net_run(n, &sf_clock_host, &r, &err), &err);
        best = r.wall_s < best ? r.wall_s : best;
        sf_net_result_free(&r);
    }
    printf("%-12s %-9s %5u %9u msgs %9llu ev %7llu solves %9.3f ms %6.1f M ev/s, built in %8.2f ms\n",
           sf_net_pattern_name((int)pattern), sf_routing_name((int)sf_topo_routing(t)), endpoints, sf_net_messages(n),
           (unsigned long long)r.events, (unsigned long long)r.solves, best * 1e3, (double)r.events / best * 1e-6,
           build * 1e3);
    sf_net_free(n);
}

int main(int argc, char **argv) {
    static const uint32_t flows[] = {2, 4, 6, 8, 10, 16, 100, 1000, 10000, 100000};
    const char *cluster = argc > 1 ? argv[1] : SF_SOURCE_DIR "/scenarios/clusters/gb300-nvl72-220k.yaml";
    struct sf_topo *t = NULL;
    struct sf_err err = {0};
    for (size_t i = 0; i < sizeof flows / sizeof *flows; i++) {
        bench_fair(flows[i]);
    }
    check(sf_topo_load(&sf_io_posix, cluster, SF_CATALOG_DIR, &t, &err), &err);
    for (int ecmp = 0; ecmp < 2; ecmp++) {
        check(sf_topo_set_routing(t, ecmp ? SF_ROUTING_ECMP : SF_ROUTING_ADAPTIVE, (uint64_t)ecmp, &err), &err);
        for (int p = 0; p < SF_NET_PATTERNS_N; p++) {
            for (uint32_t n = 16; n <= 1024; n *= 4) {
                bench_pattern(t, (enum sf_net_pattern)p, n);
            }
        }
    }
    sf_topo_free(t);
    return 0;
}
