/* The interpreter's backend on CPU: kernels run when they are issued, transfers are posted and polled. */
#include <string.h>

#include "runtime/clock.h"
#include "runtime/dump.h"
#include "runtime/rank.h"

#define PS_PER_NS 1000
#define MAX_FORMALS 32

/* Never before the start: on several machines the origin is only known to within the clocks' uncertainty. */
static sf_time_ps since_origin(const struct sfi_rank *r, int64_t ns) {
    return ns > r->origin_ns ? (ns - r->origin_ns) * PS_PER_NS : 0;
}

static int fail_op(const struct sfi_rank *r, uint32_t op, struct sf_err *err) {
    char label[96];
    return sf_err_wrap(err, "rank %u op %u (%s)", r->rank, op,
                       sf_op_label(r->run->image->prog, r->class_i, op, label, sizeof label));
}

static void resolve(const struct sf_call *call, char *const base[], void *operand[SF_CALL_OPERANDS]) {
    for (int o = 0; o < SF_CALL_OPERANDS; o++) {
        sf_ref ref = call->operand[o];
        operand[o] = ref == SF_REF_NONE ? NULL : base[SF_REF_FORMAL(ref)] + SF_REF_OFFSET(ref);
    }
}

static int run_call(struct sfi_rank *r, uint32_t op_i, uint32_t call_i, char *const base[], struct sf_err *err) {
    uint32_t recipe = r->cls->ops[op_i].recipe;
    const struct sf_call *call = &r->run->image->prog->recipes[recipe].calls[call_i];
    const struct sfi_probe *probe = r->run->probe && r->run->probe->times_calls(r->step) ? r->run->probe : NULL;
    void *operand[SF_CALL_OPERANDS];
    resolve(call, base, operand);
    if (r->capture && call->kind == SF_CALL_ADAMW && r->step + 1 == r->run->options->steps) {
        sfi_capture_take(r, op_i, call_i, operand[1]);
    }
    int64_t cpu = probe ? sfi_cpu_ns() : 0;
    int rc = r->run->image->kernels[recipe][call_i](call, operand, err);
    if (rc != SF_OK) {
        return sf_err_wrap(err, "%s", sf_call_name(call->kind));
    }
    if (probe) {
        probe->call(probe->self, r->rank, recipe, call_i, sfi_cpu_ns() - cpu);
    }
    return SF_OK;
}

/* Post the collective that comes next, or look for it. */
static enum sf_issue run_collective(struct sfi_rank *r, const struct sf_op *op, struct sfi_walk *w,
                                    struct sf_err *err) {
    const struct sfi_probe *probe = r->run->probe && r->run->probe->times_calls(r->step) ? r->run->probe : NULL;
    struct sfi_xfer *x = &r->xfers[w->xfer];
    enum sf_issue state =
        w->posted ? r->net.test(r->net.self, r->rank, x, err) : r->net.start(r->net.self, r->rank, x, err);
    w->posted = state == SF_ISSUE_PENDING;
    if (state == SF_ISSUE_DONE) {
        w->busy_ns += x->busy_ns;
        w->xfer++;
        if (probe) {
            probe->call(probe->self, r->rank, op->recipe, w->call, x->busy_ns);
        }
    }
    return state;
}

/* Go on with a recipe until it ends, or until a collective in it has to wait for other ranks: meanwhile the rank's
 * other streams move, which those ranks may be waiting for. */
static enum sf_issue walk_recipe(struct sfi_rank *r, uint32_t op_i, struct sf_err *err) {
    const struct sf_op *op = &r->cls->ops[op_i];
    const struct sf_recipe *recipe = &r->run->image->prog->recipes[op->recipe];
    struct sfi_walk *w = &r->walk[op->stream];
    enum sf_issue state = SF_ISSUE_DONE;
    char *base[MAX_FORMALS] = {0};
    for (uint32_t a = 0; a < op->arg_n; a++) {
        base[a] = sfi_rank_arg(r, op, a);
    }
    int64_t cpu = sfi_cpu_ns();
    for (; w->call < recipe->calls_n && state == SF_ISSUE_DONE; w->call += state == SF_ISSUE_DONE) {
        if (sf_call_is_collective(recipe->calls[w->call].kind)) {
            w->busy_ns += w->posted ? 0 : sfi_cpu_ns() - cpu; /* looking in vain is waiting, not work */
            state = run_collective(r, op, w, err);
            cpu = sfi_cpu_ns();
        } else {
            state = run_call(r, op_i, w->call, base, err) == SF_OK ? SF_ISSUE_DONE : SF_ISSUE_FAILED;
        }
    }
    w->busy_ns += state == SF_ISSUE_PENDING ? 0 : sfi_cpu_ns() - cpu;
    return state;
}

