/* Attention as cuDNN is told it: tensors and a list of elementary ops, as data. The plans are built from this list, and
 * the host tests walk the same list on small shapes, so that the mathematics is proven where there is no GPU. Needs no
 * CUDA.
 *
 * A graph covers all sequences and query heads of the call or a chunk of them, because a deterministic backward pass
 * needs a workspace that grows with batch * heads * seq^2. */
#ifndef SF_KERNELS_CUDA_ATTN_CUDNN_GRAPH_H
#define SF_KERNELS_CUDA_ATTN_CUDNN_GRAPH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/call.h"
#include "core/err.h"

enum sfi_attn_op_kind {
    SFI_ATTN_MATMUL, /* out = a b over the last two dims; heads of b serve several of a */
    SFI_ATTN_MUL,    /* pointwise; a scalar or a column is repeated */
    SFI_ATTN_ADD,
    SFI_ATTN_SUB,
    SFI_ATTN_DIV,
    SFI_ATTN_EXP,
    SFI_ATTN_LOG,
    SFI_ATTN_COPY,
    SFI_ATTN_INDEX,  /* out = index along `axis`; a gives the shape */
    SFI_ATTN_GE,     /* out = a >= b */
    SFI_ATTN_SELECT, /* out = c ? a : b */
    SFI_ATTN_MAX,    /* reduce to the shape of out */
    SFI_ATTN_SUM,
    SFI_ATTN_RESHAPE, /* the same elements under other strides: how cuDNN spells a transposition */
};

enum sfi_attn_type { SFI_ATTN_F32, SFI_ATTN_BF16, SFI_ATTN_I32, SFI_ATTN_BOOL };

enum sfi_attn_place {
    SFI_ATTN_VIRTUAL, /* never in memory */
    SFI_ATTN_OPERAND, /* an operand of the call */
    SFI_ATTN_SCRATCH, /* in the work area */
    SFI_ATTN_VALUE,   /* a constant, by value */
};

/* X(NAME, shape, type, place, operand of the call or 0); shapes are those of attn_cudnn_graph.c. */
#define SFI_ATTN_TENSORS(X)                                                                                            \
    X(Q, QUERY, BF16, OPERAND, 0)                                                                                      \
    X(K_T, KEY_T, BF16, OPERAND, 1)                                                                                    \
    X(V, KEY, BF16, OPERAND, 2)                                                                                        \
    X(V_T, KEY_T, BF16, OPERAND, 2)                                                                                    \
    X(O, OUT, BF16, OPERAND, 3)                                                                                        \
    X(LSE, STATS, F32, OPERAND, 4)                                                                                     \
    X(D_O, OUT, BF16, OPERAND, 5)                                                                                      \
    X(D_Q, QUERY, BF16, OPERAND, 6)                                                                                    \
    X(D_K, KEY, BF16, OPERAND, 7)                                                                                      \
    X(D_V, KEY, BF16, OPERAND, 8)                                                                                      \
    X(SCALE, SCALAR, F32, VALUE, 0)                                                                                    \
    X(HIDDEN, SCALAR, F32, VALUE, 0)                                                                                   \
    X(ONE, SCALAR, F32, VALUE, 0)                                                                                      \
    X(DELTA, COLUMN, F32, SCRATCH, 0)                                                                                  \
    X(D_Q_SUM, HEADS, F32, SCRATCH, 0)                                                                                 \
    X(RAW, SCORES, F32, VIRTUAL, 0)                                                                                    \
    X(SCALED, SCORES, F32, VIRTUAL, 0)                                                                                 \
    X(ROW, SCORES, I32, VIRTUAL, 0)                                                                                    \
    X(COL, SCORES, I32, VIRTUAL, 0)                                                                                    \
    X(SEEN, SCORES, BOOL, VIRTUAL, 0)                                                                                  \
    X(MASKED, SCORES, F32, VIRTUAL, 0)                                                                                 \
    X(MAX, COLUMN, F32, VIRTUAL, 0)                                                                                    \
    X(CENTRED, SCORES, F32, VIRTUAL, 0)                                                                                \
    X(WEIGHT, SCORES, F32, VIRTUAL, 0)                                                                                 \
    X(TOTAL, COLUMN, F32, VIRTUAL, 0)                                                                                  \
    X(LOG_TOTAL, COLUMN, F32, VIRTUAL, 0)                                                                              \
    X(P, SCORES, BF16, VIRTUAL, 0)                                                                                     \
    X(P_T, SCORES_T, BF16, VIRTUAL, 0)                                                                                 \
    X(O_D_O, HEADS, F32, VIRTUAL, 0)                                                                                   \
    X(O_D_O_SUM, COLUMN, F32, VIRTUAL, 0)                                                                              \
    X(D_P, SCORES, F32, VIRTUAL, 0)                                                                                    \
    X(D_P_DELTA, SCORES, F32, VIRTUAL, 0)                                                                              \
    X(D_S_RAW, SCORES, F32, VIRTUAL, 0)                                                                                \
    X(D_S, SCORES, BF16, VIRTUAL, 0)                                                                                   \
    X(D_S_T, SCORES_T, BF16, VIRTUAL, 0)                                                                               \
    X(K, KEY, BF16, VIRTUAL, 0)                                                                                        \
    X(D_K_HEADS, HEADS, F32, VIRTUAL, 0)                                                                               \
    X(D_V_HEADS, HEADS, F32, VIRTUAL, 0)

