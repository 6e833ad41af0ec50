/* Communication of all classes together, on the quotient of the mesh: one representative per combination of class
 * coordinates. All ranks of a class run the same ops, so a transfer along another axis pairs a representative with
 * itself, and what holds for the representatives holds for every rank. */
#include <stdlib.h>
#include <string.h>

#include "core/prog_check.h"

struct quotient {
    const struct sf_prog *prog;
    uint32_t reps_n;
    uint32_t *rank;                   /* [reps_n] the representative's rank (other coordinates 0) */
    uint32_t *cls;                    /* [reps_n] */
    uint32_t (*done)[SF_MAX_STREAMS]; /* [reps_n] ops completed per stream */
    uint32_t *next_coll;              /* [reps_n] index of the first op with collectives not yet completed */
    uint32_t *recipe_comms;           /* [recipes_n] bit set of the communicators whose collectives it calls */
    uint32_t **stream_ops;            /* [classes_n * SF_MAX_STREAMS] */
    uint32_t *stream_n;               /* same */
};

static uint32_t rep_of_rank(const struct quotient *q, uint32_t rank) {
    uint32_t value = 0, stride = 1;
    for (uint32_t a = 0; a < q->prog->axes_n; a++) {
        if (q->prog->class_axes >> a & 1) {
            value += sf_prog_coord(q->prog, rank, a) * stride;
            stride *= q->prog->axes[a].size;
        }
    }
    return value;
}

static uint32_t rank_of_rep(const struct sf_prog *prog, uint32_t rep) {
    uint32_t rank = 0, stride = 1;
    for (uint32_t a = 0; a < prog->axes_n; a++) {
        if (prog->class_axes >> a & 1) {
            rank += rep % prog->axes[a].size * stride;
            rep /= prog->axes[a].size;
        }
        stride *= prog->axes[a].size;
    }
    return rank;
}

static uint32_t peer_rep(const struct quotient *q, uint32_t rep, const struct sf_op *op) {
    return rep_of_rank(q, sf_prog_peer(q->prog, q->rank[rep], op->comm, op->peer_delta));
}

static const struct sf_class *rep_class(const struct quotient *q, uint32_t rep) {
    return &q->prog->classes[q->cls[rep]];
}

/* ---- matching ---------------------------------------------------------------------------------------------------- */

/* One side of a channel: which messages a representative sends to (or takes from) a peer on a communicator. `delta` is
 * the sender's offset modulo the axis, so both sides name a channel alike. */
struct message {
    uint32_t comm, src, dst, delta;
    uint32_t order; /* op index on its side */
    uint32_t stream, microbatch;
    uint64_t bytes;
};

static int compare_message(const void *a, const void *b) {
    const struct message *x = a, *y = b;
    const uint32_t kx[] = {x->comm, x->src, x->dst, x->delta, x->order};
    const uint32_t ky[] = {y->comm, y->src, y->dst, y->delta, y->order};
    for (int i = 0; i < 5; i++) {
        if (kx[i] != ky[i]) {
            return kx[i] < ky[i] ? -1 : 1;
        }
    }
    return 0;
}

static bool same_channel(const struct message *a, const struct message *b) {
    return a->comm == b->comm && a->src == b->src && a->dst == b->dst && a->delta == b->delta;
}

static uint32_t sender_delta(const struct sf_prog *prog, const struct sf_op *op) {
    int64_t size = prog->axes[__builtin_ctz(prog->comms[op->comm].axes)].size;
    int64_t delta = op->kind == SF_OP_SEND ? op->peer_delta : -(int64_t)op->peer_delta;
    return (uint32_t)((delta % size + size) % size);
}

