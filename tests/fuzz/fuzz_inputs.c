/* Files that people write: a cluster, a model, a scenario, a plan, a kernel table. Compiled once for each: FUZZ_INPUT
 * is the one that is fuzzed. What is accepted must also be usable. */
#include <string.h>

#include "planner/compile.h"
#include "sim/cost.h"
#include "tests/fuzz/fuzz.h"

enum { CLUSTER, MODEL, SCENARIO, PLAN, KERNELS, INPUTS };

static const char *const names[INPUTS] = {"cluster.yaml", "config.json", "scenario.yaml", "plan.yaml", "kernels.yaml"};
static const char *const good[INPUTS] = {fuzz_cluster_yaml, fuzz_config_json, fuzz_scenario_yaml, fuzz_plan_yaml,
                                         fuzz_kernels_yaml};

bool fuzz_seed(size_t i, struct sf_buf *out) {
    sf_buf_write(out, good[FUZZ_INPUT], i == 0 ? strlen(good[FUZZ_INPUT]) : 0);
    return i == 0;
}

static void try_cluster(const struct sf_io *io) {
    struct sf_topo *topo = NULL;
    struct sf_err err = {0};
    int rc = sf_topo_load(io, "cluster.yaml", SF_CATALOG_DIR, &topo, &err);
    fuzz_check_result(rc, &err, topo != NULL);
    if (topo != NULL && sf_topo_gpus(topo) <= 4096) {
        rc = sf_topo_check(topo, &err);
        fuzz_check_result(rc, &err, rc == 0);
    }
    sf_topo_free(topo);
}

static void try_model(const struct sf_io *io) {
    struct sf_model model;
    struct sf_err err = {0};
    int rc = sf_model_load(io, "config.json", &model, &err);
    fuzz_check_result(rc, &err, rc == 0);
    if (rc == 0 && (sf_model_params(&model) == 0 || !(sf_model_flops(&model, 1, 16) > 0))) {
        fuzz_fail("a model without work: %llu parameters", (unsigned long long)sf_model_params(&model));
    }
}

/* Compiling large jobs takes long, and that is another test's work. */
static bool is_small(const struct sf_scenario *s, const struct sf_plan *plan) {
    return s->job.gpus <= 64 && s->model.layers <= 64 && plan->microbatches <= 64 && plan->pp * plan->vpp <= 64;
}

static void try_compile(const struct sf_io *io, const struct sf_scenario *scenario) {
    struct sf_plan plan;
    struct sf_hash hash;
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    int rc = sf_plan_load(io, "plan.yaml", &plan, &hash, &err);
    fuzz_check_result(rc, &err, rc == 0);
    if (rc == 0 && is_small(scenario, &plan)) {
        rc = sf_compile(scenario, &plan, &prog, &err);
        fuzz_check_result(rc, &err, prog != NULL);
        sf_prog_free(prog);
    }
    sf_plan_clear(&plan);
}

static void try_scenario(const struct sf_io *io) {
    struct sf_scenario scenario;
    struct sf_err err = {0};
    int rc = sf_scenario_load(io, "scenario.yaml", SF_CATALOG_DIR, NULL, &scenario, &err);
    fuzz_check_result(rc, &err, rc == 0);
    if (rc == 0) {
        try_compile(io, &scenario);
        sf_scenario_clear(&scenario);
    }
}

static void try_kernels(const struct sf_io *io) {
    struct sf_topo *topo = NULL;
    struct sf_cost *cost = NULL;
    struct sf_err err = {0};
    int rc = sf_topo_load(io, "cluster.yaml", SF_CATALOG_DIR, &topo, &err);
    fuzz_check_result(rc, &err, topo != NULL);
    rc = sf_cost_create(topo, io, "kernels.yaml", &cost, &err);
    fuzz_check_result(rc, &err, cost != NULL);
    sf_cost_free(cost);
    sf_topo_free(topo);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct fuzz_file list[INPUTS];
    for (int i = 0; i < INPUTS; i++) {
        list[i] = (struct fuzz_file){names[i], good[i], strlen(good[i])};
    }
    list[FUZZ_INPUT] = (struct fuzz_file){names[FUZZ_INPUT], data, bytes};
    struct fuzz_files files = {list, INPUTS};
    const struct sf_io io = fuzz_io(&files);
    switch (FUZZ_INPUT) {
    case CLUSTER:
        try_cluster(&io);
        break;
    case MODEL:
        try_model(&io);
        break;
    case KERNELS:
        try_kernels(&io);
        break;
    default:
        try_scenario(&io);
    }
    return 0;
}
