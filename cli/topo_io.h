/* `topo export` and `topo import`: clusters in other people's formats. */
#ifndef SF_CLI_TOPO_IO_H
#define SF_CLI_TOPO_IO_H

#include "cli/cli.h"

/* argv[0] is "export" or "import". */
int cli_topo_io(struct cli *cli, int argc, char **argv);

#endif
