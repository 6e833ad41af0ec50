/* staticfire topo show, topo check: counts, classes, sources, the way between two GPUs. */
#include "cli/topo_show.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/args.h"
#include "cli/files.h"
#include "cli/print.h"
#include "cli/sources.h"
#include "topo/topo.h"

struct topo_route {
    bool asked;
    uint32_t src, dst;
    struct sf_route route;
};

static json_t *route_json(const struct sf_topo *t, const struct topo_route *r) {
    char text[160];
    json_t *hops = json_array();
    for (uint32_t i = 0; i < r->route.links_n; i++) {
        json_array_append_new(hops, json_pack("{s:o, s:o, s:I}", "link",
                                              cli_json_text(sf_topo_link_text(t, r->route.links[i], text, sizeof text)),
                                              "bytes_per_s", cli_json_u64(sf_topo_link_rate(t, r->route.links[i])),
                                              "latency_ps", (json_int_t)r->route.hop_ps[i]));
    }
    return json_pack("{s:I, s:I, s:o, s:o, s:I, s:I, s:[I,I], s:o}", "from", (json_int_t)r->src, "to",
                     (json_int_t)r->dst, "bytes_per_s", cli_json_u64(r->route.bytes_per_s), "alone_bytes_per_s",
                     cli_json_u64(r->route.alone_bytes_per_s), "latency_ps", (json_int_t)r->route.latency_ps, "planes",
                     (json_int_t)r->route.planes, "nics_of", (json_int_t)r->route.via[0], (json_int_t)r->route.via[1],
                     "hops", hops);
}

static void print_route(const struct sf_topo *t, const struct topo_route *r, struct sf_buf *out) {
    char heading[64], text[160];
    snprintf(heading, sizeof heading, "From gpu %u to gpu %u", r->src, r->dst);
    cli_heading(out, heading);
    cli_fact(out, "alone", "%s/s", cli_bytes(r->route.alone_bytes_per_s));
    cli_fact(out, "in a busy network", "%s/s", cli_bytes(r->route.bytes_per_s));
    cli_fact(out, "latency", "%s", cli_time(r->route.latency_ps));
    if (r->route.via[0] != r->src || r->route.via[1] != r->dst) {
        cli_fact(out, "over the NICs of", "gpu %u, gpu %u", r->route.via[0], r->route.via[1]);
    }
    if (r->route.links_n == 0) {
        return;
    }
    struct cli_table table = {.align = "llr"};
    cli_cell(&table, "hop");
    cli_cell(&table, "link");
    cli_cell(&table, "latency");
    for (uint32_t i = 0; i < r->route.links_n; i++) {
        cli_cell(&table, "%u", i + 1);
        cli_cell(&table, "%s", sf_topo_link_text(t, r->route.links[i], text, sizeof text));
        cli_cell(&table, "%s", cli_time(r->route.hop_ps[i]));
    }
    cli_table_print(&table, "  ", out);
}

static json_t *links_json(const struct sf_topo_counts *n) {
    return json_pack("{s:I, s:I, s:I, s:I, s:I}", "nvlink", (json_int_t)n->links_nvlink, "c2c",
                     (json_int_t)n->links_c2c, "nic", (json_int_t)n->links_nic, "leaf_spine",
                     (json_int_t)n->links_leaf_spine, "spine_core", (json_int_t)n->links_spine_core);
}

static json_t *switches_json(const struct sf_topo_counts *n) {
    return json_pack("{s:I, s:I, s:I, s:I}", "nvswitches", (json_int_t)n->nvswitches, "leaves", (json_int_t)n->leaves,
                     "spines", (json_int_t)n->spines, "cores", (json_int_t)n->cores);
}

static json_t *stocks_json(const struct sf_topo *t) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < sf_topo_stocks(t); i++) {
        struct sf_stock s;
        sf_topo_stock(t, i, &s);
        json_array_append_new(list,
                              json_pack("{s:o, s:o, s:I, s:I, s:I, s:o, s:o}", "kind", cli_json_text(s.kind), "device",
                                        cli_json_text(s.device->name), "racks", (json_int_t)s.domains, "gpus",
                                        (json_int_t)s.gpus, "gpus_in_use_per_rack", (json_int_t)s.domain_in_use, "nic",
                                        s.out != NULL ? cli_json_text(s.out->name) : json_null(), "host_bytes_per_gpu",
                                        s.host_bytes > 0 ? cli_json_u64(s.host_bytes) : json_null()));
    }
    return list;
}

