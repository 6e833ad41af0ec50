/* What is kept between calls, on disk and in memory, and when the simple kernel takes over: attn_cudnn.c with cuDNN and
 * the kernels replaced by recorders. */
#include <cudnn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/arena.h"
#include "kernels/cuda/attn_cudnn.h"
#include "kernels/cuda/attn_cudnn_file.h"
#include "kernels/cuda/attn_cudnn_plan.h"

/* ---- recorders --------------------------------------------------------------------------------------------------- */

struct sfi_attn_plan {
    int serial;
};

enum { RUNS = 64 };

static struct {
    cudnnStatus_t create;
    int build, load;
    size_t limit;
    int builds, loads, plans, simple, runs;
    void *at[RUNS][SFI_ATTN_IDS], *workspace[RUNS];
    void *stream;
} is;

static int handle;

cudnnStatus_t cudnnCreate(cudnnHandle_t *out) {
    *out = is.create == CUDNN_STATUS_SUCCESS ? (cudnnHandle_t)(void *)&handle : NULL;
    return is.create;
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t h) {
    assert_ptr_equal(h, &handle);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t h, cudaStream_t stream) {
    assert_ptr_equal(h, &handle);
    is.stream = stream;
    return CUDNN_STATUS_SUCCESS;
}

size_t cudnnGetVersion(void) {
    return 91900;
}

const char *cudnnGetErrorString(cudnnStatus_t status) {
    (void)status;
    return "as told";
}

static int give_plan(int rc, const struct sfi_attn_target *target, size_t limit, struct sfi_attn_plan **out,
                     struct sf_err *err) {
    assert_ptr_equal(target->handle, &handle);
    *out = NULL;
    is.limit = limit;
    if (rc != 0) {
        return sf_fail(err, rc, "refused as told");
    }
    *out = calloc(1, sizeof **out);
    is.plans++;
    return 0;
}

int sfi_attn_plan_build(const struct sfi_attn_target *target, const struct sfi_attn_graph *graph, bool deterministic,
                        size_t limit, struct sfi_attn_plan **out, struct sf_err *err) {
    assert_true(graph->ops_n > 0);
    (void)deterministic;
    is.builds++;
    return give_plan(is.build, target, limit, out, err);
}

int sfi_attn_plan_load(const struct sfi_attn_target *target, const char *json, size_t bytes, size_t limit,
                       struct sfi_attn_plan **out, struct sf_err *err) {
    assert_int_equal(bytes, 4);
    assert_memory_equal(json, "plan", 4);
    is.loads++;
    return give_plan(is.load, target, limit, out, err);
}

int sfi_attn_plan_save(const struct sfi_attn_plan *plan, struct sf_buf *out, struct sf_err *err) {
    assert_non_null(plan);
    (void)err;
    sf_buf_write(out, "plan", 4);
    return 0;
}

void sfi_attn_plan_destroy(struct sfi_attn_plan *plan) {
    is.plans -= plan != NULL;
    free(plan);
}

int sfi_attn_plan_run(struct sfi_attn_plan *plan, const struct sfi_attn_graph *graph, void *h,
                      void *const at[SFI_ATTN_IDS], void *workspace, struct sf_err *err) {
    assert_true(plan && graph->ops_n > 0 && h == &handle && is.runs < RUNS);
    (void)err;
    memcpy(is.at[is.runs], at, sizeof is.at[0]);
    is.workspace[is.runs++] = workspace;
    return 0;
}

SFI_CUDA(attn_fwd) {
    (void)ctx, (void)operand, (void)stream, (void)err;
    assert_int_equal(call->kind, SF_CALL_ATTN_FWD);
    is.simple++;
    return 0;
}

