/* Kernel calls: the alphabet that recipes are written in.
 *
 * A recipe (see prog.h) is a list of calls. The runtime looks each call up in a kernel table; the simulator prices it
 * by (kind, dtype, flags, dims). So dims carry every number that changes the time a call takes.
 *
 * Matrices are row major and dense unless a dim says otherwise. `rows` are tokens of one microbatch on one rank.
 *
 * X(NAME, "name", dims in order, operands in order)                     dims not named are 0, operands not named NONE
 */
#ifndef SF_CORE_CALL_H
#define SF_CORE_CALL_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#define SF_CALLS(X)                                                                                                    \
    /* C[m,n] = op(A) op(B) (+ C with ACC), `groups` independent problems stored one after the other.                  \
     * TA: A is stored [k,m]. TB: B is stored [n,k]. */                                                                \
    X(GEMM, "gemm", "m n k groups", "a b c")                                                                           \
    /* y = x * rstd * w with rstd = 1/sqrt(mean(x^2) + imm0); rstd[rows] in f32 is saved. */                           \
    X(RMSNORM_FWD, "rmsnorm_fwd", "rows cols", "x w y rstd")                                                           \
    /* dx (+= with ACC); dw (+= with ACC2). */                                                                         \
    X(RMSNORM_BWD, "rmsnorm_bwd", "rows cols", "dy x w rstd dx dw")                                                    \
    /* Rotate `heads` heads of each row in place, pairs (i, i + head_dim/2), position = first + row mod seq, base      \
     * imm0. Rows are row_stride elements apart. BWD rotates back. */                                                  \
    X(ROPE_FWD, "rope_fwd", "rows heads head_dim seq row_stride first", "x")                                           \
    X(ROPE_BWD, "rope_bwd", "rows heads head_dim seq row_stride first", "x")                                           \
    /* Causal attention with grouped query heads; with imm1 < 1, of that share of the queries and all keys. q, k, v    \
     * rows are row_stride elements apart (slices of a fused qkv); o is [batch*seq, heads*head_dim]; lse is f32        \
     * [batch, heads, seq]; scale 1/sqrt(head_dim). */                                                                 \
    X(ATTN_FWD, "attn_fwd", "batch seq heads kv_heads head_dim row_stride", "q k v o lse")                             \
    X(ATTN_BWD, "attn_bwd", "batch seq heads kv_heads head_dim row_stride", "q k v o lse do dq dk dv work")            \
    /* x is [rows, 2*cols]: gate, then up. y = act(gate) * up; act is SiLU, or tanh-GELU with the GELU flag. dx may    \
     * be x. */                                                                                                        \
    X(GLU_FWD, "glu_fwd", "rows cols", "x y")                                                                          \
    X(GLU_BWD, "glu_bwd", "rows cols", "dy x dx")                                                                      \
    X(ADD, "add", "n", "a b y") /* y = a + b; y may be a or b */                                                       \
    X(COPY, "copy", "n", "x y") /* y = x */                                                                            \
    X(ZERO, "zero", "n", "y")   /* y = 0 */                                                                            \
    /* tokens are int32 [rows]; table is [vocab, cols]. BWD adds into dtable in row order (ACC is implied). */         \
    X(EMBED_FWD, "embed_fwd", "rows cols vocab", "tokens table y")                                                     \
    X(EMBED_BWD, "embed_bwd", "rows cols vocab", "tokens dy dtable")                                                   \
    /* Cross entropy of logits [rows, vocab] against int32 targets [rows]. Overwrites logits with                      \
     * d(loss)/d(logits); *loss (f32, += with ACC2) = imm0 * sum of token losses. imm0 = 1 / tokens of the whole step. \
     * A recipe that takes the rows in chunks, each with its GEMMs, never holds more than a chunk of logits. */        \
    X(XENT, "xent", "rows vocab", "logits targets loss")                                                               \
    /* hyper is f32[8]: lr, beta1, beta2, eps, weight_decay, 1-beta1^t, 1-beta2^t, gradient scale. imm0 scales the     \
     * weight decay of this range (0 for norms and embeddings). In bf16 `master` is the f32 copy; m and v are f32, or  \
     * with LEAN bf16, rounded up or down with a probability that keeps their mean, drawn from values and hyper.       \
     */                                                                                                                \
    X(ADAMW, "adamw", "n", "param grad m v hyper master")                                                              \
    /* Mixture of experts. ROUTER: scores [rows, experts] -> top-k ids and weights. PERMUTE gathers rows*topk rows     \
     * into expert order, UNPERMUTE brings them back weighted. BWD kinds move the gradients the other way. */          \
    X(MOE_ROUTE_FWD, "moe_route_fwd", "rows experts topk", "scores ids weights")                                       \
    X(MOE_ROUTE_BWD, "moe_route_bwd", "rows experts topk", "dweights ids scores dscores")                              \
    X(MOE_PERMUTE, "moe_permute", "rows cols topk", "x ids y")                                                         \
    X(MOE_UNPERMUTE, "moe_unpermute", "rows cols topk", "x ids weights y")                                             \
    /* Collectives inside a recipe, on communicator `comm`. bytes: all_reduce, the whole vector; all_gather and        \
     * reduce_scatter, the gathered side; all_to_all, what one rank sends in all, its own share included. */           \
    X(ALL_REDUCE, "all_reduce", "bytes", "x y")                                                                        \
    X(ALL_GATHER, "all_gather", "bytes", "x y")                                                                        \
    X(REDUCE_SCATTER, "reduce_scatter", "bytes", "x y")                                                                \
    X(ALL_TO_ALL, "all_to_all", "bytes", "x y")                                                                        \
    /* y = (x - mean) * rstd * w + b with rstd = 1/sqrt(variance + imm0); mean and rstd, f32 [rows], are saved. */     \
    X(LAYERNORM_FWD, "layernorm_fwd", "rows cols", "x w b y mean rstd")                                                \
    /* dx (+= with ACC); dw and db (+= with ACC2). */                                                                  \
    X(LAYERNORM_BWD, "layernorm_bwd", "rows cols", "dy x w mean rstd dx dw db")                                        \
    /* s = x + r, then the norm of s as it was rounded; s may be x or r. */                                            \
    X(RMSNORM_ADD_FWD, "rmsnorm_add_fwd", "rows cols", "x r w s y rstd")                                               \
    X(LAYERNORM_ADD_FWD, "layernorm_add_fwd", "rows cols", "x r w b s y mean rstd")                                    \
    /* y = x + b, b added to every row; + r where there is an r. y may be x or r. BWD: db (+= with ACC) = sum of rows. \
     */                                                                                                                \
    X(BIAS_FWD, "bias_fwd", "rows cols", "x b r y")                                                                    \
    X(BIAS_BWD, "bias_bwd", "rows cols", "dy db")                                                                      \
    /* Clipping by the global norm, without touching a gradient. *y (+= with ACC) = sum of x^2, f32. CLIP: *norm =     \
     * |hyper[7]| * sqrt(sum of sums[0..n-1]), then hyper[7] *= imm0 / *norm where *norm is larger than imm0. */       \
    X(SUMSQ, "sumsq", "n", "x y")                                                                                      \
    X(CLIP, "clip", "n", "sums norm hyper")                                                                            \
    /* From f32 to the call's dtype, and back. */                                                                      \
    X(CAST_DOWN, "cast_down", "n", "x y")                                                                              \
    X(CAST_UP, "cast_up", "n", "x y")                                                                                  \
    /* Cross entropy of logits of which this rank has [rows, vocab], one of `parts` equal parts of the vocabulary;     \
     * targets count from the part's first token, and those outside it are in another part. STATS: stats, f32          \
     * [2, rows], = log of the sum of exp of the part's logits, and the target's logit or 0. PART, with the stats of   \
     * all parts [parts, 2, rows]: the same gradient and loss as XENT; every part gives the whole loss. */             \
    X(XENT_STATS, "xent_stats", "rows vocab", "logits targets stats")                                                  \
    X(XENT_PART, "xent_part", "rows vocab parts", "logits targets stats loss")                                         \
    /* XENT where the last `padding` of the vocab columns are no tokens: they take no part, their gradient is 0. */    \
    X(XENT_PADDED, "xent_padded", "rows vocab padding", "logits targets loss")                                         \
    /* Causal attention of a slice of one sequence: its queries are the last `rows` of `keys` positions. qkv is        \
     * [rows, (heads + 2 * kv_heads) * head_dim], a fused product's; kv, [keys, 2 * kv_heads * head_dim], has keys and \
     * values of the slices before and gets the slice's own. BWD goes from the last slice to the first: sum, f32, is   \
     * shaped as kv and collects (+= with ACC) what this slice makes of the gradients of the slices before; its own    \
     * keys' gradients, with what is there with ACC, go to dqkv. */                                                    \
    X(ATTN_SLICE_FWD, "attn_slice_fwd", "keys rows heads kv_heads head_dim", "qkv kv o lse")                           \
    X(ATTN_SLICE_BWD, "attn_slice_bwd", "keys rows heads kv_heads head_dim", "qkv kv o lse do dqkv sum work")

