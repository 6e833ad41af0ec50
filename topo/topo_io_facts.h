/* What the writers need to know of a cluster: one stock of its domains and the fabric. With topo_io_facts.c the only
 * place that looks inside a topology. */
#ifndef SF_TOPO_TOPO_IO_FACTS_H
#define SF_TOPO_TOPO_IO_FACTS_H

#include "topo/topo_io_formats.h"
#include "topo/topo_state.h"

struct sfi_io_facts {
    const struct sf_topo *t;
    const char *name, *kind, *device;
    const struct sf_link_class *up, *cpu, *nic; /* cpu, nic: NULL when absent */
    uint32_t first_domain, domains;             /* of this stock */
    uint32_t trays, gpus_per_tray, cpus_per_tray, nvswitches, lanes;
    const struct sf_switch_class *fabric_switch; /* NULL without a fabric */
    uint32_t switch_cables;                      /* that fit one of them */
    uint32_t planes;
    double cable_ns[3];
};
void sfi_io_facts(const struct sf_topo *t, uint32_t stock, struct sfi_io_facts *out);

/* NVLinks of a GPU to switch chip `chip` of its domain. */
uint32_t sfi_io_chip_lanes(const struct sfi_io_facts *f, uint32_t chip);

#endif
