#include "core/prog_scan.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/prog_text.h"

#define LONGEST_NUMBER 47

void sfi_scan_start(struct sfi_scan *s, const char *text, size_t bytes, const char *name, struct sf_err *err) {
    *s = (struct sfi_scan){.name = name, .err = err, .rest = text, .end = text + bytes};
    s->line = s->at = s->stop = text;
    sfi_scan_next_line(s);
}

int sfi_scan_fail(const struct sfi_scan *s, const char *at, const char *fmt, ...) {
    char msg[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(msg, sizeof msg, fmt, args);
    va_end(args);
    return sf_fail_at(s->err, SF_E_INPUT, s->name, s->line_n, (uint32_t)(at - s->line) + 1, "%s", msg);
}

static bool is_space(char c) {
    return c == ' ' || c == '\t';
}

int sfi_scan_expected(const struct sfi_scan *s, const char *what) {
    int n = 0;
    while (n < 40 && s->at + n < s->stop && !is_space(s->at[n])) {
        n++;
    }
    if (n == 0) {
        return sfi_scan_fail(s, s->at, "expected %s, found the end of the %s", what,
                             s->stop == s->end && s->rest == s->end ? "text" : "line");
    }
    return sfi_scan_fail(s, s->at, "expected %s, found \"%.*s\"", what, n, s->at);
}

void sfi_scan_next_line(struct sfi_scan *s) {
    for (;;) {
        s->line = s->at = s->stop = s->rest;
        s->line_n++;
        if (s->rest == s->end) {
            return;
        }
        const char *newline = memchr(s->rest, '\n', (size_t)(s->end - s->rest));
        s->stop = newline != NULL ? newline : s->end;
        s->rest = newline != NULL ? newline + 1 : s->end;
        if (s->stop > s->line && s->stop[-1] == '\r') {
            s->stop--;
        }
        bool comment = !sfi_scan_at_end(s) && s->stop - s->at >= 2 && s->at[0] == '/' && s->at[1] == '/';
        if (s->at < s->stop && !comment) {
            return;
        }
    }
}

bool sfi_scan_at_end(struct sfi_scan *s) {
    while (s->at < s->stop && is_space(*s->at)) {
        s->at++;
    }
    return s->at == s->stop;
}

int sfi_scan_end_line(struct sfi_scan *s) {
    if (!sfi_scan_at_end(s)) {
        return sfi_scan_expected(s, "the end of the line");
    }
    sfi_scan_next_line(s);
    return 0;
}

bool sfi_scan_word(struct sfi_scan *s, const char *word) {
    sfi_scan_at_end(s);
    size_t n = strlen(word), left = (size_t)(s->stop - s->at);
    if (left < n || memcmp(s->at, word, n) != 0 || (left > n && !is_space(s->at[n]))) {
        return false;
    }
    s->at += n;
    return true;
}

bool sfi_scan_char(struct sfi_scan *s, char c) {
    if (s->at == s->stop || *s->at != c) {
        return false;
    }
    s->at++;
    return true;
}

int sfi_scan_plain(struct sfi_scan *s, char *out, size_t size, const char *what) {
    size_t n = 0;
    while (s->at + n < s->stop && n < size && sfi_is_plain(s->at + n, 1)) {
        n++;
    }
    if (n == 0 || n == size) {
        return sfi_scan_expected(s, what);
    }
    memcpy(out, s->at, n);
    out[n] = '\0';
    s->at += n;
    return 0;
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One character of a quoted name, which may be escaped. */
static int scan_quoted(struct sfi_scan *s, char *out) {
    const char *at = s->at;
    unsigned char c = (unsigned char)*s->at++;
    if (c < 0x20 || c >= 0x7f) {
        return sfi_scan_fail(s, at, "expected a printable character or \\x and two digits, found the byte 0x%02x", c);
    }
    if (c != '\\') {
        *out = (char)c;
        return 0;
    }
    size_t left = (size_t)(s->stop - s->at);
    if (left >= 1 && (s->at[0] == '"' || s->at[0] == '\\')) {
        *out = *s->at++;
        return 0;
    }
    int high = left >= 3 && s->at[0] == 'x' ? hex_digit(s->at[1]) : -1, low = high >= 0 ? hex_digit(s->at[2]) : -1;
    if (low < 0 || (high == 0 && low == 0)) {
        return sfi_scan_fail(s, at, "expected one of \\\" \\\\ \\x01 to \\xff");
    }
    *out = (char)(high << 4 | low);
    s->at += 3;
    return 0;
}

int sfi_scan_name(struct sfi_scan *s, char *out, size_t size) {
    sfi_scan_at_end(s);
    const char *start = s->at;
    if (!sfi_scan_char(s, '"')) {
        return sfi_scan_plain(s, out, size, "a name");
    }
    memset(out, 0, size);
    for (size_t n = 0; !sfi_scan_char(s, '"'); n++) {
        if (s->at == s->stop) {
            return sfi_scan_fail(s, start, "expected a name in quotes, its closing quote is missing");
        }
        if (n + 1 == size) {
            return sfi_scan_fail(s, start, "expected a name of at most %zu bytes", size - 1);
        }
        SF_TRY(scan_quoted(s, &out[n]));
    }
    return 0;
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

int sfi_scan_uint(struct sfi_scan *s, uint64_t max, uint64_t *out) {
    const char *c = s->at;
    uint64_t value = 0;
    bool fits = true;
    for (; c < s->stop && is_digit(*c); c++) {
        fits = fits && !__builtin_mul_overflow(value, UINT64_C(10), &value) &&
               !__builtin_add_overflow(value, (uint64_t)(*c - '0'), &value);
    }
    if (c == s->at || !fits || value > max || (c - s->at > 1 && *s->at == '0')) {
        char what[64];
        snprintf(what, sizeof what, "a whole number up to %" PRIu64, max);
        return sfi_scan_expected(s, what);
    }
    s->at = c;
    *out = value;
    return 0;
}

int sfi_scan_int(struct sfi_scan *s, int64_t min, int64_t max, int64_t *out) {
    bool negative = sfi_scan_char(s, '-');
    uint64_t magnitude = 0;
    if (!negative) {
        sfi_scan_char(s, '+');
    }
    SF_TRY(sfi_scan_uint(s, negative ? (uint64_t)0 - (uint64_t)min : (uint64_t)max, &magnitude));
    *out = negative ? (int64_t)((uint64_t)0 - magnitude) : (int64_t)magnitude;
    return 0;
}

/* A terminated copy of the characters a decimal number can have. */
static int scan_real(struct sfi_scan *s, char text[LONGEST_NUMBER + 1]) {
    size_t n = 0;
    while (s->at + n < s->stop && n < LONGEST_NUMBER && (is_digit(s->at[n]) || strchr("+-.e", s->at[n]) != NULL) &&
           s->at[n] != '\0') {
        text[n] = s->at[n];
        n++;
    }
    text[n] = '\0';
    char *end;
    if (n == 0 || !isfinite(strtod(text, &end)) || *end != '\0' || !is_digit(text[n - 1])) {
        return sfi_scan_expected(s, "a number");
    }
    s->at += n;
    return 0;
}

int sfi_scan_f32(struct sfi_scan *s, float *out) {
    char text[LONGEST_NUMBER + 1];
    const char *start = s->at;
    SF_TRY(scan_real(s, text));
    *out = strtof(text, NULL);
    return isfinite(*out) ? 0 : sfi_scan_fail(s, start, "the number does not fit in 32 bits");
}

int sfi_scan_f64(struct sfi_scan *s, double *out) {
    char text[LONGEST_NUMBER + 1];
    SF_TRY(scan_real(s, text));
    *out = strtod(text, NULL);
    return 0;
}

int sfi_scan_hash(struct sfi_scan *s, struct sf_hash *out) {
    sfi_scan_at_end(s);
    uint64_t half[2] = {0, 0};
    for (int i = 0; i < 32; i++) {
        int digit = s->at + i < s->stop ? hex_digit(s->at[i]) : -1;
        if (digit < 0) {
            return sfi_scan_expected(s, "32 hexadecimal digits");
        }
        half[i / 16] = half[i / 16] << 4 | (uint64_t)digit;
    }
    s->at += 32;
    *out = (struct sf_hash){.hi = half[0], .lo = half[1]};
    return 0;
}
