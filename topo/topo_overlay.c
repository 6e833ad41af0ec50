/* Overlays: what is dead, degraded or spare today. Every part is named once; what is wrong is said where it stands. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "topo/topo_name.h"

void sfi_overlay_free(struct sfi_overlay *o) {
    for (int i = 0; i < SFI_SETS_N; i++) {
        sf_free(o->set[i].r);
    }
    sf_free(o->out);
    sf_free(o->leaf_ppm);
    sf_free(o->pod_ppm);
    *o = (struct sfi_overlay){0};
}

/* While one is read. */
struct reader {
    const struct sf_topo *t;
    struct sfi_overlay *o;
    uint32_t named; /* ranges so far */
};

static int put(struct reader *r, int set, const struct sfi_range *range, const struct sf_node *n, struct sf_err *err) {
    struct sfi_ranges *s = &r->o->set[set];
    if (r->named++ == SFI_MAX_OVERLAY) {
        return sf_node_fail(
            n, err, "expected at most %u ranges, a cable's two directions being two: join neighbours, as in 17..20",
            SFI_MAX_OVERLAY);
    }
    if (s->n == s->capacity) {
        uint32_t capacity = s->capacity == 0 ? 8 : 2 * s->capacity;
        struct sfi_range *more = sf_realloc(s->r, capacity, sizeof *more);
        if (more == NULL) {
            return sf_fail_memory(err, "an overlay");
        }
        s->r = more;
        s->capacity = capacity;
    }
    s->r[s->n++] = *range;
    r->o->any = true;
    r->o->interior |= (set >= SF_LINK_LEAF_UP && set <= SF_LINK_SPINE_DOWN) || set >= SFI_SET_LEAF;
    r->o->nvlink |= set == SF_LINK_NVLINK_UP || set == SF_LINK_NVLINK_DOWN || set == SFI_SET_NVSWITCH;
    return 0;
}

/* A complaint of a parser, where the text stands. */
static int located(int rc, const struct sf_err *inner, const struct sf_node *n, struct sf_err *err) {
    return rc == 0 ? 0 : sf_node_fail(n, err, "%s", inner->msg);
}

static struct sfi_range range_at(const struct sf_node *n, uint32_t ppm) {
    struct sfi_range r = {.ppm = ppm};
    struct sf_err where = {0};
    sf_node_fail(n, &where, "here");
    r.line = where.line;
    r.column = where.column;
    return r;
}

/* ---- one item each ---- */

static int add_gpus(struct reader *r, int set, const struct sf_node *n, const char *text, struct sf_err *err) {
    struct sfi_range range = range_at(n, 0);
    struct sf_err inner = {0};
    SF_TRY(located(sfi_parse_run(text, "gpu", r->t->seats, &range, &inner), &inner, n, err));
    return put(r, set, &range, n, err);
}

static int add_domains(struct reader *r, int set, const struct sf_node *n, const char *text, struct sf_err *err) {
    struct sfi_range range = range_at(n, 0);
    struct sf_err inner = {0};
    SF_TRY(located(sfi_parse_run(text, "domain", r->t->domains, &range, &inner), &inner, n, err));
    uint32_t gpus = r->t->stock[0].domain.gpus;
    r->o->spare_domains += set == SFI_SET_SPARE_GPU ? range.hi - range.lo + 1 : 0;
    range.lo *= gpus;
    range.hi = (range.hi + 1) * gpus - 1;
    return put(r, set, &range, n, err);
}

static int add_switches(struct reader *r, const struct sf_node *n, const char *text, struct sf_err *err) {
    struct sfi_range range = range_at(n, 0);
    struct sf_err inner = {0};
    int set;
    SF_TRY(located(sfi_parse_switch(r->t, text, &set, &range, &inner), &inner, n, err));
    return put(r, set, &range, n, err);
}

