/* What collectives run on: chosen as the quickest, obeyed by the simulator, kept by files, refused where it cannot be.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/arena.h"
#include "planner/picks.h"
#include "planner/search.h"
#include "tests/unit/test_planner_compiled.h"

static const struct shape wide_shape = {4, 8192, 64, 8, 28672, 0, 32768, 8192, SF_BF16};
static struct sf_topo *rack;
static struct sf_cost *cost;

static int load_rack(void **state) {
    (void)state;
    rack = load_cluster("gb300-nvl72-1rack");
    struct sf_err err = {0};
    return sf_cost_create(rack, &sf_io_posix, NULL, &cost, &err);
}

static int free_rack(void **state) {
    (void)state;
    sf_cost_free(cost);
    sf_topo_free(rack);
    return 0;
}

static struct sf_plan plan_on_rack(struct sf_scenario *s) {
    s->job.gpus = 16;
    s->job.gpus_asked = 16;
    struct sf_plan p = even_plan(s, (struct sf_plan){.tp = 8, .dp = 2, .microbatches = 2, .zero = 1});
    p.ranks_per_domain = 16;
    return p;
}

static void set(struct sf_plan *p, const char *comm, enum sf_coll_op op, const char *pick) {
    struct sf_plan_picks *one = &p->picks[p->picks_n++];
    *one = (struct sf_plan_picks){.comm = ""};
    snprintf(one->comm, sizeof one->comm, "%s", comm);
    one->of.of[op] = (uint8_t)sf_coll_pick_parse(pick);
}

static struct sf_sim_result simulated(const struct sf_prog *prog) {
    struct sf_sim_result r;
    struct sf_err err = {0};
    if (sf_sim_run(prog, cost, NULL, &r, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    return r;
}

/* Of every operation no pair takes less, over the sizes of all calls; what is chosen is quicker than NCCL's choice. */
static void test_quickest(void **state) {
    (void)state;
    static struct sf_pick_use uses[SF_PICK_USES];
    struct sf_scenario s = shaped_scenario(rack, &wide_shape);
    struct sf_plan p = plan_on_rack(&s);
    struct sf_prog *prog = compiled(&s, &p);
    size_t n = sf_picks_find(prog, cost, uses), gained = 0;
    assert_true(n >= 4);
    for (size_t i = 0; i < n; i++) {
        const struct sf_pick_use *u = &uses[i];
        struct sf_coll_query q = {.op = u->op, .bytes = u->bytes};
        struct sf_coll_choice all[SF_COLL_CANDIDATES], now;
        double best_s = INFINITY, ours_s = -1;
        sf_span_of(prog, rack, u->comm, 0, &q.span);
        size_t all_n = sf_coll_candidates(sf_cost_coll(cost), &q, all);
        sf_coll_choose(sf_cost_coll(cost), &q, &now);
        for (size_t k = 0; k < all_n; k++) {
            if (!sf_coll_can_be_told(u->op, &all[k])) {
                continue;
            }
            bool ours = SF_COLL_PICK((int)all[k].algorithm, (int)all[k].protocol) == u->best;
            best_s = all[k].time_s < best_s ? all[k].time_s : best_s;
            ours_s = ours ? all[k].time_s : ours_s;
        }
        assert_int_equal(u->nccl, SF_COLL_PICK((int)now.algorithm, (int)now.protocol));
        assert_true(u->best == 0 ? u->best_s == u->now_s : u->best_s < u->now_s * (1 - SF_PICK_MARGIN));
        if (strcmp(prog->comms[u->comm].name, "tp") == 0 && u->op == SF_COLL_ALL_GATHER) { /* one size in all calls */
            assert_true((best_s < now.time_s * (1 - SF_PICK_MARGIN)) == (u->best != 0));
            assert_true(u->best == 0 || ours_s <= best_s);
        }
        gained += u->best != 0;
    }
    assert_true(gained > 0);
    sf_prog_free(prog);
}

static void test_obeyed(void **state) {
    (void)state;
    struct sf_scenario s = shaped_scenario(rack, &wide_shape);
    struct sf_plan plain = plan_on_rack(&s), slow = plain, tuned = plain;
    struct sf_err err = {0};
    set(&slow, "tp", SF_COLL_ALL_GATHER, "ring/ll");
    struct sf_prog *a = compiled(&s, &plain), *b = compiled(&s, &slow), *c = compiled(&s, &plain);
    assert_int_equal(sfi_picks_tune(c, cost, &tuned, &err), 0);
    struct sf_prog *d = compiled(&s, &tuned);
    struct sf_hash ha = sf_prog_hash(a), hb = sf_prog_hash(b);
    assert_true(memcmp(&ha, &hb, sizeof ha) != 0);
    assert_true(simulated(b).step_time > simulated(a).step_time);
    assert_true(simulated(c).step_time < simulated(a).step_time);
    assert_true(simulated(d).step_time == simulated(c).step_time);
    for (uint32_t i = 0; i < c->comms_n; i++) {
        assert_memory_equal(&c->comms[i].picks, &d->comms[i].picks, sizeof c->comms[i].picks);
    }
    sf_prog_free(a);
    sf_prog_free(b);
    sf_prog_free(c);
    sf_prog_free(d);
}

