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

int sfi_check_overlay(const struct sf_topo *t, struct sf_err *err) {
    SF_TRY(check_seats(t, err));
    return check_dense(t, err);
}
