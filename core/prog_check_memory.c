/* Memory safety of a class: no two live buffers share bytes, no two unordered ops fight over a range. */
#include <stdlib.h>

#include "core/prog_check.h"

struct access {
    uint64_t offset, end;
    uint32_t buf, op;
    uint32_t mode;
};

/* Buffer by buffer, those of one in op order; `first` has room for where each begins, and one more. */
static void list_accesses(const struct sf_class *c, struct access *out, uint32_t *first) {
    for (uint32_t a = 0; a < c->args_n; a++) {
        first[c->args[a].buf + 1]++;
    }
    for (uint32_t b = 0; b < c->bufs_n; b++) {
        first[b + 1] += first[b];
    }
    for (uint32_t i = 0; i < c->ops_n; i++) {
        for (uint32_t a = 0; a < c->ops[i].arg_n; a++) {
            const struct sf_arg *arg = &c->args[c->ops[i].arg_first + a];
            out[first[arg->buf]++] = (struct access){arg->offset, arg->offset + arg->bytes, arg->buf, i, arg->access};
        }
    }
    for (uint32_t b = c->bufs_n; b > 0; b--) {
        first[b] = first[b - 1];
    }
    first[0] = 0;
}

struct accesses { /* of one stream to one buffer, in op order */
    uint32_t *at;
    uint32_t n;
};

/* May one that came before be under way when `b` starts, one of them writing what the other touches? Accesses of a
 * stream are over in their order, so the last one that matters tells. */
static bool is_late(const struct sf_class *c, const struct sfi_order *order, const struct access *list,
                    const struct accesses *before, const struct access *b) {
    for (uint32_t k = before->n; k-- > 0;) {
        const struct access *a = &list[before->at[k]];
        if (a->offset < b->end && b->offset < a->end) {
            return !sfi_before(order, c->ops, a->op, b->op);
        }
    }
    return false;
}

/* The first of these accesses to one buffer that races with one before it; `n`: none. `room` is for two of each. */
static uint32_t find_race(const struct sf_class *c, const struct sfi_order *order, const struct access *list,
                          uint32_t n, uint32_t *room) {
    struct accesses all[SF_MAX_STREAMS] = {0}, writes[SF_MAX_STREAMS] = {0};
    uint32_t modes = 0;
    for (uint32_t i = 0; i < n; i++) {
        all[c->ops[list[i].op].stream].n++;
        modes |= list[i].mode;
    }
    for (uint32_t s = 0; s < SF_MAX_STREAMS; s++) {
        all[s].at = room;
        writes[s].at = room + all[s].n;
        room += 2 * all[s].n;
        all[s].n = 0;
    }
    for (uint32_t i = 0; i < n && modes & SF_WRITE; i++) {
        uint32_t own = c->ops[list[i].op].stream;
        for (uint32_t s = 0; s < SF_MAX_STREAMS; s++) {
            const struct accesses *before = list[i].mode & SF_WRITE ? &all[s] : &writes[s];
            if (s != own && is_late(c, order, list, before, &list[i])) {
                return i;
            }
        }
        all[own].at[all[own].n++] = i;
        if (list[i].mode & SF_WRITE) {
            writes[own].at[writes[own].n++] = i;
        }
    }
    return n;
}

/* Access `b` is late: name the first one that it races with. */
static int refuse_race(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order,
                       const struct access *list, uint32_t b, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    const struct access *y = &list[b];
    uint32_t a = 0;
    for (bool found = false; !found && a < b; a += !found) {
        const struct access *x = &list[a];
        found = c->ops[x->op].stream != c->ops[y->op].stream && (x->mode | y->mode) & SF_WRITE && x->offset < y->end &&
                y->offset < x->end && !sfi_before(order, c->ops, x->op, y->op);
    }
    char label[96];
    return sfi_fail_op(prog, class_i, y->op, err,
                       "touches buffer \"%s\" at the same time as op %u (%s): add a dependency", c->bufs[y->buf].name,
                       list[a].op, sf_op_label(prog, class_i, list[a].op, label, sizeof label));
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

/* What the check of one class needs room for. */
struct memory {
    struct access *list;
    uint32_t *first; /* [bufs_n + 1] of each buffer's accesses in it */
    uint32_t *room;  /* for twice as many numbers of accesses */
    struct sfi_uses *uses;
    struct span *spans;
};

static int check_uses(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order,
                      const struct memory *m, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    list_accesses(c, m->list, m->first);
    for (uint32_t b = 0; b < c->bufs_n; b++) {
        const struct access *list = &m->list[m->first[b]];
        uint32_t n = m->first[b + 1] - m->first[b];
        sfi_uses_init(&m->uses[b]);
        for (uint32_t i = 0; i < n; i++) {
            sfi_uses_add(&m->uses[b], order, c->ops, list[i].op);
        }
        if (n > SF_MAX_BUFFER_USES) {
            return sf_fail(err, SF_E_INPUT, "class %u buffer \"%s\" is used %u times, more than %u", class_i,
                           c->bufs[b].name, n, SF_MAX_BUFFER_USES);
        }
        uint32_t late = find_race(c, order, list, n, m->room);
        if (late < n) {
            return refuse_race(prog, class_i, order, list, late, err);
        }
    }
    SF_TRY(check_sharing(c, class_i, false, m->uses, m->spans, err));
    return check_sharing(c, class_i, true, m->uses, m->spans, err);
}

int sfi_check_memory(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    SF_TRY(check_lifetimes(prog, class_i, err));
    struct memory m = {.list = sf_calloc(c->args_n, sizeof *m.list),
                       .first = sf_calloc((size_t)c->bufs_n + 1, sizeof *m.first),
                       .room = sf_calloc(2 * (size_t)c->args_n, sizeof *m.room),
                       .uses = sf_calloc(c->bufs_n, sizeof *m.uses),
                       .spans = sf_calloc(c->bufs_n, sizeof *m.spans)};
    bool all = m.list && m.first && m.room && m.uses && m.spans;
    int rc = all ? check_uses(prog, class_i, order, &m, err) : sf_fail_memory(err, "memory check");
    sf_free(m.spans);
    sf_free(m.uses);
    sf_free(m.room);
    sf_free(m.first);
    sf_free(m.list);
    return rc;
}
