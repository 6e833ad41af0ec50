#include "core/call.h"

#include <string.h>

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

bool sf_call_is_collective(int kind) {
    return kind == SF_CALL_ALL_REDUCE || kind == SF_CALL_ALL_GATHER || kind == SF_CALL_REDUCE_SCATTER ||
           kind == SF_CALL_ALL_TO_ALL;
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
