/* Collectives: closed forms on ideal links, NCCL's tuning model against arithmetic done by hand, and that every input
 * matters. */
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
#include "core/call.h"
#include "sim/coll.h"
#include "sim/coll_internal.h"
#include "sim/cost.h"

#define MIB (UINT64_C(1) << 20)

/* ---- an ideal device: 100 GB/s inside, 10 across, a microsecond per step and 10 across, nothing else ----------------
 */

struct world {
    const char *model, *wishes;
    uint32_t domains;
};

static const char device[] = "name: ideal\n"
                             "memory: { value: 4GB, source: test, grade: measured }\n"
                             "memory_rate: { value: 8GB/s, source: test, grade: measured }\n"
                             "memory_efficiency: { value: 1.0, source: test, grade: measured }\n"
                             "peak: { f32: { value: 10TFLOP/s, source: test, grade: measured } }\n"
                             "gemm_efficiency: { f32: { value: 0.5, source: test, grade: measured } }\n"
                             "attention_forward: { value: 0.25, source: test, grade: measured }\n"
                             "attention_backward: { value: 0.2, source: test, grade: measured }\n"
                             "launch: { value: 0ns, source: test, grade: measured }\n"
                             "collectives: ideal\n";
static const char wire[] = "name: wire\n"
                           "peak: { value: 100GB/s, source: test, grade: measured }\n"
                           "usable: { value: 100GB/s, source: test, grade: measured }\n"
                           "latency: { value: 1us, source: test, grade: measured }\n";
static const char card[] = "name: card\n"
                           "peak: { value: 10GB/s, source: test, grade: measured }\n"
                           "usable: { value: 10GB/s, source: test, grade: measured }\n"
                           "latency: { value: 1us, source: test, grade: measured }\n";
static const char box[] = "name: box\n"
                          "ports: { value: 1024, source: test, grade: measured }\n"
                          "port_rate: { value: 10GB/s, source: test, grade: measured }\n"
                          "hop_latency: { value: 0ns, source: test, grade: measured }\n"
                          "cable_latency_per_m: { value: 0ns, source: test, grade: measured }\n";

/* "  key" belongs to nvls: */
static const char *const numbers[][2] = {
    {"compared_inside", "1"},
    {"compared_across", "0"},
    {"nvlink", "370.8GB/s"},
    {"base_ll", "0us"},
    {"base_ll128", "0us"},
    {"base_simple", "0us"},
    {"step_ll", "1us"},
    {"step_ll128", "1us"},
    {"step_simple", "1us"},
    {"step_scatter", "1us"},
    {"network_step_ll", "10us"},
    {"network_step_ll128", "10us"},
    {"network_step_simple", "10us"},
    {"network_tree_ll", "10us"},
    {"network_tree_ll128", "10us"},
    {"network_tree_simple", "10us"},
    {"share_ll", "0.5"},
    {"share_ll128", "0.9375"},
    {"share_simple", "1.0"},
    {"channel_simple", "2MiB"},
    {"channel_ll", "32KiB"},
    {"channel_ll128", "540KiB"},
    {"tree_chunk_simple", "1B"},
    {"tree_chunk_ll", "1B"},
    {"tree_chunk_ll128", "1B"},
    {"channels", "24"},
    {"exposed", "1"},
    {"turnover", "0"},
    {"turnover_gather", "0"},
    {"turnover_scatter", "0"},
    {"collnet_share", "1.0"},
    {"pat_share", "1.0"},
    {"exchange_base", "0us"},
    {"exchange_share", "1.0"},
    {"exchange_self", "0"},
    {"exchange_fill", "1B"},
    {"exchange_message", "2us"},
    {"nvls", ""},
    {"  rate", "90GB/s"},
    {"  link_peak", "100GB/s"},
    {"  base", "0us"},
    {"  turn", "0us"},
    {"  turn_least", "0us"},
    {"  fill", "0"},
    {"  network_step", "10us"},
    {"  channels", "16"},
    {"  heads", "32"},
    {"  large_turns", "64"},
    {"  middle_turns", "8"},
    {"  nics", "32"},
    {"  relay", "0.02"},
};
static char model[8192];

static int write_model(void **state) {
    (void)state;
    size_t n = (size_t)snprintf(model, sizeof model, "name: ideal\ntuning: tuning-2.30\narch: hopper\nhost: intel\n");
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        const char *format = numbers[i][1][0] ? "%s: { value: %s, source: test, grade: measured }\n" : "%s:%s\n";
        n += (size_t)snprintf(model + n, sizeof model - n, format, numbers[i][0], numbers[i][1]);
    }
    return n < sizeof model ? 0 : -1;
}

