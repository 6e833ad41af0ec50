/* One job, every layout and kernel set: the same files, byte for byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/test_runtime_fixture.h"

static char *run_layout(struct bigram shape, bool reference, size_t *bytes) {
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    char dump[128], *data = NULL;
    snprintf(dump, sizeof dump, "%s", temp_path("layout"));
    const struct sf_rt_options options = {.steps = 6,
                                          .data_path = make_text(5000),
                                          .dump_path = dump,
                                          .reference_kernels = reference,
                                          .stall_limit = 20 * SF_PS_PER_S};
    if (bigram_build(&shape, &prog, &err) != SF_OK || sf_rt_run_threads(prog, &options, &err) != SF_OK) {
        fail_msg("%s", err.msg);
    }
    assert_int_equal(sf_io_posix.read_all(NULL, dump, (size_t)1 << 26, &data, bytes, NULL), 0);
    unlink(dump);
    sf_prog_free(prog);
    return data;
}

static void test_layouts_agree(void **state) {
    (void)state;
    static const struct bigram shapes[] = {
        {.dp = 1}, {.dp = 2}, {.dp = 4}, {.dp = 2, .zero = true}, {.dp = 4, .zero = true}};
    size_t bytes, other_bytes;
    char *data = run_layout(shapes[0], false, &bytes);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        char *other = run_layout(shapes[i], false, &other_bytes);
        assert_int_equal(other_bytes, bytes);
        assert_memory_equal(other, data, bytes);
        sf_free(other);
    }
    sf_free(data);
}

/* Reference kernels round elsewhere, so their file differs, but not by much. */
static void test_reference_kernels_agree_closely(void **state) {
    (void)state;
    size_t bytes, other_bytes;
    char *data = run_layout((struct bigram){.dp = 2}, false, &bytes);
    char *other = run_layout((struct bigram){.dp = 2}, true, &other_bytes);
    assert_int_equal(bytes, other_bytes);
    uint64_t header;
    memcpy(&header, data, sizeof header);
    size_t floats = (bytes - 8 - header) / sizeof(float);
    for (size_t i = 0; i < floats; i++) {
        float a, b;
        memcpy(&a, data + 8 + header + i * sizeof a, sizeof a);
        memcpy(&b, other + 8 + header + i * sizeof b, sizeof b);
        assert_true(a - b < 1e-3f && b - a < 1e-3f);
    }
    sf_free(other);
    sf_free(data);
}

/* The loss falls: the table learns which byte follows which. */
static void test_training_learns(void **state) {
    (void)state;
    struct sf_prog *prog = NULL;
    char dump[128];
    struct bigram shape = {.dp = 2, .zero = true};
    snprintf(dump, sizeof dump, "%s", temp_path("learn"));
    const struct sf_rt_options options = {.steps = 40, .data_path = make_text(3000), .dump_path = dump};
    assert_int_equal(bigram_build(&shape, &prog, NULL), 0);
    assert_int_equal(sf_rt_run_threads(prog, &options, NULL), 0);
    size_t n;
    float *loss = read_tensor(dump, "loss", &n);
    assert_int_equal(n, 40);
    assert_true(loss[0] > 5.0f && loss[39] < 0.5f * loss[0]);
    free(loss);
    unlink(dump);
    sf_prog_free(prog);
}

static int clean_up(void **state) {
    (void)state;
    unlink(temp_path("text"));
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layouts_agree),
        cmocka_unit_test(test_reference_kernels_agree_closely),
        cmocka_unit_test(test_training_learns),
    };
    return cmocka_run_group_tests(tests, NULL, clean_up);
}
