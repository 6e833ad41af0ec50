/* Plans into programs: soundness of every combination of choices, and quantities that a hand can work out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/arena.h"
#include "core/rng.h"
#include "planner/compile.h"
#include "planner/schedule.h"
#include "tests/unit/test_planner_fixture.h"

static struct sf_topo *small_cluster, *large_cluster; /* 8 GPUs; 220,032 GPUs */

static int setup(void **state) {
    (void)state;
    small_cluster = load_cluster("hgx-h100-1node");
    large_cluster = load_cluster("gb300-nvl72-220k");
    return small_cluster == NULL || large_cluster == NULL;
}

static int teardown(void **state) {
    (void)state;
    sf_topo_free(small_cluster);
    sf_topo_free(large_cluster);
    return 0;
}

static struct sf_scenario tiny_scenario(void) {
    struct sf_scenario s = shaped_scenario(small_cluster, &tiny_shape);
    s.model.vocab = 64;
    return s;
}

static struct sf_scenario grok_scenario(void) {
    struct sf_scenario s = {.name = "grok", .topo = large_cluster};
    s.model = (struct sf_model){.name = "grok-1",
                                .model_type = "grok-1",
                                .layers = 64,
                                .hidden = 6144,
                                .heads = 48,
                                .kv_heads = 8,
                                .head_dim = 128,
                                .ffn = 32768,
                                .experts = 8,
                                .topk = 2,
                                .vocab = 131072,
                                .tied = true,
                                .gelu = true,
                                .rope_theta = 1e4,
                                .norm_eps = 1e-5,
                                .init_std = 0.02};
    s.job = tiny_scenario().job;
    s.job.seq_len_tokens = 8192;
    s.job.precision = SF_BF16;
    return s;
}

/* Layers split as evenly as they go; batch and GPU count made to fit. */
static struct sf_plan plan_for(struct sf_scenario *s, uint32_t tp, uint32_t ep, uint32_t dp, uint32_t pp,
                               uint32_t microbatches) {
    struct sf_plan p = {.tp = tp,
                        .ep = ep,
                        .dp = dp,
                        .pp = pp,
                        .vpp = 1,
                        .micro_batch = 1,
                        .microbatches = microbatches,
                        .schedule = SF_SCHEDULE_1F1B,
                        .ranks_per_domain = sf_topo_domain_gpus(s->topo) / tp * tp};
    for (uint32_t i = 0; i < pp; i++) {
        p.layers[i] = (i + 1) * s->model.layers / pp - i * s->model.layers / pp;
    }
    s->job.gpus = tp * dp * pp;
    s->job.global_batch_sequences = (uint64_t)dp * microbatches;
    return p;
}

static void set_schedule(const struct sf_scenario *s, struct sf_plan *p, int schedule, uint32_t vpp) {
    uint32_t n = p->pp * vpp;
    p->schedule = schedule;
    p->vpp = vpp;
    for (uint32_t i = 0; i < n; i++) {
        p->layers[i] = (i + 1) * s->model.layers / n - i * s->model.layers / n;
    }
}

static struct sf_prog *compile(const struct sf_scenario *s, const struct sf_plan *p) {
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    int rc = sf_compile(s, p, &prog, &err);
    if (rc != 0) {
        sf_err_print(&err);
    }
    assert_int_equal(rc, 0);
    return prog;
}

/* ---- sums over a program ----------------------------------------------------------------------------------------- */

static uint32_t ranks_per_class(const struct sf_prog *p) {
    return sf_prog_ranks(p) / p->classes_n;
}

static double call_flops(const struct sf_call *c) {
    const int64_t *d = c->dims;
    if (c->flags & SF_CALL_RECOMPUTE_FLAG) {
        return 0;
    }
    switch (c->kind) {
    case SF_CALL_GEMM:
        return 2.0 * (double)d[0] * (double)d[1] * (double)d[2] * (double)d[3];
    case SF_CALL_ATTN_FWD: /* half of the scores are masked */
        return 2.0 * (double)(d[0] * d[1] * d[1]) * (double)(d[2] * d[4]);
    case SF_CALL_ATTN_BWD:
        return 4.0 * (double)(d[0] * d[1] * d[1]) * (double)(d[2] * d[4]);
    default:
        return 0;
    }
}

