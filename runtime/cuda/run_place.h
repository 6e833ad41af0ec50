/* What this process is among those of its launcher, and where they meet when no MPI connects them.
 *
 *   torchrun         RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT
 *   srun, no PMIx    SLURM_PROCID, SLURM_STEP_NUM_TASKS (or SLURM_NTASKS), the first host of SLURM_STEP_NODELIST (or
 *                    SLURM_NODELIST); MASTER_ADDR and MASTER_PORT are heeded where somebody set them
 *   mpirun, PMIx     MPI knows
 *
 * Open MPI ends a process of srun in MPI_Init when there is no PMIx, so without PMIX_RANK it is not asked; and where it
 * finds itself alone in a step of several tasks, Slurm is believed.
 *
 * Two ports follow from MASTER_PORT (29500; under srun one of 20000 to 29999 by job and step): where NCCL's first rank
 * listens (NCCL_COMM_ID) and where sf_rt_peers does. They are MASTER_PORT and the next one, or, where torchrun's agent
 * listens on MASTER_PORT itself (TORCHELASTIC_USE_AGENT_STORE), the two after it; downwards at the end of the range. */
#ifndef SF_RUNTIME_CUDA_RUN_PLACE_H
#define SF_RUNTIME_CUDA_RUN_PLACE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/err.h"

#define SFI_HOST_BYTES 256

struct sfi_meeting_place {
    char host[SFI_HOST_BYTES]; /* of rank 0 */
    uint16_t nccl_port, peers_port;
    char run[64]; /* the launcher's name of this run; "" where it has none */
};

/* From the environment, where sf_rt_gpu_place found several processes and no MPI between them. */
int sfi_place_meeting(struct sfi_meeting_place *out, struct sf_err *err);

/* Do all processes run on one host, as torchrun or srun says? */
bool sfi_place_shares_host(void);

/* The first host of a list as Slurm writes it: "x1", "node[003-007,9],x1", "a[1-2]b[3-4]". The whole list is checked.
 */
int sfi_place_first_host(const char *list, char out[SFI_HOST_BYTES], struct sf_err *err);

#endif
