/* What the files of the search share. */
#ifndef SF_PLANNER_SEARCH_INTERNAL_H
#define SF_PLANNER_SEARCH_INTERNAL_H

#include "planner/estimate.h"
#include "planner/search.h"

#define SFI_MAX_VALUES 2048 /* no number below 2^32 has more than 1,536 divisors */

struct sfi_values {
    uint32_t n;
    uint32_t value[SFI_MAX_VALUES]; /* ascending */
};

/* The lists whose product is the search space; dp follows from the others. */
struct sfi_space {
    struct sfi_values tp, ep, pp, vpp, micro_batch, schedule, recompute, zero;
};
/* SF_E_NOPLAN when a pin leaves nothing to try. */
int sfi_space_init(const struct sf_scenario *s, struct sfi_space *out, struct sf_err *err);
uint64_t sfi_space_points(const struct sfi_space *space); /* saturates */
bool sfi_pin_allows(const struct sf_pin *pin, uint32_t value);

/* A point worth simulating, small enough to keep many; layers follow from the costs. */
struct sfi_candidate {
    double estimate_s, memory_bytes;
    uint32_t tp, ep, pp, vpp, micro_batch, schedule, recompute, zero;
    double layer, first, last; /* costs that cut the layers */
};
int sfi_candidate_compare(const struct sfi_candidate *a, const struct sfi_candidate *b);
void sfi_candidate_plan(const struct sf_scenario *s, const struct sfi_candidate *c, struct sf_plan *out);

/* Why points fell away, in the order in which the rules are tried. X(NAME, "what the rule says") */
#define SFI_RULES(X)                                                                                                   \
    X(TP, "tp must divide heads, key-value heads, feed-forward width and vocabulary")                                  \
    X(EP, "ep must divide the experts (1 without experts)")                                                            \
    X(PP, "tp * pp must divide the GPUs, and pp may not exceed the layers")                                            \
    X(DP, "dp = gpus / (tp * pp) must be an allowed multiple of ep (canonical: a power of two)")                       \
    X(SEATS, "whole tp groups must find seats in the scale-up domains")                                                \
    X(BATCH, "dp * micro_batch must divide the global batch into microbatches")                                        \
    X(SCHEDULE, "every chunk needs a layer; interleaved and breadth-first need pp and vpp of at least 2, interleaved " \
                "microbatches a multiple of pp, dualpipe and dualpipev 2 pp microbatches; zb-v, v-half, v-min, "       \
                "1f1b-v and dualpipev need vpp 2, a table what it has, the others vpp 1")                              \
    X(MEMORY, "everything a stage keeps must fit the device's memory")
enum sfi_rule {
#define X(NAME, text) SFI_RULE_##NAME,
    SFI_RULES(X)
#undef X
        SFI_RULES_N
};

struct sfi_priced {
    enum { SFI_PRICE_UNKNOWN, SFI_PRICE_KNOWN, SFI_PRICE_TOO_LARGE } state;
    struct sfi_price price;
};

struct sfi_search {
    const struct sf_scenario *scenario;
    const struct sf_search_options *options;
    struct sf_search_stats *stats;
    struct sfi_base base;
    struct sfi_space space;
    struct sfi_priced *priced;  /* [micro_batch][recompute], for the current tp and ep */
    struct sfi_candidate *best; /* ascending */
    size_t best_n, best_room;
    uint64_t refused[SFI_RULES_N];
    struct sfi_candidate least; /* the smallest plan that was too large */
    struct sf_plan least_mini;  /* the most divided miniature that was, and what compile said about it */
    struct sf_err mini_err;
    struct sfi_layout layout;
    struct sf_plan plan; /* the point being looked at */
};

/* Visit the space, price what the rules allow, keep the best. */
int sfi_search_visit(struct sfi_search *s, struct sf_err *err);
/* SF_E_NOPLAN with the last rule that anything reached. */
int sfi_search_explain(const struct sfi_search *s, struct sf_err *err);

/* sf_plan_evaluate without the closed form. */
int sfi_evaluate(const struct sf_scenario *s, const struct sf_cost *cost, const struct sf_plan *plan,
                 struct sf_plan_result *out, struct sf_err *err);
/* One line: where `r` loses time against `best`, and in what they differ. */
void sfi_lost(const struct sf_plan_result *r, const struct sf_plan_result *best, char *out, size_t size);

#endif
