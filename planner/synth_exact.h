/* What the files of the exhaustive search share: synth_exact.c branches, synth_exact_bound.c says which states cannot
 * lead to a shorter span, synth_exact_seen.c which ones are no better than one that was looked at. */
#ifndef SF_PLANNER_SYNTH_EXACT_H
#define SF_PLANNER_SYNTH_EXACT_H

#include "planner/synth_internal.h"

#define SFI_EXACT_STAGES 64
#define SFI_EXACT_ROUNDING 1e-9

struct sfi_exact_state {
    uint32_t done[SFI_SYNTH_KINDS][SFI_EXACT_STAGES];
    sf_time_ps first[SFI_EXACT_STAGES], free[SFI_EXACT_STAGES],
        left[SFI_EXACT_STAGES];    /* of devices; left: work to do */
    bool waited[SFI_EXACT_STAGES]; /* until `free` */
    double memory[SFI_EXACT_STAGES];
    uint32_t depth;
};

/* A state looked at to the end: words of its key, then of its times. */
struct sfi_seen {
    uint32_t next, at; /* next: of the bucket, plus 1 */
    uint32_t key_n, times_n;
};

struct sfi_exact_run {
    const struct sfi_synth *s;
    struct sfi_exact_state n;
    sf_time_ps *f_end, *b_end;    /* [stage][microbatch] */
    bool any_w[SFI_EXACT_STAGES]; /* of devices: one W is as good as another */
    sf_time_ps rest[SFI_EXACT_STAGES],
        late_w[SFI_EXACT_STAGES];  /* of devices: most work after the last F, W after the last B */
    double slow[SFI_EXACT_STAGES]; /* of devices: least time to give back a unit of memory */
    sf_time_ps span;               /* to beat */
    sf_time_ps bound;
    uint64_t nodes, nodes_max;
    struct sfi_search_run *run; /* may be NULL */
    struct sf_pass order[SFI_EXACT_PASSES], *best;
    sf_time_ps *head[SFI_SYNTH_KINDS], *dead[SFI_SYNTH_KINDS]; /* [stage][microbatch] of passes that are left */
    sf_time_ps due_first[SFI_EXACT_STAGES], due_span;          /* that `dead` follows from */
    /* Of devices, of the last look at their windows: what was done then, whether a head has moved since, the answer. */
    uint32_t then[SFI_SYNTH_KINDS][SFI_EXACT_STAGES];
    bool moved[SFI_EXACT_STAGES], in_time[SFI_EXACT_STAGES];
    struct sfi_seen *seen;
    uint32_t *bucket, buckets, seen_n, seen_max, words_n, words_max; /* buckets: a power of two */
    int64_t *words;
};

static inline sf_time_ps sfi_cost_of(const struct sfi_synth *s, int kind, uint32_t stage) {
    return (kind == SF_PASS_F ? s->f : kind == SF_PASS_B ? s->b : s->w)[stage];
}

/* No completion has a span below this. */
sf_time_ps sfi_exact_outlook(const struct sfi_exact_run *x);
/* Sets x->head: when each pass that is left can start at the earliest. */
void sfi_exact_find_heads(struct sfi_exact_run *x);
/* Can every device do what it has left between its heads and the deadlines of a shorter span? Finds the heads, too. */
bool sfi_exact_in_time(struct sfi_exact_run *x);
/* What memory allows each device, before the first state. */
void sfi_exact_set_limits(struct sfi_exact_run *x, uint32_t d);

int sfi_exact_seen_create(struct sfi_exact_run *x, struct sf_err *err); /* sfi_exact_seen_free in any case */
void sfi_exact_seen_free(struct sfi_exact_run *x);
/* Whether a state looked at to the end is as good in everything; heads are those of the state. */
bool sfi_exact_is_superfluous(struct sfi_exact_run *x);
void sfi_exact_remember(struct sfi_exact_run *x);

#endif
