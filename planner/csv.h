/* Tables in CSV: a header, then records. Fields may be quoted, quotes inside are doubled, quoted fields may hold commas
 * and line breaks. Every record has as many fields as the header. */
#ifndef SF_PLANNER_CSV_H
#define SF_PLANNER_CSV_H

#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "core/io.h"

#define SF_CSV_MAX_BYTES ((size_t)64 << 20)
#define SF_CSV_MAX_COLUMNS 256

struct sf_csv {
    char name[256];
    char *text;               /* owns every field */
    const char **field;       /* [rows_n * columns_n], the header first */
    uint32_t *line;           /* [rows_n] where each record begins */
    size_t columns_n, rows_n; /* rows_n counts the header */
};

int sf_csv_load(const struct sf_io *io, const char *path, struct sf_csv *out, struct sf_err *err);
int sf_csv_parse(const char *text, size_t bytes, const char *name, struct sf_csv *out, struct sf_err *err);
void sf_csv_clear(struct sf_csv *csv); /* legal on a zeroed one */
/* Index of a column, or -1. */
int sf_csv_column(const struct sf_csv *csv, const char *name);
static inline const char *sf_csv_at(const struct sf_csv *csv, size_t row, size_t column) {
    return csv->field[row * csv->columns_n + column];
}

#endif
