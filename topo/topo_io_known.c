/* Product numbers: NVIDIA/open-gpu-kernel-modules README, table of compatible GPUs; the PCI ID repository for NICs. */
#include "topo/topo_io_known.h"

#include <stddef.h>
#include <string.h>

const struct sfi_known_gpu *sfi_known_gpu(uint32_t vendor, uint32_t device) {
    static const struct sfi_known_gpu known[] = {
        {0x20b0, "A100-SXM4-40GB", NULL},   {0x20b2, "A100-SXM4-80GB", "a100"}, {0x20b3, "A100-SXM-64GB", NULL},
        {0x2330, "H100 80GB HBM3", "h100"}, {0x2335, "H200", "h200"},           {0x2901, "B200", "b200"},
        {0x2909, "B200", "b200"},           {0x2941, "GB200", "gb200"},         {0x3182, "B300 SXM6 AC", "b300"},
        {0x31c2, "GB300", "gb300"},         {0x31c3, "GB300", "gb300"},
    };
    for (size_t i = 0; vendor == SFI_PCI_NVIDIA && i < sizeof known / sizeof *known; i++) {
        if (known[i].device == device) {
            return &known[i];
        }
    }
    return NULL;
}

static const struct sfi_known_family families[] = {
    {"a100", "nvlink3", "pcie4-x16", 80, 0x20b2, 12, 6},     {"h100", "nvlink4", "pcie5-x16", 90, 0x2330, 18, 4},
    {"h200", "nvlink4", "pcie5-x16", 90, 0x2335, 18, 4},     {"b200", "nvlink5", "pcie5-x16", 100, 0x2901, 18, 2},
    {"b300", "nvlink5", "pcie5-x16", 103, 0x3182, 18, 2},    {"gb200", "nvlink5", "nvlink-c2c", 100, 0x2941, 18, 18},
    {"gb300", "nvlink5", "nvlink-c2c", 103, 0x31c2, 18, 18},
};

const struct sfi_known_family *sfi_known_family(const char *device) {
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        if (strcmp(families[i].device, device) == 0) {
            return &families[i];
        }
    }
    return NULL;
}

const char *sfi_known_link_of_sm(uint32_t sm) {
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        if (families[i].sm == sm) {
            return families[i].link;
        }
    }
    return NULL;
}

static const struct {
    uint32_t device;
    uint64_t bytes_per_s;
    bool ethernet;
    const char *name;
} nics[] = {
    {0x101b, UINT64_C(25000000000), false, "hdr-200g"},       /* ConnectX-6 */
    {0x1021, UINT64_C(50000000000), false, "connectx7-400g"}, /* ConnectX-7 */
    {0x1021, UINT64_C(50000000000), true, "connectx7-400g-roce"},
    {0x1023, UINT64_C(100000000000), false, "connectx8-800g"}, /* ConnectX-8 */
    {0x1023, UINT64_C(100000000000), true, "connectx8-800g-roce"},
};

const char *sfi_known_nic(uint32_t vendor, uint32_t device, bool ethernet) {
    for (size_t i = 0; vendor == SFI_PCI_MELLANOX && i < sizeof nics / sizeof *nics; i++) {
        if (nics[i].device == device && nics[i].ethernet == ethernet) {
            return nics[i].name;
        }
    }
    return NULL;
}

const char *sfi_known_nic_of_rate(uint64_t bytes_per_s, bool ethernet) {
    for (size_t i = 0; i < sizeof nics / sizeof *nics; i++) {
        if (nics[i].bytes_per_s == bytes_per_s && nics[i].ethernet == ethernet) {
            return nics[i].name;
        }
    }
    return NULL;
}

bool sfi_known_nic_ethernet(const char *nic) {
    for (size_t i = 0; i < sizeof nics / sizeof *nics; i++) {
        if (strcmp(nics[i].name, nic) == 0) {
            return nics[i].ethernet;
        }
    }
    return false;
}

uint32_t sfi_known_nic_device(const char *nic) {
    for (size_t i = 0; i < sizeof nics / sizeof *nics; i++) {
        if (strcmp(nics[i].name, nic) == 0) {
            return nics[i].device;
        }
    }
    return 0;
}

uint64_t sfi_known_nic_rate(const char *nic) {
    for (size_t i = 0; i < sizeof nics / sizeof *nics; i++) {
        if (strcmp(nics[i].name, nic) == 0) {
            return nics[i].bytes_per_s;
        }
    }
    return 0;
}

/* Files give the raw rate or the one after coding (128b/130b); both are within a tenth of the catalog's. */
const char *sfi_known_pcie(uint64_t bytes_per_s) {
    static const struct {
        uint64_t bytes_per_s;
        const char *name;
    } known[] = {{UINT64_C(32000000000), "pcie4-x16"}, {UINT64_C(64000000000), "pcie5-x16"}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint64_t full = known[i].bytes_per_s;
        if (bytes_per_s <= full && bytes_per_s >= full - full / 10) {
            return known[i].name;
        }
    }
    return NULL;
}

const char *sfi_known_switch(uint32_t ports, uint64_t bytes_per_s) {
    static const struct {
        uint32_t ports;
        uint64_t bytes_per_s;
        const char *name;
    } known[] = {{40, UINT64_C(25000000000), "quantum-qm8790"},
                 {64, UINT64_C(50000000000), "quantum2-qm9700"},
                 {144, UINT64_C(100000000000), "quantum-x800-q3400"}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (known[i].ports == ports && known[i].bytes_per_s == bytes_per_s) {
            return known[i].name;
        }
    }
    return NULL;
}
