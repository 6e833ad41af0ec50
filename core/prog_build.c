/* Builder; see prog_build.h. */
#include "core/prog_build.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "core/prog_check.h"
#include "core/prog_place.h"

/* A growing array; push() makes room or marks the builder as failed. */
struct vec {
    void *data;
    size_t n, capacity;
};

struct sf_build {
    struct sf_prog *prog;
    struct sf_err err; /* sticky */
    struct vec recipes, classes, recipe_hashes;
    struct vec calls;                          /* of the open recipe */
    struct vec ops, args, deps, bufs, tensors; /* of the open class */
    struct sf_recipe recipe;
    struct sf_class cls;
};

static bool failed(const struct sf_build *b) {
    return b->err.code != SF_OK;
}

/* Append `n` elements (zeroed when src is NULL); returns where they went, or NULL after a failure. */
static void *push(struct sf_build *b, struct vec *v, size_t size, const void *src, size_t n, size_t limit) {
    if (failed(b)) {
        return NULL;
    }
    if (v->n + n > limit) {
        sf_fail(&b->err, SF_E_INPUT, "the program needs more than %zu entries of one kind", limit);
        return NULL;
    }
    if (v->n + n > v->capacity) {
        size_t capacity = v->capacity * 2 > v->n + n ? v->capacity * 2 : v->n + n + 16;
        void *data = sf_realloc(v->data, capacity, size);
        if (!data) {
            sf_fail_memory(&b->err, "program under construction");
            return NULL;
        }
        v->data = data;
        v->capacity = capacity;
    }
    char *at = (char *)v->data + v->n * size;
    v->n += n;
    if (src && n > 0) {
        memcpy(at, src, n * size);
    } else if (n > 0) {
        memset(at, 0, n * size);
    }
    return at;
}

/* Copy a vector into the program's arena and empty it. */
static void *seal(struct sf_build *b, struct vec *v, size_t size) {
    void *p = failed(b) ? NULL : sf_arena_alloc(b->prog->arena, v->n, size);
    if (!p && !failed(b)) {
        sf_fail_memory(&b->err, "program");
    }
    if (p && v->n > 0) {
        memcpy(p, v->data, v->n * size);
    }
    v->n = 0;
    return p;
}

static void name_set(char dst[SF_NAME], const char *name) {
    snprintf(dst, SF_NAME, "%s", name);
}

struct sf_build *sf_build_create(void) {
    struct sf_build *b = sf_calloc(1, sizeof *b);
    struct sf_arena *arena = sf_arena_create();
    struct sf_prog *prog = arena ? sf_arena_alloc(arena, 1, sizeof *prog) : NULL;
    if (!b || !prog) {
        sf_free(b);
        sf_arena_free(arena);
        return NULL;
    }
    prog->arena = arena;
    prog->ranks_per_domain = 1;
    prog->domain_gpus = 1;
    b->prog = prog;
    return b;
}

void sf_build_free(struct sf_build *b) {
    if (!b) {
        return;
    }
    struct vec *all[] = {&b->recipes, &b->classes, &b->recipe_hashes, &b->calls,  &b->ops,
                         &b->args,    &b->deps,    &b->bufs,          &b->tensors};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        sf_free(all[i]->data);
    }
    sf_prog_free(b->prog);
    sf_free(b);
}

struct sf_prog *sf_build_prog(struct sf_build *b) {
    return b->prog;
}

uint32_t sf_build_axis(struct sf_build *b, const char *name, uint32_t size) {
    struct sf_prog *p = b->prog;
    if (p->axes_n == SF_MAX_AXES) {
        sf_fail(&b->err, SF_E_INPUT, "more than %d mesh axes", SF_MAX_AXES);
        return 0;
    }
    name_set(p->axes[p->axes_n].name, name);
    p->axes[p->axes_n].size = size;
    return p->axes_n++;
}

uint32_t sf_build_comm(struct sf_build *b, const char *name, uint32_t axes) {
    struct sf_prog *p = b->prog;
    if (p->comms_n == SF_MAX_COMMS) {
        sf_fail(&b->err, SF_E_INPUT, "more than %d communicators", SF_MAX_COMMS);
        return 0;
    }
    name_set(p->comms[p->comms_n].name, name);
    p->comms[p->comms_n].axes = axes;
    return p->comms_n++;
}

