/* The instance table: ranks or colours, with peers and groups as indices of each other. */
#include <string.h>

#include "sim/contend.h"

struct filler {
    struct sfi_mesh *mesh;
    const struct sfi_classes *classes;
    const struct sfi_variants *variants;
    const uint32_t *colour_of; /* NULL: every rank is its own */
    struct sf_arena *arena;
    struct sfi_table *t;
    uint32_t *instance_of;   /* by colour */
    uint32_t *rank_of;       /* by colour: its lowest rank */
    uint32_t *cell, *island; /* by colour: trees whose roots are the lowest colours of a cell, of an island */
    uint32_t *number;        /* by island's root: how many cells, then the next number to give */
    uint32_t *stamp;         /* [n] last group an instance was added to */
    uint32_t ways_n;         /* of all instances */
};

static uint32_t colour(const struct filler *f, uint32_t rank) {
    return f->colour_of ? f->colour_of[rank] : rank;
}

static uint32_t instance_of(const struct filler *f, uint32_t rank) {
    return f->instance_of[colour(f, rank)];
}

static const struct sfi_class *class_of(const struct filler *f, uint32_t instance) {
    return f->variants->v[f->t->inst[instance].variant].cls;
}

static int allocate(struct filler *f, uint32_t n, struct sf_err *err) {
    struct sfi_table *t = f->t;
    t->n = n;
    t->inst = sf_arena_alloc(f->arena, n, sizeof *t->inst);
    t->rank = sf_arena_alloc(f->arena, n, sizeof *t->rank);
    t->count = sf_arena_alloc(f->arena, n, sizeof *t->count);
    f->instance_of = sf_arena_alloc(f->arena, n, sizeof *f->instance_of);
    f->rank_of = sf_arena_alloc(f->arena, n, sizeof *f->rank_of);
    f->cell = sf_arena_alloc(f->arena, n, sizeof *f->cell);
    f->island = sf_arena_alloc(f->arena, n, sizeof *f->island);
    f->number = sf_arena_alloc(f->arena, n, sizeof *f->number);
    f->stamp = sf_arena_alloc(f->arena, n, sizeof *f->stamp);
    bool all = t->inst && t->rank && t->count && f->instance_of && f->rank_of && f->cell && f->island && f->number;
    return all && f->stamp ? SF_OK : sf_fail_memory(err, "instances");
}

static uint32_t find_root(uint32_t *root, uint32_t c) {
    while (root[c] != c) {
        root[c] = root[root[c]];
        c = root[c];
    }
    return c;
}

/* The lowest of a tree is its root. */
static void join(uint32_t *root, uint32_t a, uint32_t b) {
    a = find_root(root, a);
    b = find_root(root, b);
    root[a > b ? a : b] = a > b ? b : a;
}

static void join_peers(struct filler *f) {
    for (uint32_t r = f->mesh->ranks_n; r-- > 0;) {
        f->rank_of[colour(f, r)] = r;
        f->cell[colour(f, r)] = colour(f, r);
    }
    for (uint32_t c = 0; c < f->t->n; c++) {
        uint32_t r = f->rank_of[c];
        const struct sfi_class *cls = &f->classes->cls[f->mesh->class_of[r]];
        for (uint32_t w = 0; w < cls->ways_n; w++) {
            join(f->cell, c, colour(f, sfi_way_peer(f->mesh, &cls->ways[w], r)));
        }
    }
}

/* Ranks whose traffic meets on a contended link are in one cell. Only without folding: a colour is a rank. */
static int join_links(struct filler *f, struct sf_err *err) {
    const struct sfi_contend *x = f->classes->contend;
    uint32_t *first = x ? sf_arena_alloc(f->arena, x->links_n, sizeof *first) : NULL; /* rank + 1 */
    if (x && !first) {
        return sf_fail_memory(err, "cells");
    }
    for (uint32_t r = 0; x && r < f->t->n; r++) {
        const struct sfi_class *c = &f->classes->cls[f->mesh->class_of[r]];
        uint32_t link[SFI_FLOW_LINKS];
        for (uint32_t w = 0; w < c->ways_n + c->lanes_n; w++) {
            uint32_t n = w >= c->ways_n || c->ways[w].send ? sfi_contend_links(x, r, w, link) : 0;
            for (uint32_t k = 0; k < n; k++) {
                first[link[k]] = first[link[k]] > 0 ? first[link[k]] : r + 1;
                join(f->cell, first[link[k]] - 1, r);
            }
        }
    }
    return SF_OK;
}

