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
#include "planner/stage_degrees.h"

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

/* Sizes of one microbatch, or a slice of it, on one rank; `seq` is whole, `tokens` and `rows` are its share of cp.
 * Widths named *_local are this rank's share of tensor parallelism. */
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
    uint32_t slices; /* that sequences are cut into: rows are those of one, seq is whole */
    bool recompute;  /* layers run forward again before their backward */
    bool selective;  /* only their norms and activation functions do */
    bool split;      /* some backwards are split: what weight gradients need is kept until then */
    bool whole_rows; /* rows are not split over tp: sums are all-reduced instead of scattered and gathered */
    bool layernorm;  /* norms subtract the mean and have a bias */
    bool qkv_bias, out_bias, ffn_bias; /* of q, k and v; of the attention's output; of both feed-forward products */
    uint64_t positions;                /* learned; 0: rotary */
    uint64_t vocab_part;               /* of the head where it is split over the pipeline; 0: whole, or over tp */
    uint32_t vocab_parts;              /* of all ranks of the pipeline and of tp together */
    uint64_t vocab_padding;            /* rows of the table, at its end, that are no tokens */
    uint64_t loss_rows;                /* tokens whose logits there are at a time; 0: all, from forward to backward */
    float expert_fill;                 /* expected rows of an expert by expert_rows */
    uint32_t etp;                      /* ranks that share an expert's matrices: tp, or 1 and then ep takes in tp */
    uint64_t shared_local, shared_up;  /* widths of the shared experts, as ffn_local and up_local; 0: there are none */
    bool shared_gate;
    /* Latent attention (compile_mla.c); kv_rank 0: none. head_dim and qkv_local are then of queries alone. */
    uint64_t q_rank, kv_rank, rope_dim, v_dim;
    uint64_t latent; /* width of the latent vectors and the rotary key: both ranks and rope_dim */
    uint64_t kv_up;  /* width of keys without the rotary part and values, of this rank's heads */
    bool redo_up;    /* recompute: queries, keys and values are made from the latent vectors again */
};

/* Weights are kept in two spaces, because expert weights are reduced over fewer ranks than all others. */
enum sfi_space { SFI_DENSE, SFI_EXPERT, SFI_SPACES };

/* Indices of communicators; SF_NONE where the group has one member. */
struct sfi_comms {
    uint32_t outer; /* sub-replicas of a stage whose tp is a part of the plan's (stage_degrees.h); else SF_NONE */
    uint32_t tp, vocab, cp, ep, dp, edp, fwd, bwd, swap, norm;
    uint32_t parts; /* ranks that have the same rows of a split head's parts */
    uint32_t dp_n, edp_n;
    /* Of dp and edp, the ranks that share weights, gradients or optimizer; and those that have the same share. */
    uint32_t share[SFI_SPACES], share_n[SFI_SPACES], across;
};

enum sfi_stream {
    SFI_COMPUTE,
    SFI_LOAD,
    SFI_FWD_RECV,
    SFI_FWD_SEND,
    SFI_BWD_RECV,
    SFI_BWD_SEND,
    SFI_GRAD,
    SFI_OFFLOAD,            /* to the host; what comes from there is on SFI_LOAD */
    SFI_HEAD = SFI_OFFLOAD, /* between parts of a split head, which know no offload */
};

/* From which stage of ZeRO on gradients and weights are shared too; the optimizer's state is from 1 on. */
#define SFI_ZERO_GRADIENTS 2u
#define SFI_ZERO_WEIGHTS 3u

/* ---- parameters -------------------------------------------------------------------------------------------------- */

/* A range of one space that is reduced, updated and gathered as a whole. */
struct sfi_bucket {
    uint64_t offset, bytes; /* in its space; parameters and gradients alike */
    uint64_t owned;         /* bytes that this rank's optimizer updates: all, or its share */
    uint64_t state;         /* where the owned elements begin in the chunk's optimizer state, in elements */
    uint32_t space;         /* enum sfi_space */
    bool sharded;           /* reduce-scatter, update a share, all-gather */
    bool decays;            /* weight decay applies */
};

/* Vectors of a norm, its bias behind its weight, each aligned. */
static inline uint64_t sfi_norm_bytes(const struct sfi_shape *s) {
    return sfi_round_up(sfi_mul(s->hidden, s->elem), SFI_ALIGN) * (s->layernorm ? 2 : 1);
}

/* Where the weights of a layer lie: bytes inside the dense space, of experts inside theirs. */
struct sfi_place {
    uint64_t qkv, kv_up, o, gate_up, down; /* the last two of experts where the layer has them */
    uint64_t shared_up, shared_down;
    uint64_t router;
    uint64_t latent, latent_norms; /* latent attention: the way down, which every tp rank holds whole */
};

