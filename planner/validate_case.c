/* A row as a user would write it: a cluster, a model and a scenario file, served from memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "planner/validate_internal.h"

/* How the devices of a table are wired. */
struct wiring {
    const char *gpu, *device, *link;
    uint32_t nvswitches, links;
    const char *cpu_link;
    uint32_t gpus_per_cpu;
};
static const struct wiring wirings[] = {
    {"A100-80G", "a100", "nvlink3", 6, 12, "pcie4-x16", 4}, {"A100-40G", "a100-40g", "nvlink3", 6, 12, "pcie4-x16", 4},
    {"H100", "h100", "nvlink4", 4, 18, "pcie5-x16", 4},     {"H200", "h200", "nvlink4", 4, 18, "pcie5-x16", 4},
    {"H800", "h100", "nvlink4", 4, 8, "pcie5-x16", 4}, /* an H100 with NVLink of 400 GB/s, arXiv 2505.09343 */
    {"B200", "b200", "nvlink5", 2, 18, "pcie5-x16", 4},     {"B300", "b300", "nvlink5", 2, 18, "pcie5-x16", 4},
    {"GB200", "gb200", "nvlink5", 18, 18, "nvlink-c2c", 2}, {"GB300", "gb300", "nvlink5", 18, 18, "nvlink-c2c", 2},
};

struct nic {
    uint32_t gbps;
    const char *link, *fabric_switch;
    uint32_t ports, leaf_down;
};
static const struct nic nics[] = {
    {200, "hdr-200g", "quantum-qm8790", 40, 20},
    {400, "connectx7-400g", "quantum2-qm9700", 64, 32},
    {800, "connectx8-800g", "quantum-x800-q3400", 144, 72},
};

static const struct wiring *find_wiring(const char *gpu) {
    for (size_t i = 0; i < sizeof wirings / sizeof wirings[0]; i++) {
        if (strcmp(wirings[i].gpu, gpu) == 0) {
            return &wirings[i];
        }
    }
    return NULL;
}

static const struct nic *find_nic(uint32_t gbps) {
    for (size_t i = 0; i < sizeof nics / sizeof nics[0]; i++) {
        if (nics[i].gbps == gbps) {
            return &nics[i];
        }
    }
    return NULL;
}

static uint32_t div_up(uint32_t a, uint32_t b) {
    return a / b + (a % b > 0);
}

/* Seats used of each domain: all of them, or, where the job does not fill whole domains, an even share. */
static uint32_t seats_used(const struct sf_case *c) {
    uint32_t domains = div_up(c->gpus, c->nvlink_domain_gpus);
    return c->gpus % domains == 0 ? c->gpus / domains : c->nvlink_domain_gpus;
}

/* A rail-aligned fabric without oversubscription, of as few tiers as join all domains. */
static int write_fabric(const struct sf_case *c, struct sf_buf *out, struct sf_err *err) {
    const struct nic *nic = find_nic(c->nic_gbps_per_gpu);
    uint32_t domains = div_up(c->gpus, c->nvlink_domain_gpus);
    if (nic == NULL) {
        return sf_fail(err, SF_E_INPUT, "nic_gbps_per_gpu: no NIC of %u Gb/s in the catalog", c->nic_gbps_per_gpu);
    }
    uint32_t rails = c->nvlink_domain_gpus % 8 == 0 && c->nvlink_domain_gpus <= 8 ? 8 : 4;
    rails = c->nvlink_domain_gpus % rails == 0 ? rails : 1;
    uint32_t rail_nics = c->nvlink_domain_gpus / rails;
    uint32_t leaf_down = nic->leaf_down / rail_nics * rail_nics;
    if (leaf_down == 0) {
        return sf_fail(err, SF_E_INPUT,
                       "nvlink_domain_gpus: a leaf of %u ports cannot take the NICs of a domain of %u GPUs", nic->ports,
                       c->nvlink_domain_gpus);
    }
    bool three = div_up(domains, leaf_down / rail_nics) * rails > nic->ports;
    sf_buf_printf(out,
                  "nic: %s\nrails: %u\nfabric:\n  switch: %s\n  leaf_down: %u\n  tiers: %d\n  oversubscription: 1\n"
                  "  cables: { nic_leaf: 5m, leaf_spine: 30m%s }\n",
                  nic->link, rails, nic->fabric_switch, leaf_down, three ? 3 : 2, three ? ", spine_core: 50m" : "");
    return 0;
}

