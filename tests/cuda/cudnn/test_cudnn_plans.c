/* Attention plans, finished for a device that is only described: argv[1] is its properties as JSON. No GPU is needed,
 * nor a driver: a library in this folder stands in for it. Exit 77, and the reason, where cuDNN is missing. */
#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/arena.h"
#include "core/io.h"
#include "kernels/cuda/attn_cudnn_plan.h"

enum { FORWARD, BACKWARD, SAME_BITS, WAYS };

static struct {
    struct sfi_attn_target target;
    bool hopper;
} device;

static const struct model {
    char name[24];
    int64_t batch, seq, heads, kv_heads, head_dim;
    bool hopper_only; /* not built elsewhere: to save time */
} models[] = {
    {"GPT-2 124M", 8, 1024, 12, 12, 64, false},   {"Qwen2.5 0.5B", 1, 2048, 14, 2, 64, true},
    {"Qwen2.5 1.5B", 1, 4096, 12, 2, 128, true},  {"Llama 3 8B", 1, 8192, 32, 8, 128, false},
    {"head size 256", 2, 1024, 8, 4, 256, false}, {"odd sequence", 3, 333, 6, 2, 96, true},
    {"short sequence", 1, 77, 4, 4, 80, true},
};

static struct sf_call call_of(const struct model *m, int way) {
    return (struct sf_call){
        .kind = way == FORWARD ? SF_CALL_ATTN_FWD : SF_CALL_ATTN_BWD,
        .dtype = SF_BF16,
        .dims = {m->batch, m->seq, m->heads, m->kv_heads, m->head_dim, (m->heads + 2 * m->kv_heads) * m->head_dim}};
}

/* The same text after loading and saving again, and no more memory than was said. */
static void check_reload(const struct sfi_attn_plan *plan, size_t limit, struct sf_buf *text) {
    struct sf_err err = {0};
    struct sfi_attn_plan *again = NULL;
    struct sf_buf copy = {0};
    assert_int_equal(sfi_attn_plan_save(plan, text, &err), 0);
    assert_int_equal(sfi_attn_plan_load(&device.target, text->data, text->bytes, limit, &again, &err), 0);
    assert_int_equal(sfi_attn_plan_workspace(again), sfi_attn_plan_workspace(plan));
    assert_int_equal(sfi_attn_plan_save(again, &copy, &err), 0);
    assert_int_equal(copy.bytes, text->bytes);
    assert_memory_equal(copy.data, text->data, text->bytes);
    sfi_attn_plan_destroy(again);
    sf_buf_free(&copy);
    if (sfi_attn_plan_workspace(plan) > 0) {
        assert_int_equal(sfi_attn_plan_load(&device.target, text->data, text->bytes, sfi_attn_plan_workspace(plan) - 1,
                                            &again, &err),
                         SF_E_NOPLAN);
        assert_null(again);
    }
}

static void check_plan(const struct model *m, int way) {
    static const char *const ways[] = {"forward", "backward", "backward, same bits"};
    struct sf_err err = {0};
    struct sfi_attn_shape shape;
    struct sfi_attn_graph graph;
    struct sfi_attn_area area;
    struct sfi_attn_plan *plan = NULL;
    struct sf_buf text = {0};
    const struct sf_call call = call_of(m, way);
    bool expected = device.hopper || m->head_dim <= 128 || way == FORWARD;
    assert_true(sfi_attn_shape_of(&call, way == SAME_BITS, &shape));
    sfi_attn_graph_of(&shape, &graph);
    sfi_attn_area_of(&shape, &area);
    int rc = sfi_attn_plan_build(&device.target, &graph, way == SAME_BITS, area.engine_bytes, &plan, &err);
    if (!expected) {
        assert_int_equal(rc, SF_E_NOPLAN);
        assert_non_null(strstr(err.msg, "refuses"));
        print_message("%-15s %-20s refused, as known\n", m->name, ways[way]);
        return;
    }
    if (rc != 0) {
        fail_msg("%s, %s: %s", m->name, ways[way], err.msg);
    }
    assert_in_range(sfi_attn_plan_workspace(plan), 0, area.engine_bytes);
    assert_true(area.bytes <= SFI_ATTN_WORK_GOAL || shape.chunk_heads == shape.heads / shape.kv_heads);
    check_reload(plan, area.engine_bytes, &text);
    print_message("%-15s %-20s %2lld x %6.1f MB of work area, %6.1f MB asked for by cuDNN, %6.1f kB of text\n", m->name,
                  ways[way], (long long)sfi_attn_chunks(&shape), (double)area.bytes / 1e6,
                  (double)sfi_attn_plan_workspace(plan) / 1e6, (double)text.bytes / 1e3);
    sfi_attn_plan_destroy(plan);
    sf_buf_free(&text);
}

