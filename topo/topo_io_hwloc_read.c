/* hwloc's XML, versions 2 and 3: a tree of <object type=...>. GPUs and NICs are PCIDev objects; NVLinks are a matrix
 * named NVLinkBandwidth between OSDev, PCIDev and Package objects, in MB/s. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "topo/topo_io_import.h"
#include "topo/topo_io_known.h"

#define MAX_IO 16384 /* PCI and OS devices of a node */
#define MAX_ENDS 512 /* of the NVLink matrix */

struct device {
    const struct sfi_xml *object;
    size_t gpu; /* it is, or is part of; SIZE_MAX: none */
    bool chip;
};

struct reader {
    struct sf_arena *arena;
    struct sfi_io_node *node;
    struct device *devices;
    size_t devices_n;
};

static bool is_type(const struct sfi_xml *x, const char *type) {
    const char *have = sfi_xml_find(x, "type");
    return strcmp(x->name, "object") == 0 && have != NULL && strcmp(have, type) == 0;
}

static bool is_sub(const struct sfi_xml *x, const char *subtype) {
    const char *have = sfi_xml_find(x, "subtype");
    return have != NULL && strcmp(have, subtype) == 0;
}

/* "0302 [10de:1db8] [10de:131d] a1 00": class, vendor, device. */
static int read_pci_type(const struct sfi_xml *x, uint32_t *class, uint32_t *vendor, uint32_t *device,
                         struct sf_err *err) {
    const char *text;
    char rest;
    SF_TRY(sfi_xml_need(x, "pci_type", &text, err));
    bool shape = strlen(text) >= 16 && strspn(text, "0123456789abcdefABCDEF") == 4 && text[4] == ' ' &&
                 text[5] == '[' && text[10] == ':' && text[15] == ']';
    if (!shape || sscanf(text, "%4x [%4x:%4x]%c", class, vendor, device, &rest) < 3) {
        return sfi_xml_fail(x, err, "expected a pci_type like \"0302 [10de:2330]\", found \"%.40s\"", text);
    }
    return 0;
}

/* GB/s of the slowest link between a device and the CPU; 0: not said. */
static int pcie_rate(const struct sfi_xml *x, uint64_t *out, struct sf_err *err) {
    double slowest = 0;
    for (; x != NULL; x = x->parent) {
        const char *text = sfi_xml_find(x, "pci_link_speed");
        char *end = NULL;
        double speed = text != NULL ? strtod(text, &end) : 0;
        if (text != NULL && (end == text || *end != '\0' || !(speed >= 0 && speed < 1e6))) {
            return sfi_xml_fail(x, err, "expected a pci_link_speed in GB/s, found \"%.40s\"", text);
        }
        if (speed > 0 && (slowest <= 0 || speed < slowest)) {
            slowest = speed;
        }
    }
    *out = (uint64_t)llround(slowest * 1e9);
    return 0;
}

static void read_model(const struct sfi_xml *pci, struct sfi_io_gpu *gpu) {
    for (const struct sfi_xml *x = pci; x != NULL; x = sfi_xml_next(pci, x)) {
        const char *name = strcmp(x->name, "info") == 0 ? sfi_xml_find(x, "name") : NULL;
        const char *value = name != NULL && strcmp(name, "GPUModel") == 0 ? sfi_xml_find(x, "value") : NULL;
        if (value != NULL) {
            snprintf(gpu->model, sizeof gpu->model, "%.63s", value);
        }
    }
}

static int add_device(struct reader *r, const struct sfi_xml *x, size_t gpu, bool chip, struct sf_err *err) {
    if (r->devices_n == MAX_IO) {
        return sfi_xml_fail(x, err, "expected at most %d PCI and OS devices in a node", MAX_IO);
    }
    r->devices[r->devices_n++] = (struct device){x, gpu, chip};
    return 0;
}

static int add_gpu(struct reader *r, const struct sfi_xml *x, uint32_t vendor, uint32_t device, struct sf_err *err) {
    struct sfi_io_gpu *gpu = sfi_io_add_gpu(r->arena, r->node, x, err);
    const char *bus = sfi_xml_find(x, "pci_busid");
    if (gpu == NULL) {
        return err != NULL ? err->code : SF_E_INPUT;
    }
    gpu->vendor = vendor;
    gpu->device = device;
    snprintf(gpu->bus, sizeof gpu->bus, "%.31s", bus != NULL ? bus : "");
    read_model(x, gpu);
    SF_TRY(pcie_rate(x, &gpu->pcie_bytes_per_s, err));
    return add_device(r, x, r->node->gpus_n - 1, false, err);
}

static int add_nic(struct reader *r, const struct sfi_xml *x, bool ethernet, uint32_t vendor, uint32_t device,
                   struct sf_err *err) {
    struct sfi_io_nic *nic = sfi_io_add_nic(r->arena, r->node, x, err);
    if (nic == NULL) {
        return err != NULL ? err->code : SF_E_INPUT;
    }
    nic->vendor = vendor;
    nic->device = device;
    nic->ethernet = ethernet;
    return 0;
}

