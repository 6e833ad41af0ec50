/* Random calls and their operands for the kernel tests. */
#ifndef SF_TEST_KERNELS_UTIL_H
#define SF_TEST_KERNELS_UTIL_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/table.h"

enum { GUARD = 16 }; /* elements after each operand that nobody may touch */

struct operands {
    void *at[SF_CALL_OPERANDS];     /* what a kernel gets */
    void *base[SF_CALL_OPERANDS];   /* what to free */
    size_t count[SF_CALL_OPERANDS]; /* 32-bit elements */
};

static inline uint64_t next_random(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* In [low, high]. */
static inline int64_t random_int(uint64_t *state, int64_t low, int64_t high) {
    return low + (int64_t)(next_random(state) % (uint64_t)(high - low + 1));
}

/* In [-1, 1). */
static inline float random_float(uint64_t *state) {
    return (float)((double)(next_random(state) >> 40) * 0x1p-23 - 1.0);
}

static inline void attn_counts(const struct sf_call *call, size_t n[SF_CALL_OPERANDS]) {
    size_t rows = (size_t)(call->dims[0] * call->dims[1]), o = rows * (size_t)(call->dims[2] * call->dims[4]);
    for (int i = 0; i < 3; i++) {
        n[i] = rows * (size_t)call->dims[5];
    }
    n[3] = o;
    n[4] = rows * (size_t)call->dims[2];
    if (call->kind == SF_CALL_ATTN_BWD) {
        n[5] = o;
        n[6] = n[7] = n[8] = n[0];
        n[9] = sf_kern_attn_bwd_work(call) / sizeof(float);
    }
}

static inline void slice_counts(const struct sf_call *call, size_t n[SF_CALL_OPERANDS]) {
    size_t keys = (size_t)call->dims[0], rows = (size_t)call->dims[1], heads = (size_t)call->dims[2];
    size_t kv_heads = (size_t)call->dims[3], dim = (size_t)call->dims[4];
    n[0] = n[5] = rows * (heads + 2 * kv_heads) * dim;
    n[1] = n[6] = keys * 2 * kv_heads * dim;
    n[2] = n[4] = rows * heads * dim;
    n[3] = rows * heads;
    n[7] = sf_kern_attn_bwd_work(call) / sizeof(float);
    for (int i = 4; i < 8 && call->kind == SF_CALL_ATTN_SLICE_FWD; i++) {
        n[i] = 0;
    }
}

/* 32-bit elements of every operand. */
static inline void operand_counts(const struct sf_call *call, size_t n[SF_CALL_OPERANDS]) {
    size_t d[4];
    for (int i = 0; i < 4; i++) {
        d[i] = (size_t)call->dims[i];
    }
    memset(n, 0, SF_CALL_OPERANDS * sizeof(*n));
    size_t all = d[0] * d[1], halves = call->flags & SF_CALL_PLAIN_FLAG ? 1 : 2;
#define COUNTS(...) memcpy(n, (size_t[]){__VA_ARGS__}, sizeof((size_t[]){__VA_ARGS__}))
    switch (call->kind) {
    case SF_CALL_GEMM:
        COUNTS(d[0] * d[2] * d[3], d[2] * d[1] * d[3], all * d[3]);
        break;
    case SF_CALL_RMSNORM_FWD:
        COUNTS(all, d[1], all, d[0]);
        break;
    case SF_CALL_RMSNORM_BWD:
        COUNTS(all, all, d[1], d[0], all, d[1]);
        break;
    case SF_CALL_ROPE_FWD:
    case SF_CALL_ROPE_BWD:
        n[0] = d[0] * (size_t)call->dims[4];
        break;
    case SF_CALL_ATTN_FWD:
    case SF_CALL_ATTN_BWD:
        attn_counts(call, n);
        break;
    case SF_CALL_ATTN_SLICE_FWD:
    case SF_CALL_ATTN_SLICE_BWD:
        slice_counts(call, n);
        break;
    case SF_CALL_GLU_FWD:
        COUNTS(halves * all, all);
        break;
    case SF_CALL_GLU_BWD:
        COUNTS(all, halves * all, halves * all);
        break;
    case SF_CALL_LAYERNORM_FWD:
        COUNTS(all, d[1], d[1], all, d[0], d[0]);
        break;
    case SF_CALL_LAYERNORM_BWD:
        COUNTS(all, all, d[1], d[0], d[0], all, d[1], d[1]);
        break;
    case SF_CALL_RMSNORM_ADD_FWD:
        COUNTS(all, all, d[1], all, all, d[0]);
        break;
    case SF_CALL_LAYERNORM_ADD_FWD:
        COUNTS(all, all, d[1], d[1], all, all, d[0], d[0]);
        break;
    case SF_CALL_BIAS_FWD:
        COUNTS(all, d[1], all, all);
        break;
    case SF_CALL_BIAS_BWD:
        COUNTS(all, d[1]);
        break;
    case SF_CALL_SUMSQ:
        COUNTS(d[0], 1);
        break;
    case SF_CALL_CLIP:
        COUNTS(d[0], 1, 8);
        break;
    case SF_CALL_CAST_DOWN:
    case SF_CALL_CAST_UP:
        COUNTS(d[0], d[0]);
        break;
    case SF_CALL_EMBED_FWD:
        COUNTS(d[0], d[2] * d[1], all);
        break;
    case SF_CALL_EMBED_BWD:
        COUNTS(d[0], all, d[2] * d[1]);
        break;
    case SF_CALL_XENT:
    case SF_CALL_XENT_PADDED:
        COUNTS(all, d[0], 1);
        break;
    case SF_CALL_XENT_STATS:
        COUNTS(all, d[0], 2 * d[0]);
        break;
    case SF_CALL_XENT_PART:
        COUNTS(all, d[0], 2 * d[0] * d[2], 1);
        break;
    case SF_CALL_ADAMW:
        COUNTS(d[0], d[0], d[0], d[0], 8);
        break;
    default: /* add, copy, zero */
        COUNTS(d[0], d[0], d[0]);
        break;
    }
#undef COUNTS
}

/* `shift` elements beyond 64-byte alignment. */
static inline struct operands operands_create(const struct sf_call *call, size_t shift) {
    struct operands ops = {{NULL}, {NULL}, {0}};
    operand_counts(call, ops.count);
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        if (ops.count[i] == 0) {
            continue;
        }
        size_t bytes = (ops.count[i] + shift + GUARD) * sizeof(float);
        ops.base[i] = aligned_alloc(64, (bytes + 63) / 64 * 64);
        assert_non_null(ops.base[i]);
        memset(ops.base[i], 0x5a, (bytes + 63) / 64 * 64);
        ops.at[i] = (float *)ops.base[i] + shift;
    }
    return ops;
}

