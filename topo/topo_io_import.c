/* From parts to a node of the catalog's classes. */
#include "topo/topo_io_import.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "topo/topo_io_known.h"

/* Room for one more in an array that lives in an arena; doubled when full. */
static void *grow(struct sf_arena *arena, void *list, size_t n, size_t size) {
    if (n != 0 && (n & (n - 1)) != 0) {
        return list;
    }
    void *more = sf_arena_alloc(arena, n == 0 ? 1 : 2 * n, size);
    if (more != NULL && n > 0) {
        memcpy(more, list, n * size);
    }
    return more;
}

static int too_many(const struct sfi_xml *at, const char *what, struct sf_err *err) {
    return sfi_xml_fail(at, err, "expected at most %d %s in a node", SFI_IO_MAX_PARTS, what);
}

struct sfi_io_gpu *sfi_io_add_gpu(struct sf_arena *arena, struct sfi_io_node *node, const struct sfi_xml *at,
                                  struct sf_err *err) {
    if (node->gpus_n == SFI_IO_MAX_PARTS) {
        too_many(at, "GPUs", err);
        return NULL;
    }
    struct sfi_io_gpu *list = grow(arena, node->gpus, node->gpus_n, sizeof *list);
    if (list == NULL) {
        sf_fail_memory(err, "a node's GPUs");
        return NULL;
    }
    node->gpus = list;
    struct sfi_io_gpu *gpu = &list[node->gpus_n++];
    *gpu = (struct sfi_io_gpu){.at = {at->line, at->column}};
    return gpu;
}

struct sfi_io_nic *sfi_io_add_nic(struct sf_arena *arena, struct sfi_io_node *node, const struct sfi_xml *at,
                                  struct sf_err *err) {
    if (node->nics_n == SFI_IO_MAX_PARTS) {
        too_many(at, "NICs", err);
        return NULL;
    }
    struct sfi_io_nic *list = grow(arena, node->nics, node->nics_n, sizeof *list);
    if (list == NULL) {
        sf_fail_memory(err, "a node's NICs");
        return NULL;
    }
    node->nics = list;
    struct sfi_io_nic *nic = &list[node->nics_n++];
    *nic = (struct sfi_io_nic){.at = {at->line, at->column}};
    return nic;
}

int sfi_io_add_chip(struct sfi_io_gpu *gpu, uint64_t chip, uint64_t links, const struct sfi_xml *at,
                    struct sf_err *err) {
    size_t i = 0;
    while (i < gpu->chips_n && gpu->chips[i] != chip) {
        i++;
    }
    if (i == SFI_IO_MAX_CHIPS || links > 128 || gpu->nvlinks + links > 128) {
        return sfi_xml_fail(at, err, "expected at most 128 NVLinks of a GPU, to at most %d switch chips",
                            SFI_IO_MAX_CHIPS);
    }
    gpu->chips_n += i == gpu->chips_n;
    gpu->chips[i] = chip;
    gpu->nvlinks += (uint32_t)links;
    return 0;
}

int sfi_io_add_peer(struct sfi_io_gpu *gpu, uint64_t peer, uint64_t links, const struct sfi_xml *at,
                    struct sf_err *err) {
    size_t i = 0;
    while (i < gpu->peers_n && gpu->peers[i] != peer) {
        i++;
    }
    if (i == SFI_IO_MAX_CHIPS || links > 128 || gpu->peer_links + links > 128) {
        return sfi_xml_fail(at, err, "expected at most 128 NVLinks of a GPU, to at most %d other GPUs",
                            SFI_IO_MAX_CHIPS);
    }
    gpu->peers_n += i == gpu->peers_n;
    gpu->peers[i] = peer;
    gpu->peer_count[i] += (uint32_t)links;
    gpu->peer_links += (uint32_t)links;
    return 0;
}

uint64_t sfi_io_name(const char *text) {
    uint64_t h = UINT64_C(14695981039346656037); /* FNV-1a */
    for (const char *c = text; *c != '\0'; c++) {
        unsigned char low = *c >= 'A' && *c <= 'Z' ? (unsigned char)(*c - 'A' + 'a') : (unsigned char)*c;
        h = (h ^ low) * UINT64_C(1099511628211);
    }
    return h;
}

void sfi_io_note(struct sf_topo_found *f, const char *fmt, ...) {
    char line[512];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    size_t used = strlen(f->notes);
    if (n > 0 && (size_t)n < sizeof line && used + (size_t)n + 2 <= sizeof f->notes) {
        snprintf(f->notes + used, sizeof f->notes - used, "%s\n", line);
    }
}

