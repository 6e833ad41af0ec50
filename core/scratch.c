#include "core/scratch.h"

#include <stdbool.h>

#define GEMM_BYTES (UINT64_C(32) << 20) /* what cuBLAS advises from Hopper on */
#define LINE UINT64_C(256)              /* to which every area is rounded up */
#define MOST_BYTES (UINT64_MAX / 2)
#define PARTIAL_ROWS 1024 /* of sums over rows that blocks leave for a second kernel */
#define SUMSQ_BLOCKS 1024
enum { SORT_BLOCK = 256, SORT_DIGITS = 512, EMBED_WINDOW = 32, PLACE_BYTES = 8 };
#define ATTENTION_GOAL_BYTES (UINT64_C(1) << 30) /* heads and sequences are taken in parts that stay below */
#define ATTENTION_TILE 128

static uint64_t add(uint64_t a, uint64_t b) {
    return a > MOST_BYTES - b ? MOST_BYTES : a + b;
}

static uint64_t multiply(uint64_t a, uint64_t b) {
    uint64_t out;
    return __builtin_mul_overflow(a, b, &out) || out > MOST_BYTES ? MOST_BYTES : out;
}

static uint64_t round_up(uint64_t n, uint64_t to) {
    return n >= MOST_BYTES - to ? MOST_BYTES : (n + to - 1) / to * to;
}

