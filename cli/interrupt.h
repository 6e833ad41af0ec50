/* Ctrl-C, and the SIGTERM that Slurm sends first, as a question that long work asks now and then. */
#ifndef SF_CLI_INTERRUPT_H
#define SF_CLI_INTERRUPT_H

#include <signal.h>
#include <stdbool.h>

struct cli_listening {
    struct sigaction interrupt, terminate; /* as they were before */
};

/* Once: a second signal ends the process as usual. */
struct cli_listening cli_listen(void);
void cli_listen_no_more(const struct cli_listening *before);
bool cli_interrupted(void); /* ever, while something listened */

#endif
