/* Tables of measured runs: strict reading, refusals with their reasons, one row against the same job written by hand.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/arena.h"
#include "planner/validate_internal.h"

static const char header[] =
    "case_id,tier,source_file,source,gpu,nvlink_domain_gpus,nic_gbps_per_gpu,gpus,model,layers,hidden,heads,kv_heads,"
    "head_dim,attention,ffn,gated_mlp,vocab,seq_len_tokens,experts,topk,moe_ffn,shared_experts,first_dense_layers,tp,"
    "cp,pp,vpp_chunks_per_gpu,ep,etp,dp,mbs_seqs,gbs_seqs,microbatches,recompute,sequence_parallel,zero_stage,"
    "precision,schedule,step_time_s,step_time_kind,peak_mem_GB,assumptions,confirmed\n";
/* Two stages of a small GPT on one node, four microbatches, full recomputation. */
static const char good[] =
    "toy,A,mine.csv,me,A100-80G,8,,4,gpt,4,1024,16,16,64,mha,4096,0,51200,1024,,,,,,2,1,2,1,1,,1,"
    "2,8,4,full,0,0,fp16,1F1B,0.5,measured,,,yes\n";

static void expect_csv_error(const char *text, uint32_t line, const char *part) {
    struct sf_csv csv;
    struct sf_err err = {0};
    assert_int_equal(sf_csv_parse(text, strlen(text), "t.csv", &csv, &err), SF_E_INPUT);
    if (err.line != line || strstr(err.msg, part) == NULL) {
        fail_msg("expected line %u and \"%s\", found %u: %s", line, part, err.line, err.msg);
    }
}

static void test_csv(void **state) {
    static const char text[] = "a,b,c\r\n1,\"x, \"\"y\"\"\nz\",\n,,\"\"\n4,5,6";
    struct sf_csv csv;
    (void)state;
    assert_int_equal(sf_csv_parse(text, sizeof text - 1, "t.csv", &csv, NULL), 0);
    assert_int_equal(csv.columns_n, 3);
    assert_int_equal(csv.rows_n, 4);
    assert_string_equal(sf_csv_at(&csv, 1, 1), "x, \"y\"\nz");
    assert_string_equal(sf_csv_at(&csv, 1, 2), "");
    assert_string_equal(sf_csv_at(&csv, 2, 0), "");
    assert_string_equal(sf_csv_at(&csv, 3, 2), "6");
    assert_int_equal(csv.line[2], 4); /* the quoted line break counts */
    assert_int_equal(sf_csv_column(&csv, "c"), 2);
    assert_int_equal(sf_csv_column(&csv, "d"), -1);
    sf_csv_clear(&csv);
}

static void test_csv_errors(void **state) {
    (void)state;
    expect_csv_error("", 1, "header");
    expect_csv_error("a,b\n1,2\n1,2,3\n", 3, "expected 2 fields");
    expect_csv_error("a,b\n1\n", 2, "found 1");
    expect_csv_error("a,b\n1,\"x\ny\n", 2, "never closed");
    expect_csv_error("a,b\n1,\"x\"y\n", 2, "after a closing quote");
    expect_csv_error("a,b\n1,x\"y\n", 2, "quote the whole field");
    expect_csv_error("a,b,a\n", 1, "twice");
    expect_csv_error("a\rb\n", 1, "carriage return");
    for (size_t n = 1; n < 8; n++) { /* out of memory at every allocation */
        struct sf_csv csv;
        struct sf_err err = {0};
        sf_alloc_fail_after(n);
        int rc = sf_csv_parse("a,b\n1,2\n", 8, "t.csv", &csv, &err);
        sf_alloc_fail_after(0);
        assert_true(rc == 0 || rc == SF_E_INTERNAL);
        sf_csv_clear(&csv);
    }
}

