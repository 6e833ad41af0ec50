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

/* The fitted model of products in a precision; fp8's stands in for mxfp8, which runs on the same instructions. */
const struct sf_gemm_model *sfi_gemm_model(const struct sf_device_class *d, int dtype);
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
    double residual; /* logarithm of time over what the model of its kind says; 0 where there is no model */
    uint32_t row;    /* in the file's list, for messages */
    uint32_t reserved;
};

/* One tier of the network as a message sees it. */
struct sfi_tier {
    uint64_t bytes_per_s;
    sf_time_ps latency_ps;
};

struct sfi_calib_model; /* calib_internal.h */
struct sf_calib_point;  /* calib.h */

struct sf_cost {
    const struct sf_topo *topo;
    struct sf_stock stock; /* the first of its kind */
    const struct sf_device_class *device;
    struct sf_cost *kind[SF_KINDS_MAX]; /* models of single kinds, kinds_n of them */
    uint32_t kinds_n;                   /* 0: this is one of them, or the only one */
    struct sfi_kernel *kernels;         /* sorted by key */
    size_t kernels_n;
    struct sfi_calib_model *models; /* fitted to the table, for calls that it does not list */
    size_t models_n;
    struct sf_calib_point *points; /* collectives measured between ranks of one host */
    size_t points_n;
    double repeat;                           /* 90 % of repeated measurements of the table were within this share */
    struct sfi_tier tier[SF_ROUTE_CORE + 1]; /* for collectives, by enum sf_route_kind */
    uint64_t alone[SF_ROUTE_CORE + 1];       /* the rates where nobody else is on the way */
    double incast_share;                     /* of a NIC's rate where many send to it at once */
    struct sfi_tier message;                 /* inside a domain, when measured; else the route's own numbers hold */
    bool messages_measured, collectives_measured;
    struct sf_coll *coll;        /* NULL: the two-level ring of cost_net.c for everything */
    uint64_t reduce_bytes_per_s; /* of an all_reduce inside a domain, where switches may do the adding */
    sf_time_ps dispatch_ps;
    struct sf_framework framework;
    double slowest; /* times what a device of average speed needs, by the framework's spread; 0: no framework */
    struct sf_hash hash;
};

/* Read a kernel table: kernels, transport. */
int sfi_cost_load(struct sf_cost *c, const struct sf_node *root, struct sf_err *err);
/* The row that covers a call, or NULL. */
const struct sfi_kernel *sfi_kernel_find(const struct sf_cost *c, const struct sf_call *call);
/* Seconds by a fitted model, corrected by the rows beside the call. */
double sfi_model_s(const struct sf_cost *c, const struct sfi_calib_model *m, const struct sf_call *call);
/* The fitted model of a compute call's kind, or of the kind most like it, in its precision; or NULL. */
const struct sfi_calib_model *sfi_model_find(const struct sf_cost *c, const struct sf_call *call);

/* cost_points.c: what the measured collectives near this size make of the ring's time; 1 where none were. */
double sfi_points_factor(const struct sf_cost *c, int kind, double bytes, uint32_t members);
int sfi_points_load(struct sf_cost *c, const struct sf_node *list, struct sf_err *err);

/* Routes may be slower than their tier, or missing. */
static inline bool sfi_is_hurt(const struct sf_topo_counts *n) {
    return n->dead_nics + n->dead_switches + n->dead_cables + n->degraded_links > 0;
}
/* sf_coll_create for the GPUs of one stock. */
int sfi_coll_create_of(const struct sf_topo *topo, const struct sf_stock *stock, const struct sf_io *io,
                       struct sf_coll **out, struct sf_err *err);
/* Fill `tier` from the links of the topology as planned. */
int sfi_cost_tiers(struct sf_cost *c, struct sf_err *err);
/* Bytes per second between a GPU of the first kind and its host while the host's other GPUs copy as much. */
uint64_t sfi_cost_host_rate(const struct sf_cost *c);
/* Rate and latency of one message over a route. */
struct sfi_tier sfi_cost_link(const struct sf_cost *c, const struct sf_route *route);

#endif
