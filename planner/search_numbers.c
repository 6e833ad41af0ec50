/* The number of GPUs as one more choice. Each number has lists of its own (what divides it) and a copy of the scenario
 * that differs in nothing else; what is known of degrees, bounds and effort are everybody's. */
#include <math.h>
#include <stdlib.h>

#include "core/arena.h"
#include "planner/search_internal.h"

struct sfi_number {
    struct sf_scenario scenario; /* shares everything with the whole one */
    struct sfi_space own;
    const struct sfi_space *space;
    double scale; /* from a step's time to what it is worth, at the least, on the job's GPUs */
};

static int add_number(struct sfi_search *s, uint32_t gpus, struct sf_err *err) {
    struct sfi_number *n = &s->numbers[s->numbers_n];
    n->scenario = *s->whole;
    n->scenario.job.gpus = gpus;
    n->space = &n->own;
    n->scale = sfi_worth_scale(s->whole, s->options->objective, gpus);
    SF_TRY(sfi_space_init(&n->scenario, &n->own, err));
    s->stats->numbers[s->numbers_n++] = (struct sf_search_number){.gpus = gpus};
    return 0;
}

int sfi_numbers_create(struct sfi_search *s, struct sf_err *err) {
    uint32_t fewer[SF_SEARCH_NUMBERS - 1], n = 0;
    bool free_choice = s->whole->job.fewer && !s->options->quick;
    s->numbers = sf_calloc(SF_SEARCH_NUMBERS, sizeof *s->numbers);
    if (s->numbers == NULL) {
        return sf_fail_memory(err, "search");
    }
    int rc = add_number(s, s->whole->job.gpus, err);
    n = free_choice && (rc == 0 || rc == SF_E_NOPLAN) ? sf_search_counts(s->whole, SF_SEARCH_NUMBERS - 1, fewer) : 0;
    for (uint32_t i = 0; i < n; i++) {
        int one = add_number(s, fewer[i], NULL);
        if (one != 0 && one != SF_E_NOPLAN) {
            return sf_fail(err, one, "%u GPUs cannot be searched", fewer[i]);
        }
    }
    s->stats->numbers_n = s->numbers_n;
    if (s->numbers_n == 0) {
        return rc;
    }
    sfi_stand_back(s);
    return 0;
}

void sfi_numbers_free(struct sfi_search *s) {
    sf_free(s->numbers);
    s->numbers = NULL;
}

void sfi_stand_on(struct sfi_search *s, uint32_t number) {
    if (s->numbers != NULL) {
        s->number = number;
        s->scenario = s->base.scenario = &s->numbers[number].scenario;
        s->space = s->numbers[number].space;
    }
}

void sfi_stand_back(struct sfi_search *s) {
    if (s->numbers != NULL) {
        s->number = 0;
        s->scenario = s->base.scenario = s->whole;
        s->space = s->numbers[0].space;
    }
}

const struct sf_scenario *sfi_number_scenario(const struct sfi_search *s, uint32_t number) {
    return s->numbers != NULL ? &s->numbers[number].scenario : s->scenario;
}

uint32_t sfi_numbers_narrow(struct sfi_search *s, const struct sfi_space *space) {
    uint32_t n = s->numbers_n;
    s->space = s->numbers[0].space = space;
    s->numbers_n = 1;
    return n;
}

void sfi_numbers_widen(struct sfi_search *s, uint32_t numbers_n) {
    s->numbers_n = numbers_n;
    s->space = s->numbers[0].space = &s->numbers[0].own;
}

const struct sf_scenario *sfi_scenario_of(const struct sfi_search *s, const struct sf_plan *plan) {
    for (uint32_t i = 0; i < s->numbers_n && plan->gpus > 0; i++) {
        if (s->numbers[i].scenario.job.gpus == plan->gpus) {
            return &s->numbers[i].scenario;
        }
    }
    return s->whole != NULL ? s->whole : s->scenario;
}

double sfi_scaled(const struct sfi_search *s, uint32_t number, double step_s) {
    return s->numbers != NULL ? step_s * s->numbers[number].scale : step_s;
}

