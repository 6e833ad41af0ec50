/* Every kernel on a GPU against its reference. Exit 77 where there is none. */
#include "tests/cuda/compare.h"

#include <cuda_runtime_api.h>
#include <stdio.h>

static struct sf_cuda *ctx;

static void must(cudaError_t st) {
    if (st != cudaSuccess) {
        print_error("%s\n", cudaGetErrorString(st));
        fail();
    }
}

static void *upload(const void *from, size_t bytes) {
    void *to = NULL;
    must(cudaMalloc(&to, bytes));
    must(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice));
    return to;
}

static void download(void *to, void *from, size_t bytes) {
    must(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost));
    must(cudaFree(from));
}

static int launch(const struct sf_call *call, struct device *d, void *base[SF_CALL_OPERANDS], void *work,
                  struct sf_cuda_fault *fault) {
    void *operand[SF_CALL_OPERANDS] = {NULL};
    struct sf_err err = {0};
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        operand[i] = base[i] ? (char *)base[i] + (d->at[i] - d->base[i]) : NULL;
    }
    sf_cuda_set_work(ctx, work, d->work_bytes, fault);
    int rc = sf_cuda_prepare(ctx, call, &err);
    rc = rc == 0 ? sf_kern_cuda_find(call, sf_cuda_arch(ctx))(ctx, call, operand, NULL, &err) : rc;
    if (rc != 0) {
        print_error("%s\n", err.msg);
    }
    must(cudaDeviceSynchronize());
    return rc;
}

static int run(const struct sf_call *call, struct device *d, uint64_t seed) {
    void *base[SF_CALL_OPERANDS] = {NULL};
    size_t work_room = (d->work_bytes + 256 + 255) / 256 * 256;
    (void)seed;
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        base[i] = d->base[i] ? upload(d->base[i], d->room[i]) : NULL;
    }
    void *work = upload(d->work, work_room), *fault = upload(&d->fault, sizeof d->fault);
    int rc = launch(call, d, base, work, fault);
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        if (base[i]) {
            download(d->base[i], base[i], d->room[i]);
        }
    }
    download(d->work, work, work_room);
    download(&d->fault, fault, sizeof d->fault);
    return rc;
}

/* Shapes of real models, where every multiprocessor has work. */
static void test_model_shapes(void **unused) {
    (void)unused;
    uint64_t state = 41;
    const struct sf_call calls[] = {
        {.kind = SF_CALL_GEMM, .flags = SF_CALL_TB_FLAG, .dims = {256, 512, 1024, 1}},
        {.kind = SF_CALL_GEMM, .flags = SF_CALL_TA_FLAG | SF_CALL_ACC_FLAG, .dims = {512, 256, 1000, 1}},
        {.kind = SF_CALL_RMSNORM_BWD, .flags = SF_CALL_ACC_FLAG, .dims = {2048, 896}},
        {.kind = SF_CALL_LAYERNORM_BWD, .dims = {2048, 768}},
        {.kind = SF_CALL_GLU_BWD, .dims = {1024, 4864}},
        {.kind = SF_CALL_ROPE_FWD, .imm = {10000}, .dims = {2048, 16, 64, 1024, 18 * 64}},
        {.kind = SF_CALL_XENT, .imm = {0.001f}, .dims = {64, 151936}},
        {.kind = SF_CALL_XENT_STATS, .dims = {64, 75968}},
        {.kind = SF_CALL_XENT_PART, .imm = {0.001f}, .dims = {64, 18992, 8}},
        {.kind = SF_CALL_EMBED_BWD, .dims = {8192, 256, 50257}},
        {.kind = SF_CALL_EMBED_BWD, .flags = SF_CALL_PART_FLAG, .dims = {8192, 256, 6288}},
        {.kind = SF_CALL_ADAMW, .imm = {1}, .dims = {1 << 20}},
        {.kind = SF_CALL_SUMSQ, .dims = {1 << 22}},
        {.kind = SF_CALL_ATTN_FWD, .imm = {0, 1}, .dims = {1, 512, 4, 2, 64, 512}},
        {.kind = SF_CALL_ATTN_BWD, .imm = {0, 1}, .dims = {1, 256, 4, 2, 64, 512}},
    };
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        for (uint8_t dtype = SF_F32; dtype <= SF_BF16; dtype++) {
            struct sf_call call = calls[i];
            call.dtype = dtype;
            check_call(&call, 0, &state);
        }
    }
}

int main(void) {
    struct sf_err err = {0};
    if (sf_cuda_create(0, NULL, &ctx, &err) != 0) {
        printf("skipped: %s\n", err.msg);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_reference),
        cmocka_unit_test(test_chosen_shapes),
        cmocka_unit_test(test_unknown_ids),
        cmocka_unit_test(test_model_shapes),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    sf_cuda_destroy(ctx);
    return failed;
}