static size_t list_messages(const struct quotient *q, int kind, struct message *out) {
    size_t n = 0;
    for (uint32_t r = 0; r < q->reps_n; r++) {
        const struct sf_class *c = rep_class(q, r);
        for (uint32_t i = 0; i < c->ops_n; i++) {
            const struct sf_op *op = &c->ops[i];
            if (op->kind != kind) {
                continue;
            }
            if (out) {
                uint32_t peer = peer_rep(q, r, op);
                out[n] = (struct message){op->comm,
                                          kind == SF_OP_SEND ? r : peer,
                                          kind == SF_OP_SEND ? peer : r,
                                          sender_delta(q->prog, op),
                                          i,
                                          op->stream,
                                          op->microbatch,
                                          op->bytes};
            }
            n++;
        }
    }
    return n;
}

static int fail_message(const struct quotient *q, int kind, const struct message *m, struct sf_err *err,
                        const char *why) {
    return sfi_fail_op(q->prog, q->cls[kind == SF_OP_SEND ? m->src : m->dst], m->order, err, "%s", why);
}

static int compare_sides(const struct quotient *q, const struct message *sends, size_t sends_n,
                         const struct message *recvs, size_t recvs_n, struct sf_err *err) {
    size_t n = sends_n < recvs_n ? sends_n : recvs_n;
    for (size_t i = 0; i < n; i++) {
        if (!same_channel(&sends[i], &recvs[i])) {
            bool send_first = compare_message(&sends[i], &recvs[i]) < 0;
            return send_first ? fail_message(q, SF_OP_SEND, &sends[i], err, "no receive matches this send")
                              : fail_message(q, SF_OP_RECV, &recvs[i], err, "no send matches this receive");
        }
        if (sends[i].bytes != recvs[i].bytes) {
            return fail_message(q, SF_OP_RECV, &recvs[i], err, "its send has another size");
        }
        if (i > 0 && same_channel(&sends[i - 1], &sends[i]) &&
            (sends[i - 1].stream != sends[i].stream || recvs[i - 1].stream != recvs[i].stream)) {
            return fail_message(q, SF_OP_SEND, &sends[i], err,
                                "transfers between the same two ranks are spread over streams: their order is open");
        }
    }
    if (sends_n > n) {
        return fail_message(q, SF_OP_SEND, &sends[n], err, "no receive matches this send");
    }
    if (recvs_n > n) {
        return fail_message(q, SF_OP_RECV, &recvs[n], err, "no send matches this receive");
    }
    for (size_t i = 0; i < n; i++) {
        if (sends[i].microbatch != recvs[i].microbatch) {
            return fail_message(q, SF_OP_RECV, &recvs[i], err, "its send is for another microbatch");
        }
    }
    return SF_OK;
}

static int check_matching(const struct quotient *q, struct sf_err *err) {
    size_t sends_n = list_messages(q, SF_OP_SEND, NULL), recvs_n = list_messages(q, SF_OP_RECV, NULL);
    struct message *sends = sf_calloc(sends_n, sizeof *sends), *recvs = sf_calloc(recvs_n, sizeof *recvs);
    int rc;
    if (!sends || !recvs) {
        rc = sf_fail_memory(err, "matching check");
    } else {
        list_messages(q, SF_OP_SEND, sends);
        list_messages(q, SF_OP_RECV, recvs);
        qsort(sends, sends_n, sizeof *sends, compare_message);
        qsort(recvs, recvs_n, sizeof *recvs, compare_message);
        rc = compare_sides(q, sends, sends_n, recvs, recvs_n, err);
    }
    sf_free(sends);
    sf_free(recvs);
    return rc;
}

/* Grouped transfers: adjacent, each on its own stream, none waiting for another of the group. */
static int check_groups(const struct sf_prog *prog, uint32_t class_i, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    for (uint32_t i = 0; i < c->ops_n; i++) {
        uint32_t first = i;
        while (c->ops[i].group != 0 && first > 0 && c->ops[first - 1].group == c->ops[i].group) {
            first--;
        }
        for (uint32_t j = first; j < i; j++) {
            if (c->ops[j].stream == c->ops[i].stream) {
                return sfi_fail_op(prog, class_i, i, err, "shares a stream with op %u of its group", j);
            }
        }
        for (uint32_t d = 0; d < c->ops[i].dep_n && first < i; d++) {
            if (c->deps[c->ops[i].dep_first + d] >= first) {
                return sfi_fail_op(prog, class_i, i, err, "waits for op %u of its own group",
                                   c->deps[c->ops[i].dep_first + d]);
            }
        }
    }
    return SF_OK;
}

