/* Inside the compiler. One compilation goes: shape (sizes on one rank) -> parameter layout of every virtual stage ->
 * forward and backward recipes of every virtual stage -> one class per pipeline stage, in schedule order.
 *
 * A *virtual stage* (vs) is a chunk of layers; s = chunk * pp + stage. The first one starts with the embedding, the
 * last one ends with the head and the loss. Virtual stages that look alike share their layout and recipes. */
#ifndef SF_PLANNER_COMPILE_INTERNAL_H
#define SF_PLANNER_COMPILE_INTERNAL_H

#include "core/prog_build.h"
#include "planner/compile.h"

#define SFI_ALIGN UINT64_C(64)
#define SFI_TOO_MANY_BYTES (UINT64_C(1) << 50) /* sizes saturate far above and are refused from here on */

/* Saturating: sizes come from files, and a product that wraps would look small. */
static inline uint64_t sfi_mul(uint64_t a, uint64_t b) {
    uint64_t r;
    return __builtin_mul_overflow(a, b, &r) || r > UINT64_C(1) << 56 ? UINT64_C(1) << 56 : r;
}

static inline uint64_t sfi_round_up(uint64_t v, uint64_t to) {
    return (v + to - 1) / to * to;
}

/* ---- shape ------------------------------------------------------------------------------------------------------- */

/* Sizes of one microbatch on one rank. Widths named *_local are this rank's share of tensor parallelism. */
struct sfi_shape {
    uint64_t batch, seq;
    uint64_t tokens; /* rows where a rank works on whole sequences: inside attention and feed-forward */
    uint64_t rows;   /* its share of them where rows are split over tp: norms, residuals, router */
    uint64_t hidden, vocab_local;
    uint64_t heads_local, kv_heads_local, head_dim;
    uint64_t qkv_local, attn_local;        /* widths of a fused qkv row and of a row of attention output */
    uint64_t ffn_local, up_local;          /* widths behind and before the activation: gate and up side by side */
    uint64_t experts, experts_local, topk; /* experts 0: dense */
    uint64_t picks, all_picks;             /* rows * topk, tokens * topk */
    uint64_t expert_rows;                  /* rows of one expert under balanced routing, rounded up */
    uint64_t expert_room;                  /* of all local experts together: all_picks or a little more */
    int dtype, gemm_dtype;                 /* of activations; of the inputs of the layers' GEMMs */
    uint64_t elem;                         /* bytes of an activation, weight or gradient */
    uint64_t row_bytes;                    /* rows * hidden * elem: what a pipeline boundary carries */
    uint32_t tp, ep;
    bool recompute;
    bool whole_rows;   /* rows are not split over tp: sums are all-reduced instead of scattered and gathered */
    float expert_fill; /* expected rows of an expert by expert_rows */
};

/* Indices of communicators; SF_NONE where the group has one member. */
struct sfi_comms {
    uint32_t tp, ep, dp, edp, fwd, bwd;
    uint32_t dp_n, edp_n;
};

enum sfi_stream {
    SFI_COMPUTE,
    SFI_LOAD,
    SFI_FWD_RECV,
    SFI_FWD_SEND,
    SFI_BWD_RECV,
    SFI_BWD_SEND,
    SFI_GRAD,
};

/* ---- parameters -------------------------------------------------------------------------------------------------- */

/* Weights are kept in two spaces, because expert weights are reduced over fewer ranks than all others. */
enum sfi_space { SFI_DENSE, SFI_EXPERT, SFI_SPACES };

/* A range of one space that is reduced, updated and gathered as a whole. */
struct sfi_bucket {
    uint64_t offset, bytes; /* in its space; parameters and gradients alike */
    uint64_t owned;         /* bytes that this rank's optimizer updates: all, or its share */
    uint64_t state;         /* where the owned elements begin in the chunk's optimizer state, in elements */
    uint32_t space;         /* enum sfi_space */
    bool sharded;           /* reduce-scatter, update a share, all-gather */
    bool decays;            /* weight decay applies */
};

