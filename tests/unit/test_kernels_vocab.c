/* A vocabulary in parts computes what the whole one does. */
#include "test_kernels_util.h"

#include "kernels/kern.h"

enum { ROWS = 9, COLS = 11, PARTS = 3, PART = 13, VOCAB = PARTS * PART };

static void run(enum sf_kern_set set, const struct sf_call *call, void *const operand[SF_CALL_OPERANDS]) {
    sf_kern kern = sf_kern_find(set, call);
    assert_non_null(kern);
    assert_int_equal(kern(call, operand, NULL), 0);
}

static void localise(const int32_t *ids, int part, int32_t out[ROWS]) {
    for (int r = 0; r < ROWS; r++) {
        out[r] = ids[r] - part * PART;
    }
}

static void assert_near(const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++) {
        assert_true(fabsf(a[i] - b[i]) <= 2e-6f * (1 + fabsf(b[i])));
    }
}

struct loss_case {
    float logits[ROWS * VOCAB], want[ROWS * VOCAB], want_loss;
    int32_t targets[ROWS];
};

static void make_case(struct loss_case *c, float spread) {
    uint64_t state = 3;
    const struct sf_call whole = {.kind = SF_CALL_XENT, .imm = {0.25f}, .dims = {ROWS, VOCAB}};
    for (int i = 0; i < ROWS * VOCAB; i++) {
        c->want[i] = c->logits[i] = spread * random_float(&state);
    }
    fill_ids(c->targets, ROWS, 0, VOCAB - 1, &state);
    void *operand[SF_CALL_OPERANDS] = {c->want, c->targets, &c->want_loss};
    run(SF_KERN_REFERENCE, &whole, operand);
}

static void take_part(const float *from, int part, float out[ROWS * PART]) {
    for (int r = 0; r < ROWS; r++) {
        memcpy(out + r * PART, from + r * VOCAB + part * PART, PART * sizeof(float));
    }
}

static void check_loss(enum sf_kern_set set, float spread) {
    static struct loss_case c;
    const struct sf_call stats_call = {.kind = SF_CALL_XENT_STATS, .dims = {ROWS, PART}};
    struct sf_call part_call = {.kind = SF_CALL_XENT_PART, .imm = {0.25f}, .dims = {ROWS, PART, PARTS}};
    float part[ROWS * PART], want[ROWS * PART], stats[PARTS * 2 * ROWS], loss = 1;
    int32_t local[ROWS];
    make_case(&c, spread);
    for (int p = 0; p < PARTS; p++) {
        take_part(c.logits, p, part);
        localise(c.targets, p, local);
        run(set, &stats_call, (void *[SF_CALL_OPERANDS]){part, local, stats + 2 * p * ROWS});
    }
    for (int p = 0; p < PARTS; p++) {
        take_part(c.logits, p, part);
        take_part(c.want, p, want);
        localise(c.targets, p, local);
        run(set, &part_call, (void *[SF_CALL_OPERANDS]){part, local, stats, &loss});
        assert_near(part, want, ROWS * PART);
        assert_near(&loss, &c.want_loss, 1);
    }
    part_call.flags = SF_CALL_ACC2_FLAG;
    run(set, &part_call, (void *[SF_CALL_OPERANDS]){part, local, stats, &loss});
    assert_true(fabsf(loss - 2 * c.want_loss) <= 1e-5f * loss);
}

static void test_loss_in_parts(void **unused) {
    (void)unused;
    check_loss(SF_KERN_REFERENCE, 3);
    check_loss(SF_KERN_FAST, 3);
    check_loss(SF_KERN_REFERENCE, 80); /* one part has next to nothing of the sum */
    check_loss(SF_KERN_FAST, 80);
}

