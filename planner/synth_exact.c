/* Small problems to the end: depth-first over the orders of all devices, passes taken by ascending start. Microbatches
 * are alike, so each stage takes them in order. A branch ends when what is left cannot beat the best span known. */
#include <string.h>

#include "planner/synth_internal.h"

#define ROUNDING 1e-9
#define MAX_STAGES 32

struct node {
    sf_time_ps f_end[SFI_EXACT_PASSES], b_end[SFI_EXACT_PASSES]; /* [stage][microbatch] */
    uint32_t done[SFI_SYNTH_KINDS][MAX_STAGES];
    sf_time_ps first[MAX_STAGES], free[MAX_STAGES], left[MAX_STAGES]; /* of devices; left: work to do */
    double memory[MAX_STAGES];
    uint32_t depth;
    sf_time_ps last_start;
    uint32_t last_device;
};

struct exact {
    const struct sfi_synth *s;
    struct node n;
    bool ties_by_device; /* no pass takes no time, so of passes that start together any order is the same */
    sf_time_ps span;     /* to beat */
    sf_time_ps bound;
    uint64_t nodes, nodes_max;
    struct sf_pass order[SFI_EXACT_PASSES], *best;
};

bool sfi_exact_fits(const struct sfi_synth *s) {
    return s->stages <= MAX_STAGES && (uint64_t)3 * s->stages * s->microbatches <= SFI_EXACT_PASSES;
}

/* When the next pass of this kind could start by its inputs; SFI_NEVER when there is none or its input is missing. */
static sf_time_ps ready(const struct exact *x, uint32_t stage, int kind) {
    const struct sfi_synth *s = x->s;
    const struct node *n = &x->n;
    uint32_t i = n->done[kind][stage], m = s->microbatches;
    if (i == m) {
        return SFI_NEVER;
    }
    if (kind == SF_PASS_F) {
        if (stage == 0) {
            return 0;
        }
        return n->done[SF_PASS_F][stage - 1] <= i ? SFI_NEVER
                                                  : n->f_end[(stage - 1) * m + i] + sfi_hop(s, stage - 1, stage);
    }
    if (kind == SF_PASS_W) {
        return n->done[SF_PASS_B][stage] <= i ? SFI_NEVER : 0;
    }
    if (n->done[SF_PASS_F][stage] <= i) {
        return SFI_NEVER;
    }
    if (stage + 1 == s->stages) {
        return n->f_end[stage * m + i];
    }
    return n->done[SF_PASS_B][stage + 1] <= i ? SFI_NEVER
                                              : n->b_end[(stage + 1) * m + i] + sfi_hop(s, stage + 1, stage);
}

/* Earliest end of the last microbatch's B of stage 0 and the W behind it. */
static sf_time_ps chain_end(const struct exact *x, uint32_t stage) {
    const struct sfi_synth *s = x->s;
    uint32_t m = s->microbatches, last = s->stages - 1;
    for (uint32_t i = 0; i <= last; i++) {
        if (x->n.done[SF_PASS_B][i] == m) {
            return i <= stage ? 0
                              : x->n.b_end[i * m + m - 1] + sfi_hop(s, i, i - 1) + s->b_at[stage] - s->b_at[i - 1] +
                                    s->b[stage] + s->w[stage];
        }
    }
    sf_time_ps at = 0;
    uint32_t from = 0;
    for (uint32_t i = 0; i <= last && x->n.done[SF_PASS_F][i] == m; i++) {
        at = x->n.f_end[i * m + m - 1] + (i < last ? sfi_hop(s, i, i + 1) : 0);
        from = i + 1;
    }
    sf_time_ps ahead = from <= last ? s->b_at[stage] - s->f_at[from] : s->b_at[stage] - s->b_at[last];
    return at + ahead + s->b[stage] + s->w[stage];
}

