/* The kernel model of a device: a file of topo/catalog/kernels, written by its fit.py. */
#include <stdio.h>

#include "topo/topo_state.h"

/* A plain number of a group and the range that makes sense for it. */
struct number {
    const char *key;
    double lo, hi;
    double *out;
};

static int read_numbers(const struct sf_node *map, const struct number *numbers, size_t n, struct sf_err *err) {
    for (size_t i = 0; i < n; i++) {
        const struct sf_node *v;
        SF_TRY(sf_map_need(map, numbers[i].key, &v, err));
        SF_TRY(sf_node_f64(v, numbers[i].lo, numbers[i].hi, numbers[i].out, err));
    }
    return 0;
}

static int read_p90(const struct sf_node *map, double *out, struct sf_err *err) {
    const struct sf_node *v = sf_map_find(map, "p90");
    return v ? sf_node_f64(v, 0, 10, out, err) : 0;
}

static int read_time(const struct sf_node *map, const char *key, sf_time_ps *out, struct sf_err *err) {
    const struct sf_node *v;
    SF_TRY(sf_map_need(map, key, &v, err));
    return sf_node_time(v, out, err);
}

static int read_range(const struct sf_node *map, const char *key, struct sf_measured_range *out, struct sf_err *err) {
    const struct sf_node *v;
    int64_t lo, hi;
    SF_TRY(sf_map_need(map, key, &v, err));
    if (!sf_node_is_seq(v) || sf_seq_size(v) != 2) {
        return sf_node_fail(v, err, "expected the smallest and the largest size measured, such as [256, 8192]");
    }
    SF_TRY(sf_node_i64(sf_seq_at(v, 0), 1, INT64_MAX, &lo, err));
    SF_TRY(sf_node_i64(sf_seq_at(v, 1), lo, INT64_MAX, &hi, err));
    *out = (struct sf_measured_range){(uint64_t)lo, (uint64_t)hi};
    return 0;
}

static int read_gemm(const struct sfi_catalog *c, const char *owner, const struct sf_node *root, int dtype,
                     struct sf_gemm_model *g, struct sf_err *err) {
    static const char *const keys[] = {"peak_share",   "tile_loss",  "k_prologue", "wave", "launch",
                                       "memory_share", "cast_share", "m",          "n",    "k",
                                       "p90",          "source",     "grade",      NULL};
    const struct number numbers[] = {
        {"peak_share", 0.01, 1, &g->peak_share},     {"tile_loss", 0, 1000, &g->tile_loss},
        {"k_prologue", 0, 100000, &g->k_prologue},   {"wave", 0, 1, &g->wave},
        {"memory_share", 0.01, 1, &g->memory_share}, {"cast_share", 0.01, 1, &g->cast_share}};
    char key[24];
    snprintf(key, sizeof key, "gemm_%s", sf_dtype_name(dtype));
    const struct sf_node *map = sf_map_find(root, key);
    if (map == NULL) {
        return 0;
    }
    bool casts = dtype >= SF_FP8; /* inputs arrive in bf16 and are quantised first */
    SF_TRY(sf_map_only(map, keys, err));
    SF_TRY(read_numbers(map, numbers, casts ? 6 : 5, err));
    SF_TRY(read_time(map, "launch", &g->launch_ps, err));
    SF_TRY(read_range(map, "m", &g->m, err));
    SF_TRY(read_range(map, "n", &g->n, err));
    SF_TRY(read_range(map, "k", &g->k, err));
    SF_TRY(read_p90(map, &g->p90, err));
    return sfi_catalog_note(c->t, owner, key, map, "fitted", &g->grade, err);
}

