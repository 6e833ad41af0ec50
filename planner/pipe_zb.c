/* ZB-1p, ZB-2p: the greedy family of Zero Bubble (arXiv 2401.10241, section 3.1) for one chunk per device.
 *
 * Warm-up: as many forwards before the first backward as fit into the wait for it. Then one forward and one backward
 * in turn, from the last device up, weight gradients in the gaps. Three switches are tried both ways. */
#include "planner/pipe_internal.h"

struct switches {
    bool one_more; /* a last warm-up forward even if it delays the first backward */
    bool skip;     /* leave a forward out when it would delay a backward that is due */
    bool eager;    /* see sfi_greedy */
};

/* A forward here needs one on every device before, and room there for those between. */
static bool warm_up_fits(const struct sfi_greedy *g, uint32_t device, sf_time_ps due, bool one_more) {
    const struct sfi_lane *lane = &g->lanes[device];
    if (g->done[SF_PASS_F][0] >= g->pipe->microbatches || !sfi_greedy_room(g, device, device + 1.0)) {
        return false;
    }
    return lane->free + g->family->f <= due || (one_more && lane->free < due);
}

/* False when the memory limit leaves no room for a single microbatch. */
static bool warm_up(struct sfi_greedy *g, bool one_more) {
    uint32_t last = g->pipe->devices - 1;
    for (uint32_t d = 0; d <= last; d++) {
        if (!sfi_greedy_room(g, d, 1)) {
            return false;
        }
        sfi_greedy_put(g, SF_PASS_F, d);
    }
    sfi_greedy_put(g, SF_PASS_B, last);
    for (uint32_t d = last; d-- > 0;) {
        sf_time_ps due = sfi_greedy_arrival(g, SF_PASS_B, d);
        while (warm_up_fits(g, d, due, one_more)) {
            for (uint32_t up = 0; up <= d; up++) {
                sfi_greedy_put(g, SF_PASS_F, up);
            }
        }
        sfi_greedy_put(g, SF_PASS_B, d);
    }
    return true;
}

/* The next device is more than one forward behind, so that it will not starve. */
static bool may_skip(const struct sfi_greedy *g, uint32_t d, sf_time_ps arrival) {
    sf_time_ps due = sfi_greedy_arrival(g, SF_PASS_B, d), free = g->lanes[d].free;
    sf_time_ps start = arrival > free ? arrival : free;
    return d + 1 < g->pipe->devices && g->done[SF_PASS_F][d] > g->done[SF_PASS_F][d + 1] + 1 && due >= 0 &&
           start + g->family->f > due;
}

static bool forward(struct sfi_greedy *g, uint32_t d, bool skip) {
    sf_time_ps arrival = sfi_greedy_arrival(g, SF_PASS_F, d);
    if (arrival < 0 || (skip && may_skip(g, d, arrival)) || !sfi_greedy_make_room(g, d)) {
        return false;
    }
    sfi_greedy_fill(g, d, arrival, true);
    sfi_greedy_put(g, SF_PASS_F, d);
    return true;
}

static bool backward(struct sfi_greedy *g, uint32_t d) {
    sf_time_ps arrival = sfi_greedy_arrival(g, SF_PASS_B, d);
    if (arrival < 0) {
        return false;
    }
    sfi_greedy_fill(g, d, arrival, true);
    sfi_greedy_put(g, SF_PASS_B, d);
    return true;
}

static bool build(struct sfi_greedy *g, const struct switches *s) {
    sfi_greedy_reset(g);
    g->eager = s->eager;
    if (!warm_up(g, s->one_more)) {
        return false;
    }
    for (bool moved = true; moved;) {
        moved = false;
        for (uint32_t d = g->pipe->devices; d-- > 0;) {
            bool went = forward(g, d, s->skip);
            moved = backward(g, d) || went || moved;
        }
    }
    sfi_greedy_finish(g);
    return sfi_greedy_complete(g);
}

int sfi_pipe_zb(const struct sfi_family *f, struct sf_pipe **out, struct sf_err *err) {
    struct sfi_greedy g;
    struct sfi_best best = {0};
    SF_TRY(sfi_greedy_create(f, false, &g, err));
    int rc = 0;
    for (unsigned i = 0; i < 8 && rc == 0; i++) {
        struct switches s = {.one_more = i & 1, .skip = i & 2, .eager = i & 4};
        rc = build(&g, &s) ? sfi_best_offer(&best, &g, err) : 0;
    }
    sfi_greedy_clear(&g);
    return sfi_best_take(f, &best, rc, out, err);
}
