#include "planner/calib_csv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct columns {
    int m, n, k, dtype, time;
    double unit_s; /* of the time column; 0: it holds TFLOP/s */
};

static int find_columns(const struct sf_csv *csv, struct columns *out, struct sf_err *err) {
    static const struct {
        const char *name;
        double unit_s;
    } times[] = {{"time_us", 1e-6}, {"time_ms", 1e-3}, {"time_s", 1.0}, {"time_ns", 1e-9}, {"tflops", 0.0}};
    static const char *const names[] = {"m", "n", "k", "dtype"};
    int *const at[] = {&out->m, &out->n, &out->k, &out->dtype};
    for (size_t i = 0; i < 4; i++) {
        *at[i] = sf_csv_column(csv, names[i]);
        if (*at[i] < 0) {
            return sf_fail_at(err, SF_E_INPUT, csv->name, 1, 0,
                              "column \"%s\" is missing: expected m, n, k, dtype and time_us or tflops", names[i]);
        }
    }
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        out->time = sf_csv_column(csv, times[i].name);
        out->unit_s = times[i].unit_s;
        if (out->time >= 0) {
            return SF_OK;
        }
    }
    return sf_fail_at(err, SF_E_INPUT, csv->name, 1, 0,
                      "no column of times: expected time_s, time_ms, time_us, time_ns or tflops");
}

static int read_number(const struct sf_csv *csv, size_t row, int column, double most, double *out, struct sf_err *err) {
    const char *text = sf_csv_at(csv, row, (size_t)column);
    char *end;
    errno = 0;
    *out = strtod(text, &end);
    bool plain = ((text[0] >= '0' && text[0] <= '9') || text[0] == '.') && !strpbrk(text, "xXpPnN");
    if (!plain || errno != 0 || *end != '\0' || !(*out > 0.0 && *out <= most)) {
        return sf_fail_at(err, SF_E_INPUT, csv->name, csv->line[row], 0,
                          "%s: expected a number above 0 and at most %g, found \"%.60s\"",
                          sf_csv_at(csv, 0, (size_t)column), most, text);
    }
    return SF_OK;
}

static int read_dim(const struct sf_csv *csv, size_t row, int column, int64_t *out, struct sf_err *err) {
    double v;
    SF_TRY(read_number(csv, row, column, 1e9, &v, err));
    *out = (int64_t)v;
    return (double)*out == v ? SF_OK
                             : sf_fail_at(err, SF_E_INPUT, csv->name, csv->line[row], 0,
                                          "%s: expected a whole number, found \"%.60s\"",
                                          sf_csv_at(csv, 0, (size_t)column), sf_csv_at(csv, row, (size_t)column));
}

/* -1 for a precision that programs do not have. */
static int dtype_of(const char *word) {
    static const struct {
        const char *name;
        int dtype;
    } known[] = {{"f32", SF_F32},   {"fp32", SF_F32}, {"float32", SF_F32},  {"bf16", SF_BF16}, {"bfloat16", SF_BF16},
                 {"fp16", SF_BF16}, {"f16", SF_BF16}, {"float16", SF_BF16}, {"fp8", SF_FP8},   {"float8", SF_FP8}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(word, known[i].name) == 0) {
            return known[i].dtype;
        }
    }
    return -1;
}

static int read_row(struct sf_calib_data *d, const struct sf_csv *csv, const struct columns *c, size_t i,
                    struct sf_err *err) {
    struct sf_calib_row row = {.kind = SF_CALL_GEMM, .flags = SF_CALL_TB_FLAG, .dims = {0, 0, 0, 1}};
    int dtype = dtype_of(sf_csv_at(csv, i, (size_t)c->dtype));
    double v;
    SF_TRY(read_dim(csv, i, c->m, &row.dims[0], err));
    SF_TRY(read_dim(csv, i, c->n, &row.dims[1], err));
    SF_TRY(read_dim(csv, i, c->k, &row.dims[2], err));
    SF_TRY(read_number(csv, i, c->time, 1e12, &v, err));
    double flops = 2.0 * (double)row.dims[0] * (double)row.dims[1] * (double)row.dims[2];
    row.time_s = c->unit_s > 0.0 ? v * c->unit_s : flops / (v * 1e12);
    if (dtype < 0) {
        d->source[d->sources_n - 1].left_out++;
        return SF_OK;
    }
    row.dtype = (uint16_t)dtype;
    int rc = sf_calib_add_row(d, &row, err);
    return rc ? sf_err_wrap(err, "%s:%u", csv->name, csv->line[i]) : SF_OK;
}

int sf_calib_read_gemm(struct sf_calib_data *d, const char *text, size_t bytes, const char *path, struct sf_err *err) {
    struct sf_csv csv;
    struct columns columns;
    SF_TRY(sf_calib_source(d, path, "gemm", sf_hash_bytes(text, bytes), err));
    SF_TRY(sf_csv_parse(text, bytes, path, &csv, err));
    int rc = find_columns(&csv, &columns, err);
    for (size_t i = 1; i < csv.rows_n && rc == SF_OK; i++) {
        rc = read_row(d, &csv, &columns, i, err);
    }
    sf_csv_clear(&csv);
    return rc;
}
