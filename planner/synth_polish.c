/* The finished table is made better by swinging it (forward-backward improvement, known from project scheduling): all
 * passes, the latest first, move as close to the end of the allowed span as they can, then, the earliest first, as
 * close to the start as they can. Each swing fills gaps that the policy left, wherever they are, and is never longer
 * than the table that it began with. Between swings the order is disturbed: in a window of time passes of some chunk
 * and kind on some devices go a little earlier or later, and what is no worse is kept. */
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "planner/synth_rows.h"

#define PLAIN 4    /* swings before the first disturbance */
#define TIRED 1000 /* swings that gained nothing */
#define SHARE 6    /* of the budget: one, for each contender in front */

struct polish {
    struct sfi_search_run *run;
    struct sfi_contender *c;
    const struct sfi_synth *s;
    struct sfi_rows *rows;
    uint32_t classes_n, m;
    struct sfi_class *way[2];          /* forward, backward in time */
    sf_time_ps *start[2], *key;        /* [class][m] */
    sf_time_ps *best, *now;            /* starts of the best table, and of the one to go on from */
    sf_time_ps *first, *end, *release; /* [devices] */
    struct sfi_try best_try;
};

/* ---- the pipeline as classes ------------------------------------------------------------------------------------- */

static void link_way(struct sfi_class *all, uint32_t from, uint32_t to, sf_time_ps lag) {
    struct sfi_class *a = &all[from], *b = &all[to];
    a->feeds[a->feeds_n++] = (uint16_t)to;
    b->lag[b->needs_n] = lag;
    b->needs[b->needs_n++] = (uint16_t)from;
}

static void link_both(struct polish *p, uint32_t from, uint32_t to, sf_time_ps lag) {
    link_way(p->way[0], from, to, lag);
    link_way(p->way[1], to, from, lag);
}

static void set_stage(struct polish *p, uint32_t x) {
    const struct sfi_synth *s = p->s;
    uint32_t n = s->stages, device = s->device_of[x];
    for (int way = 0; way < 2; way++) {
        double sign = way == 0 ? 1 : -1;
        struct sfi_class *all = p->way[way];
        all[x] = (struct sfi_class){.device = (uint16_t)device, .time = s->f[x], .take = sign * s->mem_f[x]};
        all[n + x] = (struct sfi_class){.device = (uint16_t)device, .time = s->b[x], .take = -sign * s->mem_b[x]};
        all[2 * n + x] = (struct sfi_class){.device = (uint16_t)device, .time = s->w[x], .take = -sign * s->mem_w[x]};
    }
}

static void set_classes(struct polish *p) {
    const struct sfi_synth *s = p->s;
    uint32_t n = s->stages, last = n - 1;
    for (uint32_t x = 0; x < n; x++) {
        set_stage(p, x);
    }
    link_both(p, last, n + last, 0);
    for (uint32_t x = 0; x < n; x++) {
        link_both(p, n + x, 2 * n + x, 0);
        if (x < last) {
            link_both(p, x, x + 1, sfi_hop(s, x, x + 1));
            link_both(p, n + x + 1, n + x, sfi_hop(s, x + 1, x));
        }
    }
}

static bool is_whole(const struct sfi_synth *s) {
    for (uint32_t x = 0; x < s->stages; x++) {
        if (s->b[x] == 0 || s->w[x] == 0) {
            return false; /* gaps are told from passes by their length */
        }
    }
    return true;
}

/* ---- tables ------------------------------------------------------------------------------------------------------ */

/* Starts of a table, if all its passes are F, B and W. */
static int take_starts(struct polish *p, const struct sf_pipe *pipe, bool *plain, struct sf_err *err) {
    const struct sfi_synth *s = p->s;
    struct sf_pipe_costs costs = sfi_synth_costs(s);
    struct sf_pipe_timing timing;
    sf_time_ps **start = sf_pipe_times_create(pipe), **end = sf_pipe_times_create(pipe);
    int rc = start == NULL || end == NULL ? sf_fail_memory(err, "schedule search")
                                          : sf_pipe_replay(pipe, &costs, &timing, start, end, err);
    *plain = rc == 0;
    for (uint32_t d = 0; d < s->devices && *plain; d++) {
        for (uint32_t i = 0; i < pipe->passes_n[d] && *plain; i++) {
            const struct sf_pass *x = &pipe->passes[d][i];
            *plain = x->kind <= SF_PASS_W;
            if (*plain) {
                p->best[((size_t)x->kind * s->stages + x->stage) * p->m + x->microbatch] = start[d][i];
            }
        }
    }
    sf_pipe_times_free(start);
    sf_pipe_times_free(end);
    return rc;
}