static double prog_flops(const struct sf_prog *p) {
    double sum = 0;
    for (uint32_t c = 0; c < p->classes_n; c++) {
        for (uint32_t i = 0; i < p->classes[c].ops_n; i++) {
            const struct sf_op *op = &p->classes[c].ops[i];
            for (uint32_t k = 0; op->recipe != SF_NONE && k < p->recipes[op->recipe].calls_n; k++) {
                sum += call_flops(&p->recipes[op->recipe].calls[k]) * ranks_per_class(p);
            }
        }
    }
    return sum;
}

/* Weights of the model: shards added up, replicas, copies of the model and the copy of a tied table counted once. */
static uint64_t prog_params(const struct sf_prog *p, uint32_t tp, uint32_t ep) {
    uint32_t copies = p->job.extra_copies + 1;
    uint64_t sum = 0, tables = 0;
    for (uint32_t c = 0; c < p->classes_n; c++) {
        for (uint32_t i = 0; i < p->classes[c].tensors_n; i++) {
            const struct sf_tensor *t = &p->classes[c].tensors[i];
            bool whole = strstr(t->name, "norm") || strstr(t->name, "gate.weight");
            bool table = strcmp(t->name, "model.embed_tokens.weight") == 0;
            uint64_t n = t->rows * t->cols * (whole ? 1 : tp) * (strstr(t->name, "experts") ? ep : 1);
            tables += table;
            sum += table && tables > 1 ? 0 : n * (table ? copies : 1);
        }
    }
    assert_int_equal(sum % copies, 0);
    return sum / copies;
}

static uint64_t op_bytes(const struct sf_class *c, int kind) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < c->ops_n; i++) {
        sum += c->ops[i].kind == kind ? c->ops[i].bytes : 0;
    }
    return sum;
}

static uint64_t recipe_bytes(const struct sf_prog *p, uint32_t class_i, int op_kind, int call_kind) {
    uint64_t sum = 0;
    const struct sf_class *c = &p->classes[class_i];
    for (uint32_t i = 0; i < c->ops_n; i++) {
        for (uint32_t k = 0; c->ops[i].kind == op_kind && k < p->recipes[c->ops[i].recipe].calls_n; k++) {
            const struct sf_call *call = &p->recipes[c->ops[i].recipe].calls[k];
            sum += call->kind == call_kind ? (uint64_t)call->dims[0] : 0;
        }
    }
    return sum;
}

