#include "kernels/cuda/attn_cudnn_file.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "core/hash.h"

#define LINE_BYTES 640

static const char *direction(const struct sfi_attn_shape *s) {
    return sf_call_name(s->backward ? SF_CALL_ATTN_BWD : SF_CALL_ATTN_FWD);
}

int sfi_attn_file_path(const char *folder, const struct sfi_attn_device *device, const struct sfi_attn_shape *shape,
                       char *out, size_t size, struct sf_err *err) {
    const struct sfi_attn_shape *s = shape;
    char model[sizeof device->name];
    size_t n = 0;
    for (const char *c = device->name; *c; c++) {
        if (isalnum((unsigned char)*c)) {
            model[n++] = *c;
        }
    }
    model[n] = 0;
    int wrote = snprintf(out, size, "%s/attn-%s-%llu-%s%s-b%lld-s%lld-h%lld-%lld-d%lld-r%lld.plan", folder, model,
                         (unsigned long long)device->cudnn, direction(s) + strlen("attn_"),
                         s->deterministic ? "-same-bits" : "", (long long)s->batch, (long long)s->seq,
                         (long long)s->heads, (long long)s->kv_heads, (long long)s->head_dim, (long long)s->row_stride);
    return wrote >= 0 && (size_t)wrote < size
               ? 0
               : sf_fail(err, SF_E_INPUT, "the name of the folder for attention plans is too long: '%s'", folder);
}

static int print_head(const struct sfi_attn_device *device, const struct sfi_attn_shape *s, char to[LINE_BYTES]) {
    return snprintf(to, LINE_BYTES,
                    "staticfire attention plan 1\ndevice \"%.255s\" arch=%llu sms=%llu cudnn=%llu\n"
                    "%s batch=%lld seq=%lld heads=%lld kv_heads=%lld head_dim=%lld row_stride=%lld chunk=%lldx%lld "
                    "deterministic=%d\n",
                    device->name, (unsigned long long)device->arch, (unsigned long long)device->sms_n,
                    (unsigned long long)device->cudnn, direction(s), (long long)s->batch, (long long)s->seq,
                    (long long)s->heads, (long long)s->kv_heads, (long long)s->head_dim, (long long)s->row_stride,
                    (long long)s->chunk_batch, (long long)s->chunk_heads, s->deterministic);
}

static int print_json_line(const char *json, size_t bytes, char to[LINE_BYTES]) {
    char digest[SF_HASH_TEXT];
    sf_hash_format(sf_hash_bytes(json, bytes), digest);
    return snprintf(to, LINE_BYTES, "json bytes=%zu xxh3=%s\n", bytes, digest);
}

void sfi_attn_file_print(const struct sfi_attn_device *device, const struct sfi_attn_shape *shape, const char *json,
                         size_t bytes, struct sf_buf *out) {
    char line[LINE_BYTES];
    sf_buf_write(out, line, (size_t)print_head(device, shape, line));
    sf_buf_write(out, line, (size_t)print_json_line(json, bytes, line));
    sf_buf_write(out, json, bytes);
}

static uint32_t line_of(const char *text, size_t at) {
    uint32_t line = 1;
    for (size_t i = 0; i < at; i++) {
        line += text[i] == '\n';
    }
    return line;
}

/* The bytes at *at must be `expected`. */
static int take(const char *text, size_t bytes, const char *name, const char *expected, size_t *at,
                struct sf_err *err) {
    size_t n = strlen(expected), left = bytes - *at, same = 0;
    while (same < n && same < left && text[*at + same] == expected[same]) {
        same++;
    }
    if (same < n) {
        return sf_fail_at(err, SF_E_INPUT, name, line_of(text, *at + same), 0,
                          "not an attention plan for this call, device and cuDNN: expected '%.*s', found %s; it is "
                          "built anew",
                          (int)strcspn(expected + same, "\n"), expected + same,
                          same < left ? "something else" : "the end");
    }
    *at += n;
    return 0;
}

int sfi_attn_file_check(const char *text, size_t bytes, const char *name, const struct sfi_attn_device *device,
                        const struct sfi_attn_shape *shape, const char **json, size_t *json_bytes, struct sf_err *err) {
    char line[LINE_BYTES];
    size_t at = 0;
    *json = NULL;
    *json_bytes = 0;
    print_head(device, shape, line);
    SF_TRY(take(text, bytes, name, line, &at, err));
    const char *end = memchr(text + at, '\n', bytes - at);
    size_t start = end ? (size_t)(end - text) + 1 : bytes;
    if (bytes - start == 0) {
        return sf_fail_at(err, SF_E_INPUT, name, 4, 0, "expected a digest and a plan, found the end; it is built anew");
    }
    print_json_line(text + start, bytes - start, line);
    SF_TRY(take(text, bytes, name, line, &at, err));
    *json = text + start;
    *json_bytes = bytes - start;
    return 0;
}