/* 0302 is a GPU without a display; a display adapter counts when CUDA or NVML know it. */
static bool computes(const struct sfi_xml *pci, uint32_t class, uint32_t vendor) {
    if (class == 0x0302) {
        return true;
    }
    for (const struct sfi_xml *c = pci->first; class == 0x0300 && vendor == SFI_PCI_NVIDIA && c != NULL; c = c->next) {
        if (is_type(c, "OSDev") && (is_sub(c, "CUDA") || is_sub(c, "NVML"))) {
            return true;
        }
    }
    return false;
}

static int read_pci(struct reader *r, const struct sfi_xml *x, struct sf_err *err) {
    uint32_t class, vendor, device;
    SF_TRY(read_pci_type(x, &class, &vendor, &device, err));
    if (is_sub(x, "NVSwitch")) {
        return add_device(r, x, SIZE_MAX, true, err);
    }
    if (computes(x, class, vendor)) {
        return add_gpu(r, x, vendor, device, err);
    }
    if (class == 0x0207 || (class == 0x0200 && sfi_known_nic(vendor, device, true) != NULL)) {
        return add_nic(r, x, class == 0x0200, vendor, device, err);
    }
    return 0;
}

static size_t gpu_of(const struct reader *r, const struct sfi_xml *x) {
    for (size_t i = r->devices_n; i > 0; i--) {
        if (r->devices[i - 1].object == x) {
            return r->devices[i - 1].gpu;
        }
    }
    return SIZE_MAX;
}

static int read_object(struct reader *r, const struct sfi_xml *x, struct sf_err *err) {
    if (is_type(x, "Package")) {
        r->node->cpus++;
    } else if (is_type(x, "PCIDev")) {
        return read_pci(r, x, err);
    } else if (is_type(x, "OSDev") && x->parent != NULL) {
        size_t gpu = gpu_of(r, x->parent);
        return gpu != SIZE_MAX ? add_device(r, x, gpu, false, err) : 0;
    }
    return 0;
}

/* ---- the matrix ---- */

struct matrix {
    const struct sfi_xml *x;
    struct device ends[MAX_ENDS]; /* object NULL: a CPU, or a device that is no GPU and no chip */
    size_t ends_n;
};

static struct device find_device(const struct reader *r, const char *type, const char *gp) {
    for (size_t i = 0; i < r->devices_n; i++) {
        const char *have = sfi_xml_find(r->devices[i].object, "gp_index");
        if (have != NULL && strcmp(have, gp) == 0 && is_type(r->devices[i].object, type)) {
            return r->devices[i];
        }
    }
    return (struct device){NULL, SIZE_MAX, false};
}

/* One word of the indexes: "OSDev:802", or "802" where the matrix has one type. */
static int add_end(const struct reader *r, struct matrix *m, const struct sfi_xml *x, const char *word, size_t n,
                   struct sf_err *err) {
    char type[32] = "OSDev", gp[32];
    const char *own = sfi_xml_find(m->x, "type"), *colon = memchr(word, ':', n);
    size_t prefix = colon != NULL ? (size_t)(colon - word) : 0, skip = colon != NULL ? prefix + 1 : 0;
    if (m->ends_n == MAX_ENDS || prefix >= sizeof type || n - skip >= sizeof gp || n == skip) {
        return sfi_xml_fail(x, err, "expected at most %d indexes like OSDev:802, found \"%.*s\"", MAX_ENDS,
                            (int)(n < 40 ? n : 40), word);
    }
    if (colon != NULL) {
        snprintf(type, sizeof type, "%.*s", (int)prefix, word);
    } else if (own != NULL) {
        snprintf(type, sizeof type, "%.31s", own);
    }
    snprintf(gp, sizeof gp, "%.*s", (int)(n - skip), word + skip);
    m->ends[m->ends_n++] = find_device(r, type, gp);
    return 0;
}

static const char *next_word(const char **text, size_t *n) {
    const char *word = *text + strspn(*text, " \t\r\n");
    *n = strcspn(word, " \t\r\n");
    *text = word + *n;
    return *n > 0 ? word : NULL;
}

static int read_ends(const struct reader *r, struct matrix *m, struct sf_err *err) {
    for (const struct sfi_xml *c = m->x->first; c != NULL; c = c->next) {
        const char *text = c->text, *word;
        size_t n;
        while (strcmp(c->name, "indexes") == 0 && (word = next_word(&text, &n)) != NULL) {
            SF_TRY(add_end(r, m, c, word, n, err));
        }
    }
    return 0;
}

