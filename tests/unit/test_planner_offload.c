/* Activations that wait on the host: programs of every shape are sound, copy what a hand works out, need less of the
 * device, and take no longer where the link keeps up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/arena.h"
#include "planner/schedule.h"
#include "planner/search.h"
#include "sim/sim.h"
#include "tests/unit/test_planner_compiled.h"

enum { LAYERS = 8 };

static struct sf_scenario scenario(void) {
    return shaped_scenario(cluster, &(struct shape){LAYERS, 512, 4, 2, 1536, 0, 128, 2048, SF_BF16});
}

static struct sf_plan plan_for(struct sf_scenario *s, uint32_t pp, uint32_t vpp, uint32_t offload) {
    return even_plan(s, (struct sf_plan){.dp = 2,
                                         .pp = pp,
                                         .vpp = vpp,
                                         .microbatches = 4,
                                         .offload = offload,
                                         .schedule = vpp > 1 ? SF_SCHEDULE_INTERLEAVED : SF_SCHEDULE_1F1B});
}

/* Everything goes and comes once; on the device, what is away leaves room. */
static void test_volumes_and_memory(void **state) {
    (void)state;
    struct sf_scenario s = scenario();
    uint64_t arena[2], kept = 0;
    for (uint32_t k = 0; k < 2; k++) {
        struct sf_plan p = plan_for(&s, 1, 1, k * 6);
        struct sf_prog *prog = compiled(&s, &p);
        const struct sf_class *c = &prog->classes[0];
        uint32_t out, in;
        uint64_t away = bytes_moved(c, SF_OP_OFFLOAD, &out);
        assert_int_equal(away, bytes_moved(c, SF_OP_FETCH, &in));
        assert_int_equal(out, in);
        assert_int_equal(out, k * 2 * 6 * p.microbatches); /* the activations of a layer, and its input */
        arena[k] = c->arena_bytes;
        kept = away / p.microbatches;
        assert_true(k == 0 ? c->host_bytes == 0 : c->host_bytes >= kept && c->host_bytes < kept + kept / 50);
        sf_prog_free(prog);
    }
    uint64_t row = UINT64_C(2048) * 512 * 2;
    assert_true(kept > 6 * 8 * row); /* input, norms, queries to values, attention, sum, gate and up, their product */
    assert_true(arena[0] > arena[1] + kept / 2 && arena[0] < arena[1] + kept); /* two units have room for each way */
}

static void test_every_shape_is_sound(void **state) {
    (void)state;
    struct sf_scenario s = scenario();
    static const int recomputes[] = {SF_RECOMPUTE_NONE, SF_RECOMPUTE_FULL, SF_RECOMPUTE_SELECTIVE};
    for (uint32_t zero = 0; zero <= 3; zero++) {
        for (uint32_t vpp = 1; vpp <= 2; vpp++) {
            for (uint32_t pp = vpp; pp <= 4; pp *= 2) {
                for (size_t r = 0; r < sizeof recomputes / sizeof recomputes[0]; r++) {
                    struct sf_plan p = plan_for(&s, pp, vpp, LAYERS / pp / vpp);
                    p.zero = zero;
                    p.recompute = recomputes[r];
                    sf_prog_free(compiled(&s, &p));
                }
            }
        }
    }
}

static void test_split_backwards_and_uneven_stages(void **state) {
    (void)state;
    struct sf_scenario s = scenario();
    static const int schedules[] = {SF_SCHEDULE_GPIPE, SF_SCHEDULE_ZB_H1, SF_SCHEDULE_ZB_H2};
    for (size_t k = 0; k < sizeof schedules / sizeof schedules[0]; k++) {
        struct sf_plan p = plan_for(&s, 2, 1, 3);
        p.schedule = schedules[k];
        p.layers[0] = 5;
        p.layers[1] = 3;
        struct sf_prog *prog = compiled(&s, &p);
        uint32_t ops;
        assert_true(bytes_moved(&prog->classes[0], SF_OP_OFFLOAD, &ops) > 0);
        sf_prog_free(prog);
    }
}

static struct sf_sim_result simulated(const struct sf_scenario *s, const struct sf_plan *p) {
    struct sf_prog *prog = compiled(s, p);
    struct sf_cost *cost = NULL;
    struct sf_sim_result r;
    struct sf_err err = {0};
    assert_int_equal(sf_cost_create(s->topo, &sf_io_posix, NULL, &cost, &err), 0);
    assert_int_equal(sf_sim_run(prog, cost, NULL, &r, &err), 0);
    sf_cost_free(cost);
    sf_prog_free(prog);
    return r;
}

