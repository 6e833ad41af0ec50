/* What small vectors add to a program (layer norms, biases, learned positions), sums fused with the norm behind them, a
 * padded vocabulary, and logits that are made a part at a time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/test_planner_compiled.h"

enum { LAYERS = 8, TOKENS = 16, VOCAB = 250 };

static struct sf_scenario scenario(bool gpt2) {
    struct shape shape = tiny_shape;
    shape.vocab = VOCAB;
    struct sf_scenario s = shaped_scenario(cluster, &shape);
    s.model.tied = s.model.plain = s.model.gelu = gpt2;
    s.model.layernorm = s.model.qkv_bias = s.model.out_bias = s.model.ffn_bias = gpt2;
    s.model.positions = gpt2 ? 20 : 0;
    return s;
}

static struct sf_plan plan_for(struct sf_scenario *s, uint32_t tp, uint32_t pp, int schedule) {
    return even_plan(s, (struct sf_plan){.tp = tp, .pp = pp, .microbatches = 4, .schedule = schedule});
}

static uint32_t count(const struct sf_prog *prog, int op_kind, uint8_t call_kind) {
    uint32_t n = 0;
    for (uint32_t c = 0; c < prog->classes_n; c++) {
        for (uint32_t i = 0; i < prog->classes[c].ops_n; i++) {
            const struct sf_op *op = &prog->classes[c].ops[i];
            for (uint32_t k = 0; op->kind == op_kind && k < prog->recipes[op->recipe].calls_n; k++) {
                n += prog->recipes[op->recipe].calls[k].kind == call_kind;
            }
        }
    }
    return n;
}

static double model_flops(const struct sf_prog *prog) {
    double sum = 0;
    for (uint32_t c = 0; c < prog->classes_n; c++) {
        for (uint32_t i = 0; i < prog->classes[c].ops_n; i++) {
            const struct sf_op *op = &prog->classes[c].ops[i];
            const struct sf_recipe *r = op->recipe == SF_NONE ? NULL : &prog->recipes[op->recipe];
            for (uint32_t k = 0; r && k < r->calls_n; k++) {
                const int64_t *d = r->calls[k].dims;
                bool counts = r->calls[k].kind == SF_CALL_GEMM && !(r->calls[k].flags & SF_CALL_RECOMPUTE_FLAG);
                sum += counts ? 2.0 * (double)(d[0] * d[1] * d[2] * d[3]) : 0;
            }
        }
    }
    return sum;
}

/* Elements of weights; the second copy of a tied table is none. */
static uint64_t weights(const struct sf_prog *prog, uint32_t tp, bool tied) {
    uint64_t n = 0, tables = 0;
    for (uint32_t c = 0; c < prog->classes_n; c++) {
        for (uint32_t i = 0; i < prog->classes[c].tensors_n; i++) {
            const struct sf_tensor *t = &prog->classes[c].tensors[i];
            bool again = tied && strcmp(t->name, "model.embed_tokens.weight") == 0 && tables++ > 0;
            n += again ? 0 : t->rows * t->cols * (t->whole_rows || t->whole_cols ? tp : 1);
        }
    }
    return n;
}

static void test_every_weight_has_a_place(void **state) {
    (void)state;
    static const int schedules[] = {SF_SCHEDULE_1F1B, SF_SCHEDULE_ZB_H1};
    for (uint32_t k = 0; k < 8; k++) {
        struct sf_scenario s = scenario(k % 2);
        struct sf_plan p = plan_for(&s, 1 + k / 4, 2, schedules[k / 2 % 2]);
        p.whole_rows = p.tp > 1;
        struct sf_prog *prog = compiled(&s, &p);
        assert_int_equal(weights(prog, p.tp, s.model.tied), sf_model_params(&s.model));
        sf_prog_free(prog);
    }
}

static void test_vectors_do_not_decay(void **state) {
    (void)state;
    struct sf_scenario s = scenario(true);
    struct sf_plan p = plan_for(&s, 1, 1, SF_SCHEDULE_1F1B);
    struct sf_prog *prog = compiled(&s, &p);
    uint64_t decayed = 0,
             matrices = LAYERS * (4 * 32 * 32 + 2 * 32 * 48) - LAYERS * 2 * 16 * 32; /* two of four kv heads */
    for (uint32_t r = 0; r < prog->recipes_n; r++) {
        for (uint32_t i = 0; i < prog->recipes[r].calls_n; i++) {
            const struct sf_call *call = &prog->recipes[r].calls[i];
            decayed += call->kind == SF_CALL_ADAMW && call->imm[0] > 0 ? (uint64_t)call->dims[0] : 0;
        }
    }
    assert_int_equal(decayed * LAYERS, matrices); /* layers share a recipe */
    sf_prog_free(prog);
}

/* Of the two sums of a layer, the last one of a stage alone has no norm behind it. */
static void test_sums_are_fused_with_norms(void **state) {
    (void)state;
    for (uint32_t pp = 1; pp <= 4; pp *= 2) {
        struct sf_scenario s = scenario(false);
        struct sf_plan p = plan_for(&s, 1, pp, SF_SCHEDULE_1F1B);
        struct sf_prog *prog = compiled(&s, &p);
        uint32_t ends = pp - 1;
        assert_int_equal(count(prog, SF_OP_FORWARD, SF_CALL_RMSNORM_ADD_FWD), 4 * (2 * LAYERS - ends));
        assert_int_equal(count(prog, SF_OP_FORWARD, SF_CALL_ADD), 4 * ends);
        assert_int_equal(count(prog, SF_OP_FORWARD, SF_CALL_RMSNORM_FWD), 4 * pp);
        sf_prog_free(prog);
    }
}

