/* This machine: hwloc for cores, caches and memory, libnuma for NUMA nodes. Uses only what hwloc 2.x and 3.x share. */
#include <hwloc.h>
#include <numa.h>
#include <stdio.h>
#include <string.h>

#include "core/arena.h"
#include "topo/topo_state.h"

/* Conservative until `staticfire-run --measure` has run: any core of the last ten years does better. */
#define CORE_FLOPS "50GFLOP/s"
#define RANK_BYTES_PER_S "8GB/s"
/* Share of the memory per core: up to so many ranks may sit on a core, none of them may be promised too much. */
#define RANKS_PER_CORE 4

static uint32_t count(hwloc_topology_t topology, hwloc_obj_type_t type) {
    int n = hwloc_get_nbobjs_by_type(topology, type);
    return n > 0 ? (uint32_t)n : 1;
}

static uint64_t cache_bytes(hwloc_topology_t topology, hwloc_obj_type_t type) {
    hwloc_obj_t cache = hwloc_get_obj_by_type(topology, type, 0);
    return cache != NULL ? cache->attr->cache.size : 0;
}

static void cpu_model(hwloc_topology_t topology, char *out, size_t size) {
    hwloc_obj_t package = hwloc_get_obj_by_type(topology, HWLOC_OBJ_PACKAGE, 0);
    const char *model = package != NULL ? hwloc_obj_get_info_by_name(package, "CPUModel") : NULL;
    snprintf(out, size, "%s", model != NULL ? model : "unknown CPU");
}

static void read_topology(hwloc_topology_t topology, struct sf_probe *out) {
    *out = (struct sf_probe){
        .cores = count(topology, HWLOC_OBJ_CORE),
        .threads = count(topology, HWLOC_OBJ_PU),
        .packages = count(topology, HWLOC_OBJ_PACKAGE),
        .numa_nodes = 1,
        .memory_bytes = hwloc_get_root_obj(topology)->total_memory,
        .l2_bytes = cache_bytes(topology, HWLOC_OBJ_L2CACHE),
        .l3_bytes = cache_bytes(topology, HWLOC_OBJ_L3CACHE),
    };
    cpu_model(topology, out->cpu_model, sizeof out->cpu_model);
    if (numa_available() >= 0) {
        int nodes = numa_num_task_nodes();
        out->numa_nodes = nodes > 0 ? (uint32_t)nodes : 1;
    }
}

int sf_probe_node(struct sf_probe *out, struct sf_err *err) {
    hwloc_topology_t topology;
    if (hwloc_topology_init(&topology) != 0) {
        return sf_fail_memory(err, "the description of this machine");
    }
    int rc = 0;
    if (hwloc_topology_load(topology) != 0) {
        rc = sf_fail(err, SF_E_IO, "hwloc cannot read this machine's topology");
    } else {
        read_topology(topology, out);
    }
    hwloc_topology_destroy(topology);
    if (rc == 0 && out->memory_bytes == 0) {
        rc = sf_fail(err, SF_E_IO, "hwloc found no memory on this machine");
    }
    return rc;
}

int sf_probe_print_cluster(const struct sf_probe *p, uint32_t ranks, struct sf_buf *out) {
    if (ranks == 0 || ranks > SFI_MAX_SEATS) {
        return SF_E_USAGE;
    }
    sf_buf_printf(out,
                  "# Written by a probe of this machine: %u cores, %u threads, %u NUMA nodes.\n"
                  "name: host-%u\n"
                  "device: " SF_PROBE_DEVICE_FILE "\n"
                  "domains: 1\n"
                  "domain: { kind: host, trays: 1, gpus_per_tray: %u, cpus_per_tray: %u, nvswitches: 0, link: shm, "
                  "links_per_gpu: 1 }\n",
                  p->cores, p->threads, p->numa_nodes, ranks, ranks, p->packages < 1024 ? p->packages : 1024);
    return out->failed ? SF_E_INTERNAL : 0;
}

/* Letters, digits and a few marks, so that no CPU's name can break out of the quotes. */
static void print_text(struct sf_buf *out, const char *text) {
    for (const char *c = text; *c != '\0'; c++) {
        bool plain = *c >= ' ' && *c <= '~' && *c != '"' && *c != '\\';
        sf_buf_write(out, plain ? c : "?", 1);
    }
}

static void print_number(struct sf_buf *out, const char *key, const char *value, const char *source) {
    sf_buf_printf(out, "%s: { value: %s, source: \"%s\", grade: extrapolated }\n", key, value, source);
}

int sf_probe_print_device(const struct sf_probe *p, struct sf_buf *out) {
    static const char assumed[] = "conservative value until measured";
    uint64_t share = p->memory_bytes / (p->cores > 0 ? p->cores : 1) / RANKS_PER_CORE;
    char memory[32];
    snprintf(memory, sizeof memory, "%lluB", (unsigned long long)(share > 0 ? share : 1));
    sf_buf_printf(out, "# One core of: ");
    print_text(out, p->cpu_model);
    sf_buf_printf(out, "\nname: host-core\n");
    print_number(out, "memory", memory, "hwloc probe: this machine's memory / cores / 4");
    print_number(out, "memory_rate", RANK_BYTES_PER_S, assumed);
    print_number(out, "memory_efficiency", "0.8", assumed);
    sf_buf_printf(out, "peak:\n");
    print_number(out, "  f32", CORE_FLOPS, assumed);
    print_number(out, "  bf16", CORE_FLOPS, assumed);
    sf_buf_printf(out, "gemm_efficiency:\n");
    print_number(out, "  f32", "0.8", assumed);
    print_number(out, "  bf16", "0.5", assumed);
    print_number(out, "attention_forward", "0.3", assumed);
    print_number(out, "attention_backward", "0.3", assumed);
    print_number(out, "launch", "200ns", assumed);
    return out->failed ? SF_E_INTERNAL : 0;
}
