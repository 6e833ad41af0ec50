/* Reading the columns of tables of costs: which are there, and what their fields hold. */
#ifndef SF_PLANNER_CUT_COLUMNS_H
#define SF_PLANNER_CUT_COLUMNS_H

#include <stdbool.h>

#include "core/units.h"
#include "planner/csv.h"

#define SFI_CUT_COLUMNS 8

struct sfi_cut_column {
    const char *name;
    bool needed;
};

struct sfi_cut_table {
    struct sf_csv csv;
    const struct sfi_cut_column *columns;
    int at[SFI_CUT_COLUMNS]; /* in the file; -1: left out */
};

/* SF_E_INPUT for a column that is needed and missing, or one that nobody knows. */
int sfi_cut_table_load(const struct sf_io *io, const char *path, const struct sfi_cut_column *columns, size_t columns_n,
                       struct sfi_cut_table *out, struct sf_err *err);

/* "" where the column was left out. Rows count from 1, as the header is row 0. */
const char *sfi_cut_text(const struct sfi_cut_table *t, size_t row, int column);
/* SF_E_INPUT at the row's line, with the column and what it holds. */
int sfi_cut_fail(const struct sfi_cut_table *t, size_t row, int column, struct sf_err *err, const char *what);

/* A column that was left out leaves *out as it is. Counts are 1 to `most`, times at most 100 s, sizes 64 TiB. */
int sfi_cut_count(const struct sfi_cut_table *t, size_t row, int column, uint32_t most, uint32_t *out,
                  struct sf_err *err);
int sfi_cut_time(const struct sfi_cut_table *t, size_t row, int column, sf_time_ps *out, struct sf_err *err);
int sfi_cut_bytes(const struct sfi_cut_table *t, size_t row, int column, uint64_t *out, struct sf_err *err);

#endif
