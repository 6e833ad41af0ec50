#include "core/doc.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/doc_node.h"

const struct sf_node *sf_doc_root(const struct sf_doc *doc) {
    return doc->root;
}

const char *sf_doc_name(const struct sf_doc *doc) {
    return doc->name;
}

bool sf_node_is_map(const struct sf_node *n) {
    return n->kind == SF_NODE_MAP;
}

bool sf_node_is_seq(const struct sf_node *n) {
    return n->kind == SF_NODE_SEQ;
}

bool sf_node_is_null(const struct sf_node *n) {
    return n->kind == SF_NODE_PLAIN &&
           (n->text[0] == '\0' || strcmp(n->text, "null") == 0 || strcmp(n->text, "~") == 0);
}

int sf_node_fail(const struct sf_node *n, struct sf_err *err, const char *fmt, ...) {
    char msg[sizeof err->msg];
    va_list args;
    va_start(args, fmt);
    vsnprintf(msg, sizeof msg, fmt, args);
    va_end(args);
    return sf_fail_at(err, SF_E_INPUT, n->doc->name, n->at.line, n->at.column, "%s", msg);
}

/* `"8" (quoted)`, `a list`: what a message says was found. */
static const char *describe(const struct sf_node *n, char *buf, size_t size) {
    switch (n->kind) {
    case SF_NODE_SEQ:
        return "a list";
    case SF_NODE_MAP:
        return "a mapping";
    case SF_NODE_QUOTED:
        snprintf(buf, size, "the quoted text \"%.80s\"", n->text);
        return buf;
    case SF_NODE_PLAIN:
        break;
    }
    if (sf_node_is_null(n)) {
        return "nothing";
    }
    snprintf(buf, size, "\"%.80s\"", n->text);
    return buf;
}

static int fail_expected(const struct sf_node *n, struct sf_err *err, const char *expected) {
    char found[128];
    return sf_node_fail(n, err, "expected %s, found %s", expected, describe(n, found, sizeof found));
}

static int compare_key(const void *key, const void *node) {
    return strcmp(key, (*(struct sf_node *const *)node)->key);
}

const struct sf_node *sf_map_find(const struct sf_node *map, const char *key) {
    if (map->kind != SF_NODE_MAP || map->children_n == 0) {
        return NULL;
    }
    struct sf_node **found = bsearch(key, map->by_key, map->children_n, sizeof *map->by_key, compare_key);
    return found != NULL ? *found : NULL;
}

int sf_map_need(const struct sf_node *map, const char *key, const struct sf_node **out, struct sf_err *err) {
    if (map->kind != SF_NODE_MAP) {
        char expected[128];
        snprintf(expected, sizeof expected, "a mapping with the key \"%.80s\"", key);
        return fail_expected(map, err, expected);
    }
    *out = sf_map_find(map, key);
    if (*out == NULL && map->key != NULL) {
        return sf_node_fail(map, err, "key \"%.80s\" is missing from \"%.80s\"", key, map->key);
    }
    return *out != NULL ? 0 : sf_node_fail(map, err, "key \"%.80s\" is missing", key);
}

size_t sf_map_size(const struct sf_node *map) {
    return map->kind == SF_NODE_MAP ? map->children_n : 0;
}

const char *sf_map_key(const struct sf_node *map, size_t i, const struct sf_node **value) {
    *value = map->children[i];
    return map->children[i]->key;
}

#define LONGEST_WORD 63

/* Levenshtein distance; words over LONGEST_WORD letters are far from everything. */
static size_t distance(const char *a, const char *b) {
    size_t n = strlen(a), m = strlen(b), row[LONGEST_WORD + 1];
    if (n > LONGEST_WORD || m > LONGEST_WORD) {
        return SIZE_MAX;
    }
    for (size_t j = 0; j <= m; j++) {
        row[j] = j;
    }
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            best = row[j] + 1 < best ? row[j] + 1 : best;
            row[j] = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
        }
    }
    return row[m];
}

