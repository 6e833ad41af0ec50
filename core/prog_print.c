#include <inttypes.h>
#include <string.h>

#include "core/prog_check.h"
#include "core/prog_file.h"
#include "core/prog_text.h"

struct printer {
    struct sf_buf *out;
    const struct sf_prog *prog;
    const struct sf_class *cls; /* whose ops are being printed */
    uint32_t class_of_n;
};

static void print_name(struct sf_buf *out, const char *name) {
    if (sfi_is_plain(name, strlen(name))) {
        sf_buf_printf(out, " %s", name);
        return;
    }
    sf_buf_printf(out, " \"");
    for (const unsigned char *c = (const unsigned char *)name; *c != '\0'; c++) {
        if (*c == '"' || *c == '\\') {
            sf_buf_printf(out, "\\%c", *c);
        } else if (*c < 0x20 || *c >= 0x7f) {
            sf_buf_printf(out, "\\x%02x", *c);
        } else {
            sf_buf_write(out, c, 1);
        }
    }
    sf_buf_printf(out, "\"");
}

static void print_ref(struct printer *p, enum sfi_sort sort, uint32_t i) {
    const char *name = sfi_name(p->prog, sort, i);
    if (sfi_is_plain(name, strlen(name)) && sfi_find_name(p->prog, sort, name) == i) {
        sf_buf_printf(p->out, "%s", name);
    } else {
        sf_buf_printf(p->out, "#%u", i);
    }
}

static void print_comma(struct printer *p, bool *first) {
    if (!*first) {
        sf_buf_write(p->out, ",", 1);
    }
    *first = false;
}

static void print_axes(struct printer *p, uint32_t axes) {
    bool first = true;
    for (uint32_t i = 0; i < p->prog->axes_n; i++) {
        if (axes >> i & 1) {
            print_comma(p, &first);
            print_ref(p, SFI_SORT_AXIS, i);
        }
    }
}

static void print_flags(struct printer *p, const char *const words[], uint32_t flags) {
    bool first = true;
    for (uint32_t i = 0; words[i] != NULL; i++) {
        if (flags >> i & 1) {
            print_comma(p, &first);
            sf_buf_printf(p->out, "%s", words[i]);
        }
    }
}

static void print_live(struct printer *p, const struct sf_buffer *b) {
    if (b->last_op == SF_NONE) {
        sf_buf_printf(p->out, "%u..end", b->first_op);
    } else {
        sf_buf_printf(p->out, "%u..%u", b->first_op, b->last_op);
    }
}

static void print_numbers(struct printer *p, const uint32_t *numbers, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        sf_buf_printf(p->out, i > 0 ? ",%u" : "%u", numbers[i]);
    }
}

static void print_args(struct printer *p, const struct sf_op *op) {
    for (uint32_t i = 0; i < op->arg_n; i++) {
        const struct sf_arg *a = &p->cls->args[op->arg_first + i];
        sf_buf_printf(p->out, "%s%u:%s:%" PRIu64 "+%" PRIu64, i > 0 ? "," : "", a->buf, sfi_access_words[a->access],
                      a->offset, a->bytes);
    }
}

static float f32_of(uint64_t bits) {
    uint32_t four = (uint32_t)bits;
    float value;
    memcpy(&value, &four, sizeof value);
    return value;
}

