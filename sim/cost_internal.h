/* What the files of the cost model share. */
#ifndef SF_SIM_COST_INTERNAL_H
#define SF_SIM_COST_INTERNAL_H

#include "core/doc.h"
#include "sim/coll.h"
#include "sim/cost.h"

/* Expected share of the maximum dims that a call of dynamic size really uses. */
double sfi_call_fill(const struct sf_call *call);

/* A matrix product, or `groups` equal ones side by side. */
struct sfi_gemm {
    int dtype;
    double m, n, k, groups;
    double bytes; /* compulsory traffic of all groups */
};

/* Seconds by the device's fitted kernel model, which must have one for the precision. *grade: that of the fit inside
 * the measured range, else extrapolated. */
double sfi_gemm_s(const struct sf_device_class *d, const struct sfi_gemm *call, enum sf_grade *grade);
double sfi_attention_s(const struct sf_device_class *d, const struct sf_call *call, enum sf_grade *grade);
double sfi_attention_unfused_s(const struct sf_device_class *d, const struct sf_call *call, enum sf_grade *grade);

/* What a table row is found by. Compared as bytes, so every byte is set. */
struct sfi_kernel_key {
    uint16_t kind, dtype, flags, reserved;
    int64_t dims[SF_CALL_DIMS];
};
_Static_assert(sizeof(struct sfi_kernel_key) == 56, "keys are compared as bytes: no padding");

struct sfi_kernel {
    struct sfi_kernel_key key;
    sf_time_ps time;
    uint32_t row; /* in the file's list, for messages */
    uint32_t reserved;
};

/* One tier of the network as a message sees it. */
struct sfi_tier {
    uint64_t bytes_per_s;
    sf_time_ps latency_ps;
};

struct sf_cost {
    const struct sf_topo *topo;
    const struct sf_device_class *device;
    struct sfi_kernel *kernels; /* sorted by key */
    size_t kernels_n;
    struct sfi_tier tier[SF_ROUTE_CORE + 1]; /* for collectives, by enum sf_route_kind */
    struct sfi_tier message;                 /* inside a domain, when measured; else the route's own numbers hold */
    bool messages_measured, collectives_measured;
    struct sf_coll *coll;        /* NULL: the two-level ring of cost_net.c for everything */
    uint64_t reduce_bytes_per_s; /* of an all_reduce inside a domain, where switches may do the adding */
    sf_time_ps dispatch_ps;
    struct sf_framework framework;
    struct sf_hash hash;
};

/* Read a kernel table: kernels, transport. */
int sfi_cost_load(struct sf_cost *c, const struct sf_node *root, struct sf_err *err);
/* The row that covers a call, or NULL. */
const struct sfi_kernel *sfi_kernel_find(const struct sf_cost *c, const struct sf_call *call);

/* Fill `tier` from the links of the topology. */
void sfi_cost_tiers(struct sf_cost *c);
/* Rate and latency of one message over a route. */
struct sfi_tier sfi_cost_link(const struct sf_cost *c, const struct sf_route *route);

#endif
