/* Import and export: captured files of others, and our own clusters there and back. tests/data/topo/README.md says
 * where the captured files are from. */
#include "test_topo_fixture.h"

#include <dirent.h>
#include <hwloc.h>
#include <hwloc/distances.h>

#include "topo/topo_io_formats.h"

#define DATA SF_SOURCE_DIR "/tests/data/topo/"

static int import(const char *file, enum sf_topo_format format, const struct sf_topo_wishes *w, struct sf_buf *out,
                  struct sf_topo_found *found, struct sf_err *err) {
    char path[512];
    snprintf(path, sizeof path, "%s%s", DATA, file);
    return sf_topo_import(&sf_io_posix, path, SF_CATALOG_DIR, format, w, out, found, err);
}

static void must_import(const char *file, enum sf_topo_format format, const struct sf_topo_wishes *w,
                        struct sf_topo_found *found) {
    struct sf_err err = {0};
    struct sf_buf out = {0};
    if (import(file, format, w, &out, found, &err) != 0) {
        fail_msg("%s: %s:%u:%u: %s", file, err.file, err.line, err.column, err.msg);
    }
    sf_buf_free(&out);
}

/* ---- captured files ---- */

static const struct captured {
    const char *file;
    enum sf_topo_format format;
    struct sf_topo_wishes wishes;
    const char *link, *cpu_link;
    uint32_t parts[5]; /* GPUs, CPUs, switch chips, links of a GPU, NICs */
    uint64_t nic_gbps, pcie_mb_per_s;
    const char *note;
} captured[] = {
    {.file = "nccl-dgx-a100.xml",
     .wishes = {.device = "a100"},
     .link = "nvlink3",
     .cpu_link = "pcie4-x16",
     .parts = {8, 6, 6, 12, 8},
     .nic_gbps = 200,
     .pcie_mb_per_s = 32000,
     .note = "A100-SXM4-40GB in the file, a100 by wish"},
    {.file = "nccl-azure-ndv5.xml",
     .wishes = {.device = "h100", .nic = "connectx7-400g"},
     .link = "nvlink4",
     .cpu_link = "pcie5-x16",
     .parts = {8, 2, 4, 18, 8},
     .pcie_mb_per_s = 64000,
     .note = "18 links to 4 switch chips are usual for h100"},
    {.file = "nccl-aws-p4d.xml",
     .wishes = {.device = "a100"},
     .link = "nvlink3",
     .cpu_link = "",
     .parts = {8, 2, 6, 12, 4},
     .pcie_mb_per_s = 16000,
     .note = "No link class of the catalog fits the GPUs' way to their CPUs (16.0 GB/s)"},
    {.file = "hwloc-dgx2.xml",
     .format = SF_TOPO_FORMAT_HWLOC,
     .wishes = {.device = "a100", .link = "nvlink3"},
     .link = "nvlink3",
     .cpu_link = "",
     .parts = {16, 2, 6, 6, 0},
     .pcie_mb_per_s = 15754,
     .note = "links to 6 of 12 switch chips"},
};

static void test_captured_nodes(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof captured / sizeof *captured; i++) {
        const struct captured *c = &captured[i];
        struct sf_topo_found f;
        must_import(c->file, c->format, &c->wishes, &f);
        const uint32_t parts[] = {f.gpus_per_tray, f.cpus_per_tray, f.nvswitches, f.links_per_gpu, f.nics};
        assert_string_equal(f.device, c->wishes.device);
        assert_string_equal(f.link, c->link);
        assert_string_equal(f.cpu_link, c->cpu_link);
        assert_int_equal(f.domains * f.trays, 1);
        assert_memory_equal(parts, c->parts, sizeof parts);
        assert_int_equal(f.nic_bytes_per_s, c->nic_gbps * 125000000);
        assert_int_equal((f.pcie_bytes_per_s + 500000) / 1000000, c->pcie_mb_per_s);
        if (strstr(f.notes, c->note) == NULL) {
            fail_msg("%s: %s", c->file, f.notes);
        }
    }
}

