/* Programs small enough to check by hand, for tests of the runtime. Included after cmocka.h. */
#ifndef SF_TEST_RUNTIME_FIXTURE_H
#define SF_TEST_RUNTIME_FIXTURE_H

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/io.h"
#include "core/prog_build.h"
#include "runtime/rt.h"

#define BIGRAM_VOCAB 256
#define BIGRAM_SEQ 32
#define BIGRAM_BATCH 4 /* sequences of a step; microbatches of one */

/* A language model that is one table: logits = table[token]. Data parallel over `dp` ranks, gradients in canonical
 * order; with `zero` the optimizer works on shards. */
struct bigram {
    uint32_t dp;
    bool zero;
    uint8_t dtype;      /* of the calls */
    bool skip_sum_flag; /* leave SF_OP_SUM_F32 off the reduction */
    int64_t table_rows; /* what EMBED says the table has; 0 = the truth */
};

enum { COMPUTE, LOADING, REDUCING };

static inline struct sf_arg whole(uint32_t buf, uint64_t bytes, uint32_t access) {
    return (struct sf_arg){.buf = buf, .access = access, .bytes = bytes};
}

static inline struct sf_call call_of(int kind, uint8_t dtype, int64_t d0, int64_t d1, int64_t d2) {
    struct sf_call c = {
        .kind = (uint8_t)kind, .dtype = dtype, .comm = SF_NONE, .imm = {1.0f, 1.0f}, .dims = {d0, d1, d2}};
    for (int o = 0; o < SF_CALL_OPERANDS; o++) {
        c.operand[o] = o < sf_call_operands_n(kind) ? SF_REF(o, 0) : SF_REF_NONE;
    }
    return c;
}

static inline uint32_t bigram_forward(struct sf_build *b, const struct bigram *s) {
    int64_t rows = s->table_rows ? s->table_rows : BIGRAM_VOCAB;
    struct sf_call embed = call_of(SF_CALL_EMBED_FWD, s->dtype, BIGRAM_SEQ, BIGRAM_VOCAB, rows);
    struct sf_call loss = call_of(SF_CALL_XENT, s->dtype, BIGRAM_SEQ, BIGRAM_VOCAB, 0);
    loss.imm[0] = 1.0f / (BIGRAM_SEQ * BIGRAM_BATCH);
    loss.operand[0] = SF_REF(2, 0);
    loss.operand[1] = SF_REF(3, 0);
    loss.operand[2] = SF_REF(4, 0);
    sf_build_recipe_begin(b, "forward", 5); /* tokens, table, logits, targets, loss */
    sf_build_call(b, &embed);
    sf_build_call(b, &loss);
    return sf_build_recipe_end(b);
}

static inline uint32_t bigram_backward(struct sf_build *b, const struct bigram *s) {
    struct sf_call zero = call_of(SF_CALL_ZERO, s->dtype, (int64_t)BIGRAM_VOCAB * BIGRAM_VOCAB, 0, 0);
    struct sf_call embed = call_of(SF_CALL_EMBED_BWD, s->dtype, BIGRAM_SEQ, BIGRAM_VOCAB, BIGRAM_VOCAB);
    zero.operand[0] = SF_REF(2, 0);
    sf_build_recipe_begin(b, "backward", 3); /* tokens, dlogits, gradient */
    sf_build_call(b, &zero);
    sf_build_call(b, &embed);
    return sf_build_recipe_end(b);
}

static inline uint32_t one_call(struct sf_build *b, const char *name, struct sf_call call, uint32_t formals) {
    sf_build_recipe_begin(b, name, formals);
    sf_build_call(b, &call);
    return sf_build_recipe_end(b);
}

static inline uint32_t bigram_optimizer(struct sf_build *b, const struct bigram *s) {
    uint32_t n = BIGRAM_VOCAB * BIGRAM_VOCAB / (s->zero ? s->dp : 1);
    struct sf_call adamw = call_of(SF_CALL_ADAMW, s->dtype, n, 0, 0);
    adamw.operand[5] = SF_REF_NONE;
    return one_call(b, "optimizer", adamw, 5);
}