enum sf_call_kind {
#define X(NAME, name, dims, operands) SF_CALL_##NAME,
    SF_CALLS(X)
#undef X
        SF_CALL_KINDS
};

/* X(NAME, "name", bytes per element) */
#define SF_DTYPES(X)                                                                                                   \
    X(F32, "f32", 4)                                                                                                   \
    X(BF16, "bf16", 2)                                                                                                 \
    X(FP8, "fp8", 1)                                                                                                   \
    X(MXFP8, "mxfp8", 1)         /* a scale for 32 elements */                                                         \
    X(FP8_BLOCK, "fp8_block", 1) /* for a block of 128 x 128, or 128 elements of a row */                              \
    X(NVFP4, "nvfp4", 1)         /* 4 bits and a scale for 16; a whole byte in sums of traffic */

enum sf_dtype {
#define X(NAME, name, bytes) SF_##NAME,
    SF_DTYPES(X)
#undef X
        SF_DTYPES_N
};

/* X(NAME, bit, "name") */
#define SF_CALL_FLAGS(X)                                                                                               \
    X(TA, 1u, "ta")                                                                                                    \
    X(TB, 2u, "tb")                                                                                                    \
    X(ACC, 4u, "acc")   /* add to the first output instead of overwriting it */                                        \
    X(ACC2, 8u, "acc2") /* add to the second output */                                                                 \
    X(GELU, 16u, "gelu")                                                                                               \
    X(RECOMPUTE, 32u, "recompute") /* repeated forward work: counts as time, not as model FLOPs */                     \
    X(PLAIN, 64u, "plain")         /* GLU without a gate: x is [rows, cols], y = act(x) */                             \
    X(LEAN, 128u, "lean")          /* ADAMW below f32: moments in bf16 */                                              \
    X(PART, 256u, "part")          /* EMBED: of a split table; rows of tokens outside it are 0, and add nothing */     \
    X(BESIDE, 512u, "beside")      /* a collective that runs beside the attention next to it: ring attention */        \
    /* ATTN: every head has keys of its own, wider than values, in matrices of their own: dims[3] is the width of a    \
     * value, q and k are dense, and row_stride is that of v alone */                                                  \
    X(APART, 1024u, "apart")

