/* A plain driver for fuzz targets, where libFuzzer is not at hand: the good inputs, then random changes of them, from a
 * fixed seed, until the time is up. What made the target fail is kept in a file.
 *
 *   fuzz_program SECONDS     fuzz
 *   fuzz_program FILE...     run these inputs, for instance a kept one
 *   fuzz_program --seeds DIR write the good inputs, for libFuzzer to start from */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/arena.h"
#include "core/rng.h"
#include "tests/fuzz/fuzz.h"

#define MAX_BYTES ((size_t)1 << 20)
#define PATIENCE_S 20 /* an input that takes longer hangs */
#define LOOK_EVERY 16 /* inputs between two looks at the clock */

/* Provided by sanitizers, absent otherwise. */
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static struct sf_buf current;
static char kept[64];

static void keep_input(void) {
    static const char text[] = "input that failed is kept in ";
    int fd = open(kept, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0 || write(fd, current.data, current.bytes) < 0 || close(fd) != 0 ||
        write(STDERR_FILENO, text, sizeof text - 1) < 0 || write(STDERR_FILENO, kept, strlen(kept)) < 0 ||
        write(STDERR_FILENO, "\n", 1) < 0) {
        _exit(2);
    }
}

static void on_signal(int number) {
    (void)number;
    keep_input();
    _exit(1);
}

static void watch(const char *self) {
    const char *slash = strrchr(self, '/');
    snprintf(kept, sizeof kept, "%.40s.failed", slash != NULL ? slash + 1 : self);
    signal(SIGABRT, on_signal);
    signal(SIGALRM, on_signal);
    if (__sanitizer_set_death_callback) {
        __sanitizer_set_death_callback(keep_input);
        return;
    }
    signal(SIGSEGV, on_signal);
    signal(SIGBUS, on_signal);
    signal(SIGFPE, on_signal);
    signal(SIGILL, on_signal);
}

/* The target gets a block of exactly the input's size, so that a sanitizer sees every byte read beyond it. */
static void run_current(void) {
    uint8_t *exact = malloc(current.bytes > 0 ? current.bytes : 1);
    if (exact == NULL || current.failed) {
        abort();
    }
    memcpy(exact, current.data != NULL ? current.data : "", current.bytes);
    LLVMFuzzerTestOneInput(exact, current.bytes);
    free(exact);
}

static size_t below(struct sf_rng *r, size_t n) {
    return n == 0 ? 0 : (size_t)(sf_rng_u64(r) % n);
}

/* Replace `old` bytes at `at` by others. */
static void replace_range(size_t at, size_t old, const void *text, size_t bytes) {
    char copy[4096];
    if (bytes > sizeof copy || current.bytes + bytes > MAX_BYTES) {
        return;
    }
    memcpy(copy, text, bytes); /* it may be part of what moves */
    struct sf_buf tail = {0};
    sf_buf_write(&tail, current.data + at + old, current.bytes - at - old);
    current.bytes = at;
    sf_buf_write(&current, copy, bytes);
    sf_buf_write(&current, tail.data, tail.bytes);
    sf_buf_free(&tail);
}

static void insert_word(struct sf_rng *r, size_t at) {
    static const char *const words[] = {"0",     "-1",   "99999999999999999999",
                                        "1e999", "nan",  "{}",
                                        "[]",    "\"",   "\n",
                                        ": ",    "- ",   "&a ",
                                        "*a",    "!t",   "#",
                                        "\t",    "~",    "{",
                                        "]",     "null", "true",
                                        ",",     "---",  "\xff"};
    const char *word = words[below(r, sizeof words / sizeof *words)];
    size_t left = current.bytes - at, old = below(r, 4);
    replace_range(at, old < left ? old : left, word, strlen(word));
}

/* A number where a count, an offset or a size may stand. */
static void set_number(struct sf_rng *r, size_t at) {
    static const uint64_t numbers[] = {0,        1,         0x7f,       0xff,           0xffff,    1u << 16,
                                       1u << 20, INT32_MAX, UINT32_MAX, UINT32_MAX - 1, INT64_MAX, UINT64_MAX};
    uint64_t value = numbers[below(r, sizeof numbers / sizeof *numbers)];
    size_t width = (size_t)1 << below(r, 4), left = current.bytes - at;
    memcpy(current.data + at, &value, width < left ? width : left);
}

static void change(struct sf_rng *r) {
    size_t at = below(r, current.bytes), left = current.bytes - at, length = below(r, left < 64 ? left : 64) + 1;
    if (current.bytes == 0) {
        sf_buf_write(&current, "x", 1);
        return;
    }
    switch (below(r, 8)) {
    case 0:
    case 1:
        current.data[at] = (char)(current.data[at] ^ 1 << below(r, 8));
        break;
    case 2:
        current.data[at] = (char)sf_rng_u64(r);
        break;
    case 3:
        replace_range(at, length < left ? length : left, "", 0);
        break;
    case 4:
        replace_range(below(r, current.bytes), 0, current.data + at, length < left ? length : left);
        break;
    case 5:
        insert_word(r, at);
        break;
    case 6:
        set_number(r, at);
        break;
    default:
        current.bytes = below(r, 8) == 0 ? at : current.bytes;
    }
}

static size_t seeds_n(void) {
    size_t n = 0;
    while (current.bytes = 0, fuzz_seed(n, &current)) {
        run_current();
        n++;
    }
    return n;
}

static uint64_t fuzz(double seconds, size_t seeds) {
    struct sf_rng root = sf_rng_seed(1);
    sf_time_ps end = sf_clock_host.now(NULL) + sf_s_to_ps(seconds);
    uint64_t i = 0;
    for (; i % LOOK_EVERY != 0 || sf_clock_host.now(NULL) < end; i++) {
        struct sf_rng r = sf_rng_split(&root, i);
        current.bytes = 0;
        fuzz_seed(below(&r, seeds), &current);
        for (size_t changes = 1 + below(&r, 6); changes > 0; changes--) {
            change(&r);
        }
        alarm(PATIENCE_S);
        run_current();
    }
    return i;
}

static int run_file(const char *path) {
    struct sf_err err = {0};
    char *data = NULL;
    size_t bytes = 0;
    if (sf_io_posix.read_all(sf_io_posix.self, path, MAX_BYTES, &data, &bytes, &err) != 0) {
        sf_err_print(&err);
        return err.code;
    }
    current.bytes = 0;
    sf_buf_write(&current, data, bytes);
    sf_free(data);
    run_current();
    return 0;
}

static int write_seeds(const char *folder) {
    struct sf_err err = {0};
    char path[512];
    for (size_t i = 0; current.bytes = 0, fuzz_seed(i, &current); i++) {
        snprintf(path, sizeof path, "%.480s/seed%zu", folder, i);
        if (sf_io_posix.write_all(sf_io_posix.self, path, current.data, current.bytes, &err) != 0) {
            sf_err_print(&err);
            return err.code;
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--seeds") == 0) {
        return write_seeds(argv[2]);
    }
    char *end = NULL;
    double seconds = argc > 1 ? strtod(argv[1], &end) : 1;
    bool files = argc > 1 && *end != '\0';
    watch(argv[0]);
    for (int i = 1; files && i < argc; i++) {
        if (run_file(argv[i]) != 0) {
            return 1;
        }
    }
    if (!files) {
        size_t seeds = seeds_n();
        printf("%zu good inputs, %llu changed ones\n", seeds, (unsigned long long)fuzz(seconds, seeds));
    }
    sf_buf_free(&current);
    return 0;
}
