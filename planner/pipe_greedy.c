/* Building a table pass by pass in time, with the weight gradients filled into gaps. */
#include "planner/pipe_internal.h"

#include <assert.h>
#include <string.h>

#include "core/arena.h"

#define ROUNDING 1e-9 /* sums of shares of a chunk */

void sfi_greedy_clear(struct sfi_greedy *g) {
    sf_pipe_free(g->pipe);
    sf_free(g->lanes);
    sf_free(g->end[0]);
    sf_free(g->done[0]);
    *g = (struct sfi_greedy){0};
}

int sfi_greedy_create(const struct sfi_family *f, bool v, struct sfi_greedy *out, struct sf_err *err) {
    *out = (struct sfi_greedy){.family = f};
    SF_TRY(sfi_pipe_make(f, &out->pipe, err));
    if (v) {
        sfi_pipe_place_v(out->pipe);
    }
    size_t nodes = (size_t)f->stages * f->spec.microbatches;
    out->lanes = sf_calloc(f->spec.devices, sizeof *out->lanes);
    out->end[0] = sf_calloc(2 * nodes, sizeof *out->end[0]);
    out->done[0] = sf_calloc(2 * (size_t)f->stages, sizeof *out->done[0]);
    if (out->lanes == NULL || out->end[0] == NULL || out->done[0] == NULL) {
        sfi_greedy_clear(out);
        return sf_fail_memory(err, "schedule");
    }
    out->end[1] = out->end[0] + nodes;
    out->done[1] = out->done[0] + f->stages;
    sfi_greedy_reset(out);
    return 0;
}

void sfi_greedy_reset(struct sfi_greedy *g) {
    size_t nodes = (size_t)g->pipe->stages * g->pipe->microbatches;
    memset(g->lanes, 0, g->pipe->devices * sizeof *g->lanes);
    memset(g->end[0], 0xff, 2 * nodes * sizeof *g->end[0]);
    memset(g->done[0], 0, 2 * (size_t)g->pipe->stages * sizeof *g->done[0]);
    memset(g->pipe->passes_n, 0, g->pipe->devices * sizeof *g->pipe->passes_n);
    g->most_idle = 0;
}

/* End of a pass on another stage as seen from `device`. */
static sf_time_ps seen(const struct sfi_greedy *g, int kind, uint32_t stage, uint32_t microbatch, uint32_t device) {
    sf_time_ps end = g->end[kind][(size_t)stage * g->pipe->microbatches + microbatch];
    return end < 0 || g->pipe->device_of[stage] == device ? end : end + g->family->spec.comm;
}

sf_time_ps sfi_greedy_arrival(const struct sfi_greedy *g, int kind, uint32_t stage) {
    uint32_t k = g->done[kind][stage], device = g->pipe->device_of[stage];
    if (k >= g->pipe->microbatches) {
        return -1;
    }
    if (kind == SF_PASS_F) {
        return stage == 0 ? 0 : seen(g, SF_PASS_F, stage - 1, k, device);
    }
    sf_time_ps own = seen(g, SF_PASS_F, stage, k, device);
    return stage + 1 == g->pipe->stages || own < 0 ? own : seen(g, SF_PASS_B, stage + 1, k, device);
}

void sfi_greedy_put(struct sfi_greedy *g, int kind, uint32_t stage) {
    const struct sfi_family *f = g->family;
    uint32_t device = g->pipe->device_of[stage];
    struct sfi_lane *lane = &g->lanes[device];
    sf_time_ps start = sfi_greedy_arrival(g, kind, stage);
    uint32_t k = g->done[kind][stage]++;
    assert(start >= 0);
    start = start > lane->free ? start : lane->free;
    if (g->pipe->passes_n[device] > 0) {
        lane->idle += start - lane->free;
        g->most_idle = lane->idle > g->most_idle ? lane->idle : g->most_idle;
    }
    lane->free = start + (kind == SF_PASS_F ? f->f : g->whole ? f->b + f->w : f->b);
    lane->memory += kind == SF_PASS_F ? 1 : g->whole ? -1 : -f->b_frees;
    lane->waiting_w += kind == SF_PASS_B && !g->whole;
    g->end[kind][(size_t)stage * g->pipe->microbatches + k] = lane->free;
    sf_pipe_push(g->pipe, device, kind == SF_PASS_B && g->whole ? SF_PASS_BW : (enum sf_pass_kind)kind, stage, k, 0);
}

