/* The best candidates, simulated: in batches, which threads share, and then on other seats. Whom a batch takes is
 * decided by what is known before it, and its results count in the order of the candidates, however many threads there
 * are. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/arena.h"
#include "planner/placement.h"
#include "planner/search_internal.h"

#define BATCH 16
#define PROGRAMS_TRIED 3 /* to find how many layers recompute */
#define SHARED_RATIO 4   /* ops of a pass with zero 2 or 3 over those with 0 or 1 */
#define MOST_RATIO 2.0   /* of a simulated time over its estimate, or the other way, that counts */

static bool better(const struct sf_plan_result *a, const struct sf_plan_result *b) {
    if (a->merit.worth_s < b->merit.worth_s || a->merit.worth_s > b->merit.worth_s) {
        return a->merit.worth_s < b->merit.worth_s;
    }
    if (a->sim.step_time != b->sim.step_time) {
        return a->sim.step_time < b->sim.step_time;
    }
    if (a->plan.offload != b->plan.offload) { /* what is as quick without copies needs none */
        return a->plan.offload < b->plan.offload;
    }
    return a->sim.peak_memory_bytes < b->sim.peak_memory_bytes;
}

/* But for its seats, for what chance decided in a table that was made for it, and for how it was made to fit: the cut,
 * and how many layers recompute or are on the host. */
static bool same_plan(const struct sf_plan *a, const struct sf_plan *b) {
    return a->gpus == b->gpus && a->tp == b->tp && sf_plan_cp(a) == sf_plan_cp(b) && a->ep == b->ep && a->pp == b->pp &&
           a->vpp == b->vpp && a->micro_batch == b->micro_batch && a->schedule == b->schedule &&
           a->recompute == b->recompute && a->zero == b->zero && sf_plan_sharers(a) == sf_plan_sharers(b) &&
           sf_plan_etp(a) == sf_plan_etp(b) && sf_plan_slices(a) == sf_plan_slices(b) && a->cp_gather == b->cp_gather &&
           a->whole_rows == b->whole_rows && a->split_head == b->split_head && a->partly == b->partly &&
           a->recompute_rest == b->recompute_rest;
}

/* Choices that change no op and no time are none. */
static bool same_run(const struct sf_plan_result *a, const struct sf_plan_result *b) {
    return a->sim.step_time == b->sim.step_time && sf_hash_equal(a->sim.digest, b->sim.digest);
}

/* Results arrive in the order of their estimates; equals keep it. Every plan is there once, on its best seats; the
 * quick start's comes again. */
static void insert_result(const struct sf_plan_result *r, struct sf_plan_result *results, uint32_t room, uint32_t *n) {
    for (uint32_t i = 0; i < *n; i++) {
        if (same_plan(&r->plan, &results[i].plan) || same_run(r, &results[i])) {
            if (!better(r, &results[i])) {
                return;
            }
            memmove(&results[i], &results[i + 1], (--*n - i) * sizeof *results);
            i--;
        }
    }
    if (*n == room && !better(r, &results[*n - 1])) {
        return;
    }
    uint32_t at = *n < room ? (*n)++ : *n - 1;
    for (; at > 0 && better(r, &results[at - 1]); at--) {
        results[at] = results[at - 1];
    }
    results[at] = *r;
}

static void set_worth(const struct sfi_search *s, struct sf_plan_result *r) {
    r->merit.worth_s = sfi_worth_s(s->scenario, s->options->objective, &r->merit, sf_ps_to_s(r->sim.step_time));
}

/* ---- batches ----------------------------------------------------------------------------------------------------- */

struct job { /* one plan to simulate */
    const struct sfi_candidate *candidate;
    struct sf_plan plan;
    bool fitted; /* which of its layers recompute is known */
    struct sf_plan_result result;
    int rc;
    struct sf_err err;
};

struct batch {
    uint32_t n;
    struct job job[BATCH];
};

/* What recomputes need not be copied: where the host's link is the slower way, it pays to recompute all that would
 * wait there. Instead of `job` where that is better. */