SFI_CUDA(attn_bwd) {
    (void)ctx, (void)operand, (void)stream, (void)err;
    assert_int_equal(call->kind, SF_CALL_ATTN_BWD);
    is.simple++;
    return 0;
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static char folder[] = "/tmp/attn-plans-XXXXXX", path[512];
static const struct sf_call backward = {
    .kind = SF_CALL_ATTN_BWD, .dtype = SF_BF16, .dims = {1, 8192, 32, 8, 128, 48 * 128}};
static void *const operands[SF_CALL_OPERANDS] = {
    (void *)0x10000000, (void *)0x20000000, (void *)0x30000000, (void *)0x40000000, (void *)0x50000000,
    (void *)0x60000000, (void *)0x70000000, (void *)0x80000000, (void *)0x90000000, (void *)0xa0000000};

static struct sf_cuda context(const char *cache) {
    struct sf_cuda ctx = {.arch = 90, .sms_n = 132, .name = "NVIDIA H200", .work = (char *)0x1000000000};
    struct sf_err err = {0};
    ctx.work_bytes = SFI_ATTN_WORK_GOAL;
    assert_int_equal(sfi_attn_create(cache, &ctx, &err), 0);
    return ctx;
}

static int prepare_and_run(struct sf_cuda *ctx, const struct sf_call *call, void *const operand[SF_CALL_OPERANDS]) {
    struct sf_err err = {0};
    is.runs = 0;
    is.simple = 0;
    assert_int_equal(sfi_attn_prepare(ctx, call, &err), 0);
    return sfi_attn_run(ctx, call, operand, (void *)0x77, &err);
}

static int forget(void **unused) {
    (void)unused;
    memset(&is, 0, sizeof is);
    (void)unlink(path);
    return 0;
}

static void test_addresses_of_chunks(void **unused) {
    (void)unused;
    struct sf_cuda ctx = context(NULL);
    sfi_attn_set_deterministic(&ctx, true);
    assert_int_equal(prepare_and_run(&ctx, &backward, operands), 0);
    assert_int_equal(is.runs, 8); /* groups of four query heads, one key head each */
    for (int i = 0; i < is.runs; i++) {
        char *const *at = (char *const *)is.at[i];
        assert_ptr_equal(at[SFI_ATTN_ID_Q], (char *)operands[0] + i * 4 * 128 * 2);
        assert_ptr_equal(at[SFI_ATTN_ID_K_T], (char *)operands[1] + i * 128 * 2);
        assert_ptr_equal(at[SFI_ATTN_ID_V_T], (char *)operands[2] + i * 128 * 2);
        assert_ptr_equal(at[SFI_ATTN_ID_O], (char *)operands[3] + i * 4 * 128 * 2);
        assert_ptr_equal(at[SFI_ATTN_ID_LSE], (char *)operands[4] + i * 4 * 8192 * 4);
        assert_ptr_equal(at[SFI_ATTN_ID_D_V], (char *)operands[8] + i * 128 * 2);
        assert_null(at[SFI_ATTN_ID_D_Q_SUM]);
        assert_ptr_equal(at[SFI_ATTN_ID_DELTA], ctx.work);
        assert_ptr_equal(is.workspace[i], ctx.work + 4 * 8192 * 4);
        assert_true(4 * 8192 * 4 + is.limit <= sfi_attn_work(&backward, true));
    }
    assert_ptr_equal(is.stream, (void *)0x77);
    sfi_attn_destroy(&ctx);
    assert_int_equal(is.plans, 0);
}

static void test_built_once_loaded_later(void **unused) {
    (void)unused;
    struct sf_cuda ctx = context(folder);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(prepare_and_run(&ctx, &backward, operands), 0);
        assert_int_equal(is.runs, 1);
    }
    assert_int_equal(is.builds, 1);
    assert_string_equal(ctx.note, "");
    sfi_attn_destroy(&ctx);
    ctx = context(folder);
    assert_int_equal(prepare_and_run(&ctx, &backward, operands), 0);
    assert_true(is.builds == 1 && is.loads == 1 && is.runs == 1);
    sfi_attn_set_deterministic(&ctx, true); /* another plan, another file */
    assert_int_equal(prepare_and_run(&ctx, &backward, operands), 0);
    assert_true(is.builds == 2 && is.loads == 1);
    sfi_attn_destroy(&ctx);
    assert_int_equal(is.plans, 0);
}

