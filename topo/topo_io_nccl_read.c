/* NCCL's topology XML, version 1: <system> of <cpu>s, each a tree of <pci>; a GPU is a <pci> with a <gpu>, or one of
 * class 0x03 where the file leaves the rest to NCCL; a NIC is a <net>, or a <pci> of class 0x02. */
#include <stdio.h>
#include <string.h>

#include "topo/topo_io_import.h"

#define MAX_LINKS 128
#define MAX_NET_MBPS UINT64_C(100000000)

/* Where we are: the narrowest PCI link so far. */
struct way {
    uint64_t pcie_bytes_per_s;
};

static bool is_class(const char *class, const char *prefix) {
    return class != NULL && strncmp(class, prefix, strlen(prefix)) == 0;
}

/* "32.0 GT/s PCIe": bytes of one lane per second before coding; 0: not said. */
static uint64_t lane_bytes_per_s(const char *text) {
    static const struct {
        const char *text;
        uint64_t bytes_per_s;
    } speeds[] = {{"2.5 GT/s", 312500000},   {"5.0 GT/s", 625000000},   {"5 GT/s", 625000000},
                  {"8.0 GT/s", 1000000000},  {"8 GT/s", 1000000000},    {"16.0 GT/s", 2000000000},
                  {"16 GT/s", 2000000000},   {"32.0 GT/s", 4000000000}, {"32 GT/s", 4000000000},
                  {"64.0 GT/s", 8000000000}, {"64 GT/s", 8000000000}};
    for (size_t i = 0; i < sizeof speeds / sizeof *speeds; i++) {
        size_t n = strlen(speeds[i].text);
        if (strncmp(text, speeds[i].text, n) == 0 && (text[n] == '\0' || strcmp(text + n, " PCIe") == 0)) {
            return speeds[i].bytes_per_s;
        }
    }
    return 0;
}

/* NCCL takes an empty speed as not said, and width 0 as 16. */
static int read_pcie(const struct sfi_xml *pci, struct way *way, struct sf_err *err) {
    const char *speed = sfi_xml_find(pci, "link_speed");
    uint64_t width;
    SF_TRY(sfi_xml_u64_or(pci, "link_width", 10, 64, 0, &width, err));
    if (speed == NULL || *speed == '\0' || strstr(speed, "Unknown") != NULL) {
        return 0;
    }
    uint64_t lane = lane_bytes_per_s(speed);
    if (lane == 0) {
        return sfi_xml_fail(pci, err, "expected a link_speed like \"32.0 GT/s PCIe\", found \"%.40s\"", speed);
    }
    uint64_t rate = lane * (width == 0 ? 16 : width);
    if (way->pcie_bytes_per_s == 0 || rate < way->pcie_bytes_per_s) {
        way->pcie_bytes_per_s = rate;
    }
    return 0;
}

static int read_nvlink(const struct sfi_xml *x, struct sfi_io_node *node, struct sfi_io_gpu *gpu, struct sf_err *err) {
    const char *target, *class = sfi_xml_find(x, "tclass");
    uint64_t count;
    SF_TRY(sfi_xml_need(x, "target", &target, err));
    SF_TRY(sfi_xml_u64(x, "count", 10, MAX_LINKS, &count, err));
    if (count == 0) {
        return sfi_xml_fail(x, err, "expected one link or more in count, found 0");
    }
    if (is_class(class, "0x03")) {
        return sfi_io_add_peer(gpu, sfi_io_name(target), count, x, err);
    }
    if (class != NULL && !is_class(class, "0x0680")) {
        return sfi_xml_fail(x, err, "expected tclass 0x068000 (NVSwitch) or 0x0302 (GPU), found \"%.40s\"", class);
    }
    node->chips_hidden |= strncmp(target, "fffffff:", 8) == 0;
    return sfi_io_add_chip(gpu, sfi_io_name(target), count, x, err);
}

static int read_gpu(const struct sfi_xml *x, struct sfi_io_node *node, struct sfi_io_gpu *gpu, struct sf_err *err) {
    uint64_t sm;
    SF_TRY(sfi_xml_u64(x, "sm", 10, 1000, &sm, err));
    gpu->sm = (uint32_t)sm;
    node->tells_nvlinks = true;
    for (const struct sfi_xml *c = x->first; c != NULL; c = c->next) {
        if (strcmp(c->name, "nvlink") == 0) {
            SF_TRY(read_nvlink(c, node, gpu, err));
        }
        gpu->c2c |= strcmp(c->name, "c2c") == 0;
    }
    return 0;
}

static int read_ids(const struct sfi_xml *pci, uint32_t *vendor, uint32_t *device, struct sf_err *err) {
    uint64_t v, d;
    SF_TRY(sfi_xml_u64_or(pci, "vendor", 16, 0xffff, 0, &v, err));
    SF_TRY(sfi_xml_u64_or(pci, "device", 16, 0xffff, 0, &d, err));
    *vendor = (uint32_t)v;
    *device = (uint32_t)d;
    return 0;
}

static const struct sfi_xml *child(const struct sfi_xml *x, const char *name) {
    for (const struct sfi_xml *c = x->first; c != NULL; c = c->next) {
        if (strcmp(c->name, name) == 0) {
            return c;
        }
    }
    return NULL;
}

static int add_gpu(struct sf_arena *arena, const struct sfi_xml *pci, const struct way *way, struct sfi_io_node *node,
                   struct sf_err *err) {
    const char *bus;
    SF_TRY(sfi_xml_need(pci, "busid", &bus, err));
    struct sfi_io_gpu *gpu = sfi_io_add_gpu(arena, node, pci, err);
    if (gpu == NULL) {
        return err != NULL ? err->code : SF_E_INPUT;
    }
    snprintf(gpu->bus, sizeof gpu->bus, "%.31s", bus);
    gpu->pcie_bytes_per_s = way->pcie_bytes_per_s;
    SF_TRY(read_ids(pci, &gpu->vendor, &gpu->device, err));
    const struct sfi_xml *x = child(pci, "gpu");
    return x != NULL ? read_gpu(x, node, gpu, err) : 0;
}

