/* Inside the compiler. One compilation goes: shape (sizes on one rank) -> the schedule's table -> parameter layout of
 * every virtual stage -> forward and backward recipes of every virtual stage -> one class per rank of the pipeline, in
 * the order of its row of the table.
 *
 * A *virtual stage* (vs) is a chunk of layers, counted in data order. The first one starts with the embedding, the last
 * one ends with the head and the loss. Virtual stages that look alike share their layout and recipes. A *stage* is a
 * virtual stage of one copy of the model: stage s of the table is virtual stage s mod vs_n. */
#ifndef SF_PLANNER_COMPILE_INTERNAL_H
#define SF_PLANNER_COMPILE_INTERNAL_H

#include "core/prog_build.h"
#include "planner/compile.h"
#include "planner/schedule.h"

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

/* Sizes of one microbatch on one rank; `seq` is whole, `tokens` and `rows` are its share of cp. Widths named *_local
 * are this rank's share of tensor parallelism. */
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
    uint32_t tp, cp, ep;
    bool recompute;    /* layers run forward again before their backward */
    bool selective;    /* only their norms and activation functions do */
    bool split;        /* some backwards are split: what weight gradients need is kept until then */
    bool whole_rows;   /* rows are not split over tp: sums are all-reduced instead of scattered and gathered */
    float expert_fill; /* expected rows of an expert by expert_rows */
};

/* Indices of communicators; SF_NONE where the group has one member. */
struct sfi_comms {
    uint32_t tp, cp, ep, dp, edp, fwd, bwd, swap;
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

/* From which stage of ZeRO on gradients and weights are shared too; the optimizer's state is from 1 on. */
#define SFI_ZERO_GRADIENTS 2u
#define SFI_ZERO_WEIGHTS 3u

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
    uint32_t held;  /* the same, made by the input half of a backward that recomputes, for its weight half */
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
    uint64_t stash_bytes, held_bytes, head_bytes, work_bytes;
    struct sfi_formals fwd, bwd, bwd_input, bwd_weight;
    uint32_t recipe_fwd, recipe_input;
    uint32_t recipe_bwd[2], recipe_weight[2]; /* [1] adds to the gradients, [0] overwrites them */
};

/* ---- the schedule's table ---------------------------------------------------------------------------------------- */

enum sfi_pass { SFI_PASS_F, SFI_PASS_B, SFI_PASS_W, SFI_PASSES }; /* a whole backward is both B and W */

struct sfi_table {
    struct sf_pipe *pipe;
    sf_time_ps **end;           /* [devices][passes] in a replay by FLOPs */
    uint32_t *step[SFI_PASSES]; /* [stages * microbatches] place of a pass in its row */
    uint32_t chunks_n;          /* per rank */
    uint32_t *chunk_of;         /* [stages] which chunk of its rank a stage is */
    uint32_t *stage_at;         /* [devices * chunks_n] */
    bool split, whole;          /* kinds of backward in it */
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
    uint32_t units; /* that a stage of the plan is cut into: vs_n = pp * vpp * units */
    struct sfi_table table;
};

/* Multiply-adds of the passes of each virtual stage, pp * vpp of them; at least 1. */
void sfi_pass_flops(const struct sfi_shape *s, const struct sf_plan *plan, uint64_t *f, uint64_t *b, uint64_t *w);
int sfi_table_init(struct sfi_compile *c, struct sf_err *err);
void sfi_table_clear(struct sfi_table *t); /* legal on a zeroed one */

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
    unsigned flags;       /* on every call: RECOMPUTE */
    bool inputs, weights; /* backward: which gradients it makes */
    bool add;             /* weight gradients are added, not overwritten */
};

/* A layer's weights, or their gradients. */
struct sfi_refs {
    sf_ref norm1, qkv, o, norm2, router, gate_up, down;
};

/* What a layer's forward leaves for its backward; `x` is its input, `out` its output unless it is the chunk's last.
 *
 * The input half of a split backward leaves the gradients that its weight half needs where it has done with the
 * activations: of the output in `out`, of the sum after attention in `xm`, of qkv, gate_up and scores in their own
 * places. So a microbatch takes the same bytes until its weight half as it did before. */