static void test_logits_in_parts(void **state) {
    (void)state;
    static const int schedules[] = {SF_SCHEDULE_1F1B, SF_SCHEDULE_ZB_H1};
    for (uint32_t k = 0; k < 8; k++) {
        bool split = k % 2;
        struct sf_scenario s = scenario(k / 2 % 2);
        struct sf_plan p = plan_for(&s, 1 + k / 4, 2, schedules[k % 2]);
        p.whole_rows = p.tp > 1;
        struct sf_prog *whole = compiled(&s, &p);
        s.job.loss_rows = 6; /* of 16: two parts and a rest */
        struct sf_prog *parts = compiled(&s, &p);
        uint8_t loss = p.tp > 1 ? SF_CALL_XENT_PART : SF_CALL_XENT;
        assert_int_equal(count(whole, SF_OP_FORWARD, loss), 4);
        assert_int_equal(count(parts, SF_OP_FORWARD, loss), 0);
        assert_int_equal(count(parts, split ? SF_OP_BACKWARD_INPUT : SF_OP_BACKWARD, loss), 4 * 3);
        assert_int_equal(count(parts, SF_OP_BACKWARD_WEIGHT, loss), split ? 4 * 3 : 0);
        assert_true(model_flops(parts) == model_flops(whole));
        assert_true(parts->classes[1].arena_bytes < whole->classes[1].arena_bytes);
        sf_prog_free(whole);
        sf_prog_free(parts);
    }
}

/* Without a word in the job, no more than 256 MiB, in equal parts of whole tiles; and whole where that is all. */
static void test_size_of_parts(void **state) {
    (void)state;
    static const struct {
        uint32_t seq, vocab, want;
    } cases[] = {
        {8192, 128256, 1024}, {1024, 50257, 0}, {1024, 151936, 512}, {4096, 32000, 0}, {4096, 32768 + 64, 2048}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sf_scenario s = scenario(false);
        s.job.precision = SF_BF16;
        s.job.seq_len_tokens = cases[i].seq;
        s.model.vocab = cases[i].vocab;
        struct sf_plan p = plan_for(&s, 1, 1, SF_SCHEDULE_1F1B);
        struct sf_prog *prog = compiled(&s, &p);
        int64_t rows = 0;
        for (uint32_t r = 0; r < prog->recipes_n; r++) {
            for (uint32_t k = 0; k < prog->recipes[r].calls_n; k++) {
                const struct sf_call *call = &prog->recipes[r].calls[k];
                rows = call->kind == SF_CALL_XENT && call->dims[0] > rows ? call->dims[0] : rows;
            }
        }
        assert_int_equal(rows, cases[i].want > 0 ? cases[i].want : cases[i].seq);
        sf_prog_free(prog);
    }
}

/* Weights gathered for every pass are there for the weight half too where it makes logits again. */
static void test_parts_with_shared_weights(void **state) {
    (void)state;
    for (uint32_t zero = 1; zero <= 3; zero++) {
        struct sf_scenario s = scenario(true);
        s.job.precision = SF_BF16;
        s.job.loss_rows = 6;
        s.model.tied = false;
        struct sf_plan p = plan_for(&s, 1, 2, SF_SCHEDULE_ZB_H1);
        p.dp = 2;
        p.zero = zero;
        s.job.gpus *= 2;
        s.job.global_batch_sequences *= 2;
        sf_prog_free(compiled(&s, &p));
    }
}

static void test_padding_is_no_token(void **state) {
    (void)state;
    struct sf_scenario s = scenario(true);
    struct sf_plan p = plan_for(&s, 1, 2, SF_SCHEDULE_1F1B);
    s.model.vocab_padding = 6;
    struct sf_prog *prog = compiled(&s, &p);
    assert_int_equal(prog->job.vocab, VOCAB);
    assert_int_equal(weights(prog, 1, true), sf_model_params(&s.model) + 6 * 32);
    assert_int_equal(count(prog, SF_OP_FORWARD, SF_CALL_XENT_PADDED), 4);
    assert_int_equal(count(prog, SF_OP_FORWARD, SF_CALL_XENT), 0);
    sf_prog_free(prog);
}

static void refused(const struct sf_scenario *s, const struct sf_plan *p, const char *says) {
    struct sf_err err = {0};
    assert_int_equal(sf_plan_check(s, p, &err), SF_E_INPUT);
    if (strstr(err.msg, says) == NULL) {
        fail_msg("\"%s\" should say \"%s\"", err.msg, says);
    }
}

static void test_refusals(void **state) {
    (void)state;
    struct sf_scenario s = scenario(true);
    struct sf_plan p = plan_for(&s, 2, 1, SF_SCHEDULE_1F1B);
    refused(&s, &p, "tp must divide the sequences of a microbatch: 1 is no multiple of 2");
    s.model.vocab_padding = 6;
    refused(&s, &p, "padded vocabulary needs tp 1, found 2");
    s = scenario(true);
    s.model.positions = TOKENS - 1;
    p = plan_for(&s, 1, 1, SF_SCHEDULE_1F1B);
    refused(&s, &p, "15 positions, fewer than the job's 16 tokens");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_weight_has_a_place),
        cmocka_unit_test(test_vectors_do_not_decay),
        cmocka_unit_test(test_sums_are_fused_with_norms),
        cmocka_unit_test(test_logits_in_parts),
        cmocka_unit_test(test_size_of_parts),
        cmocka_unit_test(test_parts_with_shared_weights),
        cmocka_unit_test(test_padding_is_no_token),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
