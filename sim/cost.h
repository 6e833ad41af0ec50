/* What a kernel call costs: measured tables where they exist, then the device's fitted kernel model, then a roofline.
 */
#ifndef SF_SIM_COST_H
#define SF_SIM_COST_H

#include <stdbool.h>

#include "core/call.h"
#include "core/hash.h"
#include "core/io.h"
#include "core/prog.h"
#include "topo/topo.h"

/* Work of one call on one rank. Model FLOPs leave recomputation out, hardware FLOPs do not. Bytes are the compulsory
 * traffic to device memory: each operand read or written once. */
struct sf_work {
    double flops;
    double bytes;
};
struct sf_work sf_call_work(const struct sf_call *call);

/* How a training framework of one era runs on one device class, beyond what its kernels cost one by one. Read from a
 * file of topo/catalog/frameworks; sim/framework.c says what each key means. All zero: no framework, kernels back to
 * back. */
struct sf_framework {
    char name[48];
    bool unfused_attention;  /* scores go through memory */
    double pointwise;        /* traffic of norms, activations and residuals, times that of one fused kernel each */
    double gemm_share_fp8;   /* likewise in fp8; 0: as gemm_share */
    double gather_hidden;    /* share of the weights' gathering that the next step hides */
    double gemm_share;       /* of the rate that a product reaches alone */
    double moe;              /* traffic of routing, sorting and merging tokens, likewise; 0: as pointwise */
    double loss;             /* traffic of the cross entropy, likewise */
    double loss_parallel;    /* that of the one over a vocabulary that ranks share; 0: as loss */
    double attention_share;  /* of the rate that fused attention reaches alone; 0: all of it */
    double kernels;          /* small ones that a call is issued as besides itself, each with its start; 0: none */
    double tp_hidden;        /* share of collectives inside recipes, experts' aside, that products hide */
    double gather_slow;      /* how many times what the network needs a gathering of weights takes; 0: once */
    double spread;           /* of the speeds of devices, one standard deviation; the slowest of a job sets its pace */
    sf_time_ps host_call_ps; /* host time to issue one kernel call and everything it stands for */
    sf_time_ps resume_ps;    /* from the end of a transfer to the next call; 0: the host waits for none */
    bool rolling;            /* split backwards: steps follow one another without a barrier */
    sf_time_ps step_ps;      /* once per step: loss scale, clipping, logging, data */
    enum sf_grade grade;
    char calibration[4096]; /* ids of the measured rows that the numbers were fitted to, separated by spaces */
};
/* Numbers for `device`; a file without that device is SF_E_INPUT. NULL: read only what holds for all of them. */
int sf_framework_load(const struct sf_io *io, const char *path, const char *device, struct sf_framework *out,
                      struct sf_err *err);

struct sf_cost; /* a priced device: topology facts plus an optional measured kernel table */

/* kernels_path may be NULL. The file is YAML written by `staticfire-run --measure`:
 *   kernels:   # compute calls; what repeats a row is refused
 *     - { kind: gemm, dtype: f32, flags: [tb], dims: [m, n, k, 1], time: 1.234us, n: 30 }
 *   transport: # between ranks of one host; each key optional, replaces the number of the scale-up link
 *     { message_latency: 1us, message_rate: 5GB/s, collective_latency: 2us, collective_rate: 4GB/s, dispatch: 200ns }
 *   collectives: # between ranks of one host, measured by size; the ring below is corrected near them
 *     - { op: all_gather, ranks: 2, bytes: 1048576, time: 90us }
 *   host: { ... }, note: text: for people
 * or a calibration file (sim/calib.h), which has models too: with the rows beside, they price the calls that no row
 * lists, graded as extrapolated. A row covers the calls of its kind, dtype, dims and flags; `recompute` makes no
 * difference to a time.
 */
int sf_cost_create(const struct sf_topo *topo, const struct sf_io *io, const char *kernels_path, struct sf_cost **out,
                   struct sf_err *err);
void sf_cost_free(struct sf_cost *c); /* NULL is legal */
void sf_cost_set_framework(struct sf_cost *c, const struct sf_framework *f);
struct sf_hash sf_cost_hash(const struct sf_cost *c);
const struct sf_topo *sf_cost_topo(const struct sf_cost *c);

/* Kinds of GPUs: stocks that differ in device, links or collective model. Where there are several, what is asked of the
 * cost model as a whole is answered for the slowest kind, or the slowest among a span's members; sf_cost_of is the
 * model of one kind alone. */
