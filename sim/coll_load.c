/* Reading the constants: NCCL's tuning tables, and the kernels of one device generation. */
#include "sim/coll_internal.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "core/arena.h"

static const char *const tuned[] = {"tree", "ring", "collnet", "nvls", "nvls_tree", "pat", NULL};
static const char *const protocols[] = {"ll", "ll128", "simple", NULL};
static const char *const archs[] = {"ampere", "hopper", "blackwell", NULL};
static const char *const hosts[] = {"intel", "amd", "arm", NULL};

static int read_list(const struct sf_node *map, const char *key, uint32_t least, uint32_t most, double *out,
                     uint32_t *n, struct sf_err *err) {
    const struct sf_node *list;
    SF_TRY(sf_map_need(map, key, &list, err));
    if (!sf_node_is_seq(list) || sf_seq_size(list) < least || sf_seq_size(list) > most) {
        return sf_node_fail(list, err, "expected a list of %u to %u numbers", least, most);
    }
    *n = (uint32_t)sf_seq_size(list);
    for (uint32_t i = 0; i < *n; i++) {
        SF_TRY(sf_node_f64(sf_seq_at(list, i), 0, 1e6, &out[i], err));
    }
    return SF_OK;
}

static int read_row(const struct sf_node *map, const char *key, uint32_t n, double *out, struct sf_err *err) {
    uint32_t found;
    return read_list(map, key, n, n, out, &found, err);
}

static int read_number(const struct sf_node *map, const char *key, double *out, struct sf_err *err) {
    const struct sf_node *n;
    SF_TRY(sf_map_need(map, key, &n, err));
    return sf_node_f64(n, 0, 1e6, out, err);
}

static int read_by_algorithm(const struct sf_node *root, const char *key, double out[][SF_COLL_PROTOCOLS_N],
                             struct sf_err *err) {
    const struct sf_node *map;
    SF_TRY(sf_map_need(root, key, &map, err));
    SF_TRY(sf_map_only(map, tuned, err));
    for (int a = 0; a < (int)SFI_TUNED; a++) {
        SF_TRY(read_row(map, tuned[a], SF_COLL_PROTOCOLS_N, out[a], err));
    }
    return SF_OK;
}

static int read_host(struct sfi_tuning *t, const struct sf_node *root, int host, struct sf_err *err) {
    const struct sf_node *posts, *ll;
    SF_TRY(sf_map_need(root, "network_post_us", &posts, err));
    SF_TRY(sf_map_only(posts, hosts, err));
    SF_TRY(read_number(posts, hosts[host], &t->network_post, err));
    SF_TRY(sf_map_need(root, "host_ll_max", &ll, err));
    SF_TRY(sf_map_only(ll, hosts, err));
    return read_row(ll, hosts[host], SFI_NODES, t->host_ll_max, err);
}

static int read_numbers(struct sfi_tuning *t, const struct sf_node *root, int arch, struct sf_err *err) {
    const struct {
        const char *key;
        double *out;
    } numbers[] = {
        {"simple_posts", &t->simple_posts},
        {"ring_plateau", &t->ring_plateau},
        {"collnet_arity_us", &t->collnet_arity},
        {"pat_hop_divisor", &t->pat_hop_divisor},
        {"pat_rank_us", &t->pat_rank},
        {"ring_ll_share", &t->ring_ll_share},
        {"ring_ll128_share", &t->ring_ll128_share},
        {"tree_share", &t->tree_share},
        {"tree_ll_divisor", &t->tree_ll_divisor},
        {"pat_share", &t->pat_share},
        {"nvls_arity", &t->nvls_arity},
    };
    const struct sf_node *collnet, *correction;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        SF_TRY(read_number(root, numbers[i].key, numbers[i].out, err));
    }
    if (t->pat_hop_divisor <= 0 || t->tree_ll_divisor <= 0) {
        return sf_node_fail(root, err, "pat_hop_divisor and tree_ll_divisor divide: expected numbers above 0");
    }
    SF_TRY(sf_map_need(root, "collnet_share", &collnet, err));
    SF_TRY(read_number(collnet, archs[arch], &t->collnet_share, err));
    SF_TRY(sf_map_need(root, "tree_correction", &correction, err));
    for (int p = 0; p < SF_COLL_PROTOCOLS_N; p++) {
        SF_TRY(read_row(correction, protocols[p], SFI_CORRECTION, t->tree_correction[p], err));
    }
    return read_row(root, "tree_ll128_share", SFI_NODES, t->tree_ll128_share, err);
}

