/* The engine against arithmetic done by hand: pipelines, ports, collectives, the breakdown, replay, traces. */
#include "test_sim_fixture.h"

#include "sim/flow.h"
#include "sim/queue.h"

/* One domain; transfers of 500 bytes cost 0.5 us on the wire and 2 us of latency. */
static struct pipe pipeline(uint32_t pp, uint32_t m, bool gpipe) {
    struct pipe p = {.tp = 1,
                     .ep = 1,
                     .dp = 1,
                     .pp = pp,
                     .microbatches = m,
                     .per_domain = pp,
                     .domain_gpus = pp,
                     .gpipe = gpipe,
                     .act_bytes = 500};
    for (uint32_t s = 0; s < pp; s++) {
        p.f_ns[s] = 10000;
        p.b_ns[s] = 20000;
    }
    return p;
}

enum { F = 10000 * 1000, B = 20000 * 1000, OPT = 70 * 1000, C = 2500 * 1000 };

static struct sf_sim_result run_pipe(struct pipe *p, bool unfolded) {
    struct toy t = {0};
    struct sf_sim_result r;
    toy_open(&t, 1, p->domain_gpus, 1, NULL);
    struct sf_prog *prog = pipe_build(p);
    must_run(prog, &t, &(struct sf_sim_options){.unfolded = unfolded}, &r);
    assert_int_equal(breakdown_sum(&r.breakdown), r.step_time);
    sf_prog_free(prog);
    toy_close(&t);
    return r;
}

static void test_gpipe(void **state) {
    (void)state;
    for (uint32_t pp = 1; pp <= 6; pp++) {
        for (uint32_t m = 1; m <= 5; m++) {
            struct pipe p = pipeline(pp, m, true);
            struct sf_sim_result r = run_pipe(&p, m & 1);
            assert_int_equal(r.step_time, (int64_t)(m + pp - 1) * (F + B) + 2 * (pp - 1) * (int64_t)C + OPT);
        }
    }
}

/* Longest path through a 1F1B step, step by step, without streams, events or interpreter. */
static sf_time_ps one_f_one_b(uint32_t pp, uint32_t m, sf_time_ps hop) {
    sf_time_ps f_end[16][16] = {0}, b_end[16][16] = {0}, last = 0;
    for (int pass = 0; pass < 64; pass++) { /* more passes than stages and microbatches need */
        for (uint32_t s = 0; s < pp; s++) {
            uint32_t warm = pp - 1 - s < m ? pp - 1 - s : m, fs = 0, bs = 0;
            sf_time_ps t = 0;
            while (bs < m) {
                bool forward = fs < m && fs < bs + warm + 1;
                if (forward) {
                    sf_time_ps in = s > 0 ? f_end[s - 1][fs] + hop : 0;
                    t = f_end[s][fs++] = (in > t ? in : t) + F;
                } else {
                    sf_time_ps in = s + 1 < pp ? b_end[s + 1][bs] + hop : 0;
                    t = b_end[s][bs++] = (in > t ? in : t) + B;
                }
            }
            last = t + OPT > last || s == 0 ? t + OPT : last;
        }
    }
    return last;
}

static void test_1f1b(void **state) {
    (void)state;
    for (uint32_t pp = 1; pp <= 6; pp++) {
        for (uint32_t m = 1; m <= 8; m += pp > 3 ? 3 : 1) {
            struct pipe p = pipeline(pp, m, false);
            struct sf_sim_result r = run_pipe(&p, true);
            assert_int_equal(r.step_time, one_f_one_b(pp, m, C));
        }
    }
}

