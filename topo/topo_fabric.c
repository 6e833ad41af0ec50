/* The scale-out fabric: from ports and tiers to groups, pods, slices and counts. All of it once per plane. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "topo/topo_state.h"

/* The largest number of parallel cables that divides `uplinks` and keeps `units` of them within `ports`; 0 if none. */
static uint32_t fold(uint32_t uplinks, uint32_t units, uint32_t ports) {
    for (uint32_t k = ports / units; k > 0; k--) {
        if (uplinks % k == 0) {
            return k;
        }
    }
    return 0;
}

static uint32_t div_up(uint32_t a, uint32_t b) {
    return a / b + (a % b != 0);
}

/* "3m", "0.5m": up to a kilometre. */
static int read_metres(const struct sf_node *n, double *out, struct sf_err *err) {
    const char *text;
    SF_TRY(sf_node_str(n, &text, err));
    size_t digits = strspn(text, "0123456789.");
    char *end = NULL;
    *out = digits > 0 && digits <= 16 ? strtod(text, &end) : 0;
    if (end != text + digits || strcmp(text + digits, "m") != 0 || !(*out <= 1000)) {
        return sf_node_fail(n, err, "expected a length in metres up to 1000m, found \"%.80s\"", text);
    }
    return 0;
}

static int read_cables(struct sf_topo *t, const struct sf_node *fabric, struct sf_err *err) {
    static const char *const names[] = {"nic_leaf", "leaf_spine", "spine_core", NULL};
    const struct sf_node *cables, *n;
    struct sfi_fabric *f = &t->fabric;
    SF_TRY(sf_map_need(fabric, "cables", &cables, err));
    SF_TRY(sf_map_only(cables, names, err));
    for (uint32_t i = 0; i < 3; i++) {
        double metres;
        n = sf_map_find(cables, names[i]);
        if (i >= f->tiers && n != NULL) {
            return sf_node_fail(n, err, "a fabric of %u tier%s has no such cables", f->tiers, f->tiers > 1 ? "s" : "");
        }
        if (i >= f->tiers) {
            continue;
        }
        SF_TRY(sf_map_need(cables, names[i], &n, err));
        SF_TRY(read_metres(n, &metres, err));
        f->cable_ps[i] = llround(metres * (double)t->fabric_switch.cable_ps_per_m);
    }
    return 0;
}

/* Domains fill groups and groups fill pods, one stock behind the other, unless a stock begins a new one. */
static int derive_blocks(struct sf_topo *t, const struct sf_node *root, struct sf_err *err) {
    struct sfi_fabric *f = &t->fabric;
    f->blocks_n = 1;
    f->blocks[0] = (struct sfi_block){0};
    for (uint32_t i = 1; i < t->stocks_n; i++) {
        const struct sfi_stock *s = &t->stock[i];
        const struct sfi_block *last = &f->blocks[f->blocks_n - 1];
        if (!s->starts_group && !s->starts_pod) {
            continue;
        }
        if (s->starts_pod && f->tiers < 3) {
            return sf_node_fail(sf_map_find(sf_seq_at(sf_map_find(root, "groups"), i), "starts"), err,
                                "a fabric of %u tier%s has one pod: only three tiers have more", f->tiers,
                                f->tiers > 1 ? "s" : "");
        }
        struct sfi_block b = {.first_domain = s->first_domain, .pod_group = last->pod_group};
        b.first_group = last->first_group + div_up(s->first_domain - last->first_domain, f->group_domains);
        b.first_pod = last->first_pod;
        if (s->starts_pod) {
            b.first_pod += div_up(b.first_group - last->pod_group, f->groups_per_pod);
            b.pod_group = b.first_group;
        }
        f->blocks[f->blocks_n++] = b;
    }
    const struct sfi_block *last = &f->blocks[f->blocks_n - 1];
    f->groups = last->first_group + div_up(t->domains - last->first_domain, f->group_domains);
    f->leaves = f->groups * f->rails;
    return 0;
}

