/* Where the ranks of a program sit in a cluster that is not what its file says, and what their GPUs could do at most.
 */
#ifndef SF_CLI_SEATS_H
#define SF_CLI_SEATS_H

#include "cli/load.h"
#include "cli/print.h"

/* Which ranks lost their seats, moved, run on spares; nothing on a cluster as in its file. */
int cli_seats_print(struct cli *cli, const struct cli_target *t, struct sf_buf *out);
int cli_seats_json(struct cli *cli, const struct cli_target *t, json_t *doc);

#endif
