/* Rerunning a table of measured runs. */
#include "planner/validate.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/arena.h"
#include "core/doc.h"
#include "planner/search_internal.h"
#include "planner/validate_internal.h"

/* ---- frameworks -------------------------------------------------------------------------------------------------- */

struct frameworks {
    struct sf_doc *index; /* NULL: none wanted */
    const char *catalog;
    const struct sf_io *io;
};

static int load_framework(const struct frameworks *f, const struct sf_node *rule, const char *device,
                          struct sf_framework *out, struct sf_err *err) {
    const struct sf_node *n;
    const char *name;
    char path[1024];
    SF_TRY(sf_map_need(rule, "framework", &n, err));
    SF_TRY(sf_node_str(n, &name, err));
    snprintf(path, sizeof path, "%s/frameworks/%s.yaml", f->catalog, name);
    return sf_framework_load(f->io, path, device, out, err);
}

static bool is_assumption(const struct sf_node *rule) {
    return sf_map_find(rule, "assume") != NULL || sf_map_find(rule, "correct") != NULL;
}

/* A mistake in these files is not the fault of a row, so it is found before the first one. */
static int check_frameworks(const struct frameworks *f, struct sf_err *err) {
    const struct sf_node *root = sf_doc_root(f->index);
    struct sf_framework framework;
    if (!sf_node_is_seq(root)) {
        return sf_node_fail(root, err, "expected a list of { source_file, case, source, framework }");
    }
    for (size_t i = 0; i < sf_seq_size(root); i++) {
        if (!is_assumption(sf_seq_at(root, i))) {
            SF_TRY(load_framework(f, sf_seq_at(root, i), NULL, &framework, err));
        }
    }
    return 0;
}

static int open_frameworks(const struct sf_io *io, const struct sf_validate_options *o, struct frameworks *out,
                           struct sf_err *err) {
    char path[1024];
    *out = (struct frameworks){.catalog = o->catalog, .io = io};
    if (o->no_frameworks) {
        return 0;
    }
    snprintf(path, sizeof path, "%s/frameworks/index.yaml", o->catalog);
    SF_TRY(sf_doc_load(io, path, &out->index, err));
    return check_frameworks(out, err);
}

/* An optional key whose text must be part of `whole`. */
static int part_matches(const struct sf_node *rule, const char *key, const char *whole, bool *out, struct sf_err *err) {
    const struct sf_node *n = sf_map_find(rule, key);
    const char *part = "";
    if (n != NULL) {
        SF_TRY(sf_node_str(n, &part, err));
    }
    *out = *out && strstr(whole, part) != NULL;
    return 0;
}

static int rule_matches(const struct sf_node *rule, const struct sf_case *row, bool *out, struct sf_err *err) {
    static const char *const keys[] = {"source_file", "case",    "source",  "model", "framework",
                                       "assume",      "correct", "because", NULL};
    const struct sf_node *n;
    const char *table;
    SF_TRY(sf_map_only(rule, keys, err));
    SF_TRY(sf_map_need(rule, "source_file", &n, err));
    SF_TRY(sf_node_str(n, &table, err));
    *out = strcmp(table, row->source_file) == 0;
    SF_TRY(part_matches(rule, "case", row->case_id, out, err));
    SF_TRY(part_matches(rule, "model", row->model, out, err));
    return part_matches(rule, "source", row->source, out, err);
}

static int find_framework(const struct frameworks *f, const struct sf_case *row, const char *device, bool *found,
                          struct sf_framework *out, struct sf_err *err) {
    const struct sf_node *root = f->index ? sf_doc_root(f->index) : NULL;
    *found = false;
    for (size_t i = 0; root != NULL && i < sf_seq_size(root); i++) {
        SF_TRY(rule_matches(sf_seq_at(root, i), row, found, err));
        *found = *found && !is_assumption(sf_seq_at(root, i));
        if (*found) {
            return load_framework(f, sf_seq_at(root, i), device, out, err);
        }
    }
    return 0;
}

static int assume(const struct frameworks *f, struct sf_validation *v, struct sf_err *err) {
    const struct sf_node *root = f->index ? sf_doc_root(f->index) : NULL;
    for (size_t i = 0; root != NULL && i < sf_seq_size(root); i++) {
        bool matches = is_assumption(sf_seq_at(root, i));
        if (matches) {
            SF_TRY(rule_matches(sf_seq_at(root, i), &v->row, &matches, err));
        }
        if (matches) {
            SF_TRY(sfi_assume(sf_seq_at(root, i), v, err));
        }
    }
    return 0;
}

