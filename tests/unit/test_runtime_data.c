/* Which text a microbatch sees, and how bad texts are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "runtime/data.h"
#include "runtime/extent.h"
#include "tests/unit/test_runtime_fixture.h"

static struct sf_prog_job job_of(uint32_t seq, uint64_t batch, uint64_t vocab, uint64_t seed) {
    return (struct sf_prog_job){.seq_len_tokens = seq, .global_batch_sequences = batch, .vocab = vocab, .seed = seed};
}

static void test_every_window_once_per_epoch(void **state) {
    (void)state;
    static const size_t sizes[] = {9, 17, 100, 1000, 4097};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        struct sf_prog_job job = job_of(8, 3, 256, 11);
        struct sfi_data *d;
        size_t windows = (sizes[k] - 1) / 8;
        assert_int_equal(sfi_data_load(&job, 0, make_text(sizes[k]), &d, NULL), 0);
        int *seen = calloc(windows, sizeof *seen);
        for (uint64_t sample = 0; sample < 2 * windows; sample++) {
            uint64_t at = sfi_data_offset(d, sample / 3, sample % 3);
            assert_true(at % 8 == 0 && at / 8 < windows);
            seen[at / 8]++;
        }
        for (size_t w = 0; w < windows; w++) {
            assert_int_equal(seen[w], 2);
        }
        free(seen);
        sfi_data_free(d);
    }
}

/* Other seeds and later epochs shuffle anew. */
static void test_order_depends_on_seed_and_epoch(void **state) {
    (void)state;
    struct sf_prog_job a = job_of(8, 1, 256, 1), b = job_of(8, 1, 256, 2);
    struct sfi_data *da, *db;
    const char *text = make_text(8 * 100 + 1);
    assert_int_equal(sfi_data_load(&a, 0, text, &da, NULL), 0);
    assert_int_equal(sfi_data_load(&b, 0, text, &db, NULL), 0);
    int same_seed = 0, same_epoch = 0;
    for (uint64_t i = 0; i < 100; i++) {
        same_seed += sfi_data_offset(da, i, 0) == sfi_data_offset(db, i, 0);
        same_epoch += sfi_data_offset(da, i, 0) == sfi_data_offset(da, i + 100, 0);
    }
    assert_true(same_seed < 20 && same_epoch < 20);
    sfi_data_free(da);
    sfi_data_free(db);
}

static void test_targets_are_one_ahead(void **state) {
    (void)state;
    struct sf_prog_job job = job_of(8, 4, 256, 1);
    struct sfi_data *d;
    int32_t x[16], y[16], again[8];
    assert_int_equal(sfi_data_load(&job, 0, make_text(500), &d, NULL), 0);
    sfi_data_fill(d, 2, 1, 2, 0, x);
    sfi_data_fill(d, 2, 1, 2, 1, y);
    for (int i = 0; i < 16; i++) {
        size_t at = (size_t)sfi_data_offset(d, 2, 1 + (uint64_t)i / 8) + (size_t)i % 8;
        assert_int_equal(x[i], 32 + (at * at + at / 7) % 90);
        assert_int_equal(y[i], 32 + ((at + 1) * (at + 1) + (at + 1) / 7) % 90);
    }
    sfi_data_fill(d, 2, 2, 1, 0, again); /* a sequence is the same in whatever microbatch it comes */
    assert_memory_equal(again, x + 8, sizeof again);
    sfi_data_free(d);
}

