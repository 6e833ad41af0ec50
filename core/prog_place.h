/* Placing buffers in a rank's arena. */
#ifndef SF_CORE_PROG_PLACE_H
#define SF_CORE_PROG_PLACE_H

#include "core/prog_order.h"

/* Give every buffer a lifetime, an offset (multiple of 64) and *arena_bytes, and *host_bytes for HOST buffers, the
 * total. Persistent buffers come marked with first_op 0 and last_op SF_NONE; they are laid out first. The others go, in
 * order of first use, to the lowest offset where everything already there is ordered against them. */
int sfi_place_buffers(const struct sf_op *ops, uint32_t ops_n, const struct sf_arg *args, const uint32_t *deps,
                      struct sf_buffer *bufs, uint32_t bufs_n, uint64_t *arena_bytes, uint64_t *host_bytes,
                      struct sf_err *err);

#endif
