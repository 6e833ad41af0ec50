/* Random clusters of several stocks, planes, routings and overlays: whatever loads proves itself, and every route keeps
 * its word: connected, over nothing dead, no faster than its links, latencies that add up. */
#include "tests/unit/test_topo_fixture.h"

#include "core/rng.h"

struct text {
    char s[8192];
    size_t n;
};

static void say(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(struct text *t, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(t->s + t->n, sizeof t->s - t->n, fmt, args);
    va_end(args);
    assert_true(n >= 0 && (size_t)n < sizeof t->s - t->n);
    t->n += (size_t)n;
}

static uint32_t below(struct sf_rng *r, uint32_t n) {
    return (uint32_t)(sf_rng_u64(r) % n);
}

static void say_stocks(struct text *t, struct sf_rng *r, uint32_t stocks) {
    static const char *const nics[] = {"connectx7-400g", "connectx8-800g"};
    static const char *const starts[] = {"", "", "starts: group, ", "starts: pod, "};
    uint32_t wide = below(r, 2); /* 8 GPUs as 2 x 4 or 4 x 2 */
    say(t, "groups:\n");
    for (uint32_t i = 0; i < stocks; i++) {
        say(t,
            "  - {device: gb300, domains: %u, nic: %s, %sdomain: {kind: k, trays: %u, gpus_per_tray: %u, "
            "cpus_per_tray: 1, nvswitches: %u, link: nvlink5, links_per_gpu: %u, %sgpus_in_use: %u}}\n",
            1 + below(r, 9), nics[below(r, 2)], i > 0 ? starts[below(r, 4)] : "", wide ? 2 : 4, wide ? 4 : 2,
            below(r, 4), 4 + below(r, 3), below(r, 2) ? "cpu_link: nvlink-c2c, " : "", 1 + below(r, 8));
    }
}

static void say_overlay(struct text *t, struct sf_rng *r) {
    static const char *const links[] = {"nic-up", "leaf-up", "leaf-down", "spine-up", "spine-down", "nvlink-up"};
    static const char *const nodes[] = {"leaf", "spine", "core", "nvswitch"};
    say(t, "overlay:\n  spare: {gpus: [\"%u\"]}\n  dead:\n    gpus: [\"%u\"]\n", below(r, 16), below(r, 16));
    say(t, "    links: [\"%s %u\"]\n", links[below(r, 6)], below(r, 12));
    say(t, "    switches: [%s %u]\n", nodes[below(r, 4)], below(r, 6));
    say(t, "  degraded: [{rate: 0.%u, links: [\"%s %u:%u..%u\"]}]\n", 1 + below(r, 9), links[1 + below(r, 5)],
        below(r, 12), below(r, 2), 1 + below(r, 3));
}

static void say_cluster(struct text *t, struct sf_rng *r) {
    static const char *const routings[] = {"adaptive", "ecmp", "rail-local", "pxn"};
    static const char *const switches[] = {"quantum-x800-q3400", "spectrum4-sn5600"};
    uint32_t tiers = 1 + below(r, 3);
    say(t, "name: random\n");
    say_stocks(t, r, 1 + below(r, 3));
    say(t, "planes: %u\nrails: %u\nfabric:\n  switch: %s\n  leaf_down: %u\n  tiers: %u\n", 1u << below(r, 3),
        1u << below(r, 3), switches[below(r, 2)], 8 * (1 + below(r, 3)), tiers);
    if (tiers > 1) {
        say(t, "  oversubscription: %u\n", 1u << below(r, 3));
    }
    if (below(r, 2) > 0) {
        say(t, "  routing: %s\n", routings[below(r, 4)]);
    }
    say(t, "  cables: {nic_leaf: 3m%s%s}\n", tiers > 1 ? ", leaf_spine: 20m" : "",
        tiers > 2 ? ", spine_core: 60m" : "");
    if (below(r, 3) > 0) {
        say_overlay(t, r);
    }
}

static void check_route(const struct sf_topo *t, uint32_t src, uint32_t dst, const struct text *text) {
    static const struct sf_route_ask ask = {.routing = -1, .plane = SF_ALL_PLANES};
    struct sf_route r;
    struct sf_err err = {0};
    struct sfi_end from, to, at = {SFI_NODE_GPU, src};
    sf_time_ps sum = 0;
    if (sf_topo_route_with(t, src, dst, &ask, &r, &err) != 0) {
        assert_true(err.msg[0] != '\0' && r.bytes_per_s == 0);
        return;
    }
    for (uint32_t i = 0; i < r.links_n; i++) {
        uint64_t dense = sf_topo_link_dense(t, r.links[i]);
        bool known = sfi_link_ends(t, r.links[i], &from, &to);
        bool chips = from.kind == SFI_NODE_NVSWITCH && at.kind == SFI_NODE_NVSWITCH;
        if (!known || (!chips && (from.kind != at.kind || from.index != at.index)) ||
            sf_topo_link_rate(t, r.links[i]) == 0 || sf_topo_dense_rate(t, dense) < r.alone_bytes_per_s) {
            fail_msg("link %u of the route from %u to %u\n%s", i, src, dst, text->s);
        }
        at = to;
        sum += r.hop_ps[i];
    }
    assert_true(src == dst || (at.kind == SFI_NODE_GPU && at.index == dst));
    assert_int_equal(sum, r.latency_ps);
    assert_true(r.alone_bytes_per_s >= r.bytes_per_s);
}

/* With paths left between all leaves, live GPUs of a live rail reach each other, or routing says that it will not. */
static void check_pairs(const struct sf_topo *t, struct sf_rng *r, const struct text *text) {
    uint32_t gpus = sf_topo_gpus(t);
    for (int i = 0; i < 200; i++) {
        check_route(t, below(r, gpus), below(r, gpus), text);
    }
}

/* Routes of one number are of one kind and worth the same. */
static uint32_t check_alike(const struct sf_topo *t, struct sf_rng *r, const struct text *text) {
    struct sf_route known[SF_ROUTES_ALIKE] = {0};
    uint32_t gpus = sf_topo_gpus(t), compared = 0, src = 0;
    bool seen[SF_ROUTES_ALIKE] = {false};
    for (int i = 0; i < 300; i++) {
        uint32_t dst = i % 8 == 0 ? src : below(r, gpus), number;
        struct sf_route own;
        src = i % 4 == 1 ? dst / 2 : below(r, gpus);
        number = sf_topo_route_alike(t, src, dst);
        assert_true(number == SF_NONE || number < SF_ROUTES_ALIKE);
        if (number == SF_NONE) {
            continue;
        }
        sf_topo_route(t, src, dst, &own);
        const struct sf_route *k = &known[number];
        if (seen[number] && (k->kind != own.kind || k->bytes_per_s != own.bytes_per_s ||
                             k->alone_bytes_per_s != own.alone_bytes_per_s || k->latency_ps != own.latency_ps)) {
            fail_msg("the route from %u to %u is not like others of number %u\n%s", src, dst, number, text->s);
        }
        compared += seen[number];
        seen[number] = true;
        known[number] = own;
    }
    return compared;
}

static void test_random_clusters(void **state) {
    (void)state;
    struct sf_rng r = sf_rng_seed(31);
    uint32_t loaded = 0, hurt = 0, compared = 0;
    for (int i = 0; i < 700; i++) {
        struct text text = {.n = 0};
        struct sf_err err = {0};
        struct sf_topo *t = NULL;
        say_cluster(&text, &r);
        if (load_text(text.s, &t, &err) != 0) {
            assert_int_equal(err.code, SF_E_INPUT);
            if (err.line == 0) {
                fail_msg("not located: %s\n%s", err.msg, text.s);
            }
            continue;
        }
        if (sf_topo_check(t, &err) != 0) {
            fail_msg("%s\n%s", err.msg, text.s);
        }
        check_pairs(t, &r, &text);
        compared += check_alike(t, &r, &text);
        loaded++;
        hurt += t->overlay.any;
        sf_topo_free(t);
    }
    assert_true(loaded > 150 && hurt > 60 && compared > 4000);
}

/* Damaged files load or are refused where the damage is; what loads and is small proves itself. */
static void test_damaged_clusters(void **state) {
    (void)state;
    static const char bytes[] = "0123456789-.:{}[] \n#m\"x&*,";
    struct sf_rng r = sf_rng_seed(97);
    int refused = 0;
    for (int i = 0; i < 2000; i++) {
        struct text text = {.n = 0};
        struct sf_err err = {0};
        struct sf_topo *t = NULL;
        say_cluster(&text, &r);
        for (uint32_t edits = 1 + below(&r, 3); edits > 0; edits--) {
            text.s[below(&r, (uint32_t)text.n)] = bytes[below(&r, sizeof bytes - 1)];
        }
        int rc = load_text(text.s, &t, &err);
        refused += rc != 0;
        if (rc != 0) {
            assert_true(err.code == rc && err.msg[0] != '\0');
            continue;
        }
        if (sf_topo_gpus(t) < 5000 && sf_topo_check(t, &err) != 0) {
            fail_msg("%s\n%s", err.msg, text.s);
        }
        sf_topo_free(t);
    }
    assert_in_range(refused, 500, 1999);
}

/* Every change to the health of a healthy cluster shows in its hash, and none makes a bundle faster. */
static void test_overlays_only_take(void **state) {
    (void)state;
    struct sf_rng r = sf_rng_seed(5);
    struct sf_topo *t = must_load_cluster("gb300-nvl72-4rack");
    struct sf_hash whole = sf_topo_hash(t);
    uint64_t n = sf_topo_links_total(t);
    uint64_t *rate = sf_calloc(n, sizeof *rate);
    assert_non_null(rate);
    for (uint64_t i = 0; i < n; i++) {
        rate[i] = sf_topo_dense_rate(t, i);
    }
    for (int i = 0; i < 50; i++) {
        char text[256];
        struct sf_err err = {0};
        snprintf(text, sizeof text, "degraded: [{ links: [\"leaf-up %u:%u..71\"], rate: 0.%u }]\n", below(&r, 4),
                 below(&r, 72), 1 + below(&r, 9));
        const struct memory_file file = {"o.yaml", text};
        struct memory_io m = {&file, 1};
        const struct sf_io io = {&m, memory_read_all, NULL};
        assert_int_equal(sf_topo_load_overlay(&io, "o.yaml", t, &err), 0);
        assert_false(sf_hash_equal(whole, sf_topo_hash(t)));
        uint64_t slower = 0;
        for (uint64_t k = 0; k < n; k++) {
            assert_true(sf_topo_dense_rate(t, k) <= rate[k]);
            slower += sf_topo_dense_rate(t, k) < rate[k];
        }
        assert_int_equal(slower, 1);
    }
    sf_free(rate);
    sf_topo_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_clusters),
        cmocka_unit_test(test_damaged_clusters),
        cmocka_unit_test(test_overlays_only_take),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
