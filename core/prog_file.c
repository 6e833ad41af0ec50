#include "core/prog_file.h"

#include <math.h>
#include <string.h>

#include "core/io.h"
#include "core/prog_check.h"
#include "core/prog_scan.h"

#define X(NAME, bit, name) | bit
static const unsigned known_call_flags = 0 SF_CALL_FLAGS(X);
#undef X
static const unsigned known_op_flags = SF_OP_TARGETS | SF_OP_SUM_F32;

static int check_call(const struct sf_recipe *r, uint32_t call_i, struct sf_err *err) {
    const struct sf_call *c = &r->calls[call_i];
    bool sound = c->kind < SF_CALL_KINDS && c->dtype < SF_DTYPES_N && (c->flags & ~known_call_flags) == 0 &&
                 isfinite(c->imm[0]) && isfinite(c->imm[1]);
    for (int d = sf_call_dims_n(c->kind); d < SF_CALL_DIMS; d++) {
        sound = sound && c->dims[d] == 0;
    }
    for (int o = sf_call_operands_n(c->kind); o < SF_CALL_OPERANDS; o++) {
        sound = sound && c->operand[o] == SF_REF_NONE;
    }
    if (!sound) {
        return sf_fail(
            err, SF_E_INPUT,
            "recipe \"%.31s\" call %u (%s): a flag, constant, dimension or operand that its kind does not have",
            r->name, call_i, sf_call_name(c->kind));
    }
    return 0;
}

static int check_recipes(const struct sf_prog *prog, struct sf_err *err) {
    for (uint32_t i = 0; i < prog->recipes_n; i++) {
        for (uint32_t k = 0; k < prog->recipes[i].calls_n; k++) {
            SF_TRY(check_call(&prog->recipes[i], k, err));
        }
    }
    return 0;
}

static int check_ops(const struct sf_prog *prog, const struct sf_class *c, struct sf_err *err) {
    uint64_t args = 0, deps = 0;
    for (uint32_t i = 0; i < c->ops_n; i++) {
        const struct sf_op *op = &c->ops[i];
        if (op->arg_first != args || op->dep_first != deps) {
            return sf_fail(err, SF_E_INPUT, "class \"%.31s\" op %u: its args or deps are not stored in op order",
                           c->name, i);
        }
        if (op->kind >= SF_OP_KINDS || op->stream >= prog->streams_n || (op->flags & ~known_op_flags) != 0 ||
            (op->comm != SF_NONE && op->comm >= prog->comms_n)) {
            return sf_fail(err, SF_E_INPUT,
                           "class \"%.31s\" op %u: unknown kind %u, stream %u, communicator %u or flags %#x", c->name,
                           i, op->kind, op->stream, op->comm, op->flags);
        }
        args += op->arg_n;
        deps += op->dep_n;
    }
    if (args != c->args_n || deps != c->deps_n) {
        return sf_fail(err, SF_E_INPUT, "class \"%.31s\": its ops use %llu args and %llu deps, it has %u and %u",
                       c->name, (unsigned long long)args, (unsigned long long)deps, c->args_n, c->deps_n);
    }
    return 0;
}

static int check_data(const struct sf_class *c, struct sf_err *err) {
    for (uint32_t i = 0; i < c->args_n; i++) {
        if (c->args[i].access < SF_READ || c->args[i].access > SF_READ_WRITE) {
            return sf_fail(err, SF_E_INPUT, "class \"%.31s\" arg %u: unknown access %u", c->name, i, c->args[i].access);
        }
    }
    for (uint32_t i = 0; i < c->bufs_n; i++) {
        if (c->bufs[i].kind >= SF_BUF_KINDS || c->bufs[i].reserved != 0) {
            return sf_fail(err, SF_E_INPUT, "class \"%.31s\" buffer %u: unknown kind %u", c->name, i, c->bufs[i].kind);
        }
    }
    for (uint32_t i = 0; i < c->tensors_n; i++) {
        const struct sf_tensor *t = &c->tensors[i];
        if (t->dtype >= SF_DTYPES_N || t->init > SF_INIT_NORMAL || !isfinite(t->init_std)) {
            return sf_fail(err, SF_E_INPUT, "class \"%.31s\" tensor \"%.79s\": unknown dtype %u, init %u or spread",
                           c->name, t->name, t->dtype, t->init);
        }
    }
    return 0;
}

static int check_job(const struct sf_prog *prog, struct sf_err *err) {
    const struct sf_prog_job *j = &prog->job;
    if (!isfinite(j->model_flops_per_step) || !isfinite(j->lr) || !isfinite(j->beta1) || !isfinite(j->beta2) ||
        !isfinite(j->eps) || !isfinite(j->weight_decay)) {
        return sf_fail(err, SF_E_INPUT, "the job has a number that is not finite");
    }
    return memchr(prog->title, '\0', sizeof prog->title) != NULL ? 0
                                                                 : sf_fail(err, SF_E_INPUT, "the title does not end");
}

int sfi_prog_storable(const struct sf_prog *prog, struct sf_err *err) {
    uint32_t ranks, class_of_n;
    SF_TRY(sfi_check_mesh(prog, &ranks, &class_of_n, err));
    SF_TRY(check_job(prog, err));
    SF_TRY(check_recipes(prog, err));
    for (uint32_t i = 0; i < prog->classes_n; i++) {
        SF_TRY(check_ops(prog, &prog->classes[i], err));
        SF_TRY(check_data(&prog->classes[i], err));
    }
    return 0;
}

int sfi_prog_accept(const struct sf_prog *prog, struct sf_err *err) {
    SF_TRY(sfi_prog_storable(prog, err));
    return sf_prog_check(prog, err);
}

int sfi_name_file(struct sf_err *err, int rc, const char *name) {
    if ((rc == SF_E_INPUT || rc == SF_E_NOPLAN) && err != NULL && err->file[0] == '\0') {
        char msg[sizeof err->msg];
        memcpy(msg, err->msg, sizeof msg);
        return sf_fail_at(err, rc, name, err->line, err->column, "%s", msg);
    }
    return rc;
}

#define HEAD_BYTES 64

bool sf_prog_is_binary(const char *data, size_t bytes) {
    return (bytes >= 2 && memcmp(data, "SF", 2) == 0) ||
           memchr(data, '\0', bytes < HEAD_BYTES ? bytes : HEAD_BYTES) != NULL;
}

bool sf_prog_is_text(const char *data, size_t bytes) {
    struct sfi_scan s;
    sfi_scan_start(&s, data, bytes, "", NULL);
    return sfi_scan_word(&s, "staticfire") && sfi_scan_word(&s, "program");
}

int sf_prog_read(const struct sf_io *io, const char *path, struct sf_prog **out, struct sf_err *err) {
    char *data = NULL;
    size_t bytes = 0;
    SF_TRY(io->read_all(io->self, path, SF_PROG_MAX_BYTES, &data, &bytes, err));
    int rc = sf_prog_is_binary(data, bytes) ? sf_prog_decode(data, bytes, path, out, err)
                                            : sf_prog_parse(data, bytes, path, out, err);
    sf_free(data);
    return rc;
}

struct sf_prog *sfi_prog_create(void) {
    struct sf_arena *arena = sf_arena_create();
    struct sf_prog *prog = arena != NULL ? sf_arena_alloc(arena, 1, sizeof *prog) : NULL;
    if (prog == NULL) {
        sf_arena_free(arena);
        return NULL;
    }
    prog->arena = arena;
    return prog;
}
