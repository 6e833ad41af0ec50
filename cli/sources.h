/* What a number rests on, for people and for scripts. */
#ifndef SF_CLI_SOURCES_H
#define SF_CLI_SOURCES_H

#include "cli/print.h"
#include "topo/topo.h"

json_t *cli_sources_json(const struct sf_topo *t);
void cli_sources_print(const struct sf_topo *t, struct sf_buf *out);

/* A rule of thumb until calibration says better: half the width of the interval of a step time, by the worst grade that
 * carries weight. Calibrated 5 %, published measurement 10 %, datasheet 20 %, extrapolated 30 %. */
double cli_grade_width(enum sf_grade grade);

#endif
