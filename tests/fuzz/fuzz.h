/* A fuzz target is one file fuzz_<name>.c: a function that takes any bytes, in libFuzzer's form, and good inputs to
 * start from. It is linked with libFuzzer (see tests/CMakeLists.txt) or with fuzz_main.c, a driver of our own. */
#ifndef SF_TESTS_FUZZ_H
#define SF_TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/io.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Append the i-th good input; false when there is none. */
bool fuzz_seed(size_t i, struct sf_buf *out);

/* Say what is wrong and abort. */
void fuzz_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

/* A refusal is SF_E_INPUT (or SF_E_NOPLAN, SF_E_IO: of a file that the input names) and says why; anything else fails.
 * `made`: whether a result was handed out, which must be exactly when rc is 0. */
void fuzz_check_result(int rc, const struct sf_err *err, bool made);

/* Files for readers that open them by name: the first one holds the input, the others are good; nothing else exists but
 * the catalog. */
struct fuzz_file {
    const char *path;
    const void *data;
    size_t bytes;
};
struct fuzz_files {
    const struct fuzz_file *at;
    size_t n;
};
struct sf_io fuzz_io(struct fuzz_files *files);

/* Good files, the same everywhere. */
extern const char fuzz_cluster_yaml[], fuzz_config_json[], fuzz_scenario_yaml[], fuzz_plan_yaml[], fuzz_kernels_yaml[];

/* The program of a small scenario, compiled once; its text and its binary form. */
struct sf_prog;
const struct sf_prog *fuzz_program(void);

#endif
