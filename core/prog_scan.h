/* Reading the text form of a program line by line, with a position for every complaint. Nothing beyond the current line
 * is ever looked at, and the text needs no terminator. */
#ifndef SF_CORE_PROG_SCAN_H
#define SF_CORE_PROG_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "core/hash.h"

struct sfi_scan {
    const char *name; /* of the file */
    struct sf_err *err;
    const char *rest, *end;       /* text behind the current line */
    const char *line, *at, *stop; /* current line, place in it, its end */
    uint32_t line_n;
};

void sfi_scan_start(struct sfi_scan *s, const char *text, size_t bytes, const char *name, struct sf_err *err);

/* Fails at `at`, which must be in the current line. Returns SF_E_INPUT. */
int sfi_scan_fail(const struct sfi_scan *s, const char *at, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* "expected WHAT, found ..." at the current place. */
int sfi_scan_expected(const struct sfi_scan *s, const char *what);

/* Go to the next line that says something; at the end of the text to an empty one. */
void sfi_scan_next_line(struct sfi_scan *s);
/* The line must be over; go to the next. */
int sfi_scan_end_line(struct sfi_scan *s);
bool sfi_scan_at_end(struct sfi_scan *s); /* of the line; skips spaces */

/* Take the word if it comes next, complete. */
bool sfi_scan_word(struct sfi_scan *s, const char *word);
/* Take the character if it comes next; no spaces are skipped. */
bool sfi_scan_char(struct sfi_scan *s, char c);

/* A plain or quoted name, shorter than `size`. */
int sfi_scan_name(struct sfi_scan *s, char *out, size_t size);
/* A plain word, shorter than `size`; what = "a dtype" in messages. */
int sfi_scan_plain(struct sfi_scan *s, char *out, size_t size, const char *what);
int sfi_scan_uint(struct sfi_scan *s, uint64_t max, uint64_t *out);
int sfi_scan_int(struct sfi_scan *s, int64_t min, int64_t max, int64_t *out);
int sfi_scan_f32(struct sfi_scan *s, float *out);
int sfi_scan_f64(struct sfi_scan *s, double *out);
int sfi_scan_hash(struct sfi_scan *s, struct sf_hash *out);

#endif
