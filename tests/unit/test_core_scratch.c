/* Work areas of a GPU's kernels: one for each stream, as large as its neediest call; none on CPUs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/prog_build.h"
#include "core/scratch.h"

#define MIB (UINT64_C(1) << 20)

static struct sf_call gemm(int dtype) {
    return (struct sf_call){.kind = SF_CALL_GEMM, .dtype = (uint8_t)dtype, .comm = SF_NONE, .dims = {8, 8, 8, 1}};
}

static void test_calls(void **state) {
    (void)state;
    struct sf_call call = gemm(SF_BF16);
    assert_int_equal(sf_call_scratch_bytes(&call), 32 * MIB);
    call = (struct sf_call){.kind = SF_CALL_XENT, .dtype = SF_BF16, .dims = {1000, 50257}};
    assert_int_equal(sf_call_scratch_bytes(&call), 4096); /* an f32 per row, in whole lines */
    call = (struct sf_call){.kind = SF_CALL_ALL_REDUCE, .dtype = SF_BF16, .dims = {1 << 20}};
    assert_int_equal(sf_call_scratch_bytes(&call), 0);
    call = (struct sf_call){
        .kind = SF_CALL_ATTN_BWD, .dtype = SF_BF16, .imm = {0, 1}, .dims = {64, 8192, 32, 8, 128, 6144}};
    uint64_t most = sf_call_scratch_bytes(&call);
    assert_true(most > 256 * MIB && most <= 1024 * MIB); /* as many heads at once as stay below the goal */
    call.dims[0] = 1;
    assert_true(sf_call_scratch_bytes(&call) <= most);
}

static void test_hostile_dims(void **state) {
    (void)state;
    static const uint8_t kinds[] = {SF_CALL_RMSNORM_BWD, SF_CALL_LAYERNORM_BWD, SF_CALL_BIAS_BWD,
                                    SF_CALL_EMBED_BWD,   SF_CALL_XENT,          SF_CALL_ATTN_BWD};
    for (size_t i = 0; i < sizeof kinds; i++) {
        struct sf_call call = {.kind = kinds[i], .dtype = SF_BF16};
        for (int d = 0; d < SF_CALL_DIMS; d++) {
            call.dims[d] = INT64_MAX;
        }
        assert_true(sf_call_scratch_bytes(&call) <= UINT64_MAX / 2);
        call.dims[0] = -1;
        assert_int_equal(sf_call_scratch_bytes(&call), 0);
    }
}

/* A rank with kernels on two streams. */
static struct sf_prog *build(int dtype) {
    struct sf_build *b = sf_build_create();
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    assert_non_null(b);
    sf_build_axis(b, "dp", 1);
    sf_build_stream(b, "compute");
    sf_build_stream(b, "more");
    sf_build_recipe_begin(b, "products", 1);
    struct sf_call call = gemm(dtype);
    for (int o = 0; o < 3; o++) {
        call.operand[o] = SF_REF(0, o * 256);
    }
    for (int o = 3; o < SF_CALL_OPERANDS; o++) {
        call.operand[o] = SF_REF_NONE;
    }
    sf_build_call(b, &call);
    sf_build_call(b, &call);
    uint32_t recipe = sf_build_recipe_end(b);
    sf_build_class_begin(b, "all", 0);
    for (uint8_t stream = 0; stream < 2; stream++) {
        uint32_t buf = sf_build_buffer(b, stream ? "b" : "a", SF_BUF_PARAM, 1024, true);
        const struct sf_arg arg = {.buf = buf, .access = SF_READ_WRITE, .bytes = 1024};
        const struct sf_op op = {.kind = SF_OP_OPTIMIZER, .recipe = recipe, .comm = SF_NONE, .stream = stream};
        sf_build_op(b, &op, &arg, 1, NULL, 0);
    }
    sf_build_class_end(b);
    const uint32_t class_of = 0;
    if (sf_build_finish(b, &class_of, 1, &prog, &err) != SF_OK) {
        fail_msg("%s", err.msg);
    }
    sf_build_free(b);
    return prog;
}

static void test_streams_add_up(void **state) {
    (void)state;
    struct sf_prog *prog = build(SF_BF16);
    assert_int_equal(sf_class_scratch_bytes(prog, 0), 64 * MIB);
    assert_int_equal(sf_prog_device_bytes(prog), 64 * MIB + prog->classes[0].arena_bytes);
    sf_prog_free(prog);
    prog = build(SF_F32);
    assert_int_equal(sf_class_scratch_bytes(prog, 0), 0);
    assert_int_equal(sf_prog_device_bytes(prog), prog->classes[0].arena_bytes);
    sf_prog_free(prog);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calls),
        cmocka_unit_test(test_hostile_dims),
        cmocka_unit_test(test_streams_add_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
