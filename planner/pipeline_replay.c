/* Exact timing of a table, each pass looked at once.
 *
 * Devices are run one after the other, each as far as it comes. One that needs a pass of another device that has not
 * run yet stops and notes which; whoever runs that pass puts it back on the stack. */
#include "planner/pipeline.h"

#include <stdio.h>
#include <string.h>

#include "core/arena.h"

#define NOTHING SIZE_MAX

struct stage {
    sf_time_ps cost[SF_PASS_KINDS];
    sf_time_ps f_lag, b_lag; /* until inputs from the neighbour stage arrive */
    double taken[SF_PASS_KINDS];
    uint32_t device;
    uint32_t f_next, b_next;   /* devices that wait for this stage's outputs; SF_PIPE_MAX_DEVICES: none */
    uint32_t first_mb, end_mb; /* microbatches that come through */
    bool is_first, is_last;    /* of its chain; parts of a head are neither */
    bool is_part, ends;        /* ends: all parts of a head are behind it */
    bool f_wrap, b_wrap;       /* the neighbour is across a wrap edge that counts for one microbatch in `devices` */
};

struct device {
    uint32_t at; /* next pass */
    bool memory;
    size_t waits; /* key of the pass it waits for */
    sf_time_ps first, free, work;
    double memory_now, memory_peak;
};

/* Passes of all parts of a head for one microbatch and slice. */
struct group {
    uint32_t left;
    sf_time_ps end; /* of those that ran */
};

struct sf_pipe_scratch {
    sf_time_ps *f_end, *b_end; /* [stages][microbatches][slices]; -1 before */
    uint8_t *w_done;
    struct stage *stages;
    struct device *devices;
    uint32_t *ready;         /* stack of devices that may run */
    struct group *groups[2]; /* F, B: [microbatches][slices] */
    size_t nodes_room, stages_room, devices_room, groups_room;
};

struct replay {
    const struct sf_pipe *p;
    const struct sf_pipe_costs *c;
    struct sf_pipe_scratch *s;
    size_t next_stage; /* nodes from one stage to the next */
    uint32_t ready_n;
    size_t ran[SF_PASS_KINDS]; /* how many of each kind */
    sf_time_ps **start, **end;
    struct sf_err *err;
};

struct sf_pipe_scratch *sf_pipe_scratch_create(void) {
    return sf_calloc(1, sizeof(struct sf_pipe_scratch));
}

void sf_pipe_scratch_free(struct sf_pipe_scratch *s) {
    if (s != NULL) {
        sf_free(s->f_end);
        sf_free(s->w_done);
        sf_free(s->stages);
        sf_free(s->devices);
        sf_free(s->ready);
        sf_free(s->groups[0]);
        sf_free(s);
    }
}

/* Contents need not survive. */
static bool grow(void *array_of_pointer, size_t n, size_t size) {
    void **array = array_of_pointer;
    sf_free(*array);
    *array = sf_calloc(n, size);
    return *array != NULL;
}

static int make_room(struct sf_pipe_scratch *s, const struct sf_pipe *p, struct sf_err *err) {
    size_t nodes = (size_t)p->stages * p->microbatches * p->slices;
    bool ok = true;
    if (nodes > s->nodes_room) {
        s->nodes_room = 0;
        ok = grow(&s->f_end, 2 * nodes, sizeof *s->f_end) && grow(&s->w_done, nodes, 1);
        s->nodes_room = ok ? nodes : 0;
    }
    if (ok && p->stages > s->stages_room) {
        ok = grow(&s->stages, p->stages, sizeof *s->stages);
        s->stages_room = ok ? p->stages : 0;
    }
    if (ok && p->devices > s->devices_room) {
        s->devices_room = 0;
        ok = grow(&s->devices, p->devices, sizeof *s->devices) && grow(&s->ready, p->devices, sizeof *s->ready);
        s->devices_room = ok ? p->devices : 0;
    }
    size_t groups = p->parts > 0 ? (size_t)p->microbatches * p->slices : 0;
    if (ok && groups > s->groups_room) {
        ok = grow(&s->groups[0], 2 * groups, sizeof **s->groups);
        s->groups_room = ok ? groups : 0;
    }
    s->groups[1] = ok && groups > 0 ? s->groups[0] + groups : NULL;
    s->b_end = ok ? s->f_end + nodes : NULL;
    return ok ? 0 : sf_fail_memory(err, "pipeline replay");
}

