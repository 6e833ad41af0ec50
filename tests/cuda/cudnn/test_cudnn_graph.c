/* The graphs that cuDNN is given compute attention: a small interpreter walks the same list of ops in f32, chunk by
 * chunk, and is held to the reference. And the files that plans are kept in. Needs neither CUDA nor cuDNN. */
#include "core/scratch.h"
#include "tests/unit/test_kernels_util.h"

#include "core/arena.h"
#include "kernels/cuda/attn_cudnn_file.h"
#include "kernels/cuda/attn_cudnn_graph.h"

/* ---- the interpreter --------------------------------------------------------------------------------------------- */

struct walk {
    const struct sfi_attn_shape *shape;
    const struct sfi_attn_graph *graph;
    float *at[SFI_ATTN_IDS], *own[SFI_ATTN_IDS];
    bool written[SFI_ATTN_IDS];
};

static size_t extent(const struct sfi_attn_tensor *t) {
    size_t n = 1;
    for (int d = 0; d < 4; d++) {
        n += (size_t)((t->dim[d] - 1) * t->stride[d]);
    }
    return n;
}

/* Element i of a tensor; a dim of one, and heads that several others share, are repeated. */
static float *element(const struct walk *w, int id, const int64_t like[4], const int64_t i[4]) {
    const struct sfi_attn_tensor *t = &w->graph->tensors[id];
    int64_t at = 0;
    for (int d = 0; d < 4; d++) {
        int64_t shared = t->dim[d] == 0 ? 1 : like[d] / t->dim[d];
        at += (shared > 1 ? i[d] / shared : i[d]) * t->stride[d];
    }
    return w->at[id] + at;
}

static bool next(int64_t i[4], const int64_t dim[4]) {
    for (int d = 3; d >= 0; d--) {
        if (++i[d] < dim[d]) {
            return true;
        }
        i[d] = 0;
    }
    return false;
}

static void matmul(struct walk *w, const struct sfi_attn_op *op) {
    const struct sfi_attn_tensor *a = &w->graph->tensors[op->a], *b = &w->graph->tensors[op->b],
                                 *c = &w->graph->tensors[op->out];
    assert_int_equal(a->type, SFI_ATTN_BF16); /* or tensor cores are not used */
    assert_int_equal(b->type, SFI_ATTN_BF16);
    assert_true(a->dim[3] == b->dim[2] && a->dim[2] == c->dim[2] && b->dim[3] == c->dim[3]);
    int64_t i[4] = {0};
    do {
        double sum = 0;
        for (int64_t k = 0; k < a->dim[3]; k++) {
            const int64_t of_a[4] = {i[0], i[1], i[2], k}, of_b[4] = {i[0], i[1], k, i[3]};
            const int64_t like_b[4] = {c->dim[0], c->dim[1], b->dim[2], b->dim[3]};
            sum += (double)*element(w, op->a, a->dim, of_a) * (double)*element(w, op->b, like_b, of_b);
        }
        *element(w, op->out, c->dim, i) = (float)sum;
    } while (next(i, c->dim));
}

static void reduce(struct walk *w, const struct sfi_attn_op *op) {
    const int64_t *from = w->graph->tensors[op->a].dim, *to = w->graph->tensors[op->out].dim;
    int64_t i[4] = {0};
    do {
        *element(w, op->out, to, i) = op->kind == SFI_ATTN_MAX ? -INFINITY : 0;
    } while (next(i, to));
    do {
        float *y = element(w, op->out, from, i), x = *element(w, op->a, from, i);
        *y = op->kind == SFI_ATTN_MAX ? fmaxf(*y, x) : *y + x;
    } while (next(i, from));
}

