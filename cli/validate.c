/* staticfire validate: measured training runs, rerun. */
#include <stdio.h>
#include <string.h>

#include "cli/args.h"
#include "cli/print.h"
#include "cli/progress.h"
#include "planner/validate.h"

struct validate_args {
    const char *tiers, *source_file;
    bool markdown, bare, rows;
};

static const struct cli_usage usage = {
    .verb = "validate",
    .operands = "[TABLE.csv ...]",
    .about = "Reruns measured training runs: each row of the table becomes a scenario and a plan, is compiled\n"
             "and simulated, and its step time compared with the measured one. Without a name, the\n"
             "published rows. Rows that lack a fact or ask for what a program cannot express are refused\n"
             "with the reason. Rows that a framework file was fitted to are marked and leave the summary.\n"
             "error = (predicted - measured) / measured.",
    .examples = "  staticfire validate\n"
                "  staticfire validate --tier A,B --source mlperf_llm_summary.csv --rows\n"
                "  staticfire validate my-runs.csv --json\n"
                "  staticfire validate --markdown > docs/accuracy.md\n",
    .operands_min = 0,
    .operands_max = 64,
};

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

static json_t *real_or_null(bool known, double v) {
    return known ? json_real(v) : json_null();
}

static json_t *breakdown_json(const struct sf_breakdown *b) {
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "compute", sf_ps_to_s(b->compute),
                     "recompute", sf_ps_to_s(b->recompute), "tp_comm", sf_ps_to_s(b->tp_comm), "ep_comm",
                     sf_ps_to_s(b->ep_comm), "p2p", sf_ps_to_s(b->p2p), "dp_comm", sf_ps_to_s(b->dp_comm), "optimizer",
                     sf_ps_to_s(b->optimizer), "bubble", sf_ps_to_s(b->bubble), "other", sf_ps_to_s(b->other),
                     "offload", sf_ps_to_s(b->offload));
}

static json_t *row_json(const struct sf_validation *v) {
    bool ran = v->refused[0] == '\0', peak = ran && v->row.peak_mem_gb > 0;
    json_t *interval = ran ? json_pack("{s:f, s:f}", "low_s", v->low_s, "high_s", v->high_s) : json_null();
    return json_pack(
        "{s:o, s:o, s:o, s:i, s:f, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:b, s:o}", "case_id",
        cli_json_text(v->row.case_id), "source_file", cli_json_text(v->row.source_file), "tier",
        cli_json_text(v->row.tier), "line", (int)v->row.line, "measured_s", v->row.step_time_s, "predicted_s",
        real_or_null(ran, v->predicted_s), "error", real_or_null(ran, v->error), "peak_memory_bytes",
        real_or_null(ran, v->peak_bytes), "peak_memory_error", real_or_null(peak, v->peak_error), "grade",
        ran ? json_string(sf_grade_name((int)v->grade)) : json_null(), "interval", interval, "framework",
        v->framework[0] ? cli_json_text(v->framework) : json_null(), "breakdown_s",
        ran ? breakdown_json(&v->breakdown) : json_null(), "refused", ran ? json_null() : cli_json_text(v->refused),
        "calibration", v->calibration, "assumed", v->assumed[0] ? cli_json_text(v->assumed) : json_null());
}

static json_t *summary_json(const struct sf_validation_summary *s) {
    return json_pack("{s:o, s:o, s:b, s:i, s:i, s:i, s:i, s:i, s:o, s:o, s:o, s:o, s:o, s:o}", "source_file",
                     s->source_file[0] ? cli_json_text(s->source_file) : json_null(), "tier",
                     s->source_file[0] ? cli_json_text(s->tier) : json_null(), "assumed", s->assumed, "assumed_rows",
                     (int)s->assumed_rows, "rows", (int)s->rows, "n", (int)s->n, "refused", (int)s->refused,
                     "calibration", (int)s->calibration, "mean_abs_error", real_or_null(s->n > 0, s->mean_abs),
                     "median_abs_error", real_or_null(s->n > 0, s->median_abs), "max_abs_error",
                     real_or_null(s->n > 0, s->max_abs), "mean_error", real_or_null(s->n > 0, s->bias), "spearman",
                     real_or_null(s->n > 1, s->spearman), "coverage",
                     real_or_null(s->n > 0, s->n > 0 ? (double)s->covered / s->n : 0));
}

