/* The GPU backend on the recording device: results, rules, and every violation of a rule. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "runtime/record_graph.h"
#include "tests/unit/test_runtime_stage.h"

static struct sf_prog *build(struct bigram shape) {
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    if (bigram_build(&shape, &prog, &err) != SF_OK) {
        fail_msg("%s", err.msg);
    }
    return prog;
}

static void compare(struct bigram shape, bool is_virtual) {
    struct sf_prog *prog = build(shape);
    compare_with_threads(prog, is_virtual, 3);
    sf_prog_free(prog);
}

static void test_virtual_ranks_compute_what_threads_compute(void **state) {
    (void)state;
    compare((struct bigram){.dp = 1}, true);
    compare((struct bigram){.dp = 2}, true);
    compare((struct bigram){.dp = 4, .zero = true}, true);
}

static void test_ranks_with_communicators_do_too(void **state) {
    (void)state;
    compare((struct bigram){.dp = 1}, false);
    compare((struct bigram){.dp = 2, .zero = true}, false);
    compare((struct bigram){.dp = 4}, false);
}

/* ---- one violation at a time ------------------------------------------------------------------------------------ */

static const struct sfi_gpu_api *real; /* what the broken functions below call */
static int countdown;                  /* which call of theirs goes wrong */

static bool now(void) {
    return --countdown == 0;
}

static int forget_record(void *self, void *event, void *stream, struct sf_err *err) {
    return now() ? 0 : real->event_record(self, event, stream, err);
}

static int forget_wait(void *self, void *stream, void *event, struct sf_err *err) {
    return now() ? 0 : real->stream_wait(self, stream, event, err);
}

static void forget_op(void *self, uint32_t rank, uint32_t op, void *stream, const char *label) {
    if (!now()) {
        real->op_begin(self, rank, op, stream, label);
    }
}

static int allocate_first(void *self, void *context, const struct sf_call *call, void *const operand[SF_CALL_OPERANDS],
                          void *stream, struct sf_err *err) {
    void *memory;
    SF_TRY(now() ? real->alloc(self, 0, 64, &memory, err) : 0);
    return real->call(self, context, call, operand, stream, err);
}

static int wait_first(void *self, void *context, const struct sf_call *call, void *const operand[SF_CALL_OPERANDS],
                      void *stream, struct sf_err *err) {
    SF_TRY(now() ? real->finish(self, err) : 0);
    return real->call(self, context, call, operand, stream, err);
}

static int stray_operand(void *self, void *context, const struct sf_call *call, void *const operand[SF_CALL_OPERANDS],
                         void *stream, struct sf_err *err) {
    void *moved[SF_CALL_OPERANDS];
    memcpy(moved, operand, sizeof moved);
    moved[0] = now() ? (char *)moved[0] + (1u << 30) : moved[0];
    return real->call(self, context, call, moved, stream, err);
}

static int change_count(void *self, void *comm, const struct sfi_gpu_message *m, void *stream, struct sf_err *err) {
    struct sfi_gpu_message other = *m;
    other.bytes -= now() ? 64 : 0;
    return real->message(self, comm, &other, stream, err);
}

static int change_type(void *self, void *comm, const struct sfi_gpu_message *m, void *stream, struct sf_err *err) {
    struct sfi_gpu_message other = *m;
    other.dtype = now() ? SF_BF16 : other.dtype;
    return real->message(self, comm, &other, stream, err);
}

static int forget_message(void *self, void *comm, const struct sfi_gpu_message *m, void *stream, struct sf_err *err) {
    return now() ? 0 : real->message(self, comm, m, stream, err);
}

/* The call that goes wrong comes after the next one. */
static int swap_messages(void *self, void *comm, const struct sfi_gpu_message *m, void *stream, struct sf_err *err) {
    static struct sfi_gpu_message held;
    if (now()) {
        held = *m;
        return 0;
    }
    SF_TRY(real->message(self, comm, m, stream, err));
    return countdown == -1 ? real->message(self, comm, &held, stream, err) : 0;
}

