#include "kernels/cuda/attn_cudnn_graph.h"

#include <math.h>
#include <string.h>

/* Rows of the tables below that a graph takes. */
enum when {
    ALWAYS,
    PLAIN,   /* as many key heads as query heads */
    GROUPED, /* query heads share key heads */
    SUMMED,  /* dq is added up in f32 by whoever comes */
    DIRECT,  /* dq is written once */
};

#define T(name) SFI_ATTN_ID_##name
#define OP(kind, out, a, b, c, axis, when)                                                                             \
    { SFI_ATTN_##kind, when, a, b, c, T(out), axis }
#define OP1(kind, out, a, when) OP(kind, out, T(a), SFI_ATTN_NONE, SFI_ATTN_NONE, 0, when)
#define OP2(kind, out, a, b, when) OP(kind, out, T(a), T(b), SFI_ATTN_NONE, 0, when)
#define CAUSAL(scores)                                                                                                 \
    OP(INDEX, ROW, T(scores), SFI_ATTN_NONE, SFI_ATTN_NONE, 2, ALWAYS),                                                \
        OP(INDEX, COL, T(scores), SFI_ATTN_NONE, SFI_ATTN_NONE, 3, ALWAYS), OP2(GE, SEEN, ROW, COL, ALWAYS),           \
        OP(SELECT, MASKED, T(scores), T(HIDDEN), T(SEEN), 0, ALWAYS)

static const struct sfi_attn_op forward_ops[] = {
    OP2(MATMUL, RAW, Q, K_T, ALWAYS),   OP2(MUL, SCALED, RAW, SCALE, ALWAYS),   CAUSAL(SCALED),
    OP1(MAX, MAX, MASKED, ALWAYS),      OP2(SUB, CENTRED, MASKED, MAX, ALWAYS), OP1(EXP, WEIGHT, CENTRED, ALWAYS),
    OP1(SUM, TOTAL, WEIGHT, ALWAYS),    OP1(LOG, LOG_TOTAL, TOTAL, ALWAYS),     OP2(ADD, LSE, MAX, LOG_TOTAL, ALWAYS),
    OP2(DIV, P, WEIGHT, TOTAL, ALWAYS), OP2(MATMUL, O, P, V, ALWAYS),
};

static const struct sfi_attn_op backward_ops[] = {
    OP2(MUL, O_D_O, D_O, O, ALWAYS),
    OP1(SUM, O_D_O_SUM, O_D_O, ALWAYS),
    OP2(MUL, DELTA, O_D_O_SUM, ONE, ALWAYS),
    OP2(MATMUL, RAW, Q, K_T, ALWAYS),
    OP2(MUL, SCALED, RAW, SCALE, ALWAYS),
    CAUSAL(SCALED),
    OP2(SUB, CENTRED, MASKED, LSE, ALWAYS),
    OP1(EXP, WEIGHT, CENTRED, ALWAYS),
    OP1(RESHAPE, P_T, WEIGHT, ALWAYS),
    OP2(MATMUL, D_V, P_T, D_O, PLAIN),
    OP2(MATMUL, D_V_HEADS, P_T, D_O, GROUPED),
    OP1(SUM, D_V, D_V_HEADS, GROUPED),
    OP2(MATMUL, D_P, D_O, V_T, ALWAYS),
    OP2(SUB, D_P_DELTA, D_P, DELTA, ALWAYS),
    OP2(MUL, D_S_RAW, D_P_DELTA, WEIGHT, ALWAYS),
    OP2(MUL, D_S, D_S_RAW, SCALE, ALWAYS),
    OP1(RESHAPE, D_S_T, D_S, ALWAYS),
    OP2(MATMUL, D_K, D_S_T, Q, PLAIN),
    OP2(MATMUL, D_K_HEADS, D_S_T, Q, GROUPED),
    OP1(SUM, D_K, D_K_HEADS, GROUPED),
    OP1(RESHAPE, K, K_T, ALWAYS),
    OP2(MATMUL, D_Q, D_S, K, DIRECT),
    OP2(MATMUL, D_Q_SUM, D_S, K, SUMMED),
    OP1(COPY, D_Q, D_Q_SUM, SUMMED),
};

_Static_assert(sizeof backward_ops / sizeof backward_ops[0] <= SFI_ATTN_OPS_MAX, "ops of a graph");

enum shape { QUERY, KEY, KEY_T, OUT, STATS, COLUMN, HEADS, SCORES, SCORES_T, SCALAR };

static const struct {
    uint8_t shape, type, place;
    int8_t operand;
} tensors[] = {
#define X(name, shape, type, place, operand) {shape, SFI_ATTN_##type, SFI_ATTN_##place, operand},
    SFI_ATTN_TENSORS(X)
#undef X
};

static void set4(int64_t to[4], int64_t a, int64_t b, int64_t c, int64_t d) {
    to[0] = a;
    to[1] = b;
    to[2] = c;
    to[3] = d;
}

static void set_dims(const struct sfi_attn_shape *s, enum shape shape, int64_t dim[4]) {
    int64_t heads = s->chunk_heads, keys = heads / (s->heads / s->kv_heads);
    switch (shape) {
    case QUERY:
    case OUT:
    case HEADS:
        set4(dim, s->chunk_batch, heads, s->seq, s->head_dim);
        break;
    case KEY:
        set4(dim, s->chunk_batch, keys, s->seq, s->head_dim);
        break;
    case KEY_T:
        set4(dim, s->chunk_batch, keys, s->head_dim, s->seq);
        break;
    case STATS:
    case COLUMN:
        set4(dim, s->chunk_batch, heads, s->seq, 1);
        break;
    case SCORES:
    case SCORES_T:
        set4(dim, s->chunk_batch, heads, s->seq, s->seq);
        break;
    case SCALAR:
        set4(dim, 1, 1, 1, 1);
        break;
    }
}

static void set_strides(const struct sfi_attn_shape *s, enum shape shape, const int64_t dim[4], int64_t stride[4]) {
    int64_t rows = s->seq * s->row_stride, outs = s->heads * s->head_dim;
    set4(stride, dim[1] * dim[2] * dim[3], dim[2] * dim[3], dim[3], 1);
    switch (shape) {
    case QUERY:
    case KEY:
        set4(stride, rows, s->head_dim, s->row_stride, 1);
        break;
    case KEY_T:
        set4(stride, rows, s->head_dim, 1, s->row_stride);
        break;
    case OUT:
        set4(stride, s->seq * outs, s->head_dim, outs, 1);
        break;
    case STATS:
        set4(stride, s->heads * s->seq, s->seq, 1, 1);
        break;
    case SCORES_T:
        set4(stride, dim[1] * dim[2] * dim[3], dim[2] * dim[3], 1, dim[2]);
        break;
    default:
        break;
    }
}

static bool takes(const struct sfi_attn_shape *s, const struct sfi_attn_op *op) {
    switch ((enum when)op->when) {
    case PLAIN:
        return s->heads == s->kv_heads;
    case GROUPED:
        return s->heads != s->kv_heads;
    case SUMMED:
        return !s->deterministic;
    case DIRECT:
        return s->deterministic;
    default:
        return true;
    }
}

static void use(struct sfi_attn_graph *g, int id) {
    if (id != SFI_ATTN_NONE) {
        g->tensors[id].used = true;
    }
}

static void add_op(struct sfi_attn_graph *g, const struct sfi_attn_op *op) {
    g->ops[g->ops_n++] = *op;
    use(g, op->a);
    use(g, op->b);
    use(g, op->c);
    use(g, op->out);
}

void sfi_attn_graph_of(const struct sfi_attn_shape *shape, struct sfi_attn_graph *out) {
    const struct sfi_attn_op *ops = shape->backward ? backward_ops : forward_ops;
    size_t n = shape->backward ? sizeof backward_ops / sizeof *ops : sizeof forward_ops / sizeof *ops;
    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < n; i++) {
        if (takes(shape, &ops[i])) {
            add_op(out, &ops[i]);
        }
    }
    for (int i = 0; i < SFI_ATTN_IDS; i++) {
        struct sfi_attn_tensor *t = &out->tensors[i];
        t->type = tensors[i].type;
        t->place = tensors[i].place;
        t->operand = tensors[i].operand;
        set_dims(shape, (enum shape)tensors[i].shape, t->dim);
        set_strides(shape, (enum shape)tensors[i].shape, t->dim, t->stride);
    }
    out->tensors[SFI_ATTN_ID_SCALE].value = 1 / sqrtf((float)shape->head_dim);
    out->tensors[SFI_ATTN_ID_HIDDEN].value = -INFINITY;
    out->tensors[SFI_ATTN_ID_ONE].value = 1;
}

