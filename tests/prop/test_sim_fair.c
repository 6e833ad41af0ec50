/* Rates of random flows over random links: against the plainest progressive filling, against the definition of max-min
 * fairness, and against themselves in another order and in a larger problem (which takes the other path). */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/rng.h"
#include "sim/fair.h"

#define FLOWS 400
#define LINKS 200

struct problem {
    struct sf_fair_flow flows[FLOWS];
    uint64_t capacity[LINKS];
    uint64_t rate[FLOWS];
    uint32_t flows_n, links_n;
};

static uint32_t below(struct sf_rng *rng, uint32_t n) {
    return (uint32_t)(sf_rng_u64(rng) % n);
}

static void random_flow(struct sf_rng *rng, uint32_t links_n, bool coarse, struct sf_fair_flow *f) {
    f->links_n = 0;
    f->cap_bytes_per_s = below(rng, 3) ? SF_FAIR_NO_CAP : coarse ? 1 + below(rng, 6) : 1 + below(rng, 100000);
    uint32_t wanted = f->cap_bytes_per_s == SF_FAIR_NO_CAP ? 1 + below(rng, SF_FAIR_LINKS) : below(rng, 4);
    for (uint32_t i = 0; i < wanted; i++) {
        uint32_t link = below(rng, links_n);
        bool twice = false;
        for (uint32_t k = 0; k < f->links_n; k++) {
            twice |= f->links[k] == link;
        }
        if (!twice) {
            f->links[f->links_n++] = link;
        }
    }
}

/* Coarse problems have few different capacities and so many ties, with and without remainders. */
static void random_problem(struct sf_rng *rng, uint32_t flows_max, struct problem *p) {
    bool coarse = below(rng, 2);
    p->flows_n = 1 + below(rng, flows_max);
    p->links_n = 1 + below(rng, flows_max / 2 < LINKS ? flows_max / 2 : LINKS);
    for (uint32_t l = 0; l < p->links_n; l++) {
        p->capacity[l] = coarse ? 4 + below(rng, 12) : 1 + below(rng, 1000000);
    }
    for (uint32_t f = 0; f < p->flows_n; f++) {
        random_flow(rng, p->links_n, coarse, &p->flows[f]);
    }
}

static void solve(struct problem *p) {
    void *scratch = malloc(sf_fair_scratch_bytes(p->flows_n, p->links_n));
    assert_non_null(scratch);
    memset(scratch, 0xa5, sf_fair_scratch_bytes(p->flows_n, p->links_n));
    sf_fair_rates(p->flows, p->flows_n, p->capacity, p->links_n, scratch, p->rate);
    free(scratch);
}

static bool uses(const struct sf_fair_flow *f, uint32_t link) {
    for (uint32_t i = 0; i < f->links_n; i++) {
        if (f->links[i] == link) {
            return true;
        }
    }
    return false;
}

/* Share of a link among flows without a rate, everything counted anew. */
static uint64_t plain_share(const struct problem *p, const uint64_t *rate, uint32_t link) {
    uint64_t left = p->capacity[link], n = 0;
    for (uint32_t f = 0; f < p->flows_n; f++) {
        if (uses(&p->flows[f], link)) {
            left -= rate[f] == UINT64_MAX ? 0 : rate[f];
            n += rate[f] == UINT64_MAX;
        }
    }
    return n > 0 ? left / n : UINT64_MAX;
}

static void fill_plainly(const struct problem *p, uint64_t *rate) {
    uint64_t share[LINKS], level;
    memset(rate, 0xff, p->flows_n * sizeof *rate);
    do {
        level = UINT64_MAX;
        for (uint32_t l = 0; l < p->links_n; l++) {
            share[l] = plain_share(p, rate, l);
            level = share[l] < level ? share[l] : level;
        }
        for (uint32_t f = 0; f < p->flows_n; f++) {
            uint64_t cap = rate[f] == UINT64_MAX ? p->flows[f].cap_bytes_per_s : UINT64_MAX;
            level = cap < level ? cap : level;
        }
        for (uint32_t f = 0; f < p->flows_n; f++) {
            bool tied = p->flows[f].cap_bytes_per_s == level;
            for (uint32_t i = 0; i < p->flows[f].links_n; i++) {
                tied |= share[p->flows[f].links[i]] == level;
            }
            rate[f] = rate[f] == UINT64_MAX && tied ? level : rate[f];
        }
    } while (level != UINT64_MAX);
}