/* Capture and check with a broken table; the message of what was found, or NULL. */
static const char *run_broken(struct stage *st, const struct sf_prog *prog, bool is_virtual, int which,
                              void (*break_it)(struct sfi_gpu_api *api)) {
    const struct sf_rt_options options = {.steps = STEPS, .data_path = make_text(4096)};
    open_stage(st, prog, &options, &(struct sfi_record_options){.execute = true, .seed = (uint64_t)which});
    real = sfi_record_api(st->rec);
    countdown = which;
    break_it(&st->api);
    return capture(st, is_virtual) != 0 || check(st) != 0 ? st->err.msg : NULL;
}

static void expect(struct bigram shape, bool is_virtual, int which, void (*break_it)(struct sfi_gpu_api *api),
                   const char *expected) {
    struct sf_prog *prog = build(shape);
    struct stage st;
    const char *found = run_broken(&st, prog, is_virtual, which, break_it);
    if (!found || !strstr(found, expected)) {
        fail_msg("expected \"%s\", found \"%s\"", expected, found ? found : "nothing");
    }
    close_stage(&st);
    sf_prog_free(prog);
}

#define BREAK(name, field, function)                                                                                   \
    static void name(struct sfi_gpu_api *api) {                                                                        \
        api->field = function;                                                                                         \
    }
BREAK(break_record, event_record, forget_record)
BREAK(break_wait, stream_wait, forget_wait)
BREAK(break_op, op_begin, forget_op)
BREAK(break_allocate, call, allocate_first)
BREAK(break_sync, call, wait_first)
BREAK(break_operand, call, stray_operand)
BREAK(break_count, message, change_count)
BREAK(break_type, message, change_type)
BREAK(break_forget, message, forget_message)
BREAK(break_swap, message, swap_messages)

static void test_what_a_capture_may_not_do(void **state) {
    (void)state;
    for (int is_virtual = 0; is_virtual < 2; is_virtual++) {
        expect((struct bigram){.dp = 2}, is_virtual, 1, break_record, "waits for an event that was not recorded");
        expect((struct bigram){.dp = 2}, is_virtual, 2, break_allocate, "device memory is allocated during a capture");
        expect((struct bigram){.dp = 2}, is_virtual, 3, break_sync, "the host waits for the device during a capture");
        expect((struct bigram){.dp = 2}, is_virtual, 3, break_operand, "is not inside the rank's memory");
        expect((struct bigram){.dp = 2}, is_virtual, 4, break_op, "was not captured");
    }
}

struct findings {
    uint32_t unjoined, unforked, disordered, all;
};

/* Leaves out one wait after the other. What no rule finds changes nothing, because other edges imply it. */
static void leave_out_waits(struct bigram shape, struct findings *f) {
    struct sf_prog *prog = build(shape);
    struct losses expected;
    bool beyond = false;
    on_threads(prog, make_text(4096), &expected);
    for (int which = 1; !beyond; which++) {
        struct stage st;
        const char *found = run_broken(&st, prog, true, which, break_wait);
        beyond = countdown > 0;
        f->all += found != NULL;
        f->unjoined += found && strstr(found, "was forked and never joined");
        f->unforked += found && strstr(found, "not part of a capture");
        f->disordered += found && (strstr(found, "can begin before op") || strstr(found, "can be over before"));
        for (int i = 0; i < STEPS && !found; i++) {
            step(&st);
            assert_memory_equal(&st.sessions[0]->losses[i], &(float){(float)expected.loss[i]}, sizeof(float));
        }
        close_stage(&st);
    }
    sf_prog_free(prog);
}

static void test_every_missing_wait_is_found(void **state) {
    (void)state;
    struct findings f = {0};
    leave_out_waits((struct bigram){.dp = 1}, &f);
    leave_out_waits((struct bigram){.dp = 2, .zero = true}, &f);
    assert_in_range(f.unjoined, 1, 1000);
    assert_in_range(f.unforked, 2, 1000);
    assert_in_range(f.disordered, 10, 1000);
}

static void test_members_must_agree(void **state) {
    (void)state;
    expect((struct bigram){.dp = 2}, false, 1, break_count, "counts or types differ");
    expect((struct bigram){.dp = 2}, false, 1, break_type, "counts or types differ");
    expect((struct bigram){.dp = 2}, false, 2, break_forget, "partners");
    expect((struct bigram){.dp = 2, .zero = true}, false, 1, break_swap, "members call in different orders");
}

/* ---- communication by hand -------------------------------------------------------------------------------------- */

