#include "core/units.h"

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

typedef unsigned __int128 u128;

int64_t sf_muldiv_up(int64_t a, int64_t b, int64_t c) {
    __int128 product = (__int128)a * b;
    __int128 quotient = product / c;
    if (product % c > 0) {
        quotient++;
    }
    return quotient > INT64_MAX ? INT64_MAX : quotient < INT64_MIN ? INT64_MIN : (int64_t)quotient;
}

sf_time_ps sf_transfer_ps(uint64_t bytes, uint64_t bytes_per_s) {
    const uint64_t per_s = (uint64_t)SF_PS_PER_S;
    if (bytes <= UINT64_MAX / per_s) { /* most messages: no 128-bit division */
        uint64_t ps = bytes * per_s / bytes_per_s + (bytes * per_s % bytes_per_s != 0);
        return ps > INT64_MAX ? INT64_MAX : (sf_time_ps)ps;
    }
    u128 product = (u128)bytes * per_s;
    u128 ps = product / bytes_per_s + (product % bytes_per_s != 0);
    return ps > INT64_MAX ? INT64_MAX : (sf_time_ps)ps;
}

double sf_ps_to_s(sf_time_ps t) {
    return (double)t / (double)SF_PS_PER_S;
}

sf_time_ps sf_s_to_ps(double seconds) {
    double ps = round(seconds * (double)SF_PS_PER_S);
    if (!(ps < 0x1p63)) { /* not a number: never mistaken for "no time" */
        return INT64_MAX;
    }
    return ps <= -0x1p63 ? INT64_MIN : (sf_time_ps)ps;
}

/* One unit: `factor` / `divisor` base units. Only bits per second have a divisor. */
struct unit {
    const char *name;
    uint64_t factor, divisor;
};

struct quantity {
    const char *what, *example;
    const struct unit *units;
};

#define K UINT64_C(1000)
#define KI UINT64_C(1024)

static const struct unit time_units[] = {{"ps", 1, 1},
                                         {"ns", K, 1},
                                         {"us", K *K, 1},
                                         {"ms", K *K *K, 1},
                                         {"s", K *K *K *K, 1},
                                         {"min", 60 * K *K *K *K, 1},
                                         {"h", 3600 * K *K *K *K, 1},
                                         {"d", 86400 * K *K *K *K, 1},
                                         {NULL, 0, 0}};
static const struct unit byte_units[] = {
    {"B", 1, 1},    {"kB", K, 1},       {"MB", K *K, 1},        {"GB", K *K *K, 1},         {"TB", K *K *K *K, 1},
    {"KiB", KI, 1}, {"MiB", KI *KI, 1}, {"GiB", KI *KI *KI, 1}, {"TiB", KI *KI *KI *KI, 1}, {NULL, 0, 0}};
static const struct unit rate_units[] = {
    {"b/s", 1, 8},    {"kb/s", K, 8},       {"Mb/s", K *K, 8},        {"Gb/s", K *K *K, 8}, {"Tb/s", K *K *K *K, 8},
    {"B/s", 1, 1},    {"kB/s", K, 1},       {"MB/s", K *K, 1},        {"GB/s", K *K *K, 1}, {"TB/s", K *K *K *K, 1},
    {"KiB/s", KI, 1}, {"MiB/s", KI *KI, 1}, {"GiB/s", KI *KI *KI, 1}, {NULL, 0, 0}};
static const struct unit flops_units[] = {{"FLOP/s", 1, 1},
                                          {"kFLOP/s", K, 1},
                                          {"MFLOP/s", K *K, 1},
                                          {"GFLOP/s", K *K *K, 1},
                                          {"TFLOP/s", K *K *K *K, 1},
                                          {"PFLOP/s", K *K *K *K *K, 1},
                                          {NULL, 0, 0}};
static const struct unit power_units[] = {{"W", 1, 1}, {"kW", K, 1}, {"MW", K *K, 1}, {NULL, 0, 0}};

static const struct quantity a_time = {"a time", "18.522ms", time_units};
static const struct quantity a_size = {"a size", "279GB", byte_units};
static const struct quantity a_rate = {"a rate", "800Gb/s", rate_units};
static const struct quantity a_speed = {"a compute rate", "2.5PFLOP/s", flops_units};
static const struct quantity a_power = {"a power", "1.4kW", power_units};

/* A decimal number as digits / 10^decimals, and what follows it. */
struct decimal {
    uint64_t digits;
    unsigned decimals;
    const char *rest;
};

#define MAX_DECIMALS 18 /* 10^18 fits 64 bits */

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

enum scan { SCAN_OK, SCAN_NO_NUMBER, SCAN_TOO_LONG };

