/* The cluster: device and link classes, counted instances, routes. 220,000 GPUs are described by a few classes and
 * counts; every single link can still be named, counted and priced.
 *
 * Shape. GPUs sit in scale-up *domains* (an NVL72 rack, an HGX node, one CPU host): trays of GPUs behind NVSwitch
 * chips. Each GPU has one NIC into a rail-aligned leaf/spine/core fabric. GPU g is in domain g / gpus_per_domain, slot
 * g % gpus_per_domain; its rail is slot % rails. A *stock* is a run of domains of one kind: a cluster may mix several.
 *
 * Fabric. A *group* is the domains that one set of rail leaves serves; its leaf for rail r takes the NICs of that rail.
 * A *pod* is the groups whose leaves share spines; cores join pods. Two tiers: one pod, and spines use all their ports
 * downwards. Three tiers: spines use half of them upwards, and spine s of every pod meets the same cores. The top tier
 * is folded: as many parallel cables per pair of switches as divide the uplinks and fit the ports. docs/topology.md.
 *
 * Planes. A NIC may split its rate over 1, 2 or 4 *planes*: equal fabrics that share no switch. A message is striped
 * over all planes that reach both of its ends.
 *
 * Overlay. What differs from the plan today: dead, degraded and spare parts. Numbers of nodes and links never change
 * with it, only rates, routes and the seats that are in use.
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
    double p90; /* 90 % of rows that were held out of the fit were within this share; 0: not stated */
    enum sf_grade grade;
};
struct sf_attn_model {
    double peak_share, softmax_dim, seq_prologue;
    struct sf_measured_range seq, head_dim;
    double p90; /* as above */
    enum sf_grade grade;
};
struct sf_kernel_model {
    uint32_t cores; /* 0: no model, a roofline over the efficiencies below instead */
    struct sf_gemm_model gemm[SF_DTYPES_N];
    struct sf_attn_model attn_fwd, attn_bwd;
    double memory_share;         /* of the memory's peak, by kernels that only stream */
    sf_time_ps memory_launch_ps; /* floor of such a kernel */
    double memory_p90;           /* as above */
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
    uint32_t copy_engines; /* between its memory and its host's; with two or more each direction has one of its own */
    /* How NCCL moves messages between two GPUs, which is what they take from kernels beside them. */
    double p2p_channels_per_link;     /* channels, a multiprocessor each, per scale-up link between the two */
    uint64_t p2p_channel_bytes_per_s; /* one channel more for as much of a NIC's rate */
    bool p2p_copy_engines;            /* inside a domain copy engines move them: no multiprocessor is taken */
};
#define SF_COPY_ENGINES 2          /* where a device file does not say: one each way */
#define SF_P2P_CHANNELS_PER_LINK 2 /* where a device file does not say: what NCCL does */
#define SF_P2P_CHANNEL_BYTES_PER_S UINT64_C(14000000000)

struct sf_link_class {
    char name[32];
    uint64_t bytes_per_s;        /* one direction, usable payload */
    sf_time_ps latency_ps;       /* one message, end to end over this class, software included */
    enum sf_grade grade;         /* the worst of the above */
    uint64_t peak_bytes_per_s;   /* one direction, on the wire */
    uint64_t reduce_bytes_per_s; /* bus bandwidth of an all_reduce that the switches add up; bytes_per_s without that */
    uint32_t links;              /* of one GPU that the catalog's rates are of; 0: not said */
    double links_share;          /* of them that the GPUs here have; the rates above are already scaled by it */
    uint32_t sharers;            /* GPUs that the rates are of together, when all use it: a link to the host; else 1 */
    uint64_t memory_bytes;       /* of the CPU at its other end; 0: not said */
};

/* Which model of collectives the device names, and what the cluster file asks of it. */
struct sf_topo_coll {
    char model[1024];                 /* file of the catalog's nccl folder; "" without one */
    char algorithm[16], protocol[16]; /* "": whatever the model picks; words of sim/coll.h */
    bool sharp;                       /* the network's switches add up */
    bool nccl_times;                  /* what NCCL itself expects a collective to take, where it expects anything */
};

struct sf_switch_class {
    char name[32];
    uint32_t ports;
    uint32_t split; /* cables that one port can be split into, each of an equal part of its rate */
    uint64_t port_bytes_per_s;
    sf_time_ps hop_ps;         /* one switch more on the way */
    sf_time_ps cable_ps_per_m; /* of the cables between them */
    /* Shares of a link's usable rate that large flows keep: where a hash picks the paths of many at once (ecmp), and
     * where many send to one port (incast); 1 = nothing lost. Loss that is not simulated link by link. */
    double ecmp_share, incast_share;
    enum sf_grade grade;
};

