/* Execution plans of cuDNN for the graphs of attn_cudnn_graph.h, by its backend API. A plan is built for a handle, or
 * for a device that is only described: then it can be judged and kept, not executed. */
#ifndef SF_KERNELS_CUDA_ATTN_CUDNN_PLAN_H
#define SF_KERNELS_CUDA_ATTN_CUDNN_PLAN_H

#include "core/io.h"
#include "kernels/cuda/attn_cudnn_graph.h"

struct sfi_attn_plan;

struct sfi_attn_target { /* one of the two */
    void *handle;        /* cudnnHandle_t */
    void *device;        /* from sfi_attn_device_create */
};

/* `json`: the device's properties as cuDNN names them (maxGridSize, multiProcessorCount, deviceVer, ...). */
int sfi_attn_device_create(const char *json, size_t bytes, void **out, struct sf_err *err);
void sfi_attn_device_destroy(void *device);

/* cuDNN's first choice that works, needs at most `workspace_limit` bytes and, if `deterministic`, is not known to add
 * in varying order. (cuDNN 9.19 marks no engine so: the same bits come from the graph, which has no sum over blocks.)
 * SF_E_NOPLAN, with what cuDNN says, when there is none. Compiles for up to a second. */
int sfi_attn_plan_build(const struct sfi_attn_target *target, const struct sfi_attn_graph *graph, bool deterministic,
                        size_t workspace_limit, struct sfi_attn_plan **out, struct sf_err *err);
void sfi_attn_plan_destroy(struct sfi_attn_plan *plan);

/* The plan in cuDNN's own JSON, compiled kernels included. What is loaded must be known to be what was saved: cuDNN
 * believes it. */
int sfi_attn_plan_save(const struct sfi_attn_plan *plan, struct sf_buf *out, struct sf_err *err);
int sfi_attn_plan_load(const struct sfi_attn_target *target, const char *json, size_t bytes, size_t workspace_limit,
                       struct sfi_attn_plan **out, struct sf_err *err);

size_t sfi_attn_plan_workspace(const struct sfi_attn_plan *plan);

/* Enqueue on the handle's stream. `at[i]`: the address of tensor i on the device; NULL for virtual ones and for values,
 * which are read from `graph`: it outlives the plan. Addresses that were used before cost no allocation on the host,
 * and none ever costs one on the device; so it may be captured. */
int sfi_attn_plan_run(struct sfi_attn_plan *plan, const struct sfi_attn_graph *graph, void *handle,
                      void *const at[SFI_ATTN_IDS], void *workspace, struct sf_err *err);

#endif