static int table_of(struct sfi_search_run *r, struct sfi_contender *c, struct sf_pipe **out, struct sf_err *err) {
    const struct sfi_synth *s = &c->s;
    struct sfi_try t;
    if (c->given != NULL) {
        return sf_pipe_copy(c->given, out, err);
    }
    SF_TRY(sf_pipe_create(s->devices, s->stages, s->microbatches, 1, out, err));
    memcpy((*out)->device_of, s->device_of, s->stages * sizeof *s->device_of);
    r->passes += sfi_place(c->placer, &c->policy, s->microbatches, SFI_DRAIN, SFI_NEVER / 4, *out, &t);
    return 0;
}

struct begun {
    sf_time_ps at;
    struct sf_pass pass;
};

static int compare_begun(const void *a, const void *b) {
    const struct begun *x = a, *y = b;
    return (x->at > y->at) - (x->at < y->at);
}

static void push_device(const struct polish *p, uint32_t d, struct begun *room, struct sf_pipe *out) {
    const struct sfi_synth *s = p->s;
    uint32_t n = 0;
    for (uint32_t c = 0; c < p->classes_n; c++) {
        for (uint32_t i = 0; i < p->m && p->way[0][c].device == d; i++) {
            room[n++] =
                (struct begun){p->best[(size_t)c * p->m + i],
                               {.kind = (uint8_t)(c / s->stages), .stage = (uint16_t)(c % s->stages), .microbatch = i}};
        }
    }
    qsort(room, n, sizeof *room, compare_begun);
    for (uint32_t i = 0; i < n; i++) {
        sf_pipe_push(out, d, (enum sf_pass_kind)room[i].pass.kind, room[i].pass.stage, room[i].pass.microbatch, 0);
    }
}

/* The best starts as the contender's table, where a replay says that it is shorter. */
static int keep_table(struct polish *p, struct sf_err *err) {
    const struct sfi_synth *s = p->s;
    struct sf_pipe_costs costs = sfi_synth_costs(s);
    struct sf_pipe_timing t;
    struct sf_pipe *pipe = NULL;
    struct begun *room = sf_calloc((size_t)SFI_SYNTH_KINDS * s->chunks * p->m, sizeof *room);
    int rc = room == NULL ? sf_fail_memory(err, "schedule search")
                          : sf_pipe_create(s->devices, s->stages, p->m, 1, &pipe, err);
    if (rc == 0) {
        memcpy(pipe->device_of, s->device_of, s->stages * sizeof *s->device_of);
        for (uint32_t d = 0; d < s->devices; d++) {
            push_device(p, d, room, pipe);
        }
        rc = sf_pipe_replay(pipe, &costs, &t, NULL, NULL, err);
    }
    sf_time_ps work = s->period * s->microbatches;
    if (rc == 0 && t.span - work < p->c->whole.excess) {
        sf_pipe_free(p->c->given);
        p->c->given = pipe;
        p->c->family = -1;
        p->c->whole = (struct sfi_try){.excess = t.span - work, .score = p->best_try.score};
        pipe = NULL;
    }
    sf_pipe_free(pipe);
    sf_free(room);
    return rc;
}

/* ---- swings ------------------------------------------------------------------------------------------------------ */

/* Keys of the other way in time: what ended last begins first. */
static void set_keys(struct polish *p, int way, const sf_time_ps *start) {
    for (uint32_t c = 0; c < p->classes_n; c++) {
        const sf_time_ps *from = &start[(size_t)c * p->m];
        sf_time_ps *to = &p->key[(size_t)c * p->m], time = p->way[way][c].time;
        for (uint32_t i = 0; i < p->m; i++) {
            to[i] = -(from[p->m - 1 - i] + time);
        }
    }
}

struct window {
    sf_time_ps from, to;
};

/* Half of the windows are near the end of the keys, a quarter near their begin. */
static struct window any_window(const struct polish *p, struct sf_rng *r) {
    sf_time_ps lo = SFI_NEVER, hi = -SFI_NEVER;
    for (uint32_t c = 0; c < p->classes_n; c++) {
        const sf_time_ps *key = &p->key[(size_t)c * p->m];
        lo = key[0] < lo ? key[0] : lo;
        hi = key[p->m - 1] > hi ? key[p->m - 1] : hi;
    }
    uint32_t where = (uint32_t)sf_rng_u64(r) & 3;
    double all = (double)(hi - lo), at = sf_rng_unit(r), size = sf_rng_unit(r);
    double length = (0.02 + 0.3 * size * size) * all;
    double middle = where == 0 ? at * all : where == 1 ? at * 0.25 * all : all - at * 0.25 * all;
    sf_time_ps from = lo + (sf_time_ps)(middle - length / 2);
    return (struct window){from, from + (sf_time_ps)length};
}