static int write_cluster(const struct sf_case *c, struct sf_buf *out, struct sf_err *err) {
    const struct wiring *w = find_wiring(c->gpu);
    if (w == NULL) {
        return sf_fail(err, SF_E_INPUT, "gpu: device class %s is not in the catalog", c->gpu);
    }
    uint32_t domains = div_up(c->gpus, c->nvlink_domain_gpus);
    sf_buf_printf(out,
                  "name: case\ndevice: %s\ndomains: %u\ndomain: { kind: scale-up, trays: 1, gpus_per_tray: %u, "
                  "cpus_per_tray: %u, nvswitches: %u, link: %s, links_per_gpu: %u, cpu_link: %s }\n",
                  w->device, domains, c->nvlink_domain_gpus, div_up(c->nvlink_domain_gpus, w->gpus_per_cpu),
                  w->nvswitches, w->link, w->links, w->cpu_link);
    return domains > 1 ? write_fabric(c, out, err) : 0;
}

/* Tables name the model and leave the ranks to its publication. */
const char *sfi_case_latent(const struct sf_case *c) {
    bool v3 = strcmp(c->model, "DeepSeek-V3") == 0 || strcmp(c->model, "deepseek_v3_671b") == 0;
    return v3 && c->head_dim == 128 ? "\"q_lora_rank\": 1536, \"kv_lora_rank\": 512, \"qk_nope_head_dim\": 128, "
                                      "\"qk_rope_head_dim\": 64, \"v_head_dim\": 128" /* arXiv 2412.19437, 4.2 */
                                    : NULL;
}

/* "full:3" is Megatron's block method: of every virtual stage that many layers, its first ones. 0: it is not that. */
static uint32_t first_layers(const char *text) {
    const char *digits = strncmp(text, "full:", 5) == 0 ? text + 5 : "";
    size_t n = strspn(digits, "0123456789");
    return n >= 1 && n <= 4 && digits[n] == '\0' ? (uint32_t)strtoul(digits, NULL, 10) : 0;
}

bool sfi_case_recompute(const struct sf_case *c, int *out) {
    static const struct {
        const char *row;
        int plan;
    } names[] = {
        {"none", SF_RECOMPUTE_NONE},
        {"full", SF_RECOMPUTE_FULL},
        {"selective", SF_RECOMPUTE_SELECTIVE},
        {"selective:mla_up_proj", SF_RECOMPUTE_MLA_UP},
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(c->recompute, names[i].row) == 0) {
            *out = names[i].plan;
            return true;
        }
    }
    *out = SF_RECOMPUTE_FULL;
    return first_layers(c->recompute) > 0;
}

static void plan_first_layers(const struct sf_case *c, struct sf_plan *out) {
    uint32_t layers = first_layers(c->recompute);
    out->partly = layers > 0;
    for (uint32_t v = 0; v < out->pp * out->vpp && v < SF_MAX_STAGES && out->partly; v++) {
        out->recompute_layers[v] = layers < out->layers[v] ? layers : out->layers[v];
    }
}

int sfi_case_schedule(const struct sf_case *c) {
    static const struct {
        const char *row;
        int plan;
    } names[] = {{"interleaved 1F1B", SF_SCHEDULE_INTERLEAVED},
                 {"ZB-1p", SF_SCHEDULE_ZB_1P},
                 {"ZB-2p", SF_SCHEDULE_ZB_2P},
                 {"DualPipe", SF_SCHEDULE_DUALPIPE}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(c->schedule, names[i].row) == 0) {
            return names[i].plan;
        }
    }
    return strncmp(c->schedule, "1F1B", 4) == 0 ? SF_SCHEDULE_1F1B : -1;
}

static void write_mixture(const struct sf_case *c, struct sf_buf *out) {
    uint32_t width = c->moe_ffn > 0 ? c->moe_ffn : c->ffn;
    sf_buf_printf(out,
                  ", \"n_routed_experts\": %u, \"num_experts_per_tok\": %u, \"moe_intermediate_size\": %u, "
                  "\"n_shared_experts\": %u, \"first_k_dense_replace\": %u, \"decoder_sparse_step\": %u",
                  c->experts, c->topk, width, c->shared_experts, c->first_dense_layers,
                  c->moe_step > 0 ? c->moe_step : 1);
}

/* Models without a gate are the GPT family: GELU and one table for embedding and head. */
static void write_model(const struct sf_case *c, struct sf_buf *out) {
    bool moe = c->experts > 0;
    uint32_t ffn = c->ffn > 0 ? c->ffn : c->moe_ffn;
    sf_buf_printf(out,
                  "{\"model_type\": \"%s\", \"num_hidden_layers\": %u, \"hidden_size\": %u, \"vocab_size\": %u, "
                  "\"num_attention_heads\": %u, \"num_key_value_heads\": %u, \"head_dim\": %u, "
                  "\"intermediate_size\": %u, \"hidden_act\": \"%s\", \"tie_word_embeddings\": %s, \"gated_mlp\": %s",
                  moe ? "deepseek_v3" : "llama", c->layers, c->hidden, c->vocab, c->heads, c->kv_heads, c->head_dim,
                  ffn, c->gated_mlp ? "silu" : "gelu_pytorch_tanh", c->gated_mlp ? "false" : "true",
                  c->gated_mlp ? "true" : "false");
    if (moe) {
        write_mixture(c, out);
    }
    if (strcmp(c->attention, "mla") == 0) {
        sf_buf_printf(out, ", %s", sfi_case_latent(c));
    }
    if (c->mtp > 0) {
        sf_buf_printf(out, ", \"num_nextn_predict_layers\": %u", c->mtp);
    }
    sf_buf_printf(out, "}\n");
}

