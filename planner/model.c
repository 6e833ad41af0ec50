/* Reading a Hugging Face config.json: every key is used, harmless by name, accepted at its neutral value, or refused.
 */
#include "planner/model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/doc.h"
#include "planner/model_internal.h"

static const char *const used_keys[] = {
    "model_type",        "_name_or_path",          "num_hidden_layers",   "hidden_size",
    "vocab_size",        "num_attention_heads",    "num_key_value_heads", "head_dim",
    "intermediate_size", "num_local_experts",      "num_experts",         "num_experts_per_tok",
    "hidden_act",        "num_selected_experts",   "tie_word_embeddings", "rope_theta",
    "rms_norm_eps",      "initializer_range",      "sliding_window",      "use_sliding_window",
    "attention_bias",    "attn_output_multiplier", "gated_mlp",           "mlp_bias",
};

/* Keys that change neither a weight nor an operation of a training step. */
static const char *const harmless_keys[] = {
    "architectures",
    "auto_map",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "unk_token_id",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "use_cache",
    "max_position_embeddings", /* a promise about the checkpoint; the job sets the sequence length */
    "max_window_layers",       /* only read together with use_sliding_window */
    "router_aux_loss_coef",    /* only read together with output_router_logits */
};

enum neutral { NEUTRAL_FALSE, NEUTRAL_ZERO, NEUTRAL_ONE, NEUTRAL_NULL };

static const struct {
    const char *key;
    enum neutral neutral;
    const char *feature;
} neutral_keys[] = {
    {"output_router_logits", NEUTRAL_FALSE, "an auxiliary router loss"},
    {"rope_scaling", NEUTRAL_NULL, "scaled rotary frequencies"},
    {"max_attn_value", NEUTRAL_NULL, "a cap on attention scores"},
    {"quantization_config", NEUTRAL_NULL, "quantised weights"},
    {"attention_dropout", NEUTRAL_ZERO, "dropout"},
    {"hidden_dropout", NEUTRAL_ZERO, "dropout"},
    {"router_jitter_noise", NEUTRAL_ZERO, "noise in the router"},
    {"pretraining_tp", NEUTRAL_ONE, "sliced linear layers"},
    {"partial_rotary_factor", NEUTRAL_ONE, "partial rotary embeddings"},
    {"embedding_multiplier_scale", NEUTRAL_ONE, "scaled embeddings"},
    {"output_multiplier_scale", NEUTRAL_ONE, "scaled logits"},
};

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

static const char *const type_names[] = {"llama",       "mistral",     "qwen2",   "mixtral", "grok-1", "qwen2_moe",
                                         "deepseek_v2", "deepseek_v3", "kimi_k2", "gpt2",    NULL};
enum model_type {
    TYPE_LLAMA,
    TYPE_MISTRAL,
    TYPE_QWEN2,
    TYPE_MIXTRAL,
    TYPE_GROK,
    TYPE_QWEN2_MOE,
    TYPE_DEEPSEEK_V2,
    TYPE_DEEPSEEK_V3,
    TYPE_KIMI_K2,
    TYPE_GPT2
};

static int refuse_unknown(const struct sf_node *map, struct sf_err *err) {
    const char *keys[LENGTH(used_keys) + LENGTH(harmless_keys) + LENGTH(neutral_keys) + SFI_MODEL_KEYS + 1];
    size_t n = sfi_model_moe_keys(keys);
    for (size_t i = 0; i < LENGTH(used_keys); i++) {
        keys[n++] = used_keys[i];
    }
    for (size_t i = 0; i < LENGTH(neutral_keys); i++) {
        keys[n++] = neutral_keys[i].key;
    }
    for (size_t i = 0; i < LENGTH(harmless_keys); i++) {
        keys[n++] = harmless_keys[i];
    }
    keys[n] = NULL;
    return sf_map_only(map, keys, err);
}

