/* How the kernels of one instruction set are found. */
#ifndef SF_KERNELS_TABLE_H
#define SF_KERNELS_TABLE_H

#include "kernels/kern.h"

struct sfi_kern_table {
    const char *name;                       /* "reference", "avx512", ... */
    sf_kern kern[SF_CALL_KINDS];            /* f32; NULL where the kind is missing */
    sf_kern embed_part_fwd, embed_part_bwd; /* with PART */
    void (*tree_sum)(float *y, const float *const src[], size_t n, size_t count); /* NULL in the reference */
};

/* Widest attention head the fast kernels hold on their stack; wider ones go to the reference. */
#define SFI_ATTN_HEAD_DIM_MAX 256

extern const struct sfi_kern_table sfi_kern_reference;
/* The same sources compiled for three instruction sets (fast_*.h included by fast_<isa>.c). */
extern const struct sfi_kern_table sfi_kern_avx512;
extern const struct sfi_kern_table sfi_kern_avx2;
extern const struct sfi_kern_table sfi_kern_base;

/* The fast tables that this CPU can run, best first, NULL after the last. */
const struct sfi_kern_table *sfi_kern_fast(size_t index);

/* C[m,n] through oneDNN, which picks its own instruction set. */
int sfi_fast_gemm(const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], struct sf_err *err);

/* Common checks on data that a kernel reads: ids must be inside [0, vocab). */
int sfi_check_ids(const char *what, const int32_t *ids, size_t rows, int64_t vocab, struct sf_err *err);

#endif
