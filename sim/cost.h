/* What a kernel call costs: measured tables where they exist, a roofline over catalog efficiencies elsewhere. */
#ifndef SF_SIM_COST_H
#define SF_SIM_COST_H

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

struct sf_cost; /* a priced device: topology facts plus an optional measured kernel table */

/* kernels_path may be NULL. The file is YAML written by `staticfire-run --measure`: a list of
 *   { kind: gemm, dtype: f32, flags: [tb], dims: [m, n, k, 1], time: 1.234us, n: 30 }
 * and a `transport:` map with per-message latency and bytes per second for p2p and collectives of this machine. */
int sf_cost_create(const struct sf_topo *topo, const struct sf_io *io, const char *kernels_path, struct sf_cost **out,
                   struct sf_err *err);
void sf_cost_free(struct sf_cost *c); /* NULL is legal */
struct sf_hash sf_cost_hash(const struct sf_cost *c);
const struct sf_topo *sf_cost_topo(const struct sf_cost *c);

/* Time of one compute call (not a collective). *grade says what it rests on (SF_GRADE_CALIBRATED for a table hit). */
sf_time_ps sf_cost_call(const struct sf_cost *c, const struct sf_call *call, enum sf_grade *grade);

/* How a group of GPUs is spread, which is what a collective's time depends on. */
struct sf_span {
    uint32_t members;
    uint32_t domains;        /* scale-up domains touched */
    uint32_t min_per_domain; /* members in the emptiest touched domain */
    uint32_t kind;           /* enum sf_route_kind: highest tier crossed by neighbours in ring order */
};
/* Group of `comm` that `rank` belongs to. O(members). */
void sf_span_of(const struct sf_prog *prog, const struct sf_topo *topo, uint32_t comm, uint32_t rank,
                struct sf_span *out);

/* Two-level ring: inside each domain over NVLink, across domains with every member's NIC carrying its share.
 *   all_gather, reduce_scatter: (n-1)/n * bytes / min(scale_up, min_per_domain * nic) + steps * latency
 *   all_reduce: both one after the other. all_to_all: the share that leaves the domain over the NIC, the rest over the
 *   scale-up link, whichever takes longer, plus latency.
 * `kind` is a collective of enum sf_call_kind, `bytes` as in call.h. One member: 0. */
sf_time_ps sf_cost_collective(const struct sf_cost *c, int kind, uint64_t bytes, const struct sf_span *span);

/* One message between two GPUs. */
sf_time_ps sf_cost_message(const struct sf_cost *c, uint64_t bytes, const struct sf_route *route);

/* Fixed cost of dispatching one program op on this backend (measured on CPU, launch on GPU). */
sf_time_ps sf_cost_dispatch(const struct sf_cost *c);

#endif
