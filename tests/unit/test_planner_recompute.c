/* Recomputation of some layers: exactly those run again and leave room, stage by stage, and a search recomputes as few
 * as make a plan fit, which no other choice beats. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TEST_CLUSTER "cpu-8" /* no host beside its devices: nothing is offloaded */
#include "core/arena.h"
#include "core/rng.h"
#include "core/scratch.h"
#include "planner/search_internal.h"
#include "tests/unit/test_planner_compiled.h"

enum { LAYERS = 6 };

static const struct shape small_shape = {LAYERS, 256, 4, 4, 1024, 0, 512, 512, SF_F32};
static const struct shape *shape = &small_shape;

static struct sf_scenario scenario(void) {
    return shaped_scenario(cluster, shape);
}

static struct sf_plan plan_for(struct sf_scenario *s, int schedule, uint32_t first, uint32_t second) {
    struct sf_plan p = even_plan(s, (struct sf_plan){.dp = 2, .pp = 2, .microbatches = 4, .schedule = schedule});
    p.recompute = SF_RECOMPUTE_FULL;
    p.partly = true;
    p.recompute_layers[0] = first;
    p.recompute_layers[1] = second;
    return p;
}

/* Attention that runs again in one backward of a stage. */
static uint32_t again_in(const struct sf_prog *prog, uint32_t stage) {
    const struct sf_class *c = &prog->classes[stage];
    uint32_t most = 0;
    for (uint32_t i = 0; i < c->ops_n; i++) {
        const struct sf_recipe *r = c->ops[i].recipe == SF_NONE ? NULL : &prog->recipes[c->ops[i].recipe];
        uint32_t n = 0;
        for (uint32_t k = 0; r != NULL && k < r->calls_n; k++) {
            n += r->calls[k].kind == SF_CALL_ATTN_FWD && (r->calls[k].flags & SF_CALL_RECOMPUTE_FLAG) != 0;
        }
        most = n > most ? n : most;
    }
    return most;
}

static uint64_t kept_by(const struct sf_prog *prog, uint32_t stage, const char *name, uint32_t *slots) {
    const struct sf_class *c = &prog->classes[stage];
    uint64_t bytes = 0;
    *slots = 0;
    for (uint32_t i = 0; i < c->bufs_n; i++) {
        bool wanted = strncmp(c->bufs[i].name, name, strlen(name)) == 0;
        bytes = wanted ? c->bufs[i].bytes : bytes;
        *slots += wanted;
    }
    return bytes;
}

/* What a layer keeps: norms and their statistics, queries to values, attention with its statistics, sum, gate and up,
 * their product; of its output the place stays. */
static void test_each_stage_has_its_own(void **state) {
    const uint64_t row = UINT64_C(512) * 256 * 4, layer = 4 * row + 3 * row + 2 * 512 * 4 + 512 * 4 * 4 + 3 * 4 * row;
    (void)state;
    for (uint32_t k = 0; k <= 3; k++) {
        struct sf_scenario s = scenario();
        struct sf_plan p = plan_for(&s, SF_SCHEDULE_1F1B, k, 1);
        struct sf_prog *prog = compiled(&s, &p);
        uint32_t slots;
        assert_int_equal(again_in(prog, 0), k);
        assert_int_equal(again_in(prog, 1), 1);
        assert_int_equal(kept_by(prog, 0, "stash", &slots), (3 - k) * layer + 2 * row);
        assert_int_equal(slots, 2);
        assert_int_equal(kept_by(prog, 1, "stash", &slots), 2 * layer + 2 * row);
        assert_int_equal(slots, 1);
        sf_prog_free(prog);
    }
}