/* ---- chunks and memory ------------------------------------------------------------------------------------------- */

int64_t sfi_attn_chunks(const struct sfi_attn_shape *shape) {
    return shape->batch / shape->chunk_batch * (shape->heads / shape->chunk_heads);
}

size_t sfi_attn_offset(const struct sfi_attn_shape *shape, const struct sfi_attn_tensor *t, int64_t chunk) {
    int64_t per_sequence = shape->heads / shape->chunk_heads;
    int64_t batch = chunk / per_sequence * shape->chunk_batch, head = chunk % per_sequence * t->dim[1];
    int64_t bytes = t->type == SFI_ATTN_BF16 ? 2 : 4;
    return (size_t)((batch * t->stride[0] + head * t->stride[1]) * bytes);
}

static size_t round_up(size_t n, size_t to) {
    return (n + to - 1) / to * to;
}

/* More than cuDNN 9.19 was seen to ask for on sm_90, sm_100 and sm_103: dk and dv of every query head in f32 and half
 * as much again where heads share keys, and without atomic sums the square of scores in bf16, on tiles of 128 rows. */
static size_t engine_bytes(const struct sfi_attn_shape *s) {
    size_t heads = (size_t)(s->chunk_batch * s->chunk_heads), rows = round_up((size_t)s->seq, 128);
    size_t columns = (size_t)s->head_dim * (s->heads == s->kv_heads ? 4 : 12);
    if (!s->backward) {
        return SFI_ATTN_AREA_BYTES;
    }
    return 4 * SFI_ATTN_AREA_BYTES + heads * rows * (columns + (s->deterministic ? 2 * rows : 0));
}

