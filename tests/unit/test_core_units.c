/* Quantities: exact parsing, refusals, printing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/units.h"

static void accepts_time(const char *text, sf_time_ps expected) {
    struct sf_err err = {0};
    sf_time_ps t = -1;
    if (sf_parse_time(text, &t, &err) != 0 || t != expected) {
        fail_msg("%s: expected %lld ps, found %lld (%s)", text, (long long)expected, (long long)t, err.msg);
    }
}

static void test_time(void **state) {
    (void)state;
    accepts_time("0s", 0);
    accepts_time("1ps", 1);
    accepts_time("18.522ms", INT64_C(18522000000));
    accepts_time("18.086ms", INT64_C(18086000000));
    accepts_time("0.601ms", 601000000);
    accepts_time("0.6010000000000000000000000ms", 601000000);
    accepts_time("1.1us", 1100000); /* 1.1 has no exact double */
    accepts_time("0.000000000001s", 1);
    accepts_time("1.5 min", 90 * SF_PS_PER_S);
    accepts_time("2h", 7200 * SF_PS_PER_S);
    accepts_time("106d", 106 * 86400 * SF_PS_PER_S);
    accepts_time("0.0005ns", 1); /* half a picosecond rounds up */
}

static void refuses(int (*parse)(const char *, struct sf_err *), const char *text, const char *because) {
    struct sf_err err = {0};
    assert_int_equal(parse(text, &err), SF_E_INPUT);
    if (strstr(err.msg, because) == NULL) {
        fail_msg("\"%s\": expected \"%s\" in: %s", text, because, err.msg);
    }
}

static int as_time(const char *text, struct sf_err *err) {
    sf_time_ps t;
    return sf_parse_time(text, &t, err);
}

static int as_bytes(const char *text, struct sf_err *err) {
    uint64_t n;
    return sf_parse_bytes(text, &n, err);
}

static int as_rate(const char *text, struct sf_err *err) {
    uint64_t n;
    return sf_parse_rate(text, &n, err);
}

static int as_flops(const char *text, struct sf_err *err) {
    double x;
    return sf_parse_flops(text, &x, err);
}

static void test_refusals(void **state) {
    (void)state;
    refuses(as_rate, "800", "expected a rate with its unit (for example 800Gb/s), found \"800\"");
    refuses(as_rate, "800Gbps", "did you mean Gb/s?");
    refuses(as_rate, "800gb/s", "did you mean Gb/s or GB/s?");
    refuses(as_rate, "900GBps", "did you mean GB/s?");
    refuses(as_rate, "800G", "known units are b/s");
    refuses(as_rate, "1b/s", "smaller than 1 B/s");
    refuses(as_bytes, "279gb", "did you mean GB?");
    refuses(as_bytes, "-1GB", "signs are not accepted");
    refuses(as_bytes, "18446744073709551616B", "too many digits");
    refuses(as_bytes, "18446744073709551615kB", "larger than");
    refuses(as_flops, "2.5PFLOPS", "did you mean PFLOP/s?");
    refuses(as_time, "107d", "larger than");
    refuses(as_time, ".6ms", "a digit is missing before the point");
    refuses(as_time, "0.1ps", "smaller than 1 ps");
    const char *const others[] = {"",       "ms",    "nan",    "inf",  "1e3ms", "1,5ms", "0x10ms", ".5ms",
                                  "5.ms",   "5ms ",  "5msx",   "5m",   "5MS",   "5 5ms", " 5ms",   "+5ms",
                                  "1.2.3s", "5\nms", "5ms\n5", "1_0s", "infms", "٥ms"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        refuses(as_time, others[i], "expected a time with its unit (for example 18.522ms), found");
    }
}