/* A cable that is dead is dead in both directions; one that is slow may be slow in one. */
static int add_links(struct reader *r, const struct sf_node *n, const char *text, uint32_t ppm, struct sf_err *err) {
    struct sfi_range range = range_at(n, ppm);
    struct sf_err inner = {0};
    int kind;
    SF_TRY(located(sfi_parse_links(r->t, text, &kind, &range, &inner), &inner, n, err));
    if (kind == SF_LINK_C2C_UP || kind == SF_LINK_C2C_DOWN) {
        return sf_node_fail(n, err, "no route between GPUs uses %s, so this would change nothing",
                            sfi_link_kind_name(kind));
    }
    SF_TRY(put(r, kind, &range, n, err));
    return ppm > 0 ? 0 : put(r, sfi_link_goes_down(kind) ? kind - 1 : kind + 1, &range, n, err);
}

/* "5": the NIC of GPU 5 in all planes; "5:1" in one. */
static int add_nics(struct reader *r, const struct sf_node *n, const char *text, uint32_t ppm, struct sf_err *err) {
    char name[96];
    snprintf(name, sizeof name, "nic-up %.80s", text);
    struct sfi_range range = range_at(n, ppm);
    struct sf_err inner = {0};
    int kind;
    SF_TRY(located(sfi_parse_links(r->t, name, &kind, &range, &inner), &inner, n, err));
    SF_TRY(put(r, SF_LINK_NIC_UP, &range, n, err));
    return put(r, SF_LINK_NIC_DOWN, &range, n, err);
}

/* ---- lists ---- */

enum what { GPUS, DOMAINS, NICS, LINKS, SWITCHES };

static int add(struct reader *r, enum what what, int set, const struct sf_node *n, uint32_t ppm, struct sf_err *err) {
    const char *text;
    SF_TRY(sf_node_str(n, &text, err));
    switch (what) {
    case GPUS:
        return add_gpus(r, set, n, text, err);
    case DOMAINS:
        return add_domains(r, set, n, text, err);
    case NICS:
        return add_nics(r, n, text, ppm, err);
    case LINKS:
        return add_links(r, n, text, ppm, err);
    case SWITCHES:
        return add_switches(r, n, text, err);
    }
    return 0;
}

static int read_list(struct reader *r, const struct sf_node *map, const char *key, enum what what, int set,
                     uint32_t ppm, struct sf_err *err) {
    const struct sf_node *list = sf_map_find(map, key);
    if (list == NULL) {
        return 0;
    }
    if (!sf_node_is_seq(list) || sf_seq_size(list) == 0) {
        return sf_node_fail(list, err, "expected a list of what is meant, as in %s: [\"3\", \"8..11\"]", key);
    }
    for (size_t i = 0; i < sf_seq_size(list); i++) {
        SF_TRY(add(r, what, set, sf_seq_at(list, i), ppm, err));
    }
    return 0;
}

static int read_spare(struct reader *r, const struct sf_node *map, struct sf_err *err) {
    static const char *const keys[] = {"gpus", "domains", NULL};
    if (map == NULL) {
        return 0;
    }
    SF_TRY(sf_map_only(map, keys, err));
    SF_TRY(read_list(r, map, "gpus", GPUS, SFI_SET_SPARE_GPU, 0, err));
    return read_list(r, map, "domains", DOMAINS, SFI_SET_SPARE_GPU, 0, err);
}

static int read_dead(struct reader *r, const struct sf_node *map, struct sf_err *err) {
    static const char *const keys[] = {"gpus", "domains", "nics", "links", "switches", NULL};
    if (map == NULL) {
        return 0;
    }
    SF_TRY(sf_map_only(map, keys, err));
    SF_TRY(read_list(r, map, "gpus", GPUS, SFI_SET_DEAD_GPU, 0, err));
    SF_TRY(read_list(r, map, "domains", DOMAINS, SFI_SET_DEAD_GPU, 0, err));
    SF_TRY(read_list(r, map, "nics", NICS, 0, 0, err));
    SF_TRY(read_list(r, map, "links", LINKS, 0, 0, err));
    return read_list(r, map, "switches", SWITCHES, 0, 0, err);
}

