/* Costs of stages: from a cut to a schedule. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/arena.h"
#include "planner/cut_columns.h"
#include "planner/cut_units.h"

enum { STAGE, F, B, W, ACTIVATION, COLUMNS_N };
static const struct sfi_cut_column columns[COLUMNS_N] = {
    {"stage", false}, {"f", true}, {"b", true}, {"w", true}, {"activation", false}};

void sf_stage_costs_print(const struct sf_cut_units *u, const struct sf_cut *cut, uint32_t stages_n,
                          struct sf_buf *out) {
    sf_buf_printf(out, "stage,f,b,w,activation\n");
    for (uint32_t s = 0; s < stages_n; s++) {
        struct sf_cut_stage c = sf_cut_stage_of(u, cut->first[s], cut->first[s + 1], cut->way[s]);
        sf_buf_printf(out, "%" PRIu32 ",%" PRId64 "ps,%" PRId64 "ps,%" PRId64 "ps,%" PRIu64 "B\n", s, c.f, c.b, c.w,
                      c.activation_bytes);
    }
}

static int allocate(size_t n, struct sf_stage_costs *c, struct sf_err *err) {
    c->f = sf_calloc(3 * n, sizeof *c->f);
    c->activation = sf_calloc(n, sizeof *c->activation);
    if (c->f == NULL || c->activation == NULL) {
        return sf_fail_memory(err, "costs of stages");
    }
    c->b = c->f + n;
    c->w = c->b + n;
    c->stages_n = (uint32_t)n;
    return 0;
}

static int read_stage(const struct sfi_cut_table *t, uint32_t s, struct sf_stage_costs *c, struct sf_err *err) {
    uint64_t bytes = 0;
    char place[16];
    size_t row = s + 1;
    SF_TRY(sfi_cut_time(t, row, F, &c->f[s], err));
    SF_TRY(sfi_cut_time(t, row, B, &c->b[s], err));
    SF_TRY(sfi_cut_time(t, row, W, &c->w[s], err));
    SF_TRY(sfi_cut_bytes(t, row, ACTIVATION, &bytes, err));
    c->activation[s] = (double)bytes;
    snprintf(place, sizeof place, "%" PRIu32, s);
    if (t->at[STAGE] >= 0 && strcmp(place, sfi_cut_text(t, row, STAGE)) != 0) {
        return sfi_cut_fail(t, row, STAGE, err, "expected stages 0, 1, 2 and so on, in this order");
    }
    return 0;
}

/* Shares of the mean stage; where no activation is said, all stages are alike in it. */
static int scale(const struct sfi_cut_table *t, struct sf_stage_costs *c, struct sf_err *err) {
    double sum = 0;
    sf_time_ps work = 0;
    for (uint32_t s = 0; s < c->stages_n; s++) {
        sum += c->activation[s];
        work |= c->f[s] | c->b[s] | c->w[s];
    }
    if (work == 0) {
        return sf_fail_at(err, SF_E_INPUT, t->csv.name, 2, 0, "expected a stage that takes time");
    }
    for (uint32_t s = 0; s < c->stages_n; s++) {
        c->activation[s] = sum > 0 ? c->activation[s] * c->stages_n / sum : 1;
    }
    return 0;
}

int sf_stage_costs_load(const struct sf_io *io, const char *path, struct sf_stage_costs *out, struct sf_err *err) {
    struct sfi_cut_table t;
    *out = (struct sf_stage_costs){0};
    int rc = sfi_cut_table_load(io, path, columns, COLUMNS_N, &t, err);
    size_t n = rc == 0 ? t.csv.rows_n - 1 : 0;
    if (rc == 0 && (n == 0 || n > SF_PIPE_MAX_STAGES)) {
        rc = sf_fail_at(err, SF_E_INPUT, t.csv.name, 1, 0, "expected 1 to %d stages below the header, found %zu",
                        SF_PIPE_MAX_STAGES, n);
    }
    rc = rc == 0 ? allocate(n, out, err) : rc;
    for (uint32_t s = 0; rc == 0 && s < n; s++) {
        rc = read_stage(&t, s, out, err);
    }
    rc = rc == 0 ? scale(&t, out, err) : rc;
    sf_csv_clear(&t.csv);
    if (rc != 0) {
        sf_stage_costs_clear(out);
    }
    return rc;
}

void sf_stage_costs_clear(struct sf_stage_costs *c) {
    sf_free(c->f);
    sf_free(c->activation);
    *c = (struct sf_stage_costs){0};
}

int sf_stage_costs_set(const struct sf_stage_costs *c, const struct sf_pipe *p, const struct sf_pipe_spec *spec,
                       struct sf_pipe_costs *out, struct sf_err *err) {
    if (c->stages_n != p->stages || p->ways != 1 || p->slices != 1) {
        return sf_fail(err, SF_E_INPUT,
                       "the table has costs of %u stages, and the schedule has %u (devices times chunks; one way, no "
                       "slices)",
                       c->stages_n, p->stages);
    }
    SF_TRY(sf_pipe_costs_create(p, spec, out, err));
    size_t n = p->stages;
    sf_time_ps *times = (void *)(uintptr_t)out->f;
    double *held = (void *)(uintptr_t)out->mem_f, keep = spec->weight_share > 0 ? spec->weight_share : 1;
    memcpy(times, c->f, 3 * n * sizeof *times);
    for (size_t s = 0; s < n; s++) {
        double mem = c->activation[s] * p->devices / (double)n; /* a device's mean share of a microbatch is 1 */
        held[s] = mem;
        held[n + s] = mem * (1 - keep);
        held[2 * n + s] = mem * keep;
    }
    return 0;
}
