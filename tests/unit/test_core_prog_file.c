/* Program files: both forms keep everything, damage is refused, hostile text and bytes never crash. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/io.h"
#include "core/prog_build.h"
#include "core/rng.h"

enum { COMPUTE, SENDS, RECEIVES, GRADIENTS, STREAMS };
enum { PP, DP, TP };

static struct sf_call call(enum sf_call_kind kind) {
    struct sf_call c = {.kind = (uint8_t)kind, .comm = SF_NONE, .imm = {0, 1}};
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        c.operand[i] = SF_REF_NONE;
    }
    return c;
}

static uint32_t build_recipe(struct sf_build *b) {
    struct sf_call gemm = call(SF_CALL_GEMM), reduce = call(SF_CALL_ALL_REDUCE), norm = call(SF_CALL_RMSNORM_FWD);
    gemm.dtype = SF_BF16;
    gemm.flags = SF_CALL_TB_FLAG | SF_CALL_ACC_FLAG | SF_CALL_RECOMPUTE_FLAG;
    memcpy(gemm.dims, (int64_t[]){8, 4, INT64_C(1) << 40, 1}, 4 * sizeof(int64_t));
    gemm.operand[0] = SF_REF(0, 0);
    gemm.operand[2] = SF_REF(1, 64);
    reduce.comm = TP;
    reduce.dims[0] = 128;
    reduce.operand[0] = reduce.operand[1] = SF_REF(1, 0);
    norm.imm[0] = 1e-5f;
    norm.imm[1] = -0.0f;
    norm.dims[0] = norm.dims[1] = 8;
    sf_build_recipe_begin(b, "a \"layer\", really", 2);
    sf_build_call(b, &gemm);
    sf_build_call(b, &reduce);
    sf_build_call(b, &norm);
    return sf_build_recipe_end(b);
}

static uint32_t add(struct sf_build *b, struct sf_op op, const struct sf_arg *args, uint32_t args_n, uint32_t dep) {
    return sf_build_op(b, &op, args, args_n, &dep, dep == SF_NONE ? 0 : 1);
}

static uint32_t compute(struct sf_build *b, uint8_t kind, uint32_t recipe, struct sf_arg x, struct sf_arg y,
                        uint32_t dep) {
    struct sf_arg args[] = {x, y};
    return add(b, (struct sf_op){.kind = kind, .stream = COMPUTE, .recipe = recipe, .comm = SF_NONE}, args, 2, dep);
}

static uint32_t transfer(struct sf_build *b, uint8_t kind, int32_t delta, struct sf_arg a, uint32_t dep) {
    struct sf_op op = {.kind = kind,
                       .stream = kind == SF_OP_SEND ? SENDS : RECEIVES,
                       .recipe = SF_NONE,
                       .comm = PP,
                       .peer_delta = delta,
                       .bytes = a.bytes,
                       .group = 3};
    return add(b, op, &a, 1, dep);
}

static void build_stage(struct sf_build *b, uint32_t stage, uint32_t recipe) {
    sf_build_class_begin(b, stage == 0 ? "first" : "last stage", stage);
    uint32_t param = sf_build_buffer(b, "param", SF_BUF_PARAM, 256, true);
    uint32_t grad = sf_build_buffer(b, "grad", SF_BUF_GRAD, 256, true);
    uint32_t here = sf_build_buffer(b, "act \xc3\xa9\n", SF_BUF_ACTIVATION, 256, false);
    uint32_t landing = sf_build_buffer(b, "landing", SF_BUF_COMM, 256, false);
    struct sf_tensor t = {.name = "model.layers.0.weight", .buf = param, .rows = 8, .cols = 8, .init = SF_INIT_NORMAL};
    t.init_std = 0.02f;
    t.comm = TP;
    t.first_row = 4;
    t.whole_rows = 20; /* two members: rows 4 to 11 and 12 to 19 */
    sf_build_tensor(b, &t);
    struct sf_arg x = {.buf = here, .access = SF_WRITE, .bytes = 256}, in = {landing, SF_WRITE, 0, 256};
    struct sf_arg g = {grad, SF_READ_WRITE, 0, 256}, w = {param, SF_READ_WRITE, 0, 256};
    struct sf_arg read_w = {param, SF_READ, 0, 256}, read_in = {landing, SF_READ, 0, 256};
    uint32_t dep = SF_NONE;
    if (stage == 1) {
        dep = transfer(b, SF_OP_RECV, -1, in, SF_NONE);
        x = (struct sf_arg){landing, SF_READ_WRITE, 0, 256};
    }
    uint32_t forward = compute(b, SF_OP_FORWARD, recipe, read_w, x, dep);
    x.access = SF_READ;
    if (stage == 0) {
        transfer(b, SF_OP_SEND, +1, x, forward);
        dep = transfer(b, SF_OP_RECV, +1, in, SF_NONE);
    }
    uint32_t backward = compute(b, SF_OP_BACKWARD, recipe, stage == 0 ? read_in : x, g, stage == 0 ? dep : SF_NONE);
    if (stage == 1) {
        transfer(b, SF_OP_SEND, -1, x, backward);
    }
    struct sf_op sum = {.kind = SF_OP_ALL_REDUCE, .stream = GRADIENTS, .recipe = SF_NONE, .comm = DP, .bytes = 256};
    sum.flags = SF_OP_SUM_F32;
    uint32_t reduced = add(b, sum, &g, 1, backward);
    compute(b, SF_OP_OPTIMIZER, recipe, (struct sf_arg){grad, SF_READ, 0, 256}, w, reduced);
    sf_build_class_end(b);
}