static json_t *memory_json(const struct sf_validation_summary *s) {
    return json_pack("{s:i, s:o, s:o, s:o}", "n", (int)s->peaks, "mean_abs_error",
                     real_or_null(s->peaks > 0, s->peak_mean_abs), "max_abs_error",
                     real_or_null(s->peaks > 0, s->peak_max_abs), "least_error",
                     real_or_null(s->peaks > 0, s->peak_least));
}

static json_t *goal_json(const struct sf_validation_goal *g) {
    return json_pack("{s:s, s:s, s:o, s:i, s:o}", "line", g->name, "goal", g->promise, "figure",
                     g->n > 0 ? cli_json_text(g->figure) : json_null(), "n", (int)g->n, "met",
                     g->n > 0 ? json_boolean(g->met) : json_null());
}

static int print_json(const struct sf_validate *v, struct sf_err *err) {
    json_t *rows = json_array(), *summaries = json_array(), *goals = json_array();
    for (size_t i = 0; i < v->goals_n; i++) {
        json_array_append_new(goals, goal_json(&v->goals[i]));
    }
    for (size_t i = 0; i < v->rows_n; i++) {
        json_array_append_new(rows, row_json(&v->rows[i]));
    }
    for (size_t i = 0; i + 1 < v->summaries_n; i++) {
        json_array_append_new(summaries, summary_json(&v->summaries[i]));
    }
    json_t *doc = summary_json(&v->summaries[v->summaries_n - 1]);
    json_object_del(doc, "rows");
    json_object_set_new(doc, "peak_memory", memory_json(&v->summaries[v->summaries_n - 1]));
    json_object_set_new(doc, "goals", goals);
    json_object_set_new(doc, "summaries", summaries);
    json_object_set_new(doc, "rows", rows);
    return cli_print_json(doc, err);
}

/* ---- text -------------------------------------------------------------------------------------------------------- */

static void row_cells(struct cli_table *t, const struct sf_validation *v) {
    if (v->refused[0] != '\0') {
        return;
    }
    cli_cell(t, "%s", v->row.case_id);
    cli_cell(t, "%s", v->row.tier);
    cli_cell(t, "%s", cli_seconds(v->row.step_time_s));
    cli_cell(t, "%s", cli_seconds(v->predicted_s));
    cli_cell(t, "%+.1f %%", 100 * v->error);
    cli_cell(t, "%.1f %%", 100 * v->interval.half);
    if (v->row.peak_mem_gb > 0) {
        cli_cell(t, "%+.1f %%", 100 * v->peak_error);
    } else {
        cli_cell(t, "%s", "");
    }
    cli_cell(t, "%s", sf_grade_name((int)v->grade));
    cli_cell(t, "%s%s", v->framework[0] ? v->framework : "none",
             v->calibration       ? ", calibration"
             : v->assumed[0] != 0 ? ", assumed"
                                  : "");
}

static void print_rows(const struct sf_validate *v, struct sf_buf *out) {
    struct cli_table t = {.align = "llrrrrrll"};
    const char *const heads[] = {"case",     "tier",   "measured", "predicted", "error",
                                 "interval", "memory", "rests on", "framework"};
    cli_heading(out, "rows");
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        cli_cell(&t, "%s", heads[i]);
    }
    for (size_t i = 0; i < v->rows_n; i++) {
        row_cells(&t, &v->rows[i]);
    }
    cli_table_print(&t, "  ", out);
}

