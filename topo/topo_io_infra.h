/* InfraGraph: devices made of components, instances of devices, and edges between slices of both. Read into plain
 * arrays of nodes and edges; shape.c then says which cluster that is. */
#ifndef SF_TOPO_TOPO_IO_INFRA_H
#define SF_TOPO_TOPO_IO_INFRA_H

#include "core/doc.h"
#include "topo/topo_io_import.h"

#define SFI_INFRA_MAX_NODES ((uint64_t)1 << 20) /* of a device; instances of a cluster */
#define SFI_INFRA_MAX_EDGES ((uint64_t)1 << 22) /* expanded, all together; ends four times as many */

enum sfi_infra_choice {
    SFI_INFRA_CUSTOM,
    SFI_INFRA_DEVICE,
    SFI_INFRA_CPU,
    SFI_INFRA_XPU,
    SFI_INFRA_NIC,
    SFI_INFRA_MEMORY,
    SFI_INFRA_PORT,
    SFI_INFRA_SWITCH
};

struct sfi_infra_link {
    const struct sf_node *at;
    const char *name, *about; /* about: "" when absent */
    uint64_t bytes_per_s;     /* 0: not said */
    double latency_ns;        /* 0: not said */
};

struct sfi_infra_component {
    const struct sf_node *at;
    const char *name, *about, *type; /* type: of a custom one, else "" */
    enum sfi_infra_choice choice;
    const struct sfi_infra_device *device; /* of choice DEVICE */
    uint64_t count, first;                 /* first: its first node in the device */
};

struct sfi_infra_edge {
    uint32_t a, b; /* nodes of the device */
    const struct sfi_infra_link *link;
};

struct sfi_infra_device {
    const struct sf_node *at;
    const char *name, *about;
    struct sfi_infra_component *components;
    struct sfi_infra_link *links;
    size_t components_n, links_n;
    uint64_t nodes_n;
    int state; /* 0 unseen, 1 being resolved, 2 resolved */
    struct sfi_infra_edge *edges;
    size_t edges_n, edges_capacity;
};

struct sfi_infra_instance {
    const struct sf_node *at;
    const char *name;
    const struct sfi_infra_device *device;
    uint64_t count, first; /* first: its first number among all instances */
};

/* One end of an edge between instances. */
struct sfi_infra_end {
    uint32_t instance; /* number among all */
    uint32_t node;     /* of its device */
};
struct sfi_infra_cable {
    struct sfi_infra_end a, b;
    const struct sf_node *at;
    const struct sfi_infra_link *link;
};

struct sfi_infra {
    const struct sf_node *root;
    const char *name;
    struct sf_arena *arena;
    struct sfi_infra_device *devices;
    struct sfi_infra_link *links;
    struct sfi_infra_instance *instances;
    size_t devices_n, links_n, instances_n;
    uint64_t instances_all; /* with their counts */
    struct sfi_infra_cable *cables;
    size_t cables_n, cables_capacity;
    uint64_t edges_all, ends_all; /* expanded so far */
};

/* Everything inside lives in the arena and the document. */
int sfi_infra_parse(const struct sf_doc *doc, struct sf_arena *arena, struct sfi_infra *out, struct sf_err *err);
const struct sfi_infra_instance *sfi_infra_instance_of(const struct sfi_infra *g, uint32_t number);
/* What a node of a device is. A node of a device inside a device is what it is there. */
const struct sfi_infra_component *sfi_infra_component_of(const struct sfi_infra_device *d, uint64_t node);

int sfi_infra_shape(const struct sfi_infra *g, const struct sf_topo_wishes *wishes, struct sf_topo_found *out,
                    struct sf_err *err);

/* "... catalog device gb300 ..." -> "gb300"; false when the text names none. */
bool sfi_infra_catalog_name(const char *about, const char *what, char *out, size_t size);

#endif