static int read_from(void *self, const char *path, size_t max_bytes, char **data, size_t *bytes, struct sf_err *err) {
    const struct world *w = self;
    char cluster[1024];
    if (strcmp(path, "cat/nccl/tuning-2.30.yaml") == 0) {
        return sf_io_posix.read_all(sf_io_posix.self, SF_CATALOG_DIR "/nccl/tuning-2.30.yaml", max_bytes, data, bytes,
                                    err);
    }
    snprintf(cluster, sizeof cluster,
             "name: toys\ndevice: ideal\ndomains: %u\ndomain: { kind: box, trays: 1, gpus_per_tray: 8, cpus_per_tray: "
             "0, nvswitches: 1, link: wire, links_per_gpu: 1 }\n%s%s",
             w->domains,
             w->domains > 1 ? "nic: card\nrails: 8\nfabric: { switch: box, leaf_down: 64, tiers: 2, oversubscription: "
                              "1, cables: { nic_leaf: 1m, leaf_spine: 1m } }\n"
                            : "",
             w->wishes ? w->wishes : "");
    const struct {
        const char *path, *text;
    } all[] = {{"cat/devices/ideal.yaml", device}, {"cat/links/wire.yaml", wire},
               {"cat/links/card.yaml", card},      {"cat/switches/box.yaml", box},
               {"cluster.yaml", cluster},          {"cat/nccl/ideal.yaml", w->model ? w->model : model}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (strcmp(path, all[i].path) == 0) {
            *bytes = strlen(all[i].text);
            *data = sf_malloc(*bytes + 1);
            if (!*data) {
                return sf_fail_memory(err, "a file");
            }
            memcpy(*data, all[i].text, *bytes + 1);
            return SF_OK;
        }
    }
    return sf_fail(err, SF_E_IO, "no file %s", path);
}

struct bench {
    struct sf_topo *topo;
    struct sf_coll *coll;
};

static int open_world(struct world *w, struct bench *b, struct sf_err *err) {
    struct sf_io io = {w, read_from, NULL};
    SF_TRY(sf_topo_load(&io, "cluster.yaml", "cat", &b->topo, err));
    return sf_coll_create(b->topo, &io, &b->coll, err);
}

static struct bench ideal(uint32_t domains, const char *wishes) {
    struct world w = {.domains = domains, .wishes = wishes};
    struct sf_err err = {0};
    struct bench b = {0};
    if (open_world(&w, &b, &err) != SF_OK) {
        fail_msg("%s:%u: %s", err.file, err.line, err.msg);
    }
    return b;
}

static struct bench real(const char *cluster) {
    struct sf_err err = {0};
    struct bench b = {0};
    char path[512];
    snprintf(path, sizeof path, SF_SOURCE_DIR "/scenarios/clusters/%s.yaml", cluster);
    int rc = sf_topo_load(&sf_io_posix, path, SF_CATALOG_DIR, &b.topo, &err);
    rc = rc == SF_OK ? sf_coll_create(b.topo, &sf_io_posix, &b.coll, &err) : rc;
    if (rc != SF_OK) {
        fail_msg("%s:%u: %s", err.file, err.line, err.msg);
    }
    assert_non_null(b.coll);
    return b;
}

static void close_bench(struct bench *b) {
    sf_coll_free(b->coll);
    sf_topo_free(b->topo);
}

static struct sf_coll_query ask(enum sf_coll_op op, uint64_t bytes, uint32_t domains, uint32_t local) {
    return (struct sf_coll_query){op,
                                  bytes,
                                  {.members = domains * local,
                                   .domains = domains,
                                   .min_per_domain = local,
                                   .kind = domains > 1 ? SF_ROUTE_LEAF : SF_ROUTE_DOMAIN}};
}

static void expect_us(const struct bench *b, struct sf_coll_query q, enum sf_coll_algorithm algorithm,
                      enum sf_coll_protocol protocol, double us) {
    struct sf_coll_choice c;
    assert_true(sf_coll_price(b->coll, &q, algorithm, protocol, &c));
    if (fabs(c.time_s * 1e6 - us) > 1e-6 * us) {
        fail_msg("%s %s %s: expected %.6f us, found %.6f", sf_coll_op_name((int)q.op),
                 sf_coll_algorithm_name((int)algorithm), sf_coll_protocol_name((int)protocol), us, c.time_s * 1e6);
    }
}

/* A megabyte at 100 GB/s takes 10 us. */
static void test_rings(void **state) {
    (void)state;
    struct bench one = ideal(1, NULL), four = ideal(4, NULL);
    expect_us(&one, ask(SF_COLL_ALL_REDUCE, 8000000, 1, 8), SF_COLL_RING, SF_COLL_SIMPLE, 14 * 10 + 14);
    expect_us(&one, ask(SF_COLL_ALL_GATHER, 8000000, 1, 8), SF_COLL_RING, SF_COLL_SIMPLE, 7 * 10 + 7);
    expect_us(&one, ask(SF_COLL_REDUCE_SCATTER, 4000000, 1, 4), SF_COLL_RING, SF_COLL_LL, 3 * 20 + 3);
    expect_us(&one, ask(SF_COLL_ALL_GATHER, 4000000, 1, 4), SF_COLL_RING, SF_COLL_LL128, 3 * 10 / 0.9375 + 3);
    /* eight NICs carry 80 GB/s; of a chunk's 31 hops four cross; two GPUs per domain have 20 GB/s. The last slice comes
     * over the network: that is later than the mean hop, which the constants have in them. */
    expect_us(&four, ask(SF_COLL_ALL_GATHER, 32000000, 4, 8), SF_COLL_RING, SF_COLL_SIMPLE,
              31 * 12.5 + 67 + 10 - 67 / 31.0);
    expect_us(&four, ask(SF_COLL_ALL_REDUCE, 8000000, 4, 2), SF_COLL_RING, SF_COLL_SIMPLE,
              14 * 50 + 77 + 10 - 77 / 14.0);
    expect_us(&four, ask(SF_COLL_ALL_GATHER, 4000000, 4, 1), SF_COLL_RING, SF_COLL_SIMPLE, 3 * 100 + 30);
    close_bench(&four);
    close_bench(&one);
}