static void try_fewer_copies(struct sfi_search *part, struct job *job) {
    struct sf_plan plan = job->plan;
    for (uint32_t v = 0; v < plan.pp * plan.vpp; v++) {
        bool all = plan.recompute_layers[v] >= plan.offload;
        plan.recompute_layers[v] = all ? plan.recompute_layers[v] : plan.offload;
    }
    if (memcmp(plan.recompute_layers, job->plan.recompute_layers, sizeof plan.recompute_layers) == 0) {
        return;
    }
    struct sf_plan_result *other = sf_malloc(sizeof *other);
    struct sf_err err = {0};
    if (other != NULL && sfi_evaluate_tuned(part, part->scenario, &plan, other, &err) == 0 &&
        (job->rc != 0 || better(other, &job->result))) {
        job->plan = plan;
        job->result = *other;
        job->rc = 0;
    }
    sf_free(other);
}

static int run_job(struct sfi_search *part, size_t i, void *items, struct sf_err *err) {
    struct job *job = &((struct batch *)items)->job[i];
    (void)err;
    sfi_stand_on(part, job->candidate->group.number);
    if (sfi_stopped(part)) {
        job->rc = SF_E_INTERRUPTED;
        return 0;
    }
    job->rc = job->fitted ? 0 : sfi_again_plan(part, &job->plan, &job->err);
    if (job->rc == 0) {
        job->rc = sfi_evaluate_tuned(part, part->scenario, &job->plan, &job->result, &job->err);
        if (!job->fitted && job->plan.partly && job->plan.offload > 0 && part->scenario->pins.recompute_layers == 0) {
            try_fewer_copies(part, job);
        }
    }
    return 0;
}

static int run_batch(struct sfi_search *s, struct batch *b, struct sf_err *err) {
    SF_TRY(sfi_search_share(s, b->n, run_job, b, err));
    for (uint32_t i = 0; i < b->n; i++) {
        struct job *job = &b->job[i];
        if (job->rc == 0) {
            job->result.estimate_s = job->candidate->estimate_s / sfi_scaled(s, job->candidate->group.number, 1);
            set_worth(s, &job->result);
            sfi_note_number(s, &job->result);
            s->most_events = job->result.sim.events > s->most_events ? job->result.sim.events : s->most_events;
        } else if (job->rc == SF_E_INTERRUPTED) {
            sfi_leave_out(s, job->candidate->least_s);
        }
    }
    return 0;
}

/* As many as are likely to be within so many events. */
static uint32_t within(const struct sfi_search *s, uint64_t events) {
    uint64_t n = s->most_events > 0 ? 1 + (events - 1) / s->most_events : 1;
    return n < BATCH ? (uint32_t)n : BATCH;
}

static void spend(uint64_t *left, uint64_t events) {
    *left -= events < *left ? events : *left;
}

/* Cannot get among the results any more. */
static bool beaten(const struct sfi_search *s, const struct sfi_candidate *c, const struct sf_plan_result *results,
                   uint32_t results_n) {
    return results_n == s->room && c->least_s >= results[s->room - 1].merit.worth_s;
}

/* ---- other seats ------------------------------------------------------------------------------------------------- */

struct seats { /* of the plans of a batch, one after the other */
    const struct batch *of;
    uint32_t job, at, n;
    struct sf_placement place[SF_PLACEMENTS_MOST];
};

static bool next_plan(const struct sfi_search *s, struct seats *seats) {
    while (seats->at >= seats->n && seats->job < seats->of->n) {
        const struct job *job = &seats->of->job[seats->job++];
        seats->n = job->rc == 0 ? sf_placements(sfi_scenario_of(s, &job->plan), &job->plan, seats->place) : 0;
        seats->at = 1; /* the first is the plan's own */
    }
    return seats->at < seats->n;
}

/* What nobody has time for is left open. */
static void gather_seats(struct sfi_search *s, struct seats *seats, const struct sf_plan_result *results,
                         uint32_t results_n, struct batch *out) {
    out->n = 0;
    while (next_plan(s, seats) && (out->n == 0 || out->n < within(s, s->effort.placing))) {
        const struct job *base = &seats->of->job[seats->job - 1];
        if (s->effort.placing == 0 || s->stats->stopped || beaten(s, base->candidate, results, results_n)) {
            sfi_leave_out(s, base->candidate->least_s);
            seats->at = seats->n;
            continue;
        }
        struct job *job = &out->job[out->n++];
        job->candidate = base->candidate;
        job->plan = base->plan;
        job->fitted = true;
        job->plan.order = seats->place[seats->at].order;
        job->plan.ranks_per_domain = seats->place[seats->at++].ranks_per_domain;
    }
}

