/* Memory safety of a class: no two live buffers share bytes, no two unordered ops fight over a range. */
#include <stdlib.h>

#include "core/prog_check.h"

struct access {
    uint64_t offset, end;
    uint32_t buf, op;
    uint32_t mode;
};

static int compare_access(const void *a, const void *b) {
    const struct access *x = a, *y = b;
    if (x->buf != y->buf) {
        return x->buf < y->buf ? -1 : 1;
    }
    return x->op < y->op ? -1 : x->op > y->op;
}

static uint32_t list_accesses(const struct sf_class *c, struct access *out) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->ops_n; i++) {
        for (uint32_t a = 0; a < c->ops[i].arg_n; a++) {
            const struct sf_arg *arg = &c->args[c->ops[i].arg_first + a];
            out[n++] = (struct access){arg->offset, arg->offset + arg->bytes, arg->buf, i, arg->access};
        }
    }
    qsort(out, n, sizeof *out, compare_access);
    return n;
}

/* Accesses [first, last) are to one buffer, by op index: later ones can only come after or be unordered. */
static int check_races(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order,
                       const struct access *list, uint32_t first, uint32_t last, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    for (uint32_t b = first; b < last; b++) {
        for (uint32_t a = first; a < b; a++) {
            bool ordered = c->ops[list[a].op].stream == c->ops[list[b].op].stream;
            bool harmless = !((list[a].mode | list[b].mode) & SF_WRITE);
            bool apart = list[a].end <= list[b].offset || list[b].end <= list[a].offset;
            if (ordered || harmless || apart || list[a].op == list[b].op) {
                continue;
            }
            if (!sfi_before(order, c->ops, list[a].op, list[b].op)) {
                char label[96];
                return sfi_fail_op(prog, class_i, list[b].op, err,
                                   "touches buffer \"%s\" at the same time as op %u (%s): add a dependency",
                                   c->bufs[list[a].buf].name, list[a].op,
                                   sf_op_label(prog, class_i, list[a].op, label, sizeof label));
            }
        }
    }
    return SF_OK;
}

struct span {
    uint64_t offset, end;
    uint32_t buf;
};

static int compare_span(const void *a, const void *b) {
    const struct span *x = a, *y = b;
    if (x->offset != y->offset) {
        return x->offset < y->offset ? -1 : 1;
    }
    return x->buf < y->buf ? -1 : x->buf > y->buf;
}

static bool is_persistent(const struct sf_buffer *b) {
    return b->first_op == 0 && b->last_op == SF_NONE;
}

/* Among the buffers on the host, or among all others. */
static int check_sharing(const struct sf_class *c, uint32_t class_i, bool host, const struct sfi_uses *uses,
                         struct span *spans, struct sf_err *err) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->bufs_n; i++) {
        if ((c->bufs[i].kind == SF_BUF_HOST) == host && c->bufs[i].bytes > 0 &&
            (uses[i].used || is_persistent(&c->bufs[i]))) {
            spans[n++] = (struct span){c->bufs[i].offset, c->bufs[i].offset + c->bufs[i].bytes, i};
        }
    }
    qsort(spans, n, sizeof *spans, compare_span);
    for (uint32_t a = 0; a < n; a++) {
        for (uint32_t b = a + 1; b < n && spans[b].offset < spans[a].end; b++) {
            const struct sf_buffer *x = &c->bufs[spans[a].buf], *y = &c->bufs[spans[b].buf];
            const struct sfi_uses *ux = &uses[spans[a].buf], *uy = &uses[spans[b].buf];
            if (is_persistent(x) || is_persistent(y) || (!sfi_uses_before(ux, uy) && !sfi_uses_before(uy, ux))) {
                return sf_fail(err, SF_E_INPUT, "class %u: buffers \"%s\" and \"%s\" share memory while both are alive",
                               class_i, x->name, y->name);
            }
        }
    }
    return SF_OK;
}

static int check_lifetimes(const struct sf_prog *prog, uint32_t class_i, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    for (uint32_t i = 0; i < c->ops_n; i++) {
        for (uint32_t a = 0; a < c->ops[i].arg_n; a++) {
            const struct sf_buffer *b = &c->bufs[c->args[c->ops[i].arg_first + a].buf];
            if (i < b->first_op || i > b->last_op) {
                return sfi_fail_op(prog, class_i, i, err, "uses buffer \"%s\" outside its lifetime, ops %u to %u",
                                   b->name, b->first_op, b->last_op);
            }
        }
    }
    return SF_OK;
}

int sfi_check_memory(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    SF_TRY(check_lifetimes(prog, class_i, err));
    struct access *list = sf_calloc(c->args_n, sizeof *list);
    struct sfi_uses *uses = sf_calloc(c->bufs_n, sizeof *uses);
    struct span *spans = sf_calloc(c->bufs_n, sizeof *spans);
    int rc = SF_OK;
    if (!list || !uses || !spans) {
        rc = sf_fail_memory(err, "memory check");
        goto done;
    }
    for (uint32_t i = 0; i < c->bufs_n; i++) {
        sfi_uses_init(&uses[i]);
    }
    uint32_t n = list_accesses(c, list);
    for (uint32_t first = 0, last; first < n; first = last) {
        for (last = first; last < n && list[last].buf == list[first].buf; last++) {
            sfi_uses_add(&uses[list[last].buf], order, c->ops, list[last].op);
        }
        if (last - first > SF_MAX_BUFFER_USES) {
            rc = sf_fail(err, SF_E_INPUT, "class %u buffer \"%s\" is used %u times, more than %u", class_i,
                         c->bufs[list[first].buf].name, last - first, SF_MAX_BUFFER_USES);
            goto done;
        }
        SF_TRY_GOTO(rc, check_races(prog, class_i, order, list, first, last, err), done);
    }
    rc = check_sharing(c, class_i, false, uses, spans, err);
    rc = rc == SF_OK ? check_sharing(c, class_i, true, uses, spans, err) : rc;
done:
    sf_free(spans);
    sf_free(uses);
    sf_free(list);
    return rc;
}
