/* The injected world: files and clocks. Production passes sf_io_posix and sf_clock_host; tests pass failing or virtual
 * ones. Nothing else in core, topo, sim or planner opens a file or reads a clock. */
#ifndef SF_CORE_IO_H
#define SF_CORE_IO_H

#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "core/units.h"

struct sf_io {
    void *self;
    /* Read a whole file into *data (sf_free it), NUL-terminated beyond *bytes. Refuses files over max_bytes before it
     * allocates. SF_E_IO when the file cannot be read, SF_E_INPUT when it is too large. */
    int (*read_all)(void *self, const char *path, size_t max_bytes, char **data, size_t *bytes, struct sf_err *err);
    /* Replace `path` atomically: temporary file in the same folder, fsync, rename. Readers see old or new, never a torn
     * file; on error the old file stays and no temporary is left. A link is followed, a device or pipe written to. */
    int (*write_all)(void *self, const char *path, const void *data, size_t bytes, struct sf_err *err);
};

extern const struct sf_io sf_io_posix;

/* Refuse an output that could not be written (SF_E_IO), before work that would then be lost. NULL: no output. */
int sf_output_check(const char *path, struct sf_err *err);

struct sf_clock {
    void *self;
    sf_time_ps (*now)(void *self);        /* monotonic wall time */
    sf_time_ps (*thread_cpu)(void *self); /* CPU time of the calling thread */
};

extern const struct sf_clock sf_clock_host;

/* Growable byte buffer for building outputs in memory before one atomic write. On out-of-memory `failed` is set and
 * further writes do nothing: check once at the end. Free with sf_buf_free. */
struct sf_buf {
    char *data;
    size_t bytes, capacity;
    int failed;
};

void sf_buf_write(struct sf_buf *b, const void *data, size_t bytes);
void sf_buf_printf(struct sf_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void sf_buf_free(struct sf_buf *b);

#endif
