/* One device and what belongs to it. */
#include <cuda_runtime_api.h>
#include <stdio.h>

#include "core/arena.h"
#include "kernels/cuda/attn_cudnn.h"
#include "kernels/cuda/cuda_internal.h"

static int no_device(int device, const char *what, struct sf_err *err) {
    return sf_fail(
        err, SF_E_FAULT,
        "CUDA device %d cannot be used: %s; looked for a GPU of architecture 9.0, 10.0 or 10.3 and its driver", device,
        what);
}

static int describe(int device, struct sf_cuda *ctx, struct sf_err *err) {
    struct cudaDeviceProp prop;
    char what[64];
    int n = 0;
    cudaError_t st = cudaGetDeviceCount(&n);
    if (st != cudaSuccess) {
        return no_device(device, cudaGetErrorString(st), err);
    }
    if (device < 0 || device >= n) {
        snprintf(what, sizeof what, "%d devices are there", n);
        return no_device(device, what, err);
    }
    st = cudaSetDevice(device);
    st = st == cudaSuccess ? cudaGetDeviceProperties(&prop, device) : st;
    if (st != cudaSuccess) {
        return no_device(device, cudaGetErrorString(st), err);
    }
    ctx->device = device;
    ctx->arch = 10 * prop.major + prop.minor;
    ctx->sms_n = prop.multiProcessorCount;
    snprintf(ctx->name, sizeof ctx->name, "%s", prop.name);
    if (ctx->arch != 90 && ctx->arch != 100 && ctx->arch != 103) {
        snprintf(what, sizeof what, "its architecture is %d.%d", prop.major, prop.minor);
        return no_device(device, what, err);
    }
    return 0;
}

int sf_cuda_create(int device, const char *cache_dir, struct sf_cuda **out, struct sf_err *err) {
    struct sf_cuda *ctx = sf_calloc(1, sizeof *ctx);
    *out = NULL;
    if (!ctx) {
        return sf_fail_memory(err, "CUDA context");
    }
    int rc = describe(device, ctx, err);
    rc = rc == 0 ? sfi_gemm_create(cache_dir, ctx, err) : rc;
    rc = rc == 0 ? sfi_attn_create(cache_dir, ctx, err) : rc;
    if (rc != 0) {
        sf_cuda_destroy(ctx);
        return rc;
    }
    *out = ctx;
    return 0;
}

void sf_cuda_destroy(struct sf_cuda *ctx) {
    if (ctx) {
        sfi_attn_destroy(ctx);
        sfi_gemm_destroy(ctx);
        sf_free(ctx);
    }
}

int sf_cuda_save(struct sf_cuda *ctx, struct sf_err *err) {
    return sfi_gemm_save(ctx, err);
}

int sf_cuda_prepare(struct sf_cuda *ctx, const struct sf_call *call, struct sf_err *err) {
    if (!sf_kern_cuda_find(call, ctx->arch)) {
        return sf_fail(err, SF_E_INPUT, "no CUDA kernel for %s in %s with these dims and flags",
                       sf_call_name(call->kind), sf_dtype_name(call->dtype));
    }
    switch (call->kind) {
    case SF_CALL_GEMM:
        return sfi_gemm_prepare(ctx, call, err);
    case SF_CALL_ATTN_FWD:
    case SF_CALL_ATTN_BWD:
        return sfi_attn_prepare(ctx, call, err);
    default:
        return 0;
    }
}

void sf_cuda_set_deterministic(struct sf_cuda *ctx, bool on) {
    sfi_gemm_set_deterministic(ctx, on);
    sfi_attn_set_deterministic(ctx, on);
}

int sf_cuda_arch(const struct sf_cuda *ctx) {
    return ctx->arch;
}

const char *sf_cuda_device_name(const struct sf_cuda *ctx) {
    return ctx->name;
}

const char *sf_cuda_note(const struct sf_cuda *ctx) {
    return ctx->note;
}

int sfi_cuda_launched(const struct sf_call *call, struct sf_err *err) {
    cudaError_t st = cudaPeekAtLastError();
    if (st == cudaSuccess) {
        return 0;
    }
    (void)cudaGetLastError();
    return sf_fail(err, SF_E_FAULT, "%s: CUDA refuses the launch: %s", sf_call_name(call->kind),
                   cudaGetErrorString(st));
}
