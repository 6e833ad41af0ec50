/* Stages of one pipeline with tensor parallelism of their own train what stages that are all alike train. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

enum { STEPS = 4, BATCH = 16 };

#include "tests/diff/train.h"

static int setup(void **state) {
    (void)state;
    if (load_job() != 0) {
        return 1;
    }
    sf_topo_free(cluster);
    cluster = load_cluster("gb300-nvl72-1rack"); /* for more than eight ranks */
    job = shaped_scenario(cluster, &tiny_shape);
    job.job.global_batch_sequences = BATCH;
    job.job.steps = STEPS;
    job.model.heads = job.model.kv_heads = 4;
    job.model.head_dim = job.model.hidden / 4;
    return cluster == NULL;
}

static struct sf_plan plan_of(uint32_t tp, uint32_t pp, uint32_t dp, uint32_t micro_batch, int schedule) {
    struct sf_plan p = {.tp = tp, .ep = 1, .pp = pp, .dp = dp, .vpp = 1, .micro_batch = micro_batch};
    p.schedule = schedule;
    p.vpp = schedule == SF_SCHEDULE_INTERLEAVED || schedule == SF_SCHEDULE_ZB_V ? 2 : 1;
    p.microbatches = BATCH / (dp * micro_batch);
    p.ranks_per_domain = tp * pp * dp;
    job.job.gpus = tp * pp * dp;
    uint32_t n = p.pp * p.vpp;
    for (uint32_t i = 0; i < n; i++) {
        p.layers[i] = (i + 1) * job.model.layers / n - i * job.model.layers / n;
    }
    return p;
}

struct result {
    double loss[STEPS], norm[STEPS];
    float *all; /* final gradients and weights, then losses */
    size_t all_n;
};

static void keep(void *self, const struct sf_rt_step *step) {
    struct result *r = self;
    r->loss[step->step] = step->loss;
    r->norm[step->step] = step->norm;
}

static void train(const struct sf_plan *p, struct result *out) {
    struct sf_err err = {0};
    struct sf_prog *prog = NULL;
    char dump[128], *data = NULL;
    size_t bytes = 0;
    uint64_t header;
    snprintf(dump, sizeof dump, "%s", temp_path("dump"));
    const struct sf_rt_options options = {.steps = STEPS,
                                          .data_path = make_text(4096),
                                          .dump_path = dump,
                                          .on_step = keep,
                                          .self = out,
                                          .stall_limit = 20 * SF_PS_PER_S};
    if (sf_compile(&job, p, &prog, &err) != 0 || sf_rt_run_threads(prog, &options, &err) != 0) {
        fail_msg("%s tp %u pp %u: %s", sf_schedule_name(p->schedule), p->tp, p->pp, err.msg);
    }
    sf_prog_free(prog);
    assert_int_equal(sf_io_posix.read_all(NULL, dump, (size_t)1 << 26, &data, &bytes, NULL), 0);
    unlink(dump);
    memcpy(&header, data, sizeof header);
    out->all_n = (bytes - 8 - header) / sizeof(float);
    out->all = malloc(out->all_n * sizeof(float));
    memcpy(out->all, data + 8 + header, out->all_n * sizeof(float));
    sf_free(data);
}

static double distance(const struct result *a, const struct result *b) {
    double most = 0;
    assert_int_equal(a->all_n, b->all_n);
    for (size_t i = 0; i < a->all_n; i++) {
        double d = fabs((double)a->all[i] - (double)b->all[i]);
        most = d > most || isnan(d) ? d : most;
    }
    return most;
}

static void expect_close(struct sf_plan *p, const uint32_t *degrees) {
    struct result even = {0}, varied = {0};
    train(p, &even);
    memcpy(p->stage_tp, degrees, p->pp * sizeof *degrees);
    train(p, &varied);
    for (int i = 0; i < STEPS; i++) {
        bool norms = !(job.job.clip_norm > 0) || fabs(varied.norm[i] / even.norm[i] - 1) < 1e-4;
        if (!(fabs(varied.loss[i] - even.loss[i]) < 1e-4) || !norms) {
            fail_msg("%s tp %u pp %u zero %u, step %d: loss %.9g and %.9g, norm %.9g and %.9g",
                     sf_schedule_name(p->schedule), p->tp, p->pp, p->zero, i, varied.loss[i], even.loss[i],
                     varied.norm[i], even.norm[i]);
        }
    }
    if (!(distance(&varied, &even) < 1e-3)) {
        fail_msg("%s tp %u pp %u zero %u: gradients or weights are %g apart", sf_schedule_name(p->schedule), p->tp,
                 p->pp, p->zero, distance(&varied, &even));
    }
    assert_true(fabs(even.loss[STEPS - 1] - even.loss[0]) > 1e-2);
    free(even.all);
    free(varied.all);
}