static bool push_digit(uint64_t *digits, char c) {
    return !__builtin_mul_overflow(*digits, UINT64_C(10), digits) &&
           !__builtin_add_overflow(*digits, (uint64_t)(c - '0'), digits);
}

static enum scan scan_decimal(const char *text, struct decimal *d) {
    *d = (struct decimal){0};
    const char *c = text;
    if (!is_digit(*c)) {
        return SCAN_NO_NUMBER;
    }
    for (; is_digit(*c); c++) {
        if (!push_digit(&d->digits, *c)) {
            return SCAN_TOO_LONG;
        }
    }
    d->rest = c;
    if (*c != '.') {
        return SCAN_OK;
    }
    const char *fraction = c + 1, *end = fraction;
    while (is_digit(*end)) {
        end++;
    }
    if (end == fraction) {
        return SCAN_NO_NUMBER;
    }
    d->rest = end;
    while (end > fraction && end[-1] == '0') {
        end--;
    }
    d->decimals = (unsigned)(end - fraction <= MAX_DECIMALS ? end - fraction : MAX_DECIMALS + 1);
    for (c = fraction; c < end; c++) {
        if (d->decimals > MAX_DECIMALS || !push_digit(&d->digits, *c)) {
            return SCAN_TOO_LONG;
        }
    }
    return SCAN_OK;
}

static const struct unit *find_unit(const struct unit *units, const char *name) {
    for (const struct unit *u = units; u->name != NULL; u++) {
        if (strcmp(u->name, name) == 0) {
            return u;
        }
    }
    return NULL;
}

/* Spell a unit as people and vendors do: Gbps, GBPS, gb/s, TFLOPS, TFlop/s, sec. */
static void loosen(const char *name, char *out, size_t size) {
    static const char *const endings[][2] = {{"flops", "flop/s"}, {"ps", "/s"}, {"sec", "s"}};
    snprintf(out, size, "%s", name);
    size_t n = strlen(out);
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        size_t m = strlen(endings[i][0]);
        if (n > m && strcasecmp(out + n - m, endings[i][0]) == 0) {
            snprintf(out + n - m, size - (n - m), "%s", endings[i][1]);
            return;
        }
    }
}

/* "did you mean Gb/s or GB/s?", or every known unit when nothing is near. */
static void suggest(const struct unit *units, const char *found, char *out, size_t size) {
    char loose[32];
    loosen(found, loose, sizeof loose);
    size_t n = 0;
    bool exact_case = find_unit(units, loose) != NULL;
    out[0] = '\0';
    for (const struct unit *u = units; u->name != NULL && n < size; u++) {
        if (exact_case ? strcmp(u->name, loose) == 0 : strcasecmp(u->name, loose) == 0) {
            n += (size_t)snprintf(out + n, size - n, "%s%s", n == 0 ? "did you mean " : " or ", u->name);
        }
    }
    if (n > 0) {
        snprintf(out + n, size - n, "?");
        return;
    }
    for (const struct unit *u = units; u->name != NULL && n < size; u++) {
        n += (size_t)snprintf(out + n, size - n, "%s%s", n == 0 ? "known units are " : " ", u->name);
    }
}

