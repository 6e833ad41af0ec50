/* Where other programs are: beside this one, else in PATH. */
#ifndef SF_CLI_FIND_H
#define SF_CLI_FIND_H

#include "cli/files.h"

/* 0, or -1 when there is none. */
int cli_find_program(const char *name, char out[CLI_PATH]);

#endif
