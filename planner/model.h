/* What a model is: dimensions from a Hugging Face config.json, exact parameter counts, FLOPs. */
#ifndef SF_PLANNER_MODEL_H
#define SF_PLANNER_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "core/err.h"
#include "core/hash.h"
#include "core/io.h"

struct sf_model {
    char name[64];       /* file's folder or _name_or_path */
    char model_type[32]; /* llama, mistral, qwen2, mixtral, grok-1, gpt2, deepseek_v2, deepseek_v3, ... */
    uint32_t layers, hidden, heads, kv_heads, head_dim;
    uint32_t ffn;     /* width of one (expert's) gated feed-forward layer */
    uint32_t experts; /* 0 = dense */
    uint32_t topk;
    uint64_t vocab;
    bool tied;                         /* embedding and head share weights */
    bool gelu;                         /* activation: tanh-GELU, else SiLU */
    bool plain;                        /* feed-forward of two matrices, without a gate */
    bool layernorm;                    /* norms subtract the mean and have a bias */
    bool qkv_bias, out_bias, ffn_bias; /* of q, k and v; of attention's output; of both feed-forward products */
    uint32_t positions;                /* learned ones; 0: rotary */
    uint32_t vocab_padding; /* the job's: rows behind the vocabulary, in embedding and head, that are no tokens */
    /* Mixtures whose layers are of two kinds: dense_first without experts, then those whose number, from 1, is a
     * multiple of moe_step have them (0: all). */
    uint32_t dense_first, moe_step;
    uint32_t dense_ffn;  /* width of a layer without experts, where there are such layers */
    uint32_t shared_ffn; /* width of all shared experts together, which every token takes; 0: none */
    bool shared_gate;    /* each token scales what they make */
    /* Latent attention: queries, and keys with values, are made from short vectors with a norm of their own; every head
     * has its own keys, of which rope_dim are rotary and the same for all heads, and values of another width. */
    uint32_t q_rank;          /* 0: queries are made from the whole row */
    uint32_t kv_rank;         /* 0: no latent attention */
    uint32_t rope_dim, v_dim; /* head_dim is the width of queries and keys, rotary part included */
    uint32_t mtp;             /* layers behind the last, of its kind, each of which predicts one token further */
    double mtp_weight;        /* of their mean loss, beside that of the next token */
    double rope_theta, norm_eps, init_std;
    struct sf_hash hash; /* of the fields above */
};

/* Rows of embedding and head. */
static inline uint64_t sf_model_rows(const struct sf_model *m) {
    return m->vocab + m->vocab_padding;
}

/* Can tp ranks have equal parts of every matrix? Of a padded vocabulary they would have unequal parts. */
static inline bool sf_model_splits(const struct sf_model *m, uint32_t tp) {
    return m->heads % tp == 0 && m->kv_heads % tp == 0 && m->ffn % tp == 0 && sf_model_rows(m) % tp == 0 &&
           (tp == 1 || m->vocab_padding == 0);
}

/* Llama, Mistral, Qwen, Mixtral, Grok-1, GPT-2 and DeepSeek key names. Refuses what it cannot train exactly (unknown
 * model_type, sliding windows, dropout, rope scaling) with file:line:column rather than ignoring it. */
int sf_model_load(const struct sf_io *io, const char *path, struct sf_model *out, struct sf_err *err);

#define SF_MODEL_MOST_MTP 8u

/* Does this layer have experts? Layers that predict further follow the last one and are like it. */
static inline bool sf_model_routes(const struct sf_model *m, uint32_t layer) {
    layer = layer < m->layers ? layer : m->layers - 1;
    return m->experts > 0 && layer >= m->dense_first && (m->moe_step <= 1 || (layer + 1) % m->moe_step == 0);
}
/* Layers that have them, of the first n. */
uint32_t sf_model_routed(const struct sf_model *m, uint32_t n);
/* Width of a layer's feed-forward, or of one of its experts'. */
static inline uint32_t sf_model_width(const struct sf_model *m, bool routed) {
    return m->experts > 0 && !routed ? m->dense_ffn : m->ffn;
}
/* Widths of one row: of the fused result that queries, keys and values are made in or from, and of all heads' values.
 */
uint64_t sf_model_qkv_width(const struct sf_model *m);
uint64_t sf_model_value_width(const struct sf_model *m);

/* Exact counts. A layer, where there are two kinds one with experts, is attention, router, experts and its norms.
 * Layers that predict further tokens count in neither the whole nor what is active, as publications have it. */
uint64_t sf_model_params(const struct sf_model *m);
uint64_t sf_model_params_active(const struct sf_model *m); /* used by one token */
uint64_t sf_model_params_layer(const struct sf_model *m);
uint64_t sf_model_params_attention(const struct sf_model *m); /* one layer: qkv, out, its norms, router */
uint64_t sf_model_params_expert(const struct sf_model *m);    /* one expert's (or the dense) feed-forward */
uint64_t sf_model_params_shared(const struct sf_model *m);    /* beside the experts of one layer, gate included */
uint64_t sf_model_params_dense(const struct sf_model *m);     /* a layer without experts */
uint64_t sf_model_params_mtp(const struct sf_model *m); /* all layers that predict further; tables are shared, and the
                                                         * norm before the head */

/* Forward + backward FLOPs of `tokens` tokens in sequences of seq_len: 6 * active matmul weights + causal attention
 * counted once (6 * L * heads * head_dim * seq per token). The embedding lookup costs nothing, the head does, and
 * layers that predict further count with their heads. */
double sf_model_flops(const struct sf_model *m, uint64_t tokens, uint32_t seq_len);

#endif
