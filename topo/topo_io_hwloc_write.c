/* hwloc's XML, version 2.0: packages with their memory nodes, GPUs and NICs below PCI bridges, NVLinks as a matrix. A
 * cluster says nothing of cores and caches: one core per package stands for them. */
#include <inttypes.h>
#include <string.h>

#include "topo/topo_io_known.h"
#include "topo/topo_io_write.h"

#define MAX_GPUS 256 /* of a node: PCI names are made up within fixed ranges */
#define ROW 10       /* values per element, as hwloc writes them */

/* Every object has a number of its own. */
struct writer {
    const struct sfi_io_node_view *v;
    struct sf_buf *out;
    uint64_t next;
    uint64_t gpu_gp[MAX_GPUS];
    uint64_t chip_gp[1024];
};

static uint32_t chips_shown(const struct sfi_io_node_view *v) {
    return v->facts->trays == 1 ? v->facts->nvswitches : 0; /* those of a rack are in trays of their own */
}

/* hwloc prints sets in words of 32 bits, the highest first. */
static void print_set(struct sf_buf *out, const char *name, uint32_t first, uint32_t n) {
    sf_buf_printf(out, " %s=\"", name);
    for (uint32_t word = (first + n - 1) / 32 + 1; word > 0; word--) {
        uint32_t bits = 0;
        for (uint32_t i = 0; i < 32; i++) {
            uint32_t at = (word - 1) * 32 + i;
            bits |= at >= first && at < first + n ? UINT32_C(1) << i : 0;
        }
        sf_buf_printf(out, "0x%08x%s", bits, word > 1 ? "," : "");
    }
    sf_buf_printf(out, "\"");
}

static void print_sets(struct sf_buf *out, uint32_t first, uint32_t n, bool allowed) {
    print_set(out, "cpuset", first, n);
    print_set(out, "complete_cpuset", first, n);
    if (allowed) {
        print_set(out, "allowed_cpuset", first, n);
    }
    print_set(out, "nodeset", first, n);
    print_set(out, "complete_nodeset", first, n);
    if (allowed) {
        print_set(out, "allowed_nodeset", first, n);
    }
}

static void print_object(struct writer *w, const char *type, uint32_t index, uint32_t cpu, const char *end) {
    sf_buf_printf(w->out, "<object type=\"%s\" os_index=\"%u\"", type, index);
    print_sets(w->out, cpu, 1, false);
    sf_buf_printf(w->out, " gp_index=\"%" PRIu64 "\"%s>\n", w->next++, end);
}

static double pcie_speed(const struct sf_link_class *cpu) {
    if (cpu == NULL) {
        return 0;
    }
    return strcmp(cpu->name, "pcie4-x16") == 0 ? 31.507692 : 63.015385; /* 16 lanes after 128b/130b coding */
}

static uint64_t print_pci(struct writer *w, enum sfi_io_pci kind, uint32_t index, const char *class, uint32_t vendor,
                          uint32_t device, const char *more) {
    char bus[SFI_IO_BUS];
    sf_buf_printf(w->out,
                  "<object type=\"PCIDev\" gp_index=\"%" PRIu64
                  "\"%s pci_busid=\"%s\" pci_type=\"%s [%04x:%04x] [0000:0000] 00\" pci_link_speed=\"%f\"",
                  w->next, more, sfi_io_bus(kind, index, bus), class, vendor, device,
                  kind == SFI_IO_CHIP ? 0 : pcie_speed(w->v->facts->cpu));
    return w->next++;
}

static void print_bridge(struct writer *w, uint32_t slot) {
    uint32_t bus = sfi_io_bus_number(SFI_IO_BRIDGE, slot);
    sf_buf_printf(w->out,
                  "<object type=\"Bridge\" gp_index=\"%" PRIu64
                  "\" bridge_type=\"0-1\" depth=\"0\" bridge_pci=\"%04x:[%02x-%02x]\">\n",
                  w->next++, sfi_io_bus_domain(slot), bus, bus + 3);
}

