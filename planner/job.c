/* Reading a scenario: every key changes a result or is refused, and every path is relative to the scenario file. */
#include "planner/job.h"

#include <stdio.h>
#include <string.h>

#include "core/doc.h"
#include "core/prog.h"
#include "sim/seats.h"

/* dir(from) + path, or path itself when it is absolute or `from` is in the current folder. */
static int resolve(const struct sf_node *node, const char *from, char *out, size_t size, struct sf_err *err) {
    const char *path;
    SF_TRY(sf_node_str(node, &path, err));
    const char *slash = strrchr(from, '/');
    int folder = path[0] == '/' || slash == NULL ? 0 : (int)(slash - from) + 1;
    if (path[0] == '\0') {
        return sf_node_fail(node, err, "expected a path, found an empty text");
    }
    int n = snprintf(out, size, "%.*s%s", folder, from, path);
    if (n < 0 || (size_t)n >= size) {
        return sf_node_fail(node, err, "the path is longer than %zu bytes", size - 1);
    }
    return 0;
}

static int read_u64(const struct sf_node *map, const char *key, int64_t lo, int64_t hi, uint64_t *value,
                    struct sf_err *err) {
    const struct sf_node *node = sf_map_find(map, key);
    int64_t found;
    if (node == NULL) {
        return 0;
    }
    SF_TRY(sf_node_i64(node, lo, hi, &found, err));
    *value = (uint64_t)found;
    return 0;
}

static int read_u32(const struct sf_node *map, const char *key, uint32_t lo, uint32_t hi, uint32_t *value,
                    struct sf_err *err) {
    uint64_t wide = *value;
    SF_TRY(read_u64(map, key, lo, hi, &wide, err));
    *value = (uint32_t)wide;
    return 0;
}

static int read_f64(const struct sf_node *map, const char *key, double lo, double hi, double *value,
                    struct sf_err *err) {
    const struct sf_node *node = sf_map_find(map, key);
    return node == NULL ? 0 : sf_node_f64(node, lo, hi, value, err);
}

/* 0 is "never": a bound that no gradient can meet would stop the training. */
static int read_clip(const struct sf_node *map, struct sf_job *job, struct sf_err *err) {
    const struct sf_node *node = sf_map_find(map, "clip_norm");
    SF_TRY(node == NULL ? 0 : sf_node_f64(node, 0, 1e30, &job->clip_norm, err));
    if (job->clip_norm > 0 && job->clip_norm < 1e-30) {
        return sf_node_fail(node, err, "clip_norm is 0 for never, or from 1e-30 to 1e30, found %g", job->clip_norm);
    }
    return 0;
}

static int read_moments(const struct sf_node *map, struct sf_job *job, struct sf_err *err) {
    static const char *const words[] = {"f32", "bf16", NULL};
    const struct sf_node *node = sf_map_find(map, "moments");
    int word = 0;
    SF_TRY(node == NULL ? 0 : sf_node_word(node, words, &word, err));
    job->lean_moments = word == 1;
    if (job->lean_moments && job->precision == SF_F32) {
        return sf_node_fail(node, err, "moments of bf16 need precision bf16 or lower, found f32");
    }
    return 0;
}

static int read_optimizer(const struct sf_node *map, struct sf_job *job, struct sf_err *err) {
    static const char *const keys[] = {"kind",         "lr",           "beta1",     "beta2",   "eps",
                                       "weight_decay", "warmup_steps", "clip_norm", "moments", NULL};
    static const char *const kinds[] = {"adamw", NULL};
    const struct sf_node *kind;
    int word;
    job->lr = 3e-4;
    job->beta1 = 0.9;
    job->beta2 = 0.95;
    job->eps = 1e-8;
    job->weight_decay = 0.1;
    job->warmup_steps = 20;
    if (map == NULL) {
        return 0;
    }
    SF_TRY(sf_map_only(map, keys, err));
    SF_TRY(sf_map_need(map, "kind", &kind, err));
    SF_TRY(sf_node_word(kind, kinds, &word, err));
    SF_TRY(read_f64(map, "lr", 0, 10, &job->lr, err));
    SF_TRY(read_f64(map, "beta1", 0, 0.999999, &job->beta1, err));
    SF_TRY(read_f64(map, "beta2", 0, 0.999999, &job->beta2, err));
    SF_TRY(read_f64(map, "eps", 1e-20, 1, &job->eps, err));
    SF_TRY(read_f64(map, "weight_decay", 0, 10, &job->weight_decay, err));
    SF_TRY(read_clip(map, job, err));
    SF_TRY(read_moments(map, job, err));
    return read_u32(map, "warmup_steps", 0, 1u << 30, &job->warmup_steps, err);
}

