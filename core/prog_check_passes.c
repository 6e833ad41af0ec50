/* What the passes of a class work on: the tokens of their own microbatch, gradients that nobody throws away, parameters
 * that are updated once. */
#include "core/prog_check.h"

static const struct sf_arg *args_of(const struct sf_class *c, uint32_t op) {
    return &c->args[c->ops[op].arg_first];
}

static bool overlap(const struct sf_arg *a, const struct sf_arg *b) {
    return a->buf == b->buf && a->offset < b->offset + b->bytes && b->offset < a->offset + a->bytes;
}

/* The latest op before `op` that touches a range of `arg`; *touched is how. SF_NONE: none. */
static uint32_t last_touch(const struct sf_class *c, uint32_t op, const struct sf_arg *arg,
                           const struct sf_arg **touched) {
    for (uint32_t i = op; i-- > 0;) {
        for (uint32_t a = 0; a < c->ops[i].arg_n; a++) {
            if (overlap(&args_of(c, i)[a], arg)) {
                *touched = &args_of(c, i)[a];
                return i;
            }
        }
    }
    return SF_NONE;
}

/* A backward that overwrites gradients which another backward has just made loses them. */
static int check_gradient_kept(const struct sf_prog *prog, uint32_t class_i, uint32_t op, const struct sf_arg *arg,
                               struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    const struct sf_arg *before = NULL;
    uint32_t i = last_touch(c, op, arg, &before);
    if (i != SF_NONE && sfi_is_backward(c->ops[i].kind) && before->access & SF_WRITE) {
        return sfi_fail_op(prog, class_i, op, err, "overwrites the gradients of op %u before anybody has used them", i);
    }
    return SF_OK;
}

static int check_tokens(const struct sf_prog *prog, uint32_t class_i, uint32_t op, const struct sf_arg *arg,
                        struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    for (uint32_t i = op; i-- > 0;) {
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
static int check_updated_once(const struct sf_prog *prog, uint32_t class_i, uint32_t op, const struct sf_arg *arg,
                              struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    for (uint32_t i = 0; i < op; i++) {
        for (uint32_t a = 0; c->ops[i].kind == SF_OP_OPTIMIZER && a < c->ops[i].arg_n; a++) {
            if (args_of(c, i)[a].access & SF_WRITE && overlap(&args_of(c, i)[a], arg)) {
                return sfi_fail_op(prog, class_i, op, err, "updates what op %u has updated already", i);
            }
        }
    }
    return SF_OK;
}

int sfi_check_passes(const struct sf_prog *prog, uint32_t class_i, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    for (uint32_t i = 0; i < c->ops_n; i++) {
        int kind = c->ops[i].kind;
        for (uint32_t a = 0; a < c->ops[i].arg_n; a++) {
            const struct sf_arg *arg = &args_of(c, i)[a];
            uint32_t holds = c->bufs[arg->buf].kind;
            if (sfi_is_backward(kind) && holds == SF_BUF_GRAD && arg->access == SF_WRITE) {
                SF_TRY(check_gradient_kept(prog, class_i, i, arg, err));
            } else if ((kind == SF_OP_FORWARD || sfi_is_backward(kind)) && holds == SF_BUF_TOKENS) {
                SF_TRY(check_tokens(prog, class_i, i, arg, err));
            } else if (kind == SF_OP_OPTIMIZER && holds == SF_BUF_OPTIMIZER && arg->access & SF_WRITE) {
                SF_TRY(check_updated_once(prog, class_i, i, arg, err));
            }
        }
    }
    return SF_OK;
}
