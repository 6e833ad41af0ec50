/* Phase by phase. Passes are placed in time, so what a policy does in a phase does not change the phases before: first
 * the idling until the ramp is over is made small, which takes a fraction of a whole try, then that until all has
 * settled, then the rest with both kept, or changed a little. A search over all phases at once gets stuck here: a
 * better fill spoils a late phase that was made for the one before. */
#include <string.h>

#include "planner/synth_internal.h"

#define ONE(phase) (1u << (phase))
#define FILLS (ONE(SFI_FILL) | ONE(SFI_RAMP))
#define ENDS (ONE(SFI_LATE) | ONE(SFI_DRAIN))

struct stage {
    int through;
    uint32_t percent;  /* of the budget, until the end of this stage */
    uint32_t steps[4]; /* phases that a step changes, each of these bit sets in a quarter of the steps */
};

static const struct stage stages[] = {
    {SFI_RAMP, 15, {FILLS, FILLS, FILLS, ONE(SFI_RAMP)}},
    {SFI_SETTLE, 30, {ONE(SFI_SETTLE), ONE(SFI_SETTLE), ONE(SFI_SETTLE), FILLS | ONE(SFI_SETTLE)}},
    {SFI_DRAIN, 100, {ENDS, ENDS, ENDS | ONE(SFI_STEADY), ENDS | ONE(SFI_STEADY) | ONE(SFI_SETTLE)}},
};
#define SHARES 64 /* first tries of the first stage */
#define KNOWN 24  /* policies that are known, and a few more */
#define STAGES (sizeof stages / sizeof *stages)

struct descent {
    struct sfi_search_run *run;
    struct sfi_contender *c;
    const struct stage *at;
    uint32_t before; /* phases that earlier stages have made, a bit set */
    double floor;    /* their score: the idling they left stays */
    uint32_t known_n, tries;
    struct sfi_policy best;
    struct sfi_try best_try;
};

/* About as much memory for each chunk: what a device that turns a sweep around needs. */
static void share_memory(struct sf_rng *r, uint32_t chunks, struct sfi_policy *y) {
    double lead = 0.7 + 0.5 * sf_rng_unit(r), flow = 0.8 + 0.5 * sf_rng_unit(r);
    uint32_t phases = 1 + (uint32_t)(sf_rng_u64(r) & 1);
    for (uint32_t phase = 0; phase < phases; phase++) {
        y->flow[phase][0] = flow;
        y->lead[phase][0] = 2;
        for (uint32_t j = 1; j + 1 < chunks; j++) {
            y->flow[phase][j] = 0;
            y->lead[phase][j] = lead;
        }
    }
}

static void any_known(struct descent *d, uint64_t u, struct sfi_policy *y) {
    uint32_t n = 0;
    while (sfi_policy_known(d->c->s.chunks, n, y)) {
        n++;
    }
    *y = d->best;
    if (n > 0 && u & 1) {
        sfi_policy_known(d->c->s.chunks, (uint32_t)((u >> 1) % n), y);
    }
}

static void propose(struct descent *d, struct sfi_policy *y) {
    struct sf_rng *r = &d->c->rng;
    uint32_t chunks = d->c->s.chunks;
    d->tries++;
    if (sfi_policy_known(chunks, d->known_n, y)) {
        d->known_n++;
        sfi_policy_take(&d->best, d->before, y);
        return;
    }
    uint64_t u = sf_rng_u64(r);
    *y = d->best;
    if (d->before == 0 && (d->tries < SHARES || (u & 15) == 0)) {
        any_known(d, u >> 8, y);
        share_memory(r, chunks, y);
        return;
    }
    uint32_t phases = d->at->steps[u >> 8 & 3];
    if ((u & 15) == 1) {
        struct sfi_policy other;
        sfi_policy_random(r, chunks, &other);
        sfi_policy_take(&other, phases & (uint32_t)(u >> 16), y);
    } else {
        sfi_policy_step(r, chunks, phases, y);
    }
}

static bool is_done(const struct descent *d) {
    bool all_known = d->tries > KNOWN;
    return d->best_try.excess <= 0 || (all_known && d->at->through < SFI_DRAIN && d->best_try.score <= d->floor);
}

static void descend(struct descent *d, uint64_t until) {
    struct sfi_search_run *r = d->run;
    struct sfi_contender *c = d->c;
    uint32_t microbatches = sfi_try_microbatches(&c->s);
    sf_time_ps hopeless = SFI_NEVER / 4;
    r->passes += sfi_place(c->placer, &d->best, microbatches, d->at->through, hopeless, NULL, &d->best_try);
    d->known_n = d->tries = 0;
    while (r->passes < until && !sfi_search_over(r) && !is_done(d)) {
        struct sfi_policy y;
        struct sfi_try t;
        sf_time_ps most = d->best_try.excess == SFI_NEVER ? hopeless : d->best_try.excess;
        propose(d, &y);
        r->passes += sfi_place(c->placer, &y, microbatches, d->at->through, most, NULL, &t) + c->s.stages;
        r->evaluated++;
        if (t.excess != SFI_NEVER && t.score <= d->best_try.score) {
            d->best = y;
            d->best_try = t;
        }
    }
}

void sfi_synth_phases(struct sfi_search_run *r, struct sfi_contender *c, uint64_t budget, struct sfi_policy *best) {
    struct descent d = {.run = r, .c = c, .best = *best};
    uint64_t begin = r->passes;
    for (size_t i = 0; i < STAGES; i++) {
        d.at = &stages[i];
        descend(&d, begin + budget / 100 * d.at->percent);
        d.floor = d.best_try.score;
        d.before = (2u << d.at->through) - 1;
    }
    *best = d.best;
}
