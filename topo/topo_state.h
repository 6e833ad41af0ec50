/* What a loaded topology holds. Private to topo/ and its tests. */
#ifndef SF_TOPO_TOPO_STATE_H
#define SF_TOPO_TOPO_STATE_H

#include <stdbool.h>

#include "core/doc.h"
#include "topo/topo.h"

#define SFI_MAX_SEATS (1u << 24)
#define SFI_MAX_PORTS 4096
#define SFI_MAX_LANES 128 /* of one GPU */
#define SFI_MAX_STOCKS 16
#define SFI_MAX_PLANES 4
#define SFI_MAX_SOURCES 512        /* every number of 16 devices, their kernels and links would be about 400 */
#define SFI_MAX_OVERLAY (1u << 16) /* ranges that an overlay may name */

struct sfi_domain { /* one scale-up domain */
    uint32_t trays, gpus_per_tray, cpus_per_tray;
    uint32_t gpus; /* trays * gpus_per_tray; the same in every stock, so that a seat tells its domain */
    uint32_t nvswitches;
    uint32_t lanes;  /* per GPU */
    uint32_t in_use; /* its first seats; the others stay empty */
};

struct sfi_stock { /* a run of domains of one kind */
    char kind[32]; /* for people */
    struct sf_device_class device;
    struct sf_link_class up, cpu, out; /* cpu and out have no name when absent */
    struct sfi_domain domain;
    uint32_t domains, first_domain;
    uint64_t first_lane, first_nvswitch, first_cpu; /* numbers of its first parts across the cluster */
    uint64_t slots_before;                          /* seats not left empty, of the stocks before it */
    bool starts_group, starts_pod;                  /* leaves what the stock before it did not fill */
    uint32_t alike;                                 /* the first stock whose GPUs are worth the same */
    char coll_model[1024];
};

/* Domains that fill groups one after the other, and groups that fill pods. A stock may begin a new one. */
struct sfi_block {
    uint32_t first_domain, first_group;
    uint32_t pod_group, first_pod; /* where pods were last begun anew */
};

/* One plane; all are alike. All zero when there is one domain. */
struct sfi_fabric {
    uint32_t tiers, rails, planes;
    uint32_t radix;              /* cables that fit a switch: ports, split as finely as planes ask and ports allow */
    uint32_t rail_nics;          /* of one domain on one rail */
    uint32_t leaf_down, leaf_up; /* ports of a leaf */
    uint32_t group_domains;      /* domains that one set of rail leaves serves */
    uint32_t groups, groups_per_pod, pods;
    uint32_t leaves;
    uint32_t pod_spines, spine_down, spine_up;
    uint32_t spine_cables;  /* parallel ones between a leaf and a spine */
    uint32_t slice_cores;   /* cores that spine s of every pod meets */
    uint32_t core_cables;   /* parallel ones between a spine and a core */
    sf_time_ps cable_ps[3]; /* delay of a NIC-leaf, leaf-spine, spine-core cable */
    uint32_t wide;          /* stock with the fastest NIC; cables between switches have its rate */
    uint32_t blocks_n;
    struct sfi_block blocks[SFI_MAX_STOCKS];
};

/* Health of numbered things, as disjoint ascending ranges; what no range names is well. */
#define SFI_WELL 1000000u /* parts per million of the rate */
struct sfi_range {
    uint64_t lo, hi; /* both in it */
    uint32_t ppm;    /* 0: dead */
    uint32_t line, column;
};
struct sfi_ranges {
    struct sfi_range *r;
    uint32_t n, capacity;
};
/* Sets 0 .. SF_LINK_KINDS_N - 1 are links of that kind. */
enum sfi_set {
    SFI_SET_DEAD_GPU = SF_LINK_KINDS_N,
    SFI_SET_SPARE_GPU,
    SFI_SET_NVSWITCH,
    SFI_SET_LEAF,
    SFI_SET_SPINE,
    SFI_SET_CORE,
    SFI_SETS_N
};
struct sfi_out { /* seats that nobody may use, dead or spare */
    uint64_t lo, hi;
    uint64_t slots_gone; /* seats not left empty in this range and all before it */
};
struct sfi_overlay {
    char file[256];
    struct sfi_ranges set[SFI_SETS_N];
    struct sfi_out *out;
    uint32_t out_n;
    uint64_t spare_domains;
    uint32_t *leaf_ppm;         /* sums over the cables of leaf i: 2 * i up, 2 * i + 1 down; NULL: all is well */
    uint64_t *pod_ppm;          /* the same of pod i, numbered plane by plane */
    uint64_t crossing_ppm[2];   /* of cables: what spines carry over the middle of the groups, there and back */
    bool any, interior, nvlink; /* something is named at all, between leaves and cores, in a domain */
};

