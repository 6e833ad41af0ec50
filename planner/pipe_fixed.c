/* Families whose order does not depend on costs: GPipe, 1F1B (also over sequence slices), interleaved, breadth-first,
 * ZB-H1 and ZB-H2. */
#include "planner/pipe_internal.h"

static uint32_t min_u32(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* Units are slices: forwards in ascending order, backwards by microbatch, last slice first. */
static void push_f(struct sf_pipe *p, uint32_t d, uint32_t unit) {
    sf_pipe_push(p, d, SF_PASS_F, d, unit / p->slices, unit % p->slices);
}
static void push_b(struct sf_pipe *p, uint32_t d, enum sf_pass_kind kind, uint32_t unit) {
    sf_pipe_push(p, d, kind, d, unit / p->slices, p->slices - 1 - unit % p->slices);
}

/* Some warm-up forwards, then a forward and a backward in turn, then the backwards that are left. */
static void one_chunk(struct sf_pipe *p, uint32_t d, uint32_t warm_up) {
    uint32_t all = p->microbatches * p->slices, f = 0;
    for (uint32_t b = 0; b < all; b++) {
        for (uint32_t until = min_u32(all, warm_up + b + 1); f < until; f++) {
            push_f(p, d, f);
        }
        push_b(p, d, SF_PASS_BW, b);
    }
}

int sfi_pipe_gpipe(const struct sfi_family *f, struct sf_pipe **out, struct sf_err *err) {
    SF_TRY(sfi_pipe_make(f, out, err));
    for (uint32_t d = 0; d < f->spec.devices; d++) {
        one_chunk(*out, d, (*out)->microbatches * (*out)->slices);
    }
    return 0;
}

/* The last device needs a whole microbatch forward before its first backward: slices - 1 warm-up forwards more. */
int sfi_pipe_1f1b(const struct sfi_family *f, struct sf_pipe **out, struct sf_err *err) {
    SF_TRY(sfi_pipe_make(f, out, err));
    for (uint32_t d = 0; d < f->spec.devices; d++) {
        one_chunk(*out, d, f->spec.devices - 1 - d + f->spec.slices - 1);
    }
    return 0;
}

/* ZB-H1 (once) and ZB-H2 (twice the warm-up): a W follows each B once as many B have run as the warm-up is shorter than
 * the first device's; what is left fills the end. */
int sfi_pipe_zb_h(const struct sfi_family *f, struct sf_pipe **out, struct sf_err *err) {
    uint32_t times = f->spec.family == SF_PIPE_ZB_H2 ? 2 : 1, last = f->spec.devices - 1;
    SF_TRY(sfi_pipe_make(f, out, err));
    struct sf_pipe *p = *out;
    for (uint32_t d = 0; d <= last; d++) {
        uint32_t n = 0, w = 0;
        for (uint32_t b = 0; b < p->microbatches; b++) {
            for (uint32_t until = min_u32(p->microbatches, (last - d) * times + b + 1); n < until; n++) {
                push_f(p, d, n);
            }
            push_b(p, d, SF_PASS_B, b);
            if (b >= d * times) {
                push_b(p, d, SF_PASS_W, w++);
            }
        }
        while (w < p->microbatches) {
            push_b(p, d, SF_PASS_W, w++);
        }
    }
    return 0;
}

/* The k-th forward or backward on a device: chunks take turns of `turn` microbatches, backwards from the last chunk. */
static void push_turn(struct sf_pipe *p, uint32_t d, enum sf_pass_kind kind, uint32_t turn, uint32_t k) {
    uint32_t chunks = p->stages / p->devices, round = turn * chunks;
    uint32_t chunk = k % round / turn, microbatch = k / round * turn + k % turn;
    if (kind == SF_PASS_F) {
        sf_pipe_push(p, d, kind, chunk * p->devices + d, microbatch, 0);
    } else {
        sf_pipe_push(p, d, kind, (chunks - 1 - chunk) * p->devices + d, microbatch, 0);
    }
}

static void chunks_in_turn(struct sf_pipe *p, uint32_t d, uint32_t turn, uint32_t warm_up) {
    uint32_t all = p->microbatches * (p->stages / p->devices), f = 0;
    for (uint32_t b = 0; b < all; b++) {
        for (uint32_t until = min_u32(all, warm_up + b + 1); f < until; f++) {
            push_turn(p, d, SF_PASS_F, turn, f);
        }
        push_turn(p, d, SF_PASS_BW, turn, b);
    }
}

int sfi_pipe_interleaved(const struct sfi_family *f, struct sf_pipe **out, struct sf_err *err) {
    uint32_t devices = f->spec.devices, m = f->spec.microbatches;
    if (m % devices != 0) {
        return sf_fail(err, SF_E_INPUT,
                       "interleaved needs microbatches to be a multiple of the devices, found %u and %u; the next "
                       "multiple is %llu",
                       m, devices, ((unsigned long long)m / devices + 1) * devices);
    }
    SF_TRY(sfi_pipe_make(f, out, err));
    for (uint32_t d = 0; d < devices; d++) {
        chunks_in_turn(*out, d, devices, 2 * (devices - 1 - d) + (f->spec.chunks - 1) * devices);
    }
    return 0;
}

int sfi_pipe_breadth_first(const struct sfi_family *f, struct sf_pipe **out, struct sf_err *err) {
    SF_TRY(sfi_pipe_make(f, out, err));
    for (uint32_t d = 0; d < f->spec.devices; d++) {
        chunks_in_turn(*out, d, f->spec.microbatches, f->spec.microbatches * f->spec.chunks);
    }
    return 0;
}