static int falls(const struct sf_node *map, const char *key, const double *ladder, uint32_t n, struct sf_err *err) {
    for (uint32_t i = 0; i < n; i++) {
        if (ladder[i] <= 0 || (i > 0 && ladder[i] >= ladder[i - 1])) {
            return sf_node_fail(sf_map_find(map, key), err, "expected rates above 0 that fall, found %g", ladder[i]);
        }
    }
    return SF_OK;
}

static int read_arch(struct sfi_tuning *t, const struct sf_node *root, int arch, struct sf_err *err) {
    static const char *const keys[] = {"ll_max",
                                       "ring_ll128_channel",
                                       "tree_ll128_channel",
                                       "tree_channel",
                                       "nvls_tree_channel",
                                       "nvls_share",
                                       "ladder",
                                       "network_ladder",
                                       "duplicate_from",
                                       "duplicate_always",
                                       NULL};
    const struct sf_node *a;
    SF_TRY(sf_map_need(root, archs[arch], &a, err));
    SF_TRY(sf_map_only(a, keys, err));
    SF_TRY(read_row(a, "ll_max", SFI_NODES, t->ll_max, err));
    SF_TRY(read_row(a, "ring_ll128_channel", SFI_NODES, t->ring_ll128_channel, err));
    SF_TRY(read_row(a, "tree_ll128_channel", SFI_NODES, t->tree_ll128_channel, err));
    SF_TRY(read_row(a, "tree_channel", SFI_NODES, t->tree_channel, err));
    SF_TRY(read_row(a, "nvls_tree_channel", SFI_NODES, t->nvls_tree_channel, err));
    SF_TRY(read_number(a, "nvls_share", &t->nvls_share, err));
    SF_TRY(read_number(a, "duplicate_from", &t->duplicate_from, err));
    SF_TRY(read_number(a, "duplicate_always", &t->duplicate_always, err));
    SF_TRY(read_list(a, "ladder", 1, SFI_LADDER_MAX, t->ladder, &t->ladder_n, err));
    SF_TRY(falls(a, "ladder", t->ladder, t->ladder_n, err));
    SF_TRY(read_list(a, "network_ladder", 1, SFI_LADDER_MAX, t->network_ladder, &t->network_ladder_n, err));
    return falls(a, "network_ladder", t->network_ladder, t->network_ladder_n, err);
}

static int need_text(const struct sf_node *root, const char *key, struct sf_err *err) {
    const struct sf_node *n;
    const char *text;
    SF_TRY(sf_map_need(root, key, &n, err));
    return sf_node_str(n, &text, err);
}