static int take_seats(struct sfi_search *s, const struct batch *b, struct sf_plan_result *results, uint32_t *results_n,
                      struct sf_err *err) {
    for (uint32_t i = 0; i < b->n; i++) {
        const struct job *job = &b->job[i];
        if (job->rc == 0) {
            s->stats->placements++;
            spend(&s->effort.placing, job->result.sim.events);
            insert_result(&job->result, results, s->room, results_n);
        } else if (job->rc != SF_E_INPUT && job->rc != SF_E_NOPLAN && job->rc != SF_E_INTERRUPTED) {
            return sfi_pass_on(&job->err, job->rc, err);
        }
    }
    return 0;
}

static int try_seats(struct sfi_search *s, const struct batch *plans, struct batch *scratch,
                     struct sf_plan_result *results, uint32_t *results_n, struct sf_err *err) {
    struct seats seats = {.of = plans};
    do {
        gather_seats(s, &seats, results, *results_n, scratch);
        SF_TRY(run_batch(s, scratch, err));
        SF_TRY(take_seats(s, scratch, results, results_n, err));
        sfi_stopped(s);
    } while (scratch->n > 0);
    return 0;
}

/* ---- candidates -------------------------------------------------------------------------------------------------- */

/* Large programs get fewer simulations, but as many as there are answers wanted. */
static bool spent(const struct sfi_search *s, uint32_t results_n) {
    bool large = s->effort.events == 0 || s->effort.compiling == 0;
    return s->effort.simulations == 0 || (large && results_n >= s->effort.answers);
}

/* Programs grow with their passes, and where gradients are shared every pass has more ops. Where it is open which of
 * the layers recompute, several are compiled to find out. */
static uint64_t compiling_of(const struct sfi_search *s, const struct sfi_candidate *c) {
    const struct sfi_group *g = &c->group;
    const struct sf_job *job = &sfi_number_scenario(s, g->number)->job;
    uint64_t microbatches = job->global_batch_sequences * g->tp * g->cp * g->pp / job->gpus / g->micro_batch;
    uint64_t passes = microbatches * g->slices * g->vpp * g->pp;
    return passes * (c->zero >= 2 ? SHARED_RATIO : 1) * (g->partly ? PROGRAMS_TRIED : 1);
}

/* Its estimate, corrected by what simulations have said of estimates of its kind. */
static double expected_s(const struct sfi_ranked *best) {
    double ratio = best->simulated > 0 ? best->ratios / best->simulated : 1;
    return best->of[best->next].estimate_s * ratio;
}

static const struct sfi_candidate *next_best(struct sfi_search *s) {
    struct sfi_ranked *first = NULL;
    for (uint32_t i = 0; i < SFI_RANKINGS; i++) {
        struct sfi_ranked *best = &s->best[i];
        if (s->probing && i / SFI_SHARINGS != s->number) {
            continue;
        }
        if (best->next < best->n && (first == NULL || expected_s(best) < expected_s(first))) {
            first = best;
        }
    }
    return first != NULL ? &first->of[first->next++] : NULL;
}

static void learn(struct sfi_search *s, const struct job *job) {
    struct sfi_ranked *best = &s->best[sfi_ranking(job->candidate)];
    double ratio = sf_ps_to_s(job->result.sim.step_time) / job->result.estimate_s;
    best->ratios += fmin(fmax(ratio, 1.0 / MOST_RATIO), MOST_RATIO);
    best->simulated++;
}