/* The good row with one cell replaced. */
static void read_row(const char *column, const char *value, struct sf_case *out, int expected, const char *part) {
    struct sf_csv csv;
    struct sfi_case_columns at;
    struct sf_err err = {0};
    char text[4096];
    snprintf(text, sizeof text, "%s%s", header, good);
    assert_int_equal(sf_csv_parse(text, strlen(text), "t.csv", &csv, &err), 0);
    assert_int_equal(sfi_case_columns(&csv, &at, &err), 0);
    if (column != NULL) {
        int i = sf_csv_column(&csv, column);
        assert_true(i >= 0);
        csv.field[csv.columns_n + (size_t)i] = value;
    }
    int rc = sfi_case_read(&csv, &at, 1, out, &err);
    if (rc != expected || (part != NULL && strstr(err.msg, part) == NULL)) {
        fail_msg("%s = %s: expected %d \"%s\", found %d %s", column, value, expected, part, rc, err.msg);
    }
    sf_csv_clear(&csv);
}

static void test_columns(void **state) {
    struct sf_csv csv;
    struct sfi_case_columns at;
    struct sf_err err = {0};
    char text[4096];
    (void)state;
    snprintf(text, sizeof text, "extra,%s", header);
    assert_int_equal(sf_csv_parse(text, strlen(text), "t.csv", &csv, &err), 0);
    assert_int_equal(sfi_case_columns(&csv, &at, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "unknown column \"extra\""));
    sf_csv_clear(&csv);
    assert_int_equal(sf_csv_parse("case_id,tier\n", 13, "t.csv", &csv, &err), 0);
    assert_int_equal(sfi_case_columns(&csv, &at, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "is missing"));
    sf_csv_clear(&csv);
}

static void test_cells(void **state) {
    struct sf_case c;
    (void)state;
    read_row(NULL, NULL, &c, 0, NULL);
    assert_int_equal(c.hidden, 1024);
    assert_int_equal(c.line, 2);
    assert_true(c.step_time_s == 0.5);
    read_row("microbatches", "4.0", &c, 0, NULL);
    assert_int_equal(c.microbatches, 4);
    read_row("hidden", "10x", &c, SF_E_INPUT, "hidden: expected a number");
    read_row("hidden", "-1", &c, SF_E_INPUT, "expected a number");
    read_row("hidden", "1.5", &c, SF_E_INPUT, "whole number");
    read_row("hidden", "1e30", &c, SF_E_INPUT, "whole number");
    read_row("hidden", "0x10", &c, SF_E_INPUT, "expected a number");
    read_row("step_time_s", "0", &c, SF_E_INPUT, "seconds above 0");
    read_row("step_time_s", "nan", &c, SF_E_INPUT, "expected a number");
    read_row("tier", "a very long tier", &c, SF_E_INPUT, "shorter text");
    read_row("case_id", "", &c, SF_E_INPUT, "a name");
}

static void test_refusals(void **state) {
    static const struct {
        const char *column, *value, *reason;
    } rows[] = {
        {"vocab", "", "vocab is not stated"},
        {"attention", "mla", "attention mla"},
        {"zero_stage", "4", "zero_stage 4"},
        {"recompute", "unknown", "recompute is not stated"},
        {"recompute", "selective:moe", "recompute selective:moe"},
        {"recompute", "full:0", "recompute full:0"},
        {"recompute", "full:3x", "recompute full:3x"},
        {"precision", "int4", "precision int4"},
        {"schedule", "Chimera", "schedule Chimera"},
        {"schedule", "interleaved 1F1B", "with vpp_chunks_per_gpu 1"},
        {"schedule", "ZB-9p", "schedule ZB-9p"},
        {"layers", "5", "uneven split"},
        {"shared_experts", "1", "shared_experts"},
        {"gpus", "16", "nic_gbps_per_gpu is not stated"},
        {"experts", "8", "experts: 8 without"},
        {"step_time_s", "", "step_time_s is not stated"},
    };
    char reason[512];
    struct sf_case c;
    (void)state;
    read_row(NULL, NULL, &c, 0, NULL);
    assert_false(sfi_case_refuses(&c, reason, sizeof reason));
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        read_row(rows[i].column, rows[i].value, &c, 0, NULL);
        if (!sfi_case_refuses(&c, reason, sizeof reason) || strstr(reason, rows[i].reason) == NULL) {
            fail_msg("%s = \"%s\": expected \"%s\", found \"%s\"", rows[i].column, rows[i].value, rows[i].reason,
                     reason);
        }
    }
    char tiny[8];
    read_row("vocab", "", &c, 0, NULL);
    assert_true(sfi_case_refuses(&c, tiny, sizeof tiny)); /* cut, not overrun */
}