/* ---- collectives ------------------------------------------------------------------------------------------------- */

static bool is_collective(const struct sf_op *op) {
    return sf_op_group(op->kind) == SF_OP_IS_COLL;
}

/* Communicators whose collectives an op does, itself or in its recipe. */
static uint32_t comms_of(const struct quotient *q, const struct sf_op *op) {
    if (is_collective(op)) {
        return UINT32_C(1) << op->comm;
    }
    return op->recipe != SF_NONE ? q->recipe_comms[op->recipe] : 0;
}

/* The next collective op of a class on a communicator from `from` on, or SF_NONE. */
static uint32_t next_collective(const struct sf_class *c, uint32_t comm, uint32_t from) {
    for (uint32_t i = from; i < c->ops_n; i++) {
        if (is_collective(&c->ops[i]) && c->ops[i].comm == comm) {
            return i;
        }
    }
    return SF_NONE;
}

/* The next op of a representative with collectives of any communicator. */
static uint32_t next_queued(const struct quotient *q, uint32_t rep, uint32_t from) {
    const struct sf_class *c = rep_class(q, rep);
    while (from < c->ops_n && comms_of(q, &c->ops[from]) == 0) {
        from++;
    }
    return from < c->ops_n ? from : SF_NONE;
}

static int check_agreement(const struct quotient *q, uint32_t a, uint32_t b, uint32_t comm, struct sf_err *err) {
    const struct sf_class *x = rep_class(q, a), *y = rep_class(q, b);
    uint32_t i = next_collective(x, comm, 0), j = next_collective(y, comm, 0);
    while (i != SF_NONE && j != SF_NONE) {
        if (x->ops[i].kind != y->ops[j].kind || x->ops[i].bytes != y->ops[j].bytes) {
            return sfi_fail_op(q->prog, q->cls[b], j, err,
                               "members of \"%s\" disagree: class %u does %s of %llu bytes here, this one %llu bytes",
                               q->prog->comms[comm].name, q->cls[a], sf_op_name(x->ops[i].kind),
                               (unsigned long long)x->ops[i].bytes, (unsigned long long)y->ops[j].bytes);
        }
        if (x->ops[i].flags != y->ops[j].flags) {
            return sfi_fail_op(q->prog, q->cls[b], j, err, "members of \"%s\" disagree: class %u adds other elements",
                               q->prog->comms[comm].name, q->cls[a]);
        }
        i = next_collective(x, comm, i + 1);
        j = next_collective(y, comm, j + 1);
    }
    if (i != j) {
        return sfi_fail_op(q->prog, q->cls[i == SF_NONE ? b : a], i == SF_NONE ? j : i, err,
                           "class %u never joins this collective of \"%s\"", q->cls[i == SF_NONE ? a : b],
                           q->prog->comms[comm].name);
    }
    return SF_OK;
}

/* A representative's group has one representative for every combination of its communicator's class axes. */
static uint32_t group_size(const struct quotient *q, uint32_t comm) {
    uint32_t n = 1, axes = q->prog->class_axes & q->prog->comms[comm].axes;
    for (uint32_t a = 0; a < q->prog->axes_n; a++) {
        n *= axes >> a & 1 ? q->prog->axes[a].size : 1;
    }
    return n;
}

