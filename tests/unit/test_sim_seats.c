/* Where ranks sit when GPUs are dead, spare or missing, and what a step takes where GPUs are of two kinds. */
#include "test_sim_random.h"

#include "sim/seats.h"

/* "old" does everything at half the speed of "toy", and so does its card. */
static const char *old_text(const char *path) {
    static char device[2048], card[512];
    if (strstr(path, "devices/old")) {
        snprintf(device, sizeof device, "%s", toy_device);
        memcpy(strstr(device, "toy"), "old", 3);
        *strstr(device, "8GB/s") = '4';
        return device;
    }
    if (strstr(path, "links/tape") || strstr(path, "other/card")) { /* which says it is a card */
        snprintf(card, sizeof card,
                 "name: %s\npeak: { value: 0.25GB/s, source: test, grade: measured }\n"
                 "usable: { value: 0.25GB/s, source: test, grade: measured }\n"
                 "latency: { value: 5us, source: test, grade: measured }\n",
                 strstr(path, "other/card") ? "card" : "tape");
        return card;
    }
    return NULL;
}

static const char *overlay_text;

static int read_any(void *self, const char *path, size_t max_bytes, char **data, size_t *bytes, struct sf_err *err) {
    const char *text = strcmp(path, "overlay.yaml") == 0 ? overlay_text : old_text(path);
    if (text == NULL) {
        return toy_read(self, path, max_bytes, data, bytes, err);
    }
    *bytes = strlen(text);
    *data = sf_malloc(*bytes + 1);
    assert_non_null(*data);
    memcpy(*data, text, *bytes + 1);
    return 0;
}

#define DOMAIN                                                                                                         \
    "domain: { kind: box, trays: 1, gpus_per_tray: %u, cpus_per_tray: 0, nvswitches: 0, link: wire, "                  \
    "links_per_gpu: 1, gpus_in_use: %u }"
#define FABRIC                                                                                                         \
    "rails: 1\nfabric: { switch: box, leaf_down: %u, tiers: 2, oversubscription: 1, cables: { nic_leaf: "              \
    "1m, leaf_spine: 2m } }\n"

struct racks {
    const char *device, *nic;
    uint32_t domains, in_use;
};

static void open_racks(struct toy *t, uint32_t gpus, const struct racks *racks, uint32_t n, const char *overlay) {
    struct sf_err err = {0};
    size_t size = sizeof t->files.cluster, at;
    at = (size_t)snprintf(t->files.cluster, size, "name: racks\ngroups:\n");
    for (uint32_t i = 0; i < n; i++) {
        at +=
            (size_t)snprintf(t->files.cluster + at, size - at, "  - { device: %s, domains: %u, nic: %s, " DOMAIN " }\n",
                             racks[i].device, racks[i].domains, racks[i].nic, gpus, racks[i].in_use);
    }
    at += (size_t)snprintf(t->files.cluster + at, size - at, FABRIC, gpus);
    assert_true(at < size);
    t->io = (struct sf_io){&t->files, read_any, NULL};
    must(sf_topo_load(&t->io, "cluster.yaml", "cat", &t->topo, &err), &err);
    overlay_text = overlay;
    if (overlay) {
        must(sf_topo_load_overlay(&t->io, "overlay.yaml", t->topo, &err), &err);
    }
    must(sf_cost_create(t->topo, &t->io, NULL, &t->cost, &err), &err);
}

static const struct racks four[] = {{"toy", "card", 4, 4}};

static void expect_seats(const char *overlay, uint32_t per_domain, uint32_t n, const uint32_t *want,
                         struct sf_seats_report report) {
    struct toy t = {0};
    struct sf_err err = {0};
    const struct sf_blocks b = {.ranks = n, .most = per_domain};
    struct sf_seats_report got;
    uint32_t gpu[16];
    open_racks(&t, 4, four, 1, overlay);
    must(sf_seats_fill(t.topo, &b, gpu, &got, &err), &err);
    for (uint32_t r = 0; r < n; r++) {
        uint32_t one = sf_seats_of(t.topo, &b, r);
        assert_int_equal(gpu[r], want[r]);
        assert_true(one == gpu[r] || (report.on_spares > 0 && one == SF_NONE));
    }
    assert_memory_equal(&got, &report, sizeof got);
    assert_int_equal(sf_seats_fit(t.topo, &b), report.on_spares == 0);
    toy_close(&t);
}

