/* Proof of a topology: every cable is followed from its lower end and counted at its upper end. The closed forms of
 * sf_topo_count, the port budgets and the routes must agree with what is found there. */
#include <string.h>

#include "core/arena.h"
#include "topo/topo_state.h"

static int disagree(struct sf_err *err, const char *what, uint64_t found, uint64_t expected) {
    return sf_fail(err, SF_E_INPUT, "topology check: %s: found %llu, expected %llu", what, (unsigned long long)found,
                   (unsigned long long)expected);
}

#define EXPECT_EQUAL(what, found, expected)                                                                            \
    do {                                                                                                               \
        uint64_t found_ = (found), expected_ = (expected);                                                             \
        if (found_ != expected_) {                                                                                     \
            return disagree(err, what, found_, expected_);                                                             \
        }                                                                                                              \
    } while (0)

#define EXPECT_AT_MOST(what, found, limit)                                                                             \
    do {                                                                                                               \
        uint64_t found_ = (found), limit_ = (limit);                                                                   \
        if (found_ > limit_) {                                                                                         \
            return disagree(err, what " over the budget", found_, limit_);                                             \
        }                                                                                                              \
    } while (0)

/* Count, per upper node, the cables of one kind that end there. Each must end at a node of kind `upper`, below n. */
static int tally(const struct sf_topo *t, enum sf_link_kind kind, enum sfi_node_kind upper, uint32_t *degree,
                 uint64_t n, struct sf_err *err) {
    uint64_t links_n = sf_topo_link_count(t, kind);
    struct sfi_end low, high, back_low, back_high;
    for (uint64_t i = 0; i < links_n; i++) {
        bool up = sfi_link_ends(t, SF_LINK(kind, i), &low, &high);
        bool down = sfi_link_ends(t, SF_LINK(kind + 1, i), &back_high, &back_low);
        if (up && down && upper == SFI_NODE_NVSWITCH && high.kind == SFI_NODE_MEMORY) {
            continue; /* a stock without switch chips beside one with them */
        }
        if (!up || !down || high.kind != upper || high.index >= n) {
            return disagree(err, "a cable ends at an unknown switch, cable", i, links_n);
        }
        EXPECT_EQUAL("the two directions of a cable end at different switches, upper", back_high.index, high.index);
        EXPECT_EQUAL("the two directions of a cable end at different switches, lower", back_low.index, low.index);
        degree[high.index]++;
    }
    return 0;
}

static uint64_t sum(const uint32_t *degree, uint64_t n) {
    uint64_t total = 0;
    for (uint64_t i = 0; i < n; i++) {
        total += degree[i];
    }
    return total;
}

/* Every chip gets its share of each GPU's lanes: all of them alike, or one lane per GPU apart. */
static int check_nvswitches(const struct sf_topo *t, const uint32_t *degree, uint64_t n, struct sf_err *err) {
    uint64_t lanes = 0, i = 0;
    for (uint32_t stock = 0; stock < t->stocks_n; stock++) {
        const struct sfi_domain *d = &t->stock[stock].domain;
        uint64_t end = i + (uint64_t)t->stock[stock].domains * d->nvswitches;
        lanes += d->nvswitches > 0 ? (uint64_t)t->stock[stock].domains * d->gpus * d->lanes : 0;
        for (; i < end; i++) {
            uint64_t share = (uint64_t)d->gpus * (d->lanes / d->nvswitches);
            EXPECT_AT_MOST("lanes of a switch chip", degree[i], share + d->gpus);
            EXPECT_AT_MOST("too few lanes at a switch chip, share", share, degree[i]);
        }
    }
    EXPECT_EQUAL("NVLink lanes seen from the switch chips", sum(degree, n), lanes);
    EXPECT_EQUAL("switch chips", i, n);
    return 0;
}

static int check_leaves(const struct sf_topo *t, const uint32_t *degree, uint64_t n, struct sf_err *err) {
    const struct sfi_fabric *f = &t->fabric;
    EXPECT_EQUAL("NICs seen from the leaves", sum(degree, n), (uint64_t)t->seats * f->planes);
    EXPECT_EQUAL("leaves", n, (uint64_t)f->planes * f->groups * f->rails);
    for (uint64_t i = 0; i < n; i++) {
        uint32_t group = (uint32_t)(i % f->leaves) / f->rails;
        EXPECT_AT_MOST("NICs of a leaf", degree[i], f->leaf_down);
        EXPECT_AT_MOST("ports of a leaf", degree[i] + f->leaf_up, f->radix);
        EXPECT_EQUAL("NICs of a leaf", degree[i], (uint64_t)sfi_group_domains(t, group).n * f->rail_nics);
    }
    return 0;
}

