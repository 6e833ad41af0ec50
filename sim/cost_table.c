/* The measured kernel table: reading, sorting, finding. */
#include "sim/calib_internal.h"
#include "sim/cost_internal.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { KERNELS_MAX = 1 << 20 };

/* Repeating a kernel for recomputation does not change how long it takes. */
#define TIME_FLAGS                                                                                                     \
    (SF_CALL_TA_FLAG | SF_CALL_TB_FLAG | SF_CALL_ACC_FLAG | SF_CALL_ACC2_FLAG | SF_CALL_GELU_FLAG |                    \
     SF_CALL_PLAIN_FLAG | SF_CALL_APART_FLAG | SF_CALL_LEAN_FLAG)

static int compare_keys(const void *a, const void *b) {
    return memcmp(a, b, sizeof(struct sfi_kernel_key)); /* the key is a kernel's first member */
}

const struct sfi_kernel *sfi_kernel_find(const struct sf_cost *c, const struct sf_call *call) {
    if (c->kernels_n == 0) {
        return NULL;
    }
    struct sfi_kernel_key key = {call->kind, call->dtype, call->flags & TIME_FLAGS, 0, {0}};
    memcpy(key.dims, call->dims, sizeof key.dims);
    return bsearch(&key, c->kernels, c->kernels_n, sizeof *c->kernels, compare_keys);
}

static const struct sfi_calib_model *model_of(const struct sf_cost *c, int kind, int dtype) {
    for (size_t i = 0; i < c->models_n; i++) {
        if (c->models[i].kind == kind && c->models[i].dtype == dtype) {
            return &c->models[i];
        }
    }
    return NULL;
}

/* The kind that does much the same to every byte, where a call's own was not measured; -1: none does. */
static int kin_of(int kind) {
    switch (kind) {
    case SF_CALL_XENT_STATS:
    case SF_CALL_XENT_PART:
    case SF_CALL_XENT_PADDED:
        return SF_CALL_XENT;
    case SF_CALL_RMSNORM_ADD_FWD:
    case SF_CALL_LAYERNORM_FWD:
    case SF_CALL_LAYERNORM_ADD_FWD:
        return SF_CALL_RMSNORM_FWD;
    case SF_CALL_LAYERNORM_BWD:
        return SF_CALL_RMSNORM_BWD;
    case SF_CALL_BIAS_FWD:
    case SF_CALL_BIAS_BWD:
    case SF_CALL_SUMSQ:
    case SF_CALL_CLIP:
        return SF_CALL_ADD;
    case SF_CALL_CAST_UP:
    case SF_CALL_CAST_DOWN:
        return SF_CALL_COPY;
    case SF_CALL_MOE_PERMUTE:
    case SF_CALL_MOE_UNPERMUTE:
        return SF_CALL_EMBED_FWD;
    default:
        return -1;
    }
}

const struct sfi_calib_model *sfi_model_find(const struct sf_cost *c, const struct sf_call *call) {
    const struct sfi_calib_model *own = model_of(c, call->kind, call->dtype);
    return own ? own : model_of(c, kin_of(call->kind), call->dtype);
}

static struct sf_call call_of(const struct sfi_kernel *k) {
    struct sf_call call = {
        .kind = (uint8_t)k->key.kind, .dtype = (uint8_t)k->key.dtype, .flags = k->key.flags, .comm = SF_NONE};
    call.imm[1] = 1.0f;
    memcpy(call.dims, k->key.dims, sizeof call.dims);
    return call;
}

static bool same_family(const struct sfi_kernel_key *a, const struct sfi_kernel_key *b) {
    return a->kind == b->kind && a->dtype == b->dtype && a->flags == b->flags;
}

/* Rows of the key's kind, precision and flags, which lie side by side. */
static size_t family_of(const struct sf_cost *c, const struct sfi_kernel_key *key, size_t *first) {
    size_t low = 0, high = c->kernels_n, last;
    const size_t head = offsetof(struct sfi_kernel_key, dims);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        bool before = memcmp(&c->kernels[middle].key, key, head) < 0;
        low = before ? middle + 1 : low;
        high = before ? high : middle;
    }
    for (last = low; last < c->kernels_n && same_family(&c->kernels[last].key, key); last++) {
        if (last - low == SFI_NEAR_ROWS) {
            return 0;
        }
    }
    *first = low;
    return last - low;
}

double sfi_model_s(const struct sf_cost *c, const struct sfi_calib_model *m, const struct sf_call *call) {
    const struct sfi_kernel_key key = {call->kind, call->dtype, call->flags & TIME_FLAGS, 0, {0}};
    struct sfi_near near = {0};
    size_t first = 0, n = family_of(c, &key, &first);
    for (size_t i = first; i < first + n; i++) {
        sfi_near_add(&near, call->dims, c->kernels[i].key.dims, c->kernels[i].residual);
    }
    return sfi_calib_s(m->form, m->param, call) * sfi_near_factor(&near, SFI_NEAR_DOUBT);
}

