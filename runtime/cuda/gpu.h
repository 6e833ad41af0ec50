/* The one door between the runtime and a device: a table of functions over opaque handles.
 *
 * Two implementations. module.c calls CUDA, NCCL and the kernels of kernels/cuda; it lives in a shared module that is
 * opened only when a GPU is asked for. record.c needs no GPU: it keeps what it is told as a graph, proves it against
 * the rules of streams, captures and communicators, and can execute it on the host. So the code that captures a
 * training step is the same code with and without a GPU.
 *
 * A capture turns everything that is put on a stream between capture_begin and capture_end, and on streams that are
 * forked from it with events, into one graph. In between, nothing that allocates or waits may be called. */
#ifndef SF_RUNTIME_CUDA_GPU_H
#define SF_RUNTIME_CUDA_GPU_H

#include <stdbool.h>
#include <stdint.h>

#include "core/call.h"
#include "core/collective.h"
#include "core/err.h"

#define SFI_GPU_API_VERSION 5
#define SFI_GPU_SOURCES 64 /* of one sum */
#define SFI_NCCL_ID_BYTES 128

/* Two pages in host memory that the device reads or writes, one for even and one for odd steps. Which one it is now is
 * the lowest bit of a counter in device memory, so a graph with fixed addresses serves every step. */
struct sfi_gpu_pages {
    char *host, *device; /* the same memory for each */
    uint64_t stride;     /* from page to page */
    const uint32_t *counter;
};

enum sfi_gpu_where { SFI_GPU_FROM_PAGE, SFI_GPU_TO_PAGE };

/* A large world meets at several roots, one for every 128 ranks: its ranks are cut into as many parts, as even as can
 * be, and the first rank of each makes an id. That is how NCCL spreads ranks over roots by itself. */
#define SFI_GPU_RANKS_PER_ROOT 128
static inline uint32_t sfi_gpu_roots(uint32_t ranks) {
    return (ranks + SFI_GPU_RANKS_PER_ROOT - 1) / SFI_GPU_RANKS_PER_ROOT;
}
static inline uint32_t sfi_gpu_root_rank(uint32_t root, uint32_t roots, uint32_t ranks) {
    uint32_t longer = ranks % roots;
    return root * (ranks / roots) + (root < longer ? root : longer);
}

/* Other processes, asked ten times a second by whoever waits for them. */
struct sfi_watch {
    void *self;
    int (*look)(void *self, struct sf_err *err);          /* has one of them failed? Never waits */
    int (*agree)(void *self, int rc, struct sf_err *err); /* go on together or fail together */
    void (*tell)(void *self, const struct sf_err *why);   /* this one gives up: before its communicators do */
};

/* What passes between ranks; `kind` is one of the p2p or collective kinds of enum sf_op_kind. */
struct sfi_gpu_message {
    int kind;
    int dtype;      /* enum sf_dtype: what reductions add, and what counts are in */
    uint32_t peer;  /* p2p: index in the communicator */
    uint64_t bytes; /* p2p: the message; collectives: the whole side */
    char *x, *y;    /* arguments 0 and 1 of the op; y is x for an all-reduce */
};

/* Rows and columns of a larger matrix; they lie dense in memory. */
struct sfi_gpu_block {
    uint64_t first_row, first_col, rows, cols;
};

struct sfi_gpu_api {
    void *self;
    uint32_t version;
    const char *name;      /* of the device, for people */
    int arch;              /* compute capability times 10: 90, 100, 103 */
    uint64_t memory_bytes; /* free when it was opened; 0 = unlimited */
    const char *traces;    /* what a trace says it is: "cuda", "record" */
    const char *versions;  /* driver and libraries, for notes */

    /* Memory. `owner` is the rank that it belongs to. Device memory comes zeroed. Not during a capture. */
    int (*alloc)(void *self, uint32_t owner, uint64_t bytes, void **out, struct sf_err *err);
    void (*release)(void *self, void *memory);
    int (*pin)(void *self, uint64_t bytes, void **host, void **device, struct sf_err *err);
    void (*unpin)(void *self, void *host);
    int (*upload)(void *self, void *to, const void *from, uint64_t bytes, struct sf_err *err);
    int (*download)(void *self, void *to, const void *from, uint64_t bytes, struct sf_err *err);
    int (*finish)(void *self, struct sf_err *err); /* wait for everything on the device */

    /* Weights: a block of normal numbers from (key, row, column), a constant, and bf16 to f32. Not during a capture. */
    int (*normal)(void *self, void *to, int dtype, uint64_t key, const struct sfi_gpu_block *block, float std,
                  struct sf_err *err);
    int (*constant)(void *self, void *to, int dtype, uint64_t n, float value, struct sf_err *err);
    int (*widen)(void *self, float *to, const void *from, int dtype, uint64_t n, struct sf_err *err);

    /* Kernels. A context belongs to one stream: it holds the scratch memory of its kernels. */
    bool (*supports)(void *self, const struct sf_call *call);
    uint64_t (*work_bytes)(void *self, const struct sf_call *call); /* of scratch memory, beside its operands */
    int (*context_create)(void *self, uint32_t owner, void **out, struct sf_err *err);
    void (*context_destroy)(void *self, void *context);
    int (*prepare)(void *self, void *context, const struct sf_call *call, struct sf_err *err); /* before any capture */
    int (*call)(void *self, void *context, const struct sf_call *call, void *const operand[SF_CALL_OPERANDS],
                void *stream, struct sf_err *err);
    int (*fault)(void *self, struct sf_err *err); /* SF_OK, or what a kernel found wrong with its data */

