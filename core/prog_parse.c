#include <stdio.h>
#include <string.h>

#include "core/prog_check.h"
#include "core/prog_file.h"
#include "core/prog_scan.h"
#include "core/prog_text.h"

struct vec { /* grows on the heap, then moves into the program's arena */
    void *data;
    size_t n, capacity;
};

struct parser {
    struct sfi_scan s;
    struct sf_prog *prog;
    struct vec recipes, classes, calls, ops, op_lines, args, deps, bufs, tensors, class_of;
};

/* *slot is a new zeroed item. */
static int push(struct parser *p, struct vec *v, size_t size, size_t limit, const char *what, void **slot) {
    if (v->n == limit) {
        return sfi_scan_fail(&p->s, p->s.at, "expected at most %zu %s", limit, what);
    }
    if (v->n == v->capacity) {
        size_t capacity = v->capacity == 0 ? 16 : v->capacity * 2;
        void *data = sf_realloc(v->data, capacity, size);
        if (data == NULL) {
            return sf_fail_memory(p->s.err, what);
        }
        v->data = data;
        v->capacity = capacity;
    }
    *slot = memset((char *)v->data + v->n++ * size, 0, size);
    return 0;
}

static int seal(struct parser *p, struct vec *v, size_t size, void *out_pointer) {
    void *copy = sf_arena_alloc(p->prog->arena, v->n, size);
    if (copy == NULL) {
        return sf_fail_memory(p->s.err, "a program");
    }
    if (v->n > 0) {
        memcpy(copy, v->data, v->n * size);
    }
    memcpy(out_pointer, &copy, sizeof copy); /* whatever type of pointer it is */
    v->n = 0;
    return 0;
}

/* ---- values ---- */

static int parse_word(struct parser *p, const char *const words[], const char *what, uint32_t *out) {
    char word[32];
    struct sfi_scan before = p->s;
    SF_TRY(sfi_scan_plain(&p->s, word, sizeof word, what));
    for (uint32_t i = 0; words[i] != NULL; i++) {
        if (strcmp(words[i], word) == 0) {
            *out = i;
            return 0;
        }
    }
    return sfi_scan_expected(&before, what);
}

static int parse_flags(struct parser *p, const char *const words[], uint64_t *bits) {
    *bits = 0;
    do {
        uint32_t bit = 0;
        SF_TRY(parse_word(p, words, "a flag", &bit));
        *bits |= UINT64_C(1) << bit;
    } while (sfi_scan_char(&p->s, ','));
    return 0;
}

static int parse_dtype(struct parser *p, uint64_t *out) {
    char word[16];
    struct sfi_scan before = p->s;
    SF_TRY(sfi_scan_plain(&p->s, word, sizeof word, "a dtype"));
    int dtype = sf_dtype_parse(word);
    if (dtype < 0) {
        return sfi_scan_expected(&before, "a dtype");
    }
    *out = (uint64_t)dtype;
    return 0;
}

static int parse_pick(struct parser *p, uint64_t *out) {
    char word[SF_COLL_PICK_TEXT];
    struct sfi_scan before = p->s;
    SF_TRY(sfi_scan_plain(&p->s, word, sizeof word, "an algorithm and a protocol"));
    int pick = sf_coll_pick_parse(word);
    if (pick < 0) {
        return sfi_scan_expected(&before, "an algorithm and a protocol, such as ring/ll128");
    }
    *out = (uint64_t)pick;
    return 0;
}

static int parse_ref(struct parser *p, enum sfi_sort sort, uint32_t *out) {
    static const char *const what[] = {"an axis defined above", "a communicator defined above",
                                       "a stream defined above"};
    struct sfi_scan before = p->s;
    uint64_t index = SF_NONE;
    if (sfi_scan_char(&p->s, '#')) {
        SF_TRY(sfi_scan_uint(&p->s, UINT32_MAX, &index));
    } else {
        char name[SF_NAME];
        SF_TRY(sfi_scan_plain(&p->s, name, sizeof name, what[sort]));
        index = sfi_find_name(p->prog, sort, name);
    }
    if (index >= sfi_names_n(p->prog, sort)) {
        return sfi_scan_expected(&before, what[sort]);
    }
    *out = (uint32_t)index;
    return 0;
}