/* No two NICs in one port of a leaf. */
static int check_ports(const struct sf_topo *t, struct sf_err *err) {
    const struct sfi_fabric *f = &t->fabric;
    unsigned char *taken = f->tiers > 0 ? sf_calloc((size_t)f->leaves * f->leaf_down, 1) : NULL;
    if (taken == NULL) {
        return f->tiers > 0 ? sf_fail_memory(err, "the ports of the leaves") : 0;
    }
    int rc = 0;
    for (uint32_t gpu = 0; gpu < t->seats && rc == 0; gpu++) {
        struct sfi_seat s = sfi_seat_of(t, gpu);
        if (s.port >= f->leaf_down || taken[(uint64_t)s.leaf * f->leaf_down + s.port]++ != 0) {
            rc = disagree(err, "a NIC has no leaf port of its own, port", s.port, f->leaf_down);
        }
    }
    sf_free(taken);
    return rc;
}

static int check_spines(const struct sf_topo *t, const uint32_t *degree, uint64_t n, struct sf_err *err) {
    const struct sfi_fabric *f = &t->fabric;
    EXPECT_EQUAL("leaf-spine cables seen from the spines", sum(degree, n),
                 (uint64_t)f->planes * f->leaves * f->leaf_up);
    for (uint64_t i = 0; i < n; i++) {
        uint32_t pod = (uint32_t)(i % sfi_plane_spines(f) / f->pod_spines);
        uint64_t groups = sfi_pod_groups(f, pod).n;
        EXPECT_EQUAL("leaf-spine cables of a spine", degree[i], groups * f->rails * f->spine_cables);
        EXPECT_AT_MOST("ports of a spine towards leaves", degree[i], f->spine_down);
        EXPECT_AT_MOST("ports of a spine", degree[i] + f->spine_up, f->radix);
    }
    return 0;
}

static int check_cores(const struct sf_topo *t, const uint32_t *degree, uint64_t n, struct sf_err *err) {
    const struct sfi_fabric *f = &t->fabric;
    EXPECT_EQUAL("spine-core cables seen from the cores", sum(degree, n),
                 f->planes * sfi_plane_spines(f) * f->spine_up);
    for (uint64_t i = 0; i < n; i++) {
        EXPECT_EQUAL("spine-core cables of a core", degree[i], (uint64_t)f->pods * f->core_cables);
        EXPECT_AT_MOST("ports of a core", degree[i], f->radix);
    }
    return 0;
}

struct tier {
    enum sf_link_kind kind;
    enum sfi_node_kind upper;
    uint64_t switches;
    int (*check)(const struct sf_topo *t, const uint32_t *degree, uint64_t n, struct sf_err *err);
};

static int check_tier(const struct sf_topo *t, const struct tier *tier, struct sf_err *err) {
    if (tier->switches == 0) {
        return 0;
    }
    uint32_t *degree = sf_calloc(tier->switches, sizeof *degree);
    if (degree == NULL) {
        return sf_fail_memory(err, "the degrees of a tier");
    }
    int rc = tally(t, tier->kind, tier->upper, degree, tier->switches, err);
    if (rc == 0) {
        rc = tier->check(t, degree, tier->switches, err);
    }
    sf_free(degree);
    return rc;
}

static int check_tiers(const struct sf_topo *t, struct sf_err *err) {
    struct sf_topo_counts n;
    sf_topo_count(t, &n);
    const struct tier tiers[] = {
        {SF_LINK_NVLINK_UP, SFI_NODE_NVSWITCH, n.nvswitches, check_nvswitches},
        {SF_LINK_NIC_UP, SFI_NODE_LEAF, n.leaves, check_leaves},
        {SF_LINK_LEAF_UP, SFI_NODE_SPINE, n.spines, check_spines},
        {SF_LINK_SPINE_UP, SFI_NODE_CORE, n.cores, check_cores},
    };
    for (size_t i = 0; i < sizeof tiers / sizeof *tiers; i++) {
        SF_TRY(check_tier(t, &tiers[i], err));
    }
    return 0;
}

static uint64_t upper_of(const struct sf_topo *t, enum sf_link_kind kind, uint64_t index) {
    struct sfi_end low, high;
    return sfi_link_ends(t, SF_LINK(kind, index), &low, &high) ? high.index : UINT64_MAX;
}

/* Cables from spine `spine` to core `core`. */
static uint64_t cables_to_core(const struct sf_topo *t, uint64_t spine, uint64_t core) {
    uint64_t n = 0;
    for (uint32_t port = 0; port < t->fabric.spine_up; port++) {
        n += upper_of(t, SF_LINK_SPINE_UP, spine * t->fabric.spine_up + port) == core;
    }
    return n;
}

/* Ways up from leaf `a` that can come down at leaf `b`: per uplink, one if the spine is shared, else one per core port
 * whose core has a cable to the other pod's spine of the same slice. */
