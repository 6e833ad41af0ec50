/* The cluster: device and link classes, counted instances, routes. 220,000 GPUs are described by a few classes and
 * counts; every single link can still be named, counted and priced.
 *
 * Shape. GPUs sit in scale-up *domains* (an NVL72 rack, an HGX node, one CPU host): trays of GPUs behind NVSwitch
 * chips. Each GPU has one NIC into a rail-aligned leaf/spine/core fabric. GPU g is in domain g / gpus_per_domain, slot
 * g % gpus_per_domain; its rail is slot % rails.
 *
 * Fabric. A *group* is the domains that one set of rail leaves serves; its leaf for rail r takes the NICs of that rail.
 * A *pod* is the groups whose leaves share spines; cores join pods. Two tiers: one pod, and spines use all their ports
 * downwards. Three tiers: spines use half of them upwards, and spine s of every pod meets the same cores. The top tier
 * is folded: as many parallel cables per pair of switches as divide the uplinks and fit the ports. docs/topology.md.
 *
 * Every number comes from a catalog file (topo/catalog) that states value, unit, source and grade; sf_topo_sources
 * lists what a topology rests on. */
#ifndef SF_TOPO_TOPO_H
#define SF_TOPO_TOPO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/call.h"
#include "core/err.h"
#include "core/hash.h"
#include "core/io.h"
#include "core/units.h"

/* X(NAME, "name") - how far a number can be trusted, best first. */
#define SF_GRADES(X)                                                                                                   \
    X(CALIBRATED, "calibrated here")                                                                                   \
    X(MEASURED, "published measurement")                                                                               \
    X(DATASHEET, "datasheet")                                                                                          \
    X(EXTRAPOLATED, "extrapolated")

enum sf_grade {
#define X(NAME, name) SF_GRADE_##NAME,
    SF_GRADES(X)
#undef X
        SF_GRADES_N
};
const char *sf_grade_name(int grade);

struct sf_source {  /* one number of a catalog and where it is from */
    char item[64];  /* "gb300.bf16_peak" */
    char value[48]; /* as written, with its unit */
    char source[160];
    enum sf_grade grade;
};

/* How the kernels of a device behave, fitted to published tables (topo/catalog/kernels). What the numbers mean is said
 * where they are used: sim/cost_gemm.c, sim/cost_attention.c, sim/cost.c. A time at or below `hi` and at or above `lo`
 * of every dimension was measured; outside that it is an extrapolation. */
struct sf_measured_range {
    uint64_t lo, hi;
};
struct sf_gemm_model { /* peak_share 0: none for this precision */
    double peak_share, tile_loss, k_prologue, wave, memory_share, cast_share;
    sf_time_ps launch_ps;
    struct sf_measured_range m, n, k;
    enum sf_grade grade;
};
struct sf_attn_model {
    double peak_share, softmax_dim, seq_prologue;
    struct sf_measured_range seq, head_dim;
    enum sf_grade grade;
};
struct sf_kernel_model {
    uint32_t cores; /* 0: no model, a roofline over the efficiencies below instead */
    struct sf_gemm_model gemm[SF_DTYPES_N];
    struct sf_attn_model attn_fwd, attn_bwd;
    double memory_share;         /* of the memory's peak, by kernels that only stream */
    sf_time_ps memory_launch_ps; /* floor of such a kernel */
    enum sf_grade memory_grade;
};

/* A compute device. Efficiencies are the share of the peak that long, well-shaped kernels reach. */
struct sf_device_class {
    char name[32];
    uint64_t memory_bytes;           /* usable */
    uint64_t memory_bytes_per_s;     /* peak of its own memory */
    double memory_efficiency;        /* share reached by streaming kernels */
    double flops_per_s[SF_DTYPES_N]; /* dense peak; 0 = not supported */
    double gemm_efficiency[SF_DTYPES_N];
    double attn_fwd_efficiency, attn_bwd_efficiency; /* share of the bf16 (CPU: f32) peak */
    sf_time_ps launch_ps;                            /* floor of one kernel */
    double power_watts;                              /* at full load; 0 = unknown */
    enum sf_grade grade; /* the worst of memory and GEMM in the usual precision: bf16, or f32 without it */
    enum sf_grade gemm_grade[SF_DTYPES_N]; /* the worse of peak and efficiency, per precision */
    enum sf_grade attn_grade;
    struct sf_kernel_model kernels;
};

