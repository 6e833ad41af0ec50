#include "core/call.h"

#include <string.h>

#include "core/collective.h"

struct kind_text {
    const char *name, *dims, *operands;
};

static const struct kind_text kinds[SF_CALL_KINDS] = {
#define X(NAME, name, dims, operands) [SF_CALL_##NAME] = {name, dims, operands},
    SF_CALLS(X)
#undef X
};

static const struct {
    const char *name;
    int bytes;
} dtypes[SF_DTYPES_N] = {
#define X(NAME, name, bytes) [SF_##NAME] = {name, bytes},
    SF_DTYPES(X)
#undef X
};

#define BIT(operand) (1u << (operand))
static const uint16_t writes[SF_CALL_KINDS] = {
    [SF_CALL_GEMM] = BIT(2),
    [SF_CALL_RMSNORM_FWD] = BIT(2) | BIT(3),
    [SF_CALL_RMSNORM_BWD] = BIT(4) | BIT(5),
    [SF_CALL_ROPE_FWD] = BIT(0),
    [SF_CALL_ROPE_BWD] = BIT(0),
    [SF_CALL_ATTN_FWD] = BIT(3) | BIT(4),
    [SF_CALL_ATTN_BWD] = BIT(6) | BIT(7) | BIT(8) | BIT(9),
    [SF_CALL_GLU_FWD] = BIT(1),
    [SF_CALL_GLU_BWD] = BIT(2),
    [SF_CALL_ADD] = BIT(2),
    [SF_CALL_COPY] = BIT(1),
    [SF_CALL_ZERO] = BIT(0),
    [SF_CALL_EMBED_FWD] = BIT(2),
    [SF_CALL_EMBED_BWD] = BIT(2),
    [SF_CALL_XENT] = BIT(0) | BIT(2),
    [SF_CALL_ADAMW] = BIT(0) | BIT(2) | BIT(3) | BIT(5),
    [SF_CALL_MOE_ROUTE_FWD] = BIT(1) | BIT(2),
    [SF_CALL_MOE_ROUTE_BWD] = BIT(3),
    [SF_CALL_MOE_PERMUTE] = BIT(2),
    [SF_CALL_MOE_UNPERMUTE] = BIT(3),
    [SF_CALL_ALL_REDUCE] = BIT(1),
    [SF_CALL_ALL_GATHER] = BIT(1),
    [SF_CALL_REDUCE_SCATTER] = BIT(1),
    [SF_CALL_ALL_TO_ALL] = BIT(1),
    [SF_CALL_LAYERNORM_FWD] = BIT(3) | BIT(4) | BIT(5),
    [SF_CALL_LAYERNORM_BWD] = BIT(5) | BIT(6) | BIT(7),
    [SF_CALL_RMSNORM_ADD_FWD] = BIT(3) | BIT(4) | BIT(5),
    [SF_CALL_LAYERNORM_ADD_FWD] = BIT(4) | BIT(5) | BIT(6) | BIT(7),
    [SF_CALL_BIAS_FWD] = BIT(3),
    [SF_CALL_BIAS_BWD] = BIT(1),
    [SF_CALL_SUMSQ] = BIT(1),
    [SF_CALL_CLIP] = BIT(1) | BIT(2),
    [SF_CALL_CAST_DOWN] = BIT(1),
    [SF_CALL_CAST_UP] = BIT(1),
    [SF_CALL_XENT_STATS] = BIT(2),
    [SF_CALL_XENT_PART] = BIT(0) | BIT(3),
    [SF_CALL_XENT_PADDED] = BIT(0) | BIT(2),
    [SF_CALL_ATTN_SLICE_FWD] = BIT(1) | BIT(2) | BIT(3),
    [SF_CALL_ATTN_SLICE_BWD] = BIT(5) | BIT(6) | BIT(7),
};

static bool is_kind(int kind) {
    return kind >= 0 && kind < SF_CALL_KINDS;
}

