/* One search on several threads. Its work comes in items that know nothing of each other; each has a part of the search
 * to fill, and the parts are taken over in the order of the items. Rounds bound the memory of parts. */
#include <math.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "core/arena.h"
#include "planner/search_internal.h"
#include "sim/parallel.h"

#define ROUND 64

struct part {
    struct sfi_search search;
    struct sf_search_stats stats;
    int rc;
    struct sf_err err;
};

struct round {
    struct part *parts;
    size_t first;
    uint32_t n;
    sfi_part_fn *work;
    void *items;
    atomic_uint next;
};

uint32_t sfi_threads(const struct sfi_search *s) {
    uint32_t wanted = s->options->threads;
    long cores = wanted > 0 ? 0 : sysconf(_SC_NPROCESSORS_ONLN);
    wanted = wanted > 0 ? wanted : cores > 0 ? (uint32_t)cores : 1;
    return wanted < SFI_THREADS_MAX ? wanted : SFI_THREADS_MAX;
}

static void begin_part(const struct sfi_search *s, struct part *p) {
    *p = (struct part){.search = {.start = s->start,
                                  .scenario = s->scenario,
                                  .whole = s->whole,
                                  .numbers = s->numbers,
                                  .numbers_n = s->numbers_n,
                                  .enough_s = s->enough_s,
                                  .options = s->options,
                                  .base = s->base,
                                  .space = s->space,
                                  .known = s->known,
                                  .room = s->room,
                                  .done = s->done,
                                  .open_s = INFINITY}};
    p->search.stats = &p->stats;
}

static void run_parts(void *self, uint32_t k, uint32_t from, uint32_t to) {
    struct round *r = self;
    (void)from, (void)to;
    for (;;) {
        uint32_t i = atomic_fetch_add_explicit(&r->next, 1, memory_order_relaxed);
        if (i >= r->n) {
            return;
        }
        struct part *p = &r->parts[i];
        p->search.helps = k > 0;
        p->rc = r->work(&p->search, r->first + i, r->items, &p->err);
    }
}

static void take_numbers(struct sfi_search *s, const struct sfi_search *from) {
    const struct sf_search_stats *more = from->stats;
    s->stats->replayed += more->replayed;
    s->stats->evaluated += more->evaluated;
    s->stats->too_large += more->too_large;
    s->stats->stopped |= more->stopped;
    s->beaten += from->beaten;
    for (int i = 0; i < SFI_RULES_N; i++) {
        s->refused[i] += from->refused[i];
    }
    sfi_leave_out(s, from->open_s);
}

/* What explains a search that finds nothing. */
static void take_nearest(struct sfi_search *s, const struct sfi_search *from) {
    double least = s->least.memory_bytes, large = s->large.estimate_s;
    if (from->least.memory_bytes > 0 && (!(least > 0) || from->least.memory_bytes < least)) {
        s->least = from->least;
    }
    if (from->large.estimate_s > 0 && (!(large > 0) || from->large.estimate_s < large)) {
        s->large = from->large;
    }
    if (s->program_err.code == 0) {
        s->program_err = from->program_err;
    }
    if (from->least_mini.tp > 0) {
        sfi_remember_mini(s, &from->least_mini, &from->mini_err);
    }
}

static int take_over(struct sfi_search *s, struct part *p, struct sf_err *err) {
    struct sfi_search *from = &p->search;
    if (p->rc != 0) {
        return sfi_pass_on(&p->err, p->rc, err);
    }
    take_numbers(s, from);
    take_nearest(s, from);
    SF_TRY(sfi_add_groups(s, from->groups, from->groups_n, err));
    return sfi_take_found(s, from, err);
}

static void end_part(struct part *p) {
    sf_free(p->search.groups);
    sf_free(p->search.found);
    sf_pipe_free(p->search.made);
}

static int share_round(struct sfi_search *s, struct round *r, struct sf_err *err) {
    uint32_t threads = sfi_threads(s);
    int rc = 0;
    atomic_store(&r->next, 0);
    for (uint32_t i = 0; i < r->n; i++) {
        begin_part(s, &r->parts[i]);
    }
    threads = threads < r->n ? threads : r->n;
    sfi_parallel(threads, threads, 1, run_parts, r);
    for (uint32_t i = 0; i < r->n; i++) {
        rc = rc == 0 ? take_over(s, &r->parts[i], err) : rc;
        end_part(&r->parts[i]);
    }
    return rc;
}

int sfi_search_share(struct sfi_search *s, size_t n, sfi_part_fn *work, void *items, struct sf_err *err) {
    struct round r = {.work = work, .items = items};
    r.parts = sf_calloc(n < ROUND ? n : ROUND, sizeof *r.parts);
    int rc = r.parts == NULL ? sf_fail_memory(err, "parts of a search") : 0;
    for (; r.first < n && rc == 0; r.first += r.n) {
        r.n = n - r.first < ROUND ? (uint32_t)(n - r.first) : ROUND;
        rc = share_round(s, &r, err);
    }
    sf_free(r.parts);
    return rc;
}
