/* Inside of the recording device. */
#ifndef SF_RUNTIME_RECORD_GRAPH_H
#define SF_RUNTIME_RECORD_GRAPH_H

#include "runtime/record.h"

/* A moment: of each chain (the nodes of one stream, which are in order), how many nodes are over by then. */
typedef uint32_t *sfi_moment; /* [chains_n] */

enum sfi_node_kind {
    SFI_NODE_CALL,
    SFI_NODE_COPY,
    SFI_NODE_MOVE,
    SFI_NODE_SUM,
    SFI_NODE_STAMP,
    SFI_NODE_MARK,
    SFI_NODE_ADVANCE,
    SFI_NODE_TALK
};

struct sfi_record_comm {
    struct sfi_record *rec;
    uint32_t split, color, key; /* split 0: the world; else which one of its rank's splits */
    uint32_t rank;              /* in the world */
    bool ended, aborted;
    struct sf_coll_picks picks;
    char name[SF_NAME + 16];
};

/* One message of one rank. */
struct sfi_talk {
    const struct sfi_record_comm *comm;
    struct sfi_gpu_message m;
    void *stream;
    uint32_t transfer; /* set when partners are sought */
};

struct sfi_node {
    uint8_t kind; /* enum sfi_node_kind */
    uint32_t chain, position;
    uint32_t rank, op; /* SF_NONE: of no op */
    sfi_moment before; /* what is over when it starts */
    union {
        struct {
            const struct sf_call *call;
            void *operand[SF_CALL_OPERANDS];
        } call;
        struct {
            char *to;
            const char *from;
            uint64_t bytes;
        } copy;
        struct {
            enum sfi_gpu_where where;
            char *memory;
            struct sfi_gpu_pages pages;
            uint64_t offset, bytes;
        } move;
        struct {
            char *to;
            const void **from;
            uint64_t count;
            uint32_t n;
            int dtype;
        } sum;
        uint64_t *stamp;
        struct {
            uint32_t *word, value;
        } mark;
        struct {
            uint32_t *counter, *done;
        } advance;
        struct {
            struct sfi_talk *talks;
            uint32_t n;
        } talk;
    } u;
};

/* When an op of a rank began and ended. */
struct sfi_op_mark {
    uint32_t rank, op;
    sfi_moment begin, end; /* end NULL: not yet */
};

struct sfi_graph {
    struct sf_arena *arena; /* of moments and lists */
    struct sfi_node *nodes; /* in the order of capture */
    struct sfi_op_mark *marks;
    size_t nodes_n, nodes_room, marks_n, marks_room;
    uint32_t chains_n, chains_room;
    uint32_t *chain_n; /* [chains_room] nodes of each */
    bool launched;
};

struct sfi_record_stream {
    struct sfi_record *rec;
    char name[SF_NAME];
    bool captured;
    uint32_t rank, op; /* the op under way on it; ops of virtual ranks take turns; SF_NONE: none */
    uint32_t chain;
    sfi_moment now;
};

struct sfi_record_event {
    bool recorded; /* in the capture under way */
    uint32_t capture;
    sfi_moment at;
};

struct sfi_record_memory {
    char *base;
    uint64_t bytes;
    uint32_t owner; /* rank; SF_NONE: pinned host memory */
};

struct sfi_record {
    struct sfi_record_options options;
    struct sfi_gpu_api api;
    struct sfi_record_stream **streams;
    struct sfi_record_memory *memory;
    struct sfi_graph **graphs, **pending; /* all captured; launched and not yet run */
    size_t streams_n, memory_n, graphs_n, pending_n;
    struct sfi_graph *capture; /* under way */
    struct sfi_record_stream *origin;
    uint32_t captures;
    uint32_t rank, op;            /* the op that last had work */
    uint32_t world, splits[4096]; /* ranks; splits made by each */
    struct sfi_talk group[256];
    uint32_t group_n, group_depth;
    uint64_t ticks;                 /* the device's clock */
    struct sfi_record_comm **comms; /* all that were made */
    size_t comms_n, comms_live;     /* made; not ended */
    struct sf_coll_picks picks;     /* of communicators from now on */
    unsigned char *ids;             /* where the world meets */
    uint32_t ids_made;
    struct sf_err ending; /* the first communicator that was ended in a wrong way */
    struct sfi_record_fault fault;
    uint32_t steps; /* launched on all ranks and executed */
    bool hangs;
    const char *waited; /* what made the host wait for the device since the last launch; NULL: nothing */
};

int sfi_record_violation(const struct sfi_record *rec, struct sf_err *err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* An array that grows by one. */
int sfi_record_grow(void **array, size_t n, size_t size, struct sf_err *err);
int sfi_record_forbid_in_run(const struct sfi_record *rec, const char *what, struct sf_err *err);

/* record_comm.c */
void sfi_record_fill_comms(struct sfi_gpu_api *api);
void sfi_record_free_comms(struct sfi_record *rec);
bool sfi_record_is_down(const struct sfi_record *rec); /* by an ordered failure: no launch comes to anything */
bool sfi_record_hangs_at(const struct sfi_record *rec, const struct sfi_node *node);

/* Does [at, at + bytes) lie in memory of this owner? SF_NONE: of anybody. */
bool sfi_record_inside(const struct sfi_record *rec, const void *at, uint64_t bytes, uint32_t owner);

static inline bool sfi_moment_before(const sfi_moment a, const sfi_moment b, uint32_t chains_n) {
    for (uint32_t c = 0; c < chains_n; c++) {
        if (a[c] > b[c]) {
            return false;
        }
    }
    return true;
}

/* record_run.c: from the first launch on, as long as a graph that was launched is there, nothing allocates, prepares or
 * makes anything, and between two launches nothing waits for the device. */
bool sfi_record_runs(const struct sfi_record *rec);
int sfi_record_begin_launch(struct sfi_record *rec, struct sfi_graph *graph, struct sf_err *err);

/* Execute graphs that were launched together. Without `move` nothing but time passes. */
int sfi_record_run(struct sfi_record *rec, struct sfi_graph *const graphs[], size_t n, bool move, struct sf_err *err);

/* record_node.c */
int sfi_node_execute(struct sfi_record *rec, struct sfi_node *node, struct sf_err *err);
#define SFI_NODE_ACCESSES (SFI_GPU_SOURCES + SF_CALL_OPERANDS)
struct sfi_access_range {
    const char *at;
    uint64_t bytes;
    bool writes;
};
/* What a node touches; returns how many. */
uint32_t sfi_node_accesses(const struct sfi_node *node, struct sfi_access_range out[SFI_NODE_ACCESSES]);

/* record_match.c: messages of many graphs that belong together. */
struct sfi_transfer {
    struct sfi_talk **ends; /* p2p: sender, receiver; collectives: in member order */
    struct sfi_node **nodes;
    uint32_t n, started;
    bool over;
};
struct sfi_transfers {
    struct sf_arena *arena;
    struct sfi_transfer *transfers;
    uint32_t n;
};
int sfi_record_match(struct sfi_record *rec, struct sfi_graph *const graphs[], size_t n, struct sfi_transfers *out,
                     struct sf_err *err);
void sfi_record_transfer(const struct sfi_transfer *t); /* move its bytes */

#endif
