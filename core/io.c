#include "core/io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/arena.h"

static int fail_errno(struct sf_err *err, const char *what, const char *path) {
    int code = errno;
    return sf_fail_at(err, SF_E_IO, path, 0, 0, "cannot %s: %s", what, strerror(code));
}

static int fail_too_large(struct sf_err *err, const char *path, size_t max_bytes) {
    return sf_fail_at(err, SF_E_INPUT, path, 0, 0, "file is too large: expected at most %zu bytes", max_bytes);
}

/* First allocation for a file: its size says how much to expect, but pipes and /proc report 0 and files grow. */
static int starting_capacity(int fd, const char *path, size_t max_bytes, size_t *capacity, struct sf_err *err) {
    struct stat st;
    if (fstat(fd, &st) != 0) {
        return fail_errno(err, "inspect file", path);
    }
    if (S_ISDIR(st.st_mode)) {
        return sf_fail_at(err, SF_E_IO, path, 0, 0, "expected a file, found a directory");
    }
    if (S_ISREG(st.st_mode) && (uintmax_t)st.st_size > max_bytes) {
        return fail_too_large(err, path, max_bytes);
    }
    *capacity = S_ISREG(st.st_mode) ? (size_t)st.st_size + 1 : 0;
    if (*capacity < 4096) {
        *capacity = 4096;
    }
    return 0;
}

/* Make room for one more byte and the terminator. */
static int make_room(struct sf_buf *b, size_t capacity, struct sf_err *err) {
    if (b->bytes + 1 < b->capacity) {
        return 0;
    }
    size_t wanted = b->capacity == 0 ? capacity + 1 : b->capacity * 2;
    char *data = sf_realloc(b->data, wanted, 1);
    if (data == NULL) {
        return sf_fail_memory(err, "a file's content");
    }
    b->data = data;
    b->capacity = wanted;
    return 0;
}

static int read_fd(int fd, const char *path, size_t max_bytes, struct sf_buf *b, struct sf_err *err) {
    size_t capacity = 0;
    SF_TRY(starting_capacity(fd, path, max_bytes, &capacity, err));
    for (;;) {
        SF_TRY(make_room(b, capacity, err));
        ssize_t n = read(fd, b->data + b->bytes, b->capacity - b->bytes - 1);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return fail_errno(err, "read file", path);
        }
        b->bytes += (size_t)n;
        if (b->bytes > max_bytes) {
            return fail_too_large(err, path, max_bytes);
        }
        if (n == 0) {
            b->data[b->bytes] = '\0';
            return 0;
        }
    }
}

static int posix_read_all(void *self, const char *path, size_t max_bytes, char **data, size_t *bytes,
                          struct sf_err *err) {
    (void)self;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return fail_errno(err, "open file", path);
    }
    struct sf_buf b = {0};
    int rc = read_fd(fd, path, max_bytes, &b, err);
    close(fd);
    if (rc != 0) {
        sf_buf_free(&b);
        return rc;
    }
    *data = b.data;
    *bytes = b.bytes;
    return 0;
}

static int write_fd(int fd, const char *data, size_t bytes) {
    while (bytes > 0) {
        ssize_t n = write(fd, data, bytes);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return -1;
        }
        data += n;
        bytes -= (size_t)n;
    }
    return 0;
}

/* Folder of `path` as a string of its own, "." when there is none. */
static char *folder_of(const char *path) {
    const char *slash = strrchr(path, '/');
    size_t n = slash == NULL ? 0 : slash == path ? 1 : (size_t)(slash - path);
    char *folder = sf_malloc(n + 2);
    if (folder != NULL) {
        memcpy(folder, n > 0 ? path : ".", n > 0 ? n : 1);
        folder[n > 0 ? n : 1] = '\0';
    }
    return folder;
}

/* A rename survives a crash only when its folder is on disk too. File systems that cannot sync folders say EINVAL. */
static int sync_folder(const char *folder, const char *path, struct sf_err *err) {
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return fail_errno(err, "open the folder of the file", path);
    }
    int rc = fsync(fd) != 0 && errno != EINVAL ? fail_errno(err, "sync the folder of the file", path) : 0;
    close(fd);
    return rc;
}

/* A new file gets the usual permissions under the umask (see create_beside); one that is replaced keeps its own. */
static int copy_mode(int fd, const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode) ? fchmod(fd, st.st_mode & 0777) : 0;
}

static int fill_and_rename(int fd, const char *temp, const char *path, const void *data, size_t bytes,
                           struct sf_err *err) {
    int rc = 0;
    if (write_fd(fd, data, bytes) != 0 || copy_mode(fd, path) != 0 || fsync(fd) != 0) {
        rc = fail_errno(err, "write file", path);
    }
    if (close(fd) != 0 && rc == 0) {
        rc = fail_errno(err, "write file", path);
    }
    if (rc == 0 && rename(temp, path) != 0) {
        rc = fail_errno(err, "put the new file in place", path);
    }
    return rc;
}

/* A temporary file in the folder of `path`, under a name that no other process or thread uses. */
static int create_beside(const char *path, char *temp, size_t size) {
    static atomic_uint serial;
    int fd;
    do {
        snprintf(temp, size, "%s.tmp-%ld-%u", path, (long)getpid(), atomic_fetch_add(&serial, 1));
        fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    } while (fd < 0 && errno == EEXIST);
    return fd;
}

