#include "runtime/image.h"

#include <string.h>
#include <sys/sysinfo.h>

#include "runtime/data.h"
#include "runtime/extent.h"
#include "runtime/flags.h"

static const char only[] = "train dense f32 models here";

static int fail_op(const struct sfi_image *im, uint32_t class_i, uint32_t op, struct sf_err *err) {
    char label[96];
    return sf_err_wrap(err, "class %u \"%s\" op %u (%s)", class_i, im->prog->classes[class_i].name, op,
                       sf_op_label(im->prog, class_i, op, label, sizeof label));
}

static int fail_kernel(const struct sf_call *call, const char *where, const char *advice, struct sf_err *err) {
    char flags[64];
    return sf_fail(err, SF_E_INPUT, "no %s kernel for %s %s%s%s: %s", where, sf_call_name(call->kind),
                   sf_dtype_name(call->dtype), call->flags ? " with " : "",
                   sfi_flags_text(call->flags, flags, sizeof flags), advice);
}

static int find_kernel(const struct sf_call *call, enum sf_kern_set set, sf_kern *out, struct sf_err *err) {
    bool collective = sf_call_is_collective(call->kind);
    *out = collective ? NULL : sf_kern_find(set, call);
    if (collective ? call->kind == SF_CALL_ALL_TO_ALL || call->dtype != SF_F32 : !*out) {
        return fail_kernel(call, "CPU", only, err);
    }
    return SF_OK;
}

/* On a device kernels are found where they are called; here only whether there is one. */
static int find_device_kernels(struct sfi_image *im, struct sf_err *err) {
    for (uint32_t r = 0; r < im->prog->recipes_n; r++) {
        const struct sf_recipe *recipe = &im->prog->recipes[r];
        for (uint32_t c = 0; c < recipe->calls_n; c++) {
            const struct sf_call *call = &recipe->calls[c];
            bool moved = call->kind != SF_CALL_ALL_TO_ALL && (call->dtype == SF_F32 || call->dtype == SF_BF16);
            if (sf_call_is_collective(call->kind) ? !moved : !im->target->supports(im->target->self, call)) {
                fail_kernel(call, im->target->name, "train dense f32 or bf16 models", err);
                return sf_err_wrap(err, "recipe \"%s\" call %u", recipe->name, c);
            }
        }
    }
    return SF_OK;
}

static int find_kernels(struct sfi_image *im, enum sf_kern_set set, struct sf_err *err) {
    const struct sf_prog *prog = im->prog;
    im->kernels = sf_arena_alloc(im->arena, prog->recipes_n, sizeof *im->kernels);
    im->collectives = sf_arena_alloc(im->arena, prog->recipes_n, sizeof *im->collectives);
    for (uint32_t r = 0; im->kernels && im->collectives && r < prog->recipes_n; r++) {
        const struct sf_recipe *recipe = &prog->recipes[r];
        im->kernels[r] = sf_arena_alloc(im->arena, recipe->calls_n, sizeof **im->kernels);
        if (!im->kernels[r]) {
            return sf_fail_memory(err, "kernel table");
        }
        for (uint32_t c = 0; c < recipe->calls_n; c++) {
            if (find_kernel(&recipe->calls[c], set, &im->kernels[r][c], err) != SF_OK) {
                return sf_err_wrap(err, "recipe \"%s\" call %u", recipe->name, c);
            }
            im->collectives[r] += sf_call_is_collective(recipe->calls[c].kind);
        }
    }
    return im->kernels && im->collectives ? SF_OK : sf_fail_memory(err, "kernel table");
}

static int check_vocab(const struct sf_prog *prog, const struct sf_call *call, struct sf_err *err) {
    int64_t vocab = INT64_MAX;
    if ((call->kind == SF_CALL_EMBED_FWD || call->kind == SF_CALL_EMBED_BWD) && !(call->flags & SF_CALL_PART_FLAG)) {
        vocab = call->dims[2];
    } else if (call->kind == SF_CALL_XENT) {
        vocab = call->dims[1];
    } else if (call->kind == SF_CALL_XENT_PADDED) {
        vocab = call->dims[1] - call->dims[2];
    } else if (call->kind == SF_CALL_XENT_PART && call->dims[1] <= INT64_MAX / call->dims[2]) {
        vocab = call->dims[1] * call->dims[2];
    }
    if ((uint64_t)vocab < prog->job.vocab) {
        return sf_fail(err, SF_E_INPUT, "%s works on %lld tokens but the job's vocabulary has %llu",
                       sf_call_name(call->kind), (long long)vocab, (unsigned long long)prog->job.vocab);
    }
    return SF_OK;
}

