/* Kernels of kernels/cuda against the references, wherever they run: tests/cuda/host emulates the device,
 * tests/cuda/gpu has one. Whoever includes this defines run().
 *
 * Inputs are rounded to the call's dtype first, so that both sides see the same numbers. In bf16 a result may then be
 * off by the rounding of the output (2^-8 of its value: eight significant bits) and by what f32 sums lose. */
#ifndef SF_TESTS_CUDA_COMPARE_H
#define SF_TESTS_CUDA_COMPARE_H

#include "core/scratch.h"
#include "tests/unit/test_kernels_util.h"

#include "kernels/cuda/kern_cuda.h"

enum { SHAPES = 8, SHIFTED = 1 };

#define ROUNDING 0x1.02p-8 /* of a bf16 result, with a little room for the f32 value next to a tie */

struct device;
/* Runs the call on the operands of `d`; `seed` picks the order of threads where somebody can. */
static int run(const struct sf_call *call, struct device *d, uint64_t seed);

/* ---- operands in the call's dtype -------------------------------------------------------------------------------- */

static uint16_t to_bf16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

static float of_bf16(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

#define BIT(i) (1u << (i))

/* Operands that are 32 bits wide whatever the dtype. */
static unsigned wide_operands(const struct sf_call *call) {
    switch (call->kind) {
    case SF_CALL_RMSNORM_FWD:
    case SF_CALL_RMSNORM_BWD:
        return BIT(3);
    case SF_CALL_LAYERNORM_FWD:
        return BIT(4) | BIT(5);
    case SF_CALL_LAYERNORM_BWD:
        return BIT(3) | BIT(4);
    case SF_CALL_RMSNORM_ADD_FWD:
        return BIT(5);
    case SF_CALL_LAYERNORM_ADD_FWD:
        return BIT(6) | BIT(7);
    case SF_CALL_ATTN_FWD:
        return BIT(4);
    case SF_CALL_ATTN_BWD:
        return BIT(4) | BIT(9);
    case SF_CALL_ATTN_SLICE_FWD:
        return BIT(3);
    case SF_CALL_ATTN_SLICE_BWD:
        return BIT(3) | BIT(6) | BIT(7);
    case SF_CALL_EMBED_FWD:
    case SF_CALL_EMBED_BWD:
    case SF_CALL_CAST_DOWN:
        return BIT(0);
    case SF_CALL_CAST_UP:
    case SF_CALL_SUMSQ:
        return BIT(1);
    case SF_CALL_XENT:
    case SF_CALL_XENT_PADDED:
    case SF_CALL_XENT_STATS:
        return BIT(1) | BIT(2);
    case SF_CALL_XENT_PART:
        return BIT(1) | BIT(2) | BIT(3);
    case SF_CALL_ADAMW:
        return call->flags & SF_CALL_LEAN_FLAG ? BIT(4) | BIT(5) : BIT(2) | BIT(3) | BIT(4) | BIT(5);
    case SF_CALL_CLIP:
        return BIT(0) | BIT(1) | BIT(2);
    default:
        return 0;
    }
}

static bool is_narrow(const struct sf_call *call, int operand) {
    return call->dtype == SF_BF16 && (wide_operands(call) >> operand & 1) == 0;
}

/* The reference's counts; the device's moment and master arrays are as long as the parameters. */
static void device_counts(const struct sf_call *call, size_t n[SF_CALL_OPERANDS]) {
    operand_counts(call, n);
    if (call->kind == SF_CALL_ATTN_BWD) {
        n[9] = sf_cuda_attn_bwd_work(call) / sizeof(float);
    }
    if (call->kind == SF_CALL_ATTN_SLICE_BWD) {
        n[7] = sf_cuda_attn_bwd_work(call) / sizeof(float);
    }
    if (call->kind == SF_CALL_ADAMW && call->dtype == SF_BF16) {
        n[5] = n[0];
    }
}

struct device {
    unsigned char *at[SF_CALL_OPERANDS], *base[SF_CALL_OPERANDS];
    size_t bytes[SF_CALL_OPERANDS], room[SF_CALL_OPERANDS]; /* of `at`, of `base` */
    unsigned char *work;
    size_t work_bytes;
    struct sf_cuda_fault fault;
};

static void fill_bytes(void *to, size_t bytes) {
    memset(to, 0x5a, bytes);
}

/* Copies of the reference's operands in the call's dtype, `shift` elements beyond 16-byte alignment. */
static struct device device_create(const struct sf_call *call, const struct operands *ops, size_t shift) {
    struct device d = {.work_bytes = sf_cuda_work_bytes(call, false)};
    size_t count[SF_CALL_OPERANDS];
    assert_true(d.work_bytes <= sf_call_scratch_bytes(call)); /* which forecasts of memory count */
    device_counts(call, count);
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        size_t element = is_narrow(call, i) ? 2 : 4;
        d.bytes[i] = count[i] * element;
        if (count[i] == 0) {
            continue;
        }
        d.room[i] = (d.bytes[i] + shift * element + 64 + 63) / 64 * 64;
        d.base[i] = aligned_alloc(64, d.room[i]);
        assert_non_null(d.base[i]);
        fill_bytes(d.base[i], d.room[i]);
        d.at[i] = d.base[i] + shift * element;
        const float *from = ops->at[i] ? ops->at[i] : ops->at[0]; /* a master copy starts as its parameters */
        for (size_t e = 0; e < count[i] && i != 9; e++) {
            if (is_narrow(call, i)) {
                ((uint16_t *)d.at[i])[e] = to_bf16(from[e]);
            } else {
                memcpy(d.at[i] + 4 * e, from + e, 4);
            }
        }
    }
    d.work = aligned_alloc(256, (d.work_bytes + 256 + 255) / 256 * 256);
    assert_non_null(d.work);
    fill_bytes(d.work, (d.work_bytes + 256 + 255) / 256 * 256);
    return d;
}

