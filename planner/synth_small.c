/* Small problems: the best placement is searched to the end, and then the others that could still be better, which
 * raises what is known of any placement. */
#include <string.h>

#include "core/arena.h"
#include "planner/synth_internal.h"

#define STEP 8 /* a step of the exhaustive search takes as long as placing this many passes */

static sf_time_ps work(const struct sfi_contender *c) {
    return c->s.period * c->s.microbatches;
}

static int keep_table(struct sfi_contender *c, const struct sfi_exact *e, struct sf_err *err) {
    const struct sfi_synth *s = &c->s;
    struct sf_pipe *p;
    SF_TRY(sf_pipe_create(s->devices, s->stages, s->microbatches, 1, &p, err));
    memcpy(p->device_of, s->device_of, s->stages * sizeof *s->device_of);
    for (uint32_t i = 0; i < 3 * s->stages * s->microbatches; i++) {
        const struct sf_pass *x = &e->best[i];
        sf_pipe_push(p, s->device_of[x->stage], (enum sf_pass_kind)x->kind, x->stage, x->microbatch, 0);
    }
    sf_pipe_free(c->given);
    c->given = p;
    c->family = -1;
    c->whole = (struct sfi_try){.excess = e->span - work(c)};
    return 0;
}

/* Can this placement beat *span? Its schedule and its bound are set by the answer. */
static int solve(struct sfi_search_run *r, struct sfi_contender *c, uint64_t steps, struct sfi_exact *e,
                 sf_time_ps *span, struct sf_err *err) {
    *e = (struct sfi_exact){.span = *span, .steps = steps};
    SF_TRY(sfi_exact(&c->s, c->bound, e, err));
    r->passes += e->steps * STEP;
    if (e->span < *span) {
        SF_TRY(keep_table(c, e, err));
        *span = e->span;
    }
    if (e->proven && *span > c->bound) {
        c->bound = *span;
        c->why = (struct sf_bound_why){.reason = SF_BOUND_SEARCH};
    }
    return 0;
}

static uint32_t undecided(const struct sfi_search_run *r, uint32_t from, sf_time_ps span) {
    uint32_t n = 0;
    for (uint32_t i = from; i < r->n; i++) {
        n += r->all[i]->bound < span;
    }
    return n;
}

static int solve_all(struct sfi_search_run *r, struct sfi_exact *e, struct sfi_contender **winner, struct sf_err *err) {
    uint64_t steps = r->small_budget / STEP, used = 0;
    sf_time_ps span = work(*winner) + (*winner)->whole.excess;
    for (uint32_t i = 0; i < r->n && used < steps; i++) { /* the winner is in front */
        struct sfi_contender *c = r->all[i];
        sf_time_ps before = span;
        if (c->bound < span && sfi_exact_fits(&c->s)) {
            uint64_t mine = i == 0 ? steps / 2 : (steps - used) / undecided(r, i, span) + 1;
            SF_TRY(solve(r, c, mine, e, &span, err));
            used += e->steps;
            *winner = span < before ? c : *winner;
        }
    }
    return 0;
}

int sfi_synth_small(struct sfi_search_run *r, struct sfi_contender **winner, struct sf_err *err) {
    struct sfi_exact *e = sf_calloc(1, sizeof *e);
    if (e == NULL) {
        return sf_fail_memory(err, "schedule search");
    }
    int rc = solve_all(r, e, winner, err);
    sf_free(e);
    return rc;
}
