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
#include "planner/schedule.h"
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
    bool tuned;              /* plans may pick what collectives run on: prices take the quickest */
    struct sfi_memo *memo;   /* the caller's; NULL: every table is made afresh */
    struct sfi_calls *calls; /* the caller's; NULL: calls are priced anew for all degrees */
};
void sfi_base_init(const struct sf_scenario *s, const struct sf_cost *cost, struct sfi_base *out);

/* Tables that took long to make (estimate_memo.c). sfi_memo_table: sf_schedule_make, or a copy of what it made before;
 * sfi_memo_generate: so for sf_pipe_generate, in the form that sf_synth takes. `memo` may be NULL. */
struct sfi_memo;
int sfi_memo_create(struct sfi_memo **out, struct sf_err *err);
void sfi_memo_free(struct sfi_memo *memo);
int sfi_memo_table(struct sfi_memo *memo, const struct sf_plan *plan, const struct sf_pass_weights *weights,
                   struct sf_pipe **out);
int sfi_memo_generate(void *memo, const struct sf_pipe_spec *spec, struct sf_pipe **out, struct sf_err *err);

/* Calls of miniatures that were priced before, for one thread and degrees with the same tp, cp and ep. NULL when out of
 * memory, which is slower and no more. */
struct sfi_calls;
struct sfi_calls *sfi_calls_create(void);
void sfi_calls_free(struct sfi_calls *calls);           /* NULL is legal */
uint64_t sfi_calls_made(const struct sfi_calls *calls); /* in miniatures, priced before or not; NULL is legal */

/* The degrees that change what one rank does with a microbatch. */
struct sfi_degrees {
    uint32_t tp, cp, ep, micro_batch;
    int recompute;
    bool partly; /* for some layers; then `rest` is for the others */
    int rest;
    uint32_t etp, slices; /* 0: tp, 1 */
    bool gather, whole_rows;
};
struct sfi_degrees sfi_degrees_of(const struct sf_plan *plan);

/* Passes that are timed by themselves: backwards as a whole, and as their halves. */
enum sfi_timed { SFI_TIMED_F, SFI_TIMED_BW, SFI_TIMED_B, SFI_TIMED_W, SFI_TIMED };

#define SFI_MOST_SLICES 64 /* of a sequence that can be priced */

/* One pass of a chunk: of each layer in it, of the embedding, of the head and the loss. Seconds, collectives inside
 * and recomputation included. */
struct sfi_pass_time {
    double of[2];    /* a layer without experts, if there are such; one with them */
    double layer;    /* their mean over the model */
    double again[2]; /* where only some layers recompute, of those; `of` is then of the others. Else the same */
    double first, last;
};

/* One microbatch, or the mean slice of one, on one rank, for one set of degrees. */
struct sfi_price {
    struct sfi_pass_time time[SFI_TIMED];
    /* What no rank can be faster than: the cheaper of the first microbatch and the others, every collective on the best
     * placed of its groups and on the fastest kind of GPU, those beside attention hidden. */
    struct sfi_pass_time least[SFI_TIMED];
    struct sfi_pass_time chain[SFI_TIMED];    /* likewise of the quickest slice, where `least` is of the mean one */
    double kept_of[2];                        /* as pass times */
    double kept_layer, kept_chunk, kept_last; /* bytes from forward to backward: per layer, per chunk, for the head */
    double kept_again[2], kept_layer_again;   /* as `again` */
    double work;                              /* bytes that a running pass and its kernels need on top */
    double p2p_bytes;
    bool halves; /* backwards can be split */
};
/* Sum over `layers` layers from `first` on of what each kind has. */
double sfi_layers_sum(const struct sf_model *m, const double of[2], uint32_t first, uint32_t layers);
/* The same where the first `again` of them recompute. */
double sfi_layers_partly(const struct sf_model *m, const double again[2], const double of[2], uint32_t first,
                         uint32_t again_n, uint32_t layers);
/* Forward and backward of a layer or an end. */
double sfi_price_layer(const struct sfi_price *p);
double sfi_price_first(const struct sfi_price *p);
double sfi_price_last(const struct sfi_price *p);

/* Programs whose backwards come in halves keep or make again everything. */
static inline bool sfi_can_split(int recompute) {
    return recompute == SF_RECOMPUTE_NONE || recompute == SF_RECOMPUTE_FULL;
}

/* Of plans that have both kinds of layers, from those where all layers are of one. */
void sfi_price_mix(const struct sfi_price *again, const struct sfi_price *rest, struct sfi_price *out);

/* Compiles the miniatures. SF_E_NOPLAN when they do not fit the device. */
int sfi_price_init(const struct sfi_base *base, const struct sfi_degrees *degrees, struct sfi_price *out,
                   struct sf_err *err);

/* Collectives over one stage's group; reduce_scatter and all_gather are priced alike. */
struct sfi_group_price {
    struct sfi_line scatter, all_reduce;
};

