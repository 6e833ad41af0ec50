/* Structure of a program: every index, range and count. The other proofs are in prog_check_*.c. */
#include "core/prog_check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/units.h"

int sfi_fail_op(const struct sf_prog *prog, uint32_t class_i, uint32_t op, struct sf_err *err, const char *fmt, ...) {
    char text[640], label[96];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    const uint32_t *lines = prog->classes[class_i].op_line;
    return sf_fail_at(err, SF_E_INPUT, NULL, lines != NULL ? lines[op] : 0, lines != NULL,
                      "class %u \"%s\" op %u (%s): %s", class_i, prog->classes[class_i].name, op,
                      sf_op_label(prog, class_i, op, label, sizeof label), text);
}

static int check_name(const char *name, const char *what, uint32_t i, struct sf_err *err) {
    if (!memchr(name, '\0', SF_NAME) || name[0] == '\0') {
        return sf_fail(err, SF_E_INPUT, "%s %u has no valid name", what, i);
    }
    return SF_OK;
}

static int check_axes(const struct sf_prog *prog, uint32_t *ranks, struct sf_err *err) {
    uint64_t n = 1;
    if (prog->axes_n == 0 || prog->axes_n > SF_MAX_AXES) {
        return sf_fail(err, SF_E_INPUT, "expected 1 to %d mesh axes, found %u", SF_MAX_AXES, prog->axes_n);
    }
    for (uint32_t a = 0; a < prog->axes_n; a++) {
        SF_TRY(check_name(prog->axes[a].name, "axis", a, err));
        n *= prog->axes[a].size;
        if (prog->axes[a].size == 0 || n > SF_MAX_RANKS) {
            return sf_fail(err, SF_E_INPUT, "axis \"%s\" has size %u: expected at least 1 and at most %u ranks in all",
                           prog->axes[a].name, prog->axes[a].size, SF_MAX_RANKS);
        }
    }
    *ranks = (uint32_t)n;
    return SF_OK;
}

static int check_picks(const struct sf_comm *comm, struct sf_err *err) {
    for (int op = 0; op < SF_COLL_OPS_N; op++) {
        if (comm->picks.of[op] >= SF_COLL_PICKS_N) {
            return sf_fail(err, SF_E_INPUT, "communicator \"%s\": expected picks below %d for %s, found %u", comm->name,
                           SF_COLL_PICKS_N, sf_coll_op_name(op), comm->picks.of[op]);
        }
    }
    return SF_OK;
}

static int check_comms(const struct sf_prog *prog, struct sf_err *err) {
    if (prog->comms_n > SF_MAX_COMMS || prog->streams_n == 0 || prog->streams_n > SF_MAX_STREAMS) {
        return sf_fail(err, SF_E_INPUT, "expected at most %d communicators and 1 to %d streams, found %u and %u",
                       SF_MAX_COMMS, SF_MAX_STREAMS, prog->comms_n, prog->streams_n);
    }
    for (uint32_t i = 0; i < prog->comms_n; i++) {
        SF_TRY(check_name(prog->comms[i].name, "communicator", i, err));
        if (prog->comms[i].axes == 0 || prog->comms[i].axes >> prog->axes_n) {
            return sf_fail(err, SF_E_INPUT, "communicator \"%s\" names no axis or one that does not exist (bits %#x)",
                           prog->comms[i].name, prog->comms[i].axes);
        }
        SF_TRY(check_picks(&prog->comms[i], err));
    }
    for (uint32_t i = 0; i < prog->streams_n; i++) {
        SF_TRY(check_name(prog->streams[i], "stream", i, err));
    }
    return SF_OK;
}

