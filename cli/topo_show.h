/* `topo show` and `topo check`. */
#ifndef SF_CLI_TOPO_SHOW_H
#define SF_CLI_TOPO_SHOW_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/cli.h"

struct cli_topo_show {
    const char *file, *svg, *overlay, *routing, *route; /* all but file may be NULL */
    uint64_t seed;
    bool seeded;
};
int cli_topo_show(struct cli *cli, const struct cli_topo_show *a, bool check);

#endif
