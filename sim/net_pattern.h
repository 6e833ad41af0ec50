/* Inside the traffic patterns: endpoints on GPUs, and paths between them. */
#ifndef SF_SIM_NET_PATTERN_H
#define SF_SIM_NET_PATTERN_H

#include "sim/net.h"

struct sfi_net_places; /* endpoints, and the links and paths found so far */

/* Fills the job's defaults. */
int sfi_net_places_create(struct sf_net *n, const struct sf_topo *t, struct sf_net_job *job,
                          struct sfi_net_places **out, struct sf_err *err);
void sfi_net_places_free(struct sfi_net_places *p); /* NULL is legal */
/* The path between two endpoints; made on first use. */
int sfi_net_places_path(struct sfi_net_places *p, uint32_t src, uint32_t dst, uint32_t *path, struct sf_err *err);
uint32_t sfi_net_places_rail(const struct sfi_net_places *p, uint32_t endpoint);

#endif