static void shake(struct polish *p, struct sf_rng *r, const struct window *w, double unit) {
    double most = 4 * sf_rng_unit(r) * unit;
    for (size_t i = 0; i < (size_t)p->classes_n * p->m; i++) {
        if (p->key[i] >= w->from && p->key[i] < w->to) {
            p->key[i] += (sf_time_ps)((sf_rng_unit(r) - 0.5) * most);
        }
    }
}

/* Passes of one kind and chunk, on some devices in a row or on all. */
static void shift(struct polish *p, struct sf_rng *r, const struct window *w, double unit) {
    const struct sfi_synth *s = p->s;
    uint64_t u = sf_rng_u64(r);
    uint32_t kind = (uint32_t)(u % SFI_SYNTH_KINDS), chunk = (uint32_t)(u >> 8) % s->chunks;
    uint32_t a = (uint32_t)(u >> 16 & 0xfff) % s->devices, b = (uint32_t)(u >> 28 & 0xfff) % s->devices;
    bool everywhere = (u >> 40 & 3) == 0;
    uint32_t low = everywhere ? 0 : a < b ? a : b, high = everywhere ? s->devices - 1 : a < b ? b : a;
    sf_time_ps by = (sf_time_ps)((sf_rng_unit(r) - 0.5) * 8 * unit);
    for (uint32_t d = low; d <= high; d++) {
        uint32_t class = kind * s->stages + s->held[d * s->chunks + chunk];
        sf_time_ps *key = &p->key[(size_t) class * p->m];
        for (uint32_t i = 0; i < p->m; i++) {
            key[i] += key[i] >= w->from && key[i] < w->to ? by : 0;
        }
    }
}

static void disturb(struct polish *p) {
    struct sf_rng *r = &p->c->rng;
    struct window w = any_window(p, r);
    double unit = (double)p->s->period / (SFI_SYNTH_KINDS * p->s->chunks); /* a mean pass */
    uint64_t u = sf_rng_u64(r);
    if ((u & 3) == 0) {
        shake(p, r, &w, unit);
        return;
    }
    for (uint64_t moves = 1 + (u >> 2 & 3); moves > 0; moves--) {
        shift(p, r, &w, unit);
    }
}

static void set_ends(struct polish *p, const sf_time_ps *start) {
    for (uint32_t d = 0; d < p->s->devices; d++) {
        p->first[d] = SFI_NEVER;
        p->end[d] = 0;
    }
    for (uint32_t c = 0; c < p->classes_n; c++) {
        const struct sfi_class *x = &p->way[0][c];
        sf_time_ps from = start[(size_t)c * p->m], to = start[(size_t)c * p->m + p->m - 1] + x->time;
        p->first[x->device] = from < p->first[x->device] ? from : p->first[x->device];
        p->end[x->device] = to > p->end[x->device] ? to : p->end[x->device];
    }
}

static struct sfi_try judge(struct polish *p, const sf_time_ps *start) {
    sf_time_ps work = p->s->period * p->s->microbatches;
    set_ends(p, start);
    for (uint32_t d = 0; d < p->s->devices; d++) {
        p->end[d] -= p->first[d] + work;
    }
    return sfi_try_of(p->s, p->end);
}

/* Devices may use the same span, each from its own first start. */
static void set_release(struct polish *p) {
    sf_time_ps last = 0;
    set_ends(p, p->now);
    for (uint32_t d = 0; d < p->s->devices; d++) {
        last = p->first[d] > last ? p->first[d] : last;
    }
    for (uint32_t d = 0; d < p->s->devices; d++) {
        p->release[d] = last - p->first[d];
    }
}

static bool swing(struct polish *p, uint32_t disturbed, struct sfi_try *out) {
    uint64_t *passes = &p->run->passes;
    set_keys(p, 0, p->now);
    if (disturbed & 1) {
        disturb(p);
    }
    set_release(p);
    if (!sfi_rows_place(p->rows, p->way[1], p->key, p->release, p->start[1], passes)) {
        return false;
    }
    set_keys(p, 1, p->start[1]);
    if (disturbed & 2) {
        disturb(p);
    }
    if (!sfi_rows_place(p->rows, p->way[0], p->key, NULL, p->start[0], passes)) {
        return false;
    }
    p->run->evaluated++;
    *out = judge(p, p->start[0]);
    return true;
}

static void copy_starts(const struct polish *p, const sf_time_ps *from, sf_time_ps *to) {
    memcpy(to, from, (size_t)p->classes_n * p->m * sizeof *to);
}