/* Where the weights of a virtual stage lie. Offsets are bytes inside the space. */
struct sfi_params {
    uint64_t embed, head;                 /* UINT64_MAX when the stage has none; equal when tied in place */
    uint64_t further;                     /* the embedding that layers which predict further read; UINT64_MAX: none */
    uint64_t copy;                        /* of the other end's table, that of head or `further`; UINT64_MAX: none */
    uint64_t joints;                      /* two projections for each of these layers */
    struct sfi_place *at;                 /* [blocks] owned, in the block of `buckets` */
    uint64_t local_biases, local_stride;  /* of a layer: qkv, then gate and up; parts of tp as their rows are */
    uint64_t norms, norm_stride, norms_n; /* two per block, two for each that predicts further, then the final one */
    uint64_t biases, bias_stride;         /* of a layer: attention's output, then feed-forward's; behind the norms */
    uint64_t positions;
    uint64_t routers, router_stride; /* those that there are, one after the other */
    uint64_t replicated_bytes;       /* from `norms`: weights that every tp rank holds whole */
    uint64_t bytes[SFI_SPACES];
    uint64_t used[SFI_SPACES];  /* of these, the rest is padding at the end */
    uint64_t state_n;           /* elements of optimizer state */
    struct sfi_bucket *buckets; /* owned */
    uint32_t buckets_n;
};

/* ---- virtual stages ---------------------------------------------------------------------------------------------- */

