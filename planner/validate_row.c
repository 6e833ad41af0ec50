/* Reading one row of a table of measured runs, and refusing it when something is missing or cannot be expressed. */
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "planner/validate_internal.h"

enum column_kind { TEXT, COUNT, SECONDS, GIGABYTES, IGNORED };

struct column {
    const char *name;
    enum column_kind kind;
    size_t offset, size;
};

#define TEXT_AT(field) TEXT, offsetof(struct sf_case, field), sizeof(((struct sf_case *)0)->field)
#define COUNT_AT(field) COUNT, offsetof(struct sf_case, field), sizeof(uint32_t)
#define F64_AT(kind, field) kind, offsetof(struct sf_case, field), sizeof(double)

static const struct column columns[] = {
    {"case_id", TEXT_AT(case_id)},
    {"tier", TEXT_AT(tier)},
    {"source_file", TEXT_AT(source_file)},
    {"gpu", TEXT_AT(gpu)},
    {"model", TEXT_AT(model)},
    {"attention", TEXT_AT(attention)},
    {"recompute", TEXT_AT(recompute)},
    {"precision", TEXT_AT(precision)},
    {"schedule", TEXT_AT(schedule)},
    {"nvlink_domain_gpus", COUNT_AT(nvlink_domain_gpus)},
    {"nic_gbps_per_gpu", COUNT_AT(nic_gbps_per_gpu)},
    {"gpus", COUNT_AT(gpus)},
    {"layers", COUNT_AT(layers)},
    {"hidden", COUNT_AT(hidden)},
    {"heads", COUNT_AT(heads)},
    {"kv_heads", COUNT_AT(kv_heads)},
    {"head_dim", COUNT_AT(head_dim)},
    {"ffn", COUNT_AT(ffn)},
    {"gated_mlp", COUNT_AT(gated_mlp)},
    {"vocab", COUNT_AT(vocab)},
    {"seq_len_tokens", COUNT_AT(seq_len_tokens)},
    {"experts", COUNT_AT(experts)},
    {"topk", COUNT_AT(topk)},
    {"moe_ffn", COUNT_AT(moe_ffn)},
    {"shared_experts", COUNT_AT(shared_experts)},
    {"first_dense_layers", COUNT_AT(first_dense_layers)},
    {"tp", COUNT_AT(tp)},
    {"cp", COUNT_AT(cp)},
    {"pp", COUNT_AT(pp)},
    {"vpp_chunks_per_gpu", COUNT_AT(vpp)},
    {"ep", COUNT_AT(ep)},
    {"etp", COUNT_AT(etp)},
    {"dp", COUNT_AT(dp)},
    {"mbs_seqs", COUNT_AT(micro_batch)},
    {"gbs_seqs", COUNT_AT(global_batch)},
    {"microbatches", COUNT_AT(microbatches)},
    {"sequence_parallel", COUNT_AT(sequence_parallel)},
    {"zero_stage", COUNT_AT(zero)},
    {"step_time_s", F64_AT(SECONDS, step_time_s)},
    {"peak_mem_GB", F64_AT(GIGABYTES, peak_mem_gb)},
    {"source", TEXT_AT(source)},
    {"step_time_kind", IGNORED, 0, 0},
    {"assumptions", IGNORED, 0, 0},
    {"confirmed", IGNORED, 0, 0},
};
#define COLUMNS_N (sizeof columns / sizeof columns[0])
_Static_assert(COLUMNS_N <= 64, "sf_case.missing has a bit for each");

static int known_column(const char *name) {
    for (size_t i = 0; i < COLUMNS_N; i++) {
        if (strcmp(columns[i].name, name) == 0) {
            return (int)i;
        }
    }
    return -1;
}

