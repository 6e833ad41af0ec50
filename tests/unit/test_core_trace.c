/* Traces: order, round trips, and the refusal of every damaged or cut file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/arena.h"
#include "core/rng.h"
#include "core/trace.h"

static void make_trace(struct sf_trace *t, uint32_t recs_n) {
    struct sf_rng r = sf_rng_seed(recs_n);
    sf_trace_init(t);
    t->meta = (struct sf_trace_meta){
        .prog = {1, 2}, .topo = {3, 4}, .seed = 5, .ranks = 7, .iterations = recs_n / 70 + 1, .origin = "threads"};
    snprintf(t->meta.note, sizeof t->meta.note, "a note");
    for (uint32_t i = 0; i < recs_n; i++) {
        struct sf_trace_rec rec = {.rank = i % 7,
                                   .iter = i / 70,
                                   .op = i / 7 % 10,
                                   .covers = (uint16_t)(1 + i % 3),
                                   .source = (uint8_t)(i % 3),
                                   .stream = (uint8_t)(i % 5),
                                   .issue = (sf_time_ps)(sf_rng_u64(&r) >> 20),
                                   .bytes = sf_rng_u64(&r)};
        rec.start = rec.issue + 5;
        rec.end = rec.start + (sf_time_ps)(sf_rng_u64(&r) >> 30);
        rec.busy = rec.end - rec.start;
        assert_int_equal(sf_trace_add(t, &rec, NULL), 0);
    }
    struct sf_trace clocks = {.clocks_n = 2};
    struct sf_trace_clock two[] = {{.rank = 0}, {.rank = 6, .offset = -17, .uncertainty = 3}};
    clocks.clocks = two;
    assert_int_equal(sf_trace_append(t, &clocks, NULL), 0);
}

static void encode(const struct sf_trace *t, struct sf_buf *b) {
    struct sf_err err = {0};
    *b = (struct sf_buf){0};
    if (sf_trace_encode(t, b, &err) != 0) {
        fail_msg("%s", err.msg);
    }
}

static void test_round_trip(void **state) {
    (void)state;
    const uint32_t sizes[] = {0, 1, 4095, 4096, 4097, 10000}; /* around the size of a block */
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct sf_trace t, back;
        struct sf_buf b, again;
        struct sf_err err = {0};
        make_trace(&t, sizes[i]);
        encode(&t, &b);
        if (sf_trace_decode(b.data, b.bytes, "t.sftrace", &back, &err) != 0) {
            fail_msg("%s", err.msg);
        }
        sf_trace_sort(&t);
        assert_int_equal(back.recs_n, t.recs_n);
        assert_int_equal(back.clocks_n, 2);
        if (t.recs_n > 0) {
            assert_memory_equal(back.recs, t.recs, t.recs_n * sizeof *t.recs);
        }
        assert_memory_equal(back.clocks, t.clocks, 2 * sizeof *t.clocks);
        assert_memory_equal(&back.meta, &t.meta, sizeof t.meta);
        encode(&back, &again);
        assert_int_equal(again.bytes, b.bytes);
        assert_memory_equal(again.data, b.data, b.bytes);
        sf_trace_clear(&t);
        sf_trace_clear(&back);
        sf_buf_free(&b);
        sf_buf_free(&again);
    }
}

static void test_files(void **state) {
    (void)state;
    struct sf_trace t, back;
    struct sf_err err = {0};
    const char *path = SF_BINARY_DIR "/test_core_trace.tmp";
    make_trace(&t, 300);
    assert_int_equal(sf_trace_write(&sf_io_posix, path, &t, &err), 0);
    assert_int_equal(sf_trace_read(&sf_io_posix, path, &back, &err), 0);
    assert_int_equal(back.recs_n, 300);
    sf_trace_clear(&back);
    assert_int_equal(sf_io_posix.write_all(NULL, path, "no trace", 8, &err), 0);
    assert_int_equal(sf_trace_read(&sf_io_posix, path, &back, &err), SF_E_INPUT);
    assert_string_equal(err.file, path);
    assert_non_null(strstr(err.msg, "expected a trace file"));
    assert_int_equal(remove(path), 0);
    assert_int_equal(sf_trace_read(&sf_io_posix, path, &back, &err), SF_E_IO);
    sf_trace_clear(&t);
}

static void expect_refused(const char *data, size_t bytes, const char *what, size_t where) {
    struct sf_trace t;
    struct sf_err err = {0};
    if (sf_trace_decode(data, bytes, "bad", &t, &err) != SF_E_INPUT) {
        fail_msg("accepted: %s at byte %zu", what, where);
    }
    assert_non_null(strstr(err.msg, "at byte "));
    assert_null(t.recs);
    assert_null(t.clocks);
}