static void print_gpu(struct writer *w, uint32_t slot) {
    const struct sfi_io_facts *f = w->v->facts;
    print_pci(w, SFI_IO_GPU, slot, "0302", SFI_PCI_NVIDIA, w->v->family->pci_device, "");
    sf_buf_printf(w->out,
                  ">\n<object type=\"OSDev\" gp_index=\"%" PRIu64
                  "\" name=\"nvml%u\" subtype=\"NVML\" osdev_type=\"5\">\n<info name=\"Backend\" value=\"NVML\"/>\n"
                  "<info name=\"GPUModel\" value=\"%s\"/>\n</object>\n</object>\n",
                  w->next, slot, f->device);
    w->gpu_gp[slot] = w->next++;
}

static void print_nic(struct writer *w, uint32_t slot) {
    const struct sf_link_class *nic = w->v->facts->nic;
    if (nic == NULL) {
        return;
    }
    print_pci(w, SFI_IO_NIC, slot, sfi_known_nic_ethernet(nic->name) ? "0200" : "0207", SFI_PCI_MELLANOX,
              sfi_known_nic_device(nic->name), "");
    sf_buf_printf(w->out,
                  ">\n<object type=\"OSDev\" gp_index=\"%" PRIu64
                  "\" name=\"mlx5_%u\" osdev_type=\"3\">\n<info name=\"NodeGUID\" value=\"%04x:%04x:%04x:%04x\"/>\n"
                  "</object>\n</object>\n",
                  w->next, slot, 0x5f00u, 0u, (unsigned)((w->v->first_gpu + slot + 1) >> 16 & 0xffff),
                  (unsigned)((w->v->first_gpu + slot + 1) & 0xffff));
    w->next++;
}

static void print_chips(struct writer *w) {
    uint32_t n = chips_shown(w->v);
    for (uint32_t i = 0; i < n; i++) {
        if (i % 256 == 0) {
            sf_buf_printf(w->out,
                          "<object type=\"Bridge\" gp_index=\"%" PRIu64
                          "\" bridge_type=\"0-1\" depth=\"0\" bridge_pci=\"%04x:[00-ff]\">\n",
                          w->next++, 0xff00u + i / 256);
        }
        w->chip_gp[i] = print_pci(w, SFI_IO_CHIP, i, "0680", SFI_PCI_NVIDIA, 0, " subtype=\"NVSwitch\"");
        sf_buf_printf(w->out, "/>\n%s", i % 256 == 255 || i + 1 == n ? "</object>\n" : "");
    }
}

static void print_package(struct writer *w, uint32_t cpu) {
    print_object(w, "Package", cpu, cpu, "");
    print_object(w, "NUMANode", cpu, cpu, "/");
    print_object(w, "Core", cpu, cpu, "");
    print_object(w, "PU", cpu, cpu, "/");
    sf_buf_printf(w->out, "</object>\n");
    for (uint32_t slot = 0; slot < w->v->facts->gpus_per_tray; slot++) {
        if (sfi_io_cpu_of(w->v, slot) == cpu) {
            print_bridge(w, slot);
            print_gpu(w, slot);
            print_nic(w, slot);
            sf_buf_printf(w->out, "</object>\n");
        }
    }
    if (cpu == 0) {
        print_chips(w);
    }
    sf_buf_printf(w->out, "</object>\n");
}

/* An element says how many bytes it holds, so it is put together first. */
struct chunk {
    const char *name;
    struct sf_buf text;
    uint32_t n;
};

static void end_chunk(struct writer *w, struct chunk *c) {
    if (c->n > 0) {
        sf_buf_printf(w->out, "<%s length=\"%zu\">", c->name, c->text.bytes);
        sf_buf_write(w->out, c->text.data, c->text.bytes);
        sf_buf_printf(w->out, "</%s>\n", c->name);
    }
    c->text.bytes = 0;
    c->n = 0;
}

