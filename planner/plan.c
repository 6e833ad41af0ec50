/* Plans as files: one key per choice, in a fixed order, with a comment on each, and back. */
#include "planner/plan.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/arena.h"
#include "core/doc.h"
#include "planner/picks.h"
#include "planner/plan_layout.h"

#define PLAN_VERSION 1
#define TABLE_MAX_BYTES ((size_t)256 << 20)

static const char *const order_words[] = {
#define X(NAME, name) name,
    SF_ORDERS(X)
#undef X
        NULL};

const char *sf_order_name(int order) {
    return order >= 0 && order < SF_ORDERS_N ? order_words[order] : "?";
}

static const char *const recompute_words[] = {
#define X(NAME, name) name,
    SF_RECOMPUTES(X)
#undef X
        NULL};

const char *sf_schedule_name(int kind) {
    return kind == SF_SCHEDULE_AUTO ? "auto" : kind == SF_SCHEDULE_TABLE ? "table" : sf_pipe_family_name(kind);
}

const char *sf_plan_schedule_text(const struct sf_plan *plan) {
    bool made = plan->schedule == SF_SCHEDULE_TABLE && plan->schedule_file[0] == '\0';
    return made ? "auto" : sf_schedule_name(plan->schedule);
}

int sf_schedule_parse(const char *name) {
    int family = sf_pipe_family_parse(name);
    return family < 0 && strchr(name, '.') != NULL ? SF_SCHEDULE_TABLE : family;
}

const char *sf_recompute_name(int kind) {
    return kind >= 0 && kind < SF_RECOMPUTES_N ? recompute_words[kind] : "?";
}

const char *sf_plan_recompute_text(const struct sf_plan *plan, char *out, size_t size) {
    uint32_t again = 0, layers = 0;
    for (uint32_t v = 0; v < plan->pp * plan->vpp && plan->partly; v++) {
        again += plan->recompute_layers[v];
        layers += plan->layers[v];
    }
    int n = snprintf(out, size, "%s", sf_recompute_name(plan->recompute));
    if (plan->partly && n > 0 && (size_t)n < size) {
        bool other = plan->recompute_rest != SF_RECOMPUTE_NONE;
        snprintf(out + n, size - (size_t)n, " %u/%u%s%s", again, layers, other ? ", " : "",
                 other ? sf_recompute_name(plan->recompute_rest) : "");
    }
    return out;
}

/* A double-quoted YAML text. Bytes beyond ASCII are UTF-8 and pass as they are. */
static void print_quoted(const char *text, struct sf_buf *out) {
    sf_buf_printf(out, "\"");
    for (const char *p = text; *p != '\0'; p++) {
        unsigned char c = (unsigned char)*p;
        if (c == '"' || c == '\\') {
            sf_buf_printf(out, "\\%c", c);
        } else if (c < 0x20 || c == 0x7f) {
            sf_buf_printf(out, "\\x%02x", c);
        } else {
            sf_buf_write(out, p, 1);
        }
    }
    sf_buf_printf(out, "\"");
}

static void print_schedule(const struct sf_plan *plan, struct sf_buf *out) {
    sf_buf_printf(out, "schedule: ");
    if (plan->schedule == SF_SCHEDULE_TABLE) {
        print_quoted(plan->schedule_file, out);
        sf_buf_printf(out, " # a table of passes\n");
    } else {
        sf_buf_printf(out, "%s\n", sf_schedule_name(plan->schedule));
    }
}

/* One number per virtual stage, a line for each chunk. */
static void print_stages(const struct sf_plan *plan, const char *key, const uint32_t *of, struct sf_buf *out) {
    sf_buf_printf(out, "%s: [", key);
    for (uint32_t chunk = 0; chunk < plan->vpp; chunk++) {
        for (uint32_t stage = 0; stage < plan->pp; stage++) {
            uint32_t s = chunk * plan->pp + stage;
            const char *gap = s == 0 ? "" : stage == 0 ? ",\n" : ", ";
            int indent = s > 0 && stage == 0 ? (int)strlen(key) + 3 : 0;
            sf_buf_printf(out, "%s%*s%u", gap, indent, "", of[s]);
        }
    }
    sf_buf_printf(out, "]\n");
}

