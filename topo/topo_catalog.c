/* Catalog files: devices, links, switches. Every number is a map {value, source, grade}. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/arena.h"
#include "topo/topo_state.h"

enum quantity { BYTES, RATE, FLOPS, TIME, POWER, SHARE, COUNT };

/* A number that a catalog file may hold and where it goes. */
struct field {
    const char *key;
    enum quantity kind;
    bool optional;
    void *out;
    enum sf_grade *grade; /* made worse by this number; may be NULL */
};

static int fail_zero(const struct sf_node *n, struct sf_err *err) {
    return sf_node_fail(n, err, "expected more than zero");
}

static int read_u64(int (*get)(const struct sf_node *, uint64_t *, struct sf_err *), const struct sf_node *n,
                    uint64_t *out, struct sf_err *err) {
    SF_TRY(get(n, out, err));
    return *out > 0 ? 0 : fail_zero(n, err);
}

static int read_count(const struct sf_node *n, uint32_t *out, struct sf_err *err) {
    int64_t value;
    SF_TRY(sf_node_i64(n, 1, SFI_MAX_PORTS, &value, err));
    *out = (uint32_t)value;
    return 0;
}

static int read_flops(const struct sf_node *n, double *out, struct sf_err *err) {
    const double most = 1e21;
    SF_TRY(sf_node_flops(n, out, err));
    if (*out > most) {
        return sf_node_fail(n, err, "expected at most 1000000000 TFLOP/s");
    }
    return *out > 0 ? 0 : fail_zero(n, err);
}

static int read_power(const struct sf_node *n, double *out, struct sf_err *err) {
    const double most = 1e9;
    SF_TRY(sf_node_power(n, out, err));
    return *out <= most ? 0 : sf_node_fail(n, err, "expected at most 1000MW of one device");
}

static int read_value(enum quantity kind, const struct sf_node *n, void *out, struct sf_err *err) {
    switch (kind) {
    case BYTES:
        return read_u64(sf_node_bytes, n, out, err);
    case RATE:
        return read_u64(sf_node_rate, n, out, err);
    case FLOPS:
        return read_flops(n, out, err);
    case TIME:
        return sf_node_time(n, out, err);
    case POWER:
        return read_power(n, out, err);
    case SHARE:
        return sf_node_f64(n, 0.001, 1, out, err);
    case COUNT:
        return read_count(n, out, err);
    }
    return sf_fail(err, SF_E_INTERNAL, "no reader for quantity %d", (int)kind);
}

/* Text of a node, at most `size` - 1 bytes. */
static int read_text(const struct sf_node *n, char *out, size_t size, struct sf_err *err) {
    const char *text;
    SF_TRY(sf_node_str(n, &text, err));
    size_t length = strlen(text);
    if (length == 0 || length >= size) {
        return sf_node_fail(n, err, "expected text of 1 to %zu bytes, found %zu", size - 1, length);
    }
    memcpy(out, text, length + 1);
    return 0;
}

/* Stocks may name one file several times: its numbers are kept once. */
static int keep_source(struct sf_topo *t, const struct sf_source *s, const struct sf_node *map, struct sf_err *err) {
    for (size_t i = 0; i < t->sources_n; i++) {
        const struct sf_source *k = &t->sources[i];
        if (strcmp(k->item, s->item) == 0 && strcmp(k->value, s->value) == 0 && strcmp(k->source, s->source) == 0) {
            return 0;
        }
    }
    if (t->sources_n == SFI_MAX_SOURCES) {
        return sf_node_fail(map, err, "more than %d numbers", SFI_MAX_SOURCES);
    }
    if (t->sources_n % 64 == 0) {
        struct sf_source *more = sf_realloc(t->sources, t->sources_n + 64, sizeof *more);
        if (more == NULL) {
            return sf_fail_memory(err, "the sources of a topology");
        }
        t->sources = more;
    }
    t->sources[t->sources_n++] = *s;
    return 0;
}

