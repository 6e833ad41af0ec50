#include "runtime/dump.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where the gradient of a range of weights lies while the optimizer reads it. */
struct block {
    uint32_t op, call;
    uint32_t buf;    /* of the weights as tensors know them */
    uint64_t offset; /* inside that buffer */
    uint64_t bytes;  /* of the weights */
    float *grad;     /* the copy */
    bool sharded;    /* every data-parallel rank holds another part */
    int dtype;       /* of the weights */
};

struct sfi_capture {
    struct block *blocks; /* by op, then call */
    size_t n;
};

static bool inside(const struct sf_arg *a, uint32_t buf, uint64_t offset, uint64_t bytes) {
    return a->buf == buf && offset >= a->offset && bytes <= a->bytes && offset - a->offset <= a->bytes - bytes;
}

/* Weights that the optimizer updates as a shard are gathered into the whole afterwards: say where. */
static void find_whole(const struct sfi_rank *r, struct block *b) {
    for (uint32_t i = 0; i < r->cls->ops_n; i++) {
        const struct sf_op *op = &r->cls->ops[i];
        const struct sf_arg *args = &r->cls->args[op->arg_first];
        if (op->kind == SF_OP_ALL_GATHER && inside(&args[0], b->buf, b->offset, b->bytes)) {
            b->offset = args[1].offset + r->xfers[i].index * args[0].bytes + (b->offset - args[0].offset);
            b->buf = args[1].buf;
            b->sharded = true;
            return;
        }
    }
}

static int add_block(const struct sfi_rank *r, struct sfi_capture *c, uint32_t op_i, uint32_t call_i,
                     struct sf_err *err) {
    const struct sf_op *op = &r->cls->ops[op_i];
    const struct sf_call *call = &r->run->image->prog->recipes[op->recipe].calls[call_i];
    const struct sf_arg *param = &r->cls->args[op->arg_first + SF_REF_FORMAL(call->operand[0])];
    struct block *b = &c->blocks[c->n++];
    *b = (struct block){.op = op_i,
                        .call = call_i,
                        .buf = param->buf,
                        .offset = param->offset + SF_REF_OFFSET(call->operand[0]),
                        .bytes = (uint64_t)call->dims[0] * (uint64_t)sf_dtype_bytes(call->dtype),
                        .dtype = call->dtype};
    find_whole(r, b);
    b->grad = sf_arena_alloc(r->arena, (size_t)call->dims[0], sizeof(float));
    return b->grad ? SF_OK : sf_fail_memory(err, "a copy of the gradients");
}

/* Visit every optimizer call; with c->blocks NULL only count them. */
static int list_blocks(const struct sfi_rank *r, struct sfi_capture *c, size_t *count, struct sf_err *err) {
    *count = 0;
    for (uint32_t i = 0; i < r->cls->ops_n; i++) {
        const struct sf_op *op = &r->cls->ops[i];
        if (sf_op_group(op->kind) != SF_OP_IS_COMPUTE) {
            continue;
        }
        const struct sf_recipe *recipe = &r->run->image->prog->recipes[op->recipe];
        for (uint32_t k = 0; k < recipe->calls_n; k++) {
            if (recipe->calls[k].kind == SF_CALL_ADAMW) {
                ++*count;
                SF_TRY(c->blocks ? add_block(r, c, i, k, err) : SF_OK);
            }
        }
    }
    return SF_OK;
}

int sfi_capture_create(const struct sfi_rank *r, struct sfi_capture **out, struct sf_err *err) {
    struct sfi_capture *c = sf_arena_alloc(r->arena, 1, sizeof *c);
    if (!c) {
        return sf_fail_memory(err, "gradient capture");
    }
    size_t n;
    SF_TRY(list_blocks(r, c, &n, err));
    c->blocks = sf_arena_alloc(r->arena, n, sizeof *c->blocks);
    if (!c->blocks) {
        return sf_fail_memory(err, "gradient capture");
    }
    SF_TRY(list_blocks(r, c, &n, err));
    *out = c;
    return SF_OK;
}

static int compare_block(const void *a, const void *b) {
    const struct block *x = a, *y = b;
    if (x->op != y->op) {
        return x->op < y->op ? -1 : 1;
    }
    return x->call < y->call ? -1 : x->call > y->call;
}

size_t sfi_capture_index(const struct sfi_rank *r, uint32_t op, uint32_t call) {
    const struct block key = {.op = op, .call = call};
    const struct block *b = bsearch(&key, r->capture->blocks, r->capture->n, sizeof key, compare_block);
    return (size_t)(b - r->capture->blocks);
}

void sfi_capture_take(const struct sfi_rank *r, uint32_t op, uint32_t call, const float *grad) {
    const struct block *b = &r->capture->blocks[sfi_capture_index(r, op, call)];
    memcpy(b->grad, grad, b->bytes);
}