/* Every row comes from exactly one part; added up, that is the whole. */
static void check_embedding(enum sf_kern_set set) {
    uint64_t state = 5;
    float table[VOCAB * COLS], y[ROWS * COLS], sum[ROWS * COLS] = {0}, gradient[VOCAB * COLS] = {0};
    float want[ROWS * COLS], want_gradient[VOCAB * COLS] = {0};
    int32_t ids[ROWS], local[ROWS];
    for (int i = 0; i < VOCAB * COLS; i++) {
        table[i] = random_float(&state);
    }
    fill_ids(ids, ROWS, 0, VOCAB - 1, &state);
    struct sf_call forward = {.kind = SF_CALL_EMBED_FWD, .dims = {ROWS, COLS, VOCAB}};
    struct sf_call backward = {.kind = SF_CALL_EMBED_BWD, .dims = {ROWS, COLS, VOCAB}};
    run(SF_KERN_REFERENCE, &forward, (void *[SF_CALL_OPERANDS]){ids, table, want});
    run(SF_KERN_REFERENCE, &backward, (void *[SF_CALL_OPERANDS]){ids, want, want_gradient});
    forward.flags = backward.flags = SF_CALL_PART_FLAG;
    forward.dims[2] = backward.dims[2] = PART;
    for (int p = 0; p < PARTS; p++) {
        float *dtable = gradient + p * PART * COLS;
        localise(ids, p, local);
        memset(y, 0x5a, sizeof y);
        run(set, &forward, (void *[SF_CALL_OPERANDS]){local, table + p * PART * COLS, y});
        run(set, &backward, (void *[SF_CALL_OPERANDS]){local, want, dtable});
        for (int i = 0; i < ROWS * COLS; i++) {
            sum[i] += y[i];
        }
    }
    assert_memory_equal(sum, want, sizeof want);
    assert_memory_equal(gradient, want_gradient, sizeof gradient);
}

static void test_embedding_in_parts(void **unused) {
    (void)unused;
    check_embedding(SF_KERN_REFERENCE);
    check_embedding(SF_KERN_FAST);
}

static void test_nan_shows(void **unused) {
    (void)unused;
    const struct sf_call stats_call = {.kind = SF_CALL_XENT_STATS, .dims = {1, 37}};
    const struct sf_call part_call = {.kind = SF_CALL_XENT_PART, .imm = {1}, .dims = {1, 37, 2}};
    for (int at = 0; at < 37; at++) {
        float logits[37] = {0}, stats[4] = {0}, loss = 0;
        int32_t target = -2;
        logits[at] = NAN;
        run(SF_KERN_FAST, &stats_call, (void *[SF_CALL_OPERANDS]){logits, &target, stats + 2});
        run(SF_KERN_FAST, &part_call, (void *[SF_CALL_OPERANDS]){logits, &target, stats, &loss});
        assert_true(isnan(loss));
    }
}

/* Columns that are no tokens take no part, whatever is in them, and get no gradient; no target may name one. */
static void test_padding(void **unused) {
    (void)unused;
    enum { PADDING = 5, WIDE = VOCAB + PADDING };
    static struct loss_case c;
    float wide[ROWS * WIDE], loss = 0;
    struct sf_err err = {0};
    const struct sf_call call = {.kind = SF_CALL_XENT_PADDED, .imm = {0.25f}, .dims = {ROWS, WIDE, PADDING}};
    make_case(&c, 3);
    for (int set = SF_KERN_REFERENCE; set <= SF_KERN_FAST; set++) {
        for (int i = 0; i < ROWS * WIDE; i++) {
            wide[i] = i % WIDE < VOCAB ? c.logits[i / WIDE * VOCAB + i % WIDE] : 1e30f;
        }
        run((enum sf_kern_set)set, &call, (void *[SF_CALL_OPERANDS]){wide, c.targets, &loss});
        assert_near(&loss, &c.want_loss, 1);
        for (int r = 0; r < ROWS; r++) {
            assert_near(wide + r * WIDE, c.want + r * VOCAB, VOCAB);
            assert_memory_equal(wide + r * WIDE + VOCAB, (float[PADDING]){0}, PADDING * sizeof(float));
        }
        int32_t kept = c.targets[3];
        c.targets[3] = VOCAB;
        sf_kern kern = sf_kern_find((enum sf_kern_set)set, &call);
        assert_int_equal(kern(&call, (void *[SF_CALL_OPERANDS]){wide, c.targets, &loss}, &err), SF_E_INPUT);
        c.targets[3] = kept;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loss_in_parts),
        cmocka_unit_test(test_embedding_in_parts),
        cmocka_unit_test(test_nan_shows),
        cmocka_unit_test(test_padding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
