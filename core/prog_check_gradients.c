/* Training soundness of a class: every forward has its backward, and no optimizer step can start before the gradients
 * it uses are complete and reduced. */
#include <string.h>

#include "core/prog_check.h"

/* For forwards: a later backward of the same chunk and microbatch must exist and be ordered after it. */
static int check_pairs(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order,
                       struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    uint32_t chunks = prog->job.chunks, microbatches = prog->job.microbatches;
    if ((uint64_t)chunks * microbatches > SF_MAX_CLASS_OPS) {
        return sf_fail(err, SF_E_INPUT, "%u chunks x %u microbatches are more than %u", chunks, microbatches,
                       SF_MAX_CLASS_OPS);
    }
    uint32_t *forward = sf_malloc(((size_t)chunks * microbatches + 1) * sizeof *forward);
    if (!forward) {
        return sf_fail_memory(err, "gradient check");
    }
    memset(forward, 0xff, ((size_t)chunks * microbatches + 1) * sizeof *forward);
    int rc = SF_OK;
    uint32_t open = 0;
    for (uint32_t i = 0; i < c->ops_n && rc == SF_OK; i++) {
        const struct sf_op *op = &c->ops[i];
        if (op->kind != SF_OP_FORWARD && op->kind != SF_OP_BACKWARD) {
            continue;
        }
        if (op->chunk >= chunks || op->microbatch >= microbatches) {
            rc = sfi_fail_op(prog, class_i, i, err, "the job has %u chunks and %u microbatches", chunks, microbatches);
            break;
        }
        uint32_t *f = &forward[op->chunk * microbatches + op->microbatch];
        if (op->kind == SF_OP_FORWARD) {
            rc = *f == SF_NONE ? SF_OK : sfi_fail_op(prog, class_i, i, err, "this forward is already op %u", *f);
            *f = i;
            open++;
        } else if (*f == SF_NONE || !sfi_before(order, c->ops, *f, i)) {
            rc = sfi_fail_op(prog, class_i, i, err, "is not ordered after its forward");
        } else {
            open--;
        }
    }
    if (rc == SF_OK && open > 0) {
        rc = sf_fail(err, SF_E_INPUT, "class %u \"%s\": %u forwards have no backward", class_i, c->name, open);
    }
    sf_free(forward);
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

/* Every producer of this chunk's gradients, and everything that rewrites what the optimizer reads, comes before it. */
static int check_optimizer(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order, uint32_t opt,
                           struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    for (uint32_t i = 0; i < c->ops_n; i++) {
        const struct sf_op *op = &c->ops[i];
        if (op->kind == SF_OP_OPTIMIZER || op->kind == SF_OP_FORWARD || op->kind == SF_OP_LOAD) {
            continue;
        }
        bool producer = (op->kind == SF_OP_BACKWARD || op->kind == SF_OP_ACCUMULATE) &&
                        op->chunk == c->ops[opt].chunk && writes_kind(c, op, SF_BUF_GRAD);
        if ((producer || feeds(c, i, opt)) && !sfi_before(order, c->ops, i, opt)) {
            char label[96];
            return sfi_fail_op(prog, class_i, opt, err,
                               "may start before op %u (%s) has finished its gradients: add a dependency", i,
                               sf_op_label(prog, class_i, i, label, sizeof label));
        }
    }
    return SF_OK;
}

/* With data-parallel replicas, the bytes that reductions take from a gradient buffer that they touch must be all of it.
 */
static int check_reduced(const struct sf_prog *prog, uint32_t class_i, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    for (uint32_t b = 0; b < c->bufs_n; b++) {
        uint64_t reduced = 0;
        bool used_by_optimizer = false;
        if (c->bufs[b].kind != SF_BUF_GRAD) {
            continue;
        }
        for (uint32_t i = 0; i < c->ops_n; i++) {
            const struct sf_op *op = &c->ops[i];
            const struct sf_arg *args = &c->args[op->arg_first];
            if ((op->kind == SF_OP_ALL_REDUCE || op->kind == SF_OP_REDUCE_SCATTER) && args[0].buf == b) {
                reduced += args[0].bytes;
            }
            for (uint32_t a = 0; a < op->arg_n; a++) {
                used_by_optimizer |= op->kind == SF_OP_OPTIMIZER && args[a].buf == b;
            }
        }
        if (reduced > 0 && reduced < c->bufs[b].bytes && used_by_optimizer) {
            return sf_fail(
                err, SF_E_INPUT,
                "class %u \"%s\": only %llu of %llu bytes of gradients \"%s\" are reduced before the optimizer",
                class_i, c->name, (unsigned long long)reduced, (unsigned long long)c->bufs[b].bytes, c->bufs[b].name);
        }
    }
    return SF_OK;
}

int sfi_check_gradients(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order,
                        struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    SF_TRY(check_pairs(prog, class_i, order, err));
    for (uint32_t i = 0; i < c->ops_n; i++) {
        if (c->ops[i].kind == SF_OP_OPTIMIZER) {
            SF_TRY(check_optimizer(prog, class_i, order, i, err));
        }
    }
    return check_reduced(prog, class_i, err);
}
