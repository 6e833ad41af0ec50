/* Routes: whole pairs of small clusters, kinds, rates and latencies by hand, spreading, link texts. */
#include "test_topo_fixture.h"

static const struct shape three_tiers = {12, 2, 4, 4, 4, 3, 1, "quantum-x800-q3400"};

static void check_pair(const struct sf_topo *t, uint32_t src, uint32_t dst) {
    struct sf_route r, back;
    char text[160];
    sf_topo_route(t, src, dst, &r);
    sf_topo_route(t, dst, src, &back);
    assert_int_equal(r.kind, back.kind);
    assert_int_equal(r.bytes_per_s, back.bytes_per_s);
    assert_int_equal(r.latency_ps, back.latency_ps);
    assert_int_equal(r.links_n, back.links_n);
    uint64_t narrowest = UINT64_MAX;
    for (uint32_t i = 0; i < r.links_n; i++) {
        enum sf_link_kind kind = (enum sf_link_kind)SF_LINK_KIND(r.links[i]);
        assert_true(SF_LINK_INDEX(r.links[i]) < sf_topo_link_count(t, kind));
        sf_topo_link_text(t, r.links[i], text, sizeof text);
        assert_null(strstr(text, "unknown"));
        uint64_t rate = sf_topo_link_rate(t, r.links[i]);
        narrowest = rate < narrowest ? rate : narrowest;
    }
    if (src != dst) {
        assert_true(r.bytes_per_s <= narrowest && r.bytes_per_s > 0);
    }
}

static void test_all_pairs(void **state) {
    (void)state;
    const struct shape shapes[] = {
        three_tiers,
        {3, 2, 4, 8, 8, 1, 1, "quantum2-qm9700"},
        {9, 2, 4, 2, 12, 2, 3, "quantum2-qm9700"},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct sf_topo *t = must_load_shape(&shapes[i]);
        must_check(t);
        for (uint32_t src = 0; src < sf_topo_gpus(t); src++) {
            for (uint32_t dst = 0; dst < sf_topo_gpus(t); dst++) {
                check_pair(t, src, dst);
            }
        }
        sf_topo_free(t);
    }
}

static void expect(const struct sf_topo *t, uint32_t src, uint32_t dst, enum sf_route_kind kind, uint32_t links_n,
                   uint64_t rate, sf_time_ps latency) {
    struct sf_route r;
    sf_topo_route(t, src, dst, &r);
    assert_int_equal(r.kind, kind);
    assert_int_equal(r.links_n, links_n);
    assert_int_equal(r.bytes_per_s, rate);
    assert_int_equal(r.latency_ps, latency);
}

static void test_tiers_of_the_large_cluster(void **state) {
    (void)state;
    struct sf_topo *t = must_load_cluster("gb300-nvl72-220k");
    const uint64_t nic = UINT64_C(94000000000);
    const sf_time_ps leaf = 2800000 + 2 * 5 * 5000, spine = leaf + 2 * 450000 + 2 * 30 * 5000;
    expect(t, 5, 5, SF_ROUTE_SELF, 0, UINT64_C(8000000000000), 0);
    expect(t, 0, 71, SF_ROUTE_DOMAIN, 2, UINT64_C(680000000000), 3330000);
    expect(t, 0, 72, SF_ROUTE_LEAF, 2, nic, leaf);
    expect(t, 0, 73, SF_ROUTE_SPINE, 4, nic, spine);
    expect(t, 0, 4 * 72, SF_ROUTE_SPINE, 4, nic, spine);
    expect(t, 0, 5183, SF_ROUTE_SPINE, 4, nic, spine);
    expect(t, 0, 5184, SF_ROUTE_CORE, 6, nic, spine + 2 * 450000 + 2 * 100 * 5000);
    expect(t, 219999, 0, SF_ROUTE_CORE, 6, nic, spine + 2 * 450000 + 2 * 100 * 5000);
    sf_topo_free(t);
}

/* As many numbers as there are ways to meet, and pairs that meet alike share theirs. */
static void test_routes_alike(void **state) {
    (void)state;
    struct sf_topo *t = must_load_cluster("gb300-nvl72-220k");
    const uint32_t pairs[][2] = {{5, 5}, {0, 71}, {0, 72}, {0, 73}, {0, 5183 - 71}, {0, 5183}, {0, 5184}, {0, 5185}};
    uint32_t used = 0;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        uint32_t number = sf_topo_route_alike(t, pairs[i][0], pairs[i][1]);
        assert_true(number < SF_ROUTES_ALIKE && !(used >> number & 1));
        used |= 1u << number;
    }
    assert_int_equal(sf_topo_route_alike(t, 219999, 219999 % 72), sf_topo_route_alike(t, 0, 5184));
    assert_int_equal(sf_topo_route_alike(t, 3 * 72 + 7, 9), sf_topo_route_alike(t, 0, 73));
    sf_topo_free(t);
}