static void join_groups(struct filler *f) {
    for (uint32_t c = 0; c < f->t->n; c++) {
        f->island[c] = find_root(f->cell, c);
    }
    for (uint32_t left = f->classes->meets; left; left &= left - 1) {
        const struct sfi_comm *comm = &f->mesh->comms[__builtin_ctz(left)];
        for (uint32_t g = 0; g < comm->groups_n; g++) {
            uint32_t last = colour(f, comm->base[g]);
            for (uint32_t i = 1; i < comm->members_n; i++) {
                uint32_t next = colour(f, comm->base[g] + comm->offset[i]);
                if (next != last) {
                    join(f->island, last, next);
                }
                last = next;
            }
        }
    }
}

/* Begins of consecutive runs as long as `size` says; *next moves on. */
static uint32_t take_numbers(uint32_t size, uint32_t *next) {
    uint32_t begin = *next;
    *next += size;
    return begin;
}

/* Number the cells island by island, and the instances cell by cell. */
static int number_all(struct filler *f, struct sf_err *err) {
    struct sfi_table *t = f->t;
    uint32_t next = 0, n = t->n;
    for (uint32_t c = 0; c < n; c++) {
        f->number[find_root(f->island, c)] += find_root(f->cell, c) == c; /* cells of each island */
        t->cells_n += find_root(f->cell, c) == c;
        t->islands_n += find_root(f->island, c) == c;
    }
    t->cells = sf_arena_alloc(f->arena, t->cells_n, sizeof *t->cells);
    t->islands = sf_arena_alloc(f->arena, t->islands_n, sizeof *t->islands);
    if (!t->cells || !t->islands) {
        return sf_fail_memory(err, "cells");
    }
    for (uint32_t c = 0, i = 0; c < n; c++) {
        if (find_root(f->island, c) == c) {
            t->islands[i].cells_n = f->number[c];
            f->number[c] = t->islands[i++].first = take_numbers(f->number[c], &next);
        }
    }
    for (uint32_t c = 0; c < n; c++) { /* roots are lowest, so each is numbered before the others ask */
        bool root = find_root(f->cell, c) == c;
        f->stamp[c] = root ? f->number[find_root(f->island, c)]++ : f->stamp[find_root(f->cell, c)];
        t->cells[f->stamp[c]].n++;
    }
    next = 0;
    for (uint32_t k = 0; k < t->cells_n; k++) {
        t->cells[k].first = take_numbers(t->cells[k].n, &next);
        t->cells[k].n = 0;
    }
    for (uint32_t c = 0; c < n; c++) {
        struct sfi_cell *cell = &t->cells[f->stamp[c]];
        f->instance_of[c] = cell->first + cell->n++;
        t->rank[f->instance_of[c]] = f->rank_of[c];
    }
    memset(f->stamp, 0, n * sizeof *f->stamp);
    for (uint32_t r = 0; r < f->mesh->ranks_n; r++) {
        t->count[instance_of(f, r)]++;
    }
    return SF_OK;
}

static uint32_t collectives_of(const struct sfi_class *c) {
    uint32_t n = 0;
    for (uint32_t l = 0; l < c->lanes_n; l++) {
        n += c->lane_ops[l];
    }
    return n;
}

/* Cells run long stretches by themselves, so an instance's times lie one behind the other. */
static void place_ends(struct filler *f) {
    struct sfi_table *t = f->t;
    for (uint32_t i = 0; i < t->n; i++) {
        const struct sfi_class *cls = class_of(f, i);
        t->inst[i].ends = t->ends_n;
        t->ends_n += cls->code->ops_n + collectives_of(cls);
    }
}