static json_t *overlay_json(const struct sf_topo_counts *n) {
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "dead_gpus", (json_int_t)n->dead_gpus, "dead_nics",
                     (json_int_t)n->dead_nics, "dead_cables", (json_int_t)n->dead_cables, "dead_switches",
                     (json_int_t)n->dead_switches, "degraded_links", (json_int_t)n->degraded_links, "spare_racks",
                     (json_int_t)n->spare_domains);
}

static json_t *topo_json(const struct sf_topo *t, const struct topo_route *r, bool checked) {
    struct sf_topo_counts n;
    sf_topo_count(t, &n);
    json_t *doc =
        json_pack("{s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:I, s:b, s:I, s:s, s:b, s:o, s:o, s:o}",
                  "name", cli_json_text(sf_topo_name(t)), "hash", cli_json_hash(sf_topo_hash(t)), "gpus",
                  (json_int_t)n.gpus, "gpus_in_use", (json_int_t)n.gpus_in_use, "spare_gpus", (json_int_t)n.spare_gpus,
                  "racks", (json_int_t)n.domains, "trays", (json_int_t)n.trays, "cpus", (json_int_t)n.cpus, "nics",
                  (json_int_t)n.nics, "switches", switches_json(&n), "links", links_json(&n), "bisection_bytes_per_s",
                  (json_int_t)n.bisection_bytes_per_s, "checked", checked, "planes", (json_int_t)n.planes, "routing",
                  sf_routing_name((int)sf_topo_routing(t)), "nonblocking", sf_topo_nonblocking(t), "groups",
                  stocks_json(t), "overlay", overlay_json(&n), "sources", cli_sources_json(t));
    struct sf_topo_least up;
    sf_topo_least_up(t, &up);
    if (doc != NULL) {
        json_object_set_new(doc, "least_nvlink_bytes_per_s", cli_json_u64(up.bytes_per_s));
    }
    if (doc != NULL && r->asked) {
        json_object_set_new(doc, "route", route_json(t, r));
    }
    return doc;
}

/* Counts of zero say nothing about a cluster that lacks the part. */
static void count_fact(struct sf_buf *out, const char *name, uint64_t n) {
    if (n > 0) {
        cli_fact(out, name, "%12s", cli_count(n));
    }
}

/* Whatever an overlay takes is said beside what was planned. */
static void print_left(const struct sf_topo *t, const struct sf_topo_counts *n, struct sf_buf *out) {
    struct sf_topo_least up;
    struct sf_topo_counts whole = *n;
    struct sf_topo *planned = NULL;
    char plan[64] = "";
    sf_topo_least_up(t, &up);
    if (up.bytes_per_s < up.whole_bytes_per_s) {
        cli_fact(out, "least of a GPU", "%12s/s NVLink one way, gpu %u; planned %s/s", cli_bytes(up.bytes_per_s),
                 up.gpu, cli_bytes(up.whole_bytes_per_s));
    }
    if (n->bisection_bytes_per_s == 0 && n->leaves == 0) {
        return;
    }
    if (sf_topo_planned(t, &planned, NULL) == 0) {
        sf_topo_count(planned, &whole);
        sf_topo_free(planned);
    }
    if (whole.bisection_bytes_per_s > n->bisection_bytes_per_s) {
        snprintf(plan, sizeof plan, "; planned %s/s", cli_bytes(whole.bisection_bytes_per_s));
    }
    cli_fact(out, "bisection", "%12s/s one way%s", cli_bytes(n->bisection_bytes_per_s), plan);
    cli_fact(out, "routing", "%12s%s", sf_routing_name((int)sf_topo_routing(t)),
             sf_topo_nonblocking(t) ? ", non-blocking fabric" : "");
}

static void print_host(const struct sf_topo *t, struct sf_buf *out) {
    struct sf_stock first;
    sf_topo_stock(t, 0, &first);
    if (first.host_bytes > 0) {
        cli_fact(out, "  memory, per GPU", "%12s", cli_bytes(first.host_bytes));
    }
}