void sfi_greedy_put_w(struct sfi_greedy *g, uint32_t device) {
    struct sfi_lane *lane = &g->lanes[device];
    const struct sf_pass *row = g->pipe->passes[device];
    assert(lane->waiting_w > 0);
    while (row[lane->w_at].kind != SF_PASS_B) {
        lane->w_at++;
    }
    const struct sf_pass *b = &row[lane->w_at++];
    lane->waiting_w--;
    lane->free += g->family->w;
    lane->memory -= g->family->w_frees;
    sf_pipe_push(g->pipe, device, SF_PASS_W, b->stage, b->microbatch, 0);
}

void sfi_greedy_fill(struct sfi_greedy *g, uint32_t device, sf_time_ps arrival, bool beyond) {
    struct sfi_lane *lane = &g->lanes[device];
    while (lane->waiting_w > 0 && arrival >= lane->free + g->family->w) {
        sfi_greedy_put_w(g, device);
    }
    sf_time_ps gap = arrival - lane->free;
    if (beyond && lane->waiting_w > 0 && gap > 0 && (g->eager || lane->idle + gap >= g->most_idle)) {
        sfi_greedy_put_w(g, device);
    }
}

bool sfi_greedy_room(const struct sfi_greedy *g, uint32_t device, double chunks) {
    return g->family->limit == 0 || g->lanes[device].memory + chunks <= g->family->limit + ROUNDING;
}

bool sfi_greedy_make_room(struct sfi_greedy *g, uint32_t device) {
    while (!sfi_greedy_room(g, device, 1)) {
        if (g->lanes[device].waiting_w == 0) {
            return false;
        }
        sfi_greedy_put_w(g, device);
    }
    return true;
}

void sfi_greedy_finish(struct sfi_greedy *g) {
    for (uint32_t d = 0; d < g->pipe->devices; d++) {
        while (g->lanes[d].waiting_w > 0) {
            sfi_greedy_put_w(g, d);
        }
    }
}

bool sfi_greedy_complete(const struct sfi_greedy *g) {
    for (uint32_t s = 0; s < g->pipe->stages; s++) {
        if (g->done[SF_PASS_B][s] < g->pipe->microbatches) {
            return false;
        }
    }
    return true;
}

sf_time_ps sfi_greedy_span(const struct sfi_greedy *g) {
    sf_time_ps span = 0;
    for (uint32_t d = 0; d < g->pipe->devices; d++) {
        /* The first pass of a device is F of its earliest stage, or the start would not be the start. */
        const struct sf_pass *first = &g->pipe->passes[d][0];
        sf_time_ps start = g->end[SF_PASS_F][(size_t)first->stage * g->pipe->microbatches + first->microbatch];
        sf_time_ps own = g->lanes[d].free - (start - g->family->f);
        span = own > span ? own : span;
    }
    return span;
}

int sfi_best_offer(struct sfi_best *best, const struct sfi_greedy *g, struct sf_err *err) {
    sf_time_ps span = sfi_greedy_span(g);
    if (best->pipe != NULL && span >= best->span) {
        return 0;
    }
    struct sf_pipe *copy;
    SF_TRY(sf_pipe_copy(g->pipe, &copy, err));
    sf_pipe_free(best->pipe);
    best->pipe = copy;
    best->span = span;
    return 0;
}

int sfi_best_take(const struct sfi_family *f, struct sfi_best *best, int rc, struct sf_pipe **out, struct sf_err *err) {
    if (rc == 0 && best->pipe == NULL) {
        rc = sf_fail(err, SF_E_NOPLAN,
                     "%s: no schedule of %u microbatches on %u devices was found under %.3f M; allow "
                     "more memory",
                     sf_pipe_family_name(f->spec.family), f->spec.microbatches, f->spec.devices,
                     f->limit / f->spec.chunks);
    }
    if (rc != 0) {
        sf_pipe_free(best->pipe);
        best->pipe = NULL;
    }
    *out = best->pipe;
    return rc;
}
