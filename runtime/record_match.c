/* Messages that belong together, over the graphs of all ranks: what communicators would find out by hanging. */
#include <stdlib.h>
#include <string.h>

#include "runtime/record_graph.h"
#include "runtime/transport.h"

/* One message, and what decides which others it belongs to. */
struct entry {
    struct sfi_talk *talk;
    struct sfi_node *node;
    uint32_t collective, split, color, from, to; /* from and to: positions in the communicator */
    uint32_t seq, order;                         /* number among its like; place in its rank's capture */
};

static bool is_collective(const struct sfi_gpu_message *m) {
    return m->kind != SF_OP_SEND && m->kind != SF_OP_RECV;
}

static struct entry entry_of(struct sfi_node *node, struct sfi_talk *t, uint32_t order) {
    struct entry e = {.talk = t, .node = node, .split = t->comm->split, .color = t->comm->color, .order = order};
    if (is_collective(&t->m)) {
        e.collective = 1;
    } else {
        e.from = t->m.kind == SF_OP_SEND ? t->comm->key : t->m.peer;
        e.to = t->m.kind == SF_OP_SEND ? t->m.peer : t->comm->key;
    }
    return e;
}

static int compare_u32(uint32_t a, uint32_t b) {
    return a < b ? -1 : a > b;
}

static int compare_channel(const struct entry *a, const struct entry *b) {
    int c = compare_u32(a->split, b->split);
    c = c ? c : compare_u32(a->color, b->color);
    c = c ? c : compare_u32(a->collective, b->collective);
    c = c ? c : compare_u32(a->from, b->from);
    return c ? c : compare_u32(a->to, b->to);
}

/* By channel, then by the end that speaks, then in its order. */
static int compare_end(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    int c = compare_channel(x, y);
    c = c ? c : compare_u32(x->talk->m.kind == SF_OP_RECV, y->talk->m.kind == SF_OP_RECV);
    c = c ? c : compare_u32(x->talk->comm->key, y->talk->comm->key);
    return c ? c : compare_u32(x->order, y->order);
}

static int compare_transfer(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    int c = compare_channel(x, y);
    c = c ? c : compare_u32(x->seq, y->seq);
    c = c ? c : compare_u32(x->talk->m.kind == SF_OP_RECV, y->talk->m.kind == SF_OP_RECV);
    return c ? c : compare_u32(x->talk->comm->key, y->talk->comm->key);
}

static void number(struct entry *entries, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const struct entry *e = &entries[i], *before = e - 1;
        bool same = i > 0 && compare_channel(before, e) == 0 && before->talk->comm->key == e->talk->comm->key &&
                    (before->talk->m.kind == SF_OP_RECV) == (e->talk->m.kind == SF_OP_RECV);
        entries[i].seq = same ? before->seq + 1 : 0;
    }
}

static int fail_pair(const struct sfi_record *rec, const struct entry *a, const struct entry *b, const char *what,
                     struct sf_err *err) {
    return sfi_record_violation(
        rec, err, "communicator \"%s\": %s: rank %u op %d calls %s of %llu bytes of %s, rank %u op %d %s of %llu of %s",
        a->talk->comm->name, what, a->talk->comm->rank, (int)a->node->op, sf_op_name(a->talk->m.kind),
        (unsigned long long)a->talk->m.bytes, sf_dtype_name(a->talk->m.dtype), b->talk->comm->rank, (int)b->node->op,
        sf_op_name(b->talk->m.kind), (unsigned long long)b->talk->m.bytes, sf_dtype_name(b->talk->m.dtype));
}

/* Ranks of a communicator: those that split the same way. `all` is sorted by channel, so look at everybody. */
static uint32_t comm_size(const struct entry *all, size_t n, const struct entry *of, uint32_t world) {
    if (of->split == 0) {
        return world;
    }
    uint32_t size = 0;
    for (size_t i = 0; i < n; i++) {
        bool same = all[i].split == of->split && all[i].color == of->color && all[i].collective == of->collective;
        size = same && all[i].talk->comm->key >= size ? all[i].talk->comm->key + 1 : size;
    }
    return size;
}

static int check_ends(const struct sfi_record *rec, const struct entry *e, size_t n, size_t expected,
                      struct sf_err *err) {
    for (size_t i = 1; i < n; i++) {
        bool collective = e->collective != 0;
        if (collective && e[i].talk->m.kind != e->talk->m.kind) {
            return fail_pair(rec, e, &e[i], "members call in different orders", err);
        }
        if (e[i].talk->m.bytes != e->talk->m.bytes || (collective && e[i].talk->m.dtype != e->talk->m.dtype)) {
            return fail_pair(rec, e, &e[i], "counts or types differ", err);
        }
    }
    if (n == expected) {
        return SF_OK;
    }
    return sfi_record_violation(rec, err, "communicator \"%s\": rank %u op %d (%s, number %u) has %zu of %zu partners",
                                e->talk->comm->name, e->talk->comm->rank, (int)e->node->op, sf_op_name(e->talk->m.kind),
                                e->seq, n, expected);
}

