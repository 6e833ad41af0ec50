#include "sim/solo.h"

#include "sim/flow.h"

struct sfi_last { /* how many ops each stream of a class has up to its last transfer */
    uint32_t ops[SF_MAX_STREAMS];
};

/* ---- finding them ---- */

static bool is_transfer(const struct sfi_variant *v, uint32_t op) {
    return v->ops[op].kind == SFI_SEND || v->ops[op].kind == SFI_RECV;
}

static void find_last(const struct sfi_variant *v, struct sfi_last *last) {
    const struct sf_iclass *code = v->cls->code;
    for (uint32_t op = 0; op < code->ops_n; op++) {
        if (is_transfer(v, op)) {
            last->ops[v->ops[op].stream] = code->position[op] + 1;
        }
    }
}

static uint32_t root_of(uint32_t *root, uint32_t i) {
    while (root[i] != i) {
        root[i] = root[root[i]];
        i = root[i];
    }
    return i;
}

/* Trees over the instances, whose roots are the lowest of a band. */
static void join_bands(const struct sfi_run *run, uint32_t *root, uint32_t *seen) {
    const struct sfi_table *t = run->table;
    for (uint32_t i = 0; i < t->n; i++) {
        const struct sfi_class *c = run->variants->v[t->inst[i].variant].cls;
        const uint32_t *groups = &t->ways[t->inst[i].ways + c->ways_n];
        root[i] = i;
        for (uint32_t l = 0; l < c->lanes_n; l++) {
            uint32_t a = root_of(root, i), b = seen[groups[l]] > 0 ? root_of(root, seen[groups[l]] - 1) : a;
            root[a > b ? a : b] = a > b ? b : a;
            seen[groups[l]] = i + 1;
        }
    }
}

/* Instances are numbered island by island, so bands numbered by their lowest one are too. */
static void number_bands(const struct sfi_run *run, struct sfi_solos *s, uint32_t *root) {
    const struct sfi_table *t = run->table;
    for (uint32_t island = 0, i = 0; island < t->islands_n; island++) {
        const struct sfi_cell *last = &t->cells[t->islands[island].first + t->islands[island].cells_n - 1];
        s->island_first[island] = s->bands_n;
        for (; i < last->first + last->n; i++) {
            uint32_t r = root_of(root, i);
            s->band_of[i] = r == i ? s->bands_n++ : s->band_of[r];
            s->bands[s->band_of[i]].n++;
        }
    }
    s->island_first[t->islands_n] = s->bands_n;
    for (uint32_t b = 0, next = 0; b < s->bands_n; b++) {
        s->bands[b].first = next;
        next += s->bands[b].n;
        s->bands[b].n = 0;
    }
    for (uint32_t i = 0; i < t->n; i++) {
        struct sfi_band *b = &s->bands[s->band_of[i]];
        s->place[i] = b->first + b->n++;
    }
}

/* Streams of which anything is left behind the last transfer. */
static uint32_t streams_left(const struct sfi_class *c, const struct sfi_last *last) {
    uint32_t n = 0;
    for (uint32_t s = 0; s < c->code->streams_n; s++) {
        n += last->ops[s] < c->code->stream_n[s];
    }
    return n;
}

/* Room as cells have: for what can be in flight, and as much again for events that count no more. */
static int furnish(const struct sfi_run *run, struct sfi_solos *s, struct sf_arena *arena, struct sf_err *err) {
    const struct sfi_table *t = run->table;
    size_t slots = 0;
    for (uint32_t i = 0; i < t->n; i++) {
        const struct sfi_variant *v = &run->variants->v[t->inst[i].variant];
        struct sfi_cell *cell = &s->cells[s->place[i]];
        *cell = (struct sfi_cell){.first = i,
                                  .n = 1,
                                  .lanes = t->inst[i].lanes + v->cls->ways_n,
                                  .lanes_n = v->cls->lanes_n,
                                  .gone = SFI_QUIET};
        cell->queue.size = 2 * streams_left(v->cls, &s->last[v->class_i]);
        slots += cell->queue.size / 2;
    }
    struct sfi_event *events = sf_arena_alloc(arena, 2 * slots, sizeof *events);
    struct sfi_wait *waits = sf_arena_alloc(arena, slots, sizeof *waits);
    if (!events || !waits) {
        return sf_fail_memory(err, "event queues");
    }
    for (uint32_t k = 0; k < t->n; k++) {
        struct sfi_cell *cell = &s->cells[k];
        sfi_queue_init(&cell->queue, events, cell->queue.size);
        cell->waits = waits;
        events += cell->queue.size;
        waits += cell->queue.size / 2;
    }
    return SF_OK;
}