/* Where the weights of a virtual stage lie. Offsets are bytes inside the space. */
struct sfi_params {
    uint64_t embed, head;          /* UINT64_MAX when the stage has none; equal when tied in place */
    uint64_t layer0, layer_stride; /* dense matrices of the first layer; from layer to layer */
    uint64_t expert0, expert_stride;
    uint64_t qkv, o, gate_up, down;       /* inside a layer; the last two in the expert space of MoE models */
    uint64_t norms, norm_stride, norms_n; /* two per layer, then the final one */
    uint64_t routers, router_stride;
    uint64_t replicated_bytes; /* from `norms`: weights that every tp rank holds whole */
    uint64_t bytes[SFI_SPACES];
    uint64_t state_n;           /* elements of optimizer state */
    struct sfi_bucket *buckets; /* owned */
    uint32_t buckets_n;
    bool copied_head; /* tied, and the head has a copy of its own */
};

/* ---- virtual stages ---------------------------------------------------------------------------------------------- */

/* Formal parameters of a recipe, in the order in which an op binds them; SF_NONE where it has none. */
struct sfi_formals {
    uint32_t param, expert, grad, expert_grad;
    uint32_t stash; /* what backward needs of the layers */
    uint32_t head;  /* what backward needs of the head: its input, norms, gradient of the logits */
    uint32_t x;     /* input of the first layer */
    uint32_t y;     /* forward: output; backward: its gradient */
    uint32_t dx;    /* backward: gradient of the input */
    uint32_t tokens, targets, loss;
    uint32_t work;
    uint32_t n;
};
static inline uint32_t sfi_formal(struct sfi_formals *f, bool wanted) {
    return wanted ? f->n++ : SF_NONE;
}

struct sfi_vstage {
    uint32_t index, layers, first_layer;
    bool is_first, is_last;
    struct sfi_params params;
    bool owns_params; /* false when shared with an earlier, equal virtual stage */
    uint64_t stash_bytes, head_bytes, work_bytes;
    struct sfi_formals fwd, bwd;
    uint32_t recipe_fwd, recipe_bwd[2]; /* [1] adds to the gradients, [0] overwrites them */
};

struct sfi_compile {
    const struct sf_scenario *s;
    const struct sf_plan *plan;
    bool unbounded; /* the program need not fit a device */
    struct sf_build *b;
    struct sfi_shape shape;
    struct sfi_comms comms;
    struct sfi_vstage *vs; /* [vs_n] */
    uint32_t vs_n;
};

void sfi_shape_init(const struct sf_scenario *s, const struct sf_plan *plan, struct sfi_shape *out);

/* Like sf_compile, for programs that are only priced and need not fit a device. */
int sfi_compile_unbounded(const struct sf_scenario *s, const struct sf_plan *plan, struct sf_prog **out,
                          struct sf_err *err);
int sfi_params_init(const struct sfi_compile *c, const struct sfi_vstage *vs, struct sfi_params *out,
                    struct sf_err *err);
/* Append the named weights of a virtual stage to the open class; bufs[] are its parameter buffers. */
void sfi_params_tensors(const struct sfi_compile *c, const struct sfi_vstage *vs, const uint32_t bufs[SFI_SPACES]);
static inline uint64_t sfi_params_norm(const struct sfi_params *p, uint64_t i) {
    return p->norms + i * p->norm_stride;
}

/* ---- recipes ----------------------------------------------------------------------------------------------------- */

/* Hands out ranges of one formal, 64-byte aligned. Setting `at` back frees what was taken since. */
struct sfi_bump {
    uint32_t formal;
    uint64_t at, peak;
};
sf_ref sfi_take(struct sfi_bump *b, uint64_t bytes);

