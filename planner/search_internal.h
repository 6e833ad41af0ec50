/* What the files of the search share. It goes: the space (lists of values) -> groups (points that the rules allow, up
 * to cut and zero), each with a bound that no cut of the layers beats -> candidates (points priced by replaying their
 * table, best guesses first), each with a bound of its own -> programs, compiled and simulated, best estimates first.
 * What is left out on the way lowers `open_s`: nothing in the space that was not simulated is faster. */
#ifndef SF_PLANNER_SEARCH_INTERNAL_H
#define SF_PLANNER_SEARCH_INTERNAL_H

#include "planner/estimate.h"
#include "planner/search.h"

#define SFI_MAX_VALUES 2048 /* no number below 2^32 has more than 1,536 divisors */

struct sfi_values {
    uint32_t n;
    uint32_t value[SFI_MAX_VALUES]; /* ascending */
};

/* How the layers are shared out. */
enum sfi_cut_rule {
    SFI_CUT_TIME,   /* the slowest stage is as fast as can be */
    SFI_CUT_EVEN,   /* equal numbers */
    SFI_CUT_MEMORY, /* like time, among those that fit the device; only where that of time does not, for zero 0 and 1 */
    SFI_CUTS_N
};

/* The lists whose product is the search space; dp follows from the others. */
struct sfi_space {
    struct sfi_values tp, cp, ep, pp, vpp, micro_batch, schedule, recompute, zero;
    struct sfi_values etp, slices, gather, whole_rows, split_head; /* etp: 1 whole experts, 0 as tp */
    struct sfi_values zero_group;  /* 0: all that have the same weights; else inside a domain */
    struct sfi_values offload;     /* layers; what is visited is whether any */
    struct sfi_values collectives; /* 0: as NCCL picks, 1: tuned; every plan that is simulated gets the better one */
    struct sfi_values again; /* layers of a virtual stage that recompute, where not all do; likewise, and 0 is all */
};
/* SF_E_NOPLAN when a pin leaves nothing to try. */
int sfi_space_init(const struct sf_scenario *s, struct sfi_space *out, struct sf_err *err);
uint64_t sfi_space_points(const struct sfi_space *space); /* saturates */
bool sfi_pin_allows(const struct sf_pin *pin, uint32_t value);

/* Everything but cut and zero. */
struct sfi_group {
    double guess_s, bound_s;
    uint32_t tp, cp, ep, pp, vpp, micro_batch;
    uint8_t schedule, recompute; /* SF_SCHEDULE_AUTO for one that is still to be made */
    uint8_t etp, slices;         /* etp: 0 or 1 */
    uint8_t draw;                /* of the tables made for it, which differ in what chance decided */
    uint8_t rest;                /* partly: of the layers that `recompute` leaves out */
    bool gather, whole_rows, split_head, offload, partly;
    uint8_t number; /* of GPUs: which */
    bool looked;    /* at it already */
};
int sfi_group_compare(const void *a, const void *b);

/* A point worth simulating, small enough to keep many. */
struct sfi_candidate {
    struct sfi_group group;
    double estimate_s, least_s, memory_bytes;
    uint8_t zero, cut;
    uint32_t zero_group, offload;
    uint16_t table; /* 1 + place among the tables that the search made, 1 in a part; 0: none of them */
};
/* Candidates are ranked by what they share: of two values of zero estimates may err differently, and those that look
 * better than they are must not crowd out all others. */
#define SFI_SHARINGS 4
#define SFI_RANKINGS (SFI_SHARINGS * SF_SEARCH_NUMBERS) /* and for each number of GPUs */
struct sfi_ranked {
    struct sfi_candidate *of; /* ascending */
    size_t n, next;           /* the next one to simulate */
    double ratios;            /* sum of simulated times over estimates, of so many */
    uint32_t simulated;
};
int sfi_candidate_compare(const struct sfi_candidate *a, const struct sfi_candidate *b);