static void check_tensors_apart(const struct sf_class *c) {
    for (uint32_t i = 0; i < c->tensors_n; i++) {
        const struct sf_tensor *a = &c->tensors[i];
        uint64_t a_end = a->offset + a->rows * a->cols * (uint64_t)sf_dtype_bytes((int)a->dtype);
        for (uint32_t k = i + 1; k < c->tensors_n; k++) {
            const struct sf_tensor *b = &c->tensors[k];
            uint64_t b_end = b->offset + b->rows * b->cols * (uint64_t)sf_dtype_bytes((int)b->dtype);
            assert_true(a->buf != b->buf || a_end <= b->offset || b_end <= a->offset);
        }
    }
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static void check_program(const struct sf_scenario *s, const struct sf_plan *p) {
    struct sf_prog *prog = compile(s, p);
    double want =
        sf_model_flops(&s->model, s->job.global_batch_sequences * s->job.seq_len_tokens, s->job.seq_len_tokens);
    assert_true(prog_flops(prog) == want);
    assert_true(prog->job.model_flops_per_step == want);
    assert_int_equal(prog_params(prog, p->tp, p->ep), sf_model_params(&s->model));
    for (uint32_t c = 0; c < prog->classes_n; c++) {
        check_tensors_apart(&prog->classes[c]);
    }
    sf_prog_free(prog);
}

/* bits: recompute, canonical, zero, tied. */
static void check_choices(uint32_t dp, uint32_t pp, uint32_t microbatches, uint32_t vpp, int schedule) {
    for (unsigned bits = 0; bits < 16; bits++) {
        struct sf_scenario s = tiny_scenario();
        s.model.tied = bits & 8;
        s.job.canonical = bits & 2;
        struct sf_plan p = plan_for(&s, 1, 1, dp, pp, microbatches);
        p.recompute = bits & 1 ? SF_RECOMPUTE_FULL : SF_RECOMPUTE_NONE;
        p.canonical = bits & 2;
        p.zero = bits & 4 ? 1 : 0;
        set_schedule(&s, &p, schedule, vpp);
        if ((microbatches & (microbatches - 1)) == 0 || !p.canonical) {
            check_program(&s, &p);
        }
    }
}

static void test_all_choices(void **state) {
    (void)state;
    for (uint32_t pp = 1; pp <= 4; pp++) {
        for (uint32_t dp = 1; dp <= 2; dp++) {
            for (uint32_t m = 1; m <= 8; m++) {
                check_choices(dp, pp, m, 1, SF_SCHEDULE_GPIPE);
                check_choices(dp, pp, m, 1, SF_SCHEDULE_1F1B);
                if (pp > 1 && m % pp == 0) {
                    check_choices(dp, pp, m, 2, SF_SCHEDULE_INTERLEAVED);
                }
            }
        }
    }
}

/* Every family of the pipeline tables, as far as its rules allow. */
static void test_all_families(void **state) {
    (void)state;
    for (int kind = SF_SCHEDULE_BREADTH_FIRST; kind < SF_SCHEDULE_TABLE; kind++) {
        uint32_t chunks = sf_pipe_family_chunks(kind), compiled = 0;
        for (uint32_t pp = 1; pp <= 4; pp++) {
            for (uint32_t m = 1; m <= 8; m++) {
                struct sf_plan p = {.schedule = kind, .pp = pp, .microbatches = m};
                p.vpp = kind == SF_SCHEDULE_DUALPIPE ? 1 : chunks == 0 ? 2 : chunks;
                if (sf_schedule_check(&p, NULL) == 0) {
                    check_choices(1 + m % 2, pp, m, p.vpp, kind);
                    compiled++;
                }
            }
        }
        assert_true(compiled >= 3);
    }
}

static uint32_t ops_of(const struct sf_prog *p, int kind) {
    uint32_t n = 0;
    for (uint32_t c = 0; c < p->classes_n; c++) {
        for (uint32_t i = 0; i < p->classes[c].ops_n; i++) {
            n += p->classes[c].ops[i].kind == kind;
        }
    }
    return n;
}

static uint64_t bytes_named(const struct sf_class *c, const char *name) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < c->bufs_n; i++) {
        sum += strncmp(c->bufs[i].name, name, strlen(name)) == 0 ? c->bufs[i].bytes : 0;
    }
    return sum;
}

/* Both halves of a backward instead of the whole, and no more activations than 1F1B keeps: what the weight half needs
 * is kept where activations were. */
static void test_split_backward(void **state) {
    (void)state;
    struct sf_scenario s = tiny_scenario();
    struct sf_plan p = plan_for(&s, 1, 1, 1, 4, 8);
    struct sf_prog *whole = compile(&s, &p);
    p.schedule = SF_SCHEDULE_ZB_H1;
    struct sf_prog *split = compile(&s, &p);
    assert_int_equal(ops_of(whole, SF_OP_BACKWARD), 4 * 8);
    assert_int_equal(ops_of(split, SF_OP_BACKWARD), 0);
    assert_int_equal(ops_of(split, SF_OP_BACKWARD_INPUT), 4 * 8);
    assert_int_equal(ops_of(split, SF_OP_BACKWARD_WEIGHT), 4 * 8);
    uint64_t row = s.job.seq_len_tokens * s.model.hidden * 4, norms = 2 * 2 * s.model.hidden * 4;
    uint64_t one = bytes_named(&whole->classes[3], "stash"); /* a microbatch at a time */
    for (uint32_t c = 0; c < 4; c++) {
        uint64_t slots = bytes_named(&whole->classes[c], "stash") / one;
        assert_int_equal(slots, 4 - c);
        assert_int_equal(bytes_named(&split->classes[0], "stash") % (one + 2 * row + norms), 0);
    }
    assert_int_equal(bytes_named(&split->classes[0], "stash"), 4 * (one + 2 * row + norms));
    sf_prog_free(whole);
    sf_prog_free(split);
}

static uint32_t transfers(const struct sf_prog *p, uint32_t class_i, int kind, int32_t delta) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->classes[class_i].ops_n; i++) {
        const struct sf_op *op = &p->classes[class_i].ops[i];
        n += op->kind == kind && op->peer_delta == delta;
    }
    return n;
}