static float value(const struct walk *w, const struct sfi_attn_op *op, const int64_t dim[4], const int64_t i[4]) {
    float a = *element(w, op->a, dim, i), b = op->b == SFI_ATTN_NONE ? 0 : *element(w, op->b, dim, i);
    switch (op->kind) {
    case SFI_ATTN_MUL:
        return a * b;
    case SFI_ATTN_ADD:
        return a + b;
    case SFI_ATTN_SUB:
        return a - b;
    case SFI_ATTN_DIV:
        return a / b;
    case SFI_ATTN_EXP:
        return expf(a);
    case SFI_ATTN_LOG:
        return logf(a);
    case SFI_ATTN_COPY:
        return a;
    case SFI_ATTN_INDEX:
        return (float)i[op->axis];
    case SFI_ATTN_GE:
        return a >= b ? 1 : 0;
    case SFI_ATTN_SELECT:
        return *element(w, op->c, dim, i) != 0 ? a : b;
    default:
        fail_msg("op %d", op->kind);
        return 0;
    }
}

static void pointwise(struct walk *w, const struct sfi_attn_op *op) {
    const int64_t *dim = w->graph->tensors[op->out].dim;
    int64_t i[4] = {0};
    do {
        *element(w, op->out, dim, i) = value(w, op, dim, i);
    } while (next(i, dim));
}

static void reshape(struct walk *w, const struct sfi_attn_op *op) {
    const struct sfi_attn_tensor *from = &w->graph->tensors[op->a], *to = &w->graph->tensors[op->out];
    assert_int_equal(extent(from), extent(to));
    memcpy(w->at[op->out], w->at[op->a], extent(to) * sizeof(float));
}

/* Read what was written, write each once, and to no operand that the call does not write. */
static void check_use(struct walk *w, const struct sfi_attn_op *op) {
    const int8_t in[3] = {op->a, op->b, op->c};
    const struct sfi_attn_tensor *out = &w->graph->tensors[op->out];
    unsigned writes = sf_call_writes(w->shape->backward ? SF_CALL_ATTN_BWD : SF_CALL_ATTN_FWD);
    for (int i = 0; i < 3; i++) {
        if (in[i] != SFI_ATTN_NONE) {
            const struct sfi_attn_tensor *t = &w->graph->tensors[in[i]];
            bool given = t->place == SFI_ATTN_VALUE || (t->place == SFI_ATTN_OPERAND && !(writes >> t->operand & 1));
            assert_true(t->used && (given || w->written[in[i]]));
        }
    }
    assert_false(w->written[op->out]);
    assert_true(out->place != SFI_ATTN_VALUE && (out->place != SFI_ATTN_OPERAND || writes >> out->operand & 1));
    w->written[op->out] = true;
}

static void walk_ops(struct walk *w) {
    for (uint32_t i = 0; i < w->graph->ops_n; i++) {
        const struct sfi_attn_op *op = &w->graph->ops[i];
        check_use(w, op);
        if (op->kind == SFI_ATTN_MATMUL) {
            matmul(w, op);
        } else if (op->kind == SFI_ATTN_MAX || op->kind == SFI_ATTN_SUM) {
            reduce(w, op);
        } else if (op->kind == SFI_ATTN_RESHAPE) {
            reshape(w, op);
        } else {
            pointwise(w, op);
        }
    }
}

static void walk_chunk(const struct sfi_attn_shape *shape, const struct sfi_attn_graph *graph, int64_t chunk,
                       float *const operand[SF_CALL_OPERANDS]) {
    struct walk w = {.shape = shape, .graph = graph};
    for (int i = 0; i < SFI_ATTN_IDS; i++) {
        const struct sfi_attn_tensor *t = &graph->tensors[i];
        if (t->used && t->place == SFI_ATTN_OPERAND) { /* f32 here, whatever the type */
            w.at[i] = operand[t->operand] + sfi_attn_offset(shape, t, chunk) / (t->type == SFI_ATTN_BF16 ? 2 : 4);
        } else if (t->used) {
            w.at[i] = w.own[i] = calloc(extent(t), sizeof(float));
            assert_non_null(w.own[i]);
            w.own[i][0] = t->value;
        }
    }
    walk_ops(&w);
    for (int i = 0; i < SFI_ATTN_IDS; i++) {
        free(w.own[i]);
    }
}

/* ---- against the reference --------------------------------------------------------------------------------------- */

enum { MEMORY = 13000 };

struct memory {
    float qkv[MEMORY], d_qkv[MEMORY], o[MEMORY], d_o[MEMORY], lse[MEMORY], work[MEMORY];
};