struct sf_link_class {
    char name[32];
    uint64_t bytes_per_s;        /* one direction, usable payload */
    sf_time_ps latency_ps;       /* one message, end to end over this class, software included */
    enum sf_grade grade;         /* the worst of the above */
    uint64_t peak_bytes_per_s;   /* one direction, on the wire */
    uint64_t reduce_bytes_per_s; /* bus bandwidth of an all_reduce that the switches add up; bytes_per_s without that */
};

/* Which model of collectives the device names, and what the cluster file asks of it. */
struct sf_topo_coll {
    char model[1024];                 /* file of the catalog's nccl folder; "" without one */
    char algorithm[16], protocol[16]; /* "": whatever the model picks; words of sim/coll.h */
    bool sharp;                       /* the network's switches add up */
};

struct sf_topo; /* opaque; immutable after load */

/* A cluster file (scenarios/clusters/...) plus the catalog files it names (found in catalog_dir). */
int sf_topo_load(const struct sf_io *io, const char *path, const char *catalog_dir, struct sf_topo **out,
                 struct sf_err *err);
void sf_topo_free(struct sf_topo *t); /* NULL is legal */

struct sf_topo_counts {
    uint64_t gpus, gpus_in_use, spare_gpus, domains, trays, cpus, nvswitches, nics;
    uint64_t leaves, spines, cores;
    uint64_t links_nvlink, links_c2c, links_nic, links_leaf_spine,
        links_spine_core;           /* cables or lanes, both directions = 1 */
    uint64_t bisection_bytes_per_s; /* of the scale-out fabric, one direction, usable peak of the link class */
};
void sf_topo_count(const struct sf_topo *t, struct sf_topo_counts *out);

const char *sf_topo_name(const struct sf_topo *t);
struct sf_hash sf_topo_hash(const struct sf_topo *t); /* of everything that can change a result */
uint32_t sf_topo_gpus(const struct sf_topo *t);       /* seats */
uint32_t sf_topo_gpus_in_use(const struct sf_topo *t);
uint32_t sf_topo_domain_gpus(const struct sf_topo *t);
uint32_t sf_topo_domain(const struct sf_topo *t, uint32_t gpu);
uint32_t sf_topo_rails(const struct sf_topo *t); /* 1 without a fabric */
const struct sf_topo_coll *sf_topo_collectives(const struct sf_topo *t);
const struct sf_device_class *sf_topo_device(const struct sf_topo *t);
const struct sf_link_class *sf_topo_scale_up(const struct sf_topo *t); /* GPU to GPU inside a domain, whole GPU */
const struct sf_link_class *
sf_topo_scale_out(const struct sf_topo *t); /* GPU to GPU across domains; NULL if one domain */
size_t sf_topo_sources(const struct sf_topo *t, const struct sf_source **out);

/* Links are addressable: class in the top byte, index below. Direction matters: X-up and X-down of one index are the
 * two directions of one cable. */
typedef uint64_t sf_link;
/* X(NAME, "name") */
#define SF_LINK_KINDS(X)                                                                                               \
    X(NVLINK_UP, "nvlink-up") /* GPU to NVSwitch: gpu * links_per_gpu + lane */                                        \
    X(NVLINK_DOWN, "nvlink-down")                                                                                      \
    X(C2C_UP, "c2c-up") /* GPU to its CPU */                                                                           \
    X(C2C_DOWN, "c2c-down")                                                                                            \
    X(NIC_UP, "nic-up") /* GPU's NIC to its leaf: index = gpu */                                                       \
    X(NIC_DOWN, "nic-down")                                                                                            \
    X(LEAF_UP, "leaf-up") /* leaf * uplinks + port */                                                                  \
    X(LEAF_DOWN, "leaf-down")                                                                                          \
    X(SPINE_UP, "spine-up") /* spine * uplinks + port; leaves, spines, cores are numbered across the cluster */        \
    X(SPINE_DOWN, "spine-down")
