/* What the files of the verb calibrate share. */
#ifndef SF_CLI_CALIBRATE_H
#define SF_CLI_CALIBRATE_H

#include "cli/cli.h"
#include "sim/calib.h"

#define CLI_CALIBRATE_MODELS 6

/* Trains the first `models_n` of a few small models for seconds each, on `ranks` cores (0: all), under the eyes of
 * staticfire-run --measure, and adds what it finds. */
int cli_calibrate_measure(struct cli *cli, uint32_t models_n, uint32_t ranks, struct sf_calib_data *out);

#endif
