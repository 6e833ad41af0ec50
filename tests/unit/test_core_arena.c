/* Memory and errors: alignment, overflow, failures on demand, messages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/arena.h"

static void test_arena(void **state) {
    (void)state;
    struct sf_arena *a = sf_arena_create();
    assert_non_null(a);
    unsigned char *blocks[400];
    for (size_t i = 0; i < 400; i++) {
        size_t bytes = i * i % 5000; /* crosses blocks, some get their own */
        blocks[i] = sf_arena_alloc(a, bytes, 1);
        assert_non_null(blocks[i]);
        assert_int_equal((uintptr_t)blocks[i] % 64, 0);
        for (size_t k = 0; k < bytes; k++) {
            assert_int_equal(blocks[i][k], 0);
            blocks[i][k] = (unsigned char)i;
        }
    }
    for (size_t i = 0; i < 400; i++) { /* nobody wrote over anybody */
        for (size_t k = 0; k < i * i % 5000; k++) {
            assert_int_equal(blocks[i][k], (unsigned char)i);
        }
    }
    assert_string_equal(sf_arena_strdup(a, "text"), "text");
    assert_non_null(sf_arena_alloc(a, 0, 8));
    assert_non_null(sf_arena_alloc(a, 40, (size_t)1 << 20));
    assert_null(sf_arena_alloc(a, SIZE_MAX / 2, 3));
    assert_null(sf_arena_alloc(a, SIZE_MAX, 1));
    sf_arena_free(a);
    sf_arena_free(NULL);
}

static void test_heap(void **state) {
    (void)state;
    void *p = sf_malloc(0);
    assert_non_null(p);
    sf_free(p);
    assert_null(sf_calloc(SIZE_MAX / 2, 3));
    assert_null(sf_realloc(NULL, SIZE_MAX / 2, 3));
    p = sf_realloc(NULL, 0, 8);
    assert_non_null(p);
    sf_free(p);
}

static void test_failures_on_demand(void **state) {
    (void)state;
    sf_alloc_fail_after(3);
    void *first = sf_malloc(1), *second = sf_calloc(1, 1);
    assert_non_null(first);
    assert_non_null(second);
    assert_null(sf_malloc(1));
    assert_null(sf_realloc(NULL, 1, 1));
    assert_null(sf_arena_create());
    sf_alloc_fail_after(0);
    void *third = sf_malloc(1);
    assert_non_null(third);
    sf_free(first);
    sf_free(second);
    sf_free(third);
    sf_alloc_fail_after(1);
    assert_null(sf_malloc(1));
    sf_alloc_fail_after(0);
}

static void test_errors(void **state) {
    (void)state;
    struct sf_err err = {0};
    assert_int_equal(sf_fail(NULL, SF_E_IO, "x"), SF_E_IO);
    assert_int_equal(sf_fail_at(&err, SF_E_INPUT, "a.yaml", 3, 7, "expected %s", "b"), SF_E_INPUT);
    assert_int_equal(sf_err_wrap(&err, "plan %d", 4), SF_E_INPUT);
    assert_string_equal(err.msg, "plan 4: expected b");
    assert_string_equal(err.file, "a.yaml");
    assert_int_equal(err.line, 3);
    assert_int_equal(err.column, 7);
    sf_fail(&err, SF_E_IO, "again: %s", err.msg); /* an argument inside the object itself */
    assert_string_equal(err.msg, "again: plan 4: expected b");
    assert_int_equal(err.line, 0);
    sf_fail(&err, SF_E_INPUT, "a\nb\x1b[31mc");
    assert_string_equal(err.msg, "a b [31mc"); /* one printable line */
    for (int i = 0; i < 300; i++) {
        assert_int_equal(sf_err_wrap(&err, "%s", "longer and longer"), SF_E_INPUT);
    }
    assert_true(strlen(err.msg) < sizeof err.msg);
    assert_string_equal(sf_code_text(SF_E_NOPLAN), "no plan fits");
    assert_string_equal(sf_code_text(99), "unknown error");
    assert_int_equal(sf_fail_memory(&err, "a test"), SF_E_INTERNAL);
    assert_string_equal(err.msg, "out of memory for a test");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arena),
        cmocka_unit_test(test_heap),
        cmocka_unit_test(test_failures_on_demand),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
