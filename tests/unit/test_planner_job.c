/* Scenarios: every key is read, paths are relative to the file, and mistakes are located. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "core/arena.h"
#include "planner/job.h"

#define SCENARIO SF_SOURCE_DIR "/scenarios/tiny-llama-cpu/test.yaml"
#define CLUSTER SF_SOURCE_DIR "/scenarios/clusters/hgx-h100-1node.yaml"

#define HEAD "name: small\ncluster: ../clusters/cpu-8.yaml\nmodel: ../models/tiny-llama/config.json\n"
#define JOB "job:\n  seq_len: 128\n  global_batch: 16\n  precision: f32\n"

/* The scenario comes from memory, everything it names from the repository. */
static int read_file(void *self, const char *path, size_t max_bytes, char **data, size_t *bytes, struct sf_err *err) {
    const char *text = self;
    if (strcmp(path, SCENARIO) != 0) {
        return sf_io_posix.read_all(sf_io_posix.self, path, max_bytes, data, bytes, err);
    }
    *bytes = strlen(text);
    *data = sf_malloc(*bytes + 1);
    if (*data == NULL) {
        return sf_fail_memory(err, "text");
    }
    memcpy(*data, text, *bytes + 1);
    return 0;
}

static int load(const char *text, const char *cluster, struct sf_scenario *s, struct sf_err *err) {
    char copy[4096];
    snprintf(copy, sizeof copy, "%s", text);
    struct sf_io io = {.self = copy, .read_all = read_file};
    memset(err, 0, sizeof *err);
    return sf_scenario_load(&io, SCENARIO, SF_CATALOG_DIR, cluster, s, err);
}

static void load_well(const char *text, const char *cluster, struct sf_scenario *s) {
    struct sf_err err;
    if (load(text, cluster, s, &err) != 0) {
        fail_msg("%s:%u:%u: %s", err.file, err.line, err.column, err.msg);
    }
}

static void every_key(void **state) {
    static struct sf_scenario s;
    (void)state;
    load_well(HEAD JOB
              "  gpus: 4\n"
              "  optimizer: { kind: adamw, lr: 1e-3, beta1: 0.8, beta2: 0.9, eps: 1e-7, weight_decay: 0.2, "
              "warmup_steps: 7 }\n"
              "  steps: 40\n  seed: 9\n  data: ../data/text.txt\n  canonical: true\n"
              "  upkeep: { failures_per_1000_gpu_days: 2, restart: 3min, storage_rate: 50MB/s, "
              "gpu_hour_price: 4.5 }\n"
              "plan: { order: [tp-cp-ep-pp-dp], tp: 1, ep: [1], pp: [2, 4], dp: 2, vpp: [1, 2], micro_batch: 1,\n"
              "        schedule: [1f1b, interleaved], recompute: full, recompute_layers: 3,\n"
              "        recompute_rest: selective, zero: [0, 1], offload: 1,\n"
              "        layout: 'Et|t*2|tL' }\n",
              NULL, &s);
    assert_string_equal(s.name, "small");
    assert_string_equal(s.model.name, "tiny-llama");
    assert_int_equal(s.job.seq_len_tokens, 128);
    assert_int_equal(s.job.global_batch_sequences, 16);
    assert_int_equal(s.job.precision, SF_F32);
    assert_int_equal(s.job.gpus, 4);
    assert_int_equal(s.job.steps, 40);
    assert_int_equal(s.job.seed, 9);
    assert_true(s.job.canonical);
    assert_true(s.job.lr == 1e-3 && s.job.beta1 == 0.8 && s.job.beta2 == 0.9 && s.job.eps == 1e-7);
    assert_true(s.job.weight_decay == 0.2);
    assert_int_equal(s.job.warmup_steps, 7);
    assert_true(s.job.upkeep.failures_per_1000_gpu_days == 2 && s.job.upkeep.restart_s == 180);
    assert_true(s.job.upkeep.storage_bytes_per_s == 50000000 && s.job.upkeep.gpu_hour_price == 4.5);
    assert_true(s.pins.order.n == 1 && s.pins.order.value[0] == SF_ORDER_PP_MIDDLE);
    assert_string_equal(s.job.data_path, SF_SOURCE_DIR "/scenarios/tiny-llama-cpu/../data/text.txt");
    assert_int_equal(s.pins.pp.n, 2);
    assert_int_equal(s.pins.pp.value[1], 4);
    assert_int_equal(s.pins.schedule.n, 2);
    assert_int_equal(s.pins.schedule.value[0], SF_SCHEDULE_1F1B);
    assert_int_equal(s.pins.recompute.value[0], SF_RECOMPUTE_FULL);
    assert_int_equal(s.pins.tp.n, 1);
    assert_int_equal(s.pins.dp.value[0], 2);
    assert_int_equal(s.pins.zero.n, 2);
    assert_int_equal(s.pins.offload, 1);
    assert_int_equal(s.pins.recompute_layers, 3);
    assert_int_equal(s.pins.recompute_rest, SF_RECOMPUTE_SELECTIVE);
    assert_int_equal(s.pins.layout.stages, 3);
    assert_int_equal(s.pins.layout.layers[1], 2);
    sf_scenario_clear(&s);
    sf_scenario_clear(&s);
}

