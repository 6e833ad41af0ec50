/* Small problems: the best placement is searched to the end, and then the others that could still be better, which
 * raises what is known of any placement. */
#include <string.h>

#include "core/arena.h"
#include "planner/synth_internal.h"

#define STEP_SHARE 10 /* a step of the exhaustive search takes as long as placing one in ten of all passes */
#define FIRST_SHARE 3

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
static uint64_t step_cost(const struct sfi_contender *c) {
    return 1 + (uint64_t)SFI_SYNTH_KINDS * c->s.stages * c->s.microbatches / STEP_SHARE;
}

/* Can this placement beat *span? Its schedule and its bound are set by the answer. Takes what it uses from *left. */
static int solve(struct sfi_search_run *r, struct sfi_contender *c, uint64_t share, struct sfi_exact *e,
                 sf_time_ps *span, uint64_t *left, struct sf_err *err) {
    *e = (struct sfi_exact){.span = *span, .steps = share / step_cost(c) + 1, .run = r};
    SF_TRY(sfi_exact(&c->s, c->bound, e, err));
    uint64_t used = e->steps * step_cost(c);
    r->passes += used;
    *left -= used < *left ? used : *left;
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

static bool is_open(const struct sfi_contender *c, sf_time_ps span) {
    return c->bound < span && sfi_exact_fits(&c->s);
}

static uint32_t open_from(const struct sfi_search_run *r, uint32_t from, sf_time_ps span) {
    uint32_t n = 0;
    for (uint32_t i = from; i < r->n; i++) {
        n += is_open(r->all[i], span);
    }
    return n;
}

static void put_in_front(struct sfi_search_run *r, struct sfi_contender *winner) {
    uint32_t at = 0;
    while (r->all[at] != winner) {
        at++;
    }
    r->all[at] = r->all[0];
    r->all[0] = winner;
}

/* Each gets a part of what is left, the winner at least FIRST_SHARE; what some do not need others get in the second
 * round. */
static int solve_all(struct sfi_search_run *r, struct sfi_exact *e, struct sfi_contender **winner, struct sf_err *err) {
    uint64_t left = r->small_budget;
    sf_time_ps span = work(*winner) + (*winner)->whole.excess;
    for (int round = 0; round < 2 && left > 0 && !r->stopped && open_from(r, 0, span) > 0; round++) {
        put_in_front(r, *winner);
        for (uint32_t i = 0; i < r->n && left > 0 && !r->stopped; i++) {
            struct sfi_contender *c = r->all[i];
            sf_time_ps before = span;
            if (is_open(c, span)) {
                uint32_t n = open_from(r, i, span);
                uint64_t share = left / (i == 0 && n > FIRST_SHARE ? FIRST_SHARE : n);
                SF_TRY(solve(r, c, share, e, &span, &left, err));
                *winner = span < before ? c : *winner;
            }
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
