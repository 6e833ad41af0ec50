#include "cli/interrupt.h"

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signo) {
    (void)signo;
    interrupted = 1;
}

struct cli_listening cli_listen(void) {
    struct sigaction ours = {.sa_handler = on_interrupt, .sa_flags = (int)(SA_RESTART | SA_RESETHAND)};
    struct cli_listening before;
    sigaction(SIGINT, &ours, &before.interrupt);
    sigaction(SIGTERM, &ours, &before.terminate);
    return before;
}

void cli_listen_no_more(const struct cli_listening *before) {
    sigaction(SIGINT, &before->interrupt, NULL);
    sigaction(SIGTERM, &before->terminate, NULL);
}

bool cli_interrupted(void) {
    return interrupted != 0;
}
