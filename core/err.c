#include "core/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *sf_code_text(int code) {
    switch (code) {
#define X(name, value, text)                                                                                           \
    case name:                                                                                                         \
        return text;
        SF_CODES(X)
#undef X
    default:
        return "unknown error";
    }
}

/* Messages quote input files; one printable line keeps terminals and log parsers safe from their control bytes. */
static void make_printable(char *s) {
    for (; *s != '\0'; s++) {
        if ((unsigned char)*s < 0x20 || *s == 0x7f) {
            *s = ' ';
        }
    }
}

static void copy_text(char *to, size_t size, const char *from) {
    size_t n = strnlen(from, size - 1);
    memmove(to, from, n);
    to[n] = '\0';
}

static int fill(struct sf_err *err, int code, const char *fmt, va_list args) {
    /* Arguments may point into err->msg, so format beside it first. */
    char text[sizeof err->msg];
    vsnprintf(text, sizeof text, fmt, args);
    make_printable(text);
    memcpy(err->msg, text, sizeof text);
    err->code = code;
    return code;
}

int sf_fail(struct sf_err *err, int code, const char *fmt, ...) {
    if (err != NULL) {
        va_list args;
        va_start(args, fmt);
        fill(err, code, fmt, args);
        va_end(args);
        err->line = err->column = 0;
        err->file[0] = '\0';
    }
    return code;
}

int sf_fail_at(struct sf_err *err, int code, const char *file, uint32_t line, uint32_t column, const char *fmt, ...) {
    if (err != NULL) {
        va_list args;
        va_start(args, fmt);
        fill(err, code, fmt, args);
        va_end(args);
        err->line = line;
        err->column = column;
        copy_text(err->file, sizeof err->file, file != NULL ? file : "");
        make_printable(err->file);
    }
    return code;
}

int sf_err_wrap(struct sf_err *err, const char *fmt, ...) {
    if (err == NULL) {
        return SF_E_INTERNAL;
    }
    char text[sizeof err->msg];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text - 2, fmt, args);
    va_end(args);
    size_t n = strlen(text);
    memcpy(text + n, ": ", 2);
    copy_text(text + n + 2, sizeof text - n - 2, err->msg);
    make_printable(text);
    memcpy(err->msg, text, sizeof text);
    return err->code;
}

void sf_err_print(const struct sf_err *err) {
    const char *msg = err->msg[0] != '\0' ? err->msg : sf_code_text(err->code);
    if (err->file[0] == '\0') {
        fprintf(stderr, "staticfire: error: %s\n", msg);
    } else if (err->line == 0) {
        fprintf(stderr, "staticfire: error: %s: %s\n", err->file, msg);
    } else if (err->column == 0) {
        fprintf(stderr, "staticfire: error: %s:%u: %s\n", err->file, err->line, msg);
    } else {
        fprintf(stderr, "staticfire: error: %s:%u:%u: %s\n", err->file, err->line, err->column, msg);
    }
}
