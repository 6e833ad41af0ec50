/* Kernels behind one table keyed by (call kind, dtype). Each fast kernel has a plain C reference beside it
 * (kernels/ref_*.c); tests hold them together.
 *
 * A kernel gets the call and its operands as resolved pointers, in the order call.h names them; NULL where the call has
 * SF_REF_NONE. It allocates nothing, keeps no global state and computes the same bits for the same inputs whatever rank
 * or thread runs it. Pointers are 64-byte aligned unless the operand's offset says otherwise. Attention takes up to
 * 512 KiB of the caller's stack. Ids outside the vocabulary fail with SF_E_INPUT before anything is written. */
#ifndef SF_KERNELS_KERN_H
#define SF_KERNELS_KERN_H

#include <stddef.h>

#include "core/call.h"
#include "core/err.h"

typedef int (*sf_kern)(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err);

enum sf_kern_set { SF_KERN_REFERENCE, SF_KERN_FAST };

/* The kernel for a call, or NULL when this build has none for its kind, dtype or flags, or when its dims make no sense
 * (negative, heads that kv_heads does not divide, groups of 0, ...). The fast set is compiled for several instruction
 * sets and picks the best that this CPU has; a shape it does not cover falls back to the reference. */
sf_kern sf_kern_find(enum sf_kern_set set, const struct sf_call *call);

/* Once per process, before the first call, so that no timed call pays for generating code. GEMM uses one core whatever
 * thread calls it; denormals stay as they are. */
void sf_kern_setup(void);

/* y[i] = sum of src[0..n-1][i], added along the canonical binary tree over the index (pairs of neighbours, then pairs
 * of pairs); n need not be a power of two. f32. y may be one of the sources; the
 * sum of no sources is 0. */
void sf_kern_tree_sum(float *y, const float *const src[], size_t n, size_t count);

/* Bytes of `work` that ATTN_BWD or ATTN_SLICE_BWD needs for this call. */
size_t sf_kern_attn_bwd_work(const struct sf_call *call);

#endif
