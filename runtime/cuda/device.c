#include "runtime/cuda/device.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/kern.h"
#include "runtime/record.h"

/* Beside this program, or where SF_CUDA_MODULE says. Never by a search: another build's module would speak another
 * dialect. */
static int module_path(char path[PATH_MAX], struct sf_err *err) {
    const char *named = getenv("SF_CUDA_MODULE");
    if (named) {
        snprintf(path, PATH_MAX, "%s", named);
        return SF_OK;
    }
    ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - sizeof SFI_GPU_MODULE - 1);
    char *slash = n > 0 ? memrchr(path, '/', (size_t)n) : NULL;
    if (!slash) {
        return sf_fail(err, SF_E_FAULT, "cannot tell where this program is: name the module in SF_CUDA_MODULE");
    }
    memcpy(slash + 1, SFI_GPU_MODULE, sizeof SFI_GPU_MODULE);
    return SF_OK;
}

static int open_module(const struct sf_rt_gpu *how, struct sfi_device *d, struct sf_err *err) {
    const struct sfi_gpu_open request = {.version = SFI_GPU_API_VERSION,
                                         .device = how->device,
                                         .cache_dir = how->cache_dir,
                                         .deterministic = how->deterministic};
    char path[PATH_MAX];
    struct sfi_gpu_api *api = NULL;
    SF_TRY(module_path(path, err));
    if (access(path, R_OK) != 0) {
        return sf_fail(err, SF_E_FAULT, "looked for a GPU through %.300s, which does not exist: %s", path,
                       getenv("SF_CUDA_MODULE") ? "SF_CUDA_MODULE says so" : "this build was made without CUDA");
    }
    d->module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!d->module) {
        return sf_fail(err, SF_E_FAULT, "looked for a GPU through %.300s, which does not load: %.400s", path,
                       dlerror());
    }
    sfi_gpu_module_fn open;
    void *symbol = dlsym(d->module, SFI_GPU_MODULE_SYMBOL);
    memcpy(&open, &symbol, sizeof open); /* ISO C has no cast from object to function pointers */
    if (!symbol) {
        return sf_fail(err, SF_E_FAULT, "%.300s is not a module of this program", path);
    }
    SF_TRY(open(&request, &api, &d->close, err));
    d->api = api;
    return SF_OK;
}

/* Executing needs a CPU kernel for every call; without them only the rules are checked. */
static bool cpu_can_execute(const struct sf_prog *prog) {
    for (uint32_t r = 0; r < prog->recipes_n; r++) {
        for (uint32_t c = 0; c < prog->recipes[r].calls_n; c++) {
            const struct sf_call *call = &prog->recipes[r].calls[c];
            if (!sf_call_is_collective(call->kind) && !sf_kern_find(SF_KERN_FAST, call)) {
                return false;
            }
        }
    }
    return true;
}

int sfi_device_open(const struct sf_prog *prog, const struct sf_rt_gpu *how, struct sfi_device *out,
                    struct sf_err *err) {
    *out = (struct sfi_device){.computes = true};
    if (!how->record) {
        int rc = open_module(how, out, err);
        if (rc != SF_OK) {
            sfi_device_close(out);
        }
        return rc;
    }
    const struct sfi_record_options options = {.execute = cpu_can_execute(prog), .seed = prog->job.seed};
    out->computes = options.execute;
    SF_TRY(sfi_record_create(&options, &out->record, err));
    out->api = sfi_record_api(out->record);
    return SF_OK;
}

int sf_rt_describe(const struct sf_rt_gpu *gpu, struct sf_rt_device *out, struct sf_err *err) {
    const struct sf_prog none = {.recipes_n = 0};
    struct sfi_device d;
    SF_TRY(sfi_device_open(&none, gpu, &d, err));
    snprintf(out->name, sizeof out->name, "%s", d.api->name);
    snprintf(out->libraries, sizeof out->libraries, "%s", d.api->versions);
    out->arch = d.api->arch;
    out->memory_bytes = d.api->memory_bytes;
    sfi_device_close(&d);
    return SF_OK;
}

/* The module stays loaded: CUDA's libraries leave threads and handlers behind that must not lose their code. */
void sfi_device_close(struct sfi_device *d) {
    if (d->close && d->api) {
        d->close((struct sfi_gpu_api *)(uintptr_t)d->api);
    }
    sfi_record_destroy(d->record);
    *d = (struct sfi_device){0};
}