struct bigram_bufs {
    uint32_t table, shard, grad[BIGRAM_BATCH], grad_shard, m, v, hyper, tokens[BIGRAM_BATCH], targets[BIGRAM_BATCH];
    uint32_t logits[BIGRAM_BATCH], loss;
    uint64_t table_bytes, shard_bytes, token_bytes, logit_bytes;
};

static inline void bigram_buffers(struct sf_build *b, const struct bigram *s, uint32_t microbatches,
                                  struct bigram_bufs *u) {
    u->table_bytes = (uint64_t)BIGRAM_VOCAB * BIGRAM_VOCAB * sizeof(float);
    u->shard_bytes = u->table_bytes / (s->zero ? s->dp : 1);
    u->token_bytes = BIGRAM_SEQ * sizeof(int32_t);
    u->logit_bytes = (uint64_t)BIGRAM_SEQ * BIGRAM_VOCAB * sizeof(float);
    u->table = sf_build_buffer(b, "table", SF_BUF_PARAM, u->table_bytes, true);
    u->shard = sf_build_buffer(b, "shard", SF_BUF_OPTIMIZER, u->shard_bytes, true);
    u->grad_shard = sf_build_buffer(b, "grad shard", SF_BUF_WORK, u->shard_bytes, false);
    u->m = sf_build_buffer(b, "m", SF_BUF_OPTIMIZER, u->shard_bytes, true);
    u->v = sf_build_buffer(b, "v", SF_BUF_OPTIMIZER, u->shard_bytes, true);
    u->hyper = sf_build_buffer(b, "hyper", SF_BUF_HYPER, 32, true);
    u->loss = sf_build_buffer(b, "loss", SF_BUF_LOSS, microbatches * sizeof(float), true);
    for (uint32_t i = 0; i < microbatches; i++) {
        u->grad[i] = sf_build_buffer(b, "grad", SF_BUF_GRAD, u->table_bytes, false);
        u->tokens[i] = sf_build_buffer(b, "tokens", SF_BUF_TOKENS, u->token_bytes, false);
        u->targets[i] = sf_build_buffer(b, "targets", SF_BUF_TOKENS, u->token_bytes, false);
        u->logits[i] = sf_build_buffer(b, "logits", SF_BUF_ACTIVATION, u->logit_bytes, false);
    }
    struct sf_tensor t = {.name = "table",
                          .buf = u->table,
                          .init = SF_INIT_NORMAL,
                          .rows = BIGRAM_VOCAB,
                          .cols = BIGRAM_VOCAB,
                          .init_std = 0.5f,
                          .dtype = SF_F32};
    sf_build_tensor(b, &t);
}

static inline void bigram_microbatch(struct sf_build *b, const struct bigram_bufs *u, uint16_t m, uint32_t forward,
                                     uint32_t backward) {
    struct sf_op op = {.kind = SF_OP_LOAD, .stream = LOADING, .recipe = SF_NONE, .comm = SF_NONE, .microbatch = m};
    struct sf_arg arg = whole(u->tokens[m], u->token_bytes, SF_WRITE);
    uint32_t loads[2];
    loads[0] = sf_build_op(b, &op, &arg, 1, NULL, 0);
    op.flags = SF_OP_TARGETS;
    arg.buf = u->targets[m];
    loads[1] = sf_build_op(b, &op, &arg, 1, NULL, 0);
    struct sf_op f = {.kind = SF_OP_FORWARD, .stream = COMPUTE, .recipe = forward, .comm = SF_NONE, .microbatch = m};
    const struct sf_arg fargs[] = {
        whole(u->tokens[m], u->token_bytes, SF_READ),
        whole(u->table, u->table_bytes, SF_READ),
        whole(u->logits[m], u->logit_bytes, SF_WRITE),
        whole(u->targets[m], u->token_bytes, SF_READ),
        {.buf = u->loss, .access = SF_WRITE, .offset = m * sizeof(float), .bytes = sizeof(float)}};
    sf_build_op(b, &f, fargs, 5, loads, 2);
    struct sf_op g = {.kind = SF_OP_BACKWARD, .stream = COMPUTE, .recipe = backward, .comm = SF_NONE, .microbatch = m};
    const struct sf_arg gargs[] = {whole(u->tokens[m], u->token_bytes, SF_READ),
                                   whole(u->logits[m], u->logit_bytes, SF_READ),
                                   whole(u->grad[m], u->table_bytes, SF_WRITE)};
    sf_build_op(b, &g, gargs, 3, NULL, 0);
}