static void test_captured_clusters(void **state) {
    (void)state;
    struct sf_topo_found f;
    const struct sf_topo_wishes one = {.device = "h100", .fabric_switch = "quantum2-qm9700"};
    must_import("infragraph-dgx-h100.yaml", SF_TOPO_FORMAT_INFRAGRAPH, &one, &f);
    assert_string_equal(f.name, "single-tier-fabric");
    assert_string_equal(f.kind, "dgx_h100");
    assert_string_equal(f.nic, "connectx7-400g");
    assert_int_equal(f.domains, 4);
    assert_int_equal(f.gpus_per_tray, 8);
    assert_int_equal(f.nvswitches, 4);
    assert_int_equal(f.links_per_gpu, 18);
    assert_int_equal(f.tiers, 1);
    assert_int_equal(f.rails, 1);
    assert_int_equal(f.leaf_down, 32);
    const struct sf_topo_wishes two = {.device = "h100", .fabric_switch = DATA "switch-16.yaml"};
    must_import("infragraph-clos.json", SF_TOPO_FORMAT_INFRAGRAPH, &two, &f);
    assert_int_equal(f.domains, 16);
    assert_int_equal(f.tiers, 2);
    assert_int_equal(f.leaf_down, 8);
    assert_int_equal(f.leaf_up, 8);
    assert_int_equal(f.leaves, 16);
    assert_int_equal(f.spines, 8);
    assert_int_equal(f.links_leaf_spine, 128);
}