enum sfi_attn_id {
#define X(name, shape, type, place, operand) SFI_ATTN_ID_##name,
    SFI_ATTN_TENSORS(X)
#undef X
        SFI_ATTN_IDS,
    SFI_ATTN_NONE = -1
};

struct sfi_attn_tensor {
    int64_t dim[4], stride[4]; /* batch, head, row, column; strides in elements */
    float value;
    int8_t operand;
    uint8_t type, place;
    bool used;
};

struct sfi_attn_op {
    uint8_t kind, when; /* when: for the table the list is made from */
    int8_t a, b, c, out, axis;
};

#define SFI_ATTN_OPS_MAX 32

struct sfi_attn_graph {
    struct sfi_attn_tensor tensors[SFI_ATTN_IDS];
    struct sfi_attn_op ops[SFI_ATTN_OPS_MAX];
    uint32_t ops_n;
};

#define SFI_ATTN_ALIGN_BYTES 16 /* of every tensor's address */
#define SFI_ATTN_AREA_BYTES 256 /* of everything in the work area */

/* What a plan depends on. */
struct sfi_attn_shape {
    int64_t batch, seq, heads, kv_heads, head_dim, row_stride;
    int64_t chunk_batch, chunk_heads; /* of one execution: they divide batch and heads, whole groups of query heads */
    bool backward, deterministic;
};

/* False for calls that no graph is made for: not bf16, empty, of some of the queries, rows that a vector load cannot
 * reach, or a deterministic backward pass whose smallest chunk needs more than SFI_ATTN_WORK_MAX. */
bool sfi_attn_shape_of(const struct sf_call *call, bool deterministic, struct sfi_attn_shape *out);

void sfi_attn_graph_of(const struct sfi_attn_shape *shape, struct sfi_attn_graph *out);

/* Executions that make up the call, and where one of them finds an operand: bytes from the operand's first. */
int64_t sfi_attn_chunks(const struct sfi_attn_shape *shape);
size_t sfi_attn_offset(const struct sfi_attn_shape *shape, const struct sfi_attn_tensor *t, int64_t chunk);

/* The work area of one execution: dq's sums, then delta, then what cuDNN may ask for, each at a multiple of
 * SFI_ATTN_AREA_BYTES. */
struct sfi_attn_area {
    size_t delta, engine, engine_bytes, bytes;
};

void sfi_attn_area_of(const struct sfi_attn_shape *shape, struct sfi_attn_area *out);

/* Chunks get smaller until an execution needs no more than this, or cannot be smaller. */
#define SFI_ATTN_WORK_GOAL ((size_t)1 << 30)
#define SFI_ATTN_WORK_MAX ((size_t)4 << 30)

/* Bytes of work area for an attention call; 0 where no graph is made for it. */
size_t sfi_attn_work(const struct sf_call *call, bool deterministic);

#endif
