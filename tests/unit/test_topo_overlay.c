/* Overlays: rates, detours, refusals, seats, names, and that whatever is wrong is said where it stands. */
#include "test_topo_fixture.h"

#include <time.h>

/* Six racks of two trays of four GPUs, two rails, leaves of two racks, three tiers; pods of 36 groups: one pod. */
static const char base[] = "name: small\n"
                           "device: gb300\n"
                           "domains: 6\n"
                           "domain: {kind: rack, trays: 2, gpus_per_tray: 4, cpus_per_tray: 2, nvswitches: 4, "
                           "link: nvlink5, links_per_gpu: 8, cpu_link: nvlink-c2c}\n"
                           "nic: connectx8-800g\n"
                           "planes: %u\n"
                           "rails: 2\n"
                           "fabric:\n"
                           "  switch: quantum-x800-q3400\n"
                           "  leaf_down: 8\n"
                           "  tiers: %u\n"
                           "  oversubscription: 1\n"
                           "  cables: {nic_leaf: 5m, leaf_spine: 30m%s}\n"
                           "overlay:\n"
                           "%s";
#define OVERLAY_LINE 15

static int load_overlay(uint32_t planes, uint32_t tiers, const char *overlay, struct sf_topo **t, struct sf_err *err) {
    char text[4096];
    int n = snprintf(text, sizeof text, base, planes, tiers, tiers > 2 ? ", spine_core: 50m" : "", overlay);
    assert_true(n > 0 && (size_t)n < sizeof text);
    return load_text(text, t, err);
}

static struct sf_topo *must_load_overlay(uint32_t planes, uint32_t tiers, const char *overlay) {
    struct sf_err err = {0};
    struct sf_topo *t = NULL;
    if (load_overlay(planes, tiers, overlay, &t, &err) != 0) {
        fail_msg("%s:%u:%u: %s", err.file, err.line, err.column, err.msg);
    }
    must_check(t);
    return t;
}

static const uint64_t nic = UINT64_C(94000000000);

static struct sf_route route(const struct sf_topo *t, uint32_t src, uint32_t dst) {
    static const struct sf_route_ask ask = {.routing = -1, .plane = SF_ALL_PLANES};
    struct sf_route plain, asked;
    struct sf_err err = {0};
    sf_topo_route(t, src, dst, &plain);
    int rc = sf_topo_route_with(t, src, dst, &ask, &asked, &err);
    assert_memory_equal(&plain, &asked, sizeof plain);
    assert_int_equal(rc, plain.bytes_per_s > 0 ? 0 : SF_E_INPUT);
    return plain;
}

static void expect_refused(const struct sf_topo *t, uint32_t src, uint32_t dst, const char *message, uint32_t line) {
    static const struct sf_route_ask ask = {.routing = -1, .plane = SF_ALL_PLANES};
    struct sf_route r;
    struct sf_err err = {0};
    assert_int_equal(sf_topo_route_with(t, src, dst, &ask, &r, &err), SF_E_INPUT);
    assert_int_equal(r.bytes_per_s, 0);
    assert_int_equal(r.links_n, 0);
    if (strstr(err.msg, message) == NULL || err.line != line) {
        fail_msg("%s:%u:%u: %s", err.file, err.line, err.column, err.msg);
    }
}

static void test_a_dead_nic_is_gone_around_over_nvlink(void **state) {
    (void)state;
    struct sf_topo *t = must_load_overlay(1, 2, "  dead: { nics: [\"0\", \"8..9\"] }\n");
    struct sf_route r = route(t, 0, 17);
    assert_int_equal(r.via[0], 1); /* the sender's GPU in the receiver's slot */
    assert_int_equal(r.via[1], 17);
    assert_int_equal(SF_LINK_KIND(r.links[0]), SF_LINK_NVLINK_UP);
    assert_int_equal(r.links[2], SF_LINK(SF_LINK_NIC_UP, 1));
    assert_int_equal(r.bytes_per_s, nic);
    assert_int_equal(r.latency_ps, 3330000 + 2800000 + 2 * 25000 + 2 * (450000 + 150000));
    r = route(t, 16, 9); /* and at the other end */
    assert_int_equal(r.via[0], 16);
    assert_true(r.via[1] >= 10 && r.via[1] < 16);
    assert_int_equal(SF_LINK_KIND(r.links[r.links_n - 1]), SF_LINK_NVLINK_DOWN);
    r = route(t, 0, 8); /* at both */
    assert_true(r.via[0] > 0 && r.via[0] < 8 && r.via[1] > 9 && r.via[1] < 16);
    assert_int_equal(route(t, 2, 17).via[0], 2);
    sf_topo_free(t);
}

