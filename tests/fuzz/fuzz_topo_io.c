/* Topology files of others: whatever is accepted becomes a cluster that loads, and whose exports are accepted again. */
#include <stdio.h>
#include <string.h>

#include "core/arena.h"
#include "tests/fuzz/fuzz.h"
#include "topo/topo_io_formats.h"

static const struct {
    const char *file;
    enum sf_topo_format format;
} seeds[] = {{"nccl-dgx-a100.xml", SF_TOPO_FORMAT_NCCL},
             {"nccl-azure-ndv5.xml", SF_TOPO_FORMAT_NCCL},
             {"nccl-azure-ncv4.xml", SF_TOPO_FORMAT_NCCL},
             {"nccl-aws-p4d.xml", SF_TOPO_FORMAT_NCCL},
             {"hwloc-power8.xml", SF_TOPO_FORMAT_HWLOC},
             {"hwloc-dgx2.xml", SF_TOPO_FORMAT_HWLOC},
             {"infragraph-dgx-h100.yaml", SF_TOPO_FORMAT_INFRAGRAPH},
             {"infragraph-clos.json", SF_TOPO_FORMAT_INFRAGRAPH}};

bool fuzz_seed(size_t i, struct sf_buf *out) {
    char path[512], *data = NULL;
    size_t bytes = 0;
    struct sf_err err = {0};
    if (i >= sizeof seeds / sizeof *seeds) {
        return false;
    }
    snprintf(path, sizeof path, "%s/tests/data/topo/%s", SF_SOURCE_DIR, seeds[i].file);
    if (sf_io_posix.read_all(sf_io_posix.self, path, 1 << 20, &data, &bytes, &err) != 0) {
        fuzz_fail("%s", err.msg);
    }
    sf_buf_write(out, data, bytes);
    sf_free(data);
    return true;
}

static const struct sf_topo_wishes wishes = {
    .device = "a100", .link = "nvlink3", .nic = "hdr-200g", .fabric_switch = "quantum-qm8790", .name = "fuzz"};

static int import(const void *data, size_t bytes, enum sf_topo_format format, struct sf_buf *out, struct sf_err *err) {
    const struct fuzz_file file = {"input", data, bytes};
    struct fuzz_files files = {&file, 1};
    const struct sf_io io = fuzz_io(&files);
    return sf_topo_import(&io, "input", SF_CATALOG_DIR, format, &wishes, out, NULL, err);
}

/* NCCL keeps fixed tables and hwloc takes known GPUs only, so these may be refused. */
static void export_again(const struct sf_topo *t) {
    for (int format = 0; format < SF_TOPO_FORMATS_N; format++) {
        const struct sf_topo_export what = {0, -1};
        struct sf_buf text = {0}, cluster = {0};
        struct sf_err err = {0};
        int rc = sf_topo_export(t, (enum sf_topo_format)format, &what, &text, &err);
        fuzz_check_result(rc, &err, rc == 0);
        if (rc == 0 && format != SF_TOPO_FORMAT_DOT &&
            import(text.data, text.bytes, (enum sf_topo_format)format, &cluster, &err) != 0) {
            fuzz_fail("%s: export is refused: %u: %s", sf_topo_format_names[format], err.line, err.msg);
        }
        sf_buf_free(&text);
        sf_buf_free(&cluster);
    }
}

static void load(const struct sf_buf *cluster) {
    const struct fuzz_file file = {"cluster.yaml", cluster->data, cluster->bytes};
    struct fuzz_files files = {&file, 1};
    const struct sf_io io = fuzz_io(&files);
    struct sf_topo *t = NULL;
    struct sf_err err = {0};
    if (sf_topo_load(&io, "cluster.yaml", SF_CATALOG_DIR, &t, &err) != 0) {
        fuzz_fail("a cluster was written that does not load: %u: %s", err.line, err.msg);
    }
    if (sf_topo_gpus(t) <= 256) {
        export_again(t);
    }
    sf_topo_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    bool xml = bytes > 0 && data[0] == '<';
    for (int format = xml ? SF_TOPO_FORMAT_NCCL : SF_TOPO_FORMAT_INFRAGRAPH;
         format <= (xml ? SF_TOPO_FORMAT_HWLOC : SF_TOPO_FORMAT_INFRAGRAPH); format++) {
        struct sf_buf out = {0};
        struct sf_err err = {0};
        int rc = import(data, bytes, (enum sf_topo_format)format, &out, &err);
        fuzz_check_result(rc, &err, rc == 0);
        if (rc == 0) {
            load(&out);
        }
        sf_buf_free(&out);
    }
    return 0;
}