static void test_sizes_and_rates(void **state) {
    (void)state;
    uint64_t n = 0;
    double x = 0;
    assert_int_equal(sf_parse_bytes("279GB", &n, NULL), 0);
    assert_true(n == UINT64_C(279000000000));
    assert_int_equal(sf_parse_bytes("1.5KiB", &n, NULL), 0);
    assert_true(n == 1536);
    assert_int_equal(sf_parse_bytes("18446744073709551615B", &n, NULL), 0);
    assert_true(n == UINT64_MAX);
    assert_int_equal(sf_parse_rate("800Gb/s", &n, NULL), 0);
    assert_true(n == UINT64_C(100000000000));
    assert_int_equal(sf_parse_rate("900 GB/s", &n, NULL), 0);
    assert_true(n == UINT64_C(900000000000));
    assert_int_equal(sf_parse_rate("8b/s", &n, NULL), 0);
    assert_true(n == 1);
    assert_int_equal(sf_parse_flops("2.5PFLOP/s", &x, NULL), 0);
    assert_true(x == 2.5e15);
    assert_int_equal(sf_parse_flops("0.1FLOP/s", &x, NULL), 0);
    assert_true(x == 0.1);
    assert_int_equal(sf_parse_power("1.4kW", &x, NULL), 0);
    assert_true(x == 1400.0);
}

static void test_arithmetic(void **state) {
    (void)state;
    assert_true(sf_transfer_ps(1, UINT64_C(100000000000)) == 10); /* 800 Gb/s */
    assert_true(sf_transfer_ps(0, 1) == 0);
    assert_true(sf_transfer_ps(1, 3) == INT64_C(333333333334)); /* up */
    assert_true(sf_transfer_ps(UINT64_C(18446744), 7) == sf_muldiv_up(18446744, SF_PS_PER_S, 7));
    assert_true(sf_transfer_ps(UINT64_C(18446745), 7) == sf_muldiv_up(18446745, SF_PS_PER_S, 7));
    assert_true(sf_transfer_ps(UINT64_MAX, 1) == INT64_MAX);
    assert_true(sf_muldiv_up(7, 1, 2) == 4);
    assert_true(sf_muldiv_up(8, 1, 2) == 4);
    assert_true(sf_muldiv_up(-7, 1, 2) == -3);
    assert_true(sf_muldiv_up(INT64_MAX, INT64_MAX, INT64_MAX) == INT64_MAX);
    assert_true(sf_muldiv_up(INT64_MAX, 2, 1) == INT64_MAX);
    assert_true(sf_s_to_ps(18.522e-3) == INT64_C(18522000000));
    assert_true(sf_s_to_ps(1e30) == INT64_MAX);
    assert_true(sf_s_to_ps(-1e30) == INT64_MIN);
    assert_true(sf_ps_to_s(SF_PS_PER_S / 2) == 0.5);
}

static void prints(char *(*format)(int64_t, char *, size_t), int64_t value, const char *expected) {
    char buf[40];
    assert_string_equal(format(value, buf, sizeof buf), expected);
}

static char *bytes_text(int64_t n, char *buf, size_t size) {
    return sf_format_bytes((uint64_t)n, buf, size);
}

static char *count_text(int64_t n, char *buf, size_t size) {
    return sf_format_count((uint64_t)n, buf, size);
}

static void test_printing(void **state) {
    (void)state;
    prints(sf_format_time, 0, "0 ps");
    prints(sf_format_time, 999, "999 ps");
    prints(sf_format_time, 1234000000, "1.234 ms");
    prints(sf_format_time, INT64_C(999960000), "1.000 ms"); /* never "1000.0 us" */
    prints(sf_format_time, INT64_C(-18522000000), "-18.52 ms");
    prints(sf_format_time, 300 * SF_PS_PER_S, "5.000 min");
    prints(sf_format_time, INT64_MAX, "106.8 d");
    prints(bytes_text, 17, "17 B");
    prints(bytes_text, INT64_C(279000000000), "279.0 GB");
    prints(bytes_text, -1, "18.45 EB");
    prints(count_text, 0, "0");
    prints(count_text, 999, "999");
    prints(count_text, 220032, "220,032");
    prints(count_text, -1, "18,446,744,073,709,551,615");
    char tiny[4];
    assert_string_equal(sf_format_count(220032, tiny, sizeof tiny), "220");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_time),       cmocka_unit_test(test_refusals), cmocka_unit_test(test_sizes_and_rates),
        cmocka_unit_test(test_arithmetic), cmocka_unit_test(test_printing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
