/* The one interpreter; see interp.h. */
#include "core/interp.h"

#include <stdio.h>
#include <string.h>

static int index_streams(struct sf_iclass *c, struct sf_arena *arena, struct sf_err *err) {
    const struct sf_class *cls = c->cls;
    for (uint32_t i = 0; i < cls->ops_n; i++) {
        c->position[i] = c->stream_n[cls->ops[i].stream]++;
    }
    for (uint32_t s = 0; s < c->streams_n; s++) {
        c->stream_ops[s] = sf_arena_alloc(arena, c->stream_n[s], sizeof(uint32_t));
        if (!c->stream_ops[s]) {
            return sf_fail_memory(err, "stream index");
        }
    }
    for (uint32_t i = 0; i < cls->ops_n; i++) {
        c->stream_ops[cls->ops[i].stream][c->position[i]] = i;
        if (sf_op_group(cls->ops[i].kind) == SF_OP_IS_COMPUTE) {
            c->compute_streams |= 1u << cls->ops[i].stream;
        }
    }
    return SF_OK;
}

/* Dependencies on one stream collapse into the latest of them; the op's own stream needs none. */
static void collect_needs(struct sf_iclass *c) {
    const struct sf_class *cls = c->cls;
    uint32_t n = 0;
    for (uint32_t i = 0; i < cls->ops_n; i++) {
        const struct sf_op *op = &cls->ops[i];
        uint32_t count[SF_MAX_STREAMS] = {0};
        for (uint32_t d = 0; d < op->dep_n; d++) {
            uint32_t dep = cls->deps[op->dep_first + d];
            uint32_t *need = &count[cls->ops[dep].stream];
            *need = c->position[dep] + 1 > *need ? c->position[dep] + 1 : *need;
        }
        c->need_first[i] = n;
        for (uint32_t s = 0; s < c->streams_n; s++) {
            if (count[s] > 0 && s != op->stream) {
                c->needs[n++] = (struct sf_need){.count = count[s], .stream = s};
            }
        }
    }
    c->need_first[cls->ops_n] = n;
}

/* Counts rise one by one, so a need is met by exactly the op that brings its stream there. */
static void collect_wakes(struct sf_iclass *c) {
    for (uint32_t i = 0; i < c->ops_n; i++) {
        uint32_t stream = c->cls->ops[i].stream;
        c->wakes[i] |= (uint8_t)(1u << stream);
        for (uint32_t n = c->need_first[i]; n < c->need_first[i + 1]; n++) {
            const struct sf_need *need = &c->needs[n];
            c->wakes[c->stream_ops[need->stream][need->count - 1]] |= (uint8_t)(1u << stream);
        }
    }
}

int sf_iclass_create(const struct sf_prog *prog, uint32_t class_i, struct sf_arena *arena, struct sf_iclass **out,
                     struct sf_err *err) {
    const struct sf_class *cls = &prog->classes[class_i];
    struct sf_iclass *c = sf_arena_alloc(arena, 1, sizeof *c);
    if (!c) {
        return sf_fail_memory(err, "interpreter class");
    }
    c->cls = cls;
    c->ops_n = cls->ops_n;
    c->streams_n = prog->streams_n;
    c->position = sf_arena_alloc(arena, cls->ops_n, sizeof *c->position);
    c->need_first = sf_arena_alloc(arena, (size_t)cls->ops_n + 1, sizeof *c->need_first);
    c->needs = sf_arena_alloc(arena, cls->deps_n, sizeof *c->needs);
    c->wakes = sf_arena_alloc(arena, cls->ops_n, sizeof *c->wakes);
    if (!c->position || !c->need_first || !c->needs || !c->wakes) {
        return sf_fail_memory(err, "interpreter class");
    }
    SF_TRY(index_streams(c, arena, err));
    collect_needs(c);
    collect_wakes(c);
    *out = c;
    return SF_OK;
}

void sf_rank_state_start(const struct sf_iclass *c, struct sf_rank_state *st) {
    memset(st, 0, sizeof *st);
    st->left = c->ops_n;
}

static int issue(const struct sf_iclass *c, struct sf_rank_state *st, uint32_t rank, uint32_t op,
                 const struct sf_backend *be, const struct sf_hooks *hooks, struct sf_err *err) {
    if (hooks) {
        SF_TRY(hooks->before(hooks->self, rank, op, err));
    }
    uint32_t stream = c->cls->ops[op].stream;
    st->busy |= 1u << stream;
    switch (be->issue(be->self, rank, op, err)) {
    case SF_ISSUE_DONE:
        sf_interp_complete(st, stream);
        return SF_OK;
    case SF_ISSUE_PENDING:
        return SF_OK;
    case SF_ISSUE_FAILED:
        break;
    }
    return err && err->code ? err->code : SF_E_FAULT;
}