static int read_slow(struct reader *r, const struct sf_node *map, struct sf_err *err) {
    static const char *const keys[] = {"nics", "links", "rate", NULL};
    const struct sf_node *rate;
    double share;
    SF_TRY(sf_map_only(map, keys, err));
    SF_TRY(sf_map_need(map, "rate", &rate, err));
    SF_TRY(sf_node_f64(rate, 0.000001, 0.999999, &share, err));
    if (sf_map_size(map) == 1) {
        return sf_node_fail(map, err, "expected nics or links that run at this rate");
    }
    uint32_t ppm = (uint32_t)lround(share * SFI_WELL);
    SF_TRY(read_list(r, map, "nics", NICS, 0, ppm, err));
    return read_list(r, map, "links", LINKS, 0, ppm, err);
}

static int read_degraded(struct reader *r, const struct sf_node *list, struct sf_err *err) {
    if (list == NULL) {
        return 0;
    }
    if (!sf_node_is_seq(list)) {
        return sf_node_fail(list, err, "expected a list like [{ links: [\"leaf-up 3:0\"], rate: 0.5 }]");
    }
    for (size_t i = 0; i < sf_seq_size(list); i++) {
        SF_TRY(read_slow(r, sf_seq_at(list, i), err));
    }
    return 0;
}

/* ---- the whole ---- */

static int by_lo(const void *a, const void *b) {
    const struct sfi_range *x = a, *y = b;
    return x->lo != y->lo ? (x->lo > y->lo ? 1 : -1) : x->hi != y->hi ? (x->hi > y->hi ? 1 : -1) : 0;
}

/* Nothing is named twice: which of two rates would hold? */
static int sort_sets(struct sfi_overlay *o, struct sf_err *err) {
    for (int i = 0; i < SFI_SETS_N; i++) {
        struct sfi_ranges *s = &o->set[i];
        if (s->n > 1) {
            qsort(s->r, s->n, sizeof *s->r, by_lo);
        }
        for (uint32_t k = 1; k < s->n; k++) {
            const struct sfi_range *a = &s->r[k - 1], *b = &s->r[k];
            bool swap = a->line > b->line || (a->line == b->line && a->column > b->column);
            const struct sfi_range *second = swap ? a : b, *first = swap ? b : a;
            if (b->lo <= a->hi) {
                return sf_fail_at(err, SF_E_INPUT, o->file, second->line, second->column,
                                  "named twice: what stands here is already in line %u, column %u", first->line,
                                  first->column);
            }
        }
    }
    return 0;
}

/* Dead and spare seats as one list; a dead spare is both. */
static int merge_out(const struct sf_topo *t, struct sfi_overlay *o, struct sf_err *err) {
    const struct sfi_ranges *a = &o->set[SFI_SET_DEAD_GPU], *b = &o->set[SFI_SET_SPARE_GPU];
    uint32_t i = 0, k = 0;
    if (a->n + b->n == 0) {
        return 0;
    }
    o->out = sf_calloc((size_t)a->n + b->n, sizeof *o->out);
    if (o->out == NULL) {
        return sf_fail_memory(err, "the seats that are out of use");
    }
    while (i < a->n || k < b->n) {
        bool first = k == b->n || (i < a->n && a->r[i].lo < b->r[k].lo);
        const struct sfi_range *r = first ? &a->r[i++] : &b->r[k++];
        struct sfi_out *last = o->out_n > 0 ? &o->out[o->out_n - 1] : NULL;
        if (last != NULL && r->lo <= last->hi + 1) {
            last->hi = r->hi > last->hi ? r->hi : last->hi;
        } else {
            o->out[o->out_n++] = (struct sfi_out){r->lo, r->hi, 0};
        }
    }
    uint64_t gone = 0;
    for (i = 0; i < o->out_n; i++) {
        gone += sfi_slots_before(t, o->out[i].hi + 1) - sfi_slots_before(t, o->out[i].lo);
        o->out[i].slots_gone = gone;
    }
    return 0;
}

