/* Routing modes: distinct, refused where they mean nothing, and what flows contend for under each. */
#include "test_topo_fixture.h"

static const uint64_t nic = UINT64_C(94000000000);

static struct sf_topo *large(enum sf_routing routing, uint64_t seed) {
    struct sf_err err = {0};
    struct sf_topo *t = must_load_cluster("gb300-nvl72-220k");
    if (sf_topo_set_routing(t, routing, seed, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    return t;
}

static void test_names(void **state) {
    (void)state;
    assert_string_equal(sf_routing_name(SF_ROUTING_RAIL_LOCAL), "rail-local");
    assert_string_equal(sf_routing_name(-1), "?");
    assert_string_equal(sf_routing_name(SF_ROUTINGS_N), "?");
}

/* GPU 0 to one on another rail of another pod, under each. */
static void test_distinct(void **state) {
    (void)state;
    const uint32_t dst = 5184 + 2;
    struct sf_route adaptive, ecmp, pxn, rail;
    struct sf_topo *t = must_load_cluster("gb300-nvl72-220k");
    struct sf_route_ask ask = {.routing = SF_ROUTING_ADAPTIVE, .plane = SF_ALL_PLANES};
    struct sf_err err = {0};
    assert_int_equal(sf_topo_routing(t), SF_ROUTING_ADAPTIVE);
    assert_int_equal(sf_topo_route_with(t, 0, dst, &ask, &adaptive, &err), 0);
    ask.routing = SF_ROUTING_ECMP;
    assert_int_equal(sf_topo_route_with(t, 0, dst, &ask, &ecmp, &err), 0);
    ask.routing = SF_ROUTING_PXN;
    assert_int_equal(sf_topo_route_with(t, 0, dst, &ask, &pxn, &err), 0);
    ask.routing = SF_ROUTING_RAIL_LOCAL;
    assert_int_equal(sf_topo_route_with(t, 0, dst, &ask, &rail, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "gpu 0 is on rail 0 and gpu 5186 on rail 2: choose pxn"));
    assert_int_equal(rail.bytes_per_s, 0);
    assert_int_equal(adaptive.links_n, 6);
    assert_int_equal(adaptive.bytes_per_s, nic);
    assert_int_equal(ecmp.links_n, 6);
    assert_int_equal(ecmp.bytes_per_s, nic * 49 / 100); /* a busy fabric */
    assert_int_equal(ecmp.alone_bytes_per_s, nic);
    assert_int_equal(ecmp.latency_ps, adaptive.latency_ps);
    assert_true(memcmp(adaptive.links, ecmp.links, sizeof ecmp.links) != 0);
    assert_int_equal(pxn.links_n, 8);
    assert_int_equal(pxn.via[0], 2);
    assert_int_equal(pxn.latency_ps, adaptive.latency_ps + 3330000);
    sf_topo_free(t);
}

/* The detour saves the climb where the same rail is one leaf away. */
static void test_pxn_and_rail_local_stay_on_the_leaf(void **state) {
    (void)state;
    struct sf_topo *t = large(SF_ROUTING_PXN, 0);
    struct sf_route r;
    sf_topo_route(t, 0, 73, &r);
    assert_int_equal(r.kind, SF_ROUTE_LEAF);
    assert_int_equal(r.links_n, 4);
    assert_int_equal(sf_topo_set_routing(t, SF_ROUTING_RAIL_LOCAL, 0, NULL), 0);
    sf_topo_route(t, 0, 73, &r);
    assert_int_equal(r.bytes_per_s, 0);
    sf_topo_route(t, 0, 76, &r);
    assert_int_equal(r.kind, SF_ROUTE_LEAF);
    assert_int_equal(r.bytes_per_s, nic);
    sf_topo_route(t, 0, 1, &r);
    assert_int_equal(r.kind, SF_ROUTE_DOMAIN);
    sf_topo_free(t);
}

/* The hash spreads: by queue pair, by seed, over all ports; and it stays put. */
static void test_ecmp_hashes(void **state) {
    (void)state;
    struct sf_topo *t = large(SF_ROUTING_ECMP, 7);
    uint32_t load[72] = {0}, moved = 0;
    for (uint32_t i = 0; i < 7200; i++) {
        struct sf_route r, again, other;
        struct sf_route_ask ask = {.routing = -1, .queue_pair = i % 4, .plane = SF_ALL_PLANES};
        uint32_t dst = 5184 + i * 7;
        assert_int_equal(sf_topo_route_with(t, 0, dst, &ask, &r, NULL), 0);
        assert_int_equal(sf_topo_route_with(t, 0, dst, &ask, &again, NULL), 0);
        assert_memory_equal(&r, &again, sizeof r);
        load[SF_LINK_INDEX(r.links[1]) % 72]++;
        ask.seed = 1;
        assert_int_equal(sf_topo_route_with(t, 0, dst, &ask, &other, NULL), 0);
        moved += r.links[1] != other.links[1];
    }
    assert_in_range(moved, 7200 * 95 / 100, 7200);
    for (uint32_t i = 0; i < 72; i++) {
        assert_in_range(load[i], 50, 160); /* 100 each if it were even */
    }
    sf_topo_free(t);
}

/* A dead cable is hashed around; the others stay where they were. */
static void test_ecmp_avoids_what_is_dead(void **state) {
    (void)state;
    struct sf_topo *t = large(SF_ROUTING_ECMP, 0);
    struct sf_err err = {0};
    const struct memory_file file = {"dead.yaml", "dead: { links: [\"leaf-up 0:0..70\"] }\n"};
    struct memory_io m = {&file, 1};
    const struct sf_io io = {&m, memory_read_all, NULL};
    assert_int_equal(sf_topo_load_overlay(&io, "dead.yaml", t, &err), 0);
    for (uint32_t dst = 72 + 1; dst < 20000; dst += 97) {
        struct sf_route r;
        sf_topo_route(t, 0, dst, &r);
        assert_true(r.bytes_per_s > 0);
        for (uint32_t i = 0; i < r.links_n; i++) {
            assert_true(sf_topo_link_rate(t, r.links[i]) > 0);
        }
    }
    sf_topo_free(t);
}

static void test_refused_where_it_means_nothing(void **state) {
    (void)state;
    struct sf_err err = {0};
    struct sf_topo *t = must_load_cluster("gb300-nvl72-1rack");
    assert_int_equal(sf_topo_set_routing(t, SF_ROUTING_ECMP, 0, &err), SF_E_USAGE);
    assert_non_null(strstr(err.msg, "one domain"));
    assert_null(sf_topo_switch(t));
    assert_true(sf_topo_nonblocking(t));
    sf_topo_free(t);
    struct shape s = {3, 2, 4, 8, 8, 1, 1, "quantum2-qm9700"};
    t = must_load_shape(&s);
    assert_int_equal(sf_topo_set_routing(t, SF_ROUTING_PXN, 0, &err), SF_E_USAGE);
    assert_int_equal(sf_topo_set_routing(t, SF_ROUTING_ECMP, 0, &err), SF_E_USAGE);
    assert_int_equal(sf_topo_set_routing(t, SF_ROUTING_RAIL_LOCAL, 0, &err), 0);
    sf_topo_free(t);
    s = (struct shape){9, 2, 4, 1, 16, 2, 1, "quantum2-qm9700"};
    t = must_load_shape(&s);
    assert_int_equal(sf_topo_set_routing(t, SF_ROUTING_RAIL_LOCAL, 0, &err), SF_E_USAGE);
    assert_non_null(strstr(err.msg, "one rail"));
    assert_int_equal(sf_topo_set_routing(t, SF_ROUTING_ADAPTIVE, 5, &err), SF_E_USAGE);
    assert_int_equal(sf_topo_set_routing(t, SF_ROUTING_ECMP, 5, &err), 0);
    assert_int_equal(sf_topo_routing(t), SF_ROUTING_ECMP);
    sf_topo_free(t);
}

static void test_hash_covers_routing(void **state) {
    (void)state;
    struct sf_topo *t = large(SF_ROUTING_ADAPTIVE, 0);
    struct sf_hash seen[5];
    seen[0] = sf_topo_hash(t);
    for (int r = 1; r < SF_ROUTINGS_N; r++) {
        assert_int_equal(sf_topo_set_routing(t, (enum sf_routing)r, 0, NULL), 0);
        seen[r] = sf_topo_hash(t);
    }
    assert_int_equal(sf_topo_set_routing(t, SF_ROUTING_ECMP, 1, NULL), 0);
    seen[4] = sf_topo_hash(t);
    for (int a = 0; a < 5; a++) {
        for (int b = 0; b < a; b++) {
            assert_false(sf_hash_equal(seen[a], seen[b]));
        }
    }
    sf_topo_free(t);
}

static void test_dense_numbers(void **state) {
    (void)state;
    struct sf_topo *t = large(SF_ROUTING_ADAPTIVE, 0);
    const uint64_t gpus = 220032, leaves = 3056, pods = 43;
    assert_true(sf_topo_nonblocking(t));
    assert_int_equal(sf_topo_links_total(t), 4 * gpus + 2 * leaves + 2 * pods);
    uint64_t leaf = sf_topo_link_dense(t, SF_LINK(SF_LINK_LEAF_UP, 17 * 72 + 3));
    assert_int_equal(leaf, 4 * gpus + 17);
    assert_int_equal(sf_topo_dense_cables(t, leaf), 72);
    assert_int_equal(sf_topo_dense_rate(t, leaf), 72 * nic);
    assert_int_equal(sf_topo_dense_link(t, leaf), SF_LINK(SF_LINK_LEAF_UP, 17 * 72));
    uint64_t pod = sf_topo_link_dense(t, SF_LINK(SF_LINK_SPINE_DOWN, (2 * 72 + 5) * 72 + 9));
    assert_int_equal(pod, 4 * gpus + 2 * leaves + pods + 2);
    assert_int_equal(sf_topo_dense_rate(t, pod), 72 * 72 * nic);
    assert_int_equal(sf_topo_link_dense(t, SF_LINK(SF_LINK_C2C_UP, 0)), SF_NO_DENSE);
    assert_int_equal(sf_topo_link_dense(t, SF_LINK(SF_LINK_NIC_UP, gpus)), SF_NO_DENSE);
    assert_int_equal(sf_topo_link_dense(t, SF_LINK(99, 0)), SF_NO_DENSE);
    assert_int_equal(sf_topo_dense_rate(t, 5), UINT64_C(680000000000));
    assert_int_equal(sf_topo_set_routing(t, SF_ROUTING_ECMP, 0, NULL), 0);
    assert_false(sf_topo_nonblocking(t));
    assert_int_equal(sf_topo_links_total(t), 4 * gpus + 2 * leaves * 72 + 2 * pods * 72 * 72);
    assert_int_equal(sf_topo_dense_rate(t, sf_topo_link_dense(t, SF_LINK(SF_LINK_LEAF_UP, 17 * 72 + 3))), nic);
    must_check(t);
    sf_topo_free(t);
}

/* Every link of every route has a number, and a rate no lower than what the route has for itself. */
static void test_routes_use_dense_links(void **state) {
    (void)state;
    static const char *const names[] = {"gb300-nvl72-220k-4plane", "gb200-gb300-mixed", "gb300-nvl72-220k-today"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct sf_topo *t = must_load_cluster(names[i]);
        uint32_t gpus = sf_topo_gpus(t);
        for (int routing = 0; routing < SF_ROUTINGS_N; routing++) {
            assert_int_equal(sf_topo_set_routing(t, (enum sf_routing)routing, 0, NULL), 0);
            for (uint64_t k = 0; k < 5000; k++) {
                struct sf_route r;
                sf_topo_route(t, (uint32_t)(k * 7919 % gpus), (uint32_t)(k * 104729 % gpus), &r);
                for (uint32_t l = 0; l < r.links_n; l++) {
                    uint64_t dense = sf_topo_link_dense(t, r.links[l]);
                    assert_true(dense < sf_topo_links_total(t));
                    assert_true(sf_topo_dense_rate(t, dense) >= r.alone_bytes_per_s);
                    assert_true(r.alone_bytes_per_s >= r.bytes_per_s);
                }
            }
        }
        sf_topo_free(t);
    }
}

static void test_switch_classes(void **state) {
    (void)state;
    static const struct {
        const char *name;
        uint32_t ports, split;
    } rows[] = {
        {"quantum-x800-q3400", 144, 1}, {"spectrum4-sn5600", 64, 4},  {"spectrum4-sn5610", 64, 4},
        {"spectrum6-sn6810", 128, 4},   {"spectrum6-sn6800", 512, 4},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct shape s = {4, 18, 4, 4, 18, 2, 1, rows[i].name};
        struct sf_topo *t = must_load_shape(&s);
        const struct sf_switch_class *w = sf_topo_switch(t);
        assert_string_equal(w->name, rows[i].name);
        assert_int_equal(w->ports, rows[i].ports);
        assert_int_equal(w->split, rows[i].split);
        assert_int_equal(w->port_bytes_per_s, UINT64_C(100000000000));
        assert_true(w->ecmp_share > 0.3 && w->ecmp_share < 1);
        assert_true(w->incast_share > 0.9 && w->incast_share <= 1);
        sf_topo_free(t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_distinct),
        cmocka_unit_test(test_pxn_and_rail_local_stay_on_the_leaf),
        cmocka_unit_test(test_ecmp_hashes),
        cmocka_unit_test(test_ecmp_avoids_what_is_dead),
        cmocka_unit_test(test_refused_where_it_means_nothing),
        cmocka_unit_test(test_hash_covers_routing),
        cmocka_unit_test(test_dense_numbers),
        cmocka_unit_test(test_routes_use_dense_links),
        cmocka_unit_test(test_switch_classes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
