/* No accepted program hangs: a sound pipeline program is broken in thousands of ways, and every mutant is either
 * refused by sf_prog_check or runs to its end, all ranks at once, with transfers that block until their partner arrives
 * and in whatever order ops happen to complete. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/interp.h"
#include "core/prog_build.h"
#include "core/rng.h"

enum { TP, DP, PP, AXES };
enum { COMPUTE, FRECV, FSEND, BRECV, BSEND, GRAD, STREAMS };
enum { FWD, BWD, REDUCE, TENSOR, ALL, COMMS };
enum { RECIPE_PLAIN, RECIPE_TENSOR, RECIPES };
enum { STAGES = 3, MICROBATCHES = 3, MUTANTS = 30000, ROUNDS = 3 };
enum { MAX_RANKS = 64, MAX_OPS = 64, MAX_ARGS = 4, MAX_DEPS = 8, MAX_BUFS = 64 };

/* ---- the program that is broken ---------------------------------------------------------------------------------- */

struct maker {
    struct sf_build *b;
    uint32_t stage, last;
};

static uint32_t append(struct maker *m, struct sf_op op, uint32_t buf_a, uint32_t access_a, uint32_t buf_b,
                       uint32_t dep) {
    uint64_t whole = 256, part = op.kind == SF_OP_REDUCE_SCATTER || op.kind == SF_OP_ALL_GATHER ? whole / 2 : whole;
    struct sf_arg args[2] = {{buf_a, access_a, 0, op.kind == SF_OP_ALL_GATHER ? part : whole},
                             {buf_b, SF_WRITE, 0, op.kind == SF_OP_REDUCE_SCATTER ? part : whole}};
    bool compute = sf_op_group(op.kind) == SF_OP_IS_COMPUTE;
    op.recipe = compute ? op.recipe : SF_NONE;
    op.comm = compute ? SF_NONE : op.comm;
    op.bytes = compute ? 0 : whole;
    return sf_build_op(m->b, &op, args, buf_b == SF_NONE ? 1 : 2, &dep, dep == SF_NONE ? 0 : 1);
}

static uint32_t buffer(struct maker *m, enum sf_buf_kind kind) {
    return sf_build_buffer(m->b, sf_buf_kind_name((int)kind), kind, 256, true);
}

static uint32_t transfer(struct maker *m, int kind, uint32_t comm, uint8_t stream, int32_t delta, uint16_t mb,
                         uint32_t buf, uint32_t dep) {
    struct sf_op op = {.kind = (uint8_t)kind, .comm = comm, .stream = stream, .peer_delta = delta, .microbatch = mb};
    return append(m, op, buf, kind == SF_OP_SEND ? SF_READ : SF_WRITE, SF_NONE, dep);
}

static void forwards(struct maker *m, uint32_t out[MICROBATCHES], uint32_t param) {
    for (uint16_t mb = 0; mb < MICROBATCHES; mb++) {
        uint32_t in = param, arrived = SF_NONE;
        if (m->stage > 0) {
            in = buffer(m, SF_BUF_COMM);
            arrived = transfer(m, SF_OP_RECV, FWD, FRECV, -1, mb, in, SF_NONE);
        }
        out[mb] = buffer(m, SF_BUF_ACTIVATION);
        struct sf_op op = {.kind = SF_OP_FORWARD, .recipe = RECIPE_TENSOR, .microbatch = mb};
        uint32_t done = append(m, op, in, SF_READ, out[mb], arrived);
        if (m->stage < STAGES - 1) {
            transfer(m, SF_OP_SEND, FWD, FSEND, 1, mb, out[mb], done);
        }
    }
}

static void add_up(struct maker *m, uint16_t mb, uint32_t dx, uint32_t grad) {
    struct sf_op sum = {.kind = SF_OP_ACCUMULATE, .recipe = RECIPE_PLAIN, .microbatch = mb};
    m->last = append(m, sum, dx, SF_READ, grad, SF_NONE);
}