static void device_destroy(struct device *d) {
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        free(d->base[i]);
    }
    free(d->work);
}

static void check_device_guards(const struct device *d, size_t shift_bytes) {
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        for (size_t b = 0; d->at[i] && b < 32; b++) {
            assert_int_equal(d->at[i][d->bytes[i] + b], 0x5a);
        }
        for (size_t b = 0; d->at[i] && b < shift_bytes; b++) {
            assert_int_equal(d->base[i][b], 0x5a);
        }
    }
    for (size_t b = 0; b < 256; b++) {
        assert_int_equal(d->work[d->work_bytes + b], 0x5a);
    }
}

/* ---- comparing --------------------------------------------------------------------------------------------------- */

static void round_inputs(const struct sf_call *call, struct operands *ops) {
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        for (size_t e = 0; is_narrow(call, i) && e < ops->count[i]; e++) {
            float *x = (float *)ops->at[i] + e;
            *x = of_bf16(to_bf16(*x));
        }
    }
}

static float element(const struct sf_call *call, const struct device *d, int operand, size_t e) {
    float f;
    if (is_narrow(call, operand)) {
        return of_bf16(((const uint16_t *)d->at[operand])[e]);
    }
    memcpy(&f, d->at[operand] + 4 * e, sizeof f);
    return f;
}

/* Roundings to bf16 that a result has seen; a moment that is rounded up or down at random is off by up to two halves.
 */
static double roundings(const struct sf_call *call, int operand) {
    if (!is_narrow(call, operand)) {
        return 0;
    }
    return call->kind == SF_CALL_ADAMW && (operand == 2 || operand == 3) ? 2 : 1;
}

static void check_operand(const struct sf_call *call, const struct operands *want, const struct device *got, int i,
                          const float *expected) {
    double scale = 0, rounded = call->dtype == SF_BF16 ? roundings(call, i) * ROUNDING : 0;
    for (size_t e = 0; e < want->count[i]; e++) {
        scale = fmax(scale, fabs((double)expected[e]));
    }
    for (size_t e = 0; e < want->count[i]; e++) {
        double x = (double)element(call, got, i, e), y = (double)expected[e];
        double room = rounded * fabs(y) + 8e-6 * scale + 1e-37;
        if (!(fabs(x - y) <= room)) {
            print_error("%s %s operand %d element %zu: %g, expected %g within %g (dims %d %d %d %d %d %d, flags %d)\n",
                        sf_call_name(call->kind), sf_dtype_name(call->dtype), i, e, x, y, room, (int)call->dims[0],
                        (int)call->dims[1], (int)call->dims[2], (int)call->dims[3], (int)call->dims[4],
                        (int)call->dims[5], call->flags);
            fail();
        }
    }
}

/* What is normed is the sum as it was rounded: take it for x, and nothing for the residual. */
static void round_sum(const struct sf_call *call, struct operands *ops) {
    float *x = ops->at[0], *r = ops->at[1];
    for (size_t e = 0; is_narrow(call, 0) && e < ops->count[0]; e++) {
        x[e] = of_bf16(to_bf16(x[e] + r[e]));
        r[e] = 0;
    }
}

/* References know f32 alone, where the parameters are their own master. */
static int run_reference(const struct sf_call *call, struct operands *ops) {
    struct sf_call plain = *call;
    if (call->kind == SF_CALL_RMSNORM_ADD_FWD || call->kind == SF_CALL_LAYERNORM_ADD_FWD) {
        round_sum(call, ops);
    }
    plain.dtype = SF_F32;
    plain.flags &= (uint16_t)~SF_CALL_LEAN_FLAG;
    if (call->flags & SF_CALL_PART_FLAG) {
        bool forward = call->kind == SF_CALL_EMBED_FWD;
        return (forward ? sfi_kern_reference.embed_part_fwd : sfi_kern_reference.embed_part_bwd)(&plain, ops->at, NULL);
    }
    return sfi_kern_reference.kern[call->kind](&plain, ops->at, NULL);
}

