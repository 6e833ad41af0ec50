#include "planner/schedule.h"

#include "core/arena.h"

#define WHOLE_MODEL_PS 1000000000.0 /* F, B and W of one microbatch through all stages, in replays */

static bool is_family(const struct sf_plan *plan) {
    return plan->schedule >= 0 && plan->schedule < SF_PIPE_FAMILIES_N;
}

uint32_t sf_schedule_copies(const struct sf_plan *plan) {
    if (plan->table != NULL) {
        return plan->table->ways;
    }
    return plan->schedule == SF_SCHEDULE_DUALPIPE ? 2 : 1;
}

uint32_t sf_schedule_chunks(const struct sf_plan *plan) {
    return plan->vpp * sf_schedule_copies(plan);
}

/* ---- rules ------------------------------------------------------------------------------------------------------- */

static int check_table(const struct sf_plan *p, struct sf_err *err) {
    const struct sf_pipe *t = p->table;
    if (t == NULL) {
        return sf_fail(err, SF_E_INPUT, "plan: schedule table names no file: write its path as the schedule");
    }
    if (t->devices != p->pp || t->stages != p->pp * sf_schedule_chunks(p) || t->microbatches != p->microbatches) {
        return sf_fail(err, SF_E_INPUT,
                       "plan: schedule %s has %u rows (pp), %u stages per row and copy (vpp) and %u microbatches, but "
                       "the plan has pp %u, vpp %u and %u microbatches",
                       p->schedule_file, t->devices, t->stages / t->devices / t->ways, t->microbatches, p->pp, p->vpp,
                       p->microbatches);
    }
    if (t->parts > 0) {
        return sf_fail(err, SF_E_INPUT,
                       "plan: schedule %s has %u parts of a head side by side, which plans know as schedule 1f1b with "
                       "split_head true",
                       p->schedule_file, t->parts);
    }
    if (p->slices > 0 && p->slices != t->slices) {
        return sf_fail(err, SF_E_INPUT, "plan: schedule %s cuts sequences into %u slices, but the plan has %u",
                       p->schedule_file, t->slices, p->slices);
    }
    return 0;
}

static int check_chunks(const struct sf_plan *p, struct sf_err *err) {
    uint32_t own = sf_pipe_family_chunks(p->schedule) / sf_schedule_copies(p);
    const char *name = sf_schedule_name(p->schedule);
    if (own == 1 && p->vpp != 1) {
        return sf_fail(err, SF_E_INPUT, "plan: schedule %s needs vpp 1, found %u; use %s", name, p->vpp,
                       p->schedule == SF_SCHEDULE_DUALPIPE ? "dualpipev, whose ranks have two chunks of one copy"
                                                           : "interleaved or breadth-first");
    }
    if (own > 1 && p->vpp != own) {
        return sf_fail(err, SF_E_INPUT, "plan: schedule %s needs vpp %u, found %u", name, own, p->vpp);
    }
    if (own == 0 && (p->vpp < 2 || p->pp < 2)) {
        return sf_fail(err, SF_E_INPUT, "plan: schedule %s needs vpp and pp of at least 2, found %u and %u", name,
                       p->vpp, p->pp);
    }
    return 0;
}

static int check_microbatches(const struct sf_plan *p, struct sf_err *err) {
    const char *name = sf_schedule_name(p->schedule);
    uint32_t least = 2 * p->pp;
    if (p->schedule == SF_SCHEDULE_INTERLEAVED && p->microbatches % p->pp != 0) {
        return sf_fail(err, SF_E_INPUT, "plan: schedule %s needs microbatches to be a multiple of pp, found %u and %u",
                       name, p->microbatches, p->pp);
    }
    if (p->schedule == SF_SCHEDULE_DUALPIPE && (p->pp % 2 != 0 || p->microbatches % 2 != 0)) {
        return sf_fail(err, SF_E_INPUT, "plan: schedule %s needs pp and microbatches to be even, found %u and %u", name,
                       p->pp, p->microbatches);
    }
    if ((p->schedule == SF_SCHEDULE_DUALPIPE || p->schedule == SF_SCHEDULE_DUALPIPEV) && p->microbatches < least) {
        return sf_fail(err, SF_E_INPUT, "plan: schedule %s needs at least 2 * pp = %u microbatches, found %u", name,
                       least, p->microbatches);
    }
    return 0;
}

