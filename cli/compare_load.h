/* Everything a comparison needs, found from two names and a few options. */
#ifndef SF_CLI_COMPARE_LOAD_H
#define SF_CLI_COMPARE_LOAD_H

#include "cli/files.h"
#include "sim/compare.h"
#include "sim/cost.h"

struct cli_compare {
    /* options; NULL where not given */
    const char *report, *forecast_path, *prog_path, *cluster, *kernels, *loss_path, *estimates_path;
    /* loaded */
    struct sf_trace predicted, measured;
    struct sf_forecast forecast;
    bool has_forecast;
    struct sf_prog *prog;
    struct sf_topo *topo; /* NULL without a cluster */
    struct sf_cost *cost; /* likewise */
    struct sf_estimates estimates;
    double *losses;
    size_t losses_n;
};

int cli_compare_load(struct cli *cli, const char *predicted, const char *measured, struct cli_compare *in);
void cli_compare_clear(struct cli_compare *in);

#endif