static uint64_t least(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static uint64_t dim(const struct sf_call *call, int d) {
    return call->dims[d] > 0 ? (uint64_t)call->dims[d] : 0;
}

static uint64_t partial_sums(uint64_t rows, uint64_t cols) {
    return multiply(multiply(rows > 0 ? rows : 1, cols), sizeof(float));
}

/* Rows are sorted by token; windows of them add up what blocks share. */
static uint64_t embed_bytes(const struct sf_call *call) {
    uint64_t rows = dim(call, 0) > 0 ? dim(call, 0) : 1, places = round_up(multiply(rows, PLACE_BYTES), LINE);
    uint64_t counts = round_up(multiply((rows - 1) / SORT_BLOCK + 1, SORT_DIGITS * sizeof(int32_t)), LINE);
    return add(add(multiply(2, places), counts),
               partial_sums(multiply(2, (rows - 1) / EMBED_WINDOW + 1), dim(call, 1)));
}

/* ---- attention -------------------------------------------------------------------------------------------------- */

/* Backward of `batch` sequences and `heads` heads at once: sums of dq, delta, and what cuDNN asks for. */
static uint64_t attention_part(const struct sf_call *call, uint64_t batch, uint64_t heads) {
    uint64_t seq = dim(call, 1), width = dim(call, 4), all = multiply(batch, heads);
    uint64_t rows = multiply(multiply(all, seq), sizeof(float));
    uint64_t columns = multiply(width, dim(call, 2) == dim(call, 3) ? 4 : 12);
    uint64_t engine = add(4 * LINE, multiply(multiply(all, round_up(seq, ATTENTION_TILE)), columns));
    return add(add(round_up(multiply(rows, width), LINE), round_up(rows, LINE)), round_up(engine, LINE));
}

/* The next smaller part of n in units of `unit`. */
static uint64_t smaller(uint64_t n, uint64_t part, uint64_t unit) {
    do {
        part -= unit;
    } while (part > unit && n % part != 0);
    return part;
}

static uint64_t attention_bytes(const struct sf_call *call) {
    if (call->kind == SF_CALL_ATTN_FWD) {
        return LINE;
    }
    uint64_t batch = dim(call, 0), heads = dim(call, 2), group = heads / dim(call, 3), all = heads;
    while (attention_part(call, batch, heads) > ATTENTION_GOAL_BYTES && batch > 1) {
        batch = smaller(dim(call, 0), batch, 1);
    }
    while (attention_part(call, batch, heads) > ATTENTION_GOAL_BYTES && heads > group) {
        heads = smaller(all, heads, group);
    }
    return attention_part(call, batch, heads);
}

/* Calls that the library has no plan for run on a kernel without a work area. */
static bool is_planned(const struct sf_call *call) {
    const int64_t *d = call->dims;
    bool some = call->imm[1] > 0.0f && call->imm[1] < 1.0f;
    return call->dtype == SF_BF16 && !some && (call->flags & ~(unsigned)SF_CALL_RECOMPUTE_FLAG) == 0 && d[0] > 0 &&
           d[0] <= 1 << 13 && d[1] > 0 && d[1] <= 1 << 19 && d[2] > 0 && d[2] <= 1 << 9 && d[3] > 0 &&
           d[2] % d[3] == 0 && d[4] > 0 && d[4] <= 256 && d[4] % 8 == 0;
}

/* ---- all --------------------------------------------------------------------------------------------------------- */

static uint64_t bytes_of(const struct sf_call *call) {
    switch (call->kind) {
    case SF_CALL_GEMM:
        return GEMM_BYTES;
    case SF_CALL_RMSNORM_BWD:
        return partial_sums(least(dim(call, 0), PARTIAL_ROWS), dim(call, 1));
    case SF_CALL_LAYERNORM_BWD:
        return partial_sums(2 * least(dim(call, 0), PARTIAL_ROWS), dim(call, 1));
    case SF_CALL_BIAS_BWD:
        return partial_sums(least(dim(call, 0) / 32 + 1, PARTIAL_ROWS / 4), dim(call, 1));
    case SF_CALL_ATTN_FWD:
    case SF_CALL_ATTN_BWD:
        return is_planned(call) ? attention_bytes(call) : 0;
    case SF_CALL_EMBED_BWD:
        return embed_bytes(call);
    case SF_CALL_XENT:
    case SF_CALL_XENT_PART:
    case SF_CALL_XENT_PADDED:
        return partial_sums(dim(call, 0), 1);
    case SF_CALL_SUMSQ:
        return SUMSQ_BLOCKS * sizeof(float);
    default:
        return 0;
    }
}

uint64_t sf_call_scratch_bytes(const struct sf_call *call) {
    return sf_call_dims_ok(call) ? round_up(bytes_of(call), LINE) : 0;
}

static bool is_for_gpus(const struct sf_prog *prog, const struct sf_class *c) {
    for (uint32_t i = 0; i < c->ops_n; i++) {
        const struct sf_recipe *r = c->ops[i].recipe == SF_NONE ? NULL : &prog->recipes[c->ops[i].recipe];
        for (uint32_t k = 0; r && k < r->calls_n; k++) {
            if (r->calls[k].dtype != SF_F32) {
                return true;
            }
        }
    }
    return false;
}

uint64_t sf_class_scratch_bytes(const struct sf_prog *prog, uint32_t class_i) {
    const struct sf_class *c = &prog->classes[class_i];
    uint64_t most[SF_MAX_STREAMS] = {0}, sum = 0;
    bool counts = is_for_gpus(prog, c);
    for (uint32_t i = 0; counts && i < c->ops_n; i++) {
        const struct sf_recipe *r = c->ops[i].recipe == SF_NONE ? NULL : &prog->recipes[c->ops[i].recipe];
        uint64_t *top = &most[c->ops[i].stream];
        for (uint32_t k = 0; r && k < r->calls_n; k++) {
            uint64_t bytes = sf_call_scratch_bytes(&r->calls[k]);
            *top = bytes > *top ? bytes : *top;
        }
    }
    for (int s = 0; s < SF_MAX_STREAMS; s++) {
        sum = add(sum, most[s]);
    }
    return sum;
}

uint64_t sf_prog_device_bytes(const struct sf_prog *prog) {
    uint64_t most = 0;
    for (uint32_t c = 0; c < prog->classes_n; c++) {
        uint64_t bytes = add(prog->classes[c].arena_bytes, sf_class_scratch_bytes(prog, c));
        most = bytes > most ? bytes : most;
    }
    return most;
}
