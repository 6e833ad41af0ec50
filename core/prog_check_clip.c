/* Clipping by the global norm: one norm per step, of gradients from everywhere, known before the first update. */
#include "core/prog_check.h"

struct clip {
    uint32_t op;    /* SF_NONE: the class does not clip */
    float limit;    /* of the norm */
    int64_t sums_n; /* that the norm is of */
    struct sf_arg sums;
};

static const struct sf_call *find_call(const struct sf_prog *prog, const struct sf_op *op, int kind) {
    const struct sf_recipe *r = op->recipe == SF_NONE ? NULL : &prog->recipes[op->recipe];
    for (uint32_t i = 0; r && i < r->calls_n; i++) {
        if (r->calls[i].kind == kind) {
            return &r->calls[i];
        }
    }
    return NULL;
}

static int find_clip(const struct sf_prog *prog, uint32_t class_i, struct clip *out, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    *out = (struct clip){.op = SF_NONE};
    for (uint32_t i = 0; i < c->ops_n; i++) {
        const struct sf_call *call = find_call(prog, &c->ops[i], SF_CALL_CLIP);
        if (call && out->op != SF_NONE) {
            return sfi_fail_op(prog, class_i, i, err, "clips once more: op %u has cut the same gradient", out->op);
        }
        if (call && call->operand[0] != SF_REF_NONE) {
            *out = (struct clip){.op = i, .limit = call->imm[0], .sums_n = call->dims[0]};
            out->sums = c->args[c->ops[i].arg_first + SF_REF_FORMAL(call->operand[0])];
        }
    }
    return SF_OK;
}

static bool touches_sums(const struct sf_class *c, const struct sf_op *op, const struct clip *clip) {
    for (uint32_t a = 0; a < op->arg_n; a++) {
        const struct sf_arg *arg = &c->args[op->arg_first + a];
        if (arg->buf == clip->sums.buf && arg->access & SF_WRITE &&
            arg->offset < clip->sums.offset + clip->sums.bytes && clip->sums.offset < arg->offset + arg->bytes) {
            return true;
        }
    }
    return false;
}

/* What is added to the sums comes before the cut, and every update behind it. */
static int check_around(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order,
                        const struct clip *clip, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    for (uint32_t i = 0; i < c->ops_n; i++) {
        if (find_call(prog, &c->ops[i], SF_CALL_ADAMW) && !sfi_before(order, c->ops, clip->op, i)) {
            return sfi_fail_op(prog, class_i, i, err,
                               "may update weights before op %u has cut the gradient: add a "
                               "dependency",
                               clip->op);
        }
        if (i != clip->op && touches_sums(c, &c->ops[i], clip) && !sfi_before(order, c->ops, i, clip->op)) {
            return sfi_fail_op(prog, class_i, clip->op, err, "may cut the gradient before op %u has added its squares",
                               i);
        }
    }
    return SF_OK;
}

static uint32_t axes_over_one(const struct sf_prog *prog, uint32_t axes) {
    uint32_t out = 0;
    for (uint32_t a = 0; a < prog->axes_n; a++) {
        out |= axes >> a & 1 && prog->axes[a].size > 1 ? UINT32_C(1) << a : 0;
    }
    return out;
}

/* Classes hold different weights: their squares are added up over all axes that choose the class. */
static int check_all_classes(const struct sf_prog *prog, uint32_t class_i, const struct clip *clip,
                             struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    uint32_t missing = axes_over_one(prog, prog->class_axes);
    for (uint32_t i = 0; i < c->ops_n; i++) {
        if (c->ops[i].kind == SF_OP_ALL_REDUCE && touches_sums(c, &c->ops[i], clip)) {
            missing &= ~prog->comms[c->ops[i].comm].axes;
        }
    }
    for (uint32_t a = 0; a < prog->axes_n; a++) {
        if (missing >> a & 1) {
            return sfi_fail_op(prog, class_i, clip->op, err,
                               "cuts by a norm that lacks the squares of the other ranks of axis \"%s\"",
                               prog->axes[a].name);
        }
    }
    return SF_OK;
}

static bool updates(const struct sf_prog *prog, uint32_t class_i) {
    const struct sf_class *c = &prog->classes[class_i];
    for (uint32_t i = 0; i < c->ops_n; i++) {
        if (find_call(prog, &c->ops[i], SF_CALL_ADAMW)) {
            return true;
        }
    }
    return false;
}

int sfi_check_clip(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order, struct sf_err *err) {
    struct clip clip;
    SF_TRY(find_clip(prog, class_i, &clip, err));
    if (clip.op == SF_NONE) {
        return SF_OK;
    }
    SF_TRY(check_around(prog, class_i, order, &clip, err));
    return check_all_classes(prog, class_i, &clip, err);
}

/* All classes that update weights clip alike, or none does. */
int sfi_check_clips_agree(const struct sf_prog *prog, struct sf_err *err) {
    struct clip first = {.op = SF_NONE}, clip;
    uint32_t first_class = SF_NONE;
    for (uint32_t i = 0; i < prog->classes_n; i++) {
        if (!updates(prog, i)) {
            continue;
        }
        SF_TRY(find_clip(prog, i, &clip, err));
        first = first_class == SF_NONE ? clip : first;
        first_class = first_class == SF_NONE ? i : first_class;
        bool same = (clip.op == SF_NONE) == (first.op == SF_NONE) && !(clip.limit < first.limit) &&
                    !(clip.limit > first.limit) && clip.sums_n == first.sums_n;
        if (!same) {
            return sf_fail(
                err, SF_E_INPUT,
                "class %u \"%s\" clips at %g over %lld sums, class %u \"%s\" at %g over %lld: one norm for all",
                first_class, prog->classes[first_class].name, (double)first.limit, (long long)first.sums_n, i,
                prog->classes[i].name, (double)clip.limit, (long long)clip.sums_n);
        }
    }
    return SF_OK;
}
