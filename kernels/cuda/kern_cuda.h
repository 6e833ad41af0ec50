/* CUDA kernels behind one table keyed by (call kind, dtype, architecture), with the same meaning as kernels/kern.h.
 *
 * A kernel only enqueues work on `stream`: it never synchronises, allocates or reads device memory, so it may be
 * captured into a graph. Results depend on inputs, shapes, device model and library versions alone, with two exceptions
 * that sf_cuda_set_deterministic removes: the usual GEMM algorithm is chosen by time, so another process may choose
 * another; and cuDNN's usual attention backward adds dq in the order in which blocks finish.
 *
 * What a kernel needs beside its operands (partial sums, cuBLASLt's and cuDNN's workspace) comes from one work area
 * that the caller owns and may change between calls. Calls that can run at the same time (streams of a rank, virtual
 * ranks) need different work areas. One thread at a time uses a context.
 *
 * Device pointers are 16-byte aligned for full speed; unaligned ones and odd sizes take slower paths with equal
 * results up to rounding. */
#ifndef SF_KERNELS_CUDA_KERN_CUDA_H
#define SF_KERNELS_CUDA_KERN_CUDA_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "core/call.h"
#include "core/err.h"

struct sf_cuda; /* one device: cuBLASLt handle, attention plans, algorithm cache */

/* Kernels cannot fail where they run. The first id outside the vocabulary is left here instead, its row is skipped, and
 * whoever reads results looks at `kind` first. In device or mapped host memory, zeroed by the caller. */
struct sf_cuda_fault {
    int32_t kind; /* 0: none; else 1 + enum sf_call_kind of the call that found it */
    int32_t row;
    int32_t id;
    int32_t vocab;
};

/* `cache_dir`: where algorithm choices live between runs, one text file per device model and library version; NULL: not
 * kept. A file that cannot be used is reported by sf_cuda_note and replaced. SF_E_FAULT where there is no such device,
 * saying what was looked for. */
int sf_cuda_create(int device, const char *cache_dir, struct sf_cuda **out, struct sf_err *err);
void sf_cuda_destroy(struct sf_cuda *ctx);

/* For later calls: `work` of `bytes` bytes, at least 256-byte aligned, and where faults go (NULL: nowhere). */
void sf_cuda_set_work(struct sf_cuda *ctx, void *work, size_t bytes, struct sf_cuda_fault *fault);

/* Bytes of work area for this call, the same on every device that this build supports. The `work` operand of ATTN_BWD
 * is apart from it: see sf_cuda_attn_bwd_work. 0 where the table has no kernel. */
size_t sf_cuda_work_bytes(const struct sf_call *call, bool deterministic);
size_t sf_cuda_attn_bwd_work(const struct sf_call *call); /* never more than the compiler reserves */

/* The same bits every time and in every process, for calls prepared from now on, where that is slower too. The file of
 * algorithms is neither used nor added to. */
void sf_cuda_set_deterministic(struct sf_cuda *ctx, bool on);

/* Everything that must happen once per shape before its first call: measures GEMM candidates, builds attention plans.
 * Allocates, synchronises, runs kernels on memory of its own: never during a capture. A call that needs nothing, or
 * that was prepared before, costs a look-up. */
int sf_cuda_prepare(struct sf_cuda *ctx, const struct sf_call *call, struct sf_err *err);

/* Writes new choices to the cache file; sf_cuda_destroy does it too, but cannot report. */
int sf_cuda_save(struct sf_cuda *ctx, struct sf_err *err);

int sf_cuda_arch(const struct sf_cuda *ctx); /* 90, 100, 103 */
const char *sf_cuda_device_name(const struct sf_cuda *ctx);
const char *sf_cuda_note(const struct sf_cuda *ctx); /* why a cache file was not used; "" when all is well */

/* Work must be set, and the call prepared. SF_E_INTERNAL when the work area is too small, SF_E_FAULT when CUDA refuses.
 */
typedef int (*sf_kern_cuda)(struct sf_cuda *ctx, const struct sf_call *call, void *const operand[SF_CALL_OPERANDS],
                            void *stream /* cudaStream_t */, struct sf_err *err);

/* NULL when this build has no kernel for the call's kind, dtype, flags or dims on that architecture. */
sf_kern_cuda sf_kern_cuda_find(const struct sf_call *call, int arch);

#ifdef __cplusplus
}
#endif

#endif
