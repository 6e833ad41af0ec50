/* Errors: one object, filled by the layer that knows most, wrapped by those above it.
 *
 * Every fallible function returns 0 or an `enum sf_code` and takes `struct sf_err *err` last (NULL is allowed).
 * The codes are also the process exit codes, so a failure keeps its meaning up to the shell. */
#ifndef SF_CORE_ERR_H
#define SF_CORE_ERR_H

#include <stdint.h>

/* X(name, exit code, short text) */
#define SF_CODES(X)                                                                                                    \
    X(SF_OK, 0, "ok")                                                                                                  \
    X(SF_E_INTERNAL, 1, "internal error")                                                                              \
    X(SF_E_USAGE, 2, "usage")                                                                                          \
    X(SF_E_INPUT, 3, "invalid input")                                                                                  \
    X(SF_E_NOPLAN, 4, "no plan fits")                                                                                  \
    X(SF_E_TOLERANCE, 5, "outside tolerance")                                                                          \
    X(SF_E_FAULT, 6, "runtime fault")                                                                                  \
    X(SF_E_INTERRUPTED, 7, "interrupted")                                                                              \
    X(SF_E_IO, 8, "input/output error")

enum sf_code {
#define X(name, value, text) name = value,
    SF_CODES(X)
#undef X
};

struct sf_err {
    int code;        /* enum sf_code; 0 while nothing failed */
    uint32_t line;   /* 1-based; 0 when there is no position in a file */
    uint32_t column; /* 1-based; 0 when only the line is known */
    char file[256];  /* the input at fault, or "" */
    char msg[1024];  /* what was expected, what was found, what to do */
};

/* Short text of a code ("invalid input"); never NULL. */
const char *sf_code_text(int code);

/* Fill `err` with a message and return `code`, so that `return sf_fail(...)` reads as one step. */
int sf_fail(struct sf_err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The same with a position in an input file. `file` may be NULL. */
int sf_fail_at(struct sf_err *err, int code, const char *file, uint32_t line, uint32_t column, const char *fmt, ...)
    __attribute__((format(printf, 6, 7)));

/* Put "context: " in front of the message already in `err`; returns err's code. */
int sf_err_wrap(struct sf_err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Print "file:line:col: message" (or just the message) to stderr, one line, prefixed "staticfire: error: ". */
void sf_err_print(const struct sf_err *err);

/* Return from the caller, or jump to its clean-up label, when `call` fails. */
#define SF_TRY(call)                                                                                                   \
    do {                                                                                                               \
        int sf_try_code_ = (call);                                                                                     \
        if (sf_try_code_ != 0) {                                                                                       \
            return sf_try_code_;                                                                                       \
        }                                                                                                              \
    } while (0)

#define SF_TRY_GOTO(rc, call, label)                                                                                   \
    do {                                                                                                               \
        (rc) = (call);                                                                                                 \
        if ((rc) != 0) {                                                                                               \
            goto label;                                                                                                \
        }                                                                                                              \
    } while (0)

#endif