static inline void operands_destroy(struct operands *ops) {
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        free(ops->base[i]);
    }
}

static inline void operands_copy(const struct operands *from, struct operands *to) {
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        if (from->count[i] > 0) {
            memcpy(to->at[i], from->at[i], from->count[i] * sizeof(float));
        }
    }
}

static inline void fill_ids(int32_t *ids, size_t n, int64_t low, int64_t high, uint64_t *state) {
    for (size_t i = 0; i < n; i++) {
        ids[i] = (int32_t)random_int(state, low, high);
    }
}

/* Random values, made legal where a kind asks for it: ids, squares, statistics that belong to the inputs. */
static inline void operands_fill(const struct sf_call *call, struct operands *ops, uint64_t *state) {
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        for (size_t e = 0; e < ops->count[i]; e++) {
            ((float *)ops->at[i])[e] = 2 * random_float(state);
        }
    }
    if (call->kind == SF_CALL_EMBED_FWD || call->kind == SF_CALL_EMBED_BWD) {
        bool part = (call->flags & SF_CALL_PART_FLAG) != 0;
        fill_ids(ops->at[0], ops->count[0], part ? -call->dims[2] : 0, call->dims[2] * (part ? 2 : 1) - 1, state);
    } else if (call->kind == SF_CALL_XENT) {
        fill_ids(ops->at[1], ops->count[1], 0, call->dims[1] - 1, state);
    } else if (call->kind == SF_CALL_XENT_PADDED) {
        fill_ids(ops->at[1], ops->count[1], 0, call->dims[1] - call->dims[2] - 1, state);
    } else if (call->kind == SF_CALL_XENT_STATS || call->kind == SF_CALL_XENT_PART) {
        fill_ids(ops->at[1], ops->count[1], -call->dims[1], 2 * call->dims[1], state);
    } else if (call->kind == SF_CALL_CLIP) {
        for (size_t e = 0; e < ops->count[0]; e++) {
            ((float *)ops->at[0])[e] = fabsf(((float *)ops->at[0])[e]);
        }
    } else if (call->kind == SF_CALL_ADAMW) {
        const float hyper[8] = {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.19f, 0.0975f, 0.5f};
        memcpy(ops->at[4], hyper, sizeof(hyper));
        for (size_t e = 0; e < ops->count[3]; e++) {
            float *v = (float *)ops->at[3] + e;
            *v = *v * *v;
        }
    } else if (call->kind == SF_CALL_ATTN_BWD) {
        struct sf_call forward = *call;
        forward.kind = SF_CALL_ATTN_FWD;
        assert_int_equal(sfi_kern_reference.kern[SF_CALL_ATTN_FWD](&forward, ops->at, NULL), 0);
    } else if (call->kind == SF_CALL_ATTN_SLICE_BWD) {
        struct sf_call forward = *call;
        forward.kind = SF_CALL_ATTN_SLICE_FWD;
        assert_int_equal(sfi_kern_reference.kern[SF_CALL_ATTN_SLICE_FWD](&forward, ops->at, NULL), 0);
    }
}

