/* Failures that the recording device is told to have: what is said of them, and that everything is given up once. And
 * how worlds meet. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/test_runtime_stage.h"

#define STALL (SF_PS_PER_S / 5)

static struct sf_prog *begin(struct stage *st, struct bigram shape) {
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    const struct sf_rt_options options = {.steps = STEPS, .data_path = make_text(4096), .stall_limit = STALL};
    if (bigram_build(&shape, &prog, &err) != SF_OK) {
        fail_msg("%s", err.msg);
    }
    open_stage(st, prog, &options, &(struct sfi_record_options){.execute = true});
    if (capture(st, false) != 0) {
        fail_msg("%s", st->err.msg);
    }
    return prog;
}

/* All is given back, as the device counts it. */
static void end(struct stage *st, struct sf_prog *prog, bool aborted) {
    for (uint32_t i = 0; i < st->sessions_n; i++) {
        sfi_session_destroy(st->sessions[i]);
        st->sessions[i] = NULL;
        if (st->worlds[i]) {
            st->api.comm_destroy(st->api.self, st->worlds[i]);
            st->worlds[i] = NULL;
        }
    }
    if (sfi_record_check_ends(st->rec, aborted, &st->err) != SF_OK) {
        fail_msg("%s", st->err.msg);
    }
    close_stage(st);
    sf_prog_free(prog);
}

static void test_all_is_given_back(void **state) {
    struct stage st;
    (void)state;
    struct sf_prog *prog = begin(&st, (struct bigram){.dp = 2, .zero = true});
    step(&st);
    end(&st, prog, false);
}

static void test_a_second_end_is_found(void **state) {
    struct stage st;
    struct sf_err err = {0};
    (void)state;
    struct sf_prog *prog = begin(&st, (struct bigram){.dp = 2});
    void *world = st.worlds[1];
    assert_int_equal(sfi_record_check_ends(st.rec, false, &err), SF_E_INTERNAL);
    assert_non_null(strstr(err.msg, "was left, expected destroyed"));
    st.api.comm_abort(st.api.self, world);
    st.api.comm_destroy(st.api.self, world);
    st.worlds[1] = NULL;
    assert_int_equal(sfi_record_check_ends(st.rec, false, &err), SF_E_INTERNAL);
    assert_non_null(strstr(err.msg, "rank 1: communicator \"world\" is destroyed, but was aborted before"));
    close_stage(&st);
    sf_prog_free(prog);
}

/* ---- ordered failures ------------------------------------------------------------------------------------------- */

static void launch_all(struct stage *st) {
    for (uint32_t i = 0; i < st->sessions_n; i++) {
        assert_int_equal(sfi_session_launch(st->sessions[i], &st->err), SF_OK);
    }
}

/* The step ends on no rank; what rank `rank` says of it. */
static void expect_fault(struct stage *st, uint32_t rank, const char *text) {
    struct sf_err err = {0};
    int rc = sfi_session_conclude(st->sessions[rank], &err);
    if (rc != SF_E_FAULT || err.code != SF_E_FAULT || !strstr(err.msg, text)) {
        fail_msg("rank %u: expected code %d \"%s\", found %d \"%s\"", rank, SF_E_FAULT, text, rc, err.msg);
    }
}

/* "op 4 (all_reduce ...)" as people read it. */
static const char *op_text(const struct stage *st, uint32_t rank, uint32_t op, char text[128]) {
    char label[96];
    uint32_t class_i = sf_prog_class(st->prog, rank);
    snprintf(text, 128, "op %u (%s)", op, sf_op_label(st->prog, class_i, op, label, sizeof label));
    return text;
}

static uint32_t op_of_group(const struct stage *st, uint32_t rank, enum sf_op_group group, bool last) {
    const struct sf_class *c = &st->prog->classes[sf_prog_class(st->prog, rank)];
    uint32_t found = SF_NONE;
    for (uint32_t i = 0; i < c->ops_n; i++) {
        if (sf_op_group(c->ops[i].kind) == group && (last || found == SF_NONE)) {
            found = i;
        }
    }
    assert_int_not_equal(found, SF_NONE);
    return found;
}

static void break_comm(struct bigram shape, const char *comm, const char *said) {
    struct stage st;
    struct sf_prog *prog = begin(&st, shape);
    struct sfi_record_fault fault = {.kind = SFI_RECORD_ASYNC_ERROR, .rank = 1, .step = 2};
    snprintf(fault.comm, sizeof fault.comm, "%s", comm);
    sfi_record_inject(st.rec, &fault);
    step(&st);
    step(&st);
    launch_all(&st);
    expect_fault(&st, 1, said);
    expect_fault(&st, 0, "rank 0: step 2 made no progress for 0.2 s"); /* in one process nobody tells it */
    sfi_session_give_up(st.sessions[1], &st.err);                      /* changes nothing any more */
    end(&st, prog, true);
}

static void test_a_communicator_breaks(void **state) {
    struct sf_prog *prog = NULL;
    char comm[64], said[128];
    (void)state;
    assert_int_equal(bigram_build(&(struct bigram){.dp = 2}, &prog, NULL), 0);
    snprintf(comm, sizeof comm, "%s/0", prog->comms[0].name);
    snprintf(said, sizeof said, "communicator \"%s\": recording device: the link that a test has cut",
             prog->comms[0].name);
    sf_prog_free(prog);
    break_comm((struct bigram){.dp = 2}, comm, said);
    break_comm((struct bigram){.dp = 2, .zero = true}, comm, said);
    break_comm((struct bigram){.dp = 2}, "world", "recording device: the link that a test has cut");
}

