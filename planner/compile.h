/* From a plan to a program: recipes for every chunk, ops in schedule order, buffers, communicators, binding.
 *
 * Mesh axes, innermost first: tp, ep, dp (= plan dp / ep), pp, which another order of the plan's puts before dp or ep.
 * Communicators: "tp", "ep", "dp" (ep x dp: dense weights), "edp" (dp axis only: expert weights), "pp.fwd"
 * (activations), "pp.bwd" (their gradients) and "pp.swap" (sums between two ranks). Streams: compute, load, grad
 * (collectives of gradients and parameters), and for transfers fwd.recv, fwd.send, bwd.recv, bwd.send, where fwd is
 * towards the next rank of the pipeline and bwd back.
 *
 * Schedules. Rows of the schedule's table become classes, passes become ops: F forward, BW backward, B and W
 * backward_input and backward_weight, in the row's order on the compute stream. Pairs of DualPipe run one after the
 * other. The plan's virtual stages live where the table has them; on a V rank r has the r-th and the r-th from behind.
 *
 * Transfers. Activations go to the rank of the next virtual stage, gradients back; on the same rank a stage writes
 * straight to where its neighbour reads. Every transfer stream has its transfers in the order in which a replay of the
 * table makes them, and a receive waits only for steps that are over by then, one step less where it can. So the
 * transfer that was made first can always go: no deadlock even when all transfers block, for any table that can run at
 * all.
 *
 * Buffers. Chunk N's weights are in "param.cN" and its gradients in "grad.cN", at the same offsets; expert weights,
 * which are reduced over fewer ranks, are in "expert.param.cN" and "expert.grad.cN". Weights and gradients are f32, or
 * bf16 with f32 "master.cN". Before its first step an executor fills what persists: tensors from their names and the
 * seed, zero elsewhere, and then
 *   - arg 0 of every ALL_GATHER that writes a PARAM buffer with this rank's slice of arg 1,
 *   - `master` of every ADAMW with the f32 values of its `param`.
 * After a step a zero-0 program holds the reduced gradients in the GRAD buffers of the chunks, a zero-1 program each
 * rank's share in "grad.share".
 *
 * Buckets. Gradients are reduced, weights updated and gathered per bucket: the embedding, the head, each layer's
 * matrices, each layer's experts, biases that are split over tp, norms with all other biases, learned positions, all
 * routers. Vectors, embedding and positions do not decay. With zero 1 a bucket is padded to whole 64-byte units per
 * rank.
 *
 * Context parallelism. With cp > 1 each rank has its share of every sequence, from both ends, and everything but
 * attention works on that alone. Axes tp, cp, ep (= ep / cp), dp: the ep ranks are those of cp and more, or the other
 * way round where cp is larger; "dp" and "edp" hold what is left of cp too. Keys and values are collected over "cp"
 * beside attention or before it (cp_exchange), and their gradients scattered back. For pricing: kernels cannot run it
 * yet.
 *
 * Clipping. With a bound on the gradient's global norm, squares of all gradients are added up before the first update
 * (compile_clip.c): over tp and experts inside recipes, over "norm" (pp, and dp where optimizers are shared) by one op.
 *
 * Slices. Where sequences are cut, every slice of a microbatch has passes, activations and transfers of its own,
 * forward from the first on, backward from the last. Its slices share, per layer of a chunk, the keys and values of the
 * whole sequence, which forward fills, and f32 sums of their gradients, which backward collects. A microbatch's weight
 * gradients are added slice by slice, from the last on, which is one step of a canonical sum; so each number of slices
 * has bits of its own, the same in every layout.
 *
 * Split heads. The head's parts, by vocabulary, are chunks of their own, virtual stages behind the layers: the first
 * part is on the last rank, the last on the first. Forward makes a part's logits and their statistics, which an
 * all-gather brings together over "pp.vocab" (pp and tp); backward makes its gradients. An all-reduce over "pp.head"
 * takes the layers' output to all parts, another one the sum of its gradients back, both on the stream "head"
 * (compile_parts.c). The last part keeps the loss (compile_vocab.c).
 *
 * Shares. Zero 2 and 3 cut every stage into units of as few layers as all stages allow, and chunks are units. A unit's
 * gradients are scattered after every microbatch, and later shares are added to "grad.share". With zero 3 its weights
 * are gathered from "param.share" before every forward and backward, one pass ahead, and nobody holds them whole in
 * between: such a program names no tensors, so executors cannot fill them yet; it is for pricing. A unit is one bucket
 * per space, whose vectors decay like its matrices, as flat parameters do.
 *
 * Groups. With zero_group the shares are those of the ranks of axis "shard" (inside dp) and of ep or cp: gradients are
 * scattered over communicator "shard" ("eshard": of experts), each share is added up over "across" once per step, and
 * weights are gathered over "shard" alone. Sums have the bits that they have without groups.
 *
 * Offload. Stages are cut into units as for shares. What a chosen unit keeps, and its input, leave for a HOST buffer on
 * stream "offload" while the pass behind its forward runs and come back on "load" during the pass before its backward.
 * Units whose backward comes sooner than that stay where they are.
 *
 * Split backwards. The input half makes the gradients of a chunk's input, the weight half those of its weights; what
 * the weight half needs stays where the microbatch's activations are, so they live until then, and a chunk takes two
 * rows more. Layers that are computed again are so in the input half, which holds all of them for the weight half.
 *
 * Copies. DualPipe holds the model twice, in opposite directions, half of the microbatches each. When a chunk has all
 * its gradients, the two ranks that hold it swap and add them; both then reduce them over dp and update their own copy,
 * which stay equal to the bit. Losses are swapped too.
 *
 * Tied tables. On one stage head and embedding share the table and its gradient. A pipeline (and canonical mode always)
 * has two copies; after the reduction over ranks their gradients are swapped and added on both sides.
 *
 * Predicting further. Layers that predict tokens behind the next one are part of the last virtual stage with layers,
 * behind the head, whose parts get the rows of all depths where it is split (compile_mtp.c). Its loads of targets bring
 * a row of tokens for every depth, which are what depths are given too. Norm and head are the model's; the embedding
 * has a copy there, as a tied table has, unless there is one stage and sums have no order.
 *
 * Mixtures. Layers may be of two kinds, with experts and without, and shared experts run beside the others. With etp 1
 * the ranks of tp have whole experts and are among those of ep; else they share each expert's matrices. Latent
 * attention and whatever routes is for pricing: kernels cannot run it yet. A first or last virtual stage may hold the
 * embedding or the loss alone.
 *
 * Precision. fp8, its block-scaled kinds and nvfp4: inputs of the layers' GEMMs; router and head stay bf16. Mixtures of
 * experts, bf16 and below are exact in shape, count and volume for pricing; the CPU kernels execute dense f32 programs.
 *
 * Norms. The sum of a residual and what a layer's half puts out is made together with the norm that reads it, across
 * layers of one chunk; the bits are those of sum and norm apart. Where what is added has a bias, bias and residual are
 * added in one call and the norm follows.
 *
 * Logits. With a microbatch's logits above 256 MiB, or with loss_rows in the job, the head takes that many tokens at a
 * time and does all its work in backward: logits, loss, gradients. Forward ends with the last norm, targets are loaded
 * for the backward, and a weight half makes the logits again. Parts depend on the job alone, so their sums are the same
 * in every layout. Rows of a padded vocabulary take no part in the loss, so their gradient is 0 and their weights stay;
 * this needs tp 1. Learned positions are added as a bias of whole sequences: a rank of tp that works on a share of the
 * rows must have whole sequences in it.
 *
 * Tensor parallelism. Column-parallel products, then row-parallel ones, whose partial sums are scattered over the rows
 * (or added up whole, whole_rows); embedding, head and cross entropy by parts of the vocabulary. A weight that is split
 * is named as blocks of the whole, so it starts from the same values for every tp. Collectives of tp are inside recipes
 * on the compute stream. With stage_tp the axis is cut: "tp" has the ranks of the smallest degree, "tp.N" what makes
 * them N; stages with N of fewer ranks than the plan's have communicators "tp.N" and "dp.N", which takes in the outer
 * axes, and where shared optimizers are clipped "outer.N" (stage_degrees.h).
 *
 * Canonical mode: gradients are added in one order over the global microbatch index, whatever the order in which they
 * are made: a sum waits in a buffer of its own until its other half is there. A run of microbatches (as many as the odd
 * part of their number, so 1 for a power of two) is added one after the other; runs are the leaves of a binary tree
 * (pairs, then pairs of pairs), which the reduction over dp continues: executors add members in the order of
 * sf_kern_tree_sum; copies of the model are its topmost halves inside a pipeline. The sum over tp of what every rank of
 * it holds whole comes last. So the sums are the same for every pp, dp, schedule and transport at one tp; another tp
 * cuts the sums of the row-parallel products elsewhere, which rounds differently. Needs dp to be a power of two, and a
 * table of one's own must make the microbatches of a run in ascending order.
 */
#ifndef SF_PLANNER_COMPILE_H
#define SF_PLANNER_COMPILE_H

#include "core/prog.h"
#include "planner/job.h"
#include "planner/plan.h"

/* Checks the plan against scenario (degrees divide heads, experts, batch; layers add up; see sf_plan_check) and
 * compiles. The program is checked (sf_prog_check) before it is returned; memory that does not fit is SF_E_NOPLAN. */
int sf_compile(const struct sf_scenario *s, const struct sf_plan *plan, struct sf_prog **out, struct sf_err *err);

/* Refuse an impossible plan, naming the field, the rule and the numbers. */
int sf_plan_check(const struct sf_scenario *s, const struct sf_plan *plan, struct sf_err *err);

/* Its part about `zero`: is there somebody to share with, and may it be shared? */
int sf_zero_check(const struct sf_scenario *s, const struct sf_plan *plan, struct sf_err *err);

/* Like sf_compile, for programs that are only priced or weighed and need not fit a device. */
int sfi_compile_unbounded(const struct sf_scenario *s, const struct sf_plan *plan, struct sf_prog **out,
                          struct sf_err *err);

#endif
