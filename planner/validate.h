/* Rerunning measured training runs: every row of a table becomes a scenario and a plan, is compiled, simulated and
 * compared with what was measured. A row that lacks a fact, or asks for something a program cannot express, is refused
 * with the reason; nothing about a row is ever guessed silently.
 *
 * Frameworks. frameworks/index.yaml of the catalog says which framework file runs the rows of which table:
 *   - { source_file: x.csv, case: v3.1, source: "@v24.11", framework: nemo }
 * `case` and `source` are optional: text that the row's case_id and source contain.
 * The first that matches counts; rows of other tables run without one. Rows listed as calibration in the framework file
 * are rerun and shown, but are no part of any summary.
 *
 * Assumptions. Other entries of that file, all that match, say what a framework does when a row does not:
 *   - { source_file: x.csv, model: Llama, assume: { recompute: none }, because: "its default, file of its source" }
 * `assume` fills what is missing or unknown, `correct` replaces what another source shows to be wrong. Such rows say so
 * and are counted apart. */
#ifndef SF_PLANNER_VALIDATE_H
#define SF_PLANNER_VALIDATE_H

#include <stdbool.h>

#include "planner/csv.h"
#include "planner/search.h"

struct sf_case { /* one row of the table, as read */
    char case_id[96], tier[8], source_file[96], source[256], gpu[32], model[64], attention[16], recompute[48],
        precision[48];
    char schedule[48];
    /* No column. Layers over stages: "" even; "ends": embedding and loss count as a layer each; or layouts
     * (plan_layout.h), of which the one with as many stages is meant. */
    char split[160];
    uint32_t moe_step; /* no column: every so many-th layer has experts; 0: all */
    uint32_t offload;  /* no column: layers of a virtual stage whose activations wait on the host */
    uint32_t mtp;      /* no column: layers that predict further */
    uint32_t nvlink_domain_gpus, nic_gbps_per_gpu, gpus, layers, hidden, heads, kv_heads, head_dim, ffn, gated_mlp;
    uint32_t vocab, seq_len_tokens, experts, topk, moe_ffn, shared_experts, first_dense_layers;
    uint32_t tp, cp, pp, vpp, ep, etp, dp, micro_batch, global_batch, microbatches, sequence_parallel, zero;
    double step_time_s, peak_mem_gb; /* peak 0: not measured */
    uint32_t line;
    uint64_t missing; /* bit set over the columns without a value, in the order of validate_row.c */
};

struct sf_validation {
    struct sf_case row;
    bool calibration;
    char framework[48]; /* "" without one */
    char refused[512];  /* "" when it ran */
    char assumed[512];  /* what was not in the row, and why it is thought to be so; "" for nothing */
    double predicted_s, error, low_s, high_s, peak_bytes, peak_error;
    struct sf_breakdown breakdown;
    struct sf_interval interval; /* low_s and high_s are its */
    char device[32];             /* class in the catalog */
    double bare_s;               /* of a calibration row: predicted without the framework */
    enum sf_grade grade;
};

struct sf_validation_summary {
    char source_file[96], tier[8]; /* "" of both: everything */
    bool assumed;                  /* of rows that rest on assumptions, which no other summary counts in its errors */
    uint32_t rows, n, refused, calibration, covered, assumed_rows;
    double mean_abs, median_abs, max_abs, bias, spearman; /* of the n rows that ran and calibrated nothing */
    uint32_t peaks;                                       /* rows that ran and whose peak memory was measured */
    double peak_mean_abs, peak_max_abs, peak_least;       /* least: the signed error furthest below 0, or 0 */
};

/* A line of what the published rows were promised to show, whether or not the tables with its rows were read (n 0). */
struct sf_validation_goal {
    char name[96], promise[96], figure[128];
    uint32_t n; /* rows or pairs behind the figure */
    bool met;
};
#define SF_VALIDATION_GOALS 16

struct sf_validate_options {
    const char *catalog;
    const char *tiers;       /* "A,B"; NULL: all */
    const char *source_file; /* NULL: all */
    bool no_frameworks;
    void (*progress)(void *self, double fraction);
    void *self;
};

struct sf_validate {
    struct sf_validation *rows;
    size_t rows_n;
    struct sf_validation_summary
        *summaries; /* per source_file and tier in order of first appearance, then everything */
    size_t summaries_n;
    struct sf_validation_goal goals[SF_VALIDATION_GOALS];
    size_t goals_n;
};

/* Rows of all tables, one after the other. */
int sf_validate_run(const struct sf_io *io, const char *const *paths, size_t paths_n,
                    const struct sf_validate_options *options, struct sf_validate *out, struct sf_err *err);
void sf_validate_clear(struct sf_validate *v); /* legal on a zeroed one */

#endif