int sfi_check_mesh(const struct sf_prog *prog, uint32_t *ranks, uint32_t *class_of_n, struct sf_err *err) {
    SF_TRY(check_axes(prog, ranks, err));
    SF_TRY(check_comms(prog, err));
    if (prog->class_axes >> prog->axes_n) {
        return sf_fail(err, SF_E_INPUT, "the binding names an axis that does not exist (bits %#x)", prog->class_axes);
    }
    *class_of_n = 1;
    for (uint32_t a = 0; a < prog->axes_n; a++) {
        *class_of_n *= prog->class_axes >> a & 1 ? prog->axes[a].size : 1;
    }
    if (prog->ranks_per_domain == 0 || prog->ranks_per_domain > prog->domain_gpus || prog->domain_gpus > SF_MAX_RANKS) {
        return sf_fail(err, SF_E_INPUT, "%u ranks per domain of %u GPUs: expected 1 or more, and no more than seats",
                       prog->ranks_per_domain, prog->domain_gpus);
    }
    uint64_t last = (uint64_t)(*ranks - 1) / prog->ranks_per_domain * prog->domain_gpus + prog->domain_gpus;
    if (last > UINT32_MAX) {
        return sf_fail(err, SF_E_INPUT, "placement needs %llu seats", (unsigned long long)last);
    }
    if (prog->recipes_n > SF_MAX_RECIPES || prog->classes_n == 0 || prog->classes_n > SF_MAX_CLASSES) {
        return sf_fail(err, SF_E_INPUT, "expected at most %d recipes and 1 to %d classes, found %u and %u",
                       SF_MAX_RECIPES, SF_MAX_CLASSES, prog->recipes_n, prog->classes_n);
    }
    return SF_OK;
}

static int check_call(const struct sf_prog *prog, const struct sf_recipe *r, uint32_t call_i, struct sf_err *err) {
    const struct sf_call *c = &r->calls[call_i];
    if (c->kind >= SF_CALL_KINDS || c->dtype >= SF_DTYPES_N) {
        return sf_fail(err, SF_E_INPUT, "recipe \"%s\" call %u: unknown kind %u or dtype %u", r->name, call_i, c->kind,
                       c->dtype);
    }
    bool collective = sf_call_is_collective(c->kind);
    if (collective != (c->comm != SF_NONE) || (collective && c->comm >= prog->comms_n)) {
        return sf_fail(err, SF_E_INPUT, "recipe \"%s\" call %u (%s): communicator %u is not what the call needs",
                       r->name, call_i, sf_call_name(c->kind), c->comm);
    }
    for (int d = 0; d < SF_CALL_DIMS; d++) {
        if (c->dims[d] < 0 || c->dims[d] > INT64_C(1) << 48) {
            return sf_fail(err, SF_E_INPUT, "recipe \"%s\" call %u (%s): dimension %d is %lld", r->name, call_i,
                           sf_call_name(c->kind), d, (long long)c->dims[d]);
        }
    }
    for (int o = 0; o < SF_CALL_OPERANDS; o++) {
        if (c->operand[o] != SF_REF_NONE && SF_REF_FORMAL(c->operand[o]) >= r->formals_n) {
            return sf_fail(err, SF_E_INPUT, "recipe \"%s\" call %u (%s): operand %d names formal %u of %u", r->name,
                           call_i, sf_call_name(c->kind), o, SF_REF_FORMAL(c->operand[o]), r->formals_n);
        }
    }
    return SF_OK;
}

int sfi_check_recipes(const struct sf_prog *prog, struct sf_err *err) {
    for (uint32_t i = 0; i < prog->recipes_n; i++) {
        const struct sf_recipe *r = &prog->recipes[i];
        SF_TRY(check_name(r->name, "recipe", i, err));
        if (r->formals_n > 32 || r->calls_n > SF_MAX_RECIPE_CALLS) {
            return sf_fail(err, SF_E_INPUT, "recipe \"%s\" has %u formals and %u calls: at most 32 and %u", r->name,
                           r->formals_n, r->calls_n, SF_MAX_RECIPE_CALLS);
        }
        for (uint32_t c = 0; c < r->calls_n; c++) {
            SF_TRY(check_call(prog, r, c, err));
        }
    }
    return SF_OK;
}