static void test_trees(void **state) {
    (void)state;
    struct bench one = ideal(1, NULL), many = ideal(16, NULL);
    assert_true(sfi_tree_load(2) == 1 && sfi_tree_load(3) == 1.5 && sfi_tree_load(4) == 2 && sfi_tree_load(999) == 2);
    /* a chain of eight: every GPU inside sends the vector up and down; chunks of a byte add next to nothing */
    struct sf_coll_query q = ask(SF_COLL_ALL_REDUCE, 100000000, 1, 8);
    struct sf_coll_choice c;
    assert_true(sf_coll_price(one.coll, &q, SF_COLL_TREE, SF_COLL_SIMPLE, &c));
    assert_true(fabs(c.time_s * 1e6 - (2000 + 14)) < 0.01);
    /* 16 domains: four levels up and down, 80 GB/s of NICs carry it twice */
    q = ask(SF_COLL_ALL_REDUCE, 80000000, 16, 8);
    assert_true(sf_coll_price(many.coll, &q, SF_COLL_TREE, SF_COLL_SIMPLE, &c));
    assert_true(fabs(c.time_s * 1e6 - (2000 + 14 + 80)) < 0.1);
    /* two domains: once; three: one and a half times, two levels deep */
    q = ask(SF_COLL_ALL_REDUCE, 80000000, 3, 4);
    assert_true(sf_coll_price(many.coll, &q, SF_COLL_TREE, SF_COLL_SIMPLE, &c));
    assert_true(fabs(c.time_s * 1e6 - (3000 + 6 + 40)) < 0.1);
    close_bench(&many);
    close_bench(&one);
}

static void test_switches_that_add(void **state) {
    (void)state;
    struct bench one = ideal(1, NULL), many = ideal(16, NULL), sharp = ideal(16, "collectives: { sharp: true }\n");
    /* 90 GB/s carry 1 + 1/8 vectors: 80 GB/s */
    expect_us(&one, ask(SF_COLL_ALL_REDUCE, 80000000, 1, 8), SF_COLL_NVLS, SF_COLL_SIMPLE, 1000);
    expect_us(&one, ask(SF_COLL_ALL_REDUCE, 60000000, 1, 2), SF_COLL_NVLS, SF_COLL_SIMPLE, 1000);
    expect_us(&one, ask(SF_COLL_ALL_GATHER, 90000000, 1, 8), SF_COLL_NVLS, SF_COLL_SIMPLE, 1000);
    /* across 16 domains the NICs carry it twice; each of 4 levels, up and down, waits 10 us and half a chunk of 8 MiB,
     * which finds every buffer free */
    struct sf_coll_query q = ask(SF_COLL_ALL_REDUCE, 80 * 8 * MIB, 16, 8);
    double chunk_us = 8 * (double)MIB / 40e3; /* of a stream three levels lose 2 % each */
    expect_us(&many, q, SF_COLL_NVLS_TREE, SF_COLL_SIMPLE, 80 * 1.06 * chunk_us + 2 * 4 * (10 + chunk_us / 2));
    struct sf_coll_choice c;
    assert_false(sf_coll_price(many.coll, &q, SF_COLL_NVLS, SF_COLL_SIMPLE, &c));
    assert_false(sf_coll_price(many.coll, &q, SF_COLL_COLLNET, SF_COLL_SIMPLE, &c));
    assert_true(sf_coll_price(sharp.coll, &q, SF_COLL_NVLS, SF_COLL_SIMPLE, &c));
    assert_true(sf_coll_price(sharp.coll, &q, SF_COLL_COLLNET, SF_COLL_SIMPLE, &c));
    close_bench(&sharp);
    close_bench(&many);
    close_bench(&one);
}

/* What switches add up follows the links, of whatever class: here all are twice as fast as those of the model. */
static void test_switches_follow_their_links(void **state) {
    (void)state;
    const struct sf_topo_scale twice = {.up = 2.0, .out = 1.0, .memory = 1.0};
    struct world w = {.domains = 1};
    struct sf_io io = {&w, read_from, NULL};
    struct sf_err err = {0};
    struct bench own = ideal(1, NULL), faster = {0};
    const struct sf_coll_query q = ask(SF_COLL_ALL_REDUCE, 80000000, 1, 8);
    assert_int_equal(sf_topo_scaled(own.topo, &twice, &faster.topo, &err), SF_OK);
    assert_int_equal(sf_coll_create(faster.topo, &io, &faster.coll, &err), SF_OK);
    expect_us(&own, q, SF_COLL_NVLS, SF_COLL_SIMPLE, 1000);
    expect_us(&faster, q, SF_COLL_NVLS, SF_COLL_SIMPLE, 500);
    assert_int_equal(sf_coll_grade(own.coll, q.op, &q.span), SF_GRADE_MEASURED);
    assert_int_equal(sf_coll_grade(faster.coll, q.op, &q.span), SF_GRADE_EXTRAPOLATED);
    sf_coll_free(faster.coll);
    sf_topo_scaled_free(faster.topo);
    close_bench(&own);
}