size_t sfi_capture_blocks(const struct sfi_rank *r) {
    return r->capture->n;
}

struct sfi_capture_block sfi_capture_block(const struct sfi_rank *r, size_t index) {
    const struct block *b = &r->capture->blocks[index];
    return (struct sfi_capture_block){
        .grad = b->grad, .count = b->bytes / (uint64_t)sf_dtype_bytes(b->dtype), .dtype = b->dtype};
}

/* A part as it travels: this, then `count` floats, then padding to 8 bytes. */
struct piece {
    char name[96];
    uint64_t rows, cols;
    uint64_t first, count; /* elements of the tensor */
};

/* `count` elements of this rank's block, from its element `first` on. */
static void put(const struct sfi_rank *r, struct sf_buf *out, const char *prefix, const struct sf_tensor *t,
                uint64_t first, uint64_t count, const float *data) {
    const struct sfi_place place = sfi_rank_place(r, t);
    bool rows_lie_apart = place.cols != t->cols;
    while (count > 0) {
        uint64_t row = place.first_row + first / t->cols, col = first % t->cols;
        uint64_t n = rows_lie_apart && count > t->cols - col ? t->cols - col : count;
        struct piece p = {.rows = place.rows, .cols = place.cols, .count = n};
        p.first = row * place.cols + place.first_col + col;
        snprintf(p.name, sizeof p.name, "%s/%s", prefix, t->name);
        sf_buf_write(out, &p, sizeof p);
        sf_buf_write(out, data, n * sizeof *data);
        sf_buf_write(out, "\0\0\0\0\0\0\0", n % 2 * sizeof *data);
        first += n;
        count -= n;
        data += n;
    }
}

static void put_gradients(const struct sfi_rank *r, const struct sf_tensor *t, struct sf_buf *out) {
    uint64_t e = (uint64_t)sf_dtype_bytes((int)t->dtype), begin = t->offset, end = begin + t->rows * t->cols * e;
    for (size_t i = 0; i < r->capture->n; i++) {
        const struct block *b = &r->capture->blocks[i];
        uint64_t from = b->offset > begin ? b->offset : begin;
        uint64_t to = b->offset + b->bytes < end ? b->offset + b->bytes : end;
        if (b->buf == t->buf && from < to && (b->sharded || r->dp_index == 0)) {
            put(r, out, "grad", t, (from - begin) / e, (to - from) / e, b->grad + (from - b->offset) / e);
        }
    }
}

static int read_from_arena(void *self, const struct sfi_rank *r, const struct sf_tensor *t, float *out,
                           struct sf_err *err) {
    (void)self;
    (void)err;
    memcpy(out, sfi_rank_at(r, t->buf, t->offset), t->rows * t->cols * sizeof *out);
    return SF_OK;
}

static int put_weights(const struct sfi_rank *r, const struct sf_tensor *t, const struct sfi_weights *from,
                       struct sf_buf *out, struct sf_err *err) {
    uint64_t n = t->rows * t->cols;
    float *w = sf_calloc(n, sizeof *w);
    if (!w) {
        return sf_fail_memory(err, "weights for the dump");
    }
    int rc = from->read(from->self, r, t, w, err);
    if (rc == SF_OK) {
        put(r, out, "param", t, 0, n, w);
    }
    sf_free(w);
    return rc;
}

int sfi_dump_collect(const struct sfi_rank *r, const struct sfi_weights *from, struct sf_buf *out, struct sf_err *err) {
    static const struct sfi_weights arena = {.read = read_from_arena};
    bool counts = sfi_image_counts(r->run->image, r->rank);
    for (uint32_t i = 0; i < r->cls->tensors_n; i++) {
        const struct sf_tensor *t = &r->cls->tensors[i];
        if (!counts && t->whole_rows == 0 && t->whole_cols == 0) {
            continue; /* another rank gives the same */
        }
        put_gradients(r, t, out);
        SF_TRY(r->dp_index == 0 ? put_weights(r, t, from ? from : &arena, out, err) : SF_OK);
    }
    return out->failed ? sf_fail_memory(err, "a rank's part of the dump") : SF_OK;
}

struct sfi_dump {
    struct sf_buf data; /* pieces of all ranks, one after the other */
};

int sfi_dump_create(struct sfi_dump **out, struct sf_err *err) {
    *out = sf_calloc(1, sizeof **out);
    return *out ? SF_OK : sf_fail_memory(err, "the dump");
}

void sfi_dump_free(struct sfi_dump *d) {
    if (d) {
        sf_buf_free(&d->data);
        sf_free(d);
    }
}

int sfi_dump_add(struct sfi_dump *d, const void *part, size_t bytes, struct sf_err *err) {
    sf_buf_write(&d->data, part, bytes);
    return d->data.failed ? sf_fail_memory(err, "the dump") : SF_OK;
}