/* No completion has a span below this. */
static sf_time_ps outlook(const struct exact *x) {
    const struct sfi_synth *s = x->s;
    sf_time_ps most = 0;
    for (uint32_t d = 0; d < s->devices; d++) {
        if (x->n.first[d] != SFI_NEVER) {
            sf_time_ps by_work = x->n.free[d] + x->n.left[d], by_chain = chain_end(x, s->held[d * s->chunks]);
            sf_time_ps end = by_work > by_chain ? by_work : by_chain;
            most = end - x->n.first[d] > most ? end - x->n.first[d] : most;
        }
    }
    return most;
}

static void descend(struct exact *x);

static void take(struct exact *x, uint32_t stage, int kind, sf_time_ps start) {
    const struct sfi_synth *s = x->s;
    struct node *n = &x->n;
    uint32_t d = s->device_of[stage], i = n->done[kind][stage], last_device = n->last_device;
    sf_time_ps cost = (kind == SF_PASS_F ? s->f : kind == SF_PASS_B ? s->b : s->w)[stage];
    sf_time_ps first = n->first[d], free = n->free[d], last_start = n->last_start;
    double memory = n->memory[d];
    x->order[n->depth] = (struct sf_pass){.kind = (uint8_t)kind, .stage = (uint16_t)stage, .microbatch = i};
    if (kind == SF_PASS_F) {
        n->f_end[stage * s->microbatches + i] = start + cost;
        n->memory[d] += s->mem_f[stage];
    } else if (kind == SF_PASS_B) {
        n->b_end[stage * s->microbatches + i] = start + cost;
    }
    n->memory[d] -= kind == SF_PASS_B ? s->mem_b[stage] : kind == SF_PASS_W ? s->mem_w[stage] : 0;
    n->first[d] = first == SFI_NEVER ? start : first;
    n->free[d] = start + cost;
    n->left[d] -= cost;
    n->done[kind][stage]++;
    n->last_start = start;
    n->last_device = d;
    n->depth++;
    descend(x);
    n->depth--;
    n->last_device = last_device;
    n->last_start = last_start;
    n->done[kind][stage]--;
    n->left[d] += cost;
    n->free[d] = free;
    n->first[d] = first;
    n->memory[d] = memory;
}

static void descend(struct exact *x) {
    const struct sfi_synth *s = x->s;
    const struct node *n = &x->n;
    x->nodes++;
    sf_time_ps span = outlook(x);
    if (span >= x->span || x->nodes >= x->nodes_max || x->span <= x->bound) {
        return;
    }
    if (n->depth == 3 * s->stages * s->microbatches) {
        x->span = span;
        memcpy(x->best, x->order, n->depth * sizeof *x->best);
        return;
    }
    for (uint32_t stage = s->stages; stage-- > 0;) {
        uint32_t d = s->device_of[stage];
        for (int kind = 0; kind < SFI_SYNTH_KINDS; kind++) {
            sf_time_ps at = ready(x, stage, kind);
            if (at == SFI_NEVER || (kind == SF_PASS_F && n->memory[d] + s->mem_f[stage] > s->limit * (1 + ROUNDING))) {
                continue;
            }
            at = at > n->free[d] ? at : n->free[d];
            if (at > n->last_start || (at == n->last_start && (!x->ties_by_device || d >= n->last_device))) {
                take(x, stage, kind, at);
            }
        }
    }
}

bool sfi_exact(const struct sfi_synth *s, sf_time_ps *span, sf_time_ps bound, uint64_t *budget, struct sf_pass *best) {
    struct exact x = {.s = s, .span = *span, .bound = bound, .nodes_max = *budget, .best = best};
    x.ties_by_device = true;
    for (uint32_t i = 0; i < s->stages; i++) {
        x.n.left[s->device_of[i]] += (s->f[i] + s->b[i] + s->w[i]) * s->microbatches;
        x.ties_by_device = x.ties_by_device && s->f[i] > 0 && s->b[i] > 0 && s->w[i] > 0;
    }
    for (uint32_t d = 0; d < s->devices; d++) {
        x.n.first[d] = SFI_NEVER;
    }
    descend(&x);
    *span = x.span;
    *budget = x.nodes;
    return x.nodes < x.nodes_max;
}
