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
    out->wait[2] = below(r, 2) ? pick(r, 0, 0.5) : 0;
    out->wait[3] = below(r, 2) ? pick(r, 0, 1) : 0;
    out->flow[0] = below(r, 5) > 0 ? pick(r, 0.8, 1.2) : 0;
    out->lead[0] = pick(r, 0.5, 2);
    for (uint32_t j = 1; j < chunks; j++) {
        out->flow[j] = below(r, 2) ? pick(r, 0, 1) : 0;
        out->lead[j] = below(r, 2) ? pick(r, 0, 1.2) : 0;
    }
}

static double shift(struct sf_rng *r, double value, double by) {
    value += pick(r, -by, by);
    return value > 0 ? value : 0;
}

static void step(struct sf_rng *r, uint32_t chunks, struct sfi_policy *y) {
    uint32_t what = below(r, 10), phase = below(r, SFI_SYNTH_PHASES);
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
        y->flow[chunk] = shift(r, y->flow[chunk], 0.2);
        y->lead[chunk] = shift(r, y->lead[chunk], chunk > 0 ? 0.1 : 0.5);
        break;
    }
    case 8:
        y->wait[phase] = shift(r, y->wait[phase], 0.25);
        break;
    case 9:
        y->reserve = below(r, 4);
    }
}

void sfi_policy_step(struct sf_rng *r, uint32_t chunks, struct sfi_policy *y) {
    for (uint32_t steps = 1 + below(r, 4); steps > 0; steps--) {
        step(r, chunks, y);
    }
}

void sfi_policy_take(const struct sfi_policy *other, uint32_t phases, struct sfi_policy *y) {
    for (int phase = 0; phase < SFI_SYNTH_PHASES; phase++) {
        if (phases & 1u << phase) {
            memcpy(y->key[phase], other->key[phase], sizeof y->key[phase]);
            y->age[phase] = other->age[phase];
            y->wait[phase] = other->wait[phase];
        }
    }
    if (phases & 1u << SFI_FILL) {
        y->reserve = other->reserve;
        memcpy(y->flow, other->flow, sizeof y->flow);
        memcpy(y->lead, other->lead, sizeof y->lead);
    }
}
