/* Random traffic over random links against the plainest simulator: no components, no lists, no queue; at every event
 * all rates are found anew from all messages. Times must agree to the picosecond, in any order of building. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/call.h"
#include "core/rng.h"
#include "sim/fair.h"
#include "sim/net.h"

#define LINKS 30
#define PATHS 30
#define ITEMS 60

__extension__ typedef unsigned __int128 wide;

struct traffic {
    uint32_t links_n, paths_n, items_n;
    struct sf_net_link links[LINKS];
    struct sf_net_path paths[PATHS];
    struct {
        uint32_t path, on[2]; /* SF_NONE: a delay, nothing to wait for */
        enum sf_net_edge edge[2];
        uint64_t amount;
    } items[ITEMS];
};

static uint32_t below(struct sf_rng *rng, uint32_t n) {
    return (uint32_t)(sf_rng_u64(rng) % n);
}

static void random_path(struct sf_rng *rng, const struct traffic *t, struct sf_net_path *p) {
    *p = (struct sf_net_path){.cap_bytes_per_s = below(rng, 4) ? SF_FAIR_NO_CAP : 1 + below(rng, 2000000),
                              .software_ps = below(rng, 1000)};
    uint32_t wanted = 1 + below(rng, 5);
    for (uint32_t i = 0; i < wanted; i++) {
        uint32_t link = below(rng, t->links_n);
        bool twice = false;
        for (uint32_t k = 0; k < p->links_n; k++) {
            twice |= p->links[k] == link;
        }
        if (!twice) {
            p->links[p->links_n++] = link;
        }
    }
}

static void random_traffic(struct sf_rng *rng, struct traffic *t) {
    t->links_n = 1 + below(rng, LINKS);
    t->paths_n = 1 + below(rng, PATHS);
    t->items_n = 1 + below(rng, ITEMS);
    for (uint32_t l = 0; l < t->links_n; l++) {
        uint64_t rate = below(rng, 2) ? 1000000 : 100 + below(rng, 3000000);
        t->links[l] =
            (struct sf_net_link){rate, below(rng, 3) ? rate : rate - rate / 10, below(rng, 100000), SF_NET_NO_LINK, 1};
    }
    for (uint32_t p = 0; p < t->paths_n; p++) {
        random_path(rng, t, &t->paths[p]);
    }
    for (uint32_t i = 0; i < t->items_n; i++) {
        bool delay = below(rng, 5) == 0;
        t->items[i].path = delay ? SF_NONE : below(rng, t->paths_n);
        t->items[i].amount = delay ? below(rng, 1u << 31) : below(rng, 3) ? 1000 : below(rng, 5000);
        for (int k = 0; k < 2; k++) {
            t->items[i].on[k] = i > 0 && below(rng, 3) == 0 ? below(rng, i) : SF_NONE;
            t->items[i].edge[k] = below(rng, 2) ? SF_NET_SENT : SF_NET_DELIVERED;
        }
    }
}

/* ---- the plainest simulator -------------------------------------------------------------------------------------- */

struct plain {
    const struct traffic *t;
    sf_time_ps now, ready[ITEMS], sent[ITEMS], end[ITEMS]; /* -1: not yet; of a delay, `sent` is its end too */
    wide left[ITEMS];
    uint64_t rate[ITEMS];
};

static bool sends(const struct plain *p, uint32_t i) {
    return p->ready[i] >= 0 && p->sent[i] < 0 && p->t->items[i].path != SF_NONE;
}

static uint64_t bound_of(const struct plain *p, uint32_t i) {
    const struct sf_net_path *path = &p->t->paths[p->t->items[i].path];
    uint64_t bound = path->cap_bytes_per_s;
    for (uint32_t k = 0; k < path->links_n; k++) {
        uint64_t rate = p->t->links[path->links[k]].bytes_per_s;
        bound = rate < bound ? rate : bound;
    }
    return bound;
}

static bool crosses(const struct plain *p, uint32_t i, uint32_t link) {
    const struct sf_net_path *path = &p->t->paths[p->t->items[i].path];
    for (uint32_t k = 0; k < path->links_n; k++) {
        if (path->links[k] == link) {
            return true;
        }
    }
    return false;
}

