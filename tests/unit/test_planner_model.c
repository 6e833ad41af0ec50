/* config.json: published parameter counts, FLOPs, and what is refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "core/arena.h"
#include "planner/model.h"

#define assert_near(a, b, tolerance) assert_true(fabs((a) - (b)) <= (tolerance))

#define MODELS SF_SOURCE_DIR "/scenarios/models/"

static int read_text(void *self, const char *path, size_t max_bytes, char **data, size_t *bytes, struct sf_err *err) {
    const char *text = self;
    (void)path;
    (void)max_bytes;
    *bytes = strlen(text);
    *data = sf_malloc(*bytes + 1);
    if (*data == NULL) {
        return sf_fail_memory(err, "text");
    }
    memcpy(*data, text, *bytes + 1);
    return 0;
}

static int load_from(const char *path, const char *text, struct sf_model *m, struct sf_err *err) {
    char copy[4096];
    assert_true(strlen(text) < sizeof copy);
    memcpy(copy, text, strlen(text) + 1);
    struct sf_io io = {.self = copy, .read_all = read_text};
    memset(err, 0, sizeof *err);
    return sf_model_load(&io, path, m, err);
}

static int load_text(const char *text, struct sf_model *m, struct sf_err *err) {
    return load_from("models/small/config.json", text, m, err);
}

static void load_file(const char *name, struct sf_model *m) {
    struct sf_err err = {0};
    char path[512];
    snprintf(path, sizeof path, MODELS "%s/config.json", name);
    if (sf_model_load(&sf_io_posix, path, m, &err) != 0) {
        fail_msg("%s:%u:%u: %s", err.file, err.line, err.column, err.msg);
    }
}

static void published_parameter_counts(void **state) {
    static const struct {
        const char *name;
        double billions, active_billions;
    } cases[] = {
        {"grok-1", 315.68, 83.76},
        {"llama-3.1-405b", 405.85, 405.85},
        {"llama-3.1-8b", 8.03, 8.03},
        {"mixtral-8x7b", 46.70, 12.88},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct sf_model m;
        load_file(cases[i].name, &m);
        assert_string_equal(m.name, cases[i].name);
        assert_near((double)sf_model_params(&m) / 1e9, cases[i].billions, 0.005);
        assert_near((double)sf_model_params_active(&m) / 1e9, cases[i].active_billions, 0.005);
    }
}

#define LLAMA                                                                                                          \
    "{\"model_type\": \"llama\", \"num_hidden_layers\": 2, \"hidden_size\": 64, \"intermediate_size\": 96,"            \
    " \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"vocab_size\": 100"
#define MIXTRAL                                                                                                        \
    "{\"model_type\": \"mixtral\", \"num_hidden_layers\": 2, \"hidden_size\": 64, \"intermediate_size\": 96,"          \
    " \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"vocab_size\": 100"

#define GPT2 "{\"model_type\": \"gpt2\", \"n_layer\": 2, \"n_head\": 4, \"n_positions\": 32, \"vocab_size\": 100"
#define NO_DROPOUT ", \"attn_pdrop\": 0, \"embd_pdrop\": 0"

/* Weights of the published checkpoints, to the last one. */
static void exact_parameter_counts(void **state) {
    static const struct {
        const char *name;
        uint64_t params;
    } cases[] = {{"gpt2-124m", 124439808}, {"qwen2.5-0.5b", 494032768}, {"qwen2.5-1.5b", 1543714304}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct sf_model m;
        load_file(cases[i].name, &m);
        assert_int_equal(sf_model_params(&m), cases[i].params);
    }
}

static void biases_by_their_keys(void **state) {
    struct sf_model m, plain;
    struct sf_err err;
    (void)state;
    assert_int_equal(load_text(LLAMA "}", &plain, &err), 0);
    assert_int_equal(load_text(LLAMA ", \"attention_bias\": true, \"mlp_bias\": true}", &m, &err), 0);
    /* q, k, v and out; gate, up and down */
    assert_int_equal(sf_model_params_layer(&m) - sf_model_params_layer(&plain), 64 + 2 * 32 + 64 + 2 * 96 + 64);
    assert_near(sf_model_flops(&m, 1000, 50), sf_model_flops(&plain, 1000, 50), 0);
    assert_false(sf_hash_equal(m.hash, plain.hash));
    assert_int_equal(load_text(GPT2 NO_DROPOUT ", \"resid_pdrop\": 0, \"n_embd\": 64}", &m, &err), 0);
    assert_true(m.layernorm && m.qkv_bias && m.out_bias && m.ffn_bias && m.tied && m.plain && m.gelu);
    assert_int_equal(m.positions, 32);
    assert_int_equal(m.ffn, 256);
    double matrices = 2 * (4 * 64 * 64 + 2 * 64 * 256) + 100 * 64;
    assert_near(sf_model_flops(&m, 1000, 50), 6000.0 * (matrices + 2 * 64 * 50), 1);
}