static void print_layers(const struct sf_plan *plan, struct sf_buf *out) {
    sf_buf_printf(out, "# Layers of each virtual stage in data order.\n");
    print_stages(plan, "layers", plan->layers, out);
}

static void print_degrees(const char *key, const struct sf_plan *plan, const uint32_t *of, struct sf_buf *out) {
    for (uint32_t i = 0; i < plan->pp && of[0] != 0; i++) {
        sf_buf_printf(out, "%s%s%u", i == 0 ? key : "", i == 0 ? ": [" : ", ", of[i]);
        sf_buf_printf(out, "%s", i + 1 == plan->pp ? "] # of each rank of the pipeline\n" : "");
    }
}

static void print_recompute(const struct sf_plan *plan, struct sf_buf *out) {
    sf_buf_printf(out, "recompute: %s\n", sf_recompute_name(plan->recompute));
    if (!plan->partly) {
        return;
    }
    sf_buf_printf(out, "# Of each virtual stage, its first layers that do; the others: recompute_rest, or none.\n");
    print_stages(plan, "recompute_layers", plan->recompute_layers, out);
    if (plan->recompute_rest != SF_RECOMPUTE_NONE) {
        sf_buf_printf(out, "recompute_rest: %s\n", sf_recompute_name(plan->recompute_rest));
    }
}

int sf_plan_print(const struct sf_plan *plan, struct sf_hash scenario_hash, struct sf_buf *out) {
    char hash[SF_HASH_TEXT];
    sf_buf_printf(
        out,
        "# A plan: every choice that turns the scenario into a program. Edit it freely; it is checked again.\n"
        "plan_version: %d\nscenario: ",
        PLAN_VERSION);
    print_quoted(plan->scenario, out);
    if (plan->cluster[0] != '\0') {
        sf_buf_printf(out, "\ncluster: ");
        print_quoted(plan->cluster, out);
        sf_buf_printf(out, " # instead of the scenario's");
    }
    if (plan->overlay[0] != '\0') {
        sf_buf_printf(out, "\noverlay: ");
        print_quoted(plan->overlay, out);
        sf_buf_printf(out, " # on top of the cluster");
    }
    sf_buf_printf(out, "\nscenario_hash: \"%s\" # of cluster shape, model and job\n",
                  sf_hash_format(scenario_hash, hash));
    sf_buf_printf(out, "tp: %u # ranks that share each matrix\n", plan->tp);
    print_degrees("stage_tp", plan, plan->stage_tp, out);
    if (sf_plan_cp(plan) > 1) {
        sf_buf_printf(out, "cp: %u # ranks that share each sequence\ncp_exchange: %s\n", plan->cp,
                      plan->cp_gather ? "gather" : "ring");
    }
    sf_buf_printf(out, "ep: %u # ranks that share the experts, part of dp\n", plan->ep);
    print_degrees("stage_ep", plan, plan->stage_ep, out);
    if (sf_plan_etp(plan) != plan->tp) {
        sf_buf_printf(out, "etp: %u # ranks that share each expert's matrices; ep takes in those of tp\n", plan->etp);
    }
    sf_buf_printf(out, "dp: %u # replicas that share the batch; gpus = tp * dp * pp\n", plan->dp);
    sf_buf_printf(out, "pp: %u # pipeline stages\n", plan->pp);
    sf_buf_printf(out, "vpp: %u # chunks of layers per stage\n", plan->vpp);
    sf_buf_printf(out, "micro_batch: %u # sequences\n", plan->micro_batch);
    sf_buf_printf(out, "microbatches: %u # per rank and step\n", plan->microbatches);
    print_schedule(plan, out);
    if (sf_plan_slices(plan) > 1) {
        sf_buf_printf(out, "slices: %u # of every sequence, each with passes of its own\n", sf_plan_slices(plan));
    }
    print_recompute(plan, out);
    sf_buf_printf(out, "zero: %u # shared over dp from 1 on: optimizer state; 2: gradients; 3: weights\n", plan->zero);
    if (plan->gpus > 0) {
        sf_buf_printf(out, "gpus: %u # in use, fewer than the job's\n", plan->gpus);
    }
    if (plan->zero_group > 0) {
        sf_buf_printf(out, "zero_group: %u # ranks that share it among them; the groups add up their sums\n",
                      plan->zero_group);
    }
    if (plan->offload > 0) {
        sf_buf_printf(out, "offload: %u # first layers of each virtual stage whose activations wait on the host\n",
                      plan->offload);
    }
    if (plan->split_head) {
        sf_buf_printf(out, "split_head: true # every stage has an equal part of the vocabulary's head\n");
    }
    if (plan->whole_rows) {
        sf_buf_printf(out, "whole_rows: true # norms and residuals are repeated on all tp ranks\n");
    }
    sf_buf_printf(out, "canonical: %s # sums in one fixed order, the same for every layout\n",
                  plan->canonical ? "true" : "false");
    if (plan->order != SF_ORDER_PP_LAST) {
        sf_buf_printf(out, "order: %s # of the ranks, innermost first\n", sf_order_name(plan->order));
    }
    sf_buf_printf(out, "ranks_per_domain: %u # seats used of each scale-up domain\n", plan->ranks_per_domain);
    sfi_picks_print(plan, out);
    print_layers(plan, out);
    return out->failed ? SF_E_INTERNAL : 0;
}