struct sfi_acts {
    sf_ref x, rstd1, n1, qkv, o, lse, xm, rstd2, n2, gate_up, act, out;
    sf_ref scores, ids, weights, dispatched; /* MoE */
    sf_ref d_norm1, d_norm2, d_rows;         /* split: gradients of the norms' weights; MoE: of dispatched rows */
};

struct sfi_head {
    sf_ref x, rstd, n, logits;
    sf_ref d_norm; /* split */
};

void sfi_refs_of(const struct sfi_recipe *r, uint32_t layer, bool gradients, struct sfi_refs *out);
void sfi_acts_of(struct sfi_recipe *r, uint32_t layer, struct sfi_acts *out);
sf_ref sfi_layer_output(const struct sfi_recipe *r, uint32_t layer);
void sfi_head_of(const struct sfi_recipe *r, struct sfi_head *out);
/* Sizes of the formals above. */
uint64_t sfi_stash_bytes(const struct sfi_shape *s, uint32_t layers);
uint64_t sfi_held_bytes(const struct sfi_shape *s, uint32_t layers); /* 0 unless split backwards recompute */
/* Where a split backward keeps the gradient of the embedding's output: behind the layers. */
sf_ref sfi_embedded_gradient(const struct sfi_recipe *r);
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
void sfi_call_norm_bwd(struct sfi_recipe *r, bool add_dx, bool add_dw, const sf_ref operand[6]);
void sfi_call_rope(struct sfi_recipe *r, int kind, sf_ref qkv);
void sfi_call_attention(struct sfi_recipe *r, int kind, const sf_ref *operand, size_t operands_n);
void sfi_call_glu(struct sfi_recipe *r, int kind, uint64_t rows, const sf_ref *operand, size_t operands_n);
void sfi_call_add(struct sfi_recipe *r, sf_ref a, sf_ref b, sf_ref y); /* rows x hidden */
void sfi_call_copy(struct sfi_recipe *r, sf_ref x, sf_ref y);          /* rows x hidden */
void sfi_call_simple(struct sfi_recipe *r, int kind, const uint64_t dims[3], const sf_ref *operand, size_t operands_n);
void sfi_call_xent(struct sfi_recipe *r, sf_ref logits, sf_ref targets, sf_ref loss);
/* A rank has its part of the table under tp; operand: tokens, table or dy, y or dtable. */
void sfi_call_embed(struct sfi_recipe *r, int kind, const sf_ref operand[3]);
void sfi_call_comm(struct sfi_recipe *r, int kind, uint32_t comm, uint64_t bytes, sf_ref x, sf_ref y);
/* Between rows split over tp and whole sequences. With tp = 1 both are the same rows and nothing is emitted:
 * gather returns its input, partial returns `out` itself for the GEMM to write to. */
sf_ref sfi_gather(struct sfi_recipe *r, uint64_t width, sf_ref x);
sf_ref sfi_partial(struct sfi_recipe *r, uint64_t width, sf_ref out);
void sfi_reduce(struct sfi_recipe *r, uint64_t width, sf_ref partial, sf_ref out);

/* Keys and values of whole sequences, or their gradients: where cp is 1, slices of a fused qkv. Else they are collected
 * from the cp ranks before attention, and their gradients added up there afterwards. */
struct sfi_kv {
    sf_ref k, v, own; /* own: this rank's share of both, packed */
};
struct sfi_kv sfi_all_keys(struct sfi_recipe *r, sf_ref qkv);
struct sfi_kv sfi_keys_gradients(struct sfi_recipe *r, sf_ref d_qkv);
void sfi_return_keys(struct sfi_recipe *r, const struct sfi_kv *d, sf_ref d_qkv);

/* ---- classes ----------------------------------------------------------------------------------------------------- */

#define SFI_SLOTS 2 /* results on their way out, and targets, are double-buffered */

/* Which of a few equal buffers each unit (chunk, microbatch) uses, and when it may. */
struct sfi_pool {
    uint32_t *slot;  /* [units] */
    uint32_t *after; /* [units] step that used the slot before; SF_NONE: nobody did */
    uint32_t *bufs;  /* [slots_n] builder indices */
    uint32_t slots_n;
};

/* A canonical sum over the microbatches of one chunk: the gradients of a run of microbatches, added in order, are a
 * leaf of a binary tree; whatever the order of the leaves, a pair is added as soon as both halves are there. Slot 0 is
 * the gradient buffer itself, where the whole sum ends up. */
