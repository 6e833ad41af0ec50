/* What the files that read a config.json share. */
#ifndef SF_PLANNER_MODEL_INTERNAL_H
#define SF_PLANNER_MODEL_INTERNAL_H

#include <stddef.h>

#include "core/doc.h"
#include "planner/model.h"

#define SFI_MODEL_KEYS 48 /* at most */

/* Keys that are read here, or must have a neutral value; returns how many. */
size_t sfi_model_moe_keys(const char **out);

/* Heads whose keys and values are made from a latent vector: heads, kv_heads, head_dim and the ranks. */
bool sfi_model_has_latent(const struct sf_node *map);
int sfi_model_read_latent(const struct sf_node *map, struct sf_model *m, struct sf_err *err);

/* Which layers have experts, what is beside them, and what follows the last layer; after the experts themselves. */
int sfi_model_read_layers(const struct sf_node *map, struct sf_model *m, struct sf_err *err);

/* What of it is there, as part of a model's identity: nothing for models without it. */
int sfi_model_print_layers(const struct sf_model *m, char *out, size_t size);

/* All of a GPT-2 file but its name. */
int sfi_model_read_gpt2(const struct sf_node *map, struct sf_model *m, struct sf_err *err);

/* Biases and learned positions, as part of a model's identity: nothing for models without them. */
int sfi_model_print_vectors(const struct sf_model *m, char *out, size_t size);

#endif