static void test_planes_lose_one_stripe(void **state) {
    (void)state;
    struct sf_topo *t = must_load_overlay(4, 2, "  dead: { nics: [\"0:1\", \"8:2..3\"], switches: [leaf 0] }\n");
    assert_int_equal(sf_topo_planes(t), 4);
    struct sf_route r = route(t, 0, 17);
    assert_int_equal(r.planes, 0xc); /* leaf 0 is plane 0's, and the NIC lost plane 1 */
    assert_int_equal(r.bytes_per_s, nic / 2);
    assert_int_equal(r.links[0], SF_LINK(SF_LINK_NIC_UP, 2));
    r = route(t, 16, 8);
    assert_int_equal(r.planes, 2); /* 8 hangs on leaf 0 too, and lost planes 2 and 3 */
    assert_int_equal(r.bytes_per_s, nic / 4);
    r = route(t, 0, 8); /* no plane in common: somebody else's NIC */
    assert_true(r.via[0] != 0 || r.via[1] != 8);
    assert_int_equal(route(t, 17, 33).bytes_per_s, nic);
    struct sf_route_ask ask = {.routing = -1, .plane = 3};
    assert_int_equal(sf_topo_route_with(t, 17, 33, &ask, &r, NULL), 0);
    assert_int_equal(r.bytes_per_s, nic / 4);
    assert_int_equal(r.links[0], SF_LINK(SF_LINK_NIC_UP, 17 * 4 + 3));
    sf_topo_free(t);
}

static void test_dead_and_slow_uplinks(void **state) {
    (void)state;
    struct sf_topo *t = must_load_overlay(1, 3,
                                          "  dead: { links: [\"leaf-up 0:0..1\", \"spine-down 3:0..71\"] }\n"
                                          "  degraded: [{ links: [\"leaf-down 3:4\"], rate: 0.5 }]\n");
    assert_false(sf_topo_nonblocking(t));
    struct sf_route r = route(t, 0, 16); /* leaf 0 to leaf 2: slot 0's port 0 is dead, so the next well one */
    assert_int_equal(r.links[1], SF_LINK(SF_LINK_LEAF_UP, 2));
    assert_int_equal(r.bytes_per_s, nic * 6 / 8);
    assert_int_equal(r.alone_bytes_per_s, nic);
    r = route(t, 1, 17);
    assert_int_equal(r.bytes_per_s, nic * 15 / 16);
    assert_int_equal(route(t, 17, 1).bytes_per_s, nic); /* the slow direction is the other one */
    assert_int_equal(sf_topo_link_rate(t, SF_LINK(SF_LINK_LEAF_DOWN, 3 * 8 + 4)), nic / 2);
    assert_int_equal(sf_topo_link_rate(t, SF_LINK(SF_LINK_LEAF_DOWN, 1)), 0); /* a dead cable is dead both ways */
    char text[160];
    sf_topo_link_text(t, SF_LINK(SF_LINK_LEAF_UP, 1), text, sizeof text);
    assert_string_equal(text, "leaf-up 0:1 (leaf 0 to spine 1), 800 Gb/s, dead");
    sf_topo_link_text(t, SF_LINK(SF_LINK_LEAF_DOWN, 28), text, sizeof text);
    assert_string_equal(text, "leaf-down 3:4 (spine 4 to leaf 3), 800 Gb/s, at 50 %");
    struct sf_topo_counts n;
    sf_topo_count(t, &n);
    assert_int_equal(n.dead_cables, 2 + 72);
    assert_int_equal(n.degraded_links, 1);
    sf_topo_free(t);
}