/* The watchdog names the transfer in which each rank waits; that of a kernel is the one that began before it. */
static void stall(struct bigram shape, enum sf_op_group group, uint32_t at) {
    struct stage st;
    struct sf_prog *prog = begin(&st, shape);
    char text[128];
    uint32_t op = op_of_group(&st, 0, group, group == SF_OP_IS_COMPUTE);
    uint32_t transfer = op_of_group(&st, 0, SF_OP_IS_COLL, group == SF_OP_IS_COMPUTE);
    sfi_record_inject(st.rec, &(struct sfi_record_fault){.kind = SFI_RECORD_STALL, .rank = 0, .step = at, .op = op});
    for (uint32_t i = 0; i < at; i++) {
        step(&st);
    }
    launch_all(&st);
    expect_fault(&st, 0, op_text(&st, 0, transfer, text));
    if (group == SF_OP_IS_COLL) {
        expect_fault(&st, 1, op_text(&st, 1, transfer, text));
    } else {
        expect_fault(&st, 1, "step 1 made no progress"); /* in the reports, which the first rank never sends */
    }
    end(&st, prog, true);
}

static void test_a_node_stalls(void **state) {
    (void)state;
    stall((struct bigram){.dp = 2}, SF_OP_IS_COLL, 0);
    stall((struct bigram){.dp = 2, .zero = true}, SF_OP_IS_COLL, 2);
    stall((struct bigram){.dp = 2}, SF_OP_IS_COMPUTE, 1);
}

/* ---- meeting ---------------------------------------------------------------------------------------------------- */

/* To which root NCCL sends a rank. */
static uint32_t root_of(uint32_t rank, uint32_t ranks, uint32_t roots) {
    uint32_t longer = ranks % roots, n = ranks / roots, in_longer = longer * (n + 1);
    return rank < in_longer ? rank / (n + 1) : (rank - in_longer) / n + longer;
}

static void test_roots_of_large_worlds(void **state) {
    static const uint32_t worlds[] = {1, 2, 127, 128, 129, 255, 256, 257, 1000, 4096, 16384, 220032};
    (void)state;
    assert_int_equal(sfi_gpu_roots(1), 1);
    assert_int_equal(sfi_gpu_roots(128), 1);
    assert_int_equal(sfi_gpu_roots(129), 2);
    assert_int_equal(sfi_gpu_roots(16384), 128);
    for (size_t w = 0; w < sizeof worlds / sizeof *worlds; w++) {
        uint32_t ranks = worlds[w], roots = sfi_gpu_roots(ranks);
        for (uint32_t i = 0; i < roots; i++) {
            uint32_t first = sfi_gpu_root_rank(i, roots, ranks);
            assert_int_equal(root_of(first, ranks, roots), i);
            assert_true(first == 0 || root_of(first - 1, ranks, roots) == i - 1);
        }
        assert_int_equal(root_of(ranks - 1, ranks, roots), roots - 1);
    }
}

struct world {
    struct sfi_record *rec;
    const struct sfi_gpu_api *api;
    unsigned char ids[3][SFI_NCCL_ID_BYTES];
    void *comm;
    struct sf_err err;
};

static void open_world(struct world *w) {
    memset(w, 0, sizeof *w);
    assert_int_equal(sfi_record_create(&(struct sfi_record_options){.execute = false}, &w->rec, &w->err), 0);
    w->api = sfi_record_api(w->rec);
    for (int i = 0; i < 3; i++) {
        w->api->comm_id(w->api->self, w->ids[i], &w->err);
    }
}

static int enter(struct world *w, uint32_t ids_n, uint32_t ranks, uint32_t rank) {
    return w->api->comm_world(w->api->self, (const unsigned char(*)[SFI_NCCL_ID_BYTES])w->ids, ids_n, ranks, rank,
                              &w->comm, &w->err);
}

static void expect_world_refused(struct world *w, int rc, const char *why) {
    assert_int_equal(rc, SF_E_INTERNAL);
    if (!strstr(w->err.msg, why)) {
        fail_msg("expected \"%s\", found \"%s\"", why, w->err.msg);
    }
    sfi_record_destroy(w->rec);
    open_world(w);
}

static void test_ids_are_checked(void **state) {
    struct world w;
    (void)state;
    open_world(&w);
    for (uint32_t r = 0; r < 300; r++) {
        assert_int_equal(enter(&w, 3, 300, r), 0);
    }
    w.ids[0][64] ^= 1;
    expect_world_refused(&w, enter(&w, 3, 300, 7), "rank 7 of 300 meets elsewhere than those before it");
    expect_world_refused(&w, enter(&w, 1, 300, 0), "300 ranks meet at 1 roots, expected 3");
    expect_world_refused(&w, enter(&w, 3, 128, 0), "128 ranks meet at 3 roots, expected 1");
    memcpy(w.ids[2], w.ids[0], sizeof w.ids[0]);
    expect_world_refused(&w, enter(&w, 3, 300, 0), "roots 0 and 2 have one id");
    memset(w.ids[1], 0, sizeof w.ids[1]);
    expect_world_refused(&w, enter(&w, 3, 300, 0), "root 1: nobody made this id");
    assert_int_equal(enter(&w, 1, 2, 0), 0);
    w.api->comm_destroy(w.api->self, w.comm);
    memcpy(w.ids[0], w.ids[1], sizeof w.ids[0]);
    assert_int_equal(enter(&w, 1, 2, 0), 0); /* another world, after the first */
    sfi_record_destroy(w.rec);
}

static int clean_up(void **state) {
    (void)state;
    unlink(temp_path("text"));
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_is_given_back),     cmocka_unit_test(test_a_second_end_is_found),
        cmocka_unit_test(test_a_communicator_breaks), cmocka_unit_test(test_a_node_stalls),
        cmocka_unit_test(test_roots_of_large_worlds), cmocka_unit_test(test_ids_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, clean_up);
}
