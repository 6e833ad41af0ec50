/* The table of the recording device: memory, streams, captures. */
#include "runtime/record.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "core/rng.h"
#include "runtime/extent.h"
#include "runtime/record_graph.h"

int sfi_record_violation(const struct sfi_record *rec, struct sf_err *err, const char *fmt, ...) {
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (rec->op == SF_NONE) {
        return sf_fail(err, SF_E_INTERNAL, "recording device: %s", text);
    }
    return sf_fail(err, SF_E_INTERNAL, "recording device: rank %u op %u: %s", rec->rank, rec->op, text);
}

/* An array that grows by one. */
int sfi_record_grow(void **array, size_t n, size_t size, struct sf_err *err) {
    if ((n & (n - 1)) != 0 && n != 0) {
        return SF_OK;
    }
    void *more = sf_realloc(*array, n == 0 ? 1 : 2 * n, size);
    if (!more) {
        return sf_fail_memory(err, "the recording device");
    }
    *array = more;
    return SF_OK;
}

static int forbid_in_capture(const struct sfi_record *rec, const char *what, struct sf_err *err) {
    return rec->capture ? sfi_record_violation(rec, err, "%s during a capture", what) : SF_OK;
}

/* What costs the host or the device time that a running step would feel. */
int sfi_record_forbid_in_run(const struct sfi_record *rec, const char *what, struct sf_err *err) {
    SF_TRY(forbid_in_capture(rec, what, err));
    return sfi_record_runs(rec) ? sfi_record_violation(rec, err, "%s after the first step was launched", what) : SF_OK;
}

/* Results may be fetched after the last step, and who knows which one is the last? The next launch tells. */
static int wait_for_device(struct sfi_record *rec, const char *what, struct sf_err *err) {
    SF_TRY(forbid_in_capture(rec, what, err));
    rec->waited = sfi_record_runs(rec) ? what : NULL;
    return SF_OK;
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static int map(struct sfi_record *rec, uint32_t owner, uint64_t bytes, void **out, struct sf_err *err) {
    SF_TRY(sfi_record_grow((void **)&rec->memory, rec->memory_n, sizeof *rec->memory, err));
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) {
        return sf_fail_memory(err, "memory of the recording device");
    }
    rec->memory[rec->memory_n++] = (struct sfi_record_memory){.base = at, .bytes = bytes, .owner = owner};
    *out = at;
    return SF_OK;
}

static int record_alloc(void *self, uint32_t owner, uint64_t bytes, void **out, struct sf_err *err) {
    SF_TRY(sfi_record_forbid_in_run(self, "device memory is allocated", err));
    return map(self, owner, bytes, out, err);
}

static int record_pin(void *self, uint64_t bytes, void **host, void **device, struct sf_err *err) {
    SF_TRY(sfi_record_forbid_in_run(self, "host memory is pinned", err));
    SF_TRY(map(self, SF_NONE, bytes, host, err));
    *device = *host;
    return SF_OK;
}

static void record_release(void *self, void *memory) {
    struct sfi_record *rec = self;
    for (size_t i = 0; i < rec->memory_n; i++) {
        if (memory && rec->memory[i].base == memory) {
            munmap(memory, rec->memory[i].bytes);
            rec->memory[i] = rec->memory[--rec->memory_n];
            return;
        }
    }
}

bool sfi_record_inside(const struct sfi_record *rec, const void *at, uint64_t bytes, uint32_t owner) {
    for (size_t i = 0; i < rec->memory_n; i++) {
        const struct sfi_record_memory *m = &rec->memory[i];
        uintptr_t begin = (uintptr_t)m->base, p = (uintptr_t)at;
        if (p >= begin && p - begin <= m->bytes && bytes <= m->bytes - (p - begin)) {
            return owner == SF_NONE || m->owner == owner;
        }
    }
    return false;
}

