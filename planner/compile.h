/* From a plan to a program: recipes for every chunk, ops in schedule order, buffers, communicators, binding.
 *
 * Mesh axes, innermost first: tp, ep, dp (= plan dp / ep), pp. Communicators: "tp", "ep", "dp" (ep x dp: dense
 * weights), "edp" (dp axis only: expert weights), "pp.fwd" and "pp.bwd". Streams: compute, load, fwd.recv, fwd.send,
 * bwd.recv, bwd.send, grad (collectives of gradients and parameters).
 *
 * Transfers. Activations go to the next virtual stage (offset +1 on pp.fwd, from the last stage around to the first),
 * gradients back (-1 on pp.bwd). Both are double-buffered, and the receive for a compute op may run while the op before
 * it computes.
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
 * matrices, each layer's experts, all norms, all routers. With zero 1 a bucket is padded to whole 64-byte units per
 * rank.
 *
 * Tied tables. On one stage head and embedding share the table and its gradient. A pipeline (and canonical mode always)
 * has two copies; after the reduction over ranks their gradients are swapped and added on both sides.
 *
 * Precision. fp8: inputs of the layers' GEMMs; router and head stay bf16. Mixtures of experts, tensor parallelism, bf16
 * and fp8 are exact in shape, count and volume for pricing; the CPU kernels execute dense f32 programs with tp = 1.
 *
 * Canonical mode: gradients are added in one order over the global microbatch index. A run of microbatches (as many as
 * the odd part of their number, so 1 for a power of two) is added one after the other; runs are the leaves of a binary
 * tree (pairs, then pairs of pairs), which the reduction over dp continues: executors add members in the order of
 * sf_kern_tree_sum. So the sums are the same for every pp, dp, schedule and transport. Needs dp to be a power of two.
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

#endif
