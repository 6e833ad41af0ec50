/* InfraGraph: one device per stock of domains, one for the switches; cables in slices, so that 600,000 of them need
 * 20,000 edges. Names of catalog entries stand in descriptions ("catalog link nvlink5"), where import finds them. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "topo/topo_io_write.h"

/* One number of an end: where it starts, and how it moves from one edge of a run to the next. */
struct range {
    uint64_t first, last, step;
};

struct side {
    const char *instance, *component;
    uint32_t suffix;    /* of the instance's name: the stock */
    struct range at[2]; /* instance, component */
};

/* Edges that advance evenly on both sides, one number of each; and the edges before them, which may take them in. */
struct edges {
    struct side a, b;
    uint64_t n;
    const char *link;
    uint32_t link_suffix;
};
struct run {
    struct edges now, before;
    struct sf_buf *out;
};

struct cable {
    const char *instance[2], *component[2], *link;
    uint32_t suffix[2], link_suffix;
    uint64_t at[2][2]; /* side; instance, component */
};

#define NO_SUFFIX UINT32_MAX

static void print_suffixed(struct sf_buf *out, const char *name, uint32_t suffix) {
    sf_buf_printf(out, "%s", name);
    if (suffix != NO_SUFFIX) {
        sf_buf_printf(out, "%u", suffix);
    }
}

static void print_range(struct sf_buf *out, const struct range *r) {
    if (r->first == r->last) {
        sf_buf_printf(out, "[%" PRIu64 "]", r->first);
    } else if (r->step == 1) {
        sf_buf_printf(out, "[%" PRIu64 ":%" PRIu64 "]", r->first, r->last + 1);
    } else {
        sf_buf_printf(out, "[%" PRIu64 ":%" PRIu64 ":%" PRIu64 "]", r->first, r->last + 1, r->step);
    }
}

static void print_side(struct sf_buf *out, const struct side *s) {
    sf_buf_printf(out, "{ instance: \"");
    print_suffixed(out, s->instance, s->suffix);
    print_range(out, &s->at[0]);
    sf_buf_printf(out, "\", component: \"%s", s->component);
    print_range(out, &s->at[1]);
    sf_buf_printf(out, "\" }");
}

static void print_edges_of(struct sf_buf *out, const struct edges *e) {
    if (e->n == 0) {
        return;
    }
    sf_buf_printf(out, "  - { ep1: ");
    print_side(out, &e->a);
    sf_buf_printf(out, ", ep2: ");
    print_side(out, &e->b);
    sf_buf_printf(out, ", scheme: one2one, link: ");
    print_suffixed(out, e->link, e->link_suffix);
    sf_buf_printf(out, " }\n");
}

static bool same_range(const struct range *a, const struct range *b) {
    return a->first == b->first && a->last == b->last && a->step == b->step;
}

/* Side x: the next instance with the same components; side y: the ports that follow. Slices multiply in just this
 * order. */
static bool continues(const struct side *x, const struct side *nx, const struct side *y, const struct side *ny) {
    const struct range *a = x->at, *na = nx->at, *b = y->at, *nb = ny->at;
    bool shape = a[1].first != a[1].last && na[0].first == na[0].last && b[0].first == b[0].last;
    uint64_t step = a[0].first == a[0].last ? na[0].first - a[0].last : a[0].step;
    return shape && same_range(&a[1], &na[1]) && na[0].first > a[0].last && na[0].first == a[0].last + step &&
           same_range(&b[0], &nb[0]) && b[1].step == nb[1].step && nb[1].first == b[1].last + b[1].step;
}

static void take_in(struct side *x, const struct side *nx, struct side *y, const struct side *ny) {
    x->at[0].step = nx->at[0].first - x->at[0].last;
    x->at[0].last = nx->at[0].last;
    y->at[1].last = ny->at[1].last;
}

static void end_edges(struct run *r) {
    struct edges *e = &r->before, *next = &r->now;
    bool same =
        e->n > 0 && e->link == next->link && e->link_suffix == next->link_suffix && e->a.suffix == next->a.suffix;
    if (next->n == 0) {
        return;
    }
    if (same && continues(&e->a, &next->a, &e->b, &next->b)) {
        take_in(&e->a, &next->a, &e->b, &next->b);
    } else if (same && continues(&e->b, &next->b, &e->a, &next->a)) {
        take_in(&e->b, &next->b, &e->a, &next->a);
    } else {
        print_edges_of(r->out, e);
        *e = *next;
    }
    next->n = 0;
}