/* How a message finds its way through the fabric. X(NAME, "name") */
#define SF_ROUTINGS(X)                                                                                                 \
    X(ADAPTIVE, "adaptive")     /* spread over all equal paths, always the least loaded one */                         \
    X(ECMP, "ecmp")             /* a hash of (source, destination, queue pair, seed) picks one path for good */        \
    X(RAIL_LOCAL, "rail-local") /* adaptive, but only between NICs of one rail: other pairs are refused */             \
    X(PXN, "pxn") /* adaptive; to another rail over NVLink to the GPU of the own domain on that rail, then out */
enum sf_routing {
#define X(NAME, name) SF_ROUTING_##NAME,
    SF_ROUTINGS(X)
#undef X
        SF_ROUTINGS_N
};
const char *sf_routing_name(int routing); /* "?" when unknown */

struct sf_topo; /* opaque; immutable once it is in use */

/* A cluster file (scenarios/clusters/...) plus the catalog files it names (found in catalog_dir). */
int sf_topo_load(const struct sf_io *io, const char *path, const char *catalog_dir, struct sf_topo **out,
                 struct sf_err *err);
void sf_topo_free(struct sf_topo *t); /* NULL is legal */

/* Before the first use only, like loading: both change what sf_topo_hash says. An overlay file holds what the section
 * `overlay` of a cluster file holds and replaces it; where it leaves fewer GPUs than
 * gpus_in_use says, those are in use. After an error the topology is as it was. SF_E_USAGE for a
 * routing that means nothing here (one domain; pxn or rail-local without rails). */
int sf_topo_load_overlay(const struct sf_io *io, const char *path, struct sf_topo *t, struct sf_err *err);
int sf_topo_set_routing(struct sf_topo *t, enum sf_routing routing, uint64_t seed, struct sf_err *err);
enum sf_routing sf_topo_routing(const struct sf_topo *t);
/* Before the first use too: `collectives: { times: WORD }` of a cluster file. */
int sf_topo_set_times(struct sf_topo *t, const char *word, struct sf_err *err);

/* The cluster as planned: a copy without overlay, spares in use. SF_E_INTERNAL without memory. */
int sf_topo_planned(const struct sf_topo *t, struct sf_topo **out, struct sf_err *err);

/* The same cluster with every scale-up or scale-out link that many times as fast, switches included, and devices with
 * that many times the memory; latencies stay. It borrows from `t`, which must outlive it. */
struct sf_topo_scale {
    double up, out, memory;
};
int sf_topo_scaled(const struct sf_topo *t, const struct sf_topo_scale *by, struct sf_topo **out, struct sf_err *err);
void sf_topo_scaled_free(struct sf_topo *t); /* NULL is legal */

/* NVLink of the GPU in use that has least left of it, in its worse direction. */
struct sf_topo_least {
    uint32_t gpu; /* the lowest of them */
    uint64_t bytes_per_s, whole_bytes_per_s;
};
void sf_topo_least_up(const struct sf_topo *t, struct sf_topo_least *out);
/* What the overlay has left of one GPU's NVLink, in its worse direction. */
uint64_t sf_topo_up_left(const struct sf_topo *t, uint32_t gpu);

struct sf_topo_counts {
    uint64_t gpus, gpus_in_use, spare_gpus, domains, trays, cpus, nvswitches, nics;
    uint64_t leaves, spines, cores;
    uint64_t links_nvlink, links_c2c, links_nic, links_leaf_spine,
        links_spine_core;           /* cables or lanes, both directions = 1 */
    uint64_t bisection_bytes_per_s; /* of the scale-out fabric, one direction, usable peak of the link class, less what
                                       the overlay takes */
    uint64_t planes, stocks;
    uint64_t dead_gpus, dead_nics /* in all planes */, dead_switches, dead_cables, degraded_links, spare_domains;
};
void sf_topo_count(const struct sf_topo *t, struct sf_topo_counts *out);

const char *sf_topo_name(const struct sf_topo *t);
struct sf_hash sf_topo_hash(const struct sf_topo *t); /* of everything that can change a result */
uint32_t sf_topo_gpus(const struct sf_topo *t);       /* seats */
uint32_t sf_topo_gpus_in_use(const struct sf_topo *t);
uint32_t sf_topo_domain_gpus(const struct sf_topo *t);
uint32_t sf_topo_domain(const struct sf_topo *t, uint32_t gpu);
uint32_t sf_topo_rails(const struct sf_topo *t);  /* 1 without a fabric */
uint32_t sf_topo_planes(const struct sf_topo *t); /* 1 without a fabric */
const struct sf_topo_coll *sf_topo_collectives(const struct sf_topo *t);
const struct sf_switch_class *sf_topo_switch(const struct sf_topo *t); /* of the fabric; NULL if one domain */
size_t sf_topo_sources(const struct sf_topo *t, const struct sf_source **out);

