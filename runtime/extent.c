#include "runtime/extent.h"

#include <string.h>

#include "kernels/kern.h"

static uint64_t mul(uint64_t a, uint64_t b) {
    uint64_t p;
    return __builtin_mul_overflow(a, b, &p) ? UINT64_MAX : p;
}

static uint64_t add(uint64_t a, uint64_t b) {
    uint64_t s;
    return __builtin_add_overflow(a, b, &s) ? UINT64_MAX : s;
}

/* Bytes of `rows` rows of `cols` elements that lie `stride` elements apart. */
static uint64_t strided(uint64_t rows, uint64_t cols, uint64_t stride, uint64_t element) {
    return mul(add(mul(rows - 1, stride), cols), element);
}

static void set(uint64_t bytes[SF_CALL_OPERANDS], uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
    bytes[0] = a;
    bytes[1] = b;
    bytes[2] = c;
    bytes[3] = d;
}

static void attention(const struct sf_call *call, const uint64_t *d, uint64_t e, uint64_t *bytes) {
    uint64_t rows = mul(d[0], d[1]);
    uint64_t q = strided(rows, mul(d[2], d[4]), d[5], e);
    uint64_t kv = strided(rows, mul(d[3], d[4]), d[5], e);
    uint64_t o = mul(rows, mul(mul(d[2], d[4]), e));
    set(bytes, q, kv, kv, o);
    bytes[4] = mul(rows, mul(d[2], sizeof(float)));
    if (call->kind == SF_CALL_ATTN_BWD) {
        bytes[5] = o;
        bytes[6] = q;
        bytes[7] = bytes[8] = kv;
        bytes[9] = sf_kern_attn_bwd_work(call);
    }
}

/* What later slices collected is read with ACC, the own rows too; without it, only earlier ones are written. */
static void attention_slice(const struct sf_call *call, const uint64_t *d, uint64_t e, uint64_t *bytes) {
    uint64_t kv = mul(mul(2, d[3]), d[4]), row = add(mul(d[2], d[4]), kv);
    uint64_t o = mul(mul(mul(d[1], d[2]), d[4]), e), qkv = mul(mul(d[1], row), e);
    set(bytes, qkv, mul(mul(d[0], kv), e), o, mul(mul(d[1], d[2]), sizeof(float)));
    if (call->kind == SF_CALL_ATTN_SLICE_BWD) {
        uint64_t summed = call->flags & SF_CALL_ACC_FLAG ? d[0] : d[0] - d[1];
        bytes[4] = o;
        bytes[5] = qkv;
        bytes[6] = mul(mul(summed, kv), sizeof(float));
        bytes[7] = sf_kern_attn_bwd_work(call);
    }
}

/* Kinds whose operands are whole matrices of rows x cols. */
static void rowwise(const struct sf_call *call, const uint64_t *d, uint64_t e, uint64_t *bytes) {
    uint64_t matrix = mul(mul(d[0], d[1]), e), column = mul(d[0], sizeof(float)), table = mul(mul(d[2], d[1]), e);
    uint64_t halves = call->flags & SF_CALL_PLAIN_FLAG ? 1 : 2;
    switch (call->kind) {
    case SF_CALL_RMSNORM_FWD:
        set(bytes, matrix, mul(d[1], e), matrix, column);
        break;
    case SF_CALL_RMSNORM_BWD:
        set(bytes, matrix, matrix, mul(d[1], e), column);
        bytes[4] = matrix;
        bytes[5] = mul(d[1], e);
        break;
    case SF_CALL_GLU_FWD:
        set(bytes, mul(matrix, halves), matrix, 0, 0);
        break;
    case SF_CALL_GLU_BWD:
        set(bytes, matrix, mul(matrix, halves), mul(matrix, halves), 0);
        break;
    case SF_CALL_EMBED_FWD:
        set(bytes, column, table, matrix, 0);
        break;
    case SF_CALL_EMBED_BWD:
        set(bytes, column, matrix, table, 0);
        break;
    case SF_CALL_XENT:
    case SF_CALL_XENT_PADDED:
        set(bytes, matrix, column, sizeof(float), 0);
        break;
    case SF_CALL_XENT_STATS:
        set(bytes, matrix, column, mul(column, 2), 0);
        break;
    case SF_CALL_XENT_PART:
        set(bytes, matrix, column, mul(mul(column, 2), d[2]), sizeof(float));
        break;
    default:
        break;
    }
}

/* Norms beyond RMSNORM_FWD and _BWD, and biases. */
static void normwise(int kind, const uint64_t *d, uint64_t e, uint64_t *bytes) {
    uint64_t m = mul(mul(d[0], d[1]), e), w = mul(d[1], e), column = mul(d[0], sizeof(float));
    const uint64_t of[][SF_CALL_OPERANDS] = {
        [SF_CALL_LAYERNORM_FWD - SF_CALL_LAYERNORM_FWD] = {m, w, w, m, column, column},
        [SF_CALL_LAYERNORM_BWD - SF_CALL_LAYERNORM_FWD] = {m, m, w, column, column, m, w, w},
        [SF_CALL_RMSNORM_ADD_FWD - SF_CALL_LAYERNORM_FWD] = {m, m, w, m, m, column},
        [SF_CALL_LAYERNORM_ADD_FWD - SF_CALL_LAYERNORM_FWD] = {m, m, w, w, m, m, column, column},
        [SF_CALL_BIAS_FWD - SF_CALL_LAYERNORM_FWD] = {m, w, m, m},
        [SF_CALL_BIAS_BWD - SF_CALL_LAYERNORM_FWD] = {m, w},
    };
    memcpy(bytes, of[kind - SF_CALL_LAYERNORM_FWD], sizeof of[0]);
}