int sf_interp_advance(const struct sf_iclass *c, struct sf_rank_state *st, uint32_t rank, const struct sf_backend *be,
                      const struct sf_hooks *hooks, struct sf_err *err) {
    /* Transfers go first: a backend with synchronous kernels must not let a ready send wait for a kernel. After each
     * kernel everything is looked at again, for the same reason. */
    for (;;) {
        bool again = false;
        for (uint32_t s = 0; s < c->streams_n; s++) {
            uint32_t op = c->compute_streams >> s & 1 ? SF_NONE : sf_interp_startable(c, st, s);
            if (op != SF_NONE) {
                SF_TRY(issue(c, st, rank, op, be, hooks, err));
                again |= !(st->busy >> s & 1);
            }
        }
        for (uint32_t s = 0; s < c->streams_n && !again; s++) {
            uint32_t op = c->compute_streams >> s & 1 ? sf_interp_startable(c, st, s) : SF_NONE;
            if (op != SF_NONE) {
                SF_TRY(issue(c, st, rank, op, be, hooks, err));
                again = !(st->busy >> s & 1);
            }
        }
        if (!again) {
            return SF_OK;
        }
    }
}

/* Test everything in flight once; *progress is set when something completed. */
static int poll(const struct sf_iclass *c, struct sf_rank_state *st, uint32_t rank, const struct sf_backend *be,
                bool *progress, struct sf_err *err) {
    for (uint32_t s = 0; s < c->streams_n; s++) {
        uint32_t op = sf_interp_in_flight(c, st, s);
        if (op == SF_NONE) {
            continue;
        }
        enum sf_issue state = be->test(be->self, rank, op, err);
        if (state == SF_ISSUE_FAILED) {
            return err && err->code ? err->code : SF_E_FAULT;
        }
        if (state == SF_ISSUE_DONE) {
            sf_interp_complete(st, s);
            *progress = true;
        }
    }
    return SF_OK;
}

static int fail_stuck(const struct sf_iclass *c, const struct sf_rank_state *st, uint32_t rank,
                      const struct sf_run_options *options, struct sf_err *err) {
    char text[512] = "", label[96];
    size_t used = 0;
    for (uint32_t s = 0; s < c->streams_n; s++) {
        uint32_t op = sf_interp_in_flight(c, st, s);
        if (op == SF_NONE || used >= sizeof text) {
            continue;
        }
        snprintf(label, sizeof label, "%s", sf_op_name(c->cls->ops[op].kind));
        if (options->prog) {
            sf_op_label(options->prog, sf_prog_class(options->prog, rank), op, label, sizeof label);
        }
        used += (size_t)snprintf(text + used, sizeof text - used, "%s op %u (%s)", used ? "," : "", op, label);
    }
    return sf_fail(err, SF_E_FAULT,
                   "rank %u made no progress for %.3g s, %u ops before the end of the step; it waits in%s", rank,
                   sf_ps_to_s(options->stall_limit), st->left, text[0] ? text : " no op at all");
}

static int run_polling(const struct sf_iclass *c, struct sf_rank_state *st, uint32_t rank, const struct sf_backend *be,
                       const struct sf_run_options *options, struct sf_err *err) {
    SF_TRY(sf_interp_advance(c, st, rank, be, options->hooks, err));
    sf_time_ps last = be->now(be->self); /* after the kernels above, however long they took */
    while (st->left > 0) {
        bool progress = false;
        uint32_t left = st->left;
        SF_TRY(poll(c, st, rank, be, &progress, err));
        if (progress) {
            SF_TRY(sf_interp_advance(c, st, rank, be, options->hooks, err));
        }
        if (st->left < left) {
            last = be->now(be->self);
            continue;
        }
        if (options->stall_limit > 0 && be->now(be->self) - last > options->stall_limit) {
            return fail_stuck(c, st, rank, options, err);
        }
        if (be->idle) {
            be->idle(be->self, rank);
        }
    }
    return SF_OK;
}

int sf_interp_run(const struct sf_iclass *c, uint32_t rank, const struct sf_backend *be,
                  const struct sf_run_options *options, struct sf_err *err) {
    struct sf_err local = {0};
    struct sf_err *e = err ? err : &local;
    struct sf_rank_state st;
    sf_rank_state_start(c, &st);
    int rc = run_polling(c, &st, rank, be, options, e);
    if (rc != SF_OK) {
        be->abort(be->self, rank, e);
    }
    return rc;
}
