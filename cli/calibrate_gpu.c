/* What is measured on GPUs: models in bf16 whose products, attention and norms span what one GPU trains. */
#include <stdio.h>
#include <string.h>

#include "cli/calibrate.h"

static const struct model {
    uint32_t hidden, heads, kv_heads, ffn, seq_len, micro_batch, vocab;
    bool gpt2; /* LayerNorm, biases, learned positions, GELU without a gate */
} models[CLI_CALIBRATE_MODELS] = {
    {2048, 16, 8, 5632, 2048, 4, 32000, false},  {768, 12, 12, 3072, 1024, 16, 50304, true},
    {4096, 32, 8, 14336, 4096, 1, 32000, false}, {1024, 16, 2, 4864, 1024, 16, 65536, false},
    {512, 8, 4, 1536, 512, 8, 32000, false},     {1536, 12, 2, 8960, 1024, 8, 65536, false},
};

/* By a word of its name. Boards of other memory or power than the catalog's have no class here. */
const char *cli_calibrate_class(const char *name) {
    static const char *const classes[][2] = {{"H200", "h200"},   {"H100", "h100"}, {"GB300", "gb300"}, {"B300", "b300"},
                                             {"GB200", "gb200"}, {"B200", "b200"}, {"A100", "a100"}};
    const char *found = NULL;
    char words[128];
    snprintf(words, sizeof words, "%s", name);
    for (char *rest = words, *word = strtok_r(words, " -_", &rest); word; word = strtok_r(NULL, " -_", &rest)) {
        if (strcmp(word, "PCIe") == 0 || strcmp(word, "NVL") == 0 || strcmp(word, "MIG") == 0) {
            return NULL;
        }
        for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
            found = strcmp(word, classes[i][0]) == 0 ? classes[i][1] : found;
        }
        found = found && strcmp(found, "a100") == 0 && strcmp(word, "40GB") == 0 ? "a100-40g" : found;
    }
    return found;
}

/* Its links decide nothing: programs are compiled for it, never simulated on it. */
void cli_calibrate_cluster(const char *class_name, uint32_t ranks, struct sf_buf *out) {
    sf_buf_printf(out,
                  "name: calibrate\ndevice: %s\ndomains: 1\ndomain: { kind: node, trays: 1, gpus_per_tray: %u, "
                  "cpus_per_tray: 1, nvswitches: 0, link: nvlink4, links_per_gpu: 18 }\n",
                  class_name, ranks);
}

void cli_calibrate_model(const struct cli_calibrate_model *m, struct sf_buf *out) {
    if (m->gpt2) {
        sf_buf_printf(
            out,
            "{\"model_type\": \"gpt2\", \"n_embd\": %u, \"n_layer\": %u, \"n_head\": %u, \"n_inner\": %u, "
            "\"n_positions\": %u, \"vocab_size\": %u, \"activation_function\": \"gelu_new\", "
            "\"layer_norm_epsilon\": 1e-5, \"initializer_range\": 0.02, \"attn_pdrop\": 0, \"embd_pdrop\": 0, "
            "\"resid_pdrop\": 0}\n",
            m->hidden, m->layers, m->heads, m->ffn, m->seq_len, m->vocab);
        return;
    }
    sf_buf_printf(out,
                  "{\"model_type\": \"llama\", \"hidden_size\": %u, \"intermediate_size\": %u, \"num_hidden_layers\": "
                  "%u, \"vocab_size\": %u, \"num_attention_heads\": %u, \"num_key_value_heads\": %u, \"rope_theta\": "
                  "10000.0, \"rms_norm_eps\": 1e-5, \"hidden_act\": \"silu\", \"tie_word_embeddings\": false, "
                  "\"initializer_range\": 0.02}\n",
                  m->hidden, m->ffn, m->layers, m->vocab, m->heads, m->kv_heads);
}

/* With several GPUs in turn stages, parts of every matrix where its heads allow it, and copies. */
void cli_calibrate_job(uint32_t n, uint32_t ranks, struct sf_buf *model, struct sf_buf *job) {
    const struct model *m = &models[n];
    bool splits = n % 3 == 1 && m->kv_heads % ranks == 0, stages = n % 3 == 0;
    uint32_t pp = stages ? ranks : 1, tp = splits ? ranks : 1, dp = ranks / (pp * tp);
    cli_calibrate_model(&(struct cli_calibrate_model){m->hidden, m->heads, m->kv_heads, m->ffn, m->seq_len, m->vocab,
                                                      pp > 2 ? pp : 2, m->gpt2},
                        model);
    sf_buf_printf(
        job,
        "{\"name\": \"calibrate\", \"cluster\": \"machine.yaml\", \"model\": \"config.json\", \"job\": "
        "{\"seq_len\": %u, \"global_batch\": %u, \"precision\": \"bf16\", \"gpus\": %u, \"steps\": 1, \"seed\": "
        "1, \"optimizer\": {\"kind\": \"adamw\", \"lr\": 1e-3, \"beta1\": 0.9, \"beta2\": 0.95, \"eps\": "
        "1e-8, \"weight_decay\": 0.1, \"warmup_steps\": 1}}, \"plan\": {\"pp\": %u, \"dp\": %u, \"tp\": %u, "
        "\"vpp\": 1, \"schedule\": \"1f1b\", \"micro_batch\": %u, "
        "\"slices\": 1, \"split_head\": false, \"whole_rows\": false}}\n",
        m->seq_len, 2 * m->micro_batch * dp, ranks, pp, dp, tp, m->micro_batch);
}

void cli_calibrate_job_name(uint32_t n, char *name, size_t size) {
    const struct model *m = &models[n];
    snprintf(name, size, "measured: %s, hidden %u, feed-forward %u, sequence %u x %u", m->gpt2 ? "gpt2" : "llama",
             m->hidden, m->ffn, m->micro_batch, m->seq_len);
}