/* Without latency to speak of, the known (m + p - 1)(F + B), and the papers' bubble rate. */
static void test_1f1b_closed_form(void **state) {
    (void)state;
    struct toy t = {0};
    struct sf_sim_result r;
    toy_open(&t, 1, 4, 1, "transport: { message_latency: 0ns, message_rate: 1000000GB/s }\n");
    struct pipe p = pipeline(4, 8, false);
    p.act_bytes = 1; /* one picosecond a hop, the least there is */
    struct sf_prog *prog = pipe_build(&p);
    must_run(prog, &t, NULL, &r);
    int64_t ideal = INT64_C(11) * (F + B) + OPT;
    assert_in_range(r.step_time, ideal, ideal + 100);
    assert_true(r.bubble_span > 3.0 / 11 - 1e-3 && r.bubble_span < 3.0 / 11);
    assert_true(r.bubble_makespan > 3.0 / 11 - 1e-3 && r.bubble_makespan < 3.0 / 11);
    assert_int_equal(r.breakdown.compute, 8 * (F + B));
    assert_int_equal(r.breakdown.optimizer, OPT);
    assert_int_equal(r.instances, 4);
    assert_int_equal(r.events, 4 * (8 * 2 + 1) + 2 * 3 * 8 * 2);
    sf_prog_free(prog);
    toy_close(&t);
}

/* Two sends of one rank at the same moment share its port, and each has half of it. */
static void test_a_port_is_shared(void **state) {
    (void)state;
    struct toy t = {0};
    struct sf_trace trace;
    struct sf_sim_result r;
    struct sf_err err = {0};
    struct sf_prog *prog = NULL;
    sf_trace_init(&trace);
    toy_open(&t, 1, 4, 1, NULL);
    struct pipe p = {.b = sf_build_create(), .act_bytes = 3000};
    uint32_t axis = sf_build_axis(p.b, "dp", 4);
    uint32_t near = sf_build_comm(p.b, "near", 1u << axis), far = sf_build_comm(p.b, "far", 1u << axis);
    for (int i = 0; i < 4; i++) {
        sf_build_stream(p.b, (const char *const[]){"a", "b", "c", "d"}[i]);
    }
    struct sf_prog *draft = sf_build_prog(p.b);
    draft->ranks_per_domain = draft->domain_gpus = 4;
    draft->device_memory_bytes = 1 << 20;
    draft->job = (struct sf_prog_job){.microbatches = 1, .chunks = 1};
    sf_build_class_begin(p.b, "all", 0);
    uint32_t buf[4];
    for (int i = 0; i < 4; i++) {
        buf[i] = sf_build_buffer(p.b, "x", SF_BUF_WORK, 3000, true);
    }
    pipe_transfer(&p, SF_OP_SEND, 0, near, 1, 0, buf[0], SF_NONE);
    pipe_transfer(&p, SF_OP_SEND, 1, far, 2, 0, buf[1], SF_NONE);
    pipe_transfer(&p, SF_OP_RECV, 2, near, -1, 0, buf[2], SF_NONE);
    pipe_transfer(&p, SF_OP_RECV, 3, far, -2, 0, buf[3], SF_NONE);
    sf_build_class_end(p.b);
    must(sf_build_finish(p.b, (uint32_t[]){0}, 1, &prog, &err), &err);
    sf_build_free(p.b);
    must_run(prog, &t, &(struct sf_sim_options){.unfolded = true, .trace = &trace, .trace_ranks = 1}, &r);
    assert_int_equal(trace.recs_n, 4);
    assert_int_equal(trace.recs[0].start, 0);
    assert_int_equal(trace.recs[0].end, 6000 * BYTE_PS + 2 * US);
    assert_int_equal(trace.recs[1].issue, 0);
    assert_int_equal(trace.recs[1].start, 0);
    assert_int_equal(trace.recs[1].end, 6000 * BYTE_PS + 2 * US);
    assert_int_equal(r.step_time, 6000 * BYTE_PS + 2 * US);
    assert_int_equal(r.breakdown.p2p, 6000 * BYTE_PS + 2 * US);
    assert_int_equal(r.breakdown.bubble, 0);
    sf_trace_clear(&trace);
    sf_prog_free(prog);
    toy_close(&t);
}

