/* Cells that do the same as another one until they meet others.
 *
 * Folding keeps ranks apart whose collectives take different times, though all else about them is the same: the
 * pipelines of one cluster differ in how their gradients are reduced, and run alike until the first gradients are
 * ready. Such cells are found before the run. The first of them leads and alone is simulated; what it does depends on
 * its own state only, until one of its members comes to a collective. Then those that follow are given its state, with
 * the names of its members replaced by theirs, and every cell goes on by itself. The collectives that its last event
 * came to are held back until then and begin at the same moment, which is as good: what happens at one moment commutes.
 * Threads share the first visits: until those are over, a cell that is led is touched by the visit to its leader alone.
 */
#include <stdatomic.h>
#include <string.h>

#include "sim/flow.h"
#include "sim/parallel.h"
#include "sim/steady.h"

/* ---- before the run ---- */

static bool op_alike(const struct sfi_vop *a, const struct sfi_vop *b) {
    bool same = a->kind == b->kind && a->stream == b->stream && a->way == b->way;
    if (a->kind == SFI_COLL) {
        return same; /* not issued before they part */
    }
    return same && a->time == b->time && a->latency == b->latency && a->partner == b->partner &&
           a->partner_at == b->partner_at && a->load == b->load && a->port == b->port &&
           a->partner_stream == b->partner_stream;
}

static bool variant_alike(const struct sfi_variant *a, const struct sfi_variant *b) {
    if (a->class_i != b->class_i || memcmp(a->capacity, b->capacity, sizeof a->capacity) != 0) {
        return false;
    }
    for (uint32_t i = 0; i < a->cls->code->ops_n; i++) {
        if (!op_alike(&a->ops[i], &b->ops[i])) {
            return false;
        }
    }
    return true;
}

/* The first variant that does the same outside its collectives, for each; variants of one class stand together. */
static uint32_t *find_alike(const struct sfi_variants *all, struct sf_arena *arena) {
    uint32_t *alike = sf_arena_alloc(arena, all->n, sizeof *alike);
    for (uint32_t i = 0; alike && i < all->n; i++) {
        alike[i] = i;
        for (uint32_t k = i; k-- > 0 && all->v[k].class_i == all->v[i].class_i && alike[i] == i;) {
            alike[i] = alike[k] == k && variant_alike(&all->v[k], &all->v[i]) ? k : i;
        }
    }
    return alike;
}

struct finder {
    struct sfi_table *t;
    const struct sfi_variants *variants;
    const uint32_t *alike; /* by variant */
};

static const struct sfi_class *class_of(const struct finder *f, uint32_t instance) {
    return f->variants->v[f->t->inst[instance].variant].cls;
}

static uint64_t word_of(const struct finder *f, const struct sfi_cell *c) {
    uint64_t h = sf_mix64(UINT64_C(0x666f6c6c6f77), c->n);
    for (uint32_t i = c->first; i < c->first + c->n; i++) {
        h = sf_mix64(h, f->alike[f->t->inst[i].variant]);
    }
    return h;
}

static bool instance_alike(const struct finder *f, const struct sfi_cell *x, const struct sfi_cell *y, uint32_t i) {
    const struct sfi_inst *a = &f->t->inst[x->first + i], *b = &f->t->inst[y->first + i];
    bool same = f->alike[a->variant] == f->alike[b->variant] && !a->own && !b->own;
    for (uint32_t w = 0; same && w < class_of(f, x->first + i)->ways_n; w++) {
        same = f->t->ways[a->ways + w] == f->t->ways[b->ways + w];
    }
    return same;
}

static bool cell_alike(const struct finder *f, const struct sfi_cell *x, const struct sfi_cell *y) {
    bool same = x->n == y->n, meets = false;
    for (uint32_t i = 0; same && i < x->n; i++) {
        same = instance_alike(f, x, y, i);
        meets |= class_of(f, x->first + i)->lanes_n > 0;
    }
    return same && meets; /* else they would never part */
}

/* Leaders come first in their order, and islands are run in theirs: none is led by one that runs later. */
int sfi_follow_find(struct sfi_table *t, const struct sfi_variants *variants, struct sf_arena *arena,
                    struct sf_err *err) {
    struct finder f = {t, variants, find_alike(variants, arena)};
    struct sfi_ids ids;
    uint32_t *leader_of = sf_arena_alloc(arena, t->cells_n, sizeof *leader_of);
    if (!f.alike || !leader_of || !sfi_ids_init(&ids, arena)) {
        return sf_fail_memory(err, "cells that run alike");
    }
    for (uint32_t c = 0; c < t->cells_n; c++) {
        struct sfi_cell *cell = &t->cells[c], *leader;
        uint32_t before = ids.n, id = sfi_ids_get(&ids, arena, word_of(&f, cell));
        if (id == SF_NONE) {
            return sf_fail_memory(err, "cells that run alike");
        }
        leader_of[id] = ids.n > before ? c : leader_of[id];
        leader = &t->cells[leader_of[id]];
        if (leader != cell && cell_alike(&f, leader, cell)) {
            cell->led = true;
            cell->next_led = leader->next_led;
            leader->next_led = c + 1;
        }
    }
    return SF_OK;
}

