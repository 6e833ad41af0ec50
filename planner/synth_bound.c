/* Lower bounds on the span, each a sum of things that happen one after the other.
 *
 * Start. Before the first B of chunk j, a device can run only F of chunks up to j and all of later chunks, and what
 * it has run of chunks up to j is still in its memory. So the work before that B is at most (memory limit) x (the most
 * work that a unit of memory allows), while the B cannot come before the first microbatch went from there to the last
 * stage and back. The difference is idle. (Zero Bubble, arXiv 2401.10241, appendix B, is the case of one chunk.)
 *
 * Drain. When a device ends the last F of chunk j, what it still has to do is for the most part in its memory, so most
 * of its work came before. After it, that microbatch has to go to the last stage and back to the device whose span
 * is bounded, which started before by the path between their first stages.
 *
 * Memory. Every activation lives at least from its F to its B on the shortest way; the sum over a device, divided by
 * the limit, is the time it takes to hold them all. */
#include "planner/synth_internal.h"

/* One device seen from chunk j, in sums over its chunks. */
struct view {
    const struct sfi_synth *s;
    const uint16_t *held;
};

static double larger(double a, double b) {
    return a > b ? a : b;
}

/* Most work per unit of memory before the first B of chunk j. */
static double start_density(const struct view *v, uint32_t j) {
    const struct sfi_synth *s = v->s;
    double f = 0, memory = 0, best = 0, later = 0;
    for (uint32_t i = 0; i <= j; i++) {
        f += (double)s->f[v->held[i]];
        memory += s->mem_f[v->held[i]];
        best = larger(best, f / memory);
    }
    for (uint32_t i = j + 1; i < s->chunks; i++) {
        uint32_t x = v->held[i];
        later += (double)(s->f[x] + s->b[x] + s->w[x]);
    }
    return larger(best, (f + later) / memory);
}

/* Most work per unit of memory after the last F of chunk j. A microbatch there has been forward through chunks 0 .. i
 * for an i >= j, or is on its way back. */
static double drain_density(const struct view *v, uint32_t j) {
    const struct sfi_synth *s = v->s;
    double later = 0, backward = 0, memory = 0, best = 0;
    for (uint32_t i = 0; i < s->chunks; i++) {
        uint32_t x = v->held[i];
        later += (double)(s->f[x] + s->b[x] + s->w[x]);
        best = s->mem_w[x] > 0 ? larger(best, (double)s->w[x] / s->mem_w[x]) : best;
    }
    for (uint32_t i = 0; i < s->chunks; i++) {
        uint32_t x = v->held[i];
        later -= (double)(s->f[x] + s->b[x] + s->w[x]);
        backward += (double)(s->b[x] + s->w[x]);
        memory += s->mem_f[x];
        best = larger(best, (backward + (i >= j ? later : 0)) / memory);
    }
    return best;
}

/* Idle time that the start of a device costs. */
static double start_idle(const struct view *v) {
    const struct sfi_synth *s = v->s;
    double idle = 0, memory = 0;
    for (uint32_t j = 0; j < s->chunks; j++) {
        memory += s->mem_f[v->held[j]] * s->microbatches;
        if (memory > s->limit) { /* else all its F might come first, and the end of the last one bounds nothing */
            double until = (double)(s->b_at[v->held[j]] - s->f_at[v->held[0]]);
            idle = larger(idle, until - s->limit * start_density(v, j));
        }
    }
    return idle;
}

static double memory_time(const struct view *v) {
    const struct sfi_synth *s = v->s;
    double sum = 0;
    for (uint32_t j = 0; j < s->chunks; j++) {
        uint32_t x = v->held[j];
        sum += s->mem_f[x] * (double)(s->b_at[x] - s->f_at[x] + s->b[x]) + s->mem_w[x] * (double)s->w[x];
    }
    return sum * s->microbatches / s->limit;
}

struct best {
    double span;
    struct sf_synth_bound why;
};

static void raise(struct best *b, double span, int reason, uint32_t device, uint32_t through) {
    if (span > b->span) {
        b->span = span;
        b->why.reason = reason;
        b->why.device = device;
        b->why.through = through;
    }
}

/* Bounds on the span of every device that starts before device e, by what e has to do. */
static void drain(const struct sfi_synth *s, const struct view *v, uint32_t e, double idle, struct best *best) {
    uint32_t last = s->stages - 1;
    double work = (double)s->work[e] * s->microbatches;
    for (uint32_t j = 0; j < s->chunks; j++) {
        uint32_t x = v->held[j];
        double ended = larger(0, work + idle - s->limit * drain_density(v, j));
        double tail = (double)(s->f_at[last] + s->f[last] - s->f_at[x] - s->f[x]);
        for (uint32_t d = 0; d < s->devices; d++) {
            uint32_t first = s->held[d * s->chunks];
            if (first <= v->held[0]) {
                double back = (double)(s->b_at[first] - s->b_at[last] + s->b[first] + s->w[first]);
                double ahead = (double)(s->f_at[v->held[0]] - s->f_at[first]);
                raise(best, ahead + ended + tail + back, SF_BOUND_DRAIN, d, e);
            }
        }
    }
}

sf_time_ps sfi_bound(const struct sfi_synth *s, struct sf_synth_bound *why) {
    struct best best = {.span = 0};
    for (uint32_t e = 0; e < s->devices; e++) {
        struct view v = {s, &s->held[e * s->chunks]};
        double idle = start_idle(&v), work = (double)s->work[e] * s->microbatches;
        raise(&best, work, SF_BOUND_WORK, e, e);
        raise(&best, work + idle, SF_BOUND_START, e, e);
        raise(&best, memory_time(&v), SF_BOUND_MEMORY, e, e);
        drain(s, &v, e, idle, &best);
    }
    *why = best.why;
    return (sf_time_ps)best.span;
}