/* False: there is none any more. */
static bool gather_best(struct sfi_search *s, uint32_t most, const struct sf_plan_result *results, uint32_t results_n,
                        struct batch *out) {
    uint32_t lacking = results_n < s->effort.answers ? s->effort.answers - results_n : 1;
    uint32_t room = s->effort.events > 0 ? within(s, s->effort.events) : lacking;
    room = room < most ? room : most;
    out->n = 0;
    while (out->n < room && (out->n == 0 || s->effort.compiling > 0)) {
        if (s->probing && spent(s, results_n)) {
            return out->n > 0;
        }
        const struct sfi_candidate *c = next_best(s);
        if (c == NULL) {
            return out->n > 0;
        }
        if (spent(s, results_n) || s->stats->stopped || beaten(s, c, results, results_n)) {
            s->stats->passed_over++;
            sfi_leave_out(s, c->least_s);
        } else {
            out->job[out->n++].candidate = c;
            s->effort.simulations--;
            spend(&s->effort.compiling, compiling_of(s, c));
        }
    }
    return true;
}

static int make_plans(struct sfi_search *s, struct batch *b, struct sf_err *err) {
    for (uint32_t i = 0; i < b->n; i++) {
        struct job *job = &b->job[i];
        job->fitted = !job->candidate->group.partly;
        SF_TRY(sfi_candidate_plan(s, job->candidate, &job->plan, err));
        snprintf(job->plan.scenario, sizeof job->plan.scenario, "%s", s->scenario->path);
        if (job->candidate->group.schedule == SF_SCHEDULE_TABLE) {
            snprintf(job->plan.schedule_file, sizeof job->plan.schedule_file, "%s", s->scenario->pins.schedule_file);
        }
    }
    return 0;
}

static int refuse(struct sfi_search *s, struct job *job, struct sf_err *err) {
    const struct sf_plan *p = &job->plan;
    if (job->rc == SF_E_NOPLAN) {
        bool again = s->effort.refusals > 0 && s->effort.compiling > 0; /* it took little time */
        s->effort.refusals -= again ? 1 : 0;
        s->effort.simulations += again ? 1 : 0;
        s->stats->too_large++;
        sfi_refuse(s, SFI_RULE_MEMORY);
        return 0;
    }
    sf_err_wrap(&job->err, "tp %u, cp %u, ep %u, pp %u, vpp %u, micro_batch %u, %s", p->tp, p->cp, p->ep, p->pp, p->vpp,
                p->micro_batch, sf_schedule_name(job->candidate->group.schedule));
    if (job->rc == SF_E_INPUT) {
        s->program_err = s->refused[SFI_RULE_PROGRAM] == 0 ? job->err : s->program_err;
        sfi_refuse(s, SFI_RULE_PROGRAM);
        return 0;
    }
    return sfi_pass_on(&job->err, job->rc, err);
}

static int take_results(struct sfi_search *s, struct batch *b, struct sf_plan_result *results, uint32_t *results_n,
                        struct sf_err *err) {
    for (uint32_t i = 0; i < b->n; i++) {
        struct job *job = &b->job[i];
        if (job->rc == 0) {
            s->stats->simulated++;
            spend(&s->effort.events, job->result.sim.events);
            learn(s, job);
            insert_result(&job->result, results, s->room, results_n);
        } else if (job->rc != SF_E_INTERRUPTED) {
            SF_TRY(refuse(s, job, err));
        }
    }
    if (s->stats->simulated > 0 && !(s->stats->first_plan_s > 0)) {
        s->stats->first_plan_s = sf_ps_to_s(sf_clock_host.now(sf_clock_host.self) - s->start);
    }
    return 0;
}

int sfi_simulate_best(struct sfi_search *s, struct sf_plan_result *results, uint32_t *results_n, struct sf_err *err) {
    struct batch *plans = sf_malloc(2 * sizeof *plans);
    int rc = plans == NULL ? sf_fail_memory(err, "simulations") : 0;
    uint64_t before = s->stats->simulated;
    uint32_t most = 2, simulations = s->effort.simulations;
    double first = s->done;
    while (rc == 0 && gather_best(s, most, results, *results_n, plans)) {
        rc = make_plans(s, plans, err);
        rc = rc == 0 ? run_batch(s, plans, err) : rc;
        rc = rc == 0 ? take_results(s, plans, results, results_n, err) : rc;
        rc = rc == 0 ? try_seats(s, plans, plans + 1, results, results_n, err) : rc;
        s->done = first + (1 - first) * (double)(s->stats->simulated - before) / simulations;
        most = 2 * most < BATCH ? 2 * most : BATCH;
        sfi_stopped(s);
    }
    sf_free(plans);
    return rc;
}