static void test_ranks_step_over_what_is_lost(void **state) {
    (void)state;
    const uint32_t plain[] = {0, 1, 2, 3, 4, 5}, halves[] = {0, 1, 4, 5, 8, 9}, dead[] = {0, 2, 4, 5, 8, 9};
    const uint32_t rack[] = {0, 1, 2, 3, 8, 9, 10, 11}, spare[] = {0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15};
    expect_seats(NULL, 4, 6, plain, (struct sf_seats_report){0});
    expect_seats(NULL, 2, 6, halves, (struct sf_seats_report){0});
    expect_seats("dead: { gpus: [\"1\"] }\n", 2, 6, dead,
                 (struct sf_seats_report){.moved = 1, .lost = 1, .first_lost = 1});
    expect_seats("dead: { gpus: [\"4..7\"] }\n", 4, 8, rack,
                 (struct sf_seats_report){.moved = 4, .lost = 4, .first_lost = 4, .lost_domain = 1});
    expect_seats("dead: { gpus: [\"4..7\"] }\nspare: { domains: [3] }\n", 4, 12, spare,
                 (struct sf_seats_report){.moved = 8, .on_spares = 4, .lost = 4, .first_lost = 4, .lost_domain = 1});
}

static void test_too_few_seats_name_the_ranks(void **state) {
    (void)state;
    struct toy t = {0};
    struct sf_err err = {0};
    uint32_t gpu[16];
    open_racks(&t, 4, four, 1, "dead: { gpus: [\"4..6\"] }\n");
    assert_false(sf_seats_fit(t.topo, &(struct sf_blocks){.ranks = 16, .most = 4}));
    assert_int_equal(sf_seats_fill(t.topo, &(struct sf_blocks){.ranks = 16, .most = 4}, gpu, NULL, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "ranks 4 to 7 find no seats: domain 1 has 1 of the 4"));
    assert_true(sf_seats_fit(t.topo, &(struct sf_blocks){.ranks = 12, .most = 4}));
    toy_close(&t);
}

static void test_partly_filled_racks_are_passed_over(void **state) {
    (void)state;
    const struct racks partly[] = {{"toy", "card", 1, 4}, {"toy", "card", 2, 2}, {"toy", "card", 1, 4}};
    const uint32_t want[] = {0, 1, 2, 12, 13, 14, 4, 5};
    struct toy t = {0};
    struct sf_err err = {0};
    uint32_t gpu[16];
    open_racks(&t, 4, partly, 3, NULL);
    must(sf_seats_fill(t.topo, &(struct sf_blocks){.ranks = 6, .most = 3}, gpu, NULL, &err), &err);
    assert_memory_equal(gpu, want, 6 * sizeof *gpu);
    assert_false(sf_seats_fit(t.topo, &(struct sf_blocks){.ranks = 9, .most = 3}));
    assert_int_not_equal(sf_seats_fill(t.topo, &(struct sf_blocks){.ranks = 9, .most = 3}, gpu, NULL, &err), 0);
    toy_close(&t);
}

/* Two pairs to a whole block: racks of 4 first, then racks of 3 and 2 with a pair each. */
static void test_smaller_racks_take_smaller_blocks(void **state) {
    (void)state;
    const struct racks mixed[] = {{"toy", "card", 1, 3}, {"toy", "card", 2, 4}, {"toy", "card", 1, 2}};
    const uint32_t want[] = {4, 5, 6, 7, 8, 9, 10, 11, 0, 1, 12, 13};
    struct sf_blocks b;
    struct toy t = {0};
    struct sf_err err = {0};
    struct sf_seats_report report;
    uint32_t gpu[16];
    open_racks(&t, 4, mixed, 3, NULL);
    sf_blocks_init(&b, 12, 4, (uint32_t[]){2, 2, 3}, 3); /* pairs; four are a block; twelve are in no rack */
    assert_int_equal(b.teams_n, 2);
    assert_true(sf_seats_fit(t.topo, &b));
    must(sf_seats_fill(t.topo, &b, gpu, &report, &err), &err);
    assert_memory_equal(gpu, want, sizeof want);
    assert_int_equal(report.moved, 0);
    for (uint32_t r = 0; r < b.ranks; r++) {
        assert_int_equal(sf_seats_of(t.topo, &b, r), want[r]);
    }
    b.ranks = 14;
    assert_false(sf_seats_fit(t.topo, &b));
    assert_int_equal(sf_seats_fill(t.topo, &b, gpu, NULL, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "seats for 12 ranks"));
    toy_close(&t);
    open_racks(&t, 4, mixed, 3, "dead: { gpus: [\"1\", \"2\"] }\n"); /* no pair is left in the first */
    b.ranks = 12;
    assert_int_equal(sf_seats_fill(t.topo, &b, gpu, NULL, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "ranks 8 to 9 find no seats: domain 0 has 1 of the 2"));
    b.ranks = 10;
    must(sf_seats_fill(t.topo, &b, gpu, &report, &err), &err);
    assert_int_equal(gpu[9], 13);
    assert_int_equal(report.moved + report.lost, 0);
    toy_close(&t);
}