/* Contended links join what transfers do not, and whole cells are what is copied or expanded. */
static bool have_use(const struct sfi_run *run) {
    const struct sfi_table *t = run->table;
    return !run->follow && !run->skip && !run->expand && !t->fabric && t->cells_n > t->islands_n;
}

int sfi_solos_create(const struct sfi_run *run, struct sf_arena *arena, struct sfi_solos **out, struct sf_err *err) {
    const struct sfi_table *t = run->table;
    struct sfi_solos *s = have_use(run) ? sf_arena_alloc(arena, 1, sizeof *s) : NULL;
    *out = s;
    if (!have_use(run)) {
        return SF_OK;
    }
    uint32_t *root = sf_arena_alloc(arena, t->n, sizeof *root);
    uint32_t *seen = sf_arena_alloc(arena, t->groups_n, sizeof *seen);
    if (!s || !root || !seen) {
        return sf_fail_memory(err, "cells of one");
    }
    s->cells = sf_arena_alloc(arena, t->n, sizeof *s->cells);
    s->place = sf_arena_alloc(arena, t->n, sizeof *s->place);
    s->band_of = sf_arena_alloc(arena, t->n, sizeof *s->band_of);
    s->bands = sf_arena_alloc(arena, t->n, sizeof *s->bands);
    s->island_first = sf_arena_alloc(arena, t->islands_n + 1, sizeof *s->island_first);
    s->last = sf_arena_alloc(arena, run->prog->classes_n, sizeof *s->last);
    if (!s->cells || !s->place || !s->band_of || !s->bands || !s->island_first || !s->last) {
        return sf_fail_memory(err, "cells of one");
    }
    for (uint32_t v = 0; v < run->variants->n; v++) {
        if (v == 0 || run->variants->v[v].class_i != run->variants->v[v - 1].class_i) {
            find_last(&run->variants->v[v], &s->last[run->variants->v[v].class_i]);
        }
    }
    join_bands(run, root, seen);
    number_bands(run, s, root);
    return furnish(run, s, arena, err);
}

/* ---- leaving ---- */

bool sfi_solo_ready(const struct sfi_worker *w, const struct sfi_inst *in) {
    const uint32_t *last = w->solos->last[sfi_variant_of(w, in)->class_i].ops;
    bool over = true;
    for (uint32_t s = 0; s < SF_MAX_STREAMS; s++) {
        over &= in->st.done[s] >= last[s];
    }
    return over;
}

static bool is_in(const struct sfi_queue *q, struct sfi_event e) {
    bool in = false;
    for (uint32_t i = 0; i < q->n; i++) {
        in |= q->event[i].time == e.time && q->event[i].key == e.key;
    }
    return in;
}

/* Adding what stays in order keeps every form of the queue what it is. */
static void move_events(const struct sfi_worker *w, struct sfi_queue *from, uint32_t instance, struct sfi_queue *to) {
    uint32_t n = sfi_queue_empty(from);
    for (uint32_t k = 0; k < n; k++) {
        struct sfi_event e = from->event[k];
        const struct sfi_act *a = sfi_act_of_key(w, e.key);
        if (sfi_key_instance(e.key) != instance) {
            sfi_queue_add(from, e.time, e.key);
        } else if (a->queued == e.time && a->key == e.key && !is_in(to, e)) {
            sfi_queue_add(to, e.time, e.key);
        }
    }
}

static void move_waits(struct sfi_cell *from, uint32_t instance, struct sfi_cell *to) {
    uint32_t n = from->waits_n;
    from->waits_n = 0;
    for (uint32_t k = 0; k < n; k++) {
        struct sfi_cell *cell = from->waits[k].instance == instance ? to : from;
        cell->waits[cell->waits_n++] = from->waits[k];
    }
}

void sfi_solo_leave(struct sfi_worker *w, uint32_t instance) {
    struct sfi_solos *s = w->solos;
    struct sfi_cell *from = w->cell, *to = &s->cells[s->place[instance]];
    move_events(w, &from->queue, instance, &to->queue);
    move_waits(from, instance, to);
    for (uint32_t l = to->lanes; l < to->lanes + to->lanes_n; l++) {
        w->table->lanes[l] |= SFI_GONE;
    }
    to->left = 1;
    from->left--;
    atomic_fetch_add_explicit(&s->bands[s->band_of[instance]].gone, 1, memory_order_release);
    w->cell = to;
}
