/* Which cluster an InfraGraph is: devices with xpus are scale-up domains, all others switches. A switch with cables to
 * domains is a leaf, one with cables to leaves a spine, one with cables to spines a core. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "topo/topo_io_infra.h"
#include "topo/topo_io_known.h"

#define NS_PER_M 5 /* of cable: NVIDIA's SuperPOD cabling guide; the catalog's switches all have it */

/* ---- words in descriptions ---- */

bool sfi_infra_catalog_name(const char *about, const char *what, char *out, size_t size) {
    char key[32];
    snprintf(key, sizeof key, "catalog %s ", what);
    const char *at = strstr(about, key);
    if (at == NULL) {
        return false;
    }
    at += strlen(key);
    size_t n = strspn(at, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
    if (n == 0 || n >= size) {
        return false;
    }
    snprintf(out, size, "%.*s", (int)n, at);
    return true;
}

static bool says(const char *text, const char *word) {
    size_t n = strlen(word);
    for (; *text != '\0'; text++) {
        if (strncasecmp(text, word, n) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_scale_up(const struct sfi_infra_link *l) {
    bool c2c = says(l->name, "c2c") || says(l->about, "c2c");
    return says(l->about, "scale-up") || (!c2c && (says(l->name, "nvlink") || says(l->about, "nvlink")));
}

/* ---- inside a domain ---- */

struct neighbours { /* of the nodes of one device, over scale-up links */
    uint32_t *first, *to;
};

static int count_neighbours(const struct sfi_infra *g, const struct sfi_infra_device *d, struct neighbours *out,
                            struct sf_err *err) {
    out->first = sf_arena_alloc(g->arena, d->nodes_n + 2, sizeof *out->first);
    out->to = sf_arena_alloc(g->arena, 2 * d->edges_n + 1, sizeof *out->to);
    if (out->first == NULL || out->to == NULL) {
        return sf_fail_memory(err, "the links of a device");
    }
    for (size_t i = 0; i < d->edges_n; i++) {
        bool counts = is_scale_up(d->edges[i].link);
        out->first[d->edges[i].a + 2] += counts;
        out->first[d->edges[i].b + 2] += counts;
    }
    for (uint64_t i = 2; i < d->nodes_n + 2; i++) {
        out->first[i] += out->first[i - 1];
    }
    for (size_t i = 0; i < d->edges_n; i++) {
        const struct sfi_infra_edge *e = &d->edges[i];
        if (is_scale_up(e->link)) {
            out->to[out->first[e->a + 1]++] = e->b;
            out->to[out->first[e->b + 1]++] = e->a;
        }
    }
    return 0;
}

static enum sfi_infra_choice choice_of(const struct sfi_infra_device *d, uint32_t node) {
    return sfi_infra_component_of(d, node)->choice;
}

struct xpu {
    uint32_t links, chips, peers;
    bool ports; /* links go through ports, so that they could be counted */
};

/* Through a port to what is behind it; anything else is its own end. */
static uint32_t behind(const struct sfi_infra_device *d, const struct neighbours *n, uint32_t from, uint32_t node) {
    for (uint32_t i = n->first[node]; choice_of(d, node) == SFI_INFRA_PORT && i < n->first[node + 1]; i++) {
        if (n->to[i] != from) {
            return n->to[i];
        }
    }
    return node;
}

/* `seen` has a mark per node: the last xpu that counted it. */
static struct xpu look_at_xpu(const struct sfi_infra_device *d, const struct neighbours *n, uint32_t node,
                              uint32_t *seen) {
    struct xpu x = {0};
    for (uint32_t i = n->first[node]; i < n->first[node + 1]; i++) {
        uint32_t end = behind(d, n, node, n->to[i]);
        enum sfi_infra_choice choice = choice_of(d, end);
        bool fresh = seen[end] != node + 1;
        seen[end] = node + 1;
        x.links++;
        x.ports |= end != n->to[i];
        x.chips += fresh && (choice == SFI_INFRA_SWITCH || choice == SFI_INFRA_CUSTOM);
        x.peers += fresh && choice == SFI_INFRA_XPU;
    }
    return x;
}

static int compare_xpu(const struct sfi_infra_component *c, const struct xpu *first, const struct xpu *here,
                       uint64_t index, struct sf_err *err) {
    if (here->links == first->links && here->chips == first->chips && here->peers == first->peers) {
        return 0;
    }
    return sf_node_fail(c->at, err,
                        "expected xpus that are all alike: number %" PRIu64 " has %u links to %u switches and %u "
                        "xpus, the first %u to %u and %u",
                        index, here->links, here->chips, here->peers, first->links, first->chips, first->peers);
}

static uint64_t count_choice(const struct sfi_infra_device *d, enum sfi_infra_choice choice) {
    uint64_t n = 0;
    for (size_t i = 0; i < d->components_n; i++) {
        n += d->components[i].choice == choice ? d->components[i].count : 0;
    }
    return n;
}

static const struct sfi_infra_component *first_xpu(const struct sfi_infra_device *d) {
    for (size_t i = 0; i < d->components_n; i++) {
        if (d->components[i].choice == SFI_INFRA_XPU && d->components[i].count > 0) {
            return &d->components[i];
        }
    }
    return NULL;
}

static int look_at_xpus(const struct sfi_infra *g, const struct sfi_infra_device *d, struct xpu *out,
                        struct sf_err *err) {
    struct neighbours n = {0};
    bool any = false;
    SF_TRY(count_neighbours(g, d, &n, err));
    uint32_t *seen = sf_arena_alloc(g->arena, d->nodes_n + 1, sizeof *seen);
    if (seen == NULL) {
        return sf_fail_memory(err, "the links of a device");
    }
    for (size_t i = 0; i < d->components_n; i++) {
        const struct sfi_infra_component *c = &d->components[i];
        for (uint64_t k = 0; c->choice == SFI_INFRA_XPU && k < c->count; k++) {
            struct xpu x = look_at_xpu(d, &n, (uint32_t)(c->first + k), seen);
            *out = any ? *out : x;
            any = true;
            SF_TRY(compare_xpu(c, out, &x, k, err));
        }
    }
    return 0;
}

static int choose_device(const struct sfi_infra_device *d, const struct sf_topo_wishes *w, struct sf_topo_found *f,
                         struct sf_err *err) {
    const struct sfi_infra_component *x = first_xpu(d);
    if (w->device != NULL) {
        return sfi_io_take_name("device", w->device, f->device, sizeof f->device, err);
    }
    if (sfi_infra_catalog_name(x->about, "device", f->device, sizeof f->device)) {
        return 0;
    }
    if (sfi_known_family(x->name) != NULL) {
        snprintf(f->device, sizeof f->device, "%s", x->name);
        return 0;
    }
    return sf_node_fail(x->at, err, "the file calls its xpus \"%.60s\" (%.80s): name their device with --device",
                        x->name, x->about);
}

static const struct sfi_infra_link *scale_up_link(const struct sfi_infra_device *d) {
    for (size_t i = 0; i < d->links_n; i++) {
        if (is_scale_up(&d->links[i])) {
            return &d->links[i];
        }
    }
    return NULL;
}

static int choose_link(const struct sfi_infra_device *d, const struct sf_topo_wishes *w, struct sf_topo_found *f,
                       struct sf_err *err) {
    const struct sfi_infra_link *link = scale_up_link(d);
    const struct sfi_known_family *family = sfi_known_family(f->device);
    if (w->link != NULL) {
        return sfi_io_take_name("link class", w->link, f->link, sizeof f->link, err);
    }
    if (link != NULL && sfi_infra_catalog_name(link->about, "link", f->link, sizeof f->link)) {
        return 0;
    }
    if (family == NULL) {
        return sf_node_fail(d->at, err, "no link class is known for %s: name one with --link", f->device);
    }
    snprintf(f->link, sizeof f->link, "%s", family->link);
    return 0;
}

/* A graph without ports says which switches an xpu meets, not with how many links. */
static int join_xpus(const struct sfi_infra_device *d, const struct xpu *x, struct sf_topo_found *f,
                     struct sf_err *err) {
    const struct sfi_known_family *family = sfi_known_family(f->device);
    uint32_t gpus = (uint32_t)count_choice(d, SFI_INFRA_XPU);
    if (x->links == 0 && gpus > 1) {
        return sf_node_fail(d->at, err,
                            "expected the xpus of %.60s to be joined by links whose name or description says nvlink or "
                            "scale-up, found none",
                            d->name);
    }
    if (x->peers > 0 && (x->chips > 0 || x->peers + 1 != gpus)) {
        return sf_node_fail(d->at, err,
                            "expected xpus joined by switches, or each with all %u others, found links to %u", gpus - 1,
                            x->peers);
    }
    f->nvswitches = x->chips;
    f->links_per_gpu = x->links > 0 ? x->links : 1;
    if (!x->ports && family != NULL && family->lanes > x->links) {
        f->links_per_gpu = family->lanes;
        sfi_io_note(f, "The graph has no ports for NVLinks: %u links per GPU are usual for %s.", family->lanes,
                    family->device);
    }
    return 0;
}

static void choose_cpu_link(const struct sfi_infra_device *d, struct sf_topo_found *f) {
    const struct sfi_known_family *family = sfi_known_family(f->device);
    for (size_t i = 0; i < d->edges_n; i++) {
        const struct sfi_infra_edge *e = &d->edges[i];
        bool joins = (choice_of(d, e->a) == SFI_INFRA_XPU && choice_of(d, e->b) == SFI_INFRA_CPU) ||
                     (choice_of(d, e->b) == SFI_INFRA_XPU && choice_of(d, e->a) == SFI_INFRA_CPU);
        if (joins && sfi_infra_catalog_name(e->link->about, "link", f->cpu_link, sizeof f->cpu_link)) {
            return;
        }
    }
    if (family != NULL && f->cpus_per_tray > 0 && !says(d->about, "no link to its CPUs")) {
        snprintf(f->cpu_link, sizeof f->cpu_link, "%s", family->cpu_link);
    }
}

static uint32_t count_trays(const struct sfi_infra_device *d) {
    for (size_t i = 0; i < d->components_n; i++) {
        if (strcmp(d->components[i].type, "tray") == 0 && d->components[i].count > 0) {
            return (uint32_t)d->components[i].count;
        }
    }
    return 1;
}

static int describe_domain(const struct sfi_infra *g, const struct sfi_infra_device *d, const struct sf_topo_wishes *w,
                           struct sf_topo_found *f, struct sf_err *err) {
    struct xpu x = {0};
    uint64_t gpus = count_choice(d, SFI_INFRA_XPU), cpus = count_choice(d, SFI_INFRA_CPU);
    f->trays = count_trays(d);
    if (gpus % f->trays != 0 || cpus % f->trays != 0 || cpus / f->trays > 1024) {
        return sf_node_fail(d->at, err,
                            "expected xpus and cpus that divide over %u trays, found %" PRIu64 " and %" PRIu64,
                            f->trays, gpus, cpus);
    }
    f->gpus_per_tray = (uint32_t)(gpus / f->trays);
    f->cpus_per_tray = (uint32_t)(cpus / f->trays);
    sfi_io_take_title(d->name, NULL, f->name, NULL); /* borrowed for cleaning a word */
    snprintf(f->kind, sizeof f->kind, "%.31s", f->name);
    SF_TRY(choose_device(d, w, f, err));
    SF_TRY(look_at_xpus(g, d, &x, err));
    SF_TRY(choose_link(d, w, f, err));
    choose_cpu_link(d, f);
    return join_xpus(d, &x, f, err);
}

/* ---- between domains ---- */

enum { LEVEL_NONE, LEVEL_DOMAIN, LEVEL_LEAF, LEVEL_SPINE, LEVEL_CORE };

struct box {
    uint32_t down, up;    /* cables */
    uint32_t peers;       /* domains: leaves; leaves: the last domain that counted it, plus one */
    uint32_t first_leaf;  /* domains: the smallest leaf, which names the group; plus one */
    uint32_t first_spine; /* leaves: likewise */
    uint8_t level;
    uint8_t run; /* domains: of one kind, counted from 0 */
};

struct run { /* of domains of one kind */
    const struct sfi_infra_device *device;
    const struct sfi_infra_link *nic;
    uint64_t first, last; /* numbers of its domains among all instances */
    uint32_t domains;
};

struct plan {
    const struct sfi_infra *g;
    struct box *boxes; /* per instance */
    const struct sfi_infra_device *domain, *leaf;
    struct run runs[SF_TOPO_GROUPS_MAX];
    uint32_t runs_n;
    const struct sfi_infra_link *links[3]; /* of NIC-leaf, leaf-spine, spine-core cables */
};

static int find_domains(struct plan *p, struct sf_topo_found *f, struct sf_err *err) {
    const struct sfi_infra *g = p->g;
    for (size_t i = 0; i < g->instances_n; i++) {
        const struct sfi_infra_instance *in = &g->instances[i];
        if (in->count == 0 || first_xpu(in->device) == NULL) {
            continue;
        }
        struct run *r = p->runs_n > 0 ? &p->runs[p->runs_n - 1] : NULL;
        if (r == NULL || r->device != in->device) {
            if (p->runs_n == SF_TOPO_GROUPS_MAX) {
                return sf_node_fail(in->at, err, "expected at most %d kinds of domains one behind the other",
                                    SF_TOPO_GROUPS_MAX);
            }
            r = &p->runs[p->runs_n++];
            *r = (struct run){.device = in->device, .first = in->first};
        }
        f->domains += (uint32_t)in->count;
        r->domains += (uint32_t)in->count;
        r->last = in->first + in->count - 1;
        for (uint64_t k = 0; k < in->count; k++) {
            p->boxes[in->first + k].level = LEVEL_DOMAIN;
            p->boxes[in->first + k].run = (uint8_t)(p->runs_n - 1);
        }
    }
    p->domain = p->runs[0].device;
    return p->domain != NULL ? 0 : sf_node_fail(g->root, err, "expected instances of a device with xpus, found none");
}

/* One step up: whatever has a cable to `level` and no level yet is one higher. Returns how many cables changed sides.
 */
static int climb(struct plan *p, int level, uint64_t *cables, struct sf_err *err) {
    const struct sfi_infra *g = p->g;
    *cables = 0;
    for (size_t i = 0; i < g->cables_n; i++) {
        const struct sfi_infra_cable *c = &g->cables[i];
        struct box *a = &p->boxes[c->a.instance], *b = &p->boxes[c->b.instance];
        if (a->level == level && b->level == level) {
            return sf_node_fail(c->at, err, "expected cables between tiers, found one inside a tier (%s)",
                                level == LEVEL_DOMAIN ? "two domains" : "two switches");
        }
        struct box *low = a->level == level ? a : b, *high = low == a ? b : a;
        if (low->level != level || (high->level != LEVEL_NONE && high->level != level + 1)) {
            continue;
        }
        if (level > LEVEL_SPINE) {
            return sf_node_fail(c->at, err, "expected at most three tiers of switches, found a fourth");
        }
        high->level = (uint8_t)(level + 1);
        low->up++;
        high->down++;
        p->links[level - 1] = c->link;
        if (level == LEVEL_DOMAIN) {
            p->runs[low->run].nic = c->link;
        } else if (level == LEVEL_LEAF) {
            uint32_t spine = (low == a ? c->b.instance : c->a.instance) + 1;
            low->first_spine = low->first_spine == 0 || spine < low->first_spine ? spine : low->first_spine;
        }
        p->leaf = level == LEVEL_DOMAIN ? sfi_infra_instance_of(g, low == a ? c->b.instance : c->a.instance)->device
                                        : p->leaf;
        ++*cables;
    }
    return 0;
}

/* An xpu with several NIC cables has a NIC of several planes, each of them on leaves of its own. */
static int share_planes(const struct plan *p, struct sf_topo_found *f, uint32_t leaves, struct sf_err *err) {
    uint32_t gpus = f->trays * f->gpus_per_tray, cables = 0;
    for (uint64_t i = 0; i < p->g->instances_all && cables == 0; i++) {
        cables = p->boxes[i].level == LEVEL_DOMAIN ? p->boxes[i].up : 0;
    }
    f->planes = cables > gpus && cables % gpus == 0 ? cables / gpus : 1;
    f->rails = leaves / f->planes;
    return leaves % f->planes == 0 && f->rails > 0
               ? 0
               : sf_node_fail(p->domain->at, err, "expected %u planes on as many leaves each, found %u leaves",
                              f->planes, leaves);
}

/* Leaves of each domain, and that domains which share one leaf share all. */
static int look_at_groups(struct plan *p, struct sf_topo_found *f, struct sf_err *err) {
    const struct sfi_infra *g = p->g;
    uint32_t leaves = 0;
    for (size_t i = 0; i < g->cables_n; i++) {
        const struct sfi_infra_cable *c = &g->cables[i];
        bool up = p->boxes[c->a.instance].level == LEVEL_DOMAIN;
        uint32_t low = up ? c->a.instance : c->b.instance, high = up ? c->b.instance : c->a.instance;
        struct box *domain = &p->boxes[low], *leaf = &p->boxes[high];
        if (domain->level != LEVEL_DOMAIN) {
            continue;
        }
        domain->peers += leaf->peers != low + 1;
        leaf->peers = low + 1;
        domain->first_leaf = domain->first_leaf == 0 || high + 1 < domain->first_leaf ? high + 1 : domain->first_leaf;
    }
    for (size_t i = 0; i < g->cables_n; i++) {
        const struct sfi_infra_cable *c = &g->cables[i];
        bool up = p->boxes[c->a.instance].level == LEVEL_DOMAIN;
        const struct box *domain = &p->boxes[up ? c->a.instance : c->b.instance];
        struct box *leaf = &p->boxes[up ? c->b.instance : c->a.instance];
        if (domain->level != LEVEL_DOMAIN) {
            continue;
        }
        leaves = leaves == 0 ? domain->peers : leaves;
        leaf->first_leaf = leaf->first_leaf == 0 ? domain->first_leaf : leaf->first_leaf;
        if (domain->peers != leaves || leaf->first_leaf != domain->first_leaf) {
            return sf_node_fail(c->at, err,
                                "expected every domain on %u leaves, the same ones for all domains of a "
                                "group; this domain has %u",
                                leaves, domain->peers);
        }
    }
    return share_planes(p, f, leaves, err);
}

static int fail_uneven(const struct plan *p, uint64_t at, const char *what, uint32_t here, uint32_t expected,
                       struct sf_err *err) {
    const struct sfi_infra_instance *in = sfi_infra_instance_of(p->g, (uint32_t)at);
    return sf_node_fail(in->at, err, "expected %u %s for every %.60s, found %u for number %" PRIu64, expected, what,
                        in->name, here, at - in->first);
}

static int measure_boxes(struct plan *p, struct sf_topo_found *f, struct sf_err *err) {
    uint32_t gpus = f->trays * f->gpus_per_tray;
    bool any = false;
    for (uint64_t i = 0; i < p->g->instances_all; i++) {
        const struct box *b = &p->boxes[i];
        f->leaves += b->level == LEVEL_LEAF;
        f->spines += b->level == LEVEL_SPINE;
        f->cores += b->level == LEVEL_CORE;
        if (b->level == LEVEL_DOMAIN && b->up != gpus * f->planes) {
            return fail_uneven(p, i, "NIC cables, as many for each xpu,", b->up, gpus * f->planes, err);
        }
        if (b->level != LEVEL_LEAF) {
            continue;
        }
        f->leaf_up = any ? f->leaf_up : b->up;
        any = true;
        f->leaf_down = b->down > f->leaf_down ? b->down : f->leaf_down;
        if (b->up != f->leaf_up) {
            return fail_uneven(p, i, "cables upwards", b->up, f->leaf_up, err);
        }
    }
    if (f->leaf_up > f->leaf_down) {
        sfi_io_note(f, "No leaf is full: %u ports down, as many as up, are assumed.", f->leaf_up);
        f->leaf_down = f->leaf_up;
    }
    return 0;
}

static int choose_nic(const struct sfi_infra_link *l, const struct sf_topo_wishes *w, struct sf_topo_found *f,
                      struct sf_err *err) {
    f->nic[0] = '\0';
    f->nics = f->trays * f->gpus_per_tray;
    f->nic_bytes_per_s = l->bytes_per_s * f->planes;
    if (w->nic != NULL) {
        return sfi_io_take_name("NIC", w->nic, f->nic, sizeof f->nic, err);
    }
    const char *known = sfi_known_nic_of_rate(f->nic_bytes_per_s, false);
    if (!sfi_infra_catalog_name(l->about, "link", f->nic, sizeof f->nic) && known != NULL) {
        snprintf(f->nic, sizeof f->nic, "%s", known);
    }
    return f->nic[0] != '\0' ? 0
                             : sf_node_fail(l->at, err, "no NIC of %.0f Gb/s is known: name its link class with --nic",
                                            (double)f->nic_bytes_per_s * 8 / 1e9);
}

/* What a run does not share with the one before, it begins anew. */
static const char *start_of(const struct plan *p, const struct sf_topo_found *f, uint32_t run) {
    if (run == 0 || f->tiers == 0) {
        return NULL;
    }
    uint32_t a = p->boxes[p->runs[run - 1].last].first_leaf, b = p->boxes[p->runs[run].first].first_leaf;
    bool pod = f->tiers == 3 && p->boxes[a - 1].first_spine != p->boxes[b - 1].first_spine;
    return a == b ? NULL : pod ? "pod" : "group";
}

/* A NIC for every kind of domain; the first kind's stays. */
static int choose_nics(struct plan *p, const struct sf_topo_wishes *w, struct sf_topo_found *f, struct sf_err *err) {
    uint64_t fastest = 0;
    for (uint32_t r = p->runs_n; r-- > 0;) {
        if (p->runs[r].nic == NULL) {
            return sf_node_fail(p->runs[r].device->at, err, "expected edges from %.60s to switches, found none",
                                p->runs[r].device->name);
        }
        SF_TRY(choose_nic(p->runs[r].nic, w, f, err));
        if (p->runs[r].nic->bytes_per_s >= fastest) {
            fastest = p->runs[r].nic->bytes_per_s;
            p->links[0] = p->runs[r].nic;
        }
        if (f->groups_n > 0) {
            memcpy(f->groups[r].nic, f->nic, sizeof f->nic);
            f->groups[r].starts = start_of(p, f, r);
        }
    }
    return 0;
}

static int choose_switch(const struct plan *p, const struct sf_topo_wishes *w, struct sf_topo_found *f,
                         struct sf_err *err) {
    const struct sfi_infra_device *d = p->leaf;
    uint64_t ports = count_choice(d, SFI_INFRA_PORT);
    if (w->fabric_switch != NULL) {
        return sfi_io_take_name("switch", w->fabric_switch, f->fabric_switch, sizeof f->fabric_switch, err);
    }
    const char *known = sfi_known_switch((uint32_t)ports, p->links[0]->bytes_per_s);
    if (!sfi_infra_catalog_name(d->about, "switch", f->fabric_switch, sizeof f->fabric_switch) && known != NULL) {
        snprintf(f->fabric_switch, sizeof f->fabric_switch, "%s", known);
    }
    return f->fabric_switch[0] != '\0'
               ? 0
               : sf_node_fail(d->at, err,
                              "no switch with %" PRIu64 " ports of %.0f Gb/s is known: name one with --switch", ports,
                              (double)p->links[0]->bytes_per_s * 8 / 1e9);
}

static void choose_cables(const struct plan *p, struct sf_topo_found *f) {
    static const double usual[] = {5, 30, 100};
    bool assumed = false;
    for (uint32_t i = 0; i < f->tiers; i++) {
        double ns = p->links[i]->latency_ns;
        bool cable = says(p->links[i]->about, "cable") && ns <= NS_PER_M * 1000.0;
        f->cable_m[i] = cable ? ns / NS_PER_M : usual[i];
        assumed |= !cable;
    }
    if (assumed) {
        sfi_io_note(f, "The graph does not say how long its cables are: 5, 30, 100 m assumed.");
    }
}

static int describe_fabric(struct plan *p, const struct sf_topo_wishes *w, struct sf_topo_found *f,
                           struct sf_err *err) {
    uint64_t nic_cables, beyond;
    SF_TRY(climb(p, LEVEL_DOMAIN, &nic_cables, err));
    if (f->domains == 1) {
        return 0;
    }
    if (nic_cables == 0) {
        return sf_node_fail(p->g->root, err, "expected edges from the %u instances of %.60s to switches, found none",
                            f->domains, p->domain->name);
    }
    SF_TRY(climb(p, LEVEL_LEAF, &f->links_leaf_spine, err));
    SF_TRY(climb(p, LEVEL_SPINE, &f->links_spine_core, err));
    SF_TRY(climb(p, LEVEL_CORE, &beyond, err));
    f->tiers = 1u + (f->links_leaf_spine > 0) + (f->links_spine_core > 0);
    SF_TRY(look_at_groups(p, f, err));
    SF_TRY(measure_boxes(p, f, err));
    SF_TRY(choose_nics(p, w, f, err));
    SF_TRY(choose_switch(p, w, f, err));
    choose_cables(p, f);
    return 0;
}

/* The first kind last, so that it is what stays in `f`. */
static int describe_domains(const struct plan *p, const struct sf_topo_wishes *w, struct sf_topo_found *f,
                            struct sf_err *err) {
    f->groups_n = p->runs_n > 1 ? p->runs_n : 0;
    if (f->groups_n > 0 && (w->device != NULL || w->link != NULL || w->nic != NULL)) {
        return sf_node_fail(p->runs[1].device->at, err,
                            "domains are of %u kinds, so --device, --link and --nic do not say whose: describe the "
                            "classes in the graph (catalog device NAME, catalog link NAME)",
                            p->runs_n);
    }
    for (uint32_t r = p->runs_n, gpus = 0; r-- > 0;) {
        f->device[0] = f->link[0] = f->cpu_link[0] = '\0';
        SF_TRY(describe_domain(p->g, p->runs[r].device, w, f, err));
        uint32_t here = f->trays * f->gpus_per_tray;
        if (gpus > 0 && here != gpus) {
            return sf_node_fail(p->runs[r].device->at, err,
                                "expected as many xpus in every kind of domain, found %u beside %u: a cluster file "
                                "counts seats, and says gpus_in_use for what is not filled",
                                here, gpus);
        }
        gpus = here;
        if (f->groups_n > 0) {
            sfi_io_group(f, p->runs[r].domains, &f->groups[r]);
        }
    }
    return 0;
}

int sfi_infra_shape(const struct sfi_infra *g, const struct sf_topo_wishes *wishes, struct sf_topo_found *out,
                    struct sf_err *err) {
    struct plan p = {.g = g, .boxes = sf_arena_alloc(g->arena, g->instances_all + 1, sizeof *p.boxes)};
    if (p.boxes == NULL) {
        return sf_fail_memory(err, "a cluster's switches");
    }
    SF_TRY(find_domains(&p, out, err));
    SF_TRY(describe_domains(&p, wishes, out, err));
    return describe_fabric(&p, wishes, out, err);
}

int sfi_infra_read(const char *text, size_t bytes, const char *path, const struct sf_topo_wishes *wishes,
                   struct sf_topo_found *out, struct sf_err *err) {
    struct sf_doc *doc = NULL;
    struct sfi_infra g = {0};
    *out = (struct sf_topo_found){.domains = 0};
    SF_TRY(sf_doc_parse(text, bytes, path, &doc, err));
    struct sf_arena *arena = sf_arena_create();
    int rc = arena != NULL ? sfi_infra_parse(doc, arena, &g, err) : sf_fail_memory(err, "an InfraGraph file");
    if (rc == 0) {
        sfi_io_note(out, "Imported: a cluster, from InfraGraph.");
        rc = sfi_infra_shape(&g, wishes, out, err);
    }
    if (rc == 0) {
        rc = sfi_io_take_title(g.name[0] != '\0' ? g.name : path, wishes->name, out->name, err);
    }
    sf_arena_free(arena);
    sf_doc_free(doc);
    return rc;
}
