/* For tests of compiled programs: a cluster, plans with even stages, and their programs. Include after cmocka. */
#ifndef SF_TEST_PLANNER_COMPILED_H
#define SF_TEST_PLANNER_COMPILED_H

#include "planner/compile.h"
#include "tests/unit/test_planner_fixture.h"

#ifndef TEST_CLUSTER
#define TEST_CLUSTER "hgx-h100-1node" /* 8 GPUs */
#endif

static struct sf_topo *cluster;

static inline int setup(void **state) {
    (void)state;
    cluster = load_cluster(TEST_CLUSTER);
    return cluster == NULL;
}

static inline int teardown(void **state) {
    (void)state;
    sf_topo_free(cluster);
    return 0;
}

static inline void set_one(uint32_t *value) {
    *value = *value > 0 ? *value : 1;
}

/* Degrees left out are 1; stages get equal layers, and the job as many GPUs and sequences as the plan takes. */
static inline struct sf_plan even_plan(struct sf_scenario *s, struct sf_plan p) {
    uint32_t *degrees[] = {&p.tp, &p.ep, &p.dp, &p.pp, &p.vpp, &p.micro_batch};
    for (size_t i = 0; i < sizeof degrees / sizeof *degrees; i++) {
        set_one(degrees[i]);
    }
    p.ranks_per_domain = p.ranks_per_domain > 0 ? p.ranks_per_domain : 8;
    for (uint32_t i = 0; i < p.pp * p.vpp; i++) {
        p.layers[i] = s->model.layers / (p.pp * p.vpp);
    }
    s->job.gpus = p.tp * (p.cp > 0 ? p.cp : 1) * p.dp * p.pp;
    s->job.global_batch_sequences = (uint64_t)p.dp * p.micro_batch * p.microbatches;
    return p;
}

static inline struct sf_prog *compiled(const struct sf_scenario *s, const struct sf_plan *p) {
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    if (sf_compile(s, p, &prog, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    return prog;
}

/* Bytes and number of a class's ops of a kind. */
static inline uint64_t bytes_moved(const struct sf_class *c, int kind, uint32_t *ops) {
    uint64_t bytes = 0;
    *ops = 0;
    for (uint32_t i = 0; i < c->ops_n; i++) {
        bytes += c->ops[i].kind == kind ? c->ops[i].bytes : 0;
        *ops += c->ops[i].kind == kind;
    }
    return bytes;
}

#endif