/* A recipe under construction. */
struct sfi_recipe {
    const struct sfi_compile *c;
    const struct sfi_vstage *vs;
    const struct sfi_shape *shape;
    struct sfi_formals f;
    struct sfi_bump work;
    unsigned flags; /* on every call: RECOMPUTE */
    bool add;       /* weight gradients are added, not overwritten */
};

/* A layer's weights, or their gradients. */
struct sfi_refs {
    sf_ref norm1, qkv, o, norm2, router, gate_up, down;
};

/* What a layer's forward leaves for its backward; `x` is its input. */
struct sfi_acts {
    sf_ref x, rstd1, n1, qkv, o, lse, xm, rstd2, n2, gate_up, act;
    sf_ref scores, ids, weights, dispatched; /* MoE */
};

struct sfi_head {
    sf_ref x, rstd, n, logits;
};

void sfi_refs_of(const struct sfi_recipe *r, uint32_t layer, bool gradients, struct sfi_refs *out);
void sfi_acts_of(struct sfi_recipe *r, uint32_t layer, struct sfi_acts *out);
sf_ref sfi_layer_output(const struct sfi_recipe *r, uint32_t layer);
void sfi_head_of(const struct sfi_recipe *r, struct sfi_head *out);
/* Sizes of the two formals above. */
uint64_t sfi_stash_bytes(const struct sfi_shape *s, uint32_t layers);
uint64_t sfi_head_bytes(const struct sfi_shape *s);

void sfi_layer_forward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w, sf_ref out);
void sfi_layer_backward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w,
                        const struct sfi_refs *dw, sf_ref g);
/* Bytes of a buffer of rows as they are dispatched: room for all local experts where no gather follows. */
uint64_t sfi_dispatch_room(const struct sfi_shape *s);
void sfi_experts_forward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w, sf_ref out);
/* From the gradient of the output (g, kept) to that of the input (dn). */
void sfi_experts_backward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w,
                          const struct sfi_refs *dw, sf_ref g, sf_ref dn);
/* Recipes of a virtual stage with its params set; fills formals, sizes and recipe indices. */
void sfi_forward_recipe(const struct sfi_compile *c, struct sfi_vstage *vs);
void sfi_backward_recipes(const struct sfi_compile *c, struct sfi_vstage *vs);

/* Calls, in the words of core/call.h; dtype and flags from the recipe. */
void sfi_call_gemm(struct sfi_recipe *r, int dtype, unsigned flags, const uint64_t mnk[3], sf_ref a, sf_ref b,
                   sf_ref c);
void sfi_call_expert_gemm(struct sfi_recipe *r, unsigned flags, const uint64_t mnk[3], sf_ref a, sf_ref b, sf_ref c);
void sfi_call_norm_fwd(struct sfi_recipe *r, sf_ref x, sf_ref w, sf_ref y, sf_ref rstd);
void sfi_call_norm_bwd(struct sfi_recipe *r, bool add_dx, const sf_ref operand[6]);
void sfi_call_rope(struct sfi_recipe *r, int kind, sf_ref qkv);
void sfi_call_attention(struct sfi_recipe *r, int kind, const sf_ref *operand, size_t operands_n);
void sfi_call_glu(struct sfi_recipe *r, int kind, uint64_t rows, const sf_ref *operand, size_t operands_n);
void sfi_call_add(struct sfi_recipe *r, sf_ref a, sf_ref b, sf_ref y); /* rows x hidden */
void sfi_call_copy(struct sfi_recipe *r, sf_ref x, sf_ref y);          /* rows x hidden */
void sfi_call_simple(struct sfi_recipe *r, int kind, const uint64_t dims[3], const sf_ref *operand, size_t operands_n);
void sfi_call_xent(struct sfi_recipe *r, sf_ref logits, sf_ref targets, sf_ref loss);
void sfi_call_comm(struct sfi_recipe *r, int kind, uint32_t comm, uint64_t bytes, sf_ref x, sf_ref y);
/* Between rows split over tp and whole sequences. With tp = 1 both are the same rows and nothing is emitted:
 * gather returns its input, partial returns `out` itself for the GEMM to write to. */