static void expect_plain(const struct problem *p) {
    uint64_t plain[FLOWS];
    fill_plainly(p, plain);
    for (uint32_t f = 0; f < p->flows_n; f++) {
        if (p->rate[f] != plain[f]) {
            fail_msg("flow %u of %u over %u links: %llu, filling gives %llu", f, p->flows_n, p->links_n,
                     (unsigned long long)p->rate[f], (unsigned long long)plain[f]);
        }
    }
}

/* No link is exceeded, and every flow is at its cap or crosses a full link on which no flow is faster. "Full" leaves
 * less than a byte per second and flow, which is what rounding down costs. */
static void expect_max_min(const struct problem *p) {
    uint64_t used[LINKS] = {0}, fastest[LINKS] = {0}, n[LINKS] = {0};
    for (uint32_t f = 0; f < p->flows_n; f++) {
        for (uint32_t i = 0; i < p->flows[f].links_n; i++) {
            uint32_t l = p->flows[f].links[i];
            used[l] += p->rate[f];
            n[l]++;
            fastest[l] = p->rate[f] > fastest[l] ? p->rate[f] : fastest[l];
        }
    }
    for (uint32_t l = 0; l < p->links_n; l++) {
        assert_true(used[l] <= p->capacity[l]);
    }
    for (uint32_t f = 0; f < p->flows_n; f++) {
        bool limited = p->rate[f] == p->flows[f].cap_bytes_per_s;
        for (uint32_t i = 0; i < p->flows[f].links_n; i++) {
            uint32_t l = p->flows[f].links[i];
            limited |= p->capacity[l] - used[l] < n[l] && fastest[l] <= p->rate[f] + n[l];
        }
        assert_true(limited && p->rate[f] <= p->flows[f].cap_bytes_per_s);
    }
}

static void swap_flows(struct problem *p, uint32_t a, uint32_t b) {
    struct sf_fair_flow flow = p->flows[a];
    uint64_t rate = p->rate[a];
    p->flows[a] = p->flows[b], p->rate[a] = p->rate[b];
    p->flows[b] = flow, p->rate[b] = rate;
}

/* Other order of flows, other order of links in flows, other numbers of links. */
static void expect_same_shuffled(struct sf_rng *rng, const struct problem *p) {
    static struct problem q;
    uint64_t expected[FLOWS];
    q = *p;
    for (uint32_t f = q.flows_n - 1; f > 0; f--) {
        swap_flows(&q, f, below(rng, f + 1));
    }
    for (uint32_t l = 0; l < q.links_n; l++) {
        q.capacity[l] = p->capacity[q.links_n - 1 - l];
    }
    for (uint32_t f = 0; f < q.flows_n; f++) {
        struct sf_fair_flow was = q.flows[f];
        for (uint32_t i = 0; i < was.links_n; i++) {
            q.flows[f].links[i] = q.links_n - 1 - was.links[was.links_n - 1 - i];
        }
    }
    memcpy(expected, q.rate, sizeof expected);
    solve(&q);
    assert_memory_equal(q.rate, expected, q.flows_n * sizeof *expected);
}

/* With neighbours that share nothing the problem becomes large, and its rates stay. */
static void expect_same_among_others(const struct problem *p) {
    static struct problem q;
    q = *p;
    for (; q.flows_n < p->flows_n + SF_FAIR_SMALL_FLOWS; q.flows_n++) {
        q.flows[q.flows_n] = (struct sf_fair_flow){.cap_bytes_per_s = 3 + q.flows_n};
    }
    solve(&q);
    assert_memory_equal(q.rate, p->rate, p->flows_n * sizeof *p->rate);
    for (uint32_t f = p->flows_n; f < q.flows_n; f++) {
        assert_int_equal(q.rate[f], 3 + f);
    }
}

static void test_random(void **state) {
    (void)state;
    static struct problem p;
    struct sf_rng rng = sf_rng_seed(31);
    for (int i = 0; i < 4000; i++) {
        random_problem(&rng, i % 50 == 0 ? FLOWS - SF_FAIR_SMALL_FLOWS : i % 2 ? SF_FAIR_SMALL_FLOWS : 40, &p);
        solve(&p);
        expect_plain(&p);
        expect_max_min(&p);
        expect_same_shuffled(&rng, &p);
        expect_same_among_others(&p);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
