/* Which format is written and read by whom; what was read is written as a cluster file, loaded and counted. */
#include "topo/topo_io_formats.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "topo/topo_io_import.h"
#include "topo/topo_io_known.h"
#include "topo/topo_io_write.h"

const char *const sf_topo_format_names[SF_TOPO_FORMATS_N + 1] = {
#define X(NAME, name, reads) name,
    SF_TOPO_FORMATS(X)
#undef X
};

/* ---- export ---- */

const char *sfi_io_bus(enum sfi_io_pci kind, uint32_t index, char out[SFI_IO_BUS]) {
    if (kind == SFI_IO_CHIP) {
        snprintf(out, SFI_IO_BUS, "%04x:%02x:00.0", 0xff00u + index / 256, index % 256);
    } else {
        snprintf(out, SFI_IO_BUS, "%04x:%02x:00.0", sfi_io_bus_domain(index), sfi_io_bus_number(kind, index));
    }
    return out;
}

uint32_t sfi_io_bus_domain(uint32_t index) {
    return index / 32;
}

/* Four buses per GPU: the switch, behind it the GPU and the NIC. */
uint32_t sfi_io_bus_number(enum sfi_io_pci kind, uint32_t index) {
    return 16 + index % 32 * 4 + (uint32_t)kind;
}

uint32_t sfi_io_cpu_of(const struct sfi_io_node_view *v, uint32_t slot) {
    return (uint32_t)((uint64_t)slot * v->cpus / v->facts->gpus_per_tray);
}

/* Trays are numbered stock by stock. */
static int view_tray(const struct sf_topo *t, uint32_t tray, struct sfi_io_facts *f, struct sfi_io_node_view *v,
                     struct sf_err *err) {
    uint64_t before = 0, here = 0, gpus = 0;
    uint32_t stock = 0;
    for (; stock < sf_topo_stocks(t); stock++) {
        sfi_io_facts(t, stock, f);
        here = (uint64_t)f->domains * f->trays;
        if (tray < before + here) {
            break;
        }
        before += here;
        gpus += here * f->gpus_per_tray;
    }
    if (stock == sf_topo_stocks(t)) {
        return sf_fail(err, SF_E_INPUT, "expected a tray from 0 to %" PRIu64 " of %s, found %u", before - 1,
                       sf_topo_name(t), tray);
    }
    *v = (struct sfi_io_node_view){
        .facts = f,
        .family = sfi_known_family(f->device),
        .first_gpu = gpus + (tray - before) * f->gpus_per_tray,
        .cpus = f->cpus_per_tray > 0 ? f->cpus_per_tray : 1,
        .nvlink = strncmp(f->up->name, "nvlink", 6) == 0,
        .c2c = f->cpu != NULL && strcmp(f->cpu->name, "nvlink-c2c") == 0,
    };
    return 0;
}

int sf_topo_export(const struct sf_topo *t, enum sf_topo_format format, const struct sf_topo_export *what,
                   struct sf_buf *out, struct sf_err *err) {
    struct sfi_io_facts f;
    struct sfi_io_node_view v;
    int rc;
    switch (format) {
    case SF_TOPO_FORMAT_NCCL:
        SF_TRY(view_tray(t, what->tray, &f, &v, err));
        rc = sfi_nccl_write(&v, out, err);
        break;
    case SF_TOPO_FORMAT_HWLOC:
        SF_TRY(view_tray(t, what->tray, &f, &v, err));
        rc = sfi_hwloc_write(&v, out, err);
        break;
    case SF_TOPO_FORMAT_INFRAGRAPH:
        rc = sfi_infra_write(t, out, err);
        break;
    case SF_TOPO_FORMAT_DOT:
        rc = sfi_dot_write(t, what->pod, out, err);
        break;
    default:
        return sf_fail(err, SF_E_INTERNAL, "no writer for format %d", (int)format);
    }
    return rc == 0 && out->failed ? sf_fail_memory(err, "an exported cluster") : rc;
}

/* ---- import ---- */

/* Every line of the notes becomes a comment; they hold no line ends of their own. */
static void print_notes(const struct sf_topo_found *f, struct sf_buf *out) {
    for (const char *line = f->notes; *line != '\0';) {
        size_t n = strcspn(line, "\n");
        sf_buf_printf(out, "# ");
        for (size_t i = 0; i < n; i++) {
            sf_buf_write(out, line[i] >= ' ' && line[i] <= '~' ? line + i : "?", 1);
        }
        sf_buf_printf(out, "\n");
        line += n + (line[n] == '\n');
    }
}