static void test_captured_refusals(void **state) {
    (void)state;
    static const struct {
        const char *file;
        enum sf_topo_format format;
        struct sf_topo_wishes wishes;
        uint32_t line;
        const char *message;
    } rows[] = {
        {"nccl-dgx-a100.xml", SF_TOPO_FORMAT_NCCL, {0}, 6, "the catalog has no A100-SXM4-40GB"},
        {"nccl-dgx-a100.xml", SF_TOPO_FORMAT_HWLOC, {0}, 1, "this is NCCL's: --format nccl"},
        {"nccl-azure-ndv5.xml", SF_TOPO_FORMAT_NCCL, {0}, 4, "does not say which GPU"},
        {"nccl-azure-ndv5.xml", SF_TOPO_FORMAT_NCCL, {.device = "v100"}, 4, "nothing is known about those of v100"},
        {"nccl-azure-ncv4.xml", SF_TOPO_FORMAT_NCCL, {.device = "a100"}, 3, "all 3 other GPUs, found links to 1"},
        {"hwloc-dgx2.xml", SF_TOPO_FORMAT_HWLOC, {0}, 42, "0x10de:0x1db8 (Tesla V100-SXM3-32GB-H) is unknown"},
        {"hwloc-dgx2.xml", SF_TOPO_FORMAT_NCCL, {0}, 3, "this is hwloc's: --format hwloc"},
        {"hwloc-dgx2.xml", SF_TOPO_FORMAT_HWLOC, {.device = "v100"}, 42, "no link class is known for v100"},
        {"hwloc-power8.xml", SF_TOPO_FORMAT_HWLOC, {.device = "a100"}, 37, "all 3 other GPUs, found links to 1"},
        {"infragraph-dgx-h100.yaml", SF_TOPO_FORMAT_INFRAGRAPH, {0}, 8, "name their device with --device"},
        {"infragraph-dgx-h100.yaml",
         SF_TOPO_FORMAT_INFRAGRAPH,
         {.device = "h100"},
         184,
         "no switch with 32 ports of 400 Gb/s"},
        {"infragraph-clos.json",
         SF_TOPO_FORMAT_INFRAGRAPH,
         {.device = "h100", .fabric_switch = "quantum2-qm9700"},
         0,
         "the file has 8 spine switches, the cluster made of it has 2"},
        {"nccl-dgx-a100.xml", SF_TOPO_FORMAT_INFRAGRAPH, {0}, 1, ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct sf_err err = {0};
        struct sf_buf out = {0};
        assert_int_equal(import(rows[i].file, rows[i].format, &rows[i].wishes, &out, NULL, &err), SF_E_INPUT);
        if (strstr(err.msg, rows[i].message) == NULL || err.line != rows[i].line ||
            strstr(err.file, rows[i].file) == NULL) {
            fail_msg("row %zu: %s:%u:%u: %s", i, err.file, err.line, err.column, err.msg);
        }
        sf_buf_free(&out);
    }
}

/* ---- there and back ---- */

struct trip {
    struct sf_topo *t;
    struct sf_topo_found found;
    struct sf_buf text, cluster;
};

/* Export, then import what was written. */
static struct trip go(const struct sf_topo *t, enum sf_topo_format format, uint32_t tray,
                      const struct sf_topo_wishes *w) {
    struct trip trip = {0};
    struct sf_err err = {0};
    const struct sf_topo_export what = {tray, -1};
    if (sf_topo_export(t, format, &what, &trip.text, &err) != 0) {
        fail_msg("%s: %s", sf_topo_name(t), err.msg);
    }
    sf_buf_write(&trip.text, "", 1);
    const struct memory_file file = {"dir/exported", trip.text.data};
    struct memory_io m = {&file, 1};
    const struct sf_io io = {&m, memory_read_all, NULL};
    if (sf_topo_import(&io, "dir/exported", SF_CATALOG_DIR, format, w, &trip.cluster, &trip.found, &err) != 0) {
        fail_msg("%s: %s:%u:%u: %s\n%.3000s", sf_topo_name(t), err.file, err.line, err.column, err.msg, trip.text.data);
    }
    sf_buf_write(&trip.cluster, "", 1);
    trip.t = must_load_text(trip.cluster.data);
    return trip;
}

static void back(struct trip *trip) {
    sf_topo_free(trip->t);
    sf_buf_free(&trip->text);
    sf_buf_free(&trip->cluster);
}

static void assert_same_links(const struct sf_link_class *a, const struct sf_link_class *b) {
    assert_int_equal(a == NULL, b == NULL);
    if (a != NULL) {
        assert_string_equal(a->name, b->name);
    }
}

/* Names and what is in use today do not travel; everything else does. */
static void assert_same_cluster(const struct sf_topo *a, const struct sf_topo *b) {
    struct sf_topo_counts x, y;
    struct sf_stock sa, sb;
    sf_topo_count(a, &x);
    sf_topo_count(b, &y);
    x.gpus_in_use = x.gpus;
    x.spare_gpus = 0;
    assert_memory_equal(&x, &y, sizeof x);
    assert_int_equal(sf_topo_stocks(a), sf_topo_stocks(b));
    for (uint32_t i = 0; i < sf_topo_stocks(a); i++) {
        sf_topo_stock(a, i, &sa);
        sf_topo_stock(b, i, &sb);
        assert_int_equal(sa.domains, sb.domains);
        assert_true(sf_topo_stocks(a) > 1 || strcmp(sa.kind, sb.kind) == 0); /* devices of a graph have one name each */
        assert_string_equal(sa.device->name, sb.device->name);
        assert_same_links(sa.up, sb.up);
        assert_same_links(sa.cpu, sb.cpu);
        assert_same_links(sa.out, sb.out);
    }
    assert_int_equal(sf_topo_rails(a), sf_topo_rails(b));
    assert_int_equal(sf_topo_planes(a), sf_topo_planes(b));
    assert_string_equal(sf_topo_name(a), sf_topo_name(b));
}

/* Cable lengths show in routes. */
static void assert_same_routes(const struct sf_topo *a, const struct sf_topo *b) {
    uint32_t gpus = sf_topo_gpus(a);
    for (uint32_t i = 0; i < 64; i++) {
        struct sf_route x, y;
        uint32_t src = i * 2654435761u % gpus, dst = (i + 77) * 2246822519u % gpus;
        sf_topo_route(a, src, dst, &x);
        sf_topo_route(b, src, dst, &y);
        assert_int_equal(x.latency_ps, y.latency_ps);
        assert_int_equal(x.bytes_per_s, y.bytes_per_s);
    }
}

static void test_infragraph_there_and_back(void **state) {
    (void)state;
    DIR *dir = opendir(SF_SOURCE_DIR "/scenarios/clusters");
    int n = 0;
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        char *dot = strstr(e->d_name, ".yaml");
        if (dot == NULL || dot[5] != '\0') {
            continue;
        }
        *dot = '\0';
        struct sf_topo *t = must_load_cluster(e->d_name);
        struct sf_topo_counts counts;
        sf_topo_count(t, &counts);
        /* What the format cannot hold is another test's. */
        if (counts.dead_nics + counts.dead_switches + counts.dead_cables == 0 &&
            counts.degraded_links + counts.dead_gpus + counts.spare_domains == 0) {
            struct trip trip = go(t, SF_TOPO_FORMAT_INFRAGRAPH, 0, NULL);
            assert_same_cluster(t, trip.t);
            if (sf_topo_routing(t) == sf_topo_routing(trip.t)) {
                assert_same_routes(t, trip.t);
            }
            back(&trip);
            n++;
        }
        sf_topo_free(t);
    }
    closedir(dir);
    assert_true(n >= 8);
}