static int read_overlay(const struct sf_topo *t, const struct sf_node *map, const char *file, struct sfi_overlay *o,
                        struct sf_err *err) {
    static const char *const keys[] = {"spare", "dead", "degraded", NULL};
    struct reader r = {t, o, 0};
    snprintf(o->file, sizeof o->file, "%s", file);
    SF_TRY(sf_map_only(map, keys, err));
    SF_TRY(read_spare(&r, sf_map_find(map, "spare"), err));
    SF_TRY(read_dead(&r, sf_map_find(map, "dead"), err));
    SF_TRY(read_degraded(&r, sf_map_find(map, "degraded"), err));
    SF_TRY(sort_sets(o, err));
    return merge_out(t, o, err);
}

/* `where` takes the blame. What is loaded on top of a cluster may leave fewer than it wants in use. */
static int count_seats(struct sf_topo *t, const struct sf_node *where, bool on_top, struct sf_err *err) {
    uint64_t left = sfi_seats_before(t, t->seats);
    if (t->wanted > t->seats) {
        return sf_node_fail(where, err, "%u GPUs in use, but %u domains of %u GPUs have %u seats", t->wanted,
                            t->domains, t->stock[0].domain.gpus, t->seats);
    }
    if (left == 0 || (t->wanted > left && !on_top)) {
        return sf_node_fail(where, err,
                            "%u GPUs in use, but of %u seats only %llu are neither empty nor dead nor spare: lower "
                            "gpus_in_use or spare fewer",
                            t->wanted > 0 ? t->wanted : 1, t->seats, (unsigned long long)left);
    }
    t->in_use = t->wanted > 0 && t->wanted < left ? t->wanted : (uint32_t)left;
    return 0;
}

/* Take a new overlay in; on failure the old one is back. */
static int swap_in(struct sf_topo *t, const struct sf_node *map, const char *file, const struct sf_node *where,
                   bool on_top, struct sf_err *err) {
    struct sfi_overlay old = t->overlay, o = {0};
    int rc = map != NULL ? read_overlay(t, map, file, &o, err) : 0;
    if (rc == 0) {
        t->overlay = o;
        rc = sfi_health_sums(t, &t->overlay, err);
        rc = rc == 0 ? count_seats(t, where, on_top, err) : rc;
        o = t->overlay;
    }
    t->overlay = rc == 0 ? o : old;
    sfi_overlay_free(rc == 0 ? &old : &o);
    return rc;
}

static int load_file(const struct sf_io *io, const char *path, struct sf_topo *t, bool on_top, struct sf_err *err) {
    struct sf_doc *doc = NULL;
    SF_TRY(sf_doc_load(io, path, &doc, err));
    const struct sf_node *root = sf_doc_root(doc);
    int rc = swap_in(t, root, path, root, on_top, err);
    sf_doc_free(doc);
    return rc;
}

int sf_topo_load_overlay(const struct sf_io *io, const char *path, struct sf_topo *t, struct sf_err *err) {
    return load_file(io, path, t, true, err);
}

int sfi_overlay_load(const struct sfi_catalog *c, const struct sf_node *root, struct sf_err *err) {
    const struct sf_node *n = sf_map_find(root, "overlay"), *wanted = sf_map_find(root, "gpus_in_use");
    const char *name;
    char path[1024];
    if (n == NULL || sf_node_is_map(n)) {
        return swap_in(c->t, n, c->base, wanted != NULL ? wanted : root, false, err);
    }
    SF_TRY(sf_node_str(n, &name, err));
    SF_TRY(sfi_beside(c->base, n, name, path, sizeof path, err));
    struct sf_err inner = {0};
    int rc = load_file(c->io, path, c->t, false, &inner);
    if (rc == SF_E_IO) {
        return sf_node_fail(n, err, "cannot read the overlay %.500s: %.300s", path, inner.msg);
    }
    if (rc != 0 && err != NULL) {
        *err = inner;
    }
    return rc;
}