static void test_exchanges_and_pat(void **state) {
    (void)state;
    struct bench one = ideal(1, NULL), four = ideal(4, NULL);
    struct sf_coll_choice c;
    struct sf_coll_query q = ask(SF_COLL_ALL_TO_ALL, 8000000, 1, 8);
    assert_true(sf_coll_price(one.coll, &q, SF_COLL_DIRECT, SF_COLL_SIMPLE, &c));
    assert_true(fabs(c.time_s * 1e6 - (70 + 1)) < 1e-3);
    assert_false(sf_coll_price(one.coll, &q, SF_COLL_RAIL, SF_COLL_SIMPLE, &c));
    /* of 32 MB, 24 leave at 10 GB/s in 24 or 3 messages of 2 us; NVLink has 7, or 7 + 21 */
    q = ask(SF_COLL_ALL_TO_ALL, 32000000, 4, 8);
    assert_true(sf_coll_price(four.coll, &q, SF_COLL_DIRECT, SF_COLL_SIMPLE, &c));
    assert_true(fabs(c.time_s * 1e6 - (2400 + 48 + 10)) < 1e-3);
    assert_true(sf_coll_price(four.coll, &q, SF_COLL_RAIL, SF_COLL_SIMPLE, &c));
    assert_true(fabs(c.time_s * 1e6 - (2400 + 6 + 11)) < 1e-3);
    assert_true(sf_coll_price(four.coll, &q, SF_COLL_HIERARCHICAL, SF_COLL_SIMPLE, &c));
    assert_true(fabs(c.time_s * 1e6 - (2400 + 6 + 280 + 11)) < 1e-3);
    expect_us(&four, ask(SF_COLL_ALL_GATHER, 4000000, 4, 1), SF_COLL_PAT, SF_COLL_SIMPLE, 20 + 300);
    q = ask(SF_COLL_ALL_GATHER, 4000000, 4, 2);
    assert_false(sf_coll_price(four.coll, &q, SF_COLL_PAT, SF_COLL_SIMPLE, &c));
    close_bench(&four);
    close_bench(&one);
}

/* ---- NCCL's model on real devices ------------------------------------------------------------------------------- */

static void expect_nccl(const struct bench *b, struct sf_coll_query q, enum sf_coll_algorithm algorithm,
                        enum sf_coll_protocol protocol, double us) {
    struct sf_coll_choice c;
    assert_true(sf_coll_price(b->coll, &q, algorithm, protocol, &c));
    if (fabs(c.nccl_s * 1e6 - us) > 1e-4 * us) {
        fail_msg("%s %s: expected %.4f us, found %.4f", sf_coll_algorithm_name((int)algorithm),
                 sf_coll_protocol_name((int)protocol), us, c.nccl_s * 1e6);
    }
}

/* Eight H100: 370.8 GB/s of links hold 6 channels of 60, which become 12 of 30; NVLS holds 8 of 40. */
static void test_tuning_by_hand(void **state) {
    (void)state;
    struct bench b = real("hgx-h100-1node"), many = real("hgx-h100-2048");
    struct sf_coll_query q = ask(SF_COLL_ALL_REDUCE, 65536, 1, 8);
    /* 6.6 + 14 * 0.6; min(141, 360 / 2) * 8 / 14 */
    expect_nccl(&b, q, SF_COLL_RING, SF_COLL_LL, 15.0 + 65536 / (1e3 * 141 * 8 / 14));
    q.bytes = MIB; /* 14 + 14 * 1.9; 360 * 0.92 * 8 / 14 */
    expect_nccl(&b, q, SF_COLL_RING, SF_COLL_LL128, 40.6 + (double)MIB / (1e3 * 331.2 * 8 / 14));
    q.bytes = 1024 * MIB; /* 8.4 + 14 * 3.4; 360 * 8 / 14 */
    expect_nccl(&b, q, SF_COLL_RING, SF_COLL_SIMPLE, 56.0 + 1024.0 * (double)MIB / (1e3 * 360 * 8 / 14));
    /* 8.4 + 2 * 7 * 4; 360 * 0.92 / 2; at 4 MiB a factor of 0.6 */
    expect_nccl(&b, q, SF_COLL_TREE, SF_COLL_SIMPLE, 64.4 + 1024.0 * (double)MIB / (1e3 * 165.6));
    q.bytes = 2 * MIB;
    expect_nccl(&b, q, SF_COLL_TREE, SF_COLL_SIMPLE, 64.4 + 2.0 * (double)MIB / (1e3 * 165.6 * 0.6));
    /* 25; 8 * 40 * 0.85 * 7/8 * 2 * 8/14 */
    expect_nccl(&b, q, SF_COLL_NVLS, SF_COLL_SIMPLE, 25 + 2.0 * (double)MIB / (1e3 * 272));
    q = ask(SF_COLL_ALL_GATHER, 1024 * MIB, 1, 8); /* 8.4 + 7 * 3.4; 360 * 8 / 7 */
    expect_nccl(&b, q, SF_COLL_RING, SF_COLL_SIMPLE, 32.2 + 1024.0 * (double)MIB / (1e3 * 360 * 8 / 7));
    /* Eight nodes: 8 channels of 45 by the NICs; 8.4 + 112 * 3.4 + 14 * 14 and half as much again but for a tenth */
    q = ask(SF_COLL_ALL_REDUCE, 1024 * MIB, 8, 8);
    expect_nccl(&many, q, SF_COLL_RING, SF_COLL_SIMPLE,
                1.4 * (8.4 + 112 * 3.4 + 14 * 14) + 1024.0 * (double)MIB / (1e3 * 360 * 64 / 126));
    /* 25 + 2 * 3 * 20.9; 8 * min(59.5, 48, 45.5) */
    expect_nccl(&many, q, SF_COLL_NVLS_TREE, SF_COLL_SIMPLE, 150.4 + 1024.0 * (double)MIB / (1e3 * 364 * 64 / 126));
    close_bench(&many);
    close_bench(&b);
}