/* Why points fell away, in the order in which the rules are tried. X(NAME, "what the rule says") */
#define SFI_RULES(X)                                                                                                   \
    X(TP, "tp must divide heads, key-value heads, feed-forward width and vocabulary, and be 1 where that is padded")   \
    X(CP, "2 * cp must divide the sequence, and cp above 1 needs bf16 or lower")                                       \
    X(EP, "ep must divide the experts (1 without experts), and of ep and cp one the other")                            \
    X(PP, "tp * cp * pp must divide the GPUs, and pp may not exceed the layers")                                       \
    X(DP, "dp = gpus / (tp * cp * pp) must be allowed, and cp * dp a multiple of ep (canonical: a power of two)")      \
    X(SEATS, "whole tp groups must find seats, as many in every scale-up domain")                                      \
    X(BATCH, "dp * micro_batch must divide the global batch")                                                          \
    X(ROWS, "tp must divide the tokens that a rank has of a microbatch, and with learned positions its sequences")     \
    X(LONG, "a rank can have at most 65,535 microbatches in a step")                                                   \
    X(SLICES, "slices need pp above 1, micro_batch 1, cp 1, no learned positions, a sequence that tp * slices divides" \
              " and at most 65,535 passes")                                                                            \
    X(GATHER, "cp_exchange gather needs cp above 1")                                                                   \
    X(WHOLE_ROWS, "whole_rows needs tp above 1")                                                                       \
    X(SPLIT_HEAD, "split_head needs 1f1b, pp above 1, pp * tp that divides the vocabulary, and cp and slices of 1")    \
    X(SCHEDULE, "every chunk needs a layer; interleaved and breadth-first need pp and vpp of at least 2, interleaved " \
                "microbatches a multiple of pp, dualpipe and dualpipev 2 pp microbatches; zb-v, v-half, v-min, "       \
                "1f1b-v and dualpipev need vpp 2, a table what it has, auto 1 to 4 and pp of 2, the others vpp 1; "    \
                "recompute selective needs whole backwards")                                                           \
    X(ZERO, "zero 2 and 3 need somebody to share with, few microbatches and no canonical sums")                        \
    X(MINI, "two layers must make a program")                                                                          \
    X(MEMORY, "everything a stage keeps must fit the device's memory")                                                 \
    X(PROGRAM, "the compiled program must pass every check")
enum sfi_rule {
#define X(NAME, text) SFI_RULE_##NAME,
    SFI_RULES(X)
#undef X
        SFI_RULES_N
};

/* How much of the work is done; counted, never timed, so that a search can be repeated. */
struct sfi_effort {
    uint32_t replays, tables, simulations, answers;
    uint32_t refusals;     /* of compiled programs, for want of memory, that do not count as simulated */
    uint64_t events;       /* simulated */
    uint64_t compiling;    /* of programs to simulate: passes of all their ranks */
    uint64_t placing;      /* simulated of plans on other seats */
    uint64_t passes;       /* in all tables that are made and replayed, those of costly families several times */
    uint64_t proof_passes; /* likewise, of tables that are replayed for the gap alone */
};

struct sfi_search {
    struct sfi_effort effort;
    sf_time_ps start;
    const struct sf_scenario *scenario; /* with the GPUs of the number at hand */
    const struct sf_scenario *whole;    /* with all that the job has */
    const struct sf_search_options *options;
    struct sf_search_stats *stats;
    struct sfi_base base;
    const struct sfi_space *space; /* likewise of the number at hand */
    struct sfi_number *numbers;    /* owned by the whole search; NULL: one, and nobody else's */
    uint32_t numbers_n, number;    /* the one at hand */
    bool probing;                  /* that one alone, for a first impression; what is not looked at comes later */
    double done;                   /* of the whole search, roughly, for whoever waits */
    double enough_s; /* with several numbers: what is known to be possible; what bounds put above it is not kept */
    uint64_t beaten; /* groups that were not */
    struct sfi_known *known; /* of all threads */
    struct sfi_group *groups;
    size_t groups_n, groups_room;
    struct sfi_ranked best[SFI_RANKINGS];
    size_t best_room;        /* of each */
    struct sf_pipe **tables; /* made by the synthesiser; owned */
    uint32_t tables_n;
    bool helps;                  /* a part of a search, on a thread that is not the caller's */
    struct sfi_candidate *found; /* by a part, in order */
    size_t found_n, found_room;
    struct sf_pipe *made; /* by a part: the table that they are of */
    uint64_t most_events; /* of one simulation so far */
    double open_s;        /* no point that is left out is faster */
    bool unseen;          /* points that were not even visited */
    uint32_t room;        /* results kept on the way: finalists of p95, else as many as are wanted */
    uint64_t refused[SFI_RULES_N];
    struct sfi_candidate least; /* the smallest plan that was too large */
    struct sfi_candidate large; /* the quickest, by its estimate */
    struct sf_err program_err;  /* of the first program that failed its check, or could not be made */
    int unpriced;               /* why the degrees that were asked for last have no price: code of an error */
    struct sf_plan least_mini;  /* the most divided miniature that was, and what compile said about it */
    struct sf_err mini_err;
    struct sf_plan plan; /* the point being looked at */
};