/* The second microbatch's backward is split, and its weight half comes last. */
static void backwards(struct maker *m, const uint32_t out[MICROBATCHES], uint32_t grad) {
    enum { SPLIT = 1 };
    uint32_t kept = buffer(m, SF_BUF_ACTIVATION), dw = buffer(m, SF_BUF_ACTIVATION);
    for (uint16_t mb = 0; mb < MICROBATCHES; mb++) {
        uint32_t in = out[mb], arrived = SF_NONE;
        if (m->stage < STAGES - 1) {
            in = buffer(m, SF_BUF_COMM);
            arrived = transfer(m, SF_OP_RECV, BWD, BRECV, 1, mb, in, SF_NONE);
        }
        uint32_t dx = mb == SPLIT ? kept : buffer(m, SF_BUF_ACTIVATION);
        struct sf_op op = {.recipe = RECIPE_TENSOR, .microbatch = mb};
        op.kind = mb == SPLIT ? SF_OP_BACKWARD_INPUT : SF_OP_BACKWARD;
        uint32_t done = append(m, op, in, SF_READ, dx, arrived);
        if (mb != SPLIT) {
            add_up(m, mb, dx, grad);
        }
        if (m->stage > 0) {
            transfer(m, SF_OP_SEND, BWD, BSEND, -1, mb, dx, done);
        }
    }
    struct sf_op op = {.kind = SF_OP_BACKWARD_WEIGHT, .recipe = RECIPE_PLAIN, .microbatch = SPLIT};
    append(m, op, kept, SF_READ, dw, SF_NONE);
    add_up(m, SPLIT, dw, grad);
}

static void update(struct maker *m, uint32_t grad, uint32_t param) {
    uint32_t share = buffer(m, SF_BUF_WORK), norm = buffer(m, SF_BUF_WORK);
    struct sf_op scatter = {.kind = SF_OP_REDUCE_SCATTER, .comm = REDUCE, .stream = GRAD};
    uint32_t s = append(m, scatter, grad, SF_READ_WRITE, share, m->last);
    struct sf_op everyone = {.kind = SF_OP_ALL_REDUCE, .comm = ALL, .stream = GRAD};
    uint32_t n = append(m, everyone, norm, SF_READ_WRITE, SF_NONE, s);
    struct sf_op step = {.kind = SF_OP_OPTIMIZER, .recipe = RECIPE_PLAIN};
    uint32_t o = append(m, step, share, SF_READ, norm, n);
    struct sf_op gather = {.kind = SF_OP_ALL_GATHER, .comm = REDUCE, .stream = GRAD};
    append(m, gather, norm, SF_READ_WRITE, param, o);
}

static void recipe(struct sf_build *b, const char *name, bool collective) {
    struct sf_call call = {.kind = collective ? SF_CALL_ALL_REDUCE : SF_CALL_COPY,
                           .comm = collective ? TENSOR : SF_NONE,
                           .dims = {collective ? 256 : 64}};
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        call.operand[i] = i < 2 ? SF_REF(i, 0) : SF_REF_NONE;
    }
    sf_build_recipe_begin(b, name, 2);
    sf_build_call(b, &call);
    sf_build_recipe_end(b);
}

