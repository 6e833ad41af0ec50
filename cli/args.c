#include "cli/args.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/print.h"

#define MAX_OPTIONS 32
#define MAX_WORD 40
#define FIRST_ID 256 /* getopt's codes of our options; above every letter */

static size_t min3(size_t a, size_t b, size_t c) {
    size_t m = a < b ? a : b;
    return m < c ? m : c;
}

/* Levenshtein's distance; words longer than MAX_WORD are nobody's typo. */
static size_t edit_distance(const char *a, const char *b) {
    size_t n = strlen(a), m = strlen(b), row[MAX_WORD + 1];
    if (n > MAX_WORD || m > MAX_WORD) {
        return MAX_WORD;
    }
    for (size_t j = 0; j <= m; j++) {
        row[j] = j;
    }
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t above = row[j];
            row[j] = min3(above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1]));
            diagonal = above;
        }
    }
    return row[m];
}

const char *cli_nearest(const char *word, const char *const list[]) {
    const char *best = NULL;
    size_t best_distance = strlen(word) < 4 ? 1 : strlen(word) / 3 + 1;
    for (size_t i = 0; list[i] != NULL; i++) {
        size_t d = edit_distance(word, list[i]);
        if (d <= best_distance && (best == NULL || d < best_distance)) {
            best = list[i];
            best_distance = d;
        }
    }
    return best;
}

int cli_fail_usage(struct cli *cli, const char *verb, const char *fmt, ...) {
    char msg[700];
    va_list args;
    va_start(args, fmt);
    vsnprintf(msg, sizeof msg, fmt, args);
    va_end(args);
    return sf_fail(&cli->err, SF_E_USAGE, "%s; see staticfire %s --help", msg, verb);
}

static int parse_unsigned(struct cli *cli, const char *verb, const char *name, const char *text, uint64_t min,
                          uint64_t max, uint64_t *out) {
    char *end = NULL;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || v < min || v > max) {
        return cli_fail_usage(cli, verb, "--%s expects a whole number from %llu to %llu, found \"%.60s\"", name,
                              (unsigned long long)min, (unsigned long long)max, text);
    }
    *out = v;
    return 0;
}

/* "10%" or "0.1". */
static int parse_fraction(struct cli *cli, const char *verb, const char *name, const char *text, double *out) {
    char *end = NULL;
    double v = strtod(text, &end);
    bool percent = *end == '%';
    if (end == text || end[percent] != '\0' || !isfinite(v) || v < 0 || v > (percent ? 1000 : 10)) {
        return cli_fail_usage(cli, verb, "--%s expects a share such as 10%% or 0.1, found \"%.60s\"", name, text);
    }
    *out = percent ? v / 100 : v;
    return 0;
}

int cli_option_check(struct cli *cli, const char *verb, const char *name, int rc) {
    char msg[sizeof cli->err.msg];
    snprintf(msg, sizeof msg, "%s", cli->err.msg);
    return rc == 0 ? 0 : cli_fail_usage(cli, verb, "--%s: %s", name, msg);
}

static int option_set(struct cli *cli, const char *verb, const struct cli_option *o, const char *text) {
    uint64_t number = 0;
    switch (o->type) {
    case CLI_FLAG:
        *(bool *)o->value = true;
        return 0;
    case CLI_TEXT:
        *(const char **)o->value = text;
        return 0;
    case CLI_U32:
    case CLI_COUNT:
        SF_TRY(parse_unsigned(cli, verb, o->name, text, o->type == CLI_COUNT, UINT32_MAX, &number));
        *(uint32_t *)o->value = (uint32_t)number;
        return 0;
    case CLI_U64:
        return parse_unsigned(cli, verb, o->name, text, 0, UINT64_MAX, o->value);
    case CLI_FRACTION:
        return parse_fraction(cli, verb, o->name, text, o->value);
    }
    return sf_fail(&cli->err, SF_E_INTERNAL, "option --%s has an unknown type", o->name);
}

/* The verb's options and the common ones, as one table. */
struct table {
    struct cli_option all[MAX_OPTIONS];
    struct option longs[MAX_OPTIONS + 1];
    const char *names[MAX_OPTIONS + 1];
    char shorts[2 * MAX_OPTIONS + 2];
    int n;
    bool help;
};