/* Classes by GPU. Those without a GPU are the first stock's: the whole truth where sf_topo_mixed says no. */
bool sf_topo_mixed(const struct sf_topo *t); /* stocks differ in device, links or collective model */
const struct sf_device_class *sf_topo_device(const struct sf_topo *t);
const struct sf_device_class *sf_topo_device_of(const struct sf_topo *t, uint32_t gpu);
const struct sf_link_class *sf_topo_scale_up(const struct sf_topo *t); /* GPU to GPU inside a domain, whole GPU */
const struct sf_link_class *sf_topo_scale_up_of(const struct sf_topo *t, uint32_t gpu);
const struct sf_link_class *
sf_topo_scale_out(const struct sf_topo *t); /* GPU to GPU across domains, all planes; NULL if one domain */
const struct sf_link_class *sf_topo_scale_out_of(const struct sf_topo *t, uint32_t gpu);

/* A run of domains of one kind, for whoever would rather loop over classes than over GPUs. */
struct sf_stock {
    char kind[32];
    uint32_t first_gpu, gpus;
    uint32_t first_domain, domains;
    uint32_t domain_in_use; /* seats of each domain, its first ones, that are not left empty */
    const struct sf_device_class *device;
    const struct sf_link_class *up, *cpu, *out; /* cpu and out are NULL when absent */
    const char *coll_model;                     /* file of the catalog's nccl folder; "" without one */
    uint64_t host_bytes;                        /* a GPU's share of its tray's CPU memory; 0: not known */
    uint32_t alike; /* the first stock with this device, these links and this collective model: by what they are worth,
                       not by their names */
};
uint32_t sf_topo_stocks(const struct sf_topo *t);
uint32_t sf_topo_stock_of(const struct sf_topo *t, uint32_t gpu);
void sf_topo_stock(const struct sf_topo *t, uint32_t stock, struct sf_stock *out);

enum sf_gpu_state { SF_GPU_IN_USE, SF_GPU_SPARE, SF_GPU_DEAD };
enum sf_gpu_state sf_topo_gpu_state(const struct sf_topo *t, uint32_t gpu);
/* Seat of the n-th GPU in use; n < sf_topo_gpus_in_use. O(log seats); n itself where no seat before it is left out. */
uint32_t sf_topo_seat(const struct sf_topo *t, uint32_t n);

/* Links are addressable: class in the top byte, index below. Direction matters: X-up and X-down of one index are the
 * two directions of one cable. */
typedef uint64_t sf_link;
/* X(NAME, "name") */
#define SF_LINK_KINDS(X)                                                                                               \
    X(NVLINK_UP, "nvlink-up") /* GPU to NVSwitch: gpu * links_per_gpu + lane */                                        \
    X(NVLINK_DOWN, "nvlink-down")                                                                                      \
    X(C2C_UP, "c2c-up") /* GPU to its CPU */                                                                           \
    X(C2C_DOWN, "c2c-down")                                                                                            \
    X(NIC_UP, "nic-up") /* GPU's NIC to its leaf: gpu * planes + plane */                                              \
    X(NIC_DOWN, "nic-down")                                                                                            \
    X(LEAF_UP, "leaf-up") /* leaf * uplinks + port */                                                                  \
    X(LEAF_DOWN, "leaf-down")                                                                                          \
    X(SPINE_UP, "spine-up") /* spine * uplinks + port; leaves, spines, cores are numbered plane by plane */            \
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
/* The link that such a text names: its first two words are enough, in any spelling that sf_topo_link_text prints.
 * SF_E_INPUT says what is wrong with it. */
int sf_topo_link_parse(const struct sf_topo *t, const char *text, sf_link *out, struct sf_err *err);
/* What the flows over one cable share: the usable rate of its class (one plane of it), less what the overlay takes; 0
 * when it is dead or unknown. For NVLink that is the whole GPU, not the lane, because a message is striped over all
 * lanes. */
uint64_t sf_topo_link_rate(const struct sf_topo *t, sf_link link);