static int read_precision(const struct sf_node *map, const struct sf_topo *topo, struct sf_job *job,
                          struct sf_err *err) {
    const struct sf_node *node;
    const char *text;
    SF_TRY(sf_map_need(map, "precision", &node, err));
    SF_TRY(sf_node_str(node, &text, err));
    job->precision = sf_dtype_parse(text);
    if (job->precision < 0) {
        return sf_node_fail(node, err,
                            "expected a precision of f32, bf16, fp8, mxfp8, fp8_block or nvfp4, found \"%s\"", text);
    }
    for (uint32_t i = 0; i < sf_topo_stocks(topo); i++) {
        struct sf_stock stock;
        sf_topo_stock(topo, i, &stock);
        if (!(stock.device->flops_per_s[job->precision] > 0)) {
            return sf_node_fail(node, err, "device %s has no %s arithmetic in its catalog entry", stock.device->name,
                                text);
        }
    }
    return 0;
}

/* More than are in use are refused, unless the cluster was changed: then it depends on what is planned. */
static int read_gpus(const struct sf_node *map, const struct sf_topo *topo, const struct sf_cluster_change *change,
                     struct sf_job *job, struct sf_err *err) {
    job->gpus = sf_topo_gpus_in_use(topo);
    if (job->gpus == 0) {
        return sf_node_fail(map, err, "the cluster has no GPUs in use");
    }
    uint32_t most = change->overlay != NULL ? sf_topo_gpus(topo) : job->gpus;
    const struct sf_node *node = sf_map_find(map, "gpus");
    job->fewer = node != NULL && sf_node_is_map(node);
    if (job->fewer) {
        static const char *const keys[] = {"most", NULL};
        const struct sf_node *stated;
        SF_TRY(sf_map_only(node, keys, err));
        SF_TRY(sf_map_need(node, "most", &stated, err));
    }
    SF_TRY(read_u32(job->fewer ? node : map, job->fewer ? "most" : "gpus", 1, most, &job->gpus, err));
    job->gpus_asked = job->gpus;
    job->gpus = change->gpus > 0 ? change->gpus : job->gpus;
    return 0;
}

/* A job that wants more than is left, or all there are, takes what some plan can use. */
static int take_fewer(const struct sf_node *map, struct sf_scenario *s, struct sf_err *err) {
    uint32_t left = sf_topo_gpus_in_use(s->topo);
    const struct sf_node *stated = sf_map_find(map, "gpus");
    if (stated != NULL && s->job.gpus <= left) {
        return 0;
    }
    s->job.gpus = sf_scenario_best_gpus(s, left);
    if (s->job.gpus == 0) {
        return sf_node_fail(stated != NULL ? stated : map, err,
                            "%u GPUs are left in use, and no number of them can be divided as model, batch and plan "
                            "ask",
                            left);
    }
    return 0;
}

static int read_canonical(const struct sf_node *map, struct sf_job *job, struct sf_err *err) {
    const struct sf_node *node = sf_map_find(map, "canonical");
    if (node == NULL) {
        return 0;
    }
    SF_TRY(sf_node_bool(node, &job->canonical, err));
    if (job->canonical && job->precision != SF_F32) {
        return sf_node_fail(node, err, "canonical sums are defined for precision f32, found %s",
                            sf_dtype_name(job->precision));
    }
    return 0;
}

static int read_vocab_multiple(const struct sf_node *map, struct sf_model *m, struct sf_err *err) {
    uint32_t unit = 1;
    SF_TRY(read_u32(map, "vocab_multiple", 1, 1u << 20, &unit, err));
    m->vocab_padding = (uint32_t)((unit - m->vocab % unit) % unit);
    return 0;
}