/* The nearest of `words`, if a slip of the finger could have meant it; else NULL. */
static const char *closest(const char *found, const char *const words[]) {
    const char *best = NULL;
    size_t best_distance = strlen(found) / 3 + 2;
    for (; *words != NULL; words++) {
        size_t d = distance(found, *words);
        if (d < best_distance) {
            best = *words;
            best_distance = d;
        }
    }
    return best;
}

static void join(const char *const words[], char *buf, size_t size) {
    size_t at = 0;
    buf[0] = '\0';
    for (size_t i = 0; words[i] != NULL && at < size; i++) {
        at += (size_t)snprintf(buf + at, size - at, "%s%s", i > 0 ? ", " : "", words[i]);
    }
}

static int fail_unknown(const struct sf_node *n, struct sf_place at, const char *what, const char *found,
                        const char *const words[], struct sf_err *err) {
    char known[512];
    const char *hint = closest(found, words);
    if (hint != NULL) {
        return sf_fail_at(err, SF_E_INPUT, n->doc->name, at.line, at.column,
                          "unknown %s \"%.80s\", did you mean \"%s\"?", what, found, hint);
    }
    join(words, known, sizeof known);
    return sf_fail_at(err, SF_E_INPUT, n->doc->name, at.line, at.column, "unknown %s \"%.80s\", expected one of: %s",
                      what, found, known);
}

static int find_word(const char *const words[], const char *word) {
    for (int i = 0; words[i] != NULL; i++) {
        if (strcmp(words[i], word) == 0) {
            return i;
        }
    }
    return -1;
}

int sf_map_only(const struct sf_node *map, const char *const keys[], struct sf_err *err) {
    if (map->kind != SF_NODE_MAP) {
        return fail_expected(map, err, "a mapping");
    }
    for (size_t i = 0; i < map->children_n; i++) {
        const struct sf_node *child = map->children[i];
        if (find_word(keys, child->key) < 0) {
            return fail_unknown(child, child->key_at, "key", child->key, keys, err);
        }
    }
    return 0;
}

size_t sf_seq_size(const struct sf_node *seq) {
    return seq->kind == SF_NODE_SEQ ? seq->children_n : 0;
}

const struct sf_node *sf_seq_at(const struct sf_node *seq, size_t i) {
    return seq->children[i];
}

static bool is_scalar(const struct sf_node *n) {
    return (n->kind == SF_NODE_PLAIN || n->kind == SF_NODE_QUOTED) && !sf_node_is_null(n);
}

