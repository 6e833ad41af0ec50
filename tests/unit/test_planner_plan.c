/* Plans: files that round-trip, rules that name field and numbers, layers cut as well as brute force cuts them. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "core/arena.h"
#include "core/rng.h"
#include "planner/compile.h"
#include "planner/estimate.h"

static int read_text(void *self, const char *path, size_t max_bytes, char **data, size_t *bytes, struct sf_err *err) {
    const char *text = self;
    (void)path;
    (void)max_bytes;
    *bytes = strlen(text);
    *data = sf_malloc(*bytes + 1);
    if (*data == NULL) {
        return sf_fail_memory(err, "text");
    }
    memcpy(*data, text, *bytes + 1);
    return 0;
}

static int load_text(char *text, struct sf_plan *plan, struct sf_hash *hash, struct sf_err *err) {
    struct sf_io io = {.self = text, .read_all = read_text};
    memset(err, 0, sizeof *err);
    return sf_plan_load(&io, "plan.yaml", plan, hash, err);
}

static struct sf_plan example(void) {
    struct sf_plan p = {.tp = 2, .ep = 2, .dp = 4, .pp = 2, .vpp = 2, .micro_batch = 1, .microbatches = 4};
    p.schedule = SF_SCHEDULE_INTERLEAVED;
    p.recompute = SF_RECOMPUTE_FULL;
    p.partly = true;
    p.recompute_rest = SF_RECOMPUTE_SELECTIVE;
    p.recompute_layers[0] = p.recompute_layers[2] = 1;
    p.zero = 1;
    p.zero_group = 2;
    p.offload = 1;
    p.ranks_per_domain = 8;
    p.layers[0] = 1;
    p.layers[1] = p.layers[2] = p.layers[3] = 2;
    snprintf(p.scenario, sizeof p.scenario, "dir/a \"b\"\\c\td.yaml");
    return p;
}

static const struct sf_hash some_hash = {.hi = UINT64_C(0x0123456789abcdef), .lo = UINT64_C(0x00000000000000e5)};

static char *printed(const struct sf_plan *plan) {
    struct sf_buf out = {0};
    assert_int_equal(sf_plan_print(plan, some_hash, &out), 0);
    sf_buf_write(&out, "", 1);
    assert_int_equal(out.failed, 0);
    return out.data;
}

/* A number is for all stages; and people are told how many that makes. */
static void recompute_by_number(void **state) {
    struct sf_plan plan = example(), again;
    struct sf_hash hash;
    struct sf_err err;
    char *text = printed(&plan), *list = strstr(text, "recompute_layers: ["), edited[4096], told[64];
    (void)state;
    assert_non_null(list);
    snprintf(edited, sizeof edited, "%.*srecompute_layers: 1\n%s", (int)(list - text), text,
             strstr(list, "recompute_rest"));
    assert_int_equal(load_text(edited, &again, &hash, &err), 0);
    for (uint32_t v = 0; v < SF_MAX_STAGES; v++) {
        assert_int_equal(again.recompute_layers[v], v < 4);
    }
    assert_string_equal(sf_plan_recompute_text(&plan, told, sizeof told), "full 2/7, selective");
    again.recompute_rest = SF_RECOMPUTE_NONE;
    assert_string_equal(sf_plan_recompute_text(&again, told, sizeof told), "full 4/7");
    again.partly = false;
    assert_string_equal(sf_plan_recompute_text(&again, told, sizeof told), "full");
    sf_free(text);
}

static void round_trips(void **state) {
    struct sf_plan plan = example(), again;
    struct sf_hash hash;
    struct sf_err err;
    char *text = printed(&plan);
    (void)state;
    if (load_text(text, &again, &hash, &err) != 0) {
        fail_msg("%u:%u: %s in\n%s", err.line, err.column, err.msg, text);
    }
    assert_true(sf_hash_equal(hash, some_hash));
    assert_memory_equal(&plan, &again, sizeof plan);
    sf_free(text);
}

