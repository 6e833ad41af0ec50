#include "sim/parallel.h"

#include <pthread.h>
#include <stdbool.h>

struct part {
    void (*work)(void *self, uint32_t k, uint32_t from, uint32_t to);
    void *self;
    uint32_t k, from, to;
};

static void *run_part(void *part) {
    const struct part *p = part;
    p->work(p->self, p->k, p->from, p->to);
    return NULL;
}

static uint32_t boundary(uint32_t k, uint32_t threads, uint32_t n, uint32_t grain) {
    uint64_t at = ((uint64_t)n * k / threads + grain - 1) / grain * grain;
    return k == threads || at > n ? n : (uint32_t)at;
}

void sfi_parallel(uint32_t threads, uint32_t n, uint32_t grain,
                  void (*work)(void *self, uint32_t k, uint32_t from, uint32_t to), void *self) {
    struct part part[SFI_THREADS_MAX];
    pthread_t thread[SFI_THREADS_MAX];
    bool started[SFI_THREADS_MAX] = {false};
    threads = n / grain < threads ? n / grain + 1 : threads;
    for (uint32_t k = 0; k < threads; k++) {
        part[k] = (struct part){work, self, k, boundary(k, threads, n, grain), boundary(k + 1, threads, n, grain)};
    }
    for (uint32_t k = 1; k < threads; k++) {
        started[k] = pthread_create(&thread[k], NULL, run_part, &part[k]) == 0;
    }
    run_part(&part[0]);
    for (uint32_t k = 1; k < threads; k++) {
        if (started[k]) {
            pthread_join(thread[k], NULL);
        } else {
            run_part(&part[k]);
        }
    }
}