static int read_attention(const struct sfi_catalog *c, const char *owner, const struct sf_node *root, const char *key,
                          struct sf_attn_model *a, struct sf_err *err) {
    static const char *const keys[] = {"peak_share", "softmax_dim", "seq_prologue", "seq", "head_dim",
                                       "p90",        "source",      "grade",        NULL};
    const struct number numbers[] = {{"peak_share", 0.01, 1, &a->peak_share},
                                     {"softmax_dim", 0, 10000, &a->softmax_dim},
                                     {"seq_prologue", 0, 100000, &a->seq_prologue}};
    const struct sf_node *map;
    SF_TRY(sf_map_need(root, key, &map, err));
    SF_TRY(sf_map_only(map, keys, err));
    SF_TRY(read_numbers(map, numbers, 3, err));
    SF_TRY(read_range(map, "seq", &a->seq, err));
    SF_TRY(read_range(map, "head_dim", &a->head_dim, err));
    SF_TRY(read_p90(map, &a->p90, err));
    return sfi_catalog_note(c->t, owner, key, map, "fitted", &a->grade, err);
}

static int read_memory(const struct sfi_catalog *c, const char *owner, const struct sf_node *root,
                       struct sf_kernel_model *k, struct sf_err *err) {
    static const char *const keys[] = {"launch", "share", "p90", "source", "grade", NULL};
    const struct number share = {"share", 0.01, 1, &k->memory_share};
    const struct sf_node *map;
    SF_TRY(sf_map_need(root, "memory", &map, err));
    SF_TRY(sf_map_only(map, keys, err));
    SF_TRY(read_numbers(map, &share, 1, err));
    SF_TRY(read_time(map, "launch", &k->memory_launch_ps, err));
    SF_TRY(read_p90(map, &k->memory_p90, err));
    return sfi_catalog_note(c->t, owner, "memory", map, "fitted", &k->memory_grade, err);
}

static int read_cores(const struct sfi_catalog *c, const char *owner, const struct sf_node *root,
                      struct sf_kernel_model *k, struct sf_err *err) {
    static const char *const keys[] = {"value", "source", "grade", NULL};
    const struct sf_node *map, *value;
    int64_t cores;
    char text[24];
    SF_TRY(sf_map_need(root, "cores", &map, err));
    SF_TRY(sf_map_only(map, keys, err));
    SF_TRY(sf_map_need(map, "value", &value, err));
    SF_TRY(sf_node_i64(value, 1, 65536, &cores, err));
    k->cores = (uint32_t)cores;
    snprintf(text, sizeof text, "%u", k->cores);
    return sfi_catalog_note(c->t, owner, "cores", map, text, NULL, err);
}

static int read_kernels(const struct sfi_catalog *c, const struct sf_node *root, struct sf_kernel_model *k,
                        struct sf_err *err) {
    static const char *const keys[] = {"name",
                                       "cores",
                                       "gemm_bf16",
                                       "gemm_fp8",
                                       "gemm_mxfp8",
                                       "gemm_fp8_block",
                                       "gemm_nvfp4",
                                       "attention_forward",
                                       "attention_backward",
                                       "memory",
                                       NULL};
    const struct sf_node *name;
    const char *text;
    char owner[48];
    SF_TRY(sf_map_only(root, keys, err));
    SF_TRY(sf_map_need(root, "name", &name, err));
    SF_TRY(sf_node_str(name, &text, err));
    snprintf(owner, sizeof owner, "%.30s.kernels", text);
    SF_TRY(read_cores(c, owner, root, k, err));
    SF_TRY(read_gemm(c, owner, root, SF_BF16, &k->gemm[SF_BF16], err));
    for (int dtype = SF_FP8; dtype < SF_DTYPES_N; dtype++) {
        SF_TRY(read_gemm(c, owner, root, dtype, &k->gemm[dtype], err));
    }
    SF_TRY(read_attention(c, owner, root, "attention_forward", &k->attn_fwd, err));
    SF_TRY(read_attention(c, owner, root, "attention_backward", &k->attn_bwd, err));
    return read_memory(c, owner, root, k, err);
}

int sfi_catalog_kernels(const struct sfi_catalog *c, const struct sf_node *ref, struct sf_kernel_model *out,
                        struct sf_err *err) {
    struct sf_doc *doc = NULL;
    SF_TRY(sfi_catalog_open(c, "kernels", ref, &doc, err));
    int rc = read_kernels(c, sf_doc_root(doc), out, err);
    sf_doc_free(doc);
    return rc;
}
