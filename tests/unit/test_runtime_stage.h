/* A program on the recording device, for tests. Included after cmocka.h. */
#ifndef SF_TEST_RUNTIME_STAGE_H
#define SF_TEST_RUNTIME_STAGE_H

#include "runtime/record.h"
#include "runtime/run.h"
#include "tests/unit/test_runtime_fixture.h"

#define STAGE_RANKS 32

/* A program on the recording device: one session for all ranks, or one for each. */
struct stage {
    const struct sf_prog *prog;
    struct sfi_record *rec;
    struct sfi_gpu_api api; /* a copy that tests may break */
    struct sfi_target target;
    struct sf_rt_options options;
    struct sfi_run run;
    struct sfi_session *sessions[STAGE_RANKS];
    void *worlds[STAGE_RANKS];
    uint32_t sessions_n;
    struct sf_err err;
};

static inline void open_stage(struct stage *st, const struct sf_prog *prog, const struct sf_rt_options *options,
                              const struct sfi_record_options *how) {
    memset(st, 0, sizeof *st);
    st->prog = prog;
    assert_int_equal(sfi_record_create(how, &st->rec, &st->err), 0);
    st->api = *sfi_record_api(st->rec);
    st->target = (struct sfi_target){.self = st->api.self, .name = "recorded", .supports = st->api.supports};
    st->options = *options;
    if (sfi_run_open_on(&st->run, st->prog, &st->options, &st->target, &st->err) != 0) {
        fail_msg("%s", st->err.msg);
    }
}

/* Sessions, captured; returns the first failure. */
static inline int capture(struct stage *st, bool is_virtual) {
    uint32_t ranks = sf_prog_ranks(st->prog), n = is_virtual ? 1 : ranks;
    unsigned char id[1][SFI_NCCL_ID_BYTES];
    SF_TRY(st->api.comm_id(st->api.self, id[0], &st->err));
    for (uint32_t i = 0; i < n; i++) {
        if (!is_virtual) {
            SF_TRY(st->api.comm_world(st->api.self, (const unsigned char(*)[SFI_NCCL_ID_BYTES])id, 1, ranks, i,
                                      &st->worlds[i], &st->err));
        }
        SF_TRY(sfi_session_create(&st->api, &st->run, i, is_virtual ? ranks : 1, &st->worlds[i], &st->sessions[i],
                                  &st->err));
        st->sessions_n++;
        SF_TRY(sfi_session_capture(st->sessions[i], &st->err));
    }
    return 0;
}

static inline int check(struct stage *st) {
    for (uint32_t i = 0; i < st->sessions_n; i++) {
        SF_TRY(sfi_record_check_order(st->rec, st->sessions[i], &st->err));
        SF_TRY(sfi_record_check_hazards(st->rec, st->sessions[i], &st->err));
    }
    return st->worlds[0] ? sfi_record_check_comms(st->rec, &st->err) : 0;
}

static inline void close_stage(struct stage *st) {
    for (uint32_t i = 0; i < STAGE_RANKS; i++) {
        sfi_session_destroy(st->sessions[i]);
        if (st->worlds[i]) {
            st->api.comm_destroy(st->api.self, st->worlds[i]);
        }
    }
    sfi_run_close(&st->run);
    sfi_record_destroy(st->rec);
}

static inline void step(struct stage *st) {
    for (uint32_t i = 0; i < st->sessions_n; i++) {
        if (sfi_session_launch(st->sessions[i], &st->err) != 0) {
            fail_msg("%s", st->err.msg);
        }
    }
    for (uint32_t i = 0; i < st->sessions_n; i++) {
        if (sfi_session_conclude(st->sessions[i], &st->err) != 0) {
            fail_msg("%s", st->err.msg);
        }
    }
}

#define STEPS 4

struct losses {
    double loss[STEPS];
};

static inline void keep_loss(void *self, const struct sf_rt_step *step) {
    ((struct losses *)self)->loss[step->step] = step->loss;
}

static inline void on_threads(const struct sf_prog *prog, const char *text, struct losses *out) {
    struct sf_err err = {0};
    const struct sf_rt_options options = {.steps = STEPS, .data_path = text, .on_step = keep_loss, .self = out};
    if (sf_rt_run_threads(prog, &options, &err) != 0) {
        fail_msg("%s", err.msg);
    }
}

/* The same losses to the bit as threads, in whatever order the graph allows. */
static inline void compare_with_threads(const struct sf_prog *prog, bool is_virtual, uint64_t seeds) {
    const char *text = make_text(4096);
    const struct sf_rt_options options = {.steps = STEPS, .data_path = text};
    struct losses expected;
    on_threads(prog, text, &expected);
    for (uint64_t seed = 0; seed < seeds; seed++) {
        struct stage st;
        open_stage(&st, prog, &options, &(struct sfi_record_options){.execute = true, .seed = seed});
        if (capture(&st, is_virtual) != 0 || check(&st) != 0) {
            fail_msg("%s: %s", prog->title, st.err.msg);
        }
        for (int i = 0; i < STEPS; i++) {
            step(&st);
            for (uint32_t k = 0; k < st.sessions_n; k++) {
                assert_memory_equal(&st.sessions[k]->losses[i], &(float){(float)expected.loss[i]}, sizeof(float));
            }
        }
        close_stage(&st);
    }
}

#endif