static int read_tuning(struct sfi_tuning *t, const struct sf_node *root, int arch, int host, struct sf_err *err) {
    static const char *const keys[] = {"name",
                                       "version",
                                       "source",
                                       "grade",
                                       "base_us",
                                       "nvlink_hop_us",
                                       "network_hop_us",
                                       "network_post_us",
                                       "simple_posts",
                                       "ring_plateau",
                                       "collnet_arity_us",
                                       "pat_hop_divisor",
                                       "pat_rank_us",
                                       "ring_ll_share",
                                       "ring_ll128_share",
                                       "tree_share",
                                       "tree_ll_divisor",
                                       "tree_ll128_share",
                                       "pat_share",
                                       "nvls_arity",
                                       "collnet_share",
                                       "tree_correction",
                                       "host_ll_max",
                                       "ampere",
                                       "hopper",
                                       "blackwell",
                                       NULL};
    SF_TRY(sf_map_only(root, keys, err));
    SF_TRY(need_text(root, "version", err));
    SF_TRY(need_text(root, "source", err));
    SF_TRY(need_text(root, "grade", err));
    SF_TRY(read_by_algorithm(root, "base_us", t->base, err));
    SF_TRY(read_by_algorithm(root, "nvlink_hop_us", t->nvlink_hop, err));
    SF_TRY(read_by_algorithm(root, "network_hop_us", t->network_hop, err));
    SF_TRY(read_host(t, root, host, err));
    SF_TRY(read_numbers(t, root, arch, err));
    return read_arch(t, root, arch, err);
}

enum kind { TIME, RATE, BYTES, NUMBER, SHARE, COUNT };

struct field {
    const char *key;
    enum kind kind;
    void *out;            /* TIME, RATE, BYTES, NUMBER, SHARE: double; COUNT: uint32_t */
    enum sf_grade *grade; /* may be NULL */
};

static int read_value(const struct field *f, const struct sf_node *n, struct sf_err *err) {
    const int64_t count_most = 1 << 20;
    double *real = f->kind == COUNT ? NULL : f->out;
    sf_time_ps time;
    uint64_t units;
    int64_t count;
    switch (f->kind) {
    case TIME:
        SF_TRY(sf_node_time(n, &time, err));
        *real = sf_ps_to_s(time);
        return SF_OK;
    case RATE:
        SF_TRY(sf_node_rate(n, &units, err));
        *real = (double)units;
        return units > 0 ? SF_OK : sf_node_fail(n, err, "expected a rate above 0");
    case BYTES:
        SF_TRY(sf_node_bytes(n, &units, err));
        *real = (double)units;
        return units > 0 ? SF_OK : sf_node_fail(n, err, "expected at least one byte");
    case NUMBER:
        return sf_node_f64(n, 0, 1e6, real, err);
    case SHARE:
        SF_TRY(sf_node_f64(n, 0, 1, real, err));
        return *real > 0 ? SF_OK : sf_node_fail(n, err, "expected a share above 0");
    case COUNT:
        SF_TRY(sf_node_i64(n, 1, count_most, &count, err));
        *(uint32_t *)f->out = (uint32_t)count;
        return SF_OK;
    }
    return SF_E_INTERNAL;
}

static int read_field(const struct sf_node *root, const struct field *f, struct sf_err *err) {
    static const char *const keys[] = {"value", "source", "grade", NULL};
    static const char *const grades[] = {"calibrated", "measured", "datasheet", "extrapolated", NULL};
    const struct sf_node *number, *value, *grade;
    int word;
    SF_TRY(sf_map_need(root, f->key, &number, err));
    SF_TRY(sf_map_only(number, keys, err));
    SF_TRY(sf_map_need(number, "value", &value, err));
    SF_TRY(need_text(number, "source", err));
    SF_TRY(sf_map_need(number, "grade", &grade, err));
    SF_TRY(sf_node_word(grade, grades, &word, err));
    if (f->grade) {
        *f->grade = (enum sf_grade)word;
    }
    return read_value(f, value, err);
}