/* Places in the shared arrays; also the totals. */
static int lay_out(struct filler *f, struct sf_err *err) {
    struct sfi_table *t = f->t;
    uint64_t ways = 0;
    uint32_t lanes = 0;
    for (uint32_t i = 0; i < t->n; i++) {
        struct sfi_inst *in = &t->inst[i];
        in->variant = f->variants->of_rank[t->rank[i]];
        const struct sfi_class *c = class_of(f, i);
        in->ways = (uint32_t)ways;
        in->lanes = lanes - c->ways_n;
        ways += c->ways_n + c->lanes_n;
        lanes += c->lanes_n;
        t->ops_n += c->code->ops_n;
        sf_rank_state_start(c->code, &in->st);
        if (ways >= SF_NONE) {
            return sf_fail(err, SF_E_INPUT, "more than %u peers of all ranks together", SF_NONE);
        }
    }
    f->ways_n = (uint32_t)ways;
    place_ends(f);
    t->ways = sf_arena_alloc(f->arena, ways, sizeof *t->ways);
    t->lanes = sf_arena_alloc(f->arena, lanes, sizeof *t->lanes);
    t->ends = sf_arena_alloc(f->arena, t->ends_n, sizeof *t->ends);
    t->acts = sf_arena_alloc(f->arena, (size_t)t->n * t->streams_n, sizeof *t->acts);
    if (!t->ways || !t->lanes || !t->ends || !t->acts) {
        return sf_fail_memory(err, "instances");
    }
    for (size_t i = 0; i < (size_t)t->n * t->streams_n; i++) {
        t->acts[i].queued = -1;
    }
    memset(t->ways, 0xff, ways * sizeof *t->ways);
    return SF_OK;
}

/* Ops that can be in flight in a cell at once. */
static uint32_t cell_slots(const struct filler *f, const struct sfi_cell *cell) {
    uint32_t n = 0;
    for (uint32_t i = cell->first; i < cell->first + cell->n; i++) {
        n += class_of(f, i)->streams_n;
    }
    return n;
}

/* Room for what can be in flight, or wait, at once in each cell; and for as many events that count no more. */
static int furnish_cells(struct filler *f, struct sf_err *err) {
    struct sfi_table *t = f->t;
    size_t slots = 0, room = 0;
    for (uint32_t c = 0; c < t->cells_n; c++) {
        uint32_t own = cell_slots(f, &t->cells[c]);
        slots += own;
        room += sfi_queue_room(2 * own);
    }
    struct sfi_event *events = sf_arena_alloc(f->arena, room, sizeof *events);
    struct sfi_wait *waits = sf_arena_alloc(f->arena, slots, sizeof *waits);
    if (!events || !waits) {
        return sf_fail_memory(err, "event queues");
    }
    for (uint32_t c = 0; c < t->cells_n; c++) {
        struct sfi_cell *cell = &t->cells[c];
        uint32_t own = cell_slots(f, cell);
        sfi_queue_init(&cell->queue, events, 2 * own);
        cell->waits = waits;
        for (uint32_t i = cell->first; i < cell->first + cell->n; i++) {
            cell->left += t->inst[i].st.left > 0;
        }
        t->cell_slots = own > t->cell_slots ? own : t->cell_slots;
        t->cell_n = cell->n > t->cell_n ? cell->n : t->cell_n;
        events += sfi_queue_room(2 * own);
        waits += own;
    }
    return SF_OK;
}

static void find_peers(struct filler *f) {
    for (uint32_t i = 0; i < f->t->n; i++) {
        const struct sfi_class *cls = class_of(f, i);
        uint32_t *ways = &f->t->ways[f->t->inst[i].ways];
        for (uint32_t w = 0; w < cls->ways_n; w++) {
            ways[w] = instance_of(f, sfi_way_peer(f->mesh, &cls->ways[w], f->t->rank[i])) - i;
        }
    }
}

/* Where an instance keeps its group of a lane; NULL when its class does not use the lane. */
static uint32_t *group_place(const struct filler *f, uint32_t instance, uint32_t lane) {
    const struct sfi_class *c = class_of(f, instance);
    for (uint32_t i = 0; i < c->lanes_n; i++) {
        if (c->lanes[i] == lane) {
            return &f->t->ways[f->t->inst[instance].ways + c->ways_n + i];
        }
    }
    return NULL;
}

/* One group of ranks becomes one group of instances, unless instances like its own have it already. Members that never
 * call the collective still count, so that such a program stops instead of passing. */
