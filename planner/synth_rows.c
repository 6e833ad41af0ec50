/* Placing passes by the order of keys into gaps. A device remembers the gaps that hold its shortest pass, with the
 * memory held in each and the most that is held from its end to the next: a pass that takes memory fits where the most
 * of all that comes later leaves room for it. */
#include "planner/synth_rows.h"

#include <string.h>

#include "core/arena.h"

#define MAX_GAPS 48 /* of a device; the earliest is forgotten where there are more */
#define ROUNDING 1e-9
#define MAX_CLASSES (SFI_SYNTH_KINDS * SF_SYNTH_MAX_CHUNKS) /* of a device */

struct gap {
    sf_time_ps start, end;
    double level; /* memory held in it */
    double peak;  /* the most from its end to the next gap, or to the last pass */
};

struct row {
    sf_time_ps free, least; /* least: its shortest pass */
    double memory;
    uint32_t gaps_n, blocked_n;
    struct gap gaps[MAX_GAPS];
    uint16_t blocked[MAX_CLASSES]; /* classes that wait for memory */
};

struct sfi_rows {
    uint32_t devices, classes_n, microbatches, leaves;
    double limit;
    struct row *rows;
    uint32_t *done;   /* [classes] */
    sf_time_ps *tree; /* [2 * leaves] smallest key of the two below; leaves are the next passes of classes */
    /* of the run */
    const struct sfi_class *classes;
    const sf_time_ps *key;
    sf_time_ps *start;
};

int sfi_rows_create(uint32_t devices, uint32_t classes, uint32_t microbatches, double limit, struct sfi_rows **out,
                    struct sf_err *err) {
    struct sfi_rows *r = sf_calloc(1, sizeof *r);
    if (r == NULL) {
        return sf_fail_memory(err, "schedule search");
    }
    r->devices = devices;
    r->classes_n = classes;
    r->microbatches = microbatches;
    r->limit = limit * (1 + ROUNDING);
    r->leaves = 1;
    while (r->leaves < classes) {
        r->leaves *= 2;
    }
    r->rows = sf_calloc(devices, sizeof *r->rows);
    r->done = sf_calloc(classes, sizeof *r->done);
    r->tree = sf_calloc((size_t)2 * r->leaves, sizeof *r->tree);
    if (r->rows == NULL || r->done == NULL || r->tree == NULL) {
        sfi_rows_free(r);
        return sf_fail_memory(err, "schedule search");
    }
    *out = r;
    return 0;
}

void sfi_rows_free(struct sfi_rows *r) {
    if (r != NULL) {
        sf_free(r->rows);
        sf_free(r->done);
        sf_free(r->tree);
        sf_free(r);
    }
}

/* ---- the next pass ----------------------------------------------------------------------------------------------- */

static void set_leaf(struct sfi_rows *r, uint32_t class, sf_time_ps key) {
    sfi_least_set(r->tree, r->leaves, class, key);
}

static uint32_t first_leaf(const struct sfi_rows *r) {
    uint32_t i = 1;
    while (i < r->leaves) {
        i = r->tree[2 * i] == r->tree[i] ? 2 * i : 2 * i + 1;
    }
    return i - r->leaves;
}

static bool is_blocked(struct sfi_rows *r, uint32_t class) {
    const struct sfi_class *c = &r->classes[class];
    struct row *row = &r->rows[c->device];
    if (c->take <= 0 || row->memory + c->take <= r->limit) {
        return false;
    }
    row->blocked[row->blocked_n++] = (uint16_t) class;
    set_leaf(r, class, SFI_NEVER);
    return true;
}

static void open_leaf(struct sfi_rows *r, uint32_t class) {
    const struct sfi_class *c = &r->classes[class];
    uint32_t i = r->done[class];
    bool there = i < r->microbatches;
    for (uint32_t k = 0; k < c->needs_n; k++) {
        there = there && r->done[c->needs[k]] > i;
    }
    if (!there) {
        set_leaf(r, class, SFI_NEVER);
    } else if (!is_blocked(r, class)) {
        set_leaf(r, class, r->key[(size_t) class * r->microbatches + i]);
    }
}

static void unblock(struct sfi_rows *r, struct row *row) {
    uint16_t list[MAX_CLASSES];
    uint32_t n = row->blocked_n;
    memcpy(list, row->blocked, sizeof list);
    row->blocked_n = 0;
    for (uint32_t i = 0; i < n; i++) {
        open_leaf(r, list[i]);
    }
}

/* ---- gaps -------------------------------------------------------------------------------------------------------- */

static void raise(struct row *row, uint32_t gaps_before, double memory) {
    if (gaps_before > 0 && memory > row->gaps[gaps_before - 1].peak) {
        row->gaps[gaps_before - 1].peak = memory;
    }
}

static void remove_gap(struct row *row, uint32_t g) {
    row->gaps_n--;
    memmove(&row->gaps[g], &row->gaps[g + 1], (row->gaps_n - g) * sizeof row->gaps[0]);
}

static double high(double level, const struct sfi_class *c) {
    return c->take > 0 ? level + c->take : level;
}

