/* Max-min fair rates: flows over links, in whole bytes per second.
 *
 * Level by level: the smallest equal share of any link, or the smallest cap of any flow, is found; all links and caps
 * tied at it freeze their flows at that rate together; the rest goes on with what is left. Because ties freeze
 * together, the rates are a function of the set of flows alone: no order of flows, links or link lists can change them.
 * Shares are rounded down, so a link leaves less than one byte per second and flow unused and is never exceeded.
 *
 * Pure functions: no allocation, no state. Links have the numbers 0 .. links_n-1 of the component at hand. */
#ifndef SF_SIM_FAIR_H
#define SF_SIM_FAIR_H

#include <stddef.h>
#include <stdint.h>

#define SF_FAIR_LINKS 10 /* of a flow: as many as a route has, SF_ROUTE_LINKS */
#define SF_FAIR_NO_CAP UINT64_MAX

struct sf_fair_flow {
    uint64_t cap_bytes_per_s; /* SF_FAIR_NO_CAP: links alone limit it, of which it then has at least one */
    uint32_t links_n;
    uint32_t links[SF_FAIR_LINKS]; /* distinct */
};

/* Scratch of sf_fair_rates, 8-byte aligned, of any content. */
size_t sf_fair_scratch_bytes(uint32_t flows_n, uint32_t links_n);
/* Enough scratch for 16 flows over 64 links, for callers that keep it on the stack. */
#define SF_FAIR_SMALL_FLOWS 16
#define SF_FAIR_SMALL_LINKS 64
#define SF_FAIR_SMALL_SCRATCH ((SF_FAIR_SMALL_LINKS * 24) + (SF_FAIR_SMALL_FLOWS * 8))

/* rate[f] of every flow, given the capacity of every link in bytes per second. A flow over a link of fewer bytes per
 * second than it has flows may get 0. Small components are scanned; large ones use a heap, O((flows + links) log). */
void sf_fair_rates(const struct sf_fair_flow *flows, uint32_t flows_n, const uint64_t *capacity_bytes_per_s,
                   uint32_t links_n, void *scratch, uint64_t *rate_bytes_per_s);

#endif