static void table_add(struct table *t, const struct cli_option *o) {
    if (t->n == MAX_OPTIONS) {
        return;
    }
    int i = t->n++;
    t->all[i] = *o;
    t->names[i] = o->name;
    t->longs[i] = (struct option){.name = o->name, .has_arg = o->arg != NULL, .val = FIRST_ID + i};
    if (o->letter != '\0') {
        size_t at = strlen(t->shorts);
        snprintf(t->shorts + at, sizeof t->shorts - at, "%c%s", o->letter, o->arg != NULL ? ":" : "");
    }
}

static void table_make(struct table *t, struct cli *cli, const struct cli_option *options) {
    *t = (struct table){.shorts = ":"};
    for (const struct cli_option *o = options; o != NULL && o->name != NULL; o++) {
        table_add(t, o);
    }
    table_add(t, &(struct cli_option){"json", 0, CLI_FLAG, &cli->json, NULL, "print one JSON document"});
    table_add(t, &(struct cli_option){"catalog", 0, CLI_TEXT, &cli->catalog, "DIR", "device and link catalogs"});
    table_add(t, &(struct cli_option){"help", 'h', CLI_FLAG, &t->help, NULL, "this text"});
}

static void print_help(const struct cli_usage *u, const struct table *t) {
    printf("Usage: staticfire %s %s [options]\n\n%s\n\n%sOptions:%s\n", u->verb, u->operands, u->about,
           cli_on(CLI_BOLD), cli_off());
    for (int i = 0; i < t->n; i++) {
        const struct cli_option *o = &t->all[i];
        char left[64], letter[8] = "    ";
        if (o->letter != '\0') {
            snprintf(letter, sizeof letter, "-%c, ", o->letter);
        }
        snprintf(left, sizeof left, "%s--%s%s%s", letter, o->name, o->arg != NULL ? " " : "",
                 o->arg != NULL ? o->arg : "");
        printf("  %-26s %s\n", left, o->help);
    }
    printf("\n%sExamples:%s\n%s\n", cli_on(CLI_BOLD), cli_off(), u->examples);
}

/* getopt found a word that is no option, or one that lacks its value. */
static int bad_option(struct cli *cli, const struct cli_usage *u, const struct table *t, int code, const char *word) {
    if (code == ':') {
        return cli_fail_usage(cli, u->verb, "option %.60s needs a value", word);
    }
    if (strncmp(word, "--", 2) != 0) {
        return cli_fail_usage(cli, u->verb, "unknown option -%c", optopt);
    }
    char name[MAX_WORD + 1];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(word + 2, "="), word + 2);
    if (optopt >= FIRST_ID) {
        return cli_fail_usage(cli, u->verb, "option --%s takes no value", name);
    }
    const char *near = cli_nearest(name, t->names);
    return near != NULL ? cli_fail_usage(cli, u->verb, "unknown option --%s; did you mean --%s?", name, near)
                        : cli_fail_usage(cli, u->verb, "unknown option --%s", name);
}

static const struct cli_option *by_code(const struct table *t, int code) {
    for (int i = 0; i < t->n; i++) {
        if (code == FIRST_ID + i || (code != 0 && code == t->all[i].letter)) {
            return &t->all[i];
        }
    }
    return NULL;
}

static int operands_check(struct cli *cli, const struct cli_usage *u, int n, char **operands) {
    if (n < u->operands_min) {
        return cli_fail_usage(cli, u->verb, "something is missing: usage is staticfire %s %s", u->verb, u->operands);
    }
    if (n > u->operands_max) {
        return cli_fail_usage(cli, u->verb, "unexpected argument \"%.60s\"", operands[u->operands_max]);
    }
    return 0;
}

int cli_parse(struct cli *cli, const struct cli_usage *usage, const struct cli_option *options, int argc, char **argv,
              int *first) {
    struct table t;
    table_make(&t, cli, options);
    opterr = 0;
    optind = 1;
    int code;
    for (;;) {
        int at = optind;
        code = getopt_long(argc, argv, t.shorts, t.longs, NULL);
        if (code == -1) {
            break;
        }
        const struct cli_option *o = by_code(&t, code);
        if (code == '?' || code == ':' || o == NULL) {
            return bad_option(cli, usage, &t, code, argv[optind - 1 >= at ? optind - 1 : at]);
        }
        SF_TRY(option_set(cli, usage->verb, o, optarg));
    }
    if (t.help) {
        print_help(usage, &t);
        return CLI_STOP;
    }
    *first = optind;
    return operands_check(cli, usage, argc - optind, argv + optind);
}
