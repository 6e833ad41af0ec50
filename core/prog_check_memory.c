/* Memory safety of a class: no two live buffers share bytes, no two unordered ops fight over a range. */
#include <stdlib.h>
#include <string.h>

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
    uint32_t buf, first; /* first: op that uses it */
};

static int compare_span(const void *a, const void *b) {
    const struct span *x = a, *y = b;
    if (x->offset != y->offset) {
        return x->offset < y->offset ? -1 : 1;
    }
    return x->buf < y->buf ? -1 : x->buf > y->buf;
}

static int compare_end(const void *a, const void *b) {
    const struct span *x = a, *y = b;
    if (x->end != y->end) {
        return x->end < y->end ? -1 : 1;
    }
    return x->buf < y->buf ? -1 : x->buf > y->buf;
}

static bool is_persistent(const struct sf_buffer *b) {
    return b->first_op == 0 && b->last_op == SF_NONE;
}

/* Buffers over one address, by the first op that uses each: a set of ops, 64 to a word, and of its words that have
 * any, and so on. */
#define LEVELS 5
struct over {
    uint64_t *level[LEVELS];
    uint32_t *buf;                 /* [ops_n] whose first use an op of the set is */
    uint32_t used_n, persistent_n; /* now */
};

static void over_clear(struct over *o) {
    for (int l = 0; l < LEVELS; l++) {
        sf_free(o->level[l]);
    }
    sf_free(o->buf);
}

static int over_init(struct over *o, uint32_t ops_n, struct sf_err *err) {
    *o = (struct over){.buf = sf_calloc(ops_n, sizeof *o->buf)};
    bool all = o->buf != NULL;
    for (int l = 0; l < LEVELS; l++) {
        o->level[l] = sf_calloc(((size_t)ops_n >> 6 * (l + 1)) + 1, sizeof *o->level[l]);
        all = all && o->level[l] != NULL;
    }
    return all ? SF_OK : sf_fail_memory(err, "memory check");
}

static bool over_has(const struct over *o, uint32_t op) {
    return o->level[0][op >> 6] >> (op & 63) & 1;
}

static void over_put(struct over *o, uint32_t op, uint32_t buf) {
    o->buf[op] = buf;
    for (int l = 0; l < LEVELS; l++, op >>= 6) {
        o->level[l][op >> 6] |= UINT64_C(1) << (op & 63);
    }
}

static void over_take(struct over *o, uint32_t op) {
    for (int l = 0; l < LEVELS; l++, op >>= 6) {
        o->level[l][op >> 6] &= ~(UINT64_C(1) << (op & 63));
        if (o->level[l][op >> 6] != 0) {
            return;
        }
    }
}

static uint32_t bit_of(uint64_t word, bool later) {
    return (uint32_t)(later ? __builtin_ctzll(word) : 63 - __builtin_clzll(word));
}

/* The op of the set that is nearest to this one, behind or before it; SF_NONE. */
static uint32_t over_near(const struct over *o, uint32_t op, bool later) {
    for (int l = 0; l < LEVELS; l++, op >>= 6) {
        uint64_t beyond = later ? ~UINT64_C(1) << (op & 63) : (UINT64_C(1) << (op & 63)) - 1;
        uint64_t word = o->level[l][op >> 6] & beyond;
        if (word != 0) {
            uint32_t at = (op & ~UINT32_C(63)) + bit_of(word, later);
            for (int k = l; k-- > 0;) {
                at = at * 64 + bit_of(o->level[k][at], later);
            }
            return at;
        }
    }
    return SF_NONE;
}

/* May `s` be over the same address as all that are there? Each of those is wholly before or behind each other, which
 * is transitive, so the two nearest to it tell. */
static bool fits_among(const struct sf_class *c, const struct sfi_uses *uses, const struct over *o,
                       const struct span *s) {
    if (is_persistent(&c->bufs[s->buf])) {
        return o->used_n + o->persistent_n == 0;
    }
    if (o->persistent_n > 0 || over_has(o, s->first)) {
        return false;
    }
    uint32_t before = over_near(o, s->first, false), behind = over_near(o, s->first, true);
    return (before == SF_NONE || sfi_uses_before(&uses[o->buf[before]], &uses[s->buf])) &&
           (behind == SF_NONE || sfi_uses_before(&uses[s->buf], &uses[o->buf[behind]]));
}