static inline int sfi_pass_on(const struct sf_err *from, int rc, struct sf_err *err) {
    if (err != NULL) {
        *err = *from;
    }
    return rc;
}

static inline void sfi_refuse(struct sfi_search *s, enum sfi_rule rule) {
    s->refused[rule]++;
}
/* Memory of the smallest device; with what it may use of the host's where s->plan offloads. */
double sfi_device_bytes(const struct sfi_search *s);
double sfi_reach_bytes(const struct sfi_search *s);

/* Numbers of GPUs (search_numbers.c): the job's, and where it may use fewer those that divide well. SF_E_NOPLAN when
 * pins leave nothing to try with any of them. */
int sfi_numbers_create(struct sfi_search *s, struct sf_err *err);
void sfi_numbers_free(struct sfi_search *s);
uint64_t sfi_numbers_points(const struct sfi_search *s); /* saturates */
/* Makes a number the one at hand, or the job's again. */
void sfi_stand_on(struct sfi_search *s, uint32_t number);
void sfi_stand_back(struct sfi_search *s);
const struct sf_scenario *sfi_number_scenario(const struct sfi_search *s, uint32_t number);
const struct sf_scenario *sfi_scenario_of(const struct sfi_search *s, const struct sf_plan *plan);
/* Looks at the first number's space alone, another one, until `sfi_numbers_widen`. */
uint32_t sfi_numbers_narrow(struct sfi_search *s, const struct sfi_space *space);
void sfi_numbers_widen(struct sfi_search *s, uint32_t numbers_n);
/* What a step of that time is worth at the least, whatever else the objective adds. */
double sfi_scaled(const struct sfi_search *s, uint32_t number, double step_s);
/* The same of the model's arithmetic at the devices' peak, on the best of all numbers. */
double sfi_arithmetic_s(const struct sfi_search *s, const struct sf_plan_result *r);
/* A first impression of each number, where there are several: closed forms err differently for them, so what the best
 * of its guesses turned out to take corrects all of them, and they compete from there on. */
int sfi_probe_numbers(struct sfi_search *s, struct sf_plan_result *results, uint32_t *results_n, struct sf_err *err);
static inline uint32_t sfi_ranking(const struct sfi_candidate *c) {
    return c->zero % SFI_SHARINGS + (uint32_t)SFI_SHARINGS * c->group.number;
}
/* Remembers the best step of each number. */
void sfi_note_number(struct sfi_search *s, const struct sf_plan_result *r);

/* Groups that can share what zero says, 0 for all ranks first: whole parts of a domain. Returns how many. */
#define SFI_MOST_GROUPS 16
uint32_t sfi_zero_groups(const struct sfi_search *s, const struct sfi_layout *l, uint32_t out[SFI_MOST_GROUPS]);

/* What is known of degrees, and whether the search was stopped. */
int sfi_known_create(struct sfi_known **out, struct sf_err *err);
void sfi_known_free(struct sfi_known *k);
/* Counts what was done, in what takes as long as compiling and pricing a call. */
void sfi_work(struct sfi_search *s, uint64_t calls);
/* Asks the caller, on the caller's own thread, and tells it what is done; notes the answer in the stats. */
bool sfi_stopped(struct sfi_search *s);

/* Parts of a search's time after which a step is done, as they are at 220,000 GPUs; simulation is the rest. */
#define SFI_DONE_VISITED 0.25
#define SFI_DONE_REFINED 0.5
#define SFI_DONE_TIGHTENED 0.65

/* Items 0 .. n-1, each looked at by a part of the search: the same scenario, nothing found yet. Parts run on as many
 * threads as there are; what they have found is taken over in the order of the items, so nothing depends on how many.
 * A part touches of the search what is its own or behind a lock. */
