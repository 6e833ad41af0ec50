#include "cli/print.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/arena.h"

static bool colour(void) {
    const char *none = getenv("NO_COLOR"), *term = getenv("TERM");
    return isatty(STDOUT_FILENO) && (none == NULL || none[0] == '\0') && term != NULL && strcmp(term, "dumb") != 0;
}

const char *cli_on(enum cli_style style) {
    static const char *const codes[] = {"\033[1m", "\033[2m", "\033[32m", "\033[31m", "\033[33m"};
    return colour() ? codes[style] : "";
}

const char *cli_off(void) {
    return colour() ? "\033[0m" : "";
}

int cli_print(struct sf_buf *out, struct sf_err *err) {
    int rc = 0;
    if (out->failed) {
        rc = sf_fail_memory(err, "output");
    } else if (fwrite(out->data, 1, out->bytes, stdout) != out->bytes || fflush(stdout) != 0) {
        rc = sf_fail(err, SF_E_IO, "cannot write to standard output: %s", strerror(errno));
    }
    sf_buf_free(out);
    return rc;
}

int cli_print_json(json_t *doc, struct sf_err *err) {
    char *text = doc == NULL ? NULL : json_dumps(doc, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
    json_decref(doc);
    if (text == NULL) {
        return sf_fail_memory(err, "JSON output");
    }
    struct sf_buf out = {0};
    sf_buf_printf(&out, "%s\n", text);
    free(text);
    return cli_print(&out, err);
}

void cli_cell(struct cli_table *t, const char *fmt, ...) {
    char text[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    sf_buf_write(&t->cells, text, strlen(text) + 1);
    t->cells_n++;
}

static void widths(const struct cli_table *t, size_t columns, size_t width[CLI_TABLE_COLUMNS]) {
    const char *cell = t->cells.data;
    for (size_t i = 0; i < t->cells_n; i++, cell += strlen(cell) + 1) {
        size_t w = strlen(cell);
        width[i % columns] = w > width[i % columns] ? w : width[i % columns];
    }
}

/* No blanks behind the last column: they only get in the way of copying and of diffs. */
static void cell_print(const char *cell, size_t width, bool right, bool last, struct sf_buf *out) {
    int pad = (int)(width - strlen(cell));
    sf_buf_printf(out, "%*s%s%*s", right ? pad : 0, "", cell, right || last ? 0 : pad, "");
    sf_buf_printf(out, "%s", last ? "" : "  ");
}

void cli_table_print(struct cli_table *t, const char *indent, struct sf_buf *out) {
    size_t columns = strlen(t->align), width[CLI_TABLE_COLUMNS] = {0};
    assert(columns <= CLI_TABLE_COLUMNS);
    if (!t->cells.failed && t->cells_n > 0) {
        widths(t, columns, width);
        const char *cell = t->cells.data;
        for (size_t i = 0; i < t->cells_n; i++, cell += strlen(cell) + 1) {
            size_t c = i % columns;
            sf_buf_printf(out, "%s%s", c == 0 ? indent : "", i == 0 ? cli_on(CLI_DIM) : "");
            cell_print(cell, width[c], t->align[c] == 'r', c + 1 == columns, out);
            sf_buf_printf(out, "%s%s", i + 1 == columns ? cli_off() : "", c + 1 == columns ? "\n" : "");
        }
    }
    out->failed |= t->cells.failed;
    sf_buf_free(&t->cells);
}

void cli_fact(struct sf_buf *out, const char *name, const char *fmt, ...) {
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    sf_buf_printf(out, "  %-24s %s\n", name, text);
}

void cli_heading(struct sf_buf *out, const char *text) {
    sf_buf_printf(out, "%s%s%s\n", cli_on(CLI_BOLD), text, cli_off());
}

json_t *cli_json_hash(struct sf_hash h) {
    char text[SF_HASH_TEXT];
    return json_string(sf_hash_format(h, text));
}

json_t *cli_json_text(const char *text) {
    json_t *s = json_string(text);
    if (s != NULL) {
        return s;
    }
    char safe[1024];
    size_t n = 0;
    for (; text[n] != '\0' && n + 1 < sizeof safe; n++) {
        safe[n] = (unsigned char)text[n] < 0x80 ? text[n] : '?';
    }
    safe[n] = '\0';
    return json_string(safe);
}

json_t *cli_json_u64(uint64_t n) {
    if (n <= INT64_MAX) {
        return json_integer((json_int_t)n);
    }
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, n);
    return json_string(text);
}

/* Several formatted numbers fit into one printf. */
#define TURNS 16
static char *turn(void) {
    static char bufs[TURNS][48];
    static unsigned next;
    return bufs[next++ % TURNS];
}

const char *cli_time(sf_time_ps t) {
    return sf_format_time(t, turn(), 48);
}

const char *cli_seconds(double seconds) {
    return cli_time(sf_s_to_ps(seconds));
}

const char *cli_bytes(uint64_t bytes) {
    return sf_format_bytes(bytes, turn(), 48);
}

const char *cli_count(uint64_t n) {
    return sf_format_count(n, turn(), 48);
}

const char *cli_flops(double per_s) {
    static const char *const units[] = {"FLOP/s", "kFLOP/s", "MFLOP/s", "GFLOP/s", "TFLOP/s"};
    size_t u = 0;
    while (per_s >= 1000 && u + 1 < sizeof units / sizeof *units) {
        per_s /= 1000;
        u++;
    }
    char *text = turn();
    snprintf(text, 48, "%.4g %s", per_s, units[u]);
    return text;
}

const char *cli_mfu(double mfu) {
    char *text = turn();
    snprintf(text, 48, "%.1f %%", mfu * 100);
    return mfu <= 1 ? text : "unknown";
}

json_t *cli_json_mfu(double mfu) {
    return mfu <= 1 ? json_real(mfu) : json_null();
}
