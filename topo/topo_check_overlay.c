/* Proof of what an overlay leaves: seats and cables one by one against the sums over ranges and bundles. */
#include "core/arena.h"
#include "topo/topo_state.h"

static int disagree(struct sf_err *err, const char *what, uint64_t index, uint64_t found, uint64_t expected) {
    return sf_fail(err, SF_E_INPUT, "topology check: %s, at %llu: found %llu, expected %llu", what,
                   (unsigned long long)index, (unsigned long long)found, (unsigned long long)expected);
}

/* Every seat is in use, spare or dead, and the n-th one in use is where sf_topo_seat says. */
static int check_seats(const struct sf_topo *t, struct sf_err *err) {
    uint32_t used = 0;
    uint64_t dead = 0;
    struct sf_topo_counts n;
    sf_topo_count(t, &n);
    for (uint32_t gpu = 0; gpu < t->seats; gpu++) {
        enum sf_gpu_state state = sf_topo_gpu_state(t, gpu);
        dead += state == SF_GPU_DEAD;
        if (state != SF_GPU_IN_USE) {
            continue;
        }
        if (used >= t->in_use || sf_topo_seat(t, used) != gpu) {
            return disagree(err, "seat of a GPU in use", gpu, used, t->in_use);
        }
        used++;
    }
    if (used != t->in_use || dead != n.dead_gpus || used + dead + n.spare_gpus != t->seats) {
        return disagree(err, "seats in use", dead, used, t->in_use);
    }
    return 0;
}

/* Cables of one kind, one by one, into their bundles. */
static void add_cables(const struct sf_topo *t, int kind, uint64_t *rate, uint64_t *cables) {
    uint64_t n = sf_topo_link_count(t, (enum sf_link_kind)kind);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t dense = sf_topo_link_dense(t, SF_LINK(kind, i));
        rate[dense] += sf_topo_link_rate(t, SF_LINK(kind, i));
        cables[dense]++;
    }
}

/* Rounding of single cables: less than a byte per second each. */
static int check_bundles(const struct sf_topo *t, const uint64_t *rate, const uint64_t *cables, uint64_t first,
                         uint64_t n, struct sf_err *err) {
    for (uint64_t i = first; i < n; i++) {
        uint64_t bundle = sf_topo_dense_rate(t, i);
        if (cables[i] != sf_topo_dense_cables(t, i)) {
            return disagree(err, "cables of a bundle", i, cables[i], sf_topo_dense_cables(t, i));
        }
        if (bundle < rate[i] || bundle - rate[i] > cables[i]) {
            return disagree(err, "rate of a bundle and of its cables", i, bundle, rate[i]);
        }
        if (sf_topo_link_dense(t, sf_topo_dense_link(t, i)) != i) {
            return disagree(err, "number of the first cable of a bundle", i,
                            sf_topo_link_dense(t, sf_topo_dense_link(t, i)), i);
        }
    }
    return 0;
}

static int check_dense(const struct sf_topo *t, struct sf_err *err) {
    uint64_t n = sf_topo_links_total(t), first = 2 * (uint64_t)t->seats; /* behind NVLink, whose lanes are striped */
    uint64_t *sums = sf_calloc(n, 2 * sizeof *sums);
    if (sums == NULL) {
        return sf_fail_memory(err, "the rates of all links");
    }
    for (int kind = SF_LINK_NIC_UP; kind < SF_LINK_KINDS_N; kind++) {
        add_cables(t, kind, sums, sums + n);
    }
    int rc = check_bundles(t, sums, sums + n, first, n, err);
    sf_free(sums);
    return rc;
}

/* ---- the bisection, cable by cable ------------------------------------------------------------------------------- */

enum { NICS, UPLINKS, TALLIES };
struct cut {
    const struct sf_topo *t;
    uint64_t *leaf[TALLIES]; /* bytes per second by leaf */
    uint64_t (*spine)[2];    /* by spine, from the leaves of either side */
    bool back;               /* from the groups above the middle to those below */
};

