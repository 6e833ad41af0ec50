/* Training soundness of a class: every forward has its backward, and no optimizer step can start before the gradients
 * it uses are complete and reduced. */
#include <stdlib.h>
#include <string.h>

#include "core/prog_check.h"

enum pass_state { UNSEEN = 0, FORWARD_DONE, INPUT_DONE, ALL_DONE };

struct passes {
    uint8_t *state;   /* [chunks * microbatches], enum pass_state */
    uint32_t *latest; /* same: the op that brought it there */
    uint32_t complete;
};

/* What a pass needs to have happened before, and what has happened then. */
static enum pass_state pass_needs(int kind) {
    return kind == SF_OP_FORWARD ? UNSEEN : kind == SF_OP_BACKWARD_WEIGHT ? INPUT_DONE : FORWARD_DONE;
}
static enum pass_state pass_leaves(int kind) {
    return kind == SF_OP_FORWARD ? FORWARD_DONE : kind == SF_OP_BACKWARD_INPUT ? INPUT_DONE : ALL_DONE;
}

/* Copies of the model share the microbatches: each chunk works on one run of them. */
static bool is_own_microbatch(const struct sf_prog_job *job, const struct sf_op *op) {
    uint32_t copies = job->extra_copies + 1, share = job->microbatches / copies;
    return op->microbatch / share == op->chunk % copies;
}

/* Queries of a slice see the keys of those before it, and their gradients go back to those: forward in order, backward
 * in reverse. `at` is the slice's place in `p`. */
static int check_slice(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order, uint32_t op_i,
                       const struct passes *p, uint32_t at, struct sf_err *err) {
    const struct sf_op *ops = prog->classes[class_i].ops, *op = &ops[op_i];
    bool forward = op->kind == SF_OP_FORWARD;
    bool alone = forward ? op->slice == 0 : op->slice + 1u == sf_prog_slices(&prog->job);
    if (alone || op->kind == SF_OP_BACKWARD_WEIGHT) {
        return SF_OK;
    }
    uint32_t other = forward ? at - 1 : at + 1;
    if (p->state[other] < (forward ? FORWARD_DONE : INPUT_DONE) || !sfi_before(order, ops, p->latest[other], op_i)) {
        return sfi_fail_op(prog, class_i, op_i, err, "is not ordered after the %s of slice %u",
                           forward ? "forward" : "backward", forward ? op->slice - 1u : op->slice + 1u);
    }
    return SF_OK;
}

static int check_pass(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order, uint32_t op_i,
                      struct passes *p, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    const struct sf_op *op = &c->ops[op_i];
    if (op->chunk >= prog->job.chunks || op->microbatch >= prog->job.microbatches) {
        return sfi_fail_op(prog, class_i, op_i, err, "the job has %u chunks and %u microbatches", prog->job.chunks,
                           prog->job.microbatches);
    }
    if (!is_own_microbatch(&prog->job, op)) {
        return sfi_fail_op(prog, class_i, op_i, err, "another of the %u copies of the model works on this microbatch",
                           prog->job.extra_copies + 1);
    }
    uint32_t slices = sf_prog_slices(&prog->job);
    if (op->slice >= slices) {
        return sfi_fail_op(prog, class_i, op_i, err, "slice %u of %u", op->slice, slices);
    }
    uint32_t at = (op->chunk * prog->job.microbatches + op->microbatch) * slices + op->slice;
    if (op->kind == SF_OP_FORWARD && p->state[at] != UNSEEN) {
        return sfi_fail_op(prog, class_i, op_i, err, "this forward was there already: op %u came after it",
                           p->latest[at]);
    }
    if (p->state[at] != pass_needs(op->kind) ||
        (op->kind != SF_OP_FORWARD && !sfi_before(order, c->ops, p->latest[at], op_i))) {
        return sfi_fail_op(prog, class_i, op_i, err, "is not ordered after its %s, or is its second backward",
                           op->kind == SF_OP_BACKWARD_WEIGHT ? "backward_input" : "forward");
    }
    SF_TRY(check_slice(prog, class_i, order, op_i, p, at, err));
    p->latest[at] = op_i;
    p->state[at] = (uint8_t)pass_leaves(op->kind);
    p->complete += p->state[at] == ALL_DONE;
    return SF_OK;
}