static void test_damage(void **state) {
    (void)state;
    struct sf_trace t;
    struct sf_buf b;
    make_trace(&t, 40);
    encode(&t, &b);
    for (size_t i = 0; i < b.bytes; i++) {
        for (int flip = 1; flip < 256; flip = flip * 4 + 3) { /* 1, 7, 31, 127: single bits and more */
            b.data[i] = (char)(b.data[i] ^ flip);
            expect_refused(b.data, b.bytes, "flipped", i);
            b.data[i] = (char)(b.data[i] ^ flip);
        }
        char *part = sf_malloc(i); /* so that reading past the end is seen */
        memcpy(part, b.data, i);
        expect_refused(part, i, "cut", i);
        sf_free(part);
    }
    sf_buf_write(&b, "x", 1);
    expect_refused(b.data, b.bytes, "tail", b.bytes);
    sf_buf_free(&b);
    sf_trace_clear(&t);
}

/* Encoding refuses what decoding would. */
static void test_unsound_records(void **state) {
    (void)state;
    struct sf_trace t;
    struct sf_buf b = {0};
    struct sf_err err = {0};
    make_trace(&t, 5);
    struct sf_trace_rec good = t.recs[3];
    struct sf_trace_rec bad[] = {good, good, good, good, good};
    bad[0].rank = 7;
    bad[1].iter = 1;
    bad[2].covers = 0;
    bad[3].source = 3;
    bad[4].end = bad[4].start - 1;
    for (size_t i = 0; i < 5; i++) {
        t.recs[3] = bad[i];
        assert_int_equal(sf_trace_encode(&t, &b, &err), SF_E_INPUT);
        sf_buf_free(&b);
    }
    t.recs[3] = good;
    memset(t.meta.note, 'x', sizeof t.meta.note); /* no terminator */
    assert_int_equal(sf_trace_encode(&t, &b, &err), SF_E_INPUT);
    sf_buf_free(&b);
    sf_trace_clear(&t);
}

static void test_sort_and_append(void **state) {
    (void)state;
    struct sf_trace a, b;
    make_trace(&a, 200);
    make_trace(&b, 150);
    assert_int_equal(sf_trace_append(&a, &b, NULL), 0);
    assert_int_equal(a.recs_n, 350);
    assert_int_equal(a.clocks_n, 4);
    sf_trace_sort(&a);
    for (size_t i = 1; i < a.recs_n; i++) {
        const struct sf_trace_rec *x = &a.recs[i - 1], *y = &a.recs[i];
        assert_true(x->iter < y->iter ||
                    (x->iter == y->iter &&
                     (x->rank < y->rank ||
                      (x->rank == y->rank && (x->op < y->op || (x->op == y->op && x->start <= y->start))))));
    }
    sf_trace_clear(&a);
    sf_trace_clear(&b);
}

static void test_print(void **state) {
    (void)state;
    struct sf_trace t;
    struct sf_buf b = {0};
    make_trace(&t, 2);
    t.recs[1] = (struct sf_trace_rec){.rank = 1, .op = 4, .covers = 1, .source = SF_TIME_DEVICE, .start = 5, .end = 9};
    assert_int_equal(sf_trace_print(&t, &b, NULL), 0);
    assert_non_null(strstr(b.data, "origin=threads ranks=7 iterations=1 seed=5\n"));
    assert_non_null(strstr(b.data, "clock rank=6 offset=-17ps uncertainty=3ps\n"));
    assert_non_null(strstr(b.data, "\niter=0 rank=1 op=4 covers=1 stream=0 source=device issue=0ps start=5ps end=9ps "
                                   "busy=0ps bytes=0\n"));
    assert_string_equal(sf_time_source_name(7), "?");
    sf_buf_free(&b);
    sf_trace_clear(&t);
}

static void test_out_of_memory(void **state) {
    (void)state;
    struct sf_trace t, back;
    struct sf_buf b, again;
    make_trace(&t, 9000);
    encode(&t, &b);
    size_t n = 1;
    for (int rc = 1; rc != 0; n++) {
        sf_alloc_fail_after(n);
        rc = sf_trace_decode(b.data, b.bytes, "t", &back, NULL);
        sf_alloc_fail_after(0);
        assert_true(rc == 0 || rc == SF_E_INTERNAL);
        sf_trace_clear(&back);
    }
    assert_true(n > 2);
    n = 1;
    for (int rc = 1; rc != 0; n++) {
        again = (struct sf_buf){0};
        sf_alloc_fail_after(n);
        rc = sf_trace_encode(&t, &again, NULL);
        sf_alloc_fail_after(0);
        sf_buf_free(&again);
        assert_true(rc == 0 || rc == SF_E_INTERNAL);
    }
    sf_buf_free(&b);
    sf_trace_clear(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),      cmocka_unit_test(test_files),           cmocka_unit_test(test_damage),
        cmocka_unit_test(test_unsound_records), cmocka_unit_test(test_sort_and_append), cmocka_unit_test(test_print),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