static const char planes_text[] =
    "name: planes\ndevice: gb300\ndomains: 4\ndomain: { kind: nvl72, trays: 18, gpus_per_tray: 4, cpus_per_tray: 2, "
    "nvswitches: 18, link: nvlink5, links_per_gpu: 18, cpu_link: nvlink-c2c }\nnic: connectx8-800g\nrails: 4\n"
    "planes: 2\nfabric: { switch: quantum-x800-q3400, leaf_down: 72, tiers: 2, oversubscription: 2, "
    "cables: { nic_leaf: 3m, leaf_spine: 10m } }\n";

static void test_planes_there_and_back(void **state) {
    (void)state;
    struct sf_topo *t = must_load_text(planes_text);
    struct trip trip = go(t, SF_TOPO_FORMAT_INFRAGRAPH, 0, NULL);
    assert_int_equal(trip.found.planes, 2);
    assert_same_cluster(t, trip.t);
    back(&trip);
    trip = go(t, SF_TOPO_FORMAT_NCCL, 7, NULL); /* two ports make one NIC */
    assert_int_equal(trip.found.nics, 4);
    assert_int_equal(trip.found.nic_bytes_per_s, UINT64_C(100000000000));
    back(&trip);
    sf_topo_free(t);
}

static const char mixed_text[] =
    "name: mixed\nrails: 4\nfabric: { switch: quantum-x800-q3400, leaf_down: 72, tiers: 2, oversubscription: 1, "
    "cables: { nic_leaf: 3m, leaf_spine: 10m } }\ngroups:\n"
    "  - { device: gb200, domains: 4, nic: connectx7-400g, domain: { kind: old, trays: 18, gpus_per_tray: 4, "
    "cpus_per_tray: 2, nvswitches: 18, link: nvlink5, links_per_gpu: 18, cpu_link: nvlink-c2c } }\n"
    "  - { device: gb300, domains: 4, nic: connectx8-800g, domain: { kind: new, trays: 18, gpus_per_tray: 4, "
    "cpus_per_tray: 2, nvswitches: 18, link: nvlink5, links_per_gpu: 18, cpu_link: nvlink-c2c } }\n";

static void test_mixed_clusters(void **state) {
    (void)state;
    struct sf_topo *t = must_load_text(mixed_text);
    struct trip old = go(t, SF_TOPO_FORMAT_NCCL, 71, NULL), new = go(t, SF_TOPO_FORMAT_NCCL, 72, NULL);
    assert_string_equal(old.found.device, "gb200");
    assert_string_equal(old.found.nic, "connectx7-400g");
    assert_string_equal(new.found.device, "gb300");
    assert_string_equal(new.found.nic, "connectx8-800g");
    back(&old);
    back(&new);
    struct sf_buf text = {0}, cluster = {0};
    struct sf_err err = {0};
    const struct sf_topo_export what = {144, -1};
    assert_int_equal(sf_topo_export(t, SF_TOPO_FORMAT_NCCL, &what, &text, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "expected a tray from 0 to 143"));
    assert_int_equal(sf_topo_export(t, SF_TOPO_FORMAT_INFRAGRAPH, &what, &text, &err), 0);
    sf_buf_write(&text, "", 1);
    const struct memory_file file = {"g.yaml", text.data};
    struct memory_io m = {&file, 1};
    const struct sf_io io = {&m, memory_read_all, NULL};
    const struct sf_topo_wishes one = {.nic = "connectx8-800g"};
    assert_int_equal(
        sf_topo_import(&io, "g.yaml", SF_CATALOG_DIR, SF_TOPO_FORMAT_INFRAGRAPH, &one, &cluster, NULL, &err),
        SF_E_INPUT);
    assert_non_null(strstr(err.msg, "domains are of 2 kinds"));
    sf_buf_free(&text);
    sf_buf_free(&cluster);
    sf_topo_free(t);
}

