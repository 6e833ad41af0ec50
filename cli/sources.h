/* What a number rests on, for people and for scripts. */
#ifndef SF_CLI_SOURCES_H
#define SF_CLI_SOURCES_H

#include "cli/print.h"
#include "topo/topo.h"

json_t *cli_sources_json(const struct sf_topo *t);
void cli_sources_print(const struct sf_topo *t, struct sf_buf *out);

#endif
