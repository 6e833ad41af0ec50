/* Random streams: fixed values, independence of order and of each other, moments. Digests and call names too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>

#include "core/call.h"
#include "core/hash.h"
#include "core/prog_text.h"
#include "core/rng.h"

static void test_streams(void **state) {
    (void)state;
    struct sf_rng a = sf_rng_seed(1), b = sf_rng_seed(1), c = sf_rng_seed(2);
    for (int i = 0; i < 100; i++) {
        uint64_t x = sf_rng_u64(&a);
        assert_true(x == sf_rng_u64(&b));
        assert_true(x != sf_rng_u64(&c));
    }
    struct sf_rng fresh = sf_rng_seed(1);
    struct sf_rng late = sf_rng_split(&a, 7), early = sf_rng_split(&fresh, 7);
    assert_true(late.key == early.key); /* using the parent changes nothing */
    struct sf_rng text = sf_rng_split_text(&a, "w"), other = sf_rng_split_text(&a, "x");
    assert_true(text.key != other.key);
    assert_true(sf_rng_u64(&late) == sf_rng_u64(&early));
}

static void test_values_stay(void **state) {
    (void)state;
    /* These numbers are initial weights: they must never change. */
    struct sf_rng r = sf_rng_seed(1), child = sf_rng_split_text(&r, "model.norm.weight");
    assert_true(sf_rng_u64(&r) == UINT64_C(0x66fdb7d9f07ff9ab));
    assert_true(sf_rng_u64(&child) == UINT64_C(0x16eb8b48231b6303));
}

static void test_moments(void **state) {
    (void)state;
    enum { N = 200000 };
    struct sf_rng root = sf_rng_seed(42);
    struct sf_rng r = sf_rng_split(&root, 0);
    double sum = 0, squares = 0, fourth = 0, units = 0;
    for (int i = 0; i < N; i++) {
        double x = sf_rng_normal(&r), u = sf_rng_unit(&r);
        assert_true(isfinite(x) && u >= 0 && u < 1);
        sum += x;
        squares += x * x;
        fourth += x * x * x * x;
        units += u;
    }
    assert_true(fabs(sum / N) < 0.01); /* five standard errors */
    assert_true(fabs(squares / N - 1) < 0.016);
    assert_true(fabs(fourth / N - 3) < 0.11); /* a sum of twelve uniforms has 2.9 */
    assert_true(fabs(units / N - 0.5) < 0.004);
}

/* Neighbouring labels, bit by bit: a correlation would move a count away from half. */
static void test_neighbours_are_independent(void **state) {
    (void)state;
    enum { N = 20000 };
    struct sf_rng root = sf_rng_seed(0);
    int equal[64] = {0};
    for (uint64_t label = 0; label < N; label++) {
        struct sf_rng a = sf_rng_split(&root, label), b = sf_rng_split(&root, label + 1);
        uint64_t same = ~(sf_rng_u64(&a) ^ sf_rng_u64(&b));
        for (int bit = 0; bit < 64; bit++) {
            equal[bit] += (int)(same >> bit & 1);
        }
    }
    for (int bit = 0; bit < 64; bit++) {
        assert_in_range(equal[bit], N / 2 - 350, N / 2 + 350); /* five standard deviations */
    }
}

/* With keys one step of the counter apart, a stream of one round would be its neighbour's, shifted. */
static void test_streams_are_not_shifted_copies(void **state) {
    (void)state;
    struct sf_rng a = {.key = 12345}, b = {.key = 12345 + UINT64_C(0x9e3779b97f4a7c15)};
    uint64_t x[64], y[64];
    for (int i = 0; i < 64; i++) {
        x[i] = sf_rng_u64(&a);
        y[i] = sf_rng_u64(&b);
    }
    for (int i = 0; i < 64; i++) {
        for (int k = 0; k < 64; k++) {
            assert_true(x[i] != y[k]);
        }
    }
}

static void test_hash(void **state) {
    (void)state;
    char text[SF_HASH_TEXT];
    /* XXH3-128 of no bytes, from the xxHash specification. */
    assert_string_equal(sf_hash_format(sf_hash_bytes("", 0), text), "99aa06d3014798d86001c324468d497f");
    assert_true(sf_hash_equal(sf_hash_bytes("ab", 2), sf_hash_bytes("ab", 2)));
    assert_false(sf_hash_equal(sf_hash_bytes("ab", 2), sf_hash_bytes("ac", 2)));
    assert_true(sf_mix64(sf_mix64(0, 1), 2) != sf_mix64(sf_mix64(0, 2), 1));
    assert_true(sf_mix64(0, 0) != sf_mix64(sf_mix64(0, 0), 0));
}

static void test_calls(void **state) {
    (void)state;
    assert_string_equal(sf_call_name(SF_CALL_GEMM), "gemm");
    assert_string_equal(sf_call_name(-1), "?");
    assert_int_equal(sf_call_dims_n(SF_CALL_GEMM), 4);
    assert_int_equal(sf_call_operands_n(SF_CALL_ATTN_BWD), 10);
    assert_int_equal(sf_call_parse("nothing"), -1);
    assert_int_equal(sf_dtype_bytes(SF_BF16), 2);
    assert_int_equal(sf_dtype_parse("bf16"), SF_BF16);
    assert_int_equal(sf_dtype_parse("f16"), -1);
    for (int k = 0; k < SF_CALL_KINDS; k++) {
        struct sfi_field room[SFI_CALL_FIELDS];
        struct sfi_fields f = sfi_call_fields(k, room);
        assert_int_equal(sf_call_parse(sf_call_name(k)), k);
        assert_in_range(sf_call_dims_n(k), 1, SF_CALL_DIMS);
        assert_in_range(sf_call_operands_n(k), 1, SF_CALL_OPERANDS);
        assert_int_equal(f.n, sf_call_dims_n(k) + sf_call_operands_n(k) + 4);
        for (size_t i = 0; i < f.n; i++) { /* a line of text names each field once */
            for (size_t j = 0; j < i; j++) {
                assert_string_not_equal(f.at[i].key, f.at[j].key);
            }
        }
    }
    assert_true(sf_call_is_collective(SF_CALL_ALL_TO_ALL));
    assert_false(sf_call_is_collective(SF_CALL_COPY));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streams),
        cmocka_unit_test(test_values_stay),
        cmocka_unit_test(test_moments),
        cmocka_unit_test(test_neighbours_are_independent),
        cmocka_unit_test(test_streams_are_not_shifted_copies),
        cmocka_unit_test(test_hash),
        cmocka_unit_test(test_calls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
