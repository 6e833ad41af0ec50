/* Who gets how much of the budget: every placement a few tries, then fewer and fewer placements more and more. A try is
 * a random policy or, mostly, the placement's best one with a few changes. */
#include "core/arena.h"
#include "planner/synth_internal.h"

#define HOPELESS (SFI_NEVER / 4)

bool sfi_search_stopped(struct sfi_search_run *r) {
    if (r->limit_s > 0 && sf_ps_to_s(sf_clock_host.now(sf_clock_host.self) - r->host_start) > r->limit_s) {
        r->stopped = true;
    }
    r->stopped = r->stopped || (r->stop != NULL && r->stop());
    return r->stopped;
}

bool sfi_search_over(struct sfi_search_run *r) {
    return sfi_search_stopped(r) || r->passes >= r->budget;
}

uint32_t sfi_try_microbatches(const struct sfi_synth *s) {
    uint32_t enough = 4 * s->devices;
    return s->microbatches < enough ? s->microbatches : enough;
}

static sf_time_ps work(const struct sfi_contender *c) {
    return c->s.period * c->s.microbatches;
}

/* Nothing better is possible here. */
static bool finished(const struct sfi_contender *c) {
    return c->whole.excess != SFI_NEVER && work(c) + c->whole.excess <= c->bound;
}

static void try_whole(struct sfi_search_run *r, struct sfi_contender *c) {
    struct sfi_try t = c->elite_try[0];
    if (sfi_try_microbatches(&c->s) < c->s.microbatches) {
        r->passes += sfi_place(c->placer, &c->elite[0], c->s.microbatches, SFI_DRAIN, HOPELESS, NULL, &t);
    }
    if (t.excess != SFI_NEVER && t.excess < c->whole.excess) {
        c->whole = t;
        c->policy = c->elite[0];
        sf_pipe_free(c->given);
        c->given = NULL;
    }
}

/* Insert by score; an equal one is replaced, so that the elite drifts and stays diverse. Returns its place. */
static uint32_t keep_elite(struct sfi_contender *c, const struct sfi_policy *y, const struct sfi_try *t) {
    uint32_t at = 0;
    while (at < c->elites_n && c->elite_try[at].score < t->score) {
        at++;
    }
    if (at == SFI_ELITES) {
        return at;
    }
    if (at == c->elites_n || c->elite_try[at].score > t->score) {
        uint32_t last = c->elites_n < SFI_ELITES ? c->elites_n++ : SFI_ELITES - 1;
        for (uint32_t i = last; i > at; i--) {
            c->elite[i] = c->elite[i - 1];
            c->elite_try[i] = c->elite_try[i - 1];
        }
    }
    c->elite[at] = *y;
    c->elite_try[at] = *t;
    return at;
}

static void try_policy(struct sfi_search_run *r, struct sfi_contender *c, const struct sfi_policy *y) {
    struct sfi_try t;
    bool full = c->elites_n == SFI_ELITES;
    double before = c->elites_n > 0 ? c->elite_try[0].score : 1e300;
    sf_time_ps give_up = full ? c->elite_try[SFI_ELITES - 1].excess : HOPELESS;
    r->passes += sfi_place(c->placer, y, sfi_try_microbatches(&c->s), SFI_DRAIN, give_up, NULL, &t) + c->s.stages;
    r->evaluated++;
    if (t.excess != SFI_NEVER && keep_elite(c, y, &t) == 0 && t.score < before) {
        try_whole(r, c);
    }
}

static const struct sfi_policy *any_elite(struct sfi_contender *c) {
    return &c->elite[sf_rng_u64(&c->rng) % c->elites_n];
}

/* Half of the steps start from the best, the others from any of the elite; some cross it with another. */
static void vary(struct sfi_contender *c, struct sfi_policy *y) {
    uint64_t u = sf_rng_u64(&c->rng);
    *y = u & 1 ? *any_elite(c) : c->elite[0];
    if ((u >> 1 & 3) == 0) {
        sfi_policy_take(any_elite(c), (uint32_t)(u >> 8) % (1u << SFI_SYNTH_PHASES), y);
    }
    if (!sfi_has_all_phases(&c->s)) {
        sfi_policy_step(&c->rng, c->s.chunks, SFI_FEW_PHASES, y);
    } else if ((u >> 16 & 3) == 0 || !sfi_policy_step_together(&c->rng, c->s.chunks, y)) {
        sfi_policy_step(&c->rng, c->s.chunks, SFI_ALL_PHASES, y);
    }
}