static int need_u32(const struct sf_node *map, const char *key, uint32_t lo, uint32_t hi, uint32_t *out,
                    struct sf_err *err) {
    const struct sf_node *node;
    int64_t value;
    SF_TRY(sf_map_need(map, key, &node, err));
    SF_TRY(sf_node_i64(node, lo, hi, &value, err));
    *out = (uint32_t)value;
    return 0;
}

static int need_word(const struct sf_node *map, const char *key, const char *const words[], int *out,
                     struct sf_err *err) {
    const struct sf_node *node;
    SF_TRY(sf_map_need(map, key, &node, err));
    return sf_node_word(node, words, out, err);
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int read_hash(const struct sf_node *map, struct sf_hash *out, struct sf_err *err) {
    const struct sf_node *node;
    const char *text;
    uint64_t half[2] = {0, 0};
    SF_TRY(sf_map_need(map, "scenario_hash", &node, err));
    SF_TRY(sf_node_str(node, &text, err));
    size_t n = 0;
    for (; text[n] != '\0' && n < SF_HASH_TEXT; n++) {
        int digit = hex_digit(text[n]);
        if (digit < 0 || n == SF_HASH_TEXT - 1) {
            break;
        }
        half[n / 16] = half[n / 16] << 4 | (uint64_t)digit;
    }
    if (n != SF_HASH_TEXT - 1 || text[n] != '\0') {
        return sf_node_fail(node, err, "expected %d lower-case hex digits, found \"%s\"", SF_HASH_TEXT - 1, text);
    }
    *out = (struct sf_hash){.hi = half[0], .lo = half[1]};
    return 0;
}

/* Instead of `layers`. */
static int read_layout(const struct sf_node *map, uint64_t stages, struct sf_plan *p, struct sf_err *err) {
    const struct sf_node *node = sf_map_find(map, "layout");
    const char *text;
    struct sf_layout layout;
    SF_TRY(sf_node_str(node, &text, err));
    if (sf_map_find(map, "layers") != NULL) {
        return sf_node_fail(node, err, "layers and layout mean the same; keep one of them");
    }
    struct sf_err why = {0};
    if (sf_layout_parse(text, &layout, &why) != 0) {
        return sf_node_fail(node, err, "%.200s", why.msg);
    }
    if (layout.stages != stages) {
        return sf_node_fail(node, err, "layout has %u virtual stages, pp %u * vpp %u are %llu", layout.stages, p->pp,
                            p->vpp, (unsigned long long)stages);
    }
    memcpy(p->layers, layout.layers, stages * sizeof *p->layers);
    return 0;
}

static int read_stages(const struct sf_node *node, const char *key, const struct sf_plan *p, uint32_t *out,
                       struct sf_err *err) {
    uint64_t stages = (uint64_t)p->pp * p->vpp;
    if (!sf_node_is_seq(node) || stages > SF_MAX_STAGES || sf_seq_size(node) != stages) {
        return sf_node_fail(node, err, "%s lists one count per virtual stage: pp %u * vpp %u = %llu (at most %d)", key,
                            p->pp, p->vpp, (unsigned long long)stages, SF_MAX_STAGES);
    }
    for (uint32_t i = 0; i < stages; i++) {
        int64_t value;
        SF_TRY(sf_node_i64(sf_seq_at(node, i), 0, 4096, &value, err));
        out[i] = (uint32_t)value;
    }
    return 0;
}

/* Of one degree, `most` for the whole pipeline. */
static int read_degrees(const struct sf_node *map, const char *key, const struct sf_plan *p, uint32_t most,
                        uint32_t *out, struct sf_err *err) {
    const struct sf_node *node = sf_map_find(map, key);
    if (node == NULL) {
        return 0;
    }
    if (!sf_node_is_seq(node) || sf_seq_size(node) != p->pp) {
        return sf_node_fail(node, err, "%s lists one degree per rank of the pipeline: pp %u", key, p->pp);
    }
    for (uint32_t i = 0; i < p->pp; i++) {
        int64_t value;
        SF_TRY(sf_node_i64(sf_seq_at(node, i), 1, most, &value, err));
        out[i] = (uint32_t)value;
        if (most % out[i] != 0) {
            return sf_node_fail(sf_seq_at(node, i), err, "expected a divisor of %s %u, found %u",
                                key + strlen("stage_"), most, out[i]);
        }
    }
    return 0;
}

static int read_layers(const struct sf_node *map, struct sf_plan *p, struct sf_err *err) {
    const struct sf_node *node;
    if (sf_map_find(map, "layout") != NULL) {
        return read_layout(map, (uint64_t)p->pp * p->vpp, p, err);
    }
    SF_TRY(sf_map_need(map, "layers", &node, err));
    return read_stages(node, "layers", p, p->layers, err);
}

/* A number is for all virtual stages alike. */
static int read_recompute(const struct sf_node *map, struct sf_plan *p, struct sf_err *err) {
    const struct sf_node *node = sf_map_find(map, "recompute_layers"), *rest = sf_map_find(map, "recompute_rest");
    int64_t value;
    SF_TRY(need_word(map, "recompute", recompute_words, &p->recompute, err));
    if (node == NULL) {
        return rest == NULL ? 0 : sf_node_fail(rest, err, "recompute_rest is for what recompute_layers leaves out");
    }
    p->partly = true;
    SF_TRY(rest == NULL ? 0 : sf_node_word(rest, recompute_words, &p->recompute_rest, err));
    if (sf_node_is_seq(node)) {
        return read_stages(node, "recompute_layers", p, p->recompute_layers, err);
    }
    SF_TRY(sf_node_i64(node, 0, 4096, &value, err));
    for (uint64_t i = 0; i < (uint64_t)p->pp * p->vpp && i < SF_MAX_STAGES; i++) {
        p->recompute_layers[i] = (uint32_t)value;
    }
    return 0;
}

static int read_path(const struct sf_node *node, char *out, size_t size, struct sf_err *err) {
    const char *text;
    SF_TRY(sf_node_str(node, &text, err));
    if (strlen(text) >= size) {
        return sf_node_fail(node, err, "the path is longer than %zu bytes", size - 1);
    }
    snprintf(out, size, "%s", text);
    return 0;
}

static int read_paths(const struct sf_node *map, struct sf_plan *p, struct sf_err *err) {
    const struct sf_node *scenario, *cluster = sf_map_find(map, "cluster"), *overlay = sf_map_find(map, "overlay");
    SF_TRY(sf_map_need(map, "scenario", &scenario, err));
    SF_TRY(read_path(scenario, p->scenario, sizeof p->scenario, err));
    p->cluster[0] = '\0';
    p->overlay[0] = '\0';
    SF_TRY(overlay == NULL ? 0 : read_path(overlay, p->overlay, sizeof p->overlay, err));
    return cluster == NULL ? 0 : read_path(cluster, p->cluster, sizeof p->cluster, err);
}

int sf_schedule_read(const struct sf_node *node, int *kind, const char **file, struct sf_err *err) {
    static const char *const families[] = {
#define X(NAME, name, chunks, text) name,
        SF_PIPE_FAMILIES(X)
#undef X
            NULL};
    const char *text;
    SF_TRY(sf_node_str(node, &text, err));
    *kind = sf_schedule_parse(text);
    *file = *kind == SF_SCHEDULE_TABLE ? text : "";
    return *kind < 0 ? sf_node_word(node, families, kind, err) : 0;
}

/* Only to see whether the table is complete and nobody waits in a circle: any times will do. */
static int replay_table(const struct sf_pipe *table, struct sf_err *err) {
    const struct sf_pipe_spec spec = {.devices = table->devices, .f = 1000000, .b = 1000000, .w = 1000000};
    struct sf_pipe_costs costs;
    struct sf_pipe_timing timing;
    SF_TRY(sf_pipe_costs_create(table, &spec, &costs, err));
    int rc = sf_pipe_replay(table, &costs, &timing, NULL, NULL, err);
    sf_pipe_costs_clear(&costs);
    return rc;
}

/* Opening a pipe would wait for whoever writes to it, perhaps forever. */
static int refuse_pipe(const char *path, struct sf_err *err) {
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        return sf_fail_at(err, SF_E_INPUT, path, 0, 0, "expected a regular file with a table of passes");
    }
    return 0;
}

