/* Opening a device: the CUDA module, or the recording device. */
#ifndef SF_RUNTIME_CUDA_DEVICE_H
#define SF_RUNTIME_CUDA_DEVICE_H

#include "runtime/cuda/gpu.h"
#include "runtime/rt.h"

struct sfi_record;

struct sfi_device {
    const struct sfi_gpu_api *api;
    struct sfi_record *record; /* NULL: a GPU */
    bool computes;             /* false: the recording device found no CPU kernels, so nothing it says is a number */
    void *module;
    void (*close)(struct sfi_gpu_api *api);
};

int sfi_device_open(const struct sf_prog *prog, const struct sf_rt_gpu *how, struct sfi_device *out,
                    struct sf_err *err);
void sfi_device_close(struct sfi_device *d); /* of a zeroed one is legal */

#endif