static void operands_in(struct memory *m, const struct sf_call *call, float *operand[SF_CALL_OPERANDS]) {
    int64_t q = call->dims[2] * call->dims[4], kv = call->dims[3] * call->dims[4];
    float *all[SF_CALL_OPERANDS] = {m->qkv,   m->qkv + q,   m->qkv + q + kv,   m->o,   m->lse, m->d_o,
                                    m->d_qkv, m->d_qkv + q, m->d_qkv + q + kv, m->work};
    memcpy(operand, all, sizeof all);
}

static void reference(struct memory *m, const struct sf_call *call) {
    struct sf_call wide = *call;
    float *operand[SF_CALL_OPERANDS];
    wide.dtype = SF_F32;
    operands_in(m, call, operand);
    assert_int_equal(sf_kern_find(SF_KERN_REFERENCE, &wide)(&wide, (void *const *)operand, NULL), 0);
}

static void graph(struct memory *m, const struct sf_call *call, const struct sfi_attn_shape *shape) {
    struct sfi_attn_graph g;
    float *operand[SF_CALL_OPERANDS];
    operands_in(m, call, operand);
    sfi_attn_graph_of(shape, &g);
    assert_in_range(g.ops_n, 14, SFI_ATTN_OPS_MAX);
    for (int64_t chunk = 0; chunk < sfi_attn_chunks(shape); chunk++) {
        walk_chunk(shape, &g, chunk, operand);
    }
}

static void assert_near(const float *a, const float *b, const char *what) {
    for (size_t i = 0; i < MEMORY; i++) {
        if (!(fabsf(a[i] - b[i]) <= 2e-5f * (1 + fabsf(b[i])))) {
            fail_msg("%s[%zu]: %.9g, expected %.9g", what, i, (double)a[i], (double)b[i]);
        }
    }
}

static void assert_same(const struct memory *a, const struct memory *b) {
    assert_near(a->qkv, b->qkv, "qkv");
    assert_near(a->o, b->o, "o");
    assert_near(a->lse, b->lse, "lse");
    assert_near(a->d_o, b->d_o, "do");
    assert_near(a->d_qkv, b->d_qkv, "dqkv"); /* between the rows too: nobody writes there */
}

static void fill(struct memory *m, uint64_t *state) {
    float *all = (float *)m;
    for (size_t i = 0; i < sizeof *m / sizeof(float); i++) {
        all[i] = random_float(state);
    }
}

static struct sf_call random_attention(uint64_t *state) {
    struct sf_call call = {.kind = SF_CALL_ATTN_FWD, .dtype = SF_BF16, .imm = {0, 1}};
    int64_t kv = random_int(state, 1, 3), group = random_int(state, 1, 3), head_dim = 8 * random_int(state, 1, 3);
    int64_t dims[SF_CALL_DIMS] = {random_int(state, 1, 3),
                                  random_int(state, 1, 11),
                                  kv * group,
                                  kv,
                                  head_dim,
                                  (kv * group + 2 * kv) * head_dim + 8 * random_int(state, 0, 1)};
    memcpy(call.dims, dims, sizeof dims);
    return call;
}

/* Both directions with the chunks of `shape`, which is the call's but for them. */
static void check_call(struct sf_call *call, int64_t chunk_batch, int64_t chunk_heads, bool deterministic,
                       uint64_t *state) {
    static struct memory ours, theirs;
    struct sfi_attn_shape shape;
    fill(&ours, state);
    theirs = ours;
    for (int backward = 0; backward < 2; backward++) {
        call->kind = backward ? SF_CALL_ATTN_BWD : SF_CALL_ATTN_FWD;
        assert_true(sfi_attn_shape_of(call, deterministic, &shape));
        shape.chunk_batch = chunk_batch;
        shape.chunk_heads = chunk_heads;
        reference(&theirs, call);
        graph(&ours, call, &shape);
        assert_same(&ours, &theirs);
    }
}