/* Two ranks, each with two communicators over both, and a stream for each. */
struct pair {
    struct sfi_record *rec;
    const struct sfi_gpu_api *api;
    void *comm[2][2], *origin[2], *stream[2][2], *fork[2], *join[2], *graph[2];
    char *memory[2];
    struct sf_err err;
};

static void open_pair(struct pair *p) {
    unsigned char id[1][SFI_NCCL_ID_BYTES];
    memset(p, 0, sizeof *p);
    assert_int_equal(sfi_record_create(&(struct sfi_record_options){.execute = true}, &p->rec, &p->err), 0);
    p->api = sfi_record_api(p->rec);
    p->api->comm_id(p->api->self, id[0], NULL);
    for (uint32_t r = 0; r < 2; r++) {
        void *memory;
        p->api->comm_world(p->api->self, (const unsigned char(*)[SFI_NCCL_ID_BYTES])id, 1, 2, r, &p->comm[r][0], NULL);
        p->api->comm_split(p->api->self, p->comm[r][0], 0, r, "second", &p->comm[r][1], NULL);
        p->api->alloc(p->api->self, r, 4096, &memory, NULL);
        p->memory[r] = memory;
        p->api->stream_create(p->api->self, "origin", &p->origin[r], NULL);
        p->api->event_create(p->api->self, &p->fork[r], NULL);
        p->api->event_create(p->api->self, &p->join[r], NULL);
        for (int k = 0; k < 2; k++) {
            p->api->stream_create(p->api->self, "side", &p->stream[r][k], NULL);
        }
    }
}

struct line {
    int kind;    /* enum sf_op_kind; -1: group begins, -2: group ends */
    uint32_t on; /* communicator and stream */
};

static void talk(struct pair *p, uint32_t r, const struct line *lines, size_t n) {
    const struct sfi_gpu_api *api = p->api;
    uint64_t nodes_n;
    api->capture_begin(api->self, p->origin[r], NULL);
    api->event_record(api->self, p->fork[r], p->origin[r], NULL);
    for (int k = 0; k < 2; k++) {
        api->stream_wait(api->self, p->stream[r][k], p->fork[r], NULL);
    }
    for (size_t i = 0; i < n; i++) {
        const struct sfi_gpu_message m = {
            .kind = lines[i].kind, .peer = 1 - r, .bytes = 64, .x = p->memory[r] + 64 * i, .y = p->memory[r] + 64 * i};
        int rc = lines[i].kind == -1 ? api->group_begin(api->self, &p->err)
                 : lines[i].kind == -2
                     ? api->group_end(api->self, &p->err)
                     : api->message(api->self, p->comm[r][lines[i].on], &m, p->stream[r][lines[i].on], &p->err);
        assert_int_equal(rc, 0);
    }
    for (int k = 0; k < 2; k++) {
        api->event_record(api->self, p->join[r], p->stream[r][k], NULL);
        api->stream_wait(api->self, p->origin[r], p->join[r], NULL);
    }
    assert_int_equal(api->capture_end(api->self, p->origin[r], &p->graph[r], &nodes_n, &p->err), 0);
}

static const char *verdict(struct pair *p, const struct line *first, size_t first_n, const struct line *second,
                           size_t second_n) {
    open_pair(p);
    talk(p, 0, first, first_n);
    talk(p, 1, second, second_n);
    return sfi_record_check_comms(p->rec, &p->err) == 0 ? NULL : p->err.msg;
}

static void close_pair(struct pair *p) {
    for (int r = 0; r < 2; r++) {
        p->api->comm_destroy(p->api->self, p->comm[r][0]);
        p->api->comm_destroy(p->api->self, p->comm[r][1]);
        p->api->event_destroy(p->api->self, p->fork[r]);
        p->api->event_destroy(p->api->self, p->join[r]);
    }
    sfi_record_destroy(p->rec);
}

#define VERDICT(p, a, b) verdict(p, a, sizeof(a) / sizeof *(a), b, sizeof(b) / sizeof *(b))

