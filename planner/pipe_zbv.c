/* ZB-V: two chunks per device along a V, memory p M on every device, greedy (arXiv 2401.10241, section on ZB-V).
 *
 * Warm-up: forwards of the first chunk into the wait for the first forward of the second chunk to come back up; then
 * forwards in turn until the first backward arrives. After that rounds of one backward and one forward per device;
 * weight gradients fill the gaps. Two switches (may a W fill in front of a forward; in front of a backward of the first
 * chunk) are tried both ways; the published schedules have both on. */
#include "planner/pipe_internal.h"

#include "core/arena.h"

struct v {
    struct sfi_greedy g;
    uint32_t p, m;
    bool fill_f, fill_b; /* the switches */
};

static uint32_t stage_of(const struct v *v, uint32_t device, uint32_t chunk) {
    return chunk == 0 ? device : 2 * v->p - 1 - device;
}

static uint32_t done(const struct v *v, int kind, uint32_t chunk, uint32_t device) {
    return v->g.done[kind][stage_of(v, device, chunk)];
}

static sf_time_ps arrival(const struct v *v, int kind, uint32_t chunk, uint32_t device) {
    return sfi_greedy_arrival(&v->g, kind, stage_of(v, device, chunk));
}

/* False: its inputs will never come in this order. */
static bool put(struct v *v, int kind, uint32_t chunk, uint32_t device) {
    if (arrival(v, kind, chunk, device) < 0) {
        return false;
    }
    sfi_greedy_put(&v->g, kind, stage_of(v, device, chunk));
    return true;
}

static bool descend(struct v *v) {
    for (uint32_t d = 0; d < v->p; d++) {
        if (!put(v, SF_PASS_F, 0, d)) {
            return false;
        }
    }
    for (uint32_t d = v->p; d-- > 0;) {
        sf_time_ps due = arrival(v, SF_PASS_F, 1, d);
        while (d + 1 < v->p && done(v, SF_PASS_F, 0, d) < v->m && sfi_greedy_room(&v->g, d, 2.0 + 2.0 * d) &&
               v->g.lanes[d].free + v->g.family->f <= due) {
            for (uint32_t up = 0; up <= d; up++) {
                if (!put(v, SF_PASS_F, 0, up)) {
                    return false;
                }
            }
        }
        if (!put(v, SF_PASS_F, 1, d)) {
            return false;
        }
    }
    return true;
}

static bool behind(const struct v *v, uint32_t d) {
    uint32_t first = done(v, SF_PASS_F, 0, d), second = done(v, SF_PASS_F, 1, d);
    uint32_t first_up = done(v, SF_PASS_F, 0, d - 1), second_up = done(v, SF_PASS_F, 1, d - 1);
    return first + second < first_up + second_up || (second <= second_up && second_up < v->m);
}

/* Every device gets as many forwards as the one before, and is ahead of it in the second chunk. */
static bool level(struct v *v) {
    uint32_t chunk = 0;
    for (uint32_t d = 1; d < v->p; d++) {
        for (; behind(v, d); chunk = 1 - chunk) {
            if (done(v, SF_PASS_F, 0, d) == v->m && done(v, SF_PASS_F, 1, d) == v->m) {
                return false;
            }
            for (uint32_t e = v->p; done(v, SF_PASS_F, chunk, d) < v->m && e-- > d;) {
                if (done(v, SF_PASS_F, chunk, e) < v->m && !put(v, SF_PASS_F, chunk, e)) {
                    return false;
                }
            }
        }
    }
    return true;
}

/* The chunk whose backward is next: the second one as long as the first has caught up or cannot go. */
static uint32_t backward_chunk(const struct v *v, uint32_t d) {
    uint32_t first = done(v, SF_PASS_B, 0, d), second = done(v, SF_PASS_B, 1, d);
    if (second >= v->m) {
        return 0;
    }
    if (first >= second) {
        return 1;
    }
    return d + 1 == v->p || arrival(v, SF_PASS_B, 0, d) >= 0 ? 0 : 1;
}