static void print_fabric(const struct sf_topo_found *f, struct sf_buf *out) {
    static const char *const cables[] = {"nic_leaf", "leaf_spine", "spine_core"};
    if (f->groups_n == 0) {
        sf_buf_printf(out, "nic: \"%s\"\n", f->nic);
    }
    sf_buf_printf(out, "rails: %u\n", f->rails);
    if (f->planes > 1) {
        sf_buf_printf(out, "planes: %u\n", f->planes);
    }
    sf_buf_printf(out, "fabric:\n  switch: \"%s\"\n  leaf_down: %u\n  tiers: %u\n", f->fabric_switch, f->leaf_down,
                  f->tiers);
    if (f->tiers > 1) {
        sf_buf_printf(out, "  oversubscription: %.17g\n", (double)f->leaf_down / f->leaf_up);
    }
    sf_buf_printf(out, "  cables: { ");
    for (uint32_t i = 0; i < f->tiers && i < 3; i++) {
        sf_buf_printf(out, "%s%s: %.10gm", i > 0 ? ", " : "", cables[i], f->cable_m[i]);
    }
    sf_buf_printf(out, " }\n");
}

void sfi_io_group(const struct sf_topo_found *f, uint32_t domains, struct sf_topo_group *out) {
    *out = (struct sf_topo_group){.domains = domains,
                                  .trays = f->trays,
                                  .gpus_per_tray = f->gpus_per_tray,
                                  .cpus_per_tray = f->cpus_per_tray,
                                  .nvswitches = f->nvswitches,
                                  .links_per_gpu = f->links_per_gpu};
    memcpy(out->kind, f->kind, sizeof out->kind);
    memcpy(out->device, f->device, sizeof out->device);
    memcpy(out->link, f->link, sizeof out->link);
    memcpy(out->cpu_link, f->cpu_link, sizeof out->cpu_link);
}

static void print_domain(const struct sf_topo_group *g, struct sf_buf *out) {
    sf_buf_printf(out,
                  "domain: { kind: \"%s\", trays: %u, gpus_per_tray: %u, cpus_per_tray: %u, nvswitches: %u, link: "
                  "\"%s\", links_per_gpu: %u",
                  g->kind, g->trays, g->gpus_per_tray, g->cpus_per_tray, g->nvswitches, g->link, g->links_per_gpu);
    if (g->cpu_link[0] != '\0') {
        sf_buf_printf(out, ", cpu_link: \"%s\"", g->cpu_link);
    }
    sf_buf_printf(out, " }");
}

static void print_groups(const struct sf_topo_found *f, struct sf_buf *out) {
    sf_buf_printf(out, "groups:\n");
    for (uint32_t i = 0; i < f->groups_n; i++) {
        const struct sf_topo_group *g = &f->groups[i];
        sf_buf_printf(out, "  - device: \"%s\"\n    domains: %u\n    nic: \"%s\"\n    ", g->device, g->domains, g->nic);
        if (g->starts != NULL) {
            sf_buf_printf(out, "starts: %s\n    ", g->starts);
        }
        print_domain(g, out);
        sf_buf_printf(out, "\n");
    }
}

void sfi_io_print_cluster(const struct sf_topo_found *f, struct sf_buf *out) {
    struct sf_topo_group only;
    print_notes(f, out);
    sf_buf_printf(out, "name: \"%s\"\n", f->name);
    if (f->groups_n > 0) {
        print_groups(f, out);
    } else {
        sfi_io_group(f, f->domains, &only);
        sf_buf_printf(out, "device: \"%s\"\ndomains: %u\n", f->device, f->domains);
        print_domain(&only, out);
        sf_buf_printf(out, "\n");
    }
    if (f->domains > 1) {
        print_fabric(f, out);
    }
}

/* The file system with one more file: the cluster that is about to be written. */
struct overlay {
    const struct sf_io *below;
    const char *path;
    const struct sf_buf *text;
    size_t from;
};

static int overlay_read(void *self, const char *path, size_t max_bytes, char **data, size_t *bytes,
                        struct sf_err *err) {
    const struct overlay *o = self;
    if (strcmp(path, o->path) != 0) {
        return o->below->read_all(o->below->self, path, max_bytes, data, bytes, err);
    }
    *bytes = o->text->bytes - o->from;
    *data = sf_malloc(*bytes + 1);
    if (*data == NULL) {
        return sf_fail_memory(err, "a cluster file");
    }
    memcpy(*data, o->text->data + o->from, *bytes);
    (*data)[*bytes] = '\0';
    return 0;
}