/* On a V the stages at the turn share a rank: nothing is sent there, and everybody talks to neighbours only. */
static void test_folded_pipelines_talk_to_neighbours(void **state) {
    (void)state;
    struct sf_scenario s = tiny_scenario();
    struct sf_plan p = plan_for(&s, 1, 1, 1, 4, 8);
    set_schedule(&s, &p, SF_SCHEDULE_ZB_V, 2);
    struct sf_prog *prog = compile(&s, &p);
    for (uint32_t c = 0; c < 4; c++) {
        uint32_t next = c < 3 ? 16 : 0, prev = c > 0 ? 16 : 0; /* activations of one leg, gradients of the other */
        assert_int_equal(transfers(prog, c, SF_OP_SEND, 1), next);
        assert_int_equal(transfers(prog, c, SF_OP_RECV, 1), next);
        assert_int_equal(transfers(prog, c, SF_OP_SEND, -1), prev);
        assert_int_equal(transfers(prog, c, SF_OP_RECV, -1), prev);
        assert_int_equal(op_bytes(&prog->classes[c], SF_OP_SEND),
                         (next + prev) * (uint64_t)s.job.seq_len_tokens * s.model.hidden * 4);
    }
    sf_prog_free(prog);
}

/* Two copies of the model: each rank holds both of its stages' weights, works on each with half of the microbatches,
 * and adds the gradients and losses of the other copy. */
static void test_copies_are_added(void **state) {
    (void)state;
    struct sf_scenario s = tiny_scenario();
    struct sf_plan p = plan_for(&s, 1, 1, 2, 4, 8);
    set_schedule(&s, &p, SF_SCHEDULE_DUALPIPE, 1);
    struct sf_prog *prog = compile(&s, &p);
    assert_int_equal(prog->job.extra_copies, 1);
    assert_int_equal(prog->job.chunks, 2);
    for (uint32_t c = 0; c < 4; c++) {
        const struct sf_class *cls = &prog->classes[c];
        uint64_t rows = 0, swapped = 0;
        for (uint32_t i = 0; i < cls->ops_n; i++) {
            const struct sf_op *op = &cls->ops[i];
            bool swap = op->kind == SF_OP_SEND && strcmp(prog->comms[op->comm].name, "pp.swap") == 0;
            swapped += swap ? op->bytes : 0;
            rows += op->kind == SF_OP_SEND && !swap;
            assert_true(!swap || (int32_t)c + op->peer_delta == 3 - (int32_t)c);
            assert_true(op->kind != SF_OP_FORWARD || op->microbatch / 4 == op->chunk);
        }
        uint64_t loss = c == 0 || c == 3 ? 4 * sizeof(float) : 0;
        assert_int_equal(swapped, bytes_named(cls, "grad.c") + loss);
        assert_int_equal(rows, (c == 0 || c == 3 ? 2u : 4u) * 4);
    }
    sf_prog_free(prog);
}

/* A table in which ranks talk to anybody, in both directions: stages 0 2 1 3 on ranks 0 1 2 3. */
static struct sf_pipe *crossed_table(uint32_t m) {
    static const uint16_t place[] = {0, 2, 1, 3};
    struct sf_pipe *t = NULL;
    assert_int_equal(sf_pipe_create(4, 4, m, 1, &t, NULL), 0);
    for (uint32_t stage = 0; stage < 4; stage++) {
        t->device_of[stage] = place[stage];
        for (uint32_t i = 0; i < m; i++) {
            sf_pipe_push(t, place[stage], SF_PASS_F, stage, i, 0);
        }
        for (uint32_t i = 0; i < m; i++) {
            sf_pipe_push(t, place[stage], SF_PASS_B, stage, m - 1 - i, 0);
        }
        for (uint32_t i = 0; i < m; i++) {
            sf_pipe_push(t, place[stage], SF_PASS_W, stage, (i + 5) % m, 0);
        }
    }
    return t;
}

static void test_tables_of_ones_own(void **state) {
    (void)state;
    for (int canonical = 0; canonical < 2; canonical++) {
        struct sf_scenario s = tiny_scenario();
        s.model.tied = true;
        s.job.canonical = canonical;
        struct sf_plan p = plan_for(&s, 1, 1, 2, 4, 8);
        p.canonical = canonical;
        p.schedule = SF_SCHEDULE_TABLE;
        p.table = crossed_table(8);
        check_program(&s, &p);
        sf_pipe_free(p.table);
    }
}

