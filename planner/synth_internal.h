/* What the files of the synthesiser share.
 *
 * A *policy* is a small set of numbers that says which pass a device takes next. Placing all passes by a policy gives a
 * complete schedule that keeps the memory limit by construction; the search is over policies, so a step of it moves
 * thousands of passes at once, and what was learnt with few microbatches holds for many. */
#ifndef SF_PLANNER_SYNTH_INTERNAL_H
#define SF_PLANNER_SYNTH_INTERNAL_H

#include "core/rng.h"
#include "planner/synth.h"

#define SFI_SYNTH_KINDS 3 /* SF_PASS_F, SF_PASS_B, SF_PASS_W */
/* Phases of a device: filling, until its first B; ramp, until the first B of its first chunk; settling, until as many
 * of those as there are devices; steady; late, when no more F of its first chunk are left than there are devices;
 * draining, after the last of those. With less than four microbatches per device none settles, and none is late. */
enum sfi_synth_phase { SFI_FILL, SFI_RAMP, SFI_SETTLE, SFI_STEADY, SFI_LATE, SFI_DRAIN, SFI_SYNTH_PHASES };
#define SFI_ALL_PHASES ((1u << SFI_SYNTH_PHASES) - 1)
#define SFI_FEW_PHASES (SFI_ALL_PHASES & ~(1u << SFI_SETTLE | 1u << SFI_LATE))
#define SFI_NEVER INT64_MAX

/* One placement of one problem. Arrays are in `memory`. */
struct sfi_synth {
    uint32_t devices, stages, chunks, microbatches;
    uint16_t *device_of;
    uint16_t *held; /* [devices][chunks] stages of a device, ascending */
    sf_time_ps *f, *b, *w, comm;
    double *mem_f, *mem_b, *mem_w, limit;
    sf_time_ps *f_at, *b_at; /* [stages] when F and B of the first microbatch start if nothing is in their way */
    sf_time_ps *work;        /* [devices] one microbatch */
    sf_time_ps period;       /* the most of them */
    bool uneven;             /* chunks of a device are not alike, by the search's choice */
    char name[SF_SYNTH_NAME];
    void *memory;
};

struct sfi_policy {
    double key[SFI_SYNTH_PHASES][SFI_SYNTH_KINDS][SF_SYNTH_MAX_CHUNKS]; /* the smallest goes first */
    double age[SFI_SYNTH_PHASES];  /* added per period since the microbatch could have been there at the earliest */
    double wait[SFI_SYNTH_PHASES]; /* longest idling for a better pass that is on its way, in mean passes */
    double reserve;                /* memory kept for each later chunk of the device, in its passes */
    /* Passes of a chunk that memory is kept for: flow x (its round trip to the loss, in passes at full rate) + lead.
     * By chunk, counted from the last one. */
    double flow[SFI_SYNTH_PHASES][SF_SYNTH_MAX_CHUNKS], lead[SFI_SYNTH_PHASES][SF_SYNTH_MAX_CHUNKS];
};

/* A schedule in numbers. Excess: span beyond the busiest device's work; idling until the end of a phase, where placing
 * stops there. */
struct sfi_try {
    sf_time_ps excess; /* SFI_NEVER: the policy ran into a deadlock, or was given up as too slow */
    double score;      /* excess, smoothed over devices: what the search descends */
};

/* Room for placing passes, used again and again. */
struct sfi_placer;
int sfi_placer_create(const struct sfi_synth *s, struct sfi_placer **out, struct sf_err *err);
void sfi_placer_free(struct sfi_placer *p);

/* Place all passes of the first `microbatches` microbatches, or, with `through` before SFI_DRAIN, until all devices are
 * through that phase. Gives up when a device idles longer than `give_up`. `record` (may be NULL) gets the table.
 * Returns passes placed. */
uint64_t sfi_place(struct sfi_placer *p, const struct sfi_policy *policy, uint32_t microbatches, int through,
                   sf_time_ps give_up, struct sf_pipe *record, struct sfi_try *out);

/* The verdict on devices that are done `excess` [devices] too late. */
struct sfi_try sfi_try_of(const struct sfi_synth *s, const sf_time_ps *excess);

/* ---- policies ---------------------------------------------------------------------------------------------------- */

void sfi_policy_random(struct sf_rng *r, uint32_t chunks, struct sfi_policy *out);
/* Policies that did well on published problems, as first tries. False when there are no more. */
bool sfi_policy_known(uint32_t chunks, uint32_t index, struct sfi_policy *out);
/* A few random changes to some phases, a bit set. */
void sfi_policy_step(struct sf_rng *r, uint32_t chunks, uint32_t phases, struct sfi_policy *y);
/* The same where settling, steady and late are still alike, and they stay so. False when they are not. */
bool sfi_policy_step_together(struct sf_rng *r, uint32_t chunks, struct sfi_policy *y);
/* Take phases (a bit set) over from another policy; the fill brings with it what memory is kept for. */
void sfi_policy_take(const struct sfi_policy *other, uint32_t phases, struct sfi_policy *y);

/* ---- problems ---------------------------------------------------------------------------------------------------- */

/* A sweep places `width` chunks on every device, device after device, up or down, each `parts` of all parts of the
 * shape's chunks large. */
struct sfi_sweep {
    bool down;
    uint8_t width, parts;
};
struct sfi_shape {
    uint32_t sweeps_n, chunks;
    struct sfi_sweep sweeps[SF_SYNTH_MAX_CHUNKS];
};