static int add_nic(struct sf_arena *arena, const struct sfi_xml *pci, uint64_t mbps, struct sfi_io_node *node,
                   struct sf_err *err) {
    struct sfi_io_nic *nic = sfi_io_add_nic(arena, node, pci, err);
    if (nic == NULL) {
        return err != NULL ? err->code : SF_E_INPUT;
    }
    nic->bytes_per_s = mbps * 125000;
    nic->ethernet = is_class(sfi_xml_find(pci, "class"), "0x0200");
    return read_ids(pci, &nic->vendor, &nic->device, err);
}

/* Ports of one PCI device are one NIC, as fast as all of them. A <nic> without a PCI device never gets here: it is a
 * socket over whatever the host has. */
static int add_nets(struct sf_arena *arena, const struct sfi_xml *nic, const struct sfi_xml *pci,
                    struct sfi_io_node *node, struct sf_err *err) {
    uint64_t sum = 0, mbps;
    bool any = false;
    for (const struct sfi_xml *c = nic->first; c != NULL; c = c->next) {
        if (strcmp(c->name, "net") != 0) {
            continue;
        }
        SF_TRY(sfi_xml_u64_or(c, "speed", 10, MAX_NET_MBPS, 0, &mbps, err));
        sum += mbps;
        any = true;
    }
    return any ? add_nic(arena, pci, sum, node, err) : 0;
}

static int read_pci(struct sf_arena *arena, const struct sfi_xml *pci, struct way way, struct sfi_io_node *node,
                    struct sf_err *err);

static int read_children(struct sf_arena *arena, const struct sfi_xml *x, struct way way, struct sfi_io_node *node,
                         struct sf_err *err) {
    for (const struct sfi_xml *c = x->first; c != NULL; c = c->next) {
        if (strcmp(c->name, "pci") == 0) {
            SF_TRY(read_pci(arena, c, way, node, err));
        }
    }
    return 0;
}

/* The depth is that of the file, which the XML reader limits. */
static int read_pci(struct sf_arena *arena, const struct sfi_xml *pci, struct way way, struct sfi_io_node *node,
                    struct sf_err *err) {
    const char *class = sfi_xml_find(pci, "class");
    const struct sfi_xml *nic = child(pci, "nic");
    SF_TRY(read_pcie(pci, &way, err));
    if (child(pci, "gpu") != NULL || is_class(class, "0x03")) {
        SF_TRY(add_gpu(arena, pci, &way, node, err));
    } else if (nic != NULL) {
        SF_TRY(add_nets(arena, nic, pci, node, err));
    } else if (is_class(class, "0x02")) {
        SF_TRY(add_nic(arena, pci, 0, node, err));
    }
    return read_children(arena, pci, way, node, err);
}

static int check_root(const struct sfi_xml *root, struct sf_err *err) {
    uint64_t version;
    if (strcmp(root->name, "system") != 0) {
        return sfi_xml_fail(root, err, "expected <system version=\"1\"> of an NCCL topology, found <%.60s>%s",
                            root->name,
                            strcmp(root->name, "topology") == 0 ? "; this is hwloc's: --format hwloc"
                            : strcmp(root->name, "graphs") == 0 ? "; NCCL_TOPO_DUMP_FILE writes the topology"
                                                                : "");
    }
    SF_TRY(sfi_xml_u64(root, "version", 10, UINT32_MAX, &version, err));
    return version == 1 ? 0
                        : sfi_xml_fail(root, err, "expected version 1 of NCCL's topology XML, found %llu",
                                       (unsigned long long)version);
}

/* Hosts of an NVLink domain that spans several are dumped together; each has its own host_hash. */
static int check_host(const struct sfi_xml *cpu, const char **host, struct sf_err *err) {
    const char *hash = sfi_xml_find(cpu, "host_hash");
    if (hash != NULL && *host != NULL && strcmp(hash, *host) != 0) {
        return sfi_xml_fail(cpu, err,
                            "expected the CPUs of one host, found host_hash %.40s after %.40s: dump the topology of "
                            "one node (NCCL_MNNVL_ENABLE=0)",
                            hash, *host);
    }
    *host = hash != NULL ? hash : *host;
    return 0;
}

static void see_cpu(struct sfi_io_node *node, uint32_t gpus) {
    if (gpus > 0) {
        node->least_gpus = node->least_gpus == 0 || gpus < node->least_gpus ? gpus : node->least_gpus;
        node->most_gpus = gpus > node->most_gpus ? gpus : node->most_gpus;
    }
}

int sfi_nccl_read(struct sf_arena *arena, const struct sfi_xml *root, struct sfi_io_node *out, struct sf_err *err) {
    const char *host = NULL;
    SF_TRY(check_root(root, err));
    out->format = "NCCL topology XML";
    for (const struct sfi_xml *c = root->first; c != NULL; c = c->next) {
        if (strcmp(c->name, "cpu") != 0) {
            continue;
        }
        SF_TRY(check_host(c, &host, err));
        size_t before = out->gpus_n;
        out->cpus++;
        SF_TRY(read_children(arena, c, (struct way){0}, out, err));
        see_cpu(out, (uint32_t)(out->gpus_n - before));
    }
    return out->gpus_n > 0
               ? 0
               : sfi_xml_fail(root, err,
                              "expected GPUs: <pci> elements with a <gpu>, or of class 0x030200; found none");
}
