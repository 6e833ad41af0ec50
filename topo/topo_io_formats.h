/* Clusters in other people's formats: NCCL's topology XML, hwloc's XML, InfraGraph, Graphviz. docs/topology-formats.md
 * says what each of them can hold.
 *
 * Import writes a cluster file and proves it: the text is loaded, and its counts must be those of the file read. What a
 * format cannot say (which catalog entry a GPU is) is recognised by its numbers or asked for, never guessed silently.
 */
#ifndef SF_TOPO_TOPO_IO_FORMATS_H
#define SF_TOPO_TOPO_IO_FORMATS_H

#include "topo/topo.h"

/* X(NAME, "name", can be imported) */
#define SF_TOPO_FORMATS(X)                                                                                             \
    X(NCCL, "nccl", true)                                                                                              \
    X(HWLOC, "hwloc", true)                                                                                            \
    X(INFRAGRAPH, "infragraph", true)                                                                                  \
    X(DOT, "dot", false)

enum sf_topo_format {
#define X(NAME, name, reads) SF_TOPO_FORMAT_##NAME,
    SF_TOPO_FORMATS(X)
#undef X
        SF_TOPO_FORMATS_N
};
/* NULL-terminated; the index is the format. */
extern const char *const sf_topo_format_names[SF_TOPO_FORMATS_N + 1];

struct sf_topo_export {
    uint32_t tray; /* NCCL, hwloc: the node to write, a tray, numbered across the cluster */
    int64_t pod;   /* Graphviz: this pod alone, from 0; -1: the cluster, collapsed to counts when it is large */
};
/* Appends to `out`. SF_E_INPUT when the cluster has no such tray or pod. */
int sf_topo_export(const struct sf_topo *t, enum sf_topo_format format, const struct sf_topo_export *what,
                   struct sf_buf *out, struct sf_err *err);

/* What the user says about a file; each may be NULL: then it is recognised, or the import says what is missing. Names
 * of catalog files. */
struct sf_topo_wishes {
    const char *device, *link, *nic, *fabric_switch;
    const char *name; /* of the cluster; default: of the file */
    const char *path; /* where the cluster file will be; names of files in it start there */
};

/* Domains of one kind, one behind the other. */
struct sf_topo_group {
    char kind[32], device[256], link[256], cpu_link[256], nic[256]; /* catalog names; "" where absent */
    uint32_t domains, trays, gpus_per_tray, cpus_per_tray, nvswitches, links_per_gpu;
    const char *starts; /* "group", "pod", or NULL: goes on where the one before ended */
};
#define SF_TOPO_GROUPS_MAX 16

/* What was found in a file. */
struct sf_topo_found {
    char name[64], kind[32];
    char device[256], link[256], cpu_link[256], nic[256], fabric_switch[256]; /* catalog names; "" where absent */
    uint32_t domains, trays, gpus_per_tray, cpus_per_tray, nvswitches, links_per_gpu;
    uint32_t nics;                 /* of a domain */
    uint64_t nic_bytes_per_s;      /* one NIC, one direction; 0: not said */
    uint64_t pcie_bytes_per_s;     /* of a GPU's way to its CPU; 0: not said */
    uint32_t tiers, rails, planes; /* of the fabric; 0: the file has none */
    uint32_t leaf_down, leaf_up;   /* ports of a leaf */
    double cable_m[3];
    uint64_t leaves, spines, cores, links_leaf_spine, links_spine_core;
    /* Where domains are of several kinds: those above are the first's, but `domains`, which counts all. Else none. */
    struct sf_topo_group groups[SF_TOPO_GROUPS_MAX];
    uint32_t groups_n;
    char notes[2048]; /* lines for people: what was assumed and what the cluster file cannot hold */
};

/* Reads the file `path`, appends a cluster file to `out`. `found` may be NULL. */
int sf_topo_import(const struct sf_io *io, const char *path, const char *catalog_dir, enum sf_topo_format format,
                   const struct sf_topo_wishes *wishes, struct sf_buf *out, struct sf_topo_found *found,
                   struct sf_err *err);

#endif
