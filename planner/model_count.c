/* Parameters and FLOPs. */
#include "planner/model.h"

uint32_t sf_model_routed(const struct sf_model *m, uint32_t n) {
    uint32_t routed = 0;
    for (uint32_t i = 0; i < n; i++) {
        routed += sf_model_routes(m, i);
    }
    return routed;
}

uint64_t sf_model_value_width(const struct sf_model *m) {
    return (uint64_t)m->heads * (m->kv_rank > 0 ? m->v_dim : m->head_dim);
}

uint64_t sf_model_qkv_width(const struct sf_model *m) {
    return (uint64_t)m->head_dim * (m->heads + UINT64_C(2) * m->kv_heads);
}

/* Down to the latent vectors and the rotary key, their norms, and up again. */
static uint64_t params_latent(const struct sf_model *m) {
    uint64_t h = m->hidden, queries = (uint64_t)m->heads * m->head_dim;
    uint64_t keys_values = (uint64_t)m->heads * (m->head_dim - m->rope_dim + m->v_dim);
    uint64_t q = m->q_rank > 0 ? m->q_rank * (h + 1 + queries) : h * queries;
    return q + h * (m->kv_rank + m->rope_dim) + m->kv_rank * (1 + keys_values);
}

static uint64_t params_norm(const struct sf_model *m) {
    return (uint64_t)m->hidden * (m->layernorm ? 2 : 1);
}

static uint64_t params_attention(const struct sf_model *m) {
    uint64_t qkv = m->kv_rank > 0 ? params_latent(m) : sf_model_qkv_width(m) * m->hidden;
    uint64_t biases = (m->qkv_bias ? sf_model_qkv_width(m) : 0) + (m->out_bias ? m->hidden : 0);
    return qkv + sf_model_value_width(m) * m->hidden + biases + 2 * params_norm(m);
}

uint64_t sf_model_params_attention(const struct sf_model *m) {
    return params_attention(m) + (uint64_t)m->hidden * m->experts;
}

static uint64_t params_ffn(const struct sf_model *m, uint32_t width) {
    uint64_t columns = (uint64_t)width * (m->plain ? 1 : 2); /* before the activation */
    return (columns + width) * m->hidden + (m->ffn_bias ? columns + m->hidden : 0);
}

uint64_t sf_model_params_expert(const struct sf_model *m) {
    return params_ffn(m, m->ffn);
}

uint64_t sf_model_params_shared(const struct sf_model *m) {
    return params_ffn(m, m->shared_ffn) + (m->shared_gate ? m->hidden : 0);
}

uint64_t sf_model_params_dense(const struct sf_model *m) {
    return params_attention(m) + params_ffn(m, sf_model_width(m, false));
}

static uint64_t params_layer(const struct sf_model *m, uint64_t experts) {
    return sf_model_params_attention(m) + sf_model_params_shared(m) + sf_model_params_expert(m) * experts;
}

uint64_t sf_model_params_layer(const struct sf_model *m) {
    return m->experts == 0 ? sf_model_params_dense(m) : params_layer(m, m->experts);
}

/* Embedding, positions, head and the norm before the head. */
static uint64_t params_ends(const struct sf_model *m) {
    return m->vocab * m->hidden * (m->tied ? 1 : 2) + (uint64_t)m->positions * m->hidden + params_norm(m);
}

static uint64_t params_layers(const struct sf_model *m, uint64_t experts) {
    uint64_t routed = sf_model_routed(m, m->layers);
    return routed * params_layer(m, experts) + (m->layers - routed) * sf_model_params_dense(m);
}

uint64_t sf_model_params(const struct sf_model *m) {
    return params_layers(m, m->experts) + params_ends(m);
}

uint64_t sf_model_params_active(const struct sf_model *m) {
    return params_layers(m, m->topk) + params_ends(m);
}

static uint64_t params_mtp(const struct sf_model *m, uint64_t experts) {
    uint64_t h = m->hidden;
    uint64_t layer = sf_model_routes(m, m->layers) ? params_layer(m, experts) : sf_model_params_dense(m);
    return m->mtp * (layer + 2 * h * h + 2 * params_norm(m));
}

/* A layer, and two norms with a projection each. */
uint64_t sf_model_params_mtp(const struct sf_model *m) {
    return params_mtp(m, m->experts);
}

/* What a token is not multiplied with: norms and biases. */
static uint64_t vectors_of_layer(const struct sf_model *m) {
    uint64_t biases = (m->qkv_bias ? sf_model_qkv_width(m) : 0) + (m->out_bias ? m->hidden : 0);
    uint64_t ffn = m->ffn_bias ? (uint64_t)m->ffn * (m->plain ? 1 : 2) + m->hidden : 0;
    return 2 * params_norm(m) + biases + ffn + (m->kv_rank > 0 ? m->q_rank + m->kv_rank : 0);
}

double sf_model_flops(const struct sf_model *m, uint64_t tokens, uint32_t seq_len) {
    uint64_t layers = m->layers + m->mtp, head = m->vocab * m->hidden;
    uint64_t extra = params_mtp(m, m->topk) - m->mtp * 2 * params_norm(m);
    uint64_t weights = params_layers(m, m->topk) + extra - layers * vectors_of_layer(m) + head * (1 + m->mtp);
    double columns = ((double)m->heads * m->head_dim + (double)sf_model_value_width(m)) / 2.0;
    double attention = (double)layers * columns * seq_len;
    return 6.0 * ((double)weights + attention) * (double)tokens;
}