/* Whole elements in equal shares; an all-reduce works in place, and a share lies apart from its whole. */
static int collective_extents(const struct sf_prog *prog, const struct sf_call *call, const struct sf_arg *args,
                              uint64_t extent[SF_CALL_OPERANDS], struct sf_err *err) {
    uint64_t bytes = (uint64_t)call->dims[0], n = sf_prog_comm_size(prog, call->comm);
    bool whole = call->kind == SF_CALL_ALL_REDUCE;
    if (bytes == 0 || bytes % ((uint64_t)sf_dtype_bytes(call->dtype) * (whole ? 1 : n)) != 0) {
        return sf_fail(err, SF_E_INPUT, "%s: %llu bytes are not %s elements in %llu equal shares",
                       sf_call_name(call->kind), (unsigned long long)bytes, sf_dtype_name(call->dtype),
                       (unsigned long long)(whole ? 1 : n));
    }
    extent[0] = call->kind == SF_CALL_ALL_GATHER ? bytes / n : bytes;
    extent[1] = call->kind == SF_CALL_REDUCE_SCATTER ? bytes / n : bytes;
    if (call->operand[0] == SF_REF_NONE || call->operand[1] == SF_REF_NONE) {
        return SF_OK; /* refused as missing */
    }
    const struct sf_arg *x = &args[SF_REF_FORMAL(call->operand[0])], *y = &args[SF_REF_FORMAL(call->operand[1])];
    uint64_t from = x->offset + SF_REF_OFFSET(call->operand[0]), to = y->offset + SF_REF_OFFSET(call->operand[1]);
    bool apart = x->buf != y->buf || from + extent[0] <= to || to + extent[1] <= from;
    if (whole ? x->buf != y->buf || from != to : !apart) {
        return sf_fail(err, SF_E_INPUT, "%s: expected %s", sf_call_name(call->kind),
                       whole ? "one operand, in place" : "a share apart from the whole");
    }
    return SF_OK;
}

/* Every operand must lie inside the range that is bound to its formal, and where f32 may lie. */
static int check_operands(const struct sfi_image *im, const struct sf_call *call, const struct sf_arg *args,
                          struct sf_err *err) {
    uint64_t extent[SF_CALL_OPERANDS];
    SF_TRY(sfi_call_extents(call, extent, err));
    if (sf_call_is_collective(call->kind)) {
        SF_TRY(collective_extents(im->prog, call, args, extent, err));
    }
    for (int o = 0; o < sf_call_operands_n(call->kind); o++) {
        if (call->operand[o] == SF_REF_NONE) {
            if ((call->kind == SF_CALL_ADAMW && o == 5 && call->dtype == SF_F32) ||
                (call->kind == SF_CALL_BIAS_FWD && o == 2)) {
                continue; /* f32 weights are their own master copy; a bias need not come with a residual */
            }
            return sf_fail(err, SF_E_INPUT, "%s: operand %d is missing", sf_call_name(call->kind), o);
        }
        const struct sf_arg *arg = &args[SF_REF_FORMAL(call->operand[o])];
        uint64_t offset = SF_REF_OFFSET(call->operand[o]);
        if (offset > arg->bytes || extent[o] > arg->bytes - offset) {
            return sf_fail(err, SF_E_INPUT, "%s: operand %d touches %llu bytes at offset %llu of a range of %llu",
                           sf_call_name(call->kind), o, (unsigned long long)extent[o], (unsigned long long)offset,
                           (unsigned long long)arg->bytes);
        }
        if ((arg->offset + offset) % sizeof(float) != 0) {
            return sf_fail(err, SF_E_INPUT, "%s: operand %d is not aligned to 4 bytes", sf_call_name(call->kind), o);
        }
    }
    return SF_OK;
}

static int check_recipe(const struct sfi_image *im, const struct sf_class *c, const struct sf_op *op,
                        struct sf_err *err) {
    const struct sf_recipe *r = &im->prog->recipes[op->recipe];
    for (uint32_t i = 0; i < r->calls_n; i++) {
        int rc = check_operands(im, &r->calls[i], &c->args[op->arg_first], err);
        rc = rc == SF_OK ? check_vocab(im->prog, &r->calls[i], err) : rc;
        if (rc != SF_OK) {
            return sf_err_wrap(err, "recipe \"%s\" call %u", r->name, i);
        }
    }
    return SF_OK;
}