int sfi_case_columns(const struct sf_csv *csv, struct sfi_case_columns *out, struct sf_err *err) {
    for (size_t i = 0; i < csv->columns_n; i++) {
        if (known_column(csv->field[i]) < 0) {
            return sf_fail_at(err, SF_E_INPUT, csv->name, 1, 0,
                              "unknown column \"%.60s\"; the columns are those of "
                              "tests/data/published/validation_cases.csv",
                              csv->field[i]);
        }
    }
    for (size_t i = 0; i < COLUMNS_N; i++) {
        out->at[i] = sf_csv_column(csv, columns[i].name);
        if (out->at[i] < 0) {
            return sf_fail_at(err, SF_E_INPUT, csv->name, 1, 0, "column \"%s\" is missing", columns[i].name);
        }
    }
    return 0;
}

static int bad_value(const struct sf_csv *csv, size_t row, const char *column, const char *expected, const char *found,
                     struct sf_err *err) {
    return sf_fail_at(err, SF_E_INPUT, csv->name, csv->line[row], 0, "%s: expected %s, found \"%.60s\"", column,
                      expected, found);
}

/* Whole numbers may be written 4.0, as tables out of spreadsheets are. */
static bool read_number(const char *text, double *out) {
    char *end;
    bool digits = (text[0] >= '0' && text[0] <= '9') || text[0] == '.';
    errno = 0;
    *out = strtod(text, &end);
    return digits && errno == 0 && *end == '\0' && strpbrk(text, "xXnN") == NULL;
}

static int read_cell(const struct sf_csv *csv, size_t row, size_t i, const char *text, struct sf_case *out,
                     struct sf_err *err) {
    const struct column *c = &columns[i];
    char *field = (char *)out + c->offset;
    double v;
    if (c->kind == TEXT) {
        if (strlen(text) >= c->size) {
            return bad_value(csv, row, c->name, "a shorter text", text, err);
        }
        memcpy(field, text, strlen(text) + 1);
        return 0;
    }
    if (!read_number(text, &v)) {
        return bad_value(csv, row, c->name, "a number", text, err);
    }
    if (c->kind == COUNT) {
        if (v > 4e9 || v != (double)(uint32_t)v) {
            return bad_value(csv, row, c->name, "a whole number up to 4e9", text, err);
        }
        *(uint32_t *)(void *)field = (uint32_t)v;
        return 0;
    }
    if (!(v > 0 && v < 1e9)) {
        return bad_value(csv, row, c->name, c->kind == SECONDS ? "seconds above 0" : "gigabytes above 0", text, err);
    }
    *(double *)(void *)field = v;
    return 0;
}

int sfi_case_read(const struct sf_csv *csv, const struct sfi_case_columns *at, size_t row, struct sf_case *out,
                  struct sf_err *err) {
    memset(out, 0, sizeof *out);
    out->line = csv->line[row];
    for (size_t i = 0; i < COLUMNS_N; i++) {
        const char *text = sf_csv_at(csv, row, (size_t)at->at[i]);
        if (text[0] == '\0') {
            out->missing |= UINT64_C(1) << i;
        } else if (columns[i].kind != IGNORED) {
            SF_TRY(read_cell(csv, row, i, text, out, err));
        }
    }
    return out->case_id[0] != '\0' ? 0 : bad_value(csv, row, "case_id", "a name", "", err);
}