int sf_schedule_check(const struct sf_plan *plan, struct sf_err *err) {
    if (!is_family(plan) && plan->schedule != SF_SCHEDULE_TABLE) {
        return sf_fail(err, SF_E_INPUT, "plan: schedule %d is unknown", plan->schedule);
    }
    if (plan->schedule == SF_SCHEDULE_TABLE) {
        return check_table(plan, err);
    }
    SF_TRY(check_chunks(plan, err));
    if (plan->slices > 1 && plan->schedule != SF_SCHEDULE_GPIPE && plan->schedule != SF_SCHEDULE_1F1B) {
        return sf_fail(
            err, SF_E_INPUT,
            "plan: schedule %s takes whole sequences, found %u slices; use gpipe, 1f1b or a table of your own",
            sf_schedule_name(plan->schedule), plan->slices);
    }
    return check_microbatches(plan, err);
}

/* ---- costs ------------------------------------------------------------------------------------------------------- */

static double sum(const struct sf_pass_weights *w, uint32_t stages) {
    double total = 0;
    for (uint32_t s = 0; s < stages; s++) {
        total += (double)w->f[s] + (double)w->b[s] + (double)w->w[s];
    }
    return total;
}

static sf_time_ps scaled(uint64_t weight, double total) {
    double ps = WHOLE_MODEL_PS * (double)weight / total;
    return ps < 1 ? 1 : (sf_time_ps)ps; /* never nothing: ends must be later than starts */
}

int sf_schedule_costs(const struct sf_pipe *table, const struct sf_pass_weights *weights, struct sf_pipe_costs *out,
                      struct sf_err *err) {
    uint32_t n = table->stages, copy = n / table->ways;
    double total = sum(weights, copy);
    sf_time_ps *times = sf_calloc(3 * (size_t)n, sizeof *times);
    *out = (struct sf_pipe_costs){.f = times};
    if (times == NULL) {
        return sf_fail_memory(err, "pass costs");
    }
    out->b = times + n;
    out->w = times + 2 * (size_t)n;
    for (uint32_t s = 0; s < n; s++) {
        times[s] = scaled(weights->f[s % copy], total);
        times[n + s] = scaled(weights->b[s % copy], total);
        times[2 * (size_t)n + s] = scaled(weights->w[s % copy], total);
    }
    return 0;
}

/* ---- tables ------------------------------------------------------------------------------------------------------ */

/* The share of an average rank; the families know no unequal ones. */
static sf_time_ps average(const uint64_t *weight, uint32_t stages, uint32_t ranks, double total) {
    double all = 0;
    for (uint32_t s = 0; s < stages; s++) {
        all += (double)weight[s];
    }
    sf_time_ps share = (sf_time_ps)(WHOLE_MODEL_PS * all / total / ranks);
    return share < SF_MAX_STAGES ? SF_MAX_STAGES : share; /* every chunk gets some of it */
}

void sf_schedule_spec(const struct sf_plan *plan, const struct sf_pass_weights *weights, struct sf_pipe_spec *out) {
    const struct sf_pass_weights *w = weights;
    uint32_t stages = plan->pp * plan->vpp;
    double total = sum(w, stages);
    *out = (struct sf_pipe_spec){.family = plan->schedule,
                                 .devices = plan->pp,
                                 .microbatches = plan->microbatches,
                                 .chunks = sf_schedule_chunks(plan),
                                 .slices = sf_plan_slices(plan),
                                 .f = average(w->f, stages, plan->pp, total),
                                 .b = average(w->b, stages, plan->pp, total),
                                 .w = average(w->w, stages, plan->pp, total)};
}

static int generate(const struct sf_plan *plan, const struct sf_pass_weights *w, struct sf_pipe **out,
                    struct sf_err *err) {
    struct sf_pipe_spec spec;
    sf_schedule_spec(plan, w, &spec);
    return sf_pipe_generate(&spec, out, err);
}

/* One compute stream runs one pass at a time. */
static void part_pairs(struct sf_pipe *p) {
    for (uint32_t d = 0; d < p->devices; d++) {
        for (uint32_t i = 0; i < p->passes_n[d]; i++) {
            struct sf_pass *x = &p->passes[d][i];
            x->kind = x->kind == SF_PASS_F_PAIR ? SF_PASS_F : x->kind;
        }
    }
}

int sf_schedule_make(const struct sf_plan *plan, const struct sf_pass_weights *weights, struct sf_pipe **out,
                     struct sf_err *err) {
    *out = NULL;
    SF_TRY(sf_schedule_check(plan, err));
    int rc = plan->split_head  ? sf_pipe_split_head(plan->pp, plan->microbatches, out, err)
             : is_family(plan) ? generate(plan, weights, out, err)
                               : sf_pipe_copy(plan->table, out, err);
    if (rc == 0) {
        part_pairs(*out);
    } else {
        sf_err_wrap(err, "plan: schedule %s", is_family(plan) ? sf_schedule_name(plan->schedule) : plan->schedule_file);
    }
    return rc;
}