/* Defaults. Failures: 419 unexpected interruptions of 16,384 H100 in 54 days; storage: 2 TB/s sustained for as many
 * (Llama 3, arXiv 2407.21783, table 5 and section 3.3). Restart: MegaScale detects and diagnoses in less than 10
 * minutes (arXiv 2402.15627). Price: 2 $ per H800 and hour, as the DeepSeek-V3 report counts (arXiv 2412.19437, table
 * 1). */
static const struct sf_upkeep usual_upkeep = {419 / (16.384 * 54), 600, UINT64_C(2000000000000) / 16384, 2};

static int read_upkeep(const struct sf_node *map, struct sf_upkeep *out, struct sf_err *err) {
    static const char *const keys[] = {"failures_per_1000_gpu_days", "restart", "storage_rate", "gpu_hour_price", NULL};
    sf_time_ps restart = 0;
    *out = usual_upkeep;
    if (map == NULL) {
        return 0;
    }
    SF_TRY(sf_map_only(map, keys, err));
    SF_TRY(read_f64(map, "failures_per_1000_gpu_days", 0, 1e6, &out->failures_per_1000_gpu_days, err));
    SF_TRY(read_f64(map, "gpu_hour_price", 1e-6, 1e6, &out->gpu_hour_price, err));
    const struct sf_node *node = sf_map_find(map, "storage_rate");
    SF_TRY(node == NULL ? 0 : sf_node_rate(node, &out->storage_bytes_per_s, err));
    if (node != NULL && out->storage_bytes_per_s == 0) {
        return sf_node_fail(node, err, "storage_rate is what each GPU reads or writes per second, above 0");
    }
    node = sf_map_find(map, "restart");
    SF_TRY(node == NULL ? 0 : sf_node_time(node, &restart, err));
    out->restart_s = node == NULL ? out->restart_s : sf_ps_to_s(restart);
    return 0;
}

static int read_reserve(const struct sf_node *node, struct sf_scenario *s, struct sf_err *err) {
    char found[32], have[32];
    uint64_t device = sf_seats_memory(s->topo), *reserve = &s->job.memory_reserve_bytes;
    SF_TRY(node == NULL ? 0 : sf_node_bytes(node, reserve, err));
    if (*reserve >= device) {
        return sf_node_fail(node, err, "memory_reserve leaves nothing of the device's %s, found %s",
                            sf_format_bytes(device, have, sizeof have), sf_format_bytes(*reserve, found, sizeof found));
    }
    return 0;
}

static int read_job(const struct sf_node *map, const struct sf_cluster_change *change, struct sf_scenario *s,
                    struct sf_err *err) {
    static const char *const keys[] = {"seq_len",   "global_batch", "precision",      "gpus",      "optimizer",
                                       "steps",     "seed",         "data",           "canonical", "vocab_multiple",
                                       "loss_rows", "upkeep",       "memory_reserve", NULL};
    struct sf_job *job = &s->job;
    const struct sf_node *node;
    job->steps = 20;
    job->seed = 1;
    SF_TRY(sf_map_only(map, keys, err));
    SF_TRY(sf_map_need(map, "seq_len", &node, err));
    SF_TRY(read_u32(map, "seq_len", 2, 1u << 22, &job->seq_len_tokens, err));
    SF_TRY(sf_map_need(map, "global_batch", &node, err));
    SF_TRY(read_u64(map, "global_batch", 1, INT64_C(1) << 32, &job->global_batch_sequences, err));
    SF_TRY(read_precision(map, s->topo, job, err));
    SF_TRY(read_gpus(map, s->topo, change, job, err));
    SF_TRY(read_optimizer(sf_map_find(map, "optimizer"), job, err));
    SF_TRY(read_u32(map, "steps", 1, 1u << 30, &job->steps, err));
    SF_TRY(read_u64(map, "seed", 0, INT64_MAX, &job->seed, err));
    SF_TRY(read_canonical(map, job, err));
    SF_TRY(read_vocab_multiple(map, &s->model, err));
    SF_TRY(read_u32(map, "loss_rows", 0, 1u << 30, &job->loss_rows, err));
    SF_TRY(read_upkeep(sf_map_find(map, "upkeep"), &job->upkeep, err));
    SF_TRY(read_reserve(sf_map_find(map, "memory_reserve"), s, err));
    node = sf_map_find(map, "data");
    return node == NULL ? 0 : resolve(node, s->path, job->data_path, sizeof job->data_path, err);
}

