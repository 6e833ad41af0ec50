/* What an overlay takes: lanes, switch chips and the middle of the fabric, against the cluster as planned. */
#include "test_topo_fixture.h"

static const char rack[] = "name: rack\ndevice: gb300\ndomains: 1\n"
                           "domain: {kind: rack, trays: 2, gpus_per_tray: 4, cpus_per_tray: 2, nvswitches: %u, "
                           "link: nvlink5, links_per_gpu: %u, cpu_link: nvlink-c2c}\n%s";
static const uint64_t whole = UINT64_C(680000000000);

static struct sf_topo *load_rack(uint32_t chips, uint32_t lanes, const char *overlay) {
    char text[1024];
    snprintf(text, sizeof text, rack, chips, lanes, overlay);
    struct sf_topo *t = must_load_text(text);
    must_check(t);
    return t;
}

static struct sf_route alive(const struct sf_topo *t, uint32_t a, uint32_t b) {
    struct sf_route r;
    sf_topo_route(t, a, b, &r);
    for (uint32_t i = 0; i < r.links_n; i++) {
        char text[160];
        sf_topo_link_text(t, r.links[i], text, sizeof text);
        if (strstr(text, "dead") != NULL || sf_topo_link_rate(t, r.links[i]) == 0) {
            fail_msg("the way from %u to %u uses %s", a, b, text);
        }
    }
    return r;
}

static void test_dead_chips_take_their_lanes(void **state) {
    (void)state;
    struct sf_topo *t = load_rack(18, 18, "overlay: { dead: { switches: [nvswitch 0..3] } }\n");
    struct sf_route r = alive(t, 0, 5);
    assert_int_equal(r.bytes_per_s, whole * 14 / 18);
    assert_int_equal(r.links[0], SF_LINK(SF_LINK_NVLINK_UP, 4));
    assert_int_equal(r.links[1], SF_LINK(SF_LINK_NVLINK_DOWN, 5 * 18 + 4));
    struct sf_topo_least least;
    sf_topo_least_up(t, &least);
    assert_int_equal(least.bytes_per_s, whole * 14 / 18);
    assert_int_equal(least.whole_bytes_per_s, whole);
    sf_topo_free(t);
}

/* A message climbs to a chip and comes down from the same one: lanes that miss each other are no way. */
static void test_lanes_meet_at_a_chip(void **state) {
    (void)state;
    struct sf_topo *t =
        load_rack(18, 18, "overlay: { dead: { links: [\"nvlink-up 0:0..8\", \"nvlink-up 1:9..17\"] } }\n");
    assert_int_equal(alive(t, 0, 2).bytes_per_s, whole / 2);
    assert_int_equal(alive(t, 1, 2).bytes_per_s, whole / 2);
    struct sf_route r;
    sf_topo_route(t, 0, 1, &r);
    assert_int_equal(r.bytes_per_s, 0);
    sf_topo_free(t);
    t = load_rack(0, 18, "overlay: { dead: { links: [\"nvlink-up 0:0..8\", \"nvlink-up 1:9..17\"] } }\n");
    assert_int_equal(alive(t, 0, 1).bytes_per_s, whole / 2); /* without chips all lanes meet in one memory */
    sf_topo_free(t);
}

static void test_the_least_of_a_gpu(void **state) {
    (void)state;
    struct sf_topo *t = load_rack(18, 18, "overlay: { degraded: [{ links: [\"nvlink-down 3:0..8\"], rate: 0.5 }] }\n");
    struct sf_topo_least least;
    sf_topo_least_up(t, &least);
    assert_int_equal(least.gpu, 3);
    assert_int_equal(least.bytes_per_s, whole * 3 / 4);
    assert_int_equal(alive(t, 0, 3).bytes_per_s, whole * 3 / 4);
    assert_int_equal(alive(t, 3, 0).bytes_per_s, whole);
    sf_topo_free(t);
}