/* ---- while it runs ---- */

static uint64_t key_of_other(uint64_t key, uint32_t instances_on) {
    return key + ((uint64_t)instances_on << SFI_STREAM_BITS);
}

static void give_instance(struct sfi_worker *w, uint32_t from, uint32_t to) {
    const struct sfi_inst *a = &w->inst[from];
    const struct sf_iclass *code = sfi_variant_of(w, a)->cls->code;
    struct sfi_inst own = w->inst[to], *b = &w->inst[to];
    *b = *a;
    b->variant = own.variant;
    b->ways = own.ways;
    b->lanes = own.lanes;
    b->ends = own.ends;
    for (uint32_t op = 0; op < code->ops_n; op++) {
        *sfi_end_at(w->table, b, op) = *sfi_end_at(w->table, a, op);
    }
    for (uint32_t s = 0; s < w->streams_n; s++) {
        struct sfi_act *act = sfi_act_at(w, to, s);
        *act = *sfi_act_at(w, from, s);
        act->key = key_of_other(act->key, to - from);
    }
    w->events += code->ops_n - a->st.left;
}

/* Adding what was there in order keeps every form of the queue what it is. */
static void give_events(struct sfi_cell *from, struct sfi_cell *to) {
    uint32_t n = sfi_queue_empty(&from->queue), later = to->first - from->first;
    for (uint32_t i = 0; i < n; i++) {
        struct sfi_event e = from->queue.event[i];
        sfi_queue_add(&from->queue, e.time, e.key);
        sfi_queue_add(&to->queue, e.time, key_of_other(e.key, later));
    }
}

static void give_cell(struct sfi_worker *w, struct sfi_cell *from, struct sfi_cell *to) {
    for (uint32_t i = 0; i < from->n; i++) {
        give_instance(w, from->first + i, to->first + i);
    }
    give_events(from, to);
    to->left = from->left;
    to->started = true;
    to->led = false;
}

/* The leader's list is read before what begins can be put in its place. */
static void begin_held(struct sfi_worker *w, const struct sfi_wait *held, uint32_t held_n, uint32_t instances_on) {
    for (uint32_t k = 0; k < held_n; k++) {
        sfi_issue(w, held[k].instance + instances_on, held[k].op);
    }
}

void sfi_follow_part(struct sfi_worker *w) {
    struct sfi_cell *leader = w->cell;
    const struct sfi_wait *held = leader->waits;
    uint32_t held_n = leader->waits_n, next = leader->next_led;
    sf_time_ps limit = w->limit;
    while (next > 0) {
        struct sfi_cell *cell = &w->table->cells[next - 1];
        next = cell->next_led;
        cell->next_led = 0;
        give_cell(w, leader, cell);
        w->cell = cell;
        begin_held(w, held, held_n, cell->first - leader->first);
    }
    w->cell = leader;
    w->limit = limit;
    leader->next_led = 0;
    leader->waits_n = 0;
    w->next = w->now < w->next ? w->now : w->next; /* those that followed have something to do from here on */
    begin_held(w, held, held_n, 0);
}

/* ---- the first visits ---- */

struct pack {
    struct sfi_worker *workers;
    uint32_t *leaders; /* cells */
    uint32_t n;
    _Atomic uint32_t next;
};

static void lead(void *self, uint32_t k, uint32_t from, uint32_t to) {
    struct pack *p = self;
    struct sfi_worker *w = &p->workers[k];
    w->floor = 0;
    w->next = w->owed = INT64_MAX;
    while (from < to && !w->rc) { /* each thread takes what is next, as long as there is any */
        uint32_t i = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (i >= p->n) {
            return;
        }
        w->err_cell = w->table->cells[p->leaders[i]].first;
        w->rc = sfi_visit(w, &w->table->cells[p->leaders[i]], true);
    }
}

int sfi_follow_begin(struct sfi_worker *workers, uint32_t workers_n, struct sf_arena *arena, struct sf_err *err) {
    const struct sfi_table *t = workers[0].table;
    struct pack p = {.workers = workers, .leaders = sf_arena_alloc(arena, t->cells_n, sizeof *p.leaders)};
    if (!p.leaders) {
        return sf_fail_memory(err, "cells that run alike");
    }
    for (uint32_t c = 0; c < t->cells_n; c++) {
        if (!t->cells[c].led) {
            p.leaders[p.n++] = c;
        }
    }
    sfi_parallel(workers_n, workers_n, 1, lead, &p);
    sfi_steady_forget(workers[0].steady);
    return SF_OK;
}
