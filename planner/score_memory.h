/* Memory of attention that is not fused: what frameworks kept before 2022. */
#ifndef SF_PLANNER_SCORE_MEMORY_H
#define SF_PLANNER_SCORE_MEMORY_H

#include "core/prog.h"

/* Largest arena of a program whose attention keeps its scores from forward to backward (arXiv 2205.05198, section 4.1:
 * per head and pair of tokens 2 bytes of softmax, 2 of its dropout and a mask of 1), and two gradients of them while
 * one backward runs. With recomputation only the layer at work has any. */
uint64_t sfi_unfused_peak_bytes(const struct sf_prog *prog);

#endif