static void print_counts(const struct sf_topo *t, struct sf_buf *out) {
    struct sf_topo_counts n;
    sf_topo_count(t, &n);
    count_fact(out, "GPUs", n.gpus);
    count_fact(out, "  in use", n.gpus_in_use);
    count_fact(out, "  spare", n.spare_gpus);
    count_fact(out, "  dead", n.dead_gpus);
    count_fact(out, "scale-up domains", n.domains);
    count_fact(out, "  spare", n.spare_domains);
    count_fact(out, "trays", n.trays);
    count_fact(out, "CPUs", n.cpus);
    print_host(t, out);
    count_fact(out, "NICs", n.nics);
    count_fact(out, "  dead", n.dead_nics);
    count_fact(out, "planes", n.planes > 1 ? n.planes : 0);
    count_fact(out, "NVSwitches", n.nvswitches);
    count_fact(out, "leaf switches", n.leaves);
    count_fact(out, "spine switches", n.spines);
    count_fact(out, "core switches", n.cores);
    count_fact(out, "links: NVLink", n.links_nvlink);
    count_fact(out, "links: C2C", n.links_c2c);
    count_fact(out, "links: NIC to leaf", n.links_nic);
    count_fact(out, "links: leaf to spine", n.links_leaf_spine);
    count_fact(out, "links: spine to core", n.links_spine_core);
    count_fact(out, "dead switches", n.dead_switches);
    count_fact(out, "dead cables", n.dead_cables);
    count_fact(out, "degraded links", n.degraded_links);
    print_left(t, &n, out);
}

static void link_row(struct cli_table *t, const char *where, const struct sf_link_class *c) {
    if (c == NULL) {
        return;
    }
    cli_cell(t, "%s", where);
    cli_cell(t, "%s", c->name);
    cli_cell(t, "%s/s", cli_bytes(c->bytes_per_s));
    cli_cell(t, "%s", cli_time(c->latency_ps));
    cli_cell(t, "%s", sf_grade_name((int)c->grade));
}

static void print_device(const struct sf_device_class *d, struct sf_buf *out) {
    cli_fact(out, "class", "%s (%s)", d->name, sf_grade_name((int)d->grade));
    cli_fact(out, "memory", "%s at %s/s", cli_bytes(d->memory_bytes), cli_bytes(d->memory_bytes_per_s));
    for (int p = 0; p < SF_DTYPES_N; p++) {
        if (d->flops_per_s[p] > 0) {
            char name[32];
            snprintf(name, sizeof name, "%s peak", sf_dtype_name(p));
            cli_fact(out, name, "%s, GEMMs reach %.0f %%", cli_flops(d->flops_per_s[p]), d->gemm_efficiency[p] * 100);
        }
    }
}

static void print_stock(const struct sf_stock *s, bool many, struct sf_buf *out) {
    char heading[96];
    snprintf(heading, sizeof heading, "Device of domains %u to %u (%s)", s->first_domain,
             s->first_domain + s->domains - 1, s->kind);
    cli_heading(out, many ? heading : "Device");
    print_device(s->device, out);
    struct cli_table table = {.align = "llrrl"};
    cli_cell(&table, "where");
    cli_cell(&table, "class");
    cli_cell(&table, "one way");
    cli_cell(&table, "latency");
    cli_cell(&table, "grade");
    link_row(&table, "inside a domain", s->up);
    link_row(&table, "across domains", s->out);
    cli_heading(out, "Links");
    cli_table_print(&table, "  ", out);
}

static void print_speeds(const struct sf_topo *t, struct sf_buf *out) {
    uint32_t n = sf_topo_stocks(t);
    for (uint32_t i = 0; i < n; i++) {
        struct sf_stock s;
        sf_topo_stock(t, i, &s);
        print_stock(&s, n > 1, out);
    }
    const struct sf_switch_class *w = sf_topo_switch(t);
    if (w != NULL) {
        cli_heading(out, "Switches");
        cli_fact(out, "class", "%s (%s)", w->name, sf_grade_name((int)w->grade));
        cli_fact(out, "ports", "%u of %s/s, each splits in up to %u", w->ports, cli_bytes(w->port_bytes_per_s),
                 w->split);
        cli_fact(out, "hop", "%s", cli_time(w->hop_ps));
        cli_fact(out, "kept under ecmp", "%.0f %%", w->ecmp_share * 100);
        cli_fact(out, "kept under incast", "%.1f %%", w->incast_share * 100);
    }
}

static int write_svg(struct cli *cli, const struct sf_topo *t, const char *path) {
    struct sf_buf svg = {0};
    if (sf_topo_svg(t, &svg) != 0) {
        sf_buf_free(&svg);
        return sf_fail(&cli->err, SF_E_INTERNAL, "no memory for the drawing");
    }
    return cli_output(path, &svg, &cli->err);
}