static void flush_run(struct run *r) {
    end_edges(r);
    print_edges_of(r->out, &r->before);
    r->before.n = 0;
}

/* Whether a side can go on to `next`: exactly one of its two numbers moves, always by the same step. */
static bool side_continues(const struct side *s, uint64_t n, const uint64_t next[2]) {
    bool moves[2];
    for (int i = 0; i < 2; i++) {
        const struct range *r = &s->at[i];
        moves[i] = next[i] != r->last;
        bool moved = r->first != r->last;
        if (moves[i] && (next[i] < r->last || (n > 1 && (!moved || next[i] - r->last != r->step)))) {
            return false;
        }
        if (!moves[i] && n > 1 && moved) {
            return false;
        }
    }
    return moves[0] != moves[1];
}

static void side_advance(struct side *s, const uint64_t next[2]) {
    for (int i = 0; i < 2; i++) {
        if (next[i] != s->at[i].last) {
            s->at[i].step = next[i] - s->at[i].last;
            s->at[i].last = next[i];
        }
    }
}

static struct side side_start(const struct cable *c, int side) {
    const uint64_t *at = c->at[side];
    return (struct side){
        c->instance[side], c->component[side], c->suffix[side], {{at[0], at[0], 1}, {at[1], at[1], 1}}};
}

static void add_cable(struct run *r, const struct cable *c) {
    struct edges *e = &r->now;
    bool same = e->n > 0 && e->link == c->link && e->link_suffix == c->link_suffix && e->a.suffix == c->suffix[0];
    if (same && side_continues(&e->a, e->n, c->at[0]) && side_continues(&e->b, e->n, c->at[1])) {
        side_advance(&e->a, c->at[0]);
        side_advance(&e->b, c->at[1]);
        e->n++;
        return;
    }
    end_edges(r);
    *e = (struct edges){side_start(c, 0), side_start(c, 1), 1, c->link, c->link_suffix};
}

/* ---- text ---- */

/* Letters and digits as they are; InfraGraph's names take no others. */
static void print_plain(struct sf_buf *out, const char *text) {
    for (const char *c = text; *c != '\0'; c++) {
        bool plain = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') || *c == '-';
        sf_buf_write(out, plain ? c : "_", 1);
    }
}

static void print_component(struct sf_buf *out, const char *name, uint64_t count, const char *choice, const char *about,
                            const char *value) {
    if (count == 0) {
        return;
    }
    sf_buf_printf(out, "      - { name: %s, count: %" PRIu64 ", choice: %s, description: \"%s", name, count, choice,
                  about);
    print_plain(out, value);
    sf_buf_printf(out, "\", %s: { %s } }\n", choice, strcmp(choice, "custom") == 0 ? "type: tray" : "");
}

static void print_link(struct sf_buf *out, const char *indent, const char *name, uint32_t suffix, const char *about,
                       const struct sf_link_class *c, uint64_t bytes_per_s, double ns) {
    sf_buf_printf(out, "%s- { name: ", indent);
    print_suffixed(out, name, suffix);
    sf_buf_printf(out, ", description: \"%s", about);
    if (c != NULL) {
        sf_buf_printf(out, ", catalog link ");
        print_plain(out, c->name);
    }
    sf_buf_printf(out, "\"");
    if (bytes_per_s > 0) {
        sf_buf_printf(out, ", physical: { bandwidth: { choice: gigabits_per_second, gigabits_per_second: %.10g }",
                      (double)bytes_per_s * 8 / 1e9);
        if (ns >= 0) {
            sf_buf_printf(out, ", latency: { choice: ns, ns: %.10g }", ns);
        }
        sf_buf_printf(out, " }");
    }
    sf_buf_printf(out, " }\n");
}

static void print_inner_edge(struct sf_buf *out, const char *a, const char *b, const char *scheme, const char *link) {
    sf_buf_printf(out, "      - { ep1: { component: \"%s\" }, ep2: { component: \"%s\" }, scheme: %s, link: %s }\n", a,
                  b, scheme, link);
}