/* One microbatch of 10 us forward and 20 us backward on every stage, with so many ranks to a domain. */
static struct pipe pipe_of(uint32_t tp, uint32_t dp, uint32_t pp, uint32_t per_domain) {
    return (struct pipe){.tp = tp,
                         .ep = 1,
                         .dp = dp,
                         .pp = pp,
                         .microbatches = 1,
                         .per_domain = per_domain,
                         .domain_gpus = per_domain,
                         .f_ns = {10000, 10000},
                         .b_ns = {20000, 20000}};
}

static struct sf_sim_result step_on(struct pipe p, const struct racks *racks, uint32_t n, const char *overlay) {
    struct toy t = {0};
    struct sf_sim_result folded, r;
    open_racks(&t, p.domain_gpus, racks, n, overlay);
    struct sf_prog *prog = pipe_build(&p);
    must_run(prog, &t, &(struct sf_sim_options){.unfolded = true, .audit = true}, &r);
    must_run(prog, &t, &(struct sf_sim_options){0}, &folded);
    assert_int_equal(r.violations, 0);
    assert_int_equal(r.step_time, folded.step_time);
    assert_memory_equal(&r.digest, &folded.digest, sizeof r.digest);
    sf_prog_free(prog);
    toy_close(&t);
    return r;
}

/* One microbatch through two stages: the second on the old kind, so twice as long there; transfers over tape, because
 * the narrower end decides: 500 bytes in 2 us, 5.32 us of cards, cables and switches before. */
static void test_stages_on_two_kinds(void **state) {
    (void)state;
    const struct racks mixed[] = {{"toy", "card", 1, 1}, {"old", "tape", 1, 1}};
    struct pipe p = pipe_of(1, 1, 2, 1);
    p.gpipe = true;
    p.act_bytes = 500;
    struct toy t = {0};
    struct sf_route r;
    open_racks(&t, 1, mixed, 2, NULL);
    sf_topo_route(t.topo, 0, 1, &r);
    toy_close(&t);
    assert_int_equal(r.bytes_per_s, 250000000);
    sf_time_ps f = 10 * US, b = 20 * US, hop = 2 * US + r.latency_ps;
    assert_int_equal(step_on(p, mixed, 2, NULL).step_time, f + hop + 2 * f + 2 * b + hop + b + 70 * NS);
}

/* Four replicas of two stages: the first stage fills a rack of four, the second two racks of two. */
static void test_stages_on_racks_of_two_sizes(void **state) {
    (void)state;
    const struct racks alike[] = {{"toy", "card", 1, 4}, {"toy", "card", 2, 2}};
    const struct racks mixed[] = {{"toy", "card", 1, 4}, {"old", "tape", 2, 2}};
    struct pipe p = pipe_of(1, 4, 2, 4);
    p.gpipe = true;
    p.act_bytes = 500;
    struct toy t = {0};
    struct sf_route r;
    open_racks(&t, 4, alike, 2, NULL);
    sf_topo_route(t.topo, 0, 4, &r);
    toy_close(&t);
    sf_time_ps f = 10 * US, b = 20 * US, near = 1 * US + r.latency_ps, far = 2 * US + r.latency_ps;
    assert_int_equal(step_on(p, alike, 2, NULL).step_time, 2 * f + 2 * b + 2 * near + 70 * NS);
    assert_int_equal(step_on(p, mixed, 2, NULL).step_time, f + far + 2 * f + 2 * b + far + b + 70 * NS);
    p.tp = 2; /* pairs keep together, and so do their collectives */
    p.dp = 2;
    p.tp_bytes = 4000;
    sf_time_ps together = step_on(p, alike, 2, NULL).step_time;
    p.per_domain = 2;
    const struct racks pairs[] = {{"toy", "card", 4, 2}};
    assert_int_equal(step_on(p, pairs, 1, NULL).step_time, together);
}

