/* The recording device: the table of runtime/cuda/gpu.h without a GPU.
 *
 * It keeps a capture as a graph and holds it against the rules that CUDA and NCCL would enforce late or not at all:
 *
 *   while capturing           an event is recorded before it is waited for; work goes only to streams of the capture;
 *                             all forked streams are joined before it ends; nothing allocates or waits; operands lie in
 *                             memory of the rank whose op it is
 *   while running             once a step was launched nothing allocates, pins, prepares or makes anything, and between
 *                             two steps the host does not wait for the device
 *   sfi_record_check_order    every op of the program was captured once; what its predecessors left is over before it
 *                             begins; sends and receives overlap
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

/* Its clock is made up: every node takes as long. No calculation that a node stands for would be faster. */
#define SFI_RECORD_NODE_NS 4000000

struct sfi_record_options {
    bool execute; /* kernels run; otherwise only what moves the steps on */
    bool reference_kernels;
    uint64_t seed; /* of the order of execution */
};

/* A failure that a test orders, from step `step` on. */
enum sfi_record_fault_kind {
    SFI_RECORD_NO_FAULT,
    SFI_RECORD_ASYNC_ERROR, /* `comm` of `rank` breaks, as NCCL would find out by and by; no step ends any more */
    SFI_RECORD_STALL        /* the work of `op` of `rank` begins in this step and never ends */
};
struct sfi_record_fault {
    enum sfi_record_fault_kind kind;
    uint32_t rank, step, op;
    char comm[64]; /* its name: "world", or "dp/0" for the first of the program's "dp" */
};

int sfi_record_create(const struct sfi_record_options *options, struct sfi_record **out, struct sf_err *err);
void sfi_record_destroy(struct sfi_record *rec); /* NULL is legal */
const struct sfi_gpu_api *sfi_record_api(struct sfi_record *rec);

int sfi_record_check_order(struct sfi_record *rec, const struct sfi_session *s, struct sf_err *err);
int sfi_record_check_hazards(struct sfi_record *rec, const struct sfi_session *s, struct sf_err *err);
/* Over all ranks' graphs, when they use communicators. */
int sfi_record_check_comms(struct sfi_record *rec, struct sf_err *err);
/* After all sessions: every communicator, the world's included, was ended once, by abort or by destroy; memory, streams
 * and graphs are gone. */
int sfi_record_check_ends(const struct sfi_record *rec, bool aborted, struct sf_err *err);

void sfi_record_inject(struct sfi_record *rec, const struct sfi_record_fault *fault);

#endif