static void adamw(const struct sf_call *call, const uint64_t *d, uint64_t e, uint64_t *bytes) {
    uint64_t n = mul(d[0], e), n_f32 = mul(d[0], sizeof(float)), moment = call->flags & SF_CALL_LEAN_FLAG ? n : n_f32;
    set(bytes, n, n, moment, moment);
    bytes[4] = 8 * sizeof(float);
    bytes[5] = n_f32;
}

static void elementwise(const uint64_t *d, uint64_t e, uint64_t *bytes) {
    uint64_t n = mul(d[0], e);
    set(bytes, n, n, n, 0); /* of COPY and ZERO the first ones */
}

static void fill(const struct sf_call *call, const uint64_t *d, uint64_t e, uint64_t *bytes) {
    switch (call->kind) {
    case SF_CALL_GEMM:
        set(bytes, mul(mul(mul(d[0], d[2]), d[3]), e), mul(mul(mul(d[2], d[1]), d[3]), e),
            mul(mul(mul(d[0], d[1]), d[3]), e), 0);
        break;
    case SF_CALL_ROPE_FWD:
    case SF_CALL_ROPE_BWD:
        bytes[0] = strided(d[0], mul(d[1], d[2]), d[4], e);
        break;
    case SF_CALL_ATTN_FWD:
    case SF_CALL_ATTN_BWD:
        attention(call, d, e, bytes);
        break;
    case SF_CALL_ATTN_SLICE_FWD:
    case SF_CALL_ATTN_SLICE_BWD:
        attention_slice(call, d, e, bytes);
        break;
    case SF_CALL_ADD:
    case SF_CALL_COPY:
    case SF_CALL_ZERO:
        elementwise(d, e, bytes);
        break;
    case SF_CALL_ADAMW:
        adamw(call, d, e, bytes);
        break;
    case SF_CALL_SUMSQ:
        set(bytes, mul(d[0], e), sizeof(float), 0, 0);
        break;
    case SF_CALL_CLIP:
        set(bytes, mul(d[0], sizeof(float)), sizeof(float), 8 * sizeof(float), 0);
        break;
    case SF_CALL_CAST_DOWN:
        set(bytes, mul(d[0], sizeof(float)), mul(d[0], e), 0, 0);
        break;
    case SF_CALL_CAST_UP:
        set(bytes, mul(d[0], e), mul(d[0], sizeof(float)), 0, 0);
        break;
    case SF_CALL_LAYERNORM_FWD:
    case SF_CALL_LAYERNORM_BWD:
    case SF_CALL_RMSNORM_ADD_FWD:
    case SF_CALL_LAYERNORM_ADD_FWD:
    case SF_CALL_BIAS_FWD:
    case SF_CALL_BIAS_BWD:
        normwise(call->kind, d, e, bytes);
        break;
    default:
        rowwise(call, d, e, bytes);
        break;
    }
}

static int check_attention(const struct sf_call *c, struct sf_err *err) {
    bool slice = c->kind == SF_CALL_ATTN_SLICE_FWD || c->kind == SF_CALL_ATTN_SLICE_BWD;
    if (slice && c->dims[1] > c->dims[0]) {
        return sf_fail(err, SF_E_INPUT, "%s: a slice of %lld rows has only %lld keys", sf_call_name(c->kind),
                       (long long)c->dims[1], (long long)c->dims[0]);
    }
    if (c->dims[2] % c->dims[3] != 0) {
        return sf_fail(err, SF_E_INPUT, "%s: %lld heads cannot share %lld key heads evenly", sf_call_name(c->kind),
                       (long long)c->dims[2], (long long)c->dims[3]);
    }
    return SF_OK;
}

int sfi_call_extents(const struct sf_call *call, uint64_t bytes[SF_CALL_OPERANDS], struct sf_err *err) {
    uint64_t dims[SF_CALL_DIMS] = {0};
    bool rotates = call->kind == SF_CALL_ROPE_FWD || call->kind == SF_CALL_ROPE_BWD;
    for (int d = 0; d < sf_call_dims_n(call->kind); d++) {
        bool from_start = rotates && d == 5 && call->dims[d] == 0;
        if (call->dims[d] < 1 && !from_start) {
            return sf_fail(err, SF_E_INPUT, "%s: dimension %d is %lld: expected at least 1", sf_call_name(call->kind),
                           d, (long long)call->dims[d]);
        }
        dims[d] = (uint64_t)call->dims[d];
    }
    memset(bytes, 0, SF_CALL_OPERANDS * sizeof *bytes);
    if (sf_call_is_attention(call->kind)) {
        SF_TRY(check_attention(call, err));
    }
    fill(call, dims, (uint64_t)sf_dtype_bytes(call->dtype), bytes);
    return SF_OK;
}
