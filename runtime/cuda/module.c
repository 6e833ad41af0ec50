/* The table of gpu.h over CUDA and the kernels of kernels/cuda; communicators are in module_nccl.c. */
#include "runtime/cuda/module.h"

#include <cublasLt.h>
#include <cudnn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "runtime/clock.h"
#include "runtime/cuda/module_kernels.h"

#define CLOCK_TRIES 16

int sfi_module_fail(struct sf_err *err, cudaError_t rc, const char *what) {
    return sf_fail(err, SF_E_FAULT, "%s: %s", what, cudaGetErrorString(rc));
}

/* Everything that the table needs from CUDA comes back as cudaError_t. */
static int tell(cudaError_t rc, const char *what, struct sf_err *err) {
    return rc == cudaSuccess ? SF_OK : sfi_module_fail(err, rc, what);
}

static cudaStream_t raw(void *stream) {
    return ((struct sfi_module_stream *)stream)->stream;
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static int cuda_alloc(void *self, uint32_t owner, uint64_t bytes, void **out, struct sf_err *err) {
    (void)self;
    (void)owner;
    SF_TRY(tell(cudaMalloc(out, bytes), "device memory", err));
    return tell(cudaMemset(*out, 0, bytes), "clearing device memory", err);
}

static void cuda_release(void *self, void *memory) {
    (void)self;
    cudaFree(memory);
}

static int cuda_pin(void *self, uint64_t bytes, void **host, void **device, struct sf_err *err) {
    (void)self;
    SF_TRY(tell(cudaHostAlloc(host, bytes > 0 ? bytes : 1, cudaHostAllocMapped | cudaHostAllocPortable),
                "pinned memory", err));
    memset(*host, 0, bytes);
    return tell(cudaHostGetDevicePointer(device, *host, 0), "pinned memory", err);
}

static void cuda_unpin(void *self, void *host) {
    (void)self;
    if (host) {
        cudaFreeHost(host);
    }
}

static int cuda_upload(void *self, void *to, const void *from, uint64_t bytes, struct sf_err *err) {
    (void)self;
    return tell(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "copying to the device", err);
}

static int cuda_download(void *self, void *to, const void *from, uint64_t bytes, struct sf_err *err) {
    (void)self;
    return tell(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "copying from the device", err);
}

static int cuda_finish(void *self, struct sf_err *err) {
    (void)self;
    return tell(cudaDeviceSynchronize(), "waiting for the device", err);
}

/* ---- weights ---------------------------------------------------------------------------------------------------- */

static int cuda_normal(void *self, void *to, int dtype, uint64_t key, const struct sfi_gpu_block *block, float std,
                       struct sf_err *err) {
    (void)self;
    int rc = sfi_module_normal(to, dtype == SF_BF16, key, block->first_row, block->first_col, block->rows, block->cols,
                               std, NULL);
    return tell((cudaError_t)rc, "initial weights", err);
}

static int cuda_constant(void *self, void *to, int dtype, uint64_t n, float value, struct sf_err *err) {
    (void)self;
    return tell((cudaError_t)sfi_module_constant(to, dtype == SF_BF16, n, value, NULL), "initial weights", err);
}

static int cuda_widen(void *self, float *to, const void *from, int dtype, uint64_t n, struct sf_err *err) {
    (void)self;
    return tell((cudaError_t)sfi_module_widen(to, from, dtype == SF_BF16, n, NULL), "master weights", err);
}

/* ---- kernels ---------------------------------------------------------------------------------------------------- */

static bool cuda_supports(void *self, const struct sf_call *call) {
    const struct sfi_module *m = self;
    return sf_kern_cuda_find(call, m->api.arch) != NULL;
}

static uint64_t cuda_work_bytes(void *self, const struct sf_call *call) {
    return sf_cuda_work_bytes(call, ((const struct sfi_module *)self)->deterministic);
}

struct context {
    void *work;
    size_t bytes;
};

static int cuda_context_create(void *self, uint32_t owner, void **out, struct sf_err *err) {
    (void)self;
    (void)owner;
    *out = sf_calloc(1, sizeof(struct context));
    return *out ? SF_OK : sf_fail_memory(err, "a kernel context");
}

static void cuda_context_destroy(void *self, void *context) {
    (void)self;
    cudaFree(((struct context *)context)->work);
    sf_free(context);
}

static int cuda_prepare(void *self, void *context, const struct sf_call *call, struct sf_err *err) {
    const struct sfi_module *m = self;
    struct context *c = context;
    size_t need = sf_cuda_work_bytes(call, m->deterministic);
    if (need > c->bytes) {
        cudaFree(c->work);
        *c = (struct context){0};
        SF_TRY(tell(cudaMalloc(&c->work, need), "work area of kernels", err));
        c->bytes = need;
    }
    sf_cuda_set_work(m->cuda, c->work, c->bytes, m->fault_device);
    return sf_cuda_prepare(m->cuda, call, err);
}

static int cuda_call(void *self, void *context, const struct sf_call *call, void *const operand[SF_CALL_OPERANDS],
                     void *stream, struct sf_err *err) {
    const struct sfi_module *m = self;
    const struct context *c = context;
    sf_cuda_set_work(m->cuda, c->work, c->bytes, m->fault_device);
    return sf_kern_cuda_find(call, m->api.arch)(m->cuda, call, operand, raw(stream), err);
}

static int cuda_fault(void *self, struct sf_err *err) {
    const struct sfi_module *m = self;
    const volatile struct sf_cuda_fault *f = m->fault;
    if (f->kind != 0) {
        return sf_fail(err, SF_E_INPUT, "%s: id %d in row %d is outside the vocabulary, expected 0 to %d",
                       sf_call_name(f->kind - 1), (int)f->id, (int)f->row, (int)f->vocab - 1);
    }
    return tell(cudaPeekAtLastError(), "the device", err);
}

/* ---- streams and graphs ----------------------------------------------------------------------------------------- */

/* Transfers before kernels: they are short, and others wait for them. */
static int cuda_stream_create(void *self, const char *name, void **out, struct sf_err *err) {
    int low = 0, high = 0;
    (void)self;
    struct sfi_module_stream *s = sf_calloc(1, sizeof *s);
    if (!s) {
        return sf_fail_memory(err, "a stream");
    }
    cudaDeviceGetStreamPriorityRange(&low, &high);
    bool kernels = strcmp(name, "compute") == 0 || strcmp(name, "step") == 0;
    cudaError_t rc = cudaStreamCreateWithPriority(&s->stream, cudaStreamNonBlocking, kernels ? low : high);
    if (rc != cudaSuccess) {
        sf_free(s);
        return sfi_module_fail(err, rc, "a stream");
    }
    *out = s;
    return SF_OK;
}

static void cuda_stream_destroy(void *self, void *stream) {
    (void)self;
    cudaStreamDestroy(raw(stream));
    sf_free(stream);
}

static int cuda_event_create(void *self, void **out, struct sf_err *err) {
    cudaEvent_t event;
    (void)self;
    SF_TRY(tell(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "an event", err));
    *out = event;
    return SF_OK;
}

static void cuda_event_destroy(void *self, void *event) {
    (void)self;
    cudaEventDestroy(event);
}

static int cuda_event_record(void *self, void *event, void *stream, struct sf_err *err) {
    (void)self;
    return tell(cudaEventRecord(event, raw(stream)), "recording an event", err);
}

static int cuda_stream_wait(void *self, void *stream, void *event, struct sf_err *err) {
    (void)self;
    return tell(cudaStreamWaitEvent(raw(stream), event, 0), "waiting for an event", err);
}

/* Not being kept costs the next run its search, and this one nothing. */
static void keep_choices(struct sfi_module *m) {
    struct sf_err err = {0};
    if (!m->told_not_kept && sf_cuda_save(m->cuda, &err) != 0) {
        fprintf(stderr, "staticfire: GEMM algorithms not kept: %s\n", err.msg);
        m->told_not_kept = true;
    }
}

/* Everything is prepared by now. */
static int cuda_capture_begin(void *self, void *stream, struct sf_err *err) {
    keep_choices(self);
    return tell(cudaStreamBeginCapture(raw(stream), cudaStreamCaptureModeThreadLocal), "beginning a capture", err);
}

static int cuda_capture_end(void *self, void *stream, void **out, uint64_t *nodes_n, struct sf_err *err) {
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    size_t n = 0;
    (void)self;
    SF_TRY(tell(cudaStreamEndCapture(raw(stream), &graph), "ending a capture", err));
    int rc = tell(cudaGraphGetNodes(graph, NULL, &n), "counting nodes", err);
    rc = rc == SF_OK ? tell(cudaGraphInstantiate(&exec, graph, 0), "instantiating the step's graph", err) : rc;
    rc = rc == SF_OK ? tell(cudaGraphUpload(exec, raw(stream)), "uploading the step's graph", err) : rc;
    cudaGraphDestroy(graph);
    *nodes_n = n;
    *out = exec;
    return rc;
}

static void cuda_graph_destroy(void *self, void *graph) {
    (void)self;
    cudaGraphExecDestroy(graph);
}

static int cuda_launch(void *self, void *graph, void *stream, struct sf_err *err) {
    (void)self;
    return tell(cudaGraphLaunch(graph, raw(stream)), "launching a step", err);
}

/* ---- work ------------------------------------------------------------------------------------------------------- */

static int cuda_copy(void *self, void *to, const void *from, uint64_t bytes, void *stream, struct sf_err *err) {
    (void)self;
    return tell(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, raw(stream)), "a copy", err);
}