/* Replace the first `from` by `to` and expect a refusal with a position. */
static void refused_after(const char *from, const char *to, const char *says) {
    struct sf_plan plan = example(), again;
    struct sf_hash hash;
    struct sf_err err;
    char edited[4096];
    char *text = printed(&plan), *at = strstr(text, from);
    assert_non_null(at);
    snprintf(edited, sizeof edited, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    sf_free(text);
    assert_int_equal(load_text(edited, &again, &hash, &err), SF_E_INPUT);
    if (strstr(err.msg, says) == NULL || err.line == 0) {
        fail_msg("%u: \"%s\" should say \"%s\"", err.line, err.msg, says);
    }
}

static void files_are_checked(void **state) {
    (void)state;
    refused_after("tp: 2", "tq: 2", "tp");
    refused_after("tp: 2", "tp: 2\ntr: 2", "tr");
    refused_after("tp: 2", "tp: 0", "0");
    refused_after("zero: 1", "zero: 4", "4");
    refused_after("zero_group: 2", "zero_group: 0", "0");
    refused_after("offload: 1", "offload: 5000", "5000");
    refused_after("recompute_layers: [1, 0,", "recompute_layers: [1,", "one count per virtual stage");
    refused_after("recompute_layers: [1, 0,", "recompute_layers: [1, -1,", "-1");
    refused_after("recompute_rest: selective", "recompute_rest: some", "some");
    refused_after("recompute_layers: [1, 0,\n                   1, 0]\n", "", "for what recompute_layers leaves out");
    refused_after("schedule: interleaved", "schedule: zigzag", "zigzag");
    refused_after("[1, 2", "[1", "layers lists");
    refused_after("[1, 2", "[-1, 2", "-1");
    refused_after("\nlayers: [", "\nlayout: E|L\nlayers: [", "keep one");
    refused_after("plan_version: 1", "plan_version: 2", "2");
    refused_after("0123456789abcdef", "0123456789abcdeg", "hex");
    refused_after("0123456789abcdef", "123456789abcdef", "hex");
    refused_after("pp: 2", "pp: 1024", "1024");
}

struct two_files {
    const char *plan, *table;
};

static int read_either(void *self, const char *path, size_t max_bytes, char **data, size_t *bytes, struct sf_err *err) {
    const struct two_files *files = self;
    bool table = strcmp(path, "dir/own/t.csv") == 0;
    if (!table && strcmp(path, "dir/plan.yaml") != 0) {
        return sf_fail(err, SF_E_IO, "no file %s", path);
    }
    return read_text((void *)(uintptr_t)(table ? files->table : files->plan), path, max_bytes, data, bytes, err);
}

static int load_table(const char *schedule, const char *table, struct sf_plan *plan, struct sf_err *err) {
    struct sf_plan own = example();
    struct sf_hash hash;
    own.schedule = SF_SCHEDULE_TABLE;
    snprintf(own.schedule_file, sizeof own.schedule_file, "%s", schedule);
    char *text = printed(&own);
    struct two_files files = {.plan = text, .table = table};
    const struct sf_io io = {.self = &files, .read_all = read_either};
    memset(err, 0, sizeof *err);
    int rc = sf_plan_load(&io, "dir/plan.yaml", plan, &hash, err);
    sf_free(text);
    return rc;
}

/* A table is found beside the plan, replayed, and complained about where it is wrong. */
static void tables_come_with_plans(void **state) {
    struct sf_plan plan;
    struct sf_err err;
    (void)state;
    assert_int_equal(load_table("own/t.csv", "0F0,0I0,0W0\n", &plan, &err), 0);
    assert_int_equal(plan.schedule, SF_SCHEDULE_TABLE);
    assert_string_equal(plan.schedule_file, "own/t.csv");
    assert_int_equal(plan.table->passes_n[0], 3);
    sf_plan_clear(&plan);
    sf_plan_clear(&plan);
    assert_int_equal(load_table("own/t.csv", "0F0,0X0\n", &plan, &err), SF_E_INPUT);
    assert_string_equal(err.file, "dir/own/t.csv");
    assert_true(err.line == 1 && err.column == 5);
    assert_int_equal(load_table("own/t.csv", "0F0,0F1,0B0\n", &plan, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "passes are missing"));
    assert_int_equal(load_table("own/t.csv", "0F0,0B0,1F0\n1B0\n", &plan, &err), SF_E_INPUT);
    assert_int_equal(load_table("t.csv", "", &plan, &err), SF_E_IO);
    assert_int_equal(load_table("zb-h3", "", &plan, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "did you mean \"zb-h"));
    sf_plan_clear(&plan);
}

/* A model and a job of convenient numbers on one server of eight GPUs. */
struct world {
    struct sf_scenario s;
    struct sf_plan plan;
};

static int set_up(void **state) {
    static struct world w;
    struct sf_err err = {0};
    memset(&w, 0, sizeof w);
    *state = &w;
    w.s.model = (struct sf_model){.layers = 8, .hidden = 64, .heads = 8, .kv_heads = 4, .head_dim = 8, .ffn = 96};
    w.s.model.vocab = 256;
    w.s.job = (struct sf_job){.seq_len_tokens = 32, .global_batch_sequences = 16, .precision = SF_BF16, .gpus = 8};
    w.plan = (struct sf_plan){.tp = 2, .ep = 1, .dp = 2, .pp = 2, .vpp = 1, .micro_batch = 2, .microbatches = 4};
    w.plan.schedule = SF_SCHEDULE_1F1B;
    w.plan.ranks_per_domain = 8;
    w.plan.layers[0] = w.plan.layers[1] = 4;
    return sf_topo_load(&sf_io_posix, SF_SOURCE_DIR "/scenarios/clusters/hgx-h100-1node.yaml", SF_CATALOG_DIR,
                        &w.s.topo, &err);
}

static int tear_down(void **state) {
    struct world *w = *state;
    sf_topo_free(w->s.topo);
    return 0;
}

static void expect_rule(const struct world *w, const char *says) {
    struct sf_err err = {0};
    assert_int_equal(sf_plan_check(&w->s, &w->plan, &err), SF_E_INPUT);
    if (strstr(err.msg, says) == NULL) {
        fail_msg("\"%s\" should say \"%s\"", err.msg, says);
    }
}

static void a_good_plan_passes(void **state) {
    struct world *w = *state;
    struct sf_err err = {0};
    if (sf_plan_check(&w->s, &w->plan, &err) != 0) {
        fail_msg("%s", err.msg);
    }
}

#define RULE(name, change, says)                                                                                       \
    static void name(void **state) {                                                                                   \
        struct world *w = *state;                                                                                      \
        change;                                                                                                        \
        expect_rule(w, says);                                                                                          \
    }

RULE(rule_zero_degree, w->plan.tp = 0, "tp must be from 1")
RULE(rule_gpus, w->plan.dp = 4, "job's 8 GPUs")
RULE(rule_ep_dp, w->plan.ep = 3, "ep must divide dp, found 3 and 2")
RULE(rule_ep_dense, w->plan.ep = 2, "without experts")
RULE(rule_ep_experts, (w->s.model.experts = 3, w->plan.ep = 2), "3 experts")
RULE(rule_heads, w->s.model.heads = 9, "attention heads: 9 is no multiple of 2")
RULE(rule_kv_heads, w->s.model.kv_heads = 1, "key-value heads")
RULE(rule_ffn, w->s.model.ffn = 97, "feed-forward width: 97")
RULE(rule_vocab, w->s.model.vocab = 257, "vocabulary: 257")
RULE(rule_tokens, (w->s.job.seq_len_tokens = 31, w->plan.micro_batch = 1), "tokens of a microbatch: 31")
RULE(rule_stages, (w->s.model.layers = 1, w->plan.vpp = 2), "4 virtual stages for 1 layers")
RULE(rule_layer_sum, w->plan.layers[1] = 3, "add up to the model's 8, found 7")
RULE(rule_empty_stage, (w->plan.vpp = 2, w->plan.layers[1] = 0, w->plan.layers[2] = 4), "layers[1] is 0")
RULE(rule_etp, w->plan.etp = 4, "etp must be tp 2 or 1, found 4")
RULE(rule_etp_ep, (w->s.model.experts = 3, w->plan.etp = 1), "tp must divide ep, found tp 2 and ep 1")
RULE(rule_recompute_up, w->plan.recompute = SF_RECOMPUTE_MLA_UP, "latent attention")
RULE(rule_batch, w->plan.microbatches = 5, "global batch of 16 sequences, found 2 * 2 * 5")
RULE(rule_vpp, (w->plan.vpp = 2, w->plan.layers[0] = w->plan.layers[1] = w->plan.layers[2] = w->plan.layers[3] = 2),
     "1f1b needs vpp 1")
RULE(rule_interleaved_vpp, w->plan.schedule = SF_SCHEDULE_INTERLEAVED, "vpp and pp of at least 2, found 1")
RULE(rule_schedule, w->plan.schedule = 99, "schedule 99")
RULE(rule_zero, w->plan.zero = 4, "zero must be from 0 to 3")
RULE(rule_canonical_job, w->plan.canonical = true, "what the job says (false)")
RULE(rule_canonical_precision, w->plan.canonical = w->s.job.canonical = true, "precision f32, found bf16")
RULE(rule_domain, w->plan.ranks_per_domain = 9, "at most the 8 GPUs")
RULE(rule_tp_domain, w->plan.ranks_per_domain = 7, "tp must divide ranks_per_domain, found 2 and 7")
RULE(rule_seats, w->plan.ranks_per_domain = 4, "need 2 domains; the cluster")

static void rule_interleaved_microbatches(void **state) {
    struct world *w = *state;
    w->plan.schedule = SF_SCHEDULE_INTERLEAVED;
    w->plan.vpp = 2;
    for (int i = 0; i < 4; i++) {
        w->plan.layers[i] = 2;
    }
    w->plan.microbatches = 5;
    w->s.job.global_batch_sequences = 20;
    expect_rule(w, "multiple of pp, found 5 and 2");
}

static void rule_canonical_powers(void **state) {
    struct world *w = *state;
    w->s.job.precision = SF_F32;
    w->s.job.canonical = w->plan.canonical = true;
    w->s.job.gpus = w->s.job.gpus / w->plan.dp * 3;
    w->s.job.global_batch_sequences = w->s.job.global_batch_sequences / w->plan.dp * 3;
    w->plan.dp = 3;
    expect_rule(w, "dp to be a power of two, found 3");
}

/* The best possible slowest stage, by trying every way to hand out the layers that are left. */
static double best_slowest(double *load, uint32_t pp, uint32_t left, uint32_t from, double layer) {
    if (left == 0) {
        double slowest = 0;
        for (uint32_t i = 0; i < pp; i++) {
            slowest = fmax(slowest, load[i]);
        }
        return slowest;
    }
    double best = INFINITY;
    for (uint32_t i = from; i < pp; i++) {
        load[i] += layer;
        best = fmin(best, best_slowest(load, pp, left - 1, i, layer));
        load[i] -= layer;
    }
    return best;
}

static void partition_equals_brute_force(void **state) {
    struct sf_rng r = sf_rng_seed(7);
    (void)state;
    for (int n = 0; n < 2000; n++) {
        uint32_t pp = 1 + (uint32_t)(sf_rng_u64(&r) % 4), vpp = 1 + (uint32_t)(sf_rng_u64(&r) % 3), out[12], sum = 0;
        uint32_t layers = pp * vpp + (uint32_t)(sf_rng_u64(&r) % 7);
        double first = 3 * sf_rng_unit(&r), last = 5 * sf_rng_unit(&r), load[4], best[4], slowest = 0;
        sfi_partition(layers, pp, vpp, 1, first, last, out);
        for (uint32_t s = 0; s < pp; s++) {
            best[s] = vpp + (s == 0 ? first : 0) + (s == pp - 1 ? last : 0);
            load[s] = best[s] - vpp;
        }
        for (uint32_t i = 0; i < pp * vpp; i++) {
            assert_true(out[i] >= 1);
            load[i % pp] += out[i];
            sum += out[i];
        }
        for (uint32_t s = 0; s < pp; s++) {
            slowest = fmax(slowest, load[s]);
        }
        assert_int_equal(sum, layers);
        assert_true(slowest <= best_slowest(best, pp, layers - pp * vpp, 0, 1) + 1e-9);
    }
}

#define WITH_WORLD(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trips),
        cmocka_unit_test(recompute_by_number),
        cmocka_unit_test(files_are_checked),
        cmocka_unit_test(tables_come_with_plans),
        cmocka_unit_test(partition_equals_brute_force),
        WITH_WORLD(a_good_plan_passes),
        WITH_WORLD(rule_zero_degree),
        WITH_WORLD(rule_gpus),
        WITH_WORLD(rule_ep_dp),
        WITH_WORLD(rule_ep_dense),
        WITH_WORLD(rule_ep_experts),
        WITH_WORLD(rule_heads),
        WITH_WORLD(rule_kv_heads),
        WITH_WORLD(rule_ffn),
        WITH_WORLD(rule_vocab),
        WITH_WORLD(rule_tokens),
        WITH_WORLD(rule_stages),
        WITH_WORLD(rule_layer_sum),
        WITH_WORLD(rule_empty_stage),
        WITH_WORLD(rule_etp),
        WITH_WORLD(rule_etp_ep),
        WITH_WORLD(rule_recompute_up),
        WITH_WORLD(rule_batch),
        WITH_WORLD(rule_vpp),
        WITH_WORLD(rule_interleaved_vpp),
        WITH_WORLD(rule_interleaved_microbatches),
        WITH_WORLD(rule_schedule),
        WITH_WORLD(rule_zero),
        WITH_WORLD(rule_canonical_job),
        WITH_WORLD(rule_canonical_precision),
        WITH_WORLD(rule_canonical_powers),
        WITH_WORLD(rule_domain),
        WITH_WORLD(rule_tp_domain),
        WITH_WORLD(rule_seats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