static void expect_choice(const struct bench *b, struct sf_coll_query q, enum sf_coll_algorithm algorithm) {
    struct sf_coll_choice c;
    sf_coll_choose(b->coll, &q, &c);
    if (c.algorithm != algorithm) {
        fail_msg("%s over %u in %u, %llu bytes: expected %s, found %s", sf_coll_op_name((int)q.op), q.span.members,
                 q.span.domains, (unsigned long long)q.bytes, sf_coll_algorithm_name((int)algorithm),
                 sf_coll_algorithm_name((int)c.algorithm));
    }
}

/* stas00/ml-engineering, SHARP table: four H200 run rings, five and more NVLS. */
static void test_what_nccl_picks(void **state) {
    (void)state;
    struct bench h200 = real("hgx-h200-1node"), a100 = real("hgx-a100-1node"), rack = real("gb200-nvl72-64rack");
    struct bench many = real("hgx-h100-2048");
    expect_choice(&h200, ask(SF_COLL_ALL_REDUCE, 8192 * MIB, 1, 4), SF_COLL_RING);
    expect_choice(&h200, ask(SF_COLL_ALL_REDUCE, 8192 * MIB, 1, 5), SF_COLL_NVLS);
    expect_choice(&h200, ask(SF_COLL_ALL_REDUCE, 512, 1, 8), SF_COLL_RING);
    expect_choice(&h200, ask(SF_COLL_ALL_GATHER, 512 * MIB, 1, 8), SF_COLL_RING);
    expect_choice(&a100, ask(SF_COLL_ALL_REDUCE, 512 * MIB, 1, 8), SF_COLL_RING);
    expect_choice(&rack, ask(SF_COLL_ALL_REDUCE, 512 * MIB, 1, 72), SF_COLL_NVLS);
    expect_choice(&rack, ask(SF_COLL_ALL_REDUCE, 512 * MIB, 2, 72), SF_COLL_NVLS_TREE);
    expect_choice(&many, ask(SF_COLL_ALL_REDUCE, 512 * MIB, 64, 8), SF_COLL_NVLS_TREE);
    expect_choice(&many, ask(SF_COLL_ALL_GATHER, MIB, 64, 1), SF_COLL_PAT);
    expect_choice(&many, ask(SF_COLL_ALL_TO_ALL, MIB, 1, 8), SF_COLL_DIRECT);
    expect_choice(&many, ask(SF_COLL_ALL_TO_ALL, MIB, 8, 8), SF_COLL_RAIL);
    close_bench(&many);
    close_bench(&rack);
    close_bench(&a100);
    close_bench(&h200);
}

/* ---- every input matters ---------------------------------------------------------------------------------------- */

static const struct {
    const char *cluster;
    uint32_t domains, local;
} places[] = {
    {"hgx-a100-1node", 1, 8},     {"hgx-h100-1node", 1, 2},      {"hgx-h100-2048", 32, 8},
    {"hgx-h100-64-sharp", 8, 8},  {"gb200-nvl72-64rack", 2, 72}, {"gb300-nvl72-1rack", 1, 72},
    {"gb300-nvl72-4rack", 4, 16}, {"hgx-a100-3072", 128, 1},     {"hgx-b200-1node", 1, 8},
};

/* Every pair grows with its bytes, size after size, and no two agree on all sizes. */
static void test_curves(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        struct bench b = real(places[i].cluster);
        for (int op = 0; op < SF_COLL_OPS_N; op++) {
            struct sf_coll_choice last[SF_COLL_CANDIDATES] = {{0}}, now[SF_COLL_CANDIDATES];
            size_t n = 0;
            for (uint64_t bytes = 64; bytes <= 16384 * MIB; bytes *= 2) {
                struct sf_coll_query q = ask((enum sf_coll_op)op, bytes, places[i].domains, places[i].local);
                n = sf_coll_candidates(b.coll, &q, now);
                assert_true(n > 0);
                for (size_t k = 0; k < n; k++) {
                    if (!(now[k].time_s > last[k].time_s)) { /* nor is it no number */
                        fail_msg("%s %s %s %s: %llu bytes take no longer than half of them", places[i].cluster,
                                 sf_coll_op_name(op), sf_coll_algorithm_name((int)now[k].algorithm),
                                 sf_coll_protocol_name((int)now[k].protocol), (unsigned long long)bytes);
                    }
                    last[k] = now[k];
                }
            }
            for (size_t k = 1; k < n; k++) {
                for (size_t j = 0; j < k; j++) {
                    assert_true(now[k].time_s != now[j].time_s);
                }
            }
        }
        close_bench(&b);
    }
}

