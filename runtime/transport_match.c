#include "runtime/transport_match.h"

#include <stdlib.h>

/* What decides which transfers belong together. `end` comes first: matching keys are an array of ends. */
struct key {
    struct sfi_end end;
    uint32_t collective, comm, from, to, seq; /* collective: from = group */
    uint32_t index;
};

static int compare_u32(uint32_t a, uint32_t b) {
    return a < b ? -1 : a > b;
}

static int compare_match(const struct key *a, const struct key *b) {
    int c = compare_u32(a->collective, b->collective);
    c = c ? c : compare_u32(a->comm, b->comm);
    c = c ? c : compare_u32(a->from, b->from);
    c = c ? c : compare_u32(a->to, b->to);
    return c ? c : compare_u32(a->seq, b->seq);
}

static int compare_key(const void *a, const void *b) {
    const struct key *x = a, *y = b;
    int c = compare_match(x, y);
    return c ? c : compare_u32(x->index, y->index);
}

static struct key key_of(const struct sf_prog *prog, uint32_t rank, struct sfi_xfer *x) {
    struct key k = {.comm = x->comm, .seq = x->seq, .index = x->index, .end = {.rank = rank, .x = x}};
    if (sf_op_group(x->kind) == SF_OP_IS_COLL) {
        k.collective = 1;
        k.from = sf_prog_comm_group(prog, rank, x->comm);
    } else {
        k.from = x->kind == SF_OP_SEND ? rank : x->peer;
        k.to = x->kind == SF_OP_SEND ? x->peer : rank;
    }
    return k;
}

static bool talks(const struct sfi_xfer *x) {
    enum sf_op_group group = sf_op_group(x->kind);
    return group == SF_OP_IS_P2P || group == SF_OP_IS_COLL;
}

/* Keys [first, last) match: hand on their ends. */
static int join_keys(const struct key *keys, size_t first, size_t last, struct sfi_end *ends,
                     int (*join)(void *self, const struct sfi_end *ends, uint32_t n, struct sf_err *err), void *self,
                     struct sf_err *err) {
    const struct key *head = &keys[first];
    uint32_t n = head->end.x->n;
    if (last - first != n) {
        return sf_fail(err, SF_E_INPUT, "rank %u: %s number %u on communicator %u has %zu partners: expected %u",
                       head->end.rank, sf_op_name(head->end.x->kind), head->seq, head->comm, last - first, n);
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct key *k = &keys[first + i];
        if (k->index != i || k->end.x->bytes != head->end.x->bytes) {
            return sf_fail(err, SF_E_INPUT, "rank %u: %s number %u on communicator %u does not fit its partners",
                           k->end.rank, sf_op_name(k->end.x->kind), k->seq, k->comm);
        }
        ends[i] = k->end;
    }
    return join(self, ends, n, err);
}

int sfi_match_transfers(const struct sf_prog *prog, struct sfi_xfer *const xfers[], const uint32_t xfers_n[],
                        uint32_t ranks,
                        int (*join)(void *self, const struct sfi_end *ends, uint32_t n, struct sf_err *err), void *self,
                        struct sf_err *err) {
    size_t n = 0, room = 0;
    for (uint32_t r = 0; r < ranks; r++) {
        room += xfers_n[r];
    }
    struct key *keys = sf_calloc(room, sizeof *keys);
    struct sfi_end *ends = sf_calloc(room, sizeof *ends);
    int rc = keys && ends ? SF_OK : sf_fail_memory(err, "links between ranks");
    for (uint32_t r = 0; r < ranks && rc == SF_OK; r++) {
        for (uint32_t i = 0; i < xfers_n[r]; i++) {
            if (talks(&xfers[r][i])) {
                keys[n++] = key_of(prog, r, &xfers[r][i]);
            }
        }
    }
    if (rc == SF_OK) {
        qsort(keys, n, sizeof *keys, compare_key);
    }
    for (size_t first = 0, last; first < n && rc == SF_OK; first = last) {
        for (last = first + 1; last < n && compare_match(&keys[first], &keys[last]) == 0; last++) {
        }
        rc = join_keys(keys, first, last, ends, join, self, err);
    }
    sf_free(ends);
    sf_free(keys);
    return rc;
}