static bool is_one_of(const char *text, const char *const words[]) {
    for (size_t i = 0; words[i] != NULL; i++) {
        if (strcmp(text, words[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* What no table has a column for. */
static const struct column extra_columns[] = {{"split", TEXT_AT(split)},
                                              {"moe_step", COUNT_AT(moe_step)},
                                              {"offload", COUNT_AT(offload)},
                                              {"mtp", COUNT_AT(mtp)}};

static const struct column *open_column(const char *name, int *index) {
    static const char *const open[] = {"recompute", "vocab",   "kv_heads",       "nic_gbps_per_gpu",   "etp",
                                       "ffn",       "moe_ffn", "shared_experts", "first_dense_layers", NULL};
    *index = is_one_of(name, open) ? known_column(name) : -1;
    for (size_t i = 0; i < sizeof extra_columns / sizeof extra_columns[0]; i++) {
        if (strcmp(extra_columns[i].name, name) == 0) {
            return &extra_columns[i];
        }
    }
    return *index >= 0 ? &columns[*index] : NULL;
}

static bool has_value(const struct sf_case *c, const struct column *column, int index) {
    const char *field = (const char *)c + column->offset;
    if (index >= 0) {
        return !(c->missing >> index & 1) && (column->kind == COUNT || strcmp(field, "unknown") != 0);
    }
    return column->kind == TEXT ? field[0] != '\0' : *(const uint32_t *)(const void *)field != 0;
}

static bool is_split(const char *text) {
    char copy[sizeof((struct sf_case *)0)->split], *rest = copy;
    struct sf_layout layout;
    snprintf(copy, sizeof copy, "%s", text);
    for (char *one = strtok_r(rest, " ", &rest); one != NULL; one = strtok_r(NULL, " ", &rest)) {
        if (strcmp(one, "ends") != 0 && sf_layout_parse(one, &layout, NULL) != 0) {
            return false;
        }
    }
    return strlen(text) < sizeof copy;
}

/* Only what frameworks have defaults for. */
int sfi_case_set(struct sf_case *c, const char *name, const char *value, bool replace, bool *set) {
    int i;
    const struct column *column = open_column(name, &i);
    double number = 0;
    if (column == NULL || (column->kind == COUNT && !(read_number(value, &number) && number < 4e9)) ||
        strlen(value) >= column->size + (column->kind == COUNT ? 16 : 0) ||
        (strcmp(name, "split") == 0 && !is_split(value))) {
        return SF_E_INPUT;
    }
    char *field = (char *)c + column->offset;
    *set = replace || !has_value(c, column, i);
    if (*set && column->kind == COUNT) {
        *(uint32_t *)(void *)field = (uint32_t)number;
    } else if (*set) {
        memcpy(field, value, strlen(value) + 1);
    }
    c->missing &= *set && i >= 0 ? ~(UINT64_C(1) << i) : UINT64_MAX;
    return 0;
}

/* ---- layers over stages ------------------------------------------------------------------------------------------ */

/* The layout of `split` that has as many stages. */
static bool find_layout(const char *split, uint32_t stages, struct sf_layout *out) {
    char text[sizeof((struct sf_case *)0)->split], *rest = text;
    snprintf(text, sizeof text, "%s", split);
    for (char *one = strtok_r(rest, " ", &rest); one != NULL; one = strtok_r(NULL, " ", &rest)) {
        if (sf_layout_parse(one, out, NULL) == 0 && out->stages == stages) {
            return true;
        }
    }
    return false;
}

static bool sum_is(const struct sf_layout *l, uint32_t layers) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < l->stages; i++) {
        sum += l->layers[i];
    }
    return sum == layers;
}

bool sfi_case_layers(const struct sf_case *c, uint32_t stages, struct sf_layout *out) {
    bool ends = strcmp(c->split, "ends") == 0 && stages > 1;
    if (stages == 0 || stages > SF_MAX_STAGES) {
        return false;
    }
    if (find_layout(c->split, stages, out) && sum_is(out, c->layers)) {
        return true;
    }
    uint32_t slots = c->layers + (ends && c->layers % stages != 0 ? 2 : 0);
    *out = (struct sf_layout){.stages = stages};
    for (uint32_t i = 0; i < stages; i++) {
        out->layers[i] = slots / stages;
    }
    if (slots > c->layers && slots >= stages) {
        out->layers[0]--;
        out->layers[stages - 1]--;
    }
    return slots % stages == 0 && slots >= stages;
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

struct reasons {
    char *text;
    size_t size, used;
};

static void refuse(struct reasons *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void refuse(struct reasons *r, const char *fmt, ...) {
    va_list ap;
    if (r->used > 0 && r->used + 3 < r->size) {
        r->used += (size_t)snprintf(r->text + r->used, r->size - r->used, "; ");
    }
    va_start(ap, fmt);
    int n = vsnprintf(r->text + r->used, r->size - r->used, fmt, ap);
    va_end(ap);
    r->used = n > 0 && r->used + (size_t)n < r->size ? r->used + (size_t)n : r->size - 1;
}

/* Facts without which nothing can be said, whatever the model. */
static void refuse_missing(const struct sf_case *c, struct reasons *r) {
    static const char *const needed[] = {
        "gpu",   "model",     "attention", "recompute",  "precision",    "schedule",           "nvlink_domain_gpus",
        "gpus",  "layers",    "hidden",    "heads",      "kv_heads",     "head_dim",           "ffn",
        "vocab", "gated_mlp", "tp",        "cp",         "pp",           "vpp_chunks_per_gpu", "seq_len_tokens",
        "dp",    "mbs_seqs",  "gbs_seqs",  "zero_stage", "microbatches", "sequence_parallel",  "step_time_s"};
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
        bool moe_width = c->experts > 0 && c->moe_ffn > 0 && strcmp(needed[i], "ffn") == 0;
        if (c->missing >> known_column(needed[i]) & 1 && !moe_width) {
            refuse(r, "%s is not stated", needed[i]);
        }
    }
    if (c->gpus > c->nvlink_domain_gpus && c->nic_gbps_per_gpu == 0) {
        refuse(r, "nic_gbps_per_gpu is not stated");
    }
    if (c->experts > 0 && (c->topk == 0 || c->ep == 0)) {
        refuse(r, "experts: %u without topk or ep", c->experts);
    }
}

static void refuse_model(const struct sf_case *c, struct reasons *r) {
    static const char *const attention[] = {"mha", "gqa", NULL};
    if (strcmp(c->attention, "mla") == 0 && sfi_case_latent(c) == NULL) {
        refuse(r, "attention mla with ranks that are not stated");
    } else if (strcmp(c->attention, "mla") != 0 && !is_one_of(c->attention, attention)) {
        refuse(r, "attention %s is not supported", c->attention);
    }
    if (c->experts == 0 && (c->shared_experts > 0 || c->first_dense_layers > 0)) {
        refuse(r, "shared_experts, first_dense_layers: without experts");
    }
    if (c->experts > 0 && c->gated_mlp == 0) {
        refuse(r, "gated_mlp: experts without a gate are not supported");
    }
    if (c->experts > 0 && c->etp > 1 && c->etp != c->tp) {
        refuse(r, "etp %u, neither 1 nor tp %u, is not supported", c->etp, c->tp);
    }
}

static void refuse_numerics(const struct sf_case *c, struct reasons *r) {
    int recompute;
    if (sfi_case_precision(c) == NULL) {
        refuse(r, "precision %s is not supported", c->precision);
    }
    if (strcmp(c->recompute, "unknown") == 0) {
        refuse(r, "recompute is not stated");
    } else if (!sfi_case_recompute(c, &recompute)) {
        refuse(r, "recompute %s is not supported", c->recompute);
    }
    if (c->zero > 3) {
        refuse(r, "zero_stage %u is not supported", c->zero);
    }
}

static void refuse_layout(const struct sf_case *c, struct reasons *r) {
    bool interleaved = strcmp(c->schedule, "interleaved 1F1B") == 0;
    uint64_t stages = (uint64_t)c->pp * c->vpp;
    struct sf_layout layout;
    if (stages > 0 && !sfi_case_layers(c, stages <= SF_MAX_STAGES ? (uint32_t)stages : 0, &layout)) {
        refuse(r, "layers: %u over pp %u stages of vpp_chunks_per_gpu %u: the uneven split is not stated", c->layers,
               c->pp, c->vpp);
    }
    if (c->pp > 1 && sfi_case_schedule(c) < 0) {
        refuse(r, "schedule %s is not supported", c->schedule);
    } else if (c->pp > 1 && interleaved != (c->vpp > 1)) {
        refuse(r, "schedule %s with vpp_chunks_per_gpu %u", c->schedule, c->vpp);
    }
    if (c->sequence_parallel == 0 && c->tp > 1 && c->experts > 0) {
        refuse(r, "sequence_parallel: experts with tp and without it are not supported");
    }
}

bool sfi_case_refuses(const struct sf_case *c, char *reason, size_t size) {
    struct reasons r = {.text = reason, .size = size};
    reason[0] = '\0';
    refuse_missing(c, &r);
    refuse_model(c, &r);
    refuse_numerics(c, &r);
    refuse_layout(c, &r);
    return r.used > 0;
}