static void test_damaged_file_is_replaced(void **unused) {
    (void)unused;
    struct sf_err err = {0};
    struct sf_cuda ctx = context(folder);
    assert_int_equal(sf_io_posix.write_all(NULL, path, "staticfire attention plan 9\n", 28, &err), 0);
    assert_int_equal(prepare_and_run(&ctx, &backward, operands), 0);
    assert_true(is.builds == 1 && is.loads == 0 && is.runs == 1);
    assert_non_null(strstr(ctx.note, "not used"));
    sfi_attn_destroy(&ctx);
    ctx = context(folder);
    is.load = SF_E_NOPLAN; /* whole, but cuDNN does not take it */
    assert_int_equal(prepare_and_run(&ctx, &backward, operands), 0);
    assert_true(is.builds == 2 && is.loads == 1 && is.runs == 1);
    sfi_attn_destroy(&ctx);
}

static void test_no_folder(void **unused) {
    (void)unused;
    struct sf_cuda ctx = context("/nonexistent/folder");
    assert_int_equal(prepare_and_run(&ctx, &backward, operands), 0);
    assert_int_equal(is.runs, 1);
    assert_non_null(strstr(ctx.note, "not kept"));
    sfi_attn_destroy(&ctx);
}

static void assert_simple(struct sf_cuda *ctx, const struct sf_call *call, void *const operand[SF_CALL_OPERANDS],
                          const char *note) {
    assert_int_equal(prepare_and_run(ctx, call, operand), 0);
    assert_true(is.simple == 1 && is.runs == 0);
    assert_non_null(strstr(ctx->note, note));
    sfi_attn_destroy(ctx);
}

static void test_simple_kernel(void **unused) {
    (void)unused;
    struct sf_call call = backward;
    void *shifted[SF_CALL_OPERANDS];
    struct sf_cuda ctx = context(NULL);
    is.build = SF_E_NOPLAN;
    assert_int_equal(prepare_and_run(&ctx, &backward, operands), 0);
    assert_simple(&ctx, &backward, operands, "simple kernel: refused as told");
    assert_int_equal(is.builds, 1); /* asked once */
    is.build = 0;
    memcpy(shifted, operands, sizeof shifted);
    shifted[7] = (char *)shifted[7] + 2;
    ctx = context(NULL);
    assert_simple(&ctx, &backward, shifted, "multiples of 16");
    is.create = CUDNN_STATUS_NOT_INITIALIZED;
    ctx = context(NULL);
    assert_simple(&ctx, &backward, operands, "cannot start");
    call.dims[4] = 60;
    ctx = context(NULL);
    assert_simple(&ctx, &call, operands, "no plan is made");
    call.dtype = SF_F32;
    call.kind = SF_CALL_ATTN_FWD;
    ctx = context(NULL);
    assert_simple(&ctx, &call, operands, ""); /* nothing to tell */
}

static void test_small_work_area(void **unused) {
    (void)unused;
    struct sf_err err = {0};
    struct sf_cuda ctx = context(NULL);
    assert_int_equal(prepare_and_run(&ctx, &backward, operands), 0);
    ctx.work_bytes = sfi_attn_work(&backward, false);
    assert_int_equal(sfi_attn_run(&ctx, &backward, operands, NULL, &err), 0);
    ctx.work_bytes--;
    assert_int_equal(sfi_attn_run(&ctx, &backward, operands, NULL, &err), SF_E_INTERNAL);
    sfi_attn_destroy(&ctx);
    sfi_attn_destroy(&ctx);
}

static int set_up(void **unused) {
    const struct sfi_attn_device device = {.name = "NVIDIA H200", .cudnn = 91900};
    struct sfi_attn_shape shape;
    struct sf_err err = {0};
    (void)unused;
    return !mkdtemp(folder) || !sfi_attn_shape_of(&backward, false, &shape) ||
           sfi_attn_file_path(folder, &device, &shape, path, sizeof path, &err) != 0;
}

static int tear_down(void **unused) {
    char command[64];
    (void)forget(unused);
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_addresses_of_chunks, forget),
        cmocka_unit_test_setup(test_built_once_loaded_later, forget),
        cmocka_unit_test_setup(test_damaged_file_is_replaced, forget),
        cmocka_unit_test_setup(test_no_folder, forget),
        cmocka_unit_test_setup(test_simple_kernel, forget),
        cmocka_unit_test_setup(test_small_work_area, forget),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