/* The sum of everything bounds every time of the replay, so that no addition below can overflow. */
static int check_costs(const struct sf_pipe *p, const struct sf_pipe_costs *c, struct sf_err *err) {
    sf_time_ps sum, passes = (sf_time_ps)p->microbatches * p->slices;
    bool bad = c->comm < 0 || c->comm_parts < 0 || __builtin_add_overflow(c->comm, c->comm_parts, &sum) ||
               __builtin_mul_overflow(sum, 2 * (sf_time_ps)p->stages, &sum);
    for (uint32_t s = 0; s < p->stages && !bad; s++) {
        bad = c->f[s] < 0 || c->b[s] < 0 || c->w[s] < 0 || __builtin_add_overflow(sum, c->f[s], &sum) ||
              __builtin_add_overflow(sum, c->b[s], &sum) || __builtin_add_overflow(sum, c->w[s], &sum);
    }
    if (bad || __builtin_mul_overflow(sum, passes, &sum)) {
        return sf_fail(
            err, SF_E_INPUT,
            "pass times must be positive and a whole schedule shorter than 106 days; check f, b, w and comm");
    }
    return 0;
}

static void set_memory(const struct sf_pipe_costs *c, uint32_t s, struct stage *to) {
    if (c->mem_f != NULL) {
        to->taken[SF_PASS_F] = c->mem_f[s];
        to->taken[SF_PASS_B] = -c->mem_b[s];
        to->taken[SF_PASS_W] = -c->mem_w[s];
        to->taken[SF_PASS_BW] = -c->mem_f[s];
        to->taken[SF_PASS_F_PAIR] = c->mem_f[s];
    }
}

/* The device that waits for outputs of stage s at stage `next`, where that is another one. */
static uint32_t waiter(const struct sf_pipe *p, uint32_t s, uint32_t next) {
    return p->device_of[s] == p->device_of[next] ? SF_PIPE_MAX_DEVICES : p->device_of[next];
}

/* From the last device around to the first. */
static bool is_wrap(const struct sf_pipe *p, uint32_t to) {
    return p->devices > 1 && p->device_of[to] == 0 && p->device_of[to - 1] == p->devices - 1;
}

/* A stage that parts of a head are behind, and those. Who waits for them is told by their group. */
static void set_ends(const struct sf_pipe *p, const struct sf_pipe_costs *c, uint32_t s, struct stage *to) {
    uint32_t first = p->stages - p->parts;
    to->is_part = p->parts > 0 && s >= first;
    to->ends = p->parts > 0 && s + 1 == first;
    if (to->is_part) {
        to->is_first = to->is_last = false;
        to->f_next = to->b_next = SF_PIPE_MAX_DEVICES;
        to->f_lag = c->comm_parts;
        to->b_lag = 0; /* statistics of rows are next to nothing */
        to->f_wrap = to->b_wrap = false;
    } else if (to->ends) {
        to->b_lag = c->comm_parts;
        to->b_wrap = false;
    }
}

static void set_stage(const struct sf_pipe *p, const struct sf_pipe_costs *c, uint32_t s, struct stage *to) {
    uint32_t chain = p->stages / p->ways, way = s / chain, share = p->microbatches / p->ways;
    *to = (struct stage){
        .cost = {c->f[s], c->b[s], c->w[s], c->b[s] + c->w[s], c->f[s]},
        .device = p->device_of[s],
        .f_next = SF_PIPE_MAX_DEVICES,
        .b_next = SF_PIPE_MAX_DEVICES,
        .first_mb = way * share,
        .end_mb = (way + 1) * share,
        .is_first = s % chain == 0,
        .is_last = s % chain == chain - 1,
    };
    if (!to->is_first) {
        to->b_next = waiter(p, s, s - 1);
        to->f_lag = to->b_next == SF_PIPE_MAX_DEVICES ? 0 : c->comm;
        to->f_wrap = c->wrap_first && is_wrap(p, s);
    }
    if (!to->is_last) {
        to->f_next = waiter(p, s, s + 1);
        to->b_lag = to->f_next == SF_PIPE_MAX_DEVICES ? 0 : c->comm;
        to->b_wrap = c->wrap_first && is_wrap(p, s + 1);
    }
    set_ends(p, c, s, to);
    set_memory(c, s, to);
}