static void test_refusals_say_why(void **state) {
    (void)state;
    struct sf_topo *t = must_load_overlay(1, 2,
                                          "  dead:\n"
                                          "    gpus: [\"5\"]\n"
                                          "    nics: [\"8..15\"]\n"
                                          "    switches: [leaf 2..3]\n");
    expect_refused(t, 0, 5, "gpu 5 is dead", OVERLAY_LINE + 1);
    expect_refused(t, 5, 5, "gpu 5 is dead", OVERLAY_LINE + 1);
    expect_refused(t, 0, 9, "the NIC of gpu 9 is dead", OVERLAY_LINE + 2);
    expect_refused(t, 0, 16, "leaf 2 is dead", OVERLAY_LINE + 3);
    assert_true(route(t, 8, 9).bytes_per_s > 0); /* inside the domain nothing is amiss */
    sf_topo_free(t);
}

static void test_nvlink(void **state) {
    (void)state;
    struct sf_topo *t = must_load_overlay(1, 2,
                                          "  dead: { switches: [nvswitch 1], links: [\"nvlink-up 8..15\"] }\n"
                                          "  degraded: [{ links: [\"nvlink-up 16:0..3\"], rate: 0.5 }]\n");
    const uint64_t whole = UINT64_C(680000000000) * 8 / 18;      /* 8 of the 18 links that nvlink5 speaks of */
    assert_int_equal(route(t, 0, 1).bytes_per_s, whole * 3 / 4); /* one chip of four */
    assert_int_equal(route(t, 16, 17).bytes_per_s, whole * 3 / 4);
    assert_int_equal(route(t, 17, 16).bytes_per_s, whole);
    struct sf_route r = route(t, 8, 9); /* no lane left: over the fabric */
    assert_int_equal(SF_LINK_KIND(r.links[0]), SF_LINK_NIC_UP);
    assert_int_equal(r.bytes_per_s, nic);
    sf_topo_free(t);
}

static void test_seats_in_use(void **state) {
    (void)state;
    struct sf_topo *t = must_load_overlay(1, 2,
                                          "  spare: { gpus: [\"0\", \"12\"], domains: [\"5\"] }\n"
                                          "  dead: { gpus: [\"1\", \"47\"] }\n");
    assert_int_equal(sf_topo_gpus(t), 48);
    assert_int_equal(sf_topo_gpus_in_use(t), 48 - 8 - 2 - 1);
    assert_int_equal(sf_topo_gpu_state(t, 0), SF_GPU_SPARE);
    assert_int_equal(sf_topo_gpu_state(t, 1), SF_GPU_DEAD);
    assert_int_equal(sf_topo_gpu_state(t, 47), SF_GPU_DEAD);
    assert_int_equal(sf_topo_gpu_state(t, 46), SF_GPU_SPARE);
    assert_int_equal(sf_topo_seat(t, 0), 2);
    assert_int_equal(sf_topo_seat(t, 9), 11);
    assert_int_equal(sf_topo_seat(t, 10), 13);
    assert_int_equal(sf_topo_seat(t, 36), 39);
    struct sf_topo_counts n;
    sf_topo_count(t, &n);
    assert_int_equal(n.dead_gpus, 2);
    assert_int_equal(n.spare_gpus, 9);
    assert_int_equal(n.spare_domains, 1);
    sf_topo_free(t);
}