static int parse_axes(struct parser *p, uint64_t *bits) {
    *bits = 0;
    do {
        uint32_t axis = 0;
        SF_TRY(parse_ref(p, SFI_SORT_AXIS, &axis));
        *bits |= UINT64_C(1) << axis;
    } while (sfi_scan_char(&p->s, ','));
    return 0;
}

/* Two numbers with a mark between them. */
static int parse_pair(struct parser *p, uint64_t max, char mark, uint64_t *a, uint64_t *b) {
    SF_TRY(sfi_scan_uint(&p->s, max, a));
    if (!sfi_scan_char(&p->s, mark)) {
        char what[] = {'"', mark, '"', '\0'};
        return sfi_scan_expected(&p->s, what);
    }
    return sfi_scan_uint(&p->s, UINT64_MAX, b);
}

static int parse_operand(struct parser *p, uint64_t *out) {
    uint64_t formal = 0, offset = 0;
    const char *start = p->s.at;
    SF_TRY(parse_pair(p, 31, '+', &formal, &offset));
    if (offset >> 56 != 0) {
        return sfi_scan_fail(&p->s, start, "the operand's offset does not fit in 56 bits");
    }
    *out = SF_REF(formal, offset);
    return 0;
}

static int parse_live(struct parser *p, struct sf_buffer *b) {
    uint64_t first = 0, last = SF_NONE;
    SF_TRY(sfi_scan_uint(&p->s, UINT32_MAX, &first));
    if (!sfi_scan_char(&p->s, '.') || !sfi_scan_char(&p->s, '.')) {
        return sfi_scan_expected(&p->s, "\"..\"");
    }
    if (!sfi_scan_word(&p->s, "end")) {
        SF_TRY(sfi_scan_uint(&p->s, UINT32_MAX - 1, &last));
    }
    b->first_op = (uint32_t)first;
    b->last_op = (uint32_t)last;
    return 0;
}

static int parse_numbers(struct parser *p, struct vec *to, size_t limit, const char *what) {
    do {
        uint64_t value = 0;
        void *slot = NULL;
        SF_TRY(sfi_scan_uint(&p->s, UINT32_MAX, &value));
        SF_TRY(push(p, to, sizeof(uint32_t), limit, what, &slot));
        *(uint32_t *)slot = (uint32_t)value;
    } while (sfi_scan_char(&p->s, ','));
    return 0;
}

static int parse_arg(struct parser *p) {
    uint64_t buf = 0;
    void *slot = NULL;
    SF_TRY(push(p, &p->args, sizeof(struct sf_arg), SFI_MAX_CLASS_ITEMS, "args in a class", &slot));
    struct sf_arg *a = slot;
    SF_TRY(sfi_scan_uint(&p->s, UINT32_MAX, &buf));
    char word[4];
    size_t n = 0;
    struct sfi_scan before = p->s;
    bool marked = sfi_scan_char(&p->s, ':');
    while (marked && n < 3 && p->s.at < p->s.stop && *p->s.at >= 'a' && *p->s.at <= 'z') {
        word[n++] = *p->s.at++;
    }
    word[n] = '\0';
    for (uint32_t i = SF_READ; i <= SF_READ_WRITE; i++) {
        a->access = strcmp(sfi_access_words[i], word) == 0 ? i : a->access;
    }
    if (a->access == 0 || !sfi_scan_char(&p->s, ':')) {
        return sfi_scan_expected(&before, "\":r:\", \":w:\" or \":rw:\"");
    }
    a->buf = (uint32_t)buf;
    return parse_pair(p, UINT64_MAX, '+', &a->offset, &a->bytes);
}

static int parse_args(struct parser *p, uint64_t *n) {
    size_t first = p->args.n;
    do {
        SF_TRY(parse_arg(p));
    } while (sfi_scan_char(&p->s, ','));
    *n = p->args.n - first;
    return *n <= UINT16_MAX ? 0 : sfi_scan_fail(&p->s, p->s.at, "expected at most %d args", UINT16_MAX);
}

static int parse_deps(struct parser *p, uint64_t *n) {
    size_t first = p->deps.n;
    SF_TRY(parse_numbers(p, &p->deps, SFI_MAX_CLASS_ITEMS, "deps in a class"));
    *n = p->deps.n - first;
    return *n <= UINT16_MAX ? 0 : sfi_scan_fail(&p->s, p->s.at, "expected at most %d deps", UINT16_MAX);
}