/* Formal parameters of a recipe, in the order in which an op binds them; SF_NONE where it has none. */
struct sfi_formals {
    uint32_t param, expert, grad, expert_grad;
    uint32_t stash; /* what backward needs of the layers */
    uint32_t keys;  /* of all slices of the sequence, with their values; a layer after the other */
    uint32_t sums;  /* f32 gradients of keys and values, collected from the last slice on */
    uint32_t held;  /* the same as stash, made by the input half of a backward that recomputes, for its weight half */
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

/* Of one slice. */
struct sfi_recipes {
    uint32_t fwd, input;
    uint32_t bwd[2], weight[2]; /* [1] adds to the gradients, [0] overwrites them */
};

struct sfi_vstage {
    uint32_t index, layers, first_layer;
    uint32_t tp, ep; /* of its rank of the pipeline */
    uint32_t mtp;    /* layers that predict further, behind the others */
    uint32_t again;  /* its first layers that `recompute` of the plan is for */
    bool is_first, is_last;
    bool ends; /* has the final norm */
    bool head; /* makes logits: all, or of a part of the vocabulary */
    struct sfi_params params;
    bool owns_params; /* false when shared with an earlier, equal virtual stage */
    uint64_t stash_bytes, held_bytes, head_bytes, work_bytes;
    uint64_t keys_bytes, sums_bytes; /* 0: sequences are whole */
    struct sfi_formals fwd, bwd, bwd_input, bwd_weight;
    struct sfi_recipes *recipes; /* [slices], owned like params */
};

/* With those that predict further. */
static inline uint32_t sfi_blocks(const struct sfi_vstage *vs) {
    return vs->layers + vs->mtp;
}

/* ---- the schedule's table ---------------------------------------------------------------------------------------- */

enum sfi_pass { SFI_PASS_F, SFI_PASS_B, SFI_PASS_W, SFI_PASSES }; /* a whole backward is both B and W */

struct sfi_table {
    struct sf_pipe *pipe;
    sf_time_ps **start, **end;  /* [devices][passes] in a replay by FLOPs */
    uint32_t *step[SFI_PASSES]; /* [stages * microbatches * slices] place of a pass in its row */
    uint32_t chunks_n;          /* per rank */
    uint32_t *chunk_of;         /* [stages] which chunk of its rank a stage is */
    uint32_t *stage_at;         /* [devices * chunks_n] */
    bool split, whole;          /* kinds of backward in it */
};

static inline size_t sfi_pass_index(const struct sf_pipe *p, uint32_t stage, uint32_t microbatch, uint32_t slice) {
    return ((size_t)stage * p->microbatches + microbatch) * p->slices + slice;
}

struct sfi_compile {
    const struct sf_scenario *s;
    const struct sf_plan *plan;
    bool unbounded; /* the program need not fit a device */
    struct sf_build *b;
    struct sfi_shape shape;
    struct sfi_shape mtp;              /* of layers that predict further, which never run again */
    struct sfi_shape dense;            /* of layers without experts; equal in models that have none */
    struct sfi_shape rest, rest_dense; /* the same for layers that `recompute` of the plan leaves out */
    bool *left_out;                    /* [layers] which those are; NULL: none */
    struct sfi_comms comms;
    struct sfi_vstage *vs; /* [vs_n] */
    uint32_t vs_n;
    uint32_t units; /* that a stage of the plan is cut into: vs_n = pp * vpp * units */
    /* Degrees of tp, or of ep, in ascending order, the plan's last, and the axes of the mesh that each is made of. The
     * compilation as stages of the smaller ones see it has a plan, shapes and communicators of its own, all else in
     * common. */
    bool by_ep;
    uint32_t degrees_n, degrees[SFI_MOST_DEGREES + 1], axes_of[SFI_MOST_DEGREES];
    struct sfi_seen *seen; /* [degrees_n - 1] */
    struct sfi_table table;
};

static inline bool sfi_is_left_out(const struct sfi_compile *c, uint32_t layer) {
    return c->left_out != NULL && (layer >= c->s->model.layers || c->left_out[layer]);
}
static inline const struct sfi_shape *sfi_layer_shape(const struct sfi_compile *c, uint32_t layer) {
    if (layer >= c->s->model.layers) {
        return &c->mtp;
    }
    bool routed = sf_model_routes(&c->s->model, layer);
    if (sfi_is_left_out(c, layer)) {
        return routed ? &c->rest : &c->rest_dense;
    }
    return routed ? &c->shape : &c->dense;
}
/* Do all layers run forward again, so that nothing but their inputs is kept? */
static inline bool sfi_all_again(const struct sfi_compile *c, const struct sfi_vstage *vs) {
    return c->shape.recompute && vs->again == vs->layers;
}

/* Multiply-adds of the passes of each virtual stage, pp * vpp of them; at least 1. */
void sfi_pass_flops(const struct sf_scenario *s, const struct sf_plan *plan, uint64_t *f, uint64_t *b, uint64_t *w);
int sfi_table_init(struct sfi_compile *c, struct sf_err *err);
void sfi_table_clear(struct sfi_table *t); /* legal on a zeroed one */

void sfi_shape_init(const struct sf_scenario *s, const struct sf_plan *plan, struct sfi_shape *out);
/* The same for layers without experts. */
void sfi_shape_dense(const struct sf_scenario *s, const struct sf_plan *plan, struct sfi_shape *out);
/* And for those that predict further. */
void sfi_shape_further(const struct sf_scenario *s, const struct sf_plan *plan, struct sfi_shape *out);
/* The parts of it that make_shape of compile.c leaves to others. */
void sfi_shape_latent(const struct sf_model *m, uint32_t tp, struct sfi_shape *out);

int sfi_params_init(const struct sfi_compile *c, const struct sfi_vstage *vs, struct sfi_params *out,
                    struct sf_err *err);
/* Append the named weights of a virtual stage to the open class; bufs[] are its parameter buffers. */
void sfi_params_tensors(const struct sfi_compile *c, const struct sfi_vstage *vs, const uint32_t bufs[SFI_SPACES]);
static inline uint64_t sfi_params_norm(const struct sfi_params *p, uint64_t i) {
    return p->norms + i * p->norm_stride;
}
/* Norms and projections that join the rows of the depth before, 2 * k, and an embedding, 2 * k + 1, of depth k + 1. */
static inline uint64_t sfi_mtp_norm(const struct sfi_vstage *vs, uint32_t i) {
    return sfi_params_norm(&vs->params, 2 * (uint64_t)sfi_blocks(vs) + i);
}
static inline uint64_t sfi_mtp_joint(const struct sfi_shape *s, const struct sfi_vstage *vs, uint32_t i) {
    return vs->params.joints + i * sfi_round_up(sfi_mul(sfi_mul(s->hidden, s->hidden), s->elem), SFI_ALIGN);
}
/* Sizes of biases and learned positions, and their buckets (compile_bias.c). */
uint64_t sfi_vector_bytes(const struct sfi_shape *s, uint64_t n);
uint64_t sfi_local_bias_bytes(const struct sfi_shape *s);
uint64_t sfi_bias_bytes(const struct sfi_shape *s);

/* ---- recipes ----------------------------------------------------------------------------------------------------- */

struct sfi_stage;

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
    uint32_t slice;
    uint32_t depth; /* whose head is at hand: 0, or that of a layer which predicts so many tokens further */
};

/* A layer's weights, or their gradients. */
struct sfi_refs {
    sf_ref norm1, qkv, o, norm2, router, gate_up, down;
    sf_ref qkv_bias, o_bias, up_bias, down_bias; /* SF_REF_NONE: it has none */
    sf_ref shared_up, shared_down;
    sf_ref kv_up, latent, q_norm, kv_norm;
};

/* What a layer's forward leaves for its backward; `layer` counts in the chunk, `x` is its input, `out` its output
 * unless it is the chunk's last.
 *
 * The input half of a split backward leaves the gradients that its weight half needs where it has done with the
 * activations: of the output in `out`, of the sum after attention in `xm`, of qkv, gate_up and scores in their own
 * places. So a microbatch takes the same bytes until its weight half as it did before.
 *
 * A norm's statistics lie together at its rstd: of layer norms, the mean is behind it. */