    int (*stream_create)(void *self, const char *name, void **out, struct sf_err *err);
    void (*stream_destroy)(void *self, void *stream);
    int (*event_create)(void *self, void **out, struct sf_err *err);
    void (*event_destroy)(void *self, void *event);
    int (*event_record)(void *self, void *event, void *stream, struct sf_err *err);
    int (*stream_wait)(void *self, void *stream, void *event, struct sf_err *err);

    int (*capture_begin)(void *self, void *stream, struct sf_err *err);
    int (*capture_end)(void *self, void *stream, void **graph, uint64_t *nodes_n, struct sf_err *err);
    void (*graph_destroy)(void *self, void *graph);
    int (*launch)(void *self, void *graph, void *stream, struct sf_err *err);

    /* Work for a stream. */
    int (*copy)(void *self, void *to, const void *from, uint64_t bytes, void *stream, struct sf_err *err);
    int (*move)(void *self, enum sfi_gpu_where where, void *memory, const struct sfi_gpu_pages *pages, uint64_t offset,
                uint64_t bytes, void *stream, struct sf_err *err);
    /* to = tree sum of n sources in their order, `count` elements; f32 inside. */
    int (*sum)(void *self, void *to, const void *const from[], uint32_t n, uint64_t count, int dtype, void *stream,
               struct sf_err *err);
    int (*stamp)(void *self, uint64_t *ns, void *stream, struct sf_err *err); /* device clock into device memory */
    int (*mark)(void *self, uint32_t *word, uint32_t value, void *stream, struct sf_err *err); /* into pinned memory */
    /* *counter += 1, then *done = *counter, visible to the host after all that was written before. */
    int (*advance)(void *self, uint32_t *counter, uint32_t *done, void *stream, struct sf_err *err);
    /* Device nanoseconds and host nanoseconds of one moment, and how far apart they may be. */
    int (*clock)(void *self, uint64_t *device_ns, int64_t *host_ns, int64_t *uncertainty_ns, struct sf_err *err);

    /* What follows on this thread belongs to this op until op_end; for profilers and for the recorder. */
    void (*op_begin)(void *self, uint32_t rank, uint32_t op, void *stream, const char *label);
    void (*op_end)(void *self, uint32_t rank, uint32_t op, void *stream);

    /* Communicators: non-blocking inside, finished when these return. Not during a capture. `color` and `key` as for
     * ncclCommSplit. fault: SF_OK, or why a communicator is broken. abort gives up what is under way. */
    void (*watch)(void *self, const struct sfi_watch *watch); /* from now on; NULL: nobody */
    /* What the collectives of communicators that are made from now on run on. Where a program says so for any of them,
     * it is called before its world is made, too. */
    int (*comm_picks)(void *self, const struct sf_coll_picks *picks, struct sf_err *err);
    int (*comm_id)(void *self, unsigned char id[SFI_NCCL_ID_BYTES], struct sf_err *err);
    /* ids[ids_n] of all roots, the same on every rank; NULL comes out of a failure. */
    int (*comm_world)(void *self, const unsigned char (*ids)[SFI_NCCL_ID_BYTES], uint32_t ids_n, uint32_t ranks,
                      uint32_t rank, void **out, struct sf_err *err);
    /* After a failure *out may still be written, until `comm` has been aborted; what is there then is to be aborted. */
    int (*comm_split)(void *self, void *comm, uint32_t color, uint32_t key, const char *name, void **out,
                      struct sf_err *err);
    int (*comm_register)(void *self, void *comm, void *base, uint64_t bytes, void **handle, struct sf_err *err);
    void (*comm_deregister)(void *self, void *comm, void *handle);
    int (*comm_fault)(void *self, void *comm, struct sf_err *err);
    void (*comm_abort)(void *self, void *comm);
    void (*comm_destroy)(void *self, void *comm);
    int (*group_begin)(void *self, struct sf_err *err);
    int (*group_end)(void *self, struct sf_err *err);
    int (*message)(void *self, void *comm, const struct sfi_gpu_message *m, void *stream, struct sf_err *err);
    /* Instead of group_end: what the library thinks that the group takes; negative when it does not say. */
    int (*group_estimate)(void *self, double *seconds, struct sf_err *err);
};

/* What the module exports under the name "sfi_gpu_module": open a device. */
#define SFI_GPU_MODULE "libstaticfire-cuda.so"
#define SFI_GPU_MODULE_SYMBOL "sfi_gpu_module"
struct sfi_gpu_open {
    uint32_t version;      /* SFI_GPU_API_VERSION of the caller */
    int device;            /* -1: the one for this process */
    const char *cache_dir; /* NULL: none */
    bool deterministic;
};
typedef int (*sfi_gpu_module_fn)(const struct sfi_gpu_open *how, struct sfi_gpu_api **out,
                                 void (**close)(struct sfi_gpu_api *), struct sf_err *err);

#endif