static int check_copies(const struct sf_prog_job *job, struct sf_err *err) {
    uint64_t copies = (uint64_t)job->extra_copies + 1;
    if (job->extra_copies > 0 &&
        (copies > job->microbatches || job->microbatches % copies != 0 || job->chunks % copies != 0)) {
        return sf_fail(err, SF_E_INPUT,
                       "%llu copies of the model do not divide %u microbatches and %u chunks into equal shares",
                       (unsigned long long)copies, job->microbatches, job->chunks);
    }
    uint64_t units;
    if (job->slices > SF_MAX_SLICES ||
        __builtin_mul_overflow((uint64_t)job->chunks * job->microbatches, (uint64_t)sf_prog_slices(job), &units) ||
        units > SF_MAX_CLASS_OPS) {
        return sf_fail(err, SF_E_INPUT, "%u chunks x %u microbatches x %u slices are more than %u, or slices than %u",
                       job->chunks, job->microbatches, job->slices, SF_MAX_CLASS_OPS, SF_MAX_SLICES);
    }
    return SF_OK;
}

/* A class that computes does the forward and the backward of each of its chunks' microbatches once. */
static int check_pairs(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order,
                       struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    SF_TRY(check_copies(&prog->job, err));
    size_t all = (size_t)prog->job.chunks * prog->job.microbatches * sf_prog_slices(&prog->job);
    uint32_t own = (uint32_t)(all / (prog->job.extra_copies + 1));
    struct passes p = {.state = sf_calloc(all, 1), .latest = sf_calloc(all, sizeof *p.latest)};
    int rc = p.state && p.latest ? SF_OK : sf_fail_memory(err, "gradient check");
    bool computes = false;
    for (uint32_t i = 0; i < c->ops_n && rc == SF_OK; i++) {
        if (c->ops[i].kind == SF_OP_FORWARD || sfi_is_backward(c->ops[i].kind)) {
            rc = check_pass(prog, class_i, order, i, &p, err);
            computes = true;
        }
    }
    if (rc == SF_OK && computes && p.complete < own) {
        rc = sf_fail(err, SF_E_INPUT, "class %u \"%s\": %u of %u passes (chunks x microbatches) have no backward",
                     class_i, c->name, own - p.complete, own);
    }
    sf_free(p.state);
    sf_free(p.latest);
    return rc;
}

static bool writes_kind(const struct sf_class *c, const struct sf_op *op, uint32_t kind) {
    for (uint32_t a = 0; a < op->arg_n; a++) {
        const struct sf_arg *arg = &c->args[op->arg_first + a];
        if (arg->access & SF_WRITE && c->bufs[arg->buf].kind == kind) {
            return true;
        }
    }
    return false;
}

static bool reads_gradients(const struct sf_class *c, const struct sf_op *op) {
    for (uint32_t a = 0; a < op->arg_n; a++) {
        if (c->bufs[c->args[op->arg_first + a].buf].kind == SF_BUF_GRAD) {
            return true;
        }
    }
    return false;
}

/* Does op `i` write a gradient range that op `reader` reads? */
static bool feeds(const struct sf_class *c, uint32_t i, uint32_t reader) {
    const struct sf_op *w = &c->ops[i], *r = &c->ops[reader];
    for (uint32_t a = 0; a < w->arg_n; a++) {
        const struct sf_arg *x = &c->args[w->arg_first + a];
        if (!(x->access & SF_WRITE) || c->bufs[x->buf].kind != SF_BUF_GRAD) {
            continue;
        }
        for (uint32_t b = 0; b < r->arg_n; b++) {
            const struct sf_arg *y = &c->args[r->arg_first + b];
            if (y->buf == x->buf && y->offset < x->offset + x->bytes && x->offset < y->offset + y->bytes) {
                return true;
            }
        }
    }
    return false;
}

