/* NCCL reads what is written here with its own small parser: no XML prologue, one space between attributes, no text. */
#include <inttypes.h>
#include <string.h>

#include "topo/topo_io_known.h"
#include "topo/topo_io_write.h"

#define NCCL_MAX_GPUS 64 /* of a node; NCCL keeps fixed tables */

/* NCCL prints this for NVLinks whose other end the machine does not show. */
#define HIDDEN_CHIP "fffffff:ffff:ff"

/* Of a slot: NICs of more than 64 GB/s are on PCI Express 6, and so is the switch that they share with a GPU. */
static const char *pcie_speed(const struct sfi_io_facts *f, enum sfi_io_pci kind) {
    if (kind != SFI_IO_GPU && f->nic != NULL && f->nic->peak_bytes_per_s > UINT64_C(64000000000)) {
        return "64.0 GT/s PCIe";
    }
    if (f->cpu == NULL) {
        return "";
    }
    return strcmp(f->cpu->name, "pcie4-x16") == 0 ? "16.0 GT/s PCIe" : "32.0 GT/s PCIe";
}

static void print_pci(struct sf_buf *out, int indent, const struct sfi_io_facts *f, enum sfi_io_pci kind, uint32_t slot,
                      const char *class, uint32_t vendor, uint32_t device) {
    char bus[SFI_IO_BUS];
    const char *speed = pcie_speed(f, kind);
    sf_buf_printf(out,
                  "%*s<pci busid=\"%s\" class=\"%s\" vendor=\"0x%04x\" device=\"0x%04x\" subsystem_vendor=\"0x0000\" "
                  "subsystem_device=\"0x0000\" link_speed=\"%s\" link_width=\"%d\">\n",
                  indent, "", sfi_io_bus(kind, slot, bus), class, vendor, device, speed, speed[0] != '\0' ? 16 : 0);
}

static void print_nvlinks(const struct sfi_io_node_view *v, uint32_t slot, struct sf_buf *out) {
    const struct sfi_io_facts *f = v->facts;
    char bus[SFI_IO_BUS];
    for (uint32_t g = 0; f->nvswitches == 0 && v->nvlink && g < f->gpus_per_tray; g++) {
        uint32_t peers = f->gpus_per_tray - 1, position = g < slot ? g : g - 1;
        uint32_t links = g == slot ? 0 : f->lanes / peers + (position < f->lanes % peers);
        if (links > 0) {
            sf_buf_printf(out, "          <nvlink target=\"%s\" count=\"%u\" tclass=\"0x030200\"/>\n",
                          sfi_io_bus(SFI_IO_GPU, g, bus), links);
        }
    }
    if (f->trays > 1 && f->nvswitches > 0) {
        sf_buf_printf(out, "          <nvlink target=\"" HIDDEN_CHIP "\" count=\"%u\" tclass=\"0x068000\"/>\n",
                      f->lanes);
        return;
    }
    for (uint32_t chip = 0; chip < f->nvswitches; chip++) {
        sf_buf_printf(out, "          <nvlink target=\"%s\" count=\"%u\" tclass=\"0x068000\"/>\n",
                      sfi_io_bus(SFI_IO_CHIP, chip, bus), sfi_io_chip_lanes(f, chip));
    }
}

static void print_gpu(const struct sfi_io_node_view *v, uint32_t slot, struct sf_buf *out) {
    const struct sfi_io_facts *f = v->facts;
    print_pci(out, 6, f, SFI_IO_GPU, slot, "0x030200", SFI_PCI_NVIDIA, v->family->pci_device);
    sf_buf_printf(out, "        <gpu dev=\"%u\" sm=\"%u\" rank=\"%u\" gdr=\"1\">\n", slot, v->family->sm, slot);
    print_nvlinks(v, slot, out);
    if (v->c2c) {
        sf_buf_printf(out, "          <c2c bw=\"%" PRIu64 "\" count=\"1\"/>\n", f->cpu->peak_bytes_per_s / 1000000);
    }
    sf_buf_printf(out, "        </gpu>\n      </pci>\n");
}

/* Every plane of a NIC is a port of its own. */
static void print_nic(const struct sfi_io_node_view *v, uint32_t slot, struct sf_buf *out) {
    const struct sf_link_class *nic = v->facts->nic;
    uint32_t planes = v->facts->planes;
    if (nic == NULL) {
        return;
    }
    print_pci(out, 6, v->facts, SFI_IO_NIC, slot, sfi_known_nic_ethernet(nic->name) ? "0x020000" : "0x020700",
              SFI_PCI_MELLANOX, sfi_known_nic_device(nic->name));
    sf_buf_printf(out, "        <nic>\n");
    for (uint32_t plane = 0; plane < planes; plane++) {
        uint32_t dev = slot * planes + plane;
        sf_buf_printf(out,
                      "          <net name=\"mlx5_%u\" dev=\"%u\" speed=\"%" PRIu64
                      "\" port=\"%u\" latency=\"0.000000\" guid=\"0x%016" PRIx64 "\" maxconn=\"131072\" gdr=\"1\"/>\n",
                      dev, dev, nic->peak_bytes_per_s / planes / 125000, plane + 1, v->first_gpu + slot + 1);
    }
    sf_buf_printf(out, "        </nic>\n      </pci>\n");
}

/* A GPU and its NIC behind one PCI Express switch, as HGX boards and trays have them. */
static void print_cpu(const struct sfi_io_node_view *v, uint32_t cpu, struct sf_buf *out) {
    const struct sfi_io_facts *f = v->facts;
    sf_buf_printf(out,
                  v->c2c ? "  <cpu numaid=\"%u\" arch=\"arm64\">\n"
                         : "  <cpu numaid=\"%u\" arch=\"x86_64\" vendor=\"GenuineIntel\" familyid=\"6\" "
                           "modelid=\"143\">\n",
                  cpu);
    for (uint32_t slot = 0; slot < f->gpus_per_tray; slot++) {
        if (sfi_io_cpu_of(v, slot) != cpu) {
            continue;
        }
        print_pci(out, 4, f, SFI_IO_BRIDGE, slot, "0x060400", 0, 0);
        print_gpu(v, slot, out);
        print_nic(v, slot, out);
        sf_buf_printf(out, "    </pci>\n");
    }
    sf_buf_printf(out, "  </cpu>\n");
}

int sfi_nccl_write(const struct sfi_io_node_view *v, struct sf_buf *out, struct sf_err *err) {
    const struct sfi_io_facts *f = v->facts;
    if (v->family == NULL) {
        return sf_fail(err, SF_E_INPUT, "NCCL asks for the compute capability of %s, and it is not known here",
                       f->device);
    }
    if (f->gpus_per_tray > NCCL_MAX_GPUS) {
        return sf_fail(err, SF_E_INPUT, "expected a node of at most %d GPUs for NCCL, found trays of %u", NCCL_MAX_GPUS,
                       f->gpus_per_tray);
    }
    sf_buf_printf(out, "<system version=\"1\">\n");
    for (uint32_t cpu = 0; cpu < v->cpus; cpu++) {
        print_cpu(v, cpu, out);
    }
    sf_buf_printf(out, "</system>\n");
    return 0;
}