/* Kinds of domains, what each is plugged into, and whether it begins a group of its own. */
static void test_mixed_graphs_there_and_back(void **state) {
    (void)state;
    static const char *const starts[] = {"", "starts: group, "};
    for (size_t i = 0; i < 2; i++) {
        char text[2048];
        const char *at = strstr(mixed_text, "device: gb300");
        snprintf(text, sizeof text, "%.*s%s%s", (int)(at - mixed_text), mixed_text, starts[i], at);
        memcpy(strstr(text, "domains: 4, nic: connectx7"), "domains: 3", 10); /* a group is not filled */
        struct sf_topo *t = must_load_text(text);
        struct trip trip = go(t, SF_TOPO_FORMAT_INFRAGRAPH, 0, NULL);
        assert_same_cluster(t, trip.t);
        assert_same_routes(t, trip.t);
        assert_int_equal(trip.found.groups_n, 2);
        assert_string_equal(trip.found.groups[0].nic, "connectx7-400g");
        assert_string_equal(trip.found.groups[1].device, "gb300");
        assert_string_equal(trip.found.groups[1].starts ? trip.found.groups[1].starts : "", i == 0 ? "" : "group");
        back(&trip);
        sf_topo_free(t);
    }
}

/* A node knows its tray; of a rack it sees no more. */
static void test_nodes_there_and_back(void **state) {
    (void)state;
    static const char *const clusters[] = {"hgx-a100-1node",     "hgx-h100-1node", "hgx-h200-1node",
                                           "hgx-b200-1node",     "hgx-b300-1node", "gb300-nvl72-4rack",
                                           "hgx-h100-2048-roce", "hgx-h100-2048",  "hgx-a100-3072"};
    for (size_t i = 0; i < sizeof clusters / sizeof *clusters; i++) {
        struct sf_topo *t = must_load_cluster(clusters[i]);
        struct sf_topo_counts n;
        struct sf_stock stock;
        sf_topo_count(t, &n);
        sf_topo_stock(t, 0, &stock);
        for (int format = SF_TOPO_FORMAT_NCCL; format <= SF_TOPO_FORMAT_HWLOC; format++) {
            struct trip trip = go(t, (enum sf_topo_format)format, 1 % (uint32_t)n.trays, NULL);
            const struct sf_topo_found *f = &trip.found;
            assert_string_equal(f->device, stock.device->name);
            assert_string_equal(f->link, stock.up->name);
            assert_string_equal(f->cpu_link, stock.cpu->name);
            assert_string_equal(f->nic, stock.out != NULL ? stock.out->name : "");
            assert_int_equal(f->gpus_per_tray, n.gpus / n.trays);
            assert_int_equal(f->cpus_per_tray, n.cpus / n.trays);
            assert_int_equal(f->nvswitches, n.nvswitches / n.domains);
            assert_int_equal(f->links_per_gpu, n.links_nvlink / n.gpus);
            assert_int_equal(f->nics, n.nics / n.trays);
            assert_int_equal(f->nic_bytes_per_s, stock.out != NULL ? stock.out->peak_bytes_per_s : 0);
            back(&trip);
        }
        sf_topo_free(t);
    }
}

static void test_devices_that_are_no_gpus(void **state) {
    (void)state;
    struct sf_topo *t = must_load_cluster("cpu-8");
    const struct sf_topo_export what = {0, -1};
    for (int format = SF_TOPO_FORMAT_NCCL; format <= SF_TOPO_FORMAT_HWLOC; format++) {
        struct sf_err err = {0};
        struct sf_buf out = {0};
        assert_int_equal(sf_topo_export(t, (enum sf_topo_format)format, &what, &out, &err), SF_E_INPUT);
        assert_non_null(strstr(err.msg, "cpu-core"));
        sf_buf_free(&out);
    }
    sf_topo_free(t);
}

/* ---- what others' readers ask for ---- */

