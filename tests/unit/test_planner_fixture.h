/* Small scenarios for tests of plans and programs: a model of a given shape on a cluster of the catalog. */
#ifndef SF_TEST_PLANNER_FIXTURE_H
#define SF_TEST_PLANNER_FIXTURE_H

#include <stdio.h>

#include "planner/job.h"

static inline struct sf_topo *load_cluster(const char *name) { /* "hgx-h100-1node" */
    struct sf_topo *topo = NULL;
    struct sf_err err = {0};
    char path[512];
    snprintf(path, sizeof path, SF_SOURCE_DIR "/scenarios/clusters/%s.yaml", name);
    if (sf_topo_load(&sf_io_posix, path, SF_CATALOG_DIR, &topo, &err) != 0) {
        sf_err_print(&err);
    }
    return topo;
}

struct shape {
    uint32_t layers, hidden, heads, kv_heads, ffn, experts, vocab, seq_len_tokens;
    int precision;
};

/* Small enough to train in a test; four heads let tp be 1, 2 and 4. */
static const struct shape tiny_shape = {8, 32, 4, 2, 48, 0, 256, 16, SF_F32};

static inline struct sf_scenario shaped_scenario(struct sf_topo *topo, const struct shape *a) {
    struct sf_scenario s = {.name = "tiny", .topo = topo};
    s.model = (struct sf_model){.name = "tiny",
                                .layers = a->layers,
                                .hidden = a->hidden,
                                .heads = a->heads,
                                .kv_heads = a->kv_heads,
                                .head_dim = a->hidden / a->heads,
                                .ffn = a->ffn,
                                .experts = a->experts,
                                .topk = a->experts > 0 ? 2 : 0,
                                .vocab = a->vocab,
                                .rope_theta = 1e4,
                                .norm_eps = 1e-5,
                                .init_std = 0.02};
    snprintf(s.model.model_type, sizeof s.model.model_type, "%s", a->experts > 0 ? "mixtral" : "llama");
    s.job = (struct sf_job){.seq_len_tokens = a->seq_len_tokens,
                            .precision = a->precision,
                            .steps = 1,
                            .seed = 1,
                            .lr = 1e-3,
                            .beta1 = 0.9,
                            .beta2 = 0.95,
                            .eps = 1e-8,
                            .weight_decay = 0.1,
                            .warmup_steps = 2};
    return s;
}

#endif