/* Does op `i` produce the gradients of this optimizer step's chunk, or rewrite what the step reads? */
static bool makes_gradients(const struct sf_class *c, uint32_t i, uint32_t opt) {
    const struct sf_op *op = &c->ops[i];
    if (op->kind == SF_OP_OPTIMIZER || op->kind == SF_OP_FORWARD || op->kind == SF_OP_LOAD) {
        return false;
    }
    bool producer = (sfi_is_backward(op->kind) || op->kind == SF_OP_ACCUMULATE) && op->chunk == c->ops[opt].chunk;
    return (producer && writes_kind(c, op, SF_BUF_GRAD)) || feeds(c, i, opt);
}

/* Are the gradients of this optimizer step made before it? Of each stream the last op that makes them tells. */
static bool is_after_gradients(const struct sf_class *c, const struct sfi_order *order, uint32_t opt) {
    uint32_t seen = 0;
    for (uint32_t i = c->ops_n; i-- > 0;) {
        uint32_t stream = 1u << c->ops[i].stream;
        if ((seen & stream) == 0 && makes_gradients(c, i, opt)) {
            seen |= stream;
            if (!sfi_before(order, c->ops, i, opt)) {
                return false;
            }
        }
    }
    return true;
}

/* Every producer of this chunk's gradients, and everything that rewrites what the optimizer reads, comes before it. */
static int check_optimizer(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order, uint32_t opt,
                           struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    if (is_after_gradients(c, order, opt)) {
        return SF_OK;
    }
    for (uint32_t i = 0; i < c->ops_n; i++) {
        if (makes_gradients(c, i, opt) && !sfi_before(order, c->ops, i, opt)) {
            char label[96];
            return sfi_fail_op(prog, class_i, opt, err,
                               "may start before op %u (%s) has finished its gradients: add a dependency", i,
                               sf_op_label(prog, class_i, i, label, sizeof label));
        }
    }
    return SF_OK;
}

/* ---- reductions -------------------------------------------------------------------------------------------------- */

struct range {
    uint64_t offset, end;
    uint32_t op;
};

static int compare_range(const void *a, const void *b) {
    const struct range *x = a, *y = b;
    if (x->offset != y->offset) {
        return x->offset < y->offset ? -1 : 1;
    }
    return x->op < y->op ? -1 : x->op > y->op;
}

static bool is_reduction(const struct sf_op *op) {
    return op->kind == SF_OP_ALL_REDUCE || op->kind == SF_OP_REDUCE_SCATTER;
}

/* Every write of the buffer by a kernel comes before a reduction that overlaps it. */
static int check_reduced_last(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order,
                              const struct sfi_touches *t, uint32_t reduction, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    const struct sf_arg *r = &c->args[c->ops[reduction].arg_first];
    for (uint32_t k = t->first[r->buf]; k < t->first[r->buf + 1]; k++) {
        const struct sf_arg *w = &c->args[t->all[k].arg];
        uint32_t i = t->all[k].op;
        if (sfi_is_backward(c->ops[i].kind) && w->access & SF_WRITE && w->offset < r->offset + r->bytes &&
            r->offset < w->offset + w->bytes && !sfi_before(order, c->ops, i, reduction)) {
            return sfi_fail_op(prog, class_i, reduction, err, "may start before op %u has added its gradients", i);
        }
    }
    return SF_OK;
}