static int check_placement(const struct sf_pipe *p, struct sf_err *err) {
    if (p->ways == 0 || p->ways > 2 || p->stages % p->ways != 0 || p->microbatches % p->ways != 0) {
        return sf_fail(err, SF_E_INPUT, "%u virtual stages and %u microbatches cannot go %u ways", p->stages,
                       p->microbatches, p->ways);
    }
    if (p->parts >= p->stages || (p->parts > 0 && p->ways > 1)) {
        return sf_fail(err, SF_E_INPUT, "%u parts of a head need stages before them and one way, found %u and %u",
                       p->parts, p->stages - p->parts, p->ways);
    }
    for (uint32_t s = 0; s < p->stages; s++) {
        if (p->device_of[s] >= p->devices) {
            return sf_fail(err, SF_E_INPUT, "virtual stage %u is on device %u, but there are only %u devices", s,
                           p->device_of[s], p->devices);
        }
    }
    return 0;
}

static void reset(const struct replay *r) {
    size_t nodes = r->next_stage * r->p->stages;
    memset(r->s->f_end, 0xff, 2 * nodes * sizeof *r->s->f_end);
    memset(r->s->w_done, 0, nodes);
    memset(r->s->devices, 0, r->p->devices * sizeof *r->s->devices);
    for (uint32_t d = 0; d < r->p->devices; d++) {
        r->s->ready[d] = r->p->devices - 1 - d;
        r->s->devices[d].waits = NOTHING;
    }
    for (uint32_t s = 0; s < r->p->stages; s++) {
        set_stage(r->p, r->c, s, &r->s->stages[s]);
    }
    for (size_t i = 0; i < 2 * r->next_stage && r->p->parts > 0; i++) {
        r->s->groups[0][i] = (struct group){.left = r->p->parts};
    }
}

/* A pass that others wait for: F or B of a node. */
static inline size_t key(size_t node, bool backward) {
    return 2 * node + backward;
}

/* The last of all parts' passes: their nodes are behind all others. */
static inline size_t group_key(const struct replay *r, const struct sf_pass *x, bool backward) {
    return key(r->p->stages * r->next_stage + (size_t)x->microbatch * r->p->slices + x->slice, backward);
}

static inline sf_time_ps group_end(const struct replay *r, const struct sf_pass *x, bool backward, size_t *missing) {
    const struct group *g = &r->s->groups[backward][(size_t)x->microbatch * r->p->slices + x->slice];
    if (g->left > 0) {
        *missing = group_key(r, x, backward);
        return -1;
    }
    return g->end;
}

/* When the inputs of a pass are there, or -1 with the pass that has to run first. */
static inline sf_time_ps f_inputs(const struct replay *r, const struct stage *st, const struct sf_pass *x, size_t node,
                                  size_t *missing) {
    const sf_time_ps *end = r->s->f_end;
    if (x->slice > 0 && end[node - 1] < 0) {
        *missing = key(node - 1, false);
        return -1;
    }
    if (st->is_first || (st->f_wrap && x->microbatch % r->p->devices != 0)) {
        return 0;
    }
    size_t before =
        st->is_part ? node - (x->stage - (r->p->stages - r->p->parts) + 1) * r->next_stage : node - r->next_stage;
    if (end[before] < 0) {
        *missing = key(before, false);
        return -1;
    }
    return end[before] + st->f_lag;
}