static uint32_t below(struct sf_rng *r, uint32_t n) {
    return (uint32_t)(sf_rng_u64(r) % n);
}

/* Any pass whose inputs exist may come next: every order that can run at all can come out. */
static struct sf_pipe *random_table(struct sf_rng *r, uint32_t pp, uint32_t stages, uint32_t m) {
    struct sf_pipe *t = NULL;
    uint8_t done[8][8] = {{0}}; /* [stage][microbatch]: 1 forward, 2 inputs, 3 everything */
    assert_int_equal(sf_pipe_create(pp, stages, m, 1, &t, NULL), 0);
    for (uint32_t s = stages - 1; s > 0; s--) {
        uint32_t k = below(r, s + 1);
        uint16_t swap = t->device_of[s];
        t->device_of[s] = t->device_of[k];
        t->device_of[k] = swap;
    }
    for (uint32_t left = 3 * stages * m; left > 0;) {
        uint32_t s = below(r, stages), i = below(r, m), whole = below(r, 2);
        uint8_t *at = &done[s][i];
        bool forward = *at == 0 && (s == 0 || done[s - 1][i] >= 1);
        bool backward = *at == 1 && (s + 1 == stages || done[s + 1][i] >= 2);
        if (forward || backward || *at == 2) {
            uint8_t gains = (uint8_t)(backward && whole ? 2 : 1);
            sf_pipe_push(t, t->device_of[s],
                         forward     ? SF_PASS_F
                         : !backward ? SF_PASS_W
                         : whole     ? SF_PASS_BW
                                     : SF_PASS_B,
                         s, i, 0);
            *at = (uint8_t)(*at + gains);
            left -= gains;
        }
    }
    return t;
}

/* Whatever the order and wherever the stages live, the program is sound: no deadlock even when transfers block. */
static void test_random_tables(void **state) {
    (void)state;
    struct sf_rng root = sf_rng_seed(44);
    for (uint32_t k = 0; k < 400; k++) {
        struct sf_rng r = sf_rng_split(&root, k);
        uint32_t pp = 1 + below(&r, 4), vpp = 1 + below(&r, 2), m = 1 + below(&r, 8);
        struct sf_scenario s = tiny_scenario();
        s.model.tied = below(&r, 2);
        s.job.canonical = (m & (m - 1)) == 0 && below(&r, 2);
        struct sf_plan p = plan_for(&s, 1, 1, 1 + below(&r, 2), pp, m);
        set_schedule(&s, &p, SF_SCHEDULE_TABLE, vpp);
        p.canonical = s.job.canonical;
        p.recompute = (int)below(&r, 2);
        p.zero = below(&r, 2);
        p.table = random_table(&r, pp, pp * vpp, m);
        check_program(&s, &p);
        sf_pipe_free(p.table);
    }
}

/* Runs of an odd number of microbatches are added in order: 12 = 4 runs of 3, and the table begins in the middle. */
static void test_unsummable_order_is_refused(void **state) {
    (void)state;
    struct sf_scenario s = tiny_scenario();
    s.job.canonical = true;
    struct sf_plan p = plan_for(&s, 1, 1, 1, 4, 12);
    struct sf_err err = {0};
    struct sf_prog *prog = NULL;
    p.canonical = true;
    p.schedule = SF_SCHEDULE_TABLE;
    p.table = crossed_table(12);
    assert_int_equal(sf_compile(&s, &p, &prog, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "microbatch 5 before those of 3 on rank 0"));
    sf_pipe_free(p.table);
}

static void test_tensor_parallel(void **state) {
    (void)state;
    for (uint32_t zero = 0; zero < 4; zero++) {
        struct sf_scenario s = tiny_scenario();
        struct sf_plan p = plan_for(&s, 2, 1, 2, 2, 4);
        set_schedule(&s, &p, zero & 2 ? SF_SCHEDULE_ZB_V : SF_SCHEDULE_1F1B, zero & 2 ? 2 : 1);
        p.zero = zero & 1;
        for (int precision = 0; precision < SF_DTYPES_N; precision++) {
            s.job.precision = precision;
            check_program(&s, &p);
        }
    }
}

