/* The same bits whatever thread, run or alignment; what the table refuses; the canonical sum. */
#include "test_kernels_util.h"

#include <dirent.h>
#include <math.h>
#include <pthread.h>

#include "kernels/kern.h"

enum { SHAPES = 6, CALLS = SF_CALL_KINDS * SHAPES + 4 };

struct job {
    const struct sf_call *call;
    const struct operands *in;
    struct operands out;
};

struct batch {
    struct job job[CALLS];
    size_t n;
    bool backwards;
};

static void *run_batch(void *arg) {
    struct batch *batch = arg;
    for (size_t i = 0; i < batch->n; i++) {
        struct job *job = &batch->job[batch->backwards ? batch->n - 1 - i : i];
        operands_copy(job->in, &job->out);
        if (sf_kern_find(SF_KERN_FAST, job->call)(job->call, job->out.at, NULL) != 0) {
            return arg;
        }
    }
    return NULL;
}

static size_t make_calls(struct sf_call calls[CALLS]) {
    uint64_t state = 11;
    size_t n = 0;
    for (uint8_t kind = 0; kind < SF_CALL_KINDS; kind++) {
        for (int s = 0; sfi_kern_reference.kern[kind] != NULL && s < SHAPES; s++) {
            calls[n++] = random_call(kind, &state);
        }
    }
    const struct sf_call larger[] = {
        {.kind = SF_CALL_GEMM, .dims = {512, 128, 128, 1}},
        {.kind = SF_CALL_GEMM, .flags = SF_CALL_TA_FLAG | SF_CALL_ACC_FLAG, .dims = {128, 384, 512, 1}},
        {.kind = SF_CALL_GEMM, .flags = SF_CALL_TB_FLAG, .dims = {200, 300, 100, 2}},
        {.kind = SF_CALL_GEMM, .flags = SF_CALL_TA_FLAG | SF_CALL_TB_FLAG, .dims = {65, 31, 257, 1}},
    };
    memcpy(calls + n, larger, sizeof(larger));
    return n + sizeof(larger) / sizeof(*larger);
}

static void test_same_bits(void **unused) {
    (void)unused;
    static struct sf_call calls[CALLS];
    static struct operands in[CALLS];
    static struct batch batch[3];
    uint64_t state = 12;
    size_t n = make_calls(calls);
    for (size_t i = 0; i < n; i++) {
        in[i] = operands_create(&calls[i], 0);
        operands_fill(&calls[i], &in[i], &state);
    }
    for (size_t b = 0; b < 3; b++) {
        batch[b].n = n;
        batch[b].backwards = b == 1;
        for (size_t i = 0; i < n; i++) {
            batch[b].job[i] = (struct job){&calls[i], &in[i], operands_create(&calls[i], 5 * b)};
        }
    }
    pthread_t thread[2];
    void *failed;
    for (size_t b = 0; b < 2; b++) {
        assert_int_equal(pthread_create(&thread[b], NULL, run_batch, &batch[b]), 0);
    }
    assert_null(run_batch(&batch[2]));
    for (size_t b = 0; b < 2; b++) {
        assert_int_equal(pthread_join(thread[b], &failed), 0);
        assert_null(failed);
    }
    for (size_t i = 0; i < n; i++) {
        for (int o = 0; o < SF_CALL_OPERANDS; o++) {
            size_t bytes = in[i].count[o] * sizeof(float);
            for (size_t b = 1; b < 3 && bytes > 0; b++) {
                assert_memory_equal(batch[0].job[i].out.at[o], batch[b].job[i].out.at[o], bytes);
            }
        }
        for (size_t b = 0; b < 3; b++) {
            operands_destroy(&batch[b].job[i].out);
        }
        operands_destroy(&in[i]);
    }
}

static float tree(const float *const src[], size_t n, size_t i) {
    if (n == 1) {
        return src[0][i];
    }
    size_t left = 1;
    while (2 * left < n) {
        left *= 2;
    }
    return tree(src, left, i) + tree(src + left, n - left, i);
}