/* Two stages, two replicas, odd names, every sort of field in use. */
static struct sf_prog *build(void) {
    struct sf_build *b = sf_build_create();
    struct sf_err err = {0};
    struct sf_prog *prog = NULL;
    assert_non_null(b);
    uint32_t pp = sf_build_axis(b, "pp", 2), dp = sf_build_axis(b, "dp", 2), tp = sf_build_axis(b, "t p", 1);
    sf_build_comm(b, "pp", 1u << pp);
    sf_build_comm(b, "same", 1u << dp);
    sf_build_comm(b, "same", 1u << tp | 1u << dp); /* referred to by number */
    const char *const streams[STREAMS] = {"compute", "sends", "receives", "all gradients"};
    for (int i = 0; i < STREAMS; i++) {
        sf_build_stream(b, streams[i]);
    }
    struct sf_prog *p = sf_build_prog(b);
    snprintf(p->title, sizeof p->title, "%s", "tiny \\ \"two\" stages");
    p->source = (struct sf_hash){UINT64_C(0x0123456789abcdef), 42};
    p->class_axes = 1u << pp;
    p->ranks_per_domain = 2;
    p->domain_gpus = 3;
    p->device_memory_bytes = 1 << 20;
    p->job = (struct sf_prog_job){.microbatches = 1, .chunks = 1, .seq_len_tokens = 8, .vocab = 256, .lr = 3e-4f};
    p->job.model_flops_per_step = 0.1 + 1e15;
    p->job.seed = UINT64_MAX;
    p->job.eps = 1e-8f;
    uint32_t recipe = build_recipe(b);
    build_stage(b, 0, recipe);
    build_stage(b, 1, recipe);
    if (sf_build_finish(b, (uint32_t[]){0, 1}, 2, &prog, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    sf_build_free(b);
    return prog;
}

static void encode(const struct sf_prog *prog, struct sf_buf *out) {
    struct sf_err err = {0};
    *out = (struct sf_buf){0};
    if (sf_prog_encode(prog, out, &err) != 0) {
        fail_msg("%s", err.msg);
    }
}

static void print(const struct sf_prog *prog, struct sf_buf *out) {
    struct sf_err err = {0};
    *out = (struct sf_buf){0};
    if (sf_prog_print(prog, out, &err) != 0) {
        fail_msg("%s", err.msg);
    }
}

static void test_binary_round_trip(void **state) {
    (void)state;
    struct sf_prog *prog = build(), *back = NULL;
    struct sf_buf b, again;
    struct sf_err err = {0};
    encode(prog, &b);
    if (sf_prog_decode(b.data, b.bytes, "p.sfprog", &back, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    encode(back, &again);
    assert_int_equal(b.bytes, again.bytes);
    assert_memory_equal(b.data, again.data, b.bytes);
    assert_true(sf_hash_equal(sf_prog_hash(prog), sf_prog_hash(back)));
    struct sf_hash stored = sf_hash_bytes(b.data + 40, b.bytes - 40);
    assert_true(sf_hash_equal(sf_prog_hash(prog), stored));
    assert_string_equal(back->classes[1].bufs[2].name, "act \xc3\xa9\n");
    assert_int_equal(back->classes[1].ops_n, prog->classes[1].ops_n);
    for (uint32_t i = 0; i < prog->classes[1].ops_n; i++) { /* as far as its last member, then comes padding */
        assert_memory_equal(&back->classes[1].ops[i], &prog->classes[1].ops[i], offsetof(struct sf_op, slice));
    }
    assert_memory_equal(back->recipes[0].calls, prog->recipes[0].calls, 3 * sizeof(struct sf_call));
    sf_prog_free(prog);
    sf_prog_free(back);
    sf_buf_free(&b);
    sf_buf_free(&again);
}

static void test_text_round_trip(void **state) {
    (void)state;
    struct sf_prog *prog = build(), *back = NULL;
    struct sf_buf text, again;
    struct sf_err err = {0};
    print(prog, &text);
    if (sf_prog_parse(text.data, text.bytes, "p.txt", &back, &err) != 0) {
        fail_msg("%u:%u: %s\n%s", err.line, err.column, err.msg, text.data);
    }
    print(back, &again);
    assert_string_equal(text.data, again.data);
    assert_true(sf_hash_equal(sf_prog_hash(prog), sf_prog_hash(back)));
    const char *const lines[] = {
        "title \"tiny \\\\ \\\"two\\\" stages\"\n",
        "source 0123456789abcdef000000000000002a\n",
        "comm 2 same axes=dp,#2\n",
        "binding axes=pp classes=0,1\n",
        "recipe 0 \"a \\\"layer\\\", really\" formals=2\n",
        "  call gemm bf16 m=8 n=4 k=1099511627776 groups=1 a=0+0 c=1+64 flags=tb,acc,recompute\n",
        "  call all_reduce f32 bytes=128 x=1+0 y=1+0 comm=#2\n",
        "  call rmsnorm_fwd f32 rows=8 cols=8 imm0=9.99999975e-06 imm1=-0\n",
        "  buffer 0 param param bytes=256 offset=0 live=0..end\n",
        "  buffer 2 \"act \\xc3\\xa9\\x0a\" activation bytes=256 offset=",
        ("  tensor model.layers.0.weight buffer=0 offset=0 rows=8 cols=8 dtype=f32 init=normal std=0.0199999996 "
         "comm=#2 first_row=4 whole_rows=20\n"),
        "  op 1 send stream=sends comm=pp peer=+1 bytes=256 mb=0 group=3 args=2:r:0+256 deps=0\n",
        "  op 4 all_reduce stream=#3 comm=same bytes=256 mb=0 flags=sum_f32 args=1:rw:0+256 deps=3\n",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        if (strstr(text.data, lines[i]) == NULL) {
            fail_msg("missing: %sin:\n%s", lines[i], text.data);
        }
    }
    sf_prog_free(prog);
    sf_prog_free(back);
    sf_buf_free(&text);
    sf_buf_free(&again);
}

/* Everything but memory addresses and reserved fields must be part of the identity. */
static void test_hash_sees_everything(void **state) {
    (void)state;
    struct sf_prog *prog = build();
    struct sf_hash before = sf_prog_hash(prog);
    struct sf_op *op = (struct sf_op *)(uintptr_t)&prog->classes[0].ops[1];
    struct sf_buffer *buf = (struct sf_buffer *)(uintptr_t)&prog->classes[0].bufs[2];
    struct sf_call *c = (struct sf_call *)(uintptr_t)&prog->recipes[0].calls[0];
#define CHANGES(field)                                                                                                 \
    (field)++;                                                                                                         \
    assert_false(sf_hash_equal(before, sf_prog_hash(prog)));                                                           \
    (field)--;                                                                                                         \
    assert_true(sf_hash_equal(before, sf_prog_hash(prog)))
    CHANGES(op->bytes);
    CHANGES(op->peer_delta);
    CHANGES(op->microbatch);
    CHANGES(op->chunk);
    CHANGES(op->group);
    CHANGES(op->slice);
    CHANGES(op->flags);
    CHANGES(op->stream);
    CHANGES(buf->offset);
    CHANGES(buf->last_op);
    CHANGES(c->dims[5]);
    CHANGES(c->operand[9]);
    CHANGES(c->flags);
    CHANGES(prog->title[0]);
    CHANGES(prog->source.lo);
    CHANGES(prog->job.seed);
    CHANGES(prog->class_of[1]);
    CHANGES(prog->device_memory_bytes);
    CHANGES(prog->domain_gpus);
    memset(prog->title + 30, 'x', 5); /* behind the terminator: not content */
    assert_true(sf_hash_equal(before, sf_prog_hash(prog)));
    sf_prog_free(prog);
}

static void expect_refused(const char *data, size_t bytes, const char *what, size_t where) {
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    if (sf_prog_decode(data, bytes, "bad", &prog, &err) != SF_E_INPUT) {
        fail_msg("accepted: %s at byte %zu", what, where);
    }
    assert_null(prog);
    assert_string_equal(err.file, "bad");
}

static void test_damage(void **state) {
    (void)state;
    struct sf_prog *prog = build();
    struct sf_buf b;
    encode(prog, &b);
    for (size_t i = 0; i < b.bytes; i++) {
        for (int flip = 1; flip < 256; flip = flip * 4 + 3) {
            b.data[i] = (char)(b.data[i] ^ flip);
            expect_refused(b.data, b.bytes, "flipped", i);
            b.data[i] = (char)(b.data[i] ^ flip);
        }
        char *part = sf_malloc(i); /* so that reading past the end is seen */
        memcpy(part, b.data, i);
        expect_refused(part, i, "cut", i);
        sf_free(part);
    }
    sf_buf_write(&b, "", 1);
    expect_refused(b.data, b.bytes, "tail", b.bytes);
    sf_buf_free(&b);
    sf_prog_free(prog);
}

/* A forger can make the digest fit. Then the limits and sf_prog_check must hold on their own. */
static void test_forgery(void **state) {
    (void)state;
    struct sf_prog *prog = build();
    struct sf_buf b;
    struct sf_rng r = sf_rng_seed(7);
    int accepted = 0;
    encode(prog, &b);
    for (size_t i = 0; i < 6000; i++) {
        size_t at = 40 + sf_rng_u64(&r) % (b.bytes - 40), n = 1 + sf_rng_u64(&r) % 4;
        n = at + n > b.bytes ? 1 : n;
        char saved[4];
        memcpy(saved, b.data + at, n);
        uint64_t noise = i % 3 == 0 ? UINT64_MAX : sf_rng_u64(&r);
        memcpy(b.data + at, &noise, n);
        struct sf_hash h = sf_hash_bytes(b.data + 40, b.bytes - 40);
        memcpy(b.data + 24, &h.hi, 8);
        memcpy(b.data + 32, &h.lo, 8);
        struct sf_prog *back = NULL;
        if (sf_prog_decode(b.data, b.bytes, "forged", &back, NULL) == 0) {
            struct sf_buf again;
            encode(back, &again); /* what is accepted can be written and is the same */
            assert_int_equal(again.bytes, b.bytes);
            assert_memory_equal(again.data, b.data, b.bytes);
            sf_buf_free(&again);
            accepted++;
        }
        sf_prog_free(back);
        memcpy(b.data + at, saved, n);
    }
    assert_in_range(accepted, 1, 5999); /* names and the like may change */
    sf_buf_free(&b);
    sf_prog_free(prog);
}

static void test_mutated_text(void **state) {
    (void)state;
    static const char bytes[] = "0123456789-+.,:=#\"\\/ \n\tabcxrwe\xc3";
    struct sf_prog *prog = build();
    struct sf_buf text;
    struct sf_rng r = sf_rng_seed(3);
    print(prog, &text);
    int refused = 0;
    for (int i = 0; i < 3000; i++) {
        size_t n = text.bytes;
        char *copy = sf_malloc(n);
        memcpy(copy, text.data, n);
        for (uint64_t k = 1 + sf_rng_u64(&r) % 3; k > 0; k--) {
            copy[sf_rng_u64(&r) % n] = bytes[sf_rng_u64(&r) % (sizeof bytes - 1)];
        }
        n = i % 4 == 0 ? sf_rng_u64(&r) % n : n;
        char *exact = sf_malloc(n); /* so that reading past the end is seen */
        memcpy(exact, copy, n);
        struct sf_prog *back = NULL;
        struct sf_err err = {0};
        int rc = sf_prog_parse(exact, n, "m.txt", &back, &err);
        assert_true(rc == 0 || rc == SF_E_INPUT || rc == SF_E_NOPLAN);
        assert_true((rc == 0) == (back != NULL) && (rc == 0 || err.msg[0] != '\0'));
        refused += rc != 0;
        if (rc == 0) {
            struct sf_buf again;
            print(back, &again);
            sf_buf_free(&again);
        }
        sf_prog_free(back);
        sf_free(copy);
        sf_free(exact);
    }
    assert_true(refused > 2000);
    sf_buf_free(&text);
    sf_prog_free(prog);
}

/* Replace `from` in the printed program by `to`, and expect a complaint at that place. */
static void expect_complaint(const char *from, const char *to, uint32_t column, const char *because) {
    struct sf_prog *prog = build(), *back = NULL;
    struct sf_buf text, changed = {0};
    struct sf_err err = {0};
    print(prog, &text);
    const char *at = strstr(text.data, from);
    assert_non_null(at);
    uint32_t line = 1;
    for (const char *c = text.data; c < at; c++) {
        line += *c == '\n';
    }
    sf_buf_printf(&changed, "%.*s%s%s", (int)(at - text.data), text.data, to, at + strlen(from));
    assert_int_equal(sf_prog_parse(changed.data, changed.bytes, "p.txt", &back, &err), SF_E_INPUT);
    if (strstr(err.msg, because) == NULL || (column > 0 && (err.line != line || err.column != column))) {
        fail_msg("%u:%u: %s, expected %u:%u: %s", err.line, err.column, err.msg, line, column, because);
    }
    assert_string_equal(err.file, "p.txt");
    sf_buf_free(&text);
    sf_buf_free(&changed);
    sf_prog_free(prog);
}

static void test_text_complaints(void **state) {
    (void)state;
    expect_complaint("staticfire", "other", 1,
                     "expected a program: \"staticfire program\" and its version, found \"other\"");
    expect_complaint("program 3", "program 1", 0, "expected version 3, found 1");
    expect_complaint("axis 1", "axis 2", 6, "expected the number 1, found \"2\"");
    expect_complaint("axis 1 dp size=2", "axis 1 dp", 10, "size= is missing");
    expect_complaint("axis 1 dp size=2", "axis 1 dp size=2 size=2", 18, "size= is given twice");
    expect_complaint("axis 1 dp size=2", "axis 1 dp sise=2", 11, "expected size=, found \"sise=2\"");
    expect_complaint("axis 1 dp size=2", "axis 1 dp size=02", 16, "expected a whole number up to 4294967295");
    expect_complaint("axis 1 dp size=2", "axis 1 dp size=2,", 17, "expected a space or the end of the line");
    expect_complaint("axis 1 dp size=2", "axis 1 \"dp size=2", 8, "closing quote is missing");
    expect_complaint("axis 1 dp", "axis 1 abcdefghijklmnopqrstuvwxyzabcdefghi", 8, "expected a name");
    expect_complaint("comm 0 pp axes=pp", "comm 0 pp axes=xx", 16, "expected an axis defined above, found \"xx\"");
    expect_complaint("classes=0,1", "classes=0,1,1", 0, "its axes need 2 entries, found 3");
    expect_complaint("classes=0,1", "classes=0,2", 0, "names class 2 of 2");
    expect_complaint("call gemm", "call gem", 8, "expected a kind of call, found \"gem\"");
    expect_complaint("  op 0 forward", "  op 0 foreward", 8, "expected a kind of op");
    expect_complaint("args=2:r:0+256", "args=2:q:0+256", 0, "expected \":r:\", \":w:\" or \":rw:\"");
    expect_complaint("deps=0", "deps=70000", 0, "");
    expect_complaint("whole_rows=20", "whole_rows=19", 0, "its blocks do not lie inside the whole");
    expect_complaint("whole_rows=20", "whole_rows=20 whole_cols=16", 0, "its blocks do not lie inside the whole");
    expect_complaint("first_row=4 whole_rows=20", "whole_cols=15", 0, "its blocks do not lie inside the whole");
    expect_complaint("\nend", "", 0, "found the end of the text");
    expect_complaint("\nend\n", "\nend\nend\n", 0, "nothing behind \"end\"");
}

static void test_comments_and_order(void **state) {
    (void)state;
    struct sf_prog *prog = build(), *back = NULL;
    struct sf_buf text, changed = {0};
    print(prog, &text);
    const char *at = strstr(text.data, "axis 1 dp size=2\n");
    sf_buf_printf(&changed, "// made by hand\r\n\n%.*s  // note\n\taxis  1 \"dp\"   size=2 \r\n%s",
                  (int)(at - text.data), text.data, at + strlen("axis 1 dp size=2\n"));
    assert_int_equal(sf_prog_parse(changed.data, changed.bytes, "p.txt", &back, NULL), 0);
    assert_true(sf_hash_equal(sf_prog_hash(prog), sf_prog_hash(back)));
    sf_prog_free(prog);
    sf_prog_free(back);
    sf_buf_free(&text);
    sf_buf_free(&changed);
}

/* What a file cannot hold is refused when it is written, not lost. */
static void test_unstorable(void **state) {
    (void)state;
    struct sf_prog *prog = build();
    struct sf_buf b = {0};
    struct sf_err err = {0};
    struct sf_call *c = (struct sf_call *)(uintptr_t)&prog->recipes[0].calls[1];
    c->dims[4] = 1; /* all_reduce has one dimension */
    assert_int_equal(sf_prog_encode(prog, &b, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "call 1 (all_reduce)"));
    assert_int_equal(sf_prog_print(prog, &b, &err), SF_E_INPUT);
    c->dims[4] = 0;
    assert_int_equal(sf_prog_encode(prog, &b, &err), 0);
    sf_buf_free(&b);
    sf_prog_free(prog);
}

typedef int (*reader)(const void *data, size_t bytes, struct sf_prog **out);

static int read_binary(const void *data, size_t bytes, struct sf_prog **out) {
    return sf_prog_decode(data, bytes, "p", out, NULL);
}

static int read_text(const void *data, size_t bytes, struct sf_prog **out) {
    return sf_prog_parse(data, bytes, "p", out, NULL);
}

static void run_out_of_memory(reader read, const struct sf_buf *b) {
    for (size_t n = 1;; n++) {
        struct sf_prog *prog = NULL;
        sf_alloc_fail_after(n);
        int rc = read(b->data, b->bytes, &prog);
        sf_alloc_fail_after(0);
        if (rc == 0) {
            assert_true(n > 3);
            sf_prog_free(prog);
            return;
        }
        assert_null(prog);
        assert_int_equal(rc, SF_E_INTERNAL);
        assert_true(n < 10000);
    }
}

static void test_out_of_memory(void **state) {
    (void)state;
    struct sf_prog *prog = build();
    struct sf_buf b, text, out = {0};
    encode(prog, &b);
    print(prog, &text);
    run_out_of_memory(read_binary, &b);
    run_out_of_memory(read_text, &text);
    for (size_t n = 1; n < 6; n++) {
        sf_alloc_fail_after(n);
        int rc = n % 2 ? sf_prog_encode(prog, &out, NULL) : sf_prog_print(prog, &out, NULL);
        sf_alloc_fail_after(0);
        assert_true(rc == 0 || rc == SF_E_INTERNAL);
        sf_buf_free(&out);
    }
    sf_buf_free(&b);
    sf_buf_free(&text);
    sf_prog_free(prog);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_binary_round_trip),
        cmocka_unit_test(test_text_round_trip),
        cmocka_unit_test(test_hash_sees_everything),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_forgery),
        cmocka_unit_test(test_mutated_text),
        cmocka_unit_test(test_text_complaints),
        cmocka_unit_test(test_comments_and_order),
        cmocka_unit_test(test_unstorable),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
