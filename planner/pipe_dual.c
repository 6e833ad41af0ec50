/* DualPipe (DeepSeek-V3, arXiv 2412.19437, figure 5) and DualPipeV, its half.
 *
 * A device works on two chunks: `near` begins the chain close to it, `far` ends one. On DualPipe they belong to two
 * chains in opposite directions, on DualPipeV to the two legs of a V; the order is the same. Devices count by their
 * distance from the outer end, 0 .. depth-1. The order is written as runs of short motifs. */
#include "planner/pipe_internal.h"

struct chunk {
    uint32_t stage, first_mb; /* microbatches first_mb .. */
    uint32_t f, b;            /* done */
};

struct row {
    struct sf_pipe *p;
    uint32_t device;
    struct chunk chunk[2]; /* near, far */
    uint32_t w_at;         /* no B before this place waits for its W */
};

static void forward(struct row *r, int which) {
    struct chunk *c = &r->chunk[which];
    sf_pipe_push(r->p, r->device, SF_PASS_F, c->stage, c->first_mb + c->f++, 0);
}

static void backward(struct row *r, int which, bool split) {
    struct chunk *c = &r->chunk[which];
    sf_pipe_push(r->p, r->device, split ? SF_PASS_B : SF_PASS_BW, c->stage, c->first_mb + c->b++, 0);
}

/* A forward and a backward that overlap, which the innermost devices cannot do before they have received anything. */
static void pair(struct row *r, int f, int b, bool joined) {
    forward(r, f);
    if (joined) {
        r->p->passes[r->device][r->p->passes_n[r->device] - 1].kind = SF_PASS_F_PAIR;
    }
    backward(r, b, false);
}

static void oldest_w(struct row *r) {
    const struct sf_pass *row = r->p->passes[r->device];
    while (row[r->w_at].kind != SF_PASS_B) {
        r->w_at++;
    }
    const struct sf_pass *b = &row[r->w_at++];
    sf_pipe_push(r->p, r->device, SF_PASS_W, b->stage, b->microbatch, 0);
}

enum { NEAR, FAR };

/* Towards the end backwards are split from the middle of the run of pairs on, so that W can fill the last waits. */
static void closing_pairs(struct row *r, uint32_t pairs) {
    uint32_t split_at = pairs / 2;
    for (uint32_t i = 0; i < pairs; i++) {
        backward(r, FAR, i > split_at || (i == split_at && pairs % 2 == 0));
        backward(r, NEAR, i >= split_at);
    }
}

static void dual_row(struct row *r, uint32_t depth, uint32_t at, uint32_t microbatches) {
    uint32_t inner = depth - 1 - at, outer = at + 1;
    for (uint32_t i = 0; i < 2 * inner; i++) {
        forward(r, NEAR);
    }
    for (uint32_t i = 0; i < outer; i++) {
        forward(r, NEAR);
        forward(r, FAR);
    }
    for (uint32_t i = 0; i < inner; i++) {
        backward(r, FAR, true);
        oldest_w(r);
        forward(r, FAR);
    }
    for (uint32_t i = 0; i < microbatches - 2 * depth + outer; i++) {
        pair(r, NEAR, FAR, i > 0 || inner > 0);
        pair(r, FAR, NEAR, true);
    }
    for (uint32_t i = 0; i < inner; i++) {
        backward(r, FAR, false);
        pair(r, FAR, NEAR, true);
    }
    closing_pairs(r, outer);
    for (uint32_t i = 0; i < inner; i++) {
        oldest_w(r);
        backward(r, NEAR, true);
    }
    for (uint32_t i = 0; i < outer; i++) {
        oldest_w(r);
    }
}

int sfi_pipe_dualpipe(const struct sfi_family *f, struct sf_pipe **out, struct sf_err *err) {
    uint32_t p = f->spec.devices, m = f->spec.microbatches;
    if (p % 2 != 0 || m % 2 != 0 || m / 2 < p) {
        return sf_fail(err, SF_E_INPUT,
                       "dualpipe needs an even number of devices and an even number of microbatches, at least twice as "
                       "many; found %u devices, %u microbatches",
                       p, m);
    }
    SF_TRY(sfi_pipe_make(f, out, err));
    for (uint32_t s = p; s < 2 * p; s++) {
        (*out)->device_of[s] = (uint16_t)(2 * p - 1 - s);
    }
    for (uint32_t d = 0; d < p; d++) {
        struct chunk down = {.stage = d}, up = {.stage = 2 * p - 1 - d, .first_mb = m / 2};
        bool first_half = d < p / 2;
        struct row r = {.p = *out, .device = d, .chunk = {first_half ? down : up, first_half ? up : down}};
        dual_row(&r, p / 2, first_half ? d : p - 1 - d, m / 2);
    }
    return 0;
}

int sfi_pipe_dualpipev(const struct sfi_family *f, struct sf_pipe **out, struct sf_err *err) {
    uint32_t p = f->spec.devices, m = f->spec.microbatches;
    if (m / 2 < p) {
        return sf_fail(err, SF_E_INPUT,
                       "dualpipev needs at least twice as many microbatches as devices; found %u and %u", m, p);
    }
    SF_TRY(sfi_pipe_make(f, out, err));
    sfi_pipe_place_v(*out);
    for (uint32_t d = 0; d < p; d++) {
        struct row r = {.p = *out, .device = d, .chunk = {{.stage = d}, {.stage = 2 * p - 1 - d}}};
        dual_row(&r, p, d, m);
    }
    return 0;
}