/* NCCL's own parser: no prologue, one space before each attribute, nothing between tags but line ends and spaces. */
static void test_nccl_reads_it(void **state) {
    (void)state;
    struct sf_topo *t = must_load_cluster("hgx-h100-2048");
    struct sf_err err = {0};
    struct sf_buf out = {0};
    const struct sf_topo_export what = {0, -1};
    assert_int_equal(sf_topo_export(t, SF_TOPO_FORMAT_NCCL, &what, &out, &err), 0);
    sf_buf_write(&out, "", 1);
    assert_int_equal(strncmp(out.data, "<system version=\"1\">\n", 21), 0);
    int depth = 0;
    for (const char *c = out.data; *c != '\0';) {
        c += strspn(c, " \n");
        if (*c == '\0') {
            break;
        }
        assert_int_equal(*c, '<');
        const char *end = strchr(c, '>');
        assert_non_null(end);
        for (const char *s = c; (s = strchr(s, ' ')) != NULL && s < end; s++) {
            assert_true(s[1] != ' ' && s[1] != '/' && s[1] != '>');
            bool inside = strncmp(s, " GT/s", 5) == 0 || strncmp(s, " PCIe", 5) == 0; /* a value */
            assert_true(inside || s[-1] == '"' || strcspn(c, " ") == (size_t)(s - c));
        }
        depth += c[1] == '/' ? -1 : end[-1] == '/' ? 0 : 1;
        assert_true(depth >= 0 && end - c < 255);
        c = end + 1;
    }
    assert_int_equal(depth, 0);
    sf_buf_free(&out);
    sf_topo_free(t);
}

static uint64_t nvlink_mb_per_s(hwloc_topology_t topology, unsigned *ends) {
    struct hwloc_distances_s *d = NULL;
    unsigned n = 1;
    uint64_t sum = 0;
    assert_int_equal(hwloc_distances_get_by_name(topology, "NVLinkBandwidth", &n, &d, 0), 0);
    assert_int_equal(n, 1);
    *ends = d->nbobjs;
    for (unsigned i = 1; i < d->nbobjs; i++) {
        sum += d->values[i]; /* of the first GPU */
    }
    hwloc_distances_release(topology, d);
    return sum;
}

static void test_hwloc_reads_it(void **state) {
    (void)state;
    struct sf_topo *t = must_load_cluster("hgx-h100-2048");
    struct sf_err err = {0};
    struct sf_buf out = {0};
    const struct sf_topo_export what = {0, -1};
    hwloc_topology_t topology;
    unsigned ends = 0;
    assert_int_equal(sf_topo_export(t, SF_TOPO_FORMAT_HWLOC, &what, &out, &err), 0);
    sf_buf_write(&out, "", 1);
    assert_int_equal(hwloc_topology_init(&topology), 0);
    assert_int_equal(hwloc_topology_set_xmlbuffer(topology, out.data, (int)out.bytes), 0);
    hwloc_topology_set_io_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_ALL);
    assert_int_equal(hwloc_topology_load(topology), 0);
    hwloc_topology_check(topology);
    assert_int_equal(hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_PACKAGE), 2);
    assert_int_equal(hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE), 2);
    assert_int_equal(hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_PCI_DEVICE), 8 + 8 + 4);
    assert_int_equal(hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_OS_DEVICE), 8 + 8);
    assert_int_equal(nvlink_mb_per_s(topology, &ends), 450000);
    assert_int_equal(ends, 8 + 4);
    hwloc_topology_destroy(topology);
    sf_buf_free(&out);
    sf_topo_free(t);
}

/* ---- Graphviz ---- */

struct dot {
    uint64_t boxes, edges, cables;
    const char *at;
};

static bool dot_take(struct dot *d, const char *word) {
    d->at += strspn(d->at, " \n");
    size_t n = strlen(word);
    if (strncmp(d->at, word, n) != 0) {
        return false;
    }
    d->at += n;
    return true;
}

static void dot_quoted(struct dot *d, char *out, size_t size) {
    size_t n = 0;
    assert_true(dot_take(d, "\""));
    for (; *d->at != '"'; d->at++) {
        assert_true(*d->at >= ' ');
        d->at += *d->at == '\\';
        if (n + 1 < size) {
            out[n++] = *d->at;
        }
    }
    out[n] = '\0';
    d->at++;
}

