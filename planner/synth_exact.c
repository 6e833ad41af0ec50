/* Small problems to the end: depth-first over the orders of all devices, as active schedules of job shops are listed
 * (Giffler and Thompson 1960). Microbatches are alike, so each stage takes them in order.
 *
 * Of all passes whose inputs are there, the one that could end first decides for its device: nothing that is not there
 * yet can start before that end. So the next pass of that device is one of those there that start earlier, or the
 * device waits until then. If the pass that could end first is a B or W, waiting is no better than running it: it fits
 * in front of whatever would come next, and earlier B and W only free memory. An F takes memory, so for F both ways are
 * looked at. A device that has waited goes on with a pass whose inputs came later; with the others it has been tried
 * without waiting.
 *
 * Two states with the same passes done differ in times alone. If in one of them no device is free later, no input
 * arrives later and no device began earlier, whatever the other can still do, it can do as well: what was looked at to
 * the end makes such others superfluous. Where every W of a device costs the same, any of them stands for all.
 *
 * States that cannot lead to a shorter span are left out (synth_exact_bound.c). */
#include <string.h>

#include "core/arena.h"
#include "planner/synth_exact.h"

#define STOP_EVERY 1024

struct next {
    uint32_t stage;
    int kind;
    sf_time_ps inputs, start, end;
};

bool sfi_exact_fits(const struct sfi_synth *s) {
    return s->stages <= SFI_EXACT_STAGES && s->microbatches < 256 &&
           (uint64_t)3 * s->stages * s->microbatches <= SFI_EXACT_PASSES;
}

/* When the inputs of the next pass of this kind are there; SFI_NEVER when there is none or its input is missing. */
static sf_time_ps inputs_of(const struct sfi_exact_run *x, uint32_t stage, int kind) {
    const struct sfi_synth *s = x->s;
    const struct sfi_exact_state *n = &x->n;
    uint32_t i = n->done[kind][stage], m = s->microbatches;
    if (i == m) {
        return SFI_NEVER;
    }
    if (kind == SF_PASS_F) {
        if (stage == 0) {
            return 0;
        }
        return n->done[SF_PASS_F][stage - 1] <= i ? SFI_NEVER
                                                  : x->f_end[(stage - 1) * m + i] + sfi_hop(s, stage - 1, stage);
    }
    if (kind == SF_PASS_W) {
        return n->done[SF_PASS_B][stage] <= i ? SFI_NEVER : x->b_end[stage * m + i];
    }
    if (n->done[SF_PASS_F][stage] <= i) {
        return SFI_NEVER;
    }
    if (stage + 1 == s->stages) {
        return x->f_end[stage * m + i];
    }
    return n->done[SF_PASS_B][stage + 1] <= i ? SFI_NEVER
                                              : x->b_end[(stage + 1) * m + i] + sfi_hop(s, stage + 1, stage);
}

/* ---- branches ---------------------------------------------------------------------------------------------------- */

static void descend(struct sfi_exact_run *x);

static void take(struct sfi_exact_run *x, const struct next *p) {
    const struct sfi_synth *s = x->s;
    struct sfi_exact_state *n = &x->n;
    uint32_t d = s->device_of[p->stage], i = n->done[p->kind][p->stage];
    sf_time_ps first = n->first[d], free = n->free[d], cost = sfi_cost_of(s, p->kind, p->stage);
    double memory = n->memory[d];
    bool waited = n->waited[d];
    x->order[n->depth] = (struct sf_pass){.kind = (uint8_t)p->kind, .stage = (uint16_t)p->stage, .microbatch = i};
    if (p->kind == SF_PASS_F) {
        x->f_end[p->stage * s->microbatches + i] = p->end;
        n->memory[d] += s->mem_f[p->stage];
    } else if (p->kind == SF_PASS_B) {
        x->b_end[p->stage * s->microbatches + i] = p->end;
    }
    n->memory[d] -= p->kind == SF_PASS_B ? s->mem_b[p->stage] : p->kind == SF_PASS_W ? s->mem_w[p->stage] : 0;
    n->first[d] = first == SFI_NEVER ? p->start : first;
    n->free[d] = p->end;
    n->waited[d] = false;
    n->left[d] -= cost;
    n->done[p->kind][p->stage]++;
    n->depth++;
    descend(x);
    n->depth--;
    n->done[p->kind][p->stage]--;
    n->left[d] += cost;
    n->waited[d] = waited;
    n->free[d] = free;
    n->first[d] = first;
    n->memory[d] = memory;
}

static void wait_until(struct sfi_exact_run *x, uint32_t d, sf_time_ps until) {
    sf_time_ps free = x->n.free[d];
    bool waited = x->n.waited[d];
    x->n.free[d] = until;
    x->n.waited[d] = true;
    descend(x);
    x->n.waited[d] = waited;
    x->n.free[d] = free;
}

/* The next pass of this kind and stage, if there is one that may run. */
static bool look(const struct sfi_exact_run *x, uint32_t stage, int kind, struct next *out) {
    const struct sfi_synth *s = x->s;
    uint32_t d = s->device_of[stage];
    sf_time_ps inputs = inputs_of(x, stage, kind), free = x->n.free[d];
    if (inputs == SFI_NEVER || (x->n.waited[d] && inputs < free) ||
        (kind == SF_PASS_F && x->n.memory[d] + s->mem_f[stage] > s->limit * (1 + SFI_EXACT_ROUNDING))) {
        return false;
    }
    sf_time_ps start = inputs > free ? inputs : free;
    *out = (struct next){stage, kind, inputs, start, start + sfi_cost_of(s, kind, stage)};
    return true;
}