static int read_kernels(struct sfi_kernels *k, const struct sf_node *root, struct sf_err *err) {
    const struct field fields[] = {
        {"compared_inside", NUMBER, &k->compared[0], &k->compared_grade[0]},
        {"compared_across", NUMBER, &k->compared[1], &k->compared_grade[1]},
        {"nvlink", RATE, &k->nvlink_gbps, NULL},
        {"base_ll", TIME, &k->base[SF_COLL_LL], NULL},
        {"base_ll128", TIME, &k->base[SF_COLL_LL128], NULL},
        {"base_simple", TIME, &k->base[SF_COLL_SIMPLE], NULL},
        {"step_ll", TIME, &k->step[SF_COLL_LL], NULL},
        {"step_ll128", TIME, &k->step[SF_COLL_LL128], NULL},
        {"step_simple", TIME, &k->step[SF_COLL_SIMPLE], NULL},
        {"step_scatter", TIME, &k->step_scatter, NULL},
        {"network_step_ll", TIME, &k->network_step[SF_COLL_LL], NULL},
        {"network_step_ll128", TIME, &k->network_step[SF_COLL_LL128], NULL},
        {"network_step_simple", TIME, &k->network_step[SF_COLL_SIMPLE], NULL},
        {"share_ll", SHARE, &k->share[SF_COLL_LL], NULL},
        {"share_ll128", SHARE, &k->share[SF_COLL_LL128], NULL},
        {"share_simple", SHARE, &k->share[SF_COLL_SIMPLE], NULL},
        {"channel_simple", BYTES, &k->channel_bytes[SF_COLL_SIMPLE], NULL},
        {"channel_ll", BYTES, &k->channel_bytes[SF_COLL_LL], NULL},
        {"channel_ll128", BYTES, &k->channel_bytes[SF_COLL_LL128], NULL},
        {"tree_chunk_simple", BYTES, &k->tree_chunk[SF_COLL_SIMPLE], NULL},
        {"tree_chunk_ll", BYTES, &k->tree_chunk[SF_COLL_LL], NULL},
        {"tree_chunk_ll128", BYTES, &k->tree_chunk[SF_COLL_LL128], NULL},
        {"channels", COUNT, &k->channels_max, NULL},
        {"exposed", NUMBER, &k->exposed, NULL},
        {"turnover", NUMBER, &k->turnover, NULL},
        {"turnover_gather", NUMBER, &k->turnover_gather, NULL},
        {"turnover_scatter", NUMBER, &k->turnover_scatter, NULL},
        {"network_tree_ll", TIME, &k->network_tree[SF_COLL_LL], NULL},
        {"network_tree_ll128", TIME, &k->network_tree[SF_COLL_LL128], NULL},
        {"network_tree_simple", TIME, &k->network_tree[SF_COLL_SIMPLE], NULL},
        {"exchange_fill", BYTES, &k->exchange_fill, NULL},
        {"collnet_share", SHARE, &k->collnet_share, NULL},
        {"pat_share", SHARE, &k->pat_share, NULL},
        {"exchange_base", TIME, &k->exchange_base, NULL},
        {"exchange_share", SHARE, &k->exchange_share, NULL},
        {"exchange_self", NUMBER, &k->exchange_self, NULL},
        {"exchange_message", TIME, &k->exchange_message, NULL},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        SF_TRY(read_field(root, &fields[i], err));
    }
    k->nvlink_gbps /= 1e9;
    return SF_OK;
}

static int read_nvls(struct sfi_kernels *k, const struct sf_node *root, struct sf_err *err) {
    static const char *const keys[] = {"rate",         "link_peak",    "base",     "turn",  "turn_least",
                                       "fill",         "network_step", "channels", "heads", "large_turns",
                                       "middle_turns", "nics",         "relay",    NULL};
    const struct field fields[] = {
        {"rate", RATE, &k->nvls_rate, NULL},
        {"link_peak", RATE, &k->nvls_link_peak, NULL},
        {"base", TIME, &k->nvls_base, NULL},
        {"turn", TIME, &k->nvls_turn, NULL},
        {"turn_least", TIME, &k->nvls_turn_least, NULL},
        {"fill", NUMBER, &k->nvls_fill, NULL},
        {"network_step", TIME, &k->nvls_network_step, NULL},
        {"channels", COUNT, &k->nvls_channels, NULL},
        {"heads", COUNT, &k->nvls_heads, NULL},
        {"large_turns", COUNT, &k->nvls_large_turns, NULL},
        {"middle_turns", COUNT, &k->nvls_middle_turns, NULL},
        {"nics", NUMBER, &k->nvls_nics, NULL},
    };
    const struct field relay = {"relay", NUMBER, &k->nvls_relay, NULL};
    const struct sf_node *map = sf_map_find(root, "nvls");
    k->nvls_heads = 1;
    if (map == NULL) {
        return SF_OK;
    }
    SF_TRY(sf_map_only(map, keys, err));
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        SF_TRY(read_field(map, &fields[i], err));
    }
    return sf_map_find(map, relay.key) ? read_field(map, &relay, err) : SF_OK;
}