static int compare_piece(const void *a, const void *b) {
    const struct piece *x = *(const struct piece *const *)a, *y = *(const struct piece *const *)b;
    int c = strcmp(x->name, y->name);
    if (c != 0 || x->first == y->first) {
        return c;
    }
    return x->first < y->first ? -1 : 1;
}

/* Pieces in order of name and place. */
static int sort_pieces(const struct sfi_dump *d, const struct piece ***out, size_t *n, struct sf_err *err) {
    *n = 0;
    for (size_t at = 0; at < d->data.bytes; ++*n) {
        const struct piece *p = (const void *)(d->data.data + at);
        at += sizeof *p + (p->count + p->count % 2) * sizeof(float);
    }
    const struct piece **list = sf_calloc(*n, sizeof *list);
    if (!list) {
        return sf_fail_memory(err, "the dump");
    }
    for (size_t at = 0, i = 0; i < *n; i++) {
        list[i] = (const void *)(d->data.data + at);
        at += sizeof *list[i] + (list[i]->count + list[i]->count % 2) * sizeof(float);
    }
    qsort(list, *n, sizeof *list, compare_piece);
    *out = list;
    return SF_OK;
}

static int describe(json_t *header, const char *name, json_t *shape, uint64_t begin, uint64_t end) {
    return json_object_set_new(header, name,
                               json_pack("{s:s, s:o, s:[I,I]}", "dtype", "F32", "shape", shape, "data_offsets",
                                         (json_int_t)begin, (json_int_t)end));
}

/* One tensor out of its pieces [first, last): no gap, no overlap; equal pieces of tied weights count once. */
static int join(const struct piece *const *list, size_t first, size_t last, json_t *header, struct sf_buf *data,
                struct sf_err *err) {
    const struct piece *head = list[first];
    uint64_t begin = data->bytes, done = 0;
    for (size_t i = first; i < last; i++) {
        if (i > first && list[i]->first == list[i - 1]->first) {
            continue;
        }
        if (list[i]->first != done) {
            break;
        }
        sf_buf_write(data, list[i] + 1, list[i]->count * sizeof(float));
        done += list[i]->count;
    }
    if (done != head->rows * head->cols) {
        return sf_fail(err, SF_E_INTERNAL, "%s: %" PRIu64 " of %" PRIu64 " elements are known", head->name, done,
                       head->rows * head->cols);
    }
    json_t *shape = json_pack("[I,I]", (json_int_t)head->rows, (json_int_t)head->cols);
    return describe(header, head->name, shape, begin, data->bytes) == 0 ? SF_OK : sf_fail_memory(err, "the dump");
}

static int join_all(const struct sfi_dump *d, json_t *header, struct sf_buf *data, struct sf_err *err) {
    const struct piece **list = NULL;
    size_t n;
    SF_TRY(sort_pieces(d, &list, &n, err));
    int rc = SF_OK;
    for (size_t first = 0, last; first < n && rc == SF_OK; first = last) {
        for (last = first + 1; last < n && strcmp(list[last]->name, list[first]->name) == 0; last++) {
        }
        rc = join(list, first, last, header, data, err);
    }
    sf_free(list);
    return rc;
}

static int write_file(json_t *header, const struct sf_buf *data, const char *path, struct sf_err *err) {
    char *text = json_dumps(header, JSON_COMPACT);
    struct sf_buf file = {0};
    if (text) {
        size_t length = strlen(text);
        uint64_t padded = (length + 7) / 8 * 8;
        sf_buf_write(&file, &padded, sizeof padded);
        sf_buf_write(&file, text, length);
        sf_buf_write(&file, "       ", padded - length);
        sf_buf_write(&file, data->data, data->bytes);
    }
    int rc = !text || file.failed || data->failed
                 ? sf_fail_memory(err, "the dump")
                 : sf_io_posix.write_all(sf_io_posix.self, path, file.data, file.bytes, err);
    free(text);
    sf_buf_free(&file);
    return rc;
}

int sfi_dump_write(struct sfi_dump *d, const float *losses, uint32_t steps, const char *path, struct sf_err *err) {
    json_t *header = json_object();
    struct sf_buf data = {0};
    int rc = header ? join_all(d, header, &data, err) : sf_fail_memory(err, "the dump");
    if (rc == SF_OK) {
        uint64_t begin = data.bytes;
        sf_buf_write(&data, losses, steps * sizeof *losses);
        json_t *shape = json_pack("[I]", (json_int_t)steps);
        rc = describe(header, "loss", shape, begin, data.bytes) == 0 ? SF_OK : sf_fail_memory(err, "the dump");
    }
    if (rc == SF_OK) {
        rc = write_file(header, &data, path, err);
    }
    json_decref(header);
    sf_buf_free(&data);
    return rc;
}
