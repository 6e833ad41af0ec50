/* What is away is not used. Activations that an OFFLOAD took to the host are back, from the same range, before a
 * backward of their microbatch reads them, and nothing of another microbatch came there in between. Races are checked
 * already: what touches one range of a buffer is ordered as it is numbered, unless nobody writes. */
#include <stdlib.h>

#include "core/arena.h"
#include "core/prog_check.h"

struct unit {
    uint32_t chunk, microbatch, slice, op;
};

static int compare_unit(const void *a, const void *b) {
    const struct unit *x = a, *y = b;
    const uint32_t left[] = {x->chunk, x->microbatch, x->slice, x->op};
    const uint32_t right[] = {y->chunk, y->microbatch, y->slice, y->op};
    for (size_t i = 0; i < sizeof left / sizeof left[0]; i++) {
        if (left[i] != right[i]) {
            return left[i] < right[i] ? -1 : 1;
        }
    }
    return 0;
}

static bool same_unit(const struct sf_op *a, const struct sf_op *b) {
    return a->chunk == b->chunk && a->microbatch == b->microbatch && a->slice == b->slice;
}

static bool overlap(const struct sf_arg *a, const struct sf_arg *b) {
    return a->buf == b->buf && a->offset < b->offset + b->bytes && b->offset < a->offset + a->bytes;
}

static bool is_copy(int kind) {
    return kind == SF_OP_OFFLOAD || kind == SF_OP_FETCH;
}

/* Only copies touch what is in the host's memory, and each goes from one side to the other. */
static int check_sides(const struct sf_prog *prog, uint32_t class_i, uint32_t op_i, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    const struct sf_op *op = &c->ops[op_i];
    for (uint32_t a = 0; a < op->arg_n; a++) {
        bool host = c->bufs[c->args[op->arg_first + a].buf].kind == SF_BUF_HOST;
        if (host != (is_copy(op->kind) && (op->kind == SF_OP_OFFLOAD) == (a == 1))) {
            return sfi_fail_op(prog, class_i, op_i, err, "argument %u is %s the host's memory", a,
                               host ? "in" : "not in");
        }
    }
    return SF_OK;
}

/* The passes and copies of one unit, in program order. */
struct group {
    const struct sf_prog *prog;
    const struct sfi_order *order;
    const struct unit *units;
    uint32_t class_i, n;
};

static const struct sf_op *op_of(const struct group *g, uint32_t i) {
    return &g->prog->classes[g->class_i].ops[g->units[i].op];
}

static const struct sf_arg *args_of(const struct group *g, uint32_t i) {
    return &g->prog->classes[g->class_i].args[op_of(g, i)->arg_first];
}

static bool before(const struct group *g, uint32_t a, uint32_t b) {
    return sfi_before(g->order, g->prog->classes[g->class_i].ops, g->units[a].op, g->units[b].op);
}

static bool touches(const struct group *g, uint32_t i, const struct sf_arg *range, enum sf_access access) {
    const struct sf_arg *args = args_of(g, i);
    for (uint32_t a = 0; a < op_of(g, i)->arg_n; a++) {
        if (args[a].access & access && overlap(&args[a], range)) {
            return true;
        }
    }
    return false;
}

/* The fetch that brings back exactly what `offload` took away; n: there is none. */
static uint32_t fetch_of(const struct group *g, uint32_t offload) {
    const struct sf_arg *to = &args_of(g, offload)[1];
    for (uint32_t i = 0; i < g->n; i++) {
        const struct sf_arg *from = &args_of(g, i)[0];
        if (op_of(g, i)->kind == SF_OP_FETCH && from->buf == to->buf && from->offset == to->offset &&
            from->bytes == to->bytes && before(g, offload, i)) {
            return i;
        }
    }
    return g->n;
}

static int check_offload(const struct group *g, uint32_t at, struct sf_err *err) {
    const struct sf_arg *source = &args_of(g, at)[0];
    uint32_t op = g->units[at].op, fetch = fetch_of(g, at);
    if (fetch == g->n) {
        return sfi_fail_op(g->prog, g->class_i, op, err, "takes away what no later fetch brings back");
    }
    const struct sf_arg *back = &args_of(g, fetch)[1];
    for (uint32_t i = 0; i < g->n; i++) {
        if (op_of(g, i)->kind == SF_OP_FORWARD && touches(g, i, source, SF_WRITE) && !before(g, i, at)) {
            return sfi_fail_op(g->prog, g->class_i, op, err, "may start before op %u has made what it takes away",
                               g->units[i].op);
        }
        bool uses = sfi_is_backward(op_of(g, i)->kind);
        if (uses && touches(g, i, back, SF_READ) && !before(g, fetch, i)) {
            return sfi_fail_op(g->prog, g->class_i, g->units[i].op, err, "uses what op %u has yet to bring back",
                               g->units[fetch].op);
        }
        if (uses && touches(g, i, source, SF_READ) && !overlap(source, back)) {
            return sfi_fail_op(g->prog, g->class_i, g->units[i].op, err, "uses what op %u took to the host", op);
        }
    }
    return SF_OK;
}

