/* All ranks on one device. The interpreter decides, as it does on CPU threads, which op of which rank comes next; an op
 * of a transfer is over - for the capture - when all its partners have been captured up to it, because only then there
 * are events to wait for. The program's proof against deadlock holds for this too.
 *
 * Bytes move as between CPU threads: the receiver copies; reductions cut the elements into one slice per member at the
 * same places, member i adds all members' slice i along the canonical tree, and an all-reduce hands the slices round.
 */
#include <string.h>

#include "runtime/cuda/session.h"
#include "runtime/transport_match.h"

/* One rank's side of a transfer. */
struct part {
    struct sfi_gpu_rank *rank;
    struct sfi_gpu_message m;
    void *stream;
    void *posted, *reduced, *done; /* events: its data is there; its slice is added; its buffers are free */
};

struct sfi_meeting {
    uint32_t n, arrived, left; /* `left`: parts that still have to notice that it is over */
    struct part *parts;        /* [n] */
};

static int new_event(struct sfi_session *s, void **out, struct sf_err *err) {
    SF_TRY(s->api->event_create(s->api->self, out, err));
    s->virtual_events[s->virtual_events_n++] = *out;
    return SF_OK;
}

static int new_meeting(struct sfi_session *s, uint32_t n, bool reduces, struct sfi_meeting *out, struct sf_err *err) {
    *out = (struct sfi_meeting){.n = n, .parts = sf_arena_alloc(s->arena, n, sizeof *out->parts)};
    if (!out->parts) {
        return sf_fail_memory(err, "virtual ranks");
    }
    for (uint32_t i = 0; i < n; i++) {
        SF_TRY(new_event(s, &out->parts[i].posted, err));
        SF_TRY(new_event(s, &out->parts[i].done, err));
        SF_TRY(reduces ? new_event(s, &out->parts[i].reduced, err) : SF_OK);
    }
    return SF_OK;
}

/* ---- moving bytes ----------------------------------------------------------------------------------------------- */

static int wait_for(struct sfi_session *s, const struct part *who, void *event, struct sf_err *err) {
    return s->api->stream_wait(s->api->self, who->stream, event, err);
}

static int copy_other(struct sfi_session *s, const struct part *p, char *to, const char *from, uint64_t bytes,
                      struct sf_err *err) {
    return to == from || bytes == 0 ? SF_OK : s->api->copy(s->api->self, to, from, bytes, p->stream, err);
}

static int reduce_slice(struct sfi_session *s, struct sfi_meeting *m, uint32_t i, struct sf_err *err) {
    struct part *p = &m->parts[i];
    uint64_t e = (uint64_t)sf_dtype_bytes(p->m.dtype), count = p->m.bytes / e;
    uint64_t first = sfi_slice(count, i, m->n), end = sfi_slice(count, i + 1, m->n);
    const void *from[SFI_GPU_SOURCES];
    for (uint32_t j = 0; j < m->n; j++) {
        from[j] = m->parts[j].m.x + first * e;
        SF_TRY(j != i ? wait_for(s, p, m->parts[j].posted, err) : SF_OK);
    }
    char *to = p->m.kind == SF_OP_ALL_REDUCE ? p->m.y + first * e : p->m.y;
    if (end > first) {
        SF_TRY(s->api->sum(s->api->self, to, from, m->n, end - first, p->m.dtype, p->stream, err));
    }
    return s->api->event_record(s->api->self, p->reduced, p->stream, err);
}

static int fetch_slices(struct sfi_session *s, struct sfi_meeting *m, uint32_t i, struct sf_err *err) {
    struct part *p = &m->parts[i];
    uint64_t e = (uint64_t)sf_dtype_bytes(p->m.dtype), count = p->m.bytes / e;
    for (uint32_t j = 0; j < m->n; j++) {
        uint64_t first = sfi_slice(count, j, m->n) * e, end = sfi_slice(count, j + 1, m->n) * e;
        if (j != i) {
            SF_TRY(wait_for(s, p, m->parts[j].reduced, err));
            SF_TRY(copy_other(s, p, p->m.y + first, m->parts[j].m.y + first, end - first, err));
        }
    }
    return SF_OK;
}

static int gather_shares(struct sfi_session *s, struct sfi_meeting *m, uint32_t i, struct sf_err *err) {
    struct part *p = &m->parts[i];
    uint64_t share = p->m.bytes / m->n;
    for (uint32_t j = 0; j < m->n; j++) {
        SF_TRY(j != i ? wait_for(s, p, m->parts[j].posted, err) : SF_OK);
        SF_TRY(copy_other(s, p, p->m.y + j * share, m->parts[j].m.x, share, err));
    }
    return SF_OK;
}