/* Racks of any size and kind in any order: folded and unfolded agree, whoever sits where. */
static void test_random_racks_fold(void **state) {
    (void)state;
    struct sf_rng rng = sf_rng_seed(74);
    uint32_t uneven = 0;
    for (int i = 0; i < 150; i++) {
        struct racks racks[4];
        struct pipe p;
        uint32_t n = pick(&rng, 2, 4), seats = 0, least = 9;
        do {
            random_pipe(&rng, &p);
        } while (p.tp * p.ep * p.dp * p.pp > 24 || p.domain_gpus > 6 || p.per_domain < p.domain_gpus);
        uint32_t ranks = p.tp * p.ep * p.dp * p.pp;
        for (uint32_t k = 0; k < n; k++) {
            bool old = chance(&rng, 40);
            racks[k] = (struct racks){old ? "old" : "toy", old ? "tape" : "card", pick(&rng, 1, 3),
                                      k == 0 ? p.domain_gpus : pick(&rng, 1, p.domain_gpus)};
            seats += racks[k].in_use / p.tp * p.tp * racks[k].domains;
            least = racks[k].in_use < least ? racks[k].in_use : least;
        }
        if (p.domain_gpus % p.tp != 0 || p.domain_gpus < p.tp || seats < ranks) {
            continue;
        }
        struct sf_prog *prog = pipe_build(&p);
        struct sf_blocks b;
        struct toy t = {0};
        sf_blocks_of(prog, &b);
        open_racks(&t, p.domain_gpus, racks, n, NULL);
        bool fits = sf_seats_fit(t.topo, &b);
        sf_prog_free(prog);
        toy_close(&t);
        if (fits) {
            step_on(p, racks, n, NULL);
            uneven += least < p.domain_gpus;
        }
    }
    assert_true(uneven >= 20);
}

/* Replicas of two kinds meet in their gradients: the reduction goes at the pace of the slower, and begins when it is
 * ready. */
static void test_replicas_of_two_kinds_wait_for_the_slower(void **state) {
    (void)state;
    const struct racks fast[] = {{"toy", "card", 2, 2}}, slow[] = {{"old", "tape", 2, 2}};
    const struct racks mixed[] = {{"toy", "card", 1, 2}, {"old", "tape", 1, 2}};
    struct pipe p = pipe_of(2, 2, 1, 2);
    p.microbatches = 2;
    p.act_bytes = 500;
    p.grad_bytes = 4000;
    sf_time_ps all_slow = step_on(p, slow, 1, NULL).step_time, all_fast = step_on(p, fast, 1, NULL).step_time;
    sf_time_ps both = step_on(p, mixed, 2, NULL).step_time;
    assert_int_equal(both, all_slow);
    assert_true(all_fast < both);
}

/* Kinds differ by what they are worth: racks whose cards have one name and two rates are not of one kind. */
static void test_names_do_not_make_a_kind(void **state) {
    (void)state;
    const struct racks named[] = {{"toy", "card", 1, 2}, {"toy", "other/card.yaml", 1, 2}};
    const struct racks slow[] = {{"toy", "tape", 2, 2}}, again[] = {{"toy", "card", 1, 2}, {"toy", "card", 1, 2}};
    struct pipe p = pipe_of(1, 4, 1, 2);
    p.grad_bytes = 4000;
    uint8_t kind_of_stock[SF_KINDS_MAX];
    struct toy t = {0};
    open_racks(&t, 2, named, 2, NULL);
    assert_int_equal(sf_kinds_of(t.topo, kind_of_stock), 2);
    assert_true(sf_topo_mixed(t.topo));
    toy_close(&t);
    open_racks(&t, 2, again, 2, NULL);
    assert_int_equal(sf_kinds_of(t.topo, kind_of_stock), 1);
    assert_false(sf_topo_mixed(t.topo));
    toy_close(&t);
    assert_int_equal(step_on(p, named, 2, NULL).step_time, step_on(p, slow, 1, NULL).step_time);
}