/* What is proven holds for the plan; of what is broken today it was counted what is left. */
static void print_verdict(const struct sf_topo *t, struct sf_buf *out) {
    struct sf_topo_counts n;
    sf_topo_count(t, &n);
    bool hurt = n.dead_gpus + n.dead_nics + n.dead_switches + n.dead_cables + n.degraded_links > 0;
    sf_buf_printf(out, "%sEvery count, degree, port budget and path%s agrees.%s\n", cli_on(CLI_GREEN),
                  hurt ? " of the plan" : "", cli_off());
    if (hurt) {
        sf_buf_printf(out, "Rates and bisection above are what the overlay leaves, counted cable by cable.\n");
    }
}

static int print_topo(struct cli *cli, const struct sf_topo *t, const struct cli_topo_show *a,
                      const struct topo_route *r, bool checked) {
    if (cli->json) {
        return cli_print_json(topo_json(t, r, checked), &cli->err);
    }
    struct sf_buf out = {0};
    char hash[SF_HASH_TEXT];
    sf_buf_printf(&out, "%s%s%s  %s\n", cli_on(CLI_BOLD), sf_topo_name(t), cli_off(),
                  sf_hash_format(sf_topo_hash(t), hash));
    print_counts(t, &out);
    if (checked) {
        print_verdict(t, &out);
    } else if (!r->asked) {
        print_speeds(t, &out);
        cli_sources_print(t, &out);
    }
    if (r->asked) {
        print_route(t, r, &out);
    }
    if (a->svg != NULL) {
        sf_buf_printf(&out, "Drawing: %s\n", a->svg);
    }
    return cli_print(&out, &cli->err);
}

/* "17:4000" */
static int parse_route(struct cli *cli, const struct sf_topo *t, const char *text, struct topo_route *r) {
    char *end = NULL;
    unsigned long long src = 0, dst = 0;
    bool digits = text[0] >= '0' && text[0] <= '9';
    src = digits ? strtoull(text, &end, 10) : 0;
    digits = digits && *end == ':' && end[1] >= '0' && end[1] <= '9';
    dst = digits ? strtoull(end + 1, &end, 10) : 0;
    if (!digits || *end != '\0') {
        return cli_fail_usage(cli, "topo", "--route expects two GPUs like 0:73, found \"%.40s\"", text);
    }
    if (src >= sf_topo_gpus(t) || dst >= sf_topo_gpus(t)) {
        return cli_fail_usage(cli, "topo", "--route %.40s: the GPUs of %s are 0 to %u", text, sf_topo_name(t),
                              sf_topo_gpus(t) - 1);
    }
    static const struct sf_route_ask ask = {.routing = -1, .plane = SF_ALL_PLANES};
    r->asked = true;
    r->src = (uint32_t)src;
    r->dst = (uint32_t)dst;
    return sf_topo_route_with(t, r->src, r->dst, &ask, &r->route, &cli->err);
}

static int load(struct cli *cli, const struct cli_topo_show *a, struct sf_topo **out) {
    SF_TRY(sf_topo_load(&sf_io_posix, a->file, cli->catalog, out, &cli->err));
    if (a->overlay != NULL) {
        SF_TRY(sf_topo_load_overlay(&sf_io_posix, a->overlay, *out, &cli->err));
    }
    if (a->routing == NULL) {
        return 0;
    }
    for (int r = 0; r < SF_ROUTINGS_N; r++) {
        if (strcmp(sf_routing_name(r), a->routing) == 0) {
            return sf_topo_set_routing(*out, (enum sf_routing)r, a->seeded ? a->seed : 0, &cli->err);
        }
    }
    return cli_fail_usage(cli, "topo", "--routing expects adaptive, ecmp, rail-local or pxn, found \"%.40s\"",
                          a->routing);
}

int cli_topo_show(struct cli *cli, const struct cli_topo_show *a, bool check) {
    struct sf_topo *t = NULL;
    struct topo_route r = {0};
    int rc = load(cli, a, &t);
    rc = rc == 0 && check ? sf_topo_check(t, &cli->err) : rc;
    rc = rc == 0 && a->route != NULL ? parse_route(cli, t, a->route, &r) : rc;
    rc = rc == 0 && a->svg != NULL ? write_svg(cli, t, a->svg) : rc;
    rc = rc == 0 ? print_topo(cli, t, a, &r, check) : rc;
    sf_topo_free(t);
    return rc;
}
