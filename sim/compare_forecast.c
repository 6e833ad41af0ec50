/* Forecast files: sealed predictions. The seal is the hash of the compact, key-sorted JSON without the seal; all
 * numbers are integers, so printing and parsing cannot change them. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "sim/compare.h"

#define FORECAST_FORMAT "staticfire-forecast"
#define FORECAST_VERSION 1
#define FORECAST_MAX_BYTES (1u << 20)

static json_t *hash_json(struct sf_hash h) {
    char text[SF_HASH_TEXT];
    return json_string(sf_hash_format(h, text));
}

static json_t *body_json(const struct sf_forecast *f) {
    char seed[24];
    snprintf(seed, sizeof seed, "%" PRIu64, f->seed); /* JSON integers are signed */
    json_t *files = json_pack("{s:s, s:s, s:s, s:s}", "trace", f->trace_file, "program", f->prog_file, "cluster",
                              f->cluster_file, "kernels", f->kernels_file);
    return json_pack("{s:s, s:i, s:o, s:o, s:o, s:o, s:s, s:I, s:I, s:o}", "format", FORECAST_FORMAT, "version",
                     FORECAST_VERSION, "program", hash_json(f->prog), "topo", hash_json(f->topo), "cost",
                     hash_json(f->cost), "trace", hash_json(f->trace), "seed", seed, "step_cpu_ps",
                     (json_int_t)f->step_cpu, "step_time_ps", (json_int_t)f->step_time, "files", files);
}

static int append(const char *text, size_t bytes, void *out) {
    sf_buf_write(out, text, bytes);
    return ((struct sf_buf *)out)->failed;
}

/* Hash of the object as it stands. */
static int seal_of(const json_t *body, struct sf_hash *out, struct sf_err *err) {
    struct sf_buf text = {0};
    int failed = json_dump_callback(body, append, &text, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENSURE_ASCII);
    if (failed == 0) {
        *out = sf_hash_bytes(text.data, text.bytes);
    }
    sf_buf_free(&text);
    return failed == 0 ? 0 : sf_fail_memory(err, "forecast");
}

static int print_sealed(struct sf_forecast *f, json_t *body, struct sf_buf *out, struct sf_err *err) {
    SF_TRY(seal_of(body, &f->seal, err));
    json_object_set_new(body, "seal", hash_json(f->seal));
    int failed = json_dump_callback(body, append, out, JSON_INDENT(2) | JSON_ENSURE_ASCII);
    sf_buf_write(out, "\n", 1);
    return failed == 0 && !out->failed ? 0 : sf_fail_memory(err, "forecast");
}

int sf_forecast_print(struct sf_forecast *f, struct sf_buf *out, struct sf_err *err) {
    json_t *body = body_json(f);
    if (body == NULL) {
        return sf_fail(err, SF_E_INPUT, "the forecast's file names are not valid UTF-8");
    }
    int rc = print_sealed(f, body, out, err);
    json_decref(body);
    return rc;
}

static int need_string(const json_t *obj, const char *path, const char *key, const char **out, struct sf_err *err) {
    const json_t *v = json_object_get(obj, key);
    if (!json_is_string(v)) {
        return sf_fail_at(err, SF_E_INPUT, path, 0, 0,
                          "a forecast needs \"%s\" as a string; write it with "
                          "staticfire sim --forecast",
                          key);
    }
    *out = json_string_value(v);
    return 0;
}

static int need_hash(const json_t *obj, const char *path, const char *key, struct sf_hash *out, struct sf_err *err) {
    const char *text = "";
    SF_TRY(need_string(obj, path, key, &text, err));
    if (strlen(text) != 32 || strspn(text, "0123456789abcdef") != 32) {
        return sf_fail_at(err, SF_E_INPUT, path, 0, 0, "\"%s\" must be 32 hex digits, found \"%.40s\"", key, text);
    }
    char half[17] = "";
    memcpy(half, text, 16);
    out->hi = strtoull(half, NULL, 16);
    out->lo = strtoull(text + 16, NULL, 16);
    return 0;
}

static int need_time(const json_t *obj, const char *path, const char *key, sf_time_ps *out, struct sf_err *err) {
    const json_t *v = json_object_get(obj, key);
    if (!json_is_integer(v) || json_integer_value(v) < 0) {
        return sf_fail_at(err, SF_E_INPUT, path, 0, 0, "a forecast needs \"%s\" as a whole number of picoseconds", key);
    }
    *out = json_integer_value(v);
    return 0;
}

static int need_file(const json_t *obj, const char *path, const char *key, char out[512], struct sf_err *err) {
    const char *text = "";
    SF_TRY(need_string(obj, path, key, &text, err));
    if (strlen(text) >= 512) {
        return sf_fail_at(err, SF_E_INPUT, path, 0, 0, "the name of the %s file is longer than 511 bytes", key);
    }
    snprintf(out, 512, "%s", text);
    return 0;
}

static int read_files(const json_t *files, const char *path, struct sf_forecast *out, struct sf_err *err) {
    SF_TRY(need_file(files, path, "trace", out->trace_file, err));
    SF_TRY(need_file(files, path, "program", out->prog_file, err));
    SF_TRY(need_file(files, path, "cluster", out->cluster_file, err));
    return need_file(files, path, "kernels", out->kernels_file, err);
}