typedef int sfi_part_fn(struct sfi_search *part, size_t i, void *items, struct sf_err *err);
int sfi_search_share(struct sfi_search *s, size_t n, sfi_part_fn *work, void *items, struct sf_err *err);
uint32_t sfi_threads(const struct sfi_search *s);
int sfi_add_groups(struct sfi_search *s, const struct sfi_group *groups, size_t n, struct sf_err *err);

/* The price of the degrees of s->plan, made on first use; NULL when their miniatures do not fit a device. */
int sfi_find_price(struct sfi_search *s, const struct sfi_price **out, struct sf_err *err);

/* Of all miniatures that do not fit, the one that most nearly would explains best. */
void sfi_remember_mini(struct sfi_search *s, const struct sf_plan *mini, const struct sf_err *why);

/* The layout of the degrees of s->plan and its zero_group, made on first use. */
int sfi_find_layout(struct sfi_search *s, const struct sfi_layout **out, struct sf_err *err);

/* Visit the space and keep its groups, best bound first. */
int sfi_search_visit(struct sfi_search *s, struct sf_err *err);

struct sfi_at { /* what a group's plan is priced with */
    const struct sfi_price *price;
    const struct sfi_layout *layout;
};

/* Which order of passes a bound allows. */
struct sfi_freedom {
    uint32_t ways;         /* copies of the model in the pipeline */
    uint32_t chunks;       /* of each rank, all copies counted; 0: any number */
    uint32_t chunks_least; /* of one copy */
    bool split;            /* weight gradients may wait */
};
struct sfi_freedom sfi_freedom_of(uint32_t schedule, uint32_t vpp);

/* No cut of `layers`, placement and order of passes has a shorter step with this zero. */
struct sfi_bounded {
    const struct sfi_price *price;
    const struct sfi_layout *layout; /* of its pp ranks */
    uint32_t layers, microbatches, zero, slices;
    uint32_t units; /* that every virtual stage is cut into with zero 2 and 3, at least */
    bool split_head;
    double free_bytes; /* of all ranks of a pipeline, beside weights and their kin */
};
struct sfi_bounded sfi_bounded_of(const struct sfi_search *s, const struct sfi_at *at, uint32_t zero);
/* Units of s->plan's virtual stages, whatever rule cuts its layers with zero 2 and 3. */
uint32_t sfi_least_units(const struct sfi_search *s, const struct sfi_price *price);
double sfi_bound_s(const struct sfi_bounded *b, const struct sfi_freedom *freedom);
/* The same, or most_s where it is no less: that takes a fraction of the time. */
double sfi_bound_within_s(const struct sfi_bounded *b, const struct sfi_freedom *freedom, double most_s);

/* The same where the plan's layers are known, wherever its stages are placed, and its zero and kin are those of `b`. */
double sfi_bound_cut_s(const struct sfi_bounded *b, const struct sfi_freedom *freedom, const struct sf_model *model,
                       const struct sf_plan *plan, double most_s);

/* What s->plan should take, roughly, to know what to look at first; and memory that it needs at least, surely. */
struct sfi_guess {
    double step_s, least_bytes, bytes;
};
struct sfi_guess sfi_guess(const struct sfi_search *s, const struct sfi_at *at);

/* Zero that a plan is cut with by this rule: its weights decide what fits. */
uint32_t sfi_cut_zero(const struct sfi_search *s, enum sfi_cut_rule rule);
/* Plan of a group, without layers; then its layers. False: this rule has nothing of its own to offer. */
void sfi_group_plan(const struct sfi_search *s, const struct sfi_group *g, struct sf_plan *out);
bool sfi_cut_layers(const struct sfi_search *s, const struct sfi_at *at, enum sfi_cut_rule rule, struct sf_plan *plan);

/* With the prices of s->plan, which recomputes in part and was replayed with no layer that does: as few of every rank's
 * as fit by its estimate. False: too few. */
bool sfi_again_fit(struct sfi_search *s, const struct sfi_at *at, struct sfi_replayed *r, struct sfi_estimate *e);
/* The same by the program. What turns out to be all or nothing is named so. */
int sfi_again_plan(struct sfi_search *s, struct sf_plan *plan, struct sf_err *err);
/* As many as are pinned, of a plan with layers. */
void sfi_again_pinned(const struct sf_scenario *scenario, struct sf_plan *plan);