/* A copy takes its bytes over the link's rate and its latency; more layers on the host never make a step shorter, and
 * all of them on a slow link hold it up for what nothing hides. */
static void test_simulated_time(void **state) {
    (void)state;
    struct sf_scenario s = scenario();
    struct sf_cost *cost = NULL;
    struct sf_err err = {0};
    assert_int_equal(sf_cost_create(cluster, &sf_io_posix, NULL, &cost, &err), 0);
    sf_time_ps copy = sf_cost_host_copy(cost, UINT64_C(51000000000)) - sf_cost_host_copy(cost, 0);
    assert_true(llabs(copy - SF_PS_PER_S) < SF_PS_PER_S / 1000000); /* 51 GB/s of PCI Express 5 */
    sf_time_ps time[3];
    for (uint32_t k = 0; k < 3; k++) {
        struct sf_plan p = plan_for(&s, 1, 1, k == 0 ? 1 : 3 * k);
        struct sf_sim_result r = simulated(&s, &p);
        time[k] = r.step_time;
        assert_true(r.host_memory_bytes > 0);
        assert_true(k < 2 || r.breakdown.offload > r.step_time / 10); /* nothing else is as slow */
    }
    assert_true(time[0] <= time[1] && time[1] < time[2]);
    struct sf_plan p = plan_for(&s, 1, 1, 6);
    struct sf_prog *prog = compiled(&s, &p);
    uint32_t ops;
    sf_time_ps all = sf_cost_host_copy(cost, bytes_moved(&prog->classes[0], SF_OP_OFFLOAD, &ops));
    assert_true(time[2] > all && time[2] < time[0] + 2 * all + 2 * ops * sf_cost_host_copy(cost, 0));
    sf_prog_free(prog);
    sf_cost_free(cost);
}

static void refuses(const struct sf_scenario *s, const struct sf_plan *p, const char *text) {
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    assert_int_not_equal(sf_compile(s, p, &prog, &err), 0);
    if (strstr(err.msg, text) == NULL) {
        fail_msg("expected \"%s\" in: %s", text, err.msg);
    }
}

static void test_refusals(void **state) {
    (void)state;
    struct sf_scenario s = scenario();
    struct sf_plan p = plan_for(&s, 2, 1, 5);
    refuses(&s, &p, "offload is at most the layers of a virtual stage, found 5; layers[0] is 4");
    p = plan_for(&s, 2, 1, 2);
    p.layers[0] = 8;
    p.layers[1] = 0;
    refuses(&s, &p, "layers[1] is 0");
    p = plan_for(&s, 2, 1, 2);
    p.schedule = SF_SCHEDULE_DUALPIPE;
    refuses(&s, &p, "one copy of the model");
    s.topo = load_cluster("hgx-a100-3072");
    struct sf_stock stock;
    sf_topo_stock(s.topo, 0, &stock);
    p = plan_for(&s, 2, 1, 2);
    if (stock.cpu == NULL) {
        refuses(&s, &p, "cpu_link");
    }
    sf_topo_free(s.topo);
}

