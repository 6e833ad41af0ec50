/* Cluster files from memory, catalog files from the source tree. */
#ifndef SF_TESTS_UNIT_TEST_TOPO_FIXTURE_H
#define SF_TESTS_UNIT_TEST_TOPO_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/arena.h"
#include "topo/topo_state.h"

struct memory_file {
    const char *path, *text;
};
struct memory_io { /* files in memory first, then the real ones */
    const struct memory_file *files;
    size_t files_n;
};

static inline int memory_read_all(void *self, const char *path, size_t max_bytes, char **data, size_t *bytes,
                                  struct sf_err *err) {
    const struct memory_io *m = self;
    for (size_t i = 0; i < m->files_n; i++) {
        if (strcmp(path, m->files[i].path) == 0) {
            *bytes = strlen(m->files[i].text);
            *data = sf_malloc(*bytes + 1);
            if (*data == NULL) {
                return sf_fail_memory(err, "a file");
            }
            memcpy(*data, m->files[i].text, *bytes + 1);
            return 0;
        }
    }
    return sf_io_posix.read_all(sf_io_posix.self, path, max_bytes, data, bytes, err);
}

static inline int load_files(const struct memory_file *files, size_t n, struct sf_topo **out, struct sf_err *err) {
    struct memory_io m = {files, n};
    const struct sf_io io = {&m, memory_read_all, NULL};
    *out = NULL;
    return sf_topo_load(&io, files[0].path, SF_CATALOG_DIR, out, err);
}

static inline int load_text(const char *text, struct sf_topo **out, struct sf_err *err) {
    const struct memory_file file = {"dir/cluster.yaml", text};
    return load_files(&file, 1, out, err);
}

static inline struct sf_topo *must_load_text(const char *text) {
    struct sf_err err = {0};
    struct sf_topo *t = NULL;
    if (load_text(text, &t, &err) != 0) {
        fail_msg("%s:%u:%u: %s\n%s", err.file, err.line, err.column, err.msg, text);
    }
    return t;
}

static inline struct sf_topo *must_load_cluster(const char *name) {
    char path[512];
    struct sf_err err = {0};
    struct sf_topo *t = NULL;
    snprintf(path, sizeof path, "%s/scenarios/clusters/%s.yaml", SF_SOURCE_DIR, name);
    if (sf_topo_load(&sf_io_posix, path, SF_CATALOG_DIR, &t, &err) != 0) {
        fail_msg("%s:%u:%u: %s", err.file, err.line, err.column, err.msg);
    }
    return t;
}

/* NVL72-like racks: the fabric's numbers as given. */
struct shape {
    uint32_t domains, trays, gpus_per_tray, rails, leaf_down, tiers;
    double oversubscription;
    const char *fabric_switch;
};

static inline void shape_text(const struct shape *s, char *buf, size_t size) {
    char over[64] = "";
    if (s->tiers > 1) {
        snprintf(over, sizeof over, "  oversubscription: %.9g\n", s->oversubscription);
    }
    snprintf(buf, size,
             "name: shape\ndevice: gb300\ndomains: %u\n"
             "domain: {kind: rack, trays: %u, gpus_per_tray: %u, cpus_per_tray: 2, nvswitches: 18, link: nvlink5, "
             "links_per_gpu: 18, cpu_link: nvlink-c2c}\n"
             "nic: connectx7-400g\nrails: %u\nfabric:\n  switch: %s\n  leaf_down: %u\n  tiers: %u\n%s"
             "  cables: {nic_leaf: 3m%s%s}\n",
             s->domains, s->trays, s->gpus_per_tray, s->rails, s->fabric_switch, s->leaf_down, s->tiers, over,
             s->tiers > 1 ? ", leaf_spine: 20m" : "", s->tiers > 2 ? ", spine_core: 60m" : "");
}

static inline struct sf_topo *must_load_shape(const struct shape *s) {
    char text[1024];
    shape_text(s, text, sizeof text);
    return must_load_text(text);
}

static inline void must_check(const struct sf_topo *t) {
    struct sf_err err = {0};
    if (sf_topo_check(t, &err) != 0) {
        fail_msg("%s", err.msg);
    }
}

#endif