static void test_names_of_links(void **state) {
    (void)state;
    struct sf_topo *t = must_load_overlay(2, 3, "  spare: { gpus: [\"0\"] }\n");
    for (int kind = 0; kind < SF_LINK_KINDS_N; kind++) {
        uint64_t n = sf_topo_link_count(t, (enum sf_link_kind)kind);
        for (uint64_t i = 0; i < n; i += 1 + n / 97) {
            char text[160];
            struct sf_err err = {0};
            sf_link link = 0;
            sf_topo_link_text(t, SF_LINK(kind, i), text, sizeof text);
            if (sf_topo_link_parse(t, text, &link, &err) != 0 || link != SF_LINK(kind, i)) {
                fail_msg("%s: %s", text, err.msg);
            }
        }
    }
    static const char *const wrong[][2] = {
        {"leaf-up", "expected a number"},          {"leaf-up 99999:0", "out of range"},
        {"leaf-up 0:8", "port 8 is out of range"}, {"leaf-up 0..1:3", "of one node"},
        {"leaf-up 3..1", "expected a number"},     {"leaf-up 0:0..1", "names 2 links"},
        {"leaf-up 0:0x", "unexpected \"x\""},      {"leaf-op 0:0", "expected a link"},
        {"leaf-up -1:0", "expected a number"},     {"leaf-up 18446744073709551616:0", "expected a number"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct sf_err err = {0};
        sf_link link;
        assert_int_equal(sf_topo_link_parse(t, wrong[i][0], &link, &err), SF_E_INPUT);
        if (strstr(err.msg, wrong[i][1]) == NULL) {
            fail_msg("%s: %s", wrong[i][0], err.msg);
        }
    }
    sf_topo_free(t);
}

static void test_errors_say_where_and_what(void **state) {
    (void)state;
    static const struct {
        const char *overlay;
        uint32_t line, column;
        const char *message;
    } rows[] = {
        {"  ded: {}\n", 0, 3, "did you mean \"dead\""},
        {"  dead: { gpus: [\"48\"] }\n", 0, 18, "gpu 48 is out of range: there are 48"},
        {"  dead: { gpus: [\"9223372036854775808\"] }\n", 0, 18, "expected a number or a range"},
        {"  dead: { gpus: [\"7..3\"] }\n", 0, 18, "expected a number or a range"},
        {"  dead: { gpus: [-1] }\n", 0, 18, "expected a number or a range"},
        {"  dead: { gpus: 3 }\n", 0, 17, "expected a list"},
        {"  dead: { gpus: [] }\n", 0, 17, "expected a list"},
        {"  dead: { gpus: [[3]] }\n", 0, 18, "expected text"},
        {"  dead: { domains: [\"6\"] }\n", 0, 21, "domain 6 is out of range: there are 6"},
        {"  dead: { nics: [\"3:1\"] }\n", 0, 18, "port 1 is out of range: there are 1"},
        {"  dead: { switches: [leaf 6] }\n", 0, 22, "leaf 6 is out of range: there are 6"},
        {"  dead: { switches: [core 0] }\n", 0, 22, "core 0 is out of range: there are 0"},
        {"  dead: { switches: [gpu 0] }\n", 0, 22, "expected leaf, spine, core or nvswitch"},
        {"  dead: { links: [\"spine-up 0:0\"] }\n", 0, 19, "spine-up 0 is out of range: there are 0"},
        {"  dead: { links: [\"c2c-up 0\"] }\n", 0, 19, "would change nothing"},
        {"  dead: { links: [\"leaf-up 1:0\", \"leaf-down 1:0\"] }\n", 0, 34, "named twice"},
        {"  dead: { nics: [\"3\"], links: [\"nic-up 3\"] }\n", 0, 32, "named twice"},
        {"  degraded: [{ links: [\"leaf-up 1:0\"], rate: 0 }]\n", 0, 46, "a number from"},
        {"  degraded: [{ links: [\"leaf-up 1:0\"], rate: 1 }]\n", 0, 46, "a number from"},
        {"  degraded: [{ rate: 0.5 }]\n", 0, 14, "expected nics or links"},
        {"  degraded: [{ links: [\"leaf-up 1:0\"] }]\n", 0, 14, "\"rate\" is missing"},
        {"  degraded: { rate: 0.5 }\n", 0, 13, "expected a list"},
        {"  spare: { domains: [\"0..5\"] }\n", 0, 0, "only 0 are neither empty nor dead nor spare"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct sf_err err = {0};
        struct sf_topo *t = NULL;
        assert_int_equal(load_overlay(1, 2, rows[i].overlay, &t, &err), SF_E_INPUT);
        assert_null(t);
        bool here = rows[i].column == 0 || (err.line == OVERLAY_LINE + rows[i].line && err.column == rows[i].column);
        if (strstr(err.msg, rows[i].message) == NULL || !here || err.line == 0) {
            fail_msg("row %zu: %s:%u:%u: %s", i, err.file, err.line, err.column, err.msg);
        }
    }
}

static int load_two(const char *overlay, struct sf_topo *t, struct sf_err *err) {
    const struct memory_file file = {"dir/today.yaml", overlay};
    struct memory_io m = {&file, 1};
    const struct sf_io io = {&m, memory_read_all, NULL};
    return sf_topo_load_overlay(&io, "dir/today.yaml", t, err);
}

static void test_overlay_files_replace_and_roll_back(void **state) {
    (void)state;
    struct sf_err err = {0};
    struct sf_topo *t = must_load_overlay(1, 2, "  dead: { nics: [\"0\"] }\n");
    struct sf_hash first = sf_topo_hash(t);
    assert_int_equal(load_two("dead: { nics: [\"48\"] }\n", t, &err), SF_E_INPUT);
    assert_string_equal(err.file, "dir/today.yaml");
    assert_int_equal(load_two("dead: { domains: [\"0..5\"] }\n", t, &err), SF_E_INPUT);
    assert_int_equal(load_two("dead: { links: [\"leaf-up 0:0\"], gpus: [&a 3, *a] }\n", t, &err), SF_E_INPUT);
    assert_true(sf_hash_equal(first, sf_topo_hash(t)));
    assert_int_equal(load_two("dead: { nics: [\"1\"] }\n", t, &err), 0);
    assert_false(sf_hash_equal(first, sf_topo_hash(t)));
    assert_int_equal(route(t, 0, 16).via[0], 0);
    assert_int_equal(route(t, 1, 17).via[0], 3); /* rail and next in line: slot 1 first, then on */
    must_check(t);
    sf_topo_free(t);
    const struct memory_file files[] = {
        {"dir/cluster.yaml", "name: four\ndevice: gb300\ndomains: 1\ndomain: {kind: r, trays: 1, gpus_per_tray: 4, "
                             "cpus_per_tray: 1, nvswitches: 1, link: nvlink5, links_per_gpu: 4}\n"
                             "overlay: gone.yaml\n"},
        {"dir/gone.yaml", "dead: { gpus: [\"2\"] }\n"}};
    assert_int_equal(load_files(files, 2, &t, &err), 0);
    assert_int_equal(sf_topo_gpus_in_use(t), 3);
    sf_topo_free(t);
    assert_int_equal(load_files(files, 1, &t, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "cannot read the overlay dir/gone.yaml"));
    assert_int_equal(err.line, 5);
}

static void test_memory_runs_out_anywhere(void **state) {
    (void)state;
    struct sf_topo *t = must_load_overlay(1, 2, "  dead: { nics: [\"0\"] }\n");
    struct sf_hash before = sf_topo_hash(t);
    static const char overlay[] = "spare: { gpus: [\"3\"] }\ndead: { gpus: [\"5\"], switches: [leaf 0] }\n";
    int rc = 1;
    for (size_t n = 1; rc != 0; n++) {
        struct sf_err err = {0};
        assert_true(n < 10000);
        sf_alloc_fail_after(n);
        rc = load_two(overlay, t, &err);
        sf_alloc_fail_after(0);
        assert_true(rc == 0 || (err.msg[0] != '\0' && sf_hash_equal(before, sf_topo_hash(t))));
    }
    sf_topo_free(t);
}

/* The figure that a user waits for: 220,032 GPUs with an overlay and with planes. */
static void test_large_clusters_load_at_once(void **state) {
    (void)state;
    static const char *const names[] = {"gb300-nvl72-220k-today", "gb300-nvl72-220k-4plane"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        clock_t start = clock();
        struct sf_topo *t = must_load_cluster(names[i]);
        assert_true(clock() - start < CLOCKS_PER_SEC / 2);
        assert_int_equal(sf_topo_gpus(t), 220032);
        sf_topo_free(t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_dead_nic_is_gone_around_over_nvlink),
        cmocka_unit_test(test_planes_lose_one_stripe),
        cmocka_unit_test(test_dead_and_slow_uplinks),
        cmocka_unit_test(test_refusals_say_why),
        cmocka_unit_test(test_nvlink),
        cmocka_unit_test(test_seats_in_use),
        cmocka_unit_test(test_names_of_links),
        cmocka_unit_test(test_errors_say_where_and_what),
        cmocka_unit_test(test_overlay_files_replace_and_roll_back),
        cmocka_unit_test(test_memory_runs_out_anywhere),
        cmocka_unit_test(test_large_clusters_load_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