static bool backward(struct v *v, uint32_t d, uint32_t chunk) {
    sf_time_ps due = arrival(v, SF_PASS_B, chunk, d);
    if (due < 0) {
        return false;
    }
    sfi_greedy_fill(&v->g, d, due, chunk == 1 || v->fill_b);
    return put(v, SF_PASS_B, chunk, d);
}

/* Second chunks from device 0 down, then first chunks back up: the way the gradients go. */
static bool backwards(struct v *v, uint8_t *chunk_of) {
    bool ok = true;
    for (uint32_t d = 0; d < v->p; d++) {
        chunk_of[d] = (uint8_t)backward_chunk(v, d);
    }
    for (uint32_t d = 0; d < v->p && ok; d++) {
        ok = chunk_of[d] == 0 || backward(v, d, 1);
    }
    for (uint32_t d = v->p; d-- > 0 && ok;) {
        ok = chunk_of[d] == 1 || done(v, SF_PASS_B, 0, d) >= v->m || backward(v, d, 0);
    }
    return ok;
}

/* The forward that is next, or -1: the second chunk wherever it can go. */
static int forward_chunk(const struct v *v, uint32_t d) {
    uint32_t first = done(v, SF_PASS_F, 0, d), second = done(v, SF_PASS_F, 1, d);
    if (second >= v->m) {
        return -1;
    }
    if (second < first && arrival(v, SF_PASS_F, 1, d) >= 0) {
        return 1;
    }
    return first < v->m && arrival(v, SF_PASS_F, 0, d) >= 0 ? 0 : -1;
}

static bool forwards(struct v *v) {
    for (uint32_t d = 0; d < v->p; d++) {
        int chunk = forward_chunk(v, d);
        if (chunk >= 0) {
            if (!sfi_greedy_make_room(&v->g, d)) {
                return false;
            }
            sfi_greedy_fill(&v->g, d, arrival(v, SF_PASS_F, (uint32_t)chunk, d), v->fill_f);
            put(v, SF_PASS_F, (uint32_t)chunk, d);
        }
    }
    return true;
}

static bool build(struct v *v, uint8_t *chunk_of) {
    sfi_greedy_reset(&v->g);
    if (!descend(v) || !level(v)) {
        return false;
    }
    for (uint32_t round = 0; round < 2 * v->m; round++) {
        if (!backwards(v, chunk_of) || !forwards(v)) {
            return false;
        }
    }
    sfi_greedy_finish(&v->g);
    return sfi_greedy_complete(&v->g);
}

int sfi_zb_v_greedy(const struct sfi_family *f, struct sfi_best *best, struct sf_err *err) {
    struct v v = {.p = f->spec.devices, .m = f->spec.microbatches};
    uint8_t *chunk_of = sf_calloc(v.p, 1);
    if (chunk_of == NULL) {
        return sf_fail_memory(err, "schedule");
    }
    int rc = sfi_greedy_create(f, true, &v.g, err);
    for (unsigned i = 0; i < (f->spec.published ? 1 : 4) && rc == 0; i++) {
        v.fill_f = (i & 1) == 0;
        v.fill_b = (i & 2) == 0;
        rc = build(&v, chunk_of) ? sfi_best_offer(best, &v.g, err) : 0;
    }
    sfi_greedy_clear(&v.g);
    sf_free(chunk_of);
    return rc;
}

int sfi_pipe_zb_v(const struct sfi_family *f, struct sf_pipe **out, struct sf_err *err) {
    struct sfi_best best = {0};
    int rc = sfi_zb_v_greedy(f, &best, err);
    if (rc == 0 && !f->spec.published) {
        rc = sfi_v_pattern_search(f, &best, err);
    }
    return sfi_best_take(f, &best, rc, out, err);
}
