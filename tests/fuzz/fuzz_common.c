/* What the targets share: good inputs, files in memory, verdicts. */
#include "tests/fuzz/fuzz.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "planner/compile.h"

const char fuzz_cluster_yaml[] =
    "name: two-nodes\ndevice: cpu-core\ndomains: 2\n"
    "domain: { kind: host, trays: 1, gpus_per_tray: 4, cpus_per_tray: 1, nvswitches: 0, link: shm, links_per_gpu: 1 }\n"
    "nic: connectx7-400g\nrails: 1\n"
    "fabric:\n  switch: quantum2-qm9700\n  leaf_down: 32\n  tiers: 2\n  oversubscription: 1\n"
    "  cables: { nic_leaf: 5m, leaf_spine: 30m }\n";

const char fuzz_config_json[] =
    "{\"model_type\": \"llama\", \"hidden_size\": 32, \"intermediate_size\": 64, \"num_hidden_layers\": 4,\n"
    "\"vocab_size\": 256, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"rms_norm_eps\": 1e-05,\n"
    "\"hidden_act\": \"silu\", \"rope_scaling\": null, \"tie_word_embeddings\": false, \"torch_dtype\": "
    "\"bfloat16\"}\n";

const char fuzz_scenario_yaml[] =
    "name: fuzz\ncluster: cluster.yaml\nmodel: config.json\n"
    "job:\n  seq_len: 16\n  global_batch: 8\n  precision: f32\n  gpus: 4\n"
    "  optimizer: { kind: adamw, lr: 1e-3, beta1: 0.9, warmup_steps: 2 }\n  steps: 4\n  seed: 1\n"
    "plan: { pp: [1, 2], tp: 1, micro_batch: 1, schedule: 1f1b, recompute: none }\n";

const char fuzz_plan_yaml[] =
    "plan_version: 1\nscenario: \"scenario.yaml\"\nscenario_hash: \"00112233445566778899aabbccddeeff\"\n"
    "tp: 1\nep: 1\ndp: 2\npp: 2\nvpp: 1\nmicro_batch: 1\nmicrobatches: 4\nschedule: 1f1b\nrecompute: none\nzero: 0\n"
    "canonical: false\nranks_per_domain: 4\nlayers: [2, 2]\n";

const char fuzz_kernels_yaml[] =
    "kernels:\n  - { kind: gemm, dtype: f32, flags: [tb], dims: [16, 64, 32, 1], time: 12us, n: 40 }\n"
    "  - { kind: add, dtype: f32, dims: [512], time: 300ns }\n"
    "transport: { message_latency: 2us, message_rate: 3GB/s, dispatch: 100ns }\nnote: two\n";

/* libfyaml forgets a scratch buffer when a quoted text is refused. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:libfyaml";
}

void fuzz_fail(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
    abort();
}

void fuzz_check_result(int rc, const struct sf_err *err, bool made) {
    if ((rc == 0) != made) {
        fuzz_fail("returned %d and %s result", rc, made ? "a" : "no");
    }
    bool refusal = rc == SF_E_INPUT || rc == SF_E_NOPLAN || rc == SF_E_IO;
    if (rc != 0 && (!refusal || err->code != rc || err->msg[0] == '\0')) {
        fuzz_fail("returned %d with error %d \"%s\"", rc, err->code, err->msg);
    }
}

static int read_all(void *self, const char *path, size_t max_bytes, char **data, size_t *bytes, struct sf_err *err) {
    const struct fuzz_files *files = self;
    for (size_t i = 0; i < files->n; i++) {
        const struct fuzz_file *f = &files->at[i];
        if (strcmp(path, f->path) != 0) {
            continue;
        }
        *data = sf_malloc(f->bytes + 1);
        if (*data == NULL) {
            return sf_fail_memory(err, "a file");
        }
        memcpy(*data, f->data, f->bytes);
        (*data)[f->bytes] = '\0';
        *bytes = f->bytes;
        return 0;
    }
    if (strncmp(path, SF_CATALOG_DIR "/", sizeof SF_CATALOG_DIR) == 0) {
        return sf_io_posix.read_all(sf_io_posix.self, path, max_bytes, data, bytes, err);
    }
    return sf_fail_at(err, SF_E_IO, path, 0, 0, "cannot open file: there are only those of the test");
}

struct sf_io fuzz_io(struct fuzz_files *files) {
    return (struct sf_io){.self = files, .read_all = read_all};
}

static struct sf_prog *compile_program(void) {
    const struct fuzz_file list[] = {{"scenario.yaml", fuzz_scenario_yaml, strlen(fuzz_scenario_yaml)},
                                     {"cluster.yaml", fuzz_cluster_yaml, strlen(fuzz_cluster_yaml)},
                                     {"config.json", fuzz_config_json, strlen(fuzz_config_json)},
                                     {"plan.yaml", fuzz_plan_yaml, strlen(fuzz_plan_yaml)}};
    struct fuzz_files files = {list, sizeof list / sizeof *list};
    const struct sf_io io = fuzz_io(&files);
    struct sf_scenario scenario;
    struct sf_plan plan;
    struct sf_hash hash;
    struct sf_err err = {0};
    struct sf_prog *prog = NULL;
    if (sf_scenario_load(&io, "scenario.yaml", SF_CATALOG_DIR, NULL, &scenario, &err) != 0 ||
        sf_plan_load(&io, "plan.yaml", &plan, &hash, &err) != 0 || sf_compile(&scenario, &plan, &prog, &err) != 0) {
        fuzz_fail("the good inputs are not good: %s:%u: %s", err.file, err.line, err.msg);
    }
    sf_plan_clear(&plan);
    sf_scenario_clear(&scenario);
    return prog;
}

const struct sf_prog *fuzz_program(void) {
    static struct sf_prog *prog; /* reachable to the end, so no leak */
    prog = prog != NULL ? prog : compile_program();
    return prog;
}