static double f64_of(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void print_value(struct printer *p, const struct sfi_field *f, const void *object) {
    uint64_t bits = sfi_field_bits(f, object);
    switch (f->type) {
    case SFI_U16:
    case SFI_U32:
    case SFI_U64:
        sf_buf_printf(p->out, "%" PRIu64, bits);
        break;
    case SFI_I32:
        sf_buf_printf(p->out, "%+" PRId32, (int32_t)bits);
        break;
    case SFI_I64:
        sf_buf_printf(p->out, "%" PRId64, (int64_t)bits);
        break;
    case SFI_F32:
        sf_buf_printf(p->out, "%.9g", (double)f32_of(bits));
        break;
    case SFI_F64:
        sf_buf_printf(p->out, "%.17g", f64_of(bits));
        break;
    case SFI_STREAM:
        print_ref(p, SFI_SORT_STREAM, (uint32_t)bits);
        break;
    case SFI_COMM:
        print_ref(p, SFI_SORT_COMM, (uint32_t)bits);
        break;
    case SFI_AXES:
        print_axes(p, (uint32_t)bits);
        break;
    case SFI_PICK:
        sf_buf_printf(p->out, "%s", sf_coll_pick_text((uint8_t)bits, (char[SF_COLL_PICK_TEXT]){""}));
        break;
    case SFI_DTYPE:
        sf_buf_printf(p->out, "%s", sf_dtype_name((int)bits));
        break;
    case SFI_INIT:
        sf_buf_printf(p->out, "%s", sfi_init_words[bits]);
        break;
    case SFI_OP_FLAGS:
        print_flags(p, sfi_op_flag_words, (uint32_t)bits);
        break;
    case SFI_CALL_FLAGS:
        print_flags(p, sfi_call_flag_words, (uint32_t)bits);
        break;
    case SFI_REF:
        sf_buf_printf(p->out, "%u+%" PRIu64, SF_REF_FORMAL(bits), SF_REF_OFFSET(bits));
        break;
    case SFI_LIVE:
        print_live(p, object);
        break;
    case SFI_CLASSES:
        print_numbers(p, p->prog->class_of, p->class_of_n);
        break;
    case SFI_ARGS:
        print_args(p, object);
        break;
    case SFI_DEPS:
        print_numbers(p, p->cls->deps + ((const struct sf_op *)object)->dep_first, (uint32_t)bits);
        break;
    }
}

static void print_fields(struct printer *p, struct sfi_fields fields, const void *object) {
    for (size_t i = 0; i < fields.n; i++) {
        const struct sfi_field *f = &fields.at[i];
        if (!f->optional || sfi_field_bits(f, object) != f->absent) {
            sf_buf_printf(p->out, " %s=", f->key);
            print_value(p, f, object);
        }
    }
    sf_buf_write(p->out, "\n", 1);
}

static void print_head(struct printer *p) {
    const struct sf_prog *prog = p->prog;
    char source[SF_HASH_TEXT];
    sf_buf_printf(p->out, "staticfire program %d\ntitle", SF_PROG_VERSION);
    print_name(p->out, prog->title);
    sf_buf_printf(p->out, "\nsource %s\njob", sf_hash_format(prog->source, source));
    print_fields(p, sfi_job_fields, &prog->job);
    sf_buf_printf(p->out, "placement");
    print_fields(p, sfi_placement_fields, prog);
    for (uint32_t i = 0; i < prog->axes_n; i++) {
        sf_buf_printf(p->out, "axis %u", i);
        print_name(p->out, prog->axes[i].name);
        print_fields(p, sfi_axis_fields, &prog->axes[i]);
    }
    for (uint32_t i = 0; i < prog->comms_n; i++) {
        sf_buf_printf(p->out, "comm %u", i);
        print_name(p->out, prog->comms[i].name);
        print_fields(p, sfi_comm_fields, &prog->comms[i]);
    }
    for (uint32_t i = 0; i < prog->streams_n; i++) {
        sf_buf_printf(p->out, "stream %u", i);
        print_name(p->out, prog->streams[i]);
        sf_buf_write(p->out, "\n", 1);
    }
    sf_buf_printf(p->out, "binding");
    print_fields(p, sfi_binding_fields, prog);
}

static void print_recipe(struct printer *p, uint32_t i) {
    const struct sf_recipe *r = &p->prog->recipes[i];
    sf_buf_printf(p->out, "recipe %u", i);
    print_name(p->out, r->name);
    print_fields(p, sfi_recipe_fields, r);
    for (uint32_t k = 0; k < r->calls_n; k++) {
        struct sfi_field room[SFI_CALL_FIELDS];
        const struct sf_call *c = &r->calls[k];
        sf_buf_printf(p->out, "  call %s %s", sf_call_name(c->kind), sf_dtype_name(c->dtype));
        print_fields(p, sfi_call_fields(c->kind, room), c);
    }
}

static void print_class(struct printer *p, uint32_t i) {
    const struct sf_class *c = p->cls = &p->prog->classes[i];
    sf_buf_printf(p->out, "class %u", i);
    print_name(p->out, c->name);
    print_fields(p, sfi_class_fields, c);
    for (uint32_t k = 0; k < c->bufs_n; k++) {
        sf_buf_printf(p->out, "  buffer %u", k);
        print_name(p->out, c->bufs[k].name);
        sf_buf_printf(p->out, " %s", sf_buf_kind_name((int)c->bufs[k].kind));
        print_fields(p, sfi_buffer_fields, &c->bufs[k]);
    }
    for (uint32_t k = 0; k < c->tensors_n; k++) {
        sf_buf_printf(p->out, "  tensor");
        print_name(p->out, c->tensors[k].name);
        print_fields(p, sfi_tensor_fields, &c->tensors[k]);
    }
    for (uint32_t k = 0; k < c->ops_n; k++) {
        sf_buf_printf(p->out, "  op %u %s", k, sf_op_name(c->ops[k].kind));
        print_fields(p, sfi_op_fields, &c->ops[k]);
    }
}

int sf_prog_print(const struct sf_prog *prog, struct sf_buf *out, struct sf_err *err) {
    struct printer p = {.out = out, .prog = prog};
    uint32_t ranks;
    SF_TRY(sfi_prog_storable(prog, err));
    SF_TRY(sfi_check_mesh(prog, &ranks, &p.class_of_n, err));
    print_head(&p);
    for (uint32_t i = 0; i < prog->recipes_n; i++) {
        print_recipe(&p, i);
    }
    for (uint32_t i = 0; i < prog->classes_n; i++) {
        print_class(&p, i);
    }
    sf_buf_printf(out, "end\n");
    return out->failed ? sf_fail_memory(err, "a printed program") : 0;
}