static bool lists(const char *words, const char *word) {
    size_t length = strlen(word);
    for (const char *at = strstr(words, word); at != NULL; at = strstr(at + 1, word)) {
        if ((at == words || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0')) {
            return true;
        }
    }
    return false;
}

/* ---- one row ----------------------------------------------------------------------------------------------------- */

struct run {
    const struct sf_io *io;
    const struct sf_validate_options *options;
    struct frameworks frameworks;
    struct sf_plan_result *result; /* scratch: too large for a stack */
};

/* PyTorch's allocator holds more than was asked for: blocks of 10 MiB and more grow in steps of 2 MiB, of which tensors
 * of about 100 MiB leave half a step unused (c10/cuda/CUDACachingAllocator.cpp, kRoundLarge). */
#define ALLOCATOR_SHARE 0.01

static void read_figures(const struct sf_plan_result *result, const struct sf_framework *framework,
                         struct sf_validation *out) {
    enum sf_grade grade = result->sim.grade;
    grade = framework->name[0] != '\0' && framework->grade > grade ? framework->grade : grade;
    out->predicted_s = sf_ps_to_s(result->sim.step_time);
    out->error = out->predicted_s / out->row.step_time_s - 1.0;
    out->interval = result->interval; /* the release follows when all rows are known: validate_stats.c */
    out->peak_bytes =
        (double)(framework->unfused_attention ? result->unfused_memory_bytes : result->sim.peak_memory_bytes) *
        (framework->name[0] != '\0' ? 1.0 + ALLOCATOR_SHARE : 1.0);
    out->peak_error = out->row.peak_mem_gb > 0 ? out->peak_bytes / 1e9 / out->row.peak_mem_gb - 1.0 : 0;
    out->breakdown = result->sim.breakdown;
    out->grade = grade;
}

/* Without its framework: what frameworks change is told from calibration rows. */
static int price_bare(const struct run *r, const struct sf_scenario *s, const struct sf_plan *plan,
                      struct sf_validation *out, struct sf_err *err) {
    struct sf_cost *cost = NULL;
    SF_TRY(sf_cost_create(s->topo, r->io, NULL, &cost, err));
    int rc = sfi_evaluate(s, cost, plan, r->result, err);
    out->bare_s = rc == 0 ? sf_ps_to_s(r->result->sim.step_time) : 0;
    sf_cost_free(cost);
    return rc;
}

static int price_row(const struct run *r, const struct sf_scenario *s, struct sf_validation *out, struct sf_err *err) {
    struct sf_cost *cost = NULL;
    struct sf_framework framework = {0};
    struct sf_plan plan;
    bool found;
    SF_TRY(find_framework(&r->frameworks, &out->row, sf_topo_device(s->topo)->name, &found, &framework, err));
    SF_TRY(sf_cost_create(s->topo, r->io, NULL, &cost, err));
    sfi_case_plan(&out->row, s, &plan);
    if (found) {
        struct sf_framework own = framework;
        own.resume_ps = sfi_case_waits(&plan, &framework) ? framework.resume_ps : 0;
        sf_cost_set_framework(cost, &own);
        snprintf(out->framework, sizeof out->framework, "%s", framework.name);
        out->calibration = lists(framework.calibration, out->row.case_id);
    }
    int rc = sfi_case_run(s, cost, &framework, &plan, r->result, err);
    if (rc == 0) {
        read_figures(r->result, &framework, out);
        snprintf(out->device, sizeof out->device, "%s", sf_topo_device(s->topo)->name);
        rc = out->calibration ? price_bare(r, s, &plan, out, err) : 0;
    }
    sf_cost_free(cost);
    return rc;
}

static int run_row(const struct run *r, struct sf_validation *out, struct sf_err *err) {
    struct sfi_case_files files;
    struct sf_scenario scenario = {0};
    int rc = sfi_case_files(r->io, &out->row, &files, err);
    rc = rc ? rc : sf_scenario_load(&files.io, SFI_CASE_SCENARIO, r->options->catalog, NULL, &scenario, err);
    rc = rc ? rc : price_row(r, &scenario, out, err);
    sf_scenario_clear(&scenario);
    sfi_case_files_clear(&files);
    return rc;
}

/* What the libraries refuse about a row is the row's fault; running out of memory or a bug is not. */
static int validate_row(const struct run *r, struct sf_validation *out, struct sf_err *err) {
    struct sf_err inner = {0};
    SF_TRY(assume(&r->frameworks, out, err));
    if (sfi_case_refuses(&out->row, out->refused, sizeof out->refused)) {
        return 0;
    }
    int rc = run_row(r, out, &inner);
    if (rc == SF_E_INPUT || rc == SF_E_NOPLAN) {
        snprintf(out->refused, sizeof out->refused, "%.500s", inner.msg);
        return 0;
    }
    if (rc != 0 && err != NULL) {
        *err = inner;
        return sf_err_wrap(err, "%s", out->row.case_id);
    }
    return rc;
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

static bool wanted(const struct sf_validate_options *o, const struct sf_case *c) {
    char padded[128], tier[16];
    snprintf(padded, sizeof padded, ",%s,", o->tiers != NULL ? o->tiers : c->tier);
    snprintf(tier, sizeof tier, ",%s,", c->tier);
    return strstr(padded, tier) != NULL && (o->source_file == NULL || strcmp(o->source_file, c->source_file) == 0);
}

static int append_rows(const struct sf_csv *csv, const struct sf_validate_options *o, struct sf_validate *out,
                       struct sf_err *err) {
    struct sfi_case_columns columns;
    SF_TRY(sfi_case_columns(csv, &columns, err));
    struct sf_validation *bigger = sf_realloc(out->rows, out->rows_n + csv->rows_n, sizeof *bigger);
    if (bigger == NULL) {
        return sf_fail_memory(err, "rows");
    }
    out->rows = bigger;
    for (size_t i = 1; i < csv->rows_n; i++) {
        struct sf_validation *v = &out->rows[out->rows_n];
        memset(v, 0, sizeof *v);
        SF_TRY(sfi_case_read(csv, &columns, i, &v->row, err));
        out->rows_n += wanted(o, &v->row);
    }
    return 0;
}

static int read_table(const struct run *r, const char *path, struct sf_validate *out, struct sf_err *err) {
    struct sf_csv csv;
    SF_TRY(sf_csv_load(r->io, path, &csv, err));
    int rc = append_rows(&csv, r->options, out, err);
    sf_csv_clear(&csv);
    return rc;
}

static int run_table(struct run *r, struct sf_validate *out, struct sf_err *err) {
    for (size_t i = 0; i < out->rows_n; i++) {
        SF_TRY(validate_row(r, &out->rows[i], err));
        if (r->options->progress != NULL) {
            r->options->progress(r->options->self, (double)(i + 1) / (double)out->rows_n);
        }
    }
    SF_TRY(sfi_validate_summarise(out, err));
    return sfi_validate_goals(out, err);
}

static int run_tables(struct run *r, const char *const *paths, size_t paths_n, struct sf_validate *out,
                      struct sf_err *err) {
    for (size_t i = 0; i < paths_n; i++) {
        SF_TRY(read_table(r, paths[i], out, err));
    }
    if (out->rows_n == 0) {
        const char *file = r->options->source_file, *tiers = r->options->tiers;
        return sf_fail(err, SF_E_INPUT, "no row of %s%s is%s%s%s%s: nothing to validate", paths[0],
                       paths_n > 1 ? " and the other tables" : "", file ? " of source_file " : "", file ? file : "",
                       tiers ? " of tier " : "",
                       tiers  ? tiers
                       : file ? ""
                              : " there");
    }
    SF_TRY(open_frameworks(r->io, r->options, &r->frameworks, err));
    return run_table(r, out, err);
}

int sf_validate_run(const struct sf_io *io, const char *const *paths, size_t paths_n,
                    const struct sf_validate_options *options, struct sf_validate *out, struct sf_err *err) {
    struct run r = {.io = io, .options = options, .result = sf_calloc(1, sizeof *r.result)};
    memset(out, 0, sizeof *out);
    int rc = r.result != NULL ? run_tables(&r, paths, paths_n, out, err) : sf_fail_memory(err, "plan");
    sf_doc_free(r.frameworks.index);
    sf_free(r.result);
    if (rc != 0) {
        sf_validate_clear(out);
    }
    return rc;
}

void sf_validate_clear(struct sf_validate *v) {
    sf_free(v->rows);
    sf_free(v->summaries);
    memset(v, 0, sizeof *v);
}
