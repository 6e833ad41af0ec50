/* The calibration file: a kernel table that also says where it is from and what the models fitted to it are. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "sim/calib_internal.h"

enum { MODELS = 1024 };

/* ---- writing ----------------------------------------------------------------------------------------------------- */

/* Parameters by unit: times in us, rates of arithmetic in GFLOP/s, rates of memory and links in MB/s, bare factors. */
static const char *unit_of(int form, int i, double *scale) {
    const char *name = sf_calib_param_name(form, i);
    *scale = 1.0;
    if (strcmp(name, "launch") == 0 || strcmp(name, "latency") == 0) {
        *scale = 1e6;
        return "us";
    }
    if (strcmp(name, "rate") == 0 && form != SF_CALIB_LINK) {
        *scale = 1e-9;
        return "GFLOP/s";
    }
    if (strcmp(name, "rate") == 0 || strcmp(name, "memory_rate") == 0) {
        *scale = 1e-6;
        return "MB/s";
    }
    return "";
}

static void print_sources(const struct sf_calib_data *d, const struct sf_calib *c, struct sf_buf *out) {
    char hash[SF_HASH_TEXT];
    uint64_t all[2 * SF_CALIB_SOURCES] = {0};
    for (uint32_t i = 0; i < d->sources_n; i++) {
        all[2 * i] = d->source[i].hash.hi;
        all[2 * i + 1] = d->source[i].hash.lo;
    }
    sf_hash_format(sf_hash_bytes(all, d->sources_n * 2 * sizeof all[0]), hash);
    sf_buf_printf(out,
                  "calibration:\n  version: 1\n  inputs: \"%s\" # hash of the hashes below\n  repeat: %.6g # %s\n"
                  "  sources:\n",
                  hash, c->repeat,
                  c->repeat_n > 0 ? "90 % of what was measured more than once was within this share of its mean"
                                  : "assumed: nothing was measured more than once");
    for (uint32_t i = 0; i < d->sources_n; i++) {
        const struct sf_calib_source *s = &d->source[i];
        sf_buf_printf(out, "    - { name: \"%s\", form: %s, hash: \"%s\", rows: %u, left_out: %u }\n", s->name, s->form,
                      sf_hash_format(s->hash, hash), s->rows, s->left_out);
    }
}

static void print_head(const struct sf_calib_data *d, const struct sf_calib *c, struct sf_buf *out) {
    sf_buf_printf(out,
                  "# Written by staticfire calibrate; docs/calibration.md says what the numbers mean. Use it with\n"
                  "# --kernels: rows price the calls that they list, models every other shape.\n");
    print_sources(d, c, out);
    if (d->cpu[0] != '\0' || d->date[0] != '\0') {
        sf_buf_printf(out, "host: { ");
        if (d->device[0] != '\0') {
            sf_buf_printf(out, "device: \"%s\", libraries: \"%s\", ", d->device, d->libraries);
        }
        sf_buf_printf(out, "cpu: \"%s\", date: \"%s\" }\n", d->cpu, d->date);
    }
}

/* As many decimals as its reader takes digits in all, nothing above what it can hold, and no rate below one a second
 * (core/units.c). */
static void print_number(double v, const char *unit, int decimals, struct sf_buf *out) {
    enum { DIGITS = 17 };
    double least = strcmp(unit, "MB/s") == 0 ? 1e-6 : strcmp(unit, "GFLOP/s") == 0 ? 1e-9 : 0.0;
    double shown = fmax(fmin(v, 1e13), least);
    int whole = shown >= 10.0 ? 1 + (int)floor(log10(shown)) : 1;
    sf_buf_printf(out, "%.*f%s", whole + decimals <= DIGITS ? decimals : DIGITS - whole, shown, unit);
}

static void print_quantity(const char *key, const struct sf_calib_param *p, double scale, const char *unit,
                           struct sf_buf *out) {
    if (p->value > 0.0) {
        sf_buf_printf(out, "  %s: ", key);
        print_number(p->value * scale, unit, 6, out);
        sf_buf_printf(out, " # %.6g to %.6g\n", p->low * scale, p->high * scale);
    }
}

static void print_transport(const struct sf_calib *c, struct sf_buf *out) {
    if (c->dispatch.value + c->message_s.value + c->message_rate.value + c->collective_s.value <= 0.0) {
        return;
    }
    sf_buf_printf(out, "transport:\n");
    print_quantity("message_latency", &c->message_s, 1e6, "us", out);
    print_quantity("message_rate", &c->message_rate, 1e-6, "MB/s", out);
    print_quantity("collective_latency", &c->collective_s, 1e6, "us", out);
    print_quantity("collective_rate", &c->collective_rate, 1e-6, "MB/s", out);
    print_quantity("dispatch", &c->dispatch, 1e6, "us", out);
}

