/* Collecting what was measured, source by source. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/arena.h"
#include "sim/calib_internal.h"
#include "sim/cost_internal.h"

enum { POINTS = 1u << 20 };

int sf_calib_source(struct sf_calib_data *d, const char *path, const char *form, struct sf_hash hash,
                    struct sf_err *err) {
    const char *slash = strrchr(path, '/');
    if (d->sources_n == SF_CALIB_SOURCES) {
        return sf_fail(err, SF_E_INPUT, "more than %d files: calibrate in parts", SF_CALIB_SOURCES);
    }
    struct sf_calib_source *s = &d->source[d->sources_n];
    *s = (struct sf_calib_source){.hash = hash};
    snprintf(s->form, sizeof s->form, "%s", form);
    snprintf(s->name, sizeof s->name, "%.90s", slash ? slash + 1 : path);
    for (char *c = s->name; *c; c++) {
        *c = *c < ' ' || *c > '~' || *c == '"' || *c == '\\' ? '?' : *c;
    }
    d->sources_n++;
    return SF_OK;
}

/* Room for one more of n, twice as much each time. */
static int make_room(void **array, size_t n, size_t *room, size_t size, size_t most, struct sf_err *err) {
    if (n < *room) {
        return SF_OK;
    }
    if (n >= most) {
        return sf_fail(err, SF_E_INPUT, "more than %zu measurements: calibrate in parts", most);
    }
    size_t more = *room ? 2 * *room : 256;
    void *bigger = sf_realloc(*array, more, size);
    if (!bigger) {
        return sf_fail_memory(err, "measurements");
    }
    *array = bigger;
    *room = more;
    return SF_OK;
}

int sf_calib_add_row(struct sf_calib_data *d, const struct sf_calib_row *row, struct sf_err *err) {
    if (!(row->time_s > 0.0 && row->time_s < 1e6)) {
        return sf_fail(err, SF_E_INPUT, "expected a time above 0 for %s", sf_call_name(row->kind));
    }
    void *rows = d->rows;
    SF_TRY(make_room(&rows, d->rows_n, &d->rows_room, sizeof *d->rows, SF_CALIB_ROWS, err));
    d->rows = rows;
    d->rows[d->rows_n] = *row;
    d->rows[d->rows_n++].source = (uint16_t)(d->sources_n - 1);
    d->source[d->sources_n - 1].rows++;
    return SF_OK;
}

int sf_calib_add_point(struct sf_calib_data *d, const struct sf_calib_point *point, struct sf_err *err) {
    if (!(point->time_s > 0.0 && point->time_s < 1e6 && point->ranks >= 2)) {
        return sf_fail(err, SF_E_INPUT, "expected a time above 0 and at least 2 ranks");
    }
    void *points = d->points;
    SF_TRY(make_room(&points, d->points_n, &d->points_room, sizeof *d->points, POINTS, err));
    d->points = points;
    d->points[d->points_n] = *point;
    d->points[d->points_n++].source = (uint16_t)(d->sources_n - 1);
    d->source[d->sources_n - 1].rows++;
    return SF_OK;
}

/* ---- kernel tables ----------------------------------------------------------------------------------------------- */

static int read_fact(const struct sf_node *host, const char *key, char *out, size_t size, struct sf_err *err) {
    const struct sf_node *n = host && sf_node_is_map(host) ? sf_map_find(host, key) : NULL;
    const char *text = "";
    if (n) {
        SF_TRY(sf_node_str(n, &text, err));
    }
    if (out[0] == '\0') {
        snprintf(out, size, "%.100s", text);
        for (char *c = out; *c; c++) {
            *c = *c < ' ' || *c > '~' || *c == '"' || *c == '\\' ? '?' : *c;
        }
    }
    return SF_OK;
}

/* One file prices one device. */
static int read_device(struct sf_calib_data *d, const struct sf_node *host, struct sf_err *err) {
    char found[sizeof d->device] = "";
    SF_TRY(read_fact(host, "device", found, sizeof found, err));
    if (d->device[0] != '\0' && found[0] != '\0' && strcmp(d->device, found) != 0) {
        return sf_node_fail(sf_map_find(host, "device"), err,
                            "expected times of %s, as in the tables before, found those of %s: calibrate each alone",
                            d->device, found);
    }
    SF_TRY(read_fact(host, "device", d->device, sizeof d->device, err));
    return read_fact(host, "libraries", d->libraries, sizeof d->libraries, err);
}

static void read_transport(struct sf_calib_data *d, const struct sf_cost *c, const struct sf_node *root) {
    uint32_t s = d->sources_n - 1;
    const struct sf_node *map = sf_map_find(root, "transport");
    if (!map) {
        return;
    }
    d->dispatch_s[s] = sf_map_find(map, "dispatch") ? sf_ps_to_s(c->dispatch_ps) : 0.0;
    d->message_s[s] = sf_map_find(map, "message_latency") ? sf_ps_to_s(c->message.latency_ps) : 0.0;
    d->message_rate[s] = sf_map_find(map, "message_rate") ? (double)c->message.bytes_per_s : 0.0;
    const struct sfi_tier *own = &c->tier[SF_ROUTE_DOMAIN];
    d->collective_s[s] = sf_map_find(map, "collective_latency") ? sf_ps_to_s(own->latency_ps) : 0.0;
    d->collective_rate[s] = sf_map_find(map, "collective_rate") ? (double)own->bytes_per_s : 0.0;
}

static int read_table(struct sf_calib_data *d, struct sf_cost *c, const struct sf_node *root, struct sf_err *err) {
    SF_TRY(sfi_cost_load(c, root, err));
    SF_TRY(read_device(d, sf_map_find(root, "host"), err));
    SF_TRY(read_fact(sf_map_find(root, "host"), "cpu", d->cpu, sizeof d->cpu, err));
    SF_TRY(read_fact(sf_map_find(root, "host"), "date", d->date, sizeof d->date, err));
    for (size_t i = 0; i < c->kernels_n; i++) {
        const struct sfi_kernel *k = &c->kernels[i];
        struct sf_calib_row row = {
            .kind = k->key.kind, .dtype = k->key.dtype, .flags = k->key.flags, .time_s = sf_ps_to_s(k->time)};
        memcpy(row.dims, k->key.dims, sizeof row.dims);
        if (k->time == 0) {
            const struct sf_node *list = sf_map_find(root, "kernels");
            return sf_node_fail(sf_seq_at(list, k->row), err, "expected a time above 0");
        }
        SF_TRY(sf_calib_add_row(d, &row, err));
    }
    for (size_t i = 0; i < c->points_n; i++) {
        SF_TRY(sf_calib_add_point(d, &c->points[i], err));
    }
    read_transport(d, c, root);
    return SF_OK;
}

int sf_calib_read_kernels(struct sf_calib_data *d, const char *text, size_t bytes, const char *path,
                          struct sf_err *err) {
    struct sf_cost c = {.kernels_n = 0};
    struct sf_doc *doc = NULL;
    SF_TRY(sf_calib_source(d, path, "kernels", sf_hash_bytes(text, bytes), err));
    int rc = sf_doc_parse(text, bytes, path, &doc, err);
    rc = rc ? rc : read_table(d, &c, sf_doc_root(doc), err);
    sf_free(c.kernels);
    sf_free(c.models);
    sf_free(c.points);
    sf_doc_free(doc);
    return rc;
}