static void test_mathematics(void **unused) {
    (void)unused;
    uint64_t state = 11;
    for (int i = 0; i < 24; i++) {
        struct sf_call call = random_attention(&state);
        int64_t group = call.dims[2] / call.dims[3];
        for (int64_t batch = 1; batch <= call.dims[0]; batch++) {
            for (int64_t heads = group; heads <= call.dims[2]; heads += group) {
                if (call.dims[0] % batch == 0 && call.dims[2] % heads == 0) {
                    check_call(&call, batch, heads, i % 2 == 0, &state);
                }
            }
        }
    }
}

/* ---- shapes and memory ------------------------------------------------------------------------------------------- */

static struct sf_call backward_call(int64_t batch, int64_t seq, int64_t heads, int64_t kv, int64_t head_dim) {
    return (struct sf_call){.kind = SF_CALL_ATTN_BWD,
                            .dtype = SF_BF16,
                            .dims = {batch, seq, heads, kv, head_dim, (heads + 2 * kv) * head_dim}};
}

static void test_chunks(void **unused) {
    (void)unused;
    struct sfi_attn_shape s;
    struct sf_call call = backward_call(1, 8192, 32, 8, 128);
    assert_true(sfi_attn_shape_of(&call, false, &s));
    assert_int_equal(sfi_attn_chunks(&s), 1);
    assert_true(sfi_attn_shape_of(&call, true, &s));
    assert_int_equal(s.chunk_heads, 4); /* a group; two would need more than the goal */
    assert_int_equal(sfi_attn_chunks(&s), 8);
    assert_in_range(sfi_attn_work(&call, true), 1, SFI_ATTN_WORK_GOAL);
    call = backward_call(48, 1024, 12, 12, 64);
    assert_true(sfi_attn_shape_of(&call, true, &s));
    assert_int_equal(s.chunk_heads, 12); /* sequences go before heads */
    assert_int_equal(s.chunk_batch, 24);
    call = backward_call(1, 65536, 32, 8, 128);
    assert_false(sfi_attn_shape_of(&call, true, &s));
    assert_int_equal(sfi_attn_work(&call, true), 0);
    assert_true(sfi_attn_shape_of(&call, false, &s));
    assert_in_range(sfi_attn_work(&call, false), 1, SFI_ATTN_WORK_GOAL);
}

static void test_forecasts_count_the_work_area(void **unused) {
    (void)unused;
    static const int64_t seqs[] = {64, 1000, 1024, 2048, 8192, 65536}, batches[] = {1, 3, 8, 48};
    for (size_t i = 0; i < sizeof seqs / sizeof *seqs * (sizeof batches / sizeof *batches); i++) {
        for (int64_t group = 1; group <= 8; group *= 2) {
            for (int64_t width = 64; width <= 256; width *= 2) {
                int64_t seq = seqs[i / 4], batch = batches[i % 4];
                struct sf_call call = backward_call(batch, seq, 32, 32 / group, width);
                assert_int_equal(sf_call_scratch_bytes(&call), sfi_attn_work(&call, false));
                call.kind = SF_CALL_ATTN_FWD;
                assert_int_equal(sf_call_scratch_bytes(&call), sfi_attn_work(&call, false));
            }
        }
    }
}