static int check_op_comm(const struct sf_prog *prog, uint32_t class_i, uint32_t op_i, struct sf_err *err) {
    const struct sf_op *op = &prog->classes[class_i].ops[op_i];
    enum sf_op_group group = sf_op_group(op->kind);
    bool talks = group == SF_OP_IS_P2P || group == SF_OP_IS_COLL, named = op->comm != SF_NONE;
    bool may = talks || op->kind == SF_OP_LOAD;
    if ((talks && !named) || (named && (!may || op->comm >= prog->comms_n))) {
        return sf_fail(err, SF_E_INPUT, "class %u op %u (%s): communicator %u is not what the op needs", class_i, op_i,
                       sf_op_name(op->kind), op->comm);
    }
    if (group == SF_OP_IS_P2P) {
        uint32_t axes = prog->comms[op->comm].axes;
        if (axes & (axes - 1)) {
            return sfi_fail_op(prog, class_i, op_i, err, "transfers need a communicator with one axis");
        }
        int64_t size = prog->axes[__builtin_ctz(axes)].size;
        if (op->peer_delta <= -size || op->peer_delta >= size || op->peer_delta == 0) {
            return sfi_fail_op(prog, class_i, op_i, err, "peer offset %d on an axis of size %lld", op->peer_delta,
                               (long long)size);
        }
    } else if (op->group != 0) {
        return sfi_fail_op(prog, class_i, op_i, err, "only transfers can be grouped");
    }
    return SF_OK;
}

/* Arguments and dependencies are stored in op order without gaps, so their totals bound all later work. */
static int check_op_layout(const struct sf_prog *prog, uint32_t class_i, uint32_t op_i, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    const struct sf_op *op = &c->ops[op_i];
    const struct sf_op *before = op_i > 0 ? &c->ops[op_i - 1] : NULL;
    uint32_t args = before ? before->arg_first + before->arg_n : 0;
    uint32_t deps = before ? before->dep_first + before->dep_n : 0;
    bool last = op_i + 1 == c->ops_n;
    if (op->arg_first != args || op->dep_first != deps || (uint64_t)args + op->arg_n > c->args_n ||
        (uint64_t)deps + op->dep_n > c->deps_n ||
        (last && (args + op->arg_n != c->args_n || deps + op->dep_n != c->deps_n))) {
        return sfi_fail_op(prog, class_i, op_i, err, "arguments or dependencies are not laid out in op order");
    }
    return SF_OK;
}

static int check_op_args(const struct sf_prog *prog, uint32_t class_i, uint32_t op_i, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    const struct sf_op *op = &c->ops[op_i];
    for (uint32_t a = 0; a < op->arg_n; a++) {
        const struct sf_arg *arg = &c->args[op->arg_first + a];
        if (arg->buf >= c->bufs_n || arg->access < SF_READ || arg->access > SF_READ_WRITE ||
            arg->bytes > c->bufs[arg->buf].bytes || arg->offset > c->bufs[arg->buf].bytes - arg->bytes) {
            return sfi_fail_op(prog, class_i, op_i, err, "argument %u is not a range of a buffer", a);
        }
    }
    for (uint32_t d = 0; d < op->dep_n; d++) {
        if (c->deps[op->dep_first + d] >= op_i) {
            return sfi_fail_op(prog, class_i, op_i, err,
                               "depends on op %u, which does not come before it: dependencies point backwards",
                               c->deps[op->dep_first + d]);
        }
    }
    return SF_OK;
}

static void see_operands(const struct sf_call *call, struct sfi_formal *formals) {
    uint32_t writes = sf_call_writes(call->kind);
    for (int o = 0; o < SF_CALL_OPERANDS; o++) {
        if (call->operand[o] != SF_REF_NONE) {
            struct sfi_formal *f = &formals[SF_REF_FORMAL(call->operand[o])];
            uint64_t reach = SF_REF_OFFSET(call->operand[o]);
            f->reach = reach > f->reach ? reach : f->reach;
            f->touched = true;
            f->written |= (writes >> o & 1) != 0;
        }
    }
}

/* Recipes are few and ops many: what a recipe asks is found once. Its calls are known to be sound. */
static int find_formals(const struct sf_prog *prog, struct sfi_formals *out, struct sf_err *err) {
    size_t n = 0;
    for (uint32_t i = 0; i < prog->recipes_n; i++) {
        n += prog->recipes[i].formals_n;
    }
    out->all = sf_calloc(n, sizeof *out->all);
    out->first = sf_calloc(prog->recipes_n, sizeof *out->first);
    if (!out->all || !out->first) {
        return sf_fail_memory(err, "recipe check");
    }
    for (uint32_t i = 0, at = 0; i < prog->recipes_n; at += prog->recipes[i++].formals_n) {
        out->first[i] = at;
        for (uint32_t k = 0; k < prog->recipes[i].calls_n; k++) {
            see_operands(&prog->recipes[i].calls[k], &out->all[at]);
        }
    }
    return SF_OK;
}

