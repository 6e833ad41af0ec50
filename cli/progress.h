/* A progress bar on stderr: only for a terminal, only when the work lasts longer than a second. */
#ifndef SF_CLI_PROGRESS_H
#define SF_CLI_PROGRESS_H

#include <stdbool.h>

#include "core/units.h"

struct cli_progress {
    const char *what;
    sf_time_ps start, drawn; /* wall time; drawn = 0: nothing is on the screen */
    bool terminal;
};

struct cli_progress cli_progress_begin(const char *what);
void cli_progress_update(void *self, double fraction); /* self is a struct cli_progress */
void cli_progress_end(struct cli_progress *p);         /* wipes the bar */

#endif
