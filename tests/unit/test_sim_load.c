/* What communication takes from the kernels beside it, by kind of GPU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/arena.h"
#include "sim/cost_internal.h"
#include "sim/flow_load.h"

static char cluster[2048];

static int read_cluster(void *self, const char *path, size_t max_bytes, char **data, size_t *bytes,
                        struct sf_err *err) {
    if (strcmp(path, "cluster.yaml") != 0) {
        return sf_io_posix.read_all(self, path, max_bytes, data, bytes, err);
    }
    *bytes = strlen(cluster);
    *data = sf_malloc(*bytes + 1);
    assert_non_null(*data);
    memcpy(*data, cluster, *bytes + 1);
    return SF_OK;
}

/* One group of racks for each number of NVLinks; 0 ends them. */
static void write_cluster(const uint32_t links[2]) {
    size_t n = (size_t)snprintf(cluster, sizeof cluster, "name: racks\nrails: 4\ngroups:\n");
    for (int i = 0; i < 2 && links[i] > 0; i++) {
        n += (size_t)snprintf(
            cluster + n, sizeof cluster - n,
            "  - { device: gb300, domains: 2, nic: connectx8-800g, domain: { kind: rack, trays: 2, "
            "gpus_per_tray: 4, cpus_per_tray: 2, nvswitches: 1, link: nvlink5, links_per_gpu: %u } }\n",
            links[i]);
    }
    n += (size_t)snprintf(
        cluster + n, sizeof cluster - n,
        "fabric: { switch: quantum-x800-q3400, leaf_down: 72, tiers: 2, oversubscription: 1, cables: { "
        "nic_leaf: 5m, leaf_spine: 30m } }\n");
    assert_true(n < sizeof cluster);
}

/* Share of the multiprocessors that a message over NVLink takes, on GPUs of one kind. */
static uint32_t cores_taken(const uint32_t links[2], uint32_t kind) {
    const struct sf_io io = {sf_io_posix.self, read_cluster, NULL};
    const struct sf_prog prog = {.recipes_n = 1};
    struct sf_err err = {0};
    struct sf_topo *topo = NULL;
    struct sf_cost *cost = NULL;
    struct sf_arena *arena = sf_arena_create();
    struct sfi_loader loader;
    write_cluster(links);
    assert_non_null(arena);
    int rc = sf_topo_load(&io, "cluster.yaml", SF_CATALOG_DIR, &topo, &err);
    rc = rc == SF_OK ? sf_cost_create(topo, &io, NULL, &cost, &err) : rc;
    rc = rc == SF_OK ? sfi_loader_init(&loader, &prog, cost, arena, &err) : rc;
    if (rc != SF_OK) {
        fail_msg("%s:%u: %s", err.file, err.line, err.msg);
    }
    sfi_loader_use(&loader, cost, kind);
    uint32_t cores = loader.loads[sfi_load_transfer(&loader, SFI_PORT_UP, 100)].cores;
    sf_arena_free(arena);
    sf_cost_free(cost);
    sf_topo_free(topo);
    return cores;
}

/* NCCL gives a message so many channels per NVLink of its GPU, whatever else the cluster has. */
static void test_channels_are_those_of_the_kind(void **state) {
    (void)state;
    const uint32_t many[2] = {18, 0}, few[2] = {4, 0}, mixed[2] = {18, 4};
    assert_int_equal(cores_taken(mixed, 0), cores_taken(many, 0));
    assert_int_equal(cores_taken(mixed, 1), cores_taken(few, 0));
    assert_true(cores_taken(few, 0) < cores_taken(many, 0));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_channels_are_those_of_the_kind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
