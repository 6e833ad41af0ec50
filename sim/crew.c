#include "sim/crew.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "sim/expand.h"
#include "sim/flow.h"
#include "sim/solo.h"
#include "sim/steady.h"

enum { GRAB = 64 };       /* cells taken at once: neighbours share cache lines */
enum { OPS_EACH = 2048 }; /* less is done before another thread is there */
enum { BANDS_EACH = 4 };  /* with fewer for a thread they would not be shared out evenly */

enum stage { CELLS, SOLOS, BANDS }; /* SOLOS: of open bands, when cells wait for them. BANDS: nothing else is left */

struct crew { /* the threads that share an island, or all of them: all threads, or each alone */
    struct sfi_run *run;
    struct sfi_worker *workers;
    struct sfi_solos *solos; /* NULL: nobody leaves a cell */
    uint32_t workers_n;
    struct sfi_cell *cells;
    uint32_t from, to;           /* of the cells */
    uint32_t from_band, to_band; /* of the same islands */
    pthread_mutex_t lock;
    pthread_cond_t everybody;
    uint32_t here, meetings; /* at the barrier; times it has opened */
    _Atomic uint32_t next;   /* cell, or band */
    sf_time_ps floor[2];     /* of cells, and of solos of open bands */
    uint32_t moved;          /* in the round before this one */
    enum stage stage;
    bool first, over, failed;
};

struct yard {            /* where threads find work */
    struct crew *shared; /* NULL: each takes islands */
    struct sfi_run *run;
    struct sfi_worker *workers;
    struct sfi_solos *solos;
    uint32_t workers_n;
    bool begun; /* every cell has been visited once */
    _Atomic uint32_t next_island, next_band;
    _Atomic uint64_t events;
};

struct member {
    struct yard *yard;
    uint32_t number;
};

/* Only cells before `end` are this worker's to look at. */
static void prepare(const struct sfi_worker *w, const struct sfi_cell *cell, uint32_t left) {
    if (left > 4) {
        __builtin_prefetch(&cell[4]);
        sfi_prepare_lists(&cell[2]);
        sfi_prepare_members(w, &cell[1]);
    }
}

static void visit_all(struct yard *y, struct sfi_worker *w, struct sfi_cell *cells, uint32_t n, bool ahead,
                      bool first) {
    uint64_t before = w->events;
    for (uint32_t i = 0; i < n && !w->rc; i++) {
        if (ahead) {
            prepare(w, &cells[i], n - i);
        }
        if (cells[i].left > 0 && !cells[i].led) {
            w->rc = sfi_visit(w, &cells[i], first);
            w->err_cell = cells[i].first;
        }
    }
    uint64_t events = atomic_fetch_add_explicit(&y->events, w->events - before, memory_order_relaxed);
    if (w == y->workers && y->run->progress) {
        y->run->progress(y->run->progress_self, (double)events / (double)y->run->table->ops_n);
    }
}

static void visit_cells(struct yard *y, struct crew *c, struct sfi_worker *w) {
    bool ahead = c->run->table->cells_n > GRAB; /* fewer stay in the caches */
    for (;;) {
        uint32_t from = atomic_fetch_add_explicit(&c->next, GRAB, memory_order_relaxed);
        if (from >= c->to || w->rc) {
            return;
        }
        visit_all(y, w, &c->cells[from], c->to - from < GRAB ? c->to - from : GRAB, ahead, c->first);
    }
}

static void visit_open_bands(struct yard *y, struct crew *c, struct sfi_worker *w) {
    for (;;) {
        uint32_t i = atomic_fetch_add_explicit(&c->next, 1, memory_order_relaxed);
        if (i >= c->to_band || w->rc) {
            return;
        }
        const struct sfi_band *b = &c->solos->bands[i];
        if (sfi_band_open(b)) {
            visit_all(y, w, &c->solos->cells[b->first], b->n, true, false);
        }
    }
}

static void one_round(struct yard *y, struct crew *c, struct sfi_worker *w) {
    w->floor = c->floor[0] < c->floor[1] ? c->floor[0] : c->floor[1];
    w->next = w->owed = INT64_MAX;
    w->moved = 0;
    w->parks = w->parked && c->to - c->from == 1;
    if (c->stage == SOLOS) {
        visit_open_bands(y, c, w);
    } else {
        visit_cells(y, c, w);
    }
}