/* ---- one row by hand --------------------------------------------------------------------------------------------- */

struct world {
    char table[4096];
};

static int read_world(void *self, const char *path, size_t max_bytes, char **data, size_t *bytes, struct sf_err *err) {
    static const struct {
        const char *path, *text;
    } files[] = {
        {"c.yaml", "name: c\ndevice: a100\ndomains: 1\ndomain: { kind: hgx, trays: 1, gpus_per_tray: 8, cpus_per_tray: "
                   "0, nvswitches: 6, link: nvlink3, links_per_gpu: 12 }\n"},
        {"m.json", "{\"model_type\": \"llama\", \"num_hidden_layers\": 4, \"hidden_size\": 1024, \"vocab_size\": 51200,"
                   "\"num_attention_heads\": 16, \"intermediate_size\": 4096, \"hidden_act\": \"gelu_pytorch_tanh\","
                   "\"tie_word_embeddings\": true, \"gated_mlp\": false}"},
        {"s.yaml", "name: s\ncluster: c.yaml\nmodel: m.json\njob: { seq_len: 1024, global_batch: 8, precision: bf16, "
                   "gpus: 4 }\n"},
    };
    const char *text = strcmp(path, "t.csv") == 0 ? ((struct world *)self)->table : NULL;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        text = strcmp(path, files[i].path) == 0 ? files[i].text : text;
    }
    if (text == NULL) {
        return sf_io_posix.read_all(sf_io_posix.self, path, max_bytes, data, bytes, err);
    }
    *bytes = strlen(text);
    *data = sf_malloc(*bytes + 1);
    assert_non_null(*data);
    memcpy(*data, text, *bytes + 1);
    return 0;
}

static double by_hand(const struct sf_io *io) {
    struct sf_scenario s;
    struct sf_cost *cost;
    static struct sf_plan_result result;
    const struct sf_plan plan = {.tp = 2,
                                 .ep = 1,
                                 .dp = 1,
                                 .pp = 2,
                                 .vpp = 1,
                                 .micro_batch = 2,
                                 .microbatches = 4,
                                 .schedule = SF_SCHEDULE_1F1B,
                                 .recompute = SF_RECOMPUTE_FULL,
                                 .whole_rows = true,
                                 .ranks_per_domain = 4,
                                 .layers = {2, 2}};
    assert_int_equal(sf_scenario_load(io, "s.yaml", SF_CATALOG_DIR, NULL, &s, NULL), 0);
    assert_int_equal(sf_cost_create(s.topo, io, NULL, &cost, NULL), 0);
    assert_int_equal(sf_plan_evaluate(&s, cost, &plan, &result, NULL), 0);
    sf_cost_free(cost);
    sf_scenario_clear(&s);
    return sf_ps_to_s(result.sim.step_time);
}

/* ---- as frameworks run ------------------------------------------------------------------------------------------- */

