/* Policies: where the search starts from, and its steps. */
#include <string.h>

#include "planner/synth_internal.h"

static double pick(struct sf_rng *r, double lo, double hi) {
    return lo + (hi - lo) * sf_rng_unit(r);
}

static uint32_t below(struct sf_rng *r, uint32_t n) {
    return (uint32_t)(sf_rng_u64(r) % n);
}

/* Orders of F and B that are sensible by themselves; W last in all of them. */
static void set_keys(struct sf_rng *r, uint32_t chunks, double (*key)[SF_SYNTH_MAX_CHUNKS], uint32_t order) {
    for (uint32_t j = 0; j < chunks; j++) {
        double late = -0.01 * j, f, b = 1 + late;
        switch (order) {
        case 0: /* backward first, of the chunk nearest the loss */
            f = 2 + late;
            break;
        case 1: /* backward first, of the chunk that finishes a microbatch */
            f = 2 + late;
            b = 1 - late;
            break;
        case 2: /* forward first */
            f = 0.5 + late;
            break;
        case 3:
            f = 0.5 + late;
            b = 1 - late;
            break;
        case 4: /* new microbatches last */
            f = j > 0 ? 0.9 + late : 2;
            break;
        default:
            f = pick(r, 0, 2);
            b = pick(r, 0, 2);
        }
        key[SF_PASS_F][j] = f;
        key[SF_PASS_B][j] = b;
        key[SF_PASS_W][j] = 5 + late;
    }
}

void sfi_policy_random(struct sf_rng *r, uint32_t chunks, struct sfi_policy *out) {
    *out = (struct sfi_policy){.reserve = below(r, 3)};
    uint32_t order = below(r, 6);
    for (int phase = 0; phase < SFI_SYNTH_PHASES; phase++) {
        set_keys(r, chunks, out->key[phase], phase == 0 ? 2 : order);
        out->age[phase] = phase > 0 && below(r, 3) == 0 ? pick(r, 0, 1) : 0;
    }
    out->wait[0] = below(r, 3) ? 1.05 : pick(r, 0, 1);
    out->wait[1] = below(r, 2) ? pick(r, 0, 0.5) : 0;
    out->wait[2] = out->wait[1];
    out->wait[3] = below(r, 2) ? pick(r, 0, 0.5) : 0;
    out->wait[4] = out->wait[3];
    out->wait[5] = below(r, 2) ? pick(r, 0, 1) : 0;
    out->flow[0][0] = below(r, 5) > 0 ? pick(r, 0.8, 1.2) : 0;
    out->lead[0][0] = pick(r, 0.5, 2);
    for (uint32_t j = 1; j < chunks; j++) {
        out->flow[0][j] = below(r, 2) ? pick(r, 0, 1) : 0;
        out->lead[0][j] = below(r, 2) ? pick(r, 0, 1.2) : 0;
    }
    for (int phase = 1; phase < SFI_SYNTH_PHASES; phase++) {
        memcpy(out->flow[phase], out->flow[0], sizeof out->flow[0]);
        memcpy(out->lead[phase], out->lead[0], sizeof out->lead[0]);
    }
}

static double shift(struct sf_rng *r, double value, double by) {
    value += pick(r, -by, by);
    return value > 0 ? value : 0;
}

/* One of a bit set. */
static int any_phase(struct sf_rng *r, uint32_t phases) {
    uint32_t skip = below(r, (uint32_t)__builtin_popcount(phases));
    for (; skip > 0; skip--) {
        phases &= phases - 1;
    }
    return __builtin_ctz(phases);
}

static void step(struct sf_rng *r, uint32_t chunks, uint32_t phases, struct sfi_policy *y) {
    uint32_t what = below(r, 10);
    int phase = any_phase(r, phases);
    switch (what) {
    default: { /* half of the steps */
        uint32_t kind = below(r, SFI_SYNTH_KINDS), chunk = below(r, chunks);
        double by = below(r, 3) == 0 ? 2 : 0.25;
        y->key[phase][kind][chunk] += pick(r, -by, by);
        break;
    }
    case 5:
        y->age[phase] = below(r, 3) == 0 ? 0 : shift(r, y->age[phase], 0.15);
        break;
    case 6:
    case 7: {
        uint32_t chunk = below(r, chunks);
        y->flow[phase][chunk] = shift(r, y->flow[phase][chunk], 0.2);
        y->lead[phase][chunk] = shift(r, y->lead[phase][chunk], chunk > 0 ? 0.1 : 0.5);
        break;
    }
    case 8:
        y->wait[phase] = shift(r, y->wait[phase], 0.25);
        break;
    case 9:
        y->reserve = phases & 1u << SFI_FILL ? below(r, 4) : y->reserve;
    }
}

void sfi_policy_step(struct sf_rng *r, uint32_t chunks, uint32_t phases, struct sfi_policy *y) {
    for (uint32_t steps = 1 + below(r, 4); steps > 0; steps--) {
        step(r, chunks, phases, y);
    }
}

static bool same_phase(const struct sfi_policy *y, int a, int b) {
    return memcmp(y->key[a], y->key[b], sizeof y->key[a]) == 0 &&
           memcmp(y->flow[a], y->flow[b], sizeof y->flow[a]) == 0 &&
           memcmp(y->lead[a], y->lead[b], sizeof y->lead[a]) == 0 &&
           memcmp(&y->age[a], &y->age[b], sizeof y->age[a]) == 0 &&
           memcmp(&y->wait[a], &y->wait[b], sizeof y->wait[a]) == 0;
}

static void copy_phase(const struct sfi_policy *from, int a, struct sfi_policy *to, int b) {
    memcpy(to->key[b], from->key[a], sizeof to->key[b]);
    memcpy(to->flow[b], from->flow[a], sizeof to->flow[b]);
    memcpy(to->lead[b], from->lead[a], sizeof to->lead[b]);
    to->age[b] = from->age[a];
    to->wait[b] = from->wait[a];
}

bool sfi_policy_step_together(struct sf_rng *r, uint32_t chunks, struct sfi_policy *y) {
    if (!same_phase(y, SFI_STEADY, SFI_SETTLE) || !same_phase(y, SFI_STEADY, SFI_LATE)) {
        return false;
    }
    sfi_policy_step(r, chunks, SFI_FEW_PHASES, y);
    copy_phase(y, SFI_STEADY, y, SFI_SETTLE);
    copy_phase(y, SFI_STEADY, y, SFI_LATE);
    return true;
}

void sfi_policy_take(const struct sfi_policy *other, uint32_t phases, struct sfi_policy *y) {
    for (int phase = 0; phase < SFI_SYNTH_PHASES; phase++) {
        if (phases & 1u << phase) {
            copy_phase(other, phase, y, phase);
        }
    }
    if (phases & 1u << SFI_FILL) {
        y->reserve = other->reserve;
    }
}