static int parse_signed(struct parser *p, int64_t min, int64_t max, uint64_t *bits) {
    int64_t value = 0;
    SF_TRY(sfi_scan_int(&p->s, min, max, &value));
    *bits = (uint64_t)value;
    return 0;
}

static int parse_f32(struct parser *p, uint64_t *bits) {
    float value = 0;
    uint32_t four;
    SF_TRY(sfi_scan_f32(&p->s, &value));
    memcpy(&four, &value, sizeof four);
    *bits = four;
    return 0;
}

static int parse_f64(struct parser *p, uint64_t *bits) {
    double value = 0;
    SF_TRY(sfi_scan_f64(&p->s, &value));
    memcpy(bits, &value, sizeof *bits);
    return 0;
}

static int parse_index_of(struct parser *p, enum sfi_sort sort, uint64_t *bits) {
    uint32_t index = 0;
    SF_TRY(parse_ref(p, sort, &index));
    *bits = index;
    return 0;
}

static int parse_init(struct parser *p, uint64_t *bits) {
    uint32_t init = 0;
    SF_TRY(parse_word(p, sfi_init_words, "zero, one or normal", &init));
    *bits = init;
    return 0;
}

static int parse_bits(struct parser *p, enum sfi_type type, uint64_t *bits) {
    switch (type) {
    case SFI_U16:
        return sfi_scan_uint(&p->s, UINT16_MAX, bits);
    case SFI_U32:
        return sfi_scan_uint(&p->s, UINT32_MAX, bits);
    case SFI_I32:
        return parse_signed(p, INT32_MIN, INT32_MAX, bits);
    case SFI_I64:
        return parse_signed(p, INT64_MIN, INT64_MAX, bits);
    case SFI_F32:
        return parse_f32(p, bits);
    case SFI_F64:
        return parse_f64(p, bits);
    case SFI_STREAM:
        return parse_index_of(p, SFI_SORT_STREAM, bits);
    case SFI_COMM:
        return parse_index_of(p, SFI_SORT_COMM, bits);
    case SFI_AXES:
        return parse_axes(p, bits);
    case SFI_PICK:
        return parse_pick(p, bits);
    case SFI_DTYPE:
        return parse_dtype(p, bits);
    case SFI_INIT:
        return parse_init(p, bits);
    case SFI_OP_FLAGS:
        return parse_flags(p, sfi_op_flag_words, bits);
    case SFI_CALL_FLAGS:
        return parse_flags(p, sfi_call_flag_words, bits);
    case SFI_REF:
        return parse_operand(p, bits);
    case SFI_ARGS:
        return parse_args(p, bits);
    case SFI_DEPS:
        return parse_deps(p, bits);
    default:
        return sfi_scan_uint(&p->s, UINT64_MAX, bits);
    }
}

static int parse_value(struct parser *p, const struct sfi_field *f, void *object) {
    uint64_t bits = 0;
    if (f->type == SFI_LIVE) {
        return parse_live(p, object);
    }
    if (f->type == SFI_CLASSES) {
        return parse_numbers(p, &p->class_of, SF_MAX_RANKS, "entries in a binding");
    }
    SF_TRY(parse_bits(p, f->type, &bits));
    sfi_field_set(f, object, bits);
    return 0;
}

/* ---- fields ---- */

static int find_field(struct parser *p, struct sfi_fields fields, size_t *out) {
    char known[256] = "";
    size_t n = 0;
    for (size_t i = 0; i < fields.n; i++) {
        size_t length = strlen(fields.at[i].key);
        if ((size_t)(p->s.stop - p->s.at) > length && memcmp(p->s.at, fields.at[i].key, length) == 0 &&
            p->s.at[length] == '=') {
            p->s.at += length + 1;
            *out = i;
            return 0;
        }
        if (n < sizeof known) {
            n += (size_t)snprintf(known + n, sizeof known - n, "%s%s=", i > 0 ? " " : "", fields.at[i].key);
        }
    }
    return sfi_scan_expected(&p->s, known);
}

