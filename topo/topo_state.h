/* What a loaded topology holds. Private to topo/ and its tests. */
#ifndef SF_TOPO_TOPO_STATE_H
#define SF_TOPO_TOPO_STATE_H

#include <stdbool.h>

#include "core/doc.h"
#include "topo/topo.h"

#define SFI_MAX_SEATS (1u << 24)
#define SFI_MAX_PORTS 1024
/* Every number of one device (13) and its kernels (7), three links (4 each) and a switch (4). */
#define SFI_MAX_SOURCES 40

struct sfi_domain { /* one scale-up domain */
    uint32_t trays, gpus_per_tray, cpus_per_tray;
    uint32_t gpus; /* trays * gpus_per_tray */
    uint32_t nvswitches;
    uint32_t lanes; /* per GPU */
};

struct sfi_switch {
    char name[32];
    uint32_t ports;
    uint64_t port_bytes_per_s;
    sf_time_ps hop_ps;         /* one switch more on the way */
    sf_time_ps cable_ps_per_m; /* of the cables between them */
    enum sf_grade grade;
};

/* All zero when there is one domain. */
struct sfi_fabric {
    uint32_t tiers, rails;
    uint32_t rail_nics;          /* of one domain on one rail */
    uint32_t leaf_down, leaf_up; /* ports of a leaf */
    uint32_t group_domains;      /* domains that one set of rail leaves serves */
    uint32_t groups, groups_per_pod, pods;
    uint32_t leaves;
    uint32_t pod_spines, spine_down, spine_up;
    uint32_t spine_cables;  /* parallel ones between a leaf and a spine */
    uint32_t plane_cores;   /* cores that spine s of every pod meets */
    uint32_t core_cables;   /* parallel ones between a spine and a core */
    sf_time_ps cable_ps[3]; /* delay of a NIC-leaf, leaf-spine, spine-core cable */
};

struct sf_topo {
    char name[64];
    char kind[32]; /* of the domain, for people */
    struct sf_device_class device;
    struct sf_link_class up, cpu, out; /* cpu and out have no name when absent */
    struct sfi_switch fabric_switch;
    struct sfi_domain domain;
    struct sfi_fabric fabric;
    uint32_t domains, seats, in_use;
    struct sf_topo_coll coll;
    struct sf_source sources[SFI_MAX_SOURCES];
    size_t sources_n;
};

/* Catalog files. `ref` is the node that names one: a catalog name, or a path ending in .yaml relative to `base`, the
 * cluster file. Each adds its numbers to t->sources. */
struct sfi_catalog {
    const struct sf_io *io;
    const char *dir, *base;
    struct sf_topo *t;
};
int sfi_catalog_device(const struct sfi_catalog *c, const struct sf_node *ref, struct sf_device_class *out,
                       struct sf_err *err);
/* The file of kernels/ that a device names; topo_kernels.c. */
int sfi_catalog_kernels(const struct sfi_catalog *c, const struct sf_node *ref, struct sf_kernel_model *out,
                        struct sf_err *err);
/* The file of nccl/ that a device names, and the wishes of a cluster file; topo_coll.c. */
int sfi_catalog_collectives(const struct sfi_catalog *c, const struct sf_node *ref, struct sf_err *err);
int sfi_coll_wishes(struct sf_topo *t, const struct sf_node *map, struct sf_err *err);
/* Open the file that `ref` names in a folder of the catalog. */
int sfi_catalog_open(const struct sfi_catalog *c, const char *folder, const struct sf_node *ref, struct sf_doc **doc,
                     struct sf_err *err);
/* `map` is {..., source, grade}: note both under owner.key, with `value` as what was said. */
int sfi_catalog_note(struct sf_topo *t, const char *owner, const char *key, const struct sf_node *map,
                     const char *value, enum sf_grade *grade, struct sf_err *err);
int sfi_catalog_link(const struct sfi_catalog *c, const struct sf_node *ref, struct sf_link_class *out,
                     struct sf_err *err);
int sfi_catalog_switch(const struct sfi_catalog *c, const struct sf_node *ref, struct sfi_switch *out,
                       struct sf_err *err);

/* Read the fabric section and derive its geometry; domains, domain, in_use and out are already set. */
int sfi_fabric_load(const struct sfi_catalog *c, const struct sf_node *root, struct sf_err *err);
int sfi_read_count(const struct sf_node *map, const char *key, uint32_t lo, uint32_t hi, uint32_t *out,
                   struct sf_err *err);

/* Where a GPU's NIC plugs in. Only with a fabric. */
struct sfi_seat {
    uint32_t rail, group, pod;
    uint32_t leaf; /* across the cluster */
    uint32_t leaf_in_pod;
    uint32_t port; /* on the leaf, below leaf_down */
};
struct sfi_seat sfi_seat_of(const struct sf_topo *t, uint32_t gpu);

/* X(NAME, "name") */
#define SFI_NODES(X)                                                                                                   \
    X(GPU, "gpu")                                                                                                      \
    X(CPU, "cpu")                                                                                                      \
    X(NVSWITCH, "nvswitch")                                                                                            \
    X(MEMORY, "memory of domain") /* what a domain without switch chips shares */                                      \
    X(LEAF, "leaf")                                                                                                    \
    X(SPINE, "spine")                                                                                                  \
    X(CORE, "core")
enum sfi_node_kind {
#define X(NAME, name) SFI_NODE_##NAME,
    SFI_NODES(X)
#undef X
};
struct sfi_end {
    enum sfi_node_kind kind;
    uint64_t index; /* across the cluster */
};
/* Both ends of a link, in the direction of its traffic; false when there is no such link. */
bool sfi_link_ends(const struct sf_topo *t, sf_link link, struct sfi_end *from, struct sfi_end *to);

/* Closed form; sf_topo_check counts it again on the links. */
uint64_t sfi_bisection_links(const struct sf_topo *t);

#endif
