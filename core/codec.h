/* Binary files, field by field, little-endian. One visitor function per type serves writing, hashing and reading, so
 * the two directions cannot drift apart. Errors stick: after the first one every call does nothing, look at `rc` at the
 * end. Writing never changes the visited object. */
#ifndef SF_CORE_CODEC_H
#define SF_CORE_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "core/arena.h"
#include "core/err.h"
#include "core/hash.h"
#include "core/io.h"

struct sfi_codec {
    void (*sink)(void *self, const void *data, size_t bytes); /* NULL: reading */
    void *self;
    const unsigned char *data; /* reading: the file, and how far it has been read */
    size_t bytes, at;
    struct sf_arena *arena; /* reading: where new arrays go */
    const char *name;       /* of the file, for messages */
    struct sf_err *err;
    int rc;
    /* Writing: room for what has not gone to the sink yet, when the caller gives some; sfi_codec_flush at the end. */
    unsigned char *pending;
    size_t pending_n, pending_size;
};

enum { SFI_CODEC_ROOM = 4096 }; /* enough that a sink's own costs do not show */

/* What is pending goes to the sink. */
void sfi_codec_flush(struct sfi_codec *c);

void sfi_sink_buf(void *sf_buf, const void *data, size_t bytes);

bool sfi_reading(const struct sfi_codec *c);
int sfi_codec_fail(struct sfi_codec *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

void sfi_code_raw(struct sfi_codec *c, void *p, size_t bytes);

/* Numbers are most of every file: where there is room they are put down right here. Reading gives none. */
static inline bool sfi_codec_put(struct sfi_codec *c, uint64_t v, size_t bytes) {
    unsigned char b[8];
    if (c->pending_size - c->pending_n < bytes || c->rc != 0) {
        return false;
    }
    for (size_t i = 0; i < bytes; i++) {
        b[i] = (unsigned char)(v >> (8 * i));
    }
    memcpy(c->pending + c->pending_n, b, bytes); /* in one go, which bytes stored one by one would not be */
    c->pending_n += bytes;
    return true;
}

#define SFI_CODE_UINTS(X) X(u8, uint8_t) X(u16, uint16_t) X(u32, uint32_t) X(u64, uint64_t)
#define X(name, type)                                                                                                  \
    void sfi_code_slow_##name(struct sfi_codec *c, type *v);                                                           \
    static inline void sfi_code_##name(struct sfi_codec *c, type *v) {                                                 \
        if (!sfi_codec_put(c, *v, sizeof *v)) {                                                                        \
            sfi_code_slow_##name(c, v);                                                                                \
        }                                                                                                              \
    }
SFI_CODE_UINTS(X)
#undef X

void sfi_code_i32(struct sfi_codec *c, int32_t *v);
void sfi_code_i64(struct sfi_codec *c, int64_t *v);
void sfi_code_f32(struct sfi_codec *c, float *v);
void sfi_code_f64(struct sfi_codec *c, double *v);
void sfi_code_hash(struct sfi_codec *c, struct sf_hash *v);
/* A terminated string in a field of `size` bytes; what lies behind the terminator is not kept. */
void sfi_code_text(struct sfi_codec *c, char *text, size_t size);
/* A count. Reading refuses more than `limit`, and more than fit in the rest of the file at `min_bytes` each. */
void sfi_code_count(struct sfi_codec *c, uint32_t *n, uint32_t limit, size_t min_bytes, const char *what);
/* The array to visit: the existing one when writing, a new zeroed one when reading. NULL after an error. */
void *sfi_code_array(struct sfi_codec *c, const void *existing, uint32_t n, size_t size);

#endif