static void next_try(struct sfi_search_run *r, struct sfi_contender *c, bool fresh) {
    struct sfi_policy y;
    if (!sfi_policy_known(c->s.chunks, c->known_n, &y)) {
        if (fresh || c->elites_n == 0) {
            sfi_policy_random(&c->rng, c->s.chunks, &y);
        } else {
            vary(c, &y);
        }
    } else {
        c->known_n++;
    }
    try_policy(r, c, &y);
}

/* Shorter, or with fewer chunks as short: less is sent. */
static bool beats(const struct sfi_contender *b, const struct sfi_contender *a) {
    if (b->whole.excess == SFI_NEVER || a->whole.excess == SFI_NEVER) {
        return b->whole.excess < a->whole.excess;
    }
    sf_time_ps span_a = work(a) + a->whole.excess, span_b = work(b) + b->whole.excess;
    return span_b < span_a || (span_b == span_a && b->s.chunks < a->s.chunks);
}

/* Bring the best `n` of the first `of` contenders to the front. */
static void select_best(struct sfi_contender **c, uint32_t of, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t j = of - 1; j > i; j--) {
            if (beats(c[j], c[j - 1])) {
                struct sfi_contender *t = c[j];
                c[j] = c[j - 1];
                c[j - 1] = t;
            }
        }
    }
}

/* Whether somebody in the race could still win clearly. */
static bool open(const struct sfi_search_run *r, uint32_t n) {
    const struct sfi_contender *lead = r->all[0];
    if (lead->whole.excess == SFI_NEVER) {
        return true;
    }
    double span = (double)(work(lead) + lead->whole.excess);
    for (uint32_t i = 0; i < n; i++) {
        if (span * (1 - r->gap) > (double)r->all[i]->bound && !finished(r->all[i])) {
            return true;
        }
    }
    return false;
}

/* Spend the budget up to `until` on the first n, in turn; `fresh` of 8 tries are random. */
static void play(struct sfi_search_run *r, uint32_t n, uint64_t until, uint32_t fresh) {
    while (r->passes < until && !sfi_search_over(r)) {
        select_best(r->all, n, 1);
        if (!open(r, n)) {
            return;
        }
        for (uint32_t i = 0; i < n && r->passes < until; i++) {
            for (uint32_t turn = 0; turn < 8 && !finished(r->all[i]) && !sfi_search_over(r); turn++) {
                next_try(r, r->all[i], turn < fresh);
            }
        }
    }
}

/* Phase by phase, from the best of all phases at once. */
static void play_phases(struct sfi_search_run *r, struct sfi_contender *c, uint32_t percent) {
    if (sfi_has_all_phases(&c->s) && c->bound > work(c) && !finished(c) && c->elites_n > 0 && !sfi_search_over(r)) {
        struct sfi_policy y = c->elite[0];
        sfi_synth_phases(r, c, r->budget / 100 * percent, &y);
        try_policy(r, c, &y);
    }
}

struct sfi_contender *sfi_synth_search(struct sfi_search_run *r) {
    static const struct {
        uint32_t contenders, percent, fresh, phases; /* the last: percent for each contender */
    } rounds[] = {{12, 20, 6, 0}, {4, 40, 3, 0}, {2, 60, 1, 17}, {1, 100, 0, 0}};
    for (size_t i = 0; i < sizeof rounds / sizeof *rounds && !sfi_search_over(r); i++) {
        uint32_t n = rounds[i].contenders < r->n ? rounds[i].contenders : r->n;
        if (i > 0) {
            select_best(r->all, r->n, n);
        }
        for (uint32_t j = 0; j < n && rounds[i].phases > 0; j++) {
            play_phases(r, r->all[j], rounds[i].phases);
        }
        play(r, n, r->budget / 100 * rounds[i].percent, rounds[i].fresh);
        select_best(r->all, r->n, 1);
        if (!open(r, r->n)) {
            break;
        }
    }
    select_best(r->all, r->n, r->n < SFI_FRONT ? r->n : SFI_FRONT); /* even if the search was stopped at once */
    return r->all[0]->whole.excess == SFI_NEVER ? NULL : r->all[0];
}