static inline sf_time_ps b_inputs(const struct replay *r, const struct stage *st, const struct sf_pass *x, size_t node,
                                  size_t *missing) {
    const struct sf_pipe_scratch *s = r->s;
    if (s->f_end[node] < 0) {
        *missing = key(node, false);
        return -1;
    }
    if (x->slice + 1u < r->p->slices && s->b_end[node + 1] < 0) {
        *missing = key(node + 1, true);
        return -1;
    }
    if (st->is_last || (st->b_wrap && x->microbatch % r->p->devices != 0)) {
        return s->f_end[node];
    }
    if (st->is_part || st->ends) {
        sf_time_ps all = group_end(r, x, st->ends, missing);
        return all < 0 ? -1 : all + st->b_lag;
    }
    sf_time_ps arrived = s->b_end[node + r->next_stage];
    if (arrived < 0) {
        *missing = key(node + r->next_stage, true);
        return -1;
    }
    return arrived + st->b_lag;
}

static inline sf_time_ps inputs_at(const struct replay *r, const struct stage *st, const struct sf_pass *x, size_t node,
                                   size_t *missing) {
    if (x->kind == SF_PASS_F || x->kind == SF_PASS_F_PAIR) {
        return f_inputs(r, st, x, node, missing);
    }
    if (x->kind != SF_PASS_W) {
        return b_inputs(r, st, x, node, missing);
    }
    if (r->s->b_end[node] < 0) {
        *missing = key(node, true);
    }
    return r->s->b_end[node];
}

static int fail_pass(const struct replay *r, uint32_t d, const char *what) {
    const struct sf_pass *x = &r->p->passes[d][r->s->devices[d].at];
    return sf_fail(r->err, SF_E_INPUT, "device %u, pass %u: %u%s%u.%u (stage, action, microbatch.slice) %s", d,
                   r->s->devices[d].at, x->stage, sf_pass_letter(x->kind), x->microbatch, x->slice, what);
}

static inline bool belongs(const struct replay *r, uint32_t d, const struct sf_pass *x) {
    const struct sf_pipe *p = r->p;
    return x->kind < SF_PASS_KINDS && x->stage < p->stages && x->slice < p->slices &&
           r->s->stages[x->stage].device == d && x->microbatch >= r->s->stages[x->stage].first_mb &&
           x->microbatch < r->s->stages[x->stage].end_mb;
}

static inline void wake(struct replay *r, uint32_t d, size_t done) {
    if (d < SF_PIPE_MAX_DEVICES && r->s->devices[d].waits == done) {
        r->s->devices[d].waits = NOTHING;
        r->s->ready[r->ready_n++] = d;
    }
}

static void wake_all(struct replay *r, size_t done) {
    for (uint32_t d = 0; d < r->p->devices; d++) {
        wake(r, d, done);
    }
}

static void finish_in_group(struct replay *r, const struct sf_pass *x, bool backward, sf_time_ps end) {
    struct group *g = &r->s->groups[backward][(size_t)x->microbatch * r->p->slices + x->slice];
    g->end = end > g->end ? end : g->end;
    g->left -= g->left > 0;
    if (g->left == 0) {
        wake_all(r, group_key(r, x, backward));
    }
}

/* What only tables with parts of a head have to do after a pass. */
static void finish_ends(struct replay *r, const struct stage *st, const struct sf_pass *x, size_t node,
                        sf_time_ps end) {
    bool forward = x->kind == SF_PASS_F || x->kind == SF_PASS_F_PAIR;
    if (st->is_part && x->kind != SF_PASS_W) {
        finish_in_group(r, x, !forward, end);
    } else if (st->ends && forward) {
        wake_all(r, key(node, false));
    }
}

/* Note that a pass ended; false when it had run before. */
static inline bool finish(struct replay *r, const struct stage *st, int kind, size_t node, sf_time_ps end) {
    struct sf_pipe_scratch *s = r->s;
    bool fresh = true;
    if (kind == SF_PASS_F || kind == SF_PASS_F_PAIR) {
        fresh = s->f_end[node] < 0;
        s->f_end[node] = end;
        wake(r, st->f_next, key(node, false));
        return fresh;
    }
    if (kind != SF_PASS_W) {
        fresh = s->b_end[node] < 0;
        s->b_end[node] = end;
        wake(r, st->b_next, key(node, true));
    }
    if (kind != SF_PASS_B) {
        fresh = fresh && s->w_done[node] == 0;
        s->w_done[node] = 1;
    }
    return fresh;
}

