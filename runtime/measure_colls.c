/* The program's own collectives by size: how fast bytes move depends on whose cache they are in, so one rate does not
 * say it. */
#include <stdlib.h>

#include "runtime/measure.h"

enum { COLLECTIVES = 512 }; /* of different kind, ranks or bytes; a table of more says no more */

struct sum {
    uint32_t op, ranks;
    uint64_t bytes;
    double seconds, runs;
};

struct sums {
    struct sum at[COLLECTIVES];
    size_t n;
};

static void add(struct sums *s, const struct sum *one) {
    size_t i = 0;
    while (i < s->n && (s->at[i].op != one->op || s->at[i].ranks != one->ranks || s->at[i].bytes != one->bytes)) {
        i++;
    }
    if (i == COLLECTIVES || one->ranks < 2 || one->bytes == 0 || !(one->seconds > 0.0)) {
        return;
    }
    if (i == s->n) {
        s->at[s->n++] = (struct sum){.op = one->op, .ranks = one->ranks, .bytes = one->bytes};
    }
    s->at[i].seconds += one->seconds * one->runs;
    s->at[i].runs += one->runs;
}

static uint32_t call_of(const struct sf_op *op) {
    return op->kind == SF_OP_ALL_REDUCE       ? SF_CALL_ALL_REDUCE
           : op->kind == SF_OP_REDUCE_SCATTER ? SF_CALL_REDUCE_SCATTER
                                              : SF_CALL_ALL_GATHER;
}

static void add_ops(struct sums *s, const struct sf_prog *prog, const double *busy_s, const size_t *first) {
    for (uint32_t r = 0; r < sf_prog_ranks(prog); r++) {
        const struct sf_class *c = &prog->classes[sf_prog_class(prog, r)];
        for (uint32_t i = 0; i < c->ops_n; i++) {
            const struct sf_op *op = &c->ops[i];
            if (sf_op_group(op->kind) == SF_OP_IS_COLL) {
                const struct sum one = {call_of(op), sf_prog_comm_size(prog, op->comm), op->bytes, busy_s[first[r] + i],
                                        1.0};
                add(s, &one);
            }
        }
    }
}

static int compare(const void *a, const void *b) {
    const struct sum *x = a, *y = b;
    if (x->op != y->op) {
        return x->op < y->op ? -1 : 1;
    }
    if (x->ranks != y->ranks) {
        return x->ranks < y->ranks ? -1 : 1;
    }
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

int sfi_print_collectives(const struct sf_prog *prog, const double *busy_s, const size_t *first,
                          const struct sfi_coll_time *times, size_t n, struct sf_buf *out, struct sf_err *err) {
    struct sums *s = sf_calloc(1, sizeof *s);
    if (!s) {
        return sf_fail_memory(err, "times of collectives");
    }
    add_ops(s, prog, busy_s, first);
    for (size_t i = 0; i < n; i++) {
        const struct sf_call *c = times[i].call;
        const struct sum one = {c->kind, sf_prog_comm_size(prog, c->comm), (uint64_t)c->dims[0], times[i].seconds,
                                times[i].runs};
        add(s, &one);
    }
    qsort(s->at, s->n, sizeof *s->at, compare);
    sf_buf_printf(out, "%s", s->n > 0 ? "collectives:\n" : "");
    for (size_t i = 0; i < s->n; i++) {
        const struct sum *x = &s->at[i];
        sf_buf_printf(out, "  - { op: %s, ranks: %u, bytes: %llu, time: %.3fus }\n", sf_call_name((int)x->op), x->ranks,
                      (unsigned long long)x->bytes, x->seconds / x->runs * 1e6);
    }
    sf_free(s);
    return out->failed ? sf_fail_memory(err, "times of collectives") : SF_OK;
}
