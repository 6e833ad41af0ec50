/* A plan: every choice that turns a scenario into a program. Readable, editable YAML that round-trips. */
#ifndef SF_PLANNER_PLAN_H
#define SF_PLANNER_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "core/err.h"
#include "core/hash.h"
#include "core/io.h"
#include "core/prog.h"
#include "planner/pipeline.h"

#define SF_MAX_STAGES 1024 /* pp * vpp */

/* The families of pipeline.h under the same numbers, then a table of the user's own. */
enum sf_schedule_kind {
#define X(NAME, name, chunks, text) SF_SCHEDULE_##NAME,
    SF_PIPE_FAMILIES(X)
#undef X
        SF_SCHEDULE_TABLE,
    SF_SCHEDULES_N,
    SF_SCHEDULE_AUTO = SF_SCHEDULES_N /* pins and searches: a table that is made to measure; no plan's */
};

/* X(NAME, "name") */
#define SF_RECOMPUTES(X)                                                                                               \
    X(NONE, "none")                                                                                                    \
    X(FULL, "full")           /* keep only each layer's input, run its forward again in backward */                    \
    X(SELECTIVE, "selective") /* run norms and activation functions again, whose results are not kept */               \
    X(MLA_UP, "mla_up_proj")  /* latent attention: make queries, keys and values from their latent vectors again */    \
    X(SELECTIVE_UP, "selective+mla_up_proj")
enum sf_recompute {
#define X(NAME, name) SF_RECOMPUTE_##NAME,
    SF_RECOMPUTES(X)
#undef X
        SF_RECOMPUTES_N
};

/* X(NAME, "name") - mesh axes, innermost first: ranks that differ in the first are neighbours. tp comes first and ep
 * stays beside cp, so that groups that talk in every layer stay together. */
#define SF_ORDERS(X)                                                                                                   \
    X(PP_LAST, "tp-cp-ep-dp-pp")   /* a stage's replicas side by side */                                               \
    X(PP_MIDDLE, "tp-cp-ep-pp-dp") /* a pipeline's stages side by side, each with its experts and sequences */         \
    X(PP_FIRST, "tp-pp-cp-ep-dp")  /* stages as near as can be */
enum sf_order {
#define X(NAME, name) SF_ORDER_##NAME,
    SF_ORDERS(X)
#undef X
        SF_ORDERS_N
};
const char *sf_order_name(int order);

/* What a communicator's collectives run on (planner/picks.h). */
#define SF_PLAN_PICKS 16
struct sf_plan_picks {
    char comm[SF_NAME];
    struct sf_coll_picks of;
};

struct sf_plan {
    char scenario[512]; /* path of the scenario it plans, relative to the plan file or absolute */
    char cluster[512];  /* the cluster it was planned for, when that is not the scenario's; else "" */
    char overlay[512];  /* what was dead or spare when it was planned, on top of the cluster's own; else "" */
    /* dp counts the ranks that share the batch, so gpus = tp * cp * dp * pp; ep divides cp * dp. */
    uint32_t tp, ep, dp, pp, vpp;
    uint32_t cp;             /* ranks that share each sequence; 0 is 1 */
    uint32_t etp;            /* ranks that share each expert's matrices: 0 is tp, or 1: ep takes in the ranks of tp */
    uint32_t slices;         /* that every sequence is cut into, each with passes of its own; 0 is 1, or the table's */
    bool cp_gather;          /* keys and values are gathered before attention, not passed around beside it */
    uint32_t micro_batch;    /* sequences per microbatch */
    uint32_t microbatches;   /* per rank and step = global batch / (dp * micro_batch) */
    int schedule, recompute; /* enums above */
    bool partly;             /* recompute is for recompute_layers of every virtual stage, its first ones, alone */
    int recompute_rest;      /* and this one then for the others; else NONE */
    uint32_t recompute_layers[SF_MAX_STAGES]; /* 0 unless partly */
    char schedule_file[512];                  /* of SF_SCHEDULE_TABLE, relative to the plan file or absolute; else "" */
    struct sf_pipe *table;                    /* what it holds; the plan's own, see sf_plan_clear */
    uint32_t zero;       /* shared over dp: 0 nothing, 1 optimizer state, 2 gradients too, 3 weights too (FSDP) */
    uint32_t gpus;       /* in use, where they are fewer than the job's; else 0 */
    uint32_t zero_group; /* ranks that share among them what `zero` says, the next group has it again; 0: all */
    uint32_t offload;    /* layers of every virtual stage, its first ones, whose activations wait on the host */
    bool canonical;
    bool split_head; /* every rank of the pipeline has an equal part of the vocabulary's head */
    bool whole_rows; /* every tensor-parallel rank keeps all rows between the matrices: no sequence parallelism */
    int order;       /* of the mesh axes, enum sf_order */
    uint32_t ranks_per_domain; /* seats used of each scale-up domain */
    struct sf_plan_picks picks[SF_PLAN_PICKS];
    uint32_t picks_n;               /* 0: NCCL picks what all collectives run on */
    uint32_t layers[SF_MAX_STAGES]; /* layers of virtual stage s, in data order, s < pp * vpp */
    /* Of the ranks of the pipeline, with tp for the largest: planner/stage_degrees.h. The first is 0: all have tp. */
    uint32_t stage_tp[SF_MAX_STAGES];
    uint32_t stage_ep[SF_MAX_STAGES]; /* the same of ep */
};