static int each(struct sfi_session *s, struct sfi_meeting *m,
                int (*part)(struct sfi_session *, struct sfi_meeting *, uint32_t, struct sf_err *),
                struct sf_err *err) {
    for (uint32_t i = 0; i < m->n; i++) {
        SF_TRY(part(s, m, i, err));
    }
    return SF_OK;
}

/* A member's buffers are its own again only when nobody reads them any more. */
static int leave(struct sfi_session *s, struct sfi_meeting *m, struct sf_err *err) {
    for (uint32_t i = 0; i < m->n; i++) {
        SF_TRY(s->api->event_record(s->api->self, m->parts[i].done, m->parts[i].stream, err));
    }
    for (uint32_t i = 0; i < m->n; i++) {
        for (uint32_t j = 0; j < m->n; j++) {
            SF_TRY(j != i ? wait_for(s, &m->parts[i], m->parts[j].done, err) : SF_OK);
        }
    }
    return SF_OK;
}

static int carry_out(struct sfi_session *s, struct sfi_meeting *m, struct sf_err *err) {
    const struct sfi_gpu_message *first = &m->parts[0].m;
    switch (first->kind) {
    case SF_OP_ALL_REDUCE:
        SF_TRY(each(s, m, reduce_slice, err));
        SF_TRY(each(s, m, fetch_slices, err));
        break;
    case SF_OP_REDUCE_SCATTER:
        SF_TRY(each(s, m, reduce_slice, err));
        break;
    case SF_OP_ALL_GATHER:
        SF_TRY(each(s, m, gather_shares, err));
        break;
    default: /* part 0 sends, part 1 receives */
        SF_TRY(wait_for(s, &m->parts[1], m->parts[0].posted, err));
        SF_TRY(copy_other(s, &m->parts[1], m->parts[1].m.x, first->x, first->bytes, err));
        break;
    }
    return leave(s, m, err);
}

/* ---- meeting ---------------------------------------------------------------------------------------------------- */

static int arrive(struct sfi_session *s, struct sfi_meeting *m, uint32_t index, struct sfi_gpu_rank *r,
                  const struct sfi_gpu_message *message, void *stream, struct sf_err *err) {
    struct part *p = &m->parts[index];
    p->rank = r;
    p->m = *message;
    p->stream = stream;
    SF_TRY(s->api->event_record(s->api->self, p->posted, stream, err));
    if (++m->arrived < m->n) {
        return SF_OK;
    }
    m->left = m->n;
    return carry_out(s, m, err);
}

/* Has everybody come? Each part asks until it is told so once; after the last one the meeting is as new. */
static bool is_over(struct sfi_meeting *m) {
    if (m->arrived < m->n || m->left == 0) {
        return false;
    }
    if (--m->left == 0) {
        m->arrived = 0;
    }
    return true;
}

static enum sf_issue pending_or(int rc) {
    return rc == SF_OK ? SF_ISSUE_PENDING : SF_ISSUE_FAILED;
}

static enum sf_issue end_op(struct sfi_session *s, struct sfi_gpu_rank *r, uint32_t op, struct sf_err *err) {
    return sfi_gpu_op_end(s, r, op, err) == SF_OK ? SF_ISSUE_DONE : SF_ISSUE_FAILED;
}

/* A collective inside a recipe: members run the same collectives of a communicator in the same order. A member may come
 * to the next one while others have not left this one, but never further, so two meetings per group take turns. */
static int enter_inner(struct sfi_session *s, struct sfi_gpu_rank *r, const struct sf_op *op,
                       const struct sf_call *call, struct sf_err *err) {
    const struct sf_prog *prog = s->run->image->prog;
    const struct sfi_gpu_message m = sfi_gpu_message_of_call(r, op, call);
    uint32_t group = sf_prog_comm_group(prog, r->host->rank, call->comm), turn = r->inner_n[call->comm]++ & 1;
    struct sfi_meeting *meeting = &s->inner[call->comm][2 * group + turn];
    r->inside[op->stream] = meeting;
    return arrive(s, meeting, sf_prog_comm_index(prog, r->host->rank, call->comm), r, &m, r->streams[op->stream], err);
}

static enum sf_issue advance_recipe(struct sfi_session *s, struct sfi_gpu_rank *r, uint32_t op_i, struct sf_err *err) {
    const struct sf_op *op = &r->host->cls->ops[op_i];
    const struct sf_recipe *recipe = &s->run->image->prog->recipes[op->recipe];
    uint32_t *next = &r->next_call[op->stream];
    if (sfi_gpu_calls(s, r, op_i, next, err) != SF_OK) {
        return SF_ISSUE_FAILED;
    }
    return *next < recipe->calls_n ? pending_or(enter_inner(s, r, op, &recipe->calls[(*next)++], err))
                                   : end_op(s, r, op_i, err);
}