/* The middle stages as two and four sub-replicas; on a V the middle has no embedding or loss either. */
static void test_losses(void **state) {
    (void)state;
    static const struct {
        uint32_t tp, pp, dp, micro_batch, zero;
        int schedule, recompute;
        uint32_t degrees[4];
    } cases[] = {
        {2, 4, 1, 2, 0, SF_SCHEDULE_1F1B, SF_RECOMPUTE_NONE, {2, 1, 1, 2}},
        {2, 3, 1, 2, 1, SF_SCHEDULE_1F1B, SF_RECOMPUTE_SELECTIVE, {2, 1, 2}},
        {2, 3, 2, 2, 1, SF_SCHEDULE_GPIPE, SF_RECOMPUTE_FULL, {2, 1, 2}},
        {2, 4, 2, 2, 0, SF_SCHEDULE_INTERLEAVED, SF_RECOMPUTE_NONE, {2, 1, 1, 2}},
        {2, 2, 2, 4, 1, SF_SCHEDULE_ZB_V, SF_RECOMPUTE_NONE, {2, 1}},
        {4, 4, 1, 4, 1, SF_SCHEDULE_ZB_H1, SF_RECOMPUTE_NONE, {4, 2, 1, 4}},
        {4, 3, 1, 2, 0, SF_SCHEDULE_1F1B, SF_RECOMPUTE_NONE, {4, 2, 4}},
    };
    for (size_t i = 0; i < 2 * sizeof cases / sizeof *cases; i++) {
        size_t k = i / 2;
        struct sf_plan p = plan_of(cases[k].tp, cases[k].pp, cases[k].dp, cases[k].micro_batch, cases[k].schedule);
        p.zero = cases[k].zero;
        p.recompute = cases[k].recompute;
        job.job.clip_norm = i % 2 == 0 ? 0 : 0.05; /* so small that it always cuts, by a norm that all stages make */
        expect_close(&p, cases[k].degrees);
    }
    job.job.clip_norm = 0;
}

/* Of layers alone: what tp has whole times that which tp cuts, which a stage of half the degree holds twice. */
static void test_memory(void **state) {
    (void)state;
    struct sf_err err = {0};
    struct sf_prog *even = NULL, *varied = NULL;
    struct sf_plan p = plan_of(2, 4, 1, 2, SF_SCHEDULE_1F1B);
    assert_int_equal(sf_compile(&job, &p, &even, &err), 0);
    memcpy(p.stage_tp, (const uint32_t[]){2, 1, 2, 2}, 4 * sizeof(uint32_t));
    assert_int_equal(sf_compile(&job, &p, &varied, &err), 0);
    for (uint32_t c = 0; c < 4; c++) {
        uint64_t sum[2] = {0, 0};
        for (uint32_t b = 0; b < even->classes[c].bufs_n; b++) {
            sum[0] += even->classes[c].bufs[b].kind == SF_BUF_PARAM ? even->classes[c].bufs[b].bytes : 0;
        }
        for (uint32_t b = 0; b < varied->classes[c].bufs_n; b++) {
            sum[1] += varied->classes[c].bufs[b].kind == SF_BUF_PARAM ? varied->classes[c].bufs[b].bytes : 0;
        }
        uint64_t norms = (uint64_t)p.layers[c] * 2 * 4 * job.model.hidden;
        assert_true(c == 1 ? sum[1] == 2 * sum[0] - norms : sum[1] == sum[0]);
        assert_true(c == 1 || varied->classes[c].arena_bytes == even->classes[c].arena_bytes);
    }
    sf_prog_free(even);
    sf_prog_free(varied);
}

static void expect_refusal(const struct sf_plan *p, const char *what) {
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    assert_int_equal(sf_compile(&job, p, &prog, &err), SF_E_INPUT);
    if (strstr(err.msg, what) == NULL) {
        fail_msg("expected \"%s\", found: %s", what, err.msg);
    }
}

static void test_refusals(void **state) {
    (void)state;
    struct sf_plan p = plan_of(4, 3, 1, 2, SF_SCHEDULE_1F1B);
    memcpy(p.stage_tp, (const uint32_t[]){4, 3, 4}, 3 * sizeof(uint32_t));
    expect_refusal(&p, "must divide tp 4, found 3");
    p.stage_tp[1] = 1;
    expect_refusal(&p, "4 parts of every microbatch, whose 2 sequences");
    p.stage_tp[1] = 4;
    p.stage_tp[0] = 2;
    expect_refusal(&p, "stage_tp[0] has the embedding");
    p.stage_tp[0] = 4;
    p.stage_tp[2] = 2;
    expect_refusal(&p, "stage_tp[2] has the loss");
    p.whole_rows = true;
    expect_refusal(&p, "whole_rows false");
    p.whole_rows = false;
    p.zero = 2;
    p.dp = 2;
    p.microbatches /= 2;
    job.job.gpus = 24;
    expect_refusal(&p, "zero 0 or 1");
}

static void test_round_trip(void **state) {
    (void)state;
    struct sf_plan p = plan_of(2, 3, 1, 2, SF_SCHEDULE_1F1B);
    struct sf_buf text = {0};
    memcpy(p.stage_tp, (const uint32_t[]){2, 1, 2}, 3 * sizeof(uint32_t));
    snprintf(p.scenario, sizeof p.scenario, "scenario.yaml");
    assert_int_equal(sf_plan_print(&p, sf_scenario_hash(&job), &text), 0);
    const char *path = temp_path("stage_tp");
    assert_int_equal(sf_io_posix.write_all(NULL, path, text.data, text.bytes, NULL), 0);
    struct sf_plan again;
    struct sf_hash hash;
    assert_int_equal(sf_plan_load(&sf_io_posix, path, &again, &hash, NULL), 0);
    assert_memory_equal(again.stage_tp, p.stage_tp, sizeof p.stage_tp);
    unlink(path);
    sf_plan_clear(&again);
    sf_buf_free(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_losses),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_round_trip),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