/* A team that straddles kinds keeps step with the slower one. */
static void test_a_team_of_two_kinds_keeps_step(void **state) {
    (void)state;
    const struct racks slow[] = {{"old", "tape", 2, 1}}, mixed[] = {{"toy", "card", 1, 1}, {"old", "tape", 1, 1}};
    struct pipe p = pipe_of(2, 1, 1, 1);
    p.microbatches = 2;
    p.act_bytes = 500;
    p.tp_bytes = 4000;
    assert_int_equal(step_on(p, mixed, 2, NULL).step_time, step_on(p, slow, 1, NULL).step_time);
}

static void test_a_hurt_nic_slows_its_group(void **state) {
    (void)state;
    const struct racks fast[] = {{"toy", "card", 4, 1}};
    struct pipe p = pipe_of(1, 2, 2, 1);
    p.act_bytes = 500;
    p.grad_bytes = 4000;
    sf_time_ps well = step_on(p, fast, 1, NULL).step_time;
    sf_time_ps hurt = step_on(p, fast, 1, "degraded: [{ nics: [\"0\"], rate: 0.5 }]\n").step_time;
    struct pipe one = p; /* replica of two GPUs: half of the cluster idles */
    one.dp = 1;
    one.gpipe = true;
    one.grad_bytes = 0;
    sf_time_ps idle = step_on(one, fast, 1, "degraded: [{ nics: [\"3\"], rate: 0.5 }]\n").step_time;
    sf_time_ps idle_well = step_on(one, fast, 1, NULL).step_time;
    assert_true(hurt > well);
    assert_int_equal(idle, idle_well); /* nobody uses it */
}

/* Two messages at once from one GPU share what its NVLink has left, as they share all of it where it is whole. */
static void test_hurt_nvlink_is_shared(void **state) {
    (void)state;
    const struct racks fast[] = {{"toy", "card", 2, 4}};
    const char *half = "degraded: [{ links: [\"nvlink-up 0\"], rate: 0.5 }]\n";
    struct pipe p = pipe_of(2, 2, 1, 4);
    p.act_bytes = 500000;
    p.ring = 1;
    sf_time_ps one_well = step_on(p, fast, 1, NULL).step_time, one_hurt = step_on(p, fast, 1, half).step_time;
    p.cross = 1;
    sf_time_ps two_well = step_on(p, fast, 1, NULL).step_time, two_hurt = step_on(p, fast, 1, half).step_time;
    sf_time_ps message = one_hurt - one_well; /* at half the rate it takes as long again */
    assert_int_equal(two_well - one_well, message);
    assert_int_equal(two_hurt - one_well, 3 * message);
}

static void test_ranks_that_cannot_meet_are_named(void **state) {
    (void)state;
    const struct racks fast[] = {{"toy", "card", 2, 1}};
    struct pipe p = pipe_of(1, 1, 2, 1);
    p.act_bytes = 500;
    struct toy t = {0};
    struct sf_err err = {0};
    struct sf_sim_result r;
    open_racks(&t, 1, fast, 1, "dead: { nics: [\"1\"] }\n");
    struct sf_prog *prog = pipe_build(&p);
    assert_int_equal(sf_sim_run(prog, t.cost, NULL, &r, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "rank 0 (gpu 0) does not reach rank 1 (gpu 1): "));
    assert_non_null(strstr(err.msg, "dead"));
    assert_int_equal(err.line, 1);
    sf_prog_free(prog);
    toy_close(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranks_step_over_what_is_lost),
        cmocka_unit_test(test_too_few_seats_name_the_ranks),
        cmocka_unit_test(test_partly_filled_racks_are_passed_over),
        cmocka_unit_test(test_smaller_racks_take_smaller_blocks),
        cmocka_unit_test(test_stages_on_two_kinds),
        cmocka_unit_test(test_stages_on_racks_of_two_sizes),
        cmocka_unit_test(test_random_racks_fold),
        cmocka_unit_test(test_replicas_of_two_kinds_wait_for_the_slower),
        cmocka_unit_test(test_names_do_not_make_a_kind),
        cmocka_unit_test(test_a_team_of_two_kinds_keeps_step),
        cmocka_unit_test(test_a_hurt_nic_slows_its_group),
        cmocka_unit_test(test_hurt_nvlink_is_shared),
        cmocka_unit_test(test_ranks_that_cannot_meet_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
