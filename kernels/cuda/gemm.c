/* GEMM by cuBLASLt. The fastest of many candidates is measured once per shape and device and kept on disk. Candidates
 * that add partial sums with atomics are left out, so results repeat as long as the choice does. A choice by time may
 * fall differently in the next process, so deterministic runs take cuBLASLt's first candidate, and no file. */
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <string.h>

#include "core/arena.h"
#include "kernels/cuda/algo.h"
#include "kernels/cuda/cuda_internal.h"
#include "kernels/cuda/random.h"

enum { CANDIDATES = 32, RUNS = 5 };
#define WORK_BYTES ((size_t)32 << 20) /* what cuBLAS advises from Hopper on */
#define OPERAND_ALIGN 16u

struct ready { /* an algorithm that may run now */
    struct sfi_algo key;
    bool deterministic; /* chosen without a clock */
    cublasLtMatmulAlgo_t algo;
};

struct sfi_gemm {
    cublasLtHandle_t lt;
    struct sfi_algo_device device;
    struct sfi_algos known; /* from the file, and found since */
    struct ready *ready;
    size_t ready_n, ready_capacity;
    char path[4096]; /* "" when nothing is kept */
    bool changed, deterministic;
};

/* Descriptors of one call. */
struct problem {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t first, second, result;
};

static int lt_fail(const struct sf_call *call, const char *what, cublasStatus_t status, struct sf_err *err) {
    return sf_fail(err, SF_E_FAULT, "%s: cuBLASLt %s: %s", call ? sf_call_name(call->kind) : "gemm", what,
                   cublasLtGetStatusString(status));
}

static int cuda_fail(const char *what, cudaError_t status, struct sf_err *err) {
    return sf_fail(err, SF_E_FAULT, "%s: %s", what, cudaGetErrorString(status));
}

bool sfi_gemm_fits(const struct sf_call *call) {
    for (int i = 0; i < 4; i++) {
        if (call->dims[i] > INT32_MAX) {
            return false;
        }
    }
    return true;
}

size_t sfi_gemm_work(const struct sf_call *call) {
    return call->kind == SF_CALL_GEMM ? WORK_BYTES : 0;
}

/* ---- descriptors ------------------------------------------------------------------------------------------------- */

static cudaDataType_t type_of(const struct sf_call *call) {
    return call->dtype == SF_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static cublasStatus_t make_matrix(const struct sf_call *call, const struct sfi_gemm_matrix *m,
                                  cublasLtMatrixLayout_t *out) {
    int32_t groups = (int32_t)call->dims[3];
    int64_t stride = (int64_t)m->stride;
    cublasStatus_t st = cublasLtMatrixLayoutCreate(out, type_of(call), m->rows, m->cols, (int64_t)m->ld);
    if (st == CUBLAS_STATUS_SUCCESS && groups > 1) {
        st = cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &groups, sizeof groups);
    }
    if (st == CUBLAS_STATUS_SUCCESS && groups > 1) {
        st =
            cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride);
    }
    return st;
}