/* Downhill, and where that leads no further, on from a neighbour of the best that is worse. */
static void descend(struct polish *p, uint64_t until) {
    sf_time_ps room = p->c->bound - p->s->period * p->s->microbatches;
    struct sfi_try now = p->best_try = judge(p, p->best);
    uint32_t tired = 0;
    copy_starts(p, p->best, p->now);
    for (uint32_t n = 0; p->run->passes < until && p->best_try.excess > room && !sfi_search_over(p->run); n++) {
        struct sfi_try t;
        bool kick = tired == TIRED;
        if (kick) {
            copy_starts(p, p->best, p->now);
            tired = 0;
        }
        uint32_t disturbed = n < PLAIN ? 0 : kick ? 3 : 1 + (uint32_t)(sf_rng_u64(&p->c->rng) % 3);
        tired++;
        if (swing(p, disturbed, &t) && (kick || t.score <= now.score)) {
            sf_time_ps *other = p->now;
            tired = t.score < now.score && !kick ? 0 : tired;
            p->now = p->start[0];
            p->start[0] = other;
            now = t;
        }
        if (now.score < p->best_try.score) {
            copy_starts(p, p->now, p->best);
            p->best_try = now;
        }
    }
}

/* ---- the way in and out ------------------------------------------------------------------------------------------ */

static int create(struct polish *p, struct sf_err *err) {
    const struct sfi_synth *s = p->s;
    size_t all = (size_t)p->classes_n * p->m;
    SF_TRY(sfi_rows_create(s->devices, p->classes_n, p->m, s->limit, &p->rows, err));
    p->way[0] = sf_calloc(p->classes_n, sizeof *p->way[0]);
    p->way[1] = sf_calloc(p->classes_n, sizeof *p->way[1]);
    p->start[0] = sf_calloc(all, sizeof *p->start[0]);
    p->start[1] = sf_calloc(all, sizeof *p->start[1]);
    p->key = sf_calloc(all, sizeof *p->key);
    p->best = sf_calloc(all, sizeof *p->best);
    p->now = sf_calloc(all, sizeof *p->now);
    p->first = sf_calloc((size_t)3 * s->devices, sizeof *p->first);
    if (p->way[0] == NULL || p->way[1] == NULL || p->start[0] == NULL || p->start[1] == NULL || p->key == NULL ||
        p->best == NULL || p->now == NULL || p->first == NULL) {
        return sf_fail_memory(err, "schedule search");
    }
    p->end = p->first + s->devices;
    p->release = p->end + s->devices;
    set_classes(p);
    return 0;
}

static void clear(struct polish *p) {
    sfi_rows_free(p->rows);
    for (int way = 0; way < 2; way++) {
        sf_free(p->way[way]);
        sf_free(p->start[way]);
    }
    sf_free(p->key);
    sf_free(p->best);
    sf_free(p->now);
    sf_free(p->first);
}

static int run_on(struct polish *p, uint64_t until, struct sf_err *err) {
    struct sf_pipe *table = NULL;
    bool plain = false;
    int rc = create(p, err);
    rc = rc == 0 ? table_of(p->run, p->c, &table, err) : rc;
    rc = rc == 0 ? take_starts(p, table, &plain, err) : rc;
    sf_pipe_free(table);
    if (rc == 0 && plain) {
        descend(p, until);
        rc = keep_table(p, err);
    }
    clear(p);
    return rc;
}

static int polish(struct sfi_search_run *r, struct sfi_contender *c, uint64_t until, struct sf_err *err) {
    sf_time_ps work = c->s.period * c->s.microbatches;
    struct polish p = {
        .run = r, .c = c, .s = &c->s, .classes_n = SFI_SYNTH_KINDS * c->s.stages, .m = c->s.microbatches};
    if (c->whole.excess == SFI_NEVER || work + c->whole.excess <= c->bound || !is_whole(&c->s) || sfi_search_over(r)) {
        return 0;
    }
    return run_on(&p, until, err);
}

static sf_time_ps span_of(const struct sfi_contender *c) {
    return c->whole.excess == SFI_NEVER ? SFI_NEVER : c->s.period * c->s.microbatches + c->whole.excess;
}

/* A share for each of those in front that could win, the rest for the one that is best then. */
int sfi_synth_polish(struct sfi_search_run *r, struct sfi_contender **winner, struct sf_err *err) {
    uint64_t left = r->budget > r->passes ? r->budget - r->passes : 0;
    for (uint32_t i = 0; i < SFI_FRONT && i < r->n; i++) {
        struct sfi_contender *c = r->all[i];
        if (c->bound < span_of(*winner)) {
            SF_TRY(polish(r, c, r->passes + left / SHARE, err));
            *winner = span_of(c) < span_of(*winner) ? c : *winner;
        }
    }
    return polish(r, *winner, r->budget, err);
}