/* Replicas of unequal speed: the reduction starts when the slower one arrives, and lasts what the ring takes. */
static void test_a_collective_waits_for_the_last(void **state) {
    (void)state;
    struct toy t = {0};
    struct sf_sim_result r;
    struct sf_trace trace;
    sf_trace_init(&trace);
    toy_open(&t, 1, 2, 1, NULL);
    struct pipe p = pipeline(1, 2, true);
    p.tp = 2;
    p.per_domain = p.domain_gpus = 2;
    p.grad_bytes = 1 << 20;
    p.everyone = true;
    p.tp_slower = 5000;
    struct sf_prog *prog = pipe_build(&p);
    must_run(prog, &t, &(struct sf_sim_options){.trace = &trace}, &r);
    sf_time_ps slow = 2 * (F + 5000 * NS) + 2 * B, fast = 2 * (F + B);
    sf_time_ps ring = 2 * ((1 << 19) * BYTE_PS + 2 * US);
    assert_int_equal(r.instances, 2);
    assert_int_equal(trace.recs_n, 2 * 7);
    const struct sf_trace_rec *own = &trace.recs[5], *other = &trace.recs[7 + 5];
    assert_int_equal(own->issue, fast);
    assert_int_equal(own->start, slow);
    assert_int_equal(own->end, slow + ring);
    assert_int_equal(other->issue, slow);
    assert_int_equal(other->end, own->end);
    assert_int_equal(r.step_time, slow + ring + OPT);
    assert_int_equal(breakdown_sum(&r.breakdown), r.step_time);
    assert_int_equal(r.breakdown.dp_comm, ring); /* rank 0 ends last by lowest rank: it waited 10 us for the other */
    assert_int_equal(r.breakdown.bubble, slow - fast);
    sf_trace_clear(&trace);
    sf_prog_free(prog);
    toy_close(&t);
}

/* Collectives inside recipes count apart; dispatch goes to other. */
static void test_the_breakdown_names_its_parts(void **state) {
    (void)state;
    struct toy t = {0};
    struct sf_sim_result r;
    toy_open(&t, 1, 8, 1,
             "transport: { collective_latency: 1us, collective_rate: 2GB/s, dispatch: 100ns }\n"
             "kernels: [ { kind: copy, dtype: f32, dims: [20000], time: 25us, n: 3 } ]\n");
    struct pipe p = pipeline(1, 2, true);
    p.tp = 4;
    p.ep = 2;
    p.per_domain = p.domain_gpus = 8;
    p.tp_bytes = 4000;
    p.ep_bytes = 8000;
    struct sf_prog *prog = pipe_build(&p);
    must_run(prog, &t, NULL, &r);
    assert_int_equal(r.instances, 1);
    assert_int_equal(r.breakdown.compute, 2 * (F + 25 * US));
    assert_int_equal(r.breakdown.tp_comm, 2 * 2 * (3000 * BYTE_PS / 2 + 3 * US));
    assert_int_equal(r.breakdown.ep_comm, 2 * (4000 * BYTE_PS / 2 + 1 * US));
    assert_int_equal(r.breakdown.other, 5 * 100 * NS);
    assert_int_equal(r.breakdown.bubble, 0);
    assert_int_equal(breakdown_sum(&r.breakdown), r.step_time);
    assert_int_equal(r.grade, SF_GRADE_MEASURED);
    assert_true(r.extrapolated_share == 0.0);
    sf_prog_free(prog);
    toy_close(&t);
}