/* Name the operand that asks for more than its formal is bound to. */
static int refuse_operand(const struct sf_prog *prog, uint32_t class_i, uint32_t op_i, uint32_t formal,
                          struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    const struct sf_recipe *r = &prog->recipes[c->ops[op_i].recipe];
    const struct sf_arg *arg = &c->args[c->ops[op_i].arg_first + formal];
    for (uint32_t i = 0; i < r->calls_n; i++) {
        for (int o = 0; o < SF_CALL_OPERANDS; o++) {
            sf_ref ref = r->calls[i].operand[o];
            if (ref == SF_REF_NONE || SF_REF_FORMAL(ref) != formal) {
                continue;
            }
            if (SF_REF_OFFSET(ref) >= arg->bytes) {
                return sfi_fail_op(prog, class_i, op_i, err,
                                   "recipe \"%s\" call %u operand %d lies outside argument %u", r->name, i, o, formal);
            }
            if (sf_call_writes(r->calls[i].kind) >> o & 1 && !(arg->access & SF_WRITE)) {
                return sfi_fail_op(prog, class_i, op_i, err,
                                   "recipe \"%s\" call %u (%s) writes argument %u, which is declared read-only",
                                   r->name, i, sf_call_name(r->calls[i].kind), formal);
            }
        }
    }
    return SF_OK;
}

/* Operands must lie inside the ranges bound to their formals. */
static int check_op_recipe(const struct sf_prog *prog, uint32_t class_i, uint32_t op_i,
                           const struct sfi_formals *formals, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    const struct sf_op *op = &c->ops[op_i];
    if (sf_op_group(op->kind) != SF_OP_IS_COMPUTE) {
        bool one =
            op->kind == SF_OP_LOAD || op->kind == SF_OP_SEND || op->kind == SF_OP_RECV || op->kind == SF_OP_ALL_REDUCE;
        uint32_t want = one ? 1 : 2;
        if (op->recipe != SF_NONE || op->arg_n != want) {
            return sfi_fail_op(prog, class_i, op_i, err, "expected %u arguments and no recipe, found %u", want,
                               op->arg_n);
        }
        return SF_OK;
    }
    if (op->recipe >= prog->recipes_n || prog->recipes[op->recipe].formals_n != op->arg_n) {
        return sfi_fail_op(prog, class_i, op_i, err, "recipe %u is missing or wants other than %u arguments",
                           op->recipe, op->arg_n);
    }
    const struct sfi_formal *asked = &formals->all[formals->first[op->recipe]];
    for (uint32_t a = 0; a < op->arg_n; a++) {
        const struct sf_arg *arg = &c->args[op->arg_first + a];
        if (asked[a].touched && (asked[a].reach >= arg->bytes || (asked[a].written && !(arg->access & SF_WRITE)))) {
            return refuse_operand(prog, class_i, op_i, a, err);
        }
    }
    return SF_OK;
}

/* What ops without a recipe do to their arguments; and a share must not lie inside the whole that it is a share of. */
static int check_op_access(const struct sf_prog *prog, uint32_t class_i, uint32_t op_i, struct sf_err *err) {
    static const uint32_t needs[SF_OP_KINDS][2] = {
        [SF_OP_LOAD] = {SF_WRITE},
        [SF_OP_SEND] = {SF_READ},
        [SF_OP_RECV] = {SF_WRITE},
        [SF_OP_ALL_REDUCE] = {SF_READ_WRITE},
        [SF_OP_REDUCE_SCATTER] = {SF_READ, SF_WRITE},
        [SF_OP_ALL_GATHER] = {SF_READ, SF_WRITE},
        [SF_OP_OFFLOAD] = {SF_READ, SF_WRITE},
        [SF_OP_FETCH] = {SF_READ, SF_WRITE},
    };
    const struct sf_class *c = &prog->classes[class_i];
    const struct sf_op *op = &c->ops[op_i];
    const struct sf_arg *args = &c->args[op->arg_first];
    for (uint32_t a = 0; a < 2 && a < op->arg_n; a++) {
        if ((args[a].access & needs[op->kind][a]) != needs[op->kind][a]) {
            return sfi_fail_op(prog, class_i, op_i, err, "does more to argument %u than its access says", a);
        }
    }
    bool shares = op->kind == SF_OP_REDUCE_SCATTER || op->kind == SF_OP_ALL_GATHER;
    if (shares && sf_prog_comm_size(prog, op->comm) > 1 && args[0].buf == args[1].buf &&
        args[0].offset < args[1].offset + args[1].bytes && args[1].offset < args[0].offset + args[0].bytes) {
        return sfi_fail_op(prog, class_i, op_i, err, "the share and the whole overlap");
    }
    return SF_OK;
}

