/* Mixtures of experts whose layers differ, shared experts, latent attention, expert tensor parallelism and layouts:
 * published counts, and programs that hold exactly the model's weights and do exactly its products. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "core/arena.h"
#include "planner/compile_internal.h"
#include "planner/estimate.h"
#include "planner/plan_layout.h"
#include "tests/unit/test_planner_compiled.h"

static int read_text(void *self, const char *path, size_t max_bytes, char **data, size_t *bytes, struct sf_err *err) {
    (void)path;
    (void)max_bytes;
    *bytes = strlen(self);
    *data = sf_malloc(*bytes + 1);
    if (*data == NULL) {
        return sf_fail_memory(err, "text");
    }
    memcpy(*data, self, *bytes + 1);
    return 0;
}

static int load_text(const char *text, struct sf_model *m, struct sf_err *err) {
    char copy[2048];
    snprintf(copy, sizeof copy, "%s", text);
    const struct sf_io io = {.self = copy, .read_all = read_text};
    memset(err, 0, sizeof *err);
    return sf_model_load(&io, "models/small/config.json", m, err);
}

/* ---- counts ------------------------------------------------------------------------------------------------------ */

#define LATENT "\"kv_lora_rank\": 512, \"qk_nope_head_dim\": 128, \"qk_rope_head_dim\": 64, \"v_head_dim\": 128"