static void defaults_and_override(void **state) {
    static struct sf_scenario s;
    (void)state;
    load_well(HEAD JOB, NULL, &s);
    assert_int_equal(s.job.gpus, 8);
    assert_int_equal(s.pins.pp.n, 0);
    assert_string_equal(s.job.data_path, "");
    assert_false(s.job.canonical);
    sf_scenario_clear(&s);
    load_well("name: small\nmodel: ../models/tiny-llama/config.json\njob: {seq_len: 128, global_batch: 16, "
              "precision: bf16}\n",
              CLUSTER, &s);
    assert_true(sf_topo_device(s.topo)->flops_per_s[SF_BF16] > 1e14);
    sf_scenario_clear(&s);
}

static void hash_follows_what_plans_depend_on(void **state) {
    static struct sf_scenario s;
    (void)state;
    load_well(HEAD JOB, NULL, &s);
    struct sf_hash hash = sf_scenario_hash(&s);
    s.job.steps = 1000;
    s.pins.tp.n = 1;
    assert_true(sf_hash_equal(hash, sf_scenario_hash(&s)));
    s.job.global_batch_sequences = 32;
    assert_false(sf_hash_equal(hash, sf_scenario_hash(&s)));
    s.job.global_batch_sequences = 16;
    s.job.lr *= 2;
    assert_false(sf_hash_equal(hash, sf_scenario_hash(&s)));
    sf_scenario_clear(&s);
}

/* What is reserved no plan may use. */
static void a_reserve_is_left_alone(void **state) {
    static struct sf_scenario all, less;
    (void)state;
    load_well(HEAD JOB, NULL, &all);
    load_well(HEAD JOB "  memory_reserve: 256MB\n", NULL, &less);
    assert_int_equal(less.job.memory_reserve_bytes, 256000000);
    assert_int_equal(sf_scenario_memory(&all) - sf_scenario_memory(&less), 256000000);
    assert_false(sf_hash_equal(sf_scenario_hash(&all), sf_scenario_hash(&less)));
    sf_scenario_clear(&all);
    sf_scenario_clear(&less);
}

static void numbers_of_gpus(void **state) {
    static const struct {
        const char *line;
        uint32_t gpus;
        bool fewer;
    } cases[] = {{"", 8, false}, {"  gpus: 6\n", 6, false}, {"  gpus: { most: 6 }\n", 6, true}};
    static struct sf_scenario s;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[512];
        snprintf(text, sizeof text, HEAD JOB "%s", cases[i].line);
        load_well(text, NULL, &s);
        assert_int_equal(s.job.gpus, cases[i].gpus);
        assert_int_equal(s.job.gpus_asked, cases[i].gpus);
        assert_int_equal(s.job.fewer, cases[i].fewer);
        sf_scenario_clear(&s);
    }
}