static void test_shapes_that_have_no_graph(void **unused) {
    (void)unused;
    struct sfi_attn_shape s;
    struct sf_call good = backward_call(1, 64, 4, 2, 64);
    assert_true(sfi_attn_shape_of(&good, false, &s));
    const struct {
        int dim;
        int64_t value;
    } bad[] = {{0, 0},         {0, -1}, {0, INT64_MAX}, {1, 0},        {1, INT64_MAX}, {2, 3},
               {2, INT64_MAX}, {3, 0},  {3, INT64_MIN}, {4, 0},        {4, 60},        {4, 264},
               {4, INT64_MAX}, {5, 56}, {5, 516},       {5, INT64_MAX}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct sf_call call = good;
        call.dims[bad[i].dim] = bad[i].value;
        assert_false(sfi_attn_shape_of(&call, i % 2 != 0, &s));
        assert_int_equal(sfi_attn_work(&call, false), 0);
    }
    good.flags = SF_CALL_RECOMPUTE_FLAG;
    assert_true(sfi_attn_shape_of(&good, false, &s));
    good.flags = SF_CALL_ACC_FLAG;
    assert_false(sfi_attn_shape_of(&good, false, &s));
    good.flags = 0;
    good.imm[1] = 0.5f; /* of half of the queries */
    assert_false(sfi_attn_shape_of(&good, false, &s));
    good.imm[1] = 1;
    assert_true(sfi_attn_shape_of(&good, false, &s));
    good.dtype = SF_F32;
    assert_false(sfi_attn_shape_of(&good, false, &s));
    good = (struct sf_call){.kind = SF_CALL_GEMM, .dtype = SF_BF16, .dims = {1, 64, 4, 2, 64, 512}};
    assert_false(sfi_attn_shape_of(&good, false, &s));
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

static const struct sfi_attn_device h200 = {.name = "NVIDIA H200", .arch = 90, .sms_n = 132, .cudnn = 91900};
static const char json[] = "{\"a\": [1, 2],\n\"b\": 3}\n";

static int check_file(const char *text, size_t bytes, const struct sfi_attn_device *device,
                      const struct sfi_attn_shape *shape) {
    const char *found;
    size_t found_bytes;
    struct sf_err err = {0};
    char *copy = malloc(bytes + 1); /* exactly as long: reading beyond it shows under a sanitizer */
    memcpy(copy, text, bytes);
    int rc = sfi_attn_file_check(copy, bytes, "kept.plan", device, shape, &found, &found_bytes, &err);
    if (rc == 0) {
        assert_int_equal(found_bytes, sizeof json - 1);
        assert_memory_equal(found, json, sizeof json - 1);
    } else {
        assert_int_equal(rc, SF_E_INPUT);
        assert_string_equal(err.file, "kept.plan");
        assert_non_null(strstr(err.msg, "built anew"));
    }
    free(copy);
    return rc;
}

static void test_files(void **unused) {
    (void)unused;
    struct sfi_attn_shape shape, other;
    struct sfi_attn_device device = h200;
    struct sf_buf text = {0};
    struct sf_call call = backward_call(1, 64, 4, 2, 64);
    assert_true(sfi_attn_shape_of(&call, false, &shape));
    sfi_attn_file_print(&h200, &shape, json, sizeof json - 1, &text);
    assert_false(text.failed);
    assert_int_equal(check_file(text.data, text.bytes, &h200, &shape), 0);
    other = shape;
    other.row_stride += 8;
    assert_int_not_equal(check_file(text.data, text.bytes, &h200, &other), 0);
    assert_true(sfi_attn_shape_of(&call, true, &other));
    assert_int_not_equal(check_file(text.data, text.bytes, &h200, &other), 0);
    device.cudnn = 91901;
    assert_int_not_equal(check_file(text.data, text.bytes, &device, &shape), 0);
    for (size_t cut = 0; cut < text.bytes; cut++) {
        assert_int_not_equal(check_file(text.data, cut, &h200, &shape), 0);
    }
    for (size_t i = 0; i < text.bytes; i++) {
        text.data[i] ^= 4;
        assert_int_not_equal(check_file(text.data, text.bytes, &h200, &shape), 0);
        text.data[i] ^= 4;
    }
    sf_buf_write(&text, "x", 1);
    assert_int_not_equal(check_file(text.data, text.bytes, &h200, &shape), 0);
    sf_buf_free(&text);
}

static void test_file_names(void **unused) {
    (void)unused;
    struct sfi_attn_shape shape;
    struct sf_err err = {0};
    struct sfi_attn_device device = {.name = "../..//x y", .cudnn = 91900};
    struct sf_call call = backward_call(1, 64, 4, 2, 64);
    char path[128];
    assert_true(sfi_attn_shape_of(&call, true, &shape));
    assert_int_equal(sfi_attn_file_path("c", &device, &shape, path, sizeof path, &err), 0);
    assert_string_equal(path, "c/attn-xy-91900-bwd-same-bits-b1-s64-h4-2-d64-r512.plan");
    assert_int_equal(sfi_attn_file_path("c", &device, &shape, path, 20, &err), SF_E_INPUT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mathematics),
        cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_forecasts_count_the_work_area),
        cmocka_unit_test(test_shapes_that_have_no_graph),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_file_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