enum sf_link_kind {
#define X(NAME, name) SF_LINK_##NAME,
    SF_LINK_KINDS(X)
#undef X
        SF_LINK_KINDS_N
};
#define SF_LINK(kind, index) (((sf_link)(kind) << 56) | (sf_link)(index))
#define SF_LINK_KIND(link) ((int)((link) >> 56))
#define SF_LINK_INDEX(link) ((link) & ((UINT64_C(1) << 56) - 1))
/* "leaf-up 17:3 (leaf 17 to spine 3), 800 Gb/s"; returns `buf`. Unknown links say so. */
char *sf_topo_link_text(const struct sf_topo *t, sf_link link, char *buf, size_t size);
uint64_t sf_topo_link_count(const struct sf_topo *t, enum sf_link_kind kind);
/* What the flows over a link of a route share: the usable rate of its class. For NVLink that is the whole GPU, not the
 * lane, because a message is striped over all lanes. 0 for an unknown link. */
uint64_t sf_topo_link_rate(const struct sf_topo *t, sf_link link);

enum sf_route_kind { SF_ROUTE_SELF, SF_ROUTE_DOMAIN, SF_ROUTE_LEAF, SF_ROUTE_SPINE, SF_ROUTE_CORE };

struct sf_route {
    enum sf_route_kind kind; /* the highest tier it crosses */
    uint64_t bytes_per_s;    /* of the narrowest link; fabric oversubscription included */
    sf_time_ps latency_ps;   /* link class + switch hops */
    uint32_t links_n;
    sf_link links[8]; /* in order; spread over equal-cost paths by destination, as adaptive routing would */
};
/* Route between two GPUs. O(1). Same GPU: kind SELF, no links, rate of the device's memory. Inside a domain lane 0
 * stands for all lanes of a GPU. In a fabric of one tier, whose rails do not meet, a message to another rail first
 * moves over NVLink to the GPU of the sender's domain that has the destination's rail and position. */
void sf_topo_route(const struct sf_topo *t, uint32_t src, uint32_t dst, struct sf_route *out);

/* Prove degrees, port budgets, link counts, path counts and bisection; SF_E_INPUT names the first that fails. Counts
 * every cable from both of its ends, so that it does not rest on the formulas of sf_topo_count. */
int sf_topo_check(const struct sf_topo *t, struct sf_err *err);

/* One drawing: a rack, a pod, the cluster with its counts. A complete SVG document; SF_E_INTERNAL without memory. */
int sf_topo_svg(const struct sf_topo *t, struct sf_buf *out);

/* This machine, found with hwloc and libnuma, written as a cluster file plus a device file that sf_topo_load reads. A
 * device is one core. Rates are left to `staticfire-run --measure`; until then the files hold conservative values
 * graded "extrapolated". */
struct sf_probe {
    char cpu_model[64];
    uint32_t cores, threads, numa_nodes, packages;
    uint64_t memory_bytes, l2_bytes, l3_bytes;
};
int sf_probe_node(struct sf_probe *out, struct sf_err *err);

/* The cluster file names its device file SF_PROBE_DEVICE_FILE, in the same folder. `ranks` devices make its one domain.
 * SF_E_USAGE when ranks is 0 or over the limit, SF_E_INTERNAL without memory. */
#define SF_PROBE_DEVICE_FILE "host-device.yaml"
int sf_probe_print_cluster(const struct sf_probe *p, uint32_t ranks, struct sf_buf *out);
int sf_probe_print_device(const struct sf_probe *p, struct sf_buf *out);

#endif