struct pin_rule {
    const char *key;
    struct sf_pin *pin;
    const char *const *words; /* NULL: numbers from lo to hi */
    uint32_t lo, hi;
};

static int read_pin_value(const struct pin_rule *rule, const struct sf_node *node, struct sf_err *err) {
    uint32_t value;
    if (rule->words != NULL) {
        int word;
        SF_TRY(sf_node_word(node, rule->words, &word, err));
        value = (uint32_t)word;
    } else {
        int64_t number;
        SF_TRY(sf_node_i64(node, rule->lo, rule->hi, &number, err));
        value = (uint32_t)number;
    }
    for (uint32_t i = 0; i < rule->pin->n; i++) {
        if (rule->pin->value[i] == value) {
            return sf_node_fail(node, err, "%s allows the same value twice", rule->key);
        }
    }
    rule->pin->value[rule->pin->n++] = value;
    return 0;
}

static int read_pin(const struct pin_rule *rule, const struct sf_node *node, struct sf_err *err) {
    size_t room = sizeof rule->pin->value / sizeof rule->pin->value[0];
    if (!sf_node_is_seq(node)) {
        return read_pin_value(rule, node, err);
    }
    size_t n = sf_seq_size(node);
    if (n == 0 || n > room) {
        return sf_node_fail(node, err, "%s lists 1 to %zu allowed values, found %zu; leave it out to allow all",
                            rule->key, room, n);
    }
    for (size_t i = 0; i < n; i++) {
        SF_TRY(read_pin_value(rule, sf_seq_at(node, i), err));
    }
    return 0;
}

static int read_schedule(const struct sf_node *node, int *kind, const char **file, struct sf_err *err) {
    const char *word;
    SF_TRY(sf_node_str(node, &word, err));
    *file = "";
    *kind = SF_SCHEDULE_AUTO;
    return strcmp(word, "auto") == 0 ? 0 : sf_schedule_read(node, kind, file, err);
}

/* Families, auto, or one table. */
static int read_schedule_pin(const struct sf_io *io, const char *beside, const struct sf_node *node,
                             struct sf_pins *pins, struct sf_err *err) {
    struct sf_pin *pin = &pins->schedule;
    size_t room = sizeof pin->value / sizeof pin->value[0], n = sf_node_is_seq(node) ? sf_seq_size(node) : 1;
    if (n == 0 || n > room) {
        return sf_node_fail(node, err, "schedule lists 1 to %zu allowed values, found %zu; leave it out to allow all",
                            room, n);
    }
    for (size_t i = 0; i < n; i++) {
        const struct sf_node *one = sf_node_is_seq(node) ? sf_seq_at(node, i) : node;
        const char *file;
        int kind;
        SF_TRY(read_schedule(one, &kind, &file, err));
        for (uint32_t k = 0; k < pin->n; k++) {
            if (pin->value[k] == (uint32_t)kind) {
                return sf_node_fail(one, err, "schedule allows %s twice",
                                    kind == SF_SCHEDULE_TABLE ? "a table" : "the same value");
            }
        }
        pin->value[pin->n++] = (uint32_t)kind;
        if (kind == SF_SCHEDULE_TABLE) {
            SF_TRY(resolve(one, beside, pins->schedule_file, sizeof pins->schedule_file, err));
            SF_TRY(sf_schedule_load(io, "", pins->schedule_file, &pins->table, err));
            if (pins->table->slices > 1) { /* prices of passes are of whole sequences */
                return sf_node_fail(one, err, "a table of %u slices is for plan files; the planner searches without",
                                    pins->table->slices);
            }
        }
    }
    return 0;
}

