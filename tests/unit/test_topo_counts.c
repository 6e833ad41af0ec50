/* Counts: the 220,000-GPU cluster, the published SuperPOD tables, partial clusters, and that the check can fail. */
#include "test_topo_fixture.h"

#include "core/rng.h"

static void test_the_large_cluster(void **state) {
    (void)state;
    struct sf_topo *t = must_load_cluster("gb300-nvl72-220k");
    struct sf_topo_counts n;
    sf_topo_count(t, &n);
    assert_int_equal(n.gpus, 220032);
    assert_int_equal(n.gpus_in_use, 220000);
    assert_int_equal(n.spare_gpus, 32);
    assert_int_equal(n.domains, 3056);
    assert_int_equal(n.trays, 55008);
    assert_int_equal(n.cpus, 110016);
    assert_int_equal(n.nvswitches, 55008);
    assert_int_equal(n.nics, 220032);
    assert_int_equal(n.leaves, 3056);
    assert_int_equal(n.spines, 43 * 72);
    assert_int_equal(n.cores, 72 * 24);
    assert_int_equal(n.links_nvlink, 3960576);
    assert_int_equal(n.links_c2c, 220032);
    assert_int_equal(n.links_nic, 220032);
    assert_int_equal(n.links_leaf_spine, 220032);
    assert_int_equal(n.links_spine_core, 43 * 72 * 72);
    assert_int_equal(n.bisection_bytes_per_s, 110016 * UINT64_C(94000000000));
    assert_int_equal(sf_topo_device(t)->memory_bytes, UINT64_C(279000000000));
    assert_int_equal(sf_topo_device(t)->grade, SF_GRADE_DATASHEET);
    must_check(t);
    sf_topo_free(t);
}

