/* Inside of the CUDA module. */
#ifndef SF_RUNTIME_CUDA_MODULE_H
#define SF_RUNTIME_CUDA_MODULE_H

#include <cuda_runtime.h>
#include <nvtx3/nvToolsExt.h>

#include "kernels/cuda/kern_cuda.h"
#include "runtime/cuda/gpu.h"

#define SFI_MODULE_GROUP 256 /* sf_prog_check: ops of a group are on different streams, so there are few */

struct sfi_module_stream {
    cudaStream_t stream;
    nvtxRangeId_t range; /* of the op under way: a stream has one at a time */
};

struct sfi_module {
    struct sfi_gpu_api api;
    int device;
    bool deterministic, told_not_kept;
    struct sf_cuda *cuda;
    struct sf_cuda_fault *fault, *fault_device; /* pinned */
    uint64_t *stamp, *stamp_device;             /* pinned */
    char name[128], versions[192];
    void *group[SFI_MODULE_GROUP]; /* communicators of the group being made */
    uint32_t group_n, group_depth;
    const struct sfi_watch *watch; /* NULL: nobody to watch */
};

/* The module's entry, under SFI_GPU_MODULE_SYMBOL. */
int sfi_gpu_module(const struct sfi_gpu_open *how, struct sfi_gpu_api **out, void (**close)(struct sfi_gpu_api *api),
                   struct sf_err *err);

int sfi_module_fail(struct sf_err *err, cudaError_t rc, const char *what);
void sfi_module_nccl_fill(struct sfi_gpu_api *api);
void sfi_module_nccl_version(int *version);

#endif
