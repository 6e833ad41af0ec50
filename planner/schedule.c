/* Every schedule here has one shape: some warm-up forwards, then forward-backward pairs, then the backwards that are
 * left. They differ in the number of warm-up forwards and in the order in which chunks take their turns. */
#include "planner/schedule.h"

static int check_shape(int kind, uint32_t pp, uint32_t vpp, uint32_t microbatches, uint32_t stage, struct sf_err *err) {
    if (kind < 0 || kind >= SF_SCHEDULES_N) {
        return sf_fail(err, SF_E_INPUT, "schedule %d is unknown", kind);
    }
    if (pp == 0 || vpp == 0 || microbatches == 0 || stage >= pp || vpp > SF_MAX_STAGES || pp > SF_MAX_STAGES / vpp) {
        return sf_fail(err, SF_E_INPUT,
                       "a schedule needs pp, vpp and microbatches of at least 1, pp * vpp of at most %d and a stage "
                       "below pp, found pp %u, vpp %u, microbatches %u, stage %u",
                       SF_MAX_STAGES, pp, vpp, microbatches, stage);
    }
    if (kind != SF_SCHEDULE_INTERLEAVED && vpp != 1) {
        return sf_fail(err, SF_E_INPUT, "schedule %s has one chunk per stage, found vpp %u; use interleaved",
                       sf_schedule_name(kind), vpp);
    }
    if (kind == SF_SCHEDULE_INTERLEAVED && vpp < 2) {
        return sf_fail(err, SF_E_INPUT, "schedule interleaved needs vpp of at least 2, found %u; use 1f1b", vpp);
    }
    if (kind == SF_SCHEDULE_INTERLEAVED && microbatches % pp != 0) {
        return sf_fail(err, SF_E_INPUT,
                       "schedule interleaved needs microbatches to be a multiple of pp, found %u and %u", microbatches,
                       pp);
    }
    return 0;
}

static uint64_t min_u64(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static uint64_t warmup_forwards(int kind, uint32_t pp, uint32_t vpp, uint32_t microbatches, uint32_t stage) {
    uint64_t all = (uint64_t)microbatches * vpp;
    uint64_t behind = pp - 1 - stage;
    switch (kind) {
    case SF_SCHEDULE_1F1B:
        return min_u64(behind, all);
    case SF_SCHEDULE_INTERLEAVED:
        return microbatches == pp ? all : min_u64(2 * behind + (uint64_t)(vpp - 1) * pp, all);
    default:
        return all;
    }
}

/* The k-th forward or backward of a stage: chunks take turns of pp microbatches each, backwards from the last chunk. */
static struct sf_step step_at(int kind, uint32_t pp, uint32_t vpp, uint64_t k) {
    uint64_t round = k / ((uint64_t)pp * vpp), in_round = k % ((uint64_t)pp * vpp);
    uint32_t turn = (uint32_t)(in_round / pp);
    struct sf_step step = {
        .kind = (uint8_t)kind,
        .chunk = (uint16_t)(kind == SF_STEP_F ? turn : vpp - 1 - turn),
        .microbatch = (uint32_t)(round * pp + in_round % pp),
    };
    return step;
}

int sf_schedule_steps(int kind, uint32_t pp, uint32_t vpp, uint32_t microbatches, uint32_t stage, struct sf_step *out,
                      size_t out_n, struct sf_err *err) {
    SF_TRY(check_shape(kind, pp, vpp, microbatches, stage, err));
    uint64_t all = (uint64_t)microbatches * vpp;
    if (out_n != 2 * all) {
        return sf_fail(err, SF_E_INTERNAL, "schedule: %llu steps do not fit an array of %zu",
                       (unsigned long long)(2 * all), out_n);
    }
    /* A single chunk takes its turns microbatch by microbatch, whatever pp. */
    uint32_t turn = vpp == 1 ? 1 : pp;
    uint64_t forwards = 0, backwards = 0, n = 0;
    for (uint64_t warmup = warmup_forwards(kind, pp, vpp, microbatches, stage); forwards < warmup; forwards++) {
        out[n++] = step_at(SF_STEP_F, turn, vpp, forwards);
    }
    while (backwards < all) {
        if (forwards < all) {
            out[n++] = step_at(SF_STEP_F, turn, vpp, forwards++);
        }
        out[n++] = step_at(SF_STEP_B, turn, vpp, backwards++);
    }
    return 0;
}

uint32_t sf_schedule_peak(const struct sf_step *steps, size_t n) {
    uint32_t alive = 0, peak = 0;
    for (size_t i = 0; i < n; i++) {
        alive = steps[i].kind == SF_STEP_F ? alive + 1 : alive - 1;
        peak = alive > peak ? alive : peak;
    }
    return peak;
}