static void test_experts(void **state) {
    (void)state;
    for (uint32_t ep = 1; ep <= 4; ep *= 2) {
        for (uint32_t bits = 0; bits < 8; bits++) {
            struct sf_scenario s = tiny_scenario();
            s.model.experts = 4;
            s.model.topk = 2;
            s.job.precision = SF_BF16;
            struct sf_plan p = plan_for(&s, 1 + bits / 4, ep, 4, 2 - bits / 4, 4);
            p.zero = bits & 1;
            p.recompute = bits & 1 ? SF_RECOMPUTE_FULL : SF_RECOMPUTE_NONE;
            p.schedule = bits & 2 ? SF_SCHEDULE_ZB_H1 : SF_SCHEDULE_1F1B;
            check_program(&s, &p);
        }
    }
}

/* Grok-1 on 220,000 GPUs: per microbatch and layer, forward gathers and scatters twice, backward gathers four times and
 * scatters twice; experts exchange rows twice each way. */
static void test_grok_volumes(void **state) {
    (void)state;
    struct sf_scenario s = grok_scenario();
    struct sf_plan p = plan_for(&s, 8, 2, 2750, 10, 12);
    p.zero = 1;
    p.ranks_per_domain = 72;
    struct sf_prog *prog = compile(&s, &p);
    assert_int_equal(sf_prog_ranks(prog), 220000);
    assert_true(prog_flops(prog) == prog->job.model_flops_per_step);
    assert_int_equal(prog_params(prog, 8, 2), sf_model_params(&s.model));

    const uint32_t stage = 4; /* a middle one */
    uint64_t layers = p.layers[stage], m = p.microbatches, row = UINT64_C(8192) * 6144 * 2, picked = 2 * row;
    assert_int_equal(recipe_bytes(prog, stage, SF_OP_FORWARD, SF_CALL_ALL_GATHER), m * layers * (row + picked));
    assert_int_equal(recipe_bytes(prog, stage, SF_OP_FORWARD, SF_CALL_REDUCE_SCATTER), m * layers * (row + picked));
    assert_int_equal(recipe_bytes(prog, stage, SF_OP_BACKWARD, SF_CALL_ALL_GATHER), m * layers * 2 * (row + picked));
    assert_int_equal(recipe_bytes(prog, stage, SF_OP_BACKWARD, SF_CALL_REDUCE_SCATTER), m * layers * (row + picked));
    assert_int_equal(recipe_bytes(prog, stage, SF_OP_FORWARD, SF_CALL_ALL_TO_ALL), m * layers * 2 * picked / 8);
    assert_int_equal(recipe_bytes(prog, stage, SF_OP_BACKWARD, SF_CALL_ALL_TO_ALL), m * layers * 2 * picked / 8);

    const struct sf_class *c = &prog->classes[stage];
    assert_int_equal(op_bytes(c, SF_OP_SEND), 2 * m * row / 8);
    assert_int_equal(op_bytes(c, SF_OP_RECV), 2 * m * row / 8);
    uint64_t dense = 0, experts = 0;
    for (uint32_t i = 0; i < c->bufs_n; i++) {
        dense += strcmp(c->bufs[i].name, "grad.c0") == 0 ? c->bufs[i].bytes : 0;
        experts += strcmp(c->bufs[i].name, "expert.grad.c0") == 0 ? c->bufs[i].bytes : 0;
    }
    assert_int_equal(op_bytes(c, SF_OP_REDUCE_SCATTER), dense + experts);
    assert_int_equal(op_bytes(c, SF_OP_ALL_GATHER), dense + experts);
    /* Padding to whole shares: at most one unit of 64 bytes per rank and bucket. */
    uint64_t expert_weights = layers * 4 * UINT64_C(3) * 32768 / 8 * 6144 * 2;
    assert_in_range(experts, expert_weights, expert_weights + layers * 1375 * 64);
    sf_prog_free(prog);
}

static void test_grok_is_small(void **state) {
    (void)state;
    struct sf_scenario s = grok_scenario();
    struct sf_plan p = plan_for(&s, 8, 2, 2750, 10, 12);
    p.zero = 1;
    p.ranks_per_domain = 72;
    struct sf_prog *prog = compile(&s, &p);
    struct sf_buf out = {0};
    struct sf_err err = {0};
    assert_int_equal(sf_prog_encode(prog, &out, &err), 0);
    assert_true(out.bytes < 2u << 20);
    sf_buf_free(&out);
    sf_prog_free(prog);
}