/* Whatever ends first; of those that end together one that is not an F. */
static bool find_first(const struct sfi_exact_run *x, struct next *first) {
    bool found = false;
    *first = (struct next){.end = SFI_NEVER};
    for (uint32_t stage = x->s->stages; stage-- > 0;) {
        static const int kinds[] = {SF_PASS_B, SF_PASS_W, SF_PASS_F};
        for (int k = 0; k < SFI_SYNTH_KINDS; k++) {
            struct next c;
            if (look(x, stage, kinds[k], &c) &&
                (c.end < first->end || (c.end == first->end && first->kind == SF_PASS_F))) {
                *first = c;
                found = true;
            }
        }
    }
    return found;
}

static void branch(struct sfi_exact_run *x, const struct next *first) {
    static const int kinds[] = {SF_PASS_B, SF_PASS_F, SF_PASS_W};
    const struct sfi_synth *s = x->s;
    uint32_t d = s->device_of[first->stage];
    for (int k = 0; k < SFI_SYNTH_KINDS; k++) {
        bool one_is_enough = kinds[k] == SF_PASS_W && x->any_w[d];
        for (uint32_t j = s->chunks; j-- > 0;) {
            struct next c;
            uint32_t stage = s->held[d * s->chunks + j];
            bool is_first = stage == first->stage && kinds[k] == first->kind;
            if (look(x, stage, kinds[k], &c) && (is_first || c.start < first->end)) {
                take(x, &c);
                if (one_is_enough) {
                    break;
                }
            }
        }
    }
    if (first->kind == SF_PASS_F && x->n.first[d] != SFI_NEVER) {
        wait_until(x, d, first->end);
    }
}

static void descend(struct sfi_exact_run *x) {
    struct next first;
    x->nodes++;
    if (x->nodes % STOP_EVERY == 0 && x->run != NULL && sfi_search_stopped(x->run)) {
        x->nodes_max = x->nodes;
    }
    sf_time_ps span = sfi_exact_outlook(x);
    if (span >= x->span || x->nodes >= x->nodes_max || x->span <= x->bound) {
        return;
    }
    if (x->n.depth == 3 * x->s->stages * x->s->microbatches) {
        x->span = span;
        memcpy(x->best, x->order, x->n.depth * sizeof *x->best);
        return;
    }
    if (!sfi_exact_in_time(x) || !find_first(x, &first) || sfi_exact_is_superfluous(x)) {
        return;
    }
    branch(x, &first);
    sfi_exact_remember(x);
}
/* ---- the whole --------------------------------------------------------------------------------------------------- */

static bool same_w(const struct sfi_synth *s, uint32_t d) {
    const uint16_t *held = &s->held[d * s->chunks];
    for (uint32_t j = 1; j < s->chunks; j++) {
        double a = s->mem_w[held[0]], b = s->mem_w[held[j]];
        if (s->w[held[0]] != s->w[held[j]] || a < b || a > b) {
            return false;
        }
    }
    return true;
}

static void begin(struct sfi_exact_run *x) {
    const struct sfi_synth *s = x->s;
    for (uint32_t i = 0; i < s->stages; i++) {
        x->n.left[s->device_of[i]] += (s->f[i] + s->b[i] + s->w[i]) * s->microbatches;
    }
    for (uint32_t d = 0; d < s->devices; d++) {
        x->n.first[d] = SFI_NEVER;
        x->any_w[d] = same_w(s, d);
        sfi_exact_set_limits(x, d);
    }
}

static int allocate(struct sfi_exact_run *x, struct sf_err *err) {
    size_t nodes = (size_t)x->s->stages * x->s->microbatches;
    x->f_end = sf_calloc((2 + 2 * SFI_SYNTH_KINDS) * nodes, sizeof *x->f_end);
    if (x->f_end == NULL) {
        return sf_fail_memory(err, "schedule search");
    }
    x->b_end = x->f_end + nodes;
    for (size_t k = 0; k < SFI_SYNTH_KINDS; k++) {
        x->head[k] = x->f_end + (2 + k) * nodes;
        x->dead[k] = x->f_end + (2 + SFI_SYNTH_KINDS + k) * nodes;
    }
    return sfi_exact_seen_create(x, err);
}

int sfi_exact(const struct sfi_synth *s, sf_time_ps bound, struct sfi_exact *io, struct sf_err *err) {
    struct sfi_exact_run *x = sf_calloc(1, sizeof *x);
    if (x == NULL) {
        return sf_fail_memory(err, "schedule search");
    }
    *x = (struct sfi_exact_run){
        .s = s, .span = io->span, .bound = bound, .nodes_max = io->steps, .best = io->best, .run = io->run};
    int rc = allocate(x, err);
    if (rc == 0) {
        begin(x);
        descend(x);
        io->span = x->span;
        io->steps = x->nodes;
        io->proven = x->nodes < x->nodes_max;
    }
    sf_free(x->f_end);
    sfi_exact_seen_free(x);
    sf_free(x);
    return rc;
}