static void test_traces_repeat_byte_for_byte(void **state) {
    (void)state;
    struct sf_buf out[2] = {{0}, {0}};
    struct pipe p = pipeline(4, 6, false);
    p.dp = 3;
    p.grad_bytes = 3000;
    p.per_domain = p.domain_gpus = 6;
    struct toy t = {0};
    toy_open(&t, 2, 6, 3, NULL);
    struct sf_prog *prog = pipe_build(&p);
    for (int i = 0; i < 2; i++) {
        struct sf_trace trace;
        struct sf_sim_result r;
        struct sf_err err = {0};
        sf_trace_init(&trace);
        must_run(prog, &t, &(struct sf_sim_options){.unfolded = true, .trace = &trace, .trace_ranks = 12, .seed = 5},
                 &r);
        assert_int_equal(trace.recs_n, r.events);
        assert_int_equal(trace.meta.seed, 5);
        assert_string_equal(trace.meta.origin, "sim-unfolded");
        must(sf_trace_encode(&trace, &out[i], &err), &err);
        sf_trace_clear(&trace);
    }
    assert_int_equal(out[0].bytes, out[1].bytes);
    assert_memory_equal(out[0].data, out[1].data, out[0].bytes);
    sf_buf_free(&out[0]);
    sf_buf_free(&out[1]);
    sf_prog_free(prog);
    toy_close(&t);
}

/* Replaying a simulated trace as if it had been measured gives it back; slowing one op slows the step. */
static void test_replay(void **state) {
    (void)state;
    struct toy t = {0};
    struct sf_trace trace;
    struct sf_sim_result first, again;
    struct sf_err err = {0};
    sf_trace_init(&trace);
    struct pipe p = pipeline(3, 4, false);
    toy_open(&t, 1, 3, 1, NULL);
    struct sf_prog *prog = pipe_build(&p);
    must_run(prog, &t, &(struct sf_sim_options){.unfolded = true, .trace = &trace, .trace_ranks = 3}, &first);
    must_run(prog, &t, &(struct sf_sim_options){.unfolded = true, .replay = &trace}, &again);
    assert_int_equal(first.digest.lo, again.digest.lo);
    assert_int_equal(first.digest.hi, again.digest.hi);
    must_run(prog, &t, &(struct sf_sim_options){.replay = &trace}, &again);
    assert_int_equal(first.digest.lo, again.digest.lo);
    for (size_t i = 0; i < trace.recs_n; i++) { /* the optimizer of stage 0, which ends the step */
        if (trace.recs[i].rank == 0 && trace.recs[i].end == first.step_time) {
            trace.recs[i].busy += 9 * US;
        }
    }
    must_run(prog, &t, &(struct sf_sim_options){.unfolded = true, .replay = &trace}, &again);
    assert_int_equal(again.step_time, first.step_time + 9 * US);
    assert_int_equal(again.breakdown.optimizer, OPT + 9 * US);
    trace.recs_n--; /* now a record is missing */
    assert_int_equal(sf_sim_run(prog, t.cost, &(struct sf_sim_options){.replay = &trace}, &again, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "no record of op"));
    trace.meta.prog.lo ^= 1;
    assert_int_equal(sf_sim_run(prog, t.cost, &(struct sf_sim_options){.replay = &trace}, &again, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "compare equal programs"));
    sf_trace_clear(&trace);
    sf_prog_free(prog);
    toy_close(&t);
}

static void test_a_wrong_cluster_is_refused(void **state) {
    (void)state;
    struct toy t = {0};
    struct sf_sim_result r;
    struct sf_err err = {0};
    struct pipe p = pipeline(4, 2, true);
    struct sf_prog *prog = pipe_build(&p);
    toy_open(&t, 1, 3, 1, NULL);
    assert_int_equal(sf_sim_run(prog, t.cost, NULL, &r, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "domains of 3"));
    toy_close(&t);
    prog->ranks_per_domain = prog->domain_gpus = 3;
    toy_open(&t, 1, 3, 1, NULL);
    assert_int_equal(sf_sim_run(prog, t.cost, NULL, &r, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "need 2 domains"));
    toy_close(&t);
    sf_prog_free(prog);
}

