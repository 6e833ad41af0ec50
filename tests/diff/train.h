/* For tests that train plans of a tiny model on CPU threads and compare losses. Include after cmocka; STEPS and BATCH
 * are the including test's. */
#ifndef SF_TEST_TRAIN_H
#define SF_TEST_TRAIN_H

#include "planner/compile.h"
#include "tests/unit/test_planner_fixture.h"
#include "tests/unit/test_runtime_fixture.h"

static struct sf_topo *cluster;
static struct sf_scenario job;

static inline int load_job(void) {
    cluster = load_cluster("cpu-8");
    job = shaped_scenario(cluster, &tiny_shape);
    job.job.global_batch_sequences = BATCH;
    job.job.steps = STEPS;
    return cluster == NULL;
}

static inline int teardown(void **state) {
    (void)state;
    unlink(temp_path("text"));
    sf_topo_free(cluster);
    return 0;
}

static inline void keep_loss(void *self, const struct sf_rt_step *step) {
    ((double *)self)[step->step] = step->loss;
}

/* A run that hangs ends. */
static inline int run_program(struct sf_prog *prog, double loss[STEPS], struct sf_err *err) {
    const struct sf_rt_options options = {.steps = STEPS,
                                          .data_path = make_text(4096),
                                          .on_step = keep_loss,
                                          .self = loss,
                                          .stall_limit = 20 * SF_PS_PER_S};
    return sf_rt_run_threads(prog, &options, err);
}

/* SF_E_INPUT: the plan is refused. */
static inline int train_plan(const struct sf_plan *p, double loss[STEPS], struct sf_err *err) {
    struct sf_prog *prog = NULL;
    SF_TRY(sf_compile(&job, p, &prog, err));
    int rc = run_program(prog, loss, err);
    sf_prog_free(prog);
    return rc;
}

#endif
