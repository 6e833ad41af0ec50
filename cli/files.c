#include "cli/files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/print.h"
#include "core/arena.h"

#define TRACE_MAX_BYTES ((size_t)8 << 30)

int cli_path_copy(char *out, size_t size, const char *path, struct sf_err *err) {
    if ((size_t)snprintf(out, size, "%s", path) >= size) {
        return sf_fail(err, SF_E_INPUT, "the path %.60s... is longer than %zu bytes", path, size - 1);
    }
    return 0;
}

int cli_path_with_suffix(const char *path, const char *suffix, char out[CLI_PATH], struct sf_err *err) {
    const char *slash = strrchr(path, '/'), *dot = strrchr(path, '.');
    bool has_suffix = dot != NULL && (slash == NULL || dot > slash + 1) && dot != path;
    size_t stem = has_suffix ? (size_t)(dot - path) : strlen(path);
    if (stem + strlen(suffix) >= CLI_PATH) {
        return sf_fail(err, SF_E_INPUT, "the path %.60s... is too long", path);
    }
    snprintf(out, CLI_PATH, "%.*s%s", (int)stem, path, suffix);
    return 0;
}

static int too_long(const char *path, struct sf_err *err) {
    return sf_fail(err, SF_E_INPUT, "the path to %.60s is longer than %d bytes", path, CLI_PATH - 1);
}

int cli_path_beside(const char *from, const char *name, char out[CLI_PATH], struct sf_err *err) {
    const char *slash = strrchr(from, '/');
    int folder = name[0] == '/' || slash == NULL ? 0 : (int)(slash - from) + 1;
    if (snprintf(out, CLI_PATH, "%.*s%s", folder, from, name) >= CLI_PATH) {
        return too_long(name, err);
    }
    return 0;
}

/* Absolute name of the folder a file is in, or will be in. */
static int folder_of(const char *path, char out[PATH_MAX], struct sf_err *err) {
    char folder[CLI_PATH];
    SF_TRY(cli_path_beside(path, ".", folder, err));
    if (path[0] == '/') {
        const char *slash = strrchr(path, '/');
        if (snprintf(folder, sizeof folder, "%.*s", (int)(slash - path) + 1, path) >= CLI_PATH) {
            return too_long(path, err);
        }
    }
    if (realpath(folder, out) == NULL) {
        return sf_fail(err, SF_E_IO, "%s: cannot find its folder: %s", path, strerror(errno));
    }
    return 0;
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash == NULL ? path : slash + 1;
}

/* Length of the leading folders two absolute folder names share, without the slash behind. */
static size_t common_folders(const char *a, const char *b) {
    size_t same = 0;
    for (size_t i = 0;; i++) {
        bool a_ends = a[i] == '\0' || a[i] == '/', b_ends = b[i] == '\0' || b[i] == '/';
        if (a_ends && b_ends) {
            same = i;
        }
        if (a[i] != b[i] || a[i] == '\0') {
            return same;
        }
    }
}

int cli_path_relative(const char *from, const char *path, char out[CLI_PATH], struct sf_err *err) {
    char a[PATH_MAX], b[PATH_MAX];
    SF_TRY(folder_of(from, a, err));
    SF_TRY(folder_of(path, b, err));
    size_t same = common_folders(a, b), n = 0;
    if (same == 0) { /* nothing in common but the root: a climb that long would break when either moves */
        int m = snprintf(out, CLI_PATH, "%s/%s", strcmp(b, "/") == 0 ? "" : b, base_name(path));
        return m < 0 || m >= CLI_PATH ? too_long(path, err) : 0;
    }
    out[0] = '\0';
    for (size_t i = same; a[i] != '\0' && n + 4 < CLI_PATH; i++) {
        if (a[i] == '/' && a[i + 1] != '\0') {
            n += (size_t)snprintf(out + n, CLI_PATH - n, "../");
        }
    }
    const char *rest = b + same;
    rest += rest[0] == '/';
    int m = snprintf(out + n, CLI_PATH - n, "%s%s%s", rest, rest[0] != '\0' ? "/" : "", base_name(path));
    return m < 0 || (size_t)m >= CLI_PATH - n ? too_long(path, err) : 0;
}

static enum cli_file kind_of(const char *head, size_t n) {
    size_t first = 0;
    while (first < n && strchr(" \t\r\n", head[first]) != NULL && head[first] != '\0') {
        first++;
    }
    if (sf_prog_is_binary(head, n)) {
        return CLI_FILE_BINARY;
    }
    if (sf_prog_is_text(head, n)) {
        return CLI_FILE_ASSEMBLY;
    }
    return first < n && head[first] == '{' ? CLI_FILE_JSON : CLI_FILE_TEXT;
}

int cli_file_kind(const char *path, enum cli_file *out, struct sf_err *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return sf_fail_at(err, SF_E_IO, path, 0, 0, "cannot open file: %s", strerror(errno));
    }
    char head[4096];
    ssize_t n = read(fd, head, sizeof head);
    int why = errno;
    close(fd);
    if (n < 0) {
        return why == EISDIR ? sf_fail_at(err, SF_E_IO, path, 0, 0, "expected a file, found a directory")
                             : sf_fail_at(err, SF_E_IO, path, 0, 0, "cannot read file: %s", strerror(why));
    }
    *out = kind_of(head, (size_t)n);
    return 0;
}

int cli_prog_write(const char *path, const struct sf_prog *prog, struct sf_err *err) {
    struct sf_buf buf = {0};
    int rc = sf_prog_encode(prog, &buf, err);
    if (rc != 0) {
        sf_buf_free(&buf);
        return rc;
    }
    return cli_output(path, &buf, err);
}

int cli_trace_read(const char *path, struct sf_trace *out, struct sf_hash *file_hash, struct sf_err *err) {
    char *data = NULL;
    size_t bytes = 0;
    SF_TRY(sf_io_posix.read_all(sf_io_posix.self, path, TRACE_MAX_BYTES, &data, &bytes, err));
    int rc = sf_trace_decode(data, bytes, path, out, err);
    if (rc == 0) {
        sf_trace_sort(out);
        if (file_hash != NULL) {
            *file_hash = sf_hash_bytes(data, bytes);
        }
    }
    sf_free(data);
    return rc;
}

int cli_output(const char *path, struct sf_buf *buf, struct sf_err *err) {
    if (path == NULL) {
        return cli_print(buf, err);
    }
    int rc = buf->failed ? sf_fail_memory(err, path)
                         : sf_io_posix.write_all(sf_io_posix.self, path, buf->data, buf->bytes, err);
    sf_buf_free(buf);
    return rc;
}
