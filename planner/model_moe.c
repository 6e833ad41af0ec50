/* Keys of mixtures whose layers differ, of shared experts, latent attention and multi-token prediction, as DeepSeek,
 * Kimi and Qwen name them. How a router scores its experts changes neither a size nor a matrix product, so those keys
 * are harmless to a program that is priced; no executor routes yet. */
#include <stdio.h>
#include <string.h>

#include "planner/model_internal.h"

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

static const char *const used_keys[] = {
    "n_routed_experts",
    "moe_intermediate_size",
    "n_shared_experts",
    "shared_expert_intermediate_size",
    "first_k_dense_replace",
    "moe_layer_freq",
    "decoder_sparse_step",
    "interleave_moe_layer_step",
    "intermediate_size_mlp",
    "q_lora_rank",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
    "num_nextn_predict_layers",
    "mtp_layers",
    "mtp_num_layers",
    "mtp_loss_scaling_factor",
};

static const char *const router_keys[] = {
    "n_group",        "topk_group",      "topk_method",           "scoring_func",
    "norm_topk_prob", "seq_aux",         "routed_scaling_factor", "ep_size",
    "aux_loss_alpha", "mlp_only_layers",
};

size_t sfi_model_moe_keys(const char **out) {
    size_t n = 0;
    for (size_t i = 0; i < LENGTH(used_keys); i++) {
        out[n++] = used_keys[i];
    }
    for (size_t i = 0; i < LENGTH(router_keys); i++) {
        out[n++] = router_keys[i];
    }
    return n;
}

/* Absent and null keep the value. */
static int read_or(const struct sf_node *map, const char *key, uint32_t lo, uint32_t hi, uint32_t *value,
                   struct sf_err *err) {
    const struct sf_node *node = sf_map_find(map, key);
    int64_t found = *value;
    if (node != NULL && !sf_node_is_null(node)) {
        SF_TRY(sf_node_i64(node, lo, hi, &found, err));
    }
    *value = (uint32_t)found;
    return 0;
}

static int need(const struct sf_node *map, const char *key, uint32_t hi, uint32_t *value, struct sf_err *err) {
    const struct sf_node *node;
    SF_TRY(sf_map_need(map, key, &node, err));
    return read_or(map, key, 1, hi, value, err);
}

/* ---- latent attention -------------------------------------------------------------------------------------------- */

bool sfi_model_has_latent(const struct sf_node *map) {
    const struct sf_node *rank = sf_map_find(map, "kv_lora_rank");
    return rank != NULL && !sf_node_is_null(rank);
}

/* Such configurations give as many key-value heads as heads: after the projection up every head has its own keys. */
int sfi_model_read_latent(const struct sf_node *map, struct sf_model *m, struct sf_err *err) {
    uint32_t nope = 0, kv_heads;
    SF_TRY(need(map, "num_attention_heads", 1u << 16, &m->heads, err));
    SF_TRY(need(map, "kv_lora_rank", 1u << 20, &m->kv_rank, err));
    SF_TRY(read_or(map, "q_lora_rank", 1, 1u << 20, &m->q_rank, err));
    SF_TRY(need(map, "qk_nope_head_dim", 4096, &nope, err));
    SF_TRY(need(map, "qk_rope_head_dim", 4096, &m->rope_dim, err));
    SF_TRY(need(map, "v_head_dim", 4096, &m->v_dim, err));
    kv_heads = m->heads;
    SF_TRY(read_or(map, "num_key_value_heads", 1, 1u << 16, &kv_heads, err));
    if (kv_heads != m->heads) {
        return sf_node_fail(
            sf_map_find(map, "num_key_value_heads"), err,
            "latent attention gives every head its own keys: num_key_value_heads is num_attention_heads "
            "%u, found %u",
            m->heads, kv_heads);
    }
    if (m->rope_dim % 2 != 0) {
        return sf_node_fail(sf_map_find(map, "qk_rope_head_dim"), err,
                            "rotary embeddings need an even qk_rope_head_dim, found %u", m->rope_dim);
    }
    m->kv_heads = m->heads;
    m->head_dim = nope + m->rope_dim;
    return 0;
}

/* ---- layers ------------------------------------------------------------------------------------------------------ */

static int refuse_without_experts(const struct sf_node *map, const struct sf_model *m, struct sf_err *err) {
    static const char *const keys[] = {
        "moe_intermediate_size", "n_shared_experts",    "shared_expert_intermediate_size",
        "first_k_dense_replace", "decoder_sparse_step", "interleave_moe_layer_step",
        "intermediate_size_mlp"};
    for (size_t i = 0; i < LENGTH(keys); i++) {
        const struct sf_node *node = sf_map_find(map, keys[i]);
        if (node != NULL && !sf_node_is_null(node)) {
            return sf_node_fail(node, err, "%s is for mixtures of experts; a %s model has none", keys[i],
                                m->model_type);
        }
    }
    return 0;
}

/* Three names for "every so many-th layer has experts"; DeepSeek's own counts from the first layer, so only 1 agrees.
 */
