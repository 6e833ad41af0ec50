#include "kernels/cuda/attn_cudnn.h"

#include <cudnn.h>
#include <stdio.h>
#include <string.h>

#include "core/arena.h"
#include "kernels/cuda/attn_cudnn_file.h"
#include "kernels/cuda/attn_cudnn_plan.h"

struct prepared {
    struct sfi_attn_shape shape;
    struct sfi_attn_graph graph;
    struct sfi_attn_area area;
    struct sfi_attn_plan *plan; /* NULL: refused */
};

struct sfi_cuda_attn {
    cudnnHandle_t handle;
    struct sfi_attn_device device;
    char *cache_dir;
    bool deterministic;
    unsigned noted;       /* bit per enum matter */
    struct prepared **at; /* they stay where they are: plans know the addresses of their graph's values */
    size_t n, capacity;
};

int sfi_attn_create(const char *cache_dir, struct sf_cuda *ctx, struct sf_err *err) {
    struct sfi_cuda_attn *a = ctx->attn = sf_calloc(1, sizeof *a);
    if (a && cache_dir) {
        size_t bytes = strlen(cache_dir) + 1;
        a->cache_dir = sf_malloc(bytes);
        if (a->cache_dir) {
            memcpy(a->cache_dir, cache_dir, bytes);
        }
    }
    if (!a || (cache_dir && !a->cache_dir)) {
        return sf_fail_memory(err, "attention plans");
    }
    snprintf(a->device.name, sizeof a->device.name, "%s", ctx->name);
    a->device.arch = (uint64_t)ctx->arch;
    a->device.sms_n = (uint64_t)ctx->sms_n;
    a->device.cudnn = cudnnGetVersion();
    return 0;
}

void sfi_attn_destroy(struct sf_cuda *ctx) {
    struct sfi_cuda_attn *a = ctx->attn;
    if (!a) {
        return;
    }
    for (size_t i = 0; i < a->n; i++) {
        sfi_attn_plan_destroy(a->at[i]->plan);
        sf_free(a->at[i]);
    }
    if (a->handle) {
        cudnnDestroy(a->handle);
    }
    sf_free(a->at);
    sf_free(a->cache_dir);
    sf_free(a);
    ctx->attn = NULL;
}

void sfi_attn_set_deterministic(struct sf_cuda *ctx, bool on) {
    ctx->attn->deterministic = on;
}

enum matter { NOT_USED, NOT_KEPT, SIMPLE };

/* Once of each: a run whose attention is slow must say why, and no more than that. */
static void note_once(struct sf_cuda *ctx, enum matter matter, const struct sf_err *why) {
    static const char *const words[] = {
        [NOT_USED] = "attention plan not used",
        [NOT_KEPT] = "attention plan not kept",
        [SIMPLE] = "attention runs on the simple kernel",
    };
    if (ctx->note[0] == 0) {
        snprintf(ctx->note, sizeof ctx->note, "%s: %.400s", words[matter], why->msg);
    }
    if ((ctx->attn->noted >> matter & 1) == 0) {
        fprintf(stderr, "staticfire: %s: %s%s%s\n", words[matter], why->file, why->file[0] ? ": " : "", why->msg);
        ctx->attn->noted |= 1u << matter;
    }
}

static bool same_shape(const struct sfi_attn_shape *a, const struct sfi_attn_shape *b) {
    return a->batch == b->batch && a->seq == b->seq && a->heads == b->heads && a->kv_heads == b->kv_heads &&
           a->head_dim == b->head_dim && a->row_stride == b->row_stride && a->chunk_batch == b->chunk_batch &&
           a->chunk_heads == b->chunk_heads && a->backward == b->backward && a->deterministic == b->deterministic;
}

static struct prepared *find(const struct sfi_cuda_attn *a, const struct sf_call *call) {
    struct sfi_attn_shape shape;
    if (!a || !sfi_attn_shape_of(call, a->deterministic, &shape)) {
        return NULL;
    }
    for (size_t i = 0; i < a->n; i++) {
        if (same_shape(&a->at[i]->shape, &shape)) {
            return a->at[i];
        }
    }
    return NULL;
}