struct sf_topo {
    char name[64];
    uint32_t stocks_n;
    struct sfi_stock stock[SFI_MAX_STOCKS];
    struct sf_switch_class fabric_switch;
    struct sfi_fabric fabric;
    uint32_t domains, seats, in_use;
    uint32_t wanted; /* GPUs that the cluster file asks for; 0: all there are */
    enum sf_routing routing;
    uint64_t seed;
    struct sf_topo_coll coll;
    struct sfi_overlay overlay;
    struct sf_source *sources;
    size_t sources_n;
};

/* Catalog files. `ref` is the node that names one: a catalog name, or a path ending in .yaml relative to `base`, the
 * cluster file. Each adds its numbers to t->sources. */
struct sfi_catalog {
    const struct sf_io *io;
    const char *dir, *base;
    struct sf_topo *t;
};
int sfi_catalog_device(const struct sfi_catalog *c, const struct sf_node *ref, struct sfi_stock *out,
                       struct sf_err *err);
/* The file of kernels/ that a device names; topo_kernels.c. */
int sfi_catalog_kernels(const struct sfi_catalog *c, const struct sf_node *ref, struct sf_kernel_model *out,
                        struct sf_err *err);
/* The file of nccl/ that a device names, and the wishes of a cluster file; topo_coll.c. */
int sfi_catalog_collectives(const struct sfi_catalog *c, const struct sf_node *ref, struct sfi_stock *out,
                            struct sf_err *err);
int sfi_coll_wishes(struct sf_topo *t, const struct sf_node *map, struct sf_err *err);
/* Open the file that `ref` names in a folder of the catalog. */
int sfi_catalog_open(const struct sfi_catalog *c, const char *folder, const struct sf_node *ref, struct sf_doc **doc,
                     struct sf_err *err);
/* `name` as a path: relative to the folder of `base`. */
int sfi_beside(const char *base, const struct sf_node *ref, const char *name, char *path, size_t size,
               struct sf_err *err);
/* `map` is {..., source, grade}: note both under owner.key, with `value` as what was said. */
int sfi_catalog_note(struct sf_topo *t, const char *owner, const char *key, const struct sf_node *map,
                     const char *value, enum sf_grade *grade, struct sf_err *err);
int sfi_catalog_link(const struct sfi_catalog *c, const struct sf_node *ref, struct sf_link_class *out,
                     struct sf_err *err);
int sfi_catalog_switch(const struct sfi_catalog *c, const struct sf_node *ref, struct sf_switch_class *out,
                       struct sf_err *err);

/* What the cluster is made of: one stock, or the list under `groups`. Sets stocks, domains and seats. */
int sfi_stocks_load(const struct sfi_catalog *c, const struct sf_node *root, struct sf_err *err);
/* Read the fabric section and derive its geometry; the stocks are already there. */
int sfi_fabric_load(const struct sfi_catalog *c, const struct sf_node *root, struct sf_err *err);
/* The overlay that a cluster file holds or names; `root` is the cluster file's. Then counts the seats in use. */
int sfi_overlay_load(const struct sfi_catalog *c, const struct sf_node *root, struct sf_err *err);
void sfi_overlay_free(struct sfi_overlay *o);
int sfi_read_count(const struct sf_node *map, const char *key, uint32_t lo, uint32_t hi, uint32_t *out,
                   struct sf_err *err);
int sfi_read_name(const struct sf_node *map, const char *key, char *out, size_t size, struct sf_err *err);

/* ---- where things are ---- */

const struct sfi_stock *sfi_stock_of_domain(const struct sf_topo *t, uint64_t domain);
const struct sfi_stock *sfi_stock_of_gpu(const struct sf_topo *t, uint64_t gpu);
/* Seats below `gpu` that are not left empty, and among them those that are neither dead nor spare. */
uint64_t sfi_slots_before(const struct sf_topo *t, uint64_t gpu);
uint64_t sfi_seats_before(const struct sf_topo *t, uint64_t gpu);