/* Pairs of microbatches, then pairs of pairs; returns the last op. */
static inline uint32_t bigram_accumulate(struct sf_build *b, const struct bigram_bufs *u, uint32_t microbatches,
                                         uint32_t add) {
    uint32_t last = SF_NONE;
    for (uint32_t width = 1; width < microbatches; width *= 2) {
        for (uint32_t i = 0; i < microbatches; i += 2 * width) {
            struct sf_op op = {.kind = SF_OP_ACCUMULATE, .stream = COMPUTE, .recipe = add, .comm = SF_NONE};
            const struct sf_arg args[] = {whole(u->grad[i], u->table_bytes, SF_READ_WRITE),
                                          whole(u->grad[i + width], u->table_bytes, SF_READ)};
            last = sf_build_op(b, &op, args, 2, NULL, 0);
        }
    }
    return last;
}

static inline void bigram_update(struct sf_build *b, const struct bigram *s, const struct bigram_bufs *u, uint32_t comm,
                                 uint32_t after, uint32_t optimizer) {
    struct sf_op reduce = {.kind = s->zero ? SF_OP_REDUCE_SCATTER : SF_OP_ALL_REDUCE,
                           .stream = REDUCING,
                           .recipe = SF_NONE,
                           .comm = comm,
                           .bytes = u->table_bytes,
                           .flags = s->skip_sum_flag ? 0 : SF_OP_SUM_F32};
    const struct sf_arg rargs[] = {whole(u->grad[0], u->table_bytes, s->zero ? SF_READ : SF_READ_WRITE),
                                   whole(u->grad_shard, u->shard_bytes, SF_WRITE)};
    uint32_t reduced = sf_build_op(b, &reduce, rargs, s->zero ? 2 : 1, &after, 1);
    struct sf_op adamw = {.kind = SF_OP_OPTIMIZER, .stream = COMPUTE, .recipe = optimizer, .comm = SF_NONE};
    const struct sf_arg oargs[] = {whole(s->zero ? u->shard : u->table, u->shard_bytes, SF_READ_WRITE),
                                   whole(s->zero ? u->grad_shard : u->grad[0], u->shard_bytes, SF_READ),
                                   whole(u->m, u->shard_bytes, SF_READ_WRITE),
                                   whole(u->v, u->shard_bytes, SF_READ_WRITE), whole(u->hyper, 32, SF_READ)};
    uint32_t updated = sf_build_op(b, &adamw, oargs, 5, &reduced, 1);
    if (s->zero) {
        struct sf_op gather = {
            .kind = SF_OP_ALL_GATHER, .stream = REDUCING, .recipe = SF_NONE, .comm = comm, .bytes = u->table_bytes};
        const struct sf_arg gargs[] = {whole(u->shard, u->shard_bytes, SF_READ),
                                       whole(u->table, u->table_bytes, SF_WRITE)};
        sf_build_op(b, &gather, gargs, 2, &updated, 1);
    }
}