static double chosen_s(const struct bench *b, enum sf_coll_op op, uint64_t bytes, uint32_t domains, uint32_t local) {
    struct sf_coll_query q = ask(op, bytes, domains, local);
    struct sf_coll_choice c;
    sf_coll_choose(b->coll, &q, &c);
    return c.time_s;
}

static void test_every_input_changes_the_time(void **state) {
    (void)state;
    struct bench b = real("hgx-h100-2048"), rack = real("gb200-nvl72-64rack");
    double base = chosen_s(&b, SF_COLL_ALL_REDUCE, 64 * MIB, 8, 8);
    assert_true(base != chosen_s(&b, SF_COLL_ALL_GATHER, 64 * MIB, 8, 8));
    assert_true(base != chosen_s(&b, SF_COLL_ALL_REDUCE, 64 * MIB + 1, 8, 8));
    assert_true(base != chosen_s(&b, SF_COLL_ALL_REDUCE, 64 * MIB, 16, 4));
    assert_true(base != chosen_s(&b, SF_COLL_ALL_REDUCE, 64 * MIB, 16, 8));
    assert_true(base != chosen_s(&b, SF_COLL_ALL_REDUCE, 64 * MIB, 8, 7));
    assert_true(base != chosen_s(&rack, SF_COLL_ALL_REDUCE, 64 * MIB, 8, 8));
    struct sf_coll_query q = ask(SF_COLL_ALL_REDUCE, 64 * MIB, 8, 8);
    struct sf_coll_choice leaf, spine;
    sf_coll_choose(b.coll, &q, &leaf);
    q.span.kind = SF_ROUTE_SPINE;
    sf_coll_choose(b.coll, &q, &spine);
    assert_true(spine.time_s > leaf.time_s);
    assert_true(chosen_s(&b, SF_COLL_ALL_REDUCE, 64 * MIB, 1, 1) == 0);
    close_bench(&rack);
    close_bench(&b);
}

static void test_wishes_of_a_cluster(void **state) {
    (void)state;
    static const struct {
        const char *text;
        enum sf_coll_algorithm algorithm;
        enum sf_coll_protocol protocol;
    } wishes[] = {
        {"collectives: { algorithm: ring, protocol: simple }\n", SF_COLL_RING, SF_COLL_SIMPLE},
        {"collectives: { algorithm: tree, protocol: ll128 }\n", SF_COLL_TREE, SF_COLL_LL128},
        {"collectives: { algorithm: nvls_tree }\n", SF_COLL_NVLS_TREE, SF_COLL_SIMPLE},
        {"collectives: { algorithm: collnet, sharp: true }\n", SF_COLL_COLLNET, SF_COLL_SIMPLE},
    };
    struct sf_hash seen[4];
    for (size_t i = 0; i < sizeof wishes / sizeof *wishes; i++) {
        struct bench b = ideal(4, wishes[i].text);
        struct sf_coll_query q = ask(SF_COLL_ALL_REDUCE, 64 * MIB, 4, 8);
        struct sf_coll_choice c;
        sf_coll_choose(b.coll, &q, &c);
        assert_int_equal(c.algorithm, wishes[i].algorithm);
        assert_int_equal(c.protocol, wishes[i].protocol);
        seen[i] = sf_coll_hash(b.coll);
        for (size_t j = 0; j < i; j++) {
            assert_false(sf_hash_equal(seen[i], seen[j]));
        }
        q = ask(SF_COLL_ALL_TO_ALL, 64 * MIB, 4, 8); /* nothing wished for fits: the usual choice */
        sf_coll_choose(b.coll, &q, &c);
        assert_true(c.algorithm >= SF_COLL_DIRECT && c.time_s > 0);
        close_bench(&b);
    }
}