static int need_false(const struct sf_node *node, const char *key, const char *feature, struct sf_err *err) {
    bool on;
    SF_TRY(sf_node_bool(node, &on, err));
    if (on) {
        return sf_node_fail(node, err, "%s: true asks for %s, which cannot be trained here; supported: false", key,
                            feature);
    }
    return 0;
}

static int need_value(const struct sf_node *node, const char *key, double neutral, const char *feature,
                      struct sf_err *err) {
    double value;
    SF_TRY(sf_node_f64(node, -1e300, 1e300, &value, err));
    if (fabs(value - neutral) > 1e-9 * fmax(1, fabs(neutral))) {
        return sf_node_fail(node, err, "%s: %g asks for %s, which cannot be trained here; supported: %.9g", key, value,
                            feature, neutral);
    }
    return 0;
}

static int need_neutral(const struct sf_node *map, struct sf_err *err) {
    for (size_t i = 0; i < LENGTH(neutral_keys); i++) {
        const char *key = neutral_keys[i].key, *feature = neutral_keys[i].feature;
        const struct sf_node *node = sf_map_find(map, key);
        if (node == NULL || sf_node_is_null(node)) {
            continue;
        }
        switch (neutral_keys[i].neutral) {
        case NEUTRAL_FALSE:
            SF_TRY(need_false(node, key, feature, err));
            break;
        case NEUTRAL_ZERO:
            SF_TRY(need_value(node, key, 0, feature, err));
            break;
        case NEUTRAL_ONE:
            SF_TRY(need_value(node, key, 1, feature, err));
            break;
        case NEUTRAL_NULL:
            return sf_node_fail(node, err, "%s asks for %s, which cannot be trained here; supported: null", key,
                                feature);
        }
    }
    return 0;
}

/* Qwen2 files carry a window size beside use_sliding_window: false; the window is then never used. */
static int refuse_window(const struct sf_node *map, struct sf_err *err) {
    const struct sf_node *use = sf_map_find(map, "use_sliding_window");
    const struct sf_node *window = sf_map_find(map, "sliding_window");
    if (use != NULL) {
        return need_false(use, "use_sliding_window", "attention inside a sliding window", err);
    }
    if (window != NULL && !sf_node_is_null(window)) {
        return sf_node_fail(window, err,
                            "sliding_window asks for attention inside a window, which cannot be trained here; "
                            "supported: null");
    }
    return 0;
}

/* Qwen2 has biases on q, k and v, which its config.json does not mention. In files that name them, those of attention
 * are on its output too. */
static int read_biases(const struct sf_node *map, enum model_type type, struct sf_model *m, struct sf_err *err) {
    const struct sf_node *attention = sf_map_find(map, "attention_bias"), *ffn = sf_map_find(map, "mlp_bias");
    bool qwen2 = type == TYPE_QWEN2 || type == TYPE_QWEN2_MOE;
    m->qkv_bias = qwen2;
    if (attention != NULL && !sf_node_is_null(attention)) {
        SF_TRY(sf_node_bool(attention, &m->qkv_bias, err));
        m->out_bias = m->qkv_bias && !qwen2;
    }
    if (ffn != NULL && !sf_node_is_null(ffn)) {
        SF_TRY(sf_node_bool(ffn, &m->ffn_bias, err));
    }
    if (m->ffn_bias && m->experts > 0) {
        return sf_node_fail(ffn, err,
                            "mlp_bias: true asks for biases in experts, which cannot be trained here; "
                            "supported: false");
    }
    if ((m->qkv_bias || m->out_bias) && m->kv_rank > 0) {
        return sf_node_fail(attention != NULL ? attention : map, err,
                            "attention_bias: true asks for biases in latent attention, which cannot be trained here; "
                            "supported: false");
    }
    return 0;
}

static int read_u32(const struct sf_node *map, const char *key, uint32_t hi, uint32_t *out, struct sf_err *err) {
    const struct sf_node *node;
    int64_t value;
    SF_TRY(sf_map_need(map, key, &node, err));
    SF_TRY(sf_node_i64(node, 1, hi, &value, err));
    *out = (uint32_t)value;
    return 0;
}