struct sfi_acts {
    uint32_t layer;
    sf_ref x, rstd1, n1, qkv, o, lse, xm, rstd2, n2, gate_up, act, out;
    sf_ref scores, ids, weights, dispatched; /* MoE */
    sf_ref d_norm1, d_norm2, d_rows;         /* split: gradients of the norms' weights; MoE: of dispatched rows */
    sf_ref shared_up, shared_act;
    /* Latent attention: qkv holds queries alone. */
    sf_ref latent, q_rstd, q_latent, kv_rstd, kv_latent, kv_up, k, d_latent_norms;
};

struct sfi_head {
    sf_ref own_stats, all_stats; /* of a part of the vocabulary, and of all */
    sf_ref x, rstd, n;
    sf_ref logits; /* SF_REF_NONE where they are made in parts */
    sf_ref d_norm; /* split */
};

void sfi_refs_of(const struct sfi_recipe *r, uint32_t layer, bool gradients, struct sfi_refs *out);
void sfi_acts_of(struct sfi_recipe *r, uint32_t layer, struct sfi_acts *out);
sf_ref sfi_layer_output(const struct sfi_recipe *r, uint32_t layer);
void sfi_head_of(const struct sfi_recipe *r, struct sfi_head *out);
/* Sizes of the formals above. */
uint64_t sfi_stash_bytes(const struct sfi_compile *c, const struct sfi_vstage *vs);
uint64_t sfi_held_bytes(const struct sfi_compile *c, const struct sfi_vstage *vs); /* 0 unless splits recompute */
/* Recipes of a weight half read the stash: not all that they need is held. */
static inline bool sfi_needs_stash(const struct sfi_vstage *vs) {
    return vs->held_bytes == 0 || vs->again < vs->layers;
}
/* Of them, one layer's share of what is kept from forward to backward, and what every chunk has less. */
uint64_t sfi_block_bytes(const struct sfi_shape *s);
uint64_t sfi_row_room(const struct sfi_shape *s);
/* Where a split backward keeps the gradient of the embedding's output: behind the layers. */
sf_ref sfi_embedded_gradient(const struct sfi_recipe *r);
uint64_t sfi_head_bytes(const struct sfi_shape *s, const struct sfi_vstage *vs);
/* Parts of it: all that a layer keeps but its input and output, and what a head keeps. */
void sfi_place_block(const struct sfi_shape *s, struct sfi_bump *b, struct sfi_acts *out);
void sfi_place_head(const struct sfi_shape *s, const struct sfi_vstage *vs, struct sfi_bump *b, struct sfi_head *out);

/* A norm and where its results go; w is SF_REF_NONE where there is none. */
struct sfi_norm {
    sf_ref w, y, rstd;
};
/* From a->n1 on: the norm of a layer's input is made with the sum that precedes it. `next` is that of what follows. */
void sfi_layer_forward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w, sf_ref out,
                       const struct sfi_norm *next);
void sfi_layer_backward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w,
                        const struct sfi_refs *dw, sf_ref g);
void sfi_ffn_forward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w, sf_ref out);
void sfi_ffn_backward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w,
                      const struct sfi_refs *dw, sf_ref g, sf_ref dn);
/* The shared experts, added to `out` and to `dn`. */
void sfi_shared_forward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w, sf_ref out);
void sfi_shared_backward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w,
                         const struct sfi_refs *dw, sf_ref g, sf_ref dn);
/* What a selective forward did not keep of them. */
void sfi_shared_redo(struct sfi_recipe *r, const struct sfi_acts *a);
/* Latent attention: from the normalised row to the attention's output before its projection, and back to dn, to which
 * this adds nothing: it is written. */
void sfi_latent_forward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w);
void sfi_latent_backward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w,
                         const struct sfi_refs *dw, sf_ref d_o, sf_ref dn);
/* Its up-projections once more. */
void sfi_latent_up(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w);
/* Places and sizes; `light` is for what is made again, `b` for the rest. */
void sfi_latent_acts(const struct sfi_shape *s, struct sfi_bump *b, struct sfi_bump *light, struct sfi_acts *a);
uint64_t sfi_latent_norm_bytes(const struct sfi_shape *s);
/* Bytes of a buffer of rows as they are dispatched: room for all local experts where no gather follows. */
uint64_t sfi_dispatch_room(const struct sfi_shape *s);
void sfi_experts_forward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w, sf_ref out);
/* From the gradient of the output (g, kept) to that of the input (dn). */
void sfi_experts_backward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w,
                          const struct sfi_refs *dw, sf_ref g, sf_ref dn);
/* Biases and learned positions: nothing where the model has none. In backward of the half that makes weights. */
void sfi_add_bias(struct sfi_recipe *r, uint64_t cols, sf_ref b, sf_ref x); /* in place, tokens x cols */
void sfi_bias_gradient(struct sfi_recipe *r, uint64_t rows, uint64_t cols, sf_ref dy, sf_ref db);
/* sum = x + residual with the bias of x, and the norm of the sum. */
void sfi_join(struct sfi_recipe *r, sf_ref x, sf_ref bias, sf_ref residual, sf_ref sum, const struct sfi_norm *norm);
void sfi_add_positions(struct sfi_recipe *r, sf_ref x);
void sfi_positions_gradient(struct sfi_recipe *r, sf_ref g);
/* From the normalised output of the last layer to the loss, and from there to the gradient of that layer's output.
 * Where logits are made in parts, forward does nothing: backward makes each part, its loss and its gradients. */
