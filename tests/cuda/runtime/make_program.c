/* Writes a small program, of two ranks or as many as are named, for tests of the command line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/test_runtime_fixture.h"

int main(int argc, char **argv) {
    struct sf_prog *prog = NULL;
    struct sf_buf file = {0};
    struct sf_err err = {0};
    uint32_t ranks = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 2;
    int rc = argc >= 2 && argc <= 4 ? bigram_build(&(struct bigram){.dp = ranks, .zero = argc == 4}, &prog, &err)
                                    : sf_fail(&err, SF_E_USAGE, "usage: %s FILE [RANKS [zero]]", argv[0]);
    rc = rc == SF_OK ? sf_prog_encode(prog, &file, &err) : rc;
    rc = rc == SF_OK ? sf_io_posix.write_all(sf_io_posix.self, argv[1], file.data, file.bytes, &err) : rc;
    if (rc != SF_OK) {
        sf_err_print(&err);
    }
    sf_buf_free(&file);
    sf_prog_free(prog);
    return rc;
}
