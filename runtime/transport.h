/* Moving bytes between ranks. Two implementations, threads and MPI, with one set of algorithms.
 *
 * Reductions are "direct": the elements are cut into one slice per member at the same places everywhere, member i adds
 * all members' slice i in member order along the canonical tree, and an all-reduce then hands the slices round. So
 * every transport computes the same bits. */
#ifndef SF_RUNTIME_TRANSPORT_H
#define SF_RUNTIME_TRANSPORT_H

#include "core/interp.h"
#include "core/prog.h"

/* One communication op of one rank, prepared before the first step; it runs once per step. */
struct sfi_xfer {
    uint8_t kind; /* enum sf_op_kind */
    uint8_t stream;
    uint32_t comm;
    uint32_t seq;            /* how many earlier ones this pair (p2p) or group (collective) has in a step */
    uint32_t peer;           /* p2p: rank */
    uint32_t index, n;       /* own position among n members; p2p: sender 0, receiver 1 of 2 */
    const uint32_t *members; /* collectives: ranks in member order */
    uint64_t bytes;          /* p2p: the message; collectives: the whole side */
    char *x, *y;             /* arguments 0 and 1 */
    void *link;              /* the transport's own */

    uint32_t phase;   /* progress of this round */
    uint64_t round;   /* rounds started: 1 in the first step */
    int64_t start_ns; /* when its data began to move */
    int64_t busy_ns;  /* CPU time that moving them took */
};

/* First element of slice i of n; slice n is the end. */
static inline uint64_t sfi_slice(uint64_t count, uint32_t i, uint32_t n) {
    return (uint64_t)((unsigned __int128)count * i / n);
}

struct sfi_transport {
    void *self;
    /* Post an op, or look whether one has completed. Fails only when another rank has failed or the transport broke. */
    enum sf_issue (*start)(void *self, uint32_t rank, struct sfi_xfer *x, struct sf_err *err);
    enum sf_issue (*test)(void *self, uint32_t rank, struct sfi_xfer *x, struct sf_err *err);
    /* Every rank gives `bytes` bytes and gets all ranks' in rank order, valid until its next exchange. No rank returns
     * before all have come. Fails after stall_ns (0 = never) or when a rank has failed. */
    int (*exchange)(void *self, uint32_t rank, const void *mine, size_t bytes, int64_t stall_ns, const void **all,
                    struct sf_err *err);
    void (*abort)(void *self, uint32_t rank, const struct sf_err *why);
    void (*idle)(void *self, uint32_t rank);
};

/* Transfers of all ranks: xfers[rank] has xfers_n[rank] entries; kinds other than communication are skipped. */
struct sfi_threads;
int sfi_threads_create(const struct sf_prog *prog, struct sfi_xfer *const xfers[], const uint32_t xfers_n[],
                       size_t exchange_bytes, struct sfi_threads **out, struct sf_err *err);
void sfi_threads_destroy(struct sfi_threads *t); /* NULL is legal */
struct sfi_transport sfi_threads_transport(struct sfi_threads *t);
/* The first failure that any rank reported; code 0 when there was none. */
const struct sf_err *sfi_threads_failure(const struct sfi_threads *t);

struct sfi_mpi;
int sfi_mpi_create(const struct sf_prog *prog, uint32_t rank, struct sfi_xfer *xfers, uint32_t xfers_n,
                   size_t exchange_bytes, struct sfi_mpi **out, struct sf_err *err);
void sfi_mpi_destroy(struct sfi_mpi *m);                    /* NULL is legal */
int sfi_mpi_connect(struct sfi_mpi *m, struct sf_err *err); /* on all processes, before the first transfer */
struct sfi_transport sfi_mpi_transport(struct sfi_mpi *m);
/* This rank's clock minus rank 0's, and how far that may be wrong. */
void sfi_mpi_clock(const struct sfi_mpi *m, int64_t *offset_ns, int64_t *uncertainty_ns);
/* Rank 0 gets everyone's bytes in rank order through `take`; others give. */
int sfi_mpi_gather(struct sfi_mpi *m, const void *mine, uint64_t bytes,
                   int (*take)(void *self, uint32_t rank, const void *data, uint64_t bytes, struct sf_err *err),
                   void *self, struct sf_err *err);

#endif
