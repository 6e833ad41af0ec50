#include "planner/csv.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "core/arena.h"

/* Reads from `at`, writes unquoted fields back over the same bytes: what is written is never longer than what was read.
 */
struct reader {
    struct sf_csv *csv;
    char *at, *end, *to;
    uint32_t line;
    size_t fields_n, room;
};

static int fail(const struct reader *r, struct sf_err *err, const char *what) {
    return sf_fail_at(err, SF_E_INPUT, r->csv->name, r->line, 0, "%s", what);
}

static int read_quoted(struct reader *r, struct sf_err *err) {
    uint32_t opened = r->line;
    for (r->at++; r->at < r->end; r->at++) {
        if (*r->at == '"' && r->at + 1 < r->end && r->at[1] == '"') {
            r->at++;
        } else if (*r->at == '"') {
            r->at++;
            if (r->at == r->end || *r->at == ',' || *r->at == '\n' || *r->at == '\r') {
                return 0;
            }
            return fail(r, err, "expected a comma or the end of the line after a closing quote");
        }
        r->line += *r->at == '\n';
        *r->to++ = *r->at;
    }
    r->line = opened;
    return fail(r, err, "a quote is opened here and never closed");
}

static int read_bare(struct reader *r, struct sf_err *err) {
    while (r->at < r->end && *r->at != ',' && *r->at != '\n' && *r->at != '\r') {
        if (*r->at == '"') {
            return fail(r, err, "a quote inside a field that does not begin with one: quote the whole field");
        }
        *r->to++ = *r->at++;
    }
    return 0;
}

static int add_field(struct reader *r, const char *field, struct sf_err *err) {
    if (r->fields_n == r->room) {
        size_t room = r->room == 0 ? 256 : 2 * r->room;
        const char **bigger = sf_calloc(room, sizeof *bigger);
        if (bigger == NULL) {
            return sf_fail_memory(err, "table");
        }
        if (r->fields_n > 0) {
            memcpy(bigger, r->csv->field, r->fields_n * sizeof *bigger);
        }
        sf_free(r->csv->field);
        r->csv->field = bigger;
        r->room = room;
    }
    r->csv->field[r->fields_n++] = field;
    return 0;
}

/* One record; *columns is how many fields it has. */
static int read_record(struct reader *r, size_t *columns, struct sf_err *err) {
    for (*columns = 1;; ++*columns) {
        char *field = r->to;
        SF_TRY(r->at < r->end && *r->at == '"' ? read_quoted(r, err) : read_bare(r, err));
        bool more = r->at < r->end && *r->at == ',';
        if (r->at < r->end && *r->at == '\r') {
            if (r->at + 1 == r->end || r->at[1] != '\n') {
                return fail(r, err, "a carriage return without a line feed");
            }
            r->at++;
        }
        r->at += r->at < r->end;
        *r->to++ = '\0'; /* over the comma or line feed just read, or the terminator of the text */
        SF_TRY(add_field(r, field, err));
        if (!more) {
            return 0;
        }
        if (*columns == SF_CSV_MAX_COLUMNS) {
            return fail(r, err, "more columns than the 256 supported");
        }
    }
}

static int check_width(const struct reader *r, uint32_t line, size_t columns, struct sf_err *err) {
    return columns == r->csv->columns_n
               ? 0
               : sf_fail_at(err, SF_E_INPUT, r->csv->name, line, 0, "expected %zu fields as in the header, found %zu",
                            r->csv->columns_n, columns);
}

static int read_records(struct reader *r, struct sf_err *err) {
    struct sf_csv *csv = r->csv;
    while (r->at < r->end) {
        size_t columns;
        uint32_t line = r->line;
        csv->line[csv->rows_n] = line;
        SF_TRY(read_record(r, &columns, err));
        csv->columns_n = csv->rows_n == 0 ? columns : csv->columns_n;
        SF_TRY(check_width(r, line, columns, err));
        csv->rows_n++;
        r->line++;
    }
    return csv->rows_n > 0 ? 0 : fail(r, err, "expected a header line, found an empty file");
}

static int check_header(const struct sf_csv *csv, struct sf_err *err) {
    for (size_t i = 0; i < csv->columns_n; i++) {
        if (sf_csv_column(csv, csv->field[i]) != (int)i) {
            return sf_fail_at(err, SF_E_INPUT, csv->name, 1, 0, "column \"%.60s\" appears twice", csv->field[i]);
        }
    }
    return 0;
}

static size_t count_lines(const char *text, size_t bytes) {
    size_t lines = 1;
    for (size_t i = 0; i < bytes; i++) {
        lines += text[i] == '\n';
    }
    return lines;
}

int sf_csv_parse(const char *text, size_t bytes, const char *name, struct sf_csv *out, struct sf_err *err) {
    memset(out, 0, sizeof *out);
    snprintf(out->name, sizeof out->name, "%s", name);
    if (bytes > SF_CSV_MAX_BYTES || memchr(text, '\0', bytes) != NULL) {
        return sf_fail_at(err, SF_E_INPUT, name, 0, 0, "expected text of at most %zu bytes", SF_CSV_MAX_BYTES);
    }
    out->text = sf_malloc(bytes + 1);
    out->line = sf_calloc(count_lines(text, bytes) + 1, sizeof *out->line);
    int rc = out->text != NULL && out->line != NULL ? 0 : sf_fail_memory(err, "table");
    if (rc == 0) {
        memcpy(out->text, text, bytes);
        out->text[bytes] = '\0';
        struct reader r = {.csv = out, .at = out->text, .end = out->text + bytes, .to = out->text, .line = 1};
        rc = read_records(&r, err);
    }
    rc = rc == 0 ? check_header(out, err) : rc;
    if (rc != 0) {
        sf_csv_clear(out);
    }
    return rc;
}

int sf_csv_load(const struct sf_io *io, const char *path, struct sf_csv *out, struct sf_err *err) {
    char *text = NULL;
    size_t bytes = 0;
    memset(out, 0, sizeof *out);
    SF_TRY(io->read_all(io->self, path, SF_CSV_MAX_BYTES, &text, &bytes, err));
    int rc = sf_csv_parse(text, bytes, path, out, err);
    sf_free(text);
    return rc;
}

void sf_csv_clear(struct sf_csv *csv) {
    sf_free(csv->field);
    sf_free(csv->line);
    sf_free(csv->text);
    memset(csv, 0, sizeof *csv);
}

int sf_csv_column(const struct sf_csv *csv, const char *name) {
    for (size_t i = 0; i < csv->columns_n; i++) {
        if (strcmp(csv->field[i], name) == 0) {
            return (int)i;
        }
    }
    return -1;
}
