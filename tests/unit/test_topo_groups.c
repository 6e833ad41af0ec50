/* Mixed, partial and asymmetric clusters, and planes. */
#include "test_topo_fixture.h"

#define DOMAIN(kind, trays, gpus, more)                                                                                \
    "domain: {kind: " kind ", trays: " trays ", gpus_per_tray: " gpus ", cpus_per_tray: 2, nvswitches: 2, "            \
    "link: nvlink5, links_per_gpu: 4" more "}"
#define FABRIC(tiers, cables)                                                                                          \
    "rails: 4\nfabric: {switch: quantum-x800-q3400, leaf_down: 4, tiers: " tiers ", oversubscription: 1, "             \
    "cables: {nic_leaf: 5m, leaf_spine: 30m" cables "}}\n"

/* Three racks of GB200, then five of GB300 that begin a pod, then two half filled ones. 8 GPUs each, 2 to a group. */
static const char mixed[] =
    "name: mixed\n"
    "groups:\n"
    "  - {device: gb200, domains: 3, nic: connectx7-400g, " DOMAIN(
        "old", "2", "4", "") "}\n"
                             "  - {device: gb300, domains: 5, starts: pod, nic: connectx8-800g, " DOMAIN(
                                 "new", "4", "2", "") "}\n"
                                                      "  - {device: gb300, domains: 2, nic: connectx8-800g, " DOMAIN(
                                                          "half", "4", "2",
                                                          ", gpus_in_use: 5") "}\n" FABRIC("3", ", spine_core: 50m");

static void test_mixed_racks(void **state) {
    (void)state;
    struct sf_topo *t = must_load_text(mixed);
    must_check(t);
    assert_true(sf_topo_mixed(t));
    assert_int_equal(sf_topo_stocks(t), 3);
    assert_int_equal(sf_topo_gpus(t), 80);
    assert_int_equal(sf_topo_gpus_in_use(t), 64 + 10);
    assert_string_equal(sf_topo_device_of(t, 23)->name, "gb200");
    assert_string_equal(sf_topo_device_of(t, 24)->name, "gb300");
    assert_string_equal(sf_topo_device(t)->name, "gb200");
    assert_string_equal(sf_topo_scale_out_of(t, 79)->name, "connectx8-800g");
    assert_string_equal(sf_topo_scale_up_of(t, 79)->name, "nvlink5");
    assert_int_equal(sf_topo_stock_of(t, 63), 1);
    assert_int_equal(sf_topo_stock_of(t, 64), 2);
    struct sf_stock s;
    sf_topo_stock(t, 2, &s);
    assert_string_equal(s.kind, "half");
    assert_int_equal(s.first_gpu, 64);
    assert_int_equal(s.gpus, 16);
    assert_int_equal(s.first_domain, 8);
    assert_int_equal(s.domain_in_use, 5);
    assert_null(s.cpu);
    assert_true(s.coll_model[0] == '/' || s.coll_model[0] != '\0');
    assert_int_equal(sf_topo_seat(t, 69), 72);
    assert_int_equal(sf_topo_gpu_state(t, 69), SF_GPU_SPARE);
    struct sf_topo_counts n;
    sf_topo_count(t, &n);
    assert_int_equal(n.trays, 3 * 2 + 7 * 4);
    assert_int_equal(n.cpus, 2 * n.trays);
    assert_int_equal(n.nvswitches, 20);
    assert_int_equal(n.leaves, 4 * (2 + 4)); /* five and two racks share their third group */
    assert_int_equal(n.stocks, 3);
    sf_topo_free(t);
}

static void test_links_between_rates_are_the_narrower(void **state) {
    (void)state;
    struct sf_topo *t = must_load_text(mixed);
    struct sf_route r;
    sf_topo_route(t, 0, 8, &r);
    assert_int_equal(r.bytes_per_s, UINT64_C(47000000000));
    sf_topo_route(t, 24, 32, &r);
    assert_int_equal(r.bytes_per_s, UINT64_C(94000000000));
    sf_topo_route(t, 0, 24, &r);
    assert_int_equal(r.kind, SF_ROUTE_CORE); /* another pod, although the first holds two groups of 18 */
    assert_int_equal(r.bytes_per_s, UINT64_C(47000000000));
    assert_int_equal(sf_topo_link_rate(t, r.links[0]), UINT64_C(47000000000));
    assert_int_equal(sf_topo_link_rate(t, r.links[1]), UINT64_C(94000000000)); /* cables between switches are wide */
    sf_topo_free(t);
}

/* Empty seats lend no NIC: pxn takes another GPU on the rail. */
static void test_empty_seats_lend_nothing(void **state) {
    (void)state;
    struct sf_err err = {0};
    struct sf_topo *t = must_load_text(mixed);
    struct sf_route r;
    assert_int_equal(sf_topo_set_routing(t, SF_ROUTING_PXN, 0, &err), 0);
    sf_topo_route(t, 64, 24 + 6, &r); /* slot 6 of domain 8 is empty; slot 2 is on its rail */
    assert_int_equal(r.via[0], 66);
    assert_true(r.bytes_per_s > 0);
    must_check(t);
    sf_topo_free(t);
}