static cublasStatus_t make_desc(const struct sfi_gemm_layout *l, cublasLtMatmulDesc_t *out) {
    cublasOperation_t first = l->transpose_first ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t second = l->transpose_second ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasStatus_t st = cublasLtMatmulDescCreate(out, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (st == CUBLAS_STATUS_SUCCESS) {
        st = cublasLtMatmulDescSetAttribute(*out, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first);
    }
    if (st == CUBLAS_STATUS_SUCCESS) {
        st = cublasLtMatmulDescSetAttribute(*out, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second);
    }
    return st;
}

static void problem_clear(struct problem *p) {
    if (p->result) {
        cublasLtMatrixLayoutDestroy(p->result);
    }
    if (p->second) {
        cublasLtMatrixLayoutDestroy(p->second);
    }
    if (p->first) {
        cublasLtMatrixLayoutDestroy(p->first);
    }
    if (p->desc) {
        cublasLtMatmulDescDestroy(p->desc);
    }
    *p = (struct problem){0};
}

static int problem_init(const struct sf_call *call, struct problem *out, struct sf_err *err) {
    const struct sfi_gemm_layout l = sfi_gemm_layout_of(call);
    *out = (struct problem){0};
    cublasStatus_t st = make_desc(&l, &out->desc);
    st = st == CUBLAS_STATUS_SUCCESS ? make_matrix(call, &l.first, &out->first) : st;
    st = st == CUBLAS_STATUS_SUCCESS ? make_matrix(call, &l.second, &out->second) : st;
    st = st == CUBLAS_STATUS_SUCCESS ? make_matrix(call, &l.result, &out->result) : st;
    if (st != CUBLAS_STATUS_SUCCESS) {
        problem_clear(out);
        return lt_fail(call, "describes the matrices", st, err);
    }
    return 0;
}

static cublasStatus_t multiply(struct sfi_gemm *g, const struct problem *p, const struct sf_call *call,
                               void *const operand[], const cublasLtMatmulAlgo_t *algo, void *work, void *stream) {
    float one = 1, beta = call->flags & SF_CALL_ACC_FLAG ? 1 : 0;
    return cublasLtMatmul(g->lt, p->desc, &one, operand[1], p->first, operand[0], p->second, &beta, operand[2],
                          p->result, operand[2], p->result, algo, work, WORK_BYTES, (cudaStream_t)stream);
}

/* ---- algorithms as numbers --------------------------------------------------------------------------------------- */

/* The last two attributes have 16 bits. */
static size_t config_bytes(int attribute) {
    return attribute >= SFI_ALGO_inner ? sizeof(uint16_t) : sizeof(uint32_t);
}

static bool algo_from_config(struct sfi_gemm *g, const struct sf_call *call, const struct sfi_algo *from,
                             cublasLtMatmulAlgo_t *out) {
    cudaDataType_t type = type_of(call);
    if (from->config[SFI_ALGO_id] > INT32_MAX || from->workspace_bytes > WORK_BYTES ||
        cublasLtMatmulAlgoInit(g->lt, CUBLAS_COMPUTE_32F, CUDA_R_32F, type, type, type, type,
                               (int)from->config[SFI_ALGO_id], out) != CUBLAS_STATUS_SUCCESS) {
        return false;
    }
    for (int c = SFI_ALGO_id + 1; c < SFI_ALGO_CONFIG_N; c++) {
        uint32_t wide = from->config[c];
        uint16_t narrow = (uint16_t)wide;
        const void *value = config_bytes(c) == sizeof narrow ? (const void *)&narrow : (const void *)&wide;
        if ((config_bytes(c) == sizeof narrow && wide > UINT16_MAX) ||
            cublasLtMatmulAlgoConfigSetAttribute(out, (cublasLtMatmulAlgoConfigAttributes_t)c, value,
                                                 config_bytes(c)) != CUBLAS_STATUS_SUCCESS) {
            return false;
        }
    }
    return true;
}

static bool algo_to_config(const cublasLtMatmulAlgo_t *algo, struct sfi_algo *out) {
    for (int c = 0; c < SFI_ALGO_CONFIG_N; c++) {
        uint32_t wide = 0;
        uint16_t narrow = 0;
        size_t written = 0;
        void *value = config_bytes(c) == sizeof narrow ? (void *)&narrow : (void *)&wide;
        if (cublasLtMatmulAlgoConfigGetAttribute(algo, (cublasLtMatmulAlgoConfigAttributes_t)c, value, config_bytes(c),
                                                 &written) != CUBLAS_STATUS_SUCCESS) {
            return false;
        }
        out->config[c] = config_bytes(c) == sizeof narrow ? narrow : wide;
    }
    return true;
}

static struct sfi_algo key_of(const struct sf_call *call) {
    struct sfi_algo key = {.dtype = call->dtype};
    key.flags = call->flags & (SF_CALL_TA_FLAG | SF_CALL_TB_FLAG | SF_CALL_ACC_FLAG);
    memcpy(key.dims, call->dims, sizeof key.dims);
    return key;
}

static const struct ready *find_ready(const struct sfi_gemm *g, const struct sf_call *call) {
    const struct sfi_algo key = key_of(call);
    for (size_t i = 0; i < g->ready_n; i++) {
        const struct sfi_algo *k = &g->ready[i].key;
        if (g->ready[i].deterministic == g->deterministic && k->dtype == key.dtype && k->flags == key.flags &&
            memcmp(k->dims, key.dims, sizeof key.dims) == 0) {
            return &g->ready[i];
        }
    }
    return NULL;
}

static int add_ready(struct sfi_gemm *g, const struct sf_call *call, const cublasLtMatmulAlgo_t *algo,
                     struct sf_err *err) {
    if (g->ready_n == g->ready_capacity) {
        size_t capacity = g->ready_capacity ? 2 * g->ready_capacity : 32;
        struct ready *grown = sf_realloc(g->ready, capacity, sizeof *grown);
        if (!grown) {
            return sf_fail_memory(err, "GEMM algorithms");
        }
        g->ready = grown;
        g->ready_capacity = capacity;
    }
    g->ready[g->ready_n++] = (struct ready){key_of(call), g->deterministic, *algo};
    return 0;
}

/* ---- measuring --------------------------------------------------------------------------------------------------- */

static cublasStatus_t make_preference(cublasLtMatmulPreference_t *out) {
    const uint64_t bytes = WORK_BYTES;
    const uint32_t sums = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, align = OPERAND_ALIGN;
    static const cublasLtMatmulPreferenceAttributes_t aligned[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    cublasStatus_t st = cublasLtMatmulPreferenceCreate(out);
    if (st == CUBLAS_STATUS_SUCCESS) {
        st = cublasLtMatmulPreferenceSetAttribute(*out, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes);
    }
    if (st == CUBLAS_STATUS_SUCCESS) {
        st = cublasLtMatmulPreferenceSetAttribute(*out, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &sums, sizeof sums);
    }
    for (size_t i = 0; st == CUBLAS_STATUS_SUCCESS && i < sizeof aligned / sizeof *aligned; i++) {
        st = cublasLtMatmulPreferenceSetAttribute(*out, aligned[i], &align, sizeof align);
    }
    return st;
}

static int candidates(struct sfi_gemm *g, const struct sf_call *call, const struct problem *p,
                      cublasLtMatmulHeuristicResult_t out[CANDIDATES], int *n, struct sf_err *err) {
    cublasLtMatmulPreference_t preference = NULL;
    *n = 0;
    cublasStatus_t st = make_preference(&preference);
    if (st == CUBLAS_STATUS_SUCCESS) {
        st = cublasLtMatmulAlgoGetHeuristic(g->lt, p->desc, p->first, p->second, p->result, p->result, preference,
                                            CANDIDATES, out, n);
    }
    if (preference) {
        cublasLtMatmulPreferenceDestroy(preference);
    }
    if (st != CUBLAS_STATUS_SUCCESS || *n == 0) {
        return lt_fail(call, "knows no algorithm for this shape", st, err);
    }
    return 0;
}

/* Memory to measure on: random numbers, because zeros draw less power and so run faster. */
struct bench {
    void *memory, *operand[3], *work;
    cudaStream_t stream;
    cudaEvent_t start, stop;
};

static void bench_clear(struct bench *b) {
    if (b->stop) {
        cudaEventDestroy(b->stop);
    }
    if (b->start) {
        cudaEventDestroy(b->start);
    }
    if (b->stream) {
        cudaStreamDestroy(b->stream);
    }
    cudaFree(b->memory);
    *b = (struct bench){0};
}

static size_t padded(size_t bytes) {
    return (bytes + 255) / 256 * 256;
}

/* False when there is no room, which is no error: the first candidate will do. */
static bool bench_init(const struct sf_call *call, struct bench *b) {
    const struct sfi_gemm_layout l = sfi_gemm_layout_of(call);
    size_t element = (size_t)sf_dtype_bytes(call->dtype), groups = (size_t)call->dims[3];
    size_t bytes[3] = {padded(l.second.stride * groups * element), padded(l.first.stride * groups * element),
                       padded(l.result.stride * groups * element)};
    *b = (struct bench){0};
    if (cudaMalloc(&b->memory, bytes[0] + bytes[1] + bytes[2] + WORK_BYTES) != cudaSuccess) {
        (void)cudaGetLastError();
        b->memory = NULL;
        return false;
    }
    b->operand[0] = b->memory;
    b->operand[1] = (char *)b->operand[0] + bytes[0];
    b->operand[2] = (char *)b->operand[1] + bytes[1];
    b->work = (char *)b->operand[2] + bytes[2];
    if (cudaStreamCreateWithFlags(&b->stream, cudaStreamNonBlocking) != cudaSuccess ||
        cudaEventCreate(&b->start) != cudaSuccess || cudaEventCreate(&b->stop) != cudaSuccess) {
        bench_clear(b);
        return false;
    }
    sfi_cuda_fill_random(b->memory, (bytes[0] + bytes[1] + bytes[2]) / element, call->dtype, b->stream);
    return true;
}

/* Shortest of a few runs in ns; UINT64_MAX when the candidate does not run. */
static uint64_t measure(struct sfi_gemm *g, const struct sf_call *call, const struct problem *p, struct bench *b,
                        const cublasLtMatmulAlgo_t *algo) {
    uint64_t best = UINT64_MAX;
    for (int run = 0; run < RUNS; run++) {
        float ms = 0;
        cudaEventRecord(b->start, b->stream);
        if (multiply(g, p, call, b->operand, algo, b->work, b->stream) != CUBLAS_STATUS_SUCCESS) {
            return UINT64_MAX;
        }
        cudaEventRecord(b->stop, b->stream);
        if (cudaEventSynchronize(b->stop) != cudaSuccess ||
            cudaEventElapsedTime(&ms, b->start, b->stop) != cudaSuccess) {
            return UINT64_MAX;
        }
        uint64_t ns = (uint64_t)((double)ms * 1e6);
        best = run > 0 && ns < best ? ns : best; /* the first run loads code */
    }
    return best;
}

/* A choice is kept on disk only if the numbers build the very same algorithm again. */
static int keep(struct sfi_gemm *g, const struct sf_call *call, const cublasLtMatmulHeuristicResult_t *best,
                uint64_t ns, struct sf_err *err) {
    struct sfi_algo algo = key_of(call);
    cublasLtMatmulAlgo_t again;
    memset(&again, 0, sizeof again);
    algo.workspace_bytes = best->workspaceSize;
    algo.time_ns = ns;
    if (ns == UINT64_MAX || !algo_to_config(&best->algo, &algo) || !algo_from_config(g, call, &algo, &again) ||
        memcmp(&again, &best->algo, sizeof again) != 0) {
        return 0;
    }
    g->changed = true;
    return sfi_algos_add(&g->known, &algo, err);
}

static int search(struct sfi_gemm *g, const struct sf_call *call, const struct problem *p, struct sf_err *err) {
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    struct bench b;
    int n, best = 0;
    uint64_t best_ns = UINT64_MAX;
    SF_TRY(candidates(g, call, p, found, &n, err));
    if (!g->deterministic && bench_init(call, &b)) {
        for (int i = 0; i < n; i++) {
            uint64_t ns = measure(g, call, p, &b, &found[i].algo);
            if (ns < best_ns) {
                best = i;
                best_ns = ns;
            }
        }
        bench_clear(&b);
    }
    SF_TRY(keep(g, call, &found[best], best_ns, err));
    return add_ready(g, call, &found[best].algo, err);
}

static int prepare(struct sfi_gemm *g, const struct sf_call *call, const struct problem *p, struct sf_err *err) {
    const struct sfi_algo *known = sfi_algos_find(&g->known, call);
    cublasLtMatmulAlgo_t algo;
    cublasLtMatmulHeuristicResult_t check;
    if (known && !g->deterministic && algo_from_config(g, call, known, &algo) &&
        cublasLtMatmulAlgoCheck(g->lt, p->desc, p->first, p->second, p->result, p->result, &algo, &check) ==
            CUBLAS_STATUS_SUCCESS &&
        check.workspaceSize <= WORK_BYTES) {
        return add_ready(g, call, &algo, err);
    }
    return search(g, call, p, err);
}

static bool is_empty(const struct sf_call *call) {
    return call->dims[0] == 0 || call->dims[1] == 0;
}

void sfi_gemm_set_deterministic(struct sf_cuda *ctx, bool on) {
    ctx->gemm->deterministic = on;
}

int sfi_gemm_prepare(struct sf_cuda *ctx, const struct sf_call *call, struct sf_err *err) {
    struct problem p;
    if (is_empty(call) || call->dims[2] == 0 || find_ready(ctx->gemm, call)) {
        return 0;
    }
    cudaError_t st = cudaSetDevice(ctx->device);
    if (st != cudaSuccess) {
        return cuda_fail("device", st, err);
    }
    SF_TRY(problem_init(call, &p, err));
    int rc = prepare(ctx->gemm, call, &p, err);
    problem_clear(&p);
    return rc;
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

static bool aligned(void *const operand[]) {
    return (((uintptr_t)operand[0] | (uintptr_t)operand[1] | (uintptr_t)operand[2]) & (OPERAND_ALIGN - 1)) == 0;
}

/* A sum of nothing. */
static int no_terms(struct sf_cuda *ctx, const struct sf_call *call, void *const operand[], void *stream,
                    struct sf_err *err) {
    void *const y[SF_CALL_OPERANDS] = {operand[2]};
    struct sf_call zero = {.kind = SF_CALL_ZERO, .dtype = call->dtype, .comm = SF_NONE};
    zero.dims[0] = call->dims[0] * call->dims[1] * call->dims[3];
    return call->flags & SF_CALL_ACC_FLAG ? 0 : sfi_cuda_zero(ctx, &zero, y, stream, err);
}

SFI_CUDA(gemm) {
    struct problem p;
    if (is_empty(call)) {
        return 0;
    }
    if (call->dims[2] == 0) {
        return no_terms(ctx, call, operand, stream, err);
    }
    const struct ready *ready = find_ready(ctx->gemm, call);
    if (!ready || !aligned(operand)) {
        return sf_fail(err, SF_E_INTERNAL, "gemm: %s",
                       ready ? "operands are not aligned to 16 bytes" : "not prepared before it runs");
    }
    SF_TRY(sfi_cuda_need(ctx, call, err));
    SF_TRY(problem_init(call, &p, err));
    cublasStatus_t st = multiply(ctx->gemm, &p, call, operand, &ready->algo, ctx->work, stream);
    problem_clear(&p);
    return st == CUBLAS_STATUS_SUCCESS ? 0 : lt_fail(call, "refuses to run", st, err);
}

/* ---- the file ---------------------------------------------------------------------------------------------------- */

static void read_known(struct sfi_gemm *g, struct sf_cuda *ctx) {
    char *text;
    size_t bytes;
    struct sf_err err = {0};
    int rc = sf_io_posix.read_all(NULL, g->path, SFI_ALGO_FILE_BYTES, &text, &bytes, &err);
    if (rc == SF_E_IO) { /* not there yet */
        return;
    }
    if (rc == 0) {
        rc = sfi_algos_parse(text, bytes, g->path, &g->device, &g->known, &err);
        sf_free(text);
    }
    if (rc != 0) {
        snprintf(ctx->note, sizeof ctx->note, "%.200s:%u: %.250s; searching anew", g->path, err.line, err.msg);
    }
}

int sfi_gemm_create(const char *cache_dir, struct sf_cuda *ctx, struct sf_err *err) {
    struct sfi_gemm *g = sf_calloc(1, sizeof *g);
    if (!g) {
        return sf_fail_memory(err, "GEMM context");
    }
    ctx->gemm = g;
    cublasStatus_t st = cublasLtCreate(&g->lt);
    if (st != CUBLAS_STATUS_SUCCESS) {
        g->lt = NULL;
        return lt_fail(NULL, "does not start", st, err);
    }
    snprintf(g->device.name, sizeof g->device.name, "%s", ctx->name);
    g->device.arch = (uint64_t)ctx->arch;
    g->device.sms_n = (uint64_t)ctx->sms_n;
    g->device.cublaslt = cublasLtGetVersion();
    if (cache_dir) {
        SF_TRY(sfi_algo_path(cache_dir, &g->device, g->path, sizeof g->path, err));
        read_known(g, ctx);
    }
    return 0;
}

int sfi_gemm_save(struct sf_cuda *ctx, struct sf_err *err) {
    struct sfi_gemm *g = ctx->gemm;
    struct sf_buf text = {0};
    if (!g->changed || g->path[0] == '\0') {
        return 0;
    }
    sfi_algos_print(&g->known, &g->device, &text);
    int rc = text.failed ? sf_fail_memory(err, "GEMM algorithms")
                         : sf_io_posix.write_all(NULL, g->path, text.data, text.bytes, err);
    sf_buf_free(&text);
    g->changed = rc != 0;
    return rc;
}

void sfi_gemm_destroy(struct sf_cuda *ctx) {
    struct sfi_gemm *g = ctx->gemm;
    if (!g) {
        return;
    }
    if (g->lt) {
        (void)sfi_gemm_save(ctx, NULL);
        cublasLtDestroy(g->lt);
    }
    sfi_algos_clear(&g->known);
    sf_free(g->ready);
    sf_free(g);
    ctx->gemm = NULL;
}
