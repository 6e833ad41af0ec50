/* Results on stdout: buffers, tables with aligned columns, JSON, and colour where a person is looking. */
#ifndef SF_CLI_PRINT_H
#define SF_CLI_PRINT_H

#include <jansson.h>

#include "cli/cli.h"
#include "core/hash.h"
#include "core/units.h"

enum cli_style { CLI_BOLD, CLI_DIM, CLI_GREEN, CLI_RED, CLI_YELLOW };
/* Escape codes; "" when stdout is no terminal, NO_COLOR is set or TERM is dumb. */
const char *cli_on(enum cli_style style);
const char *cli_off(void);

/* Writes the buffer to stdout and flushes; SF_E_IO when that fails. Frees the buffer in any case. */
int cli_print(struct sf_buf *out, struct sf_err *err);
/* The same for a JSON document; releases `doc`, of which NULL means out of memory. */
int cli_print_json(json_t *doc, struct sf_err *err);

/* Columns are as wide as their widest cell. `align` has one letter per column: l or r. */
#define CLI_TABLE_COLUMNS 24
struct cli_table {
    const char *align;
    struct sf_buf cells; /* NUL-terminated, row after row */
    size_t cells_n;
};
void cli_cell(struct cli_table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Appends the table to `out`, the first row as a heading, and frees it. */
void cli_table_print(struct cli_table *t, const char *indent, struct sf_buf *out);

/* "  name   value" lines of a summary. */
void cli_fact(struct sf_buf *out, const char *name, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void cli_heading(struct sf_buf *out, const char *text);

json_t *cli_json_hash(struct sf_hash h);
/* Strings from files may hold any byte; JSON takes UTF-8 only. */
json_t *cli_json_text(const char *text);
/* "1.234 s" of seconds in floating point; the buffer is one of a few, reused in turn. */
const char *cli_seconds(double seconds);
const char *cli_time(sf_time_ps t);
const char *cli_bytes(uint64_t bytes);
const char *cli_count(uint64_t n);
const char *cli_flops(double per_s); /* "2450 TFLOP/s", "50 GFLOP/s" */
/* "29.4 %". A share of a peak above 1 says that the peak is a guess: "unknown", and null in JSON. */
const char *cli_mfu(double mfu);
json_t *cli_json_mfu(double mfu);
/* JSON integers are signed: what does not fit becomes a string. */
json_t *cli_json_u64(uint64_t n);

#endif