static int refuse(const struct quantity *q, const char *text, struct sf_err *err, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static int refuse(const struct quantity *q, const char *text, struct sf_err *err, const char *fmt, ...) {
    char why[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(why, sizeof why, fmt, args);
    va_end(args);
    return sf_fail(err, SF_E_INPUT, "expected %s with its unit (for example %s), found \"%.80s\"%s%s", q->what,
                   q->example, text, why[0] != '\0' ? ": " : "", why);
}

/* The quantity as the fraction *num / *den of its base unit. The product has at most 64 + 57 bits. */
static int parse_quantity(const struct quantity *q, const char *text, u128 *num, u128 *den, struct sf_err *err) {
    struct decimal d;
    switch (scan_decimal(text, &d)) {
    case SCAN_NO_NUMBER:
        return refuse(q, text, err, "%s",
                      text[0] == '-' || text[0] == '+' ? "signs are not accepted"
                      : text[0] == '.'                 ? "a digit is missing before the point"
                                                       : "");
    case SCAN_TOO_LONG:
        return refuse(q, text, err, "too many digits, expected at most %d", MAX_DECIMALS);
    case SCAN_OK:
        break;
    }
    const char *name = d.rest;
    while (*name == ' ') {
        name++;
    }
    if (*name == '\0') {
        return refuse(q, text, err, "%s", "");
    }
    const struct unit *u = find_unit(q->units, name);
    if (u == NULL) {
        char hint[160];
        suggest(q->units, name, hint, sizeof hint);
        return refuse(q, text, err, "unknown unit \"%.24s\", %s", name, hint);
    }
    *num = (u128)d.digits * u->factor;
    *den = u->divisor;
    for (unsigned i = 0; i < d.decimals; i++) {
        *den *= 10;
    }
    return 0;
}

/* To the nearest whole base unit; what is not zero must not become zero. */
static int parse_whole(const struct quantity *q, const char *text, uint64_t limit, const char *base, uint64_t *out,
                       struct sf_err *err) {
    u128 num = 0, den = 1;
    SF_TRY(parse_quantity(q, text, &num, &den, err));
    u128 whole = num / den + (num % den >= den - num % den);
    if (num != 0 && whole == 0) {
        return refuse(q, text, err, "smaller than 1 %s", base);
    }
    if (whole > limit) {
        return refuse(q, text, err, "larger than %llu %s", (unsigned long long)limit, base);
    }
    *out = (uint64_t)whole;
    return 0;
}

static int parse_real(const struct quantity *q, const char *text, double *out, struct sf_err *err) {
    u128 num = 0, den = 1;
    SF_TRY(parse_quantity(q, text, &num, &den, err));
    *out = num % den == 0 ? (double)(num / den) : (double)num / (double)den;
    return 0;
}

int sf_parse_time(const char *text, sf_time_ps *out, struct sf_err *err) {
    uint64_t ps = 0;
    SF_TRY(parse_whole(&a_time, text, INT64_MAX, "ps", &ps, err));
    *out = (sf_time_ps)ps;
    return 0;
}

int sf_parse_bytes(const char *text, uint64_t *out, struct sf_err *err) {
    return parse_whole(&a_size, text, UINT64_MAX, "B", out, err);
}

int sf_parse_rate(const char *text, uint64_t *bytes_per_s, struct sf_err *err) {
    return parse_whole(&a_rate, text, UINT64_MAX, "B/s", bytes_per_s, err);
}

int sf_parse_flops(const char *text, double *per_s, struct sf_err *err) {
    return parse_real(&a_speed, text, per_s, err);
}

int sf_parse_power(const char *text, double *watts, struct sf_err *err) {
    return parse_real(&a_power, text, watts, err);
}

/* Four digits of value / scale. */
static char *format_scaled(double value, double scale, const char *unit, char *buf, size_t size) {
    double x = value / scale, a = fabs(x);
    int decimals = a < 9.9995 ? 3 : a < 99.995 ? 2 : 1;
    snprintf(buf, size, "%.*f %s", decimals, x, unit);
    return buf;
}

struct step {
    double scale, below; /* this unit is used for magnitudes under `below` */
    const char *name;
};

static char *format_stepped(double value, const struct step *steps, char *buf, size_t size) {
    const struct step *s = steps;
    while (s->below > 0 && fabs(value) >= s->below) {
        s++;
    }
    return format_scaled(value, s->scale, s->name, buf, size);
}

/* The bounds lie where rounding to four digits would print 1000.0. */
char *sf_format_time(sf_time_ps t, char *buf, size_t size) {
    static const struct step steps[] = {{1e3, 999.95e3, "ns"}, {1e6, 999.95e6, "us"},   {1e9, 999.95e9, "ms"},
                                        {1e12, 120e12, "s"},   {60e12, 7200e12, "min"}, {3600e12, 172800e12, "h"},
                                        {86400e12, 0, "d"}};
    if (t > -1000 && t < 1000) {
        snprintf(buf, size, "%d ps", (int)t);
        return buf;
    }
    return format_stepped((double)t, steps, buf, size);
}

char *sf_format_bytes(uint64_t bytes, char *buf, size_t size) {
    static const struct step steps[] = {{1e3, 999.95e3, "kB"},   {1e6, 999.95e6, "MB"},   {1e9, 999.95e9, "GB"},
                                        {1e12, 999.95e12, "TB"}, {1e15, 999.95e15, "PB"}, {1e18, 0, "EB"}};
    if (bytes < 1000) {
        snprintf(buf, size, "%d B", (int)bytes);
        return buf;
    }
    return format_stepped((double)bytes, steps, buf, size);
}

char *sf_format_count(uint64_t n, char *buf, size_t size) {
    char digits[24], grouped[32];
    int length = snprintf(digits, sizeof digits, "%llu", (unsigned long long)n);
    size_t at = 0;
    for (int i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0) {
            grouped[at++] = ',';
        }
        grouped[at++] = digits[i];
    }
    grouped[at] = '\0';
    snprintf(buf, size, "%s", grouped);
    return buf;
}