int sfi_catalog_note(struct sf_topo *t, const char *owner, const char *key, const struct sf_node *map,
                     const char *value, enum sf_grade *grade_out, struct sf_err *err) {
    static const char *const grades[] = {"calibrated", "measured", "datasheet", "extrapolated", NULL};
    const struct sf_node *source, *grade;
    SF_TRY(sf_map_need(map, "source", &source, err));
    SF_TRY(sf_map_need(map, "grade", &grade, err));
    struct sf_source s = {0};
    int word;
    SF_TRY(sf_node_word(grade, grades, &word, err));
    SF_TRY(read_text(source, s.source, sizeof s.source, err));
    s.grade = (enum sf_grade)word;
    snprintf(s.item, sizeof s.item, "%s.%s", owner, key);
    snprintf(s.value, sizeof s.value, "%s", value);
    if (grade_out != NULL && s.grade > *grade_out) {
        *grade_out = s.grade;
    }
    return keep_source(t, &s, map, err);
}

static int read_field(struct sf_topo *t, const char *owner, const struct sf_node *map, const struct field *f,
                      struct sf_err *err) {
    static const char *const keys[] = {"value", "source", "grade", NULL};
    const struct sf_node *number, *value;
    char text[sizeof t->sources->value];
    if (f->optional && sf_map_find(map, f->key) == NULL) {
        return 0;
    }
    SF_TRY(sf_map_need(map, f->key, &number, err));
    SF_TRY(sf_map_only(number, keys, err));
    SF_TRY(sf_map_need(number, "value", &value, err));
    SF_TRY(read_value(f->kind, value, f->out, err));
    SF_TRY(read_text(value, text, sizeof text, err));
    return sfi_catalog_note(t, owner, f->key, number, text, f->grade, err);
}

static int read_fields(struct sf_topo *t, const char *owner, const struct sf_node *map, const struct field *fields,
                       size_t n, struct sf_err *err) {
    for (size_t i = 0; i < n; i++) {
        SF_TRY(read_field(t, owner, map, &fields[i], err));
    }
    return 0;
}

static bool is_path(const char *ref) {
    size_t length = strlen(ref);
    return length > 5 && strcmp(ref + length - 5, ".yaml") == 0;
}

static bool is_plain_name(const char *ref) {
    for (const char *c = ref; *c != '\0'; c++) {
        if (!isalnum((unsigned char)*c) && *c != '-' && *c != '_' && *c != '.') {
            return false;
        }
    }
    return ref[0] != '.' && ref[0] != '\0';
}

static int check_length(int n, size_t size, const struct sf_node *ref, struct sf_err *err) {
    return n > 0 && (size_t)n < size ? 0 : sf_node_fail(ref, err, "path is longer than %zu bytes", size - 1);
}

int sfi_beside(const char *base, const struct sf_node *ref, const char *name, char *path, size_t size,
               struct sf_err *err) {
    const char *slash = strrchr(base, '/');
    int folder = name[0] == '/' || slash == NULL ? 0 : (int)(slash - base + 1);
    return check_length(snprintf(path, size, "%.*s%s", folder, base, name), size, ref, err);
}

static int resolve(const struct sfi_catalog *c, const char *folder, const struct sf_node *ref, char *path, size_t size,
                   struct sf_err *err) {
    const char *name;
    SF_TRY(sf_node_str(ref, &name, err));
    if (is_path(name)) {
        return sfi_beside(c->base, ref, name, path, size, err);
    }
    if (is_plain_name(name)) {
        return check_length(snprintf(path, size, "%s/%s/%s.yaml", c->dir, folder, name), size, ref, err);
    }
    return sf_node_fail(ref, err, "expected a name from the catalog's %s or a path ending in .yaml, found \"%.80s\"",
                        folder, name);
}