/* The rest of the line: each field once, in any order. */
static int parse_fields(struct parser *p, struct sfi_fields fields, void *object) {
    uint32_t seen = 0;
    while (!sfi_scan_at_end(&p->s)) {
        const char *start = p->s.at;
        size_t i = 0;
        SF_TRY(find_field(p, fields, &i));
        if (seen >> i & 1) {
            return sfi_scan_fail(&p->s, start, "%s= is given twice", fields.at[i].key);
        }
        seen |= 1u << i;
        SF_TRY(parse_value(p, &fields.at[i], object));
        if (p->s.at < p->s.stop && *p->s.at != ' ' && *p->s.at != '\t') {
            return sfi_scan_expected(&p->s, "a space or the end of the line");
        }
    }
    for (size_t i = 0; i < fields.n; i++) {
        if (!(seen >> i & 1) && !fields.at[i].optional) {
            return sfi_scan_fail(&p->s, p->s.at, "%s= is missing", fields.at[i].key);
        }
        if (!(seen >> i & 1)) {
            sfi_field_set(&fields.at[i], object, fields.at[i].absent);
        }
    }
    return sfi_scan_end_line(&p->s);
}

static int expect_word(struct parser *p, const char *word) {
    return sfi_scan_word(&p->s, word) ? 0 : sfi_scan_expected(&p->s, word);
}

/* Objects are numbered so that people can find them; the number must be their place. */
static int expect_index(struct parser *p, size_t index) {
    char what[32];
    uint64_t found = 0;
    sfi_scan_at_end(&p->s);
    struct sfi_scan before = p->s;
    SF_TRY(sfi_scan_uint(&p->s, UINT32_MAX, &found));
    snprintf(what, sizeof what, "the number %zu", index);
    return found == index ? 0 : sfi_scan_expected(&before, what);
}

/* ---- objects ---- */

static int parse_head(struct parser *p) {
    struct sf_prog *prog = p->prog;
    uint64_t version = 0;
    struct sfi_scan start = p->s;
    if (!sfi_scan_word(&p->s, "staticfire") || !sfi_scan_word(&p->s, "program")) {
        return sfi_scan_expected(&start, "a program: \"staticfire program\" and its version");
    }
    sfi_scan_at_end(&p->s);
    SF_TRY(sfi_scan_uint(&p->s, UINT32_MAX, &version));
    if (version != SF_PROG_VERSION) {
        return sfi_scan_fail(&p->s, p->s.at, "expected version %d, found %llu", SF_PROG_VERSION,
                             (unsigned long long)version);
    }
    SF_TRY(sfi_scan_end_line(&p->s));
    SF_TRY(expect_word(p, "title"));
    SF_TRY(sfi_scan_name(&p->s, prog->title, sizeof prog->title));
    SF_TRY(sfi_scan_end_line(&p->s));
    SF_TRY(expect_word(p, "source"));
    SF_TRY(sfi_scan_hash(&p->s, &prog->source));
    SF_TRY(sfi_scan_end_line(&p->s));
    SF_TRY(expect_word(p, "job"));
    SF_TRY(parse_fields(p, sfi_job_fields, &prog->job));
    SF_TRY(expect_word(p, "placement"));
    return parse_fields(p, sfi_placement_fields, prog);
}

static int check_room(struct parser *p, uint32_t n, uint32_t limit, const char *what) {
    return n < limit ? 0 : sfi_scan_fail(&p->s, p->s.at, "expected at most %u %s", limit, what);
}

static int parse_mesh(struct parser *p) {
    struct sf_prog *prog = p->prog;
    while (sfi_scan_word(&p->s, "axis")) {
        SF_TRY(check_room(p, prog->axes_n, SF_MAX_AXES, "axes"));
        struct sf_axis *axis = &prog->axes[prog->axes_n];
        SF_TRY(expect_index(p, prog->axes_n));
        SF_TRY(sfi_scan_name(&p->s, axis->name, SF_NAME));
        SF_TRY(parse_fields(p, sfi_axis_fields, axis));
        prog->axes_n++;
    }
    while (sfi_scan_word(&p->s, "comm")) {
        SF_TRY(check_room(p, prog->comms_n, SF_MAX_COMMS, "communicators"));
        struct sf_comm *comm = &prog->comms[prog->comms_n];
        SF_TRY(expect_index(p, prog->comms_n));
        SF_TRY(sfi_scan_name(&p->s, comm->name, SF_NAME));
        SF_TRY(parse_fields(p, sfi_comm_fields, comm));
        prog->comms_n++;
    }
    while (sfi_scan_word(&p->s, "stream")) {
        SF_TRY(check_room(p, prog->streams_n, SF_MAX_STREAMS, "streams"));
        SF_TRY(expect_index(p, prog->streams_n));
        SF_TRY(sfi_scan_name(&p->s, prog->streams[prog->streams_n], SF_NAME));
        SF_TRY(sfi_scan_end_line(&p->s));
        prog->streams_n++;
    }
    SF_TRY(expect_word(p, "binding"));
    return parse_fields(p, sfi_binding_fields, prog);
}