/* A gradient buffer of which any part is reduced is reduced whole, every byte once per step. */
static int check_buffer_reduced(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order,
                                const struct sfi_touches *t, uint32_t buf, struct range *ranges, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    uint32_t n = 0;
    for (uint32_t k = t->first[buf]; k < t->first[buf + 1]; k++) {
        uint32_t i = t->all[k].op;
        const struct sf_arg *arg = &c->args[t->all[k].arg];
        bool source = t->all[k].arg == c->ops[i].arg_first;
        if (source && is_reduction(&c->ops[i]) && sf_prog_comm_size(prog, c->ops[i].comm) > 1) {
            ranges[n++] = (struct range){arg->offset, arg->offset + arg->bytes, i};
            SF_TRY(check_reduced_last(prog, class_i, order, t, i, err));
        }
    }
    qsort(ranges, n, sizeof *ranges, compare_range);
    uint64_t covered = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (ranges[i].offset > covered) {
            break;
        }
        covered = ranges[i].end > covered ? ranges[i].end : covered;
    }
    if (n > 0 && covered < c->bufs[buf].bytes) {
        return sf_fail(err, SF_E_INPUT, "class %u \"%s\": gradients \"%s\" are reduced only up to byte %llu of %llu",
                       class_i, c->name, c->bufs[buf].name, (unsigned long long)covered,
                       (unsigned long long)c->bufs[buf].bytes);
    }
    return SF_OK;
}

static bool is_pass(int kind) {
    return kind == SF_OP_FORWARD || sfi_is_backward(kind);
}

/* Axes over which a class's passes have collectives. */
static uint32_t axes_inside(const struct sf_prog *prog, const struct sf_class *c) {
    uint32_t axes = 0;
    for (uint32_t i = 0; i < c->ops_n; i++) {
        uint32_t recipe = is_pass(c->ops[i].kind) ? c->ops[i].recipe : SF_NONE;
        const struct sf_recipe *r = recipe != SF_NONE ? &prog->recipes[recipe] : NULL;
        for (uint32_t k = 0; r != NULL && k < r->calls_n; k++) {
            axes |= sf_call_is_collective(r->calls[k].kind) ? prog->comms[r->calls[k].comm].axes : 0;
        }
    }
    return axes;
}

/* An outer axis of tensor or expert parallelism. */
static bool is_outer(const struct sf_axis *axis) {
    return strncmp(axis->name, "tp.", 3) == 0 || strncmp(axis->name, "ep.", 3) == 0;
}

/* The axes "dp" and "shard" of the mesh hold replicas, and outer ones, "tp.N" and "ep.N", do for stages whose passes
 * have no collectives over them: what the optimizer reads was reduced over each that has several ranks. */
static bool has_replicas(const struct sf_prog *prog, const struct sf_class *c, uint32_t *axes) {
    uint32_t parts = 0;
    *axes = 0;
    for (uint32_t a = 0; a < prog->axes_n; a++) {
        bool holds = strcmp(prog->axes[a].name, "dp") == 0 || strcmp(prog->axes[a].name, "shard") == 0;
        *axes |= holds && prog->axes[a].size > 1 ? UINT32_C(1) << a : 0;
        parts |= is_outer(&prog->axes[a]) && prog->axes[a].size > 1 ? UINT32_C(1) << a : 0;
    }
    *axes |= parts != 0 ? parts & ~axes_inside(prog, c) : 0;
    return *axes != 0;
}

static int check_optimizer_reads_sums(const struct sf_prog *prog, uint32_t class_i, uint32_t opt, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    uint32_t replicas;
    if (!has_replicas(prog, c, &replicas) || !reads_gradients(c, &c->ops[opt])) {
        return SF_OK;
    }
    for (uint32_t i = opt; i-- > 0 && replicas != 0;) {
        uint32_t over = is_reduction(&c->ops[i]) ? prog->comms[c->ops[i].comm].axes & replicas : 0;
        replicas &= over != 0 && feeds(c, i, opt) ? ~over : UINT32_MAX;
    }
    return replicas == 0 ? SF_OK
                         : sfi_fail_op(prog, class_i, opt, err,
                                       "uses gradients that no reduction over the replicas (axis \"%s\") has summed",
                                       prog->axes[__builtin_ctz(replicas)].name);
}

/* ---- copies of the model ----------------------------------------------------------------------------------------- */

static bool overlap(const struct sf_arg *a, const struct sf_arg *b) {
    return a->buf == b->buf && a->offset < b->offset + b->bytes && b->offset < a->offset + a->bytes;
}