static void append(struct row *row, sf_time_ps start, const struct sfi_class *c) {
    if (start - row->free >= row->least) {
        if (row->gaps_n == MAX_GAPS) {
            remove_gap(row, 0);
        }
        row->gaps[row->gaps_n++] = (struct gap){row->free, start, row->memory, row->memory};
    }
    raise(row, row->gaps_n, high(row->memory, c));
    row->memory += c->take;
    row->free = start + c->time;
}

static void insert(struct row *row, uint32_t g, sf_time_ps start, const struct sfi_class *c) {
    const struct gap old = row->gaps[g];
    sf_time_ps end = start + c->time;
    bool left = start - old.start >= row->least, right = old.end - end >= row->least;
    double during = high(old.level, c), after = old.level + c->take, peak = old.peak + c->take;
    double most = during > peak ? during : peak;
    for (uint32_t i = g + 1; i < row->gaps_n; i++) {
        row->gaps[i].level += c->take;
        row->gaps[i].peak += c->take;
    }
    row->memory += c->take;
    if (left && right && row->gaps_n < MAX_GAPS) {
        memmove(&row->gaps[g + 1], &row->gaps[g], (row->gaps_n - g) * sizeof row->gaps[0]);
        row->gaps_n++;
        row->gaps[g] = (struct gap){old.start, start, old.level, during};
        row->gaps[g + 1] = (struct gap){end, old.end, after, peak};
    } else if (right) {
        row->gaps[g] = (struct gap){end, old.end, after, peak};
        raise(row, g, during);
    } else if (left) {
        row->gaps[g] = (struct gap){old.start, start, old.level, most};
    } else {
        raise(row, g, most);
        remove_gap(row, g);
    }
}

static sf_time_ps put(const struct sfi_rows *r, struct row *row, const struct sfi_class *c, sf_time_ps ready) {
    uint32_t g = 0;
    if (c->take > 0) {
        for (g = row->gaps_n; g > 0 && row->gaps[g - 1].peak + c->take <= r->limit;) {
            g--;
        }
    }
    for (; g < row->gaps_n; g++) {
        sf_time_ps start = ready > row->gaps[g].start ? ready : row->gaps[g].start;
        if (row->gaps[g].end - start >= c->time) {
            insert(row, g, start, c);
            return start;
        }
    }
    sf_time_ps start = ready > row->free ? ready : row->free;
    append(row, start, c);
    return start;
}

/* ---- all of them ------------------------------------------------------------------------------------------------- */

static void reset(struct sfi_rows *r, const sf_time_ps *release) {
    memset(r->done, 0, r->classes_n * sizeof *r->done);
    for (uint32_t d = 0; d < r->devices; d++) {
        struct row *row = &r->rows[d];
        row->free = release != NULL ? release[d] : 0;
        row->least = SFI_NEVER;
        row->memory = 0;
        row->gaps_n = row->blocked_n = 0;
    }
    for (uint32_t c = 0; c < r->classes_n; c++) {
        struct row *row = &r->rows[r->classes[c].device];
        row->least = r->classes[c].time < row->least ? r->classes[c].time : row->least;
    }
    for (uint32_t i = 0; i < 2 * r->leaves; i++) {
        r->tree[i] = SFI_NEVER;
    }
    for (uint32_t c = 0; c < r->classes_n; c++) {
        if (r->classes[c].needs_n == 0) {
            open_leaf(r, c);
        }
    }
}

/* No earlier than the pass before it in its class. */
static sf_time_ps ready_at(const struct sfi_rows *r, uint32_t class, uint32_t i, const sf_time_ps *release) {
    const struct sfi_class *c = &r->classes[class];
    sf_time_ps ready = release != NULL ? release[c->device] : 0;
    if (i > 0) {
        sf_time_ps t = r->start[(size_t) class * r->microbatches + i - 1] + c->time;
        ready = t > ready ? t : ready;
    }
    for (uint32_t k = 0; k < c->needs_n; k++) {
        uint32_t from = c->needs[k];
        sf_time_ps t = r->start[(size_t)from * r->microbatches + i] + r->classes[from].time + c->lag[k];
        ready = t > ready ? t : ready;
    }
    return ready;
}

static void place(struct sfi_rows *r, uint32_t class, const sf_time_ps *release) {
    const struct sfi_class *c = &r->classes[class];
    struct row *row = &r->rows[c->device];
    uint32_t i = r->done[class]++;
    r->start[(size_t) class * r->microbatches + i] = put(r, row, c, ready_at(r, class, i, release));
    open_leaf(r, class);
    for (uint32_t k = 0; k < c->feeds_n; k++) {
        if (r->done[c->feeds[k]] == i) {
            open_leaf(r, c->feeds[k]);
        }
    }
    if (c->take < 0 && row->blocked_n > 0) {
        unblock(r, row);
    }
}

bool sfi_rows_place(struct sfi_rows *r, const struct sfi_class *classes, const sf_time_ps *key,
                    const sf_time_ps *release, sf_time_ps *start, uint64_t *placed) {
    uint64_t all = (uint64_t)r->classes_n * r->microbatches, n = 0;
    r->classes = classes;
    r->key = key;
    r->start = start;
    reset(r, release);
    while (n < all && r->tree[1] != SFI_NEVER) {
        uint32_t class = first_leaf(r);
        if (!is_blocked(r, class)) {
            place(r, class, release);
            n++;
        }
    }
    *placed += n;
    return n == all;
}