static bool is_above(const struct cut *c, uint64_t leaf) {
    const struct sfi_fabric *f = &c->t->fabric;
    return leaf % f->leaves / f->rails >= f->groups / 2;
}

/* The sending side counts upwards, the other one downwards. `up` is the kind of the cables' way up. */
static void tally(struct cut *c, int up, int to) {
    uint64_t n = sf_topo_link_count(c->t, (enum sf_link_kind)up);
    for (uint64_t i = 0; i < n; i++) {
        struct sfi_end low, high;
        sfi_link_ends(c->t, SF_LINK(up, i), &low, &high);
        uint64_t leaf = to == NICS ? high.index : low.index;
        bool above = is_above(c, leaf), down = above != c->back;
        uint64_t rate = sf_topo_link_rate(c->t, SF_LINK(down ? up + 1 : up, i));
        c->leaf[to][leaf] += rate;
        if (to == UPLINKS) {
            c->spine[high.index][above] += rate;
        }
    }
}

/* No more than the leaves of either side have, than meets in the spines, and than climbs on to other pods. */
static uint64_t narrowest(const struct cut *c) {
    uint64_t side[2] = {0, 0}, turned = 0, climb[2] = {0, 0}, leaves = sfi_node_count(c->t, SFI_NODE_LEAF);
    for (uint64_t i = 0; i < leaves; i++) {
        uint64_t nics = c->leaf[NICS][i], up = c->leaf[UPLINKS][i];
        side[is_above(c, i)] += nics < up ? nics : up;
    }
    for (uint64_t i = 0; i < sfi_node_count(c->t, SFI_NODE_SPINE); i++) {
        uint64_t low = c->spine[i][0], high = c->spine[i][1], here = low < high ? low : high;
        turned += here;
        climb[0] += low - here;
        climb[1] += high - here;
    }
    uint64_t met = turned + (climb[0] < climb[1] ? climb[0] : climb[1]), sides = side[0] < side[1] ? side[0] : side[1];
    return c->t->fabric.tiers < 2 || sides < met ? sides : met;
}

static int count_cut(struct cut *c, uint64_t *rate, struct sf_err *err) {
    uint64_t leaves = sfi_node_count(c->t, SFI_NODE_LEAF), spines = sfi_node_count(c->t, SFI_NODE_SPINE);
    uint64_t *memory = sf_calloc(2 * (leaves + spines) + 2, sizeof *memory);
    if (memory == NULL) {
        return sf_fail_memory(err, "the bisection count");
    }
    c->leaf[NICS] = memory;
    c->leaf[UPLINKS] = memory + leaves;
    c->spine = (uint64_t(*)[2])(memory + 2 * leaves);
    tally(c, SF_LINK_NIC_UP, NICS);
    tally(c, SF_LINK_LEAF_UP, UPLINKS);
    *rate = narrowest(c);
    sf_free(memory);
    return 0;
}

/* What is said of the bisection is no more than the cables between leaves and spines can carry; rounding of single
 * cables is less than a byte per second each. */
static int check_cut(const struct sf_topo *t, struct sf_err *err) {
    uint64_t said = sfi_bisection_rate(t), cables = sf_topo_link_count(t, SF_LINK_LEAF_UP);
    if (!t->overlay.any || t->fabric.tiers < 2 || t->fabric.groups < 2) {
        return 0;
    }
    for (int back = 0; back < 2; back++) {
        struct cut c = {.t = t, .back = back != 0};
        uint64_t found = 0;
        SF_TRY(count_cut(&c, &found, err));
        if (said > found + cables) {
            return disagree(err, "bisection that the overlay leaves", (uint64_t)back, found, said);
        }
    }
    return 0;
}

int sfi_check_overlay(const struct sf_topo *t, struct sf_err *err) {
    SF_TRY(check_seats(t, err));
    SF_TRY(check_cut(t, err));
    return check_dense(t, err);
}
