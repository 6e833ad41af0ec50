#include "planner/cut_units.h"

#include <inttypes.h>
#include <string.h>

#include "core/arena.h"
#include "planner/cut_columns.h"

enum { UNIT, COUNT, DEVICES, F, B, W, STATE, ACTIVATION, COLUMNS_N };
static const struct sfi_cut_column columns[COLUMNS_N] = {{"unit", true},  {"count", false},    {"devices", false},
                                                         {"f", true},     {"b", true},         {"w", true},
                                                         {"state", true}, {"activation", true}};

static int read_name(const struct sfi_cut_table *t, size_t row, char out[SF_CUT_NAME], struct sf_err *err) {
    const char *name = sfi_cut_text(t, row, UNIT);
    size_t n = strlen(name);
    if (n == 0 || n >= SF_CUT_NAME) {
        return sfi_cut_fail(t, row, UNIT, err, "expected a name of 1 to 31 bytes");
    }
    memcpy(out, name, n + 1);
    return 0;
}

/* Ways come in the order of the first unit's. */
static int read_way(const struct sfi_cut_table *t, size_t row, uint32_t way, struct sf_cut_units *u,
                    struct sf_err *err) {
    uint32_t devices = 1;
    SF_TRY(sfi_cut_count(t, row, DEVICES, 1u << 16, &devices, err));
    if (u->rows_n > 1) {
        if (way >= u->ways_n || devices != u->way_devices[way]) {
            return sfi_cut_fail(t, row, DEVICES, err,
                                "expected the same numbers, in the same order, as the first unit has");
        }
        return 0;
    }
    if (way == SF_CUT_WAYS) {
        return sfi_cut_fail(t, row, UNIT, err, "expected at most 8 ways to run a unit");
    }
    for (uint32_t i = 0; i < way; i++) {
        if (u->way_devices[i] == devices) {
            return sfi_cut_fail(t, row, DEVICES, err,
                                "a way on as many devices came before; rows of one unit differ in it");
        }
    }
    u->way_devices[way] = devices;
    u->ways_n = way + 1;
    return 0;
}

static int read_costs(const struct sfi_cut_table *t, size_t row, uint32_t way, struct sf_cut_row *r,
                      struct sf_cut_unit *unit, struct sf_err *err) {
    SF_TRY(sfi_cut_time(t, row, F, &r->f[way], err));
    SF_TRY(sfi_cut_time(t, row, B, &r->b[way], err));
    SF_TRY(sfi_cut_time(t, row, W, &r->w[way], err));
    unit->time[way] = r->f[way] + r->b[way] + r->w[way];
    SF_TRY(sfi_cut_bytes(t, row, STATE, &unit->fixed_bytes[way], err));
    return sfi_cut_bytes(t, row, ACTIVATION, &unit->activation_bytes[way], err);
}

static int begin_row(const struct sfi_cut_table *t, size_t row, const char *name, struct sf_cut_units *u,
                     struct sf_err *err) {
    struct sf_cut_row *r = &u->rows[u->rows_n++];
    *r = (struct sf_cut_row){.count = 1, .first = u->units_n};
    memcpy(r->unit, name, SF_CUT_NAME);
    SF_TRY(sfi_cut_count(t, row, COUNT, SF_CUT_UNITS, &r->count, err));
    if (r->count > SF_CUT_UNITS - u->units_n) {
        return sfi_cut_fail(t, row, COUNT, err, "more than 4,096 units in all");
    }
    u->units_n += r->count;
    return 0;
}

static int check_complete(const struct sfi_cut_table *t, size_t row, uint32_t ways, const struct sf_cut_units *u,
                          struct sf_err *err) {
    return u->rows_n == 0 || ways == u->ways_n
               ? 0
               : sfi_cut_fail(t, row, UNIT, err, "a unit before this line lacks ways that the first unit has");
}

/* All are then as quick as one another: in any cut. */
static int check_times(const struct sfi_cut_table *t, const struct sf_cut_units *u, struct sf_err *err) {
    for (uint32_t r = 0; r < u->rows_n; r++) {
        for (uint32_t way = 0; way < u->ways_n; way++) {
            if (u->units[u->rows[r].first].time[way] > 0) {
                return 0;
            }
        }
    }
    return sf_fail_at(err, SF_E_INPUT, t->csv.name, 0, 0, "all times are 0; expected f, b and w of what is to be cut");
}