static inline void account(struct device *dev, const struct stage *st, int kind) {
    dev->memory_now += st->taken[kind];
    dev->memory_peak = dev->memory_now > dev->memory_peak ? dev->memory_now : dev->memory_peak;
    dev->work += st->cost[kind];
}

static inline size_t node_of(const struct replay *r, const struct sf_pass *x) {
    return x->stage * r->next_stage + (size_t)x->microbatch * r->p->slices + x->slice;
}

/* Run the next pass of a row, from `begin` to `end`. */
static inline int run_pass(struct replay *r, uint32_t d, sf_time_ps begin, sf_time_ps end) {
    struct device *dev = &r->s->devices[d];
    const struct sf_pass *x = &r->p->passes[d][dev->at];
    const struct stage *st = &r->s->stages[x->stage];
    dev->first = dev->at == 0 ? begin : dev->first;
    dev->free = end;
    account(dev, st, x->kind);
    r->ran[x->kind]++;
    if (r->start != NULL) {
        r->start[d][dev->at] = begin;
    }
    if (r->end != NULL) {
        r->end[d][dev->at] = end;
    }
    if (!finish(r, st, x->kind, node_of(r, x), end)) {
        return fail_pass(r, d, "runs twice");
    }
    if (st->is_part || st->ends) {
        finish_ends(r, st, x, node_of(r, x), end);
    }
    dev->at++;
    return 0;
}

/* Two passes that overlap. The first one, whose inputs are there at `begin`, is the next of its row. */
static int run_pair(struct replay *r, uint32_t d, sf_time_ps begin) {
    struct device *dev = &r->s->devices[d];
    const struct sf_pass *x = &r->p->passes[d][dev->at], *y = x + 1;
    if (dev->at + 1 == r->p->passes_n[d] || (y->kind != SF_PASS_B && y->kind != SF_PASS_BW) || !belongs(r, d, y)) {
        return fail_pass(r, d, "overlaps with the next pass, which has to be a backward of this device");
    }
    const struct stage *sx = &r->s->stages[x->stage], *sy = &r->s->stages[y->stage];
    sf_time_ps inputs = inputs_at(r, sy, y, node_of(r, y), &dev->waits);
    if (inputs < 0) {
        return 0;
    }
    begin = inputs > begin ? inputs : begin;
    sf_time_ps end = begin + sx->cost[SF_PASS_F] + sy->cost[y->kind];
    SF_TRY(run_pass(r, d, begin, end));
    return run_pass(r, d, begin, end);
}

/* Run a device until its row ends or it has to wait. */
static int run_device(struct replay *r, uint32_t d) {
    struct device *dev = &r->s->devices[d];
    while (dev->at < r->p->passes_n[d]) {
        const struct sf_pass *x = &r->p->passes[d][dev->at];
        if (!belongs(r, d, x)) {
            return fail_pass(r, d, "is not a pass of this device");
        }
        const struct stage *st = &r->s->stages[x->stage];
        sf_time_ps begin = inputs_at(r, st, x, node_of(r, x), &dev->waits);
        if (begin < 0) {
            return 0;
        }
        begin = begin > dev->free ? begin : dev->free;
        if (x->kind == SF_PASS_F_PAIR) {
            uint32_t before = dev->at;
            SF_TRY(run_pair(r, d, begin));
            if (dev->at == before) {
                return 0;
            }
        } else {
            SF_TRY(run_pass(r, d, begin, begin + st->cost[x->kind]));
        }
    }
    return 0;
}