int sf_schedule_load(const struct sf_io *io, const char *beside, const char *file, struct sf_pipe **out,
                     struct sf_err *err) {
    char path[1100], *text = NULL;
    const char *slash = file[0] == '/' ? NULL : strrchr(beside, '/');
    size_t bytes;
    snprintf(path, sizeof path, "%.*s%s", slash ? (int)(slash - beside) + 1 : 0, beside, file);
    *out = NULL;
    SF_TRY(io == &sf_io_posix ? refuse_pipe(path, err) : 0);
    SF_TRY(io->read_all(io->self, path, TABLE_MAX_BYTES, &text, &bytes, err));
    int rc = sf_pipe_read_csv(text, bytes, path, out, err);
    sf_free(text);
    if (rc == 0 && replay_table(*out, err) != 0) {
        rc = sf_err_wrap(err, "schedule %s", path);
        sf_pipe_free(*out);
        *out = NULL;
    }
    return rc;
}

static int read_schedule(const struct sf_io *io, const char *path, const struct sf_node *map, struct sf_plan *p,
                         struct sf_err *err) {
    const struct sf_node *node;
    const char *file;
    SF_TRY(sf_map_need(map, "schedule", &node, err));
    SF_TRY(sf_schedule_read(node, &p->schedule, &file, err));
    if (p->schedule != SF_SCHEDULE_TABLE) {
        return 0;
    }
    SF_TRY(read_path(node, p->schedule_file, sizeof p->schedule_file, err));
    return sf_schedule_load(io, path, file, &p->table, err);
}