/* Times by NCCL's own model: those by which it chooses; the choice, and what it does not tune, stay. */
static void test_times_by_nccl(void **state) {
    (void)state;
    struct bench steps = ideal(4, NULL), nccl = ideal(4, "collectives: { times: nccl }\n");
    struct bench same = ideal(4, "collectives: { times: steps }\n");
    assert_false(sf_hash_equal(sf_coll_hash(steps.coll), sf_coll_hash(nccl.coll)));
    assert_false(sf_hash_equal(sf_topo_hash(steps.topo), sf_topo_hash(nccl.topo)));
    assert_true(sf_hash_equal(sf_coll_hash(steps.coll), sf_coll_hash(same.coll)));
    assert_true(sf_coll_by_nccl(nccl.coll) && !sf_coll_by_nccl(same.coll));
    for (int op = 0; op < SF_COLL_OPS_N; op++) {
        struct sf_coll_query q = ask((enum sf_coll_op)op, 64 * MIB, 4, 8);
        struct sf_coll_choice own, theirs;
        sf_coll_choose(steps.coll, &q, &own);
        sf_coll_choose(nccl.coll, &q, &theirs);
        bool tuned = op != SF_COLL_ALL_TO_ALL;
        assert_true(own.algorithm == theirs.algorithm && own.protocol == theirs.protocol);
        assert_true(own.time_s == own.steps_s && own.steps_s == theirs.steps_s && own.nccl_s == theirs.nccl_s);
        assert_true(theirs.by_nccl == tuned && theirs.time_s == (tuned ? theirs.nccl_s : theirs.steps_s));
        assert_true((theirs.time_s != own.time_s) == tuned);
        assert_int_equal(sf_coll_grade(nccl.coll, q.op, &(struct sf_span){.domains = 1}),
                         tuned ? SF_GRADE_EXTRAPOLATED : SF_GRADE_MEASURED);
    }
    close_bench(&same);
    close_bench(&nccl);
    close_bench(&steps);
}

/* The simulator asks through the cost model; a kernel table that measured collectives comes first. */
static int table_read(void *self, const char *path, size_t max_bytes, char **data, size_t *bytes, struct sf_err *err) {
    static const char table[] = "transport: { collective_latency: 1us, collective_rate: 1GB/s }\n";
    (void)self;
    if (strcmp(path, "table.yaml") != 0) {
        return sf_io_posix.read_all(sf_io_posix.self, path, max_bytes, data, bytes, err);
    }
    *bytes = sizeof table - 1;
    *data = sf_malloc(sizeof table);
    assert_non_null(*data);
    memcpy(*data, table, sizeof table);
    return SF_OK;
}

static void test_the_cost_model_asks(void **state) {
    (void)state;
    struct bench b = real("hgx-h100-1node");
    struct sf_err err = {0};
    struct sf_cost *cost = NULL, *measured = NULL;
    const struct sf_io io = {NULL, table_read, NULL};
    struct sf_span span = {.members = 8, .domains = 1, .min_per_domain = 8, .kind = SF_ROUTE_DOMAIN};
    assert_int_equal(sf_cost_create(b.topo, &sf_io_posix, NULL, &cost, &err), SF_OK);
    assert_int_equal(sf_cost_create(b.topo, &io, "table.yaml", &measured, &err), SF_OK);
    const int kinds[] = {SF_CALL_ALL_REDUCE, SF_CALL_ALL_GATHER, SF_CALL_REDUCE_SCATTER, SF_CALL_ALL_TO_ALL};
    const enum sf_coll_op ops[] = {SF_COLL_ALL_REDUCE, SF_COLL_ALL_GATHER, SF_COLL_REDUCE_SCATTER, SF_COLL_ALL_TO_ALL};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(sf_cost_collective(cost, kinds[i], 64 * MIB, &span),
                         sf_s_to_ps(chosen_s(&b, ops[i], 64 * MIB, 1, 8)));
    }
    assert_int_equal(sf_cost_collective(measured, SF_CALL_ALL_GATHER, 8000, &span), 14 * INT64_C(1000000));
    sf_cost_free(measured);
    sf_cost_free(cost);
    assert_int_equal(sf_topo_set_times(b.topo, "nccl", &err), SF_OK);
    assert_int_equal(sf_cost_create(b.topo, &io, "table.yaml", &measured, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "leave one of the two out"));
    assert_int_equal(sf_topo_set_times(b.topo, "guess", &err), SF_E_USAGE);
    close_bench(&b);
}

/* ---- bad files -------------------------------------------------------------------------------------------------- */