static int read_seed(const json_t *root, const char *path, uint64_t *out, struct sf_err *err) {
    const char *text = "";
    SF_TRY(need_string(root, path, "seed", &text, err));
    if (text[0] == '\0' || strlen(text) > 20 || strspn(text, "0123456789") != strlen(text)) {
        return sf_fail_at(err, SF_E_INPUT, path, 0, 0, "\"seed\" must be decimal digits, found \"%.40s\"", text);
    }
    *out = strtoull(text, NULL, 10);
    return 0;
}

static int read_fields(const json_t *root, const char *path, struct sf_forecast *out, struct sf_err *err) {
    const char *format = "";
    SF_TRY(need_string(root, path, "format", &format, err));
    json_int_t version = json_integer_value(json_object_get(root, "version"));
    if (strcmp(format, FORECAST_FORMAT) != 0 || version != FORECAST_VERSION) {
        return sf_fail_at(err, SF_E_INPUT, path, 0, 0, "expected %s version %d, found \"%.40s\" version %lld",
                          FORECAST_FORMAT, FORECAST_VERSION, format, (long long)version);
    }
    SF_TRY(need_hash(root, path, "program", &out->prog, err));
    SF_TRY(need_hash(root, path, "topo", &out->topo, err));
    SF_TRY(need_hash(root, path, "cost", &out->cost, err));
    SF_TRY(need_hash(root, path, "trace", &out->trace, err));
    SF_TRY(need_hash(root, path, "seal", &out->seal, err));
    SF_TRY(need_time(root, path, "step_cpu_ps", &out->step_cpu, err));
    SF_TRY(need_time(root, path, "step_time_ps", &out->step_time, err));
    SF_TRY(read_seed(root, path, &out->seed, err));
    return read_files(json_object_get(root, "files"), path, out, err);
}

static int seal_check(json_t *root, const char *path, const struct sf_forecast *f, struct sf_err *err) {
    struct sf_hash found;
    json_object_del(root, "seal");
    SF_TRY(seal_of(root, &found, err));
    if (!sf_hash_equal(found, f->seal)) {
        char a[SF_HASH_TEXT], b[SF_HASH_TEXT];
        return sf_fail_at(err, SF_E_INPUT, path, 0, 0,
                          "the seal is broken: it says %s, but the content hashes to %s; the forecast was changed "
                          "after it was written",
                          sf_hash_format(f->seal, a), sf_hash_format(found, b));
    }
    return 0;
}

int sf_forecast_load(const struct sf_io *io, const char *path, struct sf_forecast *out, struct sf_err *err) {
    *out = (struct sf_forecast){0};
    char *data = NULL;
    size_t bytes = 0;
    SF_TRY(io->read_all(io->self, path, FORECAST_MAX_BYTES, &data, &bytes, err));
    json_error_t where;
    json_t *root = json_loadb(data, bytes, JSON_REJECT_DUPLICATES, &where);
    sf_free(data);
    if (root == NULL) {
        return sf_fail_at(err, SF_E_INPUT, path, (uint32_t)where.line, (uint32_t)where.column,
                          "not a forecast file: %s", where.text);
    }
    int rc = read_fields(root, path, out, err);
    rc = rc == 0 ? seal_check(root, path, out, err) : rc;
    json_decref(root);
    return rc;
}

static int sealed_equal(const char *what, struct sf_hash sealed, struct sf_hash found, struct sf_err *err) {
    if (sf_hash_equal(sealed, found)) {
        return 0;
    }
    char a[SF_HASH_TEXT], b[SF_HASH_TEXT];
    return sf_fail(err, SF_E_INPUT, "the forecast was sealed for %s %s, but the predicted trace given has %s", what,
                   sf_hash_format(sealed, a), sf_hash_format(found, b));
}

/* The numbers in the forecast are those of its trace: a seal that was made anew over other numbers does not help. */
static int sealed_times(const struct sf_forecast *f, const struct sf_trace *trace, struct sf_err *err) {
    sf_time_ps busy, end = 0;
    SF_TRY(sf_trace_busy(trace, &busy, err));
    for (size_t i = 0; i < trace->recs_n; i++) {
        end = trace->recs[i].iter == 0 && trace->recs[i].end > end ? trace->recs[i].end : end;
    }
    if (busy != f->step_cpu || end != f->step_time) {
        return sf_fail(
            err, SF_E_INPUT,
            "the forecast says %lld ps of CPU time and a step of %lld ps, its trace %lld and %lld: it was bent",
            (long long)f->step_cpu, (long long)f->step_time, (long long)busy, (long long)end);
    }
    return SF_OK;
}

int sf_forecast_check(const struct sf_forecast *f, const struct sf_trace *trace, struct sf_hash file,
                      struct sf_err *err) {
    SF_TRY(sealed_equal("program", f->prog, trace->meta.prog, err));
    SF_TRY(sealed_equal("topology", f->topo, trace->meta.topo, err));
    SF_TRY(sealed_equal("cost model", f->cost, trace->meta.cost, err));
    SF_TRY(sealed_equal("trace", f->trace, file, err));
    return sealed_times(f, trace, err);
}