static uint64_t arena_of(uint32_t microbatches, int schedule, uint32_t class_i) {
    struct sf_scenario s = tiny_scenario();
    struct sf_plan p = plan_for(&s, 1, 1, 1, 4, microbatches);
    p.schedule = schedule;
    struct sf_prog *prog = compile(&s, &p);
    uint64_t bytes = prog->classes[class_i].arena_bytes;
    sf_prog_free(prog);
    return bytes;
}

static void test_memory_of_1f1b_is_bounded(void **state) {
    (void)state;
    for (uint32_t c = 0; c < 3; c++) { /* the last stage has one float of loss per microbatch */
        assert_int_equal(arena_of(16, SF_SCHEDULE_1F1B, c), arena_of(128, SF_SCHEDULE_1F1B, c));
        assert_true(arena_of(128, SF_SCHEDULE_GPIPE, c) > 3 * arena_of(16, SF_SCHEDULE_GPIPE, c));
    }
}

/* The receive for one compute op waits for no compute op later than the one before the last. */
static void test_receives_are_early(void **state) {
    (void)state;
    struct sf_scenario s = tiny_scenario();
    struct sf_plan p = plan_for(&s, 1, 1, 1, 4, 8);
    struct sf_prog *prog = compile(&s, &p);
    uint32_t seen = 0;
    for (uint32_t c = 0; c < prog->classes_n; c++) {
        const struct sf_class *cls = &prog->classes[c];
        uint32_t before[2] = {SF_NONE, SF_NONE}; /* last compute op, and the one before it */
        for (uint32_t i = 0; i < cls->ops_n; i++) {
            const struct sf_op *op = &cls->ops[i];
            if (op->kind == SF_OP_FORWARD || op->kind == SF_OP_BACKWARD) {
                uint32_t inputs = 0;
                for (uint32_t d = 0; d < op->dep_n; d++) {
                    const struct sf_op *in = &cls->ops[cls->deps[op->dep_first + d]];
                    if (in->kind == SF_OP_RECV && in->dep_n > 0) {
                        assert_int_equal(in->dep_n, 1);
                        assert_true(cls->deps[in->dep_first] <= before[1]);
                        inputs++;
                    }
                }
                seen += inputs;
                before[1] = before[0];
                before[0] = i;
            }
        }
    }
    assert_true(seen > 20);
    sf_prog_free(prog);
}

/* ---- canonical sums ---------------------------------------------------------------------------------------------- */

static float tree(const float *leaf, uint32_t n) {
    return n == 1 ? leaf[0] : tree(leaf, n / 2) + tree(leaf + n / 2, n / 2);
}

/* One float stands for each gradient buffer. */
static void run_sum(const struct sf_prog *p, const struct sf_class *c, const struct sf_op *op, float *value) {
    const struct sf_recipe *r = &p->recipes[op->recipe];
    for (uint32_t k = 0; k < r->calls_n; k++) {
        uint32_t at[3];
        for (int o = 0; o < 3; o++) {
            at[o] = c->args[op->arg_first + SF_REF_FORMAL(r->calls[k].operand[o])].buf;
        }
        assert_int_equal(r->calls[k].kind, SF_CALL_ADD);
        value[at[2]] = value[at[0]] + value[at[1]];
    }
}

