/* GPT-2's config.json, which names everything its own way: layer norms, biases everywhere, learned positions, no gate,
 * tanh-GELU and one table for embedding and head. */
#include <stdio.h>
#include <string.h>

#include "planner/model_internal.h"

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

static const char *const keys[] = {
    "model_type",
    "_name_or_path",
    "n_layer",
    "n_embd",
    "n_head",
    "n_inner",
    "n_positions",
    "vocab_size",
    "activation_function",
    "layer_norm_epsilon",
    "initializer_range",
    "tie_word_embeddings",
    "attn_pdrop",
    "embd_pdrop",
    "resid_pdrop",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "add_cross_attention",
    /* Change neither a weight nor an operation of a training step. */
    "architectures",
    "bos_token_id",
    "eos_token_id",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "use_cache",
    "n_ctx", /* as n_positions, from before it */
    "reorder_and_upcast_attn",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "task_specific_params",
    NULL,
};

/* Absent and null keep the value; `need` refuses them. */
static int read_count(const struct sf_node *map, const char *key, bool need, uint32_t hi, uint32_t *value,
                      struct sf_err *err) {
    const struct sf_node *node = sf_map_find(map, key);
    int64_t found = *value;
    if (need) {
        SF_TRY(sf_map_need(map, key, &node, err));
    }
    if (node != NULL && (need || !sf_node_is_null(node))) {
        SF_TRY(sf_node_i64(node, 1, hi, &found, err));
    }
    *value = (uint32_t)found;
    return 0;
}

static int read_number(const struct sf_node *map, const char *key, double lo, double hi, double *value,
                       struct sf_err *err) {
    const struct sf_node *node = sf_map_find(map, key);
    return node == NULL ? 0 : sf_node_f64(node, lo, hi, value, err);
}

static int refuse_dropout(const struct sf_node *map, struct sf_err *err) {
    static const char *const names[] = {"attn_pdrop", "embd_pdrop", "resid_pdrop"};
    for (size_t i = 0; i < LENGTH(names); i++) {
        double value = 0.1; /* what its absence means */
        const struct sf_node *node = sf_map_find(map, names[i]);
        SF_TRY(read_number(map, names[i], 0, 1, &value, err));
        if (value > 0) {
            return sf_node_fail(node != NULL ? node : map, err,
                                "%s: %g asks for dropout, which cannot be trained here; say 0", names[i], value);
        }
    }
    return 0;
}

static int need_flag(const struct sf_node *map, const char *key, bool neutral, const char *feature,
                     struct sf_err *err) {
    const struct sf_node *node = sf_map_find(map, key);
    bool on = neutral;
    SF_TRY(node == NULL ? 0 : sf_node_bool(node, &on, err));
    return on == neutral ? 0
                         : sf_node_fail(node, err, "%s asks for %s, which cannot be trained here; supported: %s", key,
                                        feature, neutral ? "true" : "false");
}

static int read_activation(const struct sf_node *map, struct sf_err *err) {
    const struct sf_node *node = sf_map_find(map, "activation_function");
    const char *text = "gelu_new";
    SF_TRY(node == NULL ? 0 : sf_node_str(node, &text, err));
    if (strcmp(text, "gelu_new") != 0 && strcmp(text, "gelu_pytorch_tanh") != 0) {
        return sf_node_fail(node, err, "activation_function \"%.40s\" is not supported; supported: gelu_new", text);
    }
    return 0;
}

static int read_dims(const struct sf_node *map, struct sf_model *m, struct sf_err *err) {
    uint32_t vocab = 0;
    SF_TRY(read_count(map, "n_layer", true, 4096, &m->layers, err));
    SF_TRY(read_count(map, "n_embd", true, 1u << 20, &m->hidden, err));
    SF_TRY(read_count(map, "n_head", true, 1u << 16, &m->heads, err));
    SF_TRY(read_count(map, "vocab_size", true, 1u << 24, &vocab, err));
    SF_TRY(read_count(map, "n_positions", true, 1u << 22, &m->positions, err));
    m->ffn = 4 * m->hidden;
    SF_TRY(read_count(map, "n_inner", false, 1u << 22, &m->ffn, err));
    if (m->hidden % m->heads != 0) {
        return sf_node_fail(sf_map_find(map, "n_head"), err, "n_head must divide n_embd, found %u and %u", m->heads,
                            m->hidden);
    }
    m->head_dim = m->hidden / m->heads;
    m->kv_heads = m->heads;
    m->vocab = vocab;
    return 0;
}

int sfi_model_read_gpt2(const struct sf_node *map, struct sf_model *m, struct sf_err *err) {
    const struct sf_node *tied = sf_map_find(map, "tie_word_embeddings");
    SF_TRY(sf_map_only(map, keys, err));
    SF_TRY(refuse_dropout(map, err));
    SF_TRY(need_flag(map, "scale_attn_weights", true, "attention scores without a scale", err));
    SF_TRY(need_flag(map, "scale_attn_by_inverse_layer_idx", false, "a scale that changes from layer to layer", err));
    SF_TRY(need_flag(map, "add_cross_attention", false, "attention to another sequence", err));
    SF_TRY(read_activation(map, err));
    SF_TRY(read_dims(map, m, err));
    m->plain = m->gelu = m->layernorm = m->qkv_bias = m->out_bias = m->ffn_bias = m->tied = true;
    SF_TRY(tied == NULL ? 0 : sf_node_bool(tied, &m->tied, err));
    m->norm_eps = 1e-5;
    m->init_std = 0.02;
    SF_TRY(read_number(map, "layer_norm_epsilon", 1e-12, 1, &m->norm_eps, err));
    return read_number(map, "initializer_range", 1e-6, 10, &m->init_std, err);
}

int sfi_model_print_vectors(const struct sf_model *m, char *out, size_t size) {
    if (!m->layernorm && !m->qkv_bias && !m->out_bias && !m->ffn_bias && m->positions == 0) {
        return 0;
    }
    return snprintf(out, size, " layernorm %d biases %d %d %d positions %u", m->layernorm, m->qkv_bias, m->out_bias,
                    m->ffn_bias, m->positions);
}
