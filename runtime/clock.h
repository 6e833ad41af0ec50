/* Host clocks in nanoseconds. sf_clock_host counts from an origin of its own in every process, so processes of one
 * machine could not compare their readings of it. */
#ifndef SF_RUNTIME_CLOCK_H
#define SF_RUNTIME_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t sfi_read_clock_ns(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline int64_t sfi_now_ns(void) {
    return sfi_read_clock_ns(CLOCK_MONOTONIC);
}

/* CPU time of the calling thread. */
static inline int64_t sfi_cpu_ns(void) {
    return sfi_read_clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

#endif