static void check_call(const struct sf_call *call, size_t shift, uint64_t *state) {
    struct operands want = operands_create(call, 0);
    operands_fill(call, &want, state);
    round_inputs(call, &want);
    struct device got = device_create(call, &want, shift), again = device_create(call, &want, shift);
    assert_int_equal(run_reference(call, &want), 0);
    assert_int_equal(run(call, &got, 1), 0);
    assert_int_equal(run(call, &again, 2), 0);
    check_device_guards(&got, shift * (call->dtype == SF_BF16 ? 2 : 4));
    assert_int_equal(got.fault.kind, 0);
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        if (got.at[i]) { /* whatever order threads run in */
            assert_memory_equal(got.at[i], again.at[i], got.bytes[i]);
        }
        bool work = (i == 9 && call->kind == SF_CALL_ATTN_BWD) || (i == 7 && call->kind == SF_CALL_ATTN_SLICE_BWD);
        if ((sf_call_writes(call->kind) >> i & 1) == 0 || work) {
            continue;
        }
        bool master = i == 5 && call->kind == SF_CALL_ADAMW;
        if (master && call->dtype == SF_BF16) {
            want.count[5] = want.count[0];
            check_operand(call, &want, &got, 5, want.at[0]);
            want.count[5] = 0;
        } else if (!master) {
            check_operand(call, &want, &got, i, want.at[i]);
        }
    }
    operands_destroy(&want);
    device_destroy(&got);
    device_destroy(&again);
}

/* Dims that the 16-byte paths accept, half of the time. */
static struct sf_call cuda_call(uint8_t kind, uint8_t dtype, uint64_t *state) {
    struct sf_call call = random_call(kind, state);
    bool round = random_int(state, 0, 1);
    call.dtype = dtype;
    for (int i = 0; round && i < 2 && !sf_call_is_attention(kind); i++) {
        call.dims[i] = 8 * ((call.dims[i] + 7) / 8);
    }
    switch (kind) {
    case SF_CALL_ATTN_FWD:
    case SF_CALL_ATTN_BWD:
        call.dims[1] = random_int(state, 1, 70);
        call.dims[4] = random_int(state, 1, 40);
        call.dims[5] = call.dims[2] * call.dims[4] + random_int(state, 0, 20);
        break;
    case SF_CALL_ROPE_FWD:
    case SF_CALL_ROPE_BWD:
        call.dims[1] = random_int(state, 1, 11);
        call.dims[2] = round ? 16 * random_int(state, 1, 5) : 2 * random_int(state, 1, 40);
        call.dims[4] = call.dims[1] * call.dims[2] + (round ? 8 : 1) * random_int(state, 0, 3);
        break;
    case SF_CALL_GLU_FWD:
    case SF_CALL_GLU_BWD:
        call.flags |= random_int(state, 0, 1) ? SF_CALL_PLAIN_FLAG : 0;
        break;
    case SF_CALL_XENT:
        call.flags |= random_int(state, 0, 1) ? SF_CALL_ACC2_FLAG : 0;
        break;
    case SF_CALL_XENT_PART:
        call.flags |= random_int(state, 0, 1) ? SF_CALL_ACC2_FLAG : 0;
        call.dims[2] = random_int(state, 1, 8);
        break;
    case SF_CALL_ADAMW:
        call.flags |= dtype == SF_BF16 && random_int(state, 0, 1) ? SF_CALL_LEAN_FLAG : 0;
        break;
    case SF_CALL_EMBED_FWD:
        call.flags |= random_int(state, 0, 1) ? SF_CALL_PART_FLAG : 0;
        break;
    case SF_CALL_EMBED_BWD:
        call.flags |= random_int(state, 0, 1) ? SF_CALL_PART_FLAG : 0;
        call.dims[0] = random_int(state, 1, 300);
        call.dims[2] = random_int(state, 1, 20);
        break;
    default:
        break;
    }
    return call;
}

static void test_against_reference(void **unused) {
    (void)unused;
    uint64_t state = 21;
    for (uint8_t kind = 0; kind < SF_CALL_KINDS; kind++) {
        for (uint8_t dtype = SF_F32; dtype <= SF_BF16 && sfi_kern_reference.kern[kind]; dtype++) {
            for (int s = 0; s < SHAPES; s++) {
                const struct sf_call call = cuda_call(kind, dtype, &state);
                if (kind != SF_CALL_GEMM) {
                    check_call(&call, (size_t)(s % 3 == 2 ? SHIFTED : 0), &state);
                } else if (sf_kern_cuda_find(&call, 90)) { /* the emulation has no cuBLASLt */
                    check_call(&call, 0, &state);
                }
            }
        }
    }
}

