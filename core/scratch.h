/* How much memory the kernels of a GPU need beside their operands: partial sums, cuBLASLt's workspace, what cuDNN's
 * attention may ask for. Work areas are no part of a program's arena, because they belong to a library and not to the
 * model; but a device holds them as long as the program runs, one for each stream that carries kernels, so a forecast
 * of its memory counts them. The kernels themselves are held to these figures by tests (tests/cuda). */
#ifndef SF_CORE_SCRATCH_H
#define SF_CORE_SCRATCH_H

#include <stdint.h>

#include "core/prog.h"

/* At most this much for one call; 0 for collectives. Saturates at UINT64_MAX / 2 for dims that no memory holds. */
uint64_t sf_call_scratch_bytes(const struct sf_call *call);

/* Of all streams of a rank of this class. Programs that compute in f32 alone are trained by CPUs, whose kernels use the
 * stack: 0. */
uint64_t sf_class_scratch_bytes(const struct sf_prog *prog, uint32_t class_i);

/* The most that a rank of any class needs on its device: its arena and its work areas. */
uint64_t sf_prog_device_bytes(const struct sf_prog *prog);

#endif