static inline void bigram_job(struct sf_prog *prog, uint32_t microbatches) {
    prog->job = (struct sf_prog_job){.microbatches = microbatches,
                                     .micro_batch_sequences = 1,
                                     .seq_len_tokens = BIGRAM_SEQ,
                                     .chunks = 1,
                                     .global_batch_sequences = BIGRAM_BATCH,
                                     .vocab = BIGRAM_VOCAB,
                                     .lr = 0.125f,
                                     .beta1 = 0.9f,
                                     .beta2 = 0.95f,
                                     .eps = 1e-8f,
                                     .weight_decay = 0.0f,
                                     .warmup_steps = 2,
                                     .seed = 7};
}

static inline int bigram_build(const struct bigram *s, struct sf_prog **out, struct sf_err *err) {
    static const uint32_t class_of[] = {0};
    struct sf_build *b = sf_build_create();
    assert_non_null(b);
    uint32_t axis = sf_build_axis(b, "dp", s->dp), microbatches = BIGRAM_BATCH / s->dp;
    uint32_t comm = sf_build_comm(b, "dp", 1u << axis);
    sf_build_stream(b, "compute");
    sf_build_stream(b, "load");
    sf_build_stream(b, "grad");
    struct sf_prog *prog = sf_build_prog(b);
    prog->ranks_per_domain = prog->domain_gpus = s->dp;
    bigram_job(prog, microbatches);
    uint32_t forward = bigram_forward(b, s), backward = bigram_backward(b, s), optimizer = bigram_optimizer(b, s);
    struct sf_call sum = call_of(SF_CALL_ADD, s->dtype, (int64_t)BIGRAM_VOCAB * BIGRAM_VOCAB, 0, 0);
    sum.operand[2] = SF_REF(0, 0);
    uint32_t add = one_call(b, "add", sum, 2);
    struct bigram_bufs u;
    sf_build_class_begin(b, "all", 0);
    bigram_buffers(b, s, microbatches, &u);
    for (uint16_t m = 0; m < microbatches; m++) {
        bigram_microbatch(b, &u, m, forward, backward);
    }
    uint32_t last = bigram_accumulate(b, &u, microbatches, add);
    bigram_update(b, s, &u, comm, last != SF_NONE ? last : 3, optimizer);
    sf_build_class_end(b);
    int rc = sf_build_finish(b, class_of, 1, out, err);
    sf_build_free(b);
    return rc;
}

/* A path of its own for every test process. */
static inline const char *temp_path(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "/tmp/staticfire-test-%ld-%s", (long)getpid(), name);
    return path;
}

/* A text of `bytes` bytes that uses all of the printable range, in a file. */
static inline const char *make_text(size_t bytes) {
    static char path[128];
    snprintf(path, sizeof path, "%s", temp_path("text"));
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    for (size_t i = 0; i < bytes; i++) {
        fputc((int)(32 + (i * i + i / 7) % 90), f);
    }
    assert_int_equal(fclose(f), 0);
    return path;
}

/* One tensor of a dump, to be freed; NULL when it is not there. *n is its element count. */
static inline float *read_tensor(const char *path, const char *name, size_t *n) {
    char *data;
    size_t bytes;
    uint64_t header_bytes;
    assert_int_equal(sf_io_posix.read_all(NULL, path, (size_t)1 << 28, &data, &bytes, NULL), 0);
    memcpy(&header_bytes, data, sizeof header_bytes);
    json_t *header = json_loadb(data + 8, header_bytes, 0, NULL);
    assert_non_null(header);
    const json_t *offsets = json_object_get(json_object_get(header, name), "data_offsets");
    float *out = NULL;
    if (offsets) {
        size_t begin = (size_t)json_integer_value(json_array_get(offsets, 0));
        size_t end = (size_t)json_integer_value(json_array_get(offsets, 1));
        assert_true(8 + header_bytes + end <= bytes);
        out = malloc(end - begin);
        memcpy(out, data + 8 + header_bytes + begin, end - begin);
        *n = (end - begin) / sizeof(float);
    }
    json_decref(header);
    sf_free(data);
    return out;
}

#endif