void sfi_head_forward(struct sfi_recipe *r);
/* Layers that predict further, behind the head and ahead of it (compile_mtp.c); nothing where there are none. */
void sfi_mtp_forward(struct sfi_recipe *r);
void sfi_mtp_backward(struct sfi_recipe *r, sf_ref g);
void sfi_mtp_head(const struct sfi_recipe *r, struct sfi_head *out); /* of r->depth, above 0 */
uint64_t sfi_mtp_bytes(const struct sfi_compile *c, const struct sfi_vstage *vs, uint64_t behind);
/* What the last stage keeps of a microbatch beside its layers. */
uint64_t sfi_end_bytes(const struct sf_scenario *s, const struct sf_plan *plan);
/* A part of the head (compile_vocab.c): logits and their statistics; from those of all parts to the gradients. It
 * leaves its input zero. */
void sfi_part_forward(struct sfi_recipe *r);
void sfi_part_backward(struct sfi_recipe *r, sf_ref g);
static inline bool sfi_is_part(const struct sfi_compile *c, const struct sfi_vstage *vs) {
    return c->shape.vocab_part > 0 && vs->head;
}
/* Rows of targets, and sets of logits, that a virtual stage has to do with: of the next token and of those further. */
static inline uint32_t sfi_depths(const struct sfi_compile *c, const struct sfi_vstage *vs) {
    return vs->head || vs->mtp > 0 ? c->s->model.mtp + 1 : 1;
}
/* What a virtual stage is given by the one before, and what it hands on: one set of rows, or one for every head. */
static inline uint64_t sfi_input_bytes(const struct sfi_compile *c, const struct sfi_vstage *vs) {
    return sfi_is_part(c, vs) ? sfi_mul(sfi_depths(c, vs), c->shape.row_bytes) : c->shape.row_bytes;
}
static inline uint64_t sfi_output_bytes(const struct sfi_compile *c, const struct sfi_vstage *vs) {
    return c->shape.vocab_part > 0 && vs->ends ? sfi_mul(sfi_depths(c, vs), c->shape.row_bytes) : c->shape.row_bytes;
}
uint64_t sfi_parts_bytes(const struct sfi_compile *c, const struct sfi_vstage *vs);
/* The virtual stage that has the copy of the first one's table. */
static inline const struct sfi_vstage *sfi_copying(const struct sfi_compile *c) {
    return &c->vs[c->plan->split_head ? c->plan->pp - 1 : c->vs_n - 1];
}
void sfi_head_backward(struct sfi_recipe *r, sf_ref g);
/* dy x w rstd dx dw of a norm; `kept` is where halves of a backward leave dw for each other. */
void sfi_norm_backward(struct sfi_recipe *r, bool add_dx, const sf_ref operand[6], sf_ref kept);
static inline bool sfi_is_half(const struct sfi_recipe *r) {
    return !r->inputs || !r->weights;
}
/* Recipes of a virtual stage with its params set; fills formals, sizes and recipe indices. */
void sfi_forward_recipes(const struct sfi_compile *c, struct sfi_vstage *vs);
void sfi_backward_recipes(const struct sfi_compile *c, struct sfi_vstage *vs);

/* Calls, in the words of core/call.h; dtype and flags from the recipe. */
void sfi_call_gemm(struct sfi_recipe *r, int dtype, unsigned flags, const uint64_t mnk[3], sf_ref a, sf_ref b,
                   sf_ref c);
void sfi_call_expert_gemm(struct sfi_recipe *r, unsigned flags, const uint64_t mnk[3], sf_ref a, sf_ref b, sf_ref c);
void sfi_call_norm_fwd(struct sfi_recipe *r, sf_ref x, const struct sfi_norm *norm);
/* sum = x + residual, and its norm; sum may be x. */
void sfi_call_norm_add(struct sfi_recipe *r, sf_ref x, sf_ref residual, sf_ref sum, const struct sfi_norm *norm);
void sfi_call_norm_bwd(struct sfi_recipe *r, bool add_dx, bool add_dw, const sf_ref operand[6]);
/* Norms of another width than the model's; operands as call.h has them. */
void sfi_call_norm_of(struct sfi_recipe *r, int kind, unsigned flags, uint64_t cols, const sf_ref *operand,
                      size_t operands_n);