/* Open the file that `ref` names. A file that is not there is a fault of the cluster file. */
int sfi_catalog_open(const struct sfi_catalog *c, const char *folder, const struct sf_node *ref, struct sf_doc **doc,
                     struct sf_err *err) {
    char path[1024];
    struct sf_err inner = {0};
    SF_TRY(resolve(c, folder, ref, path, sizeof path, err));
    int rc = sf_doc_load(c->io, path, doc, &inner);
    if (rc == SF_E_IO) {
        return sf_node_fail(ref, err, "cannot read %.500s from the catalog's %s: %.300s", path, folder, inner.msg);
    }
    if (rc != 0 && err != NULL) {
        *err = inner;
    }
    return rc;
}

static int read_name(const struct sf_node *ref, const struct sf_node *root, char *out, size_t size,
                     struct sf_err *err) {
    const struct sf_node *name;
    const char *wanted;
    SF_TRY(sf_map_need(root, "name", &name, err));
    SF_TRY(read_text(name, out, size, err));
    SF_TRY(sf_node_str(ref, &wanted, err));
    if (!is_path(wanted) && strcmp(wanted, out) != 0) {
        return sf_node_fail(name, err, "expected the name of the file, \"%.80s\", found \"%s\"", wanted, out);
    }
    return 0;
}

/* peak and gemm_efficiency: maps from a precision to a number, for the same precisions. */
static int read_precisions(struct sf_topo *t, const struct sf_node *root, struct sf_device_class *d,
                           struct sf_err *err) {
    static const char *const dtypes[] = {
#define X(NAME, name, bytes) name,
        SF_DTYPES(X)
#undef X
            NULL};
    const struct sf_node *peak, *share;
    char owner[48];
    SF_TRY(sf_map_need(root, "peak", &peak, err));
    SF_TRY(sf_map_need(root, "gemm_efficiency", &share, err));
    SF_TRY(sf_map_only(peak, dtypes, err));
    SF_TRY(sf_map_only(share, dtypes, err));
    if (sf_map_find(peak, "bf16") == NULL && sf_map_find(peak, "f32") == NULL) {
        return sf_node_fail(peak, err, "expected a peak for bf16 or f32");
    }
    for (int i = 0; i < SF_DTYPES_N; i++) {
        struct field f = {dtypes[i], FLOPS, true, &d->flops_per_s[i], &d->gemm_grade[i]};
        snprintf(owner, sizeof owner, "%s.peak", d->name);
        SF_TRY(read_field(t, owner, peak, &f, err));
        f = (struct field){dtypes[i], SHARE, d->flops_per_s[i] <= 0, &d->gemm_efficiency[i], &d->gemm_grade[i]};
        snprintf(owner, sizeof owner, "%s.gemm_efficiency", d->name);
        SF_TRY(read_field(t, owner, share, &f, err));
        if (d->gemm_efficiency[i] > 0 && d->flops_per_s[i] <= 0) {
            return sf_node_fail(sf_map_find(share, dtypes[i]), err, "%s has an efficiency but no peak", dtypes[i]);
        }
    }
    return 0;
}

/* messages: how NCCL moves them from GPU to GPU. */
static int read_messages(struct sf_topo *t, const struct sf_node *map, struct sf_device_class *d, struct sf_err *err) {
    static const char *const keys[] = {"channels_per_link", "channel_rate", "moved_by", NULL};
    static const char *const value_keys[] = {"value", "source", "grade", NULL};
    static const char *const movers[] = {"kernels", "copy_engines", NULL};
    uint32_t channels = SF_P2P_CHANNELS_PER_LINK;
    char owner[48];
    const struct field fields[] = {
        {"channels_per_link", COUNT, true, &channels, NULL},
        {"channel_rate", RATE, true, &d->p2p_channel_bytes_per_s, NULL},
    };
    d->p2p_channel_bytes_per_s = SF_P2P_CHANNEL_BYTES_PER_S;
    snprintf(owner, sizeof owner, "%s.messages", d->name);
    if (map != NULL) {
        const struct sf_node *mover = sf_map_find(map, "moved_by"), *word;
        int by = 0;
        SF_TRY(sf_map_only(map, keys, err));
        SF_TRY(read_fields(t, owner, map, fields, sizeof fields / sizeof *fields, err));
        if (mover != NULL) {
            SF_TRY(sf_map_only(mover, value_keys, err));
            SF_TRY(sf_map_need(mover, "value", &word, err));
            SF_TRY(sf_node_word(word, movers, &by, err));
            SF_TRY(sfi_catalog_note(t, owner, "moved_by", mover, movers[by], NULL, err));
        }
        d->p2p_copy_engines = by == 1;
    }
    d->p2p_channels_per_link = channels;
    return 0;
}