static void llama_70b_and_defaults(void **state) {
    struct sf_model m;
    struct sf_err err;
    (void)state;
    assert_int_equal(load_text("{\"model_type\": \"llama\", \"num_hidden_layers\": 80, \"hidden_size\": 8192,"
                               " \"intermediate_size\": 28672, \"num_attention_heads\": 64,"
                               " \"num_key_value_heads\": 8, \"vocab_size\": 128256}",
                               &m, &err),
                     0);
    assert_near((double)sf_model_params(&m) / 1e9, 70.55, 0.005);
    assert_int_equal(m.head_dim, 128);
    assert_false(m.tied);
    assert_false(m.gelu);
    assert_string_equal(m.name, "small");
    assert_near(m.rope_theta, 10000, 0);
}

/* However a path leads to a file, the model is the same one: its name is part of what plans are made for. */
static void names_do_not_depend_on_the_way(void **state) {
    static const char *const paths[][2] = {{"mine.json", "mine"},        {"./mine.json", "mine"},
                                           {"../a/mine.json", "mine"},   {"/models/mine/config.json", "mine"},
                                           {"mine/config.json", "mine"}, {"config.json", "config"}};
    struct sf_model m, first;
    struct sf_err err;
    (void)state;
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        assert_int_equal(load_from(paths[i][0],
                                   "{\"model_type\": \"llama\", \"num_hidden_layers\": 8, \"hidden_size\": 512,"
                                   " \"intermediate_size\": 1024, \"num_attention_heads\": 4, \"vocab_size\": 256}",
                                   &m, &err),
                         0);
        assert_string_equal(m.name, paths[i][1]);
        first = i == 0 ? m : first;
        assert_int_equal(sf_hash_equal(m.hash, first.hash), strcmp(m.name, first.name) == 0);
    }
}

static void counts_by_hand(void **state) {
    struct sf_model m;
    struct sf_err err;
    (void)state;
    assert_int_equal(load_text(LLAMA "}", &m, &err), 0);
    /* q, k, v and out: 64*64 + 2*64*32 + 64*64; norms 2*64; feed-forward 3*64*96 */
    assert_int_equal(sf_model_params_attention(&m), 12288 + 128);
    assert_int_equal(sf_model_params_expert(&m), 18432);
    assert_int_equal(sf_model_params_layer(&m), 12288 + 128 + 18432);
    assert_int_equal(sf_model_params(&m), 2 * (12288 + 128 + 18432) + 2 * 6400 + 64);
    double per_token = 6.0 * (2 * (12288 + 18432) + 6400) + 6.0 * 2 * 64 * 50;
    assert_near(sf_model_flops(&m, 1000, 50), 1000 * per_token, 1);
    assert_int_equal(load_text(MIXTRAL ", \"num_local_experts\": 4, \"num_experts_per_tok\": 2}", &m, &err), 0);
    assert_int_equal(sf_model_params_layer(&m), 12288 + 128 + 64 * 4 + 4 * 18432);
    assert_int_equal(sf_model_params_active(&m), 2 * (12288 + 128 + 64 * 4 + 2 * 18432) + 2 * 6400 + 64);
}

static void aliases_and_harmless_keys(void **state) {
    struct sf_model a, b;
    struct sf_err err;
    (void)state;
    assert_int_equal(load_text(MIXTRAL ", \"num_local_experts\": 4, \"num_experts_per_tok\": 2}", &a, &err), 0);
    assert_int_equal(load_text(MIXTRAL
                               ", \"num_experts\": 4, \"num_selected_experts\": 2, \"torch_dtype\": \"bfloat16\","
                               " \"architectures\": [\"X\"], \"bos_token_id\": 1, \"use_cache\": true,"
                               " \"sliding_window\": null, \"router_jitter_noise\": 0.0,"
                               " \"attention_bias\": false}",
                               &b, &err),
                     0);
    assert_true(sf_hash_equal(a.hash, b.hash));
    assert_int_equal(load_text(MIXTRAL ", \"num_local_experts\": 8, \"num_experts_per_tok\": 2}", &b, &err), 0);
    assert_false(sf_hash_equal(a.hash, b.hash));
}

