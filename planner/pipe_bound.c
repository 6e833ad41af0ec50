/* What no order of passes can beat. All times are counted from the start of a chain's first F.
 *
 * Microbatches are alike, so they may be renamed at every stage until each stage takes them in order; memory and times
 * stay as they are. The first pass of a device is then F of its lowest stage, its last F that of its highest stage.
 *
 *   start     Before its first B a device can only run F, and all of them are in its memory. That B cannot come before
 *             the first microbatch went from the device's first F to the last stage and back. The difference is idle
 *             (Zero Bubble, arXiv 2401.10241, appendix B).
 *   drain     When device e ends its last F, all its work that is left is of passes in its memory, so the rest of its
 *             work, and its idle start where memory forces B before that F, came before. That F then has to go to the
 *             last stage and back to device d, which started before e did by the way between them.
 *   backward  Device e cannot have its first B before the first microbatch went to the last stage and back to e. Its
 *             last B comes after all others, and after all its work but the F done before and the W left for later,
 *             both of which memory limits. Then the last microbatch has to go on to d.
 *
 *   memory    An activation is held at least from the start of its F to the end of its B on the shortest way, and what
 * W needs for the length of W, because no F can start on the device in the meantime. What all of them hold, times how
 * long, divided by the limit is a time.
 *
 * A backward that is not split is one that is, with its W right behind; passes that overlap end when they would end one
 * after the other. So the bounds hold for those too. */
#include "planner/pipe_bound.h"

#include <math.h>

#define MOST_COUNTED 4096 /* passes that fit into memory; beyond, fractions of them are as good */
#define ROUNDING 1e-8     /* of memory sums, relative to the limit: more than any check of the limit lets pass */

struct device {
    uint32_t low, high;           /* stages */
    sf_time_ps f, b, w;           /* of all passes */
    double memory;                /* of all F */
    sf_time_ps low_f_at, low_end; /* earliest start of F, end of B of `low`, the latter after the last stage's F */
    sf_time_ps high_f_end, high_b_at;
    sf_time_ps last_w;
    /* The most work that a unit of memory allows: of F before any B, of B and W after the last F, of W. */
    double f_dense, rest_dense, w_dense;
    bool equal;   /* all its stages cost the same as `one`: what fits is counted in whole passes */
    uint32_t one; /* stage */
    sf_time_ps passes;
    double held; /* memory x time of one microbatch */
};

struct view {
    const struct sf_pipe *p;
    const struct sf_pipe_costs *c;
    double limit;         /* 0: none */
    sf_time_ps turned_at; /* earliest end of the last stage's F */
};

static bool is_part(const struct view *v, uint32_t stage) {
    return stage >= v->p->stages - v->p->parts;
}

static sf_time_ps hop(const struct view *v, uint32_t stage) {
    if (is_part(v, stage + 1)) {
        return v->c->comm_parts;
    }
    return v->p->device_of[stage] == v->p->device_of[stage + 1] ? 0 : v->c->comm;
}

static double dense(sf_time_ps time, double memory) {
    return time == 0 ? 0 : memory > 0 ? (double)time / memory : INFINITY;
}

static double larger(double a, double b) {
    return a > b ? a : b;
}

static bool same(const struct sf_pipe_costs *c, uint32_t a, uint32_t b) {
    return c->f[a] == c->f[b] && c->b[a] == c->b[b] && c->w[a] == c->w[b] && c->mem_f[a] >= c->mem_f[b] &&
           c->mem_f[a] <= c->mem_f[b] && c->mem_w[a] >= c->mem_w[b] && c->mem_w[a] <= c->mem_w[b];
}

static void add_stage(const struct view *v, uint32_t s, struct device *dev) {
    const struct sf_pipe_costs *c = v->c;
    sf_time_ps passes = (sf_time_ps)(v->p->microbatches / v->p->ways) * v->p->slices;
    if (dev->passes == 0) {
        dev->one = s;
        dev->equal = c->mem_f != NULL;
    }
    dev->equal = dev->equal && same(c, s, dev->one);
    dev->passes += passes;
    dev->f += c->f[s] * passes;
    dev->b += c->b[s] * passes;
    dev->w += c->w[s] * passes;
    if (c->mem_f != NULL) {
        double w_dense = dense(c->w[s], c->mem_w[s]);
        dev->memory += c->mem_f[s] * (double)passes;
        dev->f_dense = larger(dev->f_dense, dense(c->f[s], c->mem_f[s]));
        dev->rest_dense = larger(dev->rest_dense, larger(dense(c->b[s] + c->w[s], c->mem_f[s]), w_dense));
        dev->w_dense = larger(dev->w_dense, w_dense);
    }
}