static int read_device(struct sf_topo *t, const struct sf_node *ref, const struct sf_node *root,
                       struct sf_device_class *d, struct sf_err *err) {
    static const char *const keys[] = {"name",
                                       "memory",
                                       "memory_rate",
                                       "memory_efficiency",
                                       "peak",
                                       "gemm_efficiency",
                                       "attention_forward",
                                       "attention_backward",
                                       "launch",
                                       "power",
                                       "kernels",
                                       "collectives",
                                       "messages",
                                       "copy_engines",
                                       NULL};
    const struct field fields[] = {
        {"memory", BYTES, false, &d->memory_bytes, &d->grade},
        {"memory_rate", RATE, false, &d->memory_bytes_per_s, &d->grade},
        {"memory_efficiency", SHARE, false, &d->memory_efficiency, &d->grade},
        {"attention_forward", SHARE, false, &d->attn_fwd_efficiency, &d->attn_grade},
        {"attention_backward", SHARE, false, &d->attn_bwd_efficiency, &d->attn_grade},
        {"launch", TIME, false, &d->launch_ps, &d->grade},
        {"power", POWER, true, &d->power_watts, NULL},
        {"copy_engines", COUNT, true, &d->copy_engines, NULL},
    };
    d->copy_engines = SF_COPY_ENGINES;
    SF_TRY(sf_map_only(root, keys, err));
    SF_TRY(read_name(ref, root, d->name, sizeof d->name, err));
    SF_TRY(read_fields(t, d->name, root, fields, sizeof fields / sizeof *fields, err));
    SF_TRY(read_precisions(t, root, d, err));
    SF_TRY(read_messages(t, sf_map_find(root, "messages"), d, err));
    enum sf_grade gemm = d->gemm_grade[d->flops_per_s[SF_BF16] > 0 ? SF_BF16 : SF_F32];
    d->grade = gemm > d->grade ? gemm : d->grade;
    return 0;
}

static int read_link(struct sf_topo *t, const struct sf_node *ref, const struct sf_node *root, struct sf_link_class *l,
                     struct sf_err *err) {
    static const char *const keys[] = {"name",  "peak",    "usable", "latency", "switch_reduce",
                                       "links", "sharers", "memory", NULL};
    const struct field fields[] = {
        {"peak", RATE, false, &l->peak_bytes_per_s, &l->grade},
        {"usable", RATE, false, &l->bytes_per_s, &l->grade},
        {"latency", TIME, false, &l->latency_ps, &l->grade},
        {"switch_reduce", RATE, true, &l->reduce_bytes_per_s, &l->grade},
        {"links", COUNT, true, &l->links, NULL},
        {"sharers", COUNT, true, &l->sharers, NULL},
        {"memory", BYTES, true, &l->memory_bytes, NULL},
    };
    *l = (struct sf_link_class){.links_share = 1, .sharers = 1};
    SF_TRY(sf_map_only(root, keys, err));
    SF_TRY(read_name(ref, root, l->name, sizeof l->name, err));
    SF_TRY(read_fields(t, l->name, root, fields, sizeof fields / sizeof *fields, err));
    if (l->bytes_per_s > l->peak_bytes_per_s) {
        return sf_node_fail(sf_map_find(root, "usable"), err, "the usable rate is above the peak");
    }
    if (l->reduce_bytes_per_s == 0) {
        l->reduce_bytes_per_s = l->bytes_per_s;
    }
    if (l->reduce_bytes_per_s < l->bytes_per_s) {
        return sf_node_fail(sf_map_find(root, "switch_reduce"), err,
                            "reducing in the switches is slower than without (usable): leave it out");
    }
    return 0;
}