/* A scenario may say how layers are cut and how many are offloaded; the planner chooses the rest. */
static void test_pins(void **state) {
    (void)state;
    struct sf_scenario s = scenario();
    static struct sf_plan_result results[3];
    struct sf_search_stats stats;
    struct sf_cost *cost = NULL;
    struct sf_err err = {0};
    const struct sf_search_options options = {.top = 3, .simulate = 6};
    uint32_t n = 0;
    s.job.gpus = 8;
    s.job.global_batch_sequences = 16;
    s.pins.offload = 2;
    assert_int_equal(sf_layout_parse("Ett|tt|t|tttL", &s.pins.layout, &err), 0);
    assert_int_equal(sf_cost_create(cluster, &sf_io_posix, NULL, &cost, &err), 0);
    assert_int_not_equal(sf_search(&s, cost, &options, results, &n, &stats, &err), 0); /* a stage has one layer */
    assert_int_equal(sf_layout_parse("Ett|tt|tt|ttL", &s.pins.layout, &err), 0);
    if (sf_search(&s, cost, &options, results, &n, &stats, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    assert_true(n > 0);
    for (uint32_t i = 0; i < n; i++) {
        const struct sf_plan *p = &results[i].plan;
        assert_int_equal(p->pp * p->vpp, 4);
        assert_int_equal(p->offload, 2);
        assert_true(p->layers[0] == 2 && p->layers[1] == 2 && p->layers[2] == 2 && p->layers[3] == 2);
    }
    sf_plan_results_clear(results, n);
    assert_int_equal(sf_layout_parse("Ett|tttL", &s.pins.layout, &err), 0);
    assert_int_equal(sf_search(&s, cost, &options, results, &n, &stats, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "plan.layout has 5 layers, the model 8"));
    sf_cost_free(cost);
}

/* What comes back is used, and only when it is back. */
static struct sf_op *find_op(struct sf_class *c, int kind, uint32_t from) {
    for (uint32_t i = from; i < c->ops_n; i++) {
        if (c->ops[i].kind == kind) {
            return (struct sf_op *)(uintptr_t)&c->ops[i];
        }
    }
    fail();
    return NULL;
}

#define expect_fault(prog, rc, text) expect_fault_at(__LINE__, prog, rc, text)
static void expect_fault_at(int line, const struct sf_prog *prog, int rc, const char *text) {
    struct sf_err err = {0};
    if (sf_prog_check(prog, &err) != rc) {
        fail_msg("line %d: expected %d, found %d: %s", line, rc, err.code, err.msg);
    }
    if (text != NULL && strstr(err.msg, text) == NULL) {
        fail_msg("expected \"%s\" in: %s", text, err.msg);
    }
}

static void test_proof(void **state) {
    (void)state;
    struct sf_scenario s = scenario();
    struct sf_plan p = plan_for(&s, 1, 1, 4);
    struct sf_prog *prog = compiled(&s, &p);
    struct sf_class *c = &prog->classes[0];
    struct sf_arg *args = (struct sf_arg *)(uintptr_t)c->args;
    struct sf_op *away = find_op(c, SF_OP_OFFLOAD, 0), *fetch = find_op(c, SF_OP_FETCH, 0);
    expect_fault(prog, SF_OK, NULL);

    prog->host_memory_bytes = c->host_bytes - 1;
    expect_fault(prog, SF_E_NOPLAN, "share of the host");
    prog->host_memory_bytes = 0;

    uint16_t own = fetch->microbatch;
    fetch->microbatch = (uint16_t)(own + 1);
    expect_fault(prog, SF_E_INPUT, NULL); /* somebody else's activations */
    fetch->microbatch = own;

    struct sf_arg *used = NULL; /* the backward goes on with what is no longer there */
    for (uint32_t i = 0; i < c->ops_n; i++) {
        const struct sf_op *op = &c->ops[i];
        for (uint32_t a = 0;
             op->kind == SF_OP_BACKWARD && op->microbatch == own && op->chunk == fetch->chunk && a < op->arg_n; a++) {
            used = args[op->arg_first + a].buf == args[fetch->arg_first + 1].buf ? &args[op->arg_first + a] : used;
        }
    }
    assert_non_null(used);
    uint32_t back = used->buf;
    for (uint32_t i = 0; i < c->ops_n; i++) {
        const struct sf_op *op = &c->ops[i];
        bool took = op->kind == SF_OP_OFFLOAD && op->microbatch == own && op->chunk == fetch->chunk;
        used->buf = took && args[op->arg_first].bytes == used->bytes ? args[op->arg_first].buf : used->buf;
    }
    assert_int_not_equal(used->buf, back);
    expect_fault(prog, SF_E_INPUT, NULL);
    used->buf = back;

    uint32_t host = args[away->arg_first + 1].buf;
    args[away->arg_first + 1].buf = args[away->arg_first].buf;
    expect_fault(prog, SF_E_INPUT, "not in the host's memory");
    args[away->arg_first + 1].buf = host;

    uint32_t kind = away->kind; /* nobody puts there what is fetched, and nobody fetches what is put there */
    away->kind = SF_OP_FETCH;
    expect_fault(prog, SF_E_INPUT, NULL);
    away->kind = (uint8_t)kind;
    expect_fault(prog, SF_OK, NULL);
    sf_prog_free(prog);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_volumes_and_memory),
        cmocka_unit_test(test_every_shape_is_sound),
        cmocka_unit_test(test_split_backwards_and_uneven_stages),
        cmocka_unit_test(test_simulated_time),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_pins),
        cmocka_unit_test(test_proof),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