static struct sf_prog *make_program(void) {
    static const char *const axes[] = {"tp", "dp", "pp"}, *const comms[] = {"pp.fwd", "pp.bwd", "dp", "tp", "all"};
    static const char *const streams[] = {"compute", "fwd.recv", "fwd.send", "bwd.recv", "bwd.send", "grad"};
    static const uint32_t sizes[] = {2, 2, STAGES}, sets[] = {1u << PP, 1u << PP, 1u << DP, 1u << TP, 7};
    struct maker m = {.b = sf_build_create()};
    struct sf_err err = {0};
    struct sf_prog *prog;
    uint32_t class_of[STAGES];
    for (int i = 0; i < AXES; i++) {
        sf_build_axis(m.b, axes[i], sizes[i]);
    }
    for (int i = 0; i < COMMS; i++) {
        sf_build_comm(m.b, comms[i], sets[i]);
    }
    for (int i = 0; i < STREAMS; i++) {
        sf_build_stream(m.b, streams[i]);
    }
    sf_build_prog(m.b)->class_axes = 1u << PP;
    sf_build_prog(m.b)->job = (struct sf_prog_job){.microbatches = MICROBATCHES, .chunks = 1};
    recipe(m.b, "plain", false);
    recipe(m.b, "tensor", true);
    for (m.stage = 0; m.stage < STAGES; m.stage++) {
        uint32_t out[MICROBATCHES];
        sf_build_class_begin(m.b, "stage", m.stage);
        uint32_t param = buffer(&m, SF_BUF_PARAM), grad = buffer(&m, SF_BUF_GRAD);
        forwards(&m, out, param);
        backwards(&m, out, grad);
        update(&m, grad, param);
        class_of[m.stage] = sf_build_class_end(m.b);
    }
    if (sf_build_finish(m.b, class_of, STAGES, &prog, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    sf_build_free(m.b);
    return prog;
}

/* ---- a copy that can be changed ---------------------------------------------------------------------------------- */

struct part { /* an op with what belongs to it */
    struct sf_op op;
    struct sf_arg args[MAX_ARGS];
    uint32_t deps[MAX_DEPS];
};

struct mutant {
    struct sf_prog prog;
    struct sf_class classes[STAGES];
    struct part parts[STAGES][MAX_OPS];
    uint32_t parts_n[STAGES];
    struct sf_buffer bufs[STAGES][MAX_BUFS];
    struct sf_recipe recipes[RECIPES];
    struct sf_call calls[RECIPES];
    uint32_t class_of[MAX_RANKS];
    /* as a program wants it */
    struct sf_op ops[STAGES][MAX_OPS];
    struct sf_arg args[STAGES][MAX_OPS * MAX_ARGS];
    uint32_t deps[STAGES][MAX_OPS * MAX_DEPS];
};

static void unpack(const struct sf_prog *prog, struct mutant *m) {
    memset(m, 0, sizeof *m);
    m->prog = *prog;
    memcpy(m->class_of, prog->class_of, STAGES * sizeof *m->class_of);
    for (int r = 0; r < RECIPES; r++) {
        m->recipes[r] = prog->recipes[r];
        m->calls[r] = prog->recipes[r].calls[0];
    }
    for (uint32_t c = 0; c < STAGES; c++) {
        const struct sf_class *from = &prog->classes[c];
        assert_true(from->ops_n < MAX_OPS - ROUNDS && from->bufs_n <= MAX_BUFS);
        m->classes[c] = *from;
        m->parts_n[c] = from->ops_n;
        memcpy(m->bufs[c], from->bufs, from->bufs_n * sizeof *from->bufs);
        for (uint32_t i = 0; i < from->ops_n; i++) {
            struct part *p = &m->parts[c][i];
            p->op = from->ops[i];
            memcpy(p->args, &from->args[p->op.arg_first], p->op.arg_n * sizeof *p->args);
            memcpy(p->deps, &from->deps[p->op.dep_first], p->op.dep_n * sizeof *p->deps);
        }
    }
}

static void pack_class(struct mutant *m, uint32_t c) {
    uint32_t args_n = 0, deps_n = 0;
    for (uint32_t i = 0; i < m->parts_n[c]; i++) {
        struct part *p = &m->parts[c][i];
        struct sf_op *op = &m->ops[c][i];
        *op = p->op;
        op->arg_first = args_n;
        op->dep_first = deps_n;
        memcpy(&m->args[c][args_n], p->args, op->arg_n * sizeof *p->args);
        memcpy(&m->deps[c][deps_n], p->deps, op->dep_n * sizeof *p->deps);
        args_n += op->arg_n;
        deps_n += op->dep_n;
    }
    struct sf_class *out = &m->classes[c];
    out->ops = m->ops[c];
    out->args = m->args[c];
    out->deps = m->deps[c];
    out->bufs = m->bufs[c];
    out->ops_n = m->parts_n[c];
    out->args_n = args_n;
    out->deps_n = deps_n;
}

static void pack(struct mutant *m) {
    for (uint32_t c = 0; c < STAGES; c++) {
        pack_class(m, c);
    }
    for (int r = 0; r < RECIPES; r++) {
        m->recipes[r].calls = &m->calls[r];
    }
    m->prog.classes = m->classes;
    m->prog.recipes = m->recipes;
    m->prog.class_of = m->class_of;
}

/* ---- mutations --------------------------------------------------------------------------------------------------- */

static uint32_t below(struct sf_rng *r, uint32_t n) {
    return (uint32_t)(sf_rng_u64(r) % n);
}

/* Renumber dependencies after op `from` moved to `to`; SF_NONE: it is gone, and so are dependencies on it. */
static void renumber(struct mutant *m, uint32_t c, uint32_t from, uint32_t to) {
    for (uint32_t i = 0; i < m->parts_n[c]; i++) {
        struct part *p = &m->parts[c][i];
        uint16_t n = 0;
        for (uint16_t d = 0; d < p->op.dep_n; d++) {
            uint32_t dep = p->deps[d];
            if (dep == from && to == SF_NONE) {
                continue;
            }
            uint32_t moved = dep == from               ? to
                             : dep > from && dep <= to ? dep - 1
                             : dep < from && dep >= to ? dep + 1
                                                       : dep;
            p->deps[n++] = moved;
        }
        p->op.dep_n = n;
    }
}

static void move_op(struct mutant *m, uint32_t c, uint32_t from, uint32_t to) {
    struct part moved = m->parts[c][from];
    if (to > from) {
        memmove(&m->parts[c][from], &m->parts[c][from + 1], (to - from) * sizeof moved);
    } else {
        memmove(&m->parts[c][to + 1], &m->parts[c][to], (from - to) * sizeof moved);
    }
    m->parts[c][to] = moved;
    renumber(m, c, from, to);
}

static void drop_op(struct mutant *m, uint32_t c, uint32_t i) {
    m->parts_n[c]--;
    memmove(&m->parts[c][i], &m->parts[c][i + 1], (m->parts_n[c] - i) * sizeof m->parts[c][0]);
    renumber(m, c, i, SF_NONE);
    for (uint32_t k = 0; k < m->parts_n[c]; k++) {
        for (uint16_t d = 0; d < m->parts[c][k].op.dep_n; d++) {
            m->parts[c][k].deps[d] -= m->parts[c][k].deps[d] > i;
        }
    }
}

static void repeat_op(struct mutant *m, uint32_t c, uint32_t i) {
    m->parts[c][m->parts_n[c]] = m->parts[c][i];
    m->parts_n[c]++;
    move_op(m, c, m->parts_n[c] - 1, i + 1);
}

/* The n-th op of a kind, modulo how many there are; SF_NONE when there is none. */
static uint32_t nth_of_kind(const struct mutant *m, uint32_t c, int kind, uint32_t n) {
    uint32_t found[MAX_OPS], found_n = 0;
    for (uint32_t i = 0; i < m->parts_n[c]; i++) {
        if (m->parts[c][i].op.kind == kind) {
            found[found_n++] = i;
        }
    }
    return found_n == 0 ? SF_NONE : found[n % found_n];
}

/* The same change in every class: what a wrong compiler would do, and harder to notice than a change in one. */
static void everywhere(struct mutant *m, struct sf_rng *r) {
    static const int kinds[] = {SF_OP_SEND,       SF_OP_RECV,    SF_OP_ALL_REDUCE,     SF_OP_REDUCE_SCATTER,
                                SF_OP_ALL_GATHER, SF_OP_FORWARD, SF_OP_BACKWARD_INPUT, SF_OP_BACKWARD_WEIGHT};
    int kind = kinds[below(r, sizeof kinds / sizeof *kinds)];
    uint32_t n = below(r, MICROBATCHES), what = below(r, 4), value = below(r, STREAMS), distance = below(r, 4);
    for (uint32_t c = 0; c < STAGES; c++) {
        uint32_t i = nth_of_kind(m, c, kind, n);
        if (i == SF_NONE) {
            continue;
        }
        switch (what) {
        case 0:
            m->parts[c][i].op.stream = (uint8_t)value;
            break;
        case 1:
            drop_op(m, c, i);
            break;
        case 2:
            repeat_op(m, c, i);
            break;
        default:
            move_op(m, c, i, i >= distance ? i - distance : 0);
        }
    }
}

static void change_deps(struct mutant *m, struct part *p, uint32_t c, struct sf_rng *r) {
    uint32_t what = below(r, 3), any = below(r, m->parts_n[c]);
    if (what == 0 && p->op.dep_n > 0) {
        p->op.dep_n--;
    } else if (what == 1 && p->op.dep_n > 0) {
        p->deps[below(r, p->op.dep_n)] = any;
    } else if (p->op.dep_n < MAX_DEPS) {
        p->deps[p->op.dep_n++] = any;
    }
}

static void change_comm(struct part *p, struct sf_rng *r) {
    switch (below(r, 5)) {
    case 0:
        p->op.comm = below(r, COMMS + 1);
        break;
    case 1:
        p->op.peer_delta = (int32_t)below(r, 7) - 3;
        break;
    case 2:
        p->op.bytes ^= UINT64_C(1) << below(r, 12);
        break;
    case 3:
        p->op.kind = (uint8_t)below(r, SF_OP_KINDS + 1);
        break;
    default:
        p->op.bytes = p->args[0].bytes = UINT64_C(1) << below(r, 9); /* both, so that they agree */
    }
}

static void change_arg(struct part *p, struct sf_rng *r) {
    struct sf_arg *a = &p->args[below(r, 2)];
    switch (below(r, 4)) {
    case 0:
        a->buf = below(r, MAX_BUFS / 2);
        break;
    case 1:
        a->access = below(r, 5);
        break;
    case 2:
        a->offset = below(r, 2) ? below(r, 512) : sf_rng_u64(r);
        break;
    default:
        a->bytes = below(r, 2) ? below(r, 512) : sf_rng_u64(r);
    }
}

static void change_tables(struct mutant *m, struct sf_rng *r) {
    uint32_t recipe_i = below(r, RECIPES), c = below(r, STAGES);
    struct sf_buffer *b = &m->bufs[c][below(r, m->classes[c].bufs_n)];
    switch (below(r, 10)) {
    case 0:
        m->class_of[below(r, STAGES)] = below(r, STAGES + 1);
        break;
    case 1:
        m->prog.axes[below(r, AXES)].size = below(r, 5);
        break;
    case 2:
        m->prog.comms[below(r, COMMS)].axes = below(r, 9);
        break;
    case 3:
        m->calls[recipe_i].comm = below(r, 2) ? below(r, COMMS + 1) : SF_NONE;
        break;
    case 4:
        m->calls[recipe_i].kind = (uint8_t)below(r, SF_CALL_KINDS + 1);
        break;
    case 5:
        m->calls[recipe_i].operand[below(r, 3)] = SF_REF(below(r, 4), below(r, 512));
        break;
    case 6:
        b->offset = (uint64_t)below(r, 64) * 64;
        break;
    case 7:
        b->first_op = below(r, MAX_OPS);
        b->last_op = below(r, MAX_OPS);
        break;
    case 8:
        m->prog.streams_n = below(r, SF_MAX_STREAMS + 2);
        break;
    default:
        m->prog.job.microbatches = below(r, 5);
    }
}

static void flip_bit(struct part *p, struct sf_rng *r) {
    uint32_t at = below(r, sizeof p->op);
    bool count = at >= offsetof(struct sf_op, arg_n) && at < offsetof(struct sf_op, microbatch);
    ((unsigned char *)&p->op)[at] ^= (unsigned char)(count ? 0 : 1u << below(r, 8)); /* counts: see change_counts */
}

/* More or fewer arguments and dependencies than the op's kind takes. */
static void change_counts(struct part *p, struct sf_rng *r) {
    if (below(r, 2)) {
        p->op.arg_n = (uint16_t)below(r, MAX_ARGS + 1);
    } else {
        p->op.dep_n = (uint16_t)below(r, MAX_DEPS + 1);
    }
}

static void mutate(struct mutant *m, struct sf_rng *r) {
    uint32_t c = below(r, STAGES), i = below(r, m->parts_n[c]), j = below(r, m->parts_n[c]);
    struct part *p = &m->parts[c][i];
    switch (below(r, 14)) {
    case 0:
        move_op(m, c, i, i + 1 < m->parts_n[c] ? i + 1 : 0);
        break;
    case 1:
        move_op(m, c, i, j);
        break;
    case 2:
        drop_op(m, c, i);
        break;
    case 3:
        repeat_op(m, c, i);
        break;
    case 4:
        p->op.stream = (uint8_t)below(r, STREAMS + 1);
        break;
    case 5:
        change_deps(m, p, c, r);
        break;
    case 6:
        change_comm(p, r);
        break;
    case 7:
        change_arg(p, r);
        break;
    case 8:
        change_tables(m, r);
        break;
    case 9:
        flip_bit(p, r);
        break;
    case 10:
        change_counts(p, r);
        break;
    case 11:
        p->op.recipe = below(r, RECIPES + 1);
        break;
    default:
        everywhere(m, r);
    }
}

/* ---- replay ------------------------------------------------------------------------------------------------------ */

/* An op in flight: what it waits for next. */
struct flight {
    uint32_t op;   /* SF_NONE: nothing on this stream */
    uint32_t call; /* inside its recipe; of a collective: 1 when it is done */
};

struct replay {
    const struct sf_prog *prog;
    struct sf_iclass *classes[STAGES];
    struct sf_rank_state states[MAX_RANKS];
    struct flight flights[MAX_RANKS][SF_MAX_STREAMS];
    uint32_t ranks;
    bool one_queue; /* collectives of a rank only one after the other, in the order of their ops */
};

static const struct sf_class *class_of(const struct replay *r, uint32_t rank) {
    return &r->prog->classes[sf_prog_class(r->prog, rank)];
}

static enum sf_issue issue(void *self, uint32_t rank, uint32_t op, struct sf_err *err) {
    struct replay *r = self;
    (void)err;
    r->flights[rank][class_of(r, rank)->ops[op].stream] = (struct flight){.op = op};
    return SF_ISSUE_PENDING;
}

static bool advance(struct replay *r, uint32_t rank) {
    const struct sf_backend be = {.self = r, .issue = issue};
    return sf_interp_advance(r->classes[sf_prog_class(r->prog, rank)], &r->states[rank], rank, &be, NULL, NULL) == 0;
}

static void complete(struct replay *r, uint32_t rank, uint32_t stream) {
    r->flights[rank][stream].op = SF_NONE;
    sf_interp_complete(&r->states[rank], stream);
    advance(r, rank);
}

/* The collective that a flight stands at; false for anything else. */
static bool collective_of(const struct replay *r, uint32_t rank, const struct flight *f, uint32_t *comm, int *kind,
                          uint64_t *bytes) {
    const struct sf_op *op = &class_of(r, rank)->ops[f->op];
    if (sf_op_group(op->kind) == SF_OP_IS_COLL) {
        *comm = op->comm;
        *kind = op->kind;
        *bytes = op->bytes;
        return f->call == 0;
    }
    if (sf_op_group(op->kind) != SF_OP_IS_COMPUTE) {
        return false;
    }
    const struct sf_recipe *recipe_p = &r->prog->recipes[op->recipe];
    if (f->call >= recipe_p->calls_n || !sf_call_is_collective(recipe_p->calls[f->call].kind)) {
        return false;
    }
    *comm = recipe_p->calls[f->call].comm;
    *kind = SF_OP_KINDS + recipe_p->calls[f->call].kind;
    *bytes = (uint64_t)recipe_p->calls[f->call].dims[0];
    return true;
}

static bool talks(const struct replay *r, const struct sf_op *op) {
    if (sf_op_group(op->kind) == SF_OP_IS_COLL) {
        return true;
    }
    if (sf_op_group(op->kind) != SF_OP_IS_COMPUTE) {
        return false;
    }
    const struct sf_recipe *recipe_p = &r->prog->recipes[op->recipe];
    for (uint32_t i = 0; i < recipe_p->calls_n; i++) {
        if (sf_call_is_collective(recipe_p->calls[i].kind)) {
            return true;
        }
    }
    return false;
}

/* With one queue: does an earlier op of this rank still have a collective to do? */
static bool queued(const struct replay *r, uint32_t rank, uint32_t op) {
    const struct sf_iclass *c = r->classes[sf_prog_class(r->prog, rank)];
    for (uint32_t i = 0; i < op && r->one_queue; i++) {
        const struct sf_op *o = &c->cls->ops[i];
        if (talks(r, o) && c->position[i] >= r->states[rank].done[o->stream]) {
            return true;
        }
    }
    return false;
}

/* All members stand at a collective of this communicator: the first one of each that is in flight. False with *wrong
 * set when they do not mean the same. */
static bool try_collective(struct replay *r, uint32_t rank, uint32_t stream, bool *wrong) {
    uint32_t comm, other_comm, streams[MAX_RANKS];
    int kind, other_kind;
    uint64_t bytes, other_bytes;
    if (!collective_of(r, rank, &r->flights[rank][stream], &comm, &kind, &bytes)) {
        return false;
    }
    uint32_t size = sf_prog_comm_size(r->prog, comm);
    for (uint32_t i = 0; i < size; i++) {
        uint32_t member = sf_prog_comm_member(r->prog, rank, comm, i), s = 0;
        for (; s < r->prog->streams_n; s++) {
            const struct flight *f = &r->flights[member][s];
            if (f->op != SF_NONE && !queued(r, member, f->op) &&
                collective_of(r, member, f, &other_comm, &other_kind, &other_bytes) && other_comm == comm) {
                break;
            }
        }
        if (s == r->prog->streams_n) {
            return false;
        }
        *wrong = *wrong || other_kind != kind || other_bytes != bytes;
        streams[i] = s;
    }
    for (uint32_t i = 0; i < size; i++) {
        r->flights[sf_prog_comm_member(r->prog, rank, comm, i)][streams[i]].call++;
    }
    return !*wrong;
}

static bool try_send(struct replay *r, uint32_t rank, uint32_t stream, bool *wrong) {
    const struct sf_op *send = &class_of(r, rank)->ops[r->flights[rank][stream].op];
    uint32_t peer = sf_prog_peer(r->prog, rank, send->comm, send->peer_delta);
    for (uint32_t s = 0; s < r->prog->streams_n; s++) {
        uint32_t op = r->flights[peer][s].op;
        const struct sf_op *recv = op != SF_NONE ? &class_of(r, peer)->ops[op] : NULL;
        if (recv && recv->kind == SF_OP_RECV && recv->comm == send->comm &&
            sf_prog_peer(r->prog, peer, recv->comm, recv->peer_delta) == rank) {
            *wrong = *wrong || recv->bytes != send->bytes || recv->microbatch != send->microbatch;
            complete(r, peer, s);
            complete(r, rank, stream);
            return true;
        }
    }
    return false;
}

/* One step of the op in flight on a stream, if it can make one. */
static bool step(struct replay *r, uint32_t rank, uint32_t stream, bool *wrong) {
    struct flight *f = &r->flights[rank][stream];
    uint32_t comm;
    int kind;
    uint64_t bytes;
    if (f->op == SF_NONE) {
        return false;
    }
    const struct sf_op *op = &class_of(r, rank)->ops[f->op];
    if (collective_of(r, rank, f, &comm, &kind, &bytes)) {
        return !queued(r, rank, f->op) && try_collective(r, rank, stream, wrong);
    }
    switch (sf_op_group(op->kind)) {
    case SF_OP_IS_P2P:
        return op->kind == SF_OP_SEND && try_send(r, rank, stream, wrong);
    case SF_OP_IS_COMPUTE:
        if (f->call < r->prog->recipes[op->recipe].calls_n) {
            f->call++;
            return true;
        }
        break;
    default:
        break;
    }
    complete(r, rank, stream);
    return true;
}

static void start(struct replay *r, const struct sf_prog *prog, bool one_queue, struct sf_arena *arena) {
    *r = (struct replay){.prog = prog, .ranks = sf_prog_ranks(prog), .one_queue = one_queue};
    assert_true(r->ranks <= MAX_RANKS);
    for (uint32_t c = 0; c < STAGES; c++) {
        assert_int_equal(sf_iclass_create(prog, c, arena, &r->classes[c], NULL), 0);
    }
    for (uint32_t rank = 0; rank < r->ranks; rank++) {
        for (uint32_t s = 0; s < SF_MAX_STREAMS; s++) {
            r->flights[rank][s].op = SF_NONE;
        }
        sf_rank_state_start(r->classes[sf_prog_class(prog, rank)], &r->states[rank]);
    }
    for (uint32_t rank = 0; rank < r->ranks; rank++) {
        advance(r, rank);
    }
}

/* NULL when everything ran to its end, else what went wrong. */
static const char *replay(const struct sf_prog *prog, bool one_queue, struct sf_rng *random) {
    static struct replay r;
    struct sf_arena *arena = sf_arena_create();
    bool wrong = false, progress = true;
    uint64_t left = 0;
    start(&r, prog, one_queue, arena);
    while (progress && !wrong) {
        progress = false;
        uint32_t first = below(random, r.ranks), turn = below(random, prog->streams_n);
        for (uint32_t i = 0; i < r.ranks; i++) {
            for (uint32_t s = 0; s < prog->streams_n; s++) {
                progress |= step(&r, (first + i) % r.ranks, (turn + s) % prog->streams_n, &wrong);
            }
        }
    }
    for (uint32_t i = 0; i < r.ranks; i++) {
        left += r.states[i].left;
    }
    sf_arena_free(arena);
    return wrong ? "partners meet that do not belong together" : left > 0 ? "it hangs" : NULL;
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static void refuse_or_run(struct mutant *m, struct sf_rng *r, uint32_t serial, uint32_t *accepted) {
    struct sf_err err = {0};
    pack(m);
    if (sf_prog_check(&m->prog, &err) != 0) {
        assert_true(err.code == SF_E_INPUT && err.msg[0] != '\0');
        return;
    }
    ++*accepted;
    for (int queue = 0; queue < 2; queue++) {
        const char *fault = replay(&m->prog, queue == 1, r);
        if (fault) {
            fail_msg("mutant %u was accepted but %s (%s)", serial, fault, queue ? "one queue" : "free streams");
        }
    }
}

static void test_mutants_are_refused_or_run(void **state) {
    (void)state;
    static struct mutant base, m;
    struct sf_prog *prog = make_program();
    struct sf_rng root = sf_rng_seed(20240229);
    uint32_t accepted = 0;
    unpack(prog, &base);
    for (uint32_t i = 0; i < MUTANTS; i++) {
        struct sf_rng r = sf_rng_split(&root, i);
        m = base;
        for (uint32_t round = 1 + below(&r, ROUNDS); round > 0; round--) {
            mutate(&m, &r);
        }
        refuse_or_run(&m, &r, i, &accepted);
    }
    print_message("%u mutants, %u accepted and run to their end\n", MUTANTS, accepted);
    assert_true(accepted > MUTANTS / 100 && accepted < MUTANTS / 2);
    sf_prog_free(prog);
}

/* The oracle itself must notice what it is there to notice. */
static void test_the_replay_notices_a_hang(void **state) {
    (void)state;
    static struct mutant m;
    struct sf_prog *prog = make_program();
    struct sf_rng r = sf_rng_seed(1);
    unpack(prog, &m);
    pack(&m);
    assert_null(replay(&m.prog, false, &r));
    assert_null(replay(&m.prog, true, &r));
    drop_op(&m, 1, nth_of_kind(&m, 1, SF_OP_RECV, 0));
    pack(&m);
    assert_non_null(replay(&m.prog, false, &r));
    unpack(prog, &m);
    m.parts[2][nth_of_kind(&m, 2, SF_OP_ALL_REDUCE, 0)].op.bytes = 8;
    pack(&m);
    assert_non_null(replay(&m.prog, false, &r));
    sf_prog_free(prog);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_replay_notices_a_hang),
        cmocka_unit_test(test_mutants_are_refused_or_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