static int add(struct sfi_cuda_attn *a, const struct sfi_attn_shape *shape, struct prepared **out, struct sf_err *err) {
    if (a->n == a->capacity) {
        size_t capacity = a->capacity ? 2 * a->capacity : 8;
        struct prepared **grown = sf_realloc(a->at, capacity, sizeof *grown);
        if (!grown) {
            return sf_fail_memory(err, "attention plans");
        }
        a->at = grown;
        a->capacity = capacity;
    }
    struct prepared *p = *out = sf_calloc(1, sizeof *p);
    if (!p) {
        return sf_fail_memory(err, "attention plans");
    }
    p->shape = *shape;
    sfi_attn_graph_of(shape, &p->graph);
    sfi_attn_area_of(shape, &p->area);
    a->at[a->n++] = p;
    return 0;
}

static int load(struct sfi_cuda_attn *a, const char *path, struct prepared *p, struct sf_err *err) {
    const struct sfi_attn_target target = {.handle = a->handle};
    char *text = NULL;
    const char *json;
    size_t bytes, json_bytes;
    SF_TRY(sf_io_posix.read_all(NULL, path, SFI_ATTN_FILE_BYTES, &text, &bytes, err));
    int rc = sfi_attn_file_check(text, bytes, path, &a->device, &p->shape, &json, &json_bytes, err);
    if (rc == 0) {
        rc = sfi_attn_plan_load(&target, json, json_bytes, p->area.engine_bytes, &p->plan, err);
    }
    sf_free(text);
    return rc;
}

static int save(const struct sfi_cuda_attn *a, const char *path, const struct prepared *p, struct sf_err *err) {
    struct sf_buf json = {0}, text = {0};
    int rc = sfi_attn_plan_save(p->plan, &json, err);
    if (rc == 0) {
        sfi_attn_file_print(&a->device, &p->shape, json.data, json.bytes, &text);
        rc = json.failed || text.failed ? sf_fail_memory(err, "attention plan")
                                        : sf_io_posix.write_all(NULL, path, text.data, text.bytes, err);
    }
    sf_buf_free(&json);
    sf_buf_free(&text);
    return rc;
}

static int build(struct sfi_cuda_attn *a, struct prepared *p, struct sf_err *err) {
    const struct sfi_attn_target target = {.handle = a->handle};
    return sfi_attn_plan_build(&target, &p->graph, p->shape.deterministic, p->area.engine_bytes, &p->plan, err);
}

static int make_plan(struct sf_cuda *ctx, struct prepared *p, struct sf_err *err) {
    struct sfi_cuda_attn *a = ctx->attn;
    struct sf_err kept = {0};
    char path[1024] = "";
    if (!a->handle) {
        cudnnStatus_t st = cudnnCreate(&a->handle);
        if (st != CUDNN_STATUS_SUCCESS) {
            a->handle = NULL;
            return sf_fail(err, SF_E_NOPLAN, "cuDNN %llu cannot start: %s", (unsigned long long)a->device.cudnn,
                           cudnnGetErrorString(st));
        }
    }
    if (a->cache_dir) {
        SF_TRY(sfi_attn_file_path(a->cache_dir, &a->device, &p->shape, path, sizeof path, err));
    }
    if (path[0] && load(a, path, p, &kept) == 0) {
        return 0;
    }
    if (kept.code == SF_E_INPUT || kept.code == SF_E_NOPLAN) {
        note_once(ctx, NOT_USED, &kept);
    }
    SF_TRY(build(a, p, err));
    if (path[0] && save(a, path, p, &kept) != 0) {
        note_once(ctx, NOT_KEPT, &kept);
    }
    return 0;
}

int sfi_attn_prepare(struct sf_cuda *ctx, const struct sf_call *call, struct sf_err *err) {
    struct sfi_attn_shape shape;
    struct prepared *p = NULL;
    struct sf_err why = {0};
    if (!ctx->attn || call->dtype != SF_BF16 || find(ctx->attn, call)) {
        return 0;
    }
    if (!sfi_attn_shape_of(call, ctx->attn->deterministic, &shape)) {
        (void)sf_fail(&why, SF_E_NOPLAN, "no plan is made for %lld sequences of %lld, %lld heads of %lld%s",
                      (long long)call->dims[0], (long long)call->dims[1], (long long)call->dims[2],
                      (long long)call->dims[4], ctx->attn->deterministic ? ", with the same bits every time" : "");
        note_once(ctx, SIMPLE, &why);
        return 0;
    }
    SF_TRY(add(ctx->attn, &shape, &p, err));
    if (make_plan(ctx, p, &why) != 0) {
        note_once(ctx, SIMPLE, &why);
    }
    return 0;
}