void sfi_attn_area_of(const struct sfi_attn_shape *shape, struct sfi_attn_area *out) {
    size_t rows = (size_t)(shape->chunk_batch * shape->chunk_heads * shape->seq) * sizeof(float);
    size_t sums = shape->backward && !shape->deterministic ? rows * (size_t)shape->head_dim : 0;
    out->delta = round_up(sums, SFI_ATTN_AREA_BYTES);
    out->engine = out->delta + (shape->backward ? round_up(rows, SFI_ATTN_AREA_BYTES) : 0);
    out->engine_bytes = round_up(engine_bytes(shape), SFI_ATTN_AREA_BYTES);
    out->bytes = out->engine + out->engine_bytes;
}

static size_t area_bytes(const struct sfi_attn_shape *shape) {
    struct sfi_attn_area area;
    sfi_attn_area_of(shape, &area);
    return area.bytes;
}

/* The next smaller part of n in units of `unit`. */
static int64_t smaller(int64_t n, int64_t part, int64_t unit) {
    do {
        part -= unit;
    } while (part > unit && n % part != 0);
    return part;
}

static void choose_chunk(struct sfi_attn_shape *s) {
    int64_t group = s->heads / s->kv_heads;
    s->chunk_batch = s->batch;
    s->chunk_heads = s->heads;
    while (area_bytes(s) > SFI_ATTN_WORK_GOAL && s->chunk_batch > 1) {
        s->chunk_batch = smaller(s->batch, s->chunk_batch, 1);
    }
    while (area_bytes(s) > SFI_ATTN_WORK_GOAL && s->chunk_heads > group) {
        s->chunk_heads = smaller(s->heads, s->chunk_heads, group);
    }
}

/* Limits far beyond any model keep every product below 2^63. */
static bool in_range(const int64_t d[SF_CALL_DIMS]) {
    return d[0] > 0 && d[0] <= 1 << 13 && d[1] > 0 && d[1] <= 1 << 19 && d[2] > 0 && d[2] <= 1 << 9 && d[3] > 0 &&
           d[2] % d[3] == 0 && d[4] > 0 && d[4] <= 256 && d[4] % 8 == 0 && d[5] >= d[4] && d[5] <= 1 << 24 &&
           d[5] % 8 == 0;
}

/* All queries, and no flag that changes what is computed. */
static bool is_plain(const struct sf_call *call) {
    bool some = call->imm[1] > 0 && call->imm[1] < 1;
    return !some && (call->flags & ~SF_CALL_RECOMPUTE_FLAG) == 0;
}

bool sfi_attn_shape_of(const struct sf_call *call, bool deterministic, struct sfi_attn_shape *out) {
    const int64_t *d = call->dims;
    bool backward = call->kind == SF_CALL_ATTN_BWD;
    if ((call->kind != SF_CALL_ATTN_FWD && !backward) || call->dtype != SF_BF16 || !is_plain(call) || !in_range(d)) {
        return false;
    }
    *out = (struct sfi_attn_shape){
        .batch = d[0],
        .seq = d[1],
        .heads = d[2],
        .kv_heads = d[3],
        .head_dim = d[4],
        .row_stride = d[5],
        .backward = backward,
        .deterministic = backward && deterministic,
    };
    choose_chunk(out);
    return area_bytes(out) <= SFI_ATTN_WORK_MAX;
}

size_t sfi_attn_work(const struct sf_call *call, bool deterministic) {
    struct sfi_attn_shape shape;
    return sfi_attn_shape_of(call, deterministic, &shape) ? area_bytes(&shape) : 0;
}