static void print_refusals(const struct sf_validate *v, struct sf_buf *out) {
    cli_heading(out, "refused");
    for (size_t i = 0; i < v->rows_n; i++) {
        if (v->rows[i].refused[0] != '\0') {
            sf_buf_printf(out, "  line %u %s: %s\n", v->rows[i].row.line, v->rows[i].row.case_id, v->rows[i].refused);
        }
    }
}

static void print_assumed(const struct sf_validate *v, struct sf_buf *out) {
    cli_heading(out, "assumed");
    for (size_t i = 0; i < v->rows_n; i++) {
        if (v->rows[i].assumed[0] != '\0') {
            sf_buf_printf(out, "  line %u %s: %s\n", v->rows[i].row.line, v->rows[i].row.case_id, v->rows[i].assumed);
        }
    }
}

static void summary_cells(struct cli_table *t, const struct sf_validation_summary *s) {
    cli_cell(t, "%s", s->source_file[0] ? s->source_file : "all");
    cli_cell(t, "%s%s", s->tier, s->assumed ? ", assumed" : "");
    cli_cell(t, "%u", s->rows);
    cli_cell(t, "%u", s->refused);
    cli_cell(t, "%u", s->calibration);
    cli_cell(t, "%u", s->n);
    if (s->n == 0) {
        for (int i = 0; i < 6; i++) {
            cli_cell(t, "%s", "");
        }
        return;
    }
    cli_cell(t, "%.1f %%", 100 * s->mean_abs);
    cli_cell(t, "%.1f %%", 100 * s->median_abs);
    cli_cell(t, "%.1f %%", 100 * s->max_abs);
    cli_cell(t, "%+.1f %%", 100 * s->bias);
    cli_cell(t, "%.3f", s->spearman);
    cli_cell(t, "%.0f %%", 100.0 * s->covered / s->n);
}

static const char *const summary_heads[] = {"table", "tier",   "rows", "refused", "calibration", "tested",
                                            "mean",  "median", "max",  "bias",    "spearman",    "covered"};
#define SUMMARY_COLUMNS (sizeof summary_heads / sizeof summary_heads[0])

static void print_summaries(const struct sf_validate *v, struct sf_buf *out) {
    struct cli_table t = {.align = "llrrrrrrrrrr"};
    cli_heading(out, "errors, absolute (calibration rows left out)");
    for (size_t i = 0; i < SUMMARY_COLUMNS; i++) {
        cli_cell(&t, "%s", summary_heads[i]);
    }
    for (size_t i = 0; i < v->summaries_n; i++) {
        summary_cells(&t, &v->summaries[i]);
    }
    cli_table_print(&t, "  ", out);
}

static void print_memory(const struct sf_validation_summary *all, struct sf_buf *out) {
    cli_heading(out, "peak memory, absolute errors");
    if (all->peaks == 0) {
        sf_buf_printf(out, "  no row that ran states a measured peak\n");
        return;
    }
    sf_buf_printf(out, "  %u rows: mean %.1f %%, max %.1f %%, furthest below what was measured %.1f %%\n", all->peaks,
                  100 * all->peak_mean_abs, 100 * all->peak_max_abs, -100 * all->peak_least);
}

static const char *goal_word(const struct sf_validation_goal *g) {
    return g->n == 0 ? "no rows" : g->met ? "met" : "not met";
}

static void print_goals(const struct sf_validate *v, struct sf_buf *out) {
    struct cli_table t = {.align = "lrlll"};
    const char *const heads[] = {"line", "n", "goal", "figure", ""};
    cli_heading(out, "goals");
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        cli_cell(&t, "%s", heads[i]);
    }
    for (size_t i = 0; i < v->goals_n; i++) {
        const struct sf_validation_goal *g = &v->goals[i];
        cli_cell(&t, "%s", g->name);
        cli_cell(&t, "%u", g->n);
        cli_cell(&t, "%s", g->promise);
        cli_cell(&t, "%s", g->n > 0 ? g->figure : "");
        cli_cell(&t, "%s", goal_word(g));
    }
    cli_table_print(&t, "  ", out);
}