static void refuses(void **state) {
    static const struct {
        const char *text, *says;
        uint32_t line;
    } cases[] = {
        {HEAD JOB "  sequence: 8\n", "sequence", 8},
        {HEAD JOB "  gpus: 9\n", "9", 8},
        {HEAD JOB "  gpus: 0\n", "0", 8},
        {HEAD JOB "  gpus: { most: 9 }\n", "9", 8},
        {HEAD JOB "  gpus: { most: 0 }\n", "0", 8},
        {HEAD JOB "  gpus: { least: 2 }\n", "least", 8},
        {HEAD JOB "  gpus: {}\n", "most", 8},
        {HEAD JOB "  gpus: [4]\n", "number", 8},
        {HEAD JOB "  steps: none\n", "none", 8},
        {HEAD JOB "  optimizer: { kind: sgd }\n", "sgd", 8},
        {HEAD JOB "  optimizer: { kind: adamw, momentum: 1 }\n", "momentum", 8},
        {HEAD JOB "  data: ''\n", "empty", 8},
        {HEAD JOB "  upkeep: { restart: 3 }\n", "3", 8},
        {HEAD JOB "  upkeep: { storage_rate: 0GB/s }\n", "above 0", 8},
        {HEAD JOB "  upkeep: { failures_per_1000_gpu_days: -1 }\n", "-1", 8},
        {HEAD JOB "  upkeep: { price: 2 }\n", "price", 8},
        {HEAD JOB "  memory_reserve: 1000TB\n", "leaves nothing", 8},
        {HEAD JOB "  memory_reserve: -1GB\n", "-1GB", 8},
        {HEAD JOB "plan: { order: pp-tp }\n", "pp-tp", 8},
        {HEAD JOB "plan: { tq: 1 }\n", "tq", 8},
        {HEAD JOB "plan: { layout: 't|L' }\n", "E", 8},
        {HEAD JOB "plan: { layout: 'Et|tmL' }\n", "predict", 8},
        {HEAD JOB "plan: { offload: -1 }\n", "-1", 8},
        {HEAD JOB "plan: { recompute: full, recompute_layers: 0 }\n", "0", 8},
        {HEAD JOB "plan: { recompute_layers: 2 }\n", "one kind of recompute", 8},
        {HEAD JOB "plan: { recompute: [full, none], recompute_layers: 2 }\n", "one kind of recompute", 8},
        {HEAD JOB "plan: { recompute: full, recompute_rest: none }\n", "leaves out", 8},
        {HEAD JOB "plan: { recompute: selective, recompute_layers: 2, recompute_rest: full }\n", "must not", 8},
        {HEAD JOB "plan: { tp: [] }\n", "1 to 16", 8},
        {HEAD JOB "plan: { tp: [2, 2] }\n", "twice", 8},
        {HEAD JOB "plan: { tp: 0 }\n", "0", 8},
        {HEAD JOB "plan: { schedule: zigzag }\n", "zigzag", 8},
        {HEAD JOB "plan: { zero: 4 }\n", "4", 8},
        {HEAD "job: { global_batch: 1, precision: f32 }\n", "seq_len", 4},
        {HEAD "job: { seq_len: 8, global_batch: 1, precision: f64 }\n", "f64", 4},
        {HEAD "job: { seq_len: 8, global_batch: 1, precision: fp8 }\n", "fp8", 4},
        {HEAD JOB "extra: 1\n", "extra", 8},
        {"cluster: a\n", "name", 1},
        {"- 1\n", "mapping", 1},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        static struct sf_scenario s;
        struct sf_err err;
        int rc = load(cases[i].text, NULL, &s, &err);
        if (rc != SF_E_INPUT || strstr(err.msg, cases[i].says) == NULL || err.line != cases[i].line) {
            fail_msg("case %zu: code %d, line %u, \"%s\" should say \"%s\" at line %u", i, rc, err.line, err.msg,
                     cases[i].says, cases[i].line);
        }
        assert_null(s.topo);
    }
}

static void canonical_needs_f32(void **state) {
    static struct sf_scenario s;
    struct sf_err err;
    (void)state;
    assert_int_equal(load("name: x\nmodel: ../models/tiny-llama/config.json\n"
                          "job: { seq_len: 8, global_batch: 1, precision: bf16, canonical: true }\n",
                          CLUSTER, &s, &err),
                     SF_E_INPUT);
    assert_non_null(strstr(err.msg, "f32"));
}

static void missing_files(void **state) {
    static struct sf_scenario s;
    struct sf_err err;
    (void)state;
    assert_int_equal(load("name: x\ncluster: no.yaml\nmodel: m\njob: {}\n", NULL, &s, &err), SF_E_IO);
    assert_int_equal(load("name: x\nmodel: m\njob: {}\n", NULL, &s, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "cluster"));
}

static void survives_out_of_memory(void **state) {
    (void)state;
    for (size_t n = 1; n < 3000; n++) {
        static struct sf_scenario s;
        struct sf_err err;
        sf_alloc_fail_after(n);
        int rc = load(HEAD JOB, NULL, &s, &err);
        sf_alloc_fail_after(0);
        if (rc == 0) {
            sf_scenario_clear(&s);
            assert_true(n > 3);
            return;
        }
        assert_null(s.topo);
    }
    fail_msg("loading never succeeded");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_key),
        cmocka_unit_test(defaults_and_override),
        cmocka_unit_test(hash_follows_what_plans_depend_on),
        cmocka_unit_test(numbers_of_gpus),
        cmocka_unit_test(a_reserve_is_left_alone),
        cmocka_unit_test(refuses),
        cmocka_unit_test(canonical_needs_f32),
        cmocka_unit_test(missing_files),
        cmocka_unit_test(survives_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