static void test_the_plan_knows_no_damage(void **state) {
    (void)state;
    struct sf_err err = {0};
    struct sf_topo *t = must_load_cluster("gb300-nvl72-220k-today"), *well = must_load_cluster("gb300-nvl72-220k"),
                   *plan;
    struct sf_topo_counts a, b;
    assert_int_equal(sf_topo_planned(t, &plan, &err), 0);
    sf_topo_count(plan, &a);
    sf_topo_count(well, &b);
    a.gpus_in_use = b.gpus_in_use = a.spare_gpus = b.spare_gpus = 0; /* the files differ in how many they want */
    assert_memory_equal(&a, &b, sizeof a);
    assert_false(sf_hash_equal(sf_topo_hash(plan), sf_topo_hash(t)));
    must_check(plan);
    sf_topo_count(t, &b);
    assert_true(b.bisection_bytes_per_s < a.bisection_bytes_per_s);
    sf_alloc_fail_after(1);
    struct sf_topo *none;
    assert_int_equal(sf_topo_planned(t, &none, &err), SF_E_INTERNAL);
    sf_alloc_fail_after(0);
    assert_null(none);
    sf_topo_free(plan);
    sf_topo_free(well);
    sf_topo_free(t);
}

/* Two groups of two leaves over four spines: each side keeps half of its uplinks, but to different spines. */
static void test_uplinks_that_miss_each_other(void **state) {
    (void)state;
    static const char text[] =
        "name: halves\ndevice: gb300\ndomains: 4\n"
        "domain: {kind: rack, trays: 2, gpus_per_tray: 4, cpus_per_tray: 2, nvswitches: 18, link: nvlink5, "
        "links_per_gpu: 18, cpu_link: nvlink-c2c}\nnic: connectx8-800g\nrails: 1\n"
        "fabric: {switch: quantum-x800-q3400, leaf_down: 16, tiers: 2, oversubscription: 1, "
        "cables: {nic_leaf: 3m, leaf_spine: 10m}}\n%s";
    char with[2048];
    struct sf_topo_counts well, hurt;
    snprintf(with, sizeof with, text, "");
    struct sf_topo *t = must_load_text(with);
    sf_topo_count(t, &well);
    assert_int_equal(well.leaves, 2);
    assert_true(sf_topo_nonblocking(t));
    char lost[1024] = "overlay: { dead: { links: [", *at = lost + strlen(lost);
    for (uint32_t port = 0; port < 16; port++) { /* leaf 0 keeps the first half of the spines, leaf 1 the other */
        bool first_half = port % well.spines < well.spines / 2;
        at += snprintf(at, (size_t)(lost + sizeof lost - at), "%s\"leaf-up %d:%u\"", port > 0 ? ", " : "", first_half,
                       port);
    }
    sf_topo_free(t);
    snprintf(at, (size_t)(lost + sizeof lost - at), "] } }\n");
    snprintf(with, sizeof with, text, lost);
    t = must_load_text(with);
    must_check(t);
    sf_topo_count(t, &hurt);
    assert_false(sf_topo_nonblocking(t));
    assert_true(well.bisection_bytes_per_s > 0);
    assert_int_equal(hurt.bisection_bytes_per_s, 0);
    sf_topo_free(t);
}

static void test_links_of_a_gpu_scale_its_rate(void **state) {
    (void)state;
    for (uint32_t lanes = 1; lanes <= 18; lanes++) {
        struct sf_topo *t = load_rack(1, lanes, "");
        const struct sf_link_class *up = sf_topo_scale_up(t);
        assert_int_equal(up->bytes_per_s, whole * lanes / 18);
        assert_int_equal(up->peak_bytes_per_s, UINT64_C(900000000000) * lanes / 18);
        assert_int_equal(alive(t, 0, 1).bytes_per_s, up->bytes_per_s);
        sf_topo_free(t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dead_chips_take_their_lanes),  cmocka_unit_test(test_lanes_meet_at_a_chip),
        cmocka_unit_test(test_the_least_of_a_gpu),           cmocka_unit_test(test_the_plan_knows_no_damage),
        cmocka_unit_test(test_uplinks_that_miss_each_other), cmocka_unit_test(test_links_of_a_gpu_scale_its_rate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
