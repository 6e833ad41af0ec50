/* Files and buffers: limits, atomic replacement, errors that leave nothing behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/arena.h"
#include "core/io.h"

static char folder[64], path[96];

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/sf_test_io_XXXXXX");
    snprintf(path, sizeof path, "%s/file", mkdtemp(folder) != NULL ? folder : "?");
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    unlink(path);
    return rmdir(folder); /* fails when a test left a file behind */
}

static int read_file(const char *name, size_t limit, char **data, size_t *bytes, struct sf_err *err) {
    return sf_io_posix.read_all(NULL, name, limit, data, bytes, err);
}

static int write_file(const char *name, const char *text, struct sf_err *err) {
    return sf_io_posix.write_all(NULL, name, text, strlen(text), err);
}

static int entries(void) {
    DIR *d = opendir(folder);
    int n = 0;
    while (readdir(d) != NULL) {
        n++;
    }
    closedir(d);
    return n - 2;
}

static void expect_content(const char *expected) {
    char *data = NULL;
    size_t bytes = 0;
    assert_int_equal(read_file(path, 100, &data, &bytes, NULL), 0);
    assert_int_equal(bytes, strlen(expected));
    assert_string_equal(data, expected);
    sf_free(data);
}

static void test_round_trip(void **state) {
    (void)state;
    assert_int_equal(write_file(path, "one", NULL), 0);
    expect_content("one");
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(write_file(path, "two!", NULL), 0);
    expect_content("two!");
    assert_int_equal(write_file(path, "", NULL), 0);
    expect_content("");
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640); /* a replaced file keeps its mode */
    assert_int_equal(entries(), 1);
}

static void test_refusals(void **state) {
    (void)state;
    struct sf_err err = {0};
    char *data = NULL;
    size_t bytes = 0;
    assert_int_equal(read_file(folder, 100, &data, &bytes, &err), SF_E_IO);
    assert_string_equal(err.msg, "expected a file, found a directory");
    assert_string_equal(err.file, folder);
    assert_int_equal(read_file("/nonexistent/x", 100, &data, &bytes, &err), SF_E_IO);
    assert_non_null(strstr(err.msg, "No such file"));
    assert_int_equal(write_file(path, "12345", NULL), 0);
    assert_int_equal(read_file(path, 4, &data, &bytes, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "at most 4 bytes"));
    assert_int_equal(read_file(path, 5, &data, &bytes, &err), 0);
    sf_free(data);
    assert_int_equal(write_file("/nonexistent/x", "y", &err), SF_E_IO);
    sf_alloc_fail_after(1);
    int rc = read_file(path, 5, &data, &bytes, &err), rc2 = write_file(path, "new", &err);
    sf_alloc_fail_after(0);
    assert_int_equal(rc, SF_E_INTERNAL);
    assert_int_equal(rc2, SF_E_INTERNAL);
    expect_content("12345");
}

/* Pipes and /proc say that they hold nothing. */
static void test_files_without_a_size(void **state) {
    (void)state;
    struct sf_err err = {0};
    char *data = NULL, name[32];
    size_t bytes = 0;
    assert_int_equal(read_file("/proc/self/status", 1 << 20, &data, &bytes, NULL), 0);
    assert_true(bytes > 100 && data[bytes] == '\0');
    sf_free(data);
    int ends[2];
    static char block[50000];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], block, sizeof block), (ssize_t)sizeof block);
    snprintf(name, sizeof name, "/dev/fd/%d", ends[0]);
    assert_int_equal(read_file(name, 40000, &data, &bytes, &err), SF_E_INPUT);
    assert_int_equal(write(ends[1], block, 10000), 10000);
    close(ends[1]);
    assert_int_equal(read_file(name, 40000, &data, &bytes, &err), 0);
    assert_true(bytes >= 10000);
    sf_free(data);
    close(ends[0]);
}