/* All layers by number are what all layers by name are. */
static void test_all_and_none(void **state) {
    (void)state;
    for (uint32_t k = 0; k <= 3; k += 3) {
        struct sf_scenario s = scenario();
        struct sf_plan p = plan_for(&s, SF_SCHEDULE_ZB_H1, k, k), plain = p;
        plain.partly = false;
        plain.recompute = k > 0 ? SF_RECOMPUTE_FULL : SF_RECOMPUTE_NONE;
        memset(plain.recompute_layers, 0, sizeof plain.recompute_layers);
        struct sf_prog *a = compiled(&s, &p), *b = compiled(&s, &plain);
        assert_int_equal(a->recipes_n, b->recipes_n);
        for (uint32_t i = 0; i < a->recipes_n; i++) {
            assert_int_equal(a->recipes[i].calls_n, b->recipes[i].calls_n);
        }
        for (uint32_t i = 0; i < 2; i++) {
            assert_int_equal(a->classes[i].arena_bytes, b->classes[i].arena_bytes);
        }
        sf_prog_free(a);
        sf_prog_free(b);
    }
}

/* Of split backwards, what is made again is held for the weight half, the rest stays where it is. */
static void test_split_backwards(void **state) {
    (void)state;
    uint64_t held[4], stash[4];
    for (uint32_t k = 0; k <= 3; k++) {
        struct sf_scenario s = scenario();
        struct sf_plan p = plan_for(&s, SF_SCHEDULE_ZB_H1, k, 0);
        struct sf_prog *prog = compiled(&s, &p);
        uint32_t slots;
        held[k] = kept_by(prog, 0, "held", &slots);
        stash[k] = kept_by(prog, 0, "stash", &slots);
        sf_prog_free(prog);
    }
    assert_int_equal(held[0], 0);
    assert_int_equal(held[3] - held[2], held[2] - held[1]);
    assert_int_equal(stash[1] - stash[2], held[2] - held[1] - UINT64_C(512) * 256 * 4);
}

static void refuses(const struct sf_scenario *s, const struct sf_plan *p, const char *text) {
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    assert_int_equal(sf_compile(s, p, &prog, &err), SF_E_INPUT);
    if (strstr(err.msg, text) == NULL) {
        fail_msg("expected \"%s\" in: %s", text, err.msg);
    }
}

static void test_refusals(void **state) {
    struct sf_scenario s = scenario();
    struct sf_plan p = plan_for(&s, SF_SCHEDULE_1F1B, 3, 4);
    (void)state;
    refuses(&s, &p, "recompute_layers is at most the layers of a virtual stage, found 4; layers[1] is 3");
    p = plan_for(&s, SF_SCHEDULE_1F1B, 1, 1);
    p.recompute = SF_RECOMPUTE_NONE;
    refuses(&s, &p, "but recompute is none");
    p.recompute = p.recompute_rest = SF_RECOMPUTE_SELECTIVE;
    refuses(&s, &p, "recompute_rest must not be full, nor what recompute is; found selective");
    p = plan_for(&s, SF_SCHEDULE_ZB_H1, 1, 1);
    p.recompute_rest = SF_RECOMPUTE_SELECTIVE;
    refuses(&s, &p, "recompute selective needs a schedule of whole backwards");
    p.partly = false;
    refuses(&s, &p, "recompute_rest is for what recompute_layers leaves out");
}

/* ---- search ------------------------------------------------------------------------------------------------------ */

struct tried {
    double best_s;
    struct sf_plan plan;
    uint32_t fit, all;
};

static void try_one(const struct sf_scenario *s, const struct sf_cost *cost, const struct sf_plan *p, struct tried *t) {
    static struct sf_plan_result r;
    int rc = sfi_evaluate(s, cost, p, &r, NULL);
    assert_true(rc == 0 || rc == SF_E_NOPLAN || rc == SF_E_INPUT);
    t->all++;
    t->fit += rc == 0;
    if (rc == 0 && sf_ps_to_s(r.sim.step_time) < t->best_s) {
        t->best_s = sf_ps_to_s(r.sim.step_time);
        t->plan = *p;
    }
}

/* Every cut (of a pipeline both ways, where all ranks do the same for any cut, the even one), every number of layers of
 * either stage, every two kinds. */
