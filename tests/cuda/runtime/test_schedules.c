/* Every schedule of the planner through the GPU backend on the recording device: each rule holds, the executed order is
 * the program's, and losses are those of the CPU threads, to the bit, in whatever order the graphs allow. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "planner/compile.h"
#include "tests/unit/test_planner_fixture.h"
#include "tests/unit/test_runtime_stage.h"

static struct sf_topo *cluster;
static struct sf_err refusal; /* the last one */

static int setup(void **state) {
    (void)state;
    cluster = load_cluster("hgx-h100-1node");
    return cluster == NULL;
}

static int teardown(void **state) {
    (void)state;
    unlink(temp_path("text"));
    sf_topo_free(cluster);
    return 0;
}

static struct sf_scenario tiny(int precision) {
    struct shape shape = tiny_shape;
    shape.precision = precision;
    return shaped_scenario(cluster, &shape);
}

struct layout {
    int schedule;
    uint32_t tp, dp, pp, vpp, microbatches, zero;
    bool whole_rows;
    uint32_t slices;
    int recompute;
    bool split_head;
};

/* Models beside the plain one: with one table at both ends; with layer norms, biases and logits a part at a time; and
 * as GPT-2, with all of that, learned positions and a padded vocabulary. */
enum flavour { PLAIN, TIED, BIASED, GPT2 };

static void season(struct sf_scenario *s, enum flavour flavour) {
    s->model.tied = flavour == TIED || flavour == GPT2;
    if (flavour >= BIASED) {
        s->model.layernorm = s->model.qkv_bias = s->model.out_bias = s->model.ffn_bias = true;
        s->job.loss_rows = 6;
    }
    if (flavour == GPT2) {
        s->model.plain = s->model.gelu = true;
        s->model.positions = s->job.seq_len_tokens;
        s->model.vocab_padding = 7;
    }
}

/* NULL where the planner does not make such a plan. */
static struct sf_prog *compile_layout(const struct layout *l, int precision, enum flavour flavour) {
    struct sf_scenario s = tiny(precision);
    struct sf_plan p = {.tp = l->tp,
                        .ep = 1,
                        .dp = l->dp,
                        .pp = l->pp,
                        .vpp = l->vpp,
                        .micro_batch = 1,
                        .microbatches = l->microbatches,
                        .schedule = l->schedule,
                        .zero = l->zero,
                        .slices = l->slices,
                        .split_head = l->split_head,
                        .recompute = l->recompute,
                        .whole_rows = l->whole_rows,
                        .canonical = precision == SF_F32,
                        .ranks_per_domain = sf_topo_domain_gpus(cluster)};
    struct sf_prog *prog = NULL;
    uint32_t n = l->pp * l->vpp;
    for (uint32_t i = 0; i < n; i++) {
        p.layers[i] = (i + 1) * s.model.layers / n - i * s.model.layers / n;
    }
    season(&s, flavour);
    s.job.canonical = p.canonical;
    s.job.gpus = l->tp * l->dp * l->pp;
    s.job.global_batch_sequences = (uint64_t)l->dp * l->microbatches;
    return sf_compile(&s, &p, &prog, &refusal) == 0 ? prog : NULL;
}

/* What every schedule is tried on. */
static const struct layout whole_models[] = {
    {.tp = 1, .dp = 1, .pp = 1, .vpp = 1, .microbatches = 2},
    {.tp = 1, .dp = 1, .pp = 2, .vpp = 1, .microbatches = 4},
    {.tp = 1, .dp = 1, .pp = 2, .vpp = 2, .microbatches = 4},
    {.tp = 1, .dp = 2, .pp = 2, .vpp = 1, .microbatches = 4, .zero = 1},
    {.tp = 1, .dp = 1, .pp = 4, .vpp = 1, .microbatches = 8},
    {.tp = 1, .dp = 2, .pp = 4, .vpp = 2, .microbatches = 8, .zero = 1},
    {.tp = 1, .dp = 1, .pp = 8, .vpp = 1, .microbatches = 8},
    {.tp = 1, .dp = 1, .pp = 4, .vpp = 1, .microbatches = 4},
};

/* Tensor parallel, with rows split between the matrices or not. */
static const struct layout split_models[] = {
    {.tp = 2, .dp = 1, .pp = 1, .vpp = 1, .microbatches = 2},
    {.tp = 2, .dp = 1, .pp = 2, .vpp = 1, .microbatches = 4, .whole_rows = true},
    {.tp = 2, .dp = 1, .pp = 2, .vpp = 2, .microbatches = 4},
    {.tp = 2, .dp = 2, .pp = 2, .vpp = 1, .microbatches = 4, .zero = 1},
};

#define SHAPES(of) of, sizeof(of) / sizeof *(of)

static void each_layout(const struct layout *shapes, size_t n, void (*visit)(struct sf_prog *prog), int precision,
                        enum flavour flavour) {
    for (int k = 0; k < SF_SCHEDULE_TABLE; k++) { /* a user's table is a family's or another's passes */
        uint32_t compiled = 0;
        for (size_t i = 0; i < n; i++) {
            struct layout l = shapes[i];
            l.schedule = k;
            struct sf_prog *prog = compile_layout(&l, precision, flavour);
            if (prog) {
                visit(prog);
                compiled++;
            }
            sf_prog_free(prog);
        }
        if (compiled == 0) {
            fail_msg("no shape here suits schedule %s: %s", sf_schedule_name(k), refusal.msg);
        }
    }
}