static int check_collective(const struct sfi_image *im, const struct sf_class *c, const struct sf_op *op,
                            struct sf_err *err) {
    uint64_t unit = sizeof(float);
    if (op->kind != SF_OP_ALL_REDUCE) {
        unit *= sf_prog_comm_size(im->prog, op->comm);
    }
    if (op->kind != SF_OP_ALL_GATHER && !(op->flags & SF_OP_SUM_F32) && !im->target) {
        return sf_fail(err, SF_E_INPUT, "reductions add f32 on CPU, not bf16: %s", only);
    }
    if (op->bytes % unit != 0) {
        return sf_fail(err, SF_E_INPUT, "%llu bytes: expected whole f32 elements, a multiple of %llu",
                       (unsigned long long)op->bytes, (unsigned long long)unit);
    }
    for (uint32_t a = 0; a < op->arg_n; a++) {
        if (c->args[op->arg_first + a].offset % sizeof(float) != 0) {
            return sf_fail(err, SF_E_INPUT, "argument %u is not aligned to 4 bytes", a);
        }
    }
    return SF_OK;
}

/* Of the largest load of targets; check_load sees that all are alike. */
static uint32_t further_of(const struct sf_prog *prog) {
    uint64_t row = sfi_load_tokens(&prog->job) * sizeof(int32_t), most = row;
    for (uint32_t i = 0; i < prog->classes_n; i++) {
        const struct sf_class *c = &prog->classes[i];
        for (uint32_t k = 0; k < c->ops_n; k++) {
            if (c->ops[k].kind == SF_OP_LOAD && c->ops[k].flags & SF_OP_TARGETS) {
                uint64_t bytes = c->args[c->ops[k].arg_first].bytes;
                most = bytes > most ? bytes : most;
            }
        }
    }
    uint64_t rows = row > 0 ? most / row : 1;
    return rows <= SFI_MOST_FURTHER + 1u ? (uint32_t)rows - 1 : 0;
}

static int check_load(const struct sfi_image *im, const struct sf_class *c, const struct sf_op *op,
                      struct sf_err *err) {
    const struct sf_prog *prog = im->prog;
    const struct sf_arg *arg = &c->args[op->arg_first];
    uint64_t rows = op->flags & SF_OP_TARGETS ? im->further + UINT64_C(1) : 1, want = sfi_load_tokens(&prog->job);
    if (prog->job.seq_len_tokens % sf_prog_slices(&prog->job) != 0 || op->slice >= sf_prog_slices(&prog->job)) {
        return sf_fail(err, SF_E_INPUT, "loads slice %u of %u of sequences of %u tokens: expected equal slices",
                       op->slice, sf_prog_slices(&prog->job), prog->job.seq_len_tokens);
    }
    if (want > UINT64_MAX / sizeof(int32_t) / rows || arg->bytes != rows * want * sizeof(int32_t) ||
        arg->offset % sizeof(int32_t) != 0 || op->microbatch >= prog->job.microbatches) {
        return sf_fail(err, SF_E_INPUT,
                       "loads microbatch %u of %u into %llu bytes: expected %u sequences of %u tokens of 4 bytes, by "
                       "%u slices, %llu times",
                       op->microbatch, prog->job.microbatches, (unsigned long long)arg->bytes,
                       prog->job.micro_batch_sequences, prog->job.seq_len_tokens, sf_prog_slices(&prog->job),
                       (unsigned long long)rows);
    }
    uint32_t parts = op->comm == SF_NONE ? 1 : sf_prog_comm_size(prog, op->comm);
    if (prog->job.vocab % parts != 0) {
        return sf_fail(err, SF_E_INPUT, "%llu tokens cannot be split into %u equal parts of the vocabulary",
                       (unsigned long long)prog->job.vocab, parts);
    }
    return SF_OK;
}

static int check_op(const struct sfi_image *im, uint32_t class_i, uint32_t op_i, struct sf_err *err) {
    const struct sf_class *c = &im->prog->classes[class_i];
    const struct sf_op *op = &c->ops[op_i];
    int rc = SF_OK;
    switch (sf_op_group(op->kind)) {
    case SF_OP_IS_DATA:
        im->classes[class_i].loads |= op->kind == SF_OP_LOAD;
        rc = op->kind == SF_OP_LOAD ? check_load(im, c, op, err) : SF_OK;
        break;
    case SF_OP_IS_COMPUTE:
        rc = check_recipe(im, c, op, err);
        break;
    case SF_OP_IS_COLL:
        rc = check_collective(im, c, op, err);
        break;
    case SF_OP_IS_P2P:
        break;
    }
    return rc == SF_OK ? rc : fail_op(im, class_i, op_i, err);
}