static int parse_call(struct parser *p) {
    char word[32];
    struct sfi_field room[SFI_CALL_FIELDS];
    void *slot = NULL;
    uint64_t dtype = 0;
    SF_TRY(push(p, &p->calls, sizeof(struct sf_call), SF_MAX_RECIPE_CALLS, "calls in a recipe", &slot));
    struct sf_call *c = slot;
    sfi_scan_at_end(&p->s);
    struct sfi_scan before = p->s;
    SF_TRY(sfi_scan_plain(&p->s, word, sizeof word, "a kind of call"));
    int kind = sf_call_parse(word);
    if (kind < 0) {
        return sfi_scan_expected(&before, "a kind of call");
    }
    sfi_scan_at_end(&p->s);
    SF_TRY(parse_dtype(p, &dtype));
    c->kind = (uint8_t)kind;
    c->dtype = (uint8_t)dtype;
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        c->operand[i] = SF_REF_NONE;
    }
    return parse_fields(p, sfi_call_fields(kind, room), c);
}

static int parse_recipe(struct parser *p) {
    void *slot = NULL;
    SF_TRY(expect_index(p, p->recipes.n));
    SF_TRY(push(p, &p->recipes, sizeof(struct sf_recipe), SF_MAX_RECIPES, "recipes", &slot));
    struct sf_recipe *r = slot;
    SF_TRY(sfi_scan_name(&p->s, r->name, SF_NAME));
    SF_TRY(parse_fields(p, sfi_recipe_fields, r));
    while (sfi_scan_word(&p->s, "call")) {
        SF_TRY(parse_call(p));
    }
    r->calls_n = (uint32_t)p->calls.n;
    return seal(p, &p->calls, sizeof *r->calls, &r->calls);
}

static int parse_buffer(struct parser *p) {
    static const char *const kinds[] = {
#define X(NAME, name) name,
        SF_BUFS(X)
#undef X
            NULL};
    void *slot = NULL;
    SF_TRY(expect_index(p, p->bufs.n));
    SF_TRY(push(p, &p->bufs, sizeof(struct sf_buffer), SF_MAX_CLASS_OPS, "buffers in a class", &slot));
    struct sf_buffer *b = slot;
    SF_TRY(sfi_scan_name(&p->s, b->name, SF_NAME));
    sfi_scan_at_end(&p->s);
    SF_TRY(parse_word(p, kinds, "a kind of buffer", &b->kind));
    return parse_fields(p, sfi_buffer_fields, b);
}

static int parse_tensor(struct parser *p) {
    void *slot = NULL;
    SF_TRY(push(p, &p->tensors, sizeof(struct sf_tensor), SF_MAX_CLASS_OPS, "tensors in a class", &slot));
    struct sf_tensor *t = slot;
    SF_TRY(sfi_scan_name(&p->s, t->name, sizeof t->name));
    return parse_fields(p, sfi_tensor_fields, t);
}

static int parse_op(struct parser *p) {
    char word[32];
    void *slot = NULL;
    SF_TRY(expect_index(p, p->ops.n));
    SF_TRY(push(p, &p->ops, sizeof(struct sf_op), SF_MAX_CLASS_OPS, "ops in a class", &slot));
    struct sf_op *op = slot;
    SF_TRY(push(p, &p->op_lines, sizeof(uint32_t), SF_MAX_CLASS_OPS, "ops in a class", &slot));
    *(uint32_t *)slot = p->s.line_n;
    sfi_scan_at_end(&p->s);
    struct sfi_scan before = p->s;
    SF_TRY(sfi_scan_plain(&p->s, word, sizeof word, "a kind of op"));
    int kind = sf_op_parse(word);
    if (kind < 0) {
        return sfi_scan_expected(&before, "a kind of op");
    }
    op->kind = (uint8_t)kind;
    op->arg_first = (uint32_t)p->args.n;
    op->dep_first = (uint32_t)p->deps.n;
    return parse_fields(p, sfi_op_fields, op);
}