static void set_residuals(struct sf_cost *c) {
    for (size_t i = 0; i < c->kernels_n; i++) {
        const struct sf_call call = call_of(&c->kernels[i]);
        const struct sfi_calib_model *m = sfi_model_find(c, &call);
        double form_s = m ? sfi_calib_s(m->form, m->param, &call) : 0.0;
        c->kernels[i].residual =
            form_s > 0.0 && c->kernels[i].time > 0 ? log(sf_ps_to_s(c->kernels[i].time) / form_s) : 0.0;
    }
}

static int read_flags(const struct sf_node *n, uint16_t *out, struct sf_err *err) {
    static const struct {
        const char *name;
        unsigned bit;
    } known[] = {
#define X(NAME, bit, name) {name, bit},
        SF_CALL_FLAGS(X)
#undef X
    };
    if (!sf_node_is_seq(n)) {
        return sf_node_fail(n, err, "expected a list of flags such as [tb, acc]");
    }
    for (size_t i = 0; i < sf_seq_size(n); i++) {
        const char *word = NULL;
        size_t k = 0, known_n = sizeof known / sizeof known[0];
        SF_TRY(sf_node_str(sf_seq_at(n, i), &word, err));
        while (k < known_n && strcmp(known[k].name, word) != 0) {
            k++;
        }
        if (k == known_n) {
            return sf_node_fail(sf_seq_at(n, i), err,
                                "unknown flag '%s'; known: ta tb acc acc2 gelu recompute plain apart lean", word);
        }
        *out = (uint16_t)(*out | (known[k].bit & TIME_FLAGS));
    }
    return SF_OK;
}

static int read_dims(const struct sf_node *n, int kind, int64_t *dims, struct sf_err *err) {
    size_t want = (size_t)sf_call_dims_n(kind);
    if (!sf_node_is_seq(n) || sf_seq_size(n) != want) {
        return sf_node_fail(n, err, "expected a list of %zu dims for %s, found %zu", want, sf_call_name(kind),
                            sf_node_is_seq(n) ? sf_seq_size(n) : 0);
    }
    for (size_t i = 0; i < want; i++) {
        SF_TRY(sf_node_i64(sf_seq_at(n, i), 0, INT64_C(1) << 56, &dims[i], err));
    }
    return SF_OK;
}

static int read_names(const struct sf_node *n, struct sfi_kernel_key *key, struct sf_err *err) {
    const struct sf_node *kind, *dtype;
    const char *word = NULL;
    SF_TRY(sf_map_need(n, "kind", &kind, err));
    SF_TRY(sf_node_str(kind, &word, err));
    int k = sf_call_parse(word);
    if (k < 0 || sf_call_is_collective(k)) {
        return sf_node_fail(kind, err, "expected the name of a compute call such as gemm, found '%s'", word);
    }
    SF_TRY(sf_map_need(n, "dtype", &dtype, err));
    SF_TRY(sf_node_str(dtype, &word, err));
    int d = sf_dtype_parse(word);
    if (d < 0) {
        return sf_node_fail(dtype, err, "expected f32, bf16 or fp8, found '%s'", word);
    }
    key->kind = (uint16_t)k;
    key->dtype = (uint16_t)d;
    return SF_OK;
}

static int read_kernel(const struct sf_node *n, struct sfi_kernel *out, struct sf_err *err) {
    static const char *const keys[] = {"kind", "dtype", "flags", "dims", "time", "n", NULL};
    const struct sf_node *v;
    int64_t samples;
    if (!sf_node_is_map(n)) {
        return sf_node_fail(n, err, "expected { kind, dtype, flags, dims, time, n }");
    }
    SF_TRY(sf_map_only(n, keys, err));
    SF_TRY(read_names(n, &out->key, err));
    v = sf_map_find(n, "flags");
    if (v) {
        SF_TRY(read_flags(v, &out->key.flags, err));
    }
    SF_TRY(sf_map_need(n, "dims", &v, err));
    SF_TRY(read_dims(v, out->key.kind, out->key.dims, err));
    v = sf_map_find(n, "n");
    if (v) {
        SF_TRY(sf_node_i64(v, 1, INT64_MAX, &samples, err));
    }
    SF_TRY(sf_map_need(n, "time", &v, err));
    return sf_node_time(v, &out->time, err);
}

/* Data sheets round; nothing is faster than that. Peaks of CPUs are assumptions, and caches are faster than memory. */
#define PEAK_SLACK 1.05

static int check_rate(const struct sf_cost *c, const struct sfi_kernel *k, const struct sf_node *row,
                      struct sf_err *err) {
    const struct sf_call call = call_of(k);
    bool attention = sf_call_is_attention(call.kind);
    if (!c->device || c->device->kernels.cores == 0 || (call.kind != SF_CALL_GEMM && !attention)) {
        return SF_OK;
    }
    int dtype = attention && call.dtype >= SF_FP8 ? SF_BF16 : call.dtype;
    double peak = c->device->flops_per_s[dtype],
           rate = sf_call_work(&call).flops / sf_ps_to_s(k->time > 0 ? k->time : 1);
    return peak <= 0.0 || rate <= PEAK_SLACK * peak
               ? SF_OK
               : sf_node_fail(row, err,
                              "this %s would run at %.4g TFLOP/s, but the peak of %s in %s is %.4g: correct the row or "
                              "take it out",
                              sf_call_name(call.kind), rate * 1e-12, c->device->name, sf_dtype_name(dtype),
                              peak * 1e-12);
}