/* The most work that memory allows, of `all` that there is. */
static sf_time_ps fitting(const struct view *v, double density, sf_time_ps all) {
    if (v->limit <= 0 || v->c->mem_f == NULL || !(v->limit * density < (double)all)) {
        return all;
    }
    sf_time_ps work = (sf_time_ps)(v->limit * density) + 1;
    return work < all ? work : all;
}

/* How many of at most `most` passes fit. */
static sf_time_ps count(double room, double memory, sf_time_ps most) {
    return memory > 0 && room / memory < (double)most ? (sf_time_ps)(room / memory) : most;
}

static sf_time_ps fitting_f(const struct view *v, const struct device *dev) {
    if (v->limit > 0 && dev->equal) {
        return count(v->limit, v->c->mem_f[dev->one], dev->passes) * v->c->f[dev->one];
    }
    return fitting(v, dev->f_dense, dev->f);
}

static sf_time_ps fitting_w(const struct view *v, const struct device *dev) {
    if (v->limit > 0 && dev->equal) {
        return count(v->limit, v->c->mem_w[dev->one], dev->passes) * v->c->w[dev->one];
    }
    return fitting(v, dev->w_dense, dev->w);
}

/* Some passes that wait for B and some that wait for W. */
static sf_time_ps fitting_rest(const struct view *v, const struct device *dev) {
    const struct sf_pipe_costs *c = v->c;
    sf_time_ps most = 0, n = v->limit > 0 && dev->equal ? count(v->limit, c->mem_f[dev->one], dev->passes) : 0;
    if (v->limit <= 0 || !dev->equal || n > MOST_COUNTED) {
        return fitting(v, dev->rest_dense, dev->b + dev->w);
    }
    for (sf_time_ps i = 0; i <= n; i++) {
        double room = v->limit - (double)i * c->mem_f[dev->one];
        sf_time_ps w = count(room > 0 ? room : 0, c->mem_w[dev->one], dev->passes - i);
        sf_time_ps work = i * c->b[dev->one] + (i + w) * c->w[dev->one];
        most = work > most ? work : most;
    }
    return most;
}

/* From the last stage back to the device's lowest. */
static void look_back(struct view *v, uint32_t d, uint32_t last, struct device *dev) {
    const struct sf_pipe_costs *c = v->c;
    sf_time_ps at = 0, parts = 0; /* parts: the longest of those side by side */
    for (uint32_t s = last;; s--) {
        dev->high_b_at = s == dev->high ? at : dev->high_b_at;
        if (v->p->device_of[s] == d && c->mem_f != NULL) {
            dev->held += c->mem_f[s] * (double)(v->turned_at + at + c->b[s]) + c->mem_w[s] * (double)c->w[s];
        }
        if (s == dev->low) {
            break;
        }
        parts = is_part(v, s) && c->b[s] > parts ? c->b[s] : parts;
        if (!is_part(v, s)) {
            at += c->b[s] + hop(v, s - 1);
        } else if (!is_part(v, s - 1)) {
            at = parts + hop(v, s - 1);
        }
    }
    dev->low_end = at + c->b[dev->low];
    dev->last_w = c->w[dev->low];
}

/* One chain of stages, first .. last, of a device; false when it holds none. Where parts are side by side behind it, no
 * B begins before all of them had F, so that is where the way back begins; and one that had the last F has no way on.
 */
static bool look_at(struct view *v, uint32_t d, uint32_t first, uint32_t last, struct device *dev) {
    const struct sf_pipe_costs *c = v->c;
    bool found = false;
    sf_time_ps at = 0;
    *dev = (struct device){.low = 0};
    v->turned_at = 0;
    for (uint32_t s = first; s <= last; s++) {
        if (v->p->device_of[s] == d) {
            add_stage(v, s, dev);
            dev->held -= c->mem_f != NULL ? c->mem_f[s] * (double)at : 0;
            dev->low = found ? dev->low : s;
            dev->low_f_at = found ? dev->low_f_at : at;
            dev->high = s;
            dev->high_f_end = at + c->f[s];
            found = true;
        }
        v->turned_at = at + c->f[s] > v->turned_at ? at + c->f[s] : v->turned_at;
        at += is_part(v, s) || s == last ? 0 : c->f[s] + hop(v, s);
    }
    if (found) {
        dev->high_f_end = is_part(v, dev->high) ? v->turned_at : dev->high_f_end;
        look_back(v, d, last, dev);
    }
    return found;
}

static sf_time_ps work_of(const struct device *dev) {
    return dev->f + dev->b + dev->w;
}

static sf_time_ps start_idle(const struct view *v, const struct device *dev) {
    sf_time_ps idle = v->turned_at + dev->high_b_at - dev->low_f_at - fitting_f(v, dev);
    return idle > 0 ? idle : 0;
}