static int check_keys(const struct sf_node *root, struct sf_err *err) {
    static const char *const keys[] = {"name",
                                       "tuning",
                                       "arch",
                                       "host",
                                       "nvls",
                                       "compared_inside",
                                       "compared_across",
                                       "nvlink",
                                       "base_ll",
                                       "base_ll128",
                                       "base_simple",
                                       "step_ll",
                                       "step_ll128",
                                       "step_simple",
                                       "step_scatter",
                                       "network_step_ll",
                                       "network_step_ll128",
                                       "network_step_simple",
                                       "share_ll",
                                       "share_ll128",
                                       "share_simple",
                                       "channel_simple",
                                       "channel_ll",
                                       "channel_ll128",
                                       "tree_chunk_simple",
                                       "tree_chunk_ll",
                                       "tree_chunk_ll128",
                                       "channels",
                                       "exposed",
                                       "turnover",
                                       "turnover_gather",
                                       "turnover_scatter",
                                       "network_tree_ll",
                                       "network_tree_ll128",
                                       "network_tree_simple",
                                       "exchange_fill",
                                       "collnet_share",
                                       "pat_share",
                                       "exchange_base",
                                       "exchange_share",
                                       "exchange_self",
                                       "exchange_message",
                                       NULL};
    return sf_map_only(root, keys, err);
}

/* The tables are in the same folder. */
static int load_tuning(struct sf_coll *c, const struct sf_io *io, const char *path, const struct sf_node *root,
                       struct sf_err *err) {
    const struct sf_node *n;
    const char *name, *slash = strrchr(path, '/');
    int arch, host;
    char file[1024];
    SF_TRY(sf_map_need(root, "arch", &n, err));
    SF_TRY(sf_node_word(n, archs, &arch, err));
    SF_TRY(sf_map_need(root, "host", &n, err));
    SF_TRY(sf_node_word(n, hosts, &host, err));
    SF_TRY(sf_map_need(root, "tuning", &n, err));
    SF_TRY(sf_node_str(n, &name, err));
    int length = snprintf(file, sizeof file, "%.*s%s.yaml", slash ? (int)(slash - path + 1) : 0, path, name);
    if (strchr(name, '/') != NULL || length < 0 || (size_t)length >= sizeof file) {
        return sf_node_fail(n, err, "expected the name of a file beside this one, without .yaml");
    }
    struct sf_doc *doc = NULL;
    c->k.arch = (enum sfi_arch)arch;
    SF_TRY(sf_doc_load(io, file, &doc, err));
    int rc = read_tuning(&c->tuning, sf_doc_root(doc), arch, host, err);
    sf_doc_free(doc);
    return rc;
}

int sfi_coll_load(struct sf_coll *c, const struct sf_io *io, const char *path, struct sf_err *err) {
    struct sf_doc *doc = NULL;
    SF_TRY(sf_doc_load(io, path, &doc, err));
    const struct sf_node *root = sf_doc_root(doc);
    int rc;
    SF_TRY_GOTO(rc, check_keys(root, err), out);
    SF_TRY_GOTO(rc, read_kernels(&c->k, root, err), out);
    SF_TRY_GOTO(rc, read_nvls(&c->k, root, err), out);
    SF_TRY_GOTO(rc, load_tuning(c, io, path, root, err), out);
out:
    sf_doc_free(doc);
    return rc;
}