static void print_inner_range(struct sf_buf *out, const char *a, uint64_t a0, uint64_t a1, uint64_t a_step,
                              const char *b, uint64_t b0, uint64_t b1, const char *scheme, const char *link) {
    char from[96], to[96];
    if (a_step == 1) {
        snprintf(from, sizeof from, "%s[%" PRIu64 ":%" PRIu64 "]", a, a0, a1);
    } else {
        snprintf(from, sizeof from, "%s[%" PRIu64 ":%" PRIu64 ":%" PRIu64 "]", a, a0, a1, a_step);
    }
    snprintf(to, sizeof to, "%s[%" PRIu64 ":%" PRIu64 "]", b, b0, b1);
    print_inner_edge(out, from, to, scheme, link);
}

/* ---- a domain ---- */

static void print_lanes(const struct sfi_io_facts *f, uint64_t gpus, struct sf_buf *out) {
    uint64_t ports = gpus * f->lanes;
    for (uint64_t g = 0; g < gpus; g++) {
        print_inner_range(out, "nvport", g * f->lanes, (g + 1) * f->lanes, 1, "xpu", g, g + 1, "many2many", "scale-up");
    }
    if (f->nvswitches == 0) {
        print_inner_range(out, "nvport", 0, ports, 1, "memory", 0, 1, "many2many", "scale-up");
        return;
    }
    bool even = f->lanes % f->nvswitches == 0;
    for (uint64_t g = 0; g < (even ? 1 : gpus); g++) {
        uint64_t first = g * f->lanes, end = even ? ports : first + f->lanes;
        for (uint32_t chip = 0; chip < f->nvswitches; chip++) {
            print_inner_range(out, "nvport", first + chip, end, f->nvswitches, "nvsw", chip, chip + 1, "many2many",
                              "scale-up");
        }
    }
}

static void print_domain_edges(const struct sfi_io_facts *f, uint64_t gpus, struct sf_buf *out) {
    uint64_t cpus = (uint64_t)f->trays * f->cpus_per_tray;
    sf_buf_printf(out, "    edges:\n");
    print_lanes(f, gpus, out);
    for (uint64_t tray = 0; tray < f->trays; tray++) {
        print_inner_range(out, "xpu", tray * f->gpus_per_tray, (tray + 1) * f->gpus_per_tray, 1, "tray", tray, tray + 1,
                          "many2many", "in-tray");
    }
    for (uint64_t g = 0; cpus > 0 && g < gpus; g++) {
        uint64_t cpu =
            g / f->gpus_per_tray * f->cpus_per_tray + g % f->gpus_per_tray * f->cpus_per_tray / f->gpus_per_tray;
        print_inner_range(out, "xpu", g, g + 1, 1, "cpu", cpu, cpu + 1, "one2one", "to-cpu");
    }
    for (uint64_t plane = 0; f->nic != NULL && plane < f->planes; plane++) {
        print_inner_range(out, "nic", plane, gpus * f->planes, f->planes, "xpu", 0, gpus, "one2one", "to-nic");
    }
}

static void print_domain(const struct sfi_io_facts *f, uint32_t stock, struct sf_buf *out) {
    uint64_t gpus = (uint64_t)f->trays * f->gpus_per_tray, cpus = (uint64_t)f->trays * f->cpus_per_tray;
    sf_buf_printf(out, "  - name: ");
    print_plain(out, f->kind);
    print_suffixed(out, "", stock);
    sf_buf_printf(out, "\n    description: \"%u trays of %u GPUs%s\"\n    components:\n", f->trays, f->gpus_per_tray,
                  f->cpu == NULL ? ", no link to its CPUs" : "");
    print_component(out, "xpu", gpus, "xpu", "catalog device ", f->device);
    print_component(out, "cpu", cpus, "cpu", "", "CPU");
    print_component(out, "tray", f->trays, "custom", "", "what one operating system sees");
    print_component(out, "nvsw", f->nvswitches, "switch", "", "scale-up switch chip");
    print_component(out, "memory", f->nvswitches == 0, "memory", "", "what GPUs without switch chips share");
    print_component(out, "nvport", gpus * f->lanes, "port", "", "scale-up port");
    print_component(out, "nic", f->nic != NULL ? gpus * f->planes : 0, "nic", "",
                    f->planes > 1 ? "plane of a NIC" : "NIC");
    sf_buf_printf(out, "    links:\n");
    print_link(out, "      ", "scale-up", NO_SUFFIX, "scale-up", f->up, f->up->peak_bytes_per_s / f->lanes, -1);
    print_link(out, "      ", "in-tray", NO_SUFFIX, "in one tray", NULL, 0, -1);
    print_link(out, "      ", "to-cpu", NO_SUFFIX, "GPU to CPU", f->cpu, f->cpu != NULL ? f->cpu->peak_bytes_per_s : 0,
               -1);
    print_link(out, "      ", "to-nic", NO_SUFFIX, "GPU to NIC", NULL, 0, -1);
    print_domain_edges(f, gpus, out);
}