/* The step of `plan` on four A100. */
static double step_of(const struct sf_plan *plan, const struct sf_framework *f, uint64_t *bytes) {
    struct world w = {""};
    struct sf_io io = {.self = &w, .read_all = read_world};
    struct sf_scenario s;
    struct sf_cost *cost;
    static struct sf_plan_result result;
    assert_int_equal(sf_scenario_load(&io, "s.yaml", SF_CATALOG_DIR, NULL, &s, NULL), 0);
    assert_int_equal(sf_cost_create(s.topo, &io, NULL, &cost, NULL), 0);
    sf_cost_set_framework(cost, f);
    struct sf_err err = {0};
    if (sfi_case_run(&s, cost, f, plan, &result, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    sf_cost_free(cost);
    sf_scenario_clear(&s);
    *bytes = result.unfused_memory_bytes;
    return sf_ps_to_s(result.sim.step_time);
}

static const struct sf_plan four_stages = {.tp = 1,
                                           .ep = 1,
                                           .dp = 1,
                                           .pp = 4,
                                           .vpp = 1,
                                           .micro_batch = 1,
                                           .microbatches = 8,
                                           .schedule = SF_SCHEDULE_1F1B,
                                           .ranks_per_domain = 4,
                                           .layers = {1, 1, 1, 1}};

/* The host resumes once per pass, of which 2 (8 + 3) follow one another; waiting twice as long costs twice as much. */
static void test_transfers_that_are_waited_for(void **state) {
    struct sf_framework f = {.name = "f", .gemm_share = 1, .pointwise = 1, .loss = 1, .unfused_attention = true};
    struct sf_plan split = four_stages, alone = four_stages;
    uint64_t bytes, same;
    (void)state;
    assert_false(sfi_case_waits(&four_stages, &f));
    double free_s = step_of(&four_stages, &f, &bytes);
    f.resume_ps = SF_PS_PER_S / 100;
    split.schedule = SF_SCHEDULE_ZB_1P;
    alone.pp = 1;
    assert_true(sfi_case_waits(&four_stages, &f) && !sfi_case_waits(&split, &f) && !sfi_case_waits(&alone, &f));
    double once_s = step_of(&four_stages, &f, &same) - free_s;
    assert_int_equal(bytes, same);
    assert_true(once_s > 0.20 && once_s < 0.24);
    f.resume_ps *= 2;
    assert_true(fabs((step_of(&four_stages, &f, &same) - free_s) / once_s - 2) < 0.1);
}

/* Without a barrier between steps the ramp up of a stage lies beside the ramp down of others. */
static void test_steps_without_a_barrier(void **state) {
    struct sf_framework f = {.name = "f", .gemm_share = 1, .pointwise = 1, .loss = 1, .unfused_attention = true};
    struct sf_plan plan = four_stages;
    uint64_t bytes, same;
    (void)state;
    plan.schedule = SF_SCHEDULE_ZB_2P;
    double apart = step_of(&plan, &f, &bytes);
    f.rolling = true;
    double rolling = step_of(&plan, &f, &same);
    assert_int_equal(bytes, same);
    assert_true(rolling < 0.98 * apart && rolling > 0.5 * apart);
    plan.schedule = SF_SCHEDULE_1F1B; /* its optimizer waits for all stages */
    apart = step_of(&plan, &f, &bytes);
    f.rolling = false;
    assert_true(step_of(&plan, &f, &bytes) == apart);
}

static void test_a_row_by_hand(void **state) {
    struct world w;
    struct sf_io io = {.self = &w, .read_all = read_world};
    const struct sf_validate_options options = {.catalog = SF_CATALOG_DIR, .no_frameworks = true};
    struct sf_validate v;
    struct sf_err err = {0};
    (void)state;
    snprintf(w.table, sizeof w.table, "%s%s", header, good);
    assert_int_equal(sf_validate_run(&io, (const char *const[]){"t.csv"}, 1, &options, &v, &err), 0);
    assert_int_equal(v.rows_n, 1);
    assert_string_equal(v.rows[0].refused, "");
    double expected = by_hand(&io);
    assert_true(expected > 0.001 && fabs(v.rows[0].predicted_s - expected) < 1e-12);
    assert_true(fabs(v.rows[0].error - (expected / 0.5 - 1)) < 1e-12);
    assert_true(v.goals_n > 10 && v.goals[0].n == 0); /* nothing of vTrain in this table */
    assert_int_equal(v.summaries_n, 2);               /* mine.csv, tier A; everything */
    assert_int_equal(v.summaries[1].n, 1);
    assert_true(fabs(v.summaries[0].mean_abs - fabs(v.rows[0].error)) < 1e-12);
    sf_validate_clear(&v);
    const struct sf_validate_options none = {.catalog = SF_CATALOG_DIR, .no_frameworks = true, .tiers = "B"};
    assert_int_equal(sf_validate_run(&io, (const char *const[]){"t.csv"}, 1, &none, &v, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "nothing to validate"));
}

/* Two matrices instead of three, sums over tp all-reduced instead of scattered and gathered; both survive a plan file.
 */
static void test_plain_layers_and_whole_rows(void **state) {
    struct world w = {""};
    struct sf_io io = {.self = &w, .read_all = read_world};
    struct sf_scenario s;
    struct sf_plan plan = {.scenario = "s.yaml",
                           .tp = 4,
                           .ep = 1,
                           .dp = 1,
                           .pp = 1,
                           .vpp = 1,
                           .micro_batch = 2,
                           .microbatches = 4,
                           .schedule = SF_SCHEDULE_1F1B,
                           .whole_rows = true,
                           .ranks_per_domain = 4,
                           .layers = {4}},
                   again;
    struct sf_prog *prog;
    struct sf_buf text = {0};
    struct sf_hash hash;
    size_t all_reduces = 0, others = 0, plain = 0;
    (void)state;
    assert_int_equal(sf_scenario_load(&io, "s.yaml", SF_CATALOG_DIR, NULL, &s, NULL), 0);
    assert_true(s.model.plain);
    assert_int_equal(sf_model_params_expert(&s.model), 2 * 1024 * 4096);
    assert_int_equal(sf_compile(&s, &plan, &prog, NULL), 0);
    for (uint32_t r = 0; r < prog->recipes_n; r++) {
        for (uint32_t i = 0; i < prog->recipes[r].calls_n; i++) {
            const struct sf_call *c = &prog->recipes[r].calls[i];
            all_reduces += c->kind == SF_CALL_ALL_REDUCE;
            others += sf_call_is_collective(c->kind) && c->kind != SF_CALL_ALL_REDUCE;
            plain += (c->flags & SF_CALL_PLAIN_FLAG) != 0;
        }
    }
    /* Forward: two a layer, the embedding, and one gathering for the softmax. Backward, in two recipes: two a layer,
     * the head. */
    assert_int_equal(all_reduces, (8 + 1) + 2 * (8 + 1));
    assert_int_equal(others, 1);
    assert_int_equal(plain, 4 + 2 * 4);
    sf_prog_free(prog);
    assert_int_equal(sf_plan_print(&plan, sf_scenario_hash(&s), &text), 0);
    snprintf(w.table, sizeof w.table, "%.*s", (int)text.bytes, text.data);
    assert_int_equal(sf_plan_load(&io, "t.csv", &again, &hash, NULL), 0);
    assert_true(again.whole_rows);
    sf_buf_free(&text);
    sf_scenario_clear(&s);
}

/* What is missing is filled, what is there stays unless it is corrected, and only what frameworks decide can be set. */
static void test_assumptions(void **state) {
    struct sf_case c;
    bool set;
    (void)state;
    read_row("recompute", "unknown", &c, 0, NULL);
    assert_int_equal(sfi_case_set(&c, "recompute", "none", false, &set), 0);
    assert_true(set);
    assert_string_equal(c.recompute, "none");
    assert_int_equal(sfi_case_set(&c, "recompute", "full", false, &set), 0);
    assert_false(set);
    assert_string_equal(c.recompute, "none");
    assert_int_equal(sfi_case_set(&c, "kv_heads", "8", false, &set), 0);
    assert_false(set);
    assert_int_equal(sfi_case_set(&c, "kv_heads", "8", true, &set), 0);
    assert_true(set && c.kv_heads == 8);
    assert_int_equal(sfi_case_set(&c, "kv_heads", "many", true, &set), SF_E_INPUT);
    assert_int_equal(sfi_case_set(&c, "step_time_s", "1", true, &set), SF_E_INPUT);
    assert_int_equal(sfi_case_set(&c, "split", "ends of all stages", false, &set), SF_E_INPUT);
    read_row("vocab", "", &c, 0, NULL);
    char reason[512];
    assert_true(sfi_case_refuses(&c, reason, sizeof reason));
    assert_int_equal(sfi_case_set(&c, "vocab", "50304", false, &set), 0);
    assert_false(sfi_case_refuses(&c, reason, sizeof reason));
}

/* Embedding and loss take a layer's place each. */
static void test_split_at_the_ends(void **state) {
    struct sf_scenario s = {0};
    struct sf_plan plan;
    struct sf_case c;
    char reason[512];
    bool set;
    (void)state;
    read_row("layers", "6", &c, 0, NULL);
    c.pp = 2;
    snprintf(c.schedule, sizeof c.schedule, "1F1B");
    c.layers = 7;
    assert_true(sfi_case_refuses(&c, reason, sizeof reason));
    c.layers = 6;
    c.pp = 4;
    assert_int_equal(sfi_case_set(&c, "split", "ends", false, &set), 0);
    assert_false(sfi_case_refuses(&c, reason, sizeof reason));
    sfi_case_plan(&c, &s, &plan);
    const uint32_t layers[] = {1, 2, 2, 1};
    assert_memory_equal(plan.layers, layers, sizeof layers);
}

/* Megatron's block method: so many layers of every stage, or all that it has. */
static void test_first_layers(void **state) {
    struct sf_scenario s = {.job.canonical = false};
    struct sf_plan plan;
    struct sf_case c;
    (void)state;
    read_row("recompute", "full:3", &c, 0, NULL);
    sfi_case_plan(&c, &s, &plan);
    assert_true(plan.partly && plan.recompute == SF_RECOMPUTE_FULL && plan.pp * plan.vpp > 0);
    for (uint32_t v = 0; v < plan.pp * plan.vpp; v++) {
        assert_int_equal(plan.recompute_layers[v], plan.layers[v] < 3 ? plan.layers[v] : 3);
    }
    read_row("recompute", "full", &c, 0, NULL);
    sfi_case_plan(&c, &s, &plan);
    assert_true(!plan.partly && plan.recompute == SF_RECOMPUTE_FULL);
}

/* A framework that is slower in every way slows the row down, and its calibration rows leave the figures. */
static void test_calibration_rows_leave_the_figures(void **state) {
    struct sf_framework f;
    struct sf_validate v;
    const struct sf_validate_options options = {.catalog = SF_CATALOG_DIR, .source_file = "megatron_sc21_table1.csv"};
    char path[1024];
    (void)state;
    snprintf(path, sizeof path, "%s/frameworks/megatron-2021.yaml", SF_CATALOG_DIR);
    assert_int_equal(sf_framework_load(&sf_io_posix, path, "a100", &f, NULL), 0);
    assert_int_equal(f.grade, SF_GRADE_CALIBRATED);
    assert_int_equal(sf_framework_load(&sf_io_posix, path, "cpu-core", &f, NULL), SF_E_INPUT);
    snprintf(path, sizeof path, "%s/tests/data/published/validation_cases.csv", SF_SOURCE_DIR);
    assert_int_equal(sf_validate_run(&sf_io_posix, (const char *const[]){path}, 1, &options, &v, NULL), 0);
    const struct sf_validation_summary *s = &v.summaries[0];
    assert_int_equal(s->rows, 10);
    assert_int_equal(s->calibration, 3);
    assert_int_equal(s->n, 7);
    double worst = 0;
    for (size_t i = 0; i < v.rows_n; i++) {
        worst = v.rows[i].calibration ? worst : fmax(worst, fabs(v.rows[i].error));
    }
    assert_true(worst == s->max_abs);
    sf_validate_clear(&v);
}

static void test_spearman(void **state) {
    const double a[] = {1, 2, 3, 4, 5}, up[] = {10, 20, 25, 70, 71}, down[] = {9, 8, 4, 3, 1};
    const double ties[] = {1, 2, 2, 4, 5};
    double scratch[15];
    (void)state;
    assert_true(fabs(sfi_spearman(a, up, 5, scratch) - 1) < 1e-12);
    assert_true(fabs(sfi_spearman(a, down, 5, scratch) + 1) < 1e-12);
    assert_true(fabs(sfi_spearman(a, ties, 5, scratch) - 9.5 / sqrt(10 * 9.5)) < 1e-12);
    assert_true(sfi_spearman(a, up, 1, scratch) == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_csv),
        cmocka_unit_test(test_csv_errors),
        cmocka_unit_test(test_columns),
        cmocka_unit_test(test_cells),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_assumptions),
        cmocka_unit_test(test_split_at_the_ends),
        cmocka_unit_test(test_first_layers),
        cmocka_unit_test(test_a_row_by_hand),
        cmocka_unit_test(test_transfers_that_are_waited_for),
        cmocka_unit_test(test_steps_without_a_barrier),
        cmocka_unit_test(test_plain_layers_and_whole_rows),
        cmocka_unit_test(test_calibration_rows_leave_the_figures),
        cmocka_unit_test(test_spearman),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