/* Between two rounds, while everybody else waits: what the last one came to. */
static uint32_t sum_up(struct crew *c) {
    uint32_t own = c->stage == SOLOS, moved = 0;
    c->floor[own] = INT64_MAX;
    for (uint32_t i = 0; i < c->workers_n; i++) {
        const struct sfi_worker *w = &c->workers[i];
        c->floor[own] = w->next < c->floor[own] ? w->next : c->floor[own];
        c->floor[!own] = w->owed < c->floor[!own] ? w->owed : c->floor[!own];
        moved += w->moved;
        c->failed |= w->rc != SF_OK;
    }
    return moved;
}

static bool any_open(const struct crew *c) {
    bool open = false;
    for (uint32_t b = c->from_band; b < c->to_band && !open; b++) {
        open = sfi_band_open(&c->solos->bands[b]);
    }
    return open;
}

/* Cells that get no further wait for one another, or for solos. */
static void look_back(struct crew *c) {
    uint32_t moved = sum_up(c);
    bool open = any_open(c), wait = open && moved == 0 && c->stage == CELLS;
    c->floor[1] = open ? c->floor[1] : INT64_MAX;
    bool rest = moved == 0 && (c->stage != SOLOS || c->moved == 0) && !wait;
    c->over = c->failed || (rest && c->floor[0] == INT64_MAX && c->floor[1] == INT64_MAX);
    c->moved = moved;
    c->first = false;
    c->stage = c->stage == BANDS ? BANDS : wait ? SOLOS : CELLS;
    atomic_store_explicit(&c->next, c->stage == SOLOS ? c->from_band : c->from, memory_order_relaxed);
}

static void meet(struct crew *c, void (*look)(struct crew *)) {
    pthread_mutex_lock(&c->lock);
    uint32_t meeting = c->meetings;
    if (++c->here == c->workers_n) {
        look(c);
        c->here = 0;
        c->meetings++;
        pthread_cond_broadcast(&c->everybody);
    }
    while (meeting == c->meetings) {
        pthread_cond_wait(&c->everybody, &c->lock);
    }
    pthread_mutex_unlock(&c->lock);
}

/* For islands `from` to `to`. */
static void open_crew(struct yard *y, struct sfi_worker *workers, uint32_t from, uint32_t to, struct crew *c) {
    const struct sfi_table *t = y->run->table;
    *c = (struct crew){.run = y->run,
                       .workers = workers,
                       .solos = y->solos,
                       .workers_n = 1,
                       .cells = t->cells,
                       .lock = PTHREAD_MUTEX_INITIALIZER,
                       .everybody = PTHREAD_COND_INITIALIZER,
                       .first = !y->begun};
    c->from = from < t->islands_n ? t->islands[from].first : t->cells_n;
    c->to = to < t->islands_n ? t->islands[to].first : t->cells_n;
    c->from_band = y->solos ? y->solos->island_first[from] : 0;
    c->to_band = y->solos ? y->solos->island_first[to] : 0;
    c->next = c->from;
}

/* From now on through the solos of these bands, of which nothing is known yet. */
static void turn_to_bands(struct crew *c, uint32_t from, uint32_t to) {
    const struct sfi_band *last = &c->solos->bands[to - 1];
    c->cells = c->solos->cells;
    c->from = c->solos->bands[from].first;
    c->to = last->first + last->n;
    c->from_band = c->to_band = 0;
    c->floor[0] = 0;
    c->stage = BANDS;
    c->over = false;
    atomic_store_explicit(&c->next, c->from, memory_order_relaxed);
}

static void turn_to_all_bands(struct crew *c) {
    turn_to_bands(c, c->from_band, c->to_band);
}

static void see_through(struct yard *y, struct crew *c, struct sfi_worker *w) {
    while (!c->over) {
        one_round(y, c, w);
        look_back(c);
    }
}

