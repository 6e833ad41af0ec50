/* What a run computed, for comparing layouts and transports bit by bit: one safetensors file with
 *   "loss"          [steps]      of every step
 *   "grad/<tensor>" [rows, cols] of the last step, as the optimizer got it
 *   "param/<tensor>" [rows, cols] after the last step
 * in F32, sorted by name, so that equal runs give equal files.
 *
 * Format: 8 bytes little-endian length of the JSON header, the header {"name": {"dtype": "F32", "shape": [...],
 * "data_offsets": [begin, end]}, ...} padded with spaces to a multiple of 8, then the data. */
#ifndef SF_RUNTIME_DUMP_H
#define SF_RUNTIME_DUMP_H

#include "core/io.h"
#include "runtime/rank.h"

/* Gradients are copied when the optimizer of the last step reads them: afterwards their memory may serve another use.
 */
int sfi_capture_create(const struct sfi_rank *r, struct sfi_capture **out, struct sf_err *err);
void sfi_capture_take(const struct sfi_rank *r, uint32_t op, uint32_t call, const float *grad);
/* The optimizer's calls by number, for those who fill in the gradients themselves. */
struct sfi_capture_block {
    float *grad;
    uint64_t count;
    int dtype; /* of the weights and of the gradient as the optimizer got it */
};
size_t sfi_capture_blocks(const struct sfi_rank *r);
struct sfi_capture_block sfi_capture_block(const struct sfi_rank *r, size_t index);
size_t sfi_capture_index(const struct sfi_rank *r, uint32_t op, uint32_t call);

/* How a tensor's values are read; NULL: from the rank's own arena, in f32. */
struct sfi_weights {
    void *self;
    int (*read)(void *self, const struct sfi_rank *r, const struct sf_tensor *t, float *out, struct sf_err *err);
};

/* One rank's part, as bytes that can travel. */
int sfi_dump_collect(const struct sfi_rank *r, const struct sfi_weights *from, struct sf_buf *out, struct sf_err *err);

struct sfi_dump; /* the parts of all ranks, put together */
int sfi_dump_create(struct sfi_dump **out, struct sf_err *err);
void sfi_dump_free(struct sfi_dump *d); /* NULL is legal */
int sfi_dump_add(struct sfi_dump *d, const void *part, size_t bytes, struct sf_err *err);
int sfi_dump_write(struct sfi_dump *d, const float *losses, uint32_t steps, const char *path, struct sf_err *err);

#endif