static int read_f64_or(const struct sf_node *map, const char *key, double lo, double hi, double *value,
                       struct sf_err *err) {
    const struct sf_node *node = sf_map_find(map, key);
    return node == NULL ? 0 : sf_node_f64(node, lo, hi, value, err);
}

static int read_heads(const struct sf_node *map, enum model_type type, struct sf_model *m, struct sf_err *err) {
    SF_TRY(read_u32(map, "num_attention_heads", 1u << 16, &m->heads, err));
    m->kv_heads = m->heads;
    if (type != TYPE_LLAMA || sf_map_find(map, "num_key_value_heads") != NULL) {
        SF_TRY(read_u32(map, "num_key_value_heads", m->heads, &m->kv_heads, err));
    }
    if (m->heads % m->kv_heads != 0) {
        return sf_node_fail(sf_map_find(map, "num_key_value_heads"), err,
                            "num_key_value_heads must divide num_attention_heads, found %u and %u", m->kv_heads,
                            m->heads);
    }
    const struct sf_node *dim = sf_map_find(map, "head_dim");
    if (dim != NULL && !sf_node_is_null(dim)) {
        SF_TRY(read_u32(map, "head_dim", 4096, &m->head_dim, err));
    } else if (m->hidden % m->heads != 0) {
        return sf_node_fail(map, err, "head_dim is missing and hidden_size %u is no multiple of %u heads", m->hidden,
                            m->heads);
    } else {
        m->head_dim = m->hidden / m->heads;
    }
    if (m->head_dim % 2 != 0) {
        return sf_node_fail(dim != NULL ? dim : map, err, "rotary embeddings need an even head_dim, found %u",
                            m->head_dim);
    }
    return 0;
}

/* A value that different ports spell differently; exactly one spelling may be present. */
static int find_alias(const struct sf_node *map, const char *a, const char *b, const char **key, struct sf_err *err) {
    const struct sf_node *second = sf_map_find(map, b);
    if (sf_map_find(map, a) == NULL) {
        *key = second == NULL ? NULL : b;
        return 0;
    }
    if (second != NULL) {
        return sf_node_fail(second, err, "%s and %s mean the same; keep one of them", a, b);
    }
    *key = a;
    return 0;
}

static int read_experts(const struct sf_node *map, enum model_type type, struct sf_model *m, struct sf_err *err) {
    const char *experts = NULL, *topk = NULL;
    SF_TRY(find_alias(map, "num_local_experts", "num_experts", &experts, err));
    SF_TRY(find_alias(map, "num_experts_per_tok", "num_selected_experts", &topk, err));
    if (type >= TYPE_DEEPSEEK_V2) {
        experts = "n_routed_experts";
    }
    if (type < TYPE_MIXTRAL) {
        const char *key = experts != NULL ? experts : topk;
        return key == NULL ? 0
                           : sf_node_fail(sf_map_find(map, key), err,
                                          "%s is for mixtures of experts such as mixtral; a %s model has no experts",
                                          key, m->model_type);
    }
    SF_TRY(read_u32(map, experts != NULL ? experts : "num_experts", 1u << 14, &m->experts, err));
    return read_u32(map, topk != NULL ? topk : "num_experts_per_tok", m->experts, &m->topk, err);
}

/* "gelu" is the exact one; Grok-1 was trained with the tanh form, which is its default here. */
static int read_activation(const struct sf_node *map, enum model_type type, struct sf_model *m, struct sf_err *err) {
    const struct sf_node *node = sf_map_find(map, "hidden_act");
    const char *text;
    m->gelu = type == TYPE_GROK;
    if (node == NULL) {
        return 0;
    }
    SF_TRY(sf_node_str(node, &text, err));
    m->gelu = strcmp(text, "gelu_pytorch_tanh") == 0 || strcmp(text, "gelu_new") == 0;
    if (!m->gelu && strcmp(text, "silu") != 0 && strcmp(text, "swish") != 0) {
        return sf_node_fail(node, err, "hidden_act \"%.40s\" is not supported; supported: silu, gelu_pytorch_tanh",
                            text);
    }
    return 0;
}