/* A call of this kind with small, often odd dims and random flags. */
static inline struct sf_call random_call(uint8_t kind, uint64_t *state) {
    struct sf_call call = {.kind = kind, .dtype = SF_F32, .comm = SF_NONE, .imm = {0.7f, 1}};
    int64_t *d = call.dims;
    for (int i = 0; i < 3; i++) {
        d[i] = random_int(state, 1, 70);
    }
    switch (kind) {
    case SF_CALL_GEMM:
        d[3] = random_int(state, 1, 3);
        call.flags = (uint16_t)random_int(state, 0, 7);
        break;
    case SF_CALL_RMSNORM_BWD:
    case SF_CALL_LAYERNORM_BWD:
        call.flags = (uint16_t)(4 * random_int(state, 0, 3));
        break;
    case SF_CALL_BIAS_BWD:
    case SF_CALL_SUMSQ:
        call.flags = random_int(state, 0, 1) ? SF_CALL_ACC_FLAG : 0;
        break;
    case SF_CALL_ROPE_FWD:
    case SF_CALL_ROPE_BWD:
        d[1] = random_int(state, 1, 4);
        d[2] = 2 * random_int(state, 1, 80);
        d[3] = random_int(state, 1, 50);
        d[4] = d[1] * d[2] + random_int(state, 0, 9);
        d[5] = random_int(state, 0, 200);
        call.imm[0] = 10000;
        break;
    case SF_CALL_ATTN_FWD:
    case SF_CALL_ATTN_BWD:
        d[0] = random_int(state, 1, 2);
        d[1] = random_int(state, 1, 150);
        d[3] = random_int(state, 1, 2);
        d[2] = d[3] * random_int(state, 1, 3);
        d[4] = random_int(state, 0, 1) ? random_int(state, 1, 40) : 16 * random_int(state, 1, 5);
        d[5] = d[2] * d[4] + random_int(state, 0, 20);
        break;
    case SF_CALL_ATTN_SLICE_FWD:
    case SF_CALL_ATTN_SLICE_BWD:
        d[1] = random_int(state, 1, 90);
        d[0] = d[1] + 16 * random_int(state, 0, 6); /* fast kernels take whole vectors of earlier keys */
        d[3] = random_int(state, 1, 2);
        d[2] = d[3] * random_int(state, 1, 3);
        d[4] = random_int(state, 1, 40);
        call.flags = kind == SF_CALL_ATTN_SLICE_BWD && random_int(state, 0, 1) ? SF_CALL_ACC_FLAG : 0;
        break;
    case SF_CALL_GLU_FWD:
    case SF_CALL_GLU_BWD:
        call.flags = random_int(state, 0, 1) ? SF_CALL_GELU_FLAG : 0;
        break;
    case SF_CALL_XENT:
        call.flags = random_int(state, 0, 1) ? SF_CALL_ACC2_FLAG : 0;
        break;
    case SF_CALL_XENT_PADDED:
        call.flags = random_int(state, 0, 1) ? SF_CALL_ACC2_FLAG : 0;
        d[1] += d[2] = random_int(state, 1, 70);
        break;
    default:
        break;
    }
    return call;
}

#endif
