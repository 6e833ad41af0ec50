/* What the readers of node files share: the parts found, then what they are in our catalog's terms. */
#ifndef SF_TOPO_TOPO_IO_IMPORT_H
#define SF_TOPO_TOPO_IO_IMPORT_H

#include <stdbool.h>

#include "topo/topo_io_formats.h"
#include "topo/topo_io_xml.h"

#define SFI_IO_MAX_PARTS 4096 /* GPUs, NICs, switch chips of a node; each */
#define SFI_IO_MAX_CHIPS 64   /* that one GPU may have NVLinks to */

struct sfi_io_place {
    uint32_t line, column;
};

struct sfi_io_gpu {
    struct sfi_io_place at;
    char bus[32];
    uint32_t vendor, device; /* PCI; 0: not said */
    uint32_t sm;             /* 0: not said */
    uint32_t nvlinks;        /* to switch chips */
    uint32_t chips_n;        /* that they go to */
    uint64_t chips[SFI_IO_MAX_CHIPS];
    uint32_t peer_links; /* NVLinks straight to other GPUs */
    uint32_t peers_n;    /* that they go to */
    uint64_t peers[SFI_IO_MAX_CHIPS];
    uint32_t peer_count[SFI_IO_MAX_CHIPS]; /* of links to each */
    uint64_t pcie_bytes_per_s;             /* the narrowest link on the way to its CPU; 0: not said */
    bool c2c;
    char model[64]; /* as the file calls it; "" */
};

struct sfi_io_nic {
    struct sfi_io_place at;
    uint32_t vendor, device;
    uint64_t bytes_per_s; /* 0: not said */
    bool ethernet;        /* else InfiniBand */
};

/* One node, as far as its file tells. */
struct sfi_io_node {
    const char *file;
    const char *format; /* "NCCL topology XML" */
    struct sfi_io_gpu *gpus;
    struct sfi_io_nic *nics;
    size_t gpus_n, nics_n;
    uint32_t cpus;
    uint32_t least_gpus, most_gpus; /* of a CPU that has any; 0: not said */
    bool chips_hidden;              /* some NVLinks go to chips that the file does not tell apart */
    bool tells_nvlinks;             /* a file of this kind would show NVLinks if there were any */
};

/* Append one part; NULL after an error, which names the limit at the element. */
struct sfi_io_gpu *sfi_io_add_gpu(struct sf_arena *arena, struct sfi_io_node *node, const struct sfi_xml *at,
                                  struct sf_err *err);
struct sfi_io_nic *sfi_io_add_nic(struct sf_arena *arena, struct sfi_io_node *node, const struct sfi_xml *at,
                                  struct sf_err *err);
/* NVLinks of a GPU to a chip. */
int sfi_io_add_chip(struct sfi_io_gpu *gpu, uint64_t chip, uint64_t links, const struct sfi_xml *at,
                    struct sf_err *err);

/* NVLinks of a GPU straight to another one. */
int sfi_io_add_peer(struct sfi_io_gpu *gpu, uint64_t peer, uint64_t links, const struct sfi_xml *at,
                    struct sf_err *err);
/* Names of parts only need to be told apart; spellings of one PCI address are one. */
uint64_t sfi_io_name(const char *text);

int sfi_nccl_read(struct sf_arena *arena, const struct sfi_xml *root, struct sfi_io_node *out, struct sf_err *err);
int sfi_hwloc_read(struct sf_arena *arena, const struct sfi_xml *root, struct sfi_io_node *out, struct sf_err *err);

/* The node in our terms. Every GPU must be like the first, and what is not known must have been wished for. */
int sfi_io_describe(const struct sfi_io_node *node, const struct sf_topo_wishes *wishes, struct sf_topo_found *out,
                    struct sf_err *err);
/* The same for a whole cluster. */
int sfi_infra_read(const char *text, size_t bytes, const char *path, const struct sf_topo_wishes *wishes,
                   struct sf_topo_found *out, struct sf_err *err);

/* Add a line to the notes; a line that does not fit is left out. */
void sfi_io_note(struct sf_topo_found *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A wish as a catalog name or path; fails when it holds more than letters, digits and ._-/ or is too long. */
int sfi_io_take_name(const char *what, const char *wish, char *out, size_t size, struct sf_err *err);
/* The cluster's name: the wish, or the file's without folder and suffix, made of letters, digits, ._- */
int sfi_io_take_title(const char *path, const char *wish, char out[64], struct sf_err *err);

void sfi_io_print_cluster(const struct sf_topo_found *f, struct sf_buf *out);

/* So many domains like the one that is described in `f`. */
void sfi_io_group(const struct sf_topo_found *f, uint32_t domains, struct sf_topo_group *out);

#endif