/* How tables write precisions. fp16 runs at the rate of bf16 on every device class here; "cs" is current scaling. */
const char *sfi_case_precision(const struct sf_case *c) {
    static const struct {
        const char *row, *job;
    } names[] = {
        {"bf16", "bf16"},        {"fp16", "bf16"},
        {"fp8", "fp8"},          {"FP8", "fp8"},
        {"fp8_cs", "fp8"},       {"fp8_mx", "mxfp8"},
        {"mxfp8", "mxfp8"},      {"nvfp4", "nvfp4"},
        {"FP4(nvfp4)", "nvfp4"}, {"FP8 blockwise (128x128 w,1x128 a)", "fp8_block"},
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(c->precision, names[i].row) == 0) {
            return names[i].job;
        }
    }
    return NULL;
}

static int read_all(void *self, const char *path, size_t max_bytes, char **data, size_t *bytes, struct sf_err *err) {
    const struct sfi_case_files *f = self;
    const struct {
        const char *path;
        const struct sf_buf *buf;
    } own[] = {{"case/cluster.yaml", &f->cluster}, {"case/config.json", &f->model}, {SFI_CASE_SCENARIO, &f->scenario}};
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++) {
        if (strcmp(path, own[i].path) == 0) {
            *bytes = own[i].buf->bytes;
            *data = sf_malloc(*bytes + 1);
            if (*data == NULL) {
                return sf_fail_memory(err, "case");
            }
            memcpy(*data, own[i].buf->data, *bytes);
            (*data)[*bytes] = '\0';
            return 0;
        }
    }
    return f->under->read_all(f->under->self, path, max_bytes, data, bytes, err);
}

int sfi_case_files(const struct sf_io *under, const struct sf_case *c, struct sfi_case_files *out, struct sf_err *err) {
    *out = (struct sfi_case_files){.under = under, .io = {.self = out, .read_all = read_all}};
    SF_TRY(write_cluster(c, &out->cluster, err));
    write_model(c, &out->model);
    sf_buf_printf(&out->scenario,
                  "name: case\ncluster: cluster.yaml\nmodel: config.json\njob:\n  seq_len: %u\n  global_batch: %u\n"
                  "  precision: %s\n  gpus: %u\n  loss_rows: 1073741824\n", /* all: frameworks keep their logits */
                  c->seq_len_tokens, c->global_batch, sfi_case_precision(c), c->gpus);
    bool failed = out->cluster.failed || out->model.failed || out->scenario.failed;
    return failed ? sf_fail_memory(err, "case") : 0;
}

void sfi_case_files_clear(struct sfi_case_files *f) {
    sf_buf_free(&f->cluster);
    sf_buf_free(&f->model);
    sf_buf_free(&f->scenario);
}

void sfi_case_plan(const struct sf_case *c, const struct sf_scenario *s, struct sf_plan *out) {
    memset(out, 0, sizeof *out);
    out->tp = c->tp;
    out->cp = c->cp;
    out->ep = c->experts > 0 ? c->ep : 1;
    out->dp = c->dp;
    out->pp = c->pp;
    out->vpp = c->pp > 1 ? c->vpp : 1; /* one stage has nothing to interleave */
    out->micro_batch = c->micro_batch;
    out->microbatches = c->microbatches;
    out->schedule = out->pp > 1 ? sfi_case_schedule(c) : SF_SCHEDULE_1F1B;
    out->recompute = SF_RECOMPUTE_NONE;
    sfi_case_recompute(c, &out->recompute); /* what it does not know has been refused */
    out->etp = c->experts > 0 && c->etp != c->tp ? c->etp : 0;
    out->zero = c->zero;
    out->offload = c->offload;
    out->whole_rows = c->tp > 1 && c->sequence_parallel == 0;
    out->canonical = s->job.canonical;
    out->ranks_per_domain = seats_used(c);
    struct sf_layout layout;
    uint64_t stages = (uint64_t)out->pp * out->vpp;
    if (stages <= SF_MAX_STAGES && sfi_case_layers(c, (uint32_t)stages, &layout)) {
        memcpy(out->layers, layout.layers, stages * sizeof *out->layers);
    }
    plan_first_layers(c, out);
}
