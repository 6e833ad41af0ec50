#include "core/prog_text.h"

#include <string.h>

#define FIELD(key, type, object, member)                                                                               \
    { key, type, false, 0, offsetof(struct object, member) }
#define USUALLY(key, type, object, member, absent)                                                                     \
    { key, type, true, absent, offsetof(struct object, member) }
#define ONE_F32 0x3f800000u /* the bits of 1.0f: imm1 of a call whose size is known */
#define TABLE(name, ...)                                                                                               \
    static const struct sfi_field name##_table[] = {__VA_ARGS__};                                                      \
    const struct sfi_fields sfi_##name##_fields = {name##_table, sizeof name##_table / sizeof name##_table[0]};

TABLE(job, FIELD("microbatches", SFI_U32, sf_prog_job, microbatches),
      FIELD("micro_batch_sequences", SFI_U32, sf_prog_job, micro_batch_sequences),
      FIELD("seq_len_tokens", SFI_U32, sf_prog_job, seq_len_tokens), FIELD("chunks", SFI_U32, sf_prog_job, chunks),
      USUALLY("extra_copies", SFI_U32, sf_prog_job, extra_copies, 0),
      USUALLY("slices", SFI_U32, sf_prog_job, slices, 0),
      FIELD("global_batch_sequences", SFI_U64, sf_prog_job, global_batch_sequences),
      FIELD("model_flops_per_step", SFI_F64, sf_prog_job, model_flops_per_step),
      FIELD("vocab", SFI_U64, sf_prog_job, vocab), FIELD("lr", SFI_F32, sf_prog_job, lr),
      FIELD("beta1", SFI_F32, sf_prog_job, beta1), FIELD("beta2", SFI_F32, sf_prog_job, beta2),
      FIELD("eps", SFI_F32, sf_prog_job, eps), FIELD("weight_decay", SFI_F32, sf_prog_job, weight_decay),
      FIELD("warmup_steps", SFI_U32, sf_prog_job, warmup_steps), FIELD("seed", SFI_U64, sf_prog_job, seed))

TABLE(placement, FIELD("ranks_per_domain", SFI_U32, sf_prog, ranks_per_domain),
      FIELD("domain_gpus", SFI_U32, sf_prog, domain_gpus),
      FIELD("device_memory_bytes", SFI_U64, sf_prog, device_memory_bytes),
      USUALLY("host_memory_bytes", SFI_U64, sf_prog, host_memory_bytes, 0))

TABLE(axis, FIELD("size", SFI_U32, sf_axis, size))
#define X(NAME, name) , USUALLY(name, SFI_PICK, sf_comm, picks.of[SF_COLL_##NAME], 0)
TABLE(comm, FIELD("axes", SFI_AXES, sf_comm, axes) SF_COLL_OPS(X))
#undef X
TABLE(binding, USUALLY("axes", SFI_AXES, sf_prog, class_axes, 0), FIELD("classes", SFI_CLASSES, sf_prog, class_of))
TABLE(recipe, FIELD("formals", SFI_U32, sf_recipe, formals_n))
TABLE(class, FIELD("stage", SFI_U32, sf_class, stage), FIELD("arena_bytes", SFI_U64, sf_class, arena_bytes),
      USUALLY("host_bytes", SFI_U64, sf_class, host_bytes, 0))

TABLE(buffer, FIELD("bytes", SFI_U64, sf_buffer, bytes), FIELD("offset", SFI_U64, sf_buffer, offset),
      FIELD("live", SFI_LIVE, sf_buffer, first_op))

TABLE(tensor, FIELD("buffer", SFI_U32, sf_tensor, buf), FIELD("offset", SFI_U64, sf_tensor, offset),
      FIELD("rows", SFI_U64, sf_tensor, rows), FIELD("cols", SFI_U64, sf_tensor, cols),
      FIELD("dtype", SFI_DTYPE, sf_tensor, dtype), FIELD("init", SFI_INIT, sf_tensor, init),
      USUALLY("std", SFI_F32, sf_tensor, init_std, 0), USUALLY("comm", SFI_COMM, sf_tensor, comm, 0),
      USUALLY("first_row", SFI_U64, sf_tensor, first_row, 0), USUALLY("whole_rows", SFI_U64, sf_tensor, whole_rows, 0),
      USUALLY("whole_cols", SFI_U64, sf_tensor, whole_cols, 0))

TABLE(op, FIELD("stream", SFI_STREAM, sf_op, stream), USUALLY("recipe", SFI_U32, sf_op, recipe, SF_NONE),
      USUALLY("comm", SFI_COMM, sf_op, comm, SF_NONE), USUALLY("peer", SFI_I32, sf_op, peer_delta, 0),
      USUALLY("bytes", SFI_U64, sf_op, bytes, 0), FIELD("mb", SFI_U16, sf_op, microbatch),
      USUALLY("chunk", SFI_U16, sf_op, chunk, 0), USUALLY("slice", SFI_U16, sf_op, slice, 0),
      USUALLY("group", SFI_U16, sf_op, group, 0), USUALLY("flags", SFI_OP_FLAGS, sf_op, flags, 0),
      USUALLY("args", SFI_ARGS, sf_op, arg_n, 0), USUALLY("deps", SFI_DEPS, sf_op, dep_n, 0))