static const char *dot_word(struct dot *d, char out[64]) {
    d->at += strspn(d->at, " \n");
    size_t n = strspn(d->at, "abcdefghijklmnopqrstuvwxyzBT_.0123456789");
    assert_true(n > 0 && n < 64);
    snprintf(out, 64, "%.*s", (int)n, d->at);
    d->at += n;
    return out;
}

/* [name=value, ...]; the number that the last text begins with. */
static uint64_t dot_attributes(struct dot *d) {
    char text[256] = "", word[64], *end;
    uint64_t number = 0;
    assert_true(dot_take(d, "["));
    do {
        dot_word(d, word);
        assert_true(dot_take(d, "="));
        d->at += strspn(d->at, " ");
        if (*d->at != '"') {
            dot_word(d, word);
            continue;
        }
        dot_quoted(d, text, sizeof text);
        char digits[64];
        size_t n = 0;
        for (const char *c = text; *c != '\0' && (*c == ',' || (*c >= '0' && *c <= '9')) && n < 20; c++) {
            digits[n] = *c;
            n += *c != ',';
        }
        digits[n] = '\0';
        number = n > 0 ? strtoull(digits, &end, 10) : number;
    } while (dot_take(d, ","));
    assert_true(dot_take(d, "]"));
    return number;
}

/* A box, a style, an edge or a chain of edges that nobody sees. */
static void dot_statement(struct dot *d) {
    char word[64], other[64];
    dot_word(d, word);
    bool style = strcmp(word, "graph") == 0 || strcmp(word, "node") == 0 || strcmp(word, "edge") == 0;
    uint64_t edges = 0, cables = 1;
    for (; dot_take(d, "--"); edges++) {
        dot_word(d, other);
    }
    d->at += strspn(d->at, " ");
    if (strncmp(d->at, "[style=invis]", 13) == 0) {
        d->at += 13;
        edges = 0;
        style = true;
    } else if (*d->at == '[') {
        cables = dot_attributes(d);
    }
    assert_true(edges <= 1 && dot_take(d, ";"));
    d->edges += edges;
    d->cables += edges * cables;
    d->boxes += edges == 0 && !style;
}

/* The grammar that is used here: a graph of statements, some of them in one level of braces. */
static struct dot must_parse_dot(const char *text) {
    char name[256];
    struct dot d = {.at = text};
    assert_true(dot_take(&d, "graph"));
    dot_quoted(&d, name, sizeof name);
    assert_true(dot_take(&d, "{"));
    while (!dot_take(&d, "}")) {
        if (dot_take(&d, "{")) {
            assert_true(dot_take(&d, "rank=same;"));
            while (!dot_take(&d, "}")) {
                dot_statement(&d);
            }
        } else {
            dot_statement(&d);
        }
    }
    assert_int_equal(d.at[strspn(d.at, "\n")], '\0');
    return d;
}

