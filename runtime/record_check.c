/* A finished capture against its program, and against itself. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/record_graph.h"
#include "runtime/transport_match.h"

/* ---- order ------------------------------------------------------------------------------------------------------ */

struct order {
    struct sfi_record *rec;
    const struct sfi_session *s;
    const struct sfi_graph *g;
    const struct sfi_op_mark ***marks; /* [local rank][op] */
};

static int fail_op(const struct order *o, const struct sfi_gpu_rank *r, uint32_t op, const char *what,
                   struct sf_err *err) {
    (void)sfi_record_violation(o->rec, err, "%s", what);
    return sfi_gpu_fail_op(r, op, err);
}

static int check_predecessor(const struct order *o, uint32_t local, uint32_t before, uint32_t op, struct sf_err *err) {
    const struct sfi_gpu_rank *r = &o->s->ranks[local];
    if (sfi_moment_before(o->marks[local][before]->end, o->marks[local][op]->begin, o->g->chains_room)) {
        return SF_OK;
    }
    char what[96];
    snprintf(what, sizeof what, "can begin before op %u, which it comes after, is over", before);
    return fail_op(o, r, op, what, err);
}

static int check_rank_order(const struct order *o, uint32_t local, struct sf_err *err) {
    const struct sfi_gpu_rank *r = &o->s->ranks[local];
    const struct sf_class *cls = r->host->cls;
    uint32_t last[SF_MAX_STREAMS];
    memset(last, 0xff, sizeof last);
    for (uint32_t i = 0; i < cls->ops_n; i++) {
        const struct sf_op *op = &cls->ops[i];
        if (!o->marks[local][i] || !o->marks[local][i]->begin || !o->marks[local][i]->end) {
            return fail_op(o, r, i, "was not captured", err);
        }
        for (uint32_t d = 0; d < op->dep_n; d++) {
            SF_TRY(check_predecessor(o, local, cls->deps[op->dep_first + d], i, err));
        }
        SF_TRY(last[op->stream] != SF_NONE ? check_predecessor(o, local, last[op->stream], i, err) : SF_OK);
        last[op->stream] = i;
    }
    return SF_OK;
}

static int index_marks(struct order *o, struct sf_arena *arena, struct sf_err *err) {
    o->marks = sf_arena_alloc(arena, o->s->ranks_n, sizeof *o->marks);
    for (uint32_t i = 0; o->marks && i < o->s->ranks_n; i++) {
        o->marks[i] = sf_arena_alloc(arena, o->s->ranks[i].host->cls->ops_n, sizeof(struct sfi_op_mark *));
        if (!o->marks[i]) {
            return sf_fail_memory(err, "checking a capture");
        }
    }
    for (size_t i = 0; o->marks && i < o->g->marks_n; i++) {
        const struct sfi_op_mark *m = &o->g->marks[i];
        const struct sfi_op_mark **at = &o->marks[m->rank - o->s->ranks[0].host->rank][m->op];
        if (*at) {
            return sfi_record_violation(o->rec, err, "rank %u op %u was captured twice", m->rank, m->op);
        }
        *at = m;
    }
    return o->marks ? SF_OK : sf_fail_memory(err, "checking a capture");
}

/* No end of a transfer is over before all ends have begun. */
static int check_meeting(void *self, const struct sfi_end *ends, uint32_t n, struct sf_err *err) {
    const struct order *o = self;
    for (uint32_t a = 0; a < n; a++) {
        for (uint32_t b = 0; b < n; b++) {
            const struct sfi_gpu_rank *ra = &o->s->ranks[ends[a].rank], *rb = &o->s->ranks[ends[b].rank];
            uint32_t oa = (uint32_t)(ends[a].x - ra->host->xfers), ob = (uint32_t)(ends[b].x - rb->host->xfers);
            if (!sfi_moment_before(o->marks[ends[b].rank][ob]->begin, o->marks[ends[a].rank][oa]->end,
                                   o->g->chains_room)) {
                return fail_op(o, ra, oa, "can be over before its partner has begun", err);
            }
        }
    }
    return SF_OK;
}

static int check_meetings(struct order *o, struct sf_arena *arena, struct sf_err *err) {
    struct sfi_xfer **xfers = sf_arena_alloc(arena, o->s->ranks_n, sizeof(struct sfi_xfer *));
    uint32_t *xfers_n = sf_arena_alloc(arena, o->s->ranks_n, sizeof *xfers_n);
    if (!xfers || !xfers_n) {
        return sf_fail_memory(err, "checking a capture");
    }
    for (uint32_t i = 0; i < o->s->ranks_n; i++) {
        xfers[i] = o->s->ranks[i].host->xfers;
        xfers_n[i] = o->s->ranks[i].host->cls->ops_n;
    }
    return sfi_match_transfers(o->s->run->image->prog, xfers, xfers_n, o->s->ranks_n, check_meeting, o, err);
}

int sfi_record_check_order(struct sfi_record *rec, const struct sfi_session *s, struct sf_err *err) {
    struct order o = {.rec = rec, .s = s, .g = s->graphs[0]};
    struct sf_arena *arena = sf_arena_create();
    int rc = arena ? index_marks(&o, arena, err) : sf_fail_memory(err, "checking a capture");
    for (uint32_t i = 0; i < s->ranks_n && rc == SF_OK; i++) {
        rc = check_rank_order(&o, i, err);
    }
    if (rc == SF_OK && s->is_virtual) {
        rc = check_meetings(&o, arena, err);
    }
    sf_arena_free(arena);
    return rc;
}