static int cuda_move(void *self, enum sfi_gpu_where where, void *memory, const struct sfi_gpu_pages *pages,
                     uint64_t offset, uint64_t bytes, void *stream, struct sf_err *err) {
    (void)self;
    int rc = sfi_module_move(memory, pages->device + offset, pages->stride, pages->counter, bytes,
                             where == SFI_GPU_TO_PAGE, raw(stream));
    return tell((cudaError_t)rc, "a page", err);
}

static int cuda_sum(void *self, void *to, const void *const from[], uint32_t n, uint64_t count, int dtype, void *stream,
                    struct sf_err *err) {
    (void)self;
    return tell((cudaError_t)sfi_module_sum(to, from, n, count, dtype == SF_BF16, raw(stream)), "a sum", err);
}

static int cuda_stamp(void *self, uint64_t *ns, void *stream, struct sf_err *err) {
    (void)self;
    return tell((cudaError_t)sfi_module_stamp(ns, raw(stream)), "a time stamp", err);
}

static int cuda_mark(void *self, uint32_t *word, uint32_t value, void *stream, struct sf_err *err) {
    (void)self;
    return tell((cudaError_t)sfi_module_mark(word, value, raw(stream)), "a mark", err);
}

static int cuda_advance(void *self, uint32_t *counter, uint32_t *done, void *stream, struct sf_err *err) {
    (void)self;
    return tell((cudaError_t)sfi_module_advance(counter, done, raw(stream)), "the end of a step", err);
}