/* Smallest and largest work of the rows behind a model. */
static void work_range(const struct sf_calib *c, const struct sf_calib_model *m, double *lo, double *hi) {
    *lo = INFINITY;
    *hi = 0.0;
    for (size_t i = 0; i < c->rows_n; i++) {
        if (c->rows[i].kind == m->kind && c->rows[i].dtype == m->dtype) {
            const struct sf_call call = sfi_calib_call(&c->rows[i]);
            double work = sfi_calib_work(&call);
            *lo = fmin(*lo, work);
            *hi = fmax(*hi, work);
        }
    }
}

static void print_model(const struct sf_calib *c, const struct sf_calib_model *m, struct sf_buf *out) {
    double scale, lo, hi;
    const char *kind = m->form == SF_CALIB_LINK && m->kind == SF_CALL_COPY ? "message" : sf_call_name(m->kind);
    sf_buf_printf(out, "  - kind: %s\n    form: %s\n    dtype: %s\n", kind, sf_calib_form_name(m->form),
                  sf_dtype_name(m->dtype));
    for (int i = 0; sf_calib_param_name(m->form, i); i++) {
        const char *unit = unit_of(m->form, i, &scale);
        sf_buf_printf(out, "    %s: ", sf_calib_param_name(m->form, i));
        print_number(m->param[i].value * scale, unit, 9, out);
        sf_buf_printf(out, " # %.4g to %.4g\n", m->param[i].low * scale, m->param[i].high * scale);
    }
    if (m->form != SF_CALIB_LINK) {
        work_range(c, m, &lo, &hi);
        sf_buf_printf(out, "    work: [%.17g, %.17g]\n", lo, hi);
    }
    sf_buf_printf(out, "    rows: %u\n    p90: %.6g # of the size of the relative error, %s\n", m->rows, m->p90,
                  m->held_out ? "on rows held out" : "a cautious guess: too few rows to hold any out");
}

static void print_row(const struct sf_calib_row *r, struct sf_buf *out) {
    static const struct {
        unsigned bit;
        const char *name;
    } flags[] = {
#define X(NAME, bit, name) {bit, name},
        SF_CALL_FLAGS(X)
#undef X
    };
    sf_buf_printf(out, "  - { kind: %s, dtype: %s, flags: [", sf_call_name(r->kind), sf_dtype_name(r->dtype));
    const char *comma = "";
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        if (r->flags & flags[i].bit) {
            sf_buf_printf(out, "%s%s", comma, flags[i].name);
            comma = ", ";
        }
    }
    sf_buf_printf(out, "], dims: [");
    for (int i = 0; i < sf_call_dims_n(r->kind); i++) {
        sf_buf_printf(out, "%s%lld", i > 0 ? ", " : "", (long long)r->dims[i]);
    }
    sf_buf_printf(out, "], time: ");
    print_number(r->time_s * 1e6, "us", 6, out);
    sf_buf_printf(out, " }\n");
}

/* Of ranks that trained: what nccl-tests and traces say is in the models. */
static void print_points(const struct sf_calib_data *d, struct sf_buf *out) {
    const char *head = "collectives:\n";
    for (size_t i = 0; i < d->points_n; i++) {
        const struct sf_calib_point *p = &d->points[i];
        if (strcmp(d->source[p->source].form, "kernels") == 0) {
            sf_buf_printf(out, "%s  - { op: %s, ranks: %u, bytes: %.0f, time: ", head, sf_call_name(p->op), p->ranks,
                          p->bytes);
            print_number(p->time_s * 1e6, "us", 6, out);
            sf_buf_printf(out, " }\n");
            head = "";
        }
    }
}