/* No checked program hangs, so break one behind the checker's back: gradients now go round the dp axis. */
static void test_a_deadlock_is_named(void **state) {
    (void)state;
    struct toy t = {0};
    struct sf_sim_result r;
    struct sf_err err = {0};
    struct pipe p = pipeline(2, 2, true);
    p.dp = 2;
    p.per_domain = p.domain_gpus = 4;
    struct sf_prog *prog = pipe_build(&p);
    toy_open(&t, 1, 4, 1, NULL);
    prog->comms[p.comm_bwd].axes = 1u << AXIS_DP;
    for (int unfolded = 0; unfolded < 2; unfolded++) {
        assert_int_equal(sf_sim_run(prog, t.cost, &(struct sf_sim_options){.unfolded = unfolded}, &r, &err),
                         SF_E_INPUT);
        assert_non_null(strstr(err.msg, "deadlock: rank 0 waits for ever in op"));
        assert_non_null(strstr(err.msg, "recv"));
    }
    toy_close(&t);
    sf_prog_free(prog);
}

static void test_memory_running_out(void **state) {
    (void)state;
    struct toy t = {0};
    struct sf_sim_result r;
    struct pipe p = pipeline(4, 4, false);
    p.dp = 2;
    p.grad_bytes = 128;
    p.per_domain = p.domain_gpus = 8;
    struct sf_prog *prog = pipe_build(&p);
    toy_open(&t, 1, 8, 1, NULL);
    int rc = SF_E_INTERNAL;
    for (size_t n = 1; rc != SF_OK; n++) {
        struct sf_err err = {0};
        assert_true(n < 1000);
        sf_alloc_fail_after(n);
        rc = sf_sim_run(prog, t.cost, NULL, &r, &err);
        sf_alloc_fail_after(0);
        assert_true(rc == SF_OK || err.code == rc);
    }
    sf_prog_free(prog);
    toy_close(&t);
}

/* Few events and many: the same order, whatever was added when. */
static void test_the_queue_sorts(void **state) {
    (void)state;
    for (uint32_t size = 5; size <= 50000; size *= 10) {
        struct sfi_event *room = test_calloc(sfi_queue_room(size), sizeof *room);
        struct sfi_queue q;
        sfi_queue_init(&q, room, size);
        struct sfi_event last = {0, 0};
        uint64_t x = 1, taken = 0;
        for (uint64_t added = 0; taken < 20000;) {
            x = x * UINT64_C(6364136223846793005) + 1442695040888963407u;
            if (q.n < size && (q.n == 0 || x >> 63)) { /* never before what was taken last */
                sfi_queue_add(&q, last.time + (sf_time_ps)(x >> 40 & 7), UINT64_C(1) << 40 | added++);
                continue;
            }
            struct sfi_event e = sfi_queue_first(&q);
            assert_true(sfi_event_before(last, e));
            sfi_queue_take(&q);
            last = e;
            taken++;
        }
        test_free(room);
    }
}

/* Emptied and filled anew, as when dead events are dropped, nothing is lost; also with all events at one moment, and
 * with one far behind all others. */