struct sfi_sum {
    uint32_t run, leaves;
    uint32_t *slot;   /* [2 * leaves] of a node that waits; node 1 is the whole, 2n and 2n + 1 are halves of n */
    uint32_t *next;   /* [leaves] how many microbatches of its run have come */
    uint64_t taken;   /* bit set of slots */
    uint32_t slots_n; /* most at once */
};

#define SFI_SUM_SLOTS 64
#define SFI_SUM_LEVELS 17 /* microbatches are below 2^16 */

/* Buffers of one local chunk. */
struct sfi_chunk {
    const struct sfi_vstage *vs;
    uint32_t stage;         /* of the table */
    uint32_t first_mb, mbs; /* microbatches first_mb .. first_mb + mbs - 1 */
    uint32_t complete;      /* the op after which its gradients are all added up */
    uint32_t weights_done;  /* microbatches whose weight gradients are made */
    struct sfi_sum sum;
    uint32_t param[SFI_SPACES], grad[SFI_SPACES];
    uint32_t slots[SFI_SPACES][SFI_SUM_SLOTS]; /* of the sum; the first is grad */
    uint32_t m, v, master;
    uint64_t shard;  /* where the chunk's shards begin in the shard buffers */
    uint32_t *ready; /* [buckets_n] the op after which the bucket's gradient is complete */
};

/* Inputs of a step that another rank sends, in the order in which they are made. */
struct sfi_arrival {
    sf_time_ps at;
    uint32_t from, pass; /* rank of the pipeline and place in its row: who makes it */
    uint32_t step;
};

/* Towards which neighbour a transfer goes. Everything between two ranks of one kind (activations or gradients) is on
 * one stream, and every stream carries its transfers in the order in which the replay makes them. So if all wait for
 * each other, the one that was made first can still go: no deadlock, even when transfers block. */
enum sfi_side { SFI_NEXT, SFI_PREV, SFI_SIDES };

struct sfi_route {
    enum sfi_side side; /* as the sender sees it */
    int32_t delta;      /* from the sender */
};
struct sfi_route sfi_route_of(const struct sfi_table *t, uint32_t from_stage, uint32_t to_stage);

/* A microbatch's share of a gradient, on its way to those of the microbatches before it. */
struct sfi_part {
    uint32_t chunk, bucket, scattered; /* the op that delivers it */
    uint32_t buf;                      /* SF_NONE: it was the first and is where it belongs */
    uint16_t microbatch;
};

#define SFI_PARTS (4 * SFI_SPACES) /* of two passes, with room to spare */

/* See compile_shards.c. */
struct sfi_shards {
    uint32_t *gathered[SFI_SPACES]; /* [steps_n] op that makes a step's weights whole; SF_NONE */
    uint32_t *whole[SFI_SPACES];    /* [steps_n] where they are then */
    uint32_t made[SFI_SPACES];      /* gradients of the pass at hand */
    uint32_t scattered[2];          /* last op that read those of the last two passes */
    uint32_t passes_n;
    struct sfi_part parts[SFI_PARTS]; /* a ring */
    uint32_t parts_n, added, parts_of_last;
};

/* One class under construction. */
struct sfi_stage {
    const struct sfi_compile *c;
    uint32_t stage; /* rank of the pipeline */
    const struct sf_pass *steps;
    uint32_t steps_n, chunks_n, units_n;
    uint32_t *step_op;    /* [steps_n] the compute op of a step */
    uint32_t *arrival[2]; /* [steps_n] ops that deliver its inputs: transfer or tokens; targets */
    struct sfi_arrival *arrivals;
    uint32_t arrivals_n, arrived;
    struct sfi_chunk *chunks; /* [chunks_n] */
    struct sfi_pool x, stash, held, head, tokens, landing;
    struct sfi_shards shards;
    uint32_t work, hyper, loss, grad_shard, param_shard;
    uint32_t out[SFI_SIDES][SFI_SLOTS];       /* results on their way to a neighbour */
    uint32_t last_send[SFI_SIDES][SFI_SLOTS]; /* op that last read them */
    uint32_t sent[SFI_SIDES];
    uint32_t targets[SFI_SLOTS];
    uint32_t targeted, targeted_early; /* how often the slots were used, for compute and for loads ahead */
};

/* Neighbours in data order inside the same copy of the model; SF_NONE at the ends. */
uint32_t sfi_stage_before(const struct sfi_compile *c, uint32_t stage);
uint32_t sfi_stage_behind(const struct sfi_compile *c, uint32_t stage);