enum sf_route_kind { SF_ROUTE_SELF, SF_ROUTE_DOMAIN, SF_ROUTE_LEAF, SF_ROUTE_SPINE, SF_ROUTE_CORE };

/* A route that leaves the domain over somebody else's NIC has an NVLink hop before or behind the fabric, or both. */
#define SF_ROUTE_LINKS 10
struct sf_route {
    enum sf_route_kind kind; /* the highest tier it crosses */
    uint64_t bytes_per_s;    /* in a busy network: narrowest link, oversubscription and collisions by hash included. 0:
                                there is no way */
    sf_time_ps latency_ps;   /* link classes + switch hops + cables */
    uint32_t links_n;
    sf_link links[SF_ROUTE_LINKS]; /* in order; spread over equal-cost paths by destination, as adaptive routing would;
                                      those of the first plane used stand for all */
    sf_time_ps hop_ps[SF_ROUTE_LINKS]; /* by link: its cable and the switch it ends at; their sum is latency_ps. The
                                          first NIC link holds the software of both ends too */
    uint64_t alone_bytes_per_s;        /* when nobody else is on the way: narrowest link over all planes used */
    uint32_t planes;                   /* bit p: plane p carries a stripe; 0 without a fabric */
    uint32_t via[2]; /* whose NICs: src and dst, or the GPUs of their domains that send and receive in their stead */
};
/* Route between two GPUs by the topology's own routing. O(1); with an overlay O(ports) where something is dead on the
 * way. Same GPU: kind SELF, no links, rate of the device's memory. Inside a domain the first lane that is alive stands
 * for all of a GPU. In a fabric of one tier, whose rails do not meet, a message to another rail first moves over NVLink
 * to the GPU of the sender's domain that has the destination's rail and position; a GPU whose NIC is dead sends and
 * receives over the NIC of another one in its domain. Where there is no way at all the rates are 0: sf_topo_route_with
 * says why. */
void sf_topo_route(const struct sf_topo *t, uint32_t src, uint32_t dst, struct sf_route *out);

/* Pairs of one number have routes of one kind, one latency and the same rates; SF_NONE: only the route itself says. */
#define SF_ROUTES_ALIKE 8
uint32_t sf_topo_route_alike(const struct sf_topo *t, uint32_t src, uint32_t dst);

#define SF_ALL_PLANES UINT32_MAX
struct sf_route_ask {
    int routing;         /* enum sf_routing, or -1: the topology's own */
    uint32_t queue_pair; /* hashed by ecmp: several queue pairs of one pair of GPUs take several paths */
    uint64_t seed;       /* added to the topology's */
    uint32_t plane;      /* SF_ALL_PLANES, or one stripe alone: its links, its part of the rate */
};
/* The same on these terms. SF_E_INPUT when there is no way, with the reason: what is dead and where that is said, or
 * the routing that does not join these two. */
int sf_topo_route_with(const struct sf_topo *t, uint32_t src, uint32_t dst, const struct sf_route_ask *ask,
                       struct sf_route *out, struct sf_err *err);

/* What flows can contend for, numbered 0 .. sf_topo_links_total - 1: every link that a route can name, each direction
 * by itself. A message is striped over lanes and planes, so the lanes of a GPU are one, and so are the cables that
 * differ in their plane alone. Under ecmp every other cable has its own number. Otherwise a message takes whatever path
 * is free, so all uplinks of a leaf are one fat link, all downlinks too, and so is what the spines of a pod have
 * upwards together: the path after a leaf's uplinks starts at all of its spines at once. */
uint64_t sf_topo_links_total(const struct sf_topo *t);
#define SF_NO_DENSE UINT64_MAX
uint64_t sf_topo_link_dense(const struct sf_topo *t, sf_link link);  /* SF_NO_DENSE: no route uses it */
sf_link sf_topo_dense_link(const struct sf_topo *t, uint64_t dense); /* its first cable */
uint32_t sf_topo_dense_cables(const struct sf_topo *t, uint64_t dense);
uint64_t sf_topo_dense_rate(const struct sf_topo *t, uint64_t dense); /* bytes per second, less what is dead */
/* Links inside the fabric can carry whatever the NICs send, in any pattern that no NIC is too slow for: paths are
 * chosen adaptively, nothing is oversubscribed and nothing between leaves and cores is dead or degraded. O(1). */
bool sf_topo_nonblocking(const struct sf_topo *t);

/* Prove degrees, port budgets, link counts, path counts, bisection, plane by plane, and what the overlay leaves;
 * SF_E_INPUT names the first that fails. Counts every cable from both of its ends, so that it does not rest on the
 * formulas of sf_topo_count. */
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
