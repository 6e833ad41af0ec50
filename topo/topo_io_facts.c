#include "topo/topo_io_facts.h"

void sfi_io_facts(const struct sf_topo *t, uint32_t stock, struct sfi_io_facts *out) {
    const struct sfi_stock *s = &t->stock[stock];
    *out = (struct sfi_io_facts){
        .t = t,
        .name = t->name,
        .kind = s->kind,
        .device = s->device.name,
        .up = &s->up,
        .cpu = s->cpu.name[0] != '\0' ? &s->cpu : NULL,
        .nic = s->out.name[0] != '\0' ? &s->out : NULL,
        .first_domain = s->first_domain,
        .domains = s->domains,
        .trays = s->domain.trays,
        .gpus_per_tray = s->domain.gpus_per_tray,
        .cpus_per_tray = s->domain.cpus_per_tray,
        .nvswitches = s->domain.nvswitches,
        .lanes = s->domain.lanes,
        .fabric_switch = sf_topo_switch(t),
        .switch_cables = t->fabric.radix,
        .planes = sf_topo_planes(t),
    };
    for (size_t i = 0; i < 3; i++) {
        out->cable_ns[i] = (double)t->fabric.cable_ps[i] / 1000;
    }
}

uint32_t sfi_io_chip_lanes(const struct sfi_io_facts *f, uint32_t chip) {
    return f->lanes / f->nvswitches + (chip < f->lanes % f->nvswitches);
}