void sfi_call_rope(struct sfi_recipe *r, int kind, sf_ref qkv);
void sfi_call_rope_of(struct sfi_recipe *r, int kind, uint64_t rows, const uint64_t dims[3], sf_ref x);
/* Of heads that have keys of their own, wider than values. */
void sfi_call_latent_attention(struct sfi_recipe *r, int kind, const sf_ref *operand, size_t operands_n);
void sfi_call_attention(struct sfi_recipe *r, int kind, const sf_ref *operand, size_t operands_n);
/* Of a slice; gradients of earlier keys are added to what is there. */
void sfi_call_slice(struct sfi_recipe *r, int kind, bool add, const sf_ref *operand, size_t operands_n);
void sfi_call_glu(struct sfi_recipe *r, int kind, uint64_t rows, const sf_ref *operand, size_t operands_n);
void sfi_call_add(struct sfi_recipe *r, sf_ref a, sf_ref b, sf_ref y); /* rows x hidden */
void sfi_call_copy(struct sfi_recipe *r, sf_ref x, sf_ref y);          /* rows x hidden */
void sfi_call_simple(struct sfi_recipe *r, int kind, const uint64_t dims[3], const sf_ref *operand, size_t operands_n);
/* Of `rows` tokens; a loss is added to what is there. */
void sfi_call_xent(struct sfi_recipe *r, uint64_t rows, bool add, const sf_ref operand[3]);
/* Statistics of a part of the vocabulary; and, with those of all parts, gradient and loss. */
void sfi_call_part_stats(struct sfi_recipe *r, const sf_ref operand[3]);
void sfi_call_part_loss(struct sfi_recipe *r, bool add, const sf_ref operand[4]);
void sfi_call_bias_fwd(struct sfi_recipe *r, uint64_t rows, uint64_t cols, const sf_ref operand[4]);
void sfi_call_bias_bwd(struct sfi_recipe *r, uint64_t rows, uint64_t cols, sf_ref dy, sf_ref db);
/* A rank has its part of the table under tp; operand: tokens, table or dy, y or dtable. */
void sfi_call_embed(struct sfi_recipe *r, int kind, const sf_ref operand[3]);
void sfi_call_comm(struct sfi_recipe *r, int kind, uint32_t comm, uint64_t bytes, sf_ref x, sf_ref y);
/* Between rows split over tp and whole sequences. With tp = 1 both are the same rows and nothing is emitted:
 * gather returns its input, partial returns `out` itself for the GEMM to write to. */
sf_ref sfi_gather(struct sfi_recipe *r, uint64_t width, sf_ref x);
sf_ref sfi_partial(struct sfi_recipe *r, uint64_t width, sf_ref out);
void sfi_reduce(struct sfi_recipe *r, uint64_t width, sf_ref partial, sf_ref out);

/* Attention of a slice (compile_slice.c). */
void sfi_slice_forward(struct sfi_recipe *r, const struct sfi_acts *a);
void sfi_slice_backward(struct sfi_recipe *r, const struct sfi_acts *a, sf_ref d_o, sf_ref d_qkv, sf_ref work);
uint64_t sfi_keys_bytes(const struct sfi_compile *c, const struct sfi_vstage *vs);
uint64_t sfi_sums_bytes(const struct sfi_compile *c, const struct sfi_vstage *vs);
/* Rows of a sequence that a pass works on, and how many come before them. */
static inline uint64_t sfi_pass_rows(const struct sfi_shape *s) {
    return s->seq / s->cp / s->slices;
}
static inline uint64_t sfi_rows_before(const struct sfi_recipe *r) {
    return r->slice * sfi_pass_rows(r->shape);
}

/* Keys and values of whole sequences, or their gradients: where cp is 1, slices of a fused qkv. Else they are collected
 * from the cp ranks before attention, and their gradients added up there afterwards. */
struct sfi_kv {
    sf_ref k, v, own; /* own: this rank's share of both, packed */
};
struct sfi_kv sfi_all_keys(struct sfi_recipe *r, sf_ref qkv);
struct sfi_kv sfi_keys_gradients(struct sfi_recipe *r, sf_ref d_qkv);
void sfi_return_keys(struct sfi_recipe *r, const struct sfi_kv *d, sf_ref d_qkv);
/* The same of latent attention, whose keys and values are made apart. */
struct sfi_kv sfi_all_latent_keys(struct sfi_recipe *r, sf_ref k, sf_ref v);
struct sfi_kv sfi_latent_keys_gradients(struct sfi_recipe *r, sf_ref dk, sf_ref dv);
void sfi_return_latent_keys(struct sfi_recipe *r, const struct sfi_kv *d, sf_ref dk, sf_ref dv);

/* ---- classes ----------------------------------------------------------------------------------------------------- */

#define SFI_SLOTS 2 /* results on their way out, and targets, are double-buffered */

/* Which of a few equal buffers each unit (chunk, microbatch, slice) uses, and when it may. What all slices of a
 * microbatch share is the first one's. */
struct sfi_pool {
    uint32_t *slot;  /* [units] */
    uint32_t *after; /* [units] step that used the slot before; SF_NONE: nobody did */
    uint32_t *bufs;  /* [slots_n] builder indices */
    uint32_t slots_n;
};