static int seal_class(struct parser *p, struct sf_class *c) {
    c->ops_n = (uint32_t)p->ops.n;
    c->args_n = (uint32_t)p->args.n;
    c->deps_n = (uint32_t)p->deps.n;
    c->bufs_n = (uint32_t)p->bufs.n;
    c->tensors_n = (uint32_t)p->tensors.n;
    SF_TRY(seal(p, &p->ops, sizeof *c->ops, &c->ops));
    SF_TRY(seal(p, &p->op_lines, sizeof *c->op_line, &c->op_line));
    SF_TRY(seal(p, &p->args, sizeof *c->args, &c->args));
    SF_TRY(seal(p, &p->deps, sizeof *c->deps, &c->deps));
    SF_TRY(seal(p, &p->bufs, sizeof *c->bufs, &c->bufs));
    return seal(p, &p->tensors, sizeof *c->tensors, &c->tensors);
}

static int parse_class(struct parser *p) {
    void *slot = NULL;
    SF_TRY(expect_index(p, p->classes.n));
    SF_TRY(push(p, &p->classes, sizeof(struct sf_class), SF_MAX_CLASSES, "classes", &slot));
    struct sf_class *c = slot;
    SF_TRY(sfi_scan_name(&p->s, c->name, SF_NAME));
    SF_TRY(parse_fields(p, sfi_class_fields, c));
    while (sfi_scan_word(&p->s, "buffer")) {
        SF_TRY(parse_buffer(p));
    }
    while (sfi_scan_word(&p->s, "tensor")) {
        SF_TRY(parse_tensor(p));
    }
    while (sfi_scan_word(&p->s, "op")) {
        SF_TRY(parse_op(p));
    }
    return seal_class(p, c);
}

static int parse_bodies(struct parser *p) {
    while (sfi_scan_word(&p->s, "recipe")) {
        SF_TRY(parse_recipe(p));
    }
    while (sfi_scan_word(&p->s, "class")) {
        SF_TRY(parse_class(p));
    }
    if (!sfi_scan_word(&p->s, "end")) {
        return sfi_scan_expected(&p->s, p->classes.n == 0 ? "recipe, call or class"
                                                          : "class, buffer, tensor, op (in this order) or end");
    }
    SF_TRY(sfi_scan_end_line(&p->s));
    return sfi_scan_at_end(&p->s) ? 0 : sfi_scan_expected(&p->s, "nothing behind \"end\"");
}

static int finish(struct parser *p) {
    struct sf_prog *prog = p->prog;
    uint32_t ranks, class_of_n;
    size_t found = p->class_of.n;
    prog->recipes_n = (uint32_t)p->recipes.n;
    prog->classes_n = (uint32_t)p->classes.n;
    SF_TRY(seal(p, &p->recipes, sizeof *prog->recipes, &prog->recipes));
    SF_TRY(seal(p, &p->classes, sizeof *prog->classes, &prog->classes));
    SF_TRY(seal(p, &p->class_of, sizeof *prog->class_of, &prog->class_of));
    SF_TRY(sfi_check_mesh(prog, &ranks, &class_of_n, p->s.err));
    if (found != class_of_n) {
        return sf_fail(p->s.err, SF_E_INPUT, "binding: its axes need %u entries, found %zu", class_of_n, found);
    }
    return sfi_prog_accept(prog, p->s.err);
}

static int parse(struct parser *p) {
    SF_TRY(parse_head(p));
    SF_TRY(parse_mesh(p));
    SF_TRY(parse_bodies(p));
    return finish(p);
}

int sf_prog_parse(const char *text, size_t bytes, const char *name, struct sf_prog **out, struct sf_err *err) {
    *out = NULL;
    struct parser p = {.prog = sfi_prog_create()};
    if (p.prog == NULL) {
        return sf_fail_memory(err, "a program");
    }
    sfi_scan_start(&p.s, text, bytes, name, err);
    int rc = parse(&p);
    struct vec *all[] = {&p.recipes, &p.classes, &p.calls, &p.ops,     &p.op_lines,
                         &p.args,    &p.deps,    &p.bufs,  &p.tensors, &p.class_of};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        sf_free(all[i]->data);
    }
    if (rc != 0) {
        sf_prog_free(p.prog);
        return sfi_name_file(err, rc, name);
    }
    *out = p.prog;
    return 0;
}