/* Shapes that reach what small ones do not: several words per thread, several tiles, passes, windows. */
static void test_chosen_shapes(void **unused) {
    (void)unused;
    uint64_t state = 22;
    const struct sf_call calls[] = {
        {.kind = SF_CALL_RMSNORM_FWD, .imm = {1e-5f}, .dims = {5, 4096}},
        {.kind = SF_CALL_RMSNORM_BWD, .flags = SF_CALL_ACC_FLAG, .dims = {9, 4096}},
        {.kind = SF_CALL_RMSNORM_BWD, .flags = SF_CALL_ACC2_FLAG, .dims = {1500, 8}},
        {.kind = SF_CALL_LAYERNORM_BWD, .flags = SF_CALL_ACC2_FLAG, .dims = {40, 768}},
        {.kind = SF_CALL_LAYERNORM_ADD_FWD, .imm = {1e-5f}, .dims = {2, 8192}},
        {.kind = SF_CALL_LAYERNORM_BWD, .dims = {3, 8191}},
        {.kind = SF_CALL_ROPE_FWD, .imm = {500000}, .dims = {300, 9, 128, 257, 9 * 128}},
        {.kind = SF_CALL_ATTN_FWD, .imm = {0, 1}, .dims = {1, 100, 4, 2, 128, 512}},
        {.kind = SF_CALL_ATTN_BWD, .imm = {0, 1}, .dims = {1, 70, 2, 1, 96, 192}},
        {.kind = SF_CALL_ATTN_BWD, .imm = {0, 1}, .dims = {1, 33, 2, 1, 256, 512}},
        {.kind = SF_CALL_ATTN_SLICE_FWD, .imm = {0, 1}, .dims = {101, 37, 4, 2, 96}},
        {.kind = SF_CALL_ATTN_SLICE_BWD, .flags = SF_CALL_ACC_FLAG, .imm = {0, 1}, .dims = {71, 30, 2, 1, 128}},
        {.kind = SF_CALL_XENT, .imm = {0.125f}, .dims = {7, 50257}},
        {.kind = SF_CALL_XENT, .imm = {1}, .dims = {2, 120001}},
        {.kind = SF_CALL_XENT_PADDED, .imm = {0.125f}, .dims = {7, 50304, 47}},
        {.kind = SF_CALL_XENT_STATS, .dims = {7, 50257}},
        {.kind = SF_CALL_XENT_PART, .imm = {0.125f}, .dims = {13, 16033, 4}},
        {.kind = SF_CALL_EMBED_BWD, .dims = {700, 24, 100000}},
        {.kind = SF_CALL_EMBED_BWD, .flags = SF_CALL_PART_FLAG, .dims = {1500, 24, 700}},
        {.kind = SF_CALL_EMBED_BWD, .dims = {400, 1032, 2}},
        {.kind = SF_CALL_EMBED_BWD, .dims = {257, 8, 512}},
        {.kind = SF_CALL_BIAS_BWD, .dims = {700, 264}},
        {.kind = SF_CALL_SUMSQ, .dims = {20011}},
    };
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        for (uint8_t dtype = SF_F32; dtype <= SF_BF16; dtype++) {
            struct sf_call call = calls[i];
            call.dtype = dtype;
            check_call(&call, 0, &state);
        }
    }
}

/* ---- what the references do not show ----------------------------------------------------------------------------- */

/* A row with an unknown id is left out and the first such row is named. */
static void check_fault(uint8_t kind, int operand, int32_t id) {
    const struct sf_call call = {.kind = kind, .imm = {1}, .dims = {40, 8, 8}};
    struct operands ops = operands_create(&call, 0);
    uint64_t state = 23;
    operands_fill(&call, &ops, &state);
    ((int32_t *)ops.at[operand])[17] = id;
    struct device d = device_create(&call, &ops, 0);
    assert_int_equal(run(&call, &d, 3), 0);
    assert_int_equal(d.fault.kind, 1 + kind);
    assert_int_equal(d.fault.row, 17);
    assert_int_equal(d.fault.id, id);
    assert_int_equal(d.fault.vocab, 8);
    check_device_guards(&d, 0);
    operands_destroy(&ops);
    device_destroy(&d);
}

static void test_unknown_ids(void **unused) {
    (void)unused;
    const int32_t bad[] = {-1, 8, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        check_fault(SF_CALL_EMBED_FWD, 0, bad[i]);
        check_fault(SF_CALL_EMBED_BWD, 0, bad[i]);
        check_fault(SF_CALL_XENT, 1, bad[i]);
    }
}

#endif