static void print_switch(const struct sfi_io_facts *f, struct sf_buf *out) {
    sf_buf_printf(out, "  - name: switch\n    description: \"catalog switch ");
    print_plain(out, f->fabric_switch->name);
    sf_buf_printf(out, "\"\n    components:\n");
    print_component(out, "asic", 1, "switch", "", "switch");
    print_component(out, "port", f->switch_cables, "port", "", "port");
    sf_buf_printf(out, "    links:\n");
    print_link(out, "      ", "inside", NO_SUFFIX, "inside a switch", NULL, 0, -1);
    sf_buf_printf(out, "    edges:\n");
    print_inner_edge(out, "asic[0]", "port", "many2many", "inside");
}

/* ---- the cluster ---- */

static uint32_t stock_suffix(const struct sf_topo *t, uint32_t stock) {
    return sf_topo_stocks(t) > 1 ? stock : NO_SUFFIX;
}

static void print_instances(const struct sf_topo *t, struct sf_buf *out) {
    struct sf_topo_counts n;
    struct sfi_io_facts f;
    sf_topo_count(t, &n);
    sf_buf_printf(out, "instances:\n");
    for (uint32_t s = 0; s < sf_topo_stocks(t); s++) {
        sfi_io_facts(t, s, &f);
        sf_buf_printf(out, "  - { name: ");
        print_suffixed(out, "domain", stock_suffix(t, s));
        sf_buf_printf(out, ", device: ");
        print_plain(out, f.kind);
        print_suffixed(out, "", stock_suffix(t, s));
        sf_buf_printf(out, ", count: %u }\n", f.domains);
    }
    const struct {
        const char *name;
        uint64_t n;
    } tiers[] = {{"leaf", n.leaves}, {"spine", n.spines}, {"core", n.cores}};
    for (size_t i = 0; i < 3; i++) {
        if (tiers[i].n > 0) {
            sf_buf_printf(out, "  - { name: %s, device: switch, count: %" PRIu64 " }\n", tiers[i].name, tiers[i].n);
        }
    }
}

static void print_links(const struct sf_topo *t, struct sf_buf *out) {
    struct sf_topo_counts n;
    struct sfi_io_facts f;
    uint64_t widest = 0;
    sf_topo_count(t, &n);
    sf_buf_printf(out, "links:\n");
    for (uint32_t s = 0; s < sf_topo_stocks(t); s++) {
        sfi_io_facts(t, s, &f);
        uint64_t rate = f.nic->peak_bytes_per_s / f.planes;
        widest = rate > widest ? rate : widest;
        print_link(out, "  ", "nic-leaf", stock_suffix(t, s), "cable", f.nic, rate, f.cable_ns[0]);
    }
    if (n.links_leaf_spine > 0) {
        print_link(out, "  ", "leaf-spine", NO_SUFFIX, "cable", NULL, widest, f.cable_ns[1]);
    }
    if (n.links_spine_core > 0) {
        print_link(out, "  ", "spine-core", NO_SUFFIX, "cable", NULL, widest, f.cable_ns[2]);
    }
}

/* Ports of switches are numbered as cables come: first all from below. */
struct ports {
    uint32_t *leaf, *spine, *core;
};

static uint32_t take_port(struct ports *p, const struct sfi_end *end) {
    uint32_t *list = end->kind == SFI_NODE_LEAF ? p->leaf : end->kind == SFI_NODE_SPINE ? p->spine : p->core;
    return list[end->index]++;
}

static const char *switch_name(enum sfi_node_kind kind) {
    return kind == SFI_NODE_LEAF ? "leaf" : kind == SFI_NODE_SPINE ? "spine" : "core";
}