static int check_buffers(struct sfi_image *im, uint32_t class_i, struct sf_err *err) {
    const struct sf_class *c = &im->prog->classes[class_i];
    struct sfi_image_class *ic = &im->classes[class_i];
    ic->loss_buf = ic->norm_buf = SF_NONE;
    for (uint32_t i = 0; i < c->bufs_n; i++) {
        const struct sf_buffer *b = &c->bufs[i];
        if (b->kind == SF_BUF_HYPER && b->bytes < 8 * sizeof(float)) {
            return sf_fail(err, SF_E_INPUT, "class %u buffer \"%s\": expected 8 f32 values", class_i, b->name);
        }
        if (b->kind == SF_BUF_NORM) {
            SF_TRY(b->bytes < sizeof(float)
                       ? sf_fail(err, SF_E_INPUT, "class %u buffer \"%s\": expected an f32", class_i, b->name)
                       : SF_OK);
            ic->norm_buf = i;
        }
        if (b->kind != SF_BUF_LOSS) {
            continue;
        }
        if (ic->loss_buf != SF_NONE || b->last_op != SF_NONE || b->bytes < im->prog->job.microbatches * sizeof(float)) {
            return sf_fail(err, SF_E_INPUT,
                           "class %u buffer \"%s\": expected one persistent loss buffer with an f32 for each of %u "
                           "microbatches",
                           class_i, b->name, im->prog->job.microbatches);
        }
        ic->loss_buf = i;
    }
    for (uint32_t i = 0; i < c->tensors_n; i++) {
        bool known = c->tensors[i].dtype == SF_F32 || (c->tensors[i].dtype == SF_BF16 && im->target);
        if (!known || c->tensors[i].offset % sizeof(float) != 0) {
            return sf_fail(err, SF_E_INPUT, "tensor \"%s\" is %s: expected aligned f32%s: %s", c->tensors[i].name,
                           sf_dtype_name((int)c->tensors[i].dtype), im->target ? " or bf16" : "",
                           im->target ? "quantised weights do not train here" : only);
        }
    }
    return SF_OK;
}

/* Weights without a name cannot be filled. */
static int check_weights_named(const struct sfi_image *im, uint32_t class_i, struct sf_err *err) {
    const struct sf_class *c = &im->prog->classes[class_i];
    for (uint32_t i = 0; i < c->bufs_n; i++) {
        bool named = c->bufs[i].kind != SF_BUF_PARAM;
        for (uint32_t t = 0; t < c->tensors_n && !named; t++) {
            named = c->tensors[t].buf == i;
        }
        if (!named) {
            return sf_fail(err, SF_E_INPUT,
                           "class %u \"%s\": the weights in \"%s\" have no names to start from, as in programs of zero "
                           "3, which are for pricing: train with zero 0, 1 or 2",
                           class_i, c->name, c->bufs[i].name);
        }
    }
    return SF_OK;
}

static int prepare_class(struct sfi_image *im, uint32_t class_i, struct sf_err *err) {
    SF_TRY(check_buffers(im, class_i, err));
    SF_TRY(check_weights_named(im, class_i, err));
    for (uint32_t i = 0; i < im->prog->classes[class_i].ops_n; i++) {
        SF_TRY(check_op(im, class_i, i, err));
    }
    return sf_iclass_create(im->prog, class_i, im->arena, &im->classes[class_i].order, err);
}

static void find_axes(struct sfi_image *im) {
    im->ranks = sf_prog_ranks(im->prog);
    im->further = further_of(im->prog);
    im->dp_n = 1;
    for (uint32_t a = 0; a < im->prog->axes_n; a++) {
        const struct sf_axis *axis = &im->prog->axes[a];
        if (strncmp(axis->name, "tp", 2) != 0 && strcmp(axis->name, "pp") != 0) {
            im->dp_axes |= 1u << a;
            im->dp_n *= axis->size;
        }
    }
}

static int check_axes(const struct sfi_image *im, struct sf_err *err) {
    for (uint32_t a = 0; a < im->prog->axes_n; a++) {
        const struct sf_axis *axis = &im->prog->axes[a];
        if (strcmp(axis->name, "cp") == 0 && axis->size > 1) {
            return sf_fail(err, SF_E_INPUT,
                           "programs whose ranks share sequences are for pricing: no backend runs cp, found cp %u",
                           axis->size);
        }
    }
    return SF_OK;
}