static uint64_t count_paths(const struct sf_topo *t, uint64_t a, uint64_t b) {
    const struct sfi_fabric *f = &t->fabric;
    uint64_t paths = 0;
    for (uint32_t up = 0; up < f->leaf_up; up++) {
        uint64_t from = upper_of(t, SF_LINK_LEAF_UP, a * f->leaf_up + up);
        uint64_t to = upper_of(t, SF_LINK_LEAF_UP, b * f->leaf_up + up);
        if (from == to) {
            paths++;
            continue;
        }
        for (uint32_t port = 0; port < f->spine_up; port++) {
            uint64_t core = upper_of(t, SF_LINK_SPINE_UP, from * f->spine_up + port);
            paths += cables_to_core(t, to, core) > 0;
        }
    }
    return paths;
}

static int check_plane_paths(const struct sf_topo *t, uint32_t plane, struct sf_err *err) {
    const struct sfi_fabric *f = &t->fabric;
    uint64_t first = (uint64_t)plane * f->leaves, last = first + f->leaves - 1;
    if (sfi_pod_groups(f, 0).n * f->rails > 1) {
        EXPECT_EQUAL("paths between two leaves of a pod", count_paths(t, first, first + 1), f->leaf_up);
    }
    if (f->pods > 1) {
        EXPECT_EQUAL("paths between leaves of two pods", count_paths(t, first, last),
                     (uint64_t)f->leaf_up * f->spine_up);
    }
    if (plane > 0) {
        EXPECT_EQUAL("paths between planes, which share no switch", count_paths(t, 0, last), 0);
    }
    return 0;
}

static int check_paths(const struct sf_topo *t, struct sf_err *err) {
    for (uint32_t plane = 0; plane < t->fabric.planes && t->fabric.tiers > 1; plane++) {
        SF_TRY(check_plane_paths(t, plane, err));
    }
    return 0;
}

/* Max flow between the groups below `cut` and the rest, counted spine by spine: what both sides bring to a spine turns
 * there, the surplus climbs as far as the spine's uplinks allow and meets at the cores. */
struct crossing {
    uint64_t turned, climb[2];
};

static void cross_spine(const struct sfi_fabric *f, const uint32_t brought[2], struct crossing *x) {
    uint32_t turned = brought[0] < brought[1] ? brought[0] : brought[1];
    x->turned += turned;
    for (int side = 0; side < 2; side++) {
        uint32_t rest = brought[side] - turned;
        x->climb[side] += rest < f->spine_up ? rest : f->spine_up;
    }
}

/* What the leaves of the groups from `first` on can send: no more than their NICs, no more than their uplinks. */
static uint64_t leaf_supply(const struct sf_topo *t, const uint32_t *nics, uint32_t first) {
    const struct sfi_fabric *f = &t->fabric;
    uint64_t supply = 0;
    for (uint64_t leaf = 0; leaf < (uint64_t)f->planes * f->leaves; leaf++) {
        bool behind = leaf % f->leaves >= (uint64_t)first * f->rails;
        supply += !behind ? 0 : nics[leaf] < f->leaf_up ? nics[leaf] : f->leaf_up;
    }
    return supply;
}

static uint64_t count_bisection(const struct sf_topo *t, uint32_t (*brought)[2], uint32_t *nics) {
    const struct sfi_fabric *f = &t->fabric;
    uint64_t nics_n = sf_topo_link_count(t, SF_LINK_NIC_UP), cables = sf_topo_link_count(t, SF_LINK_LEAF_UP);
    uint64_t spines = sfi_node_count(t, SFI_NODE_SPINE);
    uint32_t cut = f->groups / 2;
    struct crossing x = {0};
    for (uint64_t i = 0; i < nics_n; i++) {
        nics[upper_of(t, SF_LINK_NIC_UP, i)]++;
    }
    for (uint64_t i = 0; i < cables; i++) {
        brought[upper_of(t, SF_LINK_LEAF_UP, i)][i / f->leaf_up % f->leaves / f->rails >= cut]++;
    }
    for (uint64_t i = 0; i < spines; i++) {
        cross_spine(f, brought[i], &x);
    }
    uint64_t flow = x.turned + (x.climb[0] < x.climb[1] ? x.climb[0] : x.climb[1]);
    uint64_t supply = leaf_supply(t, nics, cut);
    return flow < supply ? flow : supply;
}