static enum sf_issue start_op(struct sfi_session *s, struct sfi_gpu_rank *r, uint32_t op_i, struct sf_err *err) {
    const struct sf_op *op = &r->host->cls->ops[op_i];
    if (sfi_gpu_op_begin(s, r, op_i, err) != SF_OK) {
        return SF_ISSUE_FAILED;
    }
    switch (sf_op_group(op->kind)) {
    case SF_OP_IS_DATA:
        return sfi_gpu_load(s, r, op_i, err) == SF_OK ? end_op(s, r, op_i, err) : SF_ISSUE_FAILED;
    case SF_OP_IS_COMPUTE:
        r->next_call[op->stream] = 0;
        return advance_recipe(s, r, op_i, err);
    default:
        break;
    }
    const struct sfi_gpu_message m = sfi_gpu_message_of_op(r, op);
    return pending_or(arrive(s, r->meetings[op_i], r->host->xfers[op_i].index, r, &m, r->streams[op->stream], err));
}

static enum sf_issue virtual_issue(void *self, uint32_t rank, uint32_t op_i, struct sf_err *err) {
    struct sfi_session *s = self;
    struct sfi_gpu_rank *r = &s->ranks[rank];
    enum sf_issue state = start_op(s, r, op_i, err);
    if (state == SF_ISSUE_FAILED) {
        sfi_gpu_fail_op(r, op_i, err);
    }
    return state;
}

static enum sf_issue virtual_test(void *self, uint32_t rank, uint32_t op_i, struct sf_err *err) {
    struct sfi_session *s = self;
    struct sfi_gpu_rank *r = &s->ranks[rank];
    const struct sf_op *op = &r->host->cls->ops[op_i];
    bool in_recipe = sf_op_group(op->kind) == SF_OP_IS_COMPUTE;
    if (!is_over(in_recipe ? r->inside[op->stream] : r->meetings[op_i])) {
        return SF_ISSUE_PENDING;
    }
    enum sf_issue state = in_recipe ? advance_recipe(s, r, op_i, err) : end_op(s, r, op_i, err);
    if (state == SF_ISSUE_FAILED) {
        sfi_gpu_fail_op(r, op_i, err);
    }
    return state;
}

static int poll_rank(struct sfi_session *s, uint32_t rank, const struct sf_iclass *c, bool *progress,
                     struct sf_err *err) {
    struct sf_rank_state *st = &s->ranks[rank].state;
    for (uint32_t stream = 0; stream < c->streams_n; stream++) {
        uint32_t op = sf_interp_in_flight(c, st, stream), call = s->ranks[rank].next_call[stream];
        enum sf_issue state = op == SF_NONE ? SF_ISSUE_PENDING : virtual_test(s, rank, op, err);
        if (state == SF_ISSUE_FAILED) {
            return err && err->code ? err->code : SF_E_FAULT;
        }
        if (state == SF_ISSUE_DONE) {
            sf_interp_complete(st, stream);
        }
        /* a recipe may go from one collective to the next */
        *progress |= state == SF_ISSUE_DONE || s->ranks[rank].next_call[stream] != call;
    }
    return SF_OK;
}

static int fail_stuck(const struct sfi_session *s, struct sf_err *err) {
    for (uint32_t i = 0; i < s->ranks_n; i++) {
        const struct sfi_gpu_rank *r = &s->ranks[i];
        const struct sf_iclass *c = s->run->image->classes[r->host->class_i].order;
        for (uint32_t k = 0; k < c->streams_n; k++) {
            uint32_t op = sf_interp_in_flight(c, &r->state, k);
            if (op != SF_NONE) {
                sf_fail(err, SF_E_INPUT, "its partners never come: no op of any rank can be captured any more");
                return sfi_gpu_fail_op(r, op, err);
            }
        }
    }
    return sf_fail(err, SF_E_INTERNAL, "ops are left but no rank waits for anything");
}

int sfi_gpu_walk_virtual(struct sfi_session *s, struct sf_err *err) {
    const struct sf_backend be = {.self = s, .issue = virtual_issue, .test = virtual_test};
    struct sf_err local = {0};
    struct sf_err *e = err ? err : &local;
    for (uint32_t i = 0; i < s->ranks_n; i++) {
        sf_rank_state_start(s->run->image->classes[s->ranks[i].host->class_i].order, &s->ranks[i].state);
        memset(s->ranks[i].inner_n, 0, sizeof s->ranks[i].inner_n);
    }
    for (uint64_t left = 1; left > 0;) {
        bool progress = false;
        left = 0;
        for (uint32_t i = 0; i < s->ranks_n; i++) {
            const struct sf_iclass *c = s->run->image->classes[s->ranks[i].host->class_i].order;
            uint32_t before = s->ranks[i].state.left, busy = s->ranks[i].state.busy;
            SF_TRY(poll_rank(s, i, c, &progress, e));
            SF_TRY(sf_interp_advance(c, &s->ranks[i].state, i, &be, NULL, e));
            progress |= s->ranks[i].state.left != before || s->ranks[i].state.busy != busy;
            left += s->ranks[i].state.left;
        }
        if (left > 0 && !progress) {
            return fail_stuck(s, e);
        }
    }
    return SF_OK;
}