static struct tried try_all(const struct sf_scenario *s, const struct sf_cost *cost, int schedule, bool uniform) {
    static const int kinds[][2] = {{SF_RECOMPUTE_FULL, SF_RECOMPUTE_NONE},
                                   {SF_RECOMPUTE_SELECTIVE, SF_RECOMPUTE_NONE},
                                   {SF_RECOMPUTE_FULL, SF_RECOMPUTE_SELECTIVE}};
    struct tried t = {.best_s = INFINITY};
    struct sf_scenario copy = *s;
    bool both_ways = schedule == SF_SCHEDULE_DUALPIPE;
    for (uint32_t first = both_ways ? LAYERS / 2 : 1; first < (both_ways ? LAYERS / 2 + 1 : LAYERS); first++) {
        for (size_t kind = 0; kind < sizeof kinds / sizeof kinds[0]; kind++) {
            for (uint32_t k = 0; k < (first + 1) * (LAYERS - first + 1); k++) {
                struct sf_plan p = plan_for(&copy, schedule, k % (first + 1), k / (first + 1));
                p.microbatches = (uint32_t)(s->job.global_batch_sequences / p.dp);
                p.layers[0] = first;
                p.layers[1] = LAYERS - first;
                p.zero = 1;
                p.recompute = kinds[kind][0];
                p.recompute_rest = kinds[kind][1];
                bool all = p.recompute_layers[0] == first && p.recompute_layers[1] == LAYERS - first;
                bool none = p.recompute_layers[0] == 0 && p.recompute_layers[1] == 0;
                if (!uniform || all || none) {
                    try_one(s, cost, &p, &t);
                }
            }
        }
    }
    return t;
}

static void pin(struct sf_pin *pin, uint32_t value) {
    *pin = (struct sf_pin){.n = 1, .value = {value}};
}

static struct sf_scenario pinned(struct sf_topo *topo, int schedule) {
    struct sf_scenario s = scenario();
    s.topo = topo;
    s.job.gpus = s.job.gpus_asked = 4;
    s.job.global_batch_sequences = 16;
    struct sf_pin *ones[] = {&s.pins.tp,          &s.pins.cp,     &s.pins.ep,  &s.pins.vpp,
                             &s.pins.micro_batch, &s.pins.slices, &s.pins.zero};
    for (size_t i = 0; i < sizeof ones / sizeof ones[0]; i++) {
        pin(ones[i], 1);
    }
    pin(&s.pins.pp, 2);
    pin(&s.pins.schedule, (uint32_t)schedule);
    pin(&s.pins.zero_group, 0);
    pin(&s.pins.split_head, 0);
    pin(&s.pins.order, SF_ORDER_PP_LAST);
    return s;
}

static double searched(const struct sf_scenario *s, const struct sf_cost *cost, struct sf_plan *out, double *bound_s) {
    static struct sf_plan_result results[1];
    const struct sf_search_options options = {.top = 1, .no_advice = true};
    struct sf_search_stats stats;
    struct sf_err err = {0};
    uint32_t n;
    int rc = sf_search(s, cost, &options, results, &n, &stats, &err);
    if (rc != 0) {
        assert_int_equal(rc, SF_E_NOPLAN);
        return INFINITY;
    }
    double found_s = sf_ps_to_s(results[0].sim.step_time);
    *out = results[0].plan;
    *bound_s = stats.bound_s;
    sf_plan_results_clear(results, n);
    return found_s;
}

/* Devices with less and less of the memory that a plan without recomputation takes. */
struct shrinking {
    struct sf_topo *topo;
    const struct sf_cost *cost;
    double from, to; /* of that memory */
    struct sf_pin kinds;
    /* Every choice, or only those that mix nothing. */
    struct tried (*choices)(const struct sf_scenario *s, const struct sf_cost *cost, int schedule, bool plain);
    double behind; /* a choice that mixes nothing counts as behind from this much on */
    uint32_t in_part, gains;
};