/* Plane by plane and rail by rail, so that the NICs of a leaf come one after the other. */
static void print_nic_edges(const struct sf_topo *t, uint32_t stock, struct ports *p, struct run *run) {
    struct sfi_io_facts f;
    struct sfi_end from, to;
    sfi_io_facts(t, stock, &f);
    uint64_t rails = sf_topo_rails(t), gpus = f.trays * f.gpus_per_tray, per_rail = gpus / rails;
    for (uint64_t i = 0; i < f.planes * rails * f.domains * per_rail; i++) {
        uint64_t k = i % per_rail, domain = i / per_rail % f.domains, rail = i / per_rail / f.domains % rails;
        uint64_t plane = i / per_rail / f.domains / rails, slot = k * rails + rail;
        uint64_t gpu = (f.first_domain + domain) * gpus + slot;
        if (sfi_link_ends(t, SF_LINK(SF_LINK_NIC_UP, gpu * f.planes + plane), &from, &to)) {
            const struct cable c = {{"domain", "leaf"},
                                    {"nic", "port"},
                                    "nic-leaf",
                                    {stock_suffix(t, stock), NO_SUFFIX},
                                    stock_suffix(t, stock),
                                    {{domain, slot * f.planes + plane}, {to.index, take_port(p, &to)}}};
            add_cable(run, &c);
        }
    }
    flush_run(run);
}

struct uplink {
    struct sfi_end from, to;
};

static int compare_uplinks(const void *a, const void *b) {
    const struct uplink *x = a, *y = b;
    return (x->to.index > y->to.index) - (x->to.index < y->to.index);
}

/* Switch by switch, and there by the switch above, so that parallel cables come one after the other. */
static int print_trunk_edges(const struct sf_topo *t, enum sf_link_kind kind, const char *link, struct ports *p,
                             struct run *run, struct sf_err *err) {
    uint64_t n = sf_topo_link_count(t, kind), ports = n > 0 ? sfi_link_ports(t, (int)kind) : 0;
    struct uplink *list = sf_calloc(ports + 1, sizeof *list);
    if (list == NULL) {
        return sf_fail_memory(err, "an exported cluster");
    }
    for (uint64_t i = 0; i < n; i += ports) {
        size_t ends = 0;
        for (uint64_t k = 0; k < ports; k++) {
            ends += sfi_link_ends(t, SF_LINK(kind, i + k), &list[ends].from, &list[ends].to);
        }
        qsort(list, ends, sizeof *list, compare_uplinks);
        for (size_t k = 0; k < ends; k++) {
            const struct sfi_end *from = &list[k].from, *to = &list[k].to;
            const struct cable c = {{switch_name(from->kind), switch_name(to->kind)},
                                    {"port", "port"},
                                    link,
                                    {NO_SUFFIX, NO_SUFFIX},
                                    NO_SUFFIX,
                                    {{from->index, take_port(p, from)}, {to->index, take_port(p, to)}}};
            add_cable(run, &c);
        }
    }
    flush_run(run);
    sf_free(list);
    return 0;
}

static int print_edges(const struct sf_topo *t, struct sf_buf *out, struct sf_err *err) {
    struct sf_topo_counts n;
    sf_topo_count(t, &n);
    uint32_t *all = sf_calloc(n.leaves + n.spines + n.cores + 1, sizeof *all);
    if (all == NULL) {
        return sf_fail_memory(err, "an exported cluster");
    }
    struct ports p = {all, all + n.leaves, all + n.leaves + n.spines};
    struct run run = {.out = out};
    sf_buf_printf(out, "edges:\n");
    for (uint32_t s = 0; s < sf_topo_stocks(t); s++) {
        print_nic_edges(t, s, &p, &run);
    }
    int rc = print_trunk_edges(t, SF_LINK_LEAF_UP, "leaf-spine", &p, &run, err);
    rc = rc == 0 ? print_trunk_edges(t, SF_LINK_SPINE_UP, "spine-core", &p, &run, err) : rc;
    sf_free(all);
    return rc;
}

int sfi_infra_write(const struct sf_topo *t, struct sf_buf *out, struct sf_err *err) {
    struct sfi_io_facts f;
    sfi_io_facts(t, 0, &f);
    sf_buf_printf(out, "name: \"");
    print_plain(out, f.name);
    sf_buf_printf(out, "\"\ndescription: \"%u of %u GPUs in use\"\ndevices:\n", sf_topo_gpus_in_use(t),
                  sf_topo_gpus(t));
    for (uint32_t s = 0; s < sf_topo_stocks(t); s++) {
        sfi_io_facts(t, s, &f);
        print_domain(&f, stock_suffix(t, s), out);
    }
    if (f.fabric_switch != NULL) {
        print_switch(&f, out);
    }
    print_instances(t, out);
    if (f.fabric_switch == NULL) {
        sf_buf_printf(out, "links: []\nedges: []\n");
        return 0;
    }
    print_links(t, out);
    return print_edges(t, out, err);
}