/* What depends on tp, cp, ep and pp alone. */
struct sfi_layout {
    uint32_t tp, cp, ep, dp, pp, etp;
    uint32_t zero_group;              /* the plan's */
    uint32_t sharers;                 /* cp * dp: ranks that have the same dense weights */
    uint32_t group;                   /* of them share what zero says */
    uint32_t experts;                 /* ranks of the sharers that hold all experts together */
    uint32_t ranks_per_domain;        /* 0: the cluster has too few seats */
    double layer_dense, layer_expert; /* weights of one layer on one rank */
    double table;                     /* weights of the embedding or the head on one rank */
    double head_tables; /* of the last stage, beside the embedding where it is on the same: 1 for a head of
                         * its own; with what predicts further its copy of the embedding and the
                         * projections of its input, as so many tables */
    uint32_t further;   /* layers of the last stage that predict further */
    struct sfi_line p2p;
    double least_s_per_byte; /* of a transfer between neighbours in the pipeline */
    /* Least seconds of one layer's collectives on any stage: bucket by bucket, and as part of any larger bucket. */
    double least_scatter, least_gather, least_all_reduce, least_scatter_flow, least_gather_flow;
    double least_across; /* of the shares, over groups */
    struct sfi_line scatter_line,
        gather_line; /* of any number of layers in one collective, at least: seconds a layer */
    /* Per stage, because stages that begin or end inside a domain leave few members there, and those set the pace. */
    struct sfi_group_price dense[SF_MAX_STAGES], expert[SF_MAX_STAGES];
    struct sfi_line across[SF_MAX_STAGES]; /* a share's sum over groups */
};
void sfi_layout_init(const struct sfi_base *base, const struct sf_plan *degrees, struct sfi_layout *out);

/* Seats of each domain to use: no tp group straddles two, nor, if there are seats enough, does any group of tp x
 * `shared` ranks, `shared` being the larger of cp and ep. */
uint32_t sfi_ranks_per_domain(const struct sf_topo *topo, uint32_t gpus, uint32_t tp, uint32_t shared);
static inline uint32_t sfi_shared(uint32_t cp, uint32_t ep) {
    return cp > ep ? cp : ep;
}

/* Worst span over `groups` groups of `members` ranks, `stride` apart, that begin at `first`, `first + repeat`, ... */
struct sfi_groups {
    uint32_t members, stride, first, repeat, groups;
};
void sfi_span(const struct sf_topo *topo, uint32_t ranks_per_domain, const struct sfi_groups *g, struct sf_span *out);

/* Adds a span that is not there yet. */
#define SFI_MOST_SPANS 72 /* ways in which groups of one kind lie over domains, no two alike */
void sfi_add_span(struct sf_span *spans, uint32_t *n, const struct sf_span *span);

struct sfi_estimate {
    double step_s;
    double least_s;      /* no run of this plan is faster; 0: unknown */
    double memory_bytes; /* of the fullest stage */
};
/* Degrees, schedule and layers of the plan must be set; layout and price must be those of its degrees. */
struct sfi_estimate sfi_estimate_plan(const struct sfi_base *base, const struct sfi_layout *layout,
                                      const struct sfi_price *price, const struct sf_plan *plan);

/* What a replay of the plan's table tells. */
struct sfi_replayed {
    double compute_s;                 /* passes and the transfers that they wait for */
    double least_s;                   /* the same at its least: no run of this table is faster */
    double done_s[2 * SF_MAX_STAGES]; /* when each stage has its last gradient, likewise */
    uint32_t stages;
    uint16_t stage_rank[2 * SF_MAX_STAGES];
    double kept[SF_MAX_STAGES]; /* most bytes that each rank of the pipeline keeps at once */
};
/* False when the table cannot be made. */
bool sfi_replay_plan(const struct sfi_base *base, const struct sfi_layout *layout, const struct sfi_price *price,
                     const struct sf_plan *plan, struct sfi_replayed *out);
/* sfi_estimate_plan of a replayed table: slower, closer, and with a least time. */
struct sfi_estimate sfi_estimate_of(const struct sfi_base *base, const struct sfi_layout *layout,
                                    const struct sfi_price *price, const struct sf_plan *plan,
                                    const struct sfi_replayed *r);
/* Memory of one rank of the pipeline in such an estimate. */
double sfi_estimate_bytes(const struct sfi_base *base, const struct sfi_layout *layout, const struct sfi_price *price,
                          const struct sf_plan *plan, const struct sfi_replayed *r, uint32_t rank);
/* Parts that every virtual stage of a plan with layers is cut into. */
uint32_t sfi_plan_units(const struct sf_plan *plan);
/* Layers of every virtual stage, for equal layers and two ends that cost more. */
void sfi_plan_layers(struct sf_plan *plan, uint32_t layers, double layer, double first, double last);

/* sf_cost_collective in seconds, on the quickest algorithm and protocol where plans may pick. */
double sfi_collective_s(const struct sf_cost *cost, bool tuned, int kind, uint64_t bytes, const struct sf_span *span);

/* Recipe time on one rank, collectives included. */
double sfi_recipe_s(const struct sf_prog *prog, const struct sf_cost *cost, uint32_t recipe, uint32_t rank);

/* The same for many recipes of one rank: how its groups are spread is looked up once. Zero but for the first three. */
struct sfi_seated {
    const struct sf_prog *prog;
    const struct sf_topo *topo;
    uint32_t rank, known; /* communicators, a bit each */
    bool quickest;        /* as sfi_base.tuned */
    struct sf_span span[SF_MAX_COMMS];
};
double sfi_seated_recipe_s(struct sfi_seated *at, const struct sf_cost *cost, uint32_t recipe);

#endif