static void check_best(const struct sf_scenario *s, struct shrinking *k, int schedule, double part) {
    struct tried all = k->choices(s, k->cost, schedule, false), plain = k->choices(s, k->cost, schedule, true);
    struct sf_plan found = {.pp = 0};
    double bound_s = 0, found_s = searched(s, k->cost, &found, &bound_s), most = all.best_s * (1 + 1e-9);
    print_message("%s, memory %.2f: %u of %u fit; best %.6f s, %u and %u again, %u away; mixing nothing %.6f s%s\n",
                  sf_schedule_name(schedule), part, all.fit, all.all, all.best_s, all.plan.recompute_layers[0],
                  all.plan.recompute_layers[1], all.plan.offload, plain.best_s, found.partly ? ", in part" : "");
    if (isfinite(all.best_s) && (found_s > most || bound_s > most)) {
        fail_msg("found %.9f, bound %.9f, best %.9f with kinds %d and %d", found_s, bound_s, all.best_s,
                 all.plan.recompute, all.plan.recompute_rest);
    }
    assert_true(isfinite(found_s) == isfinite(all.best_s));
    k->in_part += found.partly;
    k->gains += found_s < plain.best_s * (1 - k->behind);
}

static void shrink(struct shrinking *k, int schedule) {
    struct sf_scenario whole = pinned(k->topo, schedule);
    struct sf_plan plain = plan_for(&whole, schedule, 0, 0);
    struct sf_prog *prog = compiled(&whole, &plain);
    double have = (double)sf_topo_device(k->topo)->memory_bytes;
    double need = (double)prog->classes[0].arena_bytes + (double)sf_class_scratch_bytes(prog, 0);
    sf_prog_free(prog);
    for (double part = k->from; part > k->to; part -= 0.05) {
        const struct sf_topo_scale less = {1, 1, part * need / have};
        struct sf_topo *small = NULL;
        assert_int_equal(sf_topo_scaled(k->topo, &less, &small, NULL), 0);
        struct sf_scenario s = pinned(small, schedule);
        s.pins.recompute = k->kinds;
        check_best(&s, k, schedule, part);
        sf_topo_scaled_free(small);
    }
}

static void test_as_few_as_fit(void **state) {
    static const int schedules[] = {SF_SCHEDULE_1F1B, SF_SCHEDULE_GPIPE, SF_SCHEDULE_DUALPIPE};
    struct sf_cost *cost = NULL;
    (void)state;
    assert_int_equal(sf_cost_create(cluster, &sf_io_posix, NULL, &cost, NULL), 0);
    struct shrinking k = {.topo = cluster, .cost = cost, .from = 1.02, .to = 0.56, .choices = try_all, .behind = 1e-3};
    for (size_t i = 0; i < sizeof schedules / sizeof schedules[0]; i++) {
        shrink(&k, schedules[i]);
    }
    assert_true(k.in_part >= 12 && k.gains >= 10);
    sf_cost_free(cost);
}

/* The same with layers on the host besides: every cut, every number there, every number that recompute. */
static struct tried try_hosts(const struct sf_scenario *s, const struct sf_cost *cost, int schedule, bool alone) {
    struct tried t = {.best_s = INFINITY};
    struct sf_scenario copy = *s;
    for (uint32_t first = 1; first < LAYERS; first++) {
        uint32_t second = LAYERS - first, least = first < second ? first : second;
        for (uint32_t k = 0; k < (first + 1) * (second + 1) * (least + 1); k++) {
            uint32_t of_first = k % (first + 1), of_second = k / (first + 1) % (second + 1);
            struct sf_plan p = plan_for(&copy, schedule, of_first, of_second);
            p.microbatches = (uint32_t)(s->job.global_batch_sequences / p.dp);
            p.layers[0] = first;
            p.layers[1] = second;
            p.zero = 1;
            p.offload = k / (first + 1) / (second + 1);
            bool some = of_first + of_second > 0, all = of_first == first && of_second == second;
            if (!alone || p.offload == 0 || !some || all) {
                try_one(s, cost, &p, &t);
            }
        }
    }
    return t;
}