static int record_upload(void *self, void *to, const void *from, uint64_t bytes, struct sf_err *err) {
    SF_TRY(wait_for_device(self, "a synchronous copy", err));
    memcpy(to, from, bytes);
    return SF_OK;
}

static int record_download(void *self, void *to, const void *from, uint64_t bytes, struct sf_err *err) {
    return record_upload(self, to, from, bytes, err);
}

static int record_finish(void *self, struct sf_err *err) {
    return wait_for_device(self, "the host waits for the device", err);
}

/* ---- weights ---------------------------------------------------------------------------------------------------- */

static void put(void *to, int dtype, uint64_t i, float value) {
    if (dtype == SF_F32) {
        ((float *)to)[i] = value;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    ((uint16_t *)to)[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#define DRAWS_PER_NORMAL 2 /* of sf_rng_normal */

static int record_normal(void *self, void *to, int dtype, uint64_t key, const struct sfi_gpu_block *block, float std,
                         struct sf_err *err) {
    const struct sfi_record *rec = self;
    const struct sf_rng tensor = {.key = key};
    (void)err;
    for (uint64_t row = 0, i = 0; row < block->rows && rec->options.execute; row++) {
        struct sf_rng r = sf_rng_split(&tensor, block->first_row + row);
        r.counter += DRAWS_PER_NORMAL * block->first_col;
        for (uint64_t col = 0; col < block->cols; col++) {
            put(to, dtype, i++, (float)(sf_rng_normal(&r) * (double)std));
        }
    }
    return SF_OK;
}

static int record_constant(void *self, void *to, int dtype, uint64_t n, float value, struct sf_err *err) {
    const struct sfi_record *rec = self;
    (void)err;
    for (uint64_t i = 0; i < n && rec->options.execute; i++) {
        put(to, dtype, i, value);
    }
    return SF_OK;
}

static int record_widen(void *self, float *to, const void *from, int dtype, uint64_t n, struct sf_err *err) {
    const struct sfi_record *rec = self;
    (void)err;
    if (rec->options.execute) {
        sfi_gpu_floats(to, from, dtype, n);
    }
    return SF_OK;
}

/* ---- kernels ---------------------------------------------------------------------------------------------------- */

static bool record_supports(void *self, const struct sf_call *call) {
    const struct sfi_record *rec = self;
    return !rec->options.execute ||
           sf_kern_find(rec->options.reference_kernels ? SF_KERN_REFERENCE : SF_KERN_FAST, call) != NULL;
}

/* Kernels of the CPU take their scratch memory from the stack. */
static uint64_t record_work_bytes(void *self, const struct sf_call *call) {
    (void)self;
    (void)call;
    return 0;
}

static int record_context_create(void *self, uint32_t owner, void **out, struct sf_err *err) {
    (void)owner;
    *out = self;
    return sfi_record_forbid_in_run(self, "a kernel context is made", err);
}

static void record_context_destroy(void *self, void *context) {
    (void)self;
    (void)context;
}

static int record_prepare(void *self, void *context, const struct sf_call *call, struct sf_err *err) {
    (void)context;
    (void)call;
    return sfi_record_forbid_in_run(self, "a kernel is prepared", err);
}

static int record_fault(void *self, struct sf_err *err) {
    (void)self;
    (void)err;
    return SF_OK;
}

/* ---- streams, events, captures ---------------------------------------------------------------------------------- */

static int record_stream_create(void *self, const char *name, void **out, struct sf_err *err) {
    struct sfi_record *rec = self;
    SF_TRY(sfi_record_forbid_in_run(rec, "a stream is made", err));
    SF_TRY(sfi_record_grow((void **)&rec->streams, rec->streams_n, sizeof(struct sfi_record_stream *), err));
    struct sfi_record_stream *s = sf_calloc(1, sizeof *s);
    if (!s) {
        return sf_fail_memory(err, "a stream of the recording device");
    }
    s->rec = rec;
    snprintf(s->name, sizeof s->name, "%s", name);
    rec->streams[rec->streams_n++] = s;
    *out = s;
    return SF_OK;
}

static void record_stream_destroy(void *self, void *stream) {
    struct sfi_record *rec = self;
    for (size_t i = 0; i < rec->streams_n; i++) {
        if (rec->streams[i] == stream) {
            rec->streams[i] = rec->streams[--rec->streams_n];
        }
    }
    sf_free(stream);
}

static int record_event_create(void *self, void **out, struct sf_err *err) {
    (void)self;
    *out = sf_calloc(1, sizeof(struct sfi_record_event));
    return *out ? SF_OK : sf_fail_memory(err, "an event of the recording device");
}

static void record_event_destroy(void *self, void *event) {
    (void)self;
    sf_free(event);
}

static sfi_moment copy_moment(struct sfi_graph *g, const sfi_moment from, struct sf_err *err) {
    sfi_moment m = sf_arena_alloc(g->arena, g->chains_room, sizeof *m);
    if (!m) {
        sf_fail_memory(err, "moments of the recording device");
    } else if (from) {
        memcpy(m, from, g->chains_room * sizeof *m);
    }
    return m;
}

static void merge(sfi_moment into, const sfi_moment from, uint32_t n) {
    for (uint32_t c = 0; c < n; c++) {
        into[c] = from[c] > into[c] ? from[c] : into[c];
    }
}

static int record_event_record(void *self, void *event, void *stream, struct sf_err *err) {
    struct sfi_record *rec = self;
    struct sfi_record_event *e = event;
    struct sfi_record_stream *s = stream;
    if (!rec->capture || !s->captured) {
        return sfi_record_violation(rec, err, "an event is recorded on stream \"%s\" outside of the capture", s->name);
    }
    if (e->capture != rec->captures || !e->at) {
        e->at = copy_moment(rec->capture, s->now, err);
        if (!e->at) {
            return SF_E_INTERNAL;
        }
    }
    memcpy(e->at, s->now, rec->capture->chains_room * sizeof *e->at);
    e->capture = rec->captures;
    e->recorded = true;
    return SF_OK;
}

static int enter_capture(struct sfi_record *rec, struct sfi_record_stream *s, struct sf_err *err) {
    struct sfi_graph *g = rec->capture;
    s->now = copy_moment(g, NULL, err);
    if (!s->now) {
        return SF_E_INTERNAL;
    }
    s->chain = g->chains_n++;
    s->captured = true;
    s->rank = s->op = SF_NONE;
    return SF_OK;
}

static int record_stream_wait(void *self, void *stream, void *event, struct sf_err *err) {
    struct sfi_record *rec = self;
    struct sfi_record_stream *s = stream;
    const struct sfi_record_event *e = event;
    if (!e || !e->recorded || e->capture != rec->captures || !rec->capture) {
        return sfi_record_violation(rec, err, "stream \"%s\" waits for an event that was not recorded in this capture",
                                    s->name);
    }
    SF_TRY(s->captured ? SF_OK : enter_capture(rec, s, err));
    merge(s->now, e->at, rec->capture->chains_room);
    return SF_OK;
}

static int record_capture_begin(void *self, void *stream, struct sf_err *err) {
    struct sfi_record *rec = self;
    SF_TRY(sfi_record_forbid_in_run(rec, "another capture begins", err));
    struct sfi_graph *g = sf_calloc(1, sizeof *g);
    struct sf_arena *arena = sf_arena_create();
    if (!g || !arena) {
        sf_free(g);
        sf_arena_free(arena);
        return sf_fail_memory(err, "a graph of the recording device");
    }
    g->arena = arena;
    g->chains_room = (uint32_t)rec->streams_n;
    g->chain_n = sf_arena_alloc(arena, g->chains_room, sizeof *g->chain_n);
    rec->capture = g;
    rec->captures++;
    rec->origin = stream;
    rec->op = SF_NONE;
    return g->chain_n ? enter_capture(rec, stream, err) : sf_fail_memory(err, "a graph of the recording device");
}

static void free_graph(struct sfi_graph *g) {
    if (g) {
        sf_free(g->nodes);
        sf_free(g->marks);
        sf_arena_free(g->arena);
        sf_free(g);
    }
}

static int check_joined(const struct sfi_record *rec, struct sf_err *err) {
    for (size_t i = 0; i < rec->streams_n; i++) {
        const struct sfi_record_stream *s = rec->streams[i];
        if (s->captured && !sfi_moment_before(s->now, rec->origin->now, rec->capture->chains_room)) {
            return sfi_record_violation(rec, err, "stream \"%s\" was forked and never joined", s->name);
        }
    }
    return SF_OK;
}

static int record_capture_end(void *self, void *stream, void **graph, uint64_t *nodes_n, struct sf_err *err) {
    struct sfi_record *rec = self;
    rec->op = SF_NONE;
    int rc = rec->capture && stream == rec->origin
                 ? check_joined(rec, err)
                 : sfi_record_violation(rec, err, "a capture ends on another stream than it began on");
    struct sfi_graph *g = rec->capture;
    for (size_t i = 0; i < rec->streams_n; i++) {
        rec->streams[i]->captured = false;
        rec->streams[i]->now = NULL;
    }
    rec->capture = NULL;
    if (rc == SF_OK) {
        rc = sfi_record_grow((void **)&rec->graphs, rec->graphs_n, sizeof(struct sfi_graph *), err);
    }
    if (rc != SF_OK) {
        free_graph(g);
        return rc;
    }
    rec->graphs[rec->graphs_n++] = g;
    *graph = g;
    *nodes_n = g->nodes_n;
    return SF_OK;
}

static void record_graph_destroy(void *self, void *graph) {
    struct sfi_record *rec = self;
    for (size_t i = 0; i < rec->graphs_n; i++) {
        if (rec->graphs[i] == graph) {
            rec->graphs[i] = rec->graphs[--rec->graphs_n];
            free_graph(graph);
            return;
        }
    }
}

/* Graphs of ranks that talk to each other run when all of them have been launched. */
static int record_launch(void *self, void *graph, void *stream, struct sf_err *err) {
    struct sfi_record *rec = self;
    (void)stream;
    SF_TRY(forbid_in_capture(rec, "a graph is launched", err));
    SF_TRY(sfi_record_begin_launch(rec, graph, err));
    SF_TRY(sfi_record_grow((void **)&rec->pending, rec->pending_n, sizeof(struct sfi_graph *), err));
    rec->pending[rec->pending_n++] = graph;
    if (rec->pending_n < rec->world) {
        return SF_OK;
    }
    size_t n = rec->pending_n;
    rec->pending_n = 0;
    if (sfi_record_is_down(rec)) {
        return SF_OK; /* what is launched never ends */
    }
    return sfi_record_run(rec, rec->pending, n, true, err);
}

/* ---- nodes ------------------------------------------------------------------------------------------------------ */

static int add_node(struct sfi_record *rec, void *stream, const struct sfi_node *payload, struct sf_err *err) {
    struct sfi_record_stream *s = stream;
    struct sfi_graph *g = rec->capture;
    if (!g || !s->captured) {
        return sfi_record_violation(rec, err, "work is put on stream \"%s\", which is not part of a capture", s->name);
    }
    SF_TRY(sfi_record_grow((void **)&g->nodes, g->nodes_n, sizeof *g->nodes, err));
    struct sfi_node *node = &g->nodes[g->nodes_n];
    *node = *payload;
    node->chain = s->chain;
    node->rank = s->rank;
    node->op = s->op;
    node->before = copy_moment(g, s->now, err);
    if (!node->before) {
        return SF_E_INTERNAL;
    }
    node->position = g->chain_n[s->chain]++;
    s->now[s->chain] = g->chain_n[s->chain];
    g->nodes_n++;
    return SF_OK;
}

static int record_call(void *self, void *context, const struct sf_call *call, void *const operand[SF_CALL_OPERANDS],
                       void *stream, struct sf_err *err) {
    struct sfi_record *rec = self;
    const struct sfi_record_stream *s = stream;
    struct sfi_node node = {.kind = SFI_NODE_CALL, .u.call.call = call};
    uint64_t bytes[SF_CALL_OPERANDS];
    (void)context;
    rec->rank = s->rank;
    rec->op = s->op;
    SF_TRY(sfi_call_extents(call, bytes, err));
    for (int o = 0; o < SF_CALL_OPERANDS; o++) {
        node.u.call.operand[o] = operand[o];
        if (operand[o] && !sfi_record_inside(rec, operand[o], bytes[o], s->rank)) {
            return sfi_record_violation(rec, err, "%s: operand %d is not inside the rank's memory",
                                        sf_call_name(call->kind), o);
        }
    }
    return add_node(rec, stream, &node, err);
}

static int check_ranges(const struct sfi_record *rec, const struct sfi_node *node, const char *what,
                        struct sf_err *err) {
    struct sfi_access_range ranges[SFI_NODE_ACCESSES];
    uint32_t n = sfi_node_accesses(node, ranges);
    for (uint32_t i = 0; i < n; i++) {
        if (!sfi_record_inside(rec, ranges[i].at, ranges[i].bytes, SF_NONE)) {
            return sfi_record_violation(rec, err, "%s touches memory that the device does not have", what);
        }
    }
    return SF_OK;
}

static int record_copy(void *self, void *to, const void *from, uint64_t bytes, void *stream, struct sf_err *err) {
    const struct sfi_node node = {.kind = SFI_NODE_COPY, .u.copy = {.to = to, .from = from, .bytes = bytes}};
    SF_TRY(check_ranges(self, &node, "a copy", err));
    return add_node(self, stream, &node, err);
}

static int record_move(void *self, enum sfi_gpu_where where, void *memory, const struct sfi_gpu_pages *pages,
                       uint64_t offset, uint64_t bytes, void *stream, struct sf_err *err) {
    const struct sfi_node node = {
        .kind = SFI_NODE_MOVE,
        .u.move = {.where = where, .memory = memory, .pages = *pages, .offset = offset, .bytes = bytes}};
    if (offset > pages->stride || bytes > pages->stride - offset) {
        return sfi_record_violation(self, err, "bytes beyond the end of a page");
    }
    SF_TRY(check_ranges(self, &node, "a move between page and device", err));
    return add_node(self, stream, &node, err);
}

static int record_sum(void *self, void *to, const void *const from[], uint32_t n, uint64_t count, int dtype,
                      void *stream, struct sf_err *err) {
    struct sfi_record *rec = self;
    if (!rec->capture || n > SFI_GPU_SOURCES) {
        return sfi_record_violation(rec, err, "a sum of %u sources", n);
    }
    struct sfi_node node = {.kind = SFI_NODE_SUM, .u.sum = {.to = to, .n = n, .count = count, .dtype = dtype}};
    node.u.sum.from = sf_arena_alloc(rec->capture->arena, n, sizeof *node.u.sum.from);
    if (!node.u.sum.from) {
        return sf_fail_memory(err, "a sum");
    }
    memcpy(node.u.sum.from, from, n * sizeof *from);
    SF_TRY(check_ranges(rec, &node, "a sum", err));
    return add_node(rec, stream, &node, err);
}

static int record_stamp(void *self, uint64_t *ns, void *stream, struct sf_err *err) {
    const struct sfi_node node = {.kind = SFI_NODE_STAMP, .u.stamp = ns};
    SF_TRY(check_ranges(self, &node, "a stamp", err));
    return add_node(self, stream, &node, err);
}

static int record_mark(void *self, uint32_t *word, uint32_t value, void *stream, struct sf_err *err) {
    const struct sfi_node node = {.kind = SFI_NODE_MARK, .u.mark = {.word = word, .value = value}};
    SF_TRY(check_ranges(self, &node, "a mark", err));
    return add_node(self, stream, &node, err);
}

static int record_advance(void *self, uint32_t *counter, uint32_t *done, void *stream, struct sf_err *err) {
    const struct sfi_node node = {.kind = SFI_NODE_ADVANCE, .u.advance = {.counter = counter, .done = done}};
    SF_TRY(check_ranges(self, &node, "the counter", err));
    return add_node(self, stream, &node, err);
}

static int record_clock(void *self, uint64_t *device_ns, int64_t *host_ns, int64_t *uncertainty_ns,
                        struct sf_err *err) {
    const struct sfi_record *rec = self;
    *device_ns = rec->ticks;
    *host_ns = (int64_t)rec->ticks;
    *uncertainty_ns = 0;
    return forbid_in_capture(rec, "the device's clock is read", err);
}

static void record_op_begin(void *self, uint32_t rank, uint32_t op, void *stream, const char *label) {
    struct sfi_record *rec = self;
    struct sfi_record_stream *s = stream;
    struct sfi_graph *g = rec->capture;
    (void)label;
    rec->rank = s->rank = rank;
    rec->op = s->op = op;
    if (g && s->captured && sfi_record_grow((void **)&g->marks, g->marks_n, sizeof *g->marks, NULL) == SF_OK) {
        g->marks[g->marks_n++] = (struct sfi_op_mark){.rank = rank, .op = op, .begin = copy_moment(g, s->now, NULL)};
    }
}

static void record_op_end(void *self, uint32_t rank, uint32_t op, void *stream) {
    struct sfi_record *rec = self;
    struct sfi_record_stream *s = stream;
    struct sfi_graph *g = rec->capture;
    for (size_t i = g && s->captured ? g->marks_n : 0; i-- > 0;) {
        if (g->marks[i].rank == rank && g->marks[i].op == op) {
            g->marks[i].end = copy_moment(g, s->now, NULL);
            break;
        }
    }
    rec->op = s->op = SF_NONE;
}

/* ---- transfers -------------------------------------------------------------------------------------------------- */

/* A group is one node that waits for all its streams and that all of them wait for. */
static int flush_group(struct sfi_record *rec, struct sf_err *err) {
    uint32_t n = rec->group_n;
    rec->group_n = 0;
    if (n == 0) {
        return SF_OK;
    }
    struct sfi_graph *g = rec->capture;
    struct sfi_record_stream *first = rec->group[0].stream;
    struct sfi_node node = {.kind = SFI_NODE_TALK, .u.talk.n = n};
    for (uint32_t i = 0; i < n; i++) {
        const struct sfi_record_stream *s = rec->group[i].stream;
        if (!g || !s->captured) {
            return sfi_record_violation(rec, err, "a transfer on stream \"%s\", which is not part of a capture",
                                        s->name);
        }
        merge(first->now, s->now, g->chains_room);
    }
    node.u.talk.talks = sf_arena_alloc(g->arena, n, sizeof *rec->group);
    if (!node.u.talk.talks) {
        return sf_fail_memory(err, "a transfer");
    }
    memcpy(node.u.talk.talks, rec->group, n * sizeof *rec->group);
    SF_TRY(add_node(rec, first, &node, err));
    for (uint32_t i = 1; i < n; i++) {
        merge(((struct sfi_record_stream *)rec->group[i].stream)->now, first->now, g->chains_room);
    }
    return SF_OK;
}

static int record_group_begin(void *self, struct sf_err *err) {
    struct sfi_record *rec = self;
    rec->group_depth++;
    return rec->group_depth == 1 ? SF_OK : sfi_record_violation(rec, err, "a group begins inside a group");
}

static int record_group_end(void *self, struct sf_err *err) {
    struct sfi_record *rec = self;
    if (rec->group_depth == 0) {
        return sfi_record_violation(rec, err, "a group ends that never began");
    }
    rec->group_depth--;
    return flush_group(rec, err);
}

static int record_message(void *self, void *comm, const struct sfi_gpu_message *m, void *stream, struct sf_err *err) {
    struct sfi_record *rec = self;
    const struct sfi_record_comm *c = comm;
    if (rec->group_n == sizeof rec->group / sizeof *rec->group) {
        return sfi_record_violation(rec, err, "more than %u messages in a group", rec->group_n);
    }
    if (!sfi_record_inside(rec, m->x, 0, c->rank) || !sfi_record_inside(rec, m->y, 0, c->rank)) {
        return sfi_record_violation(rec, err, "a transfer on \"%s\" touches memory that the rank does not have",
                                    c->name);
    }
    rec->group[rec->group_n++] = (struct sfi_talk){.comm = c, .m = *m, .stream = stream};
    return rec->group_depth > 0 ? SF_OK : flush_group(rec, err);
}

static int record_group_estimate(void *self, double *seconds, struct sf_err *err) {
    struct sfi_record *rec = self;
    (void)err;
    rec->group_n = rec->group_depth = 0;
    *seconds = -1.0;
    return SF_OK;
}

/* ---- the device ------------------------------------------------------------------------------------------------- */

static const struct sfi_gpu_api functions = {
    .version = SFI_GPU_API_VERSION,
    .name = "the recording device",
    .traces = "record",
    .versions = "no device",
    .alloc = record_alloc,
    .release = record_release,
    .pin = record_pin,
    .unpin = record_release,
    .upload = record_upload,
    .download = record_download,
    .finish = record_finish,
    .normal = record_normal,
    .constant = record_constant,
    .widen = record_widen,
    .supports = record_supports,
    .work_bytes = record_work_bytes,
    .context_create = record_context_create,
    .context_destroy = record_context_destroy,
    .prepare = record_prepare,
    .call = record_call,
    .fault = record_fault,
    .stream_create = record_stream_create,
    .stream_destroy = record_stream_destroy,
    .event_create = record_event_create,
    .event_destroy = record_event_destroy,
    .event_record = record_event_record,
    .stream_wait = record_stream_wait,
    .capture_begin = record_capture_begin,
    .capture_end = record_capture_end,
    .graph_destroy = record_graph_destroy,
    .launch = record_launch,
    .copy = record_copy,
    .move = record_move,
    .sum = record_sum,
    .stamp = record_stamp,
    .mark = record_mark,
    .advance = record_advance,
    .clock = record_clock,
    .op_begin = record_op_begin,
    .op_end = record_op_end,
    .group_begin = record_group_begin,
    .group_end = record_group_end,
    .message = record_message,
    .group_estimate = record_group_estimate,
};

int sfi_record_create(const struct sfi_record_options *options, struct sfi_record **out, struct sf_err *err) {
    struct sfi_record *rec = sf_calloc(1, sizeof *rec);
    if (!rec) {
        return sf_fail_memory(err, "the recording device");
    }
    rec->options = *options;
    rec->api = functions;
    sfi_record_fill_comms(&rec->api);
    rec->api.self = rec;
    rec->op = SF_NONE;
    *out = rec;
    return SF_OK;
}

void sfi_record_destroy(struct sfi_record *rec) {
    if (!rec) {
        return;
    }
    while (rec->graphs_n > 0) {
        free_graph(rec->graphs[--rec->graphs_n]);
    }
    while (rec->memory_n > 0) {
        record_release(rec, rec->memory[rec->memory_n - 1].base);
    }
    while (rec->streams_n > 0) {
        sf_free(rec->streams[--rec->streams_n]);
    }
    sfi_record_free_comms(rec);
    sf_free(rec->graphs);
    sf_free(rec->pending);
    sf_free(rec->memory);
    sf_free(rec->streams);
    sf_free(rec);
}

const struct sfi_gpu_api *sfi_record_api(struct sfi_record *rec) {
    return &rec->api;
}