/* Rates from all messages under way; links that could carry all they are asked for are left out. */
static void find_rates(struct plain *p) {
    static uint64_t scratch[8192];
    struct sf_fair_flow flows[ITEMS] = {0};
    uint64_t capacity[LINKS] = {0}, rate[ITEMS];
    uint32_t who[ITEMS], n = 0;
    for (uint32_t i = 0; i < p->t->items_n; i++) {
        if (sends(p, i)) {
            flows[n].cap_bytes_per_s = bound_of(p, i);
            who[n++] = i;
        }
    }
    for (uint32_t l = 0; l < p->t->links_n; l++) {
        uint64_t demand = 0, users = 0;
        for (uint32_t f = 0; f < n; f++) {
            demand += crosses(p, who[f], l) ? bound_of(p, who[f]) : 0;
            users += crosses(p, who[f], l);
        }
        capacity[l] = users > 1 ? p->t->links[l].shared_bytes_per_s : p->t->links[l].bytes_per_s;
        for (uint32_t f = 0; f < n && demand > capacity[l]; f++) {
            if (crosses(p, who[f], l)) {
                flows[f].links[flows[f].links_n++] = l;
            }
        }
    }
    assert_true(sf_fair_scratch_bytes(n, p->t->links_n) <= sizeof scratch);
    sf_fair_rates(flows, n, capacity, p->t->links_n, scratch, rate);
    for (uint32_t f = 0; f < n; f++) {
        p->rate[who[f]] = rate[f];
    }
}

/* What happens next to item i, and when; INT64_MAX when nothing does. */
static sf_time_ps next_of(const struct plain *p, uint32_t i) {
    if (p->ready[i] < 0 || p->end[i] >= 0) {
        return INT64_MAX;
    }
    if (p->t->items[i].path == SF_NONE) {
        return p->ready[i] + (sf_time_ps)p->t->items[i].amount;
    }
    if (p->sent[i] < 0) {
        assert_true(p->rate[i] > 0);
        return p->now + (sf_time_ps)((p->left[i] + p->rate[i] - 1) / p->rate[i]);
    }
    const struct sf_net_path *path = &p->t->paths[p->t->items[i].path];
    sf_time_ps t = p->sent[i] + path->software_ps;
    for (uint32_t k = 0; k < path->links_n; k++) {
        t += p->t->links[path->links[k]].latency_ps;
    }
    return t;
}

static bool can_start(const struct plain *p, uint32_t i) {
    for (int k = 0; k < 2; k++) {
        uint32_t on = p->t->items[i].on[k];
        if (on != SF_NONE && (p->t->items[i].edge[k] == SF_NET_SENT ? p->sent : p->end)[on] < 0) {
            return false;
        }
    }
    return p->ready[i] < 0;
}

static void happen(struct plain *p, uint32_t i) {
    bool delay = p->t->items[i].path == SF_NONE;
    if (!delay && p->sent[i] < 0) {
        p->sent[i] = p->now;
    } else {
        p->end[i] = p->now;
        p->sent[i] = delay ? p->now : p->sent[i];
    }
}

static void start_ready(struct plain *p) {
    for (uint32_t i = 0; i < p->t->items_n; i++) {
        if (can_start(p, i)) {
            p->ready[i] = p->now;
            p->left[i] = (wide)p->t->items[i].amount * (uint64_t)SF_PS_PER_S;
        }
    }
}

static void run_plainly(struct plain *p) {
    sf_time_ps due[ITEMS], next;
    start_ready(p);
    for (;;) {
        find_rates(p);
        next = INT64_MAX;
        for (uint32_t i = 0; i < p->t->items_n; i++) {
            due[i] = next_of(p, i);
            next = due[i] < next ? due[i] : next;
        }
        if (next == INT64_MAX) {
            return;
        }
        for (uint32_t i = 0; i < p->t->items_n; i++) {
            wide moved = sends(p, i) ? (wide)p->rate[i] * (uint64_t)(next - p->now) : 0;
            p->left[i] -= moved < p->left[i] ? moved : p->left[i];
        }
        p->now = next;
        for (uint32_t i = 0; i < p->t->items_n; i++) {
            if (due[i] == next) {
                happen(p, i);
            }
        }
        start_ready(p);
    }
}