static bool is_dtype(int dtype) {
    return dtype >= 0 && dtype < SF_DTYPES_N;
}

const char *sf_call_name(int kind) {
    return is_kind(kind) ? kinds[kind].name : "?";
}

int sf_call_parse(const char *name) {
    for (int i = 0; i < SF_CALL_KINDS; i++) {
        if (strcmp(kinds[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

uint32_t sf_call_writes(int kind) {
    return is_kind(kind) ? writes[kind] : 0;
}

static int words(const char *text) {
    int n = 0;
    for (const char *c = text; *c != '\0'; c++) {
        n += *c != ' ' && (c == text || c[-1] == ' ');
    }
    return n;
}

int sf_call_dims_n(int kind) {
    return is_kind(kind) ? words(kinds[kind].dims) : 0;
}

int sf_call_operands_n(int kind) {
    return is_kind(kind) ? words(kinds[kind].operands) : 0;
}

int sf_call_collective(int kind) {
    switch (kind) {
    case SF_CALL_ALL_REDUCE:
        return SF_COLL_ALL_REDUCE;
    case SF_CALL_ALL_GATHER:
        return SF_COLL_ALL_GATHER;
    case SF_CALL_REDUCE_SCATTER:
        return SF_COLL_REDUCE_SCATTER;
    case SF_CALL_ALL_TO_ALL:
        return SF_COLL_ALL_TO_ALL;
    default:
        return -1;
    }
}

bool sf_call_is_collective(int kind) {
    return sf_call_collective(kind) >= 0;
}

bool sf_call_is_attention_fwd(int kind) {
    return kind == SF_CALL_ATTN_FWD || kind == SF_CALL_ATTN_SLICE_FWD;
}

bool sf_call_is_attention(int kind) {
    return sf_call_is_attention_fwd(kind) || kind == SF_CALL_ATTN_BWD || kind == SF_CALL_ATTN_SLICE_BWD;
}

const char *sf_dtype_name(int dtype) {
    return is_dtype(dtype) ? dtypes[dtype].name : "?";
}

int sf_dtype_parse(const char *name) {
    for (int i = 0; i < SF_DTYPES_N; i++) {
        if (strcmp(dtypes[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

int sf_dtype_bytes(int dtype) {
    return is_dtype(dtype) ? dtypes[dtype].bytes : 0;
}

bool sf_call_dims_ok(const struct sf_call *call) {
    const int64_t *d = call->dims;
    for (int i = 0; i < SF_CALL_DIMS; i++) {
        if (d[i] < 0) {
            return false;
        }
    }
    switch (call->kind) {
    case SF_CALL_GEMM:
        return d[3] > 0;
    case SF_CALL_ROPE_FWD:
    case SF_CALL_ROPE_BWD:
        return d[2] % 2 == 0 && d[3] > 0 && (d[2] == 0 || d[1] <= d[4] / d[2]);
    case SF_CALL_ATTN_FWD:
    case SF_CALL_ATTN_BWD:
        return d[3] > 0 && d[2] % d[3] == 0 && d[4] > 0 && d[5] >= d[4];
    case SF_CALL_ATTN_SLICE_FWD:
    case SF_CALL_ATTN_SLICE_BWD:
        return d[1] <= d[0] && d[3] > 0 && d[2] % d[3] == 0 && d[4] > 0;
    case SF_CALL_RMSNORM_FWD:
    case SF_CALL_RMSNORM_BWD:
    case SF_CALL_LAYERNORM_FWD:
    case SF_CALL_LAYERNORM_BWD:
    case SF_CALL_RMSNORM_ADD_FWD:
    case SF_CALL_LAYERNORM_ADD_FWD:
        return d[1] > 0;
    case SF_CALL_XENT_PART:
        return d[2] > 0;
    case SF_CALL_XENT_PADDED:
        return d[2] < d[1];
    default:
        return true;
    }
}
