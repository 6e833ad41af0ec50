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
    char model_type[32]; /* llama, mistral, qwen2, mixtral, grok-1 */
    uint32_t layers, hidden, heads, kv_heads, head_dim;
    uint32_t ffn;     /* width of one (expert's) gated feed-forward layer */
    uint32_t experts; /* 0 = dense */
    uint32_t topk;
    uint64_t vocab;
    bool tied;  /* embedding and head share weights */
    bool gelu;  /* activation: tanh-GELU, else SiLU */
    bool plain; /* feed-forward of two matrices, without a gate */
    double rope_theta, norm_eps, init_std;
    struct sf_hash hash; /* of the fields above */
};

/* Llama, Mistral, Mixtral and Grok-1 key names. Refuses what it cannot train exactly (unknown model_type, sliding
 * windows, biases, rope scaling) with file:line:column rather than ignoring it. */
int sf_model_load(const struct sf_io *io, const char *path, struct sf_model *out, struct sf_err *err);

/* Exact counts. A layer is attention, router, experts and its two norms. */
uint64_t sf_model_params(const struct sf_model *m);
uint64_t sf_model_params_active(const struct sf_model *m); /* used by one token */
uint64_t sf_model_params_layer(const struct sf_model *m);
uint64_t sf_model_params_attention(const struct sf_model *m); /* one layer: qkv, out, both norms, router */
uint64_t sf_model_params_expert(const struct sf_model *m);    /* one expert's (or the dense) feed-forward */

/* Forward + backward FLOPs of `tokens` tokens in sequences of seq_len: 6 * active matmul weights + causal attention
 * counted once (6 * L * heads * head_dim * seq per token). The embedding lookup costs nothing, the head does. */
double sf_model_flops(const struct sf_model *m, uint64_t tokens, uint32_t seq_len);

#endif