static void test_a_queue_is_emptied(void **state) {
    (void)state;
    static const uint32_t sizes[] = {200, 2000, 40000};
    static const sf_time_ps spans[] = {1, 1000, INT64_C(1) << 40};
    for (size_t k = 0; k < 9; k++) {
        uint32_t size = sizes[k / 3], n = size / 2;
        struct sfi_event *room = test_calloc(sfi_queue_room(size), sizeof *room), last = {-1, 0};
        struct sfi_queue q;
        sfi_queue_init(&q, room, size);
        for (uint32_t i = 0; i < n; i++) {
            uint64_t x = (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
            sfi_queue_add(&q, i == 7 ? INT64_MAX / 8 : (sf_time_ps)(x >> 20) % spans[k % 3], x);
        }
        for (uint32_t i = 0; i < n; i++) {
            if (i % (n / 4) == 0) {
                uint32_t left = sfi_queue_empty(&q);
                assert_int_equal(left, n - i);
                assert_int_equal(q.n, 0);
                for (uint32_t e = 0; e < left; e++) {
                    struct sfi_event event = q.event[e];
                    sfi_queue_add(&q, event.time, event.key);
                }
            }
            struct sfi_event e = sfi_queue_first(&q);
            assert_true(sfi_event_before(last, e) || last.time < 0);
            sfi_queue_take(&q);
            last = e;
        }
        assert_int_equal(q.n, 0);
        test_free(room);
    }
}

/* A kernel bound by cores runs at the share of them that is left, one bound by memory at the share of that. */
static void test_kernels_feel_communication(void **state) {
    (void)state;
    const struct sfi_load cores = {.cores = SFI_ONE}, memory = {.memory = SFI_ONE};
    const struct sfi_load both = {.cores = SFI_ONE / 2, .memory = SFI_ONE / 4}, neither = {0};
    assert_int_equal(sfi_kernel_rate(&cores, SFI_ONE / 4, SFI_ONE / 2), SFI_FULL / 4 * 3);
    assert_int_equal(sfi_kernel_rate(&memory, SFI_ONE / 4, SFI_ONE / 2), SFI_FULL / 2);
    assert_int_equal(sfi_kernel_rate(&both, SFI_ONE / 4, SFI_ONE / 2), SFI_FULL - SFI_FULL / 8 - SFI_FULL / 8);
    assert_int_equal(sfi_kernel_rate(&neither, SFI_ONE, SFI_ONE), SFI_FULL);
    assert_int_equal(sfi_kernel_rate(&cores, 3 * SFI_ONE, 0), SFI_FULL / 16); /* something is always left */
}

/* Half a kernel at full speed, then the rest at a quarter of it: 4 + 16 us; back at full speed after 8 of these. */
static void test_work_is_conserved(void **state) {
    (void)state;
    struct sfi_worker w = {.cell = &(struct sfi_cell){.queue = {.size = 8}}};
    struct sfi_event room[8];
    struct sfi_act a = {.key = 1};
    w.cell->queue.event = room;
    sfi_act_begin(&a, 0, SFI_FULL, 0, 8 * US);
    sfi_queue_act(&w, &a, sfi_act_end(&a), 1);
    assert_int_equal(a.queued, 8 * US);
    w.now = 4 * US;
    sfi_act_press(&w, &a, SFI_FULL / 4);
    assert_int_equal(sfi_act_end(&a), 20 * US);
    assert_int_equal(a.queued, 8 * US); /* found late when it happens */
    w.now = 8 * US;
    sfi_act_settle(&a, w.now);
    sfi_queue_act(&w, &a, sfi_act_end(&a), 1);
    w.now = 12 * US;
    sfi_act_press(&w, &a, SFI_FULL);
    assert_int_equal(a.queued, 14 * US); /* earlier than the event before */
    assert_int_equal(w.cell->queue.n, 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpipe),
        cmocka_unit_test(test_1f1b),
        cmocka_unit_test(test_1f1b_closed_form),
        cmocka_unit_test(test_a_port_is_shared),
        cmocka_unit_test(test_a_collective_waits_for_the_last),
        cmocka_unit_test(test_the_breakdown_names_its_parts),
        cmocka_unit_test(test_traces_repeat_byte_for_byte),
        cmocka_unit_test(test_replay),
        cmocka_unit_test(test_a_wrong_cluster_is_refused),
        cmocka_unit_test(test_a_deadlock_is_named),
        cmocka_unit_test(test_memory_running_out),
        cmocka_unit_test(test_kernels_feel_communication),
        cmocka_unit_test(test_work_is_conserved),
        cmocka_unit_test(test_the_queue_sorts),
        cmocka_unit_test(test_a_queue_is_emptied),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