static int read_layout(const struct sf_node *node, struct sf_layout *out, struct sf_err *err) {
    const char *text;
    struct sf_err why = {0};
    if (node == NULL) {
        return 0;
    }
    SF_TRY(sf_node_str(node, &text, err));
    return sf_layout_parse(text, out, &why) == 0 ? 0 : sf_node_fail(node, err, "%.200s", why.msg);
}

/* How many layers recompute, with the one kind that is pinned. */
static int read_recompute_layers(const struct sf_node *map, const char *const kinds[], struct sf_pins *pins,
                                 struct sf_err *err) {
    const struct sf_node *layers = sf_map_find(map, "recompute_layers"), *rest = sf_map_find(map, "recompute_rest");
    const struct sf_pin *kind = &pins->recompute;
    if (layers == NULL) {
        return rest == NULL ? 0 : sf_node_fail(rest, err, "recompute_rest is for what recompute_layers leaves out");
    }
    SF_TRY(read_u32(map, "recompute_layers", 1, SF_MAX_STAGES, &pins->recompute_layers, err));
    SF_TRY(rest == NULL ? 0 : sf_node_word(rest, kinds, &pins->recompute_rest, err));
    if (kind->n != 1 || kind->value[0] == SF_RECOMPUTE_NONE) {
        return sf_node_fail(layers, err, "recompute_layers needs one kind of recompute that is not none");
    }
    if (pins->recompute_rest == SF_RECOMPUTE_FULL || (uint32_t)pins->recompute_rest == kind->value[0]) {
        return sf_node_fail(rest, err, "recompute_rest must not be full, nor what recompute is");
    }
    return 0;
}

static int read_rules(const struct sf_node *map, const struct pin_rule *rules, size_t n, struct sf_err *err) {
    for (size_t i = 0; i < n; i++) {
        const struct sf_node *node = sf_map_find(map, rules[i].key);
        SF_TRY(node == NULL ? 0 : read_pin(&rules[i], node, err));
    }
    return 0;
}

static int read_pins(const struct sf_io *io, const char *beside, const struct sf_node *map, struct sf_pins *pins,
                     struct sf_err *err) {
    static const char *const recomputes[] = {
#define X(NAME, name) name,
        SF_RECOMPUTES(X)
#undef X
            NULL};
    static const char *const orders[] = {
#define X(NAME, name) name,
        SF_ORDERS(X)
#undef X
            NULL};
    static const char *const switches[] = {"false", "true", NULL}, *const expert_shares[] = {"tp", "1", NULL},
                             *const exchanges[] = {"ring", "gather", NULL}, *const tunings[] = {"nccl", "tuned", NULL};
    static const char *const keys[] = {"tp",
                                       "cp",
                                       "ep",
                                       "pp",
                                       "dp",
                                       "vpp",
                                       "micro_batch",
                                       "schedule",
                                       "recompute",
                                       "zero",
                                       "layout",
                                       "offload",
                                       "order",
                                       "etp",
                                       "slices",
                                       "cp_exchange",
                                       "whole_rows",
                                       "split_head",
                                       "zero_group",
                                       "recompute_layers",
                                       "recompute_rest",
                                       "collectives",
                                       NULL};
    const struct pin_rule rules[] = {
        {"tp", &pins->tp, NULL, 1, SF_MAX_RANKS},
        {"ep", &pins->ep, NULL, 1, SF_MAX_RANKS},
        {"pp", &pins->pp, NULL, 1, SF_MAX_STAGES},
        {"dp", &pins->dp, NULL, 1, SF_MAX_RANKS},
        {"vpp", &pins->vpp, NULL, 1, SF_MAX_STAGES},
        {"micro_batch", &pins->micro_batch, NULL, 1, 1u << 20},
        {"recompute", &pins->recompute, recomputes, 0, 0},
        {"order", &pins->order, orders, 0, 0},
        {"zero", &pins->zero, NULL, 0, 3},
        {"cp", &pins->cp, NULL, 1, SF_MAX_STAGES},
        {"etp", &pins->etp, expert_shares, 0, 0},
        {"cp_exchange", &pins->cp_exchange, exchanges, 0, 0},
        {"whole_rows", &pins->whole_rows, switches, 0, 0},
        {"split_head", &pins->split_head, switches, 0, 0},
        {"slices", &pins->slices, NULL, 1, SF_MAX_SLICES - 1},
        {"zero_group", &pins->zero_group, NULL, 0, SF_MAX_RANKS},
        {"collectives", &pins->collectives, tunings, 0, 0},
    };
    if (map == NULL) {
        return 0;
    }
    SF_TRY(sf_map_only(map, keys, err));
    SF_TRY(read_rules(map, rules, sizeof rules / sizeof rules[0], err));
    SF_TRY(read_u32(map, "offload", 0, SF_MAX_STAGES, &pins->offload, err));
    SF_TRY(read_recompute_layers(map, recomputes, pins, err));
    SF_TRY(read_layout(sf_map_find(map, "layout"), &pins->layout, err));
    const struct sf_node *schedule = sf_map_find(map, "schedule");
    return schedule == NULL ? 0 : read_schedule_pin(io, beside, schedule, pins, err);
}