void sf_plan_clear(struct sf_plan *plan) {
    sf_pipe_free(plan->table);
    plan->table = NULL;
}

static int read_cp(const struct sf_node *map, struct sf_plan *p, struct sf_err *err) {
    static const char *const exchanges[] = {"ring", "gather", NULL};
    int gather = 0;
    SF_TRY(sf_map_find(map, "cp") == NULL ? 0 : need_u32(map, "cp", 1, 1u << 24, &p->cp, err));
    SF_TRY(sf_map_find(map, "cp_exchange") == NULL ? 0 : need_word(map, "cp_exchange", exchanges, &gather, err));
    p->cp_gather = gather != 0 && p->cp > 1;
    return 0;
}

static int read_choices(const struct sf_node *map, struct sf_plan *p, struct sf_err *err) {
    const struct sf_node *canonical;
    SF_TRY(need_u32(map, "tp", 1, 1u << 24, &p->tp, err));
    SF_TRY(need_u32(map, "ep", 1, 1u << 24, &p->ep, err));
    SF_TRY(need_u32(map, "dp", 1, 1u << 24, &p->dp, err));
    SF_TRY(read_cp(map, p, err));
    SF_TRY(sf_map_find(map, "etp") == NULL ? 0 : need_u32(map, "etp", 1, 1u << 24, &p->etp, err));
    SF_TRY(need_u32(map, "pp", 1, SF_MAX_STAGES, &p->pp, err));
    SF_TRY(need_u32(map, "vpp", 1, SF_MAX_STAGES, &p->vpp, err));
    SF_TRY(read_degrees(map, "stage_tp", p, p->tp, p->stage_tp, err));
    SF_TRY(read_degrees(map, "stage_ep", p, p->ep, p->stage_ep, err));
    SF_TRY(need_u32(map, "micro_batch", 1, 1u << 20, &p->micro_batch, err));
    SF_TRY(need_u32(map, "microbatches", 1, 1u << 20, &p->microbatches, err));
    SF_TRY(sf_map_find(map, "slices") == NULL ? 0 : need_u32(map, "slices", 1, SF_MAX_SLICES - 1, &p->slices, err));
    SF_TRY(read_recompute(map, p, err));
    SF_TRY(need_u32(map, "zero", 0, 3, &p->zero, err));
    SF_TRY(sf_map_find(map, "gpus") == NULL ? 0 : need_u32(map, "gpus", 1, UINT32_MAX, &p->gpus, err));
    SF_TRY(sf_map_find(map, "zero_group") == NULL ? 0 : need_u32(map, "zero_group", 1, 1u << 24, &p->zero_group, err));
    SF_TRY(sf_map_find(map, "offload") == NULL ? 0 : need_u32(map, "offload", 0, 4096, &p->offload, err));
    SF_TRY(sf_map_need(map, "canonical", &canonical, err));
    SF_TRY(sf_node_bool(canonical, &p->canonical, err));
    const struct sf_node *head = sf_map_find(map, "split_head");
    SF_TRY(head == NULL ? 0 : sf_node_bool(head, &p->split_head, err));
    const struct sf_node *rows = sf_map_find(map, "whole_rows");
    if (rows != NULL) {
        SF_TRY(sf_node_bool(rows, &p->whole_rows, err));
    }
    SF_TRY(sf_map_find(map, "order") == NULL ? 0 : need_word(map, "order", order_words, &p->order, err));
    SF_TRY(need_u32(map, "ranks_per_domain", 1, 1u << 24, &p->ranks_per_domain, err));
    const struct sf_node *collectives = sf_map_find(map, "collectives");
    SF_TRY(collectives == NULL ? 0 : sfi_picks_read(collectives, p, err));
    return read_layers(map, p, err);
}

