/* A program made ready for this machine: kernels found, every operand proven to lie in its range, special buffers
 * located. Shared by all ranks of a process; read-only once it exists. */
#ifndef SF_RUNTIME_IMAGE_H
#define SF_RUNTIME_IMAGE_H

#include "core/interp.h"
#include "core/prog.h"
#include "kernels/kern.h"

struct sfi_image_class {
    struct sf_iclass *order;
    uint32_t loss_buf; /* SF_NONE: this class knows no loss */
    uint32_t norm_buf; /* SF_NONE: it does not clip gradients */
    bool loads;
};

/* A device other than this machine's CPUs. */
struct sfi_target {
    void *self;
    const char *name; /* in "no CUDA kernel for ..." */
    bool (*supports)(void *self, const struct sf_call *call);
};

struct sfi_image {
    const struct sf_prog *prog;
    const struct sfi_target *target; /* NULL: CPUs */
    struct sf_arena *arena;
    sf_kern **kernels;     /* [recipe][call]; NULL with a target, and for collectives */
    uint32_t *collectives; /* [recipe] how many it has; NULL with a target */
    struct sfi_image_class *classes;
    uint32_t ranks;
    uint32_t dp_axes; /* all axes but "tp" and "pp" */
    uint32_t dp_n;    /* data-parallel ranks */
    uint32_t further; /* tokens behind the next one that are predicted too: rows of targets beyond the first */
};

/* `target` must outlive the image. */
int sfi_image_create(const struct sf_prog *prog, const struct sfi_target *target, bool reference_kernels,
                     struct sfi_image **out, struct sf_err *err);
void sfi_image_free(struct sfi_image *image); /* NULL is legal */

/* Refuse to start what would not fit into this machine's memory. */
int sfi_image_check_memory(const struct sfi_image *image, uint32_t first_rank, uint32_t ranks_n, struct sf_err *err);

/* Position of a rank among the data-parallel ranks. */
uint32_t sfi_image_dp_index(const struct sfi_image *image, uint32_t rank);
/* One of the ranks that hold the same weights and see the same tokens (tp); only the first one counts. */
bool sfi_image_counts(const struct sfi_image *image, uint32_t rank);
/* Does this program load tokens anywhere? */
bool sfi_image_loads(const struct sfi_image *image);

#endif