static int check_op_bytes(const struct sf_prog *prog, uint32_t class_i, uint32_t op_i, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    const struct sf_op *op = &c->ops[op_i];
    const struct sf_arg *args = &c->args[op->arg_first];
    uint64_t whole = 0;
    switch (op->kind) {
    case SF_OP_SEND:
    case SF_OP_RECV:
    case SF_OP_ALL_REDUCE:
    case SF_OP_REDUCE_SCATTER:
        whole = args[0].bytes;
        break;
    case SF_OP_OFFLOAD:
    case SF_OP_FETCH:
        whole = args[0].bytes == args[1].bytes ? args[0].bytes : 0;
        break;
    case SF_OP_ALL_GATHER:
        whole = args[1].bytes;
        break;
    default:
        return SF_OK;
    }
    if (op->bytes != whole || whole == 0) {
        return sfi_fail_op(prog, class_i, op_i, err, "moves %llu bytes but its range has %llu",
                           (unsigned long long)op->bytes, (unsigned long long)whole);
    }
    if (op->kind == SF_OP_REDUCE_SCATTER || op->kind == SF_OP_ALL_GATHER) {
        uint32_t n = sf_prog_comm_size(prog, op->comm);
        uint64_t part = args[op->kind == SF_OP_ALL_GATHER ? 0 : 1].bytes;
        if (whole % n != 0 || part != whole / n) {
            return sfi_fail_op(prog, class_i, op_i, err, "%llu bytes in %u equal shares are not %llu bytes each",
                               (unsigned long long)whole, n, (unsigned long long)part);
        }
    }
    return SF_OK;
}

static int check_buffers(const struct sf_prog *prog, uint32_t class_i, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    for (uint32_t i = 0; i < c->bufs_n; i++) {
        const struct sf_buffer *b = &c->bufs[i];
        SF_TRY(check_name(b->name, "buffer", i, err));
        uint64_t room = b->kind == SF_BUF_HOST ? c->host_bytes : c->arena_bytes;
        if (b->kind >= SF_BUF_KINDS || b->bytes > room || b->offset > room - b->bytes || b->offset % 64 != 0) {
            return sf_fail(err, SF_E_INPUT, "class %u buffer \"%s\" lies outside the %s of %llu bytes", class_i,
                           b->name, b->kind == SF_BUF_HOST ? "host memory" : "arena", (unsigned long long)room);
        }
    }
    return SF_OK;
}

/* State that the next step, or whoever reads loss or norm, finds where this one left it. */
static int check_persistence(const struct sf_class *c, uint32_t class_i, struct sf_err *err) {
    for (uint32_t i = 0; i < c->bufs_n; i++) {
        const struct sf_buffer *b = &c->bufs[i];
        bool state = b->kind == SF_BUF_PARAM || b->kind == SF_BUF_OPTIMIZER || b->kind == SF_BUF_HYPER ||
                     b->kind == SF_BUF_LOSS || b->kind == SF_BUF_NORM;
        if (state && (b->first_op != 0 || b->last_op != SF_NONE)) {
            return sf_fail(err, SF_E_INPUT,
                           "class %u buffer \"%s\" (%s) must live for the whole program, not for ops %u to %u", class_i,
                           b->name, sf_buf_kind_name((int)b->kind), b->first_op, b->last_op);
        }
    }
    return SF_OK;
}