static int read_switch(struct sf_topo *t, const struct sf_node *ref, const struct sf_node *root,
                       struct sf_switch_class *s, struct sf_err *err) {
    static const char *const keys[] = {"name",       "ports",        "split",
                                       "port_rate",  "hop_latency",  "cable_latency_per_m",
                                       "ecmp_share", "incast_share", NULL};
    const struct field fields[] = {
        {"ports", COUNT, false, &s->ports, &s->grade},
        {"split", COUNT, true, &s->split, &s->grade},
        {"port_rate", RATE, false, &s->port_bytes_per_s, &s->grade},
        {"hop_latency", TIME, false, &s->hop_ps, &s->grade},
        {"cable_latency_per_m", TIME, false, &s->cable_ps_per_m, &s->grade},
        {"ecmp_share", SHARE, true, &s->ecmp_share, NULL},
        {"incast_share", SHARE, true, &s->incast_share, NULL},
    };
    *s = (struct sf_switch_class){.split = 1, .ecmp_share = 1, .incast_share = 1};
    SF_TRY(sf_map_only(root, keys, err));
    SF_TRY(read_name(ref, root, s->name, sizeof s->name, err));
    return read_fields(t, s->name, root, fields, sizeof fields / sizeof *fields, err);
}

int sfi_catalog_device(const struct sfi_catalog *c, const struct sf_node *ref, struct sfi_stock *out,
                       struct sf_err *err) {
    struct sf_doc *doc = NULL;
    SF_TRY(sfi_catalog_open(c, "devices", ref, &doc, err));
    int rc = read_device(c->t, ref, sf_doc_root(doc), &out->device, err);
    const struct sf_node *kernels = rc == 0 ? sf_map_find(sf_doc_root(doc), "kernels") : NULL;
    rc = kernels != NULL ? sfi_catalog_kernels(c, kernels, &out->device.kernels, err) : rc;
    const struct sf_node *coll = rc == 0 ? sf_map_find(sf_doc_root(doc), "collectives") : NULL;
    rc = coll != NULL ? sfi_catalog_collectives(c, coll, out, err) : rc;
    const struct sf_node *messages = rc == 0 ? sf_map_find(sf_doc_root(doc), "messages") : NULL;
    if (messages != NULL && (kernels == NULL || coll == NULL)) {
        rc = sf_node_fail(messages, err,
                          "a device without kernels and collectives has nothing that messages could hold up: leave "
                          "this out");
    }
    sf_doc_free(doc);
    return rc;
}

int sfi_catalog_link(const struct sfi_catalog *c, const struct sf_node *ref, struct sf_link_class *out,
                     struct sf_err *err) {
    struct sf_doc *doc = NULL;
    SF_TRY(sfi_catalog_open(c, "links", ref, &doc, err));
    int rc = read_link(c->t, ref, sf_doc_root(doc), out, err);
    sf_doc_free(doc);
    return rc;
}

int sfi_catalog_switch(const struct sfi_catalog *c, const struct sf_node *ref, struct sf_switch_class *out,
                       struct sf_err *err) {
    struct sf_doc *doc = NULL;
    SF_TRY(sfi_catalog_open(c, "switches", ref, &doc, err));
    int rc = read_switch(c->t, ref, sf_doc_root(doc), out, err);
    sf_doc_free(doc);
    return rc;
}