/* Switch counts of NVIDIA's DGX B200 (NDR, QM9700) and B300 (XDR, Q3400) SuperPOD reference architectures. */
static void test_published_superpods(void **state) {
    (void)state;
    static const struct {
        uint32_t nodes, leaf_down, tiers;
        const char *fabric_switch;
        uint32_t leaves, spines, cores;
    } rows[] = {
        {64, 32, 2, "quantum2-qm9700", 16, 8, 0},        {128, 32, 2, "quantum2-qm9700", 32, 16, 0},
        {256, 32, 2, "quantum2-qm9700", 64, 32, 0},      {512, 32, 3, "quantum2-qm9700", 128, 128, 64},
        {1024, 32, 3, "quantum2-qm9700", 256, 256, 128}, {2048, 32, 3, "quantum2-qm9700", 512, 512, 256},
        {72, 72, 2, "quantum-x800-q3400", 8, 4, 0},      {144, 72, 2, "quantum-x800-q3400", 16, 8, 0},
        {288, 72, 2, "quantum-x800-q3400", 32, 18, 0},   {576, 72, 2, "quantum-x800-q3400", 64, 36, 0},
        {1296, 72, 2, "quantum-x800-q3400", 144, 72, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct shape s = {rows[i].nodes, 1, 8, 8, rows[i].leaf_down, rows[i].tiers, 1, rows[i].fabric_switch};
        struct sf_topo *t = must_load_shape(&s);
        struct sf_topo_counts n;
        sf_topo_count(t, &n);
        assert_int_equal(n.leaves, rows[i].leaves);
        assert_int_equal(n.spines, rows[i].spines);
        assert_int_equal(n.cores, rows[i].cores);
        assert_int_equal(n.links_leaf_spine, rows[i].nodes * 8);
        must_check(t);
        sf_topo_free(t);
    }
}

static void test_oversubscription_and_partial_groups(void **state) {
    (void)state;
    struct shape s = {7, 18, 4, 4, 72, 2, 2, "quantum-x800-q3400"};
    struct sf_topo *t = must_load_shape(&s);
    struct sf_topo_counts n;
    sf_topo_count(t, &n);
    assert_int_equal(n.leaves, 8);
    assert_int_equal(n.links_leaf_spine, 8 * 36);
    /* One full group of 4 * 36 uplinks against one of three racks, whose leaves have 54 NICs for 36 uplinks. */
    assert_int_equal(n.bisection_bytes_per_s, 4 * 36 * UINT64_C(47000000000));
    must_check(t);
    sf_topo_free(t);
}

static void test_last_group_short_of_nics(void **state) {
    (void)state;
    struct shape s = {5, 18, 4, 4, 72, 2, 1, "quantum-x800-q3400"};
    struct sf_topo *t = must_load_shape(&s);
    struct sf_topo_counts n;
    sf_topo_count(t, &n);
    assert_int_equal(n.bisection_bytes_per_s, 72 * UINT64_C(47000000000)); /* the one rack of the second group */
    must_check(t);
    sf_topo_free(t);
}

/* Any shape that loads must prove itself. */
static void test_random_shapes(void **state) {
    (void)state;
    struct sf_rng r = sf_rng_seed(20);
    static const char *const switches[] = {"quantum-x800-q3400", "quantum2-qm9700"};
    static const double ratios[] = {1, 1.5, 2, 3, 4};
    int loaded = 0;
    for (int i = 0; i < 1500; i++) {
        struct shape s = {.domains = 2 + (uint32_t)(sf_rng_u64(&r) % 60), .trays = 1 + (uint32_t)(sf_rng_u64(&r) % 5)};
        s.gpus_per_tray = 1u << sf_rng_u64(&r) % 3;
        s.rails = 1u << sf_rng_u64(&r) % 4;
        s.leaf_down = 6 * (1 + (uint32_t)(sf_rng_u64(&r) % 8));
        s.tiers = 1 + (uint32_t)(sf_rng_u64(&r) % 3);
        s.oversubscription = ratios[sf_rng_u64(&r) % 5];
        s.fabric_switch = switches[sf_rng_u64(&r) % 2];
        char text[1024];
        struct sf_err err = {0};
        struct sf_topo *t = NULL;
        shape_text(&s, text, sizeof text);
        if (load_text(text, &t, &err) != 0) {
            assert_int_equal(err.code, SF_E_INPUT);
            assert_true(err.line > 0);
            continue;
        }
        if (sf_topo_check(t, &err) != 0) {
            fail_msg("%s\n%s", err.msg, text);
        }
        loaded++;
        sf_topo_free(t);
    }
    assert_true(loaded > 300);
}

/* Break one number of the derived geometry: the check must notice. */
static void test_check_can_fail(void **state) {
    (void)state;
    const size_t fields[] = {
        offsetof(struct sfi_fabric, rails),         offsetof(struct sfi_fabric, rail_nics),
        offsetof(struct sfi_fabric, leaf_down),     offsetof(struct sfi_fabric, leaf_up),
        offsetof(struct sfi_fabric, group_domains), offsetof(struct sfi_fabric, groups_per_pod),
        offsetof(struct sfi_fabric, pods),          offsetof(struct sfi_fabric, leaves),
        offsetof(struct sfi_fabric, pod_spines),    offsetof(struct sfi_fabric, spine_up),
        offsetof(struct sfi_fabric, slice_cores),   offsetof(struct sfi_fabric, core_cables),
        offsetof(struct sfi_fabric, spine_cables),  offsetof(struct sfi_fabric, spine_down),
    };
    struct shape s = {288, 18, 4, 4, 72, 3, 1, "quantum-x800-q3400"}; /* four whole pods: no slack anywhere */
    struct sf_topo *t = must_load_shape(&s);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        struct sf_topo broken = *t;
        uint32_t *field = (uint32_t *)(void *)((char *)&broken.fabric + fields[i]);
        struct sf_err err = {0};
        *field -= 1;
        if (sf_topo_check(&broken, &err) != SF_E_INPUT) {
            fail_msg("a broken field at offset %zu went unnoticed", fields[i]);
        }
        assert_non_null(strstr(err.msg, "topology check"));
    }
    struct sf_topo broken = *t;
    broken.fabric.radix = 143;
    struct sf_err err = {0};
    assert_int_equal(sf_topo_check(&broken, &err), SF_E_INPUT);
    sf_topo_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_large_cluster),
        cmocka_unit_test(test_published_superpods),
        cmocka_unit_test(test_oversubscription_and_partial_groups),
        cmocka_unit_test(test_last_group_short_of_nics),
        cmocka_unit_test(test_random_shapes),
        cmocka_unit_test(test_check_can_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
