/* Binary files, field by field, little-endian. One visitor function per type serves writing, hashing and reading, so
 * the two directions cannot drift apart. Errors stick: after the first one every call does nothing, look at `rc` at the
 * end. Writing never changes the visited object. */
#ifndef SF_CORE_CODEC_H
#define SF_CORE_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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
};

void sfi_sink_buf(void *sf_buf, const void *data, size_t bytes);

bool sfi_reading(const struct sfi_codec *c);
int sfi_codec_fail(struct sfi_codec *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

void sfi_code_raw(struct sfi_codec *c, void *p, size_t bytes);
void sfi_code_u8(struct sfi_codec *c, uint8_t *v);
void sfi_code_u16(struct sfi_codec *c, uint16_t *v);
void sfi_code_u32(struct sfi_codec *c, uint32_t *v);
void sfi_code_u64(struct sfi_codec *c, uint64_t *v);
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