static void check_tree_sum(const struct sfi_kern_table *table, size_t n, size_t count, uint64_t *state) {
    float *data = malloc((n + 1) * count * sizeof(float)), *want = malloc(count * sizeof(float));
    const float **src = malloc(n * sizeof(*src));
    assert_true(data != NULL && want != NULL && src != NULL);
    for (size_t i = 0; i < n * count; i++) {
        data[i] = random_float(state) * (float)(1 << (i % 20));
    }
    for (size_t s = 0; s < n; s++) {
        src[s] = data + s * count;
    }
    for (size_t i = 0; i < count; i++) {
        want[i] = tree(src, n, i);
    }
    table->tree_sum(data + n * count, src, n, count);
    assert_memory_equal(data + n * count, want, count * sizeof(float));
    table->tree_sum(data + (n / 2) * count, src, n, count); /* into one of the sources */
    assert_memory_equal(data + (n / 2) * count, want, count * sizeof(float));
    free(src);
    free(want);
    free(data);
}

static void test_tree_sum(void **unused) {
    (void)unused;
    uint64_t state = 13;
    const struct sfi_kern_table *table;
    for (size_t t = 0; (table = sfi_kern_fast(t)) != NULL; t++) {
        for (size_t n = 1; n <= 40; n++) {
            check_tree_sum(table, n, (size_t)random_int(&state, 1, 400), &state);
        }
        check_tree_sum(table, 1000, 3, &state);
    }
    float y[3] = {1, 2, 3};
    sf_kern_tree_sum(y, NULL, 0, 2);
    assert_true(y[0] == 0 && y[1] == 0 && y[2] == 3);
}

static void test_find(void **unused) {
    (void)unused;
    struct sf_call call = {.kind = SF_CALL_GEMM, .dtype = SF_F32, .dims = {1, 1, 1, 1}};
    assert_non_null(sf_kern_find(SF_KERN_FAST, &call));
    call.flags = SF_CALL_RECOMPUTE_FLAG | SF_CALL_TA_FLAG;
    assert_ptr_equal(sf_kern_find(SF_KERN_REFERENCE, &call), sfi_kern_reference.kern[SF_CALL_GEMM]);
    call.flags = SF_CALL_GELU_FLAG;
    assert_null(sf_kern_find(SF_KERN_FAST, &call));
    call.flags = 0;
    call.dtype = SF_BF16;
    assert_null(sf_kern_find(SF_KERN_FAST, &call));
    call.dtype = SF_F32;
    call.dims[3] = 0;
    assert_null(sf_kern_find(SF_KERN_FAST, &call));
    call.kind = SF_CALL_KINDS;
    assert_null(sf_kern_find(SF_KERN_FAST, &call));
    for (uint8_t kind = SF_CALL_MOE_ROUTE_FWD; kind <= SF_CALL_ALL_TO_ALL; kind++) {
        call = (struct sf_call){.kind = kind, .dims = {1, 1, 1, 1}};
        assert_null(sf_kern_find(SF_KERN_FAST, &call));
        assert_null(sf_kern_find(SF_KERN_REFERENCE, &call));
    }
    call = (struct sf_call){.kind = SF_CALL_ATTN_FWD, .imm = {0, 1}, .dims = {1, 8, 3, 2, 8, 24}};
    assert_null(sf_kern_find(SF_KERN_FAST, &call));
    call = (struct sf_call){.kind = SF_CALL_ATTN_FWD, .imm = {0, 1}, .dims = {1, 8, 1, 1, 1000, 1000}};
    assert_ptr_equal(sf_kern_find(SF_KERN_FAST, &call), sfi_kern_reference.kern[SF_CALL_ATTN_FWD]);
    call.imm[1] = 0.5f; /* a part of the keys */
    assert_null(sf_kern_find(SF_KERN_FAST, &call));
    assert_null(sf_kern_find(SF_KERN_REFERENCE, &call));
}