static uint32_t group_member(const struct quotient *q, uint32_t rep, uint32_t comm, uint32_t index) {
    uint32_t member = 0, stride = 1;
    for (uint32_t a = 0; a < q->prog->axes_n; a++) {
        uint32_t size = q->prog->axes[a].size;
        if (!(q->prog->class_axes >> a & 1)) {
            continue;
        }
        bool free_axis = q->prog->comms[comm].axes >> a & 1;
        member += (free_axis ? index % size : rep / stride % size) * stride;
        index /= free_axis ? size : 1;
        stride *= size;
    }
    return member;
}

static bool spans_classes(const struct quotient *q, uint32_t comm) {
    return (q->prog->class_axes & q->prog->comms[comm].axes) != 0;
}

/* Each communicator's collectives keep one order: on one stream of a class, and inside recipes only where all members
 * run that class. */
static int check_streams(const struct quotient *q, uint32_t class_i, struct sf_err *err) {
    const struct sf_class *c = &q->prog->classes[class_i];
    uint32_t stream[SF_MAX_COMMS];
    memset(stream, 0xff, sizeof stream);
    for (uint32_t i = 0; i < c->ops_n; i++) {
        uint32_t comms = comms_of(q, &c->ops[i]);
        for (uint32_t comm = 0; comm < q->prog->comms_n; comm++) {
            if (!(comms >> comm & 1)) {
                continue;
            }
            if (!is_collective(&c->ops[i]) && spans_classes(q, comm)) {
                return sfi_fail_op(q->prog, class_i, i, err,
                                   "its recipe has a collective of \"%s\", whose members run different classes",
                                   q->prog->comms[comm].name);
            }
            stream[comm] = stream[comm] == SF_NONE ? c->ops[i].stream : stream[comm];
            if (stream[comm] != c->ops[i].stream) {
                return sfi_fail_op(q->prog, class_i, i, err, "collectives of \"%s\" are spread over streams",
                                   q->prog->comms[comm].name);
            }
        }
    }
    return SF_OK;
}

static int check_collectives(const struct quotient *q, struct sf_err *err) {
    for (uint32_t i = 0; i < q->prog->classes_n; i++) {
        SF_TRY(check_streams(q, i, err));
    }
    for (uint32_t comm = 0; comm < q->prog->comms_n; comm++) {
        for (uint32_t a = 0; a < q->reps_n && spans_classes(q, comm); a++) {
            uint32_t first = group_member(q, a, comm, 0);
            SF_TRY(first == a ? SF_OK : check_agreement(q, first, a, comm, err));
        }
    }
    return SF_OK;
}

/* ---- deadlock ---------------------------------------------------------------------------------------------------- */

static uint32_t head(const struct quotient *q, uint32_t rep, uint32_t stream) {
    uint32_t at = q->cls[rep] * SF_MAX_STREAMS + stream;
    return q->done[rep][stream] < q->stream_n[at] ? q->stream_ops[at][q->done[rep][stream]] : SF_NONE;
}

static bool is_done(const struct quotient *q, uint32_t rep, uint32_t op) {
    uint32_t stream = rep_class(q, rep)->ops[op].stream;
    uint32_t next = head(q, rep, stream);
    return next == SF_NONE || op < next;
}

/* At the head of its stream with its dependencies done; collectives also only in issue order on their device. */
static bool is_ready(const struct quotient *q, uint32_t rep, uint32_t op) {
    const struct sf_class *c = rep_class(q, rep);
    if (q->next_coll[rep] != op && comms_of(q, &c->ops[op]) != 0) {
        return false;
    }
    for (uint32_t d = 0; d < c->ops[op].dep_n; d++) {
        if (!is_done(q, rep, c->deps[c->ops[op].dep_first + d])) {
            return false;
        }
    }
    return true;
}

static void complete(struct quotient *q, uint32_t rep, uint32_t op) {
    const struct sf_class *c = rep_class(q, rep);
    q->done[rep][c->ops[op].stream]++;
    if (q->next_coll[rep] == op) {
        q->next_coll[rep] = next_queued(q, rep, op + 1);
    }
}