/* Not a Hugging Face key: the GPT families that need it state it by their model_type. */
static int read_gate(const struct sf_node *map, struct sf_model *m, struct sf_err *err) {
    const struct sf_node *node = sf_map_find(map, "gated_mlp");
    bool gated = true;
    if (node != NULL) {
        SF_TRY(sf_node_bool(node, &gated, err));
    }
    m->plain = !gated;
    return m->plain && m->experts > 0 ? sf_node_fail(node, err, "experts have a gate; supported: gated_mlp: true") : 0;
}

static int read_dims(const struct sf_node *map, enum model_type type, struct sf_model *m, struct sf_err *err) {
    uint32_t vocab;
    SF_TRY(read_u32(map, "num_hidden_layers", 4096, &m->layers, err));
    SF_TRY(read_u32(map, "hidden_size", 1u << 20, &m->hidden, err));
    SF_TRY(read_u32(map, "intermediate_size", 1u << 22, &m->ffn, err));
    SF_TRY(read_u32(map, "vocab_size", 1u << 24, &vocab, err));
    m->vocab = vocab;
    SF_TRY(sfi_model_has_latent(map) ? sfi_model_read_latent(map, m, err) : read_heads(map, type, m, err));
    SF_TRY(read_experts(map, type, m, err));
    SF_TRY(sfi_model_read_layers(map, m, err));
    SF_TRY(read_activation(map, type, m, err));
    SF_TRY(read_gate(map, m, err));
    m->tied = type == TYPE_GROK;
    const struct sf_node *tied = sf_map_find(map, "tie_word_embeddings");
    return tied == NULL ? 0 : sf_node_bool(tied, &m->tied, err);
}

static int read_numerics(const struct sf_node *map, struct sf_model *m, struct sf_err *err) {
    m->rope_theta = 10000;
    m->norm_eps = m->experts != 0 ? 1e-5 : 1e-6;
    m->init_std = 0.02;
    SF_TRY(read_f64_or(map, "rope_theta", 1, 1e12, &m->rope_theta, err));
    SF_TRY(read_f64_or(map, "rms_norm_eps", 1e-12, 1, &m->norm_eps, err));
    SF_TRY(read_f64_or(map, "initializer_range", 1e-6, 10, &m->init_std, err));
    const struct sf_node *scale = sf_map_find(map, "attn_output_multiplier");
    if (scale == NULL) {
        return 0;
    }
    return need_value(scale, "attn_output_multiplier", 1 / sqrt(m->head_dim), "a scale other than 1/sqrt(head_dim)",
                      err);
}

/* The file's own, but the folder's for a "config.json" in one: the same from wherever the path leads to it. */
static void name_from_path(const char *path, char *out, size_t size) {
    const char *slash = strrchr(path, '/'), *file = slash == NULL ? path : slash + 1, *dot = strrchr(file, '.');
    const char *start = file, *end = dot == NULL || dot == file ? file + strlen(file) : dot;
    if (slash != NULL && strcmp(file, "config.json") == 0) {
        end = slash;
        for (start = slash; start > path && start[-1] != '/'; start--) {
        }
    }
    snprintf(out, size, "%.*s", (int)(end - start), start);
    if (out[0] == '\0' || out[0] == '.') {
        snprintf(out, size, "model");
    }
}