static int fail_stuck(const struct replay *r, uint32_t d) {
    char what[160];
    size_t waits = r->s->devices[d].waits, node = waits / 2;
    uint32_t stage = (uint32_t)(node / r->next_stage), in_stage = (uint32_t)(node % r->next_stage);
    if (stage == r->p->stages) {
        snprintf(what, sizeof what, "waits for the %s of all parts of the head, microbatch %u, slice %u",
                 waits % 2 == 1 ? "backwards" : "forwards", in_stage / r->p->slices, in_stage % r->p->slices);
        return fail_pass(r, d, what);
    }
    snprintf(what, sizeof what, "waits for %s of stage %u, microbatch %u, slice %u on device %u, which never comes",
             waits % 2 == 1 ? "the backward" : "the forward", stage, in_stage / r->p->slices, in_stage % r->p->slices,
             r->p->device_of[stage]);
    return fail_pass(r, d, what);
}

/* Nothing ran twice, so that counts tell whether everything ran. */
static int check_complete(const struct replay *r) {
    const struct sf_pipe *p = r->p;
    const size_t *n = r->ran, all = r->next_stage * p->stages / p->ways;
    for (uint32_t d = 0; d < p->devices; d++) {
        if (r->s->devices[d].at < p->passes_n[d]) {
            return fail_stuck(r, d);
        }
    }
    size_t f = n[SF_PASS_F] + n[SF_PASS_F_PAIR], b = n[SF_PASS_B] + n[SF_PASS_BW], w = n[SF_PASS_W] + n[SF_PASS_BW];
    if (f != all || b != all || w != all) {
        return sf_fail(r->err, SF_E_INPUT,
                       "passes are missing: expected %zu forwards, input gradients and weight gradients, found %zu, "
                       "%zu and %zu",
                       all, f, b, w);
    }
    return 0;
}

static void sum_up(const struct replay *r, struct sf_pipe_timing *out) {
    sf_time_ps first = INT64_MAX, last = 0;
    double work = 0;
    *out = (struct sf_pipe_timing){0};
    for (uint32_t d = 0; d < r->p->devices; d++) {
        const struct device *dev = &r->s->devices[d];
        sf_time_ps span = dev->free - dev->first;
        out->span = span > out->span ? span : out->span;
        out->busiest = dev->work > out->busiest ? dev->work : out->busiest;
        out->peak_memory = dev->memory_peak > out->peak_memory ? dev->memory_peak : out->peak_memory;
        first = dev->first < first ? dev->first : first;
        last = dev->free > last ? dev->free : last;
        work += (double)dev->work;
    }
    out->makespan = last - first;
    if (out->span > 0) {
        out->bubble_span = (double)(out->span - out->busiest) / (double)out->span;
        out->bubble_makespan = 1 - work / ((double)out->makespan * r->p->devices);
    }
}

int sf_pipe_replay_with(struct sf_pipe_scratch *s, const struct sf_pipe *p, const struct sf_pipe_costs *c,
                        struct sf_pipe_timing *out, sf_time_ps **start, sf_time_ps **end, struct sf_err *err) {
    struct replay r = {.p = p,
                       .c = c,
                       .s = s,
                       .next_stage = (size_t)p->microbatches * p->slices,
                       .ready_n = p->devices,
                       .start = start,
                       .end = end,
                       .err = err};
    SF_TRY(check_placement(p, err));
    SF_TRY(check_costs(p, c, err));
    SF_TRY(make_room(s, p, err));
    reset(&r);
    while (r.ready_n > 0) {
        SF_TRY(run_device(&r, s->ready[--r.ready_n]));
    }
    SF_TRY(check_complete(&r));
    sum_up(&r, out);
    return 0;
}

int sf_pipe_replay(const struct sf_pipe *p, const struct sf_pipe_costs *c, struct sf_pipe_timing *out,
                   sf_time_ps **start, sf_time_ps **end, struct sf_err *err) {
    struct sf_pipe_scratch *s = sf_pipe_scratch_create();
    if (s == NULL) {
        return sf_fail_memory(err, "pipeline replay");
    }
    int rc = sf_pipe_replay_with(s, p, c, out, start, end, err);
    sf_pipe_scratch_free(s);
    return rc;
}