/* The ready op at a peer's stream heads that matches a send, or SF_NONE. */
static uint32_t matching_recv(const struct quotient *q, uint32_t rep, uint32_t op) {
    const struct sf_op *send = &rep_class(q, rep)->ops[op];
    uint32_t peer = peer_rep(q, rep, send);
    for (uint32_t s = 0; s < q->prog->streams_n; s++) {
        uint32_t h = head(q, peer, s);
        const struct sf_op *recv = h == SF_NONE ? NULL : &rep_class(q, peer)->ops[h];
        if (recv && recv->kind == SF_OP_RECV && recv->comm == send->comm && peer_rep(q, peer, recv) == rep &&
            sender_delta(q->prog, recv) == sender_delta(q->prog, send) && is_ready(q, peer, h)) {
            return h;
        }
    }
    return SF_NONE;
}

static bool try_collective(struct quotient *q, uint32_t rep, uint32_t op) {
    uint32_t comm = rep_class(q, rep)->ops[op].comm;
    if (!spans_classes(q, comm)) {
        complete(q, rep, op);
        return true;
    }
    uint32_t members_n = group_size(q, comm);
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < members_n; i++) {
            uint32_t m = group_member(q, rep, comm, i), other = q->next_coll[m];
            if (pass == 1) {
                complete(q, m, other);
            } else if (other == SF_NONE || !is_collective(&rep_class(q, m)->ops[other]) ||
                       rep_class(q, m)->ops[other].comm != comm ||
                       head(q, m, rep_class(q, m)->ops[other].stream) != other || !is_ready(q, m, other)) {
                return false;
            }
        }
    }
    return true;
}

static bool try_op(struct quotient *q, uint32_t rep, uint32_t op) {
    if (!is_ready(q, rep, op)) {
        return false;
    }
    switch (sf_op_group(rep_class(q, rep)->ops[op].kind)) {
    case SF_OP_IS_P2P: {
        if (rep_class(q, rep)->ops[op].kind == SF_OP_RECV) {
            return false; /* its sender completes both */
        }
        uint32_t recv = matching_recv(q, rep, op);
        if (recv == SF_NONE) {
            return false;
        }
        uint32_t peer = peer_rep(q, rep, &rep_class(q, rep)->ops[op]);
        complete(q, rep, op);
        complete(q, peer, recv);
        return true;
    }
    case SF_OP_IS_COLL:
        return try_collective(q, rep, op);
    case SF_OP_IS_DATA:
    case SF_OP_IS_COMPUTE:
        complete(q, rep, op);
        return true;
    }
    return false;
}

static int fail_deadlock(const struct quotient *q, struct sf_err *err) {
    for (uint32_t r = 0; r < q->reps_n; r++) {
        for (uint32_t s = 0; s < q->prog->streams_n; s++) {
            uint32_t op = head(q, r, s);
            if (op != SF_NONE && is_ready(q, r, op)) {
                return sfi_fail_op(q->prog, q->cls[r], op, err,
                                   "deadlock: it waits forever when transfers block until their partner arrives");
            }
        }
    }
    return sf_fail(err, SF_E_INPUT, "deadlock: collectives of different communicators have no common order");
}

static int check_deadlock(struct quotient *q, struct sf_err *err) {
    for (uint32_t r = 0; r < q->reps_n; r++) {
        q->next_coll[r] = next_queued(q, r, 0);
    }
    bool progress = true, left = true;
    while (progress) {
        progress = left = false;
        for (uint32_t r = 0; r < q->reps_n; r++) {
            for (uint32_t s = 0; s < q->prog->streams_n; s++) {
                uint32_t op;
                while ((op = head(q, r, s)) != SF_NONE && try_op(q, r, op)) {
                    progress = true;
                }
                left |= head(q, r, s) != SF_NONE;
            }
        }
    }
    return left ? fail_deadlock(q, err) : SF_OK;
}

/* ---- set-up ------------------------------------------------------------------------------------------------------ */