static bool inside(const struct sf_arg *a, const struct sf_arg *b) {
    return a->buf == b->buf && a->offset >= b->offset && a->offset + a->bytes <= b->offset + b->bytes;
}

/* Does an op of these kinds write into the range? */
static bool is_written_by(const struct sf_class *c, const struct sf_arg *range, bool (*kind_of)(int kind)) {
    for (uint32_t i = 0; i < c->ops_n; i++) {
        for (uint32_t a = 0; kind_of(c->ops[i].kind) && a < c->ops[i].arg_n; a++) {
            const struct sf_arg *w = &c->args[c->ops[i].arg_first + a];
            if (w->access & SF_WRITE && overlap(w, range)) {
                return true;
            }
        }
    }
    return false;
}

static bool is_recv(int kind) {
    return kind == SF_OP_RECV;
}

/* Does an op add what another rank sent to the whole range? */
static bool adds_to(const struct sf_class *c, const struct sf_op *op, const struct sf_arg *range) {
    bool received = false, covers = false;
    for (uint32_t a = 0; op->kind == SF_OP_ACCUMULATE && a < op->arg_n; a++) {
        const struct sf_arg *arg = &c->args[op->arg_first + a];
        covers |= arg->access == SF_READ_WRITE && inside(range, arg);
        received |= arg->access == SF_READ && is_written_by(c, arg, is_recv);
    }
    return received && covers;
}

static int check_range_added(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order, uint32_t op_i,
                             const struct sf_arg *range, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    for (uint32_t i = 0; i < op_i; i++) {
        if (adds_to(c, &c->ops[i], range) && sfi_before(order, c->ops, i, op_i)) {
            return SF_OK;
        }
    }
    return sfi_fail_op(prog, class_i, op_i, err,
                       "uses gradients of \"%s\" before those of the other copy of the model were added to them",
                       c->bufs[range->buf].name);
}

/* Each copy makes the gradients of its own microbatches only: whoever reduces or uses them needs those of all. */
static int check_copies_added(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order,
                              struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    for (uint32_t i = 0; i < c->ops_n && prog->job.extra_copies > 0; i++) {
        if (!is_reduction(&c->ops[i]) && c->ops[i].kind != SF_OP_OPTIMIZER) {
            continue;
        }
        for (uint32_t a = 0; a < c->ops[i].arg_n; a++) {
            const struct sf_arg *arg = &c->args[c->ops[i].arg_first + a];
            if (arg->access & SF_READ && c->bufs[arg->buf].kind == SF_BUF_GRAD &&
                is_written_by(c, arg, sfi_is_backward)) {
                SF_TRY(check_range_added(prog, class_i, order, i, arg, err));
            }
        }
    }
    return SF_OK;
}

static int check_reductions(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order,
                            struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    struct sfi_touches touches;
    SF_TRY(sfi_touches_create(c, &touches, err));
    struct range *ranges = sf_calloc(c->ops_n, sizeof *ranges);
    int rc = ranges ? SF_OK : sf_fail_memory(err, "gradient check");
    for (uint32_t b = 0; b < c->bufs_n && rc == SF_OK; b++) {
        if (c->bufs[b].kind == SF_BUF_GRAD) {
            rc = check_buffer_reduced(prog, class_i, order, &touches, b, ranges, err);
        }
    }
    sf_free(ranges);
    sfi_touches_free(&touches);
    return rc;
}

int sfi_check_gradients(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order,
                        struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    SF_TRY(check_pairs(prog, class_i, order, err));
    for (uint32_t i = 0; i < c->ops_n; i++) {
        if (c->ops[i].kind == SF_OP_OPTIMIZER) {
            SF_TRY(check_optimizer(prog, class_i, order, i, err));
            SF_TRY(check_optimizer_reads_sums(prog, class_i, i, err));
        }
    }
    SF_TRY(check_copies_added(prog, class_i, order, err));
    return check_reductions(prog, class_i, order, err);
}