static bool is_plain(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
}

int sfi_io_take_name(const char *what, const char *wish, char *out, size_t size, struct sf_err *err) {
    size_t n = strlen(wish);
    bool plain = n > 0 && n < size && wish[0] != '-';
    for (size_t i = 0; plain && i < n; i++) {
        plain = is_plain(wish[i]) || wish[i] == '/';
    }
    if (!plain) {
        return sf_fail(
            err, SF_E_INPUT,
            "expected the %s as a catalog name or path of 1 to %zu letters, digits and ._-/, found \"%.60s\"", what,
            size - 1, wish);
    }
    memcpy(out, wish, n + 1);
    return 0;
}

int sfi_io_take_title(const char *path, const char *wish, char out[64], struct sf_err *err) {
    if (wish != NULL) {
        SF_TRY(sfi_io_take_name("cluster's name", wish, out, 64, err));
        return 0;
    }
    const char *slash = strrchr(path, '/'), *from = slash != NULL ? slash + 1 : path, *dot = strrchr(from, '.');
    size_t n = dot != NULL && dot != from ? (size_t)(dot - from) : strlen(from), used = 0;
    for (size_t i = 0; i < n && used < 63; i++) {
        bool plain = is_plain(from[i]) && (used > 0 || from[i] != '-');
        out[used++] = plain ? from[i] : '_';
    }
    out[used] = '\0';
    if (used == 0) {
        snprintf(out, 64, "imported");
    }
    return 0;
}

/* ---- what the GPUs are ---- */