/* Layers that predict further are where the loss is. */
static int check_further(const struct sf_node *plan, const struct sf_scenario *s, struct sf_err *err) {
    uint32_t named = s->pins.layout.mtp, mtp = s->model.mtp;
    if (s->pins.layout.stages > 0 && named != mtp) {
        return sf_node_fail(sf_map_find(plan, "layout"), err,
                            "layout has %u layers that predict further (m), the model %u", named, mtp);
    }
    return 0;
}

static int read_name(const struct sf_node *map, char *out, size_t size, struct sf_err *err) {
    const struct sf_node *node;
    const char *text;
    SF_TRY(sf_map_need(map, "name", &node, err));
    SF_TRY(sf_node_str(node, &text, err));
    if (text[0] == '\0' || strlen(text) >= size) {
        return sf_node_fail(node, err, "name has 1 to %zu characters, found %zu", size - 1, strlen(text));
    }
    for (const char *p = text; *p != '\0'; p++) {
        if (*p < ' ' || *p > '~') {
            return sf_node_fail(node, err, "name must be printable ASCII");
        }
    }
    snprintf(out, size, "%s", text);
    return 0;
}

int sf_cluster_apply(const struct sf_io *io, const struct sf_cluster_change *change, struct sf_topo *topo,
                     struct sf_err *err) {
    if (change->overlay != NULL) {
        SF_TRY(sf_topo_load_overlay(io, change->overlay, topo, err));
    }
    SF_TRY(change->times != NULL ? sf_topo_set_times(topo, change->times, err) : 0);
    return change->routing < 0 ? 0
                               : sf_topo_set_routing(topo, (enum sf_routing)change->routing, change->routing_seed, err);
}

static int load_topo(const struct sf_io *io, const struct sf_node *map, const char *catalog_dir, const char *override,
                     struct sf_scenario *s, struct sf_err *err) {
    const struct sf_node *node = sf_map_find(map, "cluster");
    char path[sizeof s->path];
    if (override != NULL) {
        return sf_topo_load(io, override, catalog_dir, &s->topo, err);
    }
    if (node == NULL) {
        return sf_node_fail(map, err, "the scenario names no cluster; add the key or give a cluster file");
    }
    SF_TRY(resolve(node, s->path, path, sizeof path, err));
    return sf_topo_load(io, path, catalog_dir, &s->topo, err);
}

static int read_scenario(const struct sf_io *io, const struct sf_node *map, const char *catalog_dir,
                         const char *override, const struct sf_cluster_change *change, struct sf_scenario *s,
                         struct sf_err *err) {
    static const char *const keys[] = {"name", "cluster", "model", "job", "plan", NULL};
    const struct sf_node *node;
    char path[sizeof s->path];
    if (!sf_node_is_map(map)) {
        return sf_node_fail(map, err, "expected a scenario: a mapping of name, cluster, model, job and plan");
    }
    SF_TRY(sf_map_only(map, keys, err));
    SF_TRY(read_name(map, s->name, sizeof s->name, err));
    SF_TRY(load_topo(io, map, catalog_dir, override, s, err));
    SF_TRY(sf_cluster_apply(io, change, s->topo, err));
    SF_TRY(sf_map_need(map, "model", &node, err));
    SF_TRY(resolve(node, s->path, path, sizeof path, err));
    SF_TRY(sf_model_load(io, path, &s->model, err));
    SF_TRY(sf_map_need(map, "job", &node, err));
    SF_TRY(read_job(node, change, s, err));
    SF_TRY(read_pins(io, s->path, sf_map_find(map, "plan"), &s->pins, err));
    SF_TRY(check_further(sf_map_find(map, "plan"), s, err));
    return change->overlay != NULL && change->fewer ? take_fewer(node, s, err) : 0;
}