/* Totals and active parameters as published: arXiv 2412.19437, 2405.04434, 2502.16982, 2507.20534. */
static void published_counts(void **state) {
    static const struct {
        const char *text;
        double billions, active_billions, mtp_billions;
    } cases[] = {
        {"{\"model_type\": \"deepseek_v3\", \"num_hidden_layers\": 61, \"hidden_size\": 7168, \"vocab_size\": 129280,"
         "\"num_attention_heads\": 128, \"q_lora_rank\": 1536, \"intermediate_size\": 18432,"
         "\"moe_intermediate_size\": 2048, \"n_routed_experts\": 256, \"num_experts_per_tok\": 8,"
         "\"n_shared_experts\": 1, \"first_k_dense_replace\": 3, \"num_nextn_predict_layers\": 1," LATENT "}",
         671.03, 37.55, 11.61},
        {"{\"model_type\": \"deepseek_v2\", \"num_hidden_layers\": 60, \"hidden_size\": 5120, \"vocab_size\": 102400,"
         "\"num_attention_heads\": 128, \"q_lora_rank\": 1536, \"intermediate_size\": 12288,"
         "\"moe_intermediate_size\": 1536, \"n_routed_experts\": 160, \"num_experts_per_tok\": 6,"
         "\"n_shared_experts\": 2, \"first_k_dense_replace\": 1," LATENT "}",
         235.74, 21.38, 0},
        {"{\"model_type\": \"deepseek_v3\", \"num_hidden_layers\": 27, \"hidden_size\": 2048, \"vocab_size\": 163840,"
         "\"num_attention_heads\": 16, \"q_lora_rank\": null, \"intermediate_size\": 11264,"
         "\"moe_intermediate_size\": 1408, \"n_routed_experts\": 64, \"num_experts_per_tok\": 6,"
         "\"n_shared_experts\": 2, \"first_k_dense_replace\": 1," LATENT "}",
         15.96, 2.91, 0},
        {"{\"model_type\": \"kimi_k2\", \"num_hidden_layers\": 61, \"hidden_size\": 7168, \"vocab_size\": 163840,"
         "\"num_attention_heads\": 64, \"q_lora_rank\": 1536, \"intermediate_size\": 18432,"
         "\"moe_intermediate_size\": 2048, \"n_routed_experts\": 384, \"num_experts_per_tok\": 8,"
         "\"n_shared_experts\": 1, \"first_k_dense_replace\": 1," LATENT "}",
         1026.41, 32.86, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct sf_model m;
        struct sf_err err;
        if (load_text(cases[i].text, &m, &err) != 0) {
            fail_msg("%s", err.msg);
        }
        assert_true(fabs((double)sf_model_params(&m) / 1e9 - cases[i].billions) < 0.005);
        assert_true(fabs((double)sf_model_params_active(&m) / 1e9 - cases[i].active_billions) < 0.005);
        assert_true(fabs((double)sf_model_params_mtp(&m) / 1e9 - cases[i].mtp_billions) < 0.05);
    }
}

#define SMALL                                                                                                          \
    "{\"model_type\": \"deepseek_v3\", \"num_hidden_layers\": 4, \"hidden_size\": 64, \"vocab_size\": 256,"            \
    "\"num_attention_heads\": 4, \"intermediate_size\": 96, \"n_routed_experts\": 8, \"num_experts_per_tok\": 2,"      \
    "\"kv_lora_rank\": 16, \"qk_nope_head_dim\": 8, \"qk_rope_head_dim\": 4, \"v_head_dim\": 6"

static struct sf_model small_with(const char *more) {
    char text[1024];
    struct sf_model m;
    struct sf_err err;
    snprintf(text, sizeof text, "%s%s}", SMALL, more);
    if (load_text(text, &m, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    return m;
}

static void further_is_read(void **state) {
    static const char *const names[] = {"num_nextn_predict_layers", "mtp_num_layers", "mtp_layers"};
    const struct sf_model none = small_with(", \"mtp_layers\": 0"), plain = small_with("");
    (void)state;
    assert_true(none.mtp == 0 && sf_hash_equal(none.hash, plain.hash) && sf_model_params_mtp(&none) == 0);
    for (size_t i = 0; i < 3; i++) {
        char text[128];
        snprintf(text, sizeof text, ", \"%s\": 2", names[i]);
        const struct sf_model two = small_with(text);
        snprintf(text, sizeof text, ", \"%s\": 2, \"mtp_loss_scaling_factor\": 0.3", names[i]);
        const struct sf_model heavier = small_with(text);
        assert_true(two.mtp == 2 && two.mtp_weight == 0.1 && heavier.mtp_weight == 0.3);
        assert_false(sf_hash_equal(two.hash, plain.hash));
        assert_false(sf_hash_equal(two.hash, heavier.hash));
        assert_int_equal(sf_model_params(&two), sf_model_params(&plain));
        assert_true(sf_model_flops(&two, 1, 64) > sf_model_flops(&plain, 1, 64));
    }
}

static void refuses(void **state) {
    static const struct {
        const char *text, *says;
    } cases[] = {
        {SMALL ", \"first_k_dense_replace\": 4}", "from 0 to 3"},
        {SMALL ", \"moe_layer_freq\": 2}", "moe_layer_freq 1"},
        {SMALL ", \"num_key_value_heads\": 2}", "its own keys"},
        {SMALL ", \"n_shared_experts\": 1, \"shared_expert_intermediate_size\": 8}", "mean the same"},
        {SMALL ", \"mlp_only_layers\": [0]}", "mlp_only_layers"},
        {SMALL ", \"num_nextn_predict_layers\": 9}", "from 0 to 8"},
        {SMALL ", \"num_nextn_predict_layers\": 1, \"mtp_layers\": 1}", "three names"},
        {SMALL ", \"mtp_loss_scaling_factor\": 0.3}", "the model has none"},
        {SMALL ", \"mtp_num_layers\": 1, \"mtp_loss_scaling_factor\": -1}", "from 0"},
        {"{\"model_type\": \"llama\", \"num_hidden_layers\": 4, \"hidden_size\": 64, \"vocab_size\": 256,"
         "\"num_attention_heads\": 4, \"intermediate_size\": 96, \"n_shared_experts\": 1}",
         "mixtures"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct sf_model m;
        struct sf_err err;
        assert_int_equal(load_text(cases[i].text, &m, &err), SF_E_INPUT);
        if (strstr(err.msg, cases[i].says) == NULL) {
            fail_msg("\"%s\" should say \"%s\"", err.msg, cases[i].says);
        }
    }
}

/* ---- programs ---------------------------------------------------------------------------------------------------- */

struct variant {
    uint32_t q_rank, dense_first, moe_step, shared, kv_rank;
    bool gate;
};
static const struct variant variants[] = {
    {0, 0, 0, 0, 0, false},  {0, 1, 0, 0, 0, false},   {0, 0, 2, 32, 0, false},   {0, 1, 0, 32, 0, true},
    {0, 0, 0, 0, 16, false}, {24, 0, 0, 32, 16, true}, {24, 2, 0, 32, 16, false},
};
#define VARIANTS (sizeof variants / sizeof variants[0])

static struct sf_scenario scenario_of(const struct variant *v, uint32_t gpus) {
    const struct shape shape = {4, 64, 4, 4, 96, 8, 256, 32, SF_BF16};
    struct sf_scenario s = shaped_scenario(cluster, &shape);
    struct sf_model *m = &s.model;
    m->dense_first = v->dense_first;
    m->moe_step = v->moe_step;
    m->dense_ffn = v->dense_first + v->moe_step > 0 ? 160 : 0;
    m->shared_ffn = v->shared;
    m->shared_gate = v->gate;
    m->q_rank = v->q_rank;
    m->kv_rank = v->kv_rank;
    if (v->kv_rank > 0) {
        m->rope_dim = 4;
        m->head_dim = 12;
        m->v_dim = 6;
    }
    s.job.gpus = gpus;
    return s;
}

static struct sf_plan plan_of(struct sf_scenario *s, uint32_t tp, uint32_t ep, uint32_t dp, uint32_t pp) {
    struct sf_plan p = {.tp = tp,
                        .ep = ep,
                        .dp = dp,
                        .pp = pp,
                        .vpp = 1,
                        .micro_batch = 2,
                        .microbatches = 2,
                        .schedule = SF_SCHEDULE_1F1B,
                        .ranks_per_domain = 8};
    for (uint32_t i = 0; i < pp; i++) {
        p.layers[i] = s->model.layers / pp;
    }
    s->job.global_batch_sequences = (uint64_t)dp * p.micro_batch * p.microbatches;
    return p;
}

static uint64_t weights_of(const struct sf_prog *prog) {
    uint64_t n = 0;
    for (uint32_t c = 0; c < prog->classes_n; c++) {
        for (uint32_t i = 0; i < prog->classes[c].tensors_n; i++) {
            n += prog->classes[c].tensors[i].rows * prog->classes[c].tensors[i].cols;
        }
    }
    return n;
}

/* One rank has all: what is named is the model. */
static void programs_hold_the_model(void **state) {
    (void)state;
    for (size_t i = 0; i < VARIANTS; i++) {
        for (uint32_t k = 0; k < 6; k++) {
            uint32_t pp = 1 + k % 2, mtp = k / 2;
            struct sf_scenario s = scenario_of(&variants[i], pp);
            struct sf_plan p = plan_of(&s, 1, 1, 1, pp);
            s.model.mtp = mtp;
            struct sf_prog *prog = compiled(&s, &p);
            uint64_t copy = pp > 1 && mtp > 0 ? s.model.vocab * s.model.hidden : 0;
            assert_int_equal(weights_of(prog), sf_model_params(&s.model) + sf_model_params_mtp(&s.model) + copy);
            sf_prog_free(prog);
        }
    }
}

static double product_flops(const struct sf_call *c) {
    double all = (double)c->dims[0] * (double)c->dims[1] * (double)c->dims[2] * (double)c->dims[3];
    return c->kind == SF_CALL_GEMM ? 2.0 * all * (double)c->imm[1] : 0.0;
}

/* One microbatch, forward and backward, in a program of one stage that makes all its logits at once. */
static double flops_of(const struct sf_prog *prog) {
    double flops = 0;
    const struct sf_class *c = &prog->classes[0];
    for (uint32_t i = 0; i < c->ops_n; i++) {
        const struct sf_recipe *r = c->ops[i].recipe != SF_NONE ? &prog->recipes[c->ops[i].recipe] : NULL;
        for (uint32_t k = 0; r && k < r->calls_n; k++) {
            flops += c->ops[i].microbatch == 0 ? product_flops(&r->calls[k]) : 0;
        }
    }
    return flops;
}

/* Six operations per token and weight that is used; attention's scores are no GEMMs. */
static void programs_do_the_model(void **state) {
    (void)state;
    for (size_t i = 0; i < 2 * VARIANTS; i++) {
        struct sf_scenario s = scenario_of(&variants[i / 2], 1);
        struct sf_plan p = plan_of(&s, 1, 1, 1, 1);
        s.model.mtp = i % 2 * 2;
        struct sf_prog *prog = compiled(&s, &p);
        const struct sf_model *m = &s.model;
        uint64_t tokens = (uint64_t)p.micro_batch * s.job.seq_len_tokens;
        double values = m->kv_rank > 0 ? (double)m->heads * m->v_dim : (double)m->heads * m->head_dim;
        double scores =
            3.0 * (m->layers + m->mtp) * (m->heads * m->head_dim + values) * s.job.seq_len_tokens * (double)tokens;
        double expected = sf_model_flops(m, tokens, s.job.seq_len_tokens) - scores;
        assert_true(fabs(flops_of(prog) / expected - 1) < 1e-6);
        sf_prog_free(prog);
    }
}

/* Layouts share the weights out: what all ranks hold of one replica, each matrix once, is the model, whatever etp. */
static void every_layout_compiles(void **state) {
    static const struct {
        uint32_t tp, ep, dp, pp, etp, zero;
    } layouts[] = {{2, 1, 1, 2, 0, 0}, {2, 2, 2, 1, 0, 1}, {2, 2, 2, 1, 1, 1}, {2, 4, 4, 1, 1, 1},
                   {1, 4, 4, 2, 0, 1}, {4, 4, 2, 1, 1, 0}, {1, 2, 4, 1, 0, 2}, {1, 2, 4, 1, 0, 3}};
    (void)state;
    for (size_t i = 0; i < VARIANTS * (sizeof layouts / sizeof layouts[0]); i++) {
        const struct variant *v = &variants[i % VARIANTS];
        size_t l = i / VARIANTS;
        struct sf_scenario s = scenario_of(v, layouts[l].tp * layouts[l].dp * layouts[l].pp);
        struct sf_plan p = plan_of(&s, layouts[l].tp, layouts[l].ep, layouts[l].dp, layouts[l].pp);
        p.etp = layouts[l].etp;
        p.zero = layouts[l].zero;
        struct sf_prog *prog = compiled(&s, &p);
        uint64_t expert = prog->classes[0].ops_n; /* checked by the compiler's own proof */
        assert_true(expert > 0);
        sf_prog_free(prog);
    }
}

/* Bytes of all ranks of cp in the recipes of one class, and how many calls send them. */
static uint64_t sent_by_cp(const struct sf_prog *prog, uint32_t *calls) {
    uint64_t bytes = 0;
    *calls = 0;
    for (uint32_t i = 0; i < prog->classes[0].ops_n; i++) {
        const struct sf_op *op = &prog->classes[0].ops[i];
        const struct sf_recipe *r = op->recipe != SF_NONE ? &prog->recipes[op->recipe] : NULL;
        for (uint32_t k = 0; r && k < r->calls_n; k++) {
            const struct sf_call *c = &r->calls[k];
            bool cp = c->comm != SF_NONE && strcmp(prog->comms[c->comm].name, "cp") == 0;
            *calls += cp;
            bytes += cp ? (uint64_t)c->dims[0] : 0;
        }
    }
    return bytes;
}

/* Latent attention, too, needs the keys and values of all ranks that share a sequence: forward, backward, and the way
 * back of their gradients, for every layer and microbatch. */
static void shared_sequences_send_keys(void **state) {
    (void)state;
    for (size_t i = 0; i < VARIANTS; i++) {
        struct sf_scenario s = scenario_of(&variants[i], 2);
        struct sf_plan p = plan_of(&s, 1, 1, 1, 1);
        const struct sf_model *m = &s.model;
        p.cp = 2;
        struct sf_prog *prog = compiled(&s, &p);
        uint32_t calls, passes = m->layers * p.microbatches;
        uint64_t values = m->kv_rank > 0 ? m->heads * m->v_dim : m->kv_heads * m->head_dim;
        uint64_t keys = m->kv_rank > 0 ? m->heads * m->head_dim : values;
        uint64_t bytes = (keys + values) * p.micro_batch * s.job.seq_len_tokens * 2;
        assert_int_equal(sent_by_cp(prog, &calls), 3 * passes * bytes);
        assert_int_equal(calls, 3 * passes);
        sf_prog_free(prog);
    }
}

/* Recomputing what latent vectors are enough for takes time and saves memory. */
static void up_projections_run_again(void **state) {
    struct sf_scenario s = scenario_of(&variants[VARIANTS - 1], 1);
    uint64_t arena[2];
    double flops[2];
    (void)state;
    s.job.seq_len_tokens = 512;
    for (int k = 0; k < 2; k++) {
        struct sf_plan p = plan_of(&s, 1, 1, 1, 1);
        p.recompute = k == 0 ? SF_RECOMPUTE_NONE : SF_RECOMPUTE_MLA_UP;
        struct sf_prog *prog = compiled(&s, &p);
        arena[k] = prog->classes[0].arena_bytes;
        flops[k] = flops_of(prog);
        sf_prog_free(prog);
    }
    assert_true(arena[1] < arena[0]);
    assert_true(flops[1] > flops[0]);
}

/* The ends of a pipeline may hold the embedding and the loss alone. */
static void ends_without_layers(void **state) {
    struct sf_scenario s = scenario_of(&variants[0], 4);
    struct sf_plan p = plan_of(&s, 1, 1, 1, 4);
    const uint32_t layers[] = {0, 2, 2, 0};
    (void)state;
    memcpy(p.layers, layers, sizeof layers);
    struct sf_prog *prog = compiled(&s, &p);
    assert_int_equal(weights_of(prog), sf_model_params(&s.model));
    sf_prog_free(prog);
}

/* A layer's experts make it dearer than one without, and a plan is refused that would leave a layer out. */
static void layers_have_prices_of_their_own(void **state) {
    struct sf_scenario s = scenario_of(&variants[VARIANTS - 1], 8);
    struct sf_cost *cost = NULL;
    struct sfi_base base;
    struct sfi_price price;
    struct sf_err err = {0};
    (void)state;
    s.model.dense_ffn = 16;
    s.job.seq_len_tokens = 4096;
    assert_int_equal(sf_cost_create(s.topo, &sf_io_posix, NULL, &cost, &err), 0);
    sfi_base_init(&s, cost, &base);
    assert_int_equal(
        sfi_price_init(&base, &(struct sfi_degrees){.tp = 1, .cp = 1, .ep = 2, .micro_batch = 1}, &price, &err), 0);
    const struct sfi_pass_time *f = &price.time[SFI_TIMED_F];
    assert_true(f->of[1] > f->of[0] && price.kept_of[1] > price.kept_of[0]);
    assert_true(f->layer < f->of[1] && f->layer > f->of[0]);
    sf_cost_free(cost);
}

/* Layers that predict further cost what a layer and a head do, and the last stage pays and holds it. */
static void further_is_part_of_the_end(void **state) {
    const struct sfi_degrees degrees = {.tp = 1, .cp = 1, .ep = 2, .micro_batch = 1};
    struct sfi_price price[2];
    struct sf_err err = {0};
    uint64_t f[2][4], b[4], w[4];
    (void)state;
    for (uint32_t mtp = 0; mtp < 2; mtp++) {
        struct sf_scenario s = scenario_of(&variants[VARIANTS - 1], 8);
        struct sf_cost *cost = NULL;
        struct sfi_base base;
        s.model.mtp = mtp;
        s.job.seq_len_tokens = 4096;
        assert_int_equal(sf_cost_create(s.topo, &sf_io_posix, NULL, &cost, &err), 0);
        sfi_base_init(&s, cost, &base);
        assert_int_equal(sfi_price_init(&base, &degrees, &price[mtp], &err), 0);
        sf_cost_free(cost);
        struct sf_plan p = plan_of(&s, 1, 1, 2, 4);
        sfi_pass_flops(&s, &p, f[mtp], b, w);
    }
    for (int t = 0; t <= SFI_TIMED_BW; t++) {
        const struct sfi_pass_time *without = &price[0].time[t], *with = &price[1].time[t];
        double routed = without->of[1];
        assert_true(fabs(with->first / without->first - 1) < 1e-9 && fabs(with->of[1] / routed - 1) < 1e-9);
        assert_true(with->last > 2 * without->last + routed && with->last < 3 * (without->last + routed));
    }
    assert_true(price[1].kept_last > price[0].kept_last + price[0].kept_of[1]);
    assert_true(f[1][3] > f[0][3] && f[1][2] == f[0][2]);
}

/* Whoever shares what, wherever activations wait, however heads and sequences are cut: all that predicts further is
 * there, once for the model and the embedding once more for the last stage with layers. */
static void further_with_all_kinds_of_plans(void **state) {
    (void)state;
    for (size_t i = 0; i < VARIANTS; i++) {
        for (uint32_t k = 0; k < 5; k++) {
            struct sf_scenario s = scenario_of(&variants[i], 4);
            struct sf_plan p = plan_of(&s, 1, 1, 2, 2);
            s.model.mtp = 2;
            p.zero = k == 0 ? 2 : k == 1 ? 3 : 0;
            p.offload = k == 2;
            p.split_head = k == 3;
            if (k == 4 && s.model.kv_rank == 0) {
                p.slices = 2;
                p.micro_batch = 1;
                p.microbatches = 4;
            }
            struct sf_prog *prog = compiled(&s, &p);
            uint64_t all = sf_model_params(&s.model) + sf_model_params_mtp(&s.model) + s.model.vocab * s.model.hidden;
            assert_int_equal(weights_of(prog), p.zero == 3 ? 0 : all); /* which names none */
            sf_prog_free(prog);
        }
    }
}

/* ---- layouts ----------------------------------------------------------------------------------------------------- */

static void layouts_are_read(void **state) {
    struct sf_layout l;
    struct sf_err err = {0};
    (void)state;
    assert_int_equal(sf_layout_parse("Et*4|(t*4|)*14tmL", &l, &err), 0);
    assert_int_equal(l.stages, 16);
    assert_int_equal(l.layers[0] + l.layers[1] + l.layers[15], 9);
    assert_int_equal(l.mtp, 1);
    assert_int_equal(sf_layout_parse("Et|(tt|)*30L", &l, &err), 0);
    assert_int_equal(l.stages, 32);
    assert_int_equal(l.layers[31], 0);
    assert_int_equal(sf_layout_parse("E|t,t|L", &l, &err), 0);
    assert_int_equal(l.layers[1], 2);
    assert_int_equal(sf_layout_parse("E((t|)*2t|)*2tL", &l, &err), 0);
    assert_int_equal(l.stages, 7);
}

static void bad_layouts_are_refused(void **state) {
    static const char *const texts[] = {"",
                                        "t|L",
                                        "Et",
                                        "EtL|t",
                                        "Et||tL",
                                        "Et*0L",
                                        "Et*99999L",
                                        "E(t|L",
                                        "Et)L",
                                        "EtxL",
                                        "EEtL",
                                        "Etm|tL",
                                        "Et*L",
                                        "E(((((((((t)))))))))L",
                                        "Et|m|tL",
                                        "EtmtL",
                                        "E(t*4096)*4096L"};
    struct sf_layout l;
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct sf_err err = {0};
        if (sf_layout_parse(texts[i], &l, &err) != SF_E_INPUT || strstr(err.msg, "character") == NULL) {
            fail_msg("\"%s\": \"%s\"", texts[i], err.msg);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_counts),
        cmocka_unit_test(further_is_read),
        cmocka_unit_test(refuses),
        cmocka_unit_test(programs_hold_the_model),
        cmocka_unit_test(programs_do_the_model),
        cmocka_unit_test(every_layout_compiles),
        cmocka_unit_test(shared_sequences_send_keys),
        cmocka_unit_test(up_projections_run_again),
        cmocka_unit_test(ends_without_layers),
        cmocka_unit_test(layers_have_prices_of_their_own),
        cmocka_unit_test(further_with_all_kinds_of_plans),
        cmocka_unit_test(further_is_part_of_the_end),
        cmocka_unit_test(layouts_are_read),
        cmocka_unit_test(bad_layouts_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