static void add_group(struct filler *f, uint32_t lane, const struct sfi_comm *c, uint32_t number) {
    struct sfi_table *t = f->t;
    struct sfi_group *g = &t->groups[t->groups_n];
    uint32_t base = c->base[number];
    uint32_t *first = group_place(f, instance_of(f, base + c->offset[0]), lane), members_n = 0;
    if (first && *first != SF_NONE) {
        return;
    }
    bool used = false;
    for (uint32_t i = 0; i < c->members_n; i++) {
        uint32_t instance = instance_of(f, base + c->offset[i]);
        if (f->stamp[instance] == t->groups_n + 1) {
            continue;
        }
        f->stamp[instance] = t->groups_n + 1;
        members_n++;
        uint32_t *place = group_place(f, instance, lane);
        if (place) {
            *place = t->groups_n;
            used = true;
        }
    }
    if (used) {
        g->members_n = members_n;
        g->stream = f->classes->lanes[lane].stream;
        g->lane = lane;
        g->number = number;
        t->groups_n++;
        return;
    }
    for (uint32_t i = 0; i < c->members_n; i++) {
        f->stamp[instance_of(f, base + c->offset[i])] = 0;
    }
}

static int find_groups(struct filler *f, struct sf_err *err) {
    struct sfi_table *t = f->t;
    const struct sfi_classes *all = f->classes;
    size_t groups = 0;
    for (uint32_t l = 0; l < all->lanes_n; l++) {
        const struct sfi_comm *c = &f->mesh->comms[all->lanes[l].comm];
        groups += c->groups_n < t->n ? c->groups_n : t->n;
    }
    t->groups = sf_arena_alloc(f->arena, groups + 1, sizeof *t->groups);
    if (!t->groups) {
        return sf_fail_memory(err, "groups of collectives");
    }
    for (uint32_t l = 0; l < all->lanes_n; l++) {
        const struct sfi_comm *c = &f->mesh->comms[all->lanes[l].comm];
        for (uint32_t g = 0; g < c->groups_n; g++) {
            add_group(f, l, c, g);
        }
    }
    return SF_OK;
}

/* The groups that the members of each cell meet in, side by side. Groups have numbers below 2^31: there is one at most
 * for every rank and lane, which a program may have 2^24 and SF_MAX_COMMS * SF_MAX_STREAMS of. */
static void list_lanes(struct filler *f) {
    struct sfi_table *t = f->t;
    uint32_t n = 0;
    for (uint32_t c = 0; c < t->cells_n; c++) {
        struct sfi_cell *cell = &t->cells[c];
        cell->lanes = n;
        cell->gone = SFI_QUIET | SFI_GONE;
        for (uint32_t i = cell->first; i < cell->first + cell->n; i++) {
            const struct sfi_class *cls = class_of(f, i);
            for (uint32_t l = 0; l < cls->lanes_n; l++) {
                t->lanes[n++] = t->ways[t->inst[i].ways + cls->ways_n + l] | (t->inst[i].st.left == 0 ? SFI_QUIET : 0);
            }
        }
        cell->lanes_n = n - cell->lanes;
    }
}

/* Instances of equal surroundings share one list of them, so that all lists fit in the first caches. */
static int share_ways(struct filler *f, struct sf_err *err) {
    struct sfi_table *t = f->t;
    struct sfi_ids ids = {0};
    uint32_t *place = sf_arena_alloc(f->arena, t->n, sizeof *place), used = 0;
    if (!place || !sfi_ids_init(&ids, f->arena)) {
        return sf_fail_memory(err, "instances");
    }
    for (uint32_t i = 0; i < t->n; i++) {
        const struct sfi_class *c = class_of(f, i);
        uint32_t n = c->ways_n + c->lanes_n, known = ids.n;
        const uint32_t *own = &t->ways[t->inst[i].ways];
        uint64_t key = n;
        for (uint32_t k = 0; k < n; k++) {
            key = sf_mix64(key, own[k]);
        }
        uint32_t id = sfi_ids_get(&ids, f->arena, key);
        if (id == SF_NONE) {
            return sf_fail_memory(err, "instances");
        }
        if (id == known) {
            place[id] = used;
        }
        if (id == known || place[id] + n > used || memcmp(own, &t->ways[place[id]], n * sizeof *own) != 0) {
            memmove(&t->ways[used], own, n * sizeof *own);
            t->inst[i].ways = used;
            used += n;
        } else {
            t->inst[i].ways = place[id];
        }
    }
    return SF_OK;
}