static int fail_directory(const char *path, struct sf_err *err) {
    return sf_fail_at(err, SF_E_IO, path, 0, 0, "expected a file, found a directory");
}

static int replace_file(const char *path, const void *data, size_t bytes, struct sf_err *err) {
    size_t size = strlen(path) + 48;
    char *folder = folder_of(path);
    char *temp = sf_malloc(size);
    int rc = 0;
    if (folder == NULL || temp == NULL) {
        rc = sf_fail_memory(err, "a file name");
        goto out;
    }
    int fd = create_beside(path, temp, size);
    if (fd < 0) {
        rc = fail_errno(err, "create a temporary file beside it", path);
        goto out;
    }
    rc = fill_and_rename(fd, temp, path, data, bytes, err);
    if (rc != 0) {
        unlink(temp);
        goto out;
    }
    rc = sync_folder(folder, path, err);
out:
    sf_free(folder);
    sf_free(temp);
    return rc;
}

static int write_in_place(const char *path, const void *data, size_t bytes, struct sf_err *err) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    int failed = fd < 0 || write_fd(fd, data, bytes) != 0;
    int rc = failed ? fail_errno(err, "write file", path) : 0;
    if (fd >= 0 && close(fd) != 0 && rc == 0) {
        rc = fail_errno(err, "write file", path);
    }
    return rc;
}

static int posix_write_all(void *self, const char *path, const void *data, size_t bytes, struct sf_err *err) {
    (void)self;
    struct stat st;
    char target[PATH_MAX];
    if (stat(path, &st) != 0) {
        return replace_file(path, data, bytes, err);
    }
    if (S_ISDIR(st.st_mode)) {
        return fail_directory(path, err);
    }
    if (!S_ISREG(st.st_mode)) { /* replacing /dev/stdout would help nobody */
        return write_in_place(path, data, bytes, err);
    }
    return replace_file(realpath(path, target) != NULL ? target : path, data, bytes, err);
}

int sf_output_check(const char *path, struct sf_err *err) {
    struct stat st;
    if (path == NULL) {
        return 0;
    }
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        return S_ISDIR(st.st_mode) ? fail_directory(path, err) : 0;
    }
    char *folder = folder_of(path);
    if (folder == NULL) {
        return sf_fail_memory(err, "a file name");
    }
    int rc = access(folder, W_OK | X_OK) == 0 ? 0 : fail_errno(err, "write a file in this folder", path);
    sf_free(folder);
    return rc;
}

const struct sf_io sf_io_posix = {NULL, posix_read_all, posix_write_all};

/* Counted from the first reading: the range of sf_time_ps is shorter than the uptime of many a machine. */
static sf_time_ps host_now(void *self) {
    (void)self;
    static _Atomic int64_t origin_s;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    int64_t origin = 0;
    if (atomic_compare_exchange_strong(&origin_s, &origin, (int64_t)t.tv_sec + 1)) {
        origin = (int64_t)t.tv_sec + 1;
    }
    return ((int64_t)t.tv_sec + 1 - origin) * SF_PS_PER_S + (sf_time_ps)t.tv_nsec * 1000;
}

static sf_time_ps host_thread_cpu(void *self) {
    (void)self;
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (sf_time_ps)t.tv_sec * SF_PS_PER_S + (sf_time_ps)t.tv_nsec * 1000;
}

const struct sf_clock sf_clock_host = {NULL, host_now, host_thread_cpu};

/* Room for `more` bytes and a terminator. */
static int reserve(struct sf_buf *b, size_t more) {
    size_t needed;
    if (b->failed || __builtin_add_overflow(b->bytes, more, &needed) || needed == SIZE_MAX) {
        b->failed = 1;
        return -1;
    }
    if (needed < b->capacity) {
        return 0;
    }
    size_t capacity = b->capacity <= SIZE_MAX / 2 && b->capacity * 2 > needed + 1 ? b->capacity * 2 : needed + 1;
    capacity = capacity < 256 ? 256 : capacity;
    char *data = sf_realloc(b->data, capacity, 1);
    if (data == NULL) {
        b->failed = 1;
        return -1;
    }
    b->data = data;
    b->capacity = capacity;
    return 0;
}

void sf_buf_write(struct sf_buf *b, const void *data, size_t bytes) {
    if (reserve(b, bytes) != 0) {
        return;
    }
    if (bytes > 0) {
        memcpy(b->data + b->bytes, data, bytes);
    }
    b->bytes += bytes;
    b->data[b->bytes] = '\0';
}

void sf_buf_printf(struct sf_buf *b, const char *fmt, ...) {
    char small[256];
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(small, sizeof small, fmt, args);
    if (n < 0) {
        b->failed = 1;
    } else if ((size_t)n < sizeof small) {
        sf_buf_write(b, small, (size_t)n);
    } else if (reserve(b, (size_t)n) == 0) {
        vsnprintf(b->data + b->bytes, (size_t)n + 1, fmt, again);
        b->bytes += (size_t)n;
    }
    va_end(again);
    va_end(args);
}

void sf_buf_free(struct sf_buf *b) {
    sf_free(b->data);
    *b = (struct sf_buf){0};
}
