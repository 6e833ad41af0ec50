/* From what a user names - scenario, plan or program - to what the libraries need. */
#ifndef SF_CLI_LOAD_H
#define SF_CLI_LOAD_H

#include "cli/cli.h"
#include "cli/files.h"
#include "planner/job.h"
#include "planner/search.h"
#include "sim/cost.h"

struct cli_target {
    struct sf_scenario scenario;
    struct sf_plan plan;
    struct sf_prog *prog;
    struct sf_cost *cost;
    struct sf_topo *own_topo; /* loaded from --cluster for a bare program; else the scenario's is used */
    bool has_scenario, has_plan;
    bool searched;               /* the plan was chosen here */
    char cluster_path[CLI_PATH]; /* "" when unknown */
    bool changed;                /* by an overlay */
};

struct cli_load {
    const char *cluster; /* NULL: the scenario's */
    const char *kernels; /* NULL: catalog numbers only */
    bool program;        /* a program is wanted, so a scenario is planned and a plan compiled */
    bool cost;           /* the cost model is wanted, so a bare program needs a cluster */
    const char *overlay; /* NULL: the plan's, or what the cluster file says */
    const char *routing; /* a word; NULL: what the cluster file says */
    uint64_t routing_seed;
    const char *times; /* of collectives, likewise */
    bool fewer;        /* a job that wants more GPUs than the overlay leaves takes fewer */
};
/* What the words say about the cluster. */
int cli_cluster_change(struct cli *cli, const struct cli_load *want, struct sf_cluster_change *out);

int cli_target_load(struct cli *cli, const char *path, const struct cli_load *want, struct cli_target *out);
void cli_target_clear(struct cli_target *t);
const struct sf_topo *cli_target_topo(const struct cli_target *t); /* NULL for a bare program without a cluster */

/* Search as wanted, with a progress bar; Ctrl-C ends it with the best plans so far. */
int cli_search(struct cli *cli, const struct sf_scenario *s, const struct sf_cost *cost,
               const struct sf_search_options *want, struct sf_plan_result *results, uint32_t *results_n,
               struct sf_search_stats *stats);
/* Likewise whether fewer GPUs are quicker: sf_search_fewer. */
int cli_search_fewer(struct cli *cli, const struct sf_scenario *s, const struct sf_cost *cost,
                     const struct sf_search_options *want, const struct sf_plan_result *best,
                     struct sf_plan_result *out, bool *found);

#endif