static void check_bad_id(uint8_t kind, int operand, int32_t id) {
    const struct sf_call call = {.kind = kind, .dims = {4, 3, 3}};
    struct operands ops = operands_create(&call, 0), before = operands_create(&call, 0);
    uint64_t state = 14;
    operands_fill(&call, &ops, &state);
    ((int32_t *)ops.at[operand])[2] = id;
    operands_copy(&ops, &before);
    for (int set = SF_KERN_REFERENCE; set <= SF_KERN_FAST; set++) {
        struct sf_err err = {0};
        sf_kern kern = sf_kern_find((enum sf_kern_set)set, &call);
        assert_int_equal(kern(&call, ops.at, &err), SF_E_INPUT);
        assert_non_null(strstr(err.msg, "row 2"));
        for (int i = 0; i < SF_CALL_OPERANDS; i++) {
            if (ops.count[i] > 0) {
                assert_memory_equal(ops.at[i], before.at[i], ops.count[i] * sizeof(float));
            }
        }
    }
    operands_destroy(&ops);
    operands_destroy(&before);
}

/* Tokens come from data files. A bad one is reported before anything is written. */
static void test_ids_are_checked(void **unused) {
    (void)unused;
    const int32_t bad[] = {-1, 3, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        check_bad_id(SF_CALL_EMBED_FWD, 0, bad[i]);
        check_bad_id(SF_CALL_EMBED_BWD, 0, bad[i]);
        check_bad_id(SF_CALL_XENT, 1, bad[i]);
    }
}

/* Overwriting must not read what was there. */
static void test_gemm_overwrites_nan(void **unused) {
    (void)unused;
    const int64_t k_of[] = {0, 1, 33, 300};
    for (size_t i = 0; i < sizeof(k_of) / sizeof(*k_of); i++) {
        const struct sf_call call = {.kind = SF_CALL_GEMM, .dims = {50, 40, k_of[i], 1}};
        struct operands ops = operands_create(&call, 0);
        uint64_t state = 15;
        operands_fill(&call, &ops, &state);
        for (size_t e = 0; e < ops.count[2]; e++) {
            ((float *)ops.at[2])[e] = NAN;
        }
        assert_int_equal(sf_kern_find(SF_KERN_FAST, &call)(&call, ops.at, NULL), 0);
        for (size_t e = 0; e < ops.count[2]; e++) {
            assert_true(!isnan(((float *)ops.at[2])[e]));
        }
        operands_destroy(&ops);
    }
}

static void *large_gemm(void *arg) {
    const struct sf_call call = {.kind = SF_CALL_GEMM, .dims = {512, 512, 512, 1}};
    return sf_kern_find(SF_KERN_FAST, &call)(&call, arg, NULL) == 0 ? NULL : arg;
}

static size_t threads_at_start;

/* 0 where the system does not say. */
static size_t threads_alive(void) {
    DIR *tasks = opendir("/proc/self/task");
    size_t n = 0;
    if (tasks == NULL) {
        return 0;
    }
    for (struct dirent *entry; (entry = readdir(tasks)) != NULL;) {
        n += entry->d_name[0] != '.';
    }
    closedir(tasks);
    return n;
}

/* A library that starts a pool of threads would leave them behind: every rank must stay on its own core. */
static void test_gemm_starts_no_threads(void **unused) {
    (void)unused;
    const struct sf_call call = {.kind = SF_CALL_GEMM, .dims = {512, 512, 512, 1}};
    struct operands ops = operands_create(&call, 0);
    uint64_t state = 16;
    pthread_t thread;
    void *failed;
    operands_fill(&call, &ops, &state);
    assert_int_equal(pthread_create(&thread, NULL, large_gemm, ops.at), 0);
    assert_int_equal(pthread_join(thread, &failed), 0);
    assert_null(failed);
    assert_null(large_gemm(ops.at));
    assert_int_equal(threads_alive(), threads_at_start);
    operands_destroy(&ops);
}

static void *nothing(void *arg) {
    return arg;
}

/* After a first thread came and went, since a sanitizer may start one of its own then. */
static size_t count_threads_at_start(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, nothing, NULL) == 0) {
        pthread_join(thread, NULL);
    }
    return threads_alive();
}

int main(void) {
    threads_at_start = count_threads_at_start();
    sf_kern_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_tree_sum),
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_ids_are_checked),
        cmocka_unit_test(test_gemm_overwrites_nan),
        cmocka_unit_test(test_gemm_starts_no_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