struct sfi_run {
    uint32_t first, n;
};
struct sfi_run sfi_group_domains(const struct sf_topo *t, uint32_t group);
struct sfi_run sfi_pod_groups(const struct sfi_fabric *f, uint32_t pod);
uint32_t sfi_pod_of_group(const struct sfi_fabric *f, uint32_t group);

/* Where a GPU's NIC plugs in, in every plane alike. Only with a fabric. */
struct sfi_seat {
    uint32_t rail, group, pod;
    uint32_t leaf; /* of the plane */
    uint32_t leaf_in_pod;
    uint32_t port; /* on the leaf, below leaf_down */
};
struct sfi_seat sfi_seat_of(const struct sf_topo *t, uint32_t gpu);

/* Numbers across the cluster of things of one plane. */
uint64_t sfi_plane_spines(const struct sfi_fabric *f);
uint64_t sfi_plane_cores(const struct sfi_fabric *f);

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
        SFI_NODES_N
};
struct sfi_end {
    enum sfi_node_kind kind;
    uint64_t index; /* across the cluster */
};
/* Both ends of a link, in the direction of its traffic; false when there is no such link. */
bool sfi_link_ends(const struct sf_topo *t, sf_link link, struct sfi_end *from, struct sfi_end *to);
bool sfi_link_goes_down(int kind);
const char *sfi_link_kind_name(int kind);
/* Links of a node that share a number space ("17:3"); 1 where the node has just one. NVLink: of the first stock. */
uint32_t sfi_link_ports(const struct sf_topo *t, int kind);
/* GPUs without a link to a CPU have no number; false for them. */
bool sfi_c2c_index(const struct sf_topo *t, uint64_t gpu, uint64_t *out);
uint64_t sfi_node_count(const struct sf_topo *t, enum sfi_node_kind kind);
/* What one cable between switches carries when it is well. */
uint64_t sfi_interior_rate(const struct sf_topo *t);

/* ---- health ---- */

/* Parts per million of one thing, and the sum of what is missing over lo .. hi. */
uint32_t sfi_ppm(const struct sfi_ranges *s, uint64_t index);
uint64_t sfi_missing(const struct sfi_ranges *s, uint64_t lo, uint64_t hi);
const struct sfi_range *sfi_range_at(const struct sfi_ranges *s, uint64_t index); /* NULL: well */
uint64_t sfi_scale(uint64_t rate, uint64_t ppm);
/* Once the sets of an overlay, which is already the topology's, are complete. */
int sfi_health_sums(const struct sf_topo *t, struct sfi_overlay *o, struct sf_err *err);
/* A link with what its ends do to it. */
uint32_t sfi_link_ppm(const struct sf_topo *t, sf_link link);
/* NVLink of a whole GPU, one direction; the NIC of one plane. */
uint64_t sfi_up_rate(const struct sf_topo *t, uint32_t gpu, bool down);
uint64_t sfi_nic_rate(const struct sf_topo *t, uint32_t gpu, uint32_t plane, bool down);
uint64_t sfi_first_lane(const struct sf_topo *t, uint32_t gpu);
/* NVLink from a to b of one domain: chip by chip what both have left there. lane: of each the first that takes part. */
uint64_t sfi_pair_rate(const struct sf_topo *t, uint32_t a, uint32_t b, uint32_t lane[2]);
/* All uplinks or downlinks of a leaf of a plane, and all cables between the spines of a pod and its cores: the sum of
 * their parts per million. */
uint64_t sfi_leaf_ppm(const struct sf_topo *t, uint32_t leaf, uint32_t plane, bool down);
uint64_t sfi_pod_ppm(const struct sf_topo *t, uint32_t pod, uint32_t plane, bool down);

/* Closed form for whole planes without an overlay; sf_topo_check counts it again on the links. With one, or with
 * stocks that begin groups or pods: leaf by leaf. */
uint64_t sfi_bisection_links(const struct sf_topo *t);
uint64_t sfi_bisection_rate(const struct sf_topo *t);
void sfi_crossing(const struct sf_topo *t, uint64_t ppm[2]);
bool sfi_same_device(const struct sf_device_class *x, const struct sf_device_class *y);
int sfi_check_overlay(const struct sf_topo *t, struct sf_err *err);

#endif