static int print_text(const struct sf_validate *v, bool rows, struct sf_err *err) {
    struct sf_buf out = {0};
    if (rows) {
        print_rows(v, &out);
        print_assumed(v, &out);
        print_refusals(v, &out);
    }
    print_summaries(v, &out);
    print_memory(&v->summaries[v->summaries_n - 1], &out);
    print_goals(v, &out);
    return cli_print(&out, err);
}

/* ---- Markdown ---------------------------------------------------------------------------------------------------- */

static void markdown_summaries(const struct sf_validate *v, struct sf_buf *out) {
    struct cli_table t = {.align = ""};
    for (size_t i = 0; i < SUMMARY_COLUMNS; i++) {
        sf_buf_printf(out, "| %s ", summary_heads[i]);
    }
    sf_buf_printf(out, "|\n");
    for (size_t i = 0; i < SUMMARY_COLUMNS; i++) {
        sf_buf_printf(out, "|%s", i < 2 ? "---" : "--:");
    }
    sf_buf_printf(out, "|\n");
    for (size_t i = 0; i < v->summaries_n; i++) {
        summary_cells(&t, &v->summaries[i]);
    }
    const char *cell = t.cells.data;
    for (size_t i = 0; i < t.cells_n && !t.cells.failed; i++, cell += strlen(cell) + 1) {
        sf_buf_printf(out, "| %s %s", cell, i % SUMMARY_COLUMNS + 1 == SUMMARY_COLUMNS ? "|\n" : "");
    }
    out->failed |= t.cells.failed;
    sf_buf_free(&t.cells);
}

static void markdown_goals(const struct sf_validate *v, struct sf_buf *out) {
    sf_buf_printf(out, "\n## Goals\n\n| line | n | goal | figure | |\n|---|--:|---|---|---|\n");
    for (size_t i = 0; i < v->goals_n; i++) {
        const struct sf_validation_goal *g = &v->goals[i];
        sf_buf_printf(out, "| %s | %u | %s | %s | %s |\n", g->name, g->n, g->promise, g->n > 0 ? g->figure : "",
                      goal_word(g));
    }
    sf_buf_printf(
        out, "\nNot blind: the spread of H100s behind the loss per doubling, the settings of nemo-bridge behind "
             "GB300 and GB200,\nand the cheap kernels of megatron-zb behind Zero Bubble were chosen with those rows in "
             "view\n([calibration.md](calibration.md), \"Frameworks\"). What was tried on the lines that are not met, "
             "and what limits them,\nis there too.\n");
}

/* Tables of more rows than this are summarised only: --rows and --json have them all. */
#define MARKDOWN_ROWS_MAX 300

static uint32_t rows_of_table(const struct sf_validate *v, const char *source_file) {
    uint32_t n = 0;
    for (size_t i = 0; i < v->rows_n; i++) {
        n += v->rows[i].refused[0] == '\0' && strcmp(v->rows[i].row.source_file, source_file) == 0;
    }
    return n;
}

static void markdown_row(const struct sf_validation *r, struct sf_buf *out) {
    sf_buf_printf(out, "| %s%s%s | %s | %s | %s | %+.1f %% | %s | %s |\n", r->row.case_id, r->calibration ? " *" : "",
                  r->assumed[0] ? " +" : "", r->row.tier, cli_seconds(r->row.step_time_s), cli_seconds(r->predicted_s),
                  100 * r->error, sf_grade_name((int)r->grade), r->framework[0] ? r->framework : "none");
}

static void markdown_rows(const struct sf_validate *v, struct sf_buf *out) {
    const char *table = "";
    bool few = false;
    sf_buf_printf(out,
                  "\n## Rows\n\nRows marked * are calibration rows, those marked + rest on assumptions. Tables of more "
                  "than %d rows are left out; "
                  "`staticfire validate --rows` prints them.\n\n"
                  "| case | tier | measured | predicted | error | rests on | framework |\n"
                  "|---|---|--:|--:|--:|---|---|\n",
                  MARKDOWN_ROWS_MAX);
    for (size_t i = 0; i < v->rows_n; i++) {
        if (strcmp(table, v->rows[i].row.source_file) != 0) {
            table = v->rows[i].row.source_file;
            few = rows_of_table(v, table) <= MARKDOWN_ROWS_MAX;
        }
        if (few && v->rows[i].refused[0] == '\0') {
            markdown_row(&v->rows[i], out);
        }
    }
}

