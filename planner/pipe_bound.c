/* What no order of passes can beat. */
#include "planner/pipeline.h"

#include <math.h>

/* Hops between stages a and b of a chain, a <= b. */
static sf_time_ps hops(const struct sf_pipe *p, const struct sf_pipe_costs *c, uint32_t a, uint32_t b) {
    sf_time_ps sum = 0;
    for (uint32_t s = a; s < b; s++) {
        sum += p->device_of[s] == p->device_of[s + 1] ? 0 : c->comm;
    }
    return sum;
}

/* From the start of the first F of a chain's stage `from` to the start of its first B of stage `to`, at the least. */
static sf_time_ps round_trip(const struct sf_pipe *p, const struct sf_pipe_costs *c, uint32_t from, uint32_t to,
                             uint32_t last) {
    sf_time_ps sum = hops(p, c, from, last) + hops(p, c, to, last);
    for (uint32_t s = from; s <= last; s++) {
        sum += c->f[s];
    }
    for (uint32_t s = to + 1; s <= last; s++) {
        sum += c->b[s];
    }
    return sum;
}

struct device {
    sf_time_ps f, work;  /* of all its passes */
    sf_time_ps trip;     /* until its first B can start */
    double f_per_memory; /* the most F time that a unit of memory pays for */
};

static struct device look_at(const struct sf_pipe *p, const struct sf_pipe_costs *c, uint32_t d) {
    struct device dev = {.trip = INT64_MAX};
    uint32_t chain = p->stages / p->ways;
    sf_time_ps passes = (sf_time_ps)(p->microbatches / p->ways) * p->slices;
    for (uint32_t way = 0; way < p->ways; way++) {
        uint32_t from = UINT32_MAX, to = 0;
        for (uint32_t s = way * chain; s < (way + 1) * chain; s++) {
            if (p->device_of[s] == d) {
                from = from == UINT32_MAX ? s : from;
                to = s;
                dev.f += c->f[s] * passes;
                dev.work += (c->f[s] + c->b[s] + c->w[s]) * passes;
                double rate = c->mem_f != NULL && c->mem_f[s] > 0 ? (double)c->f[s] / c->mem_f[s] : INFINITY;
                dev.f_per_memory = rate > dev.f_per_memory ? rate : dev.f_per_memory;
            }
        }
        if (from != UINT32_MAX) {
            sf_time_ps trip = round_trip(p, c, from, to, (way + 1) * chain - 1);
            dev.trip = trip < dev.trip ? trip : dev.trip;
        }
    }
    return dev;
}

/* Before its first B a device can only run F, as many as there are and as its memory holds; the rest of the wait is
 * idle time (Zero Bubble, appendix B). */
sf_time_ps sf_pipe_lower_bound(const struct sf_pipe *p, const struct sf_pipe_costs *c, double memory_limit) {
    sf_time_ps bound = 0;
    for (uint32_t d = 0; d < p->devices; d++) {
        struct device dev = look_at(p, c, d);
        double held = memory_limit > 0 ? memory_limit * dev.f_per_memory : INFINITY;
        sf_time_ps busy = held < (double)dev.f ? (sf_time_ps)held + 1 : dev.f;
        sf_time_ps own = dev.work;
        if (!c->wrap_first && dev.trip != INT64_MAX && dev.trip > busy) {
            own += dev.trip - busy;
        }
        bound = own > bound ? own : bound;
    }
    return bound;
}