static void test_links_to_cpus_where_some_have_none(void **state) {
    (void)state;
    static const char item[] = "  - {device: gb300, domains: 1, nic: connectx8-800g, ";
    static const char without[] = DOMAIN("a", "2", "4", "") "}\n";
    static const char with[] = DOMAIN("b", "2", "4", ", cpu_link: nvlink-c2c") "}\n";
    char yaml[1024];
    snprintf(yaml, sizeof yaml, "name: x\ngroups:\n%s%s%s%s%s", item, without, item, with, FABRIC("2", ""));
    struct sf_topo *t = must_load_text(yaml);
    struct sf_err err = {0};
    sf_link link;
    char text[160];
    assert_int_equal(sf_topo_link_count(t, SF_LINK_C2C_UP), 8);
    sf_topo_link_text(t, SF_LINK(SF_LINK_C2C_UP, 3), text, sizeof text);
    assert_string_equal(text, "c2c-up 11 (gpu 11 to cpu 5), 3600 Gb/s");
    assert_int_equal(sf_topo_link_parse(t, text, &link, &err), 0);
    assert_int_equal(link, SF_LINK(SF_LINK_C2C_UP, 3));
    assert_int_equal(sf_topo_link_parse(t, "c2c-up 3", &link, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "gpu 3 has no such link"));
    sf_topo_free(t);
}

static void test_more_errors(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint32_t line;
        const char *message;
    } rows[] = {
        {"name: x\ndevice: gb300\ngroups: []\n", 2, "device stands in each of the groups"},
        {"name: x\ngroups: []\n", 2, "a list of 1 to 16 groups"},
        {"name: x\ngroups: 3\n", 2, "a list of 1 to 16 groups"},
        {"name: x\ngroups:\n  - {device: gb300, domains: 2, starts: pod, nic: connectx8-800g, " DOMAIN("a", "2", "4",
                                                                                                       "") "}\n",
         3, "the first group starts everything"},
        {"name: x\ngroups:\n  - {device: gb300, domains: 2, nic: connectx8-800g, " DOMAIN(
             "a", "2", "4", "") "}\n  - {device: gb300, domains: 2, nic: connectx8-800g, " DOMAIN("b", "3", "4",
                                                                                                  "") "}\n",
         4, "domains of 12 GPUs beside domains of 8"},
        {"name: x\ngroups:\n  - {device: gb300, domains: 2, nic: connectx8-800g, " DOMAIN(
             "a", "2", "4",
             "") "}\n  - {device: gb300, domains: 2, starts: pod, nic: connectx8-800g, " DOMAIN("b", "2", "4",
                                                                                                "") "}\n" FABRIC("2",
                                                                                                                 ""),
         4, "a fabric of 2 tiers has one pod"},
        {"name: x\ngroups:\n  - {device: gb300, domains: 2, nic: connectx8-800g, " DOMAIN(
             "a", "2", "4", "") "}\n  - {device: gb300, domains: 16777216, nic: connectx8-800g, " DOMAIN("b", "2", "4",
                                                                                                         "") "}\n",
         4, "the limit is 16777216"},
        {"name: x\ngroups:\n  - {device: gb300, domains: 2, " DOMAIN("a", "2", "4", "") "}\n" FABRIC("2", ""), 3,
         "\"nic\" is missing"},
        {"name: x\ndevice: gb300\ndomains: 2\nnic: connectx8-800g\n" DOMAIN("a", "2", "4", ", gpus_in_use: 9") "\n", 5,
         "whole number from 1 to 8"},
        {"name: x\ndevice: gb300\ndomains: 2\nnic: connectx8-800g\nplanes: 3\n" DOMAIN("a", "2", "4",
                                                                                       "") "\n" FABRIC("2", ""),
         5, "1, 2 or 4 planes"},
        {"name: x\ndevice: gb300\ndomains: 2\nnic: connectx8-800g\nplanes: 9223372036854775808\n" DOMAIN(
             "a", "2", "4", "") "\n" FABRIC("2", ""),
         5, "whole number"},
        {"name: x\ndevice: gb300\ndomains: 1\nplanes: 2\n" DOMAIN("a", "2", "4", "") "\n", 4,
         "a single domain has no fabric"},
        {"name: x\ndevice: gb300\ndomains: 2\nnic: connectx8-800g\n" DOMAIN(
             "a", "2", "4", "") "\nrails: 4\nfabric: {switch: quantum-x800-q3400, leaf_down: 4, tiers: 2, "
                                "oversubscription: 1, routing: ospf, cables: {nic_leaf: 5m, leaf_spine: 3m}}\n",
         7, "unknown word \"ospf\""},
        {"name: x\ndevice: gb300\ndomains: 2\nnic: connectx8-800g\n" DOMAIN(
             "a", "2", "4", "") "\nrails: 4\nfabric: {switch: quantum-x800-q3400, leaf_down: 4, tiers: 2, "
                                "oversubscription: 1, seed: 3, cables: {nic_leaf: 5m, leaf_spine: 3m}}\n",
         7, "a seed belongs to routing: ecmp"},
        {"name: x\ndevice: gb300\ndomains: 2\nnic: connectx8-800g\n" DOMAIN(
             "a", "2", "4", "") "\nrails: 4\nfabric: {switch: quantum-x800-q3400, leaf_down: 4, tiers: 1, "
                                "routing: ecmp, cables: {nic_leaf: 5m}}\n",
         7, "would be the same as adaptive"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct sf_err err = {0};
        struct sf_topo *t = NULL;
        assert_int_equal(load_text(rows[i].text, &t, &err), SF_E_INPUT);
        if (strstr(err.msg, rows[i].message) == NULL || err.line != rows[i].line || err.column == 0) {
            fail_msg("row %zu: %s:%u:%u: %s", i, err.file, err.line, err.column, err.msg);
        }
    }
}

