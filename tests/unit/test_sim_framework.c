/* What a framework file changes, each key by itself, on the H100 of the catalog; times that no such device can reach.
 */
#include <math.h>

#include "test_sim_fixture.h"

struct files {
    char cluster[512], kernels[512];
};

static int read_files(void *self, const char *path, size_t max_bytes, char **data, size_t *bytes, struct sf_err *err) {
    const struct files *f = self;
    const char *text = strcmp(path, "cluster.yaml") == 0   ? f->cluster
                       : strcmp(path, "kernels.yaml") == 0 ? f->kernels
                                                           : NULL;
    if (text == NULL) {
        return sf_io_posix.read_all(sf_io_posix.self, path, max_bytes, data, bytes, err);
    }
    *bytes = strlen(text);
    *data = sf_malloc(*bytes + 1);
    if (!*data) {
        return sf_fail_memory(err, "a file");
    }
    memcpy(*data, text, *bytes + 1);
    return SF_OK;
}

struct world {
    struct files files;
    struct sf_io io;
    struct sf_topo *topo;
};

/* `gpus` H100 in one domain. */
static void open_world(struct world *w, uint32_t gpus) {
    struct sf_err err = {0};
    w->io = (struct sf_io){&w->files, read_files, NULL};
    snprintf(w->files.cluster, sizeof w->files.cluster,
             "name: h\ndevice: h100\ndomains: 1\ndomain: { kind: hgx, trays: 1, gpus_per_tray: %u, cpus_per_tray: 0, "
             "nvswitches: 4, link: nvlink4, links_per_gpu: 18 }\n",
             gpus);
    must(sf_topo_load(&w->io, "cluster.yaml", SF_CATALOG_DIR, &w->topo, &err), &err);
}

static struct sf_call call_of(int kind, int64_t a, int64_t b, int64_t c, int64_t d) {
    return (struct sf_call){.kind = (uint8_t)kind, .dtype = SF_BF16, .comm = SF_NONE, .dims = {a, b, c, d}};
}

static double price(const struct world *w, const struct sf_framework *f, const struct sf_call *call,
                    struct sf_hash *hash) {
    struct sf_cost *cost;
    struct sf_err err = {0};
    must(sf_cost_create(w->topo, &w->io, NULL, &cost, &err), &err);
    if (f) {
        sf_cost_set_framework(cost, f);
    }
    double t = sf_ps_to_s(sf_cost_call(cost, call, NULL));
    *hash = sf_cost_hash(cost);
    sf_cost_free(cost);
    return t;
}

static void expect_share(double found, double expected) {
    if (fabs(found - expected) > 1e-6 * expected) {
        fail_msg("expected %.9g, found %.9g", expected, found);
    }
}

/* The expected largest of 8 normal numbers is 1.4236 standard deviations; Blom's approximation says 1.4342. */
static void test_the_slowest_device(void **state) {
    const struct sf_framework even = {.name = "f", .gemm_share = 1},
                              uneven = {.name = "f", .gemm_share = 1, .spread = 0.1};
    const struct sf_call gemm = call_of(SF_CALL_GEMM, 4096, 4096, 4096, 1);
    struct sf_hash a, b;
    struct world one = {.topo = NULL}, eight = {.topo = NULL};
    (void)state;
    open_world(&one, 1);
    open_world(&eight, 8);
    expect_share(price(&one, &uneven, &gemm, &a), price(&one, &even, &gemm, &b));
    double slower = price(&eight, &uneven, &gemm, &a) / price(&eight, &even, &gemm, &b);
    assert_true(slower > 1.142 && slower < 1.144);
    assert_false(sf_hash_equal(a, b));
    sf_topo_free(one.topo);
    sf_topo_free(eight.topo);
}

/* A vocabulary that ranks share has kernels of its own, and a gathering of weights takes as long as it is said to. */
static void test_keys_by_themselves(void **state) {
    struct sf_framework f = {.name = "f", .gemm_share = 1, .pointwise = 1, .loss = 10};
    const struct sf_call whole = call_of(SF_CALL_XENT, 8192, 32000, 0, 0),
                         part = call_of(SF_CALL_XENT_STATS, 8192, 32000, 0, 0);
    struct sf_hash first, second, third;
    struct sf_err err = {0};
    struct sf_cost *cost;
    struct world w = {.topo = NULL};
    (void)state;
    open_world(&w, 8);
    double whole_s = price(&w, &f, &whole, &first), part_s = price(&w, &f, &part, &first);
    f.loss_parallel = 2;
    expect_share(price(&w, &f, &whole, &second), whole_s);
    assert_true(price(&w, &f, &part, &second) < 0.3 * part_s);
    f.gather_slow = 4;
    f.gather_hidden = 0.5;
    must(sf_cost_create(w.topo, &w.io, NULL, &cost, &err), &err);
    assert_true(sf_cost_gather_share(cost) == 1.0);
    sf_cost_set_framework(cost, &f);
    assert_true(sf_cost_gather_share(cost) == 2.0);
    third = sf_cost_hash(cost);
    sf_cost_free(cost);
    assert_false(sf_hash_equal(first, second) || sf_hash_equal(second, third));
    sf_topo_free(w.topo);
}

/* 2 * 4096^3 in 100 us are 1,374 TFLOP/s, in 200 us 687; the peak is 989. */
static void test_impossible_times(void **state) {
    static const char row[] =
        "kernels:\n  - { kind: gemm, dtype: bf16, flags: [tb], dims: [64, 64, 64, 1], time: 10us }\n"
        "  - { kind: gemm, dtype: bf16, flags: [tb], dims: [4096, 4096, 4096, 1], time: %s }\n";
    struct world w = {.topo = NULL};
    struct sf_cost *cost = NULL;
    struct sf_err err = {0};
    (void)state;
    open_world(&w, 8);
    snprintf(w.files.kernels, sizeof w.files.kernels, row, "100us");
    assert_int_equal(sf_cost_create(w.topo, &w.io, "kernels.yaml", &cost, &err), SF_E_INPUT);
    assert_int_equal(err.line, 3);
    if (strstr(err.msg, "1374 TFLOP/s") == NULL || strstr(err.msg, "h100") == NULL) {
        fail_msg("the row and the peak are not named: %s", err.msg);
    }
    snprintf(w.files.kernels, sizeof w.files.kernels, row, "200us");
    must(sf_cost_create(w.topo, &w.io, "kernels.yaml", &cost, &err), &err);
    sf_cost_free(cost);
    sf_topo_free(w.topo);
}

/* Moments in bf16 make an update shorter: a row of one is not taken for the other. */
static void test_lean_updates_have_rows_of_their_own(void **state) {
    static const char rows[] = "kernels:\n  - { kind: adamw, dtype: f32, dims: [1000], time: 7us }\n"
                               "  - { kind: adamw, dtype: f32, flags: [lean], dims: [1000], time: 5us }\n";
    struct sf_call update = {.kind = SF_CALL_ADAMW, .dtype = SF_F32, .comm = SF_NONE, .dims = {1000}};
    struct toy t = {0};
    (void)state;
    toy_open(&t, 1, 2, 1, rows);
    assert_int_equal(sf_cost_call(t.cost, &update, NULL), 7 * US);
    update.flags = SF_CALL_LEAN_FLAG;
    assert_int_equal(sf_cost_call(t.cost, &update, NULL), 5 * US);
    toy_close(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_slowest_device),
        cmocka_unit_test(test_keys_by_themselves),
        cmocka_unit_test(test_impossible_times),
        cmocka_unit_test(test_lean_updates_have_rows_of_their_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