/* The disk refuses: the old file stays, the temporary one goes. */
static void test_failed_write(void **state) {
    (void)state;
    struct sf_err err = {0};
    struct rlimit old, small = {.rlim_cur = 4096};
    static char large[20000];
    memset(large, 'x', sizeof large - 1);
    assert_int_equal(write_file(path, "kept", NULL), 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small.rlim_max = old.rlim_max;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int rc = write_file(path, large, &err);
    setrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, handler);
    assert_int_equal(rc, SF_E_IO);
    assert_non_null(strstr(err.msg, "cannot write file"));
    assert_int_equal(entries(), 1);
    expect_content("kept");
    char inside[128];
    snprintf(inside, sizeof inside, "%s/file/below", folder);
    assert_int_equal(write_file(inside, "x", &err), SF_E_IO);
    assert_int_equal(write_file(folder, "x", &err), SF_E_IO); /* a folder is not replaced by a file */
    unlink(path);
    assert_int_equal(entries(), 0);
}

/* Replacing the link or the device would lose it. */
static void test_links_and_devices(void **state) {
    (void)state;
    char link[sizeof path + 8];
    struct stat st;
    struct sf_err err = {0};
    snprintf(link, sizeof link, "%s.link", path);
    assert_int_equal(write_file(path, "old", NULL), 0);
    assert_int_equal(symlink(path, link), 0);
    assert_int_equal(write_file(link, "new", NULL), 0);
    expect_content("new");
    assert_true(lstat(link, &st) == 0 && S_ISLNK(st.st_mode));
    assert_int_equal(entries(), 2);
    unlink(link);
    assert_int_equal(symlink("/dev/null", link), 0);
    assert_int_equal(write_file(link, "gone", NULL), 0);
    assert_true(stat(link, &st) == 0 && S_ISCHR(st.st_mode));
    unlink(link);
    assert_int_equal(symlink("/dev/full", link), 0);
    assert_int_equal(write_file(link, "gone", &err), SF_E_IO);
    assert_non_null(strstr(err.msg, "cannot write file"));
    unlink(link);
}

static void test_outputs_are_refused_before_work(void **state) {
    (void)state;
    char name[sizeof path + 16];
    struct sf_err err = {0};
    assert_int_equal(sf_output_check(NULL, NULL), 0);
    assert_int_equal(sf_output_check(path, NULL), 0);
    assert_int_equal(sf_output_check("/dev/null", NULL), 0);
    assert_int_equal(sf_output_check(folder, &err), SF_E_IO);
    assert_non_null(strstr(err.msg, "found a directory"));
    snprintf(name, sizeof name, "%s/nowhere/file", folder);
    assert_int_equal(sf_output_check(name, &err), SF_E_IO);
    assert_string_equal(err.file, name);
    assert_non_null(strstr(err.msg, "No such file"));
}

static void test_clock(void **state) {
    (void)state;
    const struct sf_clock *c = &sf_clock_host;
    sf_time_ps a = c->now(c->self), b = c->now(c->self), cpu = c->thread_cpu(c->self);
    assert_true(a >= 0 && b >= a && b - a < SF_PS_PER_S);
    assert_true(cpu > 0 && c->thread_cpu(c->self) >= cpu);
}

static void test_buffer(void **state) {
    (void)state;
    struct sf_buf b = {0};
    char expected[4000] = "";
    size_t at = 0;
    for (int i = 0; i < 200; i++) {
        sf_buf_printf(&b, "%d:%.*s;", i, i % 10, "abcdefghij");
        at += (size_t)snprintf(expected + at, sizeof expected - at, "%d:%.*s;", i, i % 10, "abcdefghij");
    }
    assert_false(b.failed);
    assert_int_equal(b.bytes, at);
    assert_string_equal(b.data, expected);
    sf_buf_printf(&b, "%s%s", expected, expected); /* longer than the small buffer inside */
    assert_int_equal(b.bytes, 3 * at);
    assert_string_equal(b.data + 2 * at, expected);
    sf_buf_write(&b, "\0z", 2);
    assert_int_equal(b.bytes, 3 * at + 2);
    sf_alloc_fail_after(1);
    for (int i = 0; i < 3; i++) {
        sf_buf_printf(&b, "%s%s%s", expected, expected, expected);
    }
    sf_alloc_fail_after(0);
    assert_true(b.failed);
    size_t bytes = b.bytes;
    sf_buf_write(&b, "x", 1); /* stays failed */
    assert_int_equal(b.bytes, bytes);
    sf_buf_free(&b);
    assert_null(b.data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_files_without_a_size),
        cmocka_unit_test(test_failed_write),
        cmocka_unit_test(test_links_and_devices),
        cmocka_unit_test(test_outputs_are_refused_before_work),
        cmocka_unit_test(test_clock),
        cmocka_unit_test(test_buffer),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
