/* Closed forms behind the search: what a point of the search space costs, without building its program.
 *
 * Compute prices come from compiled miniatures (one and two layers on one pipeline stage), so that the estimate counts
 * the very calls that compile emits and follows it when it changes. Seconds and bytes are doubles here: an estimate
 * only ranks; the simulator decides. */
#ifndef SF_PLANNER_ESTIMATE_H
#define SF_PLANNER_ESTIMATE_H

#include <stdbool.h>
#include <stdint.h>

#include "planner/job.h"
#include "planner/plan.h"
#include "sim/cost.h"

/* Split `layers` over pp * vpp virtual stages, at least one each: the slowest stage (sum of its chunks) is as fast as
 * any split allows, and inside each stage so is its slowest chunk. `first` and `last` are the costs of the embedding
 * and of the head with its loss, in the unit of `layer`. Needs pp * vpp <= layers. Fills out[pp * vpp]. */
void sfi_partition(uint32_t layers, uint32_t pp, uint32_t vpp, double layer, double first, double last, uint32_t *out);

/* Affine time: fixed_s + s_per_unit * units. */
struct sfi_line {
    double fixed_s, s_per_unit;
};

/* Facts of one scenario. */
struct sfi_base {
    const struct sf_scenario *scenario;
    const struct sf_cost *cost;
    double weight_bytes;    /* of one weight, and of its gradient */
    double optimizer_bytes; /* per weight that a rank updates */
    struct sfi_line adamw;  /* per weight */
    double dispatch_s;
};
void sfi_base_init(const struct sf_scenario *s, const struct sf_cost *cost, struct sfi_base *out);

/* One microbatch on one rank, for one (tp, ep, micro_batch, recompute). */
struct sfi_price {
    double layer_f, layer_b;                  /* in-layer collectives and recomputation included */
    double first_f, first_b;                  /* embedding */
    double last_f, last_b;                    /* head and loss */
    double kept_layer, kept_chunk, kept_last; /* bytes from forward to backward: per layer, per chunk, for the head */
    double work;                              /* bytes that one running forward or backward needs on top */
    double p2p_bytes;
};

/* Compiles the miniatures. SF_E_NOPLAN when they do not fit the device. */
int sfi_price_init(const struct sfi_base *base, uint32_t tp, uint32_t ep, uint32_t micro_batch, int recompute,
                   struct sfi_price *out, struct sf_err *err);

/* Collectives over one stage's group; reduce_scatter and all_gather are priced alike. */
struct sfi_group_price {
    struct sfi_line scatter, all_reduce;
};

/* What depends on the degrees alone. */
struct sfi_layout {
    uint32_t tp, ep, dp, pp;
    uint32_t ranks_per_domain;        /* 0: the cluster has too few seats */
    double layer_dense, layer_expert; /* weights of one layer on one rank */
    double table;                     /* weights of the embedding or the head on one rank */
    double head_tables;               /* 0 when the head uses the embedding of its own stage, else 1 */
    struct sfi_line p2p;
    /* Per stage, because stages that begin or end inside a domain leave few members there, and those set the pace. */
    struct sfi_group_price dense[SF_MAX_STAGES], expert[SF_MAX_STAGES];
};
void sfi_layout_init(const struct sfi_base *base, uint32_t tp, uint32_t ep, uint32_t pp, struct sfi_layout *out);

/* Seats of each domain to use: no tp group straddles two, nor, if there are seats enough, does any tp x ep group. */
uint32_t sfi_ranks_per_domain(const struct sf_topo *topo, uint32_t gpus, uint32_t tp, uint32_t ep);

/* Worst span over `groups` groups of `members` ranks, `stride` apart, that begin at `first`, `first + repeat`, ... */
struct sfi_groups {
    uint32_t members, stride, first, repeat, groups;
};
void sfi_span(const struct sf_topo *topo, uint32_t ranks_per_domain, const struct sfi_groups *g, struct sf_span *out);

struct sfi_estimate {
    double step_s;
    double memory_bytes; /* of the fullest stage */
};
/* Degrees, schedule and layers of the plan must be set; layout and price must be those of its degrees. */
struct sfi_estimate sfi_estimate_plan(const struct sfi_base *base, const struct sfi_layout *layout,
                                      const struct sfi_price *price, const struct sf_plan *plan);

/* What a replay of the plan's table tells. */
struct sfi_replayed {
    double compute_s; /* passes and the transfers that they wait for */
    uint32_t stages;
    uint16_t stage_rank[2 * SF_MAX_STAGES];
    double kept[SF_MAX_STAGES]; /* most bytes that each rank of the pipeline keeps at once */
};
/* False when the table cannot be made. */
bool sfi_replay_plan(const struct sfi_base *base, const struct sfi_price *price, const struct sf_plan *plan,
                     double transfer_s, struct sfi_replayed *out);
/* Layers of every virtual stage, for equal layers and two ends that cost more. */
void sfi_plan_layers(struct sf_plan *plan, uint32_t layers, double layer, double first, double last);

/* Recipe time on one rank, collectives included. */
double sfi_recipe_s(const struct sf_prog *prog, const struct sf_cost *cost, uint32_t recipe, uint32_t rank);

#endif
