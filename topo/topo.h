/* The cluster: device and link classes, counted instances, routes. 220,000 GPUs are described by a few classes and
 * counts; every single link can still be named, counted and priced.
 *
 * Shape. GPUs sit in scale-up *domains* (an NVL72 rack, an HGX node, one CPU host): trays of GPUs behind NVSwitch chips.
 * Each GPU has one NIC into a rail-aligned leaf/spine/core fabric. GPU g is in domain g / gpus_per_domain, slot
 * g % gpus_per_domain; its rail is slot % rails.
 *
 * Every number comes from a catalog file (topo/catalog) that states value, unit, source and grade; sf_topo_sources lists
 * what a topology rests on. */
#ifndef SF_TOPO_TOPO_H
#define SF_TOPO_TOPO_H

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

struct sf_source { /* one number of a catalog and where it is from */
    char item[64];     /* "gb300.bf16_peak" */
    char value[48];    /* as written, with its unit */
    char source[160];
    enum sf_grade grade;
};

/* A compute device. Efficiencies are the share of the peak that long, well-shaped kernels reach. */
struct sf_device_class {
    char name[32];
    uint64_t memory_bytes;            /* usable */
    uint64_t memory_bytes_per_s;      /* peak of its own memory */
    double memory_efficiency;         /* share reached by streaming kernels */
    double flops_per_s[SF_DTYPES_N];  /* dense peak; 0 = not supported */
    double gemm_efficiency[SF_DTYPES_N];
    double attn_fwd_efficiency, attn_bwd_efficiency; /* share of the bf16 (CPU: f32) peak */
    sf_time_ps launch_ps;             /* floor of one kernel */
    double power_watts;               /* at full load; 0 = unknown */
    enum sf_grade grade;              /* the worst of the above */
};

struct sf_link_class {
    char name[32];
    uint64_t bytes_per_s;       /* one direction, usable payload */
    sf_time_ps latency_ps;      /* one message, end to end over this class, software included */
    enum sf_grade grade;
};

struct sf_topo; /* opaque; immutable after load */

/* A cluster file (scenarios/clusters/...) plus the catalog files it names (found in catalog_dir). */
int sf_topo_load(const struct sf_io *io, const char *path, const char *catalog_dir, struct sf_topo **out,
                 struct sf_err *err);
void sf_topo_free(struct sf_topo *t); /* NULL is legal */

struct sf_topo_counts {
    uint64_t gpus, gpus_in_use, spare_gpus, domains, trays, cpus, nvswitches, nics;
    uint64_t leaves, spines, cores;
    uint64_t links_nvlink, links_c2c, links_nic, links_leaf_spine, links_spine_core; /* cables or lanes, both directions = 1 */
    uint64_t bisection_bytes_per_s; /* of the scale-out fabric, one direction, usable peak of the link class */
};
void sf_topo_count(const struct sf_topo *t, struct sf_topo_counts *out);

const char *sf_topo_name(const struct sf_topo *t);
struct sf_hash sf_topo_hash(const struct sf_topo *t); /* of everything that can change a result */
uint32_t sf_topo_gpus(const struct sf_topo *t);        /* seats */
uint32_t sf_topo_gpus_in_use(const struct sf_topo *t);
uint32_t sf_topo_domain_gpus(const struct sf_topo *t);
uint32_t sf_topo_domain(const struct sf_topo *t, uint32_t gpu);
uint32_t sf_topo_rails(const struct sf_topo *t);
const struct sf_device_class *sf_topo_device(const struct sf_topo *t);
const struct sf_link_class *sf_topo_scale_up(const struct sf_topo *t);  /* GPU to GPU inside a domain, whole GPU */
const struct sf_link_class *sf_topo_scale_out(const struct sf_topo *t); /* GPU to GPU across domains; NULL if one domain */
size_t sf_topo_sources(const struct sf_topo *t, const struct sf_source **out);

/* Links are addressable: class in the top byte, index below. Direction matters. */
typedef uint64_t sf_link;
/* X(NAME, "name") */
#define SF_LINK_KINDS(X)                                                                                               \
    X(NVLINK_UP, "nvlink-up")     /* GPU to NVSwitch: gpu * links_per_gpu + lane */                                    \
    X(NVLINK_DOWN, "nvlink-down")                                                                                      \
    X(C2C_UP, "c2c-up")           /* GPU to its CPU */                                                                 \
    X(C2C_DOWN, "c2c-down")                                                                                            \
    X(NIC_UP, "nic-up")           /* GPU's NIC to its leaf: index = gpu */                                             \
    X(NIC_DOWN, "nic-down")                                                                                            \
    X(LEAF_UP, "leaf-up")         /* leaf * uplinks + port */                                                          \
    X(LEAF_DOWN, "leaf-down")                                                                                          \
    X(SPINE_UP, "spine-up")       /* spine * uplinks + port */                                                         \
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

enum sf_route_kind { SF_ROUTE_SELF, SF_ROUTE_DOMAIN, SF_ROUTE_LEAF, SF_ROUTE_SPINE, SF_ROUTE_CORE };

struct sf_route {
    enum sf_route_kind kind;    /* the highest tier it crosses */
    uint64_t bytes_per_s;       /* of the narrowest link; fabric oversubscription included */
    sf_time_ps latency_ps;      /* link class + switch hops */
    uint32_t links_n;
    sf_link links[8];           /* in order; spread over equal-cost paths by destination, as adaptive routing would */
};
/* Route between two GPUs. O(1). Same GPU: kind SELF, no links, rate of the device's memory. */
void sf_topo_route(const struct sf_topo *t, uint32_t src, uint32_t dst, struct sf_route *out);

/* Prove degrees, port budgets, link counts, path counts and bisection; SF_E_INPUT names the first that fails. */
int sf_topo_check(const struct sf_topo *t, struct sf_err *err);

/* This machine, found with hwloc and libnuma, written as a cluster file plus a device file that sf_topo_load reads.
 * `devices` ranks share the cores. Peak rates are left to `staticfire-run --measure`; until then the device file holds
 * conservative values graded "extrapolated". */
struct sf_probe {
    char cpu_model[64];
    uint32_t cores, threads, numa_nodes, packages;
    uint64_t memory_bytes, l2_bytes, l3_bytes;
};
int sf_probe_node(struct sf_probe *out, struct sf_err *err);

#endif