uint32_t sf_build_stream(struct sf_build *b, const char *name) {
    struct sf_prog *p = b->prog;
    if (p->streams_n == SF_MAX_STREAMS) {
        sf_fail(&b->err, SF_E_INPUT, "more than %d streams", SF_MAX_STREAMS);
        return 0;
    }
    name_set(p->streams[p->streams_n], name);
    return p->streams_n++;
}

void sf_build_recipe_begin(struct sf_build *b, const char *name, uint32_t formals_n) {
    memset(&b->recipe, 0, sizeof b->recipe);
    name_set(b->recipe.name, name);
    b->recipe.formals_n = formals_n;
    b->calls.n = 0;
}

void sf_build_call(struct sf_build *b, const struct sf_call *call) {
    if (!failed(b) && b->calls.n == SF_MAX_RECIPE_CALLS) {
        sf_fail(&b->err, SF_E_INPUT,
                "recipe %s needs more than %u kernel calls, a limit of programs; fewer rows of a microbatch need fewer",
                b->recipe.name, SF_MAX_RECIPE_CALLS);
    }
    push(b, &b->calls, sizeof *call, call, 1, SF_MAX_RECIPE_CALLS);
}

/* An earlier recipe with the same calls and formals, or SF_NONE. Names do not make a difference. */
static uint32_t find_recipe(const struct sf_build *b, struct sf_hash hash) {
    const struct sf_hash *hashes = b->recipe_hashes.data;
    const struct sf_recipe *recipes = b->recipes.data;
    for (uint32_t i = 0; i < b->recipes.n; i++) {
        if (sf_hash_equal(hashes[i], hash) && recipes[i].calls_n == b->calls.n &&
            recipes[i].formals_n == b->recipe.formals_n) {
            return i;
        }
    }
    return SF_NONE;
}

uint32_t sf_build_recipe_end(struct sf_build *b) {
    if (failed(b)) {
        return 0;
    }
    struct sf_hash hash = sf_hash_bytes(b->calls.data, b->calls.n * sizeof(struct sf_call));
    uint32_t known = find_recipe(b, hash);
    if (known != SF_NONE) {
        return known;
    }
    b->recipe.calls_n = (uint32_t)b->calls.n;
    b->recipe.calls = seal(b, &b->calls, sizeof(struct sf_call));
    push(b, &b->recipe_hashes, sizeof hash, &hash, 1, SF_MAX_RECIPES);
    push(b, &b->recipes, sizeof b->recipe, &b->recipe, 1, SF_MAX_RECIPES);
    return (uint32_t)b->recipes.n - 1;
}

void sf_build_class_begin(struct sf_build *b, const char *name, uint32_t stage) {
    memset(&b->cls, 0, sizeof b->cls);
    name_set(b->cls.name, name);
    b->cls.stage = stage;
}

uint32_t sf_build_buffer(struct sf_build *b, const char *name, enum sf_buf_kind kind, uint64_t bytes, bool persistent) {
    struct sf_buffer buf = {.bytes = bytes, .kind = kind};
    name_set(buf.name, name);
    buf.last_op = persistent ? SF_NONE : 0;
    push(b, &b->bufs, sizeof buf, &buf, 1, SF_MAX_CLASS_OPS);
    return (uint32_t)b->bufs.n - 1;
}

void sf_build_tensor(struct sf_build *b, const struct sf_tensor *t) {
    push(b, &b->tensors, sizeof *t, t, 1, SF_MAX_CLASS_OPS);
}

/* Is `dep` among the deps kept so far for this op? */
static bool has_dep(const struct sf_build *b, const struct sf_op *op, uint32_t dep) {
    const uint32_t *deps = b->deps.data;
    for (uint32_t i = 0; i < op->dep_n; i++) {
        if (deps[op->dep_first + i] == dep) {
            return true;
        }
    }
    return false;
}