static const struct {
    const char *dims, *operands;
} call_words[SF_CALL_KINDS] = {
#define X(NAME, name, dims, operands) [SF_CALL_##NAME] = {dims, operands},
    SF_CALLS(X)
#undef X
};

/* One field per word of `words`, `size` bytes apart from `offset` on. */
static size_t add_words(struct sfi_field *to, const char *words, const struct sfi_field *like, size_t size) {
    size_t n = 0;
    while (*words != '\0') {
        size_t length = strcspn(words, " ");
        to[n] = *like;
        to[n].offset += n * size;
        memcpy(to[n].key, words, length < SFI_KEY ? length : SFI_KEY - 1);
        n++;
        words += length + (words[length] == ' ');
    }
    return n;
}

struct sfi_fields sfi_call_fields(int kind, struct sfi_field room[SFI_CALL_FIELDS]) {
    static const struct sfi_field dim = FIELD("", SFI_I64, sf_call, dims);
    static const struct sfi_field operand = USUALLY("", SFI_REF, sf_call, operand, SF_REF_NONE);
    static const struct sfi_field rest[] = {
        USUALLY("flags", SFI_CALL_FLAGS, sf_call, flags, 0), USUALLY("comm", SFI_COMM, sf_call, comm, SF_NONE),
        USUALLY("imm0", SFI_F32, sf_call, imm[0], 0), USUALLY("imm1", SFI_F32, sf_call, imm[1], ONE_F32)};
    size_t n = add_words(room, call_words[kind].dims, &dim, sizeof(int64_t));
    n += add_words(room + n, call_words[kind].operands, &operand, sizeof(sf_ref));
    memcpy(room + n, rest, sizeof rest);
    return (struct sfi_fields){room, n + sizeof rest / sizeof rest[0]};
}

static size_t bytes_of(enum sfi_type type) {
    switch (type) {
    case SFI_STREAM:
    case SFI_PICK:
        return 1;
    case SFI_U16:
    case SFI_OP_FLAGS:
    case SFI_CALL_FLAGS:
    case SFI_ARGS: /* how many there are */
    case SFI_DEPS:
        return 2;
    case SFI_U64:
    case SFI_I64:
    case SFI_F64:
    case SFI_REF:
        return 8;
    default:
        return 4;
    }
}

/* Sizes differ and objects are plain C structures, so copy through the integer of that size. */
uint64_t sfi_field_bits(const struct sfi_field *f, const void *object) {
    const unsigned char *at = (const unsigned char *)object + f->offset;
    uint16_t two;
    uint32_t four;
    uint64_t eight;
    switch (bytes_of(f->type)) {
    case 1:
        return *at;
    case 2:
        memcpy(&two, at, sizeof two);
        return two;
    case 4:
        memcpy(&four, at, sizeof four);
        return four;
    default:
        memcpy(&eight, at, sizeof eight);
        return eight;
    }
}

void sfi_field_set(const struct sfi_field *f, void *object, uint64_t bits) {
    unsigned char *at = (unsigned char *)object + f->offset;
    uint16_t two = (uint16_t)bits;
    uint32_t four = (uint32_t)bits;
    switch (bytes_of(f->type)) {
    case 1:
        *at = (unsigned char)bits;
        break;
    case 2:
        memcpy(at, &two, sizeof two);
        break;
    case 4:
        memcpy(at, &four, sizeof four);
        break;
    default:
        memcpy(at, &bits, sizeof bits);
        break;
    }
}

const char *const sfi_init_words[] = {"zero", "one", "normal", NULL};
const char *const sfi_access_words[] = {"?", "r", "w", "rw", NULL};
const char *const sfi_op_flag_words[] = {"targets", "sum_f32", NULL};
const char *const sfi_call_flag_words[] = {
#define X(NAME, bit, name) [__builtin_ctz(bit)] = name,
    SF_CALL_FLAGS(X)
#undef X
        NULL};

bool sfi_is_plain(const char *s, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        char c = s[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!letter && (c == '\0' || strchr("_.-/:", c) == NULL)) {
            return false;
        }
    }
    return bytes > 0;
}

uint32_t sfi_names_n(const struct sf_prog *prog, enum sfi_sort sort) {
    switch (sort) {
    case SFI_SORT_AXIS:
        return prog->axes_n;
    case SFI_SORT_COMM:
        return prog->comms_n;
    case SFI_SORT_STREAM:
        break;
    }
    return prog->streams_n;
}

const char *sfi_name(const struct sf_prog *prog, enum sfi_sort sort, uint32_t i) {
    switch (sort) {
    case SFI_SORT_AXIS:
        return prog->axes[i].name;
    case SFI_SORT_COMM:
        return prog->comms[i].name;
    case SFI_SORT_STREAM:
        break;
    }
    return prog->streams[i];
}

uint32_t sfi_find_name(const struct sf_prog *prog, enum sfi_sort sort, const char *name) {
    for (uint32_t i = 0; i < sfi_names_n(prog, sort); i++) {
        if (strcmp(sfi_name(prog, sort, i), name) == 0) {
            return i;
        }
    }
    return SF_NONE;
}
