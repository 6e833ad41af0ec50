#include "planner/stage_degrees.h"

#include "planner/schedule.h"

static void insert(uint32_t *degrees, uint32_t *n, uint32_t tp) {
    uint32_t at = 0;
    while (at < *n && degrees[at] < tp) {
        at++;
    }
    if (*n > SFI_MOST_DEGREES || (at < *n && degrees[at] == tp)) {
        return;
    }
    for (uint32_t i = *n; i > at; i--) {
        degrees[i] = degrees[i - 1];
    }
    degrees[at] = tp;
    ++*n;
}

uint32_t sfi_stage_degrees(const struct sf_plan *plan, uint32_t out[SFI_MOST_DEGREES + 1]) {
    uint32_t n = 1;
    out[0] = plan->tp;
    for (uint32_t i = 0; i < plan->pp && sf_plan_varies(plan); i++) {
        insert(out, &n, plan->stage_tp[i]);
    }
    return n;
}

void sfi_stage_plan(const struct sf_plan *plan, uint32_t tp, struct sf_plan *out) {
    uint32_t parts = plan->tp / tp;
    *out = *plan;
    out->tp = tp;
    out->dp = plan->dp * parts;
    out->micro_batch = plan->micro_batch / parts;
}

static int check_stage(const struct sf_plan *p, uint32_t stage, struct sf_err *err) {
    uint32_t tp = p->stage_tp[stage];
    if (tp == 0 || p->tp % tp != 0) {
        return sf_fail(err, SF_E_INPUT, "plan: stage_tp[%u] must divide tp %u, found %u", stage, p->tp, tp);
    }
    if (p->micro_batch % (p->tp / tp) != 0) {
        return sf_fail(
            err, SF_E_INPUT,
            "plan: stage_tp[%u] %u makes %u parts of every microbatch, whose %u sequences are no multiple of "
            "that: use a larger micro_batch or a larger stage_tp",
            stage, tp, p->tp / tp, p->micro_batch);
    }
    return 0;
}

static int check_chain(const struct sf_plan *p, struct sf_err *err) {
    uint32_t degrees[SFI_MOST_DEGREES + 1], n = sfi_stage_degrees(p, degrees);
    if (n > SFI_MOST_DEGREES) {
        return sf_fail(err, SF_E_INPUT, "plan: stage_tp has more than %u different degrees, tp included",
                       SFI_MOST_DEGREES);
    }
    for (uint32_t i = 1; i < n; i++) {
        if (degrees[i] % degrees[i - 1] != 0) {
            return sf_fail(err, SF_E_INPUT,
                           "plan: of two degrees of stage_tp the smaller must divide the larger, found "
                           "%u and %u",
                           degrees[i - 1], degrees[i]);
        }
    }
    return 0;
}

/* What cuts microbatches, rows or the order of sums in other ways. */
static int check_company(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    const struct {
        bool found;
        const char *needs;
    } rules[] = {
        {s->model.experts > 0, "a model without experts"},
        {sf_plan_cp(p) > 1, "cp 1"},
        {sf_plan_slices(p) > 1, "whole sequences: slices 1"},
        {p->whole_rows, "whole_rows false"},
        {p->canonical, "canonical false: each degree rounds its own way"},
        {p->zero > 1, "zero 0 or 1"},
        {p->zero_group > 0, "no zero_group"},
        {p->split_head, "split_head false"},
        {p->offload > 0, "offload 0"},
        {sf_schedule_copies(p) > 1, "a schedule with one copy of the model"},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        if (rules[i].found) {
            return sf_fail(err, SF_E_INPUT, "plan: different degrees in stage_tp need %s", rules[i].needs);
        }
    }
    return 0;
}

int sfi_stage_degrees_check(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    uint32_t degrees[SFI_MOST_DEGREES + 1];
    for (uint32_t i = 0; i < p->pp && sf_plan_varies(p); i++) {
        SF_TRY(check_stage(p, i, err));
    }
    SF_TRY(check_chain(p, err));
    return sfi_stage_degrees(p, degrees) > 1 ? check_company(s, p, err) : 0;
}

int sfi_stage_ends_check(const struct sf_plan *p, uint32_t first, uint32_t last, struct sf_err *err) {
    const uint32_t ends[] = {first, last};
    for (int i = 0; i < 2 && sf_plan_varies(p); i++) {
        if (p->stage_tp[ends[i]] != p->tp) {
            return sf_fail(err, SF_E_INPUT,
                           "plan: stage_tp[%u] has the %s, which takes microbatches whole: expected tp %u, found %u",
                           ends[i], i == 0 ? "embedding" : "loss", p->tp, p->stage_tp[ends[i]]);
        }
    }
    return 0;
}