static int read_step(const struct sf_node *map, struct sf_model *m, struct sf_err *err) {
    uint32_t frequency = 1, sparse = 1, interleave = 1;
    const struct sf_node *only = sf_map_find(map, "mlp_only_layers");
    SF_TRY(read_or(map, "moe_layer_freq", 1, 4096, &frequency, err));
    SF_TRY(read_or(map, "decoder_sparse_step", 1, 4096, &sparse, err));
    SF_TRY(read_or(map, "interleave_moe_layer_step", 1, 4096, &interleave, err));
    if (frequency != 1) {
        return sf_node_fail(sf_map_find(map, "moe_layer_freq"), err, "supported is moe_layer_freq 1, found %u",
                            frequency);
    }
    if (sparse > 1 && interleave > 1) {
        return sf_node_fail(sf_map_find(map, "interleave_moe_layer_step"), err,
                            "decoder_sparse_step and interleave_moe_layer_step mean the same; keep one of them");
    }
    if (only != NULL && !sf_node_is_null(only) && !(sf_node_is_seq(only) && sf_seq_size(only) == 0)) {
        return sf_node_fail(only, err,
                            "supported is an empty mlp_only_layers; first_k_dense_replace says how many "
                            "layers have no experts");
    }
    m->moe_step = sparse > interleave ? sparse : interleave;
    m->moe_step = m->moe_step == 1 ? 0 : m->moe_step;
    return 0;
}

/* DeepSeek: n_shared_experts as wide as the others each. Qwen: one width, with a gate. */
static int read_shared(const struct sf_node *map, struct sf_model *m, struct sf_err *err) {
    uint32_t count = 0;
    uint64_t width;
    const struct sf_node *node = sf_map_find(map, "n_shared_experts");
    SF_TRY(read_or(map, "n_shared_experts", 0, 1024, &count, err));
    SF_TRY(read_or(map, "shared_expert_intermediate_size", 0, 1u << 22, &m->shared_ffn, err));
    m->shared_gate = m->shared_ffn > 0;
    if (m->shared_gate && count > 0) {
        return sf_node_fail(node, err, "n_shared_experts and shared_expert_intermediate_size mean the same; keep one");
    }
    width = (uint64_t)count * m->ffn;
    if (width > 1u << 22) {
        return sf_node_fail(node, err, "%u shared experts of width %u: at most %u columns are supported", count, m->ffn,
                            1u << 22);
    }
    m->shared_ffn = count > 0 ? (uint32_t)width : m->shared_ffn;
    return 0;
}

/* DeepSeek's name, Megatron's, and that of scenarios; Megatron's weight, and its default. */
static int read_mtp(const struct sf_node *map, struct sf_model *m, struct sf_err *err) {
    static const char *const names[] = {"num_nextn_predict_layers", "mtp_num_layers", "mtp_layers"};
    const struct sf_node *weight = sf_map_find(map, "mtp_loss_scaling_factor"), *first = NULL;
    for (size_t i = 0; i < LENGTH(names); i++) {
        const struct sf_node *node = sf_map_find(map, names[i]);
        if (node != NULL && first != NULL) {
            return sf_node_fail(node, err, "%s is one of three names for the same; keep one of them", names[i]);
        }
        first = node != NULL ? node : first;
        SF_TRY(read_or(map, names[i], 0, SF_MODEL_MOST_MTP, &m->mtp, err));
    }
    m->mtp_weight = m->mtp > 0 ? 0.1 : 0;
    if (weight != NULL && m->mtp == 0) {
        return sf_node_fail(weight, err,
                            "mtp_loss_scaling_factor weighs layers that predict further tokens; the model has none: "
                            "set num_nextn_predict_layers");
    }
    return weight == NULL ? 0 : sf_node_f64(weight, 0, 1e6, &m->mtp_weight, err);
}

int sfi_model_read_layers(const struct sf_node *map, struct sf_model *m, struct sf_err *err) {
    SF_TRY(read_mtp(map, m, err));
    if (m->experts == 0) {
        return refuse_without_experts(map, m, err);
    }
    uint32_t dense = m->ffn;
    SF_TRY(read_or(map, "intermediate_size_mlp", 1, 1u << 22, &dense, err));
    SF_TRY(read_or(map, "moe_intermediate_size", 1, 1u << 22, &m->ffn, err));
    SF_TRY(read_or(map, "first_k_dense_replace", 0, m->layers - 1, &m->dense_first, err));
    SF_TRY(read_step(map, m, err));
    SF_TRY(read_shared(map, m, err));
    m->dense_ffn = sf_model_routed(m, m->layers) < m->layers ? dense : 0;
    return 0;
}

int sfi_model_print_layers(const struct sf_model *m, char *out, size_t size) {
    int n = 0;
    out[0] = '\0';
    if (m->dense_ffn > 0 || m->shared_ffn > 0) {
        n = snprintf(out, size, " first %u step %u dense %u shared %u %d", m->dense_first, m->moe_step, m->dense_ffn,
                     m->shared_ffn, m->shared_gate);
    }
    if (m->kv_rank > 0) {
        n += snprintf(out + n, size - (size_t)n, " latent %u %u %u %u", m->q_rank, m->kv_rank, m->rope_dim, m->v_dim);
    }
    if (m->mtp > 0) {
        n += snprintf(out + n, size - (size_t)n, " mtp %u weight %.17g", m->mtp, m->mtp_weight);
    }
    return n;
}