bool sfi_attn_has_plan(const struct sf_cuda *ctx, const struct sf_call *call) {
    const struct prepared *p = find(ctx->attn, call);
    return p && p->plan;
}

static int run_simple(struct sf_cuda *ctx, const struct sf_call *call, void *const operand[SF_CALL_OPERANDS],
                      void *stream, struct sf_err *err) {
    return call->kind == SF_CALL_ATTN_BWD ? sfi_cuda_attn_bwd(ctx, call, operand, stream, err)
                                          : sfi_cuda_attn_fwd(ctx, call, operand, stream, err);
}

/* Vector loads need it of operands; the work area has more. */
static bool aligned(const struct prepared *p, void *const operand[SF_CALL_OPERANDS]) {
    uintptr_t bits = 0;
    for (int i = 0; i < SFI_ATTN_IDS; i++) {
        const struct sfi_attn_tensor *t = &p->graph.tensors[i];
        if (t->used && t->place == SFI_ATTN_OPERAND) {
            bits |= (uintptr_t)operand[t->operand];
        }
    }
    return bits % SFI_ATTN_ALIGN_BYTES == 0;
}

static void place(const struct prepared *p, char *work, void *const operand[SF_CALL_OPERANDS], int64_t chunk,
                  void *at[SFI_ATTN_IDS]) {
    for (int i = 0; i < SFI_ATTN_IDS; i++) {
        const struct sfi_attn_tensor *t = &p->graph.tensors[i];
        at[i] = t->used && t->place == SFI_ATTN_OPERAND
                    ? (char *)operand[t->operand] + sfi_attn_offset(&p->shape, t, chunk)
                    : NULL;
    }
    at[SFI_ATTN_ID_D_Q_SUM] = p->graph.tensors[SFI_ATTN_ID_D_Q_SUM].used ? work : NULL;
    at[SFI_ATTN_ID_DELTA] = p->graph.tensors[SFI_ATTN_ID_DELTA].used ? work + p->area.delta : NULL;
}

int sfi_attn_run(struct sf_cuda *ctx, const struct sf_call *call, void *const operand[SF_CALL_OPERANDS], void *stream,
                 struct sf_err *err) {
    struct prepared *p = find(ctx->attn, call);
    struct sf_err why = {0};
    void *at[SFI_ATTN_IDS];
    if (!p || !p->plan) {
        return run_simple(ctx, call, operand, stream, err);
    }
    if (!aligned(p, operand)) {
        (void)sf_fail(&why, SF_E_NOPLAN, "operands are not at multiples of %d bytes", SFI_ATTN_ALIGN_BYTES);
        note_once(ctx, SIMPLE, &why);
        return run_simple(ctx, call, operand, stream, err);
    }
    if (!ctx->work || ctx->work_bytes < p->area.bytes) {
        return sf_fail(err, SF_E_INTERNAL, "%s needs %zu bytes of work area, found %zu", sf_call_name(call->kind),
                       p->area.bytes, ctx->work ? ctx->work_bytes : (size_t)0);
    }
    cudnnStatus_t st = cudnnSetStream(ctx->attn->handle, stream);
    if (st != CUDNN_STATUS_SUCCESS) {
        return sf_fail(err, SF_E_FAULT, "cuDNN does not take the stream: %s", cudnnGetErrorString(st));
    }
    for (int64_t chunk = 0; chunk < sfi_attn_chunks(&p->shape); chunk++) {
        place(p, ctx->work, operand, chunk, at);
        SF_TRY(sfi_attn_plan_run(p->plan, &p->graph, ctx->attn->handle, at, ctx->work + p->area.engine, err));
    }
    return 0;
}