static int check_batch(const struct sfi_image *im, struct sf_err *err) {
    const struct sf_prog_job *job = &im->prog->job;
    uint64_t per_rank = (uint64_t)job->microbatches * job->micro_batch_sequences;
    if (job->microbatches > 0 &&
        (per_rank > UINT64_MAX / im->dp_n || per_rank * im->dp_n != job->global_batch_sequences)) {
        return sf_fail(
            err, SF_E_INPUT,
            "%u data-parallel ranks with %u microbatches of %u sequences do not make the global batch of %llu",
            im->dp_n, job->microbatches, job->micro_batch_sequences, (unsigned long long)job->global_batch_sequences);
    }
    return SF_OK;
}

static int prepare(struct sfi_image *im, bool reference, struct sf_err *err) {
    find_axes(im);
    SF_TRY(check_axes(im, err));
    SF_TRY(check_batch(im, err));
    im->classes = sf_arena_alloc(im->arena, im->prog->classes_n, sizeof *im->classes);
    if (!im->classes) {
        return sf_fail_memory(err, "program image");
    }
    SF_TRY(im->target ? find_device_kernels(im, err)
                      : find_kernels(im, reference ? SF_KERN_REFERENCE : SF_KERN_FAST, err));
    for (uint32_t c = 0; c < im->prog->classes_n; c++) {
        SF_TRY(prepare_class(im, c, err));
    }
    return SF_OK;
}

int sfi_image_create(const struct sf_prog *prog, const struct sfi_target *target, bool reference_kernels,
                     struct sfi_image **out, struct sf_err *err) {
    struct sf_arena *arena = sf_arena_create();
    struct sfi_image *im = arena ? sf_arena_alloc(arena, 1, sizeof *im) : NULL;
    if (!im) {
        sf_arena_free(arena);
        return sf_fail_memory(err, "program image");
    }
    im->prog = prog;
    im->target = target;
    im->arena = arena;
    int rc = prepare(im, reference_kernels, err);
    if (rc != SF_OK) {
        sfi_image_free(im);
        return rc;
    }
    *out = im;
    return SF_OK;
}

void sfi_image_free(struct sfi_image *image) {
    if (image) {
        sf_arena_free(image->arena); /* the image itself lives in it */
    }
}

int sfi_image_check_memory(const struct sfi_image *image, uint32_t first_rank, uint32_t ranks_n, struct sf_err *err) {
    struct sysinfo info;
    uint64_t need = 0;
    for (uint32_t r = first_rank; r < first_rank + ranks_n; r++) {
        const struct sf_class *c = &image->prog->classes[sf_prog_class(image->prog, r)];
        bool wraps =
            __builtin_add_overflow(need, c->arena_bytes, &need) || __builtin_add_overflow(need, c->host_bytes, &need);
        need = wraps ? UINT64_MAX : need;
    }
    uint64_t have = sysinfo(&info) == 0 ? (uint64_t)info.totalram * info.mem_unit : UINT64_MAX;
    if (need > have / 20 * 19) {
        return sf_fail(err, SF_E_INPUT,
                       "the arenas of %u ranks need %.2f GB but this machine has %.2f GB: use more machines", ranks_n,
                       (double)need / 1e9, (double)have / 1e9);
    }
    return SF_OK;
}

uint32_t sfi_image_dp_index(const struct sfi_image *image, uint32_t rank) {
    uint32_t index = 0, stride = 1;
    for (uint32_t a = 0; a < image->prog->axes_n; a++) {
        if (image->dp_axes >> a & 1) {
            index += sf_prog_coord(image->prog, rank, a) * stride;
            stride *= image->prog->axes[a].size;
        }
    }
    return index;
}

bool sfi_image_counts(const struct sfi_image *image, uint32_t rank) {
    for (uint32_t a = 0; a < image->prog->axes_n; a++) {
        if (strcmp(image->prog->axes[a].name, "tp") == 0 && sf_prog_coord(image->prog, rank, a) != 0) {
            return false;
        }
    }
    return true;
}

bool sfi_image_loads(const struct sfi_image *image) {
    for (uint32_t c = 0; c < image->prog->classes_n; c++) {
        if (image->classes[c].loads) {
            return true;
        }
    }
    return false;
}