/* The narrowest of a few brackets around a stamp. */
static int cuda_clock(void *self, uint64_t *device_ns, int64_t *host_ns, int64_t *uncertainty_ns, struct sf_err *err) {
    struct sfi_module *m = self;
    int64_t best = INT64_MAX;
    for (int i = 0; i < CLOCK_TRIES; i++) {
        int64_t before = sfi_now_ns();
        SF_TRY(tell((cudaError_t)sfi_module_stamp(m->stamp_device, NULL), "the device's clock", err));
        SF_TRY(tell(cudaStreamSynchronize(NULL), "the device's clock", err));
        int64_t after = sfi_now_ns();
        if (after - before < best) {
            best = after - before;
            *device_ns = *(volatile uint64_t *)m->stamp;
            *host_ns = before + best / 2;
            *uncertainty_ns = best / 2;
        }
    }
    return SF_OK;
}

static void cuda_op_begin(void *self, uint32_t rank, uint32_t op, void *stream, const char *label) {
    (void)self;
    (void)rank;
    (void)op;
    ((struct sfi_module_stream *)stream)->range = nvtxRangeStartA(label);
}

static void cuda_op_end(void *self, uint32_t rank, uint32_t op, void *stream) {
    (void)self;
    (void)rank;
    (void)op;
    nvtxRangeEnd(((struct sfi_module_stream *)stream)->range);
}

/* ---- opening ---------------------------------------------------------------------------------------------------- */

static void fill_table(struct sfi_gpu_api *api) {
    api->version = SFI_GPU_API_VERSION;
    api->traces = "cuda";
    api->alloc = cuda_alloc;
    api->release = cuda_release;
    api->pin = cuda_pin;
    api->unpin = cuda_unpin;
    api->upload = cuda_upload;
    api->download = cuda_download;
    api->finish = cuda_finish;
    api->normal = cuda_normal;
    api->constant = cuda_constant;
    api->widen = cuda_widen;
    api->supports = cuda_supports;
    api->work_bytes = cuda_work_bytes;
    api->context_create = cuda_context_create;
    api->context_destroy = cuda_context_destroy;
    api->prepare = cuda_prepare;
    api->call = cuda_call;
    api->fault = cuda_fault;
    api->stream_create = cuda_stream_create;
    api->stream_destroy = cuda_stream_destroy;
    api->event_create = cuda_event_create;
    api->event_destroy = cuda_event_destroy;
    api->event_record = cuda_event_record;
    api->stream_wait = cuda_stream_wait;
    api->capture_begin = cuda_capture_begin;
    api->capture_end = cuda_capture_end;
    api->graph_destroy = cuda_graph_destroy;
    api->launch = cuda_launch;
    api->copy = cuda_copy;
    api->move = cuda_move;
    api->sum = cuda_sum;
    api->stamp = cuda_stamp;
    api->mark = cuda_mark;
    api->advance = cuda_advance;
    api->clock = cuda_clock;
    api->op_begin = cuda_op_begin;
    api->op_end = cuda_op_end;
    sfi_module_nccl_fill(api);
}

