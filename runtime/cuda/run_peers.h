/* A channel between the processes of a run that no MPI connects: torchrun's, and srun's without PMIx. NCCL cannot say
 * that a rank will never come, nor why; this can, before NCCL's communicators exist and when they are broken.
 *
 * A star of TCP connections to rank 0, on the port beside NCCL's. There is no thread: a rank that waits for others
 * looks here ten times a second. Whoever fails tells rank 0, which tells everybody; a process that is gone closes its
 * connection, which says so too, and a host that is gone is missed by keepalive within half a minute.
 *
 * Joining is the first thing that a process does, so that whatever goes wrong later reaches the others. Strangers that
 * connect to the port are sent away: they do not know the greeting, the launcher's name of the run and a free rank. */
#ifndef SF_RUNTIME_CUDA_RUN_PEERS_H
#define SF_RUNTIME_CUDA_RUN_PEERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/cuda/run_place.h"
#include "runtime/rt.h"

/* Until all ranks are there, at most `patience_ns`. */
int sfi_peers_join(const struct sfi_meeting_place *place, uint32_t rank, uint32_t ranks, int64_t patience_ns,
                   struct sf_rt_peers **out, struct sf_err *err);

/* Has somebody failed or gone? Never waits. */
int sfi_peers_look(struct sf_rt_peers *p, struct sf_err *err);
/* This rank gives up: from now on all calls of all ranks fail with this. The first failure counts. */
void sfi_peers_tell(struct sf_rt_peers *p, const struct sf_err *why);
/* sf_rt_peers_agree, and all must name the same `word`, of which people say `what`. */
int sfi_peers_agree_on(struct sf_rt_peers *p, int rc, uint64_t word, const char *what, struct sf_err *err);
/* Rank 0 takes everybody's part, in the order of ranks. */
int sfi_peers_gather(struct sf_rt_peers *p, const void *mine, uint64_t bytes,
                     int (*take)(void *self, uint32_t rank, const void *data, uint64_t bytes, struct sf_err *err),
                     void *self, struct sf_err *err);

#endif