int sf_scenario_load(const struct sf_io *io, const char *path, const char *catalog_dir, const char *cluster_override,
                     struct sf_scenario *out, struct sf_err *err) {
    static const struct sf_cluster_change none = {.routing = -1};
    return sf_scenario_load_on(io, path, catalog_dir, cluster_override, &none, out, err);
}

int sf_scenario_load_on(const struct sf_io *io, const char *path, const char *catalog_dir, const char *cluster_override,
                        const struct sf_cluster_change *change, struct sf_scenario *out, struct sf_err *err) {
    struct sf_doc *doc;
    memset(out, 0, sizeof *out);
    if (strlen(path) >= sizeof out->path) {
        return sf_fail(err, SF_E_INPUT, "the scenario's path is longer than %zu bytes", sizeof out->path - 1);
    }
    snprintf(out->path, sizeof out->path, "%s", path);
    SF_TRY(sf_doc_load(io, path, &doc, err));
    int rc = read_scenario(io, sf_doc_root(doc), catalog_dir, cluster_override, change, out, err);
    sf_doc_free(doc);
    if (rc != 0) {
        sf_scenario_clear(out);
    }
    return rc;
}

void sf_scenario_clear(struct sf_scenario *s) {
    sf_topo_free(s->topo);
    sf_pipe_free(s->pins.table);
    s->topo = NULL;
    s->pins.table = NULL;
}

void sf_scenario_narrow(const struct sf_scenario *s, const struct sf_plan *plan, struct sf_scenario *out) {
    *out = *s;
    out->job.gpus = plan->gpus > 0 ? plan->gpus : s->job.gpus;
}

uint64_t sf_scenario_memory(const struct sf_scenario *s) {
    return sf_seats_memory(s->topo) - s->job.memory_reserve_bytes;
}

struct sf_hash sf_scenario_hash(const struct sf_scenario *s) {
    const struct sf_job *j = &s->job;
    char model[SF_HASH_TEXT], text[768];
    int n = snprintf(text, sizeof text,
                     "scenario 1 model %s gpus %u seats %u domain %u memory %llu seq %u batch %llu precision %d "
                     "canonical %d seed %llu adamw %.17g %.17g %.17g %.17g %.17g %u",
                     sf_hash_format(s->model.hash, model), j->gpus, sf_topo_gpus(s->topo), sf_topo_domain_gpus(s->topo),
                     (unsigned long long)sf_topo_device(s->topo)->memory_bytes, j->seq_len_tokens,
                     (unsigned long long)j->global_batch_sequences, j->precision, j->canonical,
                     (unsigned long long)j->seed, j->lr, j->beta1, j->beta2, j->eps, j->weight_decay, j->warmup_steps);
    if (j->clip_norm > 0 || j->lean_moments) { /* plans of other jobs keep the hash that they have had */
        n += snprintf(text + n, sizeof text - (size_t)n, " clip %.17g lean %d", j->clip_norm, j->lean_moments);
    }
    if (s->model.vocab_padding > 0 || j->loss_rows > 0) {
        n += snprintf(text + n, sizeof text - (size_t)n, " padding %u loss %u", s->model.vocab_padding, j->loss_rows);
    }
    if (j->memory_reserve_bytes > 0) {
        n += snprintf(text + n, sizeof text - (size_t)n, " reserve %llu", (unsigned long long)j->memory_reserve_bytes);
    }
    return sf_hash_bytes(text, (size_t)n);
}
