/* Heads that are split by vocabulary over a pipeline. Built pass by pass in time: what can start first goes next, and
 * of those that can, parts of the head before layers and backward before forward. A microbatch passes through the parts
 * of all devices and back, and at each waits for the pass that runs there, so as many more are under way as there are
 * devices: with two more than 1F1B, 8 devices with a head of two layers each stand idle for 56 % of the time, with ten
 * more for 21 %. */
#include "core/arena.h"
#include "planner/pipe_internal.h"

enum { LAYERS_F = 8, LAYERS_BW = 16, HEAD_F = 2, HEAD_BW = 4, KINDS = 4, NEVER = -1 };

struct builder {
    struct sf_pipe *pipe;
    sf_time_ps *end[2]; /* [F, BW][stages * microbatches]; NEVER before */
    uint32_t *next[2];  /* [F, BW][stages] microbatches placed */
    sf_time_ps *free;   /* [devices] */
};

struct candidate {
    uint32_t stage;
    bool backward;
    sf_time_ps start;
};

static sf_time_ps end_of(const struct builder *b, bool backward, uint32_t stage, uint32_t microbatch) {
    return b->end[backward][(size_t)stage * b->pipe->microbatches + microbatch];
}

static sf_time_ps later(sf_time_ps a, sf_time_ps b) {
    return a == NEVER || b == NEVER ? NEVER : a > b ? a : b;
}

/* When the next pass of a stage can start; NEVER: not yet known, or there is none. */
static sf_time_ps start_of(const struct builder *b, bool backward, uint32_t stage) {
    const struct sf_pipe *p = b->pipe;
    uint32_t d = p->device_of[stage], m = b->next[backward][stage], room = 2 * p->devices - stage + 2;
    bool full = !backward && stage < p->devices && m - b->next[1][stage] >= room;
    if (m == p->microbatches || full) {
        return NEVER;
    }
    if (!backward) {
        return stage == 0 ? b->free[d] : later(b->free[d], end_of(b, false, stage - 1, m));
    }
    sf_time_ps own = later(b->free[d], end_of(b, false, stage, m));
    return stage + 1 == p->stages ? own : later(own, end_of(b, true, stage + 1, m));
}

/* In the order of preference. */
static bool earliest(const struct builder *b, struct candidate *best) {
    const struct sf_pipe *p = b->pipe;
    best->start = NEVER;
    for (uint32_t k = 0; k < KINDS; k++) {
        for (uint32_t i = 0; i < p->devices; i++) {
            struct candidate c = {.stage = k < 2 ? p->devices + i : i, .backward = k % 2 == 0};
            c.start = start_of(b, c.backward, c.stage);
            if (c.start != NEVER && (best->start == NEVER || c.start < best->start)) {
                *best = c;
            }
        }
    }
    return best->start != NEVER;
}

static void build(struct builder *b) {
    static const sf_time_ps length[2][2] = {{LAYERS_F, HEAD_F}, {LAYERS_BW, HEAD_BW}};
    struct candidate c;
    while (earliest(b, &c)) {
        uint32_t d = b->pipe->device_of[c.stage], m = b->next[c.backward][c.stage]++;
        b->free[d] = c.start + length[c.backward][c.stage >= b->pipe->devices];
        b->end[c.backward][(size_t)c.stage * b->pipe->microbatches + m] = b->free[d];
        sf_pipe_push(b->pipe, d, c.backward ? SF_PASS_BW : SF_PASS_F, c.stage, m, 0);
    }
}

static int allocate(struct builder *b, struct sf_err *err) {
    size_t n = (size_t)b->pipe->stages * b->pipe->microbatches;
    for (int k = 0; k < 2; k++) {
        b->end[k] = sf_calloc(n, sizeof **b->end);
        b->next[k] = sf_calloc(b->pipe->stages, sizeof **b->next);
    }
    b->free = sf_calloc(b->pipe->devices, sizeof *b->free);
    if (!b->end[0] || !b->end[1] || !b->next[0] || !b->next[1] || !b->free) {
        return sf_fail_memory(err, "pipeline");
    }
    for (size_t i = 0; i < n; i++) {
        b->end[0][i] = b->end[1][i] = NEVER;
    }
    return 0;
}

int sf_pipe_split_head(uint32_t devices, uint32_t microbatches, struct sf_pipe **out, struct sf_err *err) {
    struct builder b = {0};
    SF_TRY(sf_pipe_create(devices, devices <= SF_PIPE_MAX_STAGES / 2 ? 2 * devices : 0, microbatches, 1, out, err));
    b.pipe = *out;
    sfi_pipe_place_v(b.pipe);
    int rc = allocate(&b, err);
    if (rc == 0) {
        build(&b);
    } else {
        sf_pipe_free(*out);
        *out = NULL;
    }
    for (int k = 0; k < 2; k++) {
        sf_free(b.end[k]);
        sf_free(b.next[k]);
    }
    sf_free(b.free);
    return rc;
}