static void test_canonical_tree(void **state) {
    (void)state;
    for (uint32_t m = 1; m <= 32; m *= 2) {
        struct sf_scenario s = tiny_scenario();
        s.job.canonical = true;
        struct sf_plan p = plan_for(&s, 1, 1, 1, 2, m);
        p.canonical = true;
        struct sf_prog *prog = compile(&s, &p);
        const struct sf_class *c = &prog->classes[1];
        float *value = calloc(c->bufs_n, sizeof *value), leaf[32];
        uint32_t grad = SF_NONE;
        for (uint32_t i = 0; i < c->ops_n; i++) {
            const struct sf_op *op = &c->ops[i];
            for (uint32_t a = 0; op->kind == SF_OP_BACKWARD && a < op->arg_n; a++) {
                uint32_t buf = c->args[op->arg_first + a].buf;
                if (c->bufs[buf].kind == SF_BUF_GRAD) {
                    value[buf] = leaf[op->microbatch] = 1.0f / (float)(3 + 7 * op->microbatch);
                }
            }
            if (op->kind == SF_OP_ACCUMULATE) {
                run_sum(prog, c, op, value);
            }
            grad = op->kind == SF_OP_OPTIMIZER ? c->args[op->arg_first + 1].buf : grad;
        }
        assert_true(value[grad] == tree(leaf, m));
        free(value);
        sf_prog_free(prog);
    }
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

static void test_too_large_is_no_plan(void **state) {
    (void)state;
    struct sf_scenario s = grok_scenario();
    struct sf_plan p = plan_for(&s, 8, 1, 1, 1, 1);
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    assert_int_equal(sf_compile(&s, &p, &prog, &err), SF_E_NOPLAN);
    assert_non_null(strstr(err.msg, "stage 0"));
    assert_null(prog);
}

static void test_absurd_sizes_are_refused(void **state) {
    (void)state;
    struct sf_scenario s = tiny_scenario();
    s.model.hidden = s.model.ffn = UINT32_MAX - 3;
    s.model.vocab = UINT64_C(1) << 60;
    s.job.seq_len_tokens = 1u << 31;
    struct sf_plan p = plan_for(&s, 1, 1, 1, 2, 2);
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    assert_int_equal(sf_compile(&s, &p, &prog, &err), SF_E_NOPLAN);
}

static void test_bad_plan_is_refused(void **state) {
    (void)state;
    struct sf_scenario s = tiny_scenario();
    struct sf_plan p = plan_for(&s, 1, 1, 1, 2, 2);
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    p.layers[0]++;
    assert_int_equal(sf_compile(&s, &p, &prog, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "layers"));
}

static void survives_out_of_memory(int schedule) {
    struct sf_scenario s = tiny_scenario();
    s.model.tied = true;
    struct sf_plan p = plan_for(&s, 1, 1, 2, 2, 4);
    set_schedule(&s, &p, schedule, 2);
    p.zero = 1;
    bool done = false;
    for (size_t n = 1; !done; n++) {
        struct sf_prog *prog = NULL;
        struct sf_err err = {0};
        sf_alloc_fail_after(n);
        int rc = sf_compile(&s, &p, &prog, &err);
        sf_alloc_fail_after(0);
        done = rc == 0;
        assert_true(done || (rc == SF_E_INTERNAL && prog == NULL));
        sf_prog_free(prog);
        assert_true(n < 100000);
    }
}

static void test_out_of_memory_everywhere(void **state) {
    (void)state;
    survives_out_of_memory(SF_SCHEDULE_INTERLEAVED);
    survives_out_of_memory(SF_SCHEDULE_ZB_V);
}

static void test_same_bytes_every_time(void **state) {
    (void)state;
    struct sf_scenario s = tiny_scenario();
    struct sf_plan p = plan_for(&s, 1, 1, 2, 4, 8);
    struct sf_prog *a = compile(&s, &p);
    p.scenario[0] = 'x'; /* where the scenario lies is no part of the program */
    struct sf_prog *b = compile(&s, &p);
    assert_true(sf_hash_equal(sf_prog_hash(a), sf_prog_hash(b)));
    p.zero = 1;
    struct sf_prog *c = compile(&s, &p);
    assert_false(sf_hash_equal(sf_prog_hash(a), sf_prog_hash(c)));
    assert_false(sf_hash_equal(a->source, c->source));
    sf_prog_free(a);
    sf_prog_free(b);
    sf_prog_free(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_choices),
        cmocka_unit_test(test_all_families),
        cmocka_unit_test(test_split_backward),
        cmocka_unit_test(test_folded_pipelines_talk_to_neighbours),
        cmocka_unit_test(test_copies_are_added),
        cmocka_unit_test(test_tables_of_ones_own),
        cmocka_unit_test(test_random_tables),
        cmocka_unit_test(test_unsummable_order_is_refused),
        cmocka_unit_test(test_tensor_parallel),
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_grok_volumes),
        cmocka_unit_test(test_grok_is_small),
        cmocka_unit_test(test_memory_of_1f1b_is_bounded),
        cmocka_unit_test(test_receives_are_early),
        cmocka_unit_test(test_canonical_tree),
        cmocka_unit_test(test_too_large_is_no_plan),
        cmocka_unit_test(test_absurd_sizes_are_refused),
        cmocka_unit_test(test_bad_plan_is_refused),
        cmocka_unit_test(test_out_of_memory_everywhere),
        cmocka_unit_test(test_same_bytes_every_time),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
