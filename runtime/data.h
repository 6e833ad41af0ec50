/* Training data: a text, one token per byte, cut into windows that are shuffled anew in every epoch. */
#ifndef SF_RUNTIME_DATA_H
#define SF_RUNTIME_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "core/prog.h"

#define SFI_DATA_MAX_BYTES ((size_t)1 << 30)

struct sfi_data;

#define SFI_MOST_FURTHER 64u

/* `further`: tokens behind the next one that are predicted too, which come after every window. Refuses files too short
 * for one window, and bytes outside the vocabulary with their line and column. */
int sfi_data_load(const struct sf_prog_job *job, uint32_t further, const char *path, struct sfi_data **out,
                  struct sf_err *err);
/* Made-up bytes for measuring without a file. */
int sfi_data_random(const struct sf_prog_job *job, uint32_t further, struct sfi_data **out, struct sf_err *err);
void sfi_data_free(struct sfi_data *d); /* NULL is legal */

/* Tokens (shift 0) or targets (shift 1) of `sequences` consecutive global sequences of a step. */
void sfi_data_fill(const struct sfi_data *d, uint64_t step, uint64_t first_sequence, uint32_t sequences, uint32_t shift,
                   int32_t *out);
/* What a LOAD of a program fills its argument with: its microbatch, or a slice of every sequence of it, counted from
 * the rank's own part of the vocabulary where that is split. Targets are 1 + further rows: all of the next token, all
 * of the one behind it, and so on. */
struct sfi_loads {
    const struct sf_prog *prog;
    uint32_t rank, dp_index;
    uint64_t step;
};
void sfi_data_load_op(const struct sfi_data *d, const struct sfi_loads *who, const struct sf_op *op, int32_t *out);
uint64_t sfi_load_tokens(const struct sf_prog_job *job);
/* Where in the text a sequence begins: every window once per epoch, in an order that only the seed decides. */
uint64_t sfi_data_offset(const struct sfi_data *d, uint64_t step, uint64_t sequence);

#endif