static int derive_rails(struct sf_topo *t, const struct sf_node *root, const struct sf_node *fabric,
                        struct sf_err *err) {
    struct sfi_fabric *f = &t->fabric;
    uint32_t gpus = t->stock[0].domain.gpus;
    SF_TRY(sfi_read_count(root, "rails", 1, 1024, &f->rails, err));
    if (gpus % f->rails != 0) {
        return sf_node_fail(sf_map_find(root, "rails"), err, "%u rails do not divide the %u GPUs of a domain", f->rails,
                            gpus);
    }
    f->rail_nics = gpus / f->rails;
    SF_TRY(sfi_read_count(fabric, "leaf_down", 1, SFI_MAX_PORTS, &f->leaf_down, err));
    if (f->leaf_down % f->rail_nics != 0) {
        return sf_node_fail(sf_map_find(fabric, "leaf_down"), err,
                            "expected a multiple of %u, the NICs of a domain on one rail, found %u", f->rail_nics,
                            f->leaf_down);
    }
    f->group_domains = f->leaf_down / f->rail_nics;
    f->groups_per_pod = f->tiers == 3 ? f->radix / 2 / f->rails : UINT32_MAX;
    if (f->groups_per_pod == 0) {
        return sf_node_fail(sf_map_find(fabric, "tiers"), err,
                            "a spine of %u ports has %u down, too few for the leaves of %u rails", f->radix,
                            f->radix / 2, f->rails);
    }
    return derive_blocks(t, root, err);
}

static int derive_uplinks(struct sf_topo *t, const struct sf_node *fabric, struct sf_err *err) {
    struct sfi_fabric *f = &t->fabric;
    const struct sf_node *n = sf_map_find(fabric, "oversubscription");
    double ratio = 1;
    if (f->tiers == 1) {
        return n == NULL ? 0 : sf_node_fail(n, err, "a fabric of one tier has no uplinks to oversubscribe");
    }
    SF_TRY(sf_map_need(fabric, "oversubscription", &n, err));
    SF_TRY(sf_node_f64(n, 1, SFI_MAX_PORTS, &ratio, err));
    double up = nearbyint(f->leaf_down / ratio);
    if (up < 1 || fabs(up * ratio - f->leaf_down) > 1e-6) {
        return sf_node_fail(n, err, "%u ports down over %g is not a whole number of uplinks", f->leaf_down, ratio);
    }
    f->leaf_up = (uint32_t)up;
    return 0;
}

static int check_leaf_ports(const struct sf_topo *t, const struct sf_node *fabric, struct sf_err *err) {
    const struct sfi_fabric *f = &t->fabric;
    uint32_t used = f->leaf_down + f->leaf_up;
    return used <= f->radix ? 0
                            : sf_node_fail(sf_map_find(fabric, "leaf_down"), err,
                                           "a leaf needs %u ports (%u down, %u up), but %s has %u%s", used,
                                           f->leaf_down, f->leaf_up, t->fabric_switch.name, f->radix,
                                           f->radix > t->fabric_switch.ports ? " when they are split" : "");
}

static int derive_one_tier(struct sf_topo *t, const struct sf_node *tiers, struct sf_err *err) {
    struct sfi_fabric *f = &t->fabric;
    if (f->groups > 1) {
        return sf_node_fail(tiers, err, "one tier of leaves joins at most %u domains, found %u: set tiers to 2",
                            f->group_domains, t->domains);
    }
    f->groups_per_pod = f->pods = 1;
    return 0;
}

static int derive_two_tiers(struct sf_topo *t, const struct sf_node *tiers, struct sf_err *err) {
    struct sfi_fabric *f = &t->fabric;
    uint32_t ports = f->radix;
    if (f->leaves > ports) {
        return sf_node_fail(tiers, err, "two tiers of %s join at most %u leaves, found %u: set tiers to 3",
                            t->fabric_switch.name, ports, f->leaves);
    }
    f->groups_per_pod = f->groups;
    f->pods = 1;
    f->spine_cables = fold(f->leaf_up, f->leaves, ports);
    f->pod_spines = f->leaf_up / f->spine_cables;
    f->spine_down = f->leaves * f->spine_cables;
    return 0;
}

static int derive_three_tiers(struct sf_topo *t, const struct sf_node *tiers, struct sf_err *err) {
    struct sfi_fabric *f = &t->fabric;
    uint32_t half = f->radix / 2;
    f->pods = sfi_pod_of_group(f, f->groups - 1) + 1;
    if (f->pods > f->radix) {
        return sf_node_fail(tiers, err, "three tiers of %s join at most %u pods of %u domains, found %u domains",
                            t->fabric_switch.name, f->radix, f->groups_per_pod * f->group_domains, t->domains);
    }
    f->spine_cables = 1;
    f->pod_spines = f->leaf_up;
    f->spine_down = f->spine_up = half;
    f->core_cables = fold(half, f->pods, f->radix);
    f->slice_cores = half / f->core_cables;
    return 0;
}