static void test_waiting_for_each_other(void **state) {
    (void)state;
    struct pair p;
    const struct line both[] = {{SF_OP_SEND, 0}, {SF_OP_RECV, 0}};
    const struct line other[] = {{SF_OP_RECV, 0}, {SF_OP_SEND, 0}};
    const struct line grouped[] = {{-1, 0}, {SF_OP_SEND, 0}, {SF_OP_RECV, 0}, {-2, 0}};
    const struct line lonely[] = {{SF_OP_SEND, 0}};
    const struct line ab[] = {{SF_OP_ALL_REDUCE, 0}, {SF_OP_ALL_REDUCE, 1}};
    const struct line ba[] = {{SF_OP_ALL_REDUCE, 1}, {SF_OP_ALL_REDUCE, 0}};
    assert_non_null(strstr(VERDICT(&p, both, both), "deadlock"));
    close_pair(&p);
    assert_null(VERDICT(&p, both, other));
    close_pair(&p);
    assert_null(VERDICT(&p, grouped, grouped));
    close_pair(&p);
    assert_non_null(strstr(VERDICT(&p, both, lonely), "partners"));
    close_pair(&p);
    assert_null(VERDICT(&p, ab, ab));
    close_pair(&p);
    assert_non_null(strstr(VERDICT(&p, ab, ba), "deadlock"));
    close_pair(&p);
}

static void test_members_run_on_the_same(void **state) {
    (void)state;
    struct pair p;
    struct sf_coll_picks ring = {{0}}, none = {{0}};
    void *extra[4];
    ring.of[SF_COLL_ALL_GATHER] = SF_COLL_PICK(SF_COLL_RING, SF_COLL_LL128);
    open_pair(&p);
    for (uint32_t r = 0; r < 2; r++) {
        assert_int_equal(p.api->comm_picks(p.api->self, &ring, &p.err), 0);
        assert_int_equal(p.api->comm_split(p.api->self, p.comm[r][0], 0, r, "same", &extra[r], &p.err), 0);
    }
    assert_int_equal(p.api->comm_split(p.api->self, p.comm[0][0], 0, 0, "other", &extra[2], &p.err), 0);
    assert_int_equal(p.api->comm_picks(p.api->self, &none, &p.err), 0);
    assert_int_not_equal(p.api->comm_split(p.api->self, p.comm[1][0], 0, 1, "other", &extra[3], &p.err), 0);
    assert_non_null(strstr(p.err.msg, "different algorithms"));
    for (int i = 0; i < 4; i++) {
        p.api->comm_destroy(p.api->self, extra[i]);
    }
    close_pair(&p);
}

/* Every communicator is made with the program's picks for it, and no other. */
static void test_programs_say_what_they_run_on(void **state) {
    (void)state;
    struct sf_prog *prog = build((struct bigram){.dp = 2});
    struct stage st;
    uint32_t seen = 0;
    for (uint32_t c = 0; c < prog->comms_n; c++) {
        prog->comms[c].picks.of[SF_COLL_ALL_REDUCE] = (uint8_t)(1 + c);
    }
    const struct sf_rt_options options = {.steps = STEPS, .data_path = make_text(4096)};
    open_stage(&st, prog, &options, &(struct sfi_record_options){.execute = true});
    assert_int_equal(capture(&st, false), 0);
    for (size_t i = 0; i < st.rec->comms_n; i++) {
        const struct sfi_record_comm *made = st.rec->comms[i];
        for (uint32_t c = 0; c < prog->comms_n; c++) {
            size_t n = strlen(prog->comms[c].name);
            bool same = strncmp(made->name, prog->comms[c].name, n) == 0 && made->name[n] == '/';
            assert_true(!same || memcmp(&made->picks, &prog->comms[c].picks, sizeof made->picks) == 0);
            seen += same;
        }
    }
    assert_true(seen >= 2);
    close_stage(&st);
    sf_prog_free(prog);
}

static int clean_up(void **state) {
    (void)state;
    unlink(temp_path("text"));
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_virtual_ranks_compute_what_threads_compute),
        cmocka_unit_test(test_ranks_with_communicators_do_too),
        cmocka_unit_test(test_what_a_capture_may_not_do),
        cmocka_unit_test(test_every_missing_wait_is_found),
        cmocka_unit_test(test_members_must_agree),
        cmocka_unit_test(test_waiting_for_each_other),
        cmocka_unit_test(test_members_run_on_the_same),
        cmocka_unit_test(test_programs_say_what_they_run_on),
    };
    return cmocka_run_group_tests(tests, NULL, clean_up);
}