static int fail_at(const struct sfi_io_node *node, struct sfi_io_place at, struct sf_err *err, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static int fail_at(const struct sfi_io_node *node, struct sfi_io_place at, struct sf_err *err, const char *fmt, ...) {
    char msg[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(msg, sizeof msg, fmt, args);
    va_end(args);
    return sf_fail_at(err, SF_E_INPUT, node->file, at.line, at.column, "%s", msg);
}

/* A node of unlike GPUs has no class; links that are down belong into an overlay over the whole node. */
static int check_alike(const struct sfi_io_node *node, struct sf_err *err) {
    const struct sfi_io_gpu *a = &node->gpus[0];
    for (size_t i = 1; i < node->gpus_n; i++) {
        const struct sfi_io_gpu *b = &node->gpus[i];
        const struct {
            const char *what;
            uint32_t first, here;
        } rows[] = {{"compute capability", a->sm, b->sm},
                    {"PCI device", a->device, b->device},
                    {"NVLinks to switch chips", a->nvlinks, b->nvlinks},
                    {"NVLinks to other GPUs", a->peer_links, b->peer_links},
                    {"switch chips", a->chips_n, b->chips_n},
                    {"NVLink-C2C", a->c2c, b->c2c},
                    {"MB/s of the way to the CPU", (uint32_t)(a->pcie_bytes_per_s / 1000000),
                     (uint32_t)(b->pcie_bytes_per_s / 1000000)}};
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
            if (rows[r].first != rows[r].here) {
                return fail_at(node, b->at, err,
                               "expected GPUs that are all alike: %s is %u here and %u at the first GPU (line %u); "
                               "import the whole node and mark what is down in an overlay",
                               rows[r].what, rows[r].here, rows[r].first, a->at.line);
            }
        }
    }
    return 0;
}

static int ask_device(const struct sfi_io_node *node, struct sf_err *err) {
    const struct sfi_io_gpu *g = &node->gpus[0];
    const struct sfi_known_gpu *known = sfi_known_gpu(g->vendor, g->device);
    if (known != NULL) {
        return fail_at(node, g->at, err, "the catalog has no %s (PCI device 0x%04x): name a device with --device",
                       known->name, g->device);
    }
    if (g->device != 0) {
        return fail_at(node, g->at, err, "PCI device 0x%04x:0x%04x%s%s%s is unknown: name its device with --device",
                       g->vendor, g->device, g->model[0] != '\0' ? " (" : "", g->model, g->model[0] != '\0' ? ")" : "");
    }
    if (g->sm != 0) {
        return fail_at(node, g->at, err,
                       "sm %u without a PCI device may be several GPUs: name one with --device, for instance %s", g->sm,
                       g->sm == 90   ? "h100 or h200"
                       : g->sm == 80 ? "a100"
                                     : "gb300");
    }
    return fail_at(node, g->at, err, "the file does not say which GPU this is: name it with --device");
}

static int choose_device(const struct sfi_io_node *node, const char *wish, struct sf_topo_found *f,
                         struct sf_err *err) {
    const struct sfi_io_gpu *g = &node->gpus[0];
    const struct sfi_known_gpu *known = sfi_known_gpu(g->vendor, g->device);
    if (wish != NULL) {
        if (known != NULL && (known->family == NULL || strcmp(known->family, wish) != 0)) {
            sfi_io_note(f, "The GPUs are %s in the file, %s by wish.", known->name, wish);
        }
        return sfi_io_take_name("device", wish, f->device, sizeof f->device, err);
    }
    if (known == NULL || known->family == NULL) {
        return ask_device(node, err);
    }
    const struct sfi_known_family *family = sfi_known_family(known->family);
    if (g->sm != 0 && family != NULL && family->sm != g->sm) {
        return fail_at(node, g->at, err,
                       "PCI device 0x%04x (%s) has sm %u, but the file says sm %u: name the device "
                       "with --device",
                       g->device, known->name, family->sm, g->sm);
    }
    snprintf(f->device, sizeof f->device, "%s", known->family);
    return 0;
}

/* ---- how they are joined ---- */

static bool is_gpu(const struct sfi_io_node *node, uint64_t name, size_t *index) {
    for (*index = 0; *index < node->gpus_n; ++*index) {
        if (sfi_io_name(node->gpus[*index].bus) == name) {
            return true;
        }
    }
    return false;
}

/* Every GPU has as many links to each other one. */
static int all_peers(const struct sfi_io_node *node, struct sf_err *err) {
    uint32_t links = node->gpus[0].peer_count[0];
    for (size_t i = 0; i < node->gpus_n; i++) {
        const struct sfi_io_gpu *g = &node->gpus[i];
        size_t peer;
        if (g->chips_n > 0 || g->peers_n + 1 != node->gpus_n) {
            return fail_at(node, g->at, err,
                           "expected NVLinks to switch chips or to all %zu other GPUs, found links to %u of them: a "
                           "domain whose GPUs do not all meet cannot be described",
                           node->gpus_n - 1, g->peers_n);
        }
        for (uint32_t k = 0; k < g->peers_n; k++) {
            if (!is_gpu(node, g->peers[k], &peer) || peer == i) {
                return fail_at(node, g->at, err, "expected NVLinks to other GPUs of this file, found one to %s",
                               is_gpu(node, g->peers[k], &peer) ? "itself" : "a GPU that it does not hold");
            }
            if (g->peer_count[k] != links) {
                return fail_at(node, g->at, err,
                               "expected as many NVLinks between any two GPUs, found %u to GPU %zu and %u between the "
                               "first two: such a domain cannot be described",
                               g->peer_count[k], peer, links);
            }
        }
    }
    return 0;
}

static bool meets(const struct sfi_io_gpu *g, uint64_t chip) {
    for (uint32_t i = 0; i < g->chips_n; i++) {
        if (g->chips[i] == chip) {
            return true;
        }
    }
    return false;
}

static size_t like_it(const struct sfi_io_node *node, const struct sfi_io_gpu *g) {
    size_t n = 0;
    for (size_t i = 0; i < node->gpus_n; i++) {
        uint32_t c = 0;
        while (c < g->chips_n && meets(&node->gpus[i], g->chips[c])) {
            c++;
        }
        n += c == g->chips_n;
    }
    return n;
}

/* As many chips are not yet the same ones. Boards of equal size may have their own: what joins those is not in the
 * file.
 */
static int same_chips(const struct sfi_io_node *node, struct sf_err *err) {
    size_t board = like_it(node, &node->gpus[0]);
    for (size_t i = 0; i < node->gpus_n && node->gpus_n > 1 && !node->chips_hidden; i++) {
        size_t here = like_it(node, &node->gpus[i]);
        if (here != board || here < 2) {
            return fail_at(
                node, node->gpus[i].at, err,
                "expected GPUs that have NVLinks to the same switch chips, all of them or boards of as many, "
                "found chips that %zu of %zu GPUs share, and %zu those of the first GPU (line %u): such a "
                "domain cannot be described",
                here, node->gpus_n, board, node->gpus[0].at.line);
        }
    }
    return 0;
}

static int ask_link(const struct sfi_io_node *node, const struct sf_topo_found *f, struct sf_err *err) {
    return fail_at(node, node->gpus[0].at, err, "no link class is known for %s: name one with --link", f->device);
}

/* The file shows no NVLinks and would if there were any: the GPUs meet over PCI Express. */
static int join_by_pcie(const struct sfi_io_node *node, struct sf_topo_found *f, struct sf_err *err) {
    const char *pcie = sfi_known_pcie(node->gpus[0].pcie_bytes_per_s);
    f->links_per_gpu = 1;
    f->nvswitches = 0;
    if (f->link[0] == '\0' && pcie == NULL) {
        return ask_link(node, f, err);
    }
    if (f->link[0] == '\0') {
        snprintf(f->link, sizeof f->link, "%s", pcie);
    }
    sfi_io_note(f, "The file shows no NVLinks: the GPUs meet over PCI Express.");
    return 0;
}

/* Files made for a cloud's machines leave NVLinks to NCCL. */
static int join_by_family(const struct sfi_io_node *node, const struct sfi_known_family *family,
                          struct sf_topo_found *f, struct sf_err *err) {
    if (family == NULL) {
        return fail_at(node, node->gpus[0].at, err,
                       "the file names no NVLinks and nothing is known about those of %s: dump the topology on the "
                       "machine (NCCL_TOPO_DUMP_FILE)",
                       f->device);
    }
    f->links_per_gpu = family->lanes;
    f->nvswitches = family->chips;
    sfi_io_note(f, "The file names no NVLinks: %u links to %u switch chips are usual for %s.", family->lanes,
                family->chips, family->device);
    return 0;
}

/* Of all GPUs, each once. */
static size_t count_chips(const struct sfi_io_node *node) {
    uint64_t seen[4 * SFI_IO_MAX_CHIPS];
    size_t n = 0;
    for (size_t i = 0; i < node->gpus_n; i++) {
        const struct sfi_io_gpu *g = &node->gpus[i];
        for (uint32_t c = 0; c < g->chips_n && n < sizeof seen / sizeof *seen; c++) {
            size_t k = 0;
            while (k < n && seen[k] != g->chips[c]) {
                k++;
            }
            seen[k] = g->chips[c];
            n += k == n;
        }
    }
    return n;
}

static void join_by_chips(const struct sfi_io_node *node, const struct sfi_known_family *family,
                          struct sf_topo_found *f) {
    const struct sfi_io_gpu *g = &node->gpus[0];
    f->links_per_gpu = g->nvlinks;
    f->nvswitches = g->chips_n;
    if (!node->chips_hidden) {
        size_t all = count_chips(node);
        if (all > g->chips_n) {
            sfi_io_note(f,
                        "Each GPU has links to %u of %zu switch chips; those that it does not meet are left "
                        "out, and that the others are joined to them is assumed.",
                        g->chips_n, all);
        }
        return;
    }
    f->nvswitches = family != NULL && family->chips <= g->nvlinks ? family->chips : 1;
    sfi_io_note(f, "The file does not tell the switch chips apart: %u assumed.", f->nvswitches);
}

static int choose_link(const struct sfi_io_node *node, const struct sf_topo_wishes *w, struct sf_topo_found *f,
                       struct sf_err *err) {
    const struct sfi_io_gpu *g = &node->gpus[0];
    const struct sfi_known_family *family = sfi_known_family(f->device);
    if (w->link != NULL) {
        SF_TRY(sfi_io_take_name("link class", w->link, f->link, sizeof f->link, err));
    }
    if (g->nvlinks == 0 && g->peer_links == 0 && node->tells_nvlinks) {
        return join_by_pcie(node, f, err);
    }
    if (g->peer_links > 0) {
        SF_TRY(all_peers(node, err));
        f->links_per_gpu = g->peer_links;
        f->nvswitches = 0;
    } else if (g->nvlinks > 0) {
        SF_TRY(same_chips(node, err));
        join_by_chips(node, family, f);
    } else {
        SF_TRY(join_by_family(node, family, f, err));
    }
    const char *link = family != NULL ? family->link : sfi_known_link_of_sm(g->sm);
    if (f->link[0] == '\0' && link == NULL) {
        return ask_link(node, f, err);
    }
    if (f->link[0] == '\0') {
        snprintf(f->link, sizeof f->link, "%s", link);
    }
    return 0;
}

static void choose_cpu_link(const struct sfi_io_node *node, struct sf_topo_found *f) {
    const struct sfi_io_gpu *g = &node->gpus[0];
    const struct sfi_known_family *family = sfi_known_family(f->device);
    const char *usual = family != NULL ? family->cpu_link : NULL;
    const char *link = g->c2c ? "nvlink-c2c" : sfi_known_pcie(g->pcie_bytes_per_s);
    if (usual != NULL && (strcmp(usual, "nvlink-c2c") == 0 || (link == NULL && g->pcie_bytes_per_s == 0))) {
        link = usual; /* few files show NVLink-C2C; where there is PCI Express besides, nobody uses it */
    }
    f->pcie_bytes_per_s = g->pcie_bytes_per_s;
    if (link == NULL) {
        sfi_io_note(f, "No link class of the catalog fits the GPUs' way to their CPUs (%.1f GB/s): left out.",
                    (double)g->pcie_bytes_per_s / 1e9);
        return;
    }
    snprintf(f->cpu_link, sizeof f->cpu_link, "%s", f->cpus_per_tray > 0 ? link : "");
}

/* ---- NICs ---- */

static const char *class_of_nic(const struct sfi_io_nic *nic) {
    const char *by_rate = nic->bytes_per_s > 0 ? sfi_known_nic_of_rate(nic->bytes_per_s, nic->ethernet) : NULL;
    return by_rate != NULL         ? by_rate
           : nic->bytes_per_s == 0 ? sfi_known_nic(nic->vendor, nic->device, nic->ethernet)
                                   : NULL;
}

/* The rate that most NICs have, of equals the higher one. */
static uint64_t usual_rate(const struct sfi_io_node *node, uint32_t *n) {
    uint64_t rate = 0;
    *n = 0;
    for (size_t i = 0; i < node->nics_n; i++) {
        uint64_t here = node->nics[i].bytes_per_s;
        uint32_t same = 0;
        for (size_t k = 0; k < node->nics_n; k++) {
            same += node->nics[k].bytes_per_s == here;
        }
        if (same > *n || (same == *n && here > rate)) {
            *n = same;
            rate = here;
        }
    }
    return rate;
}

/* A node has others besides, for storage and management; those of which there are most make the training network. */
static int choose_nic(const struct sfi_io_node *node, const struct sf_topo_wishes *w, struct sf_topo_found *f,
                      struct sf_err *err) {
    const char *class = NULL;
    f->nic_bytes_per_s = usual_rate(node, &f->nics);
    for (size_t i = 0; i < node->nics_n && class == NULL; i++) {
        class = node->nics[i].bytes_per_s == f->nic_bytes_per_s ? class_of_nic(&node->nics[i]) : NULL;
    }
    if (f->nics < node->nics_n) {
        sfi_io_note(f, "%zu NICs of other rates are left out.", node->nics_n - f->nics);
    }
    if (w->nic != NULL) {
        return sfi_io_take_name("NIC", w->nic, f->nic, sizeof f->nic, err);
    }
    snprintf(f->nic, sizeof f->nic, "%s", class != NULL ? class : "");
    if (f->nic_bytes_per_s == 0 && class != NULL) {
        f->nic_bytes_per_s = sfi_known_nic_rate(class);
    }
    if (f->nics == 0) {
        return 0;
    }
    char rate[64] = "of unknown rate";
    if (f->nic_bytes_per_s > 0) {
        snprintf(rate, sizeof rate, "of %llu Gb/s", (unsigned long long)(f->nic_bytes_per_s / 125000000));
    }
    if (f->nics == node->gpus_n) {
        sfi_io_note(f, "%u NICs %s. For several such nodes set domains and add nic: %s, rails: %u and a fabric.",
                    f->nics, rate, class != NULL ? class : "(a link class)", f->nics);
    } else {
        sfi_io_note(f, "%u NICs %s for %zu GPUs; a cluster of several nodes has one NIC per GPU here.", f->nics, rate,
                    node->gpus_n);
    }
    return 0;
}

int sfi_io_describe(const struct sfi_io_node *node, const struct sf_topo_wishes *wishes, struct sf_topo_found *out,
                    struct sf_err *err) {
    *out = (struct sf_topo_found){.kind = "node", .domains = 1, .trays = 1};
    SF_TRY(sfi_io_take_title(node->file, wishes->name, out->name, err));
    sfi_io_note(out, "Imported: one node, from %s.", node->format);
    SF_TRY(check_alike(node, err));
    out->gpus_per_tray = (uint32_t)node->gpus_n;
    out->cpus_per_tray = node->cpus < 1024 ? node->cpus : 1024;
    if (node->least_gpus < node->most_gpus) {
        sfi_io_note(out, "CPUs have %u to %u GPUs each; here they share them evenly.", node->least_gpus,
                    node->most_gpus);
    }
    SF_TRY(choose_device(node, wishes->device, out, err));
    SF_TRY(choose_link(node, wishes, out, err));
    choose_cpu_link(node, out);
    return choose_nic(node, wishes, out, err);
}