static void test_files(void **state) {
    (void)state;
    struct sf_scenario s = shaped_scenario(rack, &wide_shape);
    struct sf_plan p = plan_on_rack(&s);
    struct sf_buf bin = {0}, text = {0};
    struct sf_prog *from_bin, *from_text;
    struct sf_err err = {0};
    set(&p, "tp", SF_COLL_ALL_GATHER, "nvls/simple");
    struct sf_prog *prog = compiled(&s, &p);
    assert_int_equal(sf_prog_encode(prog, &bin, &err), 0);
    assert_int_equal(sf_prog_print(prog, &text, &err), 0);
    assert_non_null(strstr(text.data, "all_gather=nvls/simple"));
    assert_int_equal(sf_prog_decode(bin.data, bin.bytes, "p.sfprog", &from_bin, &err), 0);
    assert_int_equal(sf_prog_parse(text.data, text.bytes, "p.txt", &from_text, &err), 0);
    for (uint32_t i = 0; i < prog->comms_n; i++) {
        assert_memory_equal(&prog->comms[i].picks, &from_bin->comms[i].picks, sizeof prog->comms[i].picks);
        assert_memory_equal(&prog->comms[i].picks, &from_text->comms[i].picks, sizeof prog->comms[i].picks);
        assert_int_equal(prog->comms[i].axes, from_bin->comms[i].axes);
    }
    sf_prog_free(prog);
    sf_prog_free(from_bin);
    sf_prog_free(from_text);
    sf_buf_free(&bin);
    sf_buf_free(&text);
}

static void expect_refused(const struct sf_plan *p, const char *says) {
    struct sf_scenario s = shaped_scenario(rack, &wide_shape);
    struct sf_prog *prog = NULL;
    struct sf_sim_result r;
    struct sf_err err = {0};
    (void)plan_on_rack(&s);
    s.job.global_batch_sequences = (uint64_t)p->dp * p->micro_batch * p->microbatches;
    int rc = sf_compile(&s, p, &prog, &err);
    rc = rc == 0 ? sf_sim_run(prog, cost, NULL, &r, &err) : rc;
    if (rc != SF_E_INPUT || strstr(err.msg, says) == NULL) {
        fail_msg("expected \"%s\", found %d: %s", says, rc, err.msg);
    }
    sf_prog_free(prog);
}

static void test_refused(void **state) {
    (void)state;
    struct sf_scenario s = shaped_scenario(rack, &wide_shape);
    const struct sf_plan plain = plan_on_rack(&s);
    struct sf_plan p = plain;
    set(&p, "ep", SF_COLL_ALL_GATHER, "ring/ll");
    expect_refused(&p, "a communicator \"ep\"; this plan has tp, ");
    p = plain;
    set(&p, "tp", SF_COLL_ALL_TO_ALL, "direct/simple");
    expect_refused(&p, "what all_to_all of tp runs on, and this plan has none");
    p = plain;
    set(&p, "tp", SF_COLL_ALL_GATHER, "tree/simple");
    expect_refused(&p,
                   "all_gather of tp cannot run on tree/simple: its 8 ranks lie in 1 domain, which allows ring/ll, ");
}

/* Devices without a collective model have no algorithms to choose from. */
static void test_nothing_known(void **state) {
    (void)state;
    struct sf_scenario s = shaped_scenario(cluster, &tiny_shape);
    struct sf_plan p = even_plan(&s, (struct sf_plan){.tp = 2, .dp = 2, .microbatches = 2});
    struct sf_cost *cpus;
    struct sf_sim_result r;
    struct sf_err err = {0};
    set(&p, "tp", SF_COLL_ALL_GATHER, "ring/simple");
    struct sf_prog *prog = compiled(&s, &p);
    assert_int_equal(sf_cost_create(cluster, &sf_io_posix, NULL, &cpus, &err), 0);
    assert_int_equal(sf_sim_run(prog, cpus, NULL, &r, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "its device names no collective model"));
    sf_cost_free(cpus);
    sf_prog_free(prog);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quickest), cmocka_unit_test(test_obeyed),        cmocka_unit_test(test_files),
        cmocka_unit_test(test_refused),  cmocka_unit_test(test_nothing_known),
    };
    cluster = load_cluster("cpu-8");
    int failed = cmocka_run_group_tests(tests, load_rack, free_rack);
    sf_topo_free(cluster);
    return failed;
}
