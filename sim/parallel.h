/* A range of independent items, shared out to threads. */
#ifndef SF_SIM_PARALLEL_H
#define SF_SIM_PARALLEL_H

#include <stdint.h>

#define SFI_THREADS_MAX 64

/* Calls work(self, k, from, to) for parts that make up 0 .. n-1, each on a thread of its own, k = 0 .. threads-1; parts
 * begin at multiples of `grain`. Returns when all are done. Threads that cannot be had are done without. */
void sfi_parallel(uint32_t threads, uint32_t n, uint32_t grain,
                  void (*work)(void *self, uint32_t k, uint32_t from, uint32_t to), void *self);

#endif