static void work_alone(struct yard *y, struct sfi_worker *w) {
    const struct sfi_table *t = y->run->table;
    struct crew c;
    for (;;) {
        uint32_t i = atomic_fetch_add_explicit(&y->next_island, 1, memory_order_relaxed);
        if (i >= t->islands_n || w->rc) {
            return;
        }
        open_crew(y, w, i, i + 1, &c);
        uint32_t band = c.from_band, end = c.to_band;
        see_through(y, &c, w);
        for (; band < end && !w->rc; band++) {
            turn_to_bands(&c, band, band + 1);
            see_through(y, &c, w);
        }
    }
}

static void work_through_bands(struct yard *y, struct sfi_worker *w) {
    struct crew c;
    for (;;) {
        uint32_t band = atomic_fetch_add_explicit(&y->next_band, 1, memory_order_relaxed);
        if (band >= y->solos->bands_n || w->rc) {
            return;
        }
        open_crew(y, w, 0, 0, &c);
        turn_to_bands(&c, band, band + 1);
        see_through(y, &c, w);
    }
}

static void work_together(struct yard *y, struct crew *c, struct sfi_worker *w) {
    while (!c->over) {
        one_round(y, c, w);
        meet(c, look_back);
    }
}

static void *work(void *self) {
    const struct member *me = self;
    struct yard *y = me->yard;
    struct sfi_worker *w = &y->workers[me->number];
    struct crew *c = y->shared;
    if (!c) {
        work_alone(y, w);
        return NULL;
    }
    pthread_mutex_lock(&c->lock); /* until it is known how many there are */
    pthread_mutex_unlock(&c->lock);
    work_together(y, c, w);
    if (!y->solos || c->failed) {
        return NULL;
    }
    if (y->solos->bands_n >= BANDS_EACH * c->workers_n) {
        work_through_bands(y, w);
    } else {
        meet(c, turn_to_all_bands);
        work_together(y, c, w);
    }
    return NULL;
}

/* Threads that cannot be had are done without. */
static void run_threads(struct yard *y, struct crew *c, struct member *members, pthread_t *threads, uint32_t wanted) {
    uint32_t n = 1;
    pthread_mutex_lock(&c->lock);
    while (n < wanted && pthread_create(&threads[n], NULL, work, &members[n]) == 0) {
        n++;
    }
    c->workers_n = n;
    pthread_mutex_unlock(&c->lock);
    work(&members[0]);
    for (uint32_t i = 1; i < n; i++) {
        pthread_join(threads[i], NULL);
    }
    y->workers_n = n > y->workers_n ? n : y->workers_n;
}

static int report_deadlock(const struct sfi_run *run, struct sf_err *err) {
    const struct sfi_table *t = run->table;
    uint32_t i = 0;
    for (uint32_t k = 0; k < t->n; k++) {
        bool stuck = t->inst[k].st.left > 0;
        i = stuck && (t->inst[i].st.left == 0 || t->rank[k] < t->rank[i]) ? k : i;
    }
    const struct sfi_variant *v = &run->variants->v[t->inst[i].variant];
    char label[96] = "nothing it could start", where[96];
    for (uint32_t s = 0; s < v->cls->code->streams_n; s++) {
        uint32_t op = sf_interp_in_flight(v->cls->code, &t->inst[i].st, s);
        if (op != SF_NONE) {
            sf_op_label(run->prog, v->class_i, op, where, sizeof where);
            snprintf(label, sizeof label, "op %u: %.80s", op, where);
        }
    }
    return sf_fail(err, SF_E_INPUT,
                   "deadlock: rank %u waits for ever in %s, %u ops before its end; its partner never arrives",
                   t->rank[i], label, t->inst[i].st.left);
}

/* Of several failures that of the first cell counts. */
static int outcome(const struct yard *y, struct sf_err *err) {
    const struct sfi_worker *failed = NULL;
    for (uint32_t i = 0; i < y->workers_n; i++) {
        const struct sfi_worker *w = &y->workers[i];
        y->run->events += w->events;
        y->run->chunks += w->chunks;
        y->run->skipped += w->skipped;
        failed = w->rc && (!failed || w->err_cell < failed->err_cell) ? w : failed;
    }
    if (failed) {
        if (err) {
            *err = failed->err;
        }
        return failed->rc;
    }
    return y->run->events == y->run->table->ops_n ? SF_OK : report_deadlock(y->run, err);
}

