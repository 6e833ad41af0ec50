/* A plan: every choice that turns a scenario into a program. Readable, editable YAML that round-trips. */
#ifndef SF_PLANNER_PLAN_H
#define SF_PLANNER_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "core/err.h"
#include "core/hash.h"
#include "core/io.h"

#define SF_MAX_STAGES 1024 /* pp * vpp */

/* X(NAME, "name") */
#define SF_SCHEDULES(X)                                                                                                \
    X(GPIPE, "gpipe")                                                                                                  \
    X(1F1B, "1f1b")                                                                                                    \
    X(INTERLEAVED, "interleaved")
enum sf_schedule_kind {
#define X(NAME, name) SF_SCHEDULE_##NAME,
    SF_SCHEDULES(X)
#undef X
        SF_SCHEDULES_N
};

/* X(NAME, "name") */
#define SF_RECOMPUTES(X)                                                                                               \
    X(NONE, "none")                                                                                                    \
    X(FULL, "full") /* keep only each layer's input, run its forward again in backward */
enum sf_recompute {
#define X(NAME, name) SF_RECOMPUTE_##NAME,
    SF_RECOMPUTES(X)
#undef X
        SF_RECOMPUTES_N
};

struct sf_plan {
    char scenario[512];           /* path of the scenario it plans, relative to the plan file or absolute */
    char cluster[512];            /* the cluster it was planned for, when that is not the scenario's; else "" */
    uint32_t tp, ep, dp, pp, vpp; /* dp counts all data-parallel ranks, so gpus = tp * dp * pp and ep divides dp */
    uint32_t micro_batch;         /* sequences per microbatch */
    uint32_t microbatches;        /* per rank and step = global batch / (dp * micro_batch) */
    int schedule, recompute;      /* enums above */
    uint32_t zero;                /* 0: optimizer everywhere; 1: optimizer state sharded over dp */
    bool canonical;
    bool whole_rows; /* every tensor-parallel rank keeps all rows between the matrices: no sequence parallelism */
    uint32_t ranks_per_domain;      /* seats used of each scale-up domain */
    uint32_t layers[SF_MAX_STAGES]; /* layers of virtual stage s = chunk * pp + stage, s < pp * vpp */
};

/* The scenario's hash is kept in the file; a plan loaded for another scenario is refused. */
int sf_plan_load(const struct sf_io *io, const char *path, struct sf_plan *out, struct sf_hash *scenario_hash,
                 struct sf_err *err);
int sf_plan_print(const struct sf_plan *plan, struct sf_hash scenario_hash, struct sf_buf *out);

const char *sf_schedule_name(int kind);
const char *sf_recompute_name(int kind);

#endif