static void both_ways(struct sf_prog *prog) {
    compare_with_threads(prog, true, 1);
    compare_with_threads(prog, false, 1);
}

static void test_every_schedule(void **state) {
    (void)state;
    each_layout(SHAPES(whole_models), both_ways, SF_F32, PLAIN);
}

static void test_tied_tables(void **state) {
    (void)state;
    each_layout(SHAPES(whole_models), both_ways, SF_F32, TIED);
}

static void test_tensor_parallel(void **state) {
    (void)state;
    each_layout(SHAPES(split_models), both_ways, SF_F32, PLAIN);
    each_layout(split_models, 3, both_ways, SF_F32, TIED); /* the fourth has eight ranks */
}

/* No CPU kernel computes bf16, but the rules can be checked. */
static void rules_only(struct sf_prog *prog) {
    const struct sf_rt_options options = {.steps = STEPS, .data_path = make_text(4096)};
    for (int is_virtual = 0; is_virtual < 2; is_virtual++) {
        struct stage st;
        open_stage(&st, prog, &options, &(struct sfi_record_options){.execute = false});
        if (capture(&st, is_virtual) != 0 || check(&st) != 0) {
            fail_msg("%s: %s", prog->title, st.err.msg);
        }
        close_stage(&st);
    }
}

static void test_every_schedule_in_bf16(void **state) {
    (void)state;
    each_layout(SHAPES(whole_models), rules_only, SF_BF16, PLAIN);
    each_layout(SHAPES(split_models), rules_only, SF_BF16, PLAIN);
}

static void test_vectors_and_logits_in_parts(void **state) {
    (void)state;
    each_layout(whole_models + 1, 3, both_ways, SF_F32, GPT2);
    each_layout(split_models + 1, 2, both_ways, SF_F32, BIASED);
    each_layout(whole_models + 1, 3, rules_only, SF_BF16, GPT2);
}

/* Sequences in slices, where schedules know them. */
static void test_slices(void **state) {
    (void)state;
    static const struct layout sliced[] = {
        {.tp = 1, .dp = 1, .pp = 1, .vpp = 1, .microbatches = 2, .slices = 4},
        {.tp = 1, .dp = 2, .pp = 2, .vpp = 1, .microbatches = 4, .slices = 4, .zero = 1},
        {.tp = 2, .dp = 1, .pp = 2, .vpp = 1, .microbatches = 3, .slices = 2, .recompute = SF_RECOMPUTE_FULL},
        {.tp = 1, .dp = 1, .pp = 4, .vpp = 1, .microbatches = 4, .slices = 8},
    };
    const int kinds[] = {SF_SCHEDULE_GPIPE, SF_SCHEDULE_1F1B};
    for (size_t i = 0; i < 2 * sizeof sliced / sizeof *sliced; i++) {
        struct layout l = sliced[i / 2];
        l.schedule = kinds[i % 2];
        for (int k = 0; k < 3; k++) {
            struct sf_prog *prog = compile_layout(&l, k < 2 ? SF_F32 : SF_BF16,
                                                  k == 0      ? PLAIN
                                                  : l.tp == 1 ? GPT2
                                                              : BIASED);
            if (!prog) {
                fail_msg("slices %zu: %s", i, refusal.msg);
            }
            (k < 2 ? both_ways : rules_only)(prog);
            sf_prog_free(prog);
        }
    }
}

/* The head split by vocabulary over the stages. */
static void test_split_heads(void **state) {
    (void)state;
    static const struct layout split[] = {
        {.tp = 1, .dp = 1, .pp = 2, .vpp = 1, .microbatches = 4, .split_head = true},
        {.tp = 1, .dp = 2, .pp = 2, .vpp = 1, .microbatches = 3, .split_head = true, .zero = 1},
        {.tp = 1, .dp = 1, .pp = 4, .vpp = 1, .microbatches = 4, .split_head = true, .recompute = SF_RECOMPUTE_FULL},
        {.tp = 1, .dp = 1, .pp = 8, .vpp = 1, .microbatches = 2, .split_head = true},
    };
    for (size_t i = 0; i < 2 * sizeof split / sizeof *split; i++) {
        struct layout l = split[i / 2];
        l.schedule = SF_SCHEDULE_1F1B;
        struct sf_prog *prog = compile_layout(&l, i % 2 ? SF_BF16 : SF_F32, PLAIN);
        if (!prog) {
            fail_msg("split head %zu: %s", i, refusal.msg);
        }
        (i % 2 ? rules_only : both_ways)(prog);
        sf_prog_free(prog);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_schedule),
        cmocka_unit_test(test_tied_tables),
        cmocka_unit_test(test_tensor_parallel),
        cmocka_unit_test(test_every_schedule_in_bf16),
        cmocka_unit_test(test_vectors_and_logits_in_parts),
        cmocka_unit_test(test_slices),
        cmocka_unit_test(test_split_heads),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