/* A canonical sum over the passes of one chunk, a microbatch's slices from the last to the first: the gradients of a
 * run of microbatches, added in order, are a leaf of a binary tree; whatever the order of the leaves, a pair is added
 * as soon as both halves are there. Slot 0 is the gradient buffer itself, where the whole sum ends up. */
struct sfi_sum {
    uint32_t run, leaves; /* run: of passes */
    uint32_t *slot;       /* [2 * leaves] of a node that waits; node 1 is the whole, 2n and 2n + 1 are halves of n */
    uint32_t *next;       /* [leaves] how many passes of its run have come */
    uint64_t taken;       /* bit set of slots */
    uint32_t slots_n;     /* most at once */
};

#define SFI_SUM_SLOTS 64
#define SFI_SUM_LEVELS 17 /* microbatches are below 2^16 */

/* Buffers of one local chunk. */
struct sfi_chunk {
    const struct sfi_vstage *vs;
    uint32_t stage;         /* of the table */
    uint32_t first_mb, mbs; /* microbatches first_mb .. first_mb + mbs - 1 */
    uint32_t complete;      /* the op after which its gradients are all added up */
    uint32_t weights_done;  /* passes that made their weight gradients */
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

/* What all parts of a split head take part in (compile_parts.c), once for each microbatch. */
enum sfi_exchange_kind {
    SFI_OUTPUTS, /* from the last layer to all parts */
    SFI_STATS,   /* of every part's logits, to all */
    SFI_RETURNS, /* gradients of the outputs, added up */
};

struct sfi_exchange {
    sf_time_ps at; /* when the replay has all that goes in */
    uint32_t microbatch;
    enum sfi_exchange_kind kind;
};

struct sfi_exchanges {
    struct sfi_exchange *all; /* [n] in the order in which every rank has them */
    uint32_t n, done;
    uint32_t part;                    /* the stage of the table that is this rank's part */
    uint32_t *returns, *last_returns; /* [returns_n] gradients on their way, in turns, and ops that last read them */
    uint32_t returns_n;
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
    bool last; /* of its chunk */
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
    uint32_t *step_op; /* [steps_n] the compute op of a step */
    uint32_t *stats;   /* [steps_n] the op that gathers statistics for a backward of a part of the head */
    struct sfi_exchanges exchanges;
    uint32_t *arrival[2]; /* [steps_n] ops that deliver its inputs: transfer or tokens; targets */
    struct sfi_arrival *arrivals;
    uint32_t arrivals_n, arrived;
    struct sfi_chunk *chunks; /* [chunks_n] */
    struct sfi_pool x, stash, held, head, tokens, landing, keys, key_sums;
    struct sfi_pool part_x; /* inputs of parts of a head: zero until all ranks add to them what one of them has */
    struct sfi_pool away;   /* on the host, see compile_offload.c */
    uint32_t *copied;       /* [steps_n] the op that frees what an offloaded forward left; SF_NONE */
    uint32_t *fetched;      /* [steps_n] the op that brings back what a backward needs; SF_NONE */
    struct sfi_shards shards;
    uint32_t work, hyper, loss, grad_shard, param_shard;
    uint32_t sums, norm;                      /* of clipping; see compile_clip.c */
    uint32_t out[SFI_SIDES][SFI_SLOTS];       /* results on their way to a neighbour */
    uint32_t last_send[SFI_SIDES][SFI_SLOTS]; /* op that last read them */
    uint32_t sent[SFI_SIDES];
    uint32_t targets[SFI_SLOTS];
    uint32_t targeted, targeted_early; /* how often the slots were used, for compute and for loads ahead */
};

/* Neighbours in data order inside the same copy of the model; SF_NONE at the ends. Before each part of a split head is
 * the last stage of layers, and behind that the part on its own rank. */
uint32_t sfi_stage_before(const struct sfi_compile *c, uint32_t stage);
uint32_t sfi_stage_behind(const struct sfi_compile *c, uint32_t stage);

static inline struct sfi_chunk *sfi_chunk_of(const struct sfi_stage *st, const struct sf_pass *step) {
    return &st->chunks[st->c->table.chunk_of[step->stage]];
}
static inline uint32_t sfi_unit_of(const struct sfi_stage *st, uint32_t stage, uint32_t microbatch, uint32_t slice) {
    return (uint32_t)sfi_pass_index(st->c->table.pipe, st->c->table.chunk_of[stage], microbatch, slice);
}
/* The same on its second stay on the device, when it is back from the host: in the pools of x and stash. */
static inline uint32_t sfi_unit_back(const struct sfi_stage *st, uint32_t unit) {
    return st->units_n + unit;
}
static inline const struct sfi_pool *sfi_inputs(const struct sfi_stage *st, uint32_t stage) {
    return sfi_is_part(st->c, &st->c->vs[stage % st->c->vs_n]) ? &st->part_x : &st->x;
}
static inline uint32_t sfi_pool_buffer(const struct sfi_pool *pool, uint32_t unit) {
    return pool->bufs[pool->slot[unit]];
}

/* Decide which slot of each pool every unit uses. */
int sfi_assign_slots(struct sfi_stage *st, struct sf_err *err);
void sfi_pools_clear(struct sfi_stage *st);

/* Where what layers hold comes and goes, stages are cut into units. */
static inline bool sfi_cuts_stages(const struct sf_plan *plan) {
    return plan->zero >= SFI_ZERO_GRADIENTS || plan->offload > 0;
}
/* Units that every stage of the plan is cut into, and how many layers a virtual stage has then. */
uint32_t sfi_units_of(const struct sf_plan *plan);
uint32_t sfi_unit_layers(const struct sf_plan *plan, uint32_t units, uint32_t unit);
/* Replaces the table by one whose passes are those of units. */
int sfi_cut_stages(struct sf_pipe **table, uint32_t units, struct sf_err *err);
/* Do the activations of this pair wait on the host? */
bool sfi_is_away(const struct sfi_stage *st, uint32_t stage, uint32_t microbatch, uint32_t slice);
/* The op after which what a step held is free: itself, or that which copies it away. SF_NONE of SF_NONE. */
uint32_t sfi_freed_by(const struct sfi_stage *st, uint32_t step);
uint64_t sfi_away_bytes(const struct sfi_stage *st, const struct sfi_vstage *vs);
/* After a forward, and ahead of a backward; nothing where activations stay. */
void sfi_emit_offload(struct sfi_stage *st, uint32_t step);
void sfi_emit_fetch(struct sfi_stage *st, uint32_t step);
int sfi_shards_init(struct sfi_stage *st, struct sf_err *err);
void sfi_shards_clear(struct sfi_shards *s); /* legal on a zeroed one */
void sfi_emit_gathers(struct sfi_stage *st, uint32_t step);
/* Replaces the buffers of a step's weights by those that were gathered for it. */
void sfi_bind_whole(const struct sfi_stage *st, uint32_t step, uint32_t param[SFI_SPACES]);
/* Before a pass that makes weight gradients: what it has to wait for, or SF_NONE. Then where they go, which is never
 * added to; what becomes of them; and, after all passes, the rest of it. */
uint32_t sfi_await_scatters(struct sfi_stage *st, const struct sf_pass *step);
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
/* Adds up the shares of groups that have the same; the op after which they are. Nothing where there is one group. */
uint32_t sfi_reduce_across(struct sfi_stage *st, uint32_t chunk, uint32_t bucket, uint32_t after);
/* This rank's part of a bucket's gradient: a share in the shard buffer, or the bucket itself. */
struct sf_arg sfi_owned_gradient(const struct sfi_stage *st, uint32_t chunk, uint32_t bucket, enum sf_access access);
/* Sums over tp of what only some of its ranks saw, in the gradients of a chunk at `grad`; the op after which they are.
 */
uint32_t sfi_reduce_replicated(struct sfi_stage *st, uint32_t chunk, uint32_t grad, uint32_t last_op);
/* Formal 0 += formal 1, n elements; copy_back: and formal 1 = formal 0. */
uint32_t sfi_sum_recipe(const struct sfi_stage *st, uint64_t n, bool copy_back);
/* Reduction of a chunk's gradients over ranks; nothing yet where copies of the model must be added first. */
void sfi_emit_reductions(struct sfi_stage *st, uint32_t chunk, uint32_t last_op);
/* Nothing unless the head is split. */
int sfi_exchanges_init(struct sfi_stage *st, struct sf_err *err);
void sfi_exchanges_clear(struct sfi_exchanges *x); /* legal on a zeroed one */
void sfi_exchanges_buffers(struct sfi_stage *st);
/* Before step j, or after all steps: those that the replay has before that step begins. */
void sfi_emit_exchanges(struct sfi_stage *st, uint32_t step);
/* Statistics of one set of logits; the op that gathers them. */
uint32_t sfi_gather_stats(const struct sfi_stage *st, const struct sf_pass *forward, uint32_t depth, uint32_t after);
/* Where the backward of a part leaves its share, unless it is on the rank that needs the sum; *freed as ever. */
uint32_t sfi_return_buffer(const struct sfi_stage *st, uint32_t microbatch, uint32_t *freed);
/* After everything. */
void sfi_emit_update(struct sfi_stage *st);
static inline uint64_t sfi_moment_bytes(const struct sfi_compile *c) {
    return c->s->job.lean_moments ? 2 : 4;
}
/* Bytes of the vector of squares; 0: gradients are not clipped. */
uint64_t sfi_squares_bytes(const struct sfi_compile *c);
/* Between complete gradients and the updates: cut the gradient's scale. */
void sfi_emit_clip(struct sfi_stage *st);

#endif