/* For plans that recompute in part; false: nothing fits, by this arithmetic. */
bool sfi_cut_again(const struct sfi_search *s, const struct sfi_at *at, struct sf_plan *plan);
/* Layers that are likely to recompute in the end, before there is a table that could tell. */
void sfi_again_likely(const struct sfi_search *s, const struct sfi_at *at, struct sf_plan *plan);
/* What cuts reckon with: microbatches that a virtual stage keeps at once, and bytes of a layer with its ends, beside
 * activations. */
uint32_t sfi_cut_in_flight(const struct sf_plan *p, uint32_t v);
double sfi_layer_state_bytes(const struct sfi_search *s, const struct sfi_layout *l, const struct sf_plan *p,
                             bool first, bool head);

/* Price the best groups by replay and keep the best candidates. */
int sfi_search_refine(struct sfi_search *s, struct sf_err *err);
/* The same for groups whose table is to be synthesised first. */
int sfi_refine_auto(struct sfi_search *s, const struct sfi_group *g, const struct sfi_at *at, struct sf_err *err);
/* Bounds anew, and where that is worth it replays, what was not looked at: the gap's part of the work. */
int sfi_search_tighten(struct sfi_search *s, struct sf_err *err);
uint64_t sfi_passes_of(const struct sfi_search *s, const struct sfi_group *g); /* that effort is counted in */
/* `made`: its table was made for it, and for one cut. */
int sfi_refine_plan(struct sfi_search *s, const struct sfi_group *g, const struct sfi_at *at, bool made,
                    struct sf_err *err);
/* The candidates of a part, ranked among the best; their table becomes the search's. */
int sfi_take_found(struct sfi_search *s, struct sfi_search *from, struct sf_err *err);
void sfi_too_large(struct sfi_search *s, const struct sfi_candidate *c);
void sfi_leave_out(struct sfi_search *s, double bound_s);
/* The candidate's plan; its table, if it has one, is the search's or the scenario's. */
int sfi_candidate_plan(struct sfi_search *s, const struct sfi_candidate *c, struct sf_plan *out, struct sf_err *err);

/* Simulates the best candidates, each on its best seats. */
int sfi_simulate_best(struct sfi_search *s, struct sf_plan_result *results, uint32_t *results_n, struct sf_err *err);

/* Frees what a search made on its way, not itself. */
void sfi_search_clear(struct sfi_search *s);

/* SF_E_NOPLAN with the last rule that anything reached. */
int sfi_search_explain(const struct sfi_search *s, struct sf_err *err);
void sfi_explain_more(struct sf_err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3))); /* appends */

/* Adds to such an error which pins are at fault, alone or two together; returns what the search fails with. */
int sfi_search_pins(struct sfi_search *s, struct sf_err *err);

/* sf_plan_evaluate without the closed form. */
int sfi_evaluate(const struct sf_scenario *s, const struct sf_cost *cost, const struct sf_plan *plan,
                 struct sf_plan_result *out, struct sf_err *err);
/* The same, with its collectives on what is quickest for them where the search may choose. */
int sfi_evaluate_tuned(const struct sfi_search *s, const struct sf_scenario *scenario, const struct sf_plan *plan,
                       struct sf_plan_result *out, struct sf_err *err);
/* Simulates the most promising plan that is too large, with more memory; keeps it in the stats if it beats `best`. */
int sfi_search_large(struct sfi_search *s, const struct sf_plan_result *best, struct sf_err *err);
/* Results whose collectives are tuned, once more as NCCL picks, where that is allowed: the better one stays. */
int sfi_search_plain(struct sfi_search *s, struct sf_plan_result *results, uint32_t n, struct sf_err *err);
/* Orders p95's finalists by what they take under noise, as many of them as there is time for. */
int sfi_search_robust(struct sfi_search *s, struct sf_plan_result *results, uint32_t *results_n, struct sf_err *err);
/* One line: where `r` loses time against `best`, and in what they differ. */
void sfi_lost(const struct sf_plan_result *r, const struct sf_plan_result *best, char *out, size_t size);

#endif