static int read_kernels(struct sf_cost *c, const struct sf_node *list, struct sf_err *err) {
    if (!sf_node_is_seq(list) || sf_seq_size(list) > KERNELS_MAX) {
        return sf_node_fail(list, err, "expected a list of at most %d kernels", KERNELS_MAX);
    }
    size_t n = sf_seq_size(list);
    c->kernels = sf_calloc(n, sizeof *c->kernels);
    if (!c->kernels) {
        return sf_fail_memory(err, "kernel table");
    }
    for (size_t i = 0; i < n; i++) {
        c->kernels[i].row = (uint32_t)i;
        SF_TRY(read_kernel(sf_seq_at(list, i), &c->kernels[i], err));
        SF_TRY(check_rate(c, &c->kernels[i], sf_seq_at(list, i), err));
    }
    qsort(c->kernels, n, sizeof *c->kernels, compare_keys);
    for (size_t i = 1; i < n; i++) {
        if (compare_keys(&c->kernels[i - 1], &c->kernels[i]) == 0) {
            uint32_t a = c->kernels[i - 1].row, b = c->kernels[i].row;
            return sf_node_fail(sf_seq_at(list, a > b ? a : b), err,
                                "the same kernel is measured twice (entry %u of the list): keep one",
                                (a < b ? a : b) + 1);
        }
    }
    c->kernels_n = n;
    return SF_OK;
}

static int read_tier(const struct sf_node *map, const char *latency, const char *rate, struct sfi_tier *out,
                     struct sf_err *err) {
    const struct sf_node *v = sf_map_find(map, latency);
    if (v) {
        SF_TRY(sf_node_time(v, &out->latency_ps, err));
    }
    v = sf_map_find(map, rate);
    if (v) {
        SF_TRY(sf_node_rate(v, &out->bytes_per_s, err));
        if (out->bytes_per_s == 0) {
            return sf_node_fail(v, err, "expected a rate above zero");
        }
    }
    return SF_OK;
}

/* Measured between ranks of one host, so these replace the numbers of the scale-up link and of nothing else. */
static int read_transport(struct sf_cost *c, const struct sf_node *n, struct sf_err *err) {
    static const char *const keys[] = {"message_latency", "message_rate", "collective_latency",
                                       "collective_rate", "dispatch",     NULL};
    if (!sf_node_is_map(n)) {
        return sf_node_fail(n, err,
                            "expected { message_latency, message_rate, collective_latency, collective_rate, "
                            "dispatch }");
    }
    SF_TRY(sf_map_only(n, keys, err));
    c->message = c->tier[SF_ROUTE_DOMAIN];
    c->messages_measured = sf_map_find(n, "message_latency") || sf_map_find(n, "message_rate");
    SF_TRY(read_tier(n, "message_latency", "message_rate", &c->message, err));
    c->collectives_measured = sf_map_find(n, "collective_latency") || sf_map_find(n, "collective_rate");
    SF_TRY(read_tier(n, "collective_latency", "collective_rate", &c->tier[SF_ROUTE_DOMAIN], err));
    if (sf_map_find(n, "collective_rate")) {
        c->reduce_bytes_per_s = c->tier[SF_ROUTE_DOMAIN].bytes_per_s;
    }
    const struct sf_node *dispatch = sf_map_find(n, "dispatch");
    return dispatch ? sf_node_time(dispatch, &c->dispatch_ps, err) : SF_OK;
}

int sfi_cost_load(struct sf_cost *c, const struct sf_node *root, struct sf_err *err) {
    static const char *const keys[] = {"kernels",     "transport", "host",        "note",
                                       "calibration", "models",    "collectives", NULL};
    if (!sf_node_is_map(root)) {
        return sf_node_fail(root, err, "expected a map with kernels: and transport:");
    }
    SF_TRY(sf_map_only(root, keys, err));
    const struct sf_node *kernels = sf_map_find(root, "kernels"), *transport = sf_map_find(root, "transport");
    const struct sf_node *calibration = sf_map_find(root, "calibration"), *models = sf_map_find(root, "models");
    c->repeat = SFI_REPEAT;
    if (calibration) {
        SF_TRY(sfi_calib_read_head(calibration, &c->repeat, err));
    }
    if (models) {
        SF_TRY(sfi_calib_read_models(models, &c->models, &c->models_n, err));
    }
    if (kernels && !sf_node_is_null(kernels)) {
        SF_TRY(read_kernels(c, kernels, err));
        set_residuals(c);
    }
    const struct sf_node *collectives = sf_map_find(root, "collectives");
    SF_TRY(collectives ? sfi_points_load(c, collectives, err) : SF_OK);
    return transport ? read_transport(c, transport, err) : SF_OK;
}
