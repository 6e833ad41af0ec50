/* The process: its cores and the wish to stop. */
#include <sched.h>
#include <signal.h>

#include "runtime/rank.h"

static volatile sig_atomic_t stop_requested;

void sf_rt_request_stop(void) {
    stop_requested = 1;
}

bool sfi_stop_requested(void) {
    return stop_requested != 0;
}

void sfi_stop_clear(void) {
    stop_requested = 0;
}

void sfi_pin(uint32_t local_rank, uint32_t local_n) {
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || local_n > (uint32_t)CPU_COUNT(&allowed)) {
        return;
    }
    uint32_t skip = local_rank;
    for (size_t core = 0; core < CPU_SETSIZE; core++) {
        if (CPU_ISSET(core, &allowed) && skip-- == 0) {
            CPU_ZERO(&one);
            CPU_SET(core, &one);
            sched_setaffinity(0, sizeof one, &one); /* a wish: without it the run is slower, not wrong */
            return;
        }
    }
}