static inline bool sf_plan_varies_tp(const struct sf_plan *plan) {
    return plan->stage_tp[0] != 0;
}
static inline bool sf_plan_varies_ep(const struct sf_plan *plan) {
    return plan->stage_ep[0] != 0;
}

static inline uint32_t sf_plan_cp(const struct sf_plan *plan) {
    return plan->cp > 1 ? plan->cp : 1;
}

/* Of a plan that has been checked. */
static inline uint32_t sf_plan_gpus(const struct sf_plan *plan) {
    return plan->tp * sf_plan_cp(plan) * plan->dp * plan->pp;
}

static inline uint32_t sf_plan_slices(const struct sf_plan *plan) {
    uint32_t slices = plan->table != NULL ? plan->table->slices : plan->slices;
    return slices > 1 ? slices : 1;
}

static inline uint32_t sf_plan_etp(const struct sf_plan *plan) {
    return plan->etp > 0 ? plan->etp : plan->tp;
}

/* First layers of virtual stage v that `recompute` is for. */
static inline uint32_t sf_plan_again(const struct sf_plan *plan, uint32_t v) {
    return plan->partly ? plan->recompute_layers[v] : plan->layers[v];
}

/* Ranks that share the optimizer's state, and what else `zero` says. */
static inline uint64_t sf_plan_sharers(const struct sf_plan *plan) {
    uint64_t all = (uint64_t)plan->dp * sf_plan_cp(plan);
    return plan->zero_group > 0 && plan->zero_group < all ? plan->zero_group : all;
}

/* The lowest rank of a pipeline stage is that many times its number. */
static inline uint32_t sf_plan_stage_stride(const struct sf_plan *plan) {
    uint32_t cp = sf_plan_cp(plan), etp = sf_plan_etp(plan), ep = etp < plan->tp ? plan->ep / plan->tp : plan->ep;
    uint32_t shares = plan->order == SF_ORDER_PP_LAST     ? plan->dp * cp
                      : plan->order == SF_ORDER_PP_MIDDLE ? (ep > cp ? ep : cp)
                                                          : 1;
    return plan->tp * shares;
}

/* Ranks that share the experts, of those that share the batch. */
static inline uint32_t sf_plan_ep_beside_tp(const struct sf_plan *plan) {
    return sf_plan_etp(plan) < plan->tp ? plan->ep / plan->tp : plan->ep;
}

/* `schedule:` is a family's name or the path of a table (CSV, see pipeline.h), which is loaded and replayed too.
 * The scenario's hash is kept in the file; a plan loaded for another scenario is refused. */
int sf_plan_load(const struct sf_io *io, const char *path, struct sf_plan *out, struct sf_hash *scenario_hash,
                 struct sf_err *err);
void sf_plan_clear(struct sf_plan *plan); /* of a loaded or a found plan; legal on a zeroed one */
int sf_plan_print(const struct sf_plan *plan, struct sf_hash scenario_hash, struct sf_buf *out);

const char *sf_schedule_name(int kind);
/* For people: a family, "table", or "auto" for a table that a search made. */
const char *sf_plan_schedule_text(const struct sf_plan *plan);
int sf_schedule_parse(const char *name); /* a family's number; a path with a point is SF_SCHEDULE_TABLE; else -1 */

/* The value of `schedule:`; *file points into the document, "" for a family. Then the table of a file, which is looked
 * for beside another file unless its path is absolute, replayed, and is the caller's. */
struct sf_node;
int sf_schedule_read(const struct sf_node *node, int *kind, const char **file, struct sf_err *err);
int sf_schedule_load(const struct sf_io *io, const char *beside, const char *file, struct sf_pipe **out,
                     struct sf_err *err);
const char *sf_recompute_name(int kind);
/* For people: "full", or "full 12/32, selective" where 12 of 32 layers are. Returns out. */
const char *sf_plan_recompute_text(const struct sf_plan *plan, char *out, size_t size);

#endif