static int check_counts(const struct sf_topo *t, const struct sf_topo_found *f, const char *path, struct sf_err *err) {
    struct sf_topo_counts n;
    sf_topo_count(t, &n);
    struct sf_topo_group first;
    uint64_t gpus = 0, cpus = 0, chips = 0, links = 0;
    sfi_io_group(f, f->domains, &first);
    for (uint32_t i = 0; i < f->groups_n || i == 0; i++) {
        const struct sf_topo_group *g = f->groups_n > 0 ? &f->groups[i] : &first;
        uint64_t here = (uint64_t)g->domains * g->trays * g->gpus_per_tray;
        gpus += here;
        cpus += (uint64_t)g->domains * g->trays * g->cpus_per_tray;
        chips += (uint64_t)g->domains * g->nvswitches;
        links += here * g->links_per_gpu;
    }
    const struct {
        const char *what;
        uint64_t found, made;
    } rows[] = {{"GPUs", gpus, n.gpus},
                {"CPUs", cpus, n.cpus},
                {"switch chips", chips, n.nvswitches},
                {"NVLinks", links, n.links_nvlink},
                {"leaf switches", f->leaves, n.leaves},
                {"spine switches", f->spines, n.spines},
                {"core switches", f->cores, n.cores},
                {"cables between leaves and spines", f->links_leaf_spine, n.links_leaf_spine},
                {"cables between spines and cores", f->links_spine_core, n.links_spine_core}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (rows[i].found != rows[i].made) {
            return sf_fail_at(err, SF_E_INPUT, path, 0, 0,
                              "expected a cluster of the shape in docs/topology.md: the file has %" PRIu64
                              " %s, the cluster made of it has %" PRIu64,
                              rows[i].found, rows[i].what, rows[i].made);
        }
    }
    return 0;
}

/* What was written must load, and hold what was read. */
static int prove(const struct sf_io *io, const char *path, const char *catalog_dir, const char *cluster_path,
                 const struct sf_topo_found *f, const struct sf_buf *text, size_t from, struct sf_err *err) {
    struct overlay o = {io, cluster_path, text, from};
    const struct sf_io over = {&o, overlay_read, NULL};
    struct sf_topo *t = NULL;
    int rc = sf_topo_load(&over, cluster_path, catalog_dir, &t, err);
    if (rc != 0) {
        return err != NULL && err->code == rc ? sf_err_wrap(err, "the cluster made of %s", path) : rc;
    }
    rc = check_counts(t, f, path, err);
    sf_topo_free(t);
    return rc;
}

static int read_node(const char *path, const char *data, size_t bytes, enum sf_topo_format format,
                     const struct sf_topo_wishes *wishes, struct sf_topo_found *out, struct sf_err *err) {
    struct sf_arena *arena = sf_arena_create();
    struct sfi_io_node node = {.file = path};
    struct sfi_xml *root = NULL;
    if (arena == NULL) {
        return sf_fail_memory(err, "an XML file");
    }
    int rc = sfi_xml_parse(arena, path, data, bytes, &root, err);
    if (rc == 0) {
        rc = format == SF_TOPO_FORMAT_NCCL ? sfi_nccl_read(arena, root, &node, err)
                                           : sfi_hwloc_read(arena, root, &node, err);
    }
    rc = rc == 0 ? sfi_io_describe(&node, wishes, out, err) : rc;
    sf_arena_free(arena);
    return rc;
}

static int read_any(const char *path, const char *data, size_t bytes, enum sf_topo_format format,
                    const struct sf_topo_wishes *wishes, struct sf_topo_found *out, struct sf_err *err) {
    switch (format) {
    case SF_TOPO_FORMAT_NCCL:
    case SF_TOPO_FORMAT_HWLOC:
        return read_node(path, data, bytes, format, wishes, out, err);
    case SF_TOPO_FORMAT_INFRAGRAPH:
        return sfi_infra_read(data, bytes, path, wishes, out, err);
    default:
        return sf_fail(err, SF_E_INPUT, "%s describes drawings, not clusters: it cannot be imported",
                       sf_topo_format_names[format]);
    }
}

int sf_topo_import(const struct sf_io *io, const char *path, const char *catalog_dir, enum sf_topo_format format,
                   const struct sf_topo_wishes *wishes, struct sf_buf *out, struct sf_topo_found *found,
                   struct sf_err *err) {
    static const struct sf_topo_wishes none;
    struct sf_topo_found own, *f = found != NULL ? found : &own;
    const struct sf_topo_wishes *w = wishes != NULL ? wishes : &none;
    char *data = NULL;
    size_t bytes = 0, from = out->bytes;
    SF_TRY(io->read_all(io->self, path, SFI_XML_MAX_BYTES, &data, &bytes, err));
    int rc = read_any(path, data, bytes, format, w, f, err);
    sf_free(data);
    if (rc != 0) {
        return rc;
    }
    sfi_io_print_cluster(f, out);
    if (out->failed) {
        return sf_fail_memory(err, "a cluster file");
    }
    return prove(io, path, catalog_dir, w->path != NULL ? w->path : "cluster.yaml", f, out, from, err);
}