static uint64_t tensor_end(const struct sf_tensor *t) {
    return t->offset + t->rows * t->cols * (uint64_t)sf_dtype_bytes((int)t->dtype);
}

static int compare_tensor(const void *a, const void *b) {
    const struct sf_tensor *x = *(const struct sf_tensor *const *)a, *y = *(const struct sf_tensor *const *)b;
    if (x->buf != y->buf) {
        return x->buf < y->buf ? -1 : 1;
    }
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static int check_tensors_apart(const struct sf_class *c, uint32_t class_i, struct sf_err *err) {
    const struct sf_tensor **sorted = sf_calloc(c->tensors_n, sizeof *sorted);
    if (sorted == NULL) {
        return sf_fail_memory(err, "tensor check");
    }
    for (uint32_t i = 0; i < c->tensors_n; i++) {
        sorted[i] = &c->tensors[i];
    }
    qsort(sorted, c->tensors_n, sizeof *sorted, compare_tensor);
    int rc = SF_OK;
    for (uint32_t i = 1; i < c->tensors_n && rc == SF_OK; i++) {
        if (sorted[i - 1]->buf == sorted[i]->buf && tensor_end(sorted[i - 1]) > sorted[i]->offset) {
            rc = sf_fail(err, SF_E_INPUT, "class %u tensors \"%s\" and \"%s\" overlap", class_i, sorted[i - 1]->name,
                         sorted[i]->name);
        }
    }
    sf_free(sorted);
    return rc;
}

/* Blocks of all members lie inside the whole, and a weight is split one way. */
static bool is_inside_whole(const struct sf_prog *prog, const struct sf_tensor *t) {
    uint64_t rows, cols;
    if (t->whole_rows == 0 && t->whole_cols == 0) {
        return t->first_row == 0;
    }
    if (t->comm >= prog->comms_n || (t->whole_rows > 0 && t->whole_cols > 0)) {
        return false;
    }
    uint32_t n = sf_prog_comm_size(prog, t->comm);
    if (t->whole_cols > 0) {
        return t->first_row == 0 && !__builtin_mul_overflow(t->cols, (uint64_t)n, &cols) && cols == t->whole_cols;
    }
    return !__builtin_mul_overflow(t->rows, (uint64_t)n, &rows) && rows <= t->whole_rows &&
           t->first_row <= t->whole_rows - rows;
}

static int check_tensors(const struct sf_prog *prog, uint32_t class_i, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    for (uint32_t i = 0; i < c->tensors_n; i++) {
        const struct sf_tensor *t = &c->tensors[i];
        uint64_t bytes;
        if (!memchr(t->name, '\0', sizeof t->name) || t->buf >= c->bufs_n || t->dtype >= SF_DTYPES_N ||
            t->init > SF_INIT_NORMAL || __builtin_mul_overflow(t->rows, t->cols, &bytes) ||
            __builtin_mul_overflow(bytes, (uint64_t)sf_dtype_bytes((int)t->dtype), &bytes) ||
            bytes > c->bufs[t->buf].bytes || t->offset > c->bufs[t->buf].bytes - bytes) {
            return sf_fail(err, SF_E_INPUT, "class %u tensor %u lies outside its buffer", class_i, i);
        }
        if (c->bufs[t->buf].kind != SF_BUF_PARAM) {
            return sf_fail(err, SF_E_INPUT, "class %u tensor \"%s\" is not in a parameter buffer", class_i, t->name);
        }
        if (!is_inside_whole(prog, t)) {
            return sf_fail(err, SF_E_INPUT, "class %u tensor \"%s\": its blocks do not lie inside the whole", class_i,
                           t->name);
        }
    }
    return check_tensors_apart(c, class_i, err);
}

static int check_room(const struct sf_prog *prog, uint32_t class_i, uint64_t need, uint64_t have, const char *whose,
                      struct sf_err *err) {
    if (have == 0 || need <= have) {
        return SF_OK;
    }
    char need_text[32], have_text[32], over_text[32];
    uint64_t over = need - have;
    return sf_fail(err, SF_E_NOPLAN, "class %u \"%s\" needs %s but its %s has %s: %s (%.1f %%) too much", class_i,
                   prog->classes[class_i].name, sf_format_bytes(need, need_text, sizeof need_text), whose,
                   sf_format_bytes(have, have_text, sizeof have_text),
                   sf_format_bytes(over, over_text, sizeof over_text), 100.0 * (double)over / (double)have);
}

static int check_fits(const struct sf_prog *prog, uint32_t class_i, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    SF_TRY(check_room(prog, class_i, c->arena_bytes, prog->device_memory_bytes, "device", err));
    return check_room(prog, class_i, c->host_bytes, prog->host_memory_bytes, "share of the host", err);
}

int sfi_check_class(const struct sf_prog *prog, uint32_t class_i, const struct sfi_formals *formals,
                    struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    SF_TRY(check_name(c->name, "class", class_i, err));
    if (c->ops_n == 0 || c->ops_n > SF_MAX_CLASS_OPS) {
        return sf_fail(err, SF_E_INPUT, "class %u has %u ops: expected 1 to %u", class_i, c->ops_n, SF_MAX_CLASS_OPS);
    }
    SF_TRY(check_buffers(prog, class_i, err));
    SF_TRY(check_persistence(c, class_i, err));
    SF_TRY(check_tensors(prog, class_i, err));
    for (uint32_t i = 0; i < c->ops_n; i++) {
        if (c->ops[i].kind >= SF_OP_KINDS || c->ops[i].stream >= prog->streams_n) {
            return sf_fail(err, SF_E_INPUT, "class %u op %u: unknown kind %u or stream %u", class_i, i, c->ops[i].kind,
                           c->ops[i].stream);
        }
        SF_TRY(check_op_comm(prog, class_i, i, err));
        SF_TRY(check_op_layout(prog, class_i, i, err));
        SF_TRY(check_op_args(prog, class_i, i, err));
        SF_TRY(check_op_recipe(prog, class_i, i, formals, err));
        SF_TRY(check_op_bytes(prog, class_i, i, err));
        SF_TRY(check_op_access(prog, class_i, i, err));
    }
    return check_fits(prog, class_i, err);
}

static int check_ordered(const struct sf_prog *prog, uint32_t class_i, struct sf_err *err) {
    const struct sf_class *c = &prog->classes[class_i];
    struct sfi_order order;
    SF_TRY(sfi_check_passes(prog, class_i, err));
    SF_TRY(sfi_order_create(c->ops, c->ops_n, c->deps, &order, err));
    int rc = sfi_check_memory(prog, class_i, &order, err);
    if (rc == SF_OK) {
        rc = sfi_check_host(prog, class_i, &order, err);
    }
    if (rc == SF_OK) {
        rc = sfi_check_gradients(prog, class_i, &order, err);
    }
    if (rc == SF_OK) {
        rc = sfi_check_clip(prog, class_i, &order, err);
    }
    sfi_order_free(&order);
    return rc;
}

static int check_classes(const struct sf_prog *prog, struct sf_err *err) {
    struct sfi_formals formals = {0};
    int rc = find_formals(prog, &formals, err);
    for (uint32_t i = 0; i < prog->classes_n && rc == SF_OK; i++) {
        rc = sfi_check_class(prog, i, &formals, err);
    }
    sf_free(formals.first);
    sf_free(formals.all);
    return rc;
}

int sf_prog_check(const struct sf_prog *prog, struct sf_err *err) {
    uint32_t ranks, class_of_n;
    SF_TRY(sfi_check_mesh(prog, &ranks, &class_of_n, err));
    for (uint32_t i = 0; i < class_of_n; i++) {
        if (prog->class_of[i] >= prog->classes_n) {
            return sf_fail(err, SF_E_INPUT, "binding entry %u names class %u of %u", i, prog->class_of[i],
                           prog->classes_n);
        }
    }
    SF_TRY(sfi_check_recipes(prog, err));
    SF_TRY(check_classes(prog, err));
    for (uint32_t i = 0; i < prog->classes_n; i++) {
        SF_TRY(check_ordered(prog, i, err));
    }
    SF_TRY(sfi_check_clips_agree(prog, err));
    return sfi_check_communication(prog, err);
}