static void refuses(void **state) {
    static const struct {
        const char *text, *says;
    } cases[] = {
        {LLAMA ", \"rope_scaling\": {\"type\": \"llama3\"}}", "rope_scaling"},
        {MIXTRAL ", \"num_experts\": 4, \"num_experts_per_tok\": 2, \"mlp_bias\": true}", "biases in experts"},
        {LLAMA ", \"mlp_bias\": 1}", "true or false"},
        {LLAMA ", \"sliding_window\": 4096}", "window"},
        {LLAMA ", \"hidden_act\": \"relu\"}", "silu"},
        {LLAMA ", \"hidden_act\": \"gelu\"}", "gelu_pytorch_tanh"},
        {LLAMA ", \"attention_dropout\": 0.1}", "dropout"},
        {LLAMA ", \"max_attn_value\": 30.0}", "max_attn_value"},
        {LLAMA ", \"attn_output_multiplier\": 0.5}", "head_dim"},
        {LLAMA ", \"head_dim\": 15}", "even"},
        {LLAMA ", \"num_local_experts\": 8}", "experts"},
        {LLAMA ", \"num_hiden_layers\": 8}", "num_hidden_layers"},
        {MIXTRAL "}", "num_experts"},
        {MIXTRAL ", \"num_experts\": 4, \"num_experts_per_tok\": 5}", "4"},
        {MIXTRAL ", \"num_experts\": 4, \"num_local_experts\": 4, \"num_experts_per_tok\": 2}", "same"},
        {"{\"model_type\": \"mamba\"}", "llama"},
        {"{\"model_type\": \"llama\"}", "num_hidden_layers"},
        {"[1, 2]", "mapping"},
        {"{\"model_type\": \"llama\", \"num_hidden_layers\": 4096, \"hidden_size\": 1048576, \"intermediate_size\": "
         "4194304,"
         " \"num_attention_heads\": 8192, \"vocab_size\": 100}",
         "1e15"},
        {GPT2 ", \"n_embd\": 64}", "attn_pdrop: 0.1 asks for dropout"},
        {GPT2 NO_DROPOUT ", \"resid_pdrop\": 0.1, \"n_embd\": 64}", "resid_pdrop: 0.1 asks for dropout"},
        {GPT2 NO_DROPOUT ", \"resid_pdrop\": 0}", "n_embd"},
        {GPT2 NO_DROPOUT ", \"resid_pdrop\": 0, \"n_embd\": 66}", "n_head must divide n_embd, found 4 and 66"},
        {GPT2 NO_DROPOUT ", \"resid_pdrop\": 0, \"n_embd\": 64, \"hidden_size\": 64}", "hidden_size"},
        {GPT2 NO_DROPOUT ", \"resid_pdrop\": 0, \"n_embd\": 64, \"activation_function\": \"gelu\"}", "gelu_new"},
        {GPT2 NO_DROPOUT ", \"resid_pdrop\": 0, \"n_embd\": 64, \"scale_attn_weights\": false}", "without a scale"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct sf_model m;
        struct sf_err err;
        int rc = load_text(cases[i].text, &m, &err);
        if (rc != SF_E_INPUT || strstr(err.msg, cases[i].says) == NULL || err.line == 0) {
            fail_msg("case %zu: code %d, line %u, \"%s\" should say \"%s\"", i, rc, err.line, err.msg, cases[i].says);
        }
    }
}

static void survives_out_of_memory(void **state) {
    (void)state;
    for (size_t n = 1; n < 200; n++) {
        struct sf_model m;
        struct sf_err err;
        char text[512];
        memcpy(text, LLAMA "}", sizeof LLAMA "}");
        sf_alloc_fail_after(n);
        int rc = load_text(text, &m, &err);
        sf_alloc_fail_after(0);
        if (rc == 0) {
            assert_true(n > 1);
            return;
        }
    }
    fail_msg("loading never succeeded");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_parameter_counts),     cmocka_unit_test(exact_parameter_counts),
        cmocka_unit_test(biases_by_their_keys),           cmocka_unit_test(llama_70b_and_defaults),
        cmocka_unit_test(names_do_not_depend_on_the_way), cmocka_unit_test(counts_by_hand),
        cmocka_unit_test(aliases_and_harmless_keys),      cmocka_unit_test(refuses),
        cmocka_unit_test(survives_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
