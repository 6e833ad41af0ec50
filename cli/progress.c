#include "cli/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "core/io.h"

#define PATIENCE (SF_PS_PER_S)
#define INTERVAL (SF_PS_PER_S / 10)
#define CELLS 32

static sf_time_ps now(void) {
    return sf_clock_host.now(sf_clock_host.self);
}

struct cli_progress cli_progress_begin(const char *what) {
    return (struct cli_progress){.what = what, .start = now(), .terminal = isatty(STDERR_FILENO) != 0};
}

void cli_progress_update(void *self, double fraction) {
    struct cli_progress *p = self;
    sf_time_ps t = p->terminal ? now() : 0;
    if (!p->terminal || t - p->start < PATIENCE || t - p->drawn < INTERVAL) {
        return;
    }
    double part = fraction < 0 ? 0 : fraction > 1 ? 1 : fraction;
    char bar[CELLS + 1];
    for (int i = 0; i < CELLS; i++) {
        bar[i] = i < (int)(part * CELLS + 0.5) ? '#' : '.';
    }
    bar[CELLS] = '\0';
    fprintf(stderr, "\r%s [%s] %3.0f %%  %.0f s ", p->what, bar, part * 100, sf_ps_to_s(t - p->start));
    fflush(stderr);
    p->drawn = t;
}

void cli_progress_end(struct cli_progress *p) {
    if (p->drawn != 0) {
        fprintf(stderr, "\r\033[K");
        fflush(stderr);
        p->drawn = 0;
    }
}