static void add_word(struct writer *w, struct chunk *c, const char *prefix, uint64_t number) {
    sf_buf_printf(&c->text, "%s%" PRIu64 " ", prefix, number);
    if (++c->n == ROW) {
        end_chunk(w, c);
    }
}

/* MB/s between ends a and b; GPUs come first, then chips. */
static uint64_t cell(const struct sfi_io_node_view *v, uint32_t a, uint32_t b) {
    const struct sfi_io_facts *f = v->facts;
    uint64_t lane = f->up->peak_bytes_per_s / f->lanes / 1000000;
    uint32_t gpus = f->gpus_per_tray, low = a < b ? a : b, high = a < b ? b : a;
    if (a == b) {
        return 1000000;
    }
    if (low < gpus && high >= gpus) {
        return lane * sfi_io_chip_lanes(f, high - gpus);
    }
    if (high < gpus && f->nvswitches == 0) {
        return lane * (f->lanes / (gpus - 1) + (high - 1 < f->lanes % (gpus - 1)));
    }
    return 0;
}

static void print_matrix(struct writer *w) {
    const struct sfi_io_node_view *v = w->v;
    struct chunk indexes = {"indexes", {0}, 0}, values = {"u64values", {0}, 0};
    uint32_t gpus = v->facts->gpus_per_tray, n = gpus + chips_shown(v);
    if (!v->nvlink || n < 2 || v->facts->trays > 1) {
        return;
    }
    sf_buf_printf(w->out, "<distances2hetero nbobjs=\"%u\" kind=\"25\" name=\"NVLinkBandwidth\">\n", n);
    for (uint32_t i = 0; i < n; i++) {
        bool gpu = i < gpus;
        add_word(w, &indexes, gpu ? "OSDev:" : "PCIDev:", gpu ? w->gpu_gp[i] : w->chip_gp[i - gpus]);
    }
    end_chunk(w, &indexes);
    for (uint32_t i = 0; i < n * n; i++) {
        add_word(w, &values, "", cell(v, i / n, i % n));
    }
    end_chunk(w, &values);
    sf_buf_printf(w->out, "</distances2hetero>\n");
    w->out->failed |= indexes.text.failed || values.text.failed;
    sf_buf_free(&indexes.text);
    sf_buf_free(&values.text);
}

int sfi_hwloc_write(const struct sfi_io_node_view *v, struct sf_buf *out, struct sf_err *err) {
    struct writer w = {.v = v, .out = out, .next = 1};
    if (v->family == NULL) {
        return sf_fail(err, SF_E_INPUT, "hwloc asks for the PCI device of %s, and it is not known here",
                       v->facts->device);
    }
    if (v->facts->gpus_per_tray > MAX_GPUS || v->cpus > MAX_GPUS) {
        return sf_fail(err, SF_E_INPUT, "expected a node of at most %d GPUs and CPUs for hwloc, found %u and %u",
                       MAX_GPUS, v->facts->gpus_per_tray, v->cpus);
    }
    sf_buf_printf(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!DOCTYPE topology SYSTEM \"hwloc2.dtd\">\n"
                       "<topology version=\"2.0\">\n<object type=\"Machine\" os_index=\"0\"");
    print_sets(out, 0, v->cpus, true);
    sf_buf_printf(out,
                  " gp_index=\"%" PRIu64 "\">\n<info name=\"Comment\" value=\"tray of %s; one core per package "
                  "stands for all\"/>\n",
                  w.next++, v->facts->name);
    for (uint32_t cpu = 0; cpu < v->cpus; cpu++) {
        print_package(&w, cpu);
    }
    sf_buf_printf(out, "</object>\n");
    print_matrix(&w);
    sf_buf_printf(out, "</topology>\n");
    return 0;
}