static int read_rows(const struct sfi_cut_table *t, struct sf_cut_units *u, struct sf_err *err) {
    uint32_t ways = 0;
    for (size_t row = 1; row < t->csv.rows_n; row++) {
        char name[SF_CUT_NAME] = "";
        SF_TRY(read_name(t, row, name, err));
        struct sf_cut_row *last = u->rows_n > 0 ? &u->rows[u->rows_n - 1] : NULL;
        if (last == NULL || strcmp(last->unit, name) != 0) {
            SF_TRY(check_complete(t, row, ways, u, err));
            SF_TRY(begin_row(t, row, name, u, err));
            last = &u->rows[u->rows_n - 1];
            ways = 0;
        } else {
            uint32_t count = last->count;
            SF_TRY(sfi_cut_count(t, row, COUNT, SF_CUT_UNITS, &count, err));
            if (count != last->count) {
                return sfi_cut_fail(t, row, COUNT, err, "expected the same count as in the unit's first row");
            }
        }
        SF_TRY(read_way(t, row, ways, u, err));
        SF_TRY(read_costs(t, row, ways++, last, &u->units[last->first], err));
    }
    SF_TRY(check_complete(t, t->csv.rows_n - 1, ways, u, err));
    return u->units_n > 0 ? check_times(t, u, err)
                          : sf_fail_at(err, SF_E_INPUT, t->csv.name, 1, 0, "expected rows of units below the header");
}

static void repeat(struct sf_cut_units *u) {
    for (uint32_t r = 0; r < u->rows_n; r++) {
        for (uint32_t i = 1; i < u->rows[r].count; i++) {
            u->units[u->rows[r].first + i] = u->units[u->rows[r].first];
        }
    }
}

int sf_cut_units_load(const struct sf_io *io, const char *path, struct sf_cut_units *out, struct sf_err *err) {
    struct sfi_cut_table t;
    *out = (struct sf_cut_units){0};
    int rc = sfi_cut_table_load(io, path, columns, COLUMNS_N, &t, err);
    if (rc == 0) {
        out->rows = sf_calloc(t.csv.rows_n, sizeof *out->rows);
        out->units = sf_calloc(SF_CUT_UNITS, sizeof *out->units);
        rc = out->rows && out->units ? read_rows(&t, out, err) : sf_fail_memory(err, "units");
    }
    sf_csv_clear(&t.csv);
    if (rc != 0) {
        sf_cut_units_clear(out);
        return rc;
    }
    repeat(out);
    return 0;
}

void sf_cut_units_clear(struct sf_cut_units *u) {
    sf_free(u->rows);
    sf_free(u->units);
    *u = (struct sf_cut_units){0};
}

struct sf_cut_stage sf_cut_stage_of(const struct sf_cut_units *u, uint32_t from, uint32_t to, uint32_t way) {
    struct sf_cut_stage s = {0};
    for (uint32_t r = 0; r < u->rows_n; r++) {
        const struct sf_cut_row *row = &u->rows[r];
        uint32_t begin = row->first > from ? row->first : from, end = row->first + row->count;
        end = end < to ? end : to;
        uint32_t n = end > begin ? end - begin : 0;
        s.f += n * row->f[way];
        s.b += n * row->b[way];
        s.w += n * row->w[way];
        s.state_bytes += n * u->units[row->first].fixed_bytes[way];
        s.activation_bytes += n * u->units[row->first].activation_bytes[way];
    }
    return s;
}

bool sf_cut_even(const struct sf_cut_units *u, uint32_t stages_n, struct sf_cut *out) {
    const struct sf_cut_row *most = &u->rows[0];
    for (uint32_t r = 1; r < u->rows_n; r++) {
        most = u->rows[r].count > most->count ? &u->rows[r] : most;
    }
    if (most->count < stages_n) {
        return false;
    }
    *out = (struct sf_cut){.devices = stages_n * u->way_devices[0]};
    uint32_t at = most->first;
    for (uint32_t s = 0; s < stages_n; s++) {
        out->first[s] = s == 0 ? 0 : at;
        at += most->count / stages_n + (s < most->count % stages_n);
    }
    out->first[stages_n] = u->units_n;
    for (uint32_t s = 0; s < stages_n; s++) {
        struct sf_cut_stage c = sf_cut_stage_of(u, out->first[s], out->first[s + 1], 0);
        out->slowest = c.f + c.b + c.w > out->slowest ? c.f + c.b + c.w : out->slowest;
    }
    return true;
}