/* What a fetch brings was put there by its own unit's offload, and by nobody since. */
static int check_fetch(const struct sf_prog *prog, uint32_t class_i, uint32_t op_i, const uint32_t *copies,
                       uint32_t copies_n, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    const struct sf_op *op = &c->ops[op_i];
    const struct sf_arg *from = &c->args[op->arg_first];
    for (uint32_t i = copies_n; i-- > 0;) {
        const struct sf_op *o = &c->ops[copies[i]];
        const struct sf_arg *to = &c->args[o->arg_first + 1];
        if (copies[i] >= op_i || o->kind != SF_OP_OFFLOAD || !overlap(to, from)) {
            continue;
        }
        if (!same_unit(o, op) || to->offset != from->offset || to->bytes != from->bytes) {
            return sfi_fail_op(prog, class_i, op_i, err,
                               "brings back what op %u put there, another microbatch's or part", copies[i]);
        }
        return SF_OK;
    }
    return sfi_fail_op(prog, class_i, op_i, err, "brings back what nobody has put there");
}

static int check_groups(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order,
                        const struct unit *units, uint32_t n, struct sf_err *err) {
    struct group g = {.prog = prog, .order = order, .class_i = class_i};
    for (uint32_t first = 0; first < n; first += g.n) {
        g.units = units + first;
        for (g.n = 1; first + g.n < n && same_unit(op_of(&g, 0), op_of(&g, g.n)); g.n++) {
        }
        for (uint32_t i = 0; i < g.n; i++) {
            SF_TRY(op_of(&g, i)->kind == SF_OP_OFFLOAD ? check_offload(&g, i, err) : SF_OK);
        }
    }
    return SF_OK;
}

static uint32_t host_buffer(const struct sf_class *c, uint32_t op) {
    return c->args[c->ops[op].arg_first + (c->ops[op].kind == SF_OP_OFFLOAD)].buf;
}

/* Copies by the buffer that they use on the host, in program order, so that a fetch looks back over few; end[b] is
 * where those of buffer b end. */
static void sort_copies(const struct sf_class *c, uint32_t *end, uint32_t *copies) {
    for (uint32_t i = 0; i < c->ops_n; i++) {
        if (is_copy(c->ops[i].kind)) {
            end[host_buffer(c, i)]++;
        }
    }
    for (uint32_t b = 0, sum = 0; b < c->bufs_n; b++) {
        uint32_t n = end[b];
        end[b] = sum;
        sum += n;
    }
    for (uint32_t i = 0; i < c->ops_n; i++) {
        if (is_copy(c->ops[i].kind)) {
            copies[end[host_buffer(c, i)]++] = i;
        }
    }
}

static int check_fetches(const struct sf_prog *prog, uint32_t class_i, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    uint32_t *end = sf_calloc(c->bufs_n, sizeof *end), *copies = sf_calloc(c->ops_n, sizeof *copies);
    int rc = end && copies ? SF_OK : sf_fail_memory(err, "host memory check");
    if (rc == SF_OK) {
        sort_copies(c, end, copies);
    }
    for (uint32_t i = 0; i < c->ops_n && rc == SF_OK; i++) {
        if (c->ops[i].kind == SF_OP_FETCH) {
            uint32_t buf = host_buffer(c, i), first = buf > 0 ? end[buf - 1] : 0;
            rc = check_fetch(prog, class_i, i, copies + first, end[buf] - first, err);
        }
    }
    sf_free(copies);
    sf_free(end);
    return rc;
}

int sfi_check_host(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    uint32_t n = 0, copies = 0;
    for (uint32_t i = 0; i < c->ops_n; i++) {
        SF_TRY(check_sides(prog, class_i, i, err));
        copies += is_copy(c->ops[i].kind);
    }
    struct unit *units = copies > 0 ? sf_calloc(c->ops_n, sizeof *units) : NULL;
    if (copies == 0 || units == NULL) {
        return copies == 0 ? SF_OK : sf_fail_memory(err, "host memory check");
    }
    for (uint32_t i = 0; i < c->ops_n; i++) {
        const struct sf_op *op = &c->ops[i];
        if (op->kind == SF_OP_FORWARD || sfi_is_backward(op->kind) || is_copy(op->kind)) {
            units[n++] = (struct unit){op->chunk, op->microbatch, op->slice, i};
        }
    }
    qsort(units, n, sizeof *units, compare_unit);
    int rc = check_fetches(prog, class_i, err);
    rc = rc == SF_OK ? check_groups(prog, class_i, order, units, n, err) : rc;
    sf_free(units);
    return rc;
}
