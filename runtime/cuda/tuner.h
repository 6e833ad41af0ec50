/* What NCCL asks before it runs a collective: on which algorithm and protocol. The module is NCCL's tuner plugin
 * itself, and answers with the picks of the program.
 *
 * The layout is that of version 4 of the interface (ncclTuner_v4_t in NCCL's public plugin headers,
 * plugins/tuner/example/nccl/tuner.h), which NCCL 2.28.9 looks for as "ncclTunerPlugin_v4". Its tables are rows of
 * floats: a time in microseconds for every algorithm and protocol, below 0 for what NCCL has ruled out. Nothing here
 * needs NCCL, so it is tested without. */
#ifndef SF_RUNTIME_CUDA_TUNER_H
#define SF_RUNTIME_CUDA_TUNER_H

#include <stdbool.h>
#include <stddef.h>

#include "core/collective.h"
#include "core/err.h"

/* enum ncclFunc: what NCCL calls the operations that have picks. */
enum sfi_nccl_func {
    SFI_NCCL_BROADCAST = 0,
    SFI_NCCL_ALL_GATHER = 2,
    SFI_NCCL_REDUCE_SCATTER = 3,
    SFI_NCCL_ALL_REDUCE = 4,
};
/* Rows of its tables; columns are in the order of enum sf_coll_protocol. */
enum sfi_nccl_algorithm {
    SFI_NCCL_TREE,
    SFI_NCCL_RING,
    SFI_NCCL_COLLNET_DIRECT,
    SFI_NCCL_COLLNET_CHAIN,
    SFI_NCCL_NVLS,
    SFI_NCCL_NVLS_TREE,
    SFI_NCCL_PAT,
};

struct sfi_nccl_tuner {
    const char *name;
    int (*init)(size_t ranks, size_t nodes, void *log, void **context);
    int (*ask)(void *context, int func, size_t bytes, int pipe_ops, float **table, int algorithms, int protocols,
               int registered, int *channels);
    int (*destroy)(void *context);
};
extern const struct sfi_nccl_tuner ncclTunerPlugin_v4;

/* Of every communicator that is made from now on, until told otherwise. Communicators are made one at a time, and NCCL
 * may do it on a thread of its own. */
void sfi_tuner_next(const struct sf_coll_picks *picks);
/* SF_E_FAULT where NCCL has not asked for what the last communicator should run on, or has ruled out what it
 * should; said once. */
int sfi_tuner_check(struct sf_err *err);

#endif
