/* What the passes of a class work on: the tokens of their own microbatch, gradients that nobody throws away, parameters
 * that are updated once. */
#include "core/prog_check.h"

static const struct sf_arg *args_of(const struct sf_class *c, uint32_t op) {
    return &c->args[c->ops[op].arg_first];
}

static bool overlap(const struct sf_arg *a, const struct sf_arg *b) {
    return a->buf == b->buf && a->offset < b->offset + b->bytes && b->offset < a->offset + a->bytes;
}

/* A backward that overwrites gradients which another backward has just made loses them. */
static int check_gradient_kept(const struct sf_prog *prog, uint32_t class_i, const struct sfi_touches *t, uint32_t op,
                               const struct sf_arg *arg, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    uint32_t last = SF_NONE; /* before `op`, to touch the range */
    bool writes = false;
    for (uint32_t k = sfi_touches_from(t, arg->buf, op); k-- > t->first[arg->buf];) {
        const struct sfi_touch *touch = &t->all[k];
        if (last != SF_NONE && touch->op != last) {
            break;
        }
        if (overlap(&c->args[touch->arg], arg)) {
            last = touch->op;
            writes |= (c->args[touch->arg].access & SF_WRITE) != 0;
        }
    }
    if (writes && sfi_is_backward(c->ops[last].kind)) {
        return sfi_fail_op(prog, class_i, op, err, "overwrites the gradients of op %u before anybody has used them",
                           last);
    }
    return SF_OK;
}

static int check_tokens(const struct sf_prog *prog, uint32_t class_i, const struct sfi_touches *t, uint32_t op,
                        const struct sf_arg *arg, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    for (uint32_t k = sfi_touches_from(t, arg->buf, op); k-- > t->first[arg->buf];) {
        uint32_t i = t->all[k].op;
        if (c->ops[i].kind == SF_OP_LOAD && overlap(args_of(c, i), arg)) {
            return c->ops[i].microbatch == c->ops[op].microbatch && c->ops[i].slice == c->ops[op].slice
                       ? SF_OK
                       : sfi_fail_op(prog, class_i, op, err,
                                     "reads the tokens of microbatch %u, slice %u, loaded by op %u",
                                     c->ops[i].microbatch, c->ops[i].slice, i);
        }
    }
    return SF_OK;
}

/* No two optimizer steps of a class update the same parameters. */
static int check_updated_once(const struct sf_prog *prog, uint32_t class_i, const struct sfi_touches *t, uint32_t op,
                              const struct sf_arg *arg, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    uint32_t end = sfi_touches_from(t, arg->buf, op);
    for (uint32_t k = t->first[arg->buf]; k < end; k++) {
        const struct sf_arg *other = &c->args[t->all[k].arg];
        if (c->ops[t->all[k].op].kind == SF_OP_OPTIMIZER && other->access & SF_WRITE && overlap(other, arg)) {
            return sfi_fail_op(prog, class_i, op, err, "updates what op %u has updated already", t->all[k].op);
        }
    }
    return SF_OK;
}

static int check_op(const struct sf_prog *prog, uint32_t class_i, const struct sfi_touches *t, uint32_t i,
                    struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    int kind = c->ops[i].kind;
    for (uint32_t a = 0; a < c->ops[i].arg_n; a++) {
        const struct sf_arg *arg = &args_of(c, i)[a];
        uint32_t holds = c->bufs[arg->buf].kind;
        if (sfi_is_backward(kind) && holds == SF_BUF_GRAD && arg->access == SF_WRITE) {
            SF_TRY(check_gradient_kept(prog, class_i, t, i, arg, err));
        } else if ((kind == SF_OP_FORWARD || sfi_is_backward(kind)) && holds == SF_BUF_TOKENS) {
            SF_TRY(check_tokens(prog, class_i, t, i, arg, err));
        } else if (kind == SF_OP_OPTIMIZER && holds == SF_BUF_OPTIMIZER && arg->access & SF_WRITE) {
            SF_TRY(check_updated_once(prog, class_i, t, i, arg, err));
        }
    }
    return SF_OK;
}

int sfi_check_passes(const struct sf_prog *prog, uint32_t class_i, struct sf_err *err) {
    struct sfi_touches touches;
    SF_TRY(sfi_touches_create(&prog->classes[class_i], &touches, err));
    int rc = SF_OK;
    for (uint32_t i = 0; i < prog->classes[class_i].ops_n && rc == SF_OK; i++) {
        rc = check_op(prog, class_i, &touches, i, err);
    }
    sfi_touches_free(&touches);
    return rc;
}
