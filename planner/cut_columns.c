#include "planner/cut_columns.h"

#include <stdio.h>
#include <string.h>

#define MOST_TIME (100 * SF_PS_PER_S)
#define MOST_BYTES (UINT64_C(64) << 40)

static int find_column(struct sfi_cut_table *t, size_t columns_n, size_t place, struct sf_err *err) {
    const char *name = sf_csv_at(&t->csv, 0, place);
    for (size_t i = 0; i < columns_n; i++) {
        if (strcmp(name, t->columns[i].name) == 0) {
            t->at[i] = (int)place;
            return 0;
        }
    }
    return sf_fail_at(err, SF_E_INPUT, t->csv.name, 1, 0, "unknown column \"%.40s\"", name);
}

int sfi_cut_table_load(const struct sf_io *io, const char *path, const struct sfi_cut_column *columns, size_t columns_n,
                       struct sfi_cut_table *out, struct sf_err *err) {
    *out = (struct sfi_cut_table){.columns = columns};
    for (size_t i = 0; i < SFI_CUT_COLUMNS; i++) {
        out->at[i] = -1;
    }
    SF_TRY(sf_csv_load(io, path, &out->csv, err));
    for (size_t i = 0; i < out->csv.columns_n; i++) {
        SF_TRY(find_column(out, columns_n, i, err));
    }
    for (size_t i = 0; i < columns_n; i++) {
        if (columns[i].needed && out->at[i] < 0) {
            return sf_fail_at(err, SF_E_INPUT, out->csv.name, 1, 0, "column \"%s\" is missing", columns[i].name);
        }
    }
    return 0;
}

const char *sfi_cut_text(const struct sfi_cut_table *t, size_t row, int column) {
    return t->at[column] < 0 ? "" : sf_csv_at(&t->csv, row, (size_t)t->at[column]);
}

int sfi_cut_fail(const struct sfi_cut_table *t, size_t row, int column, struct sf_err *err, const char *what) {
    return sf_fail_at(err, SF_E_INPUT, t->csv.name, t->csv.line[row], 0, "%s \"%.60s\": %s", t->columns[column].name,
                      sfi_cut_text(t, row, column), what);
}

int sfi_cut_count(const struct sfi_cut_table *t, size_t row, int column, uint32_t most, uint32_t *out,
                  struct sf_err *err) {
    char what[80];
    uint32_t n = 0;
    if (t->at[column] < 0) {
        return 0;
    }
    const char *text = sfi_cut_text(t, row, column);
    for (const char *c = text; *c >= '0' && *c <= '9' && n <= most; c++) {
        n = n * 10 + (uint32_t)(*c - '0');
    }
    if (n == 0 || n > most || strspn(text, "0123456789") != strlen(text)) {
        snprintf(what, sizeof what, "expected a whole number from 1 to %u", most);
        return sfi_cut_fail(t, row, column, err, what);
    }
    *out = n;
    return 0;
}

/* What a number that begins with its point lacks is easily overlooked. */
static int refuse(const struct sfi_cut_table *t, size_t row, int column, struct sf_err *err, const char *what) {
    bool point = sfi_cut_text(t, row, column)[0] == '.';
    return sfi_cut_fail(t, row, column, err, point ? "a digit is missing before the point" : what);
}

int sfi_cut_time(const struct sfi_cut_table *t, size_t row, int column, sf_time_ps *out, struct sf_err *err) {
    struct sf_err why = {0};
    if (sf_parse_time(sfi_cut_text(t, row, column), out, &why) != 0 || *out > MOST_TIME) {
        return refuse(t, row, column, err, "expected a time of at most 100 s, such as 4.1ms");
    }
    return 0;
}

int sfi_cut_bytes(const struct sfi_cut_table *t, size_t row, int column, uint64_t *out, struct sf_err *err) {
    struct sf_err why = {0};
    if (t->at[column] < 0) {
        return 0;
    }
    if (sf_parse_bytes(sfi_cut_text(t, row, column), out, &why) != 0 || *out > MOST_BYTES) {
        return refuse(t, row, column, err, "expected a size of at most 64 TiB, such as 500MB or 0B");
    }
    return 0;
}
