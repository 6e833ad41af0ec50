/* One line on why a plan lost to another: the two largest differences of the breakdown and the rest, which add up to
 * the difference of the step times, or the memory when those are equal; then the choices that differ. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "planner/search_internal.h"

struct text {
    char *out;
    size_t size, used;
};

static void append(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void append(struct text *t, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = t->used < t->size ? vsnprintf(t->out + t->used, t->size - t->used, fmt, ap) : 0;
    va_end(ap);
    t->used += n > 0 ? (size_t)n : 0;
}

struct part {
    const char *name;
    double change_s;
};

static void append_change(struct text *t, const struct part *part, const char *gap) {
    double s = part->change_s;
    double scale = fabs(s) >= 1 ? 1 : fabs(s) >= 1e-3 ? 1e3 : 1e6;
    const char *unit = fabs(s) >= 1 ? "s" : fabs(s) >= 1e-3 ? "ms" : "us";
    append(t, "%s%s %+.1f %s", gap, part->name, s * scale, unit);
}

static void append_times(struct text *t, const struct sf_breakdown *a, const struct sf_breakdown *b) {
    const struct part parts[] = {
        {"compute", sf_ps_to_s(a->compute - b->compute)},
        {"recompute", sf_ps_to_s(a->recompute - b->recompute)},
        {"tp collectives", sf_ps_to_s(a->tp_comm - b->tp_comm)},
        {"ep collectives", sf_ps_to_s(a->ep_comm - b->ep_comm)},
        {"transfers", sf_ps_to_s(a->p2p - b->p2p)},
        {"dp collectives", sf_ps_to_s(a->dp_comm - b->dp_comm)},
        {"offload", sf_ps_to_s(a->offload - b->offload)},
        {"optimizer", sf_ps_to_s(a->optimizer - b->optimizer)},
        {"bubble", sf_ps_to_s(a->bubble - b->bubble)},
        {"other", sf_ps_to_s(a->other - b->other)},
    };
    const struct part *first = &parts[0], *second = NULL;
    struct part rest = {"rest", parts[0].change_s};
    for (size_t i = 1; i < sizeof parts / sizeof parts[0]; i++) {
        rest.change_s += parts[i].change_s;
        if (fabs(parts[i].change_s) > fabs(first->change_s)) {
            second = first;
            first = &parts[i];
        } else if (second == NULL || fabs(parts[i].change_s) > fabs(second->change_s)) {
            second = &parts[i];
        }
    }
    append_change(t, first, "");
    append_change(t, second, ", ");
    rest.change_s -= first->change_s + second->change_s;
    append_change(t, &rest, ", ");
}

static void append_number(struct text *t, const char *name, uint32_t a, uint32_t b, int *n) {
    if (a != b) {
        append(t, "%s%s %u vs %u", (*n)++ == 0 ? "; " : ", ", name, a, b);
    }
}

static void append_word(struct text *t, const char *name, const char *a, const char *b, int *n) {
    if (strcmp(a, b) != 0) {
        append(t, "%s%s %s vs %s", (*n)++ == 0 ? "; " : ", ", name, a, b);
    }
}

void sfi_lost(const struct sf_plan_result *r, const struct sf_plan_result *best, char *out, size_t size) {
    const struct sf_plan *a = &r->plan, *b = &best->plan;
    struct text t = {out, size, 0};
    double ratio = (double)r->sim.step_time / (double)best->sim.step_time - 1;
    double worth = best->merit.worth_s > 0 ? r->merit.worth_s / best->merit.worth_s - 1 : ratio;
    int n = 0;
    if (worth > ratio + 1e-9 || worth < ratio - 1e-9) {
        append(&t, "%+.2f %% worth, ", 100 * worth);
    }
    if (r->sim.step_time == best->sim.step_time) {
        double gb = ((double)r->sim.peak_memory_bytes - (double)best->sim.peak_memory_bytes) / 1e9;
        append(&t, "as quick, memory %+.3f GB", gb);
    } else {
        append(&t, "%+.1f %% step: ", 100 * ratio);
        append_times(&t, &r->sim.breakdown, &best->sim.breakdown);
    }
    append_number(&t, "gpus", sf_plan_gpus(a), sf_plan_gpus(b), &n);
    append_number(&t, "tp", a->tp, b->tp, &n);
    append_number(&t, "cp", sf_plan_cp(a), sf_plan_cp(b), &n);
    append_number(&t, "ep", a->ep, b->ep, &n);
    append_number(&t, "dp", a->dp, b->dp, &n);
    append_number(&t, "pp", a->pp, b->pp, &n);
    append_number(&t, "vpp", a->vpp, b->vpp, &n);
    append_number(&t, "micro_batch", a->micro_batch, b->micro_batch, &n);
    append_number(&t, "microbatches", a->microbatches, b->microbatches, &n);
    append_word(&t, "schedule", sf_plan_schedule_text(a), sf_plan_schedule_text(b), &n);
    char kind[2][64];
    append_word(&t, "recompute", sf_plan_recompute_text(a, kind[0], sizeof kind[0]),
                sf_plan_recompute_text(b, kind[1], sizeof kind[1]), &n);
    append_number(&t, "zero", a->zero, b->zero, &n);
    append_number(&t, "zero_group", a->zero_group, b->zero_group, &n);
    append_word(&t, "experts", sf_plan_etp(a) < a->tp ? "whole" : "in parts",
                sf_plan_etp(b) < b->tp ? "whole" : "in parts", &n);
    append_number(&t, "slices", sf_plan_slices(a), sf_plan_slices(b), &n);
    append_number(&t, "offload", a->offload, b->offload, &n);
    append_number(&t, "split_head", a->split_head, b->split_head, &n);
    append_number(&t, "whole_rows", a->whole_rows, b->whole_rows, &n);
    append_word(&t, "cp_exchange", a->cp_gather ? "gather" : "ring", b->cp_gather ? "gather" : "ring", &n);
    append_word(&t, "order", sf_order_name(a->order), sf_order_name(b->order), &n);
    append_number(&t, "ranks_per_domain", a->ranks_per_domain, b->ranks_per_domain, &n);
}
