/* Which links inside the fabric can be contended, and who uses them.
 *
 * A link takes part in the simulation only when the flows that could be on it at once ask for more than it carries: the
 * rate caps of every way and lane that is routed over it, each rank's no more than its NIC. Links that pass cannot hold
 * anybody back, whatever the order of events. Where paths are chosen adaptively and nothing is oversubscribed, dead or
 * degraded, one look at the topology certifies all of them. */
#ifndef SF_SIM_CONTEND_H
#define SF_SIM_CONTEND_H

#include "sim/engine.h"

#define SFI_FLOW_LINKS 6 /* contended ones of one route: up and down past leaf and spine, NICs of others */

struct sfi_contend {
    bool certified;
    uint32_t links_n;
    uint64_t *capacity; /* by contended link: bytes per second */
    uint32_t *of_dense; /* by dense number of the topology: contended link + 1, or 0; NULL when certified */
    const struct sfi_mesh *mesh;
    const struct sfi_classes *classes;
};

int sfi_contend_create(struct sfi_mesh *mesh, const struct sfi_classes *classes, const struct sfi_variants *variants,
                       struct sf_arena *arena, struct sfi_contend **out, struct sf_err *err);
/* The contended links that a rank's traffic on a way, or on lane `way` - ways_n of its class, passes; how many. */
uint32_t sfi_contend_links(const struct sfi_contend *c, uint32_t rank, uint32_t way, uint32_t out[SFI_FLOW_LINKS]);

#endif
