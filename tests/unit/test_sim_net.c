/* The flow network on hand-made links: times that can be worked out on paper, and everything it must refuse. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/arena.h"
#include "sim/fair.h"
#include "sim/net.h"

#define GB UINT64_C(1000000000) /* per second: one byte takes 1000 ps */
static const struct sf_net_wire plain = {.packet_bytes = 4096};

static uint32_t link_of(struct sf_net *n, uint64_t rate, sf_time_ps latency) {
    return sf_net_add_link(n, &(struct sf_net_link){rate, rate, latency, SF_NET_NO_LINK, 1});
}

static uint32_t path_of(struct sf_net *n, uint32_t links_n, const uint32_t *links) {
    struct sf_net_path p = {.cap_bytes_per_s = SF_FAIR_NO_CAP, .links_n = links_n};
    for (uint32_t i = 0; i < links_n; i++) {
        p.links[i] = links[i];
    }
    return sf_net_add_path(n, &p);
}

static struct sf_net_result run(struct sf_net *n) {
    struct sf_net_result r;
    struct sf_err err = {0};
    if (sf_net_run(n, NULL, &r, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    return r;
}

static void done(struct sf_net *n, struct sf_net_result *r) {
    sf_net_result_free(r);
    sf_net_free(n);
}

static void test_one_message(void **state) {
    (void)state;
    struct sf_net *n = sf_net_create(plain);
    uint32_t a = link_of(n, GB, 500), b = link_of(n, 2 * GB, 700);
    struct sf_net_path p = {.software_ps = 11, .cap_bytes_per_s = SF_FAIR_NO_CAP, .links_n = 2, .links = {a, b}};
    sf_net_add_message(n, sf_net_add_path(n, &p), 10000);
    struct sf_net_result r = run(n);
    assert_int_equal(r.time, 10000 * 1000 + 500 + 700 + 11);
    assert_int_equal(r.p50, r.time);
    assert_int_equal(r.p99, r.time);
    assert_int_equal(r.use[a].bytes, 10000);
    assert_int_equal(r.use[b].shared_ps, 0);
    assert_int_equal(r.events, 2);
    assert_int_equal(r.solves, 0);
    done(n, &r);
}

/* Three packets of 1000, 1000 and 500 bytes with 24 of headers each; the last one crosses the other link on its own, as
 * long as a full packet takes. Cut-through saves exactly that. */
static void test_packets(void **state) {
    (void)state;
    for (int store = 0; store < 2; store++) {
        struct sf_net *n = sf_net_create((struct sf_net_wire){1000, 24, store});
        uint32_t links[] = {link_of(n, GB, 0), link_of(n, GB, 0), link_of(n, 4 * GB, 0)};
        sf_net_add_message(n, path_of(n, 3, links), 2500);
        struct sf_net_result r = run(n);
        assert_int_equal(r.time, (2500 + 3 * 24) * 1000 + (store ? 1024 * 1000 + 1024 * 250 : 0));
        assert_int_equal(r.use[links[0]].bytes, 2572);
        done(n, &r);
    }
}

/* Four planes of a quarter of the rate, packet by packet: one packet takes one of them, five take two rounds. A packet
 * behind another one takes another plane. */
static void test_stripes(void **state) {
    (void)state;
    static const struct {
        uint64_t bytes;
        sf_time_ps ns; /* 1000 bytes take 1 us of the whole link, 4 us of a plane */
    } rows[] = {{500, 2000}, {1000, 4000}, {2000, 4000}, {4000, 4000}, {5000, 8000}, {8000, 8000}, {400000, 400000}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (uint32_t stripes = 0; stripes <= 4; stripes += 4) {
            struct sf_net *n = sf_net_create((struct sf_net_wire){.packet_bytes = 1000});
            struct sf_net_path p = {.cap_bytes_per_s = SF_FAIR_NO_CAP, .stripes = stripes, .links_n = 1};
            p.links[0] = link_of(n, GB, 0);
            sf_net_add_message(n, sf_net_add_path(n, &p), rows[i].bytes);
            struct sf_net_result r = run(n);
            sf_time_ps want = stripes ? rows[i].ns * 1000 : (sf_time_ps)rows[i].bytes * 1000;
            assert_true(r.time >= want && r.time <= want + want / 1000000);
            done(n, &r);
        }
    }
    struct sf_net *n = sf_net_create((struct sf_net_wire){1000, 0, true});
    struct sf_net_path p = {.cap_bytes_per_s = SF_FAIR_NO_CAP, .stripes = 4, .links_n = 2};
    p.links[0] = link_of(n, GB, 0);
    p.links[1] = link_of(n, GB, 0);
    uint32_t path = sf_net_add_path(n, &p);
    for (int i = 0; i < 4; i++) {
        sf_net_add_message(n, path, 1000);
    }
    struct sf_net_result r = run(n);
    assert_int_equal(r.time, 2 * 4000 * 1000); /* side by side; the switch waits for the packet of a plane */
    done(n, &r);
}

/* A and B share; B is half as long, and what it leaves A takes. */
static void test_rates_follow_who_is_there(void **state) {
    (void)state;
    struct sf_net *n = sf_net_create(plain);
    uint32_t link = link_of(n, GB, 0), path = path_of(n, 1, &link);
    uint32_t a = sf_net_add_message(n, path, 3000), b = sf_net_add_message(n, path, 1000);
    uint32_t c = sf_net_add_message(n, path, 600);
    sf_net_add_wait(n, c, b, SF_NET_DELIVERED);
    struct sf_net_result r = run(n);
    assert_int_equal(r.end[b], 2000 * 1000);                 /* 1000 bytes at half the rate */
    assert_int_equal(r.end[c], (2000 + 1200) * 1000);        /* then 600 at half */
    assert_int_equal(r.end[a], (2000 + 1200 + 1400) * 1000); /* 1600 of 3000 are through: 1400 alone */
    assert_int_equal(r.use[link].shared_ps, (2000 + 1200) * 1000);
    assert_int_equal(r.use[link].most, 2);
    assert_int_equal(r.use[link].messages, 3);
    assert_int_equal(r.most_flows, 2);
    done(n, &r);
}

/* The long flow has a third of the narrow link; the one it meets on the wide link takes the rest there. */
static void test_parking_lot(void **state) {
    (void)state;
    struct sf_net *n = sf_net_create(plain);
    uint32_t wide = link_of(n, 3 * GB, 0), narrow = link_of(n, GB, 0);
    uint32_t both = path_of(n, 2, (uint32_t[]){wide, narrow}), one = path_of(n, 1, &wide);
    uint32_t last = path_of(n, 1, &narrow);
    uint32_t a = sf_net_add_message(n, both, 1000), b = sf_net_add_message(n, last, 1000);
    uint32_t c = sf_net_add_message(n, one, 5000);
    struct sf_net_result r = run(n);
    assert_int_equal(r.end[a], 2000 * 1000);
    assert_int_equal(r.end[b], 2000 * 1000);
    assert_int_equal(r.end[c], 2000 * 1000); /* 2.5 bytes per ns beside the long one */
    done(n, &r);
}

static void test_windows_and_congestion(void **state) {
    (void)state;
    struct sf_net *n = sf_net_create(plain);
    uint32_t lossy = sf_net_add_link(n, &(struct sf_net_link){GB, GB * 4 / 5, 0, SF_NET_NO_LINK, 1});
    struct sf_net_path capped = {.cap_bytes_per_s = GB / 10, .links_n = 1, .links = {lossy}};
    uint32_t slow = sf_net_add_path(n, &capped), fast = path_of(n, 1, &lossy);
    uint32_t a = sf_net_add_message(n, slow, 100), b = sf_net_add_message(n, fast, 1400);
    struct sf_net_result r = run(n);
    assert_int_equal(r.end[a], 1000 * 1000);         /* its window's rate, shared or not */
    assert_int_equal(r.end[b], (1000 + 700) * 1000); /* 700 beside it, of the 800 that two get through; then alone */
    done(n, &r);
}

/* "sent" releases what waits before the latency, "delivered" after it; of a delay both are its end. */
static void test_edges(void **state) {
    (void)state;
    struct sf_net *n = sf_net_create(plain);
    uint32_t link = link_of(n, GB, 1000000), path = path_of(n, 1, &link);
    uint32_t d = sf_net_add_delay(n, 0, 5000), a = sf_net_add_message(n, path, 10);
    uint32_t b = sf_net_add_message(n, path, 10), c = sf_net_add_delay(n, 0, 1);
    sf_net_add_wait(n, a, d, SF_NET_SENT);
    sf_net_add_wait(n, b, a, SF_NET_SENT);
    sf_net_add_wait(n, c, a, SF_NET_DELIVERED);
    sf_net_add_wait(n, c, d, SF_NET_DELIVERED);
    struct sf_net_result r = run(n);
    assert_int_equal(r.end[a], 5000 + 10000 + 1000000);
    assert_int_equal(r.end[b], 5000 + 20000 + 1000000);
    assert_int_equal(r.end[c], r.end[a] + 1);
    done(n, &r);
}

static void test_nothing_and_no_bytes(void **state) {
    (void)state;
    struct sf_net *n = sf_net_create(plain);
    struct sf_net_result r = run(n);
    assert_int_equal(r.time, 0);
    sf_net_result_free(&r);
    uint32_t link = link_of(n, GB, 7);
    sf_net_add_message(n, path_of(n, 1, &link), 0);
    r = run(n);
    assert_int_equal(r.time, 7);
    done(n, &r);
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

static void expect_refused(struct sf_net *n, const char *words) {
    struct sf_net_result r;
    struct sf_err err = {0};
    assert_int_equal(sf_net_run(n, NULL, &r, &err), SF_E_INPUT);
    if (strstr(err.msg, words) == NULL) {
        fail_msg("expected \"%s\" in: %s", words, err.msg);
    }
    assert_null(r.end);
    sf_net_free(n);
}

static void test_builders_refuse(void **state) {
    (void)state;
    struct sf_net *n = sf_net_create((struct sf_net_wire){0});
    expect_refused(n, "packet of 0 bytes");
    n = sf_net_create(plain);
    link_of(n, UINT64_MAX, 0);
    link_of(n, GB, 0); /* the first error stays */
    expect_refused(n, "link 0");
    n = sf_net_create(plain);
    link_of(n, GB, INT64_MAX);
    expect_refused(n, "latency");
    n = sf_net_create(plain);
    path_of(n, 0, NULL);
    expect_refused(n, "neither a link nor a rate");
    n = sf_net_create(plain);
    path_of(n, 1, (uint32_t[]){3});
    expect_refused(n, "uses link 3 of 0");
    n = sf_net_create(plain);
    sf_net_add_path(n, &(struct sf_net_path){.cap_bytes_per_s = GB, .stripes = 65});
    expect_refused(n, "65 stripes");
    n = sf_net_create(plain);
    uint32_t l = link_of(n, GB, 0);
    path_of(n, 2, (uint32_t[]){l, l});
    expect_refused(n, "twice");
    n = sf_net_create(plain);
    sf_net_add_message(n, 0, 1);
    expect_refused(n, "path 0 of 0");
    n = sf_net_create(plain);
    sf_net_add_delay(n, 4, -1);
    expect_refused(n, "endpoint 4");
    n = sf_net_create(plain);
    sf_net_add_delay(n, 0, 1);
    sf_net_add_wait(n, 0, 0, SF_NET_SENT);
    expect_refused(n, "earlier one");
}

static void test_dead_links_and_ages(void **state) {
    (void)state;
    struct sf_net *n = sf_net_create(plain);
    uint32_t link = link_of(n, 0, 0);
    sf_net_add_message(n, path_of(n, 1, &link), 5);
    expect_refused(n, "link 0 of its path carries 0 bytes");
    n = sf_net_create(plain);
    link = link_of(n, 1, 0);
    sf_net_add_message(n, path_of(n, 1, &link), UINT64_C(1) << 40);
    expect_refused(n, "106 days");
    n = sf_net_create(plain);
    link = link_of(n, GB, 0);
    for (int i = 0; i < 1025; i++) {
        sf_net_add_message(n, path_of(n, 1, &link), SF_NET_BYTES_MAX);
    }
    expect_refused(n, "2^60 bytes");
}

/* Every allocation of building and running may fail; each time the error says so and nothing leaks. */
static void test_memory_runs_out(void **state) {
    (void)state;
    int failed = 0;
    for (size_t i = 1; i < 60; i++) {
        struct sf_net_result r = {0};
        struct sf_err err = {0};
        sf_alloc_fail_after(i);
        struct sf_net *n = sf_net_create(plain);
        if (n != NULL) {
            uint32_t link = link_of(n, GB, 0), path = path_of(n, 1, &link), first = 0;
            for (int k = 0; k < 600; k++) {
                first = sf_net_add_message(n, path, 1);
            }
            sf_net_add_wait(n, first, 0, SF_NET_SENT);
            int rc = sf_net_run(n, NULL, &r, &err);
            assert_true(rc == 0 || rc == SF_E_INTERNAL);
            failed += rc != 0;
        }
        sf_alloc_fail_after(0);
        sf_net_result_free(&r);
        sf_net_free(n);
    }
    assert_in_range(failed, 20, 58); /* some runs got through at the end */
    sf_net_free(NULL);
}

static void test_dump(void **state) {
    (void)state;
    struct sf_net *n = sf_net_create((struct sf_net_wire){4096, 26, true});
    uint32_t links[] = {link_of(n, GB, 500), link_of(n, 2 * GB, 0)};
    struct sf_net_path p = {1, 2, 9, GB, 0, 2, {links[0], links[1]}};
    uint32_t m = sf_net_add_message(n, sf_net_add_path(n, &p), 77), d = sf_net_add_delay(n, 2, 5);
    sf_net_add_wait(n, d, m, SF_NET_DELIVERED);
    sf_net_add_wait(n, d, m, SF_NET_SENT);
    struct sf_buf out = {0};
    assert_int_equal(sf_net_dump(n, &out, NULL), 0);
    sf_buf_write(&out, "", 1);
    assert_string_equal(out.data, "staticfire-net 1\npacket 4096 26 store\n"
                                  "links 2\n1000000000 500\n2000000000 0\n"
                                  "paths 1\n1 2 9 1000000000 2 0 1\n"
                                  "items 2\nmessage 0 77\ndelay 5\n"
                                  "waits 2\n1 0 delivered\n1 0 sent\n");
    sf_buf_free(&out);
    sf_net_free(n);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_message),     cmocka_unit_test(test_packets),
        cmocka_unit_test(test_stripes),         cmocka_unit_test(test_rates_follow_who_is_there),
        cmocka_unit_test(test_parking_lot),     cmocka_unit_test(test_windows_and_congestion),
        cmocka_unit_test(test_edges),           cmocka_unit_test(test_nothing_and_no_bytes),
        cmocka_unit_test(test_builders_refuse), cmocka_unit_test(test_dead_links_and_ages),
        cmocka_unit_test(test_memory_runs_out), cmocka_unit_test(test_dump),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
