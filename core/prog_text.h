/* The text form of a program: one object per line, its fields as key=value. The tables here name every field once;
 * prog_print.c writes by them and prog_parse.c reads by them.
 *
 *   staticfire program 3
 *   title "llama-8b on 64 ranks"
 *   source 00112233445566778899aabbccddeeff
 *   job microbatches=8 micro_batch_sequences=1 ...
 *   placement ranks_per_domain=8 domain_gpus=8 device_memory_bytes=80000000000
 *   axis 0 tp size=8
 *   comm 0 tp axes=tp
 *   stream 0 compute
 *   binding axes=pp classes=0,1,1,2
 *   recipe 0 layer.fwd formals=5
 *     call gemm bf16 m=8192 n=4096 k=4096 groups=1 a=0+0 b=1+0 c=2+0 flags=tb     operand = formal+offset
 *   class 0 first stage=0 arena_bytes=1048576
 *     buffer 0 embedding param bytes=65536 offset=0 live=0..end
 *     tensor model.embed_tokens.weight buffer=0 offset=0 rows=256 cols=64 dtype=f32 init=normal std=0.02
 *     op 0 load stream=compute mb=0 args=3:w:0+4096                               buffer:access:offset+bytes
 *     op 1 forward stream=compute recipe=0 args=0:r:0+65536,3:r:0+4096 deps=0
 *   end
 *
 * Fields at their usual value are left out. Axes, communicators and streams are referred to by name, or as #index where
 * the name is not a plain word or not the first of its kind. Empty lines and lines that start with // are skipped. */
#ifndef SF_CORE_PROG_TEXT_H
#define SF_CORE_PROG_TEXT_H

#include "core/io.h"
#include "core/prog.h"

enum sfi_type {
    SFI_U16,
    SFI_U32,
    SFI_U64,
    SFI_I32,
    SFI_I64,
    SFI_F32,
    SFI_F64,
    SFI_STREAM,     /* uint8_t index */
    SFI_COMM,       /* uint32_t index */
    SFI_AXES,       /* uint32_t bit set */
    SFI_PICK,       /* uint8_t, of core/collective.h */
    SFI_DTYPE,      /* uint32_t */
    SFI_INIT,       /* uint32_t */
    SFI_OP_FLAGS,   /* uint16_t */
    SFI_CALL_FLAGS, /* uint16_t */
    SFI_REF,        /* sf_ref */
    SFI_LIVE,       /* uint32_t[2]: first_op, last_op */
    SFI_CLASSES,    /* sf_prog.class_of */
    SFI_ARGS,       /* of an op */
    SFI_DEPS
};

#define SFI_KEY 24

struct sfi_field {
    char key[SFI_KEY];
    enum sfi_type type;
    bool optional; /* left out when its bits are those of `absent` */
    uint64_t absent;
    size_t offset;
};

struct sfi_fields {
    const struct sfi_field *at;
    size_t n;
};

extern const struct sfi_fields sfi_job_fields, sfi_placement_fields, sfi_axis_fields, sfi_comm_fields,
    sfi_binding_fields, sfi_recipe_fields, sfi_class_fields, sfi_buffer_fields, sfi_tensor_fields, sfi_op_fields;

#define SFI_CALL_FIELDS (SF_CALL_DIMS + SF_CALL_OPERANDS + 4)
/* The fields of one kind of call: its dims and operands under their names in call.h, then flags, comm, constants. */
struct sfi_fields sfi_call_fields(int kind, struct sfi_field room[SFI_CALL_FIELDS]);

/* The value's bits, zero-extended; for comparing with `absent` and for setting it. */
uint64_t sfi_field_bits(const struct sfi_field *f, const void *object);
void sfi_field_set(const struct sfi_field *f, void *object, uint64_t bits);

/* Words of enumerations, NULL-terminated. Flags: word i stands for bit i. */
extern const char *const sfi_init_words[], *const sfi_access_words[], *const sfi_op_flag_words[],
                                                                          *const sfi_call_flag_words[];

/* Letters, digits and _ . - / : only, at least one: needs no quotes. */
bool sfi_is_plain(const char *s, size_t bytes);

/* What a reference may name; the i-th name of each sort. */
enum sfi_sort { SFI_SORT_AXIS, SFI_SORT_COMM, SFI_SORT_STREAM };
uint32_t sfi_names_n(const struct sf_prog *prog, enum sfi_sort sort);
const char *sfi_name(const struct sf_prog *prog, enum sfi_sort sort, uint32_t i);
/* The first of that name, or SF_NONE. */
uint32_t sfi_find_name(const struct sf_prog *prog, enum sfi_sort sort, const char *name);

#endif