static inline struct sfi_chunk *sfi_chunk_of(const struct sfi_stage *st, const struct sf_pass *step) {
    return &st->chunks[st->c->table.chunk_of[step->stage]];
}
static inline uint32_t sfi_unit_of(const struct sfi_stage *st, uint32_t stage, uint32_t microbatch) {
    return st->c->table.chunk_of[stage] * st->c->plan->microbatches + microbatch;
}
static inline uint32_t sfi_pool_buffer(const struct sfi_pool *pool, uint32_t unit) {
    return pool->bufs[pool->slot[unit]];
}

/* Decide which slot of each pool every unit uses. */
int sfi_assign_slots(struct sfi_stage *st, struct sf_err *err);
void sfi_pools_clear(struct sfi_stage *st);

/* Units that every stage of the plan is cut into, and how many layers a virtual stage has then. */
uint32_t sfi_units_of(const struct sf_plan *plan);
uint32_t sfi_unit_layers(const struct sf_plan *plan, uint32_t units, uint32_t unit);
/* Replaces the table by one whose passes are those of units. */
int sfi_cut_stages(struct sf_pipe **table, uint32_t units, struct sf_err *err);
int sfi_shards_init(struct sfi_stage *st, struct sf_err *err);
void sfi_shards_clear(struct sfi_shards *s); /* legal on a zeroed one */
void sfi_emit_gathers(struct sfi_stage *st, uint32_t step);
/* Replaces the buffers of a step's weights by those that were gathered for it. */
void sfi_bind_whole(const struct sfi_stage *st, uint32_t step, uint32_t param[SFI_SPACES]);
/* Before a pass that makes weight gradients: what it has to wait for, or SF_NONE. Then where they go, which is never
 * added to; what becomes of them; and, after all passes, the rest of it. */
uint32_t sfi_await_scatters(struct sfi_stage *st);
bool sfi_take_whole(struct sfi_stage *st, const struct sf_pass *step, uint32_t out[SFI_SPACES]);
void sfi_emit_scatters(struct sfi_stage *st, const struct sf_pass *step, uint32_t after);
void sfi_end_scatters(struct sfi_stage *st);

/* Compile the class of one pipeline stage into the builder. */
int sfi_stage_compile(const struct sfi_compile *c, uint32_t stage, struct sf_err *err);
/* Ops of one step, after those that deliver the inputs of the next. */
void sfi_emit_step(struct sfi_stage *st, uint32_t step);
/* Microbatches whose gradients are added one after the other: canonical, the odd part of their number; else all. */
uint32_t sfi_canonical_run(const struct sf_plan *plan);
/* Refuses an order of weight gradients that cannot be added canonically. */
int sfi_sum_init(const struct sfi_stage *st, struct sfi_chunk *chunk, struct sf_err *err);
void sfi_sum_clear(struct sfi_sum *s);
/* Where the weight gradients of this step go; true when they are added to what is there. */
bool sfi_take_leaf(struct sfi_stage *st, const struct sf_pass *step, uint32_t out[SFI_SPACES]);
/* After the op that made them: sums that are possible now, and the chunk's reductions after its last one. */
void sfi_emit_leaf(struct sfi_stage *st, const struct sf_pass *step, uint32_t leaf_op);
/* This rank's part of a bucket's gradient: a share in the shard buffer, or the bucket itself. */
struct sf_arg sfi_owned_gradient(const struct sfi_stage *st, uint32_t chunk, uint32_t bucket, enum sf_access access);
/* Sums over tp of what only some of its ranks saw, in the gradients of a chunk at `grad`; the op after which they are.
 */
uint32_t sfi_reduce_replicated(struct sfi_stage *st, uint32_t chunk, uint32_t grad, uint32_t last_op);
/* Formal 0 += formal 1, n elements; copy_back: and formal 1 = formal 0. */
uint32_t sfi_sum_recipe(const struct sfi_stage *st, uint64_t n, bool copy_back);
/* Reduction of a chunk's gradients over ranks; nothing yet where copies of the model must be added first. */
void sfi_emit_reductions(struct sfi_stage *st, uint32_t chunk, uint32_t last_op);
/* After everything. */
void sfi_emit_update(struct sfi_stage *st);

#endif
