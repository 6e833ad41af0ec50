#include "sim/crew.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "sim/expand.h"
#include "sim/flow.h"
#include "sim/steady.h"

enum { GRAB = 64 }; /* cells taken at once: neighbours share cache lines */

struct crew { /* the threads that share a stretch of cells: all of them, or each alone with its islands */
    struct sfi_run *run;
    struct sfi_worker *workers;
    uint32_t workers_n;
    uint32_t from, to; /* cells */
    pthread_mutex_t lock;
    pthread_cond_t everybody;
    uint32_t here, meetings; /* at the barrier; times it has opened */
    _Atomic uint32_t next_cell;
    sf_time_ps floor;
    bool first, over;
};

struct yard {            /* where threads find work */
    struct crew *shared; /* NULL: each takes islands */
    struct sfi_run *run;
    struct sfi_worker *workers;
    uint32_t workers_n;
    _Atomic uint32_t next_island;
    _Atomic uint64_t events;
};

struct member {
    struct yard *yard;
    uint32_t number;
};

/* Only cells before `end` are this worker's to look at. */
static void prepare(const struct sfi_worker *w, uint32_t i, uint32_t end) {
    const struct sfi_cell *cell = &w->table->cells[i];
    if (i + 4 < end) {
        __builtin_prefetch(&cell[4]);
        sfi_prepare_lists(&cell[2]);
        sfi_prepare_members(w, &cell[1]);
    }
}

static void one_round(struct yard *y, struct crew *c, struct sfi_worker *w) {
    struct sfi_table *t = c->run->table;
    w->floor = c->floor;
    w->next = INT64_MAX;
    w->moved = 0;
    w->parks = w->parked && c->to - c->from == 1;
    for (;;) {
        uint32_t from = atomic_fetch_add_explicit(&c->next_cell, GRAB, memory_order_relaxed);
        if (from >= c->to || w->rc) {
            return;
        }
        uint64_t before = w->events;
        uint32_t end = c->to - from < GRAB ? c->to : from + GRAB;
        for (uint32_t i = from; i < end && !w->rc; i++) {
            if (t->cells_n > GRAB) { /* fewer stay in the caches */
                prepare(w, i, end);
            }
            if (t->cells[i].left > 0 && !t->cells[i].led) {
                w->rc = sfi_visit(w, &t->cells[i], c->first);
                w->err_cell = i;
            }
        }
        uint64_t events = atomic_fetch_add_explicit(&y->events, w->events - before, memory_order_relaxed);
        if (w == y->workers && c->run->progress) {
            c->run->progress(c->run->progress_self, (double)events / (double)t->ops_n);
        }
    }
}

/* Between two rounds, while everybody else waits. */
static void look_back(struct crew *c) {
    uint32_t moved = 0;
    bool failed = false;
    c->floor = INT64_MAX;
    for (uint32_t i = 0; i < c->workers_n; i++) {
        const struct sfi_worker *w = &c->workers[i];
        c->floor = w->next < c->floor ? w->next : c->floor;
        moved += w->moved;
        failed |= w->rc != SF_OK;
    }
    c->first = false;
    c->over = failed || (moved == 0 && c->floor == INT64_MAX);
    atomic_store_explicit(&c->next_cell, c->from, memory_order_relaxed);
}

static void meet(struct crew *c) {
    pthread_mutex_lock(&c->lock);
    uint32_t meeting = c->meetings;
    if (++c->here == c->workers_n) {
        look_back(c);
        c->here = 0;
        c->meetings++;
        pthread_cond_broadcast(&c->everybody);
    }
    while (meeting == c->meetings) {
        pthread_cond_wait(&c->everybody, &c->lock);
    }
    pthread_mutex_unlock(&c->lock);
}

static void open_crew(struct yard *y, struct sfi_worker *workers, uint32_t workers_n, struct crew *c) {
    *c = (struct crew){.run = y->run,
                       .workers = workers,
                       .workers_n = workers_n,
                       .lock = PTHREAD_MUTEX_INITIALIZER,
                       .everybody = PTHREAD_COND_INITIALIZER,
                       .first = true};
}

static void work_alone(struct yard *y, struct sfi_worker *w) {
    const struct sfi_table *t = y->run->table;
    struct crew c;
    for (;;) {
        uint32_t i = atomic_fetch_add_explicit(&y->next_island, 1, memory_order_relaxed);
        if (i >= t->islands_n || w->rc) {
            return;
        }
        open_crew(y, w, 1, &c);
        c.from = t->islands[i].first;
        c.to = c.from + t->islands[i].cells_n;
        c.next_cell = c.from;
        while (!c.over) {
            one_round(y, &c, w);
            look_back(&c);
        }
    }
}

static void *work(void *self) {
    const struct member *me = self;
    struct yard *y = me->yard;
    struct crew *c = y->shared;
    if (!c) {
        work_alone(y, &y->workers[me->number]);
        return NULL;
    }
    pthread_mutex_lock(&c->lock); /* until it is known how many there are */
    pthread_mutex_unlock(&c->lock);
    while (!c->over) {
        one_round(y, c, &y->workers[me->number]);
        meet(c);
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
    y->workers_n = n;
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

static int equip(struct sfi_run *run, const struct sfi_worker *first, struct sfi_worker *w, struct sf_arena *arena,
                 struct sf_err *err) {
    struct sfi_table *t = run->table;
    *w = (struct sfi_worker){.run = run,
                             .table = t,
                             .inst = t->inst,
                             .acts = t->acts,
                             .variant = run->variants->v,
                             .loads = run->variants->loads,
                             .ways = t->ways,
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

static int work_through(struct yard *y, uint32_t n, struct sf_arena *arena, struct sf_err *err) {
    const struct sfi_table *t = y->run->table;
    struct crew c;
    struct member *members = sf_arena_alloc(arena, n, sizeof *members);
    pthread_t *threads = sf_arena_alloc(arena, n, sizeof *threads);
    if (!members || !threads) {
        return sf_fail_memory(err, "threads");
    }
    for (uint32_t i = 0; i < n; i++) {
        members[i] = (struct member){y, i};
        SF_TRY(equip(y->run, i > 0 ? y->workers : NULL, &y->workers[i], arena, err));
    }
    open_crew(y, y->workers, n, &c);
    c.to = t->cells_n;
    y->shared = t->islands_n >= n ? NULL : &c;
    run_threads(y, &c, members, threads, n);
    return outcome(y, err);
}

int sfi_run(struct sfi_run *run, struct sf_arena *arena, struct sf_err *err) {
    uint32_t useful = run->table->cells_n / GRAB + 1, n = run->threads < useful ? run->threads : useful;
    struct yard y = {.run = run};
    y.workers = sf_arena_alloc(arena, n, sizeof *y.workers);
    if (!y.workers) {
        return sf_fail_memory(err, "threads");
    }
    SF_TRY(sfi_pack(run->variants, arena, err));
    SF_TRY(run->follow && n == 1 ? sfi_follow_find(run->table, run->variants, arena, err) : SF_OK);
    int rc = work_through(&y, n, arena, err);
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
