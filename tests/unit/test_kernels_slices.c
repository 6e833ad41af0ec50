/* Attention and rotation slice by slice against the same calls on whole sequences. */
#include "test_kernels_util.h"

enum { MOST = 256 * 200 };

struct problem {
    uint64_t state;
    int64_t seq, slices, heads, kv_heads, dim;
    const struct sfi_kern_table *table;
};

struct tensors {
    float qkv[MOST], o[MOST], lse[MOST], d_o[MOST], d_qkv[MOST];
};

static int64_t row_of(const struct problem *p) {
    return (p->heads + 2 * p->kv_heads) * p->dim;
}

static void run(const struct problem *p, const struct sf_call *call, void *const *operand) {
    assert_int_equal(p->table->kern[call->kind](call, operand, NULL), 0);
}

static void whole(const struct problem *p, struct tensors *t) {
    static float work[MOST];
    int64_t keys = p->heads * p->dim, values = keys + p->kv_heads * p->dim;
    struct sf_call call = {
        .kind = SF_CALL_ATTN_FWD, .imm = {0, 1}, .dims = {1, p->seq, p->heads, p->kv_heads, p->dim, row_of(p)}};
    void *const operand[SF_CALL_OPERANDS] = {t->qkv,   t->qkv + keys,   t->qkv + values,   t->o, t->lse, t->d_o,
                                             t->d_qkv, t->d_qkv + keys, t->d_qkv + values, work};
    run(p, &call, operand);
    call.kind = SF_CALL_ATTN_BWD;
    run(p, &call, operand);
}

/* Statistics of a slice lie together, so they are gathered into the places that a whole sequence has for them. */
static void sliced(const struct problem *p, struct tensors *t) {
    static float kv[MOST], sum[MOST], work[MOST], lse[MOST];
    int64_t rows = p->seq / p->slices, width = p->heads * p->dim;
    memset(sum, 0x5a, sizeof(sum)); /* the last slice must not read it */
    for (int64_t k = 0; k < 2 * p->slices; k++) {
        int64_t s = k < p->slices ? k : 2 * p->slices - 1 - k, first = s * rows;
        bool back = k >= p->slices;
        struct sf_call call = {.kind = back ? SF_CALL_ATTN_SLICE_BWD : SF_CALL_ATTN_SLICE_FWD,
                               .flags = back && s + 1 < p->slices ? SF_CALL_ACC_FLAG : 0,
                               .dims = {first + rows, rows, p->heads, p->kv_heads, p->dim}};
        void *const operand[SF_CALL_OPERANDS] = {t->qkv + first * row_of(p),
                                                 kv,
                                                 t->o + first * width,
                                                 lse + first * p->heads,
                                                 t->d_o + first * width,
                                                 t->d_qkv + first * row_of(p),
                                                 sum,
                                                 work};
        run(p, &call, operand);
        for (int64_t h = 0; h < p->heads && !back; h++) {
            memcpy(t->lse + h * p->seq + first, lse + (s * p->heads + h) * rows, (size_t)rows * sizeof(float));
        }
    }
}

static void expect_close(const float *want, const float *got, int64_t n, float tolerance) {
    float scale = 0;
    for (int64_t i = 0; i < n; i++) {
        scale = fmaxf(scale, fabsf(want[i]));
    }
    for (int64_t i = 0; i < n; i++) {
        if (!(fabsf(want[i] - got[i]) <= tolerance * scale)) {
            fail_msg("element %d: expected %g, found %g", (int)i, (double)want[i], (double)got[i]);
        }
    }
}

/* `exact`: forward has the same bits. */
static void compare(struct problem p, bool exact) {
    static struct tensors a, b;
    for (int64_t i = 0; i < p.seq * row_of(&p); i++) {
        a.qkv[i] = b.qkv[i] = random_float(&p.state);
        a.d_o[i] = b.d_o[i] = random_float(&p.state);
    }
    whole(&p, &a);
    sliced(&p, &b);
    float forward = exact ? 0 : 1e-6f;
    expect_close(a.o, b.o, p.seq * p.heads * p.dim, forward);
    expect_close(a.lse, b.lse, p.seq * p.heads, forward);
    expect_close(a.d_qkv, b.d_qkv, p.seq * row_of(&p), 2e-6f);
}

static void test_reference(void **unused) {
    (void)unused;
    const struct problem all[] = {{1, 12, 3, 2, 1, 4, NULL},
                                  {2, 21, 7, 4, 2, 6, NULL},
                                  {3, 30, 2, 3, 3, 10, NULL},
                                  {4, 9, 1, 1, 1, 3, NULL},
                                  {5, 8, 8, 2, 2, 300, NULL}};
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
        struct problem p = all[i];
        p.table = &sfi_kern_reference;
        compare(p, true);
    }
}

static void test_fast(void **unused) {
    (void)unused;
    const struct problem all[] = {{1, 48, 3, 2, 1, 8, NULL}, {2, 96, 2, 4, 2, 16, NULL}, {3, 160, 5, 3, 1, 33, NULL}};
    for (size_t t = 0; sfi_kern_fast(t) != NULL; t++) {
        for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
            struct problem p = all[i];
            p.table = sfi_kern_fast(t);
            compare(p, false);
        }
        compare((struct problem){4, 192, 3, 4, 2, 32, sfi_kern_fast(t)}, true); /* whole tiles of keys */
    }
}

/* Rows that start in the middle of a tile of the fast kernel get the reference. */
static void test_odd_slices(void **unused) {
    (void)unused;
    struct sf_call call = {.kind = SF_CALL_ATTN_SLICE_BWD, .dims = {20, 10, 2, 1, 4}};
    assert_ptr_equal(sf_kern_find(SF_KERN_FAST, &call), sfi_kern_reference.kern[call.kind]);
    call.dims[0] = 26;
    assert_ptr_not_equal(sf_kern_find(SF_KERN_FAST, &call), sfi_kern_reference.kern[call.kind]);
    call.dims[0] = 9; /* fewer keys than queries */
    assert_null(sf_kern_find(SF_KERN_FAST, &call));
}

static void rotate(const struct sfi_kern_table *table, int64_t rows, int64_t first, float *x) {
    const struct sf_call call = {.kind = SF_CALL_ROPE_FWD, .imm = {10000, 1}, .dims = {rows, 2, 16, 40, 32, first}};
    void *const operand[SF_CALL_OPERANDS] = {x};
    assert_int_equal(table->kern[call.kind](&call, operand, NULL), 0);
}

static void test_rotation(void **unused) {
    (void)unused;
    for (int t = -1; t < 0 || sfi_kern_fast((size_t)t) != NULL; t++) {
        const struct sfi_kern_table *table = t < 0 ? &sfi_kern_reference : sfi_kern_fast((size_t)t);
        float a[40 * 32], b[40 * 32];
        uint64_t state = 7;
        for (size_t i = 0; i < 40 * 32; i++) {
            a[i] = b[i] = random_float(&state);
        }
        rotate(table, 40, 0, a);
        for (int64_t s = 0; s < 4; s++) {
            rotate(table, 10, 10 * s, b + 10 * s * 32);
        }
        assert_memory_equal(a, b, sizeof(a));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference),
        cmocka_unit_test(test_fast),
        cmocka_unit_test(test_odd_slices),
        cmocka_unit_test(test_rotation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