static void test_models(void **unused) {
    (void)unused;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        for (int way = 0; way < WAYS && (device.hopper || !models[i].hopper_only); way++) {
            check_plan(&models[i], way);
        }
    }
}

static struct sfi_attn_plan *small_plan(struct sf_err *err) {
    struct sfi_attn_shape shape;
    struct sfi_attn_graph graph;
    struct sfi_attn_plan *plan = NULL;
    const struct model m = {"", 1, 256, 2, 2, 64, false};
    const struct sf_call call = call_of(&m, FORWARD);
    assert_true(sfi_attn_shape_of(&call, false, &shape));
    sfi_attn_graph_of(&shape, &graph);
    assert_int_equal(sfi_attn_plan_build(&device.target, &graph, false, SIZE_MAX, &plan, err), 0);
    return plan;
}

/* Damage that the digest of the file would have found first. */
static void test_damaged_text(void **unused) {
    (void)unused;
    struct sf_err err = {0};
    struct sf_buf text = {0};
    struct sfi_attn_plan *plan = small_plan(&err), *other = NULL;
    assert_int_equal(sfi_attn_plan_save(plan, &text, &err), 0);
    assert_int_equal(sfi_attn_plan_load(&device.target, text.data, text.bytes / 2, SIZE_MAX, &other, &err),
                     SF_E_NOPLAN);
    assert_int_equal(sfi_attn_plan_load(&device.target, "{}", 2, SIZE_MAX, &other, &err), SF_E_NOPLAN);
    assert_int_equal(sfi_attn_plan_load(&device.target, "", 0, SIZE_MAX, &other, &err), SF_E_NOPLAN);
    assert_null(other);
    sfi_attn_plan_destroy(plan);
    sf_buf_free(&text);
}

static void test_refusals(void **unused) {
    (void)unused;
    struct sf_err err = {0};
    void *none = NULL;
    struct sfi_attn_plan *plan = NULL;
    struct sfi_attn_shape shape;
    struct sfi_attn_graph graph;
    const struct sf_call call = call_of(&models[0], BACKWARD);
    assert_int_equal(sfi_attn_device_create("{\"warpSize\": ", 13, &none, &err), SF_E_NOPLAN);
    assert_null(none);
    assert_true(sfi_attn_shape_of(&call, false, &shape));
    sfi_attn_graph_of(&shape, &graph);
    graph.ops[3].out = graph.ops[3].a; /* not what attention looks like */
    assert_int_equal(sfi_attn_plan_build(&device.target, &graph, false, SIZE_MAX, &plan, &err), SF_E_NOPLAN);
    assert_null(plan);
    sfi_attn_plan_destroy(NULL);
}

static int set_up(const char *path) {
    struct sf_err err = {0};
    char *text = NULL;
    size_t bytes;
    if (!dlopen(SF_STUB_DIR "/libcuda.so.1", RTLD_NOW | RTLD_GLOBAL)) { /* cuDNN finds it by this name */
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    int rc = sf_io_posix.read_all(NULL, path, 1 << 16, &text, &bytes, &err);
    rc = rc == 0 ? sfi_attn_device_create(text, bytes, &device.target.device, &err) : rc;
    device.hopper = rc == 0 && strstr(text, "\"deviceVer\": 900,") != NULL;
    if (rc != 0) {
        fprintf(stderr, "%s\n", err.msg);
    }
    sf_free(text);
    return rc;
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_damaged_text),
        cmocka_unit_test(test_refusals),
    };
    if (argc != 2) {
        fprintf(stderr, "usage: %s device.json\n", argv[0]);
        return 2;
    }
    int rc = set_up(argv[1]);
    rc = rc == 0 ? cmocka_run_group_tests_name(argv[1], tests, NULL, NULL) : rc;
    sfi_attn_device_destroy(device.target.device);
    return rc;
}