/* Slice by slice what a whole load is, and from the own part of the vocabulary where that is split. */
static void test_loads_of_slices(void **state) {
    (void)state;
    struct sf_prog prog = {.job = job_of(8, 8, 256, 1), .axes = {{"tp", 2}}, .axes_n = 1, .comms_n = 1};
    struct sfi_data *d;
    struct sf_op op = {.microbatch = 1, .comm = SF_NONE};
    int32_t whole[2 * 8], part[2 * 2];
    prog.comms[0].axes = 1;
    prog.job.microbatches = 2;
    prog.job.micro_batch_sequences = 2;
    assert_int_equal(sfi_data_load(&prog.job, 0, make_text(500), &d, NULL), 0);
    const struct sfi_loads who = {&prog, 1, 1, 3};
    for (uint32_t targets = 0; targets < 2; targets++) {
        sfi_data_fill(d, 3, 6, 2, targets, whole); /* of the second replica's second microbatch */
        op.flags = targets ? SF_OP_TARGETS : 0;
        for (uint16_t k = 0; k < 8; k++) {
            prog.job.slices = 4;
            op.slice = k % 4;
            op.comm = k < 4 ? SF_NONE : 0;
            assert_int_equal(sfi_load_tokens(&prog.job), 4);
            sfi_data_load_op(d, &who, &op, part);
            for (size_t i = 0; i < 4; i++) {
                assert_int_equal(part[i], whole[i / 2 * 8 + op.slice * 2u + i % 2] - (k < 4 ? 0 : 128));
            }
        }
        prog.job.slices = 0;
    }
    sfi_data_free(d);
}

/* Rows of targets, each a token on; the last window ends where the text does. */
static void test_targets_further_on(void **state) {
    (void)state;
    enum { SEQ = 8, FURTHER = 2, WINDOWS = 5 };
    struct sf_prog prog = {.job = job_of(SEQ, WINDOWS, 256, 1)};
    const struct sfi_loads who = {&prog, 0, 0, 0};
    struct sfi_data *d = NULL;
    struct sf_err err = {0};
    prog.job.microbatches = WINDOWS;
    prog.job.micro_batch_sequences = 1;
    const char *path = make_text(SEQ * WINDOWS + FURTHER + 1);
    assert_int_equal(sfi_data_load(&prog.job, FURTHER, path, &d, &err), 0);
    for (uint16_t m = 0; m < WINDOWS; m++) {
        int32_t tokens[SEQ], targets[(FURTHER + 1) * SEQ + 1] = {0}, expected[SEQ];
        struct sf_op op = {.microbatch = m, .comm = SF_NONE, .flags = SF_OP_TARGETS};
        targets[(FURTHER + 1) * SEQ] = -7;
        sfi_data_load_op(d, &who, &op, targets);
        op.flags = 0;
        sfi_data_load_op(d, &who, &op, tokens);
        assert_int_equal(targets[(FURTHER + 1) * SEQ], -7);
        assert_memory_equal(targets, tokens + 1, (SEQ - 1) * sizeof *tokens);
        for (uint32_t k = 0; k <= FURTHER; k++) {
            sfi_data_fill(d, 0, m, 1, k + 1, expected);
            assert_memory_equal(targets + k * SEQ, expected, sizeof expected);
        }
    }
    sfi_data_free(d);
    prog.job.seq_len_tokens = SEQ * WINDOWS + 1;
    assert_int_equal(sfi_data_load(&prog.job, FURTHER, path, &d, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "has 43 bytes: expected at least 44 for one sequence and the bytes after it"));
}

static void test_bad_texts_are_located(void **state) {
    (void)state;
    const char *path = temp_path("text");
    FILE *f = fopen(path, "wb");
    fputs("good\ntext, but\nno\xc3\xa9", f);
    fclose(f);
    struct sf_prog_job job = job_of(4, 1, 128, 1);
    struct sfi_data *d = NULL;
    struct sf_err err = {0};
    assert_int_equal(sfi_data_load(&job, 0, path, &d, &err), SF_E_INPUT);
    assert_int_equal(err.line, 3);
    assert_int_equal(err.column, 3);
    assert_string_equal(err.file, path);
    assert_non_null(strstr(err.msg, "byte 195"));
    job.vocab = 256;
    assert_int_equal(sfi_data_load(&job, 0, path, &d, &err), SF_OK);
    sfi_data_free(d);
    job.seq_len_tokens = 19;
    assert_int_equal(sfi_data_load(&job, 0, path, &d, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "has 19 bytes: expected at least 20"));
}