/* Keep deps that say something: not on the op's own stream, not said before. */
static void push_deps(struct sf_build *b, struct sf_op *op, const uint32_t *deps, uint32_t deps_n) {
    const struct sf_op *ops = b->ops.data;
    op->dep_first = (uint32_t)b->deps.n;
    for (uint32_t i = 0; i < deps_n && !failed(b); i++) {
        if (deps[i] >= b->ops.n) {
            sf_fail(&b->err, SF_E_INTERNAL, "op %zu of class \"%s\" depends on op %u, which does not come before it",
                    b->ops.n, b->cls.name, deps[i]);
        } else if (ops[deps[i]].stream != op->stream && !has_dep(b, op, deps[i])) {
            push(b, &b->deps, sizeof *deps, &deps[i], 1, SF_MAX_CLASS_OPS * 8u);
            op->dep_n++;
        }
    }
}

uint32_t sf_build_op(struct sf_build *b, const struct sf_op *op, const struct sf_arg *args, uint32_t args_n,
                     const uint32_t *deps, uint32_t deps_n) {
    struct sf_op copy = *op;
    copy.arg_first = (uint32_t)b->args.n;
    copy.arg_n = (uint16_t)args_n;
    copy.dep_n = 0;
    push(b, &b->args, sizeof *args, args, args_n, SF_MAX_CLASS_OPS * 8u);
    push_deps(b, &copy, deps, deps_n);
    push(b, &b->ops, sizeof copy, &copy, 1, SF_MAX_CLASS_OPS);
    return (uint32_t)b->ops.n - 1;
}

uint32_t sf_build_class_end(struct sf_build *b) {
    struct sf_class *c = &b->cls;
    if (!failed(b)) {
        sfi_place_buffers(b->ops.data, (uint32_t)b->ops.n, b->args.data, b->deps.data, b->bufs.data,
                          (uint32_t)b->bufs.n, &c->arena_bytes, &c->host_bytes, &b->err);
    }
    c->ops_n = (uint32_t)b->ops.n;
    c->args_n = (uint32_t)b->args.n;
    c->deps_n = (uint32_t)b->deps.n;
    c->bufs_n = (uint32_t)b->bufs.n;
    c->tensors_n = (uint32_t)b->tensors.n;
    c->ops = seal(b, &b->ops, sizeof(struct sf_op));
    c->args = seal(b, &b->args, sizeof(struct sf_arg));
    c->deps = seal(b, &b->deps, sizeof(uint32_t));
    c->bufs = seal(b, &b->bufs, sizeof(struct sf_buffer));
    c->tensors = seal(b, &b->tensors, sizeof(struct sf_tensor));
    push(b, &b->classes, sizeof *c, c, 1, SF_MAX_CLASSES);
    return (uint32_t)b->classes.n - 1;
}

static void finish_check(struct sf_build *b, uint32_t class_of_n) {
    uint32_t ranks, want;
    if (sfi_check_mesh(b->prog, &ranks, &want, &b->err) != SF_OK) {
        return;
    }
    if (want != class_of_n) {
        sf_fail(&b->err, SF_E_INTERNAL, "the binding has %u entries, its axes need %u", class_of_n, want);
        return;
    }
    sf_prog_check(b->prog, &b->err);
}

int sf_build_finish(struct sf_build *b, const uint32_t *class_of, uint32_t class_of_n, struct sf_prog **out,
                    struct sf_err *err) {
    struct sf_prog *p = b->prog;
    p->recipes_n = (uint32_t)b->recipes.n;
    p->classes_n = (uint32_t)b->classes.n;
    p->recipes = seal(b, &b->recipes, sizeof(struct sf_recipe));
    p->classes = seal(b, &b->classes, sizeof(struct sf_class));
    p->class_of = failed(b) ? NULL : sf_arena_alloc(p->arena, class_of_n, sizeof *class_of);
    if (!failed(b) && !p->class_of) {
        sf_fail_memory(&b->err, "program");
    }
    if (!failed(b)) {
        memcpy(p->class_of, class_of, class_of_n * sizeof *class_of);
        finish_check(b, class_of_n);
    }
    if (failed(b)) {
        if (err) {
            *err = b->err;
        }
        return b->err.code;
    }
    *out = p;
    b->prog = NULL;
    return SF_OK;
}
