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

bool sfi_stages_differ_in_ep(const struct sf_plan *plan) {
    for (uint32_t i = 0; i < plan->pp && sf_plan_varies_ep(plan); i++) {
        if (plan->stage_ep[i] != plan->ep) {
            return true;
        }
    }
    return false;
}

uint32_t sfi_stage_degree(const struct sf_plan *plan, uint32_t rank) {
    if (sfi_stages_differ_in_ep(plan)) {
        return plan->stage_ep[rank];
    }
    return sf_plan_varies_tp(plan) ? plan->stage_tp[rank] : plan->tp;
}

uint32_t sfi_stage_degrees(const struct sf_plan *plan, uint32_t out[SFI_MOST_DEGREES + 1]) {
    bool by_ep = sfi_stages_differ_in_ep(plan);
    uint32_t n = 1;
    out[0] = by_ep ? plan->ep : plan->tp;
    for (uint32_t i = 0; i < plan->pp && (by_ep || sf_plan_varies_tp(plan)); i++) {
        insert(out, &n, by_ep ? plan->stage_ep[i] : plan->stage_tp[i]);
    }
    return n;
}

void sfi_stage_plan(const struct sf_plan *plan, uint32_t degree, struct sf_plan *out) {
    *out = *plan;
    if (sfi_stages_differ_in_ep(plan)) {
        out->ep = degree;
        return;
    }
    uint32_t parts = plan->tp / degree;
    out->tp = degree;
    out->etp = sf_plan_etp(plan) == plan->tp ? degree : plan->etp;
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
    const char *key = sfi_stages_differ_in_ep(p) ? "stage_ep" : "stage_tp";
    uint32_t degrees[SFI_MOST_DEGREES + 1], n = sfi_stage_degrees(p, degrees);
    if (n > SFI_MOST_DEGREES) {
        return sf_fail(err, SF_E_INPUT, "plan: %s has more than %u different degrees, %s included", key,
                       SFI_MOST_DEGREES, key + sizeof "stage_" - 1);
    }
    for (uint32_t i = 1; i < n; i++) {
        if (degrees[i] % degrees[i - 1] != 0) {
            return sf_fail(err, SF_E_INPUT,
                           "plan: of two degrees of %s the smaller must divide the larger, found %u and %u", key,
                           degrees[i - 1], degrees[i]);
        }
    }
    return 0;
}

struct rule {
    bool broken;
    const char *needs;
};

static int check_rules(const char *key, const struct rule *rules, size_t n, struct sf_err *err) {
    for (size_t i = 0; i < n; i++) {
        if (rules[i].broken) {
            return sf_fail(err, SF_E_INPUT, "plan: different degrees in %s need %s", key, rules[i].needs);
        }
    }
    return 0;
}

/* What cuts microbatches, rows or the order of sums in other ways. */
static int check_company_of_tp(const struct sf_plan *p, struct sf_err *err) {
    const struct rule rules[] = {
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
    return check_rules("stage_tp", rules, sizeof rules / sizeof *rules, err);
}

/* What lays out ranks, or sums of experts, in other ways. */
static int check_company_of_ep(const struct sf_plan *p, struct sf_err *err) {
    const struct rule rules[] = {
        {sf_plan_varies_tp(p), "one tp: no stage_tp"},
        {sf_plan_cp(p) > 1, "cp 1"},
        {p->canonical, "canonical false: each degree rounds its own way"},
        {p->zero_group > 0, "no zero_group"},
        {sf_schedule_copies(p) > 1, "a schedule with one copy of the model"},
    };
    return check_rules("stage_ep", rules, sizeof rules / sizeof *rules, err);
}

/* Whole experts among the ranks of tp are spread over all of these. */
static int check_stage_ep(const struct sf_plan *p, uint32_t stage, struct sf_err *err) {
    uint32_t ep = p->stage_ep[stage], tp = sf_plan_etp(p) < p->tp ? p->tp : 1;
    if (ep == 0 || p->ep % ep != 0) {
        return sf_fail(err, SF_E_INPUT, "plan: stage_ep[%u] must divide ep %u, found %u", stage, p->ep, ep);
    }
    return ep % tp == 0
               ? 0
               : sf_fail(err, SF_E_INPUT, "plan: with etp 1, stage_ep[%u] must be a multiple of tp %u, found %u", stage,
                         tp, ep);
}

int sfi_stage_degrees_check(const struct sf_plan *p, struct sf_err *err) {
    uint32_t degrees[SFI_MOST_DEGREES + 1];
    for (uint32_t i = 0; i < p->pp && sf_plan_varies_tp(p); i++) {
        SF_TRY(check_stage(p, i, err));
    }
    for (uint32_t i = 0; i < p->pp && sf_plan_varies_ep(p); i++) {
        SF_TRY(check_stage_ep(p, i, err));
    }
    SF_TRY(check_chain(p, err));
    if (sfi_stages_differ_in_ep(p)) {
        return check_company_of_ep(p, err);
    }
    return sfi_stage_degrees(p, degrees) > 1 ? check_company_of_tp(p, err) : 0;
}

int sfi_stage_ends_check(const struct sf_plan *p, uint32_t first, uint32_t last, struct sf_err *err) {
    const uint32_t ends[] = {first, last};
    for (int i = 0; i < 2 && sf_plan_varies_tp(p); i++) {
        if (p->stage_tp[ends[i]] != p->tp) {
            return sf_fail(err, SF_E_INPUT,
                           "plan: stage_tp[%u] has the %s, which takes microbatches whole: expected tp %u, found %u",
                           ends[i], i == 0 ? "embedding" : "loss", p->tp, p->stage_tp[ends[i]]);
        }
    }
    return 0;
}