struct extent_case {
    int kind;
    int64_t dims[SF_CALL_DIMS];
    uint64_t bytes[SF_CALL_OPERANDS]; /* in elements of 4 bytes */
};

static void test_extents_by_hand(void **state) {
    (void)state;
    static const struct extent_case cases[] = {
        {SF_CALL_GEMM, {2, 3, 5, 7}, {70, 105, 42}},
        {SF_CALL_RMSNORM_FWD, {2, 3}, {6, 3, 6, 2}},
        {SF_CALL_RMSNORM_BWD, {2, 3}, {6, 6, 3, 2, 6, 3}},
        {SF_CALL_ROPE_FWD, {3, 2, 4, 5, 100}, {208}},
        {SF_CALL_ATTN_FWD, {2, 3, 4, 2, 8, 100}, {532, 516, 516, 192, 24}},
        {SF_CALL_GLU_FWD, {2, 3}, {12, 6}},
        {SF_CALL_GLU_BWD, {2, 3}, {6, 12, 12}},
        {SF_CALL_ADD, {9}, {9, 9, 9}},
        {SF_CALL_EMBED_FWD, {2, 3, 11}, {2, 33, 6}},
        {SF_CALL_EMBED_BWD, {2, 3, 11}, {2, 6, 33}},
        {SF_CALL_XENT, {2, 11}, {22, 2, 1}},
        {SF_CALL_XENT_PADDED, {2, 11, 3}, {22, 2, 1}},
        {SF_CALL_ADAMW, {9}, {9, 9, 9, 9, 8, 9}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sf_call call = {.kind = (uint8_t)cases[i].kind, .dtype = SF_F32};
        uint64_t bytes[SF_CALL_OPERANDS];
        memcpy(call.dims, cases[i].dims, sizeof call.dims);
        assert_int_equal(sfi_call_extents(&call, bytes, NULL), SF_OK);
        for (int o = 0; o < sf_call_operands_n(call.kind); o++) {
            assert_int_equal(bytes[o], cases[i].bytes[o] * 4);
        }
    }
}

static void test_hostile_dims(void **state) {
    (void)state;
    uint64_t bytes[SF_CALL_OPERANDS];
    struct sf_err err = {0};
    struct sf_call huge = {.kind = SF_CALL_GEMM, .dtype = SF_F32, .dims = {INT64_C(1) << 48, 1 << 20, 1 << 20, 1}};
    assert_int_equal(sfi_call_extents(&huge, bytes, &err), SF_OK);
    assert_true(bytes[0] == UINT64_MAX && bytes[2] == UINT64_MAX); /* fits into no range */
    struct sf_call zero = {.kind = SF_CALL_ROPE_FWD, .dtype = SF_F32, .dims = {4, 2, 4, 0, 8}};
    assert_int_equal(sfi_call_extents(&zero, bytes, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "dimension 3 is 0"));
    struct sf_call heads = {.kind = SF_CALL_ATTN_FWD, .dtype = SF_F32, .dims = {1, 2, 3, 2, 4, 8}};
    assert_int_equal(sfi_call_extents(&heads, bytes, &err), SF_E_INPUT);
}

static int clean_up(void **state) {
    (void)state;
    unlink(temp_path("text"));
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_window_once_per_epoch),
        cmocka_unit_test(test_order_depends_on_seed_and_epoch),
        cmocka_unit_test(test_targets_are_one_ahead),
        cmocka_unit_test(test_loads_of_slices),
        cmocka_unit_test(test_targets_further_on),
        cmocka_unit_test(test_bad_texts_are_located),
        cmocka_unit_test(test_extents_by_hand),
        cmocka_unit_test(test_hostile_dims),
    };
    return cmocka_run_group_tests(tests, NULL, clean_up);
}