/* The local rank's device, by whichever launcher there is. */
static int choose_device(int wanted, int count) {
    static const char *const names[] = {"LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID", "MPI_LOCALRANKID"};
    for (size_t i = 0; wanted < 0 && i < sizeof names / sizeof *names; i++) {
        const char *text = getenv(names[i]);
        if (text && text[0] >= '0' && text[0] <= '9') {
            return (int)(strtoul(text, NULL, 10) % (unsigned long)count);
        }
    }
    return wanted < 0 ? 0 : wanted;
}

static int open_device(struct sfi_module *m, const struct sfi_gpu_open *how, struct sf_err *err) {
    int count = 0, driver = 0, runtime = 0, nccl = 0;
    size_t free_bytes = 0, total = 0;
    void *fault_device, *stamp_device;
    cudaError_t rc = cudaGetDeviceCount(&count);
    if (rc != cudaSuccess || count == 0) {
        return sf_fail(err, SF_E_FAULT,
                       "no GPU: looked for an NVIDIA device through the CUDA driver (libcuda.so.1) and found none: %s",
                       rc != cudaSuccess ? cudaGetErrorString(rc) : "0 devices");
    }
    m->device = choose_device(how->device, count);
    if (m->device >= count) {
        return sf_fail(err, SF_E_USAGE, "device %d: this machine has %d", m->device, count);
    }
    SF_TRY(tell(cudaSetDevice(m->device), "choosing a device", err));
    SF_TRY(sf_cuda_create(m->device, how->cache_dir, &m->cuda, err));
    if (sf_cuda_note(m->cuda)[0] != '\0') {
        fprintf(stderr, "staticfire: GEMM algorithms not used: %s\n", sf_cuda_note(m->cuda));
    }
    m->deterministic = how->deterministic;
    sf_cuda_set_deterministic(m->cuda, m->deterministic);
    SF_TRY(cuda_pin(m, sizeof *m->fault, (void **)&m->fault, &fault_device, err));
    SF_TRY(cuda_pin(m, sizeof *m->stamp, (void **)&m->stamp, &stamp_device, err));
    m->fault_device = fault_device;
    m->stamp_device = stamp_device;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    sfi_module_nccl_version(&nccl);
    SF_TRY(tell(cudaMemGetInfo(&free_bytes, &total), "asking for free memory", err));
    snprintf(m->name, sizeof m->name, "%.100s", sf_cuda_device_name(m->cuda));
    snprintf(m->versions, sizeof m->versions,
             "driver for CUDA %d.%d, runtime %d.%d, NCCL %d.%d.%d, cuDNN %zu, cuBLASLt %zu", driver / 1000,
             driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10, nccl / 10000, nccl / 100 % 100, nccl % 100,
             cudnnGetVersion(), cublasLtGetVersion());
    m->api.name = m->name;
    m->api.versions = m->versions;
    m->api.arch = sf_cuda_arch(m->cuda);
    m->api.memory_bytes = free_bytes;
    return SF_OK;
}

static void close_device(struct sfi_gpu_api *api) {
    struct sfi_module *m = api->self;
    sf_cuda_destroy(m->cuda);
    cuda_unpin(m, m->fault);
    cuda_unpin(m, m->stamp);
    sf_free(m);
}

__attribute__((visibility("default"))) int sfi_gpu_module(const struct sfi_gpu_open *how, struct sfi_gpu_api **out,
                                                          void (**close)(struct sfi_gpu_api *api), struct sf_err *err) {
    if (how->version != SFI_GPU_API_VERSION) {
        return sf_fail(err, SF_E_FAULT,
                       "%s speaks version %d of its interface, this program version %u: build both "
                       "together",
                       SFI_GPU_MODULE, SFI_GPU_API_VERSION, how->version);
    }
    struct sfi_module *m = sf_calloc(1, sizeof *m);
    if (!m) {
        return sf_fail_memory(err, "a device");
    }
    m->api.self = m;
    fill_table(&m->api);
    int rc = open_device(m, how, err);
    if (rc != SF_OK) {
        close_device(&m->api);
        return rc;
    }
    *out = &m->api;
    *close = close_device;
    return SF_OK;
}
