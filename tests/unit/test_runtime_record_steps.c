/* Once a step was launched: what the recording device then refuses, and until when. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/test_runtime_stage.h"

static struct sf_prog *begin(struct stage *st, struct bigram shape, bool is_virtual) {
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    const struct sf_rt_options options = {.steps = STEPS, .data_path = make_text(4096)};
    if (bigram_build(&shape, &prog, &err) != SF_OK) {
        fail_msg("%s", err.msg);
    }
    open_stage(st, prog, &options, &(struct sfi_record_options){.execute = true});
    if (capture(st, is_virtual) != 0) {
        fail_msg("%s", st->err.msg);
    }
    return prog;
}

static void end(struct stage *st, struct sf_prog *prog) {
    close_stage(st);
    sf_prog_free(prog);
}

static void expect_refused(struct stage *st, int rc, const char *why) {
    assert_int_equal(rc, SF_E_INTERNAL);
    if (!strstr(st->err.msg, why)) {
        fail_msg("expected \"%s\", found \"%s\"", why, st->err.msg);
    }
    st->err = (struct sf_err){0};
}

static void expect_all_refused(struct stage *st) {
    const struct sfi_gpu_api *a = &st->api;
    const struct sf_call call = {.kind = SF_CALL_ZERO, .dims = {1}};
    struct sfi_gpu_rank *r = &st->sessions[0]->ranks[0];
    void *out, *other;
    expect_refused(st, a->alloc(a->self, 0, 64, &out, &st->err), "device memory is allocated after the first step");
    expect_refused(st, a->pin(a->self, 64, &out, &other, &st->err), "host memory is pinned after the first step");
    expect_refused(st, a->prepare(a->self, r->contexts[0], &call, &st->err), "a kernel is prepared after the first");
    expect_refused(st, a->context_create(a->self, 0, &out, &st->err), "a kernel context is made after the first");
    expect_refused(st, a->stream_create(a->self, "late", &out, &st->err), "a stream is made after the first step");
    expect_refused(st, a->capture_begin(a->self, st->sessions[0]->stream, &st->err), "another capture begins after");
    if (st->worlds[0]) {
        expect_refused(st, a->comm_split(a->self, st->worlds[0], 0, 0, "late", &out, &st->err),
                       "a communicator is made after the first step");
    }
}

static void test_nothing_is_made_while_steps_run(void **state) {
    (void)state;
    for (int is_virtual = 0; is_virtual < 2; is_virtual++) {
        struct stage st;
        struct sf_prog *prog = begin(&st, (struct bigram){.dp = 2}, is_virtual);
        step(&st);
        expect_all_refused(&st);
        step(&st);
        expect_all_refused(&st);
        end(&st, prog);
    }
}

static void test_nothing_waits_between_two_steps(void **state) {
    (void)state;
    struct stage st;
    float loss;
    struct sf_prog *prog = begin(&st, (struct bigram){.dp = 1}, true);
    const struct sfi_gpu_api *a = &st.api;
    assert_int_equal(a->finish(a->self, &st.err), SF_OK); /* before the first step it may */
    step(&st);
    step(&st);
    assert_int_equal(a->finish(a->self, &st.err), SF_OK); /* it may have been the last one */
    expect_refused(&st, sfi_session_launch(st.sessions[0], &st.err), "the host waits for the device between two steps");
    end(&st, prog);

    prog = begin(&st, (struct bigram){.dp = 1}, true);
    step(&st);
    assert_int_equal(a->download(a->self, &loss, st.sessions[0]->ranks[0].mem, sizeof loss, &st.err), SF_OK);
    expect_refused(&st, sfi_session_launch(st.sessions[0], &st.err), "a synchronous copy between two steps");
    end(&st, prog);
}

static void test_another_session_may_follow(void **state) {
    (void)state;
    struct stage st;
    struct sf_prog *prog = begin(&st, (struct bigram){.dp = 1}, true);
    step(&st);
    assert_int_equal(st.api.finish(st.api.self, &st.err), SF_OK);
    sfi_session_destroy(st.sessions[0]);
    st.sessions_n = 0;
    assert_int_equal(capture(&st, true), SF_OK);
    step(&st);
    end(&st, prog);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_is_made_while_steps_run),
        cmocka_unit_test(test_nothing_waits_between_two_steps),
        cmocka_unit_test(test_another_session_may_follow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
