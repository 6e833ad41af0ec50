/* What a number rests on, for people and for scripts. */
#ifndef SF_CLI_SOURCES_H
#define SF_CLI_SOURCES_H

#include "cli/print.h"
#include "sim/cost.h"
#include "topo/topo.h"

json_t *cli_sources_json(const struct sf_topo *t);
void cli_sources_print(const struct sf_topo *t, struct sf_buf *out);

#define CLI_TIMES_HELP "of collectives: steps, or nccl (what its tuning model expects), instead of the cluster's"
/* Which model the times of collectives are of: "steps", "nccl", or "rings" where the device names no model. */
const char *cli_times_word(const struct sf_cost *cost);
const char *cli_times_text(const struct sf_cost *cost); /* in a sentence; NULL where it is not NCCL's */

#endif
