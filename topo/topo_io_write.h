/* What the writers share. */
#ifndef SF_TOPO_TOPO_IO_WRITE_H
#define SF_TOPO_TOPO_IO_WRITE_H

#include "topo/topo_io_facts.h"

struct sfi_known_family;

/* One tray as a host sees it. */
struct sfi_io_node_view {
    const struct sfi_io_facts *facts;
    const struct sfi_known_family *family; /* NULL: nothing is known about the device */
    uint64_t first_gpu;                    /* across the cluster */
    uint32_t cpus;                         /* 1 or more */
    bool nvlink;                           /* the scale-up link is NVLink */
    bool c2c;                              /* GPUs hang at their CPUs by NVLink */
};

/* Names of PCI devices. A cluster has none; these are made up the same way every time. */
enum sfi_io_pci { SFI_IO_BRIDGE, SFI_IO_GPU, SFI_IO_NIC, SFI_IO_CHIP };
#define SFI_IO_BUS 24
const char *sfi_io_bus(enum sfi_io_pci kind, uint32_t index, char out[SFI_IO_BUS]);
uint32_t sfi_io_bus_domain(uint32_t index);
uint32_t sfi_io_bus_number(enum sfi_io_pci kind, uint32_t index);

uint32_t sfi_io_cpu_of(const struct sfi_io_node_view *v, uint32_t slot);

int sfi_nccl_write(const struct sfi_io_node_view *v, struct sf_buf *out, struct sf_err *err);
int sfi_hwloc_write(const struct sfi_io_node_view *v, struct sf_buf *out, struct sf_err *err);
int sfi_infra_write(const struct sf_topo *t, struct sf_buf *out, struct sf_err *err);
int sfi_dot_write(const struct sf_topo *t, int64_t pod, struct sf_buf *out, struct sf_err *err);

#endif