static void load(struct sfi_rank *r, const struct sf_op *op) {
    const struct sfi_loads who = {r->run->image->prog, r->rank, r->dp_index, r->step};
    sfi_data_load_op(r->run->data, &who, op, (int32_t *)sfi_rank_arg(r, op, 0));
}

/* The host's memory is the device's here, so what goes there and back is copied. */
static void move_data(struct sfi_rank *r, const struct sf_op *op) {
    if (op->kind == SF_OP_LOAD) {
        load(r, op);
    } else {
        memcpy(sfi_rank_arg(r, op, 1), sfi_rank_arg(r, op, 0), op->bytes);
    }
}

static bool is_local(const struct sf_op *op) {
    enum sf_op_group group = sf_op_group(op->kind);
    return group == SF_OP_IS_DATA || group == SF_OP_IS_COMPUTE;
}

/* Data and kernels: begin, or go on. */
static enum sf_issue run_now(struct sfi_rank *r, uint32_t op_i, struct sf_err *err) {
    const struct sf_op *op = &r->cls->ops[op_i];
    struct sf_trace_rec *rec = &r->rec[op_i];
    struct sfi_walk *w = &r->walk[op->stream];
    enum sf_issue state = SF_ISSUE_DONE;
    if (sf_op_group(op->kind) == SF_OP_IS_DATA) {
        int64_t cpu = sfi_cpu_ns();
        move_data(r, op);
        w->busy_ns = sfi_cpu_ns() - cpu;
    } else {
        state = walk_recipe(r, op_i, err);
    }
    rec->busy = w->busy_ns * PS_PER_NS;
    r->last_end_ns = state == SF_ISSUE_DONE ? sfi_now_ns() : 0;
    rec->end = since_origin(r, r->last_end_ns);
    return state;
}

/* Fill in what only the end of a transfer tells. */
static enum sf_issue settle(struct sfi_rank *r, uint32_t op_i, enum sf_issue state) {
    if (state == SF_ISSUE_DONE) {
        struct sf_trace_rec *rec = &r->rec[op_i];
        rec->start = since_origin(r, r->xfers[op_i].start_ns);
        rec->end = since_origin(r, sfi_now_ns());
        rec->busy = r->xfers[op_i].busy_ns * PS_PER_NS;
    }
    return state;
}

static enum sf_issue rank_issue(void *self, uint32_t rank, uint32_t op_i, struct sf_err *err) {
    struct sfi_rank *r = self;
    const struct sf_op *op = &r->cls->ops[op_i];
    const struct sfi_probe *probe = r->run->probe;
    int64_t now = sfi_now_ns();
    if (probe && r->last_end_ns != 0) {
        probe->gap(probe->self, rank, r->step, now - r->last_end_ns);
    }
    r->rec[op_i].issue = r->rec[op_i].start = since_origin(r, now);
    enum sf_issue state = SF_ISSUE_FAILED;
    if (is_local(op)) {
        r->walk[op->stream] = (struct sfi_walk){.xfer = r->call_xfers[op_i]};
        state = run_now(r, op_i, err);
    } else {
        r->last_end_ns = 0;
        state = settle(r, op_i, r->net.start(r->net.self, rank, &r->xfers[op_i], err));
    }
    if (state == SF_ISSUE_FAILED) {
        fail_op(r, op_i, err);
    }
    return state;
}

static enum sf_issue rank_test(void *self, uint32_t rank, uint32_t op_i, struct sf_err *err) {
    struct sfi_rank *r = self;
    r->last_end_ns = 0;
    enum sf_issue state = is_local(&r->cls->ops[op_i])
                              ? run_now(r, op_i, err)
                              : settle(r, op_i, r->net.test(r->net.self, rank, &r->xfers[op_i], err));
    if (state == SF_ISSUE_FAILED) {
        fail_op(r, op_i, err);
    }
    return state;
}

static sf_time_ps rank_now(void *self) {
    return since_origin(self, sfi_now_ns());
}

static void rank_abort(void *self, uint32_t rank, const struct sf_err *why) {
    struct sfi_rank *r = self;
    struct sf_err fault = *why;
    fault.code = SF_E_FAULT; /* whatever stops a rank in the middle of a step: the run is lost */
    r->net.abort(r->net.self, rank, &fault);
}

static void rank_idle(void *self, uint32_t rank) {
    struct sfi_rank *r = self;
    r->net.idle(r->net.self, rank);
}

struct sf_backend sfi_rank_backend(struct sfi_rank *r) {
    return (struct sf_backend){
        .self = r, .issue = rank_issue, .test = rank_test, .now = rank_now, .abort = rank_abort, .idle = rank_idle};
}