/* ---- hazards ---------------------------------------------------------------------------------------------------- */

/* Memory cut at every place where some access begins or ends. */
struct cells {
    struct sf_arena *arena;
    const char **cut;
    size_t n;
    struct {
        uint32_t chain, count; /* count: 1 + position; 0 = nobody */
        uint32_t op, rank;
    } * writer;
    uint32_t *readers; /* [cell][chain] 1 + position of the last one */
};

static int compare_place(const void *a, const void *b) {
    const char *x = *(const char *const *)a, *y = *(const char *const *)b;
    return x < y ? -1 : x > y;
}

static int cut_memory(const struct sfi_graph *g, struct cells *cells, struct sf_err *err) {
    struct sfi_access_range r[SFI_NODE_ACCESSES];
    size_t room = 0, n = 0;
    for (size_t i = 0; i < g->nodes_n; i++) {
        room += 2 * (size_t)sfi_node_accesses(&g->nodes[i], r);
    }
    cells->cut = sf_arena_alloc(cells->arena, room, sizeof *cells->cut);
    if (!cells->cut) {
        return sf_fail_memory(err, "checking memory");
    }
    for (size_t i = 0; i < g->nodes_n; i++) {
        uint32_t k = sfi_node_accesses(&g->nodes[i], r);
        for (uint32_t a = 0; a < k; a++) {
            cells->cut[n++] = r[a].at;
            cells->cut[n++] = r[a].at + r[a].bytes;
        }
    }
    qsort(cells->cut, n, sizeof *cells->cut, compare_place);
    for (size_t i = 0; i < n; i++) {
        if (cells->n == 0 || cells->cut[cells->n - 1] != cells->cut[i]) {
            cells->cut[cells->n++] = cells->cut[i];
        }
    }
    cells->writer = sf_arena_alloc(cells->arena, cells->n, sizeof *cells->writer);
    cells->readers = sf_arena_alloc(cells->arena, cells->n * g->chains_n, sizeof *cells->readers);
    return cells->writer && cells->readers ? SF_OK : sf_fail_memory(err, "checking memory");
}

static size_t cell_of(const struct cells *cells, const char *at) {
    size_t low = 0, high = cells->n;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (cells->cut[middle] <= at) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

/* Another stream's chain whose last access to the cell is not certainly over before `node`, or SF_NONE. */
static uint32_t find_conflict(const struct cells *cells, size_t cell, const struct sfi_graph *g,
                              const struct sfi_node *node, bool writes) {
    uint32_t writer = cells->writer[cell].chain;
    if (writer != node->chain && node->before[writer] < cells->writer[cell].count) {
        return writer;
    }
    const uint32_t *readers = &cells->readers[cell * g->chains_n];
    for (uint32_t c = 0; writes && c < g->chains_n; c++) {
        if (c != node->chain && node->before[c] < readers[c]) {
            return c;
        }
    }
    return SF_NONE;
}

static void note_access(struct cells *cells, size_t cell, const struct sfi_graph *g, const struct sfi_node *node,
                        bool writes) {
    uint32_t *readers = &cells->readers[cell * g->chains_n];
    if (!writes) {
        readers[node->chain] = node->position + 1;
        return;
    }
    memset(readers, 0, g->chains_n * sizeof *readers);
    cells->writer[cell].chain = node->chain;
    cells->writer[cell].count = node->position + 1;
    cells->writer[cell].rank = node->rank;
    cells->writer[cell].op = node->op;
}

/* First all reads of a node, then its writes: it may write what it reads. */
static int check_node(struct sfi_record *rec, struct cells *cells, const struct sfi_graph *g,
                      const struct sfi_node *node, bool writes, struct sf_err *err) {
    struct sfi_access_range r[SFI_NODE_ACCESSES];
    uint32_t n = sfi_node_accesses(node, r);
    for (uint32_t a = 0; a < n; a++) {
        if (r[a].writes != writes || r[a].bytes == 0) {
            continue;
        }
        for (size_t cell = cell_of(cells, r[a].at); cells->cut[cell] < r[a].at + r[a].bytes; cell++) {
            uint32_t chain = find_conflict(cells, cell, g, node, writes);
            if (chain != SF_NONE) {
                return sfi_record_violation(
                    rec, err,
                    "rank %u op %d %s memory while another stream may still use it (last written by rank %u op %d)",
                    node->rank, (int)node->op, writes ? "writes" : "reads", cells->writer[cell].rank,
                    (int)cells->writer[cell].op);
            }
            note_access(cells, cell, g, node, writes);
        }
    }
    return SF_OK;
}

int sfi_record_check_hazards(struct sfi_record *rec, const struct sfi_session *s, struct sf_err *err) {
    const struct sfi_graph *g = s->graphs[0];
    struct cells cells = {.arena = sf_arena_create()};
    int rc = cells.arena ? cut_memory(g, &cells, err) : sf_fail_memory(err, "checking memory");
    for (size_t i = 0; i < g->nodes_n && rc == SF_OK; i++) {
        rc = check_node(rec, &cells, g, &g->nodes[i], false, err);
        rc = rc == SF_OK ? check_node(rec, &cells, g, &g->nodes[i], true, err) : rc;
    }
    sf_arena_free(cells.arena);
    return rc;
}

/* ---- communicators ---------------------------------------------------------------------------------------------- */

int sfi_record_check_comms(struct sfi_record *rec, struct sf_err *err) {
    return sfi_record_run(rec, rec->graphs, rec->graphs_n, false, err);
}