/* Goes through the addresses: who begins there joins those over it, who has ended leaves. `ends`: the same spans. */
static bool share_well(const struct sf_class *c, const struct sfi_uses *uses, struct over *o, const struct span *spans,
                       const struct span *ends, uint32_t n) {
    uint32_t gone = 0;
    for (uint32_t i = 0; i < n; i++) {
        for (; ends[gone].end <= spans[i].offset; gone++) {
            if (is_persistent(&c->bufs[ends[gone].buf])) {
                o->persistent_n--;
            } else {
                over_take(o, ends[gone].first);
                o->used_n--;
            }
        }
        if (!fits_among(c, uses, o, &spans[i])) {
            return false;
        }
        if (is_persistent(&c->bufs[spans[i].buf])) {
            o->persistent_n++;
        } else {
            over_put(o, spans[i].first, spans[i].buf);
            o->used_n++;
        }
    }
    return true;
}

/* Two that share memory while both are alive: there are some. */
static int refuse_sharing(const struct sf_class *c, uint32_t class_i, const struct sfi_uses *uses,
                          const struct span *spans, uint32_t n, struct sf_err *err) {
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
    return sf_fail(err, SF_E_INPUT, "class %u: buffers share memory while they are alive", class_i);
}

/* What the check of one class needs room for. */
struct memory {
    struct access *list;
    uint32_t *first; /* [bufs_n + 1] of each buffer's accesses in it */
    uint32_t *room;  /* for twice as many numbers of accesses */
    struct sfi_uses *uses;
    struct span *spans; /* [2 * bufs_n] */
};

/* Among the buffers on the host, or among all others. */
static int check_sharing(const struct sf_class *c, uint32_t class_i, bool host, const struct memory *m,
                         struct sf_err *err) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->bufs_n; i++) {
        const struct sf_buffer *b = &c->bufs[i];
        if ((b->kind == SF_BUF_HOST) == host && b->bytes > 0 && (m->uses[i].used || is_persistent(b))) {
            uint32_t first = m->uses[i].used ? m->list[m->first[i]].op : 0;
            m->spans[n++] = (struct span){b->offset, b->offset + b->bytes, i, first};
        }
    }
    struct span *ends = m->spans + c->bufs_n;
    struct over over;
    memcpy(ends, m->spans, n * sizeof *ends);
    qsort(m->spans, n, sizeof *m->spans, compare_span);
    qsort(ends, n, sizeof *ends, compare_end);
    int rc = over_init(&over, c->ops_n, err);
    if (rc == SF_OK && !share_well(c, m->uses, &over, m->spans, ends, n)) {
        rc = refuse_sharing(c, class_i, m->uses, m->spans, n, err);
    }
    over_clear(&over);
    return rc;
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
    SF_TRY(check_sharing(c, class_i, false, m, err));
    return check_sharing(c, class_i, true, m, err);
}

int sfi_check_memory(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    SF_TRY(check_lifetimes(prog, class_i, err));
    struct memory m = {.list = sf_calloc(c->args_n, sizeof *m.list),
                       .first = sf_calloc((size_t)c->bufs_n + 1, sizeof *m.first),
                       .room = sf_calloc(2 * (size_t)c->args_n, sizeof *m.room),
                       .uses = sf_calloc(c->bufs_n, sizeof *m.uses),
                       .spans = sf_calloc(2 * (size_t)c->bufs_n, sizeof *m.spans)};
    bool all = m.list && m.first && m.room && m.uses && m.spans;
    int rc = all ? check_uses(prog, class_i, order, &m, err) : sf_fail_memory(err, "memory check");
    sf_free(m.spans);
    sf_free(m.uses);
    sf_free(m.room);
    sf_free(m.first);
    sf_free(m.list);
    return rc;
}
