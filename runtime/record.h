/* The recording device: the table of runtime/cuda/gpu.h without a GPU.
 *
 * It keeps a capture as a graph and holds it against the rules that CUDA and NCCL would enforce late or not at all:
 *
 *   while capturing   an event is recorded before it is waited for; work goes only to streams of the capture; all
 * forked streams are joined before it ends; nothing allocates or waits; operands lie in memory of the rank whose op it
 * is sfi_record_check_order    every op of the program was captured once; what its predecessors left is over before it
 *                     begins; sends and receives overlap
 *   sfi_record_check_hazards  no two unordered nodes touch the same bytes when one writes
 *   sfi_record_check_comms    members of a communicator make the same calls, in one order, with equal counts and types;
 *                     messages pair up; nothing waits for ever when communication starts in the order of its capture
 *                     on each device and finishes in that order on each communicator
 *
 * and it can execute graphs on the host with the CPU's kernels, node by node in an order drawn from a seed among all
 * that the graph allows: so a missing edge shows as another result.
 *
 * Violations are SF_E_INTERNAL: the capture is wrong, not its input. */
#ifndef SF_RUNTIME_RECORD_H
#define SF_RUNTIME_RECORD_H

#include "runtime/cuda/session.h"

struct sfi_record;

struct sfi_record_options {
    bool execute; /* kernels run; otherwise only what moves the steps on */
    bool reference_kernels;
    uint64_t seed; /* of the order of execution */
};

int sfi_record_create(const struct sfi_record_options *options, struct sfi_record **out, struct sf_err *err);
void sfi_record_destroy(struct sfi_record *rec); /* NULL is legal */
const struct sfi_gpu_api *sfi_record_api(struct sfi_record *rec);

int sfi_record_check_order(struct sfi_record *rec, const struct sfi_session *s, struct sf_err *err);
int sfi_record_check_hazards(struct sfi_record *rec, const struct sfi_session *s, struct sf_err *err);
/* Over all ranks' graphs, when they use communicators. */
int sfi_record_check_comms(struct sfi_record *rec, struct sf_err *err);

#endif