static int derive_tiers(struct sf_topo *t, const struct sf_node *tiers, struct sf_err *err) {
    switch (t->fabric.tiers) {
    case 1:
        return derive_one_tier(t, tiers, err);
    case 2:
        return derive_two_tiers(t, tiers, err);
    default:
        return derive_three_tiers(t, tiers, err);
    }
}

/* A NIC that is split over planes plugs into ports that are split as finely. */
static int derive_planes(struct sf_topo *t, const struct sf_node *root, struct sf_err *err) {
    struct sfi_fabric *f = &t->fabric;
    const struct sf_switch_class *s = &t->fabric_switch;
    const struct sf_node *n = sf_map_find(root, "planes");
    f->planes = 1;
    if (n != NULL) {
        SF_TRY(sfi_read_count(root, "planes", 1, SFI_MAX_PLANES, &f->planes, err));
    }
    if (f->planes == 3) {
        return sf_node_fail(n, err, "expected 1, 2 or 4 planes, found 3: a NIC splits in halves");
    }
    for (uint32_t i = 1; i < t->stocks_n; i++) {
        f->wide = t->stock[i].out.bytes_per_s > t->stock[f->wide].out.bytes_per_s ? i : f->wide;
    }
    f->radix = s->ports * (f->planes < s->split ? f->planes : s->split);
    return 0;
}

static int check_nics(const struct sf_topo *t, const struct sf_node *fabric, struct sf_err *err) {
    const struct sf_switch_class *s = &t->fabric_switch;
    uint32_t split = t->fabric.radix / s->ports;
    for (uint32_t i = 0; i < t->stocks_n; i++) {
        const struct sf_link_class *nic = &t->stock[i].out;
        if (nic->peak_bytes_per_s / t->fabric.planes > s->port_bytes_per_s / split) {
            return sf_node_fail(sf_map_find(fabric, "switch"), err, "the ports of %s are slower than the NIC, %s",
                                s->name, nic->name);
        }
    }
    return 0;
}

/* Only words that differ from one another in this fabric. */
static int read_routing(struct sf_topo *t, const struct sf_node *fabric, struct sf_err *err) {
    static const char *const words[] = {
#define X(NAME, name) name,
        SF_ROUTINGS(X)
#undef X
            NULL};
    const struct sf_node *n = sf_map_find(fabric, "routing"), *seed = sf_map_find(fabric, "seed");
    struct sf_err inner = {0};
    int64_t value = 0;
    int word = SF_ROUTING_ADAPTIVE;
    SF_TRY(n != NULL ? sf_node_word(n, words, &word, err) : 0);
    SF_TRY(seed != NULL ? sf_node_i64(seed, 0, INT64_MAX, &value, err) : 0);
    if (seed != NULL && word != SF_ROUTING_ECMP) {
        return sf_node_fail(seed, err, "a seed belongs to routing: ecmp, found %s, which hashes nothing", words[word]);
    }
    int rc = sf_topo_set_routing(t, (enum sf_routing)word, (uint64_t)value, &inner);
    return rc == 0 ? 0 : sf_node_fail(n, err, "%s", inner.msg);
}

int sfi_fabric_load(const struct sfi_catalog *c, const struct sf_node *root, struct sf_err *err) {
    static const char *const keys[] = {"switch", "leaf_down", "tiers", "oversubscription",
                                       "cables", "routing",   "seed",  NULL};
    struct sf_topo *t = c->t;
    const struct sf_node *fabric, *n;
    SF_TRY(sf_map_need(root, "fabric", &fabric, err));
    SF_TRY(sf_map_only(fabric, keys, err));
    SF_TRY(sf_map_need(fabric, "switch", &n, err));
    SF_TRY(sfi_catalog_switch(c, n, &t->fabric_switch, err));
    SF_TRY(derive_planes(t, root, err));
    SF_TRY(check_nics(t, fabric, err));
    SF_TRY(sfi_read_count(fabric, "tiers", 1, 3, &t->fabric.tiers, err));
    SF_TRY(derive_rails(t, root, fabric, err));
    SF_TRY(derive_uplinks(t, fabric, err));
    SF_TRY(check_leaf_ports(t, fabric, err));
    SF_TRY(derive_tiers(t, sf_map_find(fabric, "tiers"), err));
    SF_TRY(read_routing(t, fabric, err));
    return read_cables(t, fabric, err);
}