static int read_plan(const struct sf_node *map, struct sf_plan *out, struct sf_hash *hash, struct sf_err *err) {
    static const char *const keys[] = {"plan_version",
                                       "scenario",
                                       "scenario_hash",
                                       "tp",
                                       "ep",
                                       "dp",
                                       "pp",
                                       "vpp",
                                       "micro_batch",
                                       "microbatches",
                                       "schedule",
                                       "recompute",
                                       "zero",
                                       "canonical",
                                       "ranks_per_domain",
                                       "layers",
                                       "cluster",
                                       "overlay",
                                       "whole_rows",
                                       "cp",
                                       "cp_exchange",
                                       "etp",
                                       "layout",
                                       "split_head",
                                       "slices",
                                       "offload",
                                       "gpus",
                                       "zero_group",
                                       "order",
                                       "recompute_layers",
                                       "recompute_rest",
                                       "collectives",
                                       "stage_tp",
                                       "stage_ep",
                                       NULL};
    uint32_t version;
    if (!sf_node_is_map(map)) {
        return sf_node_fail(map, err, "expected a plan: a mapping written by staticfire plan");
    }
    SF_TRY(need_u32(map, "plan_version", 1, UINT32_MAX, &version, err));
    if (version != PLAN_VERSION) {
        return sf_node_fail(sf_map_find(map, "plan_version"), err,
                            "expected plan version %d, found %u: plan again with this release", PLAN_VERSION, version);
    }
    SF_TRY(sf_map_only(map, keys, err));
    SF_TRY(read_paths(map, out, err));
    SF_TRY(read_hash(map, hash, err));
    return read_choices(map, out, err);
}

int sf_plan_load(const struct sf_io *io, const char *path, struct sf_plan *out, struct sf_hash *scenario_hash,
                 struct sf_err *err) {
    struct sf_doc *doc;
    memset(out, 0, sizeof *out);
    SF_TRY(sf_doc_load(io, path, &doc, err));
    int rc = read_plan(sf_doc_root(doc), out, scenario_hash, err);
    rc = rc == 0 ? read_schedule(io, path, sf_doc_root(doc), out, err) : rc;
    sf_doc_free(doc);
    return rc;
}