/* Earliest time at which the last stage has had the last microbatch's F, for what device e has to do before. */
static sf_time_ps drain_from(const struct view *v, const struct device *e) {
    sf_time_ps before = work_of(e) - fitting_rest(v, e);
    if (v->limit > 0 && e->memory > v->limit) {
        before += start_idle(v, e); /* not all F fit in front of the first B */
    }
    return e->low_f_at + before + v->turned_at - e->high_f_end;
}

/* The same by the backwards of device e: its last B ends then, less the way that it has from the last stage. */
static sf_time_ps backward_from(const struct view *v, const struct device *e) {
    sf_time_ps between = work_of(e) - fitting_f(v, e) - fitting_w(v, e);
    between = between > e->b ? between : e->b;
    return v->turned_at + e->high_b_at + between - e->low_end;
}

struct best {
    sf_time_ps span;
    struct sf_bound_why why;
};

static void offer(struct best *best, sf_time_ps span, int reason, uint32_t device, uint32_t through) {
    if (span > best->span) {
        *best = (struct best){span, {.reason = reason, .device = device, .through = through}};
    }
}

/* Device d, through every device that the first microbatch reaches after it. */
static void offer_pairs(const struct view *v, const struct device *all, uint32_t d, struct best *best) {
    const struct device *dev = &all[d];
    sf_time_ps back = dev->low_end + dev->last_w - dev->low_f_at;
    for (uint32_t e = 0; e < v->p->devices; e++) {
        if (all[e].low >= dev->low) {
            offer(best, drain_from(v, &all[e]) + back, SF_BOUND_DRAIN, d, e);
            offer(best, backward_from(v, &all[e]) + back, SF_BOUND_BACKWARD, d, e);
        }
    }
}

/* One way and whole sequences. */
static void bound_chain(struct view *v, struct best *best) {
    struct device all[SF_PIPE_MAX_DEVICES];
    for (uint32_t d = 0; d < v->p->devices; d++) {
        if (!look_at(v, d, 0, v->p->stages - 1, &all[d]) || is_part(v, all[d].low)) {
            return;
        }
        offer(best, work_of(&all[d]) + start_idle(v, &all[d]), SF_BOUND_START, d, d);
        if (v->limit > 0) {
            double time = all[d].held * v->p->microbatches / v->limit * (1 - ROUNDING);
            offer(best, time < (double)INT64_MAX / 2 ? (sf_time_ps)time : 0, SF_BOUND_MEMORY, d, d);
        }
    }
    for (uint32_t d = 0; d < v->p->devices; d++) {
        offer_pairs(v, all, d, best);
    }
}

/* Two chains: the first B is of one of them, and before it F of both can run. */
static sf_time_ps bound_ways(struct view *v, uint32_t d, struct best *best) {
    uint32_t chain = v->p->stages / v->p->ways;
    sf_time_ps trip = INT64_MAX, work = 0, f = 0;
    double f_dense = 0;
    for (uint32_t way = 0; way < v->p->ways; way++) {
        struct device dev;
        if (look_at(v, d, way * chain, (way + 1) * chain - 1, &dev)) {
            sf_time_ps until = v->turned_at + dev.high_b_at - dev.low_f_at;
            trip = until < trip ? until : trip;
            work += work_of(&dev);
            f += dev.f;
            f_dense = larger(f_dense, dev.f_dense);
        }
    }
    sf_time_ps busy = fitting(v, f_dense, f), idle = trip != INT64_MAX && trip > busy ? trip - busy : 0;
    offer(best, work, SF_BOUND_WORK, d, d);
    offer(best, work + (v->c->wrap_first ? 0 : idle), SF_BOUND_START, d, d);
    return work;
}

sf_time_ps sf_pipe_lower_bound_why(const struct sf_pipe *p, const struct sf_pipe_costs *c, double memory_limit,
                                   struct sf_bound_why *why) {
    struct view v = {.p = p, .c = c, .limit = memory_limit * (1 + ROUNDING)};
    struct best best = {.span = 0};
    for (uint32_t d = 0; d < p->devices; d++) {
        bound_ways(&v, d, &best);
    }
    if (p->ways == 1 && p->slices == 1 && !c->wrap_first) {
        bound_chain(&v, &best);
    }
    *why = best.why;
    return best.span;
}

sf_time_ps sf_pipe_lower_bound(const struct sf_pipe *p, const struct sf_pipe_costs *c, double memory_limit) {
    struct sf_bound_why why;
    return sf_pipe_lower_bound_why(p, c, memory_limit, &why);
}

const char *sf_bound_reason_text(int reason) {
    static const char *const texts[] = {"the work of one device",
                                        "memory is full before the first backward can arrive",
                                        "memory limits what is left after the last forward, whose way is still long",
                                        "the way to a device, its backwards, and the way back",
                                        "activations live too long for the limit",
                                        "the ways to and from the passes of one device",
                                        "every order was looked at"};
    return reason >= 0 && reason < (int)(sizeof texts / sizeof *texts) ? texts[reason] : "?";
}