void sf_calib_print(const struct sf_calib_data *d, const struct sf_calib *c, struct sf_buf *out) {
    print_head(d, c, out);
    print_transport(c, out);
    sf_buf_printf(out, "%s", c->models_n > 0 ? "models:\n" : "");
    for (size_t i = 0; i < c->models_n; i++) {
        print_model(c, &c->models[i], out);
    }
    sf_buf_printf(out, "%s", c->rows_n > 0 ? "kernels:\n" : "");
    for (size_t i = 0; i < c->rows_n; i++) {
        print_row(&c->rows[i], out);
    }
    print_points(d, out);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static int read_param(const struct sf_node *n, int form, int i, double *out, struct sf_err *err) {
    double scale;
    const char *unit = unit_of(form, i, &scale);
    sf_time_ps t;
    uint64_t rate;
    if (strcmp(unit, "us") == 0) {
        SF_TRY(sf_node_time(n, &t, err));
        *out = sf_ps_to_s(t);
        return SF_OK;
    }
    if (strcmp(unit, "MB/s") == 0) {
        SF_TRY(sf_node_rate(n, &rate, err));
        *out = (double)rate;
    } else if (unit[0] != '\0') {
        SF_TRY(sf_node_flops(n, out, err));
    } else {
        return sf_node_f64(n, 0, 1e9, out, err);
    }
    return *out > 0.0 ? SF_OK : sf_node_fail(n, err, "expected a rate above zero");
}

static int read_params(const struct sf_node *map, struct sfi_calib_model *m, struct sf_err *err) {
    const char *keys[SF_CALIB_PARAMS + 7] = {"kind", "form", "dtype", "rows", "p90", "work"};
    const struct sf_node *n;
    int keys_n = 6;
    for (int i = 0; sf_calib_param_name(m->form, i); i++) {
        keys[keys_n++] = sf_calib_param_name(m->form, i);
    }
    SF_TRY(sf_map_only(map, keys, err));
    for (int i = 0; sf_calib_param_name(m->form, i); i++) {
        SF_TRY(sf_map_need(map, sf_calib_param_name(m->form, i), &n, err));
        SF_TRY(read_param(n, m->form, i, &m->param[i], err));
    }
    SF_TRY(sf_map_need(map, "p90", &n, err));
    return sf_node_f64(n, 0, 1e6, &m->p90, err);
}

static int read_work(const struct sf_node *map, struct sfi_calib_model *m, struct sf_err *err) {
    const struct sf_node *n;
    SF_TRY(sf_map_need(map, "work", &n, err));
    if (!sf_node_is_seq(n) || sf_seq_size(n) != 2) {
        return sf_node_fail(n, err, "expected the least and the most work that was measured, such as [1000, 500000]");
    }
    SF_TRY(sf_node_f64(sf_seq_at(n, 0), 0, 1e30, &m->work_lo, err));
    return sf_node_f64(sf_seq_at(n, 1), m->work_lo, 1e30, &m->work_hi, err);
}

static int read_kind(const struct sf_node *map, struct sfi_calib_model *m, struct sf_err *err) {
    static const char *const forms[] = {"product", "attention", "stream", "link", NULL};
    const struct sf_node *n;
    const char *word;
    SF_TRY(sf_map_need(map, "form", &n, err));
    SF_TRY(sf_node_word(n, forms, &m->form, err));
    SF_TRY(sf_map_need(map, "dtype", &n, err));
    SF_TRY(sf_node_str(n, &word, err));
    int dtype = sf_dtype_parse(word);
    if (dtype < 0) {
        return sf_node_fail(n, err, "expected f32, bf16 or fp8, found '%.40s'", word);
    }
    SF_TRY(sf_map_need(map, "kind", &n, err));
    SF_TRY(sf_node_str(n, &word, err));
    int kind = m->form == SF_CALIB_LINK && strcmp(word, "message") == 0 ? SF_CALL_COPY : sf_call_parse(word);
    bool fits =
        kind >= 0 && (m->form == SF_CALIB_LINK ? kind == SF_CALL_COPY || sf_call_is_collective(kind)
                                               : !sf_call_is_collective(kind) && sf_calib_form_of(kind) == m->form);
    if (!fits) {
        return sf_node_fail(n, err, "'%.40s' is no kind of call that the form %s prices", word,
                            sf_calib_form_name(m->form));
    }
    m->kind = (uint16_t)kind;
    m->dtype = (uint16_t)dtype;
    return SF_OK;
}

static int read_model(const struct sf_node *map, struct sfi_calib_model *m, struct sf_err *err) {
    if (!sf_node_is_map(map)) {
        return sf_node_fail(map, err, "expected a model: kind, form, dtype and its parameters");
    }
    SF_TRY(read_kind(map, m, err));
    SF_TRY(read_params(map, m, err));
    return m->form == SF_CALIB_LINK ? SF_OK : read_work(map, m, err);
}

/* Links are for people: `transport` has the numbers that count. */
int sfi_calib_read_models(const struct sf_node *list, struct sfi_calib_model **out, size_t *n, struct sf_err *err) {
    size_t size = sf_node_is_seq(list) ? sf_seq_size(list) : 0;
    if (size == 0 || size > MODELS) {
        return sf_node_fail(list, err, "expected a list of 1 to %d models", MODELS);
    }
    *out = sf_calloc(size, sizeof **out);
    if (!*out) {
        return sf_fail_memory(err, "models");
    }
    for (size_t i = 0; i < size; i++) {
        struct sfi_calib_model *m = &(*out)[*n];
        SF_TRY(read_model(sf_seq_at(list, i), m, err));
        for (size_t k = 0; k < *n && m->form != SF_CALIB_LINK; k++) {
            if ((*out)[k].kind == m->kind && (*out)[k].dtype == m->dtype) {
                return sf_node_fail(sf_seq_at(list, i), err, "a second model of %s in %s: keep one",
                                    sf_call_name(m->kind), sf_dtype_name(m->dtype));
            }
        }
        *n += m->form != SF_CALIB_LINK;
    }
    return SF_OK;
}

int sfi_calib_read_head(const struct sf_node *map, double *repeat, struct sf_err *err) {
    static const char *const keys[] = {"version", "inputs", "repeat", "sources", NULL};
    const struct sf_node *n;
    int64_t version;
    if (!sf_node_is_map(map)) {
        return sf_node_fail(map, err, "expected { version, inputs, repeat, sources }");
    }
    SF_TRY(sf_map_only(map, keys, err));
    SF_TRY(sf_map_need(map, "version", &n, err));
    SF_TRY(sf_node_i64(n, 1, 1, &version, err));
    SF_TRY(sf_map_need(map, "repeat", &n, err));
    return sf_node_f64(n, 0, 10, repeat, err);
}