/* 2,048 GPUs by planes of one NIC on switches whose ports split as often: fewer, wider switches per plane. */
static void test_planes_of_split_ports(void **state) {
    (void)state;
    static const struct {
        uint32_t planes, leaf_down;
        uint64_t leaves, spines, nic_links;
    } rows[] = {{1, 32, 64, 32, 2048}, {2, 64, 64, 32, 4096}, {4, 128, 64, 32, 8192}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[1024];
        snprintf(text, sizeof text,
                 "name: x\ndevice: h100\ndomains: 256\nnic: connectx8-800g-roce\nplanes: %u\n" DOMAIN(
                     "hgx", "1", "8", "") "\nrails: 8\nfabric: {switch: spectrum4-sn5600, leaf_down: %u, tiers: 2, "
                                          "oversubscription: 1, cables: {nic_leaf: 5m, leaf_spine: 30m}}\n",
                 rows[i].planes, rows[i].leaf_down);
        struct sf_topo *t = must_load_text(text);
        struct sf_topo_counts n;
        struct sf_route r;
        sf_topo_count(t, &n);
        assert_int_equal(n.planes, rows[i].planes);
        assert_int_equal(n.leaves, rows[i].leaves);
        assert_int_equal(n.spines, rows[i].spines);
        assert_int_equal(n.links_nic, rows[i].nic_links);
        assert_int_equal(n.nics, 2048);
        assert_int_equal(n.bisection_bytes_per_s, 1024 * UINT64_C(95000000000));
        sf_topo_route(t, 0, 2047, &r);
        assert_int_equal(r.bytes_per_s, UINT64_C(95000000000));
        assert_int_equal(r.latency_ps, 3600000 + 2 * 25000 + 2 * (1000000 + 150000));
        assert_int_equal(r.planes, (1u << rows[i].planes) - 1);
        must_check(t);
        sf_topo_free(t);
    }
}

static void test_hash_covers_the_rest(void **state) {
    (void)state;
    static const char *const edits[][2] = {
        {"domains: 5, starts: pod", "domains: 5, starts: group"},
        {"domains: 5, starts: pod", "domains: 5"},
        {"gpus_in_use: 5", "gpus_in_use: 6"},
        {"device: gb200", "device: gb300"},
        {"rails: 4", "planes: 2\nrails: 4"},
        {"tiers: 3", "routing: pxn, tiers: 3"},
        {"rails: 4", "overlay: {dead: {nics: [\"3\"]}}\nrails: 4"},
        {"rails: 4", "overlay: {dead: {nics: [\"4\"]}}\nrails: 4"},
        {"rails: 4", "overlay: {degraded: [{nics: [\"4\"], rate: 0.5}]}\nrails: 4"},
        {"rails: 4", "overlay: {degraded: [{nics: [\"4\"], rate: 0.4}]}\nrails: 4"},
    };
    enum { N = sizeof edits / sizeof *edits };
    struct sf_hash seen[N + 1];
    struct sf_topo *t = must_load_text(mixed);
    seen[0] = sf_topo_hash(t);
    sf_topo_free(t);
    for (size_t i = 0; i < N; i++) {
        char text[2048];
        const char *at = strstr(mixed, edits[i][0]);
        assert_non_null(at);
        snprintf(text, sizeof text, "%.*s%s%s", (int)(at - mixed), mixed, edits[i][1], at + strlen(edits[i][0]));
        t = must_load_text(text);
        must_check(t);
        seen[i + 1] = sf_topo_hash(t);
        sf_topo_free(t);
        for (size_t k = 0; k <= i; k++) {
            assert_false(sf_hash_equal(seen[i + 1], seen[k]));
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mixed_racks),
        cmocka_unit_test(test_links_between_rates_are_the_narrower),
        cmocka_unit_test(test_empty_seats_lend_nothing),
        cmocka_unit_test(test_links_to_cpus_where_some_have_none),
        cmocka_unit_test(test_more_errors),
        cmocka_unit_test(test_planes_of_split_ports),
        cmocka_unit_test(test_hash_covers_the_rest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