static void quotient_free(struct quotient *q) {
    for (uint32_t i = 0; q->stream_ops && i < q->prog->classes_n * SF_MAX_STREAMS; i++) {
        sf_free(q->stream_ops[i]);
    }
    sf_free(q->stream_ops);
    sf_free(q->stream_n);
    sf_free(q->rank);
    sf_free(q->cls);
    sf_free(q->done);
    sf_free(q->next_coll);
    sf_free(q->recipe_comms);
}

static int index_class(struct quotient *q, uint32_t class_i, struct sf_err *err) {
    const struct sf_class *c = &q->prog->classes[class_i];
    uint32_t *n = &q->stream_n[class_i * SF_MAX_STREAMS];
    uint32_t **ops = &q->stream_ops[class_i * SF_MAX_STREAMS];
    for (uint32_t i = 0; i < c->ops_n; i++) {
        n[c->ops[i].stream]++;
    }
    for (uint32_t s = 0; s < SF_MAX_STREAMS; s++) {
        ops[s] = sf_calloc(n[s], sizeof **ops);
        if (!ops[s]) {
            return sf_fail_memory(err, "communication check");
        }
        n[s] = 0;
    }
    for (uint32_t i = 0; i < c->ops_n; i++) {
        ops[c->ops[i].stream][n[c->ops[i].stream]++] = i;
    }
    return SF_OK;
}

static void index_recipes(struct quotient *q) {
    for (uint32_t r = 0; r < q->prog->recipes_n; r++) {
        const struct sf_recipe *recipe = &q->prog->recipes[r];
        for (uint32_t i = 0; i < recipe->calls_n; i++) {
            q->recipe_comms[r] |= recipe->calls[i].comm != SF_NONE ? UINT32_C(1) << recipe->calls[i].comm : 0;
        }
    }
}

static int quotient_create(const struct sf_prog *prog, struct quotient *q, struct sf_err *err) {
    *q = (struct quotient){.prog = prog, .reps_n = 1};
    for (uint32_t a = 0; a < prog->axes_n; a++) {
        q->reps_n *= prog->class_axes >> a & 1 ? prog->axes[a].size : 1;
    }
    q->rank = sf_calloc(q->reps_n, sizeof *q->rank);
    q->cls = sf_calloc(q->reps_n, sizeof *q->cls);
    q->done = sf_calloc(q->reps_n, sizeof *q->done);
    q->next_coll = sf_calloc(q->reps_n, sizeof *q->next_coll);
    q->stream_ops = sf_calloc((size_t)prog->classes_n * SF_MAX_STREAMS, sizeof *q->stream_ops);
    q->stream_n = sf_calloc((size_t)prog->classes_n * SF_MAX_STREAMS, sizeof *q->stream_n);
    q->recipe_comms = sf_calloc(prog->recipes_n, sizeof *q->recipe_comms);
    if (!q->rank || !q->cls || !q->done || !q->next_coll || !q->stream_ops || !q->stream_n || !q->recipe_comms) {
        return sf_fail_memory(err, "communication check");
    }
    index_recipes(q);
    for (uint32_t r = 0; r < q->reps_n; r++) {
        q->rank[r] = rank_of_rep(prog, r);
        q->cls[r] = prog->class_of[r];
    }
    for (uint32_t i = 0; i < prog->classes_n; i++) {
        SF_TRY(index_class(q, i, err));
    }
    return SF_OK;
}

int sfi_check_communication(const struct sf_prog *prog, struct sf_err *err) {
    struct quotient q;
    int rc = quotient_create(prog, &q, err);
    for (uint32_t i = 0; i < prog->classes_n && rc == SF_OK; i++) {
        rc = check_groups(prog, i, err);
    }
    if (rc == SF_OK) {
        rc = check_matching(&q, err);
    }
    if (rc == SF_OK) {
        rc = check_collectives(&q, err);
    }
    if (rc == SF_OK) {
        rc = check_deadlock(&q, err);
    }
    quotient_free(&q);
    return rc;
}