/* Who uses which contended link. */
static int list_links(struct filler *f, struct sf_err *err) {
    const struct sfi_contend *x = f->classes->contend;
    struct sfi_table *t = f->t;
    struct sfi_fabric_links *l = sf_arena_alloc(f->arena, 1, sizeof *l);
    size_t most = (size_t)f->ways_n * SFI_FLOW_LINKS;
    uint32_t at = 0;
    if (!l) {
        return sf_fail_memory(err, "contended links");
    }
    *l = (struct sfi_fabric_links){.capacity = x->capacity, .links_n = x->links_n};
    l->demand = sf_arena_alloc(f->arena, x->links_n, sizeof *l->demand);
    l->user_first = sf_arena_alloc(f->arena, (size_t)x->links_n + 2, sizeof *l->user_first);
    l->list_first = sf_arena_alloc(f->arena, (size_t)f->ways_n + 1, sizeof *l->list_first);
    l->list = sf_arena_alloc(f->arena, most, sizeof *l->list);
    l->users = sf_arena_alloc(f->arena, most, sizeof *l->users);
    if (!l->demand || !l->user_first || !l->list_first || !l->list || !l->users || most >= SF_NONE) {
        return sf_fail_memory(err, "contended links");
    }
    for (uint32_t i = 0; i < t->n; i++) {
        const struct sfi_class *c = class_of(f, i);
        for (uint32_t w = 0; w < c->ways_n + c->lanes_n; w++) {
            l->list_first[t->inst[i].ways + w] = at;
            at += w >= c->ways_n || c->ways[w].send ? sfi_contend_links(x, t->rank[i], w, &l->list[at]) : 0;
        }
    }
    l->list_first[f->ways_n] = at;
    for (uint32_t k = 0; k < at; k++) {
        l->user_first[l->list[k] + 2]++;
    }
    for (uint32_t k = 0; k < x->links_n; k++) {
        l->user_first[k + 2] += l->user_first[k + 1];
    }
    for (uint32_t i = 0; i < t->n; i++) {
        uint32_t n = class_of(f, i)->ways_n + class_of(f, i)->lanes_n, first = t->inst[i].ways;
        for (uint32_t w = 0; w < n; w++) {
            for (uint32_t k = l->list_first[first + w]; k < l->list_first[first + w + 1]; k++) {
                l->users[l->user_first[l->list[k] + 1]++] = (struct sfi_link_user){i, w};
            }
        }
    }
    t->fabric = l;
    return SF_OK;
}

int sfi_table_create(struct sfi_mesh *mesh, const struct sfi_classes *classes, struct sfi_variants *variants,
                     const uint32_t *colour_of, uint32_t colours_n, struct sf_arena *arena, struct sfi_table **out,
                     struct sf_err *err) {
    struct filler f = {.mesh = mesh, .classes = classes, .variants = variants, .colour_of = colour_of, .arena = arena};
    f.t = sf_arena_alloc(arena, 1, sizeof *f.t);
    if (!f.t) {
        return sf_fail_memory(err, "instances");
    }
    f.t->streams_n = mesh->prog->streams_n;
    SF_TRY(allocate(&f, colour_of ? colours_n : mesh->ranks_n, err));
    join_peers(&f);
    SF_TRY(join_links(&f, err));
    join_groups(&f);
    SF_TRY(number_all(&f, err));
    SF_TRY(lay_out(&f, err));
    SF_TRY(furnish_cells(&f, err));
    find_peers(&f);
    SF_TRY(find_groups(&f, err));
    list_lanes(&f);
    SF_TRY(classes->contend ? list_links(&f, err) : share_ways(&f, err));
    for (uint32_t i = 0; i < f.t->n; i++) {
        f.t->rank[i] *= mesh->strip;
        f.t->count[i] *= mesh->strip;
    }
    *out = f.t;
    return SF_OK;
}