/* ---- against it -------------------------------------------------------------------------------------------------- */

/* Links and paths are added backwards when `reversed`. */
static struct sf_net *build(const struct traffic *t, bool reversed) {
    struct sf_net *n = sf_net_create((struct sf_net_wire){.packet_bytes = 100});
    assert_non_null(n);
    for (uint32_t l = 0; l < t->links_n; l++) {
        sf_net_add_link(n, &t->links[reversed ? t->links_n - 1 - l : l]);
    }
    for (uint32_t k = 0; k < t->paths_n; k++) {
        struct sf_net_path p = t->paths[reversed ? t->paths_n - 1 - k : k];
        for (uint32_t i = 0; i < p.links_n && reversed; i++) {
            p.links[i] = t->links_n - 1 - p.links[i];
        }
        sf_net_add_path(n, &p);
    }
    for (uint32_t i = 0; i < t->items_n; i++) {
        uint32_t path = t->items[i].path;
        if (path == SF_NONE) {
            sf_net_add_delay(n, 0, (sf_time_ps)t->items[i].amount);
        } else {
            sf_net_add_message(n, reversed ? t->paths_n - 1 - path : path, t->items[i].amount);
        }
        for (int k = 1; k >= 0; k--) {
            if (t->items[i].on[k] != SF_NONE) {
                sf_net_add_wait(n, i, t->items[i].on[k], t->items[i].edge[k]);
            }
        }
    }
    return n;
}

/* As many are shorter, or as long, as the percentile says. */
static void expect_percentiles(const struct traffic *t, const struct plain *p, const struct sf_net_result *r) {
    uint32_t n = 0, below50 = 0, upto50 = 0, below99 = 0, upto99 = 0;
    for (uint32_t i = 0; i < t->items_n; i++) {
        sf_time_ps took = p->end[i] - p->ready[i];
        bool message = t->items[i].path != SF_NONE;
        n += message;
        below50 += message && took < r->p50;
        upto50 += message && took <= r->p50;
        below99 += message && took < r->p99;
        upto99 += message && took <= r->p99;
    }
    uint32_t rank50 = n > 0 ? (n - 1) / 2 : 0, rank99 = n > 0 ? n - 1 - (n - 1) / 100 : 0;
    assert_true(n == 0 || (below50 <= rank50 && rank50 < upto50 && below99 <= rank99 && rank99 < upto99));
}

static void expect_same(const struct traffic *t, const struct plain *p, bool reversed, uint64_t *solved) {
    struct sf_net *n = build(t, reversed);
    struct sf_net_result r;
    struct sf_err err = {0};
    if (sf_net_run(n, NULL, &r, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    for (uint32_t i = 0; i < t->items_n; i++) {
        if (r.end[i] != p->end[i]) {
            fail_msg("item %u of %u: %lld ps, plainly %lld", i, t->items_n, (long long)r.end[i], (long long)p->end[i]);
        }
    }
    expect_percentiles(t, p, &r);
    *solved += r.solved_flows;
    sf_net_result_free(&r);
    sf_net_free(n);
}

static void test_random(void **state) {
    (void)state;
    static struct traffic t;
    static struct plain p;
    struct sf_rng rng = sf_rng_seed(77);
    uint64_t solved = 0;
    for (int i = 0; i < 1500; i++) {
        random_traffic(&rng, &t);
        p = (struct plain){.t = &t};
        memset(p.ready, 0xff, sizeof p.ready);
        memset(p.sent, 0xff, sizeof p.sent);
        memset(p.end, 0xff, sizeof p.end);
        run_plainly(&p);
        expect_same(&t, &p, false, &solved);
        expect_same(&t, &p, true, &solved);
    }
    assert_true(solved > 50000); /* links were worth sharing */
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