/* MB/s of one NVLink: 50 GB/s from NVLink 5 on, 25 GB/s before, 20 GB/s at the first. */
static uint64_t lane_rate(const struct sfi_io_gpu *gpu, uint64_t mb_per_s) {
    const struct sfi_known_gpu *known = sfi_known_gpu(gpu->vendor, gpu->device);
    const struct sfi_known_family *family =
        known != NULL && known->family != NULL ? sfi_known_family(known->family) : NULL;
    if (family != NULL && strcmp(family->link, "nvlink5") == 0) {
        return 50000;
    }
    return mb_per_s % 25000 == 0 ? 25000 : 20000;
}

static int take_cell(struct reader *r, const struct matrix *m, const struct sfi_xml *x, size_t cell, uint64_t mb_per_s,
                     struct sf_err *err) {
    const struct device *from = &m->ends[cell / m->ends_n], *to = &m->ends[cell % m->ends_n];
    if (from == to || from->gpu == SIZE_MAX || mb_per_s == 0) {
        return 0;
    }
    struct sfi_io_gpu *gpu = &r->node->gpus[from->gpu];
    uint64_t rate = lane_rate(gpu, mb_per_s), links = mb_per_s / rate;
    if (mb_per_s % rate != 0 || links > 128) {
        return sfi_xml_fail(x, err, "expected the rate of 1 to 128 NVLinks of %llu MB/s, found %llu MB/s",
                            (unsigned long long)rate, (unsigned long long)mb_per_s);
    }
    if (to->chip) {
        return sfi_io_add_chip(gpu, (uint64_t)(cell % m->ends_n), links, x, err);
    }
    return to->gpu == SIZE_MAX ? 0 : sfi_io_add_peer(gpu, sfi_io_name(r->node->gpus[to->gpu].bus), links, x, err);
}

static int read_values(struct reader *r, const struct matrix *m, struct sf_err *err) {
    size_t cell = 0, cells = m->ends_n * m->ends_n;
    for (const struct sfi_xml *c = m->x->first; c != NULL; c = c->next) {
        const char *text = c->text, *word;
        size_t n;
        while (strcmp(c->name, "u64values") == 0 && (word = next_word(&text, &n)) != NULL) {
            if (cell == cells || n > 12 || strspn(word, "0123456789") != n) {
                return sfi_xml_fail(c, err, "expected %zu numbers in MB/s, found \"%.*s\" as number %zu", cells,
                                    (int)(n < 40 ? n : 40), word, cell + 1);
            }
            SF_TRY(take_cell(r, m, c, cell++, strtoull(word, NULL, 10), err));
        }
    }
    return cell == cells ? 0 : sfi_xml_fail(m->x, err, "expected %zu numbers in MB/s, found %zu", cells, cell);
}

static int read_matrix(struct reader *r, const struct sfi_xml *x, struct sf_err *err) {
    const char *name = sfi_xml_find(x, "name");
    if (strncmp(x->name, "distances2", 10) != 0 || name == NULL || strcmp(name, "NVLinkBandwidth") != 0) {
        return 0;
    }
    struct matrix *m = sf_arena_alloc(r->arena, 1, sizeof *m);
    if (m == NULL) {
        return sf_fail_memory(err, "the NVLinks of a node");
    }
    m->x = x;
    SF_TRY(read_ends(r, m, err));
    return read_values(r, m, err);
}

static int check_root(const struct sfi_xml *root, struct sf_err *err) {
    const char *version = sfi_xml_find(root, "version");
    if (strcmp(root->name, "topology") != 0) {
        return sfi_xml_fail(root, err, "expected <topology version=\"2.0\"> of hwloc, found <%.60s>%s", root->name,
                            strcmp(root->name, "system") == 0 ? "; this is NCCL's: --format nccl" : "");
    }
    if (version == NULL || (version[0] != '2' && version[0] != '3') || version[1] != '.') {
        return sfi_xml_fail(root, err,
                            "expected version 2 or 3 of hwloc's XML, found %.20s: export it with a newer "
                            "lstopo",
                            version != NULL ? version : "version 1");
    }
    return 0;
}

int sfi_hwloc_read(struct sf_arena *arena, const struct sfi_xml *root, struct sfi_io_node *out, struct sf_err *err) {
    struct reader r = {arena, out, sf_arena_alloc(arena, MAX_IO, sizeof *r.devices), 0};
    SF_TRY(check_root(root, err));
    if (r.devices == NULL) {
        return sf_fail_memory(err, "a node's devices");
    }
    out->format = "hwloc XML";
    for (const struct sfi_xml *x = sfi_xml_next(root, root); x != NULL; x = sfi_xml_next(root, x)) {
        SF_TRY(read_object(&r, x, err));
    }
    if (out->gpus_n == 0) {
        return sfi_xml_fail(root, err,
                            "expected GPUs: PCIDev objects of class 0302; found none (lstopo --whole-io shows them; "
                            "staticfire topo probe describes a machine without GPUs)");
    }
    for (const struct sfi_xml *x = root->first; x != NULL; x = x->next) {
        SF_TRY(read_matrix(&r, x, err));
    }
    return 0;
}
