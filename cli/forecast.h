/* Writing what a later comparison needs: trace, program and, if asked for, the sealed forecast. */
#ifndef SF_CLI_FORECAST_H
#define SF_CLI_FORECAST_H

#include "cli/files.h"
#include "cli/load.h"
#include "sim/compare.h"
#include "sim/sim.h"

struct cli_forecast_write {
    const struct cli_target *target;
    const struct sf_sim_result *result;
    const struct sf_trace *trace;
    const char *trace_path;    /* NULL: beside the forecast */
    const char *forecast_path; /* NULL: no forecast */
    const char *kernels_path;
    uint64_t seed;
};

struct cli_forecast_files {
    char trace[CLI_PATH], prog[CLI_PATH];
    struct sf_hash seal;
};

/* Does nothing when neither a trace nor a forecast is asked for. */
int cli_forecast_write(const struct cli_forecast_write *w, struct cli_forecast_files *out, struct sf_err *err);

#endif