static struct dot draw(const struct sf_topo *t, int64_t pod) {
    struct sf_err err = {0};
    struct sf_buf out = {0};
    const struct sf_topo_export what = {0, pod};
    if (sf_topo_export(t, SF_TOPO_FORMAT_DOT, &what, &out, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    sf_buf_write(&out, "", 1);
    struct dot d = must_parse_dot(out.data);
    sf_buf_free(&out);
    return d;
}

/* Every cable is in a label, and tiers that are too large are one box. */
static void test_dot_whole_clusters(void **state) {
    (void)state;
    static const struct {
        const char *cluster;
        uint64_t boxes, edges; /* 0: one box per domain and switch */
    } rows[] = {{"hgx-h100-64-sharp", 0, 0},
                {"gb300-nvl72-4rack", 0, 0},
                {"gb300-nvl72-220k", 4, 3},
                {"gb300-nvl72-1rack", 72 + 1 + 36, 72 + 72},
                {"cpu-8", 8 + 1, 8}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct sf_topo *t = must_load_cluster(rows[i].cluster);
        struct sf_topo_counts n;
        sf_topo_count(t, &n);
        struct dot d = draw(t, -1);
        uint64_t fabric = n.links_nic + n.links_leaf_spine + n.links_spine_core, inside = n.links_nvlink + n.links_c2c;
        assert_int_equal(d.cables, fabric > 0 ? fabric : inside);
        assert_int_equal(d.boxes, rows[i].boxes > 0 ? rows[i].boxes : n.domains + n.leaves + n.spines + n.cores);
        assert_true(rows[i].edges == 0 || d.edges == rows[i].edges);
        sf_topo_free(t);
    }
}

/* The pods of a cluster have all its cables, each once. */
static void test_dot_pods(void **state) {
    (void)state;
    struct sf_topo *t = must_load_cluster("gb200-nvl72-64rack");
    struct sf_topo_counts n;
    uint64_t cables = 0;
    sf_topo_count(t, &n);
    uint32_t pods = 0;
    for (struct sf_err err = {0}; err.code == 0; pods += err.code == 0) {
        struct sf_buf out = {0};
        const struct sf_topo_export what = {0, pods};
        if (sf_topo_export(t, SF_TOPO_FORMAT_DOT, &what, &out, &err) == 0) {
            sf_buf_write(&out, "", 1);
            cables += must_parse_dot(out.data).cables;
        }
        sf_buf_free(&out);
    }
    assert_int_equal(pods, 8); /* 8 leaves of 4 rails per rack, 32 leaves a pod */
    assert_int_equal(cables, n.links_nic + n.links_leaf_spine + n.links_spine_core);
    sf_topo_free(t);
    t = must_load_cluster("gb300-nvl72-220k");
    struct dot d = draw(t, 0);
    assert_int_equal(d.cables, 3 * 5184);
    assert_int_equal(d.boxes, 72 + 72 + 1 + 1);
    assert_int_equal(d.edges, 288 + 72 + 1);
    sf_topo_free(t);
}

static void test_dot_dead_cables(void **state) {
    (void)state;
    char text[1024];
    snprintf(text, sizeof text, "%soverlay: { dead: { links: [\"leaf-up 0:3\"] } }\n", planes_text);
    struct sf_topo *t = must_load_text(text);
    struct sf_err err = {0};
    struct sf_buf out = {0};
    const struct sf_topo_export what = {0, -1};
    assert_int_equal(sf_topo_export(t, SF_TOPO_FORMAT_DOT, &what, &out, &err), 0);
    sf_buf_write(&out, "", 1);
    must_parse_dot(out.data);
    assert_non_null(strstr(out.data, "1 dead\", color=red, fontcolor=red"));
    sf_buf_free(&out);
    sf_topo_free(t);
}

static void test_dot_refusals(void **state) {
    (void)state;
    static const struct {
        const char *cluster, *message;
    } rows[] = {{"hgx-h100-2048", "expected a pod from 0 to 0, found 1"}, {"cpu-8", "one domain and no pods"}};
    for (size_t i = 0; i < 2; i++) {
        struct sf_topo *t = must_load_cluster(rows[i].cluster);
        struct sf_err err = {0};
        struct sf_buf out = {0};
        const struct sf_topo_export what = {0, 1};
        assert_int_equal(sf_topo_export(t, SF_TOPO_FORMAT_DOT, &what, &out, &err), SF_E_INPUT);
        assert_non_null(strstr(err.msg, rows[i].message));
        sf_buf_free(&out);
        sf_topo_free(t);
    }
    struct sf_err err = {0};
    struct sf_buf out = {0};
    assert_int_equal(import("nccl-dgx-a100.xml", SF_TOPO_FORMAT_DOT, NULL, &out, NULL, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "cannot be imported"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_captured_nodes),
        cmocka_unit_test(test_captured_clusters),
        cmocka_unit_test(test_captured_refusals),
        cmocka_unit_test(test_infragraph_there_and_back),
        cmocka_unit_test(test_planes_there_and_back),
        cmocka_unit_test(test_mixed_clusters),
        cmocka_unit_test(test_mixed_graphs_there_and_back),
        cmocka_unit_test(test_nodes_there_and_back),
        cmocka_unit_test(test_devices_that_are_no_gpus),
        cmocka_unit_test(test_nccl_reads_it),
        cmocka_unit_test(test_hwloc_reads_it),
        cmocka_unit_test(test_dot_whole_clusters),
        cmocka_unit_test(test_dot_pods),
        cmocka_unit_test(test_dot_dead_cables),
        cmocka_unit_test(test_dot_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