static void markdown_refused(const struct sf_validate *v, struct sf_buf *out) {
    sf_buf_printf(out, "\n## Refused\n\n| case | why |\n|---|---|\n");
    for (size_t i = 0; i < v->rows_n; i++) {
        if (v->rows[i].refused[0] != '\0') {
            sf_buf_printf(out, "| %s | %s |\n", v->rows[i].row.case_id, v->rows[i].refused);
        }
    }
}

static int print_markdown(const struct sf_validate *v, struct sf_err *err) {
    struct sf_buf out = {0};
    sf_buf_printf(
        &out,
        "# Accuracy\n\nWritten by `staticfire validate --markdown`. error = (predicted - measured) / "
        "measured.\nCalibration rows, named in topo/catalog/frameworks, leave the figures. Rows that leave something "
        "unstated are run as\n"
        "their framework does by default (index.yaml there says which, and why) and are counted apart: tiers marked\n"
        "assumed, and no part of the last line's errors.\n\n");
    markdown_summaries(v, &out);
    markdown_goals(v, &out);
    markdown_rows(v, &out);
    markdown_refused(v, &out);
    return cli_print(&out, err);
}

static int run_tables(struct cli *cli, const struct validate_args *a, char **tables, int tables_n,
                      struct sf_validate *out) {
    static const char *const published[] = {SF_PUBLISHED_DIR "/validation_cases.csv",
                                            SF_PUBLISHED_DIR "/more_cases.csv",
                                            SF_PUBLISHED_DIR "/vtrain_single_a100.csv"};
    struct cli_progress progress = cli_progress_begin("validating");
    const struct sf_validate_options o = {.catalog = cli->catalog,
                                          .tiers = a->tiers,
                                          .source_file = a->source_file,
                                          .no_frameworks = a->bare,
                                          .progress = cli_progress_update,
                                          .self = &progress};
    int rc = tables_n > 0
                 ? sf_validate_run(&sf_io_posix, (const char *const *)tables, (size_t)tables_n, &o, out, &cli->err)
                 : sf_validate_run(&sf_io_posix, published, sizeof published / sizeof published[0], &o, out, &cli->err);
    cli_progress_end(&progress);
    return rc;
}

int verb_validate(struct cli *cli, int argc, char **argv) {
    struct validate_args a = {0};
    const struct cli_option options[] = {
        {"tier", 't', CLI_TEXT, &a.tiers, "A,B", "only these tiers"},
        {"source", 's', CLI_TEXT, &a.source_file, "FILE", "only rows of this source_file"},
        {"rows", 'r', CLI_FLAG, &a.rows, NULL, "print every row and every refusal"},
        {"markdown", 'm', CLI_FLAG, &a.markdown, NULL, "print the page docs/accuracy.md"},
        {"bare", 0, CLI_FLAG, &a.bare, NULL, "kernels and network alone, without framework files"},
        {0},
    };
    int first;
    SF_TRY(cli_parse(cli, &usage, options, argc, argv, &first));
    if (a.markdown && cli->json) {
        return cli_fail_usage(cli, "validate", "--markdown and --json are two forms of output; leave one of them out");
    }
    struct sf_validate v;
    SF_TRY(run_tables(cli, &a, argv + first, argc - first, &v));
    int rc = cli->json    ? print_json(&v, &cli->err)
             : a.markdown ? print_markdown(&v, &cli->err)
                          : print_text(&v, a.rows, &cli->err);
    sf_validate_clear(&v);
    return rc;
}
