#include "core/prog_order.h"

#include <string.h>

static void learn(uint32_t known[SF_MAX_STREAMS], const uint32_t from[SF_MAX_STREAMS]) {
    for (int s = 0; s < SF_MAX_STREAMS; s++) {
        known[s] = from[s] > known[s] ? from[s] : known[s];
    }
}

int sfi_order_create(const struct sf_op *ops, uint32_t ops_n, const uint32_t *deps, struct sfi_order *out,
                     struct sf_err *err) {
    uint32_t last[SF_MAX_STREAMS]; /* latest op of each stream so far */
    memset(last, 0xff, sizeof last);
    out->ops_n = ops_n;
    out->position = sf_calloc(ops_n, sizeof *out->position);
    out->known = sf_calloc(ops_n, sizeof *out->known);
    if (!out->position || !out->known) {
        sfi_order_free(out);
        return sf_fail_memory(err, "order of a program class");
    }
    for (uint32_t i = 0; i < ops_n; i++) {
        const struct sf_op *op = &ops[i];
        if (last[op->stream] != SF_NONE) {
            out->position[i] = out->position[last[op->stream]] + 1;
            learn(out->known[i], out->known[last[op->stream]]);
        }
        out->known[i][op->stream] = out->position[i];
        for (uint32_t d = 0; d < op->dep_n; d++) {
            uint32_t dep = deps[op->dep_first + d];
            uint32_t *seen = &out->known[i][ops[dep].stream];
            learn(out->known[i], out->known[dep]);
            *seen = out->position[dep] + 1 > *seen ? out->position[dep] + 1 : *seen;
        }
        last[op->stream] = i;
    }
    return SF_OK;
}

void sfi_order_free(struct sfi_order *o) {
    sf_free(o->position);
    sf_free(o->known);
    o->position = NULL;
    o->known = NULL;
}

void sfi_uses_init(struct sfi_uses *u) {
    memset(u->last, 0, sizeof u->last);
    memset(u->known, 0xff, sizeof u->known);
    u->used = false;
}

void sfi_uses_add(struct sfi_uses *u, const struct sfi_order *o, const struct sf_op *ops, uint32_t op) {
    uint32_t *last = &u->last[ops[op].stream];
    *last = o->position[op] + 1 > *last ? o->position[op] + 1 : *last;
    for (int s = 0; s < SF_MAX_STREAMS; s++) {
        u->known[s] = o->known[op][s] < u->known[s] ? o->known[op][s] : u->known[s];
    }
    u->used = true;
}

bool sfi_uses_before(const struct sfi_uses *a, const struct sfi_uses *b) {
    for (int s = 0; s < SF_MAX_STREAMS; s++) {
        if (a->last[s] > b->known[s]) {
            return false;
        }
    }
    return true;
}

int sfi_touches_create(const struct sf_class *c, struct sfi_touches *out, struct sf_err *err) {
    uint32_t *first = out->first = sf_calloc((size_t)c->bufs_n + 2, sizeof *out->first);
    out->all = sf_calloc(c->args_n, sizeof *out->all);
    if (!out->all || !out->first) {
        sfi_touches_free(out);
        return sf_fail_memory(err, "touches of a program class");
    }
    for (uint32_t a = 0; a < c->args_n; a++) {
        first[c->args[a].buf + 2]++;
    }
    for (uint32_t b = 1; b < c->bufs_n; b++) {
        first[b + 1] += first[b];
    }
    for (uint32_t i = 0; i < c->ops_n; i++) {
        for (uint32_t a = c->ops[i].arg_first; a < c->ops[i].arg_first + c->ops[i].arg_n; a++) {
            out->all[first[c->args[a].buf + 1]++] = (struct sfi_touch){i, a};
        }
    }
    return SF_OK;
}

void sfi_touches_free(struct sfi_touches *t) {
    sf_free(t->first);
    sf_free(t->all);
    t->first = NULL;
    t->all = NULL;
}

uint32_t sfi_touches_from(const struct sfi_touches *t, uint32_t buf, uint32_t op) {
    uint32_t lo = t->first[buf], hi = t->first[buf + 1];
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (t->all[mid].op < op) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}