uint64_t sfi_numbers_points(const struct sfi_search *s) {
    uint64_t points = 0;
    for (uint32_t i = 0; i < s->numbers_n; i++) {
        if (__builtin_add_overflow(points, sfi_space_points(s->numbers[i].space), &points)) {
            return UINT64_MAX;
        }
    }
    return points;
}

double sfi_arithmetic_s(const struct sfi_search *s, const struct sf_plan_result *r) {
    double least = INFINITY, used = sfi_scenario_of(s, &r->plan)->job.gpus;
    for (uint32_t i = 0; i < s->numbers_n; i++) {
        double share = used / s->numbers[i].scenario.job.gpus;
        least = fmin(least, sfi_scaled(s, i, r->mfu * sf_ps_to_s(r->sim.step_time) * share));
    }
    return least;
}

void sfi_note_number(struct sfi_search *s, const struct sf_plan_result *r) {
    uint32_t gpus = sfi_scenario_of(s, &r->plan)->job.gpus;
    for (uint32_t i = 0; i < s->stats->numbers_n; i++) {
        struct sf_search_number *n = &s->stats->numbers[i];
        if (n->gpus == gpus && (n->simulated++ == 0 || r->merit.worth_s < n->worth_s)) {
            n->worth_s = r->merit.worth_s;
            n->step = r->sim.step_time;
        }
    }
}

/* ---- a first impression ------------------------------------------------------------------------------------------ */

#define PROBE_REPLAYS 60u
#define PROBE_TABLES 2
#define PROBE_SIMULATIONS 3u
#define PROBE_EVENTS UINT64_C(8000000)

static double best_guess(const struct sfi_search *s, uint32_t number) {
    double best = INFINITY;
    for (size_t i = 0; i < s->groups_n; i++) {
        best = s->groups[i].number == number ? fmin(best, s->groups[i].guess_s) : best;
    }
    return best;
}

/* What it spends is the search's. */
static int probe(struct sfi_search *s, uint32_t number, struct sf_plan_result *results, uint32_t *results_n,
                 struct sf_err *err) {
    const struct sfi_effort all = s->effort;
    if (all.simulations < PROBE_SIMULATIONS || all.replays < PROBE_REPLAYS) {
        return 0;
    }
    s->effort.replays = PROBE_REPLAYS;
    s->effort.tables = PROBE_TABLES;
    s->effort.simulations = PROBE_SIMULATIONS;
    s->effort.events = PROBE_EVENTS;
    s->effort.answers = 1;
    s->probing = true;
    s->number = number;
    int rc = sfi_search_refine(s, err);
    s->number = number;
    rc = rc == 0 ? sfi_simulate_best(s, results, results_n, err) : rc;
    s->probing = false;
    sfi_stand_back(s);
    uint64_t events = PROBE_EVENTS - s->effort.events;
    s->effort.replays += all.replays - PROBE_REPLAYS;
    s->effort.tables = all.tables;
    s->effort.simulations += all.simulations - PROBE_SIMULATIONS;
    s->effort.events = all.events > events ? all.events - events : 0;
    s->effort.answers = all.answers;
    return rc;
}

int sfi_probe_numbers(struct sfi_search *s, struct sf_plan_result *results, uint32_t *results_n, struct sf_err *err) {
    for (uint32_t i = 0; i < s->numbers_n && !s->options->quick; i++) {
        double guess = best_guess(s, i);
        SF_TRY(isfinite(guess) ? probe(s, i, results, results_n, err) : 0);
        double found = s->stats->numbers[i].simulated > 0 ? s->stats->numbers[i].worth_s : guess;
        for (size_t k = 0; k < s->groups_n; k++) {
            s->groups[k].guess_s *= s->groups[k].number == i ? found / guess : 1;
        }
    }
    if (s->numbers_n > 1 && s->groups_n > 0) {
        s->effort.tables /= 2; /* the others are spent */
        qsort(s->groups, s->groups_n, sizeof *s->groups, sfi_group_compare);
    }
    return 0;
}