enum sf_call_flag {
#define X(NAME, bit, name) SF_CALL_##NAME##_FLAG = bit,
    SF_CALL_FLAGS(X)
#undef X
};

#define SF_CALL_DIMS 6
#define SF_CALL_OPERANDS 10

/* An operand: formal parameter of the recipe in the top byte, byte offset into it below. */
typedef uint64_t sf_ref;
#define SF_REF_NONE UINT64_MAX
#define SF_REF(formal, offset) (((uint64_t)(formal) << 56) | (uint64_t)(offset))
#define SF_REF_FORMAL(ref) ((uint32_t)((ref) >> 56))
#define SF_REF_OFFSET(ref) ((ref) & ((UINT64_C(1) << 56) - 1))

struct sf_call {
    uint8_t kind;   /* enum sf_call_kind */
    uint8_t dtype;  /* enum sf_dtype of the matrices; statistics (rstd, lse, loss) are always f32 */
    uint16_t flags; /* enum sf_call_flag */
    uint32_t comm;  /* index into the program's communicators, SF_NONE unless a collective */
    float imm[2];   /* imm1: expected fraction of the maximum dims for dynamic sizes (1 = always full) */
    int64_t dims[SF_CALL_DIMS];
    sf_ref operand[SF_CALL_OPERANDS];
};
static_assert(sizeof(struct sf_call) == 144, "sf_call is part of the file format's cost");

#define SF_NONE UINT32_MAX

const char *sf_call_name(int kind);  /* "gemm"; "?" outside the enum */
int sf_call_parse(const char *name); /* -1 when unknown */
int sf_call_dims_n(int kind);        /* how many dims and operands the kind names */
int sf_call_operands_n(int kind);
bool sf_call_is_collective(int kind);
int sf_call_collective(int kind);        /* enum sf_coll_op; -1: it is none */
bool sf_call_is_attention(int kind);     /* of whole sequences or of a slice */
bool sf_call_is_attention_fwd(int kind); /* its forward */
/* Whether any kernel could make sense of the dims: none negative, nothing to divide by that is 0, rows that stay inside
 * their strides. Sizes are the loader's to check. */
bool sf_call_dims_ok(const struct sf_call *call);
uint32_t sf_call_writes(int kind); /* bit o: operand o is written (perhaps read as well) */
const char *sf_dtype_name(int dtype);
int sf_dtype_parse(const char *name); /* -1 when unknown */
int sf_dtype_bytes(int dtype);

#endif
