/* Which algorithm a shape gets: gemm.c with cuBLASLt and the device's clock replaced by recorders. Candidate i carries
 * the number i as its id; candidate FASTEST takes the shortest time. */
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/cuda/cuda_internal.h"
#include "kernels/cuda/random.h"

enum { FOUND = 4, FASTEST = 2 };

static struct { int timings, last; /* last: id that ran last */ } is;

static uint32_t *id_of(const cublasLtMatmulAlgo_t *algo) {
    return (uint32_t *)(uintptr_t)&algo->data[0];
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *out) {
    *out = (cublasLtHandle_t)&is;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    (void)handle;
    return CUBLAS_STATUS_SUCCESS;
}

size_t cublasLtGetVersion(void) {
    return 130100;
}

const char *cublasLtGetStatusString(cublasStatus_t status) {
    (void)status;
    return "status";
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType type, uint64_t rows, uint64_t cols,
                                          int64_t ld) {
    (void)type, (void)rows, (void)cols, (void)ld;
    *out = (cublasLtMatrixLayout_t)(void *)&is;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    (void)layout;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t what,
                                                const void *value, size_t bytes) {
    (void)layout, (void)what, (void)value, (void)bytes;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute, cudaDataType_t scale) {
    (void)compute, (void)scale;
    *out = (cublasLtMatmulDesc_t)(void *)&is;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
    (void)desc;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t what,
                                              const void *value, size_t bytes) {
    (void)desc, (void)what, (void)value, (void)bytes;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out) {
    *out = (cublasLtMatmulPreference_t)(void *)&is;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    (void)preference;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t what, const void *value,
                                                    size_t bytes) {
    (void)preference, (void)what, (void)value, (void)bytes;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t out[], int *n) {
    (void)handle, (void)desc, (void)a, (void)b, (void)c, (void)d, (void)preference;
    assert_true(wanted >= FOUND);
    for (int i = 0; i < FOUND; i++) {
        memset(&out[i], 0, sizeof out[i]);
        *id_of(&out[i].algo) = (uint32_t)i;
    }
    *n = FOUND;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoInit(cublasLtHandle_t handle, cublasComputeType_t compute, cudaDataType_t scale,
                                      cudaDataType_t a, cudaDataType_t b, cudaDataType_t c, cudaDataType_t d, int id,
                                      cublasLtMatmulAlgo_t *out) {
    (void)handle, (void)compute, (void)scale, (void)a, (void)b, (void)c, (void)d;
    memset(out, 0, sizeof *out);
    *id_of(out) = (uint32_t)id;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoConfigSetAttribute(cublasLtMatmulAlgo_t *algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t what, const void *value,
                                                    size_t bytes) {
    (void)algo, (void)what, (void)value, (void)bytes;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t what, void *value,
                                                    size_t bytes, size_t *written) {
    memset(value, 0, bytes);
    if (what == CUBLASLT_ALGO_CONFIG_ID) {
        memcpy(value, id_of(algo), sizeof(uint32_t));
    }
    *written = bytes;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algo, cublasLtMatmulHeuristicResult_t *out) {
    (void)handle, (void)desc, (void)a, (void)b, (void)c, (void)d, (void)algo;
    memset(out, 0, sizeof *out);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t a_of, const void *b, cublasLtMatrixLayout_t b_of, const void *beta,
                              const void *c, cublasLtMatrixLayout_t c_of, void *d, cublasLtMatrixLayout_t d_of,
                              const cublasLtMatmulAlgo_t *algo, void *work, size_t work_bytes, cudaStream_t stream) {
    (void)handle, (void)desc, (void)alpha, (void)a, (void)a_of, (void)b, (void)b_of, (void)beta, (void)c, (void)c_of;
    (void)d, (void)d_of, (void)work, (void)work_bytes, (void)stream;
    is.last = (int)*id_of(algo);
    return CUBLAS_STATUS_SUCCESS;
}

cudaError_t cudaSetDevice(int device) {
    (void)device;
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t error) {
    (void)error;
    return "error";
}

cudaError_t cudaGetLastError(void) {
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **out, size_t bytes) {
    (void)bytes;
    *out = &is;
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory) {
    (void)memory;
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags) {
    (void)flags;
    *out = (cudaStream_t)(void *)&is;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    (void)stream;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *out) {
    *out = (cudaEvent_t)(void *)&is;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    (void)event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    (void)event, (void)stream;
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    (void)event;
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t stop) {
    (void)start, (void)stop;
    is.timings++;
    *ms = is.last == FASTEST ? 1 : 2;
    return cudaSuccess;
}

void sfi_cuda_fill_random(void *to, size_t count, int dtype, void *stream) {
    (void)to, (void)count, (void)dtype, (void)stream;
}

SFI_CUDA(zero) {
    (void)ctx, (void)call, (void)operand, (void)stream, (void)err;
    return 0;
}

int sfi_cuda_need(const struct sf_cuda *ctx, const struct sf_call *call, struct sf_err *err) {
    (void)ctx, (void)call, (void)err;
    return 0;
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static const struct sf_call shape = {.kind = SF_CALL_GEMM, .dtype = SF_BF16, .comm = SF_NONE, .dims = {64, 64, 64, 1}};

static void start(struct sf_cuda *ctx, const char *folder) {
    struct sf_err err = {0};
    memset(&is, 0, sizeof is);
    *ctx = (struct sf_cuda){.arch = 90, .sms_n = 132, .name = "NVIDIA H200"};
    assert_int_equal(sfi_gemm_create(folder, ctx, &err), 0);
}

/* The id of the candidate that runs. */
static int chosen(struct sf_cuda *ctx) {
    static _Alignas(16) char memory[16];
    void *const operand[SF_CALL_OPERANDS] = {memory, memory, memory};
    struct sf_err err = {0};
    assert_int_equal(sfi_gemm_prepare(ctx, &shape, &err), 0);
    assert_int_equal(sfi_cuda_gemm(ctx, &shape, operand, NULL, &err), 0);
    return is.last;
}

static void test_usual_takes_fastest(void **state) {
    struct sf_cuda ctx;
    (void)state;
    start(&ctx, NULL);
    assert_int_equal(chosen(&ctx), FASTEST);
    assert_true(is.timings > 0);
    sfi_gemm_destroy(&ctx);
}

static void test_deterministic_looks_at_no_clock(void **state) {
    struct sf_cuda ctx;
    (void)state;
    start(&ctx, NULL);
    sfi_gemm_set_deterministic(&ctx, true);
    assert_int_equal(chosen(&ctx), 0);
    assert_int_equal(is.timings, 0);
    sfi_gemm_destroy(&ctx);
}

static void test_modes_do_not_mix(void **state) {
    struct sf_cuda ctx;
    (void)state;
    start(&ctx, NULL);
    assert_int_equal(chosen(&ctx), FASTEST);
    sfi_gemm_set_deterministic(&ctx, true);
    assert_int_equal(chosen(&ctx), 0);
    sfi_gemm_set_deterministic(&ctx, false);
    assert_int_equal(chosen(&ctx), FASTEST);
    sfi_gemm_destroy(&ctx);
}

static void test_file_serves_usual_runs_alone(void **state) {
    char folder[] = "/tmp/test_gemm_XXXXXX", path[128];
    struct sf_cuda ctx;
    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/gemm-nvidiah200-130100.txt", folder);
    start(&ctx, folder);
    sfi_gemm_set_deterministic(&ctx, true);
    assert_int_equal(chosen(&ctx), 0);
    sfi_gemm_destroy(&ctx);
    assert_int_not_equal(access(path, F_OK), 0);

    start(&ctx, folder);
    assert_int_equal(chosen(&ctx), FASTEST);
    sfi_gemm_destroy(&ctx);
    assert_int_equal(access(path, F_OK), 0);

    start(&ctx, folder);
    assert_int_equal(chosen(&ctx), FASTEST);
    assert_int_equal(is.timings, 0);
    sfi_gemm_set_deterministic(&ctx, true);
    assert_int_equal(chosen(&ctx), 0);
    sfi_gemm_destroy(&ctx);
    remove(path);
    rmdir(folder);
}

static void test_save_reports(void **state) {
    struct sf_cuda ctx;
    struct sf_err err = {0};
    (void)state;
    start(&ctx, "/nowhere/at/all");
    assert_int_equal(chosen(&ctx), FASTEST);
    assert_int_equal(sfi_gemm_save(&ctx, &err), SF_E_IO);
    assert_true(err.msg[0] != '\0');
    sfi_gemm_destroy(&ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_usual_takes_fastest), cmocka_unit_test(test_deterministic_looks_at_no_clock),
        cmocka_unit_test(test_modes_do_not_mix),    cmocka_unit_test(test_file_serves_usual_runs_alone),
        cmocka_unit_test(test_save_reports),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