static int add_transfer(struct sfi_transfers *out, const struct entry *e, size_t n, struct sf_err *err) {
    struct sfi_transfer *t = &out->transfers[out->n];
    t->n = (uint32_t)n;
    t->ends = sf_arena_alloc(out->arena, n, sizeof(struct sfi_talk *));
    t->nodes = sf_arena_alloc(out->arena, n, sizeof(struct sfi_node *));
    if (!t->ends || !t->nodes) {
        return sf_fail_memory(err, "transfers");
    }
    for (size_t i = 0; i < n; i++) {
        t->ends[i] = e[i].talk;
        t->nodes[i] = e[i].node;
        e[i].talk->transfer = out->n;
    }
    out->n++;
    return SF_OK;
}

static int match_entries(struct sfi_record *rec, struct entry *entries, size_t n, struct sfi_transfers *out,
                         struct sf_err *err) {
    qsort(entries, n, sizeof *entries, compare_end);
    number(entries, n);
    qsort(entries, n, sizeof *entries, compare_transfer);
    size_t expected = 0;
    for (size_t first = 0, last; first < n; first = last) {
        const struct entry *e = &entries[first];
        if (first == 0 || compare_channel(e - 1, e) != 0) {
            expected = e->collective ? comm_size(entries, n, e, rec->world) : 2;
        }
        for (last = first + 1; last < n && compare_channel(e, &entries[last]) == 0 && entries[last].seq == e->seq;
             last++) {
        }
        SF_TRY(check_ends(rec, e, last - first, expected, err));
        SF_TRY(add_transfer(out, e, last - first, err));
    }
    return SF_OK;
}

int sfi_record_match(struct sfi_record *rec, struct sfi_graph *const graphs[], size_t graphs_n,
                     struct sfi_transfers *out, struct sf_err *err) {
    size_t n = 0;
    *out = (struct sfi_transfers){.arena = sf_arena_create()};
    for (size_t g = 0; g < graphs_n; g++) {
        for (size_t i = 0; i < graphs[g]->nodes_n; i++) {
            n += graphs[g]->nodes[i].kind == SFI_NODE_TALK ? graphs[g]->nodes[i].u.talk.n : 0;
        }
    }
    struct entry *entries = sf_calloc(n, sizeof *entries);
    out->transfers = out->arena ? sf_arena_alloc(out->arena, n, sizeof *out->transfers) : NULL;
    int rc = entries && out->transfers ? SF_OK : sf_fail_memory(err, "transfers");
    n = 0;
    for (size_t g = 0; g < graphs_n && rc == SF_OK; g++) {
        for (size_t i = 0; i < graphs[g]->nodes_n; i++) {
            struct sfi_node *node = &graphs[g]->nodes[i];
            for (uint32_t t = 0; node->kind == SFI_NODE_TALK && t < node->u.talk.n; t++, n++) {
                entries[n] = entry_of(node, &node->u.talk.talks[t], (uint32_t)n);
            }
        }
    }
    if (rc == SF_OK) {
        rc = match_entries(rec, entries, n, out, err);
    }
    sf_free(entries);
    return rc;
}

/* ---- bytes ------------------------------------------------------------------------------------------------------ */

static void gather(const struct sfi_transfer *t) {
    uint64_t share = t->ends[0]->m.bytes / t->n;
    for (uint32_t i = 0; i < t->n; i++) {
        for (uint32_t j = 0; j < t->n; j++) {
            memmove(t->ends[i]->m.y + j * share, t->ends[j]->m.x, share);
        }
    }
}

/* The same tree as every other transport. */
static void reduce(const struct sfi_transfer *t) {
    const struct sfi_gpu_message *m = &t->ends[0]->m;
    uint64_t count = m->bytes / sizeof(float);
    const float *src[SFI_GPU_SOURCES];
    float *sum = sf_calloc(count, sizeof *sum);
    for (uint32_t i = 0; i < t->n; i++) {
        src[i] = (const float *)(const void *)t->ends[i]->m.x;
    }
    if (sum) {
        sf_kern_tree_sum(sum, src, t->n, count);
    }
    for (uint32_t i = 0; sum && i < t->n; i++) {
        bool all = m->kind == SF_OP_ALL_REDUCE;
        uint64_t first = all ? 0 : sfi_slice(count, i, t->n), end = all ? count : sfi_slice(count, i + 1, t->n);
        memcpy(t->ends[i]->m.y, sum + first, (end - first) * sizeof *sum);
    }
    sf_free(sum);
}

void sfi_record_transfer(const struct sfi_transfer *t) {
    switch (t->ends[0]->m.kind) {
    case SF_OP_SEND:
        memcpy(t->ends[1]->m.x, t->ends[0]->m.x, t->ends[0]->m.bytes);
        break;
    case SF_OP_ALL_GATHER:
        gather(t);
        break;
    default:
        reduce(t);
        break;
    }
}