static int equip(struct sfi_run *run, const struct sfi_worker *first, struct sfi_solos *solos, struct sfi_worker *w,
                 struct sf_arena *arena, struct sf_err *err) {
    struct sfi_table *t = run->table;
    *w = (struct sfi_worker){.run = run,
                             .table = t,
                             .inst = t->inst,
                             .acts = t->acts,
                             .variant = run->variants->v,
                             .loads = run->variants->loads,
                             .ways = t->ways,
                             .solos = solos,
                             .streams_n = t->streams_n};
    w->sharing = sfi_sharing_create(t, arena);
    w->audit = run->audit ? sfi_audit_create(t, first ? first->audit : NULL, arena) : NULL;
    w->expand = run->expand ? sfi_expand_create() : NULL;
    w->steady = run->skip ? sfi_steady_create(t, arena) : NULL;
    if (t->islands_n == 1 && t->cells_n == 1 && !run->expand) {
        w->parked = sf_arena_alloc(arena, t->groups_n + 1, sizeof *w->parked);
        w->parked_next = sf_arena_alloc(arena, (size_t)t->n * t->streams_n, sizeof *w->parked_next);
        if (!w->parked || !w->parked_next) {
            return sf_fail_memory(err, "threads");
        }
    }
    bool all = w->sharing && (w->audit || !run->audit) && (w->expand || !run->expand) && (w->steady || !run->skip);
    return all ? SF_OK : sf_fail_memory(err, "threads");
}

/* `begin_n` is above 0 where the first visits are for as many threads, even if those to come are not. */
static int work_through(struct yard *y, uint32_t n, uint32_t begin_n, struct sf_arena *arena, struct sf_err *err) {
    const struct sfi_table *t = y->run->table;
    struct crew c;
    struct member *members = sf_arena_alloc(arena, n, sizeof *members);
    pthread_t *threads = sf_arena_alloc(arena, n, sizeof *threads);
    if (!members || !threads) {
        return sf_fail_memory(err, "threads");
    }
    for (uint32_t i = 0; i < (n > begin_n ? n : begin_n); i++) {
        SF_TRY(equip(y->run, i > 0 ? y->workers : NULL, y->solos, &y->workers[i], arena, err));
    }
    if (begin_n > 0) {
        SF_TRY(sfi_follow_begin(y->workers, begin_n, arena, err));
        y->begun = true;
        y->workers_n = begin_n;
    }
    for (uint32_t i = 0; i < n; i++) {
        members[i] = (struct member){y, i};
    }
    open_crew(y, y->workers, 0, t->islands_n, &c);
    y->shared = t->islands_n >= n ? NULL : &c;
    run_threads(y, &c, members, threads, n);
    return outcome(y, err);
}

static uint32_t least(uint64_t a, uint64_t b) {
    return (uint32_t)(a < b ? a : b);
}

int sfi_run(struct sfi_run *run, struct sf_arena *arena, struct sf_err *err) {
    const struct sfi_table *t = run->table;
    uint32_t n = least(run->threads, t->cells_n / GRAB + 1);
    bool follow = run->follow && n == 1 && t->cells_n > 1;
    uint32_t begin_n = follow ? least(run->threads, least(t->cells_n, t->ops_n / OPS_EACH + 1)) : 0;
    struct yard y = {.run = run};
    y.workers = sf_arena_alloc(arena, n > begin_n ? n : begin_n, sizeof *y.workers);
    if (!y.workers) {
        return sf_fail_memory(err, "threads");
    }
    SF_TRY(sfi_pack(run->variants, arena, err));
    SF_TRY(follow ? sfi_follow_find(run->table, run->variants, arena, err) : SF_OK);
    SF_TRY(sfi_solos_create(run, arena, &y.solos, err));
    int rc = work_through(&y, n, begin_n, arena, err);
    for (uint32_t i = 0; i < n && run->audit && rc == SF_OK; i++) {
        if (i == 0) {
            sfi_audit_rest(run, &y.workers[0]);
        }
        sfi_audit_count(y.workers[i].audit, &run->audited);
    }
    for (uint32_t i = 0; i < n; i++) {
        sfi_expand_free(y.workers[i].expand);
    }
    return rc;
}
