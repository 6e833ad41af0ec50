/* Finding the kernel for a call. */
#include "kernels/kern.h"

#include <string.h>

#include "kernels/table.h"

const struct sfi_kern_table *sfi_kern_fast(size_t index) {
    const struct sfi_kern_table *usable[4] = {NULL};
    size_t n = 0;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw")) {
        usable[n++] = &sfi_kern_avx512;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        usable[n++] = &sfi_kern_avx2;
    }
#endif
    usable[n++] = &sfi_kern_base;
    return index < n ? usable[index] : NULL;
}

static bool dims_ok(const struct sf_call *call) {
    bool attention = call->kind == SF_CALL_ATTN_FWD || call->kind == SF_CALL_ATTN_BWD;
    return sf_call_dims_ok(call) && (!attention || call->imm[1] >= 1.0f); /* a part of the keys: no kernel yet */
}

static unsigned flags_of(uint8_t kind) {
    switch (kind) {
    case SF_CALL_GEMM:
        return SF_CALL_TA_FLAG | SF_CALL_TB_FLAG | SF_CALL_ACC_FLAG;
    case SF_CALL_RMSNORM_BWD:
    case SF_CALL_LAYERNORM_BWD:
        return SF_CALL_ACC_FLAG | SF_CALL_ACC2_FLAG;
    case SF_CALL_EMBED_FWD:
        return SF_CALL_PART_FLAG;
    case SF_CALL_EMBED_BWD:
        return SF_CALL_ACC_FLAG | SF_CALL_PART_FLAG;
    case SF_CALL_BIAS_BWD:
    case SF_CALL_SUMSQ:
    case SF_CALL_ATTN_SLICE_BWD:
        return SF_CALL_ACC_FLAG;
    case SF_CALL_XENT:
    case SF_CALL_XENT_PART:
    case SF_CALL_XENT_PADDED:
        return SF_CALL_ACC2_FLAG;
    case SF_CALL_GLU_FWD:
    case SF_CALL_GLU_BWD:
        return SF_CALL_GELU_FLAG | SF_CALL_PLAIN_FLAG;
    default:
        return 0;
    }
}

/* What the fast kernels were not written for. */
static bool is_rare(const struct sf_call *call) {
    switch (call->kind) {
    case SF_CALL_ATTN_FWD:
    case SF_CALL_ATTN_BWD:
        return call->dims[4] > SFI_ATTN_HEAD_DIM_MAX;
    case SF_CALL_ATTN_SLICE_FWD: /* earlier keys in whole vectors of the widest kind */
    case SF_CALL_ATTN_SLICE_BWD:
        return call->dims[4] > SFI_ATTN_HEAD_DIM_MAX || (call->dims[0] - call->dims[1]) % 16 != 0;
    case SF_CALL_GLU_FWD:
    case SF_CALL_GLU_BWD:
        return (call->flags & SF_CALL_PLAIN_FLAG) != 0;
    default:
        return false;
    }
}

sf_kern sf_kern_find(enum sf_kern_set set, const struct sf_call *call) {
    if (call->kind >= SF_CALL_KINDS || call->dtype != SF_F32 || !dims_ok(call) ||
        (call->flags & ~(flags_of(call->kind) | SF_CALL_RECOMPUTE_FLAG)) != 0) {
        return NULL;
    }
    bool plain = set == SF_KERN_REFERENCE || is_rare(call);
    const struct sfi_kern_table *table = plain ? &sfi_kern_reference : sfi_kern_fast(0);
    if (call->flags & SF_CALL_PART_FLAG) {
        return call->kind == SF_CALL_EMBED_FWD ? table->embed_part_fwd : table->embed_part_bwd;
    }
    return table->kern[call->kind];
}

/* oneDNN generates code the first time a variant is used; that belongs to no timed call. */
void sf_kern_setup(void) {
    static const float a[32 * 32], b[32 * 32];
    float c[32 * 32];
    const void *operand[SF_CALL_OPERANDS] = {a, b, c};
    for (unsigned flags = 0; flags < 8; flags++) {
        memset(c, 0, sizeof(c));
        const struct sf_call call = {.kind = SF_CALL_GEMM, .flags = (uint16_t)flags, .dims = {32, 32, 32, 1}};
        (void)sfi_fast_gemm(&call, (void *const *)operand, NULL);
    }
}

void sf_kern_tree_sum(float *y, const float *const src[], size_t n, size_t count) {
    sfi_kern_fast(0)->tree_sum(y, src, n, count);
}

size_t sf_kern_attn_bwd_work(const struct sf_call *call) {
    /* dk and dv of one key head, rows and columns rounded up to the widest vector. */
    size_t keys = (size_t)call->dims[call->kind == SF_CALL_ATTN_SLICE_BWD ? 0 : 1];
    size_t seq = (keys + 15) / 16 * 16, width = ((size_t)call->dims[4] + 15) / 16 * 16;
    return 2 * seq * width * sizeof(float);
}

int sfi_check_ids(const char *what, const int32_t *ids, size_t rows, int64_t vocab, struct sf_err *err) {
    for (size_t r = 0; r < rows; r++) {
        if (ids[r] < 0 || ids[r] >= vocab) {
            return sf_fail(err, SF_E_INPUT, "%s %d in row %zu is outside the vocabulary, expected 0 to %lld", what,
                           (int)ids[r], r, (long long)vocab - 1);
        }
    }
    return 0;
}