static void test_oversubscription_slows_climbing_routes(void **state) {
    (void)state;
    struct shape s = three_tiers;
    s.oversubscription = 4;
    struct sf_topo *t = must_load_shape(&s);
    struct sf_route r;
    sf_topo_route(t, 0, 8, &r);
    assert_int_equal(r.kind, SF_ROUTE_LEAF);
    assert_int_equal(r.bytes_per_s, UINT64_C(47000000000));
    sf_topo_route(t, 0, 9, &r);
    assert_int_equal(r.kind, SF_ROUTE_SPINE);
    assert_int_equal(r.bytes_per_s, UINT64_C(11750000000));
    sf_topo_free(t);
}

/* In a fabric of one tier rails do not meet: the message changes rail over NVLink first. */
static void test_rail_only(void **state) {
    (void)state;
    struct shape s = {3, 2, 4, 8, 8, 1, 1, "quantum2-qm9700"};
    struct sf_topo *t = must_load_shape(&s);
    struct sf_route r;
    sf_topo_route(t, 0, 8 + 3, &r);
    assert_int_equal(r.kind, SF_ROUTE_LEAF);
    assert_int_equal(r.links_n, 4);
    assert_int_equal(r.links[0], SF_LINK(SF_LINK_NVLINK_UP, 0));
    assert_int_equal(r.links[1], SF_LINK(SF_LINK_NVLINK_DOWN, 3 * 18));
    assert_int_equal(r.links[2], SF_LINK(SF_LINK_NIC_UP, 3));
    assert_int_equal(r.links[3], SF_LINK(SF_LINK_NIC_DOWN, 11));
    assert_int_equal(r.latency_ps, 3330000 + 2800000 + 2 * 3 * 5000);
    sf_topo_free(t);
}

/* All GPUs of a far pod as destinations: no two share a cable on the way down. */
static void test_destinations_do_not_share_the_way_down(void **state) {
    (void)state;
    struct sf_topo *t = must_load_cluster("gb300-nvl72-220k");
    uint64_t leaf_n = sf_topo_link_count(t, SF_LINK_LEAF_DOWN), spine_n = sf_topo_link_count(t, SF_LINK_SPINE_DOWN);
    unsigned char *leaf = sf_calloc(leaf_n, 1), *spine = sf_calloc(spine_n, 1);
    assert_true(leaf != NULL && spine != NULL);
    for (uint32_t i = 0; i < 5184; i++) {
        struct sf_route r;
        sf_topo_route(t, i, 3 * 5184 + (i * 37 + 11) % 5184, &r);
        assert_int_equal(r.kind, SF_ROUTE_CORE);
        assert_int_equal(spine[SF_LINK_INDEX(r.links[3])]++, 0);
        assert_int_equal(leaf[SF_LINK_INDEX(r.links[4])]++, 0);
    }
    sf_free(leaf);
    sf_free(spine);
    sf_topo_free(t);
}

static void expect_text(const struct sf_topo *t, sf_link link, const char *expected) {
    char text[160];
    assert_string_equal(sf_topo_link_text(t, link, text, sizeof text), expected);
}

static void test_link_text(void **state) {
    (void)state;
    struct sf_topo *t = must_load_cluster("gb300-nvl72-220k");
    expect_text(t, SF_LINK(SF_LINK_LEAF_UP, 17 * 72 + 3), "leaf-up 17:3 (leaf 17 to spine 3), 800 Gb/s");
    expect_text(t, SF_LINK(SF_LINK_LEAF_DOWN, 17 * 72 + 3), "leaf-down 17:3 (spine 3 to leaf 17), 800 Gb/s");
    expect_text(t, SF_LINK(SF_LINK_SPINE_UP, 73 * 72 + 25), "spine-up 73:25 (spine 73 to core 25), 800 Gb/s");
    expect_text(t, SF_LINK(SF_LINK_NIC_UP, 73), "nic-up 73 (gpu 73 to leaf 1), 800 Gb/s");
    expect_text(t, SF_LINK(SF_LINK_NVLINK_UP, 73 * 18 + 17), "nvlink-up 73:17 (gpu 73 to nvswitch 35), 400 Gb/s");
    expect_text(t, SF_LINK(SF_LINK_C2C_DOWN, 6), "c2c-down 6 (cpu 3 to gpu 6), 3600 Gb/s");
    expect_text(t, SF_LINK(SF_LINK_C2C_DOWN, 220032), "unknown link c2c-down 220032");
    expect_text(t, SF_LINK(77, 1), "unknown link of no kind 1");
    char small[8];
    assert_int_equal(strlen(sf_topo_link_text(t, SF_LINK(SF_LINK_NIC_UP, 1), small, sizeof small)), 7);
    assert_int_equal(sf_topo_link_rate(t, SF_LINK(SF_LINK_NVLINK_UP, 0)), UINT64_C(680000000000));
    assert_int_equal(sf_topo_link_rate(t, SF_LINK(SF_LINK_NIC_UP, 220032)), 0);
    sf_topo_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_pairs),    cmocka_unit_test(test_tiers_of_the_large_cluster),
        cmocka_unit_test(test_routes_alike), cmocka_unit_test(test_oversubscription_slows_climbing_routes),
        cmocka_unit_test(test_rail_only),    cmocka_unit_test(test_destinations_do_not_share_the_way_down),
        cmocka_unit_test(test_link_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