static void test_bad_models(void **state) {
    (void)state;
    static const struct {
        const char *find, *put, *says;
    } bad[] = {
        {"arch: hopper", "arch: volta", "volta"},
        {"tuning: tuning-2.30", "tuning: ../x", "beside this one"},
        {"tuning: tuning-2.30", "tuning: nothing", "nothing"},
        {"host: intel", "hots: intel", "hots"},
        {"370.8GB/s", "370.8", "370.8"},
        {"2MiB", "0B", "at least one byte"},
        {"link_peak: { value: 100GB/s", "link_peak: { value: 0GB/s", "above 0"},
        {"share_simple: { value: 1.0", "share_simple: { value: 1.5", "1.5"},
        {"channels: { value: 24", "channels: { value: 9223372036854775807", "1048576"},
        {"exposed: { value: 1, source: test", "exposed: { value: 1", "source"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[8192];
        const char *at = strstr(model, bad[i].find);
        assert_non_null(at);
        snprintf(text, sizeof text, "%.*s%s%s", (int)(at - model), model, bad[i].put, at + strlen(bad[i].find));
        struct world w = {.model = text, .domains = 1};
        struct sf_err err = {0};
        struct bench b = {0};
        assert_int_not_equal(open_world(&w, &b, &err), SF_OK);
        assert_null(b.coll);
        if (strstr(err.msg, bad[i].says) == NULL && strstr(err.file, bad[i].says) == NULL) {
            fail_msg("%s: expected a message about \"%s\", found \"%s\"", bad[i].put, bad[i].says, err.msg);
        }
        close_bench(&b);
    }
}

/* Every number of a model in turn: refused with its place, or a model that still gives finite times. */
static void try_number(const char *from, const char *to, const char *by) {
    char text[8192];
    snprintf(text, sizeof text, "%.*s%s%s", (int)(from - model), model, by, to);
    struct world w = {.model = text, .domains = 4};
    struct sf_err err = {0};
    struct bench b = {0};
    int rc = open_world(&w, &b, &err);
    if (rc != SF_OK && (rc != SF_E_INPUT || err.line == 0 || err.column == 0)) {
        fail_msg("%.30s with %s: code %d at %s:%u: %s", from, by, rc, err.file, err.line, err.msg);
    }
    for (int op = 0; rc == SF_OK && op < SF_COLL_OPS_N; op++) {
        double t = chosen_s(&b, (enum sf_coll_op)op, 64 * MIB, 4, 8);
        if (!(t >= 0 && t < 1e15)) {
            fail_msg("%.30s with %s: %s takes %g s", from, by, sf_coll_op_name(op), t);
        }
    }
    close_bench(&b);
}

static void test_every_number_with_every_value(void **state) {
    (void)state;
    static const char *const values[] = {"0",    "-1",  "9223372036854775808",  "9223372036854775807",
                                         "1e19", "nan", "18446744073709551616", "1e400"};
    size_t tried = 0;
    for (const char *at = strstr(model, "value: "); at != NULL; at = strstr(at, "value: ")) {
        at += strlen("value: ");
        const char *end = strchr(at, ','), *unit = at + strspn(at, "0123456789.");
        for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
            char by[64];
            snprintf(by, sizeof by, "%s%.*s", values[i], (int)(end - unit), unit);
            try_number(at, end, by);
            tried++;
        }
    }
    assert_true(tried > 8 * 40);
}

static void test_bad_wishes(void **state) {
    (void)state;
    static const struct {
        uint32_t domains;
        const char *text, *says;
    } bad[] = {
        {4, "collectives: { algorithm: rings }\n", "rings"},
        {4, "collectives: { protocol: ll256 }\n", "ll256"},
        {4, "collectives: { times: guess }\n", "guess"},
        {4, "collectives: { algorithm: collnet }\n", "sharp: true"},
        {1, "collectives: { sharp: true }\n", "leave out sharp"},
        {4, "collectives: { channels: 5 }\n", "channels"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct world w = {.wishes = bad[i].text, .domains = bad[i].domains};
        struct sf_err err = {0};
        struct bench b = {0};
        assert_int_equal(open_world(&w, &b, &err), SF_E_INPUT);
        assert_true(err.line > 0);
        if (strstr(err.msg, bad[i].says) == NULL) {
            fail_msg("%s: found \"%s\"", bad[i].text, err.msg);
        }
        close_bench(&b);
    }
}

/* Without memory there is an error, never a half-made model; the sanitizer build sees leaks. */
static void test_no_memory(void **state) {
    (void)state;
    struct bench b = ideal(2, NULL);
    struct world w = {.domains = 2};
    struct sf_io io = {&w, read_from, NULL};
    struct sf_coll *coll = NULL;
    struct sf_err err = {0};
    for (size_t n = 1; n < 40; n++) {
        sf_alloc_fail_after(n);
        int rc = sf_coll_create(b.topo, &io, &coll, &err);
        sf_alloc_fail_after(0);
        assert_true((rc == SF_OK) == (coll != NULL));
        sf_coll_free(coll);
        coll = NULL;
    }
    close_bench(&b);
}

static void test_names(void **state) {
    (void)state;
    for (int i = 0; i < SF_COLL_ALGORITHMS_N; i++) {
        assert_int_equal(sf_coll_algorithm_parse(sf_coll_algorithm_name(i)), i);
    }
    assert_int_equal(sf_coll_op_parse("broadcast"), SF_COLL_BROADCAST);
    assert_int_equal(sf_coll_protocol_parse("LL"), -1);
    assert_true(fabs(sf_coll_busbw(SF_COLL_ALL_REDUCE, 8, 1000, 1e-6) - 1.75e9) < 1);
    assert_true(fabs(sf_coll_busbw(SF_COLL_ALL_TO_ALL, 4, 1000, 1e-6) - 0.75e9) < 1);
    sf_coll_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rings),
        cmocka_unit_test(test_trees),
        cmocka_unit_test(test_switches_that_add),
        cmocka_unit_test(test_switches_follow_their_links),
        cmocka_unit_test(test_exchanges_and_pat),
        cmocka_unit_test(test_tuning_by_hand),
        cmocka_unit_test(test_what_nccl_picks),
        cmocka_unit_test(test_curves),
        cmocka_unit_test(test_every_input_changes_the_time),
        cmocka_unit_test(test_wishes_of_a_cluster),
        cmocka_unit_test(test_times_by_nccl),
        cmocka_unit_test(test_the_cost_model_asks),
        cmocka_unit_test(test_bad_models),
        cmocka_unit_test(test_every_number_with_every_value),
        cmocka_unit_test(test_bad_wishes),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, write_model, NULL);
}