int sf_node_str(const struct sf_node *n, const char **out, struct sf_err *err) {
    if (!is_scalar(n)) {
        return fail_expected(n, err, "text");
    }
    *out = n->text;
    return 0;
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

/* -?(0|[1-9][0-9]*): no octal, no hexadecimal, no leading zeros, no plus. */
static const char *skip_integer(const char *c) {
    c += *c == '-';
    if (*c == '0') {
        return c + 1;
    }
    const char *start = c;
    while (is_digit(*c)) {
        c++;
    }
    return c > start ? c : NULL;
}

static bool parse_i64(const char *text, int64_t *out) {
    const char *end = skip_integer(text);
    if (end == NULL || *end != '\0') {
        return false;
    }
    bool negative = *text == '-';
    int64_t value = 0;
    for (const char *c = text + negative; *c != '\0'; c++) {
        int64_t digit = negative ? '0' - *c : *c - '0';
        if (__builtin_mul_overflow(value, INT64_C(10), &value) || __builtin_add_overflow(value, digit, &value)) {
            return false;
        }
    }
    *out = value;
    return true;
}

int sf_node_i64(const struct sf_node *n, int64_t lo, int64_t hi, int64_t *out, struct sf_err *err) {
    int64_t value;
    if (n->kind == SF_NODE_PLAIN && parse_i64(n->text, &value) && value >= lo && value <= hi) {
        *out = value;
        return 0;
    }
    char expected[128];
    snprintf(expected, sizeof expected, "a whole number from %" PRId64 " to %" PRId64, lo, hi);
    return fail_expected(n, err, expected);
}

/* The numbers of JSON, which exclude inf, nan and hexadecimal. strtod alone would take them. */
static bool parse_f64(const char *text, double *out) {
    const char *c = skip_integer(text);
    if (c != NULL && *c == '.') {
        const char *fraction = ++c;
        while (is_digit(*c)) {
            c++;
        }
        c = c > fraction ? c : NULL;
    }
    if (c != NULL && (*c == 'e' || *c == 'E')) {
        c++;
        c += *c == '-' || *c == '+';
        const char *exponent = c;
        while (is_digit(*c)) {
            c++;
        }
        c = c > exponent ? c : NULL;
    }
    if (c == NULL || *c != '\0') {
        return false;
    }
    *out = strtod(text, NULL);
    return isfinite(*out);
}

int sf_node_f64(const struct sf_node *n, double lo, double hi, double *out, struct sf_err *err) {
    double value;
    if (n->kind == SF_NODE_PLAIN && parse_f64(n->text, &value) && value >= lo && value <= hi) {
        *out = value;
        return 0;
    }
    char expected[128];
    snprintf(expected, sizeof expected, "a number from %.9g to %.9g", lo, hi);
    return fail_expected(n, err, expected);
}

int sf_node_bool(const struct sf_node *n, bool *out, struct sf_err *err) {
    bool is_true = n->kind == SF_NODE_PLAIN && strcmp(n->text, "true") == 0;
    bool is_false = n->kind == SF_NODE_PLAIN && strcmp(n->text, "false") == 0;
    if (!is_true && !is_false) {
        return fail_expected(n, err, "true or false");
    }
    *out = is_true;
    return 0;
}

/* Run one of the units.h parsers on a scalar and put the position in front of its complaint. */
#define PARSE_QUANTITY(n, parse, what, out, err)                                                                       \
    do {                                                                                                               \
        struct sf_err quantity_err_ = {0};                                                                             \
        if (!is_scalar(n)) {                                                                                           \
            return fail_expected(n, err, what " with its unit");                                                       \
        }                                                                                                              \
        if (parse((n)->text, out, &quantity_err_) != 0) {                                                              \
            return sf_node_fail(n, err, "%s", quantity_err_.msg);                                                      \
        }                                                                                                              \
        return 0;                                                                                                      \
    } while (0)

int sf_node_time(const struct sf_node *n, sf_time_ps *out, struct sf_err *err) {
    PARSE_QUANTITY(n, sf_parse_time, "a time", out, err);
}

int sf_node_bytes(const struct sf_node *n, uint64_t *out, struct sf_err *err) {
    PARSE_QUANTITY(n, sf_parse_bytes, "a size", out, err);
}

int sf_node_rate(const struct sf_node *n, uint64_t *bytes_per_s, struct sf_err *err) {
    PARSE_QUANTITY(n, sf_parse_rate, "a rate", bytes_per_s, err);
}

int sf_node_flops(const struct sf_node *n, double *per_s, struct sf_err *err) {
    PARSE_QUANTITY(n, sf_parse_flops, "a compute rate", per_s, err);
}

int sf_node_power(const struct sf_node *n, double *watts, struct sf_err *err) {
    PARSE_QUANTITY(n, sf_parse_power, "a power", watts, err);
}

int sf_node_word(const struct sf_node *n, const char *const words[], int *out, struct sf_err *err) {
    char known[512];
    join(words, known, sizeof known);
    if (!is_scalar(n)) {
        char expected[560];
        snprintf(expected, sizeof expected, "one of: %s", known);
        return fail_expected(n, err, expected);
    }
    int i = find_word(words, n->text);
    if (i < 0) {
        return fail_unknown(n, n->at, "word", n->text, words, err);
    }
    *out = i;
    return 0;
}
