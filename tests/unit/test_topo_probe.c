/* The probe of this machine and the files printed from it. */
#include "test_topo_fixture.h"

static struct sf_topo *load_printed(const struct sf_probe *p, uint32_t ranks) {
    struct sf_buf cluster = {0}, device = {0};
    struct sf_topo *t = NULL;
    struct sf_err err = {0};
    assert_int_equal(sf_probe_print_cluster(p, ranks, &cluster), 0);
    assert_int_equal(sf_probe_print_device(p, &device), 0);
    sf_buf_write(&cluster, "", 1);
    sf_buf_write(&device, "", 1);
    const struct memory_file files[] = {{"dir/host.yaml", cluster.data}, {"dir/" SF_PROBE_DEVICE_FILE, device.data}};
    if (load_files(files, 2, &t, &err) != 0) {
        fail_msg("%s:%u:%u: %s", err.file, err.line, err.column, err.msg);
    }
    sf_buf_free(&cluster);
    sf_buf_free(&device);
    return t;
}

static void test_this_machine(void **state) {
    (void)state;
    struct sf_probe p;
    struct sf_err err = {0};
    assert_int_equal(sf_probe_node(&p, &err), 0);
    assert_true(p.cores >= 1 && p.threads >= p.cores && p.packages >= 1 && p.numa_nodes >= 1);
    assert_true(p.memory_bytes > (64u << 20));
    struct sf_topo *t = load_printed(&p, 8);
    assert_int_equal(sf_topo_gpus(t), 8);
    assert_null(sf_topo_scale_out(t));
    assert_int_equal(sf_topo_device(t)->memory_bytes, p.memory_bytes / p.cores / 4);
    assert_int_equal(sf_topo_device(t)->grade, SF_GRADE_EXTRAPOLATED);
    assert_string_equal(sf_topo_scale_up(t)->name, "shm");
    must_check(t);
    sf_topo_free(t);
}

static void test_odd_machines(void **state) {
    (void)state;
    struct sf_probe p = {.cpu_model = "weird \"CPU\" \\ }\n: {", .memory_bytes = 1};
    struct sf_topo *t = load_printed(&p, 1);
    assert_int_equal(sf_topo_device(t)->memory_bytes, 1);
    sf_topo_free(t);
    p.packages = UINT32_MAX;
    p.cores = 1;
    p.memory_bytes = UINT64_C(1) << 50;
    t = load_printed(&p, 1u << 20);
    must_check(t);
    sf_topo_free(t);
}

static void test_refusals(void **state) {
    (void)state;
    struct sf_probe p = {.cores = 1, .memory_bytes = 1u << 30};
    struct sf_buf b = {0};
    assert_int_equal(sf_probe_print_cluster(&p, 0, &b), SF_E_USAGE);
    assert_int_equal(sf_probe_print_cluster(&p, UINT32_MAX, &b), SF_E_USAGE);
    assert_int_equal(b.bytes, 0);
    sf_alloc_fail_after(1);
    assert_int_equal(sf_probe_print_device(&p, &b), SF_E_INTERNAL);
    sf_alloc_fail_after(0);
    sf_buf_free(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_this_machine),
        cmocka_unit_test(test_odd_machines),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