/* ---- preparation ------------------------------------------------------------------------------------------------ */

static int join_ends(void *self, const struct sfi_end *ends, uint32_t n, struct sf_err *err) {
    struct sfi_session *s = self;
    struct sfi_meeting *m = sf_arena_alloc(s->arena, 1, sizeof *m);
    int kind = ends[0].x->kind;
    if (!m) {
        return sf_fail_memory(err, "virtual ranks");
    }
    if (n > SFI_GPU_SOURCES) {
        return sf_fail(err, SF_E_INPUT, "a collective of %u virtual ranks: at most %d meet on one device", n,
                       SFI_GPU_SOURCES);
    }
    SF_TRY(new_meeting(s, n, kind == SF_OP_ALL_REDUCE || kind == SF_OP_REDUCE_SCATTER, m, err));
    for (uint32_t i = 0; i < n; i++) {
        struct sfi_gpu_rank *r = &s->ranks[ends[i].rank];
        r->meetings[ends[i].x - r->host->xfers] = m;
    }
    return SF_OK;
}

static bool recipes_use(const struct sf_prog *prog, uint32_t comm) {
    for (uint32_t r = 0; r < prog->recipes_n; r++) {
        for (uint32_t c = 0; c < prog->recipes[r].calls_n; c++) {
            if (sf_call_is_collective(prog->recipes[r].calls[c].kind) && prog->recipes[r].calls[c].comm == comm) {
                return true;
            }
        }
    }
    return false;
}

static int create_inner(struct sfi_session *s, uint32_t comm, struct sf_err *err) {
    const struct sf_prog *prog = s->run->image->prog;
    uint32_t groups = sf_prog_comm_groups(prog, comm), size = sf_prog_comm_size(prog, comm);
    s->inner[comm] = sf_arena_alloc(s->arena, 2 * (size_t)groups, sizeof *s->inner[comm]);
    if (!s->inner[comm]) {
        return sf_fail_memory(err, "virtual ranks");
    }
    if (size > SFI_GPU_SOURCES) {
        return sf_fail(err, SF_E_INPUT, "a collective of %u virtual ranks: at most %d meet on one device", size,
                       SFI_GPU_SOURCES);
    }
    for (uint32_t g = 0; g < 2 * groups; g++) {
        SF_TRY(new_meeting(s, size, true, &s->inner[comm][g], err));
    }
    return SF_OK;
}

/* Three events for every part of every meeting at most. */
static uint64_t count_events(const struct sfi_session *s) {
    const struct sf_prog *prog = s->run->image->prog;
    uint64_t n = 6 * (uint64_t)prog->comms_n * s->ranks_n;
    for (uint32_t i = 0; i < s->ranks_n; i++) {
        n += 3 * (uint64_t)s->ranks[i].host->cls->ops_n;
    }
    return n;
}

int sfi_gpu_meetings_create(struct sfi_session *s, struct sf_err *err) {
    const struct sf_prog *prog = s->run->image->prog;
    s->virtual_events = sf_arena_alloc(s->arena, count_events(s), sizeof *s->virtual_events);
    struct sfi_xfer **xfers = sf_arena_alloc(s->arena, s->ranks_n, sizeof(struct sfi_xfer *));
    uint32_t *xfers_n = sf_arena_alloc(s->arena, s->ranks_n, sizeof *xfers_n);
    if (!s->virtual_events || !xfers || !xfers_n) {
        return sf_fail_memory(err, "virtual ranks");
    }
    for (uint32_t i = 0; i < s->ranks_n; i++) {
        struct sfi_gpu_rank *r = &s->ranks[i];
        xfers[i] = r->host->xfers;
        xfers_n[i] = r->host->cls->ops_n;
        r->meetings = sf_arena_alloc(s->arena, xfers_n[i], sizeof(struct sfi_meeting *));
        if (!r->meetings) {
            return sf_fail_memory(err, "virtual ranks");
        }
    }
    for (uint32_t c = 0; c < prog->comms_n; c++) {
        SF_TRY(recipes_use(prog, c) ? create_inner(s, c, err) : SF_OK);
    }
    return sfi_match_transfers(prog, xfers, xfers_n, s->ranks_n, join_ends, s, err);
}