static int read_name(const struct sf_node *map, const char *path, struct sf_model *m, struct sf_err *err) {
    const struct sf_node *node = sf_map_find(map, "_name_or_path");
    const char *text = "";
    if (node != NULL) {
        SF_TRY(sf_node_str(node, &text, err));
    }
    if (text[0] == '\0') {
        name_from_path(path, m->name, sizeof m->name);
        return 0;
    }
    if (strlen(text) >= sizeof m->name) {
        return sf_node_fail(node, err, "_name_or_path may have %zu characters, found %zu", sizeof m->name - 1,
                            strlen(text));
    }
    for (const char *p = text; *p != '\0'; p++) {
        if (*p < ' ' || *p > '~') {
            return sf_node_fail(node, err, "_name_or_path must be printable ASCII");
        }
    }
    snprintf(m->name, sizeof m->name, "%s", text);
    return 0;
}

/* Counts are exact 64-bit integers everywhere else; this is the one place that keeps them from overflowing. */
static int refuse_giant(const struct sf_node *map, const struct sf_model *m, struct sf_err *err) {
    double widths = (double)m->ffn * (m->experts == 0 ? 1 : m->experts) + m->dense_ffn + m->shared_ffn;
    double expert = (m->plain ? 2.0 : 3.0) * m->hidden * widths;
    double ranks = (double)m->q_rank + m->kv_rank + m->rope_dim;
    double attention = (m->hidden + ranks) * ((double)m->head_dim * (2.0 * m->heads + 2.0 * m->kv_heads) + ranks);
    double total = ((double)m->layers + m->mtp) * (expert + attention) + 2.0 * m->hidden * (double)m->vocab;
    if (total > 1e15) {
        return sf_node_fail(map, err, "the model has %.3g parameters; at most 1e15 are supported", total);
    }
    return 0;
}

static void hash_model(struct sf_model *m) {
    char text[768];
    int n = snprintf(text, sizeof text,
                     "model 1 %s|%s layers %u hidden %u heads %u kv %u dim %u ffn %u experts %u topk %u vocab %llu "
                     "tied %d gelu %d theta %.17g eps %.17g std %.17g%s",
                     m->name, m->model_type, m->layers, m->hidden, m->heads, m->kv_heads, m->head_dim, m->ffn,
                     m->experts, m->topk, (unsigned long long)m->vocab, m->tied, m->gelu, m->rope_theta, m->norm_eps,
                     m->init_std, m->plain ? " plain" : "");
    n += sfi_model_print_layers(m, text + n, sizeof text - (size_t)n);
    n += sfi_model_print_vectors(m, text + n, sizeof text - (size_t)n);
    m->hash = sf_hash_bytes(text, (size_t)n);
}

/* Files that name things as Llama's does. */
static int read_named(const struct sf_node *map, enum model_type type, struct sf_model *m, struct sf_err *err) {
    SF_TRY(refuse_unknown(map, err));
    SF_TRY(need_neutral(map, err));
    SF_TRY(refuse_window(map, err));
    SF_TRY(read_dims(map, type, m, err));
    SF_TRY(read_biases(map, type, m, err));
    return read_numerics(map, m, err);
}

static int read_model(const struct sf_doc *doc, const char *path, struct sf_model *m, struct sf_err *err) {
    const struct sf_node *map = sf_doc_root(doc), *node;
    int type;
    if (!sf_node_is_map(map)) {
        return sf_node_fail(map, err, "expected the mapping of a Hugging Face config.json");
    }
    SF_TRY(sf_map_need(map, "model_type", &node, err));
    SF_TRY(sf_node_word(node, type_names, &type, err));
    snprintf(m->model_type, sizeof m->model_type, "%s", type_names[type]);
    SF_TRY(read_name(map, path, m, err));
    SF_TRY(type == TYPE_GPT2 ? sfi_model_read_gpt2(map, m, err) : read_named(map, (enum model_type)type, m, err));
    SF_TRY(refuse_giant(map, m, err));
    hash_model(m);
    return 0;
}

int sf_model_load(const struct sf_io *io, const char *path, struct sf_model *out, struct sf_err *err) {
    struct sf_doc *doc;
    memset(out, 0, sizeof *out);
    SF_TRY(sf_doc_load(io, path, &doc, err));
    int rc = read_model(doc, path, out, err);
    sf_doc_free(doc);
    return rc;
}