/* The closed form is for groups that fill one after the other. */
static int check_bisection(const struct sf_topo *t, struct sf_err *err) {
    const struct sfi_fabric *f = &t->fabric;
    if (f->tiers < 2 || f->groups < 2 || f->blocks_n > 1) {
        return 0;
    }
    uint32_t(*brought)[2] = sf_calloc(sfi_node_count(t, SFI_NODE_SPINE), sizeof *brought);
    uint32_t *nics = sf_calloc(sfi_node_count(t, SFI_NODE_LEAF), sizeof *nics);
    int rc = brought != NULL && nics != NULL ? 0 : sf_fail_memory(err, "the bisection count");
    uint64_t links = rc == 0 ? count_bisection(t, brought, nics) : 0;
    sf_free(brought);
    sf_free(nics);
    if (rc == 0) {
        EXPECT_EQUAL("bisection links", sfi_bisection_links(t), links);
    }
    return rc;
}

static int check_route(const struct sf_topo *t, uint32_t src, uint32_t dst, struct sf_err *err) {
    struct sf_route there, back;
    struct sfi_end at = {SFI_NODE_GPU, src}, from, to;
    sf_time_ps hops = 0;
    sf_topo_route(t, src, dst, &there);
    sf_topo_route(t, dst, src, &back);
    if (there.bytes_per_s == 0) {
        return 0; /* sf_topo_route_with has the reason */
    }
    if (!t->overlay.any && t->routing != SF_ROUTING_ECMP) {
        EXPECT_EQUAL("tier of a route and of the way back", there.kind, back.kind);
        EXPECT_EQUAL("rate of a route and of the way back", there.bytes_per_s, back.bytes_per_s);
        EXPECT_EQUAL("latency of a route and of the way back", (uint64_t)there.latency_ps, (uint64_t)back.latency_ps);
    }
    for (uint32_t i = 0; i < there.links_n; i++) {
        if (!sfi_link_ends(t, there.links[i], &from, &to)) {
            return disagree(err, "a route uses an unknown link, index", SF_LINK_INDEX(there.links[i]), 0);
        }
        /* All chips of a domain are one switch to a message that is striped over them. */
        bool same_chip = from.kind == SFI_NODE_NVSWITCH && at.kind == SFI_NODE_NVSWITCH;
        if (!same_chip && (from.kind != at.kind || from.index != at.index)) {
            return disagree(err, "a route is broken before its link", i, there.links_n);
        }
        if (sf_topo_link_rate(t, there.links[i]) == 0) {
            return disagree(err, "a route crosses something dead at its link", i, there.links_n);
        }
        at = to;
        hops += there.hop_ps[i];
    }
    EXPECT_EQUAL("latency of a route and the sum over its hops", (uint64_t)hops, (uint64_t)there.latency_ps);
    EXPECT_EQUAL("a route ends at the wrong kind of node", at.kind, SFI_NODE_GPU);
    EXPECT_EQUAL("a route ends at the wrong GPU", at.index, dst);
    return 0;
}

/* Pairs that sample every tier: neighbours of each boundary, and a regular comb over all GPUs. */
static int check_routes(const struct sf_topo *t, struct sf_err *err) {
    enum { COMB = 61 };
    uint32_t gpus[COMB + 3], n = 0, domain = t->stock[0].domain.gpus;
    for (uint32_t i = 0; i < COMB; i++) {
        gpus[n++] = (uint32_t)((uint64_t)(t->seats - 1) * i / (COMB - 1));
    }
    gpus[n++] = 1 % t->seats;
    gpus[n++] = domain - 1;
    gpus[n++] = domain % t->seats;
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t j = 0; j < n; j++) {
            SF_TRY(check_route(t, gpus[i], gpus[j], err));
        }
    }
    return 0;
}

/* Stocks follow each other without a gap and make up the seats. */
static int check_stocks(const struct sf_topo *t, struct sf_err *err) {
    uint64_t seats = 0, domains = 0, slots = 0;
    for (uint32_t i = 0; i < t->stocks_n; i++) {
        const struct sfi_stock *s = &t->stock[i];
        EXPECT_EQUAL("first domain of a group", s->first_domain, domains);
        EXPECT_EQUAL("seats before a group", s->slots_before, slots);
        domains += s->domains;
        seats += (uint64_t)s->domains * s->domain.trays * s->domain.gpus_per_tray;
        slots += (uint64_t)s->domains * s->domain.in_use;
    }
    EXPECT_EQUAL("domains", t->domains, domains);
    EXPECT_EQUAL("seats", t->seats, seats);
    EXPECT_AT_MOST("GPUs in use", t->in_use, slots);
    return 0;
}

int sf_topo_check(const struct sf_topo *t, struct sf_err *err) {
    SF_TRY(check_stocks(t, err));
    SF_TRY(check_tiers(t, err));
    SF_TRY(check_ports(t, err));
    SF_TRY(check_paths(t, err));
    SF_TRY(check_bisection(t, err));
    SF_TRY(sfi_check_overlay(t, err));
    return check_routes(t, err);
}
