/* Facts about devices that files name by number. */
#ifndef SF_TOPO_TOPO_IO_KNOWN_H
#define SF_TOPO_TOPO_IO_KNOWN_H

#include <stdbool.h>
#include <stdint.h>

#define SFI_PCI_NVIDIA 0x10de
#define SFI_PCI_MELLANOX 0x15b3

/* A GPU by its PCI device id. */
struct sfi_known_gpu {
    uint32_t device;
    const char *name;   /* the product */
    const char *family; /* catalog name; NULL: the catalog has none of this memory size */
};
const struct sfi_known_gpu *sfi_known_gpu(uint32_t vendor, uint32_t device); /* NULL: unknown */

/* How a device of the catalog is built into nodes. */
struct sfi_known_family {
    const char *device, *link, *cpu_link;
    uint32_t sm, pci_device, lanes, chips; /* chips: switch chips of the usual domain */
};
const struct sfi_known_family *sfi_known_family(const char *device); /* NULL: unknown */
const char *sfi_known_link_of_sm(uint32_t sm);                       /* NULL: unknown */

/* NICs: by PCI id, or by rate; NULL: unknown. */
const char *sfi_known_nic(uint32_t vendor, uint32_t device, bool ethernet);
const char *sfi_known_nic_of_rate(uint64_t bytes_per_s, bool ethernet);
bool sfi_known_nic_ethernet(const char *nic);
uint32_t sfi_known_nic_device(const char *nic); /* Mellanox device id; 0: unknown */
uint64_t sfi_known_nic_rate(const char *nic);   /* bytes per second; 0: unknown */

/* A PCI Express link of a GPU by its rate, one direction; NULL: unknown. */
const char *sfi_known_pcie(uint64_t bytes_per_s);

/* A fabric switch by ports and port rate; NULL: unknown. */
const char *sfi_known_switch(uint32_t ports, uint64_t bytes_per_s);

#endif
