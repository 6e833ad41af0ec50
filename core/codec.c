#include "core/codec.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void sfi_sink_buf(void *sf_buf, const void *data, size_t bytes) {
    sf_buf_write(sf_buf, data, bytes);
}

bool sfi_reading(const struct sfi_codec *c) {
    return c->sink == NULL;
}

int sfi_codec_fail(struct sfi_codec *c, const char *fmt, ...) {
    if (c->rc != 0) {
        return c->rc;
    }
    char msg[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(msg, sizeof msg, fmt, args);
    va_end(args);
    c->rc = sfi_reading(c) ? sf_fail_at(c->err, SF_E_INPUT, c->name, 0, 0, "at byte %zu: %s", c->at, msg)
                           : sf_fail(c->err, SF_E_INPUT, "%s", msg);
    return c->rc;
}

void sfi_codec_flush(struct sfi_codec *c) {
    if (c->pending_n > 0) {
        c->sink(c->self, c->pending, c->pending_n);
        c->pending_n = 0;
    }
}

static void put_raw(struct sfi_codec *c, const void *p, size_t bytes) {
    if (bytes > c->pending_size - c->pending_n) {
        sfi_codec_flush(c);
    }
    if (bytes > c->pending_size) {
        c->sink(c->self, p, bytes);
    } else {
        memcpy(c->pending + c->pending_n, p, bytes);
        c->pending_n += bytes;
    }
}

void sfi_code_raw(struct sfi_codec *c, void *p, size_t bytes) {
    if (c->rc != 0 || bytes == 0) {
        return;
    }
    if (c->sink != NULL) {
        put_raw(c, p, bytes);
    } else if (bytes > c->bytes - c->at) {
        sfi_codec_fail(c, "the file is cut off: expected %zu more bytes, found %zu", bytes, c->bytes - c->at);
    } else {
        memcpy(p, c->data + c->at, bytes);
        c->at += bytes;
    }
}

/* The value read, or `v` as it was. */
static uint64_t code_uint(struct sfi_codec *c, uint64_t v, size_t bytes) {
    unsigned char b[8] = {0};
    for (size_t i = 0; i < bytes; i++) {
        b[i] = (unsigned char)(v >> (8 * i));
    }
    sfi_code_raw(c, b, bytes);
    uint64_t read = 0;
    for (size_t i = 0; i < bytes; i++) {
        read |= (uint64_t)b[i] << (8 * i);
    }
    return read;
}

/* Writing must not even store the same value: the object may be shared or constant. */
#define X(name, type)                                                                                                  \
    void sfi_code_slow_##name(struct sfi_codec *c, type *v) {                                                          \
        type value = (type)code_uint(c, (uint64_t)*v, sizeof *v);                                                      \
        if (sfi_reading(c)) {                                                                                          \
            *v = value;                                                                                                \
        }                                                                                                              \
    }
SFI_CODE_UINTS(X)
#undef X

void sfi_code_i32(struct sfi_codec *c, int32_t *v) {
    uint32_t bits = (uint32_t)*v;
    sfi_code_u32(c, &bits);
    if (sfi_reading(c)) {
        *v = (int32_t)bits;
    }
}

void sfi_code_i64(struct sfi_codec *c, int64_t *v) {
    uint64_t bits = (uint64_t)*v;
    sfi_code_u64(c, &bits);
    if (sfi_reading(c)) {
        *v = (int64_t)bits;
    }
}

void sfi_code_f32(struct sfi_codec *c, float *v) {
    uint32_t bits;
    memcpy(&bits, v, sizeof bits);
    sfi_code_u32(c, &bits);
    if (sfi_reading(c)) {
        memcpy(v, &bits, sizeof bits);
    }
}

void sfi_code_f64(struct sfi_codec *c, double *v) {
    uint64_t bits;
    memcpy(&bits, v, sizeof bits);
    sfi_code_u64(c, &bits);
    if (sfi_reading(c)) {
        memcpy(v, &bits, sizeof bits);
    }
}

void sfi_code_hash(struct sfi_codec *c, struct sf_hash *v) {
    sfi_code_u64(c, &v->hi);
    sfi_code_u64(c, &v->lo);
}

void sfi_code_text(struct sfi_codec *c, char *text, size_t size) {
    uint16_t n = sfi_reading(c) ? 0 : (uint16_t)strnlen(text, size);
    sfi_code_u16(c, &n);
    if (n >= size) {
        sfi_codec_fail(c, "a text of %u bytes, expected at most %zu", n, size - 1);
        return;
    }
    sfi_code_raw(c, text, n);
    if (sfi_reading(c)) {
        memset(text + n, 0, size - n);
        if (c->rc == 0 && strlen(text) != n) {
            sfi_codec_fail(c, "a text with a NUL character in it");
        }
    }
}

void sfi_code_count(struct sfi_codec *c, uint32_t *n, uint32_t limit, size_t min_bytes, const char *what) {
    sfi_code_u32(c, n);
    if (c->rc == 0 && *n > limit) {
        sfi_codec_fail(c, "%u %s, expected at most %u", *n, what, limit);
    } else if (c->rc == 0 && sfi_reading(c) && *n > (c->bytes - c->at) / min_bytes) {
        sfi_codec_fail(c, "%u %s do not fit in the %zu bytes that follow", *n, what, c->bytes - c->at);
    }
}

void *sfi_code_array(struct sfi_codec *c, const void *existing, uint32_t n, size_t size) {
    if (c->rc != 0) {
        return NULL;
    }
    if (!sfi_reading(c)) {
        return (void *)(uintptr_t)existing; /* visited, never written */
    }
    void *array = sf_arena_alloc(c->arena, n, size);
    if (array == NULL) {
        c->rc = sf_fail_memory(c->err, "the content of a file");
    }
    return array;
}