static void test_beside_the_host(void **state) {
    static const struct shape wide = {LAYERS, 4096, 8, 8, 16384, 0, 512, 4096, SF_BF16};
    struct sf_topo *hosts = load_cluster("gb300-nvl72-1rack");
    struct sf_cost *cost = NULL;
    (void)state;
    assert_non_null(hosts);
    assert_int_equal(sf_cost_create(hosts, &sf_io_posix, NULL, &cost, NULL), 0);
    shape = &wide;
    struct shrinking k = {.topo = hosts, .cost = cost, .from = 0.95, .to = 0.5, .choices = try_hosts, .behind = 1e-4};
    k.kinds = (struct sf_pin){.n = 2, .value = {SF_RECOMPUTE_NONE, SF_RECOMPUTE_FULL}};
    shrink(&k, SF_SCHEDULE_GPIPE);
    shrink(&k, SF_SCHEDULE_1F1B);
    shape = &small_shape;
    assert_true(k.gains >= 3);
    sf_cost_free(cost);
    sf_topo_free(hosts);
}

/* A table made to measure counts on what will recompute: without that, nothing fits or all layers would have to. */
static void test_made_tables(void **state) {
    struct sf_cost *cost = NULL;
    uint32_t in_part = 0;
    (void)state;
    assert_int_equal(sf_cost_create(cluster, &sf_io_posix, NULL, &cost, NULL), 0);
    struct sf_scenario whole = pinned(cluster, SF_SCHEDULE_1F1B);
    struct sf_plan plain = plan_for(&whole, SF_SCHEDULE_1F1B, 0, 0);
    struct sf_prog *prog = compiled(&whole, &plain);
    double have = (double)sf_topo_device(cluster)->memory_bytes, need = (double)prog->classes[0].arena_bytes;
    sf_prog_free(prog);
    for (double part = 0.95; part > 0.7; part -= 0.1) {
        const struct sf_topo_scale less = {1, 1, part * need / have};
        struct sf_topo *small = NULL;
        assert_int_equal(sf_topo_scaled(cluster, &less, &small, NULL), 0);
        struct sf_scenario plainly = pinned(small, SF_SCHEDULE_1F1B), made = pinned(small, SF_SCHEDULE_AUTO);
        struct sf_plan plain_found = {.pp = 0}, found = {.pp = 0};
        double bound_s, by_1f1b = searched(&plainly, cost, &plain_found, &bound_s);
        sf_plan_clear(&found);
        double by_table = searched(&made, cost, &found, &bound_s);
        print_message("memory %.2f: 1f1b %.6f s, made to measure %.6f s%s\n", part, by_1f1b, by_table,
                      found.partly ? ", in part" : "");
        assert_true(by_table < 1.15 * by_1f1b);
        in_part += found.partly;
        sf_topo_scaled_free(small);
    }
    sf_cost_free(cost);
    assert_int_equal(in_part, 2);
}

static void test_pins(void **state) {
    struct sf_cost *cost = NULL;
    struct sf_err err = {0};
    struct sf_plan found = {.pp = 0};
    double bound_s;
    (void)state;
    assert_int_equal(sf_cost_create(cluster, &sf_io_posix, NULL, &cost, &err), 0);
    struct sf_scenario s = pinned(cluster, SF_SCHEDULE_1F1B);
    pin(&s.pins.recompute, SF_RECOMPUTE_FULL);
    s.pins.recompute_layers = 2;
    s.pins.recompute_rest = SF_RECOMPUTE_SELECTIVE;
    assert_true(isfinite(searched(&s, cost, &found, &bound_s)));
    assert_true(found.partly && found.recompute == SF_RECOMPUTE_FULL && found.recompute_rest == SF_RECOMPUTE_SELECTIVE);
    for (uint32_t v = 0; v < 2; v++) {
        assert_int_equal(found.recompute_layers[v], found.layers[v] < 2 ? found.layers[v] : 2);
    }
    sf_cost_free(cost);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_stage_has_its_own),
        cmocka_unit_test(test_all_and_none),
        cmocka_unit_test(test_split_backwards),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_as_few_as_fit),
        cmocka_unit_test(test_beside_the_host),
        cmocka_unit_test(test_made_tables),
        cmocka_unit_test(test_pins),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
