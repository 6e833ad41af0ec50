/* A scenario: cluster, model, job and what the planner may not change, read from one YAML file.
 *
 *   name: grok1-gb300-220k
 *   cluster: ../clusters/gb300-nvl72-220k.yaml     # relative to the scenario file
 *   model: ../models/grok-1/config.json
 *   job:
 *     seq_len: 8192
 *     global_batch: 8250            # sequences
 *     precision: bf16               # f32 | bf16 | fp8 | mxfp8 | fp8_block | nvfp4; the last four are of GEMM inputs
 *     gpus: 220000                  # default: all in use in the cluster; { most: 220000 }: fewer where that is better
 *     optimizer: { kind: adamw, lr: 3e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, warmup_steps: 20,
 *                  clip_norm: 1.0,  # of the global gradient; 0 or absent: never
 *                  moments: f32 }   # or bf16, rounded stochastically
 *     steps: 20
 *     seed: 1
 *     data: ../data/text.txt        # byte-level text, needed only to train
 *     canonical: true               # sums in one fixed order, the same for every layout
 *     vocab_multiple: 128           # embedding and head get rows that are no tokens, up to a multiple of it
 *     loss_rows: 4096               # tokens whose logits there are at a time; 0 or absent: as many as take 256 MiB,
 *                                   # and where that is all of a microbatch, from its forward to its backward
 *     memory_reserve: 4GB           # of each device, for what no plan counts: the CUDA context, NCCL's buffers, other
 * programs upkeep: { failures_per_1000_gpu_days: 0.474, restart: 10min, storage_rate: 122MB/s, gpu_hour_price: 2 }
 *   plan: { tp: 8, pp: [5, 10, 20], schedule: 1f1b }   # each optional: one value or a list of allowed ones;
 *                                                      # schedule: families, or the path of one table;
 *                                                      # layout: Megatron's string; offload: one value
 */
#ifndef SF_PLANNER_JOB_H
#define SF_PLANNER_JOB_H

#include "core/io.h"
#include "planner/model.h"
#include "planner/plan.h"
#include "planner/plan_layout.h"
#include "topo/topo.h"

/* What weeks of training cost beside steps; reaches no program. */
struct sf_upkeep {
    double failures_per_1000_gpu_days; /* that stop the job; 0: nothing fails */
    double restart_s;                  /* from a failure until state is read again */
    uint64_t storage_bytes_per_s;      /* of each GPU, reading or writing checkpoints */
    double gpu_hour_price;
};

struct sf_job {
    uint32_t seq_len_tokens;
    uint64_t global_batch_sequences;
    int precision; /* enum sf_dtype of GEMM inputs; activations and gradients are bf16 unless f32 */
    uint32_t gpus;
    uint32_t gpus_asked; /* where the cluster leaves fewer, or a plan uses fewer; else as gpus */
    bool fewer;          /* the planner may leave some of them idle where that is worth more; reaches no program */
    uint32_t steps;
    uint64_t seed;
    bool canonical;
    double lr, beta1, beta2, eps, weight_decay;
    double clip_norm;  /* the gradient's global norm is cut to it; 0: never */
    bool lean_moments; /* in bf16, rounded stochastically */
    uint32_t warmup_steps;
    struct sf_upkeep upkeep;
    uint32_t loss_rows;            /* tokens whose logits there are at a time; 0: as many as take 256 MiB */
    uint64_t memory_reserve_bytes; /* of each device, left alone */
    char data_path[512];           /* "" when absent; resolved against the scenario file */
};

/* Allowed values per planned quantity; n = 0 means "planner's choice". */
struct sf_pin {
    uint32_t n;
    uint32_t value[16];
};
struct sf_pins {
    struct sf_pin tp, cp, ep, pp, dp, vpp, micro_batch, schedule, recompute, zero, order;
    struct sf_pin etp, cp_exchange, whole_rows, split_head; /* 0: tp, ring, false, false; 1: 1, gather, true, true */
    struct sf_pin slices, zero_group;                       /* zero_group 0: all of dp */
    struct sf_pin collectives;                              /* 0: on what NCCL picks, 1: tuned (planner/picks.h) */
    struct sf_layout layout;                                /* layers of the virtual stages; no stages: any */
    uint32_t offload;                                       /* of every plan */
    uint32_t recompute_layers;                              /* of every virtual stage, if it has as many; 0: any */
    int recompute_rest;                                     /* with it, the kind of the others */
    char schedule_file[512];                                /* of SF_SCHEDULE_TABLE, as plans will name it; else "" */
    struct sf_pipe *table;                                  /* owned by the scenario */
};

struct sf_scenario {
    char name[64];
    char path[512];
    struct sf_topo *topo;
    struct sf_model model;
    struct sf_job job;
    struct sf_pins pins;
};

/* catalog_dir: where device and link catalogs are. cluster_override: NULL, or a cluster file to use instead of the one
 * the scenario names (a path as the caller sees it, not relative to the scenario); the key may then be left out. */
int sf_scenario_load(const struct sf_io *io, const char *path, const char *catalog_dir, const char *cluster_override,
                     struct sf_scenario *out, struct sf_err *err);
/* The same on a cluster that is not what its file says. */
struct sf_cluster_change {
    const char *overlay;   /* NULL, or a file that replaces the cluster's own overlay */
    int routing;           /* enum sf_routing, or -1 */
    uint64_t routing_seed; /* where routing hashes */
    const char *times;     /* of collectives: a word of sf_topo_set_times; NULL: what the cluster file says */
    uint32_t gpus;         /* above 0: instead of the job's */
    bool fewer;            /* where too few are left in use, take as many as some plan can use */
};
int sf_scenario_load_on(const struct sf_io *io, const char *path, const char *catalog_dir, const char *cluster_override,
                        const struct sf_cluster_change *change, struct sf_scenario *out, struct sf_err *err);
/* Applies what it says about the cluster; before the first use. */
int sf_cluster_apply(const struct sf_io *io, const struct sf_cluster_change *change, struct sf_topo *topo,
                     struct sf_err *err);
/* As many GPUs, up to `limit`, as the most promising degrees that model, batch, pins and seats allow multiply to; 0:
 * there are none. */
uint32_t sf_scenario_best_gpus(const struct sf_scenario *s, uint32_t limit);
void sf_scenario_clear(struct sf_scenario *s); /* legal on a zeroed or a failed one */

/* With the GPUs that the plan uses; shares everything else with `s`, which owns it. */
void sf_scenario_narrow(const struct sf_scenario *s, const struct sf_plan *plan, struct sf_scenario *out);

/* Identity of what a plan is made for: the cluster's shape, the model and every fact of the job that reaches a program.
 * Device speeds, pins, the number of steps and the data are left out: recalibrating or training longer keeps plans. */
struct sf_hash sf_scenario_hash(const struct sf_scenario *s);
/* Bytes of each device that a plan may use: those of the smallest in use, less the job's reserve. */
uint64_t sf_scenario_memory(const struct sf_scenario *s);

#endif