sf_ref sfi_gather(struct sfi_recipe *r, uint64_t width, sf_ref x);
sf_ref sfi_partial(struct sfi_recipe *r, uint64_t width, sf_ref out);
void sfi_reduce(struct sfi_recipe *r, uint64_t width, sf_ref partial, sf_ref out);

/* ---- classes ----------------------------------------------------------------------------------------------------- */

#define SFI_SLOTS 2 /* transfers are double-buffered */

/* Which of a few equal buffers each (chunk, microbatch) uses from forward to backward. */
struct sfi_pool {
    uint32_t *slot; /* [chunks * microbatches] */
    uint32_t *bufs; /* [slots_n] builder indices */
    uint32_t slots_n;
};

/* Buffers of one local chunk. */
struct sfi_chunk {
    const struct sfi_vstage *vs;
    uint32_t param[SFI_SPACES], grad[SFI_SPACES];
    uint32_t partial[SFI_SPACES][16]; /* canonical sums in progress, one per level */
    uint32_t m, v, master;
    uint64_t shard;  /* where the chunk's shards begin in the shard buffers */
    uint32_t *ready; /* [buckets_n] the op after which the bucket's gradient is complete */
};

/* One class under construction. */
struct sfi_stage {
    const struct sfi_compile *c;
    uint32_t stage;
    struct sf_step *steps;
    uint32_t steps_n;
    uint32_t *step_op;    /* [steps_n] the compute op of a step */
    uint32_t *arrival[2]; /* [steps_n] ops that deliver its inputs: transfer or tokens; targets */
    struct sfi_chunk *chunks;
    struct sfi_pool x, stash, head, tokens;
    uint32_t work, hyper, loss, grad_shard, param_shard;
    uint32_t out[2][SFI_SLOTS];       /* by direction: results on their way to the neighbour */
    uint32_t last_send[2][SFI_SLOTS]; /* op that last read them */
    uint32_t sent[2];
    uint32_t landing[SFI_SLOTS]; /* gradients from the neighbour */
    uint32_t targets[SFI_SLOTS];
    uint32_t landed, targeted;             /* how often the slots were used, for compute */
    uint32_t landed_early, targeted_early; /* the same, for the transfers issued ahead */
};

enum sfi_direction { SFI_FWD, SFI_BWD };

/* The buffer that a step's chunk and microbatch were assigned. */
uint32_t sfi_pool_buffer(const struct sfi_stage *st, const struct sfi_pool *pool, const struct sf_step *step);

/* Compile the class of one pipeline stage into the builder. */
int sfi_stage_compile(const struct sfi_compile *c, uint32_t stage, struct sf_err *err);
/* Ops of one step, after those that deliver the inputs of the next. */
void sfi_emit_step(struct sfi_stage *st, uint32_t step);
/* Sum of one microbatch's gradients into the canonical tree. */
void sfi_leaf_buffers(const struct sfi_stage *st, const struct sf_step *step, uint32_t out[SFI_SPACES]);
/* Microbatches whose gradients are added one after the other: canonical, the odd part of their number; else all. */
uint32_t sfi_canonical_run(const struct sf_plan *plan);
uint32_t sfi_emit_tree(struct sfi_stage *st, const struct sf_step *step, uint32_t leaf_op);
/* After a chunk's last backward; after everything. */
void sfi_emit_reductions(struct sfi_stage *st, uint32_t chunk, uint32_t last_op);
void sfi_emit_update(struct sfi_stage *st);

static inline struct sfi_vstage *sfi_vstage_of(const struct sfi_compile *c, uint32_t stage, uint32_t chunk) {
    return &c->vs[chunk * c->plan->pp + stage];
}

#endif