#define SF_KINDS_MAX 16
uint32_t sf_cost_kinds(const struct sf_cost *c);
const struct sf_cost *sf_cost_of(const struct sf_cost *c, uint32_t kind);
/* By stock of the topology; returns how many there are. */
uint32_t sf_kinds_of(const struct sf_topo *topo, uint8_t kind_of_stock[SF_KINDS_MAX]);

/* What an overlay has left of the way between two GPUs, against what their kinds reach where nothing is broken: lowers
 * *left, which begins at 1. SF_E_INPUT with the reason where there is no way. */
int sf_cost_way_left(const struct sf_cost *c, uint32_t src, uint32_t dst, double *left, struct sf_err *err);
struct sf_coll;
const struct sf_coll *sf_cost_coll(const struct sf_cost *c); /* NULL: the two-level ring below */
/* Ranks of one host whose transport was measured: the receiver's core copies a message, the sender's does nothing. */
bool sf_cost_receiver_copies(const struct sf_cost *c);

/* Time of one compute call (not a collective). *grade (may be NULL) says what it rests on: SF_GRADE_CALIBRATED for a
 * table hit; with a kernel model the grade of its fit inside the measured range, else SF_GRADE_EXTRAPOLATED; without
 * one the catalog's grade of the peak or rate used, SF_GRADE_EXTRAPOLATED when the device has no peak for the dtype and
 * f32 stands in. Calls of dynamic size are priced at their expected fill (imm1). */
sf_time_ps sf_cost_call(const struct sf_cost *c, const struct sf_call *call, enum sf_grade *grade);

/* How a group of GPUs is spread, which is what a collective's time depends on. */
struct sf_span {
    uint32_t members;
    uint32_t domains;           /* scale-up domains touched */
    uint32_t min_per_domain;    /* members in the emptiest touched domain */
    uint32_t kind;              /* enum sf_route_kind: highest tier crossed by neighbours in ring order */
    uint32_t kinds;             /* bit set of the kinds of its GPUs; 0: all that the cluster has */
    bool alone;                 /* what others do on the links between is somebody else's to simulate */
    bool quickest;              /* whatever algorithm and protocol take least, where no pick says otherwise */
    struct sf_coll_picks picks; /* of the communicator */
};
/* Group of `comm` that `rank` belongs to. O(members). */
void sf_span_of(const struct sf_prog *prog, const struct sf_topo *topo, uint32_t comm, uint32_t rank,
                struct sf_span *out);

/* By algorithm and protocol (sim/coll.h) where the device names a collective model and no kernel table measured them.
 * Else a two-level ring: inside each domain over NVLink, across domains with every member's NIC carrying its share.
 *   all_gather, reduce_scatter: (n-1)/n * bytes / min(scale_up, min_per_domain * nic) + steps * latency
 *   all_reduce: both one after the other; inside one domain at the rate that its switches reduce at.
 *   all_to_all: the share that leaves the domain over the NIC, the rest over the scale-up link, whichever takes longer,
 *   plus the larger latency.
 * Steps: members of a domain less one at the scale-up latency, domains less one at the latency of the highest tier.
 * `kind` is a collective of enum sf_call_kind, `bytes` as in call.h. One member: 0. */
sf_time_ps sf_cost_collective(const struct sf_cost *c, int kind, uint64_t bytes, const struct sf_span *span);

/* One message between two GPUs. */
sf_time_ps sf_cost_message(const struct sf_cost *c, uint64_t bytes, const struct sf_route *route);

/* Bytes between a GPU and the memory of its host while the other GPUs of the host copy as many: copy engines move them,
 * one way each. Without a link to a host, inside the device's own memory. */
sf_time_ps sf_cost_host_copy(const struct sf_cost *c, uint64_t bytes);

/* Host time to issue one call of a recipe, whether the host waits for collectives inside recipes, and host time once
 * per step; 0 and false without a framework. */
sf_time_ps sf_cost_host(const struct sf_cost *c);
sf_time_ps sf_cost_step(const struct sf_cost *c);
sf_time_ps sf_cost_resume(const struct sf_cost *c); /* before the first call of a pass */
/* Share of a gathering of updated weights that this step has to wait for; 1 without a framework. */
double sf_cost_gather_share(const struct sf_cost *c);
/* Share of a tensor parallel collective inside a recipe that nothing hides; 1 without a framework. */
double sf_cost_tp_share(const struct sf_cost *c);

/* Fixed cost of dispatching one program op on this backend (measured on CPU, one launch on GPU). */
sf_time_ps sf_cost_dispatch(const struct sf_cost *c);

#endif