int sfi_synth_init(const struct sf_synth_problem *problem, const struct sfi_shape *shape, struct sfi_synth *out,
                   struct sf_err *err);
void sfi_synth_clear(struct sfi_synth *s);
/* The shapes worth trying with `chunks` equal chunks; returns how many. */
uint32_t sfi_shapes(uint32_t chunks, struct sfi_shape *out, uint32_t room);
/* Those with chunks that are not alike. */
uint32_t sfi_shapes_uneven(struct sfi_shape *out, uint32_t room);

static inline sf_time_ps sfi_hop(const struct sfi_synth *s, uint32_t a, uint32_t b) {
    return s->device_of[a] == s->device_of[b] ? 0 : s->comm;
}

/* No schedule on this placement has a shorter span. */
sf_time_ps sfi_bound(const struct sfi_synth *s, struct sf_bound_why *why);
/* Raises a bound and says why, where passes are few and their ways long. */
int sfi_bound_machines(const struct sfi_synth *s, sf_time_ps *bound, struct sf_bound_why *why, struct sf_err *err);
struct sf_pipe_costs sfi_synth_costs(const struct sfi_synth *s); /* arrays are those of `s` */

/* ---- small problems ---------------------------------------------------------------------------------------------- */

#define SFI_EXACT_PASSES 1536

struct sfi_search_run;

struct sfi_exact {
    sf_time_ps span;                       /* to beat; then the shortest found */
    uint64_t steps;                        /* at most; then those taken */
    struct sf_pass best[SFI_EXACT_PASSES]; /* every device's passes in order, where one was found */
    bool proven;                           /* nothing shorter than `span` is left */
    struct sfi_search_run *run;            /* asked now and then whether to stop; may be NULL */
};

bool sfi_exact_fits(const struct sfi_synth *s);
/* Look at every order that could have a smaller span than io->span, until one has `bound` or the steps are used up. */
int sfi_exact(const struct sfi_synth *s, sf_time_ps bound, struct sfi_exact *io, struct sf_err *err);

/* ---- search ------------------------------------------------------------------------------------------------------ */

#define SFI_ELITES 8

/* A placement that takes part. */
struct sfi_contender {
    struct sfi_synth s;
    struct sfi_placer *placer;
    sf_time_ps bound; /* on the span */
    struct sf_bound_why why;
    struct sf_rng rng;
    struct sfi_policy elite[SFI_ELITES];  /* the best so far, ascending by score */
    struct sfi_try elite_try[SFI_ELITES]; /* with the microbatches of the tries */
    uint32_t elites_n;
    struct sfi_policy policy; /* the best with all microbatches */
    struct sfi_try whole;
    uint32_t known_n;      /* known policies tried */
    struct sf_pipe *given; /* the best, where it is a published schedule; else NULL */
    int family;            /* of `given` */
};

struct sfi_search_run {
    struct sfi_contender **all; /* ascending by bound at first, then the best in front */
    uint32_t n;
    sf_time_ps rest_bound; /* of the placements that do not take part */
    uint64_t passes, budget, evaluated;
    uint64_t small_budget; /* for searching small problems to the end */
    sf_time_ps host_start;
    double limit_s, gap;
    bool (*stop)(void);
    bool stopped;
};

/* Published schedules enter the race where their placement does. */
void sfi_synth_families(const struct sf_synth_problem *problem, const struct sf_synth_options *options,
                        struct sfi_search_run *run);

bool sfi_search_stopped(struct sfi_search_run *r); /* by limit_s or stop */
bool sfi_search_over(struct sfi_search_run *r);    /* out of budget, or stopped */

/* A tree of least keys: the leaves lie behind the nodes, 1 is the root. */
static inline void sfi_least_set(sf_time_ps *tree, uint32_t leaves, uint32_t leaf, sf_time_ps key) {
    uint32_t i = leaves + leaf;
    tree[i] = key;
    while (i > 1) {
        i /= 2;
        sf_time_ps least = tree[2 * i] <= tree[2 * i + 1] ? tree[2 * i] : tree[2 * i + 1];
        if (tree[i] == least) {
            return;
        }
        tree[i] = least;
    }
}

/* Tries look at the fill, some of the steady state and the drain; more microbatches only add steady state. */
uint32_t sfi_try_microbatches(const struct sfi_synth *s);

#define SFI_UNEVEN_CHUNKS 5
#define SFI_UNEVEN_DEVICES 8 /* with fewer of them, small problems are proven optimal among equal chunks */

/* Enough microbatches for all phases. */
static inline bool sfi_has_all_phases(const struct sfi_synth *s) {
    return s->microbatches >= 4 * s->devices;
}

/* Makes the best policy of a contender better, phase by phase. */
void sfi_synth_phases(struct sfi_search_run *r, struct sfi_contender *c, uint64_t budget, struct sfi_policy *best);

/* Spends what is left of the budget on making the tables of the contenders in front better, pass by pass. */
int sfi_synth_polish(struct sfi_search_run *r, struct sfi_contender **winner, struct sf_err *err);

/* Searches placements of small problems to the end, as far as run->small_budget goes. */
int sfi_synth_small(struct sfi_search_run *run, struct sfi_contender **winner, struct sf_err *err);

#define SFI_FRONT 3 /* contenders that a search leaves in order, the best in front */

/* Spends the budget on the contenders; returns the winner, NULL when none has a schedule. */
struct sfi_contender *sfi_synth_search(struct sfi_search_run *run);

#endif
